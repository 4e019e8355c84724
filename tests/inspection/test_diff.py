import random
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import HostError, MalformedError
from perdure.inspection import deadline as deadline_module
from perdure.inspection import diff as diff_module
from perdure.inspection.deadline import Deadline
from perdure.inspection.diff import ByteRun, Change, diff
from perdure.inspection.find import find, find_in_memory
from perdure.inspection.open import open_source
from perdure.inspection.pages import ChangedPages, changed_pages
from perdure.inspection.source import Layer
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableLog, StableVec, types
from perdure.stable.region import Region, Run
from perdure.values.schema import parse_schema


def compare(before, after, schema=None, **options):
    inventories = [find_in_memory(ReadOnlyMemory(data)) for data in (before, after)]
    return {found.label: found for found in diff(*inventories, schema, **options)}


def model_diff(before, after):
    return {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    }


def as_model(changes):
    return {change.key: (change.before, change.after) for change in changes}


SIZES = st.integers(0, 30) | st.sampled_from([900, 1100, 2500])


@given(
    st.sampled_from([types.raw, types.FixedBytes(4)]),
    st.lists(st.tuples(st.integers(0, 400), SIZES), max_size=120),
    st.lists(st.tuples(st.integers(0, 400), st.none() | SIZES), max_size=20),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_pages_first_finds_what_a_full_scan_finds(key_type, entries, changes, other_memory):
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    mapping = StableBTreeMap.create(manager.get(0), key_type, types.raw)
    noise = StableVec.create(manager.get(1), types.FixedBytes(8192))
    for key, size in entries:
        mapping[key.to_bytes(4, "big")] = bytes([key % 251]) * size
        if other_memory:
            noise.push(bytes(8192))
    before, old = bytes(memory.data), dict(mapping)
    for key, size in changes:
        if size is None:
            mapping.pop(key.to_bytes(4, "big"), None)
        else:
            mapping[key.to_bytes(4, "big")] = bytes([size % 255]) * size
    expected = model_diff(old, dict(mapping))
    after = bytes(memory.data)
    key = "bytes" if key_type is types.raw else "[u8; 4]"
    schema = parse_schema(f'memories: {{0: {{name: m, kind: btreemap, key: "{key}", value: raw}}}}')
    by_pages, by_scan = compare(before, after, schema), compare(before, after, schema, full_scan=True)
    assert as_model(by_pages["0"].changes) == expected
    assert by_pages["0"].changes == by_scan["0"].changes
    assert by_pages["0"].status == ("changed" if expected else "same")


def test_version_1_maps(vector):
    data = vector("maps/v1_blob10_blob10.bin")
    memory = BytesMemory(data)
    mapping = StableBTreeMap.load(memory, types.Blob(10), types.Blob(10))
    old = dict(mapping)
    keys = list(mapping)
    for key in keys[::100]:
        del mapping[key]
    mapping[b"new"] = b"value"
    found = compare(data, bytes(memory.data))["page:0"]
    assert as_model(found.changes) == model_diff(old, dict(mapping))
    assert (found.count("removed"), found.count("added"), found.count("changed")) == (len(keys[::100]), 1, 0)


def test_changes_come_in_the_order_of_the_keys(build):
    people = [types.Principal(bytes([200 - n] * (n + 1))) for n in range(20)]
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: principal, value: u64}}')
    found = compare(
        build.map(types.principal, types.u64, []),
        build.map(types.principal, types.u64, [(p, 1) for p in people]),
        schema,
    )
    assert [change.key for change in found["page:0"].changes] == [person.raw_bytes for person in people]


def test_arrays_and_logs():
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    vec = StableVec.create(manager.get(0), types.u64)
    vec.extend(range(5000))
    log = StableLog.create(manager.get(1), manager.get(2), types.text)
    log.extend(["one", "two"])
    before = bytes(memory.data)
    vec[17], vec[4000] = 1, 2
    vec.push(3)
    log.append("three")
    for full_scan in (False, True):
        found = compare(before, bytes(memory.data), full_scan=full_scan)
        numbers = {place: (old, new) for place, (old, new) in as_model(found["0"].changes).items()}
        assert {place: new and int.from_bytes(new, "big") for place, (_, new) in numbers.items()} == {
            17: 1,
            4000: 2,
            5000: 3,
        }
        assert found["1"].changes == [Change(2, None, b"three")]
    shrunk = compare(bytes(memory.data), before)
    assert shrunk["0"].count("removed") == 1


