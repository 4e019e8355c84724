"""Networks that are served: each request at its subnet, certificates that go back to one root."""

from __future__ import annotations

import time
import urllib.request
from pathlib import Path

import cbor2
import pytest

from perdure import Network, Principal, Subnet
from perdure.candid import encode, parse_types
from perdure.certification import Certificate, Delegation, RootKey, certify, delegate, encode_nat, tree
from perdure.execution.identity import root_key
from perdure.gateway.budget import Budget
from perdure.gateway.hosts import Hosts
from perdure.gateway.http import Request
from perdure.gateway.routing import Interfaces
from perdure.gateway.site import Site
from perdure.kit import canister, ic, init, query, timer
from perdure.network.live import Rounds

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
NOTHING = encode((), [])


@canister
class Shown:
    """Shows what the subnet certifies for it."""

    @query
    def certificate(self) -> bytes:
        return ic.certificate


@pytest.fixture(scope="module")
def running():
    """Three subnets that go on, and a counter on each but the NNS."""
    with Network(["nns", "application", "system"]) as network:
        counters = [subnet.install(MODULES / "motoko_eop_v1.wasm.gz") for subnet in network.subnets[1:]]
        rounds = Rounds.of(network)
        rounds.start()
        yield network, counters, Interfaces(rounds)
        rounds.stop()


@pytest.fixture
def agent(running, agents):
    """An agent that knows nothing but the root's key."""
    return agents.Agent(running[2], root_key=running[0].root.root_key)


def test_the_root_is_the_nns(running):
    network = running[0]
    assert network.root is network.subnets[0]
    assert {subnet.root_key for subnet in network.subnets} == {root_key(network.root._state.seed).public_key_der}
    with Network(2) as other:
        assert other.root is other.subnets[0]
        added = other.add_subnet("nns")
        assert other.root is added
        assert {one.root_key for one in other.subnets} == {added.root_key}


def test_calls_and_queries_find_their_subnet(running, agent):
    _, counters, interface = running
    assert interface.handle("GET", "/api/v2/status", {}, b"").status == 200
    for counter in counters:
        before = agent.update(counter.id, "inc")
        assert agent.query(counter.id, "count")["reply"]["arg"] == counter.query("count", NOTHING)
        assert agent.update(counter.id, "inc", version="v3") > before


@canister
class Rings:
    """Rings once, as soon as it may."""

    rung: int

    def __init__(self) -> None:
        self.rung = 0

    @init
    def begin(self) -> None:
        ic.set_timer(1)

    @timer
    def ring(self) -> None:
        self.rung += 1

    @query
    def count(self) -> int:
        return self.rung


@pytest.mark.slow
def test_a_halted_subnet_answers_nothing(agents):
    with Network(["nns", "application", "system"]) as network:
        halted, other = network.subnets[1:]
        counter, goes_on = (one.install(MODULES / "motoko_eop_v1.wasm.gz") for one in (halted, other))
        network.halt(halted)
        rings = halted.install(Rings)
        rounds = Rounds.of(network)
        rounds.start()
        try:
            interface, before_ns = Interfaces(rounds), halted.time_ns
            site = Site(rounds, Hosts(), Budget(1 << 20))
            agent = agents.Agent(interface, root_key=network.root.root_key)
            for verb, versions in (("call", ("v2", "v4")), ("query", ("v3",)), ("read_state", ("v3",))):
                for version in versions:
                    for scope, one in (("canister", counter.id), ("subnet", halted.id)):
                        path = f"/api/{version}/{scope}/{one}/{verb}"
                        if (scope, version) != ("subnet", "v2"):
                            response = interface.handle("POST", path, {}, b"")
                            assert (response.status, b"no_healthy_nodes" in response.body) == (503, True), path
                            assert dict(response.headers)["access-control-allow-origin"] == "*"
                            assert interface.handle("OPTIONS", path, {}, b"").status == 204
            shown = site.begin(Request("GET", "/", {"host": f"{counter.id}.localhost"}, b""))
            assert (shown.status, b"halted" in shown.body) == (503, True)
            assert agent.update(goes_on.id, "inc")
            assert interface.handle("GET", "/api/v2/status", {}, b"").status == 200
            with halted._gate.lock:
                assert rounds._pause(rounds.lives) > 0  # what is due there does not keep the others turning
            assert halted.time_ns == before_ns
            network.resume(halted)
            rounds.wake()
            assert agent.update(counter.id, "inc")
            until = time.monotonic() + 30
            while not rings.actor().count():
                assert time.monotonic() < until
                time.sleep(0.01)
        finally:
            rounds.stop()


