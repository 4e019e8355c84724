"""Downloads of snapshots: streamed, whole, and gone with their reader."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import pytest
import wasmtime

from perdure import Subnet
from perdure.explorer import Explorer
from perdure.explorer.archive import Archive
from perdure.gateway.server import Server
from perdure.subnet import Canister

LARGE_BYTES = 48 << 20
EMPTY = bytes(wasmtime.wat2wasm("(module (memory 1))"))


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files are made."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def large(subnet: Subnet) -> Canister:
    """A canister with 48 MiB in stable memory, most of it zeros, and a snapshot."""
    canister = subnet.install(EMPTY)
    canister.stable.grow(LARGE_BYTES >> 16)
    for at in range(0, LARGE_BYTES, 8 << 20):
        canister.stable.write(at, b"here %d" % at)
    canister.take_snapshot()
    return canister


@pytest.fixture
def place(subnet: Subnet, large: Canister) -> Iterator[str]:
    """The path of the download, behind a server."""
    explorer = Explorer(subnet, title="here")
    with Server(subnet, pages=explorer) as server:
        yield f"http://localhost:{server.port}/_/c/{large.id}/snapshots/{large.snapshots()[0]['id'].hex()}.tar"
    explorer.close()


def filled(place: Path) -> int:
    """A directory with files whose sizes lie around a block's."""
    (place / "deeper").mkdir(parents=True)
    for size in (0, 1, 511, 512, 513):
        (place / "deeper" / str(size)).write_bytes(b"x" * size)
    (place / ("long name " * 12)).write_bytes(b"y" * 1_000)
    return 7


@pytest.mark.parametrize("size_bytes", [7, 512, 100_000])
def test_what_is_read_is_an_archive_of_the_size_that_was_said(temporary: Path, tmp_path: Path, size_bytes: int) -> None:
    ended: list[int] = []
    with closing(Archive(filled, "it", lambda: ended.append(1))) as archive:
        data = b"".join(iter(lambda: archive.read(size_bytes), b""))
        assert len(data) == archive.size_bytes
    assert (ended, list(temporary.iterdir())) == ([1], [])
    with tarfile.open(fileobj=io.BytesIO(data)) as found:
        found.extractall(tmp_path / "out", filter="data")
    files = [one for one in (tmp_path / "out" / "it").rglob("*") if one.is_file()]
    assert sorted(len(one.read_bytes()) for one in files) == [0, 1, 511, 512, 513, 1_000]


def test_what_cannot_be_made_leaves_nothing(temporary: Path) -> None:
    ended: list[int] = []

    def fail(path: Path) -> None:
        path.mkdir()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        Archive(fail, "it", lambda: ended.append(1))
    assert (ended, list(temporary.iterdir())) == ([1], [])


def test_what_has_no_place_gives_its_turn_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            Archive(filled, "it", lambda: ended.append(1))
    assert ended == [1, 1]


def test_closed_twice_it_is_gone_once(temporary: Path) -> None:
    ended: list[int] = []
    archive = Archive(filled, "it", lambda: ended.append(1))
    archive.close()
    archive.close()
    assert (ended, archive.read(10)) == ([1], b"")


@pytest.mark.slow
def test_a_large_one_goes_through_little_memory(place: str, temporary: Path) -> None:
    tracemalloc.start()
    try:
        digest, length = hashlib.sha256(), 0
        with urllib.request.urlopen(place) as response:
            said = int(response.headers["content-length"])
            while part := response.read(1 << 20):
                digest.update(part)
                length += len(part)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert length == said > LARGE_BYTES
    assert most_bytes < LARGE_BYTES // 4
    until(lambda: not list(temporary.iterdir()))


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_it(place: str, temporary: Path) -> None:
    host, _, path = place.removeprefix("http://").partition("/")
    for _ in range(6):  # more than there may be at once
        connection = HTTPConnection(host)
        connection.request("GET", f"/{path}")
        assert connection.getresponse().read(1000)
        connection.close()
        until(lambda: not list(temporary.iterdir()))
    connection = HTTPConnection(host)
    connection.request("HEAD", f"/{path}")
    response = connection.getresponse()
    assert (response.read(), int(response.headers["content-length"]) > LARGE_BYTES) == (b"", True)
    connection.close()
    until(lambda: not list(temporary.iterdir()))


def test_a_few_at_once(visitor, ledger: Canister) -> None:
    path = f"/_/c/{ledger.id}/snapshots/{ledger.take_snapshot().hex()}.tar"
    held = [visitor.get(path).streamed for _ in range(4)]
    refused = visitor.get(path)
    assert (refused.status, b"other downloads are under way" in refused.body) == (400, True)
    held[0].close()
    held.append(visitor.get(path).streamed)
    for one in held:
        one.close()


def until(is_so: Callable[[], bool]) -> None:
    """Wait for what another thread does at once."""
    last = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < last
        time.sleep(0.01)
