"""Hypothesis strategies from Candid types: values that a canister may be sent (extra ``fuzz``).

A recursive type is unfolded a few times; what is left then is its smallest value (`opt` nothing, an empty `vec`, the
case of a variant that needs the fewest steps), so that every value ends, and is small.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from hypothesis import strategies as st

from perdure.candid.did import parse_types
from perdure.candid.service import ServiceMethod
from perdure.candid.types import (
    Field,
    Func,
    Future,
    MethodRef,
    Opt,
    Prim,
    Rec,
    Record,
    Service,
    Some,
    Type,
    Value,
    Variant,
    Vec,
    children,
    is_blob,
    is_nullable,
)
from perdure.errors import UnsupportedError
from perdure.ic.principal import ANONYMOUS, Principal

__all__ = ["arguments", "principals", "strategies"]

_MOST_NAMES: Final = 3
_MOST_ELEMENTS: Final = 8

_MANAGEMENT: Final = Principal(b"")


def principals() -> st.SearchStrategy[Principal]:
    """Any principal: the anonymous one, the management canister, users, canisters, and what is none of these."""
    anything = st.binary(max_size=29).map(Principal)
    user = st.binary(max_size=8).map(Principal.self_authenticating)
    return st.one_of(st.sampled_from([ANONYMOUS, _MANAGEMENT]), user, anything)


def _integers(bits: int, *, is_signed: bool) -> st.SearchStrategy[Value]:
    low = -(1 << bits - 1) if is_signed else 0
    return st.integers(low, low + (1 << bits) - 1)


_PRIMITIVES: Final[Mapping[str, Callable[[], st.SearchStrategy[Value]]]] = {
    "null": st.none,
    "reserved": st.none,
    "bool": st.booleans,
    "nat": lambda: st.integers(min_value=0),
    "int": st.integers,
    "float32": lambda: st.floats(width=32),
    "float64": st.floats,
    "text": st.text,
    "principal": principals,
    "empty": st.nothing,
    **{f"nat{bits}": partial(_integers, bits, is_signed=False) for bits in (8, 16, 32, 64)},
    **{f"int{bits}": partial(_integers, bits, is_signed=True) for bits in (8, 16, 32, 64)},
}


def strategies(type_: Type | str) -> st.SearchStrategy[Value]:
    """Values of a Candid type, as an actor takes them.

    Args:
        type_: a type, or its text: ``"record { name : text; age : opt nat8 }"``.

    Raises:
        MalformedError: a text that is no type.
        UnsupportedError: a type of a later version of Candid.

    >>> strategies("variant { Ok : nat8; Err }").example()  # doctest: +SKIP
    {'Ok': 7}
    """
    if isinstance(type_, str):
        (type_,) = parse_types(f"({type_})")
    return _Unfolding(type_).of(type_)


def arguments(method: ServiceMethod) -> st.SearchStrategy[tuple[Value, ...]]:
    """What a method can be called with: a tuple of its arguments."""
    return st.tuples(*(strategies(one) for one in method.func.args))


class _Unfolding:
    """Strategies of the types that are reached from one, knowing how many names the smallest value of each takes."""

    def __init__(self, root: Type) -> None:
        self._heights: dict[Rec, float] = dict.fromkeys(_names(root), math.inf)
        changed = True
        while changed:
            changed = False
            for name, before in self._heights.items():
                self._heights[name] = self._height(name.type) + 1
                changed |= self._heights[name] != before

    def _height(self, type_: Type) -> float:
        """Names that the smallest value of a type goes through; infinite: it has no values."""
        match type_:
            case Rec():
                return self._heights[type_]
            case Record(fields):
                return max((self._height(one.type) for one in fields), default=0)
            case Variant(fields):
                return min((self._height(one.type) for one in fields), default=math.inf)
            case Prim():
                return math.inf if type_.name == "empty" else 0
            case _:
                return 0

    def _fits(self, type_: Type, depth: int) -> bool:
        return depth + self._height(type_) <= _MOST_NAMES

    def of(self, type_: Type, depth: int = 0) -> st.SearchStrategy[Value]:  # noqa: PLR0911 - a table of kinds
        """Values of a type within `depth` names."""
        if math.isinf(self._height(type_)):
            return st.nothing()
        match type_:
            case Rec():
                return st.deferred(lambda: self.of(type_.type, depth + 1))
            case Prim():
                return _PRIMITIVES[type_.name]()
            case Opt(content):
                return self._optional(content, depth)
            case Vec(element):
                if is_blob(type_):
                    return st.binary()
                most = _MOST_ELEMENTS >> depth
                return (
                    st.lists(self.of(element, depth), max_size=most) if self._fits(element, depth) else st.builds(list)
                )
            case Record(fields):
                parts = {one.label: self.of(one.type, depth) for one in fields}
                return st.tuples(*parts.values()) if type_.is_tuple else st.fixed_dictionaries(parts)
            case Variant(fields):
                return self._cases(fields, depth)
            case Func():
                return st.builds(MethodRef, principals(), st.text(max_size=20))
            case Service():
                return principals()
            case Future():
                raise UnsupportedError(f"no values of {type_}: a type of a later version of Candid")

    def _optional(self, content: Type, depth: int) -> st.SearchStrategy[Value]:
        if not self._fits(content, depth):
            return st.none()
        inner = self.of(content, depth)
        return st.none() | (inner.map(Some) if is_nullable(content) else inner)

    def _cases(self, fields: tuple[Field, ...], depth: int) -> st.SearchStrategy[Value]:
        cases = [one for one in fields if self._fits(one.type, depth)]
        cases = cases or [min(fields, key=lambda one: self._height(one.type))]
        return st.one_of([_case(one.label, self.of(one.type, depth)) for one in cases])


def _case(label: str, payload: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    return payload.map(lambda value: {label: value})


def _names(root: Type) -> set[Rec]:
    """All names that are reached from a type."""
    found: set[Rec] = set()
    waiting = [root]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Rec):
            if one in found:
                continue
            found.add(one)
        waiting.extend(children(one))
    return found
