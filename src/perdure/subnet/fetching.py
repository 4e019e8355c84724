"""Requests to real servers, for canisters that nobody trusts: only to hosts that somebody has allowed.

A host is allowed with its port. Its name is resolved once, every address is checked, and the connection goes to an
address that was checked, so that an answer of the DNS that changes meanwhile reaches nothing. An address that is not on
the public network (loopback, private, link-local and others) is reached only where the allowed host is that address and
no name. Certificates are verified for the name. No proxy, cookie, or setting of the environment has a say. Sizes and
time are bounded for all of a request, however slowly it comes.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final
from urllib.parse import SplitResult, urljoin, urlsplit

from perdure.execution.outcalls import HttpAnswer, HttpFailure, HttpResponse
from perdure.ic.reject import RejectCode

__all__ = ["AllowedHosts", "Request", "parse_host"]

USER_AGENT: Final = "ic/1.0"
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAX_HEADER_BYTES: Final = 64 << 10
_CHUNK_BYTES: Final = 64 << 10
_REDIRECTS: Final = frozenset([301, 302, 303, 307, 308])
_OURS: Final = frozenset(["host", "content-length", "connection", "transfer-encoding"])
"""Headers that say how a message is sent, which its sender knows."""

Resolve = Callable[[str, int], Iterable[str]]


@final
class Request(NamedTuple):
    """What a canister asks for. `body` is `None` where there is none."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    max_response_bytes: int


class _RefusedError(Exception):
    """Why a request is not made, or not waited for."""


def parse_host(text: str) -> tuple[str, int]:
    """``example.com:443`` or ``[::1]:8080``: the host in lower case, without brackets, and the port.

    Raises:
        ValueError: it is something else.
    """
    words = f"a host and its port are expected, as example.com:443 or [::1]:8080, found {text!r:.100}"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(words) from error
    # urlsplit leaves out some characters, and what is between a bracket and the port.
    is_whole = parts.netloc == text and text.isprintable() and ("]" not in text or "]:" in text)
    host = _plain_host(host or "")
    if not is_whole or not port or any(one in text for one in "@* ") or not all(host.split(".")):
        raise ValueError(words)
    return host, port


def _plain_host(host: str) -> str:
    """A name as certificates and the DNS have it: lower case, without the dot at its end."""
    return host.lower().removesuffix(".")


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether it is of the public network, also behind what it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if wrapped is not None:
            return address.ipv4_mapped is not None and _is_public(wrapped)
        if address not in _ASSIGNED or address in _DOCUMENTATION:
            return False
    return address.is_global and not address.is_multicast


_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_ASSIGNED: Final = ipaddress.IPv6Network("2000::/3")
"""What hosts of the public network have: not site-local ones, nor forms with an IPv4 address in them."""
_DOCUMENTATION: Final = ipaddress.IPv6Network("3fff::/20")


