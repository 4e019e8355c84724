"""Tables against a plain dictionary and Python's sqlite3, with traps, savepoints and changed declarations in it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, make_dataclass

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from perdure.data import ConstraintError, Store, Table, open_tables, table
from perdure.data.store import read_catalogue
from perdure.errors import MalformedError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.inspection import find_in_memory, name_structures
from perdure.kit import nat8, nat64
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager


@dataclass
class User:
    id: nat64
    email: str
    city: str | None = None
    age: nat8 = 0


OPTIONS = table(key="id", index=["city", ("age", "city")], unique=["email"])


def store_over(memory: BytesMemory) -> Store:
    return Store(MemoryManager.init(memory).get)


@pytest.fixture
def users() -> Table[User]:
    return Table.declare(store_over(BytesMemory()), "users", User, OPTIONS)


def ids(rows) -> list[int]:
    return [row.id for row in rows]


def test_a_list_of_the_memory_says_what_the_trees_are():
    memory = BytesMemory()
    store = Store(MemoryManager.init(memory).get)
    Table.declare(store, "users", User, OPTIONS).put(User(7, "ada@x", "Zug", 36))
    catalogue = read_catalogue(memory)
    assert catalogue is not None
    listed = name_structures(find_in_memory(memory), catalogue.schema()).structures
    assert {one.name: one.note for one in listed} == {
        "users": "the table",
        "users_by_city": "index of users by city",
        "users_by_age_city": "index of users by age, city",
        "users_by_email": "unique index of users by email",
        "catalogue": "what the other trees are",
    }


def test_rows_by_key_and_by_index(users):
    users.update(User(i, f"{i}@x", ("Zug", "Bern", None)[i % 3], i) for i in range(9))
    assert users[4] == User(4, "4@x", "Bern", 4)
    assert users.get(99) is None
    assert len(users) == 9
    assert 4 in users
    assert 99 not in users
    assert "x" not in users
    assert ids(users) == list(range(9))
    assert ids(users.range(3, 5)) == [3, 4]
    assert ids(users.range(7, reverse=True)) == [8, 7]
    assert ids(users.by.city("Zug")) == [0, 3, 6]
    assert ids(users.by.city("Zug", reverse=True)) == [6, 3, 0]
    assert ids(users.by.city(None)) == [2, 5, 8]
    assert ids(users.by["age", "city"](4)) == [4]
    assert ids(users.by.age_city.range(3, 5)) == [3, 4]
    assert users.by.email.one("7@x") == users[7]
    assert users.by.email.one("none") is None
    assert users.check() == []


def test_an_index_tells_texts_apart_that_begin_alike(users):
    users.update([User(1, "1", "a"), User(2, "2", "a\0b"), User(3, "3", "a\0"), User(4, "4", "ab")])
    assert ids(users.by.city("a")) == [1]
    assert ids(users.by.city("a\0")) == [3]


def test_a_row_is_replaced_and_its_indexes_with_it(users):
    users.put(User(1, "a", "Zug", 1))
    users.put(User(1, "b", "Bern", 2))
    assert (ids(users.by.city("Zug")), ids(users.by.city("Bern")), users.by.email.one("a")) == ([], [1], None)
    del users[1]
    assert (len(users), list(users.by.city("Bern")), users.check()) == (0, [], [])
    with pytest.raises(KeyError):
        del users[1]
    assert not users.remove(1)


def test_unique_values_and_keys(users):
    users.put(User(1, "a"))
    with pytest.raises(ConstraintError, match="users: another row has email='a' already"):
        users.put(User(2, "a"))
    users.put(User(1, "a", "Zug"))  # its own
    with pytest.raises(ConstraintError, match="there is a row of key id=1 already"):
        users.insert(User(1, "b"))
    assert (len(users), users.check()) == (1, [])


def test_null_is_equal_to_nothing():
    @dataclass
    class Thing:
        id: int
        tag: str | None = None

    things = Table.declare(store_over(BytesMemory()), "things", Thing, table(key="id", unique=["tag"]))
    things.update([Thing(1), Thing(2), Thing(3, "x")])
    assert ids(things.by.tag(None)) == [1, 2]
    assert things.check() == []


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (User(-1, "a"), "column 'id' holds u64, found -1: out of range"),
        (User(1, 7), "column 'email' holds String, found 7: no text"),
        (User(1, None), "column 'email' is never null"),
        (User(1, "a", age=256), "out of range, expected 0 to 255"),
        (User(True, "a"), "no integer"),
        ({"id": 1}, "missing: email"),
        ({"id": 1, "email": "a", "colour": 2}, "unknown: colour"),
        (object(), "a row is a User or a dict"),
    ],
)
def test_what_is_no_row(users, row, message):
    with pytest.raises(ValueError, match=message):
        users.put(row)
    assert len(users) == 0


def test_a_dict_is_a_row_and_has_defaults(users):
    users.put({"id": 3, "email": "x"})
    assert users[3] == User(3, "x", None, 0)


def test_a_key_has_a_longest(users):
    @dataclass
    class Page:
        name: str

    pages = Table.declare(users.store, "pages", Page, table(key="name"))
    pages.put(Page("x" * 65_000))
    with pytest.raises(ConstraintError, match=r"a key of 70002 bytes, at most 65535 are taken"):
        pages.put(Page("x" * 70_000))


def test_many_rows_are_one(users):
    users.put(User(5, "five"))
    with pytest.raises(ConstraintError):
        users.update([User(1, "a"), User(2, "b"), User(3, "five")])
    assert (ids(users), users.check()) == ([5], [])


def test_a_table_is_not_changed_under_a_loop(users):
    users.update(User(i, f"{i}") for i in range(5))
    rows = iter(users)
    assert next(rows).id == 0
    users.put(User(100, "x"))
    with pytest.raises(RuntimeError, match="changed while it was being iterated over"):
        next(rows)


def test_what_a_message_writes_waits_and_can_be_dropped(users):
    users.put(User(1, "a"))
    store = users.store
    store.begin()
    users.put(User(2, "b", "Zug"))
    del users[1]
    assert (ids(users), len(users), ids(users.by.city("Zug"))) == ([2], 1, [2])
    store.discard()
    again = Table.declare(store, "users", User, OPTIONS)
    assert (ids(again), again.check()) == ([1], [])


def test_columns_stored_apart():
    @dataclass
    class Point:
        id: int
        x: float
        owner: Principal | None = None

    memory = BytesMemory()
    options = table(key="id", index=["x"], storage="columns")
    points = Table.declare(store_over(memory), "points", Point, options)
    points.update(Point(i, i / 2, Principal(bytes([i]))) for i in range(5))
    points.put(Point(2, 7.0))
    assert points[2] == Point(2, 7.0, None)
    assert ids(points.by.x.range(0.5, 3.0)) == [1, 3, 4]
    del points[0]
    assert points.check() == []
    (found,) = open_tables(Store.open(memory))
    assert [row["x"] for row in found] == [0.5, 7.0, 1.5, 2.0]
    assert [tree.name for tree in found.model.trees] == ["points", "points_x", "points_owner", "points_by_x"]


def test_a_scan_of_one_column_reads_that_one_alone():
    @dataclass
    class Point:
        id: int
        x: int
        y: str

    points = Table.declare(store_over(BytesMemory()), "points", Point, table(key="id", storage="columns"))
    points.update(Point(i, i * 2, f"{i}") for i in range(300))
    y_tree = points.all_parts[2].tree
    walked = []
    y_tree.range = lambda *args, **kwargs: walked.append(args) or iter(())
    assert points.sql("select sum(x), max(id) from points where id < 200") == [(39_800, 199)]
    assert points.sql("select count(*) from points") == [(300,)]
    assert walked == []
    with pytest.raises(MalformedError, match="the columns of points are not in step"):
        points.sql("select * from points")
    del y_tree.range
    assert points.sql("select * from points where id = 7") == [(7, 14, "7")]
    assert [row.y for row in points.range(3, 5)] == ["3", "4"]
    assert [row.id for row in points.range(297, reverse=True)] == [299, 298, 297]


def test_damage_is_found_and_mended(users):
    users.update(User(i, f"{i}", "Zug") for i in range(4))
    index = users.parts[1].tree
    key, _ = next(index.range())
    index.map.remove(key)
    index.map.insert(key[:-1] + b"\xf0", b"")
    faults = users.check()
    assert sorted(fault.what for fault in faults) == ["a row is not in it", "an entry of no row"]
    with pytest.raises(MalformedError, match="`reindex\\(\\)` mends it"):
        list(users.by.city("Zug"))
    users.reindex()
    assert (users.check(), ids(users.by.city("Zug"))) == ([], [0, 1, 2, 3])


def test_what_sql_leaves_out_has_its_default(users):
    users.sql("insert into users (id, email) values (1, 'a')")
    assert users[1] == User(1, "a", None, 0)
    with pytest.raises(Exception, match="column 'email' is never null"):
        users.sql("insert into users (id) values (2)")
    with pytest.raises(Exception, match="column 'age' is never null"):
        users.sql("update users set age = null")


def test_a_table_without_its_class_has_dictionaries(users):
    users.put(User(1, "a", "Zug", 7))
    (found,) = open_tables(users.store)
    assert found[1] == {"id": 1, "email": "a", "city": "Zug", "age": 7}
    found.put({"id": 2, "email": "b"})
    assert users[2] == User(2, "b")


class TableMachine(RuleBasedStateMachine):
    """A table, a dictionary and sqlite3, through puts, deletes, SQL, savepoints, messages that trap, reopenings."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = BytesMemory()
        self.store = store_over(self.memory)
        self.users = Table.declare(self.store, "users", User, OPTIONS)
        self.oracle = sqlite3.connect(":memory:", isolation_level=None)
        self.oracle.execute(
            "create table users(id integer primary key, email text not null unique, city text, age integer not null)"
        )
        self.in_message = False

    keys = st.integers(0, 12)
    emails = st.sampled_from(["a", "b", "c", "a\0", "ä", ""])
    cities = st.sampled_from([None, "Zug", "Bern", "Zu", "Zug\0"])

    @rule(key=keys, email=emails, city=cities, age=st.integers(0, 3))
    def put(self, key, email, city, age):
        taken = self.oracle.execute("select id from users where email = ? and id != ?", (email, key)).fetchone()
        if taken:
            with pytest.raises(ConstraintError):
                self.users.put(User(key, email, city, age))
            return
        self.users.put(User(key, email, city, age))
        self.oracle.execute("insert or replace into users values (?, ?, ?, ?)", (key, email, city, age))

    @rule(key=keys)
    def remove(self, key):
        assert self.users.remove(key) == bool(self.oracle.execute("delete from users where id = ?", (key,)).rowcount)

    @rule(
        statement=st.sampled_from(
            [
                "insert into users values (13, 'n', 'Zug', 1)",
                "update users set city = 'Zug', age = age + 1 where age < 3",
                "update users set id = id + 20 where id between 3 and 6",
                "update users set email = 'a'",
                "delete from users where city is null",
                "delete from users where city >= 'Zug' and age = 1",
                "insert or replace into users select id, email, city, 2 from users where id < 4",
                "insert or ignore into users values (14, 'a', 'Zug', 1), (15, 'o', 'Zug', 1), (3, 'p', 'Zug', 1)",
                "update or ignore users set id = id + 1, city = 'Zug'",
                "update or ignore users set email = 'a' where id < 9",
            ]
        )
    )
    def write_sql(self, statement):
        import apsw

        try:
            self.oracle.execute(statement)
        except sqlite3.IntegrityError:
            with pytest.raises(apsw.ConstraintError):
                self.users.sql(statement)
        else:
            self.users.sql(statement)

    @rule(
        statement=st.sampled_from(
            [
                "insert into users values (14, 'm', null, 0)",
                "delete from users",
                "update users set age = 3, city = 'Basel'",
            ]
        )
    )
    def undo_within(self, statement):
        connection = self.users.connection()
        for text in ("savepoint one", statement, "savepoint two", "delete from users where age > 1", "rollback to two"):
            try:
                connection.execute(text)
            except Exception:
                break
        connection.execute("rollback to one")
        connection.execute("release one")

    @precondition(lambda self: not self.in_message)
    @rule()
    def begin(self):
        self.store.begin()
        self.oracle.execute("begin")
        self.in_message = True

    @precondition(lambda self: self.in_message)
    @rule(traps=st.booleans())
    def end(self, traps):
        if traps:
            self.store.discard()
            self.oracle.execute("rollback")
        else:
            self.store.flush()
            self.oracle.execute("commit")
        self.in_message = self.store.journal.is_held = False
        self.users = Table.declare(self.store, "users", User, OPTIONS)

    @precondition(lambda self: not self.in_message)
    @rule()
    def reopen(self):
        self.store = store_over(self.memory)
        self.users = Table.declare(self.store, "users", User, OPTIONS)

    @invariant()
    def the_rows_are_the_same(self):
        rows = self.oracle.execute("select * from users order by id").fetchall()
        assert [(row.id, row.email, row.city, row.age) for row in self.users] == rows
        assert len(self.users) == len(rows)

    @rule(
        query=st.sampled_from(
            [
                "select id from users where city = 'Zug' order by id",
                "select email, id from users where age >= 1 and age < 3 order by age, city, id",
                "select count(*) from users where city > 'Bern'",
                "select id from users where email = 'a' or email = 'b' order by 1",
                "select max(id), min(city) from users",
                "select a.id, b.id from users a join users b on a.city = b.city and a.id < b.id order by 1, 2",
                "select id from users order by id desc limit 3",
                "select city, count(*) from users group by city order by 1",
                "select id from users where id = 3 or id = 4.0 order by id",
            ]
        )
    )
    def read_sql(self, query):
        assert self.users.sql(query) == self.oracle.execute(query).fetchall()

    def teardown(self):
        if self.in_message:
            self.store.flush()
        assert self.users.check() == []


