"""Maps in parts by address: the same entries as a walk gives, wherever they are cut, and counts that do not lie."""

from __future__ import annotations

import random

import numpy as np
import pytest

from perdure.errors import MalformedError
from perdure.memory import WASM_PAGE_BYTES, BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.stable.headers import MapHeader
from perdure.stable.layout import FIRST_CHUNK_ADDRESS
from perdure.stable.parts import check_counts, join, read_part, used_chunks


def scanned(memory: BytesMemory, key_bytes: int | None, parts: int) -> list[tuple[bytes, bytes]]:
    """All entries, read in so many parts."""
    header = MapHeader.read(memory)
    stride, memory_bytes = header.allocator.stride, memory.size() * WASM_PAGE_BYTES
    count = used_chunks(memory.read, header, memory_bytes)
    each = max(1, -(-count // parts))
    found = []
    for first in range(0, count, each):
        size = min(each, count - first) * stride
        data = np.frombuffer(memory.read(FIRST_CHUNK_ADDRESS + first * stride, size), np.uint8)
        found.append(read_part(data, first, header, key_bytes, memory_bytes))
    last = join([part.rest for part in found], header, key_bytes, memory_bytes)
    entries = [pair for part in (*found, last) for pair in zip(part.keys.raws(), part.values.raws(), strict=True)]
    check_counts(len(entries), sum(part.allocated for part in found), header)
    return entries


def fixed(draw: random.Random) -> StableBTreeMap:
    made = StableBTreeMap.create(BytesMemory(), types.u64, types.u64)
    made.bulk_load((key, draw.randrange(1 << 60)) for key in range(3000))
    for key in draw.sample(range(3000), 1000):
        del made[key]
    return made


def variable(draw: random.Random) -> StableBTreeMap:
    """With overflow pages, scattered by removals."""
    made = StableBTreeMap.create(BytesMemory(), types.text, types.raw)
    for key in range(400):
        made[f"{key:05}" * draw.randrange(1, 9)] = bytes(draw.randrange(draw.choice([10, 3000])))
    for key in list(made)[::3]:
        del made[key]
    for key in range(200):
        made[f"again {key}"] = bytes(draw.randrange(6000))
    return made


@pytest.mark.parametrize("parts", [1, 2, 7, 50])
@pytest.mark.parametrize(("make", "key_bytes"), [(fixed, 8), (variable, None)])
def test_the_same_entries_however_they_are_cut(make, key_bytes: int | None, parts: int) -> None:
    made = make(random.Random(25))
    found = scanned(made.memory, key_bytes, parts)
    columns = made.columns()
    expected = list(zip(columns.keys.raws(), columns.values.raws(), strict=True))
    assert sorted(found) == sorted(expected)
    assert len(found) == len(made)


def test_an_empty_map() -> None:
    made = StableBTreeMap.create(BytesMemory(), types.u64, types.u64)
    assert scanned(made.memory, 8, 4) == []


def test_chunks_that_nobody_freed_are_told() -> None:
    made = fixed(random.Random(1))
    memory = made.memory
    (chunk,) = [body - 16 for body, allocated in made.chunks() if not allocated][:1]
    assert memory.read(chunk + 16, 3) == b"BTN"  # a node of before
    memory.write(chunk + 4, b"\1")
    with pytest.raises(MalformedError, match="chunks that nobody freed"):
        scanned(memory, 8, 3)


def test_damage_is_told() -> None:
    made = variable(random.Random(2))
    memory = made.memory
    pages = [body for body, allocated in made.chunks() if allocated and memory.read(body, 3) == b"NOF"]
    before = memory.read(pages[0], 16)
    for damage in (b"XXX", b"NOF" + pages[0].to_bytes(8, "little"), b"NOF" + (7).to_bytes(8, "little")):
        memory.write(pages[0], damage)
        with pytest.raises(MalformedError):
            scanned(memory, None, 3)
        memory.write(pages[0], before)
    memory.write(FIRST_CHUNK_ADDRESS, b"no")
    with pytest.raises(MalformedError, match="no chunk's header"):
        scanned(memory, None, 1)
