"""New files that are there whole, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.errors import StorageError

__all__ = ["whole_file"]


@contextmanager
def whole_file(path: Path, *, overwrite: bool | None = None) -> Iterator[Path]:
    """Where to write a file that is there at the end whole, or not at all.

    Args:
        path: of the file.
        overwrite: one that is there already; `None`: whoever asks for the file cannot say so.

    Raises:
        StorageError: it is there already, and nobody said that it shall be overwritten; or it cannot be written.
    """
    if path.is_dir():
        raise StorageError("is a directory, expected the name of a new file", path)
    draft = path.with_name(path.name + ".partial")
    if path.exists() and not overwrite:
        raise StorageError(
            "exists already" if overwrite is None else "exists already: --overwrite replaces it", path
        ).coded("file-exists")
    try:
        yield draft
        draft.replace(path)
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower(), path) from error
    finally:
        draft.unlink(missing_ok=True)
