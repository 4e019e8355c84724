"""Envelopes: CBOR as far as the interface has it, request ids, and bytes that are neither."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.gateway import envelope
from perdure.gateway.envelope import Refusal, decode_cbor, hash_of_map, read_envelope

VALUES = st.recursive(
    st.integers(0, 2**64 - 1) | st.binary() | st.text() | st.booleans() | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def test_the_specifications_example():
    content = {
        "request_type": "call",
        "sender": b"\4",
        "ingress_expiry": 1685570400000000000,
        "canister_id": bytes.fromhex("00000000000004D2"),
        "method_name": "hello",
        "arg": b"DIDL\0\xfd*",
    }
    assert hash_of_map(content).hex() == "1d1091364d6bb8a6c16b203ee75467d59ead468f523eb058880ae8ec80e2b101"


@given(VALUES)
def test_it_reads_what_is_written(value):
    assert decode_cbor(cbor2.dumps(value)) == value
    assert decode_cbor(b"\xd9\xd9\xf7" + cbor2.dumps(value)) == value


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        found = decode_cbor(data)
    except ValueError:
        return
    assert cbor2.loads(data) == found or found != found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("", "ends within an item"),
        ("a2616101616102", "'a' twice"),
        ("a10102", "a key that is int"),
        ("c11a00000000", "tag 1"),  # a date
        ("d81d00", "tag 29"),  # a reference, with which an item can hold itself
        ("c48221196ab3", "tag 4"),
        ("f93c00", "a float"),
        ("5f", "ends within an item"),
        ("5f01ff", "parts of another type"),
        ("9b00ffffffffffffff", "72057594037927935 parts, expected at most 1000"),
        ("bbffffffffffffffff", "parts, expected at most 1000"),
        ("8242", "ends within an item"),
        ("824101", "ends within an item"),
        ("5bffffffffffffffff00", "ends within an item"),
        ("81" * 100 + "00", "more than 16 levels"),
        ("0000", "1 bytes after the item"),
        ("1f", "no number of definite length"),
        ("62c328", "utf-8"),
    ],
)
def test_what_the_interface_does_not_have(data, words):
    with pytest.raises(ValueError, match=words):
        decode_cbor(bytes.fromhex(data))


def test_items_have_a_limit():
    with pytest.raises(ValueError, match="4096 items"):
        decode_cbor(b"\x9f" + bytes(1 << 20))
    with pytest.raises(ValueError, match="32768 parts"):
        decode_cbor(b"\x99\x03\xe8" + (b"\x99\x03\xe8" + b"\x40" * 1000) * 1000)
    assert len(decode_cbor(b"\x99\x03\xe8" + b"\x40" * 1000)) == 1000


def test_parts_of_indefinite_length_and_large_numbers():
    assert decode_cbor(bytes.fromhex("bf61615f4101 4102 ff6162 9f01 ffff".replace(" ", ""))) == {"a": b"\1\2", "b": [1]}
    assert decode_cbor(cbor2.dumps(2**64)) == 2**64


GOOD = {
    "request_type": "call",
    "sender": b"\4",
    "ingress_expiry": 1,
    "canister_id": b"",
    "method_name": "m",
    "arg": b"",
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sender": None}, "has no field sender"),
        ({"sender": "text"}, "sender is 'text', expected a principal"),
        ({"sender": bytes(30)}, "expected a principal"),
        ({"ingress_expiry": -1}, "expected a number below 2"),
        ({"ingress_expiry": 1 << 64}, "expected a number below 2"),
        ({"ingress_expiry": True}, "expected a number below 2"),
        ({"nonce": bytes(33)}, "at most 32 bytes"),
        ({"request_type": "query"}, "expected 'call' here"),
        ({"request_type": ["call"]}, "expected 'call' here"),
        ({"method_name": b"m"}, "expected a text"),
        ({"more": -1}, "int -1 in a request"),
        ({"sender_info": {"info": b""}}, "sender_info has no field signer"),
    ],
)
def test_contents(change, words):
    content = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(Refusal, match=words):
        read_envelope(cbor2.dumps({"content": content}), "call")


@pytest.mark.parametrize("whole", [b"", 1, [], {}, {"content": 1}, {"content": GOOD, "sender_sig": "text"}])
def test_envelopes(whole):
    with pytest.raises(Refusal):
        read_envelope(cbor2.dumps(whole), "call")


def test_paths_have_limits():
    content = {"request_type": "read_state", "sender": b"\4", "ingress_expiry": 1}
    for paths in ([[b""]] * 1001, [[b""] * 128], [["text"]], [b"path"]):
        with pytest.raises(Refusal, match="at most 1000"):
            read_envelope(cbor2.dumps({"content": {**content, "paths": paths}}), "read_state")
    assert read_envelope(cbor2.dumps({"content": {**content, "paths": [[]]}}), "read_state").content["paths"] == [[]]


def test_names_that_strangers_make_up_are_not_kept():
    for length in (1, 64, 65, 100_000):
        hash_of_map({"x" * length: 1})
    assert max(map(len, envelope._KEY_HASHES)) <= 64
    for number in range(1_000):
        hash_of_map({f"name {number}": 1})
    assert len(envelope._KEY_HASHES) <= 256
