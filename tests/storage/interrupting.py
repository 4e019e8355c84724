"""Raises before one opcode of perdure's own code, wherever an exception of somebody else's may come."""

from __future__ import annotations

import linecache
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import perdure

ROOT = str(Path(perdure.__file__).parent)


# Traced once more before the lock is released, where no exception of somebody else's ever comes.
_EXIT_OF_LOCK = re.compile(r"\s*with .*_?(lock|mutex):$")


class Interruption(BaseException):
    """Comes from anywhere."""


def _is_left_out(frame: FrameType | None) -> bool:
    """The exit line of a lock, and finalizers, of which Python swallows what they raise."""
    if frame is not None and _EXIT_OF_LOCK.match(linecache.getline(frame.f_code.co_filename, frame.f_lineno or 0)):
        return True
    while frame is not None and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def is_interrupted(act: Callable[[], object], place: int) -> bool:
    """Do `act`, but for what comes after its `place`-th opcode; whether it has so many."""
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if not frame.f_code.co_filename.startswith(ROOT):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not _is_left_out(frame):
            seen += 1
            if seen == place:
                raise Interruption
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    except Interruption:
        return True
    finally:
        sys.settrace(before)
    return False


@contextmanager
def no_hang(seconds: float) -> Iterator[None]:
    """Have what takes longer raise `TimeoutError`."""

    def raise_(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, raise_)
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