TableMachine.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
test_against_sqlite = TableMachine.TestCase


def test_an_interrupt_within_a_write_stays_one(monkeypatch):
    """It comes out as it is, not as an error of what takes the write back, and nothing of the write is left."""
    users = Table.declare(store_over(BytesMemory()), "users", User, OPTIONS)
    users.put(User(1, "a", "Zug", 1))
    users.store.begin()

    def interrupted(*_):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("perdure.data.tree.insort", interrupted)
    with pytest.raises(KeyboardInterrupt):
        users.put(User(2, "b", "Bern", 2))
    users.store.flush()
    assert users.check() == []
    assert [one.id for one in users] == [1]


@dataclass
class Short:
    id: nat64
    v: str


def test_names_that_sql_cannot_have_are_refused_where_they_are_new():
    pytest.importorskip("apsw")
    memory = BytesMemory()
    store = store_over(memory)
    options = table(key="id")
    for name in ("sqlite_master", "SQLite_x"):
        with pytest.raises(MalformedError, match="begin with sqlite_"):
            Table.declare(store, name, Short, options)
    users = Table.declare(store, "users", Short, options)
    users.put(Short(1, "a"))
    wider = make_dataclass("Wider", [("id", nat64), ("v", str), ("V", str, "")])
    with pytest.raises(MalformedError, match="columns 'v' and 'V' of 'users' are one name to SQL"):
        Table.declare(store, "users", wider, options)
    with pytest.raises(MalformedError, match="columns 'v' and 'V' of 'other'"):
        Table.declare(store, "other", wider, options)
    accents = make_dataclass("Accents", [("id", nat64), ("é", str), ("É", str)])
    assert Table.declare(store, "accents", accents, options).sql("select * from accents") == []
    assert store_over(memory).catalogue.model("sqlite_master") is None
    assert users.sql("select v from users") == [("a",)]
    again = Table.declare(store, "Users", Short, options)
    with pytest.raises(UnsupportedError, match="tables 'users' and 'Users' are one name to SQL"):
        again.sql("select 1")
    assert list(again) == []
