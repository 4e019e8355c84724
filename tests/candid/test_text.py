import math

import pytest

from perdure.candid import MethodRef, Some, parse_type, parse_types, parse_values, value_to_text, values_to_text
from perdure.candid.types import Bool, Int, Opt, Rec, Record, Text, Vec
from perdure.errors import MalformedError
from perdure.ic.principal import Principal

SELF = Principal.from_text("w7x7r-cok77-xa")


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        ("nat", "1_000", 1000),
        ("nat", "0xFF_ff", 65535),
        ("int", "-42", -42),
        ("int", "+42", 42),
        ("int8", "-128", -128),
        ("float64", "4_2.5e-1", 4.25),
        ("float64", "42.", 42.0),
        ("float64", "-42", -42.0),
        ("float64", "0x1.8p+3", 12.0),
        ("float64", "-0xA.p-1", -5.0),
        ("float64", "1e400", math.inf),
        ("float32", "0.1", 0.10000000149011612),
        ("text", '"\\n\\t\\r\\\\\\"\\\'\\u{26_03}\\e2\\98\\83"', "\n\t\r\\\"'☃☃"),
        ("bool", "true", True),
        ("null", "null", None),
        ("reserved", "(record { 1 })", None),
        ("opt nat", "null", None),
        ("opt nat", "opt 5", 5),
        ("opt nat", "5", 5),
        ("opt opt nat", "opt null", Some(None)),
        ("blob", 'blob "a\\00\\ff"', b"a\x00\xff"),
        ("blob", "vec { 1; 2 }", b"\x01\x02"),
        ("vec text", 'vec { "a"; "b"; }', ["a", "b"]),
        ("record { a : nat; b : opt nat }", "record { a = 1; c = 2 }", {"a": 1, "b": None}),
        ("record { nat; text }", 'record { 1; "x" }', (1, "x")),
        ("record { nat; 5 : text; nat }", 'record { 1; 5 = "x"; 2 }', {"_0_": 1, "_5_": "x", "_6_": 2}),
        ("variant { a; b : nat }", "variant { a }", {"a": None}),
        ("variant { a; b : nat }", "variant { 98 = 5 }", {"b": 5}),
        ("record { nan : nat; inf : nat }", "record { nan = 1; inf = 2 }", {"inf": 2, "nan": 1}),
        ("record { float64 }", "record { inf }", (math.inf,)),
        ("principal", 'principal "w7x7r-cok77-xa"', SELF),
        ("principal", 'service "w7x7r-cok77-xa"', SELF),
        ("func () -> ()", 'func "w7x7r-cok77-xa"."a b"', MethodRef(SELF, "a b")),
        ("nat", "(((5)))", 5),
        ("int", "(5 : nat)", 5),
        ("opt nat8", "(5 : nat8)", 5),
        ("nat", "/* five */ 5 // really", 5),
    ],
)
def test_values_are_read_at_their_types(type_, text, value):
    types = parse_types(f"({type_})")
    # A line end, as the text may end in a comment.
    found = parse_values(f"({text}\n)", types)[1]
    assert found == (value,)
    assert type(found[0]) is type(value)


