"""Every kind of signature is verified, and one that is not somebody's is nobody's."""

from __future__ import annotations

import hashlib
import json

import cbor2
import pytest

from perdure.certification import certify, root_hash, tree
from perdure.certification.hash_tree import encode_node
from perdure.execution.identity import root_key
from perdure.gateway.envelope import Refusal
from perdure.gateway.signatures import Verifier

COUNTER = bytes.fromhex("ffffffffffe000000101")
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


@pytest.fixture(scope="module")
def signers(agents):
    """Twenty-one of all kinds: users of canisters, as Internet Identity has them, devices, keys."""

    def of_canister(number):
        return agents.canister_identity(root_key(b""), COUNTER, b"user %d" % number)

    kinds = (of_canister, *(lambda _, kind=kind: agents.KINDS[kind]() for kind in KINDS))
    return [kinds[number % len(kinds)](number) for number in range(21)]


def chain(agents, signers, count, changed=-1, **change):
    """Delegations from the first of the signers on; of link `changed` something is otherwise."""
    links = [agents.Link(one) for one in signers[1 : count + 1]]
    if changed >= 0:
        links[changed] = agents.Link(links[changed].to, change)
    return tuple(links)


@pytest.mark.parametrize("count", [1, 2, 7, 19, 20])
def test_chains_of_all_kinds_of_keys(interface, counter, agents, signers, count):
    agent = agents.Agent(interface, signers[0], chain(agents, signers, count))
    agent.update(counter.id, "inc")
    assert agent.query(counter.id, "count")["reply"]["arg"][-1] == 1


def test_chains_of_canisters_alone(interface, counter, agents):
    users = [agents.canister_identity(root_key(b""), COUNTER, b"link %d" % number) for number in range(21)]
    agents.Agent(interface, users[0], chain(agents, users, 20)).update(counter.id, "inc")
    liar = users[0]._replace(sign=users[1].sign)
    _, response = agents.Agent(interface, liar, chain(agents, users, 20)).call(counter.id, "inc")
    assert (response.status, b"Invalid signature" in response.body) == (400, True)


@pytest.mark.parametrize("at", range(20))
def test_a_chain_is_as_good_as_each_of_its_links(interface, counter, agents, signers, at):
    """Link `at` is signed for something else, is signed by who comes after it, has expired, or allows queries alone."""
    other = agents.canister_identity(root_key(b""), COUNTER, b"other")
    for liar in (
        signers[at]._replace(sign=lambda payload: signers[at].sign(payload + b"!")),
        signers[at]._replace(sign=signers[at + 1].sign),
        signers[at]._replace(sign=other.sign),
    ):
        forged = [*signers[:at], liar, *signers[at + 1 :]]
        _, response = agents.Agent(interface, forged[0], chain(agents, forged, 20)).call(counter.id, "inc")
        assert (response.status, b"Invalid signature" in response.body) == (400, True)
    for change, words in (
        ({"expiration": 1}, b"has expired"),
        ({"permissions": "queries"}, b"its permissions are queries"),
        ({"targets": [b"\1"]}, b"is not one of the delegation targets"),
    ):
        links = chain(agents, signers, 20, at, **change)
        _, response = agents.Agent(interface, signers[0], links).call(counter.id, "inc")
        assert (response.status, words in response.body) == (400, True)


def test_a_chain_of_more_links_than_there_may_be(interface, counter, agents, signers):
    links = (*chain(agents, signers, 20), agents.Link(agents.ed25519_identity()))
    _, response = agents.Agent(interface, signers[0], links).call(counter.id, "inc")
    assert (response.status, b"at most 20 delegations" in response.body) == (400, True)


def test_the_targets_of_all_links_have_to_allow_it(interface, counter, agents, signers):
    own, other = counter.id.raw_bytes, b"\0\0\0\0\0\0\0\1\1\1"
    links = [agents.Link(one, {"targets": [own, b"%d" % number]}) for number, one in enumerate(signers[1:])]
    agents.Agent(interface, signers[0], tuple(links)).update(counter.id, "inc")
    links[7] = agents.Link(links[7].to, {"targets": [other]})
    _, response = agents.Agent(interface, signers[0], tuple(links)).call(counter.id, "inc")
    assert b"is not one of the delegation targets" in response.body


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "device" in kind])
def test_what_a_device_has_not_said(interface, counter, agents, identities, kind):
    """Each part of an assertion is changed after the device has signed, or left out."""
    device = identities(kind)

    def call(change):
        def sign(payload):
            parts = dict(cbor2.loads(device.sign(payload)))
            change(parts)
            return cbor2.dumps(cbor2.CBORTag(55799, parts))

        return agents.Agent(interface, device._replace(sign=sign)).call(counter.id, "inc")[1]

    def told(**fields):
        def change(parts):
            parts["client_data_json"] = json.dumps({**json.loads(parts["client_data_json"]), **fields})

        return change

    assert call(lambda parts: None).status == 200
    signature = cbor2.loads(identities(kind).sign(b"another"))
    for change in (
        told(origin="https://evil.example"),
        told(challenge="AAAA"),
        told(challenge=7),
        lambda parts: parts.update(authenticator_data=bytes([1]) * 37),
        lambda parts: parts.update(signature=signature["signature"]),
        lambda parts: parts.update(signature=b""),
        lambda parts: parts.update(client_data_json="[]"),
        lambda parts: parts.update(client_data_json="{}"),
        lambda parts: parts.pop("authenticator_data"),
        lambda parts: parts.pop("client_data_json"),
        lambda parts: parts.pop("signature"),
    ):
        response = call(change)
        assert (response.status, b"Invalid signature" in response.body) == (400, True)


def test_what_a_canister_has_not_certified(interface, counter, agents):
    """Signatures of the right form: of another network, of another canister, of another user, of a tree of others."""
    own, digest = root_key(b""), lambda data: hashlib.sha256(data).digest()
    user = agents.canister_identity(own, COUNTER)

    def signature(payload, root=own, canister_id=COUNTER, seed=b"user 7", certified=None):
        signatures = tree({b"sig": {digest(seed): {digest(payload): b""}}})
        data = root_hash(signatures) if certified is None else certified
        state = tree({b"canister": {canister_id: {b"certified_data": data}}, b"time": b"\1"})
        certificate = certify(root, state, [(b"canister", canister_id, b"certified_data"), (b"time",)])
        parts = {"certificate": certificate.encode(), "tree": encode_node(signatures)}
        return cbor2.dumps(cbor2.CBORTag(55799, parts))

    def call(**otherwise):
        liar = user._replace(sign=lambda payload: signature(payload, **otherwise))
        return agents.Agent(interface, liar).call(counter.id, "inc")[1]

    assert call().status == 200
    for otherwise in (
        {"root": root_key(b"another network")},
        {"canister_id": b"\0\0\0\0\0\0\0\1\1\1"},
        {"seed": b"user 8"},
        {"certified": bytes(32)},
    ):
        response = call(**otherwise)
        assert (response.status, b"Invalid signature" in response.body) == (400, True)


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
