"""What size costs: forks and snapshots of 10 GiB, a hundred thousand canisters in one process."""

from __future__ import annotations

import gc
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from engine import module
from figures import Table, main
from perdure import Canister, Subnet

GIB = 1 << 30
STATE_BYTES = 10 * GIB
BLOCK_BYTES = 2 << 20
PART_BYTES = GIB  # what one message writes; 2 GiB are its limit
LONG_TURNS = 2_000_000
BLOCKS = 50


def words(*numbers: int) -> bytes:
    """An argument of the test canisters."""
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def ms(run: Callable[[], object]) -> float:
    """Time of one call."""
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


# --- forks


def large_state(*, every_page: bool) -> Canister:
    """A canister with 10 GiB of stable memory: every page written, or one in each 2 MiB."""
    canister = Subnet().install(module("stable_access"))
    canister.update("reserve", words(STATE_BYTES >> 16))
    if every_page:
        for start in range(0, STATE_BYTES, PART_BYTES):
            canister.update("write_blocks", words(PART_BYTES >> 20, start, 1 << 20, 1 << 20))
    else:
        canister.update("write_blocks", words(STATE_BYTES // BLOCK_BYTES, 0, 4096, BLOCK_BYTES))
    canister.update("touch")
    return canister


def forks(table: Table, quick: bool) -> None:
    """Forking, and the first message afterwards; against a state of its own that nobody ever forks."""
    forked, alone = large_state(every_page=not quick), large_state(every_page=False)
    messages: dict[str, Callable[[Canister], object]] = {
        "first message that writes two pages": lambda canister: canister.update("touch"),
        f"first message of {LONG_TURNS:,} writes": lambda canister: canister.update("write8", words(LONG_TURNS, 0)),
        f"first {BLOCKS} messages that write a page of another 2 MiB each": _write_blocks_one_by_one,
    }
    ready: list[float] = []
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in messages}
    for turn in range(16 if quick else 50):
        for name, send in messages.items():
            gc.collect()  # of the forks before
            subnet, elapsed = _fork(forked)
            ready.append(elapsed)
            twin = subnet.canister(forked.id)
            _make_instance_anew(alone)
            # Whoever comes first finds the caches cold and pays up to a fifth more, fork or not: they take turns.
            for which in ((0, 1), (1, 0))[turn % 2]:
                times[name][which].append(ms(lambda: send((twin, alone)[which])))  # noqa: B023
            subnet.close()
    touched = "one page in each 2 MiB touched" if quick else "every page touched"
    table.add(f"fork of 10 GiB, {touched}, instance ready", median(ready), "ms", 5)
    for name in messages:
        after_fork, without = map(_typical, times[name])
        what = f"{name}, after a fork / of a new instance without fork"
        table.add(what, after_fork / without, "ratio", 1.2 if "first message" in name else None)
        table.add("  what the fork adds", 1e3 * (after_fork - without), "us")


def _typical(times: list[float]) -> float:
    """Between the median of those that came first in their turn and of those that came second."""
    return (median(times[::2]) + median(times[1::2])) / 2


def _write_blocks_one_by_one(canister: Canister) -> None:
    for block in range(BLOCKS):
        canister.update("write_blocks", words(1, block * BLOCK_BYTES, 4096, BLOCK_BYTES))


def _fork(canister: Canister) -> tuple[Subnet, float]:
    start = time.perf_counter_ns()
    subnet = canister._subnet.fork()
    subnet.canister(canister.id).stable.size()  # makes the instance
    return subnet, (time.perf_counter_ns() - start) / 1e6


def _make_instance_anew(canister: Canister) -> None:
    canister._instance.evict()
    canister.stable.size()


# --- snapshots


def snapshots(table: Table, quick: bool) -> None:
    """Opening a downloaded snapshot, to the first answer."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "snapshot"
        large_state(every_page=False).write_snapshot(path)

        def first_answer() -> None:
            with Subnet.open(path) as subnet:
                subnet.canisters[0].query("peek")

        first_answer()  # compiles the module into the cache, if need be
        elapsed = median(ms(first_answer) for _ in range(5 if quick else 30))
    what = "open a snapshot of 10 GiB (one page in each 2 MiB holds data), answer a query, close"
    table.add(what, elapsed, "ms", 50)


# --- many canisters


def resident_bytes() -> int:
    """What the process has in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def many(table: Table, quick: bool) -> None:
    """Thousands of canisters from one module."""
    count = 2_000 if quick else 100_000
    code = module("kv32")
    subnet = Subnet()
    handles = [subnet.install(code, words(5)) for _ in range(100)]
    gc.collect()
    before = resident_bytes()
    installs = []
    for _ in range(count - 100):
        start = time.perf_counter_ns()
        handles.append(subnet.install(code, words(5)))
        installs.append(time.perf_counter_ns() - start)
    gc.collect()
    # Touched pages are page cache of an unlinked file; what of them an instance has mapped counts as resident, too.
    each = (resident_bytes() - before) / (count - 100) / 1024
    table.add(f"{count:,} canisters of one module: resident memory each, pages in use included", each, "KiB", 10)
    table.add("one more canister of a cached module", median(installs[-1_000:]) / 1e6, "ms", 2)
    active = handles[-1_000:]
    for handle in active:
        handle.update("inc")

    def turn() -> None:
        for handle in active:
            handle.update("inc")

    table.add("an update to each of 1,000 canisters in turn, each", ms(turn), "us")
    table.add(
        "kernel mappings of the process", Path("/proc/self/maps").read_text(encoding="utf-8").count("\n"), "", 65_530
    )
    table.add("open files of the process", len(list(Path("/proc/self/fd").iterdir())), "", 64)
    forks_of_many(table, subnet, handles)


def forks_of_many(table: Table, subnet: Subnet, handles: list[Canister]) -> None:
    """What a fork costs where there are many canisters, of which it uses few."""
    target = handles[len(handles) // 2].id

    def fork() -> Subnet:
        twin = subnet.fork()
        twin.canister(target).update("inc")
        return twin

    gc.collect()
    table.add(f"fork of {len(handles):,} canisters, and one update in it", median(ms(fork) for _ in range(9)), "ms", 50)
    twin = fork()
    times: tuple[list[float], list[float]] = [], []
    for turn, handle in enumerate(handles[:1_000]):  # there is no instance of any of them, here or there
        both = twin.canister(handle.id), handle
        for which in ((0, 1), (1, 0))[turn % 2]:
            times[which].append(ms(lambda: both[which].query("count")))  # noqa: B023
    ratio = _typical(times[0]) / _typical(times[1])
    table.add("a query of each of 1,000 in the fork / in the original", ratio, "ratio", 1.1)


def measure(quick: bool) -> Table:
    """Measure what size costs. The long form writes 10 GiB to a temporary file."""
    table = Table("scale_figures")
    many(table, quick)
    snapshots(table, quick)
    forks(table, quick)
    return table


if __name__ == "__main__":
    main(measure)
