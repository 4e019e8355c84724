"""One workload over stable structures, a `Table` and SQLite: time, and the pages of stable memory that it touches.

Entries are four numbers by a key of 63 bits. Each operation is a message: 100 entries put, one read, one number of one
changed, one number of all added up. Before reads and before the sum the heap is emptied by an upgrade, so that no cache
knows anything yet. Code in Python is not metered, so its pages are counted by a memory below the same operations.
Usage: model_figures.py [--quick] [--json]
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, final

from counted_pages import CountingMemory
from engine import ROOT, module
from figures import Table as Figures
from figures import main
from perdure import Subnet
from perdure.data import Store, Table, table
from perdure.kit import canister, nat64, query, update
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.subnet import Canister
from perdure.values import kept_as
from perdure.values.annotations import Annotations

sys.path.insert(0, str(ROOT / "tests" / "inspection"))
from guest import text, value, values

BATCH = 100


@dataclass
class Account:
    """An entry."""

    key: nat64
    balance: nat64
    age: nat64
    visits: nat64
    city: nat64


def account(number: int) -> Account:
    """The entry of a number; neighbours lie far apart."""
    return Account(number * 0x9E3779B97F4A7C15 % (1 << 63), number * 7, number % 90, 0, number % 4)


@canister(name="mapped")
class Mapped:
    """The entries in a stable structure."""

    accounts: StableBTreeMap[nat64, Annotated[Account, kept_as("struct")]]

    @update
    def put(self, first: int) -> None:
        """Put some."""
        for number in range(first, first + BATCH):
            one = account(number)
            self.accounts[one.key] = one

    @query
    def age(self, key: nat64) -> nat64:
        """Read one."""
        return self.accounts[key].age

    @update
    def bump(self, key: nat64) -> None:
        """Change one."""
        one = self.accounts[key]
        one.visits += 1
        self.accounts[key] = one

    @query
    def ages(self) -> int:
        """Read all."""
        return sum(one.age for one in self.accounts.values())


@canister(name="tabled")
class Tabled:
    """The entries in a table."""

    accounts: Table[Account] = table(key="key")

    @update
    def put(self, first: int) -> None:
        """Put some."""
        self.accounts.update(account(number) for number in range(first, first + BATCH))

    @query
    def age(self, key: nat64) -> nat64:
        """Read one."""
        return self.accounts[key].age

    @update
    def bump(self, key: nat64) -> None:
        """Change one."""
        one = self.accounts[key]
        one.visits += 1
        self.accounts.put(one)

    @query
    def ages(self) -> int:
        """Read all."""
        return int(self.accounts.sql("select sum(age) from accounts")[0][0])


def picked(at: int, entries: int) -> int:
    """Numbers without an order, as the guest in Rust picks them."""
    return at * 7_919 % entries


Operations = tuple[Callable[[int], object], Callable[[int], int], Callable[[int], object], Callable[[], int]]


Make = Callable[[Canister, int], Operations]


def of_python(one: Canister, entries: int) -> Operations:
    """The methods of a canister in Python."""
    actor = one.actor()
    return (
        actor.put,
        lambda at: actor.age(account(picked(at, entries)).key),
        lambda at: actor.bump(account(picked(at, entries)).key),
        actor.ages,
    )


def of_sqlite(one: Canister, entries: int) -> Operations:
    """SQL for the guest in C."""
    one.update("exec", b"create table account(key integer primary key, balance int, age int, visits int, city int)")

    def rows(first: int) -> Iterator[bytes]:
        for number in range(first, first + BATCH):
            yield b"".join(map(value, vars(account(number)).values()))

    def first_of(reply: bytes) -> int:
        found: Any = values(reply)[1][0][0]
        return int(found)

    put = text("insert into account values (?, ?, ?, ?, ?)") + struct.pack("<I", BATCH)
    read = text("select age from account where key = ?")
    bump = text("update account set visits = visits + 1 where key = ?")
    return (
        lambda first: one.update("run_many", put + b"".join(rows(first))),
        lambda at: first_of(one.query("select", read + value(account(picked(at, entries)).key))),
        lambda at: one.update("run", bump + value(account(picked(at, entries)).key)),
        lambda: first_of(one.query("select", text("select sum(age) from account"))),
    )


def of_rust(way: int) -> Callable[[Canister, int], Operations]:
    """The guest in Rust, whose methods take many."""

    def operations(one: Canister, entries: int) -> Operations:
        actor = one.actor()
        actor.prepare(way, entries)
        return (
            lambda first: actor.insert(way, first, BATCH),
            lambda at: int(actor.read(way, entries, at, 1)[1]),
            lambda at: actor.bump(way, entries, at, 1),
            lambda: int(actor.scan(way)[1]),
        )

    return operations


@final
class Counted:
    """The two in Python once more, over a memory that counts, anew for each reading."""

    def __init__(self, kind: type[Any]) -> None:
        self.memory = CountingMemory()
        self._kind = kind
        self._manager = MemoryManager.create(self.memory, bucket_wasm_pages=1)
        self.renew()

    def renew(self) -> None:
        """Forget all that was read, as an upgrade does."""
        get = MemoryManager.load(self.memory).get
        self._store = Store(get)
        if self._kind is Tabled:
            self.accounts: Any = Table.declare(self._store, "accounts", Account, table(key="key"))
        else:
            value = Annotations({}).storable(Annotated[Account, kept_as("struct")])
            self.accounts = StableBTreeMap.init(get(0), types.u64, value)

    def operations(self) -> Operations:
        """The methods of the canister, as messages are begun and ended."""
        put, age, bump, ages = (self._message(getattr(self._kind, name)) for name in ("put", "age", "bump", "ages"))
        return put, age, bump, ages

    def _message(self, method: Any) -> Callable[..., Any]:
        def run(*arguments: int) -> Any:
            self._store.begin()
            found = method(self, *arguments)
            self._store.flush()
            return found

        return run


def measure_one(figures: Figures, name: str, one: Canister, code: Any, make: Make, entries: int) -> None:
    """Time and pages of each operation."""
    put, read, bump, scan = make(one, entries)
    sample = range(min(200, entries))
    read_ages: list[int] = []
    scanned: list[int] = []
    runs: dict[str, tuple[int, list[Callable[[], object]]]] = {
        "put, each of 100": (BATCH, [lambda at=at: put(at) for at in range(0, entries, BATCH)]),
        "read one": (1, [lambda at=at: read_ages.append(read(at)) for at in sample]),
        "change one": (1, [lambda at=at: bump(at) for at in sample]),
        "add up all, each": (entries, [lambda: scanned.append(scan())]),
    }
    for what, (each, calls) in runs.items():
        if not what.startswith("change"):
            one.upgrade(code)
        took, pages = 0, [0, 0]
        for call in calls:
            start = time.process_time_ns()
            call()
            took += time.process_time_ns() - start
            last = one.last
            assert last is not None
            pages = [pages[0] + last.pages_read["stable"], pages[1] + last.pages_written["stable"]]
        figures.add(f"{name}: {what}", took / len(calls) / each / 1_000, "us")
        if pages[0]:
            add_pages(figures, name, what, pages, len(calls))
    assert read_ages == [picked(at, entries) % 90 for at in sample]
    assert scanned == [sum(number % 90 for number in range(entries))]
    if pages[0]:
        figures.add(f"{name}: stable memory, an entry", one.stable.size() * 65_536 / entries, "bytes")


def add_pages(figures: Figures, name: str, what: str, pages: Sequence[float], messages: int) -> None:
    """Pages by message."""
    what = what.partition(",")[0]
    figures.add(f"{name}: {what}, pages accessed", pages[0] / messages, "pages a message")
    if pages[1]:
        figures.add(f"{name}: {what}, pages written", pages[1] / messages, "pages a message")


def count_pages(figures: Figures, name: str, kind: type[Any], entries: int) -> None:
    """Of code in Python."""
    one = Counted(kind)
    put, age, bump, ages = one.operations()
    keys = [account(picked(at, entries)).key for at in range(min(200, entries))]
    runs: dict[str, list[Callable[[], object]]] = {
        "put": [lambda at=at: put(at) for at in range(0, entries, BATCH)],
        "read one": [lambda key=key: age(key) for key in keys],
        "change one": [lambda key=key: bump(key) for key in keys],
        "add up all": [ages],
    }
    for what, calls in runs.items():
        if what != "change one":
            one.renew()
        pages = [0, 0]
        for call in calls:
            one.memory.taken()
            call()
            taken = one.memory.taken()
            pages = [pages[0] + taken[0], pages[1] + taken[1]]
        add_pages(figures, name, what, pages, len(calls))
    figures.add(f"{name}: stable memory, an entry", one.memory.size() * 65_536 / entries, "bytes")


def measure(quick: bool) -> Figures:
    """Each in a canister of its own; processor time, the message's own included."""
    figures, entries = Figures("model_figures"), 2_000 if quick else 20_000
    with Subnet(extensions=("direct",)) as subnet:
        for name, code, operations in (
            ("in place, ordered tree, Rust", module("ways"), of_rust(9)),
            ("StableBTreeMap, Rust", module("ways"), of_rust(6)),
            ("SQLite, C", module("sqlite"), of_sqlite),
            ("StableBTreeMap, Python", Mapped, of_python),
            ("Table, Python", Tabled, of_python),
        ):
            one = subnet.install(code)
            measure_one(figures, name, one, code, operations, entries)
            if isinstance(code, type):
                count_pages(figures, name, code, entries)
    return figures


if __name__ == "__main__":
    main(measure)
