"""Widths told from the bytes alone: right, or not told."""

import random

import pytest

from perdure.ic.principal import Principal
from perdure.inspection.find import find_in_memory
from perdure.inspection.fsck import fsck
from perdure.inspection.shape import map_shape, sample_nodes
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.stable.headers import MapHeader
from perdure.stable.layout import bounds_sum

KEYS = {
    "u8": lambda r: r.randrange(256),
    "u64": lambda r: r.randrange(1 << r.choice([4, 20, 64])),
    "i64": lambda r: r.randrange(-1 << 40, 1 << 40),
    "String": lambda r: "".join(r.choice("abcé0") for _ in range(r.randrange(12))),
    "Principal": lambda r: Principal(r.randbytes(r.choice([0, 1, 10, 29]))),
    "Blob<20>": lambda r: r.randbytes(r.randrange(21)),
    "[u8; 5]": lambda r: r.randbytes(5),
    "(u16, Blob<4>)": lambda r: (r.randrange(1 << 16), r.randbytes(r.randrange(5))),
}
VALUES = {
    "()": lambda r: (),
    "u64": lambda r: r.randrange(1 << 64),
    "Vec<u8>": lambda r: r.randbytes(r.choice([0, 10, 1500])),
    "Blob<30>": lambda r: r.randbytes(r.randrange(31)),
}


@pytest.mark.parametrize("key_name", KEYS)
@pytest.mark.parametrize("value_name", VALUES)
def test_the_width_of_keys_is_right_or_not_told(key_name, value_name):
    randomly = random.Random(f"{key_name} {value_name}")
    key, value = types.parse(key_name), types.parse(value_name)
    expected = key.max_size if key.is_fixed else None
    for size in (1, 2, 3, 9, 60):
        memory = BytesMemory()
        mapping = StableBTreeMap.create(memory, key, value)
        for _ in range(size):
            mapping[KEYS[key_name](randomly)] = VALUES[value_name](randomly)
            if randomly.random() < 0.2 and len(mapping) > 1:
                del mapping[next(iter(mapping))]
        inventory = find_in_memory(memory)
        shape = inventory.structures[0].shape
        assert expected in shape.possible
        assert not shape.is_readable or (shape.key_bytes, shape.keys_have_length) == (expected, not key.is_fixed)
        assert size < 60 or shape.is_readable
        assert fsck(inventory).errors == []


@pytest.mark.parametrize("total", [0, 3, 8, 16, 58, 1000, 100_000])
def test_the_page_size_tells_the_bounds(total):
    assert bounds_sum((191 + 11 * total) * 3 // 4) == total


@pytest.mark.parametrize("page_bytes", [128, 256, 500, 1024])
def test_page_sizes_that_no_bounds_give(page_bytes):
    assert bounds_sum(page_bytes) is None


def test_an_empty_map(build, look):
    (found,) = look(build.map(types.u64, types.u64, [])).structures
    assert (found.entries, found.shape.bounds_sum, found.shape.is_readable) == (0, 16, False)
    assert (str(found.key), str(found.value)) == ("?", "?")


def test_values_of_megabytes(build, look):
    data = build.map(types.u64, types.raw, [(n, bytes([n]) * (1 << 20)) for n in range(1, 9)])
    (found,) = look(data).structures
    assert (found.entries, found.key.max_bytes, found.value.seen) == (8, 8, (1 << 20, 1 << 20))


def test_the_sample_is_bounded():
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u64, types.raw)
    for n in range(500):
        mapping[n] = bytes(100)
    header = MapHeader.read(memory)
    nodes = sample_nodes(memory, header, max_bytes=5000)
    shape = map_shape(memory, header, nodes)
    assert len(nodes) == len(shape.entries) < 8 < len(sample_nodes(memory, header))
    assert shape.key.max_bytes == 8
