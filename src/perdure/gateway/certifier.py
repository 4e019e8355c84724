"""Certificates of a running subnet: a signature serves whoever asks while it is made, and until something changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

from perdure.certification import Certificate, Delegation, Leaf, RootKey, prune
from perdure.certification.hash_tree import descend
from perdure.gateway.state_tree import Node, State, StateTree
from perdure.network.delegations import Neighbour
from perdure.network.live import Live

__all__ = ["Certifier"]

_STATE_ROOT: Final = b"\x0dic-state-root"
_AGE_NS: Final = 500_000_000
"""For how long a certificate of a state that has not changed is handed out again: on the network it is a second."""
_TIME: Final = (b"time",)
_OF_SUBNETS: Final = frozenset([b"canister_ranges", b"subnet"])
_FINAL: Final = frozenset(map(Leaf, [b"replied", b"rejected", b"done"]))


class _Signed(NamedTuple):
    state: State
    signature: bytes
    version: int
    """That has to be on the platter, and in the archive, before anybody is shown this."""


@final
class Certifier:
    """Signs what a subnet says of itself.

    Args:
        live: the subnet.
        key: its key.
        node: who answers queries here.
        neighbours: the subnets of its network.
        delegation: what the root says of it as the subnet of a canister; `None`, or what gives it: it is the root.
    """

    def __init__(
        self,
        live: Live,
        key: RootKey,
        node: Node,
        neighbours: Callable[[], tuple[Neighbour, ...]],
        delegation: Callable[[bytes], Delegation | None] | None,
    ) -> None:
        self._live = live
        self._key = key
        self._delegation = delegation
        self._state_tree = StateTree(node, neighbours)
        self._lock = threading.Lock()
        self._last: _Signed | None = None

    def of_answer(self, request_id: bytes, effective_id: bytes) -> bytes:
        """A certificate that shows what became of a request that has been answered, for the canister it is about."""
        path = (b"request_status", request_id)
        with self._lock:
            last = self._last
            if last is None or descend((*path, b"status"), last.state.tree) not in _FINAL:
                last = self._sign(request_id, is_subnet_asked=False)
        return self._shown(last, [path], effective_id)

    def of_paths(self, paths: Sequence[Sequence[bytes]], effective_id: bytes) -> bytes:
        """A certificate that shows what is at some paths, and below."""
        asked = next((path[1] for path in paths if path[0] == b"request_status" and len(path) > 1), None)
        is_subnet_asked = any(path[0] in _OF_SUBNETS for path in paths)
        with self._lock:
            signed = self._sign(asked, is_subnet_asked=is_subnet_asked)
        return self._shown(signed, paths, effective_id)

    def _sign(self, asked: bytes | None, *, is_subnet_asked: bool) -> _Signed:
        live, last = self._live, self._last
        with live.subnet._gate.lock:
            state = self._state_tree.tree(live.subnet._world, live.preparing, asked, is_subnet_asked=is_subnet_asked)
            version = live.subnet._host.settle()
        if last is not None and state.content == last.state.content and state.time_ns - last.state.time_ns < _AGE_NS:
            return last
        signed = self._last = _Signed(state, self._key.sign(_STATE_ROOT + state.tree.digest), version)
        return signed

    def _shown(self, signed: _Signed, paths: Sequence[Sequence[bytes]], effective_id: bytes) -> bytes:
        self._live.subnet._host.wait(signed.version)
        vouched = None if self._delegation is None else self._delegation(effective_id)
        return Certificate(prune(signed.state.tree, [*paths, _TIME]), signed.signature, vouched).encode()
