"""Two busy canisters on two threads, of two subnets and of one: what running beside each other is worth, by length.

The figures depend on how busy the machine is, so hashing, which needs no lock at all, is measured beside them. With a
state directory, what threads share is the wait for the disk.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import wasmtime

from figures import Table, main
from perdure import Canister, Subnet

CLIENTS = 8

CANISTER = """(module
  (import "ic0" "msg_arg_data_copy" (func $copy (param i32 i32 i32)))
  (import "ic0" "msg_reply" (func $reply))
  (memory 1)
  (func $loop (local $turns i64)
    (call $copy (i32.const 0) (i32.const 0) (i32.const 8))
    (local.set $turns (i64.load (i32.const 0)))
    (loop $next
      (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (local.get $turns)))
      (br_if $next (i64.ne (local.tee $turns (i64.sub (local.get $turns) (i64.const 1))) (i64.const 0))))
    (call $reply))
  (func (export "canister_update loop") (call $loop))
  (func (export "canister_query look") (call $loop)))
"""


def wasm() -> bytes:
    """A canister that adds up so many numbers."""
    return bytes(wasmtime.wat2wasm(CANISTER))


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


def busy(canister: Canister, turns: int, messages: int, *, query: bool = False) -> Callable[[], None]:
    """Send messages that loop."""
    arg = words(turns)

    def update() -> None:
        for _ in range(messages):
            canister.update("loop", arg)

    def look() -> None:
        for _ in range(messages):
            canister.query("look", arg)

    return look if query else update


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
    """Time on one thread by time on as many as there are, measured in turns."""
    one, many = [], []
    for _ in range(repeat):
        one.append(seconds(runs, threads=False))
        many.append(seconds(runs, threads=True))
    return median(one) / median(many)


def in_memory(table: Table, canisters: list[Canister], whose: str, *, quick: bool, query: bool = False) -> None:
    """Messages of several lengths, from one thread and from two."""
    kind = "queries" if query else "messages"
    for what, length, messages, target in (
        ("0.1 s", 0.1, 3, 1.6),
        ("10 ms", 0.01, 20, None),
        ("1 ms", 0.001, 200, None),
        ("no work", 0.0, 8_000, 1.0),  # long enough that the pause of whoever ends last does not matter
    ):
        turns = turns_for(canisters[0], length)
        runs = [busy(canister, turns, messages, query=query) for canister in canisters]
        label = f"{whose}, {kind} of {what}: time on one thread / on two"
        aim = target if whose == "one subnet" else None
        table.add(label, speedup(runs, 3 if quick else 10), "ratio", aim, "higher")


def durable(table: Table, *, quick: bool) -> None:
    """Short messages, each on the platter before its reply, for as many canisters of a subnet as there are threads."""
    place = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as directory, Subnet(f"{directory}/state") as subnet:
        canisters = [subnet.install(wasm()) for _ in range(CLIENTS)]
        runs = [busy(canister, 1, 25 if quick else 100) for canister in canisters]
        label = f"one durable subnet, messages of no work: time on one thread / on {CLIENTS}"
        table.add(label, speedup(runs, 3 if quick else 10), "ratio", None, "higher")


def measure(quick: bool) -> Table:
    """Measure busy canisters, each on a thread of its own, against all on one."""
    table = Table("parallel")
    hashing = [hash_mb(100_000_000)] * 2
    table.add("load of the machine, beforehand", os.getloadavg()[0], "processes")
    table.add("cores", len(os.sched_getaffinity(0)), "cores")
    table.add("hashing 100 MB, no engine: on two threads / on one", speedup(hashing, 5 if quick else 20), "ratio")
    in_memory(table, [Subnet().install(wasm()) for _ in range(2)], "two subnets", quick=quick)
    subnet = Subnet()
    canisters = [subnet.install(wasm()) for _ in range(2)]
    in_memory(table, canisters, "one subnet", quick=quick)
    in_memory(table, canisters, "one subnet", quick=quick, query=True)
    durable(table, quick=quick)
    return table


if __name__ == "__main__":
    main(measure)
