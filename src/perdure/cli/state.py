"""`perdure state`: check a state directory, read its history, name the message that wrote a byte."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from perdure.cli.archives import archive, archives, prune, restore
from perdure.cli.completing import complete_source
from perdure.cli.console import table
from perdure.cli.lazy import Group
from perdure.cli.paths import LocalPath
from perdure.cli.progress import waiting
from perdure.units import counted

if TYPE_CHECKING:
    from perdure.storage import Version
    from perdure.subnet.replay import Replayed

__all__ = ["state"]

_DIRECTORY = click.argument("directory", type=LocalPath(exists=True, file_okay=False, path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")

_KEEPS_NONE = "{0} keeps no messages; `perdure state history {0} --keep all` has it keep those to come"


@click.group(cls=Group)
def state() -> None:
    """Verify a state directory and read its history.

    \b
    Example:
        perdure state history .perdure
    """  # noqa: D301 - click wants the backspace itself


@state.command()
@_DIRECTORY
@_JSON
@_QUIET
def verify(directory: Path, as_json: bool, quiet: bool) -> None:
    """Compare every page with its hash, and every module with its name. Exit code 1 where something is damaged.

    \b
    Example:
        perdure state verify .perdure
    """  # noqa: D301
    from perdure.storage import StateDirectory
    from perdure.subnet.durable import canister_ids, undecodable

    with StateDirectory.open(directory, read_only=True) as opened, waiting("comparing pages with their hashes", quiet):
        problems = [*opened.verify(), *undecodable(opened)]
        many = len(canister_ids(opened))
        facts = {
            "version": opened.version,
            "canisters": many,
            "state_hash": opened.state_hash().hex(),
            "problems": problems,
        }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        click.echo(f"version {facts['version']}, {counted(many, 'canister')}, state hash {facts['state_hash']}")
    if not as_json:
        for problem in problems:
            click.echo(problem, err=True)
    if problems:
        raise SystemExit(1)


@state.command()
@_DIRECTORY
@click.option("-n", "--limit", type=click.IntRange(1), default=50, show_default=True, help="The newest so many.")
@click.option("--keep", metavar="N|all", help="Keep so many messages from now on; what is too much goes.")
@_JSON
@_QUIET
def history(directory: Path, limit: int, keep: str | None, as_json: bool, quiet: bool) -> None:
    """List messages, newest first, with what each changed; or say how many a directory keeps.

    The log keeps what happened since the last checkpoint; more is there if the directory keeps a history. How long that
    is belongs to the directory, whoever opens it.

    \b
    Example:
        perdure state history .perdure --limit 10
        perdure state history .perdure --keep all
    """  # noqa: D301
    from perdure.storage import StateDirectory

    if keep is not None:
        _keep(directory, keep, as_json=as_json, quiet=quiet)
        return
    with StateDirectory.open(directory, read_only=True) as opened:
        rows = [_row(version) for version in opened.history(limit)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif not quiet and rows:
        _print_history(rows)
    elif not quiet:
        click.echo(_KEEPS_NONE.format(directory))


def _keep(directory: Path, keep: str, *, as_json: bool, quiet: bool) -> None:
    from perdure.storage import StateDirectory

    if keep != "all" and not keep.isdecimal():
        raise click.UsageError(f"--keep {keep}: expected a number of messages, or all")
    with StateDirectory.open(directory) as opened:
        opened.keep_history(None if keep == "all" else int(keep))
        kept = len(opened.history())
    if as_json:
        click.echo(json.dumps({"keep": keep if keep == "all" else int(keep), "kept": kept}, indent=2))
    elif not quiet:
        click.echo(f"{directory} keeps {keep} messages from now on, {kept} are there")


def _row(version: Version) -> dict[str, Any]:
    message = version.message
    changed = {f"{_name(key)} {kind}": pages for (key, kind), pages in version.changed_pages().items()}
    return {
        "version": version.version,
        "kind": message.kind,
        "canister": _name(message.canister),
        "method": message.method,
        "caller": _name(message.caller),
        "argument_hash": message.argument_hash.hex(),
        "request_id": message.message_id.hex(),
        "time_ns": message.time_ns,
        "instructions": message.instructions,
        "changed_pages": changed,
    }


def _name(raw: bytes) -> str:
    from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal

    return (
        str(Principal(raw))
        if len(raw) <= MAX_PRINCIPAL_BYTES and not raw.startswith((b"snapshot ", b"handed "))
        else raw.hex()
    )


def _print_history(rows: list[dict[str, Any]]) -> None:
    cells = [
        (
            str(row["version"]),
            row["kind"],
            row["canister"],
            row["method"],
            f"{row['instructions']:,}",
            f"{sum(row['changed_pages'].values()):,}",
        )
        for row in rows
    ]
    headings = ("version", "kind", "canister", "method", "instructions", "pages")
    table(headings, cells, right=("version", "instructions", "pages"), whole=("kind", "canister"))


@state.command()
@click.argument("source", metavar="DIR:CANISTER", shell_complete=complete_source)
@click.option("--stable", "stable_offset", type=str, help="Offset in stable memory, decimal or 0x...")
@click.option("--heap", "heap_offset", type=str, help="Offset in the heap.")
@click.option("--address", type=str, help="Offset in the memory that DIR:CANISTER#MEMORY names.")
@_JSON
@_QUIET
def blame(
    source: str, stable_offset: str | None, heap_offset: str | None, address: str | None, as_json: bool, quiet: bool
) -> None:
    """Name the message that last wrote a byte. Exit code 1 where it is older than what is kept.

    \b
    Example:
        perdure state blame .perdure:ledger --stable 0x10000
        perdure state blame .perdure:ledger#users --address 4096
    """  # noqa: D301
    from perdure.inspection.state import memory_of
    from perdure.storage import StateDirectory

    directory, separator, canister = source.rpartition(":")
    given = [(kind, one) for kind, one in (("stable", stable_offset), ("heap", heap_offset), ("", address)) if one]
    if not separator or len(given) != 1:
        raise click.UsageError("expected DIR:CANISTER and one of --stable, --heap and --address")
    ((kind, offset),) = given
    try:
        at = int(offset, 0)
    except ValueError as error:
        raise click.UsageError(f"{offset!r} is no offset, expected a number such as 4096 or 0x1000") from error
    canister_id, memory = memory_of(Path(directory), canister)
    if kind and memory not in {"stable", kind}:
        raise click.UsageError(f"--{kind} is an offset in another memory than {memory!r:.80}, expected --address")
    with StateDirectory.open(directory, read_only=True) as opened:
        try:
            found = opened.blame(canister_id.raw_bytes, kind or memory, at)
            is_kept = found is not None or bool(opened.history(1))
        except (KeyError, IndexError) as error:
            raise click.UsageError(str(error.args[0])) from error
    row = None if found is None else _row(found)
    if as_json:
        click.echo(json.dumps(row, indent=2))
    elif row is None:
        words = "no message that is kept wrote this byte"
        click.echo(words if is_kept else _KEEPS_NONE.format(directory), err=True)
    elif not quiet:
        click.echo(f"version {row['version']}: {row['kind']} {row['method']} on {row['canister']} by {row['caller']}")
    if row is None:
        raise SystemExit(1)


@state.command()
@_DIRECTORY
@click.option("--from", "start", type=click.IntRange(0), metavar="VERSION", help="Begin after this version.")
@_JSON
@_QUIET
def replay(directory: Path, start: int | None, as_json: bool, quiet: bool) -> None:
    """Do the kept history again and compare the state after each message. Exit code 1 where one is another.

    What came from outside is taken from the history, which the state must have been opened with; what follows from it
    is done again, in temporary files. The directory is only read.

    \b
    Example:
        perdure state replay .perdure
    """  # noqa: D301
    from perdure.subnet.replay import replay

    with waiting("doing the history again", quiet):
        result = replay(directory, start=start)
    difference = result.difference
    if as_json:
        click.echo(json.dumps(_replayed(result), indent=2))
    elif difference is None:
        if not quiet:
            click.echo(f"versions {result.start + 1} to {result.end} are the same again")
    else:
        message = difference.message
        words = f"{message.kind} {message.method}".rstrip()
        found = "makes no commit" if difference.found is None else f"gives state hash {difference.found.hex()}"
        click.echo(
            f"version {difference.version} differs: {words} on {_name(message.canister)} {found}, "
            f"the history has {difference.expected.hex()}",
            err=True,
        )
    if difference is not None:
        raise SystemExit(1)


def _replayed(result: Replayed) -> dict[str, Any]:
    facts: dict[str, Any] = {"start": result.start, "end": result.end, "difference": None}
    if result.difference is not None:
        version, message, expected, found = result.difference
        facts["difference"] = {
            "version": version,
            "kind": message.kind,
            "canister": _name(message.canister),
            "method": message.method,
            "expected": expected.hex(),
            "found": None if found is None else found.hex(),
        }
    return facts


_COPY = click.option("-o", "--output", "target", required=True, type=LocalPath(path_type=Path), help="Where to.")


@state.command()
@_DIRECTORY
@_COPY
@_JSON
@_QUIET
def backup(directory: Path, target: Path, as_json: bool, quiet: bool) -> None:
    """Copy a state directory as of its last whole commit, also while it is in use.

    All subnets of a network's directory are copied together, as of one time. A copy is a directory as any other: it is
    put back by copying it to where the other one was.

    \b
    Example:
        perdure state backup .perdure -o backup
    """  # noqa: D301
    from perdure.storage import backup
    from perdure.storage.topology import TOPOLOGY

    facts: dict[str, object] = {"target": str(target)}
    if (directory / TOPOLOGY).is_file():
        from perdure.network import backup_network

        facts["subnets"] = versions = backup_network(directory, target)
        told = ", ".join(f"{name} at version {version}" for name, version in versions.items())
    else:
        facts["version"] = version = backup(directory, target)
        told = f"version {version}"
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        click.echo(f"{target} has {told}")


@state.command()
@_DIRECTORY
@_COPY
@_JSON
@_QUIET
def salvage(directory: Path, target: Path, as_json: bool, quiet: bool) -> None:
    """Copy what can be read of a damaged state directory, and say what is lost. Exit code 1 where something is.

    \b
    Example:
        perdure state salvage .perdure -o salvaged
    """  # noqa: D301
    from perdure.storage import salvage

    found = salvage(directory, target)
    if as_json:
        facts = {"target": str(target), "version": found.version, "canisters": found.canisters, "lost": found.lost}
        click.echo(json.dumps(facts, indent=2))
    else:
        if not quiet:
            click.echo(f"{target} has {counted(found.canisters, 'canister')} as of version {found.version}")
        for what in found.lost:
            click.echo(f"lost: {what}", err=True)
    if found.lost:
        raise SystemExit(1)


@state.command()
@_DIRECTORY
@_JSON
@_QUIET
def du(directory: Path, as_json: bool, quiet: bool) -> None:
    """Say what takes how much of the disk.

    \b
    Example:
        perdure state du .perdure
    """  # noqa: D301
    from perdure.storage import StateDirectory, usage

    with StateDirectory.open(directory, read_only=True) as opened:
        found = usage(opened)
    memories = {f"{_name(key)} {name}": size_bytes for (key, name), size_bytes in found.memories.items()}
    if as_json:
        facts = {"memories": memories, "others": found.others, "total_bytes": found.total_bytes}
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        for name, size_bytes in (*memories.items(), *found.others.items(), ("total", found.total_bytes)):
            click.echo(f"{size_bytes:>15,}  {name}")


@state.command()
@_DIRECTORY
@_QUIET
def checkpoint(directory: Path, quiet: bool) -> None:
    """Bring the images up to date and empty the log.

    \b
    Example:
        perdure state checkpoint .perdure
    """  # noqa: D301
    _checkpoint(directory, None, quiet=quiet)


@state.command()
@_DIRECTORY
@click.option("--keep", type=click.IntRange(0), default=0, show_default=True, help="How many commits to keep.")
@_QUIET
def merge(directory: Path, keep: int, quiet: bool) -> None:
    """Fold the log and the history into the images: the state stays, the past beyond --keep commits goes.

    \b
    Example:
        perdure state merge .perdure --keep 100
    """  # noqa: D301
    _checkpoint(directory, keep, quiet=quiet)


def _checkpoint(directory: Path, keep: int | None, *, quiet: bool) -> None:
    from perdure.storage import StateDirectory

    with StateDirectory.open(directory) as opened:
        opened.checkpoint()
        version = opened.version
        if keep is not None:
            opened.forget(version - keep)
    if not quiet:
        click.echo(f"version {version} is in the images")


for _command in (archive, restore, archives, prune):
    state.add_command(_command)
