"""Durable commits against SQLite (WAL, synchronous=FULL) with the same bytes; group commit; recovery against a copy.

python benchmarks/storage_durable.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from perdure.canister import PageDelta
from perdure.storage import CanisterChange, Message, StateDirectory, StorageLimits

PAGE = 4096
MEMORY_PAGES = 512
NAME = b"canister"
MESSAGE = Message(bytes(32), NAME, "update", "insert", b"\x04", bytes(32), 123_456)


def change_of(number: int, data: bytes) -> CanisterChange:
    """One heap page and one stable page, as a small message changes them."""
    address = number % MEMORY_PAGES * PAGE
    delta = PageDelta(MEMORY_PAGES // 16, [(address, data)])
    return CanisterChange(heap=delta, stable=delta)


def message_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """One message at a time, in alternating batches, and the bare `fdatasync` of the same bytes."""
    state = StateDirectory.open(f"{directory}/state")
    database = sqlite3.connect(f"{directory}/database", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table page (number integer primary key, bytes blob)")
    plain = os.open(f"{directory}/plain", os.O_RDWR | os.O_CREAT)
    os.pwrite(plain, bytes(16 << 20), 0)
    os.fsync(plain)
    data = random.Random(1).randbytes(PAGE)

    def ours(number: int) -> None:
        state.commit(MESSAGE, {NAME: change_of(number, data)}, apply=True)

    def sqlite(number: int) -> None:
        database.execute("begin")
        for row in (number % MEMORY_PAGES, MEMORY_PAGES + number % MEMORY_PAGES):
            database.execute("insert or replace into page values (?, ?)", (row, data))
        database.execute("commit")

    def bare(number: int) -> None:
        os.pwrite(plain, data + data + data, number % 1000 * 3 * PAGE)
        os.fdatasync(plain)

    actions: list[Callable[[int], None]] = [ours, sqlite, bare]
    times: list[list[float]] = [[], [], []]
    for number in range(MEMORY_PAGES):
        ours(number)
        sqlite(number)
    for batch in range(8 if quick else 60):
        for action, found in zip(actions, times, strict=True):
            for number in range(25):
                start = time.perf_counter()
                action(batch * 25 + number)
                found.append(time.perf_counter() - start)
    state.close()
    database.close()
    os.close(plain)
    mine, theirs, floor = (statistics.median(found) * 1e6 for found in times)
    return [
        figure("SQLite (WAL, FULL) / one durable message, same bytes", theirs / mine, "ratio", 1.5, "higher"),
        figure("one durable message", mine, "us", None),
        figure("the same bytes into SQLite", theirs, "us", None),
        figure("the same bytes by pwrite and fdatasync", floor, "us", None),
    ]


def group_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """Eight clients, each with a canister of its own, against one."""
    state = StateDirectory.open(f"{directory}/group")
    data = random.Random(1).randbytes(PAGE)
    names = [b"client %d" % number for number in range(8)]

    def client(name: bytes, count: int) -> None:
        for number in range(count):
            state.commit(MESSAGE, {name: change_of(number, data)}, apply=True)

    for name in names:
        client(name, 20)
    ratios = []
    count = 40 if quick else 150
    for _ in range(3 if quick else 7):
        start = time.perf_counter()
        client(names[0], 2 * count)
        alone = 2 * count / (time.perf_counter() - start)
        threads = [threading.Thread(target=client, args=(name, count)) for name in names]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        ratios.append(8 * count / (time.perf_counter() - start) / alone)
    state.close()
    return [figure("8 clients / one by one, messages a second", statistics.median(ratios), "ratio", 3, "higher")]


def recovery_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """Opening a directory with a long log, against copying the log's bytes with an fsync."""
    path = f"{directory}/long"
    target = (128 if quick else 1024) << 20
    rng = random.Random(1)
    state = StateDirectory.open(path, durability="never", limits=StorageLimits(log_bytes=4 << 30))
    blob = rng.randbytes(1 << 20)
    for number in range(target >> 20):
        runs = [((number % 256) << 20, blob)]
        state.commit(MESSAGE, {NAME: CanisterChange(stable=PageDelta(4096, runs))}, apply=True)
    state.sync()
    state.abandon()
    os.sync()
    log_bytes = target + (target >> 20) * 3 * PAGE  # a record's head is three blocks here; the rest is not in use
    os.truncate(f"{path}/log", log_bytes + PAGE)
    start = time.perf_counter()
    with Path(path, "log").open("rb") as source, Path(directory, "copy").open("wb") as goal:
        shutil.copyfileobj(source, goal, 8 << 20)
        goal.flush()
        os.fsync(goal.fileno())
    copied = time.perf_counter() - start
    Path(directory, "copy").unlink()
    os.sync()
    start = time.perf_counter()
    state = StateDirectory.open(path)
    recovered = time.perf_counter() - start
    assert state.version == target >> 20
    state.abandon()
    what = f"recovery of a log of {log_bytes >> 20} MiB / copying it with fsync"
    return [
        figure(what, recovered / copied, "ratio", 1.5),
        figure("recovery", log_bytes / recovered / 1e6, "MB/s", None, "higher"),
    ]


def figure(what: str, value: float, unit: str, target: float | None, better: str = "lower") -> dict[str, object]:
    return {"what": what, "value": round(value, 3), "unit": unit, "target": target, "better": better}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: list[dict[str, object]] = []
    for measure in (message_figures, group_figures, recovery_figures):
        directory = tempfile.mkdtemp(prefix="perdure-bench-", dir="/var/tmp" if Path("/var/tmp").is_dir() else None)
        try:
            found += measure(directory, arguments.quick)
        finally:
            shutil.rmtree(directory)
    if arguments.json:
        print(json.dumps({"name": "storage_durable", "figures": found}))
    else:
        for entry in found:
            print(f"{entry['what']}: {entry['value']} {entry['unit']} (target {entry['target']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
