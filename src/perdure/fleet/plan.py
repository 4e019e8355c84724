"""What a campaign will take, told before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Final, NamedTuple, final

from perdure.fleet.jobs import Job, Row
from perdure.units import counted, show_bytes

__all__ = ["Estimate", "estimate"]


class _Cost(NamedTuple):
    """Processor seconds: of one source, of a GiB that it has on the disk, of a module that nobody has compiled yet."""

    source: float
    gib: float
    module: float


_COSTS: Final = {
    "upgrade-check": _Cost(0.3, 4.0, 3.0),
    "query": _Cost(0.05, 5.0, 0.0),
    "fsck": _Cost(0.1, 5.0, 0.0),
    "bench": _Cost(5.0, 0.0, 3.0),
    "fuzz": _Cost(15.0, 0.0, 3.0),
}
"""Seen on one core of 2026, with canisters of the tests; what a campaign has measured itself counts instead."""


@final
@dataclass(frozen=True)
class Estimate:
    """What a campaign takes.

    Attributes:
        sources: to do.
        modules: different ones among them.
        size_bytes: that they take on the disk, all of which may be read.
        processor_seconds: of all cores together.
        seconds: with so many workers.
        usd: of the cores.
        measured: sources whose times this follows; 0: it follows a table.
    """

    sources: int
    modules: int
    size_bytes: int
    processor_seconds: float
    seconds: float
    usd: float
    measured: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """For people."""
        by = (
            f"as {counted(self.measured, 'source')} took" if self.measured else "by a table, twice or half of it may be"
        )
        return (
            f"{counted(self.sources, 'source')}, {counted(self.modules, 'module')}, {show_bytes(self.size_bytes)}: "
            f"about {self.processor_seconds:,.0f} s of a core ({by}), {self.seconds:,.0f} s here, {self.usd:.2f} USD\n"
        )


def estimate(
    command: str, jobs: Sequence[Job], done: Sequence[Row], workers: int, usd_per_core_hour: float
) -> Estimate:
    """What jobs will take.

    Args:
        command: which.
        jobs: to do.
        done: rows of the same campaign.
        workers: how many at once.
        usd_per_core_hour: what a core costs.
    """
    cost = _COSTS[command]
    modules = len({job.group for job in jobs} - {""})
    size_bytes = sum(job.size_bytes for job in jobs)
    times = [row.seconds for row in done]
    if times:
        seconds = len(jobs) * median(times)
    else:
        seconds = len(jobs) * cost.source + size_bytes / 2**30 * cost.gib + modules * cost.module
    return Estimate(
        len(jobs),
        modules,
        size_bytes,
        seconds,
        seconds / max(1, min(workers, len(jobs))),
        seconds / 3600 * usd_per_core_hour,
        len(times),
    )
