"""The curves secp256k1 and secp256r1 (P-256): derivation, ECDSA, BIP340 with BIP341's tweak.

Secret keys are numbers, public keys 33 bytes (SEC1, compressed). A library gives multiples of the generator, nothing
else, so that all libraries give the same signatures: nonces are RFC 6979's, and BIP340's without auxiliary randomness.

Sources: RFC 6979; BIP340; BIP341; SLIP-0010, followed by derivation with indices of any length, without hardening.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256, sha512
from typing import Any, final

from perdure.threshold.libraries import is_installed, library

__all__ = ["SECP256K1", "SECP256R1", "Curve", "sign_bip340", "sign_ecdsa", "step", "taproot"]


@final
@dataclass(frozen=True, slots=True)
class Curve:
    """A curve over a prime field whose group has a prime order of 256 bits."""

    name: str
    order: int
    public_key: Callable[[int], bytes]
    """The public key of a secret one from 1 to the order, exclusively: SEC1, compressed."""


def _by_cryptography(curve_name: str) -> Callable[[int], bytes]:
    def public_key(secret: int) -> bytes:
        curves: Any = library("cryptography.hazmat.primitives.asymmetric.ec")
        numbers = curves.derive_private_key(secret, getattr(curves, curve_name)()).public_key().public_numbers()
        return bytes([2 | numbers.y & 1]) + int(numbers.x).to_bytes(32, "big")

    return public_key


_slow_k1 = _by_cryptography("SECP256K1")


def _public_key_k1(secret: int) -> bytes:
    """By libsecp256k1 where its wheel is: 40 us, against 2 ms by OpenSSL."""
    if not is_installed("coincurve"):
        return _slow_k1(secret)
    key: bytes = library("coincurve").PublicKey.from_valid_secret(secret.to_bytes(32, "big")).format()
    return key


SECP256K1 = Curve(
    "secp256k1", 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141, _public_key_k1
)
SECP256R1 = Curve(
    "secp256r1",
    0xFFFFFFFF_00000000_FFFFFFFF_FFFFFFFF_BCE6FAAD_A7179E84_F3B9CAC2_FC632551,
    _by_cryptography("SECP256R1"),
)


def step(curve: Curve, public_key: bytes, chain_code: bytes, index: bytes) -> tuple[int, bytes]:
    """One step of a derivation: what is added to the secret key, and the chain code of the sum."""
    data = public_key + index
    while True:
        digest = hmac.digest(chain_code, data, sha512)
        offset, code = int.from_bytes(digest[:32], "big"), digest[32:]
        if offset < curve.order:
            return offset, code
        data = b"\1" + code + index


# -- ECDSA


def _nonces(curve: Curve, secret: int, digest: bytes) -> Iterator[int]:
    """Candidates in the order of RFC 6979, with SHA-256."""
    wanted = (int.from_bytes(digest, "big") % curve.order).to_bytes(32, "big")
    key, value = bytes(32), b"\1" * 32
    for mark in (b"\0", b"\1"):
        key = hmac.digest(key, value + mark + secret.to_bytes(32, "big") + wanted, sha256)
        value = hmac.digest(key, value, sha256)
    while True:
        value = hmac.digest(key, value, sha256)
        nonce = int.from_bytes(value, "big")
        if 0 < nonce < curve.order:
            yield nonce
        key = hmac.digest(key, value + b"\0", sha256)
        value = hmac.digest(key, value, sha256)


def sign_ecdsa(curve: Curve, secret: int, digest: bytes) -> bytes:
    """The signature of a message's digest of 32 bytes: r and s, 32 bytes each, the smaller one of the two s."""
    order, number = curve.order, int.from_bytes(digest, "big")
    for nonce in _nonces(curve, secret, digest):
        r = int.from_bytes(curve.public_key(nonce)[1:], "big") % order
        s = pow(nonce, -1, order) * (number + r * secret) % order
        if r and s:
            return r.to_bytes(32, "big") + min(s, order - s).to_bytes(32, "big")
    raise AssertionError("nonces do not end")


# -- BIP340


def _tagged(tag: bytes, data: bytes) -> bytes:
    prefix = sha256(tag).digest()
    return sha256(prefix + prefix + data).digest()


def _with_even_y(secret: int, public_key: bytes) -> int:
    return secret if public_key[0] == 2 else SECP256K1.order - secret


def sign_bip340(secret: int, message: bytes) -> bytes:
    """The signature of a message of any length: x of R and s, 32 bytes each."""
    order, public_key = SECP256K1.order, SECP256K1.public_key(secret)
    secret = _with_even_y(secret, public_key)
    x = public_key[1:]
    masked = secret ^ int.from_bytes(_tagged(b"BIP0340/aux", bytes(32)), "big")
    nonce = int.from_bytes(_tagged(b"BIP0340/nonce", masked.to_bytes(32, "big") + x + message), "big") % order
    commitment = SECP256K1.public_key(nonce)
    nonce = _with_even_y(nonce, commitment)
    challenge = int.from_bytes(_tagged(b"BIP0340/challenge", commitment[1:] + x + message), "big") % order
    return commitment[1:] + ((nonce + challenge * secret) % order).to_bytes(32, "big")


def taproot(secret: int, merkle_root: bytes) -> int:
    """The secret key of a Taproot output: of 32 bytes of a script tree's root, or none of them."""
    public_key = SECP256K1.public_key(secret)
    tweak = int.from_bytes(_tagged(b"TapTweak", public_key[1:] + merkle_root), "big")
    return (_with_even_y(secret, public_key) + tweak) % SECP256K1.order
