from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory
from perdure.stable import GrowFailedError, MemoryManager, StableBTreeMap, types

BLOB = types.Blob(10)


def build(entries, key=types.u32, value=types.text, **options):
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, key, value, **options)
    mapping.update(entries)
    return memory, mapping


def assert_sound(mapping):
    """Nodes, order, depth and the accounting of chunks agree."""
    nodes = list(mapping.nodes())
    used = [page for node in nodes for page in (node.address, *node.overflow)]
    free = list(mapping.free_chunks())
    marked = dict(mapping.chunks())
    assert sorted(used) == sorted(address for address, allocated in marked.items() if allocated)
    assert sorted(free) == sorted(address for address, allocated in marked.items() if not allocated)
    assert mapping.header.allocator.allocated_chunks == len(used)
    assert sum(len(node.keys) for node in nodes) == len(mapping)
    assert len({node.depth for node in nodes if node.is_leaf}) <= 1
    assert all(5 <= len(node.keys) <= 11 for node in nodes if node.depth)
    assert all(len(node.children) == len(node.keys) + 1 for node in nodes if not node.is_leaf)
    order = types.order_of(mapping.key_type)
    keys = [order(key) for key, _ in mapping.raw_range()]
    assert all(first < second for first, second in pairwise(keys))


def test_mapping_protocol():
    _, mapping = build({7: "seven", 3: "three", 9: "nine"})
    assert mapping[3] == "three"
    assert mapping.get(4) is None
    assert mapping.get(4, "none") == "none"
    assert 7 in mapping
    assert 8 not in mapping
    assert "seven" not in mapping
    assert -1 not in mapping
    assert list(mapping) == list(mapping.keys()) == [3, 7, 9]
    assert list(mapping.values()) == ["three", "seven", "nine"]
    assert list(mapping.items()) == [(3, "three"), (7, "seven"), (9, "nine")]
    assert list(reversed(mapping)) == list(reversed(mapping.keys())) == [9, 7, 3]
    assert list(reversed(mapping.values())) == ["nine", "seven", "three"]
    assert next(iter(reversed(mapping.items()))) == (9, "nine")
    assert mapping == {3: "three", 7: "seven", 9: "nine"}
    assert mapping != {3: "three"}
    assert mapping.setdefault(5, "five") == "five"
    assert mapping.pop(5) == "five"
    assert mapping.pop(5, None) is None
    assert mapping.pop(5, default="x") == "x"
    assert mapping.popitem() == (9, "nine")
    del mapping[3]
    assert len(mapping) == 1
    for missing in (lambda: mapping[1], lambda: mapping.pop(1), lambda: mapping.__delitem__(1)):
        with pytest.raises(KeyError, match="1"):
            missing()
    mapping.clear()
    assert not mapping
    assert mapping.is_empty()
    with pytest.raises(KeyError):
        mapping.popitem()
    assert "u32 -> String" in repr(mapping)


def test_names_of_the_crate():
    _, mapping = build({})
    assert mapping.first_key_value() is mapping.last_key_value() is mapping.pop_first() is mapping.pop_last() is None
    assert mapping.insert(1, "a") is None
    assert mapping.insert(1, "b") == "a"
    mapping.insert(2, "c")
    assert mapping.contains_key(2)
    assert mapping.first_key_value() == (1, "b")
    assert mapping.last_key_value() == (2, "c")
    assert mapping.remove(1) == "b"
    assert mapping.remove(1) is None
    assert mapping.pop_first() == (2, "c")
    mapping.insert(3, "d")
    mapping.clear_new()
    assert len(mapping) == 0
    assert list(mapping.nodes()) == []


@pytest.mark.parametrize("low", [None, 0, 37, 38, 500, 999, 2000])
@pytest.mark.parametrize("high", [None, 0, 37, 38, 501, 999, 2000])
def test_range(low, high):
    keys = range(1, 1000, 2)
    _, mapping = build(dict.fromkeys(keys, ""), value=types.text)
    for include_high in (False, True):
        expected = [
            key
            for key in keys
            if (low is None or low <= key) and (high is None or key < high or (include_high and key == high))
        ]
        assert list(mapping.keys_range(low, high, include_high=include_high)) == expected
        assert list(mapping.keys_range(low, high, reverse=True, include_high=include_high)) == expected[::-1]
    assert len(list(mapping.values_range(low, high))) == len(list(mapping.range(low, high)))


