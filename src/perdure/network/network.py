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

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from perdure.canister import HasModule
from perdure.certification import Delegation
from perdure.embedder import Compiler
from perdure.errors import UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import FREE
from perdure.execution.identity import identify, subordinate
from perdure.execution.outcalls import ask_outside
from perdure.execution.scheduler import go_on, has_work, round_
from perdure.execution.state import NO_STREAM
from perdure.execution.streams import Slice, has_new, slice_for, take_in
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.network.delegations import Delegations, Neighbour, neighbours
from perdure.network.directory import (
    all_planned,
    check_places,
    check_streams,
    open_topology,
    options_of,
    planned,
    read_members,
    refuse_missing,
    seed_of,
    wanted_kinds,
)
from perdure.network.kinds import KINDS
from perdure.network.members import begin_at, hash_of
from perdure.network.process import Begins
from perdure.network.remote import RemoteSubnet
from perdure.network.workers import Workers
from perdure.storage import KeepHistory
from perdure.storage.topology import Topology
from perdure.subnet import given
from perdure.subnet.canister import Canister
from perdure.subnet.doors import door
from perdure.subnet.durable import DurableHost
from perdure.subnet.gate import Gate, alone
from perdure.subnet.opening import archive_place
from perdure.subnet.routes import Routes
from perdure.subnet.subnet import Subnet

if TYPE_CHECKING:
    from perdure.storage import ArchiveTo

__all__ = ["Network"]

_OF_THIS_PROCESS = "Network.{} does not cross to worker processes: make the network without processes"


