"""Databases are found wherever they lie, and read where they lie; what is hostile or damaged ends in an error."""

from __future__ import annotations

import signal
import sqlite3
import struct
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import apsw
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from sqlite_files import in_wal_mode, made

from perdure.errors import HostError, MalformedError, PerdureError, UnsupportedError
from perdure.inspection import Limits, Structure, explain_pages, find_in_memory, open_sqlite
from perdure.inspection.diff import diff
from perdure.inspection.fsck import fsck
from perdure.inspection.sql import connect
from perdure.inspection.sqlite import databases, find_table, open_database, table_kinds
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, ReadOnlyMemory
from perdure.stable import MemoryManager, StableBTreeMap, StableCell, types

PAGE_SIZES = [512 << power for power in range(8)]


def managed(files: dict[int, tuple[int, bytes]]) -> BytesMemory:
    """Files in virtual memories, each from an offset on, in buckets that do not follow one another."""
    memory = BytesMemory()
    manager = MemoryManager.create(memory, bucket_wasm_pages=1)
    done = 0
    while any(offset + len(data) > done for offset, data in files.values()):
        for memory_id, (offset, data) in files.items():
            if offset + len(data) > done:
                manager.get(memory_id).grow(1)
        done += WASM_PAGE_BYTES
    for memory_id, (offset, data) in files.items():
        manager.get(memory_id).write(offset, data)
    return memory


@pytest.mark.parametrize("page_bytes", PAGE_SIZES)
def test_any_page_size_at_byte_0(page_bytes):
    memory = BytesMemory(made(page_bytes=page_bytes, rows=2000))
    (found,) = find_in_memory(memory).structures
    assert (found.label, found.kind, found.used_bytes) == (
        "page:0",
        "sqlite",
        len(made(page_bytes=page_bytes, rows=2000)),
    )
    connection = open_sqlite(memory)
    assert connection.execute("select count(*), max(id) from item").fetchall() == [(2000, 1999)]
    assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]


@pytest.mark.parametrize("offset", [1, 100, 4096, 65_536, 65_537, 10 * 65_536])
def test_any_offset(offset):
    memory = BytesMemory(b"\1" * offset + made(rows=3000))
    (found,) = databases(find_in_memory(memory))
    assert found.address == offset
    assert open_sqlite(memory).execute("select sum(id) from item").fetchall() == [(2999 * 1500,)]
    assert open_sqlite(memory).execute("pragma integrity_check").fetchall() == [("ok",)]


def test_several_in_virtual_memories_beside_structures():
    files = {120: (0, made(rows=3000)), 5: (65_536, made("create table t(a); insert into t values ('five')"))}
    memory = managed(files)
    StableCell.create(MemoryManager.load(memory).get(1), types.text, "seven")
    inventory = find_in_memory(memory)
    assert {found.label: (found.kind, found.offset) for found in databases(inventory)} == {
        "120": ("sqlite", 0),
        "5": ("sqlite", 65_536),
    }
    with pytest.raises(UnsupportedError, match="databases in memories 5, 120: name one"):
        open_sqlite(memory)
    assert open_sqlite(memory, name="120").execute("select count(*) from item").fetchall() == [(3000,)]
    connection = connect(inventory)
    assert connection.execute("select a from t").fetchall() == [("five",)]
    assert connection.execute("select count(*) from memory_120.item").fetchall() == [(3000,)]
    assert connection.execute("select hex(value) from memory_1").fetchall() == [(b"seven".hex().upper(),)]
    for sql in (
        "delete from t",
        "attach 'x' as x",
        "create table memory_5.x(a)",
        "insert into memory_120.owner values (1, 2)",
    ):
        with pytest.raises((UnsupportedError, apsw.ReadOnlyError)):
            connection.execute(sql)
    assert find_table(inventory, "120.item").name == "item"
    with pytest.raises(UnsupportedError, match="name a table of it, found t"):
        find_table(inventory, "5")


