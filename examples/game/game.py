"""Players of a game, in shards that are split where it is crowded."""

from __future__ import annotations

from dataclasses import dataclass, replace

from perdure import Network
from perdure.data import ShardedTable, Table, table
from perdure.fleet.shard import Shard
from perdure.kit import canister, int32, nat64

SHARDS = 3
SIZE = 100
"""A world of SIZE times SIZE fields."""


@dataclass
class Player:
    number: nat64
    x: int32
    y: int32
    score: nat64


@canister
class Players(Shard):
    rows: Table[Player] = table(key="number")


class Game:
    """The players, whichever shard has them."""

    def __init__(self, border: int) -> None:
        self.network = Network(2)
        homes = [self.network.subnets[number % 2] for number in range(SHARDS)]
        self.shards = [subnet.install(Players).id for subnet in homes]
        # Two shards begin; the third waits until it is crowded somewhere.
        self.players = ShardedTable.begin(self.network, self.shards, Player, table(key="number"), at=[border])

    def join(self, numbers: range) -> None:
        """New players in the middle of the world."""
        self.players.update(Player(number, SIZE // 2, SIZE // 2, 0) for number in numbers)

    def move(self, number: int, dx: int, dy: int) -> Player:
        """Move a player within the world; every move is a point."""
        player = self.players.get(number)
        if player is None:
            raise KeyError(f"no player {number}")
        x, y = (min(max(place, 0), SIZE - 1) for place in (player.x + dx, player.y + dy))
        moved = replace(player, x=x, y=y, score=player.score + 1)
        self.players.update([moved])
        return moved

    def relieve(self) -> None:
        """Give the upper half of the first shard's players to the one that waits."""
        self.players.split(self.shards[0], self.shards[2])

    def crowds(self, borders: list[int]) -> list[int]:
        """How many players there are between neighbouring numbers."""
        return [self.players.count(low=low, high=high).count for low, high in zip(borders, borders[1:], strict=False)]


if __name__ == "__main__":
    game = Game(border=100)
    game.join(range(150))
    print("players:", len(game.players), "by range:", game.crowds([0, 50, 100, 150]))
    game.relieve()
    print("after the split:", len(game.players), "by range:", game.crowds([0, 50, 100, 150]))
    print("moved:", game.move(75, 3, -2))
