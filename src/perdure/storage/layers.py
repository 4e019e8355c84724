"""Of which files a memory is made: of one, or of several where it shares some of them with others.

```
 images/SLOT-NAME-GENERATION.img    pages of a memory, each at its own address, sparse
 images/SLOT-NAME-GENERATION.hash   nodes of its page tree, see `perdure.storage.merkle`

 layout   files   newest first: SLOT-NAME-GENERATION each, of whoever wrote it
          pieces  [pages, which of the files...], ascending, from the first page to the last
```

A memory that is a copy of another one (handed over, a snapshot) has the files of that one: nothing is copied. A file
that two memories are made of, or that a fork reads, is written no more: what changes goes to a file of the memory's
own, on top. A node of the page tree lies in the newest hash file that has it.

How many layers that makes is bounded as in a merge tree: a new one takes in those below as long as they are no larger
than it is. How many pieces, by copying what lies between two of the memory's own, the shortest first. Files that have
become the memory's own again are brought into one, a part at each checkpoint.
"""

from __future__ import annotations

import re
import resource
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple, final
from weakref import WeakValueDictionary

from perdure.errors import StorageError
from perdure.holes import holes_take_room
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage.disk import Disk, DiskFile, copy_data
from perdure.storage.merkle import NODE_BYTES, Node, node_offset
from perdure.storage.pieces import Piece, Pieces
from perdure.storage.temporary import Region

__all__ = ["FILE_NAME", "NO_FILES", "ImageFiles", "LayerWriter", "Layout", "find_node", "open_file_limit", "own_layout"]

FILE_NAME: Final = re.compile(r"[0-9]{1,12}-[a-z0-9_.-]{1,64}-[0-9]{1,20}")
"""What a file of a memory is called: a slot, a memory's name, a generation."""

_MAX_PIECES = 1024
"""Of one memory: each is a mapping of the kernel's where the memory is mapped."""
_FOLD_BYTES = 64 << 20
"""Copied at one checkpoint from files that have become the memory's own into another one of its."""
_SMALL_BYTES = 1 << 20
"""A file with no more of a memory is copied rather than kept below another one."""
_READ_BYTES = 64 << 10
_NO_NODE = bytes(NODE_BYTES)


class Layout(NamedTuple):
    """Of which files a memory is made; of none where it is empty, or never was in a checkpoint."""

    files: tuple[str, ...] = ()
    pieces: tuple[int, ...] = ()

    def spans(self) -> Iterator[tuple[int, int, str]]:
        """`(first address, end, file)`, ascending, without a gap."""
        start = 0
        for pages, index in zip(self.pieces[::2], self.pieces[1::2], strict=True):
            end = start + pages * PAGE_BYTES
            yield start, end, self.files[index]
            start = end

    @property
    def generation(self) -> int:
        """Of the newest file; 0: there is none."""
        return int(self.files[0].rpartition("-")[2]) if self.files else 0


NO_FILES: Final = Layout()
_ENOUGH_FILES: Final = 1 << 20


def own_layout(prefix: str, generation: int, wasm_pages: int) -> Layout:
    """Of a memory that is made of one file, of its own; generation 0: of none."""
    if not generation:
        return NO_FILES
    pages = wasm_pages * WASM_PAGE_BYTES // PAGE_BYTES
    return Layout((f"{prefix}-{generation}",), (pages, 0) if pages else ())


