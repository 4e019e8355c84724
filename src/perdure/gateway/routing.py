"""Which subnet of a network a request of an agent is for: the one of the id that it is posted to.

Spec: "HTTPS Interface", effective canister ids and subnet ids.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

from perdure.errors import MalformedError
from perdure.gateway.http import HttpInterface, Pending, Request, Response, awaited
from perdure.ic.principal import Principal
from perdure.network.live import Live, Rounds

__all__ = ["Interfaces"]

_FOR_ANYBODY: Final = ("application", "verified_application", "system")
"""Kinds of the subnet that takes what is about no canister that there is, such as a first one to be created."""


@final
class Interfaces:
    """Answers agents for all subnets that are served together.

    Args:
        rounds: the subnets.
    """

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds
        self._of: dict[Live, HttpInterface] = {}
        self._of_default()  # which says at once what there is no extra for

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """As `HttpInterface.handle`."""
        return awaited(self.begin(Request(method, path, headers, body)))

    def begin(self, request: Request) -> Response | Pending:
        """As `HttpInterface.begin`, of the subnet that the request is for."""
        return self._for(request.path).begin(request)

    def _for(self, path: str) -> HttpInterface:
        parts = path.partition("?")[0].split("/", 5)
        if self._rounds.network is None or len(parts) < 5:
            return self._of_default()
        try:
            live = self._rounds.find(Principal.from_text(parts[4]).raw_bytes)
        except (MalformedError, ValueError):
            live = None  # whoever it comes to will say so
        return self._of_default() if live is None else self._interface(live)

    def _of_default(self) -> HttpInterface:
        network = self._rounds.network
        if network is None:
            return self._interface(self._rounds.lives[0])
        kinds = list(network.kinds.values())
        number = next((kinds.index(kind) for kind in _FOR_ANYBODY if kind in kinds), 0)
        return self._interface(self._rounds.live_of(network.subnets[number]))

    def _interface(self, live: Live) -> HttpInterface:
        found = self._of.get(live)
        if found is None:
            found = self._of.setdefault(live, HttpInterface(live))
        return found
