"""Copies of a state directory: of one in use, and of one that is damaged; and what one takes.

Both are made beside the place where they are wanted and renamed when they are whole and on the platter: there is a copy
or none.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, final

from perdure.canister import PageDelta
from perdure.errors import PerdureError, StorageError
from perdure.storage.beside import DirectoryDraft
from perdure.storage.changes import CanisterChange, Message
from perdure.storage.checkpoints import SUBDIRECTORIES
from perdure.storage.directory import StateDirectory
from perdure.storage.disk import Disk, RealDisk, read_whole
from perdure.storage.durable import DurableMemory
from perdure.storage.kept import StorageLimits
from perdure.storage.log import BLOCK

__all__ = ["Salvaged", "Usage", "backup", "refuse_within", "salvage", "usage"]

_COPY_BYTES = 4 << 20
_BESIDE: Final = ("names.json", "interfaces.json")
"""What is said of canisters beside the state: it goes with a copy as it stands."""


def backup(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    newest: int | None = None,
    disk: Disk | None = None,
) -> int:
    """Copy a directory as of its last whole commit, also while its owner writes; the version of the copy.

    Until the copy is made no checkpoint of the source is: its log gets longer.

    Args:
        source: the directory.
        target: where there is nothing.
        newest: as of this version instead, one that its log has: see `StateDirectory.subnet_records`.
        disk: where both are.

    Raises:
        StorageError: there is something at the target, or one of them cannot be read, written or trusted.
    """
    disk = disk or RealDisk()
    refuse_within(source, target)
    with (
        StateDirectory.open(source, read_only=True, newest=newest, disk=disk) as origin,
        _made(disk, str(target)) as made,
    ):
        try:
            for name in SUBDIRECTORIES:
                for file in origin.disk.list_directory(f"{origin.path}/{name}"):
                    if not file.endswith(".new"):
                        _copy(origin, f"{name}/{file}", disk, made)
            _copy(origin, "log", disk, made, origin.log_bytes_used, tail=bytes(BLOCK))
            _copy(origin, "checkpoint", disk, made)
            _copy_beside(origin, disk, made)
        except OSError as error:
            raise StorageError.because("backup failed", error, error.filename or made) from error
        with StateDirectory.open(made, read_only=True, disk=disk) as copied:
            if (copied.version, copied.state_hash()) != (origin.version, origin.state_hash()):
                raise StorageError(f"the copy has version {copied.version}, not {origin.version}", made)
        return origin.version


def refuse_within(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Raise `StorageError` where a copy would lie in what it is a copy of."""
    inner, outer = (os.path.realpath(one) for one in (target, source))  # a link may lead into it
    if os.path.commonpath([inner, outer]) == outer:
        raise StorageError(f"lies within {outer}, which is to be copied: name a place beside it", inner)


@contextmanager
def _made(disk: Disk, target: str) -> Iterator[str]:
    """A state directory without a state, beside `target`, that becomes it, or goes."""
    with DirectoryDraft(
        disk, target, SUBDIRECTORIES, "is there already; a copy is made where there is nothing"
    ) as made:
        for name in SUBDIRECTORIES:
            disk.make_directory(f"{made}/{name}")
        disk.open(f"{made}/readers", write=True, create=True).close()
        yield made


def _copy(
    source: StateDirectory, name: str, disk: Disk, made: str, size_bytes: int | None = None, tail: bytes = b""
) -> None:
    """Copy a file, or its first bytes, with its holes; it is on the platter when this returns."""
    origin = source.disk.open(f"{source.path}/{name}")
    try:
        copied = disk.open(f"{made}/{name}", write=True, create=True)
        try:
            end = origin.size() if size_bytes is None else size_bytes
            copied.truncate(end)
            for start, stop in origin.data_ranges(0, end):
                for at in range(start, stop, _COPY_BYTES):
                    copied.pwrite(origin.pread(min(_COPY_BYTES, stop - at), at), at)
            if tail:
                copied.pwrite(tail, end)
            copied.sync()
        finally:
            copied.close()
    finally:
        origin.close()


def _copy_beside(source: StateDirectory, disk: Disk, made: str) -> None:
    for name in _BESIDE:
        if source.disk.exists(f"{source.path}/{name}"):
            _copy(source, name, disk, made)


# -- a damaged one


@final
@dataclass(slots=True)
class Salvaged:
    """What became of a damaged directory.

    Attributes:
        version: of the source, the newest that could be read.
        canisters: how many there are in the copy.
        lost: what is not in it, or not as it was, in words.
    """

    version: int
    canisters: int
    lost: list[str] = field(default_factory=list)


