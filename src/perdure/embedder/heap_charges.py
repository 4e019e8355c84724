"""What an entry is charged for the pages of the heap that it has changed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from perdure.canister import Context, Env, PageDelta, Return
from perdure.memory import PAGE_BYTES

__all__ = ["FREE_OF_HEAP", "UNKNOWN", "charge_for_heap", "charge_for_own", "pages_of"]

FREE_OF_HEAP: Final = (
    Context.NON_REPLICATED_QUERY.bit
    | Context.REPLICATED_QUERY.bit
    | Context.TRANSFORM.bit
    | Context.INSPECT_MESSAGE.bit
)
"""Contexts in which changed pages of the heap are not charged."""

UNKNOWN: Final = PageDelta(-1, ())
"""Says that the heap has not been compared with its committed bytes since it last ran."""


def pages_of(delta: PageDelta) -> Iterator[tuple[int, bytes]]:
    """The changed pages, each with its address."""
    for address, data in delta.runs:
        for at in range(0, len(data), PAGE_BYTES):
            yield address + at, bytes(data[at : at + PAGE_BYTES])


def charge_for_heap(
    result: Return,
    env: Env,
    delta: PageDelta,
    before: dict[int, bytes] | None,
    page_charges: tuple[int, int] | None,
    *,
    is_64: bool,
) -> None:
    """Charge each page of the heap that now differs, after the fact: so it can use up the limit, not exceed it.

    Source: ``charge_for_dirty_heap`` of the replica; four times as much on 64-bit heaps. A schedule with page
    charges of its own has one price for both widths; that a page was read only is not seen.

    Args:
        result: is charged.
        env: of the entry.
        delta: what differs.
        before: the pages that an entry before this one has changed and nobody committed: they are not this one's.
        page_charges: for a page that is first accessed and for one first written, where the schedule has them.
        is_64: whether the heap has 64-bit addresses.
    """
    if before:
        result.heap_dirty_pages = sum(before.get(address) != data for address, data in pages_of(delta))
    else:
        result.heap_dirty_pages = delta.changed_bytes // PAGE_BYTES
    limits = env.limits
    price = sum(page_charges) if page_charges is not None else limits.dirty_page_instructions * (4 if is_64 else 1)
    result.instructions = min(limits.instructions, result.instructions + result.heap_dirty_pages * price)


def charge_for_own(
    result: Return,
    env: Env,
    name: str,
    delta: PageDelta,
    before: dict[int, bytes] | None,
    page_charges: tuple[int, int] | None,
) -> None:
    """Charge each changed page of a memory of the canister's own, as one of stable memory, after the fact.

    Args as of `charge_for_heap`, and the memory's `name`; the width of addresses makes no difference.
    """
    count = sum((before or {}).get(address) != data for address, data in pages_of(delta))
    limits = env.limits
    price = sum(page_charges) if page_charges is not None else limits.dirty_page_instructions
    result.own_dirty_pages = {**result.own_dirty_pages, name: count}
    result.instructions = min(limits.instructions, result.instructions + count * price)
