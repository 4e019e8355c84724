"""Plumbing: work on values nested deeper than Python's stack.

A thread starts with an empty Python stack, so deep work hops to a new one every few hundred frames. Raising the
recursion limit instead would change it for the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from perdure.errors import MalformedError

__all__ = ["MAX_DEPTH", "Meter", "guarded", "on_fresh_stack"]

#: Python's limit is 1,000 frames, and callers have some on the stack already; a fresh one is empty.
FRAMES_OF_CALLER = 300
FRAMES_OF_FRESH_STACK = 800
#: Levels of nesting in a value, at most. A message of n bytes has at most about n of them.
MAX_DEPTH = 100_000

_HOP_STEPS = 200

P = ParamSpec("P")
T = TypeVar("T")


def on_fresh_stack(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` returns or raises, run on a stack of its own."""
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function(*args, **kwargs))
        except BaseException as error:  # it is raised again below, in the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run, name="perdure-candid-deep")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class Meter:
    """What one message may still cost, and how deep the work on it is.

    Args:
        left: the budget in steps. Reading bytes is bounded by the message and costs nothing; steps that consume no
            bytes do (see ``decoding``). Unlimited for work on values that are the caller's own.
    """

    __slots__ = ("depth", "left", "stack_start")

    def __init__(self, left: int = 1 << 62) -> None:
        self.left = left
        self.depth = 0
        self.stack_start = 0

    def charge(self, steps: int, offset: int | None = None) -> None:
        """Spend `steps`; raises MalformedError when the budget is gone."""
        self.left -= steps
        if self.left < 0:
            raise MalformedError("the message costs more to decode than its size allows", offset)

    def enter(self, levels: int, function: Callable[..., Any], *args: object) -> Any:
        """Call ``function(*args)``, `levels` deeper; hops to a fresh stack where needed.

        Raises:
            MalformedError: nested deeper than ``MAX_DEPTH``.
        """
        depth, start = self.depth, self.stack_start
        self.depth = depth + levels
        try:
            if self.depth > MAX_DEPTH:
                raise MalformedError(f"nested deeper than {MAX_DEPTH} levels")
            if self.depth - start <= (FRAMES_OF_FRESH_STACK if start else FRAMES_OF_CALLER):
                return function(*args)
            self.charge(_HOP_STEPS)
            self.stack_start = self.depth
            return on_fresh_stack(function, *args)
        finally:
            self.depth, self.stack_start = depth, start


def guarded(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call `function`; once more on a fresh stack if the caller left too little of its own."""
    try:
        return function(*args, **kwargs)
    except RecursionError:
        return on_fresh_stack(function, *args, **kwargs)
