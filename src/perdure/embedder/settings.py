"""The engine's settings, and compiling with them in a process of its own: this file run as a program.

Compiling cannot be interrupted and may take more memory than anybody meant to give. Where a module is estimated to take
long, another process does it, which can be ended and has a limit of memory. Its start is paid each time, so this file
needs nothing but the engine's library, whose path it is told: importing packages would take ten times longer.

Usage::

    python settings.py LIBRARY MEMORY_BYTES < MODULE > COMPILED 2> PIPE

Exit code 0, or 1 and the engine's message on standard error. Files come open and need no names, so none are left behind
by whoever is killed; and this process ends when nobody reads its standard error any more.
"""

from __future__ import annotations

import _thread
import ctypes
import os
import resource
import select
import sys
from ctypes import POINTER, byref, c_bool, c_char_p, c_size_t, c_ubyte, c_uint64, c_void_p

__all__ = ["FEATURES", "MAX_WASM_STACK_BYTES", "RUNNING", "SIZES", "configure"]

MAX_WASM_STACK_BYTES = 5 << 20
"""The replica's limit: deeper recursion traps."""

FEATURES = {
    "wasm_bulk_memory": True,
    "wasm_reference_types": True,
    "wasm_simd": True,
    "wasm_multi_value": True,
    "wasm_tail_call": True,
    "wasm_memory64": True,
    "wasm_relaxed_simd": False,
    "wasm_threads": False,
    "wasm_gc": False,
    "wasm_function_references": False,
    "wasm_exceptions": False,
    "wasm_wide_arithmetic": False,
    "wasm_custom_page_sizes": False,
    "wasm_stack_switching": False,
    "wasm_component_model": False,
}
"""What a canister's own module may use."""

RUNNING = {
    "wasm_multi_memory": True,  # stable memory, accounting, messages
    "cranelift_nan_canonicalization": True,  # the same bits on every machine
    "memory_init_cow": False,  # the memory creator is not asked otherwise
    "memory_may_move": True,
    "epoch_interruption": True,
    "native_unwind_info": False,
    "parallel_compilation": True,
}
"""What differs for what runs."""

SIZES = {
    # 32-bit heaps need no bounds checks in it; a 64-bit memory starts with it and doubles.
    "memory_reservation": 4 << 30,
    "memory_guard_size": 32 << 20,
    "memory_reservation_for_growth": 0,
    # The engine refuses a Wasm stack larger than its async stack, even where nothing is async.
    "async_stack_size": MAX_WASM_STACK_BYTES + (4 << 20),
    "max_wasm_stack": MAX_WASM_STACK_BYTES,
}


class _Bytes(ctypes.Structure):
    """``wasm_byte_vec_t``."""

    _fields_ = (("size", c_size_t), ("data", POINTER(c_ubyte)))  # type: ignore[mutable-override]


def configure(library: ctypes.CDLL, config: int, flags: dict[str, bool], sizes: dict[str, int]) -> None:
    """Set flags and sizes of a ``wasm_config_t*``."""
    for values, kind in ((flags, c_bool), (sizes, c_uint64)):
        for name, value in values.items():
            setter = library[f"wasmtime_config_{name}_set"]
            setter.restype, setter.argtypes = None, [c_void_p, kind]
            setter(config, value)


def _make_engine(library: ctypes.CDLL) -> int:
    for name, arguments in (("wasm_config_new", []), ("wasm_engine_new_with_config", [c_void_p])):
        function = getattr(library, name)
        function.restype, function.argtypes = c_void_p, arguments
    config = library.wasm_config_new()
    configure(library, config, FEATURES | RUNNING, SIZES)
    engine: int = library.wasm_engine_new_with_config(config)
    return engine


def _message(library: ctypes.CDLL, error: int) -> str:
    text = _Bytes()
    library.wasmtime_error_message.argtypes = [c_void_p, POINTER(_Bytes)]
    library.wasmtime_error_message(error, byref(text))
    return ctypes.string_at(text.data, text.size).decode(errors="replace")


def _end_with_the_reader() -> None:
    """Wait until the other end of standard error is closed: whoever asked is gone."""
    poll = select.poll()
    poll.register(sys.stderr.fileno(), 0)  # an error is always reported
    poll.poll()
    os._exit(1)


def main(library_path: str, memory_bytes: str) -> int:
    """Compile one module."""
    _thread.start_new_thread(_end_with_the_reader, ())  # the engine is called without the interpreter's lock
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    library = ctypes.CDLL(library_path)
    engine = _make_engine(library)
    binary = sys.stdin.buffer.read()
    compiled, output = c_void_p(), _Bytes()
    library.wasmtime_module_new.restype = c_void_p
    library.wasmtime_module_new.argtypes = [c_void_p, c_char_p, c_size_t, POINTER(c_void_p)]
    library.wasmtime_module_serialize.restype = c_void_p
    library.wasmtime_module_serialize.argtypes = [c_void_p, POINTER(_Bytes)]
    error = library.wasmtime_module_new(engine, binary, len(binary), byref(compiled))
    error = error or library.wasmtime_module_serialize(compiled, byref(output))
    if error:
        sys.stderr.write(_message(library, error))
        return 1
    sys.stdout.buffer.write((c_ubyte * output.size).from_address(ctypes.addressof(output.data.contents)))
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
