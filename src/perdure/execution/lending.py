"""Records that a fork shares with its original, until either of them touches one.

```
            original           fork              fork of the fork
 own        a  b' c            b  c'             d
 lent       -                  a                 a  b  c'
 lenders    -                  original          original, fork
```

A fork begins with nothing but a table of the others' records. It copies one when it is first asked for it; and whoever
has lent one, before changing it, has all copy it that still have it on loan (above, the original has changed *b*, the
fork *c*, and its fork nothing but *d*). So nobody ever sees a record that changes, and what nobody touches is there
once. A fork and its original may belong to different threads: all that are of one origin share a lock, which is held
while something is copied, and under which nothing else is taken.
"""

from __future__ import annotations

import threading
import weakref
from _collections_abc import dict_items, dict_values
from collections.abc import Callable, Iterable, Iterator, KeysView
from typing import Generic, TypeVar, final

__all__ = ["Borrowed", "Loans", "own_records"]

_Record = TypeVar("_Record")


@final
class Borrowed(dict[bytes, _Record]):
    """A fork's records by id, in no particular order: what this class defines is about all of them.

    Args:
        lent: records of others.
        lenders: whose they are.
        copy: makes a record of this fork out of one of another.
        lock: of all that are of one origin.
    """

    __slots__ = ("__weakref__", "_copy", "_lent", "_lock", "_taking", "lenders")

    def __init__(
        self,
        lent: dict[bytes, _Record],
        lenders: Iterable[Loans[_Record]],
        copy: Callable[[_Record], _Record],
        lock: threading.RLock,
    ) -> None:
        super().__init__()
        self._lent = lent
        self._copy = copy
        self._lock = lock
        self._taking: bytes | None = None
        self.lenders = weakref.WeakSet(lenders)  # of one that is gone nobody changes a record any more

    def take(self, record_id: bytes) -> None:
        """Copy a record, if it is on loan. Call it under the lock."""
        self._end_taking()
        lent = self._lent.get(record_id)
        if lent is not None:
            self._taking = record_id
            self[record_id] = self._copy(lent)
            del self._lent[record_id]  # last: until then it is found there
            self._taking = None

    def _end_taking(self) -> None:
        """Have what an exception has cut off, copied and still on loan, there once. Call it under the lock."""
        if self._taking is not None:
            if dict.__contains__(self, self._taking):
                self._lent.pop(self._taking, None)
            self._taking = None

    def all_lent(self) -> dict[bytes, _Record]:
        """What it has of others, by id. Call it under the lock."""
        return self._lent

    def own(self) -> dict[bytes, _Record]:
        """What it has for itself, by id, as of now: the threads of others may have it copy more."""
        with self._lock:
            return {record_id: dict.__getitem__(self, record_id) for record_id in dict.__iter__(self)}

    def __missing__(self, record_id: bytes) -> _Record:
        with self._lock:
            self.take(record_id)
        found = dict.get(self, record_id)
        if found is None:
            raise KeyError(record_id)
        return found

    def get(self, record_id: bytes, default: _Record | None = None) -> _Record | None:  # type: ignore[override]
        """A record, copied if it is on loan."""
        try:
            return self[record_id]
        except KeyError:
            return default

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._lent or dict.__contains__(self, record_id)  # in this order: see `take`

    def __len__(self) -> int:
        with self._lock:
            self._end_taking()
            return dict.__len__(self) + len(self._lent)

    def __iter__(self) -> Iterator[bytes]:
        with self._lock:
            self._end_taking()
            return iter([*dict.__iter__(self), *self._lent])

    def keys(self) -> KeysView[bytes]:  # type: ignore[override]
        """All ids."""
        return KeysView(self)

    def values(self) -> dict_values[bytes, _Record]:
        """All records, copied."""
        self._take_all()
        return super().values()

    def items(self) -> dict_items[bytes, _Record]:
        """All records, copied, with their ids."""
        self._take_all()
        return super().items()

    def _take_all(self) -> None:
        with self._lock:
            for record_id in [*self._lent]:
                self.take(record_id)

    def __delitem__(self, record_id: bytes) -> None:
        with self._lock:
            self.take(record_id)  # its own from here on
        super().__delitem__(record_id)

    def pop(self, record_id: bytes, default: _Record | None = None) -> _Record | None:  # type: ignore[override]
        """Have a record no more, and give it back."""
        with self._lock:
            self.take(record_id)
        return super().pop(record_id, default)


@final
class Loans(Generic[_Record]):
    """What a subnet has lent to its forks.

    Args:
        lock: of all that are of one origin; by default this is the first of them.
    """

    __slots__ = ("__weakref__", "_borrowers", "_returned", "lock")

    def __init__(self, lock: threading.RLock | None = None) -> None:
        self.lock = lock or threading.RLock()  # again: what copies one may have the garbage collector close another
        self._borrowers: list[weakref.ref[Borrowed[_Record]]] = []
        self._returned: set[bytes] = set()  # nobody has one of these on loan

    def lend(self, records: dict[bytes, _Record], copy: Callable[[_Record], _Record]) -> Borrowed[_Record]:
        """A fork's records: those of this subnet, which they are lent from, and those that it has on loan itself."""
        lenders = [self]
        with self.lock:
            lent = own_records(records)
            if isinstance(records, Borrowed):
                lent = {**records.all_lent(), **lent}
                lenders += records.lenders
            made = Borrowed(lent, lenders, copy, self.lock)
            self._returned = set()
            for lender in lenders:
                lender._borrowers = [one for one in lender._borrowers if one() is not None]
                lender._borrowers.append(weakref.ref(made))
        return made

    def settle(self, record_id: bytes) -> None:
        """Have all that have a record of this subnet on loan copy it: it is about to be changed, or to go."""
        if record_id in self._returned:
            return
        with self.lock:
            for borrower in self._borrowers:
                records = borrower()
                if records is not None:
                    records.take(record_id)
            self._returned.add(record_id)


def own_records(records: dict[bytes, _Record]) -> dict[bytes, _Record]:
    """What nobody else has, by id."""
    return records.own() if isinstance(records, Borrowed) else records.copy()
