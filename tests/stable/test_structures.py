"""Vec, MinHeap, Log, Cell and BTreeSet beside their Python models."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from perdure.errors import MalformedError, UnsupportedError
from perdure.memory import BytesMemory
from perdure.stable import (
    GrowFailedError,
    StableBTreeSet,
    StableCell,
    StableLog,
    StableMinHeap,
    StableVec,
    types,
)

BLOB = types.Blob(300)
SETTINGS = settings(max_examples=25, stateful_step_count=25, deadline=None)


class VecMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.memory, self.model = BytesMemory(), []
        self.vec = StableVec.create(self.memory, BLOB)

    @rule(values=st.lists(st.binary(max_size=300), min_size=1, max_size=5))
    def extend(self, values):
        self.vec.extend(values)
        self.model.extend(values)

    @rule()
    def pop(self):
        assert self.vec.pop() == (self.model.pop() if self.model else None)

    @rule(index=st.integers(-6, 6), value=st.binary(max_size=300))
    def set(self, index, value):
        if -len(self.model) <= index < len(self.model):
            self.vec[index] = self.model[index] = value
            assert self.vec[index] == value
        else:
            with pytest.raises(IndexError, match=r"index .* in a vector"):
                self.vec[index] = value

    @rule(bounds=st.slices(8))
    def slice(self, bounds):
        assert self.vec[bounds] == self.model[bounds]

    @rule()
    def reopen(self):
        self.vec = StableVec.load(self.memory, BLOB)

    @rule()
    def clear(self):
        self.vec.clear()
        self.model.clear()

    @invariant()
    def agrees(self):
        assert list(self.vec) == self.model == list(self.vec.column())
        assert list(reversed(self.vec)) == self.model[::-1]
        assert self.vec.is_empty() == (not self.model)
        assert self.vec.get(len(self.model)) is None


class HeapMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.memory, self.model = BytesMemory(), []
        self.heap = StableMinHeap.create(self.memory, types.Tuple(types.Blob(9), types.i8))

    @rule(values=st.lists(st.tuples(st.binary(max_size=2), st.integers(-128, 127)), min_size=1, max_size=8))
    def extend(self, values):
        self.heap.extend(values)
        for value in values:
            heapq.heappush(self.model, value)

    @rule()
    def pop(self):
        assert self.heap.pop() == (heapq.heappop(self.model) if self.model else None)

    @rule()
    def reopen(self):
        self.heap = StableMinHeap.load(self.memory, types.Tuple(types.Blob(9), types.i8))

    @invariant()
    def agrees(self):
        assert sorted(self.heap) == sorted(self.model)
        assert self.heap.peek() == (self.model[0] if self.model else None)
        assert len(self.heap) == len(self.model)
        assert self.heap.is_empty() == (not self.model)


class LogMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.memories, self.model = (BytesMemory(), BytesMemory()), []
        self.log = StableLog.create(*self.memories, types.raw)

    @rule(values=st.lists(st.binary(max_size=40), min_size=1, max_size=5))
    def append(self, values):
        for value in values:
            assert self.log.append(value) == len(self.model)
            self.model.append(value)

    @rule()
    def reopen(self):
        self.log = StableLog.load(*self.memories, types.raw)

    @rule()
    def clear(self):
        self.log.clear()
        self.model.clear()

    @rule(bounds=st.slices(8))
    def slice(self, bounds):
        assert self.log[bounds] == self.model[bounds]

    @invariant()
    def agrees(self):
        assert list(self.log) == self.model == list(self.log.column())
        assert list(reversed(self.log)) == self.model[::-1]
        assert self.log.first() == (self.model[0] if self.model else None)
        assert self.log.last() == (self.model[-1] if self.model else None)
        assert self.log.log_size_bytes() == sum(map(len, self.model))
        assert self.log.index_size_bytes() == 40 + 8 * len(self.model)
        assert self.log.data_size_bytes() == 32 + sum(map(len, self.model))
        assert self.log.is_empty() == (not self.model)


class CellMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.memory, self.model = BytesMemory(), "first"
        self.cell = StableCell.create(self.memory, types.text, self.model)

    @rule(value=st.text(max_size=40), repeat=st.sampled_from([1, 1, 5000]))
    def set(self, value, repeat):
        assert self.cell.set(value * repeat) == self.model
        self.model = value * repeat

    @rule()
    def reopen(self):
        self.cell = StableCell.load(self.memory, types.text)

    @invariant()
    def agrees(self):
        assert self.cell.get() == self.cell.value == self.model


class SetMachine(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.memory, self.model = BytesMemory(), set()
        self.set = StableBTreeSet.create(self.memory, types.u8)

    @rule(keys=st.sets(st.integers(0, 255), max_size=60))
    def insert(self, keys):
        for key in keys:
            assert self.set.insert(key) == (key not in self.model)
            self.model.add(key)

    @rule(keys=st.sets(st.integers(0, 255), max_size=40))
    def remove(self, keys):
        for key in keys:
            assert self.set.remove(key) == (key in self.model)
            self.model.discard(key)

    @rule(last=st.booleans())
    def pop(self, last):
        expected = (max(self.model) if last else min(self.model)) if self.model else None
        assert (self.set.pop_last() if last else self.set.pop_first()) == expected
        self.model.discard(expected)

    @rule(other=st.sets(st.integers(0, 255), max_size=40))
    def algebra(self, other):
        assert self.set.union(other) == sorted(self.model | other)
        assert self.set.intersection(other) == sorted(self.model & other)
        assert self.set.symmetric_difference(other) == sorted(self.model ^ other)
        assert self.set.is_disjoint(other) == self.model.isdisjoint(other)
        assert self.set.is_subset(other) == self.model.issubset(other)
        assert self.set.is_superset(other) == self.model.issuperset(other)
        assert self.set - other == self.model - other
        assert self.set & other == self.model & other
        assert (self.set <= other) == (self.model <= other)

    @rule(low=st.integers(0, 255), high=st.integers(0, 255))
    def range(self, low, high):
        assert list(self.set.range(low, high)) == [key for key in sorted(self.model) if low <= key < high]

    @rule()
    def reopen(self):
        self.set = StableBTreeSet.load(self.memory, types.u8)

    @invariant()
    def agrees(self):
        assert list(self.set) == sorted(self.model)
        assert list(reversed(self.set)) == sorted(self.model, reverse=True)
        assert (self.set.first(), self.set.last()) == (
            (min(self.model), max(self.model)) if self.model else (None, None)
        )
        assert len(self.set) == len(self.model)
        assert self.set.is_empty() == (not self.model)


for each in (VecMachine, HeapMachine, LogMachine, CellMachine, SetMachine):
    each.TestCase.settings = SETTINGS
TestVec, TestHeap, TestLog = VecMachine.TestCase, HeapMachine.TestCase, LogMachine.TestCase
TestCell, TestSet = CellMachine.TestCase, SetMachine.TestCase


def test_set_protocol():
    keys = StableBTreeSet.create(BytesMemory(), types.text)
    keys |= {"b", "a"}
    keys.add("c")
    keys.discard("x")
    assert "a" in keys
    assert keys.contains("b")
    assert 5 not in keys
    assert keys.pop() == "a"
    assert keys == {"b", "c"}
    assert list(keys.map.items()) == [("b", ()), ("c", ())]
    assert len(list(keys.nodes())) == 1
    keys.clear()
    with pytest.raises(KeyError, match="empty"):
        keys.pop()
    keys.bulk_load(["z", "y"])
    assert list(keys) == ["y", "z"]
    assert "String" in repr(keys)


LOADERS = {
    "vec": (b"SVC", lambda memory: StableVec.load(memory, types.u8), lambda memory: StableVec.create(memory, types.u8)),
    "heap": (
        b"SMH",
        lambda memory: StableMinHeap.load(memory, types.u8),
        lambda memory: StableMinHeap.create(memory, types.u8),
    ),
    "cell": (
        b"SCL",
        lambda memory: StableCell.load(memory, types.u8),
        lambda memory: StableCell.create(memory, types.u8, 1),
    ),
    "log": (
        b"GLI",
        lambda memory: StableLog.load(memory, BytesMemory(b"GLD\x01"), types.u8),
        lambda memory: StableLog.create(memory, BytesMemory(), types.u8),
    ),
}


@pytest.mark.parametrize("name", LOADERS)
def test_load_never_creates_and_create_never_overwrites(name):
    magic, load, create = LOADERS[name]
    empty = BytesMemory()
    with pytest.raises(MalformedError, match="outside a memory"):
        load(empty)
    assert empty.size() == 0
    foreign = BytesMemory(b"foreign")
    with pytest.raises(MalformedError, match=f"bad magic b'for', expected {magic!r}"):
        load(foreign)
    with pytest.raises(ValueError, match="overwrite=True"):
        create(foreign)
    assert foreign.read(0, 7) == b"foreign"
    with pytest.raises(UnsupportedError, match="version 9, expected 1"):
        load(BytesMemory(magic + b"\x09" + bytes(60)))
    create(empty)
    load(empty)
    with pytest.raises(GrowFailedError, match="0 Wasm pages"):
        create(BytesMemory(max_wasm_pages=0))


def test_init_loads_or_creates():
    memory, second = BytesMemory(), BytesMemory()
    StableVec.init(memory, types.u8).push(5)
    assert list(StableVec.init(memory, types.u8)) == [5]
    assert StableCell.init(second, types.u8, 7).get() == 7
    assert StableCell.init(second, types.u8, 9).get() == 7
    index, data, heap = BytesMemory(), BytesMemory(), BytesMemory()
    StableLog.init(index, data, types.u8).append(3)
    assert list(StableLog.init(index, data, types.u8)) == [3]
    with pytest.raises(MalformedError, match="log header"):
        StableLog.init(index, BytesMemory(), types.u8)
    StableMinHeap.init(heap, types.u8).push(3)
    assert StableMinHeap.init(heap, types.u8).peek() == 3
    keys = BytesMemory()
    StableBTreeSet.init(keys, types.u8).add(3)
    assert list(StableBTreeSet.init(keys, types.u8)) == [3]


def test_element_types_can_never_change():
    memory = BytesMemory()
    StableVec.create(memory, types.u8).push(5)
    for other in (types.u16, types.Blob(1)):
        with pytest.raises(ValueError, match=r"bound of 1 bytes \(fixed\)"):
            StableVec.load(memory, other)
    with pytest.raises(ValueError, match="unbounded"):
        StableVec.create(BytesMemory(), types.raw)
    with pytest.raises(ValueError, match="at most 2"):
        StableVec.create(BytesMemory(), types.Blob(2)).push(b"123")


def test_operations_that_fail_leave_the_bytes():
    vec_memory, index = BytesMemory(max_wasm_pages=1), BytesMemory()
    vec = StableVec.create(vec_memory, types.Blob(60_000))
    vec.push(bytes(60_000))
    before = bytes(vec_memory.data)
    with pytest.raises(GrowFailedError):
        vec.push(bytes(60_000))
    assert bytes(vec_memory.data) == before
    log = StableLog.create(index, BytesMemory(max_wasm_pages=1), types.raw)
    with pytest.raises(GrowFailedError):
        log.append(bytes(70_000))
    assert len(log) == 0
    cell = StableCell.create(BytesMemory(max_wasm_pages=1), types.raw, b"kept")
    with pytest.raises(GrowFailedError):
        cell.set(bytes(70_000))
    assert cell.get() == b"kept"


def test_pops_of_nothing():
    assert StableVec.create(BytesMemory(), types.u8).pop() is None
    heap = StableMinHeap.create(BytesMemory(), types.u8)
    assert heap.pop() is heap.peek() is None


@pytest.mark.parametrize(
    ("address", "damage", "message"),
    [(4, b"\xff" * 8, "slots of 302 bytes do not fit"), (16, b"\x07", "flag 7")],
)
def test_damaged_vec(address, damage, message):
    memory = BytesMemory()
    StableVec.create(memory, types.Blob(300)).push(b"x")
    memory.write(address, damage)
    with pytest.raises(MalformedError, match=message):
        StableVec.load(memory, types.Blob(300))


def test_slots_of_no_bytes_are_bounded_as_well():
    memory = BytesMemory()
    nothing = StableVec.create(memory, types.FixedBytes(0))
    nothing.extend([b"", b""])
    assert list(nothing) == list(nothing.column()) == [b"", b""]
    memory.write(4, b"\xff" * 8)
    with pytest.raises(MalformedError, match="slots of 0 bytes do not fit"):
        len(nothing)


def test_damaged_slot():
    memory = BytesMemory()
    vec = StableVec.create(memory, types.Blob(3))
    vec.push(b"x")
    memory.write(64, b"\x09")
    for read in (lambda: vec[0], lambda: list(vec), vec.column):
        with pytest.raises(MalformedError):
            read()


def test_damaged_log():
    index, data = BytesMemory(), BytesMemory()
    log = StableLog.create(index, data, types.raw)
    log.extend([b"one", b"two", b"three"])
    index.write(48, (99).to_bytes(8, "little"))
    with pytest.raises(MalformedError, match=r"entry 2 spans \[99, 11\)"):
        list(log)
    with pytest.raises(MalformedError, match="do not ascend"):
        log.column()
    index.write(56, b"\xff" * 8)
    with pytest.raises(MalformedError, match="bytes of entries do not fit"):
        len(log)
    index.write(32, b"\xff" * 8)
    with pytest.raises(MalformedError, match="entries do not fit into an index"):
        StableLog.load(index, data, types.raw)


def test_damaged_cell():
    memory = BytesMemory()
    cell = StableCell.create(memory, types.raw, b"x")
    memory.write(4, b"\xff" * 4)
    with pytest.raises(MalformedError, match="a value of 4294967295 bytes"):
        cell.get()


def test_reprs_name_structure_and_type():
    for structure in (
        StableVec.create(BytesMemory(), types.u8),
        StableMinHeap.create(BytesMemory(), types.u8),
        StableLog.create(BytesMemory(), BytesMemory(), types.u8),
        StableCell.create(BytesMemory(), types.u8, 1),
    ):
        assert type(structure).__name__ in repr(structure)
        assert "u8" in repr(structure)


def test_another_vec_in_the_place_of_a_loaded_one():
    memory = BytesMemory()
    vec = StableVec.create(memory, types.u16)
    vec.extend([1, 2])
    StableVec.create(memory, types.u64, overwrite=True).extend(range(5))
    with pytest.raises(MalformedError, match="another array"):
        len(vec)
