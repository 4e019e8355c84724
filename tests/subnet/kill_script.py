"""Kill a process whose canisters call each other from threads, at random instants, and see what is left.

    python tests/subnet/kill_script.py --kills 2000 --seed 1

A forked child opens the directory, checks it, and then three threads send updates that make calls: each counts in its
canister, in the callee, and again when the answer is there, in heap and stable memory. Acknowledged updates are told to
the parent through a pipe; SIGKILL comes after up to 150 ms of that. What is found has to be a state between two
messages: once everything in flight has been answered, every count agrees, no acknowledged update is missing and at most
those that nobody was told of are there as well. One directory lives through all kills.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import struct
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from counting import UNIVERSAL, P, count

from perdure.embedder import shared_compiler
from perdure.subnet import Canister, Subnet

THREADS = 3
_MAX_DELAY_SECONDS = 0.15


def calling(callee: bytes) -> bytes:
    reached = count(3, 8192).reply(b"")
    done = count(2, 4096).reply(b"")
    return bytes(count(1, 0).call(callee, "update", reached, on_reply=done, on_reject=P().reply(b"rejected")))


def counts(canister: Any) -> tuple[int, ...]:
    """Started, done and reached, as stable memory has them; the heap must agree."""
    stable = tuple(struct.unpack("<Q", canister.stable.read(address, 8))[0] for address in (0, 4096, 8192))
    program = P()
    for register in (1, 2, 3):
        program.then(P().set(250, P().alloc(8)).store64(P().get(250), P().get(register)))
        program.then(P().append(P().span(P().get(250), 8)))
    heap = struct.unpack("<QQQ", canister.query("query", bytes(program.reply())))
    assert heap == stable, f"heap {heap}, stable memory {stable}"
    return stable


def check(subnet: Any, told: list[int]) -> None:
    """That the state is one between two messages, and has what was acknowledged (`told`, by canister)."""
    subnet.run_until_idle()
    found = [counts(canister) for canister in subnet.canisters]
    started, done, reached = (sum(item[part] for item in found) for part in range(3))
    assert started == done == reached, f"started {started}, done {done}, reached {reached}: {found}"
    for (begun, _, _), acknowledged in zip(found, told, strict=True):
        assert acknowledged <= begun <= acknowledged + 1, f"{acknowledged} acknowledged, {begun} found"
    for canister in subnet.canisters:
        assert isinstance(canister, Canister)
        assert not canister._state.contexts
        assert not canister._state.open_calls


def prepare(path: Path) -> None:
    """Make the directory, in a process of its own: a child of one with threads could wait for them for ever."""
    with Subnet(path) as subnet:
        for _ in range(THREADS):
            canister = subnet.install(UNIVERSAL.read_bytes(), b"")
            canister.update("update", bytes(P().stable64_grow(1).drop().reply(b"")))


def traffic(path: Path, pipe: int, told: list[int]) -> None:
    """In the child, until it is killed: say what was found, then every update that was answered."""
    subnet = Subnet(path)
    try:
        check(subnet, told)
        found = [counts(canister)[0] for canister in subnet.canisters]
    except BaseException as error:
        os.write(pipe, b"!" + repr(error).encode() + b"\n")
        os._exit(1)
    os.write(pipe, b"=" + struct.pack("<3Q", *found).hex().encode() + b"\n")
    canisters = list(subnet.canisters)

    def send(index: int) -> None:
        program = calling(canisters[(index + 1) % THREADS].id.raw_bytes)
        while True:
            canisters[index].update("update", program)
            os.write(pipe, b"+%d\n" % index)

    for index in range(THREADS):
        threading.Thread(target=send, args=(index,), daemon=True).start()
    while True:
        time.sleep(0.01)
        if random.random() < 0.1:
            subnet.checkpoint()


def one(path: Path, told: list[int], delay: float) -> list[int]:
    """Let a child run and kill it: what was acknowledged until then."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(read_end)
        try:
            traffic(path, write_end, told)
        finally:
            os._exit(2)
    os.close(write_end)
    received = b""
    deadline = None
    while True:
        data = os.read(read_end, 65_536)
        received += data
        if not data:
            break
        if deadline is None and b"\n" in received:
            deadline = time.monotonic() + delay
            threading.Timer(delay, os.kill, (child, signal.SIGKILL)).start()
    os.close(read_end)
    os.waitpid(child, 0)
    lines = received.decode().split("\n")
    if not lines[0].startswith("="):
        raise AssertionError(lines[0] or "the child ended without a word")
    found = list(struct.unpack("<3Q", bytes.fromhex(lines[0][1:])))
    for line in lines[1:-1]:
        found[int(line[1:])] += 1
    return found


def run(kills: int, seed: int) -> int:
    """How many updates were acknowledged in all.

    Raises:
        AssertionError: something was lost or torn.
    """
    folder = Path(tempfile.mkdtemp(prefix="perdure-kills-"))
    path = folder / "state"
    chance = random.Random(seed)
    try:
        preparer = os.fork()
        if not preparer:
            try:
                prepare(path)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(preparer, 0)[1] == 0
        shared_compiler().compile(UNIVERSAL.read_bytes())  # from the cache; children have it then
        told = [0] * THREADS
        for _ in range(kills + 1):
            told = one(path, told, chance.uniform(0, _MAX_DELAY_SECONDS))
        return sum(told)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    began = time.monotonic()
    updates = run(chosen.kills, chosen.seed)
    print(
        f"{chosen.kills} kills, {updates} updates with a call acknowledged, nothing lost, nothing torn, "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
