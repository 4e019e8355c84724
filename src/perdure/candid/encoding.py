"""Python values to binary values.

A type is compiled once into a closure ``write(value, out, meter)`` that appends to a bytearray. A value that is not of
the type raises :class:`Mismatch`, which collects the path to it on the way out; the codec turns it into ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from enum import Enum
from operator import index as as_index
from typing import Final, TypeAlias, final

from perdure.candid.deep import Meter
from perdure.candid.leb128 import write_leb, write_sleb
from perdure.candid.readers import FIXED
from perdure.candid.types import (
    Field,
    Func,
    Nat,
    Nat8,
    Opt,
    Prim,
    Record,
    Service,
    Some,
    Text,
    Type,
    Value,
    Variant,
    Vec,
    field_hash,
    is_nullable,
    resolve,
)
from perdure.errors import MalformedError
from perdure.ic.principal import Principal

__all__ = ["Mismatch", "Writer", "compile_writers"]

Writer: TypeAlias = Callable[[Value, bytearray, Meter], None]

#: Frames of closures on each other without a depth check between them, and types compiled ahead of their first use.
_UNCHECKED_FRAMES: Final = 24
_EAGER_LEVELS: Final = 12


@final
class Mismatch(Exception):  # noqa: N818  (never leaves the package)
    """A value that is not of its type.

    Args:
        message: what was found and expected.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
        self.path: list[str] = []

    def within(self, step: str) -> Mismatch:
        """Itself, one step further out."""
        self.path.append(step)
        return self

    def __str__(self) -> str:
        place = "".join(reversed(self.path)).removeprefix(".")
        return f"{place}: {self.message}" if place else self.message


@final
class _Cell:
    """A type and its closure, once there is one."""

    __slots__ = ("height", "type", "write")

    def __init__(self, type_: Type) -> None:
        self.type = type_
        self.write: Writer | None = None
        #: Frames that a call of it takes, up to the next depth check.
        self.height = _UNCHECKED_FRAMES


@final
class _Compiler:
    """One round of compiling; `cells`, by the identity of their types, outlive it."""

    def __init__(self, cells: dict[int, _Cell]) -> None:
        self._cells = cells
        self._heights = [0]

    def writer(self, type_: Type) -> Writer:
        """The closure for a type, behind a depth check where it is recursive or high."""
        found = resolve(type_)
        if isinstance(found, Prim):
            return _WRITE[found.name]
        cell = self._cells.get(id(found))
        if cell is None:
            cell = self._cells[id(found)] = _Cell(found)
            if len(self._heights) <= _EAGER_LEVELS:
                self.build(cell)
        if cell.write is not None and cell.height < _UNCHECKED_FRAMES:
            self._heights[-1] = max(self._heights[-1], cell.height)
            return cell.write
        return self._checked(cell)

    def _checked(self, cell: _Cell) -> Writer:
        cells = self._cells

        def checked(value: Value, out: bytearray, meter: Meter) -> None:
            write = cell.write or _Compiler(cells).build(cell)
            meter.enter(cell.height + 2, write, value, out, meter)

        return checked

    def build(self, cell: _Cell) -> Writer:
        """Make the closure of `cell`."""
        self._heights.append(0)
        write = self._compile(cell.type)
        cell.height = self._heights.pop() + 1
        cell.write = write
        return write

    def _compile(self, found: Type) -> Writer:
        match found:
            case Opt(content):
                return _opt(self.writer(content), is_nullable(content))
            case Vec(element):
                return self._vec(resolve(element))
            case Record(fields):
                writers = [self.writer(one.type) for one in fields]
                write = _record([(one.label, write) for one, write in zip(fields, writers, strict=True)], found)
                # A record calls itself once more where its keys are not the labels; a tuple may call the record.
                self._heights[-1] += 2
                return _tuple(writers, write) if found.is_tuple else write
            case Variant(fields):
                return _variant([(index, one, self.writer(one.type)) for index, one in enumerate(fields)])
            case Func():
                return _write_func
            case Service():
                return _write_principal
            case _:
                raise ValueError(f"values of type {found} cannot be encoded")

    def _vec(self, element: Type) -> Writer:
        if element is Nat8:
            return _write_blob
        if element is Nat:
            return _vec_of_nat
        if element is Text:
            return _vec_of_text
        if isinstance(element, Prim) and element.name in FIXED:
            return _vec_of_fixed(FIXED[element.name], _WRITE[element.name])
        return _vec(self.writer(element))


def compile_writers(types: Iterable[Type]) -> list[Writer]:
    """One closure for each of `types`.

    Raises:
        ValueError: a name without a definition, or a future type.
    """
    compiler = _Compiler({})
    return [compiler.writer(one) for one in types]


# Primitives


def _found(value: Value) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"


def _integer(value: Value, name: str) -> int:
    try:
        return as_index(value)
    except TypeError:
        raise Mismatch(f"expected {name}, found {_found(value)}") from None


def _write_nat(value: Value, out: bytearray, _meter: Meter) -> None:
    if type(value) is not int:
        value = _integer(value, "nat")
    if value < 0:
        raise Mismatch(f"expected nat, found {_found(value)}")
    if value < 128:
        out.append(value)
    elif value < 16384:
        out.append(value & 127 | 128)
        out.append(value >> 7)
    else:
        write_leb(value, out)


