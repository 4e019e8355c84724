"""The compile cache: native code and what stands beside it, one file an entry, in the user's cache directory.

Deserialising runs native code later on, so an entry is only read when it belongs to this user, nobody else can write
it, and its checksum holds; anything else counts as absent and is written anew. Entries appear by rename, so that
processes never see half of one. Where the directory cannot be written, nothing is cached. What has not been used for
longest goes when there is more than `MAX_BYTES`, or than the file ``limit`` beside ``modules`` says, in bytes.

Layout, little-endian::

    ┌──────────────────────────────┬───────────┐
    │ magic "PERDUREC"             │  8 bytes  │
    │ format version               │  u32      │
    │ length of the facts          │  u32      │
    │ key                          │ 32 bytes  │
    │ SHA-256 of all the rest      │ 32 bytes  │
    │ facts                        │           │  <- `ModuleFacts`, see `module.py`
    │ native code                  │           │
    └──────────────────────────────┴───────────┘
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, final

__all__ = ["MAX_BYTES", "CacheEntry", "CachedFile", "CompileCache", "cache_directory"]

MAX_BYTES: Final = 2 << 30
"""Some hundred canisters; those of a day's work."""

_MAGIC = b"PERDUREC"
_VERSION = 3
_HEADER = struct.Struct("<8sII32s")
_CHECKSUM_BYTES = 32
_NEW = "new-"
_ABANDONED_SECONDS = 3600.0
_LIMIT_DIGITS = 20


class CacheEntry(NamedTuple):
    """What is kept for one module."""

    facts: bytes
    code: bytes


class CachedFile(NamedTuple):
    """An entry as it lies on disk."""

    name: str
    """The key in hexadecimal: of the module and everything that its code depends on."""
    size_bytes: int
    used_ns: int
    """When it was last used, in nanoseconds since 1970."""


def cache_directory(environment: Mapping[str, str]) -> Path:
    """``PERDURE_CACHE_DIR``, or ``perdure`` in ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if chosen := environment.get("PERDURE_CACHE_DIR"):
        return Path(chosen)
    home = environment.get("XDG_CACHE_HOME") or str(Path(environment.get("HOME") or "/nonexistent") / ".cache")
    return Path(home) / "perdure"


@final
class CompileCache:
    """Entries by key, in a directory that is made when first written to.

    Args:
        directory: where; entries are in ``modules`` in it.
        max_bytes: of all entries; the last one stays, however large. By default what `limit` has said, for this
            directory, else `MAX_BYTES`.
    """

    def __init__(self, directory: Path, max_bytes: int | None = None) -> None:
        self.directory = directory / "modules"
        self._limit = directory / "limit"
        self.max_bytes = self._read_limit() if max_bytes is None else max_bytes

    def _read_limit(self) -> int:
        try:
            with self._limit.open("rb") as file:
                text = file.read(_LIMIT_DIGITS + 1)
        except OSError:
            return MAX_BYTES
        return int(text) if text.strip().isdigit() and len(text) <= _LIMIT_DIGITS else MAX_BYTES

    def limit(self, max_bytes: int) -> None:
        """Keep at most so much, now and in every process from now on.

        Raises:
            OSError: the directory cannot be written.
        """
        self._limit.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._limit.write_text(f"{max_bytes}\n")
        self.max_bytes = max_bytes
        if self.directory.exists():
            self._forget("")

    def files(self) -> list[CachedFile]:
        """What is there, the last used first."""
        try:
            with os.scandir(self.directory) as found:
                entries = [(item.name, item.stat(follow_symlinks=False)) for item in found]
        except OSError:
            return []
        files = [CachedFile(name, one.st_size, one.st_mtime_ns) for name, one in entries if stat.S_ISREG(one.st_mode)]
        return sorted(files, key=lambda file: -file.used_ns)

    def clear(self) -> int:
        """Remove everything; how many entries that was. What runs goes on, and is compiled anew when it is loaded next.

        Raises:
            OSError: the directory cannot be written.
        """
        files = self.files()
        for file in files:
            (self.directory / file.name).unlink(missing_ok=True)
        return len(files)

    def load(self, key: bytes) -> CacheEntry | None:
        """The entry of `key` (32 bytes), or `None` where there is none that can be trusted."""
        try:
            data = self._read(self._path(key))
        except OSError:
            return None
        return None if data is None else _decode(key, data)

    def store(self, key: bytes, entry: CacheEntry) -> None:
        """Keep `entry`; silently not, where the directory cannot be written."""
        header = _HEADER.pack(_MAGIC, _VERSION, len(entry.facts), key)
        body = entry.facts + entry.code
        checksum = _checksum(header, body)
        with contextlib.suppress(OSError):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            from tempfile import mkstemp

            descriptor, temporary = mkstemp(dir=self.directory, prefix=_NEW)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(header + checksum)
                    file.write(body)
                os.replace(temporary, self._path(key))  # noqa: PTH105 -- the temporary name is a string
            except BaseException:
                os.unlink(temporary)  # noqa: PTH108
                raise
            self._forget(self._path(key).name)

    def _forget(self, newest: str) -> None:
        """Remove what killed processes left, and what was used longest ago until the rest is within bounds."""
        with os.scandir(self.directory) as found:
            entries = [(item.stat(follow_symlinks=False), item.name) for item in found]
        abandoned_before = time.time() - _ABANDONED_SECONDS
        total = sum(status.st_size for status, _ in entries)
        for status, name in sorted(entries, key=lambda entry: entry[0].st_mtime_ns):
            is_abandoned = name.startswith(_NEW) and status.st_mtime < abandoned_before
            is_too_much = total > self.max_bytes and name != newest and not name.startswith(_NEW)
            if (is_abandoned or is_too_much) and stat.S_ISREG(status.st_mode):
                with contextlib.suppress(FileNotFoundError):  # another process forgets too
                    os.unlink(self.directory / name)  # noqa: PTH108
                total -= status.st_size

    def _path(self, key: bytes) -> Path:
        return self.directory / key.hex()

    def _read(self, path: Path) -> bytes | None:
        # The entry is looked up in the directory that was asked whose it is, whatever takes its place meanwhile.
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not _is_ours(os.fstat(directory)):
                return None
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            descriptor = os.open(path.name, flags, dir_fd=directory)
        finally:
            os.close(directory)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
                return None
            with contextlib.suppress(OSError):
                os.utime(file.fileno())  # when it was used; where it cannot be written, it is not forgotten either
            return file.read()


def _is_ours(status: os.stat_result) -> bool:
    """Whether this user owns it and nobody else may write it."""
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _checksum(header: bytes, body: bytes | memoryview) -> bytes:
    digest = hashlib.sha256(header)
    digest.update(body)
    return digest.digest()


def _decode(key: bytes, data: bytes) -> CacheEntry | None:
    start = _HEADER.size + _CHECKSUM_BYTES
    if len(data) < start:
        return None
    magic, version, facts_bytes, found_key = _HEADER.unpack_from(data)
    if (magic, version, found_key) != (_MAGIC, _VERSION, key):
        return None
    body = memoryview(data)[start:]
    if facts_bytes > len(body) or _checksum(data[: _HEADER.size], body) != data[_HEADER.size : start]:
        return None
    return CacheEntry(bytes(body[:facts_bytes]), bytes(body[facts_bytes:]))
