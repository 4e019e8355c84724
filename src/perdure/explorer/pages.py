"""The explorer: a request in, a page out, by one table of routes."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Final, NamedTuple, final
from urllib.parse import parse_qsl, quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined

from perdure.errors import PerdureError
from perdure.explorer import calls, canisters, data, past, snapshots, trials
from perdure.explorer.asked import PREFIX, Asked, Page, Shown
from perdure.explorer.guard import HEADERS, ORIGIN_NAME, host_name, is_of_another_page, is_of_this_machine, refusal
from perdure.explorer.site import NotFoundError, Site
from perdure.explorer.subject import trouble
from perdure.explorer.words import FILTERS
from perdure.gateway.http import MAX_UPLOAD_BYTES, Request, Response
from perdure.ic.principal import Principal
from perdure.inspection.source import Source
from perdure.network import Network
from perdure.subnet.subnet import Subnet

__all__ = ["Explorer"]

_HTML: Final = "text/html; charset=utf-8"
_STATIC: Final[Mapping[str, str]] = {
    "explorer.css": "text/css; charset=utf-8",
    "explorer.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "htmx.LICENSE": "text/plain; charset=utf-8",
}
_MAX_FORM_FIELDS: Final = 1000
CANDID_UI: Final = "a4gq6-oaaaa-aaaab-qaa4q-cai.localhost"
"""Where icp sends people who want to call a canister by hand."""


class _Route(NamedTuple):
    method: str
    path: re.Pattern[str]
    act: Callable[[Asked], Shown]


def _route(method: str, path: str, act: Callable[[Asked], Shown]) -> _Route:
    """A path with names of its parts in braces."""
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return _Route(method, re.compile(pattern + r"\Z"), act)


_ROUTES: Final = (
    _route("GET", "", canisters.index),
    _route("GET", "c/{id}", canisters.overview),
    _route("GET", "c/{id}/logs", canisters.logs),
    _route("GET", "c/{id}/map.svg", data.picture),
    _route("GET", "c/{id}/data", data.data),
    _route("POST", "c/{id}/sql", data.sql),
    _route("GET", "c/{id}/methods", calls.methods),
    _route("POST", "c/{id}/methods/ask", calls.ask),
    _route("POST", "c/{id}/call", calls.call),
    _route("GET", "calls", calls.recent),
    _route("GET", "pictures/{number}.svg", calls.picture),
    _route("GET", "c/{id}/snapshots", snapshots.snapshots),
    _route("POST", "c/{id}/snapshots/take", snapshots.take),
    _route("POST", "c/{id}/snapshots/{snapshot}/{what}", snapshots.change),
    _route("GET", "c/{id}/snapshots/{snapshot}.tar", snapshots.download),
    _route("GET", "c/{id}/snapshots/{snapshot}", snapshots.compare),
    _route("GET", "history", past.history),
    _route("GET", "history/{version}", past.version),
    _route("GET", "c/{id}/blame", past.blame),
    _route("GET", "c/{id}/what-if", trials.overview),
    _route("POST", "c/{id}/what-if/begin", trials.begin),
    _route("POST", "c/{id}/what-if/check", trials.check),
    _route("POST", "c/{id}/what-if/upgrade", trials.upgrade),
    _route("POST", "c/{id}/what-if/call", trials.call),
    _route("POST", "c/{id}/what-if/{what}", trials.end),
)
"""``POST`` changes or runs something, and needs the token."""


@final
class Explorer:
    """Pages over a subnet, over all subnets of a network, or over a memory alone.

    Args:
        what: whose canisters are shown; `None`: there are none.
        memory: a stable memory without a canister.
        title: what a person calls it all.
        names: gives, by id of a canister, what people call it; asked again at each page.

    Attributes:
        token: what is asked of whoever changes or runs anything; another one for each explorer.
    """

    max_upload_bytes = MAX_UPLOAD_BYTES
    """Of a module that somebody with the token sends."""

    def __init__(
        self,
        what: Subnet | Network | None,
        *,
        memory: Source | None = None,
        title: str = "",
        names: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self.token = secrets.token_urlsafe(16)
        self._site = Site(what, memory, title, names)

    @property
    def what(self) -> Subnet | Network | None:
        """What is shown."""
        return self._site.what

    def close(self) -> None:
        """End what has been begun; the subnet stays open."""
        self._site.close()

    # --- one request

    def wants(self, request: Request) -> bool:
        """Whether a request is for the explorer: also what is asked of its host and is nobody's there."""
        host, path = host_name(request.headers.get("host", "")), request.path
        if path.startswith(PREFIX):
            return host == ORIGIN_NAME or is_of_this_machine(host.strip("[]"))
        if host == CANDID_UI:
            return self._site.subnet_of(Principal.from_text(CANDID_UI.partition(".")[0])) is None
        return host == ORIGIN_NAME and not path.startswith("/api/")

    def begin(self, request: Request, client: str) -> Response:
        """Answer a request that it wants.

        Args:
            request: what came.
            client: the address that it came from.
        """
        if not is_of_this_machine(client):
            return _plain(403, "the explorer answers this machine alone")
        if request.path.startswith(PREFIX) and is_of_another_page(request.headers):
            return _plain(403, "the explorer is no part of other pages")
        path, _, query = request.path.partition("?")
        if not path.startswith(PREFIX):
            return self._moved(request, path, query)
        if host_name(request.headers.get("host", "")) != ORIGIN_NAME:
            return _redirect(request, ORIGIN_NAME, request.path)
        name = path.removeprefix(PREFIX)
        if name.startswith("static/"):
            return _static(name.removeprefix("static/"))
        return self._routed(name, request, query)

    def _routed(self, name: str, request: Request, query: str) -> Response:
        for route in _ROUTES:
            found = route.path.match(name)
            if found is not None and route.method == ("GET" if request.method == "HEAD" else request.method):
                return self._act(route, request, found.groupdict(), query)
        return self._error(404, f"no page {name[:100]!r} here")

    def _moved(self, request: Request, path: str, query: str) -> Response:
        """Canisters' pages are shown elsewhere; what icp calls the Candid interface is the page of methods."""
        if host_name(request.headers.get("host", "")) == CANDID_UI:
            wanted = quote(dict(parse_qsl(query)).get("id", ""), safe="")
            return _redirect(request, ORIGIN_NAME, f"{PREFIX}c/{wanted}/methods" if wanted else PREFIX)
        if path == "/" and "canisterId=" not in query and "canisterId=" not in request.headers.get("referer", ""):
            return _redirect(request, ORIGIN_NAME, PREFIX)
        return _redirect(request, "127.0.0.1", request.path)

    def may_upload(self, request: Request) -> bool:
        """Whether a request may have a body of up to `max_upload_bytes`."""
        return request.method == "POST" and request.path.startswith(PREFIX) and not refusal(request.headers, self.token)

    def _act(self, route: _Route, request: Request, parts: dict[str, str], query: str) -> Response:
        if route.method == "POST" and (why := refusal(request.headers, self.token)):
            return self._fragment_error(403, why)
        try:
            values = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS))
            if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
                body = request.body.decode()
                values |= dict(parse_qsl(body, keep_blank_values=True, max_num_fields=_MAX_FORM_FIELDS))
        except ValueError as error:
            return self._fragment_error(400, f"not a form: {error}")
        asked = Asked(self._site, request, {name: unquote(part) for name, part in parts.items()}, values)
        self._site.streams()  # from the first page on
        try:
            shown = route.act(asked)
        except NotFoundError as error:
            return self._error(404, str(error))
        except (PerdureError, ValueError, KeyError, OSError) as error:
            return (self._fragment_error if route.method == "POST" else self._error)(400, trouble(error))
        return shown if isinstance(shown, Response) else self._render(shown, asked)

    def _render(self, page: Page, asked: Asked) -> Response:
        facts = {"site": self._site, "names": self._site.names, "subject": asked.subject_or_none, **page.facts}
        text = _templates().get_template(page.template).render(facts)
        return Response(page.status, text.encode("utf-8", "replace"), _HTML, HEADERS)

    def _error(self, status: int, words: str) -> Response:
        text = _templates().get_template("error.html").render(site=self._site, words=words)
        return Response(status, text.encode("utf-8", "replace"), _HTML, HEADERS)

    def _fragment_error(self, status: int, words: str) -> Response:
        """What is put in the place of an answer, whose status is fine so that it is."""
        text = _templates().get_template("_error.html").render(words=words)
        shown = 200 if status == 400 else status
        return Response(shown, text.encode("utf-8", "replace"), _HTML, HEADERS)


def _static(name: str) -> Response:
    if name not in _STATIC:
        return _plain(404, "no such file")
    data = files(__package__).joinpath("static", name).read_bytes()
    headers = tuple((key, value) for key, value in HEADERS if key != "cache-control")
    return Response(200, data, _STATIC[name], (*headers, ("cache-control", "max-age=3600")))


def _redirect(request: Request, host: str, path: str) -> Response:
    """To another name of this server: pages of the explorer are at one, where no canister's page is."""
    port = re.search(r":\d{1,5}\Z", request.headers.get("host", ""), re.ASCII)
    place = f"http://{host}{port[0] if port else ''}{path}"
    return Response(307, headers=(("location", place), ("cache-control", "no-store")))


def _plain(status: int, words: str) -> Response:
    return Response(status, f"perdure: {words}\n".encode(), headers=HEADERS)


_made: list[Environment] = []


def _templates() -> Environment:
    if not _made:
        made = Environment(
            loader=PackageLoader(__package__),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=StrictUndefined,
        )
        made.filters.update(FILTERS)
        made.filters["part"] = lambda text: quote(str(text), safe="")
        _made.append(made)
    return _made[0]
