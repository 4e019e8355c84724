"""Messages in this checkout against another one.

    python benchmarks/against.py --base CHECKOUT [--quick] [--json] [NAME...]

Each checkout runs the same actions in a process of its own, with the Python of its `.venv`, in alternating batches;
what counts is processor time. A figure is the median over the pairs of ours / theirs, with the interval in which the
median lies with 95 % certainty, whatever the distribution. Only what both checkouts have of the public interface is
used.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from math import comb
from pathlib import Path
from statistics import median

PAIRS = 20
TARGET = 1.05
TARGETS = {"an install": 1.1, "a fork and its first update": None}
BATCHES = 4  # of each side in a pair, in turns
NAMES = ["an update", "a query", "a durable update", "a fork", "a fork and its first update", "an install"]

CANISTER = (Path(__file__).parents[1] / "tests" / "subnet" / "a_page_each.wat").read_text(encoding="utf-8")
"""An update writes a page of the heap and one of stable memory."""

Action = Callable[[], object]


# -- in each checkout


def actions(directory: str) -> dict[str, tuple[Action, int]]:
    """What is timed, by name, and how often in a batch."""
    import wasmtime  # of the checkout that this process is for

    from perdure import Subnet

    wasm = bytes(wasmtime.wat2wasm(CANISTER))
    memory, durable, crowded = Subnet(), Subnet(directory), Subnet()
    canister, kept = memory.install(wasm), durable.install(wasm)
    canister_id = canister.id

    def fork() -> None:
        with memory.fork() as twin:
            twin.canister(canister_id).update("both")

    return {
        "an update": (lambda: canister.update("both"), 250),
        "a query": (lambda: canister.query("look"), 500),
        "a durable update": (lambda: kept.update("both"), 150),
        "a fork": (lambda: memory.fork().close(), 100),
        "a fork and its first update": (fork, 30),
        "an install": (lambda: crowded.install(wasm), 20),
    }


def serve() -> None:
    """Time a batch of the action on each line, and print what one took, in ns of processor time."""
    with tempfile.TemporaryDirectory() as directory:
        known = actions(f"{directory}/state")
        for line in sys.stdin:
            action, count = known[line.strip()]
            start = time.process_time_ns()
            for _ in range(count):
                action()
            print((time.process_time_ns() - start) / count, flush=True)


# -- of both


class Checkout:
    """A process of one checkout."""

    def __init__(self, root: Path) -> None:
        command = [str(root / ".venv" / "bin" / "python"), __file__, "--serve"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)

    def time_ns(self, name: str) -> float:
        """Time of one of a batch."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(name, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def interval(values: list[float]) -> tuple[float, float]:
    """Where the median lies with 95 % certainty: the outermost values beyond which it can be left so seldom."""
    ordered, count = sorted(values), len(values)
    outside, cut = 0.0, 0
    while cut < (count - 1) // 2 and outside + 2 * comb(count, cut) / 2**count <= 0.05:
        outside += 2 * comb(count, cut) / 2**count
        cut += 1
    cut = max(0, cut - 1)
    return ordered[cut], ordered[-1 - cut]


def compare(ours: Checkout, base: Checkout, name: str, pairs: int) -> dict[str, object]:
    """The figure of one action."""
    for side in (ours, base):
        side.time_ns(name)
    ratios, times = [], []
    for number in range(pairs):
        sides = [ours, base] if number % 2 else [base, ours]
        totals = dict.fromkeys(sides, 0.0)
        for _ in range(BATCHES):
            for side in sides:
                totals[side] += side.time_ns(name)
        ratios.append(totals[ours] / totals[base])
        times.append(totals[ours] / BATCHES / 1000)
    low, high = interval(ratios)
    return {
        "what": f"{name} / the same in the other checkout ({low:.3f} to {high:.3f}; {median(times):.1f} us)",
        "value": median(ratios),
        "unit": "ratio",
        "target": TARGETS.get(name, TARGET),
        "better": "lower",
    }


def main() -> None:
    """Compare, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="the other checkout, with a .venv of its own")
    parser.add_argument("--quick", action="store_true", help="fewer pairs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help="which actions; by default all")
    arguments = parser.parse_args()
    if arguments.serve:
        serve()
        return
    if arguments.base is None:
        parser.error("--base is missing")
    ours, base = Checkout(Path(__file__).parents[1]), Checkout(arguments.base.resolve())
    names = arguments.names or NAMES
    figures = []
    for name in names:
        figures.append(figure := compare(ours, base, name, 6 if arguments.quick else PAIRS))
        if not arguments.json:
            print(f"{figure['what']}: {figure['value']:.3f}", flush=True)
    ours.close()
    base.close()
    if arguments.json:
        print(json.dumps({"name": "against", "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
