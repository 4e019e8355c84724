"""Two subnets on two threads: what the engine's release of the interpreter lock is worth, by length of message.

Each subnet belongs to one thread; the rules of one subnet run on one thread at a time. The figures depend on how busy
the machine is, so hashing, which needs no lock at all, is measured beside them.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
from collections.abc import Callable
from statistics import median

from engine import module
from figures import Table, main
from perdure import Canister, Subnet


def words(*numbers: int) -> bytes:
    """An argument of the test canister."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def seconds(runs: list[Callable[[], None]], *, threads: bool) -> float:
    """Time of all of them, one after the other or each on a thread of its own."""
    workers = [threading.Thread(target=run) for run in runs] if threads else []
    start = time.perf_counter_ns()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if not threads:
        for run in runs:
            run()
    return (time.perf_counter_ns() - start) / 1e9


def busy(canister: Canister, turns: int, messages: int) -> Callable[[], None]:
    """Send messages that loop."""
    arg = words(turns)

    def run() -> None:
        for _ in range(messages):
            canister.update("bare", arg)

    return run


def turns_for(canister: Canister, seconds_each: float) -> int:
    """How many turns of the loop take so long."""
    turns = 1_000_000
    elapsed = min(seconds([busy(canister, turns, 1)], threads=False) for _ in range(3))
    return max(1, int(turns * seconds_each / elapsed))


def hash_mb(size: int) -> Callable[[], None]:
    """Work that needs neither engine nor lock, to see what the machine has to give."""
    data = bytes(size)

    def run() -> None:
        hashlib.sha256(data).digest()

    return run


def speedup(runs: list[Callable[[], None]], repeat: int) -> float:
    """Time on one thread by time on two, measured in turns."""
    one, two = [], []
    for _ in range(repeat):
        one.append(seconds(runs, threads=False))
        two.append(seconds(runs, threads=True))
    return median(one) / median(two)


def measure(quick: bool) -> Table:
    """Measure two busy canisters, each in a subnet of its own, on two threads against one."""
    table = Table("parallel")
    canisters = [Subnet().install(module("stable_access")) for _ in range(2)]
    repeat = 5 if quick else 20
    table.add("load of the machine, beforehand", os.getloadavg()[0], "processes")
    table.add("cores", len(os.sched_getaffinity(0)), "cores")
    table.add(
        "hashing 100 MB, no engine: on two threads / on one", speedup([hash_mb(100_000_000)] * 2, repeat), "ratio"
    )
    for what, length, messages, target in (
        ("0.1 s", 0.1, 3, 1.6),
        ("10 ms", 0.01, 20, None),
        ("1 ms", 0.001, 200, None),
        ("no work", 0.0, 2_000, 1.0),
    ):
        turns = turns_for(canisters[0], length)
        runs = [busy(canister, turns, messages) for canister in canisters]
        table.add(f"messages of {what}: time on one thread / on two", speedup(runs, repeat), "ratio", target, "higher")
    return table


if __name__ == "__main__":
    main(measure)
