"""Binary values to Python values, coerced to the expected types.

A pair (type in the message, expected type) is compiled once into a closure ``decode(data, offset, meter)`` that returns
the value and the offset after it. A failed coercion is a :class:`CoercionError`, raised where it happens and turned
into null by the nearest option around it.

What a message may cost. Reading is bounded by the message, so it is free. Everything that is not bounded by the bytes
it consumes is charged to the meter: values that take no bytes (``vec null``, records of nothing, fields that the
message lacks), options read a second time because their content did not coerce, compiling a pair, and every pair
looked at by a subtype check. The budget grows with the size of the message.

Spec: "Deserialisation", "Coercion".
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, final

from perdure.candid import readers
from perdure.candid.deep import Meter
from perdure.candid.errors import CoercionError
from perdure.candid.header import Header
from perdure.candid.readers import FIXED, Decoder, Skipper
from perdure.candid.subtyping import subtype
from perdure.candid.types import (
    Empty,
    Field,
    Func,
    Future,
    Int,
    Nat,
    Nat8,
    Null,
    Opt,
    Prim,
    PrincipalType,
    Record,
    Reserved,
    Service,
    Some,
    Type,
    Value,
    Variant,
    Vec,
    brief,
    is_nullable,
    resolve,
)
from perdure.errors import MalformedError

__all__ = ["Decoder", "Plan", "budget"]

_NO_VALUES: Final = -1
_LARGEST: Final = 1 << 40
#: Frames of closures on each other without a depth check between them, and types compiled ahead of their first use.
_UNCHECKED_FRAMES: Final = 24
_EAGER_LEVELS: Final = 12
_COMPILE_STEPS: Final = 6


def budget(size_bytes: int) -> int:
    """The steps that a message of `size_bytes` may cost; a step takes Python 0.1 to 0.5 us."""
    return 4_000 + 16 * size_bytes


@final
class _Cell:
    """A pair and its closure, once there is one.

    Args:
        build: makes the closure.
    """

    __slots__ = ("build", "height", "run")

    def __init__(self, build: Callable[[_Compiler], Callable[[bytes, int, Meter], Value]]) -> None:
        self.build = build
        self.run: Callable[[bytes, int, Meter], Value] | None = None
        #: Frames that a call of it takes, up to the next depth check.
        self.height = _UNCHECKED_FRAMES


@final
class Plan:
    """How messages with one head are decoded at one list of expected types (``None``: at their own).

    Args:
        header: the head.
        head: its bytes.
        expected: the types to coerce to.
        meter: of the message at hand; compiling is charged to it.
    """

    def __init__(self, header: Header, head: bytes, expected: tuple[Type, ...] | None, meter: Meter) -> None:
        self.header = header
        self.head = head
        # Pairs are known by the identity of their types, so the types must live as long.
        self._expected = header.types if expected is None else expected
        self.shapes = _shapes(header)
        self.decoders: dict[tuple[int, int], _Cell] = {}
        self.skippers: dict[int, _Cell] = {}
        compiler = _Compiler(self, meter)
        self._steps = [compiler.decoder(wire, want) for wire, want in zip(header.types, self._expected, strict=False)]
        self._extra = [compiler.skipper(wire) for wire in header.types[len(self._expected) :]]
        self._missing = self._expected[len(header.types) :]

    def decode(self, data: bytes, meter: Meter) -> tuple[Value, ...]:
        """The arguments of a message that begins with this head.

        Raises:
            MalformedError: not a message of these types; ``CoercionError`` where the value is well formed.
        """
        values: list[Value] = []
        try:
            offset = self.header.size
            for step in self._steps:
                value, offset = step(data, offset, meter)
                values.append(value)
            for skip in self._extra:
                offset = skip(data, offset, meter)
        except CoercionError as error:
            raise error.within(f"value {len(values)}") from None
        except (IndexError, struct.error) as error:
            raise MalformedError("the message ends within a value", len(data)) from error
        if offset != len(data):
            raise MalformedError(f"{len(data) - offset} bytes after the last value", offset)
        for index, want in enumerate(self._missing, len(values)):
            if not is_nullable(want):
                raise CoercionError(f"argument {index} of type {want} is missing", offset)
            values.append(None)
        return tuple(values)


@final
class _Compiler:
    """One round of compiling for a plan, on behalf of one message."""

    def __init__(self, plan: Plan, meter: Meter) -> None:
        self.plan = plan
        self.meter = meter
        self._heights = [0]

    # Cells

    def decoder(self, wire: Type, want: Type) -> Decoder:
        """The closure for a pair, behind a depth check where it is recursive or high."""
        wire, want = resolve(wire), resolve(want)
        if isinstance(wire, Prim) and (simple := self._primitive(wire, want)) is not None:
            return simple
        cell = self.plan.decoders.get((id(wire), id(want)))
        if cell is None:
            cell = _Cell(lambda compiler: compiler.compile(wire, want))
            self.plan.decoders[id(wire), id(want)] = cell
            self._build_shallow(cell)
        found: Decoder = self._use(cell)
        return found

    def skipper(self, wire: Type) -> Skipper:
        """The closure that passes over a value, checking that it is well formed."""
        wire = resolve(wire)
        if isinstance(wire, Prim):
            return readers.SKIP[wire.name]
        cell = self.plan.skippers.get(id(wire))
        if cell is None:
            cell = _Cell(lambda compiler: compiler.compile_skip(wire))
            self.plan.skippers[id(wire)] = cell
            self._build_shallow(cell)
        found: Skipper = self._use(cell)
        return found

    def _build_shallow(self, cell: _Cell) -> None:
        if len(self._heights) <= _EAGER_LEVELS:
            self.build(cell)

    def build(self, cell: _Cell) -> Callable[[bytes, int, Meter], Value]:
        """Make the closure of `cell`."""
        self.meter.charge(_COMPILE_STEPS)
        self._heights.append(0)
        try:
            run = cell.build(self)
        finally:
            height = self._heights.pop() + 1
        cell.height = height
        cell.run = run
        return run

    def _add_frame(self) -> None:
        """Count a closure around the one that is being made."""
        self._heights[-1] += 1

    def _use(self, cell: _Cell) -> Value:
        if cell.run is not None and cell.height < _UNCHECKED_FRAMES:
            self._heights[-1] = max(self._heights[-1], cell.height)
            return cell.run
        plan = self.plan

        def checked(data: bytes, offset: int, meter: Meter) -> Value:
            run = cell.run or _Compiler(plan, meter).build(cell)
            return meter.enter(cell.height + 2, run, data, offset, meter)

        return checked

    def shape(self, wire: Type) -> tuple[int, int]:
        """The bytes that a value takes at least, and the steps that take none."""
        wire = resolve(wire)
        if isinstance(wire, Prim):
            return _PRIM_SHAPES[wire.name]
        return self.plan.shapes.get(id(wire), (1, 0))

    # Pairs

    def _primitive(self, wire: Prim, want: Type) -> Decoder | None:
        """The shared closure of a primitive type at itself."""
        if wire is want or (wire is Nat and want is Int):
            return readers.DECODE[wire.name]
        return None

    def compile(self, wire: Type, want: Type) -> Decoder:  # noqa: PLR0911 - one return per kind of type
        """The closure for a pair of resolved types."""
        if self.shape(wire)[0] == _NO_VALUES:
            return readers.malformed(f"a value of type {brief(wire)} has no values")
        if wire is Empty:
            return readers.malformed("a value of type empty")
        if want is Reserved:
            return readers.reserved(self.skipper(wire))
        match wire, want:
            case _, Opt(content):
                return self._opt(wire, content)
            case Vec(element), Vec(wanted):
                return self._vec(element, wanted)
            case Record(fields), Record(wanted):
                return self._record(fields, want)
            case Variant(fields), Variant(wanted):
                return self._variant(fields, {one.id: one for one in wanted}, brief(want))
            case Service(), Prim() if want is PrincipalType:
                return readers.decode_principal
            case (Func(), Func()) | (Service(), Service()) if subtype(wire, want, self.meter):
                return readers.decode_func if isinstance(wire, Func) else readers.decode_principal
            case Future(), Future():
                return readers.reserved(self.skipper(wire))
            case _:
                return readers.mismatch(f"{brief(wire)} does not coerce to {brief(want)}")

    def _opt(self, wire: Type, content: Type) -> Decoder:
        if wire is Null or wire is Reserved:
            return readers.decode_null
        wrap = Some if is_nullable(content) else None
        if isinstance(wire, Opt):
            return readers.opt_from_opt(self.decoder(wire.content, content), self.skipper(wire.content), wrap)
        seen = set()
        inner = resolve(content)
        while isinstance(inner, Opt):
            if id(inner) in seen:
                return readers.mismatch(f"{brief(wire)} does not coerce to an endless option")
            seen.add(id(inner))
            inner = resolve(inner.content)
        return readers.opt_from_content(self.decoder(wire, content), self.skipper(wire), wrap)

    def _vec(self, wire: Type, want: Type) -> Decoder:
        found, wanted = resolve(wire), resolve(want)
        floor, _ = self.shape(found)
        if found is wanted and isinstance(found, Prim):
            bulk = readers.bulk(found)
            if bulk is not None:
                return bulk
        if wanted is Nat8 and found is not Empty:
            # Also without elements: for the reference implementation a blob is a type of its own.
            return readers.mismatch(f"{brief(Vec(found))} does not coerce to blob")
        decode = self.decoder(found, wanted)
        decode_vec = readers.vec_of_nothing(decode) if floor == 0 else readers.vec_of_values(decode, max(1, floor))
        if wanted is not Nat8:
            return decode_vec
        self._add_frame()
        return readers.as_blob(decode_vec)

    def _record(self, fields: tuple[Field, ...], want: Record) -> Decoder:
        self.meter.charge(len(fields) + 3 * len(want.fields))
        as_tuple = want.is_tuple
        wanted = {one.id: one for one in want.fields}
        steps: list[tuple[Value, Value]] = []
        floor = weight = nothings = 0
        for one in fields:
            expected = wanted.pop(one.id, None)
            if expected is None:
                steps.append((None, self.skipper(one.type)))
            else:
                steps.append((expected.id if as_tuple else expected.label, self.decoder(one.type, expected.type)))
            shape = self.shape(one.type)
            floor += shape[0]
            weight += shape[1]
            nothings += shape[0] == 0
        for one in wanted.values():
            if not is_nullable(one.type):
                return readers.mismatch(f"a record without field {one.label!r} does not coerce to one that needs it")
        missing = [one.label for one in wanted.values()]
        size = len(want.fields)
        decode = readers.tuple_closure(steps, size) if as_tuple else readers.record_closure(steps, missing)
        if floor and weight + len(missing) // 8 <= 4 * floor + 8:
            return decode
        # Each record charges for itself alone, as those within it do.
        self._add_frame()
        return readers.charging(decode, 4 + nothings + len(missing) // 8)

    def _variant(self, fields: tuple[Field, ...], wanted: dict[int, Field], name: str) -> Decoder:
        self.meter.charge(len(fields) + len(wanted))
        cases: list[tuple[str, Decoder]] = []
        for one in fields:
            expected = wanted.get(one.id)
            if expected is None:
                lacking = readers.mismatch(f"case {one.label!r} does not coerce to {name}")
                cases.append((one.label, lacking))
            else:
                cases.append((expected.label, self.decoder(one.type, expected.type)))
        return readers.variant_closure(cases)

    def compile_skip(self, wire: Type) -> Skipper:  # noqa: PLR0911 - one return per kind of type
        """The closure that passes over a value of a composite type."""
        floor, weight = self.shape(wire)
        if floor == _NO_VALUES:
            return readers.malformed(f"a value of type {brief(wire)} has no values")
        match wire:
            case Opt(content):
                return readers.skip_opt(self.skipper(content))
            case Vec(element):
                return self._skip_vec(element)
            case Record(fields):
                self.meter.charge(len(fields))
                shapes = [self.shape(one.type) for one in fields]
                kept = [one for one, shape in zip(fields, shapes, strict=True) if shape[0]]
                skip = readers.skip_record([self.skipper(one.type) for one in kept])
                if floor and weight <= 4 * floor + 8:
                    return skip
                self._add_frame()
                return readers.skip_charging(skip, 1 + sum(shape[1] for shape in shapes if not shape[0]))
            case Variant(fields):
                self.meter.charge(len(fields))
                return readers.skip_variant([self.skipper(one.type) for one in fields])
            case Func():
                return lambda data, offset, meter: readers.decode_func(data, offset, meter)[1]
            case Service():
                return readers.skip_principal
            case _:
                return readers.skip_future

    def _skip_vec(self, element: Type) -> Skipper:
        found = resolve(element)
        floor, weight = self.shape(found)
        if isinstance(found, Prim) and found.name in FIXED:
            return readers.skip_fixed(floor)
        if floor == 0:
            return readers.skip_vec_of_nothing(self.skipper(found), max(1, weight))
        return readers.skip_vec_of_values(self.skipper(found), max(1, floor))


# Shapes


_PRIM_SHAPES: Final = {
    "null": (0, 1),
    "reserved": (0, 1),
    "empty": (_NO_VALUES, 0),
    "bool": (1, 0),
    "nat": (1, 0),
    "int": (1, 0),
    "text": (1, 0),
    "principal": (2, 0),
    **{name: (struct.calcsize("<" + code), 0) for name, code in FIXED.items()},
}


def _shapes(header: Header) -> dict[int, tuple[int, int]]:
    """For each record of the table, the bytes of a value at least and the steps that take none.

    Only records can be empty of bytes, so only edges from record to record matter. They are walked from the leaves
    up, without recursion; what is left over contains itself or ``empty`` and has no values.
    """
    records = {id(entry.type): entry.type for entry in header.table if isinstance(entry.type, Record)}
    inner = {key: [resolve(one.type) for one in record.fields] for key, record in records.items()}
    users: dict[int, list[int]] = {key: [] for key in records}
    waiting = dict.fromkeys(records, 0)
    for key, types in inner.items():
        for one in types:
            if id(one) in records:
                users[id(one)].append(key)
            waiting[key] += id(one) in records or one is Empty
    shapes: dict[int, tuple[int, int]] = {}
    ready = [key for key, count in waiting.items() if count == 0]
    while ready:
        key = ready.pop()
        floor, weight = 0, 1
        for one in inner[key]:
            shape = _PRIM_SHAPES[one.name] if isinstance(one, Prim) else shapes.get(id(one), (1, 0))
            floor, weight = min(floor + shape[0], _LARGEST), min(weight + shape[1], _LARGEST)
        shapes[key] = floor, weight
        for user in users[key]:
            waiting[user] -= 1
            if waiting[user] == 0:
                ready.append(user)
    return {key: shapes.get(key, (_NO_VALUES, 0)) for key in records}
