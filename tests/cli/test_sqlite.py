"""`perdure stable` on databases of SQLite; files that other programs open; every example of docs/sqlite.md."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "inspection"))
sys.path.insert(0, str(Path(__file__).parents[1] / "subnet"))
from built_canisters import module
from sqlite_files import in_wal_mode, made
from test_stable import Answer, examples

from perdure import Subnet

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "sqlite.md"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def dump() -> str:
    Path("dump.bin").write_bytes(padded(made(rows=2000)))
    return "dump.bin"


def padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 65_536) * 65_536, b"\0")


@pytest.fixture
def state(tmp_path) -> str:
    """A state directory whose canister has a database."""
    with Subnet(tmp_path / "state", history=None) as subnet:
        canister = subnet.install(module("sqlite"))
        canister.update(
            "exec", b"create table t(a integer primary key, b); insert into t values (1, 'one'), (2, 'two')"
        )
    return f"state:{canister.id}"


def test_ls_names_the_tables(dump):
    found = Answer("ls", dump)
    assert found.code == 0
    assert "item, owner: " in found.out
    assert "item, owner: " in Answer("tree", dump).out
    (structure,) = Answer("ls", dump, "--json").json["structures"]
    assert (structure["kind"], structure["tables"], structure["used_bytes"]) == (
        "sqlite", ["item", "owner"], len(made(rows=2000)),
    )  # fmt: skip


def test_query_rows_schema(dump):
    assert Answer("query", dump, "select count(*) n from item", "--json").json == [{"n": 2000}]
    assert Answer("query", dump, "select name from item where id = :i", "-p", "i", "7", "-q").out == "item 7\n"
    assert [row["id"] for row in Answer("rows", dump, "item", "--from", "1997", "--json").json] == [1997, 1998, 1999]
    assert Answer("rows", dump, "page:0.owner", "--limit", "1", "--reverse", "-q").out == "999\towner 999\n"
    assert Answer("rows", dump, "page:0").err.endswith("name a table of it, found item, owner")
    assert "no table 'nowhere' here, found tables item, owner" in Answer("rows", dump, "nowhere").err
    assert Answer("get", dump, "owner", "7").out == "7\towner 7\n"
    assert Answer("get", dump, "owner", "7", "--json").json == {"id": 7, "name": "owner 7"}
    assert [Answer("get", dump, "owner", *key).code for key in (("7777",), (), ("7", "--raw"))] == [1, 2, 2]
    assert "CREATE INDEX item_owner on item(owner);" in Answer("schema", dump).out
    assert {one["name"] for one in Answer("schema", dump, "--json").json} == {"item", "owner", "item_owner"}
    for sql in ("delete from item", "attach 'x' as x", "select * from nowhere", "select"):
        found = Answer("query", dump, sql)
        assert (found.code, found.out) == (2, ""), found.err
    assert "there is item, owner" in Answer("query", dump, "select * from nowhere").err


def test_pages(dump):
    found = Answer("query", dump, "select * from item where id = 7", "--pages", "--json").json
    assert (found["read"], found["rows"], found["used"][0]["name"]) == (3, 1, "item")
    assert "plan: SEARCH item USING INTEGER PRIMARY KEY (rowid=?)" in Answer(
        "query", dump, "select * from item where id = 7", "--pages"
    ).out  # fmt: skip
    assert Answer("query", dump, "delete from item", "--pages").code == 2


def test_fsck_and_diff(dump):
    assert Answer("fsck", dump).out == "1 memories checked: 0 errors, 0 notes listed\n"
    data = bytearray(Path(dump).read_bytes())
    data[4 * 4096 + 100 : 6 * 4096] = bytes(2 * 4096 - 100)
    Path("damaged.bin").write_bytes(data)
    found = Answer("fsck", "damaged.bin")
    assert found.code == 1
    assert "sqlite-damaged" in found.out
    assert Answer("diff", dump, "damaged.bin").code == 1
    assert Answer("query", "damaged.bin", "select count(*), sum(price) from item").code == 1
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.deserialize(made(rows=2000))
        connection.execute("update item set price = -1 where id = 5")
        connection.execute("delete from owner where id > 997")
        connection.commit()
        Path("later.bin").write_bytes(padded(connection.serialize()))
    found = Answer("diff", dump, "later.bin")
    assert found.code == 1
    assert "item (sqlite): 1 changed" in found.out
    assert "owner (sqlite): 2 removed" in found.out
    assert {one["name"]: len(one["changes"]) for one in Answer("diff", dump, "later.bin", "--json").json} == {
        "item": 1, "owner": 2,
    }  # fmt: skip


def test_export(dump):
    assert Answer("export", dump, "-o", "all.db").out == "item: 2000 rows\nowner: 1000 rows\n"
    with closing(sqlite3.connect("all.db")) as connection:
        assert connection.execute("select count(*) from item").fetchone() == (2000,)
    assert Answer("export", dump, "item", "-o", "item.csv", "--json").json == {"item": 2000}
    rows = list(csv.DictReader(io.StringIO(Path("item.csv").read_text())))
    assert (len(rows), rows[7]["name"]) == (2000, "item 7")
    import pyarrow.parquet as pq

    assert Answer("export", dump, "-o", "many", "--format", "parquet", "-q").code == 0
    table = pq.read_table("many/item.parquet")
    assert (table.num_rows, str(table.schema.field("price").type), str(table.schema.field("name").type)) == (
        2000, "int64", "string",
    )  # fmt: skip


def test_columns_of_several_types_are_text():
    Path("mixed.bin").write_bytes(
        padded(
            made(
                "create table t(a, b, c); insert into t values (1, 2.5, null), ('x', null, null), (x'00ff', 1.0, null)"
            )
        )
    )
    import pyarrow.parquet as pq

    assert Answer("export", "mixed.bin", "t", "-o", "t.parquet").code == 0
    assert pq.read_table("t.parquet").to_pylist() == [
        {"a": "1", "b": 2.5, "c": None}, {"a": "x", "b": None, "c": None}, {"a": "00ff", "b": 1.0, "c": None},
    ]  # fmt: skip


def test_what_is_extracted_is_the_file(dump):
    assert Answer("extract", dump, "-o", "out.db").code == 0
    assert Path("out.db").read_bytes() == made(rows=2000)
    assert Answer("extract", dump, "-o", "out.db").code == 2
    Path("empty.bin").write_bytes(bytes(65_536))
    assert Answer("extract", "empty.bin", "-o", "none.db").code == 2
    assert not Path("none.db").exists()


def test_texts_that_are_none():
    Path("bad.bin").write_bytes(padded(made("create table t(a); insert into t values (cast(x'ff' as text))")))
    for command in (("rows", "t"), ("query", "select a from t")):
        found = Answer(command[0], "bad.bin", *command[1:])
        assert found.code == 1
        assert "no UTF-8" in found.err
    assert Answer("query", "bad.bin", "select cast(a as blob) a from t", "--json").json == [{"a": "ff"}]
    assert Answer("export", "bad.bin", "-o", "x.db").code == 1
    assert not Path("x.db").exists()


def test_without_apsw_the_database_is_still_named(dump, monkeypatch):
    monkeypatch.setitem(sys.modules, "apsw", None)
    assert "pages of 4096 bytes" in Answer("ls", dump).out
    assert "perdure[sql]" in Answer("query", dump, "select 1").err
    assert Answer("extract", dump, "-o", "out.db").code == 0


def test_names_from_a_database_do_not_reach_the_terminal_as_they_are():
    name = "a\x1b[31mb"
    Path("names.bin").write_bytes(padded(made(f'create table "{name}"("{name}"); insert into "{name}" values (1)')))
    shown = [
        Answer("ls", "names.bin"),
        Answer("rows", "names.bin", name),
        Answer("schema", "names.bin"),
        Answer("query", "names.bin", f'select * from "{name}"'),
        Answer("query", "names.bin", f'select * from "{name}"', "--pages"),
        Answer("diff", "names.bin", "other.bin") if Path("other.bin").write_bytes(padded(made())) else None,
    ]
    assert [one.out for one in shown if "\x1b" in one.out] == []
    assert all("a" in one.out for one in shown)


PLACES = """
create table item(id integer primary key, name); insert into item values (1, 'a'), (2, 'b');
create view v as select name from item; create view broken as select * from gone;
create virtual table words using fts5(text); insert into words values ('hi there');
create table w(k int primary key, v) without rowid; insert into w values ('abc', 1), (5, 2);
"""


@pytest.fixture
def places() -> str:
    Path("places.bin").write_bytes(padded(made(PLACES)))
    return "places.bin"


def test_views_and_virtual_tables(places):
    assert "item, words, w; views v, broken: 8 pages" in Answer("ls", places).out
    (structure,) = Answer("ls", places, "--json").json["structures"]
    assert (structure["tables"], structure["views"]) == (["item", "words", "w"], ["v", "broken"])
    assert Answer("rows", places, "v", "-q").out == "a\nb\n"
    assert Answer("rows", places, "words", "-q").out == "hi there\n"
    for name, kind in (("v", "a view"), ("words", "a virtual table")):
        found = Answer("rows", places, name, "--from", "1")
        assert (found.code, f"has no key to go by: it is {kind}" in found.err) == (2, True)
    found = Answer("rows", places, "broken")
    assert (found.code, found.err) == (2, "SQL: no such table: main.gone")
    assert Answer("export", places, "-o", "out.db").out == "item: 2 rows\nw: 2 rows\nwords: 1 rows\n"
    assert "there is item, v, broken, words, w" in Answer("query", places, "select * from nowhere").err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("rows", "item", "--from", "abc"), 2, "'abc' is no integer, and rows of item go by their rowid"),
        (("rows", "item", "--to", "1e3"), 2, "'1e3' is no integer"),
        (("get", "item", "zz"), 2, "'zz' is no integer"),
        (("rows", "item", "--from", "1.5", "-q"), 0, "2\tb\n"),
        (("rows", "w", "--from", "aaa", "-q"), 0, "abc\t1\n"),
        (("query", "select :a"), 2, "SQL asks for :a, give it by -p a VALUE; found none"),
        (("query", "select :a", "-p", "b", "1"), 2, "SQL does not ask for 'b'"),
        (("query", "select :a", "-p", "a", "1", "-p", "b", "2"), 2, "SQL does not ask for 'b'"),
        (("query", "select :ab", "-p", "a", "1"), 2, "SQL does not ask for 'a'"),
        (("query", "select @a + $b", "-p", "@a", "1", "-p", "b", "2", "-q"), 0, "3\n"),
        (("query", "select ?"), 2, "parameters have names here: write :name"),
        (("query", "select :a", "--pages"), 2, "SQL asks for :a"),
    ],
)
def test_keys_and_parameters(places, arguments, code, words):
    found = Answer(arguments[0], places, *arguments[1:])
    assert (found.code, words in (found.err if code else found.out)) == (code, True)


def test_a_row_that_is_too_long_is_told_with_its_table():
    data = made("create table small(a); create table large(x); insert into large values (zeroblob(70000000))")
    Path("large.bin").write_bytes(padded(data))
    for arguments in (("export", "-o", "out.db"), ("export", "-o", "many", "--format", "csv"), ("rows", "large")):
        found = Answer(arguments[0], "large.bin", *arguments[1:])
        assert (found.code, found.err) == (
            2, "table large: a row of more than 64 MiB; `extract` gives the whole file",
        )  # fmt: skip
    assert Answer("extract", "large.bin", "-o", "large.db").code == 0
    assert Path("large.db").read_bytes() == data


def test_a_file_goes_to_standard_output(places):
    command = (sys.executable, "-m", "perdure", "stable", "extract", places, "-o", "-")
    done = subprocess.run(command, capture_output=True, check=True, timeout=300)
    assert done.stdout == made(PLACES)
    assert done.stderr.startswith(b"-: 32768 bytes, change counter")
    assert Answer("extract", places, "-o", "-", "--json").code == 2
    assert not Path("-").exists()


# --- patch


def edited(path: str, *statements: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def test_a_state_directory_is_patched_by_a_commit(state, tmp_path):
    counter = Answer("extract", state, "-o", "out.db", "--json").json["change_counter"]
    edited("out.db", "insert into t values (3, 'three')", "create table more(x)")
    found = Answer("patch", state, "out.db", "--since", str(counter), "--json")
    assert found.code == 0, found.err
    assert Answer("query", state, "select count(*) n from t", "--json").json == [{"n": 3}]
    with Subnet(tmp_path / "state") as subnet:
        assert found.json["version"] == subnet.version
        (canister,) = subnet.canisters
        assert canister.query("query", b"select b from t where a = 3; pragma integrity_check") == b"three\nok\n"
    again = Answer("patch", state, "out.db", "--since", str(counter))
    assert again.code == 2
    assert "has changed since it was extracted" in again.err
    assert Answer("patch", state, "out.db", "--overwrite").code == 0


def test_a_dump_is_patched_into_a_new_one(dump):
    counter = str(Answer("extract", dump, "-o", "out.db", "--json").json["change_counter"])
    before = Path(dump).read_bytes()
    edited("out.db", "delete from item where id > 100", "vacuum")
    edited("out.db", "create table blobs(x)", "insert into blobs values (zeroblob(500000))")
    assert Answer("patch", dump, "out.db", "--since", counter, "-o", "new.bin").code == 0
    assert Path(dump).read_bytes() == before
    assert (
        Answer("query", "new.bin", "select count(*), (select length(x) from blobs) from item", "-q").out
        == "101\t500000\n"
    )
    assert Answer("fsck", "new.bin").code == 0
    edited("out.db", "drop table blobs", "vacuum")
    assert Answer("patch", "new.bin", "out.db", "--overwrite", "-o", "small.bin").code == 0
    size = len(Path("out.db").read_bytes())
    assert Path("small.bin").read_bytes()[100:size] == Path("out.db").read_bytes()[100:]  # the header's counters go on
    assert not any(Path("small.bin").read_bytes()[size:])


def test_the_guest_sees_a_file_that_was_patched_in_whatever_its_counters_say(state, tmp_path):
    """Both sides have made one change since, so that counter and cookie are equal; the tables have another order."""
    ask = b"select b from t where a = 7"
    Answer("extract", state, "-o", "out.db")
    with Subnet(tmp_path / "state") as subnet:
        subnet.canisters[0].update("exec", b"insert into t values (7, 'of the canister')")
    edited("out.db", "insert into t values (7, 'of the file')")
    assert Answer("patch", state, "out.db", "--overwrite").code == 0
    with Subnet(tmp_path / "state") as subnet:
        (canister,) = subnet.canisters
        assert canister.query("query", ask) == b"of the file\n"
        canister.update("exec", b"insert into t values (8, 'later')")
        assert canister.query("query", ask + b"; pragma integrity_check") == b"of the file\nok\n"
    with closing(sqlite3.connect("out.db")) as connection:
        cookie = connection.execute("pragma schema_version").fetchone()[0]
        tables = [row[0] for row in connection.execute("select sql from sqlite_master where sql is not null")]
        rows = connection.execute("select a, b from t").fetchall()
    with closing(sqlite3.connect("turned.db")) as connection:
        connection.execute("create table first(x)")
        for sql in reversed(tables):
            connection.execute(sql)
        connection.executemany("insert into t values (?, ?)", rows)
        connection.commit()
        connection.execute(f"pragma schema_version = {cookie}")
        connection.commit()
    assert Answer("patch", state, "turned.db", "--overwrite").code == 0
    with Subnet(tmp_path / "state") as subnet:
        (canister,) = subnet.canisters
        canister.update("exec", b"insert into t values (9, 'at last')")
        assert canister.query("query", ask + b"; pragma integrity_check") == b"of the file\nok\n"


@pytest.mark.parametrize(
    ("pragma", "words"),
    [
        ("page_size = 512", "a page size of 512"),
        ("encoding = 'UTF-16le'", "the text encoding"),
        ("auto_vacuum = full", "auto_vacuum True"),
    ],
)
def test_a_file_that_an_open_guest_would_misread_is_refused(state, pragma, words):
    edited("out.db", f"pragma {pragma}", "create table t(a, b)")
    found = Answer("patch", state, "out.db", "--overwrite")
    assert found.code == 2
    assert words in found.err


def test_a_directory_is_no_new_file(dump):
    for arguments in (("extract", dump), ("patch", dump, "out.db", "--overwrite")):
        Answer("extract", dump, "-o", "out.db")
        found = Answer(*arguments, "-o", ".")
        assert found.code == 2
        assert "is a directory" in found.err


def test_what_patch_refuses(dump, state, tmp_path):
    Answer("extract", dump, "-o", "out.db")
    assert Answer("patch", dump, "out.db", "-o", "new.bin").code == 2
    assert Answer("patch", dump, "out.db", "--overwrite").code == 2
    assert "no such file" in Answer("patch", "nowhere:x", "out.db", "--overwrite").err
    assert Answer("patch", dump, "out.db", "--overwrite", "-o", dump).code == 2
    assert Answer("patch", state, "out.db", "--overwrite", "-o", "new.bin").code == 2
    Path("no.db").write_bytes(b"hello")
    assert Answer("patch", state, "no.db", "--overwrite").code in (1, 2)
    data = bytearray(Path("out.db").read_bytes())
    data[2 * 4096 : 3 * 4096] = bytes(4096)
    Path("damaged.db").write_bytes(data)
    assert "is damaged" in Answer("patch", state, "damaged.db", "--overwrite").err
    Path("short.db").write_bytes(Path("out.db").read_bytes()[:-4096])
    assert Answer("patch", state, "short.db", "--overwrite").code == 1
    in_wal_mode(tmp_path / "wal.db")
    assert "in WAL mode, for which a canister has no second file" in Answer("patch", state, "wal.db", "--overwrite").err
    Path("out.db-wal").write_bytes(b"a page")
    assert "what is in out.db-wal would be lost" in Answer("patch", state, "out.db", "--overwrite").err
    Path("out.db-wal").unlink()
    with Subnet(tmp_path / "other") as subnet:
        canister = subnet.install(b"\0asm\1\0\0\0")
        canister.stable.grow(1)
        canister.stable.write(0, made())
    found = Answer("patch", f"other:{canister.id}", "out.db", "--overwrite")
    assert (found.code, "does not say" in found.err) == (2, True)
    assert not Path("new.bin").exists()


# --- other people's programs


@pytest.fixture
def extracted(dump) -> str:
    Answer("extract", dump, "-o", "out.db")
    return "out.db"


def missing(what: str) -> None:
    """Skip, or in CI fail: what checks this is not here."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not here")


