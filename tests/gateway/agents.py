"""An agent by hand: identities of every kind, envelopes as agents make them or as somebody hostile would."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from perdure import Principal
from perdure.certification import Certificate, Pruned, RootKey, certify, root_hash, tree
from perdure.certification.hash_tree import encode_node
from perdure.gateway.envelope import hash_of_map
from perdure.gateway.http import HttpInterface, Response
from perdure.gateway.routing import Interfaces

COSE_OID = bytes.fromhex("060a2b0601040183b8430101")
CANISTER_OID = bytes.fromhex("060a2b0601040183b8430102")


def der(tag: int, content: bytes) -> bytes:
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    size = (len(content).bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + len(content).to_bytes(size, "big") + content


def public_key_der(oid: bytes, content: bytes) -> bytes:
    return der(0x30, der(0x30, oid) + der(0x03, b"\0" + content))


class Identity(NamedTuple):
    """A key and how it signs; the anonymous user has neither."""

    key: bytes | None = None
    sign: Callable[[bytes], bytes] = bytes

    @property
    def principal(self) -> bytes:
        return b"\4" if self.key is None else Principal.self_authenticating(self.key).raw_bytes


ANONYMOUS = Identity()


def _spki(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _raw(signature: bytes) -> bytes:
    return b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(signature))


def ed25519_identity() -> Identity:
    key = ed25519.Ed25519PrivateKey.generate()
    return Identity(_spki(key), key.sign)


def ecdsa_identity(curve: ec.EllipticCurve) -> Identity:
    key = ec.generate_private_key(curve)
    return Identity(_spki(key), lambda payload: _raw(key.sign(payload, ec.ECDSA(hashes.SHA256()))))


def device(cose: dict[int, object], sign: Callable[[bytes], bytes]) -> Identity:
    """A security device: what it signs is what the browser says, and its own data."""

    def assertion(payload: bytes) -> bytes:
        challenge = base64.urlsafe_b64encode(payload).rstrip(b"=").decode()
        told = json.dumps({"type": "webauthn.get", "challenge": challenge, "origin": "http://localhost"})
        data = bytes(37)
        signature = sign(data + hashlib.sha256(told.encode()).digest())
        parts = {"authenticator_data": data, "client_data_json": told, "signature": signature}
        return cbor2.dumps(cbor2.CBORTag(55799, parts))

    return Identity(public_key_der(COSE_OID, cbor2.dumps(cose)), assertion)


def p256_device() -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    numbers = key.public_key().public_numbers()
    x, y = (number.to_bytes(32, "big") for number in (numbers.x, numbers.y))
    return device({1: 2, 3: -7, -1: 1, -2: x, -3: y}, lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())))


def ed25519_device() -> Identity:
    key = ed25519.Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return device({1: 1, 3: -8, -1: 6, -2: raw}, key.sign)


def rsa_device() -> Identity:
    key = rsa.generate_private_key(65537, 2048)
    numbers = key.public_key().public_numbers()
    modulus = numbers.n.to_bytes(256, "big")
    return device(
        {1: 3, 3: -257, -1: modulus, -2: b"\1\0\1"}, lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    )


def canister_identity(root: RootKey, canister_id: bytes, seed: bytes = b"user 7") -> Identity:
    """A user for whom a canister signs, as Internet Identity does; the network's key certifies what it says."""

    def sign(payload: bytes) -> bytes:
        signatures = tree({b"sig": {hashlib.sha256(seed).digest(): {hashlib.sha256(payload).digest(): b""}}})
        state = tree({b"canister": {canister_id: {b"certified_data": root_hash(signatures)}}, b"time": b"\1"})
        certificate = certify(root, state, [(b"canister", canister_id, b"certified_data"), (b"time",)])
        parts = {"certificate": certificate.encode(), "tree": encode_node(signatures)}
        return cbor2.dumps(cbor2.CBORTag(55799, parts))

    content = bytes([len(canister_id)]) + canister_id + seed
    return Identity(public_key_der(CANISTER_OID, content), sign)


