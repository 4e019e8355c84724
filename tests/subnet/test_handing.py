"""Memories that go with a call: a snapshot, which the callee has from the commit of its message on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cbor2
import pytest
import wasmtime

from perdure import Canister, Principal, RejectError, StorageError, Subnet
from perdure.execution.config import SubnetConfig
from perdure.execution.scheduler import submit_ingress
from perdure.kit import call, canister, nat64, query, update
from perdure.stable import StableBTreeMap
from perdure.subnet.durable import DurableHost
from perdure.subnet.replay import replay
from perdure.subnet.residency import Residents

NAMED = ("memories",)
HEAD = """
  (import "ic0" "msg_reply" (func $reply))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (import "ic0" "msg_reject_msg_size" (func $reject_size (result i32)))
  (import "ic0" "msg_reject_msg_copy" (func $reject (param i32 i32 i32)))
  (import "ic0" "msg_arg_data_size" (func $size (result i32)))
  (import "ic0" "msg_arg_data_copy" (func $argument (param i32 i32 i32)))
  (import "ic0" "call_new" (func $new (param i32 i32 i32 i32 i32 i32 i32 i32)))
  (import "ic0" "call_with_best_effort_response" (func $bounded (param i32)))
  (import "ic0" "call_perform" (func $perform (result i32)))
  (import "ic0_ext" "call_memory_add" (func $add (param i32 i32 i32 i32)))
