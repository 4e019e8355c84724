"""One worker process of a network, as the network holds it: the process, its pipe, and what is known of its subnets."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol, final, runtime_checkable

from perdure.network.frames import Channel, EndedError, Kind, decode_error, encode_error, packed

__all__ = ["IS_WORKER", "Begins", "Begun", "Place", "StreamNumbers", "WorkerProcess", "answer_of", "begin_process"]

_START: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from perdure.network.worker import main; main(*map(int, sys.argv[2:]))"
)
IS_WORKER: Final = "PERDURE_WORKER"
"""In the environment of workers, whose imports must not begin others."""


class StreamNumbers(NamedTuple):
    """How far a stream is: the number of the first message that is kept, of the next one, and of the next to come."""

    begin: int = 0
    end: int = 0
    inducted: int = 0


@final
@dataclass(slots=True)
class Place:
    """A subnet in a worker, as far as rounds know it.

    Attributes:
        number: in the network.
        options: what it is made of, for a worker that has to open it again.
    """

    number: int
    options: dict[str, Any]
    subnet_id: bytes = b""
    seed: bytes = b""
    root_key: bytes = b""
    first_canister_index: int = 0
    time_ns: int = 0
    has_work: bool = False
    has_outcalls: bool = False
    sent_cycles: int = 0
    received_cycles: int = 0
    xnet_streams: dict[bytes, StreamNumbers] = field(default_factory=dict)
    strays: frozenset[bytes] = frozenset()


class Begun(Protocol):
    """A process that was begun; `subprocess.Popen` is one."""

    @property
    def pid(self) -> int:
        """Its id, where it is."""
        ...

    def send_signal(self, number: int, /) -> None:
        """Send it a signal."""
        ...

    def kill(self) -> None:
        """End it."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended; raises `subprocess.TimeoutExpired`."""
        ...


@runtime_checkable
class Begins(Protocol):
    """Where worker processes are, if not on this machine."""

    @property
    def count(self) -> int:
        """How many there are to be."""
        ...

    def start(self, number: int, /) -> tuple[Begun, socket.socket]:
        """Begin one; its pipe's end here."""
        ...


def begin_process() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A worker process of this machine, which ends with this one, and this end of its pipe."""
    ours, theirs = socket.socketpair()
    paths = json.dumps(list(map(str, sys.path)))
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _START, paths, str(theirs.fileno()), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, IS_WORKER: "1"},
                process_group=0,  # the terminal's Ctrl-C comes to the network, which says what is to end
            )
    except BaseException:
        ours.close()
        raise
    return process, ours


@final
class WorkerProcess:
    """One process, or none as yet.

    Args:
        number: which.
        begins: where it is begun; `None`: on this machine.

    Attributes:
        places: its subnets.
        is_known: whether what is known of them is what they are.
        lost: why it is of no use any more; empty: it is.
        is_left: whether it owes answers that nobody waits for any more, as an exception came while it was interrupted.
    """

    def __init__(self, number: int, begins: Begins | None = None) -> None:
        self.key = b"worker %d" % number
        self._begins = begins
        self.number = number
        self.places: list[Place] = []
        self.is_known = False
        self.anew = True
        self.lost = ""
        self.slices: dict[tuple[int, bytes], tuple[int, int, bytes]] = {}
        self.process: Begun | None = None
        self.is_left = False
        self._channel: Channel | None = None
        self._owed = 0
        self._asks_at = 0

    @property
    def is_alive(self) -> bool:
        """Whether there is a process that is not known to have ended. Files are closed before it can be waited for."""
        channel = self._channel
        return channel is not None and not channel.is_ended

    def start(self) -> None:
        """Begin the process."""
        self.process, ours = begin_process() if self._begins is None else self._begins.start(self.number)
        self._channel = Channel(ours)
        self._owed, self.is_known, self.anew, self.slices = 0, False, True, {}
        self._asks_at, self.is_left = 0, False

    @property
    def is_waited_for(self) -> bool:
        """Whether somebody waits for its pipe right now."""
        return self._channel is not None and self._channel.is_waiting

    @property
    def _pipe(self) -> Channel:
        if self._channel is None:
            raise EndedError
        return self._channel

    def tell(self, kind: Kind, *parts: object) -> None:
        """Send what is not answered."""
        self._pipe.send(packed(kind, *parts))

    def begin(self, kind: Kind, *parts: object) -> None:
        """Send what is answered."""
        frame = packed(kind, *parts)
        self._owed += 1
        self._pipe.send(frame)

    def receive(self) -> list[Any]:
        """What comes: an answer, or that a call wants a round of the network."""
        frame = self._pipe.receive()
        if frame[0] == Kind.GO_ON:
            self._asks_at = self._owed
        else:
            self._owed -= 1
        return frame

    def went_on(self, did: bool, error: list[Any] | None) -> None:
        """Say what became of the round that a call has asked for."""
        self._asks_at = 0
        self.tell(Kind.WENT_ON, did, error)

    def end(self) -> Any:
        """The answer to what was begun, which asks for no round."""
        return answer_of(self.receive())

    def ask(self, kind: Kind, *parts: object) -> Any:
        """Send something, and the answer."""
        self.begin(kind, *parts)
        return self.end()

    def interrupt(self, error: BaseException, before: int = 0) -> BaseException | None:
        """Have it end what is under way between two messages, and wait for that; what came of it."""
        failed: BaseException | None = None
        self.is_left = self._owed > before
        if self._owed > before and self.process is not None:
            self.tell(Kind.STOP)
            self.process.send_signal(signal.SIGINT)
        while self._owed > before:
            if self._asks_at == self._owed:  # it waits for a round, and takes no signal meanwhile
                self.went_on(False, encode_error(error))
            frame = self.receive()
            if frame[0] == Kind.FAILED:
                failed = decode_error(frame[1])
        self.is_left, self.is_known, self.anew = False, False, True
        return failed

    @property
    def owed(self) -> int:
        """Answers that are still to come."""
        return self._owed

    def kill(self) -> None:
        """Have no process any more, whatever it is at."""
        process, self.process = self.process, None
        channel, self._channel = self._channel, None
        if process is not None:
            _kill(process)
        if channel is not None:
            channel.close()
        self._owed, self._asks_at, self.is_known, self.is_left = 0, 0, False, False

    def take_report(self, report: Sequence[Any]) -> None:
        """Know what a report says."""
        told, slices = report
        by_number = {place.number: place for place in self.places}
        for number, time_ns, has_work, has_outcalls, sent_cycles, received_cycles, streams, strays in told:
            place = by_number[number]
            place.time_ns, place.has_work, place.has_outcalls = time_ns, has_work, has_outcalls
            place.sent_cycles, place.received_cycles = sent_cycles, received_cycles
            for subnet_id, *numbers in streams:
                place.xnet_streams[subnet_id] = StreamNumbers(*numbers)
            if strays is not None:
                place.strays = frozenset(strays)
        self.slices = {(number, receiver): (first, count, data) for number, receiver, first, count, data in slices}
        self.is_known, self.anew = True, False


def answer_of(frame: list[Any]) -> Any:
    """What an answer gives, or raises."""
    if frame[0] == Kind.FAILED:
        raise decode_error(frame[1])
    return frame[1]


def _kill(process: Begun) -> None:
    with suppress(OSError):
        process.kill()
    process.wait()
