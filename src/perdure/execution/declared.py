"""The extension ``schema``: an upgrade is refused to a module that declares other stable memory than there is.

Beyond the network's rules, and asked for by name. Modules declare by a custom section, see `values.schema`. What was
not declared before may be declared as anything; what was declared has to be declared on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure.canister import CanisterModule, Reject
from perdure.errors import MalformedError
from perdure.execution.rejects import canister_error
from perdure.execution.state import CanisterState
from perdure.ic.reject import ErrorCode

if TYPE_CHECKING:
    from perdure.values.schema import Schema

__all__ = ["SCHEMA", "refuse_declared"]

SCHEMA: Final = "schema"
"""The extension's name."""


def refuse_declared(canister: CanisterState, module: CanisterModule, *, is_upgrade: bool) -> Reject | None:
    """Why a canister does not get a module, as what it declares tells; nothing is written before.

    Args:
        canister: as it stands.
        module: that it is to get.
        is_upgrade: whether it keeps its stable memory.
    """
    if module.name:
        return None  # what Python declares is compared where its variables are
    from perdure.values.guard import refused  # formats of values, which few subnets ask for
    from perdure.values.schema import SCHEMA_SECTION, embedded_schema

    try:
        new = embedded_schema(module.custom_sections)
    except MalformedError as error:
        return _refused(canister, str(error))
    old = _before(canister.module) if is_upgrade else None
    if old is None:
        return None
    if new is None:
        names = ", ".join(f"{label} {one.name or ''}".strip() for label, one in list(old.memories.items())[:5])
        return _refused(
            canister,
            f"the old module declares its stable memory ({names}), the new one has no section {SCHEMA_SECTION}",
        )
    reasons = [why for _, why in refused(old, new)]
    return _refused(canister, "; ".join(reasons[:5])) if reasons else None


def _before(module: CanisterModule | None) -> Schema | None:
    """What the old module declares; nothing where that cannot be read: it came before the extension was asked for."""
    from perdure.values.schema import embedded_schema

    try:
        return None if module is None else embedded_schema(module.custom_sections)
    except MalformedError:
        return None


def _refused(canister: CanisterState, why: str) -> Reject:
    return canister_error(
        canister.canister_id,
        ErrorCode.CANISTER_CONTRACT_VIOLATION,
        f"The extension `{SCHEMA}` refuses the module: {why}",
        "Nothing was changed. Keep what is declared, or migrate the entries to another memory: `perdure upgrade-check` "
        "says more.",
    )
