"""The HTTP interface of a running subnet, without a web framework: a request in, a response out.

| path | versions |
|---|---|
| ``/api/VERSION/canister/ID/call`` | v2 answers 202 at once; v3 and v4 wait for a certificate |
| ``/api/VERSION/canister/ID/query``, ``.../read_state`` | v2, v3 |
| ``/api/VERSION/subnet/ID/call``, ``.../query``, ``.../read_state`` | v4; v3; v2, v3 |
| ``/api/v2/status`` | |

Spec: "HTTPS Interface" in the interface specification 0.66.0.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache, partial
from hashlib import sha256
from importlib import metadata
from typing import Any, Final, NamedTuple, Protocol, final

import cbor2
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure.candid.types import Value
from perdure.canister import Reject, Reply
from perdure.errors import MalformedError
from perdure.execution.identity import root_key
from perdure.execution.management import METHODS
from perdure.execution.management.interface import codecs
from perdure.gateway.certifier import Certifier
from perdure.gateway.envelope import MARK, Envelope, Refusal, hash_of_map, read_envelope
from perdure.gateway.read_paths import check_paths
from perdure.gateway.signatures import Authority, Verifier
from perdure.gateway.state_tree import Node, alone
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.network.live import Live, Refused
from perdure.network.live import Request as Ingress

__all__ = ["CORS", "HALTED", "HttpInterface", "Pending", "Request", "Response", "Streamed", "awaited"]

CBOR: Final = "application/cbor"
TEXT: Final = "text/plain; charset=utf-8"
CORS: Final = (("access-control-allow-origin", "*"),)
"""Pages of any canister, on hosts of their own, are this interface's users; it knows nobody by cookies."""
_PREFLIGHT: Final = (
    *CORS,
    ("access-control-allow-methods", "GET, POST, HEAD, OPTIONS"),
    ("access-control-allow-headers", "*"),
    ("access-control-max-age", "600"),
)
_ED25519_DER: Final = bytes.fromhex("302a300506032b6570032100")
_RESPONSE: Final = b"\x0bic-response"
MAX_UPLOAD_BYTES: Final = 128 << 20
"""Of a module that somebody at this machine sends to its own pages."""
SYNCHRONOUS_SECONDS: Final = 10.0
"""For how long a call waits for its answer before its sender is to poll."""
_ANYBODYS: Final = frozenset(["create_canister", "provisional_create_canister_with_cycles"])
"""Methods of the management canister that concern no canister: any effective id will do."""
_VERSION: Final = "0.66.0"
HALTED: Final = (
    "no_healthy_nodes: There are currently no healthy replica nodes available to handle the request: the subnet is "
    "halted. Please try again later"
)
"""In the words of the network's boundary, which clients know; nothing was let in."""


