"""Plumbing: one unlinked sparse file in which all temporary pages of a process live.

A file per memory would cost a descriptor each; ten thousand canisters have twenty thousand memories. So a store opens
one file, hands out ranges of its (sparse, practically endless) offset space and takes them back by punching a hole.
Not a memfd: that allocates memory for holes that are merely read.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import final

from perdure.errors import StorageError
from perdure.holes import holes_take_room
from perdure.storage.disk import DiskFile, RealFile

__all__ = [
    "GRANULE_BYTES",
    "HELD_BUDGET",
    "MAPPING_BUDGET",
    "Region",
    "TemporaryStore",
    "store_in_turn",
    "unlinked_file",
]

MAPPING_BUDGET = 16_384
"""Kernel mappings that the images of one store may need; the kernel allows 65,530 a process, for everything."""
HELD_BUDGET = 8_192
"""Pages that the images of one store may hold in memory together, 32 MiB."""

GRANULE_BYTES = 1 << 16
"""What is written at once so that there is space for it: a Wasm page."""

_FILE_BYTES = 8 << 40  # ext4 ends at 16 TiB; a second file is opened past this
_STEP_BYTES = 16 << 30  # the file is extended (a hole, no disk) in such steps, because each is a journal entry


@final
class Region:
    """A range of a file that one or more images are made of.

    Args:
        file: the file.
        offset: where in the file the range starts, a multiple of 4,096.
        size_bytes: its size.
        references: images that use it. With exactly one, that image writes in place; a sealed region starts with
            one reference more than it has users and is never written.
        holes_take_room: whether reading a hole through a mapping takes room: see `perdure.holes`.

    Attributes:
        room: granules that there is space for: pages in them can be overwritten.
    """

    __slots__ = ("__weakref__", "file", "holes_take_room", "offset", "references", "room", "size_bytes", "store")

    def __init__(
        self,
        file: DiskFile,
        offset: int,
        size_bytes: int,
        *,
        references: int = 0,
        store: TemporaryStore | None = None,
        holes_take_room: bool = False,
    ) -> None:
        self.file = file
        self.offset = offset
        self.size_bytes = size_bytes
        self.references = references
        self.room: set[int] = set()
        self.store = store
        self.holes_take_room = holes_take_room

    def make_room(self, granules: Collection[int]) -> None:
        """Have space for granules, counted from the start of the region, whose bytes stay.

        They are written once as they are. Not by ``fallocate``: giving such space back took 4 ms where what was
        written in the usual way, and never reached the disk, takes 0.3.

        Raises:
            OSError: there is no space.
        """
        for granule in sorted(set(granules) - self.room):
            offset = self.offset + granule * GRANULE_BYTES
            size_bytes = min(GRANULE_BYTES, self.size_bytes - granule * GRANULE_BYTES)
            self.file.pwrite(self.file.pread(size_bytes, offset), offset)
            self.room.add(granule)


@final
class TemporaryStore:
    """Temporary pages for any number of images, gone with the process.

    Args:
        directory: where the unlinked file lives; by default `TMPDIR`, else ``/var/tmp`` (on a disk, by convention,
            where ``/tmp`` may be memory).
        mapping_budget: how many kernel mappings the images together may need before they copy more in order to be
            mapped in fewer pieces.
        held_budget: how many pages the images together may hold in memory.
        create_file: makes an empty file in a directory, without a name.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        mapping_budget: int = MAPPING_BUDGET,
        held_budget: int = HELD_BUDGET,
        create_file: Callable[[str], DiskFile] | None = None,
    ) -> None:
        self.directory = str(directory) if directory is not None else _default_directory()
        self.mapping_budget = mapping_budget
        self.held_budget = held_budget
        self.mappings = 0
        self.held_pages = 0
        self.holes_take_room = False
        """See `perdure.holes`."""
        self._create_file = create_file or unlinked_file
        self._files: list[DiskFile] = []
        self._end = _FILE_BYTES
        self._truncated = 0
        self._free: dict[int, list[tuple[DiskFile, int]]] = {}
        # Taken again where an image goes with the garbage while a region is being had.
        self._lock = threading.RLock()

    def allocate(self, size_bytes: int) -> Region:
        """A region of zeros, with one reference. Costs address space only, until it is written."""
        with self._lock:
            if free := self._free.get(size_bytes):
                file, offset = free.pop()
                return self._region(file, offset, size_bytes)
            try:
                return self._extend(size_bytes)
            except OSError as error:
                raise StorageError.because("no temporary file", error, self.directory) from error

    def _extend(self, size_bytes: int) -> Region:
        if self._end + size_bytes > _FILE_BYTES:
            self._files.append(self._create_file(self.directory))
            self.holes_take_room = holes_take_room(self._files[-1].descriptor)
            self._end = self._truncated = 0
        file_end = self._end + size_bytes
        # A page past the end of the file is SIGBUS: the file reaches to the end of the region before anyone maps it.
        if file_end > self._truncated:
            reached = -(-file_end // _STEP_BYTES) * _STEP_BYTES
            self._files[-1].truncate(reached)
            self._truncated = reached
        offset, self._end = self._end, file_end
        return self._region(self._files[-1], offset, size_bytes)

    def _region(self, file: DiskFile, offset: int, size_bytes: int) -> Region:
        return Region(file, offset, size_bytes, references=1, store=self, holes_take_room=self.holes_take_room)

    def retain(self, region: Region) -> None:
        """Count one more user."""
        with self._lock:
            region.references += 1

    def release(self, region: Region) -> None:
        """Count one user less; after the last one the space goes back to the disk."""
        with self._lock:
            region.references -= 1
            if region.references or region.store is not self:
                return
            file = region.file
            if file.descriptor < 0:
                return  # closed before its images
            try:
                file.punch(region.offset, region.size_bytes)
            except OSError:
                return  # a file system without holes: the space is lost until the file is closed
            self._free.setdefault(region.size_bytes, []).append((file, region.offset))

    def count(self, mappings: int, held_pages: int) -> None:
        """Add to (or take from) the mappings and the pages in memory that are in use."""
        with self._lock:
            self.mappings += mappings
            self.held_pages += held_pages

    def close(self) -> None:
        """Close the files. Every image of the store is gone."""
        with self._lock:
            for file in self._files:
                file.close()
            self._files.clear()
            self._free.clear()
            self._end = _FILE_BYTES

    # Bound as a default: when the interpreter ends, names are gone before the last of these, and the files go with it.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        for file in () if is_finalizing() else getattr(self, "_files", ()):  # none, where it was not made whole
            file.close()


def unlinked_file(directory: str, *, in_turn: bool = False) -> RealFile:
    """An empty file in a directory, without a name: gone with its descriptor. `in_turn`: see `RealFile`."""
    from tempfile import TemporaryFile

    with TemporaryFile(dir=directory, prefix="perdure-", buffering=0) as file:  # closed whatever comes between
        descriptor = os.dup(file.fileno())
    os.set_inheritable(descriptor, False)
    return RealFile(descriptor, directory, in_turn=in_turn)


def store_in_turn() -> TemporaryStore:
    """A store for pages that are written while others wait for what the writer holds: see `RealFile`."""
    return TemporaryStore(create_file=partial(unlinked_file, in_turn=True))


def _default_directory() -> str:
    if "TMPDIR" not in os.environ and Path("/var/tmp").is_dir() and os.access("/var/tmp", os.W_OK):
        return "/var/tmp"
    from tempfile import gettempdir  # two milliseconds, for what most commands do without

    return gettempdir()
