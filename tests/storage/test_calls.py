"""Calls of the system by ctypes do what those of `os` do."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.storage.calls import count_names
from perdure.storage.disk import Buffer, RealFile


@pytest.fixture
def _others() -> Iterator[None]:
    """A second thread."""
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    yield
    done.set()
    other.join()


@pytest.mark.usefixtures("_others")
@pytest.mark.parametrize("in_turn", [False, True])
def test_pages_are_written_with_the_interpreter_and_without(tmp_path: Path, in_turn: bool) -> None:
    path = tmp_path / "pages"
    file = RealFile(os.open(path, os.O_RDWR | os.O_CREAT), "pages", in_turn=in_turn)
    parts: list[Buffer] = [b"a" * 4096, memoryview(bytearray(b"b" * 4096)), bytearray(b"c" * 4096), b"d" * 100_000, b""]
    offset = 0
    for part in parts:
        file.pwrite(part, offset)
        offset += len(part)
    assert path.read_bytes() == b"".join(parts)
    file.close()
    file = RealFile(os.open(path, os.O_RDONLY), "pages", in_turn=in_turn)
    with pytest.raises(OSError, match="Bad file descriptor") as raised:
        file.pwrite(b"x", 0)
    assert raised.value.errno == errno.EBADF
    file.close()


def test_names_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    for names in (1, 2):
        assert count_names(descriptor) in (names, -1)
        if names == 1:
            (tmp_path / "other").hardlink_to(path)
    os.close(descriptor)
    assert count_names(descriptor) == -1
