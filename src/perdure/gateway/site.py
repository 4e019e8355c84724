"""The HTTP gateway: a browser's request becomes a call of ``http_request``, and what comes back is verified.

A canister is named by the host (``ID.localhost``, ``ID.raw.localhost`` without verification, or a name that it lists as
its own), else by ``canisterId`` in the query, else by that of the page which a browser says it comes from.

Spec: "HTTP Gateway Protocol" of the Internet Computer.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple, TypeAlias, final
from urllib.parse import parse_qs, urlsplit

from perdure.candid import MethodRef, Some, decode_with_types, encode, field_hash
from perdure.candid.service import load
from perdure.candid.types import Func, Opt, Record, Type, Value, Variant, resolve
from perdure.canister import Reject, Reply
from perdure.errors import MalformedError, PerdureError
from perdure.gateway.budget import Budget, Spent
from perdure.gateway.domains import PATH, Domains
from perdure.gateway.hosts import Hosts, is_loopback
from perdure.gateway.http import HALTED, Pending, Request, Response
from perdure.gateway.verification import (
    Headers,
    UnverifiedError,
    Verified,
    WebRequest,
    WebResponse,
    verify_response,
)
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.network.live import Live, Refused, Rounds
from perdure.network.live import Request as Ingress

__all__ = ["Site"]

MAX_BODY_BYTES: Final = 256 << 20
MAX_PARTS: Final = 4096
MAX_SECONDS: Final = 60.0
"""A body in parts, from a stream or from ranges, ends when it reaches one of these."""
_MAX_HEADERS_BYTES: Final = 256 << 10

_HTTP: Final = load("""
type Header = record { text; text };
type Response = record {
  status_code : nat16; headers : vec Header; body : blob; upgrade : opt bool; streaming_strategy : opt reserved;
};
service : {
  http_request : (record {
    method : text; url : text; headers : vec Header; body : blob; certificate_version : opt nat16
  }) -> (Response) query;
  http_request_update : (record { method : text; url : text; headers : vec Header; body : blob }) -> (Response);
}
""").methods
_QUERY, _UPDATE = _HTTP["http_request"], _HTTP["http_request_update"]
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_UNPRINTABLE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})\Z", re.ASCII)
_HOP_BY_HOP: Final = frozenset(
    [
        *("connection", "content-length", "keep-alive", "proxy-authenticate", "proxy-connection"),
        *("te", "trailer", "transfer-encoding", "upgrade"),
    ]
)
"""Of one connection, which is the server's business."""
TEXT: Final = "text/plain; charset=utf-8"
_CANDID_UI: Final = "a4gq6-oaaaa-aaaab-qaa4q-cai"
_CANDID_UI_IS: Final = (
    "it is the mainnet's Candid UI, to which icp leads on every network that it connects to. Call methods with "
    "`icp canister call`, or in the browser with `perdure explore STATE`"
)


