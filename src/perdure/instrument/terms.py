"""What the passes are told, and what they tell of a module: values, without any of the passes.

Code that is compiled already is run without importing a decoder, a validator, a linker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, final

from perdure.errors import UnsupportedError
from perdure.ic.ic0 import FUNCTIONS, NON_SPECIFIED, SystemFunction
from perdure.image import MemoryKind
from perdure.memory import WASM_PAGE_BYTES

__all__ = ["MAX_STABLE_WASM_PAGES", "REPLICA", "Bounds", "Count", "Counts", "Options", "PageCharges", "Policy"]

MAX_STABLE_WASM_PAGES = (500 << 30) // WASM_PAGE_BYTES


@final
@dataclass(frozen=True, slots=True)
class Options:
    """Which passes run. The default is what the Internet Computer does; the others are for comparison.

    Args:
        schedule: name of a cost schedule, or `None` for code that counts nothing.
        native_stable: False sends stable memory through host functions.
        native_messages: False sends arguments, replies, caller and time through host functions.
        accounting: False leaves stable pages unmarked, uncharged and unlimited.
        max_stable_wasm_pages: the declared maximum of stable memory.
        memories: memories beside the module's own, which only the host reads and writes.
        extensions: what modules may use beyond the network's rules, by the names of `perdure.ic.ic0_ext`.
        profile: count instructions by call path, see `perdure.instrument.profile`; nothing else becomes different.
        coverage: count how often each block runs, see `perdure.instrument.coverage`; likewise. Only with a schedule.
    """

    schedule: str | None = "2025"
    native_stable: bool = True
    native_messages: bool = True
    accounting: bool = True
    max_stable_wasm_pages: int = MAX_STABLE_WASM_PAGES
    memories: tuple[MemoryKind, ...] = ()
    extensions: tuple[str, ...] = ()
    profile: bool = False
    coverage: bool = False


@final
@dataclass(frozen=True)
class Policy:
    """Limits and lists of names; every limit is inclusive.

    Args:
        functions: what may be imported from ``ic0``, by name.
        max_functions: functions that a module defines.
        max_globals: globals that a module defines.
        max_custom_sections: custom sections whose names start with ``icp:``.
        max_custom_bytes: their names (without scope) and contents together.
        max_exported_methods: exported updates, queries and composite queries.
        max_method_name_bytes: their names together.
        max_code_bytes: size of the code section.
        max_function_instructions: instructions of one function.
        max_function_complexity: weighted instructions of one function.
        max_heap_wasm_pages_64: declared maximum of a 64-bit heap.
        max_table_elements: declared minimum of a table.
        reserved_exports: names that may not be exported, as whatever.
        refused_instructions: names of instructions that no function may have.
        extensions: what may be used beyond the network's rules, by the names of `perdure.ic.ic0_ext`.
    """

    functions: Mapping[str, SystemFunction] = field(default_factory=lambda: {**FUNCTIONS, **NON_SPECIFIED})
    max_functions: int = 50_000
    max_globals: int = 1_000
    max_custom_sections: int = 16
    max_custom_bytes: int = 1 << 20
    max_exported_methods: int = 1_000
    max_method_name_bytes: int = 20_000
    max_code_bytes: int = 12 << 20
    max_function_instructions: int = 1_000_000
    max_function_complexity: int = 1_000_000
    max_heap_wasm_pages_64: int = (6 << 30) >> 16
    max_table_elements: int = 1_000_000
    reserved_exports: frozenset[str] = frozenset(
        {
            "canister counter_instructions",
            "canister_start",
            "canister counter_dirty_pages",
            "canister counter_accessed_pages",
            "stable_memory",
            "stable_bytemap_memory",
        }
    )
    refused_instructions: frozenset[str] = frozenset(
        {"table.set", "table.grow", "table.fill", "table.copy", "table.init"}
    )
    extensions: tuple[str, ...] = ()


REPLICA = Policy()
"""Today's rules of the mainnet."""


class PageCharges(NamedTuple):
    """Instructions for a 4 KiB page of heap or stable memory, once an entry each."""

    accessed: int
    """For its first read or write."""
    written: int
    """For its first write, on top."""


class Count(NamedTuple):
    """A number and where it was found: a function's index among those that the module defines, -1: in the module."""

    value: int
    function: int = -1


class Counts(NamedTuple):
    """What a module has."""

    highest: Mapping[str, Count]
    """By the names of `Bounds`: the highest of all functions, or a bound of it where that does not exceed the limit."""
    seconds: float
    """How long compiling takes, roughly, on one core."""
    operators: int
    """Operators of the module as the replica instruments it, which compiling is charged by."""


@final
@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of what is compiled; every limit is inclusive, those from `nesting` on of one function.

    Args:
        excess_milliseconds: how long the module compiles, as estimated, beyond what code of its size usually does.
        types: entries of the type section.
        type_values: parameters and results of its different types.
        imports: entries of the import section.
        exports: entries of the export section.
        locals: parameters and locals of all functions.
        passive_elements: elements of segments that no instantiation uses up.
        nesting: blocks, loops and ifs inside each other.
        block_values: parameters and results of all its blocks, times the number of blocks that have any.
        merged_locals: locals in use, times the places where control flow branches or meets.
        stacked_values: operands that lie on the stack at those places, summed up.
        call_results: results of all its calls.
        costly_instructions: those that take a hundred bytes and more of native code: ``call_indirect``, ``table.get``,
            bulk operations on memory, accesses to stable memory.
    """

    excess_milliseconds: int = 8_000
    types: int = 100_000
    type_values: int = 500_000
    imports: int = 10_000
    exports: int = 100_000
    locals: int = 20_000_000
    passive_elements: int = 100_000
    nesting: int = 10_000
    block_values: int = 30_000_000
    merged_locals: int = 10_000_000
    stacked_values: int = 40_000_000
    call_results: int = 500_000
    costly_instructions: int = 20_000

    def check(self, counts: Counts) -> None:
        """Refuse what exceeds a limit.

        Raises:
            UnsupportedError: with the limit, the count and the place.
        """
        for name, meaning in _MEANING.items():
            count, limit = counts.highest[name], getattr(self, name)
            if count.value > limit:
                place = "the module" if count.function < 0 else f"function {count.function}"
                raise UnsupportedError(
                    f"{place} has {count.value} {meaning}, of which at most {limit} are compiled here (Bounds.{name})"
                )


_MEANING: Final = {
    "excess_milliseconds": "milliseconds of compiling, as estimated, beyond what its size makes usual",
    "types": "types",
    "type_values": "parameters and results of types",
    "imports": "imports",
    "exports": "exports",
    "locals": "parameters and locals of functions",
    "passive_elements": "elements of passive segments",
    "nesting": "blocks inside each other",
    "block_values": "values that blocks hand on (parameters and results times blocks)",
    "merged_locals": "locals that meet (locals times branches)",
    "stacked_values": "operands on the stack across branches",
    "call_results": "results of calls",
    "costly_instructions": "instructions that are costly to compile (call_indirect, bulk memory, stable accesses)",
}
