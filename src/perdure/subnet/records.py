"""A subnet out of the records that a state directory has of it, today's or those of the past."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, final

from perdure.canister import GlobalValue, WasmState
from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.execution.ingress import MAX_REQUEST_ID_BYTES, KeptAnswer
from perdure.execution.records import (
    adopt,
    check_references,
    decode_record,
    decode_response,
    decode_snapshot,
    decode_subnet,
)
from perdure.execution.state import CanisterState, Snapshot, SubnetState
from perdure.execution.world import Host, World
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import Answer, StateDirectory
from perdure.subnet.handed import HANDED, read_handed
from perdure.subnet.memories import StoredContent
from perdure.subnet.residency import ResidentInstance, ResidentModule

__all__ = ["SNAPSHOTS", "KeptState", "RecordReader"]

SNAPSHOTS: Final = b"snapshot "
"""Snapshots are kept as canisters of the directory, under this prefix; canister ids are at most 29 bytes."""

_MAX_WASM_PAGES = (500 << 30) // WASM_PAGE_BYTES


class KeptState(Protocol):
    """A canister or a snapshot as the directory has it, now or in the past."""

    module_hash: bytes
    global_values: tuple[GlobalValue, ...] | None
    record: bytes

    @property
    def sizes(self) -> Mapping[str, int]:
        """Wasm pages of its memories, by name."""
        ...


class _Compiler(Host, Protocol):
    def compile(self, wasm: bytes, *, known: bool = False) -> ResidentModule: ...


@final
@dataclass(slots=True)
class RecordReader:
    """Makes a subnet of records: today's, or those of the past.

    Args:
        host: of the subnet.
        directory: has the blobs.
        kept: canisters and snapshots.
        answers: to requests, by id.
        adopted: makes a canister's instance.
        memories: gives a snapshot's memories.
    """

    host: _Compiler
    directory: StateDirectory
    kept: Mapping[bytes, KeptState]
    answers: Mapping[bytes, Answer]
    adopted: Callable[[bytes, ResidentModule], ResidentInstance]
    memories: Callable[[bytes], WasmState]

    def world(self, record: bytes, config: SubnetConfig, seed: bytes) -> World:
        """The subnet; a new one where nothing was kept.

        Raises:
            StorageError: the records cannot be those of a subnet.
        """
        if not record:
            if self.kept:
                raise StorageError("canisters of no subnet", self.directory.path)
            return World(SubnetState(seed=seed), self.host, config)
        try:
            return self._world(record, config)
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), self.directory.path) from error

    def _world(self, record: bytes, config: SubnetConfig) -> World:
        state = decode_subnet(record)
        state.ingress.take_up(map(_found, self.answers.values()), config)
        world = World(state, self.host, config)
        for key in self.kept:
            if not key.startswith((SNAPSHOTS, HANDED)):
                adopt(state, self._canister(key), world.costs)
        state.handed = {
            key[len(HANDED) :]: read_handed(self.kept[key].record, _kept_content(key, self.memories(key)))
            for key in self.kept
            if key.startswith(HANDED)
        }
        for key, handed in state.handed.items():
            caller = state.canisters.get(key[:-8])
            if caller is not None:
                caller.handed_wasm_pages += handed.wasm_pages
                caller.refresh(world.costs)
        check_references(state)
        snapshots = sum(len(canister.snapshots) for canister in state.canisters.values())
        left = sum(key.startswith(SNAPSHOTS) and _owner(key) not in self.kept for key in self.kept)
        others = len(self.kept) - len(state.canisters) - len(state.handed) - left
        if snapshots != others:
            raise MalformedError(f"{others} snapshots, canisters have {snapshots}")
        return world

    def _canister(self, key: bytes) -> CanisterState:
        kept = self.kept[key]
        found = decode_record(kept.record)
        canister = found.state
        where = f"canister {key.hex()}"
        if canister.canister_id != key or (found.module_hash or b"") != kept.module_hash:
            raise MalformedError(f"{where} has the record of another canister, or of another module")
        canister.chunk_store = {hash_: self.directory.blob(hash_) for hash_ in found.chunk_hashes}
        for snapshot_id in found.snapshot_ids:
            canister.snapshots[snapshot_id] = self._snapshot(SNAPSHOTS + key + snapshot_id, snapshot_id)
        if found.module_hash is not None:
            module = self.host.compile(self.directory.blob(found.module_hash), known=True)
            _check_parts(where, canister, module, kept)
            canister.module, canister.instance = module, self.adopted(key, module)
        elif kept.sizes or canister.heap_wasm_pages or canister.stable_wasm_pages:
            raise MalformedError(f"{where} has memories and no module")
        return canister

    def _snapshot(self, key: bytes, snapshot_id: bytes) -> Snapshot:
        kept = self.kept.get(key)
        if kept is None:
            raise MalformedError(f"snapshot {snapshot_id.hex()} is named and not there")
        content = _kept_content(key, self.memories(key))
        snapshot = decode_snapshot(kept.record, content)
        sizes = {name: memory.size() for name, memory in content.memories.items()}
        named = {"heap": snapshot.heap_bytes, "stable": snapshot.stable_bytes}
        if snapshot.snapshot_id != snapshot_id or any(
            sizes.get(name, 0) != -(-size_bytes // WASM_PAGE_BYTES) for name, size_bytes in named.items()
        ):
            raise MalformedError(f"snapshot {snapshot_id.hex()} has the record of another one, or memories of another")
        return snapshot


def _owner(key: bytes) -> bytes:
    """The canister that a snapshot is of: its id is there twice, the second time within the snapshot's id.

    Up to revision d96ac57 a canister that was deleted left its snapshots in the directory.
    """
    return key[len(SNAPSHOTS) : len(SNAPSHOTS) + (len(key) - len(SNAPSHOTS) - 8) // 2]


def _check_parts(where: str, canister: CanisterState, module: ResidentModule, kept: KeptState) -> None:
    """Raise where module, memories, globals and record are not those of one canister."""
    sizes = {"heap": canister.heap_wasm_pages, "stable": canister.stable_wasm_pages}
    sizes |= {name: one.wasm_pages for name, one in canister.own_memories.items()}
    for name, wasm_pages in sizes.items():
        found = kept.sizes.get(name, 0)
        if found != wasm_pages:
            raise MalformedError(f"{where}: {name} of {found} Wasm pages, the record says {wasm_pages}")
    missing = [name for name, memory in module.memories.items() if memory.on_network and name not in kept.sizes]
    if missing:
        raise MalformedError(f"{where} lacks memories that its module has: {', '.join(missing)}")
    for name, memory in module.memories.items():
        most = 1 << 16 if memory.address_bits == 32 else _MAX_WASM_PAGES
        if kept.sizes.get(name, 0) > most:
            raise MalformedError(f"{where}: {name} of {kept.sizes[name]} Wasm pages, at most {most}")
    found_types = tuple(value.value_type for value in kept.global_values or ())
    if kept.global_values is not None and module.is_wasm and found_types != module.global_types:
        raise MalformedError(f"{where}: globals of types {found_types}, its module has {module.global_types}")


def _kept_content(key: bytes, memories: WasmState) -> StoredContent:
    """What a directory has under a key of its own."""
    content = StoredContent(memories.memories)
    content.is_kept_as(key)
    return content


def _found(answer: Answer) -> KeptAnswer:
    request_id, expiry_ns, content = answer
    generation = int.from_bytes(content[:8], "little")
    if generation >> 62 or len(request_id) > MAX_REQUEST_ID_BYTES:
        raise MalformedError(f"the answer to request {request_id.hex()[:80]} is of generation {generation}")
    found = decode_response(content[8:]) if content else (None, None)
    return KeptAnswer(request_id, expiry_ns, generation, *found)