class _SiteError(PerdureError):
    """Why a browser does not get what it asked for."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@final
class _Named(NamedTuple):
    """Whom a request is for."""

    canister_id: bytes
    is_raw: bool


@final
class Site:
    """What the canisters of running subnets show to browsers.

    Args:
        rounds: the subnets, whose root's key certificates are verified with.
        hosts: names under which canisters are served.
        on_their_way: what all answers may take together.
    """

    def __init__(self, rounds: Rounds, hosts: Hosts, on_their_way: Budget) -> None:
        self._rounds = rounds
        self._on_their_way = on_their_way
        self._hosts = hosts
        self._domains = Domains(rounds, self._listed)

    def begin(self, request: Request) -> Response | Pending:
        """The response, or what there is to wait for where the canister has to be called by an update."""
        try:
            named = self._named(request)
            web = WebRequest(request.method, request.path, tuple(request.headers.items()), request.body)
            return self._ask(named, web)
        except _SiteError as error:
            return _told(error)

    # --- whom

    def _named(self, request: Request) -> _Named:
        host = self._hosts.name_of(request.headers.get("host")) or ""
        label, _, rest = (self._hosts.below(host) or "").partition(".")
        if rest in ("", "raw") and _is_principal(label):
            return _Named(self._known(label), rest == "raw")
        if not is_loopback(host) and (owner := self._domains.canister_of(host)) is not None:
            return _Named(owner, False)
        for text in (request.path, _same_host(request.headers)):
            chosen = parse_qs(urlsplit(text).query).get("canisterId") if _is_url(text) else None
            if chosen:
                return _Named(self._known(chosen[0]), False)
        if label and rest in ("", "raw"):
            self._known(label)  # which says what is wrong with it
        raise _SiteError(
            404,
            f"no canister is named by the host {host[:100]!r}, or lists it in {PATH}: ask for "
            "CANISTER_ID.localhost, or for /?canisterId=...",
        )

    def _known(self, text: str) -> bytes:
        try:
            canister_id = Principal.from_text(text)
        except (MalformedError, ValueError) as error:
            raise _SiteError(404, f"no canister is named {text[:100]!r}: {error}") from error
        live = self._rounds.find(canister_id.raw_bytes)
        if live is None or canister_id not in live.subnet:
            told = f": {_CANDID_UI_IS}" if text == _CANDID_UI else ""
            raise _SiteError(404, f"there is no canister {canister_id} here{told}")
        return canister_id.raw_bytes

    def _listed(self, canister_id: bytes) -> bytes:
        """A canister's file of names, if it certifies one."""
        named, web = _Named(canister_id, False), WebRequest("GET", PATH, (), b"")
        try:
            answer = self._query(
                canister_id, "http_request", _QUERY.encode([{**_fields(web), "certificate_version": 2}])
            )
            found = _decoded(_QUERY.decode, answer, "http_request")
            response = WebResponse(found["status_code"], _checked(found["headers"]), found["body"])
            return (
                response.body
                if response.status == 200 and self._verify(named, web, response).is_body_certified
                else b""
            )
        except _SiteError:
            return b""

    # --- asking it

    def _ask(self, named: _Named, web: WebRequest) -> Response | Pending:
        asked = {**_fields(web), "certificate_version": 2}
        answer = self._query(named.canister_id, "http_request", _QUERY.encode([asked]))
        found = _decoded(_QUERY.decode, answer, "http_request")
        if found["upgrade"] is True:
            return self._update(named, web)
        response = self._whole(named, web, found, answer)
        verified = None if named.is_raw else self._verify(named, web, response)
        if response.status == 206 and "range" not in dict(web.headers):
            response, verified = self._joined(named, web, response, verified)
        return _given(response, verified, "raw" if named.is_raw else "")

    def _live_of(self, canister_id: bytes) -> Live:
        found = self._rounds.find(canister_id)
        if found is None:
            raise _SiteError(502, f"there is no canister {Principal(canister_id)} here")
        if found.is_halted:
            raise _SiteError(503, HALTED)
        return found

    def _query(self, canister_id: bytes, method: str, arg: bytes) -> bytes:
        return _replied(self._live_of(canister_id).query(canister_id, method, arg, ANONYMOUS.raw_bytes), method)

    def _update(self, named: _Named, web: WebRequest) -> Response | Pending:
        """What it answers to an update; consensus vouches for that, so that nothing is to be verified."""
        canister_id = named.canister_id
        live, request_id = self._live_of(canister_id), b"http" + secrets.token_bytes(28)
        arg = _UPDATE.encode([_fields(web)])
        outcome = live.submit(
            Ingress(request_id, ANONYMOUS.raw_bytes, canister_id, "http_request_update", arg, canister_id)
        )
        if isinstance(outcome, Refused):
            raise _refused("http_request_update", outcome.reject)
        if outcome is not None:
            return self._updated(named, web, _replied(outcome, "http_request_update"))

        def answer() -> Response:
            with live.subnet._gate.lock:
                state = live.subnet._state
                found = state.ingress.find(request_id, state.time_ns)
            try:
                if found is None:
                    raise _SiteError(504, "http_request_update goes on, and has not been answered in time")
                return self._updated(named, web, _replied(found, "http_request_update"))
            except _SiteError as error:
                return _told(error)

        return Pending(live, request_id, answer)

    def _updated(self, named: _Named, web: WebRequest, answer: bytes) -> Response:
        found = _decoded(_UPDATE.decode, answer, "http_request_update")
        return _given(self._whole(named, web, found, answer), None, "update")

    def _verify(self, named: _Named, web: WebRequest, response: WebResponse) -> Verified:
        try:
            return verify_response(
                web,
                response,
                canister_id=named.canister_id,
                root_key_der=self._rounds.root_key,
                time_ns=self._live_of(named.canister_id).time_ns,
            )
        except UnverifiedError as error:
            canister_id = Principal(named.canister_id)
            raise _SiteError(
                503,
                f"canister {canister_id} answered {web.url[:200]} with what is not certified, and the network's "
                f"gateways would not hand it out: {error}\nWithout verification it is at {canister_id}.raw.localhost.",
            ) from error

    # --- bodies in parts

    def _whole(self, named: _Named, web: WebRequest, found: Value, answer: bytes) -> WebResponse:
        """A response with the rest of its body, which may come in a stream."""
        parts = [found["body"]]
        if found["streaming_strategy"] is not None:
            with self._on_their_way.spending() as spent:
                limit = _Limit(len(found["body"]), spent)
                step: _Step | None = _first_step(answer)
                while step is not None:
                    part, step = self._next(named, step)
                    limit.add(len(part))
                    parts.append(part)
        return WebResponse(found["status_code"], _checked(found["headers"]), b"".join(parts))

    def _next(self, named: _Named, step: _Step) -> tuple[bytes, _Step | None]:
        """One part of a stream, and how the next one is asked for."""
        answer = self._query(step.callback.principal.raw_bytes, step.callback.method, step.arg)
        type_, value = _raw(answer, step.callback.method)
        body = _part(value, "body")
        if not isinstance(body, bytes):
            raise _SiteError(502, f"{step.callback.method} gives no body: found {str(value)[:80]}")
        token = _unwrapped(_part(value, "token"))
        if token is None:
            return body, None
        optional = _type_of(type_, "token")
        return body, _Step(step.callback, _encoded(optional.content if isinstance(optional, Opt) else optional, token))

    def _joined(
        self, named: _Named, web: WebRequest, first: WebResponse, verified: Verified | None
    ) -> tuple[WebResponse, Verified | None]:
        """The whole of what a canister serves in ranges, to somebody who did not ask for one; each is verified."""
        start, end, total = _range_of(first)
        if start != 0 or total > MAX_BODY_BYTES:
            raise _SiteError(
                502, f"the range {start}-{end}/{total}, expected one from 0 of at most {MAX_BODY_BYTES} bytes"
            )
        with self._on_their_way.spending() as spent:
            return self._all_ranges(named, web, first, verified, spent)

    def _all_ranges(
        self, named: _Named, web: WebRequest, first: WebResponse, verified: Verified | None, spent: Spent
    ) -> tuple[WebResponse, Verified | None]:
        _, end, total = _range_of(first)
        limit, parts = _Limit(len(first.body), spent), [first.body]
        while end + 1 < total:
            asked = web._replace(headers=(*web.headers, ("range", f"bytes={end + 1}-")))
            answer = self._query(
                named.canister_id, "http_request", _QUERY.encode([{**_fields(asked), "certificate_version": 2}])
            )
            part = self._whole(named, asked, _decoded(_QUERY.decode, answer, "http_request"), answer)
            if verified is not None:
                self._verify(named, asked, part)
            start, next_end, found_total = _range_of(part)
            if start != end + 1 or found_total != total:
                raise _SiteError(502, f"the range {start}-{next_end}/{found_total}, expected {end + 1}-.../{total}")
            end = next_end
            limit.add(len(part.body))
            parts.append(part.body)

        def without(headers: Headers) -> Headers:
            return tuple(header for header in headers if header[0].lower() != "content-range")

        if verified is not None and verified.headers is not None:
            verified = verified._replace(headers=without(verified.headers))
        return WebResponse(200, without(first.headers), b"".join(parts)), verified


