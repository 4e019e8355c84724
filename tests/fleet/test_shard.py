"""Rows of one table in many canisters, while they are split, merged, stopped, cut off and killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from perdure import Network, Principal, RejectError, Subnet
from perdure.candid import explain, parse_type
from perdure.data import ShardedTable, ShardError, Table, table
from perdure.data.sharded import SIGNATURES
from perdure.execution.scheduler import submit_ingress
from perdure.fleet.shard import Chunk, Shard
from perdure.kit import canister, nat64, query, trap
from perdure.stable import StableBTreeMap

FAULTS: set[str] = set()
"""What is to go wrong next, once."""


@dataclass
class User:
    id: nat64
    name: str
    age: int = 0


class Faulty(Shard):
    @query
    def lying(self) -> nat64:
        return sum(1 for _ in self._pairs(b"", None))

    def _given(self, chunk: Chunk) -> None:
        if "callback" in FAULTS:
            trap("the giver does not hear that its rows were taken")
        super()._given(chunk)

    def _hand(self, state: Any, low: bytes, high: bytes | None, holder: Principal) -> None:
        if "take" in FAULTS:
            trap("the taker ends in the midst of it")
        super()._hand(state, low, high, holder)


@canister
class Users(Faulty):
    rows: Table[User] = table(key="id", index=["name"])


@canister
class Raw(Faulty):
    rows: StableBTreeMap[bytes, bytes]


@canister
class Columns(Faulty):
    rows: Table[User] = table(key="id", storage="columns")


OPTIONS = table(key="id")
KINDS = (Users, Raw, Columns, Users, Raw)
KEYS = st.integers(0, 60)


def shards_of(network: Network, kinds: tuple[type, ...] = KINDS) -> list[Principal]:
    return [network.subnets[number % 2].install(kind).id for number, kind in enumerate(kinds)]


def held(home: Network, shards: list[Principal]) -> int:
    """How many rows lie in all shards together, whoever they are of."""
    return sum(home.canister(shard).actor().lying() for shard in shards)


class Machine(RuleBasedStateMachine):
    """A table in five canisters on two subnets, and a dict."""

    @initialize(at=st.lists(KEYS, max_size=4, unique=True))
    def begin(self, at: list[int]) -> None:
        FAULTS.clear()
        self.network = Network(2)
        self.shards = shards_of(self.network)
        self.table = ShardedTable.begin(self.network, self.shards, User, OPTIONS, at=sorted(at))
        self.stale = ShardedTable(self.network, self.shards, User, OPTIONS)  # learns by being told "not here"
        self.model: dict[int, User] = {}
        self.moving: Iterator[bytes] | None = None

    @rule(keys=st.lists(KEYS, max_size=12), age=st.integers(0, 9), is_stale=st.booleans())
    def put(self, keys: list[int], age: int, is_stale: bool) -> None:
        rows = [User(key, f"name {key}", age) for key in keys]
        (self.stale if is_stale else self.table).update(rows)
        self.model |= {row.id: row for row in rows}

    @rule(key=KEYS, is_stale=st.booleans())
    def one(self, key: int, is_stale: bool) -> None:
        table = self.stale if is_stale else self.table
        assert table.get(key) == self.model.get(key)
        table.remove(key)
        self.model.pop(key, None)

    @rule(low=st.none() | KEYS, high=st.none() | KEYS, is_stale=st.booleans())
    def some(self, low: int | None, high: int | None, is_stale: bool) -> None:
        table = self.stale if is_stale else self.table
        wanted = [row for key, row in sorted(self.model.items()) if (low or 0) <= key and (high is None or key < high)]
        assert list(table.range(low, high)) == wanted
        assert table.count(low, high).count == len(wanted)

    @rule(source=st.integers(0, 4), to=st.integers(0, 4), most=st.integers(1, 9))
    def split(self, source: int, to: int, most: int) -> None:
        own = [(low, high) for low, high, holder in self.table.places() if holder == self.shards[source]]
        if source != to and own:
            self.table.split(self.shards[source], self.shards[to], most=most)

    @rule(source=st.integers(0, 4), to=st.integers(0, 4), most=st.integers(1, 9))
    def merge(self, source: int, to: int, most: int) -> None:
        if source != to:
            self.table.merge(self.shards[source], self.shards[to], most=most)

    @rule(source=st.integers(0, 4), to=st.integers(0, 4), most=st.integers(1, 3), steps=st.integers(1, 4))
    def move_in_part(self, source: int, to: int, most: int, steps: int) -> None:
        """Other calls come between: those of the other rules."""
        if source != to:
            moving = self.table.moving(b"", None, self.shards[source], self.shards[to], most=most)
            for _, _ in zip(range(steps), moving, strict=False):
                pass

    @rule(
        source=st.integers(0, 4),
        to=st.integers(0, 4),
        fault=st.sampled_from(["take", "callback", "stopped"]),
        key=KEYS,
    )
    def cut_off(self, source: int, to: int, fault: str, key: int) -> None:
        """A chunk is cut off on its way; what is read meanwhile is right, or there is no answer."""
        if source == to:
            return
        receiver = self.network.canister(self.shards[to])
        if fault == "stopped":
            receiver.stop()
        FAULTS.add(fault)
        with suppress(RejectError):
            self.table.merge(self.shards[source], self.shards[to], most=3)
        with suppress(ShardError):
            assert self.stale.get(key) == self.model.get(key)
        counted = self.stale.count(partial=True)
        assert counted.count <= len(self.model)
        FAULTS.clear()
        if fault == "stopped":
            receiver.start()
        assert self.stale.get(key) == self.model.get(key)

    @invariant()
    def each_row_is_in_one_place(self) -> None:
        if hasattr(self, "model"):
            self.table.mend()
            assert held(self.network, self.shards) == len(self.model)

    def teardown(self) -> None:
        FAULTS.clear()
        if hasattr(self, "network"):
            assert list(self.table) == [row for _, row in sorted(self.model.items())]
            self.network.close()


@pytest.mark.slow
def test_no_row_is_lost_or_doubled() -> None:
    options = settings(
        max_examples=12,
        stateful_step_count=25,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # what is found is short enough, and each step has a network
    )
    run_state_machine_as_test(Machine, settings=options)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_killed_in_the_midst_of_a_move_goes_on(seed: int, tmp_path: Path) -> None:
    """The directory as it is between two rounds is what a killed process leaves."""
    random = Random(seed)
    FAULTS.clear()
    rows = [User(key, str(key)) for key in range(60)]
    with Network(2, path=tmp_path / "0") as network:
        shards = shards_of(network)
        ShardedTable.begin(network, shards, User, OPTIONS).update(rows)
    for number in range(5):
        with Network(path=tmp_path / str(number), code=[*KINDS]) as network:
            users = ShardedTable(network, shards, User, OPTIONS)
            low, high, holder = random.choice(users.places())
            assert holder is not None
            to = random.choice([one for one in shards if one != holder])
            arg = users._codecs["shard_give"].arguments.encode([low, high, to, random.randint(1, 40)])
            home = network.subnet_of(holder)
            assert home is not None
            submit_ingress(home._world, holder.raw_bytes, "shard_give", arg)
            for _ in range(random.randint(0, 5)):
                network.tick()
            shutil.copytree(tmp_path / str(number), tmp_path / str(number + 1))
        with Network(path=tmp_path / str(number + 1), code=[*KINDS]) as network:
            users = ShardedTable(network, shards, User, OPTIONS)
            network.run_until_idle()
            users.mend()
            assert list(users) == rows
            assert held(network, shards) == len(rows)


@pytest.fixture
def pair() -> Iterator[tuple[Network, list[Principal], ShardedTable[User]]]:
    """Two shards on two subnets; the first has ten rows."""
    FAULTS.clear()
    network = Network(2)
    shards = shards_of(network, (Users, Raw))
    users = ShardedTable.begin(network, shards, User, OPTIONS)
    users.update(User(key, str(key)) for key in range(10))
    yield network, shards, users
    FAULTS.clear()


def test_a_giver_that_hears_nothing_lets_the_taker_answer(
    pair: tuple[Network, list[Principal], ShardedTable[User]],
) -> None:
    network, (first, second), users = pair
    stale = ShardedTable(network, [first, second], User, OPTIONS)
    FAULTS.add("callback")
    with pytest.raises(RejectError, match="does not hear"):
        users.merge(first, second, most=4)
    assert held(network, [first, second]) == 14  # the taker has them, and the giver does not know
    assert network.canister(first).actor().shard_facts()["moving"]["number"] == 1
    users.put(User(2, "changed at the taker"))
    assert stale.get(2) == User(2, "changed at the taker")
    assert stale.get(7) == User(7, "7")
    FAULTS.clear()
    assert len(stale) == 10
    stale.mend()
    assert held(network, [first, second]) == 10
    assert stale.get(2) == User(2, "changed at the taker")


@pytest.mark.parametrize("order", [1, -1])
def test_a_giver_that_hears_nothing_counts_no_row_that_has_gone(
    pair: tuple[Network, list[Principal], ShardedTable[User]], order: int
) -> None:
    """What was removed at the taker is not counted at the giver, whoever is asked first."""
    network, shards, users = pair
    FAULTS.add("callback")
    with pytest.raises(RejectError, match="does not hear"):
        users.merge(*shards, most=4)
    users.remove(2)
    stale = ShardedTable(network, shards[::order], User, OPTIONS)
    assert stale.count(partial=True).count in (9, 6)  # and none of four where the taker is not known yet
    FAULTS.clear()
    assert (len(stale), len(users)) == (9, 9)


def test_a_row_that_no_message_carries_stays_and_is_answered(
    pair: tuple[Network, list[Principal], ShardedTable[User]],
) -> None:
    network, _, _ = pair
    first, second = shards_of(network, (Raw, Raw))
    users = ShardedTable.begin(network, [first, second], User, OPTIONS)
    large = User(1, "x" * (2 * 1024 * 1024 - 100))
    users.update([User(0, "small"), large, User(2, "small")])
    with pytest.raises(RejectError, match="cannot be moved"):
        users.merge(first, second)
    assert users.get(1) == large
    users.remove(1)
    users.merge(first, second)
    assert [one.id for one in users] == [0, 2]


def test_who_gives_the_same_twice_at_once_gives_it_once(
    pair: tuple[Network, list[Principal], ShardedTable[User]],
) -> None:
    network, (first, second), users = pair
    home = network.subnet_of(first)
    assert home is not None
    for _ in range(2):
        arg = users._codecs["shard_give"].arguments.encode([b"", None, second, 4])
        submit_ingress(home._world, first.raw_bytes, "shard_give", arg)
    network.run_until_idle()
    facts = network.canister(first).actor().shard_facts()
    assert (facts["moving"], facts["sent"]) == (None, 1)
    assert list(ShardedTable(network, [first, second], User, OPTIONS)) == [User(key, str(key)) for key in range(10)]
    assert held(network, [first, second]) == 10


def test_rows_do_not_come_back_before_they_have_arrived(
    pair: tuple[Network, list[Principal], ShardedTable[User]],
) -> None:
    network, (first, second), users = pair
    FAULTS.add("callback")
    with pytest.raises(RejectError):
        users.merge(first, second, most=4)
    FAULTS.clear()
    with pytest.raises(RejectError, match="on their way from here"):
        users.merge(second, first)
    users.mend()
    users.mend()
    users.merge(second, first)
    assert (len(users), held(network, [first, second])) == (10, 10)


def test_a_canister_says_what_a_client_expects() -> None:
    subnet = Subnet()
    service = subnet.install(Users).service()
    for name, signature in SIGNATURES.items():
        assert explain(service.methods[name].func, parse_type(f"func {signature}")) == []


def test_who_may_what() -> None:
    subnet = Subnet()
    owner, stranger = Principal(b"owner"), Principal(b"stranger")
    shards = [subnet.install(Users, controllers=[owner]).id for _ in range(2)]
    with pytest.raises(RejectError, match="no controller of this shard"):
        ShardedTable.begin(subnet, shards, User, OPTIONS, sender=stranger)
    users = ShardedTable.begin(subnet, shards, User, OPTIONS, sender=owner)
    users.put(User(1, "ada"))
    other = ShardedTable(subnet, shards, User, OPTIONS, sender=stranger)
    assert other.get(1) == User(1, "ada")
    with pytest.raises(ShardError, match="may not write here"):
        other.put(User(1, "eve"))
    with pytest.raises(RejectError, match="is no peer"):
        other._call(shards[1], "shard_take", b"", None, 1, [])


def test_a_table_is_what_its_shards_are() -> None:
    subnet = Subnet()
    shards = [subnet.install(Users).id for _ in range(2)]
    with pytest.raises(ShardError, match=r"ShardedTable\.begin gives them"):
        ShardedTable(subnet, shards, User, OPTIONS)
    with pytest.raises(ValueError, match="expected fewer than these, ascending"):
        ShardedTable.begin(subnet, shards, User, OPTIONS, at=[3, 3])
    ShardedTable.begin(subnet, shards, User, OPTIONS, at=[3])

    @dataclass
    class Other:
        id: nat64
        title: str

    with pytest.raises(ValueError, match="have the columns id, name, age, declared are id, title"):
        ShardedTable(subnet, shards, Other, OPTIONS)


def test_whoever_begins_again_gives_no_key_two_owners() -> None:
    subnet = Subnet()
    shards = [subnet.install(Users).id for _ in range(3)]
    subnet.canister(shards[2]).stop()
    with pytest.raises(RejectError, match="stopped"):
        ShardedTable.begin(subnet, shards, User, OPTIONS, at=[10])  # is cut off
    subnet.canister(shards[2]).start()
    users = ShardedTable.begin(subnet, shards, User, OPTIONS, at=[10])
    users.update(User(key, str(key)) for key in range(30))
    with pytest.raises(ValueError, match="has already"):
        ShardedTable.begin(subnet, shards, User, OPTIONS, at=[10, 20])
    users.merge(shards[1], shards[0])
    with pytest.raises(ValueError, match="has already"):
        ShardedTable.begin(subnet, shards, User, OPTIONS, at=[5, 20])
    users = ShardedTable.begin(subnet, shards, User, OPTIONS, at=[10])
    assert (len(users), held(subnet, shards)) == (30, 30)


def test_a_shard_that_is_added_takes_rows() -> None:
    subnet = Subnet()
    first, second = (subnet.install(Users).id for _ in range(2))
    users = ShardedTable.begin(subnet, [first], User, OPTIONS)
    users.update(User(key, str(key)) for key in range(10))
    users.add_shard(second)
    users.split(first, second, at=4)
    assert [row["count"] for row in subnet.canister(second).actor().shard_counts(b"", None)] == [6]
    assert len(users) == 10


def test_keys_that_nobody_answers_for_are_told_as_they_are_written() -> None:
    subnet = Subnet()
    shards = [subnet.install(Users).id for _ in range(2)]
    users = ShardedTable.begin(subnet, shards, User, OPTIONS, at=[7500])
    users.put(User(1, "one"))
    subnet.canister(shards[1]).stop()
    with pytest.raises(ShardError, match=r"1 range of keys cannot be counted, from 7500: .* is stopped"):
        users.count()
    with pytest.raises(ShardError, match=r"does not answer for key 9000: .* is stopped"):
        users.get(9000)
    assert users.count(partial=True).count == 1
    subnet.canister(shards[0]).stop()
    with pytest.raises(ShardError, match="1 range of keys cannot be counted, from the first: "):
        users.count()


def test_rows_leave_for_shards_alone() -> None:
    subnet = Subnet()
    shards = [subnet.install(Users).id for _ in range(2)]
    users = ShardedTable.begin(subnet, shards, User, OPTIONS)
    users.update(User(number, "name") for number in range(10))
    stranger, empty = subnet.install(Users).id, subnet.create_canister().id
    for one in (stranger, empty, Principal(b""), shards[0]):
        with pytest.raises(ValueError, match="cannot go to"):
            users.split(shards[0], one)
        with pytest.raises(ValueError, match="cannot go to"):
            users.merge(shards[0], one)
        with pytest.raises(RejectError, match=r"is no peer of this shard|to where they are"):
            users._call(shards[0], "shard_give", b"", None, one, 1)
    subnet.canister(shards[1]).stop()
    with pytest.raises(RejectError, match="is stopped"):
        users.merge(shards[0], shards[1])
    assert users.count().count == 10  # nothing is on its way
    subnet.canister(shards[1]).start()
    users.add_shard(stranger)
    users.split(shards[0], stranger)
    assert users.count().count == 10
