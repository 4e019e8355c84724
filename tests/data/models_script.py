"""All data models of one canister against their oracles, through messages that trap, upgrades, forks, rows in steps.

A few runs are in the suite (`test_models_machine`). For more:
``python tests/data/models_script.py --minutes 10 --seed 1``.
"""

from __future__ import annotations

import argparse
import json
import time
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure import RejectError, Subnet
from perdure.data import Documents, Rows, Store, Table, Triples, Verb, documents, open_tables, table, verb
from perdure.kit import canister, migration, nat8, nat64, query, update

STEP_ROWS = 3
_traps = [0]
"""How many steps are to trap."""


@dataclass
class User:
    id: nat64
    email: str
    city: str | None = None


@dataclass
class Grown:
    id: nat64
    email: str
    city: str | None = None
    age: nat8 = 7


@dataclass
class Person:
    email: str
    number: nat64
    city: str | None = None


class Common:
    """Every version has these, and the same messages."""

    @update
    def change(self, actions: str, traps: bool) -> None:
        for name, *arguments in json.loads(actions):
            getattr(self, f"_{name}")(*arguments)
        if traps:
            raise ValueError("as it was told")

    @query
    def shown(self) -> str:
        kept: dict[str, Any] = {
            "links": list(self.links),
            "into": {one: list(self.links.subjects(one)) for one in NAMES},
            "facts": sorted(self.facts),
            "known": len(list(self.facts.match((None, "knows", None)))),
            "notes": {str(key): one for key, one in self.notes.items()},
            "found": sorted(key for key, _ in self.notes.find({"n": {"$gte": 2}})),
            "rows": self._rows(),
        }
        return json.dumps(kept)

    def _link(self, one, other):
        self.links.add(one, other)

    def _unlink(self, one, other):
        self.links.remove(one, other)

    def _fact(self, *triple):
        self.facts.add(triple)

    def _forget(self, subject):
        self.facts.remove((subject, None, None))

    def _note(self, key, value):
        self.notes[key] = value

    def _drop(self, key):
        self.notes.remove(key)


class OfUsers(Common):
    """Those that have users by number."""

    def _user(self, number, email, city, age):
        row = {"id": number, "email": email, "city": city}
        self.users.put(row | ({"age": age} if "age" in self.users.rows.names else {}))

    def _gone(self, number):
        self.users.remove(number)

    def _rows(self):
        ages = "age" in self.users.rows.names
        rows = [[one.id, one.email, one.city, one.age if ages else None] for one in self.users]
        assert [one.id for one in self.users.by.city("Zug")] == [one[0] for one in rows if one[2] == "Zug"]
        assert self.users.sql("select count(*), count(city) from users") == [
            (len(rows), sum(one[2] is not None for one in rows))
        ]
        return rows


@canister(name="models")
class First(OfUsers):
    users: Table[User] = table(key="id", index=["city"], unique=["email"])
    links: Verb[str, str] = verb()
    facts: Triples
    notes: Documents[nat64] = documents(index=["n"])


@canister(name="models")
class Second(OfUsers):
    users: Table[Grown] = table(key="id", index=["city", ("age", "city")], unique=["email"])
    links: Verb[str, str] = verb()
    facts: Triples
    notes: Documents[nat64] = documents(index=["n", "m"])


@canister(name="models")
class Third(Common):
    people: Table[Person] = table(key="email", unique=["number"])
    links: Verb[str, str] = verb()
    facts: Triples
    notes: Documents[nat64]

    @migration(rows=STEP_ROWS)
    def by_email(self, users: Rows[User]) -> None:
        for user in users:
            if user.email not in self.people:
                self.people.put(Person(user.email, user.id, user.city))
        if _traps[0]:
            _traps[0] -= 1
            raise ValueError("a step that traps")

    def _user(self, number, email, city, age):
        self.people.put(Person(email, number + 1_000, city))

    def _gone(self, number):
        found = self.people.by.number.one(number + 1_000)
        if found is not None:
            self.people.remove(found.email)

    def _rows(self):
        return [[one.number, one.email, one.city, None] for one in self.people]

    @query
    def is_moving(self) -> bool:
        return bool(self.people.store.moves)


