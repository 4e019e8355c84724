"""What a commit changes, and how its record says so.

The meta part of a log record is one CBOR map of numbered fields, see `perdure.record`; without one nothing changed:

```
 1 message    [id, canister, kind, method, caller, argument hash, instructions, time in ns, inputs: the rules' own]
 2 subnet     the rules' record of the whole subnet
 3 canisters  [[canister id, entry]...], ascending
 4 answers    [[request id, expiry in ns, answer]...], new ones or new for a request
 5 forgotten  [request id...]
 6 before     2 to 5 with the values before, if history is kept: `forgotten` are answers that did not exist

 entry  1 slot      number of the canister's files
        2 gone      true: the canister was deleted
        3 new       true, in `before`: there was no such canister
        4 module    SHA-256 of the module; empty: none
        5 globals   [[type, bits]...]
        6 not run   true: there are no globals, the module has not run
        7 record    the rules' record of the canister
        8 code      [name, hash, schema] of a canister that is no Wasm
        9 memories  [[name, [Wasm pages, fresh, [first page, pages, first page, pages...]]]...], ascending by name;
                    in `before` null for a memory that did not exist
       10 dropped   [name...], memories that are gone
       11 origins   [[name, [canister id, name]]...], ascending: what one of `memories` is a copy of, but for its pages
                    here; as that was before the commit, and in `before` as it is after it
```

The pages of the record follow in the order of canisters and of memories within them, then the pages of `before`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from perdure.canister import GlobalValue, PageDelta, wrong_global
from perdure.errors import MalformedError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.record import (
    BOOL,
    TEXT,
    Coder,
    Field,
    Plain,
    Table,
    blob,
    integer,
    load,
    nat,
    optional,
    row,
    sequence,
    sorted_mapping,
    structure,
)
from perdure.storage.merkle import MAX_LEAVES

__all__ = [
    "CANISTER_ID",
    "COUNT",
    "GLOBALS",
    "MODULE_HASH",
    "NAME",
    "NO_CODE",
    "PYTHON_CODE",
    "SLOT",
    "WASM_PAGES",
    "Answer",
    "CanisterChange",
    "CommitFacts",
    "Entry",
    "MemoryChange",
    "Message",
    "Origin",
    "PythonCode",
    "check_name",
    "decode_meta",
    "encode_memory",
    "page_runs",
]

_MAX_WASM_PAGES = (1 << 40) // WASM_PAGE_BYTES
_NAME = re.compile(r"[a-z0-9_.-]{1,64}")


class Message(NamedTuple):
    """What history says of a commit: the message that made it."""

    message_id: bytes = b""
    canister: bytes = b""
    kind: str = ""
    method: str = ""
    caller: bytes = b""
    argument_hash: bytes = b""
    instructions: int = 0
    time_ns: int = 0
    """What the message saw of the subnet's clock."""
    inputs: bytes = b""
    """Where history is kept: what came from outside since the commit before, to be done again; opaque here."""


class Answer(NamedTuple):
    """The answer to a request, kept by the request's id until it is forgotten. What it says is opaque here."""

    request_id: bytes
    expiry_ns: int
    response: bytes


class Origin(NamedTuple):
    """A memory that another one is a copy of."""

    canister: bytes
    name: str


class PythonCode(NamedTuple):
    """What is kept of code that is no Wasm.

    Attributes:
        name: what it is called; empty: there is none.
        hash: over name, declarations and source.
        schema: what it declared, opaque here.
    """

    name: str = ""
    hash: bytes = b""
    schema: bytes = b""


@final
@dataclass(slots=True)
class CanisterChange:
    """What a commit changes in one canister; `None`: nothing.

    Attributes:
        memories: changed pages by name of the memory; one that does not exist yet is created.
        origins: what one of `memories` is a copy of from now on, as that was before the commit, but for the pages that
            are there; no bytes are written for it.
        dropped: names of memories that are gone. One that is also in `memories` begins anew.
        global_values: all globals.
        module_hash: SHA-256 of the module, a blob of the directory; empty: no module any more.
        record: what the rules keep about the canister, opaque here.
        code: what is kept of code that is no Wasm.
        deleted: the canister is gone, and all else about it.
    """

    memories: dict[str, PageDelta] = field(default_factory=dict)
    dropped: frozenset[str] = frozenset()
    global_values: tuple[GlobalValue, ...] | None = None
    module_hash: bytes | None = None
    record: bytes | None = None
    code: PythonCode | None = None
    deleted: bool = False
    origins: dict[str, Origin] = field(default_factory=dict)


