"""Workers: processes that are given bytes and answer bytes, one thing at a time; each can be ended at any moment.

A frame is its length, 8 bytes, little-endian, and so many bytes. A worker reads frames from its standard input and
writes one for each; first, when it is ready, an empty one. What it prints otherwise is read as it comes, and its end
is kept until it has died: gigabytes of it take no room. It ends when its input does, whatever it is at: nobody is left
behind by a parent that was killed.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Final, Protocol, final

__all__ = ["FRAME", "MAX_ANSWER_BYTES", "Processes", "Worker", "Workers"]

FRAME: Final = 8
"""Bytes of a frame's length."""
MAX_ANSWER_BYTES: Final = 256 << 20
_LAST_WORDS_BYTES: Final = 2_000
_MAX_READS: Final = 64
_PATIENCE_SECONDS: Final = 5.0


class Worker(Protocol):
    """Does one thing at a time."""

    def give(self, request: bytes) -> None:
        """Have it do something; the answer is heard by `Workers.heard`."""
        ...

    def end(self) -> str:
        """End it, whatever it is at; how it ended, and what it said last."""
        ...


class Workers(Protocol):
    """Where workers are."""

    @property
    def count(self) -> int:
        """How many there may be at once."""
        ...

    @property
    def tries(self) -> int:
        """How often something is given to a worker that ends with it: more than once where machines go away."""
        ...

    def start(self) -> Worker:
        """A new one; when it is ready, it is heard with an empty answer."""
        ...

    def heard(self, workers: Collection[Worker], seconds: float | None) -> Sequence[tuple[Worker, bytes | None]]:
        """Who of them has answered within some time, and what; `None`: that one is gone."""
        ...


@final
class Processes:
    """Workers that are processes of this machine, spawned, each in a session of its own.

    Args:
        work: the function that they call, as ``module:name``: bytes to bytes.
        count: how many at once; by default as many as there are cores.
    """

    tries = 1

    def __init__(self, work: str, count: int | None = None) -> None:
        self.work = work
        self.count = count or _cores()

    def start(self) -> _Process:
        """See `Workers`."""
        return _Process(self.work)

    def heard(self, workers: Collection[Worker], seconds: float | None) -> Sequence[tuple[Worker, bytes | None]]:
        """See `Workers`."""
        found: list[tuple[Worker, bytes | None]] = []
        with selectors.DefaultSelector() as selector:
            for one in workers:
                assert isinstance(one, _Process)
                selector.register(one.output, selectors.EVENT_READ, one)
                if one.has_words:
                    selector.register(one.words, selectors.EVENT_READ, one)
            for key, _ in selector.select(seconds):
                if key.fileobj is key.data.words:
                    key.data.listen()
                    continue
                answer, is_there = key.data.read()
                if is_there:
                    found.append((key.data, answer))
        return found


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@final
class _Process:
    def __init__(self, work: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perdure.fleet.worker", work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for whoever gives the work; and its children end with it
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input = self._process.stdin
        self.output = self._process.stdout
        self._buffer = bytearray()
        self.words = self._process.stderr
        self.has_words = True
        self._last_words = b""
        os.set_blocking(self.words.fileno(), False)

    def give(self, request: bytes) -> None:
        """See `Worker`."""
        data = memoryview(len(request).to_bytes(FRAME, "little") + request)
        with suppress(BrokenPipeError):  # it is gone, which is heard
            while data:
                data = data[self._input.write(data) or 0 :]

    def read(self) -> tuple[bytes | None, bool]:
        """What is there of an answer, and whether it is one: `None` that it is gone."""
        chunk = os.read(self.output.fileno(), 1 << 20)
        if not chunk:
            return None, True
        self._buffer += chunk
        if len(self._buffer) < FRAME:
            return None, False
        size_bytes = int.from_bytes(self._buffer[:FRAME], "little")
        if size_bytes > MAX_ANSWER_BYTES:
            return None, True  # no worker of ours writes that: something has written into its pipe
        if len(self._buffer) < FRAME + size_bytes:
            return None, False
        answer = bytes(self._buffer[FRAME : FRAME + size_bytes])
        del self._buffer[: FRAME + size_bytes]
        return answer, True

    def listen(self) -> bool:
        """Take what is there of its words, and keep the last of them; whether there was anything."""
        try:
            said = os.read(self.words.fileno(), 1 << 20)
        except BlockingIOError:
            return False
        self.has_words = bool(said)
        self._last_words = (self._last_words + said)[-_LAST_WORDS_BYTES:]
        return self.has_words

    def end(self) -> str:
        """See `Worker`."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)
        code = self._process.returncode
        for _ in range(_MAX_READS):  # a child of it that has got away may go on for ever
            if not self.listen():
                break
        words = self._last_words.decode(errors="replace").strip()
        for pipe in (self._input, self.output, self.words):
            with suppress(OSError):
                pipe.close()
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"{how}: {words}" if words else how
