"""Truncated and damaged structures: a clear error or an answer, from every reader the same, and never a hang.

The suite damages each byte once. For more, run this file: ``python tests/stable/test_damage.py SECONDS``.
"""

from __future__ import annotations

import random
import sys
import time

import pytest

from perdure.errors import PerdureError
from perdure.memory import BytesMemory, ReadOnlyMemory
from perdure.stable import (
    MemoryManager,
    StableBTreeMap,
    StableCell,
    StableLog,
    StableMinHeap,
    StableVec,
    types,
)

BLOB = types.Blob(2)
MAPS = {
    "fixed": (types.u16, types.u8, 2, 30, lambda number: (number * 7 % 1000, number)),
    "slots": (BLOB, BLOB, 1, 30, lambda number: (bytes([number]), bytes([number] * 2))),
    "variable": (types.raw, types.raw, 2, 14, lambda number: (bytes([number] * 3), bytes([number] * 9))),
    "overflowing": (types.text, types.raw, 2, 4, lambda number: (f"k{number}", bytes([number]) * 700)),
    "bounded": (types.Blob(8), types.u64, 2, 26, lambda number: (bytes([number] * 5), number)),
}


def make_map(name):
    key, value, version, count, entry = MAPS[name]
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, key, value, version=version)
    for number in range(count + 8):
        mapping.insert(*entry(number))
    for number in range(count, count + 8):
        mapping.remove(entry(number)[0])
    return bytes(memory.data)


def used_bytes(data):
    return len(data.rstrip(b"\0")) + 16


def outcome(read):
    """What a reader answers; only errors of perdure are answers too."""
    try:
        return read()
    except PerdureError:
        return PerdureError


def check_map(name, data):
    key, value, _, _, entry = MAPS[name]
    memory = BytesMemory(data)
    try:
        mapping = StableBTreeMap.load(memory, key, value)
    except PerdureError:
        return
    items = outcome(lambda: list(mapping.items()))
    columns = outcome(mapping.columns)
    if columns is not PerdureError:
        columns = outcome(lambda: list(zip(columns.keys, columns.values, strict=True)))
    assert columns == items
    assert outcome(lambda: list(mapping.items())[::-1]) == outcome(lambda: list(reversed(mapping.items())))
    if items is PerdureError:
        assert outcome(lambda: dict(mapping.range())) is PerdureError
    for read in (lambda: list(mapping.nodes()), lambda: list(mapping.chunks()), lambda: list(mapping.free_chunks())):
        outcome(read)
    if mapping._tree._order is None:
        outcome(lambda: mapping.batch(None, None, 1_000))
    new_key, new_value = entry(97)
    for change in (
        lambda: mapping.insert(new_key, new_value),
        lambda: mapping.remove(entry(3)[0]),
        mapping.pop_first,
        mapping.pop_last,
    ):
        before = bytes(memory.data)
        try:
            change()
        except (PerdureError, ValueError):
            assert bytes(memory.data)[: len(before)] == before


@pytest.mark.parametrize("name", MAPS)
def test_every_byte_of_a_map_damaged(name):
    data, chance = make_map(name), random.Random(name)
    used = used_bytes(data)
    addresses = range(used) if used < 1500 else sorted(chance.sample(range(used), 700))
    for address in addresses:
        damaged = bytearray(data)
        damaged[address] ^= chance.choice([0xFF, 0x01, 0x80, chance.randrange(1, 256)])
        check_map(name, damaged)


@pytest.mark.parametrize("name", MAPS)
def test_map_truncated_at_every_byte(name):
    data = make_map(name)
    key, value, _, _, _ = MAPS[name]
    whole = list(StableBTreeMap.load(ReadOnlyMemory(data), key, value).items())
    for size in range(0, used_bytes(data), 1 if used_bytes(data) < 1500 else 5):
        try:
            mapping = StableBTreeMap.load(ReadOnlyMemory(data[:size]), key, value)
            items = list(mapping.items())
        except PerdureError:
            continue
        assert len(items) == len(whole)
        assert size > 100


def make_slots():
    memory = BytesMemory()
    StableVec.create(memory, types.Blob(5)).extend([b"one", b"two", b"three", b""])
    return bytes(memory.data)


