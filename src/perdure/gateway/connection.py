"""What one client may take: bytes and seconds for the head of a request, connections, time to take an answer.

uvicorn's protocol waits for ever for a head that does not end, and takes one of any size; of requests that come before
the answers to others it keeps as many as there are.
"""

from __future__ import annotations

import asyncio
import fcntl
import struct
import termios
from collections import deque
from collections.abc import Callable
from itertools import islice
from operator import itemgetter
from typing import Any, Final, final

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Connection"]

MAX_CONNECTIONS: Final = 512
_WEIGHT_OF_SENDERS: Final = 10
"""Who has been silent for a tenth of the time for which another waits for an answer makes room before that one."""
_MAX_HEAD_BYTES: Final = 64 << 10
_MAX_HEADERS: Final = 256
"""Each is two objects, however short it is."""
_HEAD_SECONDS: Final = 10.0
_CHUNK_BYTES: Final = 64
_MAX_SHORT_CHUNKS: Final = 4096
"""Chunks of a body have so many bytes on average, but for so many: each one costs a call."""
_MAX_AHEAD: Final = 4
"""How many requests of one connection are read before an earlier one is answered, or some more: those in one slice."""
_SLICE_BYTES: Final = 1024
_BODY_SLICE_BYTES: Final = 16 << 10
_LINGER_SECONDS: Final = 10.0
"""For a client that does not take what was sent to it, or goes on sending, after the connection was to end."""
_MAX_LATE_BYTES: Final = 64 << 20
"""Taken and dropped of what a client sends then: one that is refused while it sends reads why only when it has sent."""
_STALLED_SECONDS: Final = 10.0
_STALLED_BYTES: Final = 16 << 10
"""For a client that takes fewer of what is sent to it than so many."""


def _refusal(status: bytes, words: bytes) -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
    return head % (status, len(words)) + words


def _queued_bytes(descriptor: int) -> int:
    """What the kernel has of a socket to send; 0 where it does not say."""
    try:
        return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
    except OSError:
        return 0


class Waiting:
    """The connections of a server that have to send something, or to take it, and since when."""

    def __init__(self) -> None:
        self.ending: dict[Connection, float] = {}
        self.idle: dict[Connection, float] = {}
        self.sending: dict[Connection, float] = {}
        """Those that have begun a request and not ended it."""
        self.answered: dict[Connection, float] = {}
        """Those that wait for an answer, or take it."""

    def begin(self, kind: dict[Connection, float], connection: Connection) -> None:
        """It waits from now on, for something of one kind."""
        self.forget(connection)
        kind[connection] = connection.loop.time()

    def forget(self, connection: Connection) -> None:
        """It does not wait any more."""
        for kind in (self.ending, self.idle, self.sending, self.answered):
            kind.pop(connection, None)

    def end_oldest(self, now: float, connections: set[Any]) -> None:
        """Make room for another one: of those who have waited longest, each of its kind."""
        weighed = (
            (self.ending, 1e9),
            (self.idle, _WEIGHT_OF_SENDERS),
            (self.sending, _WEIGHT_OF_SENDERS),
            (self.answered, 1),
        )
        oldest = [((now - since) * weight, one) for kind, weight in weighed for one, since in islice(kind.items(), 1)]
        if oldest:
            connection = max(oldest, key=itemgetter(0))[1]
            self.forget(connection)
            connections.discard(connection)  # it hears of its end later
            connection.transport.abort()


@final
class _Flow(FlowControl):
    """uvicorn's, but that nothing more is read while there is something that has not been parsed."""

    is_held = False

    def resume_reading(self) -> None:
        """Read, if there is room."""
        if not self.is_held:
            super().resume_reading()


@final
class _Transport:
    """A connection's, but that ending it lets the client read what was sent to it first."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self._transport = transport
        self._end = end
        self.is_ending = False
        self.abort = transport.abort

    def write(self, data: bytes) -> None:
        """Send something, unless it is at its end: of a request that came ahead of nonsense, say."""
        if not self.is_ending:
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more is to be sent."""
        return self.is_ending or self._transport.is_closing()

    def close(self) -> None:
        """Send what is to be sent, and end."""
        if not self.is_closing():
            self.is_ending = True
            self._end()


