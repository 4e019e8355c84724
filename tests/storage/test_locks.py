"""Who may have a state directory open, and what becomes of who loses its lock."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from states import commit, page, read

from perdure.errors import StorageError
from perdure.storage import StateDirectory
from perdure.storage.disk import RealDisk
from perdure.storage.locks import Locks


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
