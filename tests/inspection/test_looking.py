"""Tables, memories and inventories as people look at them in Python."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from perdure import Subnet, UnsupportedError
from perdure.inspection import Inventory, Table, open_table
from perdure.inspection.rows import Rows
from perdure.kit import canister, nat64, stable, update
from perdure.stable import StableBTreeMap, StableCell
from perdure.values.schema import parse_schema

MODULES = Path(__file__).parents[1] / "canisters" / "modules"


@canister
class Shop:
    orders: StableBTreeMap[str, nat64]
    price: StableCell[nat64] = stable(default=1)

    @update
    def order(self, name: str, items: nat64) -> None:
        self.orders[name] = items


@pytest.fixture
def shop():
    installed = Subnet().install(Shop)
    for name in ("<b>", "ada", "bob"):
        installed.actor().order(name, len(name))
    return installed


def test_a_canister_shows_its_tables(shop):
    tables = shop.stable.tables
    assert list(tables) == ["orders", "price"]
    orders = tables["orders"]
    assert list(orders) == [{"key": "<b>", "value": 3}, {"key": "ada", "value": 3}, {"key": "bob", "value": 3}]
    assert orders.to_arrow().to_pylist() == list(orders)
    assert repr(orders) == "<Rows orders: btreemap of 3 entries; key, value>"
    assert repr(tables) == (f"<2 tables in stable memory of {shop.id}\n  orders: key, value\n  price: value>")
    assert "<td>&lt;b&gt;</td>" in orders._repr_html_()
    assert "<td>orders</td><td>key, value</td>" in tables._repr_html_()
    with pytest.raises(KeyError, match=r"no table 'order' in stable memory of .*, found orders, price"):
        tables["order"]
    shop.actor().order("eve", 1)
    assert len(shop.stable.tables["orders"]) == 4


def test_motokos_variables_are_tables_too():
    counter = Subnet().install(MODULES / "motoko_eop_v1.wasm.gz")
    counter.actor().inc()
    tables = counter.stable.tables
    assert list(tables["counter"]) == [{"value": 1}]
    assert tables["counter"].to_arrow().to_pylist() == [{"value": "1"}]  # a Nat has no bounds


def test_the_old_name_is_a_face():
    assert Table is Rows


def test_pandas_and_polars_get_what_arrow_has(shop, monkeypatch):
    orders = shop.stable.tables["orders"]
    monkeypatch.setitem(sys.modules, "polars", SimpleNamespace(from_arrow=lambda table: ("frame", table.num_rows)))
    assert orders.to_polars() == ("frame", 3)
    for name in ("pandas", "polars"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UnsupportedError, match=f"this needs `pip install {name}`"):
            getattr(orders, f"to_{name}")()


def test_reprs_are_worth_reading(shop):
    assert repr(shop) == f"<Canister {shop.id}: Shop, running, {shop.status().cycles:,} cycles>"
    assert repr(shop.stable) == f"<stable memory of {shop.id}: {shop.stable.size()} Wasm pages>"
    subnet = shop._subnet
    assert repr(subnet) == "<Subnet in memory: 1 canister, 2021-05-06 19:17:10 UTC>"
    empty = subnet.create_canister()
    assert repr(empty) == f"<Canister {empty.id}: no code, running, {empty.status().cycles:,} cycles>"
    empty.stop()
    empty.delete()
    assert repr(empty) == f"<Canister {empty.id}>"
    memory = shop.stable
    shop.uninstall()
    assert repr(memory) == f"<stable memory of {shop.id}, which is gone>"


def test_an_inventory_lists_what_it_found(every_structure, schema_text, look):
    inventory: Inventory = look(every_structure)
    lines = repr(inventory).splitlines()
    assert lines[0] == f"<Inventory of {inventory.label}: {inventory.memory.size()} Wasm pages"
    assert len(lines) == 1 + len(inventory.structures)
    assert "btreemap of 300 entries" in lines[1]
    assert inventory._repr_html_().count("<tr>") == 1 + len(inventory.structures)
    schema = parse_schema(schema_text)
    first = open_table(inventory.structures[0], schema)
    assert len(list(first)) == len(first)
