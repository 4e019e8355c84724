"""Compiling in a process of its own, and by which bounds."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest
import wasmtime

import perdure
from perdure.canister import Method
from perdure.embedder import Apart, CompileCache, Compiler, shared_engine
from perdure.errors import HostError, UnsupportedError
from perdure.instrument import Bounds

TEXT = """(module (import "ic0" "msg_reply" (func $reply)) (memory 1)
  (func (export "canister_update f") (local i32)
    (block (loop (br_if 1 (i32.eqz (local.get 0))) (br 0))) (call $reply)))"""
WASM = bytes(wasmtime.wat2wasm(TEXT))
ALWAYS = Apart(above_seconds=0)
TIGHT = Bounds(nesting=1)


def test_what_another_process_compiled_runs_and_fills_the_cache(tmp_path, harness, caplog):
    with caplog.at_level(logging.WARNING, "perdure"):
        module = Compiler(shared_engine(), CompileCache(tmp_path), apart=ALWAYS).compile(WASM)
        assert harness.reply(harness.fresh(module), "f") == b""
        assert ["compiling a module" in record.message for record in caplog.records] == [True]
        again = Compiler(shared_engine(), CompileCache(tmp_path), apart=ALWAYS).compile(WASM)
    assert len(caplog.records) == 1  # found in the cache
    assert again.serialize() == module.serialize()
    assert again.serialize() == Compiler(shared_engine(), None).compile(WASM).serialize()


def test_time_that_runs_out_is_an_error_of_the_host():
    with pytest.raises(HostError, match="longer than 0 seconds"):
        Compiler(shared_engine(), None, apart=Apart(above_seconds=0, max_seconds=0)).compile(_slow())


def _slow(functions: int = 2) -> bytes:
    """A module that takes a second for each function, however fast the machine."""
    body = " ".join(
        f"(loop (local.set {i} (local.get {(7 * i + 1) % 1500})) (br_if 0 (local.get {i})))" for i in range(1500)
    )
    text = "".join(f"(func (local {'i32 ' * 1500}) {'nop ' * i} {body})" for i in range(functions))
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def test_memory_that_runs_out_is_an_error_of_the_host():
    apart = Apart(above_seconds=0, max_memory_bytes=300 << 20)
    with pytest.raises(HostError, match=r"memory|failed"):
        Compiler(shared_engine(), None, apart=apart).compile(_slow())


def test_the_compiling_process_ends_with_the_one_that_asked(tmp_path):
    script = tmp_path / "asks.py"
    script.write_text(
        "import pathlib, sys\n"
        "from perdure.embedder import Apart, Compiler, shared_engine\n"
        "from perdure.instrument import Bounds\n"
        "wasm = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "bounds = Bounds(excess_milliseconds=10**9)\n"
        "Compiler(shared_engine(), None, apart=Apart(above_seconds=0), bounds=bounds).compile(wasm)\n"
    )
    (tmp_path / "slow.wasm").write_bytes(_slow(functions=12))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    asking = subprocess.Popen([sys.executable, str(script), str(tmp_path / "slow.wasm")], env=environment)
    compiling = _soon(lambda: _children(asking.pid))
    asking.kill()
    asking.wait()
    _soon(lambda: not any((process / "exe").exists() for process in compiling))  # a zombie has none
    assert {path.name for path in tmp_path.iterdir()} == {"asks.py", "slow.wasm"}


def _children(parent: int) -> list[Path]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((process / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(process)
    return found


def _soon(condition):
    deadline = time.monotonic() + 60
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def test_a_host_error_is_no_reject_and_changes_nothing():
    subnet = perdure.Subnet(
        compiler=Compiler(shared_engine(), None, apart=Apart(above_seconds=0, max_memory_bytes=1 << 20))
    )
    with pytest.raises(HostError):
        subnet.install(WASM)
    assert not subnet.canisters
    assert isinstance(HostError("x"), perdure.PerdureError)


def test_bounds_refuse_at_install_whatever_the_cache_holds(tmp_path):
    loose = Compiler(shared_engine(), CompileCache(tmp_path))
    loose.compile(WASM)
    tight = Compiler(shared_engine(), CompileCache(tmp_path), bounds=TIGHT)
    with pytest.raises(UnsupportedError, match=r"2 blocks inside each other, of which at most 1 .*Bounds\.nesting"):
        tight.compile(WASM)
    tight.compile(WASM, known=True)
    with pytest.raises(UnsupportedError, match=r"Bounds\.nesting"):
        tight.compile(WASM)  # now that it is remembered


def test_a_directory_opens_by_any_bounds(tmp_path):
    with perdure.Subnet(tmp_path / "state") as subnet:
        canister_id = subnet.install(WASM).id
    tight = Compiler(shared_engine(), None, bounds=TIGHT)
    with perdure.Subnet(tmp_path / "state", compiler=tight) as subnet:
        assert subnet.canister(canister_id).update("f") == b""
        with pytest.raises(perdure.RejectError, match=r"IC0505.*2 blocks inside each other"):
            subnet.install(WASM)


@pytest.mark.skipif(int(version("wasmtime").split(".")[0]) < 50, reason="older engines compile a br_table of any size")
def test_what_the_engine_cannot_compile_is_unsupported_not_a_fault_of_perdure():
    text = f"""(module (func (export "canister_update f")
      (block (br_table {"0 " * 190_000} (i32.const 0)))))"""
    for apart in (Apart(above_seconds=1e9), ALWAYS):
        with pytest.raises(UnsupportedError, match="the engine cannot compile the module"):
            Compiler(shared_engine(), None, apart=apart).compile(bytes(wasmtime.wat2wasm(text)))


@pytest.mark.parametrize("field", ["nesting", "merged_locals"])
def test_a_count_within_the_bound_is_taken_though_its_rough_form_is_not(tmp_path, field):
    """What the cache holds may be a bound of the true count: then the module is counted anew."""
    Compiler(shared_engine(), CompileCache(tmp_path)).compile(WASM)
    exact = {"nesting": 2, "merged_locals": 5}[field]
    compiler = Compiler(shared_engine(), CompileCache(tmp_path), bounds=Bounds(**{field: exact}))
    assert Method("canister_update f").export_name in compiler.compile(WASM).exported_methods
