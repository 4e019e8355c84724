"""Certificates of a running subnet: a signature serves whoever asks while it is made, and until something changes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, NamedTuple, final

from perdure.certification import Certificate, Leaf, RootKey, prune
from perdure.certification.hash_tree import descend
from perdure.gateway.state_tree import Node, State, StateTree
from perdure.subnet.live import Live

__all__ = ["Certifier"]

_STATE_ROOT: Final = b"\x0dic-state-root"
_AGE_NS: Final = 500_000_000
"""For how long a certificate of a state that has not changed is handed out again: on the network it is a second."""
_TIME: Final = (b"time",)
_FINAL: Final = frozenset(map(Leaf, [b"replied", b"rejected", b"done"]))


class _Signed(NamedTuple):
    state: State
    signature: bytes


@final
class Certifier:
    """Signs what a subnet says of itself.

    Args:
        live: the subnet.
        key: its root key.
        node: who answers queries here.
    """

    def __init__(self, live: Live, key: RootKey, node: Node) -> None:
        self._live = live
        self._key = key
        self._state_tree = StateTree(node)
        self._lock = threading.Lock()
        self._last: _Signed | None = None

    def of_answer(self, request_id: bytes) -> bytes:
        """A certificate that shows what became of a request that has been answered."""
        path = (b"request_status", request_id)
        with self._lock:
            last = self._last
            if last is None or descend((*path, b"status"), last.state.tree) not in _FINAL:
                last = self._sign(request_id, is_subnet_asked=False)
        return _shown(last, [path])

    def of_paths(self, paths: Sequence[Sequence[bytes]]) -> bytes:
        """A certificate that shows what is at some paths, and below."""
        asked = next((path[1] for path in paths if path[0] == b"request_status" and len(path) > 1), None)
        is_subnet_asked = any(path[0] == b"subnet" for path in paths)
        with self._lock:
            signed = self._sign(asked, is_subnet_asked=is_subnet_asked)
        return _shown(signed, paths)

    def _sign(self, asked: bytes | None, *, is_subnet_asked: bool) -> _Signed:
        live, last = self._live, self._last
        with live.subnet._gate.lock:
            state = self._state_tree.tree(live.subnet._world, live.preparing, asked, is_subnet_asked=is_subnet_asked)
        if last is not None and state.content == last.state.content and state.time_ns - last.state.time_ns < _AGE_NS:
            return last
        signed = self._last = _Signed(state, self._key.sign(_STATE_ROOT + state.tree.digest))
        return signed


def _shown(signed: _Signed, paths: Sequence[Sequence[bytes]]) -> bytes:
    return Certificate(prune(signed.state.tree, [*paths, _TIME]), signed.signature).encode()
