"""Subnets that are connected: who is where, calls across, what is lost, doubled and cut off on the way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import balanced, call_each_other, counted, cut_off
from walker import WALK, Walker

from perdure import Network, Principal, RejectError, Subnet, UnsupportedError
from perdure.candid import encode, parse_types
from perdure.canister import CanisterStatus
from perdure.execution import submit_ingress
from perdure.execution.management.elsewhere import BITCOIN_CANISTERS
from perdure.execution.schema import FORMAT, SUBNET
from perdure.execution.streams import Slice, take_in
from perdure.kit import call, canister, nat64, update
from perdure.network import network as network_module
from perdure.network.live import Live

CYCLES = 5_000
MODULES = Path(__file__).parent.parent / "canisters" / "modules"
MANAGEMENT = Principal(b"")


@pytest.fixture(scope="module")
def origin():
    """What every network here begins from, and the ids of a canister on each of its subnets."""
    network = Network(3)
    return network, [subnet.install(Walker).id for subnet in network.subnets]


@pytest.fixture
def network(origin):
    with origin[0].fork() as network:
        yield network


@pytest.fixture
def ids(origin):
    return origin[1]


def walk(network, first, path, end="", *, cycles=CYCLES, keep=100, timeout=0):
    return network.canister(first).actor().walk(path, cycles, keep, end, timeout)


def seen(network, canister_id):
    return network.canister(canister_id).actor().seen()


def outcome(network, ids):
    """What canisters know and have, whenever it was."""
    return [(seen(network, one), network.canister(one)._state.cycles) for one in ids]


class TestCalls:
    def test_across_and_back(self, network, ids):
        assert walk(network, ids[0], [ids[1], ids[2], ids[0], ids[1]]) == 4
        assert [seen(network, one) for one in ids] == [[2, 0], [2, 0], [1, 0]]
        assert balanced(network)
        assert network.sent_cycles == 0

    def test_it_is_what_one_subnet_would_do(self, network, ids):
        with Subnet() as subnet:
            near = [subnet.install(Walker).id for _ in ids]
            before = [subnet.canister(one)._state.cycles for one in near]
            subnet.canister(near[0]).actor().walk([near[1], near[2], near[1]], CYCLES, 100, "", 0)
            used = [was - subnet.canister(one)._state.cycles for one, was in zip(near, before, strict=True)]
        before = [network.canister(one)._state.cycles for one in ids]
        walk(network, ids[0], [ids[1], ids[2], ids[1]])
        assert [was - network.canister(one)._state.cycles for one, was in zip(ids, before, strict=True)] == used

    def test_rejections_come_back(self, network, ids):
        assert walk(network, ids[0], [ids[1], ids[2]], "trap") == 1
        assert [seen(network, one) for one in ids] == [[1, 0], [1, 1], [0, 0]]
        assert balanced(network)

    def test_no_route(self, network, ids):
        with pytest.raises(RejectError, match="No route to canister rno2w-sqaaa-aaaaa-aaacq-cai"):
            walk(network, ids[0], [Principal.from_index(5)], "pass")
        assert balanced(network)

    def test_the_subnet_that_would_have_it_says_that_there_is_none(self, network, ids):
        gone = Principal.from_index(int.from_bytes(ids[1].raw_bytes[:8]) + 1_000)
        assert network.subnet_of(gone) is network.subnets[1]
        with pytest.raises(RejectError, match=f"Canister {gone} not found"):
            walk(network, ids[0], [gone], "pass")
        assert balanced(network)

    def test_a_request_that_streams_do_not_carry(self, network):
        near, far = (network.subnets[number].install(Sender) for number in (0, 1))
        limit = near._subnet._world.config.max_inter_canister_payload_bytes - len("take")
        assert near.actor().send_zeros(near.id, limit + 1) == str(limit + 1).encode()
        assert near.actor().send_zeros(far.id, limit) == str(limit).encode()
        with pytest.raises(RejectError, match="2097153 bytes to a canister of another subnet, at most 2097152 bytes"):
            near.actor().send_zeros(far.id, limit + 1)
        assert balanced(network)

    def test_a_call_of_itself_stays(self, network, ids):
        assert walk(network, ids[0], [ids[0]]) == 1
        assert not network.subnets[0]._state.xnet_streams


@canister
class Sender:
    """Sends what it is told to."""

    @update
    async def send(self, callee: Principal, method: str, arg: bytes) -> bytes:
        return await call(callee, method, arg, cycles=10**12)

    @update
    async def send_zeros(self, callee: Principal, count: nat64) -> bytes:
        return await call(callee, "take", bytes(count))

    @update(raw=True)
    def take(self, arg: bytes) -> bytes:
        return str(len(arg)).encode()


class TestManagement:
    def managed(self, network, method, types, *values, callee=MANAGEMENT):
        sender = network.subnets[0].install(Sender)
        return sender, lambda: sender.actor().send(callee, method, encode(parse_types(f"({types})"), values))

    def test_of_a_canister_elsewhere(self, network):
        about = "record { canister_id : principal }"
        far = network.subnets[1].install(Sender)
        sender, stop = self.managed(network, "stop_canister", about, {"canister_id": far.id})
        with pytest.raises(RejectError, match="Only controllers of canister"):
            stop()
        far.update_settings(controllers=[sender.id])
        stop()
        assert far.status().status == "stopped"
        change = far._state.history[-1]
        assert (change.details[0], change.origin_version) == ("controllers_change", None)
        assert balanced(network)

    def test_creates_elsewhere(self, network):
        far = network.subnets[2]
        arg = {"settings": None, "sender_canister_version": None}
        types = "record { settings : opt record {}; sender_canister_version : opt nat64 }"
        sender, create = self.managed(network, "create_canister", types, arg, callee=far.id)
        before = {one.id for one in far.canisters}
        create()
        (made,) = {one.id for one in far.canisters} - before
        assert far.canister(made).status().controllers == (sender.id,)
        assert far.canister(made)._state.history[0].origin == sender.id.raw_bytes
        assert balanced(network)

    def test_of_a_subnet(self, network):
        arg = {"subnet_id": network.subnets[1].id}
        _, ask = self.managed(network, "subnet_info", "record { subnet_id : principal }", arg)
        assert b"perdure" in ask()

    def test_a_bitcoin_canister_elsewhere(self, network):
        @canister
        class Bitcoin:
            @update(raw=True)
            def bitcoin_get_balance(self, arg: bytes) -> bytes:
                return b"a balance"

        network.subnets[2].install(Bitcoin, canister_id=BITCOIN_CANISTERS["regtest"])
        kind = "record { network : variant { mainnet; testnet; regtest }; address : text }"
        arg = {"network": {"regtest": None}, "address": "bcrt1"}
        _, ask = self.managed(network, "bitcoin_get_balance", kind, arg)
        assert ask() == b"a balance"


class TestKinds:
    def test_each_has_a_range_of_its_own(self):
        with Network(["nns", "application", "application", "system"]) as network:
            made = [subnet.create_canister().id for subnet in network.subnets]
            assert str(made[0]) == "rwlgt-iiaaa-aaaaa-aaaaa-cai"
            assert len(set(made)) == 4
            assert [network.subnet_of(one) for one in made] == list(network.subnets)
            assert list(network.kinds.values()) == ["nns", "application", "application", "system"]
            assert len(network.kinds) == 4

    def test_nothing_costs_cycles_on_system_subnets(self):
        with Network(["system", "application"]) as network:
            free, paid = (subnet.install(Walker) for subnet in network.subnets)
            before = free._state.cycles
            assert free.actor().walk([], 0, 0, "", 0) == 0
            assert free._state.cycles == before
            assert paid.actor().walk([free.id], 0, 0, "", 0) == 1
            assert free._state.cycles == before

    @pytest.mark.parametrize(
        ("subnets", "words"),
        [
            ([], "at least one subnet"),
            (0, "at least one"),
            (["moon"], "found 'moon'"),
            (["nns", "nns"], "one nns subnet"),
            ("nns", r"as \['nns', 'application'\], found 'nns'"),
            (1.5, "subnets are their number, or a kind of each, .* found 1.5"),
        ],
    )
    def test_wrong_ones(self, subnets, words):
        with pytest.raises(ValueError, match=words):
            Network(subnets)

    def test_more_later(self, network):
        place = 0x3_0000_0000 >> 20 << 20
        added = network.add_subnet(first_canister_index=place)
        assert network.subnet_of(Principal.from_index(place + 7)) is added
        assert added.time_ns == network.time_ns
        for wrong in (place, place + 1, 1 << 64):
            with pytest.raises(ValueError, match=r"range begins|ids from"):
                network.add_subnet(first_canister_index=wrong)

    def test_one_alone_is_a_subnet(self):
        with Network(1, seed=b"seed") as network, Subnet(seed=b"seed") as subnet:
            assert network.subnets[0].id == subnet.id
            made, other = network.subnets[0].install(Walker), subnet.install(Walker)
            assert made.id == other.id
            assert made.actor().walk([], 0, 0, "", 0) == other.actor().walk([], 0, 0, "", 0)
            ours, theirs = network.subnets[0]._state, subnet._state
            assert FORMAT.encode(SUBNET, ours) == FORMAT.encode(SUBNET, theirs)


class TestWaiting:
    def test_a_subnet_that_is_halted(self, network, ids):
        far = network.subnets[1]
        network.halt(far)
        caller = network.canister(ids[0])
        arg = encode(parse_types(WALK.partition(" ->")[0]), [[ids[1]], CYCLES, 100, "", 0])
        request_id = submit_ingress(caller._subnet._world, ids[0].raw_bytes, "walk", arg)
        network.run_until_idle()
        assert caller._subnet.response(request_id) is None
        assert network.sent_cycles == CYCLES
        assert balanced(network)
        network.resume(far)
        network.run_until_idle()
        assert caller._subnet.response(request_id) is not None
        assert network.sent_cycles == 0
        assert balanced(network)

    def test_a_deadline_ends_what_never_comes_back(self, network, ids):
        network.halt(network.subnets[1])
        caller = network.canister(ids[0])
        arg = encode(parse_types(WALK.partition(" ->")[0]), [[ids[1]], CYCLES, 100, "pass", 10])
        request_id = submit_ingress(caller._subnet._world, ids[0].raw_bytes, "walk", arg)
        network.run_until_idle()
        network.advance_time("11s")
        network.tick()
        network.run_until_idle()
        with pytest.raises(RejectError, match="deadline has expired"):
            caller._subnet.response(request_id)
        assert caller._subnet._state.lost_cycles == 0
        assert network.sent_cycles == CYCLES
        assert balanced(network)
        before = caller._state.cycles
        network.resume(network.subnets[1])
        network.run_until_idle()
        assert seen(network, ids[1]) == [0, 0], "its time was up before it came in"
        assert caller._state.cycles == before + CYCLES
        assert network.sent_cycles == sum(subnet._state.lost_cycles for subnet in network.subnets) == 0
        assert balanced(network)

    def test_an_answer_that_is_late_brings_back_what_is_left(self, network, ids):
        caller = network.canister(ids[0])
        arg = encode(parse_types(WALK.partition(" ->")[0]), [[ids[1]], CYCLES, 100, "pass", 10])
        request_id = submit_ingress(caller._subnet._world, ids[0].raw_bytes, "walk", arg)
        for _ in range(2):
            network.tick()  # it has come, and is answered
        assert seen(network, ids[1]) == [1, 0]
        network.halt(network.subnets[1])
        network.advance_time("11s")
        network.tick()
        network.run_until_idle()
        with pytest.raises(RejectError, match="deadline has expired"):
            caller._subnet.response(request_id)
        before = caller._state.cycles
        network.resume(network.subnets[1])
        network.run_until_idle()
        assert caller._state.cycles == before + CYCLES - 100
        assert network.sent_cycles == sum(subnet._state.lost_cycles for subnet in network.subnets) == 0
        assert balanced(network)

    def test_time_goes_on_everywhere(self, network):
        network.advance_time("1h")
        network.set_time(network.time_ns + 10**9)
        assert len({subnet.time_ns for subnet in network.subnets}) == 1
        with pytest.raises(ValueError, match="time does not go back"):
            network.set_time(network.time_ns - 1)

    def test_time_that_goes_on_nowhere(self, network):
        """No clock moves where one of them would come to its end."""
        last = network.subnets[-1]
        last.set_time(4_600_000_000 * 10**9)
        before = [subnet.time_ns for subnet in network.subnets]
        with pytest.raises(ValueError, match="where clocks end"):
            network.advance_time("500d")
        assert [subnet.time_ns for subnet in network.subnets] == before

    def test_what_is_of_another_network(self, network):
        with Subnet() as other, pytest.raises(ValueError, match="no subnet of this network"):
            network.halt(other)


class TestStates:
    def test_a_fork_goes_its_own_way(self, network, ids):
        twin = network.fork()
        walk(twin, ids[0], [ids[1]])
        assert seen(twin, ids[1]) == [1, 0]
        assert seen(network, ids[1]) == [0, 0]
        assert balanced(twin)
        twin.close()

    def test_what_is_under_way_is_in_the_fork(self, network, ids):
        arg = encode(parse_types(WALK.partition(" ->")[0]), [[ids[1]], CYCLES, 100, "", 0])
        submit_ingress(network.subnets[0]._world, ids[0].raw_bytes, "walk", arg)
        network.tick()
        twin = network.fork()
        assert twin.sent_cycles == network.sent_cycles == CYCLES
        twin.run_until_idle()
        network.run_until_idle()
        assert outcome(twin, ids) == outcome(network, ids)
        twin.close()

    def test_one_subnet_of_it_forks_without_a_way_out(self, network, ids):
        with network.subnets[0].fork() as alone, pytest.raises(RejectError, match="No route"):
            alone.canister(ids[0]).actor().walk([ids[1]], 0, 0, "pass", 0)

    def test_no_anchors_and_no_server(self, network):
        with pytest.raises(UnsupportedError, match="fork the network"), network.subnets[0].anchor():
            pass
        with pytest.raises(UnsupportedError, match="goes on with the others"):
            Live(network.subnets[0])

    def test_records_have_streams(self, network, ids):
        network.halt(network.subnets[1])
        arg = encode(parse_types(WALK.partition(" ->")[0]), [[ids[1]], CYCLES, 100, "", 0])
        submit_ingress(network.subnets[0]._world, ids[0].raw_bytes, "walk", arg)
        network.run_until_idle()
        state = network.subnets[0]._state
        found = FORMAT.decode(SUBNET, FORMAT.encode(SUBNET, state))
        assert found["xnet_streams"] == state.xnet_streams
        assert found["sent_cycles"] == CYCLES


def busy(network, ids, seed, count=12, timeouts=(0, 0, 300)):
    """Calls that cross each other, all of them begun at once."""
    drawn = random.Random(seed)
    for _ in range(count):
        path = [drawn.choice(ids) for _ in range(drawn.randrange(1, 5))]
        first = drawn.choice(ids)
        end = drawn.choice(["", "", "trap", "pass"])
        values = [path, drawn.randrange(20_000), drawn.randrange(300), end, drawn.choice(timeouts)]
        arg = encode(parse_types(WALK.partition(" ->")[0]), values)
        submit_ingress(network.canister(first)._subnet._world, first.raw_bytes, "walk", arg)


class TestTransport:
    """Slices that come as they should not."""

    @pytest.fixture
    def expected(self, network, ids):
        with network.fork() as clean:
            busy(clean, ids, 1)
            clean.run_until_idle()
            return outcome(clean, ids)

    def test_old_ones_come_again(self, network, ids, expected, monkeypatch):
        old, slices = [], network_module.Network._slices

        def doubled(self, subnets):
            found = slices(self, subnets)
            old.extend(found)
            return [*old[-30:], *found, *found]

        monkeypatch.setattr(network_module.Network, "_slices", doubled)
        busy(network, ids, 1)
        network.run_until_idle()
        assert outcome(network, ids) == expected
        assert balanced(network)

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 2**32))
    def test_lost_late_and_in_another_order(self, origin, seed):
        network, ids = origin[0].fork(), origin[1]
        drawn, late, slices = random.Random(seed), [], network_module.Network._slices

        def bad(self, subnets):
            found = [*slices(self, subnets), *late]
            drawn.shuffle(found)
            late[:] = [one for one in found if drawn.random() < 0.3]
            return [one for one in found if drawn.random() < 0.6]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(network_module.Network, "_slices", bad)
            busy(network, ids, 2)
            for _ in range(60):
                network.tick()
                assert balanced(network)
        network.run_until_idle()
        with origin[0].fork() as clean:
            busy(clean, ids, 2)
            clean.run_until_idle()
            assert outcome(network, ids) == outcome(clean, ids)
        assert network.sent_cycles == 0
        assert balanced(network)
        network.close()

    @settings(max_examples=8, deadline=None)
    @given(st.integers(0, 2**32))
    def test_no_cycles_are_made_or_lost(self, origin, seed):
        """Whatever is halted, stopped, late, or too late: what there is, is somewhere, and comes home in the end."""
        network, ids = origin[0].fork(), origin[1]
        drawn, slices = random.Random(seed), network_module.Network._slices

        def put(canister_id, status):
            network.canister(canister_id)._state.facts.status = status

        acts = {
            "call": lambda: busy(network, ids, drawn.randrange(1 << 32), 4, timeouts=(0, 3, 9)),
            "halt": lambda: network.halt(drawn.choice(network.subnets)),
            "resume": lambda: network.resume(drawn.choice(network.subnets)),
            "wait": lambda: network.advance_time(drawn.randrange(5 * 10**9)),
            "drift": lambda: drawn.choice(network.subnets).advance_time(drawn.randrange(10**9)),
            "stop": lambda: put(drawn.choice(ids), CanisterStatus.STOPPING),
            "start": lambda: put(drawn.choice(ids), CanisterStatus.RUNNING),
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                network_module.Network, "_slices", lambda *of: [one for one in slices(*of) if drawn.random() < 0.7]
            )
            for _ in range(40):
                acts[drawn.choice(list(acts))]()
                network.tick()
                assert balanced(network)
        for subnet in network.subnets:
            network.resume(subnet)
        for one in ids:
            put(one, CanisterStatus.RUNNING)
        for _ in range(12):
            network.run_until_idle()
            network.advance_time("1s")
            network.tick()
        assert balanced(network)
        assert network.sent_cycles == sum(subnet._state.lost_cycles for subnet in network.subnets) == 0
        assert not any(canister._state.open_calls for canister in network.canisters)
        network.close()

    def test_a_slice_that_begins_too_late_brings_nothing(self, network, ids):
        world, other = network.subnets[0]._world, network.subnets[1]._state.subnet_id
        assert take_in(world, [(other, Slice(3, (), 0))]) == 0
        assert not world.state.xnet_streams


@pytest.fixture(scope="module")
def counters():
    """Two subnets, and the ids of a counter in Motoko on each."""
    with Network(2) as network:
        yield network, [subnet.install(MODULES / "motoko_eop_v1.wasm.gz").id for subnet in network.subnets]


class TestCutOff:
    """An exception at each transaction, before and after it is kept: what comes out is the same.

    In Wasm: a method in Python that waits does not live through an interruption.
    """

    def run(self, network, ids, at, *, before):
        call_each_other(network, ids)
        with cut_off(at, before=before) as count:
            network.run_until_idle()
        network.run_until_idle()
        return count[0]

    @pytest.mark.parametrize("before", [True, False])
    def test_everywhere(self, counters, before):
        first, ids = counters
        with first.fork() as clean:
            places = self.run(clean, ids, -1, before=before)
            expected = counted(clean, ids)
        assert places > 15
        for at in range(1, places + 1):
            with first.fork() as network:
                self.run(network, ids, at, before=before)
                assert counted(network, ids) == expected, at
                assert balanced(network)
                assert network.sent_cycles == 0
