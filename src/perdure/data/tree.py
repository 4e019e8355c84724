"""A tree with what a message has written to it so far, and points to which that can be taken back.

```
 write ─▶ pending {key: value | None} ─flush, sorted▶ StableBTreeMap
 read  ─▶ pending, then the tree          range ─▶ both, merged
```

A write costs a descent; a message's writes applied together, in the order of the keys, cost a fraction of that. So they
wait, and what reads looks at them first. They are flushed when the message ends, and when there are many; while a
savepoint is open they are not.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Final, TypeAlias, final

from perdure.memory import Memory
from perdure.stable import StableBTreeMap
from perdure.stable.types import raw

__all__ = ["Journal", "PendingTree"]

_MOST_PENDING: Final = 4_096
_STEP: Final = 256
_FIRST_BATCH: Final = 16

Change: TypeAlias = bytes | None
"""A value to be written, or `None` where the key is to go."""
Entry: TypeAlias = tuple[bytes, bytes]


class _Absent:
    """What stands in the journal for a key that nothing was pending for."""


_ABSENT: Final = _Absent()


@final
class Journal:
    """What is pending in all trees of a store: written or dropped together.

    Attributes:
        is_held: whether writes wait at all, until `flush`; if not, each is written at once.
        generation: another number after each `discard`: savepoints from before it are no more.
    """

    def __init__(self) -> None:
        self.is_held = False
        self.generation = 0
        self._trees: list[PendingTree] = []
        self._undo: list[tuple[PendingTree, bytes, Change | _Absent, int]] = []
        self._savepoints: list[int] = []

    @property
    def has_savepoint(self) -> bool:
        """Whether one is open."""
        return bool(self._savepoints)

    def register(self, tree: PendingTree) -> None:
        """Have a tree take part."""
        self._trees.append(tree)

    def forget(self) -> None:
        """No tree takes part any more."""
        self._trees.clear()
        self.discard()

    def note(self, tree: PendingTree, key: bytes, before: Change | _Absent, length: int) -> None:
        """Remember what was pending before a write."""
        if self._savepoints:
            self._undo.append((tree, key, before, length))

    def wrote(self, tree: PendingTree) -> None:
        """After a write: nothing waits longer than it has to."""
        if not self._savepoints and (not self.is_held or tree.pending_count > _MOST_PENDING):
            tree.flush()

    def savepoint(self) -> int:
        """A point to which `roll_back_to` goes back: a number."""
        self._savepoints.append(len(self._undo))
        return len(self._savepoints) - 1

    def release(self, number: int) -> None:
        """Forget a savepoint and those within it; what was written since stays."""
        del self._savepoints[number:]
        if not self._savepoints:
            self._undo.clear()
            if not self.is_held:
                self.flush()

    def roll_back_to(self, number: int) -> None:
        """Take back what was written since a savepoint, which stays; those within it are gone."""
        at = self._savepoints[number]
        del self._savepoints[number + 1 :]
        for tree, key, before, length in reversed(self._undo[at:]):
            tree.restore(key, before, length)
        del self._undo[at:]

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Writes within are one: on an exception none of them stays. They may be nested."""
        savepoint = self.savepoint()
        try:
            yield
        except BaseException:
            self.roll_back_to(savepoint)
            self.release(savepoint)
            raise
        self.release(savepoint)

    def flush(self) -> None:
        """Write everything to the trees.

        Raises:
            RuntimeError: a savepoint is open.
        """
        if self._savepoints:
            raise RuntimeError("a savepoint is open: release it, or roll back to it, before the end of the message")
        for tree in self._trees:
            tree.flush()

    def discard(self) -> None:
        """Drop what is pending, and all savepoints."""
        self.generation += 1
        self._savepoints.clear()
        self._undo.clear()
        for tree in self._trees:
            tree.discard()


