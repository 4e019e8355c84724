"""Snapshot directories in the form of `icp` and `dfx`: a canister over a sealed one, and one written of a canister.

The network lists one global more than the canister has: its own instruction counter, an ``i64``, at the end. It is
written as zero, and left out when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from perdure.canister import MEMORY_KINDS, GlobalValue, Image, MemoryKind, Reject, WasmState
from perdure.errors import StorageError, UnsupportedError
from perdure.execution.management.snapshots import upload_metadata
from perdure.execution.state import CanisterState, HookStatus, OwnMemory
from perdure.execution.world import World
from perdure.ic.ic0_ext import has_memories, how_to_allow
from perdure.ic.principal import Principal
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import Snapshot, SnapshotMetadata, TemporaryImage, TemporaryStore, write_snapshot
from perdure.storage.snapshot import HookStatus as HookName
from perdure.storage.snapshot import StoredMemory
from perdure.subnet.host import MemoryHost
from perdure.subnet.management import as_error
from perdure.subnet.memories import StoredContent
from perdure.subnet.residency import ResidentInstance, ResidentModule

__all__ = ["put_on", "upload", "write"]

_COUNTER = GlobalValue("i64", bytes(8))
_HOOK_NAMES: Final[Mapping[HookStatus, HookName]] = {
    HookStatus.CONDITION_NOT_SATISFIED: "condition_not_satisfied",
    HookStatus.READY: "ready",
    HookStatus.EXECUTED: "executed",
}


def put_on(snapshot: Snapshot, world: World, canister: CanisterState, module: ResidentModule, host: MemoryHost) -> None:
    """Give a canister without code the state of a snapshot. Nothing is copied: its files are the memories' base.

    Raises:
        StorageError: the globals are not those of the module.
    """
    metadata = snapshot.metadata
    _check_extensions(snapshot, host.extensions)
    global_values = _own_globals(metadata.global_values, module, snapshot.path)
    memories = WasmState(_memories(snapshot, module, host.store), global_values)
    canister.module, canister.instance = module, module.instantiate(memories)
    canister.heap_wasm_pages = metadata.wasm_memory_size // WASM_PAGE_BYTES
    canister.stable_wasm_pages = metadata.stable_memory_size // WASM_PAGE_BYTES
    kinds = {name: one.kind for name, one in snapshot.own_memories.items()}
    canister.own_memories = {name: OwnMemory(one.lifetime, one.address_bits, 0) for name, one in kinds.items()}
    canister.know_memories({name: memory.size() for name, memory in canister.instance.memories.items()})
    canister.certified_data = metadata.certified_data
    canister.installed_at_ns = world.state.kept_time_ns()
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
    _check_extensions(snapshot, world.host.extensions)
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
    world.touch(canister)
    return kept.snapshot_id


def _memories(snapshot: Snapshot, module: ResidentModule, store: TemporaryStore) -> dict[str, Image]:
    """The snapshot's memories; those of the module's that it does not have are empty."""
    own = snapshot.own_memories
    for name, kind in module.memories.items():
        if name in own and kind.lifetime != "message" and own[name].kind.address_bits != kind.address_bits:
            raise StorageError(
                f"memory {name} has {own[name].kind.address_bits}-bit addresses, its module has it with "
                f"{kind.address_bits}-bit ones",
                snapshot.path,
            )
    found = {
        name: snapshot.image(name, store) if kind.on_network or name in own else TemporaryImage(store)
        for name, kind in module.memories.items()
    }
    return {**found, **{name: snapshot.image(name, store) for name in own.keys() - found.keys()}}


def _check_extensions(snapshot: Snapshot, extensions: tuple[str, ...]) -> None:
    if snapshot.own_memories and not has_memories(extensions):
        raise UnsupportedError(
            f"{snapshot.path}: the snapshot has {', '.join(snapshot.own_memories)} beside heap and stable memory: "
            f"{how_to_allow('memories')}"
        )


def _own_globals(found: tuple[GlobalValue, ...], module: ResidentModule, path: str) -> tuple[GlobalValue, ...]:
    types = module.global_types
    listed = tuple(value.value_type for value in found)
    if listed == types:
        return found
    if listed == (*types, "i64"):
        return found[:-1]
    raise StorageError(f"globals of types {listed} found, the module has {types} and maybe a counter", path)


def write(
    path: str | os.PathLike[str],
    world: World,
    canister: CanisterState,
    snapshot_id: bytes | None = None,
    *,
    instead: StoredMemory | None = None,
) -> SnapshotMetadata:
    """Write a canister's committed state, or one of its snapshots, as a snapshot directory.

    `instead` is what takes the place of its stable memory.

    Raises:
        StorageError: it exists, or cannot be written.
        UnsupportedError: the canister has no Wasm module.
        KeyError: there is no such snapshot.
    """
    wasm, memories, chunks, metadata = _now(world, canister) if snapshot_id is None else _then(canister, snapshot_id)
    if not wasm.startswith((b"\0asm", b"\x1f\x8b")):
        raise UnsupportedError("a canister written in Python has no Wasm module to put into a snapshot")
    heap, stable = (memories[name].fork() for name in ("heap", "stable"))
    own = _own_memories(world, canister, memories)
    try:
        return write_snapshot(
            path,
            wasm_module=wasm,
            heap=heap,
            stable=stable if instead is None else instead,
            chunks=chunks,
            metadata=metadata,
            own=own,
        )
    finally:
        for image in (heap, stable, *(image for _, image in own.values())):
            image.close()


def _own_memories(
    world: World, canister: CanisterState, memories: Mapping[str, Image]
) -> dict[str, tuple[MemoryKind, Image]]:
    """What is written beside the network's: memories that an extension has brought, scratch left out."""
    if not has_memories(world.host.extensions):
        return {}
    found = {}
    for name in memories.keys() - MEMORY_KINDS.keys():
        known = canister.own_memories.get(name)
        kind = MemoryKind(name, "stable", 64) if known is None else MemoryKind(name, known.lifetime, known.address_bits)
        if kind.lifetime != "message":
            found[name] = kind, memories[name].fork()
    return dict(sorted(found.items()))


