"""Forms, made from types, say values of these types."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.candid import parse_type, parse_values
from perdure.candid.types import Opt, Rec, Record, Text
from perdure.explorer.forms import MAX_FIELDS, compose, example, fields_of

TYPES = [
    ("text", {"a0": 'with "quotes" \\ and \n'}, 'with "quotes" \\ and \n'),
    ("nat", {"a0": " 12_000 "}, 12_000),
    ("int8", {"a0": "-3"}, -3),
    ("float64", {"a0": "2.5"}, 2.5),
    ("bool", {"a0": "true"}, True),
    ("bool", {}, False),
    ("null", {}, None),
    ("blob", {"a0": "0x00ff"}, b"\0\xff"),
    ("blob", {"a0": "žluť"}, "žluť".encode()),
    ("opt nat", {}, None),
    ("opt nat", {"a0": "1", "a0.0": "7"}, 7),
    ("record { b : text; a : nat }", {"a0.0": "1", "a0.1": "x"}, {"a": 1, "b": "x"}),
    ("record { nat; text }", {"a0.0": "1", "a0.1": "x"}, (1, "x")),
    ('record { "odd name; }" : nat }', {"a0.0": "1"}, {"odd name; }": 1}),
    ("vec nat8", {"a0": "abc"}, b"abc"),
    ("vec text", {"a0": 'vec { "a"; "b" }'}, ["a", "b"]),
]


@pytest.mark.parametrize(("text", "filled", "value"), TYPES)
def test_what_was_filled_in(text, filled, value):
    type_ = parse_type(text)
    (found,) = parse_values(compose(fields_of([type_]), filled), [type_])[1]
    found = list(found) if isinstance(value, list) else found
    assert found == value


def test_a_variant_takes_the_chosen_alternative():
    type_ = parse_type('variant { Off; On : record { level : nat }; "5" : text }')
    fields = fields_of([type_])
    by_label = {part.label: part for part in fields[0].parts}
    chosen = by_label["On"]
    filled = {"a0": chosen.name, chosen.parts[0].parts[0].name if chosen.parts[0].parts else chosen.parts[0].name: "3"}
    assert parse_values(compose(fields, filled), [type_])[1][0] == {"On": {"level": 3}}
    assert parse_values(compose(fields, {"a0": by_label["5"].name, by_label["5"].name: "x"}), [type_])[1]
    assert parse_values(compose(fields, {"a0": by_label["Off"].name}), [type_])[1]


@pytest.mark.parametrize(
    ("text", "filled", "words"),
    [("nat", {}, "argument 1 is empty, expected nat"), ("blob", {"a0": "0xzz"}, "no hexadecimal")],
)
def test_what_cannot_be(text, filled, words):
    with pytest.raises(ValueError, match=words):
        compose(fields_of([parse_type(text)]), filled)


def test_types_without_end_are_written_in_candid():
    node = Rec("Node")
    node.define(Record.of({"name": Text, "next": Opt(node)}))
    (field,) = fields_of([node])
    kinds, deepest = [], field
    while deepest.parts:
        kinds.append(deepest.kind)
        deepest = deepest.parts[-1]
    assert deepest.kind == "candid"
    wide = parse_type(
        "record { " + " ".join(f"f{at} : record {{ a : nat; b : nat; c : nat }};" for at in range(60)) + "}"
    )
    count, pending = 0, list(fields_of([wide]))
    while pending:
        one = pending.pop()
        count += 1
        pending += one.parts
    assert count <= MAX_FIELDS + 60


NAMES = st.text(min_size=1, max_size=6)
SIMPLE = st.sampled_from(
    ["nat", "text", "bool", "principal", "blob", "null", "int32", "float32", "vec nat", "opt text"]
)


@settings(max_examples=60, deadline=None)
@given(
    st.recursive(
        SIMPLE,
        lambda inner: st.one_of(
            inner.map(lambda one: f"opt {one}"),
            st.lists(inner, min_size=1, max_size=3).map(
                lambda many: "record { " + " ".join(f"x{at} : {one};" for at, one in enumerate(many)) + "}"
            ),
            st.lists(inner, min_size=1, max_size=3).map(
                lambda many: "variant { " + " ".join(f"x{at} : {one};" for at, one in enumerate(many)) + "}"
            ),
        ),
        max_leaves=8,
    )
)
def test_examples_are_of_their_types(text):
    type_ = parse_type(text)
    parse_values(f"({example(type_)})", [type_])
