"""Function bodies taken apart by the `re` engine: where blocks end, which instructions there are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, NoReturn

from perdure.errors import InternalError, MalformedError
from perdure.wasm import OPCODES, Code, instructions, locals_end
from perdure.wasm.tokens import (
    BLOCK_TYPE,
    BR_TABLE,
    BULK,
    FEW_LABELS,
    INDEX,
    PREFIXED,
    charset,
    leb_forms,
    opcode_stream,
    possessive,
    skip_labels,
    token_pattern,
)

__all__ = [
    "BULK_LENGTH",
    "BULK_LENGTH_32",
    "CALL",
    "CONDITIONAL",
    "ENDS",
    "LENGTHS",
    "LOOP",
    "MEMORY_GROW",
    "NOP",
    "PREFIXED_PATTERN",
    "REF_FUNC",
    "RETURN_CALL",
    "UNCONDITIONAL",
    "Scan",
    "Streams",
    "count_instructions",
    "opcode_histogram",
    "opcode_numbers",
    "prefixed_number",
    "scan_of",
    "scanner_for",
    "unsigned",
]

UNCONDITIONAL = (0x00, 0x0F, 0x0C, 0x12, 0x13)  # unreachable, return, br, return_call, return_call_indirect
CONDITIONAL = (0x04, 0x0D)  # if, br_if
ENDS = (0x05, 0x0B)  # else, end
_END = b"\x0b"
LOOP = 0x03
CALL, RETURN_CALL, MEMORY_GROW, REF_FUNC = 0x10, 0x12, 0x40, 0xD2
NOP, BULK_LENGTH, BULK_LENGTH_32 = 0x01, 0xF1, 0xF0
_BULK_PREFIX = 0xFC

# The groups of a scan: what ended a run of instructions.
_LOOP_START, _EDIT, _TAIL_CALL_EDIT, _MANY_LABELS, _STOP = range(1, 6)

Streams = dict[bytes, bytes]
"""Of bodies: the numbers of their instructions, prefixed ones as encoded. Half of what reading code takes is to find
them, so who reads it twice has them from the first time."""


def count_instructions(codes: Sequence[Code]) -> int:
    """How many instructions the bodies have.

    Raises:
        MalformedError: something that is no instruction.
    """
    return sum(sum(opcode_histogram(code).values()) for code in codes)


def opcode_numbers(code: Code, streams: Streams) -> bytes:
    """The number of each instruction of a body, one byte each.

    Those with a prefix are `NOP`, but for the bulk operations that are charged by their length: `BULK_LENGTH` where
    that has the width of an address, `BULK_LENGTH_32` where it has 32 bits whatever the heap.

    Args:
        code: the body.
        streams: the body's is added.

    Raises:
        MalformedError: something that is no instruction.
    """
    stream = streams[code.body] = _stream(code)
    return PREFIXED_PATTERN.sub(_one_byte, stream)


def _one_byte(match: re.Match[bytes]) -> bytes:
    encoded = match[0]
    width = LENGTHS.get(prefixed_number(encoded) & 0xFF) if encoded[0] == _BULK_PREFIX else None
    return bytes((NOP if width is None else BULK_LENGTH if width else BULK_LENGTH_32,))


def opcode_histogram(code: Code) -> dict[int, int]:
    """How often each instruction occurs in a body, by its number in `OPCODES`.

    Raises:
        MalformedError: something that is no instruction.
    """
    stream = _stream(code)
    counts: dict[int, int] = {}
    prefixed = PREFIXED_PATTERN.findall(stream)
    for number in set(prefixed):
        key = prefixed_number(number)
        counts[key] = counts.get(key, 0) + prefixed.count(number)
    stream = PREFIXED_PATTERN.sub(b"", stream)
    return counts | {number: stream.count(number) for number in set(stream)}


PREFIXED_PATTERN = re.compile(PREFIXED, re.DOTALL)


def prefixed_number(encoded: bytes) -> int:
    """The number in `OPCODES` of an instruction with a prefix."""
    return encoded[0] << 8 | unsigned(encoded, 1)


def unsigned(code: bytes, position: int) -> int:
    """The unsigned LEB128 number at `position`."""
    value = shift = 0
    while True:
        byte = code[position]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value
        position += 1
        shift += 7


@cache
def scanner_for(redirected: frozenset[int], grown: frozenset[int] = frozenset([0])) -> re.Pattern[bytes]:
    """An expression that matches a run of instructions and what ends it: a block's end, or something to change."""
    ended = {CALL, MEMORY_GROW, REF_FUNC, BR_TABLE, LOOP, *BULK, *UNCONDITIONAL, *CONDITIONAL, *ENDS}
    run = token_pattern(number for number in OPCODES if number not in ended)
    targets = leb_forms(redirected) if redirected else b"(?!)"
    memories = leb_forms(grown)
    run += rb"|[\x10\xd2](?!" + targets + b")" + INDEX + rb"|\x40(?!" + memories + b")" + INDEX
    ends = charset(ENDS)
    unconditional = rb"(?:[\x00\x0f]|[\x0c\x12]" + INDEX + rb"|\x13" + INDEX + INDEX + b")"
    dead = possessive(unconditional, b"*") + ends + b"*+"
    ending = (
        ends + b"++",
        rb"\x0d" + INDEX + ends + rb"*+|\x04" + BLOCK_TYPE + ends + b"*+",
        rb"(\x03" + BLOCK_TYPE + b")",
        rb"([\x10\xd2]" + targets + rb"|\x40" + memories + b"|" + token_pattern(BULK) + b")",
        rb"(\x12" + targets + b")" + dead,
        unconditional + dead,
        rb"\x0e" + FEW_LABELS,
        rb"(\x0e)",
        rb"([\x00-\xff]|\Z)",  # no instruction, or the end: so that the search never moves on by itself
    )
    return re.compile(possessive(run, b"*") + b"(?:" + b"|".join(ending) + b")", re.DOTALL)


