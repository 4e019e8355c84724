"""The gateway in front of canisters that answer as they are told, some of them badly."""

from __future__ import annotations

import base64
import threading
from hashlib import sha256
from typing import Any

import cbor2
import pytest

from perdure import Principal, Subnet
from perdure.candid import MethodRef, encode, parse_types
from perdure.certification import tree
from perdure.certification.hash_tree import encode_node
from perdure.gateway.budget import Budget
from perdure.gateway.domains import Domains
from perdure.gateway.hosts import Hosts
from perdure.gateway.http import Pending, Request
from perdure.gateway.site import Site
from perdure.kit import call, canister, ic, query, update
from perdure.network.live import Live

REPLY = """record { status_code : nat16; headers : vec record { text; text }; body : blob; upgrade : opt bool;
streaming_strategy : opt variant { Callback : record { callback : func (TOKEN) -> () query; token : TOKEN } } }"""
TOKEN = "record { key : text; index : nat; sha256 : opt blob }"
NUMBER = "nat64"
DOMAINS = b"Shop.localhost\nshop.example.org\r\n\xff localhost\n"
LISTED = {b"/.well-known/ic-domains": sha256(DOMAINS).digest()}
ASSETS = {
    b"http_assets": {**LISTED, b"/page": sha256(b"a page").digest(), b"/index.html": sha256(b"the index").digest()}
}


def reply(status=200, headers=(), body=b"", upgrade=None, strategy=None, token=TOKEN):
    (type_,) = parse_types(f"({REPLY.replace('TOKEN', token)})")
    value = {"status_code": status, "headers": list(headers), "body": body, "upgrade": upgrade}
    return encode([type_], [{**value, "streaming_strategy": strategy}])


def next_part(body, token, type_=TOKEN):
    (record,) = parse_types(f"(record {{ body : blob; token : opt {type_} }})")
    return encode([record], [{"body": body, "token": token}])


def stream(callback, token):
    return {"Callback": {"callback": MethodRef(Principal(ic.id.raw_bytes), callback), "token": token}}


def token_of(data):
    from perdure.candid import decode

    return decode(data, parse_types(f"({TOKEN})"))[0]


REQUEST = """record { method : text; url : text; headers : vec record { text; text }; body : blob;
certificate_version : opt nat16 }"""


@canister(name="tests:Pages")
class Pages:
    """What it answers depends on the path."""

    @update
    def begin(self) -> None:
        ic.certify(tree(ASSETS).digest)

    @query(raw=True)
    def http_request(self, data: bytes) -> bytes:
        from perdure.candid import decode

        (asked,) = decode(data, parse_types(f"({REQUEST})"))
        assert asked["certificate_version"] == 2
        return ANSWERS[asked["url"].partition("?")[0]](asked)

    @update(raw=True)
    async def http_request_update(self, data: bytes) -> bytes:
        from perdure.candid import decode

        (asked,) = decode(data, parse_types(f"({REQUEST})"))
        if asked["url"] == "/update/far":
            await call(ic.id, "answer", signature="() -> ()")
        return reply(201, body=asked["method"].encode() + b" " + asked["body"], upgrade=True)

    @update
    def answer(self) -> None:
        return None

    @query(raw=True)
    def more(self, data: bytes) -> bytes:
        token = token_of(data)
        last = token["index"] == 3
        return next_part(b"part %d;" % token["index"], None if last else {**token, "index": token["index"] + 1})

    @query(raw=True)
    def forever(self, data: bytes) -> bytes:
        return next_part(b"", token_of(data))

    @query(raw=True)
    def large(self, data: bytes) -> bytes:
        return next_part(bytes(1 << 20), token_of(data))


def shown(path=b"http_assets"):
    certificate = base64.b64encode(ic.certificate).decode()
    witness = base64.b64encode(cbor2.dumps(encode_node(tree(ASSETS)))).decode()
    return ("IC-Certificate", f"certificate=:{certificate}:, tree=:{witness}:")


