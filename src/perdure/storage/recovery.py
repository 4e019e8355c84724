"""What opening a directory takes up from its log: whole records, in order, on what the checkpoint has."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import final

from perdure.errors import StorageError
from perdure.storage.changes import Entry, Origin, decode_meta
from perdure.storage.checkpoint import Checkpoint
from perdure.storage.committed import Committed
from perdure.storage.disk import DiskFile
from perdure.storage.durable import DurableMemory, LoggedPages
from perdure.storage.log import LogRecord, Place, Tail, find_tail, scan

__all__ = ["Replay", "last_place", "read_log"]


def read_log(file: DiskFile, checkpoint: Checkpoint, *, live: bool) -> tuple[list[LogRecord], Tail]:
    """The whole records after a checkpoint, and what follows them.

    Args:
        file: the log.
        checkpoint: that it goes on from.
        live: whether somebody else may be writing to it.
    """
    before = -1
    while True:
        records = list(
            scan(file, Place(checkpoint.epoch, checkpoint.version, checkpoint.checksum), owner=checkpoint.owner)
        )
        last, end = last_place(checkpoint, records)
        tail = find_tail(file, checkpoint.epoch, last.version, end)
        # A reader may come between a record and the next one; it looks like damage until it is read again.
        if tail.damaged_version is None or not live or len(records) == before:
            return records, tail
        before = len(records)


def last_place(checkpoint: Checkpoint, records: list[LogRecord]) -> tuple[Place, int]:
    """What the next record continues, and where it goes."""
    if not records:
        return Place(checkpoint.epoch, checkpoint.version, checkpoint.checksum), 0
    last = records[-1]
    return Place(checkpoint.epoch, last.version, last.checksum), last.offset + last.size_bytes


@final
class Replay:
    """Takes up records.

    Args:
        committed: as of the checkpoint.
        file: the log.
        bearable: within which what is damaged may be gone without, or is raised.
    """

    def __init__(
        self, committed: Committed, file: DiskFile, bearable: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._committed = committed
        self._file = file
        self._bearable = bearable
        self._pages: dict[tuple[bytes, str], LoggedPages] = {}

    def take_up(self, records: list[LogRecord]) -> None:
        """Take up all of them, and compare the state with the hash that the last one has, if it has one.

        Raises:
            StorageError: they do not give the state that was kept.
            MalformedError: one of them cannot follow on what is before it.
        """
        committed = self._committed
        for record in records:
            if not record.is_seal:
                self._commit(record)
        for (canister_id, name), logged in self._pages.items():
            with self._bearable(f"what the log has of {name} of canister {canister_id.hex()}"):
                committed.canisters[canister_id].memories[name].recover(logged)
        expected = records[-1].state_hash if records else b""
        with self._bearable("something that the log has"):
            if expected and committed.state_hash() != expected:
                raise StorageError(
                    f"version {committed.version} does not give the state hash that was kept", committed.files.directory
                )

    def _commit(self, record: LogRecord) -> None:
        committed = self._committed
        facts = decode_meta(record.meta, record.page_count)
        copied = committed.copies(facts.canisters)
        pages = {origin: self._pages_of(origin, memory) for origin, memory in copied.items()}
        for canister_id, entry in facts.canisters.items():
            self._forget_pages(canister_id, entry)
            committed.replay(canister_id, entry, copied)
            for name, origin in entry.origins.items():
                self._pages[canister_id, name] = pages[origin].copy()
            for name, change in entry.memories.items():
                if change is not None:
                    wasm_pages = committed.canisters[canister_id].memories[name].wasm_pages
                    logged = self._pages.setdefault((canister_id, name), LoggedPages(self._file, wasm_pages))
                    logged.add(record.pages_offset, change)
        if facts.subnet is not None:
            committed.subnet_record = facts.subnet
        committed.answers.take(facts.forgotten, facts.answers)
        committed.version = record.version

    def _pages_of(self, origin: Origin, memory: DurableMemory) -> LoggedPages:
        """What the log has so far of a memory."""
        found = self._pages.get((origin.canister, origin.name))
        return LoggedPages(self._file, memory.wasm_pages) if found is None else found.copy()

    def _forget_pages(self, canister_id: bytes, entry: Entry) -> None:
        known = self._committed.canisters.get(canister_id)
        for name in entry.dropped if known is None or not entry.gone else known.memories:
            self._pages.pop((canister_id, name), None)
