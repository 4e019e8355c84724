"""What may follow what: rules for each format, held against the values themselves."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.candid.service import load
from perdure.values import codec, parse_schema
from perdure.values.candid import CandidValue
from perdure.values.compatibility import compare_formats, compare_schemas, prove

RULES = [
    ("u64", "u64", "compatible"),
    ("u64", "u64le", "silently wrong"),
    ("u64", "i64", "silently wrong"),
    ("u64", "f64", "silently wrong"),
    ("u64", "u128", "breaking"),
    ("u64", "raw", "one way"),
    ("raw", "u64", "unknown"),
    ("text", "cbor", "breaking"),
    ("text", "bytes", "one way"),
    ("candid(record { a : nat })", "candid(record { a : nat; b : opt text })", "compatible"),
    ("candid(record { a : nat; b : opt text })", "candid(record { a : nat })", "compatible"),
    ("candid(record { a : nat; b : text })", "candid(record { a : nat })", "one way"),
    ("candid(record { a : nat })", "candid(record { a : nat; b : text })", "breaking"),
    ("candid(record { a : nat })", "candid(record { a : text })", "breaking"),
    ("candid(opt nat)", "candid(nat)", "breaking"),
    ("candid(variant { a; b })", "candid(variant { a })", "breaking"),
    ("candid(variant { a })", "candid(variant { a; b })", "one way"),
    ("candid(record { a : opt nat })", "candid(record { a : opt text })", "silently wrong"),
    ("candid(nat)", "candid(int)", "one way"),
    ("candid", "candid(nat)", "unknown"),
    ("struct(a: u32, b: u32)", "struct(b: u32, a: u32)", "silently wrong"),
    ("struct(a: u32, b: u32)", "struct(a: u32, b: u32le)", "silently wrong"),
    ("struct(a: u32, b: u32)", "struct(a: u64, b: u32)", "breaking"),
    ("struct(a: u32, b: u32)", "struct(a: u32, b: u32, c: u8)", "breaking"),
    ("struct(a: u32, b: u32)", "struct(x: u32, y: u32)", "compatible"),
    ("length(cbor)", "length(json)", "breaking"),
]


@pytest.mark.parametrize(("old", "new", "verdict"), RULES, ids=[f"{old} -> {new}" for old, new, _ in RULES])
def test_a_rule(old, new, verdict):
    assert compare_formats(codec(old), codec(new)).verdict == verdict


SAMPLES = {
    "u64": [(7).to_bytes(8, "big"), (1 << 63).to_bytes(8, "big")],
    "candid(variant { a; b })": [codec("candid(variant { a; b })").encode({"b": None})],
    "candid(record { a : opt nat })": [codec("candid(record { a : opt nat })").encode({"a": 5})],
    "struct(a: u32, b: u32)": [bytes([0, 0, 0, 1, 0, 0, 0, 2])],
    "text": [b"\xc3\xa9t\xc3\xa9"],
}


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [row for row in RULES if row[0] in SAMPLES and row[2] in ("breaking", "silently wrong")],
)
def test_values_say_what_the_rules_say(old, new, verdict):
    assert prove(codec(old), codec(new), SAMPLES[old]).verdict == verdict


NUMBERS = st.sampled_from(["u8", "u16", "u32", "u64", "i64", "u64le", "f64", "u128", "bool", "text", "raw"])


@settings(deadline=None, max_examples=200)
@given(NUMBERS, NUMBERS, st.lists(st.binary(min_size=1, max_size=16), max_size=5))
def test_nothing_that_is_called_compatible_is_refused_by_values(old, new, values):
    rule = compare_formats(codec(old), codec(new)).verdict
    found = prove(codec(old), codec(new), values)
    if rule == "compatible":
        assert found.verdict in ("compatible", "unknown")
    if rule == "one way":
        assert not found.undecodable


def schema(text):
    return parse_schema(f"memories: {{{text}}}")


SCHEMAS = [
    ("0: {name: a, kind: btreemap, key: u64, value: text}", "0: {name: a, kind: btreemap, key: u64, value: text}", []),
    (
        "0: {name: a, kind: vec}, 1: {name: b, kind: vec}",
        "1: {name: a, kind: vec}, 0: {name: b, kind: vec}",
        ["breaking"] * 2,
    ),
    ("0: {name: a, kind: vec, value: u64}", "0: {name: a, kind: log, value: u64}", ["breaking"]),
    ("0: {name: a, kind: vec, value: u64}", "0: {name: a, kind: vec, value: u64le}", ["silently wrong"]),
    ("0: {name: a, kind: vec}", "0: {name: a, kind: vec, state: retired}", []),
    ("0: {name: a, kind: vec, state: retired}", "0: {name: b, kind: log}", ["breaking"]),
    ("0: {name: a, kind: vec}", "1: {name: b, kind: vec}", ["one way"]),
]


@pytest.mark.parametrize(("old", "new", "verdicts"), SCHEMAS)
def test_schemas_are_compared_by_memory(old, new, verdicts):
    assert [one.verdict for one in compare_schemas(schema(old), schema(new))] == verdicts


def test_messages_of_protobuf_are_compared_by_number(tmp_path):
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")

    def write(name, fields):
        files = descriptor_pb2.FileDescriptorSet()
        file = files.file.add(name=f"{name}.proto", package="p", syntax="proto3")
        message = file.message_type.add(name="M")
        for number, (label, kind) in fields.items():
            message.field.add(name=label, number=number, type=kind, label=1)
        (tmp_path / name).write_bytes(files.SerializeToString())
        return codec(f"protobuf({tmp_path / name}, p.M)")

    base = write("base", {1: ("id", 4), 2: ("name", 9)})
    rows = {
        "more": ({1: ("id", 4), 2: ("name", 9), 3: ("age", 13)}, "compatible"),
        "less": ({1: ("id", 4)}, "one way"),
        "wire": ({1: ("id", 9), 2: ("name", 9)}, "silently wrong"),
        "zigzag": ({1: ("id", 18), 2: ("name", 9)}, "silently wrong"),
        "again": ({1: ("age", 4), 2: ("name", 9)}, "silently wrong"),
    }
    for name, (fields, verdict) in rows.items():
        assert compare_formats(base, write(name, fields)).verdict == verdict, name


def user(fields: str) -> CandidValue:
    return CandidValue(load(f"type User = record {{ {fields} }}; service : {{}}").names["User"])


def test_a_name_stands_for_a_definition() -> None:
    assert user("name : text").name == user("name : nat").name
    assert compare_formats(user("name : text"), user("name : text")).verdict == "compatible"
    assert compare_formats(user("name : text"), user("name : text; age : opt nat8")).verdict == "compatible"
    assert compare_formats(user("name : text"), user("name : nat")).verdict == "breaking"
    assert compare_formats(user("name : opt text"), user("name : opt nat")).verdict == "silently wrong"
