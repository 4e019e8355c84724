"""Reading a whole BTreeMap into Arrow columns, beside a Python loop over its entries, in the same run.

Times are CPU time: all of it runs on one thread, and wall time would measure the neighbours. The maps are grown by
insertions in random order, as a canister grows them, over a plain memory and over a virtual one whose buckets are not
neighbours.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from figures import Table, main
from perdure.memory import BytesMemory, Memory
from perdure.stable import MemoryManager, StableBTreeMap, types


def best_ns(run: Callable[[], object], repeat: int) -> float:
    """Least CPU time of one call, in ns."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time_ns()
        run()
        best = min(best, time.process_time_ns() - start)
    return best


def build(memory: Memory, kind: str, entries: int) -> StableBTreeMap[Any, Any]:
    """A map of so many entries."""
    chance = random.Random(5)
    makers: dict[str, tuple[Any, Any, Callable[[], tuple[Any, Any]]]] = {
        "fixed": (types.u64, types.u64, lambda: (chance.getrandbits(64), chance.getrandbits(64))),
        "variable": (
            types.text,
            types.raw,
            lambda: (f"user-{chance.randrange(10**12)}", chance.randbytes(chance.randrange(64))),
        ),
    }
    key, value, make = makers[kind]
    mapping = StableBTreeMap.create(memory, key, value)
    while len(mapping) < entries:
        for _ in range(entries - len(mapping)):
            mapping.insert(*make())
    return mapping


def scattered(memory: BytesMemory) -> Memory:
    """The content of a memory in a virtual one whose buckets alternate with another's."""
    manager = MemoryManager.create(BytesMemory(), bucket_wasm_pages=16)
    virtual, other = manager.get(0), manager.get(1)
    while virtual.size() < memory.size():
        virtual.grow(16)
        other.grow(16)
    virtual.write(0, memory.data)
    return virtual


def loop(mapping: StableBTreeMap[Any, Any]) -> int:
    """Touch every entry one by one."""
    count = 0
    for _ in mapping.items():
        count += 1
    return count


def measure(quick: bool) -> Table:
    """Entries per second into Arrow columns; the targets are for a million of them."""
    table = Table("stable_columns")
    entries = 100_000 if quick else 1_000_000
    for kind, target, ratio in (("fixed", 10.0, None if quick else 20.0), ("variable", 1.0, None)):
        memory = BytesMemory()
        mapping = build(memory, kind, entries)
        columns_ns = best_ns(lambda mapping=mapping: mapping.columns().to_arrow(), 15)
        loop_ns = best_ns(lambda mapping=mapping: loop(mapping), 2)
        table.add(f"{kind} width, to Arrow columns", entries / columns_ns * 1e3, "M entries/s", target, "higher")
        table.add(f"{kind} width, a Python loop", entries / loop_ns * 1e3, "M entries/s", None, "higher")
        table.add(f"{kind} width, columns / loop", loop_ns / columns_ns, "ratio", ratio, "higher")
        virtual = StableBTreeMap.load(scattered(memory), mapping.key_type, mapping.value_type)
        virtual_ns = best_ns(lambda virtual=virtual: virtual.columns().to_arrow(), 9)
        table.add(f"{kind} width, scattered buckets", entries / virtual_ns * 1e3, "M entries/s", None, "higher")
    return table


if __name__ == "__main__":
    main(measure)
