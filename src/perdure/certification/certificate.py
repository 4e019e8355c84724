"""Certificates: a pruned hash tree with a signature, in CBOR, and who vouches for the signer where it is not the root.

```
 certificate of a subnet ── delegation ──▶ certificate of the root: the subnet's key, the ids that its canisters have
```

A subnet that is alone is its own root, and nothing is delegated to it.

Spec: "Certification", "Encoding of certificates", "Delegation" in the interface specification.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, NamedTuple, final

import cbor2

from perdure import cbor
from perdure.certification.hash_tree import (
    HashTree,
    Missing,
    Tree,
    decode_node,
    encode_node,
    leaves_below,
    lookup,
    lookup_subtree,
    prune,
    root_hash,
    tree,
)
from perdure.certification.key import RootKey, verify
from perdure.errors import MalformedError

__all__ = [
    "Certificate",
    "Delegation",
    "Ranges",
    "certify",
    "data_certificate",
    "decode_tree",
    "delegate",
    "encode_nat",
    "encode_ranges",
]

_STATE_ROOT: Final = b"\x0dic-state-root"
_MARK: Final = bytes.fromhex("d9d9f7")
"""Tag 55,799: what follows is CBOR."""

Ranges = Sequence[tuple[bytes, bytes]]
"""Ids that canisters of a subnet may have: closed intervals, in order."""


@final
class Delegation(NamedTuple):
    """What the root says of a subnet that signs: its id, and a certificate of the root."""

    subnet_id: bytes
    certificate: bytes


@final
class Certificate:
    """A tree and the signature under its root hash, by the root or by a subnet that the root has delegated to."""

    __slots__ = ("delegation", "signature", "tree")

    def __init__(self, tree: HashTree, signature: bytes, delegation: Delegation | None = None) -> None:
        self.tree = tree
        self.signature = signature
        self.delegation = delegation

    def encode(self) -> bytes:
        """The certificate in CBOR, marked as such."""
        content: dict[str, object] = {"tree": encode_node(self.tree), "signature": self.signature}
        if self.delegation is not None:
            content["delegation"] = self.delegation._asdict()
        return _MARK + cbor2.dumps(content)

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        """The certificate that `data` is.

        Raises:
            MalformedError: it is none.
        """
        content = _load(data, "certificate")
        if not isinstance(content, dict) or not isinstance(content.get("signature"), bytes):
            raise MalformedError("certificate without a signature")
        return cls(decode_node(content.get("tree")), content["signature"], _delegation_in(content))

    def is_signed_by(self, root_key_der: bytes, canister_id: bytes | None = None) -> bool:
        """Whether the holder of the root key signed the tree's root hash, or a subnet that it has delegated to.

        Args:
            root_key_der: of the network.
            canister_id: of whom the tree tells: the subnet has to be the one of this canister. `None`: of any.

        Raises:
            MalformedError: what the root says of the subnet cannot be read.
        """
        key = root_key_der if self.delegation is None else _delegated_key(self.delegation, root_key_der, canister_id)
        return key is not None and verify(key, _STATE_ROOT + root_hash(self.tree), self.signature)

    def lookup(self, *path: bytes) -> bytes | Missing:
        """The value at `path`, or why there is none to see."""
        return lookup(path, self.tree)


def _delegation_in(content: dict[Any, Any]) -> Delegation | None:
    if "delegation" not in content:
        return None
    found = content["delegation"]
    if not isinstance(found, dict):
        raise MalformedError("certificate with a delegation that is no map")
    delegation = Delegation(found.get("subnet_id"), found.get("certificate"))  # type: ignore[arg-type]  # checked here
    if not all(isinstance(part, bytes) for part in delegation):
        raise MalformedError("certificate with a delegation without subnet_id and certificate")
    return delegation


def _delegated_key(delegation: Delegation, root_key_der: bytes, canister_id: bytes | None) -> bytes | None:
    """The key of a subnet; `None`: the root does not say that it is, or that it has the canister.

    Spec: "Certification", "check_delegation". Ranges may be in one leaf, or in several below ``canister_ranges``.
    """
    subnet_id, encoded = delegation
    told = Certificate.decode(encoded)
    if told.delegation is not None or not told.is_signed_by(root_key_der):
        return None  # the root's key is nobody's to pass on
    key = told.lookup(b"subnet", subnet_id, b"public_key")
    if not isinstance(key, bytes) or (canister_id is not None and not _has_canister(told, subnet_id, canister_id)):
        return None
    return key


def _has_canister(told: Certificate, subnet_id: bytes, canister_id: bytes) -> bool:
    for path in ((b"canister_ranges", subnet_id), (b"subnet", subnet_id, b"canister_ranges")):
        below = lookup_subtree(path, told.tree)
        if not isinstance(below, Missing):
            for leaf in leaves_below(below):
                if any(first <= canister_id <= last for first, last in _decode_ranges(leaf)):
                    return True
    return False


def _decode_ranges(data: bytes) -> Ranges:
    found = _load(data, "canister ranges")
    if not isinstance(found, list | tuple) or not all(
        isinstance(one, list | tuple) and len(one) == 2 and all(isinstance(end, bytes) for end in one) for one in found
    ):
        raise MalformedError("canister ranges: expected pairs of ids")
    return [(one[0], one[1]) for one in found]


def encode_ranges(ranges: Ranges) -> bytes:
    """Ranges of ids as trees have them."""
    return _MARK + cbor2.dumps([list(one) for one in ranges])


def delegate(root: RootKey, subnet_id: bytes, public_key_der: bytes, ranges: Ranges, time_ns: int) -> Delegation:
    """Say, as the root, whose key a subnet's is and which canisters it has, in both places where clients look."""
    encoded = encode_ranges(ranges)
    content: Tree = {
        b"canister_ranges": {subnet_id: {ranges[0][0]: encoded}},
        b"subnet": {subnet_id: {b"canister_ranges": encoded, b"public_key": public_key_der}},
        b"time": encode_nat(time_ns),
    }
    state = tree(content)
    return Delegation(subnet_id, Certificate(state, root.sign(_STATE_ROOT + root_hash(state))).encode())


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


def data_certificate(
    key: RootKey,
    canister_id: bytes,
    certified_data: bytes,
    time_ns: int,
    *,
    delegation: Callable[[bytes], Delegation] | None = None,
) -> bytes:
    """What ``ic0.data_certificate_copy`` gives: the canister's certified data and the time, signed.

    The tree says nothing else, so that signing does not depend on how many canisters there are.

    Args:
        key: of the subnet.
        canister_id: whose data it is.
        certified_data: what it has certified.
        time_ns: now.
        delegation: who vouches for the key as that of this canister; `None`: it is the root's own.
    """
    content: Tree = {b"canister": {canister_id: {b"certified_data": certified_data}}, b"time": encode_nat(time_ns)}
    state, vouched = tree(content), None if delegation is None else delegation(canister_id)
    return Certificate(state, key.sign(_STATE_ROOT + root_hash(state)), vouched).encode()
