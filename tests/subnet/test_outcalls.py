"""Answers to outcalls from where a person gives them: written down, a client, by hand; kept, replayed, undone."""

from __future__ import annotations

import json
import re

import httpx
import pytest
import respx
from oracle import Oracle

from perdure import RejectError, Subnet
from perdure.subnet.outcalls import HttpFailure, HttpResponse
from perdure.subnet.replay import replay

URL = "https://api.example.com/price"


@pytest.fixture
def subnet():
    with Subnet() as made:
        yield made


@pytest.fixture
def oracle(subnet):
    return subnet.install(Oracle)


def begin(subnet, oracle, url=URL):
    """Have a request wait, without anybody who waits for it."""
    from perdure.candid import encode
    from perdure.candid.types import Text
    from perdure.execution import submit_ingress

    request_id = submit_ingress(subnet._world, oracle.id.raw_bytes, "fetch", encode([Text], [url]))
    for _ in range(3):
        subnet.tick()
    return request_id


class TestWrittenDown:
    def test_respond(self, subnet, oracle):
        route = subnet.outcalls.get(URL).respond(json={"usd": 12.5})
        assert oracle.actor().fetch(URL) == '200 {"usd":12.5}'
        assert [(one.method, one.url, one.canister_id) for one in route.calls] == [("GET", URL, oracle.id)]
        assert subnet.outcalls.calls == tuple(route.calls)
        assert subnet.outcalls.pending == ()

    def test_in_turn_and_by_pattern(self, subnet, oracle):
        subnet.outcalls.get(re.compile(r"https://api\.example\.com/.*")).respond(text="any")
        subnet.outcalls.get(URL).respond(500, body=b"one").respond(text="two")
        answers = [oracle.actor().fetch(URL) for _ in range(3)]
        assert answers == ["500 one", "200 two", "200 two"]
        assert oracle.actor().fetch("https://api.example.com/other") == "200 any"

    def test_a_function(self, subnet, oracle):
        def answer(outcall):
            return HttpResponse(200, outcall.headers, outcall.body[::-1])

        subnet.outcalls.on(None, URL).respond_with(answer)
        assert oracle.actor().post(URL, "a", "b", b"abc") == "200 cba"
        subnet.outcalls.post(URL).respond_with(lambda outcall: "no response")
        with pytest.raises(TypeError, match="an HttpResponse or an HttpFailure is expected, found 'no response'"):
            oracle.actor().post(URL, "a", "b", b"abc")
        subnet.outcalls.post(URL).respond(text="again")
        subnet.run_until_idle()
        assert oracle.actor().seen() == "200 again"

    def test_a_function_that_calls_the_canister(self, subnet, oracle):
        def answer(outcall):
            return HttpResponse(200, (), str(oracle.actor().count()).encode())

        subnet.outcalls.get(URL).respond_with(answer)
        assert oracle.actor().fetch(URL) == "200 1"

    def test_fail(self, subnet, oracle):
        subnet.outcalls.get(URL).fail("no route to it")
        with pytest.raises(RejectError, match="no route to it"):
            oracle.actor().fetch(URL)

    @pytest.mark.parametrize(
        ("given", "error"),
        [
            ({"json": 1, "text": "1"}, ValueError),
            ({"status": 1_000}, ValueError),
            ({"status": "200"}, ValueError),
            ({"body": "text"}, TypeError),
            ({"headers": {"a": 1}}, TypeError),
            ({"headers": {"a": "\ud800"}}, ValueError),
            ({"headers": ["ab"]}, TypeError),
        ],
    )
    def test_wrong_responses(self, subnet, given, error):
        with pytest.raises(error):
            subnet.outcalls.get(URL).respond(**given)

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (HttpResponse(-1, (), b""), "a status from 100 to 999 is expected, found -1"),
            (HttpResponse(200, (("a", 1),), b""), "a header's value is a text, found 1"),
            (HttpResponse(200, None, b""), "headers are pairs of a name and a value, found None"),
            (HttpResponse(200, (("a",),), b""), r"a header is a name and a value, found \('a',\)"),
            (HttpResponse(200, (), "text"), "a body is bytes, found str"),
            (HttpFailure(2, None), "why there is no response is a text, found None"),
            (HttpFailure(2, "\ud800"), "why there is no response has half a character"),
            (HttpFailure(99, "x"), r"a reject's code is one of 1 \(.*, found 99"),
            ("text", "an HttpResponse or an HttpFailure is expected, found 'text'"),
        ],
    )
    def test_wrong_answers_stop_nothing(self, subnet, oracle, answer, words):
        """Neither by a function nor by hand; the subnet goes on."""
        subnet.outcalls.get(URL).respond_with(lambda request: answer)
        with pytest.raises((TypeError, ValueError), match=words):
            oracle.actor().fetch(URL)
        (one,) = subnet.outcalls.pending
        with pytest.raises((TypeError, ValueError), match=words):
            subnet.outcalls.answer(one, answer)
        assert subnet.outcalls.pending == (one,)
        subnet.outcalls.get(URL).respond(text="1")
        assert oracle.actor().fetch(URL) == "200 1"
        assert not subnet.outcalls.pending

    @pytest.mark.parametrize("error", [ValueError, SystemExit, GeneratorExit])
    def test_what_a_function_raises(self, subnet, oracle, error):
        """Is raised once, where somebody waits, and not in what is called next."""

        def broken(request):
            raise error("mine")

        subnet.outcalls.get(URL).respond_with(broken)
        with pytest.raises(error, match="mine"):
            oracle.actor().fetch(URL)
        with pytest.raises(RejectError, match=r"other\.example"):
            oracle.actor().fetch("https://other.example/")
        assert [one.url for one in subnet.outcalls.pending] == [URL]
        subnet.outcalls.get(URL).respond(text="mended")
        subnet.run_until_idle()
        assert oracle.actor().seen() == "200 mended"

    def test_what_a_function_raises_again(self, subnet, oracle):
        """After an anchor is gone back to, the same number is another request."""

        def broken(request):
            raise ValueError("mine")

        subnet.outcalls.get(URL).respond_with(broken)
        for _ in range(2):
            with pytest.raises(ValueError, match="mine"), subnet.anchor():
                oracle.actor().fetch(URL)


