"""Messages between users, canisters and the system, and what remembers who waits for them.

Spec: "Calls and Messages" and "Call contexts" in the interface specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, final

from perdure.canister import Callback, Reject, Reply

__all__ = [
    "CallContext",
    "CallMessage",
    "CallOrigin",
    "FromCanister",
    "FromUser",
    "Message",
    "OpenCall",
    "Outcall",
    "RefundMessage",
    "Response",
    "ResponseMessage",
    "cycles_of",
    "payload_bytes",
    "request_of",
]

Response = Reply | Reject


class FromUser(NamedTuple):
    """A user waits for the response, under the id of the request."""

    request_id: bytes


class FromCanister(NamedTuple):
    """A canister waits for the response, under the number of its open call."""

    canister_id: bytes
    call_id: int
    deadline_ns: int
    """When a bounded-wait call expires; 0: never."""


CallOrigin = FromUser | FromCanister
"""Who waits; system tasks have no origin."""


@final
@dataclass(slots=True)
class CallMessage:
    """A request on its way to a canister."""

    origin: CallOrigin
    caller: bytes
    callee: bytes
    method_name: str
    arg: bytes
    cycles: int = 0
    caller_info_data: bytes = b""
    caller_info_signer: bytes = b""


def request_of(message: CallMessage) -> bytes:
    """The id of a user's request; empty: a canister's call."""
    return message.origin.request_id if isinstance(message.origin, FromUser) else b""


@final
@dataclass(slots=True)
class ResponseMessage:
    """A response on its way back to a canister."""

    receiver: bytes
    call_id: int
    response: Response
    refund: int


@final
@dataclass(slots=True)
class RefundMessage:
    """Cycles on their way back to a canister, of a call whose time was up: nobody waits for an answer any more."""

    receiver: bytes
    cycles: int


Message = CallMessage | ResponseMessage | RefundMessage


def cycles_of(message: Message) -> int:
    """What a message has with it."""
    return message.refund if isinstance(message, ResponseMessage) else message.cycles


def payload_bytes(message: Message) -> int:
    """What a message carries: method name and argument, a reply's data, a rejection's words."""
    if isinstance(message, CallMessage):
        return len(message.arg) + len(message.method_name.encode())
    if isinstance(message, RefundMessage):
        return 0
    response = message.response
    return len(response.data) if isinstance(response, Reply) else len(response.message.encode())


@final
@dataclass(frozen=True, slots=True)
class Outcall:
    """A request to a server outside, which somebody has still to answer."""

    origin: CallOrigin
    caller: bytes
    method_name: str
    """``http_request`` or ``flexible_http_request``."""
    arg: bytes
    cycles: int
    """That go back with the answer."""
    deadline_ns: int


@final
@dataclass(slots=True)
class CallContext:
    """What is left to be done for one call; several messages may work on it."""

    context_id: int
    origin: CallOrigin | None
    caller: bytes
    needs_to_respond: bool
    available_cycles: int = 0
    caller_info_data: bytes = b""
    caller_info_signer: bytes = b""
    deadline_ns: int = 0
    open_calls: int = 0
    instructions: int = 0
    deleted: bool = False
    """The canister was uninstalled meanwhile; responses only bring cycles back."""
    trap: Reject | None = None
    """Why the last message of this context trapped, to be told if nobody responds."""


@final
@dataclass(slots=True)
class OpenCall:
    """A call that a canister has made and that has not been answered."""

    context_id: int
    callee: bytes
    cycles: int
    prepaid_execution: int
    prepaid_transmission: int
    deadline_ns: int
    on_reply: Callback
    on_reject: Callback
    on_cleanup: Callback | None
