"""Where code that counts leaves what it has counted: the accounting memory, behind what `abi` has there.

`profile` draws the tree, `coverage` the counters; here are the places alone, which an instance needs to read them.
"""

from __future__ import annotations

import struct
from typing import Final

from perdure.instrument import abi

__all__ = [
    "COUNTERS",
    "COUNTER_BYTES",
    "FIRST_ENTRY",
    "HEADER",
    "LOST",
    "MAX_NODES",
    "NODE",
    "ROOT",
    "TREE",
    "WASM_PAGES",
]

TREE: Final = abi.ACCOUNTING_WASM_PAGES << 16
HEADER: Final = struct.Struct("<IIQ")
ROOT: Final = TREE + 0x20
LOST: Final = TREE + (48 << 20)
NODE: Final = struct.Struct("<IIIIQqQ")
MAX_NODES: Final = (LOST - ROOT) // NODE.size - 1
"""Beside the root."""
WASM_PAGES: Final = abi.ACCOUNTING_WASM_PAGES + 1664
"""Of the accounting memory: 48 MiB for the tree, and a stack as deep as calls can be."""
FIRST_ENTRY: Final = 0x8000_0000
COUNTERS: Final = WASM_PAGES << 16
COUNTER_BYTES: Final = 8
