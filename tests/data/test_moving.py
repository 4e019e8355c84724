"""A migration in steps: each a message; what traps, is interrupted, forked or killed goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from perdure import RejectError, Subnet
from perdure.data import Catalogue, Move, Rows, Store, Table, table
from perdure.errors import MalformedError
from perdure.kit import canister, migration, nat64, query, timer, update

COUNT = 95
FAULTS: dict[str, int] = {}
"""What is to happen in the step that begins with this row."""


@dataclass
class User:
    id: nat64
    name: str


@dataclass
class Person:
    name: str
    number: nat64


@canister(name="shop")
class Shop:
    users: Table[User] = table(key="id")

    @update
    def fill(self, count: nat64) -> None:
        self.users.update(User(number, f"{number:04}") for number in range(count))


class _Moving:
    @query
    def all(self) -> list[Person]:
        return list(self.people)

    @query
    def left(self) -> list[str]:
        return [one.table for one in self.people.store.moves]

    @update
    def poke(self) -> nat64:
        return len(self.people)


@canister(name="shop")
class Renewed(_Moving):
    people: Table[Person] = table(key="name", unique=["number"])

    @migration(rows=10)
    def by_name(self, users: Rows[User]) -> None:
        for user in users:
            self.people.insert(Person(user.name, user.id))
            if user.id == FAULTS.get("trap"):
                del FAULTS["trap"]
                raise ValueError(f"trapped at {user.id}")
            if user.id == FAULTS.get("interrupt"):
                del FAULTS["interrupt"]
                raise KeyboardInterrupt
            if user.id == FAULTS.get("kill"):
                os.kill(os.getpid(), signal.SIGKILL)


@canister(name="shop")
class Later(_Moving):
    people: Table[Person] = table(key="name", unique=["number"])

    @query
    def newer(self) -> bool:
        return True


EXPECTED = [{"name": f"{number:04}", "number": number} for number in range(COUNT)]


def begun(subnet, count=COUNT):
    shop = subnet.install(Shop)
    shop.actor().fill(count)
    shop.upgrade(Renewed)
    return shop


def go_on(subnet, shop):
    """Rounds until the rows are there; how many messages that took."""
    for rounds in range(COUNT):
        if not shop.actor().left():
            return rounds
        subnet.tick()
    raise AssertionError("it does not end")


@pytest.fixture(autouse=True)
def _no_faults():
    FAULTS.clear()
    yield
    FAULTS.clear()


@pytest.mark.parametrize("count", [0, 1, 10, 95])
def test_each_step_is_a_message(count):
    with Subnet() as subnet:
        shop = begun(subnet, count)
        seen = []
        while shop.actor().left():
            seen.append(len(shop.actor().all()))
            subnet.tick()
        # Between steps there are whole ones; reads are served from what has arrived.
        assert all(one % 10 == 0 for one in seen)
        assert len(seen) >= count // 10
        assert shop.actor().all() == EXPECTED[:count]
        states = {one.name: one.state for one in Store.open(shop.stable).catalogue.models}
        assert states == {"users": "unused", "people": "active"}
        timer_before = shop.actor().poke()
        subnet.tick()
        assert shop.actor().poke() == timer_before == count


def test_a_step_that_traps_stays_where_it_was_and_is_tried_again():
    FAULTS["trap"] = 37
    with Subnet() as subnet:
        shop = begun(subnet)
        for _ in range(20):
            subnet.tick()
        assert shop.actor().all() == EXPECTED[:30]  # the seven of the step went with it
        assert [one.after for one in Store.open(shop.stable).moves] == [b"\x15\x1d"]
        assert shop.actor().poke() == 30  # an update sets the timer again
        go_on(subnet, shop)
        assert shop.actor().all() == EXPECTED


@canister(name="shop")
class LeftOpen(_Moving):
    people: Table[Person] = table(key="name")

    @migration
    def by_name(self, users: Rows[User]) -> None:
        self.people.update(Person(user.name, user.id) for user in users)
        self.people.sql("begin")
        self.people.sql("delete from people where number > 3")


def test_a_step_that_leaves_a_transaction_open():
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        shop.actor().fill(COUNT)
        shop.upgrade(LeftOpen)
        subnet.tick()
        assert (shop.actor().all(), shop.actor().left()) == ([], ["users"])


def test_a_step_that_is_interrupted():
    FAULTS["interrupt"] = 52
    with Subnet() as subnet:
        shop = begun(subnet)
        with pytest.raises(KeyboardInterrupt):
            subnet.run_until_idle()
        assert shop.actor().all() == EXPECTED[:50]
        go_on(subnet, shop)
        assert shop.actor().all() == EXPECTED


def test_a_fork_in_the_middle_goes_on_by_itself():
    with Subnet() as subnet:
        shop = begun(subnet)
        subnet.tick()
        arrived = shop.actor().all()
        with subnet.fork() as fork:
            here = fork.canisters[0]
            assert here.actor().left() == ["users"]
            go_on(fork, here)
            assert here.actor().all() == EXPECTED
        assert shop.actor().all() == arrived
        go_on(subnet, shop)
        assert shop.actor().all() == EXPECTED


def test_an_upgrade_in_the_middle():
    with Subnet() as subnet:
        shop = begun(subnet)
        subnet.tick()
        arrived = shop.actor().all()
        with pytest.raises(RejectError, match="rows of 'users' are still on their way by the migration 'by_name'"):
            shop.upgrade(Later)
        with pytest.raises(RejectError, match="still on their way"):
            shop.upgrade(Shop)
        assert shop.actor().all() == arrived
        shop.upgrade(Renewed)
        go_on(subnet, shop)
        assert shop.actor().all() == EXPECTED
        shop.upgrade(Renewed)  # not once more
        assert shop.actor().left() == []
        shop.upgrade(Later)
        assert shop.actor().newer()


KILLED = """
import sys
sys.path.insert(0, {tests!r})
import test_moving as here
from perdure import Subnet

