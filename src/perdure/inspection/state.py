"""The stable memory of a canister in a state directory, as of its last commit, as a read-only memory.

Plumbing: the pieces of files that make up an image are mapped into one reservation of address space, as the embedder
maps them for a running canister, so that a layered image reads like a flat file and shares its pages with it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from perdure.canister import Extent
from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Layer, Source
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, Memory, ReadOnlyMemory
from perdure.storage import StateDirectory
from perdure.storage.names import Names

__all__ = ["map_extents", "open_canister"]

_MAP_FIXED: Final = 0x10
_MAP_NORESERVE: Final = 0x4000
_MAP_FAILED: Final = ctypes.c_void_p(-1).value


def open_canister(path: Path, canister: str) -> Source:
    """Open a canister's stable memory.

    Args:
        path: the state directory.
        canister: its id, as text, or the name that `perdure canister` knows it by.

    Raises:
        StorageError: no state directory, no such canister, or one that cannot be read.
    """
    if not (path / "checkpoint").exists():
        raise StorageError("not a state directory", path)
    directory = StateDirectory.open(path, read_only=True)
    try:
        canister_id = _find(directory, canister).raw_bytes
        image = directory.image(canister_id, "stable")
        image.write_held()
        extents = list(image.extents())
        memory = map_extents(extents, image.wasm_pages)
        layers = [_layer(extent) for extent in extents]
    except BaseException:
        directory.close()
        raise
    ranges = [(extent.address, extent.address + extent.size_bytes) for extent in extents]
    # Open until the source is closed: as long as a reader is there, the owner leaves the files as they are.
    module_hash = directory.canisters[canister_id].module_hash
    labels = ModuleLabels(lambda: directory.blob(module_hash) if module_hash else None)
    return Source(f"{path}:{canister}", memory, ranges, layers, directory.close, labels)


def _find(directory: StateDirectory, canister: str) -> Principal:
    known = [Principal(found) for found in directory.canisters if len(found) <= MAX_PRINCIPAL_BYTES]
    names = Names(Path(directory.path))
    try:
        wanted = Principal.from_text(names.ids.get(canister, canister))
    except MalformedError:
        wanted = None
    if wanted is None or wanted not in known:
        titled = ((one, names.name_of(one)) for one in sorted(known))
        listed = ", ".join(f"{one} ({name})" if name else str(one) for one, name in titled) or "none"
        raise StorageError(f"no canister {canister!r} in it, found {listed}", directory.path)
    return wanted


def _layer(extent: Extent) -> Layer:
    status = os.fstat(extent.file_descriptor)
    return Layer(extent.address, extent.size_bytes, (status.st_dev, status.st_ino), extent.file_offset)


def map_extents(extents: Sequence[Extent], wasm_pages: int) -> Memory:
    """The pieces of files as one memory, zeros between them. The mappings outlive the descriptors.

    Raises:
        StorageError: the kernel refuses a mapping.
    """
    size_bytes = wasm_pages * WASM_PAGE_BYTES
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
