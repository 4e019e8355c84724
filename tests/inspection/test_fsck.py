"""Planted damage: each case breaks one thing in a sound memory and names the finding that must follow."""

import random
import struct
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.inspection.find import find_in_memory, name_structures
from perdure.inspection.findings import KINDS_OF_DAMAGE
from perdure.inspection.fsck import Report, fsck
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.stable.btree import BTree
from perdure.stable.layout import FIRST_CHUNK_ADDRESS
from perdure.values.schema import parse_schema

SCHEMA = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u64, value: raw}}')
PAGE = 1024
STRIDE = PAGE + 16


def check(data: bytes, schema=None) -> Report:
    inventory = name_structures(find_in_memory(ReadOnlyMemory(data)), schema)
    return fsck(inventory, schema)


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


@pytest.fixture(scope="module")
def sound() -> bytes:
    """A map u64 -> bytes of three levels, with overflow pages and free chunks."""
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u64, types.raw)
    for number in range(600):
        mapping[number] = bytes([number % 251]) * (3000 if number % 50 == 7 else number % 40)
    for number in range(0, 600, 25):
        del mapping[number]
    for number in (107, 157, 257):
        mapping[number] = b"short now"
    return bytes(memory.data)


@pytest.fixture(scope="module")
def places(sound) -> SimpleNamespace:
    """Where things are in it."""
    tree = BTree.load(BytesMemory(sound), types.u64, types.raw)
    nodes = list(tree.facts())
    leaves = [node.address for node in nodes if node.is_leaf]
    internal = [node.address for node in nodes if not node.is_leaf]
    chained = [node for node in nodes if node.overflow]
    plain = [node.address for node in nodes if node.is_leaf and not node.overflow]
    free = list(tree._allocator.free_list())
    assert len(free) > 3
    assert max(node.depth for node in nodes) == 2
    return SimpleNamespace(
        root=tree.header.root, leaves=leaves, internal=internal, chained=chained, plain=plain, free=free, nodes=nodes
    )


Damage = Callable[[bytearray, SimpleNamespace], None]
DAMAGES: dict[str, tuple[str, Damage]] = {}


def damage(code: str) -> Callable[[Damage], Damage]:
    def register(function: Damage) -> Damage:
        DAMAGES[function.__name__] = (code, function)
        return function

    return register


def put(data: bytearray, address: int, value: int, size: int = 8) -> None:
    data[address : address + size] = value.to_bytes(size, "little")


def number(data: bytearray, address: int, size: int = 8) -> int:
    return int.from_bytes(data[address : address + size], "little")


@damage("map-version")
def version_3(data, at):
    data[3] = 3


@damage("map-version")
def beta_header(data, at):
    put(data, 8, 0, 4)


@damage("map-page-size")
def tiny_page(data, at):
    put(data, 4, 100, 4)


@damage("allocator-header")
def allocator_magic(data, at):
    data[52:55] = b"XXX"


@damage("allocator-header")
def allocator_version(data, at):
    data[55] = 2


@damage("allocator-header")
def allocation_size(data, at):
    put(data, 60, 1023)


@damage("root-length")
def no_root(data, at):
    put(data, 12, 0)


@damage("entry-count")
def one_entry_more(data, at):
    put(data, 20, number(data, 20) + 1)


@damage("node-address")
def root_between_chunks(data, at):
    put(data, 12, at.root + 1)


@damage("node-address")
def child_past_the_memory(data, at):
    put(data, at.root + 15, 116 + STRIDE * 1_000_000)


@damage("node-address")
def child_beyond_all_numbers(data, at):
    put(data, at.root + 15, (1 << 64) - 1)


@damage("node-shared")
def two_parents(data, at):
    put(data, at.root + 15, number(data, at.root + 23))


@damage("node-shared")
def a_circle(data, at):
    put(data, at.internal[1] + 15, at.root)


@damage("node-header")
def node_magic(data, at):
    data[at.leaves[3] : at.leaves[3] + 3] = b"NOF"


@damage("node-header")
def node_version(data, at):
    data[at.leaves[3] + 3] = 3


@damage("node-header")
def node_version_1_in_a_version_2_map(data, at):
    data[at.leaves[3] + 3] = 1


@damage("node-header")
def node_type(data, at):
    data[at.leaves[3] + 4] = 2


@damage("node-count")
def empty_node(data, at):
    put(data, at.leaves[3] + 5, 0, 2)


