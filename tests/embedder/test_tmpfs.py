"""Images whose file is memory: a hole that is read there takes room, and a full file system kills who reads it."""

from __future__ import annotations

import os
import random
import tempfile
from pathlib import Path

import wasmtime

from perdure import Subnet
from perdure.canister import WasmState
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage import TemporaryImage, TemporaryStore

COUNTER = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "stable64_read" (func $read (param i64 i64 i64)))
  (import "ic0" "stable64_write" (func $write (param i64 i64 i64)))
  (import "ic0" "msg_arg_data_copy" (func $arg (param i32 i32 i32)))
  (memory 1)
  (func (export "canister_update grow") (drop (call $grow (i64.const 512))) (call $reply))
  (func (export "canister_update put") (call $arg (i32.const 0) (i32.const 0) (i32.const 16))
    (call $write (i64.load (i32.const 0)) (i64.const 8) (i64.const 8)) (call $reply))
  (func (export "canister_query scan") (local i64)
    (loop
      (call $read (i64.const 32) (local.get 0) (i64.const 8))
      (br_if 0 (i64.lt_u (local.tee 0 (i64.add (local.get 0) (i64.const 4096))) (i64.const 33554432))))
    (call $reply)))"""


def used_bytes(store):
    return sum(os.fstat(file.descriptor).st_blocks * 512 for file in store._files)


def test_reading_holes_takes_no_room_and_what_is_written_is_seen(harness):
    store = TemporaryStore("/dev/shm")
    state = WasmState({name: TemporaryImage(store) for name in ("heap", "stable")})
    instance = harness.fresh(harness.compile(COUNTER), state)
    assert store.holes_take_room
    harness.reply(instance, "grow")
    instance.commit()
    before = used_bytes(store)
    harness.reply(instance, "scan")
    assert used_bytes(store) == before
    instance.roll_back()
    draw, model = random.Random(1), bytearray(512 * WASM_PAGE_BYTES)
    for number in range(1, 200):
        address = draw.choice([draw.randrange(512 * WASM_PAGE_BYTES - 8), 8 * draw.randrange(900)])
        model[address : address + 8] = number.to_bytes(8, "little")
        harness.reply(instance, "put", address.to_bytes(8, "little") + number.to_bytes(8, "little"))
        instance.commit() if number % 3 else instance.changes()
    instance.commit()
    assert instance.memories["stable"].read(0, len(model)) == bytes(model)
    pages = sum(bool(model[at : at + PAGE_BYTES].strip(b"\0")) for at in range(0, len(model), PAGE_BYTES))
    assert used_bytes(store) - before <= pages * WASM_PAGE_BYTES
    again = harness.fresh(instance.module, WasmState(state.memories, instance.global_values))
    assert again.memories["stable"].read(0, len(model)) == bytes(model)


def test_a_state_directory_in_memory_is_read_without_its_holes():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as place:
        path = Path(place) / "state"
        with Subnet(path) as subnet:
            counter = subnet.install(bytes(wasmtime.wat2wasm(COUNTER)))
            counter.update("grow", b"")
            counter.update("put", (40 * WASM_PAGE_BYTES).to_bytes(8, "little") + b"written.")
        files = [*(path / "images").glob("*.img")]
        assert files
        before = [one.stat().st_blocks for one in files]
        with Subnet(path) as subnet:
            (again,) = subnet.canisters
            again.query("scan", b"")
            assert again.stable.read(40 * WASM_PAGE_BYTES, 8) == b"written."
            assert [one.stat().st_blocks for one in files] == before
            again.update("put", (41 * WASM_PAGE_BYTES).to_bytes(8, "little") + b"as well.")
            again.query("scan", b"")
        with Subnet(path) as subnet:
            assert subnet.canisters[0].stable.read(41 * WASM_PAGE_BYTES, 8) == b"as well."
