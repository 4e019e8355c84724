"""The interface by an agent of our own: versions, certificates, whoever asks."""

from __future__ import annotations

import urllib.request

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from endless import Endless

from perdure import Principal, Subnet
from perdure.candid import encode, parse_values
from perdure.certification import Missing
from perdure.errors import StorageError
from perdure.gateway.envelope import hash_of_map
from perdure.gateway.http import HttpInterface
from perdure.network.live import Live

NAT_1 = b"DIDL\0\1}\1"


def test_status(interface):
    response = interface.handle("GET", "/api/v2/status", {}, b"")
    assert (response.status, response.content_type) == (200, "application/cbor")
    assert response.body.startswith(b"\xd9\xd9\xf7")
    assert cbor2.loads(response.body)["root_key"] == interface.live.subnet.root_key


@pytest.mark.parametrize("version", ["v3", "v4"])
def test_a_call_is_answered_with_a_certificate(interface, counter, agents, version):
    agent = agents.Agent(interface)
    request_id, response = agent.call(counter.id, "inc", version=version)
    assert response.status == 200
    assert [name for name, _ in response.headers] == ["access-control-allow-origin"]  # twice is no leave at all
    assert cbor2.loads(response.body)["status"] == "replied"
    certificate = agent.certificate(response)
    assert certificate.lookup(b"request_status", request_id, b"status") == b"replied"
    assert agent.query(counter.id, "count")["reply"]["arg"] == NAT_1
    assert certificate.lookup(b"time") not in list(Missing)


def test_an_asynchronous_call_is_polled(interface, counter, agents):
    agent = agents.Agent(interface, agents.ed25519_identity())
    request_id, response = agent.call(counter.id, "inc", version="v2")
    assert (response.status, response.body) == (202, b"")
    found = agent.certificate(agent.read(f"v3/canister/{counter.id}", [b"request_status", request_id]))
    assert found.lookup(b"request_status", request_id, b"status") == b"replied"


def test_a_query_is_signed_by_the_node(interface, counter, agents):
    agent = agents.Agent(interface)
    request_id, body = agent.message("query", counter.id, "count", b"DIDL\0\0")
    answer = cbor2.loads(agent.post(f"/api/v3/canister/{counter.id}/query", body).body)
    subnet_id = interface.live.subnet.id.raw_bytes
    certificate = agent.certificate(agent.read(f"v3/canister/{counter.id}", [b"subnet", subnet_id]))
    (signature,) = answer["signatures"]
    key = certificate.lookup(b"subnet", subnet_id, b"node", signature["identity"], b"public_key")
    assert isinstance(key, bytes)
    assert Principal.self_authenticating(key).raw_bytes == signature["identity"]
    told = {name: value for name, value in answer.items() if name != "signatures"}
    told = {name: dict(value) if name == "reply" else value for name, value in told.items()}
    digest = hash_of_map({**told, "timestamp": signature["timestamp"], "request_id": request_id})
    ed25519.Ed25519PublicKey.from_public_bytes(key[12:]).verify(signature["signature"], b"\x0bic-response" + digest)


def test_a_request_that_comes_again_is_executed_once(interface, counter, agents):
    agent = agents.Agent(interface, agents.ed25519_identity())
    _, body = agent.message("call", counter.id, "inc", b"DIDL\0\0")
    path = f"/api/v4/canister/{counter.id}/call"
    answers = [agent.post(path, body).status for _ in range(3)]
    assert answers == [200, 200, 200]
    assert agent.query(counter.id, "count")["reply"]["arg"] == NAT_1


