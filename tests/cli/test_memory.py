"""`perdure memory`, as a person calls it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet
from perdure.cli import main

Run = Callable[..., tuple[str, str]]


def wasm(memory: str) -> bytes:
    text = f"""(module (import "ic0" "msg_reply" (func $reply)) {memory} (memory $heap 1)
      (func (export "canister_update f") (call $reply)))"""
    return bytes(wasmtime.wat2wasm(text))


@pytest.fixture
def state(tmp_path: Path) -> tuple[Path, str]:
    with Subnet(tmp_path / "s", extensions=("memories",)) as subnet:
        canister = subnet.install(
            wasm('(import "stable" "users" (memory i64 1)) (data (memory 0) (i64.const 8) "Ada")')
        )
        return tmp_path / "s", str(canister.id)


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, state: tuple[Path, str]) -> Run:
    def run(command: str, *arguments: str | Path, code: int = 0) -> tuple[str, str]:
        words = ["perdure", "memory", command, state[1], *map(str, arguments), "--state", str(state[0])]
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return printed.out, printed.err

    return run


def test_ls(perdure: Run) -> None:
    text, _ = perdure("ls")
    assert [line.split()[0] for line in text.splitlines()] == ["heap", "stable", "users"]
    rows = json.loads(perdure("ls", "--json")[0])["memories"]
    assert rows[2] == {
        "memory": "users",
        "lifetime": "stable",
        "address_bits": 64,
        "state": "used",
        "size_bytes": 65_536,
    }


def test_show(perdure: Run) -> None:
    text, _ = perdure("show", "users", "--address", "8", "--bytes", "3")
    assert text.split() == ["000000000008", "41", "64", "61", "Ada"]
    assert json.loads(perdure("show", "users", "--address", "65535", "--json")[0])["data"] == "00"
    _, errors = perdure("show", "nobody", code=2)
    assert "no memory 'nobody', there is heap, stable, users" in errors


def test_export(perdure: Run, tmp_path: Path) -> None:
    perdure("export", "users", "-o", tmp_path / "users.bin")
    data = (tmp_path / "users.bin").read_bytes()
    assert (len(data), data[8:11]) == (65_536, b"Ada")
    _, errors = perdure("export", "users", "-o", tmp_path / "users.bin", code=2)
    assert "exists already" in errors


def test_drop(perdure: Run, state: tuple[Path, str]) -> None:
    _, errors = perdure("drop", "users", "--no-snapshot", code=2)
    assert "memory 'users' is used: upgrade to a module that does not name it first" in errors
    with Subnet(state[0]) as subnet:
        (canister,) = subnet.canisters
        canister.upgrade(wasm(""))
    taken = json.loads(perdure("drop", "users", "--snapshot", "--json")[0])
    assert taken["dropped"] == "users"
    with Subnet(state[0]) as subnet:
        (canister,) = subnet.canisters
        assert [*canister.memories] == ["heap", "stable"]
        canister.load_snapshot(bytes.fromhex(taken["snapshot_id"]))
        assert canister.memories["users"].read(8, 3) == b"Ada"
