"""What linking does for memories of a module's own: they grow within limits, and it is known which were written.

Growing calls a function that holds the new size against the limits of the message: for what is like the heap that of
the heap, for what stays like stable memory the room that the canister can pay for, which all of them share.

A bit for each memory says whether an entry may have written it. A function that has a store to one sets its bit where
it begins, unmetered, so that the host need not look at memories that nobody touched::

    function start, before all else    global.get w; i32.const bits; i32.or; global.set w
    entry                              begin; w = 0; ...; finish; header.written_memories = w

Before a store to a memory that is only read stands the call of a function that traps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, final

from perdure.canister import TrapCode
from perdure.instrument import abi
from perdure.instrument.appendix import Appendix, op
from perdure.instrument.memories import MemoryPlan, OwnMemory, writes, written_memories
from perdure.instrument.terms import MAX_STABLE_WASM_PAGES
from perdure.wasm import (
    Code,
    ConstExpr,
    FuncType,
    Global,
    GlobalType,
    MemArg,
    ValType,
    encode_signed,
    encode_unsigned,
    locals_end,
)

__all__ = ["OwnMemories", "own_memories"]

_NO_RESULT: Final = -0x40  # block type


@final
@dataclass(frozen=True)
class OwnMemories:
    """What `perdure.instrument.linking` puts where; of a module without memories of its own only the heap's grow.

    `grow` has the function to call instead of ``memory.grow``, by memory; `wide` the memories with 64-bit addresses.
    """

    grow: Mapping[int, int]
    wide: frozenset[int] | None = None
    globals: tuple[Global, ...] = ()
    begin: bytes = b""
    finish: bytes = b""
    bits: Mapping[int, int] = field(default_factory=dict)
    refusing: Mapping[int, int] = field(default_factory=dict)
    noted_global: int = 0

    def guarded(self, codes: tuple[Code, ...]) -> tuple[Code, ...]:
        """The canister's bodies, which trap before they store to what is only read."""
        if not self.refusing:
            return codes
        return tuple(self._guarded(code) for code in codes)

    def _guarded(self, code: Code) -> Code:
        if not written_memories(code.body, self.refusing):
            return code
        body, copied = code.body, 0
        pieces = []
        for memory, instruction in writes(body):
            if memory in self.refusing:
                pieces += [body[copied : instruction.start], op("call", self.refusing[memory])]
                copied = instruction.start
        return Code(b"".join([*pieces, body[copied:]]), code.offset)

    def noting(self, codes: tuple[Code, ...]) -> tuple[Code, ...]:
        """The canister's bodies, rewritten otherwise, that say which memories they may write."""
        if not self.bits:
            return codes
        return tuple(self._noting(code) for code in codes)

    def _noting(self, code: Code) -> Code:
        written = written_memories(code.body, self.bits)
        if not written:
            return code
        bits = sum(1 << self.bits[memory] for memory in written)
        noted = encode_unsigned(self.noted_global)
        set_bits = b"\x23" + noted + b"\x41" + encode_signed(_signed(bits)) + b"\x72\x24" + noted
        start = locals_end(code.body)
        return Code(code.body[:start] + set_bits + code.body[start:], code.offset)


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >> 31 else bits


def own_memories(appendix: Appendix, plan: MemoryPlan, functions: Mapping[str, int], first_global: int) -> OwnMemories:
    """Append the functions that memories of a module's own need.

    Args:
        appendix: of the module.
        plan: its memories.
        functions: of the kernel.
        first_global: index of the next global.
    """
    grow = {plan.heap: functions["memory_grow"]}
    noted = [one.number for one in plan.own]
    if plan.has_native_stable:
        grow[plan.stable] = functions["stable64_grow"]
        noted.append(plan.stable)
    if not noted:
        return OwnMemories(grow)
    refusing = {
        one.number: appendix.append(FuncType(), _refusal(plan, one)) for one in plan.own if one.kind.is_read_only
    }
    for one in plan.own:
        grow[one.number] = appendix.append_code(*_grow(plan, one, refusing.get(one.number)))
    written = MemArg(0, abi.HEADER["written_memories"].offset, plan.message)
    return OwnMemories(
        grow=grow,
        wide=frozenset(index for index in range(len(plan.types)) if plan.is_wide(index)),
        globals=(Global(GlobalType(ValType.I32, mutable=True), ConstExpr.i32(0)),),
        begin=op("i32.const", 0) + op("global.set", first_global),
        finish=op("i64.const", 0) + op("global.get", first_global) + op("i32.store", written),
        bits={index: bit for bit, index in enumerate(noted)},
        refusing=refusing,
        noted_global=first_global,
    )


