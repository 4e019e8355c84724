"""Upgrade checks: how many of the bad ones are found and of the harmless ones let pass, and what a check costs."""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from engine import ROOT
from figures import Table, main
from perdure import Subnet
from perdure.inspection.motoko import reader
from perdure.upgrade import check

sys.path.insert(0, str(ROOT / "tests" / "upgrade"))
from scenarios import BAD, HARMLESS, filled, rust

GIB = 1 << 30


def measure(quick: bool) -> Table:
    table = Table("upgrade_figures")
    verdicts(table, quick)
    cost(table, 5 if quick else 20)
    large(table, 3 if quick else 10)
    leaves(table, 3 if quick else 10)
    return table


def verdicts(table: Table, quick: bool) -> None:
    """Over the scenarios of the tests; quickly: every fourth of them."""
    step = 4 if quick else 1
    bad = [(row, row.check()) for row in BAD[::step]]
    harmless = [(row, row.check()) for row in HARMLESS[::step]]
    found = [report for row, report in bad if set(row.causes) <= set(report.causes) and report.verdict != "safe"]
    table.add("bad upgrades found, with the cause named", len(found) / len(bad), "ratio", 1.0, "higher")
    table.add("harmless upgrades called breaking", sum(one.verdict == "breaking" for _, one in harmless), "upgrades", 0)
    unsure = sum(one.verdict == "not certain" for _, one in harmless)
    table.add("harmless upgrades called not certain", unsure / len(harmless), "ratio", 0.05)


def cost(table: Table, repeat: int) -> None:
    """Of a check whose modules are compiled: processor time."""
    canister = Subnet().install(rust("a")())
    filled(canister)
    new = rust("r")()
    canister.check_upgrade(new)
    times = []
    for _ in range(repeat):
        start = time.process_time()
        canister.check_upgrade(new)
        times.append(time.process_time() - start)
    table.add("a check with compiled modules", median(times), "s", 0.3)


def leaves(table: Table, repeat: int) -> None:
    """Motoko's stable variables, decoded: an array of 100,000 records, and a list as long as the hook can write one."""
    for kind, fills in (("classical", {"fill": 100_000, "grow": 4_000}), ("eop", {"fill": 100_000, "grow": 100_000})):
        made = Subnet().install(ROOT / f"tests/canisters/modules/state_{kind}.wasm.gz")
        for method, count in fills.items():
            canister = made._subnet.fork().canister(made.id)
            getattr(canister.actor(), method)(count)
            read = reader(canister)
            read()
            rates = []
            for _ in range(repeat):
                start = time.process_time()
                found = read()
                rates.append(found.leaves / (time.process_time() - start))
            what = "records" if method == "fill" else "a list"
            table.add(f"leaves decoded, {kind}, {what}", median(rates), "per second", 200_000, "higher")


def large(table: Table, repeat: int) -> None:
    """A snapshot whose stable memory has 10 GiB, nearly all of it never written."""
    with tempfile.TemporaryDirectory() as directory:
        canister = Subnet().install(rust("a")())
        filled(canister)
        path = Path(directory) / "snapshot"
        canister.write_snapshot(path)
        with (path / "stable_memory.bin").open("r+b") as file:
            file.truncate(10 * GIB)
        metadata = json.loads((path / "metadata.json").read_text())
        metadata["stable_memory_size"] = 10 * GIB
        (path / "metadata.json").write_text(json.dumps(metadata))
        new = rust("r")()
        check(str(path), new)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        times = []
        for _ in range(repeat):
            start = time.process_time()
            check(str(path), new)
            times.append(time.process_time() - start)
        more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        table.add("a check of a 10 GiB snapshot", median(times), "s", 2.0)
        table.add("memory that checks take on top of one", more / 1024, "MiB", 200)


if __name__ == "__main__":
    main(measure)
