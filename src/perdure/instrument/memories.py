"""Which memories a module has, what each of them is, and which rule says so.

The Internet Computer gives a module one memory, its heap. The extensions ``memories...`` let it have more, by one of
three policies, those that were thought of when stable memory became a Wasm memory:

- *index* (``memories=index``): memory 0 is the heap, memory 1 is stable memory; ``ic0.stable*`` may not be imported.
- *imported by name* (``memories``): a memory imported from `LIFETIMES` lives as long as that module says, and its
  name is what it is called everywhere; the one memory beside them is the heap.
- *declared* (``memories=declared``): memory 0 is the heap, those that the module declares behind it are more heap.

Linking appends: a heap that a module lacks, stable memory, and the kernel's come behind all of the module's own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, NoReturn

from perdure.errors import InvalidModuleError
from perdure.ic import ic0_ext
from perdure.image import MAX_OWN_MEMORIES, MEMORY_KINDS, MEMORY_NAME, Lifetime, MemoryKind
from perdure.instrument.terms import MAX_STABLE_WASM_PAGES
from perdure.memory import WASM_PAGE_BYTES
from perdure.wasm import (
    OPCODES,
    ExternKind,
    Immediate,
    Instruction,
    Limits,
    MemArg,
    MemoryType,
    Module,
    instructions,
    locals_end,
)
from perdure.wasm.tokens import leb_forms

__all__ = [
    "LIFETIMES",
    "MAX_MEMORIES",
    "NAMED_POLICY",
    "MemoryPlan",
    "OwnMemory",
    "has_own_memories",
    "is_heap_64",
    "plan_memories",
    "writes",
    "written_memories",
]

MAX_MEMORIES: Final = MAX_OWN_MEMORIES
"""Memories of one module beside heap and stable memory; a word of the header has a bit for each."""

LIFETIMES: Final[dict[str, tuple[Lifetime, bool]]] = {
    "stable": ("stable", False),
    "deprecated": ("stable", True),
    "upgrade": ("upgrade", False),
    "message": ("message", False),
}
"""What a memory is imported from, and what that says: its lifetime, and whether it is only read."""

MAX_HEAP_WASM_PAGES_32 = 65_536
MAX_HEAP_WASM_PAGES_64 = (6 << 30) // WASM_PAGE_BYTES

NAMED_POLICY: Final = "memories"
_POLICIES: Final = {NAMED_POLICY: "imported by name", "memories=index": "index", "memories=declared": "declared"}


class OwnMemory(NamedTuple):
    """A memory of a module's own: where it is, what it is, and how large it may become."""

    number: int
    """Its index."""
    kind: MemoryKind
    limits: Limits
    """As declared, the maximum within what there is for its kind."""


class MemoryPlan(NamedTuple):
    """The memories of a linked module. `types` are the module's own by index, the heap that it lacks included."""

    policy: str
    """Its name for people; empty where the network's rule holds."""
    types: tuple[MemoryType, ...]
    heap: int
    stable: int
    own: tuple[OwnMemory, ...]

    @property
    def has_native_stable(self) -> bool:
        """Whether memory 1 of the module itself is stable memory."""
        return self.stable < len(self.types)

    @property
    def accounting(self) -> int:
        """Index of the accounting memory."""
        return max(self.stable, len(self.types) - 1) + 1

    @property
    def message(self) -> int:
        """Index of the message memory."""
        return self.accounting + 1

    @property
    def names(self) -> tuple[str, ...]:
        """Of the canister's memories by index; what lies behind them is the kernel's."""
        names = {self.heap: "heap", self.stable: "stable", **{one.number: one.kind.name for one in self.own}}
        return tuple(names[index] for index in range(len(names)))

    @property
    def noted(self) -> tuple[str, ...]:
        """Names of the memories of which it is noted whether an entry may have written them, in the order of bits."""
        return (*(one.kind.name for one in self.own), *(["stable"] if self.has_native_stable else []))

    @property
    def is_64(self) -> bool:
        """Whether the heap has 64-bit addresses."""
        return self.types[self.heap].is_64

    def is_wide(self, index: int) -> bool:
        """Whether a memory has 64-bit addresses; stable memory has."""
        return self.types[index].is_64 if index < len(self.types) else True


