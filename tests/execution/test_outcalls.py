"""HTTPS outcalls by the rules: what may be asked, what a canister hears of an answer, and whether nodes would agree."""

from __future__ import annotations

import pytest

from perdure.candid.types import MethodRef
from perdure.canister import Reject, Reply
from perdure.errors import MalformedError
from perdure.execution import run_until_idle, submit_ingress
from perdure.execution.inputs import decode_inputs, encode_inputs
from perdure.execution.management.interface import codecs, transform_codecs
from perdure.execution.outcalls import HttpFailure, HttpResponse, answer_outcall, answers_of, request_of_outcall
from perdure.execution.records import decode_subnet, encode_subnet
from perdure.ic.principal import Principal

CYCLES = 10_000_000_000_000
OK = HttpResponse(200, (("content-type", "text/plain"), ("Date", "now")), b"body")
CALM = HttpResponse(200, (("content-type", "text/plain"), ("server", "x")), b"body")


def body_only(api, instance, environment=0):
    (arg,) = transform_codecs()[0].decode(api.msg_arg_data())
    body = arg["response"]["body"] + arg["context"]
    api.msg_reply_data_append(transform_codecs()[1].encode([{"status": 200, "headers": [], "body": body}]))
    api.msg_reply()


def status(api, instance, environment=0):
    api.msg_reply_data_append(transform_codecs()[1].encode([{"status": 200, "headers": [], "body": b""}]))
    api.msg_reply()


def first_header(api, instance, environment=0):
    (arg,) = transform_codecs()[0].decode(api.msg_arg_data())
    response = arg["response"]
    api.msg_reply_data_append(transform_codecs()[1].encode([{**response, "headers": response["headers"][:1]}]))
    api.msg_reply()


def trap(api, instance, environment=0):
    raise api.trap(b"no such price")


def grow(api, instance, environment=0):
    instance.heap.grow(10)
    body_only(api, instance)


def long(api, instance, environment=0):
    api.msg_reply_data_append(bytes(5_000))
    api.msg_reply()


def nonsense(api, instance, environment=0):
    api.msg_reply_data_append(b"nonsense")
    api.msg_reply()


def refuse(api, instance, environment=0):
    api.msg_reject(b"not that one")


class Outcalls:
    """A canister that makes a request and tells what it hears: the refund, then the answer."""

    def __init__(self, world, fakes):
        self.world, self.rules, self.subnet = world, world.rules, world.subnet
        self.method = "http_request"

        def ask(api, instance):
            cycles, _, arg = api.msg_arg_data().partition(b" ")
            fakes.call(api, b"", self.method, arg, cycles=int(cycles))

        def back(api, instance, environment):
            api.msg_reply_data_append(b"%d " % api.msg_cycles_refunded() + api.msg_arg_data())
            api.msg_reply()

        def back_reject(api, instance, environment):
            api.msg_reject(b"%d %d " % (api.msg_cycles_refunded(), api.msg_reject_code()) + api.msg_reject_msg())

        transforms = {"body": body_only, "first": first_header, "trap": trap, "grow": grow, "long": long}
        transforms |= {"status": status, "nonsense": nonsense, "refuse": refuse}
        exports = {f"canister_query {name}": function for name, function in transforms.items()}
        self.canister = world.install({"canister_update ask": ask, **exports}, [back, back_reject])

    def transform(self, name, context=b"!"):
        return {"function": MethodRef(Principal(self.canister.canister_id), name), "context": context}

    def ask(self, cycles=CYCLES, **more):
        arg = {"url": "https://a.example/x", "max_response_bytes": 3_000, "method": {"get": None}, "headers": []}
        arg |= {"body": None, "transform": None, "is_replicated": None, "pricing_version": None, "replication": None}
        known = codecs()[self.method][0].types[0]
        arg = {name: value for name, value in (arg | more).items() if name in str(known)}
        data = b"%d " % cycles + codecs()[self.method][0].encode([arg])
        self.request_id = submit_ingress(self.rules, self.canister.canister_id, "ask", data)
        assert isinstance(self.request_id, bytes)
        self.rules.outcalls = lambda world, waits: False
        run_until_idle(self.rules)

    def heard(self):
        """The refund, and the answer's value or the reject's code and message."""
        run_until_idle(self.rules)
        assert self.world.balanced()
        response = self.subnet.ingress.find(self.request_id, self.subnet.time_ns)
        if response is None:
            return None
        if isinstance(response, Reject):
            refund, code, message = response.message.split(" ", 2)
            return int(refund), (int(code), message)
        refund, _, data = response.data.partition(b" ")
        return int(refund), codecs()[self.method][1].decode(data)[0]

    def answer(self, *answers, **options):
        (number,) = self.subnet.outcalls
        answer_outcall(self.rules, number, answers, **options)
        return self.heard()


