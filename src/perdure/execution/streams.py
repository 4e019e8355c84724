"""Streams: what one subnet sends to another, in an order that both know, taken in exactly once.

```
 sender     begin ──────────────── begin + len(messages)        what was sent and is not known to have been taken in
 receiver              inducted                                  the number of the next message that it has not
```

A sender keeps a message until the receiver's number has passed it. What comes again is left out by its number, what
comes too early is not taken, so that slices may be lost, doubled and late. Cycles leave a subnet as a message gets into
its stream, and come in as it is taken out: see `SubnetState.sent_cycles`.

A request that the receiver cannot let in is answered at once, in the words that the network's subnets have for it. One
whose time was up on the way is dropped, and its cycles go back in a message of their own: nobody waits for more.

Spec: none; the network's protocol is of the same form ("XNet"; dfinity/ic, rs/messaging). Its reject signals, beside
the messages of the stream that comes back, are answers within it here: callers see the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from enum import Enum, unique
from typing import Final, NamedTuple, final

from perdure.canister import CanisterStatus, Reject
from perdure.execution.effects import respond
from perdure.execution.events import Taken
from perdure.execution.messages import (
    CallMessage,
    FromCanister,
    Message,
    RefundMessage,
    cycles_of,
    payload_bytes,
)
from perdure.execution.schema import SLICE
from perdure.execution.state import NO_STREAM, CanisterState, SubnetState, XNetStream
from perdure.execution.world import World
from perdure.ic.principal import MANAGEMENT_CANISTER, Principal
from perdure.ic.reject import RejectCode
from perdure.record import Plain

__all__ = [
    "MAX_STREAM_BYTES",
    "MAX_STREAM_MESSAGES",
    "RejectReason",
    "Slice",
    "decode_slice",
    "has_new",
    "send",
    "size_of",
    "slice_for",
    "take_in",
]

MAX_SLICE_BYTES: Final = 4 << 20
"""Of messages that a round takes in of one subnet; one may always come."""
_MESSAGE_BYTES: Final = 256
"""What a message takes beside its payload, roughly."""
MAX_STREAM_MESSAGES: Final = 10_000
MAX_STREAM_BYTES: Final = 128 << 20
"""From where on no bounded-wait call gets into a stream: callers of those may make others before the receiver has taken
them. Of other calls `SubnetConfig.queue_capacity` is the limit, for each caller and callee."""


@unique
class RejectReason(Enum):
    """Why a subnet does not let a request in: reject code and words, with the callee's id."""

    CANISTER_MIGRATING = RejectCode.SYS_TRANSIENT, "Canister migration in progress"
    CANISTER_NOT_FOUND = RejectCode.DESTINATION_INVALID, "Canister {} not found"
    CANISTER_STOPPED = RejectCode.CANISTER_ERROR, "Canister {} is stopped"
    CANISTER_STOPPING = RejectCode.CANISTER_ERROR, "Canister {} is stopping"
    QUEUE_FULL = RejectCode.SYS_TRANSIENT, "Canister {} input queue is full"

    def of(self, callee: bytes) -> Reject:
        """The rejection of a call of `callee`."""
        code, words = self.value
        return Reject(code, words.format(Principal(callee)))


_BY_STATUS: Final = {
    CanisterStatus.STOPPED: RejectReason.CANISTER_STOPPED,
    CanisterStatus.STOPPING: RejectReason.CANISTER_STOPPING,
}


@final
class Slice(NamedTuple):
    """Messages of a stream, from one on, and how far the sender has got with the stream that comes back."""

    first: int
    messages: tuple[Message, ...]
    inducted: int


def send(state: SubnetState, leaving: Iterable[tuple[bytes, Message]]) -> None:
    """Add messages to the streams for other subnets, in a transaction that the caller finishes."""
    added: dict[bytes, list[Message]] = {}
    for subnet_id, message in leaving:
        added.setdefault(subnet_id, []).append(message)
        state.sent_cycles += cycles_of(message)
    streams = dict(state.xnet_streams)
    for subnet_id, messages in added.items():
        stream = streams.get(subnet_id, NO_STREAM)
        streams[subnet_id] = stream._replace(messages=(*stream.messages, *messages))
    state.xnet_streams = streams


def decode_slice(value: Plain, where: str) -> Slice:
    """A slice as history has it, and pipes."""
    return Slice(*SLICE.decode(value, where))


