"""`perdure demo`: the experiment, told in a minute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.console import say, styled, table
from perdure.cli.paths import LocalPath

if TYPE_CHECKING:
    from perdure.demo.chart import Series
    from perdure.demo.experiment import Run

__all__ = ["demo"]

NATIVE_MESSAGES = 8
ENTRIES = 55_000  # as many as an ingress message of 2 MiB can carry
SLOW_PART = 10
"""Host calls through Python get a tenth of a message: a whole one takes as long as all the rest."""


@click.command()
@click.option("--plot", type=LocalPath(dir_okay=False, path_type=Path), help="Write the picture as an SVG file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.option("--messages", default=NATIVE_MESSAGES, show_default=True, type=click.IntRange(2), help="In each series.")
@click.option("--entries", default=ENTRIES, show_default=True, type=click.IntRange(1, ENTRIES), help="In each message.")
def demo(plot: Path | None, as_json: bool, quiet: bool, messages: int, entries: int) -> None:
    """Fill a map in stable memory with update messages of 2 MB, natively and through host calls.

    Host calls through Python are slow, so that series is of two messages of a tenth of the entries, and is compared
    with a native one of the same two. All other series send the same messages in the same order.

    \b
    Example:
        perdure demo --plot demo.svg
    """  # noqa: D301 - click wants the backspace itself
    if plot and plot.suffix != ".svg":
        raise click.UsageError(f"the picture is an SVG: name it {plot.with_suffix('.svg').name}")
    runs = _run_all(messages, entries, silent=as_json or quiet)
    same = _same_bytes(runs)
    if plot:
        from perdure.demo.chart import svg

        plot.write_text(svg(_series(runs), "insert_many: milliseconds a message"), encoding="utf-8")
    facts = _facts(runs, same)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    elif not quiet:
        _print(runs, facts, plot)
    if not same or not facts["survived_upgrade"]:
        raise SystemExit(1)


def _run_all(count: int, entries: int, *, silent: bool) -> list[Run]:
    from perdure.demo.c_host import c_host_subnets
    from perdure.demo.experiment import insert_messages, run_series
    from perdure.instrument import Options

    def progress(name: str, done: int) -> None:
        if not silent:
            click.echo(f"  {name}: message {done}", err=True)

    through_host, part = Options(native_stable=False), max(1, entries // SLOW_PART)
    messages, parts = insert_messages(count, entries=entries), insert_messages(2, entries=part)
    runs = [
        run_series("native", messages, Options(), entries=entries, progress=progress),
        run_series("native, 1/10", parts, Options(), entries=part, progress=progress),
        run_series("Python host calls, 1/10", parts, through_host, entries=part, progress=progress),
    ]
    make_subnet = c_host_subnets()
    if make_subnet is not None:
        name = "C host calls"
        runs.append(
            run_series(name, messages, through_host, entries=entries, make_subnet=make_subnet, progress=progress)
        )
    return runs


def _same_bytes(runs: list[Run]) -> bool:
    """Whether all series of the same messages left the same stable memory after each."""
    return all(run.digests == _native(runs, run).digests for run in runs)


def _native(runs: list[Run], run: Run) -> Run:
    """The native series of the same messages."""
    return next(one for one in runs if one.entries_per_message == run.entries_per_message)


def _series(runs: list[Run]) -> list[Series]:
    from perdure.demo.chart import Series

    return [Series(run.name, run.milliseconds) for run in runs]


def _facts(runs: list[Run], same: bool) -> dict[str, object]:
    native, part, host, *others = runs
    facts: dict[str, object] = {
        "entries_per_message": native.entries_per_message,
        "native_messages": len(native.milliseconds),
        "host_messages": len(host.milliseconds),
        "host_entries_per_message": host.entries_per_message,
        "native_ns_per_entry": part.ns_per_entry,
        "host_ns_per_entry": host.ns_per_entry,
        "ratio": host.ns_per_entry / part.ns_per_entry,
        "same_bytes": same,
        "survived_upgrade": all(run.survived_upgrade for run in runs),
        "stable_memory_sha256": native.digests[-1],
    }
    for run in others:
        facts["c_host_ns_per_entry"] = run.ns_per_entry
        facts["c_host_ratio"] = run.ns_per_entry / native.ns_per_entry
    return facts


def _print(runs: list[Run], facts: dict[str, object], plot: Path | None) -> None:
    from perdure.demo.chart import terminal

    say()
    for line in terminal(_series(runs)):
        say(line)
    say(" " * 11 + "  ".join(f"{number} {run.name}" for number, run in enumerate(runs, 1)) + "\n")
    rows = [
        (
            run.name,
            str(len(run.milliseconds)),
            f"{run.median_milliseconds:,.0f} ms",
            f"{run.ns_per_entry:,.0f} ns",
            f"{run.ns_per_entry / _native(runs, run).ns_per_entry:.2f} times",
        )
        for run in runs
    ]
    headings = ("stable memory", "messages", "a message", "an entry", "of native")
    table(headings, rows, right=headings[1:], whole=headings)
    yes = {True: styled("yes", "green"), False: styled("NO", "red")}
    say(
        f"\nall runs left the same bytes: {yes[bool(facts['same_bytes'])]}"
        f"   the map survived an upgrade: {yes[bool(facts['survived_upgrade'])]}"
    )
    notes = (
        "Times are medians. An entry is decoded, finds its place in a B-tree, and is\n"
        "written to a node: the ratio is of that whole, not of the access alone. Python\n"
        "host calls are what a runtime in Python would pay without native stable memory:\n"
        "timed on two messages of a tenth of the entries, beside native ones of the same.\n"
        "C host calls are what any runtime would pay at best."
    )
    say(styled(notes, "dim"))
    if plot:
        say(f"picture: {plot}")
