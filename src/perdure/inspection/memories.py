"""What memories a source has: how long each stays, how wide and how large it is, and whether code uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, final

from perdure.errors import MalformedError, RejectError, StorageError, UnsupportedError
from perdure.execution.records import decode_record
from perdure.image import MEMORY_KINDS
from perdure.inspection.open import open_source
from perdure.inspection.state import memory_of
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import Snapshot, StateDirectory
from perdure.subnet import Canister, Subnet

__all__ = ["MemoryFacts", "memories_of"]

_POLICIES: Final = ("memories", "memories=declared", "memories=index")
"""A snapshot does not say which of them its module follows."""
_NO_CODE: Final = (StorageError, MalformedError, UnsupportedError, RejectError)


@final
class MemoryFacts(NamedTuple):
    """One memory of a source."""

    memory: str
    """Its name."""
    lifetime: str
    address_bits: int | None
    """`None`: the module says it, and is not there."""
    state: str
    """``used``, ``deprecated`` or ``unused`` by the code; ``unknown`` where that is not there."""
    size_bytes: int


def memories_of(source: str) -> list[MemoryFacts]:
    """The memories of ``STATE_DIR:CANISTER``, of a snapshot's directory, or of a dump, which is stable memory.

    Modules that are lost, or nothing that can be compiled, hide no memory.

    Raises:
        StorageError: there is no such source, or it cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        return _of_snapshot(path)
    if path.exists():
        with open_source(source) as opened:
            return [_facts("stable", opened.memory.size() * WASM_PAGE_BYTES)]
    place, _, canister = source.rpartition(":")
    return _of_state(Path(place), canister)


def _of_state(place: Path, canister: str) -> list[MemoryFacts]:
    canister_id, _ = memory_of(place, canister)
    try:
        with Subnet.read(place) as subnet:
            return _of_canister(subnet.canister(canister_id))
    except _NO_CODE:
        with StateDirectory.open(place, read_only=True) as directory:
            kept = directory.canisters[canister_id.raw_bytes]
            own = decode_record(kept.record).state.own_memories
            found = {name: (one.lifetime, one.address_bits) for name, one in own.items()}
            return [_facts(name, pages * WASM_PAGE_BYTES, *found.get(name, ())) for name, pages in kept.sizes.items()]


def _of_snapshot(path: Path) -> list[MemoryFacts]:
    snapshot = Snapshot.open(path)
    snapshot.close()
    own = snapshot.own_memories
    for policy in _POLICIES if own else _POLICIES[:1]:
        try:
            with Subnet.open(path, extensions=("direct", policy)) as subnet:
                return _of_canister(subnet.canisters[0])
        except _NO_CODE:
            continue
    sizes = {"heap": snapshot.metadata.wasm_memory_size, "stable": snapshot.metadata.stable_memory_size}
    others = (_facts(name, one.size_bytes, one.kind.lifetime, one.kind.address_bits) for name, one in own.items())
    return [*(_facts(name, size_bytes) for name, size_bytes in sizes.items()), *others]


def _of_canister(canister: Canister) -> list[MemoryFacts]:
    if canister.module is None:
        return []
    return [
        MemoryFacts(name, one.lifetime, one.kind.address_bits, one.state, one.size() * WASM_PAGE_BYTES)
        for name, one in canister.memories.items()
    ]


def _facts(name: str, size_bytes: int, lifetime: str = "", address_bits: int | None = None) -> MemoryFacts:
    """Of a memory whose code nobody has."""
    kind = MEMORY_KINDS.get(name)
    if kind is not None:
        lifetime, address_bits = kind.lifetime, kind.address_bits if name == "stable" else None
    return MemoryFacts(name, lifetime, address_bits, "unknown", size_bytes)
