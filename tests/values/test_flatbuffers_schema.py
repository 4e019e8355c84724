"""Flatbuffers by a binary schema, against what flatc makes and prints; what is no schema, and no buffer of it."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.cli import perdure
from perdure.errors import MalformedError
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.values import codec
from perdure.values.flatbuffers_schema import FlatbuffersBySchema

HERE = Path(__file__).parent / "flatbuffers"
SCHEMA = HERE / "everything.bfbs"
USER = FlatbuffersBySchema(str(SCHEMA))
FULL, EMPTY = ((HERE / f"{name}.bin").read_bytes() for name in ("full", "empty"))


def printed(value):
    """A value as flatc prints it: nothing of what is not there, bytes as numbers, no flags as 0."""
    if isinstance(value, dict):
        return {name: printed(one) for name, one in value.items() if one is not None or name == "level"}
    if isinstance(value, list):
        return [printed(one) for one in value]
    return list(value) if isinstance(value, bytes) else 0 if value == "0" else value


@pytest.mark.parametrize("name", ["full", "empty"])
def test_values_are_those_that_flatc_prints(name):
    data = (HERE / f"{name}.bin").read_bytes()
    found = USER.decode(data)
    assert printed(found) == json.loads((HERE / f"{name}.json").read_text())
    assert list(found) == list(USER.fields)
    assert {label: USER.field(data, label) for label in USER.fields} == found
    assert "old" not in found  # it is deprecated


def test_one_field_without_the_others():
    broken = FULL.replace("Adä".encode(), b"\xff\xff\xff\xff")
    assert USER.field(broken, "score") == -1.25
    with pytest.raises(MalformedError, match="no UTF-8"):
        USER.decode(broken)


def test_tables_by_name():
    weapon = codec(f"flatbuffers({SCHEMA}, game.Weapon)")
    assert weapon.fields == ("name", "damage")
    assert codec(f"flatbuffers({SCHEMA})").name == f"flatbuffers({SCHEMA}, game.User)"
    for name in ("game.Point", "Weapon", "x"):  # a struct is no table
        with pytest.raises(ValueError, match=r"there are game\.Shield, game\.User, game\.Weapon"):
            codec(f"flatbuffers({SCHEMA}, {name})")


def test_it_is_read_alone():
    with pytest.raises(ValueError, match="declare the parts instead"):
        USER.encode({"id": 1})


def test_columns_of_a_snapshot(tmp_path):
    memory = BytesMemory()
    users = StableBTreeMap.create(memory, types.u64, types.raw)
    users.insert(1, FULL)
    users.insert(2, EMPTY)
    (tmp_path / "dump.bin").write_bytes(memory.data)
    value = f"'flatbuffers({SCHEMA})'"
    (tmp_path / "stable.yaml").write_text(
        f"memories: {{'page:0': {{name: users, kind: btreemap, key: u64, value: {value}}}}}"
    )
    sql = "select key, name, score, colour, json_extract(weapons, '$[1].name') as bow from users order by key"
    done = CliRunner().invoke(
        perdure,
        ["stable", "query", str(tmp_path / "dump.bin"), sql, "--json", "--schema", str(tmp_path / "stable.yaml")],
    )
    assert json.loads(done.output) == [
        {"key": 1, "name": "Adä", "score": -1.25, "colour": "Green", "bow": "bow"},
        {"key": 2, "name": "b", "score": 0.5, "colour": "Blue", "bow": None},
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected b'BFBS'"),
        (b"\4\0\0\0BFBX", "expected b'BFBS'"),
        (b"\xff\xff\xff\xffBFBS", "past the end"),
        (SCHEMA.read_bytes()[:600], r"past the end|left"),
    ],
)
def test_what_is_no_schema(tmp_path, data, message):
    (tmp_path / "x.bfbs").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        codec(f"flatbuffers({tmp_path / 'x.bfbs'})")
    with pytest.raises(ValueError, match="no binary schema in"):
        codec(f"flatbuffers({tmp_path / 'y.bfbs'})")


def mutated(data, buffer: bytearray) -> bytes:
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(buffer) - 4))
        struct.pack_into("<I", buffer, at, data.draw(st.sampled_from([0, 1, 4, 8, 0x7FFFFFFF, 0xFFFFFFFF, at])))
    return bytes(buffer[: data.draw(st.integers(len(buffer) // 2, len(buffer)))])


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_changed_buffer_is_read_or_refused(data):
    buffer = mutated(data, bytearray(FULL))
    for label in ("name", "items", "friend", None):
        try:
            USER.decode(buffer) if label is None else USER.field(buffer, label)
        except MalformedError:
            continue


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_changed_schema_is_read_or_refused(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "changed.bfbs"
    changed = bytearray(mutated(data, bytearray(SCHEMA.read_bytes())))
    changed[4:8] = b"BFBS"
    path.write_bytes(changed)
    try:
        found = codec(f"flatbuffers({path}, game.User)")
    except ValueError:
        return
    try:
        found.decode(FULL)
    except MalformedError:
        return


def test_parts_that_are_shared_do_not_make_much_of_little():
    """Each level is a vector of 100 offsets to the next one: 100 to the power of the levels."""
    # User with `friend` alone is a chain; weapons are leaves. A vector of weapons whose elements all share one name.
    name = b"n" * 4_000
    count = 5_000
    vtable = struct.pack("<HHH", 6, 8, 4)
    at = 4
    weapons_vtable = at
    users_vtable_at = weapons_vtable + 6
    slots = [0] * 14
    slots[13] = 4  # weapons, by its number in the schema
    user_vtable = struct.pack("<HH14H", 32, 8, *slots)
    user = -(-(users_vtable_at + 32) // 4) * 4
    vector = user + 8
    weapon = vector + 4 + 4 * count
    text = weapon + 8
    out = bytearray(text + 4 + len(name))
    struct.pack_into("<I", out, 0, user)
    out[weapons_vtable : weapons_vtable + 6] = vtable
    out[users_vtable_at : users_vtable_at + 32] = user_vtable
    struct.pack_into("<iI", out, user, user - users_vtable_at, vector - (user + 4))
    struct.pack_into("<I", out, vector, count)
    for one in range(count):
        place = vector + 4 + 4 * one
        struct.pack_into("<I", out, place, weapon - place)
    struct.pack_into("<iI", out, weapon, weapon - weapons_vtable, text - (weapon + 4))
    struct.pack_into("<I", out, text, len(name))
    out[text + 4 :] = name
    with pytest.raises(MalformedError, match="shares its parts more than 16 times"):
        USER.decode(bytes(out))
