"""Names of their own: a canister is shown under each name that its file ``/.well-known/ic-domains`` lists.

On the network somebody registers a name, and the gateways then ask the canister for this file. Here whoever comes by a
name that nobody is known to have lets all canisters be asked that answer browsers, every few seconds at most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, final

from perdure.subnet.live import Rounds

__all__ = ["PATH", "Domains"]

PATH: Final = "/.well-known/ic-domains"
_AGAIN_SECONDS: Final = 5.0
_BUDGET_SECONDS: Final = 2.0
"""For asking all canisters; who then has not been asked is asked first the next time."""
_MAX_NAMES: Final = 256
_MAX_BYTES: Final = 64 << 10
_EXPORT: Final = "canister_query http_request"


@final
class Domains:
    """Who has which names.

    Args:
        rounds: the subnets.
        ask: the file of a canister; empty: it has none, or it is not certified.
    """

    def __init__(self, rounds: Rounds, ask: Callable[[bytes], bytes]) -> None:
        self._rounds = rounds
        self._ask = ask
        self._lock = threading.Lock()
        self._names: dict[bytes, frozenset[str]] = {}
        self._owners: dict[str, bytes] = {}
        self._until = 0.0
        self._last = b""

    def canister_of(self, host: str) -> bytes | None:
        """The canister that is shown under a name: of several that list it the one with the lowest id."""
        with self._lock:
            if time.monotonic() >= self._until:
                self._look()
                self._until = time.monotonic() + _AGAIN_SECONDS
            return self._owners.get(host)

    def _look(self) -> None:
        asked: list[bytes] = []
        for live in self._rounds.lives:
            with live.subnet._gate.lock:
                canisters = live.subnet._state.canisters
                asked += [
                    key for key, one in canisters.items() if one.module and _EXPORT in one.module.exported_methods
                ]
        asked.sort()
        here = set(asked)
        self._names = {key: names for key, names in self._names.items() if key in here}
        until = time.monotonic() + _BUDGET_SECONDS
        start = sum(key <= self._last for key in asked)
        for key in asked[start:] + asked[:start]:
            self._last = key
            self._names[key] = _names(self._ask(key))
            if time.monotonic() > until:
                break
        self._owners = {name: key for key in reversed(asked) for name in self._names.get(key, ())}


def _names(file: bytes) -> frozenset[str]:
    """One name a line."""
    lines = file[:_MAX_BYTES].decode("ascii", "ignore").split()
    return frozenset(line.lower().removesuffix(".") for line in lines[:_MAX_NAMES])
