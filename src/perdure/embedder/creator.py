"""Plumbing: the engine's memory creator, which takes memories from whoever is instantiating on this thread.

The engine asks for the memories of an instance in the order of their indices. A callback must not raise: ctypes would
go on with whatever base it finds, and the canister would read the host's memory. See `perdure.embedder.guard.covered`.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import MutableSequence, Sequence
from typing import final

from perdure.embedder.bindings import (
    FINALIZER,
    GET_MEMORY,
    GROW_MEMORY,
    NEW_MEMORY,
    LinearMemoryCallbacks,
    MemoryCreatorCallbacks,
    engine_error,
)
from perdure.embedder.guard import Spares, covered
from perdure.embedder.memory import LinearMemory
from perdure.errors import PerdureError

__all__ = ["MemoryHandOver"]


@final
class MemoryHandOver(threading.local):
    """The memories that the next instantiation on this thread is to get, in the order of their indices."""

    def __init__(self) -> None:
        self.memories: list[LinearMemory] = []


@final
class MemoryCreator:
    """Gives the engine memories that others have made. Lives as long as the engine."""

    def __init__(self, spares: Spares) -> None:
        self.hand_over = MemoryHandOver()
        self._spares = spares
        self._live: dict[int, LinearMemory] = {}
        self._numbers = itertools.count(1)
        # The engine holds bare pointers: these objects must live as long as it does.
        self._get = GET_MEMORY(self._get_memory)
        self._grow = GROW_MEMORY(self._grow_memory)
        self._free = FINALIZER(self._finalize)
        self._new = NEW_MEMORY(self._new_memory)
        self._pointers = [ctypes.cast(f, ctypes.c_void_p).value for f in (self._get, self._grow, self._free)]
        self.callbacks = MemoryCreatorCallbacks(None, ctypes.cast(self._new, ctypes.c_void_p).value, None)

    def give(self, memories: Sequence[LinearMemory]) -> None:
        """Hand over the memories of the instance that this thread makes next."""
        self.hand_over.memories = list(memories)

    @covered
    def _new_memory(
        self, env: int, kind: int, minimum: int, maximum: int, reserved: int, guard: int, out: int
    ) -> int:  # the engine's own signature
        try:
            return self._hand_over(minimum, reserved, guard, out)
        except BaseException as error:
            spares = self._spares
            place = spares.next
            spares.next = place + 1
            spares.causes[place] = error
            return spares.errors[place]

    def _hand_over(self, minimum: int, reserved: int, guard: int, out: int) -> int:
        if not self.hand_over.memories:
            # The engine wants a heap of its own for them, which nothing here accounts for.
            return engine_error("tables and values of external references are not supported")
        memory = self.hand_over.memories.pop(0)
        try:
            memory.attach(minimum, reserved, guard)
        except (MemoryError, OSError, PerdureError) as error:
            return engine_error(f"memory: {error!r}")
        number = next(self._numbers)
        self._live[number] = memory
        get, grow, free = self._pointers
        LinearMemoryCallbacks.from_address(out).__init__(number, get, grow, free)  # type: ignore[misc]
        return 0

    @covered
    def _get_memory(self, number: int, size_out: MutableSequence[int], maximum_out: MutableSequence[int]) -> int:
        # No call: there is no other answer than the right one, so nothing must come out of it the second time.
        try:
            memory = self._live[number]
            size_out[0] = memory.size_bytes
            maximum_out[0] = memory.reserved_bytes
            assert memory.range is not None
            return memory.range.base
        except BaseException as error:
            spares = self._spares
            place = spares.next
            spares.next = place + 1
            spares.causes[place] = error
            memory = self._live[number]
            size_out[0] = memory.size_bytes
            maximum_out[0] = memory.reserved_bytes
            assert memory.range is not None
            return memory.range.base

    @covered
    def _grow_memory(self, number: int, size_bytes: int) -> int:
        try:
            try:
                self._live[number].grow_to(size_bytes)
            except (MemoryError, OSError) as error:
                return engine_error(f"memory: {error!r}")
            return 0
        except BaseException as error:
            spares = self._spares
            place = spares.next
            spares.next = place + 1
            spares.causes[place] = error
            return spares.errors[place]

    @covered
    def _finalize(self, number: int) -> None:
        try:  # noqa: SIM105 -- that would be a call, see `covered`
            self._live.pop(number, None)
        except BaseException:  # as Python does with whatever comes out of a finalizer
            pass
