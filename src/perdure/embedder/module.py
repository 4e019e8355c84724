"""From a canister's bytes to code that can be instantiated: decode, validate, instrument, encode, compile."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from ctypes import POINTER, byref, c_char_p, c_size_t, c_void_p
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import final
from weakref import ref

from perdure.canister import CanisterModule, MemoryKind, WasmState, memory_kinds
from perdure.embedder.bindings import ByteVector, check, error_message, function, take_bytes
from perdure.embedder.cache import CacheEntry, CompileCache, cache_directory
from perdure.embedder.code import Site
from perdure.embedder.engine import Engine, is_valid, shared_engine, validate_original
from perdure.embedder.facts import ModuleFacts, decode_facts, encode_facts, facts_of
from perdure.embedder.instance import WasmInstance
from perdure.embedder.lines import Lines, readable
from perdure.embedder.mapping import why_nothing_runs
from perdure.embedder.patience import Apart
from perdure.errors import HostError, InternalError, UnsupportedError
from perdure.instrument import REPLICA, Bounds, Options, Policy

__all__ = [
    "TOOLCHAIN",
    "CompiledModule",
    "Compiler",
    "compile_module",
    "covered_code",
    "profiled_code",
    "shared_compiler",
    "toolchain",
]

MAX_SECONDS = 3600.0
MAX_SECONDS_UNMETERED = 60.0
"""How long a message may run whose instructions nobody counts."""

_module_new = function("wasmtime_module_new", c_void_p, c_void_p, c_char_p, c_size_t, POINTER(c_void_p))
_module_delete = function("wasmtime_module_delete", None, c_void_p)
_serialize = function("wasmtime_module_serialize", c_void_p, c_void_p, POINTER(ByteVector))
_deserialize = function("wasmtime_module_deserialize", c_void_p, c_void_p, c_char_p, c_size_t, POINTER(c_void_p))
_instantiate_pre = function("wasmtime_linker_instantiate_pre", c_void_p, c_void_p, c_void_p, POINTER(c_void_p))
_instance_pre_delete = function("wasmtime_instance_pre_delete", None, c_void_p)


@final
class CompiledModule:
    """Native code of an instrumented canister; implements `CanisterModule`.

    Args:
        engine: what compiled it.
        wasm: the module as uploaded.
        facts: what else is known of it.
        code: an owned ``wasmtime_module_t*``.
        options: which passes it has gone through.
    """

    def __init__(self, engine: Engine, wasm: bytes, facts: ModuleFacts, code: int, options: Options) -> None:
        self.engine = engine
        self.facts = facts
        self.options = options
        self._wasm = wasm
        self._module_hash = hashlib.sha256(wasm).digest()
        self._code = code
        pre = c_void_p()
        check(_instantiate_pre(engine.host.linker(facts.is_64), code, byref(pre)), "link")
        assert pre.value is not None
        self.instance_pre: int = pre.value
        self.memories: Mapping[str, MemoryKind] = memory_kinds(
            facts.memories, is_64=facts.is_64, max_heap_wasm_pages=facts.max_heap_wasm_pages
        )
        """The memories of its instances, by name."""
        self.global_types = facts.global_types
        self.name, self.schema, self.absent = "", b"", ""
        self.max_seconds = MAX_SECONDS if facts.metered else MAX_SECONDS_UNMETERED

    @property
    def module_hash(self) -> bytes:
        """SHA-256 of the module as uploaded."""
        return self._module_hash

    @property
    def wasm(self) -> bytes:
        """The module as uploaded."""
        return self._wasm

    @property
    def exported_methods(self) -> frozenset[str]:
        """Names of the entry points, ``canister_start`` included where there is a start function."""
        return self.facts.methods

    @property
    def custom_sections(self) -> Mapping[str, bytes]:
        """Custom sections by full name; the first of a name counts."""
        return self.facts.custom_sections

    @property
    def operators(self) -> int:
        """Operators of the module as the replica instruments it."""
        return self.facts.counts.operators

    @property
    def is_64(self) -> bool:
        """Whether its heap has 64-bit addresses."""
        return self.facts.is_64

    def instantiate(self, state: WasmState) -> WasmInstance:
        """An instance over `state`, hot until closed."""
        return WasmInstance.create(self, state)

    def memories_at(self, offset: int) -> tuple[str, ...]:
        """The memories that an instruction reaches, by name; it stands at this offset of the instrumented module.

        Instruments the module again, which nothing that runs has to wait for.
        """
        from perdure.instrument import instrument
        from perdure.wasm import decode, encode, memories_of

        linked = instrument(decode(self._wasm), self.options)
        names = linked.plan.names
        return tuple(names[index] for index in memories_of(encode(linked.module), offset))

    def locator(self, sites: Sequence[Site]) -> Callable[[], tuple[str, ...]] | None:
        """What says where these are, as people read it, for as long as this module is there."""
        has_lines = ".debug_line" in self.facts.custom_sections
        if not has_lines and not any(site.symbol.startswith("_Z") for site in sites):
            return None
        module = ref(self)

        def located() -> tuple[str, ...]:
            code = module()
            if has_lines and code is not None:
                return code._lines.located(sites)
            return tuple(readable(site.symbol) or f"wasm-function[{site.function}]" for site in sites)

        return located

    @cached_property
    def _lines(self) -> Lines:
        return Lines(self._wasm, self.options)

    def serialize(self) -> bytes:
        """The native code, for the compile cache."""
        vector = ByteVector()
        check(_serialize(self._code, byref(vector)), "serialise")
        return take_bytes(vector)

    # Bound as a default: when the interpreter ends, the names of modules are gone before the last of these.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "instance_pre") and not is_finalizing():
            _instance_pre_delete(self.instance_pre)
            _module_delete(self._code)


@final
class Compiler:
    """Compiles modules, once each: remembers the last ones, and keeps code on disk.

    Args:
        engine: compiles and runs.
        disk: where code is kept, or `None`.
        capacity: modules remembered.
        bounds: what a module may ask of this machine.
        apart: when another process compiles, and within which limits.
    """

    def __init__(
        self,
        engine: Engine,
        disk: CompileCache | None,
        *,
        capacity: int = 64,
        bounds: Bounds | None = None,
        apart: Apart | None = None,
    ) -> None:
        self._engine = engine
        self._disk = disk
        self._bounds = bounds or Bounds()
        self._apart = apart or Apart()
        self._capacity = capacity
        self._recent: OrderedDict[bytes, CompiledModule] = OrderedDict()
        # Those of them that were found to be within the bounds, by key: the least bound of names.
        self._within: dict[bytes, int] = {}
        self._last: tuple[bytes, Options, bytes] = (b"", Options(), b"")  # what was asked for last, and its key
        self._lock = threading.Lock()
        self._turns = threading.Lock()

    def compile(
        self, wasm: bytes, options: Options | None = None, *, known: bool = False, policy: Policy = REPLICA
    ) -> CompiledModule:
        """Compile a canister's module, plain or gzip.

        Args:
            wasm: the module as uploaded.
            options: which passes it goes through.
            known: that it has been taken before, by whatever bounds: these do not refuse it any more.
            policy: what a module may be; the names of its exports may differ from `REPLICA`, nothing else. Which
                extensions it may use is said by `options`.

        Raises:
            MalformedError: bytes that are no module.
            UnsupportedError: a module that the Internet Computer would not take, or that exceeds the bounds.
            HostError: time or memory ran out, or nothing runs on this system.
        """
        why = why_nothing_runs()
        if why is not None:
            raise HostError(why)
        options = options or Options()
        if policy.extensions != options.extensions:
            policy = replace(policy, extensions=options.extensions)
        last = self._last  # an installation asks twice, and hashing 5 MB takes 10 ms
        is_known = wasm is last[0] and options is last[1] and wasm.__class__ is bytes
        key = last[2] if is_known else self._key(wasm, options)
        with self._lock:
            if (found := self._recent.get(key)) is not None:
                self._recent.move_to_end(key)
        if found is not None:
            self._last = wasm, options, key
            return found if known else self._within_bounds(key, found, policy)
        module = self._load(key, wasm, options)
        if module is None:
            module = self._build(key, wasm, options, known=known, policy=policy)
        elif not known:
            self._within_bounds(key, module, policy)
        self._remember(key, module)
        self._last = wasm, options, key
        return module

    def _remember(self, key: bytes, module: CompiledModule) -> None:
        with self._lock:
            self._recent[key] = module
            if len(self._recent) > self._capacity:
                self._within.pop(self._recent.popitem(last=False)[0], None)

    def _within_bounds(self, key: bytes, module: CompiledModule, policy: Policy) -> CompiledModule:
        """Refuse what had been compiled by other bounds; what the cache holds changes no answer."""
        if self._within.get(key, sys.maxsize) <= policy.max_method_name_bytes:
            return module
        if sum(len(name.encode()) for name in module.facts.methods) > policy.max_method_name_bytes:
            from perdure.instrument import validate
            from perdure.wasm import decode

            validate(decode(module.wasm), policy)  # the names of their kinds do not count
        try:
            self._bounds.check(module.facts.counts)
        except UnsupportedError:  # perhaps only a bound of the true count
            from perdure.instrument import counts_of
            from perdure.wasm import decode

            self._bounds.check(counts_of(decode(module.wasm), self._bounds))
        self._within[key] = policy.max_method_name_bytes
        return module

    def _key(self, wasm: bytes, options: Options) -> bytes:
        parts = (hashlib.sha256(wasm).digest(), repr(options).encode(), self._engine.settings.encode(), toolchain())
        return hashlib.sha256(b"\0".join(parts)).digest()

    def _load(self, key: bytes, wasm: bytes, options: Options) -> CompiledModule | None:
        entry = self._disk.load(key) if self._disk is not None else None
        if entry is None:
            return None
        facts = decode_facts(entry.facts)
        code = None if facts is None else self._deserialized(entry.code)
        # Nothing where they are those of another version or another engine: build anew.
        return None if facts is None or code is None else CompiledModule(self._engine, wasm, facts, code, options)

    def _deserialized(self, native: bytes) -> int | None:
        code = c_void_p()
        if error := _deserialize(self._engine.pointer, native, len(native), byref(code)):
            error_message(error)
            return None
        return code.value

    def _build(self, key: bytes, wasm: bytes, options: Options, *, known: bool, policy: Policy) -> CompiledModule:
        from perdure.instrument import counts_of, instrument, validate
        from perdure.instrument.memories import has_own_memories
        from perdure.wasm import decode, encode, inflate

        original = decode(wasm)
        several = has_own_memories(options.extensions)
        self._engine.threads.call(lambda: validate_original(inflate(wasm), multi_memory=several))
        validate(original, replace(policy, max_method_name_bytes=sys.maxsize) if known else policy)
        streams: dict[bytes, bytes] = {}
        counts = counts_of(original, self._bounds, streams)
        if not known:
            self._bounds.check(counts)
        linked = instrument(original, options, streams)
        binary, facts = encode(linked.module), facts_of(original, linked, counts)

        def made() -> CompiledModule:
            module = CompiledModule(self._engine, wasm, facts, self._compiled(binary, counts.seconds), options)
            if self._disk is not None:
                self._disk.store(key, CacheEntry(encode_facts(module.facts), module.serialize()))
            self._remember(key, module)
            return module

        if counts.seconds <= self._apart.above_seconds:
            return made()
        with self._turns, self._turn():  # somebody else may have done it meanwhile
            return self._recent.get(key) or self._load(key, wasm, options) or made()

    def _turn(self) -> AbstractContextManager[None]:
        """The turn among processes; the one among the threads of this one has come."""
        from perdure.embedder.turns import turn

        return nullcontext() if self._disk is None else turn(self._disk.directory.parent, self._apart.max_seconds)

    def _compiled(self, binary: bytes, estimated_seconds: float) -> int:
        """Native code of an instrumented module, from another process where it takes long."""
        if estimated_seconds > self._apart.above_seconds and sys.executable:
            from perdure.embedder.apart import compile_apart

            found = self._deserialized(compile_apart(binary, self._apart, estimated_seconds))
            if found is not None:
                return found
        code = c_void_p()
        if error := self._engine.threads.call(
            lambda: _module_new(self._engine.pointer, binary, len(binary), byref(code))
        ):
            message = error_message(error)
            if self._engine.threads.call(lambda: is_valid(self._engine.pointer, binary)):
                raise UnsupportedError(f"the engine cannot compile the module: {message}")
            raise InternalError(f"the instrumented module does not compile: {message}")
        assert code.value is not None
        return code.value


TOOLCHAIN = ("canister.py", "errors.py", "garbage.py", "ic", "image.py", "instrument", "memory.py", "wasm")
"""Modules and packages of perdure that decide what code is made of a module, the cost table among them."""


@cache
def toolchain() -> bytes:
    """A hash of what made the code besides the engine: this package's own rewriting, and the processor."""
    digest = hashlib.sha256(platform.machine().encode())
    package = Path(__file__).parents[1]
    for name in TOOLCHAIN:
        place = package / name
        for file in sorted(place.iterdir(), key=lambda item: item.name) if place.is_dir() else [place]:
            if file.is_file():
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        digest.update(next(line for line in lines if line.startswith(("flags", "Features"))).encode())
    return digest.digest()


