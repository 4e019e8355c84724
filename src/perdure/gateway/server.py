"""Plumbing: a socket, uvicorn in a thread, and what one client may take of it.

>>> with subnet.serve() as url:                                  # doctest: +SKIP
...     print(url)
http://127.0.0.1:49152
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Final, Protocol, final

from perdure.errors import HostError, StorageError, UnsupportedError
from perdure.gateway.budget import Budget, Held, Spent
from perdure.gateway.hosts import Hosts, is_loopback
from perdure.network import Network
from perdure.network.live import Clock, Rounds
from perdure.subnet.subnet import Subnet

try:
    import uvicorn

    from perdure.gateway.connection import Connection, Waiting
    from perdure.gateway.http import CORS, SYNCHRONOUS_SECONDS, Pending, Request, Response, Streamed
    from perdure.gateway.routing import Interfaces
    from perdure.gateway.site import Site
    from perdure.gateway.sparing import sparing
    from perdure.gateway.workers import Workers
except ModuleNotFoundError as missing:
    raise UnsupportedError("serving needs `pip install 'perdure[serve]'`").coded("extra-missing") from missing

__all__ = ["Pages", "Server", "listen", "serve"]

_LOG: Final = logging.getLogger("perdure")
MAX_BODY_BYTES: Final = 5 << 20
"""As the replica's: two megabytes of argument, and room for what is around it."""
_BODY_SECONDS: Final = 60.0
_MAX_HELD_BYTES: Final = 64 << 20
_SMALL_BYTES: Final = 16 << 10
_BYTES_A_SECOND: Final = 48 << 20
_BYTES_AT_ONCE: Final = 32 << 20
"""How fast larger bodies are taken: who sends them without a pause is slowed down before small requests are."""
_MAX_ANSWERS_BYTES: Final = 320 << 20
"""Of all answers that are put together or that clients have not taken yet; one by itself has at most 256 MiB."""
_SENT_AT_ONCE: Final = 64 << 10
_THREADS: Final = 16
_THREADS_OF_ONE: Final = 6
_THREADS_OF_PAGES: Final = 4
_PATIENCE_SECONDS: Final = 5.0
"""For who sends or takes something large, before it makes room for others."""
_MAKING_ROOM_SECONDS: Final = 0.01
_PART_BYTES: Final = 256 << 10
"""Of a body that is read as it is sent."""
_BACKLOG: Final = 128
"""Also how many connections are taken at once, while those that are there wait."""

Scope = dict[str, Any]
Handler = Callable[["Request"], "Response | Pending"]


class Pages(Protocol):
    """Pages of this machine's own, beside what is served."""

    def wants(self, request: Request) -> bool:
        """Whether a request is for these pages."""
        ...

    def begin(self, request: Request, client: str) -> Response:
        """Answer it; `client` is the address that it came from."""
        ...

    def may_upload(self, request: Request) -> bool:
        """Whether it may have a body of `max_upload_bytes`."""
        ...

    @property
    def max_upload_bytes(self) -> int:
        """More than others may send."""
        ...


def _not_opened(error: OSError, bind: str, port: int) -> OSError:
    """Why there is no socket, in words for who chose the address and the port."""
    why = {
        errno.EADDRINUSE: f"port {port} of {bind} is taken by another program: choose another, or 0 for a free one",
        errno.EADDRNOTAVAIL: f"{bind} is no address of this machine: choose one that it has, such as 127.0.0.1",
        errno.EACCES: f"port {port} of {bind} is not this user's to open: choose one above 1023, or 0 for a free one",
    }.get(error.errno or 0)
    return error if why is None else OSError(error.errno, why)


