"""Ways to keep data, in Rust: one workload on the heap, saved by hooks, copied to cells, in place; upgrades included.

Entries are four numbers by a key of 64 bits. Instructions are the replica's, counted around the loop alone and so the
same on every machine; an upgrade's are those of its hooks. Usage: ways_figures.py [--quick] [--json]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from engine import module
from figures import Table, main
from perdure import Subnet
from perdure.execution.events import Ended
from perdure.subnet import Canister

WAYS = (
    "heap alone, ordered tree",
    "heap alone, hash table",
    "heap, hooks in Candid, ordered tree",
    "heap, hooks in Protobuf, ordered tree",
    "cells copied, Candid, ordered tree",
    "cells copied, Protobuf, ordered tree",
    "cells copied, fixed struct, ordered tree",
    "in place by stable64_read, ordered tree",
    "in place by stable64_read, hash table",
    "in place by direct loads, ordered tree",
    "in place by direct loads, hash table",
)
LOSES = 2
"""The first ones keep nothing over an upgrade."""
STEP = 10_000
T = TypeVar("T")
SAMPLE = 100_000


def timed(run: Callable[[], T]) -> tuple[T, float]:
    """What a call gives, and the processor time that it takes in ns."""
    start = time.process_time_ns()
    return run(), float(time.process_time_ns() - start)


def measure_way(table: Table, subnet: Subnet, code: bytes, way: int, entries: int) -> None:
    """One way with so many entries."""
    canister = subnet.install(code)
    actor = canister.actor()
    actor.prepare(way, entries)

    def add(what: str, instructions: float, ns: float | None = None) -> None:
        table.add(f"{WAYS[way]}; {entries:,} entries: {what}", instructions, "instructions")
        if ns is not None:
            table.add(f"{WAYS[way]}; {entries:,} entries: {what}, time", ns, "ns")

    instructions, ns = 0, 0.0
    for first in range(0, entries, STEP):
        taken, took = timed(lambda first=first: actor.insert(way, first, STEP))
        instructions, ns = instructions + taken, ns + took
    add("insert", instructions / entries, ns / entries)
    count = min(entries, SAMPLE)
    (taken, before), took = timed(lambda: actor.read(way, entries, 0, count))
    add("read a field", taken / count, took / count)
    (taken, _), took = timed(lambda: actor.bump(way, entries, 0, count))
    add("add to a field", taken / count, took / count)
    (taken, total), took = timed(lambda: actor.scan(way))
    add("scan a field, an entry", taken / entries, took / entries)
    assert total == sum(number % 90 for number in range(entries))
    table.add(f"{WAYS[way]}; {entries:,} entries: stable memory", canister.stable.size() / 16, "MiB")
    measure_upgrade(table, subnet, canister, code, f"{WAYS[way]}; {entries:,} entries")
    if way < LOSES:
        table.add(f"{WAYS[way]}; {entries:,} entries: kept", 0, "of 1")
        return
    assert actor.read(way, entries, 0, count)[1] == before, f"{WAYS[way]}: an upgrade has changed what is there"
    table.add(f"{WAYS[way]}; {entries:,} entries: kept", 1, "of 1")


def measure_upgrade(table: Table, subnet: Subnet, canister: Canister, code: bytes, name: str) -> None:
    """Both hooks, and all that is around them."""
    with subnet.events() as stream:
        _, took = timed(lambda: canister.upgrade(code))
    taken = sum(event.instructions for event in stream if isinstance(event, Ended))
    table.add(f"{name}: upgrade", taken / 1e6, "M instructions")
    table.add(f"{name}: upgrade, time", took / 1e6, "ms")


def measure(quick: bool) -> Table:
    """Insert, read, change, scan, upgrade; processor time."""
    table, code = Table("ways_figures"), module("ways")
    for entries in (10_000,) if quick else (10_000, 100_000, 1_000_000):
        for way in range(len(WAYS)):
            with Subnet(extensions=("direct",)) as subnet:
                measure_way(table, subnet, code, way, entries)
    return table


if __name__ == "__main__":
    main(measure)
