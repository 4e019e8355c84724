"""What there is to see of canisters: list, status, id, info, metadata, logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from perdure.cli.canister.state import State, canister_argument, canister_arguments, common, say
from perdure.cli.terminal import LAYOUT, printable
from perdure.units import show_bytes, show_cycles

if TYPE_CHECKING:
    from perdure.subnet import Canister

__all__ = ["id_", "info", "list_", "logs", "metadata", "show_time", "status"]


@click.command("list")
@common
def list_(state: State, as_json: bool, quiet: bool) -> None:
    """List the canisters.

    \b
    Example:
        perdure canister list --json
        perdure canister ls
    """  # noqa: D301
    with state.look() as subnet:
        rows = [{"name": state.names.name_of(one.id), "canister_id": str(one.id)} for one in subnet.canisters]
    lines = [f"{row['canister_id']}  {row['name'] or ''}".rstrip() for row in rows]
    say(as_json, False, rows, "\n".join(lines))


@click.command()
@canister_arguments
@click.option("-i", "--id-only", is_flag=True, help="Print the id alone.")
@click.option("-p", "--public", is_flag=True, help="Show what everybody may know, as `info` does.")
@common
def status(
    state: State, canisters: tuple[str, ...], every: bool, id_only: bool, public: bool, as_json: bool, quiet: bool
) -> None:
    """Show state, module, memory and cycles of canisters, of all if none is named.

    \b
    Example:
        perdure canister status ledger
    """  # noqa: D301
    with state.look() as subnet:
        chosen = state.chosen(subnet, canisters, every or not canisters)
        if id_only:
            click.echo("\n".join(str(one.id) for one in chosen))
            return
        records = [_status_record(state, one) for one in chosen]
    if public:
        records = [{name: record[name] for name in _PUBLIC} for record in records]
    text = "\n\n".join((_public_text if public else _status_text)(record) for record in records)
    say(as_json, False, records if len(records) != 1 else records[0], text)


_PUBLIC: Final = ("canister_id", "controllers", "module_hash")


def _public_text(record: dict[str, Any]) -> str:
    hash_ = record["module_hash"]
    return f"Controllers: {' '.join(record['controllers'])}\nModule hash: {'None' if hash_ is None else '0x' + hash_}"


def _status_record(state: State, target: Canister) -> dict[str, Any]:
    facts = target.status()
    return {
        "canister_id": str(target.id),
        "name": state.names.name_of(target.id),
        "status": facts.status,
        "controllers": [str(one) for one in facts.controllers],
        "module_hash": facts.module_hash.hex() if facts.module_hash is not None else None,
        "version": facts.version,
        "cycles": facts.cycles,
        "heap_bytes": facts.heap_bytes,
        "stable_bytes": facts.stable_bytes,
        "memory_bytes": facts.memory_bytes,
    }


def _status_text(record: dict[str, Any]) -> str:
    shown = {
        "Canister": f"{record['canister_id']}  {record['name'] or ''}".rstrip(),
        "Status": record["status"],
        "Controllers": " ".join(record["controllers"]),
        "Module hash": record["module_hash"] or "none",
        "Version": str(record["version"]),
        "Cycles": f"{show_cycles(record['cycles'])}",
        "Heap": show_bytes(record["heap_bytes"]),
        "Stable memory": show_bytes(record["stable_bytes"]),
        "Memory in all": show_bytes(record["memory_bytes"]),
    }
    return "\n".join(f"{name + ':':15}{value}" for name, value in shown.items())


@click.command("id")
@canister_arguments
@common
def id_(state: State, canisters: tuple[str, ...], every: bool, as_json: bool, quiet: bool) -> None:
    """Print the id of CANISTER, as dfx does; `status --id-only` is icp's way.

    \b
    Example:
        perdure canister id ledger
    """  # noqa: D301
    with state.look() as subnet:
        found = {state.title(one): str(one.id) for one in state.chosen(subnet, canisters, every)}
    say(as_json, False, found, "\n".join(found.values()))


@click.command()
@canister_argument
@common
def info(state: State, canister: str, as_json: bool, quiet: bool) -> None:
    """Show what everybody may know of CANISTER: controllers and module hash.

    \b
    Example:
        perdure canister info ledger
    """  # noqa: D301
    with state.look() as subnet:
        record = _status_record(state, state.find(subnet, canister))
    say(as_json, False, {name: record[name] for name in _PUBLIC}, _public_text(record))


@click.command()
@canister_argument
@click.argument("name")
@common
def metadata(state: State, canister: str, name: str, as_json: bool, quiet: bool) -> None:
    """Print a metadata section of CANISTER's module, such as candid:service.

    \b
    Example:
        perdure canister metadata ledger candid:service
    """  # noqa: D301
    with state.look() as subnet:
        module = state.find(subnet, canister).module
        sections = dict(module.custom_sections) if module is not None else {}
    public = [section.removeprefix("icp:public ") for section in sections if section.startswith("icp:public ")]
    private = [section.removeprefix("icp:private ") for section in sections if section.startswith("icp:private ")]
    content = sections.get(f"icp:public {name}", sections.get(f"icp:private {name}"))
    if content is None:
        known = ", ".join([*public, *private]) or "none"
        raise click.UsageError(f"{canister} has no metadata section {name!r:.100}, it has {known}")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.hex()
    if as_json or sys.stdout.isatty():
        say(as_json, False, {"value": text}, text)
    else:
        click.echo(text)  # into a file or another program, as it is


# -- logs


class _Chosen(NamedTuple):
    """Which lines are wanted: from here to before there, by time in ns since 1970 and by index."""

    start_ns: int
    end_ns: int
    start_index: int
    end_index: int


@click.command()
@canister_argument
@click.option("--since", metavar="NS|TIME", help="From this time on: ns since 1970, or 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="NS|TIME", help="Before this time.")
@click.option("--since-index", type=click.IntRange(min=0), default=0, help="From this index on.")
@click.option("--until-index", type=click.IntRange(min=0), default=1 << 64, help="Before this index.", metavar="INDEX")
@click.option("--tail", type=click.IntRange(min=0), metavar="COUNT", help="The last lines only.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is added, until interrupted.")
@click.option(
    "--interval", type=click.FloatRange(min=0.05), default=2, show_default=True, help="Seconds between two looks."
)
@common
def logs(
    state: State,
    canister: str,
    since: str | None,
    until: str | None,
    since_index: int,
    until_index: int,
    tail: int | None,
    follow: bool,
    interval: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """Print what CANISTER wrote and the traps it ended in, oldest first.

    Followed, with --json, each line is an object of its own.

    \b
    Example:
        perdure canister logs ledger --since 2026-01-31T12:00:00Z
        perdure canister logs ledger --follow
    """  # noqa: D301
    chosen = _Chosen(_time_ns(since, 0), _time_ns(until, 1 << 64), since_index, until_index)
    rows = _rows(state, canister, chosen)
    if tail is not None and rows:
        chosen = chosen._replace(start_index=max(chosen.start_index, rows[-1]["index"] + 1 - tail))
        rows = [row for row in rows if row["index"] >= chosen.start_index]
    if not follow:
        if as_json or rows:
            say(as_json, False, rows, "\n".join(map(_line, rows)))
        return
    for row in _followed(state, canister, chosen, rows, interval):
        click.echo(_json_line(row) if as_json else printable(_line(row), keep=LAYOUT))


def _rows(state: State, canister: str, chosen: _Chosen) -> list[dict[str, Any]]:
    with state.look() as subnet:
        records = state.find(subnet, canister).logs()
    return [
        {"index": one.sequence, "timestamp": one.time_ns, "content": _log_text(one.content)}
        for one in records
        if chosen.start_ns <= one.time_ns < chosen.end_ns and chosen.start_index <= one.sequence < chosen.end_index
    ]


def _followed(
    state: State, canister: str, chosen: _Chosen, rows: list[dict[str, Any]], interval: float
) -> Iterator[dict[str, Any]]:
    from perdure.errors import StorageError

    while True:
        yield from rows
        if rows:
            chosen = chosen._replace(start_index=rows[-1]["index"] + 1)
        time.sleep(interval)
        try:
            rows = _rows(state, canister, chosen)
        except StorageError:
            rows = []  # somebody else has the directory: that is who writes


def _line(row: dict[str, Any]) -> str:
    return f"[{row['index']}. {show_time(row['timestamp'])}]: {row['content']}"


def _json_line(row: dict[str, Any]) -> str:
    import json

    return json.dumps(row)


def _log_text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"(bytes) 0x{content.hex()}"


def _time_ns(text: str | None, default: int) -> int:
    if text is None:
        return default
    if text.isdecimal():
        return int(text)
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1_000_000_000)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no time: ns since 1970, or 2026-01-31T12:00:00Z") from error


def show_time(time_ns: int) -> str:
    """A time as people read it."""
    from datetime import UTC, datetime

    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09}Z"
