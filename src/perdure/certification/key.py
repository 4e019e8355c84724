"""The local root key: BLS12-381 with signatures in G1, made from a seed, so that the same subnet has the same key.

Needs the ``certification`` extra; it is imported when first used.

Spec: "Certificate" in the interface specification; ciphersuite ``BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_``.
"""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import Final, final

from perdure.errors import UnsupportedError

__all__ = ["DER_PREFIX", "PUBLIC_KEY_BYTES", "RootKey", "verify"]

_DOMAIN: Final = b"BLS_SIG_BLS12381G1_XMD:SHA-256_SSWU_RO_NUL_"
_ORDER: Final = 0x73EDA753299D7D483339D80809A1D80553BDA402FFFE5BFEFFFFFFFF00000001
DER_PREFIX: Final = bytes.fromhex("308182301d060d2b0601040182dc7c0503010201060c2b0601040182dc7c05030201036100")
"""Before the 96 bytes of a public key."""
PUBLIC_KEY_BYTES: Final = 96


def _curve() -> ModuleType:
    try:
        import py_arkworks_bls12381
    except ImportError as error:
        raise UnsupportedError("certificates need the extra: pip install 'perdure[certification]'").coded(
            "extra-missing"
        ) from error
    module: ModuleType = py_arkworks_bls12381
    return module


@final
class RootKey:
    """A key pair made from `seed`. Not secret: whoever has the seed has the key, which is right for a local subnet."""

    __slots__ = ("_scalar", "public_key_der")

    def __init__(self, seed: bytes) -> None:
        curve = _curve()
        # 48 bytes of hash leave a bias of 2^-128 after the reduction.
        wide = hashlib.shake_256(b"perdure root key" + seed).digest(48)
        secret = int.from_bytes(wide, "big") % (_ORDER - 1) + 1
        self._scalar = curve.Scalar.from_be_bytes(secret.to_bytes(32, "big"))
        self.public_key_der = DER_PREFIX + bytes((curve.G2Point() * self._scalar).to_compressed_bytes())

    def sign(self, message: bytes) -> bytes:
        """A signature of 48 bytes."""
        point = _curve().G1Point.hash_to_curve(message, _DOMAIN) * self._scalar
        return bytes(point.to_compressed_bytes())


def verify(public_key_der: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is one of `message` by the holder of the key. Bytes that are no key or signature: no."""
    curve = _curve()
    raw = public_key_der.removeprefix(DER_PREFIX)
    if len(raw) != PUBLIC_KEY_BYTES or len(signature) != 48:
        return False
    try:
        key = curve.G2Point.from_compressed_bytes(raw)
        point = curve.G1Point.from_compressed_bytes(signature)
    except ValueError:
        return False
    hashed = curve.G1Point.hash_to_curve(message, _DOMAIN)
    return bool(curve.GT.pairing(point, curve.G2Point()) == curve.GT.pairing(hashed, key))
