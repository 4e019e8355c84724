"""Real languages' runtimes over the rules: Motoko's async and await, ic-cdk's calls, guards, composites and timers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from perdure import Principal, RejectError, Subnet
from perdure.execution import round_, run_until_idle
from perdure.execution.state import FIRST_CANISTER_INDEX
from perdure.threshold import master_key

ROOT = Path(__file__).parents[2]
HASHES = json.loads((ROOT / "tests" / "canisters" / "hashes.json").read_text())
SECOND = 1_000_000_000


def wasm(name):
    return (ROOT / HASHES[name]["file"]).read_bytes()


@pytest.fixture(scope="module")
def subnet():
    return Subnet()


def settle(subnet, seconds=0):
    """Let time pass and everything run, a second at a time."""
    for _ in range(seconds):
        subnet.advance_time(SECOND)
        run_until_idle(subnet._world)
        round_(subnet._world)
    run_until_idle(subnet._world)


def open_contexts(*canisters):
    return [len(canister._state.contexts) + len(canister._state.open_calls) for canister in canisters]


def balanced(subnet):
    state = subnet._state
    return state.minted_cycles == state.total_cycles() + state.consumed_cycles + state.lost_cycles


def principal(canister):
    return Principal(canister._state.canister_id)


@pytest.fixture(params=["motoko_eop_v1", "motoko_classical_v1"])
def motoko(request, subnet):
    """Two canisters of one Motoko program."""
    return [subnet.install(wasm(request.param), cycles=10**15) for _ in range(2)]


class TestMotoko:
    def test_await_across_canisters(self, subnet, motoko):
        here, there = motoko
        assert there.actor().inc() == 1
        assert here.actor().incOther(principal(there)) == 2
        assert (here.actor().count(), there.actor().count()) == (2, 2)
        assert open_contexts(here, there) == [0, 0]
        assert balanced(subnet)

    def test_self_call(self, motoko):
        assert motoko[0].actor().incSelf() == 1

    def test_catch(self, motoko):
        here, there = motoko
        assert here.actor().tryOther(principal(there)) == "on purpose"
        assert there.actor().count() == 1

    def test_catch_of_a_missing_canister(self, motoko):
        text = motoko[0].actor().tryOther(Principal.from_index(FIRST_CANISTER_INDEX + 777_777))
        assert text.startswith("IC0301: Canister ")

    def test_throw_and_assert(self, motoko):
        with pytest.raises(RejectError, match="thrown") as caught:
            motoko[0].actor().fail("thrown")
        assert caught.value.code == 4
        with pytest.raises(RejectError) as caught:
            motoko[0].actor().crash()
        assert (caught.value.code, caught.value.error_code) == (5, "IC0503")
        assert motoko[0].actor().count() == 1

    def test_timers(self, subnet, motoko):
        here = motoko[0].actor()
        here.tickAfter(2 * SECOND)
        settle(subnet, 1)
        assert here.ticked() == 0
        settle(subnet, 3)
        assert here.ticked() == 1
        timer = here.tickEvery(SECOND)
        settle(subnet, 3)
        ticked = here.ticked()
        assert ticked >= 3
        here.stopTicking(timer)
        settle(subnet, 3)
        assert here.ticked() == ticked
        assert open_contexts(motoko[0]) == [0]
        assert balanced(subnet)


@pytest.fixture
def messengers(subnet):
    """Two canisters of ic-cdk that call each other."""
    return [subnet.install(wasm("messenger"), cycles=10**15) for _ in range(2)]


class TestRust:
    def call(self, here, there, method, argument=b"DIDL\0\0", cycles=0, timeout_seconds=None):
        return here.actor().call(
            {
                "callee": principal(there),
                "method": method,
                "argument": argument,
                "cycles": cycles,
                "timeout_seconds": timeout_seconds,
            }
        )

    def test_call(self, subnet, messengers):
        here, there = messengers
        assert "Ok" in self.call(here, there, "bump")
        assert (here.actor().count(), there.actor().count()) == (2, 1)
        assert balanced(subnet)

    def test_rejections(self, messengers):
        here, there = messengers
        missing = self.call(here, there, "nothing")["Err"]
        assert missing["code"] == 5
        assert "IC0536" in missing["message"]
        self_made = self.call(here, there, "fail", there.service().methods["fail"].encode(["no"]))["Err"]
        assert (self_made["code"], self_made["message"]) == (4, "no")
        trapped = self.call(here, there, "crash", there.service().methods["crash"].encode(["boom"]))["Err"]
        assert trapped["code"] == 5
        assert "IC0503" in trapped["message"]
        assert "boom" in trapped["message"]

    def test_cycles_and_bounded_wait(self, subnet, messengers):
        here, there = messengers
        accept = there.service().methods["accept"]
        result = self.call(here, there, "accept", accept.encode([400]), cycles=1_000, timeout_seconds=10)
        assert accept.decode(result["Ok"]) == ({"available": 1_000, "accepted": 400},)
        assert balanced(subnet)

    def test_many_at_once(self, messengers):
        here, there = messengers
        results = here.actor().call_all([principal(there)] * 20, "bump", b"DIDL\0\0")
        assert all("Ok" in result for result in results)
        assert there.actor().count() == 20

    def test_one_after_the_other(self, messengers):
        here, there = messengers
        counts = here.actor().call_in_turn(principal(there), "bump", 10)
        assert counts == list(range(1, 11))
        assert open_contexts(here, there) == [0, 0]

    def test_cleanup_drops_the_guard(self, messengers):
        here, there = messengers
        with pytest.raises(RejectError, match="with a guard in hand"):
            here.actor().guarded_call(principal(there), "bump")
        assert here.actor().guards() == 0
        assert (here.actor().count(), there.actor().count()) == (0, 1)

    def test_oneway_and_spawn(self, subnet, messengers):
        here, there = messengers
        assert here.actor().send_oneway(principal(there), "bump", b"DIDL\0\0") is True
        here.actor().spawn_call(principal(there), "bump")
        settle(subnet)
        assert there.actor().count() == 2
        assert open_contexts(here, there) == [0, 0]

    def test_composite_query(self, messengers):
        here, there = messengers
        there.actor().bump()
        assert here.actor().read_twice(principal(there)) == 2

    def test_timers_that_call(self, subnet, messengers):
        here, there = messengers
        number = here.actor().call_every(SECOND, principal(there), "bump")
        settle(subnet, 4)
        replies = here.actor().replies()
        assert replies >= 3
        assert there.actor().count() == replies
        assert here.actor().stop(number) is True
        settle(subnet, 3)
        assert here.actor().replies() == replies
        assert open_contexts(here, there) == [0, 0]
        assert balanced(subnet)

    def test_reinstalled_while_a_call_is_open(self, subnet, messengers):
        """The callback fires in code that knows nothing of it; nothing is lost but the call."""
        here, there = messengers
        here.actor().spawn_call(principal(there), "bump")
        here.reinstall(wasm("messenger"))
        settle(subnet)
        assert here.actor().count() == 0
        assert open_contexts(here, there) == [0, 0]
        assert balanced(subnet)


@pytest.fixture(scope="module")
def oracle():
    """A subnet and its canister."""
    made = Subnet()
    return made, made.install(wasm("signer"), cycles=10**15)


class TestOracle:
    """A canister of ic-cdk that fetches a price, signs it, and derives a key: one story."""

    URL = "https://api.example.com/price"
    TRANSPORT = json.loads((ROOT / "tests" / "facts" / "threshold.json").read_text())["transport_key"]["vectors"][1]

    def test_fetches_and_signs(self, oracle):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519, utils

        subnet, canister = oracle
        actor = canister.actor()
        subnet.outcalls.get(self.URL).respond(json={"usd": 12.5}, headers={"date": "now", "x-request-id": "1"})
        price = actor.price(self.URL)["Ok"]
        assert price == '{"usd":12.5}'
        digest = hashlib.sha256(price.encode()).digest()
        signature = actor.sign("alice", digest)  # verified there by k256
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), actor.address("alice"))
        key.verify(utils.encode_dss_signature(r, s), digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
        assert actor.address("bob") != actor.address("alice")
        signature, public_key = actor.sign_schnorr("alice", b"a message")
        ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(signature, b"a message")
        assert balanced(subnet)

    def test_derives(self, oracle):
        encrypted, public_key = oracle[1].actor().derive(b"input", bytes.fromhex(self.TRANSPORT))
        key = master_key("vetkd", "bls12_381_g2", "test_key_1")
        assert public_key == key.context_key(oracle[1].id.raw_bytes, b"signer")
        expected = key.derive_key(oracle[1].id.raw_bytes, b"signer", b"input", bytes.fromhex(self.TRANSPORT))
        assert encrypted == expected
        with pytest.raises(RejectError, match="transport_public_key"):
            oracle[1].actor().derive(b"input", b"none")

    def test_hears_of_failures(self, oracle):
        subnet, canister = oracle
        actor = canister.actor()
        assert "was not made" in actor.price("https://other.example/")["Err"]
        subnet.outcalls.get("https://long.example/").respond(body=bytes(2_001))
        assert "Http body exceeds size limit of 2000 bytes." in actor.price("https://long.example/")["Err"]
        subnet.outcalls.get("https://binary.example/").respond(body=b"\xff")
        assert "invalid utf-8" in actor.price("https://binary.example/")["Err"]
        assert balanced(subnet)

    def test_hears_of_each_node(self, oracle):
        subnet, canister = oracle
        subnet.outcalls.get(self.URL).respond(text="13")
        assert canister.actor().flexible(self.URL) == ["13"] * 13
