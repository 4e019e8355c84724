"""Candid messages in stable memory: heads, names of fields, kinds."""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing

import pyarrow.parquet as pq
import pytest
import wasmtime

from perdure import Subnet
from perdure.candid import Codec, parse_type
from perdure.candid.types import Opt, Rec, Record, Variant
from perdure.errors import MalformedError
from perdure.ic.principal import ANONYMOUS
from perdure.inspection.export import export_parquet, export_sqlite
from perdure.inspection.find import find, find_in_memory, name_structures
from perdure.inspection.labels import ModuleLabels, labels_of
from perdure.inspection.open import open_source, with_module
from perdure.inspection.rows import open_table
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.stable.kind import DOCUMENT, PRINCIPAL, TEXT, UNIT, Kind, integer, option
from perdure.values import codec, parse_schema
from perdure.values.candid import SelfDescribing, kind_of_type, merged

USER = """record {
    name : text; age : nat32; owner : principal; tags : vec text;
    state : variant { on; off : nat }; more : opt record { nat8; text }
}"""
INTERFACE = f"""
    type User = {USER};
    type Error = variant {{ NotFound; Denied : record {{ why : text }} }};
    service : {{ get : (nat64) -> (opt User) query; put : (User) -> (variant {{ Ok; Err : Error }}) }}
"""
SCHEMA = parse_schema('memories: {"page:0": {name: users, kind: btreemap, key: u64, value: candid}}')


def user(number: int) -> dict:
    """A value of that type."""
    return {
        "name": f"user {number}",
        "age": number,
        "owner": ANONYMOUS,
        "tags": ["a", "b"][: number % 3],
        "state": {"on": None} if number % 2 else {"off": 1 << 70},
        "more": None if number % 4 else (number % 256, "é"),
    }


def message(type_text: str, value: object) -> bytes:
    """The value as a message."""
    return Codec([parse_type(type_text)]).encode([value])


def memory_of(values: list[bytes]) -> BytesMemory:
    """A map of positions to values."""
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.raw).bulk_load(enumerate(values))
    return memory


def module(interface: str) -> bytes:
    """A module with nothing but an interface."""
    name, text = b"icp:public candid:service", interface.encode()
    body = bytes([len(name)]) + name + text
    size = len(body)
    assert size < 1 << 14
    return b"\0asm\1\0\0\0" + b"\0" + bytes([size & 127 | 128, size >> 7]) + body


@pytest.fixture
def snapshot(tmp_path):
    """A snapshot's directory: users, and the module that knows their fields."""
    memory = memory_of([message(USER, user(number)) for number in range(20)])
    (tmp_path / "stable_memory.bin").write_bytes(memory.data)
    (tmp_path / "wasm_module.bin").write_bytes(module(INTERFACE))
    return tmp_path


def test_fields_are_named_by_the_module_beside_a_snapshot(snapshot):
    with open_source(str(snapshot)) as source:
        (structure,) = find(source).structures
        table = open_table(structure, SCHEMA)
        assert [table.decode(entry)[1] for entry in table.entries()] == [user(number) for number in range(20)]


def test_without_a_module_they_have_numbers(snapshot):
    (snapshot / "wasm_module.bin").unlink()
    with open_source(str(snapshot)) as source:
        table = open_table(find(source).structures[0], SCHEMA)
        _, value = table.decode(next(iter(table.entries())))
        assert "_1224700491_" in value  # name


@pytest.mark.parametrize("damage", [b"", b"\0asm", b"nonsense", module("service : {")])
def test_a_module_that_tells_nothing(snapshot, damage):
    (snapshot / "wasm_module.bin").write_bytes(damage)
    with open_source(str(snapshot)) as source:
        assert len(source.labels) == 0
        table = open_table(find(source).structures[0], SCHEMA)
        assert len(list(table.entries())) == 20


def exporting(interface: str, section: bytes = b"") -> bytes:
    """A module that says its interface by a function, as those of the Rust CDK do."""
    text = "".join(f"\\{byte:02x}" for byte in interface.encode())
    body = f'(memory 1) (data (i32.const 8) "{text}\\00")'
    wat = f'(module {body} (func (export "get_candid_pointer") (result i32) (i32.const 8)))'
    return bytes(wasmtime.wat2wasm(wat)) + section


