"""Instructions one by one, exactly: for small code. Whole modules are tokenised by `perdure.instrument.metering`.

`instructions` reads them, `encode_instruction` writes one, `map_indices` moves code from one module to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from perdure.wasm.leb import encode_signed, encode_unsigned
from perdure.wasm.opcodes import OPCODES, Immediate, Opcode
from perdure.wasm.reader import Reader

__all__ = [
    "ImmediateValue",
    "Instruction",
    "MemArg",
    "encode_instruction",
    "instructions",
    "locals_end",
    "map_indices",
    "memories_of",
    "read_instruction",
    "read_locals",
]

_MAX_LOCALS = 50_000
_PREFIXES = (0xFC, 0xFD)
_EMPTY_BLOCK = 0x40
_VAL_TYPES = frozenset({0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F})


class MemArg(NamedTuple):
    """What a load or store says of its address. `align` is the exponent, `offset` is added to the address."""

    align: int
    offset: int
    memory_index: int = 0


ImmediateValue = int | bytes | tuple[int, ...] | MemArg
"""An index, label or integer; the bytes of a float, vector or shuffle; labels, the default last; a `MemArg`.

A block type is a type index, or minus 0x40 for none, or the value type's byte minus 0x80 (as the signed LEB128 reads).
"""


class Instruction(NamedTuple):
    """One instruction: its number in `OPCODES`, where it starts and ends in the bytes read, its immediates in order."""

    opcode: int
    start: int
    end: int
    immediates: tuple[ImmediateValue, ...]


def read_locals(reader: Reader) -> tuple[tuple[int, int], ...]:
    """The local declarations at the start of a body: pairs of how many and of which value type's byte."""
    groups = []
    total = 0
    for _ in range(reader.count("groups of locals", smallest=2)):
        start = reader.position
        count = reader.u32("a number of locals")
        total += count
        if total > _MAX_LOCALS:
            reader.fail(f"found {total} locals in a function, expected at most {_MAX_LOCALS}", start)
        groups.append((count, _val_type(reader)))
    return tuple(groups)


def instructions(code: bytes, offset: int = 0, *, base: int = 0) -> Iterator[Instruction]:
    """The instructions of `code` from `offset` to its end.

    For a function body, `offset` is where its local declarations end (`read_locals`).

    Args:
        code: instructions.
        offset: where to start, in bytes.
        base: added to the offset in errors.

    Raises:
        MalformedError: an unknown instruction, or a bad immediate.
    """
    reader = Reader(code, offset, base=base)
    while not reader.at_end:
        yield read_instruction(reader)


def read_instruction(reader: Reader) -> Instruction:
    """The instruction at the reader's position."""
    start = reader.position
    number = reader.byte("an instruction")
    if number in _PREFIXES:
        second = reader.u32("an instruction's second number")
        number = number << 8 | second if second < 0x100 else -1
    opcode = OPCODES.get(number)
    if opcode is None:
        reader.fail(f"found bytes {reader.data[start : reader.position].hex(' ')}, expected an instruction", start)
    values = tuple(_READERS[kind](reader) for kind in opcode.immediates)
    return Instruction(number, start, reader.position, values)


def _val_type(reader: Reader) -> int:
    start = reader.position
    value = reader.byte("a value type")
    if value not in _VAL_TYPES:
        reader.fail(f"found byte {value:#04x}, expected a value type", start)
    return value


def _block_type(reader: Reader) -> int:
    start = reader.position
    value = reader.signed(33, "a block type")
    if value < 0 and (reader.position != start + 1 or value + 0x80 not in _VAL_TYPES | {_EMPTY_BLOCK}):
        reader.fail(f"found {reader.data[start : reader.position].hex(' ')}, expected a block type", start)
    return value


def _labels(reader: Reader) -> tuple[int, ...]:
    count = reader.count("labels")
    return tuple(reader.u32("a label") for _ in range(count + 1))


def _memarg(reader: Reader) -> MemArg:
    start = reader.position
    align = reader.u32("an alignment")
    if align >= 0x80:
        reader.fail(f"found alignment {align:#x}, expected one below 0x80", start)
    memory_index = reader.u32("a memory index") if align & 0x40 else 0
    return MemArg(align & 0x3F, reader.unsigned(64, "an offset"), memory_index)


def _val_types(reader: Reader) -> tuple[int, ...]:
    return tuple(_val_type(reader) for _ in range(reader.count("value types")))


def _heap_type(reader: Reader) -> int:
    start = reader.position
    value = reader.byte("a heap type")
    if value not in {0x70, 0x6F}:
        reader.fail(f"found byte {value:#04x}, expected func (0x70) or extern (0x6f)", start)
    return value


def _index_reader(kind: Immediate) -> Callable[[Reader], ImmediateValue]:
    what = f"a {kind.value} index"
    return lambda reader: reader.u32(what)


