"""One commit before it is in the log: checked, and put into the parts of a record. Nothing is accounted for yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import cbor2

from perdure.canister import PageDelta
from perdure.errors import InternalError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage.changes import MEMORIES, CanisterChange, Message, encode_globals, encode_memory
from perdure.storage.disk import Buffer
from perdure.storage.durable import DurableMemory
from perdure.storage.runs import check_delta

if TYPE_CHECKING:
    from perdure.storage.directory import CanisterState, StateDirectory

__all__ = ["Draft"]


@final
class Draft:
    """What a commit changes, as the record will have it.

    Attributes:
        entries: the record's "canisters".
        pages: the record's pages, runs of any length.

    Raises:
        ValueError: a delta is not whole pages within its memory, or there is nothing to delete.
    """

    __slots__ = ("_directory", "_message", "changes", "entries", "pages", "subnet_record")

    def __init__(
        self,
        directory: StateDirectory,
        message: Message,
        changes: Mapping[bytes, CanisterChange],
        subnet_record: bytes | None,
    ) -> None:
        self._directory = directory
        self._message = message
        self.changes = changes
        self.subnet_record = subnet_record
        self.pages: list[Buffer] = []
        self.entries: dict[bytes, dict[str, Any]] = {}
        next_slot = directory.next_slot
        for canister_id, change in changes.items():
            state = directory.canisters.get(canister_id)
            self.entries[canister_id] = self._entry(canister_id, change, state, next_slot)
            next_slot += state is None

    def _entry(
        self, canister_id: bytes, change: CanisterChange, state: CanisterState | None, next_slot: int
    ) -> dict[str, Any]:
        entry: dict[str, Any] = {"slot": next_slot if state is None else state.slot}
        if change.deleted:
            if state is None:
                raise ValueError(f"no canister {canister_id.hex()} to delete")
            entry["gone"] = True
            return entry
        if change.module_hash is not None:
            entry["module"] = change.module_hash
        if change.global_values is not None:
            entry["globals"] = encode_globals(change.global_values)
        if change.record is not None:
            entry["record"] = change.record
        for name, delta in change.memories():
            self._check(delta, state.memories[name] if state is not None else None)
            entry[name] = encode_memory(delta)
            self.pages += [data for _, data in delta.runs]
        return entry

    @staticmethod
    def _check(delta: PageDelta, memory: DurableMemory | None) -> None:
        if memory is not None and memory.unapplied:
            raise InternalError("the pages of the commit before are not in the image yet")
        check_delta(delta, memory.wasm_pages if memory is not None else 0)

    @property
    def page_count(self) -> int:
        """How many pages the record has."""
        return sum(map(len, self.pages)) // PAGE_BYTES

    def meta(self, *, with_before: bool) -> bytes:
        """The record's meta part; with what the commit replaces, whose pages follow the others, if history is kept."""
        meta: dict[str, Any] = {"message": list(self._message), "canisters": self.entries}
        if self.subnet_record is not None:
            meta["subnet"] = self.subnet_record
        if with_before:
            subnet_before = self._directory.subnet_record if self.subnet_record is not None else None
            before = {canister_id: self._before(canister_id, change) for canister_id, change in self.changes.items()}
            meta["before"] = {"canisters": before, "subnet": subnet_before}
        return cbor2.dumps(meta)

    def _before(self, canister_id: bytes, change: CanisterChange) -> dict[str, Any]:
        state = self._directory.canisters.get(canister_id)
        if state is None:
            return {"slot": -1, "new": True}
        before: dict[str, Any] = {"slot": state.slot, "module": state.module_hash, "record": state.record}
        before["globals"] = encode_globals(state.global_values)
        whole = {name: PageDelta(0, (), fresh=True) for name in MEMORIES} if change.deleted else {}
        for name, delta in (whole or dict(change.memories())).items():
            old = _content_before(state.memories[name], delta)
            before[name] = encode_memory(old)
            self.pages += [data for _, data in old.runs]
        return before


def _content_before(memory: DurableMemory, delta: PageDelta) -> PageDelta:
    """What `delta` will replace, as a delta that puts it back."""
    image = memory.image()
    end = memory.wasm_pages * WASM_PAGE_BYTES
    if delta.fresh:
        ranges = list(image.data_ranges())
    else:
        ranges = [(address, min(address + len(data), end)) for address, data in delta.runs if address < end]
    runs = [(start, image.read(start, stop - start)) for start, stop in ranges]
    return PageDelta(memory.wasm_pages, runs, delta.fresh)
