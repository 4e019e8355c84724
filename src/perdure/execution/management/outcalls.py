"""HTTPS outcalls: what may be asked for, and what it costs. Who answers is outside: see `perdure.execution.outcalls`.

Spec: "IC method http_request", "IC method flexible_http_request". Words: `CanisterHttpRequestContext` of the replica
(2026).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from perdure.candid.types import Value
from perdure.canister import Reject
from perdure.execution.management.call import Call
from perdure.execution.messages import Outcall
from perdure.execution.rejects import rejected
from perdure.execution.state import Use
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode

__all__ = ["MAX_RESPONSE_BYTES", "flexible_http_request", "http_request", "refuse_headers", "replication_of"]

MAX_URL_BYTES: Final = 8_192
MAX_REQUEST_BYTES: Final = 2_000_000
MAX_RESPONSE_BYTES: Final = 2_000_000
MAX_HEADERS: Final = 64
MAX_HEADER_PART_BYTES: Final = 8 << 10
MAX_HEADERS_BYTES: Final = 48 << 10
MAX_IN_FLIGHT: Final = 3_000
TIMEOUT_NS: Final = 60_000_000_000
_CHANGING: Final = frozenset(["put", "delete", "patch"])
"""Methods that one node alone may use: the subnet goes on before all of thirteen have."""


def refuse_headers(headers: Iterable[tuple[str, str]], body_bytes: int) -> str | None:
    """Why headers and body are too much, of a request or a response; `None`: they are not."""
    sizes = [(len(name.encode()), len(value.encode())) for name, value in headers]
    total = sum(map(sum, sizes))
    longest = [max((size[part] for size in sizes), default=0) for part in (0, 1)]
    if len(sizes) > MAX_HEADERS:
        return f"number of all http headers {len(sizes)} exceeds {MAX_HEADERS}"
    for part, size in zip(("name", "value"), longest, strict=True):
        if size > MAX_HEADER_PART_BYTES:
            return f"number of bytes to represent some http header {part} {size} exceeds {MAX_HEADER_PART_BYTES}"
    if total > MAX_HEADERS_BYTES:
        words = "total number of bytes to represent all http header names and values"
        return f"{words} {total} exceeds {MAX_HEADERS_BYTES}"
    if total + body_bytes > MAX_REQUEST_BYTES:
        words = "total number of bytes to represent all http header names and values and http body"
        return f"{words} {total + body_bytes} exceeds {MAX_REQUEST_BYTES}"
    return None


def _refuse(call: Call) -> str | None:
    arg, caller = call.arg, call.message.caller
    if caller not in call.world.state.canisters:
        return f"canister {Principal(caller)} is on another subnet, which makes its requests"
    transform, limit = arg["transform"], arg["max_response_bytes"]
    if transform is not None and transform["function"].principal.raw_bytes != caller:
        found = transform["function"].principal
        return f"transform principal id expected to be {Principal(caller)}, got {found}"
    url_bytes = len(arg["url"].encode())
    if url_bytes > MAX_URL_BYTES:
        return f"url size {url_bytes} exceeds {MAX_URL_BYTES}"
    headers = ((header["name"], header["value"]) for header in arg["headers"])
    refusal = refuse_headers(headers, len(arg["body"] or b""))
    if refusal is None and limit is not None and limit > MAX_RESPONSE_BYTES:
        return f"max_response_bytes expected to be in the range [0..{MAX_RESPONSE_BYTES}], got {limit}"
    return refusal


def _request_bytes(arg: dict[str, Value]) -> int:
    transform = arg["transform"]
    return (
        len(arg["url"].encode())
        + sum(len(header["name"].encode()) + len(header["value"].encode()) for header in arg["headers"])
        + len(arg["body"] or b"")
        + (0 if transform is None else len(transform["function"].method.encode()) + len(transform["context"]))
    )


def _begin(call: Call, refusal: str | None) -> Reject | None:
    """Take the price, and have the request wait for whoever answers it."""
    message, state = call.message, call.world.state
    if refusal is None and len(state.outcalls) >= MAX_IN_FLIGHT:
        refusal = f"max number ({MAX_IN_FLIGHT}) of http requests in-flight reached."
    limit = call.arg["max_response_bytes"]
    size_bytes = MAX_RESPONSE_BYTES if limit is None else limit
    price = call.world.costs.http_request(_request_bytes(call.arg), size_bytes)
    if refusal is None and message.cycles < price:
        words = f"{message.method_name} request sent with {message.cycles} cycles, but {price} cycles are required."
        refusal = words
    if refusal is not None:
        return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, refusal)
    caller = state.canisters[message.caller]
    call.world.touch(caller)
    state.consume(caller, price, Use.HTTP_OUTCALLS)
    state.outcalls[state.next_outcall_id] = Outcall(
        message.origin,
        message.caller,
        message.method_name,
        message.arg,
        message.cycles - price,
        state.time_ns + TIMEOUT_NS,
    )
    state.next_outcall_id += 1
    return None


def http_request(call: Call) -> Reject | None:
    """A request whose response thirteen nodes have to agree on, or one node's."""
    (method,) = call.arg["method"]
    refusal = _refuse(call)
    if refusal is None and method in _CHANGING and call.arg["is_replicated"] is not False:
        refusal = "The requested HTTP method is only allowed for non-replicated requests."
    return _begin(call, refusal)


def replication_of(arg: dict[str, Value], nodes: int) -> tuple[int, int, int]:
    """How many nodes ask, and how few and how many responses are wanted."""
    counts = arg["replication"]
    if counts is None:
        return nodes, 2 * nodes // 3 + 1, nodes
    return counts["total_requests"], counts["min_responses"], counts["max_responses"]


def flexible_http_request(call: Call) -> Reject | None:
    """A request whose responses come as the nodes got them."""
    (method,), nodes = call.arg["method"], call.world.costs.nodes
    total, least, most = replication_of(call.arg, nodes)
    refusal = _refuse(call)
    wrong = {
        f"total_requests ({total}) must be at least 1": total < 1,
        f"total_requests ({total}) must not exceed the number of available nodes ({nodes})": total > nodes,
        f"min_responses ({least}) must not exceed max_responses ({most})": least > most,
        f"max_responses ({most}) must not exceed total_requests ({total})": most > total,
        f"{method.upper()} is allowed only where min_responses = max_responses = total_requests": (
            method in _CHANGING and not least == most == total
        ),
    }
    return _begin(call, refusal or next((words for words, is_wrong in wrong.items() if is_wrong), None))
