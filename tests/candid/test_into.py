from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import Any

import pytest

from perdure.candid import decode, encode, parse_type
from perdure.candid.into import into
from perdure.ic.principal import ANONYMOUS, Principal


class Kind(Enum):
    basic = 1
    paid = 2


@dataclass
class User:
    name: str
    owner: Principal
    from_: int = 0
    kinds: list[Kind] = field(default_factory=list)
    parent: "User | None" = None


@dataclass
class Ok:
    height: int


@dataclass
class Nothing:
    pass


@dataclass
class Err:
    code: int
    why: str


ADA = {"name": "Ada", "owner": ANONYMOUS, "from": 5, "kinds": [{"paid": None}], "parent": None, "unknown": 1}


def test_records_become_dataclasses():
    ada = User("Ada", ANONYMOUS, 5, [Kind.paid])
    assert into(User, ADA) == ada
    assert into(User, {"name": "Bob", "owner": ANONYMOUS, "parent": ADA}) == User("Bob", ANONYMOUS, parent=ada)


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (int, 5, 5),
        (Any, [{"a": 1}], [{"a": 1}]),
        (int | None, None, None),
        (int | None, 5, 5),
        (int | str, "x", "x"),
        (list[int], [1, 2], [1, 2]),
        (set[int], [1, 2], {1, 2}),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[int, str], (1, "x"), (1, "x")),
        (dict[str, int], [("a", 1), ("b", 2)], {"a": 1, "b": 2}),
        (Kind, {"basic": None}, Kind.basic),
        (Ok | Err | Nothing, {"Ok": 5}, Ok(5)),
        (Ok | Err | Nothing, {"Err": {"code": 1, "why": "x"}}, Err(1, "x")),
        (Ok | Err | Nothing, {"Nothing": None}, Nothing()),
        (None, None, None),
        (bytes, b"x", b"x"),
    ],
)
def test_values_become_what_is_asked_for(target, value, expected):
    assert into(target, value) == expected


@pytest.mark.parametrize(
    ("target", "value", "message"),
    [
        (User, 5, "expected a record for User, found 5"),
        (User, {"name": "Ada"}, "no field 'owner' for User, found name"),
        (User, {**ADA, "kinds": [{"free": None}]}, "kinds[0]: expected a case of Kind, found {'free': None}"),
        (list[int], 5, "expected a vector, found 5"),
        (list[int], ["x"], "[0]: expected int, found 'x'"),
        (int, True, "expected int, found True"),
        (tuple[int, str], (1,), "expected 2 values, found (1,)"),
        (dict[str, int], [("a", "b")], "[0][1]: expected int, found 'b'"),
        (int | str, 1.5, "expected int or str, found 1.5"),
        (Ok | Err, {"Late": 1}, "expected Ok or Err, found {'Late': 1}"),
        (Ok | Err, {"Ok": "x"}, "Ok: expected int, found 'x'"),
        (Ok | Err, {"Err": 5}, "Err: expected a record for Err, found 5"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(target, value, message):
    with pytest.raises(ValueError) as caught:
        into(target, value)
    assert str(caught.value) == message


@pytest.mark.parametrize("target", [frozenset[int], "User", 5])
def test_targets_that_cannot_be(target):
    with pytest.raises(TypeError, match="cannot be made from Candid"):
        into(target, [])


@pytest.mark.parametrize("base", [Enum, StrEnum])
def test_17_members_of_enums_go_in_as_they_come_out(base):
    """The number is that of the list of what newcomers stumbled over."""
    colour = base("Colour", [("red", "#f00"), ("green", "#0f0")])
    variant = parse_type("variant { red; green; blue : nat }")
    for member in colour:
        (value,) = decode(encode([variant], [member]), [variant])
        assert into(colour, value) is member
    with pytest.raises(ValueError, match=r"value 0\.red: expected nat, found None"):
        encode([parse_type("variant { red : nat }")], [colour.red])
    with pytest.raises(ValueError, match="no case 'green', expected blue"):
        encode([parse_type("variant { blue }")], [colour.green])
