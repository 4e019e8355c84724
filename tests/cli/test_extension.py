"""`--extension` of every command that runs a module, as a person gives it."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import wasmtime

from perdure import RejectError, Subnet
from perdure.candid import encode, parse_types
from perdure.stable import MemoryManager
from perdure.wasm import decode
from perdure.wasm import encode as encode_module
from perdure.wasm.module import CustomSection

Run = Callable[..., tuple[str, str]]

PROGRAM = """(module
  (import "ic0_ext" "stable64_load_i64" (func $load (param i64) (result i64)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (func (export "canister_query get") (drop (call $load (i64.const 0)))  (call $reply)))"""
KEEPS = """(module
  (import "ic0" "msg_reply" (func $reply))
  (import "stable" "users" (memory $users i64 1))
  (memory $heap 1)
  (func (export "canister_update inc")
    (i64.store $users (i64.const 8) (i64.add (i64.load $users (i64.const 8)) (i64.const 1)))
    (call $reply)))"""
RESULT = encode(parse_types("(record { total : opt record { instructions : nat64 } })"), ({"total": None},))
ESCAPED = "".join(f"\\{byte:02x}" for byte in RESULT)
BENCH = f"""(module
  (import "ic0_ext" "stable64_load_i64" (func $load (param i64) (result i64)))
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1) (data (i32.const 0) "{ESCAPED}")
  (func (export "canister_init") (drop (call $grow (i64.const 1))))
  (func (export "canister_query __canbench__one") (drop (call $load (i64.const 0)))
    (call $append (i32.const 0) (i32.const {len(RESULT)})) (call $reply)))"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(PROGRAM)))
    return path


@pytest.fixture
def keeps(tmp_path: Path) -> Path:
    path = tmp_path / "keeps.wasm"
    path.write_bytes(bytes(wasmtime.wat2wasm(KEEPS)))
    return path


@pytest.fixture
def snapshot(tmp_path: Path, keeps: Path) -> Path:
    """Of a canister with a memory that the network does not know."""
    with Subnet(extensions=("memories",)) as subnet:
        canister = subnet.install(keeps)
        canister.update("inc")
        canister.write_snapshot(tmp_path / "snapshot")
    return tmp_path / "snapshot"


@pytest.mark.parametrize(("command", "code"), [("run", 1), ("instrument", 2), ("profile", 1), ("explain-cost", 1)])
def test_off_unless_asked_for(perdure: Run, program: Path, command: str, code: int) -> None:
    _, errors = perdure(command, program, code=code)
    assert "perdure run --extension direct and perdure canister install --extension direct turn it on" in errors


def test_run(perdure: Run, program: Path) -> None:
    _, errors = perdure("run", "--extension", "direct", program, "get", code=1)
    assert "stable memory out of bounds" in errors


def test_instrument(perdure: Run, program: Path) -> None:
    shown, _ = perdure("instrument", "--extension", "direct", program, "--json")
    assert "stable64_load_i64" in json.loads(shown)["redirected"]


COMMANDS = ["run", "bench", "fuzz", "profile", "heatmap", "coverage", "explain-cost", "explore", "watch", "serve"]
COMMANDS += ["upgrade-check", "instrument", "network-launcher"]
WANTED = {"bench": [], "serve": [], "network-launcher": [], "upgrade-check": ["source", "program.wasm"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_unknown_extension_is_bad_usage(perdure: Run, program: Path, command: str) -> None:
    arguments = WANTED.get(command, [program.name])
    _, errors = perdure(command, "--extension", "teleport", *arguments, code=2)
    assert "no extension is named 'teleport': there are direct" in errors


def test_the_network_has_no_extensions(perdure: Run, program: Path) -> None:
    perdure("instrument", "--wasi", "--extension", "direct", program, code=2)


@pytest.mark.parametrize("command", ["profile", "heatmap", "coverage", "explain-cost"])
def test_a_module_is_measured_with_its_extension(perdure: Run, keeps: Path, command: str) -> None:
    shown, _ = perdure(command, "--extension", "memories", keeps, "inc", "--json")
    assert json.loads(shown)


@pytest.mark.parametrize("command", ["profile", "heatmap", "coverage"])
def test_a_snapshot_is_measured_with_its_extension(perdure: Run, snapshot: Path, command: str) -> None:
    _, errors = perdure(command, snapshot, "inc", code=2)
    assert "extension 'memories'" in errors
    perdure(command, "--extension", "memories", snapshot, "inc", "--json")


def test_heat_of_a_named_memory(perdure: Run, snapshot: Path) -> None:
    shown, _ = perdure("heatmap", "--extension", "memories", snapshot, "inc", "--json")
    assert "users" in {use["memory"] for use in json.loads(shown)["structures"]}


def test_a_state_directory_is_measured_with_more_than_it_has(
    perdure: Run, program: Path, keeps: Path, tmp_path: Path
) -> None:
    with Subnet(tmp_path / "state", extensions=("memories",)) as subnet:
        source = f"{tmp_path / 'state'}:{subnet.install(keeps).id}"
    shown, _ = perdure("profile", source, "inc", "--extension", "direct", "--upgrade", program, "--json")
    assert json.loads(shown)
    _, errors = perdure("profile", source, "inc", "--extension", "memories=index", code=2)
    assert "modules have their memories by one policy" in errors


def test_bench(perdure: Run, tmp_path: Path) -> None:
    (tmp_path / "bench.wasm").write_bytes(bytes(wasmtime.wat2wasm(BENCH)))
    (tmp_path / "canbench.yml").write_text("wasm_path: bench.wasm\n")
    _, errors = perdure("bench", code=1)
    assert "extension 'direct'" in errors
    shown, _ = perdure("bench", "--extension", "direct", "--json")
    assert list(json.loads(shown)["benches"]) == ["one"]


def test_pages_of_heap_and_own_memories_of_a_benchmark(perdure: Run, tmp_path: Path) -> None:
    writes = BENCH.replace(
        "(memory 1) (data",
        """(import "stable" "users" (memory $users i64 3)) (memory $heap 9)
      (data (memory $heap)""",
    ).replace(
        "(drop (call $load (i64.const 0)))",
        """(memory.fill $heap (i32.const 65536) (i32.const 7) (i32.const 20480))
        (i64.store $users (i64.const 5000) (i64.const 1)) (i64.store $users (i64.const 9000) (i64.const 1))""",
    )
    (tmp_path / "bench.wasm").write_bytes(bytes(wasmtime.wat2wasm(writes)))
    (tmp_path / "canbench.yml").write_text("wasm_path: bench.wasm\n")
    options = ("bench", "--extension", "direct", "--extension", "memories")
    message = json.loads(perdure(*options, "--json")[0])["benches"]["one"]["message"]
    assert (message["heap_dirty_pages"], message["own_dirty_pages"]) == (5, {"users": 2})
    shown, _ = perdure(*options, "--show-details")
    assert [line.split() for line in shown.splitlines() if "users" in line] == [["users", "2"]]


def test_upgrade_check(perdure: Run, snapshot: Path, keeps: Path) -> None:
    _, errors = perdure("upgrade-check", snapshot, keeps, code=2)
    assert "extension 'memories'" in errors
    perdure("upgrade-check", "--extension", "memories", snapshot, keeps)


def test_a_snapshot_is_compacted_with_its_memories(perdure: Run, keeps: Path, tmp_path: Path) -> None:
    with Subnet(extensions=("memories",)) as subnet:
        canister = subnet.install(keeps)
        canister.update("inc")
        MemoryManager.init(canister.stable).get(0).grow(1)
        canister.write_snapshot(tmp_path / "large")
    _, errors = perdure("stable", "compact", tmp_path / "large", "-o", "small", code=1)
    assert "extension 'memories'" in errors
    perdure("stable", "compact", "--extension", "memories", tmp_path / "large", "-o", "small")
    with Subnet.open("small", extensions=("memories",)) as subnet:
        assert subnet.canisters[0].memories["users"].read(8, 1) == b"\1"


def test_fuzz_and_the_story_that_it_writes(perdure: Run, tmp_path: Path) -> None:
    found = decode(bytes(wasmtime.wat2wasm(PROGRAM)))  # whose load is out of bounds
    service = CustomSection("icp:public candid:service", b"service : { get : () -> () query }")
    (tmp_path / "program.wasm").write_bytes(encode_module(replace(found, custom_sections=(service,))))
    perdure("fuzz", "program.wasm", code=1)
    perdure("fuzz", "--extension", "direct", "program.wasm", "--examples", "5", code=1)
    (test,) = [one for name, one in runpy.run_path("test_found.py").items() if name.startswith("test_")]
    with pytest.raises(RejectError, match="stable memory out of bounds"):
        test()
