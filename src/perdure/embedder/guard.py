"""Plumbing: what keeps an exception of somebody else's, or a small stack, from ending in the middle of a C call.

Python runs signal handlers on the main thread, between any two of its instructions, those of a ctypes callback
included. So while a message is on its way there, handlers are put off: one that comes is run between messages, or at
the next tick of the epoch clock, where, if it raises, the message is interrupted and the exception comes out of `run`.
(A worker thread for each message would be safe as well; handing over to one and back costs 13 us, this costs 1 us.)

Against asynchronous exceptions, which any thread may send to any other, nothing can be put off. One that comes out of a
ctypes callback leaves whatever was in the place of the result, which the engine takes for a pointer. `covered` makes a
callback's first instruction part of its ``try``, and its last resort, `spares`, needs no call in which a second
exception could come: so the result is always one of ours, and says *failed*.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` wraps each call in enums, which costs four times as much
import ctypes
import signal
import sys
import threading
from _thread import get_ident
from collections.abc import Callable, Iterator
from ctypes import byref, c_size_t, c_void_p
from time import monotonic
from types import FrameType, FunctionType
from typing import Any, Final, TypeVar, final

from perdure.raised import note_interruption

__all__ = ["Spares", "ThreadState", "Threads", "check_recursion", "covered", "threads"]

_USUAL = ("SIGINT", "SIGTERM", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGVTALRM", "SIGPROF", "SIGCHLD")
_USUAL_SIGNALS = tuple(int(getattr(signal, name)) for name in _USUAL)
"""Looked at every time, 40 ns each."""
_ALL_SIGNALS = tuple(sorted(int(number) for number in signal.valid_signals()))
_LOOK_SECONDS = 0.05
"""How long a handler of another signal that had none may go unnoticed. Looking at all of them takes 2.5 us. One that is
not noticed in time raises like an asynchronous exception: the message ends, and is kept or undone whole."""

WORKER_STACK_BYTES = 16 << 20
_ENOUGH_STACK_BYTES = 7 << 20  # 5 MiB of Wasm, and callbacks into Python at its end

_FRAMES = 60  # Python frames that the deepest callback takes, twice over

_Handler = Callable[[int, FrameType | None], Any]
_Callable = TypeVar("_Callable", bound=Callable[..., Any])


@final
class ThreadState:
    """What the engine's callbacks need to know about the thread they run on."""

    __slots__ = ("_found", "_handlers", "_look_at", "_numbers", "_pending", "depth", "instance", "is_main", "roomy")

    def __init__(self, is_main: bool) -> None:
        self.instance: Any = None
        """The instance that runs on this thread."""
        self.is_main = is_main
        self.roomy = _stack_bytes() >= _ENOUGH_STACK_BYTES
        self.depth = 0
        self._numbers: tuple[int, ...] = ()  # signals that had a Python handler when all were looked at
        self._look_at = 0.0
        self._found: tuple[Any, ...] = ()
        self._handlers: list[tuple[int, _Handler]] = []
        self._pending: list[tuple[int, FrameType | None]] = []

    def enter(self) -> None:
        """Put signal handlers off until `leave`; nests. Before the engine may call back, see `check_recursion`.

        A handler may still raise here, until the last one is put off; then nothing has been entered.
        """
        if self.depth or not self.is_main:
            self.depth += 1
            return
        if (now := monotonic()) > self._look_at:
            self._look_at = now + _LOOK_SECONDS
            others = (number for number in _ALL_SIGNALS if number not in _USUAL_SIGNALS)
            self._numbers = _USUAL_SIGNALS + tuple(number for number in others if callable(_signal.getsignal(number)))
            self._found = ()
        found = tuple(map(_signal.getsignal, self._numbers))
        if found != self._found:
            self._look_up(found)
        try:
            for number, _ in self._handlers:
                _signal.signal(number, self._put_off)
        except BaseException:
            self._put_back()
            raise
        self.depth = 1

    def leave(self) -> None:
        """Put the handlers back, then run those that were put off, which may raise."""
        self.depth -= 1
        if not self.depth and self.is_main:
            self._put_back()
            if self._pending:
                self.run_pending()

    def pause(self) -> None:
        """Between two messages: run the handlers that were put off, which may raise."""
        if self._pending and not self.is_deep:
            self.run_pending()

    def let_in(self) -> None:
        """Until `hold`, run handlers as they come: what runs is Python, and nothing ends it but an exception.

        What one of them raises is told from what that code raises itself: see `is_interruption`.
        """
        for number, _ in self._handlers if self.depth and self.is_main else ():
            _signal.signal(number, self._pass_on)
        if self.depth and self.is_main:
            self.pause()

    def hold(self) -> None:
        """Put handlers off again. What one of them raises meanwhile comes out at the end."""
        raised: BaseException | None = None
        note_interruption(None)
        for number, _ in self._handlers if self.depth and self.is_main else ():
            try:
                _signal.signal(number, self._put_off)
            except BaseException as error:
                raised = error
                _signal.signal(number, self._put_off)
        if raised is not None:
            raise raised

    @property
    def is_deep(self) -> bool:
        """Whether a message runs within another's."""
        return self.depth > 1

    def run_pending(self) -> None:
        """Run the handlers that were put off so far; what they raise is for the caller to carry on."""
        handlers = dict(self._handlers)
        while self._pending:
            number, frame = self._pending.pop(0)
            handlers[number](number, frame)

    def _look_up(self, found: tuple[Any, ...]) -> None:
        known = dict(self._handlers)
        handlers: list[tuple[int, _Handler]] = []
        for number, handler in zip(self._numbers, found, strict=True):
            if handler in (self._put_off, self._pass_on):  # a storm of signals has kept `_put_back` from ending
                handlers.append((number, known[number]))
            elif handler is not None and handler.__class__ is not int:
                handlers.append((number, handler))
        self._handlers, self._found = handlers, found

    def _put_back(self, start: int = 0) -> None:
        """Put back the handlers from the `start`-th on, each of which may raise as soon as it is back."""
        try:
            for number, handler in self._handlers[start:]:
                _signal.signal(number, handler)
                start += 1
        except BaseException:
            self._put_back(start)
            raise

    def _put_off(self, number: int, frame: FrameType | None) -> None:
        self._pending.append((number, frame))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        try:
            dict(self._handlers)[number](number, frame)
        except BaseException as error:
            note_interruption(error)
            raise


