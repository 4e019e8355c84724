"""What is shown while something takes a while: a line on a terminal's standard error, nothing in a pipe."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["progress", "waiting"]

_PATIENCE_SECONDS: Final = 0.5
"""What is done sooner shows nothing, and does not load what would show it."""


@contextmanager
def progress(what: str, total: int | None, unit: str, quiet: bool = False) -> Iterator[Callable[[int], object]]:
    """A line that says how far it is, for as long as the block; it goes away with it.

    Args:
        what: is done.
        total: how many there are; `None`: nobody knows.
        unit: of what.
        quiet: say nothing.

    Returns:
        To be called with how many more are done.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield lambda done: None
        return
    line = _Line(what, total, unit)
    try:
        yield line.advance
    finally:
        line.end()


@contextmanager
def waiting(what: str, quiet: bool = False) -> Iterator[None]:
    """A line that says what is waited for, and for how long already, while the block runs; it goes away with it."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    line = _Line(what, None, "")
    patience = threading.Timer(_PATIENCE_SECONDS, line.wait)
    patience.daemon = True
    patience.start()
    try:
        yield
    finally:
        patience.cancel()
        line.end()
        patience.join()  # it has nothing more to do, and is not to be found by whoever forks or counts threads


@final
class _Line:
    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._begun = time.monotonic()
        self._done = 0
        self._shown: tuple[Progress, TaskID] | None = None
        self._lock = threading.Lock()
        self._ended = False

    def advance(self, done: int) -> None:
        self._done += done
        if self._shown is None and time.monotonic() - self._begun > _PATIENCE_SECONDS:
            self._shown = self._show()
        if self._shown is not None:
            bar, task = self._shown
            bar.update(task, completed=self._done)

    def wait(self) -> None:
        """Show the line, unless what it is about has ended."""
        with self._lock:
            if not self._ended:
                self._shown = self._show()

    def _show(self) -> tuple[Progress, TaskID]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            ProgressColumn,
            TextColumn,
            TimeElapsedColumn,
        )

        columns: tuple[ProgressColumn, ...] = (TextColumn("{task.description}"),)
        if self._unit:
            columns += (BarColumn(), MofNCompleteColumn(), TextColumn(self._unit))
        bar = Progress(
            *columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True, refresh_per_second=4
        )
        bar.start()
        return bar, bar.add_task(self._what, total=self._total)

    def end(self) -> None:
        """Take the line away."""
        with self._lock:
            self._ended = True
        if self._shown is not None:
            self._shown[0].stop()
