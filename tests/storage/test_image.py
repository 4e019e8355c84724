"""Temporary images: the contract of every image, forks, sealed bases, the budget of mappings, failing disks."""

from __future__ import annotations

import errno
import linecache
import os
import random
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, rule
from interrupting import is_interrupted

from perdure.canister import Extent, Image, PageDelta
from perdure.errors import StorageError
from perdure.storage import TemporaryImage, TemporaryStore, open_sealed
from perdure.storage.disk import RealDisk, RealFile
from perdure.storage.temporary import GRANULE_BYTES, unlinked_file

PAGE = 4096
WASM_PAGE = 65536


class Shown:
    """What an embedder makes of an image: it shows what it was told to map or hold, and nothing else."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self.shown: list[Extent] = []
        self.show(image.extents())
        self.held = image.held

    def show(self, extents: Sequence[Extent]) -> None:
        for extent in extents:
            assert not extent.address % PAGE
            assert not extent.file_offset % PAGE
            self.shown.append(extent)  # a later one covers earlier ones

    def commit(self, *runs: tuple[int, bytes], wasm_pages: int | None = None, fresh: bool = False) -> Sequence[Extent]:
        pages = self.image.wasm_pages if wasm_pages is None else wasm_pages
        extents = self.image.commit(PageDelta(pages, runs, fresh))
        self.show(extents)
        self.held = self.image.held
        return extents

    def content(self) -> bytes:
        return shown_bytes(self.shown, self.held, self.image.wasm_pages * WASM_PAGE)


def shown_bytes(extents: Sequence[Extent], held: Mapping[int, bytes], size_bytes: int) -> bytes:
    data = bytearray(size_bytes)
    for address, extent_bytes, descriptor, offset in extents:
        wanted = max(min(-(-extent_bytes // PAGE) * PAGE, size_bytes - address), 0)
        data[address : address + wanted] = os.pread(descriptor, wanted, offset).ljust(wanted, b"\0")
    for address, content in held.items():
        assert not address % PAGE
        assert len(content) == PAGE
        assert address < size_bytes
        data[address : address + PAGE] = content
    return bytes(data)


def page(text: str) -> bytes:
    return text.encode().ljust(PAGE, b".")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[TemporaryStore]:
    store = TemporaryStore(tmp_path)
    yield store
    store.close()


def sealed_image(store: TemporaryStore, path: Path, data: bytes) -> TemporaryImage:
    path.write_bytes(data)
    return open_sealed(store, RealDisk().open(str(path)))


def empty(store: TemporaryStore, _path: Path) -> TemporaryImage:
    return TemporaryImage(store)


def forked(store: TemporaryStore, _path: Path) -> TemporaryImage:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(1, [(PAGE, page("parent"))]))
    child = parent.fork()
    child.commit(PageDelta(0, [], fresh=True))
    return child


def over_a_file(store: TemporaryStore, path: Path) -> TemporaryImage:
    image = sealed_image(store, path / "sealed", b"")
    assert image.wasm_pages == 0
    return image


@pytest.mark.parametrize("create", [empty, forked, over_a_file])
class TestContract:
    """What every image promises."""

    @pytest.fixture
    def mapping(
        self, create: Callable[[TemporaryStore, Path], TemporaryImage], store: TemporaryStore, tmp_path: Path
    ) -> Shown:
        return Shown(create(store, tmp_path))

    def test_starts_empty(self, mapping: Shown) -> None:
        assert mapping.image.wasm_pages == 0
        assert mapping.content() == b""

    def test_shows_what_was_committed(self, mapping: Shown) -> None:
        mapping.commit((0, page("a")), (3 * PAGE, page("b") + page("c")), wasm_pages=1)
        expected = page("a") + bytes(2 * PAGE) + page("b") + page("c") + bytes(11 * PAGE)
        assert mapping.content() == expected
        assert Shown(mapping.image).content() == expected
        mapping.commit((PAGE, page("d")))
        assert mapping.content() == page("a") + page("d") + expected[2 * PAGE :]

    def test_adjacent_runs(self, mapping: Shown) -> None:
        mapping.commit((PAGE, page("a")), (2 * PAGE, page("b")), (4 * PAGE, page("c")), wasm_pages=1)
        assert mapping.content()[PAGE : 5 * PAGE] == page("a") + page("b") + bytes(PAGE) + page("c")

    def test_grows_with_zeros(self, mapping: Shown) -> None:
        mapping.commit((0, page("a")), wasm_pages=1)
        mapping.commit(wasm_pages=3)
        assert mapping.image.wasm_pages == 3
        assert mapping.content() == page("a") + bytes(3 * WASM_PAGE - PAGE)

    def test_fresh_forgets(self, mapping: Shown) -> None:
        mapping.commit((0, page("a")), (PAGE, page("b")), wasm_pages=2)
        mapping.commit((PAGE, page("c")), wasm_pages=1, fresh=True)
        assert mapping.content() == bytes(PAGE) + page("c") + bytes(14 * PAGE)
        mapping.commit(wasm_pages=2)
        assert mapping.content() == bytes(PAGE) + page("c") + bytes(30 * PAGE)

    @pytest.mark.parametrize(
        ("runs", "wasm_pages"),
        [
            ([(1, bytes(PAGE))], 1),
            ([(0, bytes(100))], 1),
            ([(WASM_PAGE, bytes(PAGE))], 1),
            ([(0, bytes(PAGE)), (WASM_PAGE, bytes(PAGE))], 1),
            ([(PAGE, bytes(PAGE)), (0, bytes(PAGE))], 1),
            ([(0, bytes(2 * PAGE)), (PAGE, bytes(PAGE))], 1),
            ([], 0),
        ],
    )
    def test_refuses_nonsense(self, mapping: Shown, runs: list[tuple[int, bytes]], wasm_pages: int) -> None:
        mapping.commit(wasm_pages=1)
        with pytest.raises(ValueError):
            mapping.commit(*runs, wasm_pages=wasm_pages)
        assert mapping.content() == bytes(WASM_PAGE)


def test_a_large_memory_costs_nothing(store: TemporaryStore) -> None:
    image = TemporaryImage(store)
    wasm_pages = 8_192_000  # 500 GiB
    last = wasm_pages * WASM_PAGE - PAGE
    image.commit(PageDelta(wasm_pages, [(0, page("first")), (last, page("last"))]))
    assert image.read(last, PAGE) == page("last")
    assert image.read(last - PAGE, PAGE) == bytes(PAGE)
    assert image.mappings <= 12
    assert all(end - start <= WASM_PAGE for start, end in image.data_ranges())  # room is made in such steps


def test_hot_commit_is_in_place(store: TemporaryStore) -> None:
    mapping = Shown(TemporaryImage(store))
    assert mapping.commit((0, page("a")), wasm_pages=1)
    assert mapping.commit((0, page("b"))) == ()
    assert mapping.commit((0, page("c")), wasm_pages=4000) == ()


def test_forks_do_not_see_each_other(store: TemporaryStore) -> None:
    parent = Shown(TemporaryImage(store))
    parent.commit((0, page("a")), (5 * PAGE, page("b")), wasm_pages=1)
    child = Shown(parent.image.fork())  # type: ignore[attr-defined]
    grandchild = Shown(child.image.fork())  # type: ignore[attr-defined]
    child.commit((0, page("child")))
    parent.commit((PAGE, page("parent")))
    grandchild.commit((5 * PAGE, page("grandchild")), wasm_pages=2)
    assert parent.content() == page("a") + page("parent") + bytes(3 * PAGE) + page("b") + bytes(10 * PAGE)
    assert child.content() == page("child") + bytes(4 * PAGE) + page("b") + bytes(10 * PAGE)
    assert grandchild.content() == page("a") + bytes(4 * PAGE) + page("grandchild") + bytes(26 * PAGE)


def test_a_fork_that_was_cut_off_anywhere_takes_nothing_of_its_parent(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(1, [(0, page("a")), (5 * PAGE, page("b"))]))
    for place in count(1):
        was_there = is_interrupted(lambda: parent.fork().close(), place)
        other = TemporaryImage(store)  # gets the space, if the parent has lost it
        other.commit(PageDelta(1, [(0, page("x"))]))
        other.close()
        assert parent.read(0, PAGE) == page("a"), place
        assert parent.read(5 * PAGE, PAGE) == page("b"), place
        if not was_there:
            break
    assert place > 100


def test_the_file_reaches_as_far_as_it_is_mapped_whatever_came_before(
    store: TemporaryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RealFile, "truncate", cut_off)
        with pytest.raises(KeyboardInterrupt):
            store.allocate(PAGE)
    region = store.allocate(PAGE)
    assert region.file.size() >= region.offset + PAGE


def test_a_fork_holds_its_first_pages_in_memory(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(4, [(n * PAGE, page(f"a{n}")) for n in range(64)]))
    child = Shown(parent.fork())
    extents = child.image.extents()
    expected = [page(f"a{n}") for n in range(64)]
    for number in range(100):
        index = 3 * (number % 16)
        expected[index] = page(f"b{number}")
        assert child.commit((index * PAGE, expected[index])) == ()
        assert child.content() == b"".join(expected)
    assert (child.image.extents(), len(child.held), store.held_pages) == (extents, 16, 16)
    grandchild = Shown(child.image.fork())  # type: ignore[attr-defined]
    assert grandchild.content() == child.content()
    expected[1] = page("one more")
    assert child.commit((PAGE, expected[1]))
    assert (child.content(), child.held, store.held_pages) == (b"".join(expected), {}, 16)
    expected[1] = page("a1")
    assert grandchild.content() == b"".join(expected)


def test_a_fork_writes_in_place_what_it_has_files_for(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(1024, []))
    child = Shown(parent.fork())
    child.commit(*((n << 21, page(f"a{n}")) for n in range(20)))
    assert child.commit((0, page("b")), (2 << 21, page("b")), (19 << 21, page("b"))) == ()
    assert child.held == {}
    assert child.commit((0, page("c")), (3 << 21, page("c")), (25 << 21, page("c"))) == ()
    assert child.held == {25 << 21: page("c")}
    assert [child.content()[n << 21 : (n << 21) + 2] for n in (0, 1, 2, 3, 25)] == [b"c.", b"a1", b"b.", b"c.", b"c."]
    again = Shown(child.image.fork())  # type: ignore[attr-defined]
    again.commit(*((n << 21, page("d")) for n in range(20)))
    again.commit((0, page("e")), *(((2 * n + 1) << 20, page(f"e{n}")) for n in range(20)))
    assert again.held == {}
    found = again.content()
    assert [found[n << 21 : (n << 21) + 2] for n in range(20)] == [b"e.", *[b"d."] * 19]
    odd = [found[(2 * n + 1) << 20 :][:PAGE] for n in range(20)]
    assert odd == [page(f"e{n}") for n in range(20)]


def test_pages_held_by_all_images_together_are_few(tmp_path: Path) -> None:
    store = TemporaryStore(tmp_path, held_budget=20)
    parent = TemporaryImage(store)
    parent.commit(PageDelta(1, [(0, page("parent"))]))
    forks = [Shown(parent.fork()) for _ in range(5)]
    for turn in range(3):
        for number, fork in enumerate(forks):
            fork.commit(*((n * PAGE, page(f"{turn} {number} {n}")) for n in range(6)))
            assert store.held_pages <= 20
    for number, fork in enumerate(forks):
        assert fork.content()[: 6 * PAGE] == b"".join(page(f"2 {number} {n}") for n in range(6))
        fork.image.close()
    assert store.held_pages == 0
    store.close()


def test_a_fork_cut_and_grown_again_is_zero_there(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(2, [(0, page("a")), (WASM_PAGE, page("b"))]))
    child = parent.fork()
    child.commit(PageDelta(2, [(PAGE, page("c")), (WASM_PAGE + PAGE, page("d"))]))
    child.cut(1)
    child.commit(PageDelta(2, []))
    assert child.read(0, 2 * WASM_PAGE) == page("a") + page("c") + bytes(30 * PAGE)
    assert parent.read(WASM_PAGE, PAGE) == page("b")


def test_held_pages_can_be_brought_into_files(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(1, [(0, page("a"))]))
    child = parent.fork()
    child.commit(PageDelta(1, [(PAGE, page("b")), (5 * PAGE, page("c"))]))
    assert list(child.data_ranges()) == [(0, 2 * PAGE), (5 * PAGE, 6 * PAGE)]
    child.write_held()
    assert child.held == {}
    assert list(child.data_ranges()) == [(0, 2 * PAGE), (5 * PAGE, 6 * PAGE)]
    assert shown_bytes(child.extents(), {}, WASM_PAGE) == page("a") + page("b") + bytes(3 * PAGE) + page("c") + bytes(
        10 * PAGE
    )


def test_writes_in_place_again_when_the_fork_is_gone(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(1, [(0, page("a"))]))
    child = parent.fork()
    child.close()
    child.close()
    assert parent.commit(PageDelta(1, [(0, page("b"))])) == ()


def test_a_sealed_file_is_never_written(store: TemporaryStore, tmp_path: Path) -> None:
    path = tmp_path / "stable_memory.bin"
    data = random.Random(1).randbytes(WASM_PAGE + 5000)  # a partial page at the end
    image = sealed_image(store, path, data)
    path.chmod(0o400)
    assert image.wasm_pages == 2
    assert image.read(0, 2 * WASM_PAGE) == data.ljust(2 * WASM_PAGE, b"\0")
    mapping = Shown(image)
    second = Shown(image.fork())
    for address in (0, WASM_PAGE + PAGE, 2 * WASM_PAGE - PAGE):
        mapping.commit((address, page(f"at {address}")))
    expected = bytearray(data.ljust(2 * WASM_PAGE, b"\0"))
    for address in (0, WASM_PAGE + PAGE, 2 * WASM_PAGE - PAGE):
        expected[address : address + PAGE] = page(f"at {address}")
    assert mapping.content() == image.read(0, 2 * WASM_PAGE) == bytes(expected)
    assert second.content() == data.ljust(2 * WASM_PAGE, b"\0")
    assert path.read_bytes() == data


def test_a_fragmented_block_is_copied_up_whole(store: TemporaryStore) -> None:
    mapping = Shown(TemporaryImage(store))
    block = random.Random(2).randbytes(2 << 20)
    mapping.commit((0, block), wasm_pages=32)
    fork = mapping.image.fork()  # type: ignore[attr-defined]
    expected = bytearray(block)
    for index in range(0, 200, 2):
        mapping.commit((index * PAGE, page(f"p{index}")))
        expected[index * PAGE : (index + 1) * PAGE] = page(f"p{index}")
    assert mapping.content() == bytes(expected)
    assert len(mapping.image.extents()) <= 2
    assert fork.read(0, len(block)) == block


def test_the_budget_of_mappings_is_kept(tmp_path: Path) -> None:
    store = TemporaryStore(tmp_path, mapping_budget=40)
    size = 64 << 20
    parent = TemporaryImage(store)
    parent.commit(PageDelta(size // WASM_PAGE, [(0, random.Random(3).randbytes(1 << 20))]))
    mapping = Shown(parent.fork())
    rng = random.Random(4)
    expected = bytearray(parent.read(0, size))
    for number in range(600):
        address = rng.randrange(size // PAGE) * PAGE
        mapping.commit((address, page(f"n{number}")))
        expected[address : address + PAGE] = page(f"n{number}")
        assert store.mappings <= 42
    assert mapping.content() == bytes(expected)
    store.close()


def test_crosses_the_kernels_limit_of_mappings(store: TemporaryStore) -> None:
    """40,000 scattered pages over a shared base would be 80,000 mappings; the kernel allows 65,530."""
    parent = TemporaryImage(store)
    parent.commit(PageDelta(8_192, []))
    child = parent.fork()
    for start in range(0, 40_000, 8_000):
        child.commit(PageDelta(8_192, [((start + n) * 3 * PAGE, bytes(PAGE)) for n in range(8_000)]))
    assert child.mappings + parent.mappings <= 16_384
    child.merge()
    assert child.mappings == 1


def test_merge_keeps_the_content(store: TemporaryStore) -> None:
    parent = TemporaryImage(store)
    parent.commit(PageDelta(64, [(n * 7 * PAGE, page(f"a{n}")) for n in range(100)]))
    child = parent.fork()
    child.commit(PageDelta(64, [(n * 11 * PAGE, page(f"b{n}")) for n in range(90)]))
    before = child.read(0, 64 * WASM_PAGE)
    child.merge()
    assert child.mappings == 1
    assert child.read(0, 64 * WASM_PAGE) == before
    assert child.commit(PageDelta(64, [(0, page("c"))])) == ()


def test_space_is_reused(store: TemporaryStore) -> None:
    for _ in range(3):
        image = TemporaryImage(store)
        assert image.read(0, 0) == b""
        image.commit(PageDelta(1, []))
        assert image.read(0, WASM_PAGE) == bytes(WASM_PAGE)
        image.commit(PageDelta(1, [(0, page("old"))]))
        offset = image.extents()[0].file_offset
        image.close()
        assert offset == 0


def test_a_failed_write_makes_the_image_refuse(store: TemporaryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    image = TemporaryImage(store)
    image.commit(PageDelta(1, []))
    image.commit(PageDelta(1, [(2 * PAGE, page("there is room"))]))

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        fork = image.fork()
        fork.commit(PageDelta(1, [(0, page("a"))]))  # held in memory
        with pytest.raises(StorageError, match="no room for held pages: No space left"):
            fork.write_held()
        assert fork.read(0, PAGE) == page("a")
        fork.close()
        with pytest.raises(StorageError, match="No space left"):
            image.commit(PageDelta(1, [(0, page("a"))]))
    for use in (
        lambda: image.commit(PageDelta(1, [(PAGE, page("b"))])),
        lambda: image.prepare(PageDelta(1, [(0, page("a"))])),
        lambda: image.read(0, 1),
        image.extents,
        image.fork,
    ):
        with pytest.raises(StorageError, match="a commit was cut off and is to be repeated: No space left"):
            use()
    image.commit(PageDelta(1, [(0, page("a"))]))
    assert image.read(0, 3 * PAGE) == page("a") + bytes(PAGE) + page("there is room")


class SmallDisk:
    """Unlinked files on a disk that has room for so many granules, and says so when it is asked."""

    def __init__(self, granules: int) -> None:
        self.room = granules
        self.used = 0

    def __call__(self, directory: str) -> SmallFile:
        return SmallFile(self, unlinked_file(directory))


class SmallFile:
    """A file of a `SmallDisk`."""

    def __init__(self, disk: SmallDisk, file: RealFile) -> None:
        self._disk = disk
        self._file = file
        self._has: set[int] = set()

    def reserve(self, offset: int, size_bytes: int) -> None:
        wanted = set(range(offset // GRANULE_BYTES, -(-(offset + size_bytes) // GRANULE_BYTES))) - self._has
        if len(wanted) > self._disk.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._disk.room -= len(wanted)
        self._disk.used += len(wanted)
        self._has |= wanted

    def punch(self, offset: int, size_bytes: int) -> None:
        gone = self._has & set(range(offset // GRANULE_BYTES, (offset + size_bytes) // GRANULE_BYTES))
        self._has -= gone
        self._disk.room += len(gone)
        self._disk.used -= len(gone)
        self._file.punch(offset, size_bytes)

    def pwrite(self, data: bytes, offset: int) -> None:
        self.reserve(offset, len(data))
        self._file.pwrite(data, offset)

    def pwrite_each(self, buffers: Sequence[bytes], offsets: Sequence[int]) -> None:
        for data, offset in zip(buffers, offsets, strict=True):
            self.pwrite(data, offset)

    def pwritev(self, buffers: Sequence[bytes], offset: int) -> None:
        self.pwrite(b"".join(buffers), offset)

    def __getattr__(self, name: str) -> object:
        return getattr(self._file, name)


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("forked", [False, True])
def test_without_room_nothing_changes(tmp_path: Path, forked: bool, fresh: bool) -> None:
    disk = SmallDisk(8)
    store = TemporaryStore(tmp_path, held_budget=0, create_file=disk)
    image = TemporaryImage(store)
    image.commit(PageDelta(64, [(n * WASM_PAGE, page(str(n))) for n in range(5)]))
    before = image.read(0, 64 * WASM_PAGE)
    fork = image.fork() if forked else None
    wanted = PageDelta(80, [(n * WASM_PAGE, page("new")) for n in range(40)], fresh)
    for attempt in (image.prepare, image.commit):
        with pytest.raises(StorageError, match="no room for a commit: No space left"):
            attempt(wanted)
        assert image.wasm_pages == 64
        assert image.read(0, 64 * WASM_PAGE) == before
        assert Shown(image).content() == before
    image.commit(PageDelta(64, [(0, page("usable"))]))
    assert image.read(0, 64 * WASM_PAGE) == page("usable") + before[PAGE:]
    disk.room = 1000
    image.prepare(wanted)
    disk.room = 0  # what was prepared finds its room
    image.commit(wanted)
    assert image.read(0, PAGE) == image.read(39 * WASM_PAGE, PAGE) == page("new")
    assert image.wasm_pages == 80
    if fork is not None:
        assert fork.read(0, 64 * WASM_PAGE) == before
        fork.close()
    image.close()
    assert disk.used == 0
    store.close()


class Interruption(BaseException):
    """Comes at any place."""


def interrupted_at(opcode: int, action: Callable[[], object], inside: str) -> bool:
    """Run `action`, in whose code in the files `inside` an exception comes at that opcode; whether it did."""
    left = opcode

    def count(frame: types.FrameType, event: str, _: object) -> object:
        nonlocal left
        if inside not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        # No real signal comes between what a `with` has taken and its block.
        if event == "opcode" and "with self._lock" not in linecache.getline(
            frame.f_code.co_filename, frame.f_lineno or 0
        ):
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


SCENES: dict[str, tuple[bool, PageDelta]] = {
    "in place": (False, PageDelta(40, [(0, page("x")), (3 * PAGE, page("y")), (WASM_PAGE, page("z"))])),
    "grow": (False, PageDelta(5000, [(0, page("x")), (39 * WASM_PAGE, page("y"))])),
    "held": (True, PageDelta(40, [(PAGE, page("x"))])),
    "blocks": (True, PageDelta(40, [(n * WASM_PAGE, page(f"x{n}")) for n in range(0, 40, 2)])),
    "many pieces": (True, PageDelta(40, [(2 * n * PAGE, page(f"x{n}")) for n in range(40)])),
    "anew": (False, PageDelta(3, [(0, page("x")), (WASM_PAGE, page("y"))], fresh=True)),
    "anew in a fork": (True, PageDelta(3, [(0, page("x"))], fresh=True)),
}


class Scene:
    """An image, what it holds, and what it is to hold after the scene's delta."""

    def __init__(self, store: TemporaryStore, name: str) -> None:
        self.forked, self.delta = SCENES[name]
        self.parent = TemporaryImage(store)
        self.parent.commit(PageDelta(40, [(n * PAGE, page(str(n))) for n in range(0, 64, 2)]))
        self.image = self.parent.fork() if self.forked else self.parent
        self.before = self.content()
        self.after = bytearray(self.before.ljust(min(self.delta.wasm_pages, 40) * WASM_PAGE, b"\0"))
        if self.delta.fresh:
            self.after = bytearray(3 * WASM_PAGE)
        for address, data in self.delta.runs:
            self.after[address : address + PAGE] = data

    def content(self) -> bytes:
        return self.image.read(0, min(self.image.wasm_pages, 40) * WASM_PAGE)

    def close(self) -> None:
        if self.forked:
            assert self.parent.read(0, 40 * WASM_PAGE) == self.before
            self.image.close()
        self.parent.close()


