"""Doing without the garbage collector where nothing that is made is garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage within the block, or the function: the collector would go through all of it again and again.

    That was half to two thirds of a fork of 1,000 canisters, and a third of metering as many small functions.
    """
    was_enabled = gc.isenabled()
    try:
        gc.disable()
        yield
    finally:
        if was_enabled:
            gc.enable()
