"""Which subnet of a network a call goes to, as all of its subnets know it: the same wherever they run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, final

from perdure.execution.state import RANGE_BITS, SubnetState

__all__ = ["Routes"]


@final
class Routes:
    """Ranges of ids, and the canisters that are elsewhere than in the range of their ids.

    The latter are known as of the last time that somebody looked around: what comes out of a round must not depend on
    which of two subnets has run first.
    """

    def __init__(self) -> None:
        self.places: dict[int, bytes] = {}
        """Subnets by the number of their range: 2^20 ids each."""
        self._ids: set[bytes] = set()
        self._strays: dict[bytes, bytes] = {}
        self._known: list[frozenset[bytes]] = []
        self._change = 0
        self._told: dict[bytes, int] = {}

    def add(self, subnet_id: bytes, first_canister_index: int) -> None:
        """One more subnet."""
        self.places[first_canister_index >> RANGE_BITS] = subnet_id
        self._ids.add(subnet_id)
        self._change += 1

    def copy(self) -> Routes:
        """The same, to go another way."""
        twin = Routes()
        twin.places, twin._ids = dict(self.places), set(self._ids)
        twin._strays, twin._known = self._strays, self._known
        return twin

    def look_around(self, strays: Iterable[tuple[bytes, frozenset[bytes]]]) -> bool:
        """Take note of `SubnetState.strays`, by the id of the subnet, in the order of all; whether they are others."""
        pairs = list(strays)
        known = [one for _, one in pairs]
        if known == self._known:
            return False
        # Of two subnets with a canister of one id the first one is asked.
        self._strays = {canister_id: subnet_id for subnet_id, one in reversed(pairs) for canister_id in one}
        self._known = known
        self._change += 1
        return True

    def tell(self, state: SubnetState) -> None:
        """Have a subnet's history have them, where it keeps one and has others."""
        if state.inputs is not None and self._told.get(state.subnet_id) != self._change:
            self._told[state.subnet_id] = self._change
            state.note("routes", sorted(self.places.items()), sorted(self._ids), sorted(self._strays.items()))

    @classmethod
    def told(cls, fields: Sequence[Any]) -> Routes:
        """Those that a history has."""
        made = cls()
        places, ids, strays = fields
        made.places, made._ids, made._strays = dict(places), set(ids), dict(strays)
        return made

    def find(self, wanted: bytes) -> bytes | None:
        """The id of the subnet that has a canister, or would have it, or that is meant itself; `None`: none."""
        if wanted in self._strays:
            return self._strays[wanted]
        if wanted in self._ids:
            return wanted
        return self.places.get(int.from_bytes(wanted[:8]) >> RANGE_BITS) if wanted[8:] == b"\1\1" else None
