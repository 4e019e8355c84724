"""The one engine: its settings, its epoch clock, and validation as the replica does it."""

from __future__ import annotations

import _thread
import functools
import os
import re
import sys
import threading
import time
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from pathlib import Path
from typing import Any, final

from wasmtime import _ffi

from perdure.embedder.bindings import EPOCH_CALLBACK, MemoryCreatorCallbacks, engine_error, error_message, function
from perdure.embedder.c_host import CHostFunctions
from perdure.embedder.creator import MemoryCreator
from perdure.embedder.guard import Spares, covered, threads
from perdure.embedder.host import HostCallbacks, trap_new
from perdure.embedder.pagemap import private_pages
from perdure.embedder.settings import FEATURES, MAX_WASM_STACK_BYTES, RUNNING, SIZES, configure
from perdure.errors import InternalError, MalformedError
from perdure.ic.ic0_ext import how_to_allow

__all__ = ["MAX_WASM_STACK_BYTES", "TICK_SECONDS", "Engine", "is_valid", "shared_engine", "validate_original"]

TICK_SECONDS = 0.1
"""How often a running message looks up: for Ctrl-C, and for its deadline."""

_config_new = function("wasm_config_new", c_void_p)
_config_delete = function("wasm_config_delete", None, c_void_p)
_engine_new = function("wasm_engine_new_with_config", c_void_p, c_void_p)
_engine_delete = function("wasm_engine_delete", None, c_void_p)
_increment_epoch = function("wasmtime_engine_increment_epoch", None, c_void_p)
_validate = function("wasmtime_module_validate", c_void_p, c_void_p, c_char_p, c_size_t)


_OFFSET = re.compile(r"\s*\(at offset (0x[0-9a-f]+)\)")


@final
class Engine:
    """The engine that compiles and runs instrumented modules; one for a process is best (`shared_engine`).

    Args:
        portable: force the portable way to find changed pages, see `perdure.embedder.pagemap`; by default the
            environment variable ``PERDURE_PORTABLE`` says.
        c_host: host functions in C, to compare with.
    """

    def __init__(self, *, portable: str | None = None, c_host: CHostFunctions | None = None) -> None:
        self.spares = Spares(trap_new, lambda: engine_error("cut off"))
        self.memory_creator = MemoryCreator(self.spares)
        config = _config_new()
        configure(_ffi.dll, config, FEATURES | RUNNING | _alone(), SIZES)
        callbacks = self.memory_creator.callbacks
        function("wasmtime_config_host_memory_creator_set", None, c_void_p, POINTER(MemoryCreatorCallbacks))(
            config, byref(callbacks)
        )
        self.pointer: int = _engine_new(config)
        if not self.pointer:
            raise InternalError("the engine refused its settings")
        self.stops = 0
        self.process = os.getpid()
        self.threads = threads
        self.clock = EpochClock(self.pointer)
        self.c_host = c_host
        self.host = HostCallbacks(self.pointer, self.threads, self.spares, c_host)
        self.epoch_callback = EPOCH_CALLBACK(self._tick)
        os.register_at_fork(after_in_child=self._after_fork)
        environment = os.environ if portable is None else {"PERDURE_PORTABLE": portable}
        self.private_pages = private_pages(environment)

    @covered
    def _tick(self, context: int, data: int, delta_out: Any, kind_out: Any) -> int:
        """Asked by a running message at each tick: 0 to go on for another one, or an error to stop."""
        try:
            delta_out[0] = 1
            kind_out[0] = 0
            return engine_error("stopped") if self._must_stop() else 0
        except BaseException as error:
            spares = self.spares
            place = spares.next
            spares.next = place + 1
            spares.causes[place] = error
            return spares.errors[place]

    def _must_stop(self) -> bool:
        self.clock.start()
        if not self.threads.is_main_alive() and getattr(sys, "last_type", None) is KeyboardInterrupt:
            self.stop_messages()  # Ctrl-C has ended the program, which now waits for its other threads
        instance = self.threads.here.state.instance
        return instance is not None and instance.must_stop()

    def stop_messages(self) -> None:
        """End every message that runs now, on any thread, within a tick: `run` raises `KeyboardInterrupt` there."""
        self.stops += 1

    def _after_fork(self) -> None:
        self.process = os.getpid()
        self.threads.after_fork()
        self.private_pages.after_fork()
        self.clock.after_fork()

    @functools.cached_property
    def settings(self) -> str:
        """Everything that compiled code depends on besides the module: the compile cache's key."""
        sizes = sorted(SIZES.items())
        # The library itself stands for its version: asking the package's metadata takes 13 ms. A changed file time only
        # costs a compilation, and the engine refuses code of another version by itself.
        library = Path(_ffi.filename).stat()
        return f"wasmtime {library.st_size} {library.st_mtime_ns} {sorted((FEATURES | RUNNING).items())} {sizes}"