ONE = {"key": "k", "index": 1, "sha256": b"\1"}
ANSWERS: dict[str, Any] = {
    "/page": lambda _: reply(200, [shown(), ("Content-Type", "text/html")], b"a page"),
    "/.well-known/ic-domains": lambda _: reply(200, [shown()], DOMAINS),
    "/deep/link": lambda _: reply(200, [shown()], b"the index"),
    "/tampered": lambda _: reply(200, [shown()], b"another"),
    "/bare": lambda asked: reply(200, [("X-Asked", asked["url"]), ("Connection", "close")], b"bare"),
    "/streamed": lambda _: reply(200, [], b"first;", strategy=stream("more", ONE)),
    "/forever": lambda _: reply(200, [], b"", strategy=stream("forever", ONE)),
    "/large": lambda _: reply(200, [], b"", strategy=stream("large", ONE)),
    "/nobody": lambda _: reply(200, [], b"", strategy=stream("nothing", ONE)),
    "/update/near": lambda _: reply(200, upgrade=True),
    "/update/far": lambda _: reply(200, upgrade=True),
    "/split": lambda _: reply(200, [("x-a", "1\r\nset-cookie: a=b")]),
    "/name": lambda _: reply(200, [("x a:", "1")]),
    "/unicode": lambda _: reply(200, [("x-a", "ä")]),
    "/many": lambda _: reply(200, [("x-a", "a" * 70_000)] * 4),
    "/status": lambda _: reply(99),
    "/status/65535": lambda _: reply(65_535),
    "/garbage": lambda _: b"DIDL\0\1\x7d\1",
    "/trap": lambda _: 1 // 0,
    "/whole": lambda asked: ranges(asked, 3),
    "/gap": lambda asked: ranges(asked, 4),
    "/lie": lambda _: reply(206, [("content-range", "bytes 0-5/9")], b"abc"),
}


def ranges(asked, step):
    start = int(dict(asked["headers"]).get("range", "bytes=0-")[6:-1]) if step == 3 else 0
    return reply(206, [("Content-Range", f"bytes {start}-{start + 2}/9")], b"abcdefghi"[start : start + 3])


@pytest.fixture(scope="module")
def pages():
    """A gateway, and its canister."""
    with Subnet() as subnet:
        made = subnet.install(Pages)
        made.actor().begin()
        live = Live(subnet)
        live.start()
        yield Site(live.rounds, Hosts(["example.org"]), Budget(1 << 30)), made
        live.stop()


def get(pages, path, host="ID.raw.localhost", method="GET", body=b"", **headers):
    site, made = pages
    lower = {"host": host.replace("ID", str(made.id)), **headers}
    found = site.begin(Request(method, path.replace("ID", str(made.id)), lower, body))
    if isinstance(found, Pending):
        import threading

        answered = threading.Event()
        found.when_answered(answered.set)
        assert answered.wait(120)
        found = found.answer()
    return found


def test_verified_pages(pages):
    page = get(pages, "/page", "ID.localhost:8000")
    assert (page.status, page.body, page.content_type) == (200, b"a page", "text/html")
    assert ("x-perdure-verification", "version 1") in page.headers
    assert get(pages, "/deep/link", "ID.localhost").body == b"the index"
    assert get(pages, "/page?a=b", "ID.example.org").body == b"a page"


def test_pages_that_are_not_certified(pages):
    for path, why in (("/tampered", b"the body has the SHA-256"), ("/bare", b"there is no header IC-Certificate")):
        page = get(pages, path, "ID.localhost")
        assert page.status == 503
        assert why in page.body
        assert b"Without verification it is at" in page.body
        assert get(pages, path).status == 200


def test_whom_a_request_is_for(pages):
    assert get(pages, "/page?canisterId=ID", "127.0.0.1").body == b"a page"
    named = f"http://127.0.0.1:8000/x?canisterId={pages[1].id}"
    assert get(pages, "/page", "127.0.0.1:8000", referer=named).body == b"a page"
    assert get(pages, "/page", "127.0.0.1:8001", referer=named).status == 404
    assert get(pages, "/page", "localhost").status == 404
    assert b"ask for CANISTER_ID.localhost" in get(pages, "/page", "localhost").body
    for host in ("aaaaa.localhost", "a.ID.localhost", "ID.other.localhost", "rwlgt-iiaaa-aaaaa-aaaaa-cai.localhost"):
        assert get(pages, "/page", host).status == 404
    told = get(pages, "/?id=ID", "a4gq6-oaaaa-aaaab-qaa4q-cai.localhost")  # where icp leads on networks it connects to
    assert told.status == 404
    assert b"it is the mainnet's Candid UI" in told.body
    for path in ("//[", "/page?canisterId=%ff", "/page?canisterId=" + "a" * 5000):
        assert get(pages, path, "localhost").status == 404


def test_names_of_their_own(pages, monkeypatch):
    monkeypatch.setattr("perdure.gateway.domains._AGAIN_SECONDS", 3600)
    site, made = pages
    (live,) = site._rounds.lives
    assert get(pages, "/page", "shop.localhost:8000").body == b"a page"
    assert get(pages, "/page", "SHOP.example.org").body == b"a page"
    for host in ("localhost", "other.localhost", "example.org", "raw.shop.localhost"):
        assert get(pages, "/page", host).status == 404
    # Where it is not certified, or goes, there are no names.
    asked = []
    domains = Domains(live.rounds, lambda canister_id: asked.append(canister_id) or b"")
    assert domains.canister_of("shop.localhost") is None
    assert domains.canister_of("shop.localhost") is None
    assert asked == [made.id.raw_bytes], "not again for some seconds"


