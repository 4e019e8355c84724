"""`perdure canister`: the verbs and flags of `icp canister`, over the project's own state directory.

Importing this costs click and nothing else: what a command needs is imported when it runs. What dfx has under other
names is taken too.
"""

from __future__ import annotations

from pathlib import Path

import click

from perdure.cli.canister.call import call, reject_management_call
from perdure.cli.canister.clock import advance
from perdure.cli.canister.code import create, delete, install, start, stop, uninstall_code
from perdure.cli.canister.facts import id_, info, list_, logs, metadata, status
from perdure.cli.canister.settings import deposit_cycles, settings, top_up, update, update_alias
from perdure.cli.canister.snapshot import snapshot
from perdure.cli.canister.state import selection

__all__ = ["canister"]


@click.group()
@selection
def canister(state_path: Path | None, environment: str | None, network: str | None, ic: bool) -> None:
    """Create, install, call, inspect and control canisters that outlive the process.

    They live in the project's .perdure directory, or in the one that --state names. CANISTER is a name or an id.

    \b
    Example:
        perdure canister install ledger --wasm ledger.wasm --args '(record { symbol = "TST" })'
        perdure canister call ledger balance '(principal "2vxsx-fae")'
    """  # noqa: D301 - click wants the backspace itself


settings.add_command(update)
for _command in (
    *(create, install, call, list_, status, id_, info, metadata, logs, settings, update_alias, start, stop),
    *(uninstall_code, delete, top_up, deposit_cycles, snapshot, advance, reject_management_call),
):
    canister.add_command(_command)
canister.add_command(list_, "ls")
