"""Archives that are gone on with commit by commit: what is there when, who may, and what a lost directory comes to."""

from __future__ import annotations

import linecache
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from object_servers import OWNER, OurServer, Seaweed, azurite, environment, moto_server
from perdure import Network, Subnet
from perdure.errors import MalformedError, PerdureError, StorageError, UnsupportedError
from perdure.kit import canister, nat64, query, stable, update
from perdure.stable import StableBTreeMap, StableCell
from perdure.storage import ArchiveTo, collect, restore_state, versions_in
from perdure.storage import archiving as archiving_module
from perdure.storage.archive import Archive
from perdure.storage.archive_log import ArchiveLog, Base, LogEntry, decode_entry, encode_entry
from perdure.storage.archiving import bring

pytestmark = pytest.mark.slow  # a subnet is opened several times in each of them

URL = "s3://bucket/shop"
KEY = bytes(range(32))
WASM = b"\0asm\1\0\0\0"


@canister(name="counter")
class Counter:
    value: StableCell[nat64] = stable(default=0)
    seen: StableBTreeMap[nat64, bytes]

    @update
    def count(self, kept: bytes) -> nat64:
        self.value.set(self.value.get() + 1)
        self.seen[self.value.get()] = kept
        return self.value.get()

    @query
    def all(self) -> list[bytes]:
        return list(self.seen.values())


def opened(path: Path, archive: str | ArchiveTo = URL, **options: Any) -> Subnet:
    return Subnet(path, archive=archive, code=[Counter], **options)


def count(subnet: Subnet, kept: bytes = b"") -> int:
    (one,) = subnet.canisters
    found: int = one.actor().count(kept)
    return found


def kept(subnet: Subnet) -> list[bytes]:
    (one,) = subnet.canisters
    found: list[bytes] = one.actor().all()
    return found


def abandon(subnet: Subnet) -> None:
    """Have it end as a crash would."""
    host: Any = subnet._host
    if host._archiver is not None:
        host._archiver._over.set()
    host.directory.abandon()


def begun(path: Path, archive: str | ArchiveTo = URL) -> Subnet:
    subnet = opened(path, archive)
    subnet.install(Counter)
    return subnet


def test_a_directory_that_is_lost_goes_on_with_all_that_was_acknowledged(bucket: OurServer, tmp_path: Path) -> None:
    subnet = begun(tmp_path / "here")
    other = subnet.install(WASM)
    for number in range(3):
        assert count_of(subnet, number) == number + 1
    subnet.create_canister()
    wanted = facts(subnet)
    abandon(subnet)
    shutil.rmtree(tmp_path / "here")
    with opened(tmp_path / "here") as again:
        assert facts(again) == wanted
        assert again.canister(other.id).module is not None
        assert count_of(again, 3) == 4
        wanted = facts(again)
    shutil.rmtree(tmp_path / "here")
    with opened(tmp_path / "there") as again:
        assert facts(again) == wanted


def goes_on(method: str, key: str) -> int | None:
    return None


def count_of(subnet: Subnet, number: int) -> int:
    found: int = subnet.canisters[0].actor().count(b"%d" % number)
    return found


def facts(subnet: Subnet) -> tuple[Any, ...]:
    host: Any = subnet._host
    return host.directory.version, host.directory.state_hash(), [str(one.id) for one in subnet.canisters]


def test_a_commit_is_an_entry_and_a_request(bucket: OurServer, tmp_path: Path) -> None:
    with begun(tmp_path / "here") as subnet:
        count(subnet)
        bucket.reset()
        for _ in range(5):
            count(subnet)
        assert (bucket.requests, bucket.counts["PUT"]) == (5, 5)
        assert bucket.received <= 5 * 6 * 4096  # a head, and the pages that changed


