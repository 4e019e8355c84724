"""Formats of declared parts: the same values through all of them, one part without the others, what they may become."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.values import codec
from perdure.values.compatibility import compare_formats, prove

FAMILIES = ["json", "protobuf", "flatbuffers", "cbor"]
PARTS = "a: u64, b: text, c: u8, d: bytes, e: principal, f: i32, g: bool, h: f64, i: u128, j: candid(vec nat8)"


@pytest.mark.parametrize("family", FAMILIES)
@given(
    st.fixed_dictionaries(
        {
            "a": st.integers(0, 2**64 - 1),
            "b": st.text(),
            "c": st.integers(0, 255),
            "d": st.binary(),
            "e": st.binary(max_size=29).map(Principal),
            "f": st.integers(-(2**31), 2**31 - 1),
            "g": st.booleans(),
            "h": st.floats(allow_nan=False, allow_infinity=False),
            "i": st.integers(0, 2**128 - 1),
            "j": st.binary(),
        }
    )
)
@settings(max_examples=30, deadline=None)
def test_all_of_them_give_back_what_was_put_in(family, value):
    one = codec(f"{family}({PARTS})")
    data = one.encode(value)
    assert one.decode(data) == value
    assert one.field(data, "e") == value["e"]
    assert one.kind.labels == one.fields == tuple("abcdefghij")


@pytest.mark.parametrize("family", ["json", "protobuf", "flatbuffers"])
def test_what_may_be_missing(family):
    one = codec(f"{family}(a: Option<u8>, b: Option<text>)")
    for value in ({"a": 0, "b": ""}, {"a": None, "b": "x"}, {"a": 7, "b": None}):
        assert one.decode(one.encode(value)) == value
    assert one.decode(one.encode({})) == {"a": None, "b": None}
    with pytest.raises(ValueError, match="256"):
        one.encode({"a": 256})
    with pytest.raises(ValueError, match="unknown: z"):
        one.encode({"z": 1})


def test_json_is_what_anyone_would_write():
    one = codec("json(id: u64, owner: principal, data: bytes, city: Option<text>)")
    text = b'{"id":7,"owner":"aaaaa-aa","data":"00ff"}'
    value = {"id": 7, "owner": Principal(b""), "data": b"\0\xff", "city": None}
    assert (one.encode(value), one.decode(text)) == (text, value)
    assert one.decode(b'{ "city": "Zug", "id": 7, "owner": "aaaaa-aa", "data": "", "more": [1] }')["city"] == "Zug"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[1]", "a JSON object expected"),
        (b'{"id": -1}', "part 'id' holds u64, found -1"),
        (b'{"id": "x"}', "part 'id' holds u64, found 'x'"),
        (b'{"data": "zz"}', "part 'data' holds bytes, found 'zz'"),
        (b'{"data": 7}', "part 'data' holds bytes, found 7"),
        (b"[" * 100_000, "no JSON"),
        (b"\xff", "no JSON"),
    ],
)
def test_what_is_no_such_object(text, message):
    with pytest.raises(MalformedError, match=message):
        codec("json(id: u64, data: bytes)").decode(text)


def test_a_field_of_protobuf_that_is_too_wide():
    wide, narrow = codec("protobuf(a: u32)"), codec("protobuf(a: u8)")
    assert narrow.decode(wide.encode({"a": 255})) == {"a": 255}
    with pytest.raises(MalformedError, match="part 'a' holds u8, found 256"):
        narrow.decode(wide.encode({"a": 256}))
    with pytest.raises(MalformedError, match="no message of a"):
        narrow.decode(b"\xff")


def test_protobuf_by_a_file_is_told_from_parts(tmp_path):
    with pytest.raises(ValueError, match=r"no message a.User"):
        codec(f"protobuf({tmp_path / 'x'}, a.User)")


VALUE = {"a": 7, "b": "x"}
CHANGES = [
    # the new parts, the verdict by family
    ("a: u64, b: text, c: Option<u8>", {"cbor": "one way"}, "compatible"),
    ("a: u64", {"cbor": "breaking"}, "one way"),
    ("a: u64, c: text", {"json": "one way"}, "silently wrong"),
    ("b: text, a: u64", {"json": "compatible"}, "silently wrong"),
    ("a: Option<u64>, b: text", {"cbor": "breaking"}, "one way"),  # an array keeps an option as bytes of its own
    ("a: u32, b: text", {"flatbuffers": "silently wrong", "cbor": "silently wrong"}, "breaking"),
    ("a: text, b: text", {"json": "breaking"}, "silently wrong"),
    ("a: i64, b: text", {"json": "breaking"}, "silently wrong"),
]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("parts", "others", "verdict"), CHANGES)
def test_what_may_become_of_them(family, parts, others, verdict):
    old, new = codec(f"{family}(a: u64, b: text)"), codec(f"{family}({parts})")
    expected = others.get(family, verdict)
    assert compare_formats(old, new).verdict == expected
    proof = prove(old, new, [old.encode(VALUE), old.encode({"a": 2**40, "b": "y"})])
    if expected in ("compatible", "one way"):
        assert (proof.undecodable, proof.different) == (0, 0)


def test_the_number_of_a_field_grows_where_it_may():
    for family, verdict in (("json", "one way"), ("protobuf", "one way"), ("flatbuffers", "silently wrong")):
        old, new = codec(f"{family}(a: u32, b: text)"), codec(f"{family}(a: u64, b: text)")
        assert compare_formats(old, new).verdict == verdict, family
        values = [old.encode({"a": number, "b": "x" * number}) for number in (0, 7)]
        assert (prove(old, new, values).verdict == "compatible") == (verdict == "one way"), family
    assert json.loads(codec("json(a: u32)").encode({"a": 1})) == {"a": 1}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "inner", ["any", "uri", "json", "cbor", "f32", "packed", "Option<Option<u8>>", "struct(a: u8)"]
)
def test_any_format_within_and_whatever_value_is_one_or_a_value_error(family, inner):
    one = codec(f"{family}(a: {inner})")
    values = [7, None, {"a": 3}, [1, 2], "x", 0.5, b"abcd", (1, "x"), object(), "aaaaa-aa/x"]
    for value in values:
        try:
            data = one.encode({"a": value})
        except ValueError:
            continue
        found = one.decode(data)["a"]
        assert found == one.field(data, "a")
        assert one.encode({"a": found}) == data


def test_names_that_a_format_does_not_take():
    with pytest.raises(ValueError, match="is no message"):
        codec("protobuf(é: u8)")
    assert codec("protobuf(class: u8)").decode(b"\x08\x07") == {"class": 7}
