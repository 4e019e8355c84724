"""Several canisters, random calls, traps, upgrades, stops, time: no cycle made or lost, no reply lost or doubled.

Every canister runs the same program: its argument is a script, and each call carries a script for its callee. The model
knows nothing of scheduling; it counts cycles and answers.
"""

from __future__ import annotations

import hashlib

import cbor2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from perdure.canister import Callback, Reject, Reply
from perdure.execution import (
    FromUser,
    advance_time,
    execute_query,
    round_,
    run_until_idle,
    start_canister,
    stop_canister,
    submit_ingress,
    uninstall_code,
)
from perdure.execution.ingress import drawn_id
from perdure.execution.records import encode_record, encode_record_again, encode_subnet
from perdure.record import NOT_WRITTEN

CANISTERS = 4
UNITS = 1_000_000


def run_script(api, instance, script):
    """One step after the other; steps that the context does not allow trap, which is wanted."""
    for step, *values in script:
        if step == "write":
            if instance.stable.size() == 0:
                instance.stable.grow(1)
            instance.stable.data[0] = (instance.stable.data[0] + 1) % 256
        elif step == "accept":
            api.msg_cycles_accept(values[0] * UNITS)
        elif step == "burn":
            api.cycles_burn(values[0] * UNITS)
        elif step == "call":
            perform(api, *values)
        elif step == "reply":
            api.msg_reply_data_append(bytes(instance.stable.data[:1]))
            api.msg_reply()
        elif step == "reject":
            api.msg_reject(b"scripted")
        elif step == "timer":
            api.global_timer_set(api.time() + values[0])
        elif step == "trap":
            raise api.trap(b"scripted")


def perform(api, callee, cycles, timeout, script, then, cleanup):
    # The environment of a callback is an index into the scripts that the instance remembers.
    callee = api.env.facts.canister_id[:7] + bytes([callee]) + b"\x01\x01"
    api.call_new(callee, b"run", remember(then), remember(then))
    api.call_data_append(cbor2.dumps(script))
    if cycles:
        api.call_cycles_add(cycles * UNITS)
    if timeout:
        api.call_with_best_effort_response(timeout)
    if cleanup:
        api.call_on_cleanup(remember(cleanup))
    api.call_perform()


def remember(script):
    return Callback(0, int.from_bytes(cbor2.dumps(script), "big"))


