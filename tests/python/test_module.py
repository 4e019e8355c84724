"""Canisters written in Python obey the rules of every canister."""

from __future__ import annotations

import gc
import signal
import time
import traceback
import weakref
from collections import Counter, OrderedDict, defaultdict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Annotated, Any
from uuid import UUID

import pytest

from perdure import ANONYMOUS, MalformedError, Principal, Subnet, UnsupportedError, rejects
from perdure.candid import encode, parse_types
from perdure.execution import SubnetConfig, submit_ingress
from perdure.kit import (
    call,
    canister,
    composite_query,
    gather,
    heartbeat,
    ic,
    init,
    inspect_message,
    int8,
    nat,
    nat8,
    nat32,
    nat64,
    nat128,
    notify,
    post_upgrade,
    pre_upgrade,
    query,
    reject,
    stable,
    timer,
    trap,
    update,
)
from perdure.python.heap import pickled, unpickled
from perdure.stable import (
    MemoryManager,
    StableBTreeMap,
    StableBTreeSet,
    StableCell,
    StableLog,
    StableMinHeap,
    StableVec,
    types,
)
from perdure.wasm import decode as decode_module

ALICE = Principal.self_authenticating(b"alice")


@dataclass
class User:
    """Somebody."""

    name: str
    age: nat8 = 0
    friends: list[Principal] | None = None


class Color(Enum):
    red = 1
    blue = 2


@dataclass
class Ok:
    value: nat


@dataclass
class Err:
    reason: str


@canister
class Registry:
    users: StableBTreeMap[Principal, User]
    total: StableCell[nat64] = stable(default=0)
    log: StableLog[str]

    def __init__(self) -> None:
        self.count = 0
        self.last: User | None = None

    @init
    def begin(self, symbol: str) -> None:
        self.symbol = symbol

    @update
    def add(self, user: User) -> nat64:
        """Adds the caller."""
        self.users[ic.caller] = user
        self.log.append(user.name)
        self.total.value += user.age
        self.count += 1
        self.last = user
        if user.age > 100:
            raise ValueError("too old")
        return self.total.value

    @query
    def get(self, who: Principal) -> User | None:
        self.count += 100
        self.log.append("a query leaves no trace")
        return self.users.get(who)

    @query
    def counted(self) -> tuple[nat, nat64]:
        return self.count, len(self.log)

    @query
    def last_user(self) -> User | None:
        return self.last

    @update
    def refuse(self) -> None:
        self.count += 1
        reject("not today")

    @update
    def crash(self) -> None:
        self.count += 1
        trap("on purpose")


@pytest.fixture
def registry():
    return Subnet().install(Registry, ("TST",))


def test_calls_and_types(registry):
    actor = registry.actor()
    assert actor.add({"name": "Ada", "age": 36}) == 36
    assert actor.get(ANONYMOUS) == {"name": "Ada", "age": 36, "friends": None}
    assert actor.get(ALICE) is None
    assert actor.last_user()["name"] == "Ada"


def test_a_query_leaves_no_trace(registry):
    registry.actor().get(ANONYMOUS)
    registry.update("get", encode(parse_types("(principal)"), [ANONYMOUS]))
    assert registry.actor().counted() == (0, 0)


def test_a_trap_undoes_everything(registry):
    actor = registry.actor()
    actor.add({"name": "Ada", "age": 36})
    before = registry.stable.read(0, registry.stable.size() << 16)
    with rejects(code=5, error_code="IC0503", match="ValueError: too old") as rejected:
        actor.add({"name": "Bob", "age": 200})
    assert rejected.error.backtrace[0].startswith("add at test_module.py:")
    assert registry.stable.read(0, registry.stable.size() << 16) == before
    assert actor.counted() == (1, 1)
    assert actor.last_user()["name"] == "Ada"
    with rejects(match="on purpose"):
        actor.crash()
    assert actor.counted() == (1, 1)


