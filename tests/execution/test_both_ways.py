"""The same random scripts on Python canisters and on Wasm ones: the same answers, message by message.

The Python canister is the one that the conservation machine drives; here each script is also translated for the
universal canister. Balances differ by what instructions cost, answers and stable memory must not.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import Subnet
from perdure.canister import Reply
from perdure.execution import FromUser, round_, run_until_idle, start_canister, stop_canister, submit_ingress
from perdure.execution.ingress import drawn_id

HERE = Path(__file__).parent
UNITS = 1_000_000
CANISTERS = 3


def load(path):
    spec = importlib.util.spec_from_file_location(f"both_ways_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


scripted = load(HERE / "test_conservation.py")
universal = load(HERE.parent / "canisters" / "universal" / "universal.py")
P = universal.Program
BYTE = 64  # an address that no program lies at


def translate(script, ids):
    program = P()
    for step, *values in script:
        if step == "write":
            grown = P().if_(P().eq(P().stable64_size(), 0), P().stable64_grow(1).drop())
            old = P().stable64_read(BYTE, 0, 1).load8(BYTE)
            program.then(grown).store8(BYTE, P().add(old, 1)).stable64_write(0, P().span(BYTE, 1))
        elif step == "accept":
            program.cycles_accept(values[0] * UNITS).drop().drop()
        elif step == "burn":
            program.cycles_burn(values[0] * UNITS).drop().drop()
        elif step == "call":
            program.then(translate_call(ids, *values))
        elif step == "reply":
            program.if_(P().stable64_size(), P().append(P().stable_read_span(0, 1))).msg_reply()
        elif step == "reject":
            program.msg_reject("scripted")
        elif step == "timer":
            program.global_timer_set(P().add(P().time(), values[0])).drop()
        elif step == "trap":
            program.trap("scripted")
    return program


def translate_call(ids, callee, cycles, timeout, script, then, cleanup):
    callback = P().callback(translate(then, ids))
    program = P().call_new(ids[callee], "update", callback, callback)
    program.call_data_append(bytes(translate(script, ids)))
    if cycles:
        program.call_cycles_add128(0, cycles * UNITS)
    if timeout:
        program.call_with_best_effort_response(timeout)
    if cleanup:
        program.call_on_cleanup(P().callback(translate(cleanup, ids)))
    return program.call_perform().drop()


def wasm_world():
    facade = Subnet()
    wasm = (HERE.parent / "canisters" / "modules" / "universal32.wasm").read_bytes()
    hook = P().hook(universal.Hook.GLOBAL_TIMER, translate([["write"], ["burn", 1]], []))
    for _ in range(CANISTERS):
        facade.install(wasm, bytes(hook), cycles=2 * 10**16)
    return facade._world


def python_world(fakes):
    world = fakes.World()
    for _ in range(CANISTERS):
        world.install(scripted.PROGRAM, [scripted.callback], cycles=2 * 10**16)
    return world.rules


def balanced(subnet):
    return subnet.minted_cycles == subnet.total_cycles() + subnet.consumed_cycles + subnet.lost_cycles


actions = st.one_of(
    st.tuples(st.just("send"), st.integers(0, CANISTERS - 1), scripted.scripts),
    st.tuples(st.just("rounds"), st.integers(1, 3)),
    st.tuples(st.just("wait"), st.integers(1, 20)),
    st.tuples(st.just("stop"), st.integers(0, CANISTERS - 1)),
    st.tuples(st.just("start"), st.integers(0, CANISTERS - 1)),
)


def play(world, story, encode, method):
    """Answers by request number, and the first byte of each stable memory."""
    subnet = world.state
    ids = [
        *sorted(subnet.canisters),
        b"\x00\x00\x00\x00\x00\x00\x63\x63\x01\x01",
        b"\x00\x00\x00\x00\x00\x00\x64\x64\x01\x01",
    ]
    refused = []
    for action, *values in story:
        if action == "send":
            request = submit_ingress(world, ids[values[0]], method, encode(values[1], ids))
            refused.append(None if isinstance(request, bytes) else request.error_code)
        elif action == "rounds":
            for _ in range(values[0]):
                round_(world)
        elif action == "wait":
            subnet.time_ns += values[0] * 10**9
        elif action == "stop":
            subnet.next_request_number += 1
            origin = FromUser(drawn_id(subnet.next_request_number - 1))
            stop_canister(world, subnet.canisters[ids[values[0]]], origin, 0)
        else:
            start_canister(world, subnet.canisters[ids[values[0]]])
        assert balanced(subnet)
    run_until_idle(world)
    subnet.time_ns += 400 * 10**9
    run_until_idle(world)
    assert balanced(subnet)
    answers = {
        request: response.data if isinstance(response, Reply) else (response.code, response.error_code)
        for request, (_, response) in subnet.ingress.answers()
    }
    memories = [subnet.canisters[one].instance.memories["stable"] for one in ids[:CANISTERS]]
    return refused, answers, [memory.read(0, 1) if memory.size() else b"" for memory in memories]


@pytest.mark.slow
def test_answers_are_the_same(fakes):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(actions, max_size=8))
    def same(story):
        # The Python world's callees are numbered; one beyond the last exists nowhere, in either world.
        on_python = play(python_world(fakes), story, lambda script, ids: cbor2.dumps(script), "run")
        on_wasm = play(wasm_world(), story, lambda script, ids: bytes(translate(script, ids)), "update")
        assert on_python == on_wasm

    same()
