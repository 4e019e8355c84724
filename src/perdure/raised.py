"""What canisters in Python raise, and what is raised into them, beside the traps that are made of it."""

from __future__ import annotations

import threading

__all__ = ["is_interruption", "note_interruption", "note_raised", "take_raised"]


class _Raised(threading.local):
    backtrace: tuple[str, ...] = ()
    error: BaseException | None = None
    interruption: BaseException | None = None


_raised = _Raised()


def note_raised(backtrace: tuple[str, ...] = (), error: BaseException | None = None) -> None:
    """Remember what a canister in Python has raised on this thread, under the very backtrace that its trap has.

    It goes beside `Trap` and `Reject`, not in them: answers are kept for a day, and an exception keeps its frames, with
    all that they can reach. So there is one, until the next entry; without arguments, none.
    """
    _raised.backtrace, _raised.error = backtrace, error


def take_raised(backtrace: tuple[str, ...]) -> BaseException | None:
    """What was raised where this very backtrace was made, once: whoever made the call has it as the cause."""
    if not backtrace or _raised.backtrace is not backtrace:
        return None
    error = _raised.error
    note_raised()
    return error


def note_interruption(error: BaseException | None) -> None:
    """Remember what a signal handler has raised on this thread, in the middle of whatever ran; `None`: that is over."""
    _raised.interruption = error


def is_interruption(error: BaseException) -> bool:
    """Whether it is meant for whoever has called: a user's Ctrl-C, or what a signal handler has raised just now.

    Whatever else the code of a canister in Python, or what it calls, raises is its own and a trap, of whatever class:
    a message that ends the process would be there again in the next one.
    """
    return isinstance(error, KeyboardInterrupt) or error is _raised.interruption
