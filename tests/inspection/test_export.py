import csv
import io
import json
import re
import sqlite3
from contextlib import closing
from itertools import pairwise
from xml.etree import ElementTree

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perdure.errors import StorageError
from perdure.inspection.arrow import to_batch
from perdure.inspection.export import export_csv, export_duckdb, export_parquet, export_sqlite, export_stream
from perdure.inspection.find import name_structures
from perdure.inspection.occupancy import cells, occupancy, to_svg
from perdure.inspection.rows import open_table
from perdure.inspection.sql import open_tables
from perdure.memory import WASM_PAGE_BYTES
from perdure.stable import types
from perdure.values.schema import parse_schema
from perdure.values.show import to_json


@pytest.fixture
def tables(every_structure, schema_text, look):
    schema = parse_schema(schema_text)
    found, reasons = open_tables(name_structures(look(every_structure), schema), schema)
    assert reasons == []
    return {table.name: table for table in found}


def test_sqlite(tables, tmp_path, people):
    path = tmp_path / "all.db"
    rows = export_sqlite(tables.values(), path)
    assert rows["balances"] == 300
    with closing(sqlite3.connect(path)) as connection:
        names = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        assert names == set(tables)
        person, amount = people[5]
        assert connection.execute("select value from balances where key = ?", [str(person)]).fetchall() == [(amount,)]
        assert connection.execute("select value ->> '$.open' from settings").fetchall() == [(1,)]
        assert connection.execute("pragma table_info(balances)").fetchall()[0][5] == 1  # the primary key
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert [one[2] for one in connection.execute("pragma table_info(balances)")] == ["TEXT", "INTEGER"]
    with pytest.raises(StorageError, match="exists"):
        export_sqlite(tables.values(), path)
    assert export_sqlite([tables["ids"]], path, overwrite=True).keys() == {"ids"}
    with closing(sqlite3.connect(path)) as connection:
        assert [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")] == [
            "ids"
        ]


def test_a_column_whose_numbers_sqlite_does_not_have_keeps_their_digits(tmp_path, look, build):
    data = build.map(types.u64, types.u64, [(1, 5), (2, 2**64 - 1)])
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u64, value: u64}}')
    table = open_table(look(data).structures[0], schema)
    export_sqlite([table], tmp_path / "wide.db")
    with closing(sqlite3.connect(tmp_path / "wide.db")) as connection:
        assert [one[2] for one in connection.execute("pragma table_info(memory_page_0)")] == ["INTEGER", ""]
        found = connection.execute("select value from memory_page_0 order by key").fetchall()
    assert found == [(5,), (f"{2**64 - 1:039d}",)]


def test_a_format_that_holds_one_table_goes_into_a_stream_too(tables):
    told = []
    for form in ("csv", "ndjson", "arrow", "parquet"):
        sink = io.BytesIO()
        assert export_stream(tables["balances"], sink, form, tell=told.append) == 300
        assert not sink.closed
        if form == "ndjson":
            rows = [json.loads(line) for line in sink.getvalue().splitlines()]
            assert rows == [{name: to_json(value) for name, value in row.items()} for row in tables["balances"]]
        if form == "arrow":
            assert pa.ipc.open_file(sink.getvalue()).read_all().equals(tables["balances"].to_arrow())
    assert sum(told) == 1200


def test_duckdb(tables, tmp_path):
    path = tmp_path / "all.duckdb"
    rows = export_duckdb(tables.values(), path)
    assert rows["balances"] == 300
    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        assert {name for (name,) in connection.execute("show tables").fetchall()} == set(tables)
        assert connection.execute("select sum(value) from balances").fetchall() == [
            (sum(row["value"] for row in tables["balances"]),)
        ]
    with pytest.raises(StorageError, match="exists"):
        export_duckdb(tables.values(), path)


def test_csv(tables, people):
    file = io.StringIO()
    assert export_csv(tables["balances"], file) == 300
    found = list(csv.reader(io.StringIO(file.getvalue())))
    assert found[0] == ["key", "value"]
    assert found[1] == [str(people[0][0]), str(people[0][1])]
    file = io.StringIO()
    export_csv(tables["ids"], file)
    assert file.getvalue().splitlines()[4] == "3,000000"