def test_what_was_raised_is_the_cause_of_the_rejection(registry):
    actor = registry.actor()
    with rejects(match="ValueError: too old") as rejected:
        actor.add({"name": "Bob", "age": 200})
    cause = rejected.error.__cause__
    assert type(cause) is ValueError
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)] == ["add"]
    with rejects(match="on purpose") as rejected:
        actor.crash()  # a trap has no exception but perdure's own
    assert rejected.error.__cause__ is None
    bob = encode(parse_types("(record { name : text; age : nat8 })"), [{"name": "Bob", "age": 200}])
    for expected in (ValueError, type(None)):  # an answer that comes again has none, as in another process
        with rejects(match="too old") as rejected:
            registry.update("add", bob, request_id=b"n" * 32)
        assert type(rejected.error.__cause__) is expected


def test_what_was_raised_keeps_nothing_alive():
    """An exception has its frames, and they have the canister; nobody asks for what a timer raises."""

    @canister
    class Late:
        @init
        def start(self) -> None:
            ic.set_timer(ic.time_ns + 1)

        @timer
        def late(self) -> None:
            gone.append(weakref.ref(self))
            raise RuntimeError("too late")

    gone: list[weakref.ref[object]] = []
    subnet = Subnet()
    subnet.install(Late)
    subnet.advance_time(10)
    subnet.run_until_idle()
    assert gone
    subnet.close()
    del subnet
    gc.collect()
    assert [one() for one in gone] == [None] * len(gone)


def test_a_reject_undoes_nothing(registry):
    with rejects(code=4, error_code="IC0406", match="^not today$"):
        registry.actor().refuse()
    assert registry.actor().counted() == (1, 0)


def test_an_upgrade_keeps_stable_variables_only(registry):
    actor = registry.actor()
    actor.add({"name": "Ada", "age": 36})
    registry.upgrade(Registry)
    assert actor.counted() == (0, 1)
    assert actor.get(ANONYMOUS)["age"] == 36
    registry.reinstall(Registry, ("NEW",))
    assert actor.get(ANONYMOUS) is None


def test_forks_anchors_and_snapshots(registry):
    subnet = registry._subnet
    actor = registry.actor()
    actor.add({"name": "Ada", "age": 1})
    fork = subnet.fork()
    twin = fork.canister(registry.id).actor()
    assert twin.add({"name": "Eve", "age": 2}) == 3
    assert twin.last_user()["name"] == "Eve"
    assert actor.last_user()["name"] == "Ada"
    with subnet.anchor():
        actor.add({"name": "Bob", "age": 3})
        assert actor.counted() == (2, 2)
    assert actor.counted() == (1, 1)
    taken = registry.take_snapshot()
    actor.add({"name": "Bob", "age": 3})
    registry.load_snapshot(taken)
    assert (actor.counted(), actor.last_user()["name"]) == ((1, 1), "Ada")


def test_stable_variables_have_the_crates_format(registry):
    registry.actor().add({"name": "Ada", "age": 36})
    manager = MemoryManager.load(registry.stable)
    users = StableBTreeMap.load(manager.get(0), types.principal, types.raw)
    (person,) = parse_types("(record { name : text; age : nat8; friends : opt vec principal })")
    assert users[ANONYMOUS][:4] == b"DIDL"
    assert registry.service().names["User"].type.fields == person.fields
    assert StableCell.load(manager.get(1), types.u64).value == 36
    assert list(StableLog.load(manager.get(2), manager.get(3), types.text)) == ["Ada"]


def test_its_bytes_are_a_module_with_the_interface(registry):
    module = decode_module(registry.module.wasm)
    assert module.custom_sections
    assert registry.service().methods["add"].docs == "Adds the caller."
    assert "add : (user : User) -> (nat64)" in registry.service().methods["add"].signature
    assert registry.service().init is not None
    assert registry.status().module_hash == registry.module.module_hash


def test_arguments_of_other_types_trap(registry):
    with rejects(code=5, match="CoercionError|MalformedError"):
        registry.update("add", b"DIDL\x00\x01\x7c\x05")
    with rejects(error_code="IC0536"):
        registry.update("nothing")


