"""A declaration that grew: what becomes of rows from before, and what is refused before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from perdure.data import Store, Table, open_tables, table
from perdure.errors import MalformedError
from perdure.kit import nat16, nat32, nat64
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager


@dataclass
class User:
    id: nat32
    name: str
    city: str = "Zug"


def declare(memory, owner, **options):
    return Table.declare(Store(MemoryManager.init(memory).get), "users", owner, table(**{"key": "id"} | options))


@pytest.fixture
def memory():
    memory = BytesMemory()
    declare(memory, User, index=["city"]).update([User(1, "Ada"), User(2, "Bob", "Bern")])
    return memory


def test_the_same_again_writes_nothing(memory):
    before = bytes(memory.read(0, memory.size() << 16))
    assert declare(memory, User, index=["city"])[1] == User(1, "Ada")
    assert memory.read(0, memory.size() << 16) == before


def test_a_column_is_added_with_a_default_or_null(memory):
    @dataclass
    class Grown:
        id: nat64
        name: str
        city: str | None
        age: nat16 = 7
        note: str | None = None

    users = declare(memory, Grown, index=["city", "age"])
    assert list(users) == [Grown(1, "Ada", "Zug", 7), Grown(2, "Bob", "Bern", 7)]
    assert [row.id for row in users.by.age(7)] == [1, 2]
    users.put(Grown(1 << 40, "Eve", None, 8, "x"))
    assert users.check() == []


def test_the_default_of_old_rows_is_that_of_the_day_the_column_came(memory):
    @dataclass
    class One:
        id: nat32
        name: str
        city: str
        age: nat16 = 7

    @dataclass
    class Two:
        id: nat32
        name: str
        city: str
        age: nat16 = 9

    declare(memory, One, index=["city"])
    users = declare(memory, Two, index=["city"])
    users.put(Two(3, "Eve", "x"))
    assert [row.age for row in users] == [7, 7, 9]


def test_a_column_left_out_and_its_name_given_away(memory):
    @dataclass
    class Less:
        id: nat32
        name: str

    @dataclass
    class Again:
        id: nat32
        name: str
        city: nat16 | None = None

    users = declare(memory, Less)
    assert list(users) == [Less(1, "Ada"), Less(2, "Bob")]
    users = declare(memory, Again)
    assert users[1] == Again(1, "Ada", None)
    users.put(Again(1, "Ada", 5))
    assert users[1].city == 5
    assert [one.state for one in users.model.columns] == ["active", "active", "unused", "active"]


def test_an_index_goes_and_another_one_has_its_memory(memory):
    users = declare(memory, User)
    (unused,) = (one for one in users.model.trees if one.state == "unused")
    assert len(users.store.tree(unused)) == 0
    users = declare(memory, User, index=["name"])
    assert [(one.name, one.memory_id) for one in users.model.trees[1:]] == [("users_by_name", unused.memory_id)]
    assert users.by.name.one("Bob") == User(2, "Bob", "Bern")


def test_values_that_are_not_unique_refuse_the_index(memory):
    declare(memory, User, index=["city"]).put(User(3, "Eve"))
    with pytest.raises(ValueError, match="another row has city='Zug' already"):
        declare(memory, User, unique=["city"])


@dataclass
class Retyped:
    id: nat32
    name: nat64
    city: str


@dataclass
class Narrowed:
    id: nat16
    name: str
    city: str


@dataclass
class Required:
    id: nat32
    name: str
    city: str
    age: nat16


@pytest.mark.parametrize(
    ("owner", "options", "message"),
    [
        (Retyped, {}, "column 'name' of 'users' held String and is declared as u64: leave it as it was"),
        (Narrowed, {}, "column 'id' of 'users' held u32 and is declared as u16"),
        (Required, {}, "column 'age' of 'users' is new: rows from before need a default, or null"),
        (User, {"key": "name"}, r"the key of 'users' is declared as \(name\) and was another"),
        (User, {"key": ("id", "name")}, "was another"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_written(memory, owner, options, message):
    before = bytes(memory.read(0, memory.size() << 16))
    with pytest.raises(MalformedError, match=message):
        declare(memory, owner, **options)
    assert memory.read(0, memory.size() << 16) == before


def test_null_may_come_and_not_go(memory):
    @dataclass
    class Nullable:
        id: nat32
        name: str | None
        city: str

    declare(memory, Nullable, index=["city"])
    with pytest.raises(MalformedError, match="may be null in what is there"):
        declare(memory, User, index=["city"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "nobody"}, "no column 'nobody', there are id, name, city"),
        ({"key": "id", "index": ["id"]}, "has nothing that the rows have not"),
        ({"key": "id", "index": ["name"], "unique": ["name"]}, "two indexes of the same columns"),
        ({"key": ("id", "id")}, "a column twice"),
        ({"key": ()}, "the name of a column or several"),
        ({"key": "id", "storage": "heap"}, "storage is 'rows' or 'columns'"),
        ({"key": "id", "index": ["_".join(["name"])], "storage": "columns"}, None),
    ],
)
def test_declarations_that_contradict_themselves(options, message):
    def make():
        return Table.declare(Store(MemoryManager.create(BytesMemory()).get), "users", User, table(**options))

    if message is None:
        assert len(make()) == 0
        return
    with pytest.raises(TypeError, match=message):
        make()


def test_what_the_catalogue_has_without_any_class(memory):
    (found,) = open_tables(Store.open(memory))
    assert list(found) == [{"id": 1, "name": "Ada", "city": "Zug"}, {"id": 2, "name": "Bob", "city": "Bern"}]
