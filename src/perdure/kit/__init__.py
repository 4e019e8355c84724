"""What canister developers touch: canisters in Python, the pytest plugin, expected rejections (`perdure.rejects`).

Names are imported when first asked for: pytest imports this package in every project that has perdure installed. What
needs Hypothesis (extra ``fuzz``) is among them where that is installed: ``from perdure.kit import *`` has the rest.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
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

_GENERATED = "arguments", "CanisterMachine", "strategies"


def _without_extras() -> None:
    if find_spec("hypothesis") is None:
        for name in _GENERATED:
            __all__.remove(name)


_without_extras()


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'perdure.kit' has no attribute {name!r}")
    try:
        module = import_module(f"perdure.{_MODULE_OF[name]}")
    except ModuleNotFoundError as error:
        if name not in _GENERATED:
            raise
        from perdure.errors import UnsupportedError

        raise UnsupportedError(f"{name} needs `pip install 'perdure[fuzz]'`").coded("extra-missing") from error
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
