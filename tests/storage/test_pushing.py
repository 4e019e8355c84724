"""Snapshots pushed and pulled: whole or not there, never changed, bytes as they were."""

from __future__ import annotations

from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from object_servers import OurServer
from perdure.canister import PageDelta
from perdure.errors import StorageError
from perdure.image import MemoryKind
from perdure.storage import Snapshot, SnapshotMetadata, TemporaryImage, TemporaryStore, write_snapshot
from perdure.storage.pushing import pull_snapshot, push_snapshot

URL = "s3://bucket/ledger/monday/"
CHUNK = b"a chunk"
KIND = MemoryKind("users", "stable", 64)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """One with a page at each end of a memory, a chunk, and a memory that the network does not know."""
    with closing(TemporaryStore()) as store:
        heap, stable = TemporaryImage(store), TemporaryImage(store)
        heap.commit(PageDelta(1, [(0, b"h" * 4096)]))
        stable.commit(PageDelta(100, [(0, b"a" * 4096), (99 * 65536, b"z" * 4096)]))
        path = tmp_path / "snapshot"
        metadata = SnapshotMetadata(7, 0, 0, 0, wasm_chunk_store=(sha256(CHUNK).digest(),))
        write_snapshot(
            path,
            wasm_module=b"\0asm\1\0\0\0",
            heap=heap,
            stable=stable,
            chunks={sha256(CHUNK).digest(): CHUNK},
            metadata=metadata,
            own={"users": (KIND, heap)},
        )
    return path


def files(directory: Path) -> dict[str, bytes]:
    return {str(one.relative_to(directory)): one.read_bytes() for one in directory.rglob("*") if one.is_file()}


def test_round_trip(bucket: OurServer, snapshot: Path, tmp_path: Path) -> None:
    push_snapshot(snapshot, URL)
    assert {key.removeprefix("ledger/monday/") for key in bucket.objects} == files(snapshot).keys()
    bucket.put("ledger/monday/notes.txt", b"of no snapshot")
    pull_snapshot(URL, tmp_path / "pulled")
    assert files(tmp_path / "pulled") == files(snapshot)
    assert (tmp_path / "pulled" / "stable_memory.bin").stat().st_blocks * 512 <= 256 << 10  # zeros are holes
    Snapshot.open(tmp_path / "pulled").close()


def test_one_that_is_replaced_meanwhile_is_not_pulled(bucket: OurServer, snapshot: Path, tmp_path: Path) -> None:
    push_snapshot(snapshot, URL)
    name = "ledger/monday/metadata.json"
    metadata = bucket.objects[name].read(0, 1 << 20)

    def before(method: str, key: str) -> None:
        if key.endswith("wasm_module.bin"):
            bucket.put(name, metadata.replace(b'"taken_at_timestamp": 7', b'"taken_at_timestamp": 8'))

    assert b'"taken_at_timestamp": 7' in metadata
    bucket.before = before
    with pytest.raises(StorageError, match="replaced while it was pulled"):
        pull_snapshot(URL, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()


def test_on_this_machine(snapshot: Path, tmp_path: Path) -> None:
    push_snapshot(snapshot, f"file://{tmp_path}/store/one")
    pull_snapshot(f"file://{tmp_path}/store/one", tmp_path / "pulled")
    assert files(tmp_path / "pulled") == files(snapshot)


def test_what_is_whole_is_never_changed(bucket: OurServer, snapshot: Path, tmp_path: Path) -> None:
    push_snapshot(snapshot, URL)
    before = {key: one.tag for key, one in bucket.objects.items()}
    with pytest.raises(StorageError, match="never changed"):
        push_snapshot(snapshot, URL)
    assert {key: one.tag for key, one in bucket.objects.items()} == before
    pull_snapshot(URL, tmp_path / "pulled")
    with pytest.raises(StorageError, match="exists already"):
        pull_snapshot(URL, tmp_path / "pulled")


def test_two_push_at_once(bucket: OurServer, snapshot: Path) -> None:
    def meanwhile(method: str, key: str) -> None:
        if method == "PUT" and key.endswith("metadata.json") and key not in bucket.objects:
            bucket.put(key, b"{}")

    bucket.before = meanwhile
    with pytest.raises(StorageError, match="meanwhile"):
        push_snapshot(snapshot, URL)


def test_a_push_that_was_cut_off_is_none_and_goes_on(bucket: OurServer, snapshot: Path, tmp_path: Path) -> None:
    bucket.before = lambda method, key: 403 if method == "PUT" and "metadata" in key else None
    with pytest.raises(StorageError, match="refuses these credentials"):
        push_snapshot(snapshot, URL)
    with pytest.raises(StorageError, match="no such object"):
        pull_snapshot(URL, tmp_path / "pulled")
    bucket.before = lambda method, key: None
    push_snapshot(snapshot, URL)
    pull_snapshot(URL, tmp_path / "pulled")


@pytest.mark.parametrize(
    ("key", "content", "words"),
    [
        ("metadata.json", b"{", "metadata.json"),
        ("stable_memory.bin", b"short", "expected by metadata.json"),
        ("wasm_module.bin", b"", "expected by metadata.json"),
        ("memories/memories.json", b"[]", "memories"),
    ],
)
def test_poisoned_objects_leave_nothing(
    bucket: OurServer, snapshot: Path, tmp_path: Path, key: str, content: bytes, words: str
) -> None:
    push_snapshot(snapshot, URL)
    bucket.put(f"ledger/monday/{key}", content)
    with pytest.raises(StorageError, match=words):
        pull_snapshot(URL, tmp_path / "pulled")
    assert {one.name for one in tmp_path.iterdir()} <= {"snapshot", "cache"}


def test_an_object_that_is_replaced_meanwhile(bucket: OurServer, snapshot: Path, tmp_path: Path) -> None:
    push_snapshot(snapshot, URL)

    def meanwhile(method: str, key: str) -> None:
        if method == "GET" and key.endswith("stable_memory.bin"):
            bucket.put(key, bytes(100 * 65536))

    bucket.before = meanwhile
    with pytest.raises(StorageError, match="replaced"):
        pull_snapshot(URL, tmp_path / "pulled")
    assert not (tmp_path / "pulled").exists()
