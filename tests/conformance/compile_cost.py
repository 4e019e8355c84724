"""What the network charged for installing the Candid UI's module: the checkout of github.com/dfinity/sdk.

    python tests/conformance/compile_cost.py DIR

A replica of dfx charged 4,635,280,724 cycles: 6,000 instructions for each of the 771,704 operators that it counted in
the module as it instrumented it, 56,724 for its ``canister_init``, 5,000,000 the base fee of the message.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from perdure import Subnet

MODULE = "src/distributed/ui.wasm"
SHA_256 = "f45db224b40fac516c877e3108dc809d4b22fa42d05ee8dfa5002536a3a3daed"
CYCLES = 6_000 * 771_704 + 56_724 + 5_000_000


def main(directory: str) -> int:
    """Install it."""
    wasm = Path(directory, MODULE).read_bytes()
    if hashlib.sha256(wasm).hexdigest() != SHA_256:
        print(f"{MODULE} is another module than the one whose charge is known (SHA-256 {SHA_256})")
        return 1
    cycles = 10**15
    with Subnet() as subnet:
        charged = cycles - subnet.install(wasm, b"DIDL\0\0", cycles=cycles).status().cycles
    print(f"{charged:,} cycles, expected {CYCLES:,}")
    return charged != CYCLES


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
