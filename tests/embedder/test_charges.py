"""What `ic0` functions charge, read off ``performance_counter`` around each call."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import perdure
from perdure.canister import Context, Limits, Method, Return, Trap, TrapCode
from perdure.embedder.module import TOOLCHAIN
from perdure.ic.ic0 import FUNCTIONS, LOG_ALLOCATION_INSTRUCTIONS, TRANSMISSION_INSTRUCTIONS
from perdure.instrument import Options
from perdure.system_api import LINE_OVERHEAD_BYTES

COUNTER = 200
"""What reading the counter costs; a block's own instructions are charged before its first, and so cancel out."""


class Prices:
    def call(self, method_name_bytes, payload_bytes):
        return 1

    def sign(self, scheme, key_name, algorithm):
        return 1


def text(calls: list[tuple[str, tuple[int, ...]]], *, is_64: bool) -> str:
    """A module that makes these calls and notes the counter before the first and after each, 8 bytes a time."""
    pointer = "i64" if is_64 else "i32"
    imports, body = {}, []
    for place, (name, arguments) in enumerate(calls):
        row = FUNCTIONS[name]
        params, results = row.params(is_64), row.results(is_64)
        imports[name] = (
            f'(import "ic0" "{name}" (func ${name} (param {" ".join(params)}) '
            f"{' '.join(f'(result {kind})' for kind in results)}))"
        )
        values = " ".join(f"({kind}.const {value})" for kind, value in zip(params, arguments, strict=True))
        call = f"(call ${name} {values})"
        body.append(f"(drop {call})" if results else call)
        body.append(f"(i64.store ({pointer}.const {8 * place + 8}) (call $counter (i32.const 0)))")
    return f"""(module {" ".join(imports.values())}
      (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
      (memory {"i64" if is_64 else ""} 8)
      (data ({pointer}.const 60000) "key_1")
      (func (export "canister_update f")
        (i64.store ({pointer}.const 0) (call $counter (i32.const 0))) {" ".join(body)}))"""


def charges(
    harness, calls, *, is_64=False, options=None, limits=None, entry="canister_update f", context=Context.UPDATE
) -> list[int]:
    source = text(calls, is_64=is_64).replace("canister_update f", entry)
    instance = harness.fresh(harness.compile(source, options))
    env = harness.env(context, limits=limits, costs=Prices(), cycle_balance=10**12, liquid_cycle_balance=10**12)
    outcome = instance.run(Method(entry), env)
    assert isinstance(outcome, Return), outcome
    words = memoryview(instance.heap.read(0, 8 * len(calls) + 8)).cast("Q").tolist()
    return [after - before - COUNTER for before, after in pairwise(words)]


CALL_NEW = (60100, 10, 60200)
ROWS = {
    "msg_reply_data_append": ((60000, 51), 500 + 50 * 51),
    "msg_reject": ((60000, 35), 500 + 50 * 35),
    "is_controller": ((60000, 29), 1000 + 29),
    "cost_sign_with_ecdsa": ((60000, 5, 0, 64), 500 + 5),
    "cost_sign_with_schnorr": ((60000, 5, 0, 64), 500 + 5),
    "cost_vetkd_derive_key": ((60000, 5, 0, 64), 500 + 5),
    "certified_data_set": ((60000, 32), 500 + 32),
    "call_new": ((60100, 10, 60200, 7, 0, 0, 0, 0), 1500 + 10 + 7),
    "debug_print": ((60000, 57), 100 + 53 * 57),
    "canister_self_copy": ((60000, 0, 10), 500 + 10),
    "time": ((), 500),
    "stable64_grow": ((1,), 100),
    "canister_version": ((), 500),
}
"""Arguments, and what the replica charges for them."""


@pytest.mark.parametrize("is_64", [False, True])
@pytest.mark.parametrize("name", ROWS)
def test_each_row(harness, name, is_64):
    arguments, expected = ROWS[name]
    assert charges(harness, [(name, arguments)], is_64=is_64) == [expected]


ELSEWHERE = {
    "canister_query f": Context.NON_REPLICATED_QUERY,
    "canister_composite_query f": Context.COMPOSITE_QUERY,
    "canister_inspect_message": Context.INSPECT_MESSAGE,
    "canister_pre_upgrade": Context.PRE_UPGRADE,
    "canister_heartbeat": Context.SYSTEM_TASK,
}


