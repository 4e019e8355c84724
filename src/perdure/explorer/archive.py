"""The directory of a snapshot as one file, made as it is read: however large it is, little of it is in memory."""

from __future__ import annotations

import tarfile
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, final

__all__ = ["Archive"]

_BLOCK_BYTES: Final = tarfile.BLOCKSIZE
_END: Final = bytes(2 * _BLOCK_BYTES)


class _Piece(NamedTuple):
    data: bytes
    file: Path | None
    """What comes behind the bytes."""


@final
class Archive:
    """A tar file of a directory that it owns, which is gone when it is closed.

    Args:
        make: writes the directory to the path that it is given, in a directory for nothing else.
        name: of the directory in the archive.
        gone: called once it is gone.
    """

    def __init__(self, make: Callable[[Path], object], name: str, gone: Callable[[], object]) -> None:
        self._gone = gone
        self._lock = threading.Lock()
        self._is_closed = False
        self._file: BinaryIO | None = None
        self._left = b""
        with ExitStack() as undoing:
            undoing.callback(gone)
            self._directory = tempfile.TemporaryDirectory(prefix="perdure-snapshot-", ignore_cleanup_errors=True)
            undoing.callback(self._directory.cleanup)
            path = Path(self._directory.name) / name
            make(path)
            self._pieces, self.size_bytes = _pieces(path)
            undoing.pop_all()

    def read(self, size_bytes: int) -> bytes:
        """The next bytes, at most so many; none: it is at its end.

        Raises:
            OSError: a file cannot be read, or is shorter than it was.
        """
        with self._lock:
            while not self._left:
                if self._file is not None:
                    if data := self._file.read(size_bytes):
                        return data
                    self._file.close()
                    self._file = None
                if not self._pieces:
                    return b""
                piece = self._pieces.popleft()
                self._left, self._file = piece.data, None if piece.file is None else piece.file.open("rb")
            data, self._left = self._left[:size_bytes], self._left[size_bytes:]
            return data

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            self._pieces.clear()
            if self._file is not None:
                self._file.close()
        try:
            self._directory.cleanup()
        finally:
            self._gone()


def _pieces(path: Path) -> tuple[deque[_Piece], int]:
    """What the archive is made of, and how large it is."""
    found: deque[_Piece] = deque()
    total, padding = 0, b""
    for one in (path, *sorted(path.rglob("*"))):
        info = tarfile.TarInfo(str(one.relative_to(path.parent)))
        info.mtime = int(one.stat().st_mtime)
        if one.is_dir():
            info.type, info.mode = tarfile.DIRTYPE, 0o755
        else:
            info.size = one.stat().st_size
        found.append(_Piece(padding + info.tobuf(), None if one.is_dir() else one))
        padding = bytes(-info.size % _BLOCK_BYTES)
        total += len(found[-1].data) + info.size
    found.append(_Piece(padding + _END, None))
    return found, total + len(found[-1].data)
