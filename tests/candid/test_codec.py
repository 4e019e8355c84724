"""Python values: how each type is written and read, and what is refused with a path to it."""

import threading
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from perdure.candid import (
    Codec,
    CoercionError,
    MethodRef,
    Some,
    decode,
    encode,
    parse_types,
    parse_values,
    value_to_text,
    values_to_text,
)
from perdure.candid.codec import decode_with_types
from perdure.candid.types import Bool, Nat, Nat8, Null, Opt, Rec, Record, Text, Variant, Vec
from perdure.errors import MalformedError
from perdure.ic.principal import Principal

SELF = Principal.from_text("w7x7r-cok77-xa")


@dataclass
class Account:
    owner: Principal
    from_: str
    memo: bytes | None = None


class Point(NamedTuple):
    x: int
    y: int


# type, what is given, what comes back, the bytes after the head
VALUES = [
    ("nat", 0, 0, "00"),
    ("nat", 624485, 624485, "e58e26"),
    ("nat", True, 1, "01"),
    ("int", -123456, -123456, "c0bb78"),
    ("nat64", 2**64 - 1, 2**64 - 1, "ff" * 8),
    ("int8", -1, -1, "ff"),
    ("float32", 0.5, 0.5, "0000003f"),
    ("float64", 3, 3.0, "0000000000000840"),
    ("bool", True, True, "01"),
    ("text", "☃", "☃", "03e29883"),
    ("null", None, None, ""),
    ("reserved", "anything", None, ""),
    ("principal", SELF, SELF, "0103caffee"),
    ("principal", "w7x7r-cok77-xa", SELF, "0103caffee"),
    ("service {}", SELF, SELF, "0103caffee"),
    ("func () -> ()", (SELF, "a"), MethodRef(SELF, "a"), "010103caffee0161"),
    ("opt nat", None, None, "00"),
    ("opt nat", 5, 5, "0105"),
    ("opt nat", Some(5), 5, "0105"),
    ("opt opt nat", None, None, "00"),
    ("opt opt nat", Some(None), Some(None), "0100"),
    ("opt opt nat", Some(5), Some(5), "010105"),
    ("opt null", Some(None), Some(None), "01"),
    ("blob", b"ab", b"ab", "026162"),
    ("blob", [97, 98], b"ab", "026162"),
    ("blob", bytearray(b"ab"), b"ab", "026162"),
    ("vec nat16", [1, 2], [1, 2], "0201000200"),
    ("vec nat16", range(2), [0, 1], "0200000100"),
    ("vec nat", (1, 300), [1, 300], "0201ac02"),
    ("vec text", ["a", ""], ["a", ""], "02016100"),
    ("vec bool", [True, False], [True, False], "020100"),
    ("record { a : nat; b : text }", {"b": "x", "a": 1}, {"a": 1, "b": "x"}, "010178"),
    ("record { a : nat; b : opt text }", {"a": 1}, {"a": 1, "b": None}, "0100"),
    ("record { a : nat }", {"_97_": 1}, {"a": 1}, "01"),
    ("record { a : nat }", {97: 1}, {"a": 1}, "01"),
    ("record { 7 : nat }", {7: 1}, {"_7_": 1}, "01"),
    ("record { nat; text }", (1, "x"), (1, "x"), "010178"),
    ("record { nat; text }", [1, "x"], (1, "x"), "010178"),
    ("record { nat; text }", {0: 1, 1: "x"}, (1, "x"), "010178"),
    ("record { nat; opt text }", (1,), (1, None), "0100"),
    ("record { x : nat; y : nat }", Point(1, 2), {"x": 1, "y": 2}, "0102"),
    ("record { nat; nat }", Point(1, 2), (1, 2), "0102"),
    ("variant { a; b : nat }", {"b": 5}, {"b": 5}, "0105"),
    ("variant { a; b : nat }", {"a": None}, {"a": None}, "00"),
    ("variant { a; b : nat }", "a", {"a": None}, "00"),
    ("variant { a; b : nat }", {"_98_": 5}, {"b": 5}, "0105"),
]


@pytest.mark.parametrize(("type_", "given", "back", "body"), VALUES)
def test_values_are_written_and_read(type_, given, back, body):
    types = parse_types(f"({type_})")
    message = encode(types, [given])
    assert message.hex().endswith(body)
    found = decode(message, types)
    assert found == (back,)
    assert type(found[0]) is type(back)


