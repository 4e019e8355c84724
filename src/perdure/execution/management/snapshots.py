"""Snapshots of a canister: take, load, list, delete, read and upload by ranges. The host keeps the memories.

Spec: "Take canister snapshot" to "Delete canister snapshot" in the interface specification.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import replace
from typing import Final

from perdure.candid.types import Value
from perdure.canister import CanisterInstance, CanisterModule, CanisterStatus, GlobalValue, Reject
from perdure.errors import MalformedError, UnsupportedError
from perdure.execution.effects import compile_instructions, pay_for_compiling, record_change
from perdure.execution.rejects import canister_error, rejected
from perdure.execution.state import CanisterState, HookStatus, Snapshot
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode
from perdure.memory import WASM_PAGE_BYTES

__all__ = [
    "delete",
    "list_all",
    "load",
    "read_data",
    "read_metadata",
    "summary",
    "take",
    "upload_data",
    "upload_metadata",
]

_HOOK_NAMES: Final = {
    HookStatus.CONDITION_NOT_SATISFIED: "condition_not_satisfied",
    HookStatus.READY: "ready",
    HookStatus.EXECUTED: "executed",
}
_HOOK_BY_NAME: Final = {name: status for status, name in _HOOK_NAMES.items()}
_MEMORIES: Final = {"wasm_memory": "heap", "stable_memory": "stable"}
_NUMBER_FORMAT: Final = {"i32": "<i", "i64": "<q", "f32": "<f", "f64": "<d"}

Values = list[Value]


def _find(canister: CanisterState, snapshot_id: bytes) -> Snapshot | Reject:
    snapshot = canister.snapshots.get(snapshot_id)
    if snapshot is not None:
        return snapshot
    return rejected(
        ErrorCode.CANISTER_SNAPSHOT_NOT_FOUND,
        f"Could not find the snapshot ID {snapshot_id.hex()} for canister {Principal(canister.canister_id)}.",
    )


def _make_room(world: World, canister: CanisterState, replace: bytes | None) -> Reject | None:
    if replace is not None:
        found = _find(canister, replace)
        return found if isinstance(found, Reject) else None
    limit = world.config.max_snapshots_per_canister
    if len(canister.snapshots) >= limit:
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"Canister {Principal(canister.canister_id)} has reached the maximum number of snapshots allowed: {limit}.",
        )
    return None


def _keep(world: World, canister: CanisterState, snapshot: Snapshot, replace: bytes | None) -> None:
    if replace is not None:
        del canister.snapshots[replace]
    canister.snapshots[snapshot.snapshot_id] = snapshot
    canister.refresh(world.costs)


def _next_id(canister: CanisterState) -> bytes:
    # The replica's ids are a counter before the canister's id.
    canister.next_snapshot += 1
    return (canister.next_snapshot - 1).to_bytes(8, "big") + canister.canister_id


def summary(snapshot: Snapshot) -> dict[str, Value]:
    """A snapshot as ``list_canister_snapshots`` has it."""
    return {
        "id": snapshot.snapshot_id,
        "total_size": snapshot.total_bytes,
        "taken_at_timestamp": snapshot.taken_at_ns,
    }


def take(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values | Reject:
    """Keep the canister's state as it is."""
    module, instance = canister.module, canister.instance
    if module is None or instance is None:
        name = Principal(canister.canister_id)
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"Failed to create snapshot for empty canister {name}",
        )
    refusal = _make_room(world, canister, arg["replace_snapshot"])
    if refusal is not None:
        return refusal
    snapshot = Snapshot(
        snapshot_id=_next_id(canister),
        taken_at_ns=world.state.time_ns,
        uploaded=False,
        wasm=bytearray(module.wasm),
        module=module,
        content=world.host.take_snapshot(canister.canister_id, instance),
        heap_bytes=canister.heap_wasm_pages * WASM_PAGE_BYTES,
        stable_bytes=canister.stable_wasm_pages * WASM_PAGE_BYTES,
        global_values=instance.global_values,
        certified_data=canister.certified_data,
        chunk_store=dict(canister.chunk_store),
        canister_version=canister.facts.version,
        global_timer_ns=canister.global_timer_ns,
        hook_status=canister.hook_status,
    )
    _keep(world, canister, snapshot, arg["replace_snapshot"])
    return [summary(snapshot)]


