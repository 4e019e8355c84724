"""Logs that clients cannot fill a disk with: of each kind of line only so many a minute."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

__all__ = ["Sparing", "sparing"]

_LOGGERS: Final = ("perdure", "uvicorn.error", "asyncio")
_PERIOD_SECONDS: Final = 60.0
_MOST: Final = 5
_KINDS: Final = 256


@final
class Sparing(logging.Filter):
    """Lets some lines of each kind through, by their format; the first one of the next period says how many did not."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        """By logger and format: when the period began, and how many lines have come."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is written."""
        kind, now = (record.name, str(record.msg)[:200]), time.monotonic()
        with self._lock:
            begun, count = self._seen.pop(kind, (now, 0))
            is_over = now - begun >= _PERIOD_SECONDS
            self._seen[kind] = (now, 1) if is_over else (begun, count + 1)
            if len(self._seen) > _KINDS:
                del self._seen[next(iter(self._seen))]
        if is_over and count > _MOST:
            record.msg, record.args = f"{record.getMessage()} ({count - _MOST} more like it were not logged)", ()
        return is_over or count < _MOST


@contextmanager
def sparing() -> Iterator[None]:
    """Have the loggers of a server be sparing within the block."""
    one, loggers = Sparing(), [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(one)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(one)
