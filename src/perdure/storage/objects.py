"""Object storage: what is asked of a bucket, and the only code that asks (extra ``storage``).

| URL | store | credentials come from |
|---|---|---|
| ``s3://BUCKET/KEY`` | S3 and what speaks like it | ``AWS_ACCESS_KEY_ID``..., ``AWS_ENDPOINT_URL``, a machine's role |
| ``gs://BUCKET/KEY`` | Google Cloud Storage | ``GOOGLE_APPLICATION_CREDENTIALS``... |
| ``az://CONTAINER/KEY`` | Azure Blob Storage | ``AZURE_STORAGE_ACCOUNT_NAME``, ``AZURE_STORAGE_ACCOUNT_KEY``... |
| ``file:///PATH`` | a directory of this machine | |

Those are obstore's conventions. A URL carries no credential here: one that does is refused, without being repeated.
What a server answers to a bad signature has keys in it: of an answer nothing is passed on but its status and code.

Whoever read an object's facts reads the bytes of that object alone: every later read asks for the same entity tag
(``If-Match``), and one that comes back with another is refused too, for servers that do not know the header.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, Final, NamedTuple, NoReturn, final
from urllib.parse import quote

from perdure.errors import StorageError, UnsupportedError
from perdure.urls import Place, check_endpoints

if TYPE_CHECKING:
    from obstore import GetResult
    from obstore.store import ObjectStore, RetryConfig

__all__ = ["AlreadyThereError", "Objects", "Stat"]

_STATUS: Final = re.compile(r"status code: (\d{3})")
_CODE: Final = re.compile(r"<Code>([A-Za-z]{1,60})</Code>")
_SYSTEM: Final = re.compile(r"\(os error (\d{1,6})\)")
_UNREACHED: Final = re.compile(r"error sending request|kind: (Connect|Timeout)\b")
_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound")
_NO_CREDENTIALS: Final = re.compile(r"169\.254\.|metadata\.google|InstanceMetadata|[Cc]redential")
_RETRIES: Final = 5
_RETRY_SECONDS: Final = 60
_PART_BYTES: Final = 16 << 20
_MAX_PARTS: Final = 9_000
"""S3 takes 10,000 parts of one object."""
_PARTS_AT_ONCE: Final = 4
_DELETED_AT_ONCE: Final = 1_000


class Stat(NamedTuple):
    """What a store says of an object.

    Attributes:
        key: its name in the bucket.
        tag: entity tag, another one for other bytes; empty: its name is enough.
        modified_ns: when it was written, by the store's clock.
    """

    key: str
    size_bytes: int
    tag: str
    modified_ns: int


class AlreadyThereError(Exception):
    """An object was to be new, and there is one of its name."""


@final
class Objects:
    """One bucket. Errors name bucket and key, never what a request was signed with.

    Attributes:
        requests: how many were made of the store, retries apart.
        bytes_read: of objects' contents.
        bytes_written: the same.
    """

    def __init__(self, place: Place) -> None:
        """Open the bucket of a place. Raises `UnsupportedError` without the extra; asks the store for nothing."""
        self.place = place._replace(key="")
        self._store = _open_store(place)
        self.requests = self.bytes_read = self.bytes_written = 0

    @property
    def lists_in_order(self) -> bool:
        """Whether the store itself begins a list behind a key, in the order of keys."""
        return self.place.scheme in ("s3", "gs")

    # -- reading

    def stat(self, key: str) -> Stat | None:
        """What the store says of an object; `None`: there is none.

        Raises:
            StorageError: it cannot be asked.
        """
        import obstore

        self.requests += 1
        try:
            found = obstore.head(self._store, key)
        except FileNotFoundError:
            return None
        except _errors() as error:
            self._refuse(error, key)
        return _stat_of(found)

    def read(self, stat: Stat, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end` of the object that `stat` was said of, in one request.

        Raises:
            StorageError: the object is not the same any more, or cannot be read.
        """
        if start >= end:
            return b""
        options = {"range": (start, end)} | ({"if_match": stat.tag} if stat.tag else {})
        try:
            result = self._get(stat.key, options)
        except StorageError as error:
            if error.error_code == "object-store":  # its range may not be there any more
                self._compare(self.stat(stat.key), stat)
            raise
        self._compare(_stat_of(result.meta), stat)
        data = self._content(result, stat.key)
        if result.range != (start, end) or len(data) != end - start:
            asked = f"{end - start} from {start:#x} on were asked for"
            raise StorageError(f"{len(data)} bytes came, {asked}", self._at(stat.key))
        return data

    def _compare(self, found: Stat | None, expected: Stat) -> None:
        """Refuse another object than the one that was opened."""
        if found is None or (expected.tag and found.tag != expected.tag):
            self._changed(expected.key)
        if found.size_bytes != expected.size_bytes:
            words = f"{found.size_bytes} bytes found, {expected.size_bytes} expected"
            raise StorageError(words, self._at(expected.key)) from None

    def read_whole(self, key: str, max_bytes: int) -> tuple[bytes, Stat]:
        """A small object, whole, and what it is.

        Raises:
            StorageError: it is not there, has more than `max_bytes`, or cannot be read.
        """
        result = self._get(key, {})
        stat = _stat_of(result.meta)
        if stat.size_bytes > max_bytes:
            raise StorageError(f"{stat.size_bytes} bytes found, at most {max_bytes} expected", self._at(key))
        return self._content(result, key), stat

    def stream(self, stat: Stat) -> Iterator[bytes]:
        """All bytes of the object that `stat` was said of, in pieces. Raises as `read`."""
        result = self._get(stat.key, {"if_match": stat.tag} if stat.tag else {})
        self._compare(_stat_of(result.meta), stat)
        came = 0
        try:
            for piece in result.stream(min_chunk_size=1 << 20):
                came += len(piece)
                self.bytes_read += len(piece)
                if came > stat.size_bytes:
                    break
                yield bytes(piece)
        except _errors() as error:
            self._refuse(error, stat.key)
        if came != stat.size_bytes:
            raise StorageError(f"{came} bytes came, {stat.size_bytes} expected", self._at(stat.key))

    def list(self, prefix: str, after: str | None = None) -> Iterator[Stat]:
        """Objects whose keys begin with a directory's name and a slash, in any order; with `after`, in that of keys.

        Args:
            prefix: the directory.
            after: only those behind this key, where the store has an order (`lists_in_order`): whoever takes few of
                them costs one request.
        """
        import obstore

        self.requests += 1
        try:
            for piece in obstore.list(self._store, prefix.rstrip("/") or None, offset=after):
                yield from map(_stat_of, piece)
        except FileNotFoundError:
            return
        except _errors() as error:
            self._refuse(error, prefix)

    def _get(self, key: str, options: Mapping[str, object]) -> GetResult:
        import obstore

        self.requests += 1
        try:
            return obstore.get(self._store, key, options=options)  # type: ignore[arg-type]
        except _errors() as error:
            self._refuse(error, key)

    def _content(self, result: GetResult, key: str) -> bytes:
        try:
            data = bytes(result.bytes())
        except _errors() as error:
            self._refuse(error, key)
        self.bytes_read += len(data)
        return data

    # -- writing

    def put(self, key: str, data: bytes, *, only_new: bool = False) -> None:
        """Write an object in one request: it is there whole, or not at all.

        Raises:
            AlreadyThereError: it was to be new, and is not.
            StorageError: it cannot be written.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        self.requests += 1
        try:
            obstore.put(self._store, key, data, mode="create" if only_new else "overwrite", use_multipart=False)
        except AlreadyExistsError:
            raise AlreadyThereError(key) from None
        except _errors() as error:
            self._refuse(error, key)
        self.bytes_written += len(data)

    def put_file(self, key: str, file: BinaryIO, size_bytes: int) -> None:
        """Write an object of any size in parts: it is there whole, or not at all. Raises as `put`."""
        import obstore

        self.requests += 1
        part_bytes = max(_PART_BYTES, -(-size_bytes // _MAX_PARTS))
        try:
            obstore.put(self._store, key, file, chunk_size=part_bytes, max_concurrency=_PARTS_AT_ONCE)
        except _errors() as error:
            self._refuse(error, key)
        self.bytes_written += size_bytes

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are gone are fine."""
        import obstore

        left = list(keys)
        at_once = 1 if self.place.scheme == "file" else _DELETED_AT_ONCE  # where one that is gone stops the others
        for start in range(0, len(left), at_once):
            self.requests += 1
            try:
                obstore.delete(self._store, left[start : start + at_once])
            except FileNotFoundError:
                continue
            except _errors() as error:
                self._refuse(error, left[start])

    # -- errors

    def _at(self, key: str) -> Place:
        return self.place._replace(key=key)

    def _changed(self, key: str) -> NoReturn:
        raise StorageError(
            "the object was replaced while it was read: what was read of it so far belongs to another one; open it "
            "again, and have writers use new names",
            self._at(key),
        ).coded("object-changed") from None

    def _refuse(self, error: Exception, key: str) -> NoReturn:
        """Say what went wrong in words of our own: those of the store may have been signed."""
        from obstore.exceptions import PermissionDeniedError, PreconditionError, UnauthenticatedError

        text = str(error)
        status, code = _STATUS.search(text), _CODE.search(text)
        said = ", ".join(found.group(1) for found in (status, code) if found) or type(error).__name__
        place = self._at(key)
        if isinstance(error, PreconditionError):
            self._changed(key)
        if code is not None and code.group(1) in _NO_BUCKET:
            name = place._replace(key="")
            raise StorageError("there is no such bucket: it is to be made first", name).coded(
                "no-such-object"
            ) from None
        if isinstance(error, FileNotFoundError):
            raise StorageError("there is no such object", place).coded("no-such-object") from None
        system = _SYSTEM.search(text)
        if place.scheme == "file" and system is not None:
            number = int(system.group(1))
            raise StorageError.because(
                "cannot be read or written", OSError(number, os.strerror(number)), place
            ) from None
        is_denied = status is not None and status.group(1) in ("401", "403")
        if is_denied or isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError):
            raise StorageError(f"the store refuses these credentials ({said})", place).coded("object-denied") from None
        if status is None and _NO_CREDENTIALS.search(text):
            raise StorageError("no credentials were found in the environment", place).coded("object-denied") from None
        if "BadScheme" in text:
            raise StorageError(
                "the endpoint is http://, which is not encrypted; AWS_ALLOW_HTTP=true allows it", place
            ).coded("object-store") from None
        if status is None and _UNREACHED.search(text):
            words = "the store cannot be reached: is the network there, and AWS_ENDPOINT_URL right, where it is set?"
            raise StorageError(words, place).coded("object-store") from None
        raise StorageError(f"the store does not answer as it should ({said})", place).coded("object-store") from None


