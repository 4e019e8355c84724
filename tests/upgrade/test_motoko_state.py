"""Stable variables out of the bytes: every type of the stable subset, classical and enhanced."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenarios import listed, module, motoko

from perdure import Principal, Subnet
from perdure.candid.types import MethodRef, Some
from perdure.errors import MalformedError, UnsupportedError
from perdure.inspection.motoko import gathered as gathered_on
from perdure.memory import BytesMemory
from perdure.subnet import Canister
from perdure.upgrade import stable_variables
from perdure.upgrade.check_motoko import _is_less, _shown
from perdure.upgrade.version import Version
from perdure.values.motoko_enhanced import read_enhanced
from perdure.values.motoko_reading import Reference, RegionValue
from perdure.values.motoko_state import read_classical
from perdure.values.motoko_types import parse_stable_types

BIG = 1234567890123456789012345678901234567890
MANAGEMENT = Principal(b"")
VALUES = {
    "n": 5, "big": BIG, "i": -7, "neg": -BIG, "n8": 200, "n16": 60_000, "n32": 4_000_000_000, "n64": 2**64 - 1,
    "s64": 5,
    "i8": -100, "i16": -30_000, "i32": -2_000_000_000, "i64": 1 - 2**63, "t64": -5, "f": 3.25, "c": "x", "b": True,
    "b0": False, "text": "héllo and more", "bl": b"\0\1\2", "p": Principal(b"\4"), "o": 3, "oo": Some(None), "no": None,
    "u": (), "tup": (1, "one"), "arr": [1, 2, 3], "ref": [4, 5], "marr": Reference(1), "bytes": [1, 2],
    "rec": {"a": 1, "m": "mut"}, "tree": {"node": {"l": {"leaf": ()}, "r": {"leaf": ()}, "v": 9}},
    "list": (1, (2, None)),
    "act": MANAGEMENT, "fun": MethodRef(MANAGEMENT, "g"), "chars": ["x", "é"], "bools": [True, False],
    "reg": RegionValue(16, 2), "people": [], "maybe": [True, False, None], "small": [Some(-3), Some(None), None],
}  # fmt: skip


@pytest.fixture(scope="module", params=["classical", "eop"])
def canister(request) -> Canister:
    made = Subnet().install(module(f"state_{request.param}"))
    made.actor().regions()
    made.actor().cat(" and more")
    return made


def test_every_type_is_read(canister):
    before = canister.stable.size(), canister.heap.size()
    found = stable_variables(canister)
    loops = {name: found.values.get(name) for name in ("ring", "weakly")}
    values = {name: value for name, value in found.values.items() if name not in loops}
    values = {**values, "chars": ["x" if one == "a" else one for one in found.values["chars"]]}
    any_ = values.pop("any")
    assert any_ in (None, 5)
    assert values == VALUES
    assert loops in (
        # Classically what can be assigned is shared, with persistence of the heap the object that it is in.
        {"ring": {"v": 1, "next": {"v": 1, "next": Reference(3)}}, "weakly": None},
        {"ring": {"v": 1, "next": Reference(2)}, "weakly": Reference(2)},
    )
    assert {type(value) for value in values.values()} == {type(value) for value in VALUES.values()}
    assert found.consumed_bytes == found.total_bytes
    assert (canister.stable.size(), canister.heap.size()) == before
    assert stable_variables(canister).values == found.values


def test_a_list_is_as_deep_as_it_is_long(canister):
    fork = canister._subnet.fork().canister(canister.id)
    fork.actor().grow(3_000)
    at, length = stable_variables(fork).values["list"], 0
    while at is not None:
        at, length = at[1], length + 1
    assert length == 3_002


def test_many_records_are_read_as_each_of_them_is(canister):
    fork = canister._subnet.fork().canister(canister.id)
    fork.actor().fill(1_000)
    found = stable_variables(fork)
    assert found.values["people"] == [{"name": f"person {number}", "age": number} for number in range(1_000)]
    assert found.leaves >= 2_000
    assert found.consumed_bytes == found.total_bytes


def test_long_lists_are_compared_and_shown():
    long = short = None
    for number in range(20_000):
        long = (number, long)
        short = (number, short) if number < 19_990 else short
    assert _is_less(long, short)
    assert _is_less({"in": long}, {"in": short})
    assert not _is_less(long, long)
    assert _shown(long).startswith("[19999, [19998, ")


def test_the_variables_of_a_program_have_their_names():
    for name in ("classical_1", "eop_1"):
        canister = Subnet().install(motoko(name)())
        listed(canister)
        values = stable_variables(canister).values
        assert values["count"] == 3
        assert values["people"][0] == {"name": "Alan", "age": 41}
        assert values["motto"] == "onwards"


def test_what_is_not_motokos_is_refused():
    with pytest.raises(UnsupportedError, match="no stable variables of Motoko"):
        stable_variables(Subnet().install(module("upgraded_c")))


@pytest.fixture(scope="module")
def gathered(canister):
    assert canister.module is not None
    types = parse_stable_types(Version(canister.module).stable_types or "")
    instance = gathered_on(canister._subnet.fork().canister(canister.id))
    if Version(canister.module).keeps_heap:
        memory, read = instance.memories["heap"], read_enhanced
    else:
        memory, read = instance.memories["stable"], read_classical
    return bytes(memory.read(0, memory.size() << 16)), types, read


@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_damaged_bytes_are_refused_and_nothing_else(gathered, data):
    content, types, read = gathered
    damaged = bytearray(content)
    start = (4 << 20) + (512 << 10) if read is read_enhanced else 0
    end = start + 200 if read is read_enhanced else 600
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(start, end))] = data.draw(st.integers(0, 255))
    with suppress(MalformedError):
        read(BytesMemory(bytes(damaged)), types)


def test_an_object_that_contains_itself_ends(canister, gathered):
    content, types, read = gathered
    if read is not read_enhanced:
        return
    damaged = bytearray(content)
    # Every pointer of the heap's first objects leads to the object of all variables.
    base = (4 << 20) + (512 << 10)
    actor = damaged[base + 136 : base + 144]
    address = int.from_bytes(actor, "little") + 1
    for place in range(address + 24, address + 24 + 51 * 8, 8):
        damaged[place : place + 8] = actor
    with suppress(MalformedError):
        read(BytesMemory(bytes(damaged)), types)


def test_an_array_of_nothing_is_no_way_to_fill_memory():
    # table: vec record {}; record {variable: 0}; 2**40 empty records in 12 bytes
    message = b"DIDL\x03\x6c\0\x6d\0\x6c\1\1\1\1\2" + b"\x80\x80\x80\x80\x80\x20"
    stable = BytesMemory((len(message).to_bytes(4, "little") + message).ljust(1 << 16, b"\0"))
    with pytest.raises(MalformedError, match="an array of 1099511627776 elements"):
        read_classical(stable, parse_stable_types("actor {}"))


def test_a_heap_without_it_is_refused():
    types = parse_stable_types("actor { stable var x : Nat }")
    with pytest.raises(MalformedError, match="no enhanced orthogonal persistence"):
        read_enhanced(BytesMemory(bytes(1 << 16)), types)
    with pytest.raises(MalformedError, match="no enhanced orthogonal persistence"):
        read_enhanced(BytesMemory(bytes(8 << 20)), types)
    with pytest.raises(MalformedError, match="stable memory is empty"):
        read_classical(BytesMemory(), types)
