"""The committed state of a directory: what its checkpoint has, with the commits of the log after it.

Whoever opens the directory, commits to it or looks at its past works on this one value; it reads no log and writes no
checkpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from hashlib import sha256
from typing import final

from perdure.errors import MalformedError
from perdure.record import Format
from perdure.storage.answers import Answers
from perdure.storage.changes import CanisterChange, Entry, Origin
from perdure.storage.checkpoint import KeptCanister
from perdure.storage.durable import DurableMemory, Files
from perdure.storage.image import TemporaryImage
from perdure.storage.kept import CanisterState
from perdure.storage.layers import own_layout
from perdure.storage.merkle import ZERO_PAGE_HASH, PageTree

__all__ = ["Committed", "hash_of_state"]


def hash_of_state(canisters: bytes, subnet_record: bytes, answers: bytes) -> bytes:
    """The hash of a state: the root over its canisters, and what else it has."""
    return sha256(b"".join((b"perdure state 1", canisters, sha256(subnet_record).digest(), answers))).digest()


@final
class Committed:
    """What is committed.

    Attributes:
        files: where it lies.
        version: number of the newest commit; 0: none yet.
        subnet_record: what the rules keep about the subnet, opaque here.
        next_slot: of the next new canister's files.
        canisters: by id.
        answers: to requests.
        extensions: names of what canisters use beyond the network's rules.
    """

    def __init__(self, files: Files) -> None:
        self.files = files
        self.version = 0
        self.subnet_record = b""
        self.next_slot = 0
        self.canisters: dict[bytes, CanisterState] = {}
        self.answers = Answers(files.disk, files.directory)
        self.extensions: tuple[str, ...] = ()
        self._tree = PageTree()
        self._stale: set[bytes] = set()  # canisters whose hash the tree lacks

    # -- its hash

    def problems(self) -> Iterator[str]:
        """What is wrong with answers and pages, compared with their hashes."""
        yield from self.answers.problems()
        for canister_id, state in self.canisters.items():
            for kind, memory in state.memories.items():
                yield from (f"{canister_id.hex()} {kind}: {problem}" for problem in memory.problems())

    def state_hash(self) -> bytes:
        """The hash of all of it: the same commits give the same hash."""
        stale, self._stale = self._stale, set()
        for canister_id in stale:
            state = self.canisters[canister_id]
            self._tree.set_leaves(state.slot, state.hash(canister_id))
        return hash_of_state(self._tree.root(), self.subnet_record, self.answers.hash())

    def touch(self, canister_id: bytes) -> None:
        """Have a canister's hash made again."""
        self.canisters[canister_id].facts_hash = b""
        self._stale.add(canister_id)

    # -- canisters and their memories

    def new_memory(self, slot: int, name: str) -> DurableMemory:
        """An empty memory of a canister."""
        return DurableMemory(self.files, f"{slot}-{name}")

    def memories(self) -> Iterator[DurableMemory]:
        """All memories of all canisters."""
        for state in self.canisters.values():
            yield from state.memories.values()

    def fork_image(self, canister_id: bytes, name: str) -> TemporaryImage:
        """An image with the committed content of a memory, of which nothing is kept."""
        memory = self.canisters[canister_id].memories[name]
        memory.check_once()
        return memory.image().fork()

    def grow(self, next_slot: int) -> None:
        """Have room for canisters in slots below `next_slot`."""
        self.next_slot = max(self.next_slot, next_slot)
        self._tree.resize(self.next_slot)

    def restore(self, canister_id: bytes, kept: KeptCanister) -> None:
        """Take up a canister as a checkpoint has it, in a slot that there is room for."""
        state = CanisterState(kept.slot, kept.module_hash, kept.global_values, kept.record, kept.code)
        for name, (generation, wasm_pages, root) in kept.memories.items():
            prefix = f"{kept.slot}-{name}"
            layout = kept.layers.get(name) or own_layout(prefix, generation, wasm_pages)
            memory = state.memories[name] = DurableMemory(self.files, prefix, layout, wasm_pages, root)
            if name in kept.layers:
                self.files.images.kin.add(memory.kin)
        self.canisters[canister_id] = state
        self._tree.set_leaves(kept.slot, state.hash(canister_id))

    def state_for(self, canister_id: bytes, slot: int) -> CanisterState:
        """A canister's state, made where there is none."""
        state = self.canisters.get(canister_id)
        if state is None:
            state = self.canisters[canister_id] = CanisterState(slot)
            self.grow(slot + 1)
        return state

    def remove(self, canister_id: bytes) -> None:
        """Have a canister no more; its files go at the next checkpoint."""
        state = self.canisters.pop(canister_id)
        self._stale.discard(canister_id)
        self._tree.set_leaves(state.slot, ZERO_PAGE_HASH)
        for memory in state.memories.values():
            memory.close()

    def drop(self, state: CanisterState, names: Collection[str]) -> None:
        """Have some of a canister's memories no more."""
        for name in names:
            memory = state.memories.pop(name, None)
            if memory is not None:
                memory.close()

    def put(self, state: CanisterState, name: str, memory: DurableMemory) -> None:
        """Have a new memory, perhaps in the place of another one."""
        before = state.memories.get(name)
        if before is not None:
            before.close()
        state.memories[name] = memory

    def copies(self, entries: Mapping[bytes, Entry]) -> dict[Origin, DurableMemory]:
        """The memories that entries of a record copy, as they are before it.

        Raises:
            MalformedError: there is no such memory.
        """
        found = {}
        for entry in entries.values():
            for origin in entry.origins.values():
                state = self.canisters.get(origin.canister)
                if state is None or origin.name not in state.memories:
                    raise MalformedError(
                        f"a record copies {origin.name} of {origin.canister.hex()}, which there is not"
                    )
                found[origin] = state.memories[origin.name]
        return found

    def replay(self, canister_id: bytes, entry: Entry, copied: Mapping[Origin, DurableMemory]) -> None:
        """Take up what a record of the log says of a canister, pages apart.

        Args:
            canister_id: of the canister.
            entry: what the record says.
            copied: memories that the record copies, as they were before it.

        Raises:
            MalformedError: it cannot follow on what is here.
        """
        known = self.canisters.get(canister_id)
        if entry.gone:
            if known is None:
                raise MalformedError(f"a record deletes canister {canister_id.hex()}, which there is not")
            self.remove(canister_id)
            return
        if known is None and entry.slot < self.next_slot:
            raise MalformedError(f"a record gives slot {entry.slot} to a new canister, the next is {self.next_slot}")
        if known is not None and entry.slot != known.slot:
            raise MalformedError(f"a record gives slot {entry.slot} to a canister that has {known.slot}")
        state = self.state_for(canister_id, entry.slot)
        self.drop(state, entry.dropped)
        for name in entry.memories:
            if (origin := entry.origins.get(name)) is not None:
                memory = copied[origin].copy_for(f"{state.slot}-{name}", base_only=True)
                self.put(state, name, memory)
            elif name not in state.memories:
                state.memories[name] = self.new_memory(state.slot, name)
        state.replay(entry)
        self.touch(canister_id)

    def apply(self, canister_id: bytes, change: CanisterChange) -> None:
        """Put logged pages into a canister's images; for memories that are not mapped."""
        for name, delta in change.memories.items():
            self.canisters[canister_id].memories[name].apply(delta)

    def rewrite(self, records: Format) -> None:
        """Bring the rules' records into a format's version."""
        if self.subnet_record:
            self.subnet_record = records.rewrite(self.subnet_record)
        for canister_id, state in self.canisters.items():
            if state.record:
                state.record = records.rewrite(state.record)
                self.touch(canister_id)
