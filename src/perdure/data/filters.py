"""Filters and changes of documents, with Mongo's words.

| of a path | matches a value that |
|---|---|
| ``value``, ``$eq``, ``$ne`` | is equal, is not (missing as well); a list also where an element is |
| ``$gt`` ``$gte`` ``$lt`` ``$lte`` | is of the same kind, and greater, ... |
| ``$in``, ``$nin`` | is one of some, is none |
| ``$exists`` | is there; with False, is not |
| ``$size``, ``$all`` | is a list of that length, with all of these |
| ``$elemMatch`` | is a list with an element for which all of these hold, operators or a filter |
| ``$regex``, ``$options`` | is a text in which the pattern is found: `perdure.data.patterns` |
| ``$not`` | does not match |

A path goes into the elements of lists, by position too, and what holds for one of them holds. ``$and``, ``$or`` and
``$nor`` take filters. ``null`` is equal to a missing value, as in Mongo. A value that came from somebody else belongs
behind ``$eq``, where a mapping is a value whatever its names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Final, final

from perdure.data.patterns import Pattern, Work
from perdure.values.format import Value

__all__ = [
    "MISSING",
    "Condition",
    "at_path",
    "changed",
    "check_names",
    "check_nesting",
    "compiled",
    "kind_of",
    "values_at",
]

MAX_NESTING: Final = 64
"""Lists and mappings in one another, of a filter or a change."""


class _Missing:
    """What is at a path that leads nowhere."""

    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()

Test = Callable[[Value], bool]
Tests = Callable[[list[Value]], bool]
"""Of all values at a path."""
Ranges = list[tuple[Value, Value]]


def at_path(document: Value, path: str) -> Value:
    """What is at a path of names and positions; `MISSING` where it leads nowhere."""
    found = document
    for part in path.split("."):
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and _is_position(part) and int(part) < len(found):
            found = found[int(part)]
        else:
            return MISSING
    return found


def values_at(document: Value, path: str) -> list[Value]:
    """What is at a path, of a list on the way in each of its elements as well; `MISSING` where it leads nowhere."""
    found = [document]
    # A document nests no deeper, so what is behind is never looked for, however long it is.
    for part in path.split(".", MAX_NESTING + 1):
        if not found:
            break
        behind: list[Value] = []
        for one in found:
            if isinstance(one, dict):
                behind.append(one.get(part, MISSING))
            elif isinstance(one, list):
                if _is_position(part) and int(part) < len(one):
                    behind.append(one[int(part)])
                behind += [element.get(part, MISSING) for element in one if isinstance(element, dict)]
        # By position and through the element lead to the same place, again and again: each counts once.
        found = list({id(one): one for one in behind}.values())
    return found or [MISSING]


def _is_position(part: str) -> bool:
    return part.isascii() and part.isdecimal() and len(part) < 10


def _is_same(one: Value, other: Value) -> bool:
    if one is MISSING or other is MISSING:
        return one in (None, MISSING) and other in (None, MISSING)
    # True is no 1 here.
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def kind_of(value: Value) -> type | None:
    """What values are compared with one another; `None`: it has no order in a filter."""
    if isinstance(value, bool):
        return bool
    if isinstance(value, int | float):
        return float
    return type(value) if isinstance(value, str | bytes) else None


def _equals(wanted: Value) -> Test:
    if isinstance(wanted, re.Pattern):
        raise ValueError(f"{wanted!r:.80}: a pattern stands at a path alone, or behind $regex")
    return lambda found: (
        _is_same(found, wanted) or (isinstance(found, list) and any(_is_same(one, wanted) for one in found))
    )


def _compares(holds: Callable[[Any, Any], bool]) -> Callable[[Value], Test]:
    def make(wanted: Value) -> Test:
        kind = kind_of(wanted)
        if kind is None:
            raise ValueError(f"{brief(wanted)} has no order")

        def test(found: Value) -> bool:
            if isinstance(found, list):
                return any(test(one) for one in found if not isinstance(one, list))
            return kind_of(found) is kind and holds(found, wanted)

        return test

    return make


def _is_in(wanted: Value) -> Test:
    tests = [_equals(one) for one in _listed("$in", wanted)]
    return lambda found: any(test(found) for test in tests)


def _has_all(wanted: Value) -> Test:
    tests = [_equals(one) for one in _listed("$all", wanted)]
    return lambda found: isinstance(found, list) and all(test(found) for test in tests)


def _listed(name: str, wanted: Value) -> list[Value]:
    if not isinstance(wanted, list | tuple):
        raise ValueError(f"{name} takes a list, found {brief(wanted)}")
    return list(wanted)


def _has_size(wanted: Value) -> Test:
    if isinstance(wanted, bool) or not isinstance(wanted, int):
        raise ValueError(f"$size takes a number, found {brief(wanted)}")
    return lambda found: isinstance(found, list) and len(found) == wanted


def _has_element(wanted: Value) -> Test:
    if not isinstance(wanted, Mapping):
        raise ValueError(f"$elemMatch takes operators or a filter, found {brief(wanted)}")
    if _is_operators(wanted):
        test = _tests_of(wanted)
        return lambda found: isinstance(found, list) and any(test([one]) for one in found)
    inner = _compiled(wanted)
    return lambda found: isinstance(found, list) and any(inner.matches(one) for one in found if isinstance(one, dict))


def _is_found(wanted: Value, options: Value = "") -> Test:
    if isinstance(wanted, re.Pattern):
        letters = {"i": re.IGNORECASE, "m": re.MULTILINE, "s": re.DOTALL}
        if left := wanted.flags & ~(re.UNICODE | re.IGNORECASE | re.MULTILINE | re.DOTALL):
            raise ValueError(f"a pattern with {re.RegexFlag(left)!r}: only IGNORECASE, MULTILINE and DOTALL are taken")
        options = "".join(letter for letter, flag in letters.items() if wanted.flags & flag)
        wanted = wanted.pattern
    if not isinstance(wanted, str) or not isinstance(options, str):
        raise ValueError(f"$regex and $options take a text, found {brief(wanted)} and {brief(options)}")
    pattern, work = Pattern(wanted, options), Work()

    def test(found: Value) -> bool:
        if isinstance(found, list):
            return any(test(one) for one in found if isinstance(one, str))
        return isinstance(found, str) and pattern.search(found, work)

    return test


def _is_operators(wanted: Value) -> bool:
    return isinstance(wanted, Mapping) and any(str(one).startswith("$") for one in wanted)


def _tests_of(wanted: Value) -> Tests:
    """All operators of one path, over all values that are there."""
    if isinstance(wanted, re.Pattern):
        wanted = {"$regex": wanted}
    if not _is_operators(wanted):
        return _any(_equals(wanted))
    if "$options" in wanted and "$regex" not in wanted:
        raise ValueError("$options belong to a $regex, and there is none")
    tests = [_test_of(name, argument, wanted) for name, argument in wanted.items() if name != "$options"]
    return lambda values: all(test(values) for test in tests)


def _test_of(name: Value, argument: Value, beside: Mapping[str, Any]) -> Tests:
    if name in _OPPOSITES:
        test = _any(_OPERATORS[_OPPOSITES[name]](argument))
        return lambda values: not test(values)
    if name == "$not":
        if not (_is_operators(argument) or isinstance(argument, re.Pattern)):
            raise ValueError(f"$not takes operators, found {brief(argument)}")
        inner = _tests_of(argument)
        return lambda values: not inner(values)
    if name == "$exists":
        return lambda values: any(one is not MISSING for one in values) == bool(argument)
    if name == "$regex":
        return _any(_is_found(argument, beside.get("$options", "")))
    if name not in _OPERATORS:
        known = ", ".join((*_OPERATORS, *_OPPOSITES, "$not", "$exists", "$regex", "$options"))
        raise ValueError(f"no operator {name!r}, there are {known}")
    return _any(_OPERATORS[name](argument))


def _any(test: Test) -> Tests:
    return lambda values: any(test(one) for one in values)


_OPERATORS: Final[dict[str, Callable[[Value], Test]]] = {
    "$eq": _equals,
    "$gt": _compares(lambda found, wanted: found > wanted),
    "$gte": _compares(lambda found, wanted: found >= wanted),
    "$lt": _compares(lambda found, wanted: found < wanted),
    "$lte": _compares(lambda found, wanted: found <= wanted),
    "$in": _is_in,
    "$size": _has_size,
    "$all": _has_all,
    "$elemMatch": _has_element,
}
_OPPOSITES: Final = {"$ne": "$eq", "$nin": "$in"}
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

    paths: tuple[tuple[str, Tests], ...]
    joins: tuple[tuple[str, tuple[Condition, ...]], ...]
    wanted: Mapping[str, Any]

    def matches(self, document: Value) -> bool:
        """Whether a document does."""
        if not all(test(values_at(document, path)) for path, test in self.paths):
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
        return [(wanted, wanted)] if kind_of(wanted) is not None else None
    for name in ("$eq", "$in"):
        if name in wanted:
            values = [wanted[name]] if name == "$eq" else list(wanted[name])
            if all(kind_of(one) is not None for one in values):
                return [(one, one) for _, one in dict.fromkeys((kind_of(one), one) for one in values)]  # True is no 1
    low = next((wanted[one] for one in ("$gt", "$gte") if one in wanted), MISSING)
    high = next((wanted[one] for one in ("$lt", "$lte") if one in wanted), MISSING)
    if low is MISSING or high is MISSING or kind_of(low) is not kind_of(high):
        return None
    return [(low, high)]


def compiled(condition: Mapping[str, Any]) -> Condition:
    """A filter, checked.

    Raises:
        ValueError: no mapping, an operator that there is none of, or too many of them in one another.
    """
    check_nesting(condition, "a filter")
    return _compiled(condition)


def check_nesting(value: Value, what: str) -> None:
    """That something can be gone through.

    Raises:
        ValueError: it has too many lists and mappings in one another.
    """
    pending = [(value, 0)]
    while pending:
        one, nesting = pending.pop()
        if nesting > MAX_NESTING:
            raise ValueError(f"{what} has more than {MAX_NESTING} lists and mappings in one another")
        if isinstance(one, Mapping):
            pending += [(part, nesting + 1) for part in one.values()]
        elif isinstance(one, list | tuple):
            pending += [(part, nesting + 1) for part in one]


def _compiled(condition: Mapping[str, Any]) -> Condition:
    if not isinstance(condition, Mapping):
        raise ValueError(f"a filter is a mapping, found {brief(condition)}")
    paths, joins = [], []
    for name, wanted in condition.items():
        if not isinstance(name, str):
            raise ValueError(f"a path is a text, found {brief(name)}")
        if name in _JOINS:
            parts = tuple(_compiled(one) for one in _listed(name, wanted))
            if not parts:
                raise ValueError(f"{name} takes at least one filter")
            joins.append((name, parts))
        elif name.startswith("$"):
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
    check_nesting(change, "a change")
    made: dict[str, Any] = deepcopy(dict(document))
    for name, paths in change.items():
        if name not in _CHANGES or not isinstance(paths, Mapping):
            raise ValueError(f"no change {name!r} of paths, there are {', '.join(_CHANGES)}")
        for path, argument in paths.items():
            found = _parent(made, path, is_made=name not in _REMOVING)
            if found is not None:
                _CHANGES[name](*found, deepcopy(argument))
    return made


def _parent(document: dict[str, Any], path: Value, *, is_made: bool) -> tuple[dict[str, Any], str] | None:
    """What a path ends in, and its last name; `None`: it leads nowhere, and nothing is made."""
    parts = path.split(".") if isinstance(path, str) else [""]
    if not all(parts) or any(part.startswith("$") for part in parts):
        raise ValueError(f"a path is names with dots between them, none of which begins with $, found {brief(path)}")
    *parents, last = parts
    found = document
    for part in parents:
        if not is_made and part not in found:
            return None
        found = found.setdefault(part, {})
        if not isinstance(found, dict):
            raise ValueError(f"{path!r}: {part!r} is {brief(found)}, which has no names")
    return found, last


def check_names(document: Value) -> None:
    """That no name in a document could be taken for an operator where it is put into a filter.

    Raises:
        ValueError: one begins with ``$``.
    """
    pending = [document]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            for name in one:
                if name.startswith("$"):
                    raise ValueError(
                        f"a name in a document does not begin with $, as operators do, found {brief(name)}"
                    )
            pending += one.values()
        elif isinstance(one, list | tuple):
            pending += one


def _set(parent: dict[str, Any], name: str, argument: Value) -> None:
    parent[name] = argument


def _unset(parent: dict[str, Any], name: str, _argument: Value) -> None:
    parent.pop(name, None)


def _increase(parent: dict[str, Any], name: str, argument: Value) -> None:
    before = parent.get(name, 0)
    if kind_of(before) is not float or kind_of(argument) is not float:
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
_REMOVING: Final = ("$unset", "$pull")
"""What has nothing to do where there is nothing."""