@pytest.mark.parametrize("is_done", [False, True], ids=["hot", "done"])
def test_the_first_page_in_a_journal_is_no_database(is_done):
    header = bytes(28) if is_done else b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(20)
    journal = b"\1" * 65_536 + header.ljust(512, b"\0") + b"\0\0\0\1" + made() + bytes(4)
    assert databases(find_in_memory(BytesMemory(journal))) == []


def test_behind_a_database_other_structures_are_found():
    size = len(made()) // WASM_PAGE_BYTES + 1
    memory = BytesMemory(made().ljust(size * WASM_PAGE_BYTES, b"\0") + bytes(2 * WASM_PAGE_BYTES))
    from perdure.stable import RestrictedMemory

    StableBTreeMap.create(RestrictedMemory(memory, size), types.u64, types.u64)[1] = 2
    assert [found.kind for found in find_in_memory(memory).structures] == ["sqlite", "btreemap"]


def test_full_text_and_r_trees_are_read():
    memory = BytesMemory(
        made(
            "create virtual table words using fts5(text); insert into words values ('hello world'), ('other');"
            "create virtual table boxes using rtree(id, low, high); insert into boxes values (1, 2, 3)"
        )
    )
    connection = open_sqlite(memory)
    assert connection.execute("select text from words where words match 'hello'").fetchall() == [("hello world",)]
    assert connection.execute("select id from boxes where low < 5").fetchall() == [(1,)]


def test_what_a_log_held_is_not_here_and_the_rest_is_read(tmp_path):
    memory = BytesMemory(in_wal_mode(tmp_path / "wal.db"))
    (found,) = find_in_memory(memory).structures
    assert "WAL mode" in found.note
    assert open_sqlite(memory).execute("select count(*) from t").fetchall() == [(2,)]
    assert fsck(find_in_memory(memory)).counts == {"page:0": {"sqlite-wal": 1}}


def test_texts_in_utf_16_are_read_alone_and_beside_structures():
    memory = managed({3: (0, made("pragma encoding = 'UTF-16le'; create table t(a); insert into t values ('ä')"))})
    assert open_sqlite(memory).execute("select a from t").fetchall() == [("ä",)]
    StableCell.create(MemoryManager.load(memory).get(1), types.text, "seven")
    assert connect(find_in_memory(memory)).execute("select a from t, memory_1").fetchall() == [("ä",)]


def test_a_header_without_a_size_is_read_by_its_memory():
    data = bytearray(made(rows=1000))
    data[92:96] = b"\0\0\0\7"  # as if a library before 3.7.0 had written last
    assert open_sqlite(BytesMemory(data)).execute("select count(*) from item").fetchall() == [(1000,)]


@pytest.mark.parametrize(
    ("at", "data"),
    [(16, b"\0\0"), (16, b"\0\3"), (18, b"\3"), (19, b"\0"), (20, b"\xff"), (21, b"\1")],
    ids=["no page size", "no power of two", "writer", "reader", "reserved", "fraction"],
)
def test_what_begins_like_a_database_and_is_none(at, data):
    damaged = bytearray(made(page_bytes=512))
    damaged[at : at + len(data)] = data
    (found,) = find_in_memory(BytesMemory(damaged)).structures
    assert found.kind == "unknown"
    assert "starts like an SQLite database" in found.note
    with pytest.raises(UnsupportedError, match="no SQLite database here, found unknown"):
        open_sqlite(BytesMemory(damaged))


def test_a_dump_that_is_cut_off():
    memory = BytesMemory(made(rows=5000)[: 2 * WASM_PAGE_BYTES])
    report = fsck(find_in_memory(memory))
    assert report.counts == {"page:0": {"sqlite-truncated": 1}}


