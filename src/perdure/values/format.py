"""The protocol of all formats, with what most of them have in common."""

from __future__ import annotations

import json
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias, final

from perdure.errors import MalformedError, PerdureError
from perdure.ic.principal import Principal
from perdure.stable import types
from perdure.stable.kind import DOCUMENT, Kind, kind_of
from perdure.stable.types import Order, StorableType

if TYPE_CHECKING:
    from perdure.stable.columns import Column

__all__ = ["Format", "StorableFormat", "Value", "as_format", "decode_as", "from_hex", "parts_of"]

Value: TypeAlias = Any
"""What bytes of a format mean."""


_PARTS: Final = ("integer", "float", "text", "bool", "bytes")
"""Kinds that packed tuples and CBOR arrays have themselves."""


class Format(ABC):
    """A way to read and write values.

    It is a `StorableType`, so that structures take it as it is. Two methods and a name are enough for one of your own:

    >>> class Celsius(Format):
    ...     name = "celsius"
    ...     kind = Kind("float", 64)
    ...     def decode(self, data): return int.from_bytes(data, "big", signed=True) / 10
    ...     def encode(self, value): return round(value * 10).to_bytes(2, "big", signed=True)
    >>> from perdure.values import MemorySchema, parse_schema
    >>> by_name = parse_schema('memories: {3: {kind: vec, value: celsius}}', formats=[Celsius()])
    >>> by_object = MemorySchema("3", kind="vec", value=Celsius())

    Attributes:
        name: as written in ``stable.yaml``; `codec(name)` gives an equal one.
        kind: what the values are.
        max_size: bound of the bytes, ``None`` where there is none.
        is_fixed: whether each value takes exactly `max_size`.
        order: order of encoded keys; ``None`` where bytes compare right.
        is_ordered: whether that is known to be the program's order.
        collation: `order` in a word that arithmetic on bytes can follow: ``bytes``, ``size`` (shorter first),
            ``little``, ``signed``, ``little-signed``; else ``other``.
        sql_ordered: whether SQLite orders what `to_sql` gives as `order` does.
        stored_as: what the bytes are as they stand: a NumPy type, ``utf-8``, ``bytes``; ``None``: they must be decoded.
        fields: names of the columns that a value takes, where it takes several.
        has_column_names: whether `fields` of a key are columns of the whole row, and not only of a key.
        reads_fields: whether `field` finds one without decoding the others.
        parts: their formats, where the bytes are those of the parts one after the other.
    """

    name: str = ""
    kind: Kind = DOCUMENT
    max_size: int | None = None
    is_fixed: bool = False
    order: Order | None = None
    is_ordered: bool = False
    sql_ordered: bool = False
    stored_as: str | None = None
    fields: tuple[str, ...] = ()
    has_column_names: bool = False
    reads_fields: bool = False
    parts: tuple[Format, ...] = ()

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """The format of a name in ``stable.yaml``; most take no arguments.

        Args:
            name: all of it.
            arguments: what stands in its parentheses, if it has any.
            inner: the format of an argument.

        Raises:
            ValueError: arguments that it does not take.
        """
        if arguments is not None:
            raise ValueError(f"{name.partition('(')[0]} takes nothing in parentheses, found {name!r}")
        return cls()

    @abstractmethod
    def decode(self, data: bytes) -> Value:
        """The value; `MalformedError` where it is none."""

    @abstractmethod
    def encode(self, value: object) -> bytes:
        """The bytes of a value, also of one from JSON or SQL; `ValueError` where there are none."""

    def field(self, data: bytes, label: str) -> Value:
        """One of `fields`; formats that find it without decoding the others do.

        Raises:
            MalformedError: it does not decode.
            KeyError: there is no such field.
        """
        return self.decode(data)[label]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Format) and type(self) is type(other) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<format {self.name}>"

    @property
    def collation(self) -> str:
        """See the class."""
        return "bytes" if self.order is None else "other"

    @property
    def fixed_bytes(self) -> int | None:
        """Width, where every value has the same."""
        return self.max_size if self.is_fixed else None

    def from_text(self, text: str) -> bytes:
        """The bytes of what a person wrote: a number, a text, a principal, hexadecimal, else JSON.

        Raises:
            ValueError: that is none.
        """
        if self.kind.name == "text":
            return self.encode(text)
        if self.kind.name == "principal":
            return self.encode(text)
        if self.kind.name == "integer":
            return self.encode(int(text, 0))
        try:
            value = json.loads(text)
        except ValueError:
            value = from_hex(text)
        return self.encode(value)

    def from_sql(self, value: object) -> bytes:
        """The bytes of a value as `to_sql` shows it.

        Raises:
            ValueError: no bytes decode to it.
        """
        if isinstance(value, str):
            is_wide = self.kind.name == "integer" and value.removeprefix("-").isdecimal()
            return self.encode(int(value)) if is_wide else self.from_text(value)
        if isinstance(value, bytes) != (self.kind.name == "bytes"):
            raise ValueError(f"a {self.name} is {'' if self.kind.name == 'bytes' else 'not '}shown as a blob")
        return self.encode(value)

    @property
    def is_part(self) -> bool:
        """Whether packed tuples and CBOR arrays have its values themselves, and not as encoded bytes."""
        return self.kind.name in _PARTS

    def to_part(self, value: Value) -> Value:
        """A value as a packed tuple or a CBOR array has it; null may stand in place of any.

        Raises:
            ValueError: it is none of the format.
        """
        if value is None:
            return None
        encoded = self.encode(value)  # checks type and range
        return self.decode(encoded) if self.is_part else encoded

    def from_part(self, part: Value) -> Value:
        """The inverse of `to_part`.

        Raises:
            MalformedError: it is none of the format.
        """
        if part is None or self.is_part:
            return part
        if not isinstance(part, bytes):
            raise MalformedError(f"a {self.name} is kept as its bytes, found {part!r:.80}")
        return self.decode(part)

    def is_valid(self, data: bytes) -> bool:
        """Whether `data` decodes."""
        try:
            self.decode(data)
        except PerdureError:
            return False
        return True

    def named(self, labels: Mapping[int, str]) -> Format:
        """The same, with names for fields that the bytes only number."""
        return self

    def fitted_to(self, column: Column) -> Format:
        """`fitted` to a whole column."""
        return self.fitted(column.raws())

    def to_arrow(self, column: Column) -> Value:
        """A column of encoded values as an Arrow array of `kind`, where that goes without decoding one by one.

        Returns:
            ``None`` where it does not; then `decode` is asked for each.

        Raises:
            MalformedError: something does not decode; then `decode` is asked for each, too.
        """
        return None

    def to_sql_column(self, column: Column) -> list[Value] | None:
        """The same as `to_sql` shows the values."""
        stored_as = self.stored_as
        if stored_as is None:
            return None
        try:
            whole = column.of(self)
            if stored_as == "bytes":
                return list(whole.raws())
            if stored_as == "utf-8":
                return [str(data, "utf-8") for data in whole.raws()]
        except (MalformedError, UnicodeDecodeError):
            return None
        numbers: list[Value] = whole.to_numpy().tolist()
        is_wide = stored_as[1:] == "u8" and len(numbers) and max(numbers) >= 1 << 63  # which SQLite has as text
        return None if is_wide else numbers

    def fitted(self, values: Iterable[bytes]) -> Format:
        """The same, with the kind that `values` themselves tell, where they do."""
        return self


