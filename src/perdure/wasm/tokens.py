"""Plumbing: regular expressions that tokenise Wasm code, made from the opcode table.

Code is read by the `re` engine, not by Python: one match takes a whole run of instructions, and no object is made per
instruction. One thing is not regular and ends a *stretch* of code: a ``br_table`` with `MANY_LABELS` or more (fewer are
a regular matter). Within a stretch, `opcode_stream` gives the number of each instruction and no immediates, but for the
bulk operations (0xFC 8 to 17), which it gives whole.

Every expression is possessive and each instruction is decided by its first bytes, so matching is linear in the input.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable
from functools import cache

from perdure.wasm.opcodes import OPCODES, PATTERNS, Immediate, Opcode

__all__ = [
    "BLOCK_TYPE",
    "BR_TABLE",
    "BULK",
    "FEW_LABELS",
    "INDEX",
    "PREFIXED",
    "charset",
    "leb_forms",
    "opcode_stream",
    "possessive",
    "skip_labels",
    "token_pattern",
]

INDEX = PATTERNS[Immediate.FUNCTION]
BLOCK_TYPE = PATTERNS[Immediate.BLOCK_TYPE]
BR_TABLE = 0x0E
BULK = tuple(range(0xFC08, 0xFC12))
"""Operations on memories, tables and segments."""
MANY_LABELS = 32

_LEB32_BYTES = 5


# Before Python 3.11.5 a possessive group that fails midway keeps what it has read (CPython issues 100061 and 106052).
# An atomic group around a greedy one means the same, but remembers every repetition: some 60 bytes each.
_POSSESSIVE = (b"(?:", b"+") if sys.version_info >= (3, 11, 5) else (b"(?>(?:", b")")


def possessive(pattern: bytes, repetition: bytes) -> bytes:
    """`pattern` repeated, ``*``, ``?`` or ``{3}``, never giving back what it matched."""
    before, after = _POSSESSIVE
    return before + pattern + b")" + repetition + after


def charset(values: Iterable[int]) -> bytes:
    """A regular expression for any one of these bytes."""
    return b"[" + b"".join(b"\\x%02x" % value for value in sorted(values)) + b"]"


def leb_forms(values: Collection[int], room: int = _LEB32_BYTES) -> bytes:
    """A regular expression for every LEB128 form, padded ones included, of any of `values` in at most `room` bytes."""
    alternatives = []
    if last := [value for value in values if value < 0x80]:
        alternatives.append(charset(last))
        if room > 1:
            alternatives.append(charset(value | 0x80 for value in last) + rb"\x80{0,%d}+\x00" % (room - 2))
    rests: defaultdict[int, set[int]] = defaultdict(set)
    for value in values:
        if value >= 0x80:
            rests[value & 0x7F | 0x80].add(value >> 7)
    firsts: defaultdict[frozenset[int], list[int]] = defaultdict(list)
    for first, rest in rests.items():
        firsts[frozenset(rest)].append(first)
    alternatives += [charset(group) + leb_forms(rest, room - 1) for rest, group in firsts.items()]
    return b"(?:" + b"|".join(alternatives) + b")"


def token_pattern(numbers: Iterable[int]) -> bytes:
    """Alternatives that match one instruction, immediates included, of those with these numbers.

    The most frequent kinds of immediates come first.
    """
    plain, prefixed = _by_immediates(OPCODES[number] for number in numbers)
    alternatives = [charset(group) + pattern for pattern, group in plain]
    alternatives += [b"\\x%02x" % prefix + leb_forms(group) + pattern for prefix, pattern, group in prefixed]
    return b"|".join(alternatives)


def _by_immediates(
    opcodes: Iterable[Opcode],
) -> tuple[list[tuple[bytes, list[int]]], list[tuple[int, bytes, list[int]]]]:
    plain: defaultdict[bytes, list[int]] = defaultdict(list)
    prefixed: defaultdict[tuple[int, bytes], list[int]] = defaultdict(list)
    for opcode in opcodes:
        pattern = b"".join(PATTERNS[kind] for kind in opcode.immediates)
        if opcode.number < 0x100:
            plain[pattern].append(opcode.number)
        else:
            prefixed[opcode.number >> 8, pattern].append(opcode.number & 0xFF)
    # One index or integer is by far the most frequent, then nothing, then memory arguments.
    frequent = (INDEX, b"", PATTERNS[Immediate.MEMARG])
    order = [pattern for pattern in frequent if pattern in plain]
    order += [pattern for pattern in plain if pattern not in frequent]
    return (
        [(pattern, plain[pattern]) for pattern in order],
        [(prefix, pattern, group) for (prefix, pattern), group in prefixed.items()],
    )


_LABELS = (leb_forms([count]) + possessive(INDEX, b"{%d}" % (count + 1)) for count in range(MANY_LABELS))
FEW_LABELS = b"(?:" + b"|".join(_LABELS) + b")"
"""The immediates of a ``br_table`` with fewer than `MANY_LABELS` labels and a default."""

_BULK_WHOLE = token_pattern(BULK)
PREFIXED = _BULK_WHOLE + rb"|[\xfc\xfd]" + INDEX
"""What a stream has for an instruction with a prefix."""

_STRETCH = tuple(number for number in OPCODES if number != BR_TABLE)
_VECTOR_PREFIX = b"\xfd"


@cache
def _general() -> re.Pattern[bytes]:
    """Matches one instruction of a stretch; the group is what the stream has for it."""
    tokens = token_pattern(_STRETCH) + rb"|\x0e" + FEW_LABELS
    return re.compile(rb"(?=([^\xfc\xfd]|" + PREFIXED + rb"))(?:" + tokens + b")", re.DOTALL)


@cache
def _phased() -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """What comes first in a stretch without vectors, and what comes again and again.

    The second matches from behind one instruction number to behind the next one that has immediates: the immediates
    of the former, found by looking back at it, then (the group) every instruction without immediates that follows,
    and the next number. That makes a third fewer matches than one for each instruction.
    """
    plain, _ = _by_immediates(OPCODES[number] for number in _STRETCH if number < 0x100)
    bare = charset(next(group for pattern, group in plain if not pattern))
    with_immediates = charset([BR_TABLE, *(number for pattern, group in plain if pattern for number in group)])
    prefixed = rb"(?:\xfc" + leb_forms(range(8)) + b"|" + _BULK_WHOLE + b")"
    numbers = bare + b"*+" + possessive(prefixed + bare + b"*+", b"*") + with_immediates + b"?+"
    behind = b"|".join(b"(?<=" + charset(group) + b")" + pattern for pattern, group in plain if pattern)
    behind += b"|(?<=" + charset([BR_TABLE]) + b")" + FEW_LABELS
    return re.compile(numbers, re.DOTALL), re.compile(b"(?:" + behind + b")(" + numbers + b")", re.DOTALL)


def opcode_stream(code: bytes, start: int, end: int) -> bytes:
    """The instruction numbers of a stretch, as encoded, without immediates; bulk operations whole.

    The stretch must have been matched by `token_pattern` expressions before: nothing is checked here.
    """
    if code.find(_VECTOR_PREFIX, start, end) >= 0:
        return b"".join(_general().findall(code, start, end))
    first, following = _phased()
    head = first.match(code, start, end)
    assert head is not None
    return head[0] + b"".join(following.findall(code, head.end(), end))


def skip_labels(code: bytes, position: int) -> int:
    """Where a ``br_table`` whose count is at `position` ends, or -1 when `code` ends too early."""
    count = shift = 0
    while True:
        if position >= len(code) or shift >= 7 * _LEB32_BYTES:
            return -1
        byte = code[position]
        position += 1
        count |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
    count += 1  # the default
    if count > len(code) - position:
        return -1
    if code[position : position + count].isascii():  # one byte each, as nearly always
        return position + count
    while count and position < len(code):
        count -= code[position] < 0x80
        position += 1
    return -1 if count else position
