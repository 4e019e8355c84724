"""What a directory keeps beside pages: memories by name, answers, settings, records of older versions."""

from __future__ import annotations

import errno
import linecache
import random
import sys
import types
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cbor2
import pytest
from states import PAGE, A, page

from perdure.canister import PageDelta
from perdure.errors import StorageError
from perdure.record import TEXT, Field, Format, Table, nat
from perdure.storage import Answer, CanisterChange, Message, PythonCode, StateDirectory, StorageLimits, TemporaryStore


def whole(text: str) -> PageDelta:
    return PageDelta(1, [(0, page(text))])


def commit(state: StateDirectory, *, dropped: frozenset[str] = frozenset(), **memories: PageDelta) -> int:
    return state.commit(Message(), {A: CanisterChange(memories, dropped)}, apply=True)


def content(state: StateDirectory) -> dict[str, bytes]:
    return {name: memory.image().read(0, PAGE) for name, memory in state.canisters[A].memories.items()}


# -- memories by name


def test_memories_are_made_and_dropped_by_name(path: str) -> None:
    expected: dict[str, bytes] = {}
    for turn in range(2):
        with StateDirectory.open(path, history=None) as state:
            commit(state, heap=whole("h"), users=whole("u"))
            expected |= {"heap": page("h"), "users": page("u")}
            assert content(state) == expected
            commit(state, dropped=frozenset(["users"]), log=whole("l"))
            expected |= {"log": page("l")}
            del expected["users"]
            assert content(state) == expected
            commit(state, dropped=frozenset(["log"]), log=whole("anew"))  # goes and comes in one commit
            expected["log"] = page("anew")
            assert content(state) == expected
            state.checkpoint() if turn else state.abandon()
        with StateDirectory.open(path) as state:
            assert content(state) == expected
            assert state.verify() == []
            past = state.at(state.version - 2)
            assert {name: image.read(0, PAGE) for name, image in past.canisters[A].images.items()} == {
                "heap": page("h"),
                "users": page("u"),
                **({"log": page("anew")} if turn else {}),
            }
            past.close()


@pytest.mark.parametrize("name", ["", "a/b", "..", "A", "x" * 65, "\0"])
def test_names_that_no_file_could_have(path: str, name: str) -> None:
    with StateDirectory.open(path) as state:
        if name == "..":
            commit(state, **{name: whole("harmless")})  # between a number and a suffix
            return
        with pytest.raises(ValueError, match="a memory cannot be called"):
            commit(state, **{name: whole("x")})
        assert state.version == 0


def test_a_memory_dropped_and_made_again_leaves_the_checkpoints_files_alone(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, heap=whole("old"))
    state.checkpoint()
    commit(state, dropped=frozenset(["heap"]), heap=whole("new"))
    disk.faults = [("write", "checkpoint.new", errno.ENOSPC)] * 2
    with pytest.raises(StorageError):
        state.checkpoint()
    state.abandon()
    again = opened(disk.crashed(random.Random(1)), store)
    assert content(again) == {"heap": page("new")}
    assert again.verify() == []


# -- code that is no Wasm


def test_python_code_is_kept_and_part_of_the_hash(path: str) -> None:
    code = PythonCode("counter", bytes(32), b"schema")
    with StateDirectory.open(path) as state:
        commit(state, heap=whole("x"))
        before = state.state_hash()
        state.commit(Message(), {A: CanisterChange(code=code)})
        assert state.state_hash() != before
        state.abandon()
    for _ in range(2):
        with StateDirectory.open(path) as state:
            assert state.canisters[A].code == code


# -- answers


def answer(number: int, text: bytes = b"yes") -> Answer:
    return Answer(number.to_bytes(4, "big"), 1_000 + number, text)


def test_answers_are_kept_and_forgotten_by_id(path: str) -> None:
    with StateDirectory.open(path) as state:
        state.commit(Message(), {}, answers=[answer(1), answer(2)])
        state.commit(Message(), {}, answers=[answer(1, b"no"), answer(3)], forgotten=[answer(2).request_id])
        expected = {one.request_id: one for one in (answer(1, b"no"), answer(3))}
        hash_ = state.state_hash()
        assert dict(state.answers) == expected
        state.abandon()
    for _ in range(3):
        with StateDirectory.open(path) as state:
            assert dict(state.answers) == expected
            assert state.state_hash() == hash_
            assert state.verify() == []