HOSTILE = """
create table t(a integer primary key, b text, c blob); create index i on t(b);
create table w(k text primary key, v) without rowid; create view v as select a, upper(b) from t;
create virtual table f using fts5(x); create virtual table r using rtree(id, low, high);
insert into f values ('hello world'); insert into r values (1, 2, 3);
insert into w values ('one', 1), ('two', 2);
create table dbstat(name, pageno check(pageno > 0), twice as (pageno * 2)); insert into dbstat values ('mine', 1);
create view pragma_table_list as select 1; create table pragma_table_xinfo(a unique);
create trigger said after insert on t begin insert into w values (new.a, new.b); end;
with recursive n(i) as (select 0 union all select i + 1 from n where i < 59)
insert into t select i, 'name' || i, zeroblob(i * 20) from n;
"""
QUESTIONS = (
    *("select * from sqlite_schema", "select * from t", "select * from v", "select v from w where k = 'two'"),
    *("select * from t where b = 'name7'", "select * from f where f match 'hello'", "select * from r where low < 5"),
    *("pragma integrity_check(5)", "select name, count(*) from temp.dbstat group by 1", "select * from dbstat"),
)


def every_table(structure: Structure) -> None:
    """What `rows` and `export` ask."""
    for table in open_database(structure, Limits(seconds=5)).tables():
        list(table.rows())


def question(connection: apsw.Connection, sql: str) -> None:
    connection.execute(sql).fetchall()


def mutate(data: bytearray, places: Iterable[int], changes: Sequence[int]) -> tuple[int, int, float]:
    """Ask with one byte changed at each place; how much was answered, and refused; the most s that one took."""
    answered = refused = 0
    longest = 0.0
    for at in places:
        for change in changes:
            data[at] ^= change
            began = time.process_time()
            memory = ReadOnlyMemory(bytes(data))
            asked = [partial(every_table, structure) for structure in databases(find_in_memory(memory))]
            try:
                connection = open_sqlite(memory, limits=Limits(seconds=5))
                asked += [partial(question, connection, sql) for sql in QUESTIONS]
                asked.append(partial(explain_pages, connection, QUESTIONS[1]))
            except PerdureError:
                refused += 1
            for ask in asked:
                try:
                    ask()
                    answered += 1
                except (apsw.Error, UnicodeDecodeError, PerdureError):
                    refused += 1
            longest = max(longest, time.process_time() - began)
            data[at] ^= change
    return answered, refused, longest


@pytest.mark.slow
def test_every_byte_of_the_first_pages():
    """Whatever one byte says, each question is answered or refused, in no time. Run the file for the long form."""
    data = bytearray(made(HOSTILE, page_bytes=512))
    answered, refused, longest = mutate(data, [*range(200), *range(200, 1024, 6)], [0xFF])
    assert answered > 2000
    assert refused > 30
    assert longest < 60