def test_parquet(tables, tmp_path, people):
    for name, table in tables.items():
        assert export_parquet(table, tmp_path / f"{name}.parquet") == len(table)
    names = pq.read_table(tmp_path / "names.parquet")
    assert names.schema.types == [pa.uint64(), pa.string()]
    assert names.column("value")[2].as_py() == "name 2 éé"
    balances = pq.read_table(tmp_path / "balances.parquet")
    assert balances.column("key")[0].as_py() == str(people[0][0])
    assert balances.column("value").to_pylist() == [amount for _, amount in people]
    assert pq.read_table(tmp_path / "settings.parquet").column("value")[0].as_py() == '{"version": 3, "open": true}'
    assert pq.read_table(tmp_path / "events.parquet").schema.types == [pa.uint64(), pa.string()]
    assert pq.read_table(tmp_path / "ids.parquet").schema.types == [pa.uint64(), pa.binary()]


def test_parquet_in_bulk_is_parquet_row_by_row(tmp_path, look, build):
    data = build.map(types.u32, types.raw, [(n, bytes(n % 7)) for n in range(500)])
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u32, value: raw}}')
    table = open_table(look(data).structures[0], schema)
    assert export_parquet(table, tmp_path / "bulk.parquet") == 500
    entries = list(table.entries())
    rows = pa.Table.from_batches([to_batch(table, entries[start : start + 77]) for start in range(0, 500, 77)])
    assert table.raw_columns() is not None
    assert pq.read_table(tmp_path / "bulk.parquet") == rows


def test_an_empty_table(tmp_path, look, build):
    table = open_table(look(build.map(types.u32, types.text, [])).structures[0])
    assert export_parquet(table, tmp_path / "empty.parquet") == 0
    assert pq.read_table(tmp_path / "empty.parquet").column_names == ["key", "value"]


def test_columns_of_structs(tmp_path, look, build):
    data = build.map(types.u32, types.raw, [(1, b"\x05hi"), (2, b"")])
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u32, value: "struct(n: u8, s: text)"}}')
    table = open_table(look(data).structures[0], schema)
    export_parquet(table, tmp_path / "m.parquet")
    assert pq.read_table(tmp_path / "m.parquet").to_pylist() == [
        {"key": 1, "n": 5, "s": "hi"},
        {"key": 2, "n": None, "s": None},
    ]


# What occupies the memory


def test_spans_cover_the_memory(every_structure, look):
    inventory = look(every_structure)
    spans = occupancy(inventory)
    assert spans[0].start == 0
    assert spans[-1].end == len(every_structure)
    assert all(one.end == other.start for one, other in pairwise(spans))
    for structure in inventory.structures:
        mine = [span for span in spans if span.label == structure.label]
        assert sum(span.end - span.start for span in mine) == structure.allocated_bytes
        used = sum(span.end - span.start for span in mine if span.use == "used")
        assert used == structure.used_bytes


def test_cells_show_what_takes_most(every_structure, look):
    spans = occupancy(look(every_structure))
    drawn = cells(spans, len(every_structure) // WASM_PAGE_BYTES)
    assert drawn[0].use == "manager"
    assert {span.label for span in drawn} >= {"0", "1", "2", "5"}
    assert cells([], 10) == []
    assert len(cells(spans, 50_000)) == 50_000


def test_the_drawing_is_svg(every_structure, look):
    inventory = look(every_structure)
    drawing = to_svg(inventory, columns=16, rows=4)
    root = ElementTree.fromstring(drawing)
    squares = [found for found in root.iter() if found.tag.endswith("rect")]
    assert len(squares) == 1 + 16 * 4 + len(inventory.structures) + 1  # ground, map, legend with the manager
    assert re.search(r"2: log, [\d.]+ [KM]iB set aside", drawing)
    ElementTree.fromstring(to_svg(look(b"")))