def test_iter_from_prev_key():
    _, mapping = build({key: str(key) for key in range(0, 100, 10)})
    assert [key for key, _ in mapping.iter_from_prev_key(45)][:2] == [40, 50]
    assert next(mapping.iter_from_prev_key(40))[0] == 30
    assert list(mapping.iter_from_prev_key(0)) == []
    assert next(mapping.iter_from_prev_key(1000))[0] == 90


def test_keys_of_options_have_a_previous_key():
    _, mapping = build({None: "none", "a": "A"}, key=types.Option(types.text))
    assert list(mapping) == [None, "a"]
    assert list(mapping.iter_from_prev_key("a")) == [(None, "none"), ("a", "A")]
    assert list(mapping.iter_from_prev_key(None)) == []


def test_principals_are_ordered_by_length_first():
    principals = [Principal(raw) for raw in (b"\x01\x00", b"\xff", b"", b"\x00\x00\x00", b"\x02")]
    _, mapping = build(dict.fromkeys(principals, ""), key=types.principal)
    assert [bytes(principal) for principal in mapping] == [b"", b"\x02", b"\xff", b"\x01\x00", b"\x00\x00\x00"]
    assert all(principal in mapping for principal in principals)


def test_changing_while_iterating_is_refused():
    _, mapping = build(dict.fromkeys(range(50), ""))
    keys = iter(mapping)
    del mapping[next(keys)]
    with pytest.raises(RuntimeError, match="changed"):
        next(keys)


def test_load_never_creates_and_create_never_overwrites():
    with pytest.raises(MalformedError, match="header of 100 bytes lies outside"):
        StableBTreeMap.load(BytesMemory(), types.u8, types.u8)
    foreign = BytesMemory(b"someone else's bytes")
    before = bytes(foreign.data)
    with pytest.raises(MalformedError, match="bad magic b'som', expected b'BTR'"):
        StableBTreeMap.init(foreign, types.u8, types.u8)
    with pytest.raises(ValueError, match="overwrite=True"):
        StableBTreeMap.create(foreign, types.u8, types.u8)
    assert bytes(foreign.data) == before
    StableBTreeMap.create(foreign, types.u8, types.u8, overwrite=True)[1] = 2
    assert dict(StableBTreeMap.init(foreign, types.u8, types.u8)) == {1: 2}
    assert len(StableBTreeMap.init(BytesMemory(bytes(10)), types.u8, types.u8)) == 0


def test_bounds_are_refused_before_anything_is_written():
    memory, mapping = build({}, key=types.Blob(3), value=types.Option(types.u64))
    before = bytes(memory.data)
    for key, value in ((b"1234", 5), (b"1", None)):
        with pytest.raises(ValueError, match="takes"):
            mapping[key] = value
    assert bytes(memory.data) == before


def test_map_of_version_1_refuses_what_the_crate_would_corrupt():
    memory, mapping = build({bytes([number]): b"0123456789" for number in range(30)}, BLOB, BLOB, version=1)
    wider = StableBTreeMap.load(memory, BLOB, types.raw)
    before = bytes(memory.data)
    with pytest.raises(ValueError, match="overwrite other entries"):
        wider[b"\x03"] = bytes(100)
    assert bytes(memory.data) == before
    wider[b"\x03"] = b"short"
    assert mapping[b"\x03"] == b"short"
    with pytest.raises(ValueError, match="of at most 10 bytes, a u64 has 8"):
        StableBTreeMap.load(memory, types.u64, BLOB)
    with pytest.raises(ValueError, match="bounded"):
        StableBTreeMap.create(BytesMemory(), types.raw, BLOB, version=1)
    with pytest.raises(ValueError, match="born with version 1"):
        StableBTreeMap.load(build({1: ""})[0], types.u32, types.text, node_version=1)