def salvage(source: str | os.PathLike[str], target: str | os.PathLike[str], *, disk: Disk | None = None) -> Salvaged:
    """Copy what can be read of a damaged directory, which is not changed; the copy begins with a history of its own.

    Pages that are not what was committed are copied as they are found, and said.

    Raises:
        StorageError: nothing can be read, because the checkpoint file cannot, or there is something at the target.
    """
    disk = disk or RealDisk()
    lost: list[str] = []
    limits = StorageLimits(check_bytes=0)
    with (
        StateDirectory.open(
            source, read_only=True, accept_last_good=True, limits=limits, disk=disk, lost=lost
        ) as origin,
        _made(disk, str(target)) as made,
    ):
        if (damaged := origin.recovery.damaged_version) is not None:
            lost.append(f"every commit from version {damaged} on: the log is damaged")
        disk.remove(f"{made}/readers")
        with StateDirectory.open(
            made, durability="never", history=origin.history_kept, extensions=origin.extensions, disk=disk
        ) as copy:
            _salvage_blobs(origin, copy, lost)
            with suppress(OSError, StorageError):  # names can be given again
                _copy_beside(origin, disk, made)
            for canister_id, state in origin.canisters.items():
                change = CanisterChange(
                    global_values=state.global_values,
                    module_hash=state.module_hash,
                    record=state.record,
                    code=state.code,
                )
                copy.commit(Message(kind="salvage"), {canister_id: change})
                for name, memory in state.memories.items():
                    for delta in _salvage_memory(f"canister {canister_id.hex()}, {name}", memory, lost):
                        copy.commit(Message(kind="salvage"), {canister_id: CanisterChange({name: delta})}, apply=True)
            answers = list(origin.answers.values())
            copy.commit(Message(kind="salvage"), {}, subnet_record=origin.subnet_record, answers=answers)
            copy.checkpoint()
        return Salvaged(origin.version, len(origin.canisters), lost)


def _salvage_blobs(origin: StateDirectory, copy: StateDirectory, lost: list[str]) -> None:
    names = origin.disk.list_directory(f"{origin.path}/blobs")
    for name in names:
        data = read_whole(origin.disk, f"{origin.path}/blobs/{name}")
        if sha256(data).hexdigest() == name:
            copy.put_blob(data)
        elif not name.endswith(".new"):
            lost.append(f"module or chunk {name}: its bytes are others")
    for canister_id, state in origin.canisters.items():
        if state.module_hash and state.module_hash.hex() not in names:
            lost.append(f"canister {canister_id.hex()}: its module {state.module_hash.hex()} is not there")


def _salvage_memory(what: str, memory: DurableMemory, lost: list[str]) -> Iterator[PageDelta]:
    """A memory in deltas of some size."""
    yield PageDelta(memory.wasm_pages, ())
    try:
        lost += [f"{what}: {problem}" for problem in memory.problems()]
        image = memory.image()
        for start, end in list(image.data_ranges()):
            for at in range(start, end, _COPY_BYTES):
                yield PageDelta(memory.wasm_pages, [(at, image.read(at, min(_COPY_BYTES, end - at)))])
    except (OSError, PerdureError) as error:
        lost.append(f"{what}: all of it, {error}")


# -- what a directory takes


@final
@dataclass(slots=True)
class Usage:
    """What a directory takes on the disk, in bytes, holes not counted.

    Attributes:
        memories: by canister and name of the memory, hashes included; what several share is counted for the first.
        others: by name in the directory.
    """

    memories: dict[tuple[bytes, str], int]
    others: dict[str, int]

    @property
    def total_bytes(self) -> int:
        """All together."""
        return sum(self.memories.values()) + sum(self.others.values())


def usage(directory: StateDirectory) -> Usage:
    """What an open directory takes."""
    disk, path = directory.disk, directory.path
    memories: dict[tuple[bytes, str], int] = {}
    named = set()
    for canister_id, state in directory.canisters.items():
        for name, memory in state.memories.items():
            files = memory.paths()
            memories[canister_id, name] = sum(_used(disk, file) for file in files if file not in named)
            named.update(files)
    others = {}
    for name in disk.list_directory(path):
        files = [f"{path}/{name}"]
        if name in SUBDIRECTORIES:
            files = [f"{path}/{name}/{file}" for file in disk.list_directory(f"{path}/{name}")]
        others[name] = sum(_used(disk, file) for file in files if file not in named)
    return Usage(memories, others)


def _used(disk: Disk, path: str) -> int:
    try:
        file = disk.open(path)
    except OSError as error:
        if error.errno == errno.ENOENT:
            return 0
        raise
    try:
        return sum(end - start for start, end in file.data_ranges(0, file.size()))
    finally:
        file.close()
