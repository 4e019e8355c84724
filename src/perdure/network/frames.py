"""What goes through the pipe between a network and a worker process of it: frames, and the values within them.

```
 frame     length of the rest (u32, little-endian) │ CBOR [kind, ...]; kinds: see `Kind`
 value     null, booleans, integers, text, bytes, floats, lists and mappings as they are; else a tag:
           60000  tuple                 [value...]
           60001  principal             bytes
           60002  canister              its id, of the subnet that the call is about
           60003  record                [name, value...]: a row of `_RECORDS`
           60004  timedelta             microseconds
           60005  datetime              ns since 1970
           60006  path                  text, absolute
           60007  class of a canister   the bytes that stand for it, by which a worker finds it
 error     [class, [argument...], committed or null, error code or null, [note...], cause as text or null]
```

Both ends are the same version of perdure on one machine, so that there is no number of a version; nothing is ever kept
in this form. No frame is longer than 256 MiB, and neither end holds more than one of each direction.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum, unique
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import cbor2

from perdure.canister import GlobalValue
from perdure.embedder.guard import threads
from perdure.errors import (
    Backtrace,
    HostError,
    InternalError,
    InvalidModuleError,
    MalformedError,
    PerdureError,
    RejectError,
    StorageError,
    UnsupportedError,
    located,
)
from perdure.execution.state import LogRecord
from perdure.ic.principal import Principal
from perdure.subnet.given import nanoseconds_since_1970
from perdure.subnet.interface import ArgumentMissingError
from perdure.subnet.interfaces import Known
from perdure.subnet.last import LastEntry
from perdure.subnet.management import Status

__all__ = [
    "Channel",
    "ClassBytes",
    "Code",
    "EndedError",
    "Held",
    "Kind",
    "Report",
    "decode_error",
    "decode_value",
    "encode_error",
    "encode_value",
    "packed",
]

_LENGTH: Final = struct.Struct("<I")
MAX_FRAME_BYTES: Final = 256 << 20
_READ_BYTES: Final = 1 << 20
_LOOK_MILLISECONDS: Final = 500
"""After which a thread that waits looks whether a signal has come to another one."""


@unique
class Kind(IntEnum):
    """The first item of a frame. Those to a worker are answered by DONE or FAILED, but for TAKE, WENT_ON and STOP."""

    # To a worker.
    ADD = 0
    """[number, options]: have a subnet; done: [id, seed, key, first canister index]."""
    KNOW = 1
    """[[[id, first canister index]...], [id, seed, key, time in ns]]: all subnets, in their order, and the root."""
    CALL = 2
    """[number, canister or null, memory or null, name, is method, arguments, keywords]; done: a value."""
    LOOK = 3
    """[halted ids, whether all is to be told anew]: how are its subnets? Done: a report."""
    ASK = 4
    """[numbers]: have outcalls answered, waits; done: how many subnets had some."""
    SLICES = 5
    """[[number, receiver id, first]...]; done: slices, as bytes."""
    TAKE = 6
    """[round, receiver number, sender id, slice]: a slice that the round is to take in."""
    RUN = 7
    """[round, [number...], [receiver number, sender number, first]..., [number, receiver id, next]..., strays or null,
    halted ids, the root's time in ns]: take in, and run a round of these subnets; done: a report."""
    WAIT = 8
    """[]: have everything as durable as was asked."""
    WENT_ON = 9
    """[whether, error or null]: what became of the round that the worker asked for."""
    CLOSE = 10
    """[]: close all subnets; done, and the process ends."""
    STOP = 11
    """[]: what was asked for before is to end, if it has not; before a signal, which may come before that is begun."""
    # From a worker.
    DONE = 20
    """[value]"""
    FAILED = 21
    """[error]"""
    GO_ON = 22
    """[always, report]: a call needs a round of the network to go on."""


class Report(NamedTuple):
    """How a worker's subnets are.

    Attributes:
        subnets: of each: number, time in ns, whether it has work, whether outcalls wait, and, where they have changed,
            its streams as ``[id, begin, end, inducted]``, and its canisters with ids of others.
        slices: ``[number, receiver, first, count, slice]`` of what goes to other workers, as far as that is not much.
    """

    subnets: list[Any]
    slices: list[Any]


@final
class EndedError(Exception):
    """The process at the other end is gone."""


class Code(NamedTuple):
    """A canister's code as it is known from another process, which has it.

    Attributes:
        module_hash: SHA-256 of the module as uploaded.
        exported_methods: entry points.
        custom_sections: by full name.
        name: of the class, where it is one in Python.
    """

    module_hash: bytes
    exported_methods: frozenset[str]
    custom_sections: Mapping[str, bytes]
    name: str


class ClassBytes(NamedTuple):
    """A canister in Python: what stands for its class."""

    wasm: bytes


_TUPLE, _PRINCIPAL, _CANISTER, _RECORD, _DURATION, _TIME, _PATH, _CLASS = range(60000, 60008)
_RECORDS: Final[Mapping[str, type[Any]]] = {
    one.__name__: one for one in (Status, LogRecord, GlobalValue, LastEntry, Code, Known)
}
_MAX_DEPTH: Final = 100
"""Of values within values; a decoder of CBOR has a limit, too."""
_PLAIN: Final = frozenset({type(None), bool, int, str, bytes, float})


def encode_value(value: object, what: str) -> Any:
    """A value as CBOR has it.

    Args:
        value: to cross.
        what: it is, for the error.

    Raises:
        UnsupportedError: nothing of its kind crosses.
    """
    return _encoded(value, what, 0)


def _encoded(value: object, what: str, depth: int) -> Any:
    if type(value) in _PLAIN:
        return value
    if depth > _MAX_DEPTH:
        raise UnsupportedError(
            f"{what} has values within values, more than {_MAX_DEPTH} deep: that does not cross to a worker process"
        )
    for kinds, encode in _ENCODERS:
        if isinstance(value, kinds):
            return encode(value, what, depth + 1)
    raise UnsupportedError(
        f"{what} is {type(value).__name__}, which does not cross to a worker process; make the network without "
        "processes"
    )


def _record(value: Any, what: str, depth: int) -> Any:
    name = type(value).__name__
    if _RECORDS.get(name) is not type(value):
        return cbor2.CBORTag(_TUPLE, [_encoded(one, what, depth) for one in value])
    parts = [getattr(value, one.name) for one in fields(value)] if is_dataclass(value) else value
    return cbor2.CBORTag(_RECORD, [name, *(_encoded(one, what, depth) for one in parts)])


_Encoder = Callable[[Any, str, int], Any]
_ENCODERS: Final[tuple[tuple[Any, _Encoder], ...]] = (
    ((bool, int), lambda value, what, depth: int(value)),
    ((bytearray, memoryview), lambda value, what, depth: bytes(value)),
    (ClassBytes, lambda value, what, depth: cbor2.CBORTag(_CLASS, value.wasm)),
    ((tuple, *_RECORDS.values()), _record),
    (Principal, lambda value, what, depth: cbor2.CBORTag(_PRINCIPAL, value.raw_bytes)),
    ((list, frozenset, set), lambda value, what, depth: [_encoded(one, what, depth) for one in value]),
    (Mapping, lambda value, what, depth: {key: _encoded(one, what, depth) for key, one in value.items()}),
    (timedelta, lambda value, what, depth: cbor2.CBORTag(_DURATION, value // timedelta(microseconds=1))),
    (datetime, lambda value, what, depth: cbor2.CBORTag(_TIME, nanoseconds_since_1970(value))),
    (str, lambda value, what, depth: str(value)),
    (os.PathLike, lambda value, what, depth: cbor2.CBORTag(_PATH, str(Path(value).absolute()))),
    # A handle of a canister, which this file does not know.
    (object, lambda value, what, depth: cbor2.CBORTag(_CANISTER, _canister_id(value, what))),
)


def _canister_id(value: Any, what: str) -> bytes:
    raw_id = getattr(value, "_raw_id", None)
    if isinstance(raw_id, bytes):
        return raw_id
    hint = ": a class crosses that perdure.kit.canister has made a canister" if isinstance(value, type) else ""
    raise UnsupportedError(
        f"{what} is {type(value).__name__}, which does not cross to a worker process{hint}; make the network without "
        "processes"
    )


_Made = Callable[[Principal], object]


def _parts(found: Iterable[Any], canister: _Made) -> Any:
    return (decode_value(one, canister) for one in found)


def _row(found: list[Any], canister: _Made) -> Any:
    name, *parts = _parts(found, canister)
    return _RECORDS[name](*parts)


_DECODERS: Final[Mapping[int, Callable[[Any, _Made], Any]]] = {
    _TUPLE: lambda found, canister: tuple(_parts(found, canister)),
    _PRINCIPAL: lambda found, canister: Principal(found),
    _CANISTER: lambda found, canister: canister(Principal(found)),
    _RECORD: _row,
    _DURATION: lambda found, canister: timedelta(microseconds=found),
    _TIME: lambda found, canister: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=found // 1000),
    _PATH: lambda found, canister: Path(found),
    _CLASS: lambda found, canister: ClassBytes(found),
}


def decode_value(value: Any, canister: _Made) -> Any:
    """The inverse of `encode_value`; `canister` makes handles.

    Raises:
        MalformedError: there is no such value.
    """
    if type(value) in _PLAIN:
        return value
    if isinstance(value, list | tuple):  # within a tag the decoder makes it a tuple
        return list(_parts(value, canister))
    if isinstance(value, Mapping):
        return {key: decode_value(one, canister) for key, one in value.items()}
    if isinstance(value, cbor2.CBORTag) and value.tag in _DECODERS:
        return _DECODERS[value.tag](value.value, canister)
    raise MalformedError(f"a value {value!r:.80} that no frame has")


# --- errors

_BUILTINS: Final = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    RuntimeError,
    AttributeError,
    OSError,
    FileNotFoundError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    KeyboardInterrupt,
)
_ARGUMENTS: Final[Mapping[type[BaseException], tuple[str, ...]]] = {
    RejectError: ("code", "error_code", "message", "backtrace"),
    StorageError: ("message", "path"),
    MalformedError: ("message", "offset"),
    ArgumentMissingError: ("args", "wanted"),
    **dict.fromkeys((UnsupportedError, InvalidModuleError, HostError, InternalError, PerdureError), ("args",)),
    **dict.fromkeys(_BUILTINS, ("args",)),
}
"""Errors that cross as they are, and what they are made of; of others their words do."""
_BY_NAME: Final = {kind.__name__: kind for kind in _ARGUMENTS}


def encode_error(error: BaseException) -> list[Any]:
    """An error as CBOR has it."""
    kind = next((one for one in type(error).__mro__ if one in _ARGUMENTS), InternalError)
    arguments: list[Any] = [getattr(error, name, None) for name in _ARGUMENTS[kind]]
    if kind is RejectError:
        frames = arguments[3]
        arguments[3] = [list(frames), list(located(frames)) if isinstance(frames, Backtrace) else None]
    elif "args" in _ARGUMENTS[kind]:
        parts = error.args
        if isinstance(error, OSError) and error.filename is not None:
            parts = error.errno, error.strerror, str(error.filename)
        words = [one if type(one) in _PLAIN else str(one) for one in parts]
        arguments[0] = words if type(error) is kind else [f"{type(error).__name__}: {error}"]
    cause = error.__cause__
    told = None if cause is None else "".join(traceback.format_exception(cause)).rstrip()
    code = error.error_code if isinstance(error, PerdureError) else None
    notes = list(getattr(error, "__notes__", ()))
    return [kind.__name__, arguments, getattr(error, "committed", None), hasattr(error, "committed"), code, notes, told]


@final
class _CauseError(Exception):
    """What was raised in the worker process, as it was printed there."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def decode_error(found: list[Any]) -> BaseException:
    """The inverse of `encode_error`."""
    name, arguments, committed, says, code, notes, told = found
    kind = _BY_NAME[name]
    if kind is RejectError:
        frames, lines = arguments[3]
        shown = tuple(lines or ())
        arguments[3] = tuple(frames) if lines is None else Backtrace(frames, lambda: shown)
    if "args" in _ARGUMENTS[kind]:
        arguments = [*arguments[0], *arguments[1:]]
    error: BaseException = kind(*arguments)
    if isinstance(error, PerdureError) and code != error.error_code:
        error.error_code = code
    for note in notes:
        error.add_note(note)
    if says:
        error.committed = committed  # type: ignore[attr-defined]
    if told is not None:
        error.__cause__ = _CauseError(told)
    return error


# --- frames


def packed(kind: Kind, *parts: object) -> bytes:
    """A frame.

    Raises:
        UnsupportedError: it is too long, or has values that do not cross.
    """
    try:
        data = cbor2.dumps([int(kind), *parts])
    except (cbor2.CBORError, ValueError) as error:  # half of a surrogate pair, a key that is none
        raise UnsupportedError(f"this does not cross to a worker process: {error!s:.200}") from error
    if len(data) > MAX_FRAME_BYTES:
        raise UnsupportedError(
            f"{len(data)} bytes do not cross to a worker process at once, at most {MAX_FRAME_BYTES} do"
        )
    return _LENGTH.pack(len(data)) + data


def _frame_of(data: bytes) -> list[Any] | None:
    """The items of a frame; `None`: it is none."""
    try:
        frame = cbor2.loads(data)
    except (cbor2.CBORError, ValueError, RecursionError):
        return None
    return frame if isinstance(frame, list) and frame and type(frame[0]) is int else None


@final
class Channel:
    """One end of a pipe. Of one thread at a time.

    An exception of a signal handler comes out only where this end waits, and what was under way goes on with the next
    call: nothing is lost, and nothing read twice. Handlers are put off else, by the caller: `ThreadState.enter`.

    Args:
        sock: one end of a pair.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._coming = bytearray()
        self._going = bytearray()
        self._frames: deque[list[Any]] = deque()
        self._is_ended = False
        self._poll = select.poll()
        self.is_waiting = False
        """Whether a thread is within a wait, where handlers of signals run."""

    def send(self, frame: bytes) -> None:
        """Send a frame; it is on its way when this returns, or an exception has come while it waited.

        Raises:
            EndedError: nobody is there.
        """
        self._going += frame
        self._write()
        while self._going:
            self._wait()

    def receive(self) -> list[Any]:
        """The next frame: its kind and its parts.

        Raises:
            EndedError: nobody is there.
        """
        while not self._frames:
            if self._is_ended:
                raise EndedError
            self._wait()
        return self._frames.popleft()

    def has_come(self, kind: Kind) -> bool:
        """Whether a frame of this kind is there, behind those that were taken."""
        self._read()
        return any(frame[0] == kind for frame in self._frames)

    @property
    def is_ended(self) -> bool:
        """Whether the other end is known to be gone, looking at what has come."""
        if not self._is_ended:
            self._read()
        return self._is_ended

    def close(self) -> None:
        """Let go of it: the other end finds out."""
        self._is_ended = True
        self._socket.close()

    def _wait(self) -> None:
        if self._is_ended:
            raise EndedError
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if self._going else 0))
        signals = threads.here.state
        try:
            self.is_waiting = True
            signals.let_in()
            self._poll.poll(_LOOK_MILLISECONDS)
        finally:
            self.is_waiting = False
            signals.hold()
        if self._going:
            self._write()
        self._read()

    def _write(self) -> None:
        try:
            with memoryview(self._going) as left, left[:_READ_BYTES] as part:
                sent = self._socket.send(part)
            del self._going[:sent]
        except BlockingIOError:
            pass
        except OSError as error:
            self._is_ended = True
            raise EndedError from error

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._is_ended = True
        self._coming += data
        while len(self._coming) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._coming)
            end = _LENGTH.size + length
            if length > MAX_FRAME_BYTES:
                self._is_ended = True  # what comes next begins nowhere
                return
            if len(self._coming) < end:
                return
            with memoryview(self._coming) as whole, whole[_LENGTH.size : end] as part:
                frame = _frame_of(bytes(part))
            if frame is None:
                self._is_ended = True
                return
            del self._coming[:end]
            self._frames.append(frame)


@final
class Held:
    """Signal handlers wait, but between two messages and where a pipe is waited for. Within another one: nothing."""

    def __init__(self) -> None:
        self._is_outer = False

    def __enter__(self) -> None:
        signals = threads.here.state
        self._is_outer = not signals.depth
        if self._is_outer:
            signals.enter()

    def __exit__(self, *_: object) -> None:
        if self._is_outer:
            threads.here.state.leave()
