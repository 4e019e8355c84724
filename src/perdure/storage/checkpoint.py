"""The checkpoint file: what the images hold, and where the log begins.

```
 ┌────────────┬───────┬─────────────────────────────────────────────────┐
 │ magic      │  8 B  │ "PERDURE", 0                                     │ 0
 │ format     │  u32  │ 1; any other is refused                         │ 8
 │ zero       │  u32  │                                                 │ 12
 │ body bytes │  u64  │                                                 │ 16
 │ checksum   │  32 B │ SHA-256 of bytes 0..23 and of the body          │ 24
 │ body       │       │ CBOR                                            │ 56
 └────────────┴───────┴─────────────────────────────────────────────────┘
 body  { "epoch", "version", "hash": state hash, "subnet": record, "next slot",
         "canisters": { id: [slot, module hash, globals, record, heap, stable] } }
 heap, stable  [generation of the files, Wasm pages, root of the page tree]
```

Replaced as a whole: written beside, synced, renamed, the directory synced. Its checksum is what the first record of
the log continues.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, final

import cbor2

from perdure.errors import MalformedError, UnsupportedError
from perdure.storage.disk import Disk

__all__ = ["Checkpoint", "decode_checkpoint", "encode_checkpoint", "replace_file"]

_HEADER = struct.Struct("<8sIIQ32s")
_MAGIC = b"PERDURE\0"
FORMAT = 1


@final
@dataclass(slots=True)
class Checkpoint:
    """The body of a checkpoint, and its checksum."""

    epoch: int = 0
    version: int = 0
    state_hash: bytes = b""
    subnet_record: bytes = b""
    next_slot: int = 0
    canisters: dict[bytes, list[Any]] = field(default_factory=dict)
    checksum: bytes = b""


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The file's bytes; sets `checkpoint.checksum`."""
    body = cbor2.dumps(
        {
            "epoch": checkpoint.epoch,
            "version": checkpoint.version,
            "hash": checkpoint.state_hash,
            "subnet": checkpoint.subnet_record,
            "next slot": checkpoint.next_slot,
            "canisters": checkpoint.canisters,
        }
    )
    head = _HEADER.pack(_MAGIC, FORMAT, 0, len(body), b"")[:24]
    checkpoint.checksum = sha256(head + body).digest()
    return head + checkpoint.checksum + body


def decode_checkpoint(data: bytes) -> Checkpoint:
    """The inverse of `encode_checkpoint`.

    Raises:
        MalformedError: not a checkpoint, or damaged.
        UnsupportedError: a format that this version does not know.
    """
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise MalformedError(f"bad magic {data[:8]!r}, expected {_MAGIC!r}", 0)
    _, format_, _, body_bytes, checksum = _HEADER.unpack_from(data)
    if format_ != FORMAT:
        raise UnsupportedError(f"state directory of format {format_}; this version reads format {FORMAT}")
    body = data[_HEADER.size :]
    if len(body) != body_bytes:
        raise MalformedError(f"{len(body)} bytes found, {body_bytes} expected", _HEADER.size)
    if sha256(data[:24] + body).digest() != checksum:
        raise MalformedError("checksum mismatch", 24)
    try:
        found = cbor2.loads(body)
        return Checkpoint(
            found["epoch"],
            found["version"],
            found["hash"],
            found["subnet"],
            found["next slot"],
            found["canisters"],
            checksum,
        )
    except (cbor2.CBORDecodeError, KeyError, TypeError) as error:
        raise MalformedError(f"checkpoint body: {error}", _HEADER.size) from error


def replace_file(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Make `directory/name` be `data`, or leave it as it was, whatever happens meanwhile."""
    path = f"{directory}/{name}"
    disk.remove(path + ".new")
    file = disk.open(path + ".new", write=True, create=True)
    try:
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()
    disk.rename(path + ".new", path)
    disk.sync_directory(directory)
