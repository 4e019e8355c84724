"""Run Internet Computer canisters in a Python process with Wasm-native stable memory, and open the bytes they keep."""

from perdure.errors import (
    InternalError,
    InvalidModuleError,
    MalformedError,
    PerdureError,
    RejectError,
    StorageError,
    UnsupportedError,
)
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.memory import Memory

__all__ = [
    "ANONYMOUS",
    "InternalError",
    "InvalidModuleError",
    "MalformedError",
    "Memory",
    "PerdureError",
    "Principal",
    "RejectError",
    "StorageError",
    "UnsupportedError",
]