@final
class StorableFormat(Format):
    """A type of a stable structure as a format."""

    _SQL_ORDERED: ClassVar[tuple[str, ...]] = ("integer", "float", "text", "bool", "bytes")

    def __init__(self, storable: StorableType[Value], name: str | None = None) -> None:
        self.storable = storable
        self.name = name or storable.name
        self.kind = kind_of(storable)
        self.max_size = storable.max_size
        self.is_fixed = storable.is_fixed
        self.order = storable.order
        self.is_ordered = True
        self.stored_as = getattr(storable, "stored_as", None)
        is_reversed = isinstance(storable, types.Reverse)
        is_wide = self.kind.name == "integer" and self.kind.bits > 64 and self.kind.is_signed
        self.sql_ordered = self.kind.name in self._SQL_ORDERED and not is_reversed and not is_wide

    @property
    def collation(self) -> str:
        """That of the type."""
        found = getattr(self.storable, "collation", None)
        return found if isinstance(found, str) else super().collation

    def decode(self, data: bytes) -> Value:
        """The value."""
        return self.storable.decode(data)

    def encode(self, value: object) -> bytes:
        """The bytes, within the type's bound."""
        try:
            return types.encode_checked(self.storable, _revived(self.kind, self.name, value))
        except (TypeError, AttributeError, KeyError, struct.error) as error:
            raise ValueError(f"{value!r} is no {self.name}") from error


def from_hex(text: str) -> bytes:
    """The bytes that a person wrote in hexadecimal.

    Raises:
        ValueError: it is none.
    """
    try:
        return bytes.fromhex(text.removeprefix("0x"))
    except ValueError as error:
        raise ValueError("expected hexadecimal, two digits for each byte") from error


def as_format(found: Format | StorableType[Value]) -> Format:
    """A format out of what somebody passed: itself, or a type of a stable structure."""
    return found if isinstance(found, Format) else StorableFormat(found)


def decode_as(source: Format, data: bytes) -> Value:
    """The value; the bytes themselves where they do not decode."""
    try:
        return source.decode(data)
    except MalformedError:
        return data


def parts_of(source: Format, value: object) -> tuple[Value, ...]:
    """A value in the columns that its format has; one that has not decoded in the first of them."""
    if not source.fields:
        return (value,)
    if not isinstance(value, dict):
        return (value, *[None] * (len(source.fields) - 1))
    return tuple(value.get(name) for name in source.fields)


def _revived(kind: Kind, name: str, value: object) -> Value:
    """A value from JSON or SQL as the type wants it."""
    if kind.name == "principal" and isinstance(value, str):
        try:
            return Principal.from_text(value)
        except MalformedError as error:
            raise ValueError(str(error)) from error
    if kind.name == "bool" and value in (0, 1):
        return bool(value)
    if kind.name == "bytes":
        if isinstance(value, int):
            raise ValueError(f"{value!r} is no {name}")
        return bytes.fromhex(value) if isinstance(value, str) else value
    if kind.name == "tuple" and isinstance(value, list):
        return tuple(_revived(part, name, item) for part, item in zip(kind.parts, value, strict=True))
    if kind.name == "option" and value is not None:
        return _revived(kind.parts[0], name, value)
    is_number = kind.name == "integer" and not kind.is_signed
    if is_number and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{value!r} is no {name}")
    return value