@pytest.mark.parametrize("page_bytes", [512, 4096])
def test_cut_off_anywhere(page_bytes):
    data = made(HOSTILE, page_bytes=page_bytes)
    for size in [*range(0, 700, 7), *range(700, len(data), len(data) // 40)]:
        memory = ReadOnlyMemory(data[:size])
        for structure in databases(find_in_memory(memory)):
            try:
                for sql in QUESTIONS:
                    open_database(structure).connection.execute(sql).fetchall()
            except (apsw.Error, PerdureError, UnicodeDecodeError):
                pass
        fsck(find_in_memory(memory))


ENDLESS = "with recursive n(i) as (select 1 union all select i + 1 from n) select count(*) from n"


def test_a_view_without_end_runs_into_the_limit_of_time():
    memory = BytesMemory(made(f"create view endless as {ENDLESS}"))
    connection = open_sqlite(memory, limits=Limits(seconds=0.2))
    with pytest.raises(HostError, match=r"worked for 0\.2 s"):
        connection.execute("select * from endless").fetchall()
    assert connection.execute("select 1").fetchall() == [(1,)]  # each statement has its own time


def test_a_statement_without_a_limit_of_time_can_be_interrupted():
    connection = open_sqlite(BytesMemory(made()), limits=Limits(seconds=None))
    timer = threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 -- the timer must not be before
        timer.start()
        connection.execute(ENDLESS).fetchall()
    timer.join()


@pytest.mark.parametrize(
    "sql",
    [
        "select length(zeroblob(1000000000))", "select printf('%.*c', 1000000000, 'x')",
        "select hex(randomblob(60000000))", "select replace(hex(zeroblob(9000000)), '0', '0123456789')",
        "select 'x' like '" + "%_" * 600 + "'", "select " + "1 + " * 2000 + "1",
        "with recursive t(x) as (select 'x' union all select x || x from t) select max(x) from t",
    ],
)  # fmt: skip
def test_no_statement_takes_more_than_its_length(sql):
    connection = open_sqlite(BytesMemory(made()), limits=Limits(seconds=5))
    with pytest.raises((apsw.TooBigError, apsw.SQLError, apsw.NoMemError, HostError)):
        connection.execute(sql).fetchall()


@pytest.mark.parametrize(
    "view",
    [
        "select load_extension('./x')", "select * from pragma_writable_schema", "select readfile('/etc/passwd')",
        "select * from pragma_journal_mode('wal')", "select fts3_tokenizer('simple')",
    ],
)  # fmt: skip
def test_views_reach_nothing_outside(view):
    data = bytearray(made("create view placeholder as select 1"))
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(bytes(data))
        connection.execute("pragma writable_schema = 1")
        connection.execute("update sqlite_schema set sql = ?", (f"CREATE VIEW placeholder as {view}",))
        connection.commit()
        data = connection.serialize()
    with pytest.raises((UnsupportedError, apsw.Error)):
        open_sqlite(BytesMemory(data)).execute("select * from placeholder").fetchall()


@pytest.mark.parametrize(
    "sql",
    [
        "insert into item values (1, 2, 3, 4)", "delete from item", "create table x(a)", "drop table item",
        "create temp table x(a)", "attach 'x.db' as x", "attach ':memory:' as x", "detach main", "vacuum",
        "vacuum into 'x.db'", "pragma journal_mode = wal", "pragma writable_schema = 1", "pragma user_version = 5",
        "pragma locking_mode = exclusive", "pragma temp_store = file", "select load_extension('x')", "reindex",
        "analyze", "pragma mmap_size = 100000", "pragma trusted_schema = 1", "pragma hard_heap_limit = 0",
        "pragma cache_spill = 0",
    ],
)  # fmt: skip
def test_sql_only_reads(sql, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = BytesMemory(made(rows=10))
    before = bytes(memory.data)
    with pytest.raises((UnsupportedError, apsw.ReadOnlyError)):
        open_sqlite(memory).execute(sql).fetchall()
    assert bytes(memory.data) == before
    assert list(tmp_path.iterdir()) == []


def test_tables_as_rows_in_order_and_between_keys():
    memory = BytesMemory(made(HOSTILE + "create table plain(rowid, _rowid_, oid); insert into plain values (3, 4, 5)"))
    inventory = find_in_memory(memory)
    assert [row[0] for row in find_table(inventory, "t").rows(57)] == [57, 58, 59]
    assert [row[0] for row in find_table(inventory, "t").rows(None, 1, reverse=True)] == [1, 0]
    assert list(find_table(inventory, "w").rows("two")) == [("two", 2)]
    assert list(find_table(inventory, "plain").rows()) == [(3, 4, 5)]
    with pytest.raises(UnsupportedError, match="has no key to go by"):
        find_table(inventory, "plain").rows(1)


def changed(data: bytes, *statements: str) -> BytesMemory:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(data)
        for statement in statements:
            connection.execute(statement)
        connection.commit()
        return BytesMemory(connection.serialize())


def test_two_states_differ_by_rows():
    data = made(
        "create table t(a integer primary key, b collate nocase); insert into t values (1, 'x'), (2, 'y'), (3, 1)"
    )
    old = find_in_memory(BytesMemory(data))
    new = changed(
        data,
        "insert into t values (4, 'new')",
        "delete from t where a = 2",
        "update t set b = 'X' where a = 1",
        "update t set b = 1.0 where a = 3",
        "create table more(x)",
    )
    found = {one.name: one for one in diff(old, find_in_memory(new))}
    assert found["more"].status == "added"
    assert [(change.key, change.what, change.before, change.after) for change in found["t"].changes] == [
        ((1,), "changed", (1, "x"), (1, "X")),
        ((2,), "removed", (2, "y"), None),
        ((3,), "changed", (3, 1), (3, 1.0)),
        ((4,), "added", None, (4, "new")),
    ]
    assert [one.status for one in diff(old, old)] == ["same"]
    (one,) = diff(old, find_in_memory(changed(data, "vacuum")))
    assert one.status == "same"


def test_references_to_rows_that_are_not_there():
    data = made("create table a(x primary key); create table b(y references a(x)); insert into b values (7)")
    report = fsck(find_in_memory(BytesMemory(data)))
    assert report.counts == {"page:0": {"sqlite-foreign-key": 1}}
    assert report.errors == []


def test_damage_is_found_with_its_advice():
    data = bytearray(made(rows=2000))
    data[5 * 4096 : 6 * 4096] = bytes(4096)
    report = fsck(find_in_memory(BytesMemory(data)))
    assert report.counts == {"page:0": {"sqlite-damaged": 1}}  # and not once more for each index that lacks its rows
    assert "page 6" in report.errors[0].message
    assert ".recover" in report.errors[0].advice


def test_tables_that_are_called_like_those_of_sqlite():
    """Which its own schema would be asked instead of SQLite."""
    memory = BytesMemory(
        made(
            "create table dbstat(pageno, name); insert into dbstat values (1, 'mine'); create table t(a);"
            "create table pragma_table_list(name, type, wr, schema); create view pragma_table_xinfo as select 1"
        )
    )
    found = explain_pages(memory, "select * from dbstat")
    assert [(used.name, used.kind) for used in found.used] == [("sqlite_schema", "table"), ("dbstat", "table")]
    (structure,) = databases(find_in_memory(memory))
    tables = {table.name: table.columns for table in open_database(structure).tables()}
    assert tables == {
        "dbstat": ("pageno", "name"), "pragma_table_list": ("name", "type", "wr", "schema"), "t": ("a",),
    }  # fmt: skip
    assert table_kinds(structure)["pragma_table_xinfo"] == "view"


@pytest.mark.parametrize("wrong", ["shop.bin", b"", None, object(), find_in_memory(BytesMemory())])
def test_what_is_no_memory(wrong):
    for ask in (open_sqlite, find_in_memory, *([] if hasattr(wrong, "structures") else [explain])):
        with pytest.raises(TypeError, match=r"expected a Memory, as canister\.stable.*; found"):
            ask(wrong)
    with pytest.raises(TypeError, match=r"expected perdure\.inspection\.Limits, found 5"):
        open_sqlite(BytesMemory(made()), limits=5)


def explain(wrong: object) -> object:
    return explain_pages(wrong, "select 1")


def test_a_damaged_database_cannot_be_compared():
    data = bytearray(made(rows=2000))
    good = find_in_memory(BytesMemory(data))
    data[100:108] = struct.pack(">Q", (1 << 64) - 1)
    with pytest.raises(MalformedError, match=r"cannot be read|malformed"):
        list(diff(good, find_in_memory(BytesMemory(data))))


if __name__ == "__main__":
    for argument in sys.argv[1:] or ("512", "1024", "4096"):  # page size, and how many bytes from the first on
        size, _, places = argument.partition(":")
        whole = bytearray(made(HOSTILE, page_bytes=int(size)))
        count = int(places or len(whole))
        print(size, count, *mutate(whole, range(count), (0xFF, 0x01, 0x80, 0x7F)), flush=True)
