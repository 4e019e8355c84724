"""Several memories become one: a module with memories of its own is made into one that the network takes.

    loads, stores of stable memory            stable64_read and stable64_write, through a word of the heap
    a memory that has a name                  a memory id of the crate's MemoryManager in stable memory
    stable memory itself, beside such         one more id

The functions that reach one memory are those of `lower.wat`, a copy for each. An instruction that reaches it becomes
the call of a function of the instruction's own type and its offset::

    i64.load $users offset=8                  i64.const 8; call F
    F(address, offset)                        keep the heap's first word; read 8 bytes to there; i64.load; put it back

What the lifetimes say is done in the start function, which runs whenever code is installed, before anything else: a
memory comes to be, or is emptied. Memories of the lifetime ``message`` are emptied where an entry begins: a method that
is exported, or a callback, which is a function in a table that is called while no other entry runs.

The module's own functions move behind the imports that it lacks, its heap becomes memory 0; no other index moves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, final

from perdure.errors import InvalidModuleError, UnsupportedError
from perdure.ic import ic0_ext
from perdure.ic.ic0 import FUNCTIONS
from perdure.ic.ic0_ext import DIRECT, DirectAccess
from perdure.instrument.appendix import Appendix, op, redirect_elements
from perdure.instrument.memories import NAMED_POLICY, MemoryPlan, OwnMemory, plan_memories
from perdure.instrument.named import has_named_memories, in_place_of_imports, with_named_memories
from perdure.instrument.stand_ins import STABLE, LoweredMemory, StandIns, signed
from perdure.instrument.terms import MAX_STABLE_WASM_PAGES
from perdure.wasm import (
    OPCODES,
    Code,
    ConstExpr,
    CustomSection,
    DataSegment,
    Export,
    ExternKind,
    FuncType,
    Global,
    GlobalType,
    Immediate,
    Import,
    Instruction,
    Limits,
    MemArg,
    MemoryType,
    Module,
    ValType,
    instructions,
    locals_end,
    map_indices,
)
from perdure.wasm.names import with_functions_moved
from perdure.wasm.tokens import leb_forms

__all__ = ["EXTENSIONS", "Lowered", "lower"]

EXTENSIONS: Final = ("direct", NAMED_POLICY)
"""What a module to be lowered may use."""

MAX_MEMORY_IDS: Final = 255

_NO_RESULT: Final = -0x40  # block type
_ENTRY: Final = FuncType()


class Lowered(NamedTuple):
    """A module for the network, and where each memory went."""

    module: Module
    memory_ids: Mapping[str, int]
    """By name, ``stable`` being what the module itself calls so. Empty: stable memory is as the module has it."""


def lower(module: Module, memory_ids: Mapping[str, int] | None = None) -> Lowered:
    """Make a module that uses ``direct`` and ``memories`` into one for the network.

    Args:
        module: valid with these extensions.
        memory_ids: ids of memories by name; the others get the lowest that are free, in the order of their names.

    Raises:
        ValueError: an id is none, is given twice, or to a name that no memory has.
        UnsupportedError: the module reaches stable memory by 32-bit functions beside memories of its own.
        InvalidModuleError: its memories are not what the policy allows.
    """
    changed, named = with_named_memories(module, EXTENSIONS)
    plan = plan_memories(changed, EXTENSIONS, named)
    memories = list(plan.own)
    stable = _stable_index(plan)
    if _uses_stable(module) and memories:
        memories.append(OwnMemory(stable, STABLE, Limits(0, MAX_STABLE_WASM_PAGES, True)))
    ids = _numbered([one.kind.name for one in memories], memory_ids or {})
    imported = [*module.imported(ExternKind.FUNCTION)]
    direct = {
        place: op(_direct(item).instruction, MemArg(0, 0, stable))
        for place, item in enumerate(imported)
        if item.module == ic0_ext.MODULE
    }
    if not memories and not direct:
        return Lowered(module, {})
    if direct:
        changed = in_place_of_imports(changed, direct)
    free = [place for place, item in enumerate(imported) if has_named_memories(item) or place in direct]
    return Lowered(_Lowering(changed, plan, memories, ids, free).lowered(), ids)


def _direct(item: Import) -> DirectAccess:
    if item.name not in DIRECT:
        raise UnsupportedError(f"the module imports ic0_ext.{item.name}: only loads and stores can be lowered")
    return DIRECT[item.name]


def _stable_index(plan: MemoryPlan) -> int:
    """Of the memory that stands for stable memory until it is lowered."""
    return len(plan.types)


def _uses_stable(module: Module) -> bool:
    """Whether a module reaches stable memory as such."""
    items = [item for item in module.imported(ExternKind.FUNCTION) if item.name.startswith("stable")]
    return any(item.module in {"ic0", ic0_ext.MODULE} for item in items)


def _numbered(names: Iterable[str], wanted: Mapping[str, int]) -> dict[str, int]:
    names = sorted(names)
    for name, number in wanted.items():
        if name not in names:
            raise ValueError(f"no memory is named {name!r:.80}: there is {', '.join(names) or 'none to be lowered'}")
        if not 0 <= number < MAX_MEMORY_IDS:
            raise ValueError(f"memory {name!r}: an id is 0 to {MAX_MEMORY_IDS - 1}, found {number}")
        if other := [one for one, its in wanted.items() if its == number and one != name]:
            raise ValueError(f"memories {name!r} and {other[0]!r} are both given the id {number}")
    free = (number for number in range(MAX_MEMORY_IDS) if number not in wanted.values())
    return {name: wanted[name] if name in wanted else next(free) for name in names}


@final
@dataclass
class _Lowering:
    """One module's lowering.

    Args:
        module: every access to be lowered is an instruction on a memory that is not the heap.
        plan: its memories.
        memories: those that get an id.
        ids: which.
        free: function imports that nobody calls.
    """

    module: Module
    plan: MemoryPlan
    memories: list[OwnMemory]
    ids: Mapping[str, int]
    free: list[int]
    slots: dict[str, int] = field(default_factory=dict)
    redirects: dict[int, int] = field(default_factory=dict)

    def lowered(self) -> Module:
        self._take_slots()
        module = self.module
        self.appendix = Appendix(module)
        self.globals = list(module.globals)
        imported_globals = len(module.all_global_types) - len(self.globals)
        self.made = StandIns(self.appendix, self.slots, self.plan.is_64, imported_globals, self.globals)
        if self.memories:
            self.made.append_memories(self.memories, self.ids)
        else:
            self.made.append_stable_itself(_stable_index(self.plan))
        self.reached = self.made.reached
        if self.memories:
            self._stand_in_for_stable()
        entries, start = self._entries()
        self.pattern = _pattern(tuple(self.reached), tuple(self.redirects))
        return replace(
            module,
            imports=tuple(item for item in module.imports if not self._is_lowered_import(item)),
            exports=tuple(self._exports(entries)),
            codes=tuple(map(self._lowered_code, module.codes)) + tuple(self.appendix.codes),
            # What was appended is complete only now.
            types=tuple(self.appendix.types),
            function_type_indices=module.function_type_indices + tuple(self.appendix.type_indices),
            memories=() if self._is_heap_imported else (self._heap(),),
            globals=tuple(self.globals),
            elements=redirect_elements(module.elements, self.redirects),
            start=start,
            data=tuple(map(self._passive, module.data)),
            data_count=len(module.data) if module.data else module.data_count,
        )

    # -- imports

    def _take_slots(self) -> None:
        """Give each function of ``ic0`` that is needed an import: its own, one that nobody calls, or a new one."""
        needed = [
            "stable64_read",
            "stable64_write",
            *(["stable64_size", "stable64_grow", "trap"] * bool(self.memories)),
        ]
        imports, free = list(self.module.imports), [*self.free]
        appended: list[Import] = []
        places = [place for place, item in enumerate(imports) if item.kind is ExternKind.FUNCTION]
        appendix = Appendix(self.module)
        for function, place in enumerate(places):
            if imports[place].module == "ic0" and function not in free:
                self.slots.setdefault(imports[place].name, function)
        own = set(self.slots.values())
        for name in needed:
            if name in self.slots:
                continue
            item = Import("ic0", name, ExternKind.FUNCTION, appendix.type_index(_ic0_type(name, is_64=self.plan.is_64)))
            if free:
                self.slots[name] = free.pop()
                imports[places[self.slots[name]]] = item
            else:
                self.slots[name] = len(places) + len(appended)
                appended.append(item)
        module = replace(self.module, types=tuple(appendix.types))
        self.added = {self.slots[name] for name in needed} - own
        self.module = replace(_moved(module, len(places), len(appended)), imports=(*imports, *appended))

    # -- memories

    @property
    def _is_heap_imported(self) -> bool:
        return self.plan.heap < len(self.module.imported_memories)

    def _heap(self) -> MemoryType:
        """The heap as it was, of one page at least: words pass through it."""
        every = self.module.all_memories
        limits = every[self.plan.heap].limits if self.plan.heap < len(every) else Limits(1, None)
        most = limits.maximum
        return MemoryType(
            limits._replace(minimum=max(1, limits.minimum), maximum=None if most is None else max(1, most))
        )

    def _is_lowered_import(self, item: Import) -> bool:
        return item.kind is ExternKind.MEMORY and item.module != "env"

    def _exports(self, entries: Mapping[int, int]) -> Iterable[Export]:
        for item in self.module.exports:
            if item.kind is ExternKind.FUNCTION:
                index = self.redirects.get(item.index, item.index)
                yield replace(item, index=entries.get(item.index, index) if _is_entry(item.name) else index)
            elif item.kind is not ExternKind.MEMORY:
                yield item
            elif item.index == self.plan.heap:
                yield replace(item, index=0)

    def _stand_in_for_stable(self) -> None:
        """What the module itself calls stable memory is a memory among the others."""
        reached = self.reached.get(_stable_index(self.plan))
        if reached is None:
            return
        functions = reached.functions
        zero = op("i64.const", 0)
        one, two, three = (op("local.get", place) for place in range(3))
        bodies = {
            "stable64_size": op("call", functions["size"]),
            "stable64_grow": one + op("call", functions["grow"]),
            "stable64_read": one + two + zero + three + op("call", functions["read"]),
            "stable64_write": one + zero + two + three + op("call", functions["write"]),
        }
        for index, item in enumerate(self.module.imported(ExternKind.FUNCTION)):
            if item.module == "ic0" and item.name.startswith("stable") and index not in self.added:
                if item.name not in bodies:
                    raise UnsupportedError(
                        f"the module imports ic0.{item.name} beside memories of its own: only the 64-bit functions of "
                        "stable memory can be lowered, ic0.stable64_size, stable64_grow, stable64_read, stable64_write"
                    )
                self.redirects[index] = self.appendix.append(self.module.function_type(index), bodies[item.name])

    # -- entries

    def _entries(self) -> tuple[dict[int, int], int | None]:
        """What runs instead of each exported function, and the start function."""
        module = self.module
        original = b"" if module.start is None else op("call", self.redirects.get(module.start, module.start))
        if not self.memories:
            return {}, module.start
        scratch = [one for one in self.reached.values() if one.is_for_a_message]
        is_within = self.made.first_global + len(self.globals)
        if scratch:
            self.globals.append(Global(GlobalType(ValType.I32, mutable=True), ConstExpr.i32(0)))
        setup = b"".join(self._ready(one, "empty" if _is_emptied(one) else "keep") for one in self.reached.values())
        if not scratch:
            return {}, self.appendix.append(_ENTRY, setup + original)
        enter, leave = (op("i32.const", value) + op("global.set", is_within) for value in (1, 0))
        begin = self.appendix.append(_ENTRY, b"".join(self._ready(one, "begin") for one in scratch) + enter)
        start = self.appendix.append(_ENTRY, setup + enter + original + leave)
        entries = {
            item.index: self.appendix.append(
                _ENTRY, op("call", begin) + op("call", self.redirects.get(item.index, item.index)) + leave
            )
            for item in module.exports
            if item.kind is ExternKind.FUNCTION and _is_entry(item.name)
        }
        self._wrap_callbacks(is_within, op("call", begin), leave)
        return entries, start

    def _wrap_callbacks(self, is_within: int, begin: bytes, leave: bytes) -> None:
        kind = FuncType((self.made.pointer,))
        for index in range(self.module.imported_function_count, self.module.function_count):
            if self.module.function_type(index) == kind:
                call = op("local.get", 0) + op("call", index)
                body = (
                    op("global.get", is_within)
                    + op("if", _NO_RESULT)
                    + call
                    + op("return")
                    + op("end")
                    + begin
                    + call
                    + leave
                )
                self.redirects[index] = self.appendix.append(kind, body)

    def _ready(self, one: LoweredMemory, how: str) -> bytes:
        """Have a memory be as it is where code begins, its data segments written where it is new."""
        data = b"".join(
            op("i64.const", signed(_address(segment, number, one)))
            + op("i64.const", 0)
            + op("i64.const", len(segment.init))
            + op("call", self.made.copy_of_segment(one, number))
            for number, segment in enumerate(self.module.data)
            if segment.offset is not None and segment.memory_index == one.memory.number
        )
        if one.is_for_a_message:
            data += op("i32.const", 0) + op("global.set", one.touched)
        return op("call", one.functions[how]) + op("if", _NO_RESULT) + data + op("end")

    def _passive(self, segment: DataSegment) -> DataSegment:
        if segment.offset is None:
            return segment
        is_heap = segment.memory_index == self.plan.heap
        return segment._replace(memory_index=0) if is_heap else DataSegment(segment.init)

    # -- code

    def _lowered_code(self, code: Code) -> Code:
        body = code.body
        if not self._may_change(body):
            return code
        start = locals_end(body)
        pieces = [body[:start]]
        copied = start
        for instruction in instructions(body, start):
            called = self._instead(instruction)
            if called:
                pieces += [self._renumbered(body[copied : instruction.start]), called]
                copied = instruction.end
        return Code(b"".join([*pieces, self._renumbered(body[copied:])]), code.offset)

    def _may_change(self, body: bytes) -> bool:
        return self.plan.heap != 0 or bool(self.pattern.search(body))

    def _renumbered(self, code: bytes) -> bytes:
        maps: dict[Immediate, Callable[[int], int]] = {
            Immediate.FUNCTION: lambda index: self.redirects.get(index, index)
        }
        if self.plan.heap != 0:
            maps[Immediate.MEMORY] = lambda _: 0
        return map_indices(code, maps)

    def _instead(self, instruction: Instruction) -> bytes:
        """The call in place of an instruction, if it reaches a memory to be lowered."""
        opcode, values = OPCODES[instruction.opcode], instruction.immediates
        kinds = opcode.immediates
        if Immediate.MEMARG in kinds:
            memarg = values[0]
            assert isinstance(memarg, MemArg)
            if memarg.memory_index not in self.reached:
                return b""
            key = (opcode.name, memarg.memory_index, *values[1:])
            function = self.made.once(key, lambda: self.made.access(opcode.name, memarg.memory_index, values[1:]))
            return op("i64.const", signed(memarg.offset)) + op("call", function)
        if Immediate.MEMORY not in kinds or not any(
            kind is Immediate.MEMORY and value in self.reached for kind, value in zip(kinds, values, strict=True)
        ):
            return b""
        places = tuple(value for value in values if isinstance(value, int))
        return op("call", self.made.once((opcode.name, *places), lambda: self.made.whole(opcode.name, places)))


def _ic0_type(name: str, *, is_64: bool) -> FuncType:
    sides = FUNCTIONS[name].params(is_64), FUNCTIONS[name].results(is_64)
    return FuncType(*(tuple(ValType[item.upper()] for item in side) for side in sides))


def _is_entry(name: str) -> bool:
    return name.startswith("canister_")


def _is_emptied(one: LoweredMemory) -> bool:
    return one.memory.kind.lifetime in {"upgrade", "message"}


def _address(segment: DataSegment, number: int, one: LoweredMemory) -> int:
    constant = segment.offset.integer if segment.offset else None
    if constant is None:
        raise InvalidModuleError(f"data segment {number} has no constant offset")
    address = constant[1] % (1 << (32 if constant[0] is ValType.I32 else 64))
    size_bytes = one.memory.limits.minimum << 16
    if address + len(segment.init) > size_bytes:
        raise InvalidModuleError(
            f"data segment {number} of {len(segment.init)} bytes at address {address:#x} "
            f"does not fit the initial {one.memory.kind.name} of {size_bytes:#x} bytes"
        )
    return address


def _pattern(memories: Collection[int], functions: Collection[int]) -> re.Pattern[bytes]:
    """Found in every body that reaches a memory to be lowered or calls what is redirected, and in few others."""
    alternatives = [
        leb_forms(range(0x40, 0x80)) + leb_forms(memories),
        rb"\xfc" + leb_forms([0x08, 0x0A, 0x0B]),
        rb"[\x3f\x40]" + leb_forms(memories),
    ]
    if functions:
        alternatives.append(rb"[\x10\x12\xd2]" + leb_forms(functions))
    return re.compile(b"|".join(alternatives), re.DOTALL)


def _moved(module: Module, first: int, by: int) -> Module:
    """The module with its functions from index `first` on moved by so many."""
    if not by:
        return module

    def move(index: int) -> int:
        return index + by if index >= first else index

    maps: dict[Immediate, Callable[[int], int]] = {Immediate.FUNCTION: move}

    def code(one: Code) -> Code:
        return Code(map_indices(one.body, maps, locals_end(one.body)), one.offset)

    def expression(one: ConstExpr) -> ConstExpr:
        return ConstExpr(map_indices(one.code, maps))

    return replace(
        module,
        codes=tuple(map(code, module.codes)),
        globals=tuple(one._replace(init=expression(one.init)) for one in module.globals),
        elements=redirect_elements(module.elements, {index: move(index) for index in range(module.function_count)}),
        exports=tuple(
            replace(one, index=move(one.index)) if one.kind is ExternKind.FUNCTION else one for one in module.exports
        ),
        start=None if module.start is None else move(module.start),
        custom_sections=tuple(
            CustomSection(one.name, with_functions_moved(one.data, move), one.after) if one.name == "name" else one
            for one in module.custom_sections
        ),
    )
