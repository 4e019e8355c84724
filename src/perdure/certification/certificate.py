"""Certificates: a pruned hash tree with a signature, in CBOR. A local subnet is its own root, so nothing is delegated.

Spec: "Certification", "Encoding of certificates" in the interface specification.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, final

import cbor2

from perdure import cbor
from perdure.certification.hash_tree import (
    HashTree,
    Missing,
    Tree,
    decode_node,
    encode_node,
    lookup,
    prune,
    root_hash,
    tree,
)
from perdure.certification.key import RootKey, verify
from perdure.errors import MalformedError

__all__ = ["Certificate", "certify", "data_certificate", "decode_tree", "encode_nat"]

_STATE_ROOT: Final = b"\x0dic-state-root"
_MARK: Final = bytes.fromhex("d9d9f7")
"""Tag 55,799: what follows is CBOR."""


@final
class Certificate:
    """A tree and the signature under its root hash."""

    __slots__ = ("signature", "tree")

    def __init__(self, tree: HashTree, signature: bytes) -> None:
        self.tree = tree
        self.signature = signature

    def encode(self) -> bytes:
        """The certificate in CBOR, marked as such."""
        content = {"tree": encode_node(self.tree), "signature": self.signature}
        return _MARK + cbor2.dumps(content)

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """The certificate that `data` is.

        Raises:
            MalformedError: it is none, or one with a delegation.
        """
        content = _load(data, "certificate")
        if not isinstance(content, dict) or not isinstance(content.get("signature"), bytes):
            raise MalformedError("certificate without a signature")
        if "delegation" in content:
            raise MalformedError("certificate with a delegation, which no local subnet makes")
        return cls(decode_node(content.get("tree")), content["signature"])

    def is_signed_by(self, public_key_der: bytes) -> bool:
        """Whether the holder of `public_key_der` signed the tree's root hash."""
        return verify(public_key_der, _STATE_ROOT + root_hash(self.tree), self.signature)

    def lookup(self, *path: bytes) -> bytes | Missing:
        """The value at `path`, or why there is none to see."""
        return lookup(path, self.tree)


def decode_tree(data: bytes) -> HashTree:
    """The hash tree that `data` is in CBOR, as a canister shows it with its certificate.

    Raises:
        MalformedError: it is none, or too deep a one.
    """
    return decode_node(_load(data, "hash tree"))


def _load(data: bytes, what: str) -> Any:
    """A value of CBOR, which may be marked as such."""
    # The mark is taken off here: under a tag cbor2 makes everything immutable, with dictionaries of its own kind.
    try:
        return cbor.load(data, len(_MARK) if data.startswith(_MARK) else 0)
    except MalformedError as error:
        raise MalformedError(f"{what}: {error.message}", error.offset) from error


def certify(key: RootKey, state: HashTree, paths: Iterable[Sequence[bytes]]) -> Certificate:
    """A certificate that shows `paths` of `state`."""
    return Certificate(prune(state, paths), key.sign(_STATE_ROOT + root_hash(state)))


def encode_nat(number: int) -> bytes:
    """A natural number as the state tree has it: LEB128."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def data_certificate(key: RootKey, canister_id: bytes, certified_data: bytes, time_ns: int) -> bytes:
    """What ``ic0.data_certificate_copy`` gives: the canister's certified data and the time, signed.

    The tree says nothing else, so that signing does not depend on how many canisters there are.
    """
    content: Tree = {b"canister": {canister_id: {b"certified_data": certified_data}}, b"time": encode_nat(time_ns)}
    state = tree(content)
    return Certificate(state, key.sign(_STATE_ROOT + root_hash(state))).encode()
