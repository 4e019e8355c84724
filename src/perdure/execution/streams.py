"""Streams: what one subnet sends to another, in an order that both know, taken in exactly once.

```
 sender     begin ──────────────── begin + len(messages)        what was sent and is not known to have been taken in
 receiver              inducted                                  the number of the next message that it has not
```

A sender keeps a message until the receiver's number has passed it. What comes again is left out by its number, what
comes too early is not taken, so that slices may be lost, doubled and late. Cycles leave a subnet as a message gets into
its stream, and come in as it is taken out: see `SubnetState.sent_cycles`.

Spec: none; the network's protocol is of the same form ("XNet").
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, NamedTuple, final

from perdure.execution.events import Taken
from perdure.execution.messages import CallMessage, Message, payload_bytes
from perdure.execution.state import NO_STREAM, SubnetState, XNetStream
from perdure.execution.world import World

__all__ = ["Slice", "has_new", "send", "slice_for", "take_in"]

MAX_SLICE_BYTES: Final = 4 << 20
"""Of messages that a round takes in of one subnet; one may always come."""
_MESSAGE_BYTES: Final = 256
"""What a message takes beside its payload, roughly."""


@final
class Slice(NamedTuple):
    """Messages of a stream, from one on, and how far the sender has got with the stream that comes back."""

    first: int
    messages: tuple[Message, ...]
    inducted: int


def _cycles(message: Message) -> int:
    return message.cycles if isinstance(message, CallMessage) else message.refund


def send(state: SubnetState, leaving: Iterable[tuple[bytes, Message]]) -> None:
    """Add messages to the streams for other subnets, in a transaction that the caller finishes."""
    added: dict[bytes, list[Message]] = {}
    for subnet_id, message in leaving:
        added.setdefault(subnet_id, []).append(message)
        state.sent_cycles += _cycles(message)
    streams = dict(state.xnet_streams)
    for subnet_id, messages in added.items():
        stream = streams.get(subnet_id, NO_STREAM)
        streams[subnet_id] = stream._replace(messages=(*stream.messages, *messages))
    state.xnet_streams = streams


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
    for subnet_id, found in slices:
        stream = streams.get(subnet_id, NO_STREAM)
        new = found.messages[stream.inducted - found.first :] if found.first <= stream.inducted else ()
        done = max(0, min(found.inducted - stream.begin, len(stream.messages)))
        if new or done:
            kept = stream.messages[done:] if done else stream.messages
            streams[subnet_id] = XNetStream(stream.begin + done, kept, stream.inducted + len(new))
            arrived += new
    if streams != state.xnet_streams:
        world.begin()
        taken = world.take(Taken("slices", b""))
        for message in arrived:
            state.received_cycles += _cycles(message)
            state.outbox.append(replace(message))  # another subnet of this process may still have this one
        state.xnet_streams = streams
        world.finish(taken)
    return len(arrived)
