"""A call of the management canister, who may make it, and what a row of the table has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum, unique
from typing import NamedTuple, final

from perdure.candid.types import Value
from perdure.canister import Reject
from perdure.execution.messages import CallMessage, FromCanister
from perdure.execution.rejects import rejected
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode

__all__ = ["Call", "ManagementMethod", "Values", "Who", "not_controller"]

Values = Sequence[Value]


@unique
class Who(Enum):
    """Who may call a method of the management canister."""

    ANYBODY = "anybody"
    CANISTERS = "canisters"
    ADMINISTRATORS = "administrators of the subnet"
    CONTROLLERS = "controllers of the canister"
    SELF_OR_CONTROLLERS = "the canister itself and its controllers"
    STATUS_VIEWERS = "the canister itself and whom its status visibility lets see"
    SNAPSHOT_VIEWERS = "whom the snapshot visibility lets see"
    LOG_VIEWERS = "whom the log visibility lets see"


@final
class Call(NamedTuple):
    """One call of a method, its argument decoded. `canister` is the one that the argument names, if it does."""

    world: World
    message: CallMessage
    arg: dict[str, Value]
    canister: CanisterState

    @property
    def origin(self) -> tuple[bytes, int | None]:
        """Who asks, for the canister's history."""
        if not isinstance(self.message.origin, FromCanister):
            return self.message.caller, None
        version = self.arg.get("sender_canister_version")
        return self.message.caller, -1 if version is None else version


@final
class ManagementMethod(NamedTuple):
    """A row of the table."""

    who: Who
    handler: Callable[[Call], Values | Reject | None]
    ingress: bool = True
    query: bool = False
    """Also as a query, and then not as anything else if `update` is false."""
    update: bool = True
    target: str = "canister_id"
    """The field of the argument that names the canister; empty: none does."""


def not_controller(canister: CanisterState, method_name: str) -> Reject:
    """What somebody who does not control the canister is told."""
    name = Principal(canister.canister_id)
    return rejected(
        ErrorCode.CANISTER_INVALID_CONTROLLER,
        f"Only controllers of canister {name} can call ic00 method {method_name}",
    )
