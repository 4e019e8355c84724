"""Memories written by ic-stable-structures itself: replayed, the bytes are equal, stale ones included."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import pytest

from perdure.ic.principal import ANONYMOUS, MANAGEMENT_CANISTER
from perdure.memory import WASM_PAGE_BYTES, BytesMemory
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
from perdure.stable.access import write_growing

MANIFEST = json.loads((Path(__file__).parent / "vectors/manifest.json").read_text())

MAPS = {
    "u64_u64": (types.u64, types.u64, 2),
    "vec_vec": (types.raw, types.raw, 2),
    "b3_unit_set": (types.FixedBytes(3), types.unit, 2),
    "v1_blob10_blob10": (types.Blob(10), types.Blob(10), 1),
}


def items_of(vector, name):
    lines = vector(f"maps/{name}.items").decode().splitlines()
    return [tuple(bytes.fromhex(word) for word in line.split(" ")) for line in lines]


@pytest.mark.parametrize("name", MAPS)
def test_map_replayed_byte_for_byte(name, vector, replay):
    key, value, version = MAPS[name]
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, key, value, version=version)
    answers = replay(mapping, vector(f"maps/{name}.ops").decode().splitlines(), version)
    expected = vector(f"maps/{name}.log").decode().splitlines()
    assert answers == expected
    assert bytes(memory.data) == vector(f"maps/{name}.bin")


@pytest.mark.parametrize("name", MAPS)
def test_map_read(name, vector):
    key, value, version = MAPS[name]
    facts = MANIFEST["maps"][name]
    mapping = StableBTreeMap.load(BytesMemory(vector(f"maps/{name}.bin")), key, value)
    items = items_of(vector, name)
    assert list(mapping.raw_range()) == items
    assert list(mapping.raw_range(reverse=True)) == items[::-1]
    assert all(mapping._tree.find(key_bytes) == value_bytes for key_bytes, value_bytes in items)
    nodes = list(mapping.nodes())
    assert len(mapping) == facts["len"] == sum(len(node.keys) for node in nodes)
    assert mapping.header.version == facts["header_version"] == version
    assert mapping.header.page_bytes == facts["page_size"]
    assert max(node.depth for node in nodes) + 1 == facts["depth"]
    assert sum(node.version == 1 for node in nodes) == facts["nodes_v1"]
    assert sum(node.version == 2 for node in nodes) == facts["nodes_v2"]
    used = {page for node in nodes for page in (node.address, *node.overflow)}
    assert len(used) == facts["chunks"] == mapping.header.allocator.allocated_chunks
    assert used == {address for address, allocated in mapping.chunks() if allocated}
    free = list(mapping.free_chunks())
    assert sorted(free) == [address for address, allocated in mapping.chunks() if not allocated]


@pytest.mark.parametrize("name", MAPS)
def test_map_columns(name, vector):
    key, value, _ = MAPS[name]
    columns = StableBTreeMap.load(BytesMemory(vector(f"maps/{name}.bin")), key, value).columns()
    items = items_of(vector, name)
    assert [(columns.keys.raw(index), columns.values.raw(index)) for index in range(len(columns))] == items


def test_set_read(vector):
    keys = StableBTreeSet.load(BytesMemory(vector("maps/b3_unit_set.bin")), types.FixedBytes(3))
    assert list(keys) == [key for key, _ in items_of(vector, "b3_unit_set")]


@pytest.mark.parametrize("section", ["maps", "misc", "upstream"])
def test_vectors_are_what_the_manifest_says(section, vector):
    for name, facts in MANIFEST[section].items():
        data = vector(f"{section}/{Path(name).name}{'.bin' if section == 'maps' else ''}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (facts["size"], facts["sha256"])


def test_cell(vector):
    memory = BytesMemory()
    StableCell.create(memory, types.text, "hello")
    assert bytes(memory.data) == vector("misc/cell1.bin")
    assert StableCell.load(BytesMemory(vector("misc/cell1.bin")), types.raw).get() == b"hello"


def test_vec_of_integers(vector):
    memory = BytesMemory()
    squares = StableVec.create(memory, types.u64)
    squares.extend(index * index for index in range(10))
    squares[3] = 777
    assert squares.pop() == 81
    assert bytes(memory.data) == vector("misc/vec_u64.bin")


def test_vec_of_blobs(vector):
    memory = BytesMemory()
    blobs = StableVec.create(memory, types.Blob(7))
    blobs.extend(bytes([index]) * (index % 8) for index in range(20))
    blobs[0] = b"zz"
    while len(blobs) > 1:
        blobs.pop()
    assert bytes(memory.data) == vector("misc/vec_blob7.bin")


def test_min_heap_read(vector):
    heap = StableMinHeap.load(BytesMemory(vector("misc/heap_u64.bin")), types.u64)
    expected = sorted(heap)
    assert len(expected) == 123
    assert [heap.pop() for _ in range(123)] == expected


def test_log(vector):
    index, data = BytesMemory(), BytesMemory()
    log = StableLog.create(index, data, types.raw)
    log.extend(bytes([number]) * (37 * number) for number in range(50))
    assert bytes(index.data) == vector("misc/log_idx.bin")
    assert bytes(data.data) == vector("misc/log_dat.bin")
    assert StableLog.load(index, data, types.raw)[49] == bytes([49]) * (37 * 49)


def test_memory_manager(vector):
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=2)
    first, last = manager.get(0), manager.get(254)
    assert [first.grow(1), last.grow(3), first.grow(2)] == [0, 0, 1]
    first.write(2 * WASM_PAGE_BYTES - 6, b"")
    expected = vector("misc/mm.bin")
    read = MemoryManager.load(BytesMemory(expected))
    assert bytes(memory.data[:WASM_PAGE_BYTES]) == expected[:WASM_PAGE_BYTES]
    assert len(memory.data) == len(expected)
    found = [
        (memory_id, virtual.read(0, virtual.size() * WASM_PAGE_BYTES).strip(b"\0"))
        for memory_id, virtual in read.memories()
    ]
    assert [memory_id for memory_id, _ in found] == [0, 254]
    assert b"".join(text for _, text in found) == b"ABCDEFGHIJKLxyzXYZ"
    for memory_id, text in found:
        where = read.get(memory_id).read(0, 3 * WASM_PAGE_BYTES).index(text)
        manager.get(memory_id).write(where, text)
    assert bytes(memory.data) == expected


def test_upstream_map_of_version_1(vector):
    expected = vector("upstream/btreemap_v1_packed_headers.dump")
    mapping = StableBTreeMap.load(BytesMemory(expected), types.Blob(10), types.Blob(10))
    assert dict(mapping) == {b"\x01\x02\x03": b"\x04\x05\x06"}
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.Blob(10), types.Blob(10), version=1)[b"\x01\x02\x03"] = b"\x04\x05\x06"
    assert bytes(memory.data) == expected


def test_upstream_memory_manager_stability(vector):
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    data = bytes(itertools.islice(itertools.cycle(range(256)), 2 * WASM_PAGE_BYTES + 901))
    half = WASM_PAGE_BYTES // 2
    addresses = (0, half, WASM_PAGE_BYTES - 1, WASM_PAGE_BYTES + 1, 2 * WASM_PAGE_BYTES + half)
    following = itertools.cycle((1, 2, 0))
    for _, address in itertools.product(range(15), addresses):
        write_growing(manager.get(next(following)), address, data)
    assert bytes(memory.data) == vector("upstream/stability_write.golden")
    assert [bucket.memory_id for bucket in manager.buckets()] == [1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 1, 2, 2, 1, 0]

    read = b""
    for _ in range(12):
        whole = (
            (0, half),
            (half - 150, half),
            (WASM_PAGE_BYTES - 473, WASM_PAGE_BYTES),
            (2 * WASM_PAGE_BYTES, 2 * WASM_PAGE_BYTES),
        )
        read = b"".join(manager.get(next(following)).read(address, size) for address, size in whole)
    assert read == vector("upstream/stability_read.golden")


S, P = types.text, types.principal
BOUNDS = {
    "()": (types.unit, ()),
    "bool true": (types.boolean, True),
    "u8 5": (types.u8, 5),
    "u16 0x0102": (types.u16, 0x0102),
    "u32": (types.u32, 0x01020304),
    "u64": (types.u64, 0x0102030405060708),
    "u128": (types.u128, 0x0102030405060708090A0B0C0D0E0F10),
    "f32 1.5": (types.f32, 1.5),
    "f64 -2.25": (types.f64, -2.25),
    "String": (S, "héllo"),
    "Vec<u8>": (types.raw, b"\1\2\3"),
    "[u8;4]": (types.FixedBytes(4), b"\x09\x08\x07\x06"),
    "Blob<10> abc": (types.Blob(10), b"abc"),
    "BoundedVecN<6>": (types.BoundedVecN(6), b"abc\0\0\0"),
    "UnboundedVecN<6>": (types.UnboundedVecN(6), b"abc\0\0\0"),
    "Reverse<u32>": (types.Reverse(types.u32), 7),
    "Some(u32 7)": (types.Option(types.u32), 7),
    "None u32": (types.Option(types.u32), None),
    "Some(Some(7u8))": (types.Option(types.Option(types.u8)), 7),
    "Some(String)": (types.Option(S), "hi"),
    "Principal mgmt": (P, MANAGEMENT_CANISTER),
    "Principal anon": (P, ANONYMOUS),
    "(u64,u32)": (types.Tuple(types.u64, types.u32), (1, 2)),
    "(u8,Blob<5> ab)": (types.Tuple(types.u8, types.Blob(5)), (7, b"ab")),
    "(Blob<5> ab,u8)": (types.Tuple(types.Blob(5), types.u8), (b"ab", 7)),
    "(Blob<300> ab,Blob<3> c)": (types.Tuple(types.Blob(300), types.Blob(3)), (b"ab", b"c")),
    "(Blob<70000> ab,u8)": (types.Tuple(types.Blob(70000), types.u8), (b"ab", 7)),
    "((u8,u8),u16)": (types.Tuple(types.Tuple(types.u8, types.u8), types.u16), ((1, 2), 3)),
    "((),u8)": (types.Tuple(types.unit, types.u8), ((), 3)),
    "(Principal anon,u64)": (types.Tuple(P, types.u64), (ANONYMOUS, 9)),
    "(u8,u16,u32)": (types.Tuple(types.u8, types.u16, types.u32), (1, 2, 3)),
    "(u8,u16,String)": (types.Tuple(types.u8, types.u16, S), (1, 2, "hey")),
    "(String,u16,String)": (types.Tuple(S, types.u16, S), ("ab", 2, "hey")),
    "(u16,String,u8)": (types.Tuple(types.u16, S, types.u8), (2, "ab", 3)),
    "(String,String,u8)": (types.Tuple(S, S, types.u8), ("ab", "c", 3)),
    "(String*300,String*70000,u8)": (types.Tuple(S, S, types.u8), ("a" * 300, "c" * 70000, 3)),
    "(Blob<8> ab,u64,Blob<8> xyz)": (types.Tuple(types.Blob(8), types.u64, types.Blob(8)), (b"ab", 5, b"xyz")),
    "(Blob<300> ab,Blob<3> c,u8)": (types.Tuple(types.Blob(300), types.Blob(3), types.u8), (b"ab", b"c", 9)),
    "(Blob<300> empty,Blob<3> empty,())": (types.Tuple(types.Blob(300), types.Blob(3), types.unit), (b"", b"", ())),
}
UNREADABLE = {"Some(None)", "(Option<u8> None,u8)"}
"""What Python cannot say (``Some(None)``) or what the crate itself cannot read back."""


def test_storable_types(vector):
    lines = [line.split("|") for line in vector("misc/storable.txt").decode().splitlines()]
    assert {name for name, _, _ in lines} - UNREADABLE <= BOUNDS.keys()
    for name, bound, encoded in lines:
        if name in UNREADABLE:
            continue
        storable, value = BOUNDS[name]
        max_size = "U" if storable.max_size is None else f"B{storable.max_size} {str(storable.is_fixed).lower()}"
        assert (max_size, storable.encode(value).hex()) == (bound, encoded), name
        assert storable.decode(bytes.fromhex(encoded)) == value, name


GRID = {
    "principal_text": (types.principal, types.text),
    "tuple_blob300": (types.Tuple(types.Blob(5), types.u16), types.Blob(300)),
    "reverse_unit": (types.Reverse(types.u32), types.unit),
    "option_vec": (types.Option(types.text), types.raw),
    "triple_u8": (types.Tuple(types.text, types.u16, types.raw), types.u8),
    "text_blob10": (types.text, types.Blob(10)),
    "blob100_blob700": (types.Blob(100), types.Blob(700)),
    "u128_bool": (types.u128, types.boolean),
    "migrated": (types.Blob(10), types.Blob(10)),
    "migrated_big": (types.Blob(40), types.Blob(100)),
}
"""Written by crate 0.7.2; the migrated ones begun by 0.5.6, up to the line ``migrate``."""


@pytest.mark.parametrize("name", GRID)
def test_grid_of_types_replayed_byte_for_byte(name, vector, replay):
    key, value = GRID[name]
    lines = vector(f"grid/{name}.ops").decode().splitlines()
    born = lines.index("migrate") if "migrate" in lines else 0
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, key, value, version=1 if born else 2)
    answers = replay(mapping, lines[:born], 1)
    mapping = StableBTreeMap.load(memory, key, value)
    answers += replay(mapping, [line for line in lines[born:] if line != "migrate"])
    assert answers == vector(f"grid/{name}.log").decode().split("\n")
    assert bytes(memory.data) == vector(f"grid/{name}.bin")
    assert {node.version for node in mapping.nodes()} == ({1, 2} if born else {2})
    columns = mapping.columns()
    raw = [(columns.keys.raw(index), columns.values.raw(index)) for index in range(len(columns))]
    assert raw == list(mapping.raw_range())


@pytest.mark.parametrize(
    ("name", "element"), [("heap_u64", types.u64), ("heap_blob", types.Tuple(types.Blob(300), types.u8))]
)
def test_min_heap_replayed_byte_for_byte(name, element, vector):
    memory = BytesMemory()
    heap = StableMinHeap.create(memory, element)
    answers = []
    for line in vector(f"grid/{name}.ops").decode().splitlines():
        operation, _, argument = line.partition(" ")
        if operation == "i":
            heap.push(element.decode(bytes.fromhex(argument)))
            answers.append("N")
        else:
            popped = heap.pop()
            answers.append("N" if popped is None else f"S{element.encode(popped).hex()}")
    assert answers == vector(f"grid/{name}.log").decode().split("\n")
    assert bytes(memory.data) == vector(f"grid/{name}.bin")
