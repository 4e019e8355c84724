"""Run the benchmarks and render docs/performance.md: python tools/render_performance.py [--quick] [NAME...]."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import render_data

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
RESULTS = ROOT / "docs" / "performance.json"
HELPERS = {"engine", "figures", "against", "counting", "huge_memories"}
"""What is no benchmark of this checkout alone, or fills a disk."""
SIGNS = {"lower": "at most", "higher": "at least"}


def run(script: Path, *, quick: bool) -> dict[str, object]:
    """One benchmark's object."""
    command = [sys.executable, str(script), "--json", *(["--quick"] if quick else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=script.parent)
    if done.returncode:
        raise SystemExit(f"{script.name} failed:\n{done.stderr[-2000:]}")
    result: dict[str, object] = json.loads(done.stdout)
    return result


def revision() -> str:
    """Of what is measured, as git calls it."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout.strip() or "no revision"


def verdict(figure: dict[str, object]) -> str:
    """`met` or `missed`, nothing where there is no target."""
    value, target = figure["value"], figure.get("target")
    if not isinstance(target, int | float) or not isinstance(value, int | float):
        return ""
    return "met" if (value <= target if figure["better"] == "lower" else value >= target) else "**missed**"


def row(figure: dict[str, object]) -> str:
    """One line of a table."""
    target = figure.get("target")
    wanted = f"{SIGNS[str(figure['better'])]} {target:g}" if isinstance(target, int | float) else ""
    value = figure["value"]
    shown = f"{value:,.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:,.0f}"
    return f"| {figure['what']} | {shown} {figure['unit']} | {wanted} | {verdict(figure)} |"


def render(results: list[dict[str, object]], *, quick: bool) -> str:
    """The page."""
    lines = [
        "# Performance",
        "",
        "Made by `make bench`: every figure is measured, ratios within one run. RATIONALE.md says why one is missed.",
        "What data is kept in, and as, has tables of its own: [data-figures.md](data-figures.md).",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, wasmtime {version('wasmtime')}" + (", `--quick`." if quick else "."),
        "",
    ]
    for result in results:
        if result["name"] in render_data.OWN:
            continue
        figures = result["figures"]
        assert isinstance(figures, list)
        lines += [f"## {result['name']}", "", str(result.get("date", "")), ""]
        lines += ["| figure | value | target | |", "|---|---|---|---|"]
        lines += [row(figure) for figure in figures]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run what was asked for, keep the rest as it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    scripts = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in HELPERS)
    kept = {item["name"]: item for item in json.loads(RESULTS.read_text())} if RESULTS.exists() else {}
    results = []
    for script in scripts:
        if arguments.names and script.stem not in arguments.names:
            if script.stem in kept:
                results.append(kept[script.stem])
            continue
        print(f"{script.stem} ...", flush=True)
        result = run(script, quick=arguments.quick)
        result["name"], result["date"] = script.stem, f"{datetime.now(UTC):%Y-%m-%d}, {revision()}"
        results.append(result)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(render(results, quick=arguments.quick), encoding="utf-8")
    render_data.write(results)


if __name__ == "__main__":
    main()