@final
class Connection(HttpToolsProtocol):
    """uvicorn's, with limits.

    Args:
        waiting: of this server.
        others: what uvicorn gives its protocols.
    """

    _head_bytes = 0
    _late_bytes = 0
    _short_chunks = 0.0
    _stalled: asyncio.TimerHandle | None = None
    _is_in_body = False
    _unread = b""
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *, waiting: Waiting, **others: Any) -> None:
        super().__init__(**others)
        self._waiting = waiting
        self._unanswered: deque[Any] = deque()
        """Cycles of uvicorn's, which marks the last one alone when the client goes away."""
        self._answering: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection; where there are too many, the one that has been without a request for longest ends."""
        if len(self.connections) >= MAX_CONNECTIONS:
            self._waiting.end_oldest(self.loop.time(), self.connections)
        super().connection_made(transport)
        self._socket = transport
        self.transport = self._ending = _Transport(transport, self._end)  # type: ignore[assignment]  # as good as one
        self.flow = self._flow = _Flow(transport)
        self._waiting.begin(self._waiting.idle, self)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._stop_awaiting()
        self.resume_writing()
        self._waiting.forget(self)
        super().connection_lost(exc)
        for cycle in self._unanswered:
            cycle.disconnected = True
        for task in self._answering:
            task.cancel()
        self._answering.clear()
        # What refers to itself would wait for the collector, which counts objects, not their bytes.
        self._unanswered.clear()
        self.pipeline.clear()
        self.cycle = self.scope = self.headers = None  # type: ignore[assignment]  # of a connection that has ended

    def data_received(self, data: bytes) -> None:
        """Feed the parser, as long as the head is not too long."""
        if self._ending.is_ending:
            self._late_bytes += len(data)
            if self._late_bytes > _MAX_LATE_BYTES:
                self._socket.abort()
            return
        self._unread += data
        self._read()

    def pause_writing(self) -> None:
        """The client is slower than the answer; one that takes nothing at all is not waited for."""
        super().pause_writing()
        if self._stalled is None:
            self._await_taking()

    def _await_taking(self) -> None:
        self._stalled = self.loop.call_later(_STALLED_SECONDS, self._check_taking, self._untaken_bytes())

    def _check_taking(self, before_bytes: int) -> None:
        if before_bytes - self._untaken_bytes() < _STALLED_BYTES:
            self._socket.abort()
        else:
            self._await_taking()

    def _untaken_bytes(self) -> int:
        """Of what was sent. The kernel has room for megabytes, and tells of a third of that at once."""
        return self._socket.get_write_buffer_size() + _queued_bytes(self._socket.get_extra_info("socket").fileno())

    def resume_writing(self) -> None:
        """It has taken something."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _read(self) -> None:
        """Parse what has come, up to some requests that are not answered; whoever sends more waits."""
        data, at = self._unread, 0
        while at < len(data) and len(self.pipeline) < _MAX_AHEAD and not self.transport.is_closing():
            part = data[at : at + (_BODY_SLICE_BYTES if self._is_in_body else _SLICE_BYTES)]
            at += len(part)
            self._head_bytes += len(part)
            super().data_received(part)
            self._check_head()
        if self._ending.is_ending:
            return  # what is left belongs to nothing
        self._unread = data[at:]
        self._flow.is_held = at < len(data)
        if self._flow.is_held:
            self._flow.pause_reading()

    def _check_head(self) -> None:
        if not self._head_bytes or self.transport.is_closing():
            return
        if self._head_bytes > _MAX_HEAD_BYTES:  # or what is between the chunks of a body, or after them
            self._refuse(b"431 Request Header Fields Too Large", b"the head of a request has at most 65536 bytes\n")
        elif self._timer is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """Begin a request, which is told where to say who answers it."""
        super().on_message_begin()
        own = {"answering": self._answering, "abort": self._socket.abort}
        self.scope.update(own)  # type: ignore[typeddict-item]  # the server's own

    def on_headers_complete(self) -> None:
        """Begin to answer. A target that names another host than this connection's is for a proxy."""
        self._head_bytes = 0
        self._stop_awaiting()
        if self.url[:1] != b"/" and self.url != b"*":
            raise ValueError("a target that is no path")
        self._is_in_body = True
        if self not in self._waiting.answered:
            self._waiting.begin(self._waiting.sending, self)
        super().on_headers_complete()
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # the parser reads nothing after it, whatever it is answered
        self._unanswered.append(self.cycle)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a line of the head, of which there may be so many."""
        if len(self.headers) >= _MAX_HEADERS:
            words = b"the head of a request has at most %d headers\n" % _MAX_HEADERS
            self._refuse(b"431 Request Header Fields Too Large", words)
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_chunk_header(self) -> None:
        """Begin a chunk of the body."""
        self._short_chunks += 1
        if self._short_chunks > _MAX_SHORT_CHUNKS:
            raise ValueError("too many chunks of a few bytes")

    def on_body(self, body: bytes) -> None:
        """Take a part of the body, which is no head."""
        self._head_bytes = 0
        self._short_chunks = max(0.0, self._short_chunks - len(body) / _CHUNK_BYTES)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """What comes next is another head."""
        self._head_bytes = 0
        self._is_in_body = False
        if self.is_busy and self not in self._waiting.answered:
            self._waiting.begin(self._waiting.answered, self)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, unless it has come already."""
        if self._unanswered:
            self._unanswered.popleft()
        if not self.transport.is_closing():
            self._waiting.begin(self._waiting.answered if self.pipeline else self._waiting.idle, self)
        super().on_response_complete()
        if self._unread:
            self._read()
            self._flow.resume_reading()

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        cycle: Any = self.cycle  # `None` before the first request
        return cycle is not None and not cycle.response_complete

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
        if self.is_busy and not (self._is_in_body and len(self._unanswered) == 1):
            self._socket.abort()  # it would be taken for the answer to a request before
        elif not self.transport.is_closing():
            self.transport.write(_refusal(status, words))
            self.transport.close()

    def _end(self) -> None:
        """End, but by no reset that takes away what was sent: closing does that where something has not been read."""
        self._stop_awaiting()
        self._waiting.begin(self._waiting.ending, self)
        is_sending = self._is_in_body or self._head_bytes or self._unread
        self._unread = b""
        if is_sending and self._socket.can_write_eof():
            self._socket.write_eof()
            self._flow.is_held = False
            self._socket.resume_reading()
        else:
            self._socket.close()
        self._timer = self.loop.call_later(_LINGER_SECONDS, self._socket.abort)
