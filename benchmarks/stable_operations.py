"""Insert and get on a StableBTreeMap, beside a `SortedDict` that is serialised whole, and SQLite, in the same run.

Each keeps its entries in bytes that survive: the map writes the touched nodes, the sorted dictionary writes everything
again, SQLite commits to a file that it does not sync. The dictionary is therefore measured at several batch sizes:
one serialisation for so many insertions.
"""

from __future__ import annotations

import pickle
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from sortedcontainers import SortedDict

from figures import Table, main
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types

Entries = list[tuple[int, int]]


def per_operation(run: Callable[[Entries], object], batches: Iterable[Entries]) -> float:
    """Least CPU time of one operation in us, over batches of them; wall time would measure the neighbours."""
    best = float("inf")
    for batch in batches:
        start = time.process_time_ns()
        run(batch)
        best = min(best, (time.process_time_ns() - start) / len(batch))
    return best / 1e3


def insert_all(mapping: StableBTreeMap[int, int], batch: Entries) -> None:
    for key, value in batch:
        mapping[key] = value


def get_all(mapping: StableBTreeMap[int, int], batch: Entries) -> None:
    for key, _ in batch:
        mapping[key]


def serialised(entries: Entries, batch: Entries) -> Callable[[Entries], object]:
    """Insertions into a sorted dictionary, then its serialisation."""
    model = SortedDict(entries)

    def run(batch: Entries) -> bytes:
        for key, value in batch:
            model[key] = value
        return pickle.dumps(list(model.items()), protocol=5)

    return run


def measure(quick: bool) -> Table:
    """Microseconds an operation."""
    table = Table("stable_operations")
    chance = random.Random(5)
    count = 20_000 if quick else 200_000

    def fresh(size: int) -> Entries:
        return [(chance.getrandbits(63), chance.getrandbits(63)) for _ in range(size)]

    entries = fresh(count)
    plain = StableBTreeMap.create(BytesMemory(), types.u64, types.u64)
    virtual = StableBTreeMap.create(MemoryManager.create(BytesMemory()).get(0), types.u64, types.u64)
    plain.bulk_load(entries)
    virtual.bulk_load(entries)
    known = [[chance.choice(entries) for _ in range(2000)] for _ in range(5)]
    ours: dict[str, dict[str, float]] = {"insert": {}, "get": {}}
    for name, mapping in (("StableBTreeMap", plain), ("StableBTreeMap in a MemoryManager", virtual)):
        inserted = per_operation(
            lambda batch, mapping=mapping: insert_all(mapping, batch), [fresh(2000) for _ in "12345"]
        )
        got = per_operation(lambda batch, mapping=mapping: get_all(mapping, batch), known)
        table.add(f"{name}: insert into {count:,}", inserted, "us")
        table.add(f"{name}: get", got, "us")
        ours["insert"][name], ours["get"][name] = inserted, got

    for size in (1, 100, 10_000):
        batches = [fresh(size) for _ in range(2 if quick else 3)]
        cost = per_operation(serialised(entries, batches[0]), batches)
        table.add(f"SortedDict: insert, written whole every {size:,}", cost, "us")
    model = SortedDict(entries)
    table.add("SortedDict: get", per_operation(lambda batch: [model[key] for key, _ in batch], known), "us")

    with tempfile.TemporaryDirectory() as directory:
        database = sqlite3.connect(Path(directory) / "entries.sqlite", isolation_level=None)
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = off")
        database.execute("create table entries (key integer primary key, value integer) without rowid")
        with database:
            database.execute("begin")
            database.executemany("insert or replace into entries values (?, ?)", entries)

        def insert(batch: Entries) -> None:
            for entry in batch:
                database.execute("insert or replace into entries values (?, ?)", entry)

        def get(batch: Entries) -> None:
            for key, _ in batch:
                database.execute("select value from entries where key = ?", (key,)).fetchone()

        theirs = {"insert": per_operation(insert, [fresh(2000) for _ in "12345"]), "get": per_operation(get, known)}
        table.add("SQLite, a commit each: insert", theirs["insert"], "us")
        table.add("SQLite: get", theirs["get"], "us")
        for what, times in ours.items():
            for name, took in times.items():
                table.add(f"{name}: {what} / SQLite's", took / theirs[what], "ratio", 2.5)
        database.close()
    return table


if __name__ == "__main__":
    main(measure)
