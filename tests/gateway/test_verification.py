"""Response verification: by hand, by tampering, and against the network's own verifier."""

from __future__ import annotations

import base64
import gzip
import json
import random
import subprocess
import zlib
from hashlib import sha256
from pathlib import Path

import cbor2
import pytest

from perdure.certification import Certificate, RootKey, data_certificate, encode_nat, prune, root_hash, tree
from perdure.certification.hash_tree import encode_node
from perdure.gateway.verification import UnverifiedError, WebRequest, WebResponse, verify_response
from perdure.ic.principal import Principal

HERE = Path(__file__).parent
KEY = RootKey(b"verification")
CANISTER = Principal.from_index(7).raw_bytes
NOW = 1_800_000_000_000_000_000
LISTED = (
    "default_certification(ValidationArgs{certification:Certification{no_request_certification:Empty{},"
    'response_certification:ResponseCertification{certified_response_headers:ResponseHeaderList{headers:["Etag"]}}}})'
)
EXCLUDED = LISTED.replace("certified_response_headers", "response_header_exclusions")
FULL = LISTED.replace(
    "no_request_certification:Empty{}",
    'request_certification: RequestCertification{certified_request_headers:["host"],certified_query_parameters:["q"]}',
)
SKIPPED = "default_certification(ValidationArgs{no_certification:Empty{}})"


def hash_of(entries):
    return sha256(b"".join(sorted(sha256(name).digest() + sha256(value).digest() for name, value in entries))).digest()


def leaf_of(expression, request, status, headers, body):
    """Labels below an expression's path: its hash, that of the request, that of the response."""
    names = {"Etag".lower()}
    excluded = "exclusions" in expression
    entries = [(b":ic-cert-status", encode_nat(status)), (b"ic-certificateexpression", expression.encode())]
    entries += [
        (name.lower().encode(), value.encode()) for name, value in headers if (name.lower() in names) != excluded
    ]
    response_hash = sha256(hash_of(entries) + sha256(body).digest()).digest()
    request_hash = b""
    if "certified_request_headers" in expression:
        query = "&".join(part for part in request.url.partition("?")[2].split("&") if part.startswith("q="))
        asked = [(b":ic-cert-method", request.method.encode())]
        asked += [(name.lower().encode(), value.encode()) for name, value in request.headers if name.lower() == "host"]
        asked += [(b":ic-cert-query", query.encode())] if query else []
        request_hash = sha256(hash_of(asked) + sha256(request.body).digest()).digest()
    if expression == SKIPPED:
        return {sha256(expression.encode()).digest(): b""}
    return {sha256(expression.encode()).digest(): {request_hash: {response_hash: b""}}}


def put(into, path, what):
    for part in path[:-1]:
        into = into.setdefault(part.encode(), {})
    into.setdefault(path[-1].encode(), {}).update(what)


def header_of(shown, certified=None, *, time_ns=NOW, version=2, path=None, key=KEY):
    certificate = data_certificate(key, CANISTER, root_hash(shown if certified is None else certified), time_ns)
    parts = {"certificate": certificate, "tree": b"\xd9\xd9\xf7" + cbor2.dumps(encode_node(shown))}
    if path is not None:
        parts["expr_path"] = b"\xd9\xd9\xf7" + cbor2.dumps(list(path))
    fields = [f"{name}=:{base64.b64encode(value).decode()}:" for name, value in parts.items()]
    return ("IC-Certificate", ", ".join([*fields, f"version={version}"]))


def verify(request, response, time_ns=NOW):
    return verify_response(request, response, canister_id=CANISTER, root_key_der=KEY.public_key_der, time_ns=time_ns)


