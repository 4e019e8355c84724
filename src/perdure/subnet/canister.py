"""A canister of a subnet, as people hold it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Final, final

from perdure.candid.service import ServiceType
from perdure.candid.types import Value
from perdure.canister import (
    Reject,
    Reply,
)
from perdure.embedder.guard import threads
from perdure.errors import UnsupportedError
from perdure.execution.journal import Ticket
from perdure.execution.lifecycle import InstallMode, InstallOptions, install_code
from perdure.execution.messages import Response
from perdure.execution.query import execute_query
from perdure.execution.scheduler import (
    execute_at_once,
    execute_ingress,
    is_hook_due,
    run_hook,
    run_until_answered,
)
from perdure.execution.state import Settings
from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from perdure.storage import Snapshot
from perdure.subnet import given
from perdure.subnet.actor import Actor
from perdure.subnet.changed_code import check_name, check_takeover, take_up
from perdure.subnet.core import Core, Wasm
from perdure.subnet.doors import door
from perdure.subnet.gate import alone
from perdure.subnet.interface import Argument, init_argument, service_of
from perdure.subnet.management import (
    MAX_ROUNDS,
    as_error,
    controller_of,
    manage,
    management_service,
    snapshot_records,
)
from perdure.subnet.residency import ResidentModule
from perdure.subnet.seen import Seen
from perdure.subnet.snapshots import upload, write

__all__ = ["Canister", "Home"]


Candid = str | os.PathLike[str]
"""An interface: the path of a ``.did`` file, or its text."""

_USUAL_CALL: Final = (bytes, str, Principal, 0)
"""Types of what most calls are made of, and the cycles that go with them: nothing to look at."""


class Home(Core, ABC):
    """The subnet that a canister is on, as far as its handle knows it."""

    @abstractmethod
    def canister(self, canister_id: Principal) -> Canister:
        """See `perdure.subnet.Subnet`."""

    @property
    @abstractmethod
    def canisters(self) -> tuple[Canister, ...]:
        """See `perdure.subnet.Subnet`."""

    @abstractmethod
    def anchor(self) -> AbstractContextManager[None]:
        """See `perdure.subnet.Subnet`."""

    @abstractmethod
    def fork(self, *, extensions: Iterable[str] = ()) -> Home:
        """See `perdure.subnet.Subnet`."""

    @abstractmethod
    def at(self, version: int) -> Home:
        """See `perdure.subnet.Subnet`."""


@final
class Canister(Seen):
    """A canister of a subnet, for any thread; see `Subnet`.

    A handle belongs to its subnet: on a fork, ask ``fork.canister(canister.id)``.
    """

    __slots__ = ()

    _subnet: Home  # type: ignore[mutable-override]  # set once

    def __init__(self, subnet: Home, canister_id: Principal) -> None:
        self._subnet = subnet
        self.id = canister_id
        self._raw_id = canister_id.raw_bytes

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
        if (arg.__class__, method.__class__, sender.__class__, cycles) != _USUAL_CALL or not method.isascii():
            method, arg, sender, cycles = given.call(method, arg, sender, cycles)
        gate, ticket = subnet._gate, Ticket()
        try:
            if gate.is_busy:
                gate.stand_back()
            turn = gate.turn
            with gate.lock:
                try:
                    gate.beside(turn, self._raw_id)
                    response = self._update(turn, ticket, method, arg, sender.raw_bytes, cycles, request_id)
                    host = subnet._host
                    version = host.settle()
                except BaseException as error:
                    subnet._say(error, ticket)
                    raise
                finally:
                    gate.end(turn)
            host.wait(version)
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
        method: str,
        arg: bytes,
        sender: bytes,
        cycles: int,
        request_id: bytes | None,
    ) -> Response | None:
        subnet, raw_id = self._subnet, self._raw_id
        gate = subnet._gate
        if turn is None:
            subnet._recover()
        if self._reaches_further(method):
            gate.become_alone(turn)
            self._check_code()
        world, signals = subnet._world, threads.here.state
        signals.enter()
        try:
            response = execute_at_once(world, raw_id, method, arg, sender, cycles, request_id, ticket)
        finally:
            signals.leave()
        is_done = response is not None and response.__class__ is not bytes
        if is_done and not (world.state.task_canisters and is_hook_due(world, raw_id)):
            return response  # type: ignore[return-value]
        gate.become_alone(turn)
        signals.enter()
        try:
            if response is None:
                return execute_ingress(world, raw_id, method, arg, sender, cycles, MAX_ROUNDS, request_id, ticket)
            if is_hook_due(world, raw_id):
                run_hook(world, raw_id)
            return response if is_done else run_until_answered(world, response, MAX_ROUNDS)  # type: ignore[arg-type, return-value]
        finally:
            signals.leave()

    def query(self, method: str, arg: bytes = b"", *, sender: Principal = ANONYMOUS) -> bytes:
        """Call a query or composite query method; nothing that it does stays.

        Raises:
            RejectError: the canister or the system rejected the query.
        """
        subnet = self._subnet
        if (arg.__class__, method.__class__, sender.__class__, 0) != _USUAL_CALL or not method.isascii():
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
        return Actor(self, self.service(candid), given.principal(sender, "the sender"), cycles=cycles)

    def service(self, candid: str | os.PathLike[str] | None = None) -> ServiceType:
        """The Candid interface, from a ``.did`` file or its text, else from the module; raises as `actor`."""
        if self.id == MANAGEMENT_CANISTER:
            return management_service() if candid is None else service_of("the management canister", None, candid)
        known = self._subnet._interfaces.of(self._raw_id) if candid is None else candid
        return service_of(f"canister {self.id}", self.module, known, query=self.query)

    # --- code

    def install(
        self, wasm: Wasm, arg: Argument | None = None, *, wasi: bool = False, candid: Candid | None = None
    ) -> None:
        """Install a module on a canister that has none; arguments as for `Subnet.install`.

        Raises:
            RejectError: there is code already, the module is refused, or its start or init code trapped.
        """
        self._install(InstallOptions(InstallMode.INSTALL), wasm, arg, wasi=wasi, candid=candid)

    def upgrade(
        self,
        wasm: Wasm,
        arg: Argument | None = None,
        *,
        wasm_memory_persistence: str | None = None,
        skip_pre_upgrade: bool = False,
        wasi: bool = False,
        candid: Candid | None = None,
    ) -> None:
        """Upgrade to a module: stable memory is kept, the heap only with ``wasm_memory_persistence="keep"``.

        Raises:
            RejectError: the module is refused or a hook trapped; nothing has changed then.
        """
        if wasm_memory_persistence not in {None, "keep", "replace"}:
            raise ValueError(f"wasm_memory_persistence is 'keep', 'replace' or None, found {wasm_memory_persistence!r}")
        options = InstallOptions(InstallMode.UPGRADE, skip_pre_upgrade, wasm_memory_persistence)
        self._install(options, wasm, arg, wasi=wasi, candid=candid)

    def check_upgrade(self, new: Wasm, arg: Argument | None = None, **options: object) -> Value:
        """Rehearse an upgrade on forks, and say whether it is safe; nothing of this canister changes.

        Args:
            new: the module.
            arg: of the upgrade.
            options: see `perdure.upgrade.check_canister`.

        Returns:
            A `perdure.upgrade.Report`: its `verdict` is ``safe``, ``breaking`` or ``not certain``.
        """
        return door("Canister.check_upgrade")(self, new, arg, **options)

    def reinstall(
        self, wasm: Wasm, arg: Argument | None = None, *, wasi: bool = False, candid: Candid | None = None
    ) -> None:
        """Install a module anew: all memories are lost."""
        self._install(InstallOptions(InstallMode.REINSTALL), wasm, arg, wasi=wasi, candid=candid)

    @alone
    def _install(
        self,
        options: InstallOptions,
        code: Wasm,
        arg: Argument | None,
        *,
        wasi: bool = False,
        candid: Candid | None = None,
    ) -> None:
        state, subnet = self._state, self._subnet
        wasm = subnet._code(code, wasi=wasi)
        module = subnet._compiled(wasm)
        known = subnet._interface(code, module, candid)
        is_upgrade = options.mode is InstallMode.UPGRADE
        if not is_upgrade:
            check_name(subnet, module, but=self._raw_id)
        raw_arg = init_argument(f"the module for {self.id}", module, arg, is_upgrade=is_upgrade, known=known)
        with subnet._transaction(f"{options.mode.value}_code", self._raw_id, raw_arg):
            response = install_code(subnet._world, state, options, wasm, raw_arg, controller_of(state))
            if subnet._state.inputs is not None:
                mode, module_hash = options.mode.value, subnet._keep_code(wasm)
                subnet._state.note("code", self._raw_id, mode, *options[1:], module_hash, raw_arg)
        if isinstance(response, Reject):
            raise as_error(response)
        subnet._interfaces.remember(self._raw_id, known)

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

    def update_settings(self, **settings: object) -> None:
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
        """Add to the balance, which is at most 2^128-1; the new balance."""
        self._manage("provisional_top_up_canister", amount=given.amount_of_cycles(cycles))
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

    def snapshots(self) -> list[dict[str, Value]]:
        """Each snapshot's ``id``, ``taken_at_timestamp`` in ns and ``total_size`` in bytes."""
        return snapshot_records(self._state)

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
    def _manage(self, method: str, /, **fields: object) -> Value:
        subnet, ticket = self._subnet, Ticket()
        with subnet._undisturbed(ticket) as world:
            result = manage(world, self._state, method, ticket=ticket, **fields)
        subnet._wait()
        return result
