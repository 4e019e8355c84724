"""Canisters that refuse an upgrade by themselves, in Rust and in Motoko, on a subnet that knows nothing of it."""

from __future__ import annotations

import pytest
from scenarios import module

from perdure import RejectError, Subnet
from perdure.values.guard import guard_text
from perdure.values.schema import parse_schema

SIZE = 512
FIRST = b"perdure:schema 1\n= 0 users: btreemap, key u64, value u64\n"


def rust(yaml: str, *earlier: str) -> bytes:
    """The Rust canister that carries what `perdure stable guard` writes."""
    wasm, text = module("guarded"), guard_text(parse_schema(yaml), map(parse_schema, earlier)).encode()
    before = FIRST.ljust(SIZE)
    assert wasm.count(before) == 1
    assert len(text) <= SIZE
    return wasm.replace(before, text.ljust(SIZE))


USERS = "memories: {0: {name: users, kind: btreemap, key: u64, value: u64}}"
NAMED = USERS.replace("users", "people")


def test_rust_refuses_before_it_touches_anything():
    canister = Subnet().install(rust(USERS))
    canister.update("add")
    before = canister.stable.read(0, canister.stable.size() << 16)
    with pytest.raises(RejectError, match=r"schema: 0 users: .*value u64 became 0 users: .*value text"):
        canister.upgrade(rust(USERS.replace("value: u64", "value: text")))
    with pytest.raises(RejectError, match="became nothing"):
        canister.upgrade(rust("memories: {}"))
    assert canister.stable.read(0, canister.stable.size() << 16) == before
    assert canister.query("count") == (1).to_bytes(8, "little")


def test_rust_takes_what_the_next_version_says_it_reads():
    canister = Subnet().install(rust(USERS))
    canister.update("add")
    canister.upgrade(rust(NAMED, USERS))
    canister.upgrade(rust(NAMED))
    with pytest.raises(RejectError, match="schema: 0 people"):
        canister.upgrade(rust(USERS))
    assert canister.query("count") == (2).to_bytes(8, "little")


def test_the_bytes_that_it_keeps_are_those_of_the_formats_page():
    from perdure.stable import MemoryManager

    canister = Subnet().install(rust(USERS))
    memory = MemoryManager.load(canister.stable).get(254)
    text = b"0 users: btreemap, key u64, value u64"
    assert memory.read(0, 8 + len(text)) == b"PSG\x01" + len(text).to_bytes(4, "little") + text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("classical", r"schema: people var: \[Text\] became nothing"),
        ("eop", "schema: 0 entries: log, value cbor became 0 entries: log, value json"),
    ],
)
def test_motoko_refuses_what_its_compiler_lets_pass(kind, said):
    canister = Subnet().install(module(f"guarded_{kind}_1"))
    canister.actor().add("Ada")
    keep = None if kind == "classical" else "keep"
    canister.upgrade(module(f"guarded_{kind}_1"), wasm_memory_persistence=keep)
    with pytest.raises(RejectError, match=said):
        canister.upgrade(module(f"guarded_{kind}_2"), wasm_memory_persistence=keep)
    assert canister.actor().size() == 1
