"""Upgrades from Wasm to Python and back: instances that cannot take over each other's mapped memories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import final

from perdure.canister import (
    CanisterInstance,
    CanisterModule,
    Extent,
    Image,
    PageDelta,
    StateDelta,
    WasmState,
)

__all__ = ["hand_over"]


def hand_over(
    live: CanisterInstance, code: CanisterModule, let_go: Callable[[], WasmState], *, keep_stable: bool
) -> CanisterInstance:
    """An instance of `code` over the images of `live`, stable memory with what is uncommitted there.

    Args:
        live: the predecessor, an instance of another kind.
        code: what comes after it.
        let_go: closes `live`, and gives its images. Rolling the successor back leaves them as they are committed.
        keep_stable: whether stable memory stays. The heap never does: nobody could read it.
    """
    uncommitted = live.save()
    live.roll_back()
    memories = let_go()
    stable = memories.stable if keep_stable else _Emptied(memories.stable)
    successor = code.instantiate(WasmState(_Emptied(memories.heap), stable))
    if keep_stable and uncommitted.stable is not None:
        successor.restore(StateDelta(None, uncommitted.stable, None))
    return successor


@final
class _Emptied:
    """An image as if it were empty, until the first commit makes it so; implements `Image`."""

    def __init__(self, image: Image) -> None:
        self._image = image
        self._is_empty = True

    @property
    def wasm_pages(self) -> int:
        """Committed size in Wasm pages."""
        return 0 if self._is_empty else self._image.wasm_pages

    def extents(self) -> Sequence[Extent]:
        """File-backed runs."""
        return () if self._is_empty else self._image.extents()

    def commit(self, delta: PageDelta) -> Sequence[Extent]:
        """Make `delta` the committed content, the first time all of it."""
        extents = self._image.commit(delta._replace(fresh=delta.fresh or self._is_empty))
        if self._is_empty:
            self._is_empty = False
            return self._image.extents()
        return extents

    def close(self) -> None:
        """Let go of the files."""
        self._image.close()