def slice_for(state: SubnetState, subnet_id: bytes, first: int) -> Slice:
    """What a subnet is to get next, which asks for messages from number `first` on."""
    stream = state.xnet_streams.get(subnet_id, NO_STREAM)
    chosen: list[Message] = []
    size_bytes = 0
    for message in stream.messages[max(0, first - stream.begin) :]:
        size_bytes += payload_bytes(message) + _MESSAGE_BYTES
        if chosen and size_bytes > MAX_SLICE_BYTES:
            break
        chosen.append(message)
    return Slice(max(first, stream.begin), tuple(chosen), stream.inducted)


def has_new(state: SubnetState, subnet_id: bytes, found: Slice) -> bool:
    """Whether another subnet's slice has messages that are to be taken in."""
    inducted = state.xnet_streams.get(subnet_id, NO_STREAM).inducted
    return found.first <= inducted < found.first + len(found.messages)


def size_of(stream: XNetStream) -> tuple[int, int]:
    """How many messages wait in a stream, and of how many bytes."""
    return len(stream.messages), sum(payload_bytes(message) + _MESSAGE_BYTES for message in stream.messages)


def take_in(world: World, slices: Iterable[tuple[bytes, Slice]]) -> int:
    """Take in what of other subnets' slices is new, and let go of what they have, in one transaction.

    A slice that begins after what is expected next brings nothing: one before it was lost, and comes again.

    Args:
        world: the subnet, and what it is wired to.
        slices: each with the id of the subnet that sends it.

    Returns:
        How many messages were new.
    """
    state = world.state
    streams = dict(state.xnet_streams)
    arrived: list[Message] = []
    used: list[list[Plain]] = []
    for subnet_id, found in slices:
        stream = streams.get(subnet_id, NO_STREAM)
        new = found.messages[stream.inducted - found.first :] if found.first <= stream.inducted else ()
        done = max(0, min(found.inducted - stream.begin, len(stream.messages)))
        if new or done:
            kept = stream.messages[done:] if done else stream.messages
            streams[subnet_id] = XNetStream(stream.begin + done, kept, stream.inducted + len(new))
            arrived += new
            if state.inputs is not None:
                used.append([subnet_id, SLICE.encode(Slice(stream.inducted, new, found.inducted))])  # type: ignore[misc]
    if streams != state.xnet_streams:
        world.begin()
        state.note("slices", used)
        taken = world.take(Taken("slices", b""))
        for message in arrived:
            state.received_cycles += cycles_of(message)
            _let_in(world, replace(message))  # another subnet of this process may still have this one
        state.xnet_streams = streams
        world.finish(taken)
    return len(arrived)


def _let_in(world: World, message: Message) -> None:
    state = world.state
    origin = message.origin if isinstance(message, CallMessage) else None
    if not isinstance(message, CallMessage) or not isinstance(origin, FromCanister):
        state.outbox.append(message)
    elif 0 < origin.deadline_ns <= state.time_ns and state.keeps_refunds:
        if message.cycles:
            state.outbox.append(RefundMessage(origin.canister_id, message.cycles))
    elif (reason := _refusal(world, message, origin.canister_id)) is not None:
        respond(world, origin, reason.of(message.callee), message.cycles)
    else:
        state.outbox.append(message)


def _refusal(world: World, message: CallMessage, caller: bytes) -> RejectReason | None:
    """Why a request cannot be let in."""
    state, callee = world.state, message.callee
    if callee in (state.subnet_id, MANAGEMENT_CANISTER.raw_bytes):
        return None
    canister = state.canisters.get(callee)
    if canister is None:
        host = None if world.route is None else world.route(callee)
        is_elsewhere = host not in (None, state.subnet_id)
        return RejectReason.CANISTER_MIGRATING if is_elsewhere else RejectReason.CANISTER_NOT_FOUND
    if canister.facts.status is not CanisterStatus.RUNNING:
        return _BY_STATUS[canister.facts.status]
    return RejectReason.QUEUE_FULL if _is_full(world, canister, caller) else None


def _is_full(world: World, canister: CanisterState, caller: bytes) -> bool:
    """Whether a canister has as many requests of one caller as it may, in its queue or on the way there."""
    capacity, outbox = world.config.queue_capacity, world.state.outbox
    if len(canister.inputs) + len(outbox) < capacity:
        return False
    coming = (one for one in outbox if isinstance(one, CallMessage) and one.callee == canister.canister_id)
    waiting = (one for one in (*canister.inputs, *coming) if isinstance(one, CallMessage))
    return sum(one.caller == caller and isinstance(one.origin, FromCanister) for one in waiting) >= capacity