def made(expression=LISTED, path=("http_expr", "a", "<$>"), url="/a?q=1&r=2", also=(), shown=None, **header):
    """A request, and the response that its canister has certified."""
    request = WebRequest("GET", url, [("host", "a.localhost"), ("accept", "*/*")], b"")
    headers, body = [("etag", '"1"'), ("x-other", "2")], b"a body"
    content: dict = {}
    put(content, path, leaf_of(expression, request, 200, headers, body))
    for other in also:
        put(content, other, leaf_of(expression, request, 404, headers, b"another"))
    whole = tree(content)
    paths = [[part.encode() for part in path]] if shown is None else shown
    one = header_of(prune(whole, paths), path=path, **header)
    return request, WebResponse(200, [*headers, ("IC-CertificateExpression", expression), one], body)


@pytest.mark.parametrize("expression", [LISTED, EXCLUDED, FULL, SKIPPED])
def test_what_is_certified_passes(expression):
    request, response = made(expression)
    verified = verify(request, response)
    assert (verified.version, verified.is_body_certified) == (2, expression != SKIPPED)
    names = None if verified.headers is None else [name for name, _ in verified.headers]
    assert (
        names
        == {
            LISTED: ["etag", "ic-certificateexpression"],
            EXCLUDED: ["x-other", "ic-certificateexpression"],
            FULL: ["etag", "ic-certificateexpression"],
            SKIPPED: None,
        }[expression]
    )


def test_what_is_excluded_may_change_and_what_is_listed_may_not():
    request, response = made(EXCLUDED)
    assert verify(request, response._replace(headers=[("etag", "changed"), *response.headers[1:]]))
    with pytest.raises(UnverifiedError, match="status, certified headers and body have the hash"):
        verify(request, response._replace(headers=[response.headers[0], ("x-other", "3"), *response.headers[2:]]))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it._replace(body=b"another"),
        lambda it: it._replace(status=404),
        lambda it: it._replace(headers=[("etag", '"2"'), *it.headers[1:]]),
        lambda it: it._replace(headers=it.headers[1:]),
        lambda it: it._replace(headers=[("etag", '"1"'), *it.headers]),
    ],
)
def test_tampered_responses(change):
    request, response = made()
    with pytest.raises(UnverifiedError, match="status, certified headers and body have the hash"):
        verify(request, change(response))


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it._replace(method="POST"),
        lambda it: it._replace(url="/a?q=2"),
        lambda it: it._replace(headers=[("host", "b.localhost")]),
        lambda it: it._replace(body=b"x"),
    ],
)
def test_another_request_than_certified(change):
    request, response = made(FULL)
    assert verify(request._replace(url="/a?q=1&r=3"), response)
    with pytest.raises(UnverifiedError, match="certifies another request"):
        verify(change(request), response)


def test_certificates_of_others_and_old_ones():
    with pytest.raises(UnverifiedError, match="not signed by this network's root key"):
        verify(*made(key=RootKey(b"another")))
    with pytest.raises(UnverifiedError, match="is 301 s old"):
        verify(*made(time_ns=NOW - 301 * 10**9))
    with pytest.raises(UnverifiedError, match="is -301 s old"):
        verify(*made(time_ns=NOW + 301 * 10**9))
    with pytest.raises(UnverifiedError, match="has certified"):
        verify(*made(certified=tree({b"x": b"y"})))
    request, response = made()
    with pytest.raises(UnverifiedError, match="does not show the certified data of canister"):
        verify_response(request, response, canister_id=b"other", root_key_der=KEY.public_key_der, time_ns=NOW)


FALLBACK = ("http_expr", "<*>")