class Request(NamedTuple):
    """What came: the path as sent, with its query; names of headers in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Streamed(Protocol):
    """A body that is not held in memory."""

    @property
    def size_bytes(self) -> int:
        """Of all of it."""
        ...

    def read(self, size_bytes: int) -> bytes:
        """The next bytes; none: that was all."""
        ...

    def close(self) -> None:
        """Let go of what it is made of; also while another thread reads."""
        ...


class Response(NamedTuple):
    """What goes back."""

    status: int
    body: bytes = b""
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()
    streamed: Streamed | None = None
    """In the place of a body: one that is read as it is sent, and closed in any case."""


@final
class Pending(NamedTuple):
    """A call that was let in and is not answered yet.

    Attributes:
        live: the subnet that has let it in.
        request_id: what it is known by.
        answer: the response, once it is answered; until then the one that sends its sender polling.
    """

    live: Live
    request_id: bytes
    answer: Callable[[], Response]

    def when_answered(self, tell: Callable[[], object]) -> Callable[[], None]:
        """See `Live.when_answered`."""
        return self.live.when_answered(self.request_id, tell)

    def respond(self) -> Response:
        """The response."""
        return self.answer()


@final
class HttpInterface:
    """Answers agents for one subnet.

    Args:
        live: the subnet, whose key must be there: the extra ``certification``.
    """

    def __init__(self, live: Live) -> None:
        state, network = live.subnet._state, live.rounds.network
        key = root_key(state.seed)
        self.live = live
        self._subnet_id = state.subnet_id
        self._node_key = ed25519.Ed25519PrivateKey.from_private_bytes(sha256(b"perdure node key" + state.seed).digest())
        public_key = self._node_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        node_key_der = _ED25519_DER + public_key
        self._node_id = Principal.self_authenticating(node_key_der).raw_bytes
        self._certifier = Certifier(
            live,
            key,
            Node(self._node_id, node_key_der),
            (lambda: alone(live.subnet._state)) if network is None else network._neighbours,
            None if network is None else partial(network._delegation, self._subnet_id),
        )
        self._verifiers: dict[bytes, Verifier] = {}

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """The response to a request; a call waits for its answer, for `SYNCHRONOUS_SECONDS`."""
        return awaited(self.begin(Request(method, path, headers, body)))

    def begin(self, request: Request) -> Response | Pending:
        """The response to a request, or what there is to wait for: see `Live.when_answered`."""
        try:
            response = self._route(request)
        except Refusal as refusal:
            response = Response(refusal.status, str(refusal).encode(errors="backslashreplace"))
        return response if isinstance(response, Pending) else response._replace(headers=(*CORS, *response.headers))

    def _route(self, request: Request) -> Response | Pending:
        path = request.path.partition("?")[0]
        if path == "/api/v2/status":
            if request.method not in {"GET", "HEAD", "OPTIONS"}:
                return Response(405, b"GET is expected here", headers=(("allow", "GET, HEAD, OPTIONS"),))
            return Response(204, headers=_PREFLIGHT[1:]) if request.method == "OPTIONS" else self._status()
        match path.split("/"):
            case ["", "api", version, scope, text, verb] if version in _ROUTES.get((scope, verb), _NOWHERE).versions:
                if request.method == "OPTIONS":
                    return Response(204, headers=_PREFLIGHT[1:])
                if request.method != "POST":
                    return Response(405, b"POST is expected here", headers=(("allow", "POST, OPTIONS"),))
                if self.live.is_halted:
                    raise Refusal(HALTED, 503)
                return _ROUTES[scope, verb].act(self, _Place(version, scope, _principal(text)), request.body)
        raise Refusal(f"there is nothing at {path[:200]}: see /api/v2/status", 404)

    def _status(self) -> Response:
        return _cbor(
            {
                "ic_api_version": _VERSION,
                "impl_version": f"perdure {_own_version()}",
                "replica_health_status": "healthy",
                "root_key": self.live.rounds.root_key,
            }
        )

    def _authenticated(self, body: bytes, request_type: str) -> tuple[Envelope, Authority]:
        envelope = read_envelope(body, request_type)
        now_ns = self.live.time_ns
        if request_type == "call" or envelope.content["sender"] != ANONYMOUS.raw_bytes:
            config = self.live.subnet._world.config
            _check_expiry(envelope.content["ingress_expiry"], now_ns, now_ns + config.ingress_history_ns)
        root_key_der = self.live.rounds.root_key  # another one once an NNS has come
        verifier = self._verifiers.get(root_key_der)
        if verifier is None:
            verifier = self._verifiers[root_key_der] = Verifier(root_key_der)
        return envelope, verifier.authenticate(envelope, request_type, now_ns)

    # --- calls

    def call(self, place: _Place, body: bytes) -> Response | Pending:
        """Let an update call in, and answer with a certificate."""
        envelope, authority = self._authenticated(body, "call")
        content, request_id = envelope.content, envelope.request_id
        self._check_place(place, content, _ANYBODYS)
        if content["canister_id"] == b"" and place.scope == "canister":
            _check_target(place.principal, content["method_name"], content["arg"])
        outcome = self.live.submit(
            Ingress(
                request_id,
                authority.sender,
                content["canister_id"],
                content["method_name"],
                content["arg"],
                place.principal,
                authority.caller_info,
            )
        )
        if isinstance(outcome, Refused):
            rejection = _rejection(outcome.reject)
            return _cbor(rejection if place.version == "v2" else {"status": "non_replicated_rejection", **rejection})
        if place.version == "v2":
            return Response(202)
        if outcome is None:
            return Pending(self.live, request_id, lambda: self._answer(request_id, place))
        return self._certified(request_id, place)

    def _answer(self, request_id: bytes, place: _Place) -> Response:
        found = self._certified(request_id, place) if self.live.is_answered(request_id) else Response(202)
        return found._replace(headers=CORS)

    def _certified(self, request_id: bytes, place: _Place) -> Response:
        return _cbor({"status": "replied", "certificate": self._certifier.of_answer(request_id, place.principal)})

    def _check_place(self, place: _Place, content: Mapping[str, Any], of_subnets: frozenset[str]) -> None:
        """Whether a message may go to where it was posted."""
        canister_id, method = content["canister_id"], content["method_name"]
        if place.scope == "subnet":
            if place.principal != self._subnet_id:
                raise Refusal(f"{Principal(place.principal)} is not this subnet, which is {Principal(self._subnet_id)}")
            if canister_id or method not in of_subnets:
                raise Refusal(
                    f"{method[:80]!r} is not for a subnet: only the management canister's {set(of_subnets)} is"
                )
        elif canister_id and canister_id != place.principal:
            raise Refusal(
                f"Specified CanisterId {Principal(canister_id)} does not match effective canister id in URL "
                f"{Principal(place.principal)}"
            )

    # --- queries

    def query(self, place: _Place, body: bytes) -> Response:
        """Answer a query, signed by the node."""
        envelope, authority = self._authenticated(body, "query")
        content = envelope.content
        self._check_place(place, content, frozenset(["list_canisters"]))
        response = self.live.query(
            content["canister_id"], content["method_name"], content["arg"], authority.sender, authority.caller_info
        )
        answer: dict[str, Any] = (
            {"status": "replied", "reply": {"arg": response.data}}
            if isinstance(response, Reply)
            else {"status": "rejected", **_rejection(response)}
        )
        time_ns = self.live.time_ns
        told = hash_of_map({**answer, "timestamp": time_ns, "request_id": envelope.request_id})
        signature = self._node_key.sign(_RESPONSE + told)
        answer["signatures"] = [{"timestamp": time_ns, "signature": signature, "identity": self._node_id}]
        return _cbor(answer)

    # --- reading the state

    def read_state(self, place: _Place, body: bytes) -> Response:
        """Certify what is at some paths of the state tree."""
        envelope, authority = self._authenticated(body, "read_state")
        paths = envelope.content["paths"]
        if place.scope == "subnet" and place.principal != self._subnet_id:
            raise Refusal(f"{Principal(place.principal)} is not this subnet, which is {Principal(self._subnet_id)}")
        with self.live.subnet._gate.lock:
            check_paths(paths, place.scope, place.principal, authority, self.live.subnet._state)
        return _cbor({"certificate": self._certifier.of_paths(paths, place.principal)})


class _Place(NamedTuple):
    """Where a request was posted."""

    version: str
    scope: str
    principal: bytes


class _Route(NamedTuple):
    versions: frozenset[str]
    act: Callable[[HttpInterface, _Place, bytes], Response | Pending]


_NOWHERE: Final = _Route(frozenset(), HttpInterface.query)
_ROUTES: Final = {
    ("canister", "call"): _Route(frozenset(["v2", "v3", "v4"]), HttpInterface.call),
    ("canister", "query"): _Route(frozenset(["v2", "v3"]), HttpInterface.query),
    ("canister", "read_state"): _Route(frozenset(["v2", "v3"]), HttpInterface.read_state),
    ("subnet", "call"): _Route(frozenset(["v4"]), HttpInterface.call),
    ("subnet", "query"): _Route(frozenset(["v3"]), HttpInterface.query),
    ("subnet", "read_state"): _Route(frozenset(["v2", "v3"]), HttpInterface.read_state),
}


@cache
def _own_version() -> str:
    return metadata.version("perdure")


def awaited(response: Response | Pending) -> Response:
    """The response, which is waited for, for `SYNCHRONOUS_SECONDS`."""
    if isinstance(response, Response):
        return response
    answered = threading.Event()
    forget = response.when_answered(answered.set)
    answered.wait(SYNCHRONOUS_SECONDS)
    forget()
    return response.answer()


@lru_cache(1024)
def _principal(text: str) -> bytes:
    try:
        return Principal.from_text(text).raw_bytes
    except (MalformedError, ValueError) as error:
        raise Refusal(f"Malformed request: {error}") from error


def _cbor(value: Mapping[str, Any]) -> Response:
    return Response(200, MARK + cbor2.dumps(value), CBOR)


def _rejection(reject: Reject) -> dict[str, Any]:
    found: dict[str, Any] = {"reject_code": int(reject.code), "reject_message": reject.message}
    if reject.error_code:
        found["error_code"] = str(reject.error_code)
    return found


def _check_expiry(expiry_ns: int, now_ns: int, last_ns: int) -> None:
    if not now_ns <= expiry_ns <= last_ns:
        # Clients look for the first words, and set their clocks by ours then.
        raise Refusal(
            "Invalid request expiry: Specified ingress_expiry not within expected range: "
            f"Minimum allowed expiry: {now_ns}, Maximum allowed expiry: {last_ns}, Provided expiry: {expiry_ns}"
        )


def _check_target(effective_id: bytes, method_name: str, arg: bytes) -> None:
    """A call of the management canister is posted to the canister that it is about."""
    if method_name in _ANYBODYS or method_name not in METHODS or not METHODS[method_name].target:
        return
    try:
        values: Sequence[Value] = codecs()[method_name][0].decode(arg)
    except (MalformedError, ValueError):
        return  # the rules refuse it, in the replica's words
    target = values[0][METHODS[method_name].target].raw_bytes if values else effective_id
    if target != effective_id:
        raise Refusal(
            f"Specified CanisterId {Principal(target)} does not match effective canister id in URL "
            f"{Principal(effective_id)}"
        )
