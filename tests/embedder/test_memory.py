from __future__ import annotations

import os
import random

import pytest

from perdure.canister import Extent, PageDelta
from perdure.embedder.memory import ImageMemory, coalesce
from perdure.embedder.pagemap import EveryPage, PageScan, PageTable, private_pages
from perdure.errors import StorageError
from perdure.memory import ViewableMemory
from perdure.storage import TemporaryImage, TemporaryStore

PAGE = 4096
WASM_PAGE = 65536
RESERVED, GUARD = 1 << 24, 1 << 20


@pytest.fixture(params=["", "pagemap", "bytes", None], ids=["scan", "pagemap", "bytes", "list"])
def pages(request):
    """A way to find changed pages; `None`: the memory is told."""
    return None if request.param is None else private_pages({"PERDURE_PORTABLE": request.param})


def memory_over(image, pages, **more):
    memory = ImageMemory(image, pages, **more)
    memory.attach(0, RESERVED, GUARD)
    return memory


@pytest.fixture
def image():
    image = TemporaryImage(TemporaryStore())
    image.commit(PageDelta(4, [(address, bytes([address // PAGE + 1]) * PAGE) for address in (0, 2 * PAGE, 17 * PAGE)]))
    return image


@pytest.fixture
def memory(image, pages):
    memory = memory_over(image, pages)
    yield memory
    memory.close()


def commit(memory):
    delta = memory.changes()
    if delta is not None:
        memory.commit(delta)
    return delta and [(address, len(data)) for address, data in delta.runs]


@pytest.mark.parametrize("kind", [("", PageScan), ("1", PageTable), ("pagemap", PageTable), ("bytes", EveryPage)])
def test_ways_are_chosen_by_the_environment(kind):
    assert isinstance(private_pages({"PERDURE_PORTABLE": kind[0]}), kind[1])


def test_shows_the_image(memory):
    assert isinstance(memory, ViewableMemory)
    assert memory.size() == 4
    assert memory.read(17 * PAGE - 1, 3) == b"\0\x12\x12"
    assert memory.view(2 * PAGE - 1, 2) == b"\0\x03"
    assert memory.changes() is None


def test_reads_change_nothing(memory):
    assert sum(memory.read(0, 4 * WASM_PAGE)) == PAGE * (1 + 3 + 18)
    assert memory.changes() is None


def test_write_commit_read(memory, image, pages):
    memory.write(PAGE - 1, b"xy")
    memory.write(40 * PAGE, b"z")
    assert commit(memory) == [(0, 2 * PAGE), (40 * PAGE, PAGE)]
    assert memory.read(PAGE - 1, 2) == b"xy"
    again = memory_over(image, pages)
    assert again.read(0, 4 * WASM_PAGE) == memory.read(0, 4 * WASM_PAGE)
    again.close()


def test_write_roll_back(memory):
    before = memory.read(0, 4 * WASM_PAGE)
    memory.write(PAGE - 1, b"xy")
    memory.write(40 * PAGE, b"z")
    memory.roll_back()
    assert memory.read(0, 4 * WASM_PAGE) == before
    assert memory.changes() is None


class CutOff(set):
    """Pages of which one more cannot be noted."""

    def update(self, *_):
        raise KeyboardInterrupt


def test_a_write_that_is_cut_off_is_rolled_back(memory):
    before = memory.read(0, 4 * WASM_PAGE)
    memory.written = CutOff()
    with pytest.raises(KeyboardInterrupt):
        memory.write(PAGE, b"x")
    memory.written = set()
    memory.roll_back()
    assert memory.read(0, 4 * WASM_PAGE) == before


def test_what_a_rollback_leaves_private_is_as_committed(memory, image):
    before = memory.read(0, 4 * WASM_PAGE)
    memory.write(2 * PAGE, b"one")
    memory.write(3 * PAGE, b"two")
    memory.roll_back()
    assert memory.read(0, 4 * WASM_PAGE) == before
    assert memory.changes() is None
    memory.write(4 * PAGE, b"beside them")
    memory.write(2 * PAGE, b"one")
    assert commit(memory) == [(2 * PAGE, PAGE), (4 * PAGE, PAGE)]
    memory.write(2 * PAGE, b"two")
    memory.roll_back()
    assert (memory.read(2 * PAGE, 3), memory.read(3 * PAGE, 3), image.read(2 * PAGE, 3)) == (b"one", bytes(3), b"one")
    for page in range(20):  # more than stay private
        memory.write(page * PAGE, b"x")
    memory.roll_back()
    assert memory.read(0, 4 * WASM_PAGE) == image.read(0, 4 * WASM_PAGE)


def test_rollbacks_of_one_page_after_another_leave_few_of_them_private(memory, image):
    before = memory.read(0, 4 * WASM_PAGE)
    most = 0
    for page in range(64):
        memory.write(page * PAGE, b"x")
        memory.roll_back()
        most = max(most, len(memory._kept))
    assert most <= 16
    assert memory.read(0, 4 * WASM_PAGE) == before
    memory.write(63 * PAGE, b"y")
    assert commit(memory) == [(63 * PAGE, PAGE)]
    assert memory.read(63 * PAGE, 1) == image.read(63 * PAGE, 1) == b"y"


def test_growth(memory, image):
    assert memory.grow(3) == 4
    memory.write(6 * WASM_PAGE, b"new")
    delta = memory.changes()
    assert (delta.wasm_pages, [address for address, _ in delta.runs]) == (7, [6 * WASM_PAGE])
    memory.roll_back()
    assert memory.size() == 4
    memory.grow(3)
    assert memory.read(6 * WASM_PAGE, 3) == bytes(3)
    memory.write(6 * WASM_PAGE, b"new")
    commit(memory)
    assert (image.wasm_pages, memory.read(6 * WASM_PAGE, 3)) == (7, b"new")
    memory.write(6 * WASM_PAGE, b"old")
    memory.roll_back()
    assert memory.read(6 * WASM_PAGE, 3) == b"new"


def test_growth_beyond_the_reservation_moves_everything(memory):
    memory.write(PAGE, b"dirty")
    base = memory.base
    assert memory.grow((RESERVED >> 16) + 1) == 4
    assert memory.base != base
    assert memory.read(0, 2) == b"\1\1"
    assert memory.read(PAGE, 5) == b"dirty"
    assert memory.read(17 * PAGE, 2) == b"\x12\x12"
    memory.write(RESERVED + PAGE, b"far")
    assert commit(memory) == [(PAGE, PAGE), (RESERVED + PAGE, PAGE)]
    memory.write(RESERVED + PAGE, b"war")
    memory.roll_back()
    assert (memory.read(PAGE, 5), memory.read(RESERVED + PAGE, 3)) == (b"dirty", b"far")


def test_view_survives_a_move_and_a_close(memory):
    view = memory.view(0, PAGE)
    memory.grow((RESERVED >> 16) + 1)
    assert len(bytes(view)) == PAGE
    view = memory.view(0, PAGE)
    memory.close()
    assert len(bytes(view)) == PAGE


def test_fresh_memory_replaces_what_the_image_holds(image, pages):
    memory = memory_over(image, pages, fresh=True)
    assert memory.size() == 0
    memory.grow(2)
    memory.write(5 * PAGE, b"new")
    delta = memory.changes()
    assert delta.fresh
    memory.commit(delta)
    assert memory.read(0, 2) == bytes(2)
    assert memory.read(5 * PAGE, 3) == b"new"
    memory.write(0, b"x")
    assert commit(memory) == [(0, PAGE)]
    memory.close()
    again = memory_over(image, pages)
    assert (again.size(), again.read(0, 1), again.read(17 * PAGE, 1)) == (2, b"x", b"\0")
    again.close()


def test_out_of_range_raises_and_writes_nothing(memory):
    end = 4 * WASM_PAGE
    for address, size in ((end, 1), (end - 1, 2), (-1, 1), (1 << 64, 1)):
        for access in (memory.read, memory.view, lambda at, n: memory.write(at, bytes(n))):
            with pytest.raises(IndexError):
                access(address, size)
    assert memory.read(end, 0) == b""
    assert memory.changes() is None


def test_page_equal_to_its_old_bytes_is_not_dirty(image):
    for way in ("", "pagemap", "bytes"):
        memory = memory_over(image, private_pages({"PERDURE_PORTABLE": way}))
        memory.write(2 * PAGE, b"\x03\x03")
        memory.write(17 * PAGE, b"no")
        assert commit(memory) == [(17 * PAGE, PAGE)]
        memory.write(17 * PAGE, b"\x12\x12")
        commit(memory)
        memory.close()


def test_more_runs_than_a_scan_holds(image):
    memory = memory_over(image, private_pages({"PERDURE_PORTABLE": ""}))
    memory.grow(2000)
    for page in range(0, 2 * 1500, 2):
        memory.bytes[page * PAGE] = 7
    assert len(memory.changes().runs) == 1500
    memory.close()


class FileImage:
    """An image of one sealed file; enough to be shown."""

    def __init__(self, descriptor: int, extents: list[Extent]) -> None:
        self.wasm_pages = 1
        self.held = {}
        self._extents = extents

    def extents(self):
        return self._extents

    def prepare(self, delta):
        raise AssertionError

    def commit(self, delta):
        raise AssertionError

    def close(self):
        pass


def test_file_too_short_is_an_error_and_not_a_bus_error(tmp_path, pages):
    path = tmp_path / "image"
    path.write_bytes(b"x" * 5000)
    descriptor = os.open(path, os.O_RDONLY)
    memory = memory_over(FileImage(descriptor, [Extent(0, 5000, descriptor, 0)]), pages)
    assert memory.read(4999, 2) == b"x\0"
    assert memory.changes() is None
    memory.close()
    short = ImageMemory(FileImage(descriptor, [Extent(0, 3 * PAGE, descriptor, 0)]), pages)
    with pytest.raises(StorageError, match="too short"):
        short.attach(0, RESERVED, GUARD)
    short.close()
    os.close(descriptor)


def test_random_transactions_against_a_model(image, pages):
    random_ = random.Random(20261120)
    memory = memory_over(image, pages)
    committed = bytearray(memory.read(0, memory.size_bytes))
    current = bytearray(committed)
    for step in range(150):
        choice = random_.random()
        if choice < 0.7:
            address = random_.randrange(len(current) - 20)
            data = random_.randbytes(random_.randrange(1, 20)) if choice < 0.6 else bytes(5)
            memory.write(address, data)
            current[address : address + len(data)] = data
        elif choice < 0.75 and len(current) < 40 * WASM_PAGE:
            memory.grow(2)
            current += bytes(2 * WASM_PAGE)
        elif choice < 0.88:
            commit(memory)
            committed = bytearray(current)
        else:
            memory.roll_back()
            current = bytearray(committed)
        assert memory.size_bytes == len(current), step
        assert memory.read(0, len(current)) == current, step
    commit(memory)
    memory.close()
    again = memory_over(image, pages)
    assert again.read(0, again.size_bytes) == current
    again.close()


def test_coalesce():
    assert coalesce([]) == []
    assert coalesce([5, 1, 2, 9, 3]) == [(PAGE, 4 * PAGE), (5 * PAGE, 6 * PAGE), (9 * PAGE, 10 * PAGE)]