@cache
def _run() -> re.Pattern[bytes]:
    """Matches instructions up to a ``br_table`` with many labels, or to what is none."""
    tokens = token_pattern(number for number in OPCODES if number != BR_TABLE) + rb"|\x0e" + FEW_LABELS
    return re.compile(possessive(tokens, b"*"), re.DOTALL)


def _stream(code: Code) -> bytes:
    body, numbers = code.body, bytearray()
    position = 1 if body[0] == 0 else locals_end(body)
    while position < len(body):
        run = _run().match(body, position)
        assert run is not None  # it may be empty
        end = run.end()
        numbers += opcode_stream(body, position, end)
        position = end
        if end < len(body):
            position = skip_labels(body, end + 1) if body[end] == BR_TABLE else -1
            if position < 0:
                _fail(code, end)
            numbers.append(BR_TABLE)
    if not numbers.endswith(_END):
        _fail(code, position)
    return bytes(numbers)


class Scan(NamedTuple):
    """A body, taken apart."""

    start: int
    """Where instructions start."""
    numbers: bytes
    """The stream of instruction numbers, prefixed ones as encoded; empty where not asked for."""
    cuts: list[int]
    """Where each block ends; inverted (``~``) where the next one is a loop."""
    edits: list[tuple[int, int]]
    """Where the instructions that are to be changed start and end."""


def scan_of(code: Code, scanner: re.Pattern[bytes], known: bytes | None = None) -> Scan:
    """Take a body apart; `known`: its numbers, or empty where they are not asked for."""
    body = code.body
    position = start = 1 if body[0] == 0 else locals_end(body)
    numbers: list[bytes] = []
    cuts: list[int] = []
    edits: list[tuple[int, int]] = []
    while True:
        group, end = _scan_stretch(scanner, body, position, cuts, edits)
        if known is None:
            numbers.append(opcode_stream(body, position, end))
        if group == _STOP:
            break
        if known is None:
            numbers.append(bytes((BR_TABLE,)))
        position = skip_labels(body, end + 1)
        if position < 0:
            _fail(code, end)
        cuts.append(position)
    if end != len(body) or not cuts or cuts[-1] != end:
        _fail(code, end)
    return Scan(start, b"".join(numbers) if known is None else known, cuts, edits)


def _scan_stretch(
    scanner: re.Pattern[bytes], body: bytes, position: int, cuts: list[int], edits: list[tuple[int, int]]
) -> tuple[int, int]:
    """Add a stretch's block ends and edits. Returns what ended it, as a group, and where that stands."""
    for match in scanner.finditer(body, position):
        group = match.lastindex
        if group is None:
            cuts.append(match.end())
        elif group == _LOOP_START:
            cuts.append(~match.end())
        elif group == _EDIT:
            edits.append(match.span(_EDIT))
        elif group == _TAIL_CALL_EDIT:
            edits.append(match.span(_TAIL_CALL_EDIT))
            cuts.append(match.end())
        else:
            return group, match.start(group)
    raise InternalError("a scan of code matched nothing")  # its last alternative matches anything


def _fail(code: Code, position: int) -> NoReturn:
    """Say what is wrong at `position`, in the words of the exact reader."""
    base = max(code.offset, 0)
    for _ in instructions(code.body, position, base=base):
        pass
    raise MalformedError("found the end of a body, expected its last instruction to be end", base + position)


# What has the width of an address decides the width of a bulk operation's length: memory.init, table.init: nothing.
LENGTHS = {0x08: "", 0x0A: "memory", 0x0B: "memory", 0x0C: "", 0x0E: "table", 0x11: "table"}
