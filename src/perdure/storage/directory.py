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

What is committed is one value (`perdure.storage.committed`); opening takes it up from the checkpoint and the log
(`recovery`), a commit is drafted against it and accounted for in it (`draft`), a checkpoint writes it (`checkpoints`).
Here are the locks, and what is done when.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import final

from perdure.errors import InternalError, MalformedError, StorageError
from perdure.memory import WASM_PAGE_BYTES
from perdure.record import Format
from perdure.storage.blobs import Blobs, NamedBlobs
from perdure.storage.changes import Answer, CanisterChange, Message
from perdure.storage.checkpoints import Checkpoints
from perdure.storage.commit_log import CommitLog
from perdure.storage.committed import Committed
from perdure.storage.disk import Disk, DiskFile, RealDisk
from perdure.storage.draft import Commit, Draft
from perdure.storage.durable import DurableImage, DurableMemory, Files
from perdure.storage.history import History, Version, changed_byte
from perdure.storage.image import TemporaryImage
from perdure.storage.kept import CanisterState, Durability, KeepHistory, Recovery, StorageLimits
from perdure.storage.locks import Locks
from perdure.storage.log import record_bytes
from perdure.storage.past import PastState, open_around, open_past
from perdure.storage.recovery import Replay, last_place, read_log
from perdure.storage.telling import Told
from perdure.storage.temporary import TemporaryStore, store_in_turn
from perdure.urls import refuse_url

__all__ = ["CanisterState", "Durability", "Recovery", "StateDirectory", "StorageLimits"]

_IS_READ = "open for reading, in this process or another; try again when it is closed"


