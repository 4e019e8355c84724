"""Archives: what goes into one, what comes out, who may write, and what is poisoned, cut off or collected meanwhile."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest
from states import PAGE, A, B, commit, heap, page, read

from object_servers import OWNER, OurServer, Seaweed, environment, moto_server
from perdure.canister import PageDelta
from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.storage import (
    Answer,
    CanisterChange,
    Message,
    StateDirectory,
    archive_state,
    collect,
    restore_state,
    versions_in,
)
from perdure.storage.archive_format import (
    Entry,
    Manifest,
    Vault,
    decode_manifest,
    decode_segment,
    encode_manifest,
    encode_segment,
    read_key,
)
from perdure.storage.block_cache import BlockCache

URL = "s3://bucket/shop"
KEY = bytes(range(32))
SECOND = 10**9


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Two canisters, a module, an answer, a name; commits in the images, and one in the log alone."""
    path = tmp_path / "state"
    with StateDirectory.open(path, history=5) as made:
        module = made.put_blob(b"module" * 100)
        change = heap((0, page("a0")), (40, page("a40")), wasm_pages=4)
        change.module_hash = module
        made.commit(Message(), {A: change}, subnet_record=b"", answers=[Answer(b"id", 5, b"answer")], apply=True)
        commit(made, (1, page("b1")), name=B)
        made.checkpoint()
    (path / "names.json").write_text("{}")
    with StateDirectory.open(path) as made:
        commit(made, (2, page("log")), wasm_pages=4)
        made.end_round()
        made.abandon()
    return path


def facts(path: Path) -> tuple[Any, ...]:
    with StateDirectory.open(path, read_only=True) as found:
        assert found.verify() == []
        memories = {
            (key, name): memory.hash() for key, one in found.canisters.items() for name, memory in one.memories.items()
        }
        return found.version, found.state_hash(), found.history_kept, dict(found.answers), memories


def change(path: Path, *runs: tuple[int, bytes]) -> tuple[Any, ...]:
    with StateDirectory.open(path) as opened:
        commit(opened, *runs, wasm_pages=4)
    return facts(path)


@pytest.mark.slow
@pytest.mark.parametrize("key", [b"", KEY], ids=["open", "sealed"])
def test_any_version_comes_back(bucket: OurServer, state: Path, tmp_path: Path, key: bytes) -> None:
    wanted = [facts(state)]
    archive_state(state, URL, key=key)
    for number in range(3):
        wanted.append(change(state, (number, page(f"new {number}"))))
        archive_state(state, URL, key=key)
    found = versions_in(URL, key)
    assert [(one.version, one.state_hash) for one in reversed(found)] == [one[:2] for one in wanted]
    assert sorted((one.archived_ns for one in found), reverse=True) == [one.archived_ns for one in found]
    assert found[-1].archived_ns > 10**18
    for one in wanted:
        restore_state(URL, tmp_path / str(one[0]), version=one[0], key=key)
        assert facts(tmp_path / str(one[0])) == one
        with StateDirectory.open(tmp_path / str(one[0])) as again:
            assert read(again, 0) in (page("a0"), page("new 0"))
            assert again.blob(again.canisters[A].module_hash) == b"module" * 100
            commit(again, (9, page("goes on")), wasm_pages=4)
    assert (tmp_path / str(wanted[0][0]) / "names.json").read_text() == "{}"
    with pytest.raises(StorageError, match="no version 77 is in it"):
        restore_state(URL, tmp_path / "none", version=77, key=key)
    with pytest.raises(StorageError, match="is there already"):
        restore_state(URL, state, key=key)


def test_what_did_not_change_costs_nothing(bucket: OurServer, state: Path) -> None:
    archive_state(state, URL)
    bucket.reset()
    again = archive_state(state, URL)
    assert (again.written_bytes, bucket.counts["PUT"]) == (0, 0)


