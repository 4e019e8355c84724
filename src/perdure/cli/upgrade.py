"""`perdure upgrade-check`: rehearse an upgrade on a fork of real data, and say whether it is safe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import MODULE, InputFile, argument_options, extension_option, given
from perdure.cli.completing import complete_source
from perdure.cli.paths import LocalPath
from perdure.cli.progress import waiting
from perdure.cli.terminal import printable, safe_json

if TYPE_CHECKING:
    from perdure.upgrade import Report

__all__ = ["upgrade_check"]

_FILE = InputFile()
_OUT = LocalPath(dir_okay=False, path_type=Path)


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.argument("new", metavar="NEW.wasm", type=MODULE)
@argument_options
@click.option("--schema", type=_FILE, help="stable.yaml of the new version; of both, without --old-schema.")
@click.option("--old-schema", type=_FILE, help="stable.yaml of the old version.")
@click.option("--candid", type=_FILE, help="Interface of the new version, where the module does not say it.")
@click.option("--old-candid", type=_FILE, help="Interface of the old version.")
@click.option("--replay", metavar="history|FILE", help="Try these recorded calls too; a file may have answers.")
@click.option("--volatile", multiple=True, metavar="METHOD|.FIELD", help="Do not compare these replies, or fields.")
@click.option("--require-way-back", is_flag=True, help="Breaking, if the old module does not work on the new data.")
@click.option("--all", "decode_all", is_flag=True, help="Decode every value that a schema declares, not a sample.")
@click.option("--wasm-memory-persistence", type=click.Choice(["keep", "replace"]), help="What becomes of the heap.")
@click.option("--skip-pre-upgrade", is_flag=True, help="Do not run the old code's pre-upgrade hook.")
@extension_option()
@click.option("--seed", type=int, default=0, help="Of arguments and samples that are drawn.")
@click.option(
    "--time-limit", type=float, metavar="SECONDS", help="Of the hooks; else they go on to the network's limit."
)
@click.option("--html", type=_OUT, help="Write the report as one page.")
@click.option("--junit", type=_OUT, help="Write the report for CI.")
@click.option("--show-values", is_flag=True, help="Show the canister's values in --html and --junit.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code says it.")
def upgrade_check(
    source: str,
    new: Path,
    args: str | None,
    args_file: Path | None,
    args_format: str,
    schema: Path | None,
    old_schema: Path | None,
    candid: Path | None,
    old_candid: Path | None,
    replay: str | None,
    volatile: tuple[str, ...],
    require_way_back: bool,
    decode_all: bool,
    wasm_memory_persistence: str | None,
    skip_pre_upgrade: bool,
    extensions: tuple[str, ...],
    seed: int,
    time_limit: float | None,
    html: Path | None,
    junit: Path | None,
    show_values: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Rehearse the upgrade of SOURCE to NEW.wasm on a fork of its data; SOURCE is only read.

    SOURCE is STATE_DIR:CANISTER or the directory of a downloaded snapshot. Exit codes: 0 safe, 1 breaking, 2 could not
    check, 3 not certain.

    \b
    Example:
        perdure upgrade-check .perdure:ledger ledger.wasm --args '(record { fee = 10 })' --html report.html
    """  # noqa: D301
    from perdure.upgrade import check

    _check_places(source, new, html, junit)
    with _bad_usage(), waiting(f"checking {printable(source)}", quiet):
        report = check(
            source,
            new,
            _argument(args, args_file, args_format),
            schema=schema,
            old_schema=old_schema,
            candid=_text_of(candid),
            old_candid=_text_of(old_candid),
            replay=replay,
            volatile=volatile,
            require_way_back=require_way_back,
            decode_all=decode_all,
            wasm_memory_persistence=wasm_memory_persistence,
            skip_pre_upgrade=skip_pre_upgrade,
            extensions=extensions,
            seed=seed,
            time_limit=time_limit,
            tell=_quiet if quiet else _tell,
        )
    _write_reports(report, html, junit, show_values)
    return _told(report, as_json, quiet)


@contextmanager
def _bad_usage() -> Iterator[None]:
    """What an argument of the check is not is bad usage of the command."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _write_reports(report: Report, html: Path | None, junit: Path | None, values: bool) -> None:
    _write(html, lambda: report.to_html(values=values))
    _write(junit, lambda: report.to_junit(values=values))


def _text_of(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _tell(text: str) -> None:
    click.echo(f"perdure: {text}", err=True)


def _quiet(text: str) -> None:
    """Tell nobody."""


def _argument(args: str | None, args_file: Path | None, args_format: str) -> bytes | str | None:
    """The argument, as `Canister.upgrade` takes it: text is one or more values, with or without parentheses."""
    argument = given(args, args_file, args_format)
    if isinstance(argument, str) and not argument.lstrip().startswith("("):
        return f"({argument})"
    return argument


def _told(report: Report, as_json: bool, quiet: bool) -> int:
    if not quiet or as_json:
        click.echo(safe_json(report.to_json()) + "\n" if as_json else printable(report.to_text(), keep="\n"), nl=False)
    return report.exit_code


def _write(path: Path | None, content: Callable[[], str]) -> None:
    if path is not None:
        path.write_text(content(), encoding="utf-8")


def _check_places(source: str, new: Path, *paths: Path | None) -> None:
    """A report has a place of its own: not in what is checked, which is never changed."""
    directory = Path(source) if Path(source).exists() else Path(source.rpartition(":")[0] or source)
    checked, taken = directory.resolve(), {new.resolve()}
    for path in paths:
        if path is None:
            continue
        if not path.parent.is_dir():
            raise click.UsageError(f"no directory {path.parent} to write {path.name} in")
        place = path.resolve()
        if place in taken or place == checked or (checked.is_dir() and checked in place.parents):
            raise click.UsageError(f"a report written to {path} would take the place of what is checked, or another's")
        taken.add(place)
