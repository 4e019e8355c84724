"""How wide the keys and values of a map are, from its bytes alone.

The crate stores neither types nor, in version 2, widths. What can be known:

- The page size P of a version 2 map of bounded types is ``floor(3/4 * (191 + 11 * (K + V)))``, which gives K + V
  exactly; 1024 is no such number, so it says that a type is unbounded.
- Whether keys carry a length, and how wide they are where they do not, follows from reading nodes both ways: the wrong
  reading soon runs out of its pages, or needs another number of overflow pages than there are.

What stays open is said to be open.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, final

from perdure.errors import MalformedError
from perdure.memory import Memory
from perdure.stable.headers import MapHeader
from perdure.stable.layout import DEFAULT_PAGE_BYTES, bounds_sum
from perdure.stable.nodes import read_raw
from perdure.stable.raw_nodes import RawNode

__all__ = ["MapShape", "Width", "map_shape", "sample_nodes"]

SAMPLE_NODES: Final = 64
FEW_ENTRIES: Final = 2
SEVERAL_VALUES: Final = 4
MAX_FIXED_KEY_BYTES: Final = 1 << 16
MAX_SAMPLE_BYTES: Final = 8 << 20
"""A sample that has so much gets no further node."""


@final
@dataclass(frozen=True)
class Width:
    """How many bytes a key, value or element takes.

    Attributes:
        max_bytes: the bound, ``None`` where there is none or it cannot be known.
        is_fixed: whether each takes exactly `max_bytes`; ``None`` where the bytes do not tell.
        is_unbounded: whether it is certain that there is no bound.
        seen: least and greatest size in the sample, ``None`` where nothing was seen.
    """

    max_bytes: int | None
    is_fixed: bool | None
    is_unbounded: bool = False
    seen: tuple[int, int] | None = None

    def __str__(self) -> str:
        if self.max_bytes is not None:
            return str(self.max_bytes) if self.is_fixed else f"≤{self.max_bytes}"
        if self.is_unbounded:
            return "any"
        return "?" if self.seen is None else f"? (seen {_span(self.seen)})"


def _span(seen: tuple[int, int]) -> str:
    return str(seen[0]) if seen[0] == seen[1] else f"{seen[0]}–{seen[1]}"


@final
@dataclass(frozen=True)
class MapShape:
    """What is known of the entries of a map.

    Attributes:
        key: width of the keys.
        value: width of the values.
        bounds_sum: K + V, ``None`` where it cannot be known.
        keys_have_length: whether keys carry a length; ``None`` where the bytes do not tell.
        possible: all key widths (``None``: keys carry a length) with which the whole sample can be read.
        node_versions: versions of the nodes in the sample.
        entries: keys of the sample and the sizes of their values, by node.
    """

    key: Width
    value: Width
    bounds_sum: int | None
    keys_have_length: bool | None
    possible: frozenset[int | None]
    node_versions: frozenset[int]
    entries: tuple[tuple[tuple[bytes, int], ...], ...] = field(repr=False)

    @property
    def key_bytes(self) -> int | None:
        """Width of a key that carries no length, ``None`` where keys carry one."""
        return None if self.keys_have_length is not False else self.key.max_bytes

    @property
    def is_readable(self) -> bool:
        """Whether nodes can be read without being told the key's type."""
        return self.keys_have_length is not None


def sample_nodes(
    memory: Memory, header: MapHeader, limit: int = SAMPLE_NODES, max_bytes: int = MAX_SAMPLE_BYTES
) -> list[RawNode]:
    """Up to `limit` nodes from the root on, breadth first, until they have more than `max_bytes`.

    Damaged ones are left out: here nothing is judged.
    """
    queue, seen = [header.root] if header.root else [], {header.root}
    found: list[RawNode] = []
    sampled_bytes = 0
    for address in queue:
        try:
            node = read_raw(memory, header, address)
        except MalformedError:
            continue
        found.append(node)
        sampled_bytes += len(node.body)
        if len(found) == limit or sampled_bytes > max_bytes:
            break
        for child in node.children:
            if child not in seen and len(queue) < 4 * limit:
                seen.add(child)
                queue.append(child)
    return found


def map_shape(memory: Memory, header: MapHeader, nodes: list[RawNode] | None = None) -> MapShape:
    """The shape of the map whose header this is, from a sample of its nodes."""
    nodes = sample_nodes(memory, header) if nodes is None else nodes
    versions = frozenset(node.version for node in nodes)
    total = header.slots.key_bytes + header.slots.value_bytes if header.slots else bounds_sum(header.page_bytes)
    held = _readings(header, nodes, total)
    readings = _likeliest(held, nodes, total)
    possible = frozenset(key_bytes for key_bytes, _ in held)
    if not nodes or len(readings) != 1:
        key_max = header.slots.key_bytes if header.slots else None
        value_max = header.slots.value_bytes if header.slots else None
        return MapShape(Width(key_max, None), Width(value_max, None), total, None, possible, versions, ())
    key_bytes, entries = readings[0]
    return _conclude(header, total, key_bytes, entries, versions, possible)