def recall(environment):
    return cbor2.loads(environment.to_bytes((environment.bit_length() + 7) // 8, "big"))


def update(api, instance):
    run_script(api, instance, cbor2.loads(api.msg_arg_data()))


def callback(api, instance, environment):
    run_script(api, instance, recall(environment))


def on_timer(api, instance):
    run_script(api, instance, [["write"], ["burn", 1]])


PROGRAM = {"canister_update run": update, "canister_query look": update, "canister_global_timer": on_timer}

simple = st.one_of(
    st.tuples(st.just("write")),
    st.tuples(st.just("accept"), st.integers(0, 50)),
    st.tuples(st.just("burn"), st.integers(0, 5)),
    st.tuples(st.just("timer"), st.integers(0, 10**10)),
    st.tuples(st.just("reply")),
    st.tuples(st.just("reject")),
    st.tuples(st.just("trap")),
)
short_script = st.lists(simple, max_size=3)


def calls(scripts):
    call = st.tuples(
        st.just("call"),
        st.integers(0, CANISTERS),  # the last one does not exist
        st.integers(0, 50),
        st.sampled_from([None, None, 1, 100]),
        scripts,
        scripts,
        short_script,
    )
    return st.lists(st.one_of(simple, call), max_size=4)


scripts = st.recursive(short_script, calls, max_leaves=8)


class Conservation(RuleBasedStateMachine):
    """Drives a world and, under the same rules, its twin, which must end in the same state."""

    world_class: type

    def __init__(self):
        super().__init__()
        self.written = {}
        self.worlds = [self.world_class(), self.world_class()]
        self.asked = {}
        self.answered = {}
        for world in self.worlds:
            for _ in range(CANISTERS):
                world.install(PROGRAM, [callback], cycles=20 * world.FUND)

    requests = Bundle("requests")

    def each(self):
        for world in self.worlds:
            yield world, world.subnet, sorted(world.subnet.canisters)

    @rule(index=st.integers(0, CANISTERS - 1), script=scripts, cycles=st.integers(0, 3))
    def send(self, index, script, cycles):
        for world, _, ids in self.each():
            request = submit_ingress(world.rules, ids[index], "run", cbor2.dumps(script), cycles=cycles * UNITS)
            if not isinstance(request, Reject):
                self.asked[request] = True

    @rule(index=st.integers(0, CANISTERS - 1), script=short_script)
    def look(self, index, script):
        for world, subnet, ids in self.each():
            canister = subnet.canisters[ids[index]]
            before = canister.cycles, canister.facts.version, encode_memory(canister)
            execute_query(world.rules, ids[index], "look", cbor2.dumps(script))
            assert (canister.cycles, canister.facts.version, encode_memory(canister)) == before

    @rule(rounds=st.integers(1, 3))
    def go(self, rounds):
        for world in self.worlds:
            for _ in range(rounds):
                round_(world.rules)

    @rule(seconds=st.integers(0, 400))
    def wait(self, seconds):
        for world in self.worlds:
            advance_time(world.rules, seconds * 10**9)

    @rule(index=st.integers(0, CANISTERS - 1), mode=st.sampled_from(["upgrade", "reinstall"]))
    def install(self, index, mode):
        for world, subnet, ids in self.each():
            canister = subnet.canisters[ids[index]]
            world.install(PROGRAM, [callback], canister=canister, mode=mode if canister.module else "install")

    @rule(index=st.integers(0, CANISTERS - 1))
    def uninstall(self, index):
        for world, subnet, ids in self.each():
            uninstall_code(world.rules, subnet.canisters[ids[index]])

    @rule(index=st.integers(0, CANISTERS - 1))
    def stop(self, index):
        for world, subnet, ids in self.each():
            request = drawn_id(subnet.next_request_number)
            subnet.next_request_number += 1
            self.asked[request] = True
            stop_canister(world.rules, subnet.canisters[ids[index]], FromUser(request), 0)

    @rule(index=st.integers(0, CANISTERS - 1))
    def start(self, index):
        for world, subnet, ids in self.each():
            start_canister(world.rules, subnet.canisters[ids[index]])

    @invariant()
    def no_cycle_is_made_or_lost(self):
        for world in self.worlds:
            assert world.balanced()
            assert all(canister.cycles >= 0 for canister in world.subnet.canisters.values())

    @invariant()
    def records_are_encoded_again_as_they_are(self):
        for canister_id, canister in self.worlds[0].subnet.canisters.items():
            record, self.written[canister_id] = encode_record_again(
                canister, self.written.get(canister_id, NOT_WRITTEN)
            )
            assert record == encode_record(canister)

    @invariant()
    def no_answer_comes_twice(self):
        for index, world in enumerate(self.worlds):
            for request, (_, response) in world.subnet.ingress.answers():
                assert isinstance(response, (Reply, Reject))
                assert self.answered.setdefault((index, request), response) == response

    def teardown(self):
        for world, subnet, _ in self.each():
            # Bounded waits expire, stop requests time out, everything else is answered.
            for _ in range(3):
                run_until_idle(world.rules)
                advance_time(world.rules, 400 * 10**9)
            run_until_idle(world.rules)
            assert self.asked.keys() <= dict(subnet.ingress.answers()).keys()
            for canister in subnet.canisters.values():
                assert not canister.contexts
                assert not canister.open_calls
                assert not canister.open_calls_to
                assert not canister.inputs
            assert not subnet.deadlines
        self.no_cycle_is_made_or_lost()
        first, second = (state_hash(world.subnet) for world in self.worlds)
        assert first == second


def encode_memory(canister):
    return bytes(canister.instance.stable.data) if canister.instance is not None else b""


def state_hash(subnet):
    digest = hashlib.sha256(encode_subnet(subnet))
    for canister_id in sorted(subnet.canisters):
        canister = subnet.canisters[canister_id]
        digest.update(encode_record(canister) + encode_memory(canister))
    return digest.hexdigest()


def test_conservation(fakes):
    Conservation.world_class = fakes.World
    Conservation.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
    test = Conservation.TestCase()
    test.runTest()


def test_a_trap_is_a_trap(world):
    """The scripts do what the machine relies on."""
    canister = world.install(PROGRAM, [callback])
    request = submit_ingress(world.rules, canister.canister_id, "run", cbor2.dumps([["write"], ["trap"]]))
    run_until_idle(world.rules)
    assert world.subnet.ingress.find(request, 0).error_code == "IC0503"