@final
class StateDirectory:
    """An open state directory. Made by `StateDirectory.open`; close it, or use it in a ``with``.

    Methods may be called from several threads; a canister's images belong to one thread at a time.
    """

    # -- opening

    def __init__(
        self,
        files: Files,
        durability: Durability,
        log_bytes: int,
        records: Format | None,
        blobs_of: NamedBlobs | None,
        *,
        read_only: bool,
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
        self._committed = Committed(files)
        self._blobs = Blobs(self._committed, blobs_of)
        self.on_checkpoint: Callable[[int], None] | None = None
        """Told the version of each checkpoint once it is made; it must not raise."""
        self._log_file: DiskFile | None = None
        self._told = partial(Told, self.path)
        self.locks = Locks(self.disk, self.path)
        self._history = History(self.disk, files.directory, keep=0)
        self._checkpoints = Checkpoints(self._committed, self._history, self._blobs, records)
        self.log_bytes_used = 0
        self.owner = 0
        """Which opening of the directory this is, in the order of those that write; 0: it is only read."""
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
        blobs_of: NamedBlobs | None = None,
        accept_last_good: bool = False,
        lost: list[str] | None = None,
        newest: int | None = None,
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
            blobs_of: what blobs a canister's record names, by its id and the record; only then do unnamed ones go.
            accept_last_good: where acknowledged commits are damaged, open the last good state instead of raising.
            lost: where given, damage is added to it in words, as far as the rest can be had without; else it raises.
            newest: where it is only read: as of this version, one that `subnet_records` has.
            trust_owner: write into a directory that belongs to another user.
            limits: sizes at which things are done.
            disk: the disk.
            store: where uncommitted and temporary pages go.

        Raises:
            StorageError: another owner has it, it cannot be read or written, or it is damaged.
        """
        refuse_url(str(path))
        limits = limits or StorageLimits()
        files = Files((disk or RealDisk()).within(str(path)), str(path), store or store_in_turn(), limits.check_bytes)
        directory = cls(files, durability, limits.log_bytes, records, blobs_of, read_only=read_only)
        try:
            with directory._told("open"):
                directory._begin(history, trust_owner=trust_owner)
                directory._lost = lost
                directory._checkpoints.load(directory._bearable)
                directory._recover(accept_last_good=accept_last_good, newest=newest)
                if not read_only:
                    directory._set_up(history, extensions)
            return directory
        except BaseException:
            directory._release()
            raise

    def _begin(self, history: KeepHistory, *, trust_owner: bool) -> None:
        """Get in, and make a first checkpoint where there is none."""
        if self.read_only:
            self.locks.share()
        else:
            self._checkpoints.own(self.locks, trust_owner=trust_owner)
        self._checkpoints.look_around()
        if not self.disk.exists(f"{self.path}/checkpoint"):
            if self.read_only:
                raise StorageError("not a state directory: no checkpoint in it", self.path).coded("no-state")
            self._checkpoints.begin(0 if history == "kept" else history)

    def _set_up(self, history: KeepHistory, extensions: Sequence[str]) -> None:
        """Do what was asked for beyond what the directory is."""
        self._checkpoints.keep_reserve()
        wanted = tuple(sorted({*self._committed.extensions, *extensions}))
        keep = self._checkpoints.last.history if history == "kept" else history
        if (wanted, keep) != (self._committed.extensions, self._checkpoints.last.history):
            self._committed.extensions = wanted
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
            self.forget(self._committed.version - keep)

    @property
    def history_kept(self) -> int | None:
        """How many commits are kept; `None`: all."""
        return self._history.keep

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

    def _recover(self, *, accept_last_good: bool, newest: int | None) -> None:
        file_path = f"{self.path}/log"
        file = self._log_file = self.disk.open(file_path, write=not self.read_only)
        if not self.read_only and not file.lock(exclusive=True):
            # Whoever takes the lock away from an owner does not get in.
            raise StorageError("open in another process, whose lock was removed; close it", self.path)
        checkpoint = self._checkpoints.last
        records, tail = read_log(file, checkpoint, live=self.read_only)
        self._files.settled = not any(record.is_seal for record in records)
        records = self._checkpoints.up_to(newest, records)
        place, end = last_place(checkpoint, records)
        self.log_bytes_used = end
        Replay(self._committed, file, self._bearable).take_up(records)
        self.recovery = Recovery(sum(not record.is_seal for record in records), tail.torn, tail.damaged_version)
        if tail.damaged_version is not None and not accept_last_good:
            raise StorageError(
                f"the log is damaged at offset {tail.offset:#x}: version {tail.damaged_version} was kept and is not "
                f"whole; the last good state is version {self._committed.version}: `perdure state salvage` copies it, "
                "accept_last_good opens it",
                file_path,
            )
        if self.read_only:
            return
        self.owner = self._checkpoints.claim(self.locks, records)
        if records:
            file.sync()  # an owner that was killed may have left them with the system
        self._files.log = CommitLog(
            file,
            file_path,
            place,
            end,
            sealed=not self._files.settled,
            write_behind=self.durability != "message",
            owner=self.owner,
            lock=self.locks,
        )
        # Nothing is to be appended before what is not whole is out of reach.
        if (tail.torn or not self._files.settled) and not self._checkpoint_now() and tail.damaged_version is not None:
            raise StorageError(_IS_READ, self.path)

    # -- what is committed

    def subnet_records(self) -> Iterator[tuple[int, bytes]]:
        """See `Checkpoints.subnet_records`."""
        return self._checkpoints.subnet_records(self.version)

    @property
    def version(self) -> int:
        """Number of the newest commit; 0: none yet."""
        return self._committed.version

    @property
    def canisters(self) -> Mapping[bytes, CanisterState]:
        """Canisters by id, as committed."""
        return MappingProxyType(self._committed.canisters)

    @property
    def keeps_history(self) -> bool:
        """Whether commits have in them what they replaced, and what they came from."""
        return self._history.keep != 0

    @property
    def answers(self) -> Mapping[bytes, Answer]:
        """Answers by request id, in the order in which they were given."""
        return self._committed.answers.kept

    @property
    def next_slot(self) -> int:
        """Slot of the next new canister's files."""
        return self._committed.next_slot

    @property
    def extensions(self) -> tuple[str, ...]:
        """Names of what its canisters use beyond the network's rules."""
        return self._committed.extensions

    @property
    def subnet_record(self) -> bytes:
        """What the rules keep about the subnet, opaque here."""
        return self._committed.subnet_record

    def state_hash(self) -> bytes:
        """The hash of the whole committed state: the same commits give the same hash."""
        with self._lock, self._told("hash the state"):
            return self._committed.state_hash()

    def _memory(self, canister_id: bytes, kind: str) -> DurableMemory:
        self._check_open()
        state = self._committed.canisters.get(canister_id)
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
            self._memory(canister_id, kind)
            return self._committed.fork_image(canister_id, kind)

    # -- blobs

    def put_blob(self, data: bytes) -> bytes:
        """Keep a module or a chunk, on the platter when this returns; its SHA-256.

        It goes at the first checkpoint that finds it named by nothing: see `open`.
        """
        with self._lock, self._told("keep a blob"):
            self._check_writable()
            return self._blobs.put(data)

    def blob(self, hash_: bytes) -> bytes:
        """A blob by its SHA-256.

        Raises:
            StorageError: it is not there, or damaged.
        """
        with self._told("read a blob"):
            return self._blobs.read(hash_)

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
            log = self._check_writable()
            log.check_owner_at_times()  # and before it is acknowledged: this keeps most of a late owner off the log
            version = self._log_commit(log, (message, changes, subnet_record, answers, forgotten))
            if apply:
                for canister_id, change in changes.items():
                    if not change.deleted:
                        self._committed.apply(canister_id, change)
            log.in_doubt = None
        if wait and self.durability == "message":
            log.sync(version)
        return version

    def _log_commit(self, log: CommitLog, commit: Commit) -> int:
        draft = Draft(self._committed, *commit)
        meta = draft.meta(with_before=self._history.keep != 0)
        size_bytes = record_bytes(len(meta), draft.page_count)
        if log.position and self._is_full(log, size_bytes):
            copies, draft.created = bool(draft.created), {}
            self._checkpoint_now()
            if copies:  # which were of the files of before
                draft = Draft(self._committed, *commit)
                meta = draft.meta(with_before=self._history.keep != 0)
                size_bytes = record_bytes(len(meta), draft.page_count)
        log.reserve(size_bytes)
        hashed = self._history.keep != 0 or log.sealed
        log.in_doubt = "a commit was interrupted"  # until memory has what the log has
        try:
            if hashed:
                draft.account()
            version = log.append(meta, draft.pages, state_hash=self.state_hash() if hashed else b"")
        except StorageError as error:
            if hashed:
                log.failed = f"the log and what was accounted for differ: {error}"
                error.committed = None
            elif error.committed is False:
                log.in_doubt = None
            raise
        self._committed.version = version
        self._blobs.settle(meta)
        if not hashed:
            draft.account()  # while the disk is at work
        return version

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
        self._committed.apply(canister_id, change)

    def _log_for_commit(self) -> CommitLog:
        if self._files.log is None:
            raise InternalError("a directory open for writing has no log")
        return self._files.log

    def end_round(self) -> None:
        """Return when everything committed is on the platter, where the durability is ``round`` or ``message``."""
        self.wait(self._committed.version)

    def sync(self) -> None:
        """Return when everything committed is on the platter."""
        log = self._check_writable()
        log.sync(log.version)

    # -- checkpoints

    def checkpoint(self) -> None:
        """Bring the images up to date and empty the log.

        Raises:
            StorageError: it could not be written, or somebody reads the directory; the state is as before.
        """
        with self._lock, self._told("checkpoint"):
            self._check_writable()
            if any(memory.unapplied for memory in self._committed.memories()):
                raise StorageError("a commit is under way", self.path)
            if not self._checkpoint_now():
                raise StorageError(_IS_READ, self.path)

    def forget(self, version: int) -> None:
        """Drop what is kept of the past up to `version`, in whole segments: one is what a checkpoint put aside."""
        with self._lock, self._told("drop history"):
            self._check_writable()
            if self._history.forget(version):
                self._checkpoints.collect_blobs()

    def _is_full(self, log: CommitLog, size_bytes: int) -> bool:
        is_full = log.position + size_bytes > self.log_bytes or self._files.images.is_crowded
        return is_full and self.durability != "never" and not any(one.unapplied for one in self._committed.memories())

    def _checkpoint_now(self) -> bool:
        """Make a checkpoint unless somebody reads the directory."""
        made = self._checkpoints.make(self._log_for_commit())
        if made and self.on_checkpoint is not None:
            self.on_checkpoint(self._checkpoints.last.version)
        return made

    # -- the past

    def history(self, newest: int | None = None, *, below: int | None = None, naming: bytes = b"") -> list[Version]:
        """What is kept of the past, newest first: so many, below a version, of those that have these bytes in them."""
        with self._lock, self._told("read the history"):
            self.check()
            return [*islice(self._checkpoints.versions(below, (naming,) if naming else (), again=True), newest)]

    def at(self, version: int) -> PastState:
        """The state after `version`, as temporary images that may be read, mapped and forked; close it after use.

        Raises:
            StorageError: that version is not kept.
        """
        with self._lock, self._told("open the past"):
            self.check()
            return open_past(self._committed, self._checkpoints.versions(), version)

    def around(self, version: Version, look: Callable[[], None]) -> tuple[PastState, PastState]:
        """The states before and after a kept commit, of the canisters that it changed: see `open_around`."""
        with self._lock, self._told("open the past"):
            self.check()
            return open_around(self._committed, self._checkpoints.naming, version, look)

    def blame(self, canister_id: bytes, kind: str, address: int) -> Version | None:
        """The newest kept commit that changed the byte at `address`; `None`: it is older than what is kept."""
        with self._lock, self._told("read the history"):
            memory = self._memory(canister_id, kind)
            if not 0 <= address < memory.wasm_pages * WASM_PAGE_BYTES:
                raise IndexError(f"address {address:#x} lies outside a memory of {memory.wasm_pages} Wasm pages")
            (current,) = memory.image().read(address, 1)
            where = canister_id, kind, address, current
            return next((one for one in self._checkpoints.versions() if changed_byte(self.disk, one, *where)), None)

    # -- checking and closing

    def verify(self) -> list[str]:
        """Compare every page of the last checkpoint with its hash, and every blob with its name; what is wrong.

        Commits since the checkpoint were compared when they were read, and their state hash with theirs.
        """
        with self._lock, self._told("verify"):
            self._check_open()
            return [*self._committed.problems(), *self._blobs.problems()]

    def check(self) -> None:
        """Raise where nothing can be read or committed any more: a sync failed, or an exception cut off a commit.

        Raises:
            StorageError: open the directory anew; what it was told to keep is there.
            ValueError: it is closed.
        """
        self._files.check()

    def _check_open(self) -> None:
        self._files.check_open()

    def _check_writable(self) -> CommitLog:
        """Raise where nothing can be committed; what it goes to."""
        if self._files.is_closed:
            self._check_open()
        if self.read_only:
            raise StorageError("open for reading", self.path)
        log = self._log_for_commit()
        log.check_usable()
        return log

    def close(self) -> None:
        """Make a last checkpoint where that can be, and let go. Again is fine."""
        if self._files.is_closed:
            self._release()  # of which an exception may have left something
            return
        try:
            log = self._files.log
            under_way = any(memory.unapplied for memory in self._committed.memories())
            changed = log is not None and (log.position or self._committed.version != self._checkpoints.last.version)
            if log is not None and log.failed is None and changed and not under_way:
                self.end_round()  # a reader may be in the way of the checkpoint, or an exception has cut off a commit
                if log.in_doubt is None:
                    with self._told("checkpoint"):
                        self._checkpoint_now()
        finally:
            self._release()

    def abandon(self) -> None:
        """Let go without a checkpoint, as a crash would; for tests and for a state not to be touched."""
        self._release()

    def _release(self) -> None:
        self._files.is_closed = True
        for state in self._committed.canisters.values():
            for memory in state.memories.values():
                memory.close()
        if self._files.log is not None:
            self._files.log.close()
        elif self._log_file is not None:
            self._log_file.close()
        try:
            self._files.images.leave()
        finally:
            self.locks.release()
            self.disk.close()

    def __enter__(self) -> StateDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
