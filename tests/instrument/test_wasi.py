"""Modules that import WASI, small ones from text: what stands in for each import, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import wasmtime
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import RejectError, Subnet
from perdure.embedder.engine import validate_original
from perdure.errors import InvalidModuleError, PerdureError, UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.instrument import replace_wasi, validate, wasm_without_wasi
from perdure.instrument.wasi import PREVIEW_1, WithoutWasi
from perdure.subnet import Canister
from perdure.wasm import ExternKind, FuncType, Module, ValType, decode, encode

I32, I64 = ValType.I32, ValType.I64
WASI = "wasi_snapshot_preview1"


def wat(text: str) -> Module:
    return decode(bytes(wasmtime.wat2wasm(f"(module {text})")))


def replaced(text: str, *stub: str) -> WithoutWasi:
    """A module from text without WASI, which the network would take."""
    result = replace_wasi(wat(text), stub)
    validate(result.module)
    validate_original(encode(result.module))
    assert {item.module for item in result.module.imported(ExternKind.FUNCTION)} <= {"ic0"}
    assert replace_wasi(result.module) == WithoutWasi(result.module, (), {}, "")
    return result


def refused(text: str, *stub: str) -> str:
    with pytest.raises(UnsupportedError) as caught:
        replace_wasi(wat(text), stub)
    return str(caught.value)


def becomes(text: str, *stub: str) -> dict[str, str]:
    return {f"{item.module}.{item.name}": item.becomes for item in replaced(text, *stub).imports}


def imported(name: str, func_type: FuncType | None = None, module: str = WASI) -> str:
    params, results = func_type or PREVIEW_1[name]
    sides = [
        f"({word} {' '.join(item.text for item in side)})" for word, side in (("param", params), ("result", results))
    ]
    return f'(import "{module}" "{name}" (func ${name} {" ".join(sides)}))'


REPLY = """
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
"""


def install(text: str, *stub: str) -> Canister:
    return Subnet().install(encode(replaced(text, *stub).module))


def lines(canister: Canister) -> list[bytes]:
    return [record.content for record in canister.logs()]


# -------------------------------------------------------------------------------------------------- every WASI function


ERRNOS = {name: 8 if name.startswith("fd_") else 44 if name.startswith("path_") else 52 for name in PREVIEW_1} | {
    "args_get": 0,
    "args_sizes_get": 0,
    "environ_get": 0,
    "environ_sizes_get": 0,
    "clock_res_get": 0,
    "clock_time_get": 0,
    "random_get": 0,
    "sched_yield": 0,
}
AT_A_TERMINAL = {"fd_write": 0, "fd_fdstat_get": 0}
"""What these give for standard output."""


def test_preview_1_is_whole() -> None:
    assert len(PREVIEW_1) == 46
    assert {len(kind.results) for name, kind in PREVIEW_1.items() if name != "proc_exit"} == {1}


@pytest.mark.parametrize("module", ["wasi_snapshot_preview1", "wasi_unstable"])
def test_every_function_gives_what_the_table_says(module: str) -> None:
    names = [name for name in PREVIEW_1 if name != "proc_exit"]

    def method(name: str, first: int, suffix: str = "") -> str:
        kinds = PREVIEW_1[name].params
        arguments = " ".join(f"({kind.text}.const {0 if place else first})" for place, kind in enumerate(kinds))
        return f"""
          (func (export "canister_query {name}{suffix}")
            (i32.store (i32.const 512) (call ${name} {arguments}))
            (call $append (i32.const 512) (i32.const 4))
            (call $reply))"""

    canister = install(
        REPLY
        + "".join(imported(name, module=module) for name in names)
        + "(memory 1)"
        + "".join(method(name, 3 if name.startswith(("fd_", "clock")) else 256) for name in names)
        + "".join(method(name, 1, " of 1") for name in AT_A_TERMINAL)
    )
    found = {name: int.from_bytes(canister.query(name), "little") for name in names}
    assert found == {name: ERRNOS[name] for name in names}
    assert {name: int.from_bytes(canister.query(f"{name} of 1"), "little") for name in AT_A_TERMINAL} == AT_A_TERMINAL


@pytest.mark.parametrize("name", PREVIEW_1)
def test_each_function_alone_becomes_valid(name: str) -> None:
    result = replaced(imported(name) + "(memory 1)")
    assert [(item.module, item.name) for item in result.imports] == [(WASI, name)]
    assert len(list(result.module.imported(ExternKind.FUNCTION))) == 1


# ---------------------------------------------------------------------------------------------------- what is not given


EMPTY = """
  (memory (data "\\ff\\ff\\ff\\ff\\ff\\ff\\ff\\ff"))
  (func (export "canister_query f")
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (call $append (i32.const 0) (i32.const 8))
    (drop (call $environ_sizes_get (i32.const 4) (i32.const 0)))
    (call $append (i32.const 0) (i32.const 8))
    (call $reply))"""


def test_there_are_no_arguments_and_no_environment() -> None:
    canister = install(REPLY + imported("args_sizes_get") + imported("environ_sizes_get") + EMPTY)
    assert canister.query("f") == bytes(16)


CLOCKS = """
  (memory 1)
  (func (export "canister_query f")
    (call $copy (i32.const 0) (i32.const 0) (i32.const 4))
    (i32.store (i32.const 8) (call $clock_time_get (i32.load (i32.const 0)) (i64.const 1000) (i32.const 16)))
    (i32.store (i32.const 12) (call $clock_res_get (i32.load (i32.const 0)) (i32.const 24)))
    (call $append (i32.const 8) (i32.const 24))
    (call $reply))"""


def test_all_clocks_show_the_time_of_the_message() -> None:
    canister = install(REPLY + imported("clock_time_get") + imported("clock_res_get") + CLOCKS)

    def clock(number: int) -> list[int]:
        reply = canister.query("f", number.to_bytes(4, "little"))
        return [int.from_bytes(reply[start:end], "little") for start, end in ((0, 4), (4, 8), (8, 16), (16, 24))]

    time = canister._subnet.time_ns
    assert [clock(number) for number in range(4)] == [[0, 0, time, 1]] * 4
    assert clock(4) == clock(0xFFFF_FFFF) == [28, 28, 0, 0]


SLEEP = """
  (memory (data "user-id!"))
  ;; Argument: u8 kind, u8 flags, u8 subscriptions, u64 duration.
  (func (export "canister_query sleep")
    (call $copy (i32.const 8) (i32.const 0) (i32.const 1))
    (call $copy (i32.const 40) (i32.const 1) (i32.const 1))
    (call $copy (i32.const 64) (i32.const 2) (i32.const 1))
    (call $copy (i32.const 24) (i32.const 3) (i32.const 8))
    (i32.store (i32.const 72)
      (call $poll_oneoff (i32.const 0) (i32.const 100) (i32.load8_u (i32.const 64)) (i32.const 76)))
    (call $append (i32.const 72) (i32.const 8))
    (call $append (i32.const 100) (i32.const 32))
    (call $reply))"""


def test_a_short_sleep_is_over_at_once_and_there_is_no_other() -> None:
    canister = install(REPLY + imported("poll_oneoff") + SLEEP)

    def sleep(duration_ns: int, kind: int = 0, flags: int = 0, count: int = 1) -> bytes:
        return canister.query("sleep", bytes((kind, flags, count)) + duration_ns.to_bytes(8, "little"))

    slept = b"\0\0\0\0\1\0\0\0user-id!" + bytes(24)
    nosys = b"\x34" + bytes(39)
    assert sleep(1) == sleep(1_000_000) == slept
    assert sleep(0) == sleep(1_000_001) == sleep(2**64 - 1) == nosys
    assert sleep(1, kind=1) == sleep(1, flags=1) == sleep(1, count=0) == sleep(1, count=2) == nosys


RANDOM = """
  (memory 1)
  (func $fill
    (call $copy (i32.const 0) (i32.const 0) (i32.const 4))
    (drop (call $random_get (i32.const 64) (i32.load (i32.const 0))))
    (drop (call $random_get (i32.add (i32.const 64) (i32.load (i32.const 0))) (i32.load (i32.const 0))))
    (call $append (i32.const 64) (i32.shl (i32.load (i32.const 0)) (i32.const 1)))
    (call $reply))
  (export "canister_update f" (func $fill))
  (export "canister_query q" (func $fill))"""


def test_random_bytes_differ_by_call_and_are_equal_on_every_replica() -> None:
    one, other = (install(REPLY + imported("random_get") + RANDOM) for _ in range(2))
    size = (32).to_bytes(4, "little")
    seen = [one.update("f", size) for _ in range(4)]
    assert len({part for reply in seen for part in (reply[:32], reply[32:])}) == 8
    assert [other.update("f", size) for _ in range(4)] == seen
    assert one.query("q", size) == one.query("q", size) not in seen
    assert one.update("f", bytes(4)) == b""
    many = one.update("f", (16384).to_bytes(4, "little"))
    assert {many.count(byte) // 32 for byte in range(256)} <= {2, 3, 4, 5}


# ------------------------------------------------------------------------------------------------------------- printing


PRINT = """
  (memory 2)
  (func $print (param $place i32) (param $size i32)
    (i32.store (i32.const 9000) (local.get $place))
    (i32.store (i32.const 9004) (local.get $size))
    (drop (call $fd_write (i32.const 1) (i32.const 9000) (i32.const 1) (i32.const 9008)))
    (if (i32.ne (i32.load (i32.const 9008)) (local.get $size)) (then unreachable)))
  ;; Argument: u16 place, u16 bytes of a piece, the text, which is printed piece by piece.
  (func (export "canister_update print") (local $place i32) (local $end i32) (local $piece i32)
    (call $copy (i32.const 9012) (i32.const 0) (i32.const 4))
    (local.set $place (i32.load16_u (i32.const 9012)))
    (local.set $piece (i32.load16_u (i32.const 9014)))
    (local.set $end (i32.add (local.get $place) (i32.sub (call $size) (i32.const 4))))
    (call $copy (local.get $place) (i32.const 4) (i32.sub (call $size) (i32.const 4)))
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (i32.add (local.get $place) (local.get $piece)) (local.get $end)))
        (call $print (local.get $place) (local.get $piece))
        (local.set $place (i32.add (local.get $place) (local.get $piece)))
        (br $next)))
    (call $print (local.get $place) (i32.sub (local.get $end) (local.get $place)))
    (call $append (local.get $end) (i32.const 0))
    (call $reply))
  ;; Two parts in one call, and the array of parts at the very place where lines are put together.
  (data (i32.const 0) "\\40\\00\\00\\00\\05\\00\\00\\00\\50\\00\\00\\00\\08\\00\\00\\00")
  (data (i32.const 64) "one, ")
  (data (i32.const 80) "two\\nrest")
  (func (export "canister_update parts")
    (if (call $fd_write (i32.const 2) (i32.const 0) (i32.const 2) (i32.const 9008)) (then unreachable))
    (call $append (i32.const 9008) (i32.const 4))
    (call $reply))
  (func (export "canister_update trap") (call $print (i32.const 80) (i32.const 3)) unreachable)
  (func (export "canister_update outside") (call $print (i32.const 0x1fffe) (i32.const 8)))
  (func (export "canister_update around") (call $print (i32.const -2) (i32.const 8)))
