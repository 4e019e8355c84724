"""Hash trees against the specification's example, laws of pruning, certificates that verify and ones that do not."""

from __future__ import annotations

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.certification import (
    Certificate,
    Empty,
    Fork,
    Labeled,
    Leaf,
    Missing,
    Pruned,
    RootKey,
    certify,
    data_certificate,
    encode_nat,
    lookup,
    prune,
    root_hash,
    tree,
    verify,
)
from perdure.certification.hash_tree import decode_node, encode_node
from perdure.errors import MalformedError

# The example of the interface specification.
EXAMPLE = Fork(
    Fork(
        Labeled(
            b"a",
            Fork(Fork(Labeled(b"x", Leaf(b"hello")), Empty()), Labeled(b"y", Leaf(b"world"))),
        ),
        Labeled(b"b", Leaf(b"good")),
    ),
    Fork(Labeled(b"c", Empty()), Labeled(b"d", Leaf(b"morning"))),
)
EXAMPLE_CBOR = bytes.fromhex(
    "8301830183024161830183018302417882034568656c6c6f810083024179820345776f726c6483024162820344676f6f64"
    "8301830241638100830241648203476d6f726e696e67"
)
EXAMPLE_HASH = "eb5c5b2195e62d996b84c9bcc8259d19a83786a2f59e0878cec84c811f669aa0"
PRUNED_X = "1b4feff9bef8131788b0c9dc6dbad6e81e524249c879e9f10f71ce3749f5a638"
PRUNED_B = "7b32ac0c6ba8ce35ac82c255fc7906f7fc130dab2a090f80fe12f9c2cae83ba6"
PRUNED_C = "ec8324b8a1f1ac16bd2e806edba78006479c9877fed4eb464a25485465af601d"


class TestSpecification:
    def test_root_hash(self):
        assert root_hash(EXAMPLE).hex() == EXAMPLE_HASH

    def test_cbor(self):
        assert cbor2.dumps(encode_node(EXAMPLE)) == EXAMPLE_CBOR
        assert decode_node(cbor2.loads(EXAMPLE_CBOR)) == EXAMPLE

    def test_pruning(self):
        shown = prune(EXAMPLE, [(b"a", b"y"), (b"ax",), (b"d",)])
        assert shown == Fork(
            Fork(
                Labeled(b"a", Fork(Pruned(bytes.fromhex(PRUNED_X)), Labeled(b"y", Leaf(b"world")))),
                Labeled(b"b", Pruned(bytes.fromhex(PRUNED_B))),
            ),
            Fork(Pruned(bytes.fromhex(PRUNED_C)), Labeled(b"d", Leaf(b"morning"))),
        )
        assert root_hash(shown).hex() == EXAMPLE_HASH

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ((b"a", b"a"), Missing.UNKNOWN),
            ((b"a", b"y"), b"world"),
            ((b"aa",), Missing.ABSENT),
            ((b"ax",), Missing.ABSENT),
            ((b"b",), Missing.UNKNOWN),
            ((b"bb",), Missing.UNKNOWN),
            ((b"d",), b"morning"),
            ((b"e",), Missing.ABSENT),
            ((b"a",), Missing.ERROR),
            ((b"d", b"deeper"), Missing.ABSENT),
        ],
    )
    def test_lookups(self, path, expected):
        shown = prune(EXAMPLE, [(b"a", b"y"), (b"ax",), (b"d",)])
        assert lookup(path, shown) == expected


labels = st.binary(max_size=3)
contents = st.recursive(
    st.binary(max_size=4), lambda children: st.dictionaries(labels, children, max_size=5), max_leaves=20
)


def value_at(content, path):
    for label in path:
        if isinstance(content, bytes) or label not in content:
            return Missing.ABSENT
        content = content[label]
    if isinstance(content, bytes):
        return content
    return Missing.ERROR if content else Missing.ABSENT