class TestNobodyAnswers:
    def test_the_url_is_named(self, subnet, oracle):
        with pytest.raises(RejectError, match=r"GET https://api\.example\.com/price was not made: nobody answers"):
            oracle.actor().fetch(URL)
        subnet.outcalls.get("https://other.example/").respond()
        with pytest.raises(RejectError, match=re.escape("get('https://api.example.com/price').respond(...)")):
            oracle.actor().fetch(URL)

    def test_a_fork_begins_with_nothing(self, subnet, oracle):
        subnet.outcalls.get(URL).respond(text="here")
        with pytest.raises(RejectError, match="nobody answers"):
            subnet.fork().canister(oracle.id).actor().fetch(URL)

    def test_an_anchor_goes_on_with_it(self, subnet, oracle):
        subnet.outcalls.get(URL).respond(text="here")
        with subnet.anchor():
            assert oracle.actor().fetch(URL) == "200 here"
        assert oracle.actor().seen() == "nothing"
        with subnet.fork() as fork, fork.anchor():
            fork.outcalls.get(URL).respond(text="within")
            assert fork.canister(oracle.id).actor().fetch(URL) == "200 within"


class TestByHand:
    def test_pending(self, subnet, oracle):
        subnet.outcalls.get("https://other.example/").respond()
        request_id = begin(subnet, oracle)
        (one,) = subnet.outcalls.pending
        assert (one.method, one.url, one.transform, one.is_replicated) == ("GET", URL, "body_only", True)
        assert subnet.request_status(request_id) == "processing"
        subnet.outcalls.respond(one, text="by hand")
        subnet.run_until_idle()
        assert oracle.actor().seen() == "200 by hand"
        with pytest.raises(KeyError, match="no outcall 0 waits"):
            subnet.outcalls.respond(one)

    def test_reject(self, subnet, oracle):
        subnet.outcalls.waits = True
        request_id = begin(subnet, oracle)
        subnet.run_until_idle()
        (one,) = subnet.outcalls.pending
        subnet.outcalls.reject(one, "busy")
        subnet.run_until_idle()
        with pytest.raises(RejectError, match="busy"):
            subnet.response(request_id)

    def test_as_thirteen_nodes_got_it(self, subnet, oracle):
        good, bad = HttpResponse(200, (), b"good"), HttpResponse(200, (), b"bad")
        begin(subnet, oracle)
        subnet.outcalls.answer(0, *[good] * 9, *[bad] * 4)
        subnet.run_until_idle()
        assert oracle.actor().seen() == "200 good"
        request_id = begin(subnet, oracle)
        with pytest.raises(ValueError, match="one answer is expected, or 13, one of each node, found 2"):
            subnet.outcalls.answer(1, good, bad)
        subnet.outcalls.answer(1, *[good] * 8, *[HttpFailure(2, "slow")] * 5)
        subnet.run_until_idle()
        with pytest.raises(RejectError, match="No consensus could be reached"):
            subnet.response(request_id)