@cache
def shared_compiler() -> Compiler:
    """The compiler of this process, over the shared engine and the user's cache directory."""
    return Compiler(shared_engine(), CompileCache(cache_directory(os.environ)))


os.register_at_fork(after_in_child=shared_compiler.cache_clear)  # the engine is another one, and locks may be held


def profiled_code(code: CanisterModule) -> CanisterModule:
    """The same code, but counting instructions by call path; code of another engine than Wasm's as it is."""
    if not isinstance(code, CompiledModule) or code.facts.profiled:
        return code
    return _in_form(code, replace(code.options, profile=True))


def covered_code(code: CanisterModule) -> CanisterModule:
    """The same code, but counting how often each block runs; what is not metered, or another engine's, as it is."""
    if not isinstance(code, CompiledModule) or code.facts.points or not code.facts.metered:
        return code
    return _in_form(code, replace(code.options, coverage=True))


def _in_form(code: CompiledModule, options: Options) -> CompiledModule:
    compiler = shared_compiler() if code.engine is shared_engine() else Compiler(code.engine, None)
    return compiler.compile(code.wasm, options, known=True)


def compile_module(wasm: bytes, options: Options | None = None, *, known: bool = False) -> CompiledModule:
    """Compile a canister's module with the shared compiler; see `Compiler.compile`."""
    return shared_compiler().compile(wasm, options, known=known)
