"""Memories of canisters and snapshots as people see them: read at any time, written between messages."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, Protocol, final

from perdure.canister import Image, Lifetime, MemoryKind, PageDelta, Return
from perdure.errors import NoMemoryError
from perdure.execution.execute import growth_limits
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, Memory, check_range
from perdure.storage import Origin
from perdure.subnet.doors import door
from perdure.subnet.gate import Gate, alone, at_rest
from perdure.subnet.residency import ResidentInstance
from perdure.units import meant

__all__ = ["ImageMemory", "LiveMemory", "MemoriesByName", "MemoryState", "StoredContent", "as_they_stand"]

MemoryState = Literal["used", "deprecated", "unused"]
"""What a canister's code does with a memory."""


def _whole_pages(memory: Memory, address: int, data: bytes | memoryview) -> tuple[int, bytes]:
    """`data` with what stands around it, as a run of whole pages."""
    check_range(address, len(data), memory.size() * WASM_PAGE_BYTES)
    before = address % PAGE_BYTES
    after = -(address + len(data)) % PAGE_BYTES
    start, end = address - before, address + len(data)
    return start, memory.read(start, before) + bytes(data) + memory.read(end, after)


@final
class ImageMemory:
    """An image as a memory; every write is a commit of its own. For snapshots, which nobody runs."""

    def __init__(self, image: Image) -> None:
        self.image = image

    def size(self) -> int:
        """Size in Wasm pages."""
        return self.image.wasm_pages

    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages; the old size."""
        old_wasm_pages = self.size()
        if wasm_pages:
            self.image.commit(PageDelta(old_wasm_pages + wasm_pages, []))
        return old_wasm_pages

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        check_range(address, size_bytes, self.size() * WASM_PAGE_BYTES)
        return self.image.read(address, size_bytes)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`."""
        if len(data):
            self.image.commit(PageDelta(self.size(), [_whole_pages(self, address, data)]))


@final
class StoredContent:
    """The memories of a snapshot; implements `SnapshotContent`.

    Args:
        images: of the memories.
        origins: of what a state directory has they are copies, but for the pages that `changed` has.
        changed: changes by the message that is about to be committed.
    """

    def __init__(
        self,
        images: Mapping[str, Image],
        origins: Mapping[str, Origin] = MappingProxyType({}),
        changed: Mapping[str, PageDelta] = MappingProxyType({}),
    ) -> None:
        self.memories = {name: ImageMemory(image) for name, image in images.items()}
        self.origins = origins
        self._changed = changed

    def change_of(self, name: str) -> PageDelta:
        """What one of them has that its origin has not."""
        image = self.memories[name].image
        changed = self._changed.get(name)
        runs = () if changed is None else tuple((at, image.read(at, len(data))) for at, data in changed.runs)
        return PageDelta(image.wasm_pages, runs)

    def is_kept_as(self, key: bytes) -> None:
        """Say that a state directory has it itself from now on."""
        self.origins = {name: Origin(key, name) for name in self.memories}
        self._changed = {}

    def fork(self) -> dict[str, Image]:
        """The same content, for a canister to go on from."""
        return {name: memory.image.fork() for name, memory in self.memories.items()}


def as_they_stand(memories: Mapping[str, Memory]) -> Return:
    """What an entry would have come to that did what somebody outside has done to these memories."""
    sizes = {name: memory.size() for name, memory in memories.items()}
    result = Return(heap_wasm_pages=sizes.pop("heap"), stable_wasm_pages=sizes.pop("stable"))
    result.own_wasm_pages = sizes
    return result


class HasWorld(Protocol):
    """A subnet, as memories know it."""

    @property
    def _world(self) -> World: ...


class MemoryOwner(Protocol):
    """A canister, as its memories know it."""

    @property
    def _raw_id(self) -> bytes: ...

    @property
    def _gate(self) -> Gate: ...

    @property
    def _instance(self) -> ResidentInstance: ...

    def _recover(self) -> None: ...

    def _write(self, name: str, delta: PageDelta) -> None: ...

    @property
    def _state(self) -> CanisterState: ...

    def _drop_memory(self, name: str) -> None: ...

    @property
    def _subnet(self) -> HasWorld: ...