def plan_memories(
    module: Module, extensions: Collection[str] = (), named: Mapping[int, tuple[str, str]] | None = None
) -> MemoryPlan:
    """What the memories of a module are, by the one policy among the extensions.

    Args:
        module: as uploaded, or with memories that were appended to it.
        extensions: what it may use.
        named: where each memory that was appended would be imported from, and its name, by index.

    Raises:
        InvalidModuleError: they are not what the policy allows; it is named.
    """
    chosen = [name for name in _POLICIES if name in extensions]
    if not chosen:
        return _networks(module)
    policy = _POLICIES[chosen[0]]
    places = _places(module, named or {})
    match policy:
        case "index":
            return _by_index(module, policy, places)
        case "declared":
            return _declared(policy, places)
        case _:
            return _imported(policy, places)


def has_own_memories(extensions: Collection[str]) -> bool:
    """Whether a module may have more memories than the network lets it have."""
    return not _POLICIES.keys().isdisjoint(extensions)


def is_heap_64(module: Module, extensions: Collection[str]) -> bool:
    """Whether the heap of a module has 64-bit addresses; see `plan_memories`."""
    return plan_memories(module, extensions).is_64 if has_own_memories(extensions) else module.is_64


class _Place(NamedTuple):
    """A memory as a module has it: where it comes from, if it does, and its type."""

    number: int
    source: tuple[str, str] | None
    type: MemoryType


def _places(module: Module, named: Mapping[int, tuple[str, str]]) -> list[_Place]:
    imported = [(item.module, item.name) for item in module.imported(ExternKind.MEMORY)]
    sources = [*imported, *(named.get(len(imported) + place) for place in range(len(module.memories)))]
    return [_Place(index, *pair) for index, pair in enumerate(zip(sources, module.all_memories, strict=True))]


def _refuse(policy: str, message: str) -> NoReturn:
    raise InvalidModuleError(f"Wasm module has memories that the policy {policy!r} does not allow: {message}")


def _networks(module: Module) -> MemoryPlan:
    memories = module.all_memories
    if len(memories) > 1:
        raise InvalidModuleError(
            "Wasmtime failed to validate wasm module wasmtime::Module::validate() failed with "
            f"multiple memories: found {len(memories)}, expected at most 1; more than one: "
            f"{ic0_ext.how_to_allow('memories')}"
        )
    return _with_heap("", memories, 0, ())


def _with_heap(policy: str, types: Sequence[MemoryType], heap: int | None, own: Sequence[OwnMemory]) -> MemoryPlan:
    """A plan in which stable memory is appended, and before it the heap where there is none."""
    index = len(types) if heap is None or heap >= len(types) else heap
    every = [*types] if index < len(types) else [*types, MemoryType(Limits(0, 0))]
    every[index] = MemoryType(_capped(every[index].limits, "heap"))
    for one in own:
        every[one.number] = MemoryType(one.limits)
    return MemoryPlan(policy, tuple(every), index, len(every), tuple(own))


def _by_index(module: Module, policy: str, places: Sequence[_Place]) -> MemoryPlan:
    for place in places:
        if place.source is not None and place.source[0] != "env":
            _refuse(policy, f"memory {place.number} is imported from {'.'.join(place.source)}")
    if len(places) > 2:
        _refuse(policy, f"it has {len(places)}: memory 0 is the heap, memory 1 is stable memory")
    if len(places) < 2:
        return _with_heap(policy, module.all_memories, 0, ())
    if not places[1].type.is_64:
        _refuse(policy, "memory 1 is stable memory, and has 32-bit addresses instead of 64")
    both = sorted(
        item.name
        for item in module.imported(ExternKind.FUNCTION)
        if item.module == "ic0" and item.name.startswith("stable")
    )
    if both:
        _refuse(policy, f"memory 1 is stable memory, so ic0.{both[0]} may not be imported beside it")
    types = (
        MemoryType(_capped(places[0].type.limits, "heap")),
        MemoryType(_capped(places[1].type.limits, "stable")),
    )
    return MemoryPlan(policy, types, 0, 1, ())


def _declared(policy: str, places: Sequence[_Place]) -> MemoryPlan:
    for place in places:
        if place.source is not None and (place.number or place.source[0] != "env"):
            _refuse(policy, f"memory {place.number} is imported from {'.'.join(place.source)}")
    own = [
        OwnMemory(
            place.number,
            MemoryKind(f"memory{place.number}", "heap", _bits(place.type)),
            _capped(place.type.limits, "heap"),
        )
        for place in places[1:]
    ]
    _check_count(policy, own)
    return _with_heap(policy, [place.type for place in places], 0, own)


