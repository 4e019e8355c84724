"""Records by a schema: what is written, what is refused, and how a second version reads the first."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field

import cbor2
import pytest

from perdure.errors import MalformedError, UnsupportedError
from perdure.record import (
    BOOL,
    PLAIN,
    TEXT,
    Field,
    Format,
    Table,
    blob,
    mapping,
    nat,
    optional,
    row,
    sequence,
    sorted_mapping,
    sorted_set,
    structure,
    union,
)


@dataclass
class Pet:
    name: str
    legs: int = 4


@dataclass
class Owner:
    name: str
    age: int = 0
    pets: list[Pet] = field(default_factory=list)
    tags: set[bytes] = field(default_factory=set)
    rooms: dict[str, int] = field(default_factory=dict)
    debts: dict[bytes, int] = field(default_factory=dict)
    likes: int | str = 0
    notes: object = None


PET = Table("pet", Field(1, "name", TEXT), Field(2, "legs", nat(8), 4))
OWNER = Table(
    "owner",
    Field(1, "name", TEXT),
    Field(2, "age", nat(16), 0),
    Field(3, "pets", sequence(structure(Pet, PET)), []),
    Field(4, "tags", sorted_set(blob(1, 4)), []),
    Field(5, "rooms", mapping(TEXT, nat(8)), []),
    Field(6, "debts", sorted_mapping(blob(), nat(64)), []),
    Field(7, "likes", union({0: (int, nat(8)), 1: (str, TEXT)}), [0, 0]),
    Field(8, "notes", optional(PLAIN), None),
)
FORMAT = Format("owners", 1, {1: OWNER}, {})


def owner() -> Owner:
    return Owner(
        "Ada", 36, [Pet("Rex"), Pet("Tweety", 2)], {b"b", b"a"}, {"z": 1, "a": 2}, {b"z": 1, b"a": 2}, "tea", {"x": [1]}
    )


def test_what_is_written() -> None:
    data = FORMAT.encode(1, owner())
    assert cbor2.loads(data) == [
        1,
        1,
        {
            1: "Ada",
            2: 36,
            3: [{1: "Rex"}, {1: "Tweety", 2: 2}],
            4: [b"a", b"b"],
            5: [["z", 1], ["a", 2]],
            6: [[b"a", 2], [b"z", 1]],
            7: [1, "tea"],
            8: {"x": [1]},
        },
    ]
    assert Owner(**FORMAT.decode(1, data)) == owner()
    assert cbor2.loads(FORMAT.encode(1, Owner("Bob"))) == [1, 1, {1: "Bob"}]
    assert Owner(**FORMAT.decode(1, FORMAT.encode(1, Owner("Bob")))) == Owner("Bob")


def test_defaults_are_not_shared() -> None:
    one, other = (FORMAT.decode(1, FORMAT.encode(1, Owner("Bob"))) for _ in range(2))
    assert one["pets"] is not other["pets"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, r"owner lacks name \(field 1\)"),
        ({1: b"Ada"}, "owner.name is bytes"),
        ({1: "Ada", 9: 0}, "owner has a field 9"),
        ({1: "Ada", "age": 0}, "owner has a field 'age'"),
        ({1: "Ada", 2: 1 << 16}, "owner.age is int '65536', expected an integer of 0 to 65535"),
        ({1: "Ada", 2: True}, "owner.age is bool"),
        ({1: "Ada", 3: {}}, "owner.pets is dict"),
        ({1: "Ada", 3: [{1: "Rex", 2: -1}]}, r"owner.pets\[0\].legs is int '-1'"),
        ({1: "Ada", 4: [b"b", b"a"]}, "owner.tags is not ascending"),
        ({1: "Ada", 4: [b"a", b"a"]}, "owner.tags is not ascending"),
        ({1: "Ada", 4: [b""]}, "owner.tags is bytes \"b''\", expected 1 to 4 bytes"),
        ({1: "Ada", 5: [["a", 1], ["a", 1]]}, "owner.rooms has 'a' twice"),
        ({1: "Ada", 6: [[b"b", 1], [b"a", 1]]}, "owner.debts is not ascending"),
        ({1: "Ada", 7: [2, 0]}, "owner.likes is list .* tagged with one of"),
        ({1: "Ada", 8: {1: 1}}, "owner.notes is dict"),
    ],
)
def test_what_is_refused(fields: dict[object, object], words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        FORMAT.decode(1, cbor2.dumps([1, 1, fields]))


@pytest.mark.parametrize("data", [b"", b"\xff", cbor2.dumps(7), cbor2.dumps([1, 1]), cbor2.dumps([1, 2, {}])])
def test_what_is_no_record(data: bytes) -> None:
    with pytest.raises(MalformedError):
        FORMAT.decode(1, data)


def test_numbers_ascend() -> None:
    with pytest.raises(ValueError, match="not numbered in ascending order"):
        Table("wrong", Field(2, "a", BOOL), Field(1, "b", BOOL))


def test_a_row_has_its_parts() -> None:
    coder = row(lambda *parts: parts, ("a", BOOL), ("b", TEXT))
    assert coder.decode([True, "x"], "here") == (True, "x")
    with pytest.raises(MalformedError, match=r"here is list '.True.', expected a list of 2"):
        coder.decode([True], "here")
    with pytest.raises(MalformedError, match=r"here.b is int"):
        coder.decode([True, 1], "here")


# -- a second version: age goes, name is called title, an address comes


@dataclass
class Owner2:
    title: str
    pets: list[Pet] = field(default_factory=list)
    address: str = ""


def to_two(kind: int, content: dict[int, object]) -> dict[int, object]:
    assert kind == 1
    kept = {number: value for number, value in content.items() if number in (1, 3)}
    return {**kept, 9: f"of {content[1]}"}


SECOND = Format(
    "owners",
    2,
    {
        1: Table(
            "owner",
            Field(1, "title", TEXT),
            Field(3, "pets", sequence(structure(Pet, PET)), []),
            Field(9, "address", TEXT, ""),
        )
    },
    {1: to_two},
)


def test_a_second_version_reads_and_rewrites_the_first() -> None:
    old = FORMAT.encode(1, owner())
    expected = Owner2("Ada", owner().pets, "of Ada")
    assert Owner2(**SECOND.decode(1, old)) == expected
    new = SECOND.rewrite(old)
    assert new == SECOND.encode(1, expected)
    assert SECOND.rewrite(new) is new
    with pytest.raises(UnsupportedError, match="owners: version 2 found; this version of perdure reads 1"):
        FORMAT.decode(1, new)
    with pytest.raises(UnsupportedError, match="owners: version 3 found; this version of perdure reads 1, 2"):
        SECOND.rewrite(cbor2.dumps([3, 1, {1: "x"}]))
    with pytest.raises(MalformedError, match=r"owner.title is int"):
        SECOND.rewrite(cbor2.dumps([1, 1, {1: 5}]))


def test_the_same_bytes_under_any_hash_seed() -> None:
    code = "from tests.test_record import *; print(FORMAT.encode(1, owner()).hex())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert found == {FORMAT.encode(1, owner()).hex().encode() + b"\n"}
