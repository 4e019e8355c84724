"""The rules one by one, and the report of a service upgrade."""

import pytest

from perdure.candid import equal_types, explain, parse, parse_types, service_subtype, subtype
from perdure.candid.deep import Meter
from perdure.errors import MalformedError

# a, b, whether a <: b
RULES = [
    ("nat", "nat", True),
    ("nat", "int", True),
    ("int", "nat", False),
    ("nat", "nat8", False),
    ("nat", "reserved", True),
    ("reserved", "nat", False),
    ("empty", "nat", True),
    ("nat", "empty", False),
    ("service { a : () -> () }", "principal", True),
    ("principal", "service {}", False),
    ("vec nat", "vec int", True),
    ("vec int", "vec nat", False),
    ("null", "opt nat", True),
    ("reserved", "opt nat", True),
    ("nat", "opt nat", True),
    ("opt nat", "nat", False),
    ("opt nat", "opt bool", True),
    ("text", "opt nat", True),
    ("opt nat", "null", False),
    ("record { a : nat; b : nat }", "record { a : nat }", True),
    ("record { a : nat }", "record { a : nat; b : nat }", False),
    ("record { a : nat }", "record { a : nat; b : opt nat }", True),
    ("record { a : nat }", "record { a : nat; b : null; c : reserved }", True),
    ("record { a : nat }", "record { a : int }", True),
    ("variant { a }", "variant { a; b }", True),
    ("variant { a; b }", "variant { a }", False),
    ("variant { a : nat }", "variant { a : int }", True),
    ("func () -> ()", "func () -> ()", True),
    ("func () -> () query", "func () -> ()", False),
    ("func (int) -> (nat)", "func (nat) -> (int)", True),
    ("func (nat) -> ()", "func (int) -> ()", False),
    ("func () -> (nat)", "func () -> ()", True),
    ("func () -> ()", "func () -> (nat)", False),
    ("func () -> ()", "func () -> (opt nat)", True),
    ("func () -> ()", "func (nat) -> ()", True),
    ("func (nat) -> ()", "func () -> ()", False),
    ("func (opt nat) -> ()", "func () -> ()", True),
    ("service { a : () -> (); b : () -> () }", "service { a : () -> () }", True),
    ("service {}", "service { a : () -> () }", False),
    ("L", "M", True),
    ("L", "N", False),
    ("N", "L", True),
    ("R", "S", True),
]
NAMES = """
type L = opt record { head : nat; tail : L };
type M = opt record { head : nat; tail : opt record { head : nat; tail : M } };
type N = variant { nil; cons : record { nat; N }; other : L };
type R = record { a : nat; next : vec R };
type S = record { a : int; next : vec S };
"""


@pytest.mark.parametrize(("a", "b", "holds"), RULES)
def test_rules(a, b, holds):
    sub, sup = parse_types(f"{NAMES}({a}, {b})")
    assert subtype(sub, sup) is holds
    assert (not [one for one in explain(sub, sup) if one.severity == "error"]) is holds


def test_equality_unrolls_names():
    first, second, third = parse_types(f"{NAMES}(L, M, opt record {{ head : nat; tail : opt nat }})")
    assert equal_types(first, second)
    assert not equal_types(first, third)


def report(old, new):
    old, new = parse(f"service : {{ {old} }}"), parse(f"service : {{ {new} }}")
    return [(one.severity, " > ".join(one.path), one.message) for one in service_subtype(new.service, old.service)]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("m : () -> ()", "m : () -> (); n : () -> ()", []),
        ("m : () -> ()", "", [("error", "", 'method "m" is gone')]),
        ("m : () -> () query", "m : () -> ()", [("error", 'method "m"', "query became update")]),
        (
            "m : (record { a : nat }) -> ()",
            "m : (to : record { a : nat; b : text }) -> ()",
            [
                (
                    "error",
                    'method "m" > argument 1 (to)',
                    "field b : text is needed now, and old callers do not send it",
                )
            ],
        ),
        (
            "m : () -> (record { a : nat; b : text })",
            "m : () -> (record { a : text })",
            [
                ("error", 'method "m" > result 1', "field b : text is gone, and old callers need it"),
                ("error", 'method "m" > result 1 > field a', "nat became text"),
            ],
        ),
        (
            "m : (variant { a; b }) -> (variant { c })",
            "m : (variant { a }) -> (variant { c; d })",
            [
                ("error", 'method "m" > argument 1', "case b is gone, and old callers may send it"),
                ("error", 'method "m" > result 1', "case d is new, and old callers do not know it"),
            ],
        ),
        (
            "m : (nat) -> (nat, nat)",
            "m : (nat, text, opt text) -> (nat)",
            [
                ("error", 'method "m"', "argument 2 : text is needed now, and old callers do not send it"),
                ("error", 'method "m"', "result 2 : nat is gone, and old callers need it"),
            ],
        ),
        (
            "m : (record { a : opt nat }) -> (opt nat)",
            "m : (record { a : opt text }) -> (opt variant { x })",
            [
                ("warning", 'method "m" > argument 1 > field a', "nat became text"),
                ("warning", 'method "m" > result 1', "nat became variant { x }"),
            ],
        ),
        (
            "m : (vec func (nat) -> ()) -> ()",
            "m : (vec func (text) -> ()) -> ()",
            [("error", 'method "m" > argument 1 > element > argument 1', "nat became text")],
        ),
        ("m : () -> (opt opt variant { a })", "m : () -> (opt opt variant { a })", []),
    ],
)
def test_an_upgrade_is_explained(old, new, expected):
    assert report(old, new) == expected


def test_each_incompatibility_has_a_remedy():
    old = parse("service : { m : (nat) -> () }").service
    [one] = service_subtype(parse("service : { m : (text) -> () }").service, old)
    assert str(one) == (
        'method "m" > argument 1: nat became text; '
        "keep the old type, or add an optional field or a method of another name"
    )


def test_recursive_types_are_compared_in_bounded_work():
    wide = "; ".join(f"type T{i} = record {{ " + "; ".join(f"T{j}" for j in range(20)) + " }" for i in range(20))
    old, new = (parse_types(f"{wide}; (T0)")[0] for _ in range(2))
    assert subtype(new, old)
    meter = Meter(1000)
    with pytest.raises(MalformedError, match="costs more"):
        subtype(new, old, meter)
    assert equal_types(new, old)
