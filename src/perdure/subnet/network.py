"""Several subnets in this process, whose canisters call each other.

    >>> from perdure import Network                                 # doctest: +SKIP
    >>> network = Network(["nns", "application"])
    >>> ledger = network.subnets[0].install("ledger.wasm")
    >>> wallet = network.subnets[1].install("wallet.wasm")
    >>> wallet.actor().deposit(ledger.id)

A *round* of the network is one of every subnet: each takes in what the others had sent it by the end of the round
before, in the order of the subnets, then runs its own round. So what comes out depends on nothing but what came in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, final

from perdure.canister import HasModule
from perdure.embedder import Compiler
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import FREE
from perdure.execution.outcalls import ask_outside
from perdure.execution.scheduler import go_on, has_work, round_
from perdure.execution.state import FIRST_CANISTER_INDEX, SubnetState
from perdure.execution.streams import Slice, acknowledge, has_new, induct, slice_for
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.subnet import given
from perdure.subnet.canister import Canister
from perdure.subnet.gate import Gate, alone
from perdure.subnet.subnet import Subnet

__all__ = ["KINDS", "Network"]

RANGE_BITS: Final = 20
"""A subnet has 2^20 ids of canisters, one after another."""


@final
class Kind(NamedTuple):
    """What differs between kinds of subnets.

    Attributes:
        is_free: nothing costs cycles.
        has_production_keys: threshold keys by the network's names for those that hold value.
        first_canister_index: where its ids begin; `None`: in a range that no other subnet has.
    """

    is_free: bool = False
    has_production_keys: bool = False
    first_canister_index: int | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "application": Kind(),
    "verified_application": Kind(),
    "system": Kind(is_free=True),
    "nns": Kind(is_free=True, first_canister_index=0),
    "sns": Kind(),
    "ii": Kind(is_free=True, has_production_keys=True),
    "fiduciary": Kind(has_production_keys=True),
    "bitcoin": Kind(is_free=True),
}
"""Kinds of subnets by name."""


@final
class Network:
    """Subnets that are connected, in memory.

    Each is a `Subnet` as any other: canisters are installed on it and called there. A canister may call those of other
    subnets; `Canister.update` returns when its own call is answered, wherever that leads. All subnets take turns
    together, so that one thread at a time goes on with the network, and canisters run beside each other as on one.

    Args:
        subnets: the kind of each, by the names of `KINDS`; or how many application subnets.
        seed: of everything random; subnets have different ones that follow from it.
        config: limits, of all subnets.
        compiler: as for `Subnet`.
        code: as for `Subnet`.
        extensions: as for `Subnet`.

    Raises:
        ValueError: there is no such kind, no subnet, or two of a kind that there is once.
    """

    def __init__(
        self,
        subnets: int | Iterable[str] = 2,
        *,
        seed: bytes = b"",
        config: SubnetConfig | None = None,
        compiler: Compiler | None = None,
        code: HasModule | type[object] | Iterable[HasModule | type[object]] = (),
        extensions: Iterable[str] = (),
    ) -> None:
        kinds = ["application"] * subnets if isinstance(subnets, int) else list(subnets)
        if not kinds:
            raise ValueError("a network has at least one subnet, found none")
        self._gate = Gate()
        self._seed, self._config = seed, config or SubnetConfig()
        self._options: dict[str, Any] = {"compiler": compiler, "code": code, "extensions": tuple(extensions)}
        self._subnets: list[Subnet] = []
        self._kinds: list[str] = []
        self._halted: set[bytes] = set()
        self._by_range: dict[int, Subnet] = {}
        for kind in kinds:
            self.add_subnet(kind)

    # --- what there is

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """The subnets, in the order in which they were asked for."""
        return tuple(self._subnets)

    @property
    def kinds(self) -> dict[Principal, str]:
        """The kind of each subnet, by its id."""
        return {subnet.id: kind for subnet, kind in zip(self._subnets, self._kinds, strict=True)}

    @property
    def canisters(self) -> tuple[Canister, ...]:
        """Handles of all canisters, subnet by subnet."""
        return tuple(canister for subnet in self._subnets for canister in subnet.canisters)

    @property
    def time_ns(self) -> int:
        """The clock of the subnet that is furthest, ns since 1970. They differ by a nanosecond a message."""
        return max(subnet.time_ns for subnet in self._subnets)

    @alone
    def add_subnet(self, kind: str = "application", *, first_canister_index: int | None = None) -> Subnet:
        """One more subnet.

        Args:
            kind: of it, see `KINDS`.
            first_canister_index: where the range of its canisters' ids begins, a multiple of 2^20.

        Raises:
            ValueError: there is no such kind, or another subnet has the range.
        """
        found = KINDS.get(kind)
        if found is None:
            raise ValueError(f"a subnet is one of {', '.join(KINDS)}, found {kind!r:.60}")
        number = len(self._subnets)
        if first_canister_index is None:
            first_canister_index = found.first_canister_index
        if first_canister_index is None:
            first_canister_index = self._free_range()
        place = first_canister_index >> RANGE_BITS
        if first_canister_index % (1 << RANGE_BITS) or not 0 <= first_canister_index < 1 << 64:
            raise ValueError(f"a range begins at a multiple of 2^20 below 2^64, found {first_canister_index}")
        if place in self._by_range:
            raise ValueError(f"a network has one {kind} subnet with the ids from {first_canister_index} on, found two")
        config = self._config if not found.has_production_keys else _with_production_keys(self._config)
        seed = self._seed if not number else b"%s subnet %d" % (self._seed, number)
        costs = FREE if found.is_free else None
        subnet = Subnet(seed=seed, config=config, costs=costs, gate=self._gate, **self._options)
        subnet._state.first_canister_index = first_canister_index
        if self._subnets:
            subnet._state.time_ns = self.time_ns
        self._by_range[place] = subnet
        self._subnets.append(subnet)
        self._kinds.append(kind)
        self._connect(subnet)
        return subnet

    def _free_range(self) -> int:
        place = FIRST_CANISTER_INDEX >> RANGE_BITS
        while place in self._by_range:
            place -= 1
        return place << RANGE_BITS

    def _connect(self, subnet: Subnet) -> None:
        subnet._world.route = self._route
        subnet._world.network = self._round

    def _route(self, wanted: bytes) -> bytes | None:
        """See `World.route`."""
        found = self._subnet_of(wanted)
        return None if found is None else found._state.subnet_id

    def _subnet_of(self, wanted: bytes) -> Subnet | None:
        in_range = self._by_range.get(int.from_bytes(wanted[:8]) >> RANGE_BITS) if wanted[8:] == b"\1\1" else None
        if in_range is not None and wanted in in_range._state.canisters:
            return in_range
        for subnet in self._subnets:
            if wanted in subnet._state.canisters or wanted == subnet._state.subnet_id:
                return subnet
        return in_range

    def subnet_of(self, canister_id: Principal) -> Subnet | None:
        """The subnet that has a canister, or would have it: calls of it go there. `None`: none would."""
        with self._gate.lock:
            return self._subnet_of(canister_id.raw_bytes)

    def canister(self, canister_id: Principal) -> Canister:
        """The handle of a canister, whatever subnet it is on.

        Raises:
            KeyError: there is no such canister.
        """
        subnet = self.subnet_of(canister_id)
        if subnet is None:
            raise KeyError(f"no canister {canister_id}, and no subnet that would have it")
        return subnet.canister(canister_id)

    def __contains__(self, canister_id: Principal) -> bool:
        """Whether there is a canister of this id."""
        subnet = self.subnet_of(canister_id)
        return subnet is not None and canister_id in subnet

    # --- rounds and time

    def _recover(self) -> None:
        for subnet in self._subnets:
            subnet._recover()

    @alone
    def tick(self) -> None:
        """Have outcalls answered that somebody answers, then run one round of every subnet."""
        with self._undisturbed():
            for subnet in self._running():
                ask_outside(subnet._world, waits=False)
            self._round(True)

    @alone
    def run_until_idle(self, max_rounds: int = 10_000) -> int:
        """Run rounds until nothing is left to do but heartbeats; how many were run."""
        with self._undisturbed():
            for rounds in range(max_rounds):
                if not go_on(self._subnets[0]._world):
                    return rounds
        return max_rounds

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        with self._subnets[0]._undisturbed(None):
            yield
        for subnet in self._subnets:
            subnet._wait()

    @alone
    def set_time(self, time_ns: int | datetime) -> None:
        """Set the clocks, to nanoseconds since 1970 or a `datetime` with a time zone; none goes back."""
        wanted_ns = given.nanoseconds_since_1970(time_ns)
        behind = [wanted_ns - subnet.time_ns for subnet in self._subnets]
        if min(behind) < 0:
            raise ValueError(f"time does not go back, asked for {min(behind)} ns")
        for subnet, duration_ns in zip(self._subnets, behind, strict=True):
            subnet.advance_time(duration_ns)

    @alone
    def advance_time(self, duration_ns: int | timedelta | str) -> None:
        """Let time pass on every subnet, as for `Subnet.advance_time`."""
        for subnet in self._subnets:
            subnet.advance_time(duration_ns)

    # --- what goes between subnets

    def _running(self) -> list[Subnet]:
        return [subnet for subnet in self._subnets if subnet._state.subnet_id not in self._halted]

    @alone
    def halt(self, subnet: Subnet) -> None:
        """Have a subnet take no part in rounds until `resume`: what is sent to it waits, and it answers nothing."""
        self._halted.add(self._own(subnet))

    @alone
    def resume(self, subnet: Subnet) -> None:
        """Have a subnet go on where it was halted."""
        self._halted.discard(self._own(subnet))

    def _own(self, subnet: Subnet) -> bytes:
        if subnet not in self._subnets:
            raise ValueError(f"{subnet!r} is no subnet of this network")
        return subnet._state.subnet_id

    def _slices(self, subnets: list[Subnet]) -> list[tuple[World, bytes, Slice]]:
        """What each subnet is to take in of each other one, by receiver, then by sender."""
        found = []
        for receiver in subnets:
            world, state = receiver._world, receiver._state
            for sender in subnets:
                there = sender._state
                if sender is not receiver and (state.subnet_id in there.xnet_streams or _sends(state, there)):
                    stream = state.xnet_streams.get(there.subnet_id)
                    first = 0 if stream is None else stream.inducted
                    found.append((world, there.subnet_id, slice_for(there, state.subnet_id, first)))
        return found

    def _round(self, always: bool) -> bool:
        """See `World.network`."""
        subnets = self._running()
        worlds = [subnet._world for subnet in subnets]
        for world in worlds:
            if world.journal is not None:
                world.recover()
        slices = self._slices(subnets)
        is_working = any(has_work(world) for world in worlds) or any(
            has_new(world.state, sender_id, one) for world, sender_id, one in slices
        )
        if not is_working and sum(ask_outside(world) for world in worlds) == 0 and not always:
            return False
        for world, sender_id, one in slices:
            induct(world, sender_id, one)
            acknowledge(world, sender_id, one.inducted)
        for world in worlds:
            round_(world)
        return True

    @property
    def sent_cycles(self) -> int:
        """Cycles that are between subnets: in messages that were sent and not taken in."""
        states = [subnet._state for subnet in self._subnets]
        return sum(state.sent_cycles - state.received_cycles for state in states)

    # --- states

    @alone
    def fork(self) -> Network:
        """A second network in the same state; each goes its own way."""
        twin = object.__new__(Network)
        twin._gate = Gate()
        twin._seed, twin._config, twin._options = self._seed, self._config, self._options
        twin._subnets = [subnet._twin(twin._gate) for subnet in self._subnets]
        twin._kinds, twin._halted = list(self._kinds), set(self._halted)
        numbers = {id(subnet): number for number, subnet in enumerate(self._subnets)}
        twin._by_range = {place: twin._subnets[numbers[id(subnet)]] for place, subnet in self._by_range.items()}
        for subnet in twin._subnets:
            twin._connect(subnet)
        return twin

    def close(self) -> None:
        """Let go of the engine; the network is of no use afterwards."""
        for subnet in self._subnets:
            subnet.close()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Network of {', '.join(self._kinds)}>"


def _sends(receiver: SubnetState, sender: SubnetState) -> bool:
    """Whether a receiver has something to be told, though nothing was sent to it: how far its own stream has come."""
    stream = receiver.xnet_streams.get(sender.subnet_id)
    return stream is not None and bool(stream.messages)


def _with_production_keys(config: SubnetConfig) -> SubnetConfig:
    return replace(config, production_key_names=True)
