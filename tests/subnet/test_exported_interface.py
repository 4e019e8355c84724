"""Interfaces that a module exports as a function; what else a function of that name may do."""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet
from perdure.embedder import compile_module
from perdure.embedder.cache import CompileCache
from perdure.errors import MalformedError, UnsupportedError
from perdure.subnet import exported_interface as exported
from perdure.subnet.exported_interface import MAX_BYTES, exported_interface

DID = 'service : { "greet" : (text) -> (text) query; count : () -> (nat32) query }'
QUOTED = DID.replace('"', '\\"')
GROW = '(import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))'
LETTERS = f"(memory.fill (i32.const 0) (i32.const 65) (i32.const {MAX_BYTES + 9}))"
APPEND = '(import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))'
REPLY = '(import "ic0" "msg_reply" (func $reply))'


def module(body: str, *, result: str = "i32", head: str = "", memory: str = "(memory 1)", more: str = "") -> bytes:
    data = f'(data ({"i64" if "i64" in memory else "i32"}.const 8) "{QUOTED}")' if memory else ""
    text = f'(module {head} {memory} {data} (func (export "get_candid_pointer") (result {result}) {body}) {more})'
    return bytes(wasmtime.wat2wasm(text))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CompileCache:
    """Where interfaces are kept; nothing is known yet."""
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / "cache"))
    exported._known.clear()
    return CompileCache(tmp_path / "cache")


@pytest.mark.parametrize(
    "wasm",
    [
        module("(i32.const 8)"),
        module("(i64.const 8)", result="i64", memory="(memory i64 1)"),
        module("(drop (call $grow (i64.const 1))) (i32.const 8)", head=GROW),
        module("(drop (memory.grow (i32.const 8))) (i32.const 8)", more="(func $start (unreachable)) (start $start)"),
    ],
    ids=["plain", "64 bits", "calls ic0", "a start function that traps"],
)
def test_5_an_interface_that_a_function_points_at(wasm):
    """The number is that of the list of what newcomers stumbled over."""
    assert exported_interface(compile_module(wasm, known=True)) == DID


@pytest.mark.parametrize(
    "wasm",
    [
        module("(loop $on (br $on)) (i32.const 8)"),
        module("(unreachable)"),
        module("(i32.const -1)"),
        module("(i32.const 65535)", more='(data (i32.const 65535) "x")'),
        module(f"{LETTERS} (i32.const 0)", memory="(memory 32)"),
        module("(memory.fill (i32.const 0) (i32.const 255) (i32.const 8)) (i32.const 0)"),
        module("(drop (memory.grow (i32.const 60000))) (i32.const 8)"),
        module("(call $reply) (i32.const 8)", head=REPLY),
        module("(i32.const 8)", memory=""),
        module("(f32.const 8)", result="f32"),
        module("(i32.const 8) (i32.const 8)", result="i32 i32"),
        bytes(wasmtime.wat2wasm('(module (memory (export "get_candid_pointer") 1))')),
        bytes(wasmtime.wat2wasm('(module (data "get_candid_pointer") (memory 1))')),
    ],
    ids=[
        "endless", "a trap", "outside", "the last byte", "too long", "no UTF-8", "too large a heap", "a reply",
        "no memory", "a float", "two results", "a memory", "only the name",
    ],
)  # fmt: skip
def test_a_function_that_does_something_else_says_nothing(wasm):
    assert exported_interface(compile_module(wasm, known=True)) == ""


def test_asking_leaves_the_canister_as_it_is():
    counter = module(
        "(global.set $asked (i32.add (global.get $asked) (i32.const 1))) (i32.const 8)",
        head=REPLY + APPEND,
        more="""(global $asked (mut i32) (i32.const 0)) (data (i32.const 512) "DIDL\\00\\01\\79")
          (func (export "canister_query count") (i32.store (i32.const 519) (global.get $asked))
            (call $append (i32.const 512) (i32.const 11)) (call $reply))""",
    )
    subnet = Subnet()
    canister = subnet.install(counter)
    before = canister.status().cycles
    assert [canister.actor().count() for _ in range(3)] == [0, 0, 0]
    assert canister.status().cycles == before