@pytest.fixture
def outcalls(world, fakes):
    return Outcalls(world, fakes)


class TestAnswers:
    def test_waits_until_it_is_answered(self, outcalls):
        outcalls.ask(headers=[{"name": "a", "value": "b"}], body=b"12")
        assert outcalls.heard() is None
        ((number, outcall),) = outcalls.subnet.outcalls.items()
        assert request_of_outcall(outcall)["url"] == "https://a.example/x"
        price = outcalls.rules.costs.http_request(len("https://a.example/x") + 4, 3_000)
        assert outcalls.subnet.outcalls[number].cycles == CYCLES - price
        refund, value = outcalls.answer(CALM)
        assert refund == CYCLES - price
        assert value == {
            "status": 200,
            "headers": [{"name": "content-type", "value": "text/plain"}, {"name": "server", "value": "x"}],
            "body": b"body",
        }
        assert not outcalls.subnet.outcalls

    def test_transform(self, outcalls):
        outcalls.ask(transform=outcalls.transform("body", b"?"))
        assert outcalls.answer(OK)[1] == {"status": 200, "headers": [], "body": b"body?"}

    def test_a_failure_is_the_reject(self, outcalls):
        outcalls.ask()
        assert outcalls.answer(HttpFailure(1, "no route"))[1] == (1, "no route")

    def test_expires_after_a_minute(self, outcalls):
        outcalls.ask()
        outcalls.subnet.time_ns += 60_000_000_000
        from perdure.execution import round_

        round_(outcalls.rules)
        assert outcalls.heard()[1] == (2, "Canister http request timed out")
        assert not outcalls.subnet.outcalls

    def test_where_nobody_answers_it_is_rejected_by_name(self, outcalls):
        outcalls.ask()
        outcalls.rules.outcalls = None
        code, message = outcalls.heard()[1]
        assert (code, message[:32]) == (2, "GET https://a.example/x was not ")

    @pytest.mark.parametrize(
        ("transform", "expected"),
        [
            ("trap", (5, "no such price")),
            ("none", (5, "Canister has no query method 'none'")),
            ("ask", (5, "Canister has no query method 'ask'")),
            ("long", (1, "Transformed http response exceeds limit: 3000")),
            ("refuse", (4, "not that one")),
        ],
    )
    def test_transforms_that_fail(self, outcalls, transform, expected):
        outcalls.ask(transform=outcalls.transform(transform))
        code, message = outcalls.answer(OK)[1]
        assert code == expected[0]
        assert expected[1] in message

    def test_what_a_transform_does_does_not_stay(self, outcalls):
        outcalls.ask(transform=outcalls.transform("grow"))
        before = outcalls.canister.instance.heap.size()
        assert outcalls.answer(OK)[1]["body"] == b"body!"
        assert outcalls.canister.instance.heap.size() == before

    def test_a_transform_of_a_canister_that_has_stopped_or_gone(self, outcalls):
        outcalls.ask(transform=outcalls.transform("body"))
        outcalls.canister.module = None
        (number,) = outcalls.subnet.outcalls
        answer_outcall(outcalls.rules, number, [OK])
        assert not outcalls.subnet.outcalls

    @pytest.mark.parametrize(
        ("response", "words"),
        [
            (HttpResponse(200, (), bytes(3_001)), "Http body exceeds size limit of 3000 bytes."),
            (HttpResponse(200, (("a", "b" * 10),), bytes(2_990)), "Http body exceeds size limit of 3000 bytes."),
            (HttpResponse(200, (("a", "b" * 3_000),), b""), "Header size exceeds specified response size limit 3000"),
            (HttpResponse(200, (("a", "b"),) * 65, b""), "number of all http headers 65 exceeds 64"),
        ],
    )
    def test_too_large(self, outcalls, response, words):
        outcalls.ask()
        assert outcalls.answer(response)[1] == (1, words)

    def test_two_megabytes_and_one(self, outcalls):
        for size, is_fine in ((2_000_000, True), (2_000_001, False)):
            outcalls.ask(max_response_bytes=None)
            heard = outcalls.answer(HttpResponse(200, (), bytes(size)))[1]
            assert (heard["body"] == bytes(size)) if is_fine else "2000000 bytes" in heard[1]

    @pytest.mark.parametrize(
        ("response", "words"),
        [
            (HttpResponse(200, (("date", "now"),), bytes(2_993)), None),
            (HttpResponse(200, (("date", "now"),), bytes(2_994)), "Http body exceeds size limit of 3000 bytes."),
            (HttpResponse(200, tuple((f"a{n}", "b") for n in range(64)), b""), None),
            (HttpResponse(200, tuple((f"a{n}", "b") for n in range(65)), b""), "headers 65 exceeds 64"),
        ],
        ids=["all bytes", "one more", "all headers", "one more header"],
    )
    def test_what_is_imagined_is_not_measured(self, outcalls, response, words):
        """Limits are met by what a server has sent, not by headers that another node is imagined to have got."""
        outcalls.ask(transform=outcalls.transform("status"))
        heard = outcalls.answer(response)[1]
        assert heard["status"] == 200 if words is None else words in heard[1]


