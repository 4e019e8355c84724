from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableLog, StableVec, types

TYPED = {
    "u8": (types.u8, st.integers(0, 255)),
    "u64": (types.u64, st.integers(0, 2**64 - 1)),
    "i32": (types.i32, st.integers(-(2**31), 2**31 - 1)),
    "u128": (types.u128, st.integers(0, 2**128 - 1)),
    "bool": (types.boolean, st.booleans()),
    "unit": (types.unit, st.just(())),
    "text": (types.text, st.text(max_size=30)),
    "raw": (types.raw, st.one_of(st.binary(max_size=5), st.binary(min_size=900, max_size=4000))),
    "blob": (types.Blob(40), st.binary(max_size=40)),
    "fixed": (types.FixedBytes(60), st.binary(min_size=60, max_size=60)),
    "principal": (types.principal, st.binary(max_size=29).map(Principal)),
    "reverse": (types.Reverse(types.u16), st.integers(0, 2**16 - 1)),
    "option": (types.Option(types.text), st.one_of(st.none(), st.text(max_size=3))),
    "pair": (types.Tuple(types.u16, types.Blob(3)), st.tuples(st.integers(0, 9), st.binary(max_size=3))),
}


@settings(max_examples=120, deadline=None)
@given(st.data(), st.sampled_from(sorted(TYPED)), st.sampled_from(sorted(TYPED)), st.booleans())
def test_columns_are_the_entries(data, key_name, value_name, is_virtual):
    (key, keys), (value, values) = TYPED[key_name], TYPED[value_name]
    model = data.draw(st.dictionaries(keys, values, max_size=90))
    memory = BytesMemory()
    if is_virtual:
        manager = MemoryManager.create(memory, bucket_wasm_pages=1)
        memory = manager.get(3)
    mapping = StableBTreeMap.create(memory, key, value)
    for entry in model.items():
        mapping.insert(*entry)
        if is_virtual and memory.size() % 2:
            manager.get(4).grow(1)
    columns = mapping.columns()
    assert list(zip(columns.keys, columns.values, strict=True)) == list(mapping.items())
    table = columns.to_arrow()
    assert table.num_rows == len(columns) == len(model)
    table.validate(full=True)
    if value.name in ("u8", "u64", "i32", "bool", "String", "Vec<u8>", "Blob<40>"):
        assert table["value"].to_pylist() == list(mapping.values())


@pytest.mark.parametrize(
    ("storable", "dtype", "arrow"),
    [
        (types.u8, np.uint8, pa.uint8()),
        (types.u32, np.uint32, pa.uint32()),
        (types.i64, np.int64, pa.int64()),
        (types.f32, np.float32, pa.float32()),
        (types.f64, np.float64, pa.float64()),
        (types.boolean, np.bool_, pa.bool_()),
        (types.Reverse(types.u16), np.uint16, pa.uint16()),
    ],
)
def test_numbers_have_their_native_types(storable, dtype, arrow):
    mapping = StableBTreeMap.create(BytesMemory(), types.u32, storable)
    mapping.update({number: number % 2 for number in range(100)})
    column = mapping.columns().values
    assert column.to_numpy().dtype == dtype
    assert column.to_numpy().tolist() == [number % 2 for number in range(100)]
    assert column.to_arrow().type == arrow


def test_bytes_have_their_arrow_types():
    mapping = StableBTreeMap.create(BytesMemory(), types.FixedBytes(4), types.principal)
    mapping.update({bytes([number] * 4): Principal(bytes([number] * (number % 29))) for number in range(50)})
    columns = mapping.columns()
    assert columns.keys.to_arrow().type == pa.binary(4)
    assert columns.keys.to_numpy().shape == (50, 4)
    assert columns.values.to_arrow().type == pa.binary()
    assert columns.values.to_numpy().tolist() == [bytes(value) for value in mapping.values()]
    assert columns.values[3] == Principal(b"\3\3\3")
    with pytest.raises(IndexError, match="index 50"):
        columns.keys[50]


def test_columns_outlive_the_memory():
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u64, types.text)
    mapping.update({number: str(number) for number in range(500)})
    columns = mapping.columns()
    table = columns.to_arrow()
    memory.grow(1)
    memory.data[:] = bytes(len(memory.data))
    assert columns.keys.to_numpy().tolist() == table["key"].to_pylist() == list(range(500))
    assert table["value"].to_pylist() == [str(number) for number in range(500)]


def test_large_mixed_tree():
    chance = random.Random(3)
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.Blob(40), types.Blob(100), version=1)
    mapping.update(
        (chance.randbytes(chance.randrange(40)), chance.randbytes(chance.randrange(100))) for _ in range(700)
    )
    mapping = StableBTreeMap.load(memory, types.Blob(40), types.Blob(100))
    for _ in range(1500):
        mapping[chance.randbytes(chance.randrange(40))] = chance.randbytes(chance.randrange(100))
    for key in list(mapping)[::3]:
        del mapping[key]
    nodes = list(mapping.nodes())
    assert {node.version for node in nodes} == {1, 2}
    columns = mapping.columns()
    assert list(zip(columns.keys, columns.values, strict=True)) == list(mapping.items())


def test_fixed_types_in_slots_of_version_1():
    mapping = StableBTreeMap.create(BytesMemory(), types.u32, types.u16, version=1)
    mapping.update({number: number % 7 for number in range(300)})
    columns = mapping.columns()
    assert columns.keys.to_numpy().tolist() == list(range(300))
    assert columns.values.to_numpy().tolist() == [number % 7 for number in range(300)]


def test_text_that_is_not_utf_8():
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u8, types.raw)[1] = b"\xff\xfe"
    columns = StableBTreeMap.load(memory, types.u8, types.text).columns()
    for read in (columns.to_arrow, lambda: columns.values[0]):
        with pytest.raises(MalformedError, match="not UTF-8"):
            read()


def test_bool_that_is_none():
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u8, types.u8)[1] = 7
    with pytest.raises(MalformedError, match="a bool is 00 or 01, found 07"):
        StableBTreeMap.load(memory, types.u8, types.boolean).columns()


def test_values_that_are_longer_than_their_type():
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u8, types.Blob(50)).update({1: b"short", 2: bytes(30)})
    for value in (types.Blob(9), types.FixedBytes(5), types.u64):
        with pytest.raises(MalformedError):
            StableBTreeMap.load(memory, types.u8, value).columns()


def test_empty_structures():
    assert len(StableBTreeMap.create(BytesMemory(), types.u8, types.u8).columns()) == 0
    assert StableBTreeMap.create(BytesMemory(), types.raw, types.text).columns().to_arrow().num_rows == 0
    assert StableVec.create(BytesMemory(), types.u8).column().to_arrow().to_pylist() == []
    assert StableLog.create(BytesMemory(), BytesMemory(), types.text).column().to_arrow().to_pylist() == []


def test_vec_and_log_columns():
    vec = StableVec.create(BytesMemory(), types.u32)
    vec.extend(range(1000))
    assert vec.column().to_numpy().tolist() == list(range(1000))
    blobs = StableVec.create(BytesMemory(), types.Blob(300))
    blobs.extend(bytes([number]) * number for number in range(200))
    assert blobs.column().to_arrow().to_pylist() == list(blobs)
    log = StableLog.create(BytesMemory(), BytesMemory(), types.text)
    log.extend("é" * number for number in range(100))
    assert log.column().to_arrow().to_pylist() == list(log)
