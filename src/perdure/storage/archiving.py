"""A state directory whose commits go to an archive as they are made, and that goes on elsewhere from there.

`Archiver` follows an open directory: what it commits becomes an entry of the archive's log, see
`perdure.storage.archive_log`, before whoever waits for it is answered, or at an interval. Those who wait share one. As
the log gets longer, and where commits are missing (a crash came between the directory and the archive, or they are
more than is held in memory), the archive gets a version of the directory, by what changed, and its log goes on there.

`bring` is for whoever opens a directory: it has one made of the archive where there is none.

The directory remembers in ``archived.json``, under ``logs``, the token of its last claim; ``next`` is one that is under
way. So a copy that went on, and a directory whose archive went on without it, are told from the one that goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final, final

from perdure.errors import StorageError, UnsupportedError
from perdure.storage.archive import ARCHIVE_KEY, BESIDE, Archive, archive_state
from perdure.storage.archive_format import read_key
from perdure.storage.archive_log import NO_ENTRY, TOKEN_BYTES, ArchiveLog, Base, LogEntry
from perdure.storage.archived import remember_token, tokens_of
from perdure.storage.beside import make_directories
from perdure.storage.directory import StateDirectory
from perdure.storage.disk import Buffer, Disk, RealDisk, read_whole
from perdure.storage.objects import Objects
from perdure.storage.restoring import restore_state
from perdure.urls import parse_url

__all__ = ["ArchiveTo", "Archiver", "bring"]

_HELD_BYTES: Final = 64 << 20
"""Of commits that are not in the archive yet; more of them are put there as a version of the directory."""
_BASE_BYTES: Final = 64 << 20
"""Of the archive's log, after which it gets a version of the directory: what a restore has to read at most, twice."""


@final
@dataclass(frozen=True, slots=True)
class ArchiveTo:
    """Where a subnet's commits go, beside its state directory.

    Attributes:
        url: of the archive, ``s3://BUCKET/KEY``, ``gs://``, ``az://`` or ``file:///PATH``; made where there is none.
        interval_seconds: what may be lost with the machine: what was acknowledged within so many seconds before. 0:
            nothing, a commit is in the archive before it is acknowledged. What goes to other subnets always is.
        key_file: of the key that seals it, 32 bytes or 64 hexadecimal digits, on whichever machine has the subnet.
    """

    url: str
    interval_seconds: float = 0.0
    key_file: str | None = None

    def __post_init__(self) -> None:
        parse_url(self.url)
        if not 0 <= self.interval_seconds <= 86_400:
            raise ValueError(f"an interval is 0 to 86400 seconds, found {self.interval_seconds!r:.40}")

    @classmethod
    def of(cls, given: str | ArchiveTo) -> ArchiveTo:
        """The same, where only a URL is given."""
        return given if isinstance(given, ArchiveTo) else cls(given)

    def under(self, name: str) -> ArchiveTo:
        """The same, for a part that has an archive of its own."""
        return replace(self, url=f"{self.url.rstrip('/')}/{name}")

    def key(self) -> bytes:
        """The key; nothing: it is not sealed.

        Raises:
            StorageError: the file cannot be read.
            UnsupportedError: it has no key in it.
        """
        if self.key_file is None:
            return b""
        return read_key(self.key_file)


def bring(path: str | os.PathLike[str], to: ArchiveTo, *, set_aside: bool = False, disk: Disk | None = None) -> bool:
    """Have the directory there that an archive goes on with, made of it where there is none; whether it was made.

    The owner that it had can acknowledge nothing from then on.

    Args:
        path: the directory.
        to: the archive; where nothing is in it, nothing is done.
        set_aside: what is there and was the archive's once, while another owner has gone on since, gets another name:
            what is in it and not in the archive, nobody was told of.
        disk: where the directory is to be.

    Raises:
        StorageError: one of them cannot be read or written; another owner has gone on with the archive, or what is
            there was never in it.
    """
    disk, path = disk or RealDisk(), os.fspath(path)
    place = parse_url(to.url)
    make_directories(disk, os.path.dirname(path))  # noqa: PTH120 -- a disk's names are text
    if Objects(place).stat(place.under(ARCHIVE_KEY).key) is None:
        return False
    archive = Archive(to.url, to.key())
    last, _ = ArchiveLog(archive).last()
    if last is NO_ENTRY:
        return False
    if disk.exists(f"{path}/checkpoint"):
        known = tokens_of(disk, path, archive.id)
        is_own = last.token in known
        if is_own and _version_of(path, disk) >= last.version:
            return False
        if not known:
            words = "what is in it was never in this archive, which has something else: name another one of the two"
            raise StorageError(f"{words} ({archive.place})", path).coded("archive-owner")
        if not (is_own or set_aside):  # its own, which a disk that lost what it had has put back
            raise StorageError(
                f"another owner has gone on with {archive.place}, or this directory is an older copy: move it away, "
                "and it is made of the archive, or restore that elsewhere",
                path,
            ).coded("archive-owner")
        disk.rename(path, f"{path}.before-owner-{last.owner + 1}")
    elif disk.exists(path):
        disk.remove_directory(path)  # made just before a crash; anything in it, and this says so
    ArchiveLog(archive).claim(os.urandom(TOKEN_BYTES))
    restore_state(to.url, path, key=to.key(), disk=disk)
    return True


