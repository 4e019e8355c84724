from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import wasmtime

from perdure.embedder import CompileCache, Compiler, cache_directory, shared_engine
from perdure.embedder.cache import CacheEntry
from perdure.embedder.facts import decode_facts, encode_facts
from perdure.instrument import Options

KEY = bytes(range(32))
ENTRY = CacheEntry(b"facts", b"native code")
WASM = bytes(wasmtime.wat2wasm('(module (memory 1) (data (i32.const 0) "abc") (func (export "canister_query q")))'))


@pytest.fixture
def cache(tmp_path):
    return CompileCache(tmp_path)


def test_entry_comes_back(cache):
    cache.store(KEY, ENTRY)
    assert cache.load(KEY) == ENTRY
    assert cache.load(bytes(32)) is None


def test_every_damage_counts_as_absent(cache):
    cache.store(KEY, ENTRY)
    path = cache.directory / KEY.hex()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert cache.load(KEY) is None, length
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert cache.load(KEY) is None, at
    path.write_bytes(whole + b"\0")
    assert cache.load(KEY) is None
    path.write_bytes(whole)
    assert cache.load(KEY) == ENTRY


def test_entry_under_another_key_is_not_loaded(cache):
    cache.store(KEY, ENTRY)
    (cache.directory / KEY.hex()).rename(cache.directory / bytes(32).hex())
    assert cache.load(bytes(32)) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_entry_that_others_can_write_is_not_loaded(cache, mode):
    cache.store(KEY, ENTRY)
    (cache.directory / KEY.hex()).chmod(mode)
    assert cache.load(KEY) is None


def test_directory_that_others_can_write_is_not_trusted(cache):
    cache.store(KEY, ENTRY)
    cache.directory.chmod(0o777)
    assert cache.load(KEY) is None


def test_entry_of_another_user_is_not_loaded(cache, monkeypatch):
    cache.store(KEY, ENTRY)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.load(KEY) is None


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_entry_that_is_no_file_is_not_loaded(cache, tmp_path, kind):
    cache.store(KEY, ENTRY)
    path = cache.directory / KEY.hex()
    path.rename(tmp_path / "elsewhere")
    {
        "symlink": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "fifo": lambda: os.mkfifo(path),
        "directory": path.mkdir,
    }[kind]()
    assert cache.load(KEY) is None


def test_directory_that_cannot_be_made_caches_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    cache = CompileCache(tmp_path / "file")
    cache.store(KEY, ENTRY)
    assert cache.load(KEY) is None


def test_nothing_is_left_behind(cache):
    for _ in range(3):
        cache.store(KEY, ENTRY)
    assert [path.name for path in cache.directory.iterdir()] == [KEY.hex()]


