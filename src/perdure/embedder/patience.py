"""How long, and with how much memory, a module may compile: a setting, without what starts processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

__all__ = ["Apart"]


@final
@dataclass(frozen=True, slots=True)
class Apart:
    """When and how to compile apart.

    Args:
        above_seconds: what is estimated to take longer goes to a process of its own.
        max_seconds: how long that may take.
        max_memory_bytes: how much address space it may have.
    """

    above_seconds: float = 2.0
    max_seconds: float = 600.0
    max_memory_bytes: int = 4 << 30