@pytest.mark.parametrize(
    ("type_", "text", "message"),
    [
        ("nat", "-1", "line 1, column 2: found '-1', expected nat"),
        ("nat8", "256", "expected nat8"),
        ("int", "1.5", "expected int"),
        ("float32", "1e39", "expected float32"),
        ("text", '"\\ff"', "text is not UTF-8"),
        ("text", '"\\x"', "unknown escape '\\\\x'"),
        ("text", '"abc', "expected a token"),
        ("principal", '"aaaaa-aa"', "expected principal"),
        ("principal", 'principal "aaaaa-ab"', "canonical form"),
        ("service {}", 'principal "aaaaa-aa"', "expected service {}"),
        ("record { a : nat }", "record {}", "expected field 'a' : nat in this record"),
        ("record { a : nat }", "record { a = 1; a = 2 }", "two fields with the id 97"),
        ("record { a : nat }", "record { a }", "expected `=`"),
        ("variant { a }", "variant { b }", "expected variant { a }"),
        ("variant { a }", "variant {}", "expected a name"),
        ("variant { a }", "variant { a; }", "found ';', expected `}`"),
        ("variant { a : nat }", "variant { a = 1; }", "expected `}`"),
        ("record { a : nat }", "record { true = 1 }", "expected `;`"),
        ("vec nat", 'blob "\\01"', "expected vec nat"),
        ("vec nat32", 'blob ""', "expected vec nat32"),
        ("blob", "(vec {} : vec nat32)", "vec nat32 does not coerce to blob"),
        ("principal", 'principal ""', "principal '' is too short for a checksum"),
        ("principal", 'principal "alice"', "principal 'alice' is too short for a checksum"),
        ("empty", "null", "expected empty"),
        ("nat", "(5 : text)", "expected text"),
        ("nat", '("x" : text)', "text does not coerce to nat"),
        ("nat", "(5 : Unknown)", "type Unknown is not defined"),
        ("nat", "5, 6", "expected 1 value"),
        ("nat, nat", "5", "expected a value of type nat"),
        ("nat", "1" * 5000, "write it in hexadecimal"),
        ("nat", "1__", None),
        ("nat", "nope", "expected a value"),
        ("nat", "5; 6", "expected `,`"),
    ],
)
def test_other_text_is_refused(type_, text, message):
    types = parse_types(f"({type_})")
    if message is None:
        assert parse_values(f"({text})", types)[1] == (1,)
        return
    with pytest.raises(MalformedError) as caught:
        parse_values(f"({text})", types)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("42", "int"),
        ("42.5", "float64"),
        ("(42 : nat8)", "nat8"),
        ("vec { null; opt 5 }", "vec opt int"),
        ("vec { opt 5; null }", "vec opt int"),
        ("vec {}", "vec empty"),
        ("vec { vec {}; vec { 1 } }", "vec vec int"),
        ("vec { variant { a }; variant { b = 1 } }", "vec variant { a; b : int }"),
        ('record { a = 1; b = "x" }', "record { a : int; b : text }"),
        ('blob "x"', "blob"),
        ('service "aaaaa-aa"', "service {}"),
    ],
)
def test_types_are_inferred(text, type_):
    types, _ = parse_values(f"({text})")
    assert str(types[0]) == str(parse_type(type_))


def test_elements_of_different_types_are_refused():
    with pytest.raises(MalformedError, match="expected an element of type int, as before it"):
        parse_values('(vec { 1; "x" })')


def test_annotations_may_use_names():
    name = Rec("T")
    name.define(Opt(Int))
    assert parse_values("(5 : T)", None, {"T": name}) == ((name,), (5,))


@pytest.mark.parametrize(
    ("type_", "value", "text"),
    [
        ("nat64", 1234567, "1_234_567 : nat64"),
        ("int", -5, "-5 : int"),
        ("float64", 3.0, "3.0 : float64"),
        ("float64", -0.0, "-0.0 : float64"),
        ("float64", 1e300, "1e+300 : float64"),
        ("float32", 1245.678, "1245.678 : float32"),
        ("float32", 0.1, "0.1 : float32"),
        ("float32", 16777216.0, "16777216.0 : float32"),
        ("float32", -0.0, "-0.0 : float32"),
        ("float32", 3.4028234663852886e38, "3.4028235e+38 : float32"),
        ("float32", 1e-45, "1e-45 : float32"),
        ("float32", math.inf, "inf : float32"),
        ("float64", 1245.678, "1245.678 : float64"),
        ("bool", False, "false"),
        ("null", None, "null : null"),
        ("reserved", None, "null : reserved"),
        ("text", 'a"☃\n\0', '"a\\"☃\\n\\u{0}"'),
        ("opt nat", None, "null"),
        ("opt nat", 5, "opt (5 : nat)"),
        ("opt text", "x : y", 'opt "x : y"'),
        ("opt opt nat", Some(None), "opt null"),
        ("blob", b"plain", 'blob "plain"'),
        ("blob", b"\x00a", 'blob "\\00\\61"'),
        ("blob", b'a"b\n', 'blob "a\\22b\\0a"'),
        ("vec nat", [1, 2], "vec { 1 : nat; 2 : nat }"),
        ("vec nat", [], "vec {}"),
        ("record { nat; text }", (1, "x"), 'record { 1 : nat; "x" }'),
        ("record { 70_000 : text }", {70000: "x"}, 'record { 70_000 = "x" }'),
        ("variant { a; b : nat }", "a", "variant { a }"),
        ("variant { a; b : nat }", {"b": 1}, "variant { b = 1 : nat }"),
        ("principal", SELF, 'principal "w7x7r-cok77-xa"'),
        ("service {}", SELF, 'service "w7x7r-cok77-xa"'),
        ("func () -> ()", (SELF, "a b"), 'func "w7x7r-cok77-xa"."a b"'),
    ],
)
def test_values_print_as_didc_prints_them(type_, value, text):
    assert value_to_text(parse_type(type_), value) == text


