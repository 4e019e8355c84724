"""`perdure canister advance`: the clock of a state directory stands still between commands."""

from __future__ import annotations

import click

from perdure.cli.canister.facts import show_time
from perdure.cli.canister.state import State, common, say
from perdure.cli.units import DURATION

__all__ = ["advance"]


@click.command()
@click.argument("duration", type=DURATION)
@common
def advance(state: State, duration: int, as_json: bool, quiet: bool) -> None:
    """Let DURATION pass for all canisters, and run what is due then, such as timers.

    The clock stands still otherwise. A timer that is set again while it runs is due once each time that this is done.

    \b
    Example:
        perdure canister advance 1h
    """  # noqa: D301 - click wants the backspace itself
    with state.open() as subnet:
        try:
            subnet.advance_time(duration * 10**9)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
        rounds = subnet.run_until_idle()
        now_ns = subnet.time_ns
    say(as_json, quiet, {"time_ns": now_ns, "rounds": rounds}, f"it is {show_time(now_ns)}, {rounds} rounds were run")
