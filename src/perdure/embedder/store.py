"""Plumbing: one engine instance over given memories, its entries, and how a call into it ended."""

from __future__ import annotations

import ctypes
import sys
import weakref
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint32, c_uint64, c_void_p
from typing import Any, NamedTuple, final

from perdure.canister import TrapCode
from perdure.embedder.bindings import (
    EPOCH_CALLBACK,
    ByteVector,
    Extern,
    FrameVector,
    Instance,
    error_message,
    function,
)
from perdure.embedder.engine import Engine
from perdure.embedder.guard import ThreadState
from perdure.embedder.memory import LinearMemory
from perdure.errors import UnsupportedError

__all__ = ["EngineTrap", "Store"]

_MAX_TABLE_ELEMENTS = 1_000_000  # the replica's MAX_STORE_TABLE_ELEMENTS

_store_new = function("wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
_store_delete = function("wasmtime_store_delete", None, c_void_p)
_store_context = function("wasmtime_store_context", c_void_p, c_void_p)
_store_limiter = function("wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)
_set_deadline = function("wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
_set_callback = function("wasmtime_store_epoch_deadline_callback", None, c_void_p, EPOCH_CALLBACK, c_void_p, c_void_p)
_instantiate = function(
    "wasmtime_instance_pre_instantiate", c_void_p, c_void_p, c_void_p, POINTER(Instance), POINTER(c_void_p)
)
_export_get = function(
    "wasmtime_instance_export_get", c_bool, c_void_p, POINTER(Instance), c_char_p, c_size_t, POINTER(Extern)
)
_call = function("wasmtime_func_call_unchecked", c_void_p, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p)
_memory_grow = function("wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, c_uint64, POINTER(c_uint64))
_trap_code = function("wasmtime_trap_code", c_bool, c_void_p, POINTER(c_uint8))
_trap_trace = function("wasm_trap_trace", None, c_void_p, POINTER(FrameVector))
_trap_message = function("wasm_trap_message", None, c_void_p, POINTER(ByteVector))
_trap_delete = function("wasm_trap_delete", None, c_void_p)
_error_trace = function("wasmtime_error_wasm_trace", None, c_void_p, POINTER(FrameVector))
_frames_delete = function("wasm_frame_vec_delete", None, POINTER(FrameVector))
_frame_index = function("wasm_frame_func_index", c_uint32, c_void_p)
_frame_offset = function("wasm_frame_module_offset", c_size_t, c_void_p)
_frame_function_offset = function("wasm_frame_func_offset", c_size_t, c_void_p)
_frame_name = function("wasmtime_frame_func_name", POINTER(ByteVector), c_void_p)

_TRAP_CODES = {  # wasmtime_trap_code_enum
    0: TrapCode.STACK_OVERFLOW,
    1: TrapCode.HEAP_OUT_OF_BOUNDS,
    3: TrapCode.TABLE_OUT_OF_BOUNDS,
    4: TrapCode.INDIRECT_CALL_TO_NULL,
    5: TrapCode.BAD_SIGNATURE,
    6: TrapCode.INTEGER_OVERFLOW,
    7: TrapCode.INTEGER_DIVISION_BY_ZERO,
    8: TrapCode.BAD_CONVERSION_TO_INTEGER,
    9: TrapCode.UNREACHABLE,
    10: TrapCode.INTERRUPTED,
}

_NO_VALUES = (c_uint64 * 2)()
_NO_VALUES_ADDRESS = ctypes.addressof(_NO_VALUES)


_gettrace, _getprofile = sys.gettrace, sys.getprofile


def _untraced(function: Callable[..., Any], *arguments: object) -> Any:
    """Call the engine without what debuggers and profilers have set: that may raise wherever a callback begins."""
    trace, profile = _gettrace(), _getprofile()
    # What is no function was set in C, as cProfile is: that does not raise, and could not be set again from here.
    trace, profile = trace if callable(trace) else None, profile if callable(profile) else None
    try:
        if trace is not None:
            sys.settrace(None)
        if profile is not None:
            sys.setprofile(None)
        return function(*arguments)
    finally:
        if profile is not None:
            sys.setprofile(profile)
        if trace is not None:
            sys.settrace(trace)


class EngineTrap(NamedTuple):
    """How a call ended that did not return.

    `frames` are function index, name or empty, and where in the instrumented function it stands; innermost first.
    """

    code: TrapCode
    frames: tuple[tuple[int, str, int], ...]
    offset: int = 0
    """Where in the instrumented module the instruction stands that trapped."""


@final
class Store:
    """One instance. Making one takes about 33 us, since nothing is linked anew.

    Args:
        instance_pre: an owned module with its imports resolved.
        memories: in the order of their indices.

    Raises:
        UnsupportedError: the engine cannot instantiate the module: too large a table, no address space.
    """

    def __init__(self, engine: Engine, instance_pre: int, memories: Sequence[LinearMemory]) -> None:
        engine.memory_creator.give(memories)
        self._engine = engine
        self._functions: dict[str, int] = {}
        self._kept: list[Extern] = []
        self._trap = c_void_p()
        self._trap_address = ctypes.addressof(self._trap)
        self._instance = Instance()
        self._store: int = _store_new(engine.pointer, None, None)
        # For instances that nobody closes. (Not `__del__`, which runs for the others too, when handlers may raise.)
        self._finalizer = weakref.finalize(self, _untraced, _store_delete, self._store)
        self._finalizer.atexit = False
        self.context: int = _store_context(self._store)
        _store_limiter(self._store, -1, _MAX_TABLE_ELEMENTS, -1, -1, -1)
        _set_deadline(self.context, 1)
        _set_callback(self._store, engine.epoch_callback, None, None)
        error = _untraced(_instantiate, instance_pre, self.context, byref(self._instance), byref(self._trap))
        if error or self._trap.value:
            if (cause := engine.spares.take_cause()) is not None:
                self.close()
                raise cause
            message = error_message(error) if error else "trap"
            self.close()
            raise UnsupportedError(f"the module cannot be instantiated: {message}")

    def function(self, name: str) -> int:
        """The entry exported as `name`, for `call`; 0 where there is none."""
        found = self._functions.get(name)
        if found is None:
            found = self._functions[name] = self._find(name)
        return found

    def call(self, entry: int, state: ThreadState) -> EngineTrap | None:
        """Call an entry of type ``() -> ()``; `None` when it returned."""
        if state.roomy:
            if _gettrace() is None and _getprofile() is None:
                error = _call(self.context, entry, _NO_VALUES_ADDRESS, 1, self._trap_address)
            else:
                error = _untraced(_call, self.context, entry, _NO_VALUES_ADDRESS, 1, self._trap_address)
        else:
            error = self._engine.threads.call(
                lambda: _untraced(_call, self.context, entry, _NO_VALUES_ADDRESS, 1, self._trap_address)
            )
        if error is None and self._trap.value is None:
            return None
        return self._ended(error)

    def grow_memory(self, name: str, wasm_pages: int) -> int:
        """Grow an exported memory; the old size in Wasm pages, or -1."""
        extern = Extern()
        _export_get(self.context, byref(self._instance), name.encode(), len(name), byref(extern))
        old_wasm_pages = c_uint64()
        error = _untraced(_memory_grow, self.context, byref(extern.of.memory), wasm_pages, byref(old_wasm_pages))
        if error:
            error_message(error)
            return -1
        return old_wasm_pages.value

    def memory_handle(self, name: str) -> bytes:
        """The engine's handle of an exported memory, padded to 32 bytes, for host functions in C."""
        extern = Extern()
        _export_get(self.context, byref(self._instance), name.encode(), len(name), byref(extern))
        return ctypes.string_at(byref(extern.of.memory), ctypes.sizeof(extern.of.memory)).ljust(32, b"\0")

    def close(self) -> None:
        """Let go of the instance; its memories stay."""
        if self._store:
            self._store = 0
            self._functions.clear()
            self._finalizer()  # once, whatever comes out of here

    def _find(self, name: str) -> int:
        extern = Extern()
        text = name.encode()
        if (
            not _export_get(self.context, byref(self._instance), text, len(text), byref(extern))
            or int(extern.kind) != 0
        ):
            return 0
        self._kept.append(extern)
        return ctypes.addressof(extern) + int(Extern.of.offset)

    def _ended(self, error: int | None) -> EngineTrap:
        """What a trap or error says; both are deleted. A callback that stopped the message shows as an error."""
        frames = FrameVector()
        if error:
            _error_trace(error, byref(frames))
            names = _names(frames)  # frames borrow from what they are frames of
            error_message(error)
            return EngineTrap(TrapCode.INTERRUPTED, names)
        trap = self._trap.value
        self._trap.value = None
        code = c_uint8(255)
        _trap_code(trap, byref(code))
        _trap_trace(trap, byref(frames))
        offset = _frame_offset(frames.data[0]) if frames.size else 0
        names = _names(frames)
        _trap_delete(trap)
        return EngineTrap(_TRAP_CODES.get(code.value, TrapCode.UNKNOWN), names, offset)


def _names(frames: FrameVector) -> tuple[tuple[int, str, int], ...]:
    found = []
    for frame in frames.data[: frames.size] if frames.size else ():
        name = _frame_name(frame)
        text = ctypes.string_at(name.contents.data, name.contents.size).decode(errors="replace") if name else ""
        found.append((_frame_index(frame), text, _frame_function_offset(frame)))
    _frames_delete(byref(frames))
    return tuple(found)
