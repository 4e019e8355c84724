"""Interfaces that came with a module rather than in it: given, or found beside it, and remembered with the canister."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import wasmtime

from perdure import MalformedError, StorageError, Subnet, UnsupportedError

WAT = """(module (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1) (data (i32.const 0) "DIDL\\00\\01\\79\\07\\00\\00\\00") {section}
  (func (export "canister_query size") (call $append (i32.const 0) (i32.const 11)) (call $reply)))"""
PLAIN = wasmtime.wat2wasm(WAT.format(section=""))
OTHER = wasmtime.wat2wasm(WAT.format(section='(@custom "other" "")'))
TELLING = wasmtime.wat2wasm(
    WAT.format(section='(@custom "icp:public candid:service" "service : { size : () -> (nat32) query }")')
)
GIVEN = "service : (nat32) -> { size : () -> (nat32) query }"
SHORT = "service : { size : () -> () query }"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("todo.wasm").write_bytes(PLAIN)
    return tmp_path


def test_given_it_is_remembered_and_goes_before_what_the_module_says(here):
    subnet = Subnet()
    canister = subnet.install(TELLING, candid=SHORT)
    assert canister.actor().size() is None
    assert canister.service().source == "the text that was given"
    assert "by the text that was given" in repr(canister.actor())
    canister.upgrade(TELLING)  # the very module that it was given for
    assert canister.actor().size() is None
    canister.upgrade(OTHER)  # which says nothing
    assert canister.actor().size() is None
    canister.upgrade(OTHER, candid=GIVEN)
    canister.upgrade(TELLING)  # which says it itself
    assert canister.actor().size() == 7
    assert canister.service().source == "its section icp:public candid:service"
    assert ", by " not in repr(canister.actor())


def test_its_init_types_are_those_of_the_argument(here):
    subnet = Subnet()
    with pytest.raises(ValueError, match=r"the module takes \(nat32\), and no argument was given") as missing:
        subnet.install(PLAIN, candid=GIVEN)
    assert "canister(name, args=(5,))" in missing.value.__notes__[0]
    with pytest.raises(MalformedError):
        subnet.install(PLAIN, '("no number")', candid=GIVEN)
    assert subnet.canisters == ()
    assert subnet.install(PLAIN, (5,), candid=GIVEN).actor().size() == 7


def test_forks_anchors_and_directories_have_it(here):
    with Subnet("state", history=None) as subnet:
        canister = subnet.install("todo.wasm", candid=SHORT)
        version = subnet.version
        fork = subnet.fork().canister(canister.id)
        fork.upgrade(PLAIN, candid=GIVEN)
        assert (fork.actor().size(), canister.actor().size()) == (7, None)
        with subnet.anchor():
            canister.upgrade(PLAIN, candid=GIVEN)
            assert canister.actor().size() == 7
        assert canister.actor().size() is None
        assert subnet.at(version).canister(canister.id).actor().size() is None
    with Subnet("state") as subnet:
        assert subnet.canister(canister.id).actor().size() is None
    assert Subnet.read("state").canister(canister.id).actor().size() is None


@pytest.mark.parametrize(
    ("module", "did", "said"),
    [
        ("todo.wasm", "todo.did", "todo.did, beside the module"),
        ("todo.wasm.gz", "todo.did", "todo.did, beside the module"),
        ("target/wasm32-unknown-unknown/release/to_do.wasm", "to-do/to_do.did", "to-do/to_do.did, of the project"),
        ("target/wasm32-unknown-unknown/release/todo.wasm", "src/todo/todo.did", "src/todo/todo.did, of the project"),
    ],
)
def test_the_file_beside_the_module_is_found(here, module, did, said):
    for path in (module, did):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(module).write_bytes(PLAIN)
    Path(did).write_text('import "types.did"; service : { size : () -> (n) query }')
    Path(did).with_name("types.did").write_text("type n = nat32;")
    canister = Subnet().install(module)
    Path(did).unlink()
    assert canister.actor().size() == 7
    assert canister.service().source == said


@pytest.mark.parametrize("content", ["no Candid at all", "service : { size : () -> (nobody) }", "\xff"])
def test_one_that_nobody_gave_and_that_is_none_is_passed_over(here, content):
    Path("todo.did").write_text(content, encoding="latin-1")
    canister = Subnet().install("todo.wasm")
    with pytest.raises(UnsupportedError, match=r"does not say its interface.*pass candid='service.did'"):
        canister.actor()


def test_one_that_is_given_has_to_be_one(here):
    Path("wrong.did").write_text("service : { size : () -> (nobody) query }")
    subnet = Subnet()
    with pytest.raises(MalformedError, match=r"wrong.did: .*line 1, column 27: type nobody is not defined"):
        subnet.install(PLAIN, candid="wrong.did")
    with pytest.raises(FileNotFoundError):
        subnet.install(PLAIN, candid="nothing.did")
    assert subnet.canisters == ()


@pytest.mark.parametrize("content", ["", "[]", '{"00": {}}', '{"zz": null}', '{"00": {"text": 1, "imports": 3}}'])
def test_a_damaged_file_of_the_directory_is_named(here, content):
    with Subnet("state") as subnet:
        subnet.install(PLAIN, candid=SHORT)
    Path("state/interfaces.json").write_text(content)
    with Subnet("state") as subnet, pytest.raises(StorageError, match=r"interfaces.json: cannot be read"):
        subnet.canisters[0].actor()


def test_the_file_of_the_directory_is_as_the_page_says(here):
    with Subnet("state") as subnet:
        canister = subnet.install(PLAIN, candid=SHORT)
    (entry,) = json.loads(Path("state/interfaces.json").read_text()).items()
    assert entry[0] == canister.id.raw_bytes.hex()
    assert sorted(entry[1]) == ["file", "imports", "module_hash", "source", "text"]
