"""`perdure profile`: exact instructions by function and call path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import InputFile
from perdure.cli.measured import Measured, measured
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import LAYOUT, json_text, printable

if TYPE_CHECKING:
    from perdure.measure.paths import Paths
    from perdure.measure.profile import Profile
    from perdure.subnet import Subnet

__all__ = ["check_end", "profile", "write_profile"]

_FILE = InputFile()
_OUT = LocalPath(dir_okay=False, path_type=Path)


@click.command()
@measured()
@click.option("--with-install", is_flag=True, help="Profile what a MODULE's installing runs, too.")
@click.option("--rows", type=click.IntRange(1), default=30, show_default=True, help="How many functions are printed.")
@click.option("-o", "--output", "outputs", multiple=True, type=_OUT, help="Write .svg, .json, .pb.gz, .folded or .txt.")
@click.option("--against", type=_FILE, metavar="FILE.folded", help="Print what has changed since this profile.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def profile(
    ran: Measured,
    with_install: bool,
    rows: int,
    outputs: tuple[Path, ...],
    against: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Call methods, and count instructions by function and call path: exactly those that the calls cost.

    SOURCE is STATE_DIR:CANISTER or the directory of a downloaded snapshot, which are only read; a MODULE is installed
    on a fresh subnet. Arguments are written as for `perdure run`.

    Files: .svg is a flame graph, .json is for speedscope, .pb.gz for `go tool pprof`, .folded has a line for each path.

    \b
    Example:
        perdure profile ledger.wasm 'transfer=("alice", 10)' -o transfer.svg
        perdure profile ./my-snapshot refresh -o refresh.json
        perdure profile .perdure:ledger compact --against before.folded
    """  # noqa: D301
    from perdure.measure.profile import Profile

    for output in outputs:
        check_end(output)
    before, paths = _earlier(against), Profile()

    @contextmanager
    def profiled(subnet: Subnet) -> Iterator[None]:
        with subnet.profile() as found:
            yield
        paths.add(found)

    with ran.opened(profiled if with_install else None) as (subnet, canister):
        with profiled(subnet):
            rejections = ran.run(subnet, canister)
        if not len(paths) and not rejections:
            raise click.UsageError("nothing ran: name methods, or say --with-install, --upgrade or --ticks")
    for output in outputs:
        write_profile(paths, output)
    if as_json:
        click.echo(json_text(_as_json(paths)))
    elif not quiet:
        click.echo(printable(_text(paths, before, rows), keep=LAYOUT), nl=False)
    for rejection in rejections:
        raise rejection  # told last: what ran before it is in the profile


def check_end(path: Path) -> None:
    """Refuse a file whose name does not say its format; raises as `write_profile`."""
    from perdure.measure.profile import ENDS

    if not any(path.name.endswith(end) for end in ENDS):
        raise click.UsageError(f"{path} ends with none of {', '.join(ENDS)}")


def write_profile(paths: Profile, path: Path) -> None:
    """Write a profile in the format that the file's name ends with.

    Raises:
        click.UsageError: it ends with none that is known.
    """
    from perdure.measure.profile import content_of

    check_end(path)
    path.write_bytes(content_of(paths, path.name))


def _earlier(path: Path | None) -> Paths | None:
    from perdure.errors import MalformedError
    from perdure.measure.formats import parse_folded

    if path is None:
        return None
    try:
        return parse_folded(path.read_text(encoding="utf-8"))
    except (MalformedError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is no file of folded stacks: {error}") from error


def _text(paths: Profile, before: Paths | None, rows: int) -> str:
    from perdure.measure.formats import changes_table, folded, parse_folded

    # Both as the file has them, which has no semicolons in names, and not the deepest of paths.
    return paths.table(rows) if before is None else changes_table(before, parse_folded(folded(paths)), rows)


def _as_json(paths: Profile) -> dict[str, object]:
    return {
        "instructions": paths.total_instructions,
        "functions": [cost._asdict() for cost in paths.functions()],
        "kinds": [cost._asdict() for cost in paths.centres()],
        "lost_calls": paths.lost_calls,
    }
