"""Module to Module: validate, replace WASI, meter, link the native System API."""

from perdure.instrument.bounds import HIGHEST, Bounds, Count, Counts, counts_of
from perdure.instrument.costs import SCHEDULES, PageCharges
from perdure.instrument.link import Instrumented, Options, SavedGlobal, instrument, kernel_for, link
from perdure.instrument.lower import Lowered, lower
from perdure.instrument.metering import count_instructions
from perdure.instrument.reactor import WASI
from perdure.instrument.validate import REPLICA, Policy, validate
from perdure.instrument.wasi import ReplacedImport, WithoutWasi, replace_wasi, wasm_without_wasi

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
