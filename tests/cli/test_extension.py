"""`perdure run --extension` and `perdure instrument --extension`, as a person calls them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

Run = Callable[..., tuple[str, str]]

PROGRAM = """(module
  (import "ic0_ext" "stable64_load_i64" (func $load (param i64) (result i64)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (func (export "canister_query get") (drop (call $load (i64.const 0)))  (call $reply)))"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(PROGRAM)))
    return path


@pytest.mark.parametrize(("command", "code"), [("run", 1), ("instrument", 2)])
def test_off_unless_asked_for(perdure: Run, program: Path, command: str, code: int) -> None:
    _, errors = perdure(command, program, code=code)
    assert "perdure run --extension direct and perdure canister install --extension direct turn it on" in errors


def test_run(perdure: Run, program: Path) -> None:
    _, errors = perdure("run", "--extension", "direct", program, "get", code=1)
    assert "stable memory out of bounds" in errors


def test_instrument(perdure: Run, program: Path) -> None:
    shown, _ = perdure("instrument", "--extension", "direct", program, "--json")
    assert "stable64_load_i64" in json.loads(shown)["redirected"]


@pytest.mark.parametrize("command", ["run", "instrument"])
def test_an_unknown_extension_is_bad_usage(perdure: Run, program: Path, command: str) -> None:
    _, errors = perdure(command, "--extension", "teleport", program, code=2)
    assert "no extension is named 'teleport': there are direct" in errors


def test_the_network_has_no_extensions(perdure: Run, program: Path) -> None:
    perdure("instrument", "--wasi", "--extension", "direct", program, code=2)
