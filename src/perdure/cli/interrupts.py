"""Ctrl-C that comes while the interpreter runs a callback of its own, and would be printed and forgotten.

What a signal handler raises within ``__del__`` or a weak reference's callback goes nowhere: the interpreter tells
`sys.unraisablehook`, and the command goes on as if nobody had asked it to end.
"""

from __future__ import annotations

import _thread
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["none_is_lost"]

_SECONDS = 0.01


@contextmanager
def none_is_lost() -> Iterator[None]:
    """Raise `KeyboardInterrupt` a moment later, or at the end of the block, where it was raised in such a callback."""
    before, owed = sys.unraisablehook, []
    sending = _thread.allocate_lock()  # who ends the block knows of none that is owed whether it was sent
    is_telling = False  # what arrived then would be swallowed once more

    def told(unraisable: sys.UnraisableHookArgs) -> None:
        nonlocal is_telling
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)
            return
        is_telling = True
        while is_telling:
            try:
                owed.append(unraisable.exc_type)
                _thread.start_new_thread(again, ())
                is_telling = False
            except KeyboardInterrupt:  # one more, which is the same
                is_telling = True

    def again() -> None:
        while owed:  # until it arrives: it may come within a callback once more
            time.sleep(_SECONDS)
            with sending:
                if owed and not is_telling:
                    owed.clear()
                    _thread.interrupt_main()

    sys.unraisablehook = told
    try:
        yield
        with sending:
            is_owed = bool(owed)
            owed.clear()
        if is_owed:
            raise KeyboardInterrupt
    finally:
        try:
            with sending:
                owed.clear()
        finally:
            sys.unraisablehook = before
