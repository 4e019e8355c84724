"""The crate's own published figures: Wasm pages that its benchmarks add to a map, reproduced.

Source: ``benchmarks/btreemap/canbench_results.yml`` of ic-stable-structures, as of 2026-04-07.
"""

from __future__ import annotations

import random

import pytest

from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types


def wasm_pages_added(key, value, entries):
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, key, value)
    before = memory.size()
    for entry in entries:
        mapping.insert(*entry)
    return memory.size() - before


def test_ten_thousand_random_integers():
    chance = random.Random(0)
    entries = [(chance.getrandbits(64), chance.getrandbits(64)) for _ in range(10_000)]
    assert wasm_pages_added(types.u64, types.u64, entries) == 6


def test_ten_thousand_integers_in_sequence():
    assert wasm_pages_added(types.u64, types.u64, ((number, number) for number in range(10_000))) == 8


@pytest.mark.slow
def test_hundred_thousand_random_integers():
    chance = random.Random(0)
    entries = [(chance.getrandbits(64), chance.getrandbits(64)) for _ in range(100_000)]
    assert wasm_pages_added(types.u64, types.u64, entries) == 60


@pytest.mark.slow
def test_twenty_values_of_ten_mebibytes():
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u32, types.raw)
    before, value = memory.size(), bytes(10 << 20)
    for key in range(20):
        mapping[key] = value
    assert memory.size() - before == 3613
    before = memory.size()
    for key in range(20):
        del mapping[key]
    assert memory.size() - before == 657
    assert mapping.header.allocator.allocated_chunks == 0


@pytest.mark.parametrize(
    ("key_bytes", "value_bytes", "published"),
    [(4, 128, 13), (32, 128, 28), (32, 1024, 173), (1024, 128, 196)],
)
def test_random_blobs(key_bytes, value_bytes, published):
    # Sizes are random, 0 to N - 1, so that another generator than the crate's comes within a few pages only.
    chance = random.Random(0)

    def blob(max_bytes):
        return chance.randbytes(chance.randrange(max_bytes))

    entries = [(blob(key_bytes), blob(value_bytes)) for _ in range(2_000)]
    added = wasm_pages_added(types.Blob(key_bytes), types.Blob(value_bytes), entries)
    assert added == pytest.approx(published / 5, rel=0.1, abs=1)