@final
class Spares:
    """Results for callbacks that were cut off, made beforehand, and what cut them off.

    Taken without a call, see `covered`:

        place = spares.next
        spares.next = place + 1
        spares.causes[place] = error
        return spares.traps[place]
    """

    __slots__ = ("_make_error", "_make_trap", "causes", "errors", "next", "taken", "traps")

    def __init__(self, make_trap: Callable[[], int], make_error: Callable[[], int]) -> None:
        self._make_trap = make_trap
        self._make_error = make_error
        self.traps: list[int] = []
        self.errors: list[int] = []
        self.causes: list[BaseException | None] = []
        self.next = self.taken = 0
        self.refill()

    def refill(self) -> None:
        """Make new ones in place of those that were taken. A place is never used again: another thread may be there."""
        for _ in range(self.next + _SPARES - len(self.causes)):
            self.traps.append(self._make_trap())
            self.errors.append(self._make_error())
            self.causes.append(None)

    def take_cause(self) -> BaseException | None:
        """What cut a callback off, if something did that nobody has taken yet."""
        if self.taken == self.next:
            return None
        place = self.taken
        self.taken = place + 1
        cause, self.causes[place] = self.causes[place], None
        self.refill()
        return cause


_SPARES = 64


def covered(callback: _Callable) -> _Callable:
    """A function whose body is one ``try``, with its first instruction within it as well.

    Where a function begins (``RESUME``), Python looks for signals and asynchronous exceptions, and that is before any
    line of it. So the range of the first entry in its table of exceptions is made to begin there. Format of the table:
    "Objects/exception_handling_notes.txt" of CPython, the same from 3.11 on.
    """
    assert isinstance(callback, FunctionType)
    code = callback.__code__
    start, _, target, _ = next(entry for entry in _entries(code.co_exceptiontable) if not entry[3])
    table = _varint(0, 0x80) + _varint(start) + _varint(target) + _varint(0) + code.co_exceptiontable
    callback.__code__ = code.replace(co_exceptiontable=table)
    return callback


