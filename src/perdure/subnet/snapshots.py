"""Snapshot directories in the form of `icp` and `dfx`: a canister over a sealed one, and one written of a canister.

The network lists one global more than the canister has: its own instruction counter, an ``i64``, at the end. It is
written as zero, and left out when it is read.
"""

from __future__ import annotations

import os

from perdure.canister import GlobalValue, Image, Reject, WasmState
from perdure.errors import StorageError, UnsupportedError
from perdure.execution.snapshots import upload_metadata
from perdure.execution.state import CanisterState, HookStatus
from perdure.execution.world import World
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import Snapshot, SnapshotMetadata, TemporaryImage, TemporaryStore, write_snapshot
from perdure.subnet.management import as_error
from perdure.subnet.memories import StoredContent
from perdure.subnet.residency import ResidentInstance, ResidentModule

__all__ = ["put_on", "upload", "write"]

_COUNTER = GlobalValue("i64", bytes(8))


def put_on(
    snapshot: Snapshot, world: World, canister: CanisterState, module: ResidentModule, store: TemporaryStore
) -> None:
    """Give a canister without code the state of a snapshot. Nothing is copied: its files are the memories' base.

    Raises:
        StorageError: the globals are not those of the module.
    """
    metadata = snapshot.metadata
    global_values = _own_globals(metadata.global_values, module, snapshot.path)
    memories = WasmState(_memories(snapshot, module, store), global_values)
    canister.module, canister.instance = module, module.instantiate(memories)
    canister.heap_wasm_pages = metadata.wasm_memory_size // WASM_PAGE_BYTES
    canister.stable_wasm_pages = metadata.stable_memory_size // WASM_PAGE_BYTES
    canister.certified_data = metadata.certified_data
    canister.chunk_store = snapshot.chunks()
    canister.facts.version = metadata.canister_version
    canister.global_timer_ns = metadata.global_timer or 0
    if metadata.on_low_wasm_memory_hook_status is not None:
        canister.hook_status = HookStatus[metadata.on_low_wasm_memory_hook_status.upper()]
    if canister.global_timer_ns or "canister_heartbeat" in module.exported_methods:
        world.state.task_canisters.add(canister.canister_id)
    canister.refresh(world.costs)


def upload(
    snapshot: Snapshot,
    world: World,
    canister: CanisterState,
    module: ResidentModule,
    store: TemporaryStore,
    replace: bytes | None,
) -> bytes:
    """Make a snapshot directory one of the canister's snapshots, to be loaded; its id. Nothing is copied in memory.

    Raises:
        RejectError: there are too many snapshots, or there is none to replace.
        StorageError: the globals are not those of the module.
    """
    metadata = snapshot.metadata
    hook = metadata.on_low_wasm_memory_hook_status
    begun = upload_metadata(
        world,
        canister,
        {
            "replace_snapshot": replace,
            "wasm_module_size": 0,
            "wasm_memory_size": 0,
            "stable_memory_size": 0,
            "globals": (),
            "certified_data": metadata.certified_data,
            "global_timer": None if metadata.global_timer is None else {"active": metadata.global_timer},
            "on_low_wasm_memory_hook_status": None if hook is None else {hook: None},
        },
    )
    if isinstance(begun, Reject):
        raise as_error(begun)
    kept = canister.snapshots[begun[0]["snapshot_id"]]
    kept.global_values = _own_globals(metadata.global_values, module, snapshot.path)
    kept.wasm, kept.module = bytearray(module.wasm), module
    kept.heap_bytes, kept.stable_bytes = metadata.wasm_memory_size, metadata.stable_memory_size
    kept.content = StoredContent(_memories(snapshot, module, store))
    kept.chunk_store = snapshot.chunks()
    kept.taken_at_ns = metadata.taken_at_timestamp
    canister.refresh(world.costs)
    world.state.changed.add(canister.canister_id)
    return kept.snapshot_id


def _memories(snapshot: Snapshot, module: ResidentModule, store: TemporaryStore) -> dict[str, Image]:
    """The snapshot's memories; those of the module's that the network does not know are empty."""
    return {
        name: snapshot.image(name, store) if kind.on_network else TemporaryImage(store)
        for name, kind in module.memories.items()
    }


def _own_globals(found: tuple[GlobalValue, ...], module: ResidentModule, path: str) -> tuple[GlobalValue, ...]:
    types = module.global_types
    listed = tuple(value.value_type for value in found)
    if listed == types:
        return found
    if listed == (*types, "i64"):
        return found[:-1]
    raise StorageError(f"globals of types {listed} found, the module has {types} and maybe a counter", path)


def write(path: str | os.PathLike[str], world: World, canister: CanisterState) -> SnapshotMetadata:
    """Write a canister's committed state as a snapshot directory.

    Raises:
        StorageError: it exists, or cannot be written.
        UnsupportedError: the canister has no Wasm module.
    """
    instance, module = canister.instance, canister.module
    if not isinstance(instance, ResidentInstance) or module is None:
        raise UnsupportedError("a canister without code has no snapshot")
    if not module.wasm.startswith((b"\0asm", b"\x1f\x8b")):
        raise UnsupportedError("a canister written in Python has no Wasm module to put into a snapshot")
    state = instance.state
    heap, stable = (state.memories[name].fork() for name in ("heap", "stable"))
    try:
        return write_snapshot(
            path,
            wasm_module=module.wasm,
            heap=heap,  # type: ignore[arg-type]
            stable=stable,  # type: ignore[arg-type]
            chunks=canister.chunk_store,
            metadata=SnapshotMetadata(
                taken_at_timestamp=world.state.time_ns,
                wasm_module_size=len(module.wasm),
                wasm_memory_size=heap.wasm_pages * WASM_PAGE_BYTES,
                stable_memory_size=stable.wasm_pages * WASM_PAGE_BYTES,
                global_values=(*(state.global_values or ()), _COUNTER),
                canister_version=canister.facts.version,
                certified_data=canister.certified_data,
                global_timer=canister.global_timer_ns,
                on_low_wasm_memory_hook_status=canister.hook_status.name.lower(),  # type: ignore[arg-type]
            ),
        )
    finally:
        heap.close()
        stable.close()