def _system_addresses(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


@final
class _Timed(io.RawIOBase):
    """A socket's bytes, until a time that no slow server moves, and no more than so many."""

    def __init__(self, connection: socket.socket, until: float, max_bytes: int) -> None:
        self._connection = connection
        self._until = until
        self._left = max_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(buffer)  # type: ignore[arg-type]
        self._connection.settimeout(_left(self._until))
        count = self._connection.recv_into(view)
        self._left -= count
        if self._left < 0:
            raise _RefusedError("more bytes came than a response of that size has")
        return count


@final
class _Wire:
    """What `http.client` reads a response from, in place of a socket."""

    def __init__(self, timed: _Timed) -> None:
        self._reader = io.BufferedReader(timed)

    def makefile(self, *_: object, **__: object) -> io.BufferedIOBase:
        return self._reader


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


@final
@dataclass
class AllowedHosts:
    """Makes requests to hosts that are allowed.

    Args:
        hosts: each a name or address, with its port.
        timeout_seconds: for a request, all of it.
        max_redirects: how many are followed, each checked as the first request was; by default none, as on the network:
            the canister gets the redirect.
        context: how certificates are verified; by default as the system does.
        resolve: addresses of a name.
    """

    hosts: frozenset[tuple[str, int]]
    timeout_seconds: float = 30.0
    max_redirects: int = 0
    context: ssl.SSLContext | None = None
    resolve: Resolve = field(default=_system_addresses, repr=False)

    def fetch(self, request: Request) -> HttpAnswer:
        """The response to a request, or why there is none, in words that name the URL."""
        until = time.monotonic() + self.timeout_seconds
        try:
            for _ in range(self.max_redirects + 1):
                response = self._fetch(request, until)
                following = _redirected(request, response) if self.max_redirects else None
                if following is None:
                    return response
                request = following
            raise _RefusedError(f"more than {self.max_redirects} redirects")
        except _RefusedError as error:
            words = str(error)
        except TimeoutError:
            words = f"no response within {self.timeout_seconds:g} seconds"
        except ssl.SSLCertVerificationError as error:
            words = f"its certificate is not valid for it: {error.verify_message}"
        except (OSError, http.client.HTTPException, ValueError) as error:
            words = f"{type(error).__name__}: {str(error).strip()}"
        return HttpFailure(RejectCode.SYS_TRANSIENT, f"{request.method} {request.url:.300} failed: {words:.500}")

    # --- one request

    def _fetch(self, request: Request, until: float) -> HttpResponse:
        parts = _split(request.url)
        host = _plain_host(parts.hostname or "")
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        headers = _headers_of(request)
        connection = self._connect(host, port, until)
        try:
            if parts.scheme == "https":
                connection.settimeout(_left(until))
                context = self.context or ssl.create_default_context()
                connection = context.wrap_socket(connection, server_hostname=host)
            return _exchange(
                connection, request, _target(parts), [("Host", _host_header(host, parts)), *headers], until
            )
        finally:
            connection.close()

    def _connect(self, host: str, port: int, until: float) -> socket.socket:
        if (host, port) not in self.hosts:
            raise _RefusedError(
                f"{host}:{port} is not allowed; see Subnet.outcalls.allow_hosts, or on the command line --allow-host "
                "of canister call, --allow-outcalls of serve"
            )
        raised: OSError | None = None
        for address in self._checked(host, port, until):
            try:
                return socket.create_connection((address, port), timeout=_left(until))
            except TimeoutError:
                raise
            except OSError as error:
                raised = error
        raise raised or _RefusedError(f"{host} has no address")

    def _checked(self, host: str, port: int, until: float) -> list[str]:
        """Addresses to connect to: the host, where it is one, else those of its name, all of them public."""
        if _address(host) is not None:
            return [host]
        addresses = _in_time(lambda: list(self.resolve(host, port)), until)
        for text in addresses:
            address = _address(text.partition("%")[0])
            if address is None or not _is_public(address):
                words = "which is not on the public network; allow the address itself if that is meant"
                raise _RefusedError(f"{host} is at {text}, {words}")
        return addresses


def _in_time(resolve: Callable[[], list[str]], until: float) -> list[str]:
    """What `resolve` gives, which has no limit of its own."""
    found: queue.SimpleQueue[list[str] | OSError] = queue.SimpleQueue()

    def run() -> None:
        try:
            found.put(resolve())
        except OSError as error:
            found.put(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        result = found.get(timeout=_left(until))
    except queue.Empty:
        raise TimeoutError from None
    if isinstance(result, OSError):
        raise result
    return result


def _split(url: str) -> SplitResult:
    if any(character <= " " or character == "\x7f" for character in url):
        raise _RefusedError("the URL has a space or a control character")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise _RefusedError(f"no URL: {error}") from error
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise _RefusedError("a URL of http or https with a host is expected")
    if parts.username is not None or parts.password is not None:
        raise _RefusedError("the URL has a user in it")
    if not url.isascii():
        raise _RefusedError("the URL has characters beyond ASCII: it is to be percent-encoded, its host in Punycode")
    return parts


def _target(parts: SplitResult) -> str:
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _host_header(host: str, parts: SplitResult) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f"{name}:{parts.port}"


def _headers_of(request: Request) -> list[tuple[str, str]]:
    """Those of the canister, checked, and those that every request has."""
    headers = [(name, value) for name, value in request.headers if name.lower() not in _OURS]
    for name, value in headers:
        if not name or not all(one.isalnum() or one in "!#$%&'*+-.^_`|~" for one in name) or not name.isascii():
            raise _RefusedError(f"{name!r:.100} is no name of a header")
        if any(one in value for one in "\r\n\0") or not value.isascii():
            raise _RefusedError(f"header {name:.100} has a line break, a null or a character beyond ASCII in its value")
    if all(name.lower() != "user-agent" for name, _ in headers):
        headers.append(("User-Agent", USER_AGENT))
    if request.body is not None:
        headers.append(("Content-Length", str(len(request.body))))
    return [*headers, ("Connection", "close")]


def _exchange(
    connection: socket.socket, request: Request, target: str, headers: Iterable[tuple[str, str]], until: float
) -> HttpResponse:
    lines = [f"{request.method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers), "", ""]
    _send(connection, "\r\n".join(lines).encode("ascii") + (request.body or b""), until)
    max_bytes = request.max_response_bytes
    # Chunks have headers of their own, of a byte each in the worst case of some use.
    timed = _Timed(connection, until, 2 * max_bytes + _MAX_HEADER_BYTES + _CHUNK_BYTES)
    with _final_response(_Wire(timed), request.method) as response:
        found = tuple((name, value) for name, value in response.getheaders())
        if sum(len(name) + len(value) for name, value in found) > _MAX_HEADER_BYTES:
            raise _RefusedError(f"its headers are longer than {_MAX_HEADER_BYTES} bytes")
        # One byte more than is allowed is enough for the rules to refuse it, in the network's words.
        body = response.read(max_bytes + 1)
        if response.length and len(body) <= max_bytes:
            raise _RefusedError(f"it ended {response.length} bytes before the end that it had announced")
        return HttpResponse(response.status, found, body)


def _final_response(wire: _Wire, method: str) -> http.client.HTTPResponse:
    """The response after those that only announce it (102, 103); `http.client` leaves out 100 alone."""
    while True:
        response = http.client.HTTPResponse(wire, method=method)  # type: ignore[arg-type]
        response.begin()
        if response.status == http.HTTPStatus.SWITCHING_PROTOCOLS or response.status >= 200:
            return response
        response.fp = None  # type: ignore[assignment]  # what it was read from is read on, and not closed with it


def _send(connection: socket.socket, data: bytes, until: float) -> None:
    view = memoryview(data)
    while view:
        connection.settimeout(_left(until))
        view = view[connection.send(view[:_CHUNK_BYTES]) :]


def _redirected(request: Request, response: HttpResponse) -> Request | None:
    """The request that a redirect leads to; `None`: the response is none."""
    locations = [value for name, value in response.headers if name.lower() == "location"]
    if response.status not in _REDIRECTS or not locations:
        return None
    url = urljoin(request.url, locations[0])
    changed = response.status == 303 or (response.status in (301, 302) and request.method == "POST")
    before, after = urlsplit(request.url), urlsplit(url)
    headers = request.headers
    if (before.scheme, before.netloc) != (after.scheme, after.netloc):  # what is for one host is not for another
        secret = {"authorization", "cookie", "proxy-authorization"}
        headers = tuple((name, value) for name, value in request.headers if name.lower() not in secret)
    method = "GET" if changed and request.method != "HEAD" else request.method
    return request._replace(url=url, method=method, body=None if changed else request.body, headers=headers)
