"""Count instructions by call path: a wrapper around each function of a linked module keeps a calling-context tree.

    linked module ─wrap▶ the same, each function at its index a wrapper: enter, call the function itself, exit

Functions keep their indices, so that calls, tables and exports go through the wrappers by themselves; ``return``,
``br`` and ``br_table`` need no attention. The hooks (`profile.wat`) charge nothing: what is counted stays equal.

The tree lies in the accounting memory, from `TREE` on, little-endian::

    TREE + 0x00  u32 node that runs, written when an entry ends       HEADER
           0x04  u32 first free byte, 0: none was made
           0x08  u64 calls that had no room
           0x20  the root, then the other nodes                       ROOT
    a node       u32 function, u32 parent, u32 first child, u32 next sibling,
                 u64 calls, i64 instructions (callees included), u64 bytes
    LOST         nodes of calls that had no room, a stack

A node's function is an index, or `FIRST_ENTRY` and the number of an entry. Only what `System API` functions copy has
bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import NamedTuple, final

from perdure.ic.ic0 import FUNCTIONS
from perdure.instrument import abi
from perdure.instrument.appendix import Appendix, op
from perdure.instrument.counted import FIRST_ENTRY, MAX_NODES, NODE, ROOT, WASM_PAGES
from perdure.wasm import (
    Code,
    ConstExpr,
    Export,
    ExternKind,
    FuncType,
    Global,
    Immediate,
    MemoryType,
    Module,
    ValType,
    decode,
    locals_end,
    map_indices,
)

__all__ = ["Hooks", "append_hooks", "roomy"]


@cache
def _hooks() -> Module:
    return decode(files(__package__).joinpath("profile.wasm").read_bytes())


@final
class Hooks(NamedTuple):
    """The hooks as they were appended."""

    functions: Mapping[str, int]
    globals: tuple[Global, ...]

    def entry(self, number: int, body: bytes) -> bytes:
        """An entry's body, entered as the `number`-th."""
        before = op("i32.const", number - FIRST_ENTRY) + op("call", self.functions["begin"])
        return before + body + op("call", self.functions["exit"]) + self.finish

    @property
    def finish(self) -> bytes:
        """What tells the host where an entry has ended."""
        return op("call", self.functions["save"])

    @staticmethod
    def counted(redirects: Mapping[int, str], exports: Sequence[Export]) -> tuple[tuple[int, str], ...]:
        """What is counted beside the canister's own functions: numbers and names of imports, and of entries.

        Entries are exported in the order in which they were appended.
        """
        entries = [one.name for one in exports if one.name.startswith("canister_") or one.name == abi.CALLBACK]
        numbered = ((FIRST_ENTRY + number, name) for number, name in enumerate(entries))
        return (*((index, f"ic0.{name}") for index, name in redirects.items()), *numbered)

    def wrapped(self, linked: Module, original: Module, redirects: Mapping[int, str]) -> Module:
        """The module with a wrapper around each function.

        Args:
            linked: everything in it, hooks included.
            original: the canister's own module.
            redirects: functions that stand for imports, and the names of these.
        """
        own = range(original.function_count - len(original.codes), original.function_count)
        imported = linked.function_count - len(linked.codes)
        codes, type_indices = list(linked.codes), list(linked.function_type_indices)
        for index in (*own, *redirects):
            place = index - imported
            func_type = linked.types[type_indices[place]]
            enter = self._enter(index, func_type, redirects.get(index, ""))
            arguments = b"".join(op("local.get", number) for number in range(len(func_type.params)))
            called = op("call", imported + len(codes)) + op("call", self.functions["exit"])
            codes.append(codes[place])
            type_indices.append(type_indices[place])
            codes[place] = Code(b"\0" + enter + arguments + called + op("end"))
        return replace(linked, codes=tuple(codes), function_type_indices=tuple(type_indices))

    def _enter(self, index: int, func_type: FuncType, name: str) -> bytes:
        row = FUNCTIONS.get(name)
        if row is None or not row.byte_charges:
            return op("i32.const", index) + op("call", self.functions["enter"])
        size = row.byte_charges[0].parameter
        widened = op("i64.extend_i32_u") if func_type.params[size] is ValType.I32 else b""
        return op("i32.const", index) + op("local.get", size) + widened + op("call", self.functions["enter_bytes"])


def append_hooks(appendix: Appendix, accounting: int, counter: int, first_global: int) -> Hooks:
    """Append the hooks.

    Args:
        appendix: what gets appended.
        accounting: index of the accounting memory.
        counter: index of the counter of instructions.
        first_global: index of the hooks' first global.
    """
    hooks, first = _hooks(), appendix.next_function
    imported = sum(1 for _ in hooks.imported(ExternKind.GLOBAL))
    maps: Mapping[Immediate, Callable[[int], int]] = {
        Immediate.FUNCTION: lambda index: first + index,
        Immediate.GLOBAL: lambda index: counter if index < imported else first_global + index - imported,
        Immediate.TYPE: lambda index: appendix.type_index(hooks.types[index]),
        Immediate.MEMORY: lambda _: accounting,
    }
    for index, code in enumerate(hooks.codes):
        appendix.append_code(hooks.function_type(index), map_indices(code.body, maps, locals_end(code.body)))
    functions = {one.name: first + one.index for one in hooks.exports if one.kind is ExternKind.FUNCTION}
    *state, last = hooks.globals
    room = last._replace(init=ConstExpr(op("i32.const", ROOT + MAX_NODES * NODE.size) + op("end")))
    return Hooks(functions, (*state, room))


def roomy(memory: MemoryType) -> MemoryType:
    """The accounting memory, with room for the tree."""
    return MemoryType(memory.limits._replace(minimum=WASM_PAGES, maximum=WASM_PAGES))
