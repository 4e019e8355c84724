"""Who may have a state directory open, and what becomes of who loses its lock."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from states import commit, page, read

from perdure import Subnet
from perdure.candid import decode
from perdure.errors import StorageError
from perdure.storage import StateDirectory
from perdure.storage.checkpoint import decode_checkpoint
from perdure.storage.commit_log import CommitLog
from perdure.storage.disk import RealDisk
from perdure.storage.locks import Locks
from perdure.storage.log import LogRecord, Place, scan


def test_readers_wait_for_a_checkpoint_and_for_nothing_else(path: str) -> None:
    StateDirectory.open(path).close()
    disk = RealDisk()
    one, other = Locks(disk, path), Locks(disk, path)
    one.share()
    other.share()
    for locks in (one, other):
        locks.release()
    readers = disk.open(f"{path}/readers")
    assert readers.lock(exclusive=True)
    with pytest.raises(StorageError, match="a checkpoint is being made"):
        one.share()
    one.release()
    readers.close()
    one.share()
    one.release()


def test_a_second_owner_is_told_who_has_it(path: str) -> None:
    with StateDirectory.open(path), pytest.raises(StorageError, match="open in this process already"):
        StateDirectory.open(path)
    program = (
        "import sys; from perdure.storage import StateDirectory\n"
        f"with StateDirectory.open({path!r}): print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(StorageError, match=str(other.pid)):
            StateDirectory.open(path)
    StateDirectory.open(path).close()


def test_a_directory_of_another_user_is_written_when_told_so(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
    before = {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(StorageError, match=f"belongs to user {os.getuid()}.*trust_owner=True"):
        StateDirectory.open(path)
    assert {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()} == before
    with StateDirectory.open(path, read_only=True) as state:
        assert read(state, 0) == page("a")
    with StateDirectory.open(path, trust_owner=True) as state:
        commit(state, (0, page("b")))


@pytest.mark.parametrize("durability", ["message", "checkpoint", "never", "round"])
@pytest.mark.parametrize("how", ["removed", "replaced", "moved", "exchanged", "linked"])
def test_the_loss_of_the_lock_is_noticed(path: str, durability: Any, how: str) -> None:
    state = StateDirectory.open(path, durability=durability)
    commit(state, (0, page("a")))
    state.sync()
    lock = Path(path, "lock")
    if how in {"moved", "exchanged"}:
        Path(path).rename(path + "-moved")
        if how == "exchanged":
            shutil.copytree(path + "-moved", path)
    else:
        lock.unlink()
        if how == "replaced":
            lock.write_bytes(b"1\n")
        if how == "linked":
            lock.symlink_to(path + "/log")
    with pytest.raises(StorageError, match="the lock was removed, or the directory moved"):  # noqa: PT012 -- either
        commit(state, (0, page("b")))
        state.end_round()
    with pytest.raises(StorageError, match="open the directory anew"):
        commit(state, (0, page("c")))
    state.close()
    if how == "moved":
        Path(path + "-moved").rename(path)
    if how == "linked":
        lock.unlink()
    with StateDirectory.open(path) as state:
        # What was not acknowledged may be there and may not.
        assert read(state, 0) in {page("a"), page("b")}
        assert state.verify() == []


def test_who_takes_the_lock_away_does_not_get_in(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        Path(path, "lock").unlink()
        with pytest.raises(StorageError, match="open in another process, whose lock was removed"):
            StateDirectory.open(path)
        state.abandon()
    StateDirectory.open(path).close()


def records(path: str) -> list[LogRecord]:
    disk = RealDisk()
    last = decode_checkpoint(Path(path, "checkpoint").read_bytes())
    file = disk.open(f"{path}/log")
    try:
        return list(scan(file, Place(last.epoch, last.version, last.checksum), owner=last.owner))
    finally:
        file.close()


def test_owners_are_numbered(path: str) -> None:
    for number in range(1, 4):
        state = StateDirectory.open(path)
        assert state.owner == number
        commit(state, (number, page("a")))
        state.abandon()
    assert [one.owner for one in records(path)] == [1, 2, 3]
    Path(path, "lock").write_bytes(b"5\n\nnonsense")
    with StateDirectory.open(path) as state:
        assert state.owner == 4
    assert decode_checkpoint(Path(path, "checkpoint").read_bytes()).owner == 4
    with StateDirectory.open(path, read_only=True) as state:
        assert state.owner == 0
    Path(path, "lock").unlink()
    with StateDirectory.open(path) as state:
        assert state.owner == 5


def given_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the system grant locks that somebody has, as one does that takes their holder for dead."""
    disk = RealDisk()
    file = disk.open(__file__)
    monkeypatch.setattr(type(file), "lock", lambda *_, **__: True)
    file.close()


