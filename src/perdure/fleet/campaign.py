"""A campaign: jobs done by workers, each within its time; whatever one of them meets ends that one job only."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, final

from perdure.errors import HostError
from perdure.fleet.jobs import Job, Row
from perdure.fleet.workers import Worker, Workers

__all__ = ["Campaign"]

_JOBS_OF_A_WORKER: Final = 256
"""Then another one takes its place: what jobs leave behind in memory goes with it."""
_FALSE_STARTS: Final = 3
_START_SECONDS: Final = 300.0
"""Until the first worker is there: on machines that have to be started, it takes minutes."""


@dataclass
class _Busy:
    """What a worker is at; it is not ready yet where `ready` is not set."""

    job: Job | None = None
    group: str = ""
    number: int = 1
    """Which try of the job it is."""
    begun: float = field(default_factory=time.monotonic)
    done: int = 0
    ready: bool = False


@final
class Campaign:
    """Has jobs done.

    A worker goes on with jobs of the module it has had, and takes the module next that the fewest others are at: so
    one is compiled by one worker, as a rule, and every later one finds native code in the cache. Large sources come
    first, so that no long one is left at the end.

    Args:
        jobs: to do.
        workers: who does them.
        time_limit_seconds: of one job; its worker is ended with it.
    """

    def __init__(self, jobs: Iterable[Job], workers: Workers, time_limit_seconds: float | None = None) -> None:
        self._groups: dict[str, deque[tuple[Job, int]]] = {}
        for job in sorted(jobs, key=lambda job: -job.size_bytes):
            self._groups.setdefault(job.group, deque()).append((job, 1))
        self._workers = workers
        self._limit = time_limit_seconds
        self._busy: dict[Worker, _Busy] = {}
        self._false_starts = 0

    def rows(self) -> Iterator[Row]:
        """What comes out, job by job as they end. Whoever stops asking ends what is under way.

        Raises:
            HostError: no worker starts.
        """
        try:
            while self._groups or any(one.job is not None for one in self._busy.values()):
                self._staff()
                yield from self._heard()
                yield from self._late()
        finally:
            for worker in self._busy:
                worker.end()
            self._busy.clear()

    def _staff(self) -> None:
        """As many workers as can be used, each ready one with something to do."""
        for worker, state in list(self._busy.items()):
            if state.ready and state.job is None:
                if state.done >= _JOBS_OF_A_WORKER:
                    worker.end()
                    del self._busy[worker]
                elif self._groups:
                    self._give(worker, state)
        waiting = sum(map(len, self._groups.values())) - sum(not one.ready for one in self._busy.values())
        for _ in range(min(self._workers.count - len(self._busy), waiting)):
            self._busy[self._workers.start()] = _Busy()

    def _give(self, worker: Worker, state: _Busy) -> None:
        group = state.group if state.done and state.group in self._groups else self._least()
        job, number = self._groups[group].popleft()
        if not self._groups[group]:
            del self._groups[group]
        state.job, state.number, state.group, state.begun = job, number, group, time.monotonic()
        worker.give(job.request())

    def _least(self) -> str:
        at = Counter(one.group for one in self._busy.values() if one.job is not None)
        return min(self._groups, key=lambda group: at[group])

    def _heard(self) -> Iterator[Row]:
        now = time.monotonic()
        due = [one.begun + self._limit - now for one in self._busy.values() if one.job is not None and self._limit]
        if not any(one.ready for one in self._busy.values()):
            due = [min(one.begun for one in self._busy.values()) + _START_SECONDS - now]
            if due[0] <= 0:
                raise HostError(f"no worker was ready within {_START_SECONDS:g} s")
        for worker, answer in self._workers.heard(self._busy, max(0.0, min(due)) if due else None):
            state = self._busy[worker]
            if answer is None:
                yield from self._gone(worker)
            elif not state.ready:
                state.ready, self._false_starts = True, 0
            elif state.job is not None:
                job, state.job = state.job, None
                state.done += 1
                yield Row.answered(job, answer, time.monotonic() - state.begun)

    def _gone(self, worker: Worker) -> Iterator[Row]:
        state = self._busy.pop(worker)
        how = worker.end()
        if state.job is None:
            self._false_starts += not state.ready
            if self._false_starts >= _FALSE_STARTS:
                raise HostError(f"workers end before they begin: {how}")
            return
        if state.number < self._workers.tries:
            self._groups.setdefault(state.group, deque()).appendleft((state.job, state.number + 1))
            return
        yield Row.ended(state.job, f"its worker ended by {how}", time.monotonic() - state.begun)

    def _late(self) -> Iterator[Row]:
        now = time.monotonic()
        for worker, state in list(self._busy.items()):
            if self._limit and state.job is not None and now - state.begun >= self._limit:
                del self._busy[worker]
                worker.end()
                yield Row.ended(state.job, f"its time limit of {self._limit:g} s is over", now - state.begun)
