"""Payments across two subnets whose workers are Ray's, while processes and actors are killed: run by test_on_ray.py.

    python tests/fleet/killed_on_ray.py DIRECTORY SEED KILLS

Each payment has a number and brings cycles along. It prints one JSON object: what was paid, what arrived how often, and
the cycles of all canisters and streams before and after. Nothing costs cycles on these subnets.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

from perdure import Network, Principal
from perdure.errors import HostError, PerdureError, StorageError
from perdure.fleet import Campaign, Job
from perdure.fleet.on_ray import RayProcesses, RayWorkers
from perdure.kit import call, canister, ic, nat64, query, stable, update
from perdure.stable import StableBTreeMap, StableCell

CYCLES = 1_000_000


@canister(name="ledger")
class Ledger:
    """Counts how often each payment has come."""

    came: StableBTreeMap[nat64, nat64]

    @update
    def deposit(self, number: nat64) -> nat64:
        self.came[number] = self.came.get(number, 0) + 1
        ic.accept_cycles(CYCLES)
        return self.came[number]

    @query
    def all(self) -> list[tuple[nat64, nat64]]:
        return list(self.came.items())


@canister(name="wallet")
class Wallet:
    """Pays, and knows what was answered."""

    answered: StableCell[nat64] = stable(default=0)

    @update
    async def pay(self, ledger: Principal, number: nat64) -> nat64:
        times: nat64 = await call(ledger, "deposit", number, signature="(nat64) -> (nat64)", cycles=CYCLES)
        self.answered.set(self.answered.get() + 1)
        return times


def campaign(directory: Path) -> dict[str, str]:
    """One that is killed, one that is late, and some that are neither."""
    told = {"dies": "die", "hangs": "hang", "reads": "read", **{f"works {number}": "work" for number in range(4)}}
    jobs = [Job(source, (what, str(directory / "ids"))) for source, what in told.items()]
    workers = RayWorkers("fleet_work:run", 2, files={"not/here.wasm": b"shipped"})
    return {row.source: f"{row.outcome}: {row.error}" for row in Campaign(jobs, workers, time_limit_seconds=3).rows()}


def killed(network: Network, seed: int, kills: int, unsure: list[int], lost: Path | None = None) -> None:
    """End worker processes and actors, one after the other, while payments go on, until one of them is unsure.

    With a directory that is lost, what the worker has there goes as well, as the disk of its node would.
    """
    import ray

    addresses = {one["NodeManagerAddress"] for one in ray.nodes()}
    assert addresses == {"127.0.0.1"}, addresses
    random = Random(seed)
    workers: Any = network._workers
    while kills > 0 or not unsure:
        kills -= 1
        time.sleep(random.uniform(0.05, 0.6))
        worker = random.choice(workers._workers)
        process = worker.process
        if process is None:
            continue
        if random.random() < 0.5:
            ray.kill(process._actor, no_restart=True)
        else:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        for place in worker.places if lost is not None else ():
            shutil.rmtree(lost / f"{place.number}-system", ignore_errors=True)


def lost_nodes(directory: Path, seed: int, kills: int, processes: RayProcesses) -> dict[str, Any]:
    """Payments while workers are killed and what they have on their disks is gone; then all of it, elsewhere."""
    archive = f"file://{directory}/archive"
    with Network(["system", "system"], path=directory / "lost", archive=archive, processes=processes) as network:
        here, there = network.subnets
        ledger, wallet = here.install(Ledger), there.install(Wallet)
        before = cycles(network)
        unsure: list[int] = []
        killer = threading.Thread(target=killed, args=(network, seed, kills, unsure, directory / "lost"))
        killer.start()
        found = pay(network, wallet, ledger.id, killer, unsure)
        killer.join()
        found |= {"came": ledger.actor().all(), "cycles": [before, cycles(network)]}
        with Network(path=directory / "elsewhere", archive=archive, code=[Ledger, Wallet]) as after:
            found["again"] = after.canister(ledger.id).actor().all()
            after.canister(wallet.id).actor().pay(ledger.id, 10_000)
            try:  # this one's workers are alive, and have their disks
                wallet.actor().pay(ledger.id, 10_001)
            except PerdureError as error:
                found["refused"] = str(error)
            found["at last"] = after.canister(ledger.id).actor().all()
            found["cycles"].append(cycles(after))
        network._abandon()
    return found


def pay(
    network: Network, wallet: Any, ledger: Principal, killer: threading.Thread, unsure: list[int]
) -> dict[str, Any]:
    """Payments until the killer is done, and some more; which were certainly, and which perhaps, made."""
    paid, number = [], 0
    more = 10
    while killer.is_alive() or more:
        more -= not killer.is_alive()
        number += 1
        try:
            times = wallet.actor().pay(ledger, number)
            assert times == 1, f"payment {number} came {times} times"
            paid.append(number)
        except (HostError, StorageError):  # ended; or the one before it has not yet, and has the directory
            unsure.append(number)
    network.run_until_idle()
    return {"paid": paid, "unsure": unsure}


def two_owners(directory: Path, processes: RayProcesses) -> dict[str, Any]:
    """Workers that are cut off, while a copy of what they had goes on elsewhere, and that are there again then."""
    first = Network(["system", "system"], path=directory / "twice", processes=processes)
    ledger, wallet = first.subnets[0].install(Ledger), first.subnets[1].install(Wallet)
    wallet.actor().pay(ledger.id, 1)
    pids = [pid for pid in first.processes if pid is not None]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    for member in sorted((directory / "twice").glob("*-system")):
        away = directory / f"away-{member.name}"
        member.rename(away)
        shutil.copytree(away, member)
    with Network(path=directory / "twice", code=[Ledger, Wallet]) as second:
        second.canister(wallet.id).actor().pay(ledger.id, 2)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    refused = ""
    try:
        wallet.actor().pay(ledger.id, 3)
    except PerdureError as error:
        refused = str(error)
    first._abandon()
    with Network(path=directory / "twice", code=[Ledger, Wallet]) as third:
        return {"refused": refused, "came": third.canister(ledger.id).actor().all()}


def cycles(network: Network) -> int:
    return network.sent_cycles + sum(one.status().cycles for one in network.canisters)


def main(directory: Path, seed: int, kills: int) -> None:
    processes = RayProcesses(2)
    with Network(["system", "system"], path=directory / "net", processes=processes) as network:
        here, there = network.subnets
        ledger, wallet = here.install(Ledger), there.install(Wallet)
        before = cycles(network)
        unsure: list[int] = []
        killer = threading.Thread(target=killed, args=(network, seed, kills, unsure))
        killer.start()
        found = pay(network, wallet, ledger.id, killer, unsure)
        killer.join()
        found |= {"came": ledger.actor().all(), "cycles": [before, cycles(network)]}
    with Network(path=directory / "net", code=[Ledger, Wallet]) as network:  # in this process, from what is on the disk
        found["again"] = network.canister(ledger.id).actor().all()
    found["lost nodes"] = lost_nodes(directory, seed, kills, processes)
    found |= {"two owners": two_owners(directory, processes), "campaign": campaign(directory)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
