"""Classes as their authors edit them, for tests of what a state directory makes of it; `write` is in `conftest.py`."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TypeAlias

Write: TypeAlias = Callable[..., ModuleType]
"""Writes a module's source, or removes it, and imports it anew."""

HEAD = """
from perdure import Principal
from perdure.kit import *
from perdure.stable import *
"""

COUNTER = (
    HEAD
    + """
def step():
    return 1

@canister
class Counter:
    total: StableCell[nat64] = stable(default=0)

    def __init__(self) -> None:
        self.seen = 0

    @update
    def add(self) -> nat64:
        self.seen += 1
        self.total.value += step()
        return self.total.value

    @query
    def get(self) -> tuple[nat64, nat]:
        return self.total.value, self.seen
"""
)

VARIABLES = (
    HEAD
    + """
from dataclasses import dataclass
from typing import Annotated

@dataclass
class User:
    name: str

@canister
class Shop:
    users: StableBTreeMap[nat32, User]
    log: StableLog[str]
    queue: StableMinHeap[nat64]

    @update
    def fill(self) -> None:
        self.users[1] = User("Ada")
        self.log.append("begun")
        self.queue.push(5)

    @query
    def names(self) -> list[str]:
        return [user.name for user in self.users.values()]

    @query
    def lines(self) -> list[str]:
        return list(self.log)
"""
)
USERS, LOG, QUEUE = (
    "    users: StableBTreeMap[nat32, User]\n",
    "    log: StableLog[str]\n",
    "    queue: StableMinHeap[nat64]\n",
)


MOVED = (
    VARIABLES.replace(USERS, "    users: StableBTreeMap[str, User] = stable(4)\n")
    .replace(LOG, "    log: StableLog[str] = stable((1, 2))\n")
    .replace(QUEUE, "    queue: StableMinHeap[nat64] = stable(3)\n")
    .replace("self.users[1]", 'self.users["1"]')
)
MIGRATION = """
    @migration
    def by_text(self, users: StableBTreeMap[nat32, User]) -> None:
        for key, user in users.items():
            self.users[str(key)] = user
        self.log.append(f"moved {len(users)}")

    @query
    def keys(self) -> list[str]:
        return list(self.users)
"""

CALLS = (
    HEAD
    + """
@canister
class Asker:
    @update
    async def ask(self, other: Principal) -> nat64:
        return await call(other, "slow", signature="() -> (nat64)")

@canister
class Slow:
    @update
    async def slow(self) -> nat64:
        await call(ic.id, "step", signature="() -> (nat64)")
        return 1

    @update
    def step(self) -> nat64:
        return 1
"""
)

SCRIPT = """
import sys
from dataclasses import dataclass
from perdure import Subnet
from perdure.kit import canister, nat64, query, stable, update
from perdure.stable import StableCell

@dataclass
class Seen:
    times: int

@canister
class Counter:
    total: StableCell[nat64] = stable(default=0)

    def __init__(self) -> None:
        self.seen = Seen(0)

    @update
    def add(self) -> nat64:
        self.seen = Seen(self.seen.times + 1)
        self.total.value += 1
        return self.total.value

    @query
    def facts(self) -> tuple[nat64, nat64]:
        return self.total.value, self.seen.times

if __name__ == "__main__":
    with Subnet("../state") as subnet:
        counter = subnet.canisters[0] if subnet.canisters else subnet.install(Counter)
        print(counter.actor().add())
"""
