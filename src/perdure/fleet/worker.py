"""A worker's own side: ``python -m perdure.fleet.worker MODULE:FUNCTION``, see `perdure.fleet.workers`."""

from __future__ import annotations

import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from perdure.fleet.workers import FRAME, MAX_ANSWER_BYTES

__all__ = ["main", "named", "prefer_to_die"]


def named(place: str) -> Callable[..., Any]:
    """The function that stands at ``module:name``."""
    module, _, name = place.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


def prefer_to_die() -> None:
    """Where memory runs out, the system ends a worker rather than whoever gave it its work."""
    with suppress(OSError), Path("/proc/self/oom_score_adj").open("r+b", buffering=0) as file:
        file.write(b"500")


def main(work: str) -> None:
    """Answer frames until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    prefer_to_die()
    requests, answers = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # what is printed is no answer
    function: Callable[[bytes], bytes] = named(work)
    given: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(requests, given), daemon=True).start()
    _write(answers, b"")
    while True:
        answer = function(given.get())
        if len(answer) > MAX_ANSWER_BYTES:
            raise ValueError(f"an answer of {len(answer)} bytes, at most {MAX_ANSWER_BYTES} are taken")
        _write(answers, answer)


def _read(descriptor: int, given: queue.SimpleQueue[bytes]) -> None:
    with open(descriptor, "rb") as file:
        while True:
            head = file.read(FRAME)
            size_bytes = int.from_bytes(head, "little")
            request = file.read(size_bytes)
            if len(head) < FRAME or len(request) < size_bytes:
                os._exit(0)  # nobody is there any more, whatever this is at
            given.put(request)


def _write(descriptor: int, answer: bytes) -> None:
    data = memoryview(len(answer).to_bytes(FRAME, "little") + answer)
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    main(sys.argv[1])