_Parts = tuple[bytes, Mapping[str, Image], dict[bytes, bytes], SnapshotMetadata]
"""The module, the memories by name, the chunk store, and the rest; sizes are set when it is written."""


def _now(world: World, canister: CanisterState) -> _Parts:
    instance, module = canister.instance, canister.module
    if not isinstance(instance, ResidentInstance) or module is None:
        raise UnsupportedError("a canister without code has no snapshot")
    state = instance.state
    metadata = SnapshotMetadata(
        taken_at_timestamp=world.state.time_ns,
        wasm_module_size=0,
        wasm_memory_size=0,
        stable_memory_size=0,
        global_values=(*(state.global_values or ()), _COUNTER),
        canister_version=canister.facts.version,
        certified_data=canister.certified_data,
        global_timer=canister.global_timer_ns,
        on_low_wasm_memory_hook_status=_HOOK_NAMES[canister.hook_status],
    )
    return module.wasm, state.memories, canister.chunk_store, metadata


def _then(canister: CanisterState, snapshot_id: bytes) -> _Parts:
    kept = canister.snapshots.get(snapshot_id)
    if kept is None or not isinstance(kept.content, StoredContent):
        listed = ", ".join(one.hex() for one in canister.snapshots) or "none"
        raise KeyError(
            f"canister {Principal(canister.canister_id)} has no snapshot {snapshot_id.hex()}, it has {listed}"
        )
    metadata = SnapshotMetadata(
        taken_at_timestamp=kept.taken_at_ns,
        wasm_module_size=0,
        wasm_memory_size=0,
        stable_memory_size=0,
        global_values=(*kept.global_values, _COUNTER),
        canister_version=kept.canister_version,
        certified_data=kept.certified_data,
        global_timer=kept.global_timer_ns,
        on_low_wasm_memory_hook_status=None if kept.hook_status is None else _HOOK_NAMES[kept.hook_status],
    )
    memories = {name: memory.image for name, memory in kept.content.memories.items()}
    return bytes(kept.wasm), memories, kept.chunk_store, metadata
