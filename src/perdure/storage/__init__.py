"""The only writer of files: images, commit log, checkpoints, snapshots.

Archives and object storage are there when they are first asked for: what reads them is more than a state needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from perdure.storage.backup import Salvaged, Usage, backup, salvage, usage
from perdure.storage.changes import NO_CODE, Answer, CanisterChange, Message, Origin, PythonCode
from perdure.storage.directory import CanisterState, Durability, Recovery, StateDirectory, StorageLimits
from perdure.storage.durable import DurableImage
from perdure.storage.history import PastCanister, PastState, Version, changes_of
from perdure.storage.image import TemporaryImage, open_sealed
from perdure.storage.kept import KeepHistory
from perdure.storage.snapshot import Snapshot, SnapshotMetadata, write_snapshot
from perdure.storage.temporary import MAPPING_BUDGET, TemporaryStore

if TYPE_CHECKING:
    from perdure.storage.pushing import pull_snapshot, push_snapshot
    from perdure.storage.transport import pack_snapshot, unpack_snapshot

__all__ = [
    "MAPPING_BUDGET",
    "NO_CODE",
    "Answer",
    "CanisterChange",
    "CanisterState",
    "Durability",
    "DurableImage",
    "KeepHistory",
    "Message",
    "Origin",
    "PastCanister",
    "PastState",
    "PythonCode",
    "Recovery",
    "Salvaged",
    "Snapshot",
    "SnapshotMetadata",
    "StateDirectory",
    "StorageLimits",
    "TemporaryImage",
    "TemporaryStore",
    "Usage",
    "Version",
    "backup",
    "changes_of",
    "open_sealed",
    "pack_snapshot",
    "pull_snapshot",
    "push_snapshot",
    "salvage",
    "unpack_snapshot",
    "usage",
    "write_snapshot",
]


_LATER = {
    "pack_snapshot": "transport",
    "pull_snapshot": "pushing",
    "push_snapshot": "pushing",
    "unpack_snapshot": "transport",
}
"""Where is what is there when it is first asked for."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'perdure.storage' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perdure.storage.{_LATER[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
