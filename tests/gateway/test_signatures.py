"""Every kind of signature is verified, and one that is not somebody's is nobody's."""

from __future__ import annotations

import pytest

from perdure.execution.identity import root_key
from perdure.gateway.envelope import Refusal
from perdure.gateway.signatures import Verifier

KINDS = ("Ed25519", "P-256", "secp256k1", "P-256 device", "Ed25519 device", "RSA device")


@pytest.fixture
def identities(agents, interface):
    """Identities by kind, made when asked for."""

    def make(kind):
        if kind == "canister":
            return agents.canister_identity(root_key(b""), interface.live.subnet.canisters[0].id.raw_bytes)
        return agents.KINDS[kind]()

    return make


@pytest.mark.parametrize("kind", [*KINDS, "canister"])
def test_every_kind(interface, counter, agents, identities, kind):
    agent = agents.Agent(interface, identities(kind))
    agent.update(counter.id, "inc")
    assert agent.query(counter.id, "count")["status"] == "replied"


@pytest.mark.parametrize("kind", [*KINDS, "canister"])
def test_what_was_not_signed_is_refused(interface, counter, agents, identities, kind):
    identity = identities(kind)
    forger = agents.Agent(interface, identity._replace(sign=lambda payload: identity.sign(payload + b"!")))
    _, response = forger.call(counter.id, "inc")
    assert (response.status, b"Invalid signature" in response.body) == (400, True)
    assert agents.Agent(interface).query(counter.id, "count")["reply"]["arg"][-1] == 0


def test_a_chain_of_delegations(interface, counter, agents, identities):
    session, device = identities("Ed25519"), identities("P-256 device")
    links = (agents.Link(device), agents.Link(session, {"targets": [counter.id.raw_bytes], "permissions": "all"}))
    agent = agents.Agent(interface, identities("canister"), links)
    agent.update(counter.id, "inc")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expiration": 1}, b"has expired"),
        ({"targets": [b"\1"]}, b"is not one of the delegation targets"),
        ({"permissions": "queries"}, b"its permissions are queries"),
        ({"permissions": "some"}, b"expected queries or all"),
        ({"targets": [b"\1"] * 1001}, b"1001 parts, expected at most 1000"),
    ],
)
def test_delegations_that_do_not_allow_it(interface, counter, agents, identities, fields, words):
    agent = agents.Agent(interface, identities("Ed25519"), (agents.Link(identities("Ed25519"), fields),))
    _, response = agent.call(counter.id, "inc")
    assert (response.status, words in response.body) == (400, True), response.body


def test_delegations_in_a_circle(interface, counter, agents, identities):
    first, second = identities("Ed25519"), identities("Ed25519")
    agent = agents.Agent(interface, first, (agents.Link(second), agents.Link(first)))
    _, response = agent.call(counter.id, "inc")
    assert b"is in the chain twice" in response.body
    agent = agents.Agent(interface, first, tuple(agents.Link(identities("Ed25519")) for _ in range(21)))
    _, response = agent.call(counter.id, "inc")
    assert b"at most 20 delegations" in response.body


def test_what_a_canister_attests_of_a_sender(interface, counter, agents, identities):
    signer = counter.id.raw_bytes
    identity = identities("canister")
    agent = agents.Agent(interface, identity)
    info = {"info": b"told", "signer": signer, "sig": identity.sign(b"\x0eic-sender-info" + b"told")}
    agent.update(counter.id, "inc", sender_info=info)
    for change in ({"info": b"other"}, {"signer": b"\1"}, {"sig": b""}):
        _, response = agent.call(counter.id, "inc", sender_info={**info, **change})
        assert response.status == 400
    plain = agents.Agent(interface, identities("Ed25519"))
    _, response = plain.call(counter.id, "inc", sender_info=info)
    assert (response.status, b"not one of canister" in response.body) == (400, True)


def test_keys_that_are_none(interface, counter, agents, identities):
    identity = identities("Ed25519")
    for key in (b"", b"0", bytes(3000), identity.key[:-1], agents.public_key_der(agents.COSE_OID, b"\xa0")):
        agent = agents.Agent(interface, identity._replace(key=key))
        _, response = agent.call(counter.id, "inc")
        assert response.status == 400


ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


@pytest.mark.parametrize("is_fast", [True, False])
def test_both_libraries_take_the_same_signatures(agents, monkeypatch, is_fast):
    asked = []
    monkeypatch.setattr("perdure.gateway.signatures.is_installed", lambda name: asked.append(name) or is_fast)
    identity = agents.KINDS["secp256k1"]()
    verifier = Verifier(b"")
    signature = identity.sign(b"said")
    r, s = signature[:32], int.from_bytes(signature[32:], "big")
    for good in (s, ORDER - s):
        verifier._verify("it", identity.key, r + good.to_bytes(32, "big"), b"said")
    for bad in (0, ORDER, s ^ 1, (1 << 256) - 1):
        with pytest.raises(Refusal, match="Invalid signature"):
            verifier._verify("it", identity.key, r + bad.to_bytes(32, "big"), b"said")
    for other in (bytes(32), ORDER.to_bytes(32, "big"), b"\xff" * 32):
        with pytest.raises(Refusal, match="Invalid signature"):
            verifier._verify("it", identity.key, other + signature[32:], b"said")
    for short in (b"", signature[:-1], signature + b"0"):
        with pytest.raises(Refusal, match="expected 64"):
            verifier._verify("it", identity.key, short, b"said")
    with pytest.raises(Refusal, match="Invalid signature"):
        verifier._verify("it", identity.key, signature, b"not said")
    assert asked == ["coincurve"]
