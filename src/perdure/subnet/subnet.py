"""A subnet in this process, and its canisters, as people hold them.

    >>> from perdure import Subnet                                  # doctest: +SKIP
    >>> subnet = Subnet()
    >>> counter = subnet.install("counter.wasm")
    >>> counter.update("increment")

`Subnet` is the one mutable reference: it holds the state that the rules change, and wires in engine and files.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, final

from perdure.canister import (
    CanisterModule,
    HasModule,
    Reject,
    Reply,
)
from perdure.embedder import Compiler, shared_compiler
from perdure.errors import StorageError, UnsupportedError
from perdure.execution.clock import advance_time
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CostSchedule
from perdure.execution.events import Checkpointed, Stream, Taken
from perdure.execution.identity import identify
from perdure.execution.journal import Ticket
from perdure.execution.lending import own_records
from perdure.execution.lifecycle import InstallMode, InstallOptions, add_canister, install_code
from perdure.execution.outcalls import ask_outside
from perdure.execution.records import RECORDS
from perdure.execution.scheduler import go_on, reject_management_call, request_status, run_until_idle
from perdure.execution.state import CanisterState, Settings, SubnetState
from perdure.execution.world import World
from perdure.ic.ic0_ext import checked_extensions
from perdure.ic.principal import MANAGEMENT_CANISTER, Principal
from perdure.instrument import REPLICA, Options
from perdure.python.catalogue import Catalogue
from perdure.storage import Durability, KeepHistory, Snapshot, StateDirectory
from perdure.subnet import given
from perdure.subnet.canister import Canister, Home
from perdure.subnet.changed_code import ChangedCode, check_name, check_way, take_up
from perdure.subnet.copying import copy_world, pass_on
from perdure.subnet.core import Wasm
from perdure.subnet.durable import DurableHost
from perdure.subnet.gate import Gate, alone
from perdure.subnet.host import MemoryHost
from perdure.subnet.interface import Argument, init_argument
from perdure.subnet.management import (
    Status,
    as_error,
    controller_of,
)
from perdure.subnet.opening import archive_place, open_directory, open_state
from perdure.subnet.residency import ResidentInstance, Residents
from perdure.subnet.snapshots import put_on
from perdure.units import counted

if TYPE_CHECKING:
    from perdure.storage import ArchiveTo

__all__ = ["Canister", "Status", "Subnet"]

DEFAULT_CYCLES = 100_000_000_000_000


@final
class Subnet(Home):
    """A subnet of the Internet Computer in this process: in memory, or kept in a state directory.

    Everything may be called from several threads. Updates and queries of different canisters then run in parallel, as
    far as they are the engine's work; a canister takes one message at a time. Whatever reaches further (calls between
    canisters, timers that are due, heartbeats, rounds, installing, forks, checkpoints, canisters in Python) waits until
    no message runs, and has the subnet to itself. An anchor also undoes what other threads do meanwhile.

    Args:
        path: a state directory, made where there is none; `None`: everything is gone with the process.
        durability: when what a message did is on the platter: before its reply is handed out (``message``), at the end
            of the round (``round``), at a checkpoint that is made when the log grows (``checkpoint``) or that is asked
            for (``never``). Whatever the level, a crash leaves the state between two messages.
        history: how many commits the directory keeps for `at` from now on; `None`: all; ``kept``: as it does so far, a
            new one none.
        config: limits, by the replica's names.
        instrumentation: which passes the code of canisters goes through.
        costs: what everything costs; by default what it does on the network.
        seed: of the subnet's randomness.
        compiler: compiles the code of canisters; by default the one that the process shares.
        code: the class, or classes, of canisters in Python that a state directory may hold; others are imported by
            their names.
        changed_code: what becomes of canisters whose class has changed since: they are upgraded to it (``upgrade``),
            the directory is not opened (``refuse``), or they stay as they are, to be read but not called before
            somebody upgrades them (``keep``; `code` may then have several versions of a class).
        extensions: what canisters may use beyond the network's rules, by the names of `perdure.ic.ic0_ext`; a state
            directory keeps those that it was once opened with.
        trust_owner: write into a state directory that belongs to another user.
        archive: of the directory, a URL of object storage or an `perdure.storage.ArchiveTo`: what is committed is there
            before it is acknowledged, or soon after, and a directory that is not there is made of it.
        gate: whose turn it is, where `Network` has several subnets take turns together.

    Raises:
        StorageError: the directory cannot be opened, or a changed class cannot go on with what is there.
        RejectError: an upgrade to a changed class was rejected.
        ValueError: two classes in `code` have one name, or there is no such extension.
    """

    def __init__(  # noqa: PLR0913 -- each is a property of the subnet
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        durability: Durability = "message",
        history: KeepHistory = "kept",
        config: SubnetConfig | None = None,
        instrumentation: Options | None = None,
        costs: CostSchedule | None = None,
        seed: bytes = b"",
        compiler: Compiler | None = None,
        code: HasModule | type[object] | Iterable[HasModule | type[object]] = (),
        changed_code: ChangedCode = "upgrade",
        extensions: Iterable[str] = (),
        trust_owner: bool = False,
        archive: str | ArchiveTo | None = None,
        gate: Gate | None = None,
    ) -> None:
        check_way(changed_code)
        place = archive_place(archive, path)
        extensions = _wanted(extensions, path)
        options, compiler = instrumentation or Options(), compiler or shared_compiler()
        self._catalogue = catalogue = Catalogue(code, every_version=changed_code == "keep")
        self._changed_code = changed_code
        config = config or SubnetConfig()
        policy = replace(REPLICA, max_method_name_bytes=config.max_sum_exported_function_name_lengths)

        def compile_code(wasm: bytes, *, known: bool = False, extensions: tuple[str, ...] = ()) -> CanisterModule:
            found = catalogue.find(wasm, look=known)
            if found is not None:
                return found
            chosen = replace(options, extensions=extensions) if extensions else options
            return compiler.compile(wasm, chosen, known=known, policy=policy)

        self._gate = gate or Gate(patient=path is None)  # with a directory, turns are longer and end with a wait
        directory = None
        try:
            if path is None:
                host = MemoryHost(compile_code, Residents(self._gate), extensions=extensions)
                self._world = World(SubnetState(seed=seed), host, config)
            else:
                directory = open_directory(
                    path,
                    is_member=gate is not None,
                    durability=durability,
                    history=history,
                    extensions=extensions,
                    trust_owner=trust_owner,
                    archive=place,
                )
                self._world = open_state(directory, compile_code, config, seed, self._gate, place)
            if costs is not None:
                self._charge(costs)
            identify(self._world)
            if path is not None:
                take_up(self.canisters, catalogue, changed_code, os.fspath(path))
        except BaseException:
            if directory is not None:
                directory.abandon()  # or it would be open for as long as somebody has the traceback
            raise

    def _charge(self, costs: CostSchedule) -> None:
        """Have everything cost what a schedule says, and history say so."""
        self._world.costs = costs
        self._state.note("costs", [getattr(costs, field.name) for field in fields(costs)])

    @classmethod
    def open(
        cls,
        snapshot: str | os.PathLike[str],
        *,
        canister_id: Principal | None = None,
        controllers: Iterable[Principal] = (),
        cycles: int = DEFAULT_CYCLES,
        config: SubnetConfig | None = None,
        extensions: Iterable[str] = (),
    ) -> Subnet:
        """A subnet in memory with one canister over a downloaded snapshot, which is never written; nothing is copied.

        The clock starts at the snapshot's timestamp. A snapshot knows neither id nor controllers nor cycles.

        Args:
            snapshot: a directory as `icp canister snapshot download` writes it.
            canister_id: of the canister; by default the first one.
            controllers: by default the anonymous principal.
            cycles: its balance.
            config: limits.
            extensions: what the canister may use beyond the network's rules.

        Raises:
            StorageError: it is no such directory, or its parts do not fit each other.
            UnsupportedError: it has memories of an extension that is off.
            RejectError: the module is refused.
        """
        subnet = cls(config=config, extensions=extensions)
        opened = Snapshot.open(snapshot)
        canister = subnet.create_canister(canister_id=canister_id, controllers=controllers, cycles=cycles)
        subnet._state.time_ns = max(subnet._state.time_ns, opened.metadata.taken_at_timestamp)
        canister._state.charged_until_ns = subnet._state.time_ns
        host = subnet._host
        assert isinstance(host, MemoryHost)
        put_on(opened, subnet._world, canister._state, host.compile(opened.wasm_module()), host)
        return subnet

    @classmethod
    def read(
        cls,
        path: str | os.PathLike[str],
        *,
        config: SubnetConfig | None = None,
        compiler: Compiler | None = None,
        code: HasModule | type[object] | Iterable[HasModule | type[object]] = (),
        extensions: Iterable[str] = (),
        gate: Gate | None = None,
    ) -> Subnet:
        """A subnet in memory in the state of a state directory, which is only read, and may be in use.

        Args:
            path: the directory.
            config: limits.
            compiler: as in `Subnet`.
            code: the classes of canisters in Python that the directory may hold, in any number of versions. A canister
                whose version is not here can be read, and upgraded in this copy.
            extensions: what canisters may use in this copy beyond what they may there.
            gate: as in `Subnet`.

        Raises:
            StorageError: it is none, cannot be read, or a checkpoint is being made.
            ValueError: there is no such extension, or it does not go with those of the directory.
        """
        wanted = _wanted(extensions, path)
        made = cls(config=config, compiler=compiler, code=code, changed_code="keep", gate=gate)
        memory = made._host
        assert isinstance(memory, MemoryHost)
        directory = StateDirectory.open(path, read_only=True, records=RECORDS, store=memory.store)
        host = DurableHost(directory, memory._compile_code, memory.residents)
        forked = host.fork(made._gate)
        forked.extensions = checked_extensions(wanted, forked.extensions)
        made._world = copy_world(host.restore(config or SubnetConfig(), b""), forked)
        identify(made._world)
        made._read_host = host
        made._lease = weakref.finalize(made, directory.close)  # an owner makes no checkpoint meanwhile
        return made

    # --- canisters

    @alone
    def install(
        self,
        wasm: Wasm,
        arg: Argument | None = None,
        *,
        canister_id: Principal | None = None,
        controllers: Iterable[Principal] = (),
        cycles: int | None = None,
        wasi: bool = False,
        candid: str | os.PathLike[str] | None = None,
    ) -> Canister:
        """Create a canister and install a module on it.

        Args:
            wasm: the module or its path, gzip or not.
            arg: for ``canister_init``: bytes, Candid text, or a tuple of values for the types that it names; without
                one ``()`` where it names no types, or none that need a value.
            canister_id: by default the next free one.
            controllers: by default the anonymous principal.
            cycles: the balance; by default `SubnetConfig.default_provisional_cycles`.
            wasi: the module is for WASI: replace what it imports as `perdure.instrument.replace_wasi` does.
            candid: the path of its ``.did`` file, or its text, remembered with the canister; by default what the module
                says of itself, else the ``.did`` beside the module or in its project.

        Raises:
            RejectError: the module is refused, or its start or init code trapped.
            UnsupportedError: with `wasi`, the module imports what nothing stands in for.
            ValueError: the id is taken, or the module takes arguments and `arg` is none or another.
        """
        code = self._code(wasm, wasi=wasi)
        module = self._compiled(code)
        check_name(self, module)
        known = self._interface(wasm, module, candid)
        raw_arg = init_argument("the module", module, arg, known=known)
        settings, cycles = self._settings(controllers), self._balance(cycles)
        canister_id = canister_id and given.principal(canister_id, "the id")
        options, ticket = InstallOptions(InstallMode.INSTALL), Ticket()
        with self._undisturbed(ticket) as world:
            taken = world.take(Taken("install_code", canister_id.raw_bytes if canister_id is not None else b""))
            world.begin()
            ticket.journal = world.journal
            state = self._create(settings, cycles, canister_id)
            canister = Canister(self, Principal(state.canister_id))
            response = install_code(world, state, options, code, raw_arg, controller_of(state))
            if isinstance(response, Reject):
                world.undo()
                raise as_error(response)
            if world.state.inputs is not None:
                raw_id = None if canister_id is None else canister_id.raw_bytes
                world.state.note("install", raw_id, settings.controllers, cycles, self._keep_code(code), raw_arg)
            world.finish(taken._replace(canister_id=state.canister_id), raw_arg)
        self._interfaces.remember(state.canister_id, known)
        self._wait()
        return canister

    def _settings(self, controllers: Iterable[Principal]) -> Settings:
        """Those of a new canister."""
        return given.first_settings(self._world.config, controllers)

    def _balance(self, cycles: int | None) -> int:
        """The cycles of a new canister."""
        return self._world.config.default_provisional_cycles if cycles is None else given.amount_of_cycles(cycles)

    def _create(self, settings: Settings, cycles: int, canister_id: Principal | None) -> CanisterState:
        raw_id = canister_id.raw_bytes if canister_id is not None else None
        self._state.minted_cycles += cycles
        return add_canister(self._world, settings, cycles, raw_id, (settings.controllers[0], None))

    @alone
    def create_canister(
        self,
        *,
        canister_id: Principal | None = None,
        controllers: Iterable[Principal] = (),
        cycles: int | None = None,
    ) -> Canister:
        """Create a canister without code; arguments as for `install`."""
        settings, cycles = self._settings(controllers), self._balance(cycles)
        canister_id = canister_id and given.principal(canister_id, "the id")
        with self._transaction("create_canister") as message:
            state = self._create(settings, cycles, canister_id)
            raw_id = None if canister_id is None else canister_id.raw_bytes
            self._state.note("create", raw_id, settings.controllers, cycles)
            message.append(state.canister_id)
        return Canister(self, Principal(state.canister_id))

    def canister(self, canister_id: Principal) -> Canister:
        """The handle of a canister of this subnet.

        Raises:
            KeyError: there is none of this id.
        """
        canister_id = given.principal(canister_id, "a canister's id")
        if canister_id not in self:
            raise KeyError(f"no canister {canister_id} on this subnet")
        return Canister(self, canister_id)

    @property
    def management(self) -> Canister:
        """The management canister, for calls as users make them: ``update``, ``query``, ``service``, ``actor``."""
        return Canister(self, MANAGEMENT_CANISTER)

    @property
    def canisters(self) -> tuple[Canister, ...]:
        """Handles of all canisters, by id."""
        with self._gate.lock:
            return tuple(Canister(self, Principal(raw_id)) for raw_id in sorted(self._state.canisters))

    # --- rounds and time

    @alone
    def tick(self) -> None:
        """Have outcalls answered that somebody answers, then run one round."""
        with self._undisturbed(None) as world:
            ask_outside(world, waits=False)
            go_on(world, always=True)
        self._wait()

    @alone
    def run_until_idle(self) -> int:
        """Run rounds until nothing is left to do but heartbeats; how many were run."""
        with self._undisturbed(None) as world:
            rounds = run_until_idle(world)
        self._wait()
        return rounds

    @alone
    def reject_management_call(self, words: str = "The call was rejected by hand.") -> str | None:
        """Reject the call that the management canister would execute next; its method, `None` where none waits.

        A call that this machine cannot execute (compiling a module takes more time or memory than its limits) is a
        `HostError` in each round, never an answer that would depend on the machine. Where trying again with higher
        limits (`perdure.embedder.Apart`) does not help, this lets the subnet go on. The caller hears `words`.
        """
        with self._undisturbed(None) as world:
            call = reject_management_call(world, words)
        self._wait()
        return None if call is None else call.method_name

    @alone
    def set_time(self, time_ns: int | datetime) -> None:
        """Set the clock, to nanoseconds since 1970 or a `datetime` with a time zone; it never goes back."""
        self.advance_time(given.nanoseconds_since_1970(time_ns) - self._state.time_ns)

    @alone
    def advance_time(self, duration_ns: int | timedelta | str) -> None:
        """Let time pass, in nanoseconds, as a `timedelta` or with a unit: ``90s``.

        What is due runs with the next round, `tick`; what it calls for that (ic-cdk's timers call their own canister)
        runs in the rounds after: `run_until_idle` does all of it.
        """
        duration_ns = given.nanoseconds(duration_ns)
        with self._transaction("advance_time"):
            advance_time(self._world, duration_ns)

    # --- what happens

    @contextmanager
    def events(self, capacity: int = 100_000) -> Iterator[Stream]:
        """What happens on this subnet within the block, as small records: see `perdure.execution.events`.

            with subnet.events() as stream:
                canister.update("increment")
            for event in stream:
                print(event)

        Blocks nest, each with a stream of its own. A fork has none.

        Args:
            capacity: how many events the stream holds until they are read; `Stream.lost` counts the others.
        """
        stream = Stream(capacity)
        with self._gate.lock:
            self._listen((*self._world.streams, stream))
        try:
            yield stream
        finally:
            with self._gate.lock:
                self._listen(tuple(other for other in self._world.streams if other is not stream))

    def _listen(self, streams: tuple[Stream, ...]) -> None:
        world = self._world
        world.streams = streams
        if isinstance(world.host, DurableHost):
            tell = None if not streams else lambda version: world.tell(Checkpointed(version))
            world.host.directory.on_checkpoint = tell

    # --- requests

    @alone
    def response(self, request_id: bytes) -> bytes | None:
        """The reply to a request, by the id that `Canister.update` was given or an error has told.

        `None`: there is none yet, or it is not known any more, or never was; see `request_status`.

        Raises:
            RejectError: the canister or the system rejected the call.
        """
        self._wait()  # as whoever sent it does
        response = self._state.ingress.find(request_id, self._state.time_ns)
        if response is None or isinstance(response, Reply):
            return None if response is None else response.data
        raise as_error(response)

    @alone
    def request_status(self, request_id: bytes) -> str:
        """What became of a request: ``unknown``, ``received``, ``processing``, ``replied``, ``rejected`` or ``done``.

        ``done``: it was answered, and the answer is not kept any more.
        """
        self._wait()
        return request_status(self._world, request_id)

    # --- states

    @alone
    def fork(self, *, extensions: Iterable[str] = ()) -> Subnet:
        """A second subnet in the same state; each goes its own way. Costs nothing for memory until it changes.

        Args:
            extensions: what the fork's canisters may use beyond what they may here; see `Subnet`.

        Raises:
            ValueError: there is no such extension.
        """
        added = checked_extensions(extensions, self.extensions)
        twin = self._twin(Gate())
        if self._world.network is not None:
            identify(twin._world)  # the copy of one subnet has no network, and is its own root
        host = twin._host
        assert isinstance(host, MemoryHost)
        host.extensions = added
        return twin

    def _twin(self, gate: Gate) -> Subnet:
        twin = object.__new__(Subnet)
        twin._gate = gate
        twin._catalogue, twin._changed_code = self._catalogue, self._changed_code
        twin._world = copy_world(self._world, self._host.fork(gate))
        return twin

    @contextmanager
    def anchor(self) -> Iterator[None]:
        """Whatever happens within the block is undone at its end, on disk it never was; blocks nest."""
        kept = self._begin_anchor()
        try:
            yield
        finally:
            self._end_anchor(kept)

    @alone
    def _begin_anchor(self) -> World:
        kept = self._world
        if kept.network is not None:
            raise UnsupportedError("one subnet of a network has no anchor: what it sent would stay; fork the network")
        self._world = self._twin(self._gate)._world
        self._anchors += 1
        pass_on(kept, self._world)
        self._host.residents.take_after(kept.host.residents)  # type: ignore[attr-defined]
        return kept

    @alone
    def _end_anchor(self, kept: World) -> None:
        for canister in own_records(self._state.canisters).values():
            self._state.settle(canister)
            if canister.instance is not None:
                self._host.discard(canister.canister_id, canister.instance)
        pass_on(self._world, kept)
        self._world = kept
        self._anchors -= 1

    @alone
    def at(self, version: int) -> Subnet:
        """The subnet as it was after commit `version` of its state directory, in memory: look, or go on from there.

        Raises:
            StorageError: that version is not kept; see `history`.
            UnsupportedError: the subnet is in memory and has no past.
        """
        twin = object.__new__(Subnet)
        twin._gate = Gate()
        twin._catalogue, twin._changed_code = self._catalogue, self._changed_code
        twin._world = (self._read_host or self._durable).at(version, twin._gate)
        return twin

    @property
    def version(self) -> int | None:
        """How many commits the state directory has seen; `None`: the subnet is in memory."""
        host = self._host
        return host.directory.version if isinstance(host, DurableHost) else None

    @alone
    def checkpoint(self) -> None:
        """Bring the state directory's images up to date and empty its log; in memory there is nothing to do."""
        host = self._host
        if isinstance(host, DurableHost):
            host.directory.checkpoint()

    def close(self) -> None:
        """Let go of files and engine; a state directory gets a last checkpoint. The subnet is of no use afterwards."""
        gate = self._gate
        turn = gate.turn
        with gate.lock:
            try:
                gate.alone(turn)
                self._close()
            finally:
                gate.end(turn)

    def _close(self) -> None:
        for canister in own_records(self._state.canisters).values():
            if isinstance(instance := canister.instance, ResidentInstance):
                instance.rest()
        self._host.close()
        if self._lease is not None:
            self._lease()

    def __enter__(self) -> Subnet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        host = self._host
        where = f"{host.directory.path} at version {self.version}" if isinstance(host, DurableHost) else "in memory"
        time = datetime.fromtimestamp(self._state.time_ns / 1e9, UTC)
        return f"<Subnet {where}: {counted(len(self._state.canisters), 'canister')}, {time:%Y-%m-%d %H:%M:%S} UTC>"


def _wanted(extensions: Iterable[str], path: str | os.PathLike[str] | None) -> tuple[str, ...]:
    """The extensions that are asked for, which have to go with those that a state directory has."""
    wanted = checked_extensions(extensions)
    if wanted and path is not None:
        with suppress(StorageError):  # there is none yet, or it cannot be opened, which opening it will tell
            directory = StateDirectory.open(path, read_only=True, records=RECORDS)
            try:
                checked_extensions(wanted, directory.extensions)
            finally:
                directory.close()
    return wanted
