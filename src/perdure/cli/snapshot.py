"""`perdure snapshot`: snapshots to and from object storage."""

from __future__ import annotations

import json
from pathlib import Path

import click

from perdure.cli.lazy import Group
from perdure.cli.paths import LocalPath
from perdure.cli.progress import waiting
from perdure.units import show_bytes

__all__ = ["snapshot"]

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")


@click.group(cls=Group)
def snapshot() -> None:
    """Put snapshots into object storage and get them from there.

    URL is s3://BUCKET/KEY, gs://BUCKET/KEY, az://CONTAINER/KEY or file:///PATH; credentials come from the environment.

    \b
    Example:
        perdure snapshot push ./my-snapshot s3://backups/ledger/monday
    """  # noqa: D301 - click wants the backspace itself


@snapshot.command()
@click.argument("directory", type=LocalPath(exists=True, file_okay=False, path_type=Path))
@click.argument("url")
@_JSON
@_QUIET
def push(directory: Path, url: str, as_json: bool, quiet: bool) -> None:
    """Write a snapshot directory to URL, where it is never changed again.

    \b
    Example:
        perdure snapshot push ./my-snapshot s3://backups/ledger/monday
    """  # noqa: D301
    from perdure.storage.pushing import push_snapshot

    with waiting("pushing", quiet):
        size_bytes = push_snapshot(directory, url)
    _say(url, size_bytes, as_json=as_json, quiet=quiet)


@snapshot.command()
@click.argument("url")
@click.option("-o", "--output", required=True, type=LocalPath(path_type=Path), help="The new directory.")
@_JSON
@_QUIET
def pull(url: str, output: Path, as_json: bool, quiet: bool) -> None:
    """Fetch the snapshot at URL into a new directory, which is there whole or not at all.

    \b
    Example:
        perdure snapshot pull s3://backups/ledger/monday -o ./monday
    """  # noqa: D301
    from perdure.storage.pushing import pull_snapshot

    with waiting("pulling", quiet):
        size_bytes = pull_snapshot(url, output)
    _say(str(output), size_bytes, as_json=as_json, quiet=quiet)


def _say(target: str, size_bytes: int, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        click.echo(json.dumps({"target": target, "size_bytes": size_bytes}, indent=2))
    elif not quiet:
        click.echo(f"{target} has {show_bytes(size_bytes)}")
