"""What comes to a subnet from outside, as history keeps it: enough to do all of it again.

A commit's record has the inputs since the commit before; `perdure.subnet.replay` does them again. What follows from
them (calls between canisters, timers, heartbeats) is not noted, as it follows again.

| kind | fields | |
|---|---|---|
| ``open`` | config, seed, first canister's index, what is kept | a process has opened the state; what ran is gone |
| ``call`` | message, time | a user's message, executed at once with that time |
| ``submit`` | message, effective id, expiry | a user's message that rounds will execute |
| ``costs`` | fees | the schedule, where it is another one than the network's |
| ``routes`` | ranges, subnets, canisters out of them | of the other subnets of a network, where calls go |
| ``slices`` | by the id of the sender: a slice | what was taken in of other subnets' streams |
| ``rounds`` | count | rounds, all but the last without a commit; the clock is that of the last |
| ``hook`` | canister | its low-memory hook, made due by a call |
| ``advance`` | duration in ns | |
| ``outcall`` | number, answers, whether headers vary, method and URL | what a server sent, or why nothing |
| ``reject`` | words | the management canister's next call is rejected, which this machine cannot execute |
| ``create`` | id or none, controllers, cycles | |
| ``install`` | as ``create``, SHA-256 of the module, argument | a new canister with code |
| ``code`` | canister, mode, skip pre-upgrade, persistence, SHA-256 of the module, argument | |
| ``record`` | | only the record itself has it: memories written from outside, uploaded files |
"""

from __future__ import annotations

from typing import NamedTuple

import cbor2

from perdure.errors import MalformedError
from perdure.execution.messages import CallMessage, FromUser
from perdure.record import Plain, load

__all__ = ["Clock", "Input", "decode_inputs", "encode_inputs", "message_fields", "message_of"]


class Clock(NamedTuple):
    """Where a subnet stands; an input begins by putting it there."""

    time_ns: int
    round_number: int
    next_request_number: int


class Input(NamedTuple):
    """One of them, of plain values."""

    kind: str
    clock: Clock
    fields: tuple[Plain, ...]


def encode_inputs(inputs: list[Input]) -> bytes:
    """Inputs as CBOR; nothing for none."""
    return cbor2.dumps(inputs) if inputs else b""


def decode_inputs(data: bytes) -> list[Input]:
    """The inverse of `encode_inputs`.

    Raises:
        MalformedError: it is not what that has made.
    """
    if not data:
        return []
    try:
        return [Input(kind, Clock(*clock), tuple(fields)) for kind, clock, fields in load(data, "inputs of a commit")]
    except (TypeError, ValueError) as error:
        raise MalformedError(f"inputs of a commit: {error}") from error


def message_fields(message: CallMessage) -> list[Plain]:
    """A user's message as plain values."""
    return [
        message.origin[0],
        message.caller,
        message.callee,
        message.method_name,
        message.arg,
        message.cycles,
        message.caller_info_data,
        message.caller_info_signer,
    ]


def message_of(fields: list[Plain]) -> CallMessage:
    """The inverse of `message_fields`."""
    return CallMessage(FromUser(fields[0]), *fields[1:])