class TestConsensus:
    NONE = "No consensus could be reached. Replicas had different responses."

    def test_a_header_that_differs(self, outcalls):
        outcalls.ask()
        code, message = outcalls.answer(OK)[1]
        assert (code, message[: len(self.NONE)]) == (2, self.NONE)
        assert "request_id: 0" in message
        outcalls.ask()
        assert outcalls.answer(OK, vary=False)[1]["body"] == b"body"
        outcalls.ask(is_replicated=False)
        assert outcalls.answer(OK)[1]["body"] == b"body"

    def test_a_transform_that_keeps_what_differs(self, outcalls):
        outcalls.ask(transform=outcalls.transform("first"))
        assert outcalls.answer(CALM)[1][1].startswith(self.NONE)

    def test_thirteen_answers(self, outcalls):
        other = CALM._replace(body=b"other")
        outcalls.ask()
        assert outcalls.answer(*[CALM] * 9, *[other] * 4)[1]["body"] == b"body"
        outcalls.ask()
        assert outcalls.answer(*[CALM] * 8, *[other] * 5)[1][1].startswith(self.NONE)
        outcalls.ask()
        assert outcalls.answer(*[CALM] * 4, *[HttpFailure(2, "slow")] * 9)[1] == (2, "slow")


class TestFlexible:
    @pytest.fixture
    def flexible(self, outcalls):
        outcalls.method = "flexible_http_request"
        return outcalls

    def test_responses_as_nodes_got_them(self, flexible):
        flexible.ask(transform=flexible.transform("body"))
        value = flexible.answer(OK)[1]
        assert value == {"ok": [{"status": 200, "headers": [], "body": b"body!"}] * 13}
        flexible.ask(replication={"min_responses": 1, "max_responses": 3, "total_requests": 4})
        found = flexible.answer(OK)[1]["ok"]
        assert len(found) == 3
        assert found[0] != found[1]  # of a header that differs

    def test_too_many_rejects(self, flexible):
        flexible.ask()
        (error,) = flexible.answer(*[CALM] * 8, *[HttpFailure(2, "slow")] * 5)[1].values()
        assert error["global_error"] == {"too_many_rejects": None}
        assert [one["error"]["message"] for one in error["node_details"]] == ["slow"] * 5
        flexible.ask(transform=flexible.transform("nonsense"))
        (error,) = flexible.answer(CALM)[1].values()
        assert error["node_details"][0]["error"]["code"] == "INVALID_TRANSFORM"

    def test_too_large(self, flexible):
        flexible.ask(max_response_bytes=None)
        (error,) = flexible.answer(HttpResponse(200, (), bytes(300_000)))[1].values()
        assert error["global_error"] == {"responses_too_large": None}
        flexible.ask(max_response_bytes=None, replication={"min_responses": 1, "max_responses": 9, "total_requests": 9})
        assert len(flexible.answer(HttpResponse(200, (), bytes(300_000)))[1]["ok"]) == 6

    @pytest.mark.parametrize(
        ("counts", "words"),
        [
            ((0, 0, 0), "total_requests (0) must be at least 1"),
            ((0, 0, 14), "total_requests (14) must not exceed the number of available nodes (13)"),
            ((3, 2, 4), "min_responses (3) must not exceed max_responses (2)"),
            ((1, 5, 4), "max_responses (5) must not exceed total_requests (4)"),
        ],
    )
    def test_wrong_counts(self, flexible, counts, words):
        names = ("min_responses", "max_responses", "total_requests")
        flexible.ask(replication=dict(zip(names, counts, strict=True)))
        assert words in flexible.heard()[1][1]

    def test_changing_methods_want_all(self, flexible):
        flexible.ask(method={"delete": None})
        assert "min_responses = max_responses = total_requests" in flexible.heard()[1][1]
        flexible.ask(
            method={"delete": None}, replication=dict.fromkeys(["min_responses", "max_responses", "total_requests"], 1)
        )
        assert flexible.answer(CALM)[1]["ok"][0]["body"] == b"body"


