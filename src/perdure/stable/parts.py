"""A map read in parts, by address: each byte once, in any order, by whoever has time (extra ``columns``).

```
 chunks by number   0 │ 1 │ 2 ... │ used          one stride apart from byte 100 on; the last ever used by bisection
 part               first .. first + count         read as one run; what is allocated and begins with BTN is a node
 left over          nodes whose overflow pages are in other parts, and overflow pages of nodes elsewhere
 joined             what all parts have left over, together
 checked            entries of all nodes = entries of the header, allocated chunks = those that the header counts
```

A walk down the tree finds the nodes that belong to it; here all that are allocated are taken to. Maps of crates before
0.6.4 may have chunks that nobody freed, with entries from before: then the counts differ, and the map is to be walked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, final

import numpy as np

from perdure.errors import MalformedError
from perdure.memory import BytesMemory, Memory
from perdure.stable import types
from perdure.stable.bulk import Chains, Heads, NodeReader, Strict
from perdure.stable.columns import Column, gather_column
from perdure.stable.gather import Bytes, Offsets, items
from perdure.stable.headers import MapHeader
from perdure.stable.layout import (
    CHUNK_HEADER_BYTES,
    CHUNK_MAGIC,
    FIRST_BODY_ADDRESS,
    FIRST_CHUNK_ADDRESS,
    NODE_MAGIC,
    OVERFLOW_MAGIC,
)

__all__ = ["Pages", "Part", "Rest", "check_counts", "join", "read_part", "used_chunks"]

_MAGIC_BYTES: Final = 3


@final
@dataclass(frozen=True, eq=False)
class Pages:
    """Bodies of chunks, somewhere: where each is in the map, ascending, and where its bytes begin in `data`."""

    bodies: Offsets
    begins: Offsets
    data: Bytes
    size_bytes: int
    memory: Memory = field(default_factory=BytesMemory)
    flat: None = None

    def rows(self, addresses: Offsets, width: int) -> Bytes:
        """`width` bytes from each address, one row each; all lie in one of the bodies."""
        if width == 0 or not len(addresses):
            return np.zeros((len(addresses), width), dtype=np.uint8)
        which = np.searchsorted(self.bodies, addresses, side="right") - 1
        at = self.begins[which] + (addresses - self.bodies[which])
        found: Bytes = items(self.data, f"V{width}")[at].view(np.uint8).reshape(len(addresses), width)
        return found


@final
@dataclass(frozen=True)
class Rest:
    """What a part could not put together: pages by address."""

    nodes: dict[int, bytes] = field(default_factory=dict)
    overflow: dict[int, bytes] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False)
class Part:
    """Entries of a part, in no order that means anything.

    Attributes:
        keys: encoded.
        values: encoded.
        allocated: chunks that are marked as allocated.
        rest: what belongs to nodes of which not all is here.
    """

    keys: Column
    values: Column
    allocated: int
    rest: Rest


def used_chunks(read: Callable[[int, int], bytes], header: MapHeader, memory_bytes: int) -> int:
    """How many chunks a map has ever used, the one at the end of its free list included.

    Args:
        read: reads the map's memory, a few bytes at each of some 30 addresses.
        header: the map's.
        memory_bytes: of the map's memory.
    """
    stride = header.allocator.stride
    low, high = 0, max(0, memory_bytes - FIRST_CHUNK_ADDRESS) // stride
    while low < high:
        middle = (low + high) // 2
        if read(FIRST_CHUNK_ADDRESS + middle * stride, _MAGIC_BYTES) == CHUNK_MAGIC:
            low = middle + 1
        else:
            high = middle
    return low


def read_part(data: Bytes, first: int, header: MapHeader, key_bytes: int | None, memory_bytes: int) -> Part:
    """The entries of chunks that follow one another.

    Args:
        data: all bytes of the chunks, headers included.
        first: number of the first one.
        header: the map's, checked.
        key_bytes: width of the keys of version 2 nodes; ``None`` where they carry a length.
        memory_bytes: of the map's memory.

    Raises:
        MalformedError: a chunk, a node or an overflow page is none.
    """
    stride = header.allocator.stride
    count = len(data) // stride
    numbers = np.arange(count, dtype=np.int64)
    heads = data[: count * stride].reshape(count, stride)
    marks = heads[:, 4] if count else np.zeros(0, dtype=np.uint8)
    addresses = FIRST_BODY_ADDRESS + (first + numbers) * stride
    is_chunk = (heads[:, :3] == np.frombuffer(CHUNK_MAGIC, np.uint8)).all(axis=1) & (heads[:, 3] == 1) & (marks < 2)
    _refuse(addresses, ~is_chunk, "no chunk's header")
    used = np.flatnonzero(marks == 1)
    pages = Pages(addresses[used], used * stride + CHUNK_HEADER_BYTES, data, memory_bytes)
    keys, values, rest = _entries(pages, header, key_bytes)
    return Part(keys, values, len(used), rest)


def join(rests: Iterable[Rest], header: MapHeader, key_bytes: int | None, memory_bytes: int) -> Part:
    """The entries of the nodes that parts have left over, with the overflow pages that others have.

    Raises:
        MalformedError: an overflow page is nowhere.
    """
    found: dict[int, bytes] = {}
    nodes: set[int] = set()
    for rest in rests:
        found |= rest.nodes | rest.overflow
        nodes |= rest.nodes.keys()
    bodies = np.array(sorted(found), dtype=np.int64)
    data = np.frombuffer(b"".join(found[address] for address in bodies.tolist()), dtype=np.uint8)
    begins = header.page_bytes * np.arange(len(bodies), dtype=np.int64)
    keys, values, left = _entries(Pages(bodies, begins, data, memory_bytes), header, key_bytes)
    if left.nodes:
        raise MalformedError("an overflow page of a node is none, or not allocated", min(left.nodes))
    return Part(keys, values, 0, Rest())


def check_counts(entries: int, allocated: int, header: MapHeader) -> None:
    """Hold what all parts have against what the header counts.

    Raises:
        MalformedError: they differ: chunks were leaked, or the map is damaged.
    """
    if (entries, allocated) != (header.length, header.allocator.allocated_chunks):
        raise MalformedError(
            f"{entries} entries in {allocated} chunks are allocated, the header counts {header.length} in "
            f"{header.allocator.allocated_chunks}: chunks that nobody freed (crates before 0.6.4), or damage; a walk "
            "of the tree, without workers, tells"
        )


def _entries(pages: Pages, header: MapHeader, key_bytes: int | None) -> tuple[Column, Column, Rest]:
    kinds = pages.rows(pages.bodies, _MAGIC_BYTES)
    is_node = (kinds == np.frombuffer(NODE_MAGIC, np.uint8)).all(axis=1)
    is_overflow = (kinds == np.frombuffer(OVERFLOW_MAGIC, np.uint8)).all(axis=1)
    _refuse(pages.bodies, ~(is_node | is_overflow), "neither a node nor an overflow page")
    reader = NodeReader(pages, header, Strict(2 * len(pages.bodies) + 1))
    heads = reader.heads(pages.bodies[is_node])
    chains, open_ = _chains(pages, heads, pages.bodies[is_overflow])
    closed = np.flatnonzero(~np.isin(np.arange(len(heads)), open_))
    place = np.full(len(heads), -1, dtype=np.int64)
    place[closed] = np.arange(len(closed))
    keys: list[Column] = []
    values: list[Column] = []
    for nodes in reader.nodes(_taken(heads, closed), Chains(place[chains.nodes], chains.pages)):
        spans = reader.spans(nodes, key_bytes)
        count = len(spans.key_offsets)
        for column, offsets, sizes, width in (
            (keys, spans.key_offsets, spans.key_sizes, key_bytes),
            (values, spans.value_offsets, spans.value_sizes, None),
        ):
            all_sizes = np.full(count, width or 0, dtype=np.int64) if sizes is None else sizes
            column.append(gather_column(types.raw, nodes.flat, offsets, all_sizes))
    loose = np.setdiff1d(pages.bodies[is_overflow], chains.pages)
    width = header.page_bytes
    rest = Rest(
        _bytes_of(pages, heads.addresses[open_], width),
        _bytes_of(pages, loose, width),
    )
    return _joined(keys), _joined(values), rest


def _chains(pages: Pages, heads: Heads, overflow: Offsets) -> tuple[Chains, Offsets]:
    """The overflow pages of nodes that have all of theirs here, sorted by node; which nodes have not."""
    after = pages.rows(overflow, 11)[:, 3:].copy().view("<u8")[:, 0] if len(overflow) else np.zeros(0, dtype="<u8")
    following = dict(zip(overflow.tolist(), after.tolist(), strict=True))
    nodes, found, open_ = [], [], []
    for node in np.flatnonzero(heads.links).tolist():
        chain: list[int] = []
        page = int(heads.links[node])
        while page in following and len(chain) <= len(following):
            chain.append(page)
            page = following[page]
        if len(chain) > len(following):
            raise MalformedError("overflow pages run in a circle", page)
        if page:
            open_.append(node)
            continue
        nodes += [node] * len(chain)
        found += chain
    return Chains(np.array(nodes, dtype=np.int64), np.array(found, dtype=np.int64)), np.array(open_, dtype=np.int64)


def _taken(heads: Heads, index: Offsets) -> Heads:
    return Heads(*(getattr(heads, name)[index] for name in Heads.__dataclass_fields__))


def _bytes_of(pages: Pages, addresses: Offsets, width: int) -> dict[int, bytes]:
    rows = pages.rows(addresses, width)
    return {address: row.tobytes() for address, row in zip(addresses.tolist(), rows, strict=True)}


def _joined(columns: list[Column]) -> Column:
    """Columns of values of any size, one behind the other."""
    data = np.concatenate([np.zeros(0, dtype=np.uint8), *(column.data for column in columns)])
    sizes = [np.diff(column.spans()[0], append=len(column.data)) for column in columns if len(column)]
    ends = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *sizes]))
    return Column(types.raw, data, ends, 0, len(ends) - 1)


def _refuse(addresses: Offsets, is_bad: Bytes | np.ndarray[tuple[int], np.dtype[np.bool_]], message: str) -> None:
    if is_bad.any():
        raise MalformedError(message, int(addresses[int(np.argmax(is_bad))]))
