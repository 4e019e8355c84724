"""Static counts of what compiling will cost: exact where they decide, and inclusive."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
import wasmtime

from perdure.errors import UnsupportedError
from perdure.instrument import HIGHEST, Bounds, counts_of
from perdure.instrument.appendix import Appendix
from perdure.instrument.bounds import INLINED_BRANCHES
from perdure.instrument.linking import kernel_for
from perdure.wasm import OPCODES, FuncType, Module, ValType, decode, instructions, locals_end

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


def module(body: str, before: str = ""):
    return decode(bytes(wasmtime.wat2wasm(f"(module {before} (func) (func {body}))")))


def locals_(count: int) -> str:
    return f"(local {'i32 ' * count})"


# For each bound a module and what it counts, by hand.
IC0_READ = '(import "ic0" "stable64_read" (func $read (param i64 i64 i64)))'
SHAPES = {
    # 2,500 results of 2.4 us.
    "excess_milliseconds": (module("call $one drop " * 2_500, "(func $one (result i32) i32.const 1)"), 6),
    "type_values": (module("nop", "(type (func (param i32))) (type (func (param i64))) (type (func (param i64)))"), 2),
    "locals": (module("(local i32 i64 i64) nop", "(func (param i32 i32))"), 5),
    "passive_elements": (
        module("nop", "(table 1 funcref) (func $f) (elem func $f $f) (elem declare func $f) (elem (i32.const 0) $f)"),
        3,
    ),
    "costly_instructions": (
        module(
            "(call $read (i64.const 0) (i64.const 0) (i64.const 8)) (call_indirect (i32.const 0)) "
            "(drop (table.get 0 (i32.const 0))) (memory.copy (i32.const 0) (i32.const 1) (i32.const 8)) (call 1)",
            f"{IC0_READ} (memory 1) (table 1 funcref)",
        ),
        4,
    ),
    "types": (module("nop", "(type (func (param i32))) (type (func (param i64)))"), 3),
    "imports": (decode(bytes(wasmtime.wat2wasm('(module (import "ic0" "msg_reply" (func)) (func))'))), 1),
    "exports": (decode(bytes(wasmtime.wat2wasm('(module (func (export "a") (export "b")))'))), 2),
    "nesting": (module("block block loop end end block end end"), 3),
    # Two blocks with (1 + 2) and (0 + 1) values; the third has none.
    "block_values": (
        module(
            "i32.const 1 (block (param i32) (result i32 i32) i32.const 1) drop drop "
            "(block (result i32) i32.const 2) drop (block)"
        ),
        2 * 4,
    ),
    # Five locals are there, three are used; a block, a loop and a br_if are where control meets.
    "merged_locals": (
        module(f"{locals_(5)} (block (loop (br_if 1 (local.get 0)) (local.set 1 (local.get 2))))"),
        3 * 3,
    ),
    # Two operands below the loop and its result, three at the br_if; the condition is popped by then.
    "stacked_values": (
        module("i32.const 1 i32.const 2 (loop (result i32) i32.const 3 (br_if 0 (i32.const 0))) drop drop drop"),
        2 + 3,
    ),
    "call_results": (
        module("call $two drop drop call $two drop drop", "(func $two (result i32 i32) i32.const 1 i32.const 2)"),
        4,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_each_bound_is_inclusive_and_refuses_by_name(name):
    shape, count = SHAPES[name]
    tight = Bounds(**{name: count})
    tight.check(counts_of(shape, tight))
    tighter = Bounds(**{name: count - 1})
    with pytest.raises(UnsupportedError, match=rf"\b{count} .* at most {count - 1} .*Bounds\.{name}"):
        tighter.check(counts_of(shape, tighter))


def test_the_place_is_the_function_that_has_it():
    shape, count = SHAPES["merged_locals"]
    tight = Bounds(merged_locals=count - 1)
    with pytest.raises(UnsupportedError, match="function 1 has"):
        tight.check(counts_of(shape, tight))


def test_every_bound_has_a_shape_and_stands_above_every_real_module():
    assert {field.name for field in fields(Bounds)} == SHAPES.keys() == HIGHEST.keys()
    for field in fields(Bounds):
        assert getattr(Bounds(), field.name) >= 3 * HIGHEST[field.name][0]


@pytest.mark.parametrize("path", sorted(MODULES.glob("*.wasm*")), ids=lambda path: path.name)
def test_real_modules_are_counted_and_taken(path):
    real = decode(path.read_bytes())
    counts = counts_of(real, Bounds())
    Bounds().check(counts)
    assert counts.highest["exports"].value == len(real.exports)


def test_a_br_table_counts_its_labels():
    labels = " ".join(["0"] * 5_000)
    shape = module(f"{locals_(4)} (local.set 0 (local.get 1)) (block (br_table {labels} (local.get 2)))")
    tight = Bounds(merged_locals=1)
    # A block, the br_table and its 5,000 labels, by three accesses.
    assert counts_of(shape, tight).highest["merged_locals"].value == (1 + 1 + 5_000) * 3


def test_code_that_is_never_reached_counts_no_operands():
    shape = module("(block i32.const 1 i32.const 2 br 0 (block)) (loop)")
    assert counts_of(shape, Bounds(merged_locals=-1)).highest["stacked_values"].value == 2


def bomb(kind: str):
    loops = "(loop (local.set {a} (local.get {b})) (br_if 0 (local.get {a})))"
    match kind:
        case "loops over many locals":
            text = " ".join(loops.format(a=i % 900, b=(7 * i + 1) % 900) for i in range(6_000))
            return module(locals_(900) + text), "merged_locals"
        case "blocks that hand on many values":
            many = "i32 " * 500
            return module(f"(block (result {many})" * 300 + "i32.const 1 " * 500 + ")" * 300 + "drop " * 500), (
                "block_values"
            )
        case "operands across loops":
            return module("i32.const 1 " * 8_000 + "(loop) " * 8_000 + "drop " * 8_000), "stacked_values"
        case "results that nobody takes":
            many = "i32 " * 1_000
            return module("call $many " * 600 + "unreachable", f"(func $many (result {many}) unreachable)"), (
                "call_results"
            )
        case "accesses to stable memory between loops":
            accesses = "".join(
                f"(loop (call $read (i64.const 0) (i64.const 0) (i64.const 8)) (br_if 0 (local.get {i % 900})))"
                for i in range(900)
            )
            return module(locals_(900) + accesses, IC0_READ + "(memory 1)"), "merged_locals"
        case "copies":
            copy = "(memory.copy (i32.const 0) (i32.const 1) (i32.const 2)) "
            return module(copy * 20_001, "(memory 1)"), "costly_instructions"
        case "elements that are never used":
            return module("nop", f"(func $f) {'(elem func $f $f $f)' * 34_000}"), "passive_elements"
        case "types with many values":
            values = (" ".join(VALUES[i >> 2 * k & 3] for k in range(20)) for i in range(26_000))
            return module("nop", " ".join(f"(type (func (param {text})))" for text in values)), "type_values"
        case "locals that nobody uses":
            one = module(locals_(40_000))
            many = replace(one, codes=one.codes * 501, function_type_indices=one.function_type_indices * 501)
            return many, "locals"
        case "functions with many parameters in a table":
            functions = f"(type $t (func (param {'i64 ' * 1_000})))" + "(func (type $t))" * 460
            numbers, references = range(230), " ".join(f"(ref.func {number})" for number in range(230, 460))
            segments = f"(elem func {' '.join(map(str, numbers))}) (elem funcref {references})"
            return module("nop", functions + segments), "excess_milliseconds"
        case "functions that are each within bounds":
            text = " ".join(loops.format(a=i, b=(i + 1) % 300) for i in range(300))
            return module("nop", f"(func {locals_(300)} {text})" * 200), "excess_milliseconds"
        case "nesting":
            return module("block " * 10_001 + "end " * 10_001), "nesting"
    raise ValueError(kind)


VALUES = ("i32", "i64", "f32", "f64")


@pytest.mark.parametrize(
    "kind",
    [
        "accesses to stable memory between loops",
        "copies",
        "elements that are never used",
        "types with many values",
        "locals that nobody uses",
        "functions that are each within bounds",
        "functions with many parameters in a table",
        "loops over many locals",
        "blocks that hand on many values",
        "operands across loops",
        "results that nobody takes",
        "nesting",
    ],
)
def test_bombs_are_refused_by_their_count(kind):
    shape, name = bomb(kind)
    counts = counts_of(shape, Bounds())
    with pytest.raises(UnsupportedError, match=rf"Bounds\.{name}\)"):
        Bounds().check(counts)


def test_many_functions_that_are_each_within_bounds_are_estimated_to_take_long():
    loops = " ".join(
        f"(loop (local.set {i} (local.get {(i + 1) % 300})) (br_if 0 (local.get {i})))" for i in range(300)
    )
    function = f"(func {locals_(300)} {loops})"
    one = counts_of(decode(bytes(wasmtime.wat2wasm(f"(module {function})"))), Bounds())
    many = counts_of(decode(bytes(wasmtime.wat2wasm(f"(module {function * 100})"))), Bounds())
    assert one.seconds < 0.1
    assert many.seconds == pytest.approx(100 * one.seconds, rel=0.1)


def test_a_function_that_only_looks_costly_is_read_before_it_is_refused():
    """Of calls it is first only known that none returns more than the type with most results."""
    thousand = "i32 " * 1_000
    shape = module("call $nothing " * 450, f"(func $nothing) (type (func (result {thousand})))")
    rough = counts_of(shape, Bounds())
    assert rough.highest["excess_milliseconds"].value > 1_000
    tight = Bounds(excess_milliseconds=100)
    tight.check(counts_of(shape, tight))


def test_accesses_to_stable_memory_branch_as_often_as_is_counted():
    branches = {number for number in OPCODES if OPCODES[number].name in BRANCHES}
    most = 0
    for is_64 in (False, True):
        kernel = kernel_for(is_64)
        for item in kernel.exports:
            if item.name in {"stable64_read", "stable64_write"}:
                body = kernel.codes[item.index].body
                most = max(most, sum(step.opcode in branches for step in instructions(body, locals_end(body))))
    assert most == INLINED_BRANCHES


BRANCHES = {"block", "loop", "if", "else", "br", "br_if", "br_table", "return"}


def test_a_type_is_looked_up_without_a_search():
    """A module may import thousands of functions, and have a hundred thousand types before the first that they need."""
    compared = 0

    class Counted(FuncType):
        __slots__ = ()
        __hash__ = FuncType.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return tuple(self) == tuple(other)

    types = tuple(Counted((ValType.I32,) * (number // 100), (ValType.I64,) * (number % 100)) for number in range(5_000))
    appendix = Appendix(Module(types=types))
    compared = 0
    for number in range(4_000, 5_000):
        assert appendix.type_index(Counted(*types[number])) == number
    assert appendix.type_index(Counted((ValType.F64,))) == 5_000
    assert compared < 10_000
