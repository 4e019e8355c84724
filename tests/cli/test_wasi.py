"""`perdure instrument --wasi` and `perdure run --wasi`, as a person calls them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import wasmtime

from perdure.cli import main


class Printed(NamedTuple):
    stdout: str
    stderr: str


Run = Callable[..., Printed]

PROGRAM = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_sync" (func (param i32) (result i32)))
  (import "[host]" "f" (func $f))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (func (export "_initialize"))
  (func (export "canister_update_hello") (call $reply))
  (func (export "canister_update fail") (call $f)))"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(PROGRAM)))
    return path


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str | Path, code: int = 0) -> Printed:
        monkeypatch.setattr(sys, "argv", ["perdure", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = Printed(*capsys.readouterr())
        assert ended.value.code == code, printed.stderr
        return printed

    return run


def test_instrument_says_what_became_of_each_import_and_writes_what_runs(
    perdure: Run, program: Path, tmp_path: Path
) -> None:
    output = tmp_path / "canister.wasm"
    facts = json.loads(perdure("instrument", "--wasi", "--stub", "[[]host]*", program, "-o", output, "--json").stdout)
    assert facts == {
        "size_bytes": program.stat().st_size,
        "written_bytes": output.stat().st_size,
        "initializer": "_initialize",
        "renamed": {"canister_update_hello": "canister_update hello"},
        "imports": [
            {"module": "wasi_snapshot_preview1", "name": "fd_write", "becomes": "a stand-in", "calls": "debug_print"},
            {"module": "wasi_snapshot_preview1", "name": "fd_sync", "becomes": "error 8", "calls": ""},
            {"module": "[host]", "name": "f", "becomes": "a trap when called", "calls": "trap"},
        ],
    }
    done = json.loads(perdure("run", output, "hello", "--json").stdout)
    assert [call["kind"] for call in done["calls"]] == ["update"]
    shown = perdure("instrument", "--wasi", "--stub", "?host?.f", program, "-o", output, "--stats").stdout
    assert "wasi_snapshot_preview1.fd_write  a stand-in, by ic0.debug_print" in shown
    assert "[host].f" in shown
    assert perdure("instrument", "--wasi", output, "-o", output).stdout == ""


def test_run_replaces_on_the_way(perdure: Run, program: Path) -> None:
    assert "hello" in perdure("run", "--wasi", "--stub", "*.f", program, "hello").stdout
    assert "[host].f was called" in perdure("run", "--wasi", "--stub", "*.f", program, "fail", code=1).stderr


def test_what_cannot_be_done_is_said(perdure: Run, program: Path) -> None:
    for command in (("instrument", "--wasi", program), ("run", "--wasi", program, "hello")):
        assert "[host].f, which the Internet Computer does not have" in perdure(*command, code=2).stderr
    assert "no imported function matches 'x.*'" in perdure("run", "--wasi", "--stub", "x.*", program, code=2).stderr
    assert "--stub goes with --wasi" in perdure("run", "--stub", "*", program, code=2).stderr
    assert "--stub goes with --wasi" in perdure("instrument", "--stub", "*", program, code=2).stderr
    assert "own instrumentation" in perdure("instrument", "--wasi", "--host-stable", program, code=2).stderr
    assert "perdure run --wasi" in perdure("run", program, "hello", code=1).stderr
