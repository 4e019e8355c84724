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
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, final

from perdure.candid import decode
from perdure.candid.service import ServiceType
from perdure.candid.types import Text
from perdure.canister import (
    CanisterModule,
    CanisterStatus,
    GlobalValue,
    HasModule,
    PageDelta,
    Reject,
    Reply,
    Return,
    StateDelta,
)
from perdure.embedder import Compiler, shared_compiler
from perdure.embedder.guard import threads
from perdure.errors import MalformedError, UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CostSchedule
from perdure.execution.effects import commit
from perdure.execution.events import Checkpointed, Stream, Taken
from perdure.execution.execute import clean_instance
from perdure.execution.identity import identify
from perdure.execution.journal import Ticket
from perdure.execution.lifecycle import InstallMode, InstallOptions, add_canister, install_code
from perdure.execution.messages import Response
from perdure.execution.query import execute_query
from perdure.execution.records import RECORDS
from perdure.execution.scheduler import (
    advance_time,
    execute_at_once,
    execute_ingress,
    is_hook_due,
    request_status,
    round_,
    run_hook,
    run_until_answered,
    run_until_idle,
)
from perdure.execution.state import CanisterState, LogRecord, Settings, SubnetState
from perdure.execution.world import ExecutedMessage, World
from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from perdure.instrument import REPLICA, Options, wasm_without_wasi
from perdure.python.catalogue import Catalogue
from perdure.storage import Durability, KeepHistory, Snapshot, StateDirectory
from perdure.subnet import given
from perdure.subnet.actor import Actor
from perdure.subnet.changed_code import ChangedCode, check_name, check_takeover, check_way, take_up
from perdure.subnet.copying import deep_copy
from perdure.subnet.doors import door
from perdure.subnet.durable import DurableHost, blobs_of, open_state
from perdure.subnet.gate import Gate, alone, at_rest
from perdure.subnet.host import MemoryHost
from perdure.subnet.interface import NO_VALUES, Argument, has_interface, init_argument, service_of
from perdure.subnet.management import (
    MAX_ROUNDS,
    as_error,
    controller_of,
    manage,
    management_service,
    status_record,
)
from perdure.subnet.memories import LiveMemory
from perdure.subnet.residency import ResidentInstance, ResidentModule, Residents
from perdure.subnet.snapshots import put_on, upload, write

if TYPE_CHECKING:
    import apsw

__all__ = ["Canister", "Status", "Subnet"]

DEFAULT_CYCLES = 100_000_000_000_000
CANDID_METHOD = "__get_candid_interface_tmp_hack"


Wasm = bytes | str | os.PathLike[str] | HasModule | type[object]
"""A module, its path, or what stands for one: a class that `perdure.kit.canister` has made a canister."""


@final
@dataclass(frozen=True, slots=True)
class Status:
    """Facts about a canister. Sizes in bytes, cycles in cycles."""

    status: str
    module_hash: bytes | None
    controllers: tuple[Principal, ...]
    version: int
    cycles: int
    heap_bytes: int
    stable_bytes: int
    memory_bytes: int


_USUAL_CALL: Final = (bytes, str, Principal, 0)
"""Types of what most calls are made of, and the cycles that go with them: nothing to look at."""


class _NoPastError(UnsupportedError, AttributeError):
    """Also what Python expects of an attribute that is not there."""