def make_heap():
    memory = BytesMemory()
    StableMinHeap.create(memory, types.Tuple(types.u8, types.Blob(3))).extend([(3, b"c"), (1, b"a"), (2, b"")])
    return bytes(memory.data)


def make_log():
    index, data = BytesMemory(), BytesMemory()
    StableLog.create(index, data, types.text).extend(["one", "two", "three", ""])
    return bytes(index.data) + bytes(data.data)


def make_cell():
    memory = BytesMemory()
    StableCell.create(memory, types.text, "hello")
    return bytes(memory.data)


def check_slots(data):
    vec = StableVec.load(BytesMemory(data), types.Blob(5))
    assert outcome(lambda: list(vec.column())) == outcome(lambda: list(vec))
    outcome(lambda: vec.push(b"x"))
    outcome(vec.pop)


def check_heap(data):
    heap = StableMinHeap.load(BytesMemory(data), types.Tuple(types.u8, types.Blob(3)))
    outcome(lambda: list(heap))
    outcome(lambda: heap.push((2, b"x")))
    outcome(heap.pop)


def check_log(data):
    log = StableLog.load(BytesMemory(data[:65_536]), BytesMemory(data[65_536:]), types.text)
    entries = outcome(lambda: list(log))
    if entries is not PerdureError:
        assert outcome(lambda: list(log.column())) == entries
    outcome(lambda: log.append("x"))


def check_cell(data):
    cell = StableCell.load(BytesMemory(data), types.text)
    outcome(cell.get)
    outcome(lambda: cell.set("x"))


def check_manager(data):
    memory = BytesMemory(data)
    manager = MemoryManager.load(memory)
    for _, virtual in manager.memories():
        outcome(lambda virtual=virtual: virtual.read(0, virtual.size() * 65_536))
        outcome(lambda virtual=virtual: virtual.grow(1))
    outcome(manager.buckets)


def make_manager():
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    for memory_id in (0, 5, 0, 254):
        manager.get(memory_id).grow(1)
    return bytes(memory.data)


OTHERS = {
    "slots": (make_slots, check_slots, [*range(100)]),
    "heap": (make_heap, check_heap, [*range(90)]),
    "log": (make_log, check_log, [*range(80), *range(65_536, 65_536 + 50)]),
    "cell": (make_cell, check_cell, [*range(20)]),
    "manager": (make_manager, check_manager, [*range(50), *range(80, 90), *range(2072, 2090), 34_847, 34_848]),
}


def check_other(name, data):
    try:
        OTHERS[name][1](data)
    except ValueError as error:  # a bound that is another than the type's
        assert "bound of" in str(error)  # noqa: PT017 (either is an answer)
    except PerdureError:
        pass


@pytest.mark.parametrize("name", OTHERS)
def test_every_byte_of_other_structures_damaged(name):
    make, _, addresses = OTHERS[name]
    data, chance = make(), random.Random(name)
    for address in addresses:
        for flip in (0xFF, 0x01, chance.randrange(1, 256)):
            damaged = bytearray(data)
            damaged[address] ^= flip
            check_other(name, damaged)
        check_other(name, data[:address])


def test_random_bytes_behind_a_header():
    chance = random.Random(5)
    for name in MAPS:
        data = make_map(name)
        for _ in range(15):
            start = chance.randrange(12, used_bytes(data))
            check_map(name, data[:start] + chance.randbytes(200) + data[start + 200 :])


def fuzz(seconds):
    """Damage everything, several bytes at a time, for so long; the number of damaged structures."""
    chance, done, end = random.Random(), 0, time.monotonic() + seconds
    maps, others = {name: make_map(name) for name in MAPS}, {name: OTHERS[name][0]() for name in OTHERS}
    while time.monotonic() < end:
        for name, data in maps.items():
            damaged = bytearray(data)
            for _ in range(chance.choice([1, 1, 2, 5, 30])):
                damaged[chance.randrange(used_bytes(data))] = chance.choice([0, 1, 255, 116, chance.randrange(256)])
            check_map(name, damaged)
        for name, data in others.items():
            damaged = bytearray(data)
            for _ in range(chance.choice([1, 2, 5])):
                damaged[chance.choice(OTHERS[name][2])] = chance.randrange(256)
            check_other(name, damaged)
        done += len(maps) + len(others)
    return done


if __name__ == "__main__":
    print(f"{fuzz(float(sys.argv[1]))} damaged structures")
