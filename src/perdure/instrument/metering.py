"""Metering and redirecting: function bodies in, function bodies out, in one pass.

A body is cut into blocks. A block ends behind ``loop``, ``if``, ``else``, a branch, ``return``, ``unreachable``, a tail
call or ``end``; its cost is the sum of its instructions. At the start of each block its cost is subtracted from a
counter; where code can be entered again (a function, a loop) the counter is then compared with zero. A bulk operation
also pays for each byte, by a call on its length. These are the replica's rules, so counts are equal to the replica's::

    function start, behind loop   global.get c; i64.const cost; i64.sub; global.set c
                                  global.get c; i64.const 0; i64.lt_s; if; call out_of_instructions; end
    any other block               global.get c; i64.const cost; i64.sub; global.set c      (nothing where cost is 0)
    before a bulk operation       call charge_dynamic                                      (length to length)

Code behind an unconditional branch never runs, so consecutive ones count as one block end, which leaves every count as
it is; so does a row of ``end`` and ``else``, which cost nothing.

Source: ``inject_metering`` in the replica's ``instrumentation.rs``, 2025, second half.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, count, repeat
from operator import contains, itemgetter
from typing import final

from perdure.errors import InternalError
from perdure.garbage import uncollected
from perdure.instrument.costs import CostSchedule
from perdure.instrument.inline import Inlined, scratch_locals, with_scratch_locals
from perdure.instrument.scanning import (
    CALL,
    CONDITIONAL,
    ENDS,
    LENGTHS,
    LOOP,
    MEMORY_GROW,
    PREFIXED_PATTERN,
    REF_FUNC,
    RETURN_CALL,
    UNCONDITIONAL,
    Scan,
    Streams,
    prefixed_number,
    scan_of,
    scanner_for,
    unsigned,
)
from perdure.wasm import OPCODES, Code, encode_signed, encode_unsigned, memories_of
from perdure.wasm.tokens import BR_TABLE, charset, leb_forms, possessive

__all__ = [
    "Change",
    "Rewrite",
    "changes_of",
    "charge_points",
    "rewrite_codes",
]


MAX_LOCALS = 50_000
"""Parameters and locals of one function; the engine takes no more."""


@final
@dataclass(frozen=True)
class Rewrite:
    """What to do to function bodies. Indices are those of the linked module.

    Args:
        schedule: what instructions cost; `None`: no metering, and the next four are not used.
        counter_global: an i64 global counting down.
        out_of_instructions: a function without parameters and results that does not return.
        charge_dynamic32: an (i32) -> i32 that charges its argument and returns it.
        charge_dynamic64: the same for i64.
        redirects: imported functions, and the function to call, or to refer to, instead of each.
        inlines: of those, the ones whose calls are replaced by code.
        instead: of those, the ones whose calls are replaced by code that takes its arguments from the stack.
        param_counts: how many parameters each function has, in the order of the bodies; needed for `inlines`.
        memory_grow: functions to call instead of ``memory.grow``, by memory; those of others stay.
        drop_flag_global: an i32 global set to 1 before each ``data.drop`` and ``elem.drop``; `None` leaves them.
        is_64: whether the heap has 64-bit addresses.
        wide_memories: which memories have 64-bit addresses; `None`: the heap is the only memory.
        is_table_64: whether tables have 64-bit indices.
        hits: what to put behind each charge, by the number of the charge in all bodies; only with a schedule.
    """

    schedule: CostSchedule | None = None
    counter_global: int = 0
    out_of_instructions: int = 0
    charge_dynamic32: int = 0
    charge_dynamic64: int = 0
    redirects: Mapping[int, int] = field(default_factory=dict)
    inlines: Mapping[int, Inlined] = field(default_factory=dict)
    instead: Mapping[int, bytes] = field(default_factory=dict)
    param_counts: Sequence[int] = ()
    memory_grow: Mapping[int, int] = field(default_factory=dict)
    drop_flag_global: int | None = None
    is_64: bool = False
    wide_memories: frozenset[int] | None = None
    is_table_64: bool = False
    hits: Callable[[int], bytes] | None = None


@uncollected()
def rewrite_codes(codes: Sequence[Code], rewrite: Rewrite, streams: Streams | None = None) -> tuple[Code, ...]:
    """The bodies with `rewrite` done to them; those it does not touch are the same objects.

    Takes time linear in the size of the code. The module must be valid: types are not looked at.

    Args:
        codes: all bodies.
        rewrite: what to do to them.
        streams: those that are known.

    Raises:
        MalformedError: something that is no instruction.
    """
    return _Rewriter(rewrite, streams).codes(codes)


def charge_points(codes: Sequence[Code], schedule: CostSchedule, *, is_64: bool = False) -> list[list[int]]:
    """Where the blocks begin that cost something, of each body, ascending: where charges go, and hits.

    Raises:
        MalformedError: something that is no instruction.
    """
    charges, _ = _Rewriter(Rewrite(schedule=schedule, is_64=is_64)).changes(codes)
    return [[at for at, _, _ in charges[code.body]] for code in codes]


def changes_of(codes: Sequence[Code], rewrite: Rewrite, place: int) -> list[Change]:
    """What `rewrite_codes` does to the `place`-th body, ascending; several changes may stand at one place.

    Raises:
        MalformedError: something that is no instruction.
    """
    body = codes[place].body
    rewriter = _Rewriter(rewrite)
    charges, scans = rewriter.changes(codes[: place + 1])
    if body not in scans:
        return []
    points = count(sum(len(charges[code.body]) for code in codes[:place]) if rewrite.hits else 0)
    return rewriter.all_changes(body, scans[body], rewriter.counted(charges[body], points), place)


Change = tuple[int, int, bytes]
"""What stands from a start to an end becomes these bytes."""


@final
class _Rewriter:
    """One `Rewrite`, made ready for many bodies."""

    def __init__(self, rewrite: Rewrite, streams: Streams | None = None) -> None:
        self.rewrite = rewrite
        self.streams = streams or {}
        self.scanner = scanner_for(frozenset(rewrite.redirects), frozenset(rewrite.memory_grow) or frozenset([0]))
        self.meter = None if rewrite.schedule is None else _Meter(rewrite, rewrite.schedule)
        self.scratch = scratch_locals(rewrite.inlines.values())
        self.instead = _Instead(self._edited)

    def codes(self, codes: Sequence[Code]) -> tuple[Code, ...]:
        """Bodies, rewritten."""
        charges, scans = self.changes(codes)
        made: dict[bytes, bytes] = {}
        points = count()
        rewritten = []
        for place, code in enumerate(codes):
            scan = scans.get(code.body)
            if scan is None:
                rewritten.append(code)
                continue
            body = made.get(code.body)
            if body is None:
                changes = self.counted(charges[code.body], points)
                is_inlining = self._inlines_in(code.body, scan)
                body = _changed(code.body, self.all_changes(code.body, scan, changes, place))
                if self.rewrite.hits is None and not is_inlining:  # which depends on a function's parameters
                    made[code.body] = body
            rewritten.append(code if body is code.body else Code(body, code.offset))
        return tuple(rewritten)

    def changes(self, codes: Sequence[Code]) -> tuple[Mapping[bytes, list[Change]], Mapping[bytes, Scan]]:
        """Charges, and what else there is to change, of all different bodies; of those that are left alone nothing."""
        if self.meter is None:
            candidates = _candidates(self.rewrite)
            touched = [bool(candidates.search(code.body)) for code in codes]
            scans = {code.body: scan_of(code, self.scanner, known=b"") for code in _distinct(compress(codes, touched))}
            return {body: [] for body in scans}, scans
        # Modules are full of equal little functions.
        known = self.streams.get
        scans = {code.body: scan_of(code, self.scanner, known(code.body)) for code in _distinct(codes)}
        return dict(zip(scans, self._charges(scans, self.meter), strict=True)), scans

    def counted(self, charges: Sequence[Change], points: Iterator[int]) -> list[Change]:
        """Charges, with hits behind each where these are wanted."""
        hits = self.rewrite.hits
        return list(charges) if hits is None else [(at, at, charge + hits(next(points))) for at, _, charge in charges]

    def _charges(self, scans: Mapping[bytes, Scan], meter: _Meter) -> Iterator[list[Change]]:
        costs = meter.block_costs([scan.numbers for scan in scans.values()])
        blocks = sum(len(scan.cuts) for scan in scans.values())
        if len(costs) != blocks:
            raise InternalError(f"the code has {blocks} blocks but its instructions {len(costs)}")
        remaining = iter(costs)
        for scan in scans.values():
            yield meter.charges(scan, remaining)

    def _inlines_in(self, body: bytes, scan: Scan) -> bool:
        inlines = self.rewrite.inlines
        return bool(inlines) and any(
            body[start] == CALL and unsigned(body[start:end], 1) in inlines for start, end in scan.edits
        )

    def all_changes(self, body: bytes, scan: Scan, changes: list[Change], place: int) -> list[Change]:
        """Add to the charges of a body, the `place`-th, what becomes of its instructions."""
        edits = self._inlined(body, scan, changes, place) if self._inlines_in(body, scan) else scan.edits
        instead = self.instead
        changes += [(start, end, instead[body[start:end]]) for start, end in edits]
        # Stable: a block is charged before its first instruction is changed.
        changes.sort(key=itemgetter(0))
        return changes

    def _inlined(self, body: bytes, scan: Scan, changes: list[Change], place: int) -> Sequence[tuple[int, int]]:
        """Put code in place of some calls; scratch locals for it come behind the function's own.

        A function that has no room for them keeps its calls.

        Returns:
            What else is to be changed.
        """
        inlines, scratch = self.rewrite.inlines, self.scratch
        first_local, declarations = with_scratch_locals(body, self.rewrite.param_counts[place], scratch)
        if first_local + len(scratch) > MAX_LOCALS:
            return scan.edits
        others = []
        for start, end in scan.edits:
            inlined = inlines.get(unsigned(body[start:end], 1)) if body[start] == CALL else None
            if inlined is None:
                others.append((start, end))
            else:
                changes.append((start, end, inlined.at(first_local, scratch)))
        changes.append((0, scan.start, declarations))
        return others

    def _edited(self, old: bytes) -> bytes:
        """What an instruction becomes."""
        rewrite = self.rewrite
        number = old[0]
        if number == MEMORY_GROW:
            function = rewrite.memory_grow.get(unsigned(old, 1))
            return old if function is None else _call(function)
        if number == CALL and rewrite.instead and (code := rewrite.instead.get(unsigned(old, 1))) is not None:
            return code
        if number in {CALL, RETURN_CALL, REF_FUNC}:
            return old[:1] + encode_unsigned(rewrite.redirects[unsigned(old, 1)])
        return self._before_bulk(old) + old

    def _before_bulk(self, old: bytes) -> bytes:
        rewrite, number = self.rewrite, unsigned(old, 1)
        if number in _DROPS:
            flag = rewrite.drop_flag_global
            return b"" if flag is None else b"\x41\x01\x24" + encode_unsigned(flag)
        if self.meter is None or number not in LENGTHS:
            return b""
        width = LENGTHS[number]
        is_wide = (
            rewrite.is_64 if rewrite.wide_memories is None else rewrite.wide_memories.issuperset(memories_of(old, 0))
        )
        is_64 = (is_wide and width == "memory") or (rewrite.is_table_64 and width == "table")
        return _call(rewrite.charge_dynamic64 if is_64 else rewrite.charge_dynamic32)


@final
class _Instead(dict[bytes, bytes]):
    """What instructions become, each looked at once."""

    def __init__(self, edited: Callable[[bytes], bytes]) -> None:
        super().__init__()
        self._edited = edited

    def __missing__(self, old: bytes) -> bytes:
        new = self[old] = self._edited(old)
        return new


def _changed(body: bytes, changes: Iterable[Change]) -> bytes:
    pieces: list[bytes] = []
    copied = 0
    for start, end, text in changes:
        pieces += (body[copied:start], text)
        copied = end
    if not pieces:
        return body
    pieces.append(body[copied:])
    return b"".join(pieces)


def _distinct(codes: Iterable[Code]) -> Iterable[Code]:
    return {code.body: code for code in codes}.values()


_DROPS = frozenset({0x09, 0x0D})


def _candidates(rewrite: Rewrite) -> re.Pattern[bytes]:
    """Found in every body that has anything to change when nothing is metered, and in few others."""
    alternatives = []
    if rewrite.redirects:
        alternatives.append(rb"[\x10\x12\xd2]" + leb_forms(rewrite.redirects.keys()))
    if rewrite.memory_grow:
        alternatives.append(rb"\x40" + leb_forms(rewrite.memory_grow.keys()))
    if rewrite.drop_flag_global is not None:
        alternatives.append(rb"\xfc" + leb_forms(_DROPS))
    return re.compile(b"|".join(alternatives) or b"(?!)", re.DOTALL)


def _call(function_index: int) -> bytes:
    return bytes((CALL,)) + encode_unsigned(function_index)


@final
class _Meter:
    """Costs of blocks, and the code that charges them."""

    def __init__(self, rewrite: Rewrite, schedule: CostSchedule) -> None:
        counter = encode_unsigned(rewrite.counter_global)
        self.load = b"\x23" + counter
        self.store = b"\x7d\x24" + counter  # i64.sub, global.set
        # i64.const 0; i64.lt_s; if; call out_of_instructions; end
        self.check = self.load + b"\x42\x00\x53\x04\x40" + _call(rewrite.out_of_instructions) + b"\x0b"
        self.static: dict[int, bytes] = {0: b""}
        self.prologue = bytes((_PROLOGUE,)) * schedule.prologue
        self.lengths = {
            number: schedule.cost(opcode.name, is_64=rewrite.is_64)
            for number, opcode in OPCODES.items()
            if number >= 0x100 or number in _BLOCK_ENDING or schedule.cost(opcode.name, is_64=rewrite.is_64) != 1
        }
        self.prefixed: dict[bytes, bytes] = {}
        self.dear: dict[int, bytes] = {}

    def charges(self, scan: Scan, costs: Iterator[int]) -> list[Change]:
        """What to insert into a body, ascending; `costs` gives the cost of each of its blocks."""
        place, enters = scan.start, True
        static = self.static
        charges = []
        for cut, cost in zip(scan.cuts, costs, strict=False):
            charge = static.get(cost)
            if charge is None:
                charge = static[cost] = self.load + b"\x42" + encode_signed(cost) + self.store
            if enters:
                charge += self.check
            if charge:
                charges.append((place, place, charge))
            place, enters = (~cut, True) if cut < 0 else (cut, False)
        return charges

    def block_costs(self, streams: Sequence[bytes]) -> list[int]:
        """The cost of each block of all bodies, one after the other.

        Every instruction is written as a number of bytes that is its cost, and what ends a block as a mark behind
        them: so the lengths of what lies between the marks are the costs, and no byte is added up in Python.
        Two kinds of instructions differ. Dear ones are two bytes and are counted, or else code could be written that
        fills the memory. Of those that cost nothing only those right behind a mark are kept, as part of it: they keep
        it apart from a next mark.
        """
        stream = b"".join([self.prologue + stream for stream in streams])
        if b"\xfc" in stream or b"\xfd" in stream:
            stream = PREFIXED_PATTERN.sub(self._prefixed_units, stream)
        for number, cost in self.lengths.items():
            if number < 0x100:
                stream = stream.replace(bytes((number,)), self._units(number, cost))
        for number in _BLOCK_ENDING:
            stream = stream.replace(bytes((number, _FREE)), bytes((number, _APART)))
        stream = stream.replace(bytes((_FREE,)), b"")
        blocks = _BLOCK_ENDS.split(stream)
        if blocks.pop():
            raise InternalError("the instructions of a body do not end with the end of a block")
        costs = list(map(len, blocks))
        if _DEAR in stream:
            for place in compress(range(len(blocks)), map(contains, blocks, repeat(_DEAR))):
                block = blocks[place]
                costs[place] += sum((cost - 2) * block.count(unit) for cost, unit in self.dear.items())
        return costs

    def _prefixed_units(self, match: re.Match[bytes]) -> bytes:
        encoded = match[0]
        units = self.prefixed.get(encoded)
        if units is None:
            units = self.prefixed[encoded] = self._units(_UNIT, self.lengths[prefixed_number(encoded)])
        return units

    def _units(self, number: int, cost: int) -> bytes:
        """What is written for an instruction; `number` is a byte to write for each unit of its cost."""
        if number in _BLOCK_ENDING:
            filler = (
                bytes((_FILLER,)) * cost if cost <= _MOST_UNITS else bytes((_FILLER,)) + self._units(_UNIT, cost - 1)
            )
            return filler + bytes((number,))
        if cost <= _MOST_UNITS:
            return bytes((number,)) * cost or bytes((_FREE,))
        if cost not in self.dear:
            self.dear[cost] = bytes((_DEAR_UNITS[len(self.dear)],))
        return bytes((_DEAR,)) + self.dear[cost]


# Bytes that are no instruction's number, for the streams that costs are measured in.
_PROLOGUE, _UNIT, _FILLER, _FREE, _APART, _DEAR = 0xFE, 0xFB, 0xFA, 0xF9, 0xF8, 0xF7
_DEAR_UNITS = range(0xD3, _DEAR)
_MOST_UNITS = 10
_BLOCK_ENDING = frozenset({*UNCONDITIONAL, *CONDITIONAL, *ENDS, LOOP, BR_TABLE})
_DEAD_FILLER = possessive(rb"\xfa" + possessive(rb"\xf7.", b"?"), b"*")
_BLOCK_ENDS = re.compile(
    charset(_BLOCK_ENDING)  # first, alone: the search skips to it
    + possessive(
        b"(?<=" + charset(UNCONDITIONAL) + b")" + possessive(_DEAD_FILLER + charset(UNCONDITIONAL), b"*"), b"?"
    )
    + possessive(b"(?<!" + charset((LOOP, BR_TABLE)) + b")" + charset(ENDS) + b"++", b"?")
    + rb"\xf8?+",
    re.DOTALL,
)
"""The block ends of such a stream, exactly as a scan finds them in the code."""
