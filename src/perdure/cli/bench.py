"""`perdure bench`: canbench's command line, output and files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import click

from perdure.cli.argument import extension_option
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import LAYOUT, printable, safe_json
from perdure.units import show_size

if TYPE_CHECKING:
    from perdure.measure.bench import Benchmarks, Outcome
    from perdure.measure.canbench_files import Bench, Config

__all__ = ["bench"]

_CONFIG = "canbench.yml"
_STYLES: dict[str, dict[str, Any]] = {
    "bold": {"bold": True},
    "new": {"fg": "blue", "bold": True},
    "regressed": {"fg": "red", "bold": True},
    "improved": {"fg": "green", "bold": True},
}
_USD_PER_TRILLION_CYCLES = 1.36
"""What a trillion cycles cost as of 2026-11: they follow the XDR."""


@click.command()
@click.argument("pattern", required=False)
@click.option("--persist", is_flag=True, help="Write what was measured to the results file.")
@click.option("--csv", is_flag=True, help="Write a CSV file of it, and of what has changed.")
@click.option("--less-verbose", is_flag=True, help="Print the benchmarks and nothing else.")
@click.option("--hide-results", is_flag=True, help="Do not print single benchmarks.")
@click.option("--show-summary", is_flag=True, help="Print the summary, also with --less-verbose.")
@click.option("--show-canister-output", is_flag=True, help="Print what the canister prints, on standard error.")
@click.option("--instruction-tracing", is_flag=True, help="Write a flame graph of each benchmark beside the results.")
@click.option("--no-runtime-integrity-check", is_flag=True, help="Of canbench; there is no runtime to be checked here.")
@click.option("--runtime-path", type=LocalPath(path_type=Path), help="Of canbench; there is no runtime here.")
@click.option(
    "--noise-threshold", type=float, default=2.0, metavar="PERCENT", help="Smaller changes are noise; 2 by default."
)
@extension_option()
@click.option("--jobs", type=click.IntRange(1), help="How many run at once; by default as many as there are cores.")
@click.option("--details", type=LocalPath(dir_okay=False, path_type=Path), help="Write what else they took, as JSON.")
@click.option("--show-details", is_flag=True, help="Print what else they took: pages, cycles, USD.")
@click.option(
    "--usd-per-trillion-cycles",
    "rate",
    type=click.FloatRange(0),
    default=_USD_PER_TRILLION_CYCLES,
    show_default=True,
    help="What cycles cost.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def bench(
    pattern: str | None,
    persist: bool,
    csv: bool,
    less_verbose: bool,
    hide_results: bool,
    show_summary: bool,
    show_canister_output: bool,
    instruction_tracing: bool,
    no_runtime_integrity_check: bool,
    runtime_path: Path | None,
    noise_threshold: float,
    extensions: tuple[str, ...],
    jobs: int | None,
    details: Path | None,
    show_details: bool,
    rate: float,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run the benchmarks of a canister made with canbench, and compare them with earlier results.

    Options, output and files are canbench's: `canbench.yml` (or what CANBENCH_CFG_FILE names) says which module, the
    results are read from and with --persist written to `canbench_results.yml`. With PATTERN only benchmarks run whose
    names contain it. Exit code 1: the benchmarks could not be run, or one of them failed.

    \b
    Example:
        perdure bench --persist
        perdure bench insert --show-details
    """  # noqa: D301
    from perdure.measure.bench import BenchFailedError

    wants_details = show_details or details is not None or as_json
    say = _Printer(silent=as_json or quiet)
    try:
        config = _config()
        _build(config)
        before = _earlier(config.results_path)
        benchmarks = _prepared(config, extensions)
        names = [name for name in benchmarks.names if pattern is None or pattern in name]
        outcomes = []
        for outcome in benchmarks.run(names, jobs=jobs or _cores(), with_details=wants_details):
            outcomes.append(outcome)
            if show_canister_output:
                _tell_printed(outcome)
            after = _write_trace(config, benchmarks, outcome.name) if instruction_tracing else ""
            say.benchmark(outcome, before.get(outcome.name), noise_threshold, after, is_hidden=hide_results)
    except BenchFailedError as error:
        click.echo(printable(str(error), keep=LAYOUT), err=True)
        return 1
    now = {outcome.name: outcome.bench for outcome in outcomes}
    say.report(now, before, noise_threshold, summary=not less_verbose or show_summary)
    if csv:
        say(_write_csv(config, now, before))
    if persist:
        say(_write_results(config, now))
    if wants_details:
        _tell_details(_details(benchmarks, outcomes, rate), details, say if show_details else None, as_json=as_json)
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _config() -> Config:
    from perdure.errors import MalformedError
    from perdure.measure.bench import BenchFailedError, read_file
    from perdure.measure.canbench_files import parse_config

    name = os.environ.get("CANBENCH_CFG_FILE", _CONFIG)
    try:
        return parse_config(read_file(name).decode())
    except FileNotFoundError as error:
        raise BenchFailedError(f"configuration file not found: '{name}'") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BenchFailedError(f"Error while opening `{name}`: {error}") from error
    except MalformedError as error:
        raise BenchFailedError(f"{name}: {error}") from error


