"""URLs of object storage: ``s3://BUCKET/KEY``, ``gs://``, ``az://``, ``file:///PATH``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from perdure.errors import UnsupportedError

__all__ = ["Place", "is_url", "local_path", "parse_url"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCHEMES: Final = ("s3", "gs", "az", "file")
_BUCKET: Final = re.compile(r"[A-Za-z0-9._-]{1,255}")


class Place(NamedTuple):
    """Where a URL leads: ``file`` has no bucket."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.key}"

    def under(self, name: str) -> Place:
        """The object of that name below this one, as a directory."""
        return self._replace(key=f"{self.key.rstrip('/')}/{name}".lstrip("/"))


def is_url(text: str) -> bool:
    """Whether a SOURCE is a URL, also one that is not taken, which may have a secret in it."""
    return _URL.match(text) is not None


def parse_url(text: str) -> Place:
    """Where a URL leads.

    Raises:
        UnsupportedError: it is none that is taken; its text is repeated only where it can hold no secret.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    bucket, _, key = rest.partition("/")
    if scheme not in _SCHEMES:
        raise UnsupportedError("a URL of object storage begins with s3://, gs://, az:// or file://")
    if "@" in bucket or "?" in rest or (scheme != "file" and ":" in bucket):
        raise UnsupportedError(
            f"a {scheme}:// URL with more in it than bucket and key: credentials and options belong in the "
            "environment, as docs/object-storage.md says"
        ).coded("url-with-credentials")
    if scheme == "file":
        if bucket not in ("", "localhost") or not key:
            raise UnsupportedError("a file:// URL names a path of this machine: file:///srv/snapshots/one")
        return Place("file", "", key)
    if not _BUCKET.fullmatch(bucket):
        raise UnsupportedError(f"{scheme}://{bucket:.80} names no bucket, expected {scheme}://BUCKET/KEY")
    if any(part in (".", "..") for part in key.split("/")):
        raise UnsupportedError(f"{scheme}://{bucket}: a key has no . or .. between slashes")
    return Place(scheme, bucket, key)


def local_path(text: str) -> str | None:
    """What a ``file://`` URL names on this machine; `None`: it is another one."""
    if not text.lower().startswith("file://"):
        return None
    return f"/{parse_url(text).key}"