def test_what_is_there_in_one_only(every_structure, vector):
    found = compare(every_structure, vector("misc/mm.bin"))
    assert found["1"].status == "removed"
    assert found["254"].status == "added"
    assert found["0"].status == "replaced"


def test_keys_that_only_one_of_the_two_explains(build):
    few, many = ([(n, b"x" * n) for n in range(count)] for count in (1, 40))
    found = compare(build.map(types.u64, types.raw, few), build.map(types.u64, types.raw, many))
    assert found["page:0"].count("added") == 39
    found = compare(build.map(types.u64, types.raw, []), build.map(types.u64, types.raw, few))
    assert found["page:0"].status == "unread"


def test_bytes_without_meaning(look):
    found = compare(b"one" + bytes(70_000), b"two" + bytes(70_000))
    assert found["page:0"].status == "unread"
    assert list(found["page:0"].byte_runs()) == [ByteRun(0, 3, b"one", b"two")]


def test_where_bytes_without_meaning_differ():
    before = bytearray(b"?" * (4 * 65_536))
    after = bytearray(before)
    after[5] = 0  # a byte, a run over three pages, and the end, which the other does not have
    after[0x5FFF:0x8001] = bytes(0x2002)
    found = compare(bytes(before), bytes(after) + b"more" + bytes(65_532))["page:0"]
    assert (found.status, found.pages[2], found.run_count) == ("unread", 1 + 4 + 16, 3)
    assert list(found.byte_runs()) == [
        ByteRun(5, 1, b"?", b"\0"),
        ByteRun(0x5FFF, 0x2002, b"?" * 16, bytes(16)),
        ByteRun(0x40000, 65_536, b"", b"more" + bytes(12)),
    ]


def test_equal_memories(every_structure):
    assert {found.status for found in compare(every_structure, every_structure).values()} == {"same"}
    assert {found.status for found in compare(every_structure, every_structure, full_scan=True).values()} == {"same"}


def test_the_same_file_is_not_read(tmp_path, every_structure):
    path = tmp_path / "dump.bin"
    path.write_bytes(every_structure)
    with open_source(str(path)) as one, open_source(str(path)) as other:
        assert {found.pages[1] for found in diff(find(one), find(other))} == {0}


def test_damage_is_told(build):
    before = build.map(types.u64, types.u64, [(n, n) for n in range(200)])
    after = bytearray(before)
    root = int.from_bytes(before[12:20], "little")
    after[root + 15 : root + 23] = after[root + 23 : root + 31]
    with pytest.raises(MalformedError):
        compare(before, after)
    after = bytearray(before)
    after[root] = 0
    with pytest.raises(MalformedError):
        compare(before, after)


# Pages


