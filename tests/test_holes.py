"""What is mapped of files in memory: a hole that is read there takes room, and where there is none, that is SIGBUS."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from perdure import holes
from perdure.canister import PageDelta
from perdure.embedder.memory import ImageMemory
from perdure.holes import holes_take_room, ranges_to_map
from perdure.inspection.open import open_source
from perdure.storage import TemporaryImage, TemporaryStore
from perdure.storage.disk import RealFile
from perdure.storage.pieces import Pieces
from perdure.storage.temporary import Region

PAGE, WASM_PAGE = 4096, 65536


@pytest.fixture
def new_file() -> Iterator[Callable[[], RealFile]]:
    """Makes files in memory."""
    files = []

    def make() -> RealFile:
        files.append(RealFile(os.memfd_create("perdure", os.MFD_CLOEXEC), "in memory"))
        return files[-1]

    yield make
    for file in files:
        file.close()


def used_bytes(descriptor: int) -> int:
    return os.fstat(descriptor).st_blocks * 512


def in_stripes(file: RealFile, count: int) -> None:
    """Every other page has something; the first `count` gaps are of one page, one after them of eight."""
    for number in range(count):
        file.pwrite(bytes([1]) * PAGE, 2 * number * PAGE)
    file.pwrite(b"\2" * PAGE, (2 * count + 7) * PAGE)


def test_what_lies_in_memory_is_known(new_file: Callable[[], RealFile]) -> None:
    with Path("/proc/self/status").open("rb") as other:
        assert not holes_take_room(other.fileno())
    assert holes_take_room(new_file().descriptor)
    assert not holes_take_room(-1)


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_overlay_is_what_lies_below_it(in_memory: bool, tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if in_memory else tmp_path) as file:
        expected = holes_take_room(file.fileno())
        assert holes._is_overlay_in_memory(file.fileno()) is expected
        assert expected or not in_memory
    assert not holes._is_overlay_in_memory(-1)


def test_few_ranges_are_as_they_are(new_file: Callable[[], RealFile]) -> None:
    file = new_file()
    in_stripes(file, 3)
    assert list(ranges_to_map(file, 0, 14 * PAGE)) == [
        *((at * PAGE, (at + 1) * PAGE) for at in (0, 2, 4)),
        (13 * PAGE, 14 * PAGE),
    ]
    assert list(ranges_to_map(file, 5 * PAGE, 9 * PAGE)) == []


def test_many_ranges_are_joined_where_there_is_room(
    new_file: Callable[[], RealFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "_MAX_RANGES", 10)
    file = new_file()
    in_stripes(file, 100)
    end = 208 * PAGE
    found = list(ranges_to_map(file, 0, end))
    assert len(found) == 10
    assert found[-1] == (207 * PAGE, end)
    covered = {page for low, high in found for page in range(low // PAGE, high // PAGE)}
    assert covered >= {*range(0, 200, 2), 207}
    before = used_bytes(file.descriptor)
    with mmap.mmap(file.descriptor, end, mmap.MAP_PRIVATE, mmap.PROT_READ) as mapped:
        assert all(mapped[page * PAGE] == (page % 2 == 0 or page == 207) + (page == 207) for page in covered)
    assert used_bytes(file.descriptor) == before


def test_many_ranges_stay_apart_where_there_is_no_room(
    new_file: Callable[[], RealFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holes, "_MAX_RANGES", 10)
    file = new_file()
    in_stripes(file, 100)
    room = iter([True] * 40)

    def allocate(descriptor: int, offset: int, size_bytes: int) -> None:
        if not next(room, False):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor, offset, size_bytes)

    real = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", allocate)
    assert len(list(ranges_to_map(file, 0, 208 * PAGE))) == 61


def test_a_dump_in_memory_is_read_without_its_holes(tmp_path: Path) -> None:
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(100 * WASM_PAGE + 5)
        os.pwrite(file.fileno(), b"here", 50 * WASM_PAGE)
        before = used_bytes(file.fileno())
        memory = open_source(file.name).memory
        assert memory.size() == 101
        assert memory.read(50 * WASM_PAGE - 4, 8) == b"\0\0\0\0here"
        assert memory.read(0, 101 * WASM_PAGE).count(0) == 101 * WASM_PAGE - 4
        assert used_bytes(file.fileno()) == before


@pytest.mark.parametrize("holds", [True, False])
def test_a_checkpoint_of_what_is_mapped_shows_nothing_of_others(
    holds: bool, new_file: Callable[[], RealFile], tmp_path: Path
) -> None:
    """Pages that are zero are not in its file, and what showed them until then belongs to others afterwards."""
    store, content = TemporaryStore(tmp_path), bytearray(8 * WASM_PAGE)
    file = new_file()
    file.truncate(len(content))
    base = Region(file, 0, len(content), references=1, holes_take_room=holes_take_room(file.descriptor))
    image = TemporaryImage(store)
    image.rebase(Pieces.of(base), 8)
    image.unmapped()
    memory = ImageMemory(image, None)
    memory.open()

    def write(page: int) -> None:
        memory.write(page * PAGE, b"new")
        content[page * PAGE : page * PAGE + 3] = b"new"

    for page in range(0, 8 if holds else 100, 2):
        write(page)
    memory.commit(memory.changes())
    assert bool(image.held) is holds
    for at in range(0, len(content), PAGE):
        if any(content[at : at + PAGE]):
            file.pwrite(content[at : at + PAGE], at)
    image.rebase(Pieces.of(base), 8)  # that file is its own
    write(101)
    memory.commit(memory.changes())
    other = TemporaryImage(store)
    other.commit(PageDelta(64, [(0, b"\7" * 64 * WASM_PAGE)]))
    fork = other.fork()
    fork.commit(PageDelta(64, [(0, b"\7" * 64 * WASM_PAGE)]))
    assert memory.read(0, len(content)) == content
    memory.roll_back(everything=True)
    assert memory.read(0, len(content)) == content
    memory.close()


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a new file cannot be made beside it, an overlay is taken for a disk's."""

    def refuse(**_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with (tmp_path / "file").open("wb") as file:
        assert not holes._is_overlay_in_memory(file.fileno())
