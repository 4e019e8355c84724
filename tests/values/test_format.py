"""Formats of one's own: an object passed in, wherever a format is asked for."""

from __future__ import annotations

import csv
import io
from typing import Annotated

import numpy as np
import pytest

from perdure.errors import MalformedError
from perdure.inspection.export import export_csv, export_parquet
from perdure.inspection.find import find_in_memory, name_structures
from perdure.inspection.fsck import fsck
from perdure.inspection.rows import open_table
from perdure.inspection.sql import connect
from perdure.memory import BytesMemory, ReadOnlyMemory
from perdure.stable import StableBTreeMap, types
from perdure.stable.columns import Column
from perdure.stable.kind import DOCUMENT, Kind, integer, kind_of
from perdure.values import (
    Format,
    MemorySchema,
    Schema,
    as_format,
    codec,
    dump_schema,
    load_schema,
    parse_schema,
    to_sql,
)
from perdure.values.annotations import Annotations


class Celsius(Format):
    """Tenths of a degree, little-endian, from -100."""

    name = "celsius"
    kind = Kind("float", 64)
    max_size = 2
    is_fixed = True
    is_ordered = True

    def order(self, data):
        return self.decode(data)

    def decode(self, data):
        if len(data) != 2:
            raise MalformedError(f"a celsius has 2 bytes, found {len(data)}")
        return (int.from_bytes(data, "little") - 1000) / 10

    def encode(self, value):
        return (round(value * 10) + 1000).to_bytes(2, "little")


DEGREES = [(-20.5, "cold"), (0.0, "freezing"), (36.6, "well"), (100.0, "boiling")]


@pytest.fixture
def memory():
    """A map from degrees to words, ordered by degrees."""
    found = BytesMemory()
    StableBTreeMap.create(found, Celsius(), types.text).update(DEGREES)
    return found


@pytest.fixture
def inventory(memory):
    return find_in_memory(ReadOnlyMemory(bytes(memory.data)))


BY_NAME = 'memories: {"page:0": {name: degrees, kind: btreemap, key: celsius, value: text}}'
BY_OBJECT = Schema({"page:0": MemorySchema("page:0", "degrees", "btreemap", Celsius(), types.text)})


def test_a_structure_takes_it(memory):
    assert list(StableBTreeMap.load(memory, Celsius(), types.text).items()) == DEGREES


@pytest.mark.parametrize("schema", [parse_schema(BY_NAME, formats=[Celsius()]), BY_OBJECT], ids=["name", "object"])
def test_the_schema_sql_exports_and_fsck_take_it(inventory, schema, tmp_path):
    inventory = name_structures(inventory, schema)
    table = open_table(inventory.structure("degrees"), schema)
    assert [table.decode(entry) for entry in table.entries()] == DEGREES
    rows = connect(inventory, schema).execute("select value from degrees where key > 0 order by key").fetchall()
    assert rows == [("well",), ("boiling",)]
    file = io.StringIO()
    export_csv(table, file)
    assert list(csv.reader(io.StringIO(file.getvalue())))[1] == ["-20.5", "cold"]
    assert export_parquet(table, tmp_path / "degrees.parquet") == 4
    assert fsck(inventory, schema, all_values=True).findings == ()


def test_fsck_uses_its_order(inventory):
    wrong = Schema({"page:0": MemorySchema("page:0", "degrees", "btreemap", types.FixedBytes(2), types.text)})
    assert [finding.code for finding in fsck(inventory, wrong).findings] == ["key-order"]


def test_a_file_may_name_it(tmp_path):
    path = tmp_path / "stable.yaml"
    path.write_text(BY_NAME)
    with pytest.raises(MalformedError, match="celsius"):
        load_schema(path)
    schema = load_schema(str(path), formats=[Celsius()])
    assert schema.format(schema.of("page:0").key) == Celsius()
    assert "celsius" in dump_schema([(BY_OBJECT.of("page:0"), "")])


def test_it_is_a_part_of_others():
    found = codec("struct(at: celsius, note: text)", {"celsius": Celsius()})
    data = found.encode({"at": 36.6, "note": "well"})
    assert found.decode(data) == {"at": 36.6, "note": "well"}
    assert found.order is not None


def test_a_python_canister_declares_it():
    annotations = Annotations({})
    assert annotations.storable(Annotated[float, "float64", Celsius()], is_key=True).name == "celsius"


def test_a_type_of_a_structure_is_a_format():
    found = as_format(types.Tuple(types.u16, types.principal))
    assert found.name == "(u16, Principal)"
    assert found.kind == Kind("tuple", parts=(integer(16), kind_of(types.principal)))
    assert found.is_ordered
    assert as_format(found) is found


@pytest.mark.parametrize(
    ("name", "collation"),
    [
        ("u64", "bytes"),
        ("i64", "signed"),
        ("u32le", "little"),
        ("i32le", "little-signed"),
        ("f64", "other"),
        ("principal", "size"),
        ("text", "bytes"),
        ("Reverse<i8>", "other"),
        ("Option<u8>", "other"),
        ("cbor", "bytes"),
    ],
)
def test_collations(name, collation):
    assert codec(name).collation == collation


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("u128", integer(128)),
        ("i16le", integer(16, is_signed=True)),
        ("f32le", Kind("float", 32)),
        ("Reverse<Blob<3>>", Kind("bytes")),
        ("Option<String>", Kind("option", parts=(Kind("text"),))),
        ("json", DOCUMENT),
        ("length(cbor)", DOCUMENT),
        ("struct(a: u8)", Kind("record", labels=("a",), parts=(integer(8),))),
    ],
)
def test_kinds(name, kind):
    assert codec(name).kind == kind


def test_no_format_is_told_by_its_name():
    """Whoever asks what a value is asks its kind."""
    from pathlib import Path

    import perdure

    source = Path(perdure.__file__).parent
    rooms = [
        *(source / "inspection").glob("*.py"),
        *(source / "stable").glob("*.py"),
        *(source / "cli" / "stable").glob("*.py"),
    ]
    told = [path.name for path in rooms if ".name[" in path.read_text() or ".name.lower()" in path.read_text()]
    assert told == []


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("u64", [0, 5, (1 << 63) - 1]),
        ("u64", [0, (1 << 64) - 1]),
        ("i64le", [-(1 << 63), 7]),
        ("u8", [1, 255]),
        ("f32", [0.5, float("inf")]),
        ("bool", [True, False]),
        ("text", ["", "é", "a" * 300]),
        ("raw", [b"", b"\xff"]),
        ("[u8; 2]", [b"ab", b"\0\0"]),
        ("u128", [1 << 100]),
        ("principal", []),
    ],
)
def test_columns_for_sqlite_are_what_single_values_are(name, values):
    found = codec(name)
    encoded = [found.encode(value) for value in values]
    ends = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    column = Column(types.raw, np.frombuffer(b"".join(encoded), np.uint8), ends, 0, len(encoded))
    whole = found.to_sql_column(column)
    expected = [to_sql(value) for value in values]
    assert whole in (None, expected)


def test_a_column_that_does_not_decode_is_left_to_single_values():
    column = Column(types.raw, np.frombuffer(b"\xff\x02\x03", np.uint8), np.array([0, 1, 3]), 0, 2)
    assert codec("text").to_sql_column(column) is None
    assert codec("u8").to_sql_column(column) is None
    assert codec("cbor").to_sql_column(column) is None
