"""A subnet that goes on by itself: rounds, its clock, requests that come in."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import wasmtime
from oracle import Oracle

from perdure import Subnet
from perdure.candid import encode, parse_types
from perdure.canister import Reply
from perdure.errors import UnsupportedError
from perdure.network import Network
from perdure.network.live import Live, Refused, Request
from perdure.subnet.outcalls import HttpResponse

MODULES = Path(__file__).parent.parent / "canisters" / "modules"
NOBODY = b"\4"


@pytest.fixture(scope="module")
def _counting():
    subnet = Subnet()
    return subnet, subnet.install(MODULES / "motoko_eop_v1.wasm.gz").id


@pytest.fixture
def counter(_counting):
    """A counter on a subnet of the test's own."""
    subnet = _counting[0].fork()
    yield subnet.canister(_counting[1])
    subnet.close()


@pytest.fixture
def live(counter):
    """It, running."""
    running = Live(counter._subnet)
    running.start()
    yield running
    running.stop()


def request(counter, method, arg=b"DIDL\0\0", request_id=b"one", **more):
    return Request(request_id, NOBODY, counter.id.raw_bytes, method, arg, counter.id.raw_bytes, **more)


def test_the_clock_follows_the_machines_within_the_message(live, counter):
    before = time.time_ns()
    assert isinstance(live.submit(request(counter, "inc")), Reply)
    assert before <= counter._subnet.time_ns <= time.time_ns() + 10
    assert live.submit(request(counter, "inc")) == live.submit(request(counter, "inc"))
    assert counter.query("count", b"DIDL\0\0")[-1] == 1


def test_a_virtual_clock_stands_still(counter):
    live = Live(counter._subnet, clock="virtual")
    live.start()
    before = counter._subnet.time_ns
    live.submit(request(counter, "inc"))
    live.stop()
    assert counter._subnet.time_ns - before < 100


def test_a_call_that_takes_rounds_is_answered_later(live, counter):
    answered = threading.Event()
    assert live.submit(request(counter, "incSelf")) is None
    live.when_answered(b"one", answered.set)
    assert answered.wait(120)
    assert counter._subnet.response(b"one") is not None


def test_who_does_not_wait_any_more_keeps_nobody_else_from_being_told(live, counter):
    told, answered = [], threading.Event()
    forget = live.when_answered(b"one", lambda: told.append("first"))
    live.subnet._state.ingress.callees[b"one"] = b""  # in progress
    others = [live.when_answered(b"one", tell) for tell in (lambda: told.append("second"), answered.set)]
    forget()
    forget()
    del live.subnet._state.ingress.callees[b"one"]
    live.rounds.wake()
    assert answered.wait(120)
    assert told == ["second"]
    assert not live._answered
    for forget in others:
        forget()


def test_who_is_not_let_in_is_told_so(live, counter):
    nobody = Request(b"one", NOBODY, b"\0" * 8 + b"\1\1\1", "inc", b"", b"")
    assert isinstance(live.submit(nobody), Refused)
    assert counter._subnet.request_status(b"one") == "unknown"


class TestOutcalls:
    URL = "https://api.example.com/price"

    @pytest.fixture
    def oracle(self):
        with Subnet() as subnet:
            yield subnet.install(Oracle)

    def ask(self, live, oracle, name=b"one"):
        return live.submit(request(oracle, "fetch", encode(parse_types("(text)"), [self.URL]), request_id=name))

    def answer(self, oracle, name=b"one"):
        until = time.monotonic() + 120
        while time.monotonic() < until:
            found = oracle._subnet._state.ingress.find(name, oracle._subnet._state.time_ns)
            if found is not None:
                return found
            time.sleep(0.01)
        raise AssertionError("no answer within two minutes")

    def test_others_go_on_while_a_server_thinks(self, oracle):
        asked, may_answer = threading.Event(), threading.Event()

        def think(outcall):
            asked.set()
            assert may_answer.wait(120)
            return HttpResponse(200, (), b"thought")

        oracle._subnet.outcalls.get(self.URL).respond_with(think)
        live = Live(oracle._subnet)
        live.start()
        try:
            assert self.ask(live, oracle) is None
            assert asked.wait(120)
            assert isinstance(live.query(oracle.id.raw_bytes, "seen", encode((), []), NOBODY), Reply)
            assert len(oracle._subnet.outcalls.pending) == 1
            may_answer.set()
            assert b"200 thought" in self.answer(oracle).data
        finally:
            may_answer.set()
            live.stop()

    def test_what_waits_when_it_stops_is_asked_for_again(self, oracle):
        asked, may_answer = threading.Event(), threading.Event()

        def think(outcall):
            asked.set()
            assert may_answer.wait(120)
            return HttpResponse(200, (), b"thought")

        oracle._subnet.outcalls.get(self.URL).respond_with(think).respond(body=b"again")
        live = Live(oracle._subnet)
        live.start()
        self.ask(live, oracle)
        assert asked.wait(120)
        live.stop()
        may_answer.set()
        assert len(oracle._subnet.outcalls.pending) == 1
        live = Live(oracle._subnet)
        live.start()
        try:
            assert b"200 again" in self.answer(oracle).data
        finally:
            live.stop()

    def test_nobody_answers(self, oracle):
        live = Live(oracle._subnet)
        live.start()
        try:
            self.ask(live, oracle)
            assert f"GET {self.URL} was not made" in self.answer(oracle).message
        finally:
            live.stop()


TIMER = """(module (import "ic0" "msg_reply" (func $reply)) (import "ic0" "time" (func $time (result i64)))
  (import "ic0" "global_timer_set" (func $set (param i64) (result i64)))
  (import "ic0" "msg_reply_data_append" (func $append (param i32 i32)))
  (memory 1) (global $n (mut i32) (i32.const 0))
  (func (export "canister_update arm")
    (drop (call $set (i64.add (call $time) (i64.const 1000000)))) (call $reply))
  (func (export "canister_global_timer") (global.set $n (i32.add (global.get $n) (i32.const 1))))
  (func (export "canister_query fired")
    (i32.store (i32.const 0) (global.get $n)) (call $append (i32.const 0) (i32.const 1)) (call $reply)))"""


@pytest.mark.parametrize("several", [False, True])
def test_within_a_block_timers_run_by_themselves(several: bool) -> None:
    network = Network(2) if several else None
    subnet = Subnet() if network is None else network.subnets[1]
    canister = subnet.install(bytes(wasmtime.wat2wasm(TIMER)))
    fired = threading.Event()
    with (network or subnet).auto_progress():
        canister.update("arm")
        until = time.monotonic() + 120
        while time.monotonic() < until and canister.query("fired") == b"\0":
            fired.wait(0.005)
        assert canister.query("fired") == b"\1"
        assert abs(subnet.time_ns - time.time_ns()) < 60 * 10**9
    stood = subnet.time_ns
    assert threading.Event().wait(0.02) is False
    assert subnet.time_ns == stood


def test_one_subnet_of_a_network_goes_on_with_the_others() -> None:
    with pytest.raises(UnsupportedError, match="goes on with the others"), Network(2).subnets[0].auto_progress():
        pass
