"""Names of their own: a canister is shown under each name that its file ``/.well-known/ic-domains`` lists.

On the network somebody registers a name, and the gateways then ask the canister for this file. Here whoever comes by a
name that nobody is known to have lets all canisters be asked that answer browsers, every few seconds at most.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, final

from perdure.network.live import Rounds

__all__ = ["PATH", "Domains"]

_LOG: Final = logging.getLogger("perdure")
PATH: Final = "/.well-known/ic-domains"
_AGAIN_SECONDS: Final = 5.0
_WAIT_SECONDS: Final = 2.0
"""For a name that nobody is known to have."""
_SLOW_SECONDS: Final = 0.5
_THREADS: Final = 4
"""That ask, for as long as there is somebody to ask: one who is slow has one of them."""
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
        self._changed = threading.Condition()
        self._names: dict[bytes, frozenset[str]] = {}
        self._owners: dict[str, bytes] = {}
        self._until = 0.0
        self._todo: deque[bytes] = deque()
        self._asking: set[bytes] = set()
        self._slow: set[bytes] = set()
        """Those whose answer took long, or is taking long: nobody waits for them."""

    def canister_of(self, host: str) -> bytes | None:
        """The canister that is shown under a name: of several that list it the one with the lowest id.

        Waits only where nobody is known to have it, and then not for who is slow; they are told of when they answer.
        """
        with self._changed:
            if time.monotonic() >= self._until:
                self._begin()
            until = time.monotonic() + _WAIT_SECONDS
            while host not in self._owners and (self._todo or self._asking - self._slow):
                left = until - time.monotonic()
                if left <= 0:
                    self._slow |= self._asking
                    break
                self._changed.wait(left)
            return self._owners.get(host)

    def _begin(self) -> None:
        """Have all canisters asked that can answer, those who are slow at last."""
        self._until = time.monotonic() + _AGAIN_SECONDS
        asked: set[bytes] = set()
        kept: set[bytes] = set()  # of subnets that answer nothing for now
        for live in self._rounds.lives:
            canisters = list(live.subnet._state.canisters.items())  # at once: not to wait for what runs
            found = (key for key, one in canisters if one.module and _EXPORT in one.module.exported_methods)
            (kept if live.is_halted else asked).update(found)
        for key in self._names.keys() - asked - kept:
            self._set(key, frozenset())
        self._slow &= asked
        self._todo = deque(sorted(asked - self._asking, key=lambda key: (key in self._slow, key)))
        for _ in range(min(len(self._todo), _THREADS - len(self._asking))):
            threading.Thread(target=self._ask_all, name="perdure names", daemon=True).start()

    def _ask_all(self) -> None:
        while True:
            with self._changed:
                if not self._todo:
                    return
                key = self._todo.popleft()
                self._asking.add(key)
            begun, names = time.monotonic(), frozenset[str]()
            try:
                names = _names(self._ask(key))
            except Exception:
                _LOG.exception("%s of a canister could not be had", PATH)
            with self._changed:
                self._asking.discard(key)
                (self._slow.discard if time.monotonic() - begun < _SLOW_SECONDS else self._slow.add)(key)
                self._set(key, names)
                self._changed.notify_all()

    def _set(self, key: bytes, names: frozenset[str]) -> None:
        if names == self._names.get(key, frozenset()):
            return
        self._names[key] = names
        if not names:
            del self._names[key]
        self._owners = {name: one for one in sorted(self._names, reverse=True) for name in self._names[one]}


def _names(file: bytes) -> frozenset[str]:
    """One name a line."""
    lines = file[:_MAX_BYTES].decode("ascii", "ignore").split()
    return frozenset(line.lower().removesuffix(".") for line in lines[:_MAX_NAMES])
