"""One memory of a state directory: its files, what the log holds beyond them, and the image made of both.

The files change at a checkpoint only. In between, committed pages are in the log and, for reading, in the temporary
layer of the image; so nothing of a commit can reach an image file before its log record is on the platter, and whoever
has the files of the last checkpoint and the log has everything.

```
 images/SLOT-KIND-GENERATION.img    the bytes of the memory, sparse, cut to its size
 images/SLOT-KIND-GENERATION.hash   the nodes of its page tree, see `perdure.storage.merkle`
```
"""

from __future__ import annotations

import threading
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
from perdure.storage.merkle import (
    EMPTY_ROOT,
    NODE_BYTES,
    ZERO_PAGE_HASH,
    Node,
    PageTree,
    hash_pages,
    memory_hash,
    node_offset,
)
from perdure.storage.temporary import Region, TemporaryStore

__all__ = ["DurableImage", "DurableMemory", "Files", "LoggedPages"]

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
        dropped: generations of dropped memories whose files the checkpoint still names.
    """

    disk: Disk
    directory: str
    store: TemporaryStore
    check_bytes: int
    settled: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)
    log: CommitLog | None = None
    is_closed: bool = False
    dropped: dict[str, int] = field(default_factory=dict)

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
    """The heap or the stable memory of one canister.

    Args:
        files: of the directory.
        name: slot and kind, the first part of the files' names.
        generation: second part, 0: there are no files. A new generation begins where a file cannot be changed in place.
        wasm_pages: size as of the checkpoint.
        root: of the page tree as of the checkpoint.
    """

    def __init__(
        self, files: Files, name: str, generation: int = 0, wasm_pages: int = 0, root: bytes = EMPTY_ROOT
    ) -> None:
        self._files = files
        self._name = name
        self.generation = generation
        self.wasm_pages = wasm_pages  # as committed, what is only in the log included
        self._root = self._base_root = root
        self._base_wasm_pages = wasm_pages
        self._base: Region | None = None
        self._base_generation = -1
        self._image: TemporaryImage | None = None
        self._tree: PageTree | None = None
        self._hash_file: DiskFile | None = None
        self._writers: dict[str, DiskFile] = {}
        self._logged: list[int] = []  # runs (first page, pages) not yet in the two sets
        self._dirty: set[int] = set()  # pages that the files lack
        self._unhashed: set[int] = set()  # pages that the tree lacks
        self._fresh = False
        self._unapplied: PageDelta | None = None
        self._applied: tuple[int, Sequence[int]] = (0, ())  # size and runs of the last one
        self._checked = False
        self.mapped = False

    def path(self, suffix: str) -> str:
        """The image file (``img``) or the hash file (``hash``)."""
        return f"{self._files.directory}/images/{self._name}-{self.generation}.{suffix}"

    def check(self) -> None:
        """Raise where what is in memory is not to be trusted any more."""
        self._files.check()

    # -- reading

    def image(self) -> TemporaryImage:
        """The committed content, opened where it is not yet."""
        if self._image is None:
            image = TemporaryImage(self._files.store)
            image.rebase(self._open_base(), self._base_wasm_pages)
            image.unmapped()
            self._image = image  # last: one that was not made whole is none
        return self._image

    def _open_base(self) -> Region:
        if self._base is None:
            size_bytes = self._base_wasm_pages * WASM_PAGE_BYTES if self.generation else 0
            file = self._files.disk.open(self.path("img")) if size_bytes else _NO_FILE
            if file.size() < size_bytes:
                found = file.size()
                file.close()
                raise StorageError(f"{found:#x} bytes found, {size_bytes:#x} expected", self.path("img"))
            # One user that never goes away: only a checkpoint writes it. A fork may need the file for longer than we
            # do, so that nobody closes it: it goes with the last who has it.
            self._base = Region(file, 0, size_bytes, references=1)
            self._base_generation = self.generation if size_bytes else -1
        return self._base

    def check_once(self) -> None:
        """Compare the file's pages with their hashes, once, unless that would read more than the directory allows."""
        if self._checked or not self.generation or not self._files.settled:
            return
        base = self._open_base()
        data_bytes = sum(end - start for start, end in base.file.data_ranges(0, base.size_bytes))
        if data_bytes <= self._files.check_bytes:
            for problem in self.problems():
                raise StorageError(problem, self.path("img"))
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
        base = self._open_base()
        leaves = tree.leaves()
        leaf = next(leaves, None)
        for start, end in base.file.data_ranges(0, base.size_bytes):
            for page in range(start // PAGE_BYTES, -(-end // PAGE_BYTES)):
                while leaf is not None and leaf[0] < page:
                    yield f"the page at {leaf[0] * PAGE_BYTES:#x} is gone"
                    leaf = next(leaves, None)
                expected = ZERO_PAGE_HASH
                if leaf is not None and leaf[0] == page:
                    expected = leaf[1]
                    leaf = next(leaves, None)
                if hash_pages(base.file.pread(PAGE_BYTES, page * PAGE_BYTES)) != expected:
                    yield f"the page at {page * PAGE_BYTES:#x} is not what was committed"
        for page, _ in () if leaf is None else (leaf, *leaves):
            yield f"the page at {page * PAGE_BYTES:#x} is gone"

    def _fetch(self, node: Node) -> bytes:
        if self._hash_file is None:
            self._hash_file = self._files.disk.open(self.path("hash"))
        return self._hash_file.pread(NODE_BYTES, node_offset(node))

    def _kept_tree(self) -> PageTree:
        pages = self._base_wasm_pages * _PAGES
        if not self.generation:
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
        for start, end in _join_pages(pages):
            for at in range(start, end, _COPY_BYTES):
                yield at, image.read(at, min(_COPY_BYTES, end - at))

    def hash(self) -> bytes:
        """The memory hash of the committed content."""
        return memory_hash(self.wasm_pages, self.root())

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
        """Have room for a delta in the image, before it is logged."""
        self.image().prepare(delta)

    def is_prepared(self, delta: PageDelta) -> bool:
        """Whether the image has room for just this delta, which so was checked."""
        return self._image is not None and self._image.is_prepared(delta)

    def apply(self, delta: PageDelta) -> Sequence[Extent]:
        """Put the bytes of the logged delta into the image. Again is fine: whoever was interrupted repeats it."""
        if self._unapplied is None and (delta.wasm_pages, page_runs(delta)) != self._applied:
            raise InternalError("pages were to be committed before their log record")
        extents = self.image().commit(delta)
        self._unapplied = None
        return extents

    @property
    def changed(self) -> bool:
        """Whether the files are behind."""
        return bool(self._dirty or self._logged or self._fresh) or self.wasm_pages != self._base_wasm_pages

    @property
    def shared(self) -> bool:
        """Whether a fork depends on the image file."""
        own = 0 if self._image is None or self._base is None else self._image.references_to(self._base)
        return self._base is not None and self._base.references > 1 + own

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

    def write(self) -> list[DiskFile]:
        """Bring the files up to the committed content; the files to sync."""
        self.root()
        if not self.changed:
            return []
        self._write_image()
        self._writers["img"].truncate(self.wasm_pages * WASM_PAGE_BYTES)
        for node, content in self.tree().changed_nodes():
            self._writers["hash"].pwrite(content, node_offset(node))
        return list(self._writers.values())

    def _write_image(self) -> None:
        # A file that a fork still reads, or whose old bytes must go, is not changed but replaced.
        new = self._fresh or self.shared or not self.generation
        if new:
            content = self._read_all()
            self.tree().load_all()
        else:
            content = self._read_pages(self._dirty)
        self._open_writers(new=new)
        for address, data in content:
            self._writers["img"].pwrite(data, address)

    def _read_all(self) -> Iterator[tuple[int, bytes]]:
        image = self.image()
        for start, end in list(image.data_ranges()):
            for at in range(start, end, _COPY_BYTES):
                yield at, image.read(at, min(_COPY_BYTES, end - at))

    def _open_writers(self, *, new: bool) -> None:
        for writer in self._writers.values():
            writer.close()
        if new:
            self.generation = max(self.generation, self._files.dropped.get(self._name, 0)) + 1
        for suffix in ("img", "hash"):
            self._writers[suffix] = self._files.disk.open(self.path(suffix), write=True, create=True)
            if new:
                self._writers[suffix].truncate(0)

    def settle(self) -> None:
        """The checkpoint names the files as they are now: what was kept beyond them can go."""
        if not self.changed:
            self.rest()
            return
        self._base_root = self.root()
        for writer in self._writers.values():
            writer.close()
        self._writers = {}
        if self._hash_file is not None:
            self._hash_file.close()
            self._hash_file = None
        self._dirty, self._fresh = set(), False
        self._base_wasm_pages = self.wasm_pages
        if not self.mapped or self._image is None:
            self.close()
            return
        if self._base is not None and self._base_generation == self.generation:
            # The same file: a mapping keeps what it shows of it.
            self._base.size_bytes = self.wasm_pages * WASM_PAGE_BYTES
        else:
            self._base = None
        self._image.rebase(self._open_base(), self.wasm_pages)
        self.tree().settle(self._fetch)

    def rest(self) -> None:
        """Let go of files and image unless they are needed.

        While a fork depends on the file, the base must stay: opened anew it would look like ours alone, and the next
        checkpoint would write into what the fork reads.
        """
        if not (self.mapped or self.changed or self.shared):
            self.close()

    def close(self) -> None:
        """Let go of files and image. What the log holds beyond the files stays in the log only."""
        self._tree = None
        for file in (*self._writers.values(), *([self._hash_file] if self._hash_file else [])):
            file.close()
        self._writers, self._hash_file = {}, None
        if self._image is not None:
            self._image.close()
            self._image = None
        self._base = None


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
            self._memory.mapped = False
            self._memory.image().unmapped()
            self._memory.rest()


@final
class _NoFile:
    """The file of an empty memory."""

    descriptor = -1

    def size(self) -> int:
        return 0

    def pread(self, size_bytes: int, offset: int) -> bytes:
        del size_bytes, offset
        return b""

    def pwrite(self, data: object, offset: int) -> None:
        raise InternalError(f"write at {offset:#x} of an empty memory")

    def pwritev(self, buffers: object, offset: int) -> None:
        raise InternalError(f"write at {offset:#x} of an empty memory")

    def pwrite_each(self, buffers: object, offsets: object) -> None:
        raise InternalError("write of an empty memory")

    def truncate(self, size_bytes: int) -> None:
        raise InternalError(f"truncate an empty memory to {size_bytes}")

    def punch(self, offset: int, size_bytes: int) -> None:
        raise InternalError(f"punch an empty memory at {offset:#x}, {size_bytes} bytes")

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        del start, end
        return iter(())

    def sync(self) -> None:
        return

    def start(self, buffers: object, offset: int) -> None:
        raise InternalError(f"write at {offset:#x} of an empty memory")

    def finish(self) -> None:
        return

    def lock(self, *, exclusive: bool) -> bool:
        del exclusive
        return True

    def is_at(self, path: str) -> bool:
        del path
        return True

    def close(self) -> None:
        return


_NO_FILE = _NoFile()


def _join_pages(pages: set[int]) -> Iterator[tuple[int, int]]:
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
