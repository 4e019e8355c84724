"""The attributes of a canister in Python as bytes: what its heap holds.

A heap may come from anywhere, a snapshot that somebody sent among others. So what is read are plain values and the
canister's own classes, by name, and nothing else is called. Bytes that this process has not written are first held
against what pickle writes: other operations can ask for gigabytes in five bytes (a place in the memo), and so can plain
classes, by what they are called with (a set of a range, a fraction of ``1e999999999``).
"""

from __future__ import annotations

import io
import pickle
import re
from fractions import Fraction
from typing import Any, Final, Protocol

from perdure.errors import InternalError, MalformedError
from perdure.python.identity import name_of
from perdure.raised import is_interruption

__all__ = ["Classes", "pickled", "unpickled"]


class Classes(Protocol):
    """Knows the classes that a canister's attributes are of."""

    @property
    def classes(self) -> dict[str, type]:
        """Those that were written, by name."""
        ...

    def class_named(self, name: str) -> type:
        """A class of the canister's own; `MalformedError`: there is none of this name."""
        ...


_PLAIN_CLASSES: Final = frozenset(
    {
        *(("builtins", name) for name in ("set", "frozenset", "bytearray", "complex", "range", "slice", "object")),
        *(("collections", name) for name in ("OrderedDict", "defaultdict", "deque", "Counter")),
        *(("datetime", name) for name in ("date", "datetime", "time", "timedelta", "timezone")),
        ("copyreg", "_reconstructor"),
        ("decimal", "Decimal"),
        ("fractions", "Fraction"),
        ("perdure.ic.principal", "Principal"),
        ("perdure.candid.types", "Some"),
        ("perdure.candid.types", "MethodRef"),
        ("uuid", "UUID"),
    }
)


class _Pickler(pickle.Pickler):
    """Writes classes by name, those within functions too; the module that is pickled for knows them again."""

    def __init__(self, file: io.BytesIO, module: Classes) -> None:
        super().__init__(file, protocol=5)
        self._module = module

    def reducer_override(self, obj: object) -> Any:
        """Classes of the canister's own go by name."""
        if isinstance(obj, type) and (obj.__module__, obj.__qualname__) not in _PLAIN_CLASSES:
            name = name_of(obj)
            self._module.classes[name] = obj
            return _class_named, (name,)
        return NotImplemented


def _class_named(name: str) -> type:
    """Stands in pickles for a class; `_Unpickler` has its own."""
    raise InternalError(f"class {name} was looked for outside a canister")


_CLASS_NAMED: Final = {(place, "_class_named") for place in (__name__, "perdure.kit.instance")}
"""Where `_class_named` is, and was when version 1 of the format began."""


class _Finding:
    """Finds plain classes and the canister's own. A heap may come from anywhere, so nothing else is called."""

    module: Classes

    def find_class(self, module_name: str, name: str, /) -> Any:
        """A class that may be in a heap."""
        if (module_name, name) in _CLASS_NAMED:
            return self.module.class_named
        if (module_name, name) in _PLAIN_CLASSES:
            return super().find_class(module_name, name)  # type: ignore[misc]  # the unpickler's
        raise MalformedError(f"the heap names {module_name}.{name}, which is not the canister's")


class _Unpickler(_Finding, pickle.Unpickler):
    """Reads heaps."""


class _WatchingUnpickler(_Finding, pickle._Unpickler):
    """Reads heaps, ten times slower, and looks at what classes are called with."""

    dispatch = dict(pickle._Unpickler.dispatch)  # noqa: RUF012 -- as in the class that it is of


def _watched(operation: bytes, parts: int) -> None:
    load = pickle._Unpickler.dispatch[operation[0]]

    def watch(self: Any) -> None:
        called, *arguments = self.stack[-parts:]
        _check_call(called, arguments)
        load(self)

    _WatchingUnpickler.dispatch[operation[0]] = watch


_watched(pickle.REDUCE, 2)
_watched(pickle.NEWOBJ, 2)
_watched(pickle.NEWOBJ_EX, 3)


def _check_call(called: Any, arguments: list[Any]) -> None:
    values = [value for group in arguments for value in (group.values() if isinstance(group, dict) else group)]
    types = [one for one in (called, *values) if isinstance(one, type)]
    if (
        any(isinstance(value, range) for value in values)
        or (any(issubclass(one, bytearray) for one in types) and any(type(value) is int for value in values))
        or (any(issubclass(one, Fraction) for one in types) and any(_has_exponent(value) for value in values))
    ):
        raise MalformedError(f"the heap calls {called!r:.80} with what no heap has: {values!r:.80}")


def _has_exponent(value: object) -> bool:
    return isinstance(value, str) and "e" in value.lower()


_COSTLY_NAMES: Final = (b"range", b"bytearray", b"Fraction")

_RUN: Final = re.compile(rb"(?s:[\x94}\])(NRbtaesu0.1\x81\x85-\x89\x8f-\x93]|[\x80hK].|M..|[jJ].{4}|[G\x95].{8})*+")
"""Operations of protocol 5 whose length is known; their arguments with them."""
_COUNTED: Final = {
    **dict.fromkeys((pickle.SHORT_BINUNICODE, pickle.SHORT_BINBYTES, pickle.LONG1), 1),
    **dict.fromkeys((pickle.BINUNICODE, pickle.BINBYTES, pickle.LONG4), 4),
    **dict.fromkeys((pickle.BINUNICODE8, pickle.BINBYTES8, pickle.BYTEARRAY8), 8),
}
"""Those that are followed by so many bytes of a length and by what has it."""


def _check_operations(data: bytes) -> None:
    at, end = 0, len(data)
    while at < end:
        found = _RUN.match(data, at)
        at = found.end() if found is not None else at
        if at == end:
            return
        width = _COUNTED.get(data[at : at + 1])
        if width is None:
            raise MalformedError(f"the heap has operation {data[at]:#x} at {at:#x}, which is not written there")
        at += 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "little")
    if at > end:
        raise MalformedError(f"the heap ends at {end:#x}, within what is {at - end} bytes longer")


def pickled(attributes: dict[str, Any], module: Classes) -> bytes:
    """Attributes as bytes.

    Raises:
        TypeError: one of them cannot be kept.
    """
    file = io.BytesIO()
    try:
        _Pickler(file, module).dump(attributes)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(f"an attribute cannot be kept between messages: {error}") from error
    return file.getvalue()


def unpickled(data: bytes, module: Classes, *, is_own: bool) -> dict[str, Any]:
    """The attributes that `pickled` has written.

    Args:
        data: the bytes.
        module: whose they are.
        is_own: whether this process has read or written them before.

    Raises:
        MalformedError: they are none, or of classes that are not the canister's.
    """
    if not is_own:
        _check_operations(data)
    is_costly = not is_own and any(name in data for name in _COSTLY_NAMES)
    reader = (_WatchingUnpickler if is_costly else _Unpickler)(io.BytesIO(data))
    reader.module = module
    try:
        attributes = reader.load()
    except MalformedError:
        raise
    except BaseException as error:
        if is_interruption(error):
            raise
        raise MalformedError(f"the heap of a Python canister does not read: {error}") from error
    if not isinstance(attributes, dict):
        raise MalformedError(f"the heap holds {type(attributes).__name__}, expected the attributes of an object")
    return attributes
