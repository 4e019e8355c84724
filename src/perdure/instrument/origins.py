"""From an instruction of an instrumented module back to the one that it was made of.

Goes back over `metering`; bodies that something else has changed before (code in place of imports that name memories,
stores that are refused) have no way back.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from perdure.instrument.linking import Instrumented
from perdure.instrument.metering import Change, changes_of
from perdure.wasm import Module

__all__ = ["Origins"]


@final
class Origins:
    """Places in the bodies of one module.

    Args:
        original: as uploaded.
        linked: what it has become.
    """

    def __init__(self, original: Module, linked: Instrumented) -> None:
        self._original, self._linked = original, linked
        self._known: dict[int, tuple[list[Change], int] | None] = {}

    def offset(self, function: int, offset: int) -> int | None:
        """Where in its original body the instruction stands that is at `offset` of a function's new body.

        Of code that was put in, what it was put before, or in place of. `None`: there is no way back.
        """
        if function not in self._known:
            self._known[function] = self._changes(function - self._original.imported_function_count)
        found = self._known[function]
        if found is None:
            return None
        changes, first = found
        return _before(changes, max(offset - first, 0))

    def _changes(self, place: int) -> tuple[list[Change], int] | None:
        """What was done to the `place`-th body, and how many bytes were put in front of all that later."""
        linked = self._linked
        if linked.rewritten is None or not 0 <= place < len(self._original.codes):
            return None
        codes, rewrite = linked.rewritten
        body = codes[place].body
        if body != self._original.codes[place].body:
            return None
        changes = changes_of(codes, rewrite, place)
        if linked.options.profile:
            return changes, 0
        grown = sum(len(text) - (end - start) for start, end, text in changes)
        return changes, len(linked.module.codes[place].body) - len(body) - grown


def _before(changes: Iterable[Change], offset: int) -> int:
    grown = 0
    for start, end, text in changes:
        if offset < start + grown:
            break
        if offset < start + grown + len(text):
            return start
        grown += len(text) - (end - start)
    return offset - grown
