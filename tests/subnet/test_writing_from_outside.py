"""Structures built in Python, read by a Rust canister: in its own stable memory, and on a fork of its snapshot."""

from __future__ import annotations

from pathlib import Path

from built_canisters import call, module

from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap
from perdure.stable.types import u128
from perdure.subnet import Canister, Subnet

EMPTY = b"DIDL\0\0"


def test_a_map_built_in_python_becomes_a_canisters_memory() -> None:
    memory = BytesMemory()
    built = StableBTreeMap.create(MemoryManager.create(memory).get(0), u128, u128)
    for key in range(0, 3_000, 3):
        built[key] = key * key
    canister = Subnet().install(module("insert_many"), EMPTY)
    hand_over(memory, canister)
    assert call(canister, "len()") == call_len(1_000)
    assert "8982009" in str(canister.actor().get(2997))
    call(canister, "insert_many(vec { record { 1; 7 } })")
    continued = StableBTreeMap.load(MemoryManager.load(canister.stable).get(0), u128, u128)
    assert (len(continued), continued[1], continued[2997]) == (1_001, 7, 8_982_009)


def test_a_fork_of_a_snapshot_is_edited_and_runs(tmp_path: Path) -> None:
    subnet = Subnet()
    canister = subnet.install(module("insert_many"), EMPTY)
    call(canister, "insert_many(vec { record { 1; 10 }; record { 2; 20 } })")
    canister.write_snapshot(tmp_path / "snapshot")
    sealed = (tmp_path / "snapshot" / "stable_memory.bin").read_bytes()
    fork = Subnet.open(tmp_path / "snapshot").canisters[0]
    edited = StableBTreeMap.load(MemoryManager.load(fork.stable).get(0), u128, u128)
    edited[3] = 30
    del edited[1]
    fork.upgrade(module("insert_many"), EMPTY)  # the heap still had the old header
    assert fork.actor().len() == 2
    assert [fork.actor().get(key) for key in (1, 2, 3)] == [None, 20, 30]
    assert canister.actor().get(1) == 10
    assert (tmp_path / "snapshot" / "stable_memory.bin").read_bytes() == sealed


def hand_over(memory: BytesMemory, canister: Canister) -> None:
    """Make `memory` the canister's stable memory, and have its code find it there."""
    canister.stable.grow(memory.size() - canister.stable.size())
    canister.stable.write(0, bytes(memory.data))
    canister.upgrade(module("insert_many"), EMPTY)


def call_len(count: int) -> bytes:
    return b"DIDL\0\1\x78" + count.to_bytes(8, "little")
