"""The ingress history: what comes again is not executed again; answers are kept, within bounds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.canister import Reject, Reply
from perdure.execution import (
    CallMessage,
    FromUser,
    IngressHistory,
    SubnetConfig,
    advance_time,
    execute_ingress,
    request_status,
    round_,
    run_until_idle,
    submit_request,
)
from perdure.execution.ingress import check_request_id, drawn_id, is_drawn

SMALL = SubnetConfig(ingress_history_max_answers=600, ingress_history_max_requests=700)


def count(api, instance):
    """The canister counts how often it was called, in the first bytes of its stable memory."""
    if not instance.stable.size():
        instance.stable.grow(1)
    calls = int.from_bytes(instance.stable.read(0, 4), "little") + 1
    instance.stable.write(0, calls.to_bytes(4, "little"))
    return b"%d" % calls


@pytest.fixture
def counter(world, fakes):
    return world.install({"canister_update count": fakes.reply_with(count)})


def send(world, canister, request_id=b"", expiry_ns=None, method="count", arg=b""):
    message = CallMessage(FromUser(request_id), b"\x04", canister.canister_id, method, arg)
    return submit_request(world.rules, message, expiry_ns=expiry_ns)


class TestTheSameIdAgain:
    def test_is_answered_as_before(self, world, counter):
        ask = (world.rules, counter.canister_id, "count", b"")
        assert execute_ingress(*ask, request_id=b"once") == Reply(b"1")
        assert execute_ingress(*ask, request_id=b"once") == Reply(b"1")
        assert execute_ingress(*ask, request_id=b"another") == Reply(b"2")
        assert execute_ingress(*ask) == Reply(b"3")
        assert execute_ingress(*ask) == Reply(b"4")

    def test_while_it_waits(self, world, counter):
        assert send(world, counter, b"once") == send(world, counter, b"once") == b"once"
        round_(world.rules)
        assert send(world, counter, b"once") == b"once"
        run_until_idle(world.rules)
        assert [answer[1] for _, answer in world.subnet.ingress.answers()] == [Reply(b"1")]

    def test_rejected_stays_rejected(self, world, fakes):
        outcomes = [b"no", None]

        def once(api, instance):
            if outcomes.pop(0):
                api.msg_reject(b"no")
            else:
                api.msg_reply()

        canister = world.install({"canister_update f": once})
        first = execute_ingress(world.rules, canister.canister_id, "f", b"", request_id=b"once")
        assert first.error_code == "IC0406"
        assert execute_ingress(world.rules, canister.canister_id, "f", b"", request_id=b"once") == first
        assert outcomes == [None]

    def test_what_was_not_let_in_may_come_again(self, world, counter):
        counter.cycles, kept = 0, counter.cycles
        assert send(world, counter, b"once").error_code == "IC0207"
        counter.cycles = kept
        assert send(world, counter, b"once") == b"once"

    def test_what_was_cut_off_may_come_again(self, world, fakes):
        attempts = []

        def interrupted(api, instance):
            attempts.append(1)
            if len(attempts) == 1:
                raise KeyboardInterrupt
            api.msg_reply()

        canister = world.install({"canister_update f": interrupted})
        ask = (world.rules, canister.canister_id, "f", b"")
        with pytest.raises(KeyboardInterrupt):
            execute_ingress(*ask, request_id=b"once")
        assert request_status(world.rules, b"once") == "unknown"
        assert execute_ingress(*ask, request_id=b"once") == Reply(b"")


def test_status(world, fakes):
    callee = world.install({"canister_update answer": fakes.reply_with(b"answer")})

    def start(api, instance):
        fakes.call(api, callee.canister_id, "answer")

    caller = world.install({"canister_update start": start}, [fakes.on_reply, fakes.on_reject])
    states = [request_status(world.rules, b"once")]
    send(world, caller, b"once", method="start")
    while states[-1] != "replied":
        states.append(request_status(world.rules, b"once"))
        round_(world.rules)
        assert len(states) < 10
    assert list(dict.fromkeys(states)) == ["unknown", "received", "processing", "replied"]
    execute_ingress(world.rules, caller.canister_id, "nope", b"", request_id=b"nope")
    assert request_status(world.rules, b"nope") == "rejected"
    assert world.subnet.ingress.callees == {}


class TestExpiry:
    def test_too_old_and_too_far_ahead(self, world, counter):
        now_ns, config = world.subnet.time_ns, world.rules.config
        latest_ns = now_ns + config.ingress_ttl_ns + config.ingress_drift_ns
        for expiry_ns in (now_ns - 1, latest_ns + 1):
            refusal = send(world, counter, b"%d" % expiry_ns, expiry_ns)
            assert refusal.message.startswith("Invalid request expiry: ")
        assert send(world, counter, b"now", now_ns) == b"now"
        assert send(world, counter, b"latest", latest_ns) == b"latest"

    def test_an_answer_is_kept_for_longer_than_its_request_may_come_again(self, world, counter):
        expiry_ns = world.subnet.time_ns + world.rules.config.ingress_history_ns
        assert send(world, counter, b"once", expiry_ns) == b"once"
        run_until_idle(world.rules)
        advance_time(world.rules, expiry_ns - world.subnet.time_ns)
        assert send(world, counter, b"once", expiry_ns) == b"once"
        run_until_idle(world.rules)
        assert world.subnet.ingress.count == 1
        advance_time(world.rules, 10)
        assert request_status(world.rules, b"once") == "unknown"
        assert "Invalid request expiry: " in send(world, counter, b"once", expiry_ns).message


class TestBounds:
    def test_by_number(self):
        history = IngressHistory()
        for number in range(5_000):
            history.answer(drawn_id(number), Reply(b""), number, SMALL)
        kept = [request_id for request_id, _ in history.answers()]
        assert kept == [drawn_id(number) for number in range(5_000 - len(kept), 5_000)]
        assert 300 <= len(kept) <= 600 + 256
        assert not history.done

    def test_by_size(self):
        config = SubnetConfig(ingress_history_max_bytes=1 << 20)
        history = IngressHistory()
        for number in range(200):
            history.answer(drawn_id(number), Reply(bytes(100_000)), number, config)
            assert sum(len(answer[1].data) for _, answer in history.answers()) <= (1 << 20) + 300_000
        assert history.find(drawn_id(199), 0) == Reply(bytes(100_000))

    def test_by_time(self):
        history = IngressHistory()
        for number in range(1_000):
            history.answer(drawn_id(number), Reply(b""), number * SMALL.ingress_history_ns // 100, SMALL)
        assert len(list(history.answers())) <= 2 * 256 + 100

    def test_named_requests_are_known_for_longer_than_their_answers(self):
        history = IngressHistory()
        for number in range(650):
            assert history.has_room(SMALL)
            history.answer(b"named %d" % number, Reject(4, "no", "IC0406", ("frame",)), number, SMALL)
        history.answer(drawn_id(0), Reply(b""), 650, SMALL)
        for number in range(1_000):
            history.answer(drawn_id(number), Reply(b""), 700 + number, SMALL)
        assert history.find(b"named 0", 0) is None
        assert all(history.knows(b"named %d" % number, 2_000) for number in range(650))
        assert not history.knows(b"named 0", SMALL.ingress_history_ns)

    def test_when_no_more_can_be_remembered(self, world, counter):
        world.rules.config = SMALL
        for number in range(700):
            assert isinstance(send(world, counter, b"%d" % number), bytes)
        assert send(world, counter, b"700").error_code == "IC0204"
        assert send(world, counter, b"699") == b"699"
        run_until_idle(world.rules)
        assert send(world, counter, b"700") == b"700"

    def test_an_answer_that_is_gone_is_not_made_anew(self, world, counter):
        world.rules.config = SMALL
        ask = (world.rules, counter.canister_id, "count", b"")
        assert execute_ingress(*ask, request_id=b"once") == Reply(b"1")
        for _ in range(1_000):
            execute_ingress(*ask)
        assert request_status(world.rules, b"once") == "done"
        assert "not kept any more" in execute_ingress(*ask, request_id=b"once").message
        assert execute_ingress(*ask) == Reply(b"1002")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=12), st.integers(0, 12))
def test_forks_go_their_own_ways(steps, split):
    """A history that was forked, against one that never was."""

    def give(history, number, steps):
        for step, answers in steps:
            for _ in range(answers):
                history.answer(drawn_id(number), Reply(b"%d" % step), number, SMALL)
                number += 1
        return number

    whole, origin = IngressHistory(), IngressHistory()
    number = give(origin, 0, steps[:split])
    twin = origin.fork()
    give(twin, number, [(9, 300)])
    give(origin, number, steps[split:])
    give(whole, 0, steps)
    assert list(origin.answers()) == list(whole.answers())
    assert twin.count == number + 300
    assert list(twin.answers())[-1] == (drawn_id(number + 299), (number + 299 + SMALL.ingress_history_ns, Reply(b"9")))


def test_names():
    for wrong in (b"", bytes(65), drawn_id(7)):
        with pytest.raises(ValueError, match="request id"):
            check_request_id(wrong)
    for right in (b"x", bytes(32), bytes(64), b"\1" + bytes(8)):
        check_request_id(right)
        assert not is_drawn(right)


class Keeper:
    """Keeps answers as a state directory does: what it is told, by id, in the order in which it came."""

    def __init__(self, history):
        self.kept = {}
        self.seen = history.kept()

    def follow(self, history):
        changes = history.changes(self.seen)
        for request_id in changes.forgotten:
            self.kept.pop(request_id, None)
        for answer in changes.answers:
            self.kept.pop(answer.request_id, None)
            self.kept[answer.request_id] = answer
        self.seen = history.kept()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3), st.integers(0, 200)), max_size=12), st.integers(0, 12))
def test_what_is_kept_goes_on_as_if_it_had_never_stopped(steps, split):
    """A history that was written down and taken up again, against one that never was."""
    config = SubnetConfig(ingress_history_max_answers=300, ingress_history_max_bytes=1 << 16, ingress_ttl_ns=1_000)
    whole, time_ns, number = IngressHistory(), 0, 0
    keeper, again = Keeper(whole), None
    for index, (is_named, per_commit, step_ns) in enumerate(steps):
        if index == split:
            again = IngressHistory()
            again.take_up(keeper.kept.values(), config)
        for _ in range(100):
            time_ns += step_ns
            for _ in range(per_commit):
                number += 1
                request_id = b"named %d" % number if is_named else drawn_id(number)
                for history in filter(None, (whole, again)):
                    if is_named:
                        history.owners[request_id] = b"sender", b"canister"
                    history.answer(request_id, Reply(bytes(number % 500)), time_ns, config)
            keeper.follow(whole)
    if again is not None:
        assert list(again.answers()) == list(whole.answers())
        assert again.done == whole.done
        for request_id, _ in whole.answers():
            assert again.owner(request_id) == whole.owner(request_id)
            assert whole.owner(request_id) == (None if is_drawn(request_id) else (b"sender", b"canister"))
    assert {answer.request_id: answer[1:] for answer in keeper.kept.values() if answer.response is not None} == {
        request_id: (expiry_ns, keeper.kept[request_id].generation, response, whole.owner(request_id))
        for request_id, (expiry_ns, response) in whole.answers()
    }
    assert {answer.request_id for answer in keeper.kept.values() if answer.response is None} == whole.done.keys()
