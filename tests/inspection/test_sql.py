"""Structures as SQL tables must answer as plain SQLite tables of the same rows do."""

import sqlite3

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import reading_sql
from perdure.errors import HostError, MalformedError
from perdure.inspection.find import find_in_memory, name_structures
from perdure.inspection.sql import connect
from perdure.memory import BytesMemory
from perdure.reading_sql import Limits, limit
from perdure.stable import StableBTreeMap, types
from perdure.values.codec import codec
from perdure.values.schema import parse_schema
from perdure.values.show import to_sql


@pytest.fixture(scope="module")
def connection(every_structure, schema_text, look):
    schema = parse_schema(schema_text)
    return connect(name_structures(look(every_structure), schema), schema)


def ask(connection, sql, *arguments):
    return list(connection.execute(sql, arguments))


def test_every_structure_is_a_table(connection):
    assert ask(connection, "select count(*) from balances") == [(300,)]
    assert ask(connection, "select value from events where position = 7") == [("event 7",)]
    assert ask(connection, "select position from events where position > 297 order by position desc") == [
        (299,),
        (298,),
    ]
    assert ask(connection, "select value ->> '$.version' from settings") == [(3,)]
    assert ask(connection, "select count(*) from numbers where key between 3 and 9") == [(3,)]
    assert ask(connection, "select min(value) from queue") == [(0,)]


def test_principals_are_text(connection, people):
    person, amount = people[100]
    assert ask(connection, "select value from balances where key = ?", str(person)) == [(amount,)]
    assert ask(connection, "select * from balances where key = 'nobody'") == []
    first = min(str(found) for found, _ in people)
    assert ask(connection, "select key from balances order by key limit 1") == [(first,)]


def test_the_bytes_themselves(connection):
    assert ask(connection, "select _key, _value from names where key = 5") == [
        ((5).to_bytes(8, "big"), "name 5 ééééé".encode())
    ]
    assert ask(connection, "select value from names where _key = ?", (5).to_bytes(8, "big")) == [("name 5 ééééé",)]


def test_joins_and_subqueries(connection):
    sql = "select n.key, e.value from names n join events e on e.position = n.key where n.key in (3, 4, 900)"
    assert ask(connection, sql) == [(3, "event 3"), (4, "event 4")]


def test_tables_are_read_only(connection):
    with pytest.raises(apsw.Error):
        ask(connection, "delete from balances")


def plan_of(connection, sql, *arguments):
    return " ".join(row[3] for row in ask(connection, f"explain query plan {sql}", *arguments))


def test_keys_are_handed_down(connection):
    assert "INDEX 1:0=" in plan_of(connection, "select value from names where key = 1")
    assert "0>=,0<=" in plan_of(connection, "select key from names where key between 1 and 5")
    assert "ORDER BY" not in plan_of(connection, "select key from names order by key desc")
    assert "ORDER BY" in plan_of(connection, "select key from balances order by key")
    assert "ORDER BY" in plan_of(connection, "select key from names order by value")


KEYS = {
    "u8": st.integers(0, 255),
    "u64": st.integers(0, (1 << 64) - 1) | st.integers(0, 20),
    "u128": st.integers(0, (1 << 128) - 1) | st.integers(0, 20),
    "i64": st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-20, 20),
    "text": st.text("abcé\x00", max_size=4),
    "bytes": st.binary(max_size=3),
    "[u8; 2]": st.binary(min_size=2, max_size=2),
    "Blob<3>": st.binary(max_size=3),
    "bool": st.booleans(),
}
OPERATORS = ("=", "<", "<=", ">", ">=", "is", "!=")
OPERANDS = st.one_of(
    st.none(),
    st.integers(-300, 300),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.floats(allow_nan=False),
    st.sampled_from([0.5, 5.0, -0.0, 1e300, 9.223372036854775807e18]),
    st.text("abcé019", max_size=3),
    st.binary(max_size=3),
)


@given(st.sampled_from(sorted(KEYS)), st.data())
@settings(max_examples=150, deadline=None)
def test_conditions_answer_as_plain_sqlite_does(name, data):
    keys = data.draw(st.lists(KEYS[name], unique=True, max_size=40))
    memory = BytesMemory()
    storable = types.parse({"text": "String", "bytes": "Vec<u8>"}.get(name, name))
    StableBTreeMap.create(memory, storable, types.u32).update((key, index) for index, key in enumerate(keys))
    schema = parse_schema(f'memories: {{"page:0": {{name: t, kind: btreemap, key: "{name}", value: u32}}}}')
    structures = connect(name_structures(find_in_memory(memory), schema), schema)
    affinity = {"u8": "integer", "i64": "integer", "bool": "integer", "text": "text"}.get(name, "")
    plain = sqlite3.connect(":memory:")
    plain.execute(f"create table t (key {affinity}, value integer)")
    plain.executemany("insert into t values (?, ?)", [(to_sql(key), index) for index, key in enumerate(keys)])

    one, other = data.draw(OPERANDS), data.draw(OPERANDS | KEYS[name].map(to_sql))
    conditions = [f"key {data.draw(st.sampled_from(OPERATORS))} ?", f"key {data.draw(st.sampled_from(OPERATORS))} ?"]
    glue = data.draw(st.sampled_from([" and ", " or "]))
    order = data.draw(st.sampled_from(["key", "key desc", "value"]))
    sql = f"select key, value from t where {glue.join(conditions)} order by {order}"
    assert ask(structures, sql, one, other) == plain.execute(sql, (one, other)).fetchall()
    plain.close()


