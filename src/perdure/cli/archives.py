"""`perdure state archive` and what goes with it: versions of a state directory in object storage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from perdure.cli.paths import LocalPath
from perdure.cli.progress import waiting
from perdure.units import DURATIONS, counted, parse_amount, show_bytes

__all__ = ["archive", "archives", "prune", "restore"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
_KEY = click.option(
    "--key-file",
    envvar="PERDURE_ARCHIVE_KEY_FILE",
    type=LocalPath(exists=True, dir_okay=False, path_type=Path),
    help="The key that seals it: 32 bytes, or 64 hexadecimal digits. [env: PERDURE_ARCHIVE_KEY_FILE]",
)


def _key(path: Path | None) -> bytes:
    from perdure.storage.archive_format import read_key

    return b"" if path is None else read_key(path)


def _cache() -> Any:
    import os

    from perdure.inspection.remote import block_cache

    return block_cache(os.environ)


def _say(facts: dict[str, object], text: Callable[[], str], *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        click.echo(text())


@click.command()
@click.argument("directory", type=LocalPath(exists=True, file_okay=False, path_type=Path))
@click.argument("url")
@_KEY
@click.option("--take-over", is_flag=True, help="Become the owner of an archive that another directory wrote to.")
@_JSON
@_QUIET
def archive(directory: Path, url: str, key_file: Path | None, take_over: bool, as_json: bool, quiet: bool) -> None:
    """Add a state directory as it is now to the archive at URL: what changed since the version before.

    It may be in use meanwhile. An archive has one owner: a copy of the directory is refused once the other has gone on.

    \b
    Example:
        perdure state archive .perdure s3://backups/shop
    """  # noqa: D301
    from perdure.storage.archive import archive_state

    with waiting("archiving", quiet):
        found = archive_state(directory, url, key=_key(key_file), take_over=take_over, cache=_cache())
    facts = {
        "sequence": found.sequence,
        "version": found.version,
        "state_hash": found.state_hash.hex(),
        "written_bytes": found.written_bytes,
        "requests": found.requests,
    }
    written = show_bytes(found.written_bytes) if found.written_bytes else "nothing, it was there"
    _say(facts, lambda: f"version {found.version} is in {url}, written: {written}", as_json=as_json, quiet=quiet)


@click.command()
@click.argument("url")
@click.option("-o", "--output", required=True, type=LocalPath(path_type=Path), help="The new state directory.")
@click.option("--version", type=click.IntRange(0), help="One of those that `archives` lists; else the newest.")
@_KEY
@_JSON
@_QUIET
def restore(url: str, output: Path, version: int | None, key_file: Path | None, as_json: bool, quiet: bool) -> None:
    """Make a new state directory of a version in the archive at URL, every byte held against its hash.

    \b
    Example:
        perdure state restore s3://backups/shop -o .perdure
    """  # noqa: D301
    from perdure.storage.restoring import restore_state

    with waiting("restoring", quiet):
        found = restore_state(url, output, version=version, key=_key(key_file), cache=_cache())
    facts: dict[str, object] = {"version": found.version, "state_hash": found.state_hash.hex(), "target": str(output)}
    _say(facts, lambda: f"{output} has version {found.version}", as_json=as_json, quiet=quiet)


@click.command()
@click.argument("url")
@_KEY
@_JSON
@_QUIET
def archives(url: str, key_file: Path | None, as_json: bool, quiet: bool) -> None:
    """List the versions in the archive at URL, newest first; before them, the newest commit that its log has.

    \b
    Example:
        perdure state archives s3://backups/shop
    """  # noqa: D301
    from perdure.cli.canister.facts import show_time
    from perdure.storage.archive_log import log_version
    from perdure.storage.restoring import versions_in

    found, newest = versions_in(url, _key(key_file)), log_version(url, _key(key_file))
    rows = [
        {
            "sequence": one.sequence,
            "version": one.version,
            "archived_ns": one.archived_ns,
            "state_hash": one.state_hash.hex(),
        }
        for one in found
    ]
    lines = [f"{one.version:>12}  {show_time(one.archived_ns)}  {one.state_hash.hex()}" for one in found]
    lines[:0] = [] if newest is None else [f"{newest:>12}  in its log, with those since the version before"]
    lines[:0] = [f"{'version':>12}  {'archived':{len(show_time(0))}}  state hash"] if lines else ["none"]
    _say({"versions": rows, "log_version": newest}, lambda: "\n".join(lines), as_json=as_json, quiet=quiet)


class _Duration(click.ParamType[int]):
    """How long something takes, in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else parse_amount(value, DURATIONS)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command()
@click.argument("url")
@click.option("--keep", type=click.IntRange(1), help="So many of the newest versions; all, if not said.")
@click.option("--grace", type=_Duration(), default="1d", show_default=True, help="How long what goes is still there.")
@click.option("--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@_KEY
@_JSON
@_QUIET
def prune(
    url: str, keep: int | None, grace: int, dry_run: bool, key_file: Path | None, as_json: bool, quiet: bool
) -> None:
    """Drop older versions from the archive at URL, and remove what nothing needs any more.

    The grace time is longer than archiving takes: what is being written is named by nothing yet.

    \b
    Example:
        perdure state prune s3://backups/shop --keep 30
    """  # noqa: D301
    from perdure.storage.collecting import collect

    found = collect(url, keep=keep, grace_seconds=grace, key=_key(key_file), dry_run=dry_run)
    would = "would be " if dry_run else ""
    _say(
        {**found._asdict(), "dry_run": dry_run},
        lambda: (
            f"{counted(found.kept, 'version')} kept, {found.dropped} {would}dropped, "
            f"{counted(found.removed_packs, 'object')} of {show_bytes(found.removed_bytes)} {would}removed"
        ),
        as_json=as_json,
        quiet=quiet,
    )
