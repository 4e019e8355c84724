"""What is shown while something takes a while: a line on a terminal's standard error, nothing in a pipe."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, final

from perdure.cli.console import cells_of, clipped, columns_of

__all__ = ["progress", "waiting"]

_PATIENCE_SECONDS: Final = 0.5
"""What is done sooner shows nothing."""
_REFRESH_SECONDS: Final = 0.25
_BAR: Final = 30
_LEAST_BAR: Final = 5


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
    if quiet or not _has_lines_that_go():
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
    if quiet or not _has_lines_that_go():
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
        self._drawing: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def advance(self, done: int) -> None:
        self._done += done
        if self._drawing is None and time.monotonic() - self._begun > _PATIENCE_SECONDS:
            self.wait()

    def wait(self) -> None:
        """Show the line, unless what it is about has ended."""
        with self._lock:
            if not self._ended.is_set():
                self._drawing = threading.Thread(target=self._draw, daemon=True)
                self._drawing.start()

    def _draw(self) -> None:
        while not self._ended.wait(_REFRESH_SECONDS):
            _write(self._text())

    def _text(self) -> str:
        room = (columns_of(sys.stderr) or 1) - 1
        words = [self._what]
        if self._unit:
            words.append(f"{self._done:,}{f'/{self._total:,}' if self._total is not None else ''} {self._unit}")
        seconds = int(time.monotonic() - self._begun)
        words.append(f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}")
        bar = min(_BAR, room - cells_of(" ".join(words)) - 1)
        if self._total is not None and bar >= _LEAST_BAR:  # figures say more than it does
            share = min(1.0, self._done / self._total) if self._total else 1.0
            words.insert(1, ("#" * round(share * bar)).ljust(bar, "-"))
        return clipped(" ".join(words), room)

    def end(self) -> None:
        """Take the line away."""
        with self._lock:
            self._ended.set()
        if self._drawing is not None:
            self._drawing.join()  # nobody who forks or counts threads is to find it
            _write(self._text())
            _write("")


def _has_lines_that_go() -> bool:
    """Whether standard error is a terminal where a line can be taken away."""
    return columns_of(sys.stderr) is not None and os.environ.get("TERM") != "dumb"


def _is_behind() -> bool:
    """Whether the terminal is somebody else's now: after Ctrl-Z and ``bg``, the shell's."""
    try:
        return os.tcgetpgrp(sys.stderr.fileno()) != os.getpgrp()
    except (AttributeError, OSError, ValueError):  # no terminal of ours, or no such thing on this system
        return False


def _write(line: str) -> None:
    """In the place of what stands there."""
    if _is_behind():
        return
    with suppress(OSError, ValueError):  # whoever closes standard error hears no more
        sys.stderr.write(f"\r\x1b[2K{line}")
        sys.stderr.flush()
