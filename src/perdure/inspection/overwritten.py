"""A memory manager that something wrote over: `stable_save` and everything else that writes at address 0.

The crate finds no manager then, makes a new one, and hands out again what the structures lie in. What tells that there
was one: structures at the starts of buckets, and the end of the table of owners, which short writes leave alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Final, final

from perdure.inspection.find import KIND_OF_MAGIC, KINDS, Inventory
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.stable.layout import OWNERS_END, UNALLOCATED

__all__ = ["LostManager", "lost_manager"]


_DEFAULT_BUCKET_WASM_PAGES: Final = 128
#: Structures that lie closer to each other may be in windows that their author chose, behind a page of his own.
_TELLING_BUCKET_WASM_PAGES: Final = 16
_TAIL_BYTES: Final = 1024
_PREFIX_BYTES: Final = 8
"""Of a length before a message."""


@final
@dataclass(frozen=True)
class LostManager:
    """Signs of a memory manager that is no longer there.

    Attributes:
        holds: what is in its place.
        labels: of the structures that were its memories, and can be read as far as they lie in one bucket.
        bucket_wasm_pages: the size of its buckets, where the structures tell.
    """

    holds: str
    labels: tuple[str, ...]
    bucket_wasm_pages: int | None

    @property
    def message(self) -> str:
        """What happened, for people."""
        size = f" of {self.bucket_wasm_pages}-page buckets" if self.bucket_wasm_pages else ""
        return (
            f"page 0 holds {self.holds} where structures at {', '.join(self.labels)} say that a memory manager{size} "
            "was; the crate will make a new manager and overwrite all; what fits in one bucket is read by its label"
        )


def lost_manager(inventory: Inventory) -> LostManager | None:
    """The manager that a memory once had at page 0, if it looks as if one was overwritten."""
    if inventory.managers or not inventory.structures or inventory.structures[0].kind not in ("unknown", "empty"):
        return None
    known = {*KINDS, *KIND_OF_MAGIC.values()}
    structures = [one for one in inventory.structures[1:] if one.kind in known and one.label.startswith("page:")]
    if not structures:
        return None
    apart = gcd(*(int(one.label.removeprefix("page:")) - 1 for one in structures))
    if apart % _DEFAULT_BUCKET_WASM_PAGES == 0 and apart:
        apart = _DEFAULT_BUCKET_WASM_PAGES
    bucket_wasm_pages = apart if apart > 1 and apart.bit_count() == 1 else None
    holds = _holds(inventory.memory)
    is_message = "message" in holds and structures[0].label == "page:1"
    are_buckets = len(structures) > 1 and (bucket_wasm_pages or 0) >= _TELLING_BUCKET_WASM_PAGES
    if not are_buckets and not is_message and not _has_owners(inventory.memory):
        return None
    return LostManager(holds, tuple(one.label for one in structures), bucket_wasm_pages)


def _holds(memory: Memory) -> str:
    page = memory.read(0, WASM_PAGE_BYTES)
    if b"DIDL" in page[: _PREFIX_BYTES + 4]:
        return "a Candid message (stable_save)"
    return "other bytes" if any(page) else "zeros"


def _has_owners(memory: Memory) -> bool:
    """Whether the table of owners still ends as a manager's does: buckets of nobody, then what is reserved, zeros."""
    tail = memory.read(OWNERS_END - _TAIL_BYTES, 2 * _TAIL_BYTES)
    return tail == bytes([UNALLOCATED]) * _TAIL_BYTES + bytes(_TAIL_BYTES)
