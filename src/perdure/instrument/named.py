"""Named memories for languages whose compilers know one memory: a function import stands for an instruction.

``(import "stable:users" "i64.load" (func (param i64) (result i64)))`` is an import as any toolchain writes it. Here its
calls become the instruction itself, on a memory ``users`` that is appended behind the module's own; no index moves. The
type of the address says how wide those of the memory are, and has to be the same in all imports of one memory::

    i64.load ... i32.store8    as the instruction         address, or address and value
    size, grow                 memory.size, memory.grow
    copy_in                    to here from the heap      address here, address there, bytes
    copy_out                   to the heap from here      address there, address here, bytes
    fill                       memory.fill                address, value, bytes
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import Final, NamedTuple, NoReturn

from perdure.errors import InvalidModuleError
from perdure.ic import ic0_ext
from perdure.ic.ic0_ext import DIRECT
from perdure.instrument.appendix import Appendix, op, redirect_elements
from perdure.instrument.memories import LIFETIMES, NAMED_POLICY
from perdure.instrument.metering import Rewrite, rewrite_codes
from perdure.wasm import (
    ExternKind,
    FuncType,
    Import,
    Limits,
    MemArg,
    MemoryType,
    Module,
    ValType,
)

__all__ = ["Named", "has_named_memories", "in_place_of_imports", "with_named_memories"]


class Named(NamedTuple):
    """A module in which instructions stand for the imports, and the memories that were appended for them."""

    module: Module
    sources: Mapping[int, tuple[str, str]]
    """Where each would be imported from, and its name, by index."""


class _Access(NamedTuple):
    """One import: the function's index, its memory, what it does and its type."""

    function: int
    source: tuple[str, str]
    operation: str
    type: FuncType


def has_named_memories(item: Import) -> bool:
    """Whether an import is one that an instruction can stand for."""
    source, colon, _ = item.module.partition(":")
    return item.kind is ExternKind.FUNCTION and bool(colon) and source in LIFETIMES


def with_named_memories(module: Module, extensions: Collection[str]) -> Named:
    """Put instructions in place of the calls of imports such as ``stable:users`` ``i64.load``.

    Raises:
        InvalidModuleError: the extension is off, there is no such operation, or it has another type.
    """
    accesses = list(_accesses(module))
    if not accesses:
        return Named(module, {})
    if NAMED_POLICY not in extensions:
        _refuse(accesses[0], ic0_ext.how_to_allow(NAMED_POLICY))
    heap = _heap(module)
    numbers, wide = _numbered(module, accesses), _widths(accesses)
    instead = {one.function: _code(one, numbers[one.source], heap, wide[one.source]) for one in accesses}
    appended = [source for source in numbers if numbers[source] >= len(module.all_memories)]
    memories = tuple(MemoryType(Limits(0, None, wide[source])) for source in appended)
    changed = in_place_of_imports(module, instead)
    changed = replace(changed, memories=module.memories + memories)
    return Named(changed, {numbers[source]: source for source in appended})


def in_place_of_imports(module: Module, instead: Mapping[int, bytes]) -> Module:
    """Code in place of the calls of imported functions, by index; tables and exports get functions of that code.

    The imports stay where they are, as one of ``ic0`` that nobody calls: no index moves.

    Args:
        module: any.
        instead: takes a function's parameters from the stack, leaves its results there.
    """
    appendix = Appendix(module)
    redirects = {}
    for function, code in instead.items():
        kind = module.function_type(function)
        arguments = b"".join(op("local.get", place) for place in range(len(kind.params)))
        redirects[function] = appendix.append(kind, arguments + code)
    uncalled = Import("ic0", "msg_reply", ExternKind.FUNCTION, appendix.type_index(FuncType()))
    places = count()
    return replace(
        module,
        types=tuple(appendix.types),
        imports=tuple(
            uncalled if item.kind is ExternKind.FUNCTION and next(places) in instead else item
            for item in module.imports
        ),
        function_type_indices=module.function_type_indices + tuple(appendix.type_indices),
        codes=rewrite_codes(module.codes, Rewrite(redirects=redirects, instead=instead)) + tuple(appendix.codes),
        elements=redirect_elements(module.elements, redirects),
        exports=tuple(
            replace(item, index=redirects.get(item.index, item.index)) if item.kind is ExternKind.FUNCTION else item
            for item in module.exports
        ),
    )


