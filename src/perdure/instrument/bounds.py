"""What compiling a module will ask of this machine, from static counts, before anything is compiled.

Native code cannot be interrupted, and some shapes of code cost an engine far more than their size: values that blocks
hand on, locals that meet where control flow meets, operands that live across it, results of calls. Each is counted;
the counts alone decide whether a module is refused, the same on every machine, and how long it may take.

A count is first bounded by how often each instruction occurs, which one pass of the `re` engine tells. Only where that
bound is not enough is a function read instruction by instruction, so real modules cost next to nothing here. What was
measured, and the highest counts of real modules, are in RATIONALE.md and ``docs/fidelity.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from itertools import accumulate
from typing import Final, NamedTuple, final

from perdure.instrument.operators import replica_operators, replica_overhead
from perdure.instrument.scanning import BULK_LENGTH, BULK_LENGTH_32, Streams, opcode_numbers
from perdure.instrument.terms import Bounds, Count, Counts
from perdure.wasm import (
    OPCODE_BY_NAME,
    OPCODES,
    Code,
    ConstExpr,
    ElementMode,
    ExternKind,
    FuncType,
    Module,
    ValType,
    instructions,
    locals_end,
)
from perdure.wasm.instructions import Instruction, read_locals
from perdure.wasm.reader import Reader
from perdure.wasm.tokens import leb_forms

__all__ = ["HIGHEST", "counts_of"]


HIGHEST: Final[Mapping[str, tuple[int, str]]] = {
    "excess_milliseconds": (789, "wasm-utils of the Motoko playground"),
    "types": (222, "PHP 8.3"),
    "type_values": (776, "azle, in Rust"),
    "imports": (136, "PHP 8.3"),
    "exports": (382, "PHP 8.3"),
    "locals": (27_945, "esbuild, in Go"),
    "passive_elements": (0, "any"),
    "nesting": (3_289, "esbuild, in Go"),
    "block_values": (74_529, "PHP 8.3"),
    "merged_locals": (1_753_356, "wasm-utils of the Motoko playground"),
    "stacked_values": (29_676, "PHP 8.3"),
    "call_results": (2_327, "esbuild, in Go"),
    "costly_instructions": (206, "esbuild, in Go"),
}
"""The highest count of every real module that was looked at, and which."""


# Seconds, measured on the developers' machine.
_FUNCTION, _BYTE, _TYPE, _DATA, _ELEMENT = 150e-6, 1.2e-6, 12e-6, 26e-6, 0.5e-6
_TYPE_VALUE, _LOCAL, _PASSIVE_ELEMENT, _ESCAPING_VALUE = 6e-6, 0.1e-6, 15e-6, 18e-6
_VALUE: Final = {
    "block_values": 12e-9,
    "merged_locals": 0.45e-6,
    "stacked_values": 0.08e-6,
    "call_results": 2.4e-6,
    "costly_instructions": 120e-6,
}
# Every function has some locals that meet and some costly instructions; their price is in its bytes'.
_USUAL_PER_BYTE: Final = {"merged_locals": 20, "costly_instructions": 0.02}


def counts_of(module: Module, bounds: Bounds, streams: Streams | None = None) -> Counts:
    """Count what a decoded and validated module has, as exactly as `bounds` need it.

    Args:
        module: what is counted.
        bounds: how exactly.
        streams: those of its bodies are added, for `instrument`.
    """
    counter = _Counter(module, {} if streams is None else streams)
    highest, excess = _of_the_module(module)
    seconds = _TYPE * len(module.types) + _DATA * len(module.data)
    seconds += _ELEMENT * sum(len(element.items) for element in module.elements)
    operators = replica_overhead(module)
    roughly: dict[int, float] = {}
    for index, code in enumerate(module.codes):
        rough = counter.rough(code)
        operators += rough.operators
        found = counter.bounded(index, rough)
        if any(value > getattr(bounds, name) for name, value in found.items()) or rough.guess > bounds.stacked_values:
            found = counter.exact(index)
        for name, value in found.items():
            if value > highest[name].value:
                highest[name] = Count(value, index)
        seconds += _FUNCTION + _BYTE * len(code.body)
        if more := _excess_seconds(found, len(code.body)):
            roughly[index] = more
    more = sum(roughly.values())
    if (excess + more) * 1000 > bounds.excess_milliseconds:
        more = _exact_excess(counter, roughly, bounds.excess_milliseconds / 1000 - excess)
    highest["excess_milliseconds"] = Count(round((excess + more) * 1000))
    return Counts(highest, seconds + excess + more, operators)


def _of_the_module(module: Module) -> tuple[dict[str, Count], float]:
    """What is counted in the module as a whole, 0 for the rest; and the seconds that it takes beyond the usual."""
    highest = {field.name: Count(0) for field in fields(Bounds)}
    declared = sum(sum(count for count, _ in read_locals(Reader(code.body))) for code in module.codes)
    passive = (len(item.items) for item in module.elements if item.mode is not ElementMode.ACTIVE)
    found = {
        "types": len(module.types),
        "type_values": sum(len(item.params) + len(item.results) for item in set(module.types)),
        "imports": len(module.imports),
        "exports": len(module.exports),
        "locals": declared + sum(len(module.types[index].params) for index in module.function_type_indices),
        "passive_elements": sum(passive),
    }
    highest |= {name: Count(value) for name, value in found.items()}
    excess = _TYPE_VALUE * found["type_values"] + _LOCAL * found["locals"]
    excess += _PASSIVE_ELEMENT * found["passive_elements"] + _ESCAPING_VALUE * _escaping_values(module)
    return highest, excess


_USUAL_VALUES: Final = 8


def _escaping_values(module: Module) -> int:
    """Parameters and results, above the usual, of functions that tables may hold: they can be called in two ways."""
    unusual = {
        number for number, item in enumerate(module.types) if len(item.params) + len(item.results) > _USUAL_VALUES
    }
    if not unusual:
        return 0
    escaping: set[int] = set()
    for element in module.elements:
        escaping.update(item if isinstance(item, int) else _referred(item) for item in element.items)
    imported = module.imported_function_count
    types = [module.function_type_indices[index - imported] for index in escaping if index >= imported]
    return sum(
        len(module.types[number].params) + len(module.types[number].results) - _USUAL_VALUES
        for number in types
        if number in unusual
    )


def _referred(expression: ConstExpr) -> int:
    """The function of a ``ref.func``, -1 for other expressions."""
    first = next(iter(instructions(expression.code)))
    return first.immediates[0] if first.opcode == _REF_FUNC and isinstance(first.immediates[0], int) else -1


_REF_FUNC: Final = OPCODE_BY_NAME["ref.func"].number


def _excess_seconds(found: Mapping[str, int], body_bytes: int) -> float:
    return sum(
        price * max(0, found[name] - _USUAL_PER_BYTE.get(name, 0) * body_bytes) for name, price in _VALUE.items()
    )


def _exact_excess(counter: _Counter, roughly: Mapping[int, float], enough_seconds: float) -> float:
    """The excess of functions by their true counts, the most suspicious first, until there is more than enough."""
    total = 0.0
    codes = counter.module.codes
    for index in sorted(roughly, key=lambda index: roughly[index] / len(codes[index].body), reverse=True):
        total += _excess_seconds(counter.exact(index), len(codes[index].body))
        if total > enough_seconds:
            break
    return total


@final
class _Counter:
    """Counts functions of one module, equal bodies once."""

    def __init__(self, module: Module, streams: Streams) -> None:
        self.module = module
        self._streams = streams
        self._most_values = max((len(item.params) + len(item.results) for item in module.types), default=0)
        self._most_results = max((len(item.results) for item in module.types), default=0)
        imports = module.imported(ExternKind.FUNCTION)
        self._inlined = frozenset(number for number, item in enumerate(imports) if item.name in _INLINED)
        self._call = re.compile(b"\x10" + leb_forms(sorted(self._inlined)), re.DOTALL) if self._inlined else None
        self._rough: dict[bytes, _Rough] = {}
        self._exact: dict[tuple[bytes, int], dict[str, int]] = {}

    def rough(self, code: Code) -> _Rough:
        """What the numbers of its instructions tell."""
        found = self._rough.get(code.body)
        if found is None:
            found = self._rough[code.body] = _rough(code, self._streams, is_64=self.module.is_64)
        return found

    def bounded(self, index: int, rough: _Rough) -> dict[str, int]:
        """Counts that the true ones do not exceed."""
        body = self.module.codes[index].body
        inlined = 0 if self._call is None else min(rough.calls, len(self._call.findall(body)))
        return rough.bounded(self._params(index), self._most_values, self._most_results, inlined)

    def exact(self, index: int) -> dict[str, int]:
        """The true counts."""
        code = self.module.codes[index]
        key = code.body, self._params(index)
        found = self._exact.get(key)
        if found is None:
            found = self._exact[key] = _exact(self.module, code, self.rough(code), key[1], self._inlined)
        return found

    def _params(self, index: int) -> int:
        return len(self.module.function_type(self.module.imported_function_count + index).params)


_INLINED: Final = frozenset({"stable64_read", "stable64_write"})
INLINED_BRANCHES: Final = 16
"""Branches in the bodies that are put where those are called; a test counts them."""


# ------------------------------------------------------------------------------------------------- one pass, no objects

_BLOCKS: Final = frozenset(OPCODE_BY_NAME[name].number for name in ("block", "loop", "if"))
_END, _ELSE, _BR_TABLE = (OPCODE_BY_NAME[name].number for name in ("end", "else", "br_table"))
_BRANCHES: Final = frozenset(OPCODE_BY_NAME[name].number for name in ("else", "br", "br_if", "br_table"))
_ACCESSES: Final = frozenset(OPCODE_BY_NAME[name].number for name in ("local.get", "local.set", "local.tee"))
_CALLS: Final = frozenset(
    OPCODE_BY_NAME[name].number for name in ("call", "call_indirect", "return_call", "return_call_indirect")
)
_COSTLY: Final = frozenset(
    OPCODE_BY_NAME[name].number
    for name in (
        "call_indirect",
        "return_call_indirect",
        "table.get",
        "table.set",
        "memory.copy",
        "memory.fill",
        "memory.init",
        "table.copy",
        "table.fill",
        "table.init",
    )
)
_COSTLY_SINGLE: Final = frozenset({*(number for number in _COSTLY if number < 0x100), BULK_LENGTH, BULK_LENGTH_32})
_NOT_NESTING: Final = bytes(number for number in range(256) if number not in {*_BLOCKS, _END})
_STEP: Final = dict.fromkeys(_BLOCKS, 1) | {_END: -1}


class _Rough(NamedTuple):
    """What the numbers of a body's instructions tell."""

    body_bytes: int
    instructions: int
    blocks: int
    branches: int
    tables: int
    accesses: int
    declared: int
    calls: int
    costly: int
    nesting: int
    operators: int

    @property
    def guess(self) -> int:
        """No more operands lie across branches; a hundred times fewer in real code, so this is no count to be told."""
        return (self.blocks + self.branches) * self.instructions

    def bounded(self, params: int, most_values: int, most_results: int, inlined: int) -> dict[str, int]:
        """Counts that the true ones do not exceed; of operands across branches nothing is known."""
        labels = self.body_bytes if self.tables else 0
        locals_in_use = min(params + self.declared, self.accesses)
        return {
            "nesting": self.nesting,
            "block_values": self.blocks * self.blocks * max(1, most_values),
            "merged_locals": (self.blocks + self.branches + labels + INLINED_BRANCHES * inlined) * locals_in_use,
            "stacked_values": 0,
            "call_results": self.calls * most_results,
            "costly_instructions": self.costly + inlined,
        }


