"""The attributes of a canister in Python as bytes: what its heap holds.

A heap may come from anywhere, a snapshot that somebody sent among others. So what is read are plain values and the
canister's own classes, by name, and nothing else is called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any, Final, Protocol

from perdure.errors import InternalError, MalformedError
from perdure.python.identity import name_of

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


class _Unpickler(pickle.Unpickler):
    """Reads plain values and the canister's own classes. A heap may come from anywhere, so nothing else is called."""

    def __init__(self, data: bytes, module: Classes) -> None:
        super().__init__(io.BytesIO(data))
        self._module = module

    def find_class(self, module_name: str, name: str, /) -> Any:
        """A class that may be in a heap."""
        if (module_name, name) in _CLASS_NAMED:
            return self._module.class_named
        if (module_name, name) in _PLAIN_CLASSES:
            return super().find_class(module_name, name)
        raise MalformedError(f"the heap names {module_name}.{name}, which is not the canister's")

    def load(self) -> dict[str, Any]:
        """The attributes."""
        try:
            attributes = super().load()
        except MalformedError:
            raise
        except Exception as error:
            raise MalformedError(f"the heap of a Python canister does not read: {error}") from error
        if not isinstance(attributes, dict):
            raise MalformedError(f"the heap holds {type(attributes).__name__}, expected the attributes of an object")
        return attributes


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


def unpickled(data: bytes, module: Classes) -> dict[str, Any]:
    """The attributes that `pickled` has written.

    Raises:
        MalformedError: they are none, or of classes that are not the canister's.
    """
    return _Unpickler(data, module).load()
