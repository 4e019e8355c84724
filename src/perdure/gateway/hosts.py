"""Which names this server has: whatever else a browser was made to believe, it does not answer to.

A page of somebody else's can have its own name point to the loopback address (DNS rebinding), and is then, to a
browser, of the same origin as what is served there. Its requests bear that name.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Final, final

__all__ = ["Hosts", "is_loopback"]

_PORT: Final = re.compile(r":\d{1,5}\Z", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?\Z", re.ASCII)
_LOCAL: Final = "localhost"


def is_loopback(address: str) -> bool:
    """Whether an address, or ``localhost``, is this machine's own, which no other reaches."""
    if address == _LOCAL:
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@final
class Hosts:
    """The names by which a server may be asked for.

    Args:
        domains: each with all names below it, as ``localhost`` is.
        allowed: more names or addresses, each as it stands.

    Raises:
        ValueError: one of them is no name of a host.
    """

    def __init__(self, domains: Iterable[str] = (), allowed: Iterable[str] = ()) -> None:
        self.domains = (_LOCAL, *map(_checked, domains))
        self._allowed = frozenset(map(_checked, allowed))

    def name_of(self, header: str | None) -> str | None:
        """The name in a ``Host`` header, without its port, in lower case; `None`: it is none of ours."""
        if header is None:
            return None
        name = _PORT.sub("", header.lower())
        bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
        if bare in self._allowed or is_loopback(bare) or self.below(bare) is not None:
            return bare
        return None

    def below(self, name: str) -> str | None:
        """What stands before one of the domains; empty: it is one of them, `None`: it is below none."""
        for domain in self.domains:
            if name == domain:
                return ""
            if name.endswith(f".{domain}"):
                return name[: -len(domain) - 1]
        return None


def _checked(name: str) -> str:
    lower = name.lower().removesuffix(".")
    bare = lower[1:-1] if lower.startswith("[") and lower.endswith("]") else lower
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if _NAME.fullmatch(lower):
            return lower
    raise ValueError(f"{name!r} is no name of a host: expected one such as 'box.example.org', without port or path")
