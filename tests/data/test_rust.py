"""A prototype in Python and a canister in Rust on the same data, one after the other, against dictionaries.

The canister is `tests/canisters/rust/shop`, by the crate in `rust/`.
"""

from __future__ import annotations

import gzip
import os
import runpy
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from perdure import Principal, RejectError, Subnet
from perdure.data import Move, Store, Table, Uri, Verb, open_tables, table
from perdure.kit import canister, ic, nat8, nat64, nat128, query, update
from perdure.stable import StableCell
from perdure.stable.types import raw

ROOT = Path(__file__).parents[2]
RUST = gzip.decompress((ROOT / "tests/canisters/modules/shop.wasm.gz").read_bytes())


@dataclass
class User:
    id: nat64
    email: str
    owner: Principal
    balance: nat128
    city: str | None = None
    age: nat8 = 18
    score: float = 0.5
    tags: list[str] = field(default_factory=list)


@canister(name="shop")
class Shop:
    users: Table[User] = table(key="id", index=["city", ("age", "city")], unique=["email"])
    trusts: Verb[Uri, Uri, nat8]

    @update
    def put(self, user: User) -> None:
        self.users.put(user)

    @update
    def insert(self, user: User) -> None:
        self.users.insert(user)

    @update
    def remove(self, id: nat64) -> bool:  # noqa: A002 -- as Rust calls it
        return self.users.remove(id)

    @query
    def all(self) -> list[User]:
        return list(self.users)

    @query
    def of(self, city: str | None) -> list[User]:
        return list(self.users.by.city(city))

    @query
    def aged(self, age: nat8) -> list[User]:
        return list(self.users.by.age_city(age))

    @query
    def by_email(self, email: str) -> User | None:
        return self.users.by.email.one(email)

    @update
    def like(self, subject: str, object_: str, weight: nat8 | None) -> bool:
        return self.trusts.add(Uri(ic.id, subject), Uri(ic.id, object_), weight)

    @update
    def unlike(self, subject: str, object_: str) -> bool:
        return self.trusts.remove(Uri(ic.id, subject), Uri(ic.id, object_))

    @query
    def likes(self, subject: str) -> list[str]:
        return [one.id for one in self.trusts.objects(Uri(ic.id, subject))]

    @query
    def liked_by(self, object_: str) -> list[str]:
        return [one.id for one in self.trusts.subjects(Uri(ic.id, object_))]


users = st.builds(
    User,
    id=st.integers(0, 9) | st.sampled_from([255, 256, 2**63, 2**64 - 1]),
    email=st.sampled_from(["", "a", "a\0", "a\0b", "ä", "z" * 300]),
    owner=st.sampled_from([Principal(b""), Principal(b"\0\xff"), Principal(bytes(range(29)))]),
    balance=st.sampled_from([0, 1, 2**64 - 1, 2**64, 2**127, 2**128 - 1]),
    city=st.sampled_from([None, "", "Zu", "Zug", "Zug\0"]),
    age=st.integers(0, 3) | st.just(255),
    score=st.sampled_from([0.0, -0.0, 0.1, -1e300, float("inf")]),
    tags=st.lists(st.sampled_from(["x", "ü"]), max_size=3),
)
names = st.sampled_from(["", "ada", "ada\0", "bob"])


class InTurns(RuleBasedStateMachine):
    """Whoever has the canister, it does the same: a row in the catalogue's order, by key and by index."""

    def __init__(self) -> None:
        super().__init__()
        self.subnet = Subnet()
        self.rows: dict[int, User] = {}
        self.pairs: dict[tuple[str, str], int | None] = {}

    @initialize(first=st.sampled_from([Shop, RUST]))
    def install(self, first):
        self.canister = self.subnet.install(first)
        self.actor = self.canister.actor()

    @rule(then=st.sampled_from([Shop, RUST]))
    def upgrade(self, then):
        self.canister.upgrade(then)
        self.actor = self.canister.actor()

    @rule(user=users, is_new=st.booleans())
    def put(self, user, is_new):
        method = self.actor.insert if is_new else self.actor.put
        taken = next((one for one in self.rows.values() if one.email == user.email and one.id != user.id), None)
        if taken is not None or (is_new and user.id in self.rows):
            with pytest.raises(RejectError, match=r"another row has email=|there is a row of key id="):
                method(asdict(user))
            return
        method(asdict(user))
        self.rows[user.id] = user

    @rule(data=st.data())
    def remove(self, data):
        number = data.draw(st.sampled_from([*self.rows, 4]))
        assert self.actor.remove(number) == (self.rows.pop(number, None) is not None)

    @rule(one=names, other=names, weight=st.none() | st.integers(0, 255))
    def like(self, one, other, weight):
        assert self.actor.like(one, other, weight) == ((one, other) not in self.pairs)
        self.pairs[one, other] = weight

    @rule(one=names, other=names)
    def unlike(self, one, other):
        assert self.actor.unlike(one, other) == ((one, other) in self.pairs)
        self.pairs.pop((one, other), None)

    @invariant()
    def all_is_read(self):
        rows = [asdict(self.rows[number]) for number in sorted(self.rows)]
        assert self.actor.all() == rows
        for city in ("Zug", None):
            assert self.actor.of(city) == [row for row in rows if row["city"] == city]
        assert [row["id"] for row in self.actor.aged(2)] == [
            row["id"]
            for row in sorted(rows, key=lambda row: (row["city"] or "", row["city"] is not None))
            if row["age"] == 2
        ]
        assert self.actor.by_email("a") == next((row for row in rows if row["email"] == "a"), None)
        assert self.actor.likes("ada") == sorted(other for one, other in self.pairs if one == "ada")
        assert self.actor.liked_by("bob") == sorted(one for one, other in self.pairs if other == "bob")

    def teardown(self):
        store = Store.open(self.canister.stable)
        (found,) = open_tables(store)
        assert found.check() == []
        (model,) = (one for one in store.catalogue.models if one.kind == "verb")
        pairs = Verb(store, model)
        assert pairs.check() == []
        own = self.canister.id
        weights = {(one.id, other.id): pairs.data(one, other) for one, other in pairs}
        assert weights == self.pairs
        assert all(one.canister == own == other.canister for one, other in pairs)
        self.subnet.close()


