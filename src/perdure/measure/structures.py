"""Pages of stable memory by the structure that they belong to."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, final

from perdure.errors import PerdureError
from perdure.inspection.find import Structure, find_in_memory
from perdure.memory import PAGE_BYTES, Memory

__all__ = ["OTHER", "Owners", "PageUse"]

OTHER: Final = "other"
"""What belongs to no structure that is known: a memory manager's header, or data of a canister's own making."""


@final
class PageUse(NamedTuple):
    """What was done to one structure, in pages of 4 KiB."""

    memory: str
    """The structure's label, as ``perdure stable ls`` shows it."""
    kind: str
    accessed_pages: int
    written_pages: int


@final
class Owners:
    """Whose pages are whose, in a stable memory as it stands.

    A page that two structures share counts for the one that has its first byte; one whose first byte has no owner, for
    the first that begins in it.
    """

    def __init__(self, memory: Memory) -> None:
        spans = sorted(_spans(memory))
        self._starts = [start for start, _, _, _ in spans]
        self._spans = spans

    def owner(self, page: int) -> tuple[str, str]:
        """Label and kind of the structure that a page belongs to; `OTHER` and nothing where there is none."""
        place = bisect_right(self._starts, page) - 1
        if place >= 0:
            _, end, label, kind = self._spans[place]
            if page < end:
                return label, kind
        return OTHER, ""

    def use(self, accessed: Iterable[int], written: Iterable[int]) -> list[PageUse]:
        """Pages that were accessed and written, counted by structure, most accessed first."""
        counts: dict[tuple[str, str], list[int]] = {}
        for place, pages in enumerate((accessed, written)):
            for page in pages:
                counts.setdefault(self.owner(page), [0, 0])[place] += 1
        found = [PageUse(*owner, *pages) for owner, pages in counts.items()]
        return sorted(found, key=lambda one: (-one.accessed_pages, one.memory))


def _spans(memory: Memory) -> Iterator[tuple[int, int, str, str]]:
    """First page, the one after the last, label and kind; none overlap."""
    taken_until = 0
    for start, end, label, kind in sorted(_runs(memory)):
        first, last = max(start // PAGE_BYTES, taken_until), -(-end // PAGE_BYTES)
        if first < last:
            yield first, last, label, kind
            taken_until = last


def _runs(memory: Memory) -> Iterator[tuple[int, int, str, str]]:
    try:
        structures: tuple[Structure, ...] = tuple(find_in_memory(memory).structures)
    except PerdureError:
        return  # a memory that nobody can make out: all of it is `OTHER`
    for structure in structures:
        for region in (structure.region, structure.data):
            for run in region.runs if region is not None else ():
                if run.size_bytes:
                    yield run.address, run.address + run.size_bytes, structure.label, structure.kind