def test_a_dataclass_is_a_record_and_its_underscore_spares_a_keyword():
    types = parse_types('(record { owner : principal; "from" : text; memo : opt blob })')
    message = encode(types, [Account(SELF, "there")])
    assert decode(message, types) == ({"owner": SELF, "from": "there", "memo": None},)


# type, value, what the error says
REFUSED = [
    ("nat", -1, "value 0: expected nat, found -1 (int)"),
    ("nat", "5", "value 0: expected nat, found '5' (str)"),
    ("nat8", 256, "expected nat8, found 256"),
    ("float32", 1e39, "expected float32"),
    ("bool", 1, "expected bool, found 1 (int)"),
    ("text", b"x", "expected text, found b'x' (bytes)"),
    ("text", "\ud800", "expected text"),
    ("null", 0, "expected null (None), found 0"),
    ("empty", None, "type empty has no values"),
    ("principal", "aaaaa-ab", "not in canonical form"),
    ("principal", 5, "expected principal, found 5"),
    ("func () -> ()", SELF, "expected func as (principal, method)"),
    ("blob", "text", "expected blob (bytes), found 'text'"),
    ("blob", [256], "expected blob (bytes)"),
    ("vec nat", "text", "expected vec, found 'text'"),
    ("vec nat", 5, "expected vec, found 5"),
    ("vec nat8", None, "expected blob"),
    ("vec nat16", [1, 70000], "value 0[1]: expected nat16, found 70000"),
    ("vec record { a : vec nat }", [{"a": [1, -2]}], "value 0[0].a[1]: expected nat, found -2"),
    ("record { a : nat }", {}, "field 'a' : nat is missing"),
    ("record { a : nat }", {"a": 1, "b": 2}, "no field 'b', expected a"),
    ("record { a : opt nat }", {"b": 2}, "no field 'b', expected a"),
    ("record { a : nat }", 5, "expected record { a : nat }, found 5"),
    ("record { a : nat }", {"a": None}, "value 0.a: expected nat, found None"),
    ("record { nat; nat }", (1,), "is missing"),
    ("record { nat; nat }", (1, 2, 3), "no field 2"),
    ("variant { a; b : nat }", {"c": 1}, "no case 'c', expected a, b"),
    ("variant { a; b : nat }", {"a": None, "b": 1}, "expected a variant as {tag: value}"),
    ("variant { a; b : nat }", 5, "expected a variant as {tag: value}"),
    ("variant { a; b : nat }", {"b": "x"}, "value 0.b: expected nat, found 'x' (str)"),
]


@pytest.mark.parametrize(("type_", "value", "message"), REFUSED)
def test_other_values_are_refused_with_the_path_to_them(type_, value, message):
    with pytest.raises(ValueError) as caught:
        encode(parse_types(f"({type_})"), [value])
    assert message in str(caught.value)


def test_the_count_of_values_matters_but_for_nulls_at_the_end():
    assert decode(encode([Nat, Opt(Nat), Null], [1]), [Nat, Opt(Nat), Null]) == (1, None, None)
    with pytest.raises(ValueError, match="1 values for 2 types"):
        encode([Nat, Nat], [1])
    with pytest.raises(ValueError, match="2 values for 1 types"):
        encode([Nat], [1, 2])


def test_messages_without_types_show_numbers_for_names():
    message = encode([Record.of({"a": Nat, "b": Variant.of({"Ok": Text})})], [{"a": 1, "b": {"Ok": "x"}}])
    assert decode(message) == ({"_97_": 1, "_98_": {"_17724_": "x"}},)
    types, values = decode_with_types(message)
    assert value_to_text(types[0], values[0]) == 'record { 97 = 1 : nat; 98 = variant { 17_724 = "x" } }'


def test_a_blob_is_of_bytes_also_without_any():
    for wire in ("vec empty", "blob"):
        assert decode(encode(parse_types(f"({wire})"), [[]]), parse_types("(blob)")) == (b"",)
    for wire in ("vec text", "vec nat32", "vec record {}", "vec opt nat8"):
        message = encode(parse_types(f"({wire})"), [[]])
        assert decode(message, parse_types("(opt blob)")) == (None,)
        assert decode(message, parse_types("(vec principal)")) == ([],)
        with pytest.raises(CoercionError, match="does not coerce to blob"):
            decode(message, parse_types("(blob)"))