def _write_int(value: Value, out: bytearray, _meter: Meter) -> None:
    if type(value) is not int:
        value = _integer(value, "int")
    if -64 <= value < 64:
        out.append(value & 127)
    else:
        write_sleb(value, out)


def _fixed(name: str, code: str) -> Writer:
    pack = struct.Struct("<" + code).pack

    def write(value: Value, out: bytearray, _meter: Meter) -> None:
        try:
            out += pack(value)
        except (struct.error, OverflowError):
            raise Mismatch(f"expected {name}, found {_found(value)}") from None

    return write


def _write_bool(value: Value, out: bytearray, _meter: Meter) -> None:
    if value is True:
        out.append(1)
    elif value is False:
        out.append(0)
    elif type(value).__name__ in ("bool_", "bool"):  # numpy's
        out.append(int(value))
    else:
        raise Mismatch(f"expected bool, found {_found(value)}")


def _write_text(value: Value, out: bytearray, _meter: Meter) -> None:
    try:
        raw = value.encode()
    except (AttributeError, UnicodeEncodeError):
        raise Mismatch(f"expected text, found {_found(value)}") from None
    size = len(raw)
    if size < 128:
        out.append(size)
    else:
        write_leb(size, out)
    out += raw


def _write_null(value: Value, _out: bytearray, _meter: Meter) -> None:
    if value is not None:
        raise Mismatch(f"expected null (None), found {_found(value)}")


def _write_reserved(_value: Value, _out: bytearray, _meter: Meter) -> None:
    pass


def _write_empty(value: Value, _out: bytearray, _meter: Meter) -> None:
    raise Mismatch(f"type empty has no values, found {_found(value)}")


def _principal_bytes(value: Value) -> bytes:
    if isinstance(value, Principal):
        return value.raw_bytes
    if isinstance(value, str):
        try:
            return Principal.from_text(value).raw_bytes
        except MalformedError as error:
            raise Mismatch(error.message) from None
    raise Mismatch(f"expected principal, found {_found(value)}")


def _write_principal(value: Value, out: bytearray, _meter: Meter) -> None:
    raw = _principal_bytes(value)
    out.append(1)
    out.append(len(raw))
    out += raw


def _write_func(value: Value, out: bytearray, meter: Meter) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise Mismatch(f"expected func as (principal, method), found {_found(value)}")
    raw = _principal_bytes(value[0])
    out += bytes((1, 1, len(raw)))
    out += raw
    _write_text(value[1], out, meter)


_WRITE: Final[Mapping[str, Writer]] = {
    "null": _write_null,
    "reserved": _write_reserved,
    "empty": _write_empty,
    "bool": _write_bool,
    "nat": _write_nat,
    "int": _write_int,
    "text": _write_text,
    "principal": _write_principal,
    **{name: _fixed(name, code) for name, code in FIXED.items()},
}


# Composites


def _opt(write: Writer, nested: bool) -> Writer:
    def write_opt(value: Value, out: bytearray, meter: Meter) -> None:
        if value is None:
            out.append(0)
            return
        out.append(1)
        if type(value) is Some:
            value = value.value
        elif nested and value is None:
            raise Mismatch("expected None or Some(...)")
        write(value, out, meter)

    return write_opt


