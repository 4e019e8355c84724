"""Values from Candid types: of their type, small, and for every type that has any."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.candid.codec import Codec
from perdure.candid.did import parse_types
from perdure.candid.service import load
from perdure.candid.types import Future, Rec, Record, Type, Vec
from perdure.errors import MalformedError, UnsupportedError
from perdure.kit import arguments, strategies

WIDE = ";".join(f"type N{i} = record {{ {'; '.join(f'vec N{j}' for j in range(4))} }}" for i in range(4))


def type_of(text: str) -> Type:
    (found,) = parse_types(text)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "(record { name : text; age : opt nat8; born : int; height : float64; on : bool; who : principal })",
        "(record { nat; int8; float32; vec nat8; vec vec text })",
        "(variant { Ok : nat64; Err : variant { NotFound; Other : text }; Nothing : reserved })",
        "(opt opt opt null)",
        "(func (nat) -> () query)",
        "(service { a : () -> () })",
        "type List = opt record { nat8; List }; (List)",
        "type Tree = record { vec Tree; opt Tree }; (Tree)",
        "type X = variant { a : X; b : record { X; X }; c }; (X)",
        "type Json = variant { Null; Bool : bool; Array : vec Json; Object : vec record { text; Json } }; (vec Json)",
        f"{WIDE}; (N0)",
        "(record {})",
    ],
)
def test_values_are_of_their_type(text):
    type_ = type_of(text)
    codec = Codec((type_,))

    @given(strategies(type_))
    @settings(max_examples=25, deadline=None, database=None)
    def check(value):
        data = codec.encode([value])
        assert codec.encode(codec.decode(data)) == data
        assert len(data) < 100_000

    check()


@pytest.mark.parametrize("text", ["(empty)", "(variant {})", "(record { empty })", "type A = record { A }; (A)"])
def test_a_type_without_values_has_none(text):
    assert strategies(type_of(text)).is_empty


def test_an_optional_value_of_such_a_type_is_nothing():
    @given(strategies("record { opt empty; vec empty; variant { a : empty; b } }"))
    @settings(max_examples=5, database=None)
    def check(value):
        assert value == (None, [], {"b": None})

    check()


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("sign", ["nat", "int"])
def test_numbers_reach_both_ends(sign, bits):
    low, high = (0, 2**bits - 1) if sign == "nat" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    found: set[int] = set()

    @given(strategies(f"{sign}{bits}"))
    @settings(max_examples=200, deadline=None, database=None)
    def check(value):
        assert low <= value <= high
        found.add(value)

    check()
    assert min(found) <= low // 4
    assert max(found) > high // 4


def test_arguments_of_a_method_are_a_tuple_of_all():
    method = load("service : { put : (text, opt nat8) -> () }").methods["put"]
    assert isinstance(arguments(method), st.SearchStrategy)

    @given(arguments(method))
    @settings(max_examples=20, database=None)
    def check(values):
        assert len(values) == 2
        method.encode(values)

    check()


def test_what_is_no_type_is_refused():
    with pytest.raises(MalformedError):
        strategies("nat; text")
    with pytest.raises(UnsupportedError, match="later version"):
        strategies(Future(-30))


def test_a_name_that_is_reached_again_is_unfolded_a_few_times():
    chain = Rec("Chain")
    chain.define(Record.of({"next": Vec(chain)}))
    deepest = 0

    @given(strategies(chain))
    @settings(max_examples=200, deadline=None, database=None)
    def check(value):
        nonlocal deepest
        depth = 0
        while value["next"]:
            value, depth = value["next"][0], depth + 1
        deepest = max(deepest, depth)

    check()
    assert 1 <= deepest <= 3
