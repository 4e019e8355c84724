"""Data models in canisters: one transaction a message, kept over upgrades, refused before anything is written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from perdure import RejectError, Subnet
from perdure.data import Store, Table, open_tables, table
from perdure.kit import canister, migration, nat64, query, stable, update
from perdure.stable import StableBTreeMap


@dataclass
class User:
    id: nat64
    name: str
    city: str | None = None


@canister(name="shop")
class Shop:
    users: Table[User] = table(key="id", index=["city"])
    totals: StableBTreeMap[str, nat64]

    @update
    def add(self, number: nat64, name: str, city: str) -> nat64:
        self.users.put(User(number, name, city))
        return len(self.users)

    @update
    def fail(self) -> None:
        self.users.put(User(99, "x"))
        self.users.sql("delete from users where id = 1")
        raise ValueError("no")

    @query
    def of(self, city: str) -> list[User]:
        return list(self.users.by.city(city))

    @update
    def run(self, text: str) -> list[str]:
        return [repr(row) for row in self.users.sql(text)]

    @query
    def ask(self, text: str) -> list[str]:
        return [repr(row) for row in self.users.sql(text)]


@dataclass
class Grown:
    id: nat64
    name: str
    city: str | None
    age: int = 3


@canister(name="shop")
class Larger:
    users: Table[Grown] = table(key="id", index=["city", "name"])

    @query
    def named(self, name: str) -> list[Grown]:
        return list(self.users.by.name(name))


@canister(name="shop")
class Broken:
    users: Table[User] = table(key="name")


@canister(name="shop")
class Without:
    totals: StableBTreeMap[str, nat64]


def test_a_message_is_one_transaction_over_all_trees():
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        actor = shop.actor()
        assert [actor.add(1, "Ada", "Zug"), actor.add(2, "Bob", "Zug")] == [1, 2]
        with pytest.raises(RejectError, match="ValueError: no"):
            actor.fail()
        assert [row["id"] for row in actor.of("Zug")] == [1, 2]
        fork = subnet.fork()
        fork.canister(shop.id).actor().run("update users set city = 'Bern'")
        assert [row["id"] for row in actor.of("Zug")] == [1, 2]
        assert fork.canister(shop.id).actor().of("Zug") == []


def test_sql_in_a_message_commits_with_it_or_not_at_all():
    with Subnet() as subnet:
        actor = subnet.install(Shop).actor()
        actor.add(1, "Ada", "Zug")
        assert actor.run("insert into users values (5, 'Eve', null)") == []
        assert actor.run("savepoint a; delete from users; rollback to a; release a; select count(*) from users") == [
            "(2,)"
        ]
        with pytest.raises(RejectError, match="a savepoint is open"):
            actor.run("begin; delete from users")
        with pytest.raises(RejectError, match="tables are declared in the canister's class"):
            actor.run("delete from users; create table x(a)")
        with pytest.raises(RejectError, match="no 'load_extension'"):
            actor.run("select load_extension('x')")
        assert actor.run("select count(*) from users") == ["(2,)"]


@pytest.mark.parametrize("method", ["ask", "run"])
def test_a_transaction_that_sql_leaves_open_ends_with_its_message(method):
    with Subnet() as subnet:
        actor = subnet.install(Shop).actor()
        actor.add(1, "Ada", "Zug")
        call = getattr(actor, method)
        for _ in range(2):
            assert call("begin; select count(*) from users") == ["(1,)"]


@pytest.mark.parametrize("statement", ["create temp table x(a)", "create temp view x as select 1", "attach '' as x"])
def test_sql_keeps_nothing_beside_stable_memory(statement):
    with Subnet() as subnet:
        actor = subnet.install(Shop).actor()
        with pytest.raises(RejectError, match="tables are declared in the canister's class"):
            actor.run(statement)


def test_a_query_or_a_message_that_changes_nothing_leaves_models_open(monkeypatch):
    from perdure.data import tables

    opened = []
    connected = tables._connected
    monkeypatch.setattr(tables, "_connected", lambda store: opened.append(store) or connected(store))
    with Subnet() as subnet:
        actor = subnet.install(Shop).actor()
        actor.add(1, "Ada", "Zug")
        for _ in range(3):
            assert actor.ask("select name from users") == ["('Ada',)"]
            with pytest.raises(RejectError, match="no such table"):
                actor.run("select * from nowhere")
        assert len(opened) == 1
        with pytest.raises(RejectError, match="ValueError: no"):
            actor.fail()
        assert actor.ask("select name from users") == ["('Ada',)"]


def test_rows_are_kept_over_upgrades_and_grow(tmp_path):
    with Subnet(tmp_path / "state") as subnet:
        shop = subnet.install(Shop)
        shop.actor().add(1, "Ada", "Zug")
        shop.upgrade(Larger)
        assert shop.actor().named("Ada") == [{"id": 1, "name": "Ada", "city": "Zug", "age": 3}]
    with Subnet(tmp_path / "state", code=[Larger]) as subnet:
        (users,) = open_tables(Store.open(subnet.canister(shop.id).stable))
        assert list(users) == [{"id": 1, "name": "Ada", "city": "Zug", "age": 3}]
        assert users.check() == []


def test_an_upgrade_that_cannot_read_what_is_there_is_refused():
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        shop.actor().add(1, "Ada", "Zug")
        before = shop.stable.read(0, shop.stable.size() << 16)
        with pytest.raises(RejectError, match=r"the key of 'users' is declared as \(name\) and was another"):
            shop.upgrade(Broken)
        assert shop.stable.read(0, shop.stable.size() << 16) == before
        assert [row["id"] for row in shop.actor().of("Zug")] == [1]


@dataclass
class Person:
    name: str
    number: nat64


@canister(name="shop")
class Renewed:
    people: Table[Person] = table(key="name")
    runs: StableBTreeMap[str, nat64]

    @migration
    def by_name(self, users: Table[User]) -> None:
        self.people.update(Person(user.name, user.id) for user in users)
        self.runs["by_name"] = self.runs.get("by_name", 0) + 1
        users.clear()

    @query
    def all(self) -> list[Person]:
        return list(self.people)

    @query
    def ran(self) -> nat64:
        return self.runs["by_name"]


@canister(name="shop")
class Trapping:
    people: Table[Person] = table(key="name")

    @migration
    def by_name(self, users: Table[User]) -> None:
        for user in users:
            self.people.put(Person(user.name, user.id))
        users.clear()
        raise ValueError("in the midst")


@canister(name="shop")
class OtherColumns:
    people: Table[Person] = table(key="name")

    @migration
    def by_name(self, users: Table[Grown]) -> None:
        raise AssertionError


def test_a_migration_takes_a_table_over_once():
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        for number in range(300):
            shop.actor().add(number, f"{number:03}", "Zug")
        for _ in range(2):  # it may stay in the class
            shop.upgrade(Renewed)
            assert shop.actor().all() == [{"name": f"{number:03}", "number": number} for number in range(300)]
            assert shop.actor().ran() == 1
        states = {one.name: one.state for one in Store.open(shop.stable).catalogue.models}
        assert states == {"users": "unused", "people": "active"}


def test_a_migration_that_traps_leaves_everything_as_it_was():
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        shop.actor().add(1, "Ada", "Zug")
        before = shop.stable.read(0, shop.stable.size() << 16)
        with pytest.raises(RejectError, match="in the midst"):
            shop.upgrade(Trapping)
        with pytest.raises(
            RejectError, match=r"takes over the table 'users' with the columns .*age: .*, and it has id"
        ):
            shop.upgrade(OtherColumns)
        assert shop.stable.read(0, shop.stable.size() << 16) == before
        assert [row["id"] for row in shop.actor().of("Zug")] == [1]
        shop.upgrade(Renewed)
        assert shop.actor().all() == [{"name": "Ada", "number": 1}]


def test_a_migration_that_nothing_is_there_for():
    with Subnet() as subnet:
        shop = subnet.install(Without)
        shop.upgrade(Renewed)
        assert shop.actor().all() == []


def test_a_migration_that_its_class_contradicts():
    with pytest.raises(TypeError, match="declares 'users', and a migration takes it over"):

        @canister
        class Same:
            users: Table[User] = table(key="name")

            @migration
            def move(self, users: Table[User]) -> None: ...

    with pytest.raises(TypeError, match="declares no data model to put it in"):

        @canister
        class Nowhere:
            totals: StableBTreeMap[str, nat64]

            @migration
            def move(self, users: Table[User]) -> None: ...


def test_a_class_without_the_table_leaves_its_bytes():
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        shop.actor().add(1, "Ada", "Zug")
        shop.upgrade(Without)
        shop.upgrade(Larger)
        assert [row["id"] for row in shop.actor().named("Ada")] == [1]


def test_the_catalogue_s_memory_is_taken():
    with pytest.raises(TypeError, match="takes memory 254, which is the catalogue's"):

        @canister
        class Both:
            users: Table[User] = table(key="id")
            totals: StableBTreeMap[str, nat64] = stable(254)


def test_a_table_without_a_key_is_refused_with_the_class():
    with pytest.raises(TypeError, match="a table has a key"):

        @canister
        class Keyless:
            users: Table[User]
