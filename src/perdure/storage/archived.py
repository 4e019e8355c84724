"""What a state directory remembers of the archives that it is in, in ``archived.json``.

```
 { "format": "perdure archived 1",
   "archives": { ID: { "last": SHA-256 of the newest manifest, "next": of one that is under way } },
   "logs":     { ID: { "last": token of the newest claim of the archive's log, "next": as above } } }
```

``next`` is written before what it says is: whoever is cut off in between knows it as its own.
"""

from __future__ import annotations

import json
from typing import Final

from perdure.errors import StorageError
from perdure.storage.beside import read_json
from perdure.storage.checkpoint import replace_file
from perdure.storage.disk import Disk

__all__ = ["ARCHIVED", "manifests_of", "mark_owner", "remember_token", "tokens_of"]

ARCHIVED: Final = "archived.json"

_ARCHIVED_FORMAT: Final = "perdure archived 1"
_MAX_ARCHIVED_BYTES: Final = 1 << 20
_PARTS: Final = ("archives", "logs")


def _archived_in(disk: Disk, path: str) -> dict[str, dict[str, dict[str, str]]]:
    content = read_json(disk, f"{path}/{ARCHIVED}", _MAX_ARCHIVED_BYTES)
    found = {} if content is None else content
    if not isinstance(found, dict) or not all(_is_mapping_of_texts(found.get(name, {})) for name in _PARTS):
        raise StorageError("expected archives by their ids", f"{path}/{ARCHIVED}")
    return {name: found.get(name, {}) for name in _PARTS}


def _is_mapping_of_texts(part: object) -> bool:
    return isinstance(part, dict) and all(
        isinstance(one, dict) and all(isinstance(text, str) for text in one.values()) for one in part.values()
    )


def mark_owner(disk: Disk, path: str, archive_id: bytes, last: bytes, next_: bytes = b"") -> None:
    """Have a directory remember which version of an archive is its own.

    Raises:
        StorageError: that cannot be written.
    """
    _remember(disk, path, "archives", archive_id, last, next_)


def remember_token(disk: Disk, path: str, archive_id: bytes, last: bytes, next_: bytes = b"") -> None:
    """Have a directory remember which claim of an archive's log is its own.

    Raises:
        StorageError: that cannot be written.
    """
    _remember(disk, path, "logs", archive_id, last, next_)


def manifests_of(disk: Disk, path: str, archive_id: bytes) -> set[bytes]:
    """The SHA-256 of manifests that are a directory's own, or may be. Raises as `tokens_of`."""
    return _remembered(disk, path, "archives", archive_id)


def tokens_of(disk: Disk, path: str, archive_id: bytes) -> set[bytes]:
    """The tokens of claims that are a directory's own, or may be.

    Raises:
        StorageError: what it remembers cannot be read.
    """
    return _remembered(disk, path, "logs", archive_id)


def _remembered(disk: Disk, path: str, where: str, archive_id: bytes) -> set[bytes]:
    found = _archived_in(disk, path)[where].get(archive_id.hex(), {})
    try:
        return {bytes.fromhex(one) for one in found.values()}
    except ValueError as error:
        raise StorageError(f"expected hexadecimal digits: {error}", f"{path}/{ARCHIVED}") from error


def _remember(disk: Disk, path: str, where: str, archive_id: bytes, last: bytes, next_: bytes) -> None:
    content = _archived_in(disk, path)
    content[where][archive_id.hex()] = {"last": last.hex()} | ({"next": next_.hex()} if next_ else {})
    data = json.dumps({"format": _ARCHIVED_FORMAT, **content}, indent=1) + "\n"
    try:
        replace_file(disk, path, ARCHIVED, data.encode())
    except OSError as error:
        raise StorageError.because("could not be written", error, f"{path}/{ARCHIVED}") from error
