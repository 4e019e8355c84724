"""Sees which pages of its heap and of its own memories an entry reads, too: a mode for measuring, off otherwise.

No page is there when an entry begins; those that are there when it ends were touched. The kernel maps pages of files in
aligned groups of 16, which is a Wasm page, and what the network's tracker maps and charges: so groups are what is seen.

Schedule ``2026-07`` charges each Wasm page for the first access and for the first write in it. Without this mode only
changed pages of a heap are charged. Both come when the entry has run: an entry whose pages use up its limit ends well.

Source: the replica's deterministic memory tracker (2026), which maps the Wasm page around the page that is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from perdure.canister import Env, Return, Trap
from perdure.embedder.memory import ImageMemory
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES

__all__ = ["Reads"]

_PAGES: int = WASM_PAGE_BYTES // PAGE_BYTES


@final
class Reads:
    """What an instance has read and written.

    Args:
        memories: by name.
        prices: of a page that is first accessed, and of one first written; `None`: the schedule charges otherwise.
    """

    def __init__(self, memories: Iterable[tuple[str, ImageMemory]], prices: tuple[int, int] | None) -> None:
        self._prices = prices
        self.prices_of_changes = None if prices is None else (0, 0)
        """What is left to charge for pages whose bytes have changed."""
        self._memories = [(name, memory) for name, memory in memories if memory.can_see_reads]
        self.accessed: dict[str, list[int]] = {}
        """Wasm pages that the last entry touched, by memory."""
        self._written: dict[str, int] = {}

    def begin(self, *, is_clean: bool) -> None:
        """An entry is about to begin; whether nothing is uncommitted."""
        for _, memory in self._memories:
            memory.set_apart(is_clean=is_clean)

    def end(self) -> None:
        """It has ended. Before anybody else looks at its memories."""
        self.accessed, self._written = {}, {}
        for name, memory in self._memories:
            self.accessed[name], written = memory.gather()
            self._written[name] = len(written)

    def charge(self, outcome: Return | Trap, env: Env) -> None:
        """Charge the pages of the heap, all of a Wasm page, in every context."""
        prices = self._prices
        if prices is None:
            return
        accessed, written = len(self.accessed.get("heap", ())), self._written.get("heap", 0)
        count = (accessed * prices[0] + written * prices[1]) * _PAGES
        outcome.instructions = min(env.limits.instructions, outcome.instructions + count)
