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
from typing import Any, Final, Generic, TypeVar, final

__all__ = ["Workers"]

_MAX_LEFT: Final = 1024
"""What was answered before it was begun, and is done nevertheless."""

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


@final
class _Job(asyncio.Future[Any]):
    """What is to be done, and its answer. Who cancels it before it has begun has it dropped.

    Args:
        line: in which it waits.
        act: does it.
        asked: what `act` is given.
        drop: called in its place, by the loop.
    """

    def __init__(self, line: str, act: Callable[[Any], Any], asked: object, drop: Callable[[], object]) -> None:
        super().__init__()
        self.line = line
        self.is_left = False
        self._todo = [(act, asked)]
        self._drop = drop

    def cancel(self, msg: Any = None) -> bool:
        """Want no answer any more."""
        is_cancelled = super().cancel(msg)
        if is_cancelled:
            self.drop()
        return is_cancelled

    @property
    def is_taken(self) -> bool:
        """Whether it has begun."""
        return not self._todo

    def drop(self) -> None:
        """Do not begin it."""
        if self.taken() is not None:
            self._drop()

    def taken(self) -> tuple[Callable[[Any], Any], Any] | None:
        """What is to be done, for the first one who asks: a thread, or the loop that drops it."""
        try:
            return self._todo.pop()
        except IndexError:
            return None


def _nothing(_: object = None) -> None:
    pass


@final
class Workers(Generic[_Asked, _Answer]):
    """Some threads. Those who wait for one thing wait in one line, which keeps a part of the threads busy, never all.

    Args:
        count: of threads.
        of_one_line: how many of them one line may have.
        unwanted: what is done, by the loop, with an answer that nobody waits for any more.
    """

    def __init__(self, count: int, of_one_line: int, unwanted: Callable[[_Answer], None] = _nothing) -> None:
        self._unwanted = unwanted
        self._of_one_line = of_one_line
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._done: deque[tuple[_Job, Any, BaseException | None]] = deque()
        self._is_told = False
        self._left = 0
        self._busy: dict[str, int] = {}
        self._waiting: dict[str, deque[_Job]] = {}
        names = (f"perdure serve {number}" for number in range(count))
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(
        self,
        line: str,
        act: Callable[[_Asked], _Answer],
        asked: _Asked,
        drop: Callable[[], object] = _nothing,
    ) -> asyncio.Future[_Answer]:
        """Have something done, for the running loop. Cancelled, it goes on if it has begun, and else is dropped."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            for thread in self._threads:
                thread.start()
        job = _Job(line, act, asked, drop)
        busy = self._busy.get(line, 0)
        if busy < self._of_one_line:
            self._busy[line] = busy + 1
            self._jobs.put(job)
        else:
            self._waiting.setdefault(line, deque()).append(job)
        return job

    def leave(self, job: asyncio.Future[_Answer], answer: _Answer, refusal: _Answer) -> None:
        """Answer what takes too long, which is done nevertheless; where too much is left so, drop it, and refuse it."""
        assert isinstance(job, _Job)
        if job.done():
            return
        if job.is_taken:
            job.set_result(answer)
        elif self._left < _MAX_LEFT:
            self._left += 1
            job.is_left = True
            job.set_result(answer)
        else:
            job.drop()
            job.set_result(refusal)

    async def answer(self, job: asyncio.Future[_Answer]) -> _Answer:
        """The answer to what `run` has begun; whoever is cancelled meanwhile does not want it."""
        try:
            return await job
        except asyncio.CancelledError:
            if job.done() and not job.cancelled() and job.exception() is None:  # both came at once
                self._unwanted(job.result())
            raise

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
            answer, failure, todo = None, None, job.taken()
            if todo is not None:
                act, asked = todo
                try:
                    answer = act(asked)
                except BaseException as error:
                    failure = error
                del act, asked
            self._done.append((job, answer, failure))
            del job, answer, failure, todo  # not to be kept until the next one comes
            if not self._is_told:
                self._is_told = True
                with suppress(RuntimeError):  # the loop has ended, and nobody waits
                    loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_told = False
        while self._done:
            job, answer, failure = self._done.popleft()
            self._next(job.line)
            self._left -= job.is_left
            if job.done():
                if answer is not None:
                    self._unwanted(answer)
            elif failure is None:
                job.set_result(answer)
            else:
                job.set_exception(failure)

    def _next(self, line: str) -> None:
        """Let the next one of a line have the thread."""
        waiting = self._waiting.get(line)
        while waiting:
            job = waiting.popleft()
            if not job.is_taken:
                self._jobs.put(job)
                return
        self._waiting.pop(line, None)
        busy = self._busy[line] - 1
        if busy:
            self._busy[line] = busy
        else:
            del self._busy[line]
