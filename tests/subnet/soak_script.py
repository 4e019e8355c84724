"""A life of a state directory without end: what is dropped is given back, closed or not.

The tests do a few rounds of each action; docs/reliability.md records the long forms::

    python tests/subnet/soak_script.py --rounds 1000          each action so many times, alone
    python tests/subnet/soak_script.py --rounds 1000 --only past --only events
    python tests/subnet/soak_script.py --minutes 10 --seed 1  all of them mixed, each as often as any other
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from built_canisters import module

from perdure.subnet import Canister, Subnet

ACTIONS: dict[str, Callable[[Life], None]] = {}
HISTORY = 20


class Use(NamedTuple):
    """What the process and its files take, in what each is counted in."""

    descriptors: int
    deleted_files: int
    mappings: int
    disk_kib: int
    temporary_kib: int
    resident_kib: int

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:,}" for name, value in self._asdict().items())


def action(function: Callable[[Life], None]) -> Callable[[Life], None]:
    ACTIONS[function.__name__] = function
    return function


class Life:
    """A subnet in a directory, and what is done to it."""

    def __init__(self, directory: Path, seed: int = 0) -> None:
        self.path = directory / "state"
        self.downloads = directory / "downloads"
        self.downloads.mkdir(parents=True)
        self.rng = random.Random(seed)
        self.subnet = self._open()
        self.kv = self.subnet.install(module("kv32"))
        self.change()
        self.kv.write_snapshot(self.downloads / "first")

    def _open(self) -> Subnet:
        return Subnet(self.path, durability="checkpoint", history=HISTORY)

    def change(self, canister: Canister | None = None) -> None:
        (canister or self.kv).update("inc")
        (canister or self.kv).update("put", b"\3key" + os.urandom(40))

    def use(self) -> Use:
        for _ in range(3):  # what a finaliser brings back goes with the next one
            gc.collect()
        descriptors = []
        temporary = 0
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 -- one of them is gone by then
            try:
                target = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
                temporary += os.stat(f"/proc/self/fd/{name}").st_blocks if "perdure-" in target or "#" in target else 0  # noqa: PTH116
            except OSError:
                continue
            descriptors.append(target)
        # The log grows to a limit and is used again; how much of the past is kept is a choice, and answers stay a day.
        files = [
            file
            for file in self.path.rglob("*")
            if file.name != "log" and file.parent.name not in {"history", "answers"}
        ]
        blocks = sum(file.lstat().st_blocks for file in files)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return Use(
            len(descriptors),
            sum("(deleted)" in target and str(self.path) in target for target in descriptors),
            len(Path("/proc/self/maps").read_text().splitlines()),
            blocks // 2,
            temporary // 2,
            int(status["VmRSS"].split()[0]),
        )

    # -- what can be done

    @action
    def checkpoint(self) -> None:
        self.change()
        self.subnet.checkpoint()

    @action
    def fork_and_drop(self) -> None:
        self.change(self.subnet.fork().canister(self.kv.id))
        self.checkpoint()

    @action
    def fork_and_close(self) -> None:
        fork = self.subnet.fork()
        self.change(fork.canister(self.kv.id))
        self.checkpoint()
        fork.close()

    @action
    def fork_forks(self) -> None:
        forks = [self.subnet.fork()]
        for _ in range(3):
            forks.append(forks[-1].fork())
            self.change(forks[-1].canister(self.kv.id))
        self.checkpoint()

    @action
    def anchor(self) -> None:
        with self.subnet.anchor():
            self.change()
        self.checkpoint()

    @action
    def snapshot(self) -> None:
        old = self.kv.snapshots()
        self.kv.take_snapshot(replace=old[0]["id"] if old else None)
        self.checkpoint()

    @action
    def snapshot_and_load(self) -> None:
        taken = self.kv.take_snapshot()
        self.change()
        self.kv.load_snapshot(taken)
        self.kv.delete_snapshot(taken)
        self.checkpoint()

    @action
    def upload(self) -> None:
        taken = self.kv.upload_snapshot(self.downloads / "first")
        self.kv.load_snapshot(taken)
        self.kv.delete_snapshot(taken)
        self.checkpoint()

    @action
    def download(self) -> None:
        self.kv.write_snapshot(self.downloads / "next")
        other = Subnet.open(self.downloads / "next")
        self.change(other.canisters[0])
        shutil.rmtree(self.downloads / "next")

    @action
    def upgrade(self) -> None:
        self.kv.upgrade(module("kv32"))
        self.change()

    @action
    def reinstall(self) -> None:
        self.kv.reinstall(module("kv32"))
        self.checkpoint()

    @action
    def install_and_delete(self) -> None:
        other = self.subnet.install(module("kv32"))
        self.change(other)
        other.stop()
        other.delete()
        self.checkpoint()

    @action
    def past(self) -> None:
        self.change()
        past = self.subnet.at(self.subnet._durable.directory.version - 1)
        self.change(past.canister(self.kv.id))

    @action
    def events(self) -> None:
        with self.subnet.events() as stream:
            self.change()
        assert list(stream)

    @action
    def close_and_open(self) -> None:
        self.subnet.close()
        self.subnet = self._open()
        self.kv = self.subnet.canister(self.kv.id)
        self.change()

    @action
    def drop_and_open(self) -> None:
        """Without closing: the garbage collector lets go of locks and all."""
        kv_id = self.kv.id
        del self.subnet, self.kv
        for _ in range(3):
            gc.collect()
        self.subnet = self._open()
        self.kv = self.subnet.canister(kv_id)
        self.change()


def excess(before: Use, after: Use, rounds: int) -> str:
    """What became more, if anything did, rounds apart; memory and blocks may move, but not with the rounds."""
    allowed = Use(4, 2, 8, 512 + rounds // 4, 2_048 + rounds // 4, 16_384 + 4 * rounds)
    grown = [
        f"{name} {old:,} -> {new:,}"
        for name, old, new, more in zip(Use._fields, before, after, allowed, strict=True)
        if new > old + more
    ]
    return ", ".join(grown)


def repeat(life: Life, name: str, rounds: int, settling: int = 6) -> tuple[Use, Use]:
    """Do one action again and again; what was in use when all was there for the first time, and in the end."""
    for _ in range(settling):
        ACTIONS[name](life)
    before = life.use()
    for _ in range(rounds):
        ACTIONS[name](life)
    return before, life.use()


def _each(directory: Path, rounds: int, names: list[str]) -> int:
    failures = 0
    for name in names:
        life = Life(directory / name)
        before, after = repeat(life, name, rounds)
        more = excess(before, after, rounds)
        failures += bool(more)
        print(f"{name} x {rounds:,}: {before}\n  -> {after}{'   GREW: ' + more if more else ''}", flush=True)
        life.subnet.close()
    return failures


def _mixed(directory: Path, minutes: float, seed: int) -> int:
    life = Life(directory, seed)
    end = time.monotonic() + 60 * minutes
    names = sorted(ACTIONS)
    for name in names * 2:
        ACTIONS[name](life)
    before = worst = life.use()
    # Which of its images are open at a moment is chance; each memory of two canisters and a snapshot has two files.
    before = before._replace(descriptors=before.descriptors + 8)
    print(f"after {2 * len(names)} actions: {before}", flush=True)
    # Dealt as cards are: drawn one by one, a short run on a busy machine had seen a few of them only.
    done: Counter[str] = Counter()
    deck: list[str] = []
    at = time.monotonic()
    while time.monotonic() < end or deck:
        deck = deck or life.rng.sample(names, len(names))
        name = deck.pop()
        ACTIONS[name](life)
        done[name] += 1
        if time.monotonic() > at + 30:
            at = time.monotonic()
            found = life.use()
            worst = Use(*map(max, worst, found))
            print(f"after {done.total():,} more: {found}", flush=True)
    assert done.keys() == ACTIONS.keys(), "an action was never done"
    after = life.use()
    assert life.subnet._durable.directory.verify() == []
    life.subnet.close()
    more = excess(before, Use(*map(max, worst, after)), done.total())
    print(f"{done.total():,} actions, {min(done.values()):,} of each, in {minutes:g} minutes: {after}; at most {worst}")
    print(f"GREW: {more}" if more else "nothing grew")
    return bool(more)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1_000)
    parser.add_argument("--only", action="append", choices=ACTIONS, help="this action, alone; may be given again")
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if arguments.minutes is None:
            return _each(Path(directory), arguments.rounds, arguments.only or list(ACTIONS))
        return _mixed(Path(directory), arguments.minutes, arguments.seed)


if __name__ == "__main__":
    sys.exit(main())
