"""A shard in Rust beside shards in Python: one table, whose rows go from one to the other."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import pytest

from perdure import Network, RejectError
from perdure.data import ShardedTable, Table, table
from perdure.fleet.shard import Shard
from perdure.kit import canister, nat64

MODULE = Path(__file__).parents[1] / "canisters" / "modules" / "shard.wasm.gz"
OPTIONS = table(key="id")


@dataclass
class Item:
    id: nat64
    name: str


@canister
class Items(Shard):
    rows: Table[Item] = table(key="id", index=["name"])


@pytest.mark.slow
def test_rows_go_between_rust_and_python() -> None:
    network = Network(2)
    wasm = gzip.decompress(MODULE.read_bytes())
    kinds = (wasm, Items, wasm, Items)
    shards = [network.subnets[number // 2].install(kind).id for number, kind in enumerate(kinds)]
    items = ShardedTable.begin(network, shards, Item, OPTIONS, at=[40, 60])
    rows = [Item(number, f"item {number}") for number in range(100)]
    items.update(rows)
    stale = ShardedTable(network, shards, Item, OPTIONS)
    for source, to in ((0, 1), (1, 2), (2, 0), (0, 3), (3, 2)):
        items.split(shards[source], shards[to], most=7)
        assert list(items) == list(stale) == rows
        assert (len(items), stale.count(10, 90).count) == (100, 80)
    for source in (0, 1, 3):
        for _ in items.moving(b"", None, shards[source], shards[2], most=9):
            items.put(Item(50, "changed"))
            assert stale.get(50) == Item(50, "changed")
    rows[50] = Item(50, "changed")
    assert list(items) == rows
    assert {holder for _, _, holder in items.places()} == {shards[2]}


@pytest.mark.slow
def test_a_taker_that_is_stopped_gets_its_rows_later() -> None:
    network = Network(2)
    wasm = gzip.decompress(MODULE.read_bytes())
    shards = [network.subnets[number].install(kind).id for number, kind in enumerate((wasm, Items))]
    items = ShardedTable.begin(network, shards, Item, OPTIONS)
    items.update(Item(number, "x") for number in range(20))
    for source, to in (shards, reversed(shards)):
        network.canister(to).stop()
        with pytest.raises(RejectError, match="stopped"):
            items.merge(source, to, most=8)
        assert len(items) == 20  # nothing has left
        with pytest.raises(RejectError, match="stopped"):  # as if it had stopped just now
            items._call(source, "shard_give", b"", None, to, 8)
        assert items.count(partial=True).count == 12  # eight are on their way
        network.canister(to).start()
        assert items.get(3) == Item(3, "x")
        items.merge(source, to)
        assert len(items) == 20
    with pytest.raises(RejectError, match="is no peer"):
        items._call(shards[0], "shard_take", b"", None, 9, [])