def test_a_codec_without_types_does_not_encode():
    with pytest.raises(ValueError, match="types are needed"):
        Codec(None).encode([1])


def test_messages_of_other_heads_go_through_one_codec():
    codec = Codec([Opt(Nat)])
    messages = [encode([Nat], [1]), encode([Opt(Nat)], [2]), encode([Text], ["x"]), encode([], [])]
    messages += [encode([Record.tuple_of(*[Nat] * size)], [(1,) * size]) for size in range(1, 12)]
    for _ in range(2):
        assert [codec.decode(one) for one in messages] == [(1,), (2,), (None,), (None,)] + [(None,)] * 11


def test_types_that_do_not_coerce_are_told_from_bytes_that_are_no_message():
    with pytest.raises(CoercionError, match="nat does not coerce to text"):
        decode(encode([Nat], [1]), [Text])
    with pytest.raises(CoercionError, match="argument 0 of type nat is missing"):
        decode(encode([], []), [Nat])
    with pytest.raises(CoercionError, match="without field 'b'"):
        decode(encode([Record.of({"a": Nat})], [{"a": 1}]), [Record.of({"b": Nat})])
    with pytest.raises(CoercionError, match="case '_97_' does not coerce"):
        decode(encode([Variant.of({"a": Null})], ["a"]), [Variant.of({"b": Null})])
    with pytest.raises(MalformedError) as caught:
        decode(b"DIDM")
    assert not isinstance(caught.value, CoercionError)


@pytest.mark.parametrize(
    ("wire", "value", "want", "path"),
    [
        ("nat", 1, "text", "value 0"),
        ("record { a : vec nat }", {"a": [1]}, "record { a : vec text }", "value 0.a[0]"),
        ("record { a : nat; b : nat }", {"a": 1, "b": 2}, "record { b : text; c : opt nat }", "value 0.b"),
        ("record { nat; nat }", (1, 2), "record { nat; text }", "value 0[1]"),
        ("vec record {}", [{}], "vec record { a : nat }", "value 0[0]"),
        ("variant { a : variant { b } }", {"a": "b"}, "variant { a : variant { c } }", "value 0.a._98_"),
    ],
)
def test_values_that_do_not_coerce_are_named(wire, value, want, path):
    with pytest.raises(CoercionError) as caught:
        decode(encode(parse_types(f"({wire})"), [value]), parse_types(f"({want})"))
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("message", "offset", "text"),
    [
        (b"", 0, "bad magic b'', expected b'DIDL'"),
        (b"DIDL", 4, "ends within its types"),
        (b"DIDL\0\1", 6, "ends within its types"),
        (b"DIDL\0\1\x7e", 7, "ends within a value"),
        (b"DIDL\0\1\x7e\2", 7, "bool 0x2, expected 0 or 1"),
        (b"DIDL\0\1\x7e\1\0", 8, "1 bytes after the last value"),
        (b"DIDL\0\1\x71\3\xe2\x28\xa1", 8, "not UTF-8"),
        (b"DIDL\0\1\x71\5x", 7, "text of 5 bytes, 1 left"),
        (b"DIDL\1\x6e\x7e\1\0\2", 9, "option tag 0x2"),
        (b"DIDL\1\x6b\1\0\x7f\1\0\1", 11, "variant index 1, expected less than 1"),
        (b"DIDL\1\x6d\x7e\1\0\x05\1", 9, "vector of 5 elements in 1 bytes"),
        (b"DIDL\0\1\x68\0", 7, "reference of kind 0"),
        (b"DIDL\0\1\x68\1\x1e" + b"x" * 30, 8, "principal of 30 bytes"),
        (b"DIDL\1\x6c\2\1\x7f\0\x7f\0", 9, "field id 0 after 1"),
        (b"DIDL\1\x6e\2\0", 6, "type index 2, expected less than 1"),
        (b"DIDL\1\x7f\0", 5, "opcode -1, expected a composite type"),
        (b"DIDL\1\x6a\0\0\1\4\0", 8, "function mode 4"),
        (b"DIDL\1\x69\1\1m\x71\0", 9, "method of type text, expected a function"),
        (b"DIDL\1\x6c\1\0\0\1\0", 11, "has no values"),
    ],
)
def test_errors_name_the_offset(message, offset, text):
    with pytest.raises(MalformedError) as caught:
        decode(message)
    assert (caught.value.offset, text in caught.value.message) == (offset, True), caught.value


