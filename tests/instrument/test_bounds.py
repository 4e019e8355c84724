"""Static counts of what compiling will cost: exact where they decide, and inclusive."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import wasmtime

from perdure.errors import UnsupportedError
from perdure.instrument import HIGHEST, Bounds, counts_of
from perdure.wasm import decode

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


def module(body: str, before: str = ""):
    return decode(bytes(wasmtime.wat2wasm(f"(module {before} (func) (func {body}))")))


def locals_(count: int) -> str:
    return f"(local {'i32 ' * count})"


# For each bound a module and what it counts, by hand.
SHAPES = {
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
        case "nesting":
            return module("block " * 10_001 + "end " * 10_001), "nesting"
    raise ValueError(kind)


@pytest.mark.parametrize(
    "kind",
    [
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
    many = counts_of(decode(bytes(wasmtime.wat2wasm(f"(module {function * 200})"))), Bounds())
    assert one.seconds < 0.1
    assert many.seconds == pytest.approx(200 * one.seconds, rel=0.1)