def test_an_operation_that_fails_leaves_the_bytes():
    memory = BytesMemory(max_wasm_pages=2)
    mapping = StableBTreeMap.create(memory, types.u32, types.raw)
    for key in range(40):
        mapping[key] = bytes(700)
    before, entries = bytes(memory.data), dict(mapping)
    with pytest.raises(GrowFailedError, match="cannot grow"):
        mapping[7] = bytes(200_000)
    assert bytes(memory.data)[: len(before)] == before
    assert dict(mapping) == entries
    mapping[7] = b"after"
    assert mapping[7] == b"after"
    assert_sound(mapping)


def test_read_only_memory():
    memory, _ = build({1: "one"})
    mapping = StableBTreeMap.load(ReadOnlyMemory(bytes(memory.data)), types.u32, types.text)
    assert mapping[1] == "one"
    with pytest.raises(PermissionError):
        mapping[2] = "two"
    assert dict(mapping) == {1: "one"}


def test_two_handles_see_each_other():
    memory, first = build({})
    second = StableBTreeMap.load(memory, types.u32, types.text)
    first.update({key: str(key) for key in range(100)})
    assert len(second) == 100
    second[5] = "changed"
    del second[6]
    assert first[5] == "changed"
    assert 6 not in first
    StableBTreeMap.create(memory, types.raw, types.u8, overwrite=True)
    StableBTreeMap.create(memory, types.u8, types.u8, overwrite=True)
    with pytest.raises(MalformedError, match="another map"):
        len(first)


def test_removing_everything_frees_every_chunk():
    _, mapping = build(dict.fromkeys(range(100), "x" * 3000))
    for key in range(100):
        del mapping[key]
    assert mapping.header.allocator.allocated_chunks == 0
    assert mapping.header.root == 0
    assert_sound(mapping)


@pytest.mark.parametrize("count", [0, 1, 11, 12, 13, 71, 72, 143, 144, 145, 1000, 1727, 1728, 5000])
def test_bulk_load(count):
    _, mapping = build({})
    mapping.bulk_load((key * 7919 % 100_003, str(key)) for key in range(count))
    assert dict(mapping) == {key * 7919 % 100_003: str(key) for key in range(count)}
    assert_sound(mapping)
    for key in list(mapping)[::3]:
        del mapping[key]
    mapping[5] = "five"
    assert_sound(mapping)


def test_bulk_load_refuses_a_map_that_is_not_empty():
    _, mapping = build({1: "one"})
    with pytest.raises(ValueError, match="empty"):
        mapping.bulk_load([(2, "two")])


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        ((0, b"BTX"), MalformedError, "bad magic b'BTX', expected b'BTR' (at offset 0x0)"),
        ((3, b"\x03"), UnsupportedError, "map version 3, expected 1 or 2"),
        ((4, b"\x10\0\0\0"), MalformedError, "page size 16, expected at least 128"),
        ((4, b"\0\x20\0\0"), MalformedError, "chunks of 1024 bytes, expected the page size 8192"),
        ((8, b"\0\0\0\0"), UnsupportedError, "beta"),
        ((20, b"\xff" * 8), MalformedError, "18446744073709551615 entries in 1 chunks"),
        ((20, b"\0" * 8), MalformedError, "0 entries with the root at address 0x74"),
        ((52, b"BTX"), MalformedError, "bad magic b'BTX', expected b'BTA' (at offset 0x34)"),
        ((68, b"\xff\xff"), MalformedError, "65535 chunks allocated, the memory has room for 63"),
    ],
)
def test_damaged_header(damage, error, message):
    memory, _ = build({1: "one"})
    memory.write(*damage)
    with pytest.raises(error) as caught:
        StableBTreeMap.load(memory, types.u32, types.text)
    assert message in str(caught.value)