"""
PRINTING = REPLY + imported("fd_write") + PRINT


def logged(pieces: Sequence[bytes]) -> list[bytes]:
    """The log after a message that wrote these pieces."""
    log, held = [], b""
    for piece in pieces:
        *ends, rest = piece.split(b"\n")
        for end in ends:
            if held and len(held) + len(end) > 512:
                log.append(held)
                held = b""
            log.append(held + end)
            held = b""
        if rest and len(held) + len(rest) > 512:
            log += [held] if held else []
            held = b""
        if len(rest) > 512:
            log.append(rest)
        else:
            held += rest
    return log + ([held] if held else [])


def test_parts_of_a_line_become_one_line_and_lines_come_apart() -> None:
    canister = install(PRINTING)
    assert canister.update("parts") == (13).to_bytes(4, "little")
    assert lines(canister) == [b"one, two", b"rest"]


@pytest.fixture(scope="module")
def printing() -> Subnet:
    subnet = Subnet(config=SubnetConfig(default_log_memory_limit_bytes=1 << 20))
    subnet.install(encode(replaced(PRINTING).module))
    return subnet


@settings(max_examples=60, deadline=None)
@given(
    place=st.sampled_from([16, 100, 500, 1500, 2040, 2047, 2048, 2049, 3000, 4000, 4090, 4100, 5000]),
    piece=st.sampled_from([1, 2, 7, 100, 511, 512, 513, 2000]),
    text=st.lists(st.sampled_from([b"\n", b"a", b"bc" * 50, b"d" * 511, b"e" * 512, b"f" * 700]), max_size=6).map(
        b"".join
    ),
)
def test_whatever_is_printed_is_logged_and_the_heap_left_alone(
    printing: Subnet, place: int, piece: int, text: bytes
) -> None:
    fork = printing.fork()
    (canister,) = fork.canisters
    canister.update("print", place.to_bytes(2, "little") + piece.to_bytes(2, "little") + text)
    assert lines(canister) == logged([text[start : start + piece] for start in range(0, len(text), piece)])
    heap = canister.heap.read(0, 9000)
    before = bytearray(printing.canisters[0].heap.read(0, 9000))
    before[place : place + len(text)] = text
    assert heap == bytes(before[:9000])


def test_what_a_message_left_in_half_a_line_is_gone_if_it_traps_and_stands_before_its_end_if_not() -> None:
    canister = install(PRINTING)
    for method in ("trap", "outside", "around"):
        with pytest.raises(RejectError, match=r"unreachable|out of bounds"):
            canister.update(method)
    assert all(b"TRAP" in line for line in lines(canister))
    canister.update("print", b"\0\x10\x01\0half")
    assert lines(canister)[3:] == [b"half"]


ENDS = """
  (memory 65536)
  (data (i32.const 0) "\\f0\\ff\\ff\\ff\\10\\00\\00\\00")
  (data (i32.const 0xfffffff0) "0123456789abcde\\0a")
  (func (export "canister_update print")
    (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $reply))
  (func (export "canister_update fill")
    (drop (call $random_get (i32.const -16) (i32.const 16)))
    (call $append (i32.const -16) (i32.const 16))
    (call $reply))
  (func (export "canister_update around") (drop (call $random_get (i32.const -16) (i32.const 17))) (call $reply))