@final
class _Limit:
    """What a body in parts may come to."""

    def __init__(self, size_bytes: int, spent: Spent) -> None:
        self._size_bytes = size_bytes
        self._spent = spent
        self._parts = 1
        self._until = time.monotonic() + MAX_SECONDS

    def add(self, size_bytes: int) -> None:
        """Take one more part.

        Raises:
            _SiteError: that is too much.
        """
        self._size_bytes += size_bytes
        self._parts += 1
        if self._size_bytes > MAX_BODY_BYTES:
            raise _SiteError(502, f"a body of more than {MAX_BODY_BYTES} bytes")
        if not self._spent.add(size_bytes):
            raise _SiteError(503, "too many large answers are on their way: try again")
        if self._parts > MAX_PARTS:
            raise _SiteError(502, f"a body of more than {MAX_PARTS} parts")
        if time.monotonic() > self._until:
            raise _SiteError(504, f"a body that takes more than {MAX_SECONDS:.0f} s")


def _range_of(response: WebResponse) -> tuple[int, int, int]:
    text = next((value for name, value in response.headers if name.lower() == "content-range"), "")
    found = _CONTENT_RANGE.match(text)
    if response.status != 206 or found is None:
        raise _SiteError(502, f"status {response.status} with Content-Range {text[:60]!r}, expected 206 and a range")
    start, end, total = map(int, found.groups())
    if not start <= end < total or end + 1 - start != len(response.body):
        raise _SiteError(502, f"the range {text[:60]!r} with a body of {len(response.body)} bytes")
    return start, end, total


# -- streams, whose tokens go back with the types that they came with


@final
class _Step(NamedTuple):
    callback: MethodRef
    arg: bytes


_Types: TypeAlias = Type


def _raw(answer: bytes, method: str) -> tuple[_Types, Value]:
    try:
        types, values = decode_with_types(answer)
    except MalformedError as error:
        raise _SiteError(502, f"{method}: {error}") from error
    if not types:
        raise _SiteError(502, f"{method} gives nothing, expected a record")
    return types[0], values[0]


