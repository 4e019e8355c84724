"""Candid messages read in step are what they are one by one: as Arrow, as JSON, and where they are no messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.candid import Codec, parse_type
from perdure.candid.types import (
    Bool,
    Float32,
    Float64,
    Int,
    Int8,
    Int64,
    Nat,
    Nat8,
    Nat16,
    Nat64,
    Null,
    Opt,
    PrincipalType,
    Record,
    Text,
    Variant,
    Vec,
)
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.stable import types
from perdure.stable.columns import Column
from perdure.values.arrow import to_array
from perdure.values.candid import SelfDescribing
from perdure.values.candid_columns import NotColumnarError, principal_texts, read_messages
from perdure.values.format import decode_as
from perdure.values.show import to_sql

PRIMITIVES = {
    Bool: st.booleans(),
    Nat: st.integers(0, (1 << 63) - 1),
    Int: st.integers(-(1 << 62), (1 << 62) - 1),
    Nat8: st.integers(0, 255),
    Nat16: st.integers(0, 65_535),
    Nat64: st.integers(0, (1 << 64) - 1),
    Int8: st.integers(-128, 127),
    Int64: st.integers(-(1 << 63), (1 << 63) - 1),
    Float32: st.floats(width=32),
    Float64: st.floats(),
    Text: st.text(max_size=150),
    PrincipalType: st.binary(max_size=MAX_PRINCIPAL_BYTES).map(Principal),
    Null: st.none(),
}


def composed(inner):
    """Types made of `inner`, each with a strategy for its values."""

    def option(pair):
        # An option of what may be null is a document, which is not read in step.
        return (Opt(pair[0]), st.none() | pair[1])

    def record(pairs):
        labels = {f"f{index}": pair for index, pair in enumerate(pairs)}
        of = Record.of({label: pair[0] for label, pair in labels.items()})
        return (of, st.fixed_dictionaries({label: pair[1] for label, pair in labels.items()}))

    def pair_of(pairs):
        return (Record.tuple_of(*(pair[0] for pair in pairs)), st.tuples(*(pair[1] for pair in pairs)))

    def variant(pairs):
        labels = {f"v{index}": pair for index, pair in enumerate(pairs)}
        of = Variant.of({label: pair[0] for label, pair in labels.items()})
        return (of, st.one_of([st.fixed_dictionaries({label: pair[1]}) for label, pair in labels.items()]))

    some = st.lists(inner, min_size=1, max_size=3)
    return (
        inner.filter(lambda pair: not isinstance(pair[0], Opt) and pair[0] is not Null).map(option)
        | inner.map(
            lambda pair: (Vec(pair[0]), st.binary(max_size=5) if pair[0] is Nat8 else st.lists(pair[1], max_size=4))
        )
        | some.map(record)
        | some.map(pair_of)
        | some.map(variant)
    )


TYPES = st.recursive(st.sampled_from(list(PRIMITIVES.items())), composed, max_leaves=8)


def column_of(messages):
    """Messages as a column."""
    ends = np.cumsum([0, *map(len, messages)]).astype(np.int64)
    return Column(types.raw, np.frombuffer(b"".join(messages), np.uint8), ends, 0, len(messages))


def one_by_one(found, messages):
    """What the rows are without columns."""
    return [decode_as(found, message) for message in messages]


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_in_step_is_one_by_one(data):
    type_, values = data.draw(TYPES)
    codec = Codec([type_])
    messages = [codec.encode([data.draw(values)]) for _ in range(data.draw(st.integers(1, 6)))]
    labels = {field.id: field.label for field in getattr(type_, "fields", ()) if field.name}
    found = SelfDescribing(labels).fitted(messages)
    rows = one_by_one(found, messages)
    array = found.to_arrow(column_of(messages))
    if array is not None:
        expected = to_array(found.kind, rows)
        assert array.type == expected.type
        array.validate(full=True)
        assert str(array.to_pylist()) == str(expected.to_pylist())  # as text: no number is itself
    assert found.to_sql_column(column_of(messages)) == [to_sql(value) for value in rows]


USER = parse_type("record { name : text; tags : vec text; owner : principal; state : variant { on; off : nat } }")
OTHER = parse_type("record { name : text }")


def message(type_, value):
    """One value as a message."""
    return Codec([type_]).encode([value])


def users(count):
    """Messages with one head."""
    return [
        message(
            USER,
            {
                "name": f"user {n}",
                "tags": ["tag"] * (n % 4),
                "owner": Principal(bytes([n % 256] * (n % 30))),
                "state": {"off": n} if n % 3 else {"on": None},
            },
        )
        for n in range(count)
    ]


def test_a_record_is_read_in_step():
    messages = users(300)
    found = SelfDescribing().fitted(messages)
    head = found._head(messages[0])
    array = head.read_in_step(column_of(messages), np.arange(300))
    assert array.to_pylist() == to_array(found.kind, one_by_one(found, messages)).to_pylist()


@pytest.mark.parametrize("damage", ["short", "long", "utf8", "tag", "other"])
def test_one_damaged_message_among_many(damage):
    messages = users(50)
    broken = {
        "short": messages[7][:-1],
        "long": messages[7] + b"\0",
        "utf8": messages[7].replace(b"user", b"us\xffr"),
        "tag": messages[9][:-1] + b"\x7f",
        "other": b"no message",
    }[damage]
    messages[7] = broken
    found = SelfDescribing().fitted(messages)
    rows = one_by_one(found, messages)
    assert found.to_arrow(column_of(messages)).to_pylist() == to_array(found.kind, rows).to_pylist()
    assert found.to_sql_column(column_of(messages)) == [to_sql(value) for value in rows]


def test_several_heads_in_their_order():
    messages = users(20)
    messages[3::4] = [message(OTHER, {"name": f"other {n}"}) for n in range(5)]
    found = SelfDescribing().fitted(messages)
    rows = one_by_one(found, messages)
    assert found.to_arrow(column_of(messages)).to_pylist() == to_array(found.kind, rows).to_pylist()
    assert found.to_sql_column(column_of(messages)) == [to_sql(value) for value in rows]


def read(type_text, body):
    """One message's value read in step."""
    type_ = parse_type(type_text)
    found = SelfDescribing().fitted([message(type_, [] if type_text.startswith("vec") else 0)])
    data = np.frombuffer(body, np.uint8)
    return read_messages(type_, found.kind, data, np.zeros(1, np.int64), np.array([len(body)]))


@pytest.mark.parametrize(
    ("type_text", "body"),
    [
        ("vec null", b"\xff\xff\xff\xff\x0f"),
        ("vec vec null", b"\x04" + b"\x04" * 4),
        ("vec nat64", b"\xff\xff\xff\xff\x0f"),
        ("vec text", b"\x41" + b"\0" * 65),
        ("nat", b"\xff" * 9 + b"\x01"),
        ("nat", b"\x80"),
        ("nat64", b"\0" * 7),
        ("nat8", b"\0\0"),
    ],
)
def test_what_is_not_read_in_step(type_text, body):
    with pytest.raises(NotColumnarError):
        read(type_text, body)


@pytest.mark.parametrize("size", range(MAX_PRINCIPAL_BYTES + 1))
def test_texts_of_principals(size):
    raw = np.frombuffer(np.random.default_rng(size).bytes(3 * size), np.uint8).reshape(3, size)
    found = [row.tobytes().decode() for row in principal_texts(raw)]
    assert found == [str(Principal(row.tobytes())) for row in raw]
