"""The pieces of files that make up an image, mapped as one memory for reading.

Plumbing: they go into one reservation of address space, as the embedder maps them for a running canister, so that a
layered image reads like a flat file and shares its pages with it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from typing import Final

from perdure.canister import Extent
from perdure.errors import StorageError
from perdure.memory import BytesMemory, Memory, ReadOnlyMemory

__all__ = ["map_extents"]

_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000 if sys.platform == "linux" else 0
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def map_extents(extents: Sequence[Extent], size_bytes: int) -> Memory:
    """The pieces of files as one memory, zeros between them. The mappings outlive the descriptors.

    Raises:
        StorageError: the kernel refuses a mapping.
    """
    if size_bytes == 0:
        return BytesMemory()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    reservation = mmap.mmap(-1, size_bytes, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(reservation))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_int64]
    for extent in extents:
        size = min(extent.size_bytes, size_bytes - extent.address)
        at = start + extent.address
        kind = mmap.MAP_PRIVATE | _MAP_FIXED
        found = libc.mmap(at, size, mmap.PROT_READ, kind, extent.file_descriptor, extent.file_offset)
        if found == _MAP_FAILED:
            raise StorageError(f"cannot map its files: {os.strerror(ctypes.get_errno())}", "image")
    return ReadOnlyMemory(memoryview(reservation))