@pytest.mark.parametrize("section", ["", "service : {"], ids=["no section", "one that cannot be read"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_fields_are_named_by_the_function_of_a_module_beside_a_snapshot(snapshot, section, packed):
    more = module(section)[8:] if section else b""
    (snapshot / "wasm_module.bin").write_bytes(packed(exporting(INTERFACE, more)))
    with open_source(str(snapshot)) as source:
        table = open_table(find(source).structures[0], SCHEMA)
        assert table.decode(next(iter(table.entries())))[1] == user(0)


def test_fields_are_named_by_what_was_given_at_the_installation(tmp_path):
    memory = memory_of([message(USER, user(0))])
    with Subnet(tmp_path / "state") as subnet:
        canister = subnet.install(bytes(wasmtime.wat2wasm("(module)")), candid=INTERFACE)
        canister.stable.grow(len(memory.data) >> 16)
        canister.stable.write(0, memory.data)
    with open_source(f"{tmp_path / 'state'}:{canister.id}") as source:
        table = open_table(find(source).structures[0], SCHEMA)
        assert table.decode(next(iter(table.entries())))[1] == user(0)


@pytest.mark.parametrize("name", ["m.did", "m.wasm"])
def test_fields_of_a_dump_are_named_by_a_file_that_is_named_or_beside_it(tmp_path, name):
    (tmp_path / "dump.bin").write_bytes(memory_of([message(USER, user(0))]).data)
    (tmp_path / "m.wasm").write_bytes(bytes(wasmtime.wat2wasm("(module)")))
    (tmp_path / "m.did").write_text(INTERFACE)
    with open_source(str(tmp_path / "dump.bin")) as source:
        with_module(source, tmp_path / name)
        table = open_table(find(source).structures[0], SCHEMA)
        assert table.decode(next(iter(table.entries())))[1] == user(0)


def test_labels():
    found = labels_of(INTERFACE)
    assert {"name", "age", "off", "NotFound", "why", "Err"} <= set(found.values())
    labels = ModuleLabels(lambda: module("type A = record { x : A }; service : { f : (A) -> () }"))
    assert dict(labels) == {120: "x"}


def test_parquet_has_nested_columns(snapshot):
    with open_source(str(snapshot)) as source:
        table = open_table(name_structures(find(source), SCHEMA).structures[0], SCHEMA)
        assert export_parquet(table, snapshot / "users.parquet") == 20
    rows = pq.read_table(snapshot / "users.parquet").to_pylist()
    assert rows[4] == {
        "key": 4,
        "value": {
            "name": "user 4",
            "age": 4,
            "owner": "2vxsx-fae",
            "tags": ["a"],
            "state": {"on": None, "off": str(1 << 70)},
            "more": {"0": 4, "1": "é"},
        },
    }
    assert rows[5]["value"]["state"] == {"on": True, "off": None}
    assert rows[5]["value"]["more"] is None


def test_sqlite_has_json_with_names(snapshot):
    with open_source(str(snapshot)) as source:
        table = open_table(name_structures(find(source), SCHEMA).structures[0], SCHEMA)
        assert export_sqlite([table], snapshot / "users.db") == {"users": 20}
    with closing(sqlite3.connect(snapshot / "users.db")) as connection:
        assert connection.execute("select value ->> '$.name' from users where key = 7").fetchall() == [("user 7",)]
        found = connection.execute("select value from users where key = 4").fetchone()[0]
    assert json.loads(found) == {**user(4), "owner": "2vxsx-fae", "more": [4, "é"]}


def test_types_of_several_versions_become_one(tmp_path):
    old = message("record { name : text }", {"name": "old"})
    new = message("record { name : text; age : nat8 }", {"name": "new", "age": 3})
    inventory = find_in_memory(memory_of([old, new, old]))
    table = open_table(inventory.structures[0], SCHEMA)
    export_parquet(table, tmp_path / "both.parquet")
    labels = {f"_{number}_": name for number, name in labels_of("type A = record { name : text; age : nat8 };").items()}
    rows = pq.read_table(tmp_path / "both.parquet").to_pylist()
    named = [{labels[key]: value for key, value in row["value"].items()} for row in rows]
    assert named == [{"name": "old", "age": None}, {"name": "new", "age": 3}, {"name": "old", "age": None}]


def test_values_that_share_nothing_are_json(tmp_path):
    values = [message("nat8", 5), message("text", "five"), b"no message"]
    table = open_table(find_in_memory(memory_of(values)).structures[0], SCHEMA)
    export_parquet(table, tmp_path / "mixed.parquet")
    assert pq.read_table(tmp_path / "mixed.parquet").column("value").to_pylist() == ["5", "five", b"no message".hex()]


def test_a_declared_type_writes_as_well():
    found = codec("candid(record { name : text; age : opt nat8 })")
    data = found.encode({"name": "Ann", "age": None})
    assert found.decode(data) == {"name": "Ann", "age": None}
    assert found.decode(message("record { name : text }", {"name": "old"})) == {"name": "old", "age": None}
    assert codec(found.name) == found
    with pytest.raises(ValueError, match="candid"):
        codec("candid(record { name: String })")
    with pytest.raises(ValueError, match="read here"):
        codec("candid").encode(5)


def test_labels_reach_into_recursive_types():
    chain = Rec("Chain")
    chain.define(Opt(Record.of({"head": parse_type("nat"), "tail": chain})))
    data = Codec([chain]).encode([{"head": 1, "tail": {"head": 2, "tail": None}}])
    labels = labels_of("type A = record { head : nat; tail : nat };")
    assert SelfDescribing(labels).decode(data) == {"head": 1, "tail": {"head": 2, "tail": None}}


def test_more_heads_than_are_remembered():
    labels = {number: f"field {number}" for number in range(100)}
    found = SelfDescribing(labels)
    for _ in range(2):
        for number in range(20):
            data = Codec([Record.of({number + 5: parse_type("nat8")})]).encode([{f"_{number + 5}_": number}])
            assert found.decode(data) == {f"field {number + 5}": number}


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("nat", integer(0)),
        ("opt text", option(TEXT)),
        ("opt opt text", DOCUMENT),
        ("vec nat8", Kind("bytes")),
        ("vec int8", Kind("list", parts=(integer(8, is_signed=True),))),
        ("record {}", DOCUMENT),
        ("record { nat8; null }", Kind("tuple", parts=(integer(8), UNIT))),
        ("service {}", PRINCIPAL),
        ("func () -> ()", DOCUMENT),
    ],
)
def test_kinds_of_types(text, kind):
    assert kind_of_type(parse_type(text)) == kind


