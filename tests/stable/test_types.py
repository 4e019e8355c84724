from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.stable import types

NUMBERS = [getattr(types, f"{sign}{bits}") for sign in "ui" for bits in (8, 16, 32, 64, 128)]
BLOB = types.Blob(9)

VALUES = {
    **{
        number: st.integers(
            *(
                (-(2 ** (8 * number.max_size - 1)), 2 ** (8 * number.max_size - 1) - 1)
                if number.name[0] == "i"
                else (0, 2 ** (8 * number.max_size) - 1)
            )
        )
        for number in NUMBERS
    },
    types.boolean: st.booleans(),
    types.unit: st.just(()),
    types.text: st.text(max_size=8),
    types.raw: st.binary(max_size=8),
    BLOB: st.binary(max_size=9),
    types.principal: st.binary(max_size=29).map(Principal),
    types.f64: st.floats(allow_nan=False),
}
BOUNDED = [storable for storable in VALUES if storable.max_size is not None]


@st.composite
def typed_values(draw, among=tuple(VALUES)):
    """A type, simple or composed, and two values of it."""
    storable = draw(st.sampled_from(among))
    return storable, draw(VALUES[storable]), draw(VALUES[storable])


@given(typed_values())
def test_simple_types_round_trip(typed):
    storable, value, _ = typed
    encoded = types.encode_checked(storable, value)
    assert storable.decode(encoded) == value
    assert types.parse(storable.name).encode(value) == encoded


def rank(storable, value):
    return types.order_of(storable)(storable.encode(value))


@given(typed_values())
def test_order_is_that_of_the_values(typed):
    storable, first, second = typed
    expected = (
        (len(first.raw_bytes), first) < (len(second.raw_bytes), second)
        if storable is types.principal
        else first < second
    )
    assert (rank(storable, first) < rank(storable, second)) == expected
    reverse, option = types.Reverse(storable), types.Option(storable)
    assert (rank(reverse, second) < rank(reverse, first)) == expected
    assert (rank(option, first) < rank(option, second)) == expected
    assert rank(option, None) < rank(option, first)


@settings(max_examples=200)
@given(typed_values(tuple(BOUNDED)), typed_values(tuple(BOUNDED)))
def test_pairs_round_trip_and_compare_by_element(first, second):
    pair = types.Tuple(first[0], second[0])
    low, high = (first[1], second[1]), (first[2], second[2])
    encoded = types.encode_checked(pair, low)
    assert pair.decode(encoded) == low
    assert len(encoded) == pair.max_size
    ranks = [(rank(first[0], value[0]), rank(second[0], value[1])) for value in (low, high)]
    assert (rank(pair, low) < rank(pair, high)) == (ranks[0] < ranks[1])
    assert types.parse(pair.name).decode(encoded) == low


@settings(max_examples=200)
@given(typed_values(), typed_values(), typed_values())
def test_triples_round_trip_and_compare_by_element(first, second, third):
    triple = types.Tuple(first[0], second[0], third[0])
    low, high = (first[1], second[1], third[1]), (first[2], second[2], third[2])
    encoded = types.encode_checked(triple, low)
    assert triple.decode(encoded) == low
    ranks = [
        tuple(rank(typed[0], value) for typed, value in zip((first, second, third), each, strict=True))
        for each in (low, high)
    ]
    assert (rank(triple, low) < rank(triple, high)) == (ranks[0] < ranks[1])


@given(
    st.sampled_from(
        [
            types.Tuple(types.text, BLOB, types.u8),
            types.Tuple(BLOB, types.u16),
            types.Option(types.u8),
            types.text,
            types.boolean,
            types.principal,
            types.u32,
            types.unit,
            BLOB,
            types.FixedBytes(3),
            types.f32,
        ]
    ),
    st.binary(max_size=40),
)
def test_any_bytes_decode_or_are_malformed(storable, data):
    try:
        value = storable.decode(data)
    except MalformedError:
        return
    again = storable.encode(value)
    assert storable.decode(again) == value or math.isnan(value)


@pytest.mark.parametrize(
    ("storable", "value"),
    [
        (types.u8, 256), (types.u8, -1), (types.i8, 128), (types.unit, 1), (types.Blob(2), b"abc"),
        (types.FixedBytes(2), b"a"), (types.BoundedVecN(2), b"abc"), (types.Option(types.u64), None),
        (types.Tuple(types.u8, types.u8), (1,)), (types.Tuple(types.Option(types.u8), types.u8), (None, 3)),
        (types.Tuple(BLOB, types.u8, types.u8), (bytes(10), 1, 1)),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(storable, value):
    with pytest.raises(ValueError, match=r"\d|found"):
        types.encode_checked(storable, value)


@pytest.mark.parametrize("elements", [(), (types.u8,), (types.u8,) * 4, (types.text, types.u8), (types.u8, types.raw)])
def test_tuples_that_the_crate_lacks(elements):
    with pytest.raises(ValueError, match=r"elements|bounded"):
        types.Tuple(*elements)


@pytest.mark.parametrize("name", [
    "u64", "()", "Vec<u8>", "[u8; 32]", "Blob<10>", "String", "Principal", "Option<[u8; 4]>", "Reverse<Option<u8>>",
    "(Principal, u64)", "(String, Vec<u8>, (u8, Blob<3>))", "BoundedVecN<5>", "UnboundedVecN<5>",
])  # fmt: skip
def test_names_parse_to_themselves(name):
    assert types.parse(name).name == name
    assert types.parse(name.replace(" ", "").replace("<", " < ")).name == name


@pytest.mark.parametrize("name", [
    "", "u7", "Blob", "Blob<x>", "Blob<5", "[u8; 3", "[u16; 3]", "(u8 u8)", "(u8,", "u8 u8", "Option<>", "Option<u8",
    "(String, u8)", "usize", "Option<" * 50 + "u8" + ">" * 50, "Blob<99999999999>",
])  # fmt: skip
def test_names_that_are_no_type(name):
    with pytest.raises(ValueError, match=r".+"):
        types.parse(name)


def test_some_of_none_is_read_as_none():
    # Python has no Some(None); the crate writes it as 0001.
    assert types.Option(types.Option(types.u8)).decode(b"\x00\x01") is None


@pytest.mark.parametrize("storable", [*NUMBERS, types.text, types.Option(types.u8), types.Tuple(types.u8, BLOB)])
def test_repr_names_the_type(storable):
    assert repr(storable)