def printed(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_line_of_sqlite_opens_what_is_extracted(extracted):
    if shutil.which("sqlite3") is None:
        missing("the command sqlite3")
    assert printed("sqlite3", extracted, "select count(*) from item; pragma integrity_check") == "2000\nok\n"


def test_duckdb_opens_what_is_extracted(extracted):
    if find_spec("duckdb_extension_sqlite_scanner") is None:
        missing("duckdb's reader of SQLite")
    script = """
import duckdb, duckdb_extension_sqlite_scanner, pathlib
(reader,) = pathlib.Path(duckdb_extension_sqlite_scanner.__file__).parent.rglob("*.duckdb_extension")
connection = duckdb.connect()
connection.execute(f"load '{reader}'")
connection.execute("attach 'out.db' as shop (type sqlite)")
print(connection.execute("select count(*), sum(id), max(name) from shop.item").fetchall())
"""
    assert printed(sys.executable, "-c", script) == "[(2000, 1999000, 'item 999')]\n"


def test_datasette_opens_what_is_extracted(extracted):
    if find_spec("datasette") is None:
        missing("datasette")
    query = "/out/item.json?_size=2&_shape=array"
    found = json.loads(printed(sys.executable, "-W", "ignore", "-m", "datasette", extracted, "--get", query))
    assert [row["name"] for row in found] == ["item 0", "item 1"]


# --- the documentation


def doc_blocks() -> list[tuple[str, str]]:
    """The code blocks of docs/sqlite.md in order: language and text."""
    return re.findall(r"^```(python|console)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_documentation_says_what_happens(monkeypatch):
    """From an empty folder, with the module of the example beside."""
    import doctest

    Path("sqlite.wasm").write_bytes(module("sqlite"))
    names: dict[str, object] = {}
    for language, block in doc_blocks():
        if language == "python" and block.startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, names, "sqlite.md", str(PAGE), 0)
            runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
            runner.run(test, clear_globs=False)
            names.update(test.globs)
            assert runner.summarize(verbose=False).failed == 0
        elif language == "python":
            exec(block, names)
        else:
            for command, expected, code in examples(block):
                words = shlex.split(command)
                assert words[:2] == ["perdure", "stable"], command
                found = Answer(*words[2:])
                shown = "\n".join(line.rstrip() for line in found.out.rstrip("\n").split("\n"))
                assert (shown, found.code) == (expected, code), command


def test_export_into_a_directory_stays_in_it(tmp_path):
    """A database in somebody's memory has tables of any name."""
    names = ("../evil", "/tmp/evil", ".hidden", "a/b", "a%2Fb", "-o", "nul\n", "é plain", "x" * 300)
    with closing(sqlite3.connect("names.db")) as connection, connection:
        for name in names:
            quoted = name.replace('"', '""')
            connection.execute(f'create table "{quoted}"(a)')
            connection.execute(f'insert into "{quoted}" values (1)')
    Path("dump.bin").write_bytes(padded(Path("names.db").read_bytes()))
    Path("names.db").unlink()
    assert Answer("export", "dump.bin", "-o", "many/inside", "--format", "csv", "-q").code == 0
    written = sorted(file.name for file in Path("many/inside").iterdir())
    assert len(written) == len(names)
    assert {
        "%2E%2E%2Fevil.csv",
        "%2Ftmp%2Fevil.csv",
        "%2Ehidden.csv",
        "a%2Fb.csv",
        "a%252Fb.csv",
        "é plain.csv",
    } <= set(written)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dump.bin", "many"]
    assert sorted(file.name for file in Path("many").iterdir()) == ["inside"]
