"""One memory of a state directory: its files, what the log holds beyond them, and the image made of both.

The files change at a checkpoint only. In between, committed pages are in the log and, for reading, in the temporary
layer of the image; so nothing of a commit can reach an image file before its log record is on the platter, and whoever
has the files of the last checkpoint and the log has everything.

Which files those are, `perdure.storage.layers` says: a memory that is a copy of another one has the same.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from perdure.canister import Extent, PageDelta
from perdure.errors import InternalError, MalformedError, StorageError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage.changes import MemoryChange, page_runs
from perdure.storage.commit_log import CommitLog
from perdure.storage.disk import Disk, DiskFile
from perdure.storage.image import TemporaryImage
from perdure.storage.layers import NO_FILES, ImageFiles, LayerWriter, Layout, find_node
from perdure.storage.merkle import (
    EMPTY_ROOT,
    ZERO_PAGE_HASH,
    Node,
    PageTree,
    hash_pages,
    memory_hash,
)
from perdure.storage.pieces import Pieces
from perdure.storage.runs import join_ranges
from perdure.storage.temporary import TemporaryStore

__all__ = ["DurableImage", "DurableMemory", "Files", "LoggedPages", "page_ranges"]

_COPY_BYTES = 1 << 20
_PAGES = WASM_PAGE_BYTES // PAGE_BYTES
_MAX_LOGGED = 1 << 14
_RUN_PAGES = 1024


@final
@dataclass(slots=True)
class Files:
    """Where the memories of one directory live, and what they share.

    Attributes:
        check_bytes: an image with at most this much data is compared with its hashes when it is first used.
        settled: whether the files are exactly those of the checkpoint; a checkpoint that was cut off leaves newer ones.
        lock: of the directory.
        log: of the directory, once it has one open for writing.
        is_closed: whether the directory is.
        images: the memories' files.
    """

    disk: Disk
    directory: str
    store: TemporaryStore
    check_bytes: int
    settled: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)
    log: CommitLog | None = None
    is_closed: bool = False
    images: ImageFiles = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is opened yet."""
        self.images = ImageFiles(self.disk, self.directory)

    def check(self) -> None:
        """Raise where nothing can be read or committed any more, see `StateDirectory.check`."""
        if self.is_closed:
            self.check_open()
        if self.log is not None:
            self.log.check_usable()

    def check_open(self) -> None:
        """Raise where the directory is closed."""
        if self.is_closed:
            raise ValueError("the state directory is closed")


@final
class LoggedPages:
    """What a log has of one memory: of every page the newest content, still in the file.

    Args:
        file: the log.
        wasm_pages: size of the memory before it.

    Attributes:
        wasm_pages: size of the memory after it.
        fresh: whether nothing of the memory before it remains.
        places: offset in the log by page.
    """

    def __init__(self, file: DiskFile, wasm_pages: int) -> None:
        self._file = file
        self.wasm_pages = wasm_pages
        self.fresh = False
        self.places: dict[int, int] = {}

    def copy(self) -> LoggedPages:
        """The same, which goes its own way."""
        made = LoggedPages(self._file, self.wasm_pages)
        made.fresh, made.places = self.fresh, self.places.copy()
        return made

    def add(self, pages_offset: int, change: MemoryChange) -> None:
        """Take a newer change; the pages of its record begin at `pages_offset`."""
        if not change.fresh and change.wasm_pages < self.wasm_pages:
            raise MalformedError(f"a memory of {self.wasm_pages} Wasm pages shrinks to {change.wasm_pages}")
        if change.fresh:
            self.places.clear()
            self.fresh = True
        self.wasm_pages = change.wasm_pages
        for first, pages, index in change.runs:
            offset = pages_offset + index * PAGE_BYTES
            self.places.update(
                zip(range(first, first + pages), range(offset, offset + pages * PAGE_BYTES, PAGE_BYTES), strict=True)
            )

    def runs(self) -> Iterator[tuple[int, bytes]]:
        """`(address, bytes)`, ascending, at most 4 MiB each."""
        first, pages, offset = 0, 0, 0
        for page, place in sorted(self.places.items()):
            if pages and (page, place) == (first + pages, offset + pages * PAGE_BYTES) and pages < _RUN_PAGES:
                pages += 1
                continue
            if pages:
                yield first * PAGE_BYTES, self._file.pread(pages * PAGE_BYTES, offset)
            first, pages, offset = page, 1, place
        if pages:
            yield first * PAGE_BYTES, self._file.pread(pages * PAGE_BYTES, offset)