def _part(value: Value, name: str) -> Value:
    return value.get(f"_{field_hash(name)}_") if isinstance(value, dict) else None


def _unwrapped(value: Value) -> Value:
    return value.value if isinstance(value, Some) else value


def _type_of(type_: Type, name: str) -> Any:
    """The type of a field of a record or variant."""
    kind = resolve(type_)
    fields = kind.fields if isinstance(kind, Record | Variant) else ()
    found = next((one.type for one in fields if one.id == field_hash(name)), None)
    if found is None:
        raise _SiteError(502, f"a streaming strategy without {name}, expected Callback with callback and token")
    return resolve(found)


def _first_step(answer: bytes) -> _Step:
    type_, value = _raw(answer, "http_request")
    optional = _type_of(type_, "streaming_strategy")
    strategy = _type_of(optional.content if isinstance(optional, Opt) else optional, "Callback")
    chosen = _part(_unwrapped(_part(value, "streaming_strategy")), "Callback")
    callback, token = _part(chosen, "callback"), _part(chosen, "token")
    if not isinstance(callback, MethodRef) or not isinstance(_type_of(strategy, "callback"), Func):
        raise _SiteError(502, f"a streaming strategy without a function: {str(chosen)[:80]}")
    return _Step(callback, _encoded(_type_of(strategy, "token"), token))


def _encoded(type_: Type, token: Value) -> bytes:
    try:
        return encode([type_], [token])
    except ValueError as error:
        raise _SiteError(502, f"a token that cannot be sent back: {error}") from error


# -- what goes in and out


def _is_principal(text: str) -> bool:
    try:
        Principal.from_text(text)
    except (MalformedError, ValueError):
        return False
    return bool(text)


def _same_host(headers: Any) -> str:
    """The address of the page that a request says it comes from, where that is of the same host."""
    address = headers.get("referer", "")
    try:
        return address if urlsplit(address).netloc.lower() == headers.get("host", "").lower() else ""
    except ValueError:
        return ""


def _is_url(text: str) -> bool:
    try:
        urlsplit(text)
    except ValueError:
        return False
    return True


def _fields(web: WebRequest) -> dict[str, Value]:
    return {"method": web.method, "url": web.url, "headers": list(web.headers), "body": web.body}


def _replied(response: Reply | Reject, method: str) -> bytes:
    if isinstance(response, Reject):
        raise _refused(method, response)
    return response.data


def _refused(method: str, reject: Reject) -> _SiteError:
    code = f" {reject.error_code}" if reject.error_code else ""
    return _SiteError(503, f"{method} was rejected with code {int(reject.code)}{code}: {reject.message}")


def _decoded(decode: Callable[[bytes], tuple[Value, ...]], answer: bytes, method: str) -> Value:
    try:
        (found,) = decode(answer)
    except MalformedError as error:
        raise _SiteError(502, f"{method} gives no HTTP response: {error}") from error
    if not 200 <= found["status_code"] <= 599:
        raise _SiteError(502, f"{method} gives the status {found['status_code']}, expected one of 200 to 599")
    return found


def _checked(headers: Iterable[tuple[str, str]]) -> Headers:
    """Headers that are such: a name is one word, a value one line."""
    found, size_bytes = [], 0
    for name, value in headers:
        if not _TOKEN.match(name) or _UNPRINTABLE.search(value):
            raise _SiteError(502, f"the canister gives the header {name[:60]!r}: {value[:60]!r}, which is none")
        size_bytes += len(name) + len(value)
        if size_bytes > _MAX_HEADERS_BYTES:
            raise _SiteError(502, f"headers of more than {_MAX_HEADERS_BYTES} bytes")
        found.append((name, value))
    return tuple(found)


def _given(response: WebResponse, verified: Verified | None, how: str) -> Response:
    """What a browser gets: of a verified response what is certified."""
    headers = response.headers if verified is None or verified.headers is None else verified.headers
    kept, content_type = [], ""
    for name, value in headers:
        lower = name.lower()
        # UTF-8, if it is any; the server writes one byte a character.
        text = value.encode().decode("latin-1")
        if lower == "content-type":
            content_type = text
        elif lower not in _HOP_BY_HOP:
            kept.append((lower, text))
    if verified is not None:
        how = f"version {verified.version}" if verified.is_body_certified else "none asked for"
    kept.append(("x-perdure-verification", how))
    return Response(response.status, response.body, content_type, tuple(kept))


def _told(error: _SiteError) -> Response:
    return Response(error.status, f"perdure: {error}\n".encode(errors="backslashreplace"), TEXT)
