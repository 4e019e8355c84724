"""What threshold signatures, vetKeys and HTTPS outcalls cost beyond the messages that ask for them.

    python benchmarks/signature_figures.py [--quick] [--json]

A canister forwards calls to the management canister. The processor time of one beyond that of ``raw_rand``, which has
the same two messages, is the figure: medians of calls that take turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from figures import Table, main
from perdure import Principal, Subnet
from perdure.candid.types import MethodRef
from perdure.execution.management.interface import codecs, transform_codecs
from perdure.kit import call, canister, query, update

CYCLES = 10_000_000_000
URL = "https://api.example.com/price"
TRANSPORT = "911969d56f42875d37a92d7eaa5d43293eff9f9a20ba4c60523e70a695eaeadeb721659b52a49d74e67841ad19033a12"


@canister
class Forwarder:
    """Forwards calls to the management canister."""

    @update(raw=True)
    async def forward(self, data: bytes) -> bytes:
        """The method's name, a space, its argument."""
        method, _, arg = data.partition(b" ")
        return await call(Principal(b""), method.decode(), arg, cycles=CYCLES)

    @query(raw=True)
    def body_only(self, arg: bytes) -> bytes:
        """A transform."""
        (given,) = transform_codecs()[0].decode(arg)
        return transform_codecs()[1].encode([{**given["response"], "headers": []}])


def arguments(transform: MethodRef) -> dict[str, tuple[str, bytes, float | None]]:
    """By figure: method, argument, target in ms."""
    ecdsa, p256 = ({"curve": {curve: None}, "name": "test_key_1"} for curve in ("secp256k1", "secp256r1"))
    bip340, ed25519 = ({"algorithm": {name: None}, "name": "test_key_1"} for name in ("bip340secp256k1", "ed25519"))
    schnorr = {"message": b"message", "derivation_path": [b"path"], "aux": None}
    tweaked = {**schnorr, "aux": {"bip341": {"merkle_root_hash": bytes(32)}}}
    vetkd = {"curve": {"bls12_381_g2": None}, "name": "test_key_1"}
    digest = {"message_hash": bytes(32), "derivation_path": [b"path"]}
    key = {"input": b"input", "context": b"context", "transport_public_key": bytes.fromhex(TRANSPORT), "key_id": vetkd}
    request = {"url": URL, "max_response_bytes": 2_000, "method": {"get": None}, "headers": [], "body": None}
    request |= {"is_replicated": None, "pricing_version": None}
    asked = {
        "ECDSA signature, secp256k1": ("sign_with_ecdsa", {**digest, "key_id": ecdsa}, 1.0),
        "ECDSA signature, secp256r1": ("sign_with_ecdsa", {**digest, "key_id": p256}, 1.0),
        "BIP340 signature": ("sign_with_schnorr", {**schnorr, "key_id": bip340}, 1.0),
        "BIP340 signature, BIP341's tweak": ("sign_with_schnorr", {**tweaked, "key_id": bip340}, 1.0),
        "Ed25519 signature": ("sign_with_schnorr", {**schnorr, "key_id": ed25519}, 1.0),
        "derived vetKey": ("vetkd_derive_key", key, 3.0),
        "outcall answered by a fixture": ("http_request", {**request, "transform": None}, 0.3),
        "outcall answered by a fixture, transformed twice": (
            "http_request",
            {**request, "transform": {"function": transform, "context": b""}},
            None,
        ),
    }
    return {what: (method, codecs()[method][0].encode([arg]), target) for what, (method, arg, target) in asked.items()}


def _ms(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return (time.process_time() - start) * 1e3


def measure(quick: bool) -> Table:
    """All figures."""
    table, rounds = Table("signature_figures"), 40 if quick else 200
    with Subnet() as subnet:
        made = subnet.install(Forwarder, cycles=10**18)
        subnet.outcalls.get(URL).respond(json={"usd": 12.5})
        plain = b"raw_rand " + codecs()["raw_rand"][0].encode([])
        for what, (method, arg, target) in arguments(MethodRef(made.id, "body_only")).items():
            data = method.encode() + b" " + arg
            for _ in range(3):
                made.update("forward", data)
                made.update("forward", plain)
            pairs = [
                (_ms(lambda data=data: made.update("forward", data)), _ms(lambda: made.update("forward", plain)))
                for _ in range(rounds)
            ]
            beyond = median(one - other for one, other in pairs)
            table.add(f"{what}, beyond its messages", beyond, "ms", target)
    return table


if __name__ == "__main__":
    main(measure)
