"""`StableBTreeSet`: the crate's BTreeSet, a BTreeMap of keys to units, as a Python set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import Any, TypeVar, final

from perdure.memory import Memory
from perdure.stable import types
from perdure.stable.btree import NodeFacts
from perdure.stable.btreemap import StableBTreeMap
from perdure.stable.headers import MapHeader
from perdure.stable.types import StorableType

__all__ = ["StableBTreeSet"]

K = TypeVar("K")


@final
class StableBTreeSet(MutableSet[K]):
    """A sorted set in a memory: `StableBTreeMap` with values of no bytes, the same magic, the same rules.

    ``|``, ``&``, ``^`` and ``-`` give an ordinary `set`; `union` and its siblings give sorted lists, as the crate's do.
    """

    def __init__(self, mapping: StableBTreeMap[K, Any]) -> None:
        """Use `load`, `create` or `init`."""
        self._map = mapping

    @classmethod
    def load(cls, memory: Memory, key: StorableType[K], *, node_version: int = 2) -> StableBTreeSet[K]:
        """The set that is there; see `StableBTreeMap.load`."""
        return cls(StableBTreeMap.load(memory, key, types.unit, node_version=node_version))

    @classmethod
    def create(
        cls, memory: Memory, key: StorableType[K], *, version: int = 2, overwrite: bool = False
    ) -> StableBTreeSet[K]:
        """A new, empty set; see `StableBTreeMap.create`."""
        return cls(StableBTreeMap.create(memory, key, types.unit, version=version, overwrite=overwrite))

    @classmethod
    def init(cls, memory: Memory, key: StorableType[K]) -> StableBTreeSet[K]:
        """`load` what is there, or `create` on a blank memory."""
        return cls(StableBTreeMap.init(memory, key, types.unit))

    @classmethod
    def _from_iterable(cls, it: Iterable[object]) -> set[Any]:
        return set(it)

    def __len__(self) -> int:
        return len(self._map)

    def __iter__(self) -> Iterator[K]:
        return iter(self._map)

    def __reversed__(self) -> Iterator[K]:
        return reversed(self._map)

    def __contains__(self, key: object) -> bool:
        return key in self._map

    def __repr__(self) -> str:
        return f"<StableBTreeSet {self.key_type.name}, version {self._map.header.version}, {len(self)} keys>"

    def add(self, value: K) -> None:
        """Add `value`."""
        self._map[value] = ()

    def discard(self, value: K) -> None:
        """Remove `value` if it is there."""
        self._map.remove(value)

    def clear(self) -> None:
        """Forget every key; the old bytes stay."""
        self._map.clear()

    def pop(self) -> K:
        """Remove and return the first key."""
        first = self.pop_first()
        if first is None:
            raise KeyError("pop(): the set is empty")
        return first

    def insert(self, key: K) -> bool:
        """Add `key`; whether it was new."""
        return self._map.insert(key, ()) is None

    def contains(self, key: K) -> bool:
        """Whether `key` is there."""
        return self._map.contains_key(key)

    def remove(self, key: K) -> bool:  # type: ignore[override] # the crate's meaning; `set.remove` would raise
        """Remove `key`; whether it was there. Does not raise, as in the crate."""
        return self._map.remove(key) is not None

    def is_empty(self) -> bool:
        """Whether there is no key."""
        return len(self) == 0

    def first(self) -> K | None:
        """The least key."""
        return next(iter(self), None)

    def last(self) -> K | None:
        """The greatest key."""
        return next(reversed(self), None)

    def pop_first(self) -> K | None:
        """Remove the least key."""
        entry = self._map.pop_first()
        return None if entry is None else entry[0]

    def pop_last(self) -> K | None:
        """Remove the greatest key."""
        entry = self._map.pop_last()
        return None if entry is None else entry[0]

    def range(
        self, low: K | None = None, high: K | None = None, *, reverse: bool = False, include_high: bool = False
    ) -> Iterator[K]:
        """The keys with ``low <= key < high``."""
        return self._map.keys_range(low, high, reverse=reverse, include_high=include_high)

    def union(self, other: Iterable[K]) -> list[K]:
        """The keys of either, sorted as this set is."""
        return self._sorted({*self, *other})

    def intersection(self, other: Iterable[K]) -> list[K]:
        """The keys of both, sorted as this set is."""
        common = set(other)
        return [key for key in self if key in common]

    def symmetric_difference(self, other: Iterable[K]) -> list[K]:
        """The keys of exactly one, sorted as this set is."""
        return self._sorted({*self} ^ {*other})

    def is_disjoint(self, other: Iterable[K]) -> bool:
        """Whether no key is in both."""
        return self.isdisjoint(other)

    def is_subset(self, other: Iterable[K]) -> bool:
        """Whether every key is in `other`."""
        return set(self) <= set(other)

    def is_superset(self, other: Iterable[K]) -> bool:
        """Whether every key of `other` is here."""
        return all(key in self for key in other)

    def bulk_load(self, keys: Iterable[K]) -> None:
        """Fill an empty set at once; see `StableBTreeMap.bulk_load`."""
        self._map.bulk_load((key, ()) for key in keys)

    @property
    def key_type(self) -> StorableType[K]:
        """The type of the keys."""
        return self._map.key_type

    @property
    def map(self) -> StableBTreeMap[K, Any]:
        """The map of keys to units that this set is: nodes, chunks, columns."""
        return self._map

    @property
    def header(self) -> MapHeader:
        """The header as it is now."""
        return self._map.header

    @property
    def memory(self) -> Memory:
        """The memory below."""
        return self._map.memory

    def nodes(self) -> Iterator[NodeFacts]:
        """Every node; see `StableBTreeMap.nodes`."""
        return self._map.nodes()

    def _sorted(self, keys: set[K]) -> list[K]:
        order = types.order_of(self.key_type)
        return sorted(keys, key=lambda key: order(self.key_type.encode(key)))
