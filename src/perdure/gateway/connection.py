"""What one client may take: bytes and seconds for the head of a request, connections, time to take an answer.

uvicorn's protocol waits for ever for a head that does not end, and takes one of any size.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection"]

MAX_CONNECTIONS: Final = 512
_MAX_HEAD_BYTES: Final = 64 << 10
_HEAD_SECONDS: Final = 10.0
_LINGER_SECONDS: Final = 20.0
"""For a client that does not take what was sent to it, after the connection was to end."""


def _refusal(status: bytes, words: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status, len(words)) + words


@final
class Connection(HttpToolsProtocol):
    """uvicorn's, with limits."""

    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None
    _since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection; where there are too many, the one that has been without a request for longest ends."""
        self._since = self.loop.time()
        if len(self.connections) >= MAX_CONNECTIONS:
            _end_oldest(self.connections)
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_awaiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, as long as the head is not too long."""
        self._head_bytes += len(data)
        super().data_received(data)
        if not self._head_bytes:
            return
        if self._head_bytes > _MAX_HEAD_BYTES and not self.is_busy:
            self._refuse(b"431 Request Header Fields Too Large", b"the head of a request has at most 65536 bytes\n")
        elif self._timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Begin to answer. A target that names another host than this connection's is for a proxy."""
        self._head_bytes = 0
        self._stop_awaiting()
        if self.url[:1] != b"/" and self.url != b"*":
            raise ValueError("a target that is no path")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which is no head."""
        self._head_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._head_bytes = 0
        super().on_message_complete()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        cycle: Any = self.cycle  # `None` before the first request
        return cycle is not None and not cycle.response_complete

    @property
    def idle_since(self) -> float:
        """When it began, in the loop's time; infinite: it is busy."""
        return float("inf") if self.is_busy else self._since

    def timeout_keep_alive_handler(self) -> None:
        """End it after a pause between requests."""
        super().timeout_keep_alive_handler()
        self._linger()

    def _await_head(self) -> None:
        self._timer = self.loop.call_later(_HEAD_SECONDS, self._late)

    def _stop_awaiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if not self.is_busy:
            self._refuse(b"408 Request Timeout", b"the head of the request took too long\n")

    def _refuse(self, status: bytes, words: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(_refusal(status, words))
            self.transport.close()
            self._linger()

    def _linger(self) -> None:
        self.loop.call_later(_LINGER_SECONDS, self.transport.abort)


def _end_oldest(connections: set[Any]) -> None:
    oldest = min(connections, key=lambda one: one.idle_since)
    if oldest.idle_since != float("inf"):
        oldest.transport.abort()