class MemoryChange(NamedTuple):
    """The part of a record about one memory: its size, and which pages lie where in the record."""

    wasm_pages: int
    fresh: bool
    runs: tuple[tuple[int, int, int], ...]
    """`(first page, pages, index of the first of them in the record)`."""


@final
@dataclass(slots=True)
class Entry:
    """The part of a record about one canister; see the module."""

    slot: int
    gone: bool
    new: bool
    module: bytes | None
    global_values: tuple[GlobalValue, ...] | None
    not_run: bool
    record: bytes | None
    code: PythonCode | None
    memories: dict[str, MemoryChange | None]
    dropped: tuple[str, ...]
    origins: dict[str, Origin]


@final
@dataclass(slots=True)
class CommitFacts:
    """The decoded meta part of a record."""

    message: Message
    subnet: bytes | None = None
    canisters: dict[bytes, Entry] = field(default_factory=dict)
    answers: tuple[Answer, ...] = ()
    forgotten: tuple[bytes, ...] = ()
    before: CommitFacts | None = None


def check_name(name: str) -> None:
    """Raise `ValueError` unless a memory can be called so: the name is part of its files' names."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"a memory cannot be called {name[:80]!r}: expected 1 to 64 of a-z, 0-9, '_', '.', '-'")


def _decode_name(value: object, where: str) -> str:
    name: str = TEXT.decode(value, where)
    if not _NAME.fullmatch(name):
        raise MalformedError(f"{where} is {name[:80]!r}, which no memory can be called")
    return name


_HASH, _NONE = blob(32, 32), blob(0, 0)


def _code(code: PythonCode) -> str | None:
    if len(code.hash) != 32 * bool(code.name) or (code.schema and not code.name):
        return f"a hash of {len(code.hash)} bytes of code called {code.name!r:.40}"
    return None


_BYTES = blob()
NO_CODE: Final = PythonCode()
NAME: Final = Coder(None, _decode_name)
COUNT: Final = nat(62)
"""A number that is counted up, or a time in ns: one more of it fits into 64 bits, whatever is added."""
SLOT: Final = integer(0, MAX_LEAVES)
WASM_PAGES: Final = integer(0, _MAX_WASM_PAGES)
CANISTER_ID: Final = blob(0, 128)
"""Of a canister, or of what is kept like one, a snapshot."""
MODULE_HASH: Final = Coder(
    None, lambda value, where: _HASH.decode(value, where) if value else _NONE.decode(value, where)
)
GLOBALS: Final = sequence(row(GlobalValue, ("type", TEXT), ("bits", _BYTES), rules=(wrong_global,)), tuple)
PYTHON_CODE: Final = row(PythonCode, ("name", TEXT), ("hash", blob(0, 32)), ("schema", _BYTES), rules=(_code,))
_MESSAGE = row(
    Message,
    ("id", _BYTES),
    ("canister", _BYTES),
    ("kind", TEXT),
    ("method", TEXT),
    ("caller", _BYTES),
    ("argument hash", _BYTES),
    ("instructions", COUNT),
    ("time", COUNT),
    ("inputs", _BYTES),
)
_ANSWER = row(Answer, ("request id", blob(1)), ("expiry", COUNT), ("response", _BYTES))


def _entry_rule(entry: dict[str, Plain]) -> str | None:
    if entry["gone"] and any(entry[name] is not None for name in ("module", "global_values", "record", "code")):
        return "both gone and changed"
    if (entry["gone"] or entry["new"]) and (entry["memories"] or entry["dropped"]):
        return "both gone and changed, or not there and not empty"
    if entry["not_run"] and entry["global_values"] is not None:
        return "globals of a module that has not run"
    if any(entry["memories"].get(name) is None for name in entry["origins"]):
        return f"origins of {[*entry['origins']][:5]}, which are not all among the memories"
    if list(entry["dropped"]) != sorted(set(entry["dropped"])):
        return f"{entry['dropped']} dropped, expected ascending names"
    return None


def _meta_rule(meta: dict[str, Plain]) -> str | None:
    """What belongs to changes is in them, and what belongs to what was before is there."""
    entries = meta["canisters"].values()
    if any(entry.new or entry.not_run or None in entry.memories.values() for entry in entries):
        return "changes that say what was before"
    before = meta["before"]
    if before is not None and before["canisters"].keys() != meta["canisters"].keys():
        return "what was before is not that of the canisters that changed"
    if before is not None and any(entry.gone or entry.dropped for entry in before["canisters"].values()):
        return "what was before says what changed"
    return None


_MEMORY = row(lambda *parts: parts, ("Wasm pages", WASM_PAGES), ("fresh", BOOL), ("runs", sequence(nat(29), tuple)))
_ORIGIN = row(Origin, ("canister", CANISTER_ID), ("name", NAME))
_ENTRY = structure(
    Entry,
    Table(
        "canister",
        Field(1, "slot", integer(0, MAX_LEAVES - 1)),
        Field(2, "gone", BOOL, False),
        Field(3, "new", BOOL, False),
        Field(4, "module", optional(MODULE_HASH), None),
        Field(5, "global_values", optional(GLOBALS), None),
        Field(6, "not_run", BOOL, False),
        Field(7, "record", optional(_BYTES), None),
        Field(8, "code", optional(PYTHON_CODE), None),
        Field(9, "memories", sorted_mapping(NAME, optional(_MEMORY)), []),
        Field(10, "dropped", sequence(NAME, tuple), []),
        Field(11, "origins", sorted_mapping(NAME, _ORIGIN), []),
        rules=(_entry_rule,),
        is_loose=True,
    ),
)
_CHANGES = (
    Field(2, "subnet", optional(_BYTES), None),
    Field(3, "canisters", sorted_mapping(CANISTER_ID, _ENTRY), []),
    Field(4, "answers", sequence(_ANSWER, tuple), []),
    Field(5, "forgotten", sequence(blob(1), tuple), []),
)
_BEFORE = Table("before", *_CHANGES, is_loose=True)
_META = Table(
    "commit record",
    Field(1, "message", _MESSAGE),
    *_CHANGES,
    Field(6, "before", optional(structure(dict, _BEFORE)), None),
    rules=(_meta_rule,),
)


def encode_memory(delta: PageDelta) -> list[Plain]:
    """The entry of a memory, of whole pages in ascending order."""
    return [delta.wasm_pages, delta.fresh, page_runs(delta)]


def page_runs(delta: PageDelta) -> list[int]:
    """First page and number of pages of each run, in turn; runs that touch as one."""
    runs: list[int] = []
    end = -1
    for address, data in delta.runs:
        size_bytes = len(data)
        if address == end:
            runs[-1] += size_bytes // PAGE_BYTES
        elif size_bytes:
            runs += (address // PAGE_BYTES, size_bytes // PAGE_BYTES)
        end = address + size_bytes if size_bytes else end
    return runs


def encode_globals(values: Sequence[GlobalValue]) -> list[list[Plain]]:
    """Globals as lists."""
    return [[value_type, bits] for value_type, bits in values]


def decode_meta(meta: bytes, page_count: int) -> CommitFacts:
    """Decode and check the meta part of a record.

    Raises:
        MalformedError: it is not what the module docstring says, or its pages are not those of the record.
    """
    found = _META.decode(load(meta, "commit record"))
    before = found.pop("before")
    facts = CommitFacts(**found)
    index = _place(facts.canisters, 0)
    if before is not None:
        facts.before = CommitFacts(facts.message, **before)
        index = _place(facts.before.canisters, index)
    if index != page_count:
        raise MalformedError(f"commit record: {page_count} pages found, {index} expected")
    return facts


def _place(canisters: Mapping[bytes, Entry], index: int) -> int:
    """Say where the pages of entries lie, from `index` on; where they end."""
    for entry in canisters.values():
        placed: dict[str, MemoryChange | None] = {}
        for name, found in entry.memories.items():
            placed[name] = None
            if found is not None:
                wasm_pages, fresh, flat = found
                placed[name], index = _place_memory(wasm_pages, fresh, flat, index)  # type: ignore[arg-type]
        entry.memories = placed
    return index


def _place_memory(wasm_pages: int, fresh: bool, flat: Sequence[int], index: int) -> tuple[MemoryChange, int]:
    if wasm_pages > _MAX_WASM_PAGES or len(flat) % 2:
        raise MalformedError(f"commit record: a memory of {wasm_pages} Wasm pages, {len(flat)} numbers of runs")
    runs = []
    position = 0
    for first, pages in zip(flat[::2], flat[1::2], strict=True):
        if first < position or pages <= 0 or (first + pages) * PAGE_BYTES > wasm_pages * WASM_PAGE_BYTES:
            raise MalformedError(f"commit record: {pages} pages from page {first} of {wasm_pages} Wasm pages")
        runs.append((first, pages, index))
        index += pages
        position = first + pages
    return MemoryChange(wasm_pages, fresh, tuple(runs)), index