def _sized(value: Value, out: bytearray, name: str = "vec") -> Value:
    """Write the length of a vector; the vector, as something sized."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise Mismatch(f"expected {name}, found {_found(value)}")
    if not isinstance(value, (list, tuple)):
        value = list(value)
    write_leb(len(value), out)
    return value


def _vec(write: Writer) -> Writer:
    def write_vec(value: Value, out: bytearray, meter: Meter) -> None:
        position = 0
        try:
            for one in _sized(value, out):
                write(one, out, meter)
                position += 1
        except Mismatch as error:
            raise error.within(f"[{position}]") from None

    return write_vec


def _vec_of_fixed(code: str, write: Writer) -> Writer:
    def write_vec(value: Value, out: bytearray, meter: Meter) -> None:
        value = _sized(value, out)
        try:
            out += struct.pack(f"<{len(value)}{code}", *value)
        except (struct.error, OverflowError):
            for position, one in enumerate(value):
                try:
                    write(one, out, meter)
                except Mismatch as error:
                    raise error.within(f"[{position}]") from None
            raise

    return write_vec


def _vec_of_nat(value: Value, out: bytearray, meter: Meter) -> None:
    position = 0
    try:
        for one in _sized(value, out):
            if type(one) is int and 0 <= one < 128:
                out.append(one)
            else:
                _write_nat(one, out, meter)
            position += 1
    except Mismatch as error:
        raise error.within(f"[{position}]") from None


def _vec_of_text(value: Value, out: bytearray, meter: Meter) -> None:
    position = 0
    try:
        for one in _sized(value, out):
            _write_text(one, out, meter)
            position += 1
    except Mismatch as error:
        raise error.within(f"[{position}]") from None


def _write_blob(value: Value, out: bytearray, _meter: Meter) -> None:
    if not isinstance(value, (bytes, bytearray, memoryview)):
        if isinstance(value, (str, int)) or not isinstance(value, Iterable):
            raise Mismatch(f"expected blob (bytes), found {_found(value)}")
        try:
            value = bytes(value)
        except (TypeError, ValueError):
            raise Mismatch(f"expected blob (bytes), found {_found(value)}") from None
    write_leb(len(value), out)
    out += value


def _record(steps: list[tuple[str, Writer]], type_: Record) -> Writer:
    size = len(steps)

    def write_record(value: Value, out: bytearray, meter: Meter) -> None:
        if type(value) is not dict or len(value) != size:
            value = _as_fields(value, type_)
        start = len(out)
        label = None
        try:
            for label, write in steps:
                write(value[label], out, meter)
        except Mismatch as error:
            raise error.within(f".{label}") from None
        except KeyError:
            pass
        else:
            return
        del out[start:]
        write_record(_as_fields(value, type_), out, meter)

    return write_record


def _as_fields(value: Value, type_: Record) -> dict[str, Value]:
    """A record as a dict with exactly the labels of its type.

    Takes a mapping (keys: labels, ``_123_``, 123), a dataclass or named tuple, a tuple or list for fields 0, 1, 2, ...
    Nullable fields may be missing; keys that are no field are refused, as they would be lost without a word.
    """
    found = _items(value, type_, {one.label: one.id for one in type_.fields})
    result: dict[str, Value] = {}
    for one in type_.fields:
        if one.id in found:
            result[one.label] = found.pop(one.id)[1]
        elif is_nullable(one.type):
            result[one.label] = None
        else:
            raise Mismatch(f"field {one.label!r} : {one.type} is missing")
    if found:
        unknown = ", ".join(repr(key) for key, _ in found.values())
        raise Mismatch(f"no field {unknown}, expected {', '.join(one.label for one in type_.fields) or 'no fields'}")
    return result


def _items(value: Value, type_: Record, labels: dict[str, int]) -> dict[int, tuple[Value, Value]]:
    """Field id to key and value."""
    if isinstance(value, Mapping):
        return {labels[key] if key in labels else _key_id(key): (key, one) for key, one in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        # A field called like a Python keyword is an attribute with an underscore after it.
        pairs = [(one.name, getattr(value, one.name)) for one in dataclass_fields(value)]
        return {field_hash(k if k in labels else k.removesuffix("_")): (k, one) for k, one in pairs}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _items(value._asdict(), type_, labels) if not type_.is_tuple else dict(enumerate(enumerate(value)))
    if isinstance(value, (tuple, list)) and type_.is_tuple:
        return dict(enumerate(enumerate(value)))
    raise Mismatch(f"expected {_short(type_)}, found {_found(value)}")


def _key_id(key: Value) -> int:
    if isinstance(key, int):
        return key
    if not isinstance(key, str):
        raise Mismatch(f"a field is known by a string or a number, found {_found(key)}")
    if key.startswith("_") and key.endswith("_") and key[1:-1].isdecimal():
        return int(key[1:-1])
    return field_hash(key)


def _short(type_: Type) -> str:
    text = str(type_)
    return text if len(text) <= 80 else text[:77] + "..."


def _tuple(writes: list[Writer], write_record: Writer) -> Writer:
    size = len(writes)

    def write_tuple(value: Value, out: bytearray, meter: Meter) -> None:
        if not isinstance(value, (tuple, list)) or len(value) != size:
            write_record(value, out, meter)
            return
        position = 0
        try:
            for write in writes:
                write(value[position], out, meter)
                position += 1
        except Mismatch as error:
            raise error.within(f"[{position}]") from None

    return write_tuple


def _as_case(value: Value) -> Mapping[Value, Value]:
    if isinstance(value, Enum):  # by the name of the member, as `perdure.candid.into` gives it
        return {value.name: None}
    if isinstance(value, str):
        return {value: None}
    if isinstance(value, Mapping):
        return value
    raise Mismatch(f"expected a variant as {{tag: value}}, found {_found(value)}")


def _variant(cases: list[tuple[int, Field, Writer]]) -> Writer:
    by_label = {one.label: (index, write) for index, one, write in cases}
    by_id = {one.id: one.label for _, one, _ in cases}

    def write_variant(value: Value, out: bytearray, meter: Meter) -> None:
        if type(value) is not dict:  # an isinstance() of Mapping costs as much as all the rest
            value = _as_case(value)
        if len(value) != 1:
            raise Mismatch(f"expected a variant as {{tag: value}}, found {_found(value)}")
        [(tag, content)] = value.items()
        case = by_label.get(tag) or by_label.get(by_id.get(_key_id(tag), ""))
        if case is None:
            raise Mismatch(f"no case {tag!r}, expected {', '.join(by_label) or 'none: the variant is empty'}")
        index, write = case
        if index < 128:
            out.append(index)
        else:
            write_leb(index, out)
        try:
            write(content, out, meter)
        except Mismatch as error:
            raise error.within(f".{tag}") from None

    return write_variant