class TestRequests:
    def header(self, name="a", value="b"):
        return {"name": name, "value": value}

    @pytest.mark.parametrize(
        ("more", "words"),
        [
            ({"url": "https://a/" + "x" * 8_183}, "url size 8193 exceeds 8192"),
            ({"headers": [{"name": "a", "value": "b"}] * 65}, "number of all http headers 65 exceeds 64"),
            ({"headers": [{"name": "a" * 8_193, "value": "b"}]}, "some http header name 8193 exceeds 8192"),
            ({"headers": [{"name": "a", "value": "b" * 8_193}]}, "some http header value 8193 exceeds 8192"),
            ({"headers": [{"name": "a", "value": "b" * 8_000}] * 7}, "names and values 56007 exceeds 49152"),
            ({"body": bytes(2_000_001)}, "and http body 2000001 exceeds 2000000"),
            ({"max_response_bytes": 2_000_001}, "expected to be in the range [0..2000000], got 2000001"),
            ({"method": {"put": None}}, "The requested HTTP method is only allowed for non-replicated requests."),
            ({"method": {"patch": None}, "is_replicated": True}, "only allowed for non-replicated requests."),
        ],
    )
    def test_refused(self, outcalls, more, words):
        outcalls.ask(**more)
        refund, (code, message) = outcalls.heard()
        assert words in message
        assert (refund, code) == (CYCLES, 4)

    def test_too_few_cycles(self, outcalls):
        price = outcalls.rules.costs.http_request(len("https://a.example/x"), 3_000)
        outcalls.ask(cycles=price - 1)
        words = f"http_request request sent with {price - 1} cycles, but {price} cycles are required."
        assert words in outcalls.heard()[1][1]
        outcalls.ask(cycles=price)
        assert outcalls.answer(CALM)[0] == 0

    def test_the_transform_is_the_callers(self, outcalls, world):
        other = world.install({"canister_query body": body_only})
        outcalls.ask(transform={"function": MethodRef(Principal(other.canister_id), "body"), "context": b""})
        words = f"transform principal id expected to be {Principal(outcalls.canister.canister_id)}, got "
        assert words in outcalls.heard()[1][1]

    def test_in_flight(self, outcalls, monkeypatch):
        from perdure.execution.management import outcalls as asking

        monkeypatch.setattr(asking, "MAX_IN_FLIGHT", 1)
        outcalls.ask()
        first = outcalls.request_id
        outcalls.ask()
        assert "max number (1) of http requests in-flight reached." in outcalls.heard()[1][1]
        outcalls.request_id = first
        assert outcalls.answer(CALM)[1]["status"] == 200


class TestKept:
    def test_records_have_what_waits(self, outcalls):
        outcalls.ask()
        again = decode_subnet(encode_subnet(outcalls.subnet))
        assert again.outcalls == outcalls.subnet.outcalls
        assert again.next_outcall_id == 1
        outcalls.answer(CALM)
        assert decode_subnet(encode_subnet(outcalls.subnet)).outcalls == {}

    def test_undone_it_waits_again(self, outcalls):
        outcalls.ask()
        before = dict(outcalls.subnet.outcalls)
        rules = outcalls.rules
        keep, rules.host.keep = rules.host.keep, None
        with pytest.raises(TypeError):
            outcalls.answer(CALM)
        rules.host.keep = keep
        rules.recover()
        assert outcalls.subnet.outcalls == before
        assert outcalls.answer(CALM)[1]["status"] == 200

    def test_answers_are_inputs(self, outcalls):
        outcalls.ask()
        outcalls.subnet.inputs = []
        outcalls.answer(CALM, HttpFailure(2, "slow"), vary=False)
        (one,) = [one for one in decode_inputs(encode_inputs(outcalls.subnet.inputs)) if one.kind == "outcall"]
        number, answers, vary, asked = one.fields
        assert (number, answers_of(answers), vary) == (0, [CALM, HttpFailure(2, "slow")], False)
        assert asked == "GET https://a.example/x"

    @pytest.mark.parametrize("wrong", [[1], [[1, 2, 3]], [[200, [["a"]], b""]], [[99, "x"]], [[2, b"x"]], ["abc"]])
    def test_malformed_inputs(self, wrong):
        with pytest.raises(MalformedError, match="answers to an outcall"):
            answers_of(wrong)


def test_replies_are_bytes_that_codecs_read(outcalls):
    outcalls.ask()
    (number,) = outcalls.subnet.outcalls
    answer_outcall(outcalls.rules, number, [CALM])
    message = outcalls.subnet.outbox[-1]
    assert isinstance(message.response, Reply)
    assert codecs()["http_request"][1].decode(message.response.data)[0]["body"] == b"body"
