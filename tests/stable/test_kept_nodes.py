"""Nodes that a tree keeps decoded are those of the bytes there are now, whoever wrote them."""

from __future__ import annotations

from random import Random

import pytest

from perdure.errors import MalformedError
from perdure.memory import BytesMemory
from perdure.stable import GrowFailedError, StableBTreeMap, types

KEYS = {
    "fixed": (types.u64, lambda chance: chance.getrandbits(10)),
    "text": (types.text, lambda chance: f"k{chance.getrandbits(9)}" * 3),
    "long values": (types.u32, lambda chance: chance.getrandbits(9)),
    "long keys": (types.raw, lambda chance: bytes([chance.getrandbits(8)]) * chance.choice((1, 700))),
}
VALUES = {
    "fixed": (types.u64, lambda chance: chance.getrandbits(60)),
    "text": (types.text, lambda chance: "v" * chance.choice((0, 5))),
    "long values": (types.raw, lambda chance: bytes(chance.choice((1, 90, 3_000)))),
    "long keys": (types.u8, lambda chance: chance.getrandbits(8)),
}


def opened(memory, kind):
    return StableBTreeMap.init(memory, KEYS[kind][0], VALUES[kind][0])


def changed(chance, mapping, model, kind):
    """One change of both."""
    key, value = KEYS[kind][1](chance), VALUES[kind][1](chance)
    if chance.random() < 0.6:
        assert mapping.insert(key, value) == model.get(key)
        model[key] = value
    elif chance.random() < 0.2:
        found = mapping.pop_first()
        assert (found is None) == (not model)
        if found is not None:
            assert model.pop(found[0]) == found[1]
    else:
        assert mapping.remove(key) == model.pop(key, None)


@pytest.mark.parametrize("kind", KEYS)
def test_two_that_write_see_each_other(kind):
    chance, memory, model = Random(3), BytesMemory(), {}
    both = [opened(memory, kind), opened(memory, kind)]
    for step in range(200):
        changed(chance, chance.choice(both), model, kind)
        for key in chance.sample(sorted(model), min(3, len(model))):
            assert [one[key] for one in both] == [model[key]] * 2
        if step % 50 == 49:
            assert [dict(one.items()) for one in (*both, opened(memory, kind))] == [model] * 3


@pytest.mark.parametrize("kind", KEYS)
def test_memory_that_is_taken_back(kind):
    chance, memory, model = Random(5), BytesMemory(), {}
    mapping = opened(memory, kind)
    for _ in range(6):
        for _ in range(40):
            changed(chance, mapping, model, kind)
        kept, before = bytes(memory.data), dict(model)
        for _ in range(chance.choice((1, 40))):
            changed(chance, mapping, model, kind)
        if chance.random() < 0.7:  # as after a trap
            memory.data[:] = kept.ljust(len(memory.data), b"\0")
            model = before
        assert dict(mapping.items()) == model
        assert all(mapping[key] == value for key, value in model.items())


@pytest.mark.parametrize("kind", ["long values", "long keys"])
def test_what_fails_leaves_nothing_behind(kind):
    chance, memory, model = Random(7), BytesMemory(max_wasm_pages=2), {}
    mapping, refused = opened(memory, kind), 0
    for _ in range(600):
        before, bytes_before = dict(model), bytes(memory.data)
        try:
            changed(chance, mapping, model, kind)
        except GrowFailedError:
            refused += 1
            model = before
            assert bytes(memory.data) == bytes_before.ljust(len(memory.data), b"\0")
            assert dict(mapping.items()) == model
    assert dict(opened(memory, kind).items()) == model
    assert refused or kind == "long keys"


def test_a_batch_that_fails_is_forgotten():
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u64, types.raw)
    mapping.update(dict.fromkeys(range(500), b"old"))

    def changes():
        yield from ((key, b"new") for key in range(500))

    memory.max_wasm_pages = memory.size()
    with pytest.raises(GrowFailedError):
        mapping.apply([*changes(), (1_000, bytes(1 << 20))])
    assert set(mapping.values()) == {b"old"}
    mapping.apply(changes())
    assert set(mapping.values()) == {b"new"}


def test_a_value_that_does_not_decode_is_not_replaced():
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.raw).update(dict.fromkeys(range(100), b"\xff"))
    texts = StableBTreeMap.load(memory, types.u64, types.text)
    with pytest.raises(MalformedError, match="not UTF-8"):
        texts.insert(50, "new")
    assert StableBTreeMap.load(memory, types.u64, types.raw)[50] == b"\xff"
    with pytest.raises(MalformedError, match="not UTF-8"):
        texts[50]


def test_values_whose_lengths_are_not_those_of_their_type():
    chance, memory, model = Random(9), BytesMemory(), {}
    raw = StableBTreeMap.create(memory, types.u64, types.raw)
    numbers = StableBTreeMap.load(memory, types.u64, types.u64)
    for _ in range(600):
        key = chance.getrandbits(9)
        if chance.random() < 0.5:
            raw[key] = model[key] = bytes(chance.choice((8, 8, 8, 3, 20)))
        elif len(model.get(key, bytes(8))) == 8:  # an old value is decoded
            numbers[key] = key
            model[key] = key.to_bytes(8, "big")
        if len(model.get(key, b"")) == 8:
            assert numbers[key] == int.from_bytes(model[key], "big")
    assert dict(raw.items()) == model


def test_only_so_many_are_kept():
    mapping = StableBTreeMap.create(BytesMemory(), types.u64, types.raw)
    mapping.bulk_load((key, bytes(40)) for key in range(20_000))
    assert sum(1 for _ in mapping.items()) == 20_000
    nodes = mapping._tree.nodes
    assert 100 < len(nodes._inner) < len(nodes._leaves) == 1_024