@damage("node-count")
def crowded_node(data, at):
    put(data, at.leaves[3] + 5, 12, 2)


@damage("node-underfull")
def underfull_node(data, at):
    put(data, at.plain[3] + 5, 4, 2)


@damage("node-past-pages")
def value_past_the_page(data, at):
    leaf = at.plain[3]
    put(data, leaf + 15 + 8 * number(data, leaf + 5, 2), 50_000, 4)


@damage("leaf-depth")
def leaf_too_high(data, at):
    """A leaf where an internal node should be."""
    put(data, at.root + 15, at.plain[-1])


@damage("key-order")
def keys_swapped(data, at):
    leaf = at.plain[3] + 15
    data[leaf : leaf + 8], data[leaf + 8 : leaf + 16] = data[leaf + 8 : leaf + 16], data[leaf : leaf + 8]


@damage("key-order")
def key_outside_its_parents_bounds(data, at):
    leaf = at.plain[3]
    last = leaf + 15 + 8 * (number(data, leaf + 5, 2) - 1)
    data[last : last + 8] = (1 << 63).to_bytes(8, "big")


@damage("key-duplicate")
def key_twice(data, at):
    leaf = at.plain[3] + 15
    data[leaf + 8 : leaf + 16] = data[leaf : leaf + 8]


@damage("overflow-address")
def overflow_between_chunks(data, at):
    put(data, at.chained[0].address + 7, at.chained[0].overflow[0] + 1)


@damage("overflow-header")
def overflow_magic(data, at):
    data[at.chained[0].overflow[0]] = 0


@damage("overflow-shared")
def overflow_of_two_nodes(data, at):
    put(data, at.chained[0].address + 7, at.chained[1].overflow[0])


@damage("overflow-shared")
def overflow_circle(data, at):
    put(data, at.chained[0].overflow[-1] + 3, at.chained[0].overflow[0])


@damage("node-past-pages")
def overflow_cut_short(data, at):
    put(data, at.chained[0].overflow[0] + 3, 0)


@damage("overflow-surplus")
def overflow_not_needed(data, at):
    """A free chunk hung behind a chain: what crates before 0.6.4 left."""
    leaked_chunk(data, at)
    page = at.free[0]
    data[page : page + 11] = b"NOF" + bytes(8)
    put(data, at.chained[0].overflow[-1] + 3, page)


@damage("chunk-header")
def chunk_magic_in_use(data, at):
    data[at.leaves[3] - 16] = 0


@damage("chunk-header")
def chunk_magic_of_a_free_one(data, at):
    data[at.free[1] - 16] = 0


@damage("chunk-in-use-free")
def leaf_marked_free(data, at):
    data[at.leaves[3] - 12] = 0


@damage("chunk-double")
def leaf_in_the_free_list(data, at):
    """Doubly allocated: the map uses it, and the next insertion gets it."""
    leaf = at.leaves[3] - 16
    data[leaf + 4] = 0
    put(data, leaf + 8, number(data, 76))
    put(data, 76, leaf)


@damage("free-list-address")
def free_list_between_chunks(data, at):
    put(data, 76, number(data, 76) + 8)


@damage("free-list-address")
def free_list_nowhere(data, at):
    put(data, 76, 1 << 50)


@damage("free-list-circle")
def free_list_circle(data, at):
    put(data, at.free[2] - 16 + 8, at.free[0] - 16)


@damage("free-list-allocated")
def free_chunk_marked_allocated(data, at):
    data[at.free[0] - 12] = 1


@damage("free-list-end")
def free_list_ends_early(data, at):
    put(data, at.free[0] - 16 + 8, 0)


@damage("chunk-count")
def chunk_miscounted(data, at):
    put(data, 68, number(data, 68) - 1)


@damage("chunk-leak")
def leaked_chunk(data, at):
    """Taken out of the free list, marked allocated, counted, used by nothing: the leak of crates before 0.6.4."""
    first = at.free[0] - 16
    data[first + 4] = 1
    put(data, 76, number(data, first + 8))
    put(data, 68, number(data, 68) + 1)


@damage("chunk-lost")
def lost_chunk(data, at):
    put(data, 76, number(data, at.free[0] - 16 + 8))


@damage("map-reserved")
def reserved_bytes(data, at):
    data[30] = 1


