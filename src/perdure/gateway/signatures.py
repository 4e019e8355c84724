"""Signatures: every kind that agents make, verified; and who may say what in whose name.

| key | signature |
|---|---|
| Ed25519, P-256, secp256k1 in DER | 64 bytes |
| COSE key of a security device in DER | CBOR with the device's data and its own signature |
| a canister's, in DER | CBOR with a certificate and a tree: the canister certified the tree that has the payload |

Spec: "Signatures", "Authentication" in the interface specification.
"""

from __future__ import annotations

import base64
import json
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from hashlib import sha224, sha256
from typing import Any, Final, NamedTuple, final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from perdure.certification import Certificate, lookup, root_hash
from perdure.certification.hash_tree import decode_node
from perdure.errors import MalformedError
from perdure.gateway.envelope import Delegation, Envelope, Refusal, decode_cbor
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.threshold.libraries import is_installed, library

__all__ = ["Authority", "Verifier"]

_ANONYMOUS: Final = ANONYMOUS.raw_bytes
_REQUEST: Final = b"\x0aic-request"
_DELEGATION: Final = b"\x1aic-request-auth-delegation"
_SENDER_INFO: Final = b"\x0eic-sender-info"
_COSE_KEY: Final = bytes.fromhex("060a2b0601040183b8430101")
_CANISTER_KEY: Final = bytes.fromhex("060a2b0601040183b8430102")
_ES256, _EDDSA, _RS256 = -7, -8, -257
_K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_MAX_RSA_BITS: Final = 8192
"""Verification by a longer key takes longer than everything else."""
_MAX_KEY_BYTES: Final = 2048
_MAX_TREE_DEPTH: Final = 128
"""Of the tree in a canister's signature: forks of many thousand labels, and of as many signatures."""
_KEYS: Final = 4096
"""How many keys, and signatures, are remembered."""

_Verify = Callable[[bytes, bytes], None]
"""Of a signature and what was signed; raises what the caller takes for no."""


class _No(Exception):  # noqa: N818 -- an answer
    """The signature is not one."""


@final
class Authority(NamedTuple):
    """Who asks, as far as that is verified.

    Attributes:
        targets: canisters that requests may go to; `None`: any.
        caller_info: what a canister attests of the sender, and its id.
    """

    sender: bytes
    targets: frozenset[bytes] | None = None
    caller_info: tuple[bytes, bytes] = (b"", b"")


# -- keys


def _der_content(der: bytes, oid: bytes) -> bytes:
    """The bit string of a key, of an algorithm that has no parameters."""
    at, size = _der_header(der, 0, 0x30)
    if at + size != len(der):
        raise ValueError("bytes after the key")
    algorithm, length = _der_header(der, at, 0x30)
    if der[algorithm : algorithm + length] != oid:
        raise ValueError("an algorithm with parameters")
    bits, size = _der_header(der, algorithm + length, 0x03)
    if bits + size != len(der) or der[bits : bits + 1] != b"\0":
        raise ValueError("no whole bytes")
    return der[bits + 1 :]