def load(
    world: World, canister: CanisterState, arg: dict[str, Value], origin: tuple[bytes, int | None]
) -> Values | Reject:
    """Give the canister the state of a snapshot."""
    snapshot = _find(canister, arg["snapshot_id"])
    if isinstance(snapshot, Reject):
        return snapshot
    if canister.facts.status is not CanisterStatus.STOPPED and canister.open_calls:
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_NOT_STOPPED,
            "Cannot load a snapshot while calls are open",
        )
    try:
        module = snapshot.module or world.host.compile(bytes(snapshot.wasm))
        costs = world.costs_of(module)
        missing = costs.execution(compile_instructions(world, module.operators)) - canister.liquid_cycles
        if module.operators and missing > 0:
            return rejected(
                ErrorCode.CANISTER_OUT_OF_CYCLES,
                f"Canister snapshot loading failed with `Canister {Principal(canister.canister_id)} is out of cycles: "
                f"please top up the canister with at least {missing} additional cycles`.",
            )
        # The host checks that the globals are those of the module.
        memories = world.host.load_snapshot(
            canister.canister_id, snapshot.content, snapshot.global_values, module.memories
        )
        instance = module.instantiate(memories)
    except (MalformedError, UnsupportedError, ValueError) as error:
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"Canister snapshot cannot be loaded: {error}",
        )
    if module.operators:
        pay_for_compiling(world, canister, module.operators, costs)
    _restore(world, canister, snapshot, module, instance)
    canister.facts.version += 1
    record_change(
        world,
        canister,
        origin,
        "load_snapshot",
        snapshot_id=snapshot.snapshot_id,
        canister_version=snapshot.canister_version,
        taken_at_timestamp=snapshot.taken_at_ns,
        source="metadata_upload" if snapshot.uploaded else "taken_from_canister",
    )
    canister.refresh(world.costs)
    return []


def _restore(
    world: World, canister: CanisterState, snapshot: Snapshot, module: CanisterModule, instance: CanisterInstance
) -> None:
    """Give the canister what a snapshot has, with the code and the memories that were made of it."""
    if (replaced := canister.instance) is not None:
        world.afterwards(lambda: world.host.discard(canister.canister_id, replaced))
    world.made(lambda: world.host.discard(canister.canister_id, instance))
    canister.snapshots[snapshot.snapshot_id] = replace(snapshot, module=module)
    canister.module, canister.instance = module, instance
    canister.installed_at_ns = world.state.kept_time_ns()
    canister.heap_wasm_pages = snapshot.heap_bytes // WASM_PAGE_BYTES
    canister.stable_wasm_pages = snapshot.stable_bytes // WASM_PAGE_BYTES
    canister.know_memories({name: memory.size() for name, memory in instance.memories.items()})
    canister.certified_data = snapshot.certified_data
    canister.chunk_store = dict(snapshot.chunk_store)
    # "the global timer ... [is] restored only from metadata that was uploaded with one"
    if snapshot.uploaded and snapshot.global_timer_ns is not None:
        canister.global_timer_ns = snapshot.global_timer_ns
    if snapshot.uploaded and snapshot.hook_status is not None:
        canister.hook_status = snapshot.hook_status
    if canister.global_timer_ns or "canister_heartbeat" in module.exported_methods:
        world.state.task_canisters.add(canister.canister_id)