@pytest.mark.parametrize("name", SCENES)
def test_a_commit_interrupted_anywhere_did_not_begin_or_can_be_repeated(store: TemporaryStore, name: str) -> None:
    opcode, outcomes = 1, set()
    while True:
        scene = Scene(store, name)
        image, delta = scene.image, scene.delta
        came = interrupted_at(opcode, lambda image=image, delta=delta: image.commit(delta), "/storage/")  # type: ignore[misc]
        try:
            found = scene.content()
        except StorageError:
            outcomes.add("unfinished")
            delta = PageDelta(delta.wasm_pages, [(a, bytes(data)) for a, data in delta.runs], delta.fresh)
        else:
            outcomes.add("after" if found == scene.after else "before")
            assert found in (scene.before, scene.after)
        image.commit(delta)
        assert scene.content() == scene.after
        image.commit(PageDelta(delta.wasm_pages, [(PAGE, page("later"))]))
        scene.after[PAGE : 2 * PAGE] = page("later")
        assert scene.content() == scene.after
        if opcode % 10 == 1 and image.wasm_pages <= 40:
            assert Shown(image).content() == scene.after
        scene.close()
        if not came:
            break
        opcode += max(opcode // 8, 1)
    assert outcomes == {"before", "unfinished", "after"}


class ImageMachine(RuleBasedStateMachine):
    """Commits, forks, merges and cuts against bytearrays; a mapping follows what commits return."""

    images = Bundle("images")

    @initialize(mapping_budget=st.sampled_from([24, 16_384]), held_budget=st.sampled_from([0, 10, 8_192]))
    def start(self, mapping_budget: int, held_budget: int) -> None:
        self.store = TemporaryStore(mapping_budget=mapping_budget, held_budget=held_budget)
        self.counter = 0

    @rule(target=images)
    def create(self) -> list[object]:
        return [Shown(TemporaryImage(self.store)), bytearray()]

    @rule(
        entry=images,
        grow=st.sampled_from([0, 0, 0, 1, 40]),
        pages=st.lists(st.integers(0, 1023), unique=True, max_size=6),
        fresh=st.sampled_from([False] * 9 + [True]),
    )
    def commit(self, entry: list[object], grow: int, pages: list[int], fresh: bool) -> None:
        mapping, model = entry
        assert isinstance(mapping, Shown)
        assert isinstance(model, bytearray)
        if fresh:
            model[:] = bytes(len(model))
        model.extend(bytes(grow * WASM_PAGE))
        runs = []
        for index in sorted(pages):
            if (index + 1) * PAGE <= len(model):
                self.counter += 1
                runs.append((index * PAGE, page(str(self.counter))))
                model[index * PAGE : (index + 1) * PAGE] = runs[-1][1]
        mapping.commit(*runs, wasm_pages=len(model) // WASM_PAGE, fresh=fresh)
        assert mapping.content() == bytes(model)

    @rule(target=images, entry=images)
    def fork(self, entry: list[object]) -> list[object]:
        mapping, model = entry
        assert isinstance(mapping, Shown)
        assert isinstance(model, bytearray)
        return [Shown(mapping.image.fork()), bytearray(model)]  # type: ignore[attr-defined]

    @rule(entry=images)
    def merge(self, entry: list[object]) -> None:
        mapping, _ = entry
        assert isinstance(mapping, Shown)
        mapping.image.merge()  # type: ignore[attr-defined]
        entry[0] = Shown(mapping.image)

    @rule(entry=images)
    def write_held(self, entry: list[object]) -> None:
        mapping, model = entry
        assert isinstance(mapping, Shown)
        assert isinstance(model, bytearray)
        mapping.image.write_held()  # type: ignore[attr-defined]
        entry[0] = Shown(mapping.image)
        assert shown_bytes(mapping.image.extents(), {}, len(model)) == bytes(model)

    @rule(entry=images, wasm_pages=st.integers(0, 2))
    def cut(self, entry: list[object], wasm_pages: int) -> None:
        mapping, model = entry
        assert isinstance(mapping, Shown)
        assert isinstance(model, bytearray)
        if wasm_pages < mapping.image.wasm_pages:
            mapping.image.cut(wasm_pages)  # type: ignore[attr-defined]
            entry[0] = Shown(mapping.image)
            del model[wasm_pages * WASM_PAGE :]

    @rule(entry=images)
    def open_anew(self, entry: list[object]) -> None:
        mapping, model = entry
        assert isinstance(mapping, Shown)
        entry[0] = Shown(mapping.image)
        assert entry[0].content() == model

    @rule(entry=images)
    def check(self, entry: list[object]) -> None:
        mapping, model = entry
        assert isinstance(mapping, Shown)
        assert isinstance(model, bytearray)
        assert mapping.content() == bytes(model)
        assert mapping.image.read(0, len(model)) == bytes(model)  # type: ignore[attr-defined]
        found = bytearray(len(model))
        last = -1
        for start, end in mapping.image.data_ranges():  # type: ignore[attr-defined]
            assert last < start < end
            last = end
            found[start:end] = mapping.image.read(start, end - start)  # type: ignore[attr-defined]
        assert found == model

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()


TestImageMachine = ImageMachine.TestCase
TestImageMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_a_run_that_begins_in_a_block_of_ones_own_and_goes_on_past_it() -> None:
    image = TemporaryImage(TemporaryStore())
    image.commit(PageDelta(160, [(0, b"\1" * (10 << 20))]))
    twin = image.fork()
    image.commit(PageDelta(160, [(0, b"\2" * (2 << 20))]))
    image.commit(PageDelta(160, [(0, b"\3" * (10 << 20))]))
    assert image.read(0, 10 << 20) == b"\3" * (10 << 20)
    assert twin.read(0, 10 << 20) == b"\1" * (10 << 20)
