"""Kill a process that commits, at random instants, and compare what it left with what it had been told was kept.

    python tests/storage/kill_script.py --kills 2000 --seed 1

A forked child commits to a real directory and writes every acknowledged version to a pipe; SIGKILL comes after up to
25 ms, also within checkpoints and recoveries, which the child makes often. One directory lives through all kills.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time

from perdure.canister import PageDelta
from perdure.storage import CanisterChange, Message, StateDirectory, StorageLimits

PAGE = 4096
PAGES = 64
CANISTER = b"canister"
LIMITS = StorageLimits(log_bytes=256 << 10)


def page_of(version: int, page: int) -> bytes:
    return (b"%d:%d;" % (version, page)).ljust(64, b".") * 64


def changed_pages(version: int) -> list[int]:
    """Pages that a version writes: the same in the child and in the check."""
    return sorted(random.Random(version).sample(range(PAGES), 1 + version % 4))


def commit_for_ever(path: str, pipe: int) -> None:
    state = StateDirectory.open(path, limits=LIMITS)
    while True:
        version = state.version + 1
        runs = [(page * PAGE, page_of(version, page)) for page in changed_pages(version)]
        delta = PageDelta(PAGES // 16, runs)
        half = CanisterChange({"heap" if version % 2 else "stable": delta})
        state.commit(Message(b"%d" % version), {CANISTER: half}, subnet_record=b"%d" % version, apply=True)
        os.write(pipe, b"%d\n" % version)


def check(path: str, acknowledged: int) -> int:
    """Open what the killed process left; the version found."""
    state = StateDirectory.open(path, limits=LIMITS)
    version = state.version
    if version < acknowledged:
        raise SystemExit(f"version {version} recovered, {acknowledged} was acknowledged")
    if version and state.subnet_record != b"%d" % version:
        raise SystemExit(f"version {version} has the record of version {state.subnet_record!r}")
    for kind, parity in (("heap", 1), ("stable", 0)) if version else ():
        expected = {}
        for earlier in range(1, version + 1):
            if earlier % 2 == parity:
                expected.update(dict.fromkeys(changed_pages(earlier), earlier))
        if not expected:
            continue  # no version has written to this memory, so it does not exist
        image = state.canisters[CANISTER].memories[kind].image()
        for page, writer in expected.items():
            if image.read(page * PAGE, PAGE) != page_of(writer, page):
                raise SystemExit(f"version {version}: page {page} of {kind} is not that of version {writer}")
    if problems := state.verify():
        raise SystemExit(problems[0])
    state.abandon()
    return version


def kill_once(path: str, rng: random.Random) -> int:
    """Run a child, kill it, check; the last acknowledged version."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            commit_for_ever(path, writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(rng.random() * 0.025)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        raise SystemExit("the child ended by itself")
    with os.fdopen(reading, "rb") as pipe:
        lines = pipe.read().split()
    acknowledged = int(lines[-1]) if lines else 0
    check(path, acknowledged)
    return acknowledged


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    directory = tempfile.mkdtemp(prefix="perdure-kill-")
    start = time.monotonic()
    committed = runs = 0
    try:
        for number in range(arguments.kills):
            path = f"{directory}/state-{number // 50}"
            committed = max(kill_once(path, rng), committed)
            runs += 1
            if number % 50 == 49:
                shutil.rmtree(path)
    finally:
        shutil.rmtree(directory)
    seconds = time.monotonic() - start
    print(
        f"{runs} kills from seed {arguments.seed}, up to {committed} commits a directory, {seconds:.0f} s: nothing lost"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
