"""Plumbing: `ic0` functions that run in Python, bound as the engine's callbacks.

One callback a function and a process, whatever the number of canisters: the thread knows which instance runs. A
callback catches everything and returns 0 or an owned trap; anything else would kill the process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_size_t, c_uint8, c_void_p
from typing import Any, Protocol, final

from perdure.embedder.bindings import HOST_FUNCTION, check, function
from perdure.embedder.guard import Spares, Threads, covered
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED
from perdure.ic.ic0_ext import HOSTED
from perdure.system_api import HOST_FUNCTIONS, HostFunction

__all__ = ["HostCallbacks", "trap_new"]

_UNREACHABLE = 9  # wasmtime_trap_code_enum
_VALUE_KIND = {"i32": 0, "i64": 1}

_trap_new_code = function("wasmtime_trap_new_code", c_size_t, c_uint8)


def trap_new() -> int:
    """A new trap for a callback to return."""
    return _trap_new_code(_UNREACHABLE)  # type: ignore[no-any-return]


_valtype_new = function("wasm_valtype_new", c_void_p, c_uint8)
_functype_new = function("wasm_functype_new", c_void_p, c_void_p, c_void_p)
_functype_delete = function("wasm_functype_delete", None, c_void_p)
_linker_new = function("wasmtime_linker_new", c_void_p, c_void_p)
_define = function(
    "wasmtime_linker_define_func_unchecked",
    c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, HOST_FUNCTION, c_void_p, c_void_p,
)  # fmt: skip


class _ValueTypes(ctypes.Structure):
    """``wasm_valtype_vec_t``."""

    _fields_ = (("size", c_size_t), ("data", c_void_p))  # type: ignore[mutable-override]


_valtype_vec_new = function("wasm_valtype_vec_new", None, POINTER(_ValueTypes), c_size_t, c_void_p)


def _value_types(names: tuple[str, ...]) -> _ValueTypes:
    owned = (c_void_p * len(names))(*(_valtype_new(_VALUE_KIND[name]) for name in names))
    vector = _ValueTypes()
    _valtype_vec_new(byref(vector), len(names), owned)
    return vector


class CFunctions(Protocol):
    """Host functions from elsewhere, see `perdure.embedder.c_host`."""

    @property
    def environment(self) -> int:
        """What the engine hands to each call."""
        ...

    def callback(self, name: str) -> object | None:
        """The function of this name, `None`: there is none."""
        ...


@final
class HostCallbacks:
    """All `ic0` functions as linkers, one for each width of heap, made when first needed.

    Args:
        engine: a ``wasm_engine_t*``.
        threads: know which instance runs.
        spares: what a callback that was cut off returns.
        c_functions: take the place of the Python functions of the same names.
    """

    def __init__(self, engine: int, threads: Threads, spares: Spares, c_functions: CFunctions | None = None) -> None:
        self._engine = engine
        self._spares = spares
        self._threads = threads
        self._c_functions = c_functions
        self._linkers: dict[bool, int] = {}
        self._kept: list[object] = []
        self._lock = threading.Lock()

    def linker(self, is_64: bool) -> int:
        """The linker that resolves every import of a canister with a heap of this width."""
        with self._lock:
            if is_64 not in self._linkers:
                self._linkers[is_64] = self._make_linker(is_64)
            return self._linkers[is_64]

    def _make_linker(self, is_64: bool) -> int:
        linker: int = _linker_new(self._engine)
        for name, row in {**NON_SPECIFIED, **FUNCTIONS, **HOSTED}.items():
            if is_64 and row.only_32_bit:
                continue
            params, results = row.params(is_64), row.results(is_64)
            native = self._c_functions.callback(name) if self._c_functions is not None else None
            callback = native or HOST_FUNCTION(self._callback(HOST_FUNCTIONS[name], params))
            environment = self._c_functions.environment if self._c_functions is not None and native else None
            self._kept.append(callback)
            kind = _functype_new(byref(_value_types(params)), byref(_value_types(results)))
            space, text = (b"ic0_ext" if name in HOSTED else b"ic0"), name.encode()
            defined = _define(linker, space, len(space), text, len(text), kind, callback, environment, None)
            check(defined, f"{space.decode()}.{name}")
            _functype_delete(kind)
        return linker

    def _callback(self, host_function: HostFunction, params: tuple[str, ...]) -> Callable[..., int]:
        here, spares = self._threads.here, self._spares
        # A value takes 16 bytes; of an i32 only the lower half of its first word counts.
        places = tuple((2 * n, 0xFFFF_FFFF if kind == "i32" else (1 << 64) - 1) for n, kind in enumerate(params))

        @covered
        def callback(data: int, caller: int, values: Any, count: int) -> int:
            try:
                instance = here.state.instance
                try:
                    result = host_function(
                        instance.host_api(), instance.machine, *[values[at] & mask for at, mask in places]
                    )
                    if result is not None:
                        values[0] = result
                    instance.host_done()
                except BaseException as error:
                    instance.failure = error
                    return trap_new()
                return 0
            except BaseException as error:
                place = spares.next
                spares.next = place + 1
                spares.causes[place] = error
                return spares.traps[place]

        return callback
