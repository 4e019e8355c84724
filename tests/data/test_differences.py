"""What two catalogues say of rows that are there: bad changes are told, with a way out; harmless ones are not."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from perdure.data import Catalogue, Column, Documents, Model, Store, Table, Tree, documents, table
from perdure.data.differences import compare_catalogues
from perdure.kit import nat32, nat64
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager

COLUMNS = (
    Column("id", "u64"),
    Column("email", "String"),
    Column("age", "u32"),
    Column("city", "String", True),
    Column("level", "u8", False, 1),
    Column("gone", "u8", True, None, "unused"),
)
TREES = (
    Tree("users", 9, (0,), (1, 2, 3, 4)),
    Tree("users_by_city", 8, (3, 0), (), 1),
    Tree("users_by_email", 7, (1, 0), (), 1, True),
    Tree("users_by_age", 6, (2, 0), (), 1, False, "unused"),
)
USERS = Model("users", "table", COLUMNS, TREES)


def told(new: Model | None, old: Model = USERS) -> dict[str, str]:
    after = Catalogue(() if new is None else (new,))
    found = list(compare_catalogues(Catalogue((old,)), after))
    for one in found:
        assert one.what
        assert one.why
        assert one.remedy
        assert one.old != one.new
    return {one.place: one.verdict for one in found}


def column(index: int, **changes: object) -> Model:
    return replace(
        USERS, columns=tuple(replace(one, **changes) if at == index else one for at, one in enumerate(COLUMNS))
    )


def tree(index: int, **changes: object) -> Model:
    return replace(USERS, trees=tuple(replace(one, **changes) if at == index else one for at, one in enumerate(TREES)))


def test_what_is_the_same_says_nothing():
    odd = column(4, type="f64", default=float("nan"))
    assert told(column(4, type="f64", default=float("nan")), odd) == {}
    assert told(USERS) == told(replace(USERS, definitions="type A = nat;")) == {}
    assert told(tree(1, name="by_city")) == {}
    assert told(USERS, replace(USERS, state="unused")) == {}
    more = Model("more", "table", COLUMNS, tuple(replace(one, memory_id=one.memory_id + 20) for one in TREES))
    assert [*compare_catalogues(Catalogue((USERS,)), Catalogue((USERS, more)))] == []


@pytest.mark.parametrize(
    ("new", "place"),
    [
        (None, "users"),
        (replace(USERS, kind="verb"), "users"),
        (column(2, type="String"), "users.age"),
        (column(2, type="u16"), "users.age"),
        (column(3, is_optional=False), "users.city"),
        (replace(USERS, columns=COLUMNS[:4], trees=(replace(TREES[0], value=(1, 2, 3)), *TREES[1:3])), "users.level"),
        (replace(USERS, columns=(*COLUMNS, Column("new", "u8"))), "users.new"),
        (tree(0, memory_id=5), "users"),
        (tree(0, key=(1,), value=(0, 2, 3, 4)), "users"),
        (tree(0, value=(2, 1, 3, 4)), "users"),
    ],
)
def test_what_cannot_be_read_any_more(new, place):
    assert told(new)[place] == "breaking"


@pytest.mark.parametrize(
    ("new", "place"),
    [
        (column(4, default=2), "users.level"),
        (
            replace(USERS, columns=(COLUMNS[0], COLUMNS[2], COLUMNS[1], *COLUMNS[3:])),
            "users.email",
        ),
        (column(1, name="age_now", type="u32"), "users.email"),
    ],
)
def test_what_is_read_as_something_else(new, place):
    assert told(new)[place] == "silently wrong"


@pytest.mark.parametrize(
    ("new", "place"),
    [
        (replace(USERS, state="unused"), "users"),
        (column(3, state="unused"), "users.city"),
        (column(1, name="mail"), "users.email"),
        (column(2, type="u64"), "users.age"),
        (column(2, is_optional=True), "users.age"),
        (
            replace(
                USERS,
                columns=(*COLUMNS, Column("new", "u8", True)),
                trees=(replace(TREES[0], value=(1, 2, 3, 4, 6)), *TREES[1:]),
            ),
            "users.new",
        ),
        (tree(1, state="unused"), "users.users_by_city"),
        (tree(2, is_unique=False), "users.users_by_email"),
        (tree(1, is_unique=True), "users.users_by_city"),
        (tree(3, state="active"), "users.users_by_age"),
        (tree(1, memory_id=4), "users.users_by_city"),
    ],
)
def test_what_has_no_way_back(new, place):
    assert told(new) == {place: "one way"}


def test_a_new_name_has_none_of_the_values():
    new = replace(column(1, state="unused"), columns=(*column(1, state="unused").columns, Column("mail", "String")))
    (gone, added) = compare_catalogues(Catalogue((USERS,)), Catalogue((new,)))
    assert "'mail' of the same type is new" in gone.what
    assert "copy its values to 'mail' in a migration" in gone.remedy
    assert (added.place, added.verdict) == ("users.mail", "breaking")


def test_a_column_apart_that_is_elsewhere():
    apart = (Tree("users", 9, (0,)), Tree("users_email", 8, (0,), (1,)))
    model = replace(USERS, columns=COLUMNS[:2], trees=apart)
    assert told(replace(model, trees=(apart[0], replace(apart[1], memory_id=7))), model) == {
        "users.users_email": "breaking"
    }


@dataclass
class Old:
    id: nat64
    email: str
    age: nat32 = 0


@dataclass
class New:
    id: nat64
    email: str
    age: nat64 = 0
    city: str | None = None


def test_what_a_program_may_declare_is_never_called_breaking():
    memory = BytesMemory()
    store = Store(MemoryManager.create(memory).get)
    Table.declare(store, "users", Old, table(key="id", index=["age"])).put(Old(1, "a", 2))
    Documents.declare(store, "notes", str, documents(index=["city"]))
    before = store.catalogue
    Table.declare(store, "users", New, table(key="id", index=["city"], unique=["email"]))
    Documents.declare(store, "notes", str, documents(index=["kind"]))
    found = list(compare_catalogues(before, store.catalogue))
    assert {one.verdict for one in found} == {"one way"}
    assert {"users.age", "users.city", "users.users_by_age", "users.users_by_email"} <= {one.place for one in found}
