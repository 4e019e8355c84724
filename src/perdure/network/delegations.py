"""What the root of a network says of the other subnets: whose keys are theirs, and which canisters they have.

The root is the NNS, or the first subnet where there is none. Whatever another one certifies goes with what the root
says of it, so that clients and canisters know one key.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

from perdure.certification import Delegation, Ranges, delegate
from perdure.execution.identity import root_key
from perdure.execution.state import RANGE_BITS, SubnetState
from perdure.execution.world import World

__all__ = ["Delegations", "Neighbour", "neighbours", "range_of"]

_AGE_NS: Final = 60_000_000_000
"""For how long one is handed out again; clients take those of the last weeks."""
_MAX_KEPT: Final = 1_024


@final
class Neighbour(NamedTuple):
    """A subnet, as the state trees of all subnets have it.

    Attributes:
        subnet_type: as the interface specification spells it.
    """

    subnet_id: bytes
    public_key_der: bytes
    ranges: Ranges
    subnet_type: str


def range_of(state: SubnetState) -> tuple[bytes, bytes]:
    """The first and the last id that the canisters of a subnet get."""
    first = state.first_canister_index
    last = first + (1 << RANGE_BITS) - 1
    return first.to_bytes(8, "big") + b"\1\1", last.to_bytes(8, "big") + b"\1\1"


def neighbours(states: Sequence[SubnetState], types: Sequence[str]) -> tuple[Neighbour, ...]:
    """What the state trees of all subnets say of all of them."""
    found = []
    for state, subnet_type in zip(states, types, strict=True):
        others = [(one, one) for one in state.strays]
        key_der = root_key(state.seed).public_key_der
        found.append(Neighbour(state.subnet_id, key_der, sorted([range_of(state), *others]), subnet_type))
    return tuple(found)


@final
class Delegations:
    """Signs what a root says of one subnet.

    Args:
        root_seed: of the root, whose key follows from it.
        root_time_ns: what the root's clock says, or said lately.
        world: the subnet.
    """

    def __init__(self, root_seed: bytes, root_time_ns: Callable[[], int], world: World) -> None:
        self._root_seed = root_seed
        self._root_time_ns = root_time_ns
        self._world = world
        self._kept: dict[bytes, tuple[int, Delegation]] = {}

    def of(self, canister_id: bytes = b"") -> Delegation:
        """The delegation to the subnet; it names a canister's id, too, that is out of its range and is there."""
        state, now_ns = self._world.state, self._root_time_ns()
        own = range_of(state)
        if canister_id not in state.strays:
            canister_id = b""
        kept = self._kept.get(canister_id)
        if kept is not None and 0 <= now_ns - kept[0] < _AGE_NS:
            return kept[1]
        ranges = sorted([own, *([(canister_id, canister_id)] if canister_id else [])])
        public_key_der = root_key(state.seed).public_key_der
        made = delegate(root_key(self._root_seed), state.subnet_id, public_key_der, ranges, now_ns)
        if len(self._kept) >= _MAX_KEPT:
            self._kept = {}
        self._kept[canister_id] = now_ns, made
        return made
