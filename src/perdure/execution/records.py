"""Records: the state of canisters and subnets as bytes, for whoever keeps it; memories, modules, chunks are elsewhere.

What is written, and how, is said by `perdure.execution.schema`. Canister record: everything of `CanisterState` but its
code and memories; chunks and snapshots by name only. A subnet's answers are kept one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import cbor2

from perdure.canister import CanisterFacts, CanisterModule, CanisterStatus
from perdure.errors import MalformedError
from perdure.execution.cycles import CostSchedule
from perdure.execution.ingress import Owner
from perdure.execution.messages import CallMessage, FromUser, Response, request_of
from perdure.execution.schema import CANISTER, FORMAT, OWNER, RESPONSE, SNAPSHOT, SUBNET
from perdure.execution.state import CanisterState, Snapshot, SnapshotContent, SubnetState
from perdure.record import Format, Plain, Written, load

__all__ = [
    "RECORDS",
    "CanisterRecord",
    "adopt",
    "check_references",
    "decode_record",
    "decode_response",
    "decode_snapshot",
    "decode_subnet",
    "encode_record",
    "encode_record_again",
    "encode_response",
    "encode_snapshot",
    "encode_subnet",
]

RECORDS: Final[Format] = FORMAT
"""For whoever keeps records, to rewrite older ones."""


class CanisterRecord(NamedTuple):
    """A canister read from its record: its code and memories are for the reader to find."""

    state: CanisterState
    module_hash: bytes | None
    chunk_hashes: tuple[bytes, ...]
    snapshot_ids: tuple[bytes, ...]


# -- canisters


def encode_record(canister: CanisterState) -> bytes:
    """Everything about a canister but its code, memories, chunks and snapshots, which it names."""
    return FORMAT.encode(CANISTER, canister)


def encode_record_again(canister: CanisterState, before: Written) -> tuple[bytes, Written]:
    """The same, where `before` is what it gave for that canister the last time (`NOT_WRITTEN`: nothing)."""
    return FORMAT.encode_again(CANISTER, canister, before)


def decode_record(data: bytes) -> CanisterRecord:
    """A canister without code, and what names its code, chunks and snapshots.

    Put those in, then add it to a subnet with `adopt`.

    Raises:
        MalformedError: no such record.
        UnsupportedError: it has a version that cannot be read.
    """
    found = FORMAT.decode(CANISTER, data)
    settings = found["settings"]
    facts = CanisterFacts(
        canister_id=found.pop("canister_id"),
        controllers=frozenset(settings.controllers),
        status=found.pop("status"),
        version=found.pop("canister_version"),
        environment_variables=dict(settings.environment_variables),
    )
    named = [found.pop(name) for name in CanisterRecord._fields[1:]]
    return CanisterRecord(CanisterState(facts, **found), *named)


def adopt(subnet: SubnetState, canister: CanisterState, costs: CostSchedule) -> None:
    """Add a canister that was decoded, its code and memories in place, to a subnet that was decoded."""
    canister.facts.subnet_id, canister.facts.root_key = subnet.subnet_id, subnet.root_key
    canister.refresh(costs)
    canister_id = canister.canister_id
    subnet.canisters[canister_id] = canister
    subnet.note_place(canister_id, exists=True)
    if canister.inputs:
        subnet.ready[canister_id] = None
    if canister.facts.status is CanisterStatus.STOPPING:
        subnet.stopping.add(canister_id)
    for call_id, call in canister.open_calls.items():
        if call.deadline_ns:
            subnet.deadlines[canister_id, call_id] = call.deadline_ns


def check_references(subnet: SubnetState) -> None:
    """Raise where what canisters and subnet say of each other is not so, once all are adopted.

    Who waits for what is not there any more may be named: callers are deleted, and bounded waits end.

    Raises:
        MalformedError: with what it is.
    """
    canisters = subnet.canisters
    strangers = subnet.task_canisters - canisters.keys()
    if strangers:
        raise MalformedError(f"tasks of {min(strangers).hex()}, a canister that is not there")
    for request_id, callee in subnet.ingress.callees.items():
        if callee and callee not in canisters and not _is_sent(subnet, request_id):
            raise MalformedError(f"request {request_id.hex()} to {callee.hex()}, a canister that is not there")
    for canister_id, canister in canisters.items():
        if canister.charged_until_ns > subnet.time_ns:
            raise MalformedError(f"canister {canister_id.hex()} has paid for a time that is still to come")
        for context in canister.contexts.values():
            if isinstance(context.origin, FromUser) and context.needs_to_respond:
                known = subnet.ingress.callees.get(context.origin.request_id)
                if known != canister_id:
                    raise MalformedError(f"canister {canister_id.hex()} owes an answer to a request that is not there")


def _is_sent(subnet: SubnetState, request_id: bytes) -> bool:
    """Whether a request is on its way, and will be refused where it goes."""
    return any(isinstance(message, CallMessage) and request_of(message) == request_id for message in subnet.outbox)


# -- snapshots, subnets and answers


def encode_snapshot(snapshot: Snapshot) -> bytes:
    """Everything about a snapshot but its memories."""
    return FORMAT.encode(SNAPSHOT, snapshot)


def decode_snapshot(data: bytes, content: SnapshotContent, module: CanisterModule | None = None) -> Snapshot:
    """A snapshot whose memories are `content`.

    Raises:
        MalformedError: no such record.
        UnsupportedError: it has a version that cannot be read.
    """
    return Snapshot(**FORMAT.decode(SNAPSHOT, data), content=content, module=module)


def encode_subnet(subnet: SubnetState) -> bytes:
    """Everything about a subnet but its canisters, answers, limits and prices."""
    return FORMAT.encode(SUBNET, subnet)


def decode_subnet(data: bytes) -> SubnetState:
    """A subnet without canisters and answers; `adopt` adds the former.

    Raises:
        MalformedError: no such record.
        UnsupportedError: it has a version that cannot be read.
    """
    found = FORMAT.decode(SUBNET, data)
    callees, owners = found.pop("ingress.callees"), found.pop("ingress.owners")
    subnet = SubnetState(**found)
    subnet.ingress.callees, subnet.ingress.owners = callees, owners
    return subnet


_encode_response: Final[Callable[[Response], Plain]] = RESPONSE.encode or (lambda response: response)


def encode_response(response: Response, owner: Owner | None = None) -> bytes:
    """An answer, and whose it is where that is known."""
    plain = _encode_response(response)
    return cbor2.dumps(plain if owner is None else [*plain, *owner])


def decode_response(data: bytes) -> tuple[Response, Owner | None]:
    """The inverse of `encode_response`.

    Raises:
        MalformedError: no answer.
    """
    found = load(data, "answer")
    if not isinstance(found, list) or len(found) not in {2, 4}:
        raise MalformedError(f"answer is {str(found)[:40]!r}, expected its kind and its parts, maybe an owner")
    response: Response = RESPONSE.decode(found[:2], "answer")
    owner = OWNER.decode(found[2:], "owner of an answer") if len(found) == 4 else None
    return response, owner
