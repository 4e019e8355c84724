"""`perdure watch`: a module that changes is upgraded to, in the state, and nothing else disturbs that."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from wasmtime import wat2wasm

from perdure import Subnet

WAT = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (memory 1)
  (@custom "icp:public candid:service" "service : {{ {method} : () -> () }}")
  (func (export "canister_init") (drop (call $grow (i64.const 3))))
  (func (export "canister_post_upgrade") {hook})
  (func (export "canister_update {method}") (call $reply)))"""


def module(method: str = "go", hook: str = "") -> bytes:
    return bytes(wat2wasm(WAT.format(method=method, hook=hook)))


def put(path: Path, content: bytes) -> None:
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.replace(path)


@contextmanager
def watching(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "perdure", "watch", *arguments, "--json", "--interval", "0.05"]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def said(process: subprocess.Popen[str]) -> dict[str, str]:
    assert process.stdout is not None
    found: dict[str, str] = json.loads(process.stdout.readline())
    return found


@pytest.mark.slow
def test_it_waits_installs_upgrades_holds_back_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    path = tmp_path / "shop.wasm"
    with watching(tmp_path, "shop.wasm") as process:
        assert said(process)["event"] == "waiting"
        put(path, module())
        assert said(process)["event"] == "installed"
        put(path, b"no module")
        assert "module" in said(process)["error"]
        put(path, module(hook="(nop)"))
        upgraded = said(process)
        assert (upgraded["event"], upgraded["verdict"]) == ("upgraded", "safe")
        put(path, module(hook="unreachable"))
        held = said(process)
        assert (held["event"], held["verdict"]) == ("held", "breaking")
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "interrupted\n"
    with Subnet(tmp_path / ".perdure") as subnet:
        (canister,) = subnet.canisters
        assert canister.status().stable_bytes == 3 << 16
        assert canister.status().module_hash is not None
        assert canister.status().module_hash.hex() == upgraded["module_hash"]


def test_a_module_is_no_second_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "perdure", "watch", "shop.wasm", "--wasm", "other.wasm"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert "'shop.wasm' is a module already" in done.stderr
    assert not list(tmp_path.iterdir())
