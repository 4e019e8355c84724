"""Whether an HTTP response is the one that its canister has certified: versions 1 and 2 of response verification.

The network's gateways hand nothing out that does not pass, so what would break there breaks here, with the reason.

Spec: "Response Verification" in the HTTP gateway protocol. Where they differ, it is as the network's gateways
do it (dfinity/response-verification).
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final, NamedTuple, TypeAlias, final
from urllib.parse import unquote_to_bytes

from perdure import cbor
from perdure.certification import Certificate, HashTree, Leaf, Missing, decode_tree, encode_nat, lookup, lookup_subtree
from perdure.errors import MalformedError, PerdureError
from perdure.gateway.expression import Certified, RequestRule, ResponseRule, read_expression
from perdure.ic.principal import Principal

__all__ = ["Headers", "UnverifiedError", "Verified", "WebRequest", "WebResponse", "verify_response"]

Headers: TypeAlias = "Sequence[tuple[str, str]]"

MAX_AGE_NS: Final = 300_000_000_000
_FIELD: Final = re.compile(r"\s*([^=\s]+)\s*=\s*(?::([^:]*):|([^:]*))\s*\Z")
_MAX_PLAIN_BYTES: Final = 256 << 20
_WINDOW_BITS: Final = {"gzip": 31, "deflate": -15}
_PREFIX: Final = "http_expr"
_EXACT, _WILDCARD = "<$>", "<*>"


class UnverifiedError(PerdureError):
    """A response that is not what its canister has certified, and why."""


class WebRequest(NamedTuple):
    """What the canister was asked: the path as sent, with its query."""

    method: str
    url: str
    headers: Headers
    body: bytes


class WebResponse(NamedTuple):
    """What it answered, with the whole body."""

    status: int
    headers: Headers
    body: bytes


@final
class Verified(NamedTuple):
    """What is known of a response: by which version, and which headers are certified; `None`: nobody says."""

    version: int
    headers: Headers | None
    is_body_certified: bool = True


@final
class _Shown(NamedTuple):
    """The header ``IC-Certificate``."""

    certificate: Certificate
    tree: HashTree
    version: int
    expression_path: tuple[str, ...] | None


def verify_response(
    request: WebRequest, response: WebResponse, *, canister_id: bytes, root_key_der: bytes, time_ns: int
) -> Verified:
    """What of a response its canister has certified.

    Args:
        request: what was asked.
        response: what came back.
        canister_id: who answered.
        root_key_der: of the network.
        time_ns: now; certificates are good for five minutes.

    Raises:
        UnverifiedError: it is not certified, or another one is.
    """
    found: dict[str, str] = {}
    for name, value in response.headers:
        found[name.lower()] = value
    header = found.get("ic-certificate")
    if header is None:
        raise UnverifiedError("there is no header IC-Certificate: the canister does not certify this response")
    try:
        shown = _read_header(header)
        path = _path_of(request.url)
        _check_certificate(shown, canister_id, root_key_der, time_ns)
        if shown.version == 1:
            return _verify_body(shown, path, response.body, found.get("content-encoding"))
        if shown.version == 2:
            return _verify_expression(shown, path, request, response, found.get("ic-certificateexpression"))
    except MalformedError as error:
        raise UnverifiedError(str(error)) from error
    raise UnverifiedError(f"version {shown.version} of response verification, expected 1 or 2")


def _read_header(header: str) -> _Shown:
    fields: dict[str, str] = {}
    for part in header.split(","):
        found = _FIELD.match(part)
        if found is not None:
            fields.setdefault(found[1], found[2] if found[2] is not None else found[3])
    missing = [name for name in ("certificate", "tree") if not fields.get(name)]
    if missing:
        raise MalformedError(f"IC-Certificate without {' and '.join(missing)}")
    version = fields.get("version") or "1"
    if not version.isascii() or not version.isdigit() or len(version) > 3:
        raise MalformedError(f"IC-Certificate: version {version[:20]!r}, expected a number")
    path = fields.get("expr_path")
    return _Shown(
        Certificate.decode(_bytes_of(fields, "certificate")),
        decode_tree(_bytes_of(fields, "tree")),
        int(version),
        None if not path else _read_path(_bytes_of(fields, "expr_path")),
    )


def _bytes_of(fields: dict[str, str], name: str) -> bytes:
    try:
        return base64.b64decode(fields[name], validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedError(f"IC-Certificate: {name} is no base 64: {error}") from error


def _read_path(data: bytes) -> tuple[str, ...]:
    try:
        found = cbor.load(data)
    except MalformedError as error:
        raise MalformedError(f"IC-Certificate: expr_path: {error.message}") from error
    if not isinstance(found, (list, tuple)) or not all(isinstance(part, str) for part in found):
        raise MalformedError(f"IC-Certificate: expr_path is {str(found)[:60]}, expected a list of texts")
    return tuple(found)


def _path_of(url: str) -> str:
    try:
        return unquote_to_bytes(url.partition("#")[0].partition("?")[0]).decode() or "/"
    except UnicodeDecodeError as error:
        raise UnverifiedError(f"the path of {url[:100]!r} is no UTF-8, decoded") from error


def _check_certificate(shown: _Shown, canister_id: bytes, root_key_der: bytes, time_ns: int) -> None:
    certificate, name = shown.certificate, Principal(canister_id)
    if not certificate.is_signed_by(root_key_der, canister_id):
        words = "the certificate is not signed by this network's root key, or by a subnet that has the canister"
        raise UnverifiedError(words)
    encoded = certificate.lookup(b"time")
    certified_ns = _number(encoded) if isinstance(encoded, bytes) else None
    if certified_ns is None:
        raise UnverifiedError("the certificate does not tell its time")
    if abs(time_ns - certified_ns) > MAX_AGE_NS:
        seconds = (time_ns - certified_ns) / 1e9
        raise UnverifiedError(f"the certificate is {seconds:.0f} s old, expected at most {MAX_AGE_NS / 1e9:.0f} s")
    certified = certificate.lookup(b"canister", canister_id, b"certified_data")
    if isinstance(certified, Missing):
        raise UnverifiedError(f"the certificate does not show the certified data of canister {name}")
    if certified != shown.tree.digest:
        raise UnverifiedError(
            f"the tree has the hash {shown.tree.digest.hex()}, canister {name} has certified {certified.hex()}"
        )


def _number(leb128: bytes) -> int | None:
    if not 0 < len(leb128) <= 10:
        return None
    return sum((byte & 0x7F) << 7 * index for index, byte in enumerate(leb128))


# -- version 1: the body alone


def _verify_body(shown: _Shown, path: str, body: bytes, encoding: str | None) -> Verified:
    expected = lookup((b"http_assets", path.encode()), shown.tree)
    where = path
    if isinstance(expected, Missing):
        # Applications of one page answer every path with it.
        where = "/index.html"
        expected = lookup((b"http_assets", where.encode()), shown.tree)
    if isinstance(expected, Missing):
        raise UnverifiedError(f"neither {path[:200]!r} nor '/index.html' is among the certified assets that are shown")
    hashes = [sha256(body).digest()]
    if encoding in _WINDOW_BITS:
        hashes.append(sha256(_plain(body, encoding)).digest())
    if expected not in hashes:
        raise UnverifiedError(
            f"the body has the SHA-256 {hashes[-1].hex()}, certified is {expected.hex()} for {where[:200]!r}"
        )
    return Verified(1, None)


def _plain(body: bytes, encoding: str) -> bytes:
    reader = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        plain = reader.decompress(body, _MAX_PLAIN_BYTES)
    except zlib.error as error:
        raise UnverifiedError(f"the body is no {encoding}: {error}") from error
    if reader.unconsumed_tail:
        raise UnverifiedError(f"the body is {encoding} of more than {_MAX_PLAIN_BYTES} bytes")
    return plain


# -- version 2: what an expression says


def _verify_expression(
    shown: _Shown, path: str, request: WebRequest, response: WebResponse, text: str | None
) -> Verified:
    if text is None:
        raise UnverifiedError("there is no header IC-CertificateExpression, which version 2 needs")
    if shown.expression_path is None:
        raise UnverifiedError("IC-Certificate has no expr_path, which version 2 needs")
    certified = read_expression(text)
    _check_path(shown.expression_path, path, shown.tree)
    below = (*_labels(shown.expression_path), sha256(text.encode()).digest())
    found = lookup_subtree(below, shown.tree)
    if isinstance(found, Missing):
        raise UnverifiedError(f"the tree has another expression than {text[:200]!r} at {_written(shown)}")
    if certified.response is None:
        return Verified(2, None, is_body_certified=False)
    headers = _certified_headers(certified.response, response.headers)
    hashes = (_request_hash(certified, request), _response_hash(headers, response))
    leaf = lookup_subtree(hashes, found)
    if isinstance(leaf, Missing):
        raise UnverifiedError(_difference(hashes, found, certified, _written(shown)))
    if leaf != Leaf(b""):
        raise UnverifiedError(f"the tree has no empty leaf for this response at {_written(shown)}")
    return Verified(2, headers)


def _written(shown: _Shown) -> str:
    return "/".join(shown.expression_path or ())[:200]


def _difference(hashes: tuple[bytes, bytes], tree: HashTree, certified: Certified, where: str) -> str:
    """Which of request and response is another one than certified."""
    request_hash, response_hash = hashes
    if isinstance(lookup_subtree((request_hash,), tree), Missing):
        what = "another request" if certified.request is not None else "requests by their content"
        return f"the tree certifies {what} at {where}; this one has the hash {request_hash.hex() or '(empty)'}"
    return (
        f"status, certified headers and body have the hash {response_hash.hex()}, "
        f"which the tree does not certify at {where}"
    )


def _check_path(expression_path: Sequence[str], path: str, tree: HashTree) -> None:
    """Whether this is the most specific of the paths in the tree that a request is answered by."""
    written = "/".join(expression_path)[:200]
    if len(expression_path) < 2 or expression_path[0] != _PREFIX or expression_path[-1] not in (_EXACT, _WILDCARD):
        raise UnverifiedError(f"expr_path {written!r}, expected {_PREFIX}, a path, and {_EXACT} or {_WILDCARD}")
    if isinstance(lookup_subtree(_labels(expression_path), tree), Missing):
        raise UnverifiedError(f"the tree has no {written}")
    # A folder is another path than a file of its name.
    asked = [part for part in path.split("/") if part] + ([""] if path.endswith("/") else [])
    named = list(expression_path[1:-1])
    if expression_path[-1] == _EXACT:
        if named != asked:
            raise UnverifiedError(f"the response is certified for {written!r}, asked was for {path[:200]!r}")
        return
    if lookup_subtree(_labels((_PREFIX, *asked, _EXACT)), tree) is not Missing.ABSENT:
        raise UnverifiedError(
            f"the response is certified by {written!r}, though {path[:200]!r} may have one of its own"
        )
    bare = named[:-1] if named[-1:] == [""] else named
    if asked[: len(named)] != named and asked[: len(bare)] != bare:
        raise UnverifiedError(f"the response is certified for {written!r}, asked was for {path[:200]!r}")
    for other in _more_specific(asked, named):
        if lookup_subtree(_labels((_PREFIX, *other, _WILDCARD)), tree) is not Missing.ABSENT:
            closer = "/".join((_PREFIX, *other, _WILDCARD))
            raise UnverifiedError(f"the response is certified by {written!r}, though there may be {closer[:200]!r}")


def _more_specific(asked: Sequence[str], named: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """The paths between one that was asked for and the one that answered, the latter not included."""
    path = list(asked)
    while len(path) > len(named) or path[-1:] != list(named[-1:]):
        yield tuple(path)
        # First with a slash at the end, then without.
        is_folder = path[-1:] == [""]
        path = path[:-1] if is_folder else [*path[:-1], ""]
        if not path:
            return


def _labels(path: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(part.encode(errors="surrogateescape") for part in path)


def _certified_headers(rule: ResponseRule, headers: Headers) -> Headers:
    """Headers that a rule covers, by their names in lower case."""
    lower = [(name.lower(), value) for name, value in headers]
    return [
        (name, value)
        for name, value in lower
        if name != "ic-certificate" and (name == "ic-certificateexpression" or rule.covers(name))
    ]


def _response_hash(headers: Headers, response: WebResponse) -> bytes:
    entries = [(name, value.encode()) for name, value in headers]
    entries.append((":ic-cert-status", encode_nat(response.status)))
    return sha256(_hash_of_pairs(entries) + sha256(response.body).digest()).digest()


def _request_hash(certified: Certified, request: WebRequest) -> bytes:
    rule = certified.request
    if rule is None:
        return b""
    lower = [(name.lower(), value.encode()) for name, value in request.headers]
    entries = [(name, value) for name, value in lower if name in rule.headers]
    entries.append((":ic-cert-method", request.method.encode()))
    query = _certified_query(rule, request.url)
    if query:
        entries.append((":ic-cert-query", query.encode()))
    return sha256(_hash_of_pairs(entries) + sha256(request.body).digest()).digest()


def _certified_query(rule: RequestRule, url: str) -> str:
    parts = url.partition("#")[0].partition("?")[2].split("&")
    return "&".join(part for part in parts if part.partition("=")[0].lower() in rule.query_parameters)


def _hash_of_pairs(entries: Iterable[tuple[str, bytes]]) -> bytes:
    """The hash of a map, in which here a name may stand several times."""
    hashes = sorted(sha256(name.encode()).digest() + sha256(value).digest() for name, value in entries)
    return sha256(b"".join(hashes)).digest()
