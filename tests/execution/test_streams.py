"""Streams between subnets: numbers, slices, what comes again, what is let go of; and what delivery puts into them."""

from __future__ import annotations

import pytest

from perdure.canister import CanisterStatus, Reject, Reply
from perdure.execution import streams
from perdure.execution.delivery import deliver
from perdure.execution.lifecycle import add_canister
from perdure.execution.messages import CallMessage, FromCanister, RefundMessage, ResponseMessage
from perdure.execution.state import Settings
from perdure.execution.streams import MAX_SLICE_BYTES, Slice, has_new, send, slice_for, take_in
from perdure.ic.principal import Principal

HERE, THERE = b"subnet", b"another"
CALLER, CALLEE = b"\0" * 8 + b"\1\1", b"\7" * 8 + b"\1\1"


def call_of(number, *, arg=b"", cycles=10, callee=CALLEE, deadline_ns=0):
    return CallMessage(FromCanister(CALLER, number, deadline_ns), CALLER, callee, "method", arg, cycles)


def with_callee(rules):
    """A subnet with a canister that takes calls in."""
    return add_canister(rules, Settings(controllers=(CALLER,)), 0, CALLEE)


def induct(world, subnet_id, found):
    return take_in(world, [(subnet_id, found)])


def acknowledge(world, subnet_id, inducted):
    take_in(world, [(subnet_id, Slice(0, (), inducted))])


def numbers(found):
    return [one.origin.call_id for one in found.messages]


@pytest.fixture
def state(world):
    return world.subnet


@pytest.fixture
def other(world):
    """A subnet on the other side."""
    made = type(world)()
    made.subnet.subnet_id = THERE
    with_callee(made.rules)
    return made.rules


def test_slices_begin_where_they_are_asked_for(state):
    send(state, [(THERE, call_of(number)) for number in range(5)])
    assert numbers(slice_for(state, THERE, 0)) == [0, 1, 2, 3, 4]
    assert numbers(slice_for(state, THERE, 3)) == [3, 4]
    assert slice_for(state, THERE, 5) == Slice(5, (), 0)
    assert slice_for(state, b"nobody", 0) == Slice(0, (), 0)


def test_slices_are_bounded_and_one_message_always_comes(state):
    half = MAX_SLICE_BYTES // 2
    sizes = [half - 300, half - 300, 1, MAX_SLICE_BYTES + 1, 1]
    send(state, [(THERE, call_of(number, arg=bytes(size))) for number, size in enumerate(sizes)])
    found = [numbers(slice_for(state, THERE, first)) for first in (0, 2, 3, 4)]
    assert found == [[0, 1], [2], [3], [4]]


def test_what_is_known_is_left_out_and_what_comes_too_early_not_taken(state, other):
    send(state, [(THERE, call_of(number)) for number in range(4)])
    first, last = slice_for(state, THERE, 0), slice_for(state, THERE, 2)
    assert not has_new(other.state, HERE, last)
    assert induct(other, HERE, last) == 0
    assert induct(other, HERE, first._replace(messages=first.messages[:3])) == 3
    assert has_new(other.state, HERE, last)
    assert induct(other, HERE, last) == 1
    assert (induct(other, HERE, first), induct(other, HERE, last)) == (0, 0)
    assert [one.origin.call_id for one in other.state.outbox] == [0, 1, 2, 3]
    assert (state.sent_cycles, other.state.received_cycles) == (40, 40)
    assert other.state.outbox[0] is not first.messages[0]


def test_what_was_taken_in_is_let_go_of_once(world, state):
    send(state, [(THERE, call_of(number)) for number in range(4)])
    for inducted, left in [(0, 4), (3, 1), (2, 1), (99, 0), (99, 0)]:
        acknowledge(world.rules, THERE, inducted)
        assert len(state.xnet_streams[THERE].messages) == left
    send(state, [(THERE, call_of(9))])
    assert slice_for(state, THERE, 0) == Slice(4, (call_of(9),), 0)
    acknowledge(world.rules, b"nobody", 7)
    assert list(state.xnet_streams) == [THERE]


