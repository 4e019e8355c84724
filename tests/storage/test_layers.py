"""Memories that are copies of others: of the same files, until they change."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from states import PAGE, A, B, commit, page, read

from perdure.canister import PageDelta
from perdure.errors import MalformedError
from perdure.storage import CanisterChange, Message, StateDirectory, backup, layers
from perdure.storage.backup import usage
from perdure.storage.changes import Origin
from perdure.storage.checkpoint import Checkpoint, KeptCanister, KeptMemory, decode_checkpoint, encode_checkpoint
from perdure.storage.layers import Layout

C = b"canister c"
PAGES = 64
SIZE = PAGES * PAGE


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "state")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small memories have layers too."""
    monkeypatch.setattr(layers, "_SMALL_BYTES", 0)


def fill(state: StateDirectory) -> None:
    commit(state, *((index, page(str(index))) for index in range(PAGES)), wasm_pages=PAGES // 16)
    state.checkpoint()


def copied(state: StateDirectory, *runs: tuple[int, bytes], target: bytes = B, origin: bytes = A) -> int:
    """One canister gets another one's heap, with some pages changed, as its memory ``heap``."""
    delta = PageDelta(PAGES // 16, [(index * PAGE, data) for index, data in runs])
    change = CanisterChange({"heap": delta}, origins={"heap": Origin(origin, "heap")})
    return state.commit(Message(b"", target), {target: change}, apply=True)


def whole(state: StateDirectory, name: bytes) -> bytes:
    return state.canisters[name].memories["heap"].image().read(0, SIZE)


def images(path: str) -> dict[str, int]:
    return {file.name: file.stat().st_blocks * 512 for file in Path(path, "images").iterdir()}


@pytest.mark.parametrize("end", ["checkpoint", "crash"])
def test_a_copy_is_of_the_same_files(path: str, end: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        before = images(path)
        position = state.log_bytes_used
        copied(state, (3, page("three")))
        expected = whole(state, A)
        expected = expected[: 3 * PAGE] + page("three") + expected[4 * PAGE :]
        assert whole(state, B) == expected
        hash_ = state.state_hash()
        assert position == state.log_bytes_used
        if end == "checkpoint":
            state.checkpoint()
            assert before.items() <= images(path).items()
            assert images(path)["1-heap-1.img"] == PAGE
            assert state.verify() == []
        state.abandon()
    with StateDirectory.open(path) as state:
        assert (whole(state, B), state.state_hash()) == (expected, hash_)
        assert state.verify() == []


def test_what_changes_is_written_on_top_and_nobody_else_sees_it(path: str) -> None:
    rng = random.Random(3)
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        copied(state, target=C, origin=B)
        models = {name: bytearray(whole(state, A)) for name in (A, B, C)}
        for turn in range(60):
            name = rng.choice([A, B, C])
            index = rng.randrange(PAGES)
            commit(state, (index, page(f"{turn}")), name=name, wasm_pages=PAGES // 16)
            models[name][index * PAGE : (index + 1) * PAGE] = page(f"{turn}")
            if turn % 5 == 0:
                state.checkpoint()
                assert {one: whole(state, one) for one in models} == {one: bytes(models[one]) for one in models}
                assert state.verify() == []
        files = state.canisters[A].memories["heap"].layout.files
        assert files[-1] == "0-heap-1"
        assert len(files) == 2, "what changes goes to one file as long as nobody shares that"
    with StateDirectory.open(path) as state:
        assert {one: whole(state, one) for one in models} == {one: bytes(models[one]) for one in models}


def test_equal_memories_are_written_once(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        commit(state, (5, page("dirty")), wasm_pages=PAGES // 16)
        copied(state)
        state.checkpoint()
        one, other = (state.canisters[name].memories["heap"].layout for name in (A, B))
        assert one == other
        assert one.files == ("0-heap-2", "0-heap-1")
        assert state.verify() == []


def test_files_that_are_ones_own_again_become_one(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_FOLD_BYTES", 2 * PAGE)
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        commit(state, *((index, page("new")) for index in range(0, 20, 2)), wasm_pages=PAGES // 16)
        state.checkpoint()
        expected = bytearray(whole(state, A))
        state.commit(Message(), {B: CanisterChange(deleted=True)})
        counts = []
        for turn in range(8):
            commit(state, (40, page(f"{turn}")), wasm_pages=PAGES // 16)
            expected[40 * PAGE : 41 * PAGE] = page(f"{turn}")
            state.checkpoint()
            counts.append(len(state.canisters[A].memories["heap"].layout.files))
            assert whole(state, A) == expected
            assert state.verify() == []
        assert (counts[0], counts[-1]) == (2, 1), "a part at each checkpoint"
        assert sorted(images(path)) == ["0-heap-1.hash", "0-heap-1.img"]


def test_pieces_are_bounded(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_MAX_PIECES", 5)
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        for index in (2, 4, 5, 9, 30, 33, 60):
            commit(state, (index, page("new")), wasm_pages=PAGES // 16)
        expected = whole(state, A)
        state.checkpoint()
        assert len(state.canisters[A].memories["heap"].layout.pieces) // 2 <= 5
        assert whole(state, A) == expected
        assert state.verify() == []


def test_many_copies_in_a_row_have_few_layers(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        for turn in range(24):
            copied(state, target=b"copy %d" % turn)
            commit(state, (turn, page("new")), wasm_pages=PAGES // 16)
            state.checkpoint()
        assert max(len(one.memories["heap"].layout.files) for one in state.canisters.values()) <= 6
        for turn in range(24):
            found = whole(state, b"copy %d" % turn)
            assert found[turn * PAGE : (turn + 1) * PAGE] == page(str(turn))
            assert turn == 0 or found[(turn - 1) * PAGE : turn * PAGE] == page("new")
        assert state.verify() == []


def test_growing_and_starting_anew(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        commit(state, (PAGES + 3, page("beyond")), wasm_pages=PAGES // 16 + 1)
        commit(state, (0, page("other")), name=B, wasm_pages=1, fresh=True)
        state.checkpoint()
        assert read(state, PAGES + 3) == page("beyond")
        assert read(state, 1) == page("1")
        assert (read(state, 0, B), read(state, 1, B)) == (page("other"), bytes(PAGE))
        assert state.verify() == []
        assert state.canisters[B].memories["heap"].layout.files == ("1-heap-1",)


def test_what_nobody_needs_goes_and_what_somebody_needs_stays(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        state.commit(Message(), {A: CanisterChange(deleted=True)})
        state.checkpoint()
        assert sorted(images(path)) == ["0-heap-1.hash", "0-heap-1.img"]
        # The name is free, and not given again.
        commit(state, (0, page("again")), name=A, wasm_pages=1)
        state.checkpoint()
        assert read(state, 7, B) == page("7")
        state.commit(Message(), {B: CanisterChange(deleted=True)})
        state.checkpoint()
        assert "0-heap-1.img" not in images(path)


def test_a_name_in_use_by_a_copy_is_not_given_again(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        state.commit(Message(), {A: CanisterChange(dropped=frozenset({"heap"}))})
        state.checkpoint()
    with StateDirectory.open(path) as state:
        commit(state, (0, page("again")), name=A, wasm_pages=1)
        state.checkpoint()
        assert read(state, 7, B) == page("7")
        assert read(state, 0, A) == page("again")
        assert state.verify() == []


@pytest.fixture
def kept(path: str) -> Iterator[StateDirectory]:
    with StateDirectory.open(path, history=None) as state:
        fill(state)
        yield state


def test_history_of_a_copy_that_went_on_to_another_place(kept: StateDirectory) -> None:
    """As a memory is handed over: a copy in its own right, which another canister gets in the commit that it goes."""
    expected = whole(kept, A)
    there = copied(kept)
    on_its_way = whole(kept, B)
    commit(kept, (1, page("later")), wasm_pages=PAGES // 16)
    change = CanisterChange({"heap": PageDelta(PAGES // 16, ())}, origins={"heap": Origin(B, "heap")})
    arrived = kept.commit(Message(), {B: CanisterChange(deleted=True), C: change}, apply=True)
    kept.checkpoint()
    commit(kept, (2, page("changed")), name=C, wasm_pages=PAGES // 16)
    assert [one.record.page_count for one in kept.history()[:4]] == [2, 0, 2, 0], "no page of what only moves"
    past = kept.at(there)
    assert past.canisters[B].images["heap"].read(0, SIZE) == on_its_way == expected
    assert C not in past.canisters
    past.close()
    past = kept.at(arrived)
    assert past.canisters[C].images["heap"].read(0, SIZE) == expected
    past.close()
    found = kept.blame(C, "heap", 2 * PAGE)
    assert found is not None
    assert found.version == arrived + 1
    found = kept.blame(C, "heap", 9 * PAGE)
    assert found is not None
    assert found.version == arrived, "the message that it came with"


def test_history_of_a_copy_that_goes_is_what_differs(kept: StateDirectory) -> None:
    """As a snapshot is deleted: its canister still has most of it."""
    copied(kept)
    commit(kept, (1, page("later")), wasm_pages=PAGES // 16)
    before = kept.version
    expected = {name: whole(kept, name) for name in (A, B)}
    gone = kept.commit(Message(), {B: CanisterChange(deleted=True), A: CanisterChange(record=b"x")})
    assert kept.history()[0].record.page_count == 1
    commit(kept, (30, page("after")), wasm_pages=PAGES // 16)
    past = kept.at(before)
    assert {name: past.canisters[name].images["heap"].read(0, SIZE) for name in (A, B)} == expected
    past.close()
    assert kept.at(gone).canisters.keys() == {A}


def test_history_of_going_back_to_a_copy(kept: StateDirectory) -> None:
    """As a snapshot is loaded."""
    copied(kept)
    commit(kept, (1, page("later")), (2, page("2")), wasm_pages=PAGES // 16)
    expected = whole(kept, A)
    version = kept.version
    change = CanisterChange({"heap": PageDelta(PAGES // 16, ())}, origins={"heap": Origin(B, "heap")})
    loaded = kept.commit(Message(), {A: change}, apply=True)
    assert kept.history()[0].record.page_count == 1
    assert whole(kept, A) == whole(kept, B)
    past = kept.at(version)
    assert past.canisters[A].images["heap"].read(0, SIZE) == expected
    past.close()
    blamed = {index: kept.blame(A, "heap", index * PAGE) for index in (1, 2, 3)}
    assert {index: one.version for index, one in blamed.items() if one is not None} == {1: loaded, 2: 1, 3: 1}


def test_backups_and_sizes(path: str, tmp_path: Path) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state, (1, page("x")))
        state.checkpoint()
        used = usage(state).memories
        assert used[A, "heap"] >= SIZE > used[B, "heap"], "what is shared is counted once"
        expected = whole(state, B)
    backup(path, tmp_path / "copy")
    with StateDirectory.open(tmp_path / "copy") as state:
        assert whole(state, B) == expected
        assert state.verify() == []


def test_a_mapped_memory_follows(path: str) -> None:
    """What is mapped goes on through copies and checkpoints, as its extents say."""
    with StateDirectory.open(path) as state:
        fill(state)
        image = state.image(A, "heap")
        copied(state)
        for turn in range(4):
            delta = PageDelta(PAGES // 16, [(turn * PAGE, page(f"turn {turn}"))])
            state.commit(Message(), {A: CanisterChange({"heap": delta})})
            image.commit(delta)
            state.checkpoint()
            assert image.read(turn * PAGE, PAGE) == page(f"turn {turn}")
            assert read(state, turn, B) == page(str(turn))
        image.close()
        assert state.verify() == []


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (Layout((), (16, 0)), "expected some"),
        (Layout(("0-heap-1", "0-heap-1"), (16, 0)), "each once"),
        (Layout(("0-heap-1",), (16, 1)), "1 files"),
        (Layout(("0-heap-1",), (16, 0, 0, 0)), "1 files"),
        (Layout(("0-heap-1",), (16,)), "1 files"),
        (Layout(("0-heap-1",), (15, 0)), "15 pages"),
        (Layout(("../0-heap-1",), (16, 0)), "SLOT-NAME-GENERATION"),
        (Layout(("0-heap-1/x",), (16, 0)), "SLOT-NAME-GENERATION"),
    ],
)
def test_layouts_that_cannot_be_are_refused(layout: Layout, match: str) -> None:
    kept = KeptCanister(0, memories={"heap": KeptMemory(1, 1, bytes(32))}, layers={"heap": layout})
    data = encode_checkpoint(Checkpoint(epoch=1, state_hash=bytes(32), next_slot=1, canisters={A: kept}))
    with pytest.raises(MalformedError, match=match):
        decode_checkpoint(data)


def test_copies_of_nothing_are_refused(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        for origin in (Origin(B, "heap"), Origin(A, "other")):
            change = CanisterChange({"heap": PageDelta(PAGES // 16, ())}, origins={"heap": origin})
            with pytest.raises(ValueError, match="cannot be a copy"):
                state.commit(Message(), {C: change})
        change = CanisterChange({"heap": PageDelta(1, ())}, origins={"heap": Origin(A, "heap")})
        with pytest.raises(ValueError, match="shrink"):
            state.commit(Message(), {C: change})
        assert list(state.canisters) == [A]
        commit(state, (0, page("goes on")), wasm_pages=PAGES // 16)


def test_a_shared_file_that_is_cut_off_is_said(path: str) -> None:
    with StateDirectory.open(path) as state:
        fill(state)
        copied(state)
        state.checkpoint()
    os.truncate(Path(path, "images", "0-heap-1.img"), PAGE)
    with StateDirectory.open(path, read_only=True) as state, pytest.raises(Exception, match="expected"):
        state.image(B, "heap")
