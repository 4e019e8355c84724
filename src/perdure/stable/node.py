"""A node of a BTreeMap in hand, and the bytes that it was read from; `nodes` says how they are laid out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias, final

from perdure.errors import MalformedError
from perdure.stable.layout import CAPACITY, MIN_ENTRIES, U32

__all__ = ["Node", "PagedRun", "Run", "beyond_pages", "length_prefixed", "length_prefixed_items"]

_EMPTY_VALUES: Final = [bytes(U32.size * count) for count in range(CAPACITY + 1)]
"""The values of so many entries that are keys alone."""
_MOST_AT_ONCE_BYTES: Final = 16_384
"""Of a node of more, no page is read that nothing is known to lie on."""


class Pages(Protocol):
    """Where pages of nodes are read from."""

    page_bytes: int
    page_capacity: int

    def overflow_chain(self, address: int, first: int) -> list[int]:
        """The overflow pages of a node."""
        ...

    def read_run(self, address: int, overflow: list[int], offset: int, size: int) -> bytes:
        """Bytes of the run of a node with those overflow pages."""
        ...


@final
class Node:
    """A node in hand. Keys are read at once, values when asked for; `NodeStore.save` writes it back.

    Attributes:
        address: of the chunk's body.
        version: 1 or 2; a node keeps it for life.
        keys: encoded keys, ascending.
        children: addresses, one more than keys; empty in a leaf.
        run: its bytes, from the first page on, up to the last value at least.
        page: those of the first page that it was read from.
        stored: what lies in memory, where `run` is what is to be; see `become`.
        values_offset: where the values begin in `run`.
        value_bytes: of each value, where all are known to have as many.
        spans: where each value is in `run`, where that was asked for.
        is_shared: whether others look at it, so that it must not be changed.
    """

    __slots__ = (
        "_overflow",
        "_values",
        "address",
        "children",
        "is_shared",
        "keys",
        "page",
        "run",
        "spans",
        "stored",
        "value_bytes",
        "values_offset",
        "version",
    )

    def __init__(
        self,
        address: int,
        version: int,
        keys: list[bytes],
        children: list[int],
        run: Run = b"",
        values_offset: int = 0,
        value_bytes: int | None = None,
    ) -> None:
        self.address = address
        self.version = version
        self.keys = keys
        self.children = children
        self._overflow: list[int] | None = None
        self._values: list[bytes] | None = None
        self.run = run
        self.page = run if isinstance(run, bytes) else run.page
        self.stored: Run | None = None
        self.values_offset = values_offset
        self.value_bytes = value_bytes
        self.spans: list[tuple[int, int]] | None = None
        self.is_shared = False

    @classmethod
    def empty(cls, address: int, version: int, children: list[int]) -> Node:
        """One of a chunk whose bytes mean nothing."""
        made = cls(address, version, [], children)
        made._values = []
        return made

    @property
    def overflow(self) -> list[int]:
        """Addresses of the overflow pages, in order, to be changed in place."""
        if self._overflow is None:
            self._overflow = list(self.run.overflow) if isinstance(self.run, PagedRun) else []
        return self._overflow

    @property
    def is_leaf(self) -> bool:
        """Whether it has no children."""
        return not self.children

    @property
    def is_full(self) -> bool:
        """Whether it has 11 entries."""
        return len(self.keys) >= CAPACITY

    @property
    def can_lose_one(self) -> bool:
        """Whether it has more than the minimum of entries."""
        return len(self.keys) >= MIN_ENTRIES

    @property
    def values(self) -> list[bytes]:
        """The encoded values, all of them, to be changed in place."""
        if self._values is None:
            run = self.run
            if isinstance(run, PagedRun) and len(run) <= _MOST_AT_ONCE_BYTES:
                run = run[0 : len(run)]
            if self.spans is None and isinstance(run, bytes):
                self._values, _ = length_prefixed_items(run, self.values_offset, len(self.keys), self.address)
            else:
                self._values = [run[start:end] for start, end in self.value_spans()]
        return self._values

    def value(self, index: int) -> bytes:
        """The encoded value of entry `index`, without reading the others."""
        if self._values is not None:
            return self._values[index]
        if self.value_bytes is not None:
            start = self.values_offset + index * (4 + self.value_bytes) + 4
            return self.run[start : start + self.value_bytes]
        if self.spans is not None:
            start, end = self.spans[index]
            return self.run[start:end]
        run, start = self.run, 0
        end = self.values_offset
        for _ in range(index + 1):
            start = end + 4
            end = start + int.from_bytes(run[end:start], "little")
        found = run[start:end]
        if end > len(run):
            raise beyond_pages(end, run, self.address)
        return found

    def some_values(self, start: int, end: int) -> list[bytes]:
        """The encoded values of entries ``[start, end)``."""
        run = self.run
        if self._values is not None:
            return self._values[start:end]
        if isinstance(run, bytes) and run.startswith(_EMPTY_VALUES[len(self.keys)], self.values_offset):
            return [b""] * (end - start)
        return [run[first:last] for first, last in self.value_spans()[start:end]]

    def value_spans(self) -> list[tuple[int, int]]:
        """Where the values are, as stored: start and end in the node's own run of bytes. Nothing is copied."""
        if self.spans is None:
            self.spans, _ = length_prefixed(self.run, self.values_offset, len(self.keys), self.address)
        return self.spans

    def search(self, key: bytes, order: Callable[[bytes], Any] | None) -> tuple[int, bool]:
        """The first index whose key is not less, and whether it is equal."""
        if order is None:
            index = bisect_left(self.keys, key)
            return index, index < len(self.keys) and self.keys[index] == key
        wanted = order(key)
        index = bisect_left(self.keys, wanted, key=order)
        return index, index < len(self.keys) and bool(order(self.keys[index]) == wanted)

    def copy(self) -> Node:
        """Another one, to be changed."""
        own = self.keys.copy(), self.children.copy()
        made = Node(self.address, self.version, *own, self.run, self.values_offset, self.value_bytes)
        made.spans = self.spans
        if self._values is not None:
            made._values = self._values.copy()
        return made

    @property
    def packed(self) -> bytes | None:
        """`run`, where it is all that a node of version 2 holds, on one page."""
        run = self.run
        return run if self._values is None and isinstance(run, bytes) and self.version == 2 else None

    def become(self, run: bytes, values_offset: int, value_bytes: int | None) -> None:
        """Hold other bytes from now on, to be written; keys and children are the caller's."""
        if self.stored is None:
            self.stored = self.run
        self.run, self.values_offset, self.value_bytes = run, values_offset, value_bytes
        self.spans = self._values = None

    def settle(self, run: bytes) -> None:
        """Be what was written; values are taken out of it anew when asked for."""
        self.run = self.page = run
        self.stored = self.spans = self._values = None

    def goes_on(self, page: bytes) -> bool:
        """Whether a page that was read begins with all that the node holds; it is its page then."""
        if self.run is not self.page or not page.startswith(self.page):
            return False
        self.run = self.page = page
        return True

    def renew(self) -> None:
        """Forget what was read of other pages than the first."""
        if isinstance(self.run, PagedRun) and self.run.followed is not None:
            self.run.followed = self.spans = self._overflow = None

    def cut(self, index: int) -> tuple[int, int]:
        """Where the length of value `index` begins, which may be one past the last, and where the last value ends.

        Raises:
            MalformedError: past its pages.
        """
        run, at = self.run, self.values_offset
        if self.value_bytes is not None:
            entry_bytes = 4 + self.value_bytes
            return at + index * entry_bytes, at + len(self.keys) * entry_bytes
        for _ in range(index):
            at += 4 + int.from_bytes(run[at : at + 4], "little")
        found = at
        for _ in range(len(self.keys) - index):
            at += 4 + int.from_bytes(run[at : at + 4], "little")
        if at > len(run):
            raise beyond_pages(at, run, self.address)
        return found, at

    def insert(self, index: int, key: bytes, value: bytes) -> None:
        """Put an entry at `index`."""
        self.values.insert(index, value)
        self.keys.insert(index, key)

    def pop(self, index: int) -> tuple[bytes, bytes]:
        """Take the entry at `index` out."""
        value = self.values.pop(index)
        return self.keys.pop(index), value

    def swap(self, index: int, entry: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
        """Put `entry` in place of the one at `index`, which is returned."""
        old = self.keys[index], self.values[index]
        self.keys[index], self.values[index] = entry
        return old


@final
class PagedRun:
    """The bytes of a node that are not all in hand: sliced as `bytes` are, read when they are asked for.

    Following the overflow pages is put off as well: a search that only passes through needs none of them.

    Attributes:
        page: the first one.
        first_overflow: the address of the next.
        followed: addresses of all overflow pages, once they were asked for.
    """

    def __init__(self, pages: Pages, address: int, page: bytes, first_overflow: int) -> None:
        self.page = page
        self.first_overflow = first_overflow
        self._pages = pages
        self._address = address
        self.followed: list[int] | None = None

    @property
    def overflow(self) -> list[int]:
        """Addresses of the overflow pages."""
        if self.followed is None:
            self.followed = self._pages.overflow_chain(self._address, self.first_overflow)
        return self.followed

    def __len__(self) -> int:
        return self._pages.page_bytes + len(self.overflow) * self._pages.page_capacity

    def __getitem__(self, span: slice) -> bytes:
        if span.stop <= len(self.page):
            return self.page[span]
        return self._pages.read_run(self._address, self.overflow, span.start, max(0, span.stop - span.start))


Run: TypeAlias = bytes | PagedRun


def length_prefixed_items(run: bytes, offset: int, count: int, address: int) -> tuple[list[bytes], int]:
    """So many items that have their length in front, and where the last ends."""
    found = []
    for _ in range(count):
        start = offset + 4
        offset = start + int.from_bytes(run[offset:start], "little")
        found.append(run[start:offset])
    if offset > len(run):
        raise beyond_pages(offset, run, address)
    return found, offset


def length_prefixed(run: Run, offset: int, count: int, address: int) -> tuple[list[tuple[int, int]], int]:
    """Start and end of so many items that have their length in front, and where the last ends."""
    spans, in_hand = [], len(run.page if isinstance(run, PagedRun) else run)
    for _ in range(count):
        start = offset + 4
        if start > in_hand and start > len(run):
            raise beyond_pages(start, run, address)
        offset = start + int.from_bytes(run[offset:start], "little")
        spans.append((start, offset))
    if offset > in_hand and offset > len(run):
        raise beyond_pages(offset, run, address)
    return spans, offset


def beyond_pages(end: int, run: Run, address: int) -> MalformedError:
    """What is wrong with a node that says it has more bytes than its pages hold."""
    return MalformedError(f"a node says it has {end} bytes, its pages hold {len(run)}", address)
