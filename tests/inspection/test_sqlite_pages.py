"""How many pages a statement touches: the answer of docs/sqlite.md, exact, from inside, from outside, by the engine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

import apsw
import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "subnet"))
from built_canisters import module
from guest import fill
from sqlite_files import made

from perdure import Subnet
from perdure.errors import UnsupportedError
from perdure.execution.events import Ended
from perdure.inspection import explain_pages
from perdure.memory import BytesMemory
from perdure.subnet import Canister


class Question(NamedTuple):
    sql: str
    pages: int
    used: dict[str, tuple[int, int]]


QUESTIONS = {
    "one row by its key": Question(
        "select * from item where id = 5000", 4, {"item": (3, 606), "sqlite_schema": (1, 1)}
    ),
    "one owner with its 110 rows": Question(
        "select o.name, count(*), sum(price) from owner o join item i on i.owner = o.id where o.id = 77",
        112,
        {"item": (106, 606), "item_owner": (3, 285), "owner": (2, 6), "sqlite_schema": (1, 1)},
    ),
    "from an index that has all of it": Question(
        "select count(*) from item where owner = 77", 4, {"item_owner": (3, 285), "sqlite_schema": (1, 1)}
    ),
    "all owners by the index": Question(
        "select count(*), sum(n) from "
        "(select o.id, count(*) n from owner o join item i on i.owner = o.id group by o.id)",
        292,
        {"item_owner": (285, 285), "owner": (6, 6), "sqlite_schema": (1, 1)},
    ),
    "all owners with their rows": Question(
        "select sum(price) from owner o join item i on i.owner = o.id",
        613,
        {"item": (606, 606), "owner": (6, 6), "sqlite_schema": (1, 1)},
    ),
    "all rows": Question("select sum(price) from item", 607, {"item": (606, 606), "sqlite_schema": (1, 1)}),
}


@pytest.fixture(scope="module")
def canister() -> Canister:
    """100,000 rows, and nothing in the cache of the guest."""
    canister = Subnet().install(module("sqlite"))
    fill(canister, 100_000)
    canister.upgrade(module("sqlite"))
    return canister


def told_inside(canister: Canister, sql: str) -> dict[str, list[list[str]]]:
    """What `explain` says, lines by their first word."""
    told: dict[str, list[list[str]]] = {}
    for line in canister.query("explain", sql.encode()).decode().splitlines():
        word, *rest = line.split("\t")
        told.setdefault(word, []).append(rest)
    return told


def ended(canister: Canister, method: str, sql: str) -> Ended:
    send = canister.query if method == "query" else canister.update
    with canister._subnet.events() as stream:
        send(method, sql.encode())
    return next(event for event in stream if isinstance(event, Ended))


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_pages_of_a_question(canister, name):
    sql, pages, used = QUESTIONS[name]
    assert ended(canister, "query", sql).stable_accessed_pages == pages
    outside = explain_pages(canister.stable, sql)
    assert canister.sqlite().explain_pages(sql) == outside
    assert (outside.read, outside.stable_pages) == (pages, pages)
    assert {one.name: (one.read, one.total) for one in outside.used} == used
    inside = told_inside(canister, sql)
    assert inside["all"] == [[str(pages), "0"]]
    assert {one[0]: int(one[1]) for one in inside["pages"]} == {table: read for table, (read, _) in used.items()}
    assert tuple(step for (step,) in inside["plan"]) == outside.plan
    assert int(inside["rows"][0][0]) == outside.rows


@pytest.mark.parametrize(
    ("sql", "read", "written"),
    [
        ("update item set price = price + 1 where id = 777", 4, 2),
        ("insert into item values (1000000, 5, 'x', 3)", 7, 3),
    ],
)
def test_the_pages_of_a_change(canister, sql, read, written):
    assert told_inside(canister, sql)["all"] == [[str(read), str(written)]]
    with canister._subnet.anchor():
        message = ended(canister, "exec", sql)
    assert (message.stable_accessed_pages, message.stable_dirty_pages) == (read, written)


def test_an_index_that_has_all_of_it_makes_112_pages_seven(canister):
    sql = QUESTIONS["one owner with its 110 rows"].sql
    with canister._subnet.anchor():
        canister.update("exec", b"create index item_owner_price on item(owner, price)")
        assert explain_pages(canister.stable, sql).read == 7


def test_the_piece_for_cached_pages_bounds_what_of_the_heap_changes(canister):
    sql = QUESTIONS["all owners by the index"].sql
    for cache_pages in (10, 64, 4096):
        with canister._subnet.anchor():
            canister.update("exec", f"pragma cache_size = {cache_pages}".encode())
            assert ended(canister, "exec", sql).heap_dirty_pages < 60


@pytest.mark.parametrize(("page_bytes", "read", "stable"), [(512, 4, 3), (4096, 3, 3), (65_536, 3, 48)])
def test_pages_of_another_size(page_bytes, read, stable):
    found = explain_pages(BytesMemory(made(page_bytes=page_bytes, rows=3000)), "select * from item where id = 2000")
    assert (found.page_bytes, found.read, found.stable_pages) == (page_bytes, read, stable)


def test_parameters_and_what_cannot_be_explained():
    memory = BytesMemory(made(rows=1000))
    found = explain_pages(memory, "select * from item where id between :low and :high", {"low": 10, "high": 12})
    assert (found.rows, found.plan) == (3, ("SEARCH item USING INTEGER PRIMARY KEY (rowid>? AND rowid<?)",))
    assert found.to_json()["used"][0] == {"name": "item", "kind": "table", "read": 2, "total": found.used[0].total}
    with pytest.raises((UnsupportedError, apsw.ReadOnlyError)):
        explain_pages(memory, "delete from item")
    with pytest.raises(UnsupportedError, match="one statement is explained at a time"):
        explain_pages(memory, "select 1; select 2")
    with pytest.raises(apsw.SQLError, match="no such table"):
        explain_pages(memory, "select * from nowhere")
    with pytest.raises(UnsupportedError, match="no SQLite database"):
        explain_pages(BytesMemory(bytes(65_536)), "select 1")
