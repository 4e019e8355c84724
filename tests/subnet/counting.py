"""Programs of the universal canister that count: what `injector.py` and `kill_script.py` let canisters do."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

CANISTERS = Path(__file__).parents[1] / "canisters"
UNIVERSAL = CANISTERS / "modules" / "universal32.wasm"


def _universal() -> Any:
    spec = importlib.util.spec_from_file_location("counting_universal", CANISTERS / "universal" / "universal.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


universal = _universal()
P = universal.Program


def count(register: int, address: int) -> Any:
    """Count in a register (the heap) and at an address of stable memory."""
    return (
        P()
        .set(register, P().add(P().get(register), 1))
        .then(P().set(251, P().alloc(8)).store64(P().get(251), P().get(register)))
        .then(P().stable64_write(address, P().span(P().get(251), 8)))
    )
