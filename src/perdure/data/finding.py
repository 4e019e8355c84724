"""What becomes of documents that a filter has found: their order, which of them, and what of each, as Mongo has it.

| given as | order |
|---|---|
| ``"age"``, ``"-age"`` | by the value at a path, from the smallest, from the largest |
| ``("age", -1)``, ``[("city", 1), ("age", -1)]``, ``{"city": 1, "age": -1}`` | by several, one after the other |

Kinds come one after the other: nothing, numbers, text, mappings, lists within lists, bytes, true and false. Of a list
its smallest element counts, from the largest its largest one.

| given as | of each document |
|---|---|
| ``["name", "address.city"]``, ``{"name": 1, "address.city": 1}`` | these paths alone |
| ``{"password": 0}`` | all but these |
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import isnan
from reprlib import repr as brief
from typing import Any, Final, TypeAlias, TypeVar

from perdure.data.filters import MISSING, values_at
from perdure.values.format import Value

__all__ = ["Projection", "Sort", "in_order", "projected"]

K = TypeVar("K")
Pair: TypeAlias = tuple[K, dict[str, Any]]

Sort: TypeAlias = str | tuple[str, int] | Sequence[tuple[str, int] | str] | Mapping[str, int]
Projection: TypeAlias = Sequence[str] | Mapping[str, Any]

_MOST: Final = 1 << 40
_RANKS: Final[tuple[tuple[type | tuple[type, ...], int], ...]] = (
    (bool, 6),
    ((int, float), 1),
    (str, 2),
    (dict, 3),
    ((list, tuple), 4),
    (bytes, 5),
)


# -- order


def in_order(found: Iterable[Pair[K]], sort: Sort | None, skip: Any, limit: Any) -> Iterator[Pair[K]]:
    """Found documents in an order, without the first ones, and so many at most.

    With a limit no more than ``skip + limit`` of them are held at once.

    Raises:
        ValueError: an order that is none, a number below zero.
    """
    for name, number in (("skip", skip), ("limit", 0 if limit is None else limit)):
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST:
            raise ValueError(f"{name} is a number of documents, at most {_MOST:,}, found {brief(number)}")
    end = None if limit is None else skip + limit
    return islice(_sorted(found, _directions(sort), end), skip, end)


def _sorted(found: Iterable[Pair[K]], by: Sequence[tuple[str, int]], end: int | None) -> Iterable[Pair[K]]:
    if not by:
        return found

    def key(pair: Pair[K]) -> tuple[Any, ...]:
        return tuple(_Key(_ranked(values_at(pair[1], path), way), way) for path, way in by)

    return sorted(found, key=key) if end is None else heapq.nsmallest(end, found, key=key)


def _directions(sort: Any) -> list[tuple[str, int]]:
    if sort is None:
        return []
    if isinstance(sort, Mapping):
        given: list[Any] = list(sort.items())
    elif isinstance(sort, str) or _is_direction(sort):
        given = [sort]
    elif isinstance(sort, Sequence):
        given = list(sort)
    else:
        given = [None]
    return [_direction(one, sort) for one in given]


def _is_direction(one: object) -> bool:
    return isinstance(one, tuple) and len(one) == 2 and isinstance(one[0], str) and one[1] in (1, -1)


def _direction(one: Any, sort: object) -> tuple[str, int]:
    if isinstance(one, str) and one.removeprefix("-"):
        return one.removeprefix("-"), -1 if one.startswith("-") else 1
    if _is_direction(one):
        return one[0], one[1]
    raise ValueError(f'an order is "age", "-age", ("age", -1) or several, found {brief(sort)}')


def _ranked(values: list[Value], way: int) -> tuple[Any, ...]:
    """What counts of the values at a path, comparable with whatever else there may be."""
    flat = [part for one in values for part in (one if isinstance(one, list) and one else [one])]
    return (min if way > 0 else max)(map(_rank, flat))


def _rank(value: Value) -> tuple[Any, ...]:
    if value is None or value is MISSING or (isinstance(value, list) and not value):
        return (0,)
    rank = next((rank for kind, rank in _RANKS if isinstance(value, kind)), 7)
    if rank == 1 and isinstance(value, float) and isnan(value):  # NaN is before all numbers, and has an order so
        return rank, 0, 0
    if rank == 1:
        return rank, 1, value
    if rank == 3:
        return rank, tuple((name, _rank(part)) for name, part in value.items())
    return (rank, tuple(map(_rank, value))) if rank == 4 else (rank, value)


class _Key:
    """One of several things that are compared, in its direction."""

    __slots__ = ("rank", "way")

    def __init__(self, rank: tuple[Any, ...], way: int) -> None:
        self.rank = rank
        self.way = way

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self.rank == other.rank

    def __hash__(self) -> int:
        return hash(self.rank)

    def __lt__(self, other: _Key) -> bool:
        return self.rank < other.rank if self.way > 0 else other.rank < self.rank


# -- parts


def projected(projection: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What leaves of a document what is wanted.

    Raises:
        ValueError: a projection that is none, or that has both what is wanted and what is not.
    """
    if projection is None:
        return lambda document: document
    if isinstance(projection, Mapping):
        wanted = projection
    elif not isinstance(projection, str) and isinstance(projection, Sequence):
        wanted = dict.fromkeys(projection, 1)
    else:
        wanted = {"": None}
    ways = {one if isinstance(one, int) and one in (0, 1) else None for one in wanted.values()}
    if None in ways or not all(isinstance(one, str) and one for one in wanted):
        raise ValueError(f'a projection is ["name", ...], {{"name": 1}} or {{"name": 0}}, found {brief(projection)}')
    if len(ways) > 1:
        raise ValueError(
            f"a projection has the paths that are wanted, or those that are not, found {brief(projection)}"
        )
    names: dict[str, Any] = {}
    for path in wanted:
        _plant(names, path, projection)
    if 0 in ways:
        return lambda document: _without(document, names)
    return lambda document: _with(document, names)


def _plant(names: dict[str, Any], path: str, projection: object) -> None:
    """Paths as a tree: the end of each is an empty mapping."""
    *parts, last = path.split(".")
    for part in parts:
        is_new = part not in names
        names = names.setdefault(part, {})
        if not names and not is_new:
            raise ValueError(f"{path!r} lies within a path that is there as a whole, in {brief(projection)}")
    if last in names:
        raise ValueError(f"{path!r} is there twice, or with paths within it, in {brief(projection)}")
    names[last] = {}


def _with(value: Value, names: Mapping[str, Any]) -> Value:
    return {
        name: _within(part, names[name], _with) if names[name] else part
        for name, part in value.items()
        if name in names and (not names[name] or isinstance(part, dict | list))
    }


def _without(value: Value, names: Mapping[str, Any]) -> Value:
    return {
        name: _within(part, names[name], _without) if name in names else part
        for name, part in value.items()
        if name not in names or names[name]
    }


def _within(part: Value, names: Mapping[str, Any], take: Callable[[Value, Mapping[str, Any]], Value]) -> Value:
    """Below a name: of a list each mapping in it."""
    if isinstance(part, dict):
        return take(part, names)
    if not isinstance(part, list):
        return part
    found = (_within(one, names, take) for one in part if isinstance(one, dict | list) or take is _without)
    return list(found)
