"""Which pages of 4 KiB the last entry of an instance has touched: accessed ones, and written ones."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from struct import Struct
from typing import Final, TypeAlias

from perdure.canister import PageDelta
from perdure.embedder.memory import AnonymousMemory, ImageMemory
from perdure.embedder.reads import Reads
from perdure.instrument import abi
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES

__all__ = ["NONE", "Touched", "changed_pages", "listed_pages", "lists_nothing"]

_GROUP: Final = WASM_PAGE_BYTES // PAGE_BYTES
_ENDS: Final = Struct("<2I")
_ENDS_OFFSET: Final = abi.HEADER["touched_end"].offset
_EMPTY: Final = _ENDS.pack(abi.TOUCHED_LIST, abi.WRITTEN_LIST)
NONE: Final = array("I")
"""No pages: not to be added to."""

Touched: TypeAlias = "tuple[array[int], array[int]]"
"""Accessed, written."""


def listed_pages(message: memoryview, accounting: AnonymousMemory | None) -> Touched:
    """Those of stable memory, as the kernel has listed them; none without accounting, or where nobody has entered."""
    accessed = written = NONE
    if message and accounting is not None:
        accessed_end, written_end = _ENDS.unpack_from(message, _ENDS_OFFSET)
        if accessed_end > abi.TOUCHED_LIST:
            accessed = array("I", accounting.bytes[abi.TOUCHED_LIST : accessed_end].tobytes())
        if written_end > abi.WRITTEN_LIST:
            written = array("I", accounting.bytes[abi.WRITTEN_LIST : written_end].tobytes())
    return accessed, written


def lists_nothing(message: memoryview) -> bool:
    """Whether the kernel has listed no page of stable memory: its lists end where they begin."""
    return message[_ENDS_OFFSET : _ENDS_OFFSET + _ENDS.size] == _EMPTY


def changed_pages(
    memories: Iterable[tuple[str, ImageMemory]], known: PageDelta | None, reads: Reads | None
) -> dict[str, Touched]:
    """Those of the heap and of memories of one's own.

    Args:
        memories: by name, of which to see what has changed.
        known: what is already known of the heap; of the others it is found here.
        reads: what was accessed, if somebody has looked: in whole Wasm pages.
    """
    found: dict[str, Touched] = {}
    for name, wasm_pages in reads.accessed.items() if reads is not None else ():
        accessed = array("I")
        for page in wasm_pages:
            accessed.extend(range(page * _GROUP, (page + 1) * _GROUP))
        found[name] = accessed, NONE
    for name, memory in memories:
        delta = known if name == "heap" else memory.changes()
        if delta is not None and delta.runs:
            pages = array("I")
            for address, data in delta.runs:
                pages.extend(range(address // PAGE_BYTES, (address + len(data)) // PAGE_BYTES))
            found[name] = found.get(name, (NONE, NONE))[0], pages
    return found