KINDS: dict[str, Callable[[], Identity]] = {
    "anonymous": lambda: ANONYMOUS,
    "Ed25519": ed25519_identity,
    "P-256": lambda: ecdsa_identity(ec.SECP256R1()),
    "secp256k1": lambda: ecdsa_identity(ec.SECP256K1()),
    "P-256 device": p256_device,
    "Ed25519 device": ed25519_device,
    "RSA device": rsa_device,
}


class Link(NamedTuple):
    """A delegation to an identity."""

    to: Identity
    fields: Mapping[str, object] = {}


def in_seconds(seconds: float) -> int:
    return time.time_ns() + int(seconds * 1e9)


def signed(content: Mapping[str, object], identity: Identity, links: tuple[Link, ...] = ()) -> tuple[bytes, bytes]:
    """A request's id and body."""
    whole = {"sender": identity.principal, "ingress_expiry": in_seconds(240), "nonce": os.urandom(8), **content}
    whole = {name: value for name, value in whole.items() if value is not None}
    request_id = hash_of_map(whole)
    envelope: dict[str, object] = {"content": whole}
    if identity.key is not None:
        envelope["sender_pubkey"] = identity.key
        last, chain = identity, []
        for link in links:
            body = {"pubkey": link.to.key, "expiration": in_seconds(600), **link.fields}
            payload = b"\x1aic-request-auth-delegation" + hash_of_map(body)
            chain.append({"delegation": body, "signature": last.sign(payload)})
            last = link.to
        if chain:
            envelope["sender_delegation"] = chain
        envelope["sender_sig"] = last.sign(b"\x0aic-request" + request_id)
    return request_id, cbor2.dumps(cbor2.CBORTag(55799, envelope))


class Agent:
    """Talks to an interface as one user."""

    def __init__(
        self,
        interface: HttpInterface | Interfaces,
        identity: Identity = ANONYMOUS,
        links: tuple[Link, ...] = (),
        root_key: bytes | None = None,
    ) -> None:
        self.interface = interface
        self.identity = identity
        self.links = links
        self.root_key = interface.live.subnet.root_key if root_key is None else root_key

    def post(self, path: str, body: bytes) -> Response:
        return self.interface.handle("POST", path, {}, body)

    def message(
        self, kind: str, canister: Principal, method: str, arg: bytes, **content: object
    ) -> tuple[bytes, bytes]:
        about = {"request_type": kind, "canister_id": canister.raw_bytes, "method_name": method, "arg": arg}
        return signed({**about, **content}, self.identity, self.links)

    def call(
        self, canister: Principal, method: str, arg: bytes = b"DIDL\0\0", version: str = "v4", **content: object
    ) -> tuple[bytes, Response]:
        request_id, body = self.message("call", canister, method, arg, **content)
        return request_id, self.post(f"/api/{version}/canister/{canister}/call", body)

    def update(self, canister: Principal, method: str, arg: bytes = b"DIDL\0\0", **content: object) -> bytes:
        """The reply, once its certificate is verified."""
        request_id, response = self.call(canister, method, arg, **content)
        assert response.status == 200, response
        certificate = self.certificate(response, canister)
        assert certificate.lookup(b"request_status", request_id, b"status") == b"replied"
        found = certificate.lookup(b"request_status", request_id, b"reply")
        assert isinstance(found, bytes)
        return found

    def certificate(self, response: Response, canister: Principal | None = None) -> Certificate:
        found = Certificate.decode(cbor2.loads(response.body)["certificate"])
        assert found.is_signed_by(self.root_key, None if canister is None else canister.raw_bytes)
        assert not isinstance(found.tree, Pruned)
        return found

    def query(
        self, canister: Principal, method: str, arg: bytes = b"DIDL\0\0", version: str = "v3", **content: object
    ) -> Any:
        _, body = self.message("query", canister, method, arg, **content)
        response = self.post(f"/api/{version}/canister/{canister}/query", body)
        assert response.status == 200, response
        return cbor2.loads(response.body)

    def read(self, place: str, *paths: list[bytes], **content: object) -> Response:
        _, body = signed({"request_type": "read_state", "paths": list(paths), **content}, self.identity, self.links)
        return self.post(f"/api/{place}/read_state", body)
