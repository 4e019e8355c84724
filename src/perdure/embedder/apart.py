"""Compiling in a process of its own: it can be ended, has a limit of memory, and whoever waits hears of it."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from typing import Final

from wasmtime import _ffi

from perdure.embedder import settings
from perdure.embedder.patience import Apart
from perdure.errors import HostError, UnsupportedError

__all__ = ["compile_apart"]

_LOG: Final = logging.getLogger("perdure")
_HEARD_EVERY_SECONDS: Final = 10.0


def compile_apart(binary: bytes, apart: Apart, estimated_seconds: float) -> bytes:
    """The native code of an instrumented module, as the engine serialises it.

    Raises:
        UnsupportedError: the engine cannot compile it.
        HostError: time or memory ran out; on a larger or less busy machine it may succeed.
    """
    _LOG.warning(
        "compiling a module of %.1f MB, about %.0f s of processor time; the result is cached",
        len(binary) / 1e6,
        estimated_seconds,
    )
    command = [sys.executable, "-I", "-S", settings.__file__, str(_ffi.filename), str(apart.max_memory_bytes)]
    from tempfile import TemporaryFile

    with TemporaryFile() as module, TemporaryFile() as output:
        module.write(binary)
        module.seek(0)
        with subprocess.Popen(
            command,
            stdin=module,
            stdout=output,
            stderr=subprocess.PIPE,  # the process ends when it is closed, as it is when this one is killed
            start_new_session=True,  # Ctrl-C comes here, and ends it from here
        ) as process:
            try:
                said = _wait(process, apart)
            except BaseException:
                process.kill()
                raise
        if process.returncode == 0:
            output.seek(0)
            return output.read()
    raise _failure(process.returncode, said, apart)


def _wait(process: subprocess.Popen[bytes], apart: Apart) -> str:
    started = time.monotonic()
    seconds = 0.0
    while True:
        try:
            left_seconds = max(0.0, apart.max_seconds - seconds)
            said = process.communicate(timeout=min(_HEARD_EVERY_SECONDS, left_seconds))[1]
            return said.decode(errors="replace").strip()
        except subprocess.TimeoutExpired:
            seconds = time.monotonic() - started
            if seconds >= apart.max_seconds:
                raise HostError(
                    f"compiling the module took longer than {apart.max_seconds:g} seconds, which is the limit here "
                    "(Apart.max_seconds); nothing has changed"
                ) from None
            _LOG.warning("still compiling after %.0f s", seconds)


def _failure(code: int, said: str, apart: Apart) -> Exception:
    if code == 1 and "Traceback" not in said:
        return UnsupportedError(f"the engine cannot compile the module: {said}")
    if code in {-signal.SIGABRT, -signal.SIGKILL, -signal.SIGSEGV} or "MemoryError" in said or "memory" in said:
        return HostError(
            f"compiling the module took more than {apart.max_memory_bytes >> 20} MiB of memory, the limit here "
            f"(Apart.max_memory_bytes), or was ended from outside (exit code {code}); nothing has changed"
        )
    return HostError(f"compiling the module in a process of its own failed (exit code {code}): {said}")
