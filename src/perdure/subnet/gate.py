"""Plumbing: whose turn it is, where several threads call one subnet.

One lock guards everything that a subnet is. It is let go in one place: while the engine runs a canister's code for an
entry that came in *beside* others (an update that is all there is to do, a query). Such a canister is *outside*, and no
other entry comes near it; entries for other canisters go on, each under the lock but for its own code. An entry that
reaches further (rounds, installing, forks, checkpoints) is *alone*: it waits until nobody is outside, and from then on
holds the lock throughout.

So the rules never see two messages at once; they see that between entering a canister and its return others have been.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Concatenate, ParamSpec, Protocol, TypeVar, final

__all__ = ["Gate", "Outside", "alone", "at_rest"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_PAUSES = (50e-6, 30e-3, 30e-3)
"""Seconds. To hand over lock and interpreter, each with a thread to be woken, costs as much as one or two messages."""


@final
class Gate:
    """The turns of one subnet.

        with gate.lock:
            turn = gate.beside(canister_id)     # or gate.alone()
            try:
                ...                             # gate.become_alone(turn), if it turns out to reach further
            finally:
                gate.is_shared = turn

    Entries nest where Python calls back while it holds the lock. They never wait, since the one around them would not
    end; `RuntimeError` says where they would have to, and where a signal handler makes one while its thread is outside.

    Args:
        patient: whether a turn that is taken is tried again after a pause. It pays where turns are short.
    """

    def __init__(self, *, patient: bool = True) -> None:
        # Taken by `with`, between which and its block no signal handler can raise; a method of ours would have a gap.
        self.lock = threading.RLock()
        self.is_shared: bool | None = None
        """Whether the entry whose turn it is came in beside others; `None`: it is nobody's turn."""
        self._is_awaited = False  # somebody has paused long enough, and takes the lock as soon as it is free
        self._pauses = _PAUSES if patient else ()
        self._outside: dict[bytes, int] = {}  # by canister: the thread
        self._returned = threading.Condition(self.lock)
        self._wanted = 0  # entries that wait to be alone; no new one comes in before them
        self._begun = 0  # those of them that have begun a message, and go first

    @property
    def is_busy(self) -> bool:
        """Whether somebody has a short turn, or is the next: a hint, which may be out of date, for `stand_back`."""
        turn = self.is_shared  # nobody pauses for one that is alone: it is long, or the caller's own
        return self._is_awaited if turn is None else turn

    def stand_back(self) -> None:
        """Where it `is_busy`, before the lock is asked for: let whoever has the turn have more of them.

        Threads that wait for a lock are woken at the end of each turn, and then take turns, which is slowest.
        """
        for seconds in self._pauses:
            time.sleep(seconds)
            if not self.is_busy:
                return
        self._is_awaited = bool(self._pauses)

    def beside(self, canister_id: bytes) -> bool | None:
        """Begin an entry for one canister once that one is at rest; what `is_shared` has to be again at its end."""
        turn = self.is_shared
        self._is_awaited = False
        if (self._outside or self._wanted) and not self._is_nested(turn, canister_id):
            while canister_id in self._outside or self._wanted:
                self._returned.wait()
        self.is_shared = turn is None  # a nested one does not let go of what the one around it holds
        return turn

    def alone(self) -> bool | None:
        """Begin an entry that has the subnet to itself; what `is_shared` has to be again at its end."""
        turn = self.is_shared
        if (self._outside or self._begun) and not self._is_nested(turn, None):
            self._wanted += 1
            try:
                while self._outside or self._begun:
                    self._returned.wait()
            finally:
                self._stop_wanting()
        self.is_shared = False
        return turn

    def become_alone(self, turn: bool | None) -> None:
        """Go on alone within an entry that `beside` has begun. Nobody who is not beside it comes in between."""
        if self._outside and not self._is_nested(turn, None):
            self.is_shared = None
            self._wanted += 1
            self._begun += 1
            try:
                while self._outside:
                    self._returned.wait()
            finally:
                self._begun -= 1
                self._stop_wanting()
        self.is_shared = False

    def _stop_wanting(self) -> None:
        self._wanted -= 1
        self._returned.notify_all()

    def _is_nested(self, turn: bool | None, canister_id: bytes | None) -> bool:
        """Whether this thread is within an entry already and must not wait. `None`: it needs the whole subnet."""
        is_outside = get_ident() in self._outside.values()
        if turn is None and not is_outside:
            return False
        if is_outside or canister_id is None or canister_id in self._outside:
            raise RuntimeError("called from within a message: what is wanted is not free before that has ended")
        return True

    def leave(self, canister_id: bytes) -> None:
        """Be outside with a canister, within an entry that is beside others."""
        self._outside[canister_id] = get_ident()
        self.is_shared = None
        self.lock.release()

    def come_back(self, canister_id: bytes) -> None:
        """Go on with the entry."""
        self.lock.acquire()
        self.is_shared = True
        del self._outside[canister_id]
        self._returned.notify_all()


@final
class Outside:
    """Entered while a canister's code runs; the engine has put off signal handlers by then."""

    __slots__ = ("_canister_id", "_gate")

    def __init__(self, gate: Gate, canister_id: bytes) -> None:
        self._gate = gate
        self._canister_id = canister_id

    def __enter__(self) -> None:
        self._gate.leave(self._canister_id)

    def __exit__(self, *_: object) -> None:
        self._gate.come_back(self._canister_id)


class _Gated(Protocol):
    @property
    def _gate(self) -> Gate: ...


_Owner = TypeVar("_Owner", bound=_Gated)


def alone(
    method: Callable[Concatenate[_Owner, _Parameters], _Result],
) -> Callable[Concatenate[_Owner, _Parameters], _Result]:
    """A method that has the subnet to itself."""

    @wraps(method)
    def entry(self: _Owner, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        gate = self._gate
        with gate.lock:
            turn = gate.alone()
            try:
                return method(self, *args, **kwargs)
            finally:
                gate.is_shared = turn

    return entry


class _OfCanister(_Gated, Protocol):
    @property
    def _raw_id(self) -> bytes: ...


_OneOwner = TypeVar("_OneOwner", bound=_OfCanister)


def at_rest(
    method: Callable[Concatenate[_OneOwner, _Parameters], _Result],
) -> Callable[Concatenate[_OneOwner, _Parameters], _Result]:
    """A method that has its canister to itself."""

    @wraps(method)
    def entry(self: _OneOwner, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        gate = self._gate
        with gate.lock:
            turn = gate.beside(self._raw_id)
            try:
                return method(self, *args, **kwargs)
            finally:
                gate.is_shared = turn

    return entry
