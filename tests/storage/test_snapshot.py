"""Snapshots: the form that dfx and icp-cli write and read, sparse files, packing, and what is refused."""

from __future__ import annotations

import errno
import io
import itertools
import json
import os
import random
import struct
import tarfile
import time
from hashlib import sha256
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from simulated_disk import PowerCutError, SimulatedDisk

from perdure.canister import GlobalValue, PageDelta
from perdure.errors import MalformedError, StorageError, UnsupportedError
from perdure.storage import (
    Snapshot,
    SnapshotMetadata,
    TemporaryImage,
    TemporaryStore,
    pack_snapshot,
    unpack_snapshot,
    write_snapshot,
)
from perdure.storage.disk import Disk

PAGE = 4096
WASM_PAGE = 65536

# Made by hand after the serde attributes of ic-utils (the types that dfx and icp-cli write), in both spellings of a
# variant without a payload that its versions have used.
FROM_DFX = """{
  "source": "taken_from_canister", "taken_at_timestamp": 1763640000000000000, "wasm_module_size": 8,
  "globals": [{"i32": -1}, {"i64": 5}, {"f32": 1.5}, {"f64": -0.25}, {"v128": [1, 0, 4294967295]}],
  "wasm_memory_size": 65536, "stable_memory_size": 0, "wasm_chunk_store": [], "canister_version": 7,
  "certified_data": [1, 2, 255], "global_timer": "inactive", "on_low_wasm_memory_hook_status": "condition_not_satisfied"
}"""
FROM_ICP_CLI = """{
  "source": {"metadata_upload": null}, "taken_at_timestamp": 0, "wasm_module_size": 8, "globals": [],
  "wasm_memory_size": 0, "stable_memory_size": 0, "wasm_chunk_store": [], "canister_version": 0, "certified_data": [],
  "global_timer": {"active": 18446744073709551615}, "on_low_wasm_memory_hook_status": null
}"""


def test_reads_what_dfx_writes() -> None:
    found = SnapshotMetadata.from_json(FROM_DFX)
    assert found.source == "taken_from_canister"
    assert found.global_values == (
        GlobalValue("i32", b"\xff" * 4),
        GlobalValue("i64", b"\x05" + bytes(7)),
        GlobalValue("f32", struct.pack("<f", 1.5)),
        GlobalValue("f64", struct.pack("<d", -0.25)),
        GlobalValue("v128", struct.pack("<4I", 1, 0, 0xFFFFFFFF, 0)),
    )
    assert (found.certified_data, found.global_timer) == (b"\x01\x02\xff", 0)
    assert found.on_low_wasm_memory_hook_status == "condition_not_satisfied"


def test_reads_what_icp_cli_writes() -> None:
    found = SnapshotMetadata.from_json(FROM_ICP_CLI)
    assert found.source == "metadata_upload"
    assert found.global_timer == (1 << 64) - 1
    assert found.on_low_wasm_memory_hook_status is None


BITS = {"i32": 4, "i64": 8, "f32": 4, "f64": 8, "v128": 16}


