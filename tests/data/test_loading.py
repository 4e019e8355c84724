"""Many rows at once, from what people have: all of them come in, or none."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import pytest

from perdure.data import ConstraintError, Store, Table, table
from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import Principal
from perdure.kit import nat64
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager

pa = pytest.importorskip("pyarrow")


@dataclass
class User:
    id: nat64
    name: str
    score: float = 0.0
    is_new: bool = False
    owner: Principal | None = None


@pytest.fixture
def users():
    store = Store(MemoryManager.create(BytesMemory()).get)
    return Table.declare(store, "users", User, table(key="id", index=["name"], unique=["score"]))


ROWS = [User(3, "c", 0.5, True, Principal(b"\1")), User(1, "a", 1.5), User(2, "b", 2.5)]
ARROW = {
    "id": [3, 1, 2],
    "name": ["c", "a", "b"],
    "score": [0.5, 1.5, 2.5],
    "is_new": [True, False, False],
    "owner": [str(Principal(b"\1")), None, None],
}


def parquet(path):
    import pyarrow.parquet as pq

    pq.write_table(pa.table(ARROW), path)
    return path


def comma_separated(path):
    lines = [f"{r.id},{r.name},{r.score},{str(r.is_new).lower()},{r.owner or ''}" for r in ROWS]
    path.write_text("\n".join(["id,name,score,is_new,owner", *lines]))
    return path


def database(path):
    connection = sqlite3.connect(path)
    connection.execute("create table people(id, name, score, is_new, owner)")
    rows = [(r.id, r.name, r.score, r.is_new, r.owner and str(r.owner)) for r in ROWS]
    connection.executemany("insert into people values (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return path


@pytest.mark.parametrize(
    "source",
    [parquet, comma_separated, database, lambda _: pa.table(ARROW), lambda _: [vars(one) for one in ROWS]],
    ids=["parquet", "csv", "sqlite", "arrow", "mappings"],
)
@pytest.mark.parametrize("is_empty", [True, False])
def test_rows_come_in(users, tmp_path, source, is_empty):
    if not is_empty:
        users.put(User(9, "z", 9.5))
    assert users.load(source(tmp_path / "file")) == 3
    assert list(users) == sorted(ROWS, key=lambda one: one.id) + ([] if is_empty else [User(9, "z", 9.5)])
    assert users.by.name.one("b") == User(2, "b", 2.5)
    assert users.check() == []


def test_columns_that_the_source_calls_otherwise(users):
    assert users.load([{"number": 5, "name": "x"}], columns={"id": "number"}) == 1
    assert users[5] == User(5, "x")


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([{"id": 1, "name": "a", "score": 1}, {"id": 1, "name": "b", "score": 2}], ConstraintError, "key"),
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "b"}], ConstraintError, r"score|unique"),
        ([{"id": 1, "name": "a"}, {"id": "x", "name": "b"}], ValueError, "column 'id' holds u64, found 'x'"),
        ([{"id": 1, "name": "a", "colour": 1}], ValueError, "no column 'colour'"),
        ([{"id": 1}], ValueError, "no column 'name', which is never null"),
    ],
)
@pytest.mark.parametrize("is_empty", [True, False])
def test_all_or_none(users, rows, error, message, is_empty):
    if not is_empty:
        users.put(User(9, "z", 9.5))
    with pytest.raises(error, match=message):
        users.load(rows)
    assert (len(users), users.check()) == (0 if is_empty else 1, [])


def test_files_that_are_none(users, tmp_path):
    with pytest.raises(StorageError, match="no such file"):
        users.load(tmp_path / "nothing.csv")
    for name, data, message in [
        ("a.parquet", b"PAR1garbage", "no Parquet"),
        ("a.db", b"SQLite format 3\0garbage", "SQLite"),
        ("a.csv", b"", "a first line"),
        ("b.csv", b"id,name\n1\n", "line 2: 1 values, expected 2"),
        ("c.csv", b"id,name\n\xff,\xfe\n", "no CSV"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(MalformedError, match=message):
            users.load(tmp_path / name)
    assert len(users) == 0


def test_a_database_with_several_tables_is_asked_which(users, tmp_path):
    path = database(tmp_path / "file")
    sqlite3.connect(path).execute("create table other(x)")
    with pytest.raises(ValueError, match="has the tables people, other: say which"):
        users.load(path)
    assert users.load(path, source_table="people") == 3
