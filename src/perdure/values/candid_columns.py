"""Candid messages with one head, as Arrow columns, without a Python object for each (extra ``columns``).

All messages are read in step, field by field: where a value ends in each message is an array, and the next field begins
there. What varies costs rounds: a number in LEB128 as many as it has bytes, a list as many as its longest has elements.
Options and variants go on with some of the messages only.

Whatever is wrong, or not worth it, raises `NotColumnarError`: then the messages are decoded one by one, which tells
what is wrong and bounds what it may cost. Nothing here allocates more than the bytes of the messages allow.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, final

import numpy as np
import pyarrow as pa

from perdure.candid import types as candid
from perdure.candid.readers import FIXED
from perdure.candid.types import Opt, Prim, Record, Type, Variant, Vec, resolve
from perdure.errors import MalformedError, PerdureError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES
from perdure.stable import types
from perdure.stable.columns import gather_column
from perdure.stable.gather import Bytes, Mask, Offsets, items, ramps
from perdure.stable.kind import DOCUMENT, Kind
from perdure.values.arrow import Arrow, is_enum, is_struct, labels_of, to_type

__all__ = ["NotColumnarError", "read_messages"]

_MAX_ROUNDS: Final = 64
"""Elements of the longest list, beyond which the rounds for few messages cost more than decoding all one by one."""

_MAX_LEB_BYTES: Final = 9
_PADDING: Final = 16


@final
class NotColumnarError(PerdureError):
    """The messages are to be decoded one by one."""


def read_messages(type: Type, kind: Kind, data: Bytes, starts: Offsets, ends: Offsets) -> pa.Array:  # noqa: A002
    """The values of messages that all have the same head.

    Args:
        type: of the value, in that head.
        kind: its kind.
        data: bytes.
        starts: where the values begin in them, behind the heads.
        ends: where they end.

    Raises:
        NotColumnarError: see the module.
    """
    reader = _Reader(np.concatenate([data, np.zeros(_PADDING, np.uint8)]))
    try:
        found, after = reader.read(type, kind, starts, ends)
    except MalformedError as error:  # a text that is not UTF-8
        raise NotColumnarError(str(error)) from error
    _require((after == ends).all(), "bytes after the value")
    return found


def _require(is_so: np.bool_ | bool, message: str) -> None:
    if not is_so:
        raise NotColumnarError(message)


@final
class _Reader:
    """Reads values of a type from `at` on, each before its own end: the array of them, and where each ends."""

    def __init__(self, flat: Bytes) -> None:
        self._flat = flat

    def read(self, found: Type, kind: Kind, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        """Values of `found`, whose kind is `kind`."""
        found = resolve(found)
        if isinstance(found, Prim):
            return self._primitive(found, at, ends)
        _require(kind != DOCUMENT, "no column holds it")
        match found:
            case Opt(content):
                return self._option(content, kind.parts[0], at, ends)
            case Vec(element) if kind.name == "list":
                return self._list(element, kind.parts[0], at, ends)
            case Vec():
                sizes, start = self._sizes(at, ends)
                return self._bytes(start, sizes, ends, types.raw), start + sizes
            case Record(fields):
                arrays = []
                for field, part in zip(fields, kind.parts, strict=True):
                    array, at = self.read(field.type, part, at, ends)
                    arrays.append(array)
                return _struct(kind, arrays), at
            case Variant(fields):
                return self._variant([field.type for field in fields], kind, at, ends)
            case _:
                raise NotColumnarError("no column holds it")

    # Primitives

    def _primitive(self, prim: Prim, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        if prim.name in FIXED:
            dtype = np.dtype("<" + FIXED[prim.name])
            _require((at + dtype.itemsize <= ends).all(), "ends within a number")
            return pa.array(items(self._flat, dtype.str)[at]), at + dtype.itemsize
        if prim in (candid.Null, candid.Reserved):
            return pa.nulls(len(at), pa.bool_()), at
        readers: dict[str, Callable[[Offsets, Offsets], tuple[Arrow, Offsets]]] = {
            "bool": self._bool,
            "nat": self._nat,
            "int": self._int,
            "text": self._text,
            "principal": self._principal,
        }
        if prim.name not in readers:
            raise NotColumnarError(f"{prim} has no values")
        return readers[prim.name](at, ends)

    def _byte(self, at: Offsets, ends: Offsets, limit: int) -> Bytes:
        """One byte of each, below `limit`."""
        _require((at < ends).all(), "ends within a value")
        found: Bytes = self._flat[at]
        _require(not len(found) or found.max() < limit, "a byte that means nothing")
        return found

    def _bool(self, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        return pa.array(self._byte(at, ends, 2) == 1), at + 1

    def _leb(self, at: Offsets, ends: Offsets) -> tuple[Offsets, Offsets, Offsets]:
        """Numbers of up to 63 bits: the bits, how many there were, and where each ends."""
        bits, rounds = np.zeros(len(at), np.int64), np.zeros(len(at), np.int64)
        active, here = np.arange(len(at)), at
        for index in range(_MAX_LEB_BYTES):
            _require((here < ends[active]).all(), "ends within a number")
            byte = self._flat[here].astype(np.int64)
            bits[active] |= (byte & 127) << 7 * index
            rounds[active] = index + 1
            goes_on = byte > 127
            if not goes_on.any():
                return bits, 7 * rounds, at + rounds
            active, here = active[goes_on], here[goes_on] + 1
        raise NotColumnarError("a number of more than 63 bits")

    def _nat(self, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        numbers, _, after = self._leb(at, ends)
        return pa.array(numbers).cast(pa.string()), after

    def _int(self, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        bits, width, after = self._leb(at, ends)
        is_negative = (bits >> (width - 1)) & 1 == 1
        # -1 << 63 is what 63 bits of sign extend to.
        numbers = np.where(is_negative, bits | (np.int64(-1) << width), bits)
        return pa.array(numbers).cast(pa.string()), after

    def _sizes(self, at: Offsets, ends: Offsets) -> tuple[Offsets, Offsets]:
        """A count of things of at least a byte each, and where the first begins."""
        sizes, _, start = self._leb(at, ends)
        _require((sizes <= ends - start).all(), "more than there are bytes")
        return sizes, start

    def _text(self, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        sizes, start = self._sizes(at, ends)
        return self._bytes(start, sizes, ends, types.text), start + sizes

    def _bytes(self, start: Offsets, sizes: Offsets, ends: Offsets, storable: types.StorableType[Arrow]) -> Arrow:
        if not len(start):
            return pa.array([], pa.string() if storable is types.text else pa.binary())
        return gather_column(storable, self._flat, start, sizes).to_arrow()

    def _principal(self, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        _require((at + 2 <= ends).all(), "ends within a principal")
        sizes, start = self._flat[at + 1].astype(np.int64), at + 2
        _require((self._flat[at] == 1).all() and (sizes <= MAX_PRINCIPAL_BYTES).all(), "no principal")
        _require((start + sizes <= ends).all(), "ends within a principal")
        letters = -(-8 * (4 + sizes) // 5)
        ends_of_texts = np.cumsum(letters + (letters - 1) // _GROUP)
        offsets = np.concatenate([np.zeros(1, np.int64), ends_of_texts])
        data = np.empty(int(offsets[-1]), np.uint8)
        for size in np.unique(sizes).tolist():
            members = np.flatnonzero(sizes == size)
            raw = items(self._flat, f"V{max(size, 1)}")[start[members]].view(np.uint8).reshape(len(members), -1)
            texts = principal_texts(raw[:, :size])
            run = f"V{texts.shape[1]}"
            items(data, run)[offsets[:-1][members]] = np.ascontiguousarray(texts).view(run)[:, 0]
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
        return pa.Array.from_buffers(pa.string(), len(at), buffers), start + sizes

    # Parts

    def _option(self, content: Type, part: Kind, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        there = self._byte(at, ends, 2) == 1
        if there.all():
            return self.read(content, part, at + 1, ends)
        after = at + 1
        inner, after[there] = self.read(content, part, after[there], ends[there])
        return _spread(inner, there), after

    def _list(self, element: Type, part: Kind, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        sizes, start = self._sizes(at, ends)
        total = int(sizes.sum())
        _require(total <= len(self._flat), "elements of no bytes")
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]).astype(np.int32)
        resolved = resolve(element)
        if isinstance(resolved, Prim) and resolved.name in FIXED:
            width = np.dtype(FIXED[resolved.name]).itemsize
            _require((start + sizes * width <= ends).all(), "more than there are bytes")
            inner, _ = self.read(element, part, ramps(start, sizes, width), np.repeat(ends, sizes))
            after = start + sizes * width
        else:
            rounds = int(sizes.max()) if len(sizes) else 0
            _require(rounds <= _MAX_ROUNDS, "a long list")
            arrays, places, after = [], [], start.copy()
            for index in range(rounds):
                active = np.flatnonzero(sizes > index)
                array, after[active] = self.read(element, part, after[active], ends[active])
                arrays.append(array)
                places.append(offsets[active] + index)
            order = np.empty(total, np.int64)
            if total:
                order[np.concatenate(places)] = np.arange(total)
            inner = pa.concat_arrays(arrays).take(pa.array(order)) if arrays else pa.array([], to_type(part))
        return pa.ListArray.from_arrays(pa.array(offsets), inner, type=pa.list_(inner.type)), after

    def _variant(self, cases: list[Type], kind: Kind, at: Offsets, ends: Offsets) -> tuple[Arrow, Offsets]:
        _require(is_struct(kind) or is_enum(kind), "no column holds it")
        chosen = self._byte(at, ends, min(128, len(cases)))
        after = at + 1
        if is_enum(kind):
            for case in np.unique(chosen).tolist():  # null or reserved, which take no bytes
                _require(resolve(cases[case]) in (candid.Null, candid.Reserved), "no values")
            return pa.array(list(kind.labels), pa.string()).take(pa.array(chosen)), after
        arrays = []
        for case, (type_, part) in enumerate(zip(cases, kind.parts, strict=True)):
            here = chosen == case
            if part.name == "unit":
                _require(resolve(type_) is not candid.Empty or not here.any(), "no values")
                arrays.append(pa.array(here, mask=~here))
            elif here.any():
                inner, after[here] = self.read(type_, part, after[here], ends[here])
                arrays.append(_spread(inner, here))
            else:
                arrays.append(pa.nulls(len(at), to_type(part)))
        return _struct(kind, arrays), after


def _struct(kind: Kind, arrays: list[Arrow]) -> Arrow:
    fields = [pa.field(label, array.type) for label, array in zip(labels_of(kind), arrays, strict=True)]
    return pa.StructArray.from_arrays(arrays, fields=fields)


def _spread(inner: Arrow, there: Mask) -> Arrow:
    """The values of `inner` where they are there, nulls between them."""
    return inner.take(pa.array(np.cumsum(there) - 1, mask=~there))


# Principals

# Of CRC-32, as `zlib` has it: what a byte does to a register of ones, turned into what it does to any.
_CRC: Final = np.array([zlib.crc32(bytes([byte ^ 0xFF])) ^ 0xFF000000 for byte in range(256)], np.uint32)
_LETTERS: Final = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz234567", np.uint8)
_GROUP: Final = 5


def principal_texts(raw: Bytes) -> Bytes:
    """The texts of principals of one length, one row each: base 32 of checksum and bytes, in groups of five letters."""
    count, size = raw.shape
    checksum = np.full(count, 0xFFFFFFFF, np.uint32)
    for index in range(size):
        checksum = _CRC[(checksum ^ raw[:, index]) & 0xFF] ^ (checksum >> 8)
    whole = np.zeros((count, -(-(4 + size) // _GROUP) * _GROUP), np.uint8)
    whole[:, :4] = (~checksum).astype(">u4").view(np.uint8).reshape(-1, 4)
    whole[:, 4 : 4 + size] = raw
    fives = whole.reshape(count, -1, _GROUP).astype(np.int64)
    forty_bits = sum(fives[:, :, place] << (8 * (_GROUP - 1 - place)) for place in range(_GROUP))
    letters = np.stack([_LETTERS[(forty_bits >> shift) & 31] for shift in range(35, -1, -5)], axis=-1)
    total = -(-8 * (4 + size) // 5)
    texts = np.full((count, total + (total - 1) // _GROUP), ord("-"), np.uint8)
    texts[:, np.arange(total) + np.arange(total) // _GROUP] = letters.reshape(count, -1)[:, :total]
    return texts
