"""The catalogue's bytes: drawn in docs/formats.md, read strictly, opened by commands."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass, replace

import cbor2
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from perdure.cli import perdure
from perdure.data import CATALOGUE_ID, Catalogue, Column, Model, Store, Table, Tree, open_tables, table
from perdure.data.catalogue import MAGIC
from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableCell
from perdure.stable.types import raw

MODEL = Model(
    "users",
    "table",
    (
        Column("id", "u64"),
        Column("city", "String", True),
        Column("age", "u8", False, 3),
        Column("x", "f64", state="unused"),
    ),
    (Tree("users", 253, (0,), (1, 2, 3)), Tree("users_by_city", 252, (1, 0), (), 1, True)),
)


def test_the_bytes_are_those_drawn():
    data = Catalogue((MODEL,)).encode()
    assert data[:5] == b"PDCT\x01"
    assert cbor2.loads(data[5:]) == {
        1: [
            {
                1: "users",
                2: "table",
                3: [
                    {1: "id", 2: "u64"},
                    {1: "city", 2: "String", 3: True},
                    {1: "age", 2: "u8", 4: 3},
                    {1: "x", 2: "f64", 5: "unused"},
                ],
                4: [
                    {1: "users", 2: 253, 3: [0], 4: [1, 2, 3], 5: 1},
                    {1: "users_by_city", 2: 252, 3: [1, 0], 5: 1, 6: True},
                ],
            }
        ]
    }
    assert Catalogue.decode(data) == Catalogue((MODEL,))


def test_the_schema_that_it_is():
    found = Catalogue((MODEL,)).schema().memories
    assert found["253"].key.name == "packed(id: u64)"
    assert found["253"].value.name == "cbor(city: String, age: u8, x: f64)"
    assert (found["252"].kind, found["252"].key.name) == ("btreeset", "packed(city: String, id: u64)")
    assert found["253"].value.decode(cbor2.dumps(["Zug"])) == {"city": "Zug", "age": 3, "x_unused_3": None}


def changed(change):
    content = cbor2.loads(Catalogue((MODEL,)).encode()[5:])
    change(content[1][0])
    return MAGIC + b"\x01" + cbor2.dumps(content)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", MalformedError, "bad magic"),
        (MAGIC + b"\x02", UnsupportedError, "version 02; this version of perdure reads 1"),
        (MAGIC + b"\x01\xff", MalformedError, "no CBOR"),
        (changed(lambda one: one.update({2: "heap"})), MalformedError, "one of table, verb"),
        (changed(lambda one: one[4][0].update({3: [9]})), MalformedError, "a tree of a column that is not there"),
        (changed(lambda one: one[4][1].update({2: 253})), MalformedError, "two trees in one memory"),
        (changed(lambda one: one[4][1].update({5: 3})), MalformedError, "by more than its key"),
        (changed(lambda one: one[4][0].update({4: [0]})), MalformedError, "a column twice"),
        (changed(lambda one: one.update({4: []})), MalformedError, "no tree"),
        (changed(lambda one: one.update({9: 1})), MalformedError, "a field 9"),
        (changed(lambda one: one[3][0].update({2: "nonsense"})), MalformedError, "a column of type 'nonsense'"),
        (changed(lambda one: one[3][0].update({2: "candid(nonsense)"})), MalformedError, "nonsense"),
    ],
)
def test_what_is_no_catalogue(data, error, message):
    with pytest.raises(error, match=message):
        Catalogue.decode(data).schema()


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_does_anything_but_read_or_say_so(at, value):
    data = bytearray(Catalogue((MODEL,)).encode())
    data[at % len(data)] = value
    with contextlib.suppress(PerdureError):
        Catalogue.decode(bytes(data)).schema()


@dataclass
class User:
    id: int
    name: str
    city: str | None = None


@pytest.fixture
def dump(tmp_path):
    memory = BytesMemory()
    users = Table.declare(Store(MemoryManager.create(memory).get), "users", User, table(key="id", index=["city"]))
    users.update([User(7, "Ada", "Zug"), User(9, "Bob")])
    path = tmp_path / "dump.bin"
    path.write_bytes(memory.read(0, memory.size() << 16))
    return memory, path


def run(*arguments):
    found = CliRunner().invoke(perdure, ["stable", *map(str, arguments)])
    return found.exit_code, found.output


def test_commands_read_what_the_catalogue_says(dump, tmp_path):
    _, path = dump
    code, text = run("ls", path)
    assert code == 0
    assert "users_by_city" in text
    code, text = run("query", path, "select id, name, city from users order by id", "--json")
    assert json.loads(text) == [{"id": 7, "name": "Ada", "city": "Zug"}, {"id": 9, "name": "Bob", "city": None}]
    code, text = run("get", path, "users", "7")
    assert code == 0
    assert "Ada" in text
    assert run("fsck", path)[0] == 0


def test_fsck_finds_an_index_out_of_step_and_a_catalogue_that_disagrees(dump):
    memory, path = dump
    manager = MemoryManager.load(memory)
    store = Store(manager.get)
    index = store.catalogue.model("users").trees[1]
    tree = store.tree(index).map
    tree.remove(next(iter(tree)))
    path.write_bytes(memory.read(0, memory.size() << 16))
    code, text = run("fsck", path)
    assert code == 1
    assert "users_by_city" in text
    assert "a row is not in it" in text

    cell = StableCell.load(manager.get(CATALOGUE_ID), raw)
    kept = cell.raw()
    cell.set(kept.replace(b"\x18\xfd", b"\x18\x32", 1))
    path.write_bytes(memory.read(0, memory.size() << 16))
    code, text = run("fsck", path)
    assert code == 1
    assert "users is a tree by the catalogue, and nothing is there" in text
    assert run("ls", path)[0] == 0

    cell.set(kept[:20])
    path.write_bytes(memory.read(0, memory.size() << 16))
    code, text = run("fsck", path)
    assert code == 1
    assert "no CBOR" in text
    assert run("ls", path)[0] == 0


def test_a_catalogue_that_disagrees_with_the_bytes():
    @dataclass
    class Thing:
        id: int
        name: str

    def changed(**changes) -> Store:
        store = Store(MemoryManager.create(BytesMemory()).get)
        Table.declare(store, "things", Thing, table(key="id", index=["name"])).put(Thing(1, "a"))
        (model,) = store.catalogue.models
        trees = [replace(model.trees[0], **changes.pop("tree", {})), model.trees[1]]
        store._save(Catalogue((replace(model, trees=tuple(trees), **changes),)))
        return store

    (other,) = open_tables(changed(columns=(Column("id", "u64"), Column("name", "u64"))))
    assert "column 'name' holds u64, found 'a'" in other.check()[0].what
    with pytest.raises(MalformedError, match="two columns of one name"):
        _ = changed(columns=(Column("id", "u64"), Column("id", "String"))).catalogue
    with pytest.raises(MalformedError, match="a tree in a memory past 254"):
        _ = changed(tree={"memory_id": 255}).catalogue
    with pytest.raises(MalformedError, match="there is no format"):
        open_tables(changed(columns=(Column("id", "u64"), Column("name", "xyz("))))
    (quoted,) = open_tables(changed(name='a"; drop table x; --'))
    assert quoted.sql(f'select name from "{quoted.name.replace(chr(34), chr(34) * 2)}"') == [("a",)]


@dataclass
class Place:
    street: str
    zip: int


@dataclass
class Node:
    name: str
    next: Node | None = None


@dataclass
class Resident:
    id: int
    place: Place
    places: list[Place]
    chain: Node


def test_a_draft_by_the_catalogue_reads_without_its_names_of_types(tmp_path):
    memory = BytesMemory()
    store = Store(MemoryManager.create(memory, bucket_wasm_pages=1).get)
    rows = Table.declare(store, "residents", Resident, table(key="id"))
    place = Place("Gasse", 6300)
    rows.put(Resident(1, place, [place, place], Node("a", Node("b"))))
    (tmp_path / "dump.bin").write_bytes(memory.data)
    assert run("infer", tmp_path / "dump.bin", "-o", tmp_path / "stable.yaml")[0] == 0
    assert "candid(vec record { zip : int; street : text })" in (tmp_path / "stable.yaml").read_text()
    assert run("fsck", tmp_path / "dump.bin", "--schema", tmp_path / "stable.yaml")[0] == 0
    code, text = run("rows", tmp_path / "dump.bin", "residents", "--schema", tmp_path / "stable.yaml", "--json")
    assert code == 0
    (row,) = json.loads(text)
    assert row["place"] == {"street": "Gasse", "zip": 6300}
    assert '"b"' in text  # of a type within itself a message knows the fields by their numbers alone


def test_a_diff_tells_what_becomes_of_models(dump, tmp_path):
    memory, path = dump
    later = tmp_path / "later.bin"
    store = Store(MemoryManager.load(memory).get)
    Table.declare(store, "users", User, table(key="id", unique=["name"]))
    later.write_bytes(memory.data)
    code, text = run("diff", path, later)
    assert code == 1
    assert "users.users_by_city: index 'users_by_city' is gone (one way)" in " ".join(text.split())
    found = {one["name"]: one for one in json.loads(run("diff", path, later, "--json")[1])}
    assert [one["verdict"] for one in found["catalogue"]["models"]] == ["one way", "one way"]
    assert "models" not in found["users_by_city"]


def test_rows_whose_columns_are_apart_are_a_view(tmp_path):
    memory = BytesMemory()
    store = Store(MemoryManager.create(memory, bucket_wasm_pages=1).get)
    users = Table.declare(store, "users", User, table(key="id", index=["city"], storage="columns"))
    users.update([User(7, "Ada", "Zug"), User(9, "Bob")])
    Table.declare(store, "whole", User, table(key="id"))
    path = tmp_path / "dump.bin"
    path.write_bytes(memory.data)
    code, text = run("query", path, "select * from users_rows order by id desc", "--json")
    assert (code, json.loads(text)) == (
        0,
        [{"id": 9, "name": "Bob", "city": None}, {"id": 7, "name": "Ada", "city": "Zug"}],
    )
    assert json.loads(run("query", path, "select name from users_rows where id = 7", "--json")[1]) == [{"name": "Ada"}]
    for statement in ("select * from whole_rows", "delete from users_rows", "drop view users_rows"):
        assert run("query", path, statement)[0] != 0
    schema = tmp_path / "stable.yaml"
    schema.write_text("memories: {253: {name: mine, kind: btreemap, key: raw, value: raw}}")
    assert run("query", path, "select * from mine", "--schema", schema)[0] == 0
    assert run("query", path, "select * from users_rows", "--schema", schema)[0] != 0
