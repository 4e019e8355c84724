"""Threshold keys against what others have published; tests/facts/threshold.json says who."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.errors import HostError
from perdure.ic.principal import Principal
from perdure.threshold import (
    PRODUCTION_KEY_NAMES,
    TEST_KEY_NAMES,
    TransportKeyError,
    ed25519,
    master_key,
    secp256,
    vetkd,
)
from perdure.threshold.secp256 import SECP256K1, SECP256R1

ROOT = Path(__file__).parents[2]
ALL_NAMES = (*TEST_KEY_NAMES, *PRODUCTION_KEY_NAMES)
CANISTER = Principal.from_text("uzt4z-lp777-77774-qaabq-cai").raw_bytes

FACTS = json.loads((ROOT / "tests" / "facts" / "threshold.json").read_text())
"""Vectors that others have published, by what of; each with its source."""
POCKET_IC = FACTS["pocket_ic"]["vectors"]
SAMPLES = FACTS["steps"]["vectors"]
VETKD_MASTERS = FACTS["vetkd_masters"]["vectors"]


def key(scheme, algorithm, name):
    return master_key(scheme, algorithm, name, ALL_NAMES)


class TestDerivation:
    @pytest.mark.parametrize(("scheme", "algorithm", "words", "expected"), POCKET_IC, ids=[row[2] for row in POCKET_IC])
    def test_is_that_of_pocket_ic(self, scheme, algorithm, words, expected):
        path = f"Test Derivation For PocketIC {words}".encode().split(b" ")
        found = key(scheme, algorithm, words.rpartition(" ")[2]).public_key(CANISTER, path)
        assert found.public_key.hex() == expected
        assert len(found.chain_code) == 32

    @pytest.mark.parametrize(("curve", "public", "code", "path", "expected", "expected_code"), SAMPLES)
    def test_steps_are_those_of_public_keys(self, curve, public, code, path, expected, expected_code):
        import coincurve
        from nacl.bindings import crypto_core_ed25519_add

        public, code = bytes.fromhex(public), bytes.fromhex(code)
        for word in path:
            if curve == "ed25519":
                offset, code = ed25519.step(public, code, word.encode())
                public = crypto_core_ed25519_add(public, ed25519.public_key(offset))
            else:
                offset, code = secp256.step(SECP256K1, public, code, word.encode())
                public = coincurve.PublicKey(public).add(offset.to_bytes(32, "big")).format()
        assert (public.hex(), code.hex()) == (expected, expected_code)

    def test_whose_and_which_matters(self):
        mine = key("ecdsa", "secp256k1", "test_key_1")
        found = {
            mine.public_key(CANISTER, []),
            mine.public_key(CANISTER[::-1], []),
            mine.public_key(CANISTER, [b""]),
            mine.public_key(CANISTER, [b"", b""]),
            key("ecdsa", "secp256k1", "dfx_test_key").public_key(CANISTER, []),
            key("ecdsa", "secp256r1", "test_key_1").public_key(CANISTER, []),
        }
        assert len(found) == 6

    def test_names(self):
        assert master_key("ecdsa", "secp256k1", "key_1") is None
        assert master_key("ecdsa", "ed25519", "test_key_1") is None
        assert str(master_key("ecdsa", "secp256k1", "test_key_1")) == "ecdsa:secp256k1:test_key_1"


class TestEcdsa:
    @pytest.mark.parametrize(("message", "r", "s"), FACTS["rfc_6979"]["vectors"])
    def test_rfc_6979(self, message, r, s):
        """Of the two s the smaller one is ours."""
        secret = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
        found = secp256.sign_ecdsa(SECP256R1, secret, hashlib.sha256(message.encode()).digest())
        assert found[:32].hex().upper() == r
        assert int.from_bytes(found[32:], "big") == min(int(s, 16), SECP256R1.order - int(s, 16))

    @pytest.mark.parametrize("algorithm", ["secp256k1", "secp256r1"])
    def test_verifies_elsewhere(self, algorithm):
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        curve = {"secp256k1": ec.SECP256K1(), "secp256r1": ec.SECP256R1()}[algorithm]
        mine, path = key("ecdsa", algorithm, "test_key_1"), [b"a", b"\0"]
        public = ec.EllipticCurvePublicKey.from_encoded_point(curve, mine.public_key(CANISTER, path).public_key)
        for digest in (hashlib.sha256(b"m").digest(), bytes(32), b"\xff" * 32):
            signature = mine.sign(CANISTER, path, digest)
            r, s = (int.from_bytes(signature[at : at + 32], "big") for at in (0, 32))
            check = utils.encode_dss_signature(r, s)
            public.verify(check, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))

    def test_is_what_libsecp256k1_signs(self):
        import coincurve

        for number in (1, 7, SECP256K1.order - 1):
            theirs = coincurve.PrivateKey(number.to_bytes(32, "big"))
            digest = hashlib.sha256(str(number).encode()).digest()
            assert secp256.sign_ecdsa(SECP256K1, number, digest) == theirs.sign_recoverable(digest, hasher=None)[:64]

    def test_is_the_same_without_coincurve(self):
        for number in (1, 2, 7, SECP256K1.order - 1, 2**200 + 5):
            assert secp256._slow_k1(number) == SECP256K1.public_key(number)


class TestSchnorr:
    # BIP340, test-vectors.csv, 0: the others are of other auxiliary randomness than zeros.
    def test_bip340(self):
        found = secp256.sign_bip340(3, bytes(32)).hex()
        assert found == (
            "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
            "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0"
        )

    def test_is_what_libsecp256k1_signs(self):
        import coincurve

        for number in (1, 3, 5, SECP256K1.order - 2, 2**200):
            theirs = coincurve.PrivateKey(number.to_bytes(32, "big"))
            message = hashlib.sha256(str(number).encode()).digest()
            assert secp256.sign_bip340(number, message) == theirs.sign_schnorr(message, bytes(32))

    @pytest.mark.parametrize(
        ("secret", "root", "tweaked", "digest", "witness"),
        FACTS["bip341"]["vectors"],
    )  # fmt: skip
    def test_bip341(self, secret, root, tweaked, digest, witness):
        found = secp256.taproot(int(secret, 16), bytes.fromhex(root))
        assert f"{found:064x}" == tweaked
        assert secp256.sign_bip340(found, bytes.fromhex(digest)).hex() == witness

    @pytest.mark.parametrize("message", [b"", b"m", bytes(32), b"long" * 1_000])
    def test_messages_of_any_length_verify(self, message):
        """By the equation of BIP340: s G = R + e P."""
        import coincurve

        mine = key("schnorr", "bip340secp256k1", "test_key_1")
        signature, public = mine.sign(CANISTER, [b"p"], message), mine.public_key(CANISTER, [b"p"]).public_key[1:]
        if len(message) == 32:
            assert coincurve.PublicKeyXOnly(public).verify(signature, message)
        challenge = int.from_bytes(secp256._tagged(b"BIP0340/challenge", signature[:32] + public + message), "big")
        left = SECP256K1.public_key(int.from_bytes(signature[32:], "big"))
        right = coincurve.PublicKey(b"\2" + public).multiply((challenge % SECP256K1.order).to_bytes(32, "big"))
        commitment = coincurve.PublicKey(b"\2" + signature[:32])
        assert coincurve.PublicKey.combine_keys([right, commitment]).format() == left

    def test_a_tweaked_key_signs(self):
        import coincurve

        mine, root = key("schnorr", "bip340secp256k1", "dfx_test_key"), bytes(range(32))
        for merkle_root in (b"", root):
            x_only = coincurve.PublicKeyXOnly(mine.public_key(CANISTER, []).public_key[1:])
            x_only.tweak_add(secp256._tagged(b"TapTweak", x_only.format() + merkle_root))
            assert x_only.verify(mine.sign(CANISTER, [], bytes(32), merkle_root), bytes(32))

    @pytest.mark.parametrize(
        ("seed", "public", "message", "signature"),
        FACTS["rfc_8032"]["vectors"],
    )  # fmt: skip
    def test_rfc_8032(self, seed, public, message, signature):
        secret, prefix = ed25519.expand(bytes.fromhex(seed))
        assert ed25519.public_key(secret).hex() == public
        found = ed25519.sign(secret, prefix, bytes.fromhex(public), bytes.fromhex(message))
        assert found.hex() == signature

    def test_a_derived_ed25519_key_signs(self):
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        mine, path = key("schnorr", "ed25519", "key_1"), [b"a", b"b"]
        public = Ed25519PublicKey.from_public_bytes(mine.public_key(CANISTER, path).public_key)
        for message in (b"", b"m" * 1_000):
            public.verify(mine.sign(CANISTER, path, message), message)


class TestVetkd:
    # RFC 9380, K.1, of 32 bytes.
    @pytest.mark.parametrize(
        ("message", "expected"),
        [
            (b"", "68a985b87eb6b46952128911f2a4412bbc302a9d759667f87f7a21d803f07235"),
            (b"abc", "d8ccab23b5985ccea865c6c97b6e5b8350e794e603b4b97902f53a8a0d605615"),
            (b"abcdef0123456789", "eff31487c770a893cfb36f912fbfcbff40d5661771ca4b2cb4eafe524333f5c1"),
            (b"q128_" + b"q" * 128, "b23a1d2b4d97b2ef7785562a7e8bac7eed54ed6e97e29aa51bfe3f12ddad1ff9"),
        ],
    )
    def test_expand_message(self, message, expected):
        found = vetkd.expand_message_xmd(message, b"QUUX-V01-CS02-with-expander-SHA256-128", len(expected) // 2)
        assert found.hex() == expected

    def test_expand_message_to_more_than_a_block(self):
        """RFC 9380, K.1, ``abc`` to 128 bytes: its beginning."""
        found = vetkd.expand_message_xmd(b"abc", b"QUUX-V01-CS02-with-expander-SHA256-128", 128)
        assert found.hex().startswith(
            "abba86a6129e366fc877aab32fc4ffc70120d8996c88aee2fe4b32d6c7b6437a"
            "647e6c3163d40b76a73cf6a5674ef1d890f95b664ee0afa5359a5c4e07985635"
            "bbecbac65d747d3d2da7ec2b8221b17b0ca9dc8a1ac1c07ea6a1e60583e2cb00"
        )

    @pytest.mark.parametrize(("message", "expected"), FACTS["hash_to_scalar"]["vectors"])
    def test_hash_to_scalar(self, message, expected):
        domain = b"QUUX-V01-CS02-with-BLS12381SCALAR_XMD:SHA-256_SSWU_RO_"
        assert f"{vetkd.hash_to_scalar(message.encode(), domain):064x}" == expected

    @pytest.mark.parametrize("name", VETKD_MASTERS)
    def test_master_keys_are_those_of_pocket_ic(self, name):
        assert vetkd.public_key(vetkd.master_secret(name)).hex() == VETKD_MASTERS[name]

    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"", "48 bytes, found 0"),
            (bytes(48), "no point of G1"),
            (b"\xff" * 48, "no point of G1"),
            (b"\xc0" + bytes(47), "infinity"),
            (bytes.fromhex(VETKD_MASTERS["key_1"]), "48 bytes, found 96"),
            (b"\x80" + bytes(46) + b"\4", "no point of G1"),  # on the curve, in another group
        ],
    )
    def test_wrong_transport_keys(self, data, words):
        with pytest.raises(TransportKeyError, match=words):
            key("vetkd", "bls12_381_g2", "test_key_1").derive_key(CANISTER, b"", b"", data)

    @pytest.mark.slow
    @pytest.mark.parametrize("context", [b"", b"a context"], ids=["no context", "context"])
    def test_round_trip_through_npm_vetkeys(self, context):
        mine = key("vetkd", "bls12_381_g2", "test_key_1")
        secret, transport = FACTS["transport_key"]["vectors"]
        encrypted = mine.derive_key(CANISTER, context, b"message", bytes.fromhex(transport))
        assert len(encrypted) == 192
        told = {
            "key": VETKD_MASTERS["test_key_1"],
            "canister": CANISTER.hex(),
            "context": context.hex(),
            "transport_secret": secret,
            "transport_public": transport,
            "input": b"message".hex(),
            "encrypted": encrypted.hex(),
        }
        answer = node_says(told)
        assert answer["derived_public_key"] == mine.context_key(CANISTER, context).hex()
        assert answer["decrypted"] == b"secret text".hex()


SCRIPT = """
import * as v from "@dfinity/vetkeys";
import { readFileSync } from "fs";
const told = JSON.parse(readFileSync(0, "utf8"));
const bytes = (text) => Uint8Array.from(Buffer.from(text, "hex")), hex = (data) => Buffer.from(data).toString("hex");
const of_canister = v.MasterPublicKey.deserialize(bytes(told.key)).deriveCanisterKey(bytes(told.canister));
const key = of_canister.deriveSubKey(bytes(told.context));
const transport = new v.TransportSecretKey(bytes(told.transport_secret));
if (hex(transport.publicKeyBytes()) !== told.transport_public) throw new Error("another transport key");
const encrypted = v.EncryptedVetKey.deserialize(bytes(told.encrypted));
const vetkey = encrypted.decryptAndVerify(transport, key, bytes(told.input));
const identity = v.IbeIdentity.fromBytes(bytes(told.input));
const seed = v.IbeSeed.fromBytes(new Uint8Array(32));
const sealed = v.IbeCiphertext.encrypt(key, identity, Buffer.from("secret text"), seed);
console.log(JSON.stringify({derived_public_key: hex(key.publicKeyBytes()), decrypted: hex(sealed.decrypt(vetkey))}));
"""
PACKAGE = "@dfinity/vetkeys@0.4.0"


def node_says(told):
    if shutil.which("node") is None or shutil.which("npm") is None:
        if os.environ.get("CI"):
            pytest.fail("node is missing")
        pytest.skip("needs node")
    directory = ROOT / "build" / "canisters" / "npm-vetkeys-0.4.0"
    if not (directory / "node_modules" / "@dfinity" / "vetkeys").exists():
        directory.mkdir(parents=True, exist_ok=True)
        words = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-save", PACKAGE]
        subprocess.run(words, cwd=directory, check=True, capture_output=True)
    done = subprocess.run(
        ["node", "--input-type=module", "-e", SCRIPT],
        cwd=directory,
        input=json.dumps(told),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_without_the_extra_the_error_names_it(monkeypatch):
    from perdure.threshold import libraries

    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    libraries.library.cache_clear()
    try:
        with pytest.raises(HostError, match=r"of the extra signatures: pip install 'perdure\[signatures\]'"):
            ed25519.public_key(5)
    finally:
        libraries.library.cache_clear()
