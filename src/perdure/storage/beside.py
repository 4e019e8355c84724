"""What is written beside the place where it is wanted, and takes it when it is whole and on the platter."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, final

from perdure.errors import StorageError
from perdure.storage.disk import Disk, DiskFile
from perdure.urls import refuse_url

__all__ = ["HELD", "DirectoryDraft", "make_directories", "new_file", "read_json"]


HELD: Final = ".being-made"
"""The file by which whoever makes a directory holds it, in it until it is whole."""


@final
class DirectoryDraft:
    """A directory beside `target`, empty at first, that becomes it, or goes. Gives its path.

    Args:
        disk: where.
        target: nothing may be there; the directories on the way to it are made.
        inner: names of the directories that whoever fills it may make in it.
        refusal: what to say where something is there.
    """

    def __init__(self, disk: Disk, target: str, inner: Sequence[str], refusal: str) -> None:
        refuse_url(target)
        self._parent, self._target, self._path = _places(target)
        self._inner = [f"{self._path}/{directory}" for directory in inner]
        self._refusal = refusal
        self._root = disk
        self._disk = disk.within(self._parent)  # others may write there, and have put something in the way
        self._held: DiskFile | None = None

    def __enter__(self) -> str:
        try:
            make_directories(self._root, self._parent)
            if self._disk.exists(self._target):
                raise StorageError(self._refusal, self._target)
            self._disk.make_directory(self._path)
            self._held = _only_one(self._disk, f"{self._path}/{HELD}", self._target)
            self._empty()  # an earlier try, of something else maybe, may have left something
        except OSError as error:
            self._close()
            raise StorageError.because("cannot be made", error, error.filename or self._path) from error
        except BaseException:
            self._close()
            raise
        return self._path

    def _empty(self) -> None:
        directories = [self._path]
        for directory in directories:  # which gets longer meanwhile
            for name in self._disk.list_directory(directory):
                path = f"{directory}/{name}"
                if path == f"{self._path}/{HELD}":
                    continue
                try:
                    self._disk.remove(path)
                except IsADirectoryError:
                    directories.append(path)
                except PermissionError:  # which is POSIX's word for a directory, too
                    if self._is_directory(path):
                        directories.append(path)
                    else:
                        raise
        for directory in reversed(directories[1:]):
            self._disk.remove_directory(directory)

    def _is_directory(self, path: str) -> bool:
        try:
            self._disk.list_directory(path)
        except OSError:
            return False
        return True

    def _remove(self) -> None:
        self._empty()
        self._disk.remove(f"{self._path}/{HELD}")
        self._disk.remove_directory(self._path)

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._keep()
        except BaseException:
            self._let_go()
            raise
        if kind is not None:
            self._let_go()
        self._close()

    def _close(self) -> None:
        if self._held is not None:
            self._held.close()
        self._disk.close()

    def _keep(self) -> None:
        self._disk.remove(f"{self._path}/{HELD}")
        for directory in (*self._inner, self._path):
            if self._disk.exists(directory):
                self._disk.sync_directory(directory)
        self._disk.rename(self._path, self._target)
        self._disk.sync_directory(self._parent)

    def _let_go(self) -> None:
        with suppress(OSError):  # what went wrong first is told
            self._remove()
        self._close()


def _only_one(disk: Disk, path: str, target: str) -> DiskFile:
    """A file that nobody else holds, open: who holds it fills what is beside `target`.

    Raises:
        StorageError: somebody else does.
    """
    file = disk.open(path, write=True, create=True)
    if file.lock(exclusive=True) and file.is_at(path):
        return file
    file.close()
    raise StorageError("somebody else is making it at the moment", target)


def _places(target: str) -> tuple[str, str, str]:
    """The directory it is in, itself, and its draft; the latter two as names within the first."""
    parent, name = os.path.split(os.path.normpath(target))
    target = os.path.join(parent or ".", name)  # noqa: PTH118 -- a disk's names are text
    return parent or ".", target, f"{target}.partial"


def make_directories(disk: Disk, path: str) -> None:
    """Make a directory and those on the way to it, on the platter."""
    if path and not disk.exists(path):
        parent = os.path.dirname(path)  # noqa: PTH120
        make_directories(disk, parent)
        disk.make_directory(path)
        disk.sync_directory(parent or ".")


@contextmanager
def new_file(disk: Disk, target: str) -> Iterator[DiskFile]:
    """A file beside `target`, empty at first, that becomes it, or goes."""
    parent, target, draft = _places(target)
    disk = disk.within(parent)
    try:
        if disk.exists(target):
            raise StorageError("exists already", target)
        file = _only_one(disk, draft, target)
        try:
            file.truncate(0)  # an earlier try may have left something
            yield file
            file.sync()
            disk.rename(draft, target)
            disk.sync_directory(parent)
        except BaseException:
            with suppress(OSError):  # what went wrong first is told
                disk.remove(draft)
            raise
        finally:
            file.close()
    finally:
        disk.close()


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """What JSON has by name, where a name that is there twice hides the first one's value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r:.80} is there twice")
    return found


def read_json(disk: Disk, path: str, max_bytes: int) -> Any:
    """What a file says in JSON, one that a person may have written; `None`: there is no such file.

    Raises:
        StorageError: it is longer than `max_bytes`, is no JSON, or cannot be read.
    """
    try:
        if not disk.exists(path):
            return None
        file = disk.open(path)
        try:
            if file.size() > max_bytes:
                raise StorageError(f"more than {max_bytes} bytes", path)
            return json.loads(file.pread(file.size(), 0), object_pairs_hook=_once_each)
        finally:
            file.close()
    except (ValueError, RecursionError) as error:
        raise StorageError(f"cannot be read: {error}", path) from error
    except OSError as error:
        raise StorageError(f"cannot be read: {error.strerror or error}", path) from error