def test_a_recursive_type_ends_in_documents():
    tree = Rec("Tree")
    tree.define(Variant.of({"leaf": parse_type("nat8"), "pair": Record.tuple_of(tree, tree)}))
    found = kind_of_type(tree)
    assert found.labels == ("leaf", "pair")
    assert found.parts[1] == Kind("tuple", parts=(DOCUMENT, DOCUMENT))


def test_a_small_type_of_many_parts_is_bounded():
    found = parse_type("nat8")
    for _ in range(40):
        found = Record.tuple_of(found, found)
    assert kind_of_type(found).name == "tuple"


def test_merged_kinds():
    record = Kind("record", labels=("a",), parts=(integer(8),))
    wider = Kind("record", labels=("b",), parts=(TEXT,))
    assert merged(record, wider) == Kind("record", labels=("a", "b"), parts=(integer(8), TEXT))
    assert merged(UNIT, TEXT) == option(TEXT)
    assert merged(option(TEXT), TEXT) == option(TEXT)
    assert merged(option(TEXT), UNIT) == option(TEXT)
    assert merged(TEXT, integer(8)) == DOCUMENT
    assert merged(Kind("list", parts=(TEXT,)), Kind("list", parts=(UNIT,))) == Kind("list", parts=(option(TEXT),))


def test_what_is_no_message():
    with pytest.raises(MalformedError):
        codec("candid").decode(b"DIDL")
