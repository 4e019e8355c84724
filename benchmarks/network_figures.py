"""What calls between subnets cost, against calls within one; and what it costs a subnet to be one of a network.

    python benchmarks/network_figures.py [--quick] [--json]

Processor time. A call is made by a counter in Motoko, ``incOther``: three entries, a request and a response. The first
figures are of a simulation of many subnets, the last ones of two worker processes: what one process takes, against what
the busier worker and the network's own process take together, which is what it takes on cores of their own; and what it
took by the clock.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from figures import Table, main
from perdure import Canister, Network, Principal, Subnet
from perdure.candid import encode, parse_types
from perdure.execution import submit_ingress

WASM = Path(__file__).parents[1] / "tests" / "canisters" / "modules" / "motoko_eop_v1.wasm.gz"
BATCH = 100
NOTHING = encode((), [])


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def _batch(caller: Canister, callee: Principal, count: int, go_on: Callable[[], object]) -> float:
    """Seconds of a call."""
    arg = encode(parse_types("(principal)"), [callee])
    world = caller._subnet._world
    for _ in range(count):
        submit_ingress(world, caller.id.raw_bytes, "incOther", arg)
    return _seconds(go_on) / count


def _updates(counter: Canister) -> float:
    return _seconds(lambda: [counter.update("inc", NOTHING) for _ in range(100)])


def _simulate(table: Table, count: int) -> None:
    """A network of so many subnets, each with a counter, and what a round, and a call to somebody drawn, takes."""
    drawn = random.Random(1)
    before = _resident_bytes()
    with Network(count) as network:
        made = [subnet.install(WASM) for subnet in network.subnets]
        table.add(
            f"{count} subnets with a canister each, memory of one", (_resident_bytes() - before) / count / 1024, "KiB"
        )
        for _ in range(3):
            network.tick()
        idle = _seconds(lambda: [network.tick() for _ in range(20)]) / 20
        table.add(f"{count} subnets, a round in which nothing happens", idle * 1e3, "ms")
        for each in (1, 10):
            for caller in made:
                for _ in range(each):
                    arg = encode(parse_types("(principal)"), [drawn.choice(made).id])
                    submit_ingress(caller._subnet._world, caller.id.raw_bytes, "incOther", arg)
            seconds = _seconds(network.run_until_idle)
            table.add(
                f"{count} subnets, {each} calls of each to drawn ones, a call", seconds / count / each * 1e6, "us"
            )


def _simulate_all_to_all(table: Table, count: int) -> None:
    with Network(count) as network:
        made = [subnet.install(WASM) for subnet in network.subnets]
        for caller in made:
            for callee in made:
                if callee.id != caller.id:
                    arg = encode(parse_types("(principal)"), [callee.id])
                    submit_ingress(caller._subnet._world, caller.id.raw_bytes, "incOther", arg)
        seconds = _seconds(network.run_until_idle)
        table.add(
            f"{count} subnets, a call of each to each other one, a call", seconds / count / (count - 1) * 1e6, "us"
        )


def _ran_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


def _let_in(network: Network, counters: list[Principal], method: str, count: int) -> None:
    """So many requests to each of two counters, which wait until rounds are run."""
    for counter, other in (counters, counters[::-1]):
        arg = NOTHING if method == "inc" else encode(parse_types("(principal)"), [other])
        handle: Any = network.canister(counter)
        if network.processes:
            handle._ask("_submit", method, arg, count=count)
            continue
        for _ in range(count):
            submit_ingress(handle._subnet._world, counter.raw_bytes, method, arg)


def _run(network: Network, counters: list[Principal], method: str, count: int) -> tuple[float, float]:
    """Seconds until nothing is left to do: by the clock, and of processors where each process has one of its own."""
    _let_in(network, counters, method, count)
    pids = [one for one in network.processes if one is not None]
    before = [_ran_seconds(pid) for pid in pids]
    start, own = time.perf_counter(), time.process_time()
    network.run_until_idle()
    own, taken = time.process_time() - own, time.perf_counter() - start
    return taken, own + max((_ran_seconds(pid) - was for pid, was in zip(pids, before, strict=True)), default=0.0)


def _two_workers(table: Table, rounds: int, count: int) -> None:
    """Two subnets in this process against two in workers."""
    with Network(2) as one, Network(2, processes=2) as two:
        counters = [subnet.install(WASM).id for subnet in one.subnets]
        assert [subnet.install(WASM).id for subnet in two.subnets] == counters
        for method, what in (("inc", "messages of no work"), ("incOther", "calls across")):
            pairs = []
            for number in range(rounds + 1):
                pair = [_run(network, counters, method, count) for network in (one, two)]
                if number:
                    pairs.append(pair)
            for at, kind, target in ((0, "time", 1.7), (1, "processor time of whoever is longest", None)):
                ratio = median(here[at] / there[at] for here, there in pairs)
                table.add(f"{what}: one process / two workers, {kind}", ratio, "x", target, "higher")
        ratios = []
        for _ in range(rounds):
            pid = two.processes[0] or 0
            was = _ran_seconds(pid)
            own = _updates(two.canister(counters[0]))
            ratios.append((own, _ran_seconds(pid) - was, _updates(one.canister(counters[0]))))
        table.add("an update by a handle, in the network's process", median(own for own, _, _ in ratios) * 1e4, "us")
        table.add("an update by a handle, in the worker", median(other for _, other, _ in ratios) * 1e4, "us")
        table.add("an update in this process", median(here for *_, here in ratios) * 1e4, "us")


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def measure(quick: bool) -> Table:
    """All figures."""
    table, rounds = Table("network_figures"), 10 if quick else 60
    _simulate(table, 20 if quick else 1_000)
    _simulate_all_to_all(table, 10 if quick else 200)
    with Subnet() as alone, Network(2) as network:
        first, second = alone.install(WASM), alone.install(WASM)
        near, far = (subnet.install(WASM) for subnet in network.subnets)
        for size in (BATCH, 1):
            pairs = []
            for number in range(rounds + 2):
                local = _batch(first, second.id, size, alone.run_until_idle)
                across = _batch(near, far.id, size, network.run_until_idle)
                if number > 1:
                    pairs.append((across, local))
            what = f"a call across in batches of {size}" if size > 1 else "a call across, one at a time"
            table.add(what, median(across for across, _ in pairs) * 1e6, "us")
            table.add(
                f"{what} / a local one", median(one / other for one, other in pairs), "x", 1.2 if size > 1 else None
            )
        ratios = []
        for _ in range(rounds):
            # The second of two that take turns would pay for what the first has left to the collector.
            seconds = [_updates(one) for one in (near, first, first, near)]
            ratios.append((seconds[0] + seconds[3]) / (seconds[1] + seconds[2]))
        table.add("an update of one of a network's subnets / of a subnet alone", median(ratios), "x", 1.03)
    _two_workers(table, 3 if quick else 15, 500 if quick else 2_000)
    return table


if __name__ == "__main__":
    main(measure)
