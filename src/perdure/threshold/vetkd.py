"""vetKD over BLS12-381: master keys, derived keys, and derived BLS signatures encrypted to a transport key.

Public keys are points of G2 (96 bytes, compressed), vetKeys and transport keys points of G1 (48 bytes).

Sources: RFC 9380 (expand_message_xmd with SHA-256); "vetkd_public_key", "vetkd_derive_key" in the interface
specification; the derivation as crate ic-vetkeys and npm @dfinity/vetkeys have it.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import Any, Final, NamedTuple

from perdure.threshold.libraries import library

__all__ = [
    "KeyPair",
    "TransportKeyError",
    "derive_context",
    "derive_key",
    "expand_message_xmd",
    "hash_to_scalar",
    "master_secret",
    "public_key",
    "transport_key",
]

ORDER: Final = 0x73EDA753_299D7D48_3339D808_09A1D805_53BDA402_FFFE5BFE_FFFFFFFF_00000001
_AUGMENTED: Final = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_AUG_"
_TRANSPORT_KEY_BYTES: Final = 48
_SHORT_CONTEXT_BYTES: Final = 256
"""Keys of contexts up to there are remembered."""
_INFINITY: Final = b"\xc0" + bytes(47)


class KeyPair(NamedTuple):
    """A secret key and its public one."""

    secret: int
    public: bytes


class TransportKeyError(ValueError):
    """The bytes are no transport key."""


def expand_message_xmd(message: bytes, domain: bytes, size_bytes: int) -> bytes:
    """`size_bytes` that look random, a function of message and domain."""
    tag = domain + bytes([len(domain)])
    first = sha256(bytes(64) + message + size_bytes.to_bytes(2, "big") + b"\0" + tag).digest()
    block = sha256(first + b"\1" + tag).digest()
    blocks = [block]
    for index in range(2, (size_bytes + 31) // 32 + 1):
        mixed = (int.from_bytes(first, "big") ^ int.from_bytes(block, "big")).to_bytes(32, "big")
        block = sha256(mixed + bytes([index]) + tag).digest()
        blocks.append(block)
    return b"".join(blocks)[:size_bytes]


def hash_to_scalar(message: bytes, domain: bytes) -> int:
    """A number below the group's order, a function of message and domain."""
    return int.from_bytes(expand_message_xmd(message, domain, 48), "big") % ORDER


def _curve() -> Any:
    return library("py_arkworks_bls12381")


def _scalar(number: int) -> Any:
    return _curve().Scalar.from_be_bytes((number % ORDER).to_bytes(32, "big"))


def master_secret(name: str) -> int:
    """PocketIC's master key of this name."""
    return hash_to_scalar(name.encode(), b"ic-crypto-vetkd-test-utils-generate-test-key")


def public_key(secret: int) -> bytes:
    """The public key: 96 bytes."""
    return bytes((_curve().G2Point() * _scalar(secret)).to_compressed_bytes())


def _two(first: bytes, second: bytes) -> bytes:
    return len(first).to_bytes(8, "big") + first + len(second).to_bytes(8, "big") + second


def _step(secret: int, index: bytes, domain: bytes) -> int:
    return (secret + hash_to_scalar(_two(public_key(secret), index), domain)) % ORDER


@lru_cache(maxsize=256)
def _canister_secret(name: str, canister_id: bytes) -> int:
    return _step(master_secret(name), canister_id, b"ic-vetkd-bls12-381-g2-canister-id")


def _context_key(name: str, canister_id: bytes, context: bytes) -> KeyPair:
    secret = _canister_secret(name, canister_id)
    if context:
        secret = _step(secret, context, b"ic-vetkd-bls12-381-g2-context")
    return KeyPair(secret, public_key(secret))


_short_context_key = lru_cache(maxsize=256)(_context_key)


def derive_context(name: str, canister_id: bytes, context: bytes) -> KeyPair:
    """The key of a canister's context, under a master key."""
    derive = _short_context_key if len(context) <= _SHORT_CONTEXT_BYTES else _context_key
    return derive(name, canister_id, context)


def transport_key(data: bytes) -> Any:
    """The point of G1 that a transport key is.

    Raises:
        TransportKeyError: the bytes are none, of another curve or group, or the point at infinity, which hides nothing.
    """
    if len(data) != _TRANSPORT_KEY_BYTES:
        raise TransportKeyError(f"a transport key has {_TRANSPORT_KEY_BYTES} bytes, found {len(data)}")
    if data == _INFINITY:
        raise TransportKeyError("the point at infinity hides nothing")
    try:
        point = _curve().G1Point.from_compressed_bytes(data)
    except ValueError as error:
        raise TransportKeyError(f"no point of G1 in compressed form: {data.hex()}") from error
    if bytes(point.to_compressed_bytes()) != data:  # the library takes points that are written in other ways
        raise TransportKeyError(f"no point of G1 in its one compressed form: {data.hex()}")
    return point


def derive_key(key: KeyPair, key_input: bytes, transport: Any) -> bytes:
    """A vetKey, encrypted: 192 bytes, of which a function of all of this is the randomness."""
    curve, (secret, public) = _curve(), key
    hashed = curve.G1Point.hash_to_curve(public + key_input, _AUGMENTED)
    seed = _two(public, key_input) + bytes(transport.to_compressed_bytes())
    # Half as long as the network's, in half the time: of a key that everybody has it hides nothing.
    nonce = _scalar(int.from_bytes(expand_message_xmd(seed, b"perdure vetKD encryption", 16), "big") | 1)
    points = (curve.G1Point() * nonce, curve.G2Point() * nonce, transport * nonce + hashed * _scalar(secret))
    return b"".join(bytes(point.to_compressed_bytes()) for point in points)
