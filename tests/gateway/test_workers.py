"""Threads that answer for an event loop: what is left to them, and what is not begun."""

from __future__ import annotations

import asyncio
import threading

from perdure.gateway.workers import Workers


def test_what_is_answered_before_it_is_begun_is_done_up_to_a_number(monkeypatch):
    monkeypatch.setattr("perdure.gateway.workers._MAX_LEFT", 2)
    going_on, done, dropped = threading.Event(), [], []

    async def go() -> list[str]:
        workers = Workers(2, 1)
        first = workers.run("a", lambda _: going_on.wait(120), None)
        jobs = [
            workers.run("a", lambda n: done.append(n) or "late", n, lambda n=n: dropped.append(n)) for n in range(4)
        ]
        for job in jobs:
            workers.leave(job, "left", "refused")
        going_on.set()
        await first
        after = workers.run("a", lambda n: done.append(n) or "done", 4)
        workers.leave(first, "left", "refused")
        found = [await job for job in (*jobs, after)]
        assert workers._left == 0
        workers.stop()
        return found

    assert asyncio.run(go()) == ["left", "left", "refused", "refused", "done"]
    assert (done, dropped) == ([0, 1, 4], [2, 3])


def test_who_is_cancelled_is_not_begun_and_an_answer_that_nobody_takes_is_told_of():
    going_on, done, dropped, unwanted = threading.Event(), [], [], []

    async def go() -> None:
        workers = Workers(1, 1, unwanted.append)
        first = workers.run("a", lambda _: going_on.wait(120), None)
        waiting = workers.run("b", done.append, 1, lambda: dropped.append(1))
        while not first.is_taken:
            await asyncio.sleep(0.001)
        first.cancel()
        waiting.cancel()
        going_on.set()
        assert await workers.run("a", lambda n: n, 2) == 2
        workers.stop()

    asyncio.run(go())
    assert (done, dropped, unwanted) == ([], [1], [True])