def test_what_is_lost_is_what_the_interval_says(bucket: OurServer, tmp_path: Path) -> None:
    with begun(tmp_path / "here", ArchiveTo(URL, interval_seconds=3600)) as subnet:
        count(subnet, b"kept")
        archiver: Any = subnet._host._archiver
        archiver.keep()
        bucket.reset()
        count(subnet, b"lost")
        assert bucket.requests == 0
        restore_state(URL, tmp_path / "restored")
        with Subnet(tmp_path / "restored", code=[Counter]) as found:
            assert kept(found) == [b"kept"]
        archiver._pending_since -= 3601  # nobody has come for so long: who waits next does not wait for that
        count(subnet, b"late")
        count(subnet, b"at the end")
    restore_state(URL, tmp_path / "closed")
    with Subnet(tmp_path / "closed", code=[Counter]) as found:
        assert kept(found) == [b"kept", b"lost", b"late", b"at the end"]


def test_an_interval_needs_nobody_who_waits(bucket: OurServer, tmp_path: Path) -> None:
    with begun(tmp_path / "here", ArchiveTo(URL, interval_seconds=0.01)) as subnet:
        count(subnet)
        archiver: Any = subnet._host._archiver
        until = time.monotonic() + 30
        while archiver._last.version < archiver._directory.version:
            assert time.monotonic() < until
            time.sleep(0.01)


# -- owners


def test_the_owner_before_acknowledges_nothing_any_more(bucket: OurServer, tmp_path: Path) -> None:
    """It is alive, and its disk is: a partition."""
    before = begun(tmp_path / "here")
    count(before, b"before")
    with opened(tmp_path / "there") as after:
        for _ in range(2):  # and not when it tries again, either
            with pytest.raises(StorageError, match="another one goes on with it by now") as caught:
                count(before, b"too late")
            assert caught.value.error_code == "archive-owner"
        count(after, b"after")
        assert kept(after) == [b"before", b"after"]
    before.close()
    with pytest.raises(StorageError, match="another owner has gone on with") as caught:
        opened(tmp_path / "here")
    assert caught.value.error_code == "archive-owner"
    with opened(tmp_path / "there") as after:
        assert kept(after) == [b"before", b"after"]