def test_paths():
    assert verify(*made(path=FALLBACK, url="/deep/er", shown=[[b"http_expr"]]))
    assert verify(*made(path=("http_expr", "a", "", "<$>"), url="/a/"))
    assert verify(*made(path=("http_expr", "a b", "<$>"), url="/a%20b"))
    with pytest.raises(UnverifiedError, match="certified for 'http_expr/a/<\\$>', asked was for '/b'"):
        verify(*made(url="/b"))
    with pytest.raises(UnverifiedError, match="asked was for '/a/'"):
        verify(*made(url="/a/"))
    with pytest.raises(UnverifiedError, match="may have one of its own"):
        verify(*made(path=FALLBACK, url="/b", also=[("http_expr", "b", "<$>")], shown=[[b"http_expr", b"<*>"]]))
    with pytest.raises(UnverifiedError, match=r"there may be 'http_expr/b/<\*>'"):
        verify(*made(path=FALLBACK, url="/b/c", also=[("http_expr", "b", "<*>")], shown=[[b"http_expr"]]))
    with pytest.raises(UnverifiedError, match="expected http_expr, a path"):
        verify(*made(path=("http_assets", "a", "<$>")))
    with pytest.raises(UnverifiedError, match="is no UTF-8"):
        verify(*made(url="/%ff"))


def v1(body=b"plain", url="/a", assets=None, encoding=None, **header):
    content = {
        b"http_assets": {(path.encode()): sha256(data).digest() for path, data in (assets or {url: body}).items()}
    }
    headers = [("content-encoding", encoding)] if encoding else []
    shown = tree(content)
    return WebRequest("GET", url, [], b""), WebResponse(200, [*headers, header_of(shown, version=1, **header)], body)


def test_version_1():
    assert verify(*v1()) == (1, None, True)
    assert verify(*v1(url="/a/b", assets={"/index.html": b"plain"}))
    for encoding, encoded in (("gzip", gzip.compress(b"plain")), ("deflate", zlib.compress(b"plain")[2:-4])):
        request, response = v1(encoding=encoding)
        assert verify(request, response._replace(body=encoded))
        assert verify(*v1(encoded, encoding=encoding))
    with pytest.raises(UnverifiedError, match="the body is no gzip"):
        verify(*v1(b"plain", encoding="gzip", assets={"/a": b"other"}))
    with pytest.raises(UnverifiedError, match="certified is"):
        verify(*v1(assets={"/a": b"other"}))
    with pytest.raises(UnverifiedError, match=r"neither '/a' nor '/index\.html'"):
        verify(*v1(assets={"/b": b"other"}))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (None, "there is no header IC-Certificate"),
        ("", "without certificate and tree"),
        ("certificate=:AA==:", "without tree"),
        ("certificate=:A:, tree=:AA==:", "certificate is no base 64"),
        ("certificate=:AA==:, tree=:AA==:", "certificate"),
        (f"certificate=:{base64.b64encode(b'[' * 9000).decode()}:, tree=:AA==:", "certificate"),
        (f"certificate=:{base64.b64encode(bytes.fromhex('81') * 9000).decode()}:, tree=:AA==:", "certificate"),
    ],
)
def test_headers_that_are_none(header, match):
    headers = [] if header is None else [("ic-certificate", header)]
    with pytest.raises(UnverifiedError, match=match):
        verify(WebRequest("GET", "/", [], b""), WebResponse(200, headers, b""))


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("version=2", "version=3", "version 3 of response verification"),
        ("version=2", "version=x", "expected a number"),
        ("expr_path", "other", "has no expr_path"),
    ],
)
def test_fields_that_are_none(old, new, match):
    request, response = made()
    headers = [(name, value.replace(old, new)) for name, value in response.headers]
    with pytest.raises(UnverifiedError, match=match):
        verify(request, response._replace(headers=headers))
    with pytest.raises(UnverifiedError, match="IC-CertificateExpression"):
        verify(request, response._replace(headers=[one for one in response.headers if "Expression" not in one[0]]))