@given(st.lists(st.tuples(st.sampled_from(sorted(BITS)), st.binary(min_size=16, max_size=16)), max_size=8))
def test_round_trip_of_globals(drawn: list[tuple[str, bytes]]) -> None:
    values = tuple(GlobalValue(value_type, bits[: BITS[value_type]]) for value_type, bits in drawn)
    metadata = SnapshotMetadata(1, 2, 65536, 0, values, (bytes(32),), 4, b"c", 5, "ready")
    try:
        text = metadata.to_json()
    except UnsupportedError:
        floats = {"f32": "<f", "f64": "<d"}
        numbers = [struct.unpack(floats[kind], bits)[0] for kind, bits in values if kind in floats]
        assert any(number != number or number in {float("inf"), -float("inf")} for number in numbers)
        return
    assert SnapshotMetadata.from_json(text) == metadata
    names = [next(iter(entry)) for entry in json.loads(text)["globals"]]
    assert names == [kind for kind, _ in values]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"globals": [{"i32": -1}', '"globals": [{"i32": 4294967296}'),
        ('"globals": [{"i32": -1}', '"globals": [{"i33": 1}'),
        ('"globals": [{"i32": -1}', '"globals": [null'),
        ('{"f32": 1.5}', '{"f32": null}'),
        ('{"f32": 1.5}', '{"f32": 1e300}'),
        ("[1, 0, 4294967295]", "[1, 0, 4294967296]"),
        ("[1, 0, 4294967295]", "[1, 0, 0, 0, 1]"),
        ('"taken_at_timestamp": 1763640000000000000', '"taken_at_timestamp": -1'),
        ('"taken_at_timestamp": 1763640000000000000,', ""),
        ('"wasm_memory_size": 65536', '"wasm_memory_size": 1e5'),
        ('"wasm_memory_size": 65536', '"wasm_memory_size": 9999999999999999999'),
        ('"wasm_chunk_store": []', '"wasm_chunk_store": [{"hash": [1]}]'),
        ('"wasm_chunk_store": []', '"wasm_chunk_store": {}'),
        ("[1, 2, 255]", "[1, 2, 256]"),
        ('"inactive"', '{"active": "soon"}'),
        ('"inactive"', '"paused"'),
        ('"condition_not_satisfied"', '"sometimes"'),
        ('"taken_from_canister"', '"found"'),
        (
            "{",
            "[",
        ),
    ],
)
def test_refuses_malformed_metadata(old: str, new: str) -> None:
    assert old in FROM_DFX
    with pytest.raises(MalformedError, match=r"metadata\.json"):
        SnapshotMetadata.from_json(FROM_DFX.replace(old, new, 1))


def test_refuses_deep_nesting() -> None:
    with pytest.raises(MalformedError):
        SnapshotMetadata.from_json("[" * 100_000)


@pytest.fixture
def store(tmp_path: Path) -> TemporaryStore:
    return TemporaryStore(tmp_path)


def image_of(store: TemporaryStore, wasm_pages: int, pages: dict[int, bytes]) -> TemporaryImage:
    image = TemporaryImage(store)
    image.commit(PageDelta(wasm_pages, [(index * PAGE, data) for index, data in sorted(pages.items())]))
    return image


def example(
    store: TemporaryStore, path: Path, *, stable_wasm_pages: int = 8_192_000, disk: Disk | None = None
) -> SnapshotMetadata:
    pages = {0: b"s" * PAGE, 131_071_999: b"e" * PAGE} if stable_wasm_pages == 8_192_000 else {}
    chunk = b"chunk"
    return write_snapshot(
        path,
        wasm_module=b"\0asm\1\0\0\0",
        heap=image_of(store, 2, {3: b"h" * PAGE}),
        stable=image_of(store, stable_wasm_pages, pages),
        chunks={sha256(chunk).digest(): chunk},
        metadata=SnapshotMetadata(9, 0, 0, 0, (GlobalValue("i64", bytes(8)),)),
        disk=disk,
    )


def test_writes_and_opens_the_largest_memory(store: TemporaryStore, tmp_path: Path) -> None:
    metadata = example(store, tmp_path / "snap")
    assert metadata.stable_memory_size == 500 << 30
    assert (tmp_path / "snap/stable_memory.bin").stat().st_blocks * 512 < 1 << 20
    snapshot = Snapshot.open(tmp_path / "snap")
    assert snapshot.metadata == metadata
    assert snapshot.wasm_module() == b"\0asm\1\0\0\0"
    assert list(snapshot.chunks().values()) == [b"chunk"]
    stable = snapshot.image("stable", store)
    assert stable.read((500 << 30) - PAGE, PAGE) == b"e" * PAGE
    heap = snapshot.image("heap", store)
    assert heap.read(0, 2 * WASM_PAGE) == bytes(3 * PAGE) + b"h" * PAGE + bytes(28 * PAGE)
    heap.commit(PageDelta(3, [(0, b"n" * PAGE)]))
    assert (tmp_path / "snap/wasm_memory.bin").read_bytes()[:PAGE] == bytes(PAGE)
    snapshot.close()


def test_no_stable_memory_no_file(store: TemporaryStore, tmp_path: Path) -> None:
    example(store, tmp_path / "snap", stable_wasm_pages=0)
    names = sorted(path.name for path in (tmp_path / "snap").iterdir())
    assert names == ["metadata.json", "wasm_chunk_store", "wasm_memory.bin", "wasm_module.bin"]
    assert Snapshot.open(tmp_path / "snap").image("stable", store).wasm_pages == 0