def _version_of(path: str, disk: Disk) -> int:
    with StateDirectory.open(path, read_only=True, disk=disk) as found:
        return found.version


@final
class Archiver:
    """Has the commits of an open directory in an archive.

    Methods may be called from several threads; a commit is made by one at a time.

    Args:
        directory: open for writing, its last commit whole; its archive has to be one that `bring` would leave as it is.
        to: the archive.

    Raises:
        StorageError: it is another owner's by now, or cannot be read or written.
    """

    def __init__(self, directory: StateDirectory, to: ArchiveTo) -> None:
        self._directory = directory
        self._to, self._key = to, to.key()
        self._archive = Archive(to.url, self._key, create=True)
        self._log = ArchiveLog(self._archive)
        self._lock = threading.Lock()
        self._pending: list[tuple[int, bytes]] = []
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._blobs: dict[bytes, bytes] = {}
        self._archived_blobs: set[bytes] = set()  # those that the last version has, or an entry since
        self._files: dict[str, bytes] = {}
        self._since_base_bytes = 0
        self._under_way: tuple[LogEntry, bytes] | None = None
        self._failed = ""
        self._over = threading.Event()
        self._last, self._own = self._log.last()
        self._claim()
        self._files = self._beside()
        directory._log_for_commit().on_commit = self._take
        if directory.version > self._last.version:  # a crash came between the two
            self._make_base()
        self._thread = threading.Thread(target=self._go_on, name="perdure archive", daemon=True)
        if to.interval_seconds:
            self._thread.start()

    def _claim(self) -> None:
        disk, path, archive = self._directory.disk, self._directory.path, self._archive
        known, token = tokens_of(disk, path, archive.id), os.urandom(TOKEN_BYTES)
        if self._last is NO_ENTRY:
            remember_token(disk, path, archive.id, b"", token)
            self._make_base(token)
        else:
            if self._last.token not in known or self._directory.version < self._last.version:
                raise StorageError("another owner has gone on with it", archive.place).coded("archive-owner")
            remember_token(disk, path, archive.id, self._last.token, token)
            self._last, self._own = self._log.claim(token, after=self._last.token)
        remember_token(disk, path, archive.id, token)

    # -- what is to go

    def _take(self, version: int, record: Sequence[Buffer]) -> None:
        """A commit is on its way to the disk."""
        if not self._pending_bytes:
            self._pending_since = time.monotonic()
        self._pending_bytes += sum(map(len, record))
        if self._pending_bytes <= _HELD_BYTES:  # else some are missing from now on, which is seen by their versions
            self._pending.append((version, b"".join(record)))

    def take_blob(self, hash_: bytes, data: bytes) -> None:
        """A module or a chunk is on the platter, which the next commits may name."""
        if hash_ not in self._archived_blobs and hash_ not in self._blobs:
            self._blobs[hash_] = data
            self._pending_bytes += len(data)

    def wait(self, version: int) -> None:
        """Return when a version is in the archive, or may wait. For any thread at any time: they share an entry.

        Raises:
            StorageError: it could not be written; the next who waits tries again. With the code ``archive-owner``:
                another owner has gone on, and this one never will.
        """
        if version <= self._last.version:
            return
        interval = self._to.interval_seconds  # without one no clock is asked: another thread may just have set it anew
        late = not interval or time.monotonic() - self._pending_since > interval
        if late or self._pending_bytes > _HELD_BYTES:
            self.keep(version)

    def keep(self, version: int | None = None) -> None:
        """Return when a version is in the archive, or all that is committed. Raises as `wait`."""
        if version is not None and version <= self._last.version:
            return
        with self._lock:
            wanted = self._directory.version if version is None else version
            while wanted > self._last.version or self._under_way is not None:
                self._write(wanted)
            if self._since_base_bytes > _BASE_BYTES:
                with suppress(StorageError):  # what was waited for is there; the next one tries again
                    self._make_base()

    def _write(self, wanted: int) -> None:
        """Write one entry: that of which it is not known whether it is there, or what is to go."""
        self.check()
        if self._under_way is None:
            pending = [one for one in self._pending if one[0] > self._last.version]
            versions = [version for version, _ in pending]
            if versions != list(range(self._last.version + 1, max(wanted, *versions, 0) + 1)):
                self._make_base()
                return
            self._directory.wait(versions[-1])  # so that the archive is not ahead of the directory after a crash
            blobs, files = tuple(self._blobs.values()), self._beside()
            self._under_way = self._sealed(
                replace(
                    self._last.next(self._own),
                    version=versions[-1],
                    blobs=blobs,
                    files=tuple((name, data) for name, data in files.items() if self._files.get(name) != data),
                    records=b"".join(record for _, record in pending),
                )
            )
        self._put(*self._under_way)

    def _sealed(self, entry: LogEntry) -> tuple[LogEntry, bytes]:
        return entry, self._log.seal(entry)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Remember that another owner has gone on, from the error that says so."""
        try:
            yield
        except StorageError as error:
            error.committed = None
            if error.error_code == "archive-owner":
                self._failed = error.message
            raise

    def _put(self, entry: LogEntry, sealed: bytes) -> None:
        with self._told():
            self._log.put(entry, sealed)
        # Cut off from here on, the same entry is put once more.
        self._files |= dict(entry.files)
        for data in entry.blobs:
            self._archived_blobs.add(hash_ := sha256(data).digest())
            self._blobs.pop(hash_, None)
        self._since_base_bytes += len(sealed)
        self._has(entry, sealed)

    def _has(self, entry: LogEntry, sealed: bytes) -> None:
        """An entry is there: what it has is not to go any more."""
        self._last, self._own = entry, sha256(sealed).digest()
        while self._pending and self._pending[0][0] <= entry.version:
            del self._pending[0]
        self._pending_since = time.monotonic()
        self._pending_bytes = sum(len(one) for _, one in self._pending) + sum(map(len, self._blobs.values()))
        self._under_way = None

    def _make_base(self, token: bytes = b"") -> None:
        """Have a version of the directory in the archive, and an entry that names it.

        Args:
            token: of an owner that begins with it; else it is this one's.
        """
        self.check()
        files = self._beside()
        directory = self._directory
        with self._told():
            self._log.refuse_taken(self._last)  # else a version of it would be there that never happened
        with directory._lock:  # a checkpoint would be in the way, and what is not in the log yet would be missing
            directory.sync()
            made = archive_state(directory.path, self._to.url, key=self._key, take_over=not token, disk=directory.disk)
        manifest, hash_ = self._archive.manifest(made.sequence)
        entry = self._last.next(self._own)
        entry = replace(entry, version=made.version, base=Base(made.sequence, hash_, made.version, entry.number))
        if token:
            entry = replace(entry, owner=self._last.owner + 1, token=token)
        there = {blob.hash for blob in manifest.blobs}
        self._archived_blobs &= there  # cut off from here on, too much is sent and nothing is missing
        self._files = {}
        self._under_way = self._sealed(entry)
        self._put(*self._under_way)
        self._archived_blobs = there
        for one in self._archived_blobs & self._blobs.keys():
            del self._blobs[one]
        self._files = files
        self._since_base_bytes = 0

    def _beside(self) -> dict[str, bytes]:
        disk, path = self._directory.disk, self._directory.path
        return {name: read_whole(disk, f"{path}/{name}") for name in BESIDE if disk.exists(f"{path}/{name}")}

    # -- how it is

    def check(self) -> None:
        """Raise `StorageError` where another owner has gone on: nothing more can be acknowledged here."""
        if self._failed:
            raise StorageError(self._failed, self._archive.place).coded("archive-owner")

    def _go_on(self) -> None:
        """Every interval, without somebody who waits; what could not be written, whoever waits next hears."""
        while not (self._over.wait(self._to.interval_seconds) or self._directory._files.is_closed):
            with suppress(StorageError, UnsupportedError, OSError, ValueError):
                self.keep()

    def close(self) -> None:
        """Have all that is committed in the archive, unless that is another owner's. Raises as `wait`."""
        self._over.set()
        if not self._failed:
            self.keep()
