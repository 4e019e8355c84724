"""Snapshot directories have a canister's own memories beside what the network knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wasmtime

from perdure import Canister, StorageError, Subnet
from perdure.errors import UnsupportedError

NAMED = ("memories",)


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f'(module (import "ic0" "msg_reply" (func $reply)) {text})'))


LEDGER = wasm("""(import "stable" "users" (memory $users i64 2 9)) (import "upgrade" "cache" (memory $cache 1))
  (import "message" "scratch" (memory $scratch 1)) (memory $heap 1)
  (data (memory $users) (i64.const 70000) "Ada") (data (memory $cache) (i32.const 9) "cached")
  (func (export "canister_update f") (call $reply))""")
PLAIN = wasm("(memory 1)")


@pytest.fixture
def canister() -> Canister:
    return Subnet(extensions=NAMED).install(LEDGER)


def shown(canister: Canister) -> tuple[bytes, bytes]:
    return canister.memories["users"].read(70_000, 3), canister.memories["cache"].read(9, 6)


def test_written_and_taken_up_again(canister: Canister, tmp_path: Path) -> None:
    canister.write_snapshot(tmp_path / "s")
    assert sorted(path.name for path in (tmp_path / "s" / "memories").iterdir()) == [
        "cache.bin",
        "memories.json",
        "users.bin",
    ]
    again = Subnet.open(tmp_path / "s", extensions=NAMED).canisters[0]
    assert shown(again) == (b"Ada", b"cached")
    canister.memories["users"].write(70_000, b"Bob")
    canister.load_snapshot(canister.upload_snapshot(tmp_path / "s"))
    assert shown(canister) == (b"Ada", b"cached")
    canister.update("f")
    assert shown(canister) == (b"Ada", b"cached")


def test_what_no_code_names_goes_along(canister: Canister, tmp_path: Path) -> None:
    canister.upgrade(PLAIN)
    canister.write_snapshot(tmp_path / "s")
    again = Subnet.open(tmp_path / "s", extensions=NAMED).canisters[0]
    kept = again.memories["users"]
    assert (kept.state, kept.kind.address_bits, kept.read(70_000, 3)) == ("unused", 64, b"Ada")
    again.upgrade(LEDGER)
    assert again.memories["users"].read(70_000, 3) == b"Ada"


def test_one_of_its_snapshots_as_a_directory(canister: Canister, tmp_path: Path) -> None:
    taken = canister.take_snapshot()
    canister.memories["users"].write(70_000, b"Bob")
    canister.write_snapshot(tmp_path / "s", snapshot_id=taken)
    assert shown(Subnet.open(tmp_path / "s", extensions=NAMED).canisters[0]) == (b"Ada", b"cached")


def test_into_a_state_directory(canister: Canister, tmp_path: Path) -> None:
    canister.write_snapshot(tmp_path / "s")
    with Subnet(tmp_path / "state", extensions=NAMED) as subnet:
        other = subnet.install(LEDGER)
        other.memories["users"].write(70_000, b"Eve")
        other.load_snapshot(other.upload_snapshot(tmp_path / "s"))
    with Subnet(tmp_path / "state") as subnet:
        assert shown(subnet.canister(other.id)) == (b"Ada", b"cached")


def test_where_the_extension_is_off_it_is_refused(canister: Canister, tmp_path: Path) -> None:
    canister.upgrade(PLAIN)
    canister.write_snapshot(tmp_path / "s")
    words = "the snapshot has cache, users beside heap and stable memory: it belongs to the extension 'memories'"
    with pytest.raises(UnsupportedError, match=words):
        Subnet.open(tmp_path / "s")
    with pytest.raises(UnsupportedError, match=words):
        Subnet().install(PLAIN).upload_snapshot(tmp_path / "s")


def test_a_canister_without_any_has_the_networks_form(tmp_path: Path) -> None:
    Subnet(extensions=NAMED).install(PLAIN).write_snapshot(tmp_path / "s")
    assert not (tmp_path / "s" / "memories").exists()


def test_widths_have_to_be_those_of_the_module(canister: Canister, tmp_path: Path) -> None:
    canister.write_snapshot(tmp_path / "s")
    change(tmp_path / "s", "users", address_bits=32)
    with pytest.raises(StorageError, match="memory users has 32-bit addresses, its module has it with 64-bit ones"):
        Subnet.open(tmp_path / "s", extensions=NAMED)


def change(snapshot: Path, name: str, **fields: object) -> None:
    path = snapshot / "memories" / "memories.json"
    said = json.loads(path.read_text())
    said[name] = {**said.get(name, {}), **fields}
    path.write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("users", {"size_bytes": 1 << 16}, "131072 bytes found, 65536 expected"),
        ("users", {"size_bytes": -1}, "a 64-bit number expected"),
        ("users", {"address_bits": 16}, "16-bit addresses are of no memory"),
        ("users", {"lifetime": []}, "unhashable type"),
        ("../../users", {"lifetime": "stable", "address_bits": 64, "size_bytes": 0}, "is no name of a memory"),
        ("stable", {"lifetime": "stable", "address_bits": 64, "size_bytes": 0}, "is no name of a memory"),
        ("gone", {"lifetime": "stable", "address_bits": 64, "size_bytes": 1 << 16}, "not a snapshot: "),
    ],
)
def test_what_is_wrong_is_refused(canister: Canister, tmp_path: Path, name: str, fields: dict, words: str) -> None:
    canister.write_snapshot(tmp_path / "s")
    change(tmp_path / "s", name, **fields)
    with pytest.raises(StorageError, match=words):
        Subnet.open(tmp_path / "s", extensions=NAMED)


def test_no_json(canister: Canister, tmp_path: Path) -> None:
    canister.write_snapshot(tmp_path / "s")
    for text in ("{", "[]", '{"users": 1}', "[" * 100_000):
        (tmp_path / "s" / "memories" / "memories.json").write_text(text)
        with pytest.raises(StorageError, match=r"memories/memories\.json: "):
            Subnet.open(tmp_path / "s", extensions=NAMED)
