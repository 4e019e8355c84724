"""Canisters called in their own types: Motoko's and Rust's interface, from the module itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

import perdure
from perdure import Canister, MalformedError, Principal, RejectError, Subnet, UnsupportedError, rejects

ALICE = Principal.self_authenticating(b"alice")
BOB = Principal.self_authenticating(b"bob")


@pytest.fixture(scope="module")
def motoko(built):
    return Subnet().install(built("motoko_classical_v1"))


@pytest.fixture(scope="module")
def ledger(built):
    arguments = {"symbol": "TST", "fee": 1, "holders": [(ALICE, 1_000)]}
    return Subnet().install(built("ledger"), (arguments,))


def test_motoko(motoko):
    actor = motoko.actor()
    before = actor.count()
    assert actor.inc() == before + 1 == actor.count()
    assert actor.put("a", 5) is None
    assert actor.get("a") == 5
    assert actor.get("none") is None
    assert motoko.actor(ALICE).whoami() == ALICE


def test_an_argument_that_is_no_tuple_is_named(built):
    told = r"a tuple of values, .* found 5: one value is written \(5,\)"
    with Subnet() as subnet, pytest.raises(TypeError, match=told):
        subnet.install(built("ledger"), 5)


def test_rust_with_typed_init(ledger):
    actor = ledger.actor(ALICE)
    before = actor.balance_of(BOB)
    assert actor.transfer({"to": BOB, "amount": 10}) == {"Ok": 1}
    assert actor.balance_of(BOB) == before + 10
    assert actor.transfer({"to": ALICE, "amount": 10}) == {"Err": {"SelfTransfer": None}}
    assert "transfer" in dir(actor)


def test_interface_from_a_file_and_from_text(motoko, tmp_path):
    text = "service : { count : () -> (nat) query }"
    (tmp_path / "counter.did").write_text(text)
    for candid in (text, tmp_path / "counter.did", str(tmp_path / "counter.did")):
        assert list(motoko.actor(candid=candid)) == ["count"]


def test_no_interface(built):
    canister = Subnet().install(built("kv32"))
    with pytest.raises(UnsupportedError, match="has no section candid:service"):
        canister.actor()
    assert "inc" in canister.actor(candid="service : { inc : () -> () }")


def test_damaged_interface(motoko):
    with pytest.raises(MalformedError, match=f"the interface of canister {motoko.id}"):
        motoko.actor(candid="service : { count : }")


def test_rejections(motoko):
    with rejects(code=5, match="assertion failed|trapped") as rejected:
        motoko.actor().crash()
    assert rejected.error.backtrace
    with pytest.raises(AssertionError, match="all calls succeeded"), rejects():
        motoko.actor().count()


def test_wrong_values_are_not_sent(motoko):
    with pytest.raises(ValueError, match="nat"):
        motoko.actor().put("a", -1)
    with pytest.raises(TypeError):
        motoko.actor().put("a", 1, 2)


def test_life(built):
    subnet = Subnet()
    canister = subnet.create_canister(cycles=10**13, controllers=[ALICE])
    with rejects(error_code="IC0537"):
        canister.update("inc")
    canister.install(built("motoko_classical_v1"))
    with rejects(error_code="IC0514"):
        canister.install(built("motoko_classical_v1"))
    canister.stop()
    assert canister.status().status == "stopped"
    with rejects(error_code="IC0508"):
        canister.actor().inc()
    canister.start()
    assert canister.actor().inc() == 1
    assert canister.status().controllers == (ALICE,)
    canister.update_settings(controllers=[BOB], freezing_threshold=5)
    assert (canister.settings()["freezing_threshold"], canister.status().controllers) == (5, (BOB,))
    with pytest.raises(ValueError, match="nonsense"):
        canister.update_settings(nonsense=5)
    with rejects(error_code="IC0510"):
        canister.delete()
    canister.stop()
    canister.delete()
    with pytest.raises(KeyError):
        subnet.canister(canister.id)


def test_cycles_and_snapshots(built):
    canister = Subnet().install(built("motoko_classical_v1"))
    before = canister.status().cycles
    assert canister.add_cycles(1_000) == before + 1_000
    actor = canister.actor()
    actor.inc()
    taken = canister.take_snapshot()
    actor.inc()
    canister.load_snapshot(taken)
    assert actor.count() == 1
    (listed,) = canister.snapshots()
    assert listed["id"] == taken
    canister.delete_snapshot(taken)
    assert canister.snapshots() == []
    canister.uninstall()
    assert canister.module is None


def test_public_names():
    assert perdure.Subnet is Subnet
    assert perdure.Canister is Canister
    assert set(dir(perdure)) == set(perdure.__all__)
    assert issubclass(perdure.RejectError, RejectError)
    with pytest.raises(AttributeError, match="nothing"):
        _ = perdure.nothing


def test_import_loads_no_engine():
    check = "import sys, perdure; assert not {'wasmtime', 'lark', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
