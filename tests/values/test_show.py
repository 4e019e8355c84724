"""Values as text: of any depth, and the same whichever way they are written."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
from contextlib import closing

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.candid import Codec
from perdure.candid.types import Nat, Opt, Rec, Record
from perdure.ic.principal import ANONYMOUS
from perdure.inspection.export import export_csv, export_parquet, export_sqlite
from perdure.inspection.find import find_in_memory, name_structures
from perdure.inspection.rows import open_table
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.values import parse_schema, to_json, to_sql, to_text
from perdure.values.show import _deep_text, json_text

LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.just(ANONYMOUS)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(VALUES)
def test_every_way_of_writing_says_the_same(value):
    expected = json.dumps(to_json(value), ensure_ascii=False)
    assert json_text(value) == expected
    assert _deep_text(value) == expected


def deep(levels):
    """A chain of so many records."""
    chain = Rec("Chain")
    chain.define(Opt(Record.of({"head": Nat, "tail": chain})))
    value = None
    for number in range(levels):
        value = {"head": number, "tail": value}
    return Codec([chain]).encode([value])


@pytest.fixture
def table():
    """A map with one value 10,000 levels deep."""
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u32, types.raw)[1] = deep(10_000)
    schema = parse_schema('memories: {"page:0": {name: deep, kind: btreemap, key: u32, value: candid}}')
    (structure,) = name_structures(find_in_memory(memory), schema).structures
    return open_table(structure, schema)


def test_values_nested_ten_thousand_deep(table, tmp_path):
    (value,) = [table.decode(entry)[1] for entry in table.entries()]
    text = to_text(value)
    assert to_sql(value) == text
    assert text.count("{") == 10_000
    file = io.StringIO()
    assert export_csv(table, file) == 1
    csv.field_size_limit(1 << 24)
    assert list(csv.reader(io.StringIO(file.getvalue())))[1] == ["1", text]
    assert export_sqlite([table], tmp_path / "deep.db") == {"deep": 1}
    with closing(sqlite3.connect(tmp_path / "deep.db")) as connection:
        assert connection.execute("select value from deep").fetchall() == [(text,)]
    assert export_parquet(table, tmp_path / "deep.parquet") == 1
    assert len(pq.read_table(tmp_path / "deep.parquet")) == 1
