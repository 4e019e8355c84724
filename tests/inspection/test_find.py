import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.inspection.find import find, find_in_memory, name_structures
from perdure.inspection.open import open_source
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableVec, types
from perdure.stable.region import Region, Run
from perdure.values.schema import MemorySchema, Schema

MAPS = ("u64_u64", "vec_vec", "b3_unit_set", "v1_blob10_blob10")


@pytest.mark.parametrize("name", MAPS)
def test_maps_are_what_the_manifest_says(name, vectors, manifest):
    said = manifest["maps"][name]
    with open_source(str(vectors / "maps" / f"{name}.bin.gz")) as source:
        (found,) = find(source).structures
    assert found.kind == ("btreeset" if said["value"] == "unit" else "btreemap")
    assert (found.version, found.entries) == (said["header_version"], said["len"])
    assert found.key is not None
    assert (found.key.max_bytes, found.key.is_fixed) == (said["key_max"], said["key_fixed"])
    assert found.value is not None
    assert found.value.max_bytes == said["value_max"]
    assert found.used_bytes == 100 + said["chunks"] * (said["page_size"] + 16)
    assert found.allocated_bytes == said["size"]


MISC = {
    "cell1.bin": ("cell", 1, 1, None),
    "heap_u64.bin": ("minheap", 1, 123, (8, True)),
    "log_dat.bin": ("log-data", 1, None, None),
    "log_idx.bin": ("log-index", 1, 50, None),
    "vec_blob7.bin": ("vec", 1, 1, (7, False)),
    "vec_u64.bin": ("vec", 1, 9, (8, True)),
}


@pytest.mark.parametrize("name", MISC)
def test_other_structures(name, vectors, manifest):
    kind, version, entries, width = MISC[name]
    with open_source(str(vectors / "misc" / f"{name}.gz")) as source:
        (found,) = find(source).structures
    assert (found.kind, found.version, found.entries) == (kind, version, entries)
    assert found.allocated_bytes == manifest["misc"][name]["size"]
    if width is not None:
        assert (found.value.max_bytes, found.value.is_fixed) == width


def test_memories_of_a_manager(vectors):
    with open_source(str(vectors / "misc" / "mm.bin.gz")) as source:
        inventory = find(source)
    (manager,) = inventory.managers
    assert (manager.header.bucket_wasm_pages, manager.header.allocated_buckets, manager.trouble) == (2, 4, "")
    assert [(found.memory_id, found.region.size()) for found in inventory.structures] == [(0, 3), (254, 3)]


def test_upstream_goldens(vectors):
    with open_source(str(vectors / "upstream" / "stability_write.golden.gz")) as source:
        inventory = find(source)
    assert [(found.memory_id, found.region.size()) for found in inventory.structures] == [(0, 5), (1, 5), (2, 5)]
    with open_source(str(vectors / "upstream" / "btreemap_v1_packed_headers.dump.gz")) as source:
        (found,) = find(source).structures
    assert (found.kind, found.version, found.entries, found.key.max_bytes) == ("btreemap", 1, 1, 10)


def test_every_vector_of_the_grid_is_named(vectors, vector, look):
    for path in sorted((vectors / "grid").glob("*.bin.gz")):
        (found,) = look(vector(f"grid/{path.name.removesuffix('.gz')}")).structures
        expected = {"heap": "minheap", "unit": "btreeset"}
        kind = next((kind for part, kind in expected.items() if part in path.name), "btreemap")
        assert found.kind == kind, path.name
        assert found.entries is not None


def test_all_structures_under_one_manager(every_structure, look):
    found = {structure.label: structure for structure in look(every_structure).structures}
    assert {label: (structure.kind, structure.entries) for label, structure in found.items()} == {
        "0": ("btreemap", 300),
        "1": ("btreemap", 300),
        "2": ("log", 300),
        "4": ("minheap", 300),
        "5": ("vec", 300),
        "6": ("btreeset", 300),
        "7": ("cell", 1),
    }
    assert found["2"].data_memory_id == 3
    assert str(found["0"].key) == "? (seen 2–21)"
    assert (str(found["1"].key), str(found["1"].value)) == ("8", "any")
    assert (str(found["5"].value), str(found["6"].key), str(found["6"].value)) == ("≤20", "4", "≤0")
    for structure in found.values():
        assert structure.used_bytes + structure.wasted_bytes == structure.allocated_bytes