def test_every_annotation_there_and_back():
    @canister
    class Echo:
        @query
        def numbers(self, a: int, b: nat32, c: int8, d: float) -> tuple[int, nat32, int8, float]:
            return a, b, c, d

        @query
        def color(self, value: Color) -> Color:
            assert isinstance(value, Color)
            return value

        @query
        def case(self, value: Ok | Err) -> Ok | Err:
            assert isinstance(value, (Ok, Err))
            return value

        @query
        def many(self, pairs: dict[str, nat64], names: set[str]) -> list[tuple[str, nat64]]:
            return sorted([*pairs.items(), *((name, 0) for name in names)])

        @query
        def some(self, value: Annotated[Any, "variant { a : nat; b }"]) -> Annotated[Any, "variant { a : nat; b }"]:
            return value

        @query
        def nothing(self) -> None:
            pass

        @query(name="its own name")
        def renamed(self, from_: bytes) -> bytes:
            return from_

        @query(raw=True)
        def raw(self, data):
            return data[::-1]

    installed = Subnet().install(Echo)
    actor = installed.actor()
    assert actor.numbers(-5, 7, -8, 0.5) == (-5, 7, -8, 0.5)
    assert actor.color("blue") == {"blue": None}
    assert actor.case({"Err": {"reason": "no"}}) == {"Err": {"reason": "no"}}
    assert actor.many([("b", 1)], ["a"]) == [("a", 0), ("b", 1)]
    assert actor.some({"a": 5}) == {"a": 5}
    assert actor.nothing() is None
    assert actor["its own name"](b"xyz") == b"xyz"
    assert "from : blob" in installed.service().methods["its own name"].signature
    assert installed.query("raw", b"abc") == b"cba"


@canister
class Caller:
    def __init__(self) -> None:
        self.seen: list[int] = []
        self.ticks = 0

    @update
    async def ask(self, other: Principal) -> nat:
        self.seen.append(1)
        first, second = await gather(
            call(other, "counted", signature="() -> (nat, nat64) query"),
            call(other, "counted", signature="() -> (nat, nat64) query"),
        )
        self.seen.append(2)
        assert ic.caller == ALICE
        return first[0] + second[0]

    @update
    async def ask_raw(self, other: Principal) -> bytes:
        return await call(other, "counted", b"DIDL\0\0")

    @update
    async def expects_a_rejection(self, other: Principal) -> str:
        try:
            await call(other, "crash")
        except Exception as error:
            return str(error)
        return "no rejection"

    @update
    async def traps_afterwards(self, other: Principal) -> None:
        self.seen.append(3)
        await call(other, "counted", b"DIDL\0\0")
        self.seen.append(4)
        raise RuntimeError("after the answer")

    @update
    async def rejects_afterwards(self, other: Principal) -> None:
        await call(other, "counted", b"DIDL\0\0")
        self.seen.append(5)
        reject("later")

    @update
    async def nested(self, other: Principal) -> nat:
        async def twice() -> int:
            one = await call(other, "counted", signature="() -> (nat, nat64) query")
            two = await call(other, "counted", signature="() -> (nat, nat64) query")
            return one[0] + two[0]

        return await twice()

    @update
    async def awaits_nonsense(self) -> None:
        class Nonsense:
            def __await__(self):
                yield 5

        await Nonsense()

    @update
    def tell(self, other: Principal) -> None:
        notify(other, "refuse", b"DIDL\0\0")

    @composite_query
    async def composed(self, other: Principal) -> nat:
        self.seen.append(9)
        first, _ = await call(other, "counted", signature="() -> (nat, nat64) query")
        second, _ = await call(other, "counted", signature="() -> (nat, nat64) query")
        return first + second + len(self.seen)

    @query
    def saw(self) -> list[nat]:
        return self.seen


@pytest.fixture
def caller(registry):
    registry.actor().add({"name": "Ada", "age": 1})
    return registry._subnet.install(Caller)


