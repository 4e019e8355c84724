"""The real crate, running in a canister, and perdure take turns on one memory, over a grid of structures and types.

A batch of random operations goes to the canister or to Python, at random; a twin in Python gets all of them. Answers
and, in the end, the whole stable memory are equal.
"""

from __future__ import annotations

import gzip
import importlib.util
import random
import sys
from pathlib import Path

import pytest

from perdure import Subnet
from perdure.ic.principal import Principal
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

CANISTERS = Path(__file__).parent.parent / "canisters"
BUCKET_WASM_PAGES = 2


class Event:
    """A fixed struct of little-endian fields, ordered by the later one first: bytes in Python, a struct in Rust."""

    name, max_size, is_fixed = "Event", 12, True

    def encode(self, value):
        return value

    def decode(self, data):
        return data

    def order(self, data):
        return int.from_bytes(data[4:], "little"), int.from_bytes(data[:4], "little")


OWN_TYPES = {"Signed": types.i64, "Event": Event(), "Person": types.Blob(40)}


@pytest.fixture(scope="module")
def driver():
    spec = importlib.util.spec_from_file_location("structures_driver", CANISTERS / "rust/structures/structures.py")
    module = sys.modules["structures_driver"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def canister(driver):
    wasm = gzip.decompress((CANISTERS / "modules/structures.wasm.gz").read_bytes())
    return Subnet().install(wasm, driver.layout(BUCKET_WASM_PAGES))


def type_of(name):
    compact = "".join(name.split())
    return OWN_TYPES.get(compact) or types.parse(compact)


def draw(storable, name, chance):
    """A random value, often one that was drawn before."""
    if isinstance(storable, types.Tuple):
        return tuple(draw(element, element.name, chance) for element in storable.elements)
    if isinstance(storable, types.Option):
        return None if chance.random() < 0.2 else draw(storable.inner, storable.inner.name, chance)
    if isinstance(storable, types.Reverse):
        return draw(storable.inner, storable.inner.name, chance)
    size = chance.choice([0, 1, 1, 2, 2, 5, 60, 400])
    if storable.max_size is not None:
        size = storable.max_size if storable.is_fixed else min(size, storable.max_size)
    small = bytes(chance.choice(b"\x00\x01\x02z") for _ in range(size))
    if name == "Person":
        return bytes([chance.randrange(3)]) + "aé"[: size % 3].encode()
    if name in ("f32", "f64"):
        return chance.randrange(-9, 9) / 4
    if name == "Principal":
        return Principal(small[:29])
    if name == "String":
        return small.decode()
    if name in ("bool", "()"):
        return chance.random() < 0.5 if name == "bool" else ()
    if name[0] in "ui" or name == "Signed":
        return storable.decode(small)
    return small


def sized(data):
    return len(data).to_bytes(4, "little") + data


def optional(data):
    return b"\0" if data is None else b"\1" + data


def number(value):
    return value.to_bytes(8, "little")


class Side:
    """Carries out operations on one memory; the results are those that the canister gives."""

    def __init__(self, memory, code):
        self.manager, self.code = MemoryManager.load(memory), code

    def run(self, listed, operations):
        memory = self.manager.get(listed.memory_id)
        return [getattr(self, listed.kind)(listed, memory, *operation) for operation in operations]

    def map(self, listed, memory, opcode, key, value):
        # Encoded: Python's None cannot tell an absent value from an absent entry.
        tree = StableBTreeMap.init(memory, type_of(listed.key), type_of(listed.value))._tree
        if opcode == self.code.INSERT:
            return optional(tree.insert(key, value))
        if opcode == self.code.REMOVE:
            return optional(tree.remove(key))
        if opcode == self.code.GET:
            return optional(tree.find(key))
        if opcode in (self.code.ITER, self.code.RANGE):
            bounds = (key, value) if opcode == self.code.RANGE else ()
            return b"".join(sized(node.keys[at]) + sized(node.value(at)) for node, at in tree.walk(*bounds))
        entry = tree.pop(last=opcode == self.code.POP_LAST)
        return optional(None if entry is None else sized(entry[0]) + sized(entry[1]))

    def set(self, listed, memory, opcode, key, _):
        key_type = type_of(listed.key)
        keys = StableBTreeSet.init(memory, key_type)
        if opcode == self.code.INSERT:
            return bytes([keys.insert(key_type.decode(key))])
        if opcode == self.code.REMOVE:
            return bytes([keys.remove(key_type.decode(key))])
        if opcode == self.code.CONTAINS:
            return bytes([keys.contains(key_type.decode(key))])
        if opcode == self.code.ITER:
            return b"".join(sized(key_type.encode(each)) for each in keys)
        is_empty = keys.is_empty()
        popped = keys.pop_last() if opcode == self.code.POP_LAST else keys.pop_first()
        return optional(None if is_empty else key_type.encode(popped))

    def vec(self, listed, memory, opcode, key, value):
        element = type_of(listed.value)
        vec = StableVec.init(memory, element)
        if opcode == self.code.PUSH:
            return vec.push(element.decode(value)) or b""
        if opcode == self.code.ITER:
            return b"".join(sized(element.encode(each)) for each in vec)
        if opcode == self.code.GET:
            index = int.from_bytes(key, "little")
            return optional(element.encode(vec[index]) if index < len(vec) else None)
        is_empty = vec.is_empty()
        popped = vec.pop()
        return optional(None if is_empty else element.encode(popped))

    def heap(self, listed, memory, opcode, _, value):
        element = type_of(listed.value)
        heap = StableMinHeap.init(memory, element)
        if opcode == self.code.PUSH:
            return heap.push(element.decode(value)) or b""
        if opcode == self.code.ITER:
            return b"".join(sized(element.encode(each)) for each in heap)
        is_empty = heap.is_empty()
        found = heap.peek() if opcode == self.code.PEEK else heap.pop()
        return optional(None if is_empty else element.encode(found))

    def log(self, listed, memory, opcode, key, value):
        element = type_of(listed.value)
        log = StableLog.init(memory, self.manager.get(listed.memory_id + 1), element)
        if opcode == self.code.PUSH:
            return number(log.append(element.decode(value)))
        if opcode == self.code.ITER:
            return b"".join(sized(element.encode(each)) for each in log)
        index = int.from_bytes(key, "little")
        return optional(element.encode(log[index]) if index < len(log) else None)

    def cell(self, listed, memory, opcode, _, value):
        content = type_of(listed.value)
        cell = StableCell.load(memory, content)
        return content.encode(cell.set(content.decode(value)) if opcode == self.code.SET else cell.get())


OPCODES = {
    "map": ["INSERT"] * 10 + ["REMOVE"] * 4 + ["GET", "ITER", "RANGE", "POP_FIRST", "POP_LAST"],
    "set": ["INSERT"] * 10 + ["REMOVE"] * 4 + ["CONTAINS", "ITER", "POP_FIRST", "POP_LAST"],
    "vec": ["PUSH"] * 6 + ["POP", "GET", "ITER"],
    "heap": ["PUSH"] * 6 + ["POP", "POP", "PEEK", "ITER"],
    "log": ["PUSH"] * 6 + ["GET", "ITER"],
    "cell": ["SET", "SET", "GET"],
}


def batch(listed, code, chance, size):
    """Random operations on one structure: opcode, encoded key, encoded value."""

    def encoded(name):
        return type_of(name).encode(draw(type_of(name), name, chance))

    operations = []
    for name in chance.choices(OPCODES[listed.kind], k=size):
        key = value = b""
        if listed.key and name not in ("ITER", "POP_FIRST", "POP_LAST"):
            key = encoded(listed.key)
        elif name == "GET" and listed.kind in ("vec", "log"):
            key = number(chance.randrange(20))
        if name == "RANGE":
            value = encoded(listed.key)
        elif listed.value and name in ("INSERT", "PUSH", "SET"):
            value = encoded(listed.value)
        operations.append((code[name], key, value))
    return operations


def whole(memory):
    return memory.read(0, memory.size() * WASM_PAGE_BYTES)


@pytest.fixture(scope="module")
def grid(canister, driver):
    listed = driver.catalog(canister.query("catalog"))
    cells = [driver.operation(each.memory_id, driver.Opcode.GET) for each in listed if each.kind == "cell"]
    canister.update("update", b"".join(cells))  # creates them with the values that the canister starts with
    return listed


def test_bounds_of_the_grid_are_the_crates(grid):
    for listed in grid:
        for name, bound in ((listed.key, listed.key_bound), (listed.value, listed.value_bound)):
            if name:
                storable = type_of(name)
                fixed = "!" if storable.is_fixed else ""
                assert bound == ("-" if storable.max_size is None else f"{storable.max_size}{fixed}"), name


@pytest.mark.slow
def test_python_and_the_crate_take_turns(canister, driver, grid):
    chance, code = random.Random(7), driver.Opcode
    twin_memory = BytesMemory(whole(canister.stable))
    live, twin = Side(canister.stable, code), Side(twin_memory, code)
    for _ in range(5):
        for listed in grid:
            operations = batch(listed, code, chance, 12)
            expected = twin.run(listed, operations)
            if chance.random() < 0.5:
                found = live.run(listed, operations)
            else:
                request = b"".join(driver.operation(listed.memory_id, *operation) for operation in operations)
                found = driver.results(canister.update("update", request))
            assert found == expected, listed
    assert whole(canister.stable) == bytes(twin_memory.data)


def test_a_canister_reads_what_python_built(driver):
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=BUCKET_WASM_PAGES)
    names = {f"name {number}": number for number in range(3000)}
    StableBTreeMap.create(manager.get(9), types.text, types.u64).bulk_load(names.items())
    StableVec.create(manager.get(91), types.u64).extend(range(500))

    wasm = gzip.decompress((CANISTERS / "modules/structures.wasm.gz").read_bytes())
    canister = Subnet().install(wasm, driver.layout(BUCKET_WASM_PAGES))
    canister.stable.grow(memory.size() - canister.stable.size())
    canister.stable.write(0, bytes(memory.data))
    operations = [
        (9, driver.Opcode.GET, b"name 77"),
        (9, driver.Opcode.LEN),
        (9, driver.Opcode.REMOVE, b"name 78"),
        (91, driver.Opcode.LEN),
    ]
    request = b"".join(driver.operation(*operation) for operation in operations)
    got, length, removed, elements = driver.results(canister.update("update", request))
    assert driver.optional(got) == types.u64.encode(77)
    assert (driver.number(length), driver.number(elements)) == (3000, 500)
    assert driver.optional(removed) == types.u64.encode(78)
    live = StableBTreeMap.load(MemoryManager.load(canister.stable).get(9), types.text, types.u64)
    del names["name 78"]
    assert dict(live) == names
    assert live.columns().values.to_numpy().tolist() == list(live.values())
