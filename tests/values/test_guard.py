"""The text that a canister carries to refuse an upgrade by itself."""

from __future__ import annotations

import pytest

from perdure.errors import MalformedError
from perdure.values.guard import guard_text
from perdure.values.motoko_types import parse_stable_types
from perdure.values.schema import parse_schema

ONE = 'memories: {0: {name: users, kind: btreemap, key: text, value: u64}, 3: {kind: log, data: 4, value: "opt(u8)"}}'
PEOPLE = "type List = ?(Text, List); actor { stable var people : List; stable count : Nat };"


def test_a_line_for_each_memory_in_use():
    assert guard_text(parse_schema(ONE.replace("opt(u8)", "struct(at: u64)"))) == (
        "perdure:schema 1\n= 0 users: btreemap, key text, value u64\n= 3 -: log, value struct(at: u64), data 4\n"
    )
    retired = "memories: {0: {name: users, kind: vec, value: u8, state: retired}}"
    assert guard_text(parse_schema(retired)) == "perdure:schema 1\n"


def test_what_an_earlier_version_kept_and_this_one_reads():
    old = parse_schema("memories: {0: {name: users, kind: vec, value: cbor}, 1: {name: gone, kind: vec, value: u8}}")
    new = parse_schema("memories: {0: {name: people, kind: vec, value: cbor}}")
    assert guard_text(new, [old, old, new]).splitlines() == [
        "perdure:schema 1",
        "= 0 people: vec, value cbor",
        "~ 0 users: vec, value cbor",
        "~ 1 gone: vec, value u8",
    ]


def test_what_cannot_be_read_has_no_guard():
    old = parse_schema("memories: {0: {name: users, kind: vec, value: u64}}")
    new = parse_schema("memories: {0: {name: users, kind: vec, value: text}}")
    with pytest.raises(MalformedError, match=r"be upgraded to: 0: .*it was vec, value u64, it is vec, value text"):
        guard_text(new, [old])


def test_a_line_for_each_stable_variable_with_the_types_it_is_made_of():
    types = parse_stable_types(PEOPLE)
    assert guard_text(types).splitlines()[1:] == [
        "= people var: List where List = ?(Text, List)",
        "= count let: Nat",
    ]
    wider = parse_stable_types(PEOPLE.replace("Nat", "Int"))
    assert "~ count let: Nat" in guard_text(wider, [types])
    with pytest.raises(MalformedError, match=r"count.*it was Int, it is Nat"):
        guard_text(types, [wider])
    with pytest.raises(MalformedError, match="cannot be compared"):
        guard_text(types, [parse_schema("memories: {}")])
