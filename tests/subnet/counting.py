"""Programs of the universal canister that count: what `injector.py` and `kill_script.py` let canisters do."""

from __future__ import annotations

from typing import Any

from built_canisters import CANISTERS, load_file

UNIVERSAL = CANISTERS / "modules" / "universal32.wasm"
universal = load_file(CANISTERS / "universal" / "universal.py")
P = universal.Program


def count(register: int, address: int) -> Any:
    """Count in a register (the heap) and at an address of stable memory."""
    return (
        P()
        .set(register, P().add(P().get(register), 1))
        .then(P().set(251, P().alloc(8)).store64(P().get(251), P().get(register)))
        .then(P().stable64_write(address, P().span(P().get(251), 8)))
    )