def chain():
    rec = Rec("Chain")
    rec.define(Opt(Record.of({"head": Nat, "tail": rec})))
    return rec


@pytest.mark.parametrize("size", [10, 400, 5000])
def test_long_chains_need_no_deep_stack(size):
    type_, value = chain(), None
    for number in range(size):
        value = {"head": number, "tail": value}
    message = encode([type_], [value])
    for types in ([type_], None):
        [found] = decode(message, types)
        labels = ("head", "tail") if types else ("_1158359328_", "_1291237008_")
        numbers = []
        while found is not None:
            numbers.append(found[labels[0]])
            found = found[labels[1]]
        assert numbers == list(range(size))[::-1]


@pytest.mark.parametrize("size", [30, 300, 3000])
def test_long_chains_of_types_need_no_deep_stack(size):
    definitions = "; ".join(f"type T{index} = record {{ T{index + 1}; opt nat }}" for index in range(size))
    types = parse_types(f"{definitions}; type T{size} = nat; (T0, text)")
    value = 5
    for number in range(size):
        value = (value, number)
    message = encode(types, [value, "end"])
    assert decode(message, []) == ()
    for found, _ in (decode(message, types), decode(message)):
        for number in reversed(range(size)):
            found, last = found
            assert last == number
        assert found == 5
    text = values_to_text(types, [value, "end"])
    [again, _] = parse_values(text, types)[1]
    assert encode(types, [again, "end"]) == message


def test_a_value_that_contains_itself_is_refused():
    type_ = chain()
    value = {"head": 1}
    value["tail"] = value
    with pytest.raises(ValueError, match="nested deeper than"):
        encode([type_], [value])


def test_a_caller_with_a_full_stack_is_served():
    message = encode([Vec(Opt(Record.of({"a": Nat})))], [[{"a": 1}]])

    def dive(depth):
        return decode(message) if depth == 0 else dive(depth - 1)

    depth = 900
    while depth:
        try:
            assert dive(depth) == ([{"_97_": 1}],)
            break
        except RecursionError:  # the test itself ran out
            depth -= 5
    assert depth > 500


@pytest.mark.parametrize("bits", [7, 8, 14, 56, 64, 168, 169, 1000, 4096, 100_000])
def test_long_numbers(bits):
    for value in (1 << bits, (1 << bits) - 1):
        assert decode(encode(parse_types("(nat, int, int)"), [value, value, -value])) == (value, value, -value)


def test_a_huge_number_takes_linear_time():
    value = 1 << 4_000_000
    assert decode(encode([Nat], [value])) == (value,)


def test_numbers_with_padding_are_read():
    assert decode(b"DIDL\0\1\x7d\x80\x00") == (0,)
    assert decode(b"DIDL\0\1\x7c\xff\x7f") == (-1,)
    assert decode(b"DIDL\0\1\x7d" + b"\x80" * 50 + b"\x01") == (1 << 350,)


def test_threads_share_a_codec():
    type_ = chain()
    value = None
    for number in range(200):
        value = {"head": number, "tail": value}
    message = encode([type_], [value])
    codec = Codec([type_])
    results = []
    threads = [threading.Thread(target=lambda: results.append(codec.decode(message))) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert results == [(value,)] * 8


def test_equal_types_share_an_entry_of_the_table():
    assert encode([Vec(Nat), Vec(Nat)], [[], []]) == b"DIDL\1\x6d\x7d\2\0\0\0\0"
    assert encode([Opt(Vec(Bool)), Vec(Bool)], [None, []]) == b"DIDL\2\x6e\1\x6d\x7e\2\0\1\0\0"


def test_vectors_of_numbers_of_every_width():
    for bits in (8, 16, 32, 64):
        for sign, low, high in (("nat", 0, 2**bits - 1), ("int", -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)):
            types = parse_types(f"(vec {sign}{bits})")
            [found] = decode(encode(types, [[low, 1, high]]), types)
            assert list(found) == [low, 1, high]
    assert decode(encode([Vec(Nat8)], [b"abc"])) == (b"abc",)
