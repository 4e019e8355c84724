"""Plumbing: whose turn it is, where several threads call one subnet.

One lock guards everything that a subnet is. It is let go in one place: while the engine runs a canister's code for an
entry that came in *beside* others (an update that is all there is to do, a query). Such a canister is *outside*, and no
other entry comes near it; entries for other canisters go on, each under the lock but for its own code. An entry that
reaches further (rounds, installing, forks, checkpoints) is *alone*: it waits until nobody is outside, and from then on
holds the lock throughout.

So the rules never see two messages at once; they see that between entering a canister and its return others have been.

Whatever an exception cuts off here, `end` sets right: what a thread has noted, it has noted under its own number.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable
from functools import wraps
from threading import get_ident
from typing import Concatenate, ParamSpec, Protocol, TypeVar, final

from perdure.errors import UnsupportedError

__all__ = ["Gate", "Outside", "alone", "at_rest"]

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_PAUSES = (50e-6, 30e-3, 30e-3)
"""Seconds. To hand over lock and interpreter, each with a thread to be woken, costs as much as one or two messages."""


@final
class Gate:
    """The turns of one subnet.

        turn = gate.turn
        with gate.lock:
            try:
                gate.beside(turn, canister_id)     # or gate.alone(turn)
                ...                                # gate.become_alone(turn), if it turns out to reach further
            finally:
                gate.end(turn)

    Entries nest where Python calls back while it holds the lock. They never wait, since the one around them would not
    end; `RuntimeError` says where they would have to, and where a signal handler makes one while its thread is outside.

    Args:
        patient: whether a turn that is taken is tried again after a pause. It pays where turns are short.
    """

    def __init__(self, *, patient: bool = True) -> None:
        self._make_lock()
        self.is_shared: bool | None = None
        """Whether the entry whose turn it is came in beside others; `None`: it is nobody's turn."""
        self._is_awaited = False  # somebody has paused long enough, and takes the lock as soon as it is free
        self._pauses = _PAUSES if patient else ()
        self._outside: dict[bytes, int] = {}  # by canister: the thread
        self._wanted: set[int] = set()  # threads that wait to be alone; no new entry comes in before them
        self._begun: set[int] = set()  # those of them that have begun a message, and go first
        self._is_of_parent = False
        _GATES.add(self)

    def _make_lock(self) -> None:
        # Taken by `with`, between which and its block no signal handler can raise; a method of ours would have a gap.
        self.lock = threading.RLock()
        self._is_owned: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined]
        self._returned = threading.Condition(self.lock)

    @property
    def turn(self) -> bool | None:
        """What `is_shared` has to be again at the end of an entry that is about to begin; `None`: it is not nested."""
        if self._is_owned():
            return self.is_shared
        if self._outside and get_ident() in self._outside.values():
            raise _within_a_message()
        return None

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

    def beside(self, turn: bool | None, canister_id: bytes) -> None:
        """Begin an entry for one canister once that one is at rest."""
        self._is_awaited = False
        if (self._outside or self._wanted) and not self._is_nested(turn, canister_id):
            while canister_id in self._outside or self._wanted:
                self._returned.wait()
        if self._is_of_parent:
            raise UnsupportedError("this subnet belongs to the process that was forked; open or make another one here")
        self.is_shared = turn is None  # a nested one does not let go of what the one around it holds

    def alone(self, turn: bool | None) -> None:
        """Begin an entry that has the subnet to itself."""
        if (self._outside or self._begun) and not self._is_nested(turn, None):
            self._wanted.add(get_ident())
            while self._outside or self._begun:
                self._returned.wait()
            self._stop_wanting()
        if self._is_of_parent:
            raise UnsupportedError("this subnet belongs to the process that was forked; open or make another one here")
        self.is_shared = False

    def become_alone(self, turn: bool | None) -> None:
        """Go on alone within an entry that `beside` has begun. Nobody who is not beside it comes in between."""
        if self._outside and not self._is_nested(turn, None):
            self.is_shared = None
            self._begun.add(get_ident())
            self._wanted.add(get_ident())
            while self._outside:
                self._returned.wait()
            self._stop_wanting()
        self.is_shared = False

    def end(self, turn: bool | None) -> None:
        """End an entry, however far it has come."""
        if not self._is_owned():  # an exception kept it from coming back
            self.lock.acquire()
        if turn is None and (self._wanted or self._outside):
            self._stop_wanting()
            mine = get_ident()
            for canister_id in [key for key, thread in self._outside.items() if thread == mine]:
                del self._outside[canister_id]
        self.is_shared = turn

    def _stop_wanting(self) -> None:
        self._begun.discard(get_ident())
        self._wanted.discard(get_ident())
        self._returned.notify_all()

    def _is_nested(self, turn: bool | None, canister_id: bytes | None) -> bool:
        """Whether this thread is within an entry already and must not wait. `None`: it needs the whole subnet."""
        if turn is None:
            return False
        if canister_id is None or canister_id in self._outside:
            raise _within_a_message()
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
        self._outside.pop(canister_id, None)
        self._returned.notify_all()

    def _after_fork(self) -> None:
        """In a child: whoever held the lock is not here, and files are the parent's."""
        self._is_of_parent = True
        self._make_lock()
        self._outside.clear()
        self._wanted.clear()
        self._begun.clear()


def _within_a_message() -> RuntimeError:
    return RuntimeError("called from within a message: what is wanted is not free before that has ended")


_GATES: weakref.WeakSet[Gate] = weakref.WeakSet()


def _after_fork() -> None:
    for gate in _GATES:
        gate._after_fork()


os.register_at_fork(after_in_child=_after_fork)


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

    def _recover(self) -> None:
        """Finish or undo what an exception has cut off before."""
        ...


_Owner = TypeVar("_Owner", bound=_Gated)


def alone(
    method: Callable[Concatenate[_Owner, _Parameters], _Result],
) -> Callable[Concatenate[_Owner, _Parameters], _Result]:
    """A method that has the subnet to itself."""

    @wraps(method)
    def entry(self: _Owner, /, *args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        gate = self._gate
        turn = gate.turn
        with gate.lock:
            try:
                gate.alone(turn)
                if turn is None:
                    self._recover()
                return method(self, *args, **kwargs)
            finally:
                gate.end(turn)

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
        turn = gate.turn
        with gate.lock:
            try:
                gate.beside(turn, self._raw_id)
                if turn is None:
                    self._recover()
                return method(self, *args, **kwargs)
            finally:
                gate.end(turn)

    return entry
