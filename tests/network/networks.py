"""What tests of networks share: counters that call each other, a process that is cut off, cycles that add up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from perdure import Network, Principal
from perdure.candid import encode, parse_types
from perdure.execution import submit_ingress
from perdure.execution.messages import cycles_of
from perdure.execution.world import World

NOTHING = encode((), [])


def balanced(network: Network) -> bool:
    """Nothing is made or lost between subnets: each is right by itself, and what is sent is received or on its way."""
    for state in (subnet._state for subnet in network.subnets):
        known = state.total_cycles() + state.consumed_cycles + state.lost_cycles + state.sent_cycles
        assert state.minted_cycles + state.received_cycles == known
    waiting = 0
    for state in (subnet._state for subnet in network.subnets):
        for other in network.subnets:
            stream = state.xnet_streams.get(other._state.subnet_id)
            back = other._state.xnet_streams.get(state.subnet_id)
            if stream is not None:
                new = stream.messages[(0 if back is None else back.inducted) - stream.begin :]
                waiting += sum(map(cycles_of, new))
    assert network.sent_cycles == waiting
    return True


def call_each_other(network: Network, ids: Sequence[Principal]) -> None:
    """Have two counters in Motoko call each other, and the first one again."""
    for one, other in (ids, ids[::-1], ids):
        arg = encode(parse_types("(principal)"), [other])
        submit_ingress(network.canister(one)._subnet._world, one.raw_bytes, "incOther", arg)


def counted(network: Network, ids: Sequence[Principal]) -> list[tuple[bytes, int]]:
    """What counters have counted, and their cycles."""
    return [(one.query("count", NOTHING), one._state.cycles) for one in map(network.canister, ids)]


@contextmanager
def cut_off(at: int, *, before: bool) -> Iterator[list[int]]:
    """Raise at a transaction within the block, before or after it is kept, and end the block there.

    Gives how many there were; -1: none is cut off.
    """
    count, finish = [0], World.finish

    def finishing(world: World, *args: object, **kwargs: object) -> None:
        count[0] += 1
        if count[0] == at and before:
            raise KeyboardInterrupt
        finish(world, *args, **kwargs)  # type: ignore[arg-type]
        if count[0] == at:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(World, "finish", finishing)
        try:
            yield count
        except KeyboardInterrupt:
            assert count[0] == at
