"""Memories on their way with a call, as a state directory has them: like a canister of its own, without code."""

from __future__ import annotations

from typing import Final

import cbor2

from perdure.canister import Image, PageDelta
from perdure.errors import MalformedError
from perdure.execution.journal import Journal
from perdure.execution.state import Handed, OwnMemory
from perdure.memory import WASM_PAGE_BYTES
from perdure.record import load
from perdure.storage import CanisterChange
from perdure.subnet.host import forked
from perdure.subnet.memories import StoredContent

__all__ = ["HANDED", "given", "handed_change", "read_handed", "whole"]

HANDED: Final = b"handed "
"""The prefix that they are kept under; then come the caller's id and the number of its call."""


def given(journal: Journal, canister_id: bytes) -> dict[str, PageDelta]:
    """What a canister gets with a transaction, in the place of empty memories."""
    content = journal.given.get(canister_id)
    return {name: whole(image) for name, image in forked(content).items()} if content is not None else {}


def handed_change(handed: Handed) -> CanisterChange:
    """Memories on their way, and in the record who gets them, and how wide they are."""
    bits = {name: one.address_bits for name, one in sorted(handed.memories.items())}
    record = cbor2.dumps([handed.callee, bits])
    return CanisterChange({name: whole(image) for name, image in forked(handed.content).items()}, record=record)


def read_handed(record: bytes, content: StoredContent) -> Handed:
    """The inverse of `handed_change`.

    Raises:
        MalformedError: the record is none, or lacks what there is a file of.
    """
    found = load(record, "memories on their way")
    match found:
        case [bytes() as callee, dict() as bits]:
            pass
        case _:
            raise MalformedError(f"memories on their way: {found!r:.80} found, a callee and widths expected")
    memories = {}
    for name, one in content.memories.items():
        width = bits.get(name)
        if not isinstance(width, int) or width not in {32, 64}:
            raise MalformedError(f"memory on its way: {name} has addresses of {width!r:.80} bits, expected 32 or 64")
        memories[name] = OwnMemory("stable", width, one.size())
    return Handed(callee, content, memories)


def whole(image: Image) -> PageDelta:
    """All that an image holds, for a memory that starts from nothing."""
    size_bytes = image.wasm_pages * WASM_PAGE_BYTES
    runs = []
    for start, end in image.data_ranges():
        stop = min(end, size_bytes)
        if start < stop:
            runs.append((start, image.read(start, stop - start)))
    return PageDelta(image.wasm_pages, runs, fresh=True)
