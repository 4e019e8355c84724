"""Whatever the code of a canister in Python raises is a trap; what a signal handler raises is for whoever called."""

from __future__ import annotations

import asyncio
import signal
import sys

import pytest

from perdure import Network, Principal, Subnet, rejects
from perdure.kit import call, canister, heartbeat, ic, inspect_message, query, timer, update


class Panic(BaseException):
    """As code in Rust raises it, pyo3's."""


@canister
class Leaves:
    """Whatever runs it, its own code is left by what is no `Exception`."""

    left: int

    def __init__(self) -> None:
        self.left, self.hook = 0, ""

    @update
    def leave(self, how: str) -> int:
        self.left += 1
        if how == "exit":
            sys.exit("enough")
        if how == "no room":
            return len(bytearray(1 << 62))
        raise {"generator": GeneratorExit, "cancelled": asyncio.CancelledError, "panic": Panic}[how](how)

    @update
    async def ask(self, other: Principal, how: str) -> int:
        return await call(other, "leave", how, signature="(text) -> (int)")

    @update
    async def leave_later(self, other: Principal) -> int:
        await call(other, "one", signature="() -> (int)")
        sys.exit(3)

    @query
    def look(self) -> int:
        sys.exit("looked")

    @update
    def wake(self, hook: str) -> None:
        self.hook = hook
        ic.set_timer(1)

    @timer
    def ring(self) -> None:
        if self.hook == "timer":
            sys.exit("rung")

    @heartbeat
    def beat(self) -> None:
        if self.hook == "heartbeat":
            sys.exit("beaten")

    @inspect_message
    def inspect(self) -> bool:
        if ic.method_name == "one" and self.hook == "inspect":
            sys.exit("inspected")
        return True

    @update
    def one(self) -> int:
        return self.left


LEFT = {
    "exit": "SystemExit: enough",
    "no room": "MemoryError",
    "generator": "GeneratorExit: generator",
    "cancelled": "CancelledError: cancelled",
    "panic": "Panic: panic",
}


@pytest.mark.parametrize(
    ("where", "how"),
    [
        *(("one subnet", how) for how in LEFT),
        *(("two subnets", how) for how in LEFT),
        pytest.param("two workers", "exit", marks=pytest.mark.slow),
    ],
)
def test_code_that_is_left_by_what_is_no_exception_traps(where: str, how: str) -> None:
    """Only an interruption ends the process: what a message raises itself would be raised in the next process again."""
    with Network(1 if where == "one subnet" else 2, processes=2 if where == "two workers" else None) as network:
        first, last = network.subnets[0], network.subnets[-1]
        asked, asks = first.install(Leaves), last.install(Leaves)
        with rejects(match=LEFT[how]):
            asked.actor().leave(how)
        with rejects(match=LEFT[how]):
            asks.actor().ask(asked.id, how)
        with rejects(match="SystemExit: 3"):
            asks.actor().leave_later(asked.id)
        assert asked.actor().one() == asks.actor().one() == 0


def test_hooks_and_queries_that_are_left_trap() -> None:
    subnet = Subnet()
    leaves = subnet.install(Leaves)
    with rejects(match="SystemExit: looked"):
        leaves.actor().look()
    for hook in ("timer", "heartbeat"):
        leaves.actor().wake(hook)
        subnet.tick()
        assert leaves.actor().one() == 0
    leaves.actor().wake("inspect")
    with rejects(match="SystemExit: inspected"):
        leaves.actor().one()
    assert any("rung" in str(line) for line in leaves.logs())


def test_a_handler_of_a_signal_ends_what_runs() -> None:
    """`sys.exit` in one is the user's own, whatever class it raises."""

    @canister
    class Waits:
        @update
        def wait(self) -> None:
            signal.raise_signal(signal.SIGTERM)
            for _ in range(1000):
                pass

    def end(*_: object) -> None:
        sys.exit("ended")

    waits = Subnet().install(Waits)
    before = signal.signal(signal.SIGTERM, end)
    try:
        with pytest.raises(SystemExit, match="ended"):
            waits.actor().wait()
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)
