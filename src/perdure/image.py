"""What a canister's memories are made of: their kinds, and images, which files implement and mappings are made from."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, Protocol

__all__ = [
    "MAX_OWN_MEMORIES",
    "MEMORY_KINDS",
    "MEMORY_NAME",
    "NO_FILE",
    "Extent",
    "Image",
    "Lifetime",
    "MemoryKind",
    "PageDelta",
    "memory_kinds",
]

Lifetime = Literal["heap", "stable", "upgrade", "message"]
"""How long what is in a memory stays.

A ``heap`` starts empty at an upgrade, unless that keeps it; what is ``stable`` stays; ``upgrade`` is emptied by every
upgrade, ``message`` by the end of every entry. A reinstallation empties all of them.
"""


class MemoryKind(NamedTuple):
    """A memory that a canister has, by the name that it has everywhere: in deltas, records, files, commands.

    `on_network`: whether the Internet Computer knows it; its snapshots then have it, its messages can ask for it.
    `is_read_only`: code that has it so only reads it; it is *deprecated*.
    `max_wasm_pages`: how large its code lets it become; what an address reaches, where it says nothing.
    """

    name: str
    lifetime: Lifetime
    address_bits: int
    on_network: bool = False
    is_read_only: bool = False
    max_wasm_pages: int | None = None

    @property
    def most_wasm_pages(self) -> int:
        """How large it may become: as its code says, within what the network has for its like."""
        most = 1 << 16 if self.address_bits == 32 else (500 << 30) >> 16
        return most if self.max_wasm_pages is None else min(most, self.max_wasm_pages)


MEMORY_NAME: Final = re.compile(r"[a-z0-9_.-]{1,64}")
"""What a memory of a canister's own may be called."""

MAX_OWN_MEMORIES: Final = 32
"""How many of its own a module may have."""

MEMORY_KINDS: Final[Mapping[str, MemoryKind]] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            MemoryKind("heap", "heap", 32, on_network=True),
            MemoryKind("stable", "stable", 64, on_network=True),
        )
    }
)
"""The memories that every canister has, by name."""


def memory_kinds(
    others: Sequence[MemoryKind] = (), *, is_64: bool = False, max_heap_wasm_pages: int | None = None
) -> Mapping[str, MemoryKind]:
    """The memories of a module with a heap of this width: those that all have, then `others`.

    Raises:
        ValueError: two of them have one name.
    """
    heap = MEMORY_KINDS["heap"]._replace(address_bits=64 if is_64 else 32, max_wasm_pages=max_heap_wasm_pages)
    kinds = {kind.name: kind for kind in (*MEMORY_KINDS.values(), *others)}
    if len(kinds) != len(MEMORY_KINDS) + len(others):
        names = [kind.name for kind in others]
        raise ValueError(f"memories have names of their own and not those of {[*MEMORY_KINDS]}, found {names}")
    return MappingProxyType({**kinds, "heap": heap})


NO_FILE: Final = -1
"""Instead of a descriptor: zeros."""


class Extent(NamedTuple):
    """A run of a memory backed by a file. All four are multiples of 4,096 but the last extent's size may be any."""

    address: int
    size_bytes: int
    file_descriptor: int
    file_offset: int


class Image(Protocol):
    """The committed bytes of one memory.

    A private mapping is made of `extents()`; everything between and past them is zero. A transaction is then the
    kernel's work: private pages are what is uncommitted, dropping them is rolling back. Implementations write files;
    nobody else does.

    A few committed pages may be in no file yet: `held` has them, and a mapping shows them in private pages.
    """

    @property
    def wasm_pages(self) -> int:
        """Committed size in Wasm pages."""
        ...

    def extents(self) -> Sequence[Extent]:
        """File-backed runs, ascending, not overlapping. Valid until the next `commit`.

        They may reach past `wasm_pages`: zero pages, so that growing needs no new mapping.
        """
        ...

    @property
    def held(self) -> Mapping[int, bytes]:
        """Pages by address that are not what `extents()` says but this. Replaced by a commit, never changed."""
        ...

    def prepare(self, delta: PageDelta) -> None:
        """Have room for `delta`, so that `commit` of it will not fail for want of space. Nothing of it is to be seen.

        A delta that is prepared and not committed is forgotten with the next one.

        Raises:
            StorageError: there is no room; nothing has changed.
        """
        ...

    def commit(self, delta: PageDelta) -> Sequence[Extent]:
        """Make `delta` the committed content. Prepares it, if that was not done.

        A commit that an exception cut off is repeated with the same delta, or a copy of it; until then the image
        refuses everything else, and afterwards a mapping is made anew from `extents`.

        Returns:
            Extents to map over a mapping made before, after which it may drop its private pages, but for those that
            are now `held`. Of `NO_FILE` where there is nothing but zeros from now on. Empty, the usual case: the
            files already mapped have the new content in place.
        """
        ...

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of committed bytes, without a mapping.

        Raises:
            IndexError: they lie outside the memory.
        """
        ...

    def fork(self) -> Image:
        """A second image with the same content, of which nothing outlives the process; each goes its own way."""
        ...

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Address ranges of whole pages that may hold anything but zeros, ascending."""
        ...

    def close(self) -> None:
        """Let go of the files. The image must not be mapped any more."""
        ...


_DATA = itemgetter(1)


class PageDelta(NamedTuple):
    """What one message changed in one memory: its new size and the changed runs, ascending, whole pages.

    `fresh`: the memory starts from nothing, pages outside `runs` are zero (reinstall, upgrade without keeping).
    """

    wasm_pages: int
    runs: Sequence[tuple[int, bytes | memoryview]]
    fresh: bool = False

    @property
    def changed_bytes(self) -> int:
        """How many bytes all runs have."""
        runs = self.runs
        return len(runs[0][1]) if len(runs) == 1 else sum(map(len, map(_DATA, runs)))