"""


def test_the_last_byte_of_4_gib_is_reached_and_nothing_goes_around_it() -> None:
    text = REPLY + imported("fd_write") + imported("random_get") + ENDS
    subnet = Subnet()
    canister = subnet.install(encode(replaced(text).module))
    canister.update_settings(wasm_memory_limit=1 << 32)
    canister.update("print")
    assert lines(canister) == [b"0123456789abcde"]
    assert len(set(canister.update("fill"))) > 8
    with pytest.raises(RejectError, match="unreachable"):
        canister.update("around")


FLOOD = """
  (memory 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\01\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\0a")
  (func (export "canister_update flood") (local $left i32)
    (local.set $left (i32.const 20000))
    (loop $next
      (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (call $reply))"""


def test_a_flood_of_lines_is_kept_as_far_as_the_log_goes() -> None:
    canister = install(REPLY + imported("fd_write") + FLOOD)
    canister.update("flood")
    assert len(lines(canister)) < 1000


# ------------------------------------------------------------------------------------------------ ends, hooks, commands


@pytest.mark.parametrize("code", [0, 7, 10, 1999, 0xFFFF_FFFF])
def test_the_end_of_the_program_is_a_trap_with_its_code(code: int) -> None:
    text = f'(memory 1) (func (export "canister_update f") (call $proc_exit (i32.const {code})) (call $reply))'
    with pytest.raises(RejectError, match=rf"Canister called `ic0.trap` with message: 'proc_exit\({code}\)'"):
        install(REPLY + imported("proc_exit") + text).update("f")


EXIT_IN_A_LINE = """
  (memory 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\04\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00\\00half")
  (func (export "canister_update f")
    (drop (call $fd_write (i32.const 2) (i32.const 0) (i32.const 1) (i32.const 8)))
    (call $proc_exit (i32.const 1)))"""


def test_what_is_held_of_a_line_is_printed_before_the_end() -> None:
    canister = install(imported("fd_write") + imported("proc_exit") + EXIT_IN_A_LINE)
    with pytest.raises(RejectError, match="proc_exit"):
        canister.update("f")
    assert lines(canister)[0] == b"half"


HOOKED = """
  (memory 1)
  (global $order (mut i32) (i32.const 0))
  (func $note (param i32) (global.set $order (i32.add (i32.mul (global.get $order) (i32.const 10)) (local.get 0))))
  (func $initialize (export "{name}") (call $note (i32.const 1)))
  (func (export "canister_query order")
    (i32.store (i32.const 0) (global.get $order))
    (call $append (i32.const 0) (i32.const 4))
    (call $reply))
  {hooks}
"""


def order(hooks: str, name: str = "_initialize") -> list[int]:
    """Which ran, in order, after an installation and after an upgrade: 1 initialise, 2 init, 3 post_upgrade."""
    module = encode(replaced(REPLY + HOOKED.format(name=name, hooks=hooks)).module)
    canister = Subnet().install(module)
    found = [canister.query("order")]
    canister.upgrade(module)
    return [int.from_bytes(item, "little") for item in (*found, canister.query("order"))]


INIT = '(func (export "canister_init") (call $note (i32.const 2)))'
POST_UPGRADE = '(func (export "canister_post_upgrade") (call $note (i32.const 3)))'


def test_init_and_post_upgrade_initialise_first() -> None:
    assert order("") == [1, 1]
    assert order(INIT) == [12, 1]
    assert order(POST_UPGRADE) == [1, 13]
    assert order(INIT + POST_UPGRADE) == [12, 13]
    assert order(INIT, "__wasm_call_ctors") == [12, 1]


def test_who_initialises_by_hand_is_not_initialised_twice() -> None:
    by_hand = '(func (export "canister_init") (call $initialize) (call $note (i32.const 2)))'
    assert order(by_hand + POST_UPGRADE) == [12, 13]


def test_an_initializer_that_is_init_as_well_runs_once() -> None:
    module = REPLY + HOOKED.format(name="_initialize", hooks='(export "canister_init" (func $initialize))')
    assert int.from_bytes(install(module).query("order"), "little") == 1


def test_an_initializer_needs_a_hook_that_is_a_function() -> None:
    text = '(memory 1) (func (export "_initialize")) (global (export "canister_init") i32 (i32.const 0))'
    assert refused(text) == "export canister_init is a global, expected a function"


@pytest.mark.parametrize("name", ["_initialize", "__ic_custom_fd_close"])
def test_an_import_is_no_function_of_the_modules_own(name: str) -> None:
    text = imported("fd_close") + f'(export "{name}" (func $fd_close)) (memory 1)'
    assert refused(text) == f"export {name} is an import, expected a function that the module defines"


def test_what_was_processed_is_left_alone_whatever_it_exports() -> None:
    hooks = '(func (export "canister_init")) (func (export "canister_post_upgrade"))'
    text = imported("fd_close") + '(memory 1) (func $i (export "_initialize") (call $r)) (func $r)' + hooks
    assert replaced(text).initializer == "_initialize"


WRAPPED = """
  (memory 1)
  (global $order (mut i32) (i32.const 0))
  (func $__wasm_call_ctors (call $one))
  (func $note (param i32) (global.set $order (i32.add (i32.mul (global.get $order) (i32.const 10)) (local.get 0))))
  (func $one (call $note (i32.const 1)))
  (func $nine (call $note (i32.const 9)))
  (func $init (call $note (i32.const 2)))
  (func $closes (param i32) (result i32) (i32.add (local.get 0) (global.get $order)))
  (func $answer
    (i32.store (i32.const 0) (call $fd_close (i32.const 0)))
    (call $append (i32.const 0) (i32.const 4))
    (call $reply))
  (func (export "canister_init") (call $__wasm_call_ctors) (call $init) (call $nine))
  (func (export "canister_update order") (call $__wasm_call_ctors) (call $answer) (call $nine))
  (func (export "__ic_custom_fd_close") (param i32) (result i32)
    (call $__wasm_call_ctors) (call $closes (local.get 0)) (call $nine))
  {more}
"""


def test_constructors_that_every_export_would_run_run_once() -> None:
    text = REPLY + imported("fd_close") + WRAPPED.format(more="")
    assert replaced(text).initializer == "__wasm_call_ctors"
    module = encode(replaced(text).module)
    canister = Subnet().install(module)
    assert [canister.update("order") for _ in range(2)] == [(12).to_bytes(4, "little")] * 2
    canister.upgrade(module)
    assert canister.update("order") == (1).to_bytes(4, "little")


GUARDED = """
  (memory 1)
  (func ${name} (call $check))
  (func $check unreachable)
  (func $inner (call $reply))
  (func (export "canister_update f") (call ${name}) (call $inner))
"""


@pytest.mark.parametrize(("name", "wasi"), [("guard", imported("fd_close")), ("__wasm_call_ctors", "")])
def test_a_guard_that_every_export_calls_first_is_no_constructor(name: str, wasi: str) -> None:
    text = REPLY + wasi + GUARDED.format(name=name)
    assert replaced(text).initializer == ""
    with pytest.raises(RejectError, match="unreachable"):
        install(text).update("f")


@pytest.mark.parametrize(
    "more",
    [
        '(func (export "other"))',
        '(func (export "other") (call $__wasm_call_ctors))',
        '(func (export "other") (call $one) (call $init) (call $nine))',
        '(func (export "other") (local i32) (call $__wasm_call_ctors) (call $init))',
        '(func (export "other") (call $__wasm_call_ctors) (call $init) (call $nine) (call $nine))',
        '(func (export "other") (call $__wasm_call_ctors) (call $note (i32.const 1)))',
        '(func (export "other") (param i32) (call $__wasm_call_ctors) (call $init))',
        '(export "other" (func $append))',
    ],
)
def test_exports_that_are_not_all_wrapped_stay_what_they_are(more: str) -> None:
    text = REPLY + imported("fd_close") + WRAPPED.format(more=more)
    assert replaced(text).initializer == ""
    assert Subnet().install(encode(replaced(text).module)).update("order") != (12).to_bytes(4, "little")


def test_the_start_function_stays_what_it_was() -> None:
    assert replaced("(memory 1) (func $start) (start $start)").module.start == 0
    started = '(memory 1) (func $start) (start $start) (func (export "_initialize"))'
    assert replaced(started).module.start == 0


def test_an_initializer_of_another_type_is_refused() -> None:
    assert refused('(func (export "_initialize") (param i32))') == (
        "export _initialize has type (i32) -> (), expected () -> ()"
    )


def test_a_reactor_without_an_initializer_is_taken() -> None:
    result = replaced(imported("fd_close") + '(memory 1) (func (export "canister_update f"))')
    assert result.initializer == ""
    assert [item.name for item in result.module.exports] == ["canister_update f"]


def test_a_command_is_refused_with_the_flags_for_a_reactor() -> None:
    message = refused(imported("proc_exit") + '(memory 1) (func (export "_start")) (func (export "canister_update f"))')
    assert message.startswith("the module is a command: it exports _start")
    assert "-mexec-model=reactor" in message


def test_an_entry_of_a_wrong_type_is_left_to_the_networks_rules() -> None:
    text = imported("fd_write") + '(memory 1) (func (export "canister_update f") (param i32))'
    with pytest.raises(InvalidModuleError, match=r"Expected input params \[\] for 'canister_update f', got \[I32\]"):
        validate(replace_wasi(wat(text)).module)


# ------------------------------------------------------------------------------------------------------- names, indices


def test_underscores_stand_for_the_space() -> None:
    names = ("canister_update_inc", "canister_query_a_b", "canister_composite_query_c", "canister_inspect_message")
    result = replaced("(func $f)" + "".join(f'(export "{name}" (func $f))' for name in names))
    assert [item.name for item in result.module.exports] == [
        "canister_update inc",
        "canister_query a_b",
        "canister_composite_query c",
        "canister_inspect_message",
    ]
    assert result.renamed["canister_query_a_b"] == "canister_query a_b"


def test_two_names_of_one_method_are_refused() -> None:
    text = '(func $f) (export "canister_update_f" (func $f)) (export "canister_update f" (func $f))'
    assert refused(text) == "the module exports both 'canister_update_f' and 'canister_update f', which are one method"


def test_no_index_moves_and_code_without_wasi_stays_as_it_is() -> None:
    module = wat(
        '(import "ic0" "msg_reply" (func $reply)) '
        + imported("fd_close")
        + imported("random_get")
        + """(memory 1) (global (mut i32) (i32.const 5)) (table 4 funcref)
        (elem (i32.const 0) $plain $fd_close $reply)
        (elem func $random_get)
        (func $plain (export "canister_update f") (call $reply))
        (func $caller (export "other") (param i32) (result i32) (call $fd_close (local.get 0)))"""
    )
    result = replace_wasi(module).module
    assert result.imports[0] is module.imports[0]
    assert result.codes[0] is module.codes[0]
    assert [item.index for item in result.exports] == [item.index for item in module.exports]
    assert result.globals[0] == module.globals[0]
    assert result.types[: len(module.types)] == module.types
    first_appended = module.function_count
    plain, closing, reply = result.elements[0].items
    assert (plain, reply) == (3, 0)
    assert isinstance(closing, int)
    assert closing >= first_appended
    assert all(isinstance(item, int) and item >= first_appended for item in result.elements[1].items)


def test_exports_references_and_the_start_function_follow_an_import() -> None:
    declared = "(elem declare func $fd_close) (func $plain (drop (ref.func $fd_close)) (drop (ref.func $plain)))"
    own = '(export "closes" (func $fd_close)) (export "canister_update f" (func $g)) (export "p" (func $plain))'
    text = '(import "host" "g" (func $g))' + imported("fd_close") + declared + own + "(memory 1)"
    result = replaced(text, "host.*").module
    closes, _, plain = (item.index for item in result.exports)
    assert result.elements[0].items == (closes,)
    assert (result.function_type(closes), plain) == (PREVIEW_1["fd_close"], 2)
    with pytest.raises(RejectError, match=r"host\.g was called"):
        Subnet().install(encode(result)).update("f")
    printing = imported("fd_write") + text
    with pytest.raises(RejectError, match=r"host\.g was called"):
        install(printing, "host.*").update("f")
    with pytest.raises(RejectError, match=r"host\.g was called"):
        install('(import "host" "g" (func $g)) (memory 1) (start $g)', "host.*")


INDIRECT = """
  (memory 1) (table 2 funcref) (elem (i32.const 0) $fd_close)
  (type $closing (func (param i32) (result i32)))
  (func (export "canister_query table")
    (i32.store (i32.const 0) (call_indirect (type $closing) (i32.const 1) (i32.const 0)))
    (call $append (i32.const 0) (i32.const 4)) (call $reply))
  (func $tail (param i32) (result i32) (return_call $fd_close (local.get 0)))
  (func (export "canister_query tail")
    (i32.store (i32.const 0) (call $tail (i32.const 1)))
    (call $append (i32.const 0) (i32.const 4)) (call $reply))
"""


def test_tables_and_tail_calls_reach_the_stand_in() -> None:
    canister = install(REPLY + imported("fd_close") + INDIRECT)
    assert canister.query("table") == canister.query("tail") == (8).to_bytes(4, "little")


def test_a_module_without_wasi_is_what_it_was() -> None:
    module = wat('(memory 1) (func (export "canister_update f"))')
    assert replace_wasi(module).module == module
    assert wasm_without_wasi(encode(module)) == encode(module)


# ------------------------------------------------------------------------------------------- the module's own functions


OWN = """
  (memory 1)
  (func (export "__ic_custom_fd_close") (param i32) (result i32) (i32.add (local.get 0) (i32.const 100)))
  (func (export "canister_query f")
    (i32.store (i32.const 0) (call $fd_close (i32.const 7)))
    (call $append (i32.const 0) (i32.const 4)) (call $reply))
"""


def test_a_function_of_its_own_stands_before_ours() -> None:
    assert becomes(REPLY + imported("fd_close") + OWN) == {f"{WASI}.fd_close": "own __ic_custom_fd_close"}
    assert install(REPLY + imported("fd_close") + OWN).query("f") == (107).to_bytes(4, "little")
    exports = replaced(REPLY + imported("fd_close") + OWN).module.exports
    assert [item.name for item in exports] == ["canister_query f"]


def test_a_function_of_its_own_of_another_type_is_refused() -> None:
    text = imported("fd_close") + '(func (export "__ic_custom_fd_close") (param i64) (result i32) (i32.const 0))'
    assert refused(text) == (
        "the module exports __ic_custom_fd_close of type (i64) -> (i32), "
        "but imports wasi_snapshot_preview1.fd_close of type (i32) -> (i32)"
    )


# ---------------------------------------------------------------------------------------------- what nothing stands for


def test_wrong_types_are_refused_by_name() -> None:
    wrong = FuncType((I32, I32), (I32,))
    assert refused(imported("fd_write", wrong) + "(memory 1)") == (
        "import wasi_snapshot_preview1.fd_write has type (i32, i32) -> (i32), expected (i32, i32, i32, i32) -> (i32)"
    )
    assert refused(imported("path_open", FuncType((I64,), (I32,))) + "(memory 1)").startswith(
        "import wasi_snapshot_preview1.path_open has type (i64) -> (i32), expected"
    )
    assert refused(imported("fd_close", FuncType((I32,))) + "(memory 1)").startswith(
        "import wasi_snapshot_preview1.fd_close has type (i32) -> (), expected"
    )


def test_both_previews_at_once_are_one() -> None:
    text = '(import "wasi_unstable" "fd_write" (func (param i32 i32 i32 i32) (result i32)))' + imported("fd_write")
    result = replaced(text + "(memory 1)")
    assert [item.becomes for item in result.imports] == ["a stand-in", "a stand-in"]
    assert result.imports[0].module != result.imports[1].module


def test_what_preview_1_does_not_have_is_refused() -> None:
    text = f'(import "{WASI}" "thread_spawn" (func (param i32) (result i32)))'
    assert refused(text) == f"the module imports {WASI}.thread_spawn, which WASI preview 1 does not have"


@pytest.mark.parametrize("memory", ["(memory i64 1)", ""])
def test_only_heaps_with_32_bit_addresses_have_wasi(memory: str) -> None:
    assert "WASI preview 1 takes 32-bit addresses" in refused(imported("proc_exit") + memory)


@pytest.mark.parametrize(
    ("module", "hint"),
    [
        ("wasi:cli/exit@0.2.0", "wasm32-wasip1"),
        ("wasi", "threads"),
        ("wbg", "wasm-bindgen"),
        ("__wbindgen_placeholder__", "wasm-bindgen"),
        ("gojs", "GOOS=wasip1"),
        ("GOT.func", "link it statically"),
        ("other", "nothing stands in for them. With --stub 'other.*' they trap when called"),
        ("env", "nothing stands in for them. With --stub 'env.*' they trap when called"),
        ("a", "-sSTANDALONE_WASM"),
    ],
)
def test_other_imports_are_refused_by_name_with_advice(module: str, hint: str) -> None:
    message = refused(f'(import "{module}" "f" (func)) (import "{module}" "g" (func))')
    assert message.startswith(f"the module imports {module}.f, {module}.g, which the Internet Computer does not have")
    assert hint in message


def test_of_many_other_imports_the_first_are_named() -> None:
    message = refused("".join(f'(import "host" "f{number}" (func))' for number in range(1000)))
    assert "host.f9 and 990 more" in message
    assert len(message) < 500


STUBBED = """
  (import "host" "f" (func $f (param i64 f64) (result f32)))
  (import "host" "g" (func $g))
  (import "ic0" "msg_reply" (func $reply))
  {memory}
  (func (export "canister_update f") (drop (call $f (i64.const 1) (f64.const 2))))
  (func (export "canister_update ok") (call $reply))
"""


@pytest.mark.parametrize("memory", ["(memory 1)", "(memory i64 1)"])
def test_under_a_pattern_they_trap_by_name_when_called(memory: str) -> None:
    text = STUBBED.format(memory=memory)
    assert becomes(text, "host.*") == {"host.f": "a trap when called", "host.g": "a trap when called"}
    canister = install(text, "host.[f]", "host.g")
    assert canister.update("ok") == b""
    with pytest.raises(RejectError, match=r"'host\.f was called, which the Internet Computer does not have'"):
        canister.update("f")
    message = refused(text, "host.g")
    assert message.startswith("the module imports host.f, which")


def test_without_a_memory_there_is_no_name_to_tell() -> None:
    with pytest.raises(RejectError, match="unreachable"):
        install(STUBBED.format(memory=""), "host.?").update("f")


def test_a_long_name_is_cut() -> None:
    name = "n" * 5000
    text = f'(import "host" "{name}" (func $f)) (memory 1) (func (export "canister_update f") (call $f))'
    with pytest.raises(RejectError, match=r"host\.nnnnn") as caught:
        install(text, "host.*").update("f")
    assert len(str(caught.value)) < 1000


def test_a_pattern_goes_before_what_would_stand_in() -> None:
    assert becomes(imported("fd_close") + "(memory 1)", "*.fd_close") == {f"{WASI}.fd_close": "a trap when called"}


def test_a_pattern_is_never_for_what_the_network_has() -> None:
    text = REPLY + '(import "ic0" "newer" (func)) (import "host" "f" (func)) (memory 1)'
    assert becomes(text, "*") == {"ic0.newer": "a trap when called", "host.f": "a trap when called"}


def test_names_in_messages_are_cut() -> None:
    name, kind = "n" * 100_000, FuncType((I32,))
    for text in (imported(name, kind), f'(import "{name}" "f" (func))', imported("fd_close", kind, "wasi_unstable")):
        assert len(refused(text + "(memory 1)")) < 1000
    own = f'(func (export "canister_update_{name}")) (func (export "canister_update {name}"))'
    assert len(refused(own)) < 1000


def test_a_pattern_that_matches_nothing_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"no imported function matches 'env\.\*'; beside ic0's the module imports host\.f"
    ):
        replace_wasi(wat('(import "host" "f" (func))'), ["env.*"])


# ----------------------------------------------------------------------------------------------------------- emscripten


EMSCRIPTEN = """
  (import "env" "__syscall_openat" (func $open (param i32 i32 i32 i32) (result i32)))
  (import "env" "emscripten_resize_heap" (func $resize (param i32) (result i32)))
  (import "env" "emscripten_notify_memory_growth" (func $notify (param i32)))
  (import "env" "emscripten_memcpy_big" (func $copied (param i32 i32 i32) (result i32)))
  (import "env" "_emscripten_memcpy_js" (func $copies (param i32 i32 i32)))
  (import "env" "emscripten_date_now" (func $now (result f64)))
  (import "env" "exit" (func $exit (param i32)))
  (import "env" "__cxa_throw" (func $throw (param i32 i32 i32)))
  (memory 1 3)
  (func $answer (param i32)
    (i32.store (i32.const 0) (local.get 0)) (call $append (i32.const 0) (i32.const 4)) (call $reply))
  (func $asked (result i32)
    (call $copy (i32.const 0) (i32.const 0) (i32.const 4)) (i32.load (i32.const 0)))
  (func (export "canister_update open")
    (call $answer (call $open (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
  (func (export "canister_update resize")
    (call $notify (i32.const 0))
    (call $answer (i32.add (i32.mul (call $resize (call $asked)) (i32.const 100)) (memory.size))))
  (data (i32.const 100) "abcdef")
  (func (export "canister_update copy")
    (drop (call $copied (i32.const 200) (i32.const 100) (i32.const 3)))
    (call $copies (i32.const 203) (i32.const 103) (i32.const 3))
    (call $append (i32.const 200) (i32.const 6))
    (call $reply))
  (func (export "canister_query now")
    (f64.store (i32.const 0) (call $now)) (call $append (i32.const 0) (i32.const 8)) (call $reply))
  (func (export "canister_update exit") (call $exit (i32.const 5)))
  (func (export "canister_update throw") (call $throw (i32.const 0) (i32.const 0) (i32.const 0)))
"""


@pytest.fixture(scope="module")
def emscripten() -> Canister:
    return install(REPLY + EMSCRIPTEN)


def test_emscriptens_system_calls_do_not_exist(emscripten: Canister) -> None:
    assert int.from_bytes(emscripten.update("open"), "little", signed=True) == -52


@pytest.mark.parametrize(("asked", "answer"), [(1, 101), (65536, 101), (65537, 102), (196608, 103), (196609, 1)])
def test_emscriptens_heap_grows_as_far_as_it_may(emscripten: Canister, asked: int, answer: int) -> None:
    (canister,) = emscripten._subnet.fork().canisters
    assert int.from_bytes(canister.update("resize", asked.to_bytes(4, "little")), "little") == answer


def test_emscriptens_other_functions(emscripten: Canister) -> None:
    assert emscripten.update("copy") == b"abcdef"
    (now,) = memoryview(emscripten.query("now")).cast("d")
    assert round(now) == emscripten._subnet.time_ns // 1_000_000
    with pytest.raises(RejectError, match=r"proc_exit\(5\)"):
        emscripten.update("exit")
    with pytest.raises(RejectError, match=r"env\.__cxa_throw was called"):
        emscripten.update("throw")


def test_whatever_else_emscripten_imports_traps_by_name() -> None:
    found = becomes('(import "env" "f" (func)) (memory 1) (func (export "stackAlloc"))')
    assert found == {"env.f": "a trap when called"}


def test_integers_taken_apart_for_javascript_are_taken_where_they_only_give_an_error() -> None:
    apart = FuncType((I32,) * 5, (I32,))
    assert becomes(imported("fd_seek", apart) + "(memory 1)") == {f"{WASI}.fd_seek": "error 8"}
    text = '(import "ic0" "stable64_size" (func (result i32))) (memory 1) (func (export "stackAlloc"))'
    assert "-sWASM_BIGINT" in refused(text)


# -------------------------------------------------------------------------------------------------------- hostile bytes


def test_damaged_modules_are_refused_or_done() -> None:
    whole = bytearray(encode(wat(REPLY + imported("fd_close") + OWN + '(func (export "_initialize"))')))

    def outcome(damage: Callable[[bytearray], None]) -> str:
        data = bytearray(whole)
        damage(data)
        try:
            encode(replace_wasi(decode(bytes(data))).module)
        except PerdureError as error:
            return type(error).__name__
        return "done"

    def flip(place: int, mask: int) -> Callable[[bytearray], None]:
        def damage(data: bytearray) -> None:
            data[place] ^= mask

        return damage

    outcomes = {outcome(flip(place, mask)) for place in range(8, len(whole)) for mask in (1, 2, 4, 0x40, 0x80)}
    assert outcomes == {"done", "MalformedError", "UnsupportedError"}
