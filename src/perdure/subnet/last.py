"""What the last entry of a canister took, as far as it can still be seen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, final

from perdure.canister import Trap
from perdure.execution.events import ended
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.subnet.residency import ResidentInstance

__all__ = ["LastEntry", "last_entry"]


@final
class LastEntry(NamedTuple):
    """An entry: a method, a hook, or a callback. Pages are of 4 KiB."""

    entry: str
    """The export's name; ``callback``."""
    instructions: int
    cycles: int
    """What the instructions cost; 0 where nobody pays for them: queries, inspection."""
    pages_read: Mapping[str, int]
    """Pages that were accessed, read or written, by memory, of those whose reads are seen: stable memory."""
    pages_written: Mapping[str, int]
    """By memory, those of the canister's own that it wrote among them.

    Of an entry that trapped neither is known: what it did was undone."""
    logs: tuple[bytes, ...]
    """The newest lines that it printed, as many as the log can hold."""
    duration_ns: int
    """By this machine's clock, what is around the code included."""
    trap: str
    """Why it trapped; empty: it returned."""


def last_entry(world: World, state: CanisterState) -> LastEntry | None:
    """Of a canister; `None`: it has not been entered since its code came, or was forked or opened."""
    instance = state.instance
    if not isinstance(instance, ResidentInstance) or instance.last is None:
        return None
    entry, context, outcome, duration_ns = instance.last
    event = ended(state.canister_id, context, outcome, world.costs_of(state.module))
    read, written, trap = {"stable": 0}, {"heap": 0, "stable": 0}, ""
    if isinstance(outcome, Trap):
        trap = outcome.message or outcome.code.name.lower().replace("_", " ")
    else:
        read, written = {"stable": outcome.stable_accessed_pages}, {**outcome.written_pages}
    return LastEntry(
        entry.entered,
        event.instructions,
        event.cycles,
        read,
        written,
        tuple(outcome.logs),
        duration_ns,
        trap,
    )
