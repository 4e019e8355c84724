"""Who may do what at the explorer: rules over headers, pure.

Pages are read by whoever reaches this machine's own address. What changes or runs anything needs the token, which is
printed where the server was started and nowhere else, and an ``Origin`` that is this server's. The pages have an origin
on which no canister's page is ever shown (`ORIGIN_NAME`): scripts of canisters are others to it.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["HEADERS", "ORIGIN_NAME", "TOKEN_HEADER", "is_of_another_page", "is_of_this_machine", "refusal"]

ORIGIN_NAME: Final = "localhost"
"""The name of the explorer's host: canisters' pages are at names below it, and at addresses."""
TOKEN_HEADER: Final = "x-perdure-token"
HEADERS: Final = (
    ("content-security-policy", "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
)
"""Of every page."""
_PORT: Final = re.compile(r":\d{1,5}\Z", re.ASCII)


def is_of_this_machine(address: str) -> bool:
    """Whether a client's address is a loopback one."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return found.is_loopback or (mapped is not None and mapped.is_loopback)


def host_name(header: str) -> str:
    """The name in a ``Host`` header."""
    return _PORT.sub("", header.lower())


def is_of_another_page(headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for a part of somebody else's page, as it tells; a link there may lead to a page here.

    They could not read it, but make this machine work.
    """
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return False
    return (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) != ("navigate", "document")


def refusal(headers: Mapping[str, str], token: str) -> str:
    """Why a request that would do something is refused; empty: it is not."""
    expected = f"http://{headers.get('host', '')}"
    origin = headers.get("origin", "")
    if origin != expected:
        return f"asked for by a page of {origin[:100] or 'nobody'}, expected one of {expected[:100]}"
    given = headers.get(TOKEN_HEADER, "")
    if not hmac.compare_digest(given.encode(errors="replace"), token.encode()):
        return "the token is missing or wrong: open the address that was printed when the server was started"
    return ""
