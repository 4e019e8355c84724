"""Kill a process while it upgrades a canister in Python to its changed class, and see what is left.

    python tests/subnet/code_kill_script.py --kills 50 --seed 1

A forked child opens a state directory whose class has changed since; it is killed at each place named below, and then
at random instants. What is found has to be the state before the upgrade or after it, and the next opening goes on.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from perdure import Subnet
from perdure.kit import canister, migration, nat64, post_upgrade, query, stable, update
from perdure.stable import StableBTreeMap
from perdure.storage import StateDirectory
from perdure.subnet.durable import DurableHost

PLACE = ""
ENTRIES = 100


def here(place: str) -> None:
    """Die, if this is the place."""
    if place == PLACE:
        os.kill(os.getpid(), signal.SIGKILL)


@canister(name="words")
class Before:
    words: StableBTreeMap[nat64, str]

    @update
    def fill(self) -> None:
        for number in range(ENTRIES):
            self.words[number] = str(number)

    @query
    def sound(self) -> bool:
        return list(self.words.items()) == [(number, str(number)) for number in range(ENTRIES)]


@canister(name="words")
class After:
    words: StableBTreeMap[str, nat64] = stable(1)

    @migration
    def turned(self, words: StableBTreeMap[nat64, str]) -> None:
        for number, text in words.items():
            self.words[text] = number
            if number == ENTRIES // 2:
                here("migration")

    @post_upgrade
    def after(self) -> None:
        here("post_upgrade")

    @query
    def sound(self) -> bool:
        return sorted(self.words.items(), key=lambda item: item[1]) == [(str(one), one) for one in range(ENTRIES)]


def around(owner: type, name: str) -> None:
    """Have a method of perdure's be two places, before it and after it."""
    method = getattr(owner, name)

    def surrounded(*args: Any, **options: Any) -> Any:
        here(f"before {name}")
        result = method(*args, **options)
        here(f"after {name}")
        return result

    setattr(owner, name, surrounded)


SURROUNDED = ((StateDirectory, "commit"), (DurableHost, "apply"), (DurableHost, "wait"), (StateDirectory, "checkpoint"))
PLACES = [
    "migration",
    "post_upgrade",
    *(f"{when} {name}" for _, name in SURROUNDED for when in ("before", "after")),
]


def child(path: Path, place: str) -> None:
    """Open, and be killed on the way or live to the end."""
    global PLACE
    PLACE = place
    with Subnet(path, code=[After]) as subnet:
        subnet.checkpoint()
    os._exit(0)


def killed(path: Path, place: str, delay_seconds: float | None) -> bool:
    """Whether the child was killed."""
    process = os.fork()
    if not process:
        try:
            child(path, place)
        finally:
            os._exit(1)
    if delay_seconds is not None:
        time.sleep(delay_seconds)
        os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, f"the child failed at {place or 'no place'}"
    return os.WIFSIGNALED(status)


def check(path: Path, hashes: tuple[bytes, bytes]) -> bool:
    """That the state is the one before or the one after, and that it goes on; whether it is the one after."""
    with StateDirectory.open(path, read_only=True) as directory:
        assert directory.verify() == [], directory.verify()
        found = directory.state_hash()
        (kept,) = directory.canisters.values()
        assert kept.code.hash == kept.module_hash
    assert found in hashes, "neither before nor after"
    before, after = found == hashes[0], found == hashes[1]
    assert before != after
    with Subnet(path, code=[Before if before else After], changed_code="refuse") as subnet:
        assert subnet.canisters[0].actor().sound()
    with Subnet(path, code=[After]) as subnet:
        assert subnet.canisters[0].actor().sound()
    return after


def run(kills: int, seed: int = 1, places: list[str] = PLACES) -> tuple[int, int]:
    """How many kills left the state before, and how many the one after: at each place, and at random instants."""
    chosen = random.Random(seed)
    with tempfile.TemporaryDirectory() as scratch:
        origin, path = Path(scratch) / "origin", Path(scratch) / "state"
        with Subnet(origin) as subnet:
            subnet.install(Before).actor().fill()
            before = subnet._durable.directory.state_hash()
        shutil.copytree(origin, path)
        began = time.monotonic()
        with Subnet(path, code=[After]) as subnet:
            after = subnet._durable.directory.state_hash()
        took_seconds = time.monotonic() - began
        for owner, name in SURROUNDED:
            around(owner, name)
        found = [0, 0]
        for place in [*places, *[""] * kills]:
            shutil.rmtree(path)
            shutil.copytree(origin, path)
            was_killed = killed(path, place, None if place else chosen.uniform(0, took_seconds))
            assert was_killed or not place, f"nobody came by {place}"
            found[check(path, (before, after))] += 1
        return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=50, help="at random instants, beside the places")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    before, after = run(options.kills, options.seed)
    print(f"{before} kills left the state before the upgrade, {after} the one after it")


if __name__ == "__main__":
    main()
