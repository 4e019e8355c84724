"""Calls of the management canister on a canister's behalf, as its controller makes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from perdure.candid.service import ServiceType, load
from perdure.candid.types import Value
from perdure.canister import CanisterStatus, Reject, Reply
from perdure.errors import RejectError
from perdure.execution.journal import Ticket
from perdure.execution.management import management_query
from perdure.execution.management.interface import INTERFACE, codecs
from perdure.execution.management.snapshots import summary
from perdure.execution.messages import Response
from perdure.execution.scheduler import execute_ingress
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER, Principal
from perdure.raised import take_raised

__all__ = [
    "Status",
    "as_error",
    "controller_of",
    "manage",
    "management_service",
    "snapshot_records",
    "status_of",
    "status_record",
]

MAX_ROUNDS = 1_000


def as_error(response: object) -> RejectError:
    """The error for a response that is no reply; `None` is one too."""
    if isinstance(response, Reject):
        error = RejectError(response.code, response.error_code, response.message, response.backtrace)
        error.__cause__ = take_raised(response.backtrace)
        return error
    return RejectError(6, "", "the call was taken and is not answered: nothing is left to run but timers and deadlines")


def controller_of(canister: CanisterState) -> bytes:
    """The first of a canister's controllers, by bytes; the anonymous principal where it has none."""
    return min(canister.facts.controllers, default=ANONYMOUS.raw_bytes)


def management_service() -> ServiceType:
    """The interface of the management canister, of the methods that are handled here."""
    return load(INTERFACE)


def manage(
    world: World, canister: CanisterState, method: str, *, ticket: Ticket | None = None, **fields: object
) -> Value:
    """Call a method that takes a record with a canister's id, and run rounds until it has answered.

    Args:
        world: the canister's.
        canister: is named in the argument; its controller makes the call.
        method: of the management canister.
        ticket: follows the call.
        fields: of the argument, beside ``canister_id``; those left out are null.

    Returns:
        The result, `None` where there is none.

    Raises:
        RejectError: the call was refused, or is not answered.
    """
    takes, gives = codecs()[method]
    arg = takes.encode([{"canister_id": Principal(canister.canister_id), **fields}])
    sender, callee = controller_of(canister), MANAGEMENT_CANISTER.raw_bytes
    return _result(execute_ingress(world, callee, method, arg, sender, 0, MAX_ROUNDS, ticket=ticket), gives)


def status_record(world: World, canister: CanisterState) -> dict[str, Value]:
    """What ``canister_status`` tells a controller, as a query: nothing changes."""
    takes, gives = codecs()["canister_status"]
    arg = takes.encode([{"canister_id": Principal(canister.canister_id)}])
    record: dict[str, Value] = _result(management_query(world, controller_of(canister), "canister_status", arg), gives)
    return record


def snapshot_records(canister: CanisterState) -> list[dict[str, Value]]:
    """What ``list_canister_snapshots`` tells, which is no query: nothing changes, and no call is in the history."""
    return [summary(snapshot) for snapshot in [*canister.snapshots.values()]]


def _result(response: Response | None, gives: Value) -> Value:
    if not isinstance(response, Reply):
        raise as_error(response)
    values = gives.decode(response.data)
    return values[0] if values else None


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


def status_of(state: CanisterState) -> Status:
    """Facts as ``canister_status`` gives them."""
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
