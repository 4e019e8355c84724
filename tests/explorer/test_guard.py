"""Who may do what."""

from __future__ import annotations

import re

import pytest

from perdure import Subnet
from perdure.explorer.guard import is_of_another_page, is_of_this_machine, refusal
from perdure.gateway.http import Request


@pytest.mark.parametrize(
    ("address", "is_ours"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_addresses_of_this_machine(address, is_ours):
    assert is_of_this_machine(address) is is_ours


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"origin": "http://localhost:1", "x-perdure-token": "right"}, ""),
        ({"origin": "http://localhost:1", "x-perdure-token": "wrong"}, "token"),
        ({"origin": "http://localhost:1", "x-perdure-token": "r\xefght"}, "token"),
        ({"origin": "http://localhost:1"}, "token"),
        ({"origin": "http://localhost:2", "x-perdure-token": "right"}, "http://localhost:2"),
        ({"origin": "null", "x-perdure-token": "right"}, "null"),
        ({"origin": "https://localhost:1", "x-perdure-token": "right"}, "https"),
        ({"x-perdure-token": "right"}, "nobody"),
    ],
)
def test_who_may_act(headers, words):
    why = refusal({"host": "localhost:1", **headers}, "right")
    assert (words in why) if words else (why == "")


def test_others_see_nothing(visitor, ledger):
    for path in ("/_/", f"/_/c/{ledger.id}", "/_/static/explorer.css"):
        assert visitor.get(path, client="10.0.0.7").status == 403


def test_pages_are_at_one_name(visitor):
    response = visitor.get("/_/calls", host="127.0.0.1:4943")
    assert (response.status, dict(response.headers)["location"]) == (307, "http://localhost:4943/_/calls")


def test_nothing_of_a_canister_is_at_that_name(visitor, ledger):
    asked = Request("GET", f"/?canisterId={ledger.id}", {"host": "localhost:4943"}, b"")
    assert visitor.explorer.wants(asked)
    location = dict(visitor.explorer.begin(asked, "127.0.0.1").headers)["location"]
    assert location == f"http://127.0.0.1:4943/?canisterId={ledger.id}"
    for host, path in (("localhost:4943", "/api/v2/status"), (f"{ledger.id}.localhost:4943", "/_/")):
        assert not visitor.explorer.wants(Request("GET", path, {"host": host}, b""))


def test_what_icp_calls_the_candid_interface(visitor, ledger):
    host = "a4gq6-oaaaa-aaaab-qaa4q-cai.localhost:4943"
    asked = Request("GET", f"/?id={ledger.id}", {"host": host}, b"")
    assert visitor.explorer.wants(asked)
    location = dict(visitor.explorer.begin(asked, "127.0.0.1").headers)["location"]
    assert location == f"http://localhost:4943/_/c/{ledger.id}/methods"


def test_whatever_acts_needs_token_and_origin(visitor, ledger):
    from perdure.explorer.pages import _ROUTES

    base = f"/_/c/{ledger.id}"
    acting = [route.path.pattern for route in _ROUTES if route.method == "POST"]
    assert len(acting) == 10
    version = ledger.status().version
    for pattern in acting:
        path = "/_/" + re.sub(r"\(\?P<\w+>\[\^/\]\+\)", "x", pattern.removesuffix(r"\Z")).replace(
            "c/x", f"c/{ledger.id}", 1
        )
        assert visitor.post(path, token="wrong").status == 403, path
        assert visitor.post(path, origin="http://evil.example").status == 403, path
        assert visitor.post(path, token="").status == 403, path
    assert visitor.post(f"{base}/call", token="", method="transfer").status == 403
    assert ledger.status().version == version


def test_no_page_shows_the_token(visitor, ledger):
    for path in ("/_/", f"/_/c/{ledger.id}", f"/_/c/{ledger.id}/methods", "/_/static/explorer.js"):
        assert visitor.explorer.token not in visitor.text(path)


def test_every_answer_says_what_it_may_load(visitor, ledger):
    for path in ("/_/", f"/_/c/{ledger.id}/map.svg", "/_/nothing", "/_/static/explorer.js", f"/_/c/{ledger.id}/data"):
        policy = dict(visitor.get(path).headers)["content-security-policy"]
        assert policy.startswith(("default-src 'self'; frame-ancestors 'none'", "default-src 'none'"))


def test_tokens_differ():
    from perdure.explorer import Explorer

    with Subnet() as one:
        assert Explorer(one).token != Explorer(one).token


def test_only_who_may_act_sends_much(visitor, ledger):
    path = f"/_/c/{ledger.id}/what-if/check"
    headers = {"host": "localhost:4943", "origin": "http://localhost:4943", "x-perdure-token": visitor.explorer.token}
    assert visitor.explorer.may_upload(Request("POST", path, headers, b""))
    assert not visitor.explorer.may_upload(Request("POST", path, {**headers, "x-perdure-token": "x"}, b""))
    assert not visitor.explorer.may_upload(Request("POST", "/api/v2/status", headers, b""))


@pytest.mark.parametrize(
    ("site", "mode", "dest", "is_another"),
    [
        ("same-origin", "cors", "empty", False),
        ("none", "navigate", "document", False),
        ("cross-site", "navigate", "document", False),
        ("cross-site", "no-cors", "image", True),
        ("same-site", "cors", "empty", True),
        ("cross-site", "navigate", "iframe", True),
    ],
)
def test_no_part_of_other_pages(visitor, site, mode, dest, is_another):
    headers = {"host": "localhost:4943", "sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": dest}
    assert is_of_another_page(headers) is is_another
    response = visitor.explorer.begin(Request("GET", "/_/", headers, b""), "127.0.0.1")
    assert response.status == (403 if is_another else 200)
