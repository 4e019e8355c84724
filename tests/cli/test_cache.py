"""`perdure cache`: what is compiled can be seen, emptied and bounded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from perdure.embedder import CompileCache
from perdure.embedder.cache import MAX_BYTES, CacheEntry
from perdure.storage.block_cache import BlockCache

Run = Callable[..., tuple[str, str]]


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PERDURE_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def filled(tmp_path: Path) -> CompileCache:
    kept = CompileCache(tmp_path / "cache")
    for number in range(3):
        kept.store(bytes([number]) * 32, CacheEntry(b"", bytes(100_000)))
        os.utime(kept.directory / (bytes([number]) * 32).hex(), ns=(0, (number + 1) * 10**9))
    return kept


def test_an_empty_one(perdure: Run) -> None:
    assert "0 modules in" in perdure("cache", "ls")[0]
    assert "0 modules removed" in perdure("cache", "clear")[0]


@pytest.mark.usefixtures("filled")
def test_what_is_there_the_last_used_first(perdure: Run) -> None:
    lines = perdure("cache", "ls")[0].splitlines()
    assert [line[:4] for line in lines[:3]] == ["0202", "0101", "0000"]
    assert "used 1970-01-01 00:00 UTC" in lines[0]
    assert "3 modules in" in lines[3]
    assert "of at most 2 GiB" in lines[3]
    answer = json.loads(perdure("cache", "ls", "--json")[0])
    assert [entry["used_ns"] for entry in answer["files"]] == [3 * 10**9, 2 * 10**9, 10**9]
    assert answer["size_bytes"] == sum(entry["size_bytes"] for entry in answer["files"])


@pytest.mark.usefixtures("filled")
def test_a_limit_holds_at_once_and_from_then_on(perdure: Run, tmp_path: Path) -> None:
    assert perdure("cache", "limit", "150kB", "--json")[0] == '{"limit_bytes": 150000}\n'
    assert [file.name[:2] for file in CompileCache(tmp_path / "cache").files()] == ["02"]
    other = CompileCache(tmp_path / "cache")
    other.store(bytes([9]) * 32, CacheEntry(b"", bytes(100_000)))
    assert [file.name[:2] for file in other.files()] == ["09"]
    assert "at most 146.5 KiB" in perdure("cache", "limit")[0]


def test_clear(perdure: Run, filled: CompileCache) -> None:
    assert "3 modules removed" in perdure("cache", "clear")[0]
    assert filled.files() == []
    assert filled.load(bytes(32)) is None


@pytest.mark.parametrize("text", ["", "many", "-5", "9" * 30, "\0"])
def test_a_limit_that_is_none_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "limit").write_text(text)
    assert CompileCache(tmp_path).max_bytes == MAX_BYTES


def test_a_name_that_a_terminal_would_obey_is_shown_harmless(perdure: Run, filled: CompileCache) -> None:
    (filled.directory / "\x1b[2J").write_bytes(b"")
    assert "\x1b" not in perdure("cache", "ls")[0]


def test_a_size_that_is_none_is_refused(perdure: Run) -> None:
    assert "SIZE" in perdure("cache", "limit", "much", code=2)[1].upper()


def test_blocks_of_object_storage_go_too(perdure: Run, tmp_path: Path) -> None:
    blocks = tmp_path / "cache" / "objects"
    BlockCache(blocks).put(bytes(32), b"block")
    assert "blocks of object storage" in perdure("cache", "ls")[0]
    assert json.loads(perdure("cache", "ls", "--json")[0])["blocks_bytes"] == 37
    assert "blocks of object storage removed" in perdure("cache", "clear")[0]
    assert list(blocks.iterdir()) == []
    assert json.loads(perdure("cache", "clear", "--json")[0])["blocks_bytes"] == 0