def test_calls_between_canisters(registry, caller):
    actor = caller.actor(ALICE)
    assert actor.ask(registry.id) == 2
    assert actor.ask_raw(registry.id)[:4] == b"DIDL"
    assert "on purpose" in actor.expects_a_rejection(registry.id)
    assert actor.nested(registry.id) == 2
    assert actor.saw() == [1, 2]
    actor.tell(registry.id)
    registry._subnet.run_until_idle()
    assert registry.actor().counted() == (2, 1)


def test_a_trap_after_an_answer_undoes_only_what_came_after_it(registry, caller):
    with rejects(match="RuntimeError: after the answer"):
        caller.actor().traps_afterwards(registry.id)
    assert caller.actor().saw() == [3]
    with rejects(code=4, match="later"):
        caller.actor().rejects_afterwards(registry.id)
    assert caller.actor().saw() == [3, 5]


def test_only_calls_can_be_awaited(caller):
    with rejects(match="a canister awaits calls to canisters"):
        caller.actor().awaits_nonsense()


def test_composite_queries(registry, caller):
    assert caller.actor().composed(registry.id) == 3
    assert caller.actor().saw() == []


def test_calls_to_nobody_are_rejected(caller):
    assert "No route to canister" in caller.actor().expects_a_rejection(ALICE)


def test_a_fork_between_call_and_answer(registry, caller):
    """The coroutine stays where it is: on the fork the answer traps, at the origin it arrives."""
    subnet = registry._subnet
    arg = caller.service().methods["ask"].encode([registry.id])
    request = submit_ingress(subnet._world, caller.id.raw_bytes, "ask", arg, ALICE.raw_bytes, 0)
    while not subnet._state.canisters[caller.id.raw_bytes].open_calls:
        subnet.tick()
    fork = subnet.fork()
    fork.run_until_idle()
    assert "is gone" in fork._state.ingress.find(request, fork.time_ns).message
    subnet.run_until_idle()
    assert subnet._state.ingress.find(request, 0).data[:4] == b"DIDL"


def test_a_method_that_waits_is_not_let_go_of(registry, caller):
    """Instances come and go; a coroutine cannot be made again."""
    subnet = registry._subnet
    subnet._host.residents.capacity = 0
    arg = caller.service().methods["ask"].encode([registry.id])
    request = submit_ingress(subnet._world, caller.id.raw_bytes, "ask", arg, ALICE.raw_bytes, 0)
    for _ in range(10):
        subnet.tick()
    assert subnet.request_status(request) == "replied"
    assert caller.actor().saw() == [1, 2]


def test_hooks_timers_and_inspection():
    @canister
    class Hooked:
        kept: StableVec[nat64]

        def __init__(self) -> None:
            self.beats = 0

        @pre_upgrade
        def before(self) -> None:
            self.kept.push(self.beats)

        @post_upgrade
        def after(self) -> None:
            self.kept.push(100)

        @heartbeat
        def beat(self) -> None:
            self.beats += 1

        @timer
        def ring(self) -> None:
            self.kept.push(7)

        @update
        def set(self, after_ns: nat64) -> None:
            ic.set_timer(ic.time_ns + after_ns)

        @query
        def all(self) -> list[nat64]:
            return list(self.kept)

        @inspect_message
        def inspect(self) -> bool:
            return ic.method_name != "set" or ic.caller == ALICE

    subnet = Subnet()
    hooked = subnet.install(Hooked)
    with rejects(error_code="IC0406"):
        hooked.actor().set(5)
    hooked.actor(ALICE).set(1_000_000)
    subnet.advance_time(2_000_000)
    subnet.tick()
    hooked.upgrade(Hooked)
    first, beats, last = hooked.actor().all()
    assert (first, last) == (7, 100)
    assert beats >= 2


def test_cycles_logs_and_facts():
    @canister
    class Bank:
        @update
        def deposit(self) -> nat:
            ic.print("got", ic.cycles_available)
            return ic.accept_cycles(30)

        @update
        async def pay(self, to: Principal) -> nat:
            await call(to, "deposit", b"DIDL\0\0", cycles=50)
            return ic.cycles_refunded

        @query
        def facts(self) -> tuple[Principal, bool, nat64]:
            return ic.id, ic.is_controller(ic.caller), ic.version

    subnet = Subnet()
    bank, other = subnet.install(Bank), subnet.install(Bank)
    assert bank.actor().pay(other.id) == 20
    assert other.logs()[0].content == b"got 50"
    assert bank.actor().facts()[:2] == (bank.id, True)


