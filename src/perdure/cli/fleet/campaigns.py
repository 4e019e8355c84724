"""The commands of `perdure fleet`: each is another command of perdure, for many sources."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from perdure.cli.lazy import imported
from perdure.cli.paths import LocalPath
from perdure.cli.progress import progress, waiting
from perdure.cli.terminal import LAYOUT, printable

if TYPE_CHECKING:
    from perdure.fleet.found import Found
    from perdure.fleet.jobs import Job, Row
    from perdure.fleet.journal import Journal
    from perdure.fleet.report import Summary
    from perdure.fleet.sources import Kind
    from perdure.fleet.workers import Workers

__all__ = ["bench", "fsck", "fuzz", "query", "upgrade_check"]

_WORK: Final = "perdure.fleet.command:run"


class _Single(NamedTuple):
    """A command for one source.

    Attributes:
        words: how it is called.
        place: where it stands.
        kind: of its sources.
        extra: without which no source could be done, and the package that it brings.
        without: parameters that a campaign has no use for, or sets itself.
        help: of the campaign.
    """

    words: tuple[str, ...]
    place: str
    kind: Kind
    without: frozenset[str]
    help: str
    extra: tuple[str, str] | None = None


_ALWAYS: Final = frozenset({"source", "module_path", "as_json", "quiet"})

_SINGLES: Final = {
    "upgrade-check": _Single(
        ("upgrade-check",),
        "perdure.cli.upgrade:upgrade_check",
        "canisters",
        frozenset({"html", "junit", "show_values"}),
        """Rehearse the upgrade of many canisters to NEW.wasm; SOURCES are only read.

    Exit codes: 0 all are safe, 1 one is breaking, 2 one could not be checked, 3 one is not certain: the first of these.

    \b
    Example:
        perdure fleet upgrade-check snapshots/ ledger.wasm -o campaign --dry-run""",
    ),
    "query": _Single(
        ("stable", "query"),
        "perdure.cli.stable.entries:query",
        "memories",
        frozenset({"nl", "as_csv", "pages"}),
        """Run the same SQL over the stable memories of many canisters.

    The first rows are printed; all of them are in entries.parquet of -o, with their source.

    \b
    Example:
        perdure fleet query snapshots/ "select count(*) as n from users" -o campaign""",
        ("sql", "apsw"),
    ),
    "fsck": _Single(
        ("stable", "fsck"),
        "perdure.cli.stable.check:fsck",
        "memories",
        frozenset(),
        """Prove many stable memories sound, or say what is not.

    \b
    Example:
        perdure fleet fsck "backups/*.bin.gz" -o campaign""",
    ),
    "bench": _Single(
        ("bench",),
        "perdure.cli.bench:bench",
        "benches",
        frozenset({"less_verbose", "hide_results", "show_summary", "show_canister_output", "instruction_tracing"})
        | {"no_runtime_integrity_check", "runtime_path", "jobs", "details", "show_details"},
        """Run the benchmarks of many directories, each of which has a canbench.yml.

    What that says to build is built, by its `build_cmd`: these are to be directories of your own.

    \b
    Example:
        perdure fleet bench canisters/ -o campaign""",
    ),
    "fuzz": _Single(
        ("fuzz",),
        "perdure.cli.fuzz:fuzz",
        "modules",
        frozenset({"module", "output"}),
        """Fuzz many modules; the stories that break one are tests in -o, or here.

    \b
    Example:
        perdure fleet fuzz modules/ --examples 1000 -o campaign""",
        ("fuzz", "hypothesis"),
    ),
}


def _campaign(name: str) -> click.Command:
    """The command of a campaign: options of the single one, and its own."""
    single = _SINGLES[name]
    command = imported(single.place)
    kept = [one for one in command.params if one.name not in single.without | _ALWAYS and one.name != "help"]
    own = [_exposed(one) for one in kept if isinstance(one, click.Option)]
    arguments = [one for one in kept if isinstance(one, click.Argument) and one.required]

    def callback(sources: tuple[str, ...], **given: Any) -> int:
        words = [*single.words, *_words(own, given), "--json"]
        behind = [os.fspath(given[str(one.name)]) for one in arguments]
        named = [given[str(one.name)] for one in (*own, *arguments) if isinstance(one.type, click.Path)]
        files = [os.fspath(one) for value in named for one in (value if isinstance(value, tuple) else (value,)) if one]
        return _run(name, single, _Call(words, behind, files), sources, {one: given[one] for one in _OPTIONS})

    return click.Command(
        name,
        callback=callback,
        params=[
            click.Argument(["sources"], nargs=-1, required=True),
            *arguments,
            *(option for option in own),
            *(make() for make in _OPTIONS.values()),
        ],
        help=single.help,
    )


def _exposed(option: click.Option) -> click.Option:
    """The same option, whose value is only looked at here."""
    twin = copy.copy(option)
    twin.callback, twin.expose_value = None, True
    return twin


def _words(options: Iterable[click.Option], given: Mapping[str, Any]) -> Iterator[str]:
    """Values of options as somebody would write them."""
    for option in options:
        value, name = given[str(option.name)], max(option.opts, key=len)
        if option.is_flag:
            if value:
                yield name
        elif value is None or value == option.default:
            continue
        else:
            for one in value if option.multiple else (value,):
                yield from (name, *map(str, one)) if isinstance(one, tuple) else (name, str(one))


class _Call(NamedTuple):
    """A command's words but for the source, those behind it, and which of both are names of files."""

    words: list[str]
    behind: list[str]
    files: list[str]