def _imported(policy: str, places: Sequence[_Place]) -> MemoryPlan:
    heaps = [place for place in places if place.source is None or place.source[0] == "env"]
    if len(heaps) > 1:
        _refuse(policy, f"memory {heaps[1].number} is a second heap; another memory is imported from {_SOURCES}")
    own = []
    for place in places:
        if place.source is None or place in heaps:
            continue
        source, name = place.source
        if source not in LIFETIMES:
            _refuse(policy, f"memory {name!r} is imported from {source!r} instead of {_SOURCES}")
        lifetime, is_read_only = LIFETIMES[source]
        kind = MemoryKind(name, lifetime, _bits(place.type), is_read_only=is_read_only)
        own.append(OwnMemory(place.number, kind, _capped(place.type.limits, lifetime)))
    _check_names(policy, [one.kind.name for one in own])
    _check_count(policy, own)
    heap = heaps[0].number if heaps else None
    return _with_heap(policy, [place.type for place in places], heap, own)


_SOURCES = ", ".join(map(repr, LIFETIMES))


def _check_count(policy: str, own: Sequence[OwnMemory]) -> None:
    if len(own) > MAX_MEMORIES:
        _refuse(policy, f"{own[MAX_MEMORIES].kind.name!r} is one of {len(own)} beside the heap, at most {MAX_MEMORIES}")


def _check_names(policy: str, names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        if name in MEMORY_KINDS:
            _refuse(policy, f"{name!r} is what the network's own memory is called")
        if name in names[:place]:
            _refuse(policy, f"{name!r} names two of them")
        if not MEMORY_NAME.fullmatch(name):
            _refuse(policy, f"{name[:80]!r} is no name for one: expected 1 to 64 of a-z, 0-9, '_', '.', '-'")


def _bits(kind: MemoryType) -> int:
    return 64 if kind.is_64 else 32


def _capped(limits: Limits, lifetime: Lifetime) -> Limits:
    """Within what an address reaches, and what the network has for its like."""
    most = MAX_HEAP_WASM_PAGES_32
    if limits.is_64:
        most = MAX_HEAP_WASM_PAGES_64 if lifetime in {"heap", "message"} else MAX_STABLE_WASM_PAGES
    return limits._replace(maximum=most if limits.maximum is None else min(limits.maximum, most))


# -- which functions write which memories


def written_memories(body: bytes, memories: Collection[int]) -> frozenset[int]:
    """Those of `memories` that a body's own instructions write to, be it ever."""
    if not _may_write(memories).search(body):
        return frozenset()
    return frozenset(memory for memory, _ in writes(body)) & frozenset(memories)


def _may_write(memories: Collection[int]) -> re.Pattern[bytes]:
    """Found in every body that writes one of them, and in few others."""
    # In a memory argument an index other than 0 follows an alignment with bit 6; a bulk operation has it as it is.
    alternatives = [leb_forms(range(0x40, 0x47)) + leb_forms(memories), rb"\xfc" + leb_forms([0x08, 0x0A, 0x0B])]
    if 0 in memories:
        alternatives.append(rb"[\x36-\x3e]" + leb_forms(range(7)) + rb"|\xfd" + leb_forms(_VECTOR_STORES))
    return re.compile(b"|".join(alternatives), re.DOTALL)


_VECTOR_STORES = [number & 0xFF for number, opcode in OPCODES.items() if opcode.name.startswith("v128.store")]


def writes(body: bytes) -> Iterator[tuple[int, Instruction]]:
    """The instructions of a body that write a memory, each with which."""
    for instruction in instructions(body, locals_end(body)):
        opcode = OPCODES[instruction.opcode]
        values = instruction.immediates
        if ".store" in opcode.name:
            (memarg, *_) = values
            assert isinstance(memarg, MemArg)
            yield memarg.memory_index, instruction
        elif opcode.name in _BULK_WRITES:
            index = values[opcode.immediates.index(Immediate.MEMORY)]  # of a copy the first is where it goes
            assert isinstance(index, int)
            yield index, instruction


_BULK_WRITES = frozenset({"memory.fill", "memory.copy", "memory.init"})