def test_refused_before_execution(interface, counter, agents):
    agent = agents.Agent(interface)
    _, response = agent.call(counter.id, "there is no such method")
    refused = cbor2.loads(response.body)
    assert response.status == 200
    assert "certificate" in refused or refused["status"] == "non_replicated_rejection"
    nobody = Principal.from_index(77)
    _, response = agent.call(nobody, "inc")
    refused = cbor2.loads(response.body)
    assert (refused["status"], refused["reject_code"], refused["error_code"]) == (
        "non_replicated_rejection",
        3,
        "IC0301",
    )
    _, response = agent.call(nobody, "inc", version="v2")
    assert "status" not in cbor2.loads(response.body)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/api/v2/nothing", 404),
        ("/api/v5/canister/aaaaa-aa/call", 404),
        ("/api/v4/canister/aaaaa-aa/query", 404),
        ("/api/v4/subnet/aaaaa-aa/query", 404),
        ("/api/v4/canister/aaaaa-a/call", 400),
        ("/api/v4/canister/../call", 400),
        ("/api/v4/canister/%2e%2e/../../etc/passwd/call", 404),
        ("/api/v4/canister/aaaaa-aa/call", 400),
    ],
)
def test_paths(interface, path, status):
    response = interface.handle("POST", path, {}, b"\xd9\xd9\xf7\xa0")
    assert response.status == status
    assert dict(response.headers)["access-control-allow-origin"] == "*"


def test_a_page_of_any_origin_may_ask(interface):
    response = interface.handle("OPTIONS", "/api/v4/canister/aaaaa-aa/call", {"origin": "http://evil.example"}, b"")
    headers = dict(response.headers)
    assert (response.status, headers["access-control-allow-origin"]) == (204, "*")
    assert "access-control-allow-credentials" not in headers
    assert interface.handle("GET", "/api/v4/canister/aaaaa-aa/call", {}, b"").status == 405


def test_what_became_of_a_request_is_told_to_its_sender_only(interface, counter, agents):
    owner, other = (agents.Agent(interface, agents.ed25519_identity()) for _ in range(2))
    request_id, _ = owner.call(counter.id, "inc")
    path = [b"request_status", request_id]
    assert owner.read(f"v2/canister/{counter.id}", path).status == 200
    assert other.read(f"v2/canister/{counter.id}", path).status == 403
    assert agents.Agent(interface).read(f"v3/canister/{counter.id}", path).status == 403
    elsewhere = Principal.from_index(5)
    assert owner.read(f"v2/canister/{elsewhere}", path).status == 403
    unknown = other.certificate(other.read(f"v2/canister/{counter.id}", [b"request_status", b"x" * 32]))
    assert unknown.lookup(b"request_status", b"x" * 32, b"status") is Missing.ABSENT


def test_a_session_is_told_of_what_it_may_call(interface, counter, agents):
    user, session = agents.ed25519_identity(), agents.ed25519_identity()
    request_id, _ = agents.Agent(interface, user).call(counter.id, "inc")
    path, elsewhere = [b"request_status", request_id], Principal.from_index(5).raw_bytes
    for targets, status in (([counter.id.raw_bytes], 200), ([elsewhere, b""], 200), ([elsewhere], 403), ([], 403)):
        agent = agents.Agent(interface, user, (agents.Link(session, {"targets": targets}),))
        response = agent.read(f"v3/canister/{counter.id}", path)
        assert (response.status, b"delegation targets" in response.body) == (status, status == 403)
        assert agent.read(f"v3/canister/{counter.id}", [b"time"]).status == 200


def test_facts_about_a_canister(interface, counter, agents):
    agent = agents.Agent(interface)
    raw_id = counter.id.raw_bytes
    leaves = [b"module_hash", b"controllers", b"canister_creation_timestamp", b"last_install_timestamp"]
    paths = [[b"canister", raw_id, leaf] for leaf in leaves]
    paths += [[b"canister", raw_id, b"metadata", name] for name in (b"candid:service", b"nothing")]
    found = agent.certificate(agent.read(f"v3/canister/{counter.id}", *paths))
    assert found.lookup(*paths[0]) == counter.status().module_hash
    assert found.lookup(*paths[1]) == b"\xd9\xd9\xf7" + cbor2.dumps([b"\4"])
    for path in paths[2:4]:
        assert isinstance(found.lookup(*path), bytes)
    assert b"service" in found.lookup(*paths[4])
    assert found.lookup(*paths[5]) is Missing.ABSENT
    assert found.lookup(b"canister", raw_id, b"certified_data") is Missing.UNKNOWN


