"""Plumbing: the engine's memory creator, which takes memories from whoever is instantiating on this thread.

The engine asks for the memories of an instance in the order of their indices. A callback must not raise: ctypes would
go on with a null base, and the canister would read the host's page zero.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from collections.abc import Sequence
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
from perdure.embedder.memory import LinearMemory

__all__ = ["MemoryHandOver"]


@final
class MemoryHandOver(threading.local):
    """The memories that the next instantiation on this thread is to get, in the order of their indices."""

    def __init__(self) -> None:
        self.memories: list[LinearMemory] = []


@final
class MemoryCreator:
    """Gives the engine memories that others have made. Lives as long as the engine."""

    def __init__(self) -> None:
        self.hand_over = MemoryHandOver()
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

    def _new_memory(
        self, env: int, kind: int, minimum: int, maximum: int, reserved: int, guard: int, out: int
    ) -> int:  # the engine's own signature
        if not self.hand_over.memories:
            # The engine wants a heap of its own for them, which nothing here accounts for.
            return engine_error("tables and values of external references are not supported")
        try:
            memory = self.hand_over.memories.pop(0)
            memory.attach(minimum, reserved, guard)
            number = next(self._numbers)
            self._live[number] = memory
            get, grow, free = self._pointers
            LinearMemoryCallbacks.from_address(out).__init__(number, get, grow, free)  # type: ignore[misc]
        except BaseException as error:
            return engine_error(f"memory: {error!r}")
        return 0

    def _get_memory(self, number: int, size_out: object, maximum_out: object) -> int:
        memory = self._live[number]
        size_out[0] = memory.size_bytes  # type: ignore[index]
        maximum_out[0] = memory.reserved_bytes  # type: ignore[index]
        return memory.base

    def _grow_memory(self, number: int, size_bytes: int) -> int:
        try:
            self._live[number].grow_to(size_bytes)
        except BaseException as error:
            return engine_error(f"memory: {error!r}")
        return 0

    def _finalize(self, number: int) -> None:
        self._live.pop(number, None)
