"""`perdure canister snapshot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.canister.facts import show_time
from perdure.cli.canister.state import State, canister_argument, common, say
from perdure.cli.canister.state import as_json as json_of
from perdure.cli.lazy import Group
from perdure.cli.paths import LocalPath
from perdure.units import show_bytes

if TYPE_CHECKING:
    from perdure.subnet import Canister

__all__ = ["snapshot"]


@click.group(cls=Group)
def snapshot() -> None:
    """Take, list, restore, delete and exchange snapshots."""


@snapshot.command()
@canister_argument
@click.option("--replace", metavar="ID", help="The snapshot whose place it takes.")
@common
def create(state: State, canister: str, replace: str | None, as_json: bool, quiet: bool) -> None:
    """Keep a copy of CANISTER's code and memory.

    \b
    Example:
        perdure canister snapshot create ledger
    """  # noqa: D301
    with state.open() as subnet:
        taken = state.find(subnet, canister).take_snapshot(replace=_id(replace))
    say(as_json, False, {"snapshot_id": taken.hex()}, taken.hex())


def _id(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError as error:
        raise click.UsageError(f"snapshot id {text!r} is not hexadecimal") from error


@snapshot.command("list")
@canister_argument
@common
def list_(state: State, canister: str, as_json: bool, quiet: bool) -> None:
    """List the snapshots of CANISTER.

    \b
    Example:
        perdure canister snapshot list ledger
    """  # noqa: D301
    with state.look() as subnet:
        found = json_of(state.find(subnet, canister).snapshots())
    lines = [f"{one['id']}  {show_bytes(one['total_size'])}  {show_time(one['taken_at_timestamp'])}" for one in found]
    if as_json or lines:
        say(as_json, False, found, "\n".join(lines))


def _verb(name: str, done: str, act: Callable[[Canister, bytes], None], description: str) -> None:
    def command(state: State, canister: str, snapshot_id: str, as_json: bool, quiet: bool) -> None:
        with state.open() as subnet:
            act(state.find(subnet, canister), _id(snapshot_id) or b"")
        say(as_json, quiet, {"snapshot_id": snapshot_id, "done": done}, f"{done} {snapshot_id}")

    command.__doc__ = f"{description}\n\n\b\nExample:\n    perdure canister snapshot {name} ledger 0000...01\n"
    made = canister_argument(click.argument("snapshot_id", metavar="SNAPSHOT_ID")(common(command)))
    snapshot.command(name)(made)


_verb("restore", "restored", lambda target, one: target.load_snapshot(one), "Go back to a snapshot.")
_verb("load", "restored", lambda target, one: target.load_snapshot(one), "Go back to a snapshot, as dfx says it.")
_verb("delete", "deleted", lambda target, one: target.delete_snapshot(one), "Forget a snapshot.")


@snapshot.command()
@canister_argument
@click.argument("snapshot_id", required=False)
@click.option(
    "-o", "--output", "--dir", "output", type=LocalPath(path_type=Path), required=True, help="A directory, to be made."
)
@click.option("--resume", is_flag=True, help="Succeed where the directory is there, whole.")
@common
def download(
    state: State, canister: str, snapshot_id: str | None, output: Path, resume: bool, as_json: bool, quiet: bool
) -> None:
    """Write CANISTER as it stands, or one of its snapshots, to a directory that `icp canister snapshot upload` takes.

    The directory is there whole or not at all, so that there is nothing to resume.

    \b
    Example:
        perdure canister snapshot download ledger -o ./ledger-snapshot
    """  # noqa: D301
    with state.open() as subnet:
        target = state.find(subnet, canister)
        if resume and output.exists():
            from perdure.storage import Snapshot

            Snapshot.open(output).close()
        else:
            try:
                target.write_snapshot(output, snapshot_id=_id(snapshot_id))
            except KeyError as error:
                raise click.UsageError(str(error.args[0])) from error
    say(as_json, quiet, {"path": str(output)}, f"wrote {output}")


@snapshot.command()
@canister_argument
@click.option(
    "-i",
    "--input",
    "--dir",
    "directory",
    required=True,
    type=LocalPath(exists=True, file_okay=False, path_type=Path),
    help="The directory.",
)
@click.option("--replace", metavar="ID", help="The snapshot whose place it takes.")
@click.option("--resume", is_flag=True, help="Taken as icp has it; an upload is done at once here.")
@common
def upload(
    state: State, canister: str, directory: Path, replace: str | None, resume: bool, as_json: bool, quiet: bool
) -> None:
    """Make a downloaded directory a snapshot of CANISTER, for restore.

    \b
    Example:
        perdure canister snapshot upload ledger -i ./ledger-snapshot
    """  # noqa: D301
    with state.open() as subnet:
        taken = state.find(subnet, canister).upload_snapshot(directory, replace=_id(replace))
    say(as_json, False, {"snapshot_id": taken.hex()}, taken.hex())
