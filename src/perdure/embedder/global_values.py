"""Globals as they lie in message memory, 16 bytes each, and as values."""

from __future__ import annotations

from perdure.canister import GlobalValue
from perdure.embedder.facts import ModuleFacts
from perdure.instrument import abi

__all__ = ["pack_globals", "unpack_globals"]

_SIZES = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}


def pack_globals(facts: ModuleFacts, values: tuple[GlobalValue, ...]) -> bytes:
    """Globals as bytes; of one that is saved more than once the last value counts.

    Raises:
        ValueError: they are not of the module's types.
    """
    types = facts.global_types
    if types != tuple(value.value_type for value in values):
        raise ValueError(f"globals of types {[value.value_type for value in values]}, the module has {list(types)}")
    placed = dict(zip(facts.global_places, values, strict=True))
    return b"".join(placed[place].bits.ljust(abi.GLOBAL_BYTES, b"\0") for place in range(len(placed)))


def unpack_globals(facts: ModuleFacts, packed: bytes) -> tuple[GlobalValue, ...]:
    """Globals as values."""
    starts = [place * abi.GLOBAL_BYTES for place in facts.global_places]
    return tuple(
        GlobalValue(kind, packed[start : start + _SIZES[kind]])
        for kind, start in zip(facts.global_types, starts, strict=True)
    )
