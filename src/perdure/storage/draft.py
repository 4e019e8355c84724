"""One commit before it is in the log: checked, and put into the parts of a record, before it is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import cbor2

from perdure.canister import PageDelta
from perdure.errors import InternalError
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.record import Plain
from perdure.storage.changes import (
    Answer,
    CanisterChange,
    Message,
    Origin,
    check_name,
    encode_globals,
    encode_memory,
    page_runs,
)
from perdure.storage.committed import Committed
from perdure.storage.disk import Buffer
from perdure.storage.durable import DurableMemory, page_ranges
from perdure.storage.kept import CanisterState

__all__ = ["Commit", "Draft"]

Commit = tuple[Message, Mapping[bytes, CanisterChange], bytes | None, Sequence[Answer], Sequence[bytes]]
"""What `StateDirectory.commit` is given to log, in its order."""


@final
class Draft:
    """What a commit changes, as the record will have it.

    Attributes:
        slots: of each canister's files.
        pages: the record's pages, runs of any length.
        runs: which pages change, by canister and memory.
        created: memories that did not exist before.

    Raises:
        ValueError: a delta is not whole pages within its memory, or there is nothing to delete.
    """

    __slots__ = (
        "_committed",
        "_entries",
        "_message",
        "answers",
        "changes",
        "created",
        "forgotten",
        "pages",
        "runs",
        "slots",
        "subnet_record",
    )

    def __init__(
        self,
        committed: Committed,
        message: Message,
        changes: Mapping[bytes, CanisterChange],
        subnet_record: bytes | None,
        answers: Sequence[Answer] = (),
        forgotten: Sequence[bytes] = (),
    ) -> None:
        self._committed = committed
        self._message = message
        self.changes = changes
        self.subnet_record = subnet_record
        self.answers = answers
        self.forgotten = forgotten
        self.pages: list[Buffer] = []
        self.slots: dict[bytes, int] = {}
        self.runs: dict[tuple[bytes, str], list[int]] = {}
        self.created: dict[tuple[bytes, str], DurableMemory] = {}
        self._entries: list[list[Plain]] = []
        next_slot = committed.next_slot
        states = [(canister_id, committed.canisters.get(canister_id)) for canister_id in sorted(changes)]
        has_copies = False
        for canister_id, state in states:
            self.slots[canister_id] = next_slot if state is None else state.slot
            next_slot += state is None
            has_copies |= bool(changes[canister_id].origins)
        if has_copies:
            self._copy_origins()  # a copy undoes what was prepared
        for canister_id, state in states:
            self._entries.append([canister_id, self._entry(canister_id, changes[canister_id], state)])

    def _copy_origins(self) -> None:
        """Make the memories that are copies of others, as those are before the commit."""
        for canister_id, change in self.changes.items():
            for name, origin in change.origins.items():
                check_name(name)
                state = self._committed.canisters.get(origin.canister)
                memory = None if state is None else state.memories.get(origin.name)
                if memory is None or name not in change.memories:
                    raise ValueError(f"memory {name} cannot be a copy of {origin.name} of {origin.canister.hex()}")
                self.created[canister_id, name] = memory.copy_for(f"{self.slots[canister_id]}-{name}")

    def _entry(self, canister_id: bytes, change: CanisterChange, state: CanisterState | None) -> dict[int, Plain]:
        entry: dict[int, Plain] = {1: self.slots[canister_id]}
        if change.deleted:
            if state is None:
                raise ValueError(f"no canister {canister_id.hex()} to delete")
            entry[2] = True
            return entry
        if change.module_hash is not None:
            entry[4] = change.module_hash
        if change.global_values is not None:
            entry[5] = encode_globals(change.global_values)
        if change.record is not None:
            entry[7] = change.record
        if change.code is not None:
            entry[8] = list(change.code)
        if change.memories:
            entry[9] = [[name, self._memory(canister_id, name, change, state)] for name in sorted(change.memories)]
        if change.dropped:
            entry[10] = sorted(change.dropped)
        if change.origins:
            entry[11] = [[name, list(change.origins[name])] for name in sorted(change.origins)]
        return entry

    def _memory(
        self, canister_id: bytes, name: str, change: CanisterChange, state: CanisterState | None
    ) -> list[Plain]:
        delta = change.memories[name]
        memory = self.created.get((canister_id, name))
        if memory is None and state is not None and name not in change.dropped:
            memory = state.memories.get(name)
        if memory is None:
            check_name(name)
            memory = self._committed.new_memory(self.slots[canister_id], name)
            self.created[canister_id, name] = memory
        elif memory.unapplied:
            raise InternalError("the pages of the commit before are not in the image yet")
        memory.prepare(delta)
        self.pages += [data for _, data in delta.runs]
        runs = self.runs[canister_id, name] = page_runs(delta)
        return [delta.wasm_pages, delta.fresh, runs]

    @property
    def page_count(self) -> int:
        """How many pages the record has."""
        return sum(map(len, self.pages)) // PAGE_BYTES

    def meta(self, *, with_before: bool) -> bytes:
        """The record's meta part; with what the commit replaces, whose pages follow the others, if history is kept."""
        meta: dict[int, Plain] = {1: list(self._message)}
        if self.subnet_record is not None:
            meta[2] = self.subnet_record
        if self._entries:
            meta[3] = self._entries
        if self.answers:
            meta[4] = list(self.answers)
        if self.forgotten:
            meta[5] = list(self.forgotten)
        if with_before:
            meta[6] = self._before()
        return cbor2.dumps(meta)

    def account(self) -> None:
        """Make it what is committed, its pages apart; the record is in the log, or nothing else will be."""
        committed = self._committed
        for canister_id in sorted(self.changes):
            change = self.changes[canister_id]
            if change.deleted:
                committed.remove(canister_id)
                continue
            state = committed.state_for(canister_id, self.slots[canister_id])
            state.take(change)
            if change.dropped:
                committed.drop(state, change.dropped)
            for name, delta in change.memories.items():
                memory = self.created.get((canister_id, name))
                if memory is not None:
                    committed.put(state, name, memory)
                else:
                    memory = state.memories[name]
                memory.log(delta, self.runs[canister_id, name])
            committed.touch(canister_id)
        if self.subnet_record is not None:
            committed.subnet_record = self.subnet_record
        if self.answers or self.forgotten:
            committed.answers.take(self.forgotten, self.answers)

    def _before(self) -> dict[int, Plain]:
        before: dict[int, Plain] = {}
        if self.subnet_record is not None:
            before[2] = self._committed.subnet_record
        if self._entries:
            before[3] = [[canister_id, self._entry_before(canister_id)] for canister_id, _ in self._entries]
        kept = self._committed.answers.kept
        touched = dict.fromkeys((*self.forgotten, *(answer[0] for answer in self.answers)))
        if touched:
            before[4] = [kept[request_id] for request_id in touched if request_id in kept]
            before[5] = [request_id for request_id in touched if request_id not in kept]
        return before

    def _entry_before(self, canister_id: bytes) -> dict[int, Plain]:
        state, change = self._committed.canisters.get(canister_id), self.changes[canister_id]
        if state is None:
            return {1: self.slots[canister_id], 3: True}
        before: dict[int, Plain] = {1: state.slot, 4: state.module_hash, 7: state.record, 8: list(state.code)}
        if state.global_values is None:
            before[6] = True
        else:
            before[5] = encode_globals(state.global_values)
        gone = set(state.memories) if change.deleted else change.dropped & state.memories.keys()
        memories: list[list[Plain]] = []
        origins: list[list[Plain]] = []
        for name in sorted(gone | change.memories.keys()):
            memory = state.memories.get(name)
            if memory is None:
                memories.append([name, None])
                continue
            is_new = name in gone or name in change.origins
            old, origin = self._content_before(
                Origin(canister_id, name), memory, PageDelta(0, (), fresh=True) if is_new else change.memories[name]
            )
            memories.append([name, encode_memory(old)])
            if origin is not None:
                origins.append([name, list(origin)])
            self.pages += [data for _, data in old.runs]
        before[9] = memories
        if origins:
            before[11] = origins
        return before

    def _content_before(
        self, place: Origin, memory: DurableMemory, delta: PageDelta
    ) -> tuple[PageDelta, Origin | None]:
        """What `delta` will replace, as a delta that puts it back; on what is a copy of it then, if anything is."""
        image = memory.image()
        end = memory.wasm_pages * WASM_PAGE_BYTES
        origin = None
        if not delta.fresh:
            ranges = [(address, min(address + len(data), end)) for address, data in delta.runs if address < end]
        elif (found := self._copy_after(place, memory)) is not None:
            origin, pages = found
            ranges = list(page_ranges(pages))
        else:
            ranges = list(image.data_ranges())
        runs = [(start, image.read(start, stop - start)) for start, stop in ranges]
        return PageDelta(memory.wasm_pages, runs, delta.fresh and origin is None), origin

    def _copy_after(self, place: Origin, memory: DurableMemory) -> tuple[Origin, set[int]] | None:
        """A memory that is most of this one after the commit, and the pages that it does not have as this one has."""
        change = self.changes[place.canister]
        if (origin := change.origins.get(place.name)) is not None:  # what comes in its place stays what it is
            return self._compared(origin, memory) if origin not in self._touched() else None
        if place.name in change.memories or not memory.has_copies:
            return None
        for canister_id, other in self.changes.items():
            for name, found in other.origins.items():
                if found == place and other.memories[name].wasm_pages == memory.wasm_pages:
                    return Origin(canister_id, name), {
                        page
                        for first, pages in zip(*[iter(self.runs[canister_id, name])] * 2, strict=True)
                        for page in range(first, first + pages)
                    }
        touched = self._touched()
        for canister_id, state in self._committed.canisters.items():
            for name, one in state.memories.items():
                candidate = Origin(canister_id, name)
                if one is not memory and one.kin == memory.kin and candidate not in touched:
                    return self._compared(candidate, memory)
        return None

    def _touched(self) -> set[Origin]:
        """Memories that are others after the commit."""
        touched = {Origin(key, name) for key, change in self.changes.items() for name in change.memories}
        for key, change in self.changes.items():
            gone = self._committed.canisters[key].memories if change.deleted else change.dropped
            touched |= {Origin(key, name) for name in gone}
        return touched

    def _compared(self, origin: Origin, memory: DurableMemory) -> tuple[Origin, set[int]] | None:
        pages = memory.changed_since(self._committed.canisters[origin.canister].memories[origin.name])
        return None if pages is None else (origin, set(pages))
