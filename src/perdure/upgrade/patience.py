"""How long the hooks of an upgrade are waited for: to the network's limit, saying so, or to a time that was given.

A hook without end uses the network's whole limit, which takes minutes. So it gets a small part of that first, enough
for nearly every hook there is. One that needs more is begun again with all of it, and whoever waits is told how long
that may take. A limit in seconds becomes one in instructions by what the first part has taken.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from perdure.execution.effects import compile_instructions
from perdure.upgrade.stage import Outcome, Stage

__all__ = ["FIRST_INSTRUCTIONS", "Patience", "Waited"]

FIRST_INSTRUCTIONS: Final = 10_000_000_000
"""What hooks get first, beyond the compiling: a thirtieth of the network's limit, some ten seconds."""
TIMED_INSTRUCTIONS: Final = 500_000_000
"""The same where there is a limit in seconds: enough to measure the speed by."""


@final
class Waited(NamedTuple):
    """An upgrade that was waited for.

    Attributes:
        stage: where it was done.
        outcome: how it ended.
        limit: in instructions, compiling included.
        is_cut_short: whether it ended at a limit that is below the network's.
    """

    stage: Stage
    outcome: Outcome
    limit: int
    is_cut_short: bool


@final
@dataclass(frozen=True)
class Patience:
    """How long to wait.

    Attributes:
        limit_seconds: for the hooks; `None`: as long as the network's limit takes.
        tell: told what is waited for; by default nobody is.
        first_instructions: see `FIRST_INSTRUCTIONS`.
    """

    limit_seconds: float | None = None
    tell: Callable[[str], None] = lambda text: None
    first_instructions: int = FIRST_INSTRUCTIONS

    def first_limit(self, stage: Stage, operators: int) -> int:
        """What an installation of so many operators gets first; all of it where cycles are short."""
        full = stage.install_limit
        # The network sets the cycles for its whole limit aside before it begins.
        if stage.world.costs.execution(full) > stage.state.liquid_cycles:
            return full
        first = self.first_instructions
        if self.limit_seconds is not None:
            first = min(first, TIMED_INSTRUCTIONS)
        return min(full, compile_instructions(stage.world, operators) + first)

    def upgrade(self, origin: Stage, operators: int, upgrade: Callable[[Stage], Outcome]) -> Waited:
        """Upgrade a fork of `origin`.

        Args:
            origin: is forked, and stays as it is.
            operators: of the module, which compiling is charged by.
            upgrade: upgrades the canister of a stage.
        """
        full, first = origin.install_limit, self.first_limit(origin, operators)
        started = time.monotonic()
        stage, outcome = self._within(origin, first, upgrade)
        if first == full or not outcome.is_out_of_instructions:
            return Waited(stage, outcome, full, is_cut_short=False)
        seconds = max(time.monotonic() - started, 0.001)
        speed = max(1, outcome.instructions) / seconds
        limit = full
        if self.limit_seconds is not None:
            limit = min(full, int(speed * max(0.0, self.limit_seconds - seconds)))
        if limit <= first:
            return Waited(stage, outcome, first, is_cut_short=True)
        self.tell(
            f"a hook has used {outcome.instructions:,} instructions in {seconds:.0f} s; it is begun again with "
            f"{'the network limit of ' if limit == full else ''}{limit:,}, which may take {limit / speed:.0f} s"
            + ("" if self.limit_seconds is not None else " (--time-limit SECONDS ends it sooner)")
        )
        stage, outcome = self._within(origin, limit, upgrade)
        return Waited(stage, outcome, limit, is_cut_short=limit < full and outcome.is_out_of_instructions)

    @staticmethod
    def _within(origin: Stage, limit: int, upgrade: Callable[[Stage], Outcome]) -> tuple[Stage, Outcome]:
        stage = origin.fork()
        with stage.installing_within(limit):
            return stage, upgrade(stage)
