"""Files and streams as memories: mapped, or unpacked into a sparse file that has no name."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from perdure.errors import MalformedError, StorageError
from perdure.holes import holes_take_room
from perdure.image import Extent as FileExtent
from perdure.inspection.source import Extent, Layer, Source
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory

__all__ = ["GZIP_MAGIC", "HEAD_BYTES", "MAX_STABLE_BYTES", "check_kind", "map_file", "open_stream"]

MAX_STABLE_BYTES: Final = 500 << 30
"""The largest stable memory the Internet Computer has; more than this is not read from a stream."""

GZIP_MAGIC: Final = b"\x1f\x8b"
HEAD_BYTES: Final = 256
_OTHER_FILES: Final = {
    b"\0asm": "a Wasm module",
    b"\x28\xb5\x2f\xfd": "packed by zstd, to be unpacked first",
    b"PK\x03\x04": "a zip file",
    b"SQLite format 3\0": "an SQLite database",
    b"\xfd7zXZ\0": "packed by xz, to be unpacked first",
}
_CHUNK_BYTES: Final = 1 << 20
_MAX_MAPPINGS: Final = 4096
"""Of a file in more pieces the holes are mapped as well, which a full tmpfs does not bear."""


def check_kind(head: bytes, size_bytes: int, path: Path) -> None:
    """Refuse what is plainly another kind of file: it begins as one, and a memory of whole Wasm pages it is not."""
    if size_bytes % WASM_PAGE_BYTES == 0:
        return
    kind = next((kind for magic, kind in _OTHER_FILES.items() if head.startswith(magic)), None)
    text = head.decode(errors="ignore")
    if kind is None and text and all(char.isprintable() or char.isspace() for char in text):
        kind = "a text"
    if kind is not None:
        raise StorageError(f"{kind}, not a stable memory: {size_bytes} bytes are not whole Wasm pages", path).coded(
            "not-a-memory"
        )


def map_file(file: BinaryIO, label: str) -> Source:
    """The file as a memory. A file that is truncated while it is mapped kills the reader: dumps are not written to."""
    status = os.fstat(file.fileno())
    if status.st_size == 0:
        return Source(label, BytesMemory())
    extents = list(_data_extents(file.fileno(), status.st_size))
    file_name = (status.st_dev, status.st_ino, status.st_mtime_ns)
    layer = Layer(0, status.st_size, file_name, 0)
    if len(extents) <= _MAX_MAPPINGS and holes_take_room(file.fileno()):
        from perdure.storage.mapped import map_extents  # most sources need no storage

        mapped = [FileExtent(start, end - start, file.fileno(), start) for start, end in extents]
        return Source(label, map_extents(mapped, status.st_size), extents, [layer])
    mapping = mmap.mmap(file.fileno(), status.st_size, access=mmap.ACCESS_READ)
    return Source(label, ReadOnlyMemory(memoryview(mapping)), extents, [layer])


def _data_extents(descriptor: int, size_bytes: int) -> Iterator[Extent]:
    """The parts of a file that are not holes; all of it where the file system cannot tell."""
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                yield position, size_bytes
            return
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, position


def open_stream(stream: BinaryIO, label: str) -> Source:
    """A stream, unpacked where it is gzip, through a sparse temporary file that has no name."""
    with tempfile.TemporaryFile() as file:
        first = stream.read(2)
        chunks = _chunks(stream, first)
        for offset, chunk in _at_offsets(_unpacked(chunks) if first == GZIP_MAGIC else chunks):
            if offset + len(chunk) > MAX_STABLE_BYTES:
                raise MalformedError("more than the 500 GiB of the largest stable memory", offset)
            _write_sparsely(file, offset, chunk)
        file.flush()
        file.seek(0)
        check_kind(file.read(HEAD_BYTES), os.fstat(file.fileno()).st_size, Path(label))
        return map_file(file, label)


def _chunks(stream: BinaryIO, first: bytes) -> Iterator[bytes]:
    if first:
        yield first
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _at_offsets(chunks: Iterator[bytes]) -> Iterator[tuple[int, bytes]]:
    offset = 0
    for chunk in chunks:
        yield offset, chunk
        offset += len(chunk)


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The members of a gzip stream, in pieces of bounded size."""
    decoder, rest = zlib.decompressobj(31), b""
    read_bytes = 0
    for chunk in chunks:
        read_bytes += len(chunk)
        rest += chunk
        while rest:
            if decoder.eof:
                decoder = zlib.decompressobj(31)
            try:
                piece = decoder.decompress(rest, _CHUNK_BYTES)
            except zlib.error as error:
                raise MalformedError(f"broken gzip stream: {error}", max(0, read_bytes - len(rest))) from error
            rest = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
            if piece:
                yield piece
    if not decoder.eof:
        raise MalformedError("the gzip stream ends early", read_bytes)


def _write_sparsely(file: BinaryIO, offset: int, chunk: bytes) -> None:
    """Write what is not zero; a block of zeros stays a hole."""
    file.truncate(offset + len(chunk))
    for start in range(0, len(chunk), WASM_PAGE_BYTES):
        block = chunk[start : start + WASM_PAGE_BYTES]
        if block.count(0) != len(block):
            file.seek(offset + start)
            file.write(block)
