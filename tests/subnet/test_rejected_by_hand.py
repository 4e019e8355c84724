"""A call that this machine cannot execute: it waits, it is told, and somebody can go on without it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import wasmtime
from built_canisters import module

from perdure import RejectError, Subnet
from perdure.candid import encode, parse_values
from perdure.cli import main
from perdure.embedder import Apart, Compiler, shared_engine
from perdure.errors import HostError
from perdure.subnet import Canister
from perdure.subnet.replay import replay

# It installs what its argument says, and answers with what it heard: the reply or the reject's message.
INSTALLER = bytes(
    wasmtime.wat2wasm("""(module
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_data_append" (func $append (param i32 i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (import "ic0" "msg_reject_msg_size" (func $said (result i32)))
  (import "ic0" "msg_reject_msg_copy" (func $said_copy (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $answer (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 4) (table funcref (elem $done $failed)) (data (i32.const 0) "install_codedone")
  (func $done (param i32) (call $answer (i32.const 12) (i32.const 4)) (call $reply))
  (func $failed (param i32) (call $said_copy (i32.const 64) (i32.const 0) (call $said))
    (call $answer (i32.const 64) (call $said)) (call $reply))
  (func (export "canister_update ping") (call $reply))
  (func (export "canister_update go")
    (call $new (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 12)
      (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
    (call $copy (i32.const 64) (i32.const 0) (call $size)) (call $append (i32.const 64) (call $size))
    (drop (call $perform))))""")
)


NOTHING_IN_TIME = Apart(above_seconds=0, max_seconds=0)


def installation(subnet: Subnet, target: Canister) -> bytes:
    """The argument of an install_code that takes long to compile, as far as this machine is concerned."""
    code = "".join(f"\\{byte:02x}" for byte in module("kv32"))
    text = (
        f'(record {{ mode = variant {{ install }}; canister_id = principal "{target.id}"; '
        f'wasm_module = blob "{code}"; arg = blob "" }})'
    )
    return encode(*parse_values(text, subnet.management.service().methods["install_code"].func.args))


def test_a_canister_installs_what_takes_too_long(tmp_path: Path) -> None:
    compiler = Compiler(shared_engine(), None)
    with Subnet(tmp_path / "state", history=None, compiler=compiler) as subnet:
        installer = subnet.install(INSTALLER)
        target = subnet.create_canister(controllers=[installer.id])
        compiler._apart = NOTHING_IN_TIME
        for _ in range(2):
            with pytest.raises(
                HostError, match=f"install_code, which {installer.id} has called, waits as before"
            ) as told:
                installer.update("go", installation(subnet, target), request_id=b"one")
            assert "reject_management_call" in str(told.value)
        with pytest.raises(HostError):
            installer.update("ping")  # its round comes to the call first
        assert subnet.reject_management_call("too large for this machine") == "install_code"
        assert subnet.reject_management_call() is None
        assert installer.update("go", b"", request_id=b"one") == b"too large for this machine"
        assert installer.update("ping") == b""
        assert target.module is None
    assert replay(tmp_path / "state").difference is None


def test_it_waits_for_a_faster_machine(tmp_path: Path) -> None:
    compiler = Compiler(shared_engine(), None)
    with Subnet(tmp_path / "state", compiler=compiler) as subnet:
        installer = subnet.install(INSTALLER)
        target = subnet.create_canister(controllers=[installer.id])
        compiler._apart = NOTHING_IN_TIME
        with pytest.raises(HostError, match="waits as before"):
            installer.update("go", installation(subnet, target), request_id=b"one")
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(installer.id).update("go", request_id=b"one") == b"done"
        assert subnet.canister(target.id).query("count") == bytes(8)


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiler = Compiler(shared_engine(), None)
    with Subnet(tmp_path / "state", compiler=compiler) as subnet:
        installer = subnet.install(INSTALLER)
        target = subnet.create_canister(controllers=[installer.id])
        compiler._apart = NOTHING_IN_TIME
        with pytest.raises(HostError, match="waits as before"):
            installer.update("go", installation(subnet, target), request_id=b"one")
    verb = ["perdure", "canister", "reject-management-call", "--message", "no", "--state", str(tmp_path / "state")]
    for said in ("rejected install_code", "no call of the management canister waits"):
        monkeypatch.setattr(sys, "argv", verb)
        with pytest.raises(SystemExit) as exited:
            main()
        assert (exited.value.code, capsys.readouterr().out.strip()) == (0, said)
    with Subnet(tmp_path / "state") as subnet:
        assert subnet.canister(installer.id).update("go", request_id=b"one") == b"no"


def test_a_user_s_call() -> None:
    compiler = Compiler(shared_engine(), None)
    subnet = Subnet(compiler=compiler)
    target = subnet.create_canister()
    argument = installation(subnet, target)
    compiler._apart = NOTHING_IN_TIME
    with pytest.raises(HostError, match="install_code, which 2vxsx-fae has called"):
        subnet.management.update("install_code", argument, request_id=b"mine")
    assert subnet.reject_management_call() == "install_code"
    with pytest.raises(RejectError, match="by hand"):
        subnet.management.update("install_code", argument, request_id=b"mine")
    assert subnet.create_canister().status().status == "running"
