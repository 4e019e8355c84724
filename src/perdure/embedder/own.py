"""The memories of one instance: those that the engine has, those beside them, and what is known of each.

A module has heap and stable memory, and with an extension others of its own. Code writes them by plain instructions, so
their changed pages are found as the heap's are; which of them an entry may have written is noted by the code itself
(`perdure.instrument.own`), and the others are not looked at.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import final

from perdure.canister import Env, Image, PageDelta, Return, StateDelta
from perdure.embedder.code import Code, page_scans
from perdure.embedder.heap_charges import FREE_OF_HEAP, charge_for_own, pages_of
from perdure.embedder.memory import ImageMemory

__all__ = ["InstanceMemories", "Pages", "handed_over"]

Pages = dict[str, dict[int, bytes]]
"""Pages of memories, by name and address."""


@final
class InstanceMemories:
    """All memories of an instance.

    Args:
        module: the code.
        memories: by name, those that its module has among them.
    """

    def __init__(self, module: Code, memories: dict[str, ImageMemory]) -> None:
        facts = module.facts
        self._facts = facts
        self.by_name = memories
        self.in_engine = [memories[name] for name in facts.engine_memories]
        """In the order of their indices."""
        self.beside = [memory for name, memory in memories.items() if name not in facts.engine_memories]
        self.noted = {name: memories[name] for name in facts.noted_memories}
        """Those of which code says whether it wrote them, in the order of bits."""
        self._scratch = {name: memories[name] for name, kind in module.memories.items() if kind.lifetime == "message"}
        self.kept = [(name, memory) for name, memory in memories.items() if name not in self._scratch]
        """Those that are part of the state."""
        self.written_by_code = [(name, memory) for name, memory in self.kept if name == "heap" or name in self.noted]
        """Those whose pages the kernel has no lists of."""
        self._sized = [name for name, _ in self.kept if name not in {"heap", "stable"}]
        self.has_more = bool(self.noted or self.beside)
        """Whether there are any but heap and stable memory."""

    # --- what is uncommitted

    def nothing_uncommitted(self) -> None:
        """All is as committed: what nobody writes or grows from here on has no changes, without a look at it."""
        for memory in (*self.noted.values(), *self.beside):
            memory.is_untouched = True

    def all_touched(self) -> None:
        """An entry trapped, and told nothing."""
        for memory in self.noted.values():
            memory.is_untouched = False

    @property
    def is_resized(self) -> bool:
        """Whether one that the engine has was grown without it."""
        return True in [memory.resized for memory in self.in_engine]  # asked in each message: no generator

    @property
    def is_written(self) -> bool:
        """Whether the host has written or grown one of the canister's own, or one beside."""
        for memory in self.noted.values():
            if memory.written or memory.resized:
                return True
        return bool(self.beside) and any(memory.changes() is not None for memory in self.beside)

    def attached(self) -> None:
        """The engine has taken all of them as they are."""
        for memory in self.in_engine:
            memory.resized = False

    def sizes(self) -> list[int]:
        """Bytes of those that the engine has."""
        return [memory.size_bytes for memory in self.in_engine]

    def copied(self, delta: StateDelta) -> StateDelta:
        """Changes that outlive what they are changes of."""
        copies = {name: [(at, bytes(data)) for at, data in one.runs] for name, one in delta.memories.items()}
        return delta._replace(memories={name: one._replace(runs=copies[name]) for name, one in delta.memories.items()})

    def apply(self, delta: StateDelta) -> None:
        """Write changes, uncommitted."""
        memories = self.opened()
        for name, changed in delta.memories.items():
            memory = memories[name]
            if changed.wasm_pages > memory.size():
                memory.grow(changed.wasm_pages - memory.size())
            for address, data in changed.runs:
                memory.write(address, data)

    # --- around an entry

    def pages_before(self, heap: PageDelta | None) -> Pages:
        """The pages that an entry before the next one has changed and nobody committed: they are not that one's.

        Args:
            heap: what differs of the heap.
        """
        found = {} if heap is None else {"heap": dict(pages_of(heap))}
        for name, memory in self.noted.items():
            if name in self._scratch:
                continue
            delta = memory.changes()
            if delta is not None:
                found[name] = dict(pages_of(delta))
        return found

    def returned(
        self, result: Return, env: Env, before: Pages | None, noted: int, page_charges: tuple[int, int] | None
    ) -> bool:
        """After an entry: what it wrote is charged, sizes are told, what lives no longer than it is cleared.

        Args:
            result: of the entry.
            env: of the entry.
            before: see `pages_before`.
            noted: a bit for each memory that it may have written.
            page_charges: for a page that is first accessed and for one first written, where the schedule has them.

        Returns:
            Whether a memory became smaller, so that the engine's instance has to be made anew.
        """
        for bit, memory in enumerate(self.noted.values()):
            if noted >> bit & 1:
                memory.is_untouched = False
        for name, memory in self.noted.items():
            if name in self._scratch:
                continue
            delta = memory.changes()
            if delta is not None and self._facts.metered and not env.context.bit & FREE_OF_HEAP:
                charge_for_own(result, env, name, delta, before.get(name) if before else None, page_charges)
        result.own_wasm_pages = {name: self.by_name[name].wasm_pages for name in self._sized}
        if not self._scratch:
            return False
        touched = [memory for memory in self._scratch.values() if not memory.is_initial]
        return self.clear(touched) if touched else False

    def clear(self, memories: Collection[ImageMemory] | None = None) -> bool:
        """Let those that live no longer than an entry be as the module declares them; whether one became smaller."""
        smaller = False
        for name, memory in self._scratch.items():
            if memory.range is not None and (memories is None or memory in memories):
                smaller |= memory.reset()
                self.put_data([name])
        return smaller

    def put_data(self, names: Collection[str]) -> None:
        """Write the data segments of these memories, which begin with them."""
        for name, address, data in self._facts.data_segments:
            if name in names:
                self.by_name[name].bytes[address : address + len(data)] = data

    def opened(self) -> Mapping[str, ImageMemory]:
        """All of them, to be read."""
        for memory in self.beside:
            memory.open()
        return self.by_name


def handed_over(
    memories: Mapping[str, ImageMemory], code: Code, keep: Collection[str], added: Mapping[str, Image]
) -> dict[str, ImageMemory]:
    """The memories of a successor: those of before that it keeps, the others empty, and some that are new.

    Args:
        memories: of the predecessor.
        code: of the successor.
        keep: names of those that go on as they are.
        added: images for those that the predecessor does not have.
    """
    scans = page_scans(code)
    found = dict(memories)
    for name, memory in memories.items():
        if name not in keep:
            found[name] = ImageMemory(memory.image, scans.get(name), fresh=True)
        elif memory.private_pages is None:
            memory.private_pages = scans.get(name)
    return found | {name: ImageMemory(image, scans.get(name), fresh=True) for name, image in added.items()}
