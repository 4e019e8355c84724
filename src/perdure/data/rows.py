"""Columns as Python handles them: what goes into keys and arrays, and back, without a look at the type each time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from reprlib import repr as brief
from types import UnionType
from typing import Any, Final, Generic, TypeAlias, TypeVar, Union, cast, final, get_args, get_origin

from perdure.data.catalogue import Column, Model
from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.stable.kind import Kind
from perdure.values.annotations import Annotations
from perdure.values.format import Format, Value, as_format
from perdure.values.packed import Anything, Uri, UriFormat

__all__ = ["Cells", "RowType", "columns_of", "format_of", "from_sql"]

R = TypeVar("R")
Convert: TypeAlias = Callable[[Value], Value]

MAX_NESTING: Final = 64
"""Lists and mappings in one another, in a document or a column of any type."""


@final
@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """How values of one column go in and out.

    Attributes:
        column: the column.
        format: of its values.
        to_plain: to what a tuple or CBOR has; `ValueError` for what is no value of the column.
        from_plain: back; `MalformedError` for what is none.
    """

    column: Column
    format: Format
    to_plain: Convert
    from_plain: Convert

    @classmethod
    def of(cls, column: Column, own: Format) -> Cells:
        """By its type."""
        to_plain, from_plain = _conversions(own)
        name, is_optional = column.name, column.is_optional or column.state == "unused"

        def put(value: Value) -> Value:
            if value is None:
                if is_optional:
                    return None
                raise ValueError(f"column {name!r} is never null")
            try:
                return to_plain(value)
            except (TypeError, ValueError, AttributeError, KeyError, OverflowError) as error:
                raise ValueError(f"column {name!r} holds {own.name}, found {brief(value)}: {error}") from error

        def get(plain: Value) -> Value:
            return None if plain is None else from_plain(plain)

        return cls(column, own, put, get)


def _conversions(own: Format) -> tuple[Convert, Convert]:
    if isinstance(own, Anything):
        return _checked_document, _same
    if isinstance(own, UriFormat):
        return own.to_part, own.from_part
    kind = own.kind
    if own.is_part:
        return _PLAIN[kind.name](kind), _same
    if kind.name == "principal":
        return _principal, Principal

    def decode(plain: Value) -> Value:
        if not isinstance(plain, bytes):
            raise MalformedError(f"a {own.name} is kept as its bytes, found {brief(plain)}")
        return own.decode(plain)

    return own.encode, decode


def _same(value: object) -> Value:
    return value


def _integer(kind: Kind) -> Convert:
    bits = kind.bits
    low = -(1 << 2_039) if kind.is_signed or not bits else 0
    high = (1 << 2_040) - 1
    if bits:
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if kind.is_signed else (0, (1 << bits) - 1)

    def check(value: Value) -> Value:
        if type(value) is not int and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError("no integer")
        if not low <= value <= high:
            raise ValueError(f"out of range, expected {low} to {high}" if bits else "more than 255 bytes")
        return int(value)

    return check


def _float(kind: Kind) -> Convert:
    def check(value: Value) -> Value:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError("no number")
        found = float(value)
        if math.isnan(found):
            raise ValueError("not a number, which has no place in an order")
        return found

    return check


def _instance(kind: type) -> Callable[[Kind], Convert]:
    def check(value: Value) -> Value:
        if not isinstance(value, kind):
            raise ValueError(f"no {kind.__name__}")
        return value

    return lambda _: check


def _text(_: Kind) -> Convert:
    def check(value: Value) -> Value:
        if not isinstance(value, str):
            raise ValueError("no text")
        value.encode()  # lone surrogates have no UTF-8
        return value

    return check


def _bytes(_: Kind) -> Convert:
    def check(value: Value) -> Value:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise ValueError("no bytes")
        return bytes(value)

    return check


_PLAIN: Final[Mapping[str, Callable[[Kind], Convert]]] = {
    "integer": _integer,
    "float": _float,
    "text": _text,
    "bool": _instance(bool),
    "bytes": _bytes,
}


def _principal(value: Value) -> bytes:
    if not isinstance(value, Principal):
        value = Principal.from_text(value)
    return bytes(value)


def _checked_document(value: Value) -> Value:
    """A value of lists, mappings by text, and what has no parts.

    Raises:
        ValueError: it has something else in it, or nests too deep.
    """
    pending = [(value, 0)]
    while pending:
        one, nesting = pending.pop()
        if nesting > MAX_NESTING:
            raise ValueError(f"more than {MAX_NESTING} lists and mappings in one another")
        if isinstance(one, dict):
            if not all(isinstance(key, str) for key in one):
                raise ValueError("a mapping whose keys are not all text")
            pending += [(part, nesting + 1) for part in one.values()]
        elif isinstance(one, list | tuple):
            pending += [(part, nesting + 1) for part in one]
        elif one is not None and not isinstance(one, str | int | float | bytes):
            raise ValueError(f"{type(one).__name__} has no place in it")
    return value


# -- values of SQL


def from_sql(cell: Cells, value: Value) -> Value:
    """A value of SQL as it is packed.

    Raises:
        ValueError: it is none of the column.
    """
    if value is None:
        return cell.to_plain(None)
    own = cell.format
    if isinstance(own, Anything | UriFormat):
        return cell.to_plain(value)
    convert = _FROM_SQL.get(own.kind.name)
    if convert is not None:
        return cell.to_plain(convert(value))
    return own.from_sql(value)  # the bytes of the format, which is what is kept


def _integer_of(value: Value) -> Value:
    return int(value) if isinstance(value, str) and value.removeprefix("-").isdecimal() else value


def _boolean(value: Value) -> Value:
    return bool(value) if value in (0, 1) else value


_FROM_SQL: Final[Mapping[str, Callable[[Value], Value]]] = {
    "integer": _integer_of,
    "bool": _boolean,
    "float": lambda value: value,
    "text": lambda value: value,
    "bytes": lambda value: value,
    "principal": lambda value: Principal.from_text(value) if isinstance(value, str) else value,
}


# -- rows as objects


@final
class RowType(Generic[R]):
    """Rows as objects of a dataclass, or as dictionaries where there is none.

    Args:
        model: whose columns they have.
        owner: the dataclass.
    """

    def __init__(self, model: Model, owner: type[R] | None, formats: Mapping[str, Format] | None = None) -> None:
        own = formats or {}
        self.cells = [
            Cells.of(column, own[column.name] if _is_named(column) and column.name in own else model.format(index))
            for index, column in enumerate(model.columns)
        ]
        self.owner = owner
        self._shown = [index for index, column in enumerate(model.columns) if _is_named(column)]
        self.names = tuple(model.columns[index].name for index in self._shown)
        self._values = attrgetter(*self.names) if len(self.names) > 1 else None
        self._count = len(model.columns)

    def plain(self, row: R) -> list[Value]:
        """The columns of a row, in the order of the model, as tuples and CBOR have them.

        Raises:
            ValueError: it is no row of the model, or a value is none of its column.
        """
        values = self._values_of(row)
        out: list[Value] = [None] * self._count
        cells = self.cells
        for index, value in zip(self._shown, values, strict=True):
            out[index] = cells[index].to_plain(value)
        return out

    def _values_of(self, row: Value) -> Sequence[Value]:
        if isinstance(row, dict):
            unknown = [name for name in row if name not in self.names]
            missing = [cell.column for cell in (self.cells[one] for one in self._shown) if cell.column.name not in row]
            wanted = [one.name for one in missing if not one.is_optional and one.default is None]
            if unknown or wanted:
                raise ValueError(
                    f"a row has {', '.join(self.names)}; {_listed('unknown', unknown)}{_listed('missing', wanted)}"
                )
            defaults = {one.name: one.default for one in missing}
            return [row[name] if name in row else defaults[name] for name in self.names]
        if self.owner is not None and not isinstance(row, self.owner):
            raise ValueError(f"a row is a {self.owner.__name__} or a dict, found {brief(row)}")
        try:
            return self._values(row) if self._values is not None else (getattr(row, self.names[0]),)
        except AttributeError as error:
            raise ValueError(f"a row has {', '.join(self.names)}: {error}") from error

    def fault(self, plain: Sequence[Value]) -> str:
        """What is wrong with the columns of a row by what their types say, in words; empty: nothing."""
        for index in self._shown:
            cell = self.cells[index]
            try:
                value = cell.from_plain(plain[index])
                if value is not None:  # of before a column could not be null
                    cell.to_plain(value)
            except (MalformedError, ValueError, TypeError) as error:
                return f"a value is none of its column: {error}"
        return ""

    def row(self, plain: Sequence[Value]) -> R:
        """A row of its columns."""
        cells = self.cells
        found = {
            name: cells[index].from_plain(plain[index]) for name, index in zip(self.names, self._shown, strict=True)
        }
        made: Any = self.owner(**found) if self.owner is not None else found
        return cast("R", made)


def _is_named(column: Column) -> bool:
    return column.state != "unused"


def _listed(what: str, names: list[str]) -> str:
    return f"{what}: {', '.join(map(str, names))} " if names else ""


def columns_of(owner: type, annotations: Annotations) -> tuple[list[Column], dict[str, Format]]:
    """The columns that a dataclass declares, with the formats that know its own classes.

    Raises:
        TypeError: it is no dataclass, or a field has no form in a column.
    """
    if not dataclasses.is_dataclass(owner):
        raise TypeError(f"rows are of a dataclass, found {owner!r}")
    hints = annotations.hints(owner)
    columns, formats = [], {}
    for one in dataclasses.fields(owner):
        annotation, is_optional = _without_null(hints[one.name])
        try:
            found = format_of(annotation, annotations)
        except TypeError as error:
            raise TypeError(f"column {one.name!r} of {owner.__name__}: {error}") from error
        default = one.default if one.default is not dataclasses.MISSING else None
        column = Column(one.name, found.name, is_optional)
        plain = None if default is None else Cells.of(column, found).to_plain(default)
        columns.append(dataclasses.replace(column, default=plain))
        formats[one.name] = found
    return columns, formats


def format_of(annotation: Any, annotations: Annotations) -> Format:
    """The format of a column's annotation.

    Raises:
        TypeError: it has none.
    """
    if annotation is Uri:
        return UriFormat()
    return Anything() if annotation is Any else as_format(annotations.storable(annotation))


def _without_null(annotation: Any) -> tuple[Any, bool]:
    arguments = get_args(annotation)
    rest = [one for one in arguments if one is not type(None)]
    if (
        get_origin(annotation) in (Union, UnionType)
        and len(rest) == len(arguments) - 1 == 1
        and type(None) in arguments
    ):
        return rest[0], True
    return annotation, False