@final
class ImageFiles:
    """The files under ``images/``: opened once for all who read them, named anew.

    Attributes:
        kin: what memories have in common of which there are copies.
    """

    def __init__(self, disk: Disk, directory: str) -> None:
        self._crowd = open_file_limit() // 4  # beside each, its hashes may be open; others need some, too
        self._disk = disk
        self._directory = f"{directory}/images"
        self._open: WeakValueDictionary[str, Region] = WeakValueDictionary()
        self._generations: dict[str, int] = {}
        self.kin: set[object] = set()
        self._holes_take_room: bool | None = None

    @property
    def is_crowded(self) -> bool:
        """Whether so many are open that those should go which a checkpoint closes."""
        return len(self._open) > self._crowd

    def checkpointed(self) -> None:
        """Those that are open now will be after the next checkpoint, too, or nearly so."""
        self._crowd = max(open_file_limit() // 4, len(self._open) * 5 // 4)

    def path(self, name: str, suffix: str) -> str:
        """The image file (``img``) or the hash file (``hash``)."""
        return f"{self._directory}/{name}.{suffix}"

    def know(self, layout: Layout) -> None:
        """Give no name again that is in use."""
        for name in layout.files:
            prefix, _, generation = name.rpartition("-")
            self._generations[prefix] = max(self._generations.get(prefix, 0), int(generation))

    def new_name(self, prefix: str) -> str:
        """A name that no file has had since the directory was opened, and none that its checkpoint knows."""
        generation = self._generations[prefix] = self._generations.get(prefix, 0) + 1
        return f"{prefix}-{generation}"

    def region(self, name: str) -> Region:
        """The pages of a file, which goes with the last who has them: a fork may need it for longer than a memory."""
        found = self._open.get(name)
        if found is None:
            file = self._disk.open(self.path(name, "img"))
            # One user that never goes away: only a checkpoint writes it, and knows who else reads.
            if self._holes_take_room is None:
                self._holes_take_room = holes_take_room(file.descriptor)
            takes_room = self._holes_take_room
            found = self._open[name] = Region(file, 0, file.size(), references=1, holes_take_room=takes_room)
        return found

    def readers(self, name: str) -> int:
        """How many images, forks included, read a file."""
        found = self._open.get(name)
        return 0 if found is None else found.references - 1

    def leave(self) -> None:
        """Have nobody who opens the directory write files that forks go on reading, see `is_left`."""
        for region in list(self._open.values()):
            if region.references > 1:
                region.file.share()

    def is_left(self, name: str) -> bool:
        """Whether a fork reads a file that it has from an opening that was closed, in whatever process that was."""
        file = self.open(name, "img", write=True)  # without that NFS gives no exclusive lock
        try:
            return not file.lock(exclusive=True)
        finally:
            file.close()

    def pieces(self, layout: Layout) -> Pieces:
        """The pages of a memory.

        Raises:
            StorageError: a file is shorter than the pages that lie in it.
        """
        pieces = []
        for start, end, name in layout.spans():
            region = self.region(name)
            if region.file.size() < end:
                raise StorageError(f"{region.file.size():#x} bytes found, {end:#x} expected", self.path(name, "img"))
            pieces.append(Piece(start, end, region, start))
        return Pieces(pieces)

    def open(self, name: str, suffix: str, *, write: bool = False) -> DiskFile:
        """A file; made where it is to be written and not there."""
        return self._disk.open(self.path(name, suffix), write=write, create=write)


def open_file_limit() -> int:
    """How many files the process may have open, once it has asked for as many as it may have.

    A canister takes four and more at a time, and most processes begin with 1,024.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return _ENOUGH_FILES
    wanted = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if wanted > soft:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return wanted
    return soft


def find_node(files: Iterable[DiskFile], node: Node) -> bytes:
    """A node of a page tree, of hash files from the newest on; empty: none has it."""
    offset = node_offset(node)
    for file in files:
        content = file.pread(NODE_BYTES, offset)
        if len(content) == NODE_BYTES and content != _NO_NODE:
            return content
    return b""


@final
class LayerWriter:
    """Writes what changed in a memory at a checkpoint. The layout before stays as good as it was, whatever happens.

    Pages are overwritten in files that are the memory's own, which the log has; a page that lies in another file by the
    layout before may be written anywhere.

    Args:
        images: the files.
        prefix: of the names of new ones.
        layout: as of the checkpoint before.
        is_own: whether nobody else reads a file, which may be written then.
        size_bytes: of the memory after it.
        changed_bytes: about to be written.
    """

    def __init__(
        self,
        images: ImageFiles,
        prefix: str,
        layout: Layout,
        is_own: Callable[[str], bool],
        size_bytes: int,
        changed_bytes: int,
    ) -> None:
        self._images = images
        self._writers: dict[tuple[str, str], DiskFile] = {}
        self._files = list(layout.files)
        self._before = images.pieces(layout)
        self._pieces = self._before.copy()
        self._own = {name for name in layout.files if is_own(name)}
        self._names = {images.region(name): name for name in layout.files}
        self._budget_bytes = max(_FOLD_BYTES, changed_bytes)
        if not self._files or self._files[0] not in self._own:
            self._add_layer(images.new_name(prefix), changed_bytes)
        end = self._pieces.end
        if end < size_bytes:
            last = self._pieces.before(end)
            name = self._newest if last is None else self._names[last.region]
            self._place(end, size_bytes, name if name in self._own else self._newest)

    @property
    def _newest(self) -> str:
        return self._files[0]

    def _writer(self, name: str, suffix: str) -> DiskFile:
        found = self._writers.get((name, suffix))
        if found is None:
            found = self._writers[name, suffix] = self._images.open(name, suffix, write=True)
        return found

    def _place(self, start: int, end: int, name: str) -> None:
        self._pieces.place(start, end, self._images.region(name), start)

    def _bytes_in(self, name: str) -> int:
        region = self._images.region(name)
        return sum(piece.end - piece.start for piece in self._pieces if piece.region is region)

    # -- layers

    def _add_layer(self, name: str, changed_bytes: int) -> None:
        for suffix in ("img", "hash"):
            self._writer(name, suffix).truncate(0)
        self._names[self._images.region(name)] = name
        self._own.add(name)
        size_bytes, taken = changed_bytes, 0
        while taken < len(self._files) and (
            (more := self._bytes_in(self._files[taken])) <= max(size_bytes, _SMALL_BYTES)
        ):
            size_bytes += more
            taken += 1
        for below in reversed(self._files[:taken]):  # what is newer is written over what is older
            self._move(below, name, size_bytes)
            self._copy_nodes(below, name)
        self._files[:taken] = [name]

    def _move(self, source: str, target: str, budget_bytes: int) -> int:
        """Copy pieces from one file to another until that is as much as it may be; how much it was."""
        region = self._images.region(source)
        moved = 0
        for piece in [piece for piece in self._pieces if piece.region is region]:
            end = min(piece.end, piece.start + budget_bytes - moved)
            if end <= piece.start:
                break
            self._copy(piece._replace(end=end), target)
            moved += end - piece.start
        return moved

    def _copy(self, piece: Piece, target: str) -> None:
        """Have a piece in another file. What lies there by the layout before is there still, and is not touched."""
        region = self._images.region(target)
        at = piece.start
        for start, end, before, _ in [*self._before.within(piece.start, piece.end), Piece(piece.end, 0, region, 0)]:
            if before is region:
                self._copy_bytes(piece.region.file, at, start, target)
                at = end
        self._place(piece.start, piece.end, target)

    def _copy_bytes(self, source: DiskFile, start: int, end: int, target: str) -> None:
        if start >= end:
            return
        writer = self._writer(target, "img")
        for low, high in list(writer.data_ranges(start, min(end, writer.size()))):
            _clear(writer, low, high)
        writer.truncate(max(writer.size(), end))
        for low, high in source.data_ranges(start, end):
            copy_data(source, low, writer, low, high - low)

    def _copy_nodes(self, source: str, target: str) -> None:
        """Have the nodes of one hash file in another."""
        writer = self._writer(target, "hash")
        file = self._images.open(source, "hash")
        try:
            for start, end in file.data_ranges(0, file.size()):
                for at in range(start // NODE_BYTES * NODE_BYTES, end, _READ_BYTES):
                    data = file.pread(min(_READ_BYTES, end - at), at)
                    for first in range(0, len(data), NODE_BYTES):
                        node = data[first : first + NODE_BYTES]
                        if node != _NO_NODE[: len(node)]:
                            writer.pwrite(node, at + first)
        finally:
            file.close()

    # -- pages

    def write(self, address: int, data: bytes) -> None:
        """Write whole pages within the memory."""
        view = memoryview(data)
        for piece in list(self._pieces.within(address, address + len(data))):
            name = self._names[piece.region]
            if name not in self._own:
                name = self._newest
                self._place(piece.start, piece.end, name)
            self._writer(name, "img").pwrite(view[piece.start - address : piece.end - address], piece.start)

    def finish(self, nodes: Iterable[tuple[Node, bytes]]) -> tuple[Layout, list[DiskFile]]:
        """Write the nodes that changed, and bring files and pieces within their bounds.

        Returns:
            The layout from now on, and the files to sync, which `close` closes.
        """
        self._bound_pieces()
        self._fold()
        for node, content in nodes:
            self._writer(self._newest, "hash").pwrite(content, node_offset(node))
        ends: dict[str, int] = {self._newest: 0}
        flat: list[int] = []
        for piece in self._pieces:
            name = self._names[piece.region]
            ends[name] = piece.end
            flat += ((piece.end - piece.start) // PAGE_BYTES, self._files.index(name))
        for name in ends.keys() & self._own:
            writer = self._writer(name, "img")
            if writer.size() < ends[name]:  # never shorter: the checkpoint before may have more in it
                writer.truncate(ends[name])
        return Layout(tuple(self._files), tuple(flat)), list(self._writers.values())

    def _bound_pieces(self) -> None:
        """Copy the shortest pieces to a file of our own beside them, until there are few enough."""
        while (over := len(self._pieces) - _MAX_PIECES) > 0:
            pieces = list(self._pieces)
            by_size = sorted(range(len(pieces)), key=lambda index: pieces[index].end - pieces[index].start)
            touched: set[int] = set()
            for index in by_size:
                if over <= 0:
                    break
                beside = [at for at in (index - 1, index + 1) if 0 <= at < len(pieces)]
                own = [at for at in beside if self._names[pieces[at].region] in self._own]
                if not own or touched & {index, *beside}:
                    continue
                touched |= {index, *beside}
                self._copy(pieces[index], self._names[pieces[own[0]].region])
                over -= len(own)
            if not touched:
                self._copy(pieces[by_size[0]], self._newest)

    def _fold(self) -> None:
        """Bring the newest files, those that are all our own, into the largest of them, as far as the budget goes."""
        count = 0
        while count < len(self._files) and self._files[count] in self._own:
            count += 1
        own = self._files[:count]
        target = max(own, key=self._bytes_in)
        for name in own:
            if name != target:
                self._budget_bytes -= self._move(name, target, self._budget_bytes)
        for name in self._files[:0:-1]:
            if not self._bytes_in(name):
                self._copy_older_nodes(name)
                self._files.remove(name)
        if self._newest != target and not self._bytes_in(self._newest) and self._files[1:2] == [target]:
            self._copy_nodes(self._newest, target)
            del self._files[0]

    def _copy_older_nodes(self, source: str) -> None:
        """Have the nodes of a hash file in the newest one, where none above it has them."""
        writer = self._writer(self._newest, "hash")
        above = [self._images.open(name, "hash") for name in self._files[: self._files.index(source)]]
        file = self._images.open(source, "hash")
        try:
            for start, end in list(file.data_ranges(0, file.size())):
                for at in range(start // NODE_BYTES * NODE_BYTES, end, NODE_BYTES):
                    node = file.pread(NODE_BYTES, at)
                    if node != _NO_NODE and all(one.pread(NODE_BYTES, at) in {b"", _NO_NODE} for one in above):
                        writer.pwrite(node, at)
        finally:
            for one in (*above, file):
                one.close()

    def close(self) -> None:
        """Close what was written."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


def _clear(file: DiskFile, start: int, end: int) -> None:
    """Leave zeros, without room for them where that can be."""
    try:
        file.punch(start, end - start)
    except OSError:
        for at in range(start, end, _READ_BYTES):
            file.pwrite(bytes(min(_READ_BYTES, end - at)), at)
