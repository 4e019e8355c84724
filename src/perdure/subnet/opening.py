"""Opening a subnet's state directory: its files, its archive, its rules and its engine put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perdure.errors import UnsupportedError
from perdure.execution.config import SubnetConfig
from perdure.execution.records import RECORDS
from perdure.execution.world import World
from perdure.storage import StateDirectory
from perdure.storage.kept import check_kept
from perdure.storage.layers import open_file_limit
from perdure.storage.topology import refuse_within_network
from perdure.subnet.durable import DurableHost, blobs_of
from perdure.subnet.gate import Gate
from perdure.subnet.host import CompileCode
from perdure.subnet.residency import CAPACITY, Residents

if TYPE_CHECKING:
    from perdure.storage.archiving import ArchiveTo

__all__ = ["archive_place", "open_directory", "open_state", "place_of"]


def archive_place(given: str | ArchiveTo | None, path: str | os.PathLike[str] | None) -> ArchiveTo | None:
    """Where commits go, too, as it was asked for.

    Raises:
        UnsupportedError: there is no directory whose commits they are; the URL is none.
    """
    if given is None:
        return None
    if path is None:
        raise UnsupportedError("an archive is one of a state directory: name a path, too")
    from perdure.storage.archiving import ArchiveTo  # which object storage comes with

    return ArchiveTo.of(given)


def place_of(plain: Mapping[str, Any]) -> ArchiveTo:
    """An `ArchiveTo` that has come as its fields."""
    from perdure.storage.archiving import ArchiveTo  # which object storage comes with

    return ArchiveTo(**plain)


def open_directory(
    path: str | os.PathLike[str], *, is_member: bool, archive: ArchiveTo | None = None, **options: Any
) -> StateDirectory:
    """The state directory of a subnet, made where there is none: of its archive, if it has one.

    Args:
        path: of it.
        is_member: it is a network that opens one of its own.
        archive: where its commits go, too.
        options: as of `StateDirectory.open`.

    Raises:
        ValueError: no such durability, or number of commits.
        StorageError: it cannot be opened, or somebody else than the network would begin a subnet in the network's.
    """
    check_kept(options.get("durability", "message"), options.get("history", "kept"))
    if not is_member and not (Path(path) / "checkpoint").exists():
        refuse_within_network(os.fspath(path))
    if archive is not None:
        from perdure.storage.archiving import bring  # which object storage comes with

        bring(path, archive, set_aside=is_member)
    directory = StateDirectory.open(path, records=RECORDS, blobs_of=blobs_of, **options)
    try:
        if not is_member and not directory.subnet_record:
            refuse_within_network(os.fspath(path))
    except BaseException:
        directory.abandon()
        raise
    return directory


def open_state(
    directory: StateDirectory,
    compile_code: CompileCode,
    config: SubnetConfig,
    seed: bytes,
    gate: Gate,
    archive: ArchiveTo | None = None,
) -> World:
    """The subnet that a state directory holds, over a host that keeps it there, and in an archive if there is one."""
    archiver = None
    if archive is not None:
        from perdure.storage.archiving import Archiver

        archiver = Archiver(directory, archive)
    return DurableHost(directory, compile_code, Residents(gate, _capacity()), archiver).restore(config, seed)


def _capacity() -> int:
    """How many instances may stay: each has four files open or more, and few may be."""
    return max(1, min(CAPACITY, open_file_limit() // 16))