@pytest.mark.parametrize("name", DAMAGES)
def test_planted_damage_to_a_map_is_found(name, sound, places):
    code, plant = DAMAGES[name]
    data = bytearray(sound)
    plant(data, places)
    report = check(data, SCHEMA)
    assert code in codes(report)
    severity = KINDS_OF_DAMAGE[code][0]
    assert bool(report.errors) == (severity == "error")
    finding = next(finding for finding in report.findings if finding.code == code)
    assert finding.advice
    assert finding.message


def test_many_kinds_are_planted():
    assert len({code for code, _ in DAMAGES.values()}) >= 20


def test_the_sound_map_is_sound(sound):
    report = check(sound, SCHEMA)
    assert report.findings == ()
    facts = report.facts["page:0"]
    assert (facts.entries, facts.depth, facts.leaked_chunks) == (576, 3, 0)


# Notes about keys depend on what is declared


def test_undeclared_keys_out_of_order_are_a_note(sound, places):
    data = bytearray(sound)
    keys_swapped(data, places)
    report = check(data)
    assert codes(report) == {"key-order-undeclared"}
    assert report.errors == []


def test_keys_declared_of_another_width(sound):
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u32, value: raw}}')
    assert "key-type" in {finding.code for finding in check(sound, schema).errors}


def test_values_that_do_not_decode(sound):
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u64, value: u32}}')
    assert "value-type" in {finding.code for finding in check(sound, schema).errors}


@pytest.mark.parametrize(
    ("codec", "storable", "keys"),
    [
        ("principal", types.principal, [types.Principal(bytes([n] * (29 - n % 29))) for n in range(1, 60)]),
        ("i64", types.i64, range(-50, 50)),
        ("(u16, u8)", types.Tuple(types.u16, types.u8), [(n // 7, n % 7) for n in range(100)]),
        ("Reverse<u32>", types.Reverse(types.u32), range(100)),
        ("text", types.text, [("x" * 100) + str(n) for n in range(100)]),
    ],
)
def test_keys_in_orders_other_than_that_of_bytes(codec, storable, keys, build):
    data = build.map(storable, types.u64, [(key, 1) for key in keys])
    entry = f'memories: {{"page:0": {{name: m, kind: btreemap, key: "{codec}", value: u64}}}}'
    assert check(data, parse_schema(entry)).findings == ()
    assert check(data).errors == []


def test_long_keys_that_differ_late(build):
    data = bytearray(build.map(types.text, types.u8, [("x" * 100 + str(n), 1) for n in range(100, 110)]))
    place = data.index(b"x" * 100 + b"101")
    data[place + 102] = ord("9")  # 109 where 101 was
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: text, value: u8}}')
    assert {"key-order"} <= codes(check(data, schema))


# Version 1


def test_a_slot_that_overflowed(vector):
    data = bytearray(vector("maps/v1_blob10_blob10.bin"))
    root = number(data, 12)
    put(data, root + 7, 11, 4)
    assert "slot-overflow" in {finding.code for finding in check(data).errors}


# The manager


def manager_cases():
    def bucket_size(data):
        put(data, 6, 0, 2)

    def bucket_count(data):
        put(data, 4, 32_769, 2)

    def truncated(data):
        del data[-5 * WASM_PAGE_BYTES :]

    def memory_size(data):
        put(data, 40, 1000)

    def owner_beyond(data):
        data[2080 + number(data, 4, 2)] = 3

    def hole(data):
        owned = number(data, 4, 2)
        data[2080 + owned] = 255
        put(data, 4, owned + 1, 2)
        data.extend(bytes(4 * WASM_PAGE_BYTES))

    def surplus(data):
        owned = number(data, 4, 2)
        data[2080 + owned] = 0
        put(data, 4, owned + 1, 2)
        data.extend(bytes(4 * WASM_PAGE_BYTES))

    def reserved(data):
        data[9] = 1

    return {
        "manager-bucket-size": bucket_size,
        "manager-bucket-count": bucket_count,
        "manager-truncated": truncated,
        "manager-memory-size": memory_size,
        "manager-owner-beyond": owner_beyond,
        "manager-bucket-hole": hole,
        "manager-bucket-surplus": surplus,
        "manager-reserved": reserved,
    }


@pytest.mark.parametrize("code", manager_cases())
def test_planted_damage_to_the_manager_is_found(code, every_structure):
    data = bytearray(every_structure)
    manager_cases()[code](data)
    report = check(data)
    found = {finding.code for finding in report.findings if finding.label == "manager"}
    assert code in found
    assert (KINDS_OF_DAMAGE[code][0] == "error") == bool(report.errors)


# Arrays, logs, cells


def other_cases():
    def put_in(label, address, value, size):
        def plant(data, inventory):
            put(data, inventory.structure(label).region.below_address(address), value, size)

        return plant

    def data_of_log(data, inventory):
        region = inventory.structure("2").region
        put(data, region.below_address(40 + 8 * 299), 1 << 40, 8)

    return {
        "vec version": ("array-header", put_in("5", 3, 2, 1)),
        "vec flag": ("array-header", put_in("5", 16, 7, 1)),
        "vec length": ("array-truncated", put_in("5", 4, 1 << 40, 8)),
        "vec element": ("array-element", put_in("5", 64 + 21, 21, 1)),
        "heap order": ("heap-order", put_in("4", 64, 255, 1)),
        "cell version": ("cell-header", put_in("7", 3, 9, 1)),
        "cell length": ("cell-truncated", put_in("7", 4, 1 << 30, 4)),
        "log version": ("log-header", put_in("2", 3, 2, 1)),
        "log count": ("log-index-truncated", put_in("2", 32, 1 << 40, 8)),
        "log offsets": ("log-offsets", put_in("2", 40 + 8 * 5, 1 << 30, 8)),
        "log data": ("log-data-truncated", data_of_log),
        "map magic": ("kind-differs", put_in("0", 0, 0x58, 1)),
    }


@pytest.mark.parametrize("case", other_cases())
def test_planted_damage_to_other_structures_is_found(case, every_structure, schema_text, look):
    code, plant = other_cases()[case]
    data = bytearray(every_structure)
    plant(data, look(every_structure))
    report = check(data, parse_schema(schema_text))
    assert code in {finding.code for finding in report.errors}


def test_a_heap_of_unknown_elements_is_not_judged(every_structure, look):
    data = bytearray(every_structure)
    data[look(every_structure).structure("4").region.below_address(64)] = 255
    assert check(data).errors == []
    assert "heap-order-undeclared" in codes(check(data))


# What is declared


def test_a_sound_memory_as_declared(every_structure, schema_text):
    report = check(every_structure, parse_schema(schema_text))
    assert codes(report) == {"waste"}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("0: {name: x, kind: vec}", "kind-differs"),
        ("9: {name: x, kind: vec}", "memory-missing"),
        ("0: {name: x, state: retired}", "memory-retired"),
        ("0: {name: x, state: reserved}", "memory-reserved"),
        ("1: {name: x, kind: btreemap}", "memory-undeclared"),
    ],
)
def test_what_differs_from_the_schema(entry, code, every_structure):
    assert code in codes(check(every_structure, parse_schema(f"memories: {{{entry}}}")))


