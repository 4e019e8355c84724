"""Nodes of which nobody knows whether their keys carry a length: entries as either reading has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

from perdure.stable.layout import U32, V1Slots

__all__ = ["RawNode"]

Sizes: TypeAlias = list[tuple[bytes, int]]
"""Each key, and the bytes of its value."""


@final
@dataclass(frozen=True)
class RawNode:
    """A node before its keys and values are told apart.

    Attributes:
        address: of the chunk's body.
        slots: of a version 1 node, whose entries are slots; ``None`` of a version 2 node, whose entries are packed.
        count: entries.
        children: addresses.
        body: the bytes of the entries; in version 2 up to the end of the last page.
        tail_bytes: bytes of `body` in the last page; the entries end within them, or exactly before them.
    """

    address: int
    slots: V1Slots | None
    count: int
    children: tuple[int, ...]
    body: bytes
    tail_bytes: int

    @property
    def version(self) -> int:
        """1 or 2."""
        return 1 if self.slots else 2

    def split(self, key_bytes: int | None, most: int | None) -> Sizes | None:
        """The entries, if keys are `key_bytes` wide (``None``: carry a length); ``None`` where they cannot be.

        Args:
            key_bytes: how to read a version 2 node.
            most: bytes that a key and a value may take together.
        """
        return self._split_packed(key_bytes, most) if self.slots is None else self._split_slots(self.slots)

    def _split_slots(self, slots: V1Slots) -> Sizes | None:
        entries = []
        for offset in range(0, self.count * slots.entry_bytes, slots.entry_bytes):
            value_at = offset + U32.size + slots.key_bytes
            (key_bytes,), (value_bytes,) = U32.unpack_from(self.body, offset), U32.unpack_from(self.body, value_at)
            if key_bytes > slots.key_bytes or value_bytes > slots.value_bytes:
                return None
            entries.append((self.body[offset + U32.size : offset + U32.size + key_bytes], value_bytes))
        return entries

    def _split_packed(self, key_bytes: int | None, most: int | None) -> Sizes | None:
        body, offset, keys = self.body, 0, []
        for _ in range(self.count):
            size = key_bytes
            if size is None:
                if offset + U32.size > len(body):
                    return None
                (size,) = U32.unpack_from(body, offset)
                offset += U32.size
            if offset + size > len(body) or (most is not None and size > most):
                return None
            keys.append(body[offset : offset + size])
            offset += size
        entries = []
        for key in keys:
            if offset + U32.size > len(body):
                return None
            (size,) = U32.unpack_from(body, offset)
            offset += U32.size
            if offset + size > len(body) or (most is not None and size + len(key) > most):
                return None
            entries.append((key, size))
            offset += size
        fits = offset > len(body) - self.tail_bytes or self.tail_bytes == len(body)
        return entries if fits and len(set(keys)) == len(keys) else None