# -------------------------------------------------------------------------------------------------------------- growing


def _grow(plan: MemoryPlan, memory: OwnMemory, refusal: int | None) -> tuple[FuncType, bytes]:
    """A function in place of ``memory.grow`` of one memory. Its local is the old size."""
    wide = plan.is_wide(memory.number)
    value_type = ValType.I64 if wide else ValType.I32
    failed = op(f"{value_type.text}.const", -1)
    if refusal is not None:
        body = op("call", refusal) + failed
    elif memory.kind.lifetime in _KEPT:
        body = _grow_kept(plan, memory, failed, wide=wide)
    else:
        body = _grow_heap(plan, memory, wide=wide)
    return FuncType((value_type,), (value_type,)), b"\x01\x01" + bytes((value_type,)) + body + op("end")


_KEPT: Final = frozenset({"stable", "upgrade"})


def _grow_heap(plan: MemoryPlan, memory: OwnMemory, *, wide: bool) -> bytes:
    """Grown already when the limit is found exceeded, so it must trap, as the heap does."""
    is_past = _size(memory, wide=wide) + _header("heap_limit_wasm_pages", plan) + op("i64.gt_u")
    return (
        op("local.get", 0)
        + op("memory.grow", memory.number)
        + op("local.set", 1)
        + _when(is_past, _trap(plan, _header("heap_trap_code", plan)))
        + op("local.get", 1)
    )


def _grow_kept(plan: MemoryPlan, memory: OwnMemory, failed: bytes, *, wide: bool) -> bytes:
    """Within the limit of stable memory, and within the room that the canister can pay for, of which it takes some."""
    delta, size = op("local.get", 0) + _widened(wide), _size(memory, wide=wide)
    place = MemArg(0, abi.HEADER["stable_trap_wasm_pages"].offset, plan.message)
    room_end = _header("stable_trap_wasm_pages", plan)
    room = room_end + op("memory.size", plan.stable) + op("i64.sub")
    most = op("i64.const", min(memory.limits.maximum or 0, MAX_STABLE_WASM_PAGES))

    def past(end: bytes) -> bytes:
        # A size is at most the end, so this does not wrap: delta > end - size.
        return _when(delta + end + size + op("i64.sub") + op("i64.gt_u"), failed + op("return"))

    return (
        past(most)
        + past(_header("stable_limit_wasm_pages", plan))
        + _when(delta + room + op("i64.gt_u"), _trap(plan, _header("stable_trap_code", plan)))
        + op("local.get", 0)
        + op("memory.grow", memory.number)
        + op("local.tee", 1)
        + failed
        + op("i64.ne" if wide else "i32.ne")
        + op("if", _NO_RESULT)
        + op("i64.const", 0)
        + room_end
        + delta
        + op("i64.sub")
        + op("i64.store", place)
        + op("end")
        + op("local.get", 1)
    )


def _refusal(plan: MemoryPlan, memory: OwnMemory) -> bytes:
    """Traps where a memory that is only read would be written; the host finds its name by its index."""
    place = MemArg(0, abi.HEADER["trap_function"].offset, plan.message)
    which = op("i64.const", 0) + op("i32.const", memory.number) + op("i32.store", place)
    return which + _trap(plan, op("i32.const", TrapCode.READ_ONLY_MEMORY))


def _size(memory: OwnMemory, *, wide: bool) -> bytes:
    return op("memory.size", memory.number) + _widened(wide)


def _widened(wide: bool) -> bytes:
    return b"" if wide else op("i64.extend_i32_u")


def _header(name: str, plan: MemoryPlan) -> bytes:
    field_ = abi.HEADER[name]
    load = {"q": "i64.load", "H": "i32.load16_u"}[field_.format]
    return op("i64.const", 0) + op(load, MemArg(0, field_.offset, plan.message))


def _trap(plan: MemoryPlan, code: bytes) -> bytes:
    place = MemArg(0, abi.HEADER["trap_code"].offset, plan.message)
    return op("i64.const", 0) + code + op("i32.store", place) + op("unreachable")


def _when(condition: bytes, then: bytes) -> bytes:
    return condition + op("if", _NO_RESULT) + then + op("end")