@pytest.mark.parametrize(
    ("environment", "directory"),
    [
        ({"PERDURE_CACHE_DIR": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/perdure"),
        ({"HOME": "/c"}, "/c/.cache/perdure"),
        ({}, "/nonexistent/.cache/perdure"),
    ],
)
def test_place(environment, directory):
    assert cache_directory(environment) == Path(directory)


def compiled(cache, wasm=WASM, options=None):
    """A module from a compiler that remembers nothing, and whether its code came from the cache."""
    compiler = Compiler(shared_engine(), cache)
    built = []
    build = compiler._build
    compiler._build = lambda *arguments, **how: built.append(1) or build(*arguments, **how)  # type: ignore[method-assign, func-returns-value]
    return compiler.compile(wasm, options), not built


def test_second_compiler_finds_the_code(cache):
    first, hit = compiled(cache)
    assert not hit
    second, hit = compiled(cache)
    assert hit
    assert second.facts == first.facts
    assert second.facts.data_segments == (("heap", 0, b"abc"),)
    assert second.module_hash == first.module_hash


def test_options_and_module_are_part_of_the_key(cache):
    compiled(cache)
    assert not compiled(cache, options=Options(schedule=None))[1]
    assert not compiled(cache, wasm=WASM + b"\0\2\1x")[1]


def test_damaged_entry_is_built_anew(cache):
    compiled(cache)
    (path,) = cache.directory.iterdir()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    module, hit = compiled(cache)
    assert not hit
    assert module.exported_methods == frozenset(["canister_query q"])
    assert compiled(cache)[1]


def test_code_of_another_engine_under_our_key_is_built_anew(cache):
    compiled(cache)
    (path,) = cache.directory.iterdir()
    cache.store(bytes.fromhex(path.name), CacheEntry(b"{}", b"not native code"))
    assert not compiled(cache)[1]
    assert compiled(cache)[1]


@pytest.mark.slow
def test_processes_share_a_directory(tmp_path):
    script = f"""
import sys
from pathlib import Path
from perdure.embedder import CompileCache, Compiler, shared_engine
cache = CompileCache(Path({str(tmp_path)!r}))
for n in range(20):
    Compiler(shared_engine(), cache).compile({WASM!r} + bytes([0, 2, 1, n % 4]))
"""
    children = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    assert [child.wait(120) for child in children] == [0, 0, 0]
    assert len(list((tmp_path / "modules").iterdir())) == 4
    assert compiled(CompileCache(tmp_path), WASM + bytes([0, 2, 1, 3]))[1]


def edges(value):
    """A value at its minimum and maximum, one longer and one shorter, and of another type."""
    if isinstance(value, bool) or value is None:
        return [0, "x", []]
    if isinstance(value, int | float):
        return [-1, value + 1, 1 << 70, "x", None]
    if isinstance(value, str):
        return ["", value + "x", 0, None]
    if isinstance(value, list):
        return [[], value[:-1], [*value, *value[-1:], 0], 0, {}]
    return [{}, {**value, "more": 0}, 0, *({one: value[one] for one in value if one != key} for key in value)]


def inside(value, path=()):
    yield path
    if isinstance(value, list | dict):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield from inside(value[key], (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copied = value.copy()
    copied[path[0]] = changed(value[path[0]], path[1:], new)
    return copied


def test_facts_that_lie_with_a_right_checksum_are_built_anew_or_are_whole(tmp_path):
    """Each field at its edges: what is taken is what would be written again."""
    cache = CompileCache(tmp_path)
    compiler = Compiler(shared_engine(), cache)
    compiler.compile(WASM, Options())
    (path,) = cache.directory.iterdir()
    entry = cache.load(bytes.fromhex(path.name))
    length = int.from_bytes(entry.facts[:4], "little")
    tree, rest = json.loads(entry.facts[4 : 4 + length]), entry.facts[4 + length :]
    assert decode_facts(entry.facts) is not None
    refused = 0
    for place in inside(tree):
        value = tree
        for key in place:
            value = value[key]
        for new in edges(value):
            text = json.dumps(changed(tree, place, new)).encode()
            facts = len(text).to_bytes(4, "little") + text + rest
            found = decode_facts(facts)
            refused += found is None
            assert found is None or encode_facts(found) == facts
    for facts in (b"", b"\xff" * 4, entry.facts[:-1], entry.facts + b"\0", b"\2\0\0\0[]", b"[" * 100_000):
        assert decode_facts(facts) is None
    assert refused > 100
    cache.store(bytes.fromhex(path.name), CacheEntry(b"lies", entry.code))
    assert Compiler(shared_engine(), cache).compile(WASM, Options()).exported_methods == {"canister_query q"}
    assert decode_facts(cache.load(bytes.fromhex(path.name)).facts) is not None


def test_30_what_was_used_longest_ago_is_forgotten(tmp_path):
    """The number is that of the list of what newcomers stumbled over: a cache of 1.3 GB that nothing bounded."""
    cache = CompileCache(tmp_path, max_bytes=3_500)
    keys = [bytes([number]) * 32 for number in range(5)]
    for number, key in enumerate(keys[:3]):
        cache.store(key, CacheEntry(b"", bytes(1_000)))
        os.utime(cache.directory / key.hex(), (number, number))
    assert cache.load(keys[0]) is not None  # used just now, the second longest ago is another one
    cache.store(keys[3], CacheEntry(b"", bytes(1_000)))
    assert [cache.load(key) is not None for key in keys[:4]] == [True, False, True, True]
    cache.store(keys[4], CacheEntry(b"", bytes(9_000)))
    assert [cache.load(key) is not None for key in keys] == [False, False, False, False, True]


def test_30_what_killed_processes_left_is_forgotten_and_what_others_write_is_not(tmp_path):
    cache = CompileCache(tmp_path, max_bytes=100)
    cache.store(bytes(32), CacheEntry(b"", b""))
    old, new, folder = (cache.directory / name for name in ("new-old", "new-new", "folder"))
    old.write_bytes(bytes(1_000))
    os.utime(old, (1, 1))
    new.write_bytes(bytes(1_000))
    folder.mkdir()
    cache.store(bytes([1]) * 32, CacheEntry(b"", b""))
    assert sorted(path.name for path in cache.directory.iterdir()) == sorted(
        [(bytes([1]) * 32).hex(), "folder", "new-new"]
    )