def _build(config: Config) -> None:
    from perdure.measure.bench import BenchFailedError

    if config.build_cmd is not None:
        try:
            done = subprocess.run(["bash", "-c", config.build_cmd], check=False)
        except OSError as error:
            raise BenchFailedError(f"build_cmd cannot be run: {error}") from error
        if done.returncode:
            raise BenchFailedError(f"build_cmd ended with exit code {done.returncode}: {config.build_cmd}")


def _earlier(path: str) -> Mapping[str, Bench]:
    from perdure.errors import MalformedError
    from perdure.measure.bench import BenchFailedError, read_file
    from perdure.measure.canbench_files import parse_results

    try:
        return parse_results(read_file(path).decode()).benches
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise BenchFailedError(f"Error reading results file {path}: {error}") from error
    except MalformedError as error:
        text = str(error)
        raise BenchFailedError(text if text.startswith("canbench is at") else f"{path}: {text}") from error


def _prepared(config: Config, extensions: tuple[str, ...]) -> Benchmarks:
    from perdure.errors import MalformedError, RejectError, UnsupportedError
    from perdure.measure.bench import BenchFailedError, Benchmarks, read_file

    try:
        wasm = read_file(config.wasm_path)
    except OSError as error:
        text = f"Couldn't read file at {config.wasm_path}. Are you sure the file exists?"
        raise BenchFailedError(text) from error
    try:
        return Benchmarks(config, wasm, extensions=extensions)
    except (MalformedError, UnsupportedError) as error:
        raise BenchFailedError(f"{config.wasm_path} is no module that can be run: {error}") from error
    except RejectError as error:
        raise BenchFailedError(f"Error installing {config.wasm_path}:\n{error.error_code}: {error.message}") from error


def _tell_printed(outcome: Outcome) -> None:
    for line in outcome.printed:
        click.echo(printable(line, keep=LAYOUT), err=True)


def _write_trace(config: Config, benchmarks: Benchmarks, name: str) -> str:
    path = Path(config.results_path).with_name(f"{name}.svg")
    path.write_text(benchmarks.flame_graph(name), encoding="utf-8")
    return f"Instruction traces written to {path}"


def _write_results(config: Config, now: Mapping[str, Bench]) -> str:
    from perdure.measure.canbench_files import rendered

    Path(config.results_path).write_text(rendered(now), encoding="utf-8")
    return f"Successfully persisted results to {config.results_path}"


def _write_csv(config: Config, now: Mapping[str, Bench], before: Mapping[str, Bench]) -> str:
    from perdure.measure.comparison import csv_lines, entries

    text = "".join(f"{line}\n" for line in csv_lines(entries(now, before)))
    Path(config.csv_results_path).write_text(text, encoding="utf-8")
    return f"CSV results saved to {config.csv_results_path}"