def test_every_structure_and_declared_memories():
    @canister(bucket_wasm_pages=1)
    class Many:
        names: StableBTreeSet[str] = stable(9)
        queue: StableMinHeap[nat32]
        pairs: StableBTreeMap[tuple[nat32, nat32], nat128]
        events: StableLog[bytes] = stable((3, 4))
        owner: StableCell[Principal | None] = stable(default=None)
        old: StableVec[Annotated[bytes, types.Blob(8)]]

        @update
        def fill(self) -> list[nat]:
            self.names.add("x")
            self.queue.push(9)
            self.queue.push(2)
            self.pairs[1, 2] = 1 << 100
            self.events.append(b"e")
            self.owner.value = ic.caller
            self.old.push(b"12345678")
            return [self.queue.pop() or 0, self.pairs[1, 2]]

    many = Subnet().install(Many)
    assert many.actor().fill() == [2, 1 << 100]
    manager = MemoryManager.load(many.stable)
    assert manager.bucket_wasm_pages == 1
    assert manager.memory_ids() == [0, 1, 2, 3, 4, 5, 9]
    assert list(StableBTreeSet.load(manager.get(9), types.text)) == ["x"]
    assert StableCell.load(manager.get(2), types.Option(types.principal)).value == ANONYMOUS
    assert list(StableVec.load(manager.get(5), types.Blob(8))) == [b"12345678"]


def test_growth_is_rolled_back_with_everything_else():
    @canister(bucket_wasm_pages=1)
    class Grower:
        first: StableBTreeMap[nat32, bytes]
        second: StableBTreeMap[nat32, bytes]

        @update
        def fill(self, which: bool, crash: bool) -> None:
            chosen = self.first if which else self.second
            for index in range(100):
                chosen[index] = bytes([which]) * 2_000
            if crash:
                raise ValueError

        @query
        def sound(self) -> bool:
            return all(value == b"\1" * 2_000 for value in self.first.values()) and all(
                value == b"\0" * 2_000 for value in self.second.values()
            )

    grower = Subnet().install(Grower)
    before = grower.stable.size()
    with rejects(match="ValueError"):
        grower.actor().fill(True, True)
    assert grower.stable.size() == before
    grower.actor().fill(False, False)
    grower.actor().fill(True, False)
    assert grower.actor().sound()


def test_stable_memory_ends_at_its_limit():
    @canister
    class Greedy:
        data: StableBTreeMap[nat32, bytes]

        @update
        def grow(self) -> None:
            self.data[0] = bytes(9 << 20)

    greedy = Subnet(config=SubnetConfig(max_stable_memory_bytes=10 << 20)).install(Greedy)
    with rejects(match="GrowFailedError"):
        greedy.actor().grow()


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        (object, "has no Candid type"),
        (Color | int, "only dataclasses"),
        ("Missing", "Missing"),
    ],
)
def test_annotations_without_a_type(annotation, reason):
    def method(self, value):
        return None

    method.__annotations__ = {"value": annotation}
    with pytest.raises(TypeError, match=reason):
        canister(type("Bad", (), {"method": update(method)}))


def test_declarations_that_cannot_be():
    with pytest.raises(TypeError, match="no order in stable memory"):

        @canister
        class Key:
            data: StableBTreeMap[User, str]

    with pytest.raises(TypeError, match="share a memory"):

        @canister
        class Shared:
            one: StableVec[nat64] = stable(1)
            two: StableVec[nat64] = stable(1)

    with pytest.raises(TypeError, match="has no annotation"):

        @canister
        class Untyped:
            @update
            def method(self, value):
                return None

    with pytest.raises(TypeError, match="two methods for one of"):

        @canister
        class Twice:
            @init
            def one(self) -> None: ...

            @init
            def two(self) -> None: ...

    with pytest.raises(TypeError, match="lives in 2 memories"):

        @canister
        class OneMemory:
            log: StableLog[str] = stable(1)


