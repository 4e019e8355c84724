"""One item of CBOR that somebody else may have written.

Two tags of CBOR refer to what was said before (25: to a text or byte string, 29: to any value). By them a few bytes are
a list in itself, or what would be gigabytes written out: cbor2 reads them, and whoever shows or writes the value again
does not come to an end. So what an item unfolds to is bounded by its length.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

import cbor2

from perdure.errors import MalformedError

__all__ = ["load"]

_ERRORS: Final = (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError)
_REFERENCES: Final = re.compile(rb"(?:\xd8|\xd9\0|\xda\0{3}|\xdb\0{7})[\x19\x1d]")
"""Those tags, as CBOR may write their numbers; where the bytes of a text look so, too, counting finds nothing wrong."""

_MOST_TIMES: Final = 16


def load(data: bytes, offset: int = 0) -> Any:
    """The item that the bytes from `offset` on are, and nothing behind it.

    Raises:
        MalformedError: they are none, or one that is many times longer written out.
    """
    stream = io.BytesIO(data)
    stream.seek(offset)
    try:
        value = cbor2.load(stream)
    except _ERRORS as error:
        raise MalformedError(f"no CBOR: {error}", stream.tell()) from error
    if stream.tell() != len(data):
        raise MalformedError(f"no CBOR: {len(data) - stream.tell()} bytes after the item", stream.tell())
    if _REFERENCES.search(data):
        _check_size(value, _MOST_TIMES * len(data))
    return value


def _check_size(value: Any, most_bytes: int) -> None:
    """Refuse what takes more than so many bytes where each thing is written as often as it is referred to."""
    left, pending = most_bytes, [value]
    while pending:
        found = pending.pop()
        if isinstance(found, str | bytes):
            left -= len(found)
        elif isinstance(found, list | tuple | set | frozenset):
            pending.extend(found)
        elif isinstance(found, cbor2.CBORTag):
            pending.append(found.value)
        elif hasattr(found, "items"):
            for item in found.items():
                pending.extend(item)
        left -= 1
        if left < len(pending):
            raise MalformedError("no CBOR that is read here: it refers to itself, or unfolds to many times its length")
