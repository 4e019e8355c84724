"""Upgrades between releases of canisters by others, and what must not come after them.

    make conformance SUITE=releases DIR=.../dfinity/sdk

DIR is a checkout of github.com/dfinity/sdk, which keeps releases of the cycles wallet and of the asset canister under
``e2e/archive`` and ``src/distributed``. Each row of `ROWS` is an upgrade with what the check has to say of it; a module
with ``-NAME`` behind it is without that export, as if a hook had been forgotten. Exits 1 if one is judged otherwise.
"""

from __future__ import annotations

import gzip
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from perdure import Principal, Subnet
from perdure.errors import PerdureError
from perdure.subnet import Canister
from perdure.wasm import decode, encode

WALLET = """service : { set_name : (text) -> (); name : () -> (opt text) query; add_controller : (principal) -> ();
  get_controllers : () -> (vec principal) query; get_custodians : () -> (vec principal) query;
  wallet_balance : () -> (record { amount : nat64 }) query; wallet_api_version : () -> (text) query }"""
ASSETS = """service : { list : (record {}) -> (vec record { key : text; content_type : text }) query;
  delete_asset : (record { key : text }) -> ();
  store : (record { key : text; content_type : text; content_encoding : text; content : blob; sha256 : opt blob }) ->
  () }"""
"""Of both, what all releases have; the oldest modules say no interface."""

PLACES = {
    **{
        f"wallet {number}": f"e2e/archive/wallet/{number}/wallet.wasm"
        for number in ("0.7.0", "0.8.2", "0.10.0", "0.12.0")
    },
    "assets 0.12.1": "e2e/archive/frontend/0.12.1/assetstorage.wasm.gz",
    "assets now": "src/distributed/assetstorage.wasm.gz",
}


class Row(NamedTuple):
    """One upgrade: what runs, what comes, what has to be said; the argument, and methods that are meant to differ."""

    old: str
    new: str
    verdict: str
    arg: str | None = None
    volatile: tuple[str, ...] = ()


INIT = "(opt variant { Init = record { set_permissions = null } })"
HOOK = "-canister_post_upgrade"
ROWS = (
    # From 0.8 on, custodians no longer include the controllers.
    Row("wallet 0.7.0", "wallet 0.8.2", "safe", volatile=("get_custodians",)),
    Row("wallet 0.8.2", "wallet 0.10.0", "safe"),
    Row("wallet 0.10.0", "wallet 0.12.0", "safe"),
    Row("assets 0.12.1", "assets 0.12.1", "safe"),
    Row("assets 0.12.1", "assets now", "safe"),
    Row("wallet 0.12.0", "wallet 0.8.2", "breaking"),
    Row("wallet 0.10.0", "assets 0.12.1", "breaking"),
    Row("wallet 0.10.0", f"wallet 0.10.0{HOOK}", "breaking"),
    Row("wallet 0.10.0-canister_pre_upgrade", "wallet 0.12.0", "breaking"),
    Row("assets 0.12.1", "wallet 0.10.0", "breaking"),
    Row("assets now", "assets 0.12.1", "breaking"),
    Row("assets 0.12.1", "assets now", "breaking", arg=INIT),
    Row("assets 0.12.1", f"assets now{HOOK}", "breaking"),
    Row("assets 0.12.1-canister_pre_upgrade", "assets now", "breaking"),
    Row("assets 0.12.1", "assets 0.12.1-canister_query retrieve", "breaking"),
)


def module(directory: Path, name: str) -> bytes:
    """A release, without the export that is named behind it."""
    name, _, without = name.partition("-")
    data = (directory / PLACES[name]).read_bytes()
    wasm = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    if not without:
        return wasm
    found = decode(wasm)
    kept = tuple(one for one in found.exports if one.name != without)
    if len(kept) == len(found.exports):
        raise ValueError(f"{name} has no export {without}")
    return encode(replace(found, exports=kept))


def fill(canister: Canister, interface: str) -> None:
    """What its users have left in it."""
    actor = canister.actor(candid=interface)
    if interface is WALLET:
        actor.set_name("mine")
        actor.add_controller(Principal.from_text("aaaaa-aa"))
        return
    for number in range(8):
        page = {"key": f"/{number}.html", "content_type": "text/html", "content_encoding": "identity", "sha256": None}
        actor.store({**page, "content": b"a page" * (number + 1)})


def judged(directory: Path, row: Row) -> tuple[bool, str]:
    """Whether the verdict is right, and what was said."""
    interface = WALLET if row.old.startswith("wallet") else ASSETS
    with Subnet() as subnet:
        canister = subnet.install(module(directory, row.old))
        fill(canister, interface)
        report = canister.check_upgrade(
            module(directory, row.new), row.arg, old_candid=interface, volatile=list(row.volatile)
        )
    return report.verdict == row.verdict, f"{report.verdict} {', '.join(report.causes)}"


def main() -> int:
    """Judge them all."""
    wrong = 0
    for row in ROWS:
        try:
            is_right, found = judged(Path(sys.argv[1]), row)
        except (PerdureError, ValueError, OSError) as error:
            is_right, found = False, f"{type(error).__name__}: {error}"
        wrong += not is_right
        print(f"{'right' if is_right else 'WRONG'}  {row.old} to {row.new}: {found}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