def test_a_stable_variable_cannot_be_replaced():
    @canister
    class Replacing:
        data: StableVec[nat64]

        @update
        def replace(self) -> None:
            self.data = [1]

    with rejects(match="cannot be replaced"):
        Subnet().install(Replacing).actor().replace()


def test_attributes_that_cannot_be_kept_trap():
    @canister
    class Keeper:
        @update
        def keep(self) -> None:
            self.file = lambda: None

        @query
        def names(self) -> list[str]:
            return list(self.__dict__)

    keeper = Subnet().install(Keeper)
    with rejects(match="cannot be kept between messages"):
        keeper.actor().keep()
    assert keeper.actor().names() == []


def test_a_heap_from_elsewhere_calls_nothing():
    import io
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, ("true",)

    file = io.BytesIO()
    pickle.Pickler(file).dump({"a": Evil()})
    module = Registry.__canister_module__()
    with pytest.raises(MalformedError, match="not the canister's"):
        unpickled(file.getvalue(), module, is_own=False)
    with pytest.raises(MalformedError, match="does not read"):
        unpickled(b"\x80\x05nonsense", module, is_own=True)
    good = pickled({"a": User("x"), "b": {1, 2}, "c": [ALICE]}, module)
    assert unpickled(good, module, is_own=False) == {"a": User("x"), "b": {1, 2}, "c": [ALICE]}
    for size in range(len(good)):
        for is_own in (False, True):
            with pytest.raises(MalformedError):
                unpickled(good[:size], module, is_own=is_own)
    with pytest.raises(MalformedError, match="not the canister's"):
        module.class_named("os:system")


def global_(module, name):
    """The operations that name a class."""
    return b"".join(b"\x8c" + bytes([len(part)]) + part for part in (module, name)) + b"\x93"


RANGE = global_(b"builtins", b"range") + b"J\xff\xff\xff\x7f\x85R"
FRACTION = global_(b"fractions", b"Fraction")
EXPONENT = b"\x8c\x0b1e999999999"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"r\xff\xff\xff\x0f", id="a memo of 2 GiB"),
        pytest.param(b"\x8e" + (1 << 40).to_bytes(8, "little"), id="a length"),
        pytest.param(global_(b"builtins", b"set") + RANGE + b"\x85R", id="a set"),
        pytest.param(global_(b"collections", b"deque") + RANGE + b"\x85R", id="a deque"),
        pytest.param(global_(b"builtins", b"frozenset") + RANGE + b"\x85\x81", id="a frozen set"),
        pytest.param(global_(b"builtins", b"bytearray") + b"J\xff\xff\xff\x7f\x85R", id="an array"),
        pytest.param(FRACTION + EXPONENT + b"\x85R", id="a fraction"),
        pytest.param(FRACTION + EXPONENT + b"\x85\x81", id="a new fraction"),
        pytest.param(FRACTION + b")}\x8c\x09numerator" + EXPONENT + b"s\x92", id="a fraction by name"),
    ],
)
def test_a_heap_that_asks_for_gigabytes_or_hours_is_refused(value):
    with pytest.raises(MalformedError, match="the heap"):
        unpickled(b"\x80\x05}\x8c\x01a" + value + b"s.", Registry.__canister_module__(), is_own=False)


