"""Nodes read many at a time: what a lenient judge is told, and that nothing else is raised."""

from __future__ import annotations

import numpy as np
import pytest

from perdure.errors import MalformedError
from perdure.memory import BytesMemory
from perdure.stable import MapHeader, StableBTreeMap, types
from perdure.stable.bulk import NodeReader, Strict
from perdure.stable.gather import Gather
from perdure.stable.region import Region, Run


class Noting:
    """Collects codes and addresses."""

    def __init__(self):
        self.found = []
        self.seen = set()

    def refuse(self, code, addresses, message):
        self.found += [(code, address, message(place)) for place, address in enumerate(addresses.tolist())]

    def first_time(self, what, addresses):
        fresh = np.array([address not in self.seen for address in addresses.tolist()], dtype=bool)
        self.seen.update(addresses.tolist())
        return fresh


@pytest.fixture
def memory():
    """A map of two levels whose values have overflow pages."""
    found = BytesMemory()
    mapping = StableBTreeMap.create(found, types.u32, types.raw)
    for number in range(40):
        mapping[number] = bytes([number]) * (5000 if number % 9 == 0 else 20)
    return found


def walk(memory, judge):
    """Entries and overflow pages of the whole tree."""
    header = MapHeader.read(memory)
    reader = NodeReader(Gather(memory), header, judge)
    level, keys, pages = np.array([header.root]), [], 0
    while len(level):
        heads = reader.heads(level)
        chains = reader.chains(heads)
        pages += len(chains.pages)
        for nodes in reader.nodes(heads, chains):
            spans = reader.spans(nodes, 4)
            flat = nodes.flat
            keys += [int.from_bytes(flat[start : start + 4].tobytes(), "big") for start in spans.key_offsets.tolist()]
        level, _ = reader.children(heads)
    return sorted(keys), pages


def test_every_entry_once(memory):
    mapping = StableBTreeMap.load(memory, types.u32, types.raw)
    overflow = sum(len(node.overflow) for node in mapping.nodes())
    assert walk(memory, Strict(10_000)) == (list(range(40)), overflow)


def test_a_memory_in_pieces_reads_alike(memory):
    size, half = len(memory.data), len(memory.data) // 2
    swapped = BytesMemory(bytes(memory.data[half:]) + bytes(memory.data[:half]))
    region = Region(swapped, [Run(half, size - half), Run(0, half)])
    assert Gather(region).flat is None
    assert walk(region, Strict(10_000)) == walk(memory, Strict(10_000))


def test_a_circle_of_overflow_pages(memory):
    mapping = StableBTreeMap.load(memory, types.u32, types.raw)
    node = next(node for node in mapping.nodes() if len(node.overflow) > 2)
    memory.write(node.overflow[-1] + 3, node.overflow[0].to_bytes(8, "little"))
    with pytest.raises(MalformedError, match="circle"):
        walk(memory, Strict(10_000))
    judge = Noting()
    walk(memory, judge)
    assert [code for code, _, _ in judge.found] == ["overflow-shared"]


def test_a_length_past_the_pages(memory):
    mapping = StableBTreeMap.load(memory, types.u32, types.raw)
    node = next(node for node in mapping.nodes() if node.is_leaf and not node.overflow)
    memory.write(node.address + 15 + 4 * len(node.keys), b"\xff\xff\xff\x7f")
    judge = Noting()
    walk(memory, judge)
    ((code, address, message),) = judge.found
    assert (code, address) == ("node-past-pages", node.address)
    assert "do not fit" in message


def test_no_more_pages_than_there_is_room_for(memory):
    with pytest.raises(MalformedError, match="reached twice"):
        walk(memory, Strict(3))


@pytest.mark.parametrize("address", [0, 5, 117, 1 << 40, -1])
def test_addresses_where_no_chunk_is(memory, address):
    judge = Noting()
    heads = NodeReader(Gather(memory), MapHeader.read(memory), judge).heads(np.array([address]))
    assert len(heads) == 0
    assert [code for code, _, _ in judge.found] == ["node-address"]
