"""HTTPS outcalls by the names that PocketIC's library for Rust has: what waits, and what is answered to it.

request = pic.get_canister_http()[0]                                        # after submit_call and tick
reply = CanisterHttpReply(status=200, headers=[], body=b"12.5")
pic.mock_canister_http_response(MockCanisterHttpResponse(request.subnet_id, request.request_id, reply))
assert pic.await_call(call_id) == ...
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, final

from perdure.kit.pocket_ic.ic_py import IcPyPrincipal
from perdure.subnet.outcalls import HttpFailure, HttpResponse, PendingOutcall

__all__ = [
    "CanisterHttpReject",
    "CanisterHttpReply",
    "CanisterHttpRequest",
    "CanisterHttpResponse",
    "MockCanisterHttpResponse",
]

Header: TypeAlias = tuple[str, str]


@final
@dataclass(frozen=True)
class CanisterHttpRequest:
    """An outcall that waits for its response."""

    subnet_id: IcPyPrincipal
    request_id: int
    http_method: str
    """``GET``, ``HEAD``, ``POST``, ``PUT``, ``DELETE`` or ``PATCH``."""
    url: str
    headers: list[Header]
    body: bytes
    max_response_bytes: int

    @classmethod
    def of(cls, subnet_id: IcPyPrincipal, one: PendingOutcall) -> CanisterHttpRequest:
        """What waits, as PocketIC has it."""
        return cls(subnet_id, one.id, one.method, one.url, list(one.headers), one.body, one.max_response_bytes)


@final
@dataclass(frozen=True)
class CanisterHttpReply:
    """A response."""

    status: int
    headers: Iterable[Header] = ()
    body: bytes = b""

    def to_answer(self) -> HttpResponse:
        """As the subnet has it."""
        return HttpResponse(self.status, tuple(self.headers), self.body)


@final
@dataclass(frozen=True)
class CanisterHttpReject:
    """Why there is no response."""

    reject_code: int
    message: str

    def to_answer(self) -> HttpFailure:
        """As the subnet has it."""
        return HttpFailure(self.reject_code, self.message)


CanisterHttpResponse = CanisterHttpReply | CanisterHttpReject


@final
@dataclass(frozen=True)
class MockCanisterHttpResponse:
    """What is answered to an outcall: by all nodes, or by one and, in `additional_responses`, by each other one."""

    subnet_id: IcPyPrincipal | None
    request_id: int
    response: CanisterHttpResponse
    additional_responses: Sequence[CanisterHttpResponse] = ()
