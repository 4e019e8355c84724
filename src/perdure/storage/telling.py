"""Which directory an error is about: whoever meets it below knows bytes, or a file, and not whose."""

from __future__ import annotations

from typing import final

from perdure.errors import MalformedError, StorageError, UnsupportedError

__all__ = ["Told"]


@final
class Told:
    """Says which directory an error of the system is about. No generator: that costs each commit 1 us more.

    Args:
        path: of the directory.
        what: is being done there.
    """

    def __init__(self, path: str, what: str) -> None:
        self._path, self._what = path, what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise StorageError.because(f"{self._what} failed", error, error.filename or self._path) from error
        if isinstance(error, MalformedError | UnsupportedError):
            raise StorageError(str(error), self._path) from error