def referee(folder, cases):
    """What the network's verifier says to each."""
    lines = [
        json.dumps(
            {
                "request": {**request._asdict(), "headers": list(request.headers), "body": request.body.hex()},
                "response": {**response._asdict(), "headers": list(response.headers), "body": response.body.hex()},
                "canister_id": CANISTER.hex(),
                "time_ns": str(NOW),
                "root_key": KEY.public_key_der.hex(),
            }
        )
        for request, response in cases
    ]
    command = ["node", str(HERE / "referee.mjs")]
    done = subprocess.run(command, cwd=folder, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def drawn(rng):
    """A tree over a few paths of which some overlap, and a request that one of them may answer."""
    parts = ["", "a", "b", "a", "<*>", "http_expr"]
    urls = ["/", "/a", "/a/", "/a/b", "/a/b/", "/b", "/a//b", "/%61", "/a?q=1", "/b/a/b"]
    paths = [
        ("http_expr", *(rng.choice(parts) for _ in range(rng.randrange(3))), rng.choice(["<$>", "<*>", "<*>"]))
        for _ in range(3)
    ]
    path, *others = paths
    shown = rng.choice([[[b"http_expr"]], None, [[part.encode() for part in one] for one in paths]])
    expression = rng.choice([LISTED, EXCLUDED, FULL, SKIPPED, LISTED.replace("certification:", "certification : ")])
    request, response = made(expression, path, rng.choice(urls), others, shown)
    change = rng.randrange(12)
    if change == 0:
        response = response._replace(status=rng.choice([201, 404]))
    elif change == 1:
        response = response._replace(body=b"another")
    elif change == 2:
        response = response._replace(headers=[*response.headers, ("ETag", "2")])
    elif change == 3:
        request = request._replace(method="HEAD")
    return request, response


@pytest.mark.slow
def test_as_the_network_verifies(npm_folder):
    folder = npm_folder("response-verification", "@dfinity/response-verification@3.0.3")
    rng = random.Random(19)
    cases = [drawn(rng) for _ in range(240)]
    cases += [v1(), v1(url="/x", assets={"/index.html": b"plain"}), v1(assets={"/a": b"other"})]
    for expression in EXPRESSIONS:
        request, response = made(LISTED)
        content: dict = {}
        put(content, ("http_expr", "a", "<$>"), leaf_of(expression, request, 200, response.headers[:2], response.body))
        one = header_of(tree(content), path=("http_expr", "a", "<$>"))
        headers = [*response.headers[:2], ("IC-CertificateExpression", expression), one]
        cases.append((request, response._replace(headers=headers)))
    differences = []
    taken = 0
    for (request, response), theirs in zip(cases, referee(folder, cases), strict=True):
        try:
            ours = verify(request, response)
        except UnverifiedError as error:
            if "error" not in theirs:
                differences.append((request.url, response.headers, str(error), theirs))
            continue
        taken += 1
        if "error" in theirs or theirs["version"] != ours.version:
            differences.append((request.url, response.headers, ours, theirs))
    assert differences == []
    assert 20 < taken < len(cases) - 50


EXPRESSIONS = [
    LISTED.replace("{", " { ").replace("}", " } ").replace(",", " , ").replace(":", " : "),
    LISTED + " and more",
    LISTED.replace('["Etag"]', '["Etag",]'),
    LISTED.replace('["Etag"]', '["x_y"]'),
    LISTED.replace('["Etag"]', "[Etag]"),
    LISTED.replace('["Etag"]', "[]"),
    LISTED.replace("no_request_certification:Empty{}", "no_request_certification:[]"),
    LISTED.replace("no_request_certification:Empty{},", ""),
    LISTED.replace("Certification{", "Other{"),
    LISTED.replace("default_certification", "other"),
    "default_certification()",
    "default_certification(ValidationArgs{})",
    "",
    "x",
    "(" * 40,
]
"""Expressions in other spellings, and some that are none."""


def test_a_certificate_is_one_of_ours():
    request, response = made()
    header = dict(response.headers)["IC-Certificate"]
    assert Certificate.decode(base64.b64decode(header.split(":")[1])).is_signed_by(KEY.public_key_der)
    assert verify(request, response, NOW + 299 * 10**9)