def test_memories_without_pages_are_a_note(every_structure):
    report = check(every_structure, parse_schema("memories: {9: {name: x, kind: vec}}"))
    assert [found.severity for found in report.findings if found.code == "memory-missing"] == ["note"]


# A manager that is no longer there

MESSAGE = b"DIDL\x01\x6d\x78\x01\x00\x03" + bytes(range(24))


def managed(ids, bucket_wasm_pages=128):
    """A manager with a map in each of `ids`, one bucket each."""
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=bucket_wasm_pages)
    for number in ids:
        found = StableBTreeMap.create(manager.get(number), types.u64, types.u64)
        found.update((key, key) for key in range(300))
    return bytearray(memory.data)


@pytest.mark.parametrize(
    ("ids", "bucket_wasm_pages", "message", "holds"),
    [
        ([0, 1], 128, MESSAGE, "a Candid message (stable_save)"),
        ([0, 1, 7], 16, MESSAGE * 50, "a Candid message (stable_save)"),
        ([0, 1], 1, len(MESSAGE).to_bytes(4, "little") + MESSAGE, "a Candid message (stable_save)"),
        ([0], 128, MESSAGE, "a Candid message (stable_save)"),
        ([3], 128, b"\xa1" * 2000, "other bytes"),
        ([0, 1], 128, bytes(65536), "zeros"),
        ([0, 1], 128, b"\xa1" * 65536, "other bytes"),
    ],
)
def test_a_manager_that_was_overwritten(ids, bucket_wasm_pages, message, holds):
    data = managed(ids, bucket_wasm_pages)
    assert codes(check(bytes(data))) <= {"waste"}
    data[: len(message)] = message
    [finding] = check(bytes(data)).errors
    assert (finding.code, finding.label, finding.address) == ("manager-overwritten", "manager", 0)
    assert finding.message.startswith(f"page 0 holds {holds} where structures at page:1")
    assert (f"of {bucket_wasm_pages}-page buckets" in finding.message) == (len(ids) > 1 and bucket_wasm_pages > 1)


