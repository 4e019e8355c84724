"""Messages: lists of values with their types, in binary.

>>> from perdure.candid.types import Nat, Text
>>> message = encode([Nat, Text], [5, "five"])
>>> message.hex()
'4449444c00027d71050466697665'
>>> decode(message)
(5, 'five')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, final

from perdure.candid.decoding import Plan, budget
from perdure.candid.deep import MAX_DEPTH, Meter, guarded
from perdure.candid.encoding import Mismatch, compile_writers
from perdure.candid.header import encode_header, read_header
from perdure.candid.types import Type, Value, is_nullable
from perdure.errors import MalformedError

__all__ = ["Codec", "codec", "decode", "decode_with_types", "encode"]

#: Heads seen lately by one codec. A canister answers with one head, or with a few.
_PLANS: Final = 8


@final
class Codec:
    """Encodes and decodes messages of one list of types, compiled once.

    Args:
        types: of the values. ``None``: whatever the message says, for decoding only; fields go by their numbers.
    """

    def __init__(self, types: Iterable[Type] | None) -> None:
        self.types = None if types is None else tuple(types)
        self._plans: list[Plan] = []
        self._writing: tuple[bytes, list[Value]] | None = None

    def encode(self, values: Sequence[Value]) -> bytes:
        """The message that says `values`.

        Trailing values of a null, optional or reserved type may be left out.

        Raises:
            ValueError: a value that is not of its type, with the path to it.
        """
        return guarded(self._encode, values)

    def _encode(self, values: Sequence[Value]) -> bytes:
        if self.types is None:
            raise ValueError("types are needed to encode")
        if self._writing is None:
            self._writing = encode_header(self.types), compile_writers(self.types)
        head, writers = self._writing
        missing = self.types[len(values) :]
        if len(values) > len(writers) or not all(map(is_nullable, missing)):
            raise ValueError(f"{len(values)} values for {len(writers)} types ({', '.join(map(str, self.types))})")
        out = bytearray(head)
        meter = Meter()
        for index, write in enumerate(writers):
            try:
                write(values[index] if index < len(values) else None, out, meter)
            except Mismatch as error:
                raise ValueError(str(error.within(f"value {index}"))) from None
            except MalformedError:
                raise ValueError(f"value {index} is nested deeper than {MAX_DEPTH} levels") from None
        return bytes(out)

    def decode(self, data: bytes | bytearray | memoryview, *, quota: int | None = None) -> tuple[Value, ...]:
        """The values that a message says, coerced to the types.

        Args:
            data: the message.
            quota: the steps that it may cost beyond reading its bytes; by default enough for its size.

        Raises:
            MalformedError: not a message, bytes left over, or it costs too much; ``CoercionError`` if it is one of
                other types.
        """
        return guarded(self._decode, bytes(data), quota)

    def _decode(self, data: bytes, quota: int | None) -> tuple[Value, ...]:
        meter = Meter(budget(len(data)) if quota is None else quota)
        return self.plan(data, meter).decode(data, meter)

    def plan(self, data: bytes, meter: Meter) -> Plan:
        """The compiled plan for the head of `data`; kept for the next message with the same head."""
        for plan in self._plans:
            if data.startswith(plan.head):
                return plan
        header = read_header(data)
        plan = Plan(header, data[: header.size], self.types, meter)
        self._plans = [plan, *self._plans[: _PLANS - 1]]
        return plan


@lru_cache(maxsize=256)
def codec(types: tuple[Type, ...] | None) -> Codec:
    """The codec of `types`, kept for the next use."""
    return Codec(types)


def encode(types: Iterable[Type], values: Sequence[Value]) -> bytes:
    """The message that says `values`, of `types`; see :meth:`Codec.encode`."""
    return codec(tuple(types)).encode(values)


def decode(
    data: bytes | bytearray | memoryview, types: Iterable[Type] | None = None, *, quota: int | None = None
) -> tuple[Value, ...]:
    """The values of a message, coerced to `types` if given; see :meth:`Codec.decode`."""
    return codec(None if types is None else tuple(types)).decode(data, quota=quota)


def decode_with_types(data: bytes | bytearray | memoryview) -> tuple[tuple[Type, ...], tuple[Value, ...]]:
    """The types that a message declares, and its values.

    Raises:
        MalformedError: as :meth:`Codec.decode`.
    """
    data = bytes(data)
    values = decode(data)
    return read_header(data).types, values