def _option(*names: str, **settings: Any) -> Callable[[], click.Option]:
    return lambda: click.Option(names, **settings)


_OPTIONS: Final[dict[str, Callable[[], click.Option]]] = {
    "out": _option(
        "-o",
        "--out",
        type=LocalPath(file_okay=False, path_type=Path),
        help="Keep what is found in this directory as it comes, and the reports.",
    ),
    "resume": _option(
        "--resume", is_flag=True, help="Go on with what -o has; sources that have changed are done again."
    ),
    "retry": _option("--retry", is_flag=True, help="With --resume: do again what could not be done."),
    "dry_run": _option("--dry-run", is_flag=True, help="Only say what there is to do, and about what it takes."),
    "workers": _option("--workers", type=click.IntRange(1), help="How many at once; by default one for each core."),
    "kill_after": _option(
        "--kill-after",
        type=click.FloatRange(0, min_open=True),
        default=900.0,
        show_default=True,
        metavar="SECONDS",
        help="End what takes longer for one source.",
    ),
    "place": _option(
        "--on",
        "place",
        type=click.Choice(["processes", "ray"]),
        default="processes",
        show_default=True,
        help='Who does it: processes of this machine, or a Ray cluster (the extra "fleet").',
    ),
    "usd_per_core_hour": _option(
        "--usd-per-core-hour",
        type=click.FloatRange(0),
        default=0.05,
        show_default=True,
        help="What a core costs, for --dry-run.",
    ),
    "as_json": _option("--json", "as_json", is_flag=True, help="Print the report as one JSON object."),
    "quiet": _option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code says it."),
}


def _run(name: str, single: _Single, call: _Call, given: Sequence[str], options: Mapping[str, Any]) -> int:
    from perdure.errors import StorageError
    from perdure.fleet.journal import Journal
    from perdure.fleet.plan import estimate
    from perdure.fleet.report import Summary
    from perdure.fleet.sources import expand, mark_of_files

    out: Path | None = options["out"]
    if out is None and (options["resume"] or options["retry"]):
        raise click.UsageError("--resume and --retry go on with what is in the directory of -o, which is not given")
    with waiting("looking for sources", options["quiet"]):
        found = expand(given, single.kind)
        beside = mark_of_files([*call.words, *call.behind])
    jobs = [_job(name, call, replace(one, mark=f"{one.mark} {beside}".strip()), out) for one in found]
    if options["dry_run"]:
        told = estimate(name, jobs, (), _count(options), options["usd_per_core_hour"])
        click.echo(_json(told.to_dict()) if options["as_json"] else told.to_text(), nl=options["as_json"])
        return 0
    _require(single)
    workers = _workers(options, call.files)
    with ExitStack() as stack:
        # What commands print is on the disk and not in memory, wherever it is to be.
        kept = Path(stack.enter_context(TemporaryDirectory(prefix="perdure-fleet-"))) if out is None else out
        about = [*call.words, *call.behind]
        journal = stack.enter_context(Journal(kept, name, about, resume=options["resume"]))
        left = journal.left(jobs, failed_too=options["retry"])
        is_whole = _collect(name, left, workers, journal.add, options)
        rows = [journal.rows[job.source] for job in jobs if job.source in journal.rows]
        summary = Summary.of(name, rows, len(jobs), journal.whole)
        if out is not None:
            try:
                _write(journal, summary, options)
            except OSError as error:
                raise StorageError.because("the reports could not be written", error, out) from error
        return _tell(summary, options, is_whole=is_whole)