def test_structures_that_never_had_a_manager():
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.u64).update((key, key) for key in range(300))
    assert codes(check(bytes(memory.data))) <= {"waste"}
    for start, again in ((1, 0), (3, 0), (129, 0), (1, 8), (3, 7)):
        data = bytearray(start * 65536)
        data[0:5] = b"\1\2\3\4\5"
        data += memory.data
        data += (bytes(again * 65536 - len(memory.data)) + memory.data) if again else b""
        assert codes(check(bytes(data))) <= {"waste"}, (start, again)


# Nothing the real library wrote is an error


def test_no_error_on_any_vector(vectors, vector):
    paths = [path for path in vectors.rglob("*.gz") if path.suffixes[-2] in (".bin", ".golden", ".dump")]
    assert len(paths) > 12
    for path in paths:
        report = check(vector(str(path.relative_to(vectors)).removesuffix(".gz")))
        assert report.errors == [], path.name


@pytest.mark.parametrize("name", ["u64_u64", "vec_vec", "b3_unit_set", "v1_blob10_blob10"])
def test_facts_are_what_the_manifest_says(name, vector, manifest):
    said = manifest["maps"][name]
    facts = check(vector(f"maps/{name}.bin")).facts["page:0"]
    assert (facts.entries, facts.depth) == (said["len"], said["depth"])
    assert (facts.nodes_v1, facts.nodes_v2, facts.chunks) == (said["nodes_v1"], said["nodes_v2"], said["chunks"])


# Hostile memories


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_damage_ends_in_findings(sound, data):
    damaged = bytearray(sound)
    span = data.draw(st.sampled_from([100, 2000, len(sound)]))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, span - 1))] = data.draw(st.integers(0, 255))
    check(damaged, SCHEMA)
    check(damaged[: data.draw(st.integers(0, len(damaged)))], SCHEMA)


def test_random_bytes_behind_a_sound_header(sound):
    randomly = random.Random(5)
    for _ in range(3):
        check(sound[:FIRST_CHUNK_ADDRESS] + randomly.randbytes(200_000), SCHEMA)


def test_each_node_its_own_parent(sound, places):
    """Every internal node points at every other: as many paths as there could be, each node read once."""
    data = bytearray(sound)
    for address in places.internal:
        count = number(data, address + 5, 2)
        for child in range(count + 1):
            put(data, address + 15 + 8 * child, places.internal[child % len(places.internal)])
    report = check(data, SCHEMA)
    assert {"node-shared", "entry-count"} <= codes(report)


def test_buckets_out_of_order(every_structure, schema_text):
    """Memories whose buckets do not follow one another are read as well."""
    memory = BytesMemory(every_structure)
    report = fsck(find_in_memory(memory), parse_schema(schema_text))
    assert report.errors == []
    assert report.facts["1"].entries == 300


class Plain:
    """A memory that cannot be viewed, only read."""

    def __init__(self, data: bytes) -> None:
        self._memory = ReadOnlyMemory(data)
        self.size, self.read = self._memory.size, self._memory.read
        self.grow, self.write = self._memory.grow, self._memory.write


def test_a_memory_without_views(sound):
    report = fsck(find_in_memory(Plain(sound)), SCHEMA)
    assert report.errors == []
    assert report.facts["page:0"].entries == 576


def test_findings_give_addresses_in_memory_and_dump(every_structure, look):
    data = bytearray(every_structure)
    region = look(every_structure).structure("1").region
    root = struct.unpack("<Q", region.read(12, 8))[0]
    data[region.below_address(root)] = 0
    finding = next(finding for finding in check(data).errors if finding.code == "node-header")
    assert (finding.label, finding.address, finding.below_address) == ("1", root, region.below_address(root))


def test_an_empty_map_of_large_pages_is_sound(build):
    report = check(build.map(types.FixedBytes(100_000), types.u8, []))
    assert report.errors == []
