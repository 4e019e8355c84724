"""`perdure canister`: the verbs and flags of `icp canister`, over the project's own state directory.

Importing this costs click and nothing else: what a command needs is imported when it runs. What dfx has under other
names is taken too.
"""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli.canister.state import selection
from perdure.cli.lazy import LazyGroup

__all__ = ["canister"]


_PLACES = {
    "create": "code:create",
    "install": "code:install",
    "call": "call:call",
    "list": "facts:list_",
    "status": "facts:status",
    "id": "facts:id_",
    "info": "facts:info",
    "metadata": "facts:metadata",
    "logs": "facts:logs",
    "settings": "settings:settings",
    "update-settings": "settings:update_alias",
    "start": "code:start",
    "stop": "code:stop",
    "uninstall-code": "code:uninstall_code",
    "delete": "code:delete",
    "top-up": "settings:top_up",
    "deposit-cycles": "settings:deposit_cycles",
    "snapshot": "snapshot:snapshot",
    "advance": "clock:advance",
    "reject-management-call": "call:reject_management_call",
    "ls": "facts:list_",
}


@click.group(cls=LazyGroup, places={name: f"perdure.cli.canister.{place}" for name, place in _PLACES.items()})
@selection
def canister(state_path: Path | None, environment: str | None, network: str | None, ic: bool) -> None:
    """Create, install, call, inspect and control canisters that outlive the process.

    They live in the project's .perdure directory, or in the one that --state names. CANISTER is a name or an id.

    \b
    Example:
        perdure canister install ledger --wasm ledger.wasm --args '(record { symbol = "TST" })'
        perdure canister call ledger balance '(principal "2vxsx-fae")'
    """  # noqa: D301 - click wants the backspace itself
