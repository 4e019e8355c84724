"""Filters and changes of documents, with Mongo's words.

| of a path | matches a value that |
|---|---|
| ``value``, ``$eq``, ``$ne`` | is equal, is not (missing as well); a list also where an element is |
| ``$gt`` ``$gte`` ``$lt`` ``$lte`` | is of the same kind, and greater, ... |
| ``$in``, ``$nin`` | is one of some, is none |
| ``$exists`` | is there; with False, is not |
| ``$size``, ``$all`` | is a list of that length, with all of these |
| ``$not`` | does not match |

``$and``, ``$or`` and ``$nor`` take filters. ``null`` is equal to a missing value, as in Mongo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Final, final

from perdure.values.format import Value

__all__ = ["MISSING", "Condition", "at_path", "changed", "compiled"]


class _Missing:
    """What is at a path that leads nowhere."""

    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()

Test = Callable[[Value], bool]
Ranges = list[tuple[Value, Value]]


def at_path(document: Value, path: str) -> Value:
    """What is at a path of names and positions; `MISSING` where it leads nowhere."""
    found = document
    for part in path.split("."):
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return MISSING
    return found


def _is_same(one: Value, other: Value) -> bool:
    if one is MISSING or other is MISSING:
        return one in (None, MISSING) and other in (None, MISSING)
    # True is no 1 here.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _kind(value: Value) -> type | None:
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float
    return type(value) if isinstance(value, str | bytes) else None


def _equals(wanted: Value) -> Test:
    return lambda found: (
        _is_same(found, wanted) or (isinstance(found, list) and any(_is_same(one, wanted) for one in found))
    )


def _compares(holds: Callable[[Any, Any], bool]) -> Callable[[Value], Test]:
    def make(wanted: Value) -> Test:
        kind = _kind(wanted)
        if kind is None:
            raise ValueError(f"{brief(wanted)} has no order")

        def test(found: Value) -> bool:
            if isinstance(found, list):
                return any(test(one) for one in found if not isinstance(one, list))
            return _kind(found) is kind and holds(found, wanted)

        return test

    return make


def _is_in(wanted: Value) -> Test:
    tests = [_equals(one) for one in _listed("$in", wanted)]
    return lambda found: any(test(found) for test in tests)


def _has_all(wanted: Value) -> Test:
    tests = [_equals(one) for one in _listed("$all", wanted)]
    return lambda found: isinstance(found, list) and all(test(found) for test in tests)


def _negated(make: Callable[[Value], Test]) -> Callable[[Value], Test]:
    def made(wanted: Value) -> Test:
        test = make(wanted)
        return lambda found: not test(found)

    return made


def _listed(name: str, wanted: Value) -> list[Value]:
    if not isinstance(wanted, list | tuple):
        raise ValueError(f"{name} takes a list, found {brief(wanted)}")
    return list(wanted)


def _tests_of(wanted: Value) -> Test:
    """All operators of one path."""
    if not isinstance(wanted, Mapping) or not any(str(one).startswith("$") for one in wanted):
        return _equals(wanted)
    tests = []
    for name, argument in wanted.items():
        if name not in _OPERATORS:
            raise ValueError(f"no operator {name!r}, there are {', '.join(_OPERATORS)}")
        tests.append(_OPERATORS[name](argument))
    return lambda found: all(test(found) for test in tests)


_OPERATORS: Final[dict[str, Callable[[Value], Test]]] = {
    "$eq": _equals,
    "$ne": _negated(_equals),
    "$gt": _compares(lambda found, wanted: found > wanted),
    "$gte": _compares(lambda found, wanted: found >= wanted),
    "$lt": _compares(lambda found, wanted: found < wanted),
    "$lte": _compares(lambda found, wanted: found <= wanted),
    "$in": _is_in,
    "$nin": _negated(_is_in),
    "$exists": lambda wanted: lambda found: (found is not MISSING) == bool(wanted),
    "$size": lambda wanted: lambda found: isinstance(found, list) and len(found) == wanted,
    "$all": _has_all,
    "$not": _negated(_tests_of),
}
_JOINS: Final[dict[str, Callable[[Iterator[bool]], bool]]] = {
    "$and": all,
    "$or": any,
    "$nor": lambda found: not any(found),
}


@final
@dataclass(frozen=True)
class Condition:
    """A filter, ready to be asked.

    Attributes:
        paths: what has to hold at each.
        joins: filters within, and how they are joined.
        wanted: the filter as it was written.
    """

    paths: tuple[tuple[str, Test], ...]
    joins: tuple[tuple[str, tuple[Condition, ...]], ...]
    wanted: Mapping[str, Any]

    def matches(self, document: Value) -> bool:
        """Whether a document does."""
        if not all(test(at_path(document, path)) for path, test in self.paths):
            return False
        return all(_JOINS[name](one.matches(document) for one in parts) for name, parts in self.joins)

    def narrowed(self, path: str) -> Ranges | None:
        """Between which values at a path all that match lie, both within; `None`: anywhere.

        A list's elements are in no index, so only what no list can match is narrowed: nothing is, where documents may
        have lists at the path. Lists stand in the index as null, which is asked for as well.
        """
        wanted = self.wanted.get(path, MISSING)
        found = None if wanted is MISSING else _ranges(wanted)
        return None if found is None else [*found, (None, None)]


def _ranges(wanted: Value) -> Ranges | None:
    if not isinstance(wanted, Mapping):
        return [(wanted, wanted)] if _kind(wanted) is not None else None
    for name in ("$eq", "$in"):
        if name in wanted:
            values = [wanted[name]] if name == "$eq" else list(wanted[name])
            if all(_kind(one) is not None for one in values):
                return [(one, one) for _, one in dict.fromkeys((_kind(one), one) for one in values)]  # True is no 1
    low = next((wanted[one] for one in ("$gt", "$gte") if one in wanted), MISSING)
    high = next((wanted[one] for one in ("$lt", "$lte") if one in wanted), MISSING)
    if low is MISSING or high is MISSING or _kind(low) is not _kind(high):
        return None
    return [(low, high)]


def compiled(condition: Mapping[str, Any]) -> Condition:
    """A filter, checked.

    Raises:
        ValueError: no mapping, or an operator that there is none of.
    """
    if not isinstance(condition, Mapping):
        raise ValueError(f"a filter is a mapping, found {brief(condition)}")
    paths, joins = [], []
    for name, wanted in condition.items():
        if name in _JOINS:
            joins.append((name, tuple(compiled(one) for one in _listed(name, wanted))))
        elif str(name).startswith("$"):
            raise ValueError(f"no operator {name!r} of filters, there are {', '.join(_JOINS)}")
        else:
            paths.append((name, _tests_of(wanted)))
    return Condition(tuple(paths), tuple(joins), condition)


# -- changes


def changed(document: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """A document with changes by path.

    Raises:
        ValueError: no such operator, a path through what has no parts, a change that does not fit what is there.
    """
    made: dict[str, Any] = deepcopy(dict(document))
    for name, paths in change.items():
        if name not in _CHANGES or not isinstance(paths, Mapping):
            raise ValueError(f"no change {name!r} of paths, there are {', '.join(_CHANGES)}")
        for path, argument in paths.items():
            parent, last = _parent(made, path)
            _CHANGES[name](parent, last, argument)
    return made


def _parent(document: dict[str, Any], path: str) -> tuple[dict[str, Any], str]:
    *parts, last = path.split(".")
    found = document
    for part in parts:
        found = found.setdefault(part, {})
        if not isinstance(found, dict):
            raise ValueError(f"{path!r}: {part!r} is {brief(found)}, which has no names")
    return found, last


def _set(parent: dict[str, Any], name: str, argument: Value) -> None:
    parent[name] = argument


def _unset(parent: dict[str, Any], name: str, _argument: Value) -> None:
    parent.pop(name, None)


def _increase(parent: dict[str, Any], name: str, argument: Value) -> None:
    before = parent.get(name, 0)
    if _kind(before) is not float or _kind(argument) is not float:
        raise ValueError(f"{name!r} is {brief(before)}, and {brief(argument)} cannot be added to it")
    parent[name] = before + argument


def _push(parent: dict[str, Any], name: str, argument: Value) -> None:
    if not isinstance(parent.setdefault(name, []), list):
        raise ValueError(f"{name!r} is {brief(parent[name])}, and no list")
    parent[name].append(argument)


def _pull(parent: dict[str, Any], name: str, argument: Value) -> None:
    if isinstance(parent.get(name), list):
        parent[name] = [one for one in parent[name] if not _is_same(one, argument)]


_CHANGES: Final[dict[str, Callable[[dict[str, Any], str, Value], None]]] = {
    "$set": _set,
    "$unset": _unset,
    "$inc": _increase,
    "$push": _push,
    "$pull": _pull,
}
