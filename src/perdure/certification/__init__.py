"""Hash trees, certificates and the local BLS key."""

from __future__ import annotations

from perdure.certification.certificate import Certificate, certify, data_certificate, decode_tree, encode_nat
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
    "Empty",
    "Fork",
    "HashTree",
    "Labeled",
    "Leaf",
    "Missing",
    "Pruned",
    "RootKey",
    "Tree",
    "certify",
    "data_certificate",
    "decode_tree",
    "encode_nat",
    "lookup",
    "lookup_subtree",
    "prune",
    "root_hash",
    "tree",
    "verify",
]
