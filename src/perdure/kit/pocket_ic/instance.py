"""An instance: its subnet, its canisters, its errors."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, final

from perdure.candid import encode
from perdure.candid.service import ServiceMethod, load
from perdure.candid.types import Value
from perdure.canister import Reject
from perdure.errors import RejectError
from perdure.execution import submit_ingress
from perdure.ic import principal as ic_principal
from perdure.ic.principal import MAX_PRINCIPAL_BYTES
from perdure.ic.reject import ErrorCode
from perdure.kit.pocket_ic.ic_py import (
    IcPyPrincipal,
    Identity,
    Principal,
    argument,
    from_ic_py,
    ic_py,
    own,
    theirs,
    to_ic_py,
)
from perdure.kit.pocket_ic.live import GoesOn
from perdure.kit.pocket_ic.outcalls import CanisterHttpRequest, MockCanisterHttpResponse
from perdure.kit.pocket_ic.subnets import (
    PocketICServer,
    SubnetConfig,
    SubnetKind,
    effective,
    is_on_nns,
    named_in,
    network_of,
    range_of,
)
from perdure.memory import WASM_PAGE_BYTES
from perdure.subnet import Canister as SubnetCanister
from perdure.subnet import Subnet
from perdure.subnet.management import as_error

__all__ = ["Canister", "PocketIC", "PocketICError"]

T = TypeVar("T")

_CYCLES: Final = 100_000_000_000_000
_SERVER: Final = PocketICServer()


class PocketICError(ValueError):
    """A rejection, in the words of `pocket-ic`; the fields are `RejectError`'s, which is its cause."""

    def __init__(self, error: RejectError) -> None:
        name = _error_name(error.error_code)
        super().__init__(
            f"PocketIC returned a rejection error: reject code {error.code}, reject message {error.message}, "
            f"error code {name}"
        )
        self.code = error.code
        self.error_code = error.error_code
        self.message = error.message
        self.backtrace = error.backtrace


def _error_name(error_code: str) -> str:
    """``IC0537`` as the server spells it: ``CanisterWasmModuleNotFound``."""
    known = {one.text: one.name for one in ErrorCode}
    return "".join(word.capitalize() for word in known.get(error_code, error_code).split("_"))