def test_a_manager_at_page_one(every_structure, look):
    header = b"IIC\x09" + bytes(WASM_PAGE_BYTES - 4)
    inventory = look(header + every_structure)
    assert inventory.managers[0].wasm_page == 1
    assert inventory.structures[0].note == "the header of Internet Identity"
    assert [structure.kind for structure in inventory.structures[1:]] == [
        structure.kind for structure in look(every_structure).structures
    ]


def test_structures_in_windows_of_pages(vector, look):
    first, second = vector("maps/u64_u64.bin"), vector("misc/vec_u64.bin")
    found = look(first + bytes(3 * WASM_PAGE_BYTES) + second).structures
    assert [(structure.label, structure.kind, structure.entries) for structure in found] == [
        ("page:0", "btreemap", 1589),
        ("page:4", "vec", 9),
    ]


def test_logs_are_paired_by_size(look):
    from perdure.stable import StableLog

    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    long = StableLog.create(manager.get(0), manager.get(9), types.raw)
    short = StableLog.create(manager.get(1), manager.get(8), types.raw)
    long.extend([bytes(50_000), bytes(50_000)])
    short.append(b"short")
    found = look(bytes(memory.data)).structures
    assert {structure.label: structure.data_memory_id for structure in found} == {"0": 9, "1": 8}


def test_declared_log_pairs_win(look):
    from perdure.stable import StableLog

    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    for index, data in ((0, 3), (1, 2)):
        StableLog.create(manager.get(index), manager.get(data), types.text).append(f"log {index}")
    found = find_in_memory(memory, None, {"0": 3, "1": 2}).structures
    assert {structure.label: structure.data_memory_id for structure in found} == {"0": 3, "1": 2}
    assert all(structure.note == "" for structure in found)


def test_a_map_migrated_from_version_1(vectors, vector, look):
    (found,) = look(vector("grid/migrated.bin")).structures
    assert found.version == 1
    assert found.note.startswith("migrated from version 1")


def big_endian(data: bytes) -> bytes:
    """The headers of a version 1 map as MotokoStableBTree writes them."""
    swapped = bytearray(data)
    for start, size in ((4, 4), (8, 4), (12, 8), (20, 8), (60, 8), (68, 8), (76, 8)):
        swapped[start : start + size] = data[start : start + size][::-1]
    return bytes(swapped)


def test_motoko_stable_btree_is_named(vector, look):
    (found,) = look(big_endian(vector("maps/v1_blob10_blob10.bin"))).structures
    assert (found.kind, found.entries, found.key.max_bytes) == ("motoko-btreemap", 1271, 10)


def test_a_big_endian_manager_is_named(vector, look):
    data = bytearray(WASM_PAGE_BYTES)
    data[:8] = b"MGR\x01" + struct.pack(">HH", 1, 3)
    struct.pack_into(">Q", data, 40, 2)
    data[2080 : 2080 + 255] = b"\xff" * 255
    data[2080] = 0
    inventory = look(bytes(data) + big_endian(vector("maps/v1_blob10_blob10.bin")) + bytes(WASM_PAGE_BYTES))
    assert inventory.managers[0].is_motoko
    assert [(found.label, found.kind) for found in inventory.structures] == [("0", "motoko-btreemap")]


def test_motoko_regions_are_named(look):
    data = bytearray(3 * 128 * WASM_PAGE_BYTES)
    struct.pack_into("<HH", data, 0, 2, 17)
    struct.pack_into("<HHHH", data, 4, 17, 0, 17, 1)  # both blocks belong to region 16
    struct.pack_into("<Q", data, 4 + 4 * 32_768 + 12 * 16, 129 + 1)
    (found,) = look(bytes(data)).structures
    assert (found.kind, found.entries) == ("motoko-regions", 17)


def test_what_is_not_known_is_unknown(look):
    assert [found.kind for found in look(b"hello").structures] == ["unknown"]
    assert [found.kind for found in look(bytes(WASM_PAGE_BYTES)).structures] == ["empty"]
    assert look(b"").structures == ()
    (found,) = look(b"BTR\x07" + bytes(WASM_PAGE_BYTES)).structures
    assert found.kind == "unknown"
    assert "version 7" in found.note


