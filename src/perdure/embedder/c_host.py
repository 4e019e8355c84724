"""Plumbing: host functions from a shared library in place of Python ones, to compare with.

The library exports functions named as in `ic0`, of the engine's unchecked callback type; its environment begins with
the engine's own C functions and ends with the handles of heap and stable memory (see ``demo/host_functions.c``).
"""

from __future__ import annotations

import ctypes
import os
from ctypes import c_uint64, c_void_p
from typing import Protocol, final

from wasmtime import _ffi

from perdure.embedder.bindings import HOST_FUNCTION

__all__ = ["CHostFunctions"]

_ENGINE_FUNCTIONS = (
    "wasmtime_caller_context",
    "wasmtime_memory_data",
    "wasmtime_memory_data_size",
    "wasmtime_memory_size",
    "wasmtime_memory_grow",
    "wasmtime_trap_new",
)
_HANDLE_BYTES = 32


class _Environment(ctypes.Structure):
    _fields_ = (  # type: ignore[mutable-override]
        ("functions", c_void_p * len(_ENGINE_FUNCTIONS)),
        ("heap", ctypes.c_ubyte * _HANDLE_BYTES),
        ("stable", ctypes.c_ubyte * _HANDLE_BYTES),
    )


class MemoryHolder(Protocol):
    """An engine instance, as far as is needed here."""

    def memory_handle(self, name: str) -> bytes:
        """The engine's handle of an exported memory."""
        ...


@final
class CHostFunctions:
    """A loaded library of host functions. One message at a time uses it.

    Args:
        library: path of the shared library.
    """

    def __init__(self, library: os.PathLike[str]) -> None:
        self._library = ctypes.CDLL(os.fspath(library))
        self._environment = _Environment()
        for place, name in enumerate(_ENGINE_FUNCTIONS):
            self._environment.functions[place] = ctypes.cast(_ffi.dll[name], c_void_p).value
        self._bound: MemoryHolder | None = None

    @property
    def environment(self) -> int:
        """What the engine hands to each call."""
        return ctypes.addressof(self._environment)

    def callback(self, name: str) -> object | None:
        """The function of this name, `None` where the library has none."""
        found = getattr(self._library, name, None)
        return None if found is None else HOST_FUNCTION(ctypes.cast(found, c_void_p).value or 0)

    def bind(self, store: MemoryHolder) -> None:
        """Work on the memories of `store` from now on."""
        if self._bound is not store:
            for field, name in (("heap", "memory"), ("stable", "stable_memory")):
                handle = (c_uint64 * (_HANDLE_BYTES // 8)).from_buffer_copy(store.memory_handle(name))
                ctypes.memmove(getattr(self._environment, field), handle, _HANDLE_BYTES)
            self._bound = store
