import pytest

from perdure.errors import MalformedError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.inspection.find import find_in_memory, name_structures
from perdure.inspection.infer import SURE, draft, guess
from perdure.inspection.rows import Bound, open_table
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.values.schema import MemorySchema, dump_schema, load_schema, parse_schema


@pytest.fixture
def tables(every_structure, schema_text, look):
    schema = parse_schema(schema_text)
    inventory = name_structures(look(every_structure), schema)
    return {structure.name: open_table(structure, schema) for structure in inventory.structures}


def rows(table, **options):
    return [table.decode(entry) for entry in table.entries(**options)]


def test_rows_of_every_kind(tables, people):
    assert rows(tables["balances"]) == people
    assert rows(tables["names"])[2] == (2, "name 2 éé")
    assert rows(tables["events"])[-1] == (299, "event 299")
    assert rows(tables["numbers"])[:2] == [(0,), (3,)]
    assert rows(tables["ids"])[3] == (3, b"\x00\x00\x00")
    assert rows(tables["settings"]) == [({"version": 3, "open": True},)]
    assert rows(tables["queue"])[0] == (0, 0)
    assert [table.columns for table in tables.values()] == [
        ("key", "value"), ("key", "value"), ("position", "value"), ("position", "value"), ("position", "value"),
        ("key",), ("value",),
    ]  # fmt: skip


def test_ranges_in_both_directions(tables):
    names, events = tables["names"], tables["events"]
    low, high = Bound(types.u64.encode(10)), Bound(types.u64.encode(13), is_inclusive=False)
    assert [row[0] for row in rows(names, low=low, high=high)] == [10, 11, 12]
    assert [row[0] for row in rows(names, low=low, high=high, reverse=True)] == [12, 11, 10]
    open_low = Bound(low.at, is_inclusive=False)
    assert [row[0] for row in rows(names, low=open_low, high=Bound(high.at))] == [11, 12, 13]
    assert [row[0] for row in rows(events, low=Bound(297, is_inclusive=False))] == [298, 299]
    assert [row[0] for row in rows(events, high=Bound(1), reverse=True)] == [1, 0]
    assert [value for _, value in names.entries(low, high, values=False)] == [b""] * 3


def test_get(tables, people):
    person, amount = people[17]
    assert tables["balances"].get(person.raw_bytes) == amount.to_bytes(8, "big")
    assert tables["balances"].get(b"nobody") is None
    assert tables["events"].get(3) == b"event 3"
    assert tables["events"].get(300) is None
    assert tables["settings"].get(0) is not None


def test_get_in_an_unknown_order(look, build):
    """Keys whose order is not that of their bytes are found although nobody said so."""
    data = build.map(types.principal, types.u64, [(Principal(bytes([9 - n] * n)), n) for n in range(1, 9)])
    table = open_table(look(data).structures[0])
    for size in range(1, 9):
        assert table.get(bytes([9 - size] * size)) == size.to_bytes(8, "big")


def test_what_does_not_decode_is_shown_as_bytes(look, build):
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u64, value: "struct(a: u8, b: u8)"}}')
    data = build.map(types.u64, types.raw, [(1, b"\x01\x02"), (2, b"\x01")])
    assert rows(open_table(look(data).structures[0], schema)) == [(1, 1, 2), (2, b"\x01", None)]


def test_keys_of_another_width_than_declared(look, build):
    schema = parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u32, value: raw}}')
    data = build.map(types.u64, types.raw, [(n, b"x") for n in range(30)])
    with pytest.raises(MalformedError, match="u32 of 4 bytes have 8 bytes"):
        open_table(look(data).structures[0], schema)


def test_what_has_no_rows(look):
    with pytest.raises(UnsupportedError, match="no entries"):
        open_table(look(b"something else").structures[0])


# Schema