def test_a_sparse_memory_of_100_gib(tmp_path):
    path = Path(tmp_path) / "sparse.bin"
    memory = BytesMemory()
    small = MemoryManager.create(memory, bucket_wasm_pages=1)
    for memory_id in range(3):
        mapping = StableBTreeMap.create(small.get(memory_id), types.u64, types.u64)
        mapping.update((number, number) for number in range(100))
    # The same with buckets of 32,767 Wasm pages: each map alone in its bucket of nearly 2 GiB.
    big_wasm_pages = 32_767
    with path.open("wb") as file:
        file.truncate((1 + 50 * big_wasm_pages) * WASM_PAGE_BYTES)
        header = bytearray(memory.data[:34_848])
        struct.pack_into("<HH", header, 4, 50, big_wasm_pages)
        header[2080 : 2080 + 50] = bytes([0] * 10 + [1] * 20 + [2] * 20)
        for memory_id, (buckets, first) in enumerate(((10, 0), (20, 10), (20, 30))):
            struct.pack_into("<Q", header, 40 + 8 * memory_id, buckets * big_wasm_pages)
            file.seek((1 + first * big_wasm_pages) * WASM_PAGE_BYTES)
            file.write(memory.data[(1 + memory_id) * WASM_PAGE_BYTES : (2 + memory_id) * WASM_PAGE_BYTES])
        file.seek(0)
        file.write(header)
    with open_source(str(path)) as source:
        assert source.memory.size() * WASM_PAGE_BYTES > 99 << 30
        assert source.data_bytes() < 1 << 20
        assert [(found.kind, found.entries) for found in find(source).structures] == [("btreemap", 100)] * 3


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"MGR\x01", b"BTR\x01", b"BTR\x02", b"SVC\x01", b"GLI\x01", b"SCL\x01"]),
)
@settings(max_examples=150, deadline=None)
def test_random_bytes_end_in_an_answer(rest, magic):
    found = find_in_memory(ReadOnlyMemory(magic + rest + bytes(70_000)))
    assert all(structure.kind for structure in found.structures)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_random_damage_ends_in_an_answer(every_structure, data):
    damaged = bytearray(every_structure)
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, 40_000))] = data.draw(st.integers(0, 255))
    find_in_memory(ReadOnlyMemory(damaged))


def test_a_name_that_is_not_there(every_structure, look):
    from perdure.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="found 0, 1, 2, 4, 5, 6, 7"):
        look(every_structure).structure("users")


def test_region_reads_across_runs():
    below = BytesMemory(bytes(range(256)) * 1024)
    region = Region(below, [Run(WASM_PAGE_BYTES + 5, 10), Run(7, 100), Run(107, 3)], 100)
    assert region.size_bytes == 100
    assert region.runs == [Run(WASM_PAGE_BYTES + 5, 10), Run(7, 90)]
    assert region.read(8, 4) == bytes([13, 14, 7, 8])
    assert region.below_address(10) == 7
    assert region.below_address(100) == -1
    with pytest.raises(IndexError):
        region.read(99, 2)
    with pytest.raises(PermissionError):
        region.write(0, b"x")
    with pytest.raises(PermissionError):
        region.grow(1)


def test_no_more_is_used_than_there_is():
    memory = BytesMemory()
    found = StableVec.create(memory, types.Blob(70_000))
    found.extend([b"x" * 10] * 3)
    [structure] = find_in_memory(memory).structures
    assert structure.used_bytes == structure.allocated_bytes == len(memory.data)


@pytest.mark.parametrize(
    ("declared", "note"),
    [
        (MemorySchema("0", name="seen"), "values are empty: perhaps a set"),
        (MemorySchema("0", value="()"), ""),
        (MemorySchema("0", about="an index"), "an index"),
    ],
)
def test_a_doubt_ends_where_somebody_has_declared_it(declared, note, look):
    memory = BytesMemory()
    map_ = StableBTreeMap.init(MemoryManager.init(memory).get(0), types.text, types.raw)
    for length in range(20):
        map_["x" * length] = b""
    found = look(memory.read(0, memory.size() * WASM_PAGE_BYTES))
    assert found.structures[0].note == "values are empty: perhaps a set"
    assert name_structures(found, Schema({"0": declared})).structures[0].note == note