InTurns.TestCase.settings = settings(
    max_examples=12, stateful_step_count=15, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)
test_in_turns = InTurns.TestCase


ADA = User(7, "ada", Principal(b"\1"), 5, "Zug")


def test_both_make_the_same_bytes():
    with Subnet() as subnet:
        ours, theirs = subnet.install(Shop), subnet.install(RUST)
        for one in (ours, theirs):
            one.actor().put(asdict(ADA))
        stores = [Store.open(one.stable) for one in (ours, theirs)]
        assert stores[0].catalogue.encode() == stores[1].catalogue.encode()
        trees = [tree for model in stores[0].catalogue.models for tree in model.trees]
        for tree in trees:
            one, other = (dict(store.tree(tree).range()) for store in stores)
            assert one == other, tree.name
    assert len(trees) == 6


@dataclass
class Grown(User):
    level: nat8 = 3


def test_rust_reads_a_column_that_came_later_and_one_that_went():
    """By a catalogue that knows more than its program, which has no place for the new column, and says so."""

    @canister(name="shop")
    class Later(Shop):
        users: Table[Grown] = table(key="id", index=["city"], unique=["email"])

    with Subnet() as subnet:
        shop = subnet.install(Shop)
        shop.actor().put(asdict(ADA))
        shop.upgrade(Later)
        shop.upgrade(RUST)
        rust = shop.actor()
        assert rust.all() == [asdict(ADA)]
        rust.put(asdict(ADA) | {"id": 8, "email": "b"})
        with pytest.raises(RejectError, match="users has no index of age, city, there are: city; email"):
            rust.aged(1)
        (found,) = open_tables(Store.open(shop.stable))
        assert [row["level"] for row in found] == [3, 3]
        assert found.check() == []


def _damaged(change) -> str:
    """What Rust says of a catalogue or a tree that somebody has changed."""
    with Subnet() as subnet:
        shop = subnet.install(Shop)
        shop.actor().put(asdict(ADA))
        store = Store.open(shop.stable)
        change(store)
        shop.upgrade(RUST)
        with pytest.raises(RejectError) as found:
            shop.actor().all()
        return str(found.value)


def test_bytes_that_are_none_say_so():
    def cut_value(store):
        (tree,) = [model.trees[0] for model in store.catalogue.models if model.kind == "table"]
        store.tree(tree).map.insert(b"\x15\x07", b"\x9f\x9f\x9f")

    def nested_value(store):
        (tree,) = [model.trees[0] for model in store.catalogue.models if model.kind == "table"]
        store.tree(tree).map.insert(b"\x15\x07", b"\x81" * 100_000)

    def huge_value(store):
        (tree,) = [model.trees[0] for model in store.catalogue.models if model.kind == "table"]
        store.tree(tree).map.insert(b"\x15\x07", b"\x9b" + b"\xff" * 8)

    def cut_key(store):
        (tree,) = [model.trees[0] for model in store.catalogue.models if model.kind == "table"]
        store.tree(tree).map.insert(b"\x1d\xff\x01", b"\x80")

    def other_version(store):
        StableCell.init(store._memory_of(254), raw, b"").set(b"PDCT\x02\xa0")

    def rows_on_their_way(store):
        store.note_move(Move("by_email", "users"))

    assert "no CBOR" in _damaged(cut_value)
    assert "no CBOR" in _damaged(nested_value)
    assert "no CBOR" in _damaged(huge_value)
    assert "no packed tuple: cut off at byte 2 of 3" in _damaged(cut_key)
    assert "catalogue: version 2; this crate reads 1" in _damaged(other_version)
    assert "catalogue" in _damaged(rows_on_their_way)


def test_rust_refuses_a_memory_without_a_catalogue():
    with Subnet() as subnet:
        other = subnet.install(Empty)
        other.upgrade(RUST)
        with pytest.raises(RejectError, match="no catalogue in any memory"):
            other.actor().all()


@canister(name="shop")
class Empty:
    number: nat64 = 0


@pytest.mark.slow
def test_the_crate_builds_and_its_example_runs(tmp_path):
    """With ``RUST=1``, and cargo: a build of what it depends on takes a minute."""
    if not os.environ.get("RUST"):
        pytest.skip("asked for with RUST=1")
    assert shutil.which("cargo"), "cargo is not there"
    environment = runpy.run_path(str(ROOT / "tests/candid/build_referee.py"))["cargo_environment"]()
    done = subprocess.run(
        ["cargo", "test", "--quiet", "--target-dir", str(tmp_path)],
        cwd=ROOT / "rust",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
