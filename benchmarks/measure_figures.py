"""What measuring costs: a profile's time and code, writing it, benchmarks beside their messages, a report, heat.

    python benchmarks/measure_figures.py [--quick] [--json]

Processor time, medians of alternating runs. The map is the demo's: 1,000 entries a message.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from statistics import median

from figures import Table, main
from perdure import Subnet
from perdure.embedder import compile_module
from perdure.execution.events import Ended
from perdure.instrument import Options
from perdure.measure.bench import Benchmarks
from perdure.measure.canbench_files import Config
from perdure.measure.report import Report
from perdure.subnet import Canister

ROOT = Path(__file__).parent.parent
MAP = ROOT / "src/perdure/demo/insert_many.wasm.gz"
SHORT = ROOT / "tests/canisters/modules/kv32.wasm"
BENCHES = ROOT / "tests/canisters/modules/benches.wasm.gz"
MODULES = (MAP, *(ROOT / f"tests/canisters/modules/{name}.wasm.gz" for name in ("ledger", "motoko_eop_v1")))


def inserting(messages: int) -> tuple[Subnet, Callable[[], float]]:
    """A map that is ready, and what inserts into it and tells the processor time."""
    subnet = Subnet()
    actor = subnet.install(MAP).actor()
    source = random.Random(1)
    rows = [[(source.getrandbits(128), source.getrandbits(128)) for _ in range(1_000)] for _ in range(messages)]
    actor.insert_many(rows[0])

    def run() -> float:
        start = time.process_time()
        for entries in rows:
            actor.insert_many(entries)
        return time.process_time() - start

    return subnet, run


def profile_ratio(messages: int) -> float:
    _, plain = inserting(messages)
    subnet, profiled = inserting(messages)
    with subnet.profile():
        profiled()
        return profiled() / plain()


def report_ratio(messages: int) -> float:
    _, plain = inserting(messages)
    subnet, reported = inserting(messages)
    Report().watch(subnet._world, lambda raw_id: "map")
    return reported() / plain()


def heat_ratio(messages: int, **options: bool) -> float:
    _, plain = inserting(messages)
    subnet, counted = inserting(messages)
    with subnet.heat(**options):
        found = counted()
    return found / plain()


def short_heat_ratio(messages: int, **options: bool) -> float:
    """Of messages that do next to nothing, which take turns."""
    subnets = [Subnet(), Subnet()]
    canisters = [subnet.install(SHORT, bytes(8)) for subnet in subnets]

    def run(canister: Canister) -> float:
        start = time.process_time()
        for _ in range(messages):
            canister.update("debug_print", b"said")
        return time.process_time() - start

    found = []
    for _ in range(3):
        with subnets[0].heat(**options):
            run(canisters[0])
            counted = run(canisters[0])
        found.append(counted / run(canisters[1]))
    return median(found)


def totals_differ() -> int:
    """Instructions by which a profile's total differs from what the messages were charged for."""
    subnet, run = inserting(3)
    with subnet.profile() as profile, subnet.events() as stream:
        run()
    return abs(profile.total_instructions - sum(one.instructions for one in stream if isinstance(one, Ended)))


def _resident(messages: int, profiled: bool) -> tuple[int, int, float]:
    """In a process of its own: the most that was resident in KiB, calls that were counted, seconds for speedscope."""
    subnet, run = inserting(messages)
    calls, seconds = 0, 0.0
    if profiled:
        with subnet.profile() as profile:
            run()
        start = time.process_time()
        profile.speedscope()
        calls, seconds = sum(profile.calls), time.process_time() - start
    else:
        run()
    return getrusage(RUSAGE_SELF).ru_maxrss, calls, seconds


def large_profile(messages: int) -> tuple[int, int, float]:
    """MiB that a profile takes beside the plain run, its calls, seconds for writing speedscope's file."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        plain, _, _ = pool.submit(_resident, messages, False).result()
        profiled, calls, seconds = pool.submit(_resident, messages, True).result()
    return max(0, profiled - plain) >> 10, calls, seconds


def bench_ratio() -> float:
    """All that `perdure bench` does for a benchmark beside its message's own time, a hundred of them."""
    benchmarks = Benchmarks(Config(""), BENCHES.read_bytes())
    names = ["insert"] * 100
    list(benchmarks.run(["insert"]))
    start = time.process_time()
    list(benchmarks.run(names))
    whole = time.process_time() - start
    start = time.process_time()
    for _ in names:
        benchmarks.canister.query("__canbench__insert", b"DIDL\x00\x01\x7f")
    return whole / (time.process_time() - start)


def measure(quick: bool) -> Table:
    rounds, messages = (3, 5) if quick else (5, 20)
    table = Table("measure")
    table.add("profiled and plain totals, difference", totals_differ(), "instructions", 0)
    table.add("time, profiled / plain", median(profile_ratio(messages) for _ in range(rounds)), "ratio", 2.2)
    for path in MODULES:
        wasm = path.read_bytes()
        sizes = [len(compile_module(wasm, Options(profile=flag)).serialize()) for flag in (True, False)]
        table.add(f"native code, profiled / plain, {path.name.split('.')[0]}", sizes[0] / sizes[1], "ratio", 1.15)
    mebibytes, calls, seconds = large_profile(messages if quick else 80)
    table.add(f"memory of a profile of {calls:,} calls", mebibytes, "MiB", 64)
    table.add(f"writing speedscope's file of {calls:,} calls", seconds, "s", 2)
    table.add("time, report / none", median(report_ratio(messages) for _ in range(rounds)), "ratio", 1.03)
    for options, goal in (({}, 1.03), ({"changed_bytes": True}, None), ({"heap_reads": True}, None)):
        name = f"time, heat {' '.join(options)}".rstrip() + " / none"
        table.add(name, median(heat_ratio(messages, **options) for _ in range(rounds)), "ratio", goal)
        short = median(short_heat_ratio(100 * messages, **options) for _ in range(rounds))
        table.add(f"{name}, messages of 60 us", short, "ratio", goal)
    table.add("100 benchmarks / their messages alone", bench_ratio(), "ratio", 1.3)
    return table


if __name__ == "__main__":
    main(measure)
