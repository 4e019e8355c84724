"""Makes `snapshot` of the deployed version, with something in it that an upgrade could lose."""

from __future__ import annotations

import sys
from pathlib import Path

from perdure import Subnet

HERE = Path(__file__).parent


def fill(directory: Path) -> None:
    """Write a snapshot."""
    canister = Subnet().install(HERE / "deployed" / "visits.wasm.gz")
    for name in ("ada", "bob", "carol"):
        canister.actor().visit(name)
    canister.write_snapshot(directory)


if __name__ == "__main__":
    fill(Path(*(sys.argv[1:] or ["snapshot"])))
