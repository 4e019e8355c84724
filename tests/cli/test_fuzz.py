"""`perdure fuzz`, as a person calls it."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime

from perdure import RejectError
from perdure.wasm import decode, encode
from perdure.wasm.module import CustomSection

Run = Callable[..., tuple[str, str]]

SERVICE = b"service : { count : () -> (); odd : (nat8) -> () query }"
PROGRAM = """(module
  (import "ic0" "msg_arg_data_copy" (func $arg (param i32 i32 i32)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (data (i32.const 16) "DIDL\\00\\00")
  (func $done (call $append (i32.const 16) (i32.const 6)) (call $reply))
  (func (export "canister_update count") (i32.store8 (i32.const 1) (i32.const 1)) (call $done))
  (func (export "canister_query odd") (call $arg (i32.const 0) (i32.const 7) (i32.const 1))
    (if (i32.and (i32.load8_u (i32.const 1)) (i32.gt_u (i32.load8_u (i32.const 0)) (i32.const 200)))
      (then (unreachable))) (call $done)))"""


def module(*, breaks: bool) -> bytes:
    found = decode(bytes(wasmtime.wat2wasm(PROGRAM.replace("(unreachable)", "(unreachable)" if breaks else "(nop)"))))
    return encode(replace(found, custom_sections=(CustomSection("icp:public candid:service", SERVICE),)))


@pytest.fixture
def right(tmp_path: Path) -> Path:
    path = tmp_path / "right.wasm"
    path.write_bytes(module(breaks=False))
    return path


def test_it_writes_a_test_that_fails_as_it_found(tmp_path: Path, perdure: Run) -> None:
    (tmp_path / "breaks.wasm").write_bytes(module(breaks=True))
    # With the guide a story may begin with one that was found before, which Hypothesis does not shorten.
    printed, _ = perdure("fuzz", "breaks.wasm", "--no-guide", "--examples", "40", "--json", code=1)
    answer = json.loads(printed)
    assert "IC0502" in answer["found"]["error"]
    assert {row["action"] for row in answer["calls"]} == {"count", "odd", "(wait)", "(upgrade)"}
    told = Path(answer["found"]["file"]).read_text()
    assert [line.split("(")[0].strip() for line in told.splitlines() if " canister." in line] == [
        "canister.update",
        "canister.query",
    ]
    (test,) = [value for name, value in runpy.run_path("test_found.py").items() if name.startswith("test_")]
    with pytest.raises(RejectError, match="IC0502"):
        test()


def test_what_nothing_breaks(perdure: Run, right: Path) -> None:
    printed, errors = perdure("fuzz", right, "--examples", "8", "--no-upgrade")
    assert errors == ""
    assert {line.split()[0] for line in printed.splitlines()} == {"count", "odd", "(wait)"}
    assert not Path("test_found.py").exists()
    assert perdure("fuzz", right, "--examples", "8", "--no-upgrade") == (printed, "")  # the seed says all


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--init", "(nat"], "expected"),
        (["--method", "nothing"], "nothing to call: 'nothing' is none of count, odd"),
        (["--method", "("], "regular expression"),
        (["--examples", "0"], "--examples"),
    ],
)
def test_what_it_refuses(perdure: Run, right: Path, arguments: list[str], told: str) -> None:
    _, errors = perdure("fuzz", right, *arguments, code=2)
    assert told in errors


def test_a_module_without_an_interface(tmp_path: Path, perdure: Run) -> None:
    bare = PROGRAM.replace("(unreachable)", "(nop)")
    (tmp_path / "bare.wasm").write_bytes(bytes(wasmtime.wat2wasm(bare)))
    _, errors = perdure("fuzz", "bare.wasm", code=2)
    assert "pass --candid service.did" in errors
    (tmp_path / "service.did").write_bytes(SERVICE)
    perdure("fuzz", "bare.wasm", "--examples", "2", "--candid", "service.did", "-q")


def test_without_the_extra_it_names_it(perdure: Run, right: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "perdure.kit.machine", None)
    _, errors = perdure("fuzz", right, code=2)
    assert 'pip install "perdure[fuzz]"' in errors
