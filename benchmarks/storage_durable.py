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
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from engine import module
from floors.commit import CommitFloor
from perdure import Canister, Subnet
from perdure.canister import PageDelta
from perdure.execution.records import RECORDS
from perdure.storage import CanisterChange, Message, StateDirectory, StorageLimits
from perdure.storage.disk import DiskFile

PAGE = 4096
MEMORY_PAGES = 512
BATCH = 50
NAME = b"canister"
MESSAGE = Message(bytes(32), NAME, "update", "insert", b"\x04", bytes(32), 123_456)


MESSAGES = {
    "a counter in Motoko": (2, 0),
    "one insertion into a map of a canister in Rust": (7, 3),
    "ten insertions": (8, 16),
}
"""Pages of heap and stable memory that such messages change, as seen in the test canisters."""


def change_of(number: int, data: bytes, pages: tuple[int, int] = (1, 1)) -> CanisterChange:
    """Pages of heap and stable memory, scattered."""
    heap, stable = (
        PageDelta(MEMORY_PAGES // 16, [(at * PAGE, data) for at in places(number, count)]) for count in pages
    )
    return CanisterChange({**({"heap": heap} if pages[0] else {}), **({"stable": stable} if pages[1] else {})})


def places(number: int, count: int) -> list[int]:
    """Pages that a message changes, ascending: other ones in every message."""
    return sorted({(number * 31 + index * 53) % MEMORY_PAGES for index in range(count)})


def message_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """Messages one after the other, in alternating batches: means, so that both sides' checkpoints are in."""
    found = []
    for what, pages in MESSAGES.items():
        times = message_times(directory, pages, 8 if quick else 40)
        mine, theirs, floor = (statistics.mean(each) * 1e6 for each in times)
        batches = [[sum(each[at : at + BATCH]) for at in range(0, len(each), BATCH)] for each in (times[0], times[2])]
        found += [
            figure(
                f"one durable message of {sum(pages)} pages / pwrite and fdatasync of the same",
                statistics.median(own / bare for own, bare in zip(*batches, strict=True)),
                "ratio",
                1.2 if sum(pages) == 2 else None,
            ),
            figure(
                f"SQLite (WAL, FULL) / one durable message, same {sum(pages)} pages: {what}",
                theirs / mine,
                "ratio",
                1.5,
                "higher",
            ),
            figure(f"one durable message of {sum(pages)} pages", mine, "us", None),
            figure(f"the same {sum(pages)} pages into SQLite", theirs, "us", None),
            figure(f"the same {sum(pages)} pages by pwrite and fdatasync", floor, "us", None),
        ]
    return found


def message_times(directory: str, pages: tuple[int, int], batches: int) -> list[list[float]]:
    """Seconds of each message: ours, SQLite's, and of a bare `fdatasync` of the same bytes."""
    state = StateDirectory.open(f"{directory}/state{pages}")
    database = sqlite3.connect(f"{directory}/database{pages}", isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = full")
    database.execute("create table page (number integer primary key, bytes blob)")
    data = random.Random(1).randbytes(PAGE)
    floor = CommitFloor(f"{directory}/plain", data, sum(pages))
    changes = [{NAME: change_of(number, data, pages)} for number in range(MEMORY_PAGES)]
    rows = [
        [memory * MEMORY_PAGES + place for memory, count in enumerate(pages) for place in places(number, count)]
        for number in range(MEMORY_PAGES)
    ]

    def ours(number: int) -> None:
        state.commit(MESSAGE, changes[number % MEMORY_PAGES], apply=True)

    def sqlite(number: int) -> None:
        database.execute("begin")
        for row in rows[number % MEMORY_PAGES]:
            database.execute("insert or replace into page values (?, ?)", (row, data))
        database.execute("commit")

    large = PageDelta(1024, [(0, bytes(48 << 20))])  # the log gets its size once, not in what is measured
    for _ in range(2):
        state.commit(MESSAGE, {b"other": CanisterChange({"stable": large})}, apply=True)
    state.checkpoint()
    actions: list[Callable[[int], None]] = [ours, sqlite, floor.commit]
    times: list[list[float]] = [[], [], []]
    for number in range(MEMORY_PAGES):
        ours(number)
        sqlite(number)
    for batch in range(batches):
        for action, found in zip(actions, times, strict=True):
            for number in range(BATCH):
                start = time.perf_counter()
                action(batch * BATCH + number)
                found.append(time.perf_counter() - start)
    state.close()
    database.close()
    floor.close()
    return times


class InstantFile:
    """A log on a disk that takes no time, and when it was asked to."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file
        self.started = self.finished = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def start(self, buffers: list[bytes], offset: int) -> None:
        """Note when."""
        del buffers, offset
        self.started = time.perf_counter_ns()

    def finish(self) -> None:
        """Note when."""
        self.finished = time.perf_counter_ns()


def way_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """What a durable message of 2 pages does while the disk does not, at any load: the least of many."""
    state = StateDirectory.open(f"{directory}/way")
    data = random.Random(1).randbytes(PAGE)
    changes = [{NAME: change_of(number, data)} for number in range(MEMORY_PAGES)]
    for change in changes:
        state.commit(MESSAGE, change, apply=True)
    log = state._log_for_commit()
    file = InstantFile(log._file)
    log._file = cast("DiskFile", file)
    before, after = [], []
    for change in changes * (2 if quick else 8):
        begun = time.perf_counter_ns()
        state.commit(MESSAGE, change, apply=True)
        after.append(time.perf_counter_ns() - file.finished)
        before.append(file.started - begun)
    state.abandon()
    return [
        figure("one durable message of 2 pages: before its write begins", min(before) / 1000, "us", None),
        figure("one durable message of 2 pages: after it has ended", min(after) / 1000, "us", None),
    ]


class SlowFile:
    """A file whose syncs take 1 ms more, as those of many disks do."""

    def __init__(self, file: DiskFile) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def finish(self) -> None:
        """Return when what was started is on the platter, and later."""
        time.sleep(0.001)
        self._file.finish()


def group_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """Eight clients against one, on this disk and on a slower one."""
    return [
        figure(f"8 clients, {who} / one by one, messages a second{disk}", value, "ratio", target, "higher")
        for disk, slow, target in (("", False, 3.0), (", a sync 1 ms slower", True, None))
        for who, value in zip(
            ("a thread each", "of one thread"), group_ratios(directory, quick, slow=slow), strict=True
        )
    ]


def group_ratios(directory: str, quick: bool, *, slow: bool) -> list[float]:
    """Clients with a canister of their own each: a thread each, and all on one thread."""
    state = StateDirectory.open(f"{directory}/group{slow}")
    if slow:
        log = state._log_for_commit()
        log._file = cast("DiskFile", SlowFile(log._file))
    data = random.Random(1).randbytes(PAGE)
    names = [b"client %d" % number for number in range(8)]
    count = 40 if quick else 200

    def client(name: bytes, messages: int) -> None:
        for number in range(messages):
            state.commit(MESSAGE, {name: change_of(number, data)}, apply=True)

    def threads() -> None:
        running = [threading.Thread(target=client, args=(name, count)) for name in names]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()

    def rounds() -> None:
        for number in range(count):
            changes = change_of(number, data)
            versions = [state.commit(MESSAGE, {name: changes}, apply=True, wait=False) for name in names]
            state.wait(versions[-1])

    for name in names:
        client(name, 20)
    ratios: list[list[float]] = [[], []]
    for _ in range(3 if quick else 9):
        alone = seconds(lambda: client(names[0], 2 * count)) * 4
        for together, found in zip((threads, rounds), ratios, strict=True):
            found.append(alone / seconds(together))
    state.close()
    return [statistics.median(found) for found in ratios]


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def recovery_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """Opening a directory with a long log, against copying the log's bytes with an fsync."""
    path = f"{directory}/long"
    target = (128 if quick else 1024) << 20
    rng = random.Random(1)
    state = StateDirectory.open(path, durability="never", limits=StorageLimits(log_bytes=4 << 30))
    blob = rng.randbytes(1 << 20)
    for number in range(target >> 20):
        runs = [((number % 256) << 20, blob)]
        state.commit(MESSAGE, {NAME: CanisterChange({"stable": PageDelta(4096, runs)})}, apply=True)
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


def answer_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """A durable update where 10,000 answers are kept against one where none are yet, processor time."""
    batch, code = 10, module("stable_access")
    subnets = []
    for name, answers in (("many", 10_000), ("none", 0)):
        with Subnet(f"{directory}/{name}", durability="never") as subnet:
            canister_id = subnet.install(code).id
            for _ in range(answers):
                subnet.canister(canister_id).update("touch_heap", bytes(16))
        subnets.append(Subnet(f"{directory}/{name}").canister(canister_id))

    def batch_ns(canister: Canister) -> int:
        start = time.process_time_ns()
        for _ in range(batch):
            canister.update("touch_heap", bytes(16))
        return time.process_time_ns() - start

    ratios = []
    for _ in range(6 if quick else 20):
        pairs = [(batch_ns(subnets[0]), batch_ns(subnets[1])) for _ in range(4)]
        ratios.append(sum(many for many, _ in pairs) / sum(none for _, none in pairs))
    what = "a durable update with 10,000 kept answers / with none"
    return [figure(what, statistics.median(ratios), "ratio", 1.05)]


def rewriting_figures(directory: str, quick: bool) -> list[dict[str, object]]:
    """The first checkpoint of a directory of older records against the next one, processor time."""
    path, count = f"{directory}/older", 64
    blob = random.Random(1).randbytes((4 << 20) - 65536)
    with Subnet(path) as subnet:
        canisters = [subnet.install(module("stable_access")) for _ in range(count)]
        for canister in canisters:
            canister.stable.grow(64)
            canister.stable.write(65536, blob)

    def checkpoint_ns(version: int, messages: int) -> float:
        """A checkpoint after so many messages, each to another canister, by a perdure whose records have a version."""
        older = dict.fromkeys(range(1, version), _as_it_was)
        with StateDirectory.open(path, records=replace(RECORDS, version=version, migrations=older)) as state:
            for name, canister in list(state.canisters.items())[:messages]:
                delta = PageDelta(canister.memories["stable"].wasm_pages, [(PAGE, blob[:PAGE])])
                state.commit(MESSAGE, {name: CanisterChange({"stable": delta})}, apply=True)
            start = time.process_time_ns()
            state.checkpoint()
            return time.process_time_ns() - start

    found, version = [], 1
    for messages, target in ((count, 1.2), (1, None)):
        ratios = []
        for _ in range(5 if quick else 20):
            ordinary = checkpoint_ns(version, messages)
            version += 1
            ratios.append(checkpoint_ns(version, messages) / ordinary)
        what = f"a checkpoint after {messages} messages that rewrites the records of {count} canisters / without"
        found.append(figure(what, statistics.median(ratios), "ratio", target))
    return found


def _as_it_was(_: int, content: dict[int, Any]) -> dict[int, Any]:
    return content


def figure(what: str, value: float, unit: str, target: float | None, better: str = "lower") -> dict[str, object]:
    return {"what": what, "value": round(value, 3), "unit": unit, "target": target, "better": better}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: list[dict[str, object]] = []
    for measure in (message_figures, way_figures, group_figures, recovery_figures, answer_figures, rewriting_figures):
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