def _stat_of(meta: object) -> Stat:
    """What obstore says of an object."""
    assert isinstance(meta, dict)
    modified_ns = int(meta["last_modified"].timestamp() * 1e9)
    return Stat(meta["path"], meta["size"], meta["e_tag"] or "", modified_ns)


def _errors() -> tuple[type[Exception], ...]:
    from obstore.exceptions import BaseError

    return BaseError, OSError, ValueError


def _open_store(place: Place) -> ObjectStore:
    try:
        from obstore.store import AzureStore, GCSStore, LocalStore, S3Store
    except ImportError as error:
        raise UnsupportedError("object storage needs `pip install 'perdure[storage]'`").coded(
            "extra-missing"
        ) from error
    if place.scheme == "file":
        return LocalStore()
    check_endpoints(place.scheme, os.environ)
    retries: RetryConfig = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_SECONDS)}
    try:
        if place.scheme == "s3":
            return S3Store(place.bucket, retry_config=retries)
        if place.scheme == "gs":
            return GCSStore(place.bucket, retry_config=retries)
        return AzureStore(place.bucket, retry_config=retries)
    except _errors() as error:
        raise StorageError(
            f"what the environment says of this store cannot be used ({type(error).__name__})",
            f"{place.scheme}://{quote(place.bucket)}",
        ).coded("object-denied") from None