@pytest.mark.parametrize("verb", ["write", "pack", "unpack"])
def test_a_snapshot_is_there_whole_or_not_at_all(store: TemporaryStore, verb: str) -> None:
    """The power is cut at every step on the disk, and what was not synced is lost in part."""

    def small(disk: SimulatedDisk, path: str) -> None:
        example(store, Path(path), stable_wasm_pages=1, disk=disk)

    before = SimulatedDisk()
    if verb != "write":
        small(before, "/home/snap")
    if verb == "unpack":
        pack_snapshot("/home/snap", "/home/archive", disk=before)
    run = {
        "write": lambda disk: small(disk, "/home/new"),
        "pack": lambda disk: pack_snapshot("/home/snap", "/home/new", disk=disk),
        "unpack": lambda disk: unpack_snapshot("/home/archive", "/home/new", disk=disk).close(),
    }[verb]
    whole = before.copy()
    run(whole)
    expected = {path: size for path, size in whole.files().items() if path.startswith("/home/new")}
    seen = set()
    for cut, seed in itertools.product(range(1, whole.steps + 1), range(8)):
        disk = before.copy()

        def at_step(_: str, disk: SimulatedDisk = disk, cut: int = cut) -> None:
            disk.off = disk.steps == cut
            disk.check()

        disk.at_step = at_step
        with pytest.raises(PowerCutError):
            run(disk)
        found = disk.crashed(random.Random(seed))
        there = found.exists("/home/new")
        seen.add(there)
        new = {
            path: size for path, size in found.files().items() if path.startswith("/home/new/") or path == "/home/new"
        }
        assert new == (expected if there else {})
        if not there:
            run(found)  # what the first try has left is not in the way
            assert {path: size for path, size in found.files().items() if path.startswith("/home/new")} == expected
    assert seen == {False, True}


@pytest.mark.parametrize("verb", ["write", "pack", "unpack"])
def test_a_full_disk_leaves_nothing(store: TemporaryStore, tmp_path: Path, verb: str) -> None:
    disk = SimulatedDisk({"/": None, "/home": None})
    example(store, Path("/home/snap"), stable_wasm_pages=1, disk=disk)
    pack_snapshot("/home/snap", "/home/archive", disk=disk)
    before = disk.files()
    disk.faults = [("write", "/home/new", errno.ENOSPC)]
    with pytest.raises(StorageError, match="No space left"):
        {
            "write": lambda: example(store, Path("/home/new"), stable_wasm_pages=1, disk=disk),
            "pack": lambda: pack_snapshot("/home/snap", "/home/new", disk=disk),
            "unpack": lambda: unpack_snapshot("/home/archive", "/home/new", disk=disk),
        }[verb]()
    assert disk.files() == before


