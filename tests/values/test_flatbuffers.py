"""Flatbuffers against the package of that name, both ways; and what a hostile buffer can do: nothing."""

from __future__ import annotations

import struct

import flatbuffers
import pytest
from flatbuffers import number_types
from flatbuffers.table import Table
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.values import codec

USER = codec(
    "flatbuffers(id: u64, email: text, city: Option<text>, age: u8, owner: principal, score: f64, is_new: bool, "
    "level: Option<i16>, tags: candid(vec text), wide: u128, small: f32)"
)
ADA = {
    "id": 2**64 - 1,
    "email": "adä\0",
    "city": None,
    "age": 36,
    "owner": Principal(b"\1\2"),
    "score": -0.5,
    "is_new": True,
    "level": 0,
    "tags": ["x", "y"],
    "wide": 2**100,
    "small": 0.5,
}


def test_there_and_back():
    data = USER.encode(ADA)
    assert USER.decode(data) == ADA
    assert [USER.field(data, label) for label in ADA] == list(ADA.values())
    assert USER.kind.labels == tuple(ADA)


users = st.fixed_dictionaries(
    {
        "a": st.integers(0, 2**64 - 1),
        "b": st.text(),
        "c": st.none() | st.integers(-128, 127),
        "d": st.binary(),
        "e": st.floats(allow_nan=False),
        "f": st.booleans(),
        "g": st.none() | st.text(),
        "h": st.integers(0, 65_535),
    }
)
PARTS = codec("flatbuffers(a: u64, b: text, c: Option<i8>, d: bytes, e: f64, f: bool, g: Option<text>, h: u16)")


@given(users)
@settings(max_examples=60, deadline=None)
def test_the_package_reads_what_is_written(user):
    data = bytearray(PARTS.encode(user))
    table = Table(data, struct.unpack_from("<I", data)[0])

    def at(index: int) -> int:
        offset = table.Offset(4 + 2 * index)
        return offset and offset + table.Pos

    assert table.Get(number_types.Uint64Flags, at(0)) == user["a"]
    assert table.String(at(1)) == user["b"].encode()
    assert at(2) == 0 if user["c"] is None else table.Get(number_types.Int8Flags, at(2)) == user["c"]
    assert (table.VectorLen(at(3) - table.Pos), data[table.Vector(at(3) - table.Pos) :][: len(user["d"])]) == (
        len(user["d"]),
        user["d"],
    )
    assert table.Get(number_types.Float64Flags, at(4)) == user["e"]
    assert table.Get(number_types.BoolFlags, at(5)) == user["f"]
    assert at(6) == 0 if user["g"] is None else table.String(at(6)) == user["g"].encode()
    # Each number lies at a multiple of its width, as readers in other languages want it.
    assert [at(index) % width for index, width in ((0, 8), (1, 4), (3, 4), (4, 8), (7, 2))] == [0] * 5


@given(users)
@settings(max_examples=60, deadline=None)
def test_what_the_package_writes_is_read(user):
    builder = flatbuffers.Builder(0)
    text, blob = builder.CreateString(user["b"]), builder.CreateByteVector(user["d"])
    other = None if user["g"] is None else builder.CreateString(user["g"])
    builder.StartObject(8)
    builder.PrependUint64Slot(0, user["a"], 0)  # zeros are left out
    builder.PrependUOffsetTRelativeSlot(1, text, 0)
    if user["c"] is not None:
        builder.PrependInt8Slot(2, user["c"], None)
    builder.PrependUOffsetTRelativeSlot(3, blob, 0)
    builder.PrependFloat64Slot(4, user["e"], 0.0)
    builder.PrependBoolSlot(5, user["f"], 0)
    if other is not None:
        builder.PrependUOffsetTRelativeSlot(6, other, 0)
    builder.PrependUint16Slot(7, user["h"], 0)
    builder.Finish(builder.EndObject())
    assert PARTS.decode(bytes(builder.Output())) == user


def test_parts_that_came_later_and_ones_that_are_not_known():
    old, new = codec("flatbuffers(a: u64)"), codec("flatbuffers(a: u64, b: text, c: u8, d: Option<u8>)")
    assert new.decode(old.encode({"a": 7})) == {"a": 7, "b": None, "c": 0, "d": None}
    assert old.decode(new.encode({"a": 7, "b": "x", "c": 1, "d": 2})) == {"a": 7}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": -1}, "-1"),
        ({"a": True}, "True"),
        ({"a": 2**64}, str(2**64)),
        ({}, "missing: a"),
        ({"a": None}, "part 'a' is never null"),
        ({"a": 1, "b": 2}, "unknown: b"),
        (7, "an object of a, found 7"),
    ],
)
def test_what_is_no_value(value, message):
    with pytest.raises(ValueError, match=message):
        codec("flatbuffers(a: u64)").encode(value)


@pytest.mark.parametrize("name", ["flatbuffers", "flatbuffers()", "flatbuffers(a)", "flatbuffers(a: u8, a: u8)"])
def test_what_is_no_declaration(name):
    with pytest.raises(ValueError, match="part"):
        codec(name)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_a_changed_buffer_is_read_or_refused(data):
    """Never another error, and never more than what is there: each part is within the buffer, and looked at once."""
    buffer = bytearray(USER.encode(ADA))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(buffer) - 4))
        struct.pack_into(
            "<I", buffer, at, data.draw(st.sampled_from([0, 1, 4, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, at]))
        )
    buffer = buffer[: data.draw(st.integers(0, len(buffer)))]
    for read in (lambda: USER.decode(bytes(buffer)), lambda: USER.field(bytes(buffer), "tags")):
        try:
            found = read()
        except MalformedError:
            continue
        if isinstance(found, dict):
            assert len(found["email"] or "") <= len(buffer)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "a table past the end of 0 bytes"),
        (b"\xff\xff\xff\x7f", "past the end"),
        (struct.pack("<Ii", 4, 100), "the vtable lies before the beginning"),
        (struct.pack("<IiHH", 4, -4, 400, 4), "a vtable of 400 bytes, a table of 4"),
        (struct.pack("<IiHHHH", 4, -4, 6, 900, 4, 0), "a vtable of 6 bytes, a table of 900"),
        (struct.pack("<IHHHHi", 12, 6, 4, 60_000, 0, 8), "part 'a' lies past the end of 16 bytes"),
        (struct.pack("<IHHHHiIII", 12, 6, 8, 4, 0, 8, 4, 77, 0), "part 'a' has 77 bytes, 4 are left"),
        (struct.pack("<IHHHHiII2s", 12, 6, 8, 4, 0, 8, 4, 2, b"\xff\xff"), "part 'a' is no UTF-8"),
    ],
)
def test_what_is_no_flatbuffer(data, message):
    with pytest.raises(MalformedError, match=message):
        codec("flatbuffers(a: text)").decode(data)
