"""One story told three times: a canister in Rust, in Motoko and in Python, and nobody can tell which is which."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import Canister, Principal, Subnet, rejects
from perdure.candid import decode, parse_types
from perdure.kit import call, canister, ic, nat, nat128, post_upgrade, query, reject, stable, update
from perdure.stable import StableBTreeMap, StableCell

ALICE = Principal.self_authenticating(b"alice")
NO_VALUES = b"DIDL\0\0"


@canister
class Telling:
    """The Python canister."""

    values: StableBTreeMap[nat128, nat128]
    upgrades: StableCell[nat128] = stable(default=0)

    def __init__(self) -> None:
        self.counter = 0

    @update
    def inc(self) -> nat:
        self.counter += 1
        return self.counter

    @query
    def count(self) -> nat:
        return self.counter

    @query
    def incInQuery(self) -> nat:
        self.counter += 1
        return self.counter

    @update
    def crash(self) -> None:
        self.counter += 1
        raise AssertionError("on purpose")

    @update
    def fail(self, text: str) -> None:
        self.counter += 1
        reject(text)

    @update
    def whoami(self) -> Principal:
        return ic.caller

    @update
    async def incOther(self, other: Principal) -> nat:
        return await call(other, "inc", signature="() -> (nat)")

    @update
    def put(self, key: nat128, value: nat128) -> None:
        self.values[key] = value

    @query
    def get(self, key: nat128) -> nat128 | None:
        return self.values.get(key)

    @post_upgrade
    def after(self) -> None:
        self.upgrades.value += 1


@dataclass
class Language:
    """How one language's canisters are asked the same things."""

    counter: Any
    store: Any
    inc: Callable[[Canister], int]
    count: Callable[[Canister], int]
    crash: Callable[[Canister], None]
    fail: Callable[[Canister, str], None]
    whoami: Callable[[Canister, Principal], Principal]
    inc_other: Callable[[Canister, Principal], int]
    put: Callable[[Canister, int, int], None]
    get: Callable[[Canister, int], int | None]


def rust_inc_other(one: Canister, other: Principal) -> int:
    request = {"callee": other, "method": "inc", "argument": NO_VALUES, "cycles": 0, "timeout_seconds": None}
    return decode(one.actor()["call"](request)["Ok"], parse_types("(nat)"))[0]


@pytest.fixture(params=["rust", "motoko", "python"])
def language(request, built):
    if request.param == "rust":
        return Language(
            built("messenger"),
            built("insert_many"),
            lambda one: one.actor().bump(),
            lambda one: one.actor().count(),
            lambda one: one.actor().crash("on purpose"),
            lambda one, text: one.actor().fail(text),
            lambda one, who: one.actor(who).caller(),
            rust_inc_other,
            lambda one, key, value: one.actor().insert_many([(key, value)]),
            lambda one, key: one.actor().get(key),
        )
    code = Telling if request.param == "python" else built("motoko_classical_v1")
    key_of = int if request.param == "python" else str
    return Language(
        code,
        code,
        lambda one: one.actor().inc(),
        lambda one: one.actor().count(),
        lambda one: one.actor().crash(),
        lambda one, text: one.actor().fail(text),
        lambda one, who: one.actor(who).whoami(),
        lambda one, other: one.actor().incOther(other),
        lambda one, key, value: one.actor().put(key_of(key), value),
        lambda one, key: one.actor().get(key_of(key)),
    )


@pytest.fixture
def world():
    return Subnet()


def test_it_counts_and_knows_who_calls(language, world):
    one = world.install(language.counter)
    assert [language.inc(one), language.inc(one)] == [1, 2]
    assert language.count(one) == 2
    assert language.whoami(one, ALICE) == ALICE


def test_what_a_trap_did_is_undone(language, world):
    one = world.install(language.counter)
    language.inc(one)
    before = language.count(one)
    with rejects(code=5, error_code="IC0503", match="on purpose|assertion failed") as rejected:
        language.crash(one)
    assert rejected.error.backtrace
    assert language.count(one) == before
    assert b"[TRAP]" in one.logs()[-1].content


def test_what_a_rejection_did_stays(language, world):
    one = world.install(language.counter)
    before = language.count(one)
    with rejects(code=4, match="not today"):
        language.fail(one, "not today")
    assert language.count(one) == before + 1


def test_it_calls_another_canister(language, world):
    one, other = world.install(language.counter), world.install(Telling)
    other.actor().inc()
    assert language.inc_other(one, other.id) == 2
    assert other.actor().count() == 2


def test_stable_memory_survives_an_upgrade(language, world):
    one = world.install(language.store)
    for key in range(50):
        language.put(one, key, key * key)
    one.upgrade(language.store)
    assert [language.get(one, key) for key in (0, 7, 49, 50)] == [0, 49, 49 * 49, None]
    one.reinstall(language.store)
    assert language.get(one, 7) is None


def test_stopped_canisters_take_no_calls(language, world):
    one = world.install(language.counter)
    one.stop()
    with rejects(error_code="IC0508"):
        language.inc(one)
    one.start()
    assert language.inc(one) == 1


def test_forks_go_their_own_ways(language, world):
    one = world.install(language.counter)
    language.inc(one)
    fork = world.fork()
    twin = fork.canister(one.id)
    assert [language.inc(twin), language.inc(twin)] == [2, 3]
    with world.anchor():
        assert language.inc(one) == 2
    assert language.count(one) == 1


def test_snapshots_bring_back_all_of_it(language, world):
    one = world.install(language.counter)
    language.inc(one)
    taken = one.take_snapshot()
    language.inc(one)
    one.load_snapshot(taken)
    assert language.inc(one) == 2


def test_the_same_messages_give_the_same_bytes(language):
    def tell() -> str:
        one = Subnet().install(language.store)
        for key in range(20):
            language.put(one, key * 7 % 20, key)
        return hashlib.sha256(one.stable.read(0, one.stable.size() << 16)).hexdigest() + str(one.status().cycles)

    assert tell() == tell()