def _rough(code: Code, streams: Streams, *, is_64: bool) -> _Rough:
    numbers = opcode_numbers(code, streams)
    steps = numbers.translate(None, _NOT_NESTING)
    return _Rough(
        body_bytes=len(code.body),
        instructions=len(numbers),
        blocks=sum(map(numbers.count, _BLOCKS)),
        branches=sum(map(numbers.count, _BRANCHES)),
        tables=numbers.count(_BR_TABLE),
        accesses=sum(map(numbers.count, _ACCESSES)),
        declared=sum(count for count, _ in read_locals(Reader(code.body))),
        calls=sum(map(numbers.count, _CALLS)),
        costly=sum(map(numbers.count, _COSTLY_SINGLE)),
        nesting=max(accumulate(map(_STEP.__getitem__, steps)), default=0),
        operators=replica_operators(numbers, is_64=is_64),
    )


# ------------------------------------------------------------------------------------------- instruction by instruction

_BINARY: Final = frozenset({
    "add", "sub", "mul", "div", "div_s", "div_u", "rem_s", "rem_u", "and", "or", "xor", "andnot",
    "shl", "shr_s", "shr_u", "rotl", "rotr", "copysign", "min", "max", "pmin", "pmax",
    "eq", "ne", "lt", "gt", "le", "ge", "lt_s", "lt_u", "gt_s", "gt_u", "le_s", "le_u", "ge_s", "ge_u",
    "min_s", "min_u", "max_s", "max_u", "avgr_u", "swizzle", "shuffle",
    "add_sat_s", "add_sat_u", "sub_sat_s", "sub_sat_u", "q15mulr_sat_s", "dot_i16x8_s",
    "narrow_i16x8_s", "narrow_i16x8_u", "narrow_i32x4_s", "narrow_i32x4_u",
})  # fmt: skip
_PUSHES: Final = frozenset({"const", "local.get", "global.get", "memory.size", "table.size", "ref.null", "ref.func"})
_POPS: Final = {
    "drop": 1, "local.set": 1, "global.set": 1, "br_if": 1, "if": 1, "br_table": 1, "select": 2, "table.set": 2,
    "table.grow": 1, "bitselect": 2, "memory.fill": 3, "memory.copy": 3, "memory.init": 3, "table.fill": 3,
    "table.copy": 3, "table.init": 3, "call_indirect": 1,
}  # fmt: skip


