"""A state directory: a subnet's state that outlives the process and the power.

```
 lock         held by the owner; its process id, as text
 readers      held, shared, by whoever reads; a checkpoint waits for them
 checkpoint   what the images hold and where the log begins    perdure.storage.checkpoint
 log          commits since the checkpoint                     perdure.storage.log
 images/      the memories of every canister                   perdure.storage.durable
 blobs/       modules and chunks, named by their SHA-256
 answers/     answers to requests, as of the checkpoint        perdure.storage.answers
 history/     logs of earlier epochs, if history is kept       perdure.storage.history
 reserve      a MiB that is there when the disk is full
```

The order that keeps the promise: blobs, then the log record that names them, then (at a checkpoint) images and hashes,
then history, then the checkpoint file, each on the platter before the next is begun; the log is used again only after
the checkpoint that made it superfluous.

Long for one module, because opening, committing and checkpointing share one state and one lock, and that order is read
best in one place.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import final

from perdure.canister import PageDelta
from perdure.errors import InternalError, MalformedError, StorageError, UnsupportedError
from perdure.memory import WASM_PAGE_BYTES
from perdure.record import Format
from perdure.storage.answers import Answers
from perdure.storage.changes import Answer, CanisterChange, Entry, Message, decode_meta
from perdure.storage.checkpoint import (
    Checkpoint,
    decode_checkpoint,
    encode_checkpoint,
    put_in_place,
    replace_file,
    write_beside,
)
from perdure.storage.commit_log import CommitLog
from perdure.storage.disk import Disk, DiskFile, RealDisk, read_whole
from perdure.storage.draft import Draft
from perdure.storage.durable import DurableImage, DurableMemory, Files, LoggedPages
from perdure.storage.history import History, PastState, Segment, Version, changed_byte, open_past
from perdure.storage.image import TemporaryImage
from perdure.storage.kept import CanisterState, Durability, KeepHistory, Recovery, StorageLimits
from perdure.storage.log import LogRecord, Place, Tail, find_tail, record_bytes, scan
from perdure.storage.merkle import ZERO_PAGE_HASH, PageTree
from perdure.storage.temporary import TemporaryStore

__all__ = ["SUBDIRECTORIES", "CanisterState", "Durability", "Recovery", "StateDirectory", "StorageLimits"]

_PATIENCE = 4
"""How many times as long the log may get while forks make a checkpoint copy what they share."""

SUBDIRECTORIES = ("images", "blobs", "answers", "history")
_RESERVE_BYTES = 1 << 20


@final
class StateDirectory:
    """An open state directory. Made by `StateDirectory.open`; close it, or use it in a ``with``.

    Methods may be called from several threads; a canister's images belong to one thread at a time.
    """

    # -- opening

    def __init__(
        self, files: Files, durability: Durability, *, read_only: bool, log_bytes: int, records: Format | None
    ) -> None:
        self._files = files
        self.disk = files.disk
        self._lock = files.lock
        self.path = files.directory
        self.durability = durability
        self.read_only = read_only
        self.log_bytes = log_bytes
        self.store = files.store
        self.recovery = Recovery(0, False, None)
        self.subnet_record = b""
        self._canisters: dict[bytes, CanisterState] = {}
        self._tree = PageTree()
        self._stale: set[bytes] = set()  # canisters whose hash the tree lacks
        self._checkpoint = Checkpoint()
        self.on_checkpoint: Callable[[int], None] | None = None
        """Told the version of each checkpoint once it is made; it must not raise."""
        self._log: CommitLog | None = None
        self._version = 0
        self.next_slot = 0
        self._locks: list[DiskFile] = []
        self._lock_path = str(Path(f"{files.directory}/lock").absolute())  # wherever this process goes meanwhile
        self._closed = False
        self._records = records
        self._answers = Answers(self.disk, files.directory)
        files.check = self.check
        self._history = History(self.disk, files.directory, keep=0)
        self.extensions: tuple[str, ...] = ()
        self.log_bytes_used = 0
        self._is_past_return = False
        self._lost: list[str] | None = None

    @classmethod
    def open(  # noqa: PLR0913 -- each is a property of the directory or of this opening
        cls,
        path: str | os.PathLike[str],
        *,
        durability: Durability = "message",
        read_only: bool = False,
        history: KeepHistory = "kept",
        extensions: Sequence[str] = (),
        records: Format | None = None,
        accept_last_good: bool = False,
        lost: list[str] | None = None,
        trust_owner: bool = False,
        limits: StorageLimits | None = None,
        disk: Disk | None = None,
        store: TemporaryStore | None = None,
    ) -> StateDirectory:
        """Open a state directory, or create it where there is none, and recover what a crash left.

        Args:
            path: the directory.
            durability: when a commit is on the platter: when `commit` returns (``message``), when `end_round` returns
                (``round``), at a checkpoint, made automatically as the log grows (``checkpoint``), or at a checkpoint
                that is asked for (``never``). The state found after a crash is always that after a whole commit.
            read_only: change nothing; sees the last whole commit, also while an owner has it open.
            history: how many commits to keep for `at`, `history` and `blame`; `None`: all; ``kept``: as the directory
                does so far. Anything else is what it does from now on; what is then too much goes.
            extensions: names of what its canisters use beyond the network's rules; those of a directory only ever
                become more.
            records: the format of the rules' records: older ones are rewritten at the first checkpoint.
            accept_last_good: where acknowledged commits are damaged, open the last good state instead of raising.
            lost: where given, damage is added to it in words, as far as the rest can be had without; else it raises.
            trust_owner: write into a directory that belongs to another user.
            limits: sizes at which things are done.
            disk: the disk.
            store: where uncommitted and temporary pages go.

        Raises:
            StorageError: another owner has it, it cannot be read or written, or it is damaged.
        """
        limits = limits or StorageLimits()
        files = Files((disk or RealDisk()).within(str(path)), str(path), store or TemporaryStore(), limits.check_bytes)
        directory = cls(files, durability, read_only=read_only, log_bytes=limits.log_bytes, records=records)
        try:
            with directory._told("open"):
                directory._take_locks(trust_owner=trust_owner)
                directory._look_around()
                if not directory.disk.exists(f"{path}/checkpoint"):
                    directory._create(0 if history == "kept" else history)
                directory._lost = lost
                directory._load()
                directory._recover(accept_last_good=accept_last_good)
                if not read_only:
                    directory._set_up(history, extensions)
        except BaseException:
            directory._release()
            raise
        return directory

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Say which directory an error of the system is about."""
        try:
            yield
        except OSError as error:
            raise StorageError(f"{what} failed: {error.strerror or error}", error.filename or self.path) from error
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), self.path) from error

    def _look_around(self) -> None:
        """Refuse what is neither a file nor a directory, wherever it lies."""
        for path in (self.path, *(f"{self.path}/{name}" for name in SUBDIRECTORIES)):
            if self.disk.exists(path):
                self.disk.list_directory(path)

    def _take_locks(self, *, trust_owner: bool) -> None:
        if self.read_only:
            if self.disk.exists(f"{self.path}/readers"):
                readers = self.disk.open(f"{self.path}/readers")
                self._locks.append(readers)
                if not readers.lock(exclusive=False):
                    raise StorageError("a checkpoint is being made; try again in a moment", self.path)
            return
        if not self.disk.exists(self.path):
            self.disk.make_directory(self.path)
            self.disk.sync_directory(str(Path(self.path).parent))
        owner_id = self.disk.owner(self.path)
        if owner_id != os.geteuid() and not trust_owner:
            raise StorageError(
                f"belongs to user {owner_id}, and this is user {os.geteuid()}: open it with trust_owner=True to write "
                "into it nevertheless, or for reading",
                self.path,
            )
        lock = self.disk.open(f"{self.path}/lock", write=True, create=True)
        self._locks.append(lock)
        if not lock.lock(exclusive=True):
            holder = lock.pread(32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StorageError(f"open in another process ({holder}); close it, or open this one for reading", self.path)
        lock.truncate(0)
        lock.pwrite(f"{os.getpid()}\n".encode(), 0)

    def _set_up(self, history: KeepHistory, extensions: Sequence[str]) -> None:
        """Do what was asked for beyond what the directory is."""
        self._keep_reserve()
        wanted = tuple(sorted({*self.extensions, *extensions}))
        keep = self._checkpoint.history if history == "kept" else history
        if (wanted, keep) != (self.extensions, self._checkpoint.history):
            self.extensions = wanted
            self.keep_history(keep)

    def keep_history(self, keep: int | None) -> None:
        """Keep so many commits from now on; `None`: all. What is too much goes, in whole segments.

        Raises:
            StorageError: it could not be written, or somebody reads the directory; it keeps what it kept.
        """
        before, self._history.keep = self._history.keep, keep
        try:
            self.checkpoint()
        except BaseException:
            self._history.keep = before
            raise
        if keep is not None:
            self.forget(self._version - keep)

    @property
    def history_kept(self) -> int | None:
        """How many commits are kept; `None`: all."""
        return self._history.keep

    def _keep_reserve(self) -> None:
        """Have the last MiB of a disk that becomes full: see `_checkpoint_now`."""
        path = f"{self.path}/reserve"
        if self.disk.exists(path):
            return
        try:
            file = self.disk.open(path, write=True, create=True)
            try:
                file.pwrite(bytes(_RESERVE_BYTES), 0)
            finally:
                file.close()
        except OSError:
            self.disk.remove(path)  # full already

    def _create(self, history: int | None) -> None:
        if self.read_only:
            raise StorageError("not a state directory: no checkpoint in it", self.path)
        strangers = set(self.disk.list_directory(self.path)) - {
            "lock",
            "readers",
            "log",
            "checkpoint.new",
            "reserve",
            *SUBDIRECTORIES,
        }
        if strangers:
            raise StorageError(f"neither empty nor a state directory: {sorted(strangers)[0]!r} is in it", self.path)
        for name in SUBDIRECTORIES:
            self.disk.make_directory(f"{self.path}/{name}")
        self.disk.open(f"{self.path}/readers", write=True, create=True).close()
        log = self.disk.open(f"{self.path}/log", write=True, create=True)
        log.truncate(0)
        log.close()
        self.disk.sync_directory(self.path)  # or the checkpoint may be found without the rest
        checkpoint = Checkpoint(epoch=1, state_hash=self._hash_state(), history=history)
        replace_file(self.disk, self.path, "checkpoint", encode_checkpoint(checkpoint))

    def _load(self) -> None:
        data = read_whole(self.disk, f"{self.path}/checkpoint")
        try:
            self._checkpoint = checkpoint = decode_checkpoint(data)
        except (MalformedError, UnsupportedError) as error:
            raise StorageError(str(error), f"{self.path}/checkpoint") from error
        self._version = checkpoint.version
        self.next_slot = checkpoint.next_slot
        self._tree.resize(checkpoint.next_slot)
        self.subnet_record = checkpoint.subnet_record
        self._history.keep, self.extensions = checkpoint.history, checkpoint.extensions
        with self._bearable("answers to requests"):
            self._answers.load(checkpoint.answers)
        for canister_id, kept in sorted(checkpoint.canisters.items(), key=lambda item: item[1].slot):
            state = CanisterState(kept.slot, kept.module_hash, kept.global_values, kept.record, kept.code)
            for name, memory in kept.memories.items():
                state.memories[name] = self.new_memory(kept.slot, name, *memory)
            self._canisters[canister_id] = state
            self._tree.set_leaves(kept.slot, state.hash(canister_id))
        with self._bearable("something that the checkpoint has"):
            if self.state_hash() != checkpoint.state_hash:
                raise StorageError("the state hash is not that of its parts", f"{self.path}/checkpoint")

    @contextmanager
    def _bearable(self, what: str) -> Iterator[None]:
        """Go on without what is damaged, where that was asked for."""
        try:
            yield
        except (OSError, StorageError, MalformedError) as error:
            if self._lost is None:
                raise
            self._lost.append(f"{what}: {error}")

    # -- recovery

    def _recover(self, *, accept_last_good: bool) -> None:
        file_path = f"{self.path}/log"
        file = self.disk.open(file_path, write=not self.read_only)
        self._locks.append(file)
        if not self.read_only and not file.lock(exclusive=True):
            # Whoever takes the lock away from an owner does not get in.
            raise StorageError("open in another process, whose lock was removed; close it", self.path)
        checkpoint = self._checkpoint
        records, tail = self._scan(file)
        self._files.settled = not any(record.is_seal for record in records)
        end = records[-1].offset + records[-1].size_bytes if records else 0
        self.log_bytes_used = end
        self._replay(file, records)
        self.recovery = Recovery(sum(not record.is_seal for record in records), tail.torn, tail.damaged_version)
        if tail.damaged_version is not None and not accept_last_good:
            raise StorageError(
                f"the log is damaged at offset {tail.offset:#x}: version {tail.damaged_version} was kept and is not "
                f"whole; the last good state is version {self._version}, open it with accept_last_good",
                file_path,
            )
        if self.read_only:
            return
        if records:
            file.sync()  # an owner that was killed may have left them with the system
        self._locks.remove(file)
        place = Place(checkpoint.epoch, self._version, records[-1].checksum if records else checkpoint.checksum)
        self._log = CommitLog(
            file,
            file_path,
            place,
            end,
            sealed=not self._files.settled,
            write_behind=self.durability != "message",
            check_lock=self._check_lock,
        )
        # Nothing is to be appended before what is not whole is out of reach.
        if (tail.torn or not self._files.settled) and not self._checkpoint_now() and tail.damaged_version is not None:
            raise StorageError("open for reading in another process; try again when it is closed", self.path)

    def _scan(self, file: DiskFile) -> tuple[list[LogRecord], Tail]:
        checkpoint = self._checkpoint
        before = -1
        while True:
            records = list(scan(file, Place(checkpoint.epoch, checkpoint.version, checkpoint.checksum)))
            end = records[-1].offset + records[-1].size_bytes if records else 0
            version = records[-1].version if records else checkpoint.version
            tail = find_tail(file, checkpoint.epoch, version, end)
            # A reader may come between a record and the next one; it looks like damage until it is read again.
            if tail.damaged_version is None or not self.read_only or len(records) == before:
                return records, tail
            before = len(records)

    def _replay(self, file: DiskFile, records: list[LogRecord]) -> None:
        """Take up what the log has, and compare the state with the hash that the last record has, if it has one."""
        pages: dict[tuple[bytes, str], LoggedPages] = {}
        for record in records:
            if not record.is_seal:
                self._replay_commit(file, record, pages)
        for (canister_id, name), logged in pages.items():
            with self._bearable(f"what the log has of {name} of canister {canister_id.hex()}"):
                self._canisters[canister_id].memories[name].recover(logged)
        expected = records[-1].state_hash if records else b""
        with self._bearable("something that the log has"):
            if expected and self.state_hash() != expected:
                raise StorageError(f"version {self._version} does not give the state hash that was kept", self.path)

    def _replay_commit(self, file: DiskFile, record: LogRecord, pages: dict[tuple[bytes, str], LoggedPages]) -> None:
        facts = decode_meta(record.meta, record.page_count)
        for canister_id, entry in facts.canisters.items():
            self._replay_canister(canister_id, entry, pages)
            for name, change in entry.memories.items():
                if change is not None:
                    logged = pages.setdefault((canister_id, name), LoggedPages(file))
                    logged.add(record.pages_offset, change)
        if facts.subnet is not None:
            self.subnet_record = facts.subnet
        self._answers.take(facts.forgotten, facts.answers)
        self._version = record.version

    def _replay_canister(self, canister_id: bytes, entry: Entry, pages: dict[tuple[bytes, str], LoggedPages]) -> None:
        known = self._canisters.get(canister_id)
        gone = set(entry.dropped) if known is None or not entry.gone else set(known.memories)
        for name in gone:
            pages.pop((canister_id, name), None)
        if entry.gone:
            if known is None:
                raise MalformedError(f"a record deletes canister {canister_id.hex()}, which there is not")
            self._remove(canister_id)
            return
        if known is None and entry.slot < self.next_slot:
            raise MalformedError(f"a record gives slot {entry.slot} to a new canister, the next is {self.next_slot}")
        state = self._state_for(canister_id, entry.slot)
        self._drop(state, entry.dropped)
        for name in entry.memories:
            if name not in state.memories:
                state.memories[name] = self.new_memory(state.slot, name)
        state.replay(entry)
        self._touch(canister_id, state)

    # -- what is committed

    @property
    def version(self) -> int:
        """Number of the newest commit; 0: none yet."""
        return self._version

    @property
    def canisters(self) -> Mapping[bytes, CanisterState]:
        """Canisters by id, as committed."""
        return MappingProxyType(self._canisters)

    @property
    def keeps_history(self) -> bool:
        """Whether commits have in them what they replaced, and what they came from."""
        return self._history.keep != 0

    @property
    def answers(self) -> Mapping[bytes, Answer]:
        """Answers by request id, in the order in which they were given."""
        return self._answers.kept

    def state_hash(self) -> bytes:
        """The hash of the whole committed state: the same commits give the same hash."""
        with self._lock, self._told("hash the state"):
            stale, self._stale = self._stale, set()
            for canister_id in stale:
                state = self._canisters[canister_id]
                self._tree.set_leaves(state.slot, state.hash(canister_id))
            return self._hash_state()

    def _hash_state(self) -> bytes:
        parts = (b"perdure state 1", self._tree.root(), sha256(self.subnet_record).digest(), self._answers.hash())
        return sha256(b"".join(parts)).digest()

    def new_memory(
        self, slot: int, name: str, generation: int = 0, wasm_pages: int = 0, root: bytes | None = None
    ) -> DurableMemory:
        """A memory of a canister, empty or as a checkpoint has it."""
        if root is None:
            return DurableMemory(self._files, f"{slot}-{name}")
        return DurableMemory(self._files, f"{slot}-{name}", generation, wasm_pages, root)

    def _memory(self, canister_id: bytes, kind: str) -> DurableMemory:
        self._check_open()
        state = self._canisters.get(canister_id)
        if state is None:
            raise KeyError(f"no canister {canister_id.hex()}")
        if kind not in state.memories:
            raise KeyError(f"canister {canister_id.hex()} has no memory {kind!r}, only {sorted(state.memories)}")
        return state.memories[kind]

    def image(self, canister_id: bytes, kind: str) -> DurableImage:
        """The image of a canister's memory, to be mapped; close it when it is not any more.

        Raises:
            KeyError: no such canister, or it has no such memory.
            StorageError: the files cannot be read, or their pages are not what was committed.
        """
        with self._lock, self._told("open an image"):
            self.check()
            memory = self._memory(canister_id, kind)
            memory.check_once()
            memory.image()
            memory.mapped = True
            return DurableImage(memory, self._lock)

    def fork_image(self, canister_id: bytes, kind: str) -> TemporaryImage:
        """An image with the committed content, of which nothing is kept; the caller closes it."""
        with self._lock, self._told("open an image"):
            self.check()
            memory = self._memory(canister_id, kind)
            memory.check_once()
            return memory.image().fork()

    # -- blobs

    def put_blob(self, data: bytes) -> bytes:
        """Keep a module or a chunk, on the platter when this returns; its SHA-256."""
        hash_ = sha256(data).digest()
        path = f"{self.path}/blobs"
        with self._lock, self._told("keep a blob"):
            self._check_writable()
            if not self.disk.exists(f"{path}/{hash_.hex()}"):
                replace_file(self.disk, path, hash_.hex(), data)
            else:
                self.disk.sync_directory(path)  # its name may have failed to be synced before
        return hash_

    def blob(self, hash_: bytes) -> bytes:
        """A blob by its SHA-256.

        Raises:
            StorageError: it is not there, or damaged.
        """
        path = f"{self.path}/blobs/{hash_.hex()}"
        with self._told("read a blob"):
            data = read_whole(self.disk, path)
        if sha256(data).digest() != hash_:
            raise StorageError("its bytes are not those of its name", path)
        return data

    def drop_blobs(self, keep: Collection[bytes]) -> None:
        """Remove blobs but those in `keep` and those of installed modules. With history, blobs of the past go too."""
        kept = {hash_.hex() for hash_ in keep} | {state.module_hash.hex() for state in self._canisters.values()}
        with self._lock, self._told("remove blobs"):
            self._check_writable()
            for name in self.disk.list_directory(f"{self.path}/blobs"):
                if name not in kept:
                    self.disk.remove(f"{self.path}/blobs/{name}")

    # -- committing

    def commit(
        self,
        message: Message,
        changes: Mapping[bytes, CanisterChange],
        *,
        subnet_record: bytes | None = None,
        answers: Sequence[Answer] = (),
        forgotten: Sequence[bytes] = (),
        apply: bool = False,
        wait: bool = True,
    ) -> int:
        """Append one commit to the log; the new version.

        The images still show the state before: hand the same deltas to `DurableImage.commit` next (an embedder's
        ``commit`` does), before anything else is committed to that canister.

        Args:
            message: what history says about it.
            changes: by canister; an id that is not known yet is a new canister.
            subnet_record: what the rules keep about the subnet, if it changed; opaque here.
            answers: to requests, kept until they are forgotten.
            forgotten: ids of requests whose answers go, before `answers` come.
            apply: put the deltas into the images too, for memories that are not mapped.
            wait: return when the commit is as durable as asked; else ask `wait` before anybody is told of it.

        Raises:
            StorageError: with ``committed`` False, nothing was written and the state is as before, usable; with `None`
                it is not known, and everything refuses until the directory is opened anew.
            ValueError: a delta is not whole pages within its memory.
        """
        with self._lock, self._told("commit"):
            self._check_writable()
            log = self._log_for_commit()
            if self.durability in {"checkpoint", "never"}:  # the others ask when the log is synced
                log.check_owner()
            draft = Draft(self, message, changes, subnet_record, answers, forgotten)
            version = self._log_commit(log, draft)
            if apply:
                for (canister_id, name), delta in self._deltas(changes):
                    self._canisters[canister_id].memories[name].apply(delta)
            log.in_doubt = None
        if wait and self.durability == "message":
            log.sync(version)
        return version

    @staticmethod
    def _deltas(changes: Mapping[bytes, CanisterChange]) -> Iterator[tuple[tuple[bytes, str], PageDelta]]:
        for canister_id, change in changes.items():
            if not change.deleted:
                for name, delta in change.memories.items():
                    yield (canister_id, name), delta

    def _log_commit(self, log: CommitLog, draft: Draft) -> int:
        meta = draft.meta(with_before=self._history.keep != 0)
        size_bytes = record_bytes(len(meta), draft.page_count)
        if log.position + size_bytes > self.log_bytes and log.position and self._should_checkpoint(log):
            self._checkpoint_now()
        log.reserve(size_bytes)
        hashed = self._history.keep != 0 or log.sealed
        log.in_doubt = "a commit was interrupted"  # until memory has what the log has
        try:
            if hashed:
                self._account(draft)
            version = log.append(meta, draft.pages, state_hash=self.state_hash() if hashed else b"")
        except StorageError as error:
            if hashed:
                log.failed = f"the log and what was accounted for differ: {error}"
                error.committed = None
            elif error.committed is False:
                log.in_doubt = None
            raise
        self._version = version
        if not hashed:
            self._account(draft)  # while the disk is at work
        return version

    def _account(self, draft: Draft) -> None:
        for canister_id in sorted(draft.changes):
            change = draft.changes[canister_id]
            if change.deleted:
                self._remove(canister_id)
                continue
            state = self._state_for(canister_id, draft.slots[canister_id])
            state.take(change)
            if change.dropped:
                self._drop(state, change.dropped)
            for name, delta in change.memories.items():
                memory = draft.created.get((canister_id, name))
                if memory is not None:
                    state.memories[name] = memory
                else:
                    memory = state.memories[name]
                memory.log(delta, draft.runs[canister_id, name])
            self._touch(canister_id, state)
        if draft.subnet_record is not None:
            self.subnet_record = draft.subnet_record
        if draft.answers or draft.forgotten:
            self._answers.take(draft.forgotten, draft.answers)

    def wait(self, version: int) -> None:
        """Return when `version` is on the platter, where the durability is ``round`` or ``message``. For any thread.

        Raises:
            StorageError: the disk failed; nothing more can be committed.
        """
        if self.durability in {"message", "round"}:
            self._check_open()
            self._log_for_commit().sync(version)

    def apply(self, canister_id: bytes, change: CanisterChange) -> None:
        """Put a logged change into a canister's images; for memories that are not mapped."""
        for name, delta in change.memories.items():
            self._canisters[canister_id].memories[name].apply(delta)

    def _check_lock(self) -> None:
        """Raise where the directory may have another owner by now."""
        if not self._locks[0].is_at(self._lock_path):
            raise OSError(errno.ENOLCK, "the lock was removed, or the directory moved", self._lock_path)

    def _log_for_commit(self) -> CommitLog:
        if self._log is None:
            raise InternalError("a directory open for writing has no log")
        return self._log

    def end_round(self) -> None:
        """Return when everything committed is on the platter, where the durability is ``round`` or ``message``."""
        self.wait(self._version)

    def sync(self) -> None:
        """Return when everything committed is on the platter."""
        self._check_writable()
        log = self._log_for_commit()
        log.sync(log.version)

    def _state_for(self, canister_id: bytes, slot: int) -> CanisterState:
        state = self._canisters.get(canister_id)
        if state is None:
            state = self._canisters[canister_id] = CanisterState(slot)
            self.next_slot = max(self.next_slot, slot + 1)
            self._tree.resize(self.next_slot)
        return state

    def _touch(self, canister_id: bytes, state: CanisterState) -> None:
        state.facts_hash = b""
        self._stale.add(canister_id)

    def _remove(self, canister_id: bytes) -> None:
        state = self._canisters.pop(canister_id)
        self._stale.discard(canister_id)
        self._tree.set_leaves(state.slot, ZERO_PAGE_HASH)
        for memory in state.memories.values():
            memory.close()

    def _drop(self, state: CanisterState, names: Collection[str]) -> None:
        for name in names:
            memory = state.memories.pop(name, None)
            if memory is not None:
                self._files.dropped[f"{state.slot}-{name}"] = memory.generation
                memory.close()

    def _memories(self) -> Iterator[DurableMemory]:
        for state in self._canisters.values():
            yield from state.memories.values()

    # -- checkpoints

    def checkpoint(self) -> None:
        """Bring the images up to date and empty the log.

        Raises:
            StorageError: it could not be written, or somebody reads the directory; the state is as before.
        """
        with self._lock, self._told("checkpoint"):
            self._check_writable()
            if any(memory.unapplied for memory in self._memories()):
                raise StorageError("a commit is under way", self.path)
            if not self._checkpoint_now():
                raise StorageError("open for reading in another process; try again when it is closed", self.path)

    def forget(self, version: int) -> None:
        """Drop what is kept of the past up to `version`, in whole segments: one is what a checkpoint put aside."""
        with self._lock, self._told("drop history"):
            self._check_writable()
            self._history.forget(version)

    def _should_checkpoint(self, log: CommitLog) -> bool:
        """Whether the log is long enough; with a fork alive, which makes images be copied, a good deal longer."""
        if self.durability == "never" or any(memory.unapplied for memory in self._memories()):
            return False
        return log.position > _PATIENCE * self.log_bytes or not any(memory.shared for memory in self._memories())

    def _checkpoint_now(self) -> bool:
        """Make a checkpoint unless somebody reads the directory."""
        self._log_for_commit().check_owner()
        readers = self.disk.open(f"{self.path}/readers")
        try:
            if not readers.lock(exclusive=True):
                return False
            try:
                self._write_checkpoint()
            except OSError as error:
                if error.errno != errno.ENOSPC or not self.disk.exists(f"{self.path}/reserve"):
                    raise
                self.disk.remove(f"{self.path}/reserve")  # this is what it is for
                self._write_checkpoint()
            self._keep_reserve()
        finally:
            readers.close()
        if self.on_checkpoint is not None:
            self.on_checkpoint(self._checkpoint.version)
        return True

    def _write_checkpoint(self) -> None:
        log = self._log_for_commit()
        log.in_doubt = "a checkpoint was cut off"
        self._is_past_return = False
        try:
            self._write_files(log)
        except (OSError, StorageError):
            if not self._is_past_return:
                log.in_doubt = None  # the old checkpoint and the log are all there is
            raise
        log.in_doubt = None
        self._history.trim(self._version)

    def _write_files(self, log: CommitLog) -> None:
        memories = list(self._memories())
        state_hash = self.state_hash()
        if any(memory.changed for memory in memories):
            log.seal(state_hash)
            self._files.settled = False
        else:
            log.sync(log.version)
        for memory in memories:
            files = memory.write()
            self._sync_files(log, files)
        self.disk.sync_directory(f"{self.path}/images")
        old = self._checkpoint
        self._history.save(f"{self.path}/log", log.position, old, self._version)
        self._rewrite_records()
        state_hash = self.state_hash()
        new = Checkpoint(
            old.epoch + 1,
            self._version,
            state_hash,
            self.subnet_record,
            self.next_slot,
            self._history.keep,
            self.extensions,
            self._records.version if self._records is not None else old.records,
            {canister_id: state.kept() for canister_id, state in self._canisters.items()},
            self._answers.write(old.epoch + 1),
        )
        write_beside(self.disk, self.path, "checkpoint", encode_checkpoint(new))
        # From here on nobody knows which one is there; what was appended to the other's log would be lost.
        self._is_past_return = True
        put_in_place(self.disk, self.path, "checkpoint")
        self._checkpoint = new
        log.recycle(new.epoch, new.checksum)
        self._files.settled = True
        for memory in memories:
            memory.settle()
        self._answers.settle(new.answers)
        self._files.dropped.clear()
        self._remove_strays()

    def _rewrite_records(self) -> None:
        """Bring the rules' records into today's version; the checkpoint on the platter keeps the old ones."""
        records = self._records
        if records is None or self._checkpoint.records == records.version:
            return
        self._is_past_return = True  # memory has what the log has not
        if self.subnet_record:
            self.subnet_record = records.rewrite(self.subnet_record)
        for canister_id, state in self._canisters.items():
            if state.record:
                state.record = records.rewrite(state.record)
                self._touch(canister_id, state)

    @staticmethod
    def _sync_files(log: CommitLog, files: list[DiskFile]) -> None:
        try:
            for file in files:
                file.sync()
        except OSError as error:
            # What the disk kept is unknown, and a second sync may call it clean.
            log.failed = error.strerror or str(error)
            raise

    def _remove_strays(self) -> None:
        """Remove image files that the checkpoint does not name: older generations, deleted canisters, cut-off ones."""
        named = {
            memory.path(suffix).rsplit("/", 1)[1]
            for state in self._canisters.values()
            for memory in state.memories.values()
            if memory.generation
            for suffix in ("img", "hash")
        }
        for name in self.disk.list_directory(f"{self.path}/images"):
            if name not in named:
                self.disk.remove(f"{self.path}/images/{name}")

    # -- the past

    def history(self) -> list[Version]:
        """What is kept of the past, newest first."""
        with self._lock, self._told("read the history"):
            self.check()
            return list(self._versions())

    def _versions(self) -> Iterator[Version]:
        start = self._checkpoint
        return self._history.versions(Segment(f"{self.path}/log", 0, start.epoch, start.version, start.checksum))

    def at(self, version: int) -> PastState:
        """The state after `version`, as temporary images that may be read, mapped and forked; close it after use.

        Raises:
            StorageError: that version is not kept.
        """
        with self._lock, self._told("open the past"):
            self.check()
            return open_past(self, self._versions(), version)

    def blame(self, canister_id: bytes, kind: str, address: int) -> Version | None:
        """The newest kept commit that changed the byte at `address`; `None`: it is older than what is kept."""
        with self._lock, self._told("read the history"):
            memory = self._memory(canister_id, kind)
            if not 0 <= address < memory.wasm_pages * WASM_PAGE_BYTES:
                raise IndexError(f"address {address:#x} lies outside a memory of {memory.wasm_pages} Wasm pages")
            for version in self._versions():
                if changed_byte(self.disk, version, canister_id, kind, address):
                    return version
        return None

    # -- checking and closing

    def verify(self) -> list[str]:
        """Compare every page of the last checkpoint with its hash, and every blob with its name; what is wrong.

        Commits since the checkpoint were compared when they were read, and their state hash with theirs.
        """
        problems = []
        with self._lock, self._told("verify"):
            self._check_open()
            problems += self._answers.problems()
            for canister_id, state in self._canisters.items():
                for kind, memory in state.memories.items():
                    problems += [f"{canister_id.hex()} {kind}: {problem}" for problem in memory.problems()]
            for name in self.disk.list_directory(f"{self.path}/blobs"):
                whole = not name.endswith(".new")  # else a crash cut it off before anything named it
                if whole and sha256(read_whole(self.disk, f"{self.path}/blobs/{name}")).hexdigest() != name:
                    problems.append(f"blob {name}: its bytes are not those of its name")
        return problems

    def check(self) -> None:
        """Raise where nothing can be read or committed any more: a sync failed, or an exception cut off a commit.

        Raises:
            StorageError: open the directory anew; what it was told to keep is there.
            ValueError: it is closed.
        """
        self._check_open()
        if self._log is not None:
            self._log.check_usable()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the state directory is closed")

    def _check_writable(self) -> None:
        self._check_open()
        if self.read_only:
            raise StorageError("open for reading", self.path)
        self._log_for_commit().check_usable()

    def close(self) -> None:
        """Make a last checkpoint where that can be, and let go. Again is fine."""
        if self._closed:
            return
        try:
            log = self._log
            under_way = any(memory.unapplied for memory in self._memories())
            if (
                log is not None
                and log.failed is None
                and log.in_doubt is None
                and (log.position or self._changed())
                and not under_way
            ):
                self.end_round()  # a reader may be in the way of the checkpoint
                with self._told("checkpoint"):
                    self._checkpoint_now()
        finally:
            self._release()

    def _changed(self) -> bool:
        return self._version != self._checkpoint.version

    def abandon(self) -> None:
        """Let go without a checkpoint, as a crash would; for tests and for a state not to be touched."""
        self._release()

    def _release(self) -> None:
        self._closed = True
        for state in self._canisters.values():
            for memory in state.memories.values():
                memory.close()
        if self._log is not None:
            self._log.close()
        for file in self._locks:
            file.close()
        self._locks = []
        self.disk.close()

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
