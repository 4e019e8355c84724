"""An object as a memory: which requests are made, what is kept, and what happens when the object is another one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from object_servers import OurServer
from perdure.errors import StorageError
from perdure.storage.block_cache import BlockCache
from perdure.storage.objects import Objects
from perdure.storage.remote import BLOCK_BYTES, RemoteMemory
from perdure.urls import parse_url

DATA = random.Random(25).randbytes(40 * BLOCK_BYTES + 1000)


def opened(cache: BlockCache | None = None) -> RemoteMemory:
    objects = Objects(parse_url("s3://bucket"))
    stat = objects.stat("dump.bin")
    assert stat is not None
    return RemoteMemory(objects, stat, cache)


@pytest.fixture
def dump(bucket: OurServer) -> OurServer:
    bucket.put("dump.bin", DATA)
    return bucket


def test_reads_like_the_bytes(dump: OurServer) -> None:
    memory = opened()
    draw = random.Random(1)
    padded = DATA.ljust(memory.size() << 16, b"\0")
    for _ in range(60):
        start = draw.randrange(len(padded))
        size = draw.choice([0, 1, 100, 5 * BLOCK_BYTES])
        size = min(size, len(padded) - start)
        assert memory.read(start, size) == padded[start : start + size]
        assert memory.read_uncached(start, size) == padded[start : start + size]
    with pytest.raises(IndexError):
        memory.read(len(padded), 1)
    with pytest.raises(PermissionError):
        memory.write(0, b"x")
    with pytest.raises(PermissionError):
        memory.grow(1)


def test_neighbours_come_in_one_request(dump: OurServer) -> None:
    memory = opened()
    dump.reset()
    memory.read(3 * BLOCK_BYTES - 1, 10 * BLOCK_BYTES)
    assert dump.counts == {"GET": 1}
    assert dump.sent == 11 * BLOCK_BYTES
    memory.read(4 * BLOCK_BYTES, BLOCK_BYTES)
    memory.read(BLOCK_BYTES, 12 * BLOCK_BYTES)  # one that is missing, eleven that are there
    assert dump.counts == {"GET": 2}
    assert dump.sent == 12 * BLOCK_BYTES


def test_who_reads_on_gets_more_at_once(dump: OurServer) -> None:
    memory = opened()
    dump.reset()
    for address in range(0, len(DATA), 4096):
        memory.read(address, min(4096, len(DATA) - address))
    assert dump.counts["GET"] <= 7
    assert dump.sent == len(DATA)


def test_blocks_outlive_the_process(dump: OurServer, tmp_path: Path) -> None:
    opened(BlockCache(tmp_path)).read(0, 8 * BLOCK_BYTES)
    dump.reset()
    assert opened(BlockCache(tmp_path)).read(0, 8 * BLOCK_BYTES) == DATA[: 8 * BLOCK_BYTES]
    assert dump.counts == {"HEAD": 1}
    dump.put("dump.bin", bytes(len(DATA)))  # of the same size: another tag
    assert opened(BlockCache(tmp_path)).read(0, BLOCK_BYTES) == bytes(BLOCK_BYTES)


def test_names_in_the_cache_tell_nothing(dump: OurServer, tmp_path: Path) -> None:
    opened(BlockCache(tmp_path)).read(0, BLOCK_BYTES)
    environment = dump.environment()
    for file in tmp_path.iterdir():
        assert not any(secret in file.name for secret in (*environment.values(), "dump", "bucket"))
        assert environment["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()


@pytest.mark.parametrize("ignores_conditions", [False, True])
@pytest.mark.parametrize("size_bytes", [len(DATA), 10])
def test_an_object_that_changes_is_noticed(dump: OurServer, ignores_conditions: bool, size_bytes: int) -> None:
    dump.ignores_conditions = ignores_conditions
    memory = opened()
    memory.read(0, 10)
    dump.put("dump.bin", bytes(size_bytes))
    assert memory.read(0, 10) == DATA[:10]  # what is there already belongs to what was opened
    for read in (memory.read, memory.read_uncached):
        with pytest.raises(StorageError, match=r"s3://bucket/dump.bin: the object was replaced") as caught:
            read(20 * BLOCK_BYTES, 10)
        assert caught.value.error_code == "object-changed"
    del dump.objects["dump.bin"]
    with pytest.raises(StorageError, match="no such object"):
        memory.read(20 * BLOCK_BYTES, 10)
