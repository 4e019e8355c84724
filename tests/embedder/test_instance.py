from __future__ import annotations

import pytest
import wasmtime

from perdure.canister import (
    NO_CHANGE,
    UNLIMITED,
    Callback,
    Context,
    GlobalValue,
    Limits,
    Method,
    Reject,
    Return,
    Trap,
    TrapCode,
    WasmState,
)
from perdure.embedder import Compiler
from perdure.embedder.cache import CompileCache
from perdure.instrument import Options, abi
from perdure.storage import TemporaryImage

COUNTER = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (import "ic0" "stable64_size" (func $stable_size (result i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
  (import "ic0" "debug_print" (func $print (param i32 i32)))
  (import "ic0" "msg_reject" (func $reject (param i32 i32)))
  (memory 2 10)
  (table 4 funcref)
  (elem (i32.const 1) $on_reply)
  (data (i32.const 65536) "\\01\\02\\03")
  (data $passive "abc")
  (global $calls (mut i64) (i64.const 7))
  (global $fraction (mut f32) (f32.const 0.5))
  (func $on_reply (param i32) (i32.store (i32.const 512) (local.get 0)))
  (func $add (param $n i32)
    (i32.store (i32.const 131064) (i32.add (i32.load (i32.const 131064)) (local.get $n)))
    (global.set $calls (i64.add (global.get $calls) (i64.const 1))))
  (func $answer (call $append (i32.const 131064) (i32.const 4)) (call $reply))
  (func (export "canister_update inc") (call $add (i32.const 1)) (call $answer))
  (func (export "canister_query get") (call $answer))
  (func (export "canister_query inc_query") (call $add (i32.const 1)) (call $answer))
  (func (export "canister_query calls") (i64.store (i32.const 0) (global.get $calls))
    (call $append (i32.const 0) (i32.const 8)) (call $reply))
  (func (export "canister_update same") (i32.store (i32.const 65536) (i32.load (i32.const 65536))) (call $reply))
  (func (export "canister_update inc_trap") (call $add (i32.const 1)) (unreachable))
  (func (export "canister_update grow_heap") (call $add (memory.grow (i32.const 1)))
    (i32.store (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 4)) (i32.const 9)) (call $reply))
  (func (export "canister_query grow_query") (drop (memory.grow (i32.const 3)))
    (drop (call $grow (i64.const 5))) (call $reply))
  (func (export "canister_query sizes") (i64.store (i32.const 0) (call $stable_size))
    (i64.store (i32.const 8) (i64.extend_i32_u (memory.size)))
    (call $append (i32.const 0) (i32.const 16)) (call $reply))
  (func (export "canister_update stable")
    (call $copy (i32.const 0) (i32.const 0) (call $size))
    (drop (call $grow (i64.const 1)))
    (call $write (i64.load (i32.const 0)) (i64.const 8) (i64.const 8)) (call $reply))
  (func (export "canister_update echo")
    (call $copy (i32.const 65536) (i32.const 0) (call $size))
    (call $append (i32.const 65536) (call $size)) (call $reply))
  (func (export "canister_update drop") (data.drop $passive) (call $add (i32.const 1)) (call $reply))
  (func (export "canister_update init_passive")
    (memory.init $passive (i32.const 100) (i32.const 0) (i32.const 3))
    (call $append (i32.const 100) (i32.const 3)) (call $reply))
  (func (export "canister_update recurse") (call $recurse))
  (func $recurse (call $recurse))
  (func (export "canister_update print") (call $print (i32.const 65536) (i32.const 3)) (unreachable))
  (func (export "canister_update reject_then_reply") (call $reject (i32.const 0) (i32.const 0)) (call $reply))
  (func (export "canister_update reject") (call $reject (i32.const 0) (i32.const 3)))
  (func (export "canister_update silent"))
  (func (export "canister_init") (call $add (i32.const 100)))
  (func (export "canister_pre_upgrade") (call $add (i32.const 1000))
    (drop (call $grow (i64.const 1))) (call $write (i64.const 4096) (i64.const 131064) (i64.const 4)))
  (func (export "canister_post_upgrade") (call $add (i32.const 10000))
    (call $write (i64.const 8192) (i64.const 131064) (i64.const 4)))
)"""


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def state_of(instance):
    return WasmState({name: memory.image for name, memory in instance.memories.items()}, instance.global_values)


@pytest.fixture
def counter(any_harness):
    return any_harness.fresh(COUNTER)


def test_update_is_part_of_the_state_once_committed(any_harness, counter):
    assert number(any_harness.reply(counter, "inc")) == 1
    delta = counter.commit()
    assert [(address, len(data)) for address, data in delta.memories["heap"].runs] == [(126976, 4096)]
    assert "stable" not in delta.memories
    assert delta.global_values == (GlobalValue("i64", (8).to_bytes(8, "little")), GlobalValue("f32", b"\0\0\0\x3f"))
    assert number(any_harness.reply(counter, "inc")) == 2


def test_nothing_to_commit_after_a_commit(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    assert counter.commit() == NO_CHANGE


def test_page_written_back_to_what_it_was_is_not_dirty(any_harness, counter):
    any_harness.run(counter, "same")
    assert counter.commit() == NO_CHANGE


def test_query_leaves_no_trace(any_harness, counter):
    assert number(any_harness.reply(counter, "inc_query")) == 1
    counter.roll_back()
    assert number(any_harness.reply(counter, "get")) == 0
    assert number(any_harness.reply(counter, "calls")) == 7


def test_growth_is_rolled_back(any_harness, counter):
    before = any_harness.reply(counter, "sizes")
    counter.roll_back()
    any_harness.run(counter, "grow_query")
    assert (counter.heap.size(), counter.stable.size()) == (5, 5)
    counter.roll_back()
    assert (counter.heap.size(), counter.stable.size()) == (2, 0)
    assert any_harness.reply(counter, "sizes") == before


def test_growth_is_committed(any_harness, counter):
    for pages in (3, 4, 5):
        any_harness.run(counter, "grow_heap")
        delta = counter.commit()
        assert delta.memories["heap"].wasm_pages == pages
        assert counter.heap.read(pages * 65536 - 4, 4) == b"\x09\0\0\0"
    any_harness.run(counter, "inc")
    counter.roll_back()
    assert counter.heap.read(4 * 65536 - 4, 4) == b"\x09\0\0\0"


def test_trap_leaves_the_state_and_the_instance_usable(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    trap = any_harness.run(counter, "inc_trap")
    assert isinstance(trap, Trap)
    assert trap.code is TrapCode.UNREACHABLE
    counter.roll_back()
    assert number(any_harness.reply(counter, "inc")) == 2
    assert number(any_harness.reply(counter, "calls")) == 9


def test_what_was_printed_survives_a_trap(harness):
    trap = harness.run(harness.fresh(COUNTER), "print")
    assert trap.logs == (b"\x01\x02\x03",)


def test_data_segments_are_applied_once(any_harness, counter):
    assert counter.heap.read(65536, 4) == b"\x01\x02\x03\0"
    any_harness.run(counter, "echo", b"\0\0\0\0")
    counter.commit()
    again = any_harness.fresh(counter.module, state_of(counter))
    assert again.heap.read(65536, 4) == b"\0\0\0\0"


def test_instance_over_a_committed_state_goes_on_where_it_was(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    state = state_of(counter)
    counter.close()
    again = any_harness.fresh(counter.module, state)
    assert number(any_harness.reply(again, "inc")) == 2
    assert number(any_harness.reply(again, "calls")) == 9


def test_dropped_data_segment_comes_back_with_the_next_message(any_harness, counter):
    assert any_harness.reply(counter, "init_passive") == b"abc"
    any_harness.run(counter, "drop")
    counter.commit()
    assert any_harness.reply(counter, "init_passive") == b"abc"
    assert number(any_harness.reply(counter, "get")) == 1


def test_several_runs_before_one_commit_are_one_change(any_harness, counter):
    for address in (0, 5 * 4096, 9 * 4096):
        any_harness.run(counter, "stable", address.to_bytes(8, "little") + b"12345678")
    delta = counter.commit()
    assert [(address, len(data)) for address, data in delta.memories["stable"].runs] == [
        (0, 4096),
        (5 * 4096, 4096),
        (9 * 4096, 4096),
    ]
    assert delta.memories["stable"].wasm_pages == 3
    assert counter.stable.read(9 * 4096, 8) == b"12345678"


def test_trap_after_an_uncommitted_run_drops_both(any_harness, counter):
    any_harness.run(counter, "stable", (0).to_bytes(8, "little") + b"12345678")
    any_harness.run(counter, "inc_trap")
    counter.roll_back()
    assert counter.stable.size() == 0
    assert counter.commit() == NO_CHANGE


def test_commit_after_a_trap_commits_nothing(any_harness, counter):
    any_harness.run(counter, "stable", (0).to_bytes(8, "little") + b"12345678")
    any_harness.run(counter, "inc_trap")
    assert counter.commit() == NO_CHANGE
    assert counter.heap.image.wasm_pages == 2
    assert number(any_harness.reply(counter, "inc")) == 1


def test_trap_before_the_first_commit_leaves_a_module_that_has_never_run(any_harness):
    instance = any_harness.compile(COUNTER).instantiate(any_harness.state())
    any_harness.instances.append(instance)
    any_harness.run(instance, "inc_trap")
    assert instance.commit() == NO_CHANGE
    assert number(any_harness.reply(instance, "inc")) == 1
    instance.commit()
    assert instance.heap.read(65536, 3) == b"\x01\x02\x03"
    assert number(any_harness.reply(instance, "calls")) == 8


def test_stable_accounting_starts_anew_after_a_trap(harness):
    counter = harness.fresh(COUNTER)
    page = (0).to_bytes(8, "little") + b"12345678"
    harness.run(counter, "stable", page)
    counter.commit()
    outcome = harness.run(counter, "stable", (1 << 40).to_bytes(8, "little") + b"12345678")
    assert outcome.code is TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS
    counter.roll_back()
    outcome = harness.run(counter, "stable", page)
    assert (outcome.stable_accessed_pages, outcome.stable_dirty_pages) == (1, 1)


def test_what_the_host_writes_is_uncommitted_like_anything_else(any_harness, counter):
    counter.heap.write(131064, b"\x05\0\0\0")
    counter.roll_back()
    assert number(any_harness.reply(counter, "get")) == 0
    counter.roll_back()
    counter.heap.write(131064, b"\x05\0\0\0")
    assert counter.stable.grow(2) == 0
    counter.stable.write(70000, b"host")
    delta = counter.commit()
    assert ([at for at, _ in delta.memories["heap"].runs], [at for at, _ in delta.memories["stable"].runs]) == (
        [126976],
        [69632],
    )
    assert number(any_harness.reply(counter, "inc")) == 6
    counter.heap.write(0, b"after")
    assert [at for at, _ in counter.commit().memories["heap"].runs] == [0, 126976]
    assert any_harness.reply(counter, "sizes")[:8] == (2).to_bytes(8, "little")


def test_save_and_restore(any_harness, counter):
    any_harness.reply(counter, "inc")
    any_harness.run(counter, "stable", (0).to_bytes(8, "little") + b"12345678")
    saved = counter.save()
    counter.roll_back()
    assert number(any_harness.reply(counter, "get")) == 0
    counter.restore(saved)
    assert counter.stable.read(0, 8) == b"12345678"
    assert number(any_harness.reply(counter, "get")) == 1
    assert number(any_harness.reply(counter, "inc")) == 2
    delta = counter.commit()
    assert delta.memories["stable"].wasm_pages == 1
    assert number(any_harness.reply(counter, "calls")) == 9


def test_successor_keeps_stable_memory_with_the_hooks_changes(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    any_harness.run(counter, "canister_pre_upgrade")
    heir = counter.successor(any_harness.compile(COUNTER), keep={"stable"}, added={})
    any_harness.instances.append(heir)
    assert isinstance(any_harness.run(heir, "canister_post_upgrade"), Return)
    delta = heir.commit()
    assert delta.memories["heap"].fresh
    assert not delta.memories["stable"].fresh
    assert [address for address, _ in delta.memories["stable"].runs] == [4096]  # one run: pages 1 and 2
    assert number(heir.stable.read(4096, 4)) == 1001
    assert number(heir.stable.read(8192, 4)) == 10000
    assert number(any_harness.reply(heir, "get")) == 10000
    assert number(any_harness.reply(heir, "calls")) == 8


def test_successor_that_keeps_everything_keeps_the_heap_and_not_the_globals(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    heir = counter.successor(any_harness.compile(COUNTER), keep={"heap", "stable"}, added={})
    any_harness.instances.append(heir)
    heir.commit()
    assert number(any_harness.reply(heir, "get")) == 1
    assert number(any_harness.reply(heir, "calls")) == 7


def test_successor_rolled_back_leaves_the_predecessor(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    any_harness.run(counter, "canister_pre_upgrade")
    heir = counter.successor(any_harness.compile(COUNTER), keep={"stable"}, added={})
    any_harness.run(heir, "canister_post_upgrade")
    heir.roll_back()
    heir.close()
    assert counter.stable.size() == 0
    assert number(any_harness.reply(counter, "inc")) == 2
    counter.commit()
    assert number(any_harness.reply(counter, "calls")) == 9


def test_reinstall_starts_from_nothing(any_harness, counter):
    any_harness.run(counter, "stable", (0).to_bytes(8, "little") + b"12345678")
    any_harness.reply(counter, "inc")
    counter.commit()
    heir = counter.successor(any_harness.compile(COUNTER), keep=(), added={})
    any_harness.instances.append(heir)
    any_harness.run(heir, "canister_init")
    heir.commit()
    assert heir.stable.size() == 0
    assert number(any_harness.reply(heir, "get")) == 100
    any_harness.run(heir, "stable", (8192).to_bytes(8, "little") + b"87654321")
    heir.commit()
    assert heir.stable.read(0, 8) == bytes(8)
    assert heir.stable.read(8192, 8) == b"87654321"


def test_forked_state_lives_its_own_life(any_harness, counter):
    any_harness.reply(counter, "inc")
    counter.commit()
    heap, stable = counter.heap.image, counter.stable.image
    assert isinstance(heap, TemporaryImage)
    assert isinstance(stable, TemporaryImage)
    other = any_harness.fresh(
        counter.module, WasmState({"heap": heap.fork(), "stable": stable.fork()}, counter.global_values)
    )
    for instance, name in ((counter, "inc"), (other, "inc"), (other, "inc")):
        any_harness.reply(instance, name)
        instance.commit()
    assert number(any_harness.reply(counter, "get")) == 2
    assert number(any_harness.reply(other, "get")) == 3


def test_callback_runs_a_function_of_the_table(harness):
    counter = harness.fresh(COUNTER)
    outcome = counter.run(Callback(1, 77), harness.env(Context.REPLY))
    assert isinstance(outcome, Return)
    assert number(counter.heap.read(512, 4)) == 77


@pytest.mark.parametrize(
    ("index", "code"),
    [(0, TrapCode.INDIRECT_CALL_TO_NULL), (4, TrapCode.TABLE_OUT_OF_BOUNDS), (1 << 40, TrapCode.TABLE_OUT_OF_BOUNDS)],
)
def test_bad_callback_traps_as_wasm_says(harness, index, code):
    outcome = harness.fresh(COUNTER).run(Callback(index, 0), harness.env(Context.REPLY))
    assert isinstance(outcome, Trap)
    assert outcome.code is code


def test_missing_method(harness):
    assert harness.run(harness.fresh(COUNTER), "canister_update nope") == Trap(TrapCode.METHOD_NOT_FOUND)


def test_name_of_ours_is_no_method(harness):
    counter = harness.fresh(COUNTER)
    for name in ("perdure finish", "perdure load_globals", "perdure callback", "memory"):
        assert counter.run(Method(name), harness.env()) == Trap(TrapCode.METHOD_NOT_FOUND)


def test_recursion_traps(harness):
    trap = harness.run(harness.fresh(COUNTER), "recurse")
    assert trap.code is TrapCode.STACK_OVERFLOW


def test_backtrace_names_the_canisters_own_functions(harness):
    trap = harness.run(harness.fresh(COUNTER), "recurse")
    assert set(trap.backtrace) == {"recurse"}


def test_rejecting_excludes_replying(harness):
    trap = harness.run(harness.fresh(COUNTER), "reject_then_reply")
    assert trap.code is TrapCode.ALREADY_RESPONDED
    outcome = harness.run(harness.fresh(COUNTER), "reject")
    assert outcome.response == Reject(4, "\0\0\0", "IC0406")


def test_no_response(harness):
    assert harness.run(harness.fresh(COUNTER), "silent").response is None


def test_argument_and_reply_of_two_mebibytes(any_harness):
    source = COUNTER.replace("(memory 2 10)", "(memory 40)")
    instance = any_harness.fresh(source)
    data = bytes(range(256)) * 8192
    assert any_harness.reply(instance, "echo", data) == data


def test_large_argument_and_reply_do_not_stay_in_memory(harness):
    instance = harness.fresh(COUNTER.replace("(memory 2 10)", "(memory 200)"))
    data = bytes(range(256)) * (32 << 10)
    limits = Limits(reply_bytes=len(data))
    assert harness.run(instance, "echo", data, limits).response.data == data
    message = instance._message
    assert message.bytes[abi.ARGUMENT : abi.ARGUMENT + 4096] == bytes(4096)
    assert message.bytes[abi.REPLY + len(data) - 4096 : abi.REPLY + len(data)] == bytes(4096)
    assert harness.run(instance, "echo", data, limits).response.data == data


def test_instructions_are_charged_up_to_the_limit(harness):
    counter = harness.fresh(COUNTER)
    used = harness.run(counter, "inc").instructions
    assert used > 0
    counter.roll_back()
    assert harness.run(counter, "inc", limits=Limits(instructions=used)).instructions == used
    counter.roll_back()
    trap = harness.run(counter, "inc", limits=Limits(instructions=used // 2))
    assert trap.code is TrapCode.INSTRUCTION_LIMIT_EXCEEDED
    assert trap.instructions == used // 2


def test_limits_of_pages(harness):
    counter = harness.fresh(COUNTER)
    two_pages = (4092).to_bytes(8, "little") + b"12345678"
    trap = harness.run(counter, "stable", two_pages, Limits(stable_dirty_pages=1))
    assert trap.code is TrapCode.MEMORY_WRITE_LIMIT_EXCEEDED
    counter.roll_back()
    trap = harness.run(counter, "stable", two_pages, Limits(stable_accessed_pages=1))
    assert trap.code is TrapCode.MEMORY_ACCESS_LIMIT_EXCEEDED
    counter.roll_back()
    outcome = harness.run(counter, "stable", two_pages, Limits(stable_dirty_pages=2))
    assert outcome.stable_dirty_pages == 2
    assert outcome.instructions < UNLIMITED


def test_a_schedule_with_page_charges_prices_both_memories(harness):
    two_pages = (4092).to_bytes(8, "little") + b"12345678"
    counts = {}
    for schedule in ("2025", "2026-07"):
        counter = harness.fresh(harness.compile(COUNTER, Options(schedule=schedule)))
        written = harness.run(counter, "stable", two_pages)
        assert (written.stable_dirty_pages, written.heap_dirty_pages) == (2, 1)
        counter.commit()
        counts[schedule] = written.instructions, harness.run(counter, "get").instructions
    # 5,000 for the access and 5,000 for the write of each of three pages, in place of 1,000 for its write.
    assert counts["2026-07"][0] - counts["2025"][0] == 3 * 9_000
    assert counts["2026-07"][1] == counts["2025"][1]  # a query: it read a heap page, which is not seen


def test_page_charges_are_kept_with_the_code(harness, tmp_path):
    cache, wasm = CompileCache(tmp_path), bytes(wasmtime.wat2wasm(COUNTER))
    for schedule in ("2025", "2026-07", None):
        options = Options(schedule=schedule)
        built = Compiler(harness.engine, cache).compile(wasm, options)
        loaded = Compiler(harness.engine, cache).compile(wasm, options)
        assert built is not loaded
        assert built.facts == loaded.facts
        assert loaded.facts.page_charges == ((5_000, 5_000) if schedule == "2026-07" else None)


def test_run_after_close_and_close_twice(harness):
    counter = harness.fresh(COUNTER)
    counter.close()
    counter.close()


CERTIFIED = """(module
  (import "ic0" "data_certificate_size" (func $size (result i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1)
  (func $inc (i32.store (i32.const 0) (i32.add (i32.load (i32.const 0)) (i32.const 1))))
  (func (export "canister_update inc") (call $inc) (call $append (i32.const 0) (i32.const 4)) (call $reply))
  (func (export "canister_query certified") (call $inc) (drop (call $size))))"""


def test_failure_of_ours_in_a_host_function_rolls_back(harness):
    counter = harness.fresh(CERTIFIED)
    harness.reply(counter, "inc")
    counter.commit()

    def fail() -> bytes:
        raise ZeroDivisionError

    env = harness.env(Context.NON_REPLICATED_QUERY, certificate=fail)
    with pytest.raises(ZeroDivisionError):
        counter.run(Method("canister_query certified"), env)
    assert number(harness.reply(counter, "inc")) == 2


@pytest.mark.parametrize(
    "options",
    [
        Options(native_stable=False),
        Options(native_messages=False),
        Options(accounting=False),
        Options(schedule=None),
        Options(schedule=None, native_stable=False, native_messages=False, accounting=False),
    ],
    ids=["host-stable", "host-messages", "unaccounted", "unmetered", "bare"],
)
def test_every_mode_leaves_the_same_bytes(any_harness, options):
    outcomes = []
    for mode in (Options(), options):
        instance = any_harness.fresh(any_harness.compile(COUNTER, mode))
        replies = [any_harness.reply(instance, "inc"), any_harness.reply(instance, "echo", b"hello")]
        for address in (0, 70000, 20 * 4096):
            any_harness.run(instance, "stable", address.to_bytes(8, "little") + b"12345678")
            instance.commit()
        any_harness.run(instance, "stable", (1 << 50).to_bytes(8, "little") + b"12345678")
        instance.roll_back()
        outcomes.append(
            (replies, instance.heap.read(0, 131072), instance.stable.read(0, 131072), instance.global_values)
        )
    assert outcomes[0] == outcomes[1]
