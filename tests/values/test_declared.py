"""Classes that say what they are kept as, in structures and in columns; read without the class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

import pytest

from perdure import RejectError, Subnet
from perdure.data import Store, Table, open_tables, table
from perdure.ic.principal import Principal
from perdure.kit import canister, nat8, nat32, nat64, query, update
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap
from perdure.values import codec, kept_as
from perdure.values.annotations import Annotations


@dataclass
class User:
    id: nat64
    email: str
    owner: Principal
    city: str | None = None
    age: nat8 = 18
    tags: list[str] = field(default_factory=lambda: ["new"])


@dataclass
class Point:
    x: nat32
    y: nat8
    z: float = 0.0


ADA = User(7, "ada", Principal(b"\1"), "Zug", 36, [])
FAMILIES = ["cbor", "flatbuffers", "json", "protobuf"]


def declared(family: str, owner: type = User):
    return Annotations({}).storable(Annotated[owner, kept_as(family)])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_object_there_and_back_and_without_its_class(family):
    one = declared(family)
    data = one.encode(ADA)
    assert one.decode(data) == ADA
    assert (one.field(data, "age"), one.field(data, "city")) == (36, "Zug")
    plain = codec(one.name)
    assert plain.decode(data) == vars(ADA)
    assert (plain.encode(vars(ADA)), one.encode(vars(ADA))) == (data, data)


def test_a_struct_is_as_memory_has_it():
    one = declared("struct", Point)
    assert one.name == "struct(x: u32le, y: u8, z: f64le)"
    assert one.encode(Point(1, 2, 0.5)) == b"\1\0\0\0\2" + b"\0" * 6 + b"\xe0\x3f"
    assert (one.decode(one.encode(Point(1, 2, 0.5))), one.fixed_bytes) == (Point(1, 2, 0.5), 13)
    with pytest.raises(TypeError, match=r"field email of .* must have a fixed size"):
        declared("struct")


def test_what_came_later_has_the_default_of_its_field():
    old = codec("flatbuffers(id: u64, email: text, owner: principal)")
    assert declared("flatbuffers").decode(old.encode({"id": 1, "email": "x", "owner": Principal(b"")})) == User(
        1, "x", Principal(b""), None, 0, ["new"]
    )


def test_what_is_no_declaration():
    with pytest.raises(ValueError, match="cbor, flatbuffers, json, protobuf, struct, or as Candid"):
        kept_as("xml")
    with pytest.raises(TypeError, match=r"kept_as\('json'\) is for a dataclass"):
        Annotations({}).storable(Annotated[int, kept_as("json")])
    with pytest.raises(ValueError, match="expected User, found 7"):
        declared("json").encode(7)


@dataclass
class Row:
    id: nat64
    user: Annotated[User, kept_as("protobuf")]


@canister(name="kept")
class Kept:
    users: StableBTreeMap[nat64, Annotated[User, kept_as("flatbuffers")]]
    rows: Table[Row] = table(key="id")

    @update
    def add(self, user: User) -> None:
        self.users[user.id] = user
        self.rows.put(Row(user.id, user))

    @query
    def get(self, number: nat64) -> User:
        return self.users[number]


@dataclass
class Older:
    id: nat64
    email: str
    owner: Principal


@canister(name="kept")
class Before:
    users: StableBTreeMap[nat64, Annotated[Older, kept_as("flatbuffers")]]

    @update
    def add(self, user: Older) -> None:
        self.users[user.id] = user


@canister(name="kept")
class Other:
    users: StableBTreeMap[nat64, Annotated[Point, kept_as("flatbuffers")]]


def test_a_canister_keeps_them_and_grows():
    with Subnet() as subnet:
        kept = subnet.install(Before)
        kept.actor().add({"id": 1, "email": "old", "owner": "aaaaa-aa"})
        with pytest.raises(RejectError, match="part id is in the place where x is now"):
            kept.upgrade(Other)
        kept.upgrade(Kept)
        actor = kept.actor()
        actor.add(vars(ADA))
        assert (actor.get(7)["email"], actor.get(1)["city"], actor.get(1)["tags"]) == ("ada", None, ["new"])
        (rows,) = open_tables(Store.open(kept.stable))
        assert rows[7]["user"]["email"] == "ada"


@dataclass
class Address:
    street: str
    place: str


@dataclass
class Tenant:
    id: nat64
    home: Annotated[Homes, kept_as("flatbuffers")]


@dataclass
class Homes:
    first: Address
    others: list[Address]


def test_a_class_within_one_is_read_by_the_catalogue_s_definitions():
    store = Store(MemoryManager.create(BytesMemory()).get)
    tenants = Table.declare(store, "tenants", Tenant, table(key="id"))
    tenants.put(Tenant(1, Homes(Address("a", "b"), [Address("c", "d")])))
    (found,) = open_tables(store)
    homes = {"first": {"street": "a", "place": "b"}, "others": [{"street": "c", "place": "d"}]}
    assert found[1]["home"] == homes
    found.put({"id": 2, "home": homes})
    assert tenants[2].home == tenants[1].home
