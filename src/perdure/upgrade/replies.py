"""Comparing what two versions answer to the same call."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, final

from perdure.candid import decode, decode_with_types, values_to_text
from perdure.candid.service import ServiceMethod
from perdure.candid.types import Value
from perdure.errors import MalformedError

__all__ = ["Reply", "is_less", "without"]

_MAX_TEXT: Final = 120


@final
class Reply:
    """A reply, decoded as the callers of the old version decode it.

    Args:
        data: the bytes.
        method: as the old interface declares it; `None`: nothing is known.
        volatile: names of fields that are not compared.
    """

    def __init__(self, data: bytes, method: ServiceMethod | None, volatile: Collection[str] = ()) -> None:
        self.data = data
        self.method = method
        self.trouble = ""
        """Why it is not of the old types."""
        self.values: tuple[Value, ...] | None = None
        try:
            self.values = method.decode(data) if method is not None else decode(data)
        except MalformedError as error:
            if method is not None:
                self.trouble = str(error)
        if self.values is not None and volatile:
            self.values = tuple(without(value, volatile) for value in self.values)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reply):
            return NotImplemented
        if self.values is None or other.values is None:
            return self.data == other.data
        return repr(self.values) == repr(other.values)  # so that not-a-number equals itself

    def __hash__(self) -> int:
        return hash(self.data)

    def __str__(self) -> str:
        if self.values is None:
            text = self.data.hex()
        elif self.method is not None:
            text = values_to_text(self.method.func.results, self.method.decode(self.data))
        else:
            text = values_to_text(*decode_with_types(self.data))
        return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}... ({len(text)} characters)"


def without(value: object, names: Collection[str]) -> Value:
    """A value without the record fields of these names."""
    if isinstance(value, Mapping):
        return {name: without(one, names) for name, one in value.items() if name not in names}
    if isinstance(value, list):
        return [without(one, names) for one in value]
    if isinstance(value, tuple):
        return tuple(without(one, names) for one in value)
    return value


def is_less(old: object, new: object) -> bool:
    """Whether a value lost something: what was there is gone, empty or nought, and nothing came instead."""
    if isinstance(old, tuple | list) and isinstance(new, tuple | list):
        if len(old) != len(new):
            return len(new) < len(old)
        pairs = list(zip(old, new, strict=True))
    elif isinstance(old, Mapping) and isinstance(new, Mapping):
        pairs = [(value, new.get(name)) for name, value in old.items()]
    else:
        return bool(old) and not new and not isinstance(old, bool)
    differing = [(one, other) for one, other in pairs if repr(one) != repr(other)]
    return bool(differing) and all(is_less(one, other) for one, other in differing)


def is_reversed(old: object, new: object) -> bool:
    """Whether a number came back with its bytes in the other order."""
    if isinstance(old, tuple | list) and isinstance(new, tuple | list) and len(old) == len(new):
        return any(is_reversed(one, other) for one, other in zip(old, new, strict=True))
    if isinstance(old, bool) or not isinstance(old, int) or not isinstance(new, int) or old == new:
        return False
    for size in (2, 4, 8, 16):
        if 0 <= old < 1 << 8 * size and 0 <= new < 1 << 8 * size:
            return old.to_bytes(size, "big") == new.to_bytes(size, "little")
    return False
