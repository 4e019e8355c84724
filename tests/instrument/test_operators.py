"""Operators as the replica counts them, against its rules told step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from perdure.instrument import Bounds, counts_of
from perdure.instrument.costs import SCHEDULES
from perdure.wasm import OPCODES, Module, decode, instructions, locals_end

MODULES = Path(__file__).parents[1] / "canisters" / "modules"
ENDS_BLOCK = {
    "if", "else", "br", "br_if", "br_table", "end", "return", "unreachable", "return_call", "return_call_indirect",
}  # fmt: skip
BY_ADDRESS = ["memory.fill", "memory.copy", "table.copy", "table.fill"]
BY_32_BITS = ["memory.init", "table.init"]
STABLE = {"stable64_grow": 21, "stable64_read": 119, "stable64_size": 2, "stable64_write": 107,
          "stable_grow": 24, "stable_read": 106, "stable_size": 10, "stable_write": 91}  # fmt: skip


def injected(module: Module) -> int:
    """Every function rewritten in the mind: a list of injection points, as the replica makes it."""
    schedule = SCHEDULES["2025"]
    count = 0
    for code in module.codes:
        cost, reentrant = 1, True
        for step in instructions(code.body, locals_end(code.body)):
            name = OPCODES[step.opcode].name
            count += 1
            cost += schedule.cost(name, is_64=module.is_64)
            if name in BY_ADDRESS:
                count += 1 if module.is_64 else 3
            count += 3 * (name in BY_32_BITS or name == "memory.grow")
            if name == "loop" or name in ENDS_BLOCK:
                count += 10 if reentrant else 4 * (cost > 0)
                cost, reentrant = 0, name == "loop"
    return count


def expected(module: Module) -> int:
    imported = {item.name for item in module.imports}
    globals_ = 2 * (len(module.globals) + 3)
    return injected(module) + 20 + 46 + globals_ + sum(count for name, count in STABLE.items() if name in imported)


SMALL = [path for path in sorted(MODULES.glob("*.wasm*")) if path.stat().st_size < 120_000]


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.name)
def test_real_modules(path):
    module = decode(path.read_bytes())
    assert counts_of(module, Bounds()).operators == expected(module)


SHAPES = {
    "nothing": ("(module)", 20 + 46 + 2 * 3),
    "an empty function": ("(module (func))", 20 + 46 + 6 + 1 + 10),
    "a global": ("(module (global i32 (i32.const 1)))", 20 + 46 + 6 + 2),
    # i32.const, if, nop, end, end: one charged block beside the function's own
    "an if": ("(module (func i32.const 1 if nop end))", 72 + 5 + 10 + 4),
    "free blocks": ("(module (func block end block end))", 72 + 5 + 10),
    "dead code is charged": ("(module (func br 0 br 0 nop))", 72 + 4 + 10 + 4 + 4),
    "a loop": ("(module (func loop end))", 72 + 3 + 10 + 10),
    "growing": ("(module (memory 1) (func (drop (memory.grow (i32.const 1)))))", 72 + 4 + 10 + 3),
    "filling": (
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))", 72 + 5 + 10 + 3,
    ),
    "filling 64": (
        "(module (memory i64 1) (func (memory.fill (i64.const 0) (i32.const 0) (i64.const 0))))", 72 + 5 + 10 + 1,
    ),
    "stable memory": ('(module (import "ic0" "stable64_size" (func (result i64))))', 72 + 2),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    text, count = SHAPES[name]
    module = decode(bytes(wasmtime.wat2wasm(text)))
    assert counts_of(module, Bounds()).operators == count == expected(module)