_INDICES = (
    Immediate.LABEL,
    Immediate.FUNCTION,
    Immediate.TYPE,
    Immediate.TABLE,
    Immediate.LOCAL,
    Immediate.GLOBAL,
    Immediate.MEMORY,
    Immediate.DATA,
    Immediate.ELEMENT,
)

_READERS: dict[Immediate, Callable[[Reader], ImmediateValue]] = {
    **{kind: _index_reader(kind) for kind in _INDICES},
    Immediate.BLOCK_TYPE: _block_type,
    Immediate.LABELS: _labels,
    Immediate.MEMARG: _memarg,
    Immediate.I32: lambda reader: reader.signed(32, "an i32"),
    Immediate.I64: lambda reader: reader.signed(64, "an i64"),
    Immediate.F32: lambda reader: reader.take(4, "an f32"),
    Immediate.F64: lambda reader: reader.take(8, "an f64"),
    Immediate.V128: lambda reader: reader.take(16, "a v128"),
    Immediate.LANE: lambda reader: reader.byte("a lane"),
    Immediate.LANES: lambda reader: reader.take(16, "lanes"),
    Immediate.VAL_TYPES: _val_types,
    Immediate.HEAP_TYPE: _heap_type,
}

_SIGNED = (Immediate.I32, Immediate.I64, Immediate.BLOCK_TYPE)
_BYTES = (Immediate.LANE, Immediate.HEAP_TYPE)


def encode_instruction(opcode: Opcode, immediates: tuple[ImmediateValue, ...] = ()) -> bytes:
    """One instruction, every integer in its shortest form."""
    high, low = divmod(opcode.number, 0x100)
    head = bytes((high,)) + encode_unsigned(low) if high else bytes((low,))
    return head + b"".join(map(_encode_immediate, opcode.immediates, immediates))


def _encode_immediate(kind: Immediate, value: ImmediateValue) -> bytes:
    match value:
        case MemArg(align, offset, memory_index):
            head = encode_unsigned(align | 0x40) + encode_unsigned(memory_index) if memory_index else bytes((align,))
            return head + encode_unsigned(offset)
        case bytes():
            return value
        case tuple():
            # Labels are a count and one more than that many; value types are as many as counted.
            count = len(value) - (kind is Immediate.LABELS)
            return b"".join(map(encode_unsigned, (count, *value)))
        case int():
            return _encode_integer(kind, value)


def _encode_integer(kind: Immediate, value: int) -> bytes:
    if kind in _SIGNED:
        return encode_signed(value)
    return bytes((value,)) if kind in _BYTES else encode_unsigned(value)


IndexMap = Callable[[int], int]


def map_indices(code: bytes, maps: Mapping[Immediate, IndexMap], offset: int = 0) -> bytes:
    """`code` with indices replaced: what linking does to a body that moves into another module.

    Args:
        code: a function body or constant expression; bytes before `offset` are kept as they are.
        maps: for FUNCTION, TYPE, TABLE, GLOBAL, MEMORY, DATA, ELEMENT: the new index of an old one. Types include
            those of blocks, memories those inside memory arguments.
        offset: where instructions start (after the local declarations, for a body).
    """
    pieces = [code[:offset]]
    for instruction in instructions(code, offset):
        opcode = OPCODES[instruction.opcode]
        values = tuple(
            _map_index(kind, value, maps) for kind, value in zip(opcode.immediates, instruction.immediates, strict=True)
        )
        unchanged = values == instruction.immediates
        pieces.append(code[instruction.start : instruction.end] if unchanged else encode_instruction(opcode, values))
    return b"".join(pieces)


def _map_index(kind: Immediate, value: ImmediateValue, maps: Mapping[Immediate, IndexMap]) -> ImmediateValue:
    if isinstance(value, MemArg):
        move = maps.get(Immediate.MEMORY)
        return value._replace(memory_index=move(value.memory_index)) if move else value
    if kind is Immediate.BLOCK_TYPE:
        kind = Immediate.TYPE
    move = maps.get(kind)
    if move is None or not isinstance(value, int) or value < 0:
        return value
    return move(value)


def memories_of(code: bytes, offset: int) -> tuple[int, ...]:
    """Indices of the memories that the instruction at `offset` reaches; of a copy first where it goes."""
    reader = Reader(code, offset)
    instruction = read_instruction(reader)
    pairs = zip(OPCODES[instruction.opcode].immediates, instruction.immediates, strict=True)
    return tuple(
        value.memory_index if isinstance(value, MemArg) else value
        for kind, value in pairs
        if isinstance(value, MemArg) or (kind is Immediate.MEMORY and isinstance(value, int))
    )


def locals_end(body: bytes) -> int:
    """Where the instructions of a function body start, after its local declarations."""
    reader = Reader(body)
    read_locals(reader)
    return reader.position
