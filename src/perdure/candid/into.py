"""Decoded values into the reader's own classes.

>>> from dataclasses import dataclass
>>> @dataclass
... class User:
...     name: str
...     age: int | None = None
>>> into(list[User], [{"name": "Ada", "age": None, "more": 1}])
[User(name='Ada', age=None)]
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar, Union

__all__ = ["into"]

T = TypeVar("T")
Target: TypeAlias = Any
"""A class or another form of annotation; and what is made of a value by it."""


def into(target: type[T] | Target, value: object) -> T:
    """`value`, as decoded from Candid, as a `target`.

    | target | from |
    |---|---|
    | a dataclass | a record, by field names (``from_`` for ``from``); other fields are left out |
    | an Enum | a variant without a payload, by the name of the member |
    | a union of classes | a variant: the class that is called like the tag, made from the payload |
    | ``Optional``, ``list``, ``set``, ``tuple`` of targets | what they say |
    | ``dict[K, V]`` | a vector of pairs |
    | any other class | a value of that class, as it is |
    | ``Any``, ``object`` | anything, as it is |

    Raises:
        ValueError: the value does not fit, with the path to the place.
    """
    try:
        found: T = _into(target, value)
    except _Misfit as error:
        raise ValueError(str(error)) from None
    return found


class _Misfit(Exception):  # noqa: N818  (never leaves the module)
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.path = ""

    def __str__(self) -> str:
        place = self.path.removeprefix(".")
        return f"{place}: {self.message}" if place else self.message


def _at(step: str, target: Target, value: object) -> Target:
    try:
        return _into(target, value)
    except _Misfit as error:
        error.path = step + error.path
        raise


def _into(target: Target, value: object) -> Target:
    origin: object = typing.get_origin(target)
    if origin in (Union, types.UnionType):
        return _into_union(typing.get_args(target), value)
    if origin is not None:
        handler = _GENERIC.get(origin)
        if handler is None:
            raise TypeError(f"{target} cannot be made from Candid")
        return handler(typing.get_args(target), value)
    if target in (Any, object):
        return value
    if target is None:
        target = type(None)
    if not isinstance(target, type):
        raise TypeError(f"{target!r} cannot be made from Candid")
    if dataclasses.is_dataclass(target):
        return _into_dataclass(target, value)
    if issubclass(target, Enum):
        return _into_enum(target, value)
    return _checked(target, value)


def _checked(target: type, value: object) -> object:
    if isinstance(value, target) and (target is not int or not isinstance(value, bool)):
        return value
    raise _wrong(target.__name__, value)


def _wrong(expected: str, value: object) -> _Misfit:
    text = repr(value)
    return _Misfit(f"expected {expected}, found {text if len(text) <= 80 else text[:77] + '...'}")


@lru_cache(maxsize=256)
def _hints(target: type) -> Mapping[str, Target]:
    return typing.get_type_hints(target)


def _into_dataclass(target: type, value: object) -> object:
    if not isinstance(value, Mapping):
        raise _wrong(f"a record for {target.__name__}", value)
    hints = _hints(target)
    arguments = {}
    for one in dataclasses.fields(target):
        key = one.name if one.name in value else one.name.removesuffix("_")
        if not one.init:
            continue
        if key in value:
            arguments[one.name] = _at(f".{key}", hints[one.name], value[key])
        elif one.default is dataclasses.MISSING and one.default_factory is dataclasses.MISSING:
            raise _Misfit(f"no field {key!r} for {target.__name__}, found {', '.join(map(str, value)) or 'none'}")
    return target(**arguments)


def _case(value: object) -> tuple[str, object] | None:
    """The tag and payload of a variant."""
    if isinstance(value, Mapping) and len(value) == 1:
        [(tag, payload)] = value.items()
        return str(tag), payload
    return None


def _into_enum(target: type[Enum], value: object) -> Enum:
    case = _case(value)
    if case is None or case[1] is not None or case[0] not in target.__members__:
        raise _wrong(f"a case of {target.__name__}", value)
    return target.__members__[case[0]]


def _into_union(targets: tuple[Target, ...], value: object) -> object:
    rest = [one for one in targets if one is not type(None)]
    if value is None and len(rest) < len(targets):
        return None
    if len(rest) == 1:
        return _into(rest[0], value)
    case = _case(value)
    if case is None:
        return _into_plain_union(rest, value)
    for one in rest:
        if getattr(one, "__name__", None) == case[0]:
            try:
                return _from_payload(one, case[1])
            except _Misfit as error:
                error.path = f".{case[0]}{error.path}"
                raise
    raise _wrong(" or ".join(getattr(one, "__name__", str(one)) for one in rest), value)


def _into_plain_union(targets: list[Target], value: object) -> object:
    for one in targets:
        if isinstance(one, type) and isinstance(value, one):
            return value
    raise _wrong(" or ".join(getattr(one, "__name__", str(one)) for one in targets), value)


def _from_payload(target: type, payload: object) -> object:
    """A dataclass for a case of a variant: from a record, from nothing, or from its only field."""
    if not dataclasses.is_dataclass(target) or isinstance(payload, Mapping):
        return _into(target, payload)
    make: Callable[..., Any] = target
    names = [one.name for one in dataclasses.fields(target) if one.init]
    if not names and payload is None:
        return make()
    if len(names) == 1:
        return make(_into(_hints(target)[names[0]], payload))
    raise _wrong(f"a record for {target.__name__}", payload)


def _elements(value: object) -> Sequence[object]:
    if not isinstance(value, (list, tuple)):
        raise _wrong("a vector", value)
    return value


def _into_list(arguments: tuple[Target, ...], value: object) -> list[object]:
    [of] = arguments
    return [_at(f"[{index}]", of, one) for index, one in enumerate(_elements(value))]


def _into_tuple(arguments: tuple[Target, ...], value: object) -> tuple[object, ...]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_into_list(arguments[:1], value))
    elements = _elements(value)
    if len(elements) != len(arguments):
        raise _wrong(f"{len(arguments)} values", value)
    pairs = zip(arguments, elements, strict=True)
    return tuple([_at(f"[{index}]", of, one) for index, (of, one) in enumerate(pairs)])


def _into_dict(arguments: tuple[Target, ...], value: object) -> dict[Target, Target]:
    return dict(
        _at(f"[{index}]", types.GenericAlias(tuple, arguments), one) for index, one in enumerate(_elements(value))
    )


_GENERIC: Mapping[Target, Callable[[tuple[Target, ...], object], object]] = {
    list: _into_list,
    tuple: _into_tuple,
    dict: _into_dict,
    set: lambda arguments, value: set(_into_list(arguments, value)),
}