@pytest.mark.parametrize("entry", ELSEWHERE)
def test_the_same_wherever_a_function_may_be_called(harness, entry):
    context = ELSEWHERE[entry]
    names = [name for name in ROWS if context.value in FUNCTIONS[name].contexts and name != "msg_reject"]
    assert {"debug_print", "is_controller", "time"} <= set(names)
    found = charges(harness, [(name, ROWS[name][0]) for name in names], entry=entry, context=context)
    assert found == [ROWS[name][1] for name in names]


EDGES = [
    ("msg_reply_data_append", lambda size: (0, size), lambda size: 500 + 50 * size, (0, 1, 6, 50, 51, 65_536, 200_000)),
    ("msg_reject", lambda size: (100_000, size), lambda size: 500 + 50 * size, (0, 1, 4_095, 4_096, 4_097, 65_536)),
    ("is_controller", lambda size: (0, size), lambda size: 1_000 + size, (0, 1, 28, 29)),
    ("certified_data_set", lambda size: (0, size), lambda size: 500 + size, (0, 1, 31, 32)),
    ("call_new", lambda size: (0, 10, 0, size, 0, 0, 0, 0), lambda size: 1_510 + size, (0, 1, 1_000, 20_000)),
    # What one line may take of the log, its overhead of 40 with it; what is longer is cut off.
    ("debug_print", lambda size: (0, size),
     lambda size: 100 + size + 2 * min(size, 4_096) + 50 * min(size, 4_096),
     (0, 1, 4_055, 4_056, 4_057, 4_095, 4_096, 4_097, 32_768)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "expected", "sizes"), EDGES, ids=[edge[0] for edge in EDGES])
def test_around_each_boundary(harness, name, arguments, expected, sizes):
    for size in sizes:
        assert charges(harness, [(name, arguments(size))]) == [expected(size)], size


@pytest.mark.parametrize("name", ["msg_reply_data_append", "time"])
def test_the_same_through_host_functions(harness, name):
    arguments, expected = ROWS[name]
    assert charges(harness, [(name, arguments)], options=Options(native_messages=False)) == [expected]


def test_an_argument_of_a_call_is_charged_as_it_is_sent(harness):
    calls = [
        ("call_new", (60100, 10, 60200, 0, 0, 0, 0, 0)),
        ("call_data_append", (60000, 0)),
        ("call_data_append", (60000, 1234)),
        ("call_perform", ()),
    ]
    assert charges(harness, calls) == [1510, 500, 500 + 50 * 1234, 5000]


@pytest.mark.parametrize("is_64", [False, True])
def test_a_log_charges_for_what_it_can_hold_and_has_room_for(harness, is_64):
    sizes = [3000, 2000, 5000, 1]
    # What is left of 4,096 bytes after each line, its overhead of 40 and the lines that had to go for it.
    room = [4096, 4096 - 3040, 4096 - 2040, 0]
    expected = [
        100 + size + LOG_ALLOCATION_INSTRUCTIONS * min(size, 4096) + TRANSMISSION_INSTRUCTIONS * min(size, left)
        for size, left in zip(sizes, room, strict=True)
    ]
    assert LINE_OVERHEAD_BYTES == 40
    assert charges(harness, [("debug_print", (0, size)) for size in sizes], is_64=is_64) == expected


@pytest.mark.parametrize(("print_instructions", "log_bytes", "expected"), [(1, 4096, 53), (0, 4096, 52), (0, 0, 0)])
def test_printing_is_charged_where_it_is_on(harness, print_instructions, log_bytes, expected):
    limits = Limits(print_instructions=print_instructions, log_bytes=log_bytes)
    assert charges(harness, [("debug_print", (60000, 32))], limits=limits) == [100 + expected * 32]


def test_a_trap_charges_for_its_text_and_the_log(harness):
    told = []
    for size in (0, 33):
        module = f"""(module (import "ic0" "trap" (func $trap (param i32 i32))) (memory 1)
          (func (export "canister_update f") (call $trap (i32.const 0) (i32.const {size}))))"""
        outcome = harness.run(harness.fresh(module), "f")
        assert isinstance(outcome, Trap)
        assert outcome.code is TrapCode.CALLED_TRAP
        told.append(outcome.instructions)
    # The function's entry, two constants and the call; then the overhead.
    assert told == [1 + 1 + 1 + 5 + 500, 1 + 1 + 1 + 5 + 500 + 53 * 33]


