"""`StableBTreeMap`: the crate's BTreeMap as a Python mapping. The format is in `btree`, `chunks` and `nodes`."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import TYPE_CHECKING, Any, TypeVar, final, overload

from perdure.memory import Memory
from perdure.stable.access import is_blank
from perdure.stable.btree import BTree, NodeFacts
from perdure.stable.headers import MapHeader
from perdure.stable.types import StorableType, encode_checked

if TYPE_CHECKING:
    from perdure.stable.columns import Columns

__all__ = ["StableBTreeMap"]

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")


@final
class StableBTreeMap(MutableMapping[K, V]):
    """A sorted mapping in a memory. Keys ascend in the order of the *key type*, which is not always Python's.

    Lookups, insertions and removals read and write O(log n) nodes; nothing is cached, so a map over the live memory of
    a canister follows what the canister does. An operation that raises leaves the bytes as they were.

    Refused, where the crate corrupts or panics: creating over something else (crate: overwritten silently, by ``new``
    and by ``init`` on foreign magic); an entry longer than the slots of a map that was born with version 1 (crate:
    overwrites its neighbours); keys and values outside their bound (crate: panics).

    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import types
    >>> names = StableBTreeMap.create(BytesMemory(), types.u32, types.text)
    >>> names[7] = "seven"
    >>> names.update({9: "nine", 3: "three"})
    >>> list(names.range(4, 100))
    [(7, 'seven'), (9, 'nine')]
    """

    def __init__(self, tree: BTree, key: StorableType[K], value: StorableType[V]) -> None:
        """Use `load`, `create` or `init`."""
        self._tree = tree
        self.key_type = key
        self.value_type = value

    @classmethod
    def load(
        cls, memory: Memory, key: StorableType[K], value: StorableType[V], *, node_version: int = 2
    ) -> StableBTreeMap[K, V]:
        """The map that is there, of any version. Never writes.

        Args:
            memory: where the map starts at address 0.
            key: the type of the keys. It is not stored: a fixed type for keys that are not, or the other way round,
                gives `MalformedError` or wrong entries.
            value: the type of the values.
            node_version: the version of *new* nodes. 1 keeps a map born with version 1 from migrating, as crates before
                0.6.0 do.

        Raises:
            MalformedError: no map, or a damaged one.
            UnsupportedError: a version or dialect that no released crate reads.
            ValueError: the sizes that a version 1 map stores contradict the types.
        """
        return cls(BTree.load(memory, key, value, node_version=node_version), key, value)

    @classmethod
    def create(
        cls,
        memory: Memory,
        key: StorableType[K],
        value: StorableType[V],
        *,
        version: int = 2,
        overwrite: bool = False,
    ) -> StableBTreeMap[K, V]:
        """A new, empty map.

        Args:
            memory: what it is written to, from address 0.
            key: the type of the keys.
            value: the type of the values.
            version: 1 for the format of crates before 0.6.0 (bounded types only).
            overwrite: begin anew over whatever is there, as the crate's ``new`` does.

        Raises:
            ValueError: the memory is not blank and `overwrite` was not said; or unbounded types with version 1.
            GrowFailedError: the memory cannot take the first page.
        """
        return cls(BTree.create(memory, key, value, version=version, overwrite=overwrite), key, value)

    @classmethod
    def init(cls, memory: Memory, key: StorableType[K], value: StorableType[V]) -> StableBTreeMap[K, V]:
        """`load` what is there, or `create` on a blank memory. The crate's ``init`` overwrites foreign bytes."""
        return cls.create(memory, key, value) if is_blank(memory) else cls.load(memory, key, value)

    # The mapping

    def __len__(self) -> int:
        self._tree.refresh()
        return self._tree.header.length

    def __iter__(self) -> Iterator[K]:
        return self.keys_range()

    def __reversed__(self) -> Iterator[K]:
        return self.keys_range(reverse=True)

    def __contains__(self, key: object) -> bool:
        storable: StorableType[Any] = self.key_type
        try:
            encoded = encode_checked(storable, key)
        except (ValueError, TypeError, AttributeError):
            return False
        return self._tree.find(encoded) is not None

    def __getitem__(self, key: K) -> V:
        found = self._tree.find(encode_checked(self.key_type, key))
        if found is None:
            raise KeyError(key)
        return self.value_type.decode(found)

    def __setitem__(self, key: K, value: V) -> None:
        self._tree.insert(encode_checked(self.key_type, key), encode_checked(self.value_type, value))

    def __delitem__(self, key: K) -> None:
        if self._tree.remove(encode_checked(self.key_type, key)) is None:
            raise KeyError(key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return len(self) == len(other) and dict(self.items()) == dict(other.items())

    __hash__ = None  # type: ignore[assignment] # mutable

    def __repr__(self) -> str:
        header = self._tree.header
        return (
            f"<StableBTreeMap {self.key_type.name} -> {self.value_type.name}, version {header.version}, "
            f"{header.length} entries>"
        )

    def keys(self) -> KeysView[K]:
        """The keys, ascending; `reversed` works on it."""
        return _Keys(self)

    def values(self) -> ValuesView[V]:
        """The values in the order of their keys; `reversed` works on it."""
        return _Values(self)

    def items(self) -> ItemsView[K, V]:
        """The entries in the order of their keys; `reversed` works on it."""
        return _Items(self)

    def clear(self) -> None:
        """Forget every entry (the crate's ``clear_new``): page size and version stay, and so do the old bytes."""
        self._tree.clear()

    def popitem(self) -> tuple[K, V]:
        """Remove and return the last entry."""
        entry = self.pop_last()
        if entry is None:
            raise KeyError("popitem(): the map is empty")
        return entry

    @overload
    def pop(self, key: K, /) -> V: ...
    @overload
    def pop(self, key: K, /, default: V) -> V: ...
    @overload
    def pop(self, key: K, /, default: D) -> V | D: ...
    def pop(self, key: K, /, *default: object, **named: object) -> Any:
        """Remove `key` and return its value, or the default; `KeyError` without one."""
        found = self._tree.remove(encode_checked(self.key_type, key), lambda data: (self.value_type.decode(data),))
        if found is not None:
            return found[0]
        if named:
            return named["default"]
        if not default:
            raise KeyError(key)
        return default[0]

    # The crate's own names

    def insert(self, key: K, value: V) -> V | None:
        """Set `key` to `value`; the old value. Where values can be ``None``, ``in`` tells one from no entry."""
        encoded = encode_checked(self.key_type, key), encode_checked(self.value_type, value)
        return self._tree.insert(*encoded, self.value_type.decode)

    def remove(self, key: K) -> V | None:
        """Remove `key`; its value, ``None`` if it was absent. As in the crate, nodes can merge even then."""
        return self._tree.remove(encode_checked(self.key_type, key), self.value_type.decode)

    def contains_key(self, key: K) -> bool:
        """Whether `key` is there."""
        return self._tree.find(encode_checked(self.key_type, key)) is not None

    def is_empty(self) -> bool:
        """Whether there is no entry."""
        return len(self) == 0

    def clear_new(self) -> None:
        """The same as `clear`, by the crate's name."""
        self.clear()

    def first_key_value(self) -> tuple[K, V] | None:
        """The entry with the least key."""
        entry = self._tree.outermost(last=False)
        return None if entry is None else self._decode(entry)

    def last_key_value(self) -> tuple[K, V] | None:
        """The entry with the greatest key."""
        entry = self._tree.outermost(last=True)
        return None if entry is None else self._decode(entry)

    def pop_first(self) -> tuple[K, V] | None:
        """Remove the entry with the least key."""
        return self._tree.pop(last=False, decode=self._decode)

    def pop_last(self) -> tuple[K, V] | None:
        """Remove the entry with the greatest key."""
        return self._tree.pop(last=True, decode=self._decode)

    def range(
        self, low: K | None = None, high: K | None = None, *, reverse: bool = False, include_high: bool = False
    ) -> Iterator[tuple[K, V]]:
        """The entries with ``low <= key < high``; ``None`` leaves an end open, also where keys are options.

        ``low > high`` yields nothing.
        """
        decode_key, decode_value = self.key_type.decode, self.value_type.decode
        for node, index in self._walk(low, high, reverse, include_high):
            yield decode_key(node.keys[index]), decode_value(node.value(index))

    def keys_range(
        self, low: K | None = None, high: K | None = None, *, reverse: bool = False, include_high: bool = False
    ) -> Iterator[K]:
        """The keys of `range`; values are not read."""
        for node, index in self._walk(low, high, reverse, include_high):
            yield self.key_type.decode(node.keys[index])

    def values_range(
        self, low: K | None = None, high: K | None = None, *, reverse: bool = False, include_high: bool = False
    ) -> Iterator[V]:
        """The values of `range`."""
        for node, index in self._walk(low, high, reverse, include_high):
            yield self.value_type.decode(node.value(index))

    def raw_range(
        self, low: K | None = None, high: K | None = None, *, reverse: bool = False, include_high: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The entries of `range`, still encoded."""
        for node, index in self._walk(low, high, reverse, include_high):
            yield node.keys[index], node.value(index)

    def batch(self, low: bytes | None, high: bytes | None, most: int) -> list[tuple[bytes, bytes]]:
        """The first so many entries of `raw_range`, both ends encoded, read in one go: for keys in order as bytes.

        Raises:
            MalformedError: keys that do not ascend.
        """
        return self._tree.batch(low, high, most)

    def iter_from_prev_key(self, key: K) -> Iterator[tuple[K, V]]:
        """The entries from the greatest key below `key` on; nothing where there is no such key."""
        before = next(self._tree.walk(high=self.key_type.encode(key), reverse=True), None)
        if before is None:
            return
        decode_key, decode_value = self.key_type.decode, self.value_type.decode
        for node, index in self._tree.walk(before[0].keys[before[1]]):
            yield decode_key(node.keys[index]), decode_value(node.value(index))

    # What the bytes look like

    @property
    def header(self) -> MapHeader:
        """The header as it is now."""
        self._tree.refresh()
        return self._tree.header

    @property
    def memory(self) -> Memory:
        """The memory below (the crate's ``into_memory``)."""
        return self._tree.memory

    def nodes(self) -> Iterator[NodeFacts]:
        """Every node with its address, depth, entries and overflow pages; see `BTree.facts`."""
        return self._tree.facts()

    def free_chunks(self) -> Iterator[int]:
        """Addresses of the free chunks, in the order in which they will be taken."""
        return self._tree.free_chunks()

    def chunks(self) -> Iterator[tuple[int, bool]]:
        """Every chunk: address of its body, whether it is marked allocated; see `ChunkAllocator.chunks`."""
        return self._tree.chunks()

    def columns(self) -> Columns:
        """All entries as NumPy columns, without a Python object per entry; needs the extra ``columns``.

        A memory that cannot show itself in one piece (no ``view``, or scattered buckets) is copied once, whole.
        """
        from perdure.stable.columns import read_columns  # NumPy only when it is asked for

        return read_columns(self._tree, self.key_type, self.value_type)

    def bulk_load(self, entries: Iterable[tuple[K, V]]) -> None:
        """Fill an empty map at once; of entries with equal keys the last counts.

        Much faster than inserting and with fuller nodes; the bytes are a sound map for every crate from 0.6.0 on, but
        not those that insertions would leave.

        Raises:
            ValueError: the map is not empty, or an entry is out of bounds.
        """
        self._tree.bulk_load(
            (encode_checked(self.key_type, key), encode_checked(self.value_type, value)) for key, value in entries
        )

    def apply(self, changes: Iterable[tuple[K, V | None]]) -> None:
        """Many insertions, and removals where the value is `None`, as one operation: whole, or on any error none of it.

        In the order of the keys it takes a fraction of the time that one by one takes. The bytes are those of the
        changes one by one, but for nodes that reach beyond their pages.
        """
        key_type, value_type = self.key_type, self.value_type
        self._tree.apply(
            (encode_checked(key_type, key), None if value is None else encode_checked(value_type, value))
            for key, value in changes
        )

    def _walk(self, low: K | None, high: K | None, reverse: bool, include_high: bool) -> Iterator[Any]:
        low_bytes = None if low is None else self.key_type.encode(low)
        high_bytes = None if high is None else self.key_type.encode(high)
        return self._tree.walk(low_bytes, high_bytes, reverse=reverse, include_high=include_high)

    def _decode(self, entry: tuple[bytes, bytes]) -> tuple[K, V]:
        return self.key_type.decode(entry[0]), self.value_type.decode(entry[1])


@final
class _Keys(KeysView[K]):
    def __init__(self, mapping: StableBTreeMap[K, Any]) -> None:
        super().__init__(mapping)
        self._map = mapping

    def __reversed__(self) -> Iterator[K]:
        return self._map.keys_range(reverse=True)


@final
class _Values(ValuesView[V]):
    def __init__(self, mapping: StableBTreeMap[Any, V]) -> None:
        super().__init__(mapping)
        self._map = mapping

    def __iter__(self) -> Iterator[V]:
        return self._map.values_range()

    def __reversed__(self) -> Iterator[V]:
        return self._map.values_range(reverse=True)


@final
class _Items(ItemsView[K, V]):
    def __init__(self, mapping: StableBTreeMap[K, V]) -> None:
        super().__init__(mapping)
        self._map = mapping

    def __iter__(self) -> Iterator[tuple[K, V]]:
        return self._map.range()

    def __reversed__(self) -> Iterator[tuple[K, V]]:
        return self._map.range(reverse=True)
