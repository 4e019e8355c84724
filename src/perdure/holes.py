"""Plumbing: holes of files on file systems that are memory, where reading one through a mapping takes room.

A page fault has no error to return: where the file system is full by then, the kernel ends the process with SIGBUS.
So mappings are made of what such a file has, and not of its holes. (Writes do not matter: mappings are private.)
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, Protocol

__all__ = ["SparseFile", "holes_take_room", "ranges_to_map"]

_TMPFS: Final = 0x01021994  # `man 2 statfs`; a ramfs is never full
_OVERLAY: Final = 0x794C7630
_STATFS_BYTES: Final = 256  # more than it has anywhere
_PROBE_BYTES: Final = 4096
_MAX_RANGES: Final = 1024
"""Of one file: each is a mapping of the kernel's, which has 65,530 for a process."""

_libc = ctypes.CDLL(None, use_errno=True)


class SparseFile(Protocol):
    """What is asked of a file: its descriptor, and which ranges of it are no holes."""

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        ...

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ranges `(start, end)` that may hold anything but zeros, ascending."""
        ...


def holes_take_room(descriptor: int) -> bool:
    """Whether a file lies in memory, or in an overlay whose files do."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if sys.platform != "linux" or _libc.fstatfs(descriptor, found):
        return False
    kind = ctypes.c_long.from_buffer(found).value
    return kind == _TMPFS or (kind == _OVERLAY and _is_overlay_in_memory(descriptor))


def _is_overlay_in_memory(descriptor: int) -> bool:
    """What reading a hole of a new file beside it does. Nothing can be written there: it is taken for a disk's."""
    try:
        directory = Path(f"/proc/self/fd/{descriptor}").readlink().parent
        with tempfile.TemporaryFile(dir=directory, prefix="perdure-") as file:
            file.truncate(_PROBE_BYTES)
            with mmap.mmap(file.fileno(), _PROBE_BYTES, mmap.MAP_PRIVATE, mmap.PROT_READ) as hole:
                target = os.memfd_create("perdure", os.MFD_CLOEXEC)
                try:
                    os.write(target, hole)  # within a system call there is an error in place of the signal
                except OSError:
                    return True
                finally:
                    os.close(target)
            return os.fstat(file.fileno()).st_blocks > 0
    except OSError:
        return False


def ranges_to_map(file: SparseFile, start: int, end: int) -> Iterator[tuple[int, int]]:
    """What a range of a file has, ascending: all but its holes, or but the largest of them where there are many.

    Room for the others is had first, as well as can be: where there is none, they stay apart.
    """
    ranges = list(file.data_ranges(start, end))
    if len(ranges) <= _MAX_RANGES:
        return iter(ranges)
    gaps = sorted(((low, high) for (_, low), (high, _) in pairwise(ranges)), key=_size_of)
    return _joined(ranges, _with_room(file.descriptor, gaps[: 1 - _MAX_RANGES]))


def _with_room(descriptor: int, gaps: list[tuple[int, int]]) -> set[int]:
    """Where those begin that have room now: had for one after the other."""
    done: set[int] = set()
    try:
        writer = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return done
    try:
        for low, high in gaps:
            os.posix_fallocate(writer, low, high - low)
            done.add(low)
    except OSError:
        pass
    finally:
        os.close(writer)
    return done


def _size_of(gap: tuple[int, int]) -> int:
    return gap[1] - gap[0]


def _joined(ranges: list[tuple[int, int]], gaps: set[int]) -> Iterator[tuple[int, int]]:
    start, end = ranges[0]
    for low, high in ranges[1:]:
        if end not in gaps:
            yield start, end
            start = low
        end = high
    yield start, end