class TestClients:
    def test_respx(self, subnet, oracle):
        with httpx.Client() as client, respx.mock(assert_all_called=True) as mock:
            subnet.outcalls.use(client)
            route = mock.get(URL).respond(200, json={"usd": 1}, headers={"x-date": "now"})
            assert json.loads(oracle.actor().fetch(URL).removeprefix("200 ")) == {"usd": 1}
            sent = route.calls[0].request.headers
            assert sent["user-agent"] == "ic/1.0"
            assert "accept-encoding" not in sent
            mock.get("https://down.example/").mock(side_effect=httpx.ConnectError("refused"))
            with pytest.raises(RejectError, match=r"GET https://down\.example/ failed: ConnectError: refused"):
                oracle.actor().fetch("https://down.example/")

    def test_pytest_httpserver(self, subnet, oracle, httpserver):
        httpserver.expect_request("/p", method="POST", data=b"abc", headers={"X-A": "b"}).respond_with_data("posted")
        httpserver.expect_request("/long").respond_with_data("x" * 200_000)
        with httpx.Client(trust_env=False) as client:
            subnet.outcalls.use(client)
            assert oracle.actor().post(httpserver.url_for("/p"), "X-A", "b", b"abc") == "200 posted"
            with pytest.raises(RejectError, match="Http body exceeds size limit of 100000 bytes"):
                oracle.actor().fetch(httpserver.url_for("/long"))

    def test_none(self, subnet):
        for one in (httpx.AsyncClient(), "client"):
            with pytest.raises(TypeError, match=r"an httpx\.Client is expected, found "):
                subnet.outcalls.use(one)

    def test_a_request_that_a_mock_does_not_know(self, subnet, oracle):
        subnet.outcalls.use(httpx.Client())
        with respx.mock(assert_all_called=False) as mock:
            with pytest.raises(AssertionError, match=r"other\.example"):
                oracle.actor().fetch("https://other.example/")
            mock.get(URL).respond(text="1")
            assert oracle.actor().fetch(URL) == "200 1"

    def test_a_wrong_url(self, subnet, oracle):
        with httpx.Client(trust_env=False) as client:
            subnet.outcalls.use(client)
            for url in ("nothing", "ftp://example.com/", "https://[::1", "http://a b/"):
                with pytest.raises(RejectError, match="failed: "):
                    oracle.actor().fetch(url)


class TestKept:
    def test_replay(self, tmp_path):
        path = tmp_path / "state"
        with Subnet(path, history=None) as subnet:
            oracle = subnet.install(Oracle)
            subnet.outcalls.get(URL).respond(text="one").respond(text="two", headers={"date": "now"}).fail("none")
            assert oracle.actor().fetch(URL) == "200 one"
            assert oracle.actor().fetch(URL) == "200 two"
            for url in (URL, "https://unknown.example/"):
                with pytest.raises(RejectError):
                    oracle.actor().fetch(url)
            begin(subnet, oracle)
            subnet.advance_time(61_000_000_000)
            subnet.run_until_idle()
            subnet.outcalls.consensus = False
            with pytest.raises(RejectError, match="none"):
                oracle.actor().fetch_raw(URL, "get")
        result = replay(path, code=[Oracle])
        assert result.difference is None
        assert result.end > 10

    def test_what_waits_waits_after_reopening(self, tmp_path):
        path = tmp_path / "state"
        with Subnet(path) as subnet:
            oracle_id = subnet.install(Oracle).id
            begin(subnet, subnet.canister(oracle_id))
            assert len(subnet.outcalls.pending) == 1
        with Subnet(path, code=Oracle) as subnet:
            (one,) = subnet.outcalls.pending
            assert one.url == URL
            # A canister in Python loses its callbacks with the process, so that its call is rejected for it.
            subnet.outcalls.respond(one, text="later")
            subnet.run_until_idle()
            assert subnet.outcalls.pending == ()
