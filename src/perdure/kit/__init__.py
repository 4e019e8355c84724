"""What canister developers touch: canisters in Python, the pytest plugin, expected rejections (`perdure.rejects`).

Names are imported when first asked for: pytest imports this package in every project that has perdure installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.kit.generate import arguments, strategies
    from perdure.kit.machine import CanisterMachine
    from perdure.python.calls import call, gather, ic, notify, reject, trap
    from perdure.python.module import (
        canister,
        composite_query,
        heartbeat,
        init,
        inspect_message,
        migration,
        post_upgrade,
        pre_upgrade,
        query,
        stable,
        timer,
        update,
    )
    from perdure.values.annotations import (
        float32,
        int8,
        int16,
        int32,
        int64,
        nat,
        nat8,
        nat16,
        nat32,
        nat64,
        nat128,
    )

_PLACES = {
    "kit.generate": "arguments strategies",
    "kit.machine": "CanisterMachine",
    "values.annotations": "float32 int8 int16 int32 int64 nat nat8 nat16 nat32 nat64 nat128",
    "python.calls": "call gather ic notify reject trap",
    "python.module": "canister composite_query heartbeat init inspect_message migration post_upgrade pre_upgrade query "
    "stable timer update",
}
_MODULE_OF = {name: place for place, names in _PLACES.items() for name in names.split()}

__all__ = [
    "CanisterMachine",
    "arguments",
    "call",
    "canister",
    "composite_query",
    "float32",
    "gather",
    "heartbeat",
    "ic",
    "init",
    "inspect_message",
    "int8",
    "int16",
    "int32",
    "int64",
    "migration",
    "nat",
    "nat8",
    "nat16",
    "nat32",
    "nat64",
    "nat128",
    "notify",
    "post_upgrade",
    "pre_upgrade",
    "query",
    "reject",
    "stable",
    "strategies",
    "timer",
    "trap",
    "update",
]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'perdure.kit' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perdure.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
