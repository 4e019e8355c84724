"""``SOURCE#MEMORY``: one word for a memory of a canister's own, wherever a source is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet
from perdure.inspection.open import open_source
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types

Run = Callable[..., tuple[str, str]]
MODULE = bytes(
    wasmtime.wat2wasm("""(module (import "ic0" "msg_reply" (func $reply))
  (import "stable" "users" (memory $users i64 1 100)) (import "message" "scratch" (memory 1)) (memory $heap 1)
  (func (export "canister_update touch")
    (i64.store $users (i64.const 65528) (i64.add (i64.load $users (i64.const 65528)) (i64.const 1))) (call $reply)))""")
)


def users(count: int) -> bytes:
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text).update((key, f"user {key}") for key in range(count))
    return bytes(memory.data)


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    """A canister of a state directory and a snapshot of it, whose memory ``users`` has a map."""
    with Subnet(tmp_path / "s", extensions=("memories",), history=None) as subnet:
        canister = subnet.install(MODULE)
        canister.memories["users"].write(0, users(3)[: 1 << 16])
        canister.write_snapshot(tmp_path / "snapshot")
        canister.memories["users"].write(0, users(5)[: 1 << 16])
        canister.update("touch")
    return f"{tmp_path / 's'}:{canister.id}", str(tmp_path / "snapshot")


def test_listed_queried_compared_exported_and_checked(perdure: Run, places: tuple[str, str], tmp_path: Path) -> None:
    state, snapshot = places
    listed = json.loads(perdure("stable", "ls", f"{state}#users", "--json")[0])["structures"]
    assert [(one["kind"], one["entries"]) for one in listed] == [("btreemap", 5)]
    Path("stable.yaml").write_text("memories:\n  page:0: {name: people, kind: btreemap, key: u64, value: text}\n")
    found = json.loads(
        perdure("stable", "query", f"{state}#users", "select value from people where key = 4", "--json")[0]
    )
    assert "user 4" in json.dumps(found)
    out, _ = perdure("stable", "diff", f"{snapshot}#users", f"{state}#users", "--json", code=1)
    assert "user 4" in out or "added" in out
    perdure("stable", "fsck", f"{state}#users")
    perdure("stable", "export", f"{state}#users", "-o", "users.csv")
    assert len(Path("users.csv").read_text().splitlines()) == 6
    assert json.loads(perdure("stable", "ls", f"{snapshot}#users", "--json")[0])["structures"][0]["entries"] == 3


def test_bytes_of_no_structure_are_compared(perdure: Run, tmp_path: Path) -> None:
    with Subnet(extensions=("memories",)) as subnet:
        canister = subnet.install(MODULE)
        for name in (b"Ada", b"Bob"):
            canister.memories["users"].write(0x2000, name)
            canister.write_snapshot(tmp_path / name.decode())
    sides = (f"{tmp_path / 'Ada'}#users", f"{tmp_path / 'Bob'}#users")
    out, _ = perdure("stable", "diff", *sides, code=1)
    assert out.splitlines()[1:] == ["  1 of 16 pages of 4 KiB differ", "  ~ 0x2000, 3 bytes: 41 64 61 -> 42 6f 62"]
    (found,) = json.loads(perdure("stable", "diff", *sides, "--json", code=1)[0])
    assert found["bytes"] == [{"address": 0x2000, "size_bytes": 3, "before": "416461", "after": "426f62"}]


def test_stable_and_heap_have_names_too(places: tuple[str, str]) -> None:
    for place in places:
        with open_source(f"{place}#heap") as heap, open_source(f"{place}#stable") as named, open_source(place) as plain:
            assert heap.memory.size() == 1
            assert named.memory.size() == plain.memory.size() == 0


def test_blame_and_the_history_of_a_memory(perdure: Run, places: tuple[str, str]) -> None:
    out, _ = perdure("state", "blame", f"{places[0]}#users", "--address", "65528")
    assert "call touch" in out
    _, errors = perdure("state", "blame", f"{places[0]}#users", "--heap", "0", code=2)
    assert "expected --address" in errors
    out, _ = perdure("stable", "lifecycle", f"{places[0]}#users")
    assert "btreemap" in out


@pytest.mark.parametrize(
    ("command", "place", "words"),
    [
        (("ls",), "{0}#nobody", "has no memory 'nobody': expected one of: heap, scratch, stable, users"),
        (("ls",), "{1}#nobody", "no memory 'nobody': expected one of: heap, stable, users"),
        (("ls",), "{1}#../wasm_module", "no memory '../wasm_module': "),
        (("ls",), "{1}#scratch", "no memory 'scratch': "),
        (("ls",), "{1}/stable_memory.bin#users", "no such file"),
        (("ls",), "{1}/wasm_memory.bin#users", "a dump is one memory, of no name"),
        (("ls",), "{0}x#users", "no canister"),
        (("compact", "-o", "out"), "{0}#users", "a memory does not run, its canister does"),
        (("compact", "-o", "out"), "{1}#users", "a memory does not run, its canister does"),
    ],
)
def test_what_names_nothing(
    perdure: Run, places: tuple[str, str], command: tuple[str, ...], place: str, words: str
) -> None:
    _, errors = perdure("stable", command[0], place.format(*places), *command[1:], code=2)
    assert words in errors


def test_a_file_with_such_a_name_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "dump#users").write_bytes(users(2))
    with open_source(str(tmp_path / "dump#users")) as source:
        assert source.memory.read(0, 3) == b"BTR"