def list_all(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values:
    """What snapshots there are."""
    del world, arg
    return [[summary(snapshot) for snapshot in canister.snapshots.values()]]


def delete(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values | Reject:
    """Forget a snapshot."""
    snapshot = _find(canister, arg["snapshot_id"])
    if isinstance(snapshot, Reject):
        return snapshot
    del canister.snapshots[snapshot.snapshot_id]
    canister.refresh(world.costs)
    return []


# -- by ranges


def _global_record(value: GlobalValue) -> dict[str, Value]:
    if value.value_type == "v128":
        return {"v128": int.from_bytes(value.bits, "little")}
    (number,) = struct.unpack(_NUMBER_FORMAT[value.value_type], value.bits)
    return {value.value_type: number}


def _global_value(record: dict[str, Value]) -> GlobalValue:
    ((value_type, number),) = record.items()
    if value_type == "v128":
        return GlobalValue(value_type, (number % (1 << 128)).to_bytes(16, "little"))
    return GlobalValue(value_type, struct.pack(_NUMBER_FORMAT[value_type], number))


def read_metadata(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values | Reject:
    """Everything about a snapshot but its bytes."""
    del world
    snapshot = _find(canister, arg["snapshot_id"])
    if isinstance(snapshot, Reject):
        return snapshot
    timer: dict[str, Value] | None = None
    if snapshot.global_timer_ns is not None:
        timer = {"active": snapshot.global_timer_ns} if snapshot.global_timer_ns else {"inactive": None}
    return [
        {
            "source": {"metadata_upload" if snapshot.uploaded else "taken_from_canister": None},
            "taken_at_timestamp": snapshot.taken_at_ns,
            "wasm_module_size": len(snapshot.wasm),
            "globals": [_global_record(value) for value in snapshot.global_values],
            "wasm_memory_size": snapshot.heap_bytes,
            "stable_memory_size": snapshot.stable_bytes,
            "wasm_chunk_store": [{"hash": chunk_hash} for chunk_hash in sorted(snapshot.chunk_store)],
            "canister_version": snapshot.canister_version,
            "certified_data": snapshot.certified_data,
            "global_timer": timer,
            "on_low_wasm_memory_hook_status": None
            if snapshot.hook_status is None
            else {_HOOK_NAMES[snapshot.hook_status]: None},
        }
    ]


def _out_of_range(canister: CanisterState, offset: int, size_bytes: int, limit_bytes: int) -> Reject:
    return canister_error(
        canister.canister_id,
        ErrorCode.CANISTER_CONTRACT_VIOLATION,
        f"Invalid subslice into wasm module / main memory / stable memory: offset {offset}, size {size_bytes}, "
        f"of {limit_bytes} bytes",
    )


def read_data(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values | Reject:
    """Some bytes of a snapshot."""
    snapshot = _find(canister, arg["snapshot_id"])
    if isinstance(snapshot, Reject):
        return snapshot
    ((kind, where),) = arg["kind"].items()
    if kind == "wasm_chunk":
        chunk = snapshot.chunk_store.get(where["hash"])
        if chunk is None:
            return canister_error(
                canister.canister_id,
                ErrorCode.CANISTER_CONTRACT_VIOLATION,
                f"Chunk hash {where['hash'].hex()} was not found",
            )
        return [{"chunk": chunk}]
    offset, size_bytes = where["offset"], where["size"]
    limit_bytes = _part_bytes(snapshot, kind)
    if offset + size_bytes > limit_bytes or size_bytes > world.config.max_inter_canister_payload_bytes:
        return _out_of_range(canister, offset, size_bytes, limit_bytes)
    return [{"chunk": _bytes_of(snapshot, kind, offset, size_bytes)}]


def _bytes_of(snapshot: Snapshot, kind: str, offset: int, size_bytes: int) -> bytes:
    if kind == "wasm_module":
        return bytes(snapshot.wasm[offset : offset + size_bytes])
    return snapshot.content.memories[_MEMORIES[kind]].read(offset, size_bytes)


def _part_bytes(snapshot: Snapshot, kind: str) -> int:
    return {
        "wasm_module": len(snapshot.wasm),
        "wasm_memory": snapshot.heap_bytes,
        "stable_memory": snapshot.stable_bytes,
    }[kind]


def upload_metadata(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values | Reject:
    """Begin a snapshot that is to be filled by uploads."""
    refusal = _make_room(world, canister, arg["replace_snapshot"]) or _check_sizes(world, canister, arg)
    if refusal is not None:
        return refusal
    heap_bytes, stable_bytes = arg["wasm_memory_size"], arg["stable_memory_size"]
    timer, hook = arg["global_timer"], arg["on_low_wasm_memory_hook_status"]
    snapshot = Snapshot(
        snapshot_id=_next_id(canister),
        taken_at_ns=world.state.time_ns,
        uploaded=True,
        wasm=bytearray(arg["wasm_module_size"]),
        module=None,
        content=world.host.new_snapshot(canister.canister_id, {"heap": heap_bytes, "stable": stable_bytes}),
        heap_bytes=heap_bytes,
        stable_bytes=stable_bytes,
        global_values=tuple(_global_value(value) for value in arg["globals"]),
        certified_data=arg["certified_data"],
        chunk_store={},
        canister_version=canister.facts.version,
        global_timer_ns=None if timer is None else timer.get("active") or 0,
        hook_status=None if hook is None else _HOOK_BY_NAME[next(iter(hook))],
    )
    _keep(world, canister, snapshot, arg["replace_snapshot"])
    return [{"snapshot_id": snapshot.snapshot_id}]


def _check_sizes(world: World, canister: CanisterState, arg: dict[str, Value]) -> Reject | None:
    config = world.config
    limits = {
        "wasm_module_size": config.wasm_max_size_bytes,
        "wasm_memory_size": config.max_wasm64_memory_bytes,
        "stable_memory_size": config.max_stable_memory_bytes,
    }
    what = next((f"{name} {arg[name]}, at most {limit}" for name, limit in limits.items() if arg[name] > limit), "")
    if any(arg[name] % WASM_PAGE_BYTES for name in ("wasm_memory_size", "stable_memory_size")):
        what = "memory sizes are whole Wasm pages"
    if len(arg["certified_data"]) > 32:
        what = "certified_data of more than 32 bytes"
    if not what:
        return None
    return canister_error(
        canister.canister_id, ErrorCode.CANISTER_CONTRACT_VIOLATION, f"Snapshot metadata is not valid: {what}"
    )


def _fill(snapshot: Snapshot, kind: str, offset: int, chunk: bytes) -> None:
    if kind == "wasm_module":
        snapshot.wasm[offset : offset + len(chunk)] = chunk
    else:
        snapshot.content.memories[_MEMORIES[kind]].write(offset, chunk)


def upload_data(world: World, canister: CanisterState, arg: dict[str, Value]) -> Values | Reject:
    """Fill in some bytes of a snapshot that was begun by an upload."""
    snapshot = _find(canister, arg["snapshot_id"])
    if isinstance(snapshot, Reject):
        return snapshot
    if not snapshot.uploaded or snapshot.module is not None:
        return canister_error(
            canister.canister_id,
            ErrorCode.CANISTER_CONTRACT_VIOLATION,
            f"Snapshot {snapshot.snapshot_id.hex()} is not mutable",
        )
    ((kind, where),) = arg["kind"].items()
    chunk = arg["chunk"]
    if kind == "wasm_chunk":
        chunks = {**snapshot.chunk_store, hashlib.sha256(chunk).digest(): chunk}
        canister.snapshots[snapshot.snapshot_id] = replace(snapshot, chunk_store=chunks)
        return []
    offset, limit_bytes = where["offset"], _part_bytes(snapshot, kind)
    if offset + len(chunk) > limit_bytes:
        return _out_of_range(canister, offset, len(chunk), limit_bytes)
    before = _bytes_of(snapshot, kind, offset, len(chunk))
    world.made(lambda: _fill(snapshot, kind, offset, before))
    _fill(snapshot, kind, offset, chunk)
    canister.refresh(world.costs)
    return []