def test_an_answer_is_written_once_at_a_checkpoint(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    state.commit(Message(), {}, answers=[answer(n, bytes(1000)) for n in range(1000)])
    state.checkpoint()
    sizes = {name: size for name, size in disk.files().items() if "/answers/" in name}
    assert len(sizes) == 1
    for n in range(20):
        state.commit(Message(), {}, answers=[answer(2000 + n)])
        state.checkpoint()
    found = {name: size for name, size in disk.files().items() if "/answers/" in name}
    assert len(found) <= 17
    state.commit(Message(), {}, forgotten=[answer(n).request_id for n in range(999)])
    state.checkpoint()
    assert sum(size for name, size in disk.files().items() if "/answers/" in name) < 10_000
    again = opened(disk.copy(), store)
    assert list(again.answers) == list(state.answers)
    assert again.state_hash() == state.state_hash()


def test_a_flipped_bit_in_answers_is_noticed(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    state.commit(Message(), {}, answers=[answer(1)])
    state.checkpoint()
    (name,) = [name for name in disk.files() if "/answers/" in name]
    disk.flip(name, 150)
    assert state.verify() == ["answers of epoch 2: not what was written"]
    state.abandon()
    with pytest.raises(StorageError, match="its bytes are not what the checkpoint says"):
        opened(disk.copy(), store)


# -- what a directory is


def test_history_is_a_property_of_the_directory(path: str) -> None:
    with StateDirectory.open(path, history=None) as state:
        for n in range(4):
            commit(state, heap=whole(str(n)))
    for _ in range(2):
        with StateDirectory.open(path) as state:
            assert state.history_kept is None
            commit(state, heap=whole("more"))
    with StateDirectory.open(path) as state:
        assert [version.version for version in state.history()] == [6, 5, 4, 3, 2, 1]
        state.keep_history(1)
    with StateDirectory.open(path, read_only=True) as state:
        assert state.history_kept == 1
        assert len(list(state.history())) <= 2
    with StateDirectory.open(path, history=0) as state:
        assert state.history_kept == 0
    with StateDirectory.open(path) as state:
        assert state.history_kept == 0


def test_extensions_only_ever_become_more(path: str) -> None:
    StateDirectory.open(path, extensions=["memories"]).close()
    StateDirectory.open(path, extensions=["direct"]).close()
    with StateDirectory.open(path) as state:
        assert state.extensions == ("direct", "memories")


# -- versions of the format


def test_directories_of_earlier_revisions_are_refused_by_name(path: str) -> None:
    StateDirectory.open(path).close()
    file = Path(path) / "checkpoint"
    file.write_bytes(b"PERDURE\0" + file.read_bytes()[8:])
    with pytest.raises(StorageError, match=r"before there was a format with a version.*take a snapshot"):
        StateDirectory.open(path)


def test_newer_directories_are_refused_by_name(path: str) -> None:
    StateDirectory.open(path).close()
    file = Path(path) / "checkpoint"
    data = file.read_bytes()
    file.write_bytes(data[:8] + (3).to_bytes(4, "little") + data[12:])
    with pytest.raises(StorageError, match="format 3; this version reads formats 1 to 2: a newer version"):
        StateDirectory.open(path)


ONE = Format("rules", 1, {1: Table("thing", Field(1, "name", TEXT), Field(2, "age", nat(8), 0))}, {})
TWO = Format(
    "rules",
    2,
    {1: Table("thing", Field(1, "title", TEXT), Field(3, "address", TEXT, ""))},
    {1: lambda _, content: {1: content[1], 3: f"of {content[1]}"}},
)


def record(format_: Format, **fields: object) -> bytes:
    return format_.encode(1, types.SimpleNamespace(**fields))


def opened(disk: Any, store: TemporaryStore, records: Format | None = None) -> StateDirectory:
    limits = StorageLimits(log_bytes=1 << 20)
    return StateDirectory.open("/state", disk=disk, store=store, limits=limits, records=records)


def all_records(state: StateDirectory) -> list[Any]:
    found = [state.subnet_record, *(state.canisters[name].record for name in sorted(state.canisters))]
    return [cbor2.loads(one) for one in found]


def test_records_of_an_older_version_are_rewritten_at_the_first_checkpoint_or_not_at_all(
    disk: Any, store: TemporaryStore, simulated_disk: ModuleType
) -> None:
    state = opened(disk, store, ONE)
    changes = {
        bytes([n]): CanisterChange({"heap": whole(str(n))}, record=record(ONE, name=f"c{n}", age=n)) for n in range(5)
    }
    state.commit(Message(), changes, subnet_record=record(ONE, name="subnet", age=0), apply=True)
    state.close()
    state = opened(disk, store, ONE)
    state.commit(Message(), {b"\0": CanisterChange(record=record(ONE, name="c0", age=9))})
    old, old_hash = all_records(state), state.state_hash()
    state.abandon()
    new = [[2, 1, {1: content[1], 3: f"of {content[1]}"}] for _, _, content in old]
    outcomes = set()
    rng = random.Random(5)

    def look(found: Any) -> None:
        state = opened(found, store)  # without a format nothing is rewritten
        assert all_records(state) in (old, new)
        assert (state.state_hash() == old_hash) == (all_records(state) == old)
        assert state.verify() == []
        outcomes.add("old" if all_records(state) == old else "new")
        state.abandon()
        again = opened(found, store, TWO)
        again.checkpoint()
        assert all_records(again) == new
        again.close()

    for _ in range(20):
        tried = disk.copy()
        tried.at_step = lambda _, tried=tried: look(tried.crashed(rng))
        state = opened(tried, store, TWO)
        state.checkpoint()
        tried.at_step = None
        look(tried.crashed(rng))
        state.close()
    assert outcomes == {"old", "new"}
    with pytest.raises(Exception, match="version 2 found; this version of perdure reads 1"):
        ONE.rewrite(record(TWO, title="x", address=""))


# -- exceptions


class Interruption(BaseException):
    """Comes at any place."""


def is_within_a_finalizer(frame: types.FrameType | None) -> bool:
    """Whether whatever comes out is swallowed by Python itself."""
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def interrupted_at(opcode: int, action: Callable[[], object]) -> bool:
    """Run `action`, in whose code in `storage` an exception comes at that opcode; whether it did."""
    left = opcode

    def count(frame: types.FrameType, event: str, _: object) -> object:
        nonlocal left
        if "/storage/" not in frame.f_code.co_filename or "contextmanager" in frame.f_code.co_name:
            return None
        frame.f_trace_opcodes = True
        # No real signal comes between what a `with` has taken and its block.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0).lstrip()
        if event == "opcode" and not line.startswith("with ") and not is_within_a_finalizer(frame):
            left -= 1
            if left == 0:
                raise Interruption
        return count

    before = sys.gettrace()
    sys.settrace(count)  # type: ignore[arg-type]
    try:
        action()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("history", [0, None])
def test_a_commit_interrupted_anywhere_happened_or_did_not_or_the_directory_refuses(
    tmp_path: Path, history: int | None
) -> None:
    opcode, outcomes = 1, set()
    while True:
        path = tmp_path / str(opcode)
        state = StateDirectory.open(path, durability="round", history=history)
        commit(state, heap=whole("old"), users=whole("old"))
        change = {A: CanisterChange({"heap": whole("new"), "users": whole("new")}, record=b"new")}
        came = interrupted_at(
            opcode,
            lambda state=state, change=change: state.commit(Message(), change, answers=[answer(1)], apply=True),  # type: ignore[misc]
        )
        try:
            found = read_all(state)
        except StorageError:
            outcomes.add("refuses")
            with pytest.raises(StorageError, match="open the directory anew"):
                commit(state, heap=whole("newer"))
            state.close()
        else:
            assert found in (1, 2)
            outcomes.add(found)
            assert commit(state, heap=whole("newer")) == found + 1
            state.close()
        with StateDirectory.open(path) as again:
            assert read_all(again, newer=again.version - 1) in (1, 2, 3)
            assert again.verify() == []
        if not came:
            break
        opcode += max(opcode // 24, 1)
    assert outcomes >= {1, 2, "refuses"}


def test_a_checkpoint_interrupted_anywhere_loses_nothing_that_comes_later(
    store: TemporaryStore, simulated_disk: ModuleType
) -> None:
    opcode, outcomes = 1, set()
    while True:
        disk = simulated_disk.SimulatedDisk()
        state = StateDirectory.open("/state", disk=disk, store=store, history=None)
        commit(state, heap=whole("old"), users=whole("old"))
        state.checkpoint()
        state.commit(Message(), {A: CanisterChange(record=b"new")}, answers=[answer(1)])
        commit(state, heap=whole("new"), users=whole("new"))
        came = interrupted_at(opcode, state.checkpoint)
        try:
            commit(state, heap=whole("newer"))
        except StorageError as error:
            outcomes.add(error.message.partition(";")[0])
            expected = "new"
        else:
            outcomes.add("usable")
            expected = "newer"
        state.abandon()
        with StateDirectory.open("/state", disk=disk.copy(), store=store) as again:
            assert again.verify() == []
            assert content(again) == {"heap": page(expected), "users": page("new")}
            assert len(again.history()) == again.version == (4 if expected == "newer" else 3)
        if not came:
            break
        opcode += max(opcode // 10, 1)
    assert outcomes == {"usable", "a checkpoint was cut off"}


def test_a_checkpoint_that_cannot_be_said_to_be_there_is_the_last_thing_done(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, heap=whole("old"))
    disk.at_step = lambda what: (
        disk.faults.append(("sync", "/state", errno.EIO)) if what == "name /state/checkpoint" else None
    )
    with pytest.raises(StorageError):
        state.checkpoint()
    disk.at_step, disk.faults = None, []
    with pytest.raises(StorageError, match="a checkpoint was cut off; open the directory anew"):
        commit(state, heap=whole("new"))
    state.close()
    assert content(opened(disk, store)) == {"heap": page("old")}


def read_all(state: StateDirectory, newer: int = 9) -> int:
    """The version that a directory shows, the same everywhere."""
    heap, users = (state.fork_image(A, name).read(0, PAGE) for name in ("heap", "users"))
    known = {page("old"): 1, page("new"): 2, page("newer"): newer + 1}
    second = 2 if state.canisters[A].record == b"new" else 1
    assert known[users] == second == 1 + len(state.answers)
    assert known[heap] in (second, newer + 1)
    assert state.version in (second, newer + 1)
    return second


def test_a_full_disk_takes_a_commit_back(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, heap=whole("old"))
    disk.faults = [("write", "/log", errno.ENOSPC)]
    with pytest.raises(StorageError, match="No space left") as caught:
        commit(state, heap=whole("new"))
    assert caught.value.committed is False
    assert content(state) == {"heap": page("old")}
    assert opened(disk.copy(), store).version == 1
    commit(state, heap=whole("newer"))
    assert content(opened(disk.copy(), store)) == {"heap": page("newer")}


def test_after_a_failed_sync_nothing_can_be_read(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, heap=whole("old"))
    image = state.image(A, "heap")
    disk.faults = [("sync", "/log", errno.EIO)]
    with pytest.raises(StorageError) as caught:
        commit(state, heap=whole("new"))
    assert caught.value.committed is None
    for use in (
        state.check,
        image.extents,
        image.fork,
        lambda: image.read(0, 1),
        lambda: state.fork_image(A, "heap"),
        lambda: state.image(A, "heap"),
        lambda: state.at(1),
        lambda: commit(state, heap=whole("newer")),
    ):
        with pytest.raises(StorageError, match="open the directory anew"):
            use()


def test_the_last_of_a_disk_is_kept_for_closing(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, heap=whole("x"))
    assert disk.files()["/state/reserve"] == 1 << 20
    disk.faults = [("write", ".img", errno.ENOSPC), ("write", "reserve", errno.ENOSPC)]
    state.close()
    assert "/state/reserve" not in disk.files()
    opened(disk, store).close()
    assert disk.files()["/state/reserve"] == 1 << 20
