"""Long compilations take turns, across threads and processes: each has all cores and its own gigabytes."""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

__all__ = ["turn"]

_LOG: Final = logging.getLogger("perdure")
_LOOK_EVERY_SECONDS: Final = 0.05
_HEARD_EVERY_SECONDS: Final = 10.0
_FILE: Final = "compiling"


@contextmanager
def turn(directory: Path, max_seconds: float) -> Iterator[None]:
    """Hold the lock of a cache directory, if it can be had.

    Look into the cache again then: what the one before has compiled is often the same module. A lock that stays for
    longer than `max_seconds`, because its holder was stopped, is not waited for; where there can be none, because the
    directory cannot be written, everybody compiles at once.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        descriptor = os.open(directory / _FILE, flags, 0o600)
    except OSError:
        yield
        return
    try:
        _wait(descriptor, max_seconds)
        yield
    finally:
        os.close(descriptor)


def _wait(descriptor: int, max_seconds: float) -> None:
    started = heard = time.monotonic()
    while not _is_ours(descriptor):
        now = time.monotonic()
        if now - started > max_seconds:
            break
        if now - heard > _HEARD_EVERY_SECONDS:
            heard = now
            _LOG.warning("waiting for another module to be compiled, for %.0f s", now - started)
        time.sleep(_LOOK_EVERY_SECONDS)


def _is_ours(descriptor: int) -> bool:
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False