def test_map_of_motoko_is_named():
    memory, _ = build({b"k": b"v"}, BLOB, BLOB, version=1)
    data = bytes(memory.data)
    swapped = bytearray(data)
    for start, size in ((4, 4), (8, 4), (12, 8), (20, 8), (60, 8), (68, 8), (76, 8)):
        swapped[start : start + size] = data[start : start + size][::-1]
    with pytest.raises(UnsupportedError, match="MotokoStableBTree"):
        StableBTreeMap.load(BytesMemory(swapped), BLOB, BLOB)


def test_circles_end():
    memory, mapping = build(dict.fromkeys(range(200), ""))
    root = mapping.header.root
    child = next(mapping.nodes()).children[0]
    memory.write(child, memory.read(root, mapping.header.page_bytes))
    for read in (lambda: list(mapping), lambda: mapping[0], lambda: list(mapping.nodes()), mapping.columns):
        with pytest.raises(MalformedError):
            read()
    memory.write(root + 15, root.to_bytes(8, "little") * 12)
    for read in (lambda: list(mapping), lambda: mapping[0], mapping.pop_first, lambda: list(mapping.nodes())):
        with pytest.raises(MalformedError):
            read()


@pytest.mark.parametrize("value", [b"", b"value", bytes(300)], ids=["keys alone", "short", "long"])
def test_a_batch_is_the_first_of_a_range(value):
    chance = Random(4)
    keys = sorted({chance.randbytes(chance.choice((1, 2, 40))) for _ in range(250 if len(value) > 9 else 700)})
    mapping = StableBTreeMap.create(BytesMemory(), types.raw, types.raw)
    for key in chance.sample(keys, len(keys)):
        mapping[key] = value
    for _ in range(200):
        low, high = (chance.choice((None, chance.choice(keys), chance.randbytes(2))) for _ in "lh")
        expected = [(key, value) for key in keys if (low is None or low <= key) and (high is None or key < high)]
        most = chance.choice((1, 2, 16, 1_000))
        assert mapping.batch(low, high, most) == expected[:most]


def test_a_batch_of_keys_that_do_not_ascend():
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.raw, types.raw)
    mapping.update({bytes([number]): b"" for number in range(200)})
    root = next(mapping.nodes())
    memory.write(root.children[3], memory.read(root.children[0], 1024))
    with pytest.raises(MalformedError, match="ascend"):
        mapping.batch(None, None, 200)
    memory.write(root.address + 15, root.address.to_bytes(8, "little") * len(root.children))
    for low in (None, b"\x80"):
        with pytest.raises(MalformedError, match="reached twice"):
            mapping.batch(low, None, 200)


def test_circle_of_overflow_pages_ends():
    memory, mapping = build({1: "x" * 5000})
    pages = next(mapping.nodes()).overflow
    memory.write(pages[-1] + 3, pages[0].to_bytes(8, "little"))
    for read in (lambda: mapping[1], lambda: list(mapping.nodes()), mapping.columns):
        with pytest.raises(MalformedError):
            read()


def test_circle_in_the_free_list_ends():
    memory, mapping = build(dict.fromkeys(range(30), "x" * 900))
    for key in range(20):
        del mapping[key]
    first, second, *_ = mapping.free_chunks()
    memory.write(second - 8, (first - 16).to_bytes(8, "little"))
    with pytest.raises(MalformedError, match="circle"):
        list(mapping.free_chunks())


@pytest.mark.parametrize("bucket_wasm_pages", [1, 3])
def test_in_a_memory_manager(bucket_wasm_pages):
    manager = MemoryManager.create(BytesMemory(), bucket_wasm_pages=bucket_wasm_pages)
    plain, mapping = build({})
    virtual = StableBTreeMap.create(manager.get(4), types.u32, types.text)
    other = StableBTreeMap.create(manager.get(9), types.u32, types.text)
    for key in range(600):
        for each in (mapping, virtual, other):
            each[key * 31 % 1009] = "v" * (key % 300)
    assert manager.get(4).read(0, manager.get(4).size() * WASM_PAGE_BYTES) == bytes(plain.data)
    loaded = StableBTreeMap.load(MemoryManager.load(manager.memory).get(9), types.u32, types.text)
    assert loaded == mapping