def test_a_schema_round_trips(schema_text):
    schema = parse_schema(schema_text)
    again = parse_schema(dump_schema((memory, "a comment") for memory in schema.memories.values()))
    assert again == schema
    assert parse_schema(dump_schema([])).memories == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "YAML"),
        ("a: 1", "mapping `memories`"),
        ("memories: {x: {}}", "an id from 0 to 254"),
        ("memories: {255: {}}", "an id from 0 to 254"),
        ("memories: {0: 5}", "expected a mapping"),
        ("memories: {0: {colour: red}}", "unknown field 'colour'"),
        ("memories: {0: {kind: tree}}", "unknown kind"),
        ("memories: {0: {state: gone}}", "unknown state"),
        ("memories: {0: {name: 'a b'}}", "is no name"),
        ("memories: {0: {name: 5}}", "is no name"),
        ("memories: {0: {name: true}}", "is no name"),
        ("memories: {0: {name: " + "x" * 65 + "}}", "is no name"),
        ("memories: {0: {data: x}}", "the id of a memory"),
        ("memories: {0: {key: u7}}", "u7"),
        ("memories: {0: {name: a}, 1: {name: a}}", "two memories"),
    ],
)
def test_what_is_no_schema(text, message):
    with pytest.raises(MalformedError, match=message):
        parse_schema(text)


def test_a_schema_file_that_is_not_there(tmp_path):
    from perdure.errors import StorageError

    with pytest.raises(StorageError):
        load_schema(tmp_path / "none.yaml")
    with pytest.raises(StorageError, match="a schema is a file"):
        load_schema("/dev/zero")


# Inference


def test_a_draft_of_every_structure(every_structure, look):
    drafts = {found.memory.label: found for found in draft(look(every_structure))}
    said = {label: (found.memory.key, found.memory.value) for label, found in drafts.items()}
    assert said["1"] == ("u64", "text")
    assert said["2"] == (None, "text")
    assert said["4"] == (None, "u64")
    assert said["6"] == ("u32", None)
    assert said["7"] == (None, "json")
    assert drafts["2"].memory.data == 3
    assert drafts["1"].value[0].score > 0.9
    assert "sure" in drafts["1"].comment
    parse_schema(dump_schema((found.memory, found.comment) for found in drafts.values()))


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([b"plain text, quite long"], "text"),
        ([b'{"a": 1, "b": [2, 3]}'] * 3, "json"),
        ([bytes.fromhex("a2616101616263666f6f")] * 9, "cbor"),
        ([bytes.fromhex("05000000") + bytes.fromhex("a161618101") + bytes(40)] * 3, "length(cbor)"),
        ([bytes.fromhex("4449444c00017c2a")], "candid"),
        ([bytes([n]) * 28 + b"\x02" for n in range(5)], "principal"),
        ([bytes(6) + bytes([n, n]) + b"\x01\x01" for n in range(9)], "principal"),
        ([n.to_bytes(8, "big") for n in range(50)], "u64"),
        ([n.to_bytes(4, "little") for n in range(50)], "u32le"),
        ([b"\x00", b"\x01", b"\x00", b"\x00"], "bool"),
        ([b"", b""], "()"),
    ],
)
def test_guesses(samples, expected):
    best = guess(samples)[0]
    assert best.name == expected
    assert best.score >= SURE


def test_random_bytes_are_not_guessed():
    import random

    randomly = random.Random(3)
    for size in (7, 8, 16, 33, 100):
        found = guess([randomly.randbytes(size) for _ in range(40)])
        assert not found or found[0].score < SURE


def test_little_endian_keys_show_in_the_order_of_the_map():
    keys = sorted((n.to_bytes(8, "little") for n in range(0, 70_000, 37)), key=lambda key: key[::-1])
    assert guess(keys[:200], are_keys=True)[0].name == "u64le"


def test_a_live_memory_is_followed():
    memory = BytesMemory()
    mapping = StableBTreeMap.create(memory, types.u64, types.u64)
    mapping[1] = 10
    table = open_table(
        find_in_memory(memory).structures[0],
        parse_schema('memories: {"page:0": {name: m, kind: btreemap, key: u64, value: u64}}'),
    )
    mapping[2] = 20
    assert rows(table) == [(1, 10), (2, 20)]
    assert MemorySchema("page:0").state == "active"
