"""A worker process of a network: some of its subnets, each an ordinary `Subnet`, and the pipe that says what to do.

A call is made as it would be in the network's own process. Where it needs a round of the network to go on, the worker
says so (GO_ON) and does meanwhile what it is told, until it hears what became of it: so calls of any method work, and
none of them knows that others are elsewhere.

A round here is what it is in one process: slices are taken in, receiver by receiver and sender by sender, then each
subnet runs its own round. What a slice between two subnets of this process has never leaves it.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, Final, final

import cbor2

from perdure.errors import UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import FREE
from perdure.execution.identity import identify, subordinate
from perdure.execution.outcalls import ask_outside
from perdure.execution.scheduler import has_work, round_, submit_ingress
from perdure.execution.schema import SLICE
from perdure.execution.state import XNetStream
from perdure.execution.streams import Slice, decode_slice, slice_for, take_in
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.network.delegations import Delegations
from perdure.network.frames import (
    Channel,
    ClassBytes,
    Code,
    EndedError,
    Held,
    Kind,
    Report,
    decode_error,
    decode_value,
    encode_error,
    encode_value,
    packed,
)
from perdure.network.members import begin_at, hash_of
from perdure.subnet.canister import Canister
from perdure.subnet.gate import Gate
from perdure.subnet.interface import args_of, known_interface
from perdure.subnet.interfaces import Known
from perdure.subnet.opening import place_of
from perdure.subnet.routes import Routes
from perdure.subnet.subnet import Subnet

__all__ = ["main"]

_READY_BYTES: Final = 8 << 20
"""Of slices that go with a report; more is asked for, one slice at a time."""
_LOOK_SECONDS: Final = 1.0


# --- what handles ask for beside the names that subnets and canisters have


def _interface(canister: Canister) -> tuple[Known | None, bytes | None]:
    """What says the interface, and the init arguments of its module."""
    module = canister.module
    args, known = args_of(module), canister._subnet._interfaces.of(canister._raw_id)
    found = known_interface(f"canister {canister.id}", module, known, args=args, query=canister.query)
    return (None if found is None else found[0]), args


def _code(canister: Canister) -> Code | None:
    module = canister.module
    if module is None:
        return None
    return Code(module.module_hash, module.exported_methods, dict(module.custom_sections), module.name)


def _submit(canister: Canister, method: str, arg: bytes, sender: Principal = ANONYMOUS, count: int = 1) -> list[bytes]:
    """Let requests in, without running them; their ids."""
    raw_id = canister._raw_id
    with canister._subnet._undisturbed(None) as world:
        found = [submit_ingress(world, raw_id, method, arg, sender.raw_bytes) for _ in range(count)]
    return [one for one in found if isinstance(one, bytes)]


_ASKED: Final[Mapping[str, Callable[..., object]]] = {
    "_interface": _interface,
    "_code": _code,
    "_submit": _submit,
    "_has": lambda subnet, canister_id: canister_id in subnet,
    "_hash": hash_of,
    "_memory_names": lambda canister: tuple(canister.memories),
}


@final
class _Serving:
    """Does what comes out of the pipe."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._gate = Gate(patient=False)
        self._subnets: dict[int, Subnet] = {}
        self._numbers: dict[bytes, int] = {}
        self._all: list[bytes] = []
        self._routes = Routes()
        self._told: dict[int, tuple[Mapping[bytes, XNetStream], frozenset[bytes]]] = {}
        self._next: dict[tuple[int, bytes], int] = {}
        self._taken: list[tuple[int, int, bytes, bytes]] = []
        self._halted: list[bytes] = []
        self._root_time_ns = 0
        self._is_busy = self._is_stopped = False
        self._is_kept: bool | None = None
        """Of the call that is under way: whether it is as if it had not been, or is done; `None`: it says so itself."""
        self._acts: Final[Mapping[int, Callable[..., Any]]] = {
            Kind.ADD: self._add,
            Kind.KNOW: self._know,
            Kind.CALL: self._call,
            Kind.LOOK: self._look,
            Kind.ASK: lambda numbers: sum(ask_outside(self._subnets[one]._world) for one in numbers),
            Kind.SLICES: self._slices,
            Kind.RUN: self._run,
            Kind.WAIT: self._wait,
            Kind.CLOSE: self._close,
        }

    def serve(self) -> None:
        """Until the other end is gone, or says that it is over."""
        while True:
            kind = self._handle(self._channel.receive())
            if kind == Kind.CLOSE:
                return

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The network's Ctrl-C: ends what is under way, between two messages, or has come and is not begun."""
        self._is_stopped = True
        if self._is_busy:
            self._end_it()

    def _end_it(self) -> None:
        self._is_busy = self._is_stopped = False
        error = KeyboardInterrupt()
        if self._is_kept is not None:
            error.committed = self._is_kept  # type: ignore[attr-defined]
        raise error

    def _handle(self, frame: list[Any]) -> int:
        kind, *parts = frame
        if kind == Kind.TAKE:
            self._take(*parts)
            return Kind.TAKE
        if kind == Kind.STOP:
            self._is_stopped = False  # that has ended already
            return Kind.STOP
        others, self._is_kept = self._is_kept, False if kind == Kind.CALL else None
        try:
            self._is_busy = True
            if self._is_stopped:
                if self._channel.has_come(Kind.STOP):
                    self._end_it()
                self._is_stopped = False
            done = self._acts[kind](*parts)
            self._is_busy = False
            answer = Kind.DONE, done
        except EndedError:
            raise
        except BaseException as error:
            self._is_busy = False
            answer = Kind.FAILED, encode_error(error)
        finally:
            self._is_kept = others
        self._send(*answer)
        return int(kind)

    def _send(self, kind: Kind, part: object) -> None:
        try:
            frame = packed(kind, part)
        except UnsupportedError as error:
            frame = packed(Kind.FAILED, encode_error(error))
        self._channel.send(frame)

    # --- subnets

    def _add(self, number: int, options: dict[str, Any]) -> list[Any]:
        archive = None if options["archive"] is None else place_of(options["archive"])
        code = [self._module(wasm) for wasm in options["code"]]
        subnet = Subnet(
            options["path"],
            seed=options["seed"],
            config=SubnetConfig(**options["config"]),
            costs=FREE if options["is_free"] else None,
            gate=self._gate,
            extensions=options["extensions"],
            history=options["history"],
            trust_owner=options["trust_owner"],
            archive=archive,
            code=[one for one in code if one is not None],
        )
        begin_at(subnet, options["first_canister_index"], options["time_ns"])
        self._subnets[number] = subnet
        self._numbers[subnet._state.subnet_id] = number
        state = subnet._state
        return [state.subnet_id, state.seed, state.root_key, state.first_canister_index]

    def _module(self, wasm: bytes) -> Any:
        """A class by the bytes that stand for it; `None`: whoever needs it will hear that it is not here."""
        from perdure.python.catalogue import Catalogue

        found = Catalogue().find(wasm, look=True)
        return _Given(found) if found is not None and not found.absent else None

    def _know(self, subnets: list[tuple[bytes, int]], root: tuple[bytes, bytes, bytes, int]) -> None:
        self._routes = Routes()
        for subnet_id, first_canister_index in subnets:
            self._routes.add(subnet_id, first_canister_index)
        self._all = [subnet_id for subnet_id, _ in subnets]
        if len(subnets) < 2:
            return
        root_id, root_seed, root_key, self._root_time_ns = root
        for subnet in self._subnets.values():
            world = subnet._world
            world.route, world.network = self._routes.find, self._go_on
            if world.state.subnet_id == root_id:
                identify(world)
            else:
                subordinate(world, root_key, Delegations(root_seed, lambda: self._root_time_ns, world).of)

    def _go_on(self, always: bool) -> bool:
        """See `World.network`: the network runs a round, and this process its part of it, within this call."""
        self._is_busy = False
        self._channel.send(packed(Kind.GO_ON, always, self._report()))
        while True:
            frame = self._channel.receive()
            if frame[0] != Kind.WENT_ON:
                self._handle(frame)
                continue
            _, did, error = frame
            self._is_busy = True
            if error is not None:
                raise decode_error(error)
            return bool(did)

    # --- calls

    def _call(
        self,
        number: int,
        canister_id: bytes | None,
        memory: str | None,
        name: str,
        is_method: bool,
        args: list[Any],
        keywords: dict[str, Any],
    ) -> Any:
        subnet = self._subnets[number]
        about: Any = subnet if canister_id is None else Canister(subnet, Principal(canister_id))
        if memory is not None:
            about = about._memory(memory)
        values = [self._given(subnet, one) for one in args]
        named = {key: self._given(subnet, one) for key, one in keywords.items()}
        self._is_kept = None
        if name in _ASKED:
            found = _ASKED[name](about, *values, **named)
        else:
            found = getattr(about, name)
            if is_method:
                found = found(*values, **named)
        self._is_kept = True
        return encode_value(found, f"what {name} gives")

    def _given(self, subnet: Subnet, plain: Any) -> Any:
        value = decode_value(plain, subnet.canister)
        if not isinstance(value, ClassBytes):
            return value
        found = subnet._catalogue.find(value.wasm, look=True)
        if found is not None and found.absent:
            raise UnsupportedError(
                f"the class {found.name!r} does not cross to a worker process, which imports it by its name: "
                f"{found.absent}"
            )
        return value.wasm

    # --- rounds

    def _look(self, halted: list[bytes], anew: bool) -> Report:
        self._halted = halted
        if anew:
            self._told.clear()
        return self._report()

    def _report(self) -> Report:
        """How the subnets are; of those with streams all is on the platter that others may take in, or let go of."""
        told, slices, left_bytes = [], [], _READY_BYTES
        for number, subnet in self._subnets.items():
            state = subnet._state
            if state.xnet_streams:
                subnet._wait(leaving=True)
            streams, strays = self._told.get(number, ({}, frozenset()))
            changed = [
                [one, stream.begin, stream.begin + len(stream.messages), stream.inducted]
                for one, stream in state.xnet_streams.items()
                if streams.get(one) is not stream
            ]
            changed_strays = None if strays is state.strays else sorted(state.strays)
            has_outcalls = bool(state.outcalls)
            cycles = state.sent_cycles, state.received_cycles
            has_work_ = has_work(subnet._world)
            told.append([number, state.time_ns, has_work_, has_outcalls, *cycles, changed, changed_strays])
            self._told[number] = state.xnet_streams, state.strays
            for receiver, stream in state.xnet_streams.items():
                first = max(self._next.get((number, receiver), 0), stream.begin)
                end = stream.begin + len(stream.messages)
                if receiver in self._numbers or receiver in self._halted or first >= end or left_bytes <= 0:
                    continue
                count, data = self._slice(number, receiver, first)
                slices.append([number, receiver, first, count, data])
                left_bytes -= len(data)
        return Report(told, slices)

    def _slice(self, number: int, receiver: bytes, first: int) -> tuple[int, bytes]:
        found = slice_for(self._subnets[number]._state, receiver, first)
        return len(found.messages), cbor2.dumps(SLICE.encode(found))  # type: ignore[misc]  # it has one

    def _slices(self, wanted: list[tuple[int, bytes, int]]) -> list[list[Any]]:
        return [[*self._slice(number, receiver, first)] for number, receiver, first in wanted]

    def _take(self, round_number: int, receiver: int, sender: bytes, data: bytes) -> None:
        self._taken = [one for one in self._taken if one[0] == round_number]
        self._taken.append((round_number, receiver, sender, data))

    def _run(
        self,
        round_number: int,
        running: list[int],
        local: list[tuple[int, int, int]],
        nexts: list[tuple[int, bytes, int]],
        strays: list[list[Any]] | None,
        halted: list[bytes],
        root_time_ns: int,
    ) -> Report:
        self._root_time_ns = root_time_ns
        taken, self._taken = self._taken, []
        if strays is not None:
            self._routes.look_around((subnet_id, frozenset(one)) for subnet_id, one in strays)
        self._next.update({(number, receiver): first for number, receiver, first in nexts})
        coming: dict[int, list[tuple[bytes, Slice]]] = {}
        for receiver, sender, first in local:
            there = self._subnets[sender]._state
            found = slice_for(there, self._subnets[receiver]._state.subnet_id, first)
            coming.setdefault(receiver, []).append((there.subnet_id, found))
        for number, receiver, sender_id, data in taken:
            if number == round_number:
                found = decode_slice(cbor2.loads(data), "slice")
                coming.setdefault(receiver, []).append((sender_id, found))
        places = {subnet_id: place for place, subnet_id in enumerate(self._all)}
        with Held():
            for number in running:
                subnet = self._subnets[number]
                if subnet._world.journal is not None:
                    subnet._world.recover()
            for number in running:
                self._routes.tell(self._subnets[number]._state)
            for number in running:
                if number in coming:
                    take_in(self._subnets[number]._world, sorted(coming[number], key=lambda one: places[one[0]]))
            for number in running:
                round_(self._subnets[number]._world)
        self._halted = halted
        return self._report()

    def _wait(self) -> None:
        for subnet in self._subnets.values():
            subnet._wait()

    def _close(self) -> None:
        with ExitStack() as stack:
            for subnet in self._subnets.values():
                stack.callback(subnet.close)


@final
class _Given:
    """A class that was found by the bytes that stand for it."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __canister_module__(self) -> Any:
        return self._module


def main(descriptor: int, parent: int) -> None:
    """Be a worker, until the parent ends.

    Args:
        descriptor: of this end of the pipe.
        parent: the process that began this one.
    """
    serving = _Serving(Channel(socket.socket(fileno=descriptor)))
    signal.signal(signal.SIGINT, serving.interrupt)
    threading.Thread(target=_watch, args=(parent,), name="perdure parent", daemon=True).start()
    with suppress(EndedError):
        serving.serve()
    # Whatever is in memory is gone, and what is on the disk is as after a crash.
    os._exit(0)


def _watch(parent: int) -> None:
    """End with the parent, also where another child of it has its end of the pipe."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(0)