"""


def wasm(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(f"(module {text})"))


def sender(name: str = "users", there: str = "theirs", method: str = "take", more: str = "") -> bytes:
    """Calls the canister that its argument names, with its memory; replies b"ok", or why not."""
    return wasm(f"""{HEAD}
      (import "stable" "users" (memory $users i64 1 100000)) (import "message" "scratch" (memory $scratch 1))
      (memory $heap 1) (table funcref (elem $done $refused))
      (data (memory $heap) (i32.const 0) "{name}") (data (memory $heap) (i32.const 80) "{there}")
      (data (memory $heap) (i32.const 200) "{method}ok")
      (func $done (param i32)
        (call $append (i32.const {200 + len(method)}) (i32.const 2)) (call $reply))
      (func $refused (param i32)
        (call $reject (i32.const 1024) (i32.const 0) (call $reject_size))
        (call $append (i32.const 1024) (call $reject_size)) (call $reply))
      (func (export "canister_update give")
        (i64.store $users (i64.const 8) (i64.add (i64.load $users (i64.const 8)) (i64.const 1)))
        (call $argument (i32.const 512) (i32.const 0) (call $size))
        (call $new (i32.const 512) (call $size) (i32.const 200) (i32.const {len(method)})
          (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 0))
        {more}
        (call $add (i32.const 0) (i32.const {len(name)}) (i32.const 80) (i32.const {len(there)}))
        (i64.store $users (i64.const 16) (i64.const 99))
        (i32.store $heap (i32.const 2048) (call $perform))
        (if (i32.load $heap (i32.const 2048)) (then (call $append (i32.const 2048) (i32.const 1)) (call $reply))))
      (func (export "canister_update change") (i64.store $users (i64.const 8) (i64.const 77)) (call $reply))""")


TAKER = wasm(f"""{HEAD.replace("call_memory_add", "call_memory_add")}
  (import "stable:theirs" "size" (func $size_theirs (result i64)))
  (import "stable:theirs" "grow" (func $grow_theirs (param i64) (result i64)))
  (import "stable:theirs" "i64.load" (func $load (param i64) (result i64)))
  (import "stable:theirs" "i64.store" (func $store (param i64 i64)))
  (memory 1)
  (func (export "canister_update take") (call $reply))
  (func (export "canister_update trap") unreachable)
  (func (export "canister_update grow") (drop (call $grow_theirs (i64.const 1))) (call $reply))
  (func (export "canister_query query") (call $reply))
  (func (export "canister_update add")
    (call $store (i64.const 8) (i64.add (call $load (i64.const 8)) (i64.const 10))) (call $reply))
  (func (export "canister_query get")
    (i64.store (i32.const 0) (call $load (i64.const 8))) (call $append (i32.const 0) (i32.const 8)) (call $reply))""")
PLAIN = wasm(f"""{HEAD} (memory 1) (func (export "canister_update take") (call $reply))""")


def give(one: Canister, other: Canister) -> bytes:
    return one.update("give", other.id.raw_bytes)


def number(canister: Canister) -> int:
    return int.from_bytes(canister.query("get"), "little")


@pytest.fixture(params=["memory", "disk"])
def subnet(request, tmp_path: Path) -> Callable[..., Subnet]:
    return Subnet(tmp_path / "s" if request.param == "disk" else None, extensions=NAMED)


def test_the_callee_has_it_and_each_goes_its_own_way(subnet):
    one, other = subnet.install(sender()), subnet.install(TAKER)
    assert give(one, other) == b"ok"
    assert number(other) == 1
    assert other.memories["theirs"].read(16, 1) == b"\x63"  # as it was when the message was committed
    one.update("change")
    other.update("add")
    assert (number(other), one.memories["users"].read(8, 1)) == (11, b"\x4d")
    assert subnet._state.handed == {}
    assert one._state.handed_wasm_pages == 0


def test_without_a_name_in_its_module_it_is_unused(subnet):
    one, other = subnet.install(sender()), subnet.install(PLAIN)
    assert give(one, other) == b"ok"
    kept = other.memories["theirs"]
    assert (kept.state, kept.lifetime, kept.size(), kept.read(8, 1)) == ("unused", "stable", 1, b"\1")
    other.upgrade(TAKER)
    assert number(other) == 1


def handed_keys(subnet: Subnet) -> list[bytes]:
    return [key for key in subnet._host.directory.canisters if key.startswith(b"handed ")]  # type: ignore[union-attr]


def crash(subnet: Subnet) -> None:
    subnet._host.directory.abandon()  # type: ignore[union-attr]


def test_it_survives_a_crash(tmp_path):
    subnet = Subnet(tmp_path / "s", extensions=NAMED)
    one, other = subnet.install(sender()), subnet.install(TAKER)
    third = subnet.install(PLAIN)
    give(one, other)
    give(one, third)
    crash(subnet)
    for _ in range(2):  # from the log, then from the images
        with Subnet(tmp_path / "s") as subnet:
            again = subnet.canister(other.id)
            assert number(again) == 1
            assert subnet.canister(third.id).memories["theirs"].read(8, 1) == b"\2"
            assert handed_keys(subnet) == []


def on_its_way(subnet: Subnet, callee: bytes = TAKER, caller: bytes | None = None) -> tuple[Canister, Canister]:
    """A call has been made and not been delivered; whoever sent it has changed its memory since."""
    one, other = subnet.install(caller or sender()), subnet.install(callee)
    submit_ingress(subnet._world, one.id.raw_bytes, "give", other.id.raw_bytes)
    while not subnet._state.handed:
        subnet.tick()
    return one, other


@pytest.mark.parametrize("checkpoint", [False, True])
def test_what_is_on_its_way_survives_too(tmp_path, checkpoint):
    subnet = Subnet(tmp_path / "s", extensions=NAMED)
    one, other = on_its_way(subnet)
    one.memories["users"].write(8, b"\7")
    assert len(handed_keys(subnet)) == 1
    if checkpoint:
        subnet.checkpoint()
    with subnet.fork() as fork:
        fork.run_until_idle()
        assert number(fork.canister(other.id)) == 1
    crash(subnet)
    with Subnet(tmp_path / "s") as subnet:
        assert subnet.canister(one.id)._state.handed_wasm_pages == 1
        subnet.run_until_idle()
        assert number(subnet.canister(other.id)) == 1
        assert subnet.canister(one.id).memories["users"].read(8, 1) == b"\7"
        assert (handed_keys(subnet), subnet.canister(one.id)._state.handed_wasm_pages) == ([], 0)


def test_the_sender_is_charged_for_what_is_on_its_way(subnet):
    one, _ = on_its_way(subnet)
    charged = one._state.memory_bytes()
    subnet.run_until_idle()
    assert charged - one._state.memory_bytes() == 65_536


def test_an_anchor_takes_it_back(subnet):
    one, other = subnet.install(sender()), subnet.install(TAKER)
    with subnet.anchor():
        give(one, other)
        assert other.memories["theirs"].size() == 1
    assert other.memories["theirs"].size() == 0
    assert give(one, other) == b"ok"
    assert number(other) == 1


# ------------------------------------------------------------------------------------------------ who does not get it


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("trap", b"unreachable"),
        ("missing", b"has no update method 'missing'"),
        ("query", b"a query method commits nothing, so it gets no memory"),
        ("grow", b"memory theirs was grown by the message with which another one comes in its place"),
    ],
)
def test_a_callee_that_does_not_commit_gets_nothing(subnet, method, words):
    one, other = subnet.install(sender(method=method)), subnet.install(TAKER)
    assert words in give(one, other)
    assert other.memories["theirs"].size() == 0
    assert (subnet._state.handed, one._state.handed_wasm_pages) == ({}, 0)


@pytest.mark.parametrize("what", ["stop", "delete", "uninstall", "poor"])
def test_a_callee_that_cannot_take_it(subnet, what):
    one, other = on_its_way(subnet)
    other.uninstall() if what == "uninstall" else None
    if what in {"stop", "delete"}:
        other.stop()
    if what == "delete":
        other.delete()
    if what == "poor":
        other._state.cycles = other._state.freezing_limit + 10**9
    subnet.run_until_idle()
    assert (subnet._state.handed, one._state.handed_wasm_pages) == ({}, 0)
    assert one.memories["users"].read(8, 1) == b"\1"
    if what in {"stop", "poor"}:
        assert other.memories["theirs"].size() == 0


def test_past_its_deadline_a_call_takes_its_memory_with_it(subnet):
    one, other = on_its_way(subnet, caller=sender(more="(call $bounded (i32.const 1))"))
    subnet.advance_time(10**10)
    subnet.run_until_idle()
    assert (subnet._state.handed, one._state.handed_wasm_pages) == ({}, 0)
    assert other.memories["theirs"].size() in {0, 1}  # whichever came first


def test_nothing_is_replaced(subnet):
    one, other = subnet.install(sender()), subnet.install(TAKER)
    assert give(one, other) == b"ok"
    assert b"its memory 'theirs' has 1 Wasm pages already" in give(one, other)
    assert number(other) == 1


def test_widths_and_lifetimes_have_to_fit(subnet):
    narrow = wasm(f"""{HEAD} (import "stable" "theirs" (memory 0)) (memory 1)
      (func (export "canister_update take") (call $reply))""")
    scratch = wasm(f"""{HEAD} (import "message" "theirs" (memory i64 0)) (memory 1)
      (func (export "canister_update take") (call $reply))""")
    one = subnet.install(sender())
    assert b"has 32-bit addresses, the one that came has 64-bit ones" in give(one, subnet.install(narrow))
    small = wasm(f"""{HEAD} (import "stable" "theirs" (memory i64 0 0)) (memory 1)
      (func (export "canister_update take") (call $reply))""")
    assert b"has at most 0 Wasm pages, the one that came has 1" in give(one, subnet.install(small))
    assert b"its memory 'theirs' has lifetime 'message'" in give(one, subnet.install(scratch))


@pytest.mark.parametrize(
    ("name", "there", "words"),
    [
        ("nobody", "theirs", "the canister has no memory 'nobody', it has stable, users"),
        ("scratch", "theirs", "has no memory 'scratch'"),
        ("heap", "theirs", "has no memory 'heap'"),
        ("users", "stable", "'stable' is no name for a callee's own memory"),
        ("users", "Theirs", "'Theirs' is no name for a callee's own memory"),
        ("users", "", "'' is no name for a callee's own memory"),
    ],
)
def test_names_that_cannot_be(name, there, words):
    subnet = Subnet(extensions=NAMED)
    one, other = subnet.install(sender(name, there)), subnet.install(TAKER)
    with pytest.raises(RejectError, match=words):
        give(one, other)


def test_twice_under_one_name_and_without_a_call():
    subnet = Subnet(extensions=NAMED)
    twice = sender(more="(call $add (i32.const 0) (i32.const 5) (i32.const 80) (i32.const 6))")
    one, other = subnet.install(twice), subnet.install(TAKER)
    with pytest.raises(RejectError, match="two memories of one call are to be called 'theirs'"):
        give(one, other)
    alone = f"""{HEAD} (memory 1) (func (export "canister_update f")
      (call $add (i32.const 0) (i32.const 5) (i32.const 80) (i32.const 6)))"""
    with pytest.raises(RejectError, match="call_memory_add called when no call is under construction"):
        subnet.install(wasm(alone)).update("f")
    with pytest.raises(RejectError, match="it belongs to the extension 'memories'"):
        Subnet().install(wasm(alone))


def test_a_sender_that_cannot_keep_it_does_not_send():
    subnet = Subnet(extensions=NAMED)
    one, other = subnet.install(sender()), subnet.install(TAKER)
    one.memories["users"].grow(60_000)
    one._state.cycles = one._state.freezing_limit + 10**11
    assert give(one, other) == b"\2"
    assert (subnet._state.handed, one._state.handed_wasm_pages) == ({}, 0)


# --------------------------------------------------------------------------------------------------- kept, and replayed


def test_the_past_and_replay_have_it(tmp_path):
    with Subnet(tmp_path / "s", extensions=NAMED, history=None) as subnet:
        one, other = on_its_way(subnet)
        version = subnet.version
        subnet.checkpoint()
        one.update("change")
        subnet.run_until_idle()
        assert number(other) == 1
        with subnet.at(version) as past:
            assert past._state.handed
            past.run_until_idle()
            assert number(past.canister(other.id)) == 1
    assert replay(tmp_path / "s").difference is None


def test_what_the_record_says_wrong_is_refused(tmp_path):
    subnet = Subnet(tmp_path / "s", extensions=NAMED)
    on_its_way(subnet)
    directory = subnet._host.directory  # type: ignore[union-attr]
    (key,) = handed_keys(subnet)
    for record, words in (
        (cbor2.dumps([b"", {"theirs": 16}]), "theirs has addresses of 16 bits, expected 32 or 64"),
        (cbor2.dumps([1, 2]), "a callee and widths expected"),
    ):
        directory._committed.canisters[key].record = record
        with pytest.raises(StorageError, match=words):
            DurableHost(directory, subnet._host.temporary._compile_code, Residents(subnet._gate)).restore(  # type: ignore[union-attr]
                SubnetConfig(), b""
            )
    crash(subnet)


# ------------------------------------------------------------------------------------------------------- from Python


@canister
class Archivist:
    notes: StableBTreeMap[nat64, str]

    @update
    async def archive(self, to: Principal, name: str) -> str:
        self.notes[len(self.notes)] = name
        try:
            await call(to, "take", memories={name: "stable"})
        except RejectError as error:
            return error.message
        return "ok"


def test_python_hands_over_its_stable_memory(subnet):
    one, other = subnet.install(Archivist), subnet.install(PLAIN)
    assert one.actor().archive(other.id, "backup") == "ok"
    kept = other.memories["backup"]
    assert kept.state == "unused"
    assert kept.read(0, kept.size() << 16) == one.stable.read(0, one.stable.size() << 16)
    before = kept.read(0, 1 << 16)
    assert "its memory 'backup' has" in one.actor().archive(other.id, "backup")
    assert other.memories["backup"].read(0, 1 << 16) == before


def test_python_gets_one(subnet):
    one, other = subnet.install(sender(method="take")), subnet.install(Taker)
    assert give(one, other) == b"ok"
    assert other.memories["theirs"].read(8, 1) == b"\1"
    assert other.actor().count() == 1
    other.upgrade(Taker)
    assert (other.memories["theirs"].read(8, 1), other.actor().count()) == (b"\1", 1)


@canister
class Taker:
    taken: StableBTreeMap[nat64, str]

    @update
    def take(self) -> None:
        self.taken[len(self.taken)] = "one"

    @query
    def count(self) -> nat64:
        return len(self.taken)


def test_python_that_waits_cannot_take_one_in(subnet):
    one, third = subnet.install(sender(method="wait_for")), subnet.install(Slow)
    other = subnet.install(Slow)
    other.actor().set_other(third.id)
    assert b"comes while a method of the canister is in an await" in give(one, other)
    assert "theirs" not in other.memories
    assert other.actor().answered() == 0


@canister
class Slow:
    others: StableBTreeMap[nat64, Principal]
    answers: StableBTreeMap[nat64, str]

    @update
    def set_other(self, other: Principal) -> None:
        self.others[0] = other

    @update
    def answered(self) -> nat64:
        return len(self.answers)

    @update
    async def wait_for(self) -> None:
        await call(self.others[0], "answered", signature="() -> (nat64)")
        self.answers[0] = "yes"