PARTS = "struct(a: u8, b: u16, c: text)"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.text("ab", max_size=2)), unique=True), st.data())
@settings(max_examples=60, deadline=None)
def test_leading_parts_of_a_key_answer_as_plain_sqlite_does(keys, data):
    memory = BytesMemory()
    found = codec(PARTS)
    encoded = [(found.encode(dict(zip("abc", key, strict=True))), index) for index, key in enumerate(keys)]
    StableBTreeMap.create(memory, types.raw, types.u32).update(encoded)
    schema = parse_schema(f'memories: {{"page:0": {{name: t, kind: btreemap, key: "{PARTS}", value: u32}}}}')
    structures = connect(name_structures(find_in_memory(memory), schema), schema)
    plain = sqlite3.connect(":memory:")
    plain.execute("create table t (key_a integer, key_b integer, key_c text, value integer)")
    plain.executemany("insert into t values (?, ?, ?, ?)", [(*key, index) for index, key in enumerate(keys)])
    conditions, arguments = [], []
    for column in data.draw(st.lists(st.sampled_from(["key_a", "key_b", "key_c"]), max_size=3)):
        conditions.append(f"{column} {data.draw(st.sampled_from(OPERATORS))} ?")
        arguments.append(data.draw(st.text("ab", max_size=2) if column == "key_c" else st.integers(-1, 300)))
    order = data.draw(st.sampled_from(["key_a, key_b, key_c", "key_a desc, key_b desc, key_c desc", "value"]))
    sql = f"select * from t where {' and '.join(conditions) or 'true'} order by {order}"
    assert ask(structures, sql, *arguments) == plain.execute(sql, arguments).fetchall()
    plain.close()


def test_undeclared_keys_are_blobs(look, build):
    data = build.map(types.u32, types.text, [(n, f"n{n}") for n in range(50)])
    connection = connect(look(data))
    assert ask(connection, "select value from memory_page_0 where key = x'00000007'") == [(b"n7",)]
    assert ask(connection, "select count(*) from memory_page_0 where key > x'00000007'") == [(42,)]


def test_damage_is_told(look, build):
    data = bytearray(build.map(types.u64, types.u64, [(n, n) for n in range(100)]))
    root = int.from_bytes(data[12:20], "little")
    schema = parse_schema('memories: {"page:0": {name: t, kind: btreemap, key: u64, value: u64}}')
    connection = connect(name_structures(look(bytes(data)), schema), schema)
    child = int.from_bytes(data[root + 15 : root + 23], "little")
    data[child] = 0
    damaged = connect(name_structures(look(bytes(data)), schema), schema)
    assert ask(connection, "select sum(value) from t") == [(4950,)]
    with pytest.raises(MalformedError, match="bad magic"):
        ask(damaged, "select sum(value) from t")


def test_names_in_sql_are_quoted():
    from perdure.inspection.sql import quoted

    assert quoted('a" b); --') == '"a"" b); --"'


def limited(**changes):
    connection = apsw.Connection(":memory:")
    limit(connection, Limits(**changes))
    return connection


VALUES = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text("ab0.é\U0001f600 \0", max_size=9),
    st.text("ab0.é ", max_size=6).map(str.encode),
)


@given(VALUES, VALUES, VALUES)
def test_functions_that_take_linear_time_give_what_sqlites_own_give(one, two, three):
    plain, ours = apsw.Connection(":memory:"), limited()
    sql = (
        "select ?1, instr(?1, ?2), replace(?1, ?2, ?3), trim(?1, ?2), ltrim(?1, ?2), rtrim(?1, ?2), typeof(?1),"
        " typeof(instr(?1, ?2)), typeof(replace(?1, ?2, ?3)), typeof(trim(?1, ?2))"
    )
    assert ours.execute(sql, (one, two, three)).fetchall() == plain.execute(sql, (one, two, three)).fetchall()


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select instr(a, b || '1')", 0),
        ("select length(replace(a, b || '1', ''))", 12_000_000),
        ("select length(trim(a || 'x', (select group_concat(char(value), '') from json_each(c)) || '0'))", 1),
    ],
)
def test_no_step_takes_the_product_of_two_lengths(sql, expected):
    """SQLite's own take hours, in one step, which neither a limit of time nor Ctrl-C ends."""
    long = "(select hex(zeroblob(6000000)) a, hex(zeroblob(3000000)) b, (select json_group_array(x + 256) from many) c)"
    many = "with recursive many(x) as (select 1 union all select x + 1 from many limit 40000) "
    assert ask(limited(), f"{many}{sql} from {long}") == [(expected,)]


def test_steps_that_take_long_are_looked_at_one_by_one(monkeypatch):
    """A thousand steps, each of which makes a blob of 64 MB, are minutes."""
    connection, now, made = limited(seconds=60), [0.0], []

    def make():
        made.append(1)
        now[0] += 0.5
        return 1

    connection.create_scalar_function("make", make, 0)
    monkeypatch.setattr(reading_sql.time, "monotonic", lambda: now[0])
    with pytest.raises(HostError, match="the limit of one statement"):
        ask(connection, "with recursive c(x) as (select 1 union all select x + 1 from c) select sum(make()) from c")
    assert 120 <= len(made) <= 240
