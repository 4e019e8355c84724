"""How many operators a module has as the replica instruments it: what compiling is charged by.

Nothing is instrumented for it: what the replica adds to a function follows from the numbers of its instructions. At
the start of each block 4 operators subtract its cost, where it has any; 6 more compare the counter where code can be
entered again. 3 stand around a ``memory.grow``, 1 or 3 before a bulk operation. Two helper functions, three globals and
the bodies of the stable memory functions in use come on top; each global's initialiser has 2 operators.

Source: ``instrument``, ``injections`` and ``inject_metering`` in ``instrumentation.rs``, ``system_api_replacements.rs``
of the replica at 6abf8506 (2026). Held against a published install: 771,704 operators of the Candid UI's module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from perdure.instrument.scanning import BULK_LENGTH, BULK_LENGTH_32
from perdure.wasm import OPCODE_BY_NAME, ExternKind, Module
from perdure.wasm.tokens import charset

__all__ = ["replica_operators", "replica_overhead"]


def _numbers(names: str) -> list[int]:
    return [OPCODE_BY_NAME[name].number for name in names.split()]


_LOOP: Final = OPCODE_BY_NAME["loop"].number
_MEMORY_GROW: Final = OPCODE_BY_NAME["memory.grow"].number
_ENDING: Final = charset(_numbers("if else br br_if br_table end return unreachable return_call return_call_indirect"))
_FREE: Final = charset(_numbers("block loop else end"))
_CHARGED_BLOCK: Final = re.compile(
    b"(?<=" + _ENDING + b")" + charset(_numbers("block")) + b"*+(?!" + _FREE + rb")[\x00-\xff]", re.DOTALL
)
"""A block that cannot be entered again and costs something: it does not end at once by an instruction that is free."""

_STATIC, _REENTRANT, _GROW, _DYNAMIC_64, _DYNAMIC_32 = 4, 10, 3, 1, 3

_HELPERS: Final = 20 + 46
_GLOBALS, _INITIALISER = 3, 2
_BODIES: Final[Mapping[str, int]] = {
    "stable_size": 10,
    "stable64_size": 2,
    "stable_grow": 24,
    "stable64_grow": 21,
    "stable_read": 106,
    "stable64_read": 119,
    "stable_write": 91,
    "stable64_write": 107,
}
"""Operators of what the replica puts in place of an import, the final ``end`` included."""


def replica_operators(numbers: bytes, *, is_64: bool) -> int:
    """Operators of one function.

    Args:
        numbers: of its instructions, see `perdure.instrument.scanning.opcode_numbers`.
        is_64: whether the heap has 64-bit addresses.
    """
    return (
        len(numbers)
        + _STATIC * len(_CHARGED_BLOCK.findall(numbers))
        + _REENTRANT * (1 + numbers.count(_LOOP))
        + _GROW * numbers.count(_MEMORY_GROW)
        + (_DYNAMIC_64 if is_64 else _DYNAMIC_32) * numbers.count(BULK_LENGTH)
        + _DYNAMIC_32 * numbers.count(BULK_LENGTH_32)
    )


def replica_overhead(module: Module) -> int:
    """Operators that the replica adds to the functions of a module itself."""
    replaced = {item.name for item in module.imported(ExternKind.FUNCTION) if item.name in _BODIES}
    return _HELPERS + _INITIALISER * (_GLOBALS + len(module.globals)) + sum(map(_BODIES.__getitem__, replaced))