def listen(bind: str, port: int, domains: Iterable[str] = (), allow_hosts: Iterable[str] = ()) -> socket.socket:
    """A socket for a `Server`, open before there is anything to serve; arguments and errors as of it."""
    allow_hosts = tuple(allow_hosts)
    if not is_loopback(bind) and not allow_hosts:
        raise ValueError(
            f"others can reach {bind}: say by which name or address they ask for this server, with --allow-host "
            "(allow_hosts in Python)"
        )
    Hosts(domains, allow_hosts)
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    try:
        return socket.create_server((bind, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise _not_opened(error, bind, port) from error


@final
class Server:
    """An open socket on which a subnet, or a network of them, is served from `start` to `stop`.

    Args:
        what: the subnet or the network; it stays open when the server stops.
        bind: the address to listen on; one that others can reach needs `allow_hosts`.
        port: 0: a free one, see `url`; or the socket that `listen` has opened there.
        clock: ``real``: the subnet's time is the machine's; ``virtual``: it moves when somebody moves it.
        domains: names that are served beside ``localhost``, each with all names below it.
        allow_hosts: other names or addresses by which clients may ask for this server.
        pages: what is answered beside the interface and the canisters' own pages.

    Raises:
        UnsupportedError: the extra ``serve`` is not installed.
        ValueError: others could reach it, and no name of it is allowed.
        OSError: the port is taken, or the address is not this machine's.
    """

    def __init__(
        self,
        what: Subnet | Network,
        *,
        bind: str = "127.0.0.1",
        port: int | socket.socket = 0,
        clock: Clock = "real",
        domains: Iterable[str] = (),
        allow_hosts: Iterable[str] = (),
        pages: Pages | None = None,
    ) -> None:
        self._pages = pages
        domains, allow_hosts = tuple(domains), tuple(allow_hosts)
        listening = port if isinstance(port, socket.socket) else listen(bind, port, domains, allow_hosts)
        self.hosts = Hosts(domains, allow_hosts)
        self.rounds = Rounds.of(what, clock=clock)
        self.interface = Interfaces(self.rounds)
        self._on_their_way = Budget(_MAX_ANSWERS_BYTES)
        self._takers = _Slow(self._on_their_way)
        self._site = Site(self.rounds, self.hosts, self._on_their_way)
        self._socket = listening
        # Head and body are two writes: else the second one waits for the first one's acknowledgement, for 40 ms.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets have it, too
        self.port: int = self._socket.getsockname()[1]
        host = f"[{bind}]" if ":" in bind else bind
        self.url = f"http://{host}:{self.port}"
        self._workers: Workers[Request, Response | Pending] = Workers(_THREADS, _THREADS_OF_ONE, _close)
        self._answers: Workers[Pending, Response] = Workers(2, 2)
        self._shown: Workers[Request, Response] = Workers(_THREADS_OF_PAGES, _THREADS_OF_PAGES, _close)
        self._bodies = _Bodies(max(_MAX_HELD_BYTES, 0 if pages is None else pages.max_upload_bytes))
        self._lasting = ExitStack()
        self._uvicorn: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to answer; when it returns, requests are answered."""
        self._lasting.enter_context(sparing())
        self.rounds.start()
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            http=partial(Connection, waiting=Waiting()),  # type: ignore[arg-type]  # it is called, and nothing else
            backlog=_BACKLOG,
            log_level="error",
            limit_concurrency=None,  # `Waiting` makes room, where uvicorn answers whoever comes with 503
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=5,
        )
        self._uvicorn = server = uvicorn.Server(config)
        self._thread = thread = threading.Thread(
            target=server.run, args=([self._socket],), name="perdure serve", daemon=True
        )
        thread.start()
        while not server.started:
            thread.join(0.005)
            if not thread.is_alive():
                raise OSError("the server ended before it began")
        for live in self.rounds.lives:
            live.subnet._say_use(f"served at {self.url}")

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Take no more connections, answer what has been asked, for some seconds, and end."""
        if self._uvicorn is not None and self._thread is not None:
            self._uvicorn.should_exit = True
            self.rounds.end_waiting()  # who does is sent polling
            self._thread.join()
        self._workers.stop()
        self._answers.stop()
        self._shown.stop()
        self.rounds.stop()
        self._socket.close()
        for live in self.rounds.lives:
            with suppress(OSError):  # of the lock is said what can be said
                live.subnet._say_use("")
        self._lasting.close()

    # --- one request

    async def _answer(self, scope: Scope, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        """The application, as ASGI has it. It is cancelled when its client goes away."""
        task, answering = asyncio.current_task(), scope["answering"]
        answering.add(task)
        try:
            await self._answer_wanted(scope, receive, send)
        except asyncio.CancelledError:
            if task in answering:
                raise
        finally:
            answering.discard(task)

    async def _answer_wanted(self, scope: Scope, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        if self.hosts.name_of(headers.get("host")) is None or _has_two_hosts(scope["headers"]):
            told = f"perdure: {headers.get('host', '')[:100]!r} is no name of this server; see --allow-host\n"
            response = Response(421, told.encode(), headers=(("connection", "close"),))
        else:
            pages, most_bytes = self._pages, MAX_BODY_BYTES
            if pages is not None and pages.may_upload(Request(scope["method"], scope["path"], headers, b"")):
                most_bytes = pages.max_upload_bytes
            body = await self._bodies.read(receive, headers, most_bytes, scope["abort"])
            if isinstance(body, Response):
                response = body
            else:
                held = self._bodies.held(body)
                try:
                    response = await self._respond(scope, headers, body, held)
                except asyncio.CancelledError:  # it took longer than a server has that ends, or nobody is there
                    response = Response(503, b"perdure: the server ends\n", headers=(*CORS, ("connection", "close")))
                finally:
                    body = b""
                    held.let_go()
        await self._give(receive, send, response, scope)

    async def _give(
        self, receive: Callable[[], Any], send: Callable[[Any], Any], response: Response, scope: Scope
    ) -> None:
        """Send a response, unless too many large ones are not taken yet."""
        size_bytes = len(response.body)
        if size_bytes <= _SENT_AT_ONCE:
            await _send(receive, send, response, scope["method"])
        elif await self._takers.take(size_bytes):
            try:
                with self._takers.holding(scope["abort"]):
                    await _send(receive, send, response, scope["method"])
            finally:
                self._on_their_way.give(size_bytes)
        else:
            words = b"clients have not taken too many large answers yet: try again\n"
            headers = CORS if scope["path"].startswith("/api/") else ()
            await _send(receive, send, Response(503, words, headers=headers), scope["method"])

    async def _respond(self, scope: Scope, headers: dict[str, str], body: bytes, held: Held) -> Response:
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        request = Request(scope["method"], path, headers, body)
        if self._pages is not None and self._pages.wants(request):
            client = (scope.get("client") or ("",))[0]
            shown = self._shown.run("pages", partial(self._show, client, held.keep()), request, held.let_go)
            return await self._shown.answer(shown)
        loop, line = asyncio.get_running_loop(), _about(path, headers)
        begun = self._workers.run(line, partial(self._begin, held.keep()), request, held.let_go)
        if path.startswith("/api/") and path.endswith("/call"):
            answers = (Response(202, headers=CORS), _too_busy())  # what was asked goes on; its sender is to poll
            timer = loop.call_later(SYNCHRONOUS_SECONDS, self._workers.leave, begun, *answers)
            try:
                response = await self._workers.answer(begun)
            finally:
                timer.cancel()
        else:
            response = await self._workers.answer(begun)
        if isinstance(response, Response):
            return response
        answered = asyncio.Event()
        forget = response.when_answered(lambda: loop.call_soon_threadsafe(answered.set))
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(answered.wait(), SYNCHRONOUS_SECONDS)
        finally:
            forget()
        return await self._answers.run(line, Pending.respond, response)

    def _show(self, client: str, held: Held, request: Request) -> Response:
        assert self._pages is not None
        try:
            return self._pages.begin(request, client)
        except Exception as error:
            return _failed(request, error)
        finally:
            held.let_go()

    def _begin(self, held: Held, request: Request) -> Response | Pending:
        try:
            is_api = request.path.startswith("/api/")
            return self.interface.begin(request) if is_api else self._site.begin(request)
        except Exception as error:
            return _failed(request, error, CORS)
        finally:
            held.let_go()


def _failed(request: Request, error: Exception, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """What is told of an error that is no refusal: what the machine could not do by its name, of the rest nothing."""
    method, path = request.method, request.path[:200]
    if not isinstance(error, StorageError | HostError):
        _LOG.exception("%s %s failed", method, path)
        return Response(500, b"perdure: an error of ours, which its log tells\n", headers=headers)
    _LOG.error("%s %s failed: %s", method, path, error)
    if error.error_code != "disk-full":
        return Response(500, f"perdure: {error}\n".encode(), headers=headers)
    told = f"perdure: the disk is full: {error}\nfree space there and send the request again\n"
    return Response(507, told.encode(), headers=headers)


def _close(response: Response | Pending) -> None:
    """Let go of what nobody is sent."""
    if isinstance(response, Response) and response.streamed is not None:
        response.streamed.close()


def _has_two_hosts(headers: list[tuple[bytes, bytes]]) -> bool:
    return sum(name == b"host" for name, _ in headers) > 1


_ID: Final = re.compile(r"[a-z0-9]{5}(-[a-z0-9]{1,5}){1,12}", re.ASCII)
_CHOSEN: Final = re.compile(r"[?&]canisterId=([^&#]*)")


def _about(path: str, headers: dict[str, str]) -> str:
    """Whom a request is about: who waits for one canister waits in one line, however it is named.

    What names no canister, or by a name that has to be asked for first, has one line in common.
    """
    if path.startswith("/api/") and path.count("/") > 4:
        named = path.split("/", 5)[4]
    else:
        chosen = _CHOSEN.search(path) or _CHOSEN.search(headers.get("referer", ""))
        label = headers["host"].lower().partition(".")[0]
        named = label if chosen is None or _ID.fullmatch(label) else chosen[1]
    return named if _ID.fullmatch(named) else ""


@final
class _Slow:
    """Clients that have bytes of a budget. Where others need them, they go, one after the other, after some seconds."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._holders: dict[object, tuple[float, Callable[[], object]]] = {}

    @contextmanager
    def holding(self, end: Callable[[], object]) -> Iterator[object]:
        """Be one of them for as long as the block goes on; gives what `take` knows it by. `end` ends it, soon."""
        one = object()
        self._holders[one] = (time.monotonic(), end)
        try:
            yield one
        finally:
            self._holders.pop(one, None)

    async def take(self, size_bytes: int, own: object = None) -> bool:
        """Have some bytes; whether there are as many, once the slow have made room."""
        while not self._budget.take(size_bytes):
            oldest, (since, end) = next(iter(self._holders.items()), (own, (0.0, _nothing)))
            if oldest is own or time.monotonic() - since < _PATIENCE_SECONDS:
                return False
            del self._holders[oldest]
            end()
            await asyncio.sleep(_MAKING_ROOM_SECONDS)
        return True


def _nothing() -> None:
    pass


@final
class _Bodies:
    """Reads bodies, of which only so many bytes are held at once: until they are answered."""

    def __init__(self, most_bytes: int) -> None:
        self._held = Budget(most_bytes)
        self._senders = _Slow(self._held)
        self._left_bytes = float(_BYTES_AT_ONCE)
        self._filled_at = 0.0

    def held(self, body: bytes) -> Held:
        """What a body that was read has of all bodies' bytes."""
        return Held(self._held, len(body) if len(body) > _SMALL_BYTES else 0)

    async def _spend(self, size_bytes: int) -> None:
        """Wait until so many bytes may be taken."""
        now = time.monotonic()
        more = (now - self._filled_at) * _BYTES_A_SECOND
        self._left_bytes = min(_BYTES_AT_ONCE, self._left_bytes + more) - size_bytes
        self._filled_at = now
        if self._left_bytes < 0:
            await asyncio.sleep(-self._left_bytes / _BYTES_A_SECOND)

    async def read(
        self, receive: Callable[[], Any], headers: dict[str, str], most_bytes: int, end: Callable[[], object]
    ) -> bytes | Response:
        """The whole body, which is `held` until it is let go, or why it is not read; `end` ends its sender."""
        told = headers.get("content-length", "0")
        if not told.isascii() or not told.isdigit() or len(told) > 12 or int(told) > most_bytes:
            return _too_large()
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            if len(body) <= min(_SMALL_BYTES, most_bytes):
                return body
            await self._spend(len(body))
            if len(body) > most_bytes:
                return _too_large()
            return body if await self._senders.take(len(body)) else _too_many()
        spent = Spent(self._held)
        read: bytes | Response = b""
        try:
            with self._senders.holding(end) as own:
                async with asyncio.timeout(_BODY_SECONDS):
                    read = await self._rest(message, receive, most_bytes, spent, own)
        except TimeoutError:
            read = Response(408, b"the body took too long\n", headers=(*CORS, ("connection", "close")))
        finally:
            if not isinstance(read, bytes) or len(read) <= _SMALL_BYTES:
                self._held.give(spent.size_bytes)
        return read

    async def _rest(
        self, message: dict[str, Any], receive: Callable[[], Any], most_bytes: int, spent: Spent, own: object
    ) -> bytes | Response:
        parts, size_bytes = [], 0
        while message["type"] == "http.request":
            part = message.get("body", b"")
            size_bytes += len(part)
            if size_bytes > most_bytes:
                return _too_large()
            if size_bytes > _SMALL_BYTES:
                if not await self._senders.take(size_bytes - spent.size_bytes, own):
                    return _too_many()
                spent.size_bytes = size_bytes
                await self._spend(len(part))
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await receive()
        return Response(400, b"the body ended early\n")


def _too_many() -> Response:
    words = b"too many large requests are on their way: try again\n"
    return Response(503, words, headers=(*CORS, ("connection", "close")))


def _too_busy() -> Response:
    return Response(503, b"too many calls wait for their canisters: try again\n", headers=CORS)


def _too_large() -> Response:
    words = f"a request has at most {MAX_BODY_BYTES} bytes".encode()
    return Response(413, words, headers=(*CORS, ("connection", "close")))


async def _send(receive: Callable[[], Any], send: Callable[[Any], Any], response: Response, method: str) -> None:
    streamed = response.streamed
    try:
        await _send_head(send, response)
        if method == "HEAD" or response.status in (204, 304):
            await send({"type": "http.response.body", "body": b""})
        elif streamed is None:
            await _send_slices(send, response.body)
        else:
            await _send_parts(receive, send, streamed)
    finally:
        if streamed is not None:
            streamed.close()


async def _send_slices(send: Callable[[Any], Any], body: bytes) -> None:
    """A body in memory; each slice waits until the client has taken those before."""
    for at in range(0, len(body) - _SENT_AT_ONCE, _SENT_AT_ONCE):
        await send({"type": "http.response.body", "body": body[at : at + _SENT_AT_ONCE], "more_body": True})
        await asyncio.sleep(0)  # where it takes them at once, others are to have their turn
    await send({"type": "http.response.body", "body": body[-(len(body) % _SENT_AT_ONCE or _SENT_AT_ONCE) :]})


async def _send_parts(receive: Callable[[], Any], send: Callable[[Any], Any], streamed: Streamed) -> None:
    """A body part by part, as fast as it is taken, until its reader goes away."""
    gone = asyncio.ensure_future(receive())  # all of the request has come: what comes now is that nobody is there
    try:
        while not gone.done():
            part = await asyncio.to_thread(streamed.read, _PART_BYTES)
            await send({"type": "http.response.body", "body": part, "more_body": bool(part)})
            if not part:
                return
    finally:
        gone.cancel()


async def _send_head(send: Callable[[Any], Any], response: Response) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    if response.status not in (204, 304):
        size_bytes = len(response.body) if response.streamed is None else response.streamed.size_bytes
        headers.append((b"content-length", str(size_bytes).encode()))
        if response.content_type:
            headers.append((b"content-type", response.content_type.encode("latin-1")))
    await send({"type": "http.response.start", "status": response.status, "headers": headers})


@contextmanager
def serve(
    what: Subnet | Network,
    *,
    port: int = 0,
    bind: str = "127.0.0.1",
    clock: Clock = "real",
    domains: Iterable[str] = (),
    allow_hosts: Iterable[str] = (),
) -> Iterator[str]:
    """Serve a subnet or a network within the block; see `Server`. Gives the URL."""
    with Server(what, bind=bind, port=port, clock=clock, domains=domains, allow_hosts=allow_hosts) as server:
        yield server.url
