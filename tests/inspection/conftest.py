"""Memories to inspect: those that the real library wrote, and one with every structure under a memory manager."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.ic.principal import Principal
from perdure.inspection.find import find_in_memory
from perdure.memory import BytesMemory, ReadOnlyMemory
from perdure.stable import (
    MemoryManager,
    StableBTreeMap,
    StableBTreeSet,
    StableCell,
    StableLog,
    StableMinHeap,
    StableVec,
    types,
)

VECTORS = Path(__file__).parents[1] / "stable" / "vectors"

PEOPLE = [(Principal(bytes([n % 256, n // 256, *range(n % 20)])), n) for n in range(300)]


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The directory of the memories that the real library wrote."""
    return VECTORS


@pytest.fixture(scope="session")
def manifest() -> dict[str, Any]:
    """What those memories are said to hold."""
    return json.loads((VECTORS / "manifest.json").read_text())


@pytest.fixture(scope="session")
def vector() -> Callable[[str], bytes]:
    """The unpacked file of a name."""
    return lambda name: gzip.decompress((VECTORS / f"{name}.gz").read_bytes())


@pytest.fixture(scope="session")
def look() -> Callable[[bytes], Any]:
    """The inventory of bytes."""
    return lambda data: find_in_memory(ReadOnlyMemory(data))


@pytest.fixture(scope="session")
def every_structure() -> bytes:
    """A memory with one of each structure, buckets of 4 Wasm pages, memories interleaved."""
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=4)
    balances = StableBTreeMap.create(manager.get(0), types.principal, types.u64)
    names = StableBTreeMap.create(manager.get(1), types.u64, types.text)
    events = StableLog.create(manager.get(2), manager.get(3), types.text)
    queue = StableMinHeap.create(manager.get(4), types.u64)
    ids = StableVec.create(manager.get(5), types.Blob(20))
    for number, (person, amount) in enumerate(PEOPLE):
        balances[person] = amount
        names[number] = f"name {number} " + "é" * (number % 50)
        events.append(f"event {number}")
        queue.push((number * 7919) % 1000)
        ids.push(bytes(number % 20))
    numbers = StableBTreeSet.create(manager.get(6), types.u32)
    numbers |= set(range(0, 900, 3))
    StableCell.create(manager.get(7), types.text, '{"version": 3, "open": true}')
    return bytes(memory.data)


SCHEMA = """
memories:
  0: {name: balances, kind: btreemap, key: principal, value: u64}
  1: {name: names, kind: btreemap, key: u64, value: text}
  2: {name: events, kind: log, data: 3, value: text}
  4: {name: queue, kind: minheap, value: u64}
  5: {name: ids, kind: vec, value: raw}
  6: {name: numbers, kind: btreeset, key: u32}
  7: {name: settings, kind: cell, value: json}
"""


@pytest.fixture(scope="session")
def schema_text() -> str:
    """The schema of `every_structure`."""
    return SCHEMA


@pytest.fixture(scope="session")
def people() -> list[tuple[Principal, int]]:
    """What its first map holds."""
    return sorted(PEOPLE, key=lambda entry: (len(entry[0].raw_bytes), entry[0].raw_bytes))


@pytest.fixture(scope="session")
def build() -> SimpleNamespace:
    """Builders of single structures, as bytes."""

    def mapping(key: Any, value: Any, entries: Any, **options: Any) -> bytes:
        memory = BytesMemory()
        StableBTreeMap.create(memory, key, value, **options).update(entries)
        return bytes(memory.data)

    return SimpleNamespace(map=mapping)
