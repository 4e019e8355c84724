"""Campaigns on one and two cores, and a table of eight shards beside one canister that has all rows."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from engine import ROOT
from figures import Table as Figures
from figures import main
from perdure import Subnet
from perdure.data import ShardedTable, Table, table
from perdure.fleet.shard import Shard
from perdure.kit import canister, nat64, query

sys.path.insert(0, str(ROOT / "tests" / "upgrade"))
from scenarios import filled, rust


@dataclass
class User:
    """A row."""

    id: nat64
    name: str
    age: int = 0


OPTIONS = table(key="id")


@canister
class Users(Shard):
    """A shard, with queries of its own."""

    rows: Table[User] = table(key="id")

    @query
    def plain_get(self, key: nat64) -> User | None:
        """As a canister has it that knows nothing of shards."""
        return self.rows.get(key)

    @query
    def plain_count(self) -> nat64:
        """The same."""
        return sum(1 for _ in self.rows.range())


def measure(quick: bool) -> Figures:
    figures = Figures("fleet_figures")
    shards(figures, 8_000 if quick else 80_000)
    campaigns(figures, 40 if quick else 1_000)
    return figures


def shards(figures: Figures, count: int) -> None:
    """Processor time, one beside the other, in pairs."""
    subnet = Subnet()
    one = [subnet.install(Users).id]
    many = [subnet.install(Users).id for _ in range(8)]
    step = count // 8
    alone = ShardedTable.begin(subnet, one, User, OPTIONS)
    sharded = ShardedTable.begin(subnet, many, User, OPTIONS, at=[step * number for number in range(1, 8)])
    for users in (alone, sharded):
        users.update(User(key, f"user {key}", key % 90) for key in range(count))
    plain = subnet.canister(one[0]).actor()
    keys = [(key * 7919) % count for key in range(400)]

    def reads(get: Callable[[int], object]) -> Callable[[], object]:
        return lambda: [get(key) for key in keys]

    figures.add(
        "8 shards, a point read / of one shard with all rows",
        _ratio(reads(sharded.get), reads(alone.get)),
        "ratio",
        1.3,
    )
    figures.add(
        "8 shards, a point read / a query of that canister's own",
        _ratio(reads(sharded.get), reads(plain.plain_get)),
        "ratio",
    )
    figures.add(
        "8 shards, a count over all / of one shard with all rows", _ratio(sharded.count, alone.count), "ratio", 1.2
    )
    figures.add(
        "8 shards, a count over all / a query of that canister's own", _ratio(sharded.count, plain.plain_count), "ratio"
    )


def _ratio(one: Callable[[], object], other: Callable[[], object], pairs: int = 9) -> float:
    """The median of pairs that take turns, in processor time."""
    found = []
    for _ in range(pairs):
        times = []
        for run in (one, other):
            begun = time.process_time()
            run()
            times.append(time.process_time() - begun)
        found.append(times[0] / times[1])
    return median(found)


def campaigns(figures: Figures, count: int) -> None:
    """A check of many snapshots, from the command's start to its end: two workers beside one."""
    with tempfile.TemporaryDirectory() as scratch:
        canister_ = Subnet().install(rust("a")())
        filled(canister_)
        first = Path(scratch, "snapshots", "0")
        canister_.write_snapshot(first)
        for number in range(1, count):
            copy = first.with_name(str(number))
            copy.mkdir()
            for file in first.iterdir():
                os.link(file, copy / file.name)
        new = Path(scratch, "new.wasm")
        new.write_bytes(rust("r")())
        seconds: dict[int, _Took] = {}
        _campaign(scratch, new, 1, 2)  # code is compiled
        for workers in (1, 2):
            seconds[workers] = _campaign(scratch, new, workers, count)
        shutil.rmtree(Path(scratch, "snapshots"))
    target = 1.7 if count >= 1_000 else None
    figures.add(
        f"upgrade-check of {count} snapshots, one worker / two",
        seconds[1].wall / seconds[2].wall,
        "ratio",
        target,
        "higher",
    )
    one, two = seconds[1], seconds[2]
    figures.add(
        "the same by processor time, the parent's not divided: what two free cores would give",
        (one.parent + one.workers) / (two.parent + two.workers / 2),
        "ratio",
        target,
        "higher",
    )
    figures.add(
        "the same, processor time of two workers / one",
        (two.parent + two.workers) / (one.parent + one.workers),
        "ratio",
    )
    figures.add("of it the parent's, with two workers", two.parent / (two.parent + two.workers), "ratio")
    figures.add("a check in a campaign, processor time", (one.parent + one.workers) / count * 1e3, "ms")


class _Took(NamedTuple):
    """Seconds: from start to end; of the processor, of the command's own process and of its workers."""

    wall: float
    parent: float
    workers: float


PROGRAM = """
import resource, sys
from perdure.cli import main
sys.argv[0] = "perdure"
try:
    main()
except SystemExit as ended:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime)
    raise
"""


def _campaign(scratch: str, new: Path, workers: int, count: int) -> _Took:
    listed = Path(scratch, "list")
    listed.write_text("".join(f"{scratch}/snapshots/{number}\n" for number in range(count)))
    command = [sys.executable, "-c", PROGRAM, "fleet", "upgrade-check", f"@{listed}", str(new), "-q"]
    before, begun = os.times(), time.perf_counter()
    done = subprocess.run([*command, "--workers", str(workers)], check=True, stdout=subprocess.PIPE)
    after, ended = os.times(), time.perf_counter()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    parent = float(done.stdout)
    return _Took(ended - begun, parent, spent - parent)


if __name__ == "__main__":
    main(measure)
