"""Canisters of the test set on the engine: every way to run them leaves the same replies, traps and bytes."""

from __future__ import annotations

import pytest

from perdure.canister import Context, Method, Return, Trap, TrapCode
from perdure.instrument import Options

HOST = Options(native_stable=False, native_messages=False)

CALLS = [
    ("stable64_grow", (3).to_bytes(8, "little")),
    ("inc", b""),
    ("put", b"\x05\0\0\0hello world"),
    ("append", (1024).to_bytes(8, "little") + (10).to_bytes(8, "little")),
    ("stable_write", (65530).to_bytes(4, "little") + b"across a page"),
    ("stable64_write", (131072).to_bytes(8, "little") + b"another page"),
    ("stable64_write", (3 * 65536 - 2).to_bytes(8, "little") + b"beyond the end"),
    ("change_and_trap", b""),
    ("trap", b"because"),
    ("unreachable", b""),
    ("divide", bytes(16)),
    ("reply_twice", b""),
    ("reject", b"no"),
    ("recurse", b""),
    ("debug_print", b"said"),
    ("argument_copy", (1024).to_bytes(8, "little") + (8).to_bytes(8, "little") + (16).to_bytes(8, "little")),
    ("argument_copy", (1024).to_bytes(8, "little") + (8).to_bytes(8, "little") + (17).to_bytes(8, "little")),
    ("heap_grow", (2).to_bytes(8, "little")),
    ("certified_data_set", b"c" * 32),
    ("certified_data_set", b"c" * 33),
    ("global_timer_set", (5).to_bytes(8, "little")),
    ("echo", b"e" * 100_000),
    ("silent", b""),
]


def story(harness, name, options):
    """What the calls answer and leave behind; instructions aside, since host calls cost more."""
    instance = harness.fresh(harness.compile(name, options))
    if "canister_init" in instance.module.exported_methods:
        instance.run(Method("canister_init"), harness.env(Context.INIT, needs_to_respond=False))
        instance.commit()
    told = []
    for method, arg in CALLS:
        outcome = harness.run(instance, method, arg)
        if isinstance(outcome, Return):
            delta = instance.commit()
            told.append((method, outcome.response, outcome.logs, outcome.certified_data, outcome.stable_dirty_pages))
            told.append({name: changed.wasm_pages for name, changed in delta.memories.items()})
        else:
            instance.roll_back()
            told.append((method, outcome.code, outcome.message, outcome.backtrace))
    told.append((instance.heap.read(0, instance.heap.size_bytes), instance.stable.read(0, instance.stable.size_bytes)))
    return told, instance.global_values


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kv32.wasm", "kv64.wasm"])
def test_native_and_host_functions_tell_the_same_story(harness, name):
    native, host = story(harness, name, Options()), story(harness, name, HOST)
    for ours, theirs in zip(native[0], host[0], strict=True):
        assert ours == theirs
    assert native[1] == host[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kv32.wasm", "kv64.wasm"])
def test_every_way_of_finding_changed_pages_tells_the_same_story(any_harness, harness, name):
    assert story(any_harness, name, Options()) == story(harness, name, Options())


BIG_HEAP = """(module
  (import "ic0" "msg_reply" (func $reply))
  (memory i64 1)
  (func (export "canister_update grow") (drop (memory.grow (i64.const 70000)))
    (i64.store (i64.const 0x111000000) (i64.const 7)) (i64.store (i64.const 8) (i64.const 6)) (call $reply))
  (func (export "canister_update look")
    (if (i64.ne (i64.load (i64.const 0x111000000)) (i64.const 7)) (then (unreachable)))
    (i64.store (i64.const 0x111000000) (i64.const 9)) (call $reply))
  (func (export "canister_update beyond") (i64.store (i64.const 0x111710000) (i64.const 7))))"""


def test_64_bit_heap_grows_past_its_first_reservation(harness):
    instance = harness.fresh(BIG_HEAP)
    for _ in range(2):
        assert isinstance(harness.run(instance, "grow"), Return)
        assert instance.heap.size() == 70001
        instance.roll_back()
        assert instance.heap.size() == 1
    harness.run(instance, "grow")
    assert [address for address, _ in instance.commit().memories["heap"].runs] == [0, 0x111000000]
    for _ in range(2):
        assert isinstance(harness.run(instance, "look"), Return)
        instance.roll_back()
    trap = harness.run(instance, "beyond")
    assert isinstance(trap, Trap)
    assert trap.code is TrapCode.HEAP_OUT_OF_BOUNDS
