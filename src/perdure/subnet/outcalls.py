"""Who answers the HTTPS outcalls of a subnet's canisters: responses that are written down, a client, real servers.

    >>> outcalls = subnet.outcalls                                              # doctest: +SKIP
    >>> outcalls.get("https://api.example.com/price").respond(json={"usd": 12.5})
    >>> oracle.update("refresh")
    >>> outcalls.calls[0].headers

Asked in this order: a response that was written down for the URL; the client, if there is one; the server itself, if
its host is allowed. What nobody answers is rejected, in words that name it, as soon as somebody waits for it (`update`,
`run_until_idle`); `tick` leaves it in `pending`, to be looked at and answered by hand.
"""

from __future__ import annotations

import json as json_
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

from perdure.embedder.guard import threads
from perdure.execution.management.outcalls import MAX_RESPONSE_BYTES
from perdure.execution.messages import Outcall
from perdure.execution.outcalls import (
    HttpAnswer,
    HttpFailure,
    HttpResponse,
    answer_outcall,
    checked_answer,
    checked_response,
    request_of_outcall,
)
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import RejectCode
from perdure.raised import is_interruption
from perdure.subnet.gate import Gate, alone

if TYPE_CHECKING:
    import ssl

    import httpx

    from perdure.subnet.fetching import AllowedHosts, Request

__all__ = ["HttpFailure", "HttpResponse", "Outcalls", "PendingOutcall", "Route"]

Headers: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
Pattern: TypeAlias = "str | re.Pattern[str]"


