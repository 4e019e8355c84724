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
from perdure.storage.history import Version, changes_of
from perdure.storage.image import TemporaryImage, open_sealed
from perdure.storage.kept import KeepHistory
from perdure.storage.past import PastCanister, PastState
from perdure.storage.snapshot import Snapshot, SnapshotMetadata, write_snapshot
from perdure.storage.temporary import MAPPING_BUDGET, TemporaryStore

if TYPE_CHECKING:
    from perdure.storage.archive import Archived, archive_state
    from perdure.storage.archiving import ArchiveTo
    from perdure.storage.collecting import collect
    from perdure.storage.pushing import pull_snapshot, push_snapshot
    from perdure.storage.restoring import restore_state, versions_in
    from perdure.storage.transport import pack_snapshot, unpack_snapshot

__all__ = [
    "MAPPING_BUDGET",
    "NO_CODE",
    "Answer",
    "ArchiveTo",
    "Archived",
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
    "archive_state",
    "backup",
    "changes_of",
    "collect",
    "open_sealed",
    "pack_snapshot",
    "pull_snapshot",
    "push_snapshot",
    "restore_state",
    "salvage",
    "unpack_snapshot",
    "usage",
    "versions_in",
    "write_snapshot",
]


_LATER = {
    "ArchiveTo": "archiving",
    "Archived": "archive",
    "archive_state": "archive",
    "collect": "collecting",
    "pack_snapshot": "transport",
    "pull_snapshot": "pushing",
    "push_snapshot": "pushing",
    "restore_state": "restoring",
    "unpack_snapshot": "transport",
    "versions_in": "restoring",
}
"""Where is what is there when it is first asked for."""


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'perdure.storage' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"perdure.storage.{_LATER[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
