"""The checkpoints of a directory: what the last one has is loaded, and the next one is made.

Images, hashes, history, answers, then the file that names them: each is on the platter before the next is begun. What
nothing names any more goes after that: older images, segments of history, blobs.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from typing import final

from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.record import Format
from perdure.storage.beside import HELD
from perdure.storage.blobs import Blobs
from perdure.storage.checkpoint import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    put_in_place,
    replace_file,
    write_beside,
)
from perdure.storage.commit_log import CommitLog
from perdure.storage.committed import Committed
from perdure.storage.disk import DiskFile, read_whole
from perdure.storage.durable import DurableMemory
from perdure.storage.history import History, Segment, Version
from perdure.storage.locks import Locks
from perdure.storage.log import LogRecord
from perdure.storage.topology import refuse_network

__all__ = ["SUBDIRECTORIES", "Checkpoints"]

SUBDIRECTORIES = ("images", "blobs", "answers", "history")
_RESERVE_BYTES = 1 << 20


@final
class Checkpoints:
    """Loads and makes the checkpoints of a directory.

    Args:
        committed: what they are made of.
        history: takes the log over before it is used again.
        blobs: lose those that nothing names.
        records: the format of the rules' records; older ones are rewritten.

    Attributes:
        last: the one on the platter.
        owner: which opening of the directory this is; 0: one that only reads.
        is_first: whether it has made the directory.
    """

    def __init__(self, committed: Committed, history: History, blobs: Blobs, records: Format | None) -> None:
        self._committed = committed
        self._files = committed.files
        self._disk = committed.files.disk
        self._path = committed.files.directory
        self._history = history
        self._blobs = blobs
        self._records = records
        self._is_past_return = False
        self.last = Checkpoint()
        self.owner = 0
        self.is_first = False
        self._oldest = 0

    def look_around(self) -> None:
        """Refuse what is neither a file nor a directory, wherever it lies."""
        refuse_network(self._path, self._disk)
        for path in (self._path, *(f"{self._path}/{name}" for name in SUBDIRECTORIES)):
            if self._disk.exists(path):
                self._disk.list_directory(path)

    def own(self, locks: Locks, *, trust_owner: bool) -> None:
        """Have the directory, see `Locks.own`, unless something else is in it: that gets no lock among it.

        Raises:
            StorageError: it has another owner, or is no state directory.
        """
        self._refuse_strangers()
        self.owner = locks.own(trust_owner=trust_owner)

    def _refuse_strangers(self) -> None:
        """Refuse a directory that is no state's, and has something in it already.

        Raises:
            StorageError: it is one.
        """
        if not self._disk.exists(self._path) or self._disk.exists(f"{self._path}/checkpoint"):
            return
        refuse_network(self._path, self._disk)
        begun = {"lock", "readers", "log", "checkpoint.new", "reserve", HELD, *SUBDIRECTORIES}
        strangers = set(self._disk.list_directory(self._path)) - begun
        if strangers:
            raise StorageError(f"neither empty nor a state directory: {sorted(strangers)[0]!r} is in it", self._path)

    def begin(self, history: int | None) -> None:
        """Make the first one, and what lies about it, in an empty directory that is the caller's.

        Args:
            history: how many commits it will keep; `None`: all.

        Raises:
            StorageError: something else is in it.
        """
        self._refuse_strangers()
        for name in SUBDIRECTORIES:
            self._disk.make_directory(f"{self._path}/{name}")
        self._disk.open(f"{self._path}/readers", write=True, create=True).close()
        log = self._disk.open(f"{self._path}/log", write=True, create=True)
        log.truncate(0)
        log.close()
        self._disk.sync_directory(self._path)  # or the checkpoint may be found without the rest
        first = Checkpoint(epoch=1, state_hash=self._committed.state_hash(), history=history, owner=self.owner)
        replace_file(self._disk, self._path, "checkpoint", encode_checkpoint(first))
        self.is_first = True

    def load(self, bearable: Callable[[str], AbstractContextManager[None]]) -> None:
        """Take up the one on the platter.

        Args:
            bearable: within which what is damaged may be gone without, or is raised.

        Raises:
            StorageError: it is damaged.
        """
        path = f"{self._path}/checkpoint"
        try:
            self.last = last = decode_checkpoint(read_whole(self._disk, path))
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), path) from error
        committed = self._committed
        committed.version, committed.subnet_record = last.version, last.subnet_record
        committed.grow(last.next_slot)
        self._history.keep, committed.extensions = last.history, last.extensions
        with bearable("answers to requests"):
            committed.answers.load(last.answers)
        for canister_id, kept in sorted(last.canisters.items(), key=lambda item: item[1].slot):
            committed.restore(canister_id, kept)
        with bearable("something that the checkpoint has"):
            if committed.state_hash() != last.state_hash:
                raise StorageError("the state hash is not that of its parts", path)

    def claim(self, locks: Locks, records: list[LogRecord]) -> int:
        """Be the owner after those that the checkpoint and the log have; which one that is."""
        last = records[-1].owner if records else self.last.owner
        self.owner = locks.claim(last + (not self.is_first))
        return self.owner

    def make(self, log: CommitLog) -> bool:
        """Make one unless somebody reads the directory.

        Raises:
            OSError, StorageError: it could not be written; the log says whether it can go on.
        """
        log.check_owner()
        readers = self._disk.open(f"{self._path}/readers", write=True)  # for NFS: see `ImageFiles.is_left`
        try:
            if not readers.lock(exclusive=True):
                return False
            try:
                self._write(log)
            except OSError as error:
                if error.errno != errno.ENOSPC or not self._disk.exists(f"{self._path}/reserve"):
                    raise
                self._disk.remove(f"{self._path}/reserve")  # this is what it is for
                self._write(log)
            self.keep_reserve()
        finally:
            readers.close()
        return True

    def keep_reserve(self) -> None:
        """Have the last MiB of a disk that becomes full."""
        path = f"{self._path}/reserve"
        if self._disk.exists(path):
            return
        try:
            file = self._disk.open(path, write=True, create=True)
            try:
                file.pwrite(bytes(_RESERVE_BYTES), 0)
            finally:
                file.close()
        except OSError:
            self._disk.remove(path)  # full already

    def versions(
        self, below: int | None = None, naming: Collection[bytes] = (), *, again: bool = False
    ) -> Iterator[Version]:
        """Kept commits, newest first: those in the log, then those of history; arguments as of `History.versions`."""
        start = self.last
        live = Segment(f"{self._path}/log", 0, start.epoch, start.version, start.checksum)
        return self._history.versions(live, below, naming, again=again)

    def naming(self, ids: Collection[bytes]) -> Iterator[Version]:
        """Those of `versions` that name one of these canisters; what was read before is not compared again."""
        return self.versions(None, ids, again=True)

    def up_to(self, newest: int | None, records: list[LogRecord]) -> list[LogRecord]:
        """The log's records to a version; `None`: all of them.

        Raises:
            StorageError: they do not go there.
        """
        if newest is not None and self.owner:
            raise ValueError(f"as of version {newest} it is only read: what came later would be lost")
        # Images may have what was committed before a seal, and it cannot be taken out of them.
        self._oldest = max((record.version for record in records if record.is_seal), default=self.last.version)
        last = records[-1].version if records else self.last.version
        if newest is not None and not self._oldest <= newest <= last:
            words = f"version {newest} is not in the log, which goes from {self._oldest} to {last}"
            raise StorageError(words, self._path).coded("version-not-kept")
        return records if newest is None else [record for record in records if record.version <= newest]

    def subnet_records(self, version: int) -> Iterator[tuple[int, bytes]]:
        """What the rules kept about the subnet, newest first, from `version` on as far back as the log can be read to.

        Each with the newest version that has it.
        """
        for one in self.versions(version + 1):
            if one.version <= self.last.version:
                break
            if one.facts.subnet is not None:
                yield version, one.facts.subnet
                version = one.version - 1
                if version < self._oldest:
                    return
        yield version, self.last.subnet_record

    def collect_blobs(self) -> None:
        """Remove blobs that nothing names any more."""
        self._blobs.collect(self.versions)

    def _write(self, log: CommitLog) -> None:
        log.in_doubt = "a checkpoint was cut off"
        self._is_past_return = False
        try:
            self._write_files(log)
        except (OSError, StorageError):
            if not self._is_past_return:
                log.in_doubt = None  # the old checkpoint and the log are all there is
            raise
        log.in_doubt = None
        # Where history is kept, what it names is still named unless some of it has gone.
        if self._history.trim(self._committed.version) or self._history.keep == 0:
            self.collect_blobs()

    def _write_files(self, log: CommitLog) -> None:
        committed = self._committed
        memories = list(committed.memories())
        state_hash = committed.state_hash()
        if any(memory.changed for memory in memories):
            log.seal(state_hash)
            self._files.settled = False
        else:
            log.sync(log.version)
        users = Counter(name for memory in memories for name in memory.layout.files)
        written: dict[tuple[object, int, bytes], DurableMemory] = {}
        for memory in memories:
            key = memory.kin, memory.wasm_pages, memory.root()
            if memory.kin is not None and memory.changed and key in written:
                memory.adopt(written[key])
            else:
                _sync(log, memory.write(users))
                memory.written()
                written[key] = memory
        self._disk.sync_directory(f"{self._path}/images")
        old = self.last
        self._history.save(f"{self._path}/log", log.position, old, committed.version)
        self._rewrite_records()
        new = Checkpoint(
            old.epoch + 1,
            committed.version,
            committed.state_hash(),
            committed.subnet_record,
            committed.next_slot,
            self._history.keep,
            committed.extensions,
            self._records.version if self._records is not None else old.records,
            {canister_id: state.kept() for canister_id, state in committed.canisters.items()},
            committed.answers.write(old.epoch + 1),
            self.owner,
        )
        write_beside(self._disk, self._path, "checkpoint", encode_checkpoint(new))
        # From here on nobody knows which one is there; what was appended to the other's log would be lost.
        self._is_past_return = True
        put_in_place(self._disk, self._path, "checkpoint")
        self.last = new
        log.recycle(new.epoch, new.checksum)
        self._files.settled = True
        for memory in memories:
            memory.settle()
        committed.answers.settle(new.answers)
        self._files.images.checkpointed()
        self._remove_strays()

    def _rewrite_records(self) -> None:
        """Bring the rules' records into today's version; the checkpoint on the platter keeps the old ones."""
        records = self._records
        if records is None or self.last.records == records.version:
            return
        self._is_past_return = True  # memory has what the log has not
        self._committed.rewrite(records)

    def _remove_strays(self) -> None:
        """Remove image files that the checkpoint does not name: older generations, deleted canisters, cut-off ones."""
        named = {path.rsplit("/", 1)[1] for memory in self._committed.memories() for path in memory.paths()}
        for name in self._disk.list_directory(f"{self._path}/images"):
            if name not in named:
                self._disk.remove(f"{self._path}/images/{name}")


def _sync(log: CommitLog, files: list[DiskFile]) -> None:
    try:
        for file in files:
            file.sync()
    except OSError as error:
        # What the disk kept is unknown, and a second sync may call it clean.
        log.failed = error.strerror or str(error)
        raise
