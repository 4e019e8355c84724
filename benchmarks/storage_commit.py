"""Commits that are not durable, against plain `pwrite` of the same pages; and the first commit after a fork.

python benchmarks/storage_commit.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

from perdure.canister import PageDelta
from perdure.storage import TemporaryImage, TemporaryStore

PAGE = 4096
MEMORY_PAGES = 1 << 18  # 1 GiB


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def ratio(ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median of the ratios of neighbouring runs, order alternating, and our median in microseconds."""
    ours(), theirs()
    ratios, times = [], []
    for number in range(rounds):
        if number % 2:
            first, second = seconds(ours), seconds(theirs)
        else:
            second, first = seconds(theirs), seconds(ours)
        ratios.append(first / second)
        times.append(first)
    return statistics.median(ratios), statistics.median(times) * 1e6


def figures(quick: bool) -> list[dict[str, object]]:
    rounds = 7 if quick else 31
    store = TemporaryStore()
    image = TemporaryImage(store)
    image.commit(PageDelta(MEMORY_PAGES // 16, []))
    rng = random.Random(1)
    scattered = [(index * PAGE, rng.randbytes(PAGE)) for index in sorted(rng.sample(range(MEMORY_PAGES), 1000))]
    adjacent = [(0, rng.randbytes(1000 * PAGE) * 100)]
    one = [(5 * PAGE, rng.randbytes(PAGE))]
    found: list[dict[str, object]] = []
    with tempfile.TemporaryFile(dir=store.directory, buffering=0) as file:
        os.ftruncate(file.fileno(), MEMORY_PAGES * PAGE)
        for what, runs, repeat in (
            ("1,000 scattered pages", scattered, 1),
            ("100,000 adjacent pages", adjacent, 1),
            ("1 page", one, 1000),
        ):
            delta = PageDelta(MEMORY_PAGES // 16, runs)

            def ours(delta: PageDelta = delta, repeat: int = repeat) -> None:
                for _ in range(repeat):
                    image.commit(delta)

            def theirs(runs: list[tuple[int, bytes]] = runs, repeat: int = repeat) -> None:
                for _ in range(repeat):
                    for address, data in runs:
                        os.pwrite(file.fileno(), data, address)

            value, microseconds = ratio(ours, theirs, rounds)
            target = 1.5 if repeat == 1 else None
            found.append(figure(f"commit of {what} / plain pwrite", value, "ratio", target))
            found.append(figure(f"commit of {what}", microseconds / repeat, "us", None))
    forks, firsts = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        child = image.fork()
        forked = time.perf_counter()
        child.commit(PageDelta(MEMORY_PAGES // 16, one))
        firsts.append(time.perf_counter() - forked)
        forks.append(forked - start)
        child.close()
    found.append(figure("fork of an image with 400 MB touched", statistics.median(forks) * 1e6, "us", 5000))
    found.append(figure("first commit of one page after a fork", statistics.median(firsts) * 1e6, "us", None))
    store.close()
    return found


def figure(what: str, value: float, unit: str, target: float | None) -> dict[str, object]:
    return {"what": what, "value": round(value, 3), "unit": unit, "target": target, "better": "lower"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = figures(arguments.quick)
    if arguments.json:
        print(json.dumps({"name": "storage_commit", "figures": found}))
    else:
        for entry in found:
            print(f"{entry['what']}: {entry['value']} {entry['unit']} (target {entry['target']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
