"""An entity component system in canisters: which pages a tick touches, by where components lie.

    python examples/ecs/world.py [ENTITIES]

Each entity has a position and a description, every tenth a velocity. A tick moves those that have one. Three ways:

- **wide**: a table with a column for everything. A tick reads all rows, and writes those that move, with all they have.
- **components**: a table for each component, of those entities that have it. A tick reads velocities, and reads and
  writes positions of the same entities, which it finds by the key.
- **sharded**: the second one in four canisters, by ranges of entities. Each ticks by itself, and positions of all are
  one table. What a canister has beside the rows of that table is its own: it does not go with rows that are moved.

Pages are of 4 KiB, and counted on a copy of the canister's stable memory, before its own tick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from perdure import Canister, Subnet
from perdure.data import ShardedTable, Store, Table, table
from perdure.fleet.shard import Shard
from perdure.kit import canister, int32, nat64, update
from perdure.memory import BytesMemory

TEXT = "something that a tick has nothing to do with, and that is long enough to be in the way " * 3
EVERY = 10
"""How many entities there are for each that moves."""


@dataclass
class Entity:
    """Everything in one row."""

    id: nat64
    x: int32
    y: int32
    dx: int32 | None
    dy: int32 | None
    text: str


@dataclass
class Position:
    """Where an entity is."""

    id: nat64
    x: int32
    y: int32


@dataclass
class Velocity:
    """How an entity moves, which not all do."""

    id: nat64
    dx: int32
    dy: int32


@dataclass
class Description:
    """What it looks like."""

    id: nat64
    text: str


def tick_wide(entities: Table[Entity]) -> int:
    """Move what moves; how many that were."""
    moving = [one for one in entities if one.dx is not None and one.dy is not None]
    for one in moving:
        one.x, one.y = one.x + (one.dx or 0), one.y + (one.dy or 0)
    entities.update(moving)
    return len(moving)


def tick_components(positions: Table[Position], velocities: Table[Velocity]) -> int:
    """The same."""
    moved = 0
    for speed in velocities:
        at = positions.get(speed.id)
        if at is not None:
            positions.put(Position(at.id, at.x + speed.dx, at.y + speed.dy))
            moved += 1
    return moved


@canister
class Wide:
    """A table with a column for everything."""

    entities: Table[Entity] = table(key="id")

    @update
    def fill(self, first: nat64, end: nat64) -> None:
        """Make entities."""
        for number in range(first, end):
            speed = 1 if number % EVERY == 0 else None
            self.entities.put(Entity(number, number, 0, speed, speed, TEXT))

    @update
    def tick(self) -> nat64:
        """Move what moves; how many that were."""
        return tick_wide(self.entities)


class Components:
    """A table for each component."""

    positions: Table[Position] = table(key="id")
    velocities: Table[Velocity] = table(key="id")
    descriptions: Table[Description] = table(key="id")

    @update
    def fill(self, first: nat64, end: nat64) -> None:
        """Make entities."""
        for number in range(first, end):
            self.positions.put(Position(number, number, 0))
            self.descriptions.put(Description(number, TEXT))
            if number % EVERY == 0:
                self.velocities.put(Velocity(number, 1, 1))

    @update
    def tick(self) -> nat64:
        """Move what moves; how many that were."""
        return tick_components(self.positions, self.velocities)


@canister
class Alone(Components):
    """All entities in one canister."""


@canister
class Region(Shard):
    """Some of the entities: their positions are a shard of a table, and what else they have is beside it."""

    rows: Table[Position] = table(key="id")
    velocities: Table[Velocity] = table(key="id")
    descriptions: Table[Description] = table(key="id")

    @update
    def describe(self, first: nat64, end: nat64) -> None:
        """Give entities what is beside their positions."""
        for number in range(first, end):
            self.descriptions.put(Description(number, TEXT))
            if number % EVERY == 0:
                self.velocities.put(Velocity(number, 1, 1))

    @update
    def tick(self) -> nat64:
        """Move what moves here; how many that were."""
        return tick_components(self.rows, self.velocities)


@final
class Seen:
    """A memory, and which pages of it are read and written."""

    def __init__(self, data: bytes) -> None:
        self._memory = BytesMemory(data)
        self.read_pages: set[int] = set()
        self.written_pages: set[int] = set()

    def size(self) -> int:
        """In Wasm pages."""
        return self._memory.size()

    def grow(self, wasm_pages: int) -> int:
        """See `Memory`."""
        return self._memory.grow(wasm_pages)

    def read(self, address: int, size_bytes: int) -> bytes:
        """See `Memory`."""
        self.read_pages.update(range(address >> 12, (address + max(size_bytes, 1) - 1 >> 12) + 1))
        return self._memory.read(address, size_bytes)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """See `Memory`."""
        self.written_pages.update(range(address >> 12, (address + max(len(data), 1) - 1 >> 12) + 1))
        self._memory.write(address, data)


def ticked(one: Canister, *names: str) -> dict[str, int]:
    """What one tick of a canister touches, whose tables of these names are the arguments of `TICKS`; and the tick."""
    seen = Seen(one.stable.read(0, one.stable.size() << 16))
    store = Store.open(seen)
    tables = [Table.declare(store, name, OWNERS[name], table(key="id")) for name in names]
    seen.read_pages.clear()
    moved = TICKS[len(names)](*tables)
    store.flush()
    assert one.actor().tick() == moved
    touched = len(seen.read_pages | seen.written_pages)
    return {"moved": moved, "touched": touched, "written": len(seen.written_pages)}


OWNERS: dict[str, type[Any]] = {"entities": Entity, "positions": Position, "rows": Position, "velocities": Velocity}
TICKS: dict[int, Callable[..., int]] = {1: tick_wide, 2: tick_components}


def whole(entities: int) -> list[dict[str, int]]:
    """A tick of all entities in one canister: wide, then by components."""
    found = []
    for owner, names in ((Wide, ("entities",)), (Alone, ("positions", "velocities"))):
        one = Subnet().install(owner)
        one.actor().fill(0, entities)
        found.append(ticked(one, *names))
    return found


def sharded(entities: int, count: int) -> tuple[list[dict[str, int]], ShardedTable[Position]]:
    """A tick of each of several canisters, and the positions of all entities as one table."""
    subnet = Subnet()
    regions = [subnet.install(Region) for _ in range(count)]
    bounds = [entities * number // count for number in range(count + 1)]
    positions = ShardedTable.begin(subnet, [one.id for one in regions], Position, table(key="id"), at=bounds[1:-1])
    positions.update(Position(number, number, 0) for number in range(entities))
    for one, first, end in zip(regions, bounds, bounds[1:], strict=False):
        one.actor().describe(first, end)
    return [ticked(one, "rows", "velocities") for one in regions], positions


def main(entities: int, count: int = 4) -> dict[str, Any]:
    """What is printed."""
    wide, components = whole(entities)
    regions, positions = sharded(entities, count)
    moved = sum(one.x == one.id + 1 for one in positions)
    return {"wide": wide, "components": components, "sharded": regions, "positions": len(positions), "moved": moved}


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000), indent=1))
