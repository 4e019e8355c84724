"""The extension ``schema``: an upgrade is refused to what declares other stable memory than there is."""

from __future__ import annotations

import pytest
import wasmtime

from perdure import RejectError, Subnet

USERS = "memories: {0: {name: users, kind: btreemap, key: text, value: u64}}"
MODULE = """(module {section}
  (import "ic0" "stable64_grow" (func $grow (param i64) (result i64)))
  (import "ic0" "msg_reply" (func $reply))
  (func (export "canister_post_upgrade") (drop (call $grow (i64.const 1))))
  (func (export "canister_update touch") (call $reply))
)"""


def module(schema: str | None, name: str = "icp:public perdure:schema") -> bytes:
    section = "" if schema is None else f'(@custom "{name}" "{schema}")'
    return bytes(wasmtime.wat2wasm(MODULE.replace("{section}", section)))


def upgraded(old: str | None, new: str | None) -> Subnet:
    subnet = Subnet(extensions=["schema"])
    canister = subnet.install(module(old))
    canister.upgrade(module(new))
    return subnet


@pytest.mark.parametrize(
    ("new", "said"),
    [
        (USERS.replace("u64", "text"), "it was btreemap, key text, value u64, it is btreemap, key text, value text"),
        (USERS.replace("0:", "1:"), "users is in memory 1 now, its data is in memory 0"),
        (USERS.replace("btreemap", "btreeset").replace(", value: u64", ""), "a btreemap became a btreeset"),
        (None, r"declares its stable memory \(0 users\), the new one has no section perdure:schema"),
        ("memories: 5", "is no stable.yaml"),
    ],
)
@pytest.mark.parametrize("name", ["perdure:schema", "icp:private perdure:schema"])
def test_an_upgrade_is_refused_before_anything_is_written_and_says_what_was_and_what_is(new, said, name):
    subnet = Subnet(extensions=["schema"])
    canister = subnet.install(module(USERS, name=name))
    before = canister.status().module_hash
    with pytest.raises(RejectError, match=said):
        canister.upgrade(module(new))
    assert canister.status().module_hash == before
    assert canister.stable.size() == 0


@pytest.mark.parametrize(
    "new",
    [
        USERS,
        USERS.replace("}}", "}, 1: {name: more, kind: vec, value: u8}}"),
        USERS.replace("u64", "u64, state: retired"),
    ],
)
def test_what_reads_on_is_let_through(new):
    (canister,) = upgraded(USERS, new).canisters
    assert canister.stable.size() == 1


def test_who_declares_nothing_yet_may_begin_to_and_a_reinstallation_may_declare_anything():
    (canister,) = upgraded(None, USERS).canisters
    canister.reinstall(module(USERS.replace("u64", "text")))
    with pytest.raises(RejectError, match=r"is no stable\.yaml"):
        canister.reinstall(module("memories: 5"))


def test_by_default_nothing_is_refused():
    subnet = Subnet()
    subnet.install(module(USERS)).upgrade(module(None))


def test_a_state_directory_keeps_it_and_forks_and_readers_have_it(tmp_path):
    with Subnet(tmp_path / "state", extensions=["schema"]) as subnet:
        canister = subnet.install(module(USERS))
    with Subnet(tmp_path / "state") as subnet:
        for one in (subnet.canister(canister.id), subnet.fork().canister(canister.id)):
            with pytest.raises(RejectError, match="The extension `schema` refuses"):
                one.upgrade(module(None))
    with Subnet.read(tmp_path / "state") as subnet:
        report = subnet.canister(canister.id).check_upgrade(module(None))
        assert report.causes[0] == "upgrade-refused"


def test_a_name_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"no extension is named 'shcema': there are .*schema"):
        Subnet(extensions=["shcema"])
