"""What the canister developer's kit costs: tests on a prepared canister, the command line, calls through actors.

    python benchmarks/kit_figures.py [--quick] [--json]

Two hundred tests run under pytest as a project's own would, with its start; set-up is the fixtures' time alone, taken
inside. The command line is a whole process, bytecode cached as an installed package has it.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from figures import Table, main, median_ns
from perdure import Principal, Subnet
from perdure.kit import canister, ic, nat64, query, update
from perdure.stable import StableBTreeMap

ROOT = Path(__file__).parent.parent
MODULE = ROOT / "tests/canisters/modules/motoko_classical_v1.wasm.gz"
TESTS = 200
CONFTEST = f"""
import pytest, time

@pytest.fixture(scope="session")
def perdure_baseline(perdure_baseline):
    counter = perdure_baseline.install({str(MODULE)!r})
    for _ in range(100):
        counter.actor().inc()
    return perdure_baseline

spent = []

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup(item):
    start = time.perf_counter_ns()
    yield
    spent.append(time.perf_counter_ns() - start)

def pytest_terminal_summary(terminalreporter):
    terminalreporter.write_line(f"setup {{sorted(spent)[len(spent) // 2]}}")
"""
SUITE = f"""
import pytest

@pytest.mark.parametrize("number", range({TESTS}))
def test_counter(subnet, number):
    (counter,) = subnet.canisters
    assert counter.actor().inc() == 101
"""


@canister
class Ledger:
    """A ledger in Python, to compare."""

    balances: StableBTreeMap[Principal, nat64]

    @update
    def add(self, amount: nat64) -> nat64:
        """Adds to the caller's balance."""
        self.balances[ic.caller] = self.balances.get(ic.caller, 0) + amount
        return self.balances[ic.caller]

    @query
    def balance(self, of: Principal) -> nat64:
        """The balance of somebody."""
        return self.balances.get(of, 0)


def _environment(directory: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(directory / "bytecode")}


def _run(arguments: list[str], directory: Path) -> tuple[float, str]:
    start = time.perf_counter()
    done = subprocess.run(
        arguments, cwd=directory, env=_environment(directory), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
    return time.perf_counter() - start, done.stdout


def _pytest(table: Table, directory: Path, quick: bool) -> None:
    (directory / "conftest.py").write_text(CONFTEST)
    (directory / "test_counter.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(directory)]
    runs = [_run(command, directory) for _ in range(2 if quick else 5)]
    seconds, output = min(runs)
    found = re.search(r"setup (\d+)", output)
    if found is None or f"{TESTS} passed" not in output:
        raise RuntimeError(output)
    table.add(f"{TESTS} tests on one prepared canister, in all", seconds, "s", 3)
    table.add("set-up of one test, median", int(found.group(1)) / 1e6, "ms", 2)


def _command_line(table: Table, directory: Path, quick: bool) -> None:
    perdure = [sys.executable, "-m", "perdure", "canister"]
    _run([*perdure, "install", "counter", "--wasm", str(MODULE)], directory)
    repeat = 5 if quick else 15
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    calls = [_run([*perdure, "call", "counter", "count"], directory)[0] for _ in range(repeat)]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / repeat
    interpreter = [_run([sys.executable, "-c", ""], directory)[0] for _ in range(repeat)]
    table.add("perdure canister call, whole process, best", min(calls) * 1e3, "ms", 250)
    table.add("perdure canister call, whole process, median", median(calls) * 1e3, "ms")
    table.add("of that, processor time, mean", processor * 1e3, "ms")
    table.add("of that, an interpreter that does nothing, best", min(interpreter) * 1e3, "ms")


def _actors(table: Table, quick: bool) -> None:
    repeat = 200 if quick else 1_000
    counter = Subnet().install(MODULE)
    actor, count = counter.actor(), b"DIDL\0\0"
    table.add("actor.inc() on Motoko", median_ns(lambda: actor.inc(), repeat) / 1e3, "us")
    table.add("the same in bytes", median_ns(lambda: counter.update("inc", count), repeat) / 1e3, "us")
    ledger = Subnet().install(Ledger).actor()
    table.add("an update of a Python canister with a stable map", median_ns(lambda: ledger.add(1), repeat) / 1e3, "us")
    someone = Principal(b"\4")
    table.add("a query of it", median_ns(lambda: ledger.balance(someone), repeat) / 1e3, "us")
    subnet = Subnet()
    subnet.install(MODULE).actor().inc()
    table.add("a fork of a subnet with one canister", median_ns(lambda: subnet.fork(), repeat) / 1e3, "us")


def measure(quick: bool) -> Table:
    """Measure the kit."""
    table = Table("kit")
    with tempfile.TemporaryDirectory() as name:
        _pytest(table, Path(name), quick)
        _command_line(table, Path(name), quick)
    _actors(table, quick)
    return table


if __name__ == "__main__":
    main(measure)
