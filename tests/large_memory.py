"""A memory of any size in a sparse file, with little in it."""

from __future__ import annotations

import mmap
from pathlib import Path

from perdure.memory import check_range
from perdure.stable import MemoryManager, StableBTreeMap, StableVec, types


class FileMemory:
    """A memory in a sparse file."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        with path.open("w+b") as file:
            file.truncate(size_bytes)
            self._map = mmap.mmap(file.fileno(), size_bytes)
        self._wasm_pages = 0

    def size(self) -> int:
        return self._wasm_pages

    def grow(self, wasm_pages: int) -> int:
        before = self._wasm_pages
        self._wasm_pages += wasm_pages
        return before

    def read(self, address: int, size_bytes: int) -> bytes:
        check_range(address, size_bytes, self._wasm_pages << 16)
        return self._map[address : address + size_bytes]

    def write(self, address: int, data: bytes | memoryview) -> None:
        check_range(address, len(data), self._wasm_pages << 16)
        self._map[address : address + len(data)] = bytes(data)


def large_memory(path: Path, mebibytes: int) -> None:
    """Three maps and a vector among memories of nothing but zeros, `mebibytes` of them."""
    memory = FileMemory(path, (mebibytes + 128) << 20)
    manager = MemoryManager.create(memory)
    balances = StableBTreeMap.create(manager.get(0), types.u64, types.u64)
    balances.bulk_load((key, 3 * key) for key in range(20_000))
    names = StableBTreeMap.create(manager.get(1), types.text, types.text)
    names.bulk_load(sorted((f"name {key}", f"{key}" * 7) for key in range(1000)))
    manager.get(2).grow(mebibytes << 3)
    StableVec.create(manager.get(3), types.u64).extend(range(1000))
    manager.get(4).grow(mebibytes << 3)
    late = StableBTreeMap.create(manager.get(5), types.u64, types.u64)
    late.bulk_load((key, key) for key in range(1000))
    with path.open("r+b") as file:
        file.truncate(memory.size() << 16)
