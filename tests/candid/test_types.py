import pytest

from perdure.candid import field_hash
from perdure.candid.types import (
    Bool,
    Field,
    Func,
    Nat,
    Nat8,
    Null,
    Opt,
    Rec,
    Record,
    Service,
    Text,
    Variant,
    Vec,
    brief,
    quote,
)


# From the specification's hash function, as canisters use them.
@pytest.mark.parametrize(("name", "id_"), [("Ok", 17724), ("Err", 3456837), ("foo", 5097222), ("☃", 11272781), ("", 0)])
def test_a_name_hashes_to_its_id(name, id_):
    assert field_hash(name) == id_


def test_fields_are_kept_in_order_of_their_ids():
    fields = Record.of({"Err": Nat, 3: Nat, "Ok": Nat}).fields
    assert [(one.id, one.label) for one in fields] == [(3, "_3_"), (17724, "Ok"), (3456837, "Err")]


def test_one_id_twice_is_refused():
    with pytest.raises(ValueError, match="'Ok' and '_17724_'"):
        Variant.of({"Ok": Nat, 17724: Text})
    with pytest.raises(ValueError, match="0 to 2"):
        Record.of({2**32: Nat})


def test_ids_from_zero_make_a_tuple():
    assert Record.tuple_of(Nat, Text).is_tuple
    assert Record.tuple_of(Nat, Text) == Record.of({0: Nat, 1: Text})
    assert not Record.of({1: Nat}).is_tuple
    assert not Record.of({}).is_tuple


def test_names_documents_and_argument_names():
    assert Func((Nat,), (), arg_names=("x",)) == Func((Nat,), ())
    assert Field(1, Nat, "a", docs="about") == Field(1, Nat, "a")
    assert Field(1, Nat, "a") != Field(1, Nat)


def test_a_knot_is_tied_once():
    knot = Rec("K")
    with pytest.raises(ValueError, match="K is not defined"):
        _ = knot.type
    knot.define(Opt(knot))
    with pytest.raises(ValueError, match="K is defined already"):
        knot.define(Nat)
    assert str(knot.type) == "opt K"


@pytest.mark.parametrize(
    ("type_", "text"),
    [
        (Vec(Opt(Nat)), "vec opt nat"),
        (Record.tuple_of(Nat, Text), "record { nat; text }"),
        (Record.of({"type": Bool}), 'record { "type" : bool }'),
        (Variant.of({"a": Null, "b": Nat}), "variant { a; b : nat }"),
        (Func((Nat,), (Text,), frozenset({"query"}), ("n",)), "func (n : nat) -> (text) query"),
        (Service.of({"a b": Func()}), 'service { "a b" : () -> () }'),
        (Record.of({}), "record {}"),
    ],
)
def test_types_print_as_candid(type_, text):
    assert str(type_) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("a_1", "a_1"), ("1a", '"1a"'), ("query", '"query"'), ('"\\\n', '"\\"\\\\\\n"'), ("é", '"é"'), ("\0", '"\\u{0}"')],
)
def test_names_are_quoted_where_needed(name, text):
    assert quote(name) == text


def test_a_type_for_a_message_is_what_can_be_written():
    """Tuples have no names of fields, what is plain is told at any depth, and the rest is cut."""
    holder = Record.tuple_of(Text, Nat)
    told = brief(Record.of({"holders": Vec(holder), "memo": Opt(Vec(Nat8))}))
    assert told == "record { memo : opt blob; holders : vec record { text; nat } }"
    deep = Record.of({"holders": Vec(Record.tuple_of(holder, Opt(Nat)))})
    assert brief(deep) == "record { holders : vec record { ...; ... } }"
    assert brief(Record.of({7: Nat, "\x1b[2J": Text})) == 'record { 7 : nat; "\\u{1b}[2J" : text }'
    assert brief(Variant.of({"Ok": Null, "Err": holder}), 0) == "variant { Ok; Err : ... }"
