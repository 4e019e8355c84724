"""A source that was found, and what sources are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

__all__ = ["DUMP_ENDS", "MEMORY_FILES", "MODULE_FILE", "OWN_MEMORIES", "SNAPSHOT_FILE", "Found"]

SNAPSHOT_FILE: Final = "metadata.json"
MODULE_FILE: Final = "wasm_module.bin"
MEMORY_FILES: Final = ("wasm_memory.bin", "stable_memory.bin")
OWN_MEMORIES: Final = "memories"
"""A directory of further ones."""
DUMP_ENDS: Final = (".bin", ".bin.gz")


@final
@dataclass(frozen=True)
class Found:
    """A source.

    Attributes:
        source: as commands take it.
        module_hash: SHA-256 of its module in hexadecimal, or its object's entity tag; nothing where it has none, or
            none that can be read.
        size_bytes: that it takes on the disk.
        mark: changes with what it holds.
    """

    source: str
    module_hash: str = ""
    size_bytes: int = 0
    mark: str = ""