@final
class EpochClock:
    """Ticks while messages run, so that the engine asks each of them whether it may go on.

    The thread sleeps when nothing has run for a while; it is started by the first message, and again after a fork.
    """

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._wake = threading.Event()
        self._is_running = False
        self.busy = 0

    def after_fork(self) -> None:
        """In the child the thread is gone."""
        self._is_running = False
        self._wake = threading.Event()

    def start(self) -> None:
        """See to it that the clock ticks. Cheap when it does."""
        self.busy = 20
        if not self._wake.is_set():
            self._start()

    def _start(self) -> None:
        # Not a `threading.Thread`, whose `start` waits for the new one to begin: an asynchronous exception for this
        # thread that comes meanwhile ends the new one, which has this one's number until then, and the wait never ends.
        begun = self._is_running
        while not begun:
            has_begun = _thread.allocate_lock()
            has_begun.acquire()
            _thread.start_new_thread(self._run, (self._wake, has_begun))
            begun = has_begun.acquire(timeout=1)
        self._wake.set()

    def _run(self, wake: threading.Event, has_begun: _thread.LockType) -> None:
        self._is_running = True
        has_begun.release()
        try:
            while wake.wait():
                time.sleep(TICK_SECONDS)
                _increment_epoch(self._engine)
                self.busy -= 1
                if self.busy < 0:
                    wake.clear()
                    if self.busy >= 0:  # a message began in between
                        wake.set()
        finally:
            if wake is self._wake:
                self._is_running = False
                wake.clear()


@functools.cache
def shared_engine() -> Engine:
    """The engine of this process, made when first asked for."""
    return Engine()


_forks: list[int] = []
"""Process ids of this one and of those before it, as far as they are forks."""


def _alone() -> dict[str, bool]:
    """Settings of an engine in a forked child: it would wait for ever for the threads that the parent compiles with."""
    return {"parallel_compilation": False} if _forks else {}


def _after_fork() -> None:
    _forks.append(os.getpid())
    shared_engine.cache_clear()
    _original_engine.cache_clear()


os.register_at_fork(after_in_child=_after_fork)


@functools.cache
def _original_engine(multi_memory: bool) -> int:
    """An engine that only validates, with what the replica lets a canister use; on request with several memories."""
    config = _config_new()
    configure(_ffi.dll, config, FEATURES | {"wasm_multi_memory": multi_memory} | _alone(), {})
    pointer: int = _engine_new(config)
    return pointer


def is_valid(engine: int, wasm: bytes) -> bool:
    """Whether an engine takes a module for valid, whatever becomes of compiling it."""
    error = _validate(engine, wasm, len(wasm))
    if error:
        error_message(error)
    return not error


def validate_original(wasm: bytes, *, multi_memory: bool = False) -> None:
    """Check a canister's own module, before anything is appended, with several memories switched off.

    Appending can make an invalid index valid: a module that names memory 1 would reach ours.

    Args:
        wasm: the module.
        multi_memory: it may have several of its own, as an extension lets it.

    Raises:
        MalformedError: the engine's own message, with the offset that it names.
    """
    error = _validate(_original_engine(multi_memory), wasm, len(wasm))
    if error:
        message = error_message(error)
        place = _OFFSET.search(message)
        text = _OFFSET.sub("", message.partition("\n\nCaused by:\n    ")[2] or message).strip()
        if text == "multiple memories":
            text += f": {how_to_allow('memories')}"
        raise MalformedError(text, int(place[1], 16) if place else None)
