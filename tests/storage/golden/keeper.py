"""The class whose canisters golden directories have. It is not to be changed: its hash is over this text."""

from __future__ import annotations

from dataclasses import dataclass

from perdure import Principal
from perdure.kit import call, canister, ic, nat8, nat64, query, stable, update
from perdure.stable import StableBTreeMap, StableCell, StableLog

STEP = 1


@dataclass
class User:
    """Somebody."""

    name: str
    age: nat8 | None = None


@canister
class Keeper:
    users: StableBTreeMap[Principal, User]
    total: StableCell[nat64] = stable(default=0)
    log: StableLog[str] = stable((7, 8))

    def __init__(self) -> None:
        self.seen = 0
        self.last: User | None = None

    @update
    def add(self, name: str) -> nat64:
        self.last = self.users[ic.caller] = User(name, 36)
        self.seen += STEP
        self.total.value += STEP
        self.log.append(name)
        return self.total.value

    @update
    async def ask(self, other: Principal) -> nat64:
        return await call(other, "add", "from afar", signature="(text) -> (nat64)")

    @query
    def facts(self) -> tuple[nat64, nat64, str, list[str]]:
        return self.total.value, self.seen, self.last.name if self.last is not None else "", list(self.log)
