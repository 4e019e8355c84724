"""A format for a class: ``Annotated[User, kept_as("flatbuffers")]``, in a structure or as a column."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from functools import partial
from importlib import import_module
from typing import Any, Final, final

from perdure.errors import MalformedError
from perdure.values.format import Format, Value, as_format
from perdure.values.plain import LittleEndian

__all__ = ["Declared", "KeptAs", "kept_as"]

_FAMILIES: Final[Mapping[str, str]] = {
    "cbor": "cbor:CborArray",
    "flatbuffers": "flatbuffers:Flatbuffers",
    "json": "named:JsonObject",
    "protobuf": "protobuf:ProtobufParts",
    "struct": "composed:Struct",
}
"""Module and class by the name that a declaration gives; Candid is what a class is kept as without one."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class KeptAs:
    """What `kept_as` has said."""

    family: str

    def format(self, owner: type[Any], hints: Mapping[str, Any], storable: Callable[[Any], Value]) -> Format:
        """The format of a dataclass, a part for each of its fields, in their order.

        Args:
            owner: the dataclass.
            hints: its annotations.
            storable: gives the type of an annotation.

        Raises:
            TypeError: it is no dataclass, or a field has no form in the format.
        """
        if not dataclasses.is_dataclass(owner):
            raise TypeError(f"kept_as({self.family!r}) is for a dataclass, found {owner!r}")
        module, _, name = _FAMILIES[self.family].partition(":")
        parts = {one.name: as_format(storable(hints[one.name])) for one in dataclasses.fields(owner)}
        if self.family == "struct":  # as C and Rust have them in memory
            parts = {label: _little(one) for label, one in parts.items()}
        written = ", ".join(f"{label}: {one.name}" for label, one in parts.items())
        try:
            inner = getattr(import_module(f"perdure.values.{module}"), name)(f"{self.family}({written})", parts)
        except ValueError as error:
            raise TypeError(f"{owner.__name__}: {error}") from error
        return Declared(inner, owner, {label for label, one in parts.items() if one.kind.name == "option"})


def kept_as(family: str) -> KeptAs:
    """More about a dataclass in an annotation: what its values are kept as, instead of Candid.

        users: StableBTreeMap[nat64, Annotated[User, kept_as("flatbuffers")]]

    Args:
        family: ``flatbuffers``, ``struct``, ``protobuf``, ``json``, ``cbor``.

    Raises:
        ValueError: something else.
    """
    if family not in _FAMILIES:
        raise ValueError(f"a class is kept as {', '.join(_FAMILIES)}, or as Candid without more; found {family!r}")
    return KeptAs(family)


def _little(one: Format) -> Format:
    is_wide = one.kind.name in ("integer", "float") and one.kind.bits > 8
    return LittleEndian(f"{one.name}le") if is_wide and not one.name.endswith("le") else one


def _same(value: Value) -> Value:
    return value


@final
class Declared(Format):
    """Values of a class in a format of its parts. What is not there in older bytes has the default of its field.

    Args:
        inner: the format.
        owner: the class.
        optional: fields that may be null, which is then what they are.
    """

    def __init__(self, inner: Format, owner: type[Any], optional: Collection[str] = ()) -> None:
        self.name = inner.name
        self.kind = inner.kind
        self.max_size, self.is_fixed = inner.max_size, inner.is_fixed
        self.order, self.is_ordered = inner.order, inner.is_ordered
        self.fields, self.parts, self.reads_fields = inner.fields, inner.parts, inner.reads_fields
        self.inner = inner
        self._owner = owner
        self._defaults: dict[str, Callable[[], Value]] = {}
        for one in dataclasses.fields(owner):
            if one.name in optional:
                continue
            if one.default_factory is not dataclasses.MISSING:
                self._defaults[one.name] = one.default_factory
            elif one.default is not dataclasses.MISSING:
                self._defaults[one.name] = partial(_same, one.default)

    def decode(self, data: bytes) -> Value:
        """An object of the class."""
        found = self.inner.decode(data)
        for label, value in found.items():
            if value is None and label in self._defaults:
                found[label] = self._defaults[label]()
        try:
            return self._owner(**found)
        except (TypeError, ValueError) as error:  # of a class that checks what it is made of
            raise MalformedError(f"no {self._owner.__name__}: {error}") from error

    def encode(self, value: object) -> bytes:
        """The bytes of an object of the class, or of a mapping of its fields."""
        if isinstance(value, self._owner):
            value = {label: getattr(value, label) for label in self.fields}
        elif not isinstance(value, dict):
            raise ValueError(f"expected {self._owner.__name__}, found {value!r:.80}")
        return self.inner.encode(value)

    def field(self, data: bytes, label: str) -> Value:
        """One field, as the format finds it."""
        found = self.inner.field(data, label)
        return self._defaults[label]() if found is None and label in self._defaults else found

    @property
    def collation(self) -> str:
        """That of the format."""
        return self.inner.collation