def _der_header(der: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of an element begins, and its size."""
    if der[at : at + 1] != bytes([tag]) or at + 2 > len(der):
        raise ValueError(f"no element {tag:#x} at {at}")
    size = der[at + 1]
    if size < 0x80:
        return at + 2, size
    count = size & 0x7F
    if not 0 < count <= 4 or at + 2 + count > len(der):
        raise ValueError(f"a length that is none at {at + 1}")
    return at + 2 + count, int.from_bytes(der[at + 2 : at + 2 + count], "big")


def _plain(key: Any) -> _Verify:
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key.verify
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in {"secp256r1", "secp256k1"}:
        raise ValueError("a key of another kind than Ed25519, P-256 and secp256k1")
    algorithm = ec.ECDSA(hashes.SHA256())
    is_k1 = key.curve.name == "secp256k1"
    fast = is_k1 and is_installed("coincurve")
    verify_der = _by_coincurve(key) if fast else lambda signature, payload: key.verify(signature, payload, algorithm)

    def verify(signature: bytes, payload: bytes) -> None:
        if len(signature) != 64:
            raise _No(f"{len(signature)} bytes, expected 64")
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        if is_k1 and _K1_ORDER // 2 < s < _K1_ORDER:
            s = _K1_ORDER - s  # the same signature, in the form that libsecp256k1 takes
        verify_der(encode_dss_signature(r, s), payload)

    return verify


def _by_coincurve(key: ec.EllipticCurvePublicKey) -> _Verify:
    """By libsecp256k1, in a fraction of the time that OpenSSL takes; it comes with the extra ``signatures``."""
    other = library("coincurve").PublicKey(key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))

    def verify(signature: bytes, payload: bytes) -> None:
        if not other.verify(signature, payload):
            raise _No("it is of another key, or of something else")

    return verify


def _device_key(content: bytes) -> _Verify:
    """Of a COSE key: how the device's own signature is verified."""
    cose = decode_cbor(content, key=int)
    kind, algorithm = cose.get(1), cose.get(3)
    if (kind, algorithm, cose.get(-1)) == (2, _ES256, 1):
        x, y = (int.from_bytes(cose[name], "big") for name in (-2, -3))
        point = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        return lambda signature, data: point.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    if (kind, algorithm, cose.get(-1)) == (1, _EDDSA, 6):
        return ed25519.Ed25519PublicKey.from_public_bytes(cose[-2]).verify
    if (kind, algorithm) == (3, _RS256) and 8 * len(cose[-1]) <= _MAX_RSA_BITS and len(cose[-2]) <= 8:
        modulus, exponent = (int.from_bytes(cose[name], "big") for name in (-1, -2))
        key = rsa.RSAPublicNumbers(exponent, modulus).public_key()
        return lambda signature, data: key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    raise ValueError(f"a COSE key of kind {kind!r} and algorithm {algorithm!r}")


def _device(content: bytes) -> _Verify:
    verify_device = _device_key(content)

    def verify(signature: bytes, payload: bytes) -> None:
        parts = decode_cbor(signature)
        client = json.loads(parts["client_data_json"])
        challenge = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
        if client["challenge"].rstrip("=") != challenge:
            raise _No("another challenge")
        told = sha256(parts["client_data_json"].encode()).digest()
        verify_device(parts["signature"], parts["authenticator_data"] + told)

    return verify


def _canister(content: bytes, root_key_der: bytes) -> _Verify:
    size = content[0]
    canister_id, seed = content[1 : 1 + size], content[1 + size :]
    if len(canister_id) != size:
        raise ValueError("no canister's id")

    def verify(signature: bytes, payload: bytes) -> None:
        parts = decode_cbor(signature, max_depth=_MAX_TREE_DEPTH)
        certificate, tree = Certificate.decode(parts["certificate"]), decode_node(parts["tree"])
        if lookup((b"sig", sha256(seed).digest(), sha256(payload).digest()), tree) != b"":
            raise _No("the canister's tree does not have it")
        if certificate.lookup(b"canister", canister_id, b"certified_data") != root_hash(tree):
            raise _No("the canister has certified another tree")
        if not certificate.is_signed_by(root_key_der, canister_id):
            raise _No("the certificate is not of this network's root key")

    return verify


def signing_canister(der: bytes) -> bytes | None:
    """The canister that a key is of; `None`: it is of none."""
    if _CANISTER_KEY not in der[:24]:
        return None
    try:
        content = _der_content(der, _CANISTER_KEY)
        return content[1 : 1 + content[0]]
    except (ValueError, IndexError):
        return None


_FAILURES: Final = (
    _No,
    InvalidSignature,
    UnsupportedAlgorithm,
    MalformedError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    RecursionError,
    OverflowError,
)
"""What bytes that are no key or no signature bring about."""


@final
class Verifier:
    """Who may ask what; keys, and signatures that stay the same for many requests, are remembered.

    Args:
        root_key_der: of the network whose canisters may sign.
    """

    def __init__(self, root_key_der: bytes) -> None:
        self._root_key_der = root_key_der
        self._key = lru_cache(_KEYS)(self._load)
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def _load(self, der: bytes) -> _Verify:
        try:
            if len(der) > _MAX_KEY_BYTES:
                raise ValueError(f"{len(der)} bytes, at most {_MAX_KEY_BYTES} are taken")
            if _COSE_KEY in der[:24]:
                return _device(_der_content(der, _COSE_KEY))
            if _CANISTER_KEY in der[:24]:
                return _canister(_der_content(der, _CANISTER_KEY), self._root_key_der)
            return _plain(load_der_public_key(der))
        except Exception as error:
            raise Refusal(f"Invalid public key {der[:48].hex()}: {error}") from error

    def _verify(self, what: str, der: bytes, signature: bytes, payload: bytes) -> None:
        verify = self._key(der)
        try:
            verify(signature, payload)
        except _FAILURES as error:
            why = f": {error}" if str(error) else ""
            raise Refusal(f"Invalid signature: that of {what} could not be verified{why}") from error

    def _verify_once(self, what: str, der: bytes, signature: bytes, payload: bytes) -> None:
        """The same, of what comes with every request of a session: a canister's signature takes milliseconds."""
        parts = (der, signature, payload)
        name = sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).digest()
        if name not in self._known:
            self._verify(what, der, signature, payload)
            self._known[name] = None
            if len(self._known) > _KEYS:
                self._known.popitem(last=False)

    def authenticate(self, envelope: Envelope, request_type: str, now_ns: int) -> Authority:
        """Who sends a request, once everything about that is verified.

        Raises:
            Refusal: it is not, or the sender may not send this.
        """
        content, public_key, signature = envelope.content, envelope.public_key, envelope.signature
        sender = content["sender"]
        if sender == _ANONYMOUS:
            if public_key is not None or signature is not None or envelope.delegations:
                raise Refusal("Signature is not allowed for the anonymous user")
            if content.get("sender_info") is not None:
                raise Refusal("Invalid sender_info: nobody signs for the anonymous user")
            return Authority(sender)
        if not public_key or not signature:
            raise Refusal(f"Missing signature from user: {Principal(sender)}")
        if sha224(public_key).digest() + b"\2" != sender:
            raise Refusal(f"The user id {Principal(sender)} does not match the public key {public_key[:48].hex()}")
        key, targets = self._follow(public_key, envelope.delegations, request_type, now_ns)
        self._verify("the request", key, signature, _REQUEST + envelope.request_id)
        if targets is not None and request_type != "read_state" and content["canister_id"] not in targets:
            raise Refusal(f"Canister {Principal(content['canister_id'])} is not one of the delegation targets")
        return Authority(sender, targets, self._sender_info(content, public_key))

    def _follow(
        self, key: bytes, delegations: tuple[Delegation, ...], request_type: str, now_ns: int
    ) -> tuple[bytes, frozenset[bytes] | None]:
        """The key at the end of a chain, and the canisters that all of its links allow."""
        seen, targets = {key}, None
        for link in delegations:
            if link.expiration_ns < now_ns:
                raise Refusal(
                    f"Invalid delegation expiry: Specified sender delegation has expired: {link.expiration_ns} ns, "
                    f"now is {now_ns}"
                )
            if link.permissions == "queries" and request_type == "call":
                raise Refusal("Invalid delegation: its permissions are queries, and this is a call")
            if link.public_key in seen:
                raise Refusal(f"Invalid delegation: key {link.public_key[:48].hex()} is in the chain twice")
            seen.add(link.public_key)
            self._verify_once("a delegation", key, link.signature, _DELEGATION + link.digest)
            if link.targets is not None:
                allowed = frozenset(link.targets)
                targets = allowed if targets is None else targets & allowed
            key = link.public_key
        return key, targets

    def _sender_info(self, content: Any, public_key: bytes) -> tuple[bytes, bytes]:
        told = content.get("sender_info")
        if told is None:
            return b"", b""
        if signing_canister(public_key) != told["signer"]:
            raise Refusal(f"Invalid sender_info: the sender's key is not one of canister {Principal(told['signer'])}")
        self._verify_once("sender_info", public_key, told["sig"], _SENDER_INFO + told["info"])
        return told["info"], told["signer"]
