"""Where messages go that were sent: to canisters of the subnet, to the management canister, or into a stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, final

from perdure.canister import Reject
from perdure.errors import MalformedError
from perdure.execution.effects import respond
from perdure.execution.events import Delivered, Taken
from perdure.execution.management import BITCOIN_METHODS, METHODS
from perdure.execution.management.elsewhere import bitcoin_canister
from perdure.execution.management.interface import codecs
from perdure.execution.messages import (
    CallMessage,
    FromCanister,
    Message,
    RefundMessage,
    ResponseMessage,
    payload_bytes,
)
from perdure.execution.rejects import no_such_canister
from perdure.execution.state import NO_STREAM, CanisterState, SubnetState
from perdure.execution.streams import MAX_STREAM_BYTES, MAX_STREAM_MESSAGES, send, size_of
from perdure.execution.world import World
from perdure.ic.principal import MANAGEMENT_CANISTER, Principal
from perdure.ic.reject import RejectCode

__all__ = ["deliver"]

_MANAGEMENT: Final = MANAGEMENT_CANISTER.raw_bytes


def deliver(world: World) -> None:
    """Hand what was sent to its receivers, in the order in which it was sent."""
    world.begin()
    outbox, world.state.outbox = world.state.outbox, []
    leaving = _Leaving(world.state)
    for message in outbox:
        if isinstance(message, CallMessage):
            _deliver_call(world, message, leaving)
        elif isinstance(message, ResponseMessage):
            _deliver_response(world, message, leaving)
        else:
            _deliver_refund(world, message, leaving)
    if leaving.messages:
        send(world.state, leaving.messages)
    # What leaves is a commit of its own: another subnet may have taken it in before the next one.
    world.finish(world.take(Taken("sent", b"")) if leaving.messages else None)


@final
class _Leaving:
    """What is about to get into streams, and how much there is in these."""

    def __init__(self, state: SubnetState) -> None:
        self.messages: list[tuple[bytes, Message]] = []
        self._state = state
        self._sizes: dict[bytes, tuple[int, int]] = {}

    def add(self, destination: bytes, message: Message) -> None:
        """Have a message get into the stream for a subnet."""
        self.messages.append((destination, message))
        if destination in self._sizes:
            count, size_bytes = self._sizes[destination]
            self._sizes[destination] = count + 1, size_bytes + payload_bytes(message)

    def is_full(self, destination: bytes) -> bool:
        """Whether nothing more gets into it that does not have to."""
        if destination not in self._sizes:
            count, size_bytes = size_of(self._state.xnet_streams.get(destination, NO_STREAM))
            own = [message for other, message in self.messages if other == destination]
            self._sizes[destination] = count + len(own), size_bytes + sum(map(payload_bytes, own))
        count, size_bytes = self._sizes[destination]
        return count >= MAX_STREAM_MESSAGES or size_bytes >= MAX_STREAM_BYTES


def _deliver_call(world: World, message: CallMessage, leaving: _Leaving) -> None:
    if world.intercept is not None and isinstance(message.origin, FromCanister):
        answer = world.intercept(message)
        if answer is True:
            world.state.lost_cycles += message.cycles
            return
        if not isinstance(answer, bool):
            respond(world, message.origin, answer, message.cycles)
            return
    state = world.state
    is_management = message.callee in (_MANAGEMENT, state.subnet_id)
    if is_management and message.method_name in BITCOIN_METHODS and isinstance(message.origin, FromCanister):
        found = bitcoin_canister(world, message)
        if isinstance(found, Reject):
            respond(world, message.origin, found, message.cycles)
            return
        message, is_management = replace(message, callee=found), False
    canister = None if is_management else state.canisters.get(message.callee)
    if canister is not None:
        _put(world, canister, message)
    elif world.route is not None and (destination := _destination(world, message)) is not None:
        _leave(world, message, destination, leaving)
    elif is_management:
        state.management_calls.append(replace(message, callee=_MANAGEMENT) if message.callee else message)
        if world.streams:
            world.tell(_delivered(_MANAGEMENT, message))
    else:
        refusal = no_such_canister(message.callee, state.first_canister_index)
        respond(world, message.origin, refusal, message.cycles)


def _destination(world: World, message: CallMessage) -> bytes | None:
    """The other subnet that a canister's call is for; `None`: it stays here."""
    if world.route is None or not isinstance(message.origin, FromCanister):
        return None
    wanted = message.callee or _managed(message)
    found = None if wanted is None else world.route(wanted)
    return None if found == world.state.subnet_id else found


def _managed(message: CallMessage) -> bytes | None:
    """What a call of the management canister is about: a canister, or a subnet, which answers for it."""
    method = METHODS.get(message.method_name)
    if method is None:
        return None
    try:
        values = codecs()[message.method_name][0].decode(message.arg)
    except MalformedError:
        return None  # whoever executes it will say so
    about: Principal | None = values[0].get(method.target or "subnet_id") if values else None
    return None if about is None else about.raw_bytes


def _leave(world: World, message: CallMessage, destination: bytes, leaving: _Leaving) -> None:
    limit, size_bytes = world.config.max_inter_canister_payload_bytes, payload_bytes(message)
    if size_bytes > limit:
        words = (
            f"Canister {Principal(message.caller)} sent a request of {size_bytes} bytes to a canister of another "
            f"subnet, at most {limit} bytes are carried there"
        )
        respond(world, message.origin, Reject(RejectCode.CANISTER_ERROR, words), message.cycles)
        return
    if isinstance(message.origin, FromCanister) and message.origin.deadline_ns and leaving.is_full(destination):
        words = f"The stream to subnet {Principal(destination)} is full, of calls that it has not taken in"
        respond(world, message.origin, Reject(RejectCode.SYS_TRANSIENT, words), message.cycles)
        return
    # What is for the management canister is for the one of that subnet.
    leaving.add(destination, message if message.callee else replace(message, callee=destination))


def _deliver_response(world: World, message: ResponseMessage, leaving: _Leaving) -> None:
    canister = world.state.canisters.get(message.receiver)
    if canister is not None:
        _put(world, canister, message)
        return
    _pass_on(world, message, message.refund, leaving)


def _deliver_refund(world: World, message: RefundMessage, leaving: _Leaving) -> None:
    canister = world.state.canisters.get(message.receiver)
    if canister is not None:
        world.touch(canister)
        canister.cycles += message.cycles
        return
    _pass_on(world, message, message.cycles, leaving)


def _pass_on(world: World, message: ResponseMessage | RefundMessage, cycles: int, leaving: _Leaving) -> None:
    """To the subnet of whoever is not here; the cycles of what nobody can take are lost."""
    destination = None if world.route is None else world.route(message.receiver)
    if destination is None or destination == world.state.subnet_id:
        world.state.lost_cycles += cycles
    else:
        leaving.add(destination, message)


def _put(world: World, canister: CanisterState, message: CallMessage | ResponseMessage) -> None:
    world.touch(canister)
    canister.inputs.append(message)
    world.state.ready[canister.canister_id] = None
    if world.streams:
        world.tell(_delivered(canister.canister_id, message))


def _delivered(receiver: bytes, message: CallMessage | ResponseMessage) -> Delivered:
    if isinstance(message, ResponseMessage):
        return Delivered("response", receiver, b"", "")
    return Delivered("call", receiver, message.caller, message.method_name)
