"""Module to Module: validate, replace WASI, meter, link the native System API.

What the passes are told (`terms`) is here at once, the passes when they are first asked for: code that is compiled
already runs without them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from perdure.instrument.terms import REPLICA, Bounds, Count, Counts, Options, PageCharges, Policy

if TYPE_CHECKING:
    from perdure.instrument.bounds import HIGHEST, counts_of
    from perdure.instrument.costs import SCHEDULES
    from perdure.instrument.linking import Instrumented, SavedGlobal, instrument, kernel_for, link
    from perdure.instrument.lowering import Lowered, lower
    from perdure.instrument.reactor import WASI
    from perdure.instrument.scanning import count_instructions
    from perdure.instrument.validation import validate
    from perdure.instrument.wasi import ReplacedImport, WithoutWasi, replace_wasi, wasm_without_wasi

_PLACES = {
    "bounds": "HIGHEST counts_of",
    "costs": "SCHEDULES",
    "linking": "Instrumented SavedGlobal instrument kernel_for link",
    "lowering": "Lowered lower",
    "scanning": "count_instructions",
    "reactor": "WASI",
    "validation": "validate",
    "wasi": "ReplacedImport WithoutWasi replace_wasi wasm_without_wasi",
}
_MODULE_OF = {name: place for place, names in _PLACES.items() for name in names.split()}

__all__ = [
    "HIGHEST",
    "REPLICA",
    "SCHEDULES",
    "WASI",
    "Bounds",
    "Count",
    "Counts",
    "Instrumented",
    "Lowered",
    "Options",
    "PageCharges",
    "Policy",
    "ReplacedImport",
    "SavedGlobal",
    "WithoutWasi",
    "count_instructions",
    "counts_of",
    "instrument",
    "kernel_for",
    "link",
    "lower",
    "replace_wasi",
    "validate",
    "wasm_without_wasi",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'perdure.instrument' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perdure.instrument.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