Entries = tuple[tuple[tuple[bytes, int], ...], ...]


def _readings(header: MapHeader, nodes: list[RawNode], total: int | None) -> list[tuple[int | None, Entries]]:
    """The readings of all sampled nodes that hold: key width (``None``: keys carry a length) and entries."""
    held: list[tuple[int | None, Entries]] = []
    for key_bytes in (None, *_fixed_candidates(header, nodes, total)):
        entries = []
        for node in nodes:
            split = node.split(key_bytes, total)
            if split is None:
                break
            entries.append(tuple(split))
        else:
            held.append((key_bytes, tuple(entries)))
    return held


Reading = tuple[int | None, Entries]


def _likeliest(held: list[Reading], nodes: list[RawNode], total: int | None) -> list[Reading]:
    """What is left of several readings after asking for what a wrong one meets only by accident.

    Either values fill the bound, or keys carry a length: four bytes that happen to be one are rare, unless all is
    zeros; and values are not mostly empty. Of a single entry, over bytes that older ones left behind, even that is too
    often wrong: it stays unexplained. Then, keys lie between those of the parent, which tells nothing where the order
    of the keys is the program's own.
    """
    if len(held) < 2 or sum(len(node) for node in held[0][1]) < FEW_ENTRIES:
        return held
    held = [reading for reading in held if _fills(reading, total) or _has_lengths(reading)] or held
    most = max(map(_values, held))
    held = [reading for reading in held if 2 * _values(reading) > most >= SEVERAL_VALUES] or held
    return [reading for reading in held if _nests(reading[1], nodes)] or held


def _fills(reading: Reading, total: int | None) -> bool:
    width, entries = reading
    if not width or total is None:
        return False
    return all(size == total - width > 0 for node in entries for _, size in node)


def _has_lengths(reading: Reading) -> bool:
    return reading[0] is None and any(any(key) for node in reading[1] for key, _ in node)


def _values(reading: Reading) -> int:
    """How many values are not empty: lengths of 0 are found wherever nothing was ever written."""
    return sum(size > 0 for node in reading[1] for _, size in node)


def _nests(entries: Entries, nodes: list[RawNode]) -> bool:
    """Whether keys ascend as bytes in each node, and in several nodes lie between those of the parent."""
    places = {node.address: place for place, node in enumerate(nodes)}
    children = 0
    for parent, node in enumerate(nodes):
        keys = [key for key, _ in entries[parent]]
        if any(left >= right for left, right in pairwise(keys)):
            return False
        for index, address in enumerate(node.children):
            found = entries[places[address]] if address in places else ()
            if found and (
                (index and found[0][0] <= keys[index - 1]) or (index < len(keys) and found[-1][0] >= keys[index])
            ):
                return False
            children += bool(found)
    return children > 1


def _fixed_candidates(header: MapHeader, nodes: list[RawNode], total: int | None) -> Iterator[int]:
    """Widths worth trying: K where it is stored, else all that the first packed node admits."""
    packed = [node for node in nodes if node.version == 2]
    if not packed:
        return
    if header.slots is not None:
        yield header.slots.key_bytes
        return
    first = min(packed, key=lambda node: len(node.body))
    most = len(first.body) // first.count
    for width in range(min(most if total is None else min(total, most), MAX_FIXED_KEY_BYTES) + 1):
        if width == 0 and first.count > 1:
            continue
        yield width


def _conclude(
    header: MapHeader,
    total: int | None,
    key_bytes: int | None,
    entries: Entries,
    versions: frozenset[int],
    possible: frozenset[int | None],
) -> MapShape:
    key_sizes = [len(key) for node in entries for key, _ in node]
    value_sizes = [size for node in entries for _, size in node]
    key_seen, value_seen = (min(key_sizes), max(key_sizes)), (min(value_sizes), max(value_sizes))
    unbounded = header.slots is None and header.page_bytes == DEFAULT_PAGE_BYTES
    if header.slots is not None:
        key_max, value_max = header.slots.key_bytes, header.slots.value_bytes
        has_length: bool | None = None if 2 not in versions and key_seen == (key_max, key_max) else key_bytes is None
        fixed = has_length is False if has_length is not None else None
        key = Width(key_max, fixed, seen=key_seen)
        value = Width(value_max, _not_fixed(value_seen, value_max), seen=value_seen)
        return MapShape(key, value, total, key_bytes is None, possible, versions, entries)
    value_bound = None if total is None or key_bytes is None else total - key_bytes
    key = Width(key_bytes, key_bytes is not None, key_bytes is None and unbounded, key_seen)
    # With 1024-byte pages and fixed keys it is the value that has no bound; with neither fixed it may be either.
    value = Width(value_bound, _not_fixed(value_seen, value_bound), unbounded, value_seen)
    return MapShape(key, value, total, key_bytes is None, possible, versions, entries)


def _not_fixed(seen: tuple[int, int], bound: int | None) -> bool | None:
    """``False`` where something shorter than the bound was seen, else open."""
    return False if bound is None or seen != (bound, bound) else None