def test_what_says_no_interface_says_what_to_do():
    canister = Subnet().install(bytes(wasmtime.wat2wasm("(module)")))
    with pytest.raises(
        UnsupportedError, match=r"no section candid:service and exports no get_candid_pointer; pass candid="
    ):
        canister.actor()


def section(text: bytes, name: bytes = b"icp:public candid:service") -> bytes:
    """A custom section."""
    return bytes([0, len(name) + len(text) + 1, len(name)]) + name + text


@pytest.mark.parametrize("damage", [b"service : {", b"\xff", b"type A = nat"], ids=["cut", "no UTF-8", "no service"])
def test_an_interface_that_cannot_be_read_is_warned_of_and_the_next_one_taken(damage, caplog):
    canister = Subnet().install(module("(i32.const 8)") + section(damage))
    service = canister.service()
    assert set(service.methods) == {"greet", "count"}
    assert service.source == "its function get_candid_pointer"
    canister.service()
    of_module, said = caplog.messages
    assert of_module.replace("the module", f"canister {canister.id}") == said
    assert "its section icp:public candid:service cannot be read, its function get_candid_pointer is taken" in said


def test_what_is_known_of_a_canister_is_the_last_to_be_taken(tmp_path, caplog):
    (tmp_path / "m.wasm").write_bytes(bytes(wasmtime.wat2wasm("(module)")) + section(b"service"))
    (tmp_path / "m.did").write_text(DID)
    canister = Subnet().install(tmp_path / "m.wasm")
    assert set(canister.service().methods) == {"greet", "count"}
    assert "m.did, beside the module is taken in its place" in caplog.text


def test_where_no_interface_can_be_read_the_first_one_says_why(tmp_path):
    (tmp_path / "m.wasm").write_bytes(bytes(wasmtime.wat2wasm("(module)")) + section(b"service : {"))
    canister = Subnet().install(tmp_path / "m.wasm")
    with pytest.raises(MalformedError, match=f"the interface of canister {canister.id}: .*line 1, column 12"):
        canister.service()


@pytest.mark.parametrize("wasm", [module("(i32.const 8)"), module("(unreachable)")], ids=["says one", "traps"])
def test_a_module_is_asked_once_on_a_machine(wasm, cache, monkeypatch):
    said = exported_interface(compile_module(wasm, known=True))
    assert len(cache.files()) == 1
    exported._known.clear()
    monkeypatch.setattr(exported, "_asked", lambda _: pytest.fail("asked again"))
    assert exported_interface(compile_module(wasm, known=True)) == said


@pytest.mark.parametrize("at", [8, 12, 16, 48, 80, -1], ids=["version", "length", "key", "checksum", "text", "end"])
def test_what_somebody_changed_in_the_cache_is_not_taken(at, cache):
    wasm = module("(i32.const 8)")
    exported_interface(compile_module(wasm, known=True))
    path = cache.directory / cache.files()[0].name
    kept = bytearray(path.read_bytes())
    kept[at] ^= 1
    path.write_bytes(kept)
    exported._known.clear()
    assert exported_interface(compile_module(wasm, known=True)) == DID


def test_a_cache_that_others_may_write_is_not_taken(cache):
    wasm = module("(i32.const 8)")
    exported_interface(compile_module(wasm, known=True))
    path = cache.directory / cache.files()[0].name
    path.write_bytes(path.read_bytes().replace(b"greet", b"grEEt"))
    path.chmod(0o666)
    exported._known.clear()
    assert exported_interface(compile_module(wasm, known=True)) == DID


def test_interfaces_count_for_the_bound_of_the_cache(cache):
    cache.limit(1)
    for number in range(3):
        exported_interface(compile_module(module(f"(drop (i32.const {number})) (i32.const 8)"), known=True))
    assert len(cache.files()) == 1