def test_an_induction_that_is_undone_can_be_done_again(other, state, monkeypatch):
    send(state, [(THERE, call_of(1))])
    found = slice_for(state, THERE, 0)
    with monkeypatch.context() as patch:
        patch.setattr(type(other), "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            induct(other, HERE, found)
    other.recover()
    assert not other.state.outbox
    assert (other.state.xnet_streams, other.state.received_cycles) == ({}, 0)
    assert induct(other, HERE, found) == 1


def test_all_slices_are_one_transaction(world, state, other):
    with_callee(world.rules)
    send(state, [(THERE, call_of(1)), (b"third", call_of(2))])
    kept = []
    world.rules.host.keep = lambda *_: kept.append(1)
    slices = [(THERE, Slice(0, (call_of(8),), 1)), (b"third", Slice(0, (call_of(9),), 0)), (b"new", Slice(0, (), 0))]
    assert take_in(world.rules, slices) == 2
    assert [one.origin.call_id for one in state.outbox] == [8, 9]
    assert len(kept) == 1
    assert sorted(state.xnet_streams) == [THERE, b"third"]
    assert take_in(world.rules, slices) == 0
    assert len(kept) == 1


class TestLettingIn:
    """Requests that a subnet cannot take, and those whose time was up on the way."""

    def answer(self, other, message):
        assert induct(other, HERE, Slice(0, (message,), 0)) == 1
        (found,) = other.state.outbox
        return found

    def rejected(self, other, message, code, words):
        found = self.answer(other, message)
        assert found == ResponseMessage(CALLER, 1, Reject(code, words.format(Principal(message.callee))), 10)
        assert other.state.received_cycles == 10
        return True

    def test_a_canister_that_is_not_there(self, other):
        assert self.rejected(other, call_of(1, callee=b"gone"), 3, "Canister {} not found")

    def test_one_that_is_elsewhere_by_now(self, other):
        other.route = lambda _: b"a third one"
        assert self.rejected(other, call_of(1, callee=b"moved"), 2, "Canister migration in progress")

    @pytest.mark.parametrize(
        ("status", "words"),
        [(CanisterStatus.STOPPED, "Canister {} is stopped"), (CanisterStatus.STOPPING, "Canister {} is stopping")],
    )
    def test_one_that_takes_no_calls(self, other, status, words):
        other.state.canisters[CALLEE].facts.status = status
        assert self.rejected(other, call_of(1), 5, words)

    def test_the_management_canister_is_always_there(self, other):
        assert self.answer(other, call_of(1, callee=THERE)) == call_of(1, callee=THERE)

    def test_a_full_queue(self, other):
        capacity = other.config.queue_capacity
        waiting = other.state.canisters[CALLEE].inputs
        waiting += [call_of(number) for number in range(capacity - 1)]
        found = Slice(0, (call_of(1), call_of(2)), 0)
        assert induct(other, HERE, found) == 2
        request, response = other.state.outbox
        assert request == call_of(1)
        assert (response.response.code, response.refund) == (2, 10)
        assert response.response.message == f"Canister {Principal(CALLEE)} input queue is full"
        other.state.outbox.clear()
        somebody = CallMessage(FromCanister(b"other", 1, 0), b"other", CALLEE, "method", b"", 0)
        assert induct(other, HERE, Slice(2, (somebody,), 0)) == 1
        assert other.state.outbox == [somebody]

    def test_one_whose_time_is_up(self, other):
        now_ns = other.state.time_ns
        assert self.answer(other, call_of(1, deadline_ns=now_ns)) == RefundMessage(CALLER, 10)
        assert induct(other, HERE, Slice(1, (call_of(2, deadline_ns=now_ns, cycles=0),), 0)) == 1
        assert len(other.state.outbox) == 1, "nothing to give back"
        assert induct(other, HERE, Slice(2, (call_of(3, deadline_ns=now_ns + 1),), 0)) == 1
        assert other.state.outbox[1].origin.call_id == 3


class TestDelivery:
    @pytest.fixture
    def routed(self, world):
        world.rules.route = {CALLEE: THERE, CALLER: THERE, HERE: HERE}.get
        return world.rules

    def test_calls_and_responses_leave_in_order(self, routed, state):
        response = ResponseMessage(CALLER, 3, Reply(b"data"), 5)
        state.outbox += [call_of(1), response, call_of(2)]
        deliver(routed)
        assert state.xnet_streams[THERE].messages == (call_of(1), response, call_of(2))
        assert (state.sent_cycles, state.outbox) == (25, [])

    def test_what_is_too_large_comes_back(self, routed, state):
        state.outbox.append(call_of(1, arg=bytes(3 << 20)))
        deliver(routed)
        (message,) = state.outbox
        assert isinstance(message.response, Reject)
        assert (message.receiver, message.refund, state.xnet_streams) == (CALLER, 10, {})

    def test_a_response_that_nobody_can_have_is_lost(self, routed, state):
        state.outbox.append(ResponseMessage(b"gone", 3, Reply(b""), 5))
        deliver(routed)
        assert (state.lost_cycles, state.sent_cycles) == (5, 0)

    def test_what_is_undone_has_not_left(self, routed, state):
        state.outbox.append(call_of(1))
        routed.begin()
        deliver(routed)
        assert state.sent_cycles == 10
        routed.undo()
        assert (state.outbox, state.xnet_streams, state.sent_cycles) == ([call_of(1)], {}, 0)

    def test_refunds_come_home(self, routed, state):
        canister = with_callee(routed)
        state.outbox += [RefundMessage(CALLEE, 7), RefundMessage(CALLER, 5), RefundMessage(b"gone", 3)]
        deliver(routed)
        assert (canister.cycles, state.sent_cycles, state.lost_cycles) == (7, 5, 3)
        assert state.xnet_streams[THERE].messages == (RefundMessage(CALLER, 5),)

    @pytest.mark.parametrize(("count", "size_bytes"), [(3, 1 << 30), (1 << 30, 3 * 256)])
    def test_a_full_stream_takes_no_bounded_wait_calls(self, routed, state, monkeypatch, count, size_bytes):
        monkeypatch.setattr("perdure.execution.delivery.MAX_STREAM_MESSAGES", count)
        monkeypatch.setattr("perdure.execution.delivery.MAX_STREAM_BYTES", size_bytes)
        state.outbox += [call_of(number) for number in range(3)]
        deliver(routed)
        state.outbox += [call_of(7), call_of(8, deadline_ns=state.time_ns + 1)]
        deliver(routed)
        assert numbers(state.xnet_streams[THERE]) == [0, 1, 2, 7]
        (message,) = state.outbox
        assert (message.call_id, message.response.code, message.refund) == (8, 2, 10)
        assert "is full" in message.response.message


def test_sizes():
    assert streams.size_of(streams.NO_STREAM) == (0, 0)
    found = streams.XNetStream(0, (call_of(1, arg=b"123"), RefundMessage(CALLER, 5)))
    assert streams.size_of(found) == (2, 2 * 256 + len("method") + 3)
