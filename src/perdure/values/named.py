"""Values of declared parts, by name: what JSON objects, Protobuf messages and flatbuffers of them have in common."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from reprlib import repr as brief
from typing import Any, ClassVar, Final, Self, final

from perdure.errors import MalformedError
from perdure.stable.kind import Kind, option
from perdure.stable.types import Option
from perdure.values.format import Format, StorableFormat, Value, as_format
from perdure.values.packed import named_parts

__all__ = ["JsonObject", "Named", "Slot"]


_EXACT: Final[Mapping[str, type]] = {"integer": int, "text": str, "bool": bool, "f64": float}
"""Kinds whose values of this type stay as they are."""


_IN_JSON: Final = ("integer", "float", "text", "bool", "principal")


@final
class Slot:
    """One declared part.

    Attributes:
        label: its name.
        format: of its values; what is in ``Option<...>`` where it is one.
        is_optional: whether it may be missing.
        kind: the word for it in the table of a format: that of its kind, with the width of numbers.
    """

    __slots__ = ("_exact", "_range", "format", "is_optional", "kind", "label")

    def __init__(self, label: str, source: Format) -> None:
        inner = source.storable if isinstance(source, StorableFormat) else None
        self.label = label
        self.is_optional = isinstance(inner, Option)
        self.format = as_format(inner.inner) if isinstance(inner, Option) else source
        kind = self.format.kind
        sign = {"integer": "i" if kind.is_signed else "u", "float": "f"}.get(kind.name)
        self.kind = f"{sign}{kind.bits}" if sign else kind.name
        self._exact = _EXACT.get(self.kind if kind.name == "float" else kind.name)
        self._range: range | None = None
        if kind.name == "integer":
            half = 1 << max(kind.bits - 1, 0)
            self._range = range(-half, half) if kind.is_signed else range(1 << kind.bits)

    def checked(self, value: Value) -> Value:
        """A value as its format decodes it; null where the part may be missing.

        Raises:
            ValueError: it is none of the part.
        """
        if value is None:
            if self.is_optional:
                return None
            raise ValueError(f"part {self.label!r} is never null")
        if type(value) is self._exact and (self._range is None or value in self._range):
            return value
        return self.format.decode(self.format.encode(value))


class Named(Format):
    """A value of named parts, each a column. A part that is not there is read as null, or as its format says."""

    family: ClassVar[str]
    """The name before the parentheses."""

    def __init__(self, name: str, inner: Mapping[str, Format]) -> None:
        if not inner:
            raise ValueError(f"{name!r}: at least one part is needed, written NAME: TYPE")
        self.name = name
        self.fields = tuple(inner)
        self.inner = dict(inner)
        self.slots = tuple(Slot(label, one) for label, one in inner.items())
        self._places = {one.label: index for index, one in enumerate(self.slots)}
        self.kind = Kind("record", labels=self.fields, parts=tuple(option(one.format.kind) for one in self.slots))

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``FAMILY(NAME: TYPE, ...)``."""
        return cls(name, named_parts(name, arguments or [], inner))

    @classmethod
    def of(cls, inner: Mapping[str, Format]) -> Self:
        """Of parts, by their names."""
        return cls(f"{cls.family}({', '.join(f'{label}: {one.name}' for label, one in inner.items())})", inner)

    def values_of(self, value: object) -> Sequence[Value]:
        """The values of an object of the parts, in their order.

        Raises:
            ValueError: other parts, or what is no object.
        """
        if not isinstance(value, dict):
            raise ValueError(f"a {self.family} value is an object of {', '.join(self.fields)}, found {brief(value)}")
        unknown = [name for name in value if name not in self._places]
        missing = [one.label for one in self.slots if one.label not in value and not one.is_optional]
        if unknown or missing:
            raise ValueError(
                f"a {self.family} value has {', '.join(self.fields)}; "
                f"{'unknown: ' + ', '.join(map(str, unknown)) if unknown else 'missing: ' + ', '.join(missing)}"
            )
        return [value.get(label) for label in self.fields]

    @abstractmethod
    def decode(self, data: bytes) -> dict[str, Value]:
        """All parts by name."""


@final
class JsonObject(Named):
    """``json(NAME: TYPE, ...)``: a JSON object; principals as their text, what JSON has no form for in hexadecimal."""

    family = "json"

    def decode(self, data: bytes) -> dict[str, Value]:
        """The parts by name; others are not looked at."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"no JSON: {error}") from error
        if not isinstance(found, dict):
            raise MalformedError(f"a JSON object expected, found {brief(found)}")
        return {one.label: self._read(one, found.get(one.label)) for one in self.slots}

    def _read(self, slot: Slot, found: Value) -> Value:
        if found is None:
            return None
        try:
            if slot.format.kind.name in _IN_JSON:
                return slot.checked(found)
            return slot.format.decode(bytes.fromhex(found))
        except (TypeError, ValueError) as error:
            raise MalformedError(f"part {slot.label!r} holds {slot.format.name}, found {brief(found)}") from error

    def encode(self, value: object) -> bytes:
        """The object without blanks."""
        out: dict[str, Any] = {}
        for slot, one in zip(self.slots, self.values_of(value), strict=True):
            checked = slot.checked(one)
            if checked is None:
                continue
            if slot.kind == "principal":
                out[slot.label] = str(checked)
            elif slot.format.kind.name in _IN_JSON:
                out[slot.label] = checked
            else:
                out[slot.label] = slot.format.encode(checked).hex()
        return json.dumps(out, separators=(",", ":"), ensure_ascii=False).encode()
