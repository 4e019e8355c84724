"""The operating system's files: durable writes under way, with and without direct writes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from perdure.storage.aio import CAPACITY_BYTES
from perdure.storage.disk import RealDisk, RealFile

BLOCK = 4096


@pytest.fixture
def file(tmp_path: Path) -> Iterator[RealFile]:
    file = RealDisk().open(str(tmp_path / "file"), write=True, create=True)
    file.pwrite(bytes(4 << 20), 0)
    file.sync()
    yield file
    file.close()


def _blocks(*letters: str) -> list[bytes]:
    return [letter.encode() * BLOCK for letter in letters]


@pytest.mark.parametrize("direct", [True, False])
def test_what_is_started_is_there_when_finished(file: RealFile, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not direct:
        monkeypatch.setenv("PERDURE_PORTABLE", "1")
    for number in range(8):
        buffers = [bytearray(data) for data in _blocks("a", "b")]
        file.start(buffers, number * 2 * BLOCK)
        for buffer in buffers:
            buffer[:] = b"!" * BLOCK  # it was copied
        file.finish()
    file.finish()
    assert file.pread(16 * BLOCK, 0) == b"".join(_blocks("a", "b")) * 8


def test_more_than_a_direct_write_can_have(file: RealFile) -> None:
    large = os.urandom(CAPACITY_BYTES + BLOCK)
    file.start(_blocks("a"), 0)
    file.finish()
    file.start([large], BLOCK)
    file.finish()
    file.start(_blocks("z"), BLOCK)
    file.finish()
    assert file.pread(2 * BLOCK, 0) == b"".join(_blocks("a", "z"))
    assert file.pread(len(large) - BLOCK, 2 * BLOCK) == large[BLOCK:]


class Refusing:
    """A direct writer whose file system refuses the write once it comes to it."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.written, self.offset = memoryview(b""), 0

    def start(self, buffers: Sequence[bytes], offset: int) -> None:
        self.written, self.offset = memoryview(b"".join(buffers)), offset

    def finish(self) -> None:
        raise OSError(self.code, os.strerror(self.code))

    def close(self) -> None:
        pass


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EIO])
def test_a_file_system_that_takes_no_direct_writes(tmp_path: Path, code: int) -> None:
    file = RealFile(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT), "file", lambda _: Refusing(code))
    file.pwrite(bytes(4 << 20), 0)
    file.start(_blocks("a", "b"), BLOCK)
    if code == errno.EIO:
        with pytest.raises(OSError, match=os.strerror(code)):
            file.finish()
        file.close()
        return
    file.finish()
    assert file._writer is None
    file.start(_blocks("c"), 3 * BLOCK)
    file.finish()
    assert file.pread(3 * BLOCK, BLOCK) == b"".join(_blocks("a", "b", "c"))
    file.close()


def test_a_removed_file_is_noticed(file: RealFile, tmp_path: Path) -> None:
    file.start(_blocks("a"), 0)
    file.finish()
    (tmp_path / "file").unlink()
    file.start(_blocks("b"), 0)
    with pytest.raises(FileNotFoundError, match="removed"):
        file.finish()
    with pytest.raises(FileNotFoundError, match="removed"):
        file.sync()
