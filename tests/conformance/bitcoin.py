"""Has the network's Bitcoin canister answer ``bitcoin_*``, by the first scenario of its own end-to-end tests.

    python tests/conformance/bitcoin.py DIR

`DIR` is where cargo has built the modules of a checkout of github.com/dfinity/bitcoin-canister:

    cargo build -p ic-btc-canister -p scenario-1 --bins --target wasm32-unknown-unknown --release

A canister of the scenario serves five blocks of regtest, one of them in three parts. What its test asks the Bitcoin
canister is asked here as it asks, and by a canister that calls the management canister. Prints the answers that differ,
and counts; exits 1 if one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from pathlib import Path
from typing import Any, Final

from perdure import Principal, RejectError, Subnet
from perdure.candid import decode, encode, parse_types
from perdure.execution.management.elsewhere import BITCOIN_CANISTERS
from perdure.kit import call, canister, update

_NETWORK: Final = "network : variant { mainnet; testnet; regtest }"
_BALANCE: Final = (f"record {{ {_NETWORK}; address : text; min_confirmations : opt nat32 }}", "nat64")
_UTXOS: Final = (
    f"record {{ {_NETWORK}; address : text; filter : opt variant {{ min_confirmations : nat32; page : blob }} }}",
    "record { utxos : vec record { value : nat64; height : nat32 }; tip_height : nat32 }",
)
_METHODS: Final = {
    "get_balance": _BALANCE,
    "get_balance_query": _BALANCE,
    "get_utxos": _UTXOS,
    "get_utxos_query": _UTXOS,
    "get_block_headers": (
        f"record {{ {_NETWORK}; start_height : nat32; end_height : opt nat32 }}",
        "record { tip_height : nat32; block_headers : vec blob }",
    ),
    "get_current_fee_percentiles": (f"record {{ {_NETWORK} }}", "vec nat64"),
}
"""Types of argument and result, as much of the result as is looked at."""
_ARG: Final = parse_types(
    f"(variant {{ init : record {{ {_NETWORK.replace(':', ': opt')}; stability_threshold : opt nat;"
    " blocks_source : opt principal } })"
)
_SPENT: Final = "bcrt1qg4cvn305es3k8j69x06t9hf4v5yx4mxdaeazl8"
_SPENT_IN_THE_LAST_BLOCK: Final = "bcrt1qxp8ercrmfxlu0s543najcj6fe6267j97tv7rgf"
_RICH: Final = "bcrt1qenhfslne5vdqld0djs0h0tfw225tkkzzc60exh"
_SATOSHI: Final = 5_000_000_000
_ROUNDS: Final = 700


@canister
class Asker:
    """Asks the management canister, as the canister of somebody who uses Bitcoin does."""

    @update
    async def ask(self, method: str, arg: bytes) -> bytes:
        """The reply, as it comes."""
        return await call(Principal(b""), method, arg, cycles=100_000_000_000)


class _Scenario:
    def __init__(self, directory: Path) -> None:
        self.subnet = Subnet()
        source = self.subnet.install((directory / "scenario-1.wasm").read_bytes())
        given = {"network": {"regtest": None}, "stability_threshold": 2, "blocks_source": source.id}
        self.bitcoin = self.subnet.install(
            (directory / "ic-btc-canister.wasm").read_bytes(),
            encode(_ARG, [{"init": given}]),
            canister_id=BITCOIN_CANISTERS["regtest"],
        )
        self.asker = self.subnet.install(Asker)
        self.equal = self.different = 0

    def run(self) -> None:
        """Rounds until the blocks are there and three of them stable."""
        for _ in range(_ROUNDS):
            self.subnet.tick()

    def compare(self, method: str, expected: object, part: str = "", **arg: Any) -> None:
        """What the canister itself answers, and, but for queries, what the management canister does."""
        takes, gives = (parse_types(f"({one})") for one in _METHODS[method])
        sent, name = encode(takes, [{"network": {"regtest": None}, **arg}]), f"bitcoin_{method}"
        if method.endswith("_query"):
            replies = {"query": self.bitcoin.query(name, sent)}
        else:
            replies = {
                "update": self.bitcoin.update(name, sent),
                "management": self.asker.actor().ask(name, sent),
            }
        for way, reply in replies.items():
            (found,) = decode(reply, gives)
            self.judge(f"{name} {arg} as {way}", _part(found, part), expected)

    def refused(self, method: str, **arg: Any) -> None:
        """A query is not for replicated calls."""
        takes = parse_types(f"({_METHODS[method][0]})")
        sent = encode(takes, [{"network": {"regtest": None}, "address": _RICH, **arg}])
        try:
            self.bitcoin.update(f"bitcoin_{method}", sent)
            found = "a reply"
        except RejectError as error:
            found = error.code.name
        self.judge(f"bitcoin_{method} as update", found, "CANISTER_REJECT")

    def judge(self, what: str, found: object, expected: object) -> None:
        """Count an answer; say where it differs."""
        if found == expected:
            self.equal += 1
            return
        self.different += 1
        print(f"  {what}: {found!r:.200}, expected {expected!r:.200}")


def _part(found: Any, part: str) -> object:
    if part == "utxos":
        return len(found["utxos"])
    if part == "headers":
        headers = found["block_headers"]
        hashes = [hashlib.sha256(hashlib.sha256(one).digest()).digest() for one in headers]
        linked = all(one == after[4:36] for one, after in zip(hashes, headers[1:], strict=False))
        return found["tip_height"], len(headers), linked
    return found


def main() -> int:
    """Run the scenario."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("directory", type=Path, help="target/wasm32-unknown-unknown/release of the checkout")
    scenario, start = _Scenario(parser.parse_args().directory), time.process_time()
    scenario.run()
    for way in ("", "_query"):
        balance, utxos = f"get_balance{way}", f"get_utxos{way}"
        scenario.compare(balance, 0, address=_SPENT, min_confirmations=None)
        scenario.compare(balance, _SATOSHI, address=_SPENT_IN_THE_LAST_BLOCK, min_confirmations=2)
        scenario.compare(balance, _SATOSHI, address=_RICH, min_confirmations=None)
        scenario.compare(utxos, 0, "utxos", address=_SPENT_IN_THE_LAST_BLOCK, filter=None)
        scenario.compare(utxos, 1_000, "utxos", address=_RICH, filter=None)
    scenario.refused("get_balance_query", min_confirmations=None)
    scenario.refused("get_utxos_query", filter=None)
    scenario.compare("get_block_headers", (5, 6, True), "headers", start_height=0, end_height=None)
    scenario.compare("get_current_fee_percentiles", [0] * 101)
    print(
        f"{scenario.equal} answers as expected, {scenario.different} others; {_ROUNDS} rounds and all answers took "
        f"{time.process_time() - start:.1f} s of processor time"
    )
    return 1 if scenario.different else 0


if __name__ == "__main__":
    sys.exit(main())
