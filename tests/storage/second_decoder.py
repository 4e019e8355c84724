"""A second reader and writer of state directories, made from docs/formats.md alone, to hold the first one against.

It knows nothing of `perdure`. It reads a directory into trees (`parse`), writes trees as files with every length,
checksum and hash made anew (`build`), and says what state the files are (`interpret`). It trusts what it reads: what is
wrong is for the other one to find.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from typing import Any
from zlib import crc32

import cbor2

PAGE = 4096
WASM_PAGE = 65536
HEADER = struct.Struct("<4sHHQQQIIII32s32s")
ZEROS = bytes(PAGE)
ZERO_PAGE = sha256(ZEROS).digest()


# ------------------------------------------------------------------------------------------------------------- CBOR


def dump(value: Any) -> bytes:
    """Writing is left to a library, which both then have in common; reading is not."""
    return cbor2.dumps(value, default=lambda encoder, one: encoder.encode(one.encoded()))


def _load(data: bytes, at: int) -> tuple[Any, int]:
    major, code = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if code in {20, 21, 22}:
            return {20: False, 21: True, 22: None}[code], at
        size, form = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}[code]
        return struct.unpack_from(form, data, at)[0], at + size
    size = {24: 1, 25: 2, 26: 4, 27: 8}.get(code, 0)
    if code > 27:
        raise ValueError(f"code {code}")
    number = int.from_bytes(data[at : at + size], "big") if size else code
    at += size
    if major in {2, 3}:
        content = data[at : at + number]
        if len(content) < number:
            raise ValueError("too short")
        return (content if major == 2 else content.decode()), at + number
    if major in {4, 5}:
        if number > len(data):
            raise ValueError("too short")
        items = []
        for _ in range(number * (major - 3)):
            one, at = _load(data, at)
            items.append(one)
        return (items if major == 4 else dict(zip(items[::2], items[1::2], strict=True))), at
    if major == 6:
        content, at = _load(data, at)
        magnitude = int.from_bytes(content, "big")
        return (magnitude if number == 2 else -1 - magnitude), at
    return (number if major == 0 else -1 - number), at


def load(data: bytes) -> Any:
    value, end = _load(data, 0)
    if end != len(data):
        raise ValueError("something after the end")
    return value


@dataclass
class Embedded:
    """Bytes that are CBOR themselves, after a prefix."""

    tree: Any
    prefix: bytes = b""

    def encoded(self) -> bytes:
        return self.prefix + dump(self.tree)


def plain(value: Any) -> bytes:
    return value.encoded() if isinstance(value, Embedded) else value


def embed(data: Any, prefix: int = 0) -> Any:
    """Bytes as what is in them, where that is CBOR."""
    if not isinstance(data, bytes) or len(data) <= prefix:
        return data
    try:
        found = Embedded(load(data[prefix:]), data[:prefix])
    except (ValueError, IndexError, KeyError, UnicodeDecodeError, struct.error, TypeError):
        return data
    return found if isinstance(found.tree, list) and found.encoded() == data else data


# ------------------------------------------------------------------------------------------------------ a directory


@dataclass
class Record:
    """A record of a log. `None` in `head`: as it should be."""

    kind: int
    epoch: int
    version: int
    durable: int
    zero: int
    has_hash: bool
    meta: Any
    pages: bytes
    state_hash: bytes = b""
    checksum: bytes = b""


@dataclass
class Directory:
    body: Any
    zero: int
    answers: dict[str, Any]
    log: list[Record]
    segments: dict[str, tuple[list[Any], list[Record]]]
    files: dict[str, bytes]
    """All others: images, hashes, blobs."""


def _parse_records(data: bytes, at: int) -> list[Record]:
    records = []
    while data[at : at + 4] == b"PDSL":
        _, _, kind, epoch, version, durable, meta_bytes, count, _, zero, _, state_hash = HEADER.unpack_from(data, at)
        start = at + HEADER.size + 36
        meta = load(data[start : start + meta_bytes]) if meta_bytes else None
        pages = at + -(-(HEADER.size + 36 + meta_bytes) // PAGE) * PAGE
        at = pages + count * PAGE
        record = Record(kind, epoch, version, durable, zero, any(state_hash), meta, data[pages:at], state_hash)
        if meta is not None:
            _embed_meta(meta)
        records.append(record)
    return records


def _embed_meta(meta: dict[int, Any]) -> None:
    for changes in (meta, meta.get(6) or {}):
        if 2 in changes:
            changes[2] = embed(changes[2])
        for _, entry in changes.get(3, ()):
            if 7 in entry:
                entry[7] = embed(entry[7])
        for answer in changes.get(4, ()):
            answer[2] = embed(answer[2], 8)


def parse(files: dict[str, bytes]) -> Directory:
    checkpoint = files["checkpoint"]
    body = load(checkpoint[56:])
    if 4 in body:
        body[4] = embed(body[4])
    for _, entry in body.get(9, ()):
        if 4 in entry:
            entry[4] = embed(entry[4])
    answers, segments, others = {}, {}, {}
    for name, data in files.items():
        if name.startswith("answers/"):
            answers[name] = load(data[8:])
            for answer in answers[name][1]:
                answer[2] = embed(answer[2], 8)
        elif name.startswith("history/"):
            _, _, epoch, version, checksum = struct.unpack_from("<4sIQQ32s", data)
            segments[name] = ([epoch, version, checksum], _parse_records(data, PAGE))
        elif name not in {"checkpoint", "log"}:
            others[name] = data
    (zero,) = struct.unpack_from("<I", checkpoint, 12)
    log = [record for record in _parse_records(files["log"], 0) if record.epoch == body[1]]
    return Directory(body, zero, answers, log, segments, others)


def _build_records(records: list[Record], checksum: bytes, end: bytes = b"") -> bytes:
    out = []
    for record in records:
        meta = b"" if record.meta is None else dump(record.meta)
        checked = HEADER.pack(
            b"PDSL",
            1,
            record.kind,
            record.epoch,
            record.version,
            record.durable,
            len(meta),
            len(record.pages) // PAGE,
            crc32(record.pages),
            record.zero,
            checksum,
            record.state_hash if record.has_hash else bytes(32),
        )
        checksum = sha256(checked + meta).digest()
        head = checked + checksum + crc32(checked + checksum).to_bytes(4, "little") + meta
        out += [head, bytes(-len(head) % PAGE), record.pages]
    return b"".join((*out, end))


def build(directory: Directory) -> dict[str, bytes]:
    """The files, checksums and hashes repaired: those of answers, of the state, of checkpoint and log."""
    files = dict(directory.files)
    for name, tree in directory.answers.items():
        files[name] = struct.pack("<4sI", b"PDAN", 1) + dump(tree)
        for entry in directory.body.get(10, ()):
            if f"answers/{entry[0]:020}.answers" == name:
                entry[2] = sha256(files[name]).digest()
    states = interpret(directory)
    if any(len(record.pages) % PAGE for record in directory.log):
        raise ValueError("pages that are not whole")
    directory.body[3] = states[0].hash()
    for record, state in zip(directory.log, states[1:], strict=True):
        if record.has_hash:
            record.state_hash = state.hash()
    body = dump(directory.body)
    head = struct.pack("<8sIIQ", b"PERDURE1", 1, directory.zero, len(body))
    checksum = sha256(head + body).digest()
    files["checkpoint"] = head + checksum + body
    files["log"] = _build_records(directory.log, checksum, bytes(PAGE))
    for name, (start, records) in directory.segments.items():
        header = struct.pack("<4sIQQ32s", b"PDSH", 1, *start)
        files[name] = header.ljust(PAGE, b"\0") + _build_records(records, start[2])
    return files


# ---------------------------------------------------------------------------------------------------------- a state


def root(leaves: dict[int, bytes], count: int) -> bytes:
    """The root over so many leaves; what is not among them is a page of zeros."""
    height = max(-(-(count - 1).bit_length() // 4), 1)
    zero, level = ZERO_PAGE, dict(leaves)
    for _ in range(height):
        above = {index >> 4 for index in level}
        level = {
            node: sha256(b"".join(level.get(16 * node + child, zero) for child in range(16))).digest() for node in above
        }
        zero = sha256(zero * 16).digest()
    return level.get(0, zero)


@dataclass
class Memory:
    wasm_pages: int = 0
    root: bytes | None = None
    """As the checkpoint says, as long as nothing has changed."""
    pages: dict[int, bytes] = field(default_factory=dict)

    def hash(self) -> bytes:
        found = self.root
        if found is None:
            leaves = {page: sha256(data).digest() for page, data in self.pages.items()}
            found = root(leaves, self.wasm_pages * WASM_PAGE // PAGE)
        return sha256(b"perdure memory 1" + struct.pack("<Q", self.wasm_pages) + found).digest()


@dataclass
class Canister:
    slot: int
    module: bytes = b""
    globals: Any = None
    record: bytes = b""
    code: list[Any] = field(default_factory=lambda: ["", b"", b""])
    memories: dict[str, Memory] = field(default_factory=dict)

    def hash(self, canister_id: bytes) -> bytes:
        globals_ = b"" if self.globals is None else dump(self.globals)
        parts = (b"perdure canister 1", canister_id, self.module, globals_, self.record, dump(self.code))
        facts = sha256(b"".join(struct.pack("<Q", len(part)) + part for part in parts)).digest()
        named = [
            struct.pack("<Q", len(name.encode())) + name.encode() + memory.hash()
            for name, memory in sorted(self.memories.items())
        ]
        return sha256(facts + b"".join(named)).digest()


@dataclass
class State:
    version: int
    subnet: bytes
    next_slot: int
    canisters: dict[bytes, Canister]
    answers: dict[bytes, list[Any]]
    kept_hash: bytes = b""

    def hash(self) -> bytes:
        return self.kept_hash or self.compute_hash()

    def compute_hash(self) -> bytes:
        leaves = {canister.slot: canister.hash(key) for key, canister in self.canisters.items()}
        total = sum(int.from_bytes(sha256(dump(answer)).digest(), "little") for answer in self.answers.values())
        answers = (total % (1 << 256)).to_bytes(32, "little")
        parts = (b"perdure state 1", root(leaves, self.next_slot), sha256(self.subnet).digest(), answers)
        return sha256(b"".join(parts)).digest()


@cache
def pages_of(data: bytes) -> dict[int, bytes]:
    """The pages of an image that are not zero."""
    found = {at // PAGE: data[at : at + PAGE] for at in range(0, len(data), PAGE)}
    return {page: content for page, content in found.items() if content != ZEROS[: len(content)]}


def _memory(files: dict[str, bytes], slot: int, name: str, entry: list[Any]) -> Memory:
    generation, wasm_pages, kept_root = entry
    data = files.get(f"images/{slot}-{name}-{generation}.img", b"") if generation else b""
    return Memory(wasm_pages, kept_root, dict(pages_of(data)))


def _take(answers: dict[bytes, list[Any]], forgotten: list[bytes], added: list[list[Any]]) -> None:
    for request_id in forgotten:
        answers.pop(request_id, None)
    for answer in added:
        answers.pop(answer[0], None)
        answers[answer[0]] = [answer[0], answer[1], plain(answer[2])]


def interpret(directory: Directory) -> list[State]:
    """The state of the checkpoint, then that after each record of the log; only the last one is whole."""
    body = directory.body
    canisters = {}
    for key, entry in body.get(9, ()):
        canisters[key] = Canister(
            entry[1],
            entry.get(2, b""),
            entry.get(3),
            plain(entry.get(4, b"")),
            entry.get(5, ["", b"", b""]),
            {name: _memory(directory.files, entry[1], name, one) for name, one in entry.get(6, ())},
        )
    answers: dict[bytes, list[Any]] = {}
    for epoch, _, _ in body.get(10, ()):
        forgotten, added = directory.answers[f"answers/{epoch:020}.answers"]
        _take(answers, forgotten, added)
    state = State(body[2], plain(body.get(4, b"")), body.get(5, 0), canisters, answers)
    state.kept_hash = state.compute_hash()
    states = [state]
    epoch = body[1]
    for record in directory.log:
        if (record.epoch, record.version) != (epoch, state.version + (record.kind == 0)):
            epoch = None  # neither this one nor what follows continues the one before: a torn tail
            states.append(state)
            continue
        state = State(record.version, state.subnet, state.next_slot, state.canisters, state.answers)
        if record.kind == 0 and record.meta is not None:
            _apply(state, record)
        state.kept_hash = state.compute_hash() if record.has_hash else b""
        states.append(state)
    return states


def _changed(fields: dict[int, Any]) -> dict[int, Any]:
    """The fields that say something: null is what a field has that did not change."""
    return {number: value for number, value in fields.items() if value is not None}


def _apply(state: State, record: Record) -> None:
    meta = _changed(record.meta)
    state.subnet = plain(meta.get(2, state.subnet))
    at = 0
    for key, fields in meta.get(3, ()):
        entry = _changed(fields)
        if entry.get(2):
            state.canisters.pop(key, None)
            continue
        canister = state.canisters.setdefault(key, Canister(entry[1]))
        state.next_slot = max(state.next_slot, entry[1] + 1)
        canister.module = entry.get(4, canister.module)
        canister.globals = entry.get(5, canister.globals)
        canister.record = plain(entry.get(7, canister.record))
        canister.code = entry.get(8, canister.code)
        for name in entry.get(10, ()):
            canister.memories.pop(name, None)
        for name, (wasm_pages, fresh, runs) in entry.get(9, ()):
            memory = canister.memories.setdefault(name, Memory())
            memory.root = None
            memory.wasm_pages = wasm_pages
            if fresh:
                memory.pages.clear()
            for first, count in zip(runs[::2], runs[1::2], strict=True):
                for page in range(first, first + min(count, len(record.pages) // PAGE + 1)):
                    data = record.pages[at : at + PAGE]
                    memory.pages.pop(page, None)
                    if data != ZEROS[: len(data)]:
                        memory.pages[page] = data
                    at += PAGE
    _take(state.answers, meta.get(5, []), meta.get(4, []))
