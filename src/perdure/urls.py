"""URLs of object storage: ``s3://BUCKET/KEY``, ``gs://``, ``az://``, ``file:///PATH``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from perdure.errors import UnsupportedError

__all__ = ["Place", "check_endpoints", "is_url", "local_path", "meant_url", "parse_url", "refuse_url"]

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_SCHEMES: Final = ("s3", "gs", "az", "file")
_MISTYPED: Final = re.compile(r"(s3|gs|az|file)(?::/|//)(?=[^/])", re.IGNORECASE)
_ENDPOINTS: Final = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
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


def meant_url(text: str) -> str:
    """What to add where a name leads to nothing and is nearly a URL: ``s3:/BUCKET``, ``s3//BUCKET``; else nothing."""
    found = _MISTYPED.match(text)
    return "" if found is None or is_url(text) else f"; a URL begins with {found[1].lower()}://"


def refuse_url(path: str) -> None:
    """Refuse a URL where there is to be a name on this machine, which would make a directory ``s3:``.

    Raises:
        UnsupportedError: it is one, or nearly one; its text, which may have a secret in it, is not repeated.
    """
    if is_url(path) or meant_url(path):
        raise UnsupportedError(
            "a URL, expected a path of this machine: docs/object-storage.md says what may be in object storage"
        )


def check_endpoints(scheme: str, environment: Mapping[str, str]) -> None:
    """Refuse an endpoint that is no URL, for URLs of a scheme: the client of object storage would panic.

    Raises:
        UnsupportedError: a variable has one; its text, which may have a secret in it, is not repeated.
    """
    for name in _ENDPOINTS.get(scheme, ()):
        if environment.get(name) and not _is_endpoint(environment[name]):
            raise UnsupportedError(f"{name} is no http:// or https:// URL of a machine, expected http://127.0.0.1:9000")


def _is_endpoint(text: str) -> bool:
    try:
        found = urlsplit(text)
        return found.scheme in ("http", "https") and bool(found.hostname) and (found.port is None or found.port > 0)
    except ValueError:  # a port that is none
        return False


def parse_url(text: str) -> Place:
    """Where a URL leads.

    Raises:
        UnsupportedError: it is none that is taken; its text is repeated only where it can hold no secret.
    """
    scheme, _, rest = text.partition("://")
    scheme = scheme.lower()
    bucket, _, key = rest.partition("/")
    if scheme not in _SCHEMES:
        known = "a URL of object storage begins with s3://, gs://, az:// or file://"
        if is_url(text):
            raise UnsupportedError(f"{known}, found {scheme:.20}://")
        raise UnsupportedError(f"{known}; a directory of this machine is file:///PATH, from its root on")
    if "@" in bucket or "?" in rest or (scheme != "file" and ":" in bucket):
        raise UnsupportedError(
            f"a URL of {scheme}:// with more in it than bucket and key: credentials and options belong in the "
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
