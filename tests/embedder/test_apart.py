"""Compiling in a process of its own, and by which bounds."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
import wasmtime

import perdure
from perdure.canister import Method
from perdure.embedder import Apart, CompileCache, Compiler, shared_engine
from perdure.embedder.apart import compile_apart
from perdure.embedder.turns import turn
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
    deadline = time.monotonic() + 120
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


class Counted:
    """In place of compiling apart: how often, and how many at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times, self.now, self.most = 0, 0, 0
        self.lock = threading.Lock()
        monkeypatch.setattr("perdure.embedder.apart.compile_apart", self)

    def __call__(self, binary: bytes, apart: Apart, estimated_seconds: float) -> bytes:
        with self.lock:
            self.times, self.now = self.times + 1, self.now + 1
            self.most = max(self.most, self.now)
        time.sleep(0.1)
        with self.lock:
            self.now -= 1
        return compile_apart(binary, apart, estimated_seconds)


def test_long_compilations_take_turns_and_find_each_other_s_work(tmp_path, monkeypatch):
    """Compilers that share a directory wait as processes do: each has the lock's file open for itself."""
    counted = Counted(monkeypatch)
    other = bytes(wasmtime.wat2wasm("(module (func) (func))"))
    compilers = [Compiler(shared_engine(), CompileCache(tmp_path), apart=ALWAYS) for _ in range(3)]
    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(one.compile, wasm) for one in compilers for wasm in (WASM, other)]
        assert {job.result(60).module_hash for job in jobs} == {hashlib.sha256(wasm).digest() for wasm in (WASM, other)}
    assert (counted.times, counted.most) == (2, 1)


def test_threads_without_a_cache_take_turns_too(monkeypatch):
    counted = Counted(monkeypatch)
    compiler = Compiler(shared_engine(), None, apart=ALWAYS)
    with ThreadPoolExecutor(3) as pool:
        found = {job.result(60) for job in [pool.submit(compiler.compile, WASM) for _ in range(3)]}
    assert (len(found), counted.times, counted.most) == (1, 1, 1)


def test_a_turn_is_waited_for_and_told_of_but_not_for_ever(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("perdure.embedder.turns._HEARD_EVERY_SECONDS", 0.0)
    started = time.monotonic()
    with turn(tmp_path, 60), caplog.at_level(logging.WARNING, "perdure"):
        assert caplog.text == ""
        with turn(tmp_path, 0.3):
            assert time.monotonic() - started >= 0.3
    assert "waiting for another module" in caplog.text
    with turn(tmp_path, 60):
        assert len(caplog.records) == caplog.text.count("waiting")
    assert time.monotonic() - started < 50


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("elsewhere"), lambda path: path.mkdir()])
def test_where_no_lock_can_be_had_nobody_waits(tmp_path, make):
    make(tmp_path / "compiling")
    started = time.monotonic()
    for directory in (tmp_path, Path("/proc/nowhere")):
        with turn(directory, 60), turn(directory, 60):
            assert time.monotonic() - started < 50
    assert not (tmp_path / "elsewhere").exists()