def test_long_values_are_laid_out_over_lines():
    types = parse_types(
        "(opt record { head : int16; tail : opt record { head : int16; tail : null } }, variant { a : nat })"
    )
    values = ({"head": 1000, "tail": {"head": -2000, "tail": None}}, {"a": 42})
    assert (
        values_to_text(types, values)
        == """(
  opt record {
    head = 1_000 : int16;
    tail = opt record { head = -2_000 : int16; tail = null : null };
  },
  variant { a = 42 : nat },
)"""
    )


def test_a_variant_over_lines_has_no_semicolon():
    types = parse_types("(variant { Ok : record { owner : principal; memo : text; amount : nat }; Err : text })")
    value = {"Ok": {"owner": SELF, "memo": "a memo that makes the line too long for one", "amount": 10**20}}
    assert (
        values_to_text(types, [value])
        == """(
  variant {
    Ok = record {
      owner = principal "w7x7r-cok77-xa";
      memo = "a memo that makes the line too long for one";
      amount = 100_000_000_000_000_000_000 : nat;
    }
  },
)"""
    )


def test_a_line_is_filled_to_its_last_column():
    text = value_to_text(Text, "x" * 67)
    assert len(values_to_text([Vec(Text)], [["x" * 68]])) == len(f"(vec {{ {text} }})") + 1 == 80
    assert values_to_text([Vec(Text)], [["x" * 69]]).count("\n") == 4


def test_what_must_be_of_its_type_to_print():
    with pytest.raises(ValueError, match="expected bool"):
        values_to_text([Bool], [1])


def test_deep_values_both_ways():
    rec = Rec("L")
    rec.define(Opt(Record.of({"tail": rec})))
    depth = 2000
    text = "(" + "opt record { tail = " * depth + "null" + " }" * depth + ")"
    types, [value] = parse_values(text, [rec])
    assert value is not None
    printed = values_to_text(types, [value])
    assert printed.count("opt record") == depth
    again = parse_values(printed, [rec])[1][0]
    for _ in range(depth):
        again = again["tail"]
    assert again is None


def test_huge_numbers_both_ways():
    value = 1 << 100_000
    text = value_to_text(Int, value)
    assert text.startswith("0x1000")
    assert parse_values(f"({text})", [Int])[1] == (value,)


def test_many_elements():
    types = [Vec(Record.of({"a": Text}))]
    values = [[{"a": str(index)} for index in range(2000)]]
    assert parse_values(values_to_text(types, values), types)[1] == tuple(values)


@pytest.mark.parametrize(
    "text",
    [
        '("' + "a" * 100_000,
        '("' + "\\n" * 50_000,
        "(" + "1" * 100_000 + "z",
        "/*" * 50_000,
        "(" * 50_000,
        "0x" + "_" * 9999,
    ],
)
def test_long_nonsense_is_refused_in_linear_time(text):
    with pytest.raises(MalformedError):
        parse_values(text)


def test_deep_values_without_a_type_are_refused():
    for keyword in ("vec { ", "opt ", "record { ", "variant { a = "):
        depth = 3000
        text = f"({keyword * depth}1{' }' * depth if '{' in keyword else ''})"
        with pytest.raises(MalformedError, match="nested at most 100 deep"):
            parse_values(text)


@pytest.mark.parametrize("text", ["1.0 : float32", "(1 : nat) : int", "1 : nat8", '"a" : text'])
def test_a_value_of_another_type_does_not_vanish_in_an_option(text):
    """It became null, as it does in a message; but here somebody wrote it."""
    with pytest.raises(MalformedError, match="expected opt nat"):
        parse_values(f"({text})", [parse_type("opt nat")])
    assert parse_values("(1 : nat, null : opt int, null : null)", [parse_type("opt nat")] * 3)[1] == (1, None, None)


@pytest.mark.parametrize(("text", "value"), [(".5", 0.5), ("-.5e1", -5.0), ("+.25", 0.25)])
def test_a_float_needs_no_digit_before_its_point(text, value):
    """As the reference implementation reads it."""
    assert list(parse_values(f"({text})", [parse_type("float64")])[1]) == [value]
