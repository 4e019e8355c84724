"""Hash trees, certificates and the local BLS key."""

from __future__ import annotations

from perdure.certification.certificate import (
    Certificate,
    Delegation,
    Ranges,
    certify,
    data_certificate,
    decode_tree,
    delegate,
    encode_nat,
    encode_ranges,
)
from perdure.certification.hash_tree import (
    Empty,
    Fork,
    HashTree,
    Labeled,
    Leaf,
    Missing,
    Pruned,
    Tree,
    lookup,
    lookup_subtree,
    prune,
    root_hash,
    tree,
)
from perdure.certification.key import RootKey, verify

__all__ = [
    "Certificate",
    "Delegation",
    "Empty",
    "Fork",
    "HashTree",
    "Labeled",
    "Leaf",
    "Missing",
    "Pruned",
    "Ranges",
    "RootKey",
    "Tree",
    "certify",
    "data_certificate",
    "decode_tree",
    "delegate",
    "encode_nat",
    "encode_ranges",
    "lookup",
    "lookup_subtree",
    "prune",
    "root_hash",
    "tree",
    "verify",
]