@final
class LiveMemory:
    """A memory of a canister. A write is committed at once, as if by a message.

    Args:
        instance: the canister's.
        owner: the canister.
        name: of the memory.
    """

    def __init__(self, instance: ResidentInstance, owner: MemoryOwner, name: str) -> None:
        self._instance = instance
        self._owner = owner
        self._raw_id = owner._raw_id
        self._name = name
        self._gate = owner._gate

    def _recover(self) -> None:
        self._owner._recover()

    @property
    def kind(self) -> MemoryKind:
        """Name, lifetime, width of addresses."""
        return self._known()[0]

    @property
    def lifetime(self) -> Lifetime:
        """How long what is in it stays; see `perdure.image.Lifetime`."""
        return self.kind.lifetime

    @property
    def state(self) -> MemoryState:
        """``used`` by the canister's code, ``deprecated`` (only read by it), or ``unused``: kept, and charged for."""
        return self._known()[1]

    def _known(self) -> tuple[MemoryKind, MemoryState]:
        state, name = self._owner._state, self._name
        named = state.module.memories.get(name) if state.module is not None else None
        if named is not None:
            return named, "deprecated" if named.is_read_only else "used"
        known = state.own_memories.get(name)
        if known is None:
            raise NoMemoryError(f"no memory {name!r} any more")
        return MemoryKind(name, known.lifetime, known.address_bits), "unused"

    def drop(self) -> None:
        """Take it away, and all that is in it, for good but for the history: one commit.

        Raises:
            ValueError: the canister's code has it.
        """
        self._owner._drop_memory(self._name)

    @property
    def tables(self) -> Mapping[str, Any]:
        """What can be read in it, by name: structures, tables of SQLite databases, Motoko's stable variables.

        Each iterates (dicts by column) and has ``to_arrow()``, ``to_pandas()``, ``to_polars()``. What they show is the
        memory as it stands: ask anew after a call.
        """
        found: Mapping[str, Any] = door("LiveMemory.tables")(self)
        return found

    def __repr__(self) -> str:
        what = f"{self._name} memory of {Principal(self._raw_id)}"
        try:
            return f"<{what}: {self.size():,} Wasm pages>" if self.is_current else f"<{what}, as it once was>"
        except (ValueError, KeyError):
            return f"<{what}, which is gone>"

    @property
    def is_current(self) -> bool:
        """Whether the canister still has it: not after an upgrade, a loaded snapshot, begin or end of an anchor."""
        return self._owner._instance is self._instance

    @property
    def _memory(self) -> Memory:
        instance = self._instance
        instance.make_room()
        if instance.is_dirty:
            instance.roll_back()
        return instance.memories[self._name]

    @at_rest
    def size(self) -> int:
        """Size in Wasm pages."""
        return self._memory.size()

    @at_rest
    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        return self._memory.read(address, size_bytes)

    @at_rest
    def read_counted(self, address: int, size_bytes: int) -> tuple[int, bytes]:
        """How many commits have changed it since this instance has it, and a copy of bytes, of one state."""
        return self._instance.change_counts.get(self._name, 0), self._memory.read(address, size_bytes)

    @at_rest
    def view(self, address: int, size_bytes: int) -> memoryview:
        """The bytes themselves, read-only, valid until the next message."""
        memory = self._memory
        view = getattr(memory, "view", None)
        return memoryview(memory.read(address, size_bytes)) if view is None else view(address, size_bytes).toreadonly()

    @alone
    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages; the old size in Wasm pages.

        -1 where that is more than there may be, and nothing has changed: its code says how large it may become, as an
        address does, and the canister has to be able to pay for it.

        Raises:
            ValueError: a negative number.
        """
        if wasm_pages < 0:
            raise ValueError(f"a memory cannot grow by {wasm_pages} Wasm pages")
        old_wasm_pages = self.size()
        if wasm_pages > min(self.kind.most_wasm_pages - old_wasm_pages, self._room_wasm_pages()):
            return -1 if wasm_pages else old_wasm_pages
        if wasm_pages:
            self._commit(PageDelta(old_wasm_pages + wasm_pages, []))
        return old_wasm_pages

    def _room_wasm_pages(self) -> int:
        """By how much it may grow, as an update could have it."""
        state = self._owner._state
        limits = growth_limits(self._owner._subnet._world, state, "update", state.liquid_cycles)
        if self._name == "heap":
            return limits.heap_wasm_pages - state.heap_wasm_pages
        return limits.stable_trap_wasm_pages - state.stable_wasm_pages

    @alone
    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`, committed at once."""
        if len(data):
            self._commit(PageDelta(self.size(), [_whole_pages(self, address, data)]))

    def _commit(self, delta: PageDelta) -> None:
        self._owner._write(self._name, delta)


@final
class MemoriesByName(dict[str, LiveMemory]):
    """The memories of a canister; of another name, an error says which was meant."""

    def __missing__(self, name: str) -> LiveMemory:
        raise NoMemoryError(f"no memory {name!r:.80}: {meant(str(name), self)}").coded("no-memory")
