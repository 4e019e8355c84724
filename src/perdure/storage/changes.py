"""What a commit changes, and how its record says so.

The meta part of a log record is one CBOR map:

```
 "message"    [id, canister, kind, method, caller, argument hash, instructions, time in ns, inputs: the rules' own]
 "subnet"     the rules' record of the whole subnet, if it changed
 "canisters"  { canister id: {
                  "slot"     number of the canister's files
                  "gone"     true, if the canister was deleted
                  "module"   SHA-256 of the module, or null
                  "globals"  [[type, bits]...], or null
                  "record"   the rules' record of the canister
                  "heap"     [Wasm pages, fresh, [first page, pages, first page, pages...]]
                  "stable"   the same } }                      only what changed
 "before"     the same two maps with the values before, if history is kept
```

The pages of the record follow in the order of "canisters", heap before stable; then the pages of "before".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, final

import cbor2

from perdure.canister import GlobalValue, PageDelta
from perdure.errors import MalformedError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES

__all__ = ["MEMORIES", "CanisterChange", "CommitFacts", "MemoryChange", "Message", "decode_meta"]

MEMORIES = ("heap", "stable")
"""The memories of a canister, in the order in which their pages are stored."""

_MAX_WASM_PAGES = (1 << 40) // WASM_PAGE_BYTES


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


@final
@dataclass(slots=True)
class CanisterChange:
    """What a commit changes in one canister; `None`: nothing.

    Attributes:
        heap: changed pages of the heap.
        stable: changed pages of stable memory.
        global_values: all globals.
        module_hash: SHA-256 of the module, a blob of the directory; empty: no module any more.
        record: what the rules keep about the canister, opaque here.
        deleted: the canister is gone, and all else about it.
    """

    heap: PageDelta | None = None
    stable: PageDelta | None = None
    global_values: tuple[GlobalValue, ...] | None = None
    module_hash: bytes | None = None
    record: bytes | None = None
    deleted: bool = False

    def memories(self) -> Iterator[tuple[str, PageDelta]]:
        """The memories that changed, in the order of `MEMORIES`."""
        if self.heap is not None:
            yield "heap", self.heap
        if self.stable is not None:
            yield "stable", self.stable


class MemoryChange(NamedTuple):
    """The part of a record about one memory: its size, and which pages lie where in the record."""

    wasm_pages: int
    fresh: bool
    runs: tuple[tuple[int, int, int], ...]
    """`(first page, pages, index of the first of them in the record)`."""


@final
@dataclass(slots=True)
class CommitFacts:
    """The decoded meta part of a record."""

    message: Message
    subnet_record: bytes | None
    canisters: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    before: dict[bytes, dict[str, Any]] = field(default_factory=dict)
    subnet_before: bytes | None = None
    page_count: int = 0


def encode_memory(delta: PageDelta) -> list[Any]:
    """The ``heap`` or ``stable`` entry of a change, of whole pages in ascending order."""
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


def encode_globals(values: Sequence[GlobalValue] | None) -> list[list[Any]] | None:
    """Globals as lists."""
    return None if values is None else [[value_type, bits] for value_type, bits in values]


def decode_globals(values: list[list[Any]] | None) -> tuple[GlobalValue, ...] | None:
    """The inverse of `encode_globals`."""
    return None if values is None else tuple(GlobalValue(value_type, bits) for value_type, bits in values)


def decode_meta(meta: bytes, page_count: int) -> CommitFacts:
    """Decode and check the meta part of a record.

    Raises:
        MalformedError: it is not what the module docstring says, or its pages are not those of the record.
    """
    try:
        found = cbor2.loads(meta)
        facts = CommitFacts(Message(*found["message"]), found.get("subnet"))
        index = 0
        facts.canisters, index = _decode_canisters(found["canisters"], index)
        before = found.get("before", {})
        facts.before, index = _decode_canisters(before.get("canisters", {}), index)
        facts.subnet_before = before.get("subnet")
        facts.page_count = index
    except (cbor2.CBORDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedError(f"commit record: {error}") from error
    if index != page_count:
        raise MalformedError(f"commit record: {page_count} pages found, {index} expected")
    return facts


def _decode_canisters(found: Mapping[bytes, dict[str, Any]], index: int) -> tuple[dict[bytes, dict[str, Any]], int]:
    canisters: dict[bytes, dict[str, Any]] = {}
    for canister_id, entry in found.items():
        decoded = canisters[canister_id] = dict(entry)
        for name in MEMORIES:
            if (encoded := decoded.get(name)) is not None:
                decoded[name], index = _decode_memory(encoded, index)
    return canisters, index


def _decode_memory(encoded: list[Any], index: int) -> tuple[MemoryChange, int]:
    wasm_pages, fresh, flat = encoded
    if not 0 <= wasm_pages <= _MAX_WASM_PAGES:
        raise ValueError(f"a memory of {wasm_pages} Wasm pages")
    runs = []
    position = 0
    for first, pages in zip(flat[::2], flat[1::2], strict=True):
        if first < position or pages <= 0 or (first + pages) * PAGE_BYTES > wasm_pages * WASM_PAGE_BYTES:
            raise ValueError(f"{pages} pages from page {first} of {wasm_pages} Wasm pages")
        runs.append((first, pages, index))
        index += pages
        position = first + pages
    return MemoryChange(wasm_pages, bool(fresh), tuple(runs)), index
