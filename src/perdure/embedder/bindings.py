"""Plumbing: the engine's C functions with lean prototypes, and its errors as exceptions.

wasmtime-py's own wrappers check and wrap every argument (6 to 25 us a call); here a pointer is an `int` and a call
costs what ctypes costs (0.5 to 1 us). Nothing outside this package sees a raw pointer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_size_t, c_uint8, c_uint64, c_void_p
from typing import Any

from wasmtime import _bindings, _ffi

from perdure.errors import InternalError

__all__ = [
    "EPOCH_CALLBACK",
    "FINALIZER",
    "GET_MEMORY",
    "GROW_MEMORY",
    "HOST_FUNCTION",
    "NEW_MEMORY",
    "ByteVector",
    "Extern",
    "FrameVector",
    "Func",
    "Instance",
    "LinearMemoryCallbacks",
    "MemoryCreatorCallbacks",
    "check",
    "engine_error",
    "error_message",
    "function",
    "take_bytes",
]

ByteVector = _bindings.wasm_byte_vec_t
Extern = _bindings.wasmtime_extern
Func = _bindings.wasmtime_func
Instance = _bindings.wasmtime_instance

HOST_FUNCTION = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint64), c_size_t)
"""``(data, caller, values, count) -> owned wasm_trap_t* or 0``; a value takes 16 bytes: ``values[2 * n]``."""

EPOCH_CALLBACK = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, POINTER(c_uint64), POINTER(c_uint8))
"""``(context, data, deadline_delta, kind) -> owned wasmtime_error_t* or 0``."""

GET_MEMORY = ctypes.CFUNCTYPE(c_size_t, c_void_p, POINTER(c_size_t), POINTER(c_size_t))
GROW_MEMORY = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_size_t)
FINALIZER = ctypes.CFUNCTYPE(None, c_void_p)
NEW_MEMORY = ctypes.CFUNCTYPE(c_size_t, c_void_p, c_void_p, c_size_t, c_size_t, c_size_t, c_size_t, c_void_p)
"""``(env, type, minimum, maximum, reserved, guard, out) -> owned wasmtime_error_t* or 0``; sizes in bytes."""


class LinearMemoryCallbacks(ctypes.Structure):
    """``wasmtime_linear_memory_t``, with pointers as integers."""

    _fields_ = (  # type: ignore[mutable-override]
        ("env", c_void_p),
        ("get_memory", c_void_p),
        ("grow_memory", c_void_p),
        ("finalizer", c_void_p),
    )


class MemoryCreatorCallbacks(ctypes.Structure):
    """``wasmtime_memory_creator_t``, with pointers as integers."""

    _fields_ = (("env", c_void_p), ("new_memory", c_void_p), ("finalizer", c_void_p))  # type: ignore[mutable-override]


class FrameVector(ctypes.Structure):
    """``wasm_frame_vec_t``."""

    _fields_ = (("size", c_size_t), ("data", POINTER(c_void_p)))  # type: ignore[mutable-override]


def function(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """The engine's C function `name` with a prototype of its own; the GIL is released while it runs."""
    found = _ffi.dll[name]  # a new object each time, so wasmtime-py's own prototype stays as it is
    found.restype = result
    found.argtypes = list(arguments)
    return found


_error_message = function("wasmtime_error_message", None, c_void_p, POINTER(ByteVector))
_error_delete = function("wasmtime_error_delete", None, c_void_p)
_error_new = function("wasmtime_error_new", c_size_t, c_char_p)
_byte_vec_delete = function("wasm_byte_vec_delete", None, POINTER(ByteVector))


def take_bytes(vector: Any) -> bytes:
    """The bytes of an owned vector, which is deleted."""
    data = ctypes.string_at(vector.data, vector.size) if vector.size else b""
    _byte_vec_delete(vector)
    return data


def error_message(error: int) -> str:
    """The text of an owned error, which is deleted."""
    vector = ByteVector()
    _error_message(error, vector)
    _error_delete(error)
    return take_bytes(vector).decode(errors="replace")


def engine_error(text: str) -> int:
    """A new error for a callback to return."""
    return int(_error_new(text.encode()))


def check(error: int | None, what: str) -> None:
    """Raise `InternalError` for an owned error."""
    if error:
        raise InternalError(f"{what}: {error_message(error)}")
