"""FoundationDB's tuple layer: the same bytes as its own Python package, the same order as the values."""

from __future__ import annotations

import os
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.values import codec
from perdure.values.packed import Single, pack, prefix_end, skip, unpack


def reference():
    try:
        import fdb.tuple as found
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("foundationdb of PyPI is not installed")
    return found


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 2_040) + 1, (1 << 2_040) - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.uuids(),
)
TUPLES = st.lists(st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8), max_size=5)


@given(TUPLES.map(tuple))
def test_the_bytes_are_foundationdb_s(value):
    packed = pack(value)
    assert packed == reference().pack(value)
    assert repr(unpack(packed)) == repr(value)  # which tells 1 from True and 1.0


@given(st.lists(st.tuples(st.integers(), st.text(), st.binary()), max_size=20))
def test_bytes_are_ordered_as_values_are(values):
    by_utf8 = sorted(values, key=lambda one: (one[0], one[1].encode(), one[2]))
    assert [unpack(one) for one in sorted(map(pack, values))] == by_utf8


@pytest.mark.parametrize(
    "value", [0, 1, -1, 255, 256, -255, -256, (1 << 64) - 1, 1 << 64, -(1 << 64) + 1, -(1 << 64), 1 << 2_039]
)
def test_integers_at_the_edges_of_their_widths(value):
    assert pack((value,)) == reference().pack((value,))
    assert unpack(pack((value,))) == (value,)


def test_floats_of_32_bits_stay_so():
    packed = pack((Single(1.5),))
    assert packed == reference().pack((reference().SingleFloat(1.5),))
    (found,) = unpack(packed)
    assert isinstance(found, Single)
    assert found == 1.5
    with pytest.raises(ValueError, match="no float of 32 bits"):
        pack((Single(1e300),))


def test_a_principal_is_its_bytes():
    assert unpack(pack((Principal(b"\x00\x01"),))) == (b"\x00\x01",)


@pytest.mark.parametrize("value", [object(), {1: 2}, 1 << 2_041, "\ud800", {1}])
def test_what_has_no_place_in_a_key_is_refused(value):
    with pytest.raises(ValueError, match=r"."):
        pack((value,))


def test_nesting_has_an_end_in_both_directions():
    value: tuple = ()
    for _ in range(70):
        value = (value,)
    with pytest.raises(ValueError, match="nests at most 64"):
        pack(value)
    with pytest.raises(MalformedError, match="nested"):
        unpack(b"\x05" * 10_000)


@given(st.binary(max_size=40))
def test_no_bytes_do_anything_but_unpack_or_say_so(data):
    try:
        found = unpack(data)
    except MalformedError:
        return
    assert pack(found) == data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x33" + bytes(12), "no part begins with 0x33"),
        (b"\x15", "1 bytes expected, 0 are left"),
        (b"\x16\x00\x01", "that fewer hold"),
        (b"\x02\xff\x00", "utf-8"),
        (b"\x01ab", "not found"),
        (b"\x30abc", "16 bytes expected"),
    ],
)
def test_what_is_no_tuple(data, message):
    with pytest.raises(MalformedError, match=message):
        unpack(data)


@given(st.lists(st.text(), min_size=1, max_size=3), st.lists(st.text(), max_size=3))
def test_a_prefix_has_what_begins_with_its_parts_and_nothing_else(prefix, whole):
    low = pack(prefix)
    packed = pack(whole)
    assert (low <= packed < prefix_end(low)) == (whole[: len(prefix)] == prefix)


def test_parts_are_skipped_without_unpacking():
    packed = pack(("a\0b", 7, (None, "x"), b"z"))
    assert unpack(packed[skip(packed, 2) :]) == ((None, "x"), b"z")
    with pytest.raises(MalformedError):
        skip(packed, 5)


def test_the_format_of_declared_parts():
    found = codec("packed(owner: principal, at: u64, tag: text)")
    owner = Principal.from_text("aaaaa-aa")
    data = found.encode({"owner": owner, "at": 7, "tag": "x"})
    assert data == pack((b"", 7, "x"))
    assert found.decode(data) == {"owner": owner, "at": 7, "tag": "x"}
    assert found.from_text('["aaaaa-aa", 7, "x"]') == data
    assert found.fields == ("owner", "at", "tag")
    with pytest.raises(MalformedError, match="has 3 parts, found 2"):
        found.decode(pack((b"", 7)))
    with pytest.raises(ValueError, match="has the parts owner, at, tag"):
        found.encode(["aaaaa-aa", 7])


def test_the_format_of_one_part_is_typed_as_the_part_is():
    found = codec("packed(at: u64)")
    assert found.from_text("0x10") == found.from_text("[16]") == found.encode(16) == pack((16,))
    assert codec("packed(name: text)").from_text("Zug") == pack(("Zug",))


def test_the_format_of_anything():
    found = codec("packed")
    assert found.decode(pack((1, UUID(int=5)))) == (1, UUID(int=5))
    assert codec("packed(value: any, id: u64)").decode(pack(("x", 5))) == {"value": "x", "id": 5}


@pytest.mark.parametrize("name", ["packed(a)", "packed(a: u64, a: u64)", "packed(1: u64)", "any(u64)", "cbor()"])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match=r"."):
        codec(name)


def test_an_array_of_declared_parts_has_defaults_for_those_that_came_later():
    old, new = codec("cbor(a: u64, b: text)"), codec("cbor(a: u64, b: text, c: principal)")
    data = old.encode({"a": 1, "b": None})
    assert old.decode(data) == {"a": 1, "b": None}
    assert new.decode(data) == {"a": 1, "b": None, "c": None}
    with pytest.raises(MalformedError, match="at most 2 items"):
        old.decode(new.encode([1, "x", "aaaaa-aa"]))