NAMES = ["", "ada", "ada\0", "bob"]
names = st.sampled_from(NAMES)
keys = st.integers(0, 7)
cities = st.sampled_from([None, "Zug", "Zu"])
values = st.sampled_from([{}, {"n": 1}, {"n": 2, "m": "x"}, {"n": [1, 3]}, {"m": None}, {"n": "2"}])
actions = st.one_of(
    st.tuples(st.just("user"), keys, st.sampled_from("abcdefgh"), cities, st.integers(0, 3)),
    st.tuples(st.just("gone"), keys),
    st.tuples(st.just("link"), names, names),
    st.tuples(st.just("unlink"), names, names),
    st.tuples(st.just("fact"), names, st.sampled_from(["knows", "is"]), names),
    st.tuples(st.just("forget"), names),
    st.tuples(st.just("note"), keys, values),
    st.tuples(st.just("drop"), keys),
)


@dataclass
class Oracle:
    """What a canister is to hold."""

    version: type = First
    users: dict[int, list[Any]] = field(default_factory=dict)
    links: set[tuple[str, str]] = field(default_factory=set)
    facts: set[tuple[str, str, str]] = field(default_factory=set)
    notes: dict[int, Any] = field(default_factory=dict)
    people: dict[str, list[Any]] = field(default_factory=dict)
    waiting: list[list[Any]] = field(default_factory=list)

    def take(self, name: str, *arguments: Any) -> None:
        """One action; `ValueError`: a constraint is broken."""
        getattr(self, f"_{name}")(*arguments)

    def _user(self, number, email, city, age):
        if self.version is Third:
            if any(one[0] == number + 1_000 and one[1] != email for one in self.people.values()):
                raise ValueError
            self.people[email] = [number + 1_000, email, city, None]
            return
        if any(one[1] == email and one[0] != number for one in self.users.values()):
            raise ValueError
        self.users[number] = [number, email, city, age if self.version is Second else None]

    def _gone(self, number):
        if self.version is Third:
            self.people = {key: one for key, one in self.people.items() if one[0] != number + 1_000}
        self.users.pop(number, None)

    def _link(self, *pair):
        self.links.add(pair)

    def _unlink(self, *pair):
        self.links.discard(pair)

    def _fact(self, *triple):
        self.facts.add(triple)

    def _forget(self, subject):
        self.facts = {one for one in self.facts if one[0] != subject}

    def _note(self, key, value):
        self.notes[key] = value

    def _drop(self, key):
        self.notes.pop(key, None)

    def step(self) -> None:
        """The next rows arrive."""
        for one in self.waiting[:STEP_ROWS]:
            self.people.setdefault(one[1], [*one[:3], None])
        del self.waiting[:STEP_ROWS]

    def become(self, version: type) -> None:
        """An upgrade."""
        if version is Third and self.version is not Third:
            self.waiting, self.users = [self.users[key] for key in sorted(self.users)], {}
        elif version is not self.version:
            age = 7 if version is Second else None
            self.users = {key: [*one[:3], age] for key, one in self.users.items()}
        self.version = version

    def rows(self) -> list[list[Any]]:
        """As the canister shows them."""
        return [self.people[key] for key in sorted(self.people)] or [self.users[key] for key in sorted(self.users)]


@dataclass
class World:
    """A subnet and what is to be in it."""

    subnet: Subnet
    oracle: Oracle

    @property
    def canister(self) -> Any:
        """The only one."""
        return self.subnet.canisters[0]

    def arrived(self) -> None:
        """Let the oracle take as many steps as the canister has."""
        found = len(json.loads(self.canister.actor().shown())["rows"])
        while self.oracle.waiting and (len(self.oracle.people) < found or not self.canister.actor().is_moving()):
            self.oracle.step()


