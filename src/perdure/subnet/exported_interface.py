"""The Candid interface that a module exports as a function: what `export_candid!` of the Rust CDK leaves in it.

`get_candid_pointer` returns where the interface stands as a text that ends with a zero. It runs on an instance that is
thrown away: over no state, within limits, and as a start function does, so that every call of ic0 that would tell or
change anything traps. A module that does something else there has no interface.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from perdure.canister import CanisterFacts, CanisterModule, Context, Env, Limits, Method, Return, WasmState
from perdure.embedder.cache import CacheEntry, CompileCache, cache_directory
from perdure.embedder.module import compile_module, toolchain
from perdure.errors import MalformedError, UnsupportedError
from perdure.storage import TemporaryImage, TemporaryStore

__all__ = ["EXPORT", "exported_interface", "interface_in"]

EXPORT: Final = "get_candid_pointer"
_PREAMBLE: Final = b"\0asm"
MAX_BYTES: Final = 1 << 20
_PIECE_BYTES: Final = 1 << 12
_LIMITS: Final = Limits(instructions=500_000_000, stable_wasm_pages=0, heap_wasm_pages=4_096, log_bytes=0)
_REMEMBERED: Final = 64
_KIND: Final = b"exported interface"
_known: OrderedDict[bytes, str] = OrderedDict()


def exported_interface(module: CanisterModule) -> str:
    """The text of a module's interface, as far as it exports one; else nothing.

    Raises:
        HostError: this machine could not compile it.
    """
    return "" if module.name else _remembered(module.module_hash, module.wasm)


def interface_in(wasm: bytes) -> str:
    """The same of a module that is not compiled, gzipped or not; raises as `exported_interface`."""
    return _remembered(hashlib.sha256(wasm).digest(), wasm)


def _remembered(key: bytes, wasm: bytes) -> str:
    if key not in _known:
        _known[key] = _kept(key, wasm)
        if len(_known) > _REMEMBERED:
            _known.popitem(last=False)
    return _known[key]


def _kept(module_hash: bytes, wasm: bytes) -> str:
    """What a module says, or said before: that is kept beside compiled code, by the cache's bounds and its checks."""
    if wasm.startswith(_PREAMBLE) and EXPORT.encode() not in wasm:
        return ""
    cache = CompileCache(cache_directory(os.environ))
    key = hashlib.sha256(_KIND + toolchain() + module_hash).digest()
    entry = cache.load(key)
    if entry is None:
        entry = CacheEntry(_asked(wasm).encode(), b"")
        cache.store(key, entry)
    return _decoded(entry.facts)


def _asked(wasm: bytes) -> str:
    from perdure.wasm import inflate

    plain = inflate(wasm)
    if EXPORT.encode() not in plain:
        return ""
    from perdure.instrument.probe import probe_of
    from perdure.wasm import decode, encode

    try:
        probe = probe_of(decode(plain), EXPORT)
        return "" if probe is None else _run(encode(probe))
    except (MalformedError, UnsupportedError):
        return ""


def _run(wasm: bytes) -> str:
    module = compile_module(wasm, known=True)
    store = TemporaryStore()
    try:
        instance = module.instantiate(WasmState({name: TemporaryImage(store) for name in module.memories}))
        try:
            env = Env(context=Context.START, facts=CanisterFacts(), limits=_LIMITS)
            ended = instance.run(Method("canister_start"), env)
            found = instance.changes().global_values if isinstance(ended, Return) else None
            if not found:
                return ""
            return _text(instance.heap.read, instance.heap.size() << 16, int.from_bytes(found[-1].bits, "little"))
        finally:
            instance.close()
    finally:
        store.close()


def _text(read: Callable[[int, int], bytes], heap_bytes: int, address: int) -> str:
    """A text that ends with a zero; nothing where it is too long, or none."""
    found = bytearray()
    while address < heap_bytes and len(found) <= MAX_BYTES:
        piece = bytes(read(address, min(_PIECE_BYTES, heap_bytes - address)))
        text, zero, _ = piece.partition(b"\0")
        found += text
        if zero:
            return _decoded(found) if len(found) <= MAX_BYTES else ""
        address += len(piece)
    return ""


def _decoded(text: bytes | bytearray) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""