@final
@dataclass(frozen=True)
class PendingOutcall:
    """A request of a canister that waits for its response.

    Attributes:
        id: names it, for `Outcalls.respond`.
        method: ``GET``, ``HEAD``, ``POST``, ``PUT``, ``DELETE`` or ``PATCH``.
        url: as the canister wrote it.
        headers: names and values, in order.
        body: empty where there is none.
        max_response_bytes: what the response may have, headers and body together.
        canister_id: who asks.
        transform: the method that the response goes through, if there is one.
        is_replicated: whether all nodes ask, rather than one.
        is_flexible: whether it is a ``flexible_http_request``.
    """

    id: int
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    max_response_bytes: int
    canister_id: Principal
    transform: str | None = None
    is_replicated: bool = True
    is_flexible: bool = False
    _body: bytes | None = field(default=None, repr=False)

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: it is none.
        """
        return json_.loads(self.body)

    @property
    def _request(self) -> Request:
        from perdure.subnet.fetching import Request

        return Request(self.method, self.url, self.headers, self._body, self.max_response_bytes)


def _seen(outcall_id: int, outcall: Outcall) -> PendingOutcall:
    arg = request_of_outcall(outcall)
    (method,) = arg["method"]
    limit, transform = arg["max_response_bytes"], arg["transform"]
    return PendingOutcall(
        outcall_id,
        method.upper(),
        arg["url"],
        tuple((one["name"], one["value"]) for one in arg["headers"]),
        b"" if arg["body"] is None else arg["body"],
        MAX_RESPONSE_BYTES if limit is None else limit,
        Principal(outcall.caller),
        None if transform is None else transform["function"].method,
        arg.get("is_replicated") is not False,
        outcall.method_name != "http_request",
        arg["body"],
    )


def _response(status: Any, json: Any, text: str | None, body: Any, headers: Headers, content_type: str) -> HttpResponse:
    """A response of what was given of it.

    Raises:
        ValueError: more than one of body, text and JSON, or no status.
        TypeError: a header that is no text, or a body that is no bytes.
    """
    given = [one for one in (json, text, body) if one is not None]
    if len(given) > 1:
        raise ValueError("one of json, text and body is expected, found several")
    pairs = tuple(headers.items() if isinstance(headers, Mapping) else headers)
    if json is not None:
        text, content_type = json_.dumps(json, separators=(",", ":")), "application/json"
    if text is not None:
        body = text.encode()
    made = checked_response(status, pairs, b"" if body is None else body)
    if text is not None and all(name.lower() != "content-type" for name, _ in made.headers):
        made = made._replace(headers=(("content-type", content_type), *made.headers))
    return made


@final
class Route:
    """What is answered to the requests of one method and URL; see `Outcalls.on`."""

    def __init__(self, method: str | None, url: Pattern) -> None:
        self._method = method
        self._url = url
        self._answers: list[HttpAnswer | Callable[[PendingOutcall], HttpAnswer]] = []
        self.calls: list[PendingOutcall] = []
        """The requests that were answered here."""

    def respond(
        self,
        status: int = 200,
        *,
        json: Any = None,
        text: str | None = None,
        body: bytes | None = None,
        headers: Headers = (),
    ) -> Route:
        """Answer with a response. Several are given in turn, the last one again and again.

        Args:
            status: of it.
            json: its body, as JSON.
            text: its body, as text.
            body: its body, as bytes.
            headers: names and values; without one ``content-type`` follows from `json` or `text`.
        """
        self._answers.append(_response(status, json, text, body, headers, "text/plain; charset=utf-8"))
        return self

    def respond_with(self, answer: Callable[[PendingOutcall], HttpAnswer]) -> Route:
        """Answer with what a function makes of the request: an `HttpResponse` or an `HttpFailure`.

        What it raises, whoever waits gets, once; the request waits until something else answers (`on`, `use`,
        `allow_hosts`, `answer`) or its time is over.
        """
        self._answers.append(answer)
        return self

    def fail(self, message: str, code: int = RejectCode.SYS_TRANSIENT) -> Route:
        """Have no response: the canister hears a reject."""
        self._answers.append(checked_answer(HttpFailure(code, message)))
        return self

    def _fits(self, outcall: PendingOutcall) -> bool:
        if not self._answers or self._method not in (None, outcall.method):
            return False
        if isinstance(self._url, re.Pattern):
            return self._url.fullmatch(outcall.url) is not None
        return self._url == outcall.url

    def _answer(self, outcall: PendingOutcall) -> HttpAnswer:
        answer = self._answers[min(len(self.calls), len(self._answers) - 1)]
        self.calls.append(outcall)
        return answer if isinstance(answer, HttpResponse | HttpFailure) else checked_answer(answer(outcall))


class _Owner(Protocol):
    @property
    def _gate(self) -> Gate: ...

    @property
    def _world(self) -> World: ...

    def _recover(self) -> None: ...

    def _undisturbed(self, ticket: None) -> Any: ...

    def _wait(self) -> None: ...


_NOBODY: Final = (
    "{method} {url} was not made: no response was written down for it, and its host is not allowed; "
    "see Subnet.outcalls: get({url!r}).respond(...) or allow_hosts(...); on the command line --allow-host HOST:PORT"
)


@final
class Outcalls:
    """The outcalls of one subnet, as ``subnet.outcalls``. A fork begins without any of this.

    Attributes:
        consensus: where one response stands for all nodes', whether to imagine a node that got other values in headers
            that differ from node to node, in another order: what depends on them is rejected, as on the network.
        waits: leave what nobody answers in `pending`, also where somebody waits for it.
    """

    def __init__(self, owner: _Owner) -> None:
        self._owner = owner
        self.consensus = True
        self.waits = False
        self._routes: list[Route] = []
        self._client: httpx.Client | None = None
        self._hosts: AllowedHosts | None = None
        self._calls: list[PendingOutcall] = []
        self._answering: set[int] = set()
        self._broken: dict[int, Outcall] = {}
        """Those for which whoever answers has raised: they wait until somebody else answers, lest all that follows
        raises, too."""
        owner._world.outcalls = self._answer_all

    # --- what is answered

    def on(self, method: str | None, url: Pattern) -> Route:
        """What is answered to requests of a method (`None`: any) and URL, where no newer one fits.

        The URL is a text, or a compiled regular expression that matches all of it.
        """
        route = Route(None if method is None else method.upper(), url)
        self._routes.append(route)
        self._broken.clear()
        return route

    def get(self, url: Pattern) -> Route:
        """`on` for ``GET``."""
        return self.on("GET", url)

    def head(self, url: Pattern) -> Route:
        """`on` for ``HEAD``."""
        return self.on("HEAD", url)

    def post(self, url: Pattern) -> Route:
        """`on` for ``POST``."""
        return self.on("POST", url)

    def put(self, url: Pattern) -> Route:
        """`on` for ``PUT``."""
        return self.on("PUT", url)

    def delete(self, url: Pattern) -> Route:
        """`on` for ``DELETE``."""
        return self.on("DELETE", url)

    def use(self, client: httpx.Client | None) -> None:
        """Have a client of httpx make requests; `None`: none any more. What it may reach is up to it.

        Raises:
            TypeError: it is something else; an `httpx.AsyncClient` has nobody here who awaits it.
        """
        if client is not None:
            import httpx

            if not isinstance(client, httpx.Client):
                raise TypeError(f"an httpx.Client is expected, found {type(client).__name__}")
        self._client = client
        self._broken.clear()

    def allow_hosts(
        self,
        *hosts: str,
        timeout_seconds: float = 30.0,
        max_redirects: int = 0,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """Have requests to these hosts be made, and to no others. The subnet waits meanwhile, unless it is served.

        Args:
            hosts: each with its port, ``api.example.com:443``. What is not on the public network is reached only by an
                address: ``127.0.0.1:8080``.
            timeout_seconds: for a request, all of it.
            max_redirects: how many are followed, each checked as a request is; by default none, as on the network.
            context: how certificates are verified; by default by the system's authorities.

        Raises:
            ValueError: no host with a port.
        """
        from perdure.subnet.fetching import AllowedHosts, parse_host

        allowed = frozenset(map(parse_host, hosts))
        self._hosts = AllowedHosts(allowed, timeout_seconds, max_redirects, context) if allowed else None
        self._broken.clear()

    # --- what was asked for

    @property
    def calls(self) -> tuple[PendingOutcall, ...]:
        """Requests answered or rejected since `Subnet.outcalls` was first asked for, oldest first.

        Of more than 1,000 the last ones.
        """
        return tuple(self._calls)

    @property
    def pending(self) -> tuple[PendingOutcall, ...]:
        """Requests that wait for a response, oldest first."""
        with self._owner._gate.lock:
            return tuple(_seen(number, one) for number, one in self._owner._world.state.outcalls.items())

    def respond(
        self,
        outcall: PendingOutcall | int,
        status: int = 200,
        *,
        json: Any = None,
        text: str | None = None,
        body: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        """Answer one of `pending` with a response; arguments as for `Route.respond`.

        Raises:
            KeyError: it does not wait any more.
        """
        self.answer(outcall, _response(status, json, text, body, headers, "text/plain; charset=utf-8"))

    def reject(self, outcall: PendingOutcall | int, message: str, code: int = RejectCode.SYS_TRANSIENT) -> None:
        """Have one of `pending` have no response."""
        self.answer(outcall, HttpFailure(code, message))

    def answer(self, outcall: PendingOutcall | int, *answers: HttpAnswer) -> None:
        """Answer one of `pending`: by what stands for all nodes, or by what each of them got.

        Raises:
            KeyError: it does not wait any more.
            ValueError: no answer, or as many as the subnet does not have nodes.
        """
        number = outcall.id if isinstance(outcall, PendingOutcall) else outcall
        nodes = self._owner._world.costs.nodes
        if len(answers) not in (1, nodes):
            raise ValueError(f"one answer is expected, or {nodes}, one of each node, found {len(answers)}")
        self.alone(lambda world: self._take(world, number, answers))

    def alone(self, act: Callable[[World], object]) -> None:
        """Work on the rules' side of the subnet, with the subnet to itself."""
        _Alone(self._owner).run(act)

    def _take(self, world: World, number: int, answers: Sequence[HttpAnswer]) -> None:
        found = world.state.outcalls.get(number)
        if found is None:
            raise KeyError(f"no outcall {number} waits for an answer: {sorted(world.state.outcalls)[:10]} do")
        self._calls.append(_seen(number, found))
        del self._calls[:-_MAX_CALLS]
        answer_outcall(world, number, answers, vary=self.consensus)

    # --- for the rules

    def _answer_all(self, world: World, waits: bool) -> bool:
        """See `World.outcalls`."""
        is_answered = False
        for number, outcall in list(world.state.outcalls.items()):
            if number in self._answering or number not in world.state.outcalls or self._broken.get(number) is outcall:
                continue  # a function that answers has called a canister, or answered by hand, or has raised
            seen = _seen(number, outcall)
            self._answering.add(number)
            signals = threads.here.state
            signals.let_in()
            try:
                answer = self._ask(seen, waits=waits)
            except BaseException as error:
                if not is_interruption(error):
                    self._broken[number] = outcall
                raise
            finally:
                signals.hold()
                self._answering.discard(number)
            if answer is not None and number in world.state.outcalls:
                self._take(world, number, [answer])
                is_answered = True
        return is_answered

    def _ask(self, outcall: PendingOutcall, *, waits: bool = True) -> HttpAnswer | None:
        """The answer of whoever answers, which may take its time; `None`: it is to go on waiting."""
        route = next((one for one in reversed(self._routes) if one._fits(outcall)), None)
        if route is not None:
            return route._answer(outcall)
        if self._client is not None:
            return _by_client(self._client, outcall)
        if self._hosts is not None:
            return self._hosts.fetch(outcall._request)
        if not waits or self.waits:
            return None
        words = _NOBODY.format(method=outcall.method, url=outcall.url[:500])
        return HttpFailure(RejectCode.SYS_TRANSIENT, words)


