"""Threads that answer requests for an event loop, which hears of several answers at once.

An executor makes three futures and a wake-up of each request; where answering takes a quarter of a millisecond, that is
as much again.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Generic, NamedTuple, TypeVar, final

__all__ = ["Workers"]

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


class _Job(NamedTuple):
    future: asyncio.Future[Any]
    line: str
    act: Callable[[Any], Any]
    asked: object


@final
class Workers(Generic[_Asked, _Answer]):
    """Some threads. Those who wait for one thing wait in one line, which keeps a part of the threads busy, never all.

    Args:
        count: of threads.
        of_one_line: how many of them one line may have.
    """

    def __init__(self, count: int, of_one_line: int) -> None:
        self._of_one_line = of_one_line
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[asyncio.Future[Any], str, Any, BaseException | None]] = deque()
        self._is_told = False
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[_Job]] = {}
        names = (f"perdure serve {number}" for number in range(count))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, line: str, act: Callable[[_Asked], _Answer], asked: _Asked) -> asyncio.Future[_Answer]:
        """Have something done, for the running loop. Whoever stops waiting for it leaves it going."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for thread in self._threads:
                thread.start()
        job = _Job(self._loop.create_future(), line, act, asked)
        busy = self._busy.get(line, 0)
        if busy < self._of_one_line:
            self._busy[line] = busy + 1
            self._jobs.put(job)
        else:
            self._waiting.setdefault(line, deque()).append(job)
        return job.future

    def stop(self) -> None:
        """End the threads once they have done what they are at."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _work(self) -> None:
        loop = self._loop
        assert loop is not None
        while (job := self._jobs.get()) is not None:
            answer, failure = None, None
            try:
                answer = job.act(job.asked)
            except BaseException as error:
                failure = error
            self._done.append((job.future, job.line, answer, failure))
            del job, answer, failure  # not to be kept until the next one comes
            if not self._is_told:
                self._is_told = True
                with suppress(RuntimeError):  # the loop has ended, and nobody waits
                    loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_told = False
        while self._done:
            future, line, answer, failure = self._done.popleft()
            self._next(line)
            if future.done():
                continue
            if failure is None:
                future.set_result(answer)
            else:
                future.set_exception(failure)

    def _next(self, line: str) -> None:
        """Let the next one of a line have the thread."""
        waiting = self._waiting.get(line)
        if waiting:
            self._jobs.put(waiting.popleft())
            return
        self._waiting.pop(line, None)
        busy = self._busy[line] - 1
        if busy:
            self._busy[line] = busy
        else:
            del self._busy[line]