def _entries(table: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Start, length and target in code units, and the depth of the stack, times two."""
    values: list[int] = []
    value = 0
    for byte in table:
        value = value << 6 | byte & 0x3F
        if not byte & 0x40:
            values.append(value)
            value = 0
    for place in range(0, len(values), 4):
        yield values[place], values[place + 1], values[place + 2], values[place + 3]


def _varint(value: int, mark: int = 0) -> bytes:
    groups = [value & 0x3F]
    while value := value >> 6:
        groups.insert(0, 0x40 | value & 0x3F)
    groups[0] |= mark
    return bytes(groups)


@final
class _Here(threading.local):
    """`state` is that of the thread that asks: found in C, as each message asks five times."""

    def __init__(self) -> None:
        self.state = ThreadState(get_ident() == threading.main_thread().ident)


@final
class Threads:
    """The state of each thread, and a way to run something on a thread with a large stack."""

    def __init__(self) -> None:
        self.here = _Here()
        self._stack_size_lock = threading.Lock()

    @staticmethod
    def is_main_alive() -> bool:
        """Whether the program is still in its main part, and not waiting for the other threads to end."""
        return threading.main_thread().is_alive()

    def after_fork(self) -> None:
        """In the child, the thread that forked is the main thread."""
        self.here.state.is_main = True
        self._stack_size_lock = threading.Lock()

    def call(self, function: Callable[[], Any]) -> Any:
        """`function()` on a stack that is large enough for the engine: here, or on another thread, and wait for it.

        There it counts as run by the instance that runs here.
        """
        state = self.here.state
        if state.roomy:
            return function()
        results: list[Any] = []
        failures: list[BaseException] = []

        def work() -> None:
            there = self.here.state
            there.instance = state.instance
            try:
                results.append(function())
            except BaseException as error:
                failures.append(error)

        with self._stack_size_lock:
            before = threading.stack_size(WORKER_STACK_BYTES)
            try:
                thread = threading.Thread(target=work, name="perdure-wasm")
                thread.start()
            finally:
                threading.stack_size(before)
        thread.join()
        if failures:
            raise failures[0]
        return results[0]


def check_recursion() -> None:
    """Raise `RecursionError` here rather than in a callback, where the engine would go on with a null memory.

    Up to half of the limit it costs a look (0.2 us); beyond, since calls from C count as well, it is tried out.
    """
    try:
        sys._getframe(sys.getrecursionlimit() // 2 - _FRAMES)  # below 0 it is as 0
    except ValueError:
        return
    _descend(_FRAMES)


def _descend(frames: int) -> None:
    if frames:
        _descend(frames - 1)


def _stack_bytes() -> int:
    """The size of this thread's stack; none that could be found out counts as small."""
    library = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(256)
    library.pthread_self.restype = c_void_p
    library.pthread_getattr_np.argtypes = [c_void_p, c_void_p]
    if library.pthread_getattr_np(library.pthread_self(), attributes):
        return 0
    size = c_size_t()
    library.pthread_attr_getstacksize.argtypes = [c_void_p, c_void_p]
    failed: int = library.pthread_attr_getstacksize(attributes, byref(size))
    library.pthread_attr_destroy.argtypes = [c_void_p]
    library.pthread_attr_destroy(attributes)
    return 0 if failed else size.value


threads: Final = Threads()
"""Of this process."""