def test_a_call_across_is_answered(running, agent):
    _, (near, far), _ = running
    was = far.query("count", NOTHING)
    agent.update(near.id, "incOther", encode(parse_types("(principal)"), [far.id]))
    assert far.query("count", NOTHING) != was


def test_what_subnets_say_of_themselves(running, agent):
    network = running[0]
    for subnet in network.subnets:
        read = agent.read(f"v3/subnet/{subnet.id}", [b"subnet"], [b"canister_ranges", subnet.id.raw_bytes])
        certificate = agent.certificate(read)
        assert (certificate.delegation is None) == (subnet is network.root)
        for other, kind in zip(network.subnets, (b"system", b"application", b"system"), strict=True):
            key = certificate.lookup(b"subnet", other.id.raw_bytes, b"public_key")
            assert key == root_key(other._state.seed).public_key_der
            assert Principal.self_authenticating(key) == other.id
            assert certificate.lookup(b"subnet", other.id.raw_bytes, b"type") == kind
            metrics = certificate.lookup(b"subnet", other.id.raw_bytes, b"metrics")
            assert isinstance(metrics, bytes) == (other is subnet)


def test_what_is_about_no_canister_goes_to_an_application_subnet(running, agents, agent):
    network, _, interface = running
    before = {one.id for one in network.subnets[1].canisters}
    arg = encode(parse_types("(record {})"), [{}])
    about = {"request_type": "call", "canister_id": b"", "method_name": "create_canister", "arg": arg}
    request_id, body = agents.signed(
        {**about, "method_name": "provisional_create_canister_with_cycles"}, agents.ANONYMOUS
    )
    answer = agent.post("/api/v4/canister/aaaaa-aa/call", body)
    found = Certificate.decode(cbor2.loads(answer.body)["certificate"])
    assert found.lookup(b"request_status", request_id, b"status") == b"replied"
    assert {one.id for one in network.subnets[1].canisters} > before
    nowhere = interface.handle("POST", f"/api/v3/subnet/{Principal(b'x' * 28)}/read_state", {}, b"")
    assert nowhere.status == 400


def test_a_canister_out_of_its_subnets_range_is_named(running, agent):
    network = running[0]
    made = network.subnets[2].create_canister(canister_id=Principal.from_index(77 << 20))
    read = agent.read(f"v3/canister/{made.id}", [b"canister", made.id.raw_bytes, b"controllers"])
    agent.certificate(read, made.id)
    ranges = agent.certificate(agent.read(f"v2/subnet/{network.subnets[2].id}", [b"subnet"]))
    told = ranges.lookup(b"subnet", network.subnets[2].id.raw_bytes, b"canister_ranges")
    assert [made.id.raw_bytes] * 2 in [list(one) for one in cbor2.loads(told)]


def test_one_subnets_certificate_is_none_of_anothers_canister(running, agent):
    _, (one, other), _ = running
    read = agent.read(f"v3/canister/{one.id}", [b"canister", one.id.raw_bytes, b"module_hash"])
    found = agent.certificate(read, one.id)
    assert not found.is_signed_by(agent.root_key, other.id.raw_bytes)
    assert not found.is_signed_by(one._subnet.root_key[:-1] + b"\0", one.id.raw_bytes)


def test_canisters_know_the_root_and_are_vouched_for():
    with Network(["nns", "application"]) as network:
        shown = network.subnets[1].install(Shown)
        assert shown._state.facts.root_key == network.root.root_key  # what ``ic0.root_key_copy`` gives
        found = Certificate.decode(shown.actor().certificate())
        assert found.is_signed_by(network.root.root_key, shown.id.raw_bytes)
        assert found.delegation is not None
        with network.fork() as twin:
            again = Certificate.decode(twin.canister(shown.id).actor().certificate())
            assert again.is_signed_by(network.root.root_key, shown.id.raw_bytes)
        with network.subnets[1].fork() as alone:  # its own root
            assert alone.canister(shown.id)._state.facts.root_key == alone.root_key != network.root.root_key
            assert Certificate.decode(alone.canister(shown.id).actor().certificate()).is_signed_by(alone.root_key)