def test_what_a_heap_may_hold_is_read_whoever_wrote_it():
    module = Registry.__canister_module__()
    values = {
        "range": range(3, 9, 2),
        "array": bytearray(b"abc"),
        "fraction": Fraction(-1, 3),
        "deque": deque([1, 2], maxlen=3),
        "default": defaultdict(set, {1: {2}}),
        "counter": Counter("abca"),
        "frozen": frozenset([1]),
        "numbers": [1 << 80, -1, 255, 65_535, 1 << 31, 1.5, True, None, complex(1, 2), Decimal("1.5")],
        "text": ["x" * 300, b"x" * 70_000, "", "\N{SNOWMAN}", slice(1, 2), OrderedDict(a=1)],
        "time": [date(2026, 1, 2), datetime(2026, 1, 2, tzinfo=UTC), timedelta(1), UUID(int=5)],
        "same": [shared := [1], shared, (shared,) * 3, {"many": {n: str(n) for n in range(500)}}],
        "classes": [bytearray, Fraction, User],
    }
    loop = []
    loop.append((loop,))
    data = pickled(values | {"loop": loop}, module)
    found = unpickled(data, module, is_own=False)
    assert found.pop("loop")[0][0][0][0] is not None
    assert found == values
    assert found["same"][0] is found["same"][1]


def test_the_network_is_there_only_while_it_runs_a_canister():
    with pytest.raises(RuntimeError, match="no canister is running"):
        _ = ic.caller
    with pytest.raises(ValueError, match="without a signature"):
        call(ALICE, "method", 1)
    with pytest.raises(ValueError, match="1 values for 0 types"):
        call(ALICE, "method", 1, signature="() -> ()")


def test_only_marked_classes_are_code():
    with pytest.raises(TypeError, match="no class made a canister"):
        Subnet().install(User)
    with pytest.raises(UnsupportedError):
        Subnet().create_canister().actor()


def test_a_state_directory_keeps_what_the_class_made(tmp_path):
    with Subnet(tmp_path / "state") as first:
        canister_id = first.install(Registry, ("TST",)).id
        first.canister(canister_id).actor().add({"name": "Ada", "age": 36})
        with rejects(match="too old"):
            first.canister(canister_id).actor().add({"name": "Bob", "age": 200})
    with Subnet(tmp_path / "state", code=[Registry]) as second:
        actor = second.canister(canister_id).actor()
        assert actor.last_user()["name"] == "Ada"
        assert actor.add({"name": "Eve", "age": 1}) == 37
        second.canister(canister_id).upgrade(Registry)
        assert actor.counted() == (0, 2)
    with Subnet(tmp_path / "state", code=[Registry]) as third:
        assert third.canister(canister_id).actor().counted() == (0, 2)


@pytest.mark.parametrize("method", ["update", "query"])
def test_an_endless_loop_can_be_interrupted(method):
    """No limit of instructions ends it."""

    @canister
    class Spinner:
        def __init__(self) -> None:
            self.count = 0

        @update
        def spin(self) -> None:
            self.count = 1
            end = time.monotonic() + 120
            while time.monotonic() < end:
                pass

        @query
        def spin_query(self) -> None:
            self.spin()

        @query
        def counted(self) -> nat:
            return self.count

    class Enough(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Enough

    spinner = Subnet().install(Spinner)
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with pytest.raises(Enough):  # noqa: PT012 -- the timer must not be before
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            getattr(spinner, method)("spin" if method == "update" else "spin_query")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert signal.getsignal(signal.SIGALRM) is before
    assert spinner.actor().counted() == 0


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


@canister
class Speaks:
    @update
    def fail(self, has_text: bool) -> int:
        raise ValueError("half \udc80") if has_text else UnprintableError

    @update
    async def ask(self, other: Principal, has_text: bool) -> int:
        return await call(other, "fail", has_text, signature="(bool) -> (int)")

    @update
    def one(self) -> int:
        return 1


@pytest.mark.parametrize(
    ("has_text", "words"),
    [(True, r"ValueError: half \\udc80"), (False, "UnprintableError: its text raises an exception")],
)
def test_exceptions_whose_text_is_none(has_text: bool, words: str) -> None:
    """They are traps as any other, and no message stays at the head of a queue for good."""
    subnet = Subnet()
    speaks, asks = subnet.install(Speaks), subnet.install(Speaks)
    with rejects(match=words):
        speaks.actor().fail(has_text)
    with rejects(match=words):
        asks.actor().ask(speaks.id, has_text)
    assert asks.actor().one() == speaks.actor().one() == 1