@final
class DurableMemory:
    """A memory of one canister.

    Args:
        files: of the directory.
        name: slot and name, the first part of its own files' names.
        layout: of which files it is made as of the checkpoint.
        wasm_pages: size as of the checkpoint.
        root: of the page tree as of the checkpoint.

    Attributes:
        kin: what memories have in common that are copies of each other.
    """

    def __init__(
        self, files: Files, name: str, layout: Layout = NO_FILES, wasm_pages: int = 0, root: bytes = EMPTY_ROOT
    ) -> None:
        self._files = files
        self._name = name
        self.layout = layout
        self.wasm_pages = wasm_pages  # as committed, what is only in the log included
        self._root = self._base_root = root
        self._base_wasm_pages = wasm_pages
        self._next: Layout | None = None  # while a checkpoint is made
        self._writer: LayerWriter | None = None
        self._image: TemporaryImage | None = None
        self._tree: PageTree | None = None
        self._hash_files: list[DiskFile] = []
        self._logged: list[int] = []  # runs (first page, pages) not yet in the two sets
        self._dirty: set[int] = set()  # pages that the files lack
        self._unhashed: set[int] = set()  # pages that the tree lacks
        self._fresh = False
        self._unapplied: PageDelta | None = None
        self._applied: tuple[int, Sequence[int]] = (0, ())  # size and runs of the last one
        self._checked = False
        self.mapped = False
        self.kin: object = layout.files[-1] if layout.files else None
        files.images.know(layout)

    @property
    def has_copies(self) -> bool:
        """Whether there may be others like it."""
        return self.kin in self._files.images.kin

    def paths(self) -> list[str]:
        """The files that it is made of."""
        images = self._files.images
        return [images.path(name, suffix) for name in self.layout.files for suffix in ("img", "hash")]

    @property
    def next_layout(self) -> Layout:
        """Of which files it is made as of the checkpoint that is being made."""
        return self._next or self.layout

    def check(self) -> None:
        """Raise where what is in memory is not to be trusted any more."""
        self._files.check()

    def copy_for(self, name: str, *, base_only: bool = False) -> DurableMemory:
        """A memory of the same content under another slot and name, which goes its own way; of the same files.

        Args:
            name: slot and name.
            base_only: what it was at the checkpoint; the log is still to come.
        """
        made = DurableMemory(self._files, name, self.layout, self._base_wasm_pages, self._base_root)
        if self.kin is None:
            self.kin = object()
        made.kin = self.kin
        self._files.images.kin.add(self.kin)
        made._checked = self._checked
        if base_only:
            return made
        if self._unapplied is not None:
            raise InternalError("the pages of the commit before are not in the image yet")
        self._sort_logged()
        made.wasm_pages, made._root, made._fresh = self.wasm_pages, self._root, self._fresh
        made._dirty, made._unhashed = self._dirty.copy(), self._unhashed.copy()
        if self._tree is not None:
            made._tree = self._tree.copy(made._fetch)
        made._image = self.image().fork()
        return made

    # -- reading

    def image(self) -> TemporaryImage:
        """The committed content, opened where it is not yet."""
        if self._image is None:
            image = TemporaryImage(self._files.store)
            image.rebase(self._base(), self._base_wasm_pages)
            image.unmapped()
            self._image = image  # last: one that was not made whole is none
        return self._image

    def _base(self) -> Pieces:
        return self._files.images.pieces(self.layout)

    def check_once(self) -> None:
        """Compare the files' pages with their hashes, once, unless that would read more than the directory allows."""
        if self._checked or not self.layout.files or not self._files.settled:
            return
        data_bytes = sum(end - start for start, end in _data_ranges(self._base()))
        if data_bytes <= self._files.check_bytes:
            for problem in self.problems():
                raise StorageError(problem, self._files.images.path(self.layout.files[0], "img"))
            self._checked = True

    def problems(self) -> Iterator[str]:
        """What is wrong with the files: pages and hashes that do not belong together."""
        try:
            yield from self._problems()
        except MalformedError as error:
            yield error.message

    def _problems(self) -> Iterator[str]:
        if self.changed and not self._files.settled:
            return  # a checkpoint failed half way; what was committed is in the log
        tree = self._kept_tree()
        base = self._base()
        leaves = tree.leaves()
        leaf = next(leaves, None)
        for start, end in _data_ranges(base):
            for page in range(start // PAGE_BYTES, end // PAGE_BYTES):
                while leaf is not None and leaf[0] < page:
                    yield f"the page at {leaf[0] * PAGE_BYTES:#x} is gone"
                    leaf = next(leaves, None)
                expected = ZERO_PAGE_HASH
                if leaf is not None and leaf[0] == page:
                    expected = leaf[1]
                    leaf = next(leaves, None)
                (piece,) = base.within(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
                if hash_pages(piece.region.file.pread(PAGE_BYTES, piece.offset)) != expected:
                    yield f"the page at {page * PAGE_BYTES:#x} is not what was committed"
        for page, _ in () if leaf is None else (leaf, *leaves):
            yield f"the page at {page * PAGE_BYTES:#x} is gone"

    def _fetch(self, node: Node) -> bytes:
        if not self._hash_files:
            self._hash_files = [self._files.images.open(name, "hash") for name in self.layout.files]
        return find_node(self._hash_files, node)

    def _kept_tree(self) -> PageTree:
        pages = self._base_wasm_pages * _PAGES
        if not self.layout.files:
            return PageTree(pages)
        return PageTree(pages, self._fetch, self._base_root if self._files.settled else b"")

    def tree(self) -> PageTree:
        """The hashes of the committed pages, but for those that `root` has yet to hash."""
        if self._tree is None:
            self._tree = self._kept_tree()
        return self._tree

    def root(self) -> bytes:
        """The root over the committed pages."""
        if self._logged or self._unhashed:
            self._hash_logged()
        if self._tree is not None:
            self._root = self._tree.root()
        return self._root

    def _hash_logged(self) -> None:
        # Not at each commit: a page that changes a hundred times between two checkpoints is hashed once.
        tree = self.tree()
        self._sort_logged()
        unhashed, self._unhashed = self._unhashed, set()
        if self._unapplied is not None:
            for address, data in self._unapplied.runs:
                first = address // PAGE_BYTES
                tree.set_leaves(first, hash_pages(data))
                unhashed.difference_update(range(first, first + len(data) // PAGE_BYTES))
        for address, data in self._read_pages(unhashed):
            tree.set_leaves(address // PAGE_BYTES, hash_pages(data))

    def _sort_logged(self) -> None:
        runs, self._logged = self._logged, []
        for first, pages in zip(runs[::2], runs[1::2], strict=True):
            self._dirty.update(range(first, first + pages))
            self._unhashed.update(range(first, first + pages))

    def _read_pages(self, pages: set[int]) -> Iterator[tuple[int, bytes]]:
        image = self.image()
        for start, end in page_ranges(pages):
            for at in range(start, end, _COPY_BYTES):
                yield at, image.read(at, min(_COPY_BYTES, end - at))

    def hash(self) -> bytes:
        """The memory hash of the committed content."""
        return memory_hash(self.wasm_pages, self.root())

    def changed_since(self, other: DurableMemory) -> list[int] | None:
        """Pages that are not those of another memory; `None`: they have nothing in common, or not the same size."""
        if self.kin is None or self.kin != other.kin or self.wasm_pages != other.wasm_pages:
            return None
        self.root()
        other.root()
        return list(self.tree().differing(other.tree()))

    # -- commits

    def log(self, delta: PageDelta, runs: Sequence[int]) -> None:
        """Account for a delta that the log has: its bytes are expected in the image next.

        Args:
            delta: what changes.
            runs: where, as first page and number of pages in turn.
        """
        if delta.fresh:
            self._start_anew()
        if delta.fresh or delta.wasm_pages != self.wasm_pages:
            self.tree().resize(delta.wasm_pages * _PAGES)
        self._logged += runs
        if len(self._logged) > _MAX_LOGGED:
            self._sort_logged()
        self.wasm_pages = delta.wasm_pages
        self._applied = delta.wasm_pages, runs
        self._unapplied = delta

    def _start_anew(self) -> None:
        self._tree = PageTree()
        self._logged, self._dirty, self._unhashed = [], set(), set()
        self._fresh = True

    @property
    def unapplied(self) -> bool:
        """Whether the image waits for the bytes of a logged delta."""
        return self._unapplied is not None

    def prepare(self, delta: PageDelta) -> None:
        """Have room for a delta in the image, before it is logged; at once, where it was had for just this one."""
        (self._image or self.image()).prepare(delta)

    def apply(self, delta: PageDelta) -> Sequence[Extent]:
        """Put the bytes of the logged delta into the image. Again is fine: whoever was interrupted repeats it."""
        if self._unapplied is None and (delta.wasm_pages, page_runs(delta)) != self._applied:
            raise InternalError("pages were to be committed before their log record")
        extents = (self._image or self.image()).commit(delta)
        self._unapplied = None
        return extents

    @property
    def changed(self) -> bool:
        """Whether the files are behind."""
        return bool(self._dirty or self._logged or self._fresh) or self.wasm_pages != self._base_wasm_pages

    def recover(self, pages: LoggedPages) -> None:
        """Account for what the log has beyond the files, and show it."""
        fresh = pages.fresh
        for address, data in pages.runs():
            delta = PageDelta(pages.wasm_pages, [(address, data)], fresh)
            self.log(delta, (address // PAGE_BYTES, len(data) // PAGE_BYTES))
            self.apply(delta)
            fresh = False
        delta = PageDelta(pages.wasm_pages, (), fresh)  # the size, where there is not a page
        self.log(delta, ())
        self.apply(delta)

    # -- checkpoints: the only code that writes images

    def write(self, users: Counter[str]) -> list[DiskFile]:
        """Bring the files up to the committed content; the files to sync.

        Args:
            users: how many memories are made of each file.
        """
        self.root()
        self._next = None
        if not self.changed:
            return []
        size_bytes = self.wasm_pages * WASM_PAGE_BYTES
        is_new = self._fresh or not self.layout.files
        if is_new:
            content = self._read_all()
            self.tree().load_all()
        else:
            content = self._read_pages(self._dirty)
        self._close_writer()
        writer = self._writer = LayerWriter(
            self._files.images,
            self._name,
            NO_FILES if is_new else self.layout,
            lambda name: users[name] <= 1 and self._is_unread(name),
            size_bytes,
            len(self._dirty) * PAGE_BYTES,
        )
        for address, data in content:
            writer.write(address, data)
        self._next, files = writer.finish(self.tree().changed_nodes())
        return files

    def written(self) -> None:
        """What `write` wrote is on the platter: its files need not stay open until all memories are."""
        self._close_writer()

    def adopt(self, twin: DurableMemory) -> None:
        """Be made of the files of another memory, just written, with the same content."""
        self._next = twin.next_layout

    def _is_unread(self, name: str) -> bool:
        """Whether no image but our own reads a file."""
        images = self._files.images
        own = 0 if self._image is None else self._image.references_to(images.region(name))
        return images.readers(name) <= own and not images.is_left(name)

    def _read_all(self) -> Iterator[tuple[int, bytes]]:
        image = self.image()
        for start, end in list(image.data_ranges()):
            for at in range(start, end, _COPY_BYTES):
                yield at, image.read(at, min(_COPY_BYTES, end - at))

    def settle(self) -> None:
        """The checkpoint names the files as they are now: what was kept beyond them can go."""
        if not self.changed:
            self.rest()
            return
        self._base_root = self.root()
        self._close_writer()
        self._close_hash_files()
        self.layout, self._next = self.next_layout, None
        self._dirty, self._fresh = set(), False
        self._base_wasm_pages = self.wasm_pages
        if not self.mapped or self._image is None:
            self.close()
            return
        self._image.rebase(self._base(), self.wasm_pages)
        self.tree().settle(self._fetch)

    def rest(self) -> None:
        """Let go of files and image unless they are needed."""
        if not (self.mapped or self.changed):
            self.close()

    def unmap(self) -> None:
        """Be mapped no more."""
        self.mapped = False
        if self._image is not None:
            self._image.unmapped()
        self.rest()

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _close_hash_files(self) -> None:
        files, self._hash_files = self._hash_files, []
        for file in files:
            file.close()

    def close(self) -> None:
        """Let go of files and image. What the log holds beyond the files stays in the log only."""
        self._tree = None
        self._close_writer()
        self._close_hash_files()
        if self._image is not None:
            self._image.close()
            self._image = None


@final
class DurableImage:
    """The image of a durable memory, as an embedder maps it. A delta must be logged before it is committed here.

    Args:
        memory: the memory.
        lock: of the directory.
    """

    def __init__(self, memory: DurableMemory, lock: threading.RLock) -> None:
        self._memory = memory
        self._lock = lock
        self._closed = False

    @property
    def wasm_pages(self) -> int:
        """Committed size in Wasm pages."""
        return self._memory.image().wasm_pages

    def extents(self) -> Sequence[Extent]:
        """File-backed runs; see `perdure.canister.Image`."""
        with self._lock:
            self._memory.check()
            return self._memory.image().extents()

    @property
    def held(self) -> Mapping[int, bytes]:
        """Pages in memory; see `perdure.canister.Image`."""
        return self._memory.image().held

    def write_held(self) -> None:
        """Bring what is held into temporary files; see `TemporaryImage.write_held`."""
        with self._lock:
            self._memory.image().write_held()

    def prepare(self, delta: PageDelta) -> None:
        """Have room for a delta, before `StateDirectory.commit` logs it; see `perdure.canister.Image`."""
        with self._lock:
            self._memory.check()
            self._memory.prepare(delta)

    def commit(self, delta: PageDelta) -> Sequence[Extent]:
        """Show the pages of a delta that `StateDirectory.commit` has logged."""
        return self._memory.apply(delta)

    def fork(self) -> TemporaryImage:
        """A second image with this content, of which nothing is kept."""
        with self._lock:
            self._memory.check()
            return self._memory.image().fork()

    def read(self, address: int, size_bytes: int) -> bytes:
        """Committed bytes. Raises `IndexError` outside the memory."""
        with self._lock:
            self._memory.check()
            return self._memory.image().read(address, size_bytes)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Address ranges of whole pages that may hold anything but zeros, ascending."""
        with self._lock:
            yield from list(self._memory.image().data_ranges())

    def close(self) -> None:
        """Say that it is not mapped any more. Again is fine."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._memory.unmap()


def _data_ranges(pieces: Pieces) -> Iterator[tuple[int, int]]:
    """Address ranges of whole pages that may hold anything but zeros."""
    found = (
        (start // PAGE_BYTES * PAGE_BYTES, -(-end // PAGE_BYTES) * PAGE_BYTES)
        for piece in pieces
        for start, end in piece.region.file.data_ranges(piece.offset, piece.offset + piece.end - piece.start)
    )
    return join_ranges(found)


def page_ranges(pages: set[int]) -> Iterator[tuple[int, int]]:
    """Address ranges of pages, ascending."""
    start = end = -1
    for page in sorted(pages):
        if page != end:
            if end > start >= 0:
                yield start * PAGE_BYTES, end * PAGE_BYTES
            start = page
        end = page + 1
    if end > start >= 0:
        yield start * PAGE_BYTES, end * PAGE_BYTES
