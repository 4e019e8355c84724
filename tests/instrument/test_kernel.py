"""The native System API, body by body: every trap and edge of stable memory, page accounting, messages, entries."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.canister import Context, TrapCode
from perdure.ic.ic0 import FUNCTIONS
from perdure.instrument import Options, abi

PAGE = 4096
WASM_PAGE = 65_536
LOW, HIGH = "i32.const", "i64.const"

# (size of stable memory in Wasm pages, address, heap address, size) -> trap code, `None` for none, 0 for Wasm's own.
EDGES_64 = [
    ((1, 0, 0, 8), None),
    ((1, WASM_PAGE - 8, 0, 8), None),
    ((1, WASM_PAGE - 7, 0, 8), 2),
    ((1, WASM_PAGE, 0, 0), None),
    ((1, 1 << 40, 0, 0), None),  # nothing is read or written anywhere without an error
    ((1, -1, 0, 0), None),
    ((1, -1, 0, 1), 2),  # address + size wraps
    ((1, -8, 0, 16), 2),
    ((1, 0, 0, 1 << 62), TrapCode.INSTRUCTION_LIMIT_EXCEEDED),  # charging comes before bounds
    ((1, 0, 0, -1), 2),  # size + 20 wraps, as it does on the network: charged 19, then out of bounds
    ((1, 1 << 39, 0, 8), 2),  # where the accounting ends
    ((1, 1 << 44, 0, 8), 2),
    ((1, (1 << 39) + 8, 0, 4), 2),
    ((0, 0, 0, 1), 2),
    ((1, 0, WASM_PAGE - 8, 8), None),
    ((1, 0, WASM_PAGE - 7, 8), 0),  # Wasm's own bounds check of the heap
    ((1, 0, 1 << 32, 8), 1),
    ((1, 0, -1, 1), 1),
    ((2, 0, 0, WASM_PAGE), None),
    ((2, 1, 0, WASM_PAGE + 1), 0),
]


def stable_text(function: str, *arguments: str, repeat: int = 1, width: str = "i64") -> str:
    call = f"(call $f {' '.join(arguments)})" * repeat
    parameters = " ".join([width] * 3)
    return f"""(module
      (import "ic0" "{function}" (func $f (param {parameters})))
      (memory 1)
      (func (export "canister_update f") {call}))"""


@pytest.mark.parametrize("function", ["stable64_write", "stable64_read"])
@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(("edge", "code"), EDGES_64)
def test_every_edge_of_an_access(
    link_text: Callable, function: str, warm: bool, edge: tuple[int, ...], code: int | None
) -> None:
    wasm_pages, address, heap_address, size = edge
    first = (address, heap_address) if function == "stable64_write" else (heap_address, address)
    arguments = [f"(i64.const {value})" for value in (*first, size)]
    # A warm run writes to page 0 first, so that the hot path is open to requests that must not take it.
    touch = "(call $f (i64.const 0) (i64.const 0) (i64.const 8))" if warm and wasm_pages else ""
    text = stable_text(function, *arguments).replace('f")', f'f") {touch}', 1)
    linked = link_text(text)
    linked.memory("stable").grow(linked.store, wasm_pages)
    if code is None:
        linked.run()
        return
    # Enough for any access that could be meant, too little for 2^64 bytes.
    linked.fill(instruction_limit=1 << 50)
    assert linked.traps() == code


@pytest.mark.parametrize("size", [*range(1, 18), 31, 64, 100, 4095, 4096, 4097, 9000])
@pytest.mark.parametrize("offset", [0, 1, 4090, 8191])
def test_bytes_arrive_at_every_size_and_alignment(link_text: Callable, size: int, offset: int) -> None:
    data = bytes(range(1, 252)) * 40
    write = f"(call $w (i64.const {offset}) (i64.const 100) (i64.const {size}))"
    read = f"(call $r (i64.const 20000) (i64.const {offset}) (i64.const {size}))"
    linked = link_text(f"""(module
      (import "ic0" "stable64_write" (func $w (param i64 i64 i64)))
      (import "ic0" "stable64_read" (func $r (param i64 i64 i64)))
      (memory 1)
      (func (export "canister_update f") {write} {read} {write} {read}))""")
    linked.memory("stable").grow(linked.store, 1)
    linked.write("heap", 100, data)
    linked.run()
    assert linked.read("stable", offset, size) == data[:size]
    assert linked.read("stable", offset + size, 16) == bytes(16)
    assert linked.read("heap", 20000, size + 1) == data[:size] + b"\0"


ACCESSES = st.lists(
    st.tuples(
        st.booleans(),
        st.integers(0, 3 * WASM_PAGE),
        st.sampled_from([0, 1, 4, 8, 8, 8, 16, 40, 4096, 5000, 20_000]),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(accesses=ACCESSES)
def test_accounting_knows_exactly_the_pages_touched(link_text: Callable, accesses: list[tuple[bool, int, int]]) -> None:
    accesses = [(write, address, min(size, 3 * WASM_PAGE - address)) for write, address, size in accesses]
    calls = "".join(
        f"(call $w (i64.const {address}) (i64.const 0) (i64.const {size}))"
        if write
        else f"(call $r (i64.const 0) (i64.const {address}) (i64.const {size}))"
        for write, address, size in accesses
    )
    linked = link_text(f"""(module
      (import "ic0" "stable64_write" (func $w (param i64 i64 i64)))
      (import "ic0" "stable64_read" (func $r (param i64 i64 i64)))
      (memory 1)
      (func (export "canister_update f") {calls}))""")
    linked.memory("stable").grow(linked.store, 3)
    linked.fill(accessed_page_instructions=5000)
    for _ in range(2):  # the second message starts from nothing, though the first has left its marks
        linked.run()
        pages = [range(a // PAGE, (a + n - 1) // PAGE + 1) if n else () for _, a, n in accesses]
        touched = {page for run in pages for page in run}
        written = {page for (write, *_), run in zip(accesses, pages, strict=True) if write for page in run}
        assert (set(linked.pages("touched")), set(linked.pages("written"))) == (touched, written)
        assert len(linked.pages("touched")) == len(touched)
        assert linked.field("accessed_page_limit") - linked.field("accessed_pages_left") == len(touched)
        assert linked.field("dirty_page_limit") - linked.field("dirty_pages_left") == len(written)
        static = 1 + sum(5 + 3 for _ in accesses)
        dynamic = sum(20 + size for *_, size in accesses)
        assert linked.instructions() == static + dynamic + 5000 * len(touched) + 1000 * len(written)


@pytest.mark.parametrize(
    ("function", "limit", "code"),
    [
        ("stable64_write", "dirty_page_limit", TrapCode.MEMORY_WRITE_LIMIT_EXCEEDED),
        ("stable64_write", "accessed_page_limit", TrapCode.MEMORY_ACCESS_LIMIT_EXCEEDED),
        ("stable64_read", "accessed_page_limit", TrapCode.MEMORY_ACCESS_LIMIT_EXCEEDED),
    ],
)
def test_page_limits_are_inclusive(link_text: Callable, function: str, limit: str, code: TrapCode) -> None:
    zero = "(i64.const 0)"
    linked = link_text(stable_text(function, zero, zero, f"(i64.const {3 * PAGE})"))
    linked.memory("stable").grow(linked.store, 1)
    linked.fill(**{limit: 3})
    linked.run()
    linked.fill(**{limit: 2})
    assert linked.traps() == code


def test_instructions_run_out_in_a_loop_and_in_a_copy(link_text: Callable) -> None:
    loop = link_text('(module (func (export "canister_update f") (loop $l (br $l))))')
    loop.fill(instruction_limit=100_000)
    assert loop.traps() == TrapCode.INSTRUCTION_LIMIT_EXCEEDED
    zero = "(i64.const 0)"
    copy = link_text(stable_text("stable64_read", zero, zero, "(i64.const 10000)"))
    copy.memory("stable").grow(copy.store, 1)
    copy.fill(instruction_limit=10_000)
    assert copy.traps() == TrapCode.INSTRUCTION_LIMIT_EXCEEDED


GROW = """(module
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable_grow" (func $grow32 (param i32) (result i32)))
  (import "ic0" "stable64_size" (func $size (result i64)))
  (import "ic0" "stable_size" (func $size32 (result i32)))
  (memory 1)
  (func (export "canister_update grow") (i64.store (i32.const 0) (call $grow (i64.load (i32.const 8)))))
  (func (export "canister_update grow32")
    (i64.store (i32.const 0) (i64.extend_i32_s (call $grow32 (i32.load (i32.const 8))))))
  (func (export "canister_update size") (i64.store (i32.const 0) (call $size)))
  (func (export "canister_update size32") (i64.store (i32.const 0) (i64.extend_i32_u (call $size32)))))"""


def grow(linked: object, delta: int, entry: str = "grow") -> int:
    linked.write("heap", 8, (delta % (1 << 64)).to_bytes(8, "little"))
    linked.run(f"canister_update {entry}")
    return int.from_bytes(linked.read("heap", 0, 8), "little", signed=True)


def test_growing(link_text: Callable) -> None:
    linked = link_text(GROW)
    linked.fill(stable_limit_wasm_pages=10)
    assert [grow(linked, delta) for delta in (0, 3, 0, 8, -1, 1 << 63, 7, 1)] == [0, 0, 3, -1, -1, -1, 3, -1]
    assert grow(linked, 0, "size") == 10
    assert linked.field("stable_wasm_pages") == 10


def test_growing_past_a_cycles_limit_traps_with_its_code(link_text: Callable) -> None:
    linked = link_text(GROW)
    linked.fill(stable_trap_wasm_pages=4, stable_trap_code=TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW)
    assert grow(linked, 4) == 0
    linked.write("heap", 8, b"\1")
    assert linked.traps("canister_update grow") == TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW


def test_32_bit_functions_on_more_than_4_gib(link_text: Callable) -> None:
    linked = link_text(GROW)
    assert grow(linked, 65_537, "grow32") == -1
    assert grow(linked, 65_536) == 0
    assert grow(linked, 0, "size32") == 65_536
    assert grow(linked, 0, "grow32") == 65_536
    assert grow(linked, 1, "grow32") == -1
    assert grow(linked, 1) == 65_536
    for entry in ("size32", "grow32"):  # even growing by nothing
        assert linked.traps(f"canister_update {entry}") == TrapCode.STABLE_MEMORY_TOO_BIG_FOR_32_BIT


@pytest.mark.parametrize(
    ("function", "arguments", "code"),
    [
        ("stable_write", (0, 0, 8), None),
        ("stable_write", (WASM_PAGE, 0, 0), None),
        ("stable_write", (WASM_PAGE + 1, 0, 0), 2),  # a write of nothing is held against the bounds
        ("stable_read", (0, WASM_PAGE + 1, 0), None),  # a read of nothing is not
        ("stable_write", (WASM_PAGE - 7, 0, 8), 2),
        ("stable_write", (-1, 0, 1), 2),
        ("stable_write", (-1, 0, -1), 2),
        ("stable_read", (0, -1, 8), 2),
        ("stable_read", (-1, 0, 8), 0),
    ],
)
def test_32_bit_accesses(link_text: Callable, function: str, arguments: tuple[int, ...], code: int | None) -> None:
    linked = link_text(stable_text(function, *(f"(i32.const {value})" for value in arguments), width="i32"))
    linked.memory("stable").grow(linked.store, 1)
    if code is None:
        linked.run()
    else:
        assert linked.traps() == code


ECHO = """(module
  (import "ic0" "msg_arg_data_size" (func $size (result {I})))
  (import "ic0" "msg_arg_data_copy" (func $copy (param {I} {I} {I})))
  (import "ic0" "msg_caller_size" (func $caller_size (result {I})))
  (import "ic0" "msg_caller_copy" (func $caller_copy (param {I} {I} {I})))
  (import "ic0" "msg_reply_data_append" (func $append (param {I} {I})))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "performance_counter" (func $counter (param i32) (result i64)))
  (memory {width} 1)
  (func (export "canister_update echo")
    (call $copy ({I}.const 0) ({I}.const 0) (call $size))
    (call $append ({I}.const 0) (call $size))
    (call $caller_copy ({I}.const 0) ({I}.const 0) (call $caller_size))
    (call $append ({I}.const 0) (call $caller_size))
    (i64.store ({I}.const 0) (call $time))
    (call $append ({I}.const 0) ({I}.const 8))
    (call $reply))
  (func (export "canister_update past") (call $copy ({I}.const 0) ({I}.const 3) (call $size)))
  (func (export "canister_update huge") (call $append ({I}.const 0) ({I}.const 11)))
  (func (export "canister_update twice") (call $reply) (call $reply))
  (func (export "canister_update counters")
    (i64.store ({I}.const 0) (call $counter (i32.const 0)))
    (i64.store ({I}.const 8) (call $counter (i32.const 1))))
  (func (export "canister_update bad counter") (drop (call $counter (i32.const 2)))))"""


@pytest.fixture(params=["i32", "i64"])
def echo(request: pytest.FixtureRequest, link_text: Callable) -> object:
    width = "" if request.param == "i32" else "i64"
    return link_text(ECHO.format(I=request.param, width=width))


def test_a_message_goes_through_the_message_memory(echo: object) -> None:
    echo.write("message", abi.ARGUMENT, b"hello")
    echo.fill(argument_bytes=5, caller=b"caller", caller_bytes=6, time_ns=0x1122334455667788)
    echo.run("canister_update echo")
    assert echo.field("responded") == 1
    reply = echo.read("message", abi.REPLY, echo.field("reply_bytes"))
    assert reply == b"hellocaller" + (0x1122334455667788).to_bytes(8, "little")


def test_what_a_message_may_not_do(echo: object) -> None:
    echo.fill(argument_bytes=5, reply_limit_bytes=10)
    assert echo.traps("canister_update past") == TrapCode.ARGUMENT_OUT_OF_BOUNDS
    assert (echo.field("trap_function"), echo.field("trap_offset"), echo.field("trap_size")) == (1, 3, 5)
    assert echo.traps("canister_update huge") == TrapCode.REPLY_TOO_LARGE
    assert echo.traps("canister_update twice") == TrapCode.ALREADY_RESPONDED
    assert echo.traps("canister_update bad counter") == TrapCode.CONTRACT_VIOLATION
    assert (echo.field("trap_function"), echo.field("trap_kind")) == (7, 1)
    echo.fill(context=Context.INIT.bit)
    assert echo.traps("canister_update twice") == TrapCode.CONTRACT_VIOLATION
    assert (echo.field("trap_function"), echo.field("trap_kind")) == (5, 0)


def test_performance_counters(echo: object) -> None:
    echo.fill(call_context_instructions=1000)
    echo.run("canister_update counters")
    first, second = (int.from_bytes(echo.read("heap", at, 8), "little") for at in (0, 8))
    assert 0 < first <= echo.instructions()
    assert first + 1000 < second <= echo.instructions() + 1000


def test_costs_of_functions_are_the_tables(link_text: Callable) -> None:
    row = FUNCTIONS["msg_reply_data_append"]
    linked = link_text("""(module
      (import "ic0" "msg_reply_data_append" (func $append (param i32 i32))) (memory 1)
      (func (export "canister_update f") (call $append (i32.const 0) (i32.const 77))))""")
    linked.run()
    assert linked.instructions() == 1 + 1 + 1 + 5 + row.instructions + 50 * 77


NATIVE_CONTEXTS = {
    "msg_arg_data_size": 0x45FA,
    "msg_arg_data_copy": 0x45FA,
    "msg_caller_size": 0xFFFE,
    "msg_caller_copy": 0xFFFE,
    "msg_reply_data_append": 0x0FF8,
    "msg_reply": 0x0FF8,
    "time": 0xFFFE,
}


@pytest.mark.parametrize(("name", "bits"), NATIVE_CONTEXTS.items())
def test_contexts_in_the_kernel_are_the_tables(name: str, bits: int) -> None:
    assert sum(context.bit for context in Context if context.value in FUNCTIONS[name].contexts) == bits
    text = files("perdure.instrument").joinpath("kernel.wat").read_text()
    assert f"0x{bits:04x}" in text


@pytest.mark.slow
def test_the_built_kernels_are_what_the_text_says() -> None:
    import subprocess
    import sys

    script = Path(__file__).parents[2] / "tools" / "build_kernel.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")


def test_header_fields_do_not_overlap_and_stand_in_the_kernel() -> None:
    fields = sorted(abi.HEADER.values())
    for field, following in pairwise(fields):
        assert field.offset + field.size_bytes <= following.offset
    text = files("perdure.instrument").joinpath("kernel.wat").read_text()
    used = {int(offset, 16) for offset in re.findall(r"\$message offset=(0x[0-9a-f]+)", text)}
    assert used <= {field.offset for field in fields}


def test_globals_are_saved_in_the_replicas_order_and_loaded(link_text: Callable) -> None:
    linked = link_text("""(module
      (global $a (mut i32) (i32.const 1)) (global $b i64 (i64.const 2)) (global $c (mut f64) (f64.const 3))
      (global $d (mut i64) (i64.const 4)) (global $never f32 (f32.const 5))
      (export "shown d" (global $d)) (export "shown b" (global $b))
      (func (export "canister_update f") (global.set $a (i32.const 11)) (global.set $d (i64.const 14))))""")
    assert [item.global_index for item in linked.instrumented.saved_globals] == [3, 1, 0, 2]
    before = linked.read("message", abi.GLOBALS_CURRENT, 64)
    linked.run()
    after = linked.read("message", abi.GLOBALS_CURRENT, 64)
    assert before == bytes(64)
    assert [after[at : at + 8] for at in (0, 16, 32)] == [value.to_bytes(8, "little") for value in (14, 2, 11)]
    linked.write("message", abi.GLOBALS_COMMITTED, bytes(64))
    linked.run(abi.LOAD_GLOBALS)
    linked.run(abi.FINISH)
    assert linked.read("message", abi.GLOBALS_CURRENT, 32) == bytes(16) + (2).to_bytes(16, "little")


def test_a_callback_gets_its_environment_and_a_bad_index_traps(link_text: Callable) -> None:
    linked = link_text("""(module
      (memory 1) (table 2 funcref) (elem (i32.const 0) $store $wrong)
      (func $store (param i32) (i32.store (i32.const 0) (local.get 0)))
      (func $wrong (param i64)))""")
    linked.fill(callback_index=0, callback_environment=77)
    linked.run(abi.CALLBACK)
    assert linked.read("heap", 0, 4) == (77).to_bytes(4, "little")
    for index in (1, 2, 1 << 32):
        linked.fill(callback_index=index)
        assert linked.traps(abi.CALLBACK) == 0
    none = link_text("(module (memory 1))")
    assert none.traps(abi.CALLBACK) == TrapCode.TABLE_OUT_OF_BOUNDS


def test_an_indirect_call_of_an_import_reaches_what_stands_for_it(link_text: Callable) -> None:
    linked = link_text("""(module
      (import "ic0" "stable64_size" (func $size (result i64)))
      (memory 1) (table 1 funcref) (elem (i32.const 0) $size) (type $t (func (result i64)))
      (func (export "canister_update f") (i64.store (i32.const 0) (call_indirect (type $t) (i32.const 0)))))""")
    linked.memory("stable").grow(linked.store, 7)
    linked.run()
    assert linked.read("heap", 0, 8) == (7).to_bytes(8, "little")


def test_a_heap_grows_to_its_limit_and_traps_past_it(link_text: Callable) -> None:
    linked = link_text("""(module (memory 1 10)
      (func (export "canister_update f") (i32.store (i32.const 0) (memory.grow (i32.load (i32.const 4))))))""")
    linked.fill(heap_limit_wasm_pages=5, heap_trap_code=TrapCode.WASM_MEMORY_LIMIT_EXCEEDED)
    for delta, old in ((4, 1), (100, -1)):
        linked.write("heap", 4, delta.to_bytes(4, "little"))
        linked.run()
        assert linked.read("heap", 0, 4) == old.to_bytes(4, "little", signed=True)
    linked.write("heap", 4, b"\1\0\0\0")
    assert linked.traps() == TrapCode.WASM_MEMORY_LIMIT_EXCEEDED


def test_dropped_segments_raise_the_flag(link_text: Callable) -> None:
    linked = link_text('(module (memory 1) (data $d "x") (func (export "canister_update f") (data.drop $d)))')
    linked.run()
    assert linked.field("dropped") == 1


def test_data_is_kept_aside_and_start_is_an_entry(link_text: Callable) -> None:
    linked = link_text("""(module (memory 1) (data (i32.const 3) "abc")
      (func $start (i32.store8 (i32.const 0) (i32.const 9))) (start $start))""")
    assert linked.instrumented.data_segments == (("heap", 3, b"abc"),)
    assert linked.read("heap", 0, 8) == bytes(8)
    linked.run("canister_start")
    assert linked.read("heap", 0, 1) == b"\x09"


@pytest.mark.parametrize("options", [Options(schedule=None), Options(accounting=False), Options(native_messages=False)])
def test_every_choice_of_passes_makes_a_module(link_text: Callable, options: Options) -> None:
    zero = "(i64.const 0)"
    linked = link_text(stable_text("stable64_write", zero, zero, "(i64.const 100)"), options)
    linked.memory("stable").grow(linked.store, 1)
    linked.write("heap", 0, b"x" * 100)
    linked.run()
    assert linked.read("stable", 0, 100) == b"x" * 100
    assert linked.pages("written") == ([0] if options.accounting else [])


@pytest.mark.parametrize("options", [Options(), Options(native_stable=False), Options(schedule=None)])
def test_references_to_functions_stay_declared(link_text: Callable, options: Options) -> None:
    """Those to a replaced import go where its calls go; those that only an export declared are declared anew."""
    module = link_text(
        """(module
        (import "ic0" "stable64_size" (func $size (result i64)))
        (memory 1)
        (elem declare func $size)
        (func $shown (export "shown"))
        (func (export "canister_update f") (drop (ref.func $size)) (drop (ref.func $shown))))""",
        options,
    )
    module.run()
    assert module.field("trap_code") == 0


def test_an_import_that_is_a_method_is_charged_as_its_calls_are(link_text: Callable) -> None:
    imported = '(module (import "ic0" "msg_reply" (func $reply)) (memory 1) '
    called = link_text(imported + '(func (export "canister_update f") (call $reply)))')
    shown = link_text(imported + '(export "canister_update f" (func $reply)))')
    for module in (called, shown):
        module.fill(instruction_limit=1_000_000)
        module.run()
    assert called.instructions() - shown.instructions() == 6
    assert shown.instructions() > 0
