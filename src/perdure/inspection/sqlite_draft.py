"""A database in a stable memory as bytes: taken out as a file, put back, changed page by page before a commit."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final, final

from perdure.canister import PageDelta
from perdure.errors import MalformedError, UnsupportedError
from perdure.inspection.find import Structure, find_in_memory
from perdure.inspection.sqlite import choose_database
from perdure.inspection.whole import whole_file
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, BytesMemory, Memory, check_range
from perdure.stable.layout import SQLITE_HEADER
from perdure.stable.memory_manager import MemoryManager
from perdure.stable.sqlite import SqliteHeader

__all__ = ["Draft", "Window", "extract", "extract_to", "patched", "read_file", "window_of"]

MAX_STABLE_BYTES: Final = 500 << 30
_CHUNK_BYTES: Final = 1 << 20


@final
class Draft:
    """A memory over a canister's, whose changes wait until they are committed together."""

    def __init__(self, below: Memory) -> None:
        self._below = below
        self._wasm_pages = self._below_pages = below.size()
        self._pages: dict[int, bytearray] = {}

    def size(self) -> int:
        """Size in Wasm pages."""
        return self._wasm_pages

    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages; the old size in Wasm pages, or -1 past the largest stable memory."""
        old = self._wasm_pages
        if wasm_pages < 0 or (old + wasm_pages) * WASM_PAGE_BYTES > MAX_STABLE_BYTES:
            return -1
        self._wasm_pages += wasm_pages
        return old

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        check_range(address, size_bytes, self._wasm_pages * WASM_PAGE_BYTES)
        below = max(0, min(size_bytes, self._below_pages * WASM_PAGE_BYTES - address))
        data = self._below.read(address, below) if below else b""
        first, last = address // PAGE_BYTES, (address + size_bytes - 1) // PAGE_BYTES
        if below == size_bytes and not (self._pages and any(page in self._pages for page in range(first, last + 1))):
            return data
        found = bytearray(data.ljust(size_bytes, b"\0"))
        for page in range(first, last + 1):
            if page in self._pages:
                start = page * PAGE_BYTES
                low, high = max(address, start), min(address + size_bytes, start + PAGE_BYTES)
                found[low - address : high - address] = self._pages[page][low - start : high - start]
        return bytes(found)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`, not committed."""
        check_range(address, len(data), self._wasm_pages * WASM_PAGE_BYTES)
        done = 0
        while done < len(data):
            page, start = divmod(address + done, PAGE_BYTES)
            piece = data[done : done + PAGE_BYTES - start]
            if page not in self._pages:
                self._pages[page] = bytearray(self.read(page * PAGE_BYTES, PAGE_BYTES))
            self._pages[page][start : start + len(piece)] = piece
            done += len(piece)

    @property
    def is_changed(self) -> bool:
        """Whether anything was written."""
        return bool(self._pages) or self._wasm_pages != self._below_pages

    def delta(self) -> PageDelta:
        """What was written."""
        return PageDelta(
            self._wasm_pages, [(page * PAGE_BYTES, bytes(self._pages[page])) for page in sorted(self._pages)]
        )


@final
class Window:
    """The bytes of a memory from `start` on, up to `end` at most, to be written and grown."""

    def __init__(self, memory: Memory, start: int, end: int | None) -> None:
        self._memory, self._start, self._end = memory, start, end

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        return self._memory.read(self._start + address, size_bytes)

    def write(self, address: int, data: bytes) -> None:
        """Write, and make the memory longer where it ends before."""
        end = self._start + address + len(data)
        if self._end is not None and end > self._end:
            raise UnsupportedError(f"the database would reach another structure, at byte {self._end} of stable memory")
        missing = -(-(end - self._memory.size() * WASM_PAGE_BYTES) // WASM_PAGE_BYTES)
        if missing > 0 and self._memory.grow(missing) == -1:
            raise UnsupportedError(f"stable memory cannot grow by {missing} Wasm pages")
        self._memory.write(self._start + address, data)


def window_of(draft: Draft, name: str | None) -> Window:
    """Where a database lies, over a draft of the stable memory."""
    inventory = find_in_memory(draft)
    structure = choose_database(inventory, name)
    if structure.memory_id is not None:
        manager = MemoryManager.load(draft, base_wasm_page=inventory.managers[0].wasm_page)
        return Window(manager.get(structure.memory_id), structure.offset, None)
    start = structure.address
    behind = [one.address for one in inventory.structures if one.address > start]
    behind += [manager.address for manager in inventory.managers if manager.address > start]
    return Window(draft, start, min(behind, default=None))


def extract(structure: Structure, path: Path) -> SqliteHeader:
    """Write a database as the file that it is into a new file, there whole or not at all; what its header says.

    Raises:
        StorageError: the file exists, or cannot be written.
        MalformedError: the header is none.
    """
    with whole_file(path) as draft, draft.open("wb") as file:
        return extract_to(structure, file)


def extract_to(structure: Structure, file: BinaryIO) -> SqliteHeader:
    """Write a database as the file that it is; what its header says.

    Raises:
        MalformedError: the header is none.
    """
    region = structure.region
    header = SqliteHeader.read(region)
    size_bytes = header.file_bytes(region.size_bytes)
    for start in range(0, size_bytes, _CHUNK_BYTES):
        file.write(region.read(start, min(_CHUNK_BYTES, size_bytes - start)))
    return header


def read_file(path: Path) -> bytes:
    """A file of SQLite, to be put into a memory.

    Raises:
        MalformedError: it is none, it is cut off, or a log beside it has what it does not.
    """
    data = path.read_bytes()
    if len(data) < PAGE_BYTES // 8:
        raise MalformedError(f"{path}: {len(data)} bytes are no SQLite database")
    header = SqliteHeader.read(BytesMemory(data[:WASM_PAGE_BYTES]))
    for beside in (Path(f"{path}{end}") for end in ("-wal", "-journal")):
        if beside.exists() and beside.stat().st_size:
            raise MalformedError(f"{path}: what is in {beside.name} would be lost: run `pragma journal_mode = delete`")
    if header.is_wal:
        raise MalformedError(
            f"{path}: in WAL mode, for which a canister has no second file: run `pragma journal_mode = delete`"
        )
    if len(data) % header.page_bytes or (header.pages and header.pages * header.page_bytes != len(data)):
        raise MalformedError(f"{path}: {len(data)} bytes, expected {header.pages} pages of {header.page_bytes}")
    return data


def patched(memory: Memory, data: bytes, *, since: int | None, name: str | None = None) -> Draft:
    """A draft of a stable memory in which a file is in the place of a database.

    Args:
        memory: the stable memory.
        data: from `read_file`.
        since: the change counter that the database had when the file was taken from it; `None`: whatever it has now.
        name: label of the database, where there are several.

    Raises:
        UnsupportedError: no database, another counter, or no room.
    """
    draft = Draft(memory)
    structure = choose_database(find_in_memory(memory), name)
    header = SqliteHeader.read(structure.region)
    if since is not None and header.change_counter != since:
        raise UnsupportedError(
            f"the database has changed since it was extracted: change counter {header.change_counter}, expected {since}"
        )
    window = window_of(draft, name)
    window.write(0, SqliteHeader.succeeding(data, structure.region.read(0, SQLITE_HEADER.size)))
    left = max(0, header.file_bytes(structure.region.size_bytes) - len(data))
    for start in range(0, left, _CHUNK_BYTES):  # stable memory never shrinks: what is cut off becomes zero
        window.write(len(data) + start, bytes(min(_CHUNK_BYTES, left - start)))
    return draft
