"""Master keys by scheme and name, what is derived from them, and what they sign.

| scheme | master key |
|---|---|
| ``ecdsa`` secp256k1, ``schnorr`` bip340secp256k1 | PocketIC's: SHA-256 of 32 bytes ``2a``, one step along the name |
| ``schnorr`` ed25519 | PocketIC's: of the seed that SHA-512 of 32 bytes ``2a`` begins with, one step along the name |
| ``vetkd`` bls12_381_g2 | PocketIC's: a hash of the name |
| ``ecdsa`` secp256r1 | our own, made as that of secp256k1: PocketIC's is not known to agree |

A canister's key is derived from there along its id and then along its path, from a chain code of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256, sha512
from typing import Final, NamedTuple, final

from perdure.threshold import ed25519, vetkd
from perdure.threshold.secp256 import SECP256K1, SECP256R1, Curve, sign_bip340, sign_ecdsa, step, taproot

__all__ = [
    "KEYS_ARE_PUBLIC",
    "PRODUCTION_KEY_NAMES",
    "TEST_KEY_NAMES",
    "MasterKey",
    "PublicKey",
    "master_key",
]

TEST_KEY_NAMES: Final = ("test_key_1", "dfx_test_key")
PRODUCTION_KEY_NAMES: Final = ("key_1",)
"""Named as on the network; here they are as public as the others."""

KEYS_ARE_PUBLIC: Final = (
    "perdure: the threshold keys of a local subnet are public, whatever they are called. What is sent to an address "
    "derived from one, or encrypted to it, belongs to anybody."
)

_NO_CHAIN_CODE: Final = bytes(32)
_CURVES: Final[dict[str, Curve]] = {"secp256k1": SECP256K1, "bip340secp256k1": SECP256K1, "secp256r1": SECP256R1}
_ALGORITHMS: Final = {
    "ecdsa": ("secp256k1", "secp256r1"),
    "schnorr": ("bip340secp256k1", "ed25519"),
    "vetkd": ("bls12_381_g2",),
}


class PublicKey(NamedTuple):
    """What a canister hears of its key."""

    public_key: bytes
    chain_code: bytes


class _Node(NamedTuple):
    """A key on the way along a path."""

    secret: int
    public_key: bytes
    chain_code: bytes


def _child(algorithm: str, node: _Node, index: bytes) -> _Node:
    if algorithm == "ed25519":
        offset, code = ed25519.step(node.public_key, node.chain_code, index)
        secret = (node.secret + offset) % ed25519.ORDER
        return _Node(secret, ed25519.public_key(secret), code)
    curve = _CURVES[algorithm]
    offset, code = step(curve, node.public_key, node.chain_code, index)
    secret = (node.secret + offset) % curve.order
    return _Node(secret, curve.public_key(secret), code)


@lru_cache(maxsize=32)
def _master(algorithm: str, name: str) -> _Node:
    seed = b"\x2a" * 32
    if algorithm == "ed25519":
        secret, _ = ed25519.expand(sha512(seed).digest()[:32])
        root = _Node(secret, ed25519.public_key(secret), _NO_CHAIN_CODE)
    else:
        curve = _CURVES[algorithm]
        secret = int.from_bytes(sha256(seed).digest(), "big") % curve.order
        root = _Node(secret, curve.public_key(secret), _NO_CHAIN_CODE)
    return _child(algorithm, root, name.encode())._replace(chain_code=_NO_CHAIN_CODE)


@lru_cache(maxsize=256)
def _of_canister(algorithm: str, name: str, canister_id: bytes) -> _Node:
    return _child(algorithm, _master(algorithm, name), canister_id)


@final
@dataclass(frozen=True, slots=True)
class MasterKey:
    """One of the table above; see `master_key`. What needs a library that is not there is a `HostError`."""

    scheme: str
    algorithm: str
    name: str

    def __str__(self) -> str:
        return f"{self.scheme}:{self.algorithm}:{self.name}"

    def _derive(self, canister_id: bytes, path: Sequence[bytes]) -> _Node:
        node = _of_canister(self.algorithm, self.name, canister_id)
        for index in path:
            node = _child(self.algorithm, node, index)
        return node

    def public_key(self, canister_id: bytes, path: Sequence[bytes]) -> PublicKey:
        """The public key of a canister's path: 33 bytes in SEC1, of Ed25519 32; and its chain code of 32."""
        node = self._derive(canister_id, path)
        return PublicKey(node.public_key, node.chain_code)

    def sign(
        self, canister_id: bytes, path: Sequence[bytes], message: bytes, merkle_root: bytes | None = None
    ) -> bytes:
        """A signature of 64 bytes.

        Args:
            canister_id: whose key.
            path: derives it further.
            message: of ECDSA the digest, 32 bytes.
            merkle_root: of BIP341, 32 bytes or none of them; `None`: the key is not tweaked.
        """
        node = self._derive(canister_id, path)
        if self.algorithm == "ed25519":
            prefix = ed25519.prefix_of(node.secret, node.chain_code)
            return ed25519.sign(node.secret, prefix, node.public_key, message)
        if self.scheme == "ecdsa":
            return sign_ecdsa(_CURVES[self.algorithm], node.secret, message)
        return sign_bip340(node.secret if merkle_root is None else taproot(node.secret, merkle_root), message)

    def context_key(self, canister_id: bytes, context: bytes) -> bytes:
        """VetKD's public key of a canister's context: 96 bytes."""
        return vetkd.derive_context(self.name, canister_id, context).public

    def derive_key(self, canister_id: bytes, context: bytes, key_input: bytes, transport_key: bytes) -> bytes:
        """VetKD's key of an input, encrypted to a transport key: 192 bytes.

        Raises:
            TransportKeyError: `transport_key` is none.
        """
        transport = vetkd.transport_key(transport_key)
        return vetkd.derive_key(vetkd.derive_context(self.name, canister_id, context), key_input, transport)


def master_key(scheme: str, algorithm: str, name: str, names: Sequence[str] = TEST_KEY_NAMES) -> MasterKey | None:
    """The key of a scheme (``ecdsa``, ``schnorr``, ``vetkd``), a curve or algorithm, and a name; `None`: there is none.

    Args:
        scheme: what it is for.
        algorithm: by the interface specification's names.
        name: of the key.
        names: those that there are.
    """
    if name not in names or algorithm not in _ALGORITHMS[scheme]:
        return None
    return MasterKey(scheme, algorithm, name)