def _accesses(module: Module) -> Iterator[_Access]:
    for index, item in enumerate(module.imported(ExternKind.FUNCTION)):
        if has_named_memories(item):
            lifetime, _, name = item.module.partition(":")
            yield _Access(index, (lifetime, name), item.name, module.function_type(index))


def _refuse(access: _Access, message: str) -> NoReturn:
    raise InvalidModuleError(
        "Wasm module has an invalid import section. Module imports function "
        f"'{access.operation}' from '{':'.join(access.source)}': {message}."
    )


def _heap(module: Module) -> tuple[int, bool] | None:
    """Index and width of the memory that ``copy_in`` and ``copy_out`` go from and to, if there is one."""
    sources = [item.module for item in module.imported(ExternKind.MEMORY)]
    for index, kind in enumerate(module.all_memories):
        if index >= len(sources) or sources[index] == "env":
            return index, kind.is_64
    return None


def _numbered(module: Module, accesses: Collection[_Access]) -> dict[tuple[str, str], int]:
    """The index of each memory, be it one that the module imports as a memory too."""
    imported = [(item.module, item.name) for item in module.imported(ExternKind.MEMORY)]
    found = {source: index for index, source in enumerate(imported) if source[0] in LIFETIMES}
    for access in accesses:
        found.setdefault(access.source, len(module.all_memories) + sum(at >= len(imported) for at in found.values()))
    return found


def _widths(accesses: Collection[_Access]) -> dict[tuple[str, str], bool]:
    """Whether the addresses of each memory have 64 bits, as its imports say with one voice."""
    found: dict[tuple[str, str], tuple[bool, _Access]] = {}
    for access in accesses:
        types = access.type.params[1:2] if access.operation == "copy_out" else access.type.params[:1]
        (address,) = types or access.type.results[:1] or (ValType.I64,)
        known = found.setdefault(access.source, (address is ValType.I64, access))
        if known[0] is not (address is ValType.I64):
            _refuse(access, f"its addresses are {address.text}, those of '{known[1].operation}' are not")
    return {source: wide for source, (wide, _) in found.items()}


def _code(access: _Access, memory: int, heap: tuple[int, bool] | None, wide: bool) -> bytes:
    """The instruction, whose arguments are on the stack."""
    address = ValType.I64 if wide else ValType.I32
    pointer = ValType.I64 if heap is not None and heap[1] else ValType.I32
    length = ValType.I64 if wide and pointer is ValType.I64 else ValType.I32
    code, expected = b"", FuncType()
    if access.operation in _ACCESSES:
        value_type, is_store = _ACCESSES[access.operation]
        expected = FuncType((address, value_type)) if is_store else FuncType((address,), (value_type,))
        code = op(access.operation, MemArg(0, 0, memory))
    elif access.operation in {"copy_in", "copy_out"} and heap is None:
        _refuse(access, "the module has no heap to copy from or to")
    elif heap is not None and access.operation == "copy_in":
        code, expected = op("memory.copy", memory, heap[0]), FuncType((address, pointer, length))
    elif heap is not None and access.operation == "copy_out":
        code, expected = op("memory.copy", heap[0], memory), FuncType((pointer, address, length))
    elif access.operation in _WHOLE:
        name, parameters, results = _WHOLE[access.operation]
        sides = ([address if item == "A" else ValType.I32 for item in side] for side in (parameters, results))
        code, expected = op(name, memory), FuncType(*map(tuple, sides))
    else:
        known = ", ".join((*_ACCESSES, "copy_in", "copy_out", *_WHOLE))
        _refuse(access, f"there is no such operation, but {known}")
    if access.type != expected:
        _refuse(access, f"its type is {access.type}, expected {expected}")
    return code


_ACCESSES: Final = {
    access.instruction: (ValType[access.value_type.upper()], access.is_store) for access in DIRECT.values()
}
_WHOLE: Final = {
    "size": ("memory.size", "", "A"),
    "grow": ("memory.grow", "A", "A"),
    "fill": ("memory.fill", "AIA", ""),
}
