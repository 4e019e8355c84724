"""`perdure bindgen`, as a person calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import wasmtime

Run = Callable[..., tuple[str, str]]


def test_a_module(perdure: Run, tmp_path: Path) -> None:
    ledger = Path(__file__).parents[1] / "canisters/modules/ledger.wasm.gz"
    printed, _ = perdure("bindgen", ledger, "-o", "ledger.py", "--json")
    assert json.loads(printed) == {"file": "ledger.py", "class": "Ledger", "methods": 6}
    assert "class Ledger:" in (tmp_path / "ledger.py").read_text()


def test_an_interface_with_an_import_and_a_name(perdure: Run, tmp_path: Path) -> None:
    (tmp_path / "types.did").write_text("type T = record { a : nat };")
    (tmp_path / "9 lives.did").write_text('import "types.did"; service : { get : () -> (T) }')
    assert "class Canister9Lives with 1 methods" in perdure("bindgen", "9 lives.did", "-o", "cat.py")[0]
    assert "def get(self) -> T:" in (tmp_path / "cat.py").read_text()
    perdure("bindgen", "9 lives.did", "-o", "cat.py", "--name", "Cat", "-q")
    assert "class Cat:" in (tmp_path / "cat.py").read_text()


def test_what_has_no_interface(perdure: Run, tmp_path: Path) -> None:
    (tmp_path / "bare.wasm").write_bytes(bytes(wasmtime.wat2wasm("(module)")))
    assert "no section candid:service" in perdure("bindgen", "bare.wasm", "-o", "x.py", code=2)[1]
    (tmp_path / "bad.did").write_text("service : {")
    assert "bad.did" in perdure("bindgen", "bad.did", "-o", "x.py", code=2)[1]
    (tmp_path / "a.txt").write_text("text")
    assert "no Wasm module" in perdure("bindgen", "a.txt", "-o", "x.py", code=2)[1]
    assert "--name" in perdure("bindgen", "bad.did", "-o", "x.py", "--name", "no name", code=2)[1]
    assert not (tmp_path / "x.py").exists()