def _require(single: _Single) -> None:
    """Say once, and not of each source, that an extra is not there."""
    if single.extra is not None and find_spec(single.extra[1]) is None:
        from perdure.errors import UnsupportedError

        told = f"fleet {single.words[-1]} needs `pip install 'perdure[{single.extra[0]}]'`"
        raise UnsupportedError(told).coded("extra-missing")


def _job(name: str, call: _Call, found: Found, out: Path | None) -> Job:
    from perdure.fleet.jobs import Job

    common = (found.module_hash, found.size_bytes, found.mark)
    if name == "bench":  # its configuration is the directory's, and so are the paths in that
        return Job(
            found.source,
            (*call.words, "--jobs", "1", *(["--", *call.behind] if call.behind else [])),
            *common,
            found.source,
        )
    more: tuple[str, ...] = ()
    if name == "fuzz":
        story = f"test_found_{Path(found.source).name.partition('.')[0]}_{found.module_hash[:8]}.py"
        more = ("-o", os.fspath((out or Path()) / story))
    return Job(found.source, (*call.words, *more, "--", found.source, *call.behind), *common)


def _count(options: Mapping[str, Any]) -> int:
    from perdure.fleet.workers import Processes

    return options["workers"] or Processes(_WORK).count


def _workers(options: Mapping[str, Any], files: Sequence[str]) -> Workers:
    if options["place"] == "ray":
        from perdure.fleet.on_ray import RayWorkers  # an extra

        there = {name: Path(name).read_bytes() for name in files if Path(name).is_file()}
        return RayWorkers(_WORK, options["workers"], files=there)
    from perdure.fleet.workers import Processes

    return Processes(_WORK, options["workers"])


def _collect(
    name: str, jobs: Sequence[Job], workers: Workers, keep: Callable[[Row], object], options: Mapping[str, Any]
) -> bool:
    """Have jobs done, and rows kept as they come; whether all of them were, and nobody has interrupted it."""
    from perdure.fleet.campaign import Campaign

    rows = Campaign(jobs, workers, options["kill_after"]).rows()
    try:
        with progress(name, len(jobs), "sources", options["quiet"]) as advance:
            for row in rows:
                keep(row)
                advance(1)
    except KeyboardInterrupt:
        return False
    finally:
        rows.close()  # type: ignore[attr-defined]
    return True


def _write(journal: Journal, summary: Summary, options: Mapping[str, Any]) -> None:
    """The reports beside the rows; Parquet where it can be written."""
    from perdure.fleet.report import write_parquet

    with (journal.directory / "report.json").open("w", encoding="utf-8", errors="backslashreplace") as file:
        for piece in summary.pieces_of_json():
            file.write(piece)
        file.write("\n")
    (journal.directory / "report.html").write_text(summary.to_html(), encoding="utf-8", errors="backslashreplace")
    entries = journal.directory / "entries.parquet" if summary.command == "query" else None
    try:
        write_parquet(summary, journal.directory / "results.parquet", entries)
    except ModuleNotFoundError:
        if not options["quiet"]:
            click.echo("no Parquet is written: that needs `pip install 'perdure[columns]'`", err=True)


def _tell(summary: Summary, options: Mapping[str, Any], *, is_whole: bool) -> int:
    if options["as_json"]:
        for piece in summary.pieces_of_json():
            click.echo(piece, nl=False)
        click.echo()
    elif not options["quiet"]:
        click.echo(printable(summary.to_text(), keep=LAYOUT), nl=False)
        if len(summary.rows) < summary.total and options["out"] is not None:
            click.echo("--resume goes on with what is not done")
    if not is_whole:
        raise KeyboardInterrupt
    return summary.exit_code


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2)


upgrade_check = _campaign("upgrade-check")
query = _campaign("query")
fsck = _campaign("fsck")
bench = _campaign("bench")
fuzz = _campaign("fuzz")