class ModelsMachine(RuleBasedStateMachine):
    """One canister in up to three forks; see the module."""

    def __init__(self) -> None:
        super().__init__()
        _traps[0] = 0
        self.worlds: list[World] = []

    @initialize()
    def begin(self):
        subnet = Subnet()
        subnet.install(First)
        self.worlds.append(World(subnet, Oracle()))
        self.fill(len(self.worlds) - 1)

    @rule(number=st.integers(0, 5))
    def fill(self, number):
        world = self.pick(number)
        world.arrived()
        if world.oracle.version is Third:  # where others may have the numbers
            return
        rows = [("user", key, email, "Zug", key) for key, email in enumerate("ABCDEFGH")]
        world.canister.actor().change(json.dumps(rows), False)
        for row in rows:
            world.oracle.take(*row)

    def pick(self, number: int) -> World:
        return self.worlds[number % len(self.worlds)]

    @rule(number=st.integers(0, 5), message=st.lists(actions, min_size=1, max_size=5), traps=st.integers(0, 2))
    def message(self, number, message, traps):
        world = self.pick(number)
        world.arrived()
        expected = deepcopy(world.oracle)
        try:
            for one in message:
                expected.take(*one)
        except ValueError:
            traps = 0
        if traps == 0:
            with pytest.raises(RejectError, match=r"as it was told|another row has"):
                world.canister.actor().change(json.dumps(message), True)
            return
        world.canister.actor().change(json.dumps(message), False)
        world.oracle = expected

    @rule(number=st.integers(0, 5), version=st.sampled_from([First, Second, First, Second, Third]))
    def upgrade(self, number, version):
        world = self.pick(number)
        world.arrived()
        old = world.oracle.version
        if old is Third and version is not Third:
            if not world.canister.actor().is_moving():
                world.subnet.close()
                self.worlds.remove(world)
                self.begin()
                return
            with pytest.raises(RejectError, match="still on their way"):
                world.canister.upgrade(version)
            return
        if version is Third and (old is Second or (old is First and not world.oracle.users)):
            version = First
        world.canister.upgrade(version)
        world.oracle.become(version)

    @precondition(lambda self: len(self.worlds) < 3)
    @rule(number=st.integers(0, 5))
    def fork(self, number):
        world = self.pick(number)
        world.arrived()
        self.worlds.append(World(world.subnet.fork(), deepcopy(world.oracle)))

    @precondition(lambda self: len(self.worlds) > 1)
    @rule()
    def close(self):
        self.worlds.pop().subnet.close()

    @rule(number=st.integers(0, 5))
    def pass_by(self, number):
        self.pick(number).subnet.tick()

    @precondition(lambda self: any(one.oracle.waiting for one in self.worlds))
    @rule()
    def trap_in_a_step(self):
        _traps[0] = 1

    @invariant()
    def all_is_there(self):
        for world in self.worlds:
            world.arrived()
            oracle = world.oracle
            shown = json.loads(world.canister.actor().shown())
            assert shown["rows"] == oracle.rows()
            assert [tuple(one) for one in shown["links"]] == sorted(oracle.links)
            assert shown["into"] == {key: sorted(a for a, b in oracle.links if b == key) for key in NAMES}
            assert [tuple(one) for one in shown["facts"]] == sorted(oracle.facts)
            assert shown["known"] == sum(one[1] == "knows" for one in oracle.facts)
            assert shown["notes"] == {str(key): oracle.notes[key] for key in sorted(oracle.notes)}
            assert shown["found"] == sorted(key for key, one in oracle.notes.items() if _is_found(one.get("n")))

    def teardown(self):
        for world in self.worlds:
            store = Store.open(world.canister.stable)
            assert all(one.check() == [] for one in open_tables(store))
            for model in store.catalogue.models:
                assert model.kind == "table" or Table(store, model).check() == [] or model.kind == "documents"
            world.subnet.close()


def _is_found(value: Any) -> bool:
    """What ``{"$gte": 2}`` finds."""
    return any(isinstance(one, int) and one >= 2 for one in (value if isinstance(value, list) else [value]))


def settings_of(examples: int, steps: int, **more: Any) -> settings:
    """Of a run."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.reuse, Phase.generate],
        **more,
    )


def main() -> None:
    """Run for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    end, runs = time.monotonic() + 60 * options.minutes, 0
    while time.monotonic() < end:
        seeded = hypothesis.seed(options.seed + runs)(ModelsMachine)
        run_state_machine_as_test(seeded, settings=settings_of(10, 40, database=None))
        runs += 1
    print(f"{runs * 10} runs of up to 40 steps, seeds {options.seed} to {options.seed + runs - 1}: no difference")


if __name__ == "__main__":
    main()
