import math

import cbor2
import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from perdure.errors import MalformedError
from perdure.ic.principal import ANONYMOUS
from perdure.values import RAW, codec, to_json, to_sql
from perdure.values.show import json_text, to_text

CASES = [
    ("raw", "0x0a0b", "0a0b", b"\x0a\x0b"),
    ("text", "hé", "68c3a9", "hé"),
    ("u64", "7", "0000000000000007", 7),
    ("u16le", "0x0102", "0201", 258),
    ("i32le", "-2", "feffffff", -2),
    ("i64", "-1", "ff" * 8, -1),
    ("f64", "1.5", "3ff8000000000000", 1.5),
    ("f32le", "-2.0", "000000c0", -2.0),
    ("bool", "true", "01", True),
    ("principal", "2vxsx-fae", "04", ANONYMOUS),
    ("cbor", '{"a": [1, null]}', "a161618201f6", {"a": [1, None]}),
    ("json", '{"a": 1}', b'{"a":1}'.hex(), {"a": 1}),
    ("length(cbor)", "[1]", "02000000" + "8101", [1]),
    ("struct(a: u8, b: u16le, c: text)", '{"a": 1, "b": 2, "c": "x"}', "01020078", {"a": 1, "b": 2, "c": "x"}),
    ("struct(who: principal)", '{"who": "2vxsx-fae"}', "04", {"who": ANONYMOUS}),
    ("(u8, Blob<2>)", '[7, "0a"]', "070a0001", (7, b"\x0a")),
    ("Option<u8>", "7", "0701", 7),
    ("[u8; 2]", '"0102"', "0102", b"\x01\x02"),
    ("Reverse<u8>", "3", "03", 3),
]


@pytest.mark.parametrize(("name", "text", "data", "value"), CASES, ids=[case[0] for case in CASES])
def test_text_to_bytes_and_back(name, text, data, value):
    found = codec(name)
    assert found.from_text(text).hex() == data
    assert found.decode(bytes.fromhex(data)) == value
    assert codec(found.name) == found


@pytest.mark.parametrize(
    "name",
    ["u7", "u64be", "i65le", "nothing", "struct()", "struct(a: text, b: u8)", "struct(a: u8, a: u8)", "Option<", ""],
)
def test_no_such_codec(name):
    with pytest.raises(ValueError, match=r"."):
        codec(name)


def test_nesting_is_bounded():
    with pytest.raises(ValueError, match=r"nest"):
        codec("length(" * 40 + "u8" + ")" * 40)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("u32", "0102"),
        ("u32le", "0102"),
        ("text", "ff"),
        ("cbor", "a1"),
        ("cbor", "0102"),
        ("cbor", "9f" * 2000),
        ("json", "7b"),
        ("candid", "4449444c"),
        ("length(cbor)", "ff000000"),
        ("struct(a: u8, b: u8)", "01"),
        ("struct(a: u8, b: u8)", "010203"),
        ("principal", "00" * 30),
    ],
)
def test_bytes_that_do_not_decode(name, data):
    found = codec(name)
    assert not found.is_valid(bytes.fromhex(data))
    with pytest.raises(MalformedError):
        found.decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("u8", 256),
        ("u8", -1),
        ("u8", True),
        ("u16le", 1.5),
        ("principal", 5),
        ("bytes", 1 << 40),
        ("[u8; 2]", 2),
        ("struct(a: u8)", {}),
    ],
)
def test_values_that_do_not_encode(name, value):
    with pytest.raises(ValueError, match=r"."):
        codec(name).encode(value)


@given(st.integers(0, (1 << 128) - 1), st.integers(0, (1 << 128) - 1))
def test_sql_orders_wide_integers_as_they_are(one, other):
    def rank(value):
        shown = to_sql(value)
        return (isinstance(shown, str), shown)  # SQLite puts every number before every text

    assert (rank(one) < rank(other)) == (one < other)
    assert codec("u128").from_sql(to_sql(one)) == codec("u128").encode(one)


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), min_size=2, max_size=2))
def test_a_codec_knows_the_order_of_its_keys(values):
    for name in ("i64", "i64le", "struct(a: i64)"):
        found = codec(name)
        one, other = (found.encode({"a": value} if "struct" in name else value) for value in values)
        order = found.order or bytes
        assert (order(one) < order(other)) == (values[0] < values[1])


def test_candid_tells_its_own_types():
    data = bytes.fromhex("4449444c016c02007101780100" + "0268690500000000000000")
    value = codec("candid").decode(data)
    assert "hi" in str(value)
    assert "5" in str(value)


def test_protobuf_by_descriptor(tmp_path):
    file = descriptor_pb2.FileDescriptorProto(name="m.proto", package="demo", syntax="proto3")
    message = file.message_type.add(name="User")
    message.field.add(name="name", number=1, type=9, label=1)
    message.field.add(name="age", number=2, type=13, label=1)
    path = tmp_path / "all.pb"
    path.write_bytes(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    found = codec(f"protobuf({path}, demo.User)")
    data = found.encode({"name": "Ann", "age": 30})
    assert data == b"\n\x03Ann\x10\x1e"
    assert found.decode(data) == {"name": "Ann", "age": 30}
    assert found.fields == ("name", "age")
    with pytest.raises(MalformedError):
        found.decode(b"\n\xff")
    with pytest.raises(ValueError, match=r"Nobody"):
        codec(f"protobuf({path}, demo.Nobody)")


def test_values_as_json():
    tagged = cbor2.CBORTag(4711, b"\x01")
    value = {1: (b"\xff", ANONYMOUS, math.inf, None, True), "t": tagged, "s": {3}}
    assert to_json(value) == {
        "1": ["ff", "2vxsx-fae", "inf", None, True],
        "t": {"tag": 4711, "value": "01"},
        "s": [3],
    }


def test_raw_is_not_sure_of_its_order():
    assert not RAW.is_ordered
    assert not codec("cbor").is_ordered
    assert codec("struct(a: u8, b: principal)").is_ordered


def test_integers_of_thousands_of_digits_are_shown_in_hexadecimal():
    """Decimal text takes quadratic time, and Python refuses it with a ValueError."""
    value = -(1 << 100_000)
    assert to_json([value]) == [f"-0x1{'0' * 25_000}"]
    assert to_sql(value) == to_text(value) == to_json(value)
    assert json_text({"a": value}) == f'{{"a": "{to_json(value)}"}}'
    assert to_json(1 << 10_000) == to_text(1 << 10_000) == 1 << 10_000


def test_cbor_that_refers_to_itself_is_no_value():
    with pytest.raises(MalformedError, match="refers to itself"):
        codec("cbor").decode(b"\xd8\x1c\x81\xd8\x1d\x00")


def test_what_is_no_hexadecimal_is_told_so():
    assert codec("raw").from_text("0x05ff") == b"\x05\xff"
    for text in ("5", "xy", "0x0"):
        with pytest.raises(ValueError, match="expected hexadecimal, two digits for each byte"):
            codec("raw").from_text(text)
