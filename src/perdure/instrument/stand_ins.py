"""Functions in place of the instructions that reach a memory which `perdure.instrument.lowering` takes away.

Each is made once, where the first instruction needs it: of an access for every memory and instruction, of
``memory.copy`` and ``memory.init`` for every pair.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Final, final

from perdure.canister import MemoryKind
from perdure.instrument.appendix import Appendix, op, trap_saying
from perdure.instrument.memories import OwnMemory
from perdure.wasm import (
    ConstExpr,
    FuncType,
    Global,
    Immediate,
    ImmediateValue,
    Limits,
    MemArg,
    Module,
    ValType,
    decode,
    locals_end,
    map_indices,
)

__all__ = ["STABLE", "LoweredMemory", "StandIns", "signed"]

STABLE: Final = MemoryKind("stable", "stable", 64)
"""What a module itself calls stable memory."""


@cache
def _text(is_64: bool) -> Module:
    """`lower.wat`, built, for heaps of this width."""
    return decode(files(__package__).joinpath("lower64.wasm" if is_64 else "lower.wasm").read_bytes())


@final
@dataclass(frozen=True)
class LoweredMemory:
    """How one memory is reached: indices of functions."""

    memory: OwnMemory
    functions: Mapping[str, int]
    copy: Callable[[int], int]
    """From the function that reads a source to the one that copies from there."""
    touched: int = 0
    """Index of a global."""

    @property
    def is_wide(self) -> bool:
        """Whether its addresses have 64 bits."""
        return self.memory.limits.is_64

    @property
    def address(self) -> ValType:
        """The type of its addresses."""
        return ValType.I64 if self.is_wide else ValType.I32

    @property
    def is_for_a_message(self) -> bool:
        """Whether it is emptied where an entry begins."""
        return self.memory.kind.lifetime == "message"


@final
@dataclass
class StandIns:
    """Appends what is called instead of instructions.

    Args:
        appendix: of the module.
        slots: where each function of ``ic0`` is imported.
        is_64: whether the heap has 64-bit addresses.
        first_global: index of the first global that the module defines.
        globals: those that it defines; new ones are appended.
    """

    appendix: Appendix
    slots: Mapping[str, int]
    is_64: bool
    first_global: int
    globals: list[Global]
    reached: dict[int, LoweredMemory] = field(default_factory=dict)
    made: dict[tuple[object, ...], int] = field(default_factory=dict)

    @property
    def pointer(self) -> ValType:
        """The type of the heap's addresses."""
        return ValType.I64 if self.is_64 else ValType.I32

    def append_memories(self, memories: list[OwnMemory], ids: Mapping[str, int]) -> None:
        """A copy of `lower.wat` for each."""
        no_manager = self._trapping("stable memory holds something else than a memory manager")
        for one in memories:
            self.reached[one.number] = self._append_text(one, ids[one.kind.name], no_manager)

    def _trapping(self, text: str) -> int:
        code = trap_saying(text.encode(), self.slots["trap"], is_64=self.is_64)
        return self.appendix.append(FuncType(), code)

    def _append_text(self, memory: OwnMemory, memory_id: int, no_manager: int) -> LoweredMemory:
        """A copy of `lower.wat` for one memory."""
        text = _text(self.is_64)
        what = "stable memory" if memory.kind is STABLE else f"memory {memory.kind.name}"
        first_global = self.first_global + len(self.globals)
        exported = {item.name: item.index for item in text.exports}
        constants = {
            exported["id"]: memory_id,
            exported["minimum"]: memory.limits.minimum,
            exported["maximum"]: memory.limits.maximum or 0,
        }
        self.globals += [
            one._replace(init=ConstExpr.i64(constants[place])) if place in constants else one
            for place, one in enumerate(text.globals)
        ]
        imported = [self.slots[item.name] for item in text.imports if item.module == "ic0"]
        imported += [
            self._trapping(f"{what} out of bounds"),
            no_manager,
            self._trapping(f"{what} cannot have its {memory.limits.minimum} Wasm pages"),
        ]
        functions = imported + [0] * (text.function_count - len(imported))
        maps: dict[Immediate, Callable[[int], int]] = {
            Immediate.FUNCTION: lambda index: functions[index],
            Immediate.GLOBAL: lambda index: first_global + index,
            Immediate.TYPE: lambda index: self.appendix.type_index(text.types[index]),
        }
        own = [index for index in range(text.imported_function_count, text.function_count) if index != exported["copy"]]
        for place, index in enumerate(own):
            functions[index] = self.appendix.next_function + place
        for index in own:
            self._bring(text, index, maps)
        source = text.imported_function_count - 1

        def copying(read: int) -> int:
            functions[source] = read
            return self._bring(text, exported["copy"], maps)

        return LoweredMemory(
            memory,
            {name: functions[index] for name, index in exported.items() if index < len(functions)},
            copying,
            first_global + exported["touched"],
        )

    def _bring(self, text: Module, index: int, maps: Mapping[Immediate, Callable[[int], int]]) -> int:
        body = text.codes[index - text.imported_function_count].body
        return self.appendix.append_code(text.function_type(index), map_indices(body, maps, locals_end(body)))

    def append_stable_itself(self, number: int) -> None:
        """Without memories of its own, a module's stable memory is where it was."""
        address = op("local.get", 1) + op("local.get", 2) + op("i64.add")
        read = op("local.get", 0) + address + op("local.get", 3) + op("call", self.slots["stable64_read"])
        address = op("local.get", 0) + op("local.get", 1) + op("i64.add")
        write = address + op("local.get", 2) + op("local.get", 3) + op("call", self.slots["stable64_write"])
        kind = FuncType((ValType.I64,) * 4)
        functions = {"read": self.appendix.append(kind, read), "write": self.appendix.append(kind, write)}
        memory = OwnMemory(number, STABLE, Limits(0, None, True))
        self.reached[number] = LoweredMemory(memory, functions, lambda read: read)

    def once(self, key: tuple[object, ...], make: Callable[[], int]) -> int:
        """The function for `key`, made where there is none yet."""
        if key not in self.made:
            self.made[key] = make()
        return self.made[key]

    def access(self, name: str, memory: int, lanes: tuple[ImmediateValue, ...]) -> int:
        """A function in place of a load or store: its operands and the offset, to its result."""
        one, value_type, size = self.reached[memory], ValType[name.partition(".")[0].upper()], _size_bytes(name)
        is_store, has_value = ".store" in name, ".store" in name or bool(lanes)
        params = (one.address, *([value_type] if has_value else []), ValType.I64)
        kind = FuncType(params, () if is_store else (value_type,))
        if is_store and one.memory.kind.is_read_only:
            return self.appendix.append(kind, self._refusal(one))
        offset, first_kept = op("local.get", len(params) - 1), len(params)
        words = range(0, max(size, 8), 8)
        here = op(f"{self.pointer.text}.const", 0)
        keep = b"".join(
            here + op("i64.load", MemArg(0, word)) + op("local.set", first_kept + word // 8) for word in words
        )
        put_back = b"".join(
            here + op("local.get", first_kept + word // 8) + op("i64.store", MemArg(0, word)) for word in words
        )
        value = op("local.get", 1) if has_value else b""
        instruction = here + value + op(name, MemArg(0, 0), *lanes)
        window, length = op("i64.const", 0), op("i64.const", size)
        address = op("local.get", 0) + _widened(one)
        if is_store:
            write = address + offset + window + length + op("call", one.functions["write"])
            body = keep + instruction + write + put_back
        else:
            read = window + address + offset + length + op("call", one.functions["read"])
            body = keep + read + instruction + put_back
        return self.appendix.append_code(kind, bytes((1, len(words), ValType.I64)) + body + op("end"))

    def _refusal(self, one: LoweredMemory) -> bytes:
        text = f"memory {one.memory.kind.name} is deprecated: it is only read"
        return trap_saying(text.encode(), self.slots["trap"], is_64=self.is_64)

    def whole(self, name: str, places: tuple[int, ...]) -> int:
        """A function in place of an instruction on a memory as a whole, or on two."""
        if name == "memory.copy":
            return self._copy(*places)
        one = self.reached[places[-1]]
        address, value = one.address, (ValType.I32,)
        narrowed = b"" if one.is_wide else op("i32.wrap_i64")
        first, second, third = (op("local.get", place) for place in range(3))
        match name:
            case "memory.size":
                return self.appendix.append(FuncType((), (address,)), op("call", one.functions["size"]) + narrowed)
            case "memory.grow":
                kind = FuncType((address,), (address,))
                body = first + _widened(one) + op("call", one.functions["grow"]) + narrowed
            case "memory.fill":
                kind = FuncType((address, *value, address))
                body = first + _widened(one) + second + op("i64.extend_i32_u") + third + _widened(one)
                body += op("call", one.functions["fill"])
            case _:  # memory.init
                kind = FuncType((address, *value, *value))
                body = first + _widened(one) + second + op("i64.extend_i32_u") + third + op("i64.extend_i32_u")
                body += op("call", self.copy_of_segment(one, places[0]))
        if one.memory.kind.is_read_only:
            body = self._refusal(one)
        return self.appendix.append(kind, body)

    def _copy(self, target: int, source: int) -> int:
        """A function in place of ``memory.copy``, of the widths of both."""
        to, of = self.reached.get(target), self.reached.get(source)
        types = [self.pointer if one is None else one.address for one in (to, of)]
        is_long = types == [ValType.I64, ValType.I64]
        kind = FuncType((*types, ValType.I64 if is_long else ValType.I32))
        to_address, of_address, length = (
            op("local.get", place) + (b"" if value is ValType.I64 else op("i64.extend_i32_u"))
            for place, value in enumerate(kind.params)
        )
        zero = op("i64.const", 0)
        if to is not None and to.memory.kind.is_read_only:
            body = self._refusal(to)
        elif to is None and of is not None:
            body = self._in_heap(0) + to_address + of_address + zero + length + op("call", of.functions["read"])
        elif to is not None and of is None:
            body = self._in_heap(1) + to_address + zero + of_address + length + op("call", to.functions["write"])
        else:
            assert to is not None
            assert of is not None
            body = to_address + of_address + length + op("call", to.copy(of.functions["read"]))
        return self.appendix.append(kind, body)

    def _in_heap(self, parameter: int) -> bytes:
        """Trap where a parameter is past the end of the heap, be the length 0, which ``ic0`` lets pass."""
        length = op(f"{self.pointer.text}.const", 0)
        return op("local.get", parameter) + op("i32.const", 0) + length + op("memory.fill", 0)

    def copy_of_segment(self, one: LoweredMemory, number: int) -> int:
        """A function that copies from a data segment, as "copy" of `lower.wat`."""
        return self.once(("copy", one.memory.number, number), lambda: one.copy(self._segment(number)))

    def _segment(self, number: int) -> int:
        """A function that reads from a data segment, as "read" of `lower.wat` from a memory."""
        target = op("local.get", 0) + (b"" if self.is_64 else op("i32.wrap_i64"))
        source = op("local.get", 1) + op("i32.wrap_i64") + op("local.get", 3) + op("i32.wrap_i64")
        body = target + source + op("memory.init", number, 0)
        kind = FuncType((ValType.I64,) * 4)
        return self.once(("segment", number), lambda: self.appendix.append(kind, body))


def _widened(one: LoweredMemory) -> bytes:
    return b"" if one.is_wide else op("i64.extend_i32_u")


def signed(value: int) -> int:
    """A 64-bit number as instructions have it."""
    return value - (1 << 64) if value >> 63 else value


_SIZE: Final = re.compile(r"(\d+)\.(?:load|store)(\d*)(?:x(\d+))?")


def _size_bytes(name: str) -> int:
    """How many bytes a load or store reaches."""
    found = _SIZE.search(name)
    assert found is not None, name
    whole, bits, lanes = found.groups()
    return int(bits or whole) * int(lanes or 1) // 8