def test_changed_pages_in_scattered_buckets():
    randomly = random.Random(1)
    size = 8 * WASM_PAGE_BYTES
    data = randomly.randbytes(size)
    changed = bytearray(data)
    for address in (0, 5 * PAGE_BYTES + 1, size - 1):
        changed[address] ^= 1
    buckets = list(range(8))
    randomly.shuffle(buckets)
    scattered = bytearray(size)
    for place, bucket in enumerate(buckets):
        piece = changed[place * WASM_PAGE_BYTES : (place + 1) * WASM_PAGE_BYTES]
        scattered[bucket * WASM_PAGE_BYTES : (bucket + 1) * WASM_PAGE_BYTES] = piece
    one = Region.whole(ReadOnlyMemory(data))
    other = Region(ReadOnlyMemory(scattered), [Run(bucket * WASM_PAGE_BYTES, WASM_PAGE_BYTES) for bucket in buckets])
    found = changed_pages(one, other, [(0, size)], [(0, size)])
    assert found.ranges.tolist() == [[0, 1], [5, 6], [size // PAGE_BYTES - 1, size // PAGE_BYTES]]
    assert found.compared == size // PAGE_BYTES
    touched = found.touches(np.array([PAGE_BYTES, 5 * PAGE_BYTES - 10, size + 5]), 20)
    assert touched.tolist() == [False, True, False]


def test_holes_and_shared_layers_are_skipped():
    size = 4 * WASM_PAGE_BYTES
    data = bytearray(size)
    data[WASM_PAGE_BYTES] = 1
    other = bytearray(data)
    other[3 * WASM_PAGE_BYTES] = 7
    regions = [Region.whole(ReadOnlyMemory(found)) for found in (data, other)]
    holes = (
        [(WASM_PAGE_BYTES, 2 * WASM_PAGE_BYTES)],
        [(WASM_PAGE_BYTES, 2 * WASM_PAGE_BYTES), (3 * WASM_PAGE_BYTES, size)],
    )
    found = changed_pages(*regions, *holes)
    assert (found.compared, found.count) == (32, 1)
    base = Layer(0, 3 * WASM_PAGE_BYTES, (1, 2), 0)
    top = Layer(3 * WASM_PAGE_BYTES, WASM_PAGE_BYTES, (1, 3), 0)
    found = changed_pages(*regions, [(0, size)], [(0, size)], [base], [base, top])
    assert (found.compared, found.count) == (16, 1)
    shifted = Layer(0, size, (1, 2), PAGE_BYTES)
    assert changed_pages(*regions, [(0, size)], [(0, size)], [base], [shifted]).compared == 64
    assert changed_pages(regions[0], Region(regions[1].below, []), *holes).count == 64


class Sparse:
    """Zeros as far as one likes, and a few bytes at the start; what is read is noted."""

    def __init__(self, data, size_bytes):
        self.data, self.size_bytes, self.read_bytes = data, size_bytes, 0

    def size(self):
        return self.size_bytes // WASM_PAGE_BYTES

    def read(self, address, size_bytes):
        self.read_bytes += size_bytes
        return self.data[address : address + size_bytes].ljust(size_bytes, b"\0")


def test_what_is_apparent_only_takes_neither_time_nor_memory():
    data = random.Random(2).randbytes(WASM_PAGE_BYTES)
    changed = bytearray(data)
    changed[PAGE_BYTES] ^= 1
    small, huge = Sparse(data, WASM_PAGE_BYTES), Sparse(bytes(changed), 512 << 30)
    extents = [(0, WASM_PAGE_BYTES)]
    tracemalloc.start()
    found = changed_pages(Region.whole(small), Region.whole(huge), extents, extents)
    assert found.touches(np.array([0, PAGE_BYTES, 400 << 30]), 1).tolist() == [False, True, True]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.ranges.tolist() == [[1, 2], [16, (512 << 30) // PAGE_BYTES]]
    assert (found.total, found.count) == ((512 << 30) // PAGE_BYTES, 1 + (512 << 30) // PAGE_BYTES - 16)
    assert huge.read_bytes == WASM_PAGE_BYTES
    assert peak < 4 << 20


def test_touching_agrees_with_a_flag_for_each_page():
    draw = random.Random(3)
    for _ in range(50):
        flags = np.array([draw.random() < 0.3 for _ in range(40)])
        edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)).reshape(-1, 2)
        found = ChangedPages(40, edges, 0)
        addresses, size = np.array([draw.randrange(45 * PAGE_BYTES) for _ in range(20)]), draw.choice([1, 5000, 20000])
        expected = [
            bool(flags[at // PAGE_BYTES : (at + size - 1) // PAGE_BYTES + 1].any()) for at in addresses.tolist()
        ]
        assert found.touches(addresses, size).tolist() == expected
        assert found.count == flags.sum()


class Once:
    """A clock that stands still for some looks, and then is far ahead."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def monotonic(self) -> float:
        self.left -= 1
        return 0.0 if self.left >= 0 else 1e9


@pytest.fixture
def many(build):
    """Two states of a memory manager's memories: maps of which entries and sizes differ, and bytes."""
    one, two = ([(n, b"x" * (n + more) * 3) for n in range(400)] for more in (0, 1))
    return build.map(types.u64, types.raw, one), build.map(types.u64, types.raw, two)


@pytest.mark.parametrize("full_scan", [False, True])
def test_a_deadline_is_seen_wherever_it_passes(many, monkeypatch, full_scan):
    old, new = (find_in_memory(ReadOnlyMemory(one)) for one in many)
    whole = list(diff(old, new, full_scan=full_scan))
    assert len(whole[0].changes) == 400
    for looks in range(1, 1_000):
        clock = Once(looks)
        monkeypatch.setattr(deadline_module, "time", clock)
        try:
            found = list(diff(old, new, full_scan=full_scan, deadline=Deadline(5)))
        except HostError:
            continue
        assert [one.changes for one in found] == [one.changes for one in whole]
        break
    assert looks > 10
    assert clock.left >= 0


def test_what_cannot_be_compared_in_time_is_not_begun(many, monkeypatch):
    monkeypatch.setattr(diff_module, "_MOST_IN_A_HURRY", 399)
    old, new = (find_in_memory(ReadOnlyMemory(one)) for one in many)
    with pytest.raises(HostError, match=r"400 entries are not compared within 60 s"):
        list(diff(old, new, full_scan=True, deadline=Deadline(60)))
    assert list(diff(old, new, full_scan=True))
