"""Values as JSON: the form that dfx prints, and nothing lost."""

from __future__ import annotations

import json

import pytest
from generated_values import BOUNDED, typed
from hypothesis import given

from perdure.candid import Some, parse_type, parse_values
from perdure.candid.json_form import values_to_json
from perdure.candid.types import Opt, Rec, Record


@pytest.mark.parametrize(
    ("type_", "text", "expected"),
    [
        ("text", '"Hello"', "Hello"),
        ("opt text", "null", []),
        ("opt text", 'opt "w"', ["w"]),
        ("int", "111222333444555666777888999", "111_222_333_444_555_666_777_888_999"),
        ("nat64", "1000", "1000"),
        ("int64", "-1000", "-1000"),
        ("nat32", "1000", 1000),
        ("variant { foo; bar : text }", "variant { foo }", {"foo": None}),
        ("blob", 'blob "abd"', [97, 98, 100]),
        ("opt opt nat8", "null", []),
        ("opt opt nat8", "opt null", [[]]),
        ("opt opt nat8", "opt opt 3", [[3]]),
        ("opt null", "opt null", [None]),
        ("vec opt opt nat8", "vec { null; opt null; opt opt 1 }", [[], [[]], [[1]]]),
        ("func () -> ()", 'func "aaaaa-aa".m', {"canister": "aaaaa-aa", "method": "m"}),
        ("service {}", 'service "aaaaa-aa"', "aaaaa-aa"),
        ("principal", 'principal "aaaaa-aa"', "aaaaa-aa"),
        ("float64", "nan", "NaN"),
        ("float32", "-inf", "-Infinity"),
        ("float64", "1.5", 1.5),
        ("bool", "true", True),
        ("reserved", "5", None),
        ("record { nat8; text }", 'record { 1; "x" }', {"0": 1, "1": "x"}),
        ("record { 70_000 : text; a : nat8 }", 'record { 70_000 = "x"; a = 1 }', {"70000": "x", "a": 1}),
    ],
)
def test_the_form(type_, text, expected):
    types, values = parse_values(f"({text})", [parse_type(type_)])
    assert values_to_json(types, values) == [expected]


@BOUNDED
@given(typed())
def test_every_value_has_one(pair):
    type_, value = pair
    assert json.loads(json.dumps(values_to_json([type_], [value]), allow_nan=False)) is not None


def test_nested_options_are_told_apart():
    type_ = Opt(Opt(Opt(parse_type("nat8"))))
    values = (None, Some(None), Some(Some(None)), Some(Some(3)))
    assert [values_to_json([type_], [one])[0] for one in values] == [[], [[]], [[[]]], [[[3]]]]


def test_deep_and_huge_values():
    chain = Rec("Chain")
    chain.define(Opt(Record.of({"tail": chain})))
    value = None
    for _ in range(2000):
        value = {"tail": value}
    assert values_to_json([chain], [value])[0][0]["tail"]
    assert values_to_json([parse_type("int")], [-(1 << 100_000)])[0].startswith("-0x1000")
