"""Threshold ECDSA, Schnorr and vetKD, with keys that are public: see `perdure.threshold`.

Spec: "IC method ecdsa_public_key", "sign_with_ecdsa", "schnorr_public_key", "sign_with_schnorr", "vetkd_public_key",
"vetkd_derive_key".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure.canister import Reject
from perdure.execution.management.call import Call, Values
from perdure.execution.rejects import rejected
from perdure.ic.reject import ErrorCode, RejectCode

if TYPE_CHECKING:
    from perdure.threshold import MasterKey

__all__ = [
    "ecdsa_public_key",
    "schnorr_public_key",
    "sign_with_ecdsa",
    "sign_with_schnorr",
    "vetkd_derive_key",
    "vetkd_public_key",
]

MAX_PATH_ELEMENTS: Final = 255
_DIGEST_BYTES: Final = 32


def _wrong(words: str) -> Reject:
    """An argument that has the right type and not the right size: decoding refuses it on the network."""
    return rejected(ErrorCode.INVALID_MANAGEMENT_PAYLOAD, f"Error decoding candid: {words}")._replace(
        code=RejectCode.CANISTER_ERROR
    )


def _key(call: Call, scheme: str, part: str = "curve") -> MasterKey | Reject:
    """The master key that an argument names."""
    from perdure.threshold import KEYS_ARE_PUBLIC, PRODUCTION_KEY_NAMES, TEST_KEY_NAMES, master_key

    key_id = call.arg["key_id"]
    (algorithm,) = key_id[part]
    with_production_names = call.world.config.production_key_names
    names = (*TEST_KEY_NAMES, *PRODUCTION_KEY_NAMES) if with_production_names else TEST_KEY_NAMES
    found = master_key(scheme, algorithm, key_id["name"], names)
    if found is None:
        name = f"{scheme}:{algorithm}:{key_id['name'][:80]}"
        there = ", ".join(f"{scheme}:{algorithm}:{one}" for one in names)
        is_off = key_id["name"] in PRODUCTION_KEY_NAMES and not with_production_names
        hint = "; SubnetConfig(production_key_names=True) offers it, as public as the others" if is_off else ""
        return Reject(
            RejectCode.DESTINATION_INVALID,
            f"Unable to route management canister request {call.message.method_name}: "
            f"Requested unknown threshold key: {name}, existing keys: [{there}]{hint}",
        )
    path = call.arg.get("derivation_path", ())
    if len(path) > MAX_PATH_ELEMENTS:
        return _wrong(f"derivation_path has {len(path)} elements, at most {MAX_PATH_ELEMENTS} are allowed")
    call.world.host.say_once(KEYS_ARE_PUBLIC)
    return found


def _whose(call: Call) -> bytes:
    """The canister whose public key is asked for."""
    canister_id = call.arg["canister_id"]
    raw_id: bytes = call.message.caller if canister_id is None else canister_id.raw_bytes
    return raw_id


def _pay(call: Call, key: MasterKey) -> Reject | None:
    """Take the fee from the cycles that came along."""
    method_name, cycles = call.message.method_name, call.message.cycles
    fee = call.world.costs.signature_fees[key.name]
    if cycles < fee:
        words = f"{method_name} request sent with {cycles} cycles, but {fee} cycles are required."
        return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, words)
    call.message.cycles -= fee
    call.world.state.consumed_cycles += fee
    return None


def _public_key(call: Call, key: MasterKey | Reject) -> Values | Reject:
    if isinstance(key, Reject):
        return key
    return [key.public_key(_whose(call), call.arg["derivation_path"])._asdict()]


def ecdsa_public_key(call: Call) -> Values | Reject:
    """The public key of a canister's path, in SEC1's compressed form, and its chain code."""
    return _public_key(call, _key(call, "ecdsa"))


def sign_with_ecdsa(call: Call) -> Values | Reject:
    """A signature by the key of the caller's path."""
    key, digest = _key(call, "ecdsa"), call.arg["message_hash"]
    if isinstance(key, Reject):
        return key
    if len(digest) != _DIGEST_BYTES:
        return _wrong(f"message_hash has {len(digest)} bytes, {_DIGEST_BYTES} are expected")
    refusal = _pay(call, key)
    return refusal or [{"signature": key.sign(call.message.caller, call.arg["derivation_path"], digest)}]


def schnorr_public_key(call: Call) -> Values | Reject:
    """The public key of a canister's path, of secp256k1 in SEC1's compressed form, and its chain code."""
    return _public_key(call, _key(call, "schnorr", "algorithm"))


def sign_with_schnorr(call: Call) -> Values | Reject:
    """A signature by the key of the caller's path, of bip340secp256k1 tweaked where ``aux`` has a Merkle root."""
    key, aux = _key(call, "schnorr", "algorithm"), call.arg["aux"]
    if isinstance(key, Reject):
        return key
    merkle_root = None if aux is None else aux["bip341"]["merkle_root_hash"]
    if merkle_root is not None and key.algorithm != "bip340secp256k1":
        words = f"aux bip341 is for bip340secp256k1, the key is of {key.algorithm}"
        return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, words)
    if merkle_root is not None and len(merkle_root) not in {0, _DIGEST_BYTES}:
        words = f"merkle_root_hash has {len(merkle_root)} bytes, 0 or {_DIGEST_BYTES} are expected"
        return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, words)
    refusal = _pay(call, key)
    if refusal is not None:
        return refusal
    signature = key.sign(call.message.caller, call.arg["derivation_path"], call.arg["message"], merkle_root)
    return [{"signature": signature}]


def vetkd_public_key(call: Call) -> Values | Reject:
    """The public key of a canister's context."""
    key = _key(call, "vetkd")
    return key if isinstance(key, Reject) else [{"public_key": key.context_key(_whose(call), call.arg["context"])}]


def vetkd_derive_key(call: Call) -> Values | Reject:
    """The vetKey of an input in the caller's context, encrypted."""
    from perdure.threshold import TransportKeyError

    key, arg = _key(call, "vetkd"), call.arg
    if isinstance(key, Reject):
        return key
    try:
        encrypted = key.derive_key(call.message.caller, arg["context"], arg["input"], arg["transport_public_key"])
    except TransportKeyError as error:
        return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, f"transport_public_key: {error}")
    return _pay(call, key) or [{"encrypted_key": encrypted}]
