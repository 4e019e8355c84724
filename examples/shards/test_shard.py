"""One table in two canisters, the one in Rust and one in Python: rows go from either to the other."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from perdure import Network
from perdure.data import ShardedTable, Table, table
from perdure.fleet.shard import Shard
from perdure.kit import canister, nat64

RUST = Path(__file__).parent / "target/wasm32-unknown-unknown/release/shard.wasm"


@dataclass
class Item:
    """A row."""

    id: nat64
    name: str


@canister
class Items(Shard):
    """The shard in Python."""

    rows: Table[Item] = table(key="id")


@pytest.fixture(scope="module")
def network():
    """Two subnets, a shard on each."""
    made = Network(2)
    made.subnets[0].install(RUST)
    made.subnets[1].install(Items)
    return made


def test_rows_go_from_rust_to_python_and_back(network):
    rust, python = (subnet.canisters[0].id for subnet in network.subnets)
    rows = [Item(number, f"item {number}") for number in range(100)]
    items = ShardedTable.begin(network, [rust, python], Item, table(key="id"), at=[50])
    items.update(rows)
    items.split(rust, python)  # the upper half of its rows
    assert list(items) == rows
    items.merge(python, rust)
    assert list(items) == rows
    assert {holder for _, _, holder in items.places()} == {rust}