@final
class Subnet:
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
        code: the classes of canisters in Python that a state directory may hold; others are imported by their names.
        changed_code: what becomes of canisters whose class has changed since: they are upgraded to it (``upgrade``),
            the directory is not opened (``refuse``), or they stay as they are, to be read but not called before
            somebody upgrades them (``keep``; `code` may then have several versions of a class).
        trust_owner: write into a state directory that belongs to another user.

    Raises:
        StorageError: the directory cannot be opened, or a changed class cannot go on with what is there.
        RejectError: an upgrade to a changed class was rejected.
        ValueError: two classes in `code` have one name.
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
        code: Iterable[HasModule | type[object]] = (),
        changed_code: ChangedCode = "upgrade",
        trust_owner: bool = False,
    ) -> None:
        check_way(changed_code)
        options = instrumentation or Options()
        compiler = compiler or shared_compiler()
        self._catalogue = catalogue = Catalogue(code, every_version=changed_code == "keep")
        self._changed_code = changed_code

        config = config or SubnetConfig()
        policy = replace(REPLICA, max_method_name_bytes=config.max_sum_exported_function_name_lengths)

        def compile_code(wasm: bytes, *, known: bool = False) -> CanisterModule:
            return catalogue.find(wasm, look=known) or compiler.compile(wasm, options, known=known, policy=policy)

        self._gate = Gate(patient=path is None)  # with a directory, turns are longer and end with a wait
        directory = None
        try:
            if path is None:
                host = MemoryHost(compile_code, Residents(self._gate))
                self._world = World(SubnetState(seed=seed), host, config)
            else:
                directory = StateDirectory.open(
                    path,
                    durability=durability,
                    history=history,
                    records=RECORDS,
                    blobs_of=blobs_of,
                    trust_owner=trust_owner,
                )
                self._world = open_state(directory, compile_code, config, seed, self._gate)
            if costs is not None:
                self._world.costs = costs
            identify(self._world)
            if path is not None:
                take_up(self.canisters, catalogue, changed_code, os.fspath(path))
        except BaseException:
            if directory is not None:
                directory.abandon()  # or it would be open for as long as somebody has the traceback
            raise

    _anchors = 0

    _lease: Callable[[], object] | None = None
    """Lets go of a state directory that this subnet only reads."""
    _read_directory: StateDirectory | None = None

    def _history_directory(self) -> StateDirectory | None:
        """The state directory whose history is this subnet's, where it has one."""
        host = self._host
        return host.directory if isinstance(host, DurableHost) else self._read_directory

    @property
    def _state(self) -> SubnetState:
        return self._world.state

    def _recover(self) -> None:
        """Finish or undo what an exception has cut off, and refuse where memory and disk may differ."""
        world = self._world
        world.host.check()
        if world.journal is not None:
            world.recover()

    @contextmanager
    def _undisturbed(self, ticket: Ticket | None) -> Iterator[World]:
        """Work on the state, alone: signal handlers wait, and what comes out says what became of it.

        Args:
            ticket: of the one message that it is about, if it is about one.
        """
        signals = threads.here.state
        try:
            signals.enter()
            try:
                yield self._world
            finally:
                signals.leave()
        except BaseException as error:
            self._say(error, ticket)
            raise

    def _say(self, error: BaseException, ticket: Ticket | None) -> None:
        """Finish or undo what `error` has cut off, and note on it whether the message was kept, as durably as asked."""
        error.committed = None  # type: ignore[attr-defined]
        try:
            self._world.recover()
            is_kept = ticket is not None and ticket.is_kept
            if is_kept:
                self._host.wait(self._host.settle())
        except BaseException:
            return  # nobody knows before it is opened anew
        if ticket is not None:
            error.committed = is_kept  # type: ignore[attr-defined]

    def _wait(self) -> None:
        """Return when everything is as durable as was asked."""
        try:
            self._host.wait(self._host.settle())
        except BaseException as error:
            error.committed = None  # type: ignore[attr-defined]  # it is kept, and may be lost if the process is
            raise

    @staticmethod
    def _say_at_least(error: BaseException, ticket: Ticket) -> None:
        """Note on what came before a message was begun, or cut off `_say`, as much as is known."""
        if not hasattr(error, "committed"):
            error.committed = False if ticket.journal is None else None  # type: ignore[attr-defined]

    @property
    def _host(self) -> MemoryHost | DurableHost:
        return self._world.host  # type: ignore[return-value]  # the rules know it by less

    @classmethod
    def open(
        cls,
        snapshot: str | os.PathLike[str],
        *,
        canister_id: Principal | None = None,
        controllers: Iterable[Principal] = (),
        cycles: int = DEFAULT_CYCLES,
        config: SubnetConfig | None = None,
    ) -> Subnet:
        """A subnet in memory with one canister over a downloaded snapshot, which is never written; nothing is copied.

        The clock starts at the snapshot's timestamp. A snapshot knows neither id nor controllers nor cycles.

        Args:
            snapshot: a directory as `icp canister snapshot download` writes it.
            canister_id: of the canister; by default the first one.
            controllers: by default the anonymous principal.
            cycles: its balance.
            config: limits.

        Raises:
            StorageError: it is no such directory, or its parts do not fit each other.
            RejectError: the module is refused.
        """
        subnet = cls(config=config)
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
        code: Iterable[type[Any]] = (),
    ) -> Subnet:
        """A subnet in memory in the state of a state directory, which is only read, and may be in use.

        Args:
            path: the directory.
            config: limits.
            compiler: as in `Subnet`.
            code: the classes of canisters in Python that the directory may hold.

        Raises:
            StorageError: it is none, cannot be read, or a checkpoint is being made.
        """
        made = cls(config=config, compiler=compiler, code=code)
        memory = made._host
        assert isinstance(memory, MemoryHost)
        directory = StateDirectory.open(path, read_only=True, records=RECORDS, store=memory.store)
        host = DurableHost(directory, memory._compile_code, memory.residents)
        made._world = _copy(host.restore(config or SubnetConfig(), b""), host.fork(made._gate))
        identify(made._world)
        made._read_directory = directory
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

        Raises:
            RejectError: the module is refused, or its start or init code trapped.
            UnsupportedError: with `wasi`, the module imports what nothing stands in for.
            ValueError: the id is taken, or the module takes arguments and `arg` is none or another.
        """
        code = self._code(wasm, wasi=wasi)
        module = self._compiled(code)
        check_name(self, module)
        raw_arg = init_argument("the module", module, arg)
        settings, cycles = self._settings(controllers), self._balance(cycles)
        canister_id = canister_id and given.principal(canister_id, "the id")
        options, ticket = InstallOptions(InstallMode.INSTALL), Ticket()
        with self._undisturbed(ticket) as world:
            if world.streams:
                world.tell(Taken("install_code", canister_id.raw_bytes if canister_id is not None else b""))
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
            world.finish(ExecutedMessage("install_code", state.canister_id, arg=raw_arg))
        self._wait()
        return canister

    def _compiled(self, code: bytes) -> CanisterModule | None:
        """A module, compiled before anything is begun, as that may take long; `None`: the rules will refuse it."""
        try:
            return self._host.compile(code)
        except (MalformedError, UnsupportedError):
            return None

    def _keep_code(self, code: bytes) -> bytes:
        """Have a module for the history, which may name one that nobody got; its SHA-256."""
        return self._durable.directory.put_blob(code)

    def _settings(self, controllers: Iterable[Principal]) -> Settings:
        """Those of a new canister."""
        config = self._world.config
        raw_ids = tuple(item.raw_bytes for item in given.principals(controllers, "controllers"))
        if len(raw_ids) > config.max_controllers:
            raise ValueError(f"{len(raw_ids)} controllers: at most {config.max_controllers} are allowed")
        return Settings(
            controllers=raw_ids or (ANONYMOUS.raw_bytes,),
            freezing_threshold=config.default_freezing_threshold_seconds,
            reserved_cycles_limit=config.default_reserved_cycles_limit,
            wasm_memory_limit=config.default_wasm_memory_limit_bytes,
            log_memory_limit=config.default_log_memory_limit_bytes,
        )

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

    @contextmanager
    def _transaction(self, kind: str, canister_id: bytes = b"", arg: bytes = b"") -> Iterator[list[bytes]]:
        """One commit of what is done from outside. A canister's id may be added to what it gives, once it is known."""
        ids = [canister_id] if canister_id else []
        ticket = Ticket()
        with self._undisturbed(ticket) as world:
            if world.streams:
                world.tell(Taken(kind, canister_id))
            world.begin()
            ticket.journal = world.journal
            yield ids
            world.finish(ExecutedMessage(kind, ids[0] if ids else b"", arg=arg))
        self._wait()

    def _code(self, wasm: Wasm, *, wasi: bool = False) -> bytes:
        """The module as uploaded."""
        if isinstance(wasm, bytes | bytearray | memoryview):
            code = bytes(wasm)
        elif isinstance(wasm, str | os.PathLike):
            code = Path(wasm).read_bytes()
        else:
            if wasi:
                raise UnsupportedError(f"{wasm!r} is a canister in Python, without imports of WASI: leave wasi out")
            return self._catalogue.add(wasm).wasm
        return wasm_without_wasi(code) if wasi else code

    def canister(self, canister_id: Principal) -> Canister:
        """The handle of a canister of this subnet.

        Raises:
            KeyError: there is none of this id.
        """
        if canister_id not in self:
            raise KeyError(f"no canister {canister_id} on this subnet")
        return Canister(self, canister_id)

    def __contains__(self, canister_id: Principal) -> bool:
        """Whether there is a canister of this id."""
        return canister_id.raw_bytes in self._state.canisters

    @property
    def id(self) -> Principal:
        """The principal of the subnet."""
        return Principal(self._state.subnet_id)

    @property
    def root_key(self) -> bytes:
        """The key that certificates are checked with, in DER; empty without the extra ``certification``."""
        return self._state.root_key

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
        """Run one round."""
        with self._undisturbed(None) as world:
            round_(world)
        self._wait()

    @alone
    def run_until_idle(self) -> int:
        """Run rounds until nothing is left to do but heartbeats; how many were run."""
        with self._undisturbed(None) as world:
            rounds = run_until_idle(world)
        self._wait()
        return rounds

    @property
    def time_ns(self) -> int:
        """The virtual clock, ns since 1970."""
        return self._state.time_ns

    @alone
    def set_time(self, time_ns: int | datetime) -> None:
        """Set the clock, to nanoseconds since 1970 or a `datetime` with a time zone; it never goes back."""
        self.advance_time(given.nanoseconds_since_1970(time_ns) - self._state.time_ns)

    @alone
    def advance_time(self, duration_ns: int | timedelta) -> None:
        """Let time pass, in nanoseconds or as a `timedelta`.

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
        state = self._state
        response = state.ingress.find(request_id, state.time_ns)
        if response is None or isinstance(response, Reply):
            return None if response is None else response.data
        raise as_error(response)

    @alone
    def request_status(self, request_id: bytes) -> str:
        """What became of a request: ``unknown``, ``received``, ``processing``, ``replied``, ``rejected`` or ``done``.

        ``done``: it was answered, and the answer is not kept any more.
        """
        return request_status(self._world, request_id)

    # --- states

    @alone
    def fork(self) -> Subnet:
        """A second subnet in the same state; each goes its own way. Costs nothing for memory until it changes."""
        return self._twin(Gate())

    def _twin(self, gate: Gate) -> Subnet:
        twin = object.__new__(Subnet)
        twin._gate = gate
        twin._catalogue, twin._changed_code = self._catalogue, self._changed_code
        twin._world = _copy(self._world, self._host.fork(gate))
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
        self._world = self._twin(self._gate)._world
        self._anchors += 1
        self._world.streams = kept.streams
        return kept

    @alone
    def _end_anchor(self, kept: World) -> None:
        for canister in self._state.canisters.values():
            if canister.instance is not None:
                self._host.discard(canister.canister_id, canister.instance)
        kept.streams = self._world.streams
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
        twin._world = self._durable.at(version, twin._gate)
        return twin

    @property
    def is_anchored(self) -> bool:
        """Whether it is within an anchor: whatever happens is undone."""
        return self._anchors > 0

    @property
    def version(self) -> int | None:
        """How many commits the state directory has seen; `None`: the subnet is in memory."""
        host = self._host
        return host.directory.version if isinstance(host, DurableHost) else None

    @property
    def _durable(self) -> DurableHost:
        host = self._host
        if not isinstance(host, DurableHost):
            raise _NoPastError("a subnet in memory keeps no past: make it with Subnet(path, history=None)")
        return host

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
        for canister in self._state.canisters.values():
            if isinstance(instance := canister.instance, ResidentInstance):
                instance.close()
        self._host.close()
        if self._lease is not None:
            self._lease()

    def __enter__(self) -> Subnet:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Subnet with {len(self._state.canisters)} canisters, time {self._state.time_ns} ns>"


@final
class Canister:
    """A canister of a subnet, for any thread; see `Subnet`.

    A handle belongs to its subnet: on a fork, ask ``fork.canister(canister.id)``.
    """

    __slots__ = ("_raw_id", "_subnet", "id")

    def __init__(self, subnet: Subnet, canister_id: Principal) -> None:
        self._subnet = subnet
        self.id = canister_id
        self._raw_id = canister_id.raw_bytes

    @property
    def _state(self) -> CanisterState:
        return self._subnet._state.canisters[self._raw_id]

    @property
    def _gate(self) -> Gate:
        return self._subnet._gate

    @property
    def _instance(self) -> ResidentInstance:
        instance = self._state.instance
        if not isinstance(instance, ResidentInstance):
            raise ValueError(f"canister {self.id} has no code and so no memories")
        return instance

    # --- messages

    def update(
        self,
        method: str,
        arg: bytes = b"",
        *,
        sender: Principal = ANONYMOUS,
        cycles: int = 0,
        request_id: bytes | None = None,
    ) -> bytes:
        """Call an update method, or a query method in replicated mode, and run rounds until it has answered.

        Args:
            method: what to call.
            arg: the argument.
            sender: who calls.
            cycles: that go with the call.
            request_id: names the request, in 1 to 64 bytes: brought again, it is answered as before and nothing is
                executed, for as long as answers are kept (`SubnetConfig.ingress_history_ns`).

        Raises:
            RejectError: the canister or the system rejected the call, or nothing is left to run that could answer it.
            ValueError: nobody can name a request so.
        """
        subnet = self._subnet
        if (arg.__class__, method.__class__, sender.__class__, cycles) != _USUAL_CALL:
            method, arg, sender, cycles = given.call(method, arg, sender, cycles)
        gate, ticket = subnet._gate, Ticket()
        try:
            if gate.is_busy:
                gate.stand_back()
            turn = gate.turn
            with gate.lock:
                try:
                    gate.beside(turn, self._raw_id)
                    request = self._raw_id, method, arg, sender.raw_bytes, cycles
                    response = self._update(turn, ticket, request, request_id)
                    version = subnet._host.settle()
                except BaseException as error:
                    subnet._say(error, ticket)
                    raise
                finally:
                    gate.end(turn)
            subnet._host.wait(version)
        except BaseException as error:
            subnet._say_at_least(error, ticket)
            raise
        if response.__class__ is Reply:
            return response[0]
        raise as_error(response)

    def _update(
        self,
        turn: bool | None,
        ticket: Ticket,
        request: tuple[bytes, str, bytes, bytes, int],
        request_id: bytes | None,
    ) -> Response | None:
        subnet = self._subnet
        gate = subnet._gate
        if turn is None:
            subnet._recover()
        if self._reaches_further(request[1]):
            gate.become_alone(turn)
            self._check_code()
        world, signals = subnet._world, threads.here.state
        signals.enter()
        try:
            response = execute_at_once(world, *request, request_id, ticket)
        finally:
            signals.leave()
        is_done = response is not None and response.__class__ is not bytes
        if is_done and not (world.state.task_canisters and is_hook_due(world, self._raw_id)):
            return response  # type: ignore[return-value]
        gate.become_alone(turn)
        signals.enter()
        try:
            if response is None:
                return execute_ingress(world, *request, MAX_ROUNDS, request_id, ticket)
            if is_hook_due(world, self._raw_id):
                run_hook(world, self._raw_id)
            return response if is_done else run_until_answered(world, response, MAX_ROUNDS)  # type: ignore[arg-type, return-value]
        finally:
            signals.leave()

    def query(self, method: str, arg: bytes = b"", *, sender: Principal = ANONYMOUS) -> bytes:
        """Call a query or composite query method; nothing that it does stays.

        Raises:
            RejectError: the canister or the system rejected the query.
        """
        subnet = self._subnet
        if (arg.__class__, method.__class__, sender.__class__, 0) != _USUAL_CALL:
            method, arg, sender, _ = given.call(method, arg, sender, 0)
        gate, signals = subnet._gate, threads.here.state
        if gate.is_busy:
            gate.stand_back()
        turn = gate.turn
        with gate.lock:
            try:
                gate.beside(turn, self._raw_id)
                if turn is None:
                    subnet._recover()
                if reaches_further := self._reaches_further(method):
                    gate.become_alone(turn)
                    self._check_code()
                signals.enter()
                try:
                    response = execute_query(subnet._world, self._raw_id, method, arg, sender.raw_bytes)
                finally:
                    signals.leave()
                version = subnet._host.settle(None if reaches_further else self._raw_id)
            finally:
                gate.end(turn)
        subnet._host.wait(version)
        if response.__class__ is Reply:
            return response[0]
        raise as_error(response)

    def _check_code(self) -> None:
        """Refuse a message to code that is not here."""
        canister = self._subnet._state.canisters.get(self._raw_id)
        if canister is not None and canister.module is not None and canister.module.absent:
            raise UnsupportedError(f"canister {self.id} cannot be called: {canister.module.absent}")

    def _reaches_further(self, method: str) -> bool:
        """Whether an entry may reach more than its canister: composite queries do, and Python may call anything."""
        canister = self._subnet._world.state.canisters.get(self._raw_id)
        module = canister.module if canister is not None else None
        return isinstance(module, ResidentModule) and (not module.is_wasm or method in module.composite_queries)

    def actor(
        self, sender: Principal = ANONYMOUS, *, candid: str | os.PathLike[str] | None = None, cycles: int = 0
    ) -> Actor:
        """The canister by its Candid methods, as one sender sees it: ``canister.actor().greet("Ada")``.

        Args:
            sender: of every call.
            candid: the path of a ``.did`` file, or its text; by default what the module says of itself.
            cycles: that go with every update.

        Raises:
            UnsupportedError: the module does not say which methods it has.
            MalformedError: what it says is no Candid.
        """
        given.principal(sender, "the sender")
        return Actor(self, self.service(candid), sender, cycles=cycles)

    def service(self, candid: str | os.PathLike[str] | None = None) -> ServiceType:
        """The Candid interface, from a ``.did`` file or its text, else from the module; raises as `actor`."""
        if self.id == MANAGEMENT_CANISTER:
            return management_service() if candid is None else service_of("the management canister", None, candid)
        module = self.module
        methods = module.exported_methods if module is not None else frozenset()
        # Before modules had the section, the Rust CDK gave them this method.
        is_old = not has_interface(module) and f"canister_query {CANDID_METHOD}" in methods
        if candid is None and is_old:
            (text,) = decode(self.query(CANDID_METHOD, NO_VALUES), (Text,))
            candid = str(text)
        return service_of(f"canister {self.id}", module, candid)

    # --- code

    def install(self, wasm: Wasm, arg: Argument | None = None, *, wasi: bool = False) -> None:
        """Install a module on a canister that has none; arguments as for `Subnet.install`.

        Raises:
            RejectError: there is code already, the module is refused, or its start or init code trapped.
        """
        self._install(InstallOptions(InstallMode.INSTALL), self._subnet._code(wasm, wasi=wasi), arg)

    def upgrade(
        self,
        wasm: Wasm,
        arg: Argument | None = None,
        *,
        wasm_memory_persistence: str | None = None,
        skip_pre_upgrade: bool = False,
        wasi: bool = False,
    ) -> None:
        """Upgrade to a module: stable memory is kept, the heap only with ``wasm_memory_persistence="keep"``.

        Raises:
            RejectError: the module is refused or a hook trapped; nothing has changed then.
        """
        if wasm_memory_persistence not in {None, "keep", "replace"}:
            raise ValueError(f"wasm_memory_persistence is 'keep', 'replace' or None, found {wasm_memory_persistence!r}")
        options = InstallOptions(InstallMode.UPGRADE, skip_pre_upgrade, wasm_memory_persistence)
        self._install(options, self._subnet._code(wasm, wasi=wasi), arg)

    def check_upgrade(self, new: Wasm, arg: Argument | None = None, **options: Any) -> Any:
        """Rehearse an upgrade on forks, and say whether it is safe; nothing of this canister changes.

        Args:
            new: the module.
            arg: of the upgrade.
            options: see `perdure.upgrade.check_canister`.

        Returns:
            A `perdure.upgrade.Report`: its `verdict` is ``safe``, ``breaking`` or ``not certain``.
        """
        return door("Canister.check_upgrade")(self, new, arg, **options)

    def reinstall(self, wasm: Wasm, arg: Argument | None = None, *, wasi: bool = False) -> None:
        """Install a module anew: all memories are lost."""
        self._install(InstallOptions(InstallMode.REINSTALL), self._subnet._code(wasm, wasi=wasi), arg)

    @alone
    def _install(self, options: InstallOptions, wasm: bytes, arg: Argument | None) -> None:
        state, subnet = self._state, self._subnet
        module = subnet._compiled(wasm)
        is_upgrade = options.mode is InstallMode.UPGRADE
        if not is_upgrade:
            check_name(subnet, module, but=self._raw_id)
        raw_arg = init_argument(f"the module for {self.id}", module, arg, is_upgrade=is_upgrade)
        with subnet._transaction(f"{options.mode.value}_code", self._raw_id, raw_arg):
            response = install_code(subnet._world, state, options, wasm, raw_arg, controller_of(state))
            if subnet._state.inputs is not None:
                mode, module_hash = options.mode.value, subnet._keep_code(wasm)
                subnet._state.note("code", self._raw_id, mode, *options[1:], module_hash, raw_arg)
        if isinstance(response, Reject):
            raise as_error(response)

    # --- life

    def start(self) -> None:
        """Take calls again."""
        self._manage("start_canister")

    def stop(self) -> None:
        """Take no more calls, and wait until those that are open are answered.

        Raises:
            RejectError: they were not, in time.
        """
        self._manage("stop_canister")

    def delete(self) -> None:
        """Remove the stopped canister for ever, its cycles too; the handle is of no use afterwards."""
        self._manage("delete_canister")

    def uninstall(self) -> None:
        """Take code and memories away."""
        self._manage("uninstall_code")

    def update_settings(self, **settings: Any) -> None:
        """Change settings, by the names and types that ``update_settings`` has in the interface specification.

        Raises:
            RejectError: a value is refused.
            ValueError: there is no setting of this name, or not of this type.
        """
        unknown = settings.keys() - set(Settings.__slots__)
        if unknown:
            raise ValueError(f"no settings {sorted(unknown)}, expected some of {', '.join(Settings.__slots__)}")
        self._manage("update_settings", settings=settings)

    @alone
    def add_cycles(self, cycles: int) -> int:
        """Add to the balance; the new balance."""
        self._manage("provisional_top_up_canister", amount=cycles)
        return self._state.cycles

    def take_snapshot(self, *, replace: bytes | None = None) -> bytes:
        """Keep a copy of code and memories, maybe in place of another one; its id."""
        snapshot_id: bytes = self._manage("take_canister_snapshot", replace_snapshot=replace)["id"]
        return snapshot_id

    def load_snapshot(self, snapshot_id: bytes) -> None:
        """Go back to a snapshot. It can be loaded again.

        A canister in Python goes back to the class that it was. Where that is not here any more, there is what
        `changed_code` says, as at opening a state directory: an upgrade to the class of today, by default.

        Raises:
            StorageError: the class of today cannot go on with what the snapshot has; nothing has changed.
            RejectError: there is no such snapshot, or the upgrade was rejected; the snapshot is loaded then.
        """
        self._load_snapshot(snapshot_id)

    @alone
    def _load_snapshot(self, snapshot_id: bytes) -> None:
        subnet, snapshot = self._subnet, self._state.snapshots.get(snapshot_id)
        module = None
        if snapshot is not None and snapshot.module is None:
            module = subnet._catalogue.find(bytes(snapshot.wasm), look=True)
        if module is not None:
            check_takeover(self, module, subnet._catalogue, subnet._changed_code)
        self._manage("load_canister_snapshot", snapshot_id=snapshot_id)
        take_up((self,), subnet._catalogue, subnet._changed_code, f"snapshot {snapshot_id.hex()}")

    def snapshots(self) -> list[dict[str, Any]]:
        """Each snapshot's ``id``, ``taken_at_timestamp`` in ns and ``total_size`` in bytes."""
        found: list[dict[str, Any]] = self._manage("list_canister_snapshots")
        return found

    def delete_snapshot(self, snapshot_id: bytes) -> None:
        """Forget a snapshot."""
        self._manage("delete_canister_snapshot", snapshot_id=snapshot_id)

    @alone
    def write_snapshot(self, path: str | os.PathLike[str], *, snapshot_id: bytes | None = None) -> None:
        """Write the canister's state as a snapshot directory that `icp canister snapshot upload` takes.

        Args:
            path: the directory, which is there whole or not at all.
            snapshot_id: of a snapshot that is written instead of the state as it stands.

        Raises:
            StorageError: it exists, or cannot be written.
            UnsupportedError: there is no Wasm module.
            KeyError: there is no such snapshot.
        """
        write(path, self._subnet._world, self._state, snapshot_id)

    @alone
    def upload_snapshot(self, path: str | os.PathLike[str], *, replace: bytes | None = None) -> bytes:
        """Make a snapshot directory one of this canister's snapshots, for `load_snapshot`; its id.

        Raises:
            StorageError: it is no such directory, or its parts do not fit each other.
            RejectError: the module is refused, there are too many snapshots, or none of the id to replace.
        """
        opened = Snapshot.open(path)
        subnet = self._subnet
        module = subnet._host.compile(opened.wasm_module())
        with subnet._transaction("upload_snapshot", self._raw_id):
            subnet._state.note("record")
            return upload(opened, subnet._world, self._state, module, subnet._host.store, replace)

    @alone
    def _manage(self, method: str, /, **fields: Any) -> Any:
        subnet, ticket = self._subnet, Ticket()
        with subnet._undisturbed(ticket) as world:
            result = manage(world, self._state, method, ticket=ticket, **fields)
        subnet._wait()
        return result

    # --- what there is to see

    def _recover(self) -> None:
        self._subnet._recover()

    @alone
    def commit_pages(self, name: str, delta: PageDelta, *, kind: str, check: Callable[[], object]) -> None:
        """Make a change of many pages of a memory one commit.

        Args:
            name: of the memory.
            delta: the pages, and how large the memory is then.
            kind: of the commit, as the history has it.
            check: called with the subnet to itself; raises where the change must not be made.
        """
        check()
        self._write(name, delta, kind)

    def _write(self, name: str, delta: PageDelta, kind: str = "") -> None:
        """Make a change of a memory a commit of its own."""
        state, instance, world = self._state, clean_instance(self._state), self._subnet._world
        with self._subnet._transaction(kind or f"write_{name}", self._raw_id):
            world.touch(state)
            world.made(instance.roll_back)
            instance.restore(StateDelta({name: delta}))
            world.state.note("record")
            heap, stable = instance.memories["heap"].size(), instance.memories["stable"].size()
            commit(world, state, Return(heap_wasm_pages=heap, stable_wasm_pages=stable))

    @property
    def stable(self) -> LiveMemory:
        """Stable memory. Reads show it as it stands; a write is committed at once."""
        return self._memory("stable")

    @property
    def heap(self) -> LiveMemory:
        """The heap. Reads show it as it stands; a write is committed at once."""
        return self._memory("heap")

    @property
    @at_rest
    def memories(self) -> Mapping[str, LiveMemory]:
        """All memories by name, ``heap`` and ``stable`` among them."""
        return {name: self._memory(name) for name in self._instance.memories}

    def _memory(self, name: str) -> LiveMemory:
        return LiveMemory(self._instance, self, name)

    @property
    def open_call_contexts(self) -> int:
        """How many calls the canister has begun to answer, and has not answered."""
        return len(self._state.contexts)

    def sqlite(
        self,
        *,
        write: bool | Literal["unsafe"] = False,
        at: int | None = None,
        name: str | None = None,
        limits: Any = None,
    ) -> apsw.Connection:
        """A connection of apsw to the SQLite database in stable memory, where it lies (extra ``sql``).

        It shows the state that this handle shows: a fork's handle has connections of its own, and within an anchor what
        is written is undone at its end. A transaction sees one state; where a message changes the database meanwhile,
        it ends with `apsw.BusyError`.

        Args:
            write: each transaction of SQLite becomes one commit of the canister's state, of the kind ``sqlite``. For
                modules that say that they look again at what others have written; ``"unsafe"``: for others too, within
                ``subnet.anchor()``.
            at: a version of the state directory, to read what was.
            name: the label that ``perdure stable ls`` shows, where there are several databases.
            limits: `perdure.inspection.Limits`, of time, length and memory.

        Raises:
            UnsupportedError: there is no database, apsw is missing, or nobody may write now: the module does not say
                that it looks again, or the canister is within a call.
        """
        connection: apsw.Connection = door("Canister.sqlite")(self, write=write, at=at, name=name, limits=limits)
        return connection

    @property
    @at_rest
    def globals(self) -> tuple[GlobalValue, ...]:
        """Globals that are mutable or exported, in the network's order."""
        return self._instance.global_values

    @property
    def module(self) -> CanisterModule | None:
        """The code: hash, exported methods, custom sections."""
        return self._state.module

    def status(self) -> Status:
        """Facts as ``canister_status`` gives them."""
        state = self._state
        module = state.module
        return Status(
            status=CanisterStatus(state.facts.status).name.lower(),
            module_hash=module.module_hash if module is not None else None,
            controllers=tuple(Principal(raw) for raw in state.settings.controllers),
            version=state.facts.version,
            cycles=state.cycles,
            heap_bytes=state.heap_wasm_pages << 16,
            stable_bytes=state.stable_wasm_pages << 16,
            memory_bytes=state.memory_bytes(),
        )

    def settings(self) -> dict[str, Any]:
        """The settings, by their names in the interface specification."""
        settings: dict[str, Any] = status_record(self._subnet._world, self._state)["settings"]
        return settings

    def logs(self) -> tuple[LogRecord, ...]:
        """Lines that the canister printed and traps that it ended in, oldest first."""
        return tuple(self._state.log.records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Canister) and other._subnet is self._subnet and other._raw_id == self._raw_id

    def __hash__(self) -> int:
        return hash((id(self._subnet), self._raw_id))

    def __repr__(self) -> str:
        return f"<Canister {self.id}>"


def _copy(world: World, host: MemoryHost) -> World:
    """A world over a deep copy of the state; code is shared, memories are forked."""
    state = world.state
    shared: dict[int, object] = {id(state.ingress): state.ingress.fork()}
    for canister in state.canisters.values():
        if isinstance(canister.instance, ResidentInstance):
            twin = host.adopt(canister.instance)
            shared[id(canister.instance)] = twin
            shared[id(canister.module)] = twin.module
        for snapshot in canister.snapshots.values():
            shared[id(snapshot.content)] = snapshot.content
            shared[id(snapshot.module)] = snapshot.module
    copied = deep_copy(state, shared)
    copied.inputs = None  # a copy is in memory, and has no past
    return replace(world, state=copied, host=host, streams=(), watch=None, intercept=None)
