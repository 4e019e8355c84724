"""`perdure instrument --wasi` and `perdure run --wasi`, as a person calls them."""

from __future__ import annotations

import json
import subprocess
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
    assert "perdure instrument --wasi" in perdure("instrument", program, code=2).stderr


PRINTS = """(module
  (import "ic0" "debug_print" (func $print (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "trap" (func $trap (param i32 i32)))
  (memory (data "at the start" "[b]one\\ntwo[/b]" "no good"))
  (func (export "canister_init") (call $print (i32.const 0) (i32.const 12)))
  (func (export "canister_update tell") (call $print (i32.const 12) (i32.const 14)) (call $reply))
  (func (export "canister_update fail")
    (call $print (i32.const 12) (i32.const 6)) (call $trap (i32.const 26) (i32.const 7))))"""


@pytest.fixture
def printing(tmp_path: Path) -> Path:
    path = tmp_path / "printing.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(PRINTS)))
    return path


def test_run_shows_what_is_printed_before_each_reply(perdure: Run, printing: Path) -> None:
    shown = [line.split("  ")[:2] for line in perdure("run", printing, "tell", "tell").stdout.splitlines()]
    told = [["log", "[b]one"], ["log", "two[/b]"], ["update tell", ""]]
    assert shown == [["log", "at the start"], ["installed as lxzze-o7777-77777-aaaaa-cai"], *told, *told]
    done = json.loads(perdure("run", printing, "tell", "--json").stdout)
    assert done["log"] == ["at the start", "[b]one\ntwo[/b]"]
    assert perdure("run", printing, "tell", "--quiet").stdout == ""


def test_a_call_that_fails_leaves_what_came_before_it(perdure: Run, printing: Path) -> None:
    failed = perdure("run", printing, "tell", "fail", "tell", code=1)
    lines = failed.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[4:]] == ["update tell", "log", "log"]
    assert lines[-2:] == ["log  [b]one", "log  [TRAP]: no good"]
    assert "'no good'" in failed.stderr
    done = json.loads(perdure("run", printing, "tell", "fail", "--json", code=1).stdout)
    assert [call["method"] for call in done["calls"]] == ["tell"]
    assert done["log"][2] == "[b]one"


def test_a_trap_while_installing_tells_what_was_printed(perdure: Run, tmp_path: Path) -> None:
    path = tmp_path / "trapping.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(PRINTS.replace("(i32.const 12)))", "(i32.const 12)) unreachable)", 1))))
    assert perdure("run", path, code=1).stdout.splitlines() == ["log  at the start", "log  [TRAP]: unreachable"]


def test_a_file_that_is_no_module_is_named(perdure: Run, tmp_path: Path) -> None:
    path = tmp_path / "counter.wat"
    path.write_text("(module)")
    for command in (("instrument", path), ("instrument", "--wasi", path), ("run", "--wasi", path)):
        assert f"{path}: found Wasm's text format" in perdure(*command, code=2).stderr


def test_instrument_refuses_what_an_installation_refuses(perdure: Run, tmp_path: Path) -> None:
    path = tmp_path / "mistyped.wasm"
    path.write_bytes(b"\0asm\1\0\0\0\1\4\1\x60\0\0\3\2\1\0\x0a\5\1\3\0\x6a\x0b")
    for flags in ((), ("--wasi",)):
        assert "type mismatch" in perdure("instrument", *flags, path, code=2).stderr


def test_names_from_a_module_do_not_reach_the_terminal_as_they_are(perdure: Run, tmp_path: Path) -> None:
    path = tmp_path / "hostile.wasm"
    name = r"\1b[2J\07\0a"
    text = f'(module (import "h" "{name}" (func)) (memory 1) (func (export "canister_update_{name}")))'
    path.write_bytes(bytes(wasmtime.wat2wasm(text)))
    shown = perdure("instrument", "--wasi", "--stub", "h.*", path).stdout
    assert r"h.\u{1b}[2J\u{7}\u{a}" in shown
    printed = [
        shown,
        perdure("instrument", "--wasi", path, code=2).stderr,
        perdure("run", "--wasi", "--stub", "h.*", path, "none", code=2).stderr,
    ]
    assert [r"\u{7}" in text for text in printed] == [True] * 3
    assert [text for text in printed if "\x1b" in text or "\7" in text] == []


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
from perdure.cli import main
main()
"""


def test_an_output_that_cannot_be_written_leaves_what_was_there(program: Path) -> None:
    before = program.read_bytes()
    command = [sys.executable, "-B", "-c", LIMITED, "instrument", "--wasi", "--stub", "*.f", program, "-o", program]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2, done.stderr
    assert b"File too large" in done.stderr
    assert program.read_bytes() == before
    assert list(program.parent.iterdir()) == [program]
