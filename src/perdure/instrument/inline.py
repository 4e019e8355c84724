"""Put a function's body where it is called: the call is what costs most of a short one.

A call of `ic0.stable64_write` takes 1.6 ns before it does anything, the hot path of its body 0.7 ns; so the kernel's
own bodies, from its text, are copied to the calls::

    local.set s+2; local.set s+1; local.set s      the arguments, into scratch locals
    block
      ... the body, its locals renumbered, `return` a branch to the end of the block
    end
"""

from __future__ import annotations

from collections.abc import Sequence
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

__all__ = ["Inlined", "with_scratch_locals"]

_NESTING = {OPCODE_BY_NAME[name].number: 1 for name in ("block", "loop", "if")} | {OPCODE_BY_NAME["end"].number: -1}
_RETURN = OPCODE_BY_NAME["return"].number
_NO_RESULT = -0x40  # block type


@final
class Inlined:
    """A body without locals and results of its own, ready to be put in place of a call.

    Args:
        func_type: its type; all parameters of one value type.
        body: its code, local declarations included, indices those of the module it goes to.
    """

    def __init__(self, func_type: FuncType, body: bytes) -> None:
        if body[0] or func_type.results or len(set(func_type.params)) != 1:
            raise InternalError(f"a function of type {func_type} with {body[0]} groups of locals cannot be inlined")
        self.params = func_type.params
        self._pieces = list(_pieces(body))
        self._made: dict[int, bytes] = {}

    def at(self, first_local: int) -> bytes:
        """The code, with its scratch locals from `first_local` on."""
        made = self._made.get(first_local)
        if made is None:
            made = self._made[first_local] = self._make(first_local)
        return made

    def _make(self, first_local: int) -> bytes:
        arguments = b"".join(
            encode_instruction(OPCODE_BY_NAME["local.set"], (first_local + place,))
            for place in reversed(range(len(self.params)))
        )
        body = b"".join(
            piece if isinstance(piece, bytes) else piece[0] + encode_unsigned(first_local + piece[1])
            for piece in self._pieces
        )
        # The body's own `end` closes the block.
        return arguments + encode_instruction(OPCODE_BY_NAME["block"], (_NO_RESULT,)) + body


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
    """Declare `scratch`, all of one type, behind a body's own locals.

    Returns:
        The index of the first scratch local, and the new local declarations.
    """
    reader = Reader(body)
    groups = [*read_locals(reader), (len(scratch), scratch[0])]
    declared = b"".join(encode_unsigned(count) + bytes((val_type,)) for count, val_type in groups)
    own = sum(count for count, _ in groups[:-1])
    return params + own, encode_unsigned(len(groups)) + declared