@final
class PendingTree:
    """A tree of packed keys; see the module. Values are bytes, empty where it only has keys."""

    def __init__(self, memory: Memory, journal: Journal) -> None:
        self.map: StableBTreeMap[bytes, bytes] = StableBTreeMap.init(memory, raw, raw)
        self._journal = journal
        self._pending: dict[bytes, Change] = {}
        self._keys: list[bytes] = []
        self._length = 0  # by how much the pending ones change it
        self.changes = 0
        journal.register(self)

    @property
    def pending_count(self) -> int:
        """Keys that something is pending for."""
        return len(self._pending)

    def __len__(self) -> int:
        return len(self.map) + self._length

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        if key in self._pending:
            return self._pending[key]
        return self.map.get(key)

    def put(self, key: bytes, value: bytes | None, *, had: bool) -> None:
        """Set or, with `None`, remove a key; `had` says whether it was there, which the caller has to know anyway."""
        before = self._pending.get(key, _ABSENT)
        self._journal.note(self, key, before, self._length)
        if before is _ABSENT:
            insort(self._keys, key)
        self._pending[key] = value
        self._length += (value is not None) - had
        self.changes += 1
        self._journal.wrote(self)

    def restore(self, key: bytes, before: Change | _Absent, length: int) -> None:
        """Take a write back, or what there is of one that was interrupted."""
        if isinstance(before, _Absent):
            self._pending.pop(key, None)
            at = bisect_left(self._keys, key)
            if self._keys[at : at + 1] == [key]:
                del self._keys[at]
        else:
            self._pending[key] = before
        self._length = length
        self.changes += 1

    def flush(self) -> None:
        """Write what is pending to the tree, whole or not at all."""
        if not self._pending:
            return
        if len(self._pending) == 1:
            ((key, value),) = self._pending.items()
            if value is None:
                self.map.remove(key)
            else:
                self.map.insert(key, value)
        else:
            self.map.apply((key, self._pending[key]) for key in self._keys)
        self._clear()

    def discard(self) -> None:
        """Drop what is pending."""
        if self._pending:
            self._clear()
            self.changes += 1

    def build(self, entries: Iterable[Entry]) -> None:
        """Fill an empty tree from below."""
        self.map.bulk_load(entries)
        self.changes += 1

    def clear(self) -> None:
        """Remove all entries, at once."""
        self._clear()
        self.map.clear()
        self.changes += 1

    def _clear(self) -> None:
        self._pending = {}
        self._keys = []
        self._length = 0

    def range(self, low: bytes | None = None, high: bytes | None = None, *, reverse: bool = False) -> Iterator[Entry]:
        """The entries with ``low <= key < high``, ascending or descending.

        Raises:
            RuntimeError: the tree was written to meanwhile.
        """
        changes = self.changes
        for some in self._some(low, high, reverse):
            for entry in some:
                yield entry
                if self.changes != changes:
                    raise RuntimeError("the tree was changed while it was being iterated over: collect the rows first")

    def _some(self, low: bytes | None, high: bytes | None, reverse: bool) -> Iterator[Iterable[Entry]]:
        """The entries of `range`, some at once."""
        if reverse:
            stored = self.map.range(low, high, reverse=True)
            yield self._merged(stored, low, high, reverse) if self._pending else stored
        elif self._pending:
            yield self._merged(chain.from_iterable(self._stored(low, high)), low, high, reverse)
        else:
            yield from self._stored(low, high)

    def _stored(self, low: bytes | None, high: bytes | None) -> Iterator[list[Entry]]:
        """What is in the tree, some at once: the more, the longer it is asked for."""
        most = _FIRST_BATCH
        while True:
            found = self.map.batch(low, high, most)
            yield found
            if len(found) < most:
                return
            low = found[-1][0] + b"\0"
            most = min(2 * most, _STEP)

    def steady_range(self, low: bytes | None, high: bytes | None) -> Iterator[Entry]:
        """`range` for those who write to the tree meanwhile: what comes before the next entries is not seen again."""
        while True:
            found = list(islice(self.range(low, high), _STEP))
            yield from found
            if len(found) < _STEP:
                return
            low = found[-1][0] + b"\0"

    def _merged(self, stored: Iterator[Entry], low: bytes | None, high: bytes | None, reverse: bool) -> Iterator[Entry]:
        first = 0 if low is None else bisect_left(self._keys, low)
        end = len(self._keys) if high is None else bisect_left(self._keys, high)
        waiting = self._keys[first:end] if reverse else self._keys[first:end][::-1]  # the next one is the last
        pending = self._pending
        for entry in stored:
            key = entry[0]
            while waiting and (waiting[-1] > key if reverse else waiting[-1] < key):
                value = pending[waiting[-1]]
                if value is not None:
                    yield waiting[-1], value
                waiting.pop()
            if waiting and waiting[-1] == key:
                value = pending[waiting.pop()]
                if value is not None:
                    yield key, value
            else:
                yield entry
        while waiting:
            key = waiting.pop()
            value = pending[key]
            if value is not None:
                yield key, value