@pytest.mark.parametrize("size", [-1, 1 << 62, (1 << 64) // 50 + 1])
@pytest.mark.parametrize("name", ["msg_reply_data_append", "debug_print", "canister_self_copy", "call_new"])
def test_no_charge_wraps(harness, name, size):
    arguments = list(ROWS[name][0])
    arguments[FUNCTIONS[name].byte_charges[-1].parameter] = size
    instance = harness.fresh(text([(name, tuple(arguments))], is_64=True))
    outcome = harness.run(instance, "f", limits=Limits(instructions=40_000_000_000))
    assert (outcome.code, outcome.instructions) == (TrapCode.INSTRUCTION_LIMIT_EXCEEDED, 40_000_000_000)


FLOOD = """(module (import "ic0" "debug_print" (func $print (param i32 i32))) (memory 1)
  (func (export "canister_%s f") (local i32)
    (loop
      (i32.store (i32.const 0) (local.get 0))
      (call $print (i32.const 0) (i32.const 32768))
      (br_if 0 (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 1))) (i32.const %d))))))"""


@pytest.mark.parametrize("kind", ["update", "query"])
def test_a_flood_of_lines_is_kept_within_the_log(harness, kind):
    outcome = harness.run(harness.fresh(FLOOD % (kind, 3_000)), "f")
    assert [len(line) for line in outcome.logs] == [4096 - LINE_OVERHEAD_BYTES]
    assert int.from_bytes(outcome.logs[0][:4], "little") == outcome.log_lines_dropped == 2_999


def test_lines_that_were_dropped_keep_their_numbers():
    import wasmtime

    canister = perdure.Subnet().install(bytes(wasmtime.wat2wasm(FLOOD % ("update", 50))))
    with pytest.raises(perdure.RejectError):  # it does not reply
        canister.update("f")
    assert [line.sequence for line in canister.logs()] == [49]


def test_the_cache_key_covers_whatever_instrumentation_is_made_of():
    """The cost table among it: code of another table must not be found under the same key."""
    package = Path(perdure.__file__).parent
    files = [
        file for name in TOOLCHAIN for file in ((package / name).rglob("*.py") if "." not in name else [package / name])
    ]
    imported = {
        node.module.split(".")[1]
        for file in files
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("perdure.")
    }
    assert imported == {name.removesuffix(".py") for name in TOOLCHAIN}


ALIASES = 12_300


def aliased(exports: int, more: str = "") -> str:
    shown = " ".join(f'(export "g{place}" (global {place % 3}))' for place in range(exports))
    globals_ = " ".join(f"(global (mut i64) (i64.const {100 + place}))" for place in range(4))
    increments = " ".join(f"(global.set {n} (i64.add (global.get {n}) (i64.const 1)))" for n in range(4))
    return f"""(module (import "ic0" "msg_reply" (func $reply)) {globals_} {shown} (memory 1)
      (func (export "canister_update inc") {increments} (call $reply) {more})
      (func (export "canister_update boom") {increments} unreachable))"""


def test_a_global_that_is_exported_many_times_is_rolled_back_and_saved_right(harness):
    instance = harness.fresh(aliased(ALIASES))
    harness.run(instance, "inc")
    instance.commit()
    assert isinstance(harness.run(instance, "boom"), Trap)
    instance.roll_back()
    values = instance.global_values
    assert len(values) == ALIASES + 1
    numbers = [int.from_bytes(value.bits, "little") for value in values]
    assert numbers == [101 + place % 3 for place in range(ALIASES)] + [104]
    again = harness.fresh(instance.module, replace(harness.state(), global_values=values))
    assert again.global_values == values
    harness.run(again, "inc")
    again.commit()
    assert int.from_bytes(again.global_values[-1].bits, "little") == 105


@pytest.mark.parametrize("locals_", [49_996, 49_997, 49_998, 50_000])
def test_a_function_with_every_local_there_is_still_writes_stable_memory(harness, locals_):
    instance = harness.fresh(f"""(module
      (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
      (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
      (import "ic0" "msg_reply" (func $reply)) (memory 1) (data (i32.const 8) "kept")
      (func (export "canister_update f") (local {"i64 " * locals_})
        (drop (call $grow (i64.const 1)))
        (call $write (i64.const 5) (i64.const 8) (i64.const 4)) (call $reply)))""")
    assert harness.reply(instance, "f") == b""
    assert instance.stable.read(5, 4) == b"kept"
