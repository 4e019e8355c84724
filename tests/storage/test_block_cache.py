"""The cache of blocks: bounded, checked, and never needed."""

from __future__ import annotations

import errno
from hashlib import sha256
from pathlib import Path

import pytest

from perdure.storage.block_cache import BlockCache


def name(number: int) -> bytes:
    return sha256(bytes([number])).digest()


def test_keeps_and_gives_back(tmp_path: Path) -> None:
    BlockCache(tmp_path / "objects").put(name(1), b"block")
    again = BlockCache(tmp_path / "objects")
    assert again.get(name(1)) == b"block"
    assert again.get(name(2)) is None
    assert (tmp_path / "objects").stat().st_mode & 0o777 == 0o700


def test_it_can_be_emptied(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "objects")
    assert (cache.size_bytes(), cache.clear()) == (0, 0)
    for number in range(3):
        cache.put(name(number), b"block")
    assert cache.size_bytes() == 3 * 37
    assert cache.clear() == 3
    assert cache.get(name(1)) is None
    cache.put(name(1), b"block")
    assert cache.get(name(1)) == b"block"


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path, max_bytes=10 * 132)
    for number in range(50):
        cache.put(name(number), bytes([number]) * 100)
        assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 10 * 132
    assert cache.get(name(49)) == bytes([49]) * 100
    assert cache.get(name(0)) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"\1" + data[1:], lambda data: b""])
def test_a_damaged_block_is_none(tmp_path: Path, damage) -> None:
    cache = BlockCache(tmp_path)
    cache.put(name(1), b"block" * 10)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert cache.get(name(1)) is None


def test_a_block_under_another_ones_name_is_none(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path)
    cache.put(name(1), b"block")
    (tmp_path / name(1).hex()).rename(tmp_path / name(2).hex())
    assert cache.get(name(2)) is None


@pytest.mark.parametrize("written", [None, 3])
def test_a_full_disk_ends_caching_and_nothing_else(tmp_path: Path, written: int | None) -> None:
    def write(file: int, data: bytes) -> int:
        if written is None:
            raise OSError(errno.ENOSPC, "no space left on device")
        return written

    cache = BlockCache(tmp_path, write=write)
    cache.put(name(1), b"block")
    assert not cache.is_usable
    assert cache.get(name(1)) is None
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_others_can_write_is_left_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cache = BlockCache(tmp_path)
    cache.put(name(1), b"block")
    assert not cache.is_usable
    assert list(tmp_path.iterdir()) == []


def test_none_at_all(tmp_path: Path) -> None:
    cache = BlockCache(tmp_path / "objects", max_bytes=0)
    cache.put(name(1), b"block")
    assert not (tmp_path / "objects").exists()
