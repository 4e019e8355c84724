"""State directories: readers, failing disks, flipped bits, history, forks, group commit."""

from __future__ import annotations

import errno
import gc
import os
import random
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from states import PAGE, A, B, commit, compare_around, heap, opened, page, read, some_state

from perdure.canister import GlobalValue, PageDelta
from perdure.errors import HostError, InternalError, StorageError
from perdure.storage import (
    Answer,
    CanisterChange,
    Message,
    Origin,
    StateDirectory,
    StorageLimits,
    TemporaryStore,
    open_sealed,
)
from perdure.storage import history as history_module
from perdure.storage.disk import RealDisk

WASM_PAGE = 65536


def test_is_created_empty_and_opened_again(path: str) -> None:
    with StateDirectory.open(path) as state:
        assert state.version == 0
        assert not state.canisters
        first = state.state_hash()
    with StateDirectory.open(path) as state:
        assert state.state_hash() == first


@pytest.mark.parametrize("stranger", ["a_file", "topology.json"])
def test_what_somebody_else_keeps_is_left_as_it_is(tmp_path: Path, stranger: str) -> None:
    (tmp_path / stranger).write_text("{}")
    with pytest.raises(StorageError, match=r"neither empty nor|directory of a network"):
        StateDirectory.open(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [stranger]


def test_keeps_everything(path: str) -> None:
    globals_ = (GlobalValue("i32", b"1234"), GlobalValue("v128", bytes(16)))
    with StateDirectory.open(path) as state:
        module = state.put_blob(b"a module")
        change = CanisterChange(
            {"heap": PageDelta(2, [(PAGE, page("h"))]), "stable": PageDelta(1, [(0, page("s") + page("t"))])},
            global_values=globals_,
            module_hash=module,
            record=b"rules",
        )
        assert state.commit(Message(b"m"), {A: change}, subnet_record=b"subnet", apply=True) == 1
        hash_ = state.state_hash()
        state.abandon()
    for _ in range(2):  # once from the log, once from the images
        with StateDirectory.open(path) as state:
            assert (state.version, state.subnet_record, state.state_hash()) == (1, b"subnet", hash_)
            found = state.canisters[A]
            assert (found.global_values, found.record, state.blob(found.module_hash)) == (
                globals_,
                b"rules",
                b"a module",
            )
            assert read(state, 1) == page("h")
            assert read(state, 1, kind="stable") == page("t")
            assert state.verify() == []


def test_the_same_commits_give_the_same_hash(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        with StateDirectory.open(tmp_path / name, durability="never") as state:
            commit(state, (0, page("a")))
            commit(state, (0, page("b")), name=B)
            if name == "one":
                state.checkpoint()
            commit(state, (1, page("c")), (2, page("d")))
            hashes.add(state.state_hash())
    assert len(hashes) == 1


@pytest.mark.parametrize("what", ["page", "size", "global", "record", "subnet", "canister"])
def test_whatever_differs_gives_another_hash(tmp_path: Path, what: str) -> None:
    hashes = []
    for name in ("one", "two"):
        odd = name == "two"
        with StateDirectory.open(tmp_path / name, durability="never") as state:
            change = heap(
                (0, page("x" if odd and what == "page" else "a")), wasm_pages=2 if odd and what == "size" else 1
            )
            change.global_values = (GlobalValue("i32", bytes([odd and what == "global", 0, 0, 0])),)
            change.record = b"r" if odd and what == "record" else b""
            subnet = b"s" if odd and what == "subnet" else b""
            key = B if odd and what == "canister" else A
            state.commit(Message(), {key: change}, subnet_record=subnet, apply=True)
            hashes.append(state.state_hash())
    assert hashes[0] != hashes[1]


# -- readers, and what others may have put there


def everything(directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*"))


def a_full_directory(path: str) -> list[str]:
    """One with every kind of file in it; their names."""
    with StateDirectory.open(path, history=None) as state:
        change = heap((0, page("a")))
        change.module_hash = state.put_blob(b"a module")
        answers = [Answer(b"request", 10**18, b"answer")]
        state.commit(Message(b"m", A), {A: change}, answers=answers, apply=True)
    return everything(Path(path))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("kind", ["link", "FIFO"])
def test_whatever_is_no_file_is_refused_by_name(tmp_path: Path, kind: str, read_only: bool) -> None:
    for name in a_full_directory(f"{tmp_path}/whole"):
        shutil.copytree(tmp_path / "whole", tmp_path / "state")
        found, outside = tmp_path / "state" / name, tmp_path / "outside"
        found.rename(outside)
        found.symlink_to(outside) if kind == "link" else os.mkfifo(found)
        before = outside.read_bytes() if outside.is_file() else everything(outside)
        with pytest.raises(StorageError, match=kind) as error:
            StateDirectory.open(tmp_path / "state", read_only=read_only)
        assert error.value.path == str(found)
        assert before == (outside.read_bytes() if outside.is_file() else everything(outside))
        shutil.rmtree(tmp_path / "state")
        outside.unlink() if outside.is_file() else shutil.rmtree(outside)


def test_links_that_come_later_lead_nowhere(path: str, tmp_path: Path) -> None:
    a_full_directory(path)
    outside = tmp_path / "outside"
    outside.write_bytes(bytes(65_536))
    state = StateDirectory.open(path)
    for name in everything(Path(path)):
        if name.startswith(("images/", "history/", "answers/")) or name in {"readers", "reserve", "checkpoint"}:
            Path(path, name).unlink()
            Path(path, name).symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link"):
        commit(state, (0, page("b")))
    with pytest.raises(StorageError, match="symbolic link"):
        state.checkpoint()
    state.abandon()
    assert outside.read_bytes() == bytes(65_536)


@pytest.mark.parametrize("name", ["checkpoint", "log", "blobs", "answers", "history"])
def test_a_hole_of_a_tebibyte_is_not_read(path: str, name: str) -> None:
    """It costs whoever makes it nothing."""
    found = next(one for one in a_full_directory(path) if one.startswith(name) and Path(path, one).is_file())
    os.truncate(f"{path}/{found}", 1 << 40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if name in {"log", "history"}:
        with StateDirectory.open(path) as state:
            assert read(state, 0) == page("a")
            assert [version.version for version in state.history()] == [1]
    else:
        with pytest.raises(StorageError, match="are no hole"), StateDirectory.open(path, read_only=True) as state:
            state.blob(state.canisters[A].module_hash)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_the_way_to_a_directory_may_be_a_link(path: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "way").symlink_to("elsewhere")
    for name in ("way", "way/state"):
        with StateDirectory.open(tmp_path / name) as state:
            commit(state, (0, page("a")))
        with StateDirectory.open(tmp_path / name, read_only=True) as state:
            assert read(state, 0) == page("a")
        shutil.rmtree(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").mkdir()


TWO_PROCESSES = """
import sys
from perdure.errors import StorageError
from perdure.storage import StateDirectory, TemporaryStore, open_sealed
from perdure.storage.disk import RealDisk
from perdure.canister import PageDelta
try:
    StateDirectory.open(sys.argv[1])
except StorageError as error:
    print(error)
with StateDirectory.open(sys.argv[1], read_only=True) as reader:
    print(reader.version)
image = open_sealed(TemporaryStore(), RealDisk().open(sys.argv[2]))
image.commit(PageDelta(1, [(0, b"c" * 4096)]))
print(image.read(4095, 2))
"""


def test_two_processes_on_one_directory_and_one_sealed_base(path: str, tmp_path: Path) -> None:
    (tmp_path / "sealed").write_bytes(b"s" * WASM_PAGE)
    store = TemporaryStore(tmp_path)
    image = open_sealed(store, RealDisk().open(str(tmp_path / "sealed")))
    image.commit(PageDelta(1, [(PAGE, b"p" * PAGE)]))
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        command = [sys.executable, "-c", TWO_PROCESSES, path, str(tmp_path / "sealed")]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.splitlines()
        commit(state, (0, page("b")))
    assert f"another process ({os.getpid()})" in said[0]
    assert said[1:] == ["1", "b'cs'"]
    assert image.read(PAGE - 1, 2) == b"sp"
    store.close()


def test_readers_see_the_last_whole_commit(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        state.checkpoint()
        commit(state, (0, page("b")))
        with StateDirectory.open(path, read_only=True) as reader:
            assert reader.version == 2
            assert read(reader, 0) == page("b")
            with pytest.raises(StorageError, match="reading"):
                commit(reader, (0, page("x")))
            commit(state, (0, page("c")))
            with pytest.raises(StorageError, match="open for reading"):
                state.checkpoint()
            assert read(reader, 0) == page("b")
        state.checkpoint()
        with StateDirectory.open(path, read_only=True) as reader:
            assert read(reader, 0) == page("c")


def test_a_reader_changes_nothing(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        state.abandon()
    before = {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}
    with StateDirectory.open(path, read_only=True) as reader:
        assert read(reader, 0) == page("a")
    assert {file: file.read_bytes() for file in Path(path).rglob("*") if file.is_file()} == before


def test_what_is_no_state_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(StorageError, match=r"letter\.txt"):
        StateDirectory.open(tmp_path)
    with pytest.raises(StorageError, match="not a state directory"):
        StateDirectory.open(tmp_path, read_only=True)
    with pytest.raises(StorageError, match="No such file"):
        StateDirectory.open(tmp_path / "a" / "b")


def test_forks_dropped_without_a_word_leave_nothing_open(path: str) -> None:
    with StateDirectory.open(path) as state:
        for n in range(12):
            commit(state, (0, page(str(n))))
            state.fork_image(A, "heap")  # nobody closes it
            fork = state.fork_image(A, "heap")
            state.checkpoint()
            del fork
            if n == 2:
                before = len(list(Path("/proc/self/fd").iterdir()))
        assert len(list(Path("/proc/self/fd").iterdir())) <= before
        assert len(list((Path(path) / "images").iterdir())) == 2


# -- the order of a commit


def test_pages_before_their_record_are_refused(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        image = state.image(A, "heap")
        with pytest.raises(InternalError, match="log record"):
            image.commit(PageDelta(1, [(PAGE, page("b"))]))
        image.commit(PageDelta(1, [(0, page("a"))]))  # the pages of the last one may come twice
        state.commit(Message(), {A: heap((0, page("b")))})
        assert read(state, 0) == page("a")
        with pytest.raises(InternalError, match="not in the image"):
            state.commit(Message(), {A: heap((0, page("c")))})
        with pytest.raises(StorageError, match="under way"):
            state.checkpoint()
        image.commit(PageDelta(1, [(0, page("b"))]))
        assert read(state, 0) == page("b")
        image.close()


def test_image_files_change_at_a_checkpoint_only(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        state.checkpoint()
        (file,) = Path(path, "images").glob("*heap*.img")
        commit(state, (0, page("b")))
        assert file.read_bytes()[:PAGE] == page("a")
        state.checkpoint()
        assert file.read_bytes()[:PAGE] == page("b")


def test_a_mapped_image_follows_a_checkpoint(path: str) -> None:
    """What a mapping shows stays true: through a checkpoint, and after the extents it is told to map anew."""
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")), (1, page("b")), wasm_pages=2)
        image = state.image(A, "heap")
        shown = {extent.address: extent for extent in image.extents()}
        held = image.held

        def byte(index: int) -> bytes:
            if index * PAGE in held:
                return held[index * PAGE][:1]
            covering = [e for e in shown.values() if e.address <= index * PAGE < e.address + e.size_bytes]
            extent = covering[-1]
            return os.pread(extent.file_descriptor, 1, extent.file_offset + index * PAGE - extent.address)

        for number in range(6):
            delta = PageDelta(2, [(number % 2 * PAGE, page(str(number)))])
            state.commit(Message(), {A: CanisterChange({"heap": delta})})
            for extent in image.commit(delta):
                shown.pop(extent.address, None)
                shown[extent.address] = extent
            held = image.held
            assert byte(number % 2) == str(number).encode()
            if number % 2:
                state.checkpoint()
                assert (byte(0), byte(1)) == (str(number - 1).encode(), str(number).encode())
        image.close()


@pytest.mark.parametrize("how", ["never mapped", "mapped before"])
def test_a_fork_outlives_the_closing_of_what_it_was_made_of(path: str, how: str) -> None:
    """A memory that nobody uses lets go of its file; one that a fork reads must not come back as its only user."""
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")), wasm_pages=1)
        state.checkpoint()
        if how == "mapped before":
            mapped = state.image(A, "heap")
            fork = state.fork_image(A, "heap")
            mapped.close()
        else:
            fork = state.fork_image(A, "heap")
            state.checkpoint()
        commit(state, (0, page("b")))
        state.checkpoint()
        assert (fork.read(0, PAGE), read(state, 0)) == (page("a"), page("b"))
        fork.close()


@pytest.mark.parametrize("how", ["owner", "reader"])
def test_a_fork_outlives_the_directory_whoever_opens_that_again(path: str, how: str) -> None:
    """Files that an opening before has left to a fork are written by no later one, and again once the fork is gone."""
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")), (1, page("a")), wasm_pages=1)
    with StateDirectory.open(path, read_only=how == "reader") as state:
        fork = state.fork_image(A, "heap")
    for letter in "bcd":
        with StateDirectory.open(path) as state:
            commit(state, (0, page(letter)))
        assert fork.read(0, 2 * PAGE) == page("a") * 2
    names = {file.name for file in Path(path, "images").iterdir()}
    assert names == {"0-heap-2.img", "0-heap-2.hash"}
    child = os.fork()
    if not child:
        os._exit(fork.read(0, 2 * PAGE) != page("a") * 2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    fork.close()
    del fork
    gc.collect()
    for letter in "ef":
        with StateDirectory.open(path) as state:
            commit(state, *((number, page(letter)) for number in range(2)))
    with StateDirectory.open(path) as state:
        assert (read(state, 0), state.verify()) == (page("f"), [])
        assert names == {file.name for file in Path(path, "images").iterdir()}


def test_a_fork_outlives_a_reader_while_the_owner_goes_on(path: str) -> None:
    with StateDirectory.open(path) as state:
        for letter in "ab":  # the second time in place
            commit(state, (0, page(letter)), (1, page(letter)), wasm_pages=1)
            state.checkpoint()
        with StateDirectory.open(path, read_only=True) as seen:
            fork = seen.fork_image(A, "heap")
        commit(state, (0, page("c")))
        state.checkpoint()
        assert (fork.read(0, 2 * PAGE), read(state, 0)) == (page("b") * 2, page("c"))
        fork.close()
        assert state.verify() == []


def test_nonsense_is_refused_before_it_is_logged(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")), wasm_pages=2)
        for change in (
            heap((0, b"short"), wasm_pages=2),
            heap((40, page("x")), wasm_pages=2),
            heap(wasm_pages=1),
            CanisterChange({"heap": PageDelta(2, [(PAGE, page("b")), (0, page("a"))])}),
        ):
            with pytest.raises(ValueError):
                state.commit(Message(), {A: change}, apply=True)
        with pytest.raises(ValueError, match="to delete"):
            state.commit(Message(), {B: CanisterChange(deleted=True)})
        assert state.version == 1
        with pytest.raises(KeyError):
            state.image(B, "heap")
        with pytest.raises(KeyError, match="no memory"):
            state.image(A, "stack")
    with pytest.raises(ValueError, match="closed"):
        state.image(A, "heap")


def test_runs_of_no_bytes_change_nothing(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")), (1, b""), (1, page("b")), (2, b""))
        state.abandon()
    with StateDirectory.open(path) as state:
        assert [read(state, index) for index in range(3)] == [page("a"), page("b"), bytes(PAGE)]


def test_fresh_and_deleted_canisters_leave_no_files(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (3, page("old")))
        commit(state, (0, page("b")), name=B)
        state.checkpoint()
        commit(state, (0, page("new")), fresh=True)
        state.commit(Message(), {B: CanisterChange(deleted=True)})
        state.checkpoint()
        assert sorted(file.name for file in Path(path, "images").iterdir()) == ["0-heap-2.hash", "0-heap-2.img"]
        assert read(state, 3) == bytes(PAGE)
    with StateDirectory.open(path) as state:
        assert list(state.canisters) == [A]
        assert read(state, 0) == page("new")
        assert state.verify() == []


def test_the_log_is_used_again(path: str) -> None:
    with StateDirectory.open(path, limits=StorageLimits(log_bytes=100 << 10)) as state:
        for number in range(300):
            commit(state, (number % 16, page(str(number))))
    assert Path(path, "log").stat().st_size <= 1 << 20
    with StateDirectory.open(path) as state:
        assert state.version == 300
        assert read(state, 299 % 16) == page("299")


def test_a_memory_of_500_gib(path: str) -> None:
    wasm_pages = 8_192_000
    last = wasm_pages * 16 - 1
    with StateDirectory.open(path) as state:
        runs = [(0, page("first")), *((gib << 18, page(f"{gib}")) for gib in range(1, 500)), (last, page("last"))]
        commit(state, *runs, wasm_pages=wasm_pages)
        state.checkpoint()
        commit(state, (last, page("later")), wasm_pages=wasm_pages)
        state.abandon()
    with StateDirectory.open(path) as state:
        assert read(state, last) == page("later")
        assert read(state, 17 << 18) == page("17")
        assert state.verify() == []
        assert state.canisters[A].memories["heap"].wasm_pages == wasm_pages
    used = sum(file.stat().st_blocks * 512 for file in Path(path, "images").iterdir())
    assert used < 64 << 20


# -- forks and the past


def test_forks_stay_what_they_were_through_checkpoints(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        state.checkpoint()
        fork = state.fork_image(A, "heap")
        deeper = fork.fork()
        commit(state, (0, page("b")))
        state.checkpoint()
        fork.commit(PageDelta(1, [(1, page("f"))] and [(PAGE, page("f"))]))
        assert fork.read(0, 2 * PAGE) == page("a") + page("f")
        assert deeper.read(0, 2 * PAGE) == page("a") + bytes(PAGE)
        assert read(state, 0) == page("b")
        fork.close()
        deeper.close()
        state.checkpoint()
        assert state.verify() == []


def test_automatic_checkpoints_go_on_beside_forks(path: str) -> None:
    with StateDirectory.open(path, limits=StorageLimits(log_bytes=40_000)) as state:
        commit(state, (0, page("a")))
        state.checkpoint()
        fork = state.fork_image(A, "heap")
        for number in range(20):
            commit(state, (0, page(str(number))))
        assert {file.name for file in Path(path, "images").iterdir()} == {"0-heap-2.img", "0-heap-2.hash"}
        assert fork.read(0, PAGE) == page("a")
        assert read(state, 0) == page("19")
        fork.close()
        assert state.verify() == []


def test_history_blame_and_the_past(path: str) -> None:
    with StateDirectory.open(path, history=None) as state:
        commit(state, (0, page("one")), (1, page("one")), message=b"m1")
        commit(state, (1, page("two")), wasm_pages=2, message=b"m2")
        state.checkpoint()
        commit(state, (20, page("three")), wasm_pages=2, message=b"m3")
        commit(state, (2, page("four")), fresh=True, message=b"m4")
        state.commit(Message(b"m5"), {A: CanisterChange(deleted=True), B: heap((0, page("b")))}, apply=True)
        commit(state, (0, page("again")), message=b"m6")
        hashes = {version.version: version.state_hash for version in state.history()}
        assert len({*hashes.values()}) == 6
        for _ in range(2):
            for version, state_hash in hashes.items():
                assert state.at(version).state_hash == state_hash
            assert [version.message.message_id for version in state.history()] == [b"m%d" % n for n in range(6, 0, -1)]
            assert state.history()[2].changed_pages() == {(A, "heap"): 1}
            blamed = state.blame(B, "heap", 3)
            assert blamed is not None
            assert blamed.version == 5
            expected = {
                1: [page("one"), page("one"), bytes(PAGE)],
                2: [page("one"), page("two"), bytes(PAGE)],
                3: [page("one"), page("two"), bytes(PAGE)],
                4: [bytes(PAGE), bytes(PAGE), page("four")],
                6: [page("again"), bytes(PAGE), bytes(PAGE)],
            }
            for version, pages in expected.items():
                past = state.at(version)
                image = past.canisters[A].images["heap"]
                assert [image.read(n * PAGE, PAGE) for n in range(3)] == pages
                assert image.wasm_pages == (2 if version in {2, 3} else 1)
                past.close()
            assert list(state.at(5).canisters) == [B]
            assert state.at(0).canisters == {}
            state.checkpoint()
        with pytest.raises(StorageError, match="there is no version 7: they go from 0 to 6"):
            state.at(7)


def test_a_commit_is_seen_with_what_was_copied_from_others(path: str) -> None:
    def copy(one: bytes, of: bytes, *runs: tuple[int, bytes]) -> None:
        change = heap(*runs)
        change.origins["heap"] = Origin(of, "heap")
        state.commit(Message(), {one: change}, apply=True)

    with StateDirectory.open(path, history=None) as state:
        commit(state, (0, page("a")), (1, page("a")))
        commit(state, (0, page("b")), name=B)
        copy(B, A, (0, page("c")))
        commit(state, (1, page("d")))
        commit(state, (1, page("e")), name=B)
        state.checkpoint()
        copy(A, B, (2, page("f")))
        state.commit(Message(), {B: CanisterChange(deleted=True)}, apply=True)
        commit(state, (0, page("g")))
        versions = state.history()
        assert len(versions) == 8
        for version in versions:
            compare_around(state, version)
        looked: list[int] = []
        before, after = state.around(versions[-1], lambda: looked.append(1))
        before.close(), after.close()
        assert looked

        def never() -> None:
            raise HostError("it took too long")

        with pytest.raises(HostError, match="too long"):
            state.around(versions[-1], never)


def test_only_what_names_its_canisters_is_read_for_a_commit(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with StateDirectory.open(path, history=None) as state:
        for number in range(20):
            commit(state, (0, page(str(number))), name=B if number % 10 else A)
        oldest = state.history()[-1]
        decoded: list[tuple[Any, ...]] = []
        decode = history_module.decode_meta
        monkeypatch.setattr(history_module, "decode_meta", lambda *args: decoded.append(args) or decode(*args))
        before, after = state.around(oldest, lambda: None)
        assert len(decoded) == 2
        assert (before.canisters, list(after.canisters)) == ({}, [A])
        after.close()


def test_some_of_the_history_is_what_is_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Across the log and files of history; what nobody asked for is not decoded."""
    decoded = []
    decode = history_module.decode_meta
    monkeypatch.setattr(history_module, "decode_meta", lambda *args: decoded.append(args) or decode(*args))
    with StateDirectory.open(path, history=None) as state:
        for number in range(1, 10):
            commit(state, (0, page(str(number))))
            if number % 4 == 0:
                state.checkpoint()
        for newest, below in ((None, None), (1, None), (3, None), (5, 9), (1, 6), (2, 1), (1, 100)):
            decoded.clear()
            found = [one.version for one in state.history(newest, below=below)]
            assert found == [one for one in range(9, 0, -1) if below is None or one < below][:newest]
            assert len(decoded) == len(found)
        assert len(state.history(naming=A)) == 9
        assert state.history(naming=b"nobody") == []


def test_the_history_goes_on_from_what_was_read(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scanned = []
    scan = history_module.scan

    def counted(*args):
        for record in scan(*args):
            scanned.append(record.version)
            yield record

    monkeypatch.setattr(history_module, "scan", counted)
    with StateDirectory.open(path, history=None) as state:
        for number in range(1, 6):
            commit(state, (0, page(str(number))))
        assert [one.version for one in state.history(2)] == [5, 4]
        scanned.clear()
        commit(state, (0, page("six")))
        assert [one.version for one in state.history()] == [6, 5, 4, 3, 2, 1]
        assert scanned == [6]
        state.checkpoint()  # the log begins anew, what it had is a file of its own
        commit(state, (0, page("seven")))
        assert [one.version for one in state.history()] == [7, 6, 5, 4, 3, 2, 1]
        scanned.clear()
        assert [one.version for one in state.history()] == [7, 6, 5, 4, 3, 2, 1]
        assert scanned == []
        assert state.at(3).canisters[A].images["heap"].read(0, PAGE) == page("3")
        assert len(scanned) >= 7, "what is opened is compared with its sums"


def test_history_of_the_last_commits(path: str) -> None:
    with StateDirectory.open(path, history=5) as state:
        for number in range(30):
            commit(state, (0, page(str(number))))
            if number % 3 == 2:
                state.checkpoint()
        assert 5 <= len(state.history()) <= 9
        assert state.at(26).canisters[A].images["heap"].read(0, PAGE) == page("25")
        with pytest.raises(StorageError, match="not kept"):
            state.at(3)


def test_without_history_the_past_is_not_kept(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        commit(state, (0, page("b")))
        with pytest.raises(StorageError, match="not kept"):
            state.at(1)
        with pytest.raises(IndexError):
            state.blame(A, "heap", WASM_PAGE)


# -- failing disks


def test_a_full_disk_leaves_the_state_as_it_was(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, (0, page("a")))
    hash_ = state.state_hash()
    for change in (heap((0, page("b")), (5, page("c")), wasm_pages=3), heap((1, page("z")), fresh=True)):
        disk.faults.append(("write", "/log", errno.ENOSPC))
        with pytest.raises(StorageError, match="No space left"):
            state.commit(Message(), {A: change, B: heap((0, page("b")))}, subnet_record=b"s", apply=True)
        assert (state.version, state.state_hash(), state.subnet_record) == (1, hash_, b"")
        assert list(state.canisters) == [A]
    other = opened(disk.copy(), store)
    assert other.state_hash() == hash_
    commit(state, (0, page("d")))
    commit(state, (0, page("e")), name=B)
    state.checkpoint()
    assert state.verify() == []
    assert read(state, 0) == page("d")
    again = opened(disk.copy(), store)
    assert again.state_hash() == state.state_hash()


@pytest.mark.parametrize("part", [".img", ".hash", "checkpoint.new", "history"])
def test_a_full_disk_at_a_checkpoint(disk: Any, store: TemporaryStore, part: str) -> None:
    state = opened(disk, store, history=None)
    commit(state, (0, page("a")))
    disk.faults += [("write", part, errno.ENOSPC)] * 2  # the reserve was not enough
    with pytest.raises(StorageError, match="No space left"):
        state.checkpoint()
    commit(state, (1, page("b")))
    assert opened(disk.copy(), store).version == 2
    state.checkpoint()
    assert state.verify() == []
    assert [read(state, 0), read(state, 1)] == [page("a"), page("b")]


def test_a_checkpoint_that_failed_half_way_is_no_damage(disk: Any, store: TemporaryStore) -> None:
    with opened(disk, store) as state:
        commit(state, (0, page("a")), (12, page("b")))
    with opened(disk, store) as state:
        commit(state, (12, page("c")))
        disk.faults = [("write", ".hash", errno.ENOSPC)] * 2
        with pytest.raises(StorageError):
            state.checkpoint()
        assert state.verify() == []
        state.checkpoint()
        assert state.verify() == []
    disk.flip("/state/images/0-heap-1.img", 3)
    with opened(disk, store) as state:
        assert state.verify()
        state.abandon()


@pytest.mark.parametrize("part", ["/log", ".img"])
def test_after_a_failed_sync_nothing_more_is_committed(disk: Any, store: TemporaryStore, part: str) -> None:
    state = opened(disk, store)
    commit(state, (0, page("a")))
    disk.faults.append(("sync", part, errno.EIO))
    with pytest.raises(StorageError, match="Input/output error"):
        _ = commit(state, (0, page("b"))) if part == "/log" else state.checkpoint()
    with pytest.raises(StorageError, match="open the directory anew"):
        commit(state, (0, page("c")))
    state.close()
    again = opened(disk.copy(), store)
    assert read(again, 0) in {page("a"), page("b")}


def test_a_vanished_directory_is_noticed(path: str) -> None:
    state = StateDirectory.open(path)
    commit(state, (0, page("a")))
    shutil.rmtree(path)
    with pytest.raises(StorageError, match="removed"):
        commit(state, (0, page("b")))
    state.close()


def test_a_directory_that_cannot_be_written(disk: Any, store: TemporaryStore) -> None:
    opened(disk, store).close()
    disk.faults.append(("open", "/lock", errno.EROFS))
    with pytest.raises(StorageError, match="Read-only"):
        opened(disk, store)


def test_another_format_is_refused(disk: Any, store: TemporaryStore) -> None:
    opened(disk, store).close()
    disk.flip("/state/checkpoint", 8 * 8)
    with pytest.raises(StorageError, match="format 3"):
        opened(disk, store)


def test_a_log_of_another_format_is_refused(disk: Any, store: TemporaryStore) -> None:
    state = opened(disk, store)
    commit(state, (0, page("a")))
    state.abandon()
    log = disk.open("/state/log", write=True)
    log.pwrite((9).to_bytes(2, "little"), 4)
    with pytest.raises(StorageError, match="format 9 found, at most 2 expected"):
        opened(disk, store)
    log.pwrite((2).to_bytes(2, "little"), 4)
    with opened(disk, store) as state:
        assert read(state, 0) == page("a")


def test_a_log_is_kept_through_openings_until_a_checkpoint(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
    state = StateDirectory.open(path)
    for number in range(1, 4):
        commit(state, (number, page(str(number))))
        hash_ = state.state_hash()
        state.abandon()
        state = StateDirectory.open(path)
        assert (state.version, state.recovery.commits, state.state_hash()) == (number + 1, number, hash_)
    state.checkpoint()
    state.abandon()
    with StateDirectory.open(path) as state:
        assert (state.recovery.commits, state.state_hash(), state.verify()) == (0, hash_, [])
        assert read(state, 3) == page("3")


def test_commits_that_are_waited_for_later(path: str) -> None:
    with StateDirectory.open(path) as state:
        versions = [
            state.commit(Message(b"m", A), {A: heap((n, page(str(n))))}, apply=True, wait=False) for n in range(16)
        ]
        large = CanisterChange({"stable": PageDelta(64, [(0, bytes(range(256)) * 8192)])})
        versions += [state.commit(Message(b"m", A), {A: large}, apply=True, wait=False) for _ in range(3)]
        state.wait(versions[-1])
        state.wait(versions[0])
        state.abandon()
    with StateDirectory.open(path) as state:
        assert (state.version, state.recovery.commits) == (19, 19)
        assert [read(state, n) for n in range(16)] == [page(str(n)) for n in range(16)]
        assert read(state, 511, kind="stable") == bytes(range(256)) * 16


def test_more_than_can_gather_is_written_though_nobody_waits(path: str) -> None:
    state = StateDirectory.open(path)
    large = CanisterChange({"stable": PageDelta(8, [(0, bytes(range(256)) * 1024)])})
    for _ in range(3):  # from the second time on, commits gather from the start
        versions = [state.commit(Message(b"m", A), {A: large}, apply=True, wait=False) for _ in range(8)]
        state.wait(versions[-1])
    state.abandon()
    with StateDirectory.open(path) as state:
        assert state.version == 24


def test_what_nobody_waited_for_is_kept_by_closing_beside_a_reader(path: str) -> None:
    with StateDirectory.open(path) as state:
        commit(state, (0, page("a")))
        with StateDirectory.open(path, read_only=True):
            for number in range(1, 5):
                state.commit(Message(b"m", A), {A: heap((number, page(str(number))))}, apply=True, wait=False)
            state.close()
    with StateDirectory.open(path, read_only=True) as state:
        assert (state.version, state.recovery.commits) == (5, 5)
        assert read(state, 4) == page("4")


@contextmanager
def interrupted(*names: str) -> Iterator[None]:
    """Ctrl-C comes as soon as a function of one of these names begins."""

    def trace(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name in names:
            raise KeyboardInterrupt

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        sys.settrace(before)


def test_an_interrupted_wait_leaves_the_disk_to_the_next(path: str) -> None:
    with StateDirectory.open(path) as state:
        version = state.commit(Message(b"m", A), {A: heap((0, page("a")))}, apply=True, wait=False)
        with interrupted("_wait_for_disk"):
            state.wait(version)
        with interrupted("_finish_direct", "_finish_buffered"):
            state.wait(version)
        state.wait(version)
        commit(state, (1, page("b")))
        state.abandon()
    with StateDirectory.open(path) as state:
        assert [read(state, 0), read(state, 1)] == [page("a"), page("b")]


@pytest.mark.parametrize(("what", "lost"), [("sync", 3), ("write", 2)])
def test_a_failed_write_is_told_to_all_who_wait(disk: Any, store: TemporaryStore, what: str, lost: int) -> None:
    state = opened(disk, store)
    commit(state, (0, page("a")))
    versions = [state.commit(Message(b"m", A), {A: heap((n, page("b")))}, apply=True, wait=False) for n in range(3)]
    disk.faults = [(what, "/log", errno.EIO)]  # the first commit is under way, the others are one write
    told: list[int] = []

    def wait(version: int) -> None:
        try:
            state.wait(version)
        except StorageError:
            told.append(version)

    threads = [threading.Thread(target=wait, args=(version,)) for version in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert sorted(told) == versions[-lost:]
    with pytest.raises(StorageError, match="no more commits"):
        commit(state, (0, page("c")))
    state.abandon()


def test_a_flipped_bit_is_never_served(disk: Any, store: TemporaryStore) -> None:
    """Anywhere: the flip is reported, or it changes nothing that is kept; what opens is what was committed."""
    hashes = some_state(disk, store)
    rng = random.Random(5)
    noticed: dict[str, int] = {}
    for path, size in sorted(disk.files().items()):
        for _ in range(60 if size else 0):
            broken = disk.copy()
            broken.flip(path, rng.randrange(8 * min(size, 60_000)))
            kind = path.rsplit("/", 2)[-2] if path.count("/") > 2 else path
            try:
                state = opened(broken, store, history=None)
            except StorageError:
                noticed[kind] = noticed.get(kind, 0) + 1
                continue
            try:
                assert state.state_hash() == hashes[state.version]
                reported = state.recovery.torn or bool(state.verify())
                state.image(A, "heap").close()
                state.blob(state.canisters[A].module_hash)
                expected = {n: page(str(n)) for n in range(1, state.version + 1)}
                assert {n: read(state, n) for n in expected if n < 5} == {n: expected[n] for n in expected if n < 5}
            except StorageError:
                reported = True
            finally:
                state.abandon()
            noticed[kind] = noticed.get(kind, 0) + reported
    assert noticed["/state/checkpoint"] == 60
    assert noticed["/state/log"] >= 40
    assert noticed["images"] >= 55
    assert noticed["blobs"] == 60


# -- many at once


def test_group_commit(path: str) -> None:
    with StateDirectory.open(path) as state:
        names = [b"client %d" % number for number in range(8)]
        versions: list[int] = []

        def client(name: bytes) -> None:
            versions.extend(commit(state, (n % 16, page(f"{name!r} {n}")), name=name) for n in range(25))

        threads = [threading.Thread(target=client, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(versions) == list(range(1, 201))
        hash_ = state.state_hash()
        state.abandon()
    with StateDirectory.open(path) as state:
        assert state.state_hash() == hash_
        for name in names:
            assert read(state, 24 % 16, name=name) == page(f"{name!r} 24")


class DirectoryMachine(RuleBasedStateMachine):
    """Commits, checkpoints, forks, crashes of the process, and the past, against bytearrays."""

    @initialize(history=st.sampled_from([0, None]))
    def start(self, history: int | None) -> None:
        import tempfile

        self.root = tempfile.mkdtemp()
        self.store = TemporaryStore(self.root)
        self.history = history
        self.models: list[dict[bytes, bytes]] = [{}]
        self.forks: list[tuple[Any, bytes]] = []
        self.count = 0
        self._open()

    def _open(self) -> None:
        limits = StorageLimits(log_bytes=100_000)
        self.state = StateDirectory.open(
            f"{self.root}/s", durability="never", history=self.history, limits=limits, store=self.store
        )

    @rule(
        name=st.sampled_from([A, B]),
        pages=st.lists(st.integers(0, 40), unique=True, max_size=4),
        grow=st.integers(0, 1),
        fresh=st.sampled_from([False] * 7 + [True]),
    )
    def commit(self, name: bytes, pages: list[int], grow: int, fresh: bool) -> None:
        model = dict(self.models[-1])
        old = model.get(name, b"")
        data = bytearray(len(old) + grow * WASM_PAGE)
        if not fresh:
            data[: len(old)] = old
        runs = []
        for index in sorted(pages):
            if (index + 1) * PAGE <= len(data):
                self.count += 1
                runs.append((index, page(str(self.count))))
                data[index * PAGE : (index + 1) * PAGE] = runs[-1][1]
        commit(self.state, *runs, name=name, wasm_pages=len(data) // WASM_PAGE, fresh=fresh)
        model[name] = bytes(data)
        self.models.append(model)

    @rule(name=st.sampled_from([A, B]))
    def delete(self, name: bytes) -> None:
        if name in self.models[-1]:
            self.state.commit(Message(), {name: CanisterChange(deleted=True)})
            self.models.append({key: data for key, data in self.models[-1].items() if key != name})

    @rule()
    def checkpoint(self) -> None:
        self.state.checkpoint()

    @rule(name=st.sampled_from([A, B]))
    def fork(self, name: bytes) -> None:
        if name in self.models[-1]:
            self.forks.append((self.state.fork_image(name, "heap"), self.models[-1][name]))

    @precondition(lambda self: self.forks)
    @rule()
    def drop_a_fork(self) -> None:
        self.forks.pop(0)[0].close()

    @rule(clean=st.booleans())
    def open_again(self, clean: bool) -> None:
        for fork, _ in self.forks:
            fork.close()
        self.forks.clear()
        _ = self.state.close() if clean else self.state.abandon()
        self._open()

    @precondition(lambda self: self.history is None)
    @rule(back=st.integers(0, 6))
    def look_back(self, back: int) -> None:
        version = max(self.state.version - back, 0)
        past = self.state.at(version)
        found = {
            name: c.images["heap"].read(0, c.images["heap"].wasm_pages * WASM_PAGE)
            for name, c in past.canisters.items()
        }
        assert found == self.models[version]
        past.close()

    @precondition(lambda self: self.history is None)
    @rule(back=st.integers(0, 6))
    def look_around(self, back: int) -> None:
        for version in self.state.history(1, below=self.state.version - back + 1):
            compare_around(self.state, version)

    @invariant()
    def is_what_was_committed(self) -> None:
        if not hasattr(self, "state"):
            return
        assert self.state.version == len(self.models) - 1
        model = self.models[-1]
        assert self.state.canisters.keys() == model.keys()
        for name, data in model.items():
            image = self.state.canisters[name].memories["heap"].image()
            assert image.read(0, image.wasm_pages * WASM_PAGE) == data
        for fork, data in self.forks:
            assert fork.read(0, len(data)) == data

    def teardown(self) -> None:
        if hasattr(self, "state"):
            self.state.abandon()
            self.store.close()
            shutil.rmtree(self.root)


TestDirectoryMachine = DirectoryMachine.TestCase
TestDirectoryMachine.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