def test_a_delegation_gets_old_and_is_made_anew():
    with Network(["nns", "application"]) as network:
        subnet = network.subnets[1]._state.subnet_id
        first = network._delegation(subnet, b"")
        assert network._delegation(subnet, b"") is first
        network.advance_time("2m")
        assert network._delegation(subnet, b"") is not first
        assert network._delegation(network.root._state.subnet_id, b"") is None


class TestForged:
    """Delegations that the root did not give, or to somebody else."""

    ROOT, SUBNET, OTHER = RootKey(b"root"), RootKey(b"subnet"), RootKey(b"other")
    RANGE = ((bytes(8) + b"\1\1", bytes(7) + b"\xff\1\1"),)
    INSIDE, OUTSIDE = bytes(7) + b"\7\1\1", bytes(6) + b"\1\0\1\1"

    def certificate(self, delegation, key=SUBNET):
        state = tree({b"time": encode_nat(1)})
        made = certify(key, state, [(b"time",)])
        return Certificate.decode(Certificate(made.tree, made.signature, delegation).encode())

    def delegation(self, root=ROOT, key=SUBNET):
        return delegate(root, b"subnet", key.public_key_der, self.RANGE, 1)

    def test_the_right_one(self):
        found = self.certificate(self.delegation())
        assert found.is_signed_by(self.ROOT.public_key_der)
        assert found.is_signed_by(self.ROOT.public_key_der, self.INSIDE)
        assert not found.is_signed_by(self.ROOT.public_key_der, self.OUTSIDE)

    def test_wrong_ones(self):
        root = self.ROOT.public_key_der
        assert not self.certificate(self.delegation(root=self.OTHER)).is_signed_by(root)
        assert not self.certificate(self.delegation(key=self.OTHER)).is_signed_by(root)
        assert not self.certificate(self.delegation()._replace(subnet_id=b"another")).is_signed_by(root)
        nested = Certificate.decode(self.delegation().certificate)
        nested.delegation = self.delegation()
        assert not self.certificate(Delegation(b"subnet", nested.encode())).is_signed_by(root)


def test_pages_of_canisters_on_any_subnet(running):
    network, _, interface = running
    assets = network.subnets[1].install(MODULES / "assets.wasm.gz", "(null)")
    page = {"key": "/index.html", "content_type": "text/html", "content_encoding": "identity", "content": b"<h1>a page"}
    kind = "record { key : text; content_type : text; content_encoding : text; content : blob; sha256 : opt blob }"
    assets.update("store", encode(parse_types(f"({kind})"), [{**page, "sha256": None}]))
    site = Site(interface._rounds, Hosts(), Budget(1 << 30))
    found = site.begin(Request("GET", "/", {"host": f"{assets.id}.localhost"}, b""))
    assert (found.status, found.body) == (200, b"<h1>a page")
    assert dict(found.headers)["x-perdure-verification"] == "version 2"
    gone = Principal.from_index((77 << 20) + 5)
    assert site.begin(Request("GET", "/", {"host": f"{gone}.localhost"}, b"")).status == 404


def test_a_directory_is_served(tmp_path):
    with Network(["nns", "application"], path=tmp_path / "net") as network:
        made = network.subnets[1].install(MODULES / "motoko_eop_v1.wasm.gz")
        with network.serve() as url:
            with urllib.request.urlopen(f"{url}/api/v2/status") as found:
                assert cbor2.loads(found.read())["root_key"] == network.root.root_key
            assert abs(network.time_ns - time.time_ns()) < 10**10
            made.update("inc", NOTHING)
    with Subnet(tmp_path / "net" / "1-application") as alone:
        assert alone.root_key == root_key(alone._state.seed).public_key_der


@pytest.mark.parametrize("named", ["", "x", "aaaaa-ab", "a" * 200, "%20", "aaaaa-aa-"])
@pytest.mark.parametrize("act", ["v2/canister/{}/query", "v3/canister/{}/call", "v3/subnet/{}/read_state"])
def test_what_is_no_principal_is_the_clients_fault(running, named, act):
    content = {"request_type": act.rpartition("/")[2], "sender": b"\4", "ingress_expiry": time.time_ns() + 10**11}
    request = Request(
        "POST", "/api/" + act.format(named), {"content-type": "application/cbor"}, cbor2.dumps({"content": content})
    )
    assert running[2].begin(request).status in {400, 404}
