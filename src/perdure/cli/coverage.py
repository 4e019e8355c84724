"""`perdure coverage`: which functions and lines of a canister's code calls run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import InputFile
from perdure.cli.measured import Measured, measured
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import LAYOUT, json_text, printable

if TYPE_CHECKING:
    from perdure.errors import RejectError
    from perdure.measure.coverage import Coverage

__all__ = ["coverage", "write_coverage"]

_OUT = LocalPath(dir_okay=False, path_type=Path)
_ENDS = (".lcov", ".info", ".html", ".json", ".txt")


@click.command()
@measured(is_optional=True)
@click.option("--add", "added", multiple=True, type=InputFile(), metavar="FILE.json", help="Add what has run earlier.")
@click.option(
    "--source", "sources", multiple=True, type=LocalPath(path_type=Path), help="Only files in this directory."
)
@click.option("-o", "--output", "outputs", multiple=True, type=_OUT, help="Write .lcov, .info, .html, .json or .txt.")
@click.option("--fail-under", type=click.FloatRange(0, 100), help="Exit with 1 where less runs, in per cent of lines.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def coverage(
    ran: Measured,
    added: tuple[Path, ...],
    sources: tuple[Path, ...],
    outputs: tuple[Path, ...],
    fail_under: float | None,
    as_json: bool,
    quiet: bool,
) -> int:
    """Call methods, and see which functions, blocks and lines run: installing a MODULE counts, too.

    SOURCE is STATE_DIR:CANISTER or the directory of a downloaded snapshot, which are only read; a MODULE is installed
    on a fresh subnet. Arguments are written as for `perdure run`. Lines are known of modules with debug sections;
    those of compilers and packages are left out unless --source names them.

    Files: .lcov and .info are tracefiles for genhtml and code hosts, .html is a page, .json is for --add.

    \b
    Example:
        perdure coverage ledger.wasm 'transfer=("alice", 10)' -o ledger.html
        perdure coverage --add one.json --add two.json -o both.lcov
    """  # noqa: D301
    from perdure.measure.coverage import Coverage, cover_everything
    from perdure.measure.coverage_formats import own_files, percentage, totals

    for output in outputs:
        if output.suffix not in _ENDS:
            raise click.UsageError(f"{output} ends with none of {', '.join(_ENDS)}")
    found = Coverage()
    rejections: list[RejectError] = []
    for path in added:
        found.add(_read(path))
    if ran.source is not None:
        with cover_everything() as seen, ran.opened() as (subnet, canister):
            rejections += ran.run(subnet, canister)
        found.add(seen)
    if not found.modules:
        raise click.UsageError("nothing ran: name a module or a state, and methods, or files with --add")
    files = own_files(found, sources)
    for output in outputs:
        write_coverage(found, files, output, sources)
    if as_json:
        click.echo(json_text(_as_json(found, files)))
    elif not quiet:
        from perdure.measure.coverage_formats import table

        click.echo(printable(table(found, files), keep=LAYOUT), nl=False)
    for rejection in rejections:
        raise rejection  # told last: what ran before it counts
    run = percentage(totals(found, files))
    if fail_under is not None and run < fail_under:
        click.echo(f"{run:.1f} % have run, less than --fail-under {fail_under:g}", err=True)
        return 1
    return 0


def _read(path: Path) -> Coverage:
    from perdure.errors import MalformedError
    from perdure.measure.coverage import Coverage

    try:
        return Coverage.loads(path.read_text(encoding="utf-8"))
    except (MalformedError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path}: {error}") from error


def write_coverage(
    found: Coverage, files: Mapping[str, Mapping[int, int]], path: Path, sources: Sequence[Path] = ()
) -> None:
    """Write coverage in the format that a file's name ends with, of `.lcov`, `.info`, `.html`, `.json` and `.txt`."""
    from perdure.measure.coverage_formats import html, lcov, table

    made: Mapping[str, Callable[[], str]] = {
        ".html": lambda: html(found, files, sources=sources),
        ".json": found.dumps,
        ".txt": lambda: table(found, files),
    }
    text = made.get(path.suffix, lambda: lcov(found, files))()
    path.write_text(text, encoding="utf-8", errors="replace")


def _as_json(found: Coverage, files: Mapping[str, Mapping[int, int]]) -> dict[str, object]:
    from perdure.measure.coverage_formats import totals

    modules = [
        {
            "name": module.name,
            "hash": module.module_hash,
            "functions": [
                {"name": one.name, "file": one.file, "line": one.line, "blocks": list(one.counts)}
                for one in module.functions()
            ],
        }
        for module in found.modules
    ]
    return {
        "totals": totals(found, files)._asdict(),
        "files": {file: {str(line): count for line, count in lines.items()} for file, lines in files.items()},
        "modules": modules,
        "warnings": found.warnings,
    }