@pytest.mark.parametrize(
    ("place", "path", "status"),
    [
        ("v3/canister/{id}", [b"time"], 200),
        ("v3/canister/{id}", [b"subnet"], 200),
        ("v3/canister/{id}", [b"canister", b"ID", b"certified_data"], 404),
        ("v3/canister/{id}", [b"canister", b"ID"], 404),
        ("v3/canister/{id}", [b"canister", b"other", b"module_hash"], 400),
        ("v3/canister/{id}", [b"canister", b"ID", b"metadata", b"\xff"], 404),
        ("v3/canister/{id}", [b"canister", b"ID", b"metadata", b"motoko:stable-types"], 403),
        ("v3/canister/{id}", [b"canister_ranges", b"SUBNET"], 404),
        ("v3/subnet/{subnet}", [b"canister_ranges", b"SUBNET"], 200),
        ("v3/subnet/{subnet}", [b"subnet", b"SUBNET", b"metrics"], 200),
        ("v3/canister/{id}", [b"subnet", b"SUBNET", b"metrics"], 404),
        ("v3/subnet/{id}", [b"time"], 400),
        ("v3/canister/{id}", [], 404),
        ("v3/canister/{id}", [b"nonsense"], 404),
        ("v3/canister/{id}", [b"request_status", b"x", b"y"], 404),
    ],
)
def test_paths_of_the_state_tree(interface, counter, agents, place, path, status):
    subnet = interface.live.subnet
    stands_for = {b"ID": counter.id.raw_bytes, b"SUBNET": subnet.id.raw_bytes}
    agent = agents.Agent(interface, agents.ed25519_identity())
    where = place.format(id=counter.id, subnet=subnet.id)
    assert agent.read(where, [stands_for.get(part, part) for part in path]).status == status


def test_the_plugins_fixture(subnet, served):
    with urllib.request.urlopen(f"{served}/api/v2/status") as response:
        assert subnet.root_key in response.read()


def text(values):
    """A Candid message by its text."""
    return encode(*parse_values(values))


@pytest.mark.parametrize("seconds", [-1, 7 * 60])
def test_expiry(interface, counter, agents, seconds):
    late = {"ingress_expiry": agents.in_seconds(seconds)}
    agent, anonymous = agents.Agent(interface, agents.ed25519_identity()), agents.Agent(interface)
    for asking, kind in ((agent, "call"), (agent, "query"), (anonymous, "call")):
        _, body = asking.message(kind, counter.id, "count", b"DIDL\0\0", **late)
        response = asking.post(f"/api/v3/canister/{counter.id}/{kind}", body)
        assert (response.status, b"Invalid request expiry: " in response.body) == (400, True)
    assert agent.read(f"v3/canister/{counter.id}", [b"time"], **late).status == 400
    # What anybody may ask at any time needs no expiry.
    assert anonymous.query(counter.id, "count", **late)["status"] == "replied"
    assert anonymous.read(f"v3/canister/{counter.id}", [b"time"], **late).status == 200


