"""Calls of the management canister on a canister's behalf, as its controller makes them."""

from __future__ import annotations

from typing import Any

from perdure.candid.service import ServiceType, load
from perdure.canister import Reject, Reply
from perdure.errors import RejectError
from perdure.execution.journal import Ticket
from perdure.execution.management import management_query
from perdure.execution.management.interface import INTERFACE, codecs
from perdure.execution.messages import Response
from perdure.execution.scheduler import execute_ingress
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER, Principal

__all__ = ["as_error", "controller_of", "manage", "management_service", "status_record"]

MAX_ROUNDS = 1_000


def as_error(response: object) -> RejectError:
    """The error for a response that is no reply; `None` is one too."""
    if isinstance(response, Reject):
        return RejectError(response.code, response.error_code, response.message, response.backtrace)
    return RejectError(6, "", "the call was taken and is not answered: nothing is left to run but timers and deadlines")


def controller_of(canister: CanisterState) -> bytes:
    """The first of a canister's controllers, by bytes; the anonymous principal where it has none."""
    return min(canister.facts.controllers, default=ANONYMOUS.raw_bytes)


def management_service() -> ServiceType:
    """The interface of the management canister, of the methods that are handled here."""
    return load(INTERFACE)


def manage(world: World, canister: CanisterState, method: str, *, ticket: Ticket | None = None, **fields: Any) -> Any:
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


def status_record(world: World, canister: CanisterState) -> dict[str, Any]:
    """What ``canister_status`` tells a controller, as a query: nothing changes."""
    takes, gives = codecs()["canister_status"]
    arg = takes.encode([{"canister_id": Principal(canister.canister_id)}])
    record: dict[str, Any] = _result(management_query(world, controller_of(canister), "canister_status", arg), gives)
    return record


def _result(response: Response | None, gives: Any) -> Any:
    if not isinstance(response, Reply):
        raise as_error(response)
    values = gives.decode(response.data)
    return values[0] if values else None
