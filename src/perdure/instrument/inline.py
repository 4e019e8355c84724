"""Put a function's body where it is called: the call is what costs most of a short one.

A call of `ic0.stable64_write` takes 1.6 ns before it does anything, the hot path of its body 0.7 ns; so the kernel's
own bodies, from its text, are copied to the calls::

    local.set s+2; local.set s+1; local.set s      the arguments, into scratch locals
    block                                          of the type of the result, if there is one
      ... the body, its locals renumbered, `return` a branch to the end of the block
    end
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from perdure.errors import InternalError
from perdure.wasm import (
    OPCODE_BY_NAME,
    OPCODES,
    FuncType,
    Immediate,
    ImmediateValue,
    ValType,
    encode_instruction,
    encode_unsigned,
    instructions,
    locals_end,
)
from perdure.wasm.instructions import read_locals
from perdure.wasm.reader import Reader

__all__ = ["Inlined", "scratch_locals", "with_scratch_locals"]

_NESTING = {OPCODE_BY_NAME[name].number: 1 for name in ("block", "loop", "if")} | {OPCODE_BY_NAME["end"].number: -1}
_RETURN = OPCODE_BY_NAME["return"].number
_NO_RESULT = -0x40  # block type


@final
class Inlined:
    """A body without locals of its own and with at most one result, ready to be put in place of a call.

    Args:
        func_type: its type.
        body: its code, local declarations included, indices those of the module it goes to.
    """

    def __init__(self, func_type: FuncType, body: bytes) -> None:
        if body[0] or len(func_type.results) > 1:
            raise InternalError(f"a function of type {func_type} with {body[0]} groups of locals cannot be inlined")
        self.params = func_type.params
        self._block_type = func_type.results[0] - 0x80 if func_type.results else _NO_RESULT
        self._pieces = list(_pieces(body))
        self._made: dict[tuple[int, Sequence[ValType]], bytes] = {}

    def at(self, first_local: int, scratch: tuple[ValType, ...]) -> bytes:
        """The code, with its scratch locals among those from `first_local` on, which are of types `scratch`."""
        key = first_local, scratch
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make([first_local + place for place in self._places(scratch)])
        return made

    def _places(self, scratch: Sequence[ValType]) -> list[int]:
        """Of each parameter its place in `scratch`: those of one type stand in the order of the parameters."""
        return [
            scratch.index(value_type) + self.params[:place].count(value_type)
            for place, value_type in enumerate(self.params)
        ]

    def _make(self, places: Sequence[int]) -> bytes:
        arguments = b"".join(encode_instruction(OPCODE_BY_NAME["local.set"], (place,)) for place in reversed(places))
        body = b"".join(
            piece if isinstance(piece, bytes) else piece[0] + encode_unsigned(places[piece[1]])
            for piece in self._pieces
        )
        # The body's own `end` closes the block.
        return arguments + encode_instruction(OPCODE_BY_NAME["block"], (self._block_type,)) + body


def scratch_locals(inlines: Iterable[Inlined]) -> tuple[ValType, ...]:
    """Types of the locals that any of these bodies can work with: of each type as many as one of them needs."""
    most: dict[ValType, int] = {}
    for inlined in inlines:
        for value_type in inlined.params:
            most[value_type] = max(most.get(value_type, 0), inlined.params.count(value_type))
    return tuple(value_type for value_type, count in most.items() for _ in range(count))


def _pieces(body: bytes) -> Sequence[bytes | tuple[bytes, int]]:
    """The instructions: bytes, or for one that names a local its opcode and the local."""
    pieces: list[bytes | tuple[bytes, int]] = []
    depth = 0
    for instruction in instructions(body, locals_end(body)):
        opcode = OPCODES[instruction.opcode]
        values: tuple[ImmediateValue, ...] = instruction.immediates
        if instruction.opcode == _RETURN:
            pieces.append(encode_instruction(OPCODE_BY_NAME["br"], (depth,)))
        elif opcode.immediates == (Immediate.LOCAL,) and isinstance(values[0], int):
            pieces.append((bytes((instruction.opcode,)), values[0]))
        else:
            pieces.append(body[instruction.start : instruction.end])
        depth += _NESTING.get(instruction.opcode, 0)
    return pieces


def with_scratch_locals(body: bytes, params: int, scratch: Sequence[ValType]) -> tuple[int, bytes]:
    """Declare `scratch`, those of one type side by side, behind a body's own locals.

    Returns:
        The index of the first scratch local, and the new local declarations.
    """
    reader = Reader(body)
    own_groups = read_locals(reader)
    groups = [*own_groups, *((scratch.count(val_type), int(val_type)) for val_type in dict.fromkeys(scratch))]
    declared = b"".join(encode_unsigned(count) + bytes((val_type,)) for count, val_type in groups)
    own = sum(count for count, _ in own_groups)
    return params + own, encode_unsigned(len(groups)) + declared
