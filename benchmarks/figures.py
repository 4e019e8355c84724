"""What every benchmark prints: a table for people, or with --json one object for machines.

A script measures in a function that takes `quick` and returns a `Table`, and ends with ``main(measure)``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Literal

__all__ = ["Figure", "Table", "best_ns", "main", "median_ns"]


@dataclass
class Figure:
    """One number, its unit, and what it should be; `target` is `None` where a number is only reported."""

    what: str
    value: float
    unit: str
    target: float | None = None
    better: Literal["lower", "higher"] = "lower"

    @property
    def verdict(self) -> str:
        """`met`, `missed`, or nothing where there is no target."""
        if self.target is None:
            return ""
        met = self.value <= self.target if self.better == "lower" else self.value >= self.target
        return "met" if met else "missed"


@dataclass
class Table:
    """The figures of one script."""

    name: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self,
        what: str,
        value: float,
        unit: str,
        target: float | None = None,
        better: Literal["lower", "higher"] = "lower",
    ) -> None:
        """Add a figure."""
        self.figures.append(Figure(what, value, unit, target, better))


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


def median_ns(run: Callable[[], object], repeat: int) -> float:
    """Median time of one call, in ns, over `repeat` calls."""
    return median(_seconds(run) for _ in range(repeat))


def best_ns(run: Callable[[], object], repeat: int) -> float:
    """Least time of one call, in ns: for loops inside Wasm, where noise only ever adds."""
    return min(_seconds(run) for _ in range(repeat))


def main(measure: Callable[[bool], Table]) -> None:
    """Measure and print, as the command line says."""
    parser = argparse.ArgumentParser(description=measure.__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, under 30 s")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    table = measure(arguments.quick)
    if arguments.json:
        print(json.dumps(asdict(table), indent=1))
        return
    width = max(len(figure.what) for figure in table.figures)
    print(table.name)
    for figure in table.figures:
        sign = "<=" if figure.better == "lower" else ">="
        target = f"  ({sign} {figure.target:g}: {figure.verdict})" if figure.target is not None else ""
        print(f"  {figure.what:{width}}  {figure.value:>12,.3f} {figure.unit}{target}")