_MAX_CALLS: Final = 1_000


@final
class _Alone:
    """Runs something that has the subnet to itself."""

    def __init__(self, owner: _Owner) -> None:
        self._owner = owner
        self._gate = owner._gate

    def _recover(self) -> None:
        self._owner._recover()

    @alone
    def run(self, act: Callable[[World], object]) -> None:
        with self._owner._undisturbed(None) as world:
            act(world)
        self._owner._wait()


_CLIENTS_OWN: Final = ("accept", "accept-encoding", "user-agent", "connection")
"""Headers that httpx adds by itself, and the network does not."""


def _by_client(client: httpx.Client, outcall: PendingOutcall) -> HttpAnswer:
    import httpx

    try:
        request = _request_by(client, outcall)
    except (httpx.InvalidURL, ValueError, TypeError) as error:
        return _failed(outcall, error)
    try:
        response = client.send(request, stream=True)
        try:
            body = bytearray()
            for part in response.iter_raw():
                body += part
                if len(body) > outcall.max_response_bytes:
                    break  # the rules refuse it
        finally:
            response.close()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return _failed(outcall, error)
    headers = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw)
    return HttpResponse(response.status_code, headers, bytes(body))


def _request_by(client: httpx.Client, outcall: PendingOutcall) -> httpx.Request:
    request = client.build_request(outcall.method, outcall.url, headers=list(outcall.headers), content=outcall._body)
    own = {name.lower() for name, _ in outcall.headers}
    for name in _CLIENTS_OWN:
        if name not in own:
            request.headers.pop(name, None)
    if "user-agent" not in own:
        request.headers["user-agent"] = "ic/1.0"
    return request


def _failed(outcall: PendingOutcall, error: Exception) -> HttpFailure:
    words = f"{outcall.method} {outcall.url:.300} failed: {type(error).__name__}: {error!s:.500}"
    return HttpFailure(RejectCode.SYS_TRANSIENT, words)