KINDS = {
    "V2 variable": (types.raw, types.raw, 2, st.binary(max_size=3), st.binary(max_size=1500)),
    "V2 fixed": (types.u16, types.u64, 2, st.integers(0, 400), st.integers(0, 2**64 - 1)),
    "V2 bounded": (BLOB, types.Blob(300), 2, st.binary(max_size=10), st.binary(max_size=300)),
    "V2 reverse": (types.Reverse(types.u16), types.unit, 2, st.integers(0, 400), st.just(())),
    "V1": (BLOB, BLOB, 1, st.binary(max_size=2), st.binary(max_size=10)),
    "V1 then V2": (types.Blob(40), types.Blob(100), 1, st.binary(max_size=2), st.binary(max_size=100)),
}


def machine(kind):
    key_type, value_type, version, keys, values = KINDS[kind]

    class MapMachine(RuleBasedStateMachine):
        @initialize(entries=st.dictionaries(keys, values, max_size=120), migrates=st.booleans())
        def create(self, entries, migrates):
            self.memory = BytesMemory()
            self.model = dict(entries)
            self.map = StableBTreeMap.create(self.memory, key_type, value_type, version=version)
            self.map.update(entries)
            self.node_version = 2 if kind == "V1 then V2" else version

        @rule()
        def reopen(self):
            self.map = StableBTreeMap.load(self.memory, key_type, value_type, node_version=self.node_version)

        @rule(key=keys, value=values)
        def insert(self, key, value):
            assert self.map.insert(key, value) == self.model.get(key)
            self.model[key] = value

        @rule(key=keys)
        def remove(self, key):
            assert self.map.remove(key) == self.model.pop(key, None)

        @precondition(lambda self: self.model)
        @rule(data=st.data())
        def remove_many(self, data):
            for key in data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True, max_size=60)):
                del self.map[key]
                del self.model[key]

        @rule(key=keys)
        def get(self, key):
            assert self.map.get(key) == self.model.get(key)
            assert (key in self.map) == (key in self.model)

        @rule(last=st.booleans())
        def pop(self, last):
            popped = self.map.pop_last() if last else self.map.pop_first()
            if not self.model:
                assert popped is None
                return
            expected = self.sorted()[-1 if last else 0]
            assert popped == (expected, self.model.pop(expected))

        @rule(low=keys, high=keys, reverse=st.booleans(), include_high=st.booleans())
        def range_between(self, low, high, reverse, include_high):
            found = list(self.map.keys_range(low, high, reverse=reverse, include_high=include_high))
            first, last = self.rank(low), self.rank(high)
            chosen = [key for key in self.sorted() if first <= self.rank(key)]
            chosen = [key for key in chosen if self.rank(key) < last or (include_high and key == high)]
            assert found == (chosen[::-1] if reverse else chosen)

        @rule()
        def clear(self):
            self.map.clear()
            self.model.clear()

        @rule()
        def columns_agree(self):
            columns = self.map.columns()
            assert list(zip(columns.keys, columns.values, strict=True)) == list(self.map.items())

        @invariant()
        def agrees(self):
            if hasattr(self, "map"):
                assert dict(self.map) == self.model

        def teardown(self):
            if hasattr(self, "map"):
                assert_sound(self.map)

        def rank(self, key):
            return types.order_of(key_type)(key_type.encode(key))

        def sorted(self):
            return sorted(self.model, key=self.rank)

    MapMachine.TestCase.settings = settings(
        max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
    )
    return MapMachine.TestCase


TestVersion2Variable = machine("V2 variable")
TestVersion2Fixed = machine("V2 fixed")
TestVersion2Bounded = machine("V2 bounded")
TestVersion2Reverse = machine("V2 reverse")
TestVersion1 = machine("V1")
TestVersion1Then2 = machine("V1 then V2")


def test_every_error_is_of_perdure():
    assert issubclass(GrowFailedError, PerdureError)
