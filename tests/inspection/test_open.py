import gzip
import io
import os
import shutil

import pytest

from perdure.errors import MalformedError, StorageError
from perdure.inspection.find import find
from perdure.inspection.open import MAX_STABLE_BYTES, open_source
from perdure.memory import WASM_PAGE_BYTES


def test_a_raw_dump(tmp_path):
    path = tmp_path / "dump.bin"
    path.write_bytes(b"\x01" * 70_000)
    with open_source(str(path)) as source:
        assert source.memory.size() == 2
        assert source.memory.read(69_999, 2) == b"\x01\x00"
        assert source.memory.read(2 * WASM_PAGE_BYTES - 1, 1) == b"\x00"


def test_holes_are_known(tmp_path):
    path = tmp_path / "sparse.bin"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"here")
    with open_source(str(path)) as source:
        assert source.memory.size() == 1024
        assert source.data_bytes() <= 64 << 10
        assert any(start <= 32 << 20 < end for start, end in source.extents)


def test_gzip_in_several_members_and_from_a_stream(tmp_path):
    data = b"a" * 65_536 + bytes(1 << 20) + b"b" * 65_536
    packed = gzip.compress(data[:70_000]) + gzip.compress(data[70_000:])
    path = tmp_path / "dump.bin.gz"
    path.write_bytes(packed)
    for source in (open_source(str(path)), open_source("-", io.BytesIO(packed)), open_source("-", io.BytesIO(data))):
        with source:
            assert source.memory.read(0, len(data)) == data
            assert source.data_bytes() < len(data)


@pytest.mark.parametrize("cut", [2, 11, 30])
def test_a_broken_gzip_stream(cut, tmp_path):
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(os.urandom(1000))[:cut])
    with pytest.raises(MalformedError, match="gzip"):
        open_source(str(path))


class Much(bytes):
    """Says that it has more bytes than any stable memory."""

    def __len__(self):
        return MAX_STABLE_BYTES + 1


class Endless:
    """A stream that has given much by the time it is looked at."""

    def read(self, size_bytes):
        return b"\0\0" if size_bytes == 2 else Much()


def test_a_stream_without_end():
    with pytest.raises(MalformedError, match="500 GiB"):
        open_source("-", Endless())


def test_an_empty_input(tmp_path):
    path = tmp_path / "empty"
    path.touch()
    for source in (open_source(str(path)), open_source("-", io.BytesIO())):
        assert find(source).structures == ()


def test_a_snapshot_directory(tmp_path, vectors):
    (tmp_path / "metadata.json").write_text("{}")
    with open_source(str(tmp_path)) as source:
        assert source.memory.size() == 0
    with gzip.open(vectors / "maps" / "u64_u64.bin.gz") as packed, (tmp_path / "stable_memory.bin").open("wb") as file:
        shutil.copyfileobj(packed, file)
    with open_source(str(tmp_path)) as source:
        assert source.label == str(tmp_path)
        assert find(source).structures[0].entries == 1589


@pytest.mark.parametrize("text", ["nowhere", "nowhere:canister"])
def test_what_is_not_there(text):
    with pytest.raises(StorageError, match="no such file"):
        open_source(text)


def test_a_directory_that_is_neither(tmp_path):
    with pytest.raises(StorageError, match="CANISTER"):
        open_source(str(tmp_path))
    with pytest.raises(StorageError, match="not a state directory"):
        open_source(f"{tmp_path}:rrkah-fqaaa-aaaaa-aaaaq-cai")


def test_a_memory_is_not_written(tmp_path):
    path = tmp_path / "dump.bin"
    path.write_bytes(bytes(WASM_PAGE_BYTES))
    with open_source(str(path)) as source, pytest.raises(PermissionError):
        source.memory.write(0, b"x")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\0asm\1\0\0\0", "a Wasm module"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "packed by zstd"),
        (b"memories:\n  0: {name: users}\n", "a text"),
        (b"PK\3\4" + bytes(100), "a zip file"),
        (b"SQLite format 3\0" + bytes(4080), "an SQLite database"),
    ],
)
def test_files_of_another_kind_are_said_to_be(tmp_path, content, kind):
    path = tmp_path / "dump.bin"
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"{kind}.*, not a stable memory: {len(content)} bytes are not whole"):
        open_source(str(path))
    path.write_bytes(content + bytes(65536 - len(content)))
    open_source(str(path)).close()
