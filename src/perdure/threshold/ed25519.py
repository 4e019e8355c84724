"""Ed25519 by its numbers: signing with a secret scalar and a prefix, which a derived key has instead of a seed.

Sources: RFC 8032; RFC 5869 (HKDF) for derivation.
"""

from __future__ import annotations

import hmac
from hashlib import sha512
from typing import Any, Final

from perdure.threshold.libraries import library

__all__ = ["ORDER", "expand", "prefix_of", "public_key", "sign", "step"]

ORDER: Final = 2**252 + 27742317777372353535851937790883648493


def public_key(secret: int) -> bytes:
    """The public key of a secret scalar: 32 bytes."""
    bindings: Any = library("nacl.bindings")
    key: bytes = bindings.crypto_scalarmult_ed25519_base_noclamp((secret % ORDER).to_bytes(32, "little"))
    return key


def expand(seed: bytes) -> tuple[int, bytes]:
    """Scalar and prefix of a seed of 32 bytes."""
    digest = sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little") & ((1 << 254) - 8) | 1 << 254
    return scalar % ORDER, digest[32:]


def prefix_of(secret: int, chain_code: bytes) -> bytes:
    """The prefix of a derived key."""
    return sha512((secret % ORDER).to_bytes(32, "little") + chain_code).digest()[:32]


def step(public: bytes, chain_code: bytes, index: bytes) -> tuple[int, bytes]:
    """One step of a derivation: what is added to the secret scalar, and the chain code of the sum."""
    extracted = hmac.digest(chain_code, public + index, sha512)
    first = hmac.digest(extracted, b"Ed25519\1", sha512)
    second = hmac.digest(extracted, first + b"Ed25519\2", sha512)
    return int.from_bytes(first, "big") % ORDER, second[:32]


def sign(secret: int, prefix: bytes, public: bytes, message: bytes) -> bytes:
    """The signature: 64 bytes."""
    nonce = int.from_bytes(sha512(prefix + message).digest(), "little") % ORDER
    commitment = public_key(nonce)
    challenge = int.from_bytes(sha512(commitment + public + message).digest(), "little") % ORDER
    return commitment + ((nonce + challenge * secret) % ORDER).to_bytes(32, "little")