here.FAULTS["kill"] = {at}
with Subnet({path!r}) as subnet:
    shop = here.begun(subnet) if {is_new} else subnet.canisters[0]
    while shop.actor().left():
        subnet.tick()
"""


@pytest.mark.slow
def test_the_process_is_killed_in_a_step(tmp_path):
    path = str(tmp_path / "state")
    for at, is_new in ((23, True), (61, False)):
        script = KILLED.format(tests=str(Path(__file__).parent), at=at, path=path, is_new=is_new)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    with Subnet(path, code=[Renewed]) as subnet:
        shop = subnet.canisters[0]
        arrived = shop.actor().all()
        assert arrived == EXPECTED[: len(arrived)]
        assert len(arrived) % 10 == 0
        assert 60 >= len(arrived) >= 50
        go_on(subnet, shop)
        assert shop.actor().all() == EXPECTED


def test_what_a_class_cannot_say():
    with pytest.raises(TypeError, match="has a @timer and a migration in steps, move"):

        @canister
        class Timed:
            people: Table[Person] = table(key="name")

            @migration
            def move(self, users: Rows[User]) -> None: ...

            @timer
            def due(self) -> None: ...

    with pytest.raises(TypeError, match="takes the rows of one table, found 2"):

        @canister
        class Two:
            people: Table[Person] = table(key="name")

            @migration
            def move(self, users: Rows[User], others: Table[User]) -> None: ...

    with pytest.raises(TypeError, match="rows=0 is how many"):

        @canister
        class Nothing:
            people: Table[Person] = table(key="name")

            @migration(rows=0)
            def move(self, users: Rows[User]) -> None: ...

    with pytest.raises(TypeError, match="rows=5 is how many"):

        @canister
        class AtOnce:
            people: Table[Person] = table(key="name")

            @migration(rows=5)
            def move(self, users: Table[User]) -> None: ...


def test_a_catalogue_whose_moves_are_none():
    with Subnet() as subnet:
        shop = begun(subnet)
        catalogue = Store.open(shop.stable).catalogue
        (move,) = catalogue.moves
        for moves, what in (
            ((Move("by_name", "nobody"),), "a move of a table that is not there"),
            ((move, move), "two moves by one migration"),
        ):
            with pytest.raises(MalformedError, match=what):
                Catalogue.decode(replace(catalogue, moves=moves).encode())
        assert Catalogue.decode(catalogue.encode()) == catalogue


@pytest.mark.parametrize("after", [b"junk", b"\x15", b"\0" * 1_000, b"\xff"])
def test_a_catalogue_that_says_a_key_that_is_none(after):
    with Subnet() as subnet:
        shop = begun(subnet)
        Store.open(shop.stable).note_move(Move("by_name", "users", after))
        for _ in range(3):
            subnet.tick()
        assert (shop.actor().all(), shop.actor().left()) == ([], ["users"])


@pytest.mark.parametrize("move", [Move("nobody", "users"), Move("by_name", "people")])
def test_a_catalogue_that_says_another_migration(move):
    with Subnet() as subnet:
        shop = begun(subnet)
        store = Store.open(shop.stable)
        store.note_move(Move("by_name", "users"), has_ended=True)
        store.note_move(move)
        subnet.tick()
        assert (shop.actor().all(), shop.actor().left()) == ([], [move.table])


def test_a_rehearsal_says_that_it_tries_no_step():
    (subnet := Subnet()).install(Shop).actor().fill(5)
    report = subnet.canisters[0].check_upgrade(Renewed)
    (about,) = [one for one in report.findings if one.code == "model-changed"]
    assert about.what == "table 'users' is taken over in steps, by by_name"
    assert "none of them is tried here" in about.why
