"""What opening takes up from the log: whole records, in order, or the word that they are not all there."""

from __future__ import annotations

import errno
import random
from types import ModuleType
from typing import Any

import pytest
from states import commit, opened, page, read, some_state

from perdure.errors import StorageError
from perdure.storage import TemporaryStore


def test_what_a_killed_owner_left_with_the_system_is_synced_before_more_is_acknowledged(
    disk: Any, store: TemporaryStore
) -> None:
    with opened(disk, store) as state:
        commit(state, (0, page("a")))
    state = opened(disk, store, durability="round")
    commit(state, (1, page("written, not synced")))
    state.abandon()
    state = opened(disk, store)
    commit(state, (2, page("acknowledged")))
    for seed in range(20):
        cut = disk.crashed(random.Random(seed))
        with opened(cut, store) as found:
            assert [read(found, 1), read(found, 2)] == [page("written, not synced"), page("acknowledged")]


def test_commits_after_a_failed_checkpoint_are_recovered(disk: Any, store: TemporaryStore) -> None:
    with opened(disk, store) as state:
        commit(state, *((n, page(str(n))) for n in range(16)))
    state = opened(disk, store)
    commit(state, (3, page("new")))
    disk.faults = [("write", "checkpoint.new", errno.ENOSPC)] * 2
    with pytest.raises(StorageError, match="checkpoint"):
        state.checkpoint()
    disk.faults = []
    commit(state, (4, page("newer")))
    hash_ = state.state_hash()
    for seed in range(10):
        with opened(disk.crashed(random.Random(seed)), store) as found:
            assert (found.version, found.state_hash(), found.verify()) == (3, hash_, [])
            assert [read(found, 3), read(found, 4)] == [page("new"), page("newer")]


def test_every_record_of_the_log_is_needed(disk: Any, store: TemporaryStore) -> None:
    """Damage before the last record is reported, with the last good state on offer."""
    hashes = some_state(disk, store)
    broken = disk.copy()
    broken.flip("/state/log", 8 * 5000)
    with pytest.raises(StorageError, match="last good state is version 2"):
        opened(broken, store)
    with pytest.raises(StorageError, match="last good state is version 2"):
        opened(broken, store, read_only=True)
    state = opened(broken, store, accept_last_good=True)
    assert (state.version, state.state_hash()) == (2, hashes[2])
    assert state.recovery.damaged_version == 3
    commit(state, (0, page("onwards")))
    state.abandon()
    assert opened(broken, store).version == 3


def test_a_log_cut_at_any_block_gives_a_whole_commit(
    disk: Any, store: TemporaryStore, simulated_disk: ModuleType
) -> None:
    hashes = some_state(disk, store)
    for size in range(0, 80_000, 1024):
        cut = disk.copy()
        cut.open("/state/log", write=True).truncate(size)
        state = opened(cut, store)
        assert state.state_hash() == hashes[state.version]
        assert (state.version == 5) == (size >= 3 * 20_480 - 8192) or state.version < 5
        state.abandon()
