"""What linking appends to a module, and how tables come to hold what was appended in place of an import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

from perdure.wasm import (
    OPCODE_BY_NAME,
    Code,
    ConstExpr,
    Element,
    FuncType,
    Immediate,
    ImmediateValue,
    MemArg,
    Module,
    encode_instruction,
    instructions,
    map_indices,
)

__all__ = ["Appendix", "op", "redirect_elements", "trap_saying"]


@final
class Appendix:
    """Types and functions to append to a module."""

    def __init__(self, module: Module) -> None:
        self.types = list(module.types)
        # The first of equal types counts, as in a search from the front.
        self._places = {func_type: place for place, func_type in reversed([*enumerate(self.types)])}
        self.first_function = module.function_count
        self.type_indices: list[int] = []
        self.codes: list[Code] = []

    def type_index(self, func_type: FuncType) -> int:
        """Index of a type, which is added where the module does not have it."""
        place = self._places.setdefault(func_type, len(self.types))
        if place == len(self.types):
            self.types.append(func_type)
        return place

    def append(self, func_type: FuncType, body: bytes) -> int:
        """A function of these instructions, without locals; its index."""
        return self.append_code(func_type, b"\0" + body + op("end"))

    def append_code(self, func_type: FuncType, code: bytes) -> int:
        """A function of this body, local declarations and the last `end` included; its index."""
        self.type_indices.append(self.type_index(func_type))
        self.codes.append(Code(code))
        return self.next_function - 1

    @property
    def next_function(self) -> int:
        """The index that the next function gets."""
        return self.first_function + len(self.codes)


def op(name: str, *immediates: ImmediateValue) -> bytes:
    """One instruction, by its name in the text format."""
    return encode_instruction(OPCODE_BY_NAME[name], immediates)


def trap_saying(text: bytes, trap: int, *, is_64: bool) -> bytes:
    """Code that traps with this text, which it writes to the start of the heap: the trap undoes it.

    Args:
        text: what to say, of any length that the heap has.
        trap: index of ``ic0.trap``.
        is_64: whether the heap has 64-bit addresses.
    """
    pointer = "i64.const" if is_64 else "i32.const"
    stores = (
        op(pointer, place)
        + op("i64.const", int.from_bytes(text[place : place + 8], "little", signed=True))
        + op("i64.store", MemArg(0, 0))
        for place in range(0, len(text), 8)
    )
    return b"".join(stores) + op(pointer, 0) + op(pointer, len(text)) + op("call", trap) + op("unreachable")


def redirect_elements(elements: tuple[Element, ...], redirects: Mapping[int, int]) -> tuple[Element, ...]:
    """Tables hold what stands for a replaced import, so that indirect calls go there as well."""

    def redirected(item: int | ConstExpr) -> int | ConstExpr:
        if isinstance(item, int):
            return redirects.get(item, item)
        move: Mapping[Immediate, Callable[[int], int]] = {Immediate.FUNCTION: lambda index: redirects.get(index, index)}
        return ConstExpr(map_indices(item.code, move))

    if not any(_mentions(item, redirects) for element in elements for item in element.items):
        return elements
    return tuple(
        element._replace(items=tuple(redirected(item) for item in element.items))  # type: ignore[arg-type]
        for element in elements
    )


def _mentions(item: int | ConstExpr, functions: Mapping[int, int]) -> bool:
    if isinstance(item, int):
        return item in functions
    return any(step.opcode == 0xD2 and step.immediates[0] in functions for step in instructions(item.code))
