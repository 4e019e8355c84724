"""Extensions of the network's rules: off unless asked for, refused by name, kept with the state, replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.instrument import Options
from perdure.subnet.replay import replay

DIRECT = bytes(
    wasmtime.wat2wasm("""(module
      (import "ic0_ext" "stable64_load_i64" (func $load (param i64) (result i64)))
      (import "ic0_ext" "stable64_store_i64" (func $store (param i64 i64)))
      (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
      (import "ic0" "msg_reply" (func $reply))
      (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
      (memory 1)
      (func $answer (i64.store (i32.const 0) (call $load (i64.const 100)))
        (call $append (i32.const 0) (i32.const 8)) (call $reply))
      (func $add (call $store (i64.const 100) (i64.add (call $load (i64.const 100)) (i64.const 1))))
      (func (export "canister_init") (drop (call $grow (i64.const 1))))
      (func (export "canister_update add") (call $add) (call $answer))
      (func (export "canister_update trap") (call $add) (unreachable))
      (func (export "canister_query get") (call $answer))
      (func (export "canister_query beyond") (drop (call $load (i64.const 65529))))
      (func (export "canister_query heap") (drop (i64.load (i32.const 65529)))))""")
)
WAYS = pytest.mark.parametrize(
    "options", [Options(), Options(accounting=False), Options(schedule=None, accounting=False)], ids=str
)


def number(reply: bytes) -> int:
    return int.from_bytes(reply, "little")


def test_off_unless_asked_for() -> None:
    with pytest.raises(
        RejectError, match=r"'stable64_load_i64' from 'ic0_ext'.*extension 'direct'.*--extension direct"
    ):
        Subnet().install(DIRECT)
    assert Subnet().extensions == ()
    with pytest.raises(ValueError, match="no extension is named 'teleport'"):
        Subnet(extensions=("teleport",))


def test_a_wrong_signature_is_refused_as_the_networks_are() -> None:
    text = '(module (import "ic0_ext" "stable64_load_i64" (func (param i32) (result i64))) (memory 1))'
    with pytest.raises(RejectError, match=r"Expected input params \[I64\] for 'stable64_load_i64', got \[I32\]"):
        Subnet(extensions=("direct",)).install(bytes(wasmtime.wat2wasm(text)))
    unknown = '(module (import "ic0_ext" "stable64_load_i128" (func)) (memory 1))'
    with pytest.raises(RejectError, match="'stable64_load_i128' from 'ic0_ext' that is not exported by the runtime"):
        Subnet(extensions=("direct",)).install(bytes(wasmtime.wat2wasm(unknown)))


@WAYS
def test_a_message_commits_what_it_stored_and_a_trap_takes_it_back(options: Options) -> None:
    canister = Subnet(extensions=("direct",), instrumentation=options).install(DIRECT)
    assert [number(canister.update("add")) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(RejectError, match="unreachable"):
        canister.update("trap")
    assert number(canister.query("get")) == 3
    assert canister.stable.read(100, 8) == (3).to_bytes(8, "little")


@WAYS
def test_out_of_bounds_is_told_by_its_memory(options: Options) -> None:
    canister = Subnet(extensions=("direct",), instrumentation=options).install(DIRECT)
    with pytest.raises(RejectError, match="stable memory out of bounds"):
        canister.query("beyond")
    with pytest.raises(RejectError, match="heap out of bounds"):
        canister.query("heap")


def test_forks_and_anchors_have_them_and_each_its_own() -> None:
    plain = Subnet()
    fork = plain.fork(extensions=["direct"])
    assert (plain.extensions, fork.extensions, fork.fork().extensions) == ((), ("direct",), ("direct",))
    canister = fork.install(DIRECT)
    with fork.anchor():
        assert number(fork.canister(canister.id).update("add")) == 1
    assert number(canister.query("get")) == 0
    with pytest.raises(RejectError, match="extension 'direct'"):
        plain.install(DIRECT)


def test_a_state_directory_keeps_them(tmp_path: Path) -> None:
    with Subnet(tmp_path / "s", history=None) as subnet:
        subnet.create_canister()
    with Subnet(tmp_path / "s", extensions=("direct",)) as subnet:
        canister_id = subnet.install(DIRECT).id
        subnet.canister(canister_id).update("add")
    with Subnet(tmp_path / "s") as subnet:
        assert subnet.extensions == ("direct",)
        assert number(subnet.canister(canister_id).update("add")) == 2
        assert subnet.at(1).extensions == ("direct",)  # of a directory as a whole
    assert number(Subnet.read(tmp_path / "s").canister(canister_id).query("get")) == 2


def test_history_with_them_is_replayed(tmp_path: Path) -> None:
    with Subnet(tmp_path / "s", history=None) as subnet:
        subnet.create_canister()
    with Subnet(tmp_path / "s", extensions=("direct",)) as subnet:
        canister = subnet.install(DIRECT)
        canister.update("add")
    assert replay(tmp_path / "s").difference is None