@given(contents, st.lists(st.lists(labels, max_size=3), max_size=4))
def test_pruning_keeps_the_hash_and_what_was_asked_for(content, paths):
    whole = tree(content)
    shown = prune(whole, paths)
    assert root_hash(shown) == root_hash(whole)
    assert decode_node(encode_node(shown)) == shown
    for path in paths:
        assert lookup(path, whole) == lookup(path, shown) == value_at(content, path)


def test_trees_are_well_formed():
    content = {bytes([index]): b"" for index in range(37)}
    assert all(lookup((label,), tree(content)) == b"" for label in content)
    assert lookup((b"zz",), tree(content)) is Missing.ABSENT


@pytest.mark.parametrize(
    "node", [None, [], [0, 1], [1, [0]], [2, "text", [0]], [3], [4, b"short"], [5, b""], {}, [1, [0], [9]]]
)
def test_no_node(node):
    with pytest.raises(MalformedError, match="no node of a hash tree"):
        decode_node(node)


def test_too_deep():
    node = [0]
    for _ in range(200):
        node = [2, b"", node]
    with pytest.raises(MalformedError, match="deeper"):
        decode_node(node)


KEY = RootKey(b"seed")


class TestCertificates:
    def test_key_is_a_function_of_the_seed(self):
        assert RootKey(b"seed").public_key_der == KEY.public_key_der != RootKey(b"other").public_key_der
        assert len(KEY.public_key_der) == 133

    def test_signatures(self):
        signature = KEY.sign(b"message")
        assert len(signature) == 48
        assert verify(KEY.public_key_der, b"message", signature)
        assert not verify(KEY.public_key_der, b"other", signature)
        assert not verify(RootKey(b"other").public_key_der, b"message", signature)
        assert not verify(KEY.public_key_der, b"message", bytes(48))
        assert not verify(KEY.public_key_der[:-1], b"message", signature)
        assert not verify(KEY.public_key_der, b"message", signature[:-1])

    def test_data_certificate(self):
        encoded = data_certificate(KEY, b"canister id", b"certified", 1_620_328_630_000_000_000)
        certificate = Certificate.decode(encoded)
        assert encoded[:3] == bytes.fromhex("d9d9f7")
        assert certificate.is_signed_by(KEY.public_key_der)
        assert certificate.lookup(b"canister", b"canister id", b"certified_data") == b"certified"
        assert certificate.lookup(b"time") == encode_nat(1_620_328_630_000_000_000)
        assert not certificate.is_signed_by(RootKey(b"other").public_key_der)

    def test_certify_shows_paths_only(self):
        state = tree({b"time": b"\1", b"canister": {b"a": {b"x": b"1"}, b"b": {b"x": b"2"}}})
        certificate = Certificate.decode(certify(KEY, state, [(b"time",), (b"canister", b"b")]).encode())
        assert certificate.is_signed_by(KEY.public_key_der)
        assert certificate.lookup(b"canister", b"b", b"x") == b"2"
        assert certificate.lookup(b"canister", b"a", b"x") is Missing.UNKNOWN

    def test_every_truncation_is_malformed(self):
        encoded = data_certificate(KEY, b"id", b"data", 1)
        for length in range(len(encoded)):
            with pytest.raises(MalformedError):
                Certificate.decode(encoded[:length])
        with pytest.raises(MalformedError, match="1 bytes after the item"):
            Certificate.decode(encoded + b"\0")

    def test_delegations_are_refused(self):
        with pytest.raises(MalformedError, match="delegation"):
            Certificate.decode(cbor2.dumps({"tree": [0], "signature": b"", "delegation": {}}))

    @given(st.binary(max_size=60))
    def test_any_bytes(self, data):
        with pytest.raises(MalformedError):
            Certificate.decode(data)


@pytest.mark.parametrize(("number", "encoded"), [(0, "00"), (127, "7f"), (128, "8001"), (624_485, "e58e26")])
def test_leb128(number, encoded):
    assert encode_nat(number).hex() == encoded