def test_a_link_in_the_way_is_not_followed(store: TemporaryStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").write_text("")
    (tmp_path / "snap.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="symbolic link"):
        example(store, tmp_path / "snap", stable_wasm_pages=0)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["kept"]


def test_names_without_a_directory(store: TemporaryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    example(store, Path("way/to/snap"), stable_wasm_pages=0)
    pack_snapshot("way/to/snap", "archive")
    unpack_snapshot("archive", "again").close()
    assert (tmp_path / "again/metadata.json").exists()


def test_never_overwrites(store: TemporaryStore, tmp_path: Path) -> None:
    example(store, tmp_path / "snap", stable_wasm_pages=1)
    with pytest.raises(StorageError, match="exists"):
        example(store, tmp_path / "snap", stable_wasm_pages=1)


@pytest.mark.parametrize("name", ["metadata.json", "wasm_module.bin", "wasm_memory.bin", "stable_memory.bin"])
@pytest.mark.parametrize("damage", ["gone", "short", "long"])
def test_missing_and_cut_files(store: TemporaryStore, tmp_path: Path, name: str, damage: str) -> None:
    example(store, tmp_path / "snap", stable_wasm_pages=1)
    path = tmp_path / "snap" / name
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "short" else data + b"x")
    with pytest.raises(StorageError):
        Snapshot.open(tmp_path / "snap")


def test_a_damaged_chunk_is_not_served(store: TemporaryStore, tmp_path: Path) -> None:
    example(store, tmp_path / "snap", stable_wasm_pages=0)
    next((tmp_path / "snap/wasm_chunk_store").iterdir()).write_bytes(b"chunj")
    with pytest.raises(StorageError, match="name"):
        Snapshot.open(tmp_path / "snap").chunks()


def test_packs_and_unpacks_without_the_holes(store: TemporaryStore, tmp_path: Path) -> None:
    metadata = example(store, tmp_path / "snap")
    pack_snapshot(tmp_path / "snap", tmp_path / "snap.tar.zst")
    assert (tmp_path / "snap.tar.zst").stat().st_size < 4096
    snapshot = unpack_snapshot(tmp_path / "snap.tar.zst", tmp_path / "again")
    assert snapshot.metadata == metadata
    assert snapshot.image("stable", store).read((500 << 30) - PAGE, PAGE) == b"e" * PAGE
    assert (tmp_path / "again/wasm_memory.bin").read_bytes() == (tmp_path / "snap/wasm_memory.bin").read_bytes()
    assert (tmp_path / "again/stable_memory.bin").stat().st_blocks * 512 < 1 << 20
    with pytest.raises(StorageError, match="exists"):
        unpack_snapshot(tmp_path / "snap.tar.zst", tmp_path / "again")


def test_every_cut_archive_is_refused(store: TemporaryStore, tmp_path: Path) -> None:
    example(store, tmp_path / "snap", stable_wasm_pages=1)
    pack_snapshot(tmp_path / "snap", tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for size in random.Random(1).sample(range(len(data) - 4), 40):
        (tmp_path / "cut").write_bytes(data[:size])
        with pytest.raises(StorageError):
            unpack_snapshot(tmp_path / "cut", tmp_path / "again")
        assert not (tmp_path / "again").exists()
        assert not (tmp_path / "again.partial").exists()


@pytest.mark.parametrize("name", ["../metadata.json", "/etc/passwd", "wasm_chunk_store/../x", "other"])
def test_foreign_members_are_refused(tmp_path: Path, name: str) -> None:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    (tmp_path / "a").write_bytes(zstandard.compress(raw.getvalue()))
    with pytest.raises(StorageError, match="member"):
        unpack_snapshot(tmp_path / "a", tmp_path / "b")


def test_an_archive_that_would_fill_the_disk_is_refused(store: TemporaryStore, tmp_path: Path) -> None:
    example(store, tmp_path / "snap", stable_wasm_pages=1)
    pack_snapshot(tmp_path / "snap", tmp_path / "a")
    with pytest.raises(StorageError, match="more than is left"):
        unpack_snapshot(tmp_path / "a", tmp_path / "b", max_data_bytes=600)


FILES = ("metadata.json", "wasm_module.bin", "wasm_memory.bin", "stable_memory.bin", "wasm_chunk_store")


@pytest.mark.parametrize("kind", ["link", "FIFO"])
@pytest.mark.parametrize("name", FILES)
def test_whatever_is_no_file_is_refused_by_name(store: TemporaryStore, tmp_path: Path, name: str, kind: str) -> None:
    example(store, tmp_path / "snapshot", stable_wasm_pages=2)
    found = tmp_path / "snapshot" / name
    found.rename(tmp_path / "outside")
    found.symlink_to(tmp_path / "outside") if kind == "link" else os.mkfifo(found)
    with pytest.raises(StorageError, match=kind) as error:
        Snapshot.open(tmp_path / "snapshot")
    assert error.value.path == str(found)


def test_a_chunk_named_very_often_is_read_once(store: TemporaryStore, tmp_path: Path) -> None:
    example(store, tmp_path / "snapshot", stable_wasm_pages=0)
    file = tmp_path / "snapshot" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["wasm_chunk_store"] *= 100_000
    file.write_text(json.dumps(metadata))
    snapshot = Snapshot.open(tmp_path / "snapshot")
    started = time.process_time()
    assert len(snapshot.chunks()) == 1
    assert time.process_time() - started < 1
    (chunk,) = (tmp_path / "snapshot" / "wasm_chunk_store").iterdir()
    os.truncate(chunk, 1 << 40)
    with pytest.raises(StorageError, match="at most 1048576 expected"):
        snapshot.chunks()
