"""Run Internet Computer canisters in a Python process with Wasm-native stable memory, and open the bytes they keep."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.errors import (
        HostError,
        InternalError,
        InvalidModuleError,
        MalformedError,
        PerdureError,
        RejectError,
        StorageError,
        UnsupportedError,
    )
    from perdure.ic.principal import ANONYMOUS, Principal
    from perdure.kit.rejects import rejects
    from perdure.memory import Memory
    from perdure.network import Network
    from perdure.subnet import Canister, Subnet

__all__ = [
    "ANONYMOUS",
    "Canister",
    "HostError",
    "InternalError",
    "InvalidModuleError",
    "MalformedError",
    "Memory",
    "Network",
    "PerdureError",
    "Principal",
    "RejectError",
    "StorageError",
    "Subnet",
    "UnsupportedError",
    "rejects",
]

# Imported when first asked for: the engine takes longer to load than everything else together, and a command that only
# says how it is used needs none of it.
_PLACES = {
    "errors": "HostError InternalError InvalidModuleError MalformedError PerdureError RejectError StorageError "
    "UnsupportedError",
    "ic.principal": "ANONYMOUS Principal",
    "kit.rejects": "rejects",
    "memory": "Memory",
    "subnet": "Canister Subnet",
    "network": "Network",
}
_MODULE_OF = {name: place for place, names in _PLACES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perdure.{_MODULE_OF[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