@final
class Network:
    """Subnets that are connected: in memory, or each kept in a state directory of its own within one of the network.

    Each is a `Subnet` as any other: canisters are installed on it and called there. A canister may call those of other
    subnets; `Canister.update` returns when its own call is answered, wherever that leads. All subnets take turns
    together, so that one thread at a time goes on with the network, and canisters run beside each other as on one.

    Args:
        subnets: the kind of each, by the names of `KINDS`; or how many application subnets. By default those that the
            directory has, or two application subnets.
        path: a directory, made where there is none; `None`: everything is gone with the process. Whatever a crash
            leaves, each message between subnets is taken in once.
        seed: of everything random; subnets have different ones that follow from it. A directory keeps its own.
        config: limits, of all subnets.
        compiler: as for `Subnet`.
        code: as for `Subnet`.
        extensions: as for `Subnet`.
        history: as for `Subnet`, of each of them.
        trust_owner: as for `Subnet`.
        archive: as for `Subnet`; each subnet has one below it. A network that is not at `path` is made of them.
        processes: of this machine that have the subnets, each every so manieth, so that they run beside each other;
            what comes out is the same to the byte. `subnets` are then handles with the same names; those that cannot
            cross say so. Or where processes are, as `perdure.fleet.on_ray.RayProcesses` says it.

    Raises:
        ValueError: there is no such kind, no subnet, two of a kind that there is once, or others than in the directory.
        StorageError: the directory cannot be opened, or one of its subnets is at an earlier state than the others.
    """

    def __init__(  # noqa: PLR0913 -- each is a property of the subnets
        self,
        subnets: int | Iterable[str] | None = None,
        *,
        path: str | os.PathLike[str] | None = None,
        seed: bytes = b"",
        config: SubnetConfig | None = None,
        compiler: Compiler | None = None,
        code: HasModule | type[object] | Iterable[HasModule | type[object]] = (),
        extensions: Iterable[str] = (),
        history: KeepHistory = "kept",
        trust_owner: bool = False,
        archive: str | ArchiveTo | None = None,
        processes: int | Begins | None = None,
    ) -> None:
        self._topology = topology = None if path is None else open_topology(path, archive)
        kinds = wanted_kinds(subnets, topology)
        self._gate = Gate(patient=path is None)
        self._seed = topology.seed if topology is not None and topology.members else seed
        self._config = config or SubnetConfig()
        self._options: dict[str, Any] = {
            "compiler": compiler,
            "code": code,
            "extensions": tuple(extensions),
            "history": history,
            "trust_owner": trust_owner,
            "archive": archive_place(archive, path),
        }
        self._subnets: list[Subnet] = []
        self._kinds: list[str] = []
        self._halted: set[bytes] = set()
        self._routes = Routes()
        self._delegations: dict[bytes, Delegations] = {}
        self._workers = None
        if processes is not None:
            self._workers = Workers(
                processes, self._gate, self._running_numbers, is_kept=path is not None, compiler=compiler
            )
            self._routes = self._workers.routes
        try:
            if self._workers is not None:
                self._workers.prepare(len(kinds))
            if topology is not None and topology.members:
                refuse_missing(topology)
                for kind, member in zip(kinds, topology.members, strict=True):
                    self._add(kind, member.first_canister_index, member.name)
                check_places(self._subnets, topology, self._seed)
                check_streams(self._subnets, topology.directory)
            else:
                members = all_planned(kinds)
                if topology is not None:  # all at once: a crash leaves none of them, or all
                    topology.seed = self._seed
                    topology.add(*members)
                for kind, member in zip(kinds, members, strict=True):
                    self._add(kind, member.first_canister_index, member.name)
        except BaseException:
            self._abandon()
            raise

    @classmethod
    def of(cls, subnet: Subnet, kind: str = "application") -> Network:
        """A network of one subnet that is there already. More can be added to it if that one is in memory."""
        return cls._having([subnet], [kind])

    @classmethod
    def read(cls, path: str | os.PathLike[str], **options: Any) -> Network:
        """A network in memory in the state of a directory, which is only read, and may be in use.

        Args:
            path: the directory.
            options: as of `Subnet.read`.

        Raises:
            StorageError: it is none, or its subnets cannot be read, or not as of one time.
        """
        topology = Topology(Path(path))
        subnets = read_members(topology, Gate(), options)
        return cls._having(subnets, wanted_kinds(None, topology))

    @classmethod
    def _having(cls, subnets: list[Subnet], kinds: list[str]) -> Network:
        """A network of subnets that share a gate."""
        made, first = object.__new__(cls), subnets[0]
        made._topology, made._gate, made._seed = None, first._gate, first._state.seed
        made._config, made._options, made._halted, made._delegations = first._world.config, {}, set(), {}
        made._subnets, made._kinds = subnets, kinds
        made._routes, made._workers = Routes(), None
        for subnet in subnets:
            made._routes.add(subnet._state.subnet_id, subnet._state.first_canister_index)
        made._wire()
        return made

    def _wire(self) -> None:
        for subnet in self._subnets if len(self._subnets) > 1 else ():  # one that is alone asks nobody
            self._connect(subnet)
            self._introduce(subnet)

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
    def root(self) -> Subnet:
        """The subnet whose key certificates of all go back to: the NNS, or the first one where there is none."""
        return self._subnets[self._kinds.index("nns") if "nns" in self._kinds else 0]

    @property
    def processes(self) -> tuple[int | None, ...]:
        """The ids of the worker processes, in their order; `None`: it has ended, and has not begun again."""
        return () if self._workers is None else tuple(self._workers.processes())

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
            UnsupportedError: there is an anchor: what is sent from now on could not be undone.
        """
        if any(subnet.is_anchored for subnet in self._subnets):
            raise UnsupportedError("no subnet can be added within an anchor: what is sent to it could not be undone")
        if self._topology is None and any(isinstance(subnet._host, DurableHost) for subnet in self._subnets):
            raise UnsupportedError("a state directory has one subnet: Network(path=...) keeps several")
        member = planned(kind, first_canister_index, self._kinds, self._routes.places)
        if self._topology is not None:
            self._topology.add(member)
        return self._add(kind, member.first_canister_index, member.name)

    def _add(self, kind: str, first_canister_index: int, name: str) -> Subnet:
        found, number = KINDS[kind], len(self._subnets)
        config = replace(self._config, production_key_names=True) if found.has_production_keys else self._config
        path = None if self._topology is None else self._topology.directory / name
        time_ns = self.time_ns if self._subnets else None
        seed, options = seed_of(self._seed, number), options_of(self._options, name)
        if self._workers is None:
            costs = FREE if found.is_free else None
            subnet = Subnet(path, seed=seed, config=config, costs=costs, gate=self._gate, **options)
            begin_at(subnet, first_canister_index, time_ns)
            self._routes.add(subnet._state.subnet_id, first_canister_index)
        else:
            place = self._workers.add(
                path,
                seed=seed,
                config=config,
                is_free=found.is_free,
                first_canister_index=first_canister_index,
                time_ns=time_ns,
                options=options,
            )
            subnet = RemoteSubnet(self._workers, place)  # type: ignore[assignment]  # it says what it has not
        self._subnets.append(subnet)
        self._kinds.append(kind)
        if self._workers is not None:
            self._workers.introduce(self._subnets.index(self.root))
        if len(self._subnets) > 1 and self._workers is None:  # one that is alone asks nobody
            for one in self._subnets:
                self._connect(one)
            for one in self._subnets if subnet is self.root else (subnet,):
                self._introduce(one)
        return subnet

    def _connect(self, subnet: Subnet) -> None:
        subnet._world.route = self._routes.find
        subnet._world.network = self._round

    def _introduce(self, subnet: Subnet) -> None:
        """Have a subnet know its root."""
        root, world = self.root, subnet._world
        if subnet is root:
            self._delegations.pop(world.state.subnet_id, None)
            identify(world)
        else:
            self._delegations[world.state.subnet_id] = made = Delegations(root._state.seed, lambda: root.time_ns, world)
            subordinate(world, root.root_key, made.of)

    def _delegation(self, subnet_id: bytes, canister_id: bytes) -> Delegation | None:
        """What the root says of a subnet as the one of a canister; `None`: it is the root."""
        found = self._delegations.get(subnet_id)
        return None if found is None else found.of(canister_id)

    def _neighbours(self) -> tuple[Neighbour, ...]:
        """What the state trees of all subnets say of all of them; with the lock."""
        types = [KINDS[kind].subnet_type for kind in self._kinds]
        return neighbours([subnet._state for subnet in self._subnets], types)

    def _look_around(self) -> None:
        self._routes.look_around((subnet._state.subnet_id, subnet._state.strays) for subnet in self._subnets)

    def _subnet_of(self, wanted: bytes) -> Subnet | None:
        astray = next((subnet for subnet in self._subnets if wanted in subnet._state.strays), None)
        found = None if astray is not None else self._routes.find(wanted)
        return astray or next((subnet for subnet in self._subnets if subnet._state.subnet_id == found), None)

    def subnet_of(self, canister_id: Principal) -> Subnet | None:
        """The subnet that has a canister, or would have it: calls of it go there. `None`: none would."""
        wanted = given.principal(canister_id, "a canister's id").raw_bytes
        if self._workers is not None:
            self._workers.know()
        with self._gate.lock:
            return self._subnet_of(wanted)

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
        if self._workers is not None:
            self._workers.recover()
            return
        for subnet in self._subnets:
            subnet._recover()

    @alone
    def tick(self) -> None:
        """Have outcalls answered that somebody answers, then run one round of every subnet."""
        if self._workers is not None:
            self._workers.round(always=True)
            self._workers.settle()
            return
        with self._undisturbed():
            for subnet in self._running():
                ask_outside(subnet._world, waits=False)
            self._round(True)

    @alone
    def run_until_idle(self, max_rounds: int = 10_000) -> int:
        """Run rounds until nothing is left to do but heartbeats; how many were run."""
        if self._workers is not None:
            found = next((count for count in range(max_rounds) if not self._workers.round(always=False)), max_rounds)
            self._workers.settle()
            return found
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
        # What is too long is so for the clock that is furthest: no other has moved then.
        for subnet in sorted(self._subnets, key=lambda one: -one.time_ns):
            subnet.advance_time(duration_ns)

    # --- what goes between subnets

    def _running(self) -> list[Subnet]:
        return [subnet for subnet in self._subnets if subnet.id.raw_bytes not in self._halted]

    def _running_numbers(self) -> list[int]:
        return [number for number, subnet in enumerate(self._subnets) if subnet.id.raw_bytes not in self._halted]

    @alone
    def halt(self, subnet: Subnet) -> None:
        """Have a subnet take no part in rounds until `resume`: what is sent to it waits, and it answers nothing."""
        self._halted.add(self._own(subnet))

    @alone
    def resume(self, subnet: Subnet) -> None:
        """Have a subnet go on where it was halted."""
        self._halted.discard(self._own(subnet))

    def _own(self, subnet: Subnet) -> bytes:
        if subnet in self._subnets:
            return subnet.id.raw_bytes
        raise ValueError(f"{subnet!r} is no subnet of this network")

    def _slices(self, subnets: list[Subnet]) -> list[tuple[World, bytes, Slice]]:
        """What each subnet is to take in of each other one, by receiver, then by sender.

        Only what they have streams for is looked at: in a large network most have nothing to do with each other.
        """
        numbers = {subnet._state.subnet_id: number for number, subnet in enumerate(subnets)}
        pairs = sorted(
            (numbers[receiver_id], number)
            for number, sender in enumerate(subnets)
            for receiver_id in sender._state.xnet_streams
            if receiver_id in numbers
        )
        found = []
        for receiver, sender in pairs:
            world, there = subnets[receiver]._world, subnets[sender]._state
            stream = world.state.xnet_streams.get(there.subnet_id, NO_STREAM)
            one = slice_for(there, world.state.subnet_id, stream.inducted)
            if one.messages or one.inducted > stream.begin:
                found.append((world, there.subnet_id, one))
        return found

    def _round(self, always: bool) -> bool:
        """See `World.network`."""
        subnets = self._recovered()
        slices = self._slices(subnets)
        if (
            not _is_working(subnets, slices)
            and sum(ask_outside(subnet._world) for subnet in subnets) == 0
            and not always
        ):
            return False
        self._turn(subnets, slices)
        return True

    def _go_on(self) -> None:
        """One round, whatever there is to do; what is outside is not asked."""
        subnets = self._recovered()
        self._turn(subnets, self._slices(subnets))

    def _has_work(self) -> bool:
        """Whether a round would do anything but heartbeats."""
        subnets = self._running()
        return _is_working(subnets, self._slices(subnets))

    def _recovered(self) -> list[Subnet]:
        subnets = self._running()
        self._look_around()
        for subnet in subnets:
            if subnet._world.journal is not None:
                subnet._world.recover()
        return subnets

    def _turn(self, subnets: list[Subnet], slices: list[tuple[World, bytes, Slice]]) -> None:
        self._keep_what_leaves(subnets)
        for subnet in subnets:
            self._routes.tell(subnet._state)
        for _, group in groupby(slices, lambda one: id(one[0])):
            pairs = list(group)
            take_in(pairs[0][0], [(sender_id, one) for _, sender_id, one in pairs])
        for subnet in subnets:
            round_(subnet._world)

    def _keep_what_leaves(self, subnets: list[Subnet]) -> None:
        """Have on the platter whatever others are about to take in, or to let go of, whatever else is asked for."""
        if self._topology is not None:
            for subnet in subnets:
                if subnet._state.xnet_streams:
                    subnet._wait(leaving=True)

    @alone
    def state_hash(self) -> bytes:
        """The SHA-256 of the states of all subnets: the same however many processes have them.

        Clocks, numbers of rounds and statistics of queries count. What of them no commit has, rounds without a message
        for one, is not there any more when a directory is opened again.
        """
        total = sha256()
        there = map(hash_of, self._subnets) if self._workers is None else self._workers.hashes()
        for one in there:
            total.update(one)
        return total.digest()

    @property
    def sent_cycles(self) -> int:
        """Cycles that are between subnets: in messages that were sent and not taken in."""
        states = [subnet._state for subnet in self._subnets]
        return sum(state.sent_cycles - state.received_cycles for state in states)

    # --- states

    def serve(
        self,
        *,
        port: int = 0,
        bind: str = "127.0.0.1",
        clock: str = "real",
        domains: Iterable[str] = (),
        allow_hosts: Iterable[str] = (),
    ) -> AbstractContextManager[str]:
        """Serve all subnets over HTTP within the block; gives the URL. Arguments as of `Subnet.serve`.

            with network.serve() as url:
                ...

        A request goes to the subnet of the id that it is posted to; clients check what they get with the key of the
        `root`. Clocks and rounds of all subnets go on meanwhile.

        Raises:
            UnsupportedError: the extra ``serve`` is not installed.
            OSError: the port is taken.
        """
        if self._workers is not None:
            raise UnsupportedError(_OF_THIS_PROCESS.format("serve"))
        found: AbstractContextManager[str] = door("Network.serve")(
            self, port=port, bind=bind, clock=clock, domains=domains, allow_hosts=allow_hosts
        )
        return found

    def auto_progress(self) -> AbstractContextManager[None]:
        """Let all subnets go on by themselves within the block: see `Subnet.auto_progress`."""
        if self._workers is not None:
            raise UnsupportedError(_OF_THIS_PROCESS.format("auto_progress"))
        going_on: AbstractContextManager[None] = door("Network.auto_progress")(self)
        return going_on

    @alone
    def fork(self) -> Network:
        """A second network in the same state, in memory; each goes its own way.

        Raises:
            UnsupportedError: the subnets are in worker processes.
        """
        if self._workers is not None:
            raise UnsupportedError(_OF_THIS_PROCESS.format("fork"))
        twin = object.__new__(Network)
        twin._gate = Gate()
        twin._seed, twin._config, twin._options, twin._topology = self._seed, self._config, self._options, None
        twin._subnets = [subnet._twin(twin._gate) for subnet in self._subnets]
        twin._kinds, twin._halted, twin._delegations = list(self._kinds), set(self._halted), {}
        twin._routes, twin._workers = self._routes.copy(), None
        twin._wire()
        return twin

    def close(self) -> None:
        """Let go of files, engine and processes; the network is of no use afterwards."""
        if self._workers is not None:
            self._workers.close()
            return
        with ExitStack() as stack:  # all of them, whatever one of them raises
            for subnet in self._subnets:
                stack.callback(subnet.close)

    def _abandon(self) -> None:
        """Let go of what was opened, as it was."""
        if self._workers is not None:
            self._workers.abandon()
            return
        for subnet in self._subnets:
            if isinstance(subnet._host, DurableHost):
                subnet._host.directory.abandon()

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Network of {', '.join(self._kinds)}>"


def _is_working(subnets: Iterable[Subnet], slices: Iterable[tuple[World, bytes, Slice]]) -> bool:
    """Whether a round would do anything but heartbeats."""
    return any(has_work(subnet._world) for subnet in subnets) or any(
        has_new(world.state, sender_id, one) for world, sender_id, one in slices
    )