class PocketIC(GoesOn):
    """An Internet Computer in this process.

    Args:
        subnet_config: its subnets, by default one application subnet.

    Attributes:
        network: the subnets, which `perdure.Network` says more about.
        subnet: where canisters are created that are not meant for another one.

    Raises:
        ValueError: no subnet was asked for.
    """

    def __init__(self, subnet_config: SubnetConfig | None = None) -> None:
        config = subnet_config or SubnetConfig(application=1)
        config.validate()
        self.network = network_of(config)
        self.subnet = self.network.subnets[0]
        self._hosting: set[ic_principal.Principal] = set()
        """Subnets that are there for ids that were chosen."""
        self.server = _SERVER
        self.instance_id = self.server.new_instance()
        self.sender = Principal.anonymous()

    def close(self) -> None:
        """End the instance; a state directory keeps its state."""
        if self.instance_id >= 0:
            self.stop_live()
            self.server.delete_instance(self.instance_id)
            self.instance_id = -1
            self.network.close()

    def __enter__(self) -> PocketIC:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "instance_id", -1) >= 0:
            self.close()

    # --- who calls, what there is, what time it is

    def set_sender(self, principal: Identity) -> None:
        """Make all calls as this principal from now on."""
        self.sender = principal

    def set_anonymous_sender(self) -> None:
        """Make all calls anonymously from now on."""
        self.sender = Principal.anonymous()

    def topology(self) -> dict[IcPyPrincipal, SubnetKind]:
        """The kinds of subnets by id."""
        return {theirs(subnet_id): SubnetKind[kind.upper()] for subnet_id, kind in self.network.kinds.items()}

    @property
    def kind(self) -> SubnetKind:
        """The kind of `subnet`."""
        return self._kind(self.subnet)

    def _kind(self, subnet: Subnet) -> SubnetKind:
        return SubnetKind[self.network.kinds[subnet.id].upper()]

    def _subnet(self, subnet_id: Identity) -> Subnet:
        found = self.network.subnet_of(own(subnet_id))
        if found is None or found.id != own(subnet_id):
            there = ", ".join(map(str, self.network.kinds))
            raise ValueError(f"there is no subnet {own(subnet_id)}, there is {there}")
        return found

    def get_root_key(self) -> bytes | None:
        """The root key of the NNS's subnet, in DER; `None`: there is none."""
        return next((one.root_key for one in self.network.subnets if self._kind(one) is SubnetKind.NNS), None)

    def get_time(self) -> dict[str, int]:
        """Now, as ``{"nanos_since_epoch": ...}``."""
        return {"nanos_since_epoch": self.network.time_ns}

    def set_time(self, time_nanosec: int) -> None:
        """Set the clock, in ns since 1970."""
        self.network.set_time(time_nanosec)

    def advance_time(self, nanosecs: int) -> None:
        """Let time pass."""
        self.network.advance_time(nanosecs)

    def tick(self) -> None:
        """Run one round, of every subnet."""
        self.network.tick()

    def get_subnet(self, canister_id: Identity) -> IcPyPrincipal | None:
        """The subnet that a canister is on; `None`: there is no such canister."""
        subnet = self.network.subnet_of(own(canister_id))
        return theirs(subnet.id) if subnet is not None and own(canister_id) in subnet else None

    def check_canister_exists(self, canister_id: Identity) -> bool:
        """Whether there is such a canister."""
        return own(canister_id) in self.network

    def _canister(self, canister_id: Identity) -> SubnetCanister:
        try:
            return self.network.canister(own(canister_id))
        except KeyError as error:
            raise ConnectionError(f"The canister {own(canister_id)} does not belong to any subnet.") from error

    # --- cycles and memory

    def get_cycles_balance(self, canister_id: Identity) -> int:
        """The balance of a canister."""
        return self._canister(canister_id).status().cycles

    def add_cycles(self, canister_id: Identity, amount: int) -> int:
        """Add to the balance of a canister; the new balance."""
        return self._canister(canister_id).add_cycles(amount)

    def get_stable_memory(self, canister_id: Identity) -> bytes:
        """All of a canister's stable memory."""
        memory = self._canister(canister_id).stable
        return memory.read(0, memory.size() * WASM_PAGE_BYTES)

    def set_stable_memory(self, canister_id: Identity, data: bytes, compression: str | None = None) -> None:
        """Replace the content of a canister's stable memory; what is behind `data` becomes zero.

        Args:
            canister_id: of the canister.
            data: the content.
            compression: ``gzip`` if `data` is compressed.
        """
        if compression not in (None, "gzip"):
            raise ValueError(f"compression is 'gzip' or None, found {compression!r}")
        content = gzip.decompress(data) if compression else bytes(data)
        memory = self._canister(canister_id).stable
        missing = -(-len(content) // WASM_PAGE_BYTES) - memory.size()
        if missing > 0:
            memory.grow(missing)
        rest = memory.size() * WASM_PAGE_BYTES - len(content)
        memory.write(0, content + bytes(rest))

    # --- calls

    def update_call(self, canister_id: Identity | None, method: str, payload: bytes) -> bytes | list[int]:
        """Call a method as an update; no canister id means the management canister.

        Returns:
            The reply: bytes where it is Candid, else a list of numbers.

        Raises:
            PocketICError: the call was rejected.
            ConnectionError: there is no such canister.
        """
        return self.update_call_with_effective_principal(canister_id, None, method, payload)

    def update_call_with_effective_principal(
        self, canister_id: Identity | None, effective_principal: Mapping[str, str] | None, method: str, payload: bytes
    ) -> bytes | list[int]:
        """As `update_call`; calls of the management canister go to the subnet of the effective principal.

        Without one they go to the subnet of the canister that the argument names, or to the first one.
        """
        if canister_id is None:
            return self._manage(method, bytes(payload), effective_principal)
        canister = self._canister(canister_id)
        try:
            return _reply(canister.update(method, bytes(payload), sender=own(self.sender)))
        except RejectError as error:
            raise PocketICError(error) from error

    def submit_call(self, canister_id: Identity, sender: Identity, method: str, payload: bytes) -> bytes:
        """Let an update in without waiting for its answer: `tick` executes it, `await_call` has the answer.

        Returns:
            What names it, for `await_call`.

        Raises:
            PocketICError: it was not let in.
            ConnectionError: there is no such canister.
        """
        canister = self._canister(canister_id)
        outcalls = canister._subnet.outcalls
        outcalls.waits = True  # for get_canister_http
        submitted: list[bytes | Reject] = []
        who = own(sender).raw_bytes
        outcalls.alone(
            lambda world: submitted.append(submit_ingress(world, canister.id.raw_bytes, method, bytes(payload), who))
        )
        (request_id,) = submitted
        if isinstance(request_id, Reject):
            raise PocketICError(as_error(request_id))
        return canister._subnet.id.raw_bytes + request_id

    def await_call(self, message_id: bytes) -> bytes | list[int]:
        """Run rounds until a call is answered; returns and raises as `update_call`."""
        self.network.run_until_idle()
        subnet_id, request_id = message_id[:MAX_PRINCIPAL_BYTES], message_id[MAX_PRINCIPAL_BYTES:]
        try:
            reply = self._subnet(ic_principal.Principal(subnet_id)).response(request_id)
        except RejectError as error:
            raise PocketICError(error) from error
        if reply is None:
            raise PocketICError(as_error(None))
        return _reply(reply)

    def get_canister_http(self) -> list[CanisterHttpRequest]:
        """The HTTPS outcalls that wait for a response, oldest first."""
        found = []
        for subnet in self.network.subnets:
            subnet.outcalls.waits = True
            found += [CanisterHttpRequest.of(theirs(subnet.id), one) for one in subnet.outcalls.pending]
        return found

    def mock_canister_http_response(self, mock: MockCanisterHttpResponse) -> None:
        """Answer one of them. A single response is what all nodes got, unlike with `Subnet.outcalls`.

        Raises:
            KeyError: it does not wait.
            ValueError: as many responses as the subnet does not have nodes.
        """
        outcalls = (self.subnet if mock.subnet_id is None else self._subnet(mock.subnet_id)).outcalls
        before, outcalls.consensus = outcalls.consensus, False
        try:
            responses = (mock.response, *mock.additional_responses)
            outcalls.answer(mock.request_id, *(one.to_answer() for one in responses))
        finally:
            outcalls.consensus = before

    def query_call(self, canister_id: Identity | None, method: str, payload: bytes) -> bytes | list[int]:
        """Call a method as a query; returns and raises as `update_call`."""
        if canister_id is None:
            return self._manage(method, bytes(payload))
        canister = self._canister(canister_id)
        try:
            return _reply(canister.query(method, bytes(payload), sender=own(self.sender)))
        except RejectError as error:
            raise PocketICError(error) from error

    def _manage(
        self, method: str, payload: bytes, effective_principal: Mapping[str, str] | None = None
    ) -> bytes | list[int]:
        about = effective(effective_principal) or named_in(method, payload)
        subnet = None if about is None else self.network.subnet_of(about)
        management = SubnetCanister(subnet or self.subnet, ic_principal.MANAGEMENT_CANISTER)
        try:
            return _reply(management.update(method, payload, sender=own(self.sender)))
        except RejectError as error:
            raise PocketICError(error) from error

    def query_raw(
        self, canister_id: Identity, name: str, arguments: bytes, return_types: Value, _effective: Value
    ) -> Value:
        """What ic-py's `Canister` calls a query with."""
        return ic_py.decode(bytes(self.query_call(canister_id, name, arguments)), return_types)

    def update_raw(
        self, canister_id: Identity, name: str, arguments: bytes, return_types: Value, _effective: Value
    ) -> Value:
        """What ic-py's `Canister` calls an update with."""
        return ic_py.decode(bytes(self.update_call(canister_id, name, arguments)), return_types)

    # --- canisters

    def create_canister(
        self,
        settings: Mapping[str, object] | None = None,
        subnet: Identity | None = None,
        canister_id: Identity | None = None,
    ) -> IcPyPrincipal:
        """Create a canister without code; its id.

        Args:
            settings: by name; each value in a list, as ic-py writes what is optional, or as it is.
            subnet: where; by default on the first one.
            canister_id: its id; only on subnets with ids of their own, which an application subnet has not. For an id
                that no subnet would have there is an application subnet from then on.

        Raises:
            ValueError: the id is taken, or cannot be chosen there; or there is no such subnet.
            UnsupportedError: a subnet would have to be added to a state directory of one.
        """
        wanted = None if canister_id is None else own(canister_id)
        chosen = self.subnet if subnet is None else self._subnet(subnet)
        if wanted is not None:
            chosen = self._host_of(wanted, None if subnet is None else chosen)
        if wanted is not None and wanted in self.network:
            code = ErrorCode.CANISTER_ALREADY_INSTALLED
            raise PocketICError(RejectError(code.reject_code, code.text, f"Canister {wanted} is already installed"))
        made = chosen.create_canister(canister_id=wanted, controllers=[own(self.sender)], cycles=_CYCLES)
        if settings:
            self.update_canister_settings(theirs(made.id), settings)
        return theirs(made.id)

    def _host_of(self, wanted: ic_principal.Principal, chosen: Subnet | None) -> Subnet:
        """The subnet for a canister whose id was chosen."""
        found = chosen or self.network.subnet_of(wanted)
        if found is None and is_on_nns(wanted):
            raise ValueError(f"a canister id cannot be chosen of the NNS, where there is no subnet of it: {wanted}")
        if found is None:
            found = self.network.add_subnet(first_canister_index=range_of(wanted))
            self._hosting.add(found.id)
        kind = self._kind(found)
        if kind in (SubnetKind.APPLICATION, SubnetKind.SYSTEM) and found.id not in self._hosting:
            raise ValueError(f"a canister id cannot be chosen on a subnet of kind {kind.value}")
        return found

    def install_code(self, canister_id: Identity, wasm_module: bytes, arg: bytes | Sequence[Value] = b"") -> None:
        """Install a module.

        Args:
            canister_id: of a canister without code.
            wasm_module: gzip or not.
            arg: bytes, or ic-py's list of types and values.

        Raises:
            PocketICError: the module is refused, or its init code trapped.
        """
        self._change(lambda: self._canister(canister_id).install(bytes(wasm_module), argument(arg)))

    install_canister = install_code

    def create_and_install_canister_with_candid(
        self, candid: str, wasm_module: bytes, init_args: Value = None, subnet: Identity | None = None
    ) -> Any:
        """Create a canister and install a module on it.

        Args:
            candid: its interface.
            wasm_module: gzip or not.
            init_args: the init argument, where the interface has one.
            subnet: where; by default on the first one.

        Returns:
            An object with the canister's methods, which return lists of results: ``canister.greet("Ada") == ["Hi"]``.

        Raises:
            PocketICError: the module is refused, or its init code trapped.
        """
        service = load(candid)
        if len(service.init or ()) > 1:
            raise ValueError("The candid file appears to be malformed")
        canister_id = self.create_canister(subnet=subnet)
        types = service.init or ()
        values = [from_ic_py(types[0], init_args)] if types else []
        self.install_code(canister_id, wasm_module, encode(types, values))
        if ic_py is not None:
            return ic_py.Canister(self, canister_id, candid)
        return Canister(self, canister_id, candid)

    # --- what the package lacks

    def upgrade_canister(
        self,
        canister_id: Identity,
        wasm_module: bytes,
        arg: bytes | Sequence[Value] = b"",
        *,
        wasm_memory_persistence: str | None = None,
        skip_pre_upgrade: bool = False,
    ) -> None:
        """Upgrade to a module; stable memory is kept. Arguments as for `install_code` and `Canister.upgrade`."""
        canister = self._canister(canister_id)
        self._change(
            lambda: canister.upgrade(
                bytes(wasm_module),
                argument(arg),
                wasm_memory_persistence=wasm_memory_persistence,
                skip_pre_upgrade=skip_pre_upgrade,
            )
        )

    def reinstall_canister(self, canister_id: Identity, wasm_module: bytes, arg: bytes | Sequence[Value] = b"") -> None:
        """Install a module anew: all memories are lost."""
        self._change(lambda: self._canister(canister_id).reinstall(bytes(wasm_module), argument(arg)))

    def uninstall_canister(self, canister_id: Identity) -> None:
        """Take code and memories away."""
        self._change(self._canister(canister_id).uninstall)

    def start_canister(self, canister_id: Identity) -> None:
        """Let a canister take calls again."""
        self._change(self._canister(canister_id).start)

    def stop_canister(self, canister_id: Identity) -> None:
        """Let a canister take no more calls."""
        self._change(self._canister(canister_id).stop)

    def delete_canister(self, canister_id: Identity) -> None:
        """Remove a stopped canister for ever."""
        self._change(self._canister(canister_id).delete)

    def canister_exists(self, canister_id: Identity) -> bool:
        """The same as `check_canister_exists`, by its name in Rust."""
        return self.check_canister_exists(canister_id)

    def cycle_balance(self, canister_id: Identity) -> int:
        """The same as `get_cycles_balance`, by its name in Rust."""
        return self.get_cycles_balance(canister_id)

    def get_controllers(self, canister_id: Identity) -> list[IcPyPrincipal]:
        """Who controls a canister."""
        return [theirs(one) for one in self._canister(canister_id).status().controllers]

    def canister_status(self, canister_id: Identity) -> dict[str, Any]:
        """Status, module hash, cycles, sizes in bytes and settings of a canister."""
        canister = self._canister(canister_id)
        facts = canister.status()
        return {
            "status": facts.status,
            "module_hash": facts.module_hash,
            "version": facts.version,
            "cycles": facts.cycles,
            "heap_bytes": facts.heap_bytes,
            "stable_bytes": facts.stable_bytes,
            "memory_size": facts.memory_bytes,
            "settings": canister.settings(),
        }

    def update_canister_settings(self, canister_id: Identity, settings: Mapping[str, Any]) -> None:
        """Change settings; values as for `create_canister`."""
        plain: dict[str, Any] = {}
        for name, given in settings.items():
            value = given[0] if isinstance(given, list) and len(given) == 1 and name != "controllers" else given
            if name == "controllers":
                inner = value[0] if len(value) == 1 and isinstance(value[0], list) else value
                value = [own(one) for one in inner]
            if value != []:
                plain[name] = value
        self._change(lambda: self._canister(canister_id).update_settings(**plain))

    def fetch_canister_logs(self, canister_id: Identity) -> list[dict[str, Any]]:
        """Lines that a canister wrote: ``idx``, ``timestamp_nanos``, ``content``."""
        return [
            {"idx": one.sequence, "timestamp_nanos": one.time_ns, "content": one.content}
            for one in self._canister(canister_id).logs()
        ]

    def take_canister_snapshot(self, canister_id: Identity, replace_snapshot: bytes | None = None) -> dict[str, Any]:
        """Keep a copy of code and memories: its ``id``, ``taken_at_timestamp`` and ``total_size``."""
        canister = self._canister(canister_id)
        taken: bytes = self._change(lambda: canister.take_snapshot(replace=replace_snapshot))
        return next(one for one in canister.snapshots() if one["id"] == taken)

    def load_canister_snapshot(self, canister_id: Identity, snapshot_id: bytes) -> None:
        """Go back to a snapshot."""
        self._change(lambda: self._canister(canister_id).load_snapshot(snapshot_id))

    def list_canister_snapshots(self, canister_id: Identity) -> list[dict[str, Any]]:
        """The snapshots of a canister."""
        return self._canister(canister_id).snapshots()

    def delete_canister_snapshot(self, canister_id: Identity, snapshot_id: bytes) -> None:
        """Forget a snapshot."""
        self._change(lambda: self._canister(canister_id).delete_snapshot(snapshot_id))

    def canister_snapshot_download(self, canister_id: Identity, path: str | os.PathLike[str]) -> None:
        """Write a canister as it stands to a directory, in the form of `icp canister snapshot download`."""
        self._canister(canister_id).write_snapshot(path)

    def fork(self) -> PocketIC:
        """A second instance in the same state; each goes its own way."""
        twin = object.__new__(PocketIC)
        twin.network, twin.server, twin.sender = self.network.fork(), self.server, self.sender
        twin.subnet, twin._hosting = twin.network.subnets[0], set(self._hosting)
        twin.instance_id = self.server.new_instance()
        return twin

    @staticmethod
    def _change(act: Callable[[], T]) -> T:
        try:
            return act()
        except RejectError as error:
            raise PocketICError(error) from error


def _reply(data: bytes) -> bytes | list[int]:
    # The package gives what is no Candid as a list of numbers.
    return data if data.startswith(b"DIDL") else list(data)


# -- canisters where ic-py is not installed


@final
class _Method:
    """A method of a `Canister`: positional arguments in, a list of results out."""

    def __init__(self, canister: Canister, method: ServiceMethod) -> None:
        self._canister = canister
        self._method = method
        self.__name__ = method.name
        self.__doc__ = method.signature

    def __call__(self, *args: Value) -> list[Value]:
        types = self._method.func.args
        if len(args) != len(types):
            raise ValueError("Arguments length not match")
        message = self._method.encode([from_ic_py(one, value) for one, value in zip(types, args, strict=True)])
        agent, canister_id = self._canister.agent, self._canister.canister_id
        call = agent.query_call if "query" in self._method.func.modes else agent.update_call
        values = self._method.decode(bytes(call(canister_id, self._method.name, message)))
        return [to_ic_py(one, value) for one, value in zip(self._method.func.results, values, strict=True)]


@final
class Canister:
    """A canister as ic-py shows it: a method for each method of its interface.

    Args:
        agent: what makes the calls.
        canister_id: of the canister.
        candid: its interface.
    """

    def __init__(self, agent: PocketIC, canister_id: Identity, candid: str) -> None:
        self.agent = agent
        self.canister_id = canister_id
        self.candid = candid
        for name, method in load(candid).methods.items():
            setattr(self, name, _Method(self, method))

    def __getattr__(self, name: str) -> _Method:
        raise AttributeError(f"canister {own(self.canister_id)} has no method {name!r}")