def test_effective_ids(interface, counter, agents):
    agent, other = agents.Agent(interface), Principal.from_index(3)
    for kind in ("call", "query"):
        _, body = agent.message(kind, counter.id, "inc", b"DIDL\0\0")
        response = agent.post(f"/api/v3/canister/{other}/{kind}", body)
        assert (response.status, b"does not match effective canister id" in response.body) == (400, True)
    about = text(f'(record {{ canister_id = principal "{counter.id}" }})')
    _, body = agent.message("call", Principal(b""), "stop_canister", about)
    assert agent.post(f"/api/v4/canister/{other}/call", body).status == 400
    subnet_id = interface.live.subnet.id
    _, body = agent.message("call", Principal(b""), "stop_canister", about)
    assert agent.post(f"/api/v4/subnet/{subnet_id}/call", body).status == 400
    _, body = agent.message("call", Principal(b""), "provisional_create_canister_with_cycles", text("(record {})"))
    response = agent.post(f"/api/v4/subnet/{subnet_id}/call", body)
    assert cbor2.loads(response.body)["status"] == "replied"


def test_a_canister_that_never_answers(interface, counter, agents, monkeypatch):
    endless = interface.live.subnet.install(Endless)
    agent = agents.Agent(interface)
    with monkeypatch.context() as hurried:
        hurried.setattr("perdure.gateway.http.SYNCHRONOUS_SECONDS", 0.05)
        request_id, response = agent.call(endless.id, "loop", text(f'(principal "{endless.id}")'))
    assert (response.status, response.body) == (202, b"")
    path = [b"request_status", request_id]
    found = agent.certificate(agent.read(f"v3/canister/{endless.id}", path))
    assert found.lookup(*path, b"status") == b"processing"
    agent.query(counter.id, "count")
    agent.call(counter.id, "inc")
    assert agent.query(counter.id, "count")["reply"]["arg"] == NAT_1


def test_whose_a_request_is_outlives_the_process(tmp_path, agents, counter):
    wasm = counter.module.wasm
    identity, other = agents.ed25519_identity(), agents.ed25519_identity()
    answers = []
    with Subnet(tmp_path / "state") as subnet:
        canister_id = subnet.install(wasm).id
        interface = HttpInterface(Live(subnet))
        agent = agents.Agent(interface, identity)
        request_id, body = agent.message("call", canister_id, "inc", b"DIDL\0\0")
        place, path = f"/api/v4/canister/{canister_id}/call", [b"request_status", request_id]
        answers.append(agent.certificate(agent.post(place, body)).lookup(*path, b"reply"))
    with Subnet(tmp_path / "state") as subnet:
        interface = HttpInterface(Live(subnet))
        where = f"v3/canister/{canister_id}"
        assert agents.Agent(interface, other).read(where, path).status == 403
        agent = agents.Agent(interface, identity)
        assert agent.read(where, path).status == 200
        answers.append(agent.certificate(agent.post(place, body)).lookup(*path, b"reply"))
    assert answers[0] == answers[1] == NAT_1


def test_nobody_is_shown_what_is_not_on_the_platter(agents, tmp_path, monkeypatch):
    """Whoever asks for what became of a request waits as whoever sent it does."""
    with Subnet(tmp_path / "state", code=[Endless]) as subnet:
        endless = subnet.install(Endless)
        live = Live(subnet)
        live.start()
        try:
            agent = agents.Agent(HttpInterface(live))
            request_id, body = agent.message("call", endless.id, "step", b"DIDL\0\0")
            place = f"v3/canister/{endless.id}"

            def full(version, *, leaving=False):
                raise StorageError("no space left on device", "log")

            with monkeypatch.context() as patch:
                patch.setattr(subnet._host, "wait", full)
                with pytest.raises(StorageError, match="no space left"):
                    agent.post(f"/api/v4/canister/{endless.id}/call", body)
                for _ in range(2):  # a certificate of before is not shown either
                    with pytest.raises(StorageError, match="no space left"):
                        agent.read(place, [b"request_status", request_id])
                with pytest.raises(StorageError, match="no space left"):
                    subnet.request_status(request_id)
                with pytest.raises(StorageError, match="no space left"):
                    subnet.response(request_id)
            found = agent.certificate(agent.read(place, [b"request_status", request_id]))
            assert found.lookup(b"request_status", request_id, b"status") == b"replied"
        finally:
            live.stop()
