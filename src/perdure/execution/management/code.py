"""Code: modules and the chunks that they come in."""

from __future__ import annotations

import hashlib

from perdure.candid.types import Value
from perdure.canister import Reject
from perdure.execution import lifecycle
from perdure.execution.lifecycle import (
    InstallMode,
    InstallOptions,
)
from perdure.execution.management.call import Call, Values, not_controller
from perdure.execution.rejects import rejected
from perdure.ic.reject import ErrorCode

__all__ = [
    "clear_chunk_store",
    "install_chunked_code",
    "install_code",
    "stored_chunks",
    "uninstall_code",
    "upload_chunk",
]


def _options(mode: dict[str, Value]) -> InstallOptions:
    ((name, upgrade),) = mode.items()
    if not upgrade:
        return InstallOptions(InstallMode(name))
    persistence = upgrade["wasm_memory_persistence"]
    return InstallOptions(
        InstallMode(name), bool(upgrade["skip_pre_upgrade"]), None if persistence is None else next(iter(persistence))
    )


def _install(call: Call, wasm: bytes) -> Values | Reject:
    sender, version = call.origin
    options, arg = _options(call.arg["mode"]), call.arg["arg"]
    answer = lifecycle.install_code(call.world, call.canister, options, wasm, arg, sender, version)
    return answer if isinstance(answer, Reject) else []


def install_code(call: Call) -> Values | Reject:
    """Install, reinstall or upgrade to a module."""
    return _install(call, call.arg["wasm_module"])


def install_chunked_code(call: Call) -> Values | Reject:
    """The same with a module that lies in a chunk store."""
    store = call.canister
    if call.arg["store_canister"] is not None:
        found = call.world.state.canisters.get(call.arg["store_canister"].raw_bytes)
        if found is None:
            return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {call.arg['store_canister']} not found.")
        store = found
    caller = call.message.caller
    if caller != store.canister_id and caller not in store.facts.controllers:
        return not_controller(store, "install_chunked_code")
    wasm = bytearray()
    for chunk_hash in call.arg["chunk_hashes_list"]:
        chunk = store.chunk_store.get(chunk_hash["hash"])
        if chunk is None:
            return _chunk_error(f"Chunk hash {chunk_hash['hash'].hex()} was not found")
        wasm += chunk
        if len(wasm) > call.world.config.wasm_max_size_bytes:
            return _chunk_error("Error from Wasm chunk store: Wasm module too large")
    found_hash = hashlib.sha256(wasm).digest()
    if found_hash != call.arg["wasm_module_hash"]:
        expected = call.arg["wasm_module_hash"].hex()
        return _chunk_error(
            f"Error from Wasm chunk store: Wasm module hash mismatch. Expected {expected} but found {found_hash.hex()}",
        )
    return _install(call, bytes(wasm))


def _chunk_error(what: str) -> Reject:
    return rejected(ErrorCode.CANISTER_CONTRACT_VIOLATION, what)


def upload_chunk(call: Call) -> Values | Reject:
    """Put a chunk into the store."""
    chunk, store, config = call.arg["chunk"], call.canister.chunk_store, call.world.config
    if len(chunk) > config.wasm_chunk_bytes:
        return _chunk_error(
            f"Error from Wasm chunk store: Wasm chunk size {len(chunk)} exceeds the maximum chunk size of "
            f"{config.wasm_chunk_bytes}.",
        )
    chunk_hash = hashlib.sha256(chunk).digest()
    if chunk_hash not in store and len(store) >= config.wasm_chunk_store_max_chunks:
        return _chunk_error(
            "Error from Wasm chunk store: Wasm chunk store has already reached maximum capacity of "
            f"{config.wasm_chunk_store_max_chunks * config.wasm_chunk_bytes} bytes.",
        )
    store[chunk_hash] = chunk
    call.canister.refresh(call.world.costs)
    return [{"hash": chunk_hash}]


def clear_chunk_store(call: Call) -> Values:
    """Forget all chunks."""
    call.canister.chunk_store.clear()
    call.canister.refresh(call.world.costs)
    return []


def stored_chunks(call: Call) -> Values:
    """Hashes of the chunks that are in the store."""
    return [[{"hash": chunk_hash} for chunk_hash in sorted(call.canister.chunk_store)]]


def uninstall_code(call: Call) -> Values:
    """Take code and memories away."""
    lifecycle.uninstall_code(call.world, call.canister, call.origin)
    return []