def test_it_is_archived_while_in_use(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    with StateDirectory.open(state) as opened:
        commit(opened, (3, page("unsaved")), wasm_pages=4)
        archived = archive_state(state, URL)
        assert (archived.version, archived.state_hash) == (opened.version, opened.state_hash())
    restore_state(URL, tmp_path / "restored")
    assert facts(tmp_path / "restored")[:2] == archived[1:3]


@pytest.mark.slow
def test_memories_grow_shrink_and_go(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    """Across the sizes at which a page tree gets one more level, and at which segments begin."""
    with StateDirectory.open(state) as opened:
        for wasm_pages in (1, 300, 5_000, 2):
            runs = [(number * PAGE, page(f"{number} of {wasm_pages}")) for number in (0, wasm_pages * 16 - 1)]
            delta = PageDelta(wasm_pages, runs, fresh=True)
            opened.commit(Message(), {A: CanisterChange({"stable": delta})}, apply=True)
            archived = archive_state(state, URL)
            restore_state(URL, tmp_path / str(archived.version))
            assert facts(tmp_path / str(archived.version))[:2] == (opened.version, opened.state_hash())
        opened.commit(Message(), {B: CanisterChange(deleted=True)})
        archived = archive_state(state, URL)
    restore_state(URL, tmp_path / "last")
    assert facts(tmp_path / "last")[:2] == archived[1:3]


@pytest.mark.slow
def test_the_bytes_and_requests_of_a_large_one(bucket: OurServer, tmp_path: Path) -> None:
    """256 MiB: all of it, then a scattered hundredth."""
    size, draw = 256 << 20, random.Random(25)
    block = draw.randbytes(PAGE - 4)
    pages = [number.to_bytes(4, "little") + block for number in range(size // PAGE)]
    with StateDirectory.open(tmp_path / "state", durability="never") as opened:
        whole = PageDelta(size >> 16, [(0, b"".join(pages))])
        opened.commit(Message(), {A: CanisterChange({"stable": whole})}, apply=True)
        archive_state(tmp_path / "state", URL)
        assert bucket.received <= 1.02 * size
        assert bucket.counts["PUT"] <= size // (4 << 20)
        bucket.reset()
        some = sorted(draw.sample(range(size // PAGE), size // PAGE // 100))
        scattered = PageDelta(size >> 16, [(number * PAGE, pages[0]) for number in some])
        opened.commit(Message(), {A: CanisterChange({"stable": scattered})}, apply=True)
        archived = archive_state(tmp_path / "state", URL)
        assert bucket.received <= 0.03 * size
        assert bucket.counts["PUT"] <= 4
        assert archived.state_hash == opened.state_hash()
        opened.abandon()


# -- keys


def test_a_sealed_archive_shows_nothing(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    archive_state(state, URL, key=KEY)
    stored = b"".join(one.content for one in bucket.objects.values() if isinstance(one.content, bytes))
    assert b"module" not in stored
    assert page("a0") not in stored
    assert KEY not in stored
    for key in (b"", bytes(32)):
        with pytest.raises(StorageError, match="sealed with") as caught:
            restore_state(URL, tmp_path / "restored", key=key)
        assert caught.value.error_code == "archive-key"
    archive_state(state, "s3://bucket/open")
    with pytest.raises(StorageError, match="sealed with no key"):
        archive_state(state, "s3://bucket/open", key=KEY)
    # An item is where it was sealed: two of one pack that change their places are noticed.
    vault = Vault(KEY)
    one = vault.seal_item(bytes(16), 0, b"one")
    assert vault.open_item(bytes(16), 0, one) == b"one"
    for pack, offset, sealed in ((bytes(16), 1, one), (b"1" * 16, 0, one), (bytes(16), 0, one[:-1])):
        with pytest.raises(MalformedError):
            vault.open_item(pack, offset, sealed)


def test_keys_in_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for content in (KEY, KEY.hex().encode() + b"\n"):
        file.write_bytes(content)
        assert read_key(file) == KEY
    for bad in (b"", b"secret", KEY + b"\0", KEY * 1000):
        file.write_bytes(bad)
        with pytest.raises(UnsupportedError, match="openssl rand") as caught:
            read_key(file)
        assert "secret" not in str(caught.value)
    with pytest.raises(UnsupportedError, match="openssl rand"):
        read_key("/dev/zero")  # which has no end
    for missing in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(StorageError, match="directory"):
            read_key(missing)


# -- owners


def test_two_owners(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    archive_state(state, URL)
    shutil.copytree(state, tmp_path / "copy")
    change(tmp_path / "copy", (5, page("copy")))
    change(state, (5, page("origin")))
    archive_state(tmp_path / "copy", URL)  # the first to go on
    for _ in range(2):
        with pytest.raises(StorageError, match="another one writes to it") as caught:
            archive_state(state, URL)
        assert caught.value.error_code == "archive-owner"
    archive_state(state, URL, take_over=True)
    change(tmp_path / "copy", (6, page("copy")))
    with pytest.raises(StorageError, match="another one writes to it"):
        archive_state(tmp_path / "copy", URL)
    assert len(versions_in(URL)) == 3


def test_two_owners_at_once(bucket: OurServer, state: Path) -> None:
    archive_state(state, URL)
    change(state, (5, page("new")))

    def meanwhile(method: str, key: str) -> None:
        if method == "PUT" and "versions" in key and key not in bucket.objects:
            bucket.put(key, b"of another one")

    bucket.before = meanwhile
    with pytest.raises(StorageError, match="written by another one meanwhile"):
        archive_state(state, URL)


def test_a_restored_one_goes_on(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    archive_state(state, URL)
    first = facts(state)[0]
    change(state, (5, page("new")))
    archive_state(state, URL)
    restore_state(URL, tmp_path / "old", version=first)
    change(tmp_path / "old", (6, page("old")))
    with pytest.raises(StorageError, match="another one writes to it"):
        archive_state(tmp_path / "old", URL)
    restore_state(URL, tmp_path / "new")
    change(tmp_path / "new", (6, page("new")))
    assert archive_state(tmp_path / "new", URL).sequence == 3


# -- cut off, poisoned, refused


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True], ids=["request", "answer"])
def test_cut_off_at_any_request(bucket: OurServer, state: Path, tmp_path: Path, lost: bool) -> None:
    """Whatever request is the last that is made or answered: the version is there or not, and the next time goes on."""
    archive_state(state, URL)
    for number in range(20):
        before = change(state, (number % 60, page(f"cut at {number}")))
        count, there = 0, {key for key in bucket.objects if "versions" in key}

        def cut(method: str, key: str, number: int = number) -> int | None:
            nonlocal count
            count += method == "PUT"
            if count <= number:
                return None
            if lost and method == "PUT" and key not in bucket.objects:
                bucket.objects[key] = bucket.objects["unread"]
            return 400

        bucket.put("unread", b"an object of which nobody knows what it is")
        bucket.before = cut
        try:
            archive_state(state, URL)
        except StorageError:
            done = False
        else:
            done = True
        bucket.before = lambda method, key: None
        for key in [key for key, one in bucket.objects.items() if one is bucket.objects["unread"] and key != "unread"]:
            del bucket.objects[key]
        assert done == bool({key for key in bucket.objects if "versions" in key} - there)
        archived = archive_state(state, URL)
        assert archived[1:3] == before[:2]
        if done:
            break
    else:
        pytest.fail("it takes more than 20 requests")
    restore_state(URL, tmp_path / "restored")
    assert facts(tmp_path / "restored") == before


def test_an_answer_that_got_lost(bucket: OurServer, state: Path) -> None:
    """The manifest was written, and whoever wrote it never heard of it."""
    archive_state(state, URL)
    change(state, (5, page("new")))
    written = {}

    def lose(method: str, key: str) -> int | None:
        if method == "GET" and key in written:
            return None
        return 400 if "versions/00000000000000000002" in key and method == "PUT" else None

    bucket.before = lose
    with pytest.raises(StorageError):
        archive_state(state, URL)
    bucket.before = lambda method, key: None
    assert archive_state(state, URL).sequence == 2
    # As if only the last note of it had been lost.
    noted = (state / "archived.json").read_text()
    change(state, (6, page("newer")))
    archive_state(state, URL)
    after = (state / "archived.json").read_text()
    last, own = (text.split('"last": "')[1][:64] for text in (noted, after))
    (state / "archived.json").write_text(after.replace(f'"last": "{own}"', f'"last": "{last}",\n   "next": "{own}"'))
    change(state, (7, page("newest")))
    assert archive_state(state, URL).sequence == 4


def damage(data: bytes, kind: str) -> bytes:
    middle = len(data) // 2
    return {
        "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "cut": data[:middle],
        "zeros": bytes(len(data)),
        "empty": b"",
    }[kind]


@pytest.mark.parametrize("kind", ["flipped", "cut", "zeros", "empty"])
@pytest.mark.parametrize("key", [b"", KEY], ids=["open", "sealed"])
def test_poisoned_objects(bucket: OurServer, state: Path, tmp_path: Path, kind: str, key: bytes) -> None:
    archive_state(state, URL, key=key)
    for name, one in list(bucket.objects.items()):
        assert isinstance(one.content, bytes)
        if name.endswith("archive.json") and kind == "flipped" and not key:
            continue  # another id, of which nothing depends without a key
        bucket.put(name, damage(one.content, kind))
        with pytest.raises(StorageError):
            restore_state(URL, tmp_path / "restored", key=key)
        assert [entry.name for entry in tmp_path.iterdir()] == ["state"]
        bucket.objects[name] = one
    restore_state(URL, tmp_path / "restored", key=key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: replace(found, blobs=()), "it has no module"),
        (lambda found: replace(found, blobs=found.blobs * 2), "a blob twice"),
        (lambda found: replace(found, files=found.files + found.files[:1] * 2), "a file twice"),
    ],
)
def test_a_version_that_is_not_whole(
    bucket: OurServer, state: Path, tmp_path: Path, change: Callable[[Manifest], Manifest], words: str
) -> None:
    """Each thing that it names is right, but it does not name all, or one of them again and again."""
    (state / "names.json").write_text("{}")
    archive_state(state, URL)
    name = f"shop/versions/{1:020}"
    made = decode_manifest(bucket.objects[name].read(0, 1 << 20))
    bucket.put(name, encode_manifest(change(made)))
    with pytest.raises(StorageError, match=words):
        restore_state(URL, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()


def test_names_that_are_no_versions_do_not_count(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    archive_state(state, URL)
    for name in ("\N{ARABIC-INDIC DIGIT SEVEN}" * 20, "notes", "1", "1" * 21):
        bucket.put(f"shop/versions/{name}", b"of no version")
    assert [one.sequence for one in versions_in(URL)] == [1]
    restore_state(URL, tmp_path / "restored")


def test_versions_that_change_their_places(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    archive_state(state, URL)
    change(state, (5, page("new")))
    archive_state(state, URL)
    first, second = (f"shop/versions/{number:020}" for number in (1, 2))
    bucket.objects[second] = bucket.objects[first]
    with pytest.raises(StorageError, match="it is number 1, and not what its name says"):
        restore_state(URL, tmp_path / "restored")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PDSG",
        encode_segment({0: Entry(bytes(16), 0, bytes(32))})[:-1],
        encode_segment({5000: Entry(bytes(16), 0, bytes(32))}),
        b"PDSG\1\0\2\0" + bytes(16 + 80),
        b"PDSG\0\0\1\0" + bytes(40),
    ],
)
def test_malformed_segments(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode_segment(data)


def test_a_damaged_directory_is_not_archived(bucket: OurServer, state: Path) -> None:
    (image,) = (state / "images").glob("0-heap-*.img")
    with image.open("r+b") as file:
        file.seek(100)
        file.write(b"!")
    with pytest.raises(StorageError, match="not what was committed"):
        archive_state(state, URL)
    assert not any("versions" in key for key in bucket.objects)


def test_damaged_hashes_are_told(bucket: OurServer, state: Path) -> None:
    archive_state(state, URL)
    change(state, (5, page("new")))
    (hashes,) = (state / "images").glob("0-heap-*.hash")
    hashes.write_bytes(b"!" * len(hashes.read_bytes()))
    with pytest.raises(StorageError, match="page tree"):
        archive_state(state, URL)


def test_denied_credentials(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    archive_state(state, URL)
    bucket.before = lambda method, key: 403
    for one in (
        lambda: archive_state(state, URL),
        lambda: restore_state(URL, tmp_path / "restored"),
        lambda: versions_in(URL),
        lambda: collect(URL),
    ):
        with pytest.raises(StorageError, match="refuses these credentials") as caught:
            one()
        assert "AKID" not in str(caught.value)
    assert not (tmp_path / "restored").exists()


def test_a_full_cache_disk(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    def full(file: int, data: bytes) -> int:
        raise OSError(28, "no space left on device")

    archive_state(state, URL)
    restore_state(URL, tmp_path / "restored", cache=BlockCache(tmp_path / "blocks", write=full))
    assert facts(tmp_path / "restored") == facts(state)


def test_a_full_disk(bucket: OurServer, state: Path, simulated_disk: ModuleType) -> None:
    archive_state(state, URL)
    for kind, place in (("write", "checkpoint"), ("open", "log"), ("sync", "images")):
        disk = simulated_disk.SimulatedDisk()
        disk.make_directory("/made")
        disk.faults.append((kind, place, errno.ENOSPC))
        with pytest.raises(StorageError, match="could not be written: No space left") as caught:
            restore_state(URL, "/made/restored", disk=disk)
        assert caught.value.error_code == "disk-full"
        assert disk.list_directory("/made") == []


def test_there_is_no_archive(bucket: OurServer, tmp_path: Path) -> None:
    for one in (lambda: restore_state(URL, tmp_path / "restored"), lambda: versions_in(URL), lambda: collect(URL)):
        with pytest.raises(StorageError, match="no archive is there"):
            one()


# -- what goes


@pytest.mark.slow
def test_retention_and_grace(bucket: OurServer, state: Path, tmp_path: Path) -> None:
    """By the store's clock, which is a year ahead of ours, or behind."""
    for off in (-365, 365):
        now = time.time() + off * 86_400
        bucket.clock = lambda now=now: now  # type: ignore[misc]
        url, copy = f"{URL}{off}", tmp_path / f"copy{off}"
        shutil.copytree(state, copy)
        for number in range(4):
            wanted = change(copy, (0, page(f"{number}")), (1, page(f"{number}")))
            archive_state(copy, url)
        bucket.put(f"shop{off}/packs/{'0' * 32}", b"of somebody who is archiving just now")
        assert collect(url, keep=1, dry_run=True)[:2] == (1, 3)
        assert len(versions_in(url)) == 4
        assert collect(url, keep=1) == (1, 3, 0, 0, 0)
        assert len(versions_in(url)) == 1
        assert collect(url) == (1, 0, 0, 0, 0)
        later = now + 2 * 86_400
        bucket.clock = lambda later=later: later  # type: ignore[misc]
        found = collect(url)
        assert found[:3] == (1, 0, 3)
        assert found.removed_packs > 3
        assert f"shop{off}/packs/{'0' * 32}" not in bucket.objects
        restore_state(url, tmp_path / f"restored{off}")
        assert facts(tmp_path / f"restored{off}") == wanted
        change(copy, (0, page("again")))
        assert archive_state(copy, url).sequence == 5


def test_what_is_collected_meanwhile_is_noticed(bucket: OurServer, state: Path) -> None:
    """A grace time shorter than archiving takes."""
    archive_state(state, URL)
    change(state, (5, page("new")))

    def meanwhile(method: str, key: str) -> None:
        if method == "GET" and not key:  # the list before the manifest is written
            for name in [name for name in bucket.objects if "packs" in name and name not in known]:
                del bucket.objects[name]

    known = set(bucket.objects)
    bucket.before = meanwhile
    with pytest.raises(StorageError, match="removed before they were named"):
        archive_state(state, URL)
    bucket.before = lambda method, key: None
    archive_state(state, URL)


def test_a_manifest_that_cannot_be_read_ends_collecting(bucket: OurServer, state: Path) -> None:
    archive_state(state, URL)
    bucket.put("shop/versions/00000000000000000009", b"poison")
    there = set(bucket.objects)
    with pytest.raises(StorageError, match="bad magic"):
        collect(URL, keep=1, grace_seconds=0)
    assert set(bucket.objects) - there <= {"shop/clock"}


# -- other stores, and processes that are killed


@pytest.mark.slow
def test_on_moto(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server(tmp_path) as endpoint:
        for name, value in environment(endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        wanted = [facts(state)]
        archive_state(state, URL, key=KEY)
        shutil.copytree(state, tmp_path / "copy")
        wanted.append(change(state, (5, page("new"))))
        archive_state(state, URL, key=KEY)
        change(tmp_path / "copy", (5, page("copy")))
        with pytest.raises(StorageError, match="another one writes to it"):
            archive_state(tmp_path / "copy", URL, key=KEY)
        for one in wanted:
            restore_state(URL, tmp_path / str(one[0]), version=one[0], key=KEY)
            assert facts(tmp_path / str(one[0])) == one
        assert collect(URL, keep=1, grace_seconds=0, key=KEY).removed_versions == 1
        restore_state(URL, tmp_path / "last", key=KEY)
        assert facts(tmp_path / "last") == wanted[-1]


PROGRAM = """
import sys
from perdure.storage import archive_state
archive_state(sys.argv[1], sys.argv[2])
"""


@pytest.mark.slow
def test_killed_on_seaweedfs(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who archives is killed at any moment, then the server; every version that is there is whole."""
    (tmp_path / "weed").mkdir()
    store = Seaweed(tmp_path / "weed")
    try:
        store.start()
        for name, value in environment(store.endpoint, *OWNER).items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        wanted, draw = {}, random.Random(7)
        for number in range(4):
            with StateDirectory.open(state) as opened:
                runs = [(at, draw.randbytes(PAGE)) for at in range(number, 2_000, 7)]
                commit(opened, *runs, wasm_pages=200)
            wanted[facts(state)[0]] = facts(state)
            process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(state), URL], env=os.environ)
            time.sleep(0.4 + 0.15 * number)
            process.kill()
            process.wait()
        store.kill()
        store.start()
        for _ in range(600):
            try:
                archive_state(state, URL)
                break
            except StorageError as error:
                if error.error_code != "object-store":
                    raise
                time.sleep(0.2)
        found = versions_in(URL)
        assert found[0].version == max(wanted)
        for one in found:
            restore_state(URL, tmp_path / str(one.version), version=one.version)
            assert facts(tmp_path / str(one.version)) == wanted[one.version]
        collect(URL, keep=1, grace_seconds=0)
        restore_state(URL, tmp_path / "last")
        assert facts(tmp_path / "last") == wanted[max(wanted)]
    finally:
        store.kill()