@pytest.fixture
def three(pages):
    """The subnet, and the ids of three canisters that have pages, ascending."""
    (live,) = pages[0]._rounds.lives
    others = [live.subnet.install(Pages) for _ in range(2)]
    yield live.rounds, sorted(one.id.raw_bytes for one in [pages[1], *others])
    for one in others:
        one.stop()
        one.delete()


def test_of_several_that_list_a_name_the_first_has_it(three):
    rounds, ids = three
    domains = Domains(rounds, lambda _: b"x.localhost")
    while len(domains._names) < 3:
        assert domains.canister_of("x.localhost") in ids
    assert domains.canister_of("x.localhost") == ids[0]


def test_nobody_waits_for_who_is_slow(three, monkeypatch):
    """One that answers for a long time keeps others from no name, and itself from nothing but its own."""
    rounds, ids = three
    monkeypatch.setattr("perdure.gateway.domains._WAIT_SECONDS", 0.05)
    monkeypatch.setattr("perdure.gateway.domains._AGAIN_SECONDS", 0)
    answers, asked = threading.Event(), []

    def ask(key):
        asked.append(key)
        if key == ids[0]:
            answers.wait(120)
            return b"slow.localhost"
        return b"x.localhost"

    domains = Domains(rounds, ask)
    while domains.canister_of("x.localhost") != ids[1]:
        pass
    assert domains.canister_of("nobody.localhost") is None
    monkeypatch.setattr("perdure.gateway.domains._WAIT_SECONDS", 3600)
    assert domains.canister_of("nobody.localhost") is None
    assert domains.canister_of("slow.localhost") is None
    assert domains.canister_of("x.localhost") == ids[1]
    assert asked.count(ids[0]) == 1, "not asked twice at a time"
    answers.set()
    while domains.canister_of("slow.localhost") != ids[0]:
        pass


def test_who_fails_has_no_names(three):
    def fail(_):
        raise OSError("no")

    assert Domains(three[0], fail).canister_of("x.localhost") is None


def test_who_is_gone_has_no_names(three, monkeypatch):
    rounds, ids = three
    monkeypatch.setattr("perdure.gateway.domains._AGAIN_SECONDS", 0)
    domains = Domains(rounds, lambda key: f"x{ids.index(key)}.localhost".encode())
    assert domains.canister_of("x2.localhost") == ids[2]
    canisters = dict(rounds.lives[0].subnet._state.canisters)
    monkeypatch.setattr(rounds.lives[0].subnet._state, "canisters", {key: canisters[key] for key in ids[:2]})
    assert domains.canister_of("x2.localhost") is None
    assert domains.canister_of("x1.localhost") == ids[1]


def test_headers(pages):
    page = get(pages, "/bare")
    assert dict(page.headers) == {"x-asked": "/bare", "x-perdure-verification": "raw"}
    assert get(pages, "/unicode").headers[0][1].encode("latin-1") == "ä".encode()
    for path in ("/split", "/name"):
        page = get(pages, path)
        assert (page.status, b"which is none" in page.body) == (502, True)
        assert all("cookie" not in value for _, value in page.headers)
    assert b"headers of more than" in get(pages, "/many").body


def test_streams(pages):
    assert get(pages, "/streamed").body == b"first;part 1;part 2;part 3;"
    assert b"a body of more than 4096 parts" in get(pages, "/forever").body
    assert b"has no query method" in get(pages, "/nobody").body


def test_streams_that_are_too_large(pages, monkeypatch):
    monkeypatch.setattr("perdure.gateway.site.MAX_BODY_BYTES", 5 << 20)
    assert get(pages, "/large").status == 502


def test_updates(pages):
    page = get(pages, "/update/near", method="POST", body=b"it")
    assert (page.status, page.body) == (201, b"POST it")
    assert get(pages, "/update/far", "ID.localhost", method="PUT").body == b"PUT "


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("/status", 502, b"the status 99, expected one of 200 to 599"),
        ("/status/65535", 502, b"the status 65535"),
        ("/garbage", 502, b"gives no HTTP response"),
        ("/trap", 503, b"http_request was rejected with code 5"),
        ("/../../etc/passwd", 503, b"http_request was rejected"),
        ("/lie", 502, b"with a body of 3 bytes"),
        ("/gap", 502, b"expected 3-.../9"),
    ],
)
def test_bad_answers(pages, path, status, why):
    page = get(pages, path)
    assert page.status == status
    assert why in page.body


def test_ranges(pages):
    page = get(pages, "/whole")
    assert (page.status, page.body) == (200, b"abcdefghi")
    assert "content-range" not in dict(page.headers)
    page = get(pages, "/whole", range="bytes=3-")
    assert (page.status, page.body, dict(page.headers)["content-range"]) == (206, b"def", "bytes 3-5/9")
