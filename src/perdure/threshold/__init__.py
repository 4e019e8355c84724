"""Keys that a network shares among its nodes, here in one place: ECDSA, Schnorr, vetKD.

Every key here is public, as PocketIC's are, which these are: whoever reads this has them. Addresses derived from them
are those that tools derive for PocketIC; what is sent to one belongs to anybody.

Needs the ``signatures`` extra; it is imported when first used. Signatures are functions of key and message, the same
with whatever library: what is replayed is the same bytes.

Spec: "Threshold ECDSA", "Threshold Schnorr", "vetKD" in the interface specification.
"""

from __future__ import annotations

from perdure.threshold.keys import (
    KEYS_ARE_PUBLIC,
    PRODUCTION_KEY_NAMES,
    TEST_KEY_NAMES,
    MasterKey,
    PublicKey,
    master_key,
)
from perdure.threshold.vetkd import TransportKeyError

__all__ = [
    "KEYS_ARE_PUBLIC",
    "PRODUCTION_KEY_NAMES",
    "TEST_KEY_NAMES",
    "MasterKey",
    "PublicKey",
    "TransportKeyError",
    "master_key",
]