def test_the_owner_before_wakes_up_when_its_log_was_collected(
    bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name that it would take is that of an entry before the base; after a month nobody needs what was in it."""
    before = begun(tmp_path / "here")
    count(before, b"before")
    with opened(tmp_path / "there") as after:
        with monkeypatch.context() as patch:
            patch.setattr(archiving_module, "_BASE_BYTES", 0)
            count(after, b"after")
        count(after, b"more")
        bucket.clock = lambda: time.time() + 10
        assert collect(URL, keep=1, grace_seconds=0).dropped == 1
        with pytest.raises(StorageError, match="another one goes on with it by now") as caught:
            count(before, b"too late")
        assert caught.value.error_code == "archive-owner"
        assert kept(after) == [b"before", b"after", b"more"]
    abandon(before)
    with opened(tmp_path / "last") as last:
        assert kept(last) == [b"before", b"after", b"more"]


def test_an_owner_before_leaves_no_version(bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody was told of would be the newest there."""
    before = begun(tmp_path / "here")
    with opened(tmp_path / "there") as after:
        count(after, b"after")
        there = versions_in(URL)
        with monkeypatch.context() as patch:
            patch.setattr(archiving_module, "_HELD_BYTES", 0)
            for _ in range(2):
                with pytest.raises(StorageError, match="another one goes on with it by now"):
                    count(before, b"too late")
        assert versions_in(URL) == there
    abandon(before)


def test_a_damaged_answer_does_not_end_an_owner(
    bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry is there, its answer got lost, and what is read of it is not what it says: nobody else has gone on."""
    with begun(tmp_path / "here") as subnet:
        count(subnet, b"before")
        bucket.after = lambda method, key: 400
        with pytest.raises(StorageError):
            count(subnet, b"unsure")
        bucket.after = goes_on
        name = max(key for key in bucket.objects if key.startswith("shop/log/"))
        whole = bucket.objects[name].content
        assert isinstance(whole, bytes)
        bucket.put(name, whole[:-1])
        with pytest.raises(StorageError) as caught:
            count(subnet, b"unsure, too")
        assert caught.value.error_code != "archive-owner"
        bucket.put(name, whole)
        count(subnet, b"after")
        wanted = kept(subnet)
    with opened(tmp_path / "last") as last:
        assert kept(last) == wanted == [b"before", b"unsure", b"unsure, too", b"after"]


def test_who_waits_does_not_ask_the_clock(bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that stands still, or that another thread has just set, lets nobody go before the archive has it."""
    monkeypatch.setattr(time, "monotonic", lambda: 0.0)
    with begun(tmp_path / "here") as subnet:
        count(subnet, b"there")
        restore_state(URL, tmp_path / "restored")
        with Subnet(tmp_path / "restored", code=[Counter]) as found:
            assert kept(found) == [b"there"]


def test_a_directory_that_is_behind_is_set_aside(bucket: OurServer, tmp_path: Path) -> None:
    before = begun(tmp_path / "here")
    count(before, b"before")
    with opened(tmp_path / "there") as after:
        count(after, b"after")
    abandon(before)
    assert bring(tmp_path / "here", ArchiveTo(URL), set_aside=True)
    assert [one.name for one in tmp_path.glob("here.before-owner-*")] == ["here.before-owner-4"]
    with opened(tmp_path / "here") as again:
        assert kept(again) == [b"before", b"after"]


def test_its_own_that_a_disk_has_put_back_is_made_anew(bucket: OurServer, tmp_path: Path) -> None:
    with begun(tmp_path / "here") as subnet:
        count(subnet, b"before")
        for name in ("checkpoint", "log", "images", "blobs", "answers", "history", "readers", "archived.json"):
            copy = shutil.copytree if (tmp_path / "here" / name).is_dir() else shutil.copy
            (tmp_path / "copy").mkdir(exist_ok=True)
            copy(tmp_path / "here" / name, tmp_path / "copy" / name)  # type: ignore[operator]
        count(subnet, b"after")
        abandon(subnet)
    with opened(tmp_path / "copy") as again:
        assert kept(again) == [b"before", b"after"]


def test_a_directory_that_was_never_in_it_is_refused(bucket: OurServer, tmp_path: Path) -> None:
    begun(tmp_path / "here").close()
    Subnet(tmp_path / "other").close()
    with pytest.raises(StorageError, match="was never in this archive"):
        opened(tmp_path / "other")
    with pytest.raises(StorageError, match="was never in this archive"):
        bring(tmp_path / "other", ArchiveTo(URL), set_aside=True)
    with pytest.raises(UnsupportedError, match="name a path"):
        Subnet(archive=URL)


def test_of_two_who_go_on_at_once_one_does(bucket: OurServer, tmp_path: Path) -> None:
    subnet = begun(tmp_path / "here")
    count(subnet, b"before")
    abandon(subnet)
    found: list[Subnet] = []
    barrier = threading.Barrier(4)

    def go_on(number: int) -> None:
        barrier.wait()
        try:
            one = opened(tmp_path / str(number))
            count(one, b"%d" % number)
        except PerdureError:
            return
        found.append(one)

    threads = [threading.Thread(target=go_on, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    restore_state(URL, tmp_path / "restored")
    with Subnet(tmp_path / "restored", code=[Counter]) as last:
        came = kept(last)
    assert came[0] == b"before"
    # Whoever was acknowledged is there, in the order of the owners, and whoever is not, is not.
    assert sorted(came[1:]) == sorted({kept(one)[-1] for one in found})
    for one in found:
        abandon(one)


def test_a_network_is_made_of_its_archives(bucket: OurServer, tmp_path: Path) -> None:
    with Network(2, path=tmp_path / "here", archive=URL, seed=b"net") as network:
        ids = [subnet.install(Counter).id for subnet in network.subnets]
        network.add_subnet("system")
        network.canister(ids[1]).actor().count(b"one")
    with Network(path=tmp_path / "there", archive=URL, code=[Counter]) as network:
        assert network.canister(ids[1]).actor().all() == [b"one"]
        assert len(network.subnets) == 3
    shutil.rmtree(tmp_path / "there" / "1-application")  # one of its disks
    with Network(path=tmp_path / "there", archive=URL, code=[Counter]) as network:
        assert network.canister(ids[1]).actor().all() == [b"one"]
    Network(1, path=tmp_path / "other", seed=b"other").close()
    with pytest.raises(StorageError, match="another network than the directory"):
        Network(path=tmp_path / "other", archive=URL)
    name = max(key for key in bucket.objects if key.startswith("shop/topology/"))
    bucket.put(name, b"{}")
    with pytest.raises(StorageError, match="is not the topology of a network"):
        Network(path=tmp_path / "there", archive=URL)
    bucket.put(name, b"[")
    with pytest.raises(StorageError, match="cannot be read"):
        Network(path=tmp_path / "there", archive=URL)


def test_of_two_owners_of_a_network_one_adds_a_subnet(bucket: OurServer, tmp_path: Path) -> None:
    """The one before is alive, and does not know: what the other one has added is not overwritten."""
    before = Network(2, path=tmp_path / "here", archive=URL)
    with Network(path=tmp_path / "there", archive=URL) as after:
        after.add_subnet()
        for kind in ("system", "application"):  # another one, and the same
            with pytest.raises(StorageError, match="another one has begun or changed this network") as caught:
                before.add_subnet(kind)
            assert caught.value.error_code == "archive-owner"
        added = after.subnets[2].install(Counter)
        added.actor().count(b"there")
    before.close()
    with Network(path=tmp_path / "there", archive=URL, code=[Counter]) as again:
        assert again.canister(added.id).actor().all() == [b"there"]


def test_a_topology_that_came_before_its_directory(bucket: OurServer, tmp_path: Path) -> None:
    """A crash came between what is written in the archive and what is written here."""
    Network(2, path=tmp_path / "here", archive=URL).close()
    shutil.copy(tmp_path / "here" / "topology.json", tmp_path / "two")
    with Network(path=tmp_path / "here", archive=URL) as network:
        network.add_subnet()
    shutil.copy(tmp_path / "two", tmp_path / "here" / "topology.json")
    with Network(path=tmp_path / "here", archive=URL) as network:
        assert len(network.subnets) == 3


# -- cut off, damaged, full


@pytest.mark.parametrize("lost", [False, True], ids=["request", "answer"])
def test_cut_off_at_any_request(bucket: OurServer, tmp_path: Path, lost: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever request is the last that is made or answered: what was acknowledged is there, and once."""
    monkeypatch.setattr(archiving_module, "_BASE_BYTES", 40_000)  # so that versions are among them
    begun(tmp_path / "0").close()
    acknowledged: list[bytes] = []
    sent = 0
    for number in range(12):
        left = number

        def cut(method: str, key: str) -> int | None:
            nonlocal left
            left -= method == "PUT"
            return 400 if left < 0 else None

        setattr(bucket, "after" if lost else "before", cut)
        subnet = None
        try:
            subnet = opened(tmp_path / str(number))
            for _ in range(12):
                sent += 1
                count(subnet, b"%d" % sent)
                acknowledged.append(b"%d" % sent)
        except StorageError:
            pass
        bucket.before = bucket.after = goes_on
        if subnet is not None:
            abandon(subnet)
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    with opened(tmp_path / "last") as last:
        came = kept(last)
    assert len(came) == len(set(came))
    assert [one for one in came if one in set(acknowledged)] == acknowledged
    assert sent > 30


def test_a_store_that_fails_for_a_while(bucket: OurServer, tmp_path: Path) -> None:
    with begun(tmp_path / "here") as subnet:
        count(subnet, b"before")
        bucket.before = lambda method, key: 403
        with pytest.raises(StorageError) as caught:
            count(subnet, b"unsure")
        assert caught.value.committed is None
        bucket.before = goes_on
        count(subnet, b"after")
        restore_state(URL, tmp_path / "restored")
        with Subnet(tmp_path / "restored", code=[Counter]) as found:
            assert kept(found) == [b"before", b"unsure", b"after"]


def test_what_the_directory_has_and_the_archive_not_comes_with_a_version(bucket: OurServer, tmp_path: Path) -> None:
    subnet = begun(tmp_path / "here", ArchiveTo(URL, interval_seconds=3600))
    count(subnet, b"unsent")
    abandon(subnet)
    with opened(tmp_path / "here") as again:
        assert kept(again) == [b"unsent"]
        restore_state(URL, tmp_path / "restored")
    with Subnet(tmp_path / "restored", code=[Counter]) as found:
        assert kept(found) == [b"unsent"]


def test_more_than_is_held_becomes_a_version(bucket: OurServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archiving_module, "_HELD_BYTES", 30_000)
    with begun(tmp_path / "here", ArchiveTo(URL, interval_seconds=3600)) as subnet:
        archiver: Any = subnet._host._archiver
        for number in range(30):
            count(subnet, b"%d" % number)
            assert sum(len(one) for _, one in archiver._pending) <= 60_000
        assert len(versions_in(URL)) > 1
    restore_state(URL, tmp_path / "restored")
    with Subnet(tmp_path / "restored", code=[Counter]) as found:
        assert kept(found) == [b"%d" % number for number in range(30)]


def test_checkpoints_and_history_make_no_difference(bucket: OurServer, tmp_path: Path) -> None:
    with opened(tmp_path / "here", history=None) as subnet:
        subnet.install(Counter)
        for number in range(4):
            count(subnet, b"%d" % number)
            if number == 1:
                subnet.checkpoint()
        version, state_hash, _ = facts(subnet)
    restored = restore_state(URL, tmp_path / "restored")
    assert restored[1:3] == (version, state_hash)
    older = restore_state(URL, tmp_path / "older", version=version - 2)
    assert older.version == version - 2
    with Subnet(tmp_path / "older", code=[Counter]) as found:
        assert kept(found) == [b"0", b"1"]


def test_a_module_that_went_and_comes_again_is_there(
    bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version lies between, which does not have it."""
    with begun(tmp_path / "here") as subnet:
        (one,) = subnet.canisters
        other = subnet.install(WASM)
        other.uninstall()
        subnet.checkpoint()
        with monkeypatch.context() as patch:
            patch.setattr(archiving_module, "_BASE_BYTES", 0)
            one.actor().count(b"a version")
        archiver: Any = subnet._host._archiver
        assert archiver._last.number == archiver._last.base.number
        bucket.reset()
        other.install(WASM)
        one.actor().count(b"after")
    with opened(tmp_path / "there") as found:
        assert found.canister(other.id).module is not None


def test_an_exception_anywhere_in_it_loses_nothing(
    bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the midst: each line of the archiver once, and the same commits as without."""
    monkeypatch.setattr(archiving_module, "_BASE_BYTES", 60_000)
    lines = 0
    with begun(tmp_path / "here") as subnet:
        archiver: Any = subnet._host._archiver
        done = False
        while not done:
            left, lines = lines, lines + 1

            def trace(frame: Any, event: str, arg: object) -> Any:
                nonlocal left
                if frame.f_code.co_filename != archiving_module.__file__ or frame.f_code.co_name == "_take":
                    return None  # signals are off while a commit is logged
                is_lock = linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip().startswith("with ")
                if event == "line" and not is_lock:  # traced again where it is let go: see `interrupting.py`
                    left -= 1
                    if left == -1:
                        raise KeyboardInterrupt
                return trace

            version = archiver._directory.version
            sys.settrace(trace)
            try:
                count(subnet, b"%d" % lines)
            except KeyboardInterrupt:
                pass
            finally:
                sys.settrace(None)
            done = left >= 0
            archiver.keep()
            assert archiver._last.version == archiver._directory.version >= version
        wanted = kept(subnet)
        facts_ = facts(subnet)
    assert lines > 30
    with opened(tmp_path / "there") as found:
        assert kept(found) == wanted
        assert facts(found) == facts_


def test_snapshots_come_along(bucket: OurServer, tmp_path: Path) -> None:
    """Copies of memories are of files that the directory had at a checkpoint, which the archive never saw."""
    with begun(tmp_path / "here") as subnet:
        count(subnet, b"before")
        (one,) = subnet.canisters
        subnet.checkpoint()
        taken = one.take_snapshot()
        count(subnet, b"after")
        one.load_snapshot(taken)
        count(subnet, b"again")
        wanted = facts(subnet)
    with opened(tmp_path / "there") as found:
        assert facts(found) == wanted
        assert kept(found) == [b"before", b"again"]


def test_collecting_leaves_what_it_goes_on_with(bucket: OurServer, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(archiving_module, "_BASE_BYTES", 60_000)
    with begun(tmp_path / "here") as subnet:
        for number in range(30):
            count(subnet, b"%d" % number)
        log = ArchiveLog(Archive(URL))
        before, last = len(log.numbers()), log.last()[0]
        bucket.clock = lambda: time.time() + 10  # objects of this second are not newer than the store's clock
        found = collect(URL, keep=1, grace_seconds=0)
        assert found.dropped >= 1
        claims = [number for number in log.numbers() if number < last.base.number]
        assert {log.read(number)[0].records for number in claims} == {b""}
        assert [*log.numbers()][len(claims) :] == list(range(last.base.number, last.number + 1))
        assert len(log.numbers()) < before
        count(subnet, b"more")
    restore_state(URL, tmp_path / "restored")
    with Subnet(tmp_path / "restored", code=[Counter]) as again:
        assert len(kept(again)) == 31


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_the_last_of_many_entries_is_found_in_few_requests(
    bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    """Who takes a subnet over does not go through a log that nobody has pruned."""
    for name, value in bucket.google_environment().items():
        monkeypatch.setenv(name, value)
    log = ArchiveLog(Archive(f"{scheme}://bucket/shop", create=True))
    for first, last in ((1, 0), (1, 1), (1, 999), (1, 1000), (1, 1001), (1, 2000), (1, 7003), (6000, 7003)):
        for number in range(1, 8000):
            if first <= number <= last:
                bucket.put(f"shop/log/{number:020}", b"")
            else:
                bucket.objects.pop(f"shop/log/{number:020}", None)
        bucket.reset()
        assert log.newest() == last
        assert bucket.requests <= (1 if last < 1000 else 8)
    for strange in ("00000000000000006999.tmp", "zzz"):
        bucket.put(f"shop/log/{strange}", b"")
        assert log.newest() == 7003


def test_a_sealed_one(bucket: OurServer, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY)
    place = ArchiveTo(URL, key_file=str(tmp_path / "key"))
    with begun(tmp_path / "here", place) as subnet:
        count(subnet, b"a secret")
        count(subnet, b"a secret")
    stored = b"".join(one.content for one in bucket.objects.values() if isinstance(one.content, bytes))
    assert b"a secret" not in stored
    with opened(tmp_path / "there", place) as found:
        assert kept(found) == [b"a secret"] * 2
    with pytest.raises(StorageError, match="sealed with"):
        opened(tmp_path / "other")
    with pytest.raises(StorageError, match="nowhere"):
        opened(tmp_path / "other", ArchiveTo(URL, key_file=str(tmp_path / "nowhere")))


def test_damaged_and_exchanged_entries_are_noticed(bucket: OurServer, tmp_path: Path) -> None:
    with begun(tmp_path / "here") as subnet:
        for number in range(3):
            count(subnet, b"%d" % number)
    last = ArchiveLog(Archive(URL)).last()[0]
    names = [f"shop/log/{number:020}" for number in range(1, last.number + 1)]
    whole = {name: bucket.objects[name].content for name in names}
    for name in names:
        content = whole[name]
        assert isinstance(content, bytes)
        for bad in (content[:-1], content[:60] + bytes([content[60] ^ 1]) + content[61:], b""):
            bucket.put(name, bad)
            with pytest.raises(StorageError):
                restore_state(URL, tmp_path / "restored")
        bucket.put(name, content)
    middle, after = names[-3], names[-2]
    bucket.put(middle, whole[after])
    with pytest.raises(StorageError, match="not what its name says"):
        restore_state(URL, tmp_path / "restored")
    content = whole[middle]
    assert isinstance(content, bytes)
    bucket.put(middle, encode_entry(replace(decode_entry(content), owner=77)))
    with pytest.raises(StorageError, match="does not continue"):
        restore_state(URL, tmp_path / "restored")
    del bucket.objects[middle]
    with pytest.raises(StorageError, match="no such object"):
        restore_state(URL, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_entries_are_read_as_they_are_written() -> None:
    base = Base(1, bytes(32), 5, 2)
    entry = LogEntry(3, bytes(32), 1, bytes(16), base, 6, (b"module",), (("names.json", b"{}"),), b"records")
    assert decode_entry(encode_entry(entry)) == entry
    for bad in (replace(entry, base=base._replace(number=4)), replace(entry, files=(("../names", b""),))):
        with pytest.raises(MalformedError):
            decode_entry(encode_entry(bad))
    with pytest.raises(UnsupportedError, match="format 2"):
        decode_entry(b"PDAE\2\0\0\0" + encode_entry(entry)[8:])


def test_what_is_asked_for_is_checked() -> None:
    for bad in (-1, 100_000, float("nan")):
        with pytest.raises(ValueError, match="an interval"):
            ArchiveTo(URL, interval_seconds=bad)
    with pytest.raises(UnsupportedError):
        ArchiveTo("s3://user:secret@bucket/shop")


# -- on servers of others


PROGRAM = """
import sys
from pathlib import Path
from perdure import Subnet
from test_archiving import URL, Counter, count

with Subnet(sys.argv[1], archive=sys.argv[2], code=[Counter]) as subnet:
    if not subnet.canisters:
        subnet.install(Counter)
    for number in range(int(sys.argv[3]), 1_000_000):
        count(subnet, b"%d" % number)
        print(number, flush=True)
"""


def until_killed(directory: Path, url: str, first: int, lines: int) -> list[int]:
    """What a process acknowledges before it is killed, and its directory is lost."""
    command = [sys.executable, "-c", PROGRAM, str(directory), url, str(first)]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}) as process:
        assert process.stdout is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        told += process.stdout.readlines()
    shutil.rmtree(directory)
    return [int(line) for line in told if line.endswith(b"\n")]


def test_killed_and_lost_on_a_directory_of_files(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/archive"
    check_what_was_acknowledged(tmp_path, url)


def test_killed_and_lost_on_moto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server(tmp_path) as endpoint:
        for name, value in environment(endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        check_what_was_acknowledged(tmp_path, URL)


def test_killed_and_lost_on_seaweedfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weed").mkdir()
    store = Seaweed(tmp_path / "weed")
    try:
        store.start()
        for name, value in environment(store.endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        check_what_was_acknowledged(tmp_path, URL)
    finally:
        store.kill()


def test_killed_and_lost_on_googles_interface(
    bucket: OurServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What obstore asks of Google Cloud Storage, of a server of ours: no emulator has the XML interface with that."""
    for name, value in bucket.google_environment().items():
        monkeypatch.setenv(name, value)
    check_what_was_acknowledged(tmp_path, "gs://bucket/shop")
    assert all(collect("gs://bucket/shop", keep=1, grace_seconds=0)[:1])


def test_killed_and_lost_on_azurite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last run on 2026-11-30, with Azurite 3.35 from npm (374 packages, which CI does not install)."""
    program = os.environ.get("AZURITE")
    if not program:
        pytest.skip("asked for with AZURITE=node_modules/.bin/azurite-blob, of `npm install azurite`")
    with azurite(program, tmp_path) as found:
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        check_what_was_acknowledged(tmp_path, "az://bucket/shop")
        assert collect("az://bucket/shop", keep=1, grace_seconds=0).kept >= 1


def check_what_was_acknowledged(tmp_path: Path, url: str) -> None:
    acknowledged: list[int] = []
    for number in range(2):
        acknowledged += until_killed(tmp_path / f"state {number}", url, 1_000 * number, 3)
    with opened(tmp_path / "last", url) as last:
        came = [int(one) for one in kept(last)]
        partitioned = opened(tmp_path / "other", url)
        with pytest.raises(StorageError, match="another one goes on with it by now"):
            count(last, b"5000")
        assert [int(one) for one in kept(partitioned)] == came
        partitioned.close()
    assert len(came) == len(set(came))
    assert [one for one in came if one in set(acknowledged)] == acknowledged
    assert len(came) <= len(acknowledged) + 2  # each was killed in the midst of one at most
