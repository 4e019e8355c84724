"""Blocks of objects that were read before, in the user's cache directory: bounded, and never needed.

```
 NAME              64 hexadecimal digits: SHA-256 of what the block is of, its tag and its number
 ┌──────────┬──────┬─────────────────────────────────────────┐
 │ checksum │ 32 B │ SHA-256 of the name and of the block    │ 0
 │ block    │      │                                         │ 32
 └──────────┴──────┴─────────────────────────────────────────┘
```

A file appears by rename. One that is not what was written counts as absent; so does everything once the disk is full
or the directory is not the user's own: reading goes on without. What was not used for longest goes first.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final, final

__all__ = ["MAX_BYTES", "BlockCache"]

MAX_BYTES: Final = 1 << 30
_CHECKSUM_BYTES: Final = 32
_LEFT: Final = 0.8
"""Of the bound, after what is too much was removed."""
_NEW: Final = ".new"


@final
class BlockCache:
    """Blocks by name.

    Args:
        directory: made when first written to.
        max_bytes: of all files; 0: nothing is kept.
        write: what writes, given a descriptor and bytes.
    """

    def __init__(
        self, directory: Path, max_bytes: int = MAX_BYTES, write: Callable[[int, bytes], int] = os.write
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._write = write
        self._kept_bytes = -1  # not counted yet
        self._is_usable = max_bytes > 0 and _is_own(directory)

    @property
    def is_usable(self) -> bool:
        """Whether blocks are kept: not any more once the disk was full."""
        return self._is_usable

    def get(self, name: bytes) -> bytes | None:
        """The block of that name, if it is there and whole."""
        if not self._is_usable:
            return None
        path = self._directory / name.hex()
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        block = data[_CHECKSUM_BYTES:]
        return block if data[:_CHECKSUM_BYTES] == _checksum(name, block) else None

    def put(self, name: bytes, block: bytes) -> None:
        """Keep a block, as long as there is room for it."""
        if not self._is_usable:
            return
        size_bytes = _CHECKSUM_BYTES + len(block)
        try:
            self._make_room(size_bytes)
            self._write_file(name.hex(), _checksum(name, block) + block)
        except OSError:
            self._is_usable = False  # full, or gone: nothing depends on it
            return
        self._kept_bytes += size_bytes

    def size_bytes(self) -> int:
        """Of all blocks that are there."""
        try:
            return sum(size for _, size, _ in self._files())
        except OSError:
            return 0

    def clear(self) -> int:
        """Remove all blocks; how many they were."""
        try:
            files = self._files()
        except OSError:
            return 0
        for _, _, name in files:
            (self._directory / name).unlink(missing_ok=True)
        self._kept_bytes = -1
        return len(files)

    def _write_file(self, name: str, data: bytes) -> None:
        draft = self._directory / f"{name}.{os.getpid()}{_NEW}"
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            if self._write(file, data) != len(data):
                raise OSError("not all of it was written")
            draft.rename(self._directory / name)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
        finally:
            os.close(file)

    def _make_room(self, size_bytes: int) -> None:
        if self._kept_bytes < 0:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_own(self._directory):
                raise PermissionError(self._directory)
            self._kept_bytes = sum(size for _, size, _ in self._files())
        if self._kept_bytes + size_bytes <= self._max_bytes:
            return
        files = sorted(self._files())  # others may write there too
        self._kept_bytes = sum(size for _, size, _ in files)
        for _, size, name in files:
            if self._kept_bytes + size_bytes <= _LEFT * self._max_bytes:
                break
            (self._directory / name).unlink(missing_ok=True)
            self._kept_bytes -= size

    def _files(self) -> list[tuple[int, int, str]]:
        """When each was last used, its size, its name."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(OSError):  # another process removes what is too much as well
                    facts = entry.stat(follow_symlinks=False)
                    found.append((facts.st_mtime_ns, facts.st_size, entry.name))
        return found


def _checksum(name: bytes, block: bytes) -> bytes:
    return sha256(name + block).digest()


def _is_own(directory: Path) -> bool:
    """Whether what is in a directory is the user's alone; one that is not there will be."""
    try:
        facts = directory.stat()
    except OSError:
        return True
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022
