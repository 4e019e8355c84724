"""The checkpoint file: what the images hold, and where the log begins.

```
 ┌────────────┬───────┬─────────────────────────────────────────────────┐
 │ magic      │  8 B  │ "PERDURE1"                                      │ 0
 │ format     │  u32  │ 2; 1 is without field 11; others are refused    │ 8
 │ zero       │  u32  │                                                 │ 12
 │ body bytes │  u64  │                                                 │ 16
 │ checksum   │  32 B │ SHA-256 of bytes 0..23 and of the body          │ 24
 │ body       │       │ CBOR, numbered fields, see `perdure.record`     │ 56
 └────────────┴───────┴─────────────────────────────────────────────────┘
 1 epoch   2 version   3 state hash   4 the rules' record of the subnet   5 next slot
 6 history     how many commits are kept; null: all          7 extensions  [name...], ascending
 8 records     version of the rules' records in it
 9 canisters   [[canister id, entry]...], ascending
 10 answers    [[epoch, entries, SHA-256 of the file]...]
 11 owner      which opening of the directory has made it; 0: before that was counted

 entry  1 slot   2 module hash   3 globals or null   4 record   5 code [name, hash, schema]
        6 memories  [[name, [generation of the files, Wasm pages, root of the page tree]]...], ascending
        7 layers    [[name, [[file...], [pages, index of the file, pages, index...]]]...], ascending: of memories that
                    are not made of one file of their own, see `perdure.storage.layers`; newer files first
```

Replaced as a whole: written beside, synced, renamed, the directory synced. Its checksum is what the first record of
the log continues.

The magic is another one than that of directories written before there was a format with a version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, final

import cbor2

from perdure.canister import GlobalValue
from perdure.errors import MalformedError, UnsupportedError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.record import (
    TEXT,
    Coder,
    Field,
    Plain,
    Table,
    blob,
    load,
    nat,
    optional,
    row,
    sequence,
    sorted_mapping,
    structure,
)
from perdure.storage.changes import (
    CANISTER_ID,
    COUNT,
    GLOBALS,
    MODULE_HASH,
    NAME,
    NO_CODE,
    PYTHON_CODE,
    SLOT,
    WASM_PAGES,
    PythonCode,
)
from perdure.storage.disk import Disk
from perdure.storage.layers import FILE_NAME, Layout
from perdure.storage.merkle import EMPTY_ROOT

__all__ = [
    "AnswerFile",
    "Checkpoint",
    "KeptCanister",
    "KeptMemory",
    "decode_checkpoint",
    "encode_checkpoint",
    "put_in_place",
    "replace_file",
    "write_beside",
]

_HEADER = struct.Struct("<8sIIQ32s")
_MAGIC = b"PERDURE1"
_OLD_MAGIC = b"PERDURE\0"
FORMAT = 2
_FORMATS = (1, FORMAT)
"""That can be read."""

OWNER = nat(32)
_HASH = blob(32, 32)


class KeptMemory(NamedTuple):
    """A memory's files: their generation (0: there are none; of several the newest), its size, its page tree's root."""

    generation: int
    wasm_pages: int
    root: bytes


class AnswerFile(NamedTuple):
    """A file of answers: the epoch in its name, how many entries it has, its SHA-256."""

    epoch: int
    entries: int
    hash: bytes


@final
@dataclass(slots=True)
class KeptCanister:
    """A canister as the checkpoint has it."""

    slot: int
    module_hash: bytes = b""
    global_values: tuple[GlobalValue, ...] | None = None
    record: bytes = b""
    code: PythonCode = NO_CODE
    memories: dict[str, KeptMemory] = field(default_factory=dict)
    layers: dict[str, Layout] = field(default_factory=dict)


@final
@dataclass(slots=True)
class Checkpoint:
    """The body of a checkpoint, and its checksum."""

    epoch: int = 0
    version: int = 0
    state_hash: bytes = b""
    subnet_record: bytes = b""
    next_slot: int = 0
    history: int | None = 0
    extensions: tuple[str, ...] = ()
    records: int = 0
    canisters: dict[bytes, KeptCanister] = field(default_factory=dict)
    answers: tuple[AnswerFile, ...] = ()
    owner: int = 0
    checksum: bytes = b""


def _without_files(memory: KeptMemory) -> str | None:
    if not memory.generation and (memory.wasm_pages or memory.root != EMPTY_ROOT):
        return f"{memory.wasm_pages} Wasm pages and no files, expected none"
    return None


def _slots(body: dict[str, Plain]) -> str | None:
    slots = [canister.slot for canister in body["canisters"].values()]
    if len(set(slots)) != len(slots) or any(slot >= body["next_slot"] for slot in slots):
        return f"slots {slots[:5]}, the next one is {body['next_slot']}"
    return None


def _answer_files(body: dict[str, Plain]) -> str | None:
    epochs = [file.epoch for file in body["answers"]]
    if epochs != sorted(set(epochs)) or (epochs and epochs[-1] > body["epoch"]):
        return f"answers of epochs {epochs[:5]}, this one is {body['epoch']}"
    return None


def _extension_names(body: dict[str, Plain]) -> str | None:
    names = list(body["extensions"])
    return None if names == sorted(set(names)) else f"extensions {names[:5]} are not ascending"


def _file_name(value: object, where: str) -> str:
    name: str = TEXT.decode(value, where)
    if not FILE_NAME.fullmatch(name):
        raise MalformedError(f"{where} is {name[:90]!r}, expected SLOT-NAME-GENERATION")
    return name


def _layout(layout: Layout) -> str | None:
    pages, indices = layout.pieces[::2], layout.pieces[1::2]
    if not layout.files or len(set(layout.files)) != len(layout.files):
        return f"the files {layout.files[:5]}, expected some, each once"
    if len(pages) != len(indices) or 0 in pages or any(index >= len(layout.files) for index in indices):
        return f"{len(layout.files)} files, and pieces {layout.pieces[:6]}"
    return None


def _layers(canister: dict[str, Plain]) -> str | None:
    for name, layout in canister["layers"].items():
        known = canister["memories"].get(name)
        pages = sum(layout.pieces[::2])
        if known is None or pages * PAGE_BYTES != known.wasm_pages * WASM_PAGE_BYTES:
            return f"layers of {pages} pages for memory {name}, which is {known}"
    return None


_FILE = Coder(None, _file_name)
_LAYOUT = row(Layout, ("files", sequence(_FILE, tuple)), ("pieces", sequence(nat(40), tuple)), rules=(_layout,))
_MEMORY = row(KeptMemory, ("generation", COUNT), ("Wasm pages", WASM_PAGES), ("root", _HASH), rules=(_without_files,))
_CANISTER = structure(
    KeptCanister,
    Table(
        "canister",
        Field(1, "slot", SLOT),
        Field(2, "module_hash", MODULE_HASH, b""),
        Field(3, "global_values", optional(GLOBALS), None),
        Field(4, "record", blob(), b""),
        Field(5, "code", PYTHON_CODE, ["", b"", b""]),
        Field(6, "memories", sorted_mapping(NAME, _MEMORY), []),
        Field(7, "layers", sorted_mapping(NAME, _LAYOUT), []),
        rules=(_layers,),
    ),
)
_BODY = Table(
    "checkpoint",
    Field(1, "epoch", COUNT),
    Field(2, "version", COUNT),
    Field(3, "state_hash", _HASH),
    Field(4, "subnet_record", blob(), b""),
    Field(5, "next_slot", SLOT, 0),
    Field(6, "history", optional(COUNT), 0),
    Field(7, "extensions", sequence(TEXT, tuple), []),
    Field(8, "records", nat(32), 0),
    Field(9, "canisters", sorted_mapping(CANISTER_ID, _CANISTER), []),
    Field(10, "answers", sequence(row(AnswerFile, ("epoch", COUNT), ("entries", COUNT), ("hash", _HASH)), tuple), []),
    Field(11, "owner", OWNER, 0),
    rules=(_slots, _answer_files, _extension_names),
)


def encode_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The file's bytes; sets `checkpoint.checksum`."""
    body = cbor2.dumps(_BODY.encode(checkpoint))
    head = _HEADER.pack(_MAGIC, FORMAT if checkpoint.owner else 1, 0, len(body), b"")[:24]
    checkpoint.checksum = sha256(head + body).digest()
    return head + checkpoint.checksum + body


