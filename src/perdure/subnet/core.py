"""What a subnet in this process is made of: state, host, gate, and how one works on them without being cut off."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from perdure.canister import (
    CanisterInstance,
    CanisterModule,
    EntryPoint,
    Env,
    HasModule,
    Return,
    Trap,
)
from perdure.embedder.guard import threads
from perdure.errors import MalformedError, UnsupportedError
from perdure.execution.events import Taken, ended
from perdure.execution.journal import Ticket
from perdure.execution.state import SubnetState
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.project import instead_of_module
from perdure.python.catalogue import Catalogue
from perdure.storage import StateDirectory
from perdure.subnet import given
from perdure.subnet.changed_code import ChangedCode
from perdure.subnet.doors import door
from perdure.subnet.durable import DurableHost
from perdure.subnet.gate import Gate, alone
from perdure.subnet.host import MemoryHost
from perdure.subnet.interfaces import Interfaces, Known, found_interface, given_interface
from perdure.subnet.outcalls import Outcalls
from perdure.subnet.residency import CodeForm

__all__ = ["Core", "Wasm", "_NoPastError"]

Wasm = bytes | str | os.PathLike[str] | HasModule | type[object]
"""A module, its path, or what stands for one: a class that `perdure.kit.canister` has made a canister."""


class _NoPastError(UnsupportedError, AttributeError):
    """Also what Python expects of an attribute that is not there."""


class Core:
    """The one mutable reference: the world of the rules, which brings its host, and whose turn it is.

    `perdure.subnet.Subnet` is one. A canister's handle works on it as the subnet's own methods do.
    """

    _gate: Gate
    _world: World
    _catalogue: Catalogue
    _changed_code: ChangedCode

    _read_host: DurableHost | None = None

    _lease: Callable[[], object] | None = None
    """Lets go of a state directory that this subnet only reads."""

    _anchors = 0

    _outcalls: Outcalls | None = None

    def _history_directory(self) -> StateDirectory | None:
        """The state directory whose history is this subnet's, where it has one."""
        host = self._host
        found = host if isinstance(host, DurableHost) else self._read_host
        return None if found is None else found.directory

    def _say_use(self, use: str) -> None:
        """Have others who want the state directory told what it is used for; nobody else can want a state in memory."""
        host = self._host
        if isinstance(host, DurableHost):
            host.directory.locks.tell(use)

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
        _note(error, None)
        try:
            self._world.recover()
            if ticket is None:
                return
            is_kept, version = ticket.is_kept, self._host.settle()
            if is_kept and ticket.journal is not None and ticket.journal.goes_with > version:
                return  # with a commit that is still to come
            if is_kept:
                self._host.wait(version)
        except BaseException:
            return  # nobody knows before it is opened anew
        _note(error, is_kept)

    def _wait(self, *, leaving: bool = False) -> None:
        """Return when everything is as durable as was asked, or as it has to be that other subnets are to have."""
        try:
            self._host.wait(self._host.settle(), leaving=leaving)
        except BaseException as error:
            _note(error, None)  # it is kept, and may be lost if the process is
            raise

    @staticmethod
    def _say_at_least(error: BaseException, ticket: Ticket) -> None:
        """Note on what came before a message was begun, or cut off `_say`, as much as is known."""
        if not hasattr(error, "committed"):
            _note(error, False if ticket.journal is None else None)

    @property
    def _host(self) -> MemoryHost | DurableHost:
        return self._world.host  # type: ignore[return-value]  # the rules know it by less

    def _compiled(self, code: bytes) -> CanisterModule | None:
        """A module, compiled before anything is begun, as that may take long; `None`: the rules will refuse it."""
        try:
            return self._host.compile(code)
        except (MalformedError, UnsupportedError):
            return None

    def _keep_code(self, code: bytes) -> bytes:
        """Have a module for the history, which may name one that nobody got; its SHA-256."""
        return self._durable.put_blob(code)

    @contextmanager
    def _transaction(self, kind: str, canister_id: bytes = b"", arg: bytes = b"") -> Iterator[list[bytes]]:
        """One commit of what is done from outside. A canister's id may be added to what it gives, once it is known."""
        ids = [canister_id] if canister_id else []
        ticket = Ticket()
        with self._undisturbed(ticket) as world:
            taken = world.take(Taken(kind, canister_id))
            world.begin()
            ticket.journal = world.journal
            yield ids
            world.finish(taken._replace(canister_id=ids[0]) if ids else taken, arg)
        self._wait()

    def _code(self, wasm: Wasm, *, wasi: bool = False) -> bytes:
        """The module as uploaded."""
        if isinstance(wasm, bytes | bytearray | memoryview):
            code = bytes(wasm)
        elif isinstance(wasm, str | os.PathLike):
            code = Path(wasm).read_bytes()
            what = instead_of_module(Path(wasm))
            if what is not None and not code.startswith((b"\0asm", b"\x1f\x8b")):
                raise ValueError(f"{os.fspath(wasm)} is no Wasm module: it is {what}")
        else:
            if wasi:
                raise UnsupportedError(f"{wasm!r} is a canister in Python, without imports of WASI: leave wasi out")
            return self._catalogue.add(wasm).wasm
        if not wasi:
            return code
        from perdure.instrument import wasm_without_wasi

        return wasm_without_wasi(code)

    @alone
    def _run_as(self, form: CodeForm) -> None:
        """Have canisters run this form of their code from now on, until `_run_as_before`."""
        self._host.residents.run_as((*self._host.residents.forms, form))

    @alone
    def _run_as_before(self, form: CodeForm) -> None:
        """End a form of code."""
        self._host.residents.run_as(tuple(one for one in self._host.residents.forms if one is not form))

    @alone
    def _look_at_reads(self, more: int) -> None:
        """Have one more, or one less, see what canisters read of their heaps."""
        self._host.residents.look_at_reads(more)

    @contextmanager
    def counted(self) -> Iterator[list[int]]:
        """Instructions and cycles of all that is entered within the block, as a list of the two, at its end."""
        total = [0, 0]

        def add(instance: CanisterInstance, entry: EntryPoint, env: Env, result: Trap | Return) -> None:
            event = ended(env.facts.canister_id, env.context, result, self._world.costs_of(instance.module))
            total[0] += event.instructions
            total[1] += event.cycles

        with self._gate.lock:
            self._world.watchers = (*self._world.watchers, add)
        try:
            yield total
        finally:
            with self._gate.lock:
                self._world.watchers = tuple(one for one in self._world.watchers if one is not add)

    def profile(self) -> AbstractContextManager[Any]:
        """Count instructions by function and call path within the block, exactly; nothing else becomes different.

            with subnet.profile() as profile:
                canister.update("transfer", arg)
            print(profile.table())

        Updates, queries, installs, callbacks, timers, heartbeats: whatever runs on this subnet, not on its forks.

        Returns:
            A `perdure.measure.profile.Profile`, which has everything once the block has ended.
        """
        found: AbstractContextManager[Any] = door("Subnet.profile")(self)
        return found

    def heat(
        self, *, changed_bytes: bool = False, heap_reads: bool = False, newest: int = 0, schema: Any = None
    ) -> AbstractContextManager[Any]:
        """Count the pages of memories that messages read and write within the block: by method, by structure, as a map.

            with subnet.heat() as heat:
                canister.update("transfer", arg)
            print(heat.table())
            Path("transfer.svg").write_text(heat.svg())

        Of stable memory all that is accessed is seen, of other memories what was changed. Whatever runs on this subnet
        is counted, not what runs on its forks. Of code without accounting (`Options.accounting`) little is seen.

        Args:
            heap_reads: also see what is read of heaps, in whole Wasm pages. Canisters take longer then, and under
                schedule ``2026-07`` they are charged for it, as on the network.
            changed_bytes: also compare written pages with what they were, for the write amplification; 3 us a page.
            newest: also tell what each of so many messages did, the last ones: see `Heat.newest`.
            schema: names of structures, as `perdure.values.load_schema` reads them.

        Returns:
            A `perdure.measure.heat.Heat`, which has everything once the block has ended.

        Raises:
            UnsupportedError: `heap_reads` is asked for where the system cannot tell.
        """
        found: AbstractContextManager[Any] = door("Subnet.heat")(
            self, changed_bytes=changed_bytes, heap_reads=heap_reads, newest=newest, schema=schema
        )
        return found

    def coverage(self) -> AbstractContextManager[Any]:
        """See which functions, blocks and lines run within the block; nothing else becomes different.

            with subnet.coverage() as coverage:
                canister.update("transfer", arg)
            print(coverage.files())

        Returns:
            A `perdure.measure.coverage.Coverage`, which has everything once the block has ended.
        """
        found: AbstractContextManager[Any] = door("Subnet.coverage")(self)
        return found

    def __contains__(self, canister_id: Principal) -> bool:
        """Whether there is a canister of this id."""
        return given.principal(canister_id, "a canister's id").raw_bytes in self._state.canisters

    @property
    def id(self) -> Principal:
        """The principal of the subnet."""
        return Principal(self._state.subnet_id)

    @property
    def root_key(self) -> bytes:
        """The key that certificates are checked with, in DER; empty without the extra ``certification``."""
        return self._state.root_key

    @property
    def time_ns(self) -> int:
        """The virtual clock, ns since 1970."""
        return self._state.time_ns

    @property
    def extensions(self) -> tuple[str, ...]:
        """What canisters may use here beyond the network's rules, by name."""
        return self._host.extensions

    @property
    def is_anchored(self) -> bool:
        """Whether it is within an anchor: whatever happens is undone."""
        return self._anchors > 0

    def serve(
        self,
        *,
        port: int = 0,
        bind: str = "127.0.0.1",
        clock: str = "real",
        domains: Iterable[str] = (),
        allow_hosts: Iterable[str] = (),
    ) -> AbstractContextManager[str]:
        """Serve agents, browsers and command lines over HTTP within the block; gives the URL.

            with subnet.serve() as url:
                ...

        Meanwhile the subnet goes on by itself: timers run when they are due.

        Args:
            port: 0: a free one.
            bind: the address to listen on.
            clock: ``real``: the subnet's time is the machine's; ``virtual``: it stands still but for `advance_time`.
            domains: names that are served beside ``localhost``, each with all names below it.
            allow_hosts: other names or addresses by which clients may ask for it.

        Raises:
            UnsupportedError: the extra ``serve`` is not installed.
            OSError: the port is taken.
            ValueError: others could reach the address, and no name is allowed.
        """
        served: AbstractContextManager[str] = door("Subnet.serve")(
            self, port=port, bind=bind, clock=clock, domains=domains, allow_hosts=allow_hosts
        )
        return served

    def auto_progress(self) -> AbstractContextManager[None]:
        """Let the subnet go on by itself within the block: its time is the machine's, and what is due runs.

            with subnet.auto_progress():
                ...

        The subnet may be used meanwhile as before. A clock that is ahead of the machine's waits for it.
        """
        going_on: AbstractContextManager[None] = door("Subnet.auto_progress")(self)
        return going_on

    @property
    def outcalls(self) -> Outcalls:
        """Who answers the HTTPS outcalls of this subnet's canisters: see `perdure.subnet.outcalls`."""
        if self._outcalls is None:
            self._outcalls = Outcalls(self)
        return self._outcalls

    @property
    def _interfaces(self) -> Interfaces:
        """Of canisters, as far as they came with their modules."""
        return self._host.interfaces

    def _interface(
        self, wasm: Wasm, module: CanisterModule | None, candid: str | os.PathLike[str] | None
    ) -> Known | None:
        """The interface that is given with a module, or found beside it."""
        if candid is None:
            return found_interface(wasm)
        return given_interface(candid, module.module_hash if module is not None else b"")

    @property
    def _durable(self) -> DurableHost:
        host = self._host
        if not isinstance(host, DurableHost):
            raise _NoPastError("a subnet in memory keeps no past: make it with Subnet(path, history=None)").coded(
                "no-past"
            )
        return host


def _note(error: BaseException, is_kept: bool | None) -> None:
    """Say on an error whether the message was kept; `None`: nobody knows."""
    error.committed = is_kept  # type: ignore[attr-defined]
