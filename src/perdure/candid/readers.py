"""The closures that decoding is made of: each reads or passes over one value at an offset.

All share one form, ``read(data, offset, meter) -> (value, offset after it)`` or, for skipping, the offset alone.
Reading past the end is left to Python's own IndexError and struct.error where that is free; the plan turns them into
MalformedError. Slices do not raise, so they are checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from perdure.candid.deep import Meter
from perdure.candid.errors import CoercionError
from perdure.candid.leb128 import read_leb, read_sleb
from perdure.candid.types import MethodRef, Nat, Prim, Text, Value
from perdure.errors import MalformedError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal

Decoder: TypeAlias = Callable[[bytes, int, Meter], tuple[Value, int]]
Skipper: TypeAlias = Callable[[bytes, int, Meter], int]

#: struct codes of the types of fixed width.
FIXED: Final = {
    "nat8": "B",
    "nat16": "H",
    "nat32": "I",
    "nat64": "Q",
    "int8": "b",
    "int16": "h",
    "int32": "i",
    "int64": "q",
    "float32": "f",
    "float64": "d",
}


# Closures: primitives


def short(text: str) -> str:
    """Cut for a message."""
    return text if len(text) <= 200 else text[:197] + "..."


def malformed(message: str) -> Callable[[bytes, int, Meter], Value]:
    """A reader of bytes that no message may have."""

    def decode(_data: bytes, offset: int, _meter: Meter) -> Value:
        raise MalformedError(message, offset)

    return decode


def mismatch(message: str) -> Callable[[bytes, int, Meter], Value]:
    """A reader of a value that does not coerce."""
    message = short(message)

    def decode(_data: bytes, offset: int, _meter: Meter) -> Value:
        raise CoercionError(message, offset)

    return decode


def reserved(skip: Skipper) -> Decoder:
    """A reader that checks a value and forgets it."""
    return lambda data, offset, meter: (None, skip(data, offset, meter))


def decode_null(_data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    """Null and reserved, which take no bytes."""
    return None, offset


def _decode_bool(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    byte = data[offset]
    if byte > 1:
        raise MalformedError(f"bool {byte:#x}, expected 0 or 1", offset)
    return byte == 1, offset + 1


def _decode_nat(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    byte = data[offset]
    if byte < 128:
        return byte, offset + 1
    second = data[offset + 1]
    if second < 128:
        return byte - 128 | second << 7, offset + 2
    return read_leb(data, offset)


def _decode_int(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    return read_sleb(data, offset)


def _decode_text(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    size = data[offset]
    if size < 128:
        start = offset + 1
    else:
        size, start = read_leb(data, offset)
    end = start + size
    if end > len(data):
        raise MalformedError(f"text of {size} bytes, {len(data) - start} left", offset)
    try:
        return str(data[start:end], "utf-8"), end
    except UnicodeDecodeError as error:
        raise MalformedError("text is not UTF-8", start + error.start) from error


def decode_principal(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    """A principal or service reference: 1, a length, the bytes."""
    if data[offset] != 1:
        raise MalformedError(f"reference of kind {data[offset]}, expected 1", offset)
    size = data[offset + 1]
    if size > MAX_PRINCIPAL_BYTES:
        size, start = read_leb(data, offset + 1)
    else:
        start = offset + 2
    end = start + size
    if size > MAX_PRINCIPAL_BYTES or end > len(data):
        raise MalformedError(f"principal of {size} bytes, expected at most {MAX_PRINCIPAL_BYTES}", offset + 1)
    return Principal(data[start:end]), end


def decode_func(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
    """A function reference: 1, a principal, the name of a method."""
    if data[offset] != 1:
        raise MalformedError(f"reference of kind {data[offset]}, expected 1", offset)
    principal, offset = decode_principal(data, offset + 1, meter)
    method, offset = _decode_text(data, offset, meter)
    return MethodRef(principal, method), offset


def _fixed(code: str) -> Decoder:
    unpack_from = struct.Struct("<" + code).unpack_from
    size = struct.calcsize("<" + code)

    def decode(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
        return unpack_from(data, offset)[0], offset + size

    return decode


DECODE: Final[dict[str, Decoder]] = {
    "null": decode_null,
    "reserved": decode_null,
    "bool": _decode_bool,
    "nat": _decode_nat,
    "int": _decode_int,
    "text": _decode_text,
    "principal": decode_principal,
    "empty": malformed("a value of type empty"),
    **{name: _fixed(code) for name, code in FIXED.items()},
}


def _skip_number(data: bytes, offset: int, _meter: Meter) -> int:
    while data[offset] > 127:
        offset += 1
    return offset + 1


def _skip_fixed_one(size: int) -> Skipper:
    def skip(data: bytes, offset: int, _meter: Meter) -> int:
        if offset + size > len(data):
            raise IndexError
        return offset + size

    return skip


def skip_principal(data: bytes, offset: int, meter: Meter) -> int:
    """Past a principal or service reference."""
    return decode_principal(data, offset, meter)[1]


SKIP: Final[dict[str, Skipper]] = {
    "null": _skip_fixed_one(0),
    "reserved": _skip_fixed_one(0),
    "nat": _skip_number,
    "int": _skip_number,
    "bool": lambda data, offset, meter: _decode_bool(data, offset, meter)[1],
    "text": lambda data, offset, meter: _decode_text(data, offset, meter)[1],
    "principal": skip_principal,
    "empty": malformed("a value of type empty"),
    **{name: _skip_fixed_one(struct.calcsize("<" + code)) for name, code in FIXED.items()},
}


# Closures: composites


def opt_from_opt(decode: Decoder, skip: Skipper, wrap: Value) -> Decoder:
    """An option out of an option; null where the content does not coerce."""

    def decode_opt(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        tag = data[offset]
        if tag == 0:
            return None, offset + 1
        if tag != 1:
            raise MalformedError(f"option tag {tag:#x}, expected 0 or 1", offset)
        try:
            if wrap is None:
                return decode(data, offset + 1, meter)
            value, end = decode(data, offset + 1, meter)
            return wrap(value), end
        except CoercionError:
            return _passed_over(skip, data, offset + 1, meter)

    return decode_opt


def opt_from_content(decode: Decoder, skip: Skipper, wrap: Value) -> Decoder:
    """An option out of a bare value; null where it does not coerce."""

    def decode_content(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        try:
            value, end = decode(data, offset, meter)
            return (value if wrap is None else wrap(value)), end
        except CoercionError:
            return _passed_over(skip, data, offset, meter)

    return decode_content


def _passed_over(skip: Skipper, data: bytes, offset: int, meter: Meter) -> tuple[None, int]:
    end = skip(data, offset, meter)
    meter.charge(10 + 6 * (end - offset), offset)
    return None, end


def _vec_size(data: bytes, offset: int, floor: int) -> tuple[int, int]:
    """The length of a vector and the offset of its first element; each takes at least `floor` bytes."""
    size = data[offset]
    if size < 128:
        start = offset + 1
    else:
        size, start = read_leb(data, offset)
    if size * floor > len(data) - start:
        raise MalformedError(f"vector of {_count(size)} elements in {len(data) - start} bytes", offset)
    return size, start


def _count(size: int) -> str:
    return str(size) if size < 2**64 else "more than 2**64"


def vec_of_values(decode: Decoder, floor: int) -> Decoder:
    """A vector of elements of `floor` bytes or more each."""

    def decode_vec(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        size, offset = _vec_size(data, offset, floor)
        values: list[Value] = []
        append = values.append
        try:
            for _ in range(size):
                value, offset = decode(data, offset, meter)
                append(value)
        except CoercionError as error:
            raise error.within(f"[{len(values)}]") from None
        return values, offset

    return decode_vec


def vec_of_nothing(decode: Decoder) -> Decoder:
    """A vector of elements that take no bytes. Those that cost more than a step charge for themselves."""

    def decode_vec(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        size, start = _vec_size(data, offset, 0)
        meter.charge(size, offset)
        values = []
        try:
            for _ in range(size):
                values.append(decode(data, start, meter)[0])  # noqa: PERF401 - a comprehension is one more frame
        except CoercionError as error:
            raise error.within(f"[{len(values)}]") from None
        return values, start

    return decode_vec


def as_blob(decode: Decoder) -> Decoder:
    """The same as bytes."""

    def decode_blob(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        values, end = decode(data, offset, meter)
        return bytes(values), end

    return decode_blob


def bulk(element: Prim) -> Decoder | None:
    """The closure for a vector of a primitive type that is read in one go."""
    if element is Text:
        return _vec_of_text
    if element is Nat:
        return _vec_of_nat
    code = FIXED.get(element.name)
    if code is None:
        return None
    if code == "B":
        return _decode_blob
    width = struct.calcsize("<" + code)

    def decode_vec(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
        size, start = _vec_size(data, offset, width)
        return list(struct.unpack_from(f"<{size}{code}", data, start)), start + size * width

    return decode_vec


def _decode_blob(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    size, start = _vec_size(data, offset, 1)
    return data[start : start + size], start + size


def _vec_of_text(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
    size, offset = _vec_size(data, offset, 1)
    values: list[Value] = []
    for _ in range(size):
        value, offset = _decode_text(data, offset, meter)
        values.append(value)
    return values, offset


def _vec_of_nat(data: bytes, offset: int, _meter: Meter) -> tuple[Value, int]:
    size, offset = _vec_size(data, offset, 1)
    values: list[Value] = []
    append = values.append
    for _ in range(size):
        value = data[offset]
        if value < 128:
            offset += 1
        else:
            value, offset = read_leb(data, offset)
        append(value)
    return values, offset


def record_closure(steps: list[tuple[Value, Value]], missing: list[Value]) -> Decoder:
    """A record as a dict. A step with the label None skips; `missing` fields are null."""
    if missing or any(label is None for label, _ in steps):
        return _record_partly(steps, missing)

    def decode_record(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        value: dict[Value, Value] = {}
        label = None
        try:
            for label, decode in steps:
                value[label], offset = decode(data, offset, meter)
        except CoercionError as error:
            raise error.within(f".{label}") from None
        return value, offset

    return decode_record


def _record_partly(steps: list[tuple[Value, Value]], missing: list[Value]) -> Decoder:
    def decode_record(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        value = dict.fromkeys(missing)
        label = None
        try:
            for label, decode in steps:
                if label is None:
                    offset = decode(data, offset, meter)
                else:
                    value[label], offset = decode(data, offset, meter)
        except CoercionError as error:
            raise error.within(f".{label}") from None
        return value, offset

    return decode_record


def tuple_closure(steps: list[tuple[Value, Value]], size: int) -> Decoder:
    """A record as a tuple of `size`. A step with the label None skips; what no step reads is null."""
    empty = [None] * size

    def decode_tuple(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        value: list[Value] = empty.copy()
        index = None
        try:
            for index, decode in steps:
                if index is None:
                    offset = decode(data, offset, meter)
                else:
                    value[index], offset = decode(data, offset, meter)
        except CoercionError as error:
            raise error.within(f"[{index}]") from None
        return tuple(value), offset

    return decode_tuple


def charging(decode: Decoder, steps: int) -> Decoder:
    """The same, at a price."""

    def decode_charged(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        meter.charge(steps, offset)
        return decode(data, offset, meter)

    return decode_charged


def variant_closure(cases: list[tuple[str, Decoder]]) -> Decoder:
    """A variant as a dict of one key."""
    size = len(cases)

    def decode_variant(data: bytes, offset: int, meter: Meter) -> tuple[Value, int]:
        index = data[offset]
        if index < 128:
            start = offset + 1
        else:
            index, start = read_leb(data, offset)
        if index >= size:
            raise MalformedError(f"variant index {_count(index)}, expected less than {size}", offset)
        label, decode = cases[index]
        try:
            value, end = decode(data, start, meter)
        except CoercionError as error:
            raise error.within(f".{label}") from None
        return {label: value}, end

    return decode_variant


def skip_opt(skip: Skipper) -> Skipper:
    """Past an option."""

    def skip_opt(data: bytes, offset: int, meter: Meter) -> int:
        tag = data[offset]
        if tag > 1:
            raise MalformedError(f"option tag {tag:#x}, expected 0 or 1", offset)
        return skip(data, offset + 1, meter) if tag else offset + 1

    return skip_opt


def skip_fixed(width: int) -> Skipper:
    """Past a vector of numbers of `width` bytes."""

    def skip_vec(data: bytes, offset: int, _meter: Meter) -> int:
        size, start = _vec_size(data, offset, width)
        return start + size * width

    return skip_vec


def skip_vec_of_values(skip: Skipper, floor: int) -> Skipper:
    """Past a vector of elements of `floor` bytes or more each."""

    def skip_vec(data: bytes, offset: int, meter: Meter) -> int:
        size, offset = _vec_size(data, offset, floor)
        for _ in range(size):
            offset = skip(data, offset, meter)
        return offset

    return skip_vec


def skip_vec_of_nothing(skip: Skipper, steps: int) -> Skipper:
    """Past a vector of elements that take no bytes; one stands for all."""

    def skip_vec(data: bytes, offset: int, meter: Meter) -> int:
        size, start = _vec_size(data, offset, 0)
        meter.charge(size * steps, offset)
        return skip(data, start, meter) if size else start

    return skip_vec


def skip_record(skips: list[Skipper]) -> Skipper:
    """Past a record."""

    def skip_record(data: bytes, offset: int, meter: Meter) -> int:
        for skip in skips:
            offset = skip(data, offset, meter)
        return offset

    return skip_record


def skip_charging(skip: Skipper, steps: int) -> Skipper:
    """The same, at a price."""

    def skip_charged(data: bytes, offset: int, meter: Meter) -> int:
        meter.charge(steps, offset)
        return skip(data, offset, meter)

    return skip_charged


def skip_variant(skips: list[Skipper]) -> Skipper:
    """Past a variant."""
    size = len(skips)

    def skip_variant(data: bytes, offset: int, meter: Meter) -> int:
        index, start = read_leb(data, offset)
        if index >= size:
            raise MalformedError(f"variant index {_count(index)}, expected less than {size}", offset)
        return skips[index](data, start, meter)

    return skip_variant


def skip_future(data: bytes, offset: int, _meter: Meter) -> int:
    """Past a value of a future type: two lengths, then the bytes."""
    size, start = read_leb(data, offset)
    _references, start = read_leb(data, start)
    if start + size > len(data):
        raise MalformedError(f"future value of {_count(size)} bytes, {len(data) - start} left", offset)
    return start + size
