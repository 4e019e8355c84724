"""Blobs: kept as long as anything names them, and gone at the next checkpoint after that."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from perdure.errors import MalformedError, StorageError
from perdure.storage import CanisterChange, Message, StateDirectory, StorageLimits

A = b"canister a"


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    with StateDirectory.open(tmp_path / "state", blobs_of=blobs_of) as state:
        yield state


def blobs_of(canister_id: bytes, record: bytes) -> list[bytes]:
    """The rules of these tests: a record is the hashes that it names."""
    assert canister_id
    return [record] if len(record) == 32 else []


def blobs(state: StateDirectory) -> set[str]:
    return {path.name for path in (Path(state.path) / "blobs").iterdir()}


def names(*texts: bytes) -> set[str]:
    return {sha256(text).hexdigest() for text in texts}


def install(state: StateDirectory, module: bytes, name: bytes = A) -> None:
    state.commit(Message(), {name: CanisterChange(module_hash=state.put_blob(module))})


def test_a_replaced_module_goes_at_the_checkpoint(state: StateDirectory) -> None:
    install(state, b"one")
    state.checkpoint()
    install(state, b"two")
    install(state, b"one", name=b"canister b")
    assert blobs(state) == names(b"one", b"two")
    state.checkpoint()
    assert blobs(state) == names(b"one", b"two")
    state.commit(Message(), {b"canister b": CanisterChange(deleted=True)})
    assert blobs(state) == names(b"one", b"two"), "the last checkpoint still names it"
    state.checkpoint()
    assert blobs(state) == names(b"two")
    with pytest.raises(StorageError, match="No such file"):
        state.blob(sha256(b"one").digest())


def test_records_name_blobs_as_the_rules_say(state: StateDirectory) -> None:
    hash_ = state.put_blob(b"chunk")
    state.commit(Message(), {A: CanisterChange(record=hash_)})
    for _ in range(2):
        state.checkpoint()
        assert state.blob(hash_) == b"chunk"
    state.commit(Message(), {A: CanisterChange(record=b"mentions " + hash_)})
    state.checkpoint()
    assert blobs(state) == set()


def test_without_rules_nothing_goes(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state") as state:
        install(state, b"one")
        install(state, b"two")
        state.checkpoint()
        assert blobs(state) == names(b"one", b"two")


def test_a_blob_whose_commit_begins_with_a_checkpoint(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state", limits=StorageLimits(log_bytes=1), blobs_of=blobs_of) as state:
        install(state, b"one")
        module = state.put_blob(b"two")
        made: list[int] = []
        state.on_checkpoint = made.append
        state.commit(Message(), {b"canister b": CanisterChange(record=b"other")})
        state.commit(Message(), {A: CanisterChange(module_hash=module)})
        assert made == [1, 2]
        assert state.blob(module) == b"two"


def test_history_keeps_what_it_names(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state", history=None, blobs_of=blobs_of) as state:
        for module in (b"one", b"two", b"three"):
            install(state, module)
            state.checkpoint()
        state.commit(Message(inputs=b"installed: " + state.put_blob(b"refused")), {})
        state.checkpoint()
        assert blobs(state) == names(b"one", b"two", b"three", b"refused")
        assert state.blob(state.at(1).canisters[A].module_hash) == b"one"
        state.forget(2)
        assert blobs(state) == names(b"two", b"three", b"refused"), "version 3 replaced what 2 had"
        state.keep_history(0)
        assert blobs(state) == names(b"three")


def test_history_of_a_few_commits_lets_go_of_older_modules(tmp_path: Path) -> None:
    with StateDirectory.open(tmp_path / "state", history=2, blobs_of=blobs_of) as state:
        for number in range(6):
            install(state, b"%d" % number)
            state.checkpoint()
            kept = range(max(0, number - 2), number + 1)
            assert blobs(state) == names(*(b"%d" % one for one in kept))
            for version in state.history():
                for past in (version.version, version.version - 1):
                    module_hash = state.at(past).canisters[A].module_hash if past else b""
                    assert not module_hash or state.blob(module_hash)


def test_nothing_goes_while_somebody_reads(state: StateDirectory) -> None:
    install(state, b"one")
    state.checkpoint()
    install(state, b"two")
    with StateDirectory.open(state.path, read_only=True) as reader:
        with pytest.raises(StorageError, match="reading"):
            state.checkpoint()
        assert reader.blob(sha256(b"one").digest()) == b"one"
    state.checkpoint()
    assert blobs(state) == names(b"two")


def test_what_cannot_be_read_may_name_anything(tmp_path: Path) -> None:
    def refuse(canister_id: bytes, record: bytes) -> list[bytes]:
        raise MalformedError(f"{record!r} of {canister_id!r}")

    with StateDirectory.open(tmp_path / "state", blobs_of=refuse) as state:
        install(state, b"one")
        state.commit(Message(), {A: CanisterChange(module_hash=state.put_blob(b"two"), record=b"?")})
        state.checkpoint()
        assert blobs(state) == names(b"one", b"two")


def test_what_a_crash_cut_off_goes(state: StateDirectory) -> None:
    install(state, b"one")
    (Path(state.path) / "blobs" / ("0" * 64 + ".new")).write_bytes(b"half")
    state.checkpoint()
    assert blobs(state) == names(b"one")