def _tell_details(found: dict[str, Any], path: Path | None, say: _Printer | None, *, as_json: bool) -> None:
    if say is not None:
        say.details(found)
    text = json.dumps(found, indent=2, ensure_ascii=False)
    if path is not None:
        path.write_text(f"{text}\n", encoding="utf-8")
    if as_json:
        click.echo(safe_json(text))


def _details(benchmarks: Benchmarks, outcomes: list[Outcome], rate: float) -> dict[str, Any]:
    """What the sidecar file has: one object, benchmarks by name."""

    def one(outcome: Outcome) -> dict[str, Any]:
        measured: dict[str, Any] = {
            "total": outcome.bench.total._asdict(),
            "scopes": {name: scope._asdict() for name, scope in outcome.bench.scopes.items()},
        }
        if outcome.details is not None:
            structures = [use.to_json() for use in outcome.details.structures]
            message = {**outcome.details._asdict(), "structures": structures}
            measured["message"] = {**message, "usd": outcome.details.cycles / 1e12 * rate}
        return measured

    return {
        "compile_instructions": benchmarks.compile_instructions,
        "usd_per_trillion_cycles": rate,
        "date": date.today().isoformat(),
        "benches": {outcome.name: one(outcome) for outcome in outcomes},
    }


@final
class _Printer:
    """Prints as canbench does, with colours where somebody sees them."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent

    def __call__(self, line: str = "") -> None:
        if not self._silent:
            click.echo(line)

    def benchmark(
        self, outcome: Outcome, before: Bench | None, noise_threshold: float, after: str, *, is_hidden: bool
    ) -> None:
        from perdure.measure.comparison import RULE, benchmark_lines

        lines = (RULE, "", *benchmark_lines(outcome.name, outcome.bench, before, noise_threshold, _styled))
        for line in (*(() if is_hidden else lines), *([after] if after else []), *(() if is_hidden else ("",))):
            self(line)

    def report(
        self, now: Mapping[str, Bench], before: Mapping[str, Bench], noise_threshold: float, *, summary: bool
    ) -> None:
        from perdure.measure.comparison import RULE, entries, report_lines

        self(RULE)
        for line in report_lines(entries(now, before), noise_threshold) if summary else ():
            self(line)

    def details(self, found: Mapping[str, Any]) -> None:
        rate = found["usd_per_trillion_cycles"]
        self()
        self(f"Whole messages, 1 T cycles at {rate} USD ({found['date']}); pages of 4 KiB:")
        columns = ("instructions", "cycles", "heap_dirty_pages", "stable_accessed_pages", "stable_dirty_pages")
        uses = [use for one in found["benches"].values() for use in one["message"]["structures"]]
        own = [name for one in found["benches"].values() for name in one["message"]["own_dirty_pages"]]
        width = max(
            [4, *map(len, found["benches"]), *(len(_label(use)) for use in uses), *(2 + len(one) for one in own)]
        )
        self(
            f"{'name':{width}}" + "".join(f"  {name.replace('_pages', ''):>16}" for name in columns) + f"  {'USD':>12}"
        )
        for name, one in found["benches"].items():
            message = one["message"]
            cells = "".join(f"  {message[column]:>16,}" for column in columns)
            self(printable(f"{name:{width}}{cells}  {message['usd']:>12.9f}"))
            for memory, pages in message["own_dirty_pages"].items():
                self(printable(f"{'  ' + memory:{width}}" + " " * 72 + f"  {pages:>16,}"))
            for use in message["structures"]:
                pages = f"{use['accessed_pages']:>16,}  {use['written_pages']:>16,}"
                sizes = f"  {show_size(use['accessed_bytes'])}, {show_size(use['written_bytes'])} written"
                self(printable(f"{_label(use):{width}}" + " " * 54 + f"  {pages}{sizes}"))


def _label(use: Mapping[str, Any]) -> str:
    return "  " + " ".join(filter(None, (use["memory"], use["name"], use["kind"])))


def _styled(text: str, kind: str) -> str:
    if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
        return text
    return click.style(printable(text), **_STYLES[kind])