@pytest.mark.parametrize("durability", ["message", "checkpoint", "never", "round"])
def test_an_owner_whose_lock_was_given_away_changes_nothing(
    path: str, durability: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = StateDirectory.open(path, durability=durability)
    commit(old, (0, page("a")))
    old.sync()
    given_away(monkeypatch)
    new = StateDirectory.open(path)
    commit(new, (1, page("b")))
    words = "owner 2 has it by now, this is owner 1"
    with pytest.raises(StorageError, match=words) as raised:
        commit(old, (0, page("c")))
    assert raised.value.committed is False
    with pytest.raises(StorageError, match=words):
        old.checkpoint()
    old.close()
    commit(new, (2, page("d")))
    new.abandon()
    with StateDirectory.open(path) as state:
        assert [read(state, index) for index in range(3)] == [page("a"), page("b"), page("d")]
        assert state.verify() == []


def test_a_record_of_an_owner_before_is_none(path: str) -> None:
    for number in range(2):
        state = StateDirectory.open(path)
        commit(state, (number, page("a")))
        state.abandon()
    last = records(path)[-1]
    file = RealDisk().open(f"{path}/log", write=True)
    place, end = Place(last.previous.epoch, last.version, last.checksum), last.offset + last.size_bytes
    late = CommitLog(file, "log", place, end, sealed=False, write_behind=True, owner=1)
    late.reserve(len(last.meta))
    late.append(last.meta, [page("z")])
    late.close()
    assert [one.owner for one in records(path)] == [1, 2]
    with StateDirectory.open(path) as state:
        assert state.version == last.version
        assert state.recovery.torn
        assert read(state, 1) == page("a")


PARTITIONED = """
import sys
from perdure import StorageError, Subnet

with Subnet({path!r}) as subnet:
    counter = subnet.install({wasm!r}) if not subnet.canisters else subnet.canisters[0]
    print("open", flush=True)
    for line in sys.stdin:
        try:
            counter.update("inc", b"DIDL\\0\\0")
        except StorageError as error:
            print("refused", error, error.committed, flush=True)
        else:
            print("done", flush=True)
"""
COUNTER = Path(__file__).parents[1] / "canisters" / "modules" / "motoko_eop_v1.wasm.gz"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["lock", "copy"])
def test_an_owner_that_was_cut_off_does_not_acknowledge(path: str, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while another one takes the directory: by its lock, or as a copy in its place."""
    program = PARTITIONED.format(path=path, wasm=str(COUNTER))
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None

        def ask() -> str:
            assert other.stdin is not None
            assert other.stdout is not None
            print("go", file=other.stdin, flush=True)
            return other.stdout.readline()

        assert other.stdout.readline() == "open\n"
        assert [ask(), ask()] == ["done\n"] * 2
        other.send_signal(signal.SIGSTOP)
        if how == "lock":
            given_away(monkeypatch)
        else:
            shutil.copytree(path, path + "-copy")
            Path(path).rename(path + "-old")
            Path(path + "-copy").rename(path)
        with Subnet(path) as subnet:
            (counter,) = subnet.canisters
            counter.update("inc", b"DIDL\0\0")
            other.send_signal(signal.SIGCONT)
            refused = ask()
            assert refused.startswith("refused")
            words = (
                "owner 2 has it by now, this is owner 1" if how == "lock" else "the lock was removed, or the directory"
            )
            assert words in refused
            assert ask().startswith("refused")
            counter.update("inc", b"DIDL\0\0")
        other.stdin.close()
    with Subnet(path) as subnet:
        (counter,) = subnet.canisters
        assert decode(counter.query("count", b"DIDL\0\0")) == (4,)
