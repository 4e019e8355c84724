"""The trees of a table, each with what its entries are, and whether they are in step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from reprlib import repr as brief
from typing import final

import cbor2

from perdure.data.catalogue import Tree
from perdure.data.tree import PendingTree
from perdure.errors import MalformedError, PerdureError
from perdure.values.cbor import load_item
from perdure.values.format import Value
from perdure.values.packed import pack, unpack

__all__ = ["ConstraintError", "Part", "TableFault", "check_parts"]


class ConstraintError(PerdureError, ValueError):
    """A row that its table does not take: a key or unique values that another one has, a key too long."""

    error_code = "constraint"


@final
class Part:
    """A tree of a table, with what its entries are."""

    def __init__(self, source: Tree, tree: PendingTree) -> None:
        self.source = source
        self.tree = tree
        self.name, self.memory_id = source.name, source.memory_id
        self.key, self.value = source.key, source.value
        self.own, self.width, self.is_unique = source.own, source.width, source.is_unique

    def common(self, one: bytes, other: bytes) -> str | None:
        """The values by which two entries are looked up, in words, if they are the same and none is null."""
        own = unpack(one)[: self.width]
        return None if None in own or own != unpack(other)[: self.width] else repr(own)

    def shown(self, key: bytes) -> str:
        """A key in words."""
        return repr(unpack(key))[:200]

    def value_of(self, row: Sequence[Value]) -> bytes:
        """The value of a row."""
        return bytes(cbor2.dumps([row[one] for one in self.value])) if self.value else b""

    def read_into(self, row: list[Value], value: bytes) -> None:
        """Put the columns of a value into a row, which has their defaults."""
        if not self.value:
            return
        found = load_item(value)
        if not isinstance(found, list) or len(found) > len(self.value):
            raise MalformedError(
                f"tree {self.name}: an array of at most {len(self.value)} expected, found {brief(found)}"
            )
        for index, part in zip(self.value, found, strict=False):
            row[index] = part


@final
@dataclass(frozen=True, slots=True)
class TableFault:
    """Where trees of a table are not in step.

    Attributes:
        tree: by name.
        key: of the entry, unpacked; bytes where it does not unpack.
        what: in words.
    """

    tree: str
    key: Value
    what: str


def check_parts(
    rows: Callable[[], Iterable[tuple[bytes, list[Value]]]],
    first: Part,
    columns: Sequence[Part],
    indexes: Sequence[Part],
    fault: Callable[[list[Value]], str] = lambda row: "",
) -> Iterator[TableFault]:
    """What is not in step: values of columns without a row, rows that an index lacks, entries of none.

    Args:
        rows: packed keys and columns.
        first: the tree that has every row.
        columns: trees of single columns.
        indexes: the others.
        fault: what is wrong with the values of a row, in words; empty: nothing.
    """
    keys: set[bytes] = set()
    expected: dict[str, set[bytes]] = {one.name: set() for one in indexes}
    try:
        for key, row in rows():
            keys.add(key)
            if what := fault(row):
                yield TableFault(first.name, _unpacked(key), what)
            for index in indexes:
                expected[index.name].add(pack([row[one] for one in index.key]))
    except (MalformedError, ValueError) as error:
        yield TableFault(first.name, None, f"a row does not read: {error}")
        return
    for one in columns:
        found = {key for key, _ in one.tree.range()}
        for key in sorted(found ^ keys):
            yield TableFault(
                one.name, _unpacked(key), "a value of no row" if key in found else "a row has no value here"
            )
    for one in indexes:
        found = {key for key, _ in one.tree.range()}
        for key in sorted(found ^ expected[one.name]):
            yield TableFault(one.name, _unpacked(key), "an entry of no row" if key in found else "a row is not in it")
        yield from _repeated(one, found)


def _repeated(index: Part, keys: Iterable[bytes]) -> Iterator[TableFault]:
    """Entries of a unique index that have the same values."""
    if not index.is_unique:
        return
    seen: set[tuple[Value, ...]] = set()
    for key in sorted(keys):
        own = _unpacked(key)[: index.width]
        if None not in own and own in seen:
            yield TableFault(index.name, own, "two rows have these values, which are unique")
        seen.add(own)


def _unpacked(key: bytes) -> Value:
    try:
        return unpack(key)
    except MalformedError:
        return key