def _effect(name: str) -> int:
    """By how much an instruction raises the stack, calls and blocks apart; never less than it does."""
    last = name.rpartition(".")[2]
    if name in _PUSHES or last in _PUSHES:
        return 1
    if name in _POPS or last in _POPS:
        return -_POPS.get(name, _POPS.get(last, 0))
    if last.startswith("store"):
        return -2
    return -1 if last in _BINARY or last.startswith(("extmul", "replace_lane")) else 0


_EFFECT: Final = {number: _effect(opcode.name) for number, opcode in OPCODES.items()}
_NEVER_RETURN: Final = frozenset(
    OPCODE_BY_NAME[name].number
    for name in ("unreachable", "return", "br", "br_table", "return_call", "return_call_indirect")
)
_INDIRECT: Final = frozenset(OPCODE_BY_NAME[name].number for name in ("call_indirect", "return_call_indirect"))
_VALUELESS: Final = -0x40


def _exact(module: Module, code: Code, rough: _Rough, params: int, inlined: frozenset[int]) -> dict[str, int]:
    """The true counts of one function; calls of those `inlined` are replaced by their bodies."""
    block_values = with_values = meetings = stacked = results = height = costly = 0
    entered: list[tuple[int, FuncType]] = []  # open blocks: the stack's height below their parameters, their types
    for step in instructions(code.body, locals_end(code.body)):
        number = step.opcode
        height += _EFFECT[number]
        if number in _BLOCKS:
            block = _block_type(module, step)
            block_values += len(block.params) + len(block.results)
            with_values += bool(block.params or block.results)
            entered.append((height - len(block.params), block))
        elif number == _ELSE:
            height = entered[-1][0] + len(entered[-1][1].params)
        elif number == _END and entered:
            below, block = entered.pop()
            height = below + len(block.results)
        elif number in _CALLS:
            called = _called(module, step)
            height += len(called.results) - len(called.params)
            results += len(called.results)
            if number not in _INDIRECT and step.immediates[0] in inlined:
                meetings += INLINED_BRANCHES
                costly += 1
        costly += number in _COSTLY
        if number in _BLOCKS or number in _BRANCHES:
            labels = step.immediates[0] if number == _BR_TABLE else ()
            meetings += 1 + (len(labels) if isinstance(labels, tuple) else 0)
            stacked += max(0, height)
        if number in _NEVER_RETURN:
            height = entered[-1][0] if entered else 0
    return {
        "nesting": rough.nesting,
        "block_values": block_values * with_values,
        "merged_locals": meetings * min(params + rough.declared, rough.accesses),
        "stacked_values": stacked,
        "call_results": results,
        "costly_instructions": costly,
    }


_ONE_RESULT: Final = FuncType(results=(ValType.I32,))


def _block_type(module: Module, step: Instruction) -> FuncType:
    value = step.immediates[0]
    assert isinstance(value, int)
    if value >= 0:
        return module.types[value]
    return FuncType() if value == _VALUELESS else _ONE_RESULT


def _called(module: Module, step: Instruction) -> FuncType:
    index = step.immediates[0]
    assert isinstance(index, int)
    return module.types[index] if step.opcode in _INDIRECT else module.function_type(index)
