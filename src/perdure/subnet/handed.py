"""Memories on their way with a call, as a state directory has them: like a canister of its own, without code."""

from __future__ import annotations

from typing import Final

import cbor2

from perdure.canister import Image, PageDelta
from perdure.errors import InternalError, MalformedError
from perdure.execution.journal import Journal
from perdure.execution.state import Handed, OwnMemory, SnapshotContent
from perdure.memory import WASM_PAGE_BYTES
from perdure.record import load
from perdure.storage import CanisterChange
from perdure.subnet.memories import StoredContent

__all__ = ["HANDED", "copied", "given", "handed_change", "read_handed", "whole"]

HANDED: Final = b"handed "
"""The prefix that they are kept under; then come the caller's id and the number of its call."""


def given(journal: Journal, canister_id: bytes) -> CanisterChange:
    """What a canister gets with a transaction, in the place of empty memories."""
    content = journal.given.get(canister_id)
    return CanisterChange() if content is None else copied(content)


def copied(content: SnapshotContent) -> CanisterChange:
    """Memories with the content of others: of what the directory has already, or of bytes."""
    if not isinstance(content, StoredContent):
        raise InternalError(f"memories of another host: {type(content).__name__}")
    if content.origins.keys() == content.memories.keys():
        changes = {name: content.change_of(name) for name in content.memories}
        return CanisterChange(changes, origins=dict(content.origins))
    return CanisterChange({name: whole(memory.image) for name, memory in content.memories.items()})


def handed_change(handed: Handed) -> CanisterChange:
    """Memories on their way, and in the record who gets them, and how wide they are."""
    bits = {name: one.address_bits for name, one in sorted(handed.memories.items())}
    change = copied(handed.content)
    change.record = cbor2.dumps([handed.callee, bits])
    return change


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