def decode_checkpoint(data: bytes) -> Checkpoint:
    """The inverse of `encode_checkpoint`.

    Raises:
        MalformedError: not a checkpoint, or damaged.
        UnsupportedError: a format that this version does not know.
    """
    if data.startswith(_OLD_MAGIC):
        raise UnsupportedError(
            "a state directory of before there was a format with a version: with the revision of perdure that wrote "
            "it, take a snapshot of each canister (`perdure canister snapshot create` and `download`), then load it"
        )
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise MalformedError(f"bad magic {data[:8]!r}, expected {_MAGIC!r}", 0)
    _, format_, zero, body_bytes, checksum = _HEADER.unpack_from(data)
    if format_ not in _FORMATS:
        newer = "a newer version of perdure wrote it" if format_ > FORMAT else "there is no such format"
        raise UnsupportedError(
            f"state directory of format {format_}; this version reads formats 1 to {FORMAT}: {newer}"
        )
    body = data[_HEADER.size :]
    if zero:
        raise MalformedError(f"{zero:#x} found where nothing is, expected zero", 12)
    if len(body) != body_bytes:
        raise MalformedError(f"{len(body)} bytes found, {body_bytes} expected", _HEADER.size)
    if sha256(data[:24] + body).digest() != checksum:
        raise MalformedError("checksum mismatch", 24)
    found = _BODY.decode(load(body, "checkpoint"))
    if bool(found["owner"]) != (format_ > 1):
        raise MalformedError(f"owner {found['owner']} in format {format_}: format 1 has none, others have", 8)
    return Checkpoint(**found, checksum=checksum)


def replace_file(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Make `directory/name` be `data`, or leave it as it was, whatever happens meanwhile."""
    write_beside(disk, directory, name, data)
    put_in_place(disk, directory, name)


def write_beside(disk: Disk, directory: str, name: str, data: bytes) -> None:
    """Have `data` on the platter beside `directory/name`, for `put_in_place`."""
    path = f"{directory}/{name}"
    disk.remove(path + ".new")
    file = disk.open(path + ".new", write=True, create=True)
    try:
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()


def put_in_place(disk: Disk, directory: str, name: str) -> None:
    """Replace `directory/name` by what was written beside it; on the platter when this returns."""
    path = f"{directory}/{name}"
    disk.rename(path + ".new", path)
    disk.sync_directory(directory)
