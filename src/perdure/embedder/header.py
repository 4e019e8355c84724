"""The header of a module's message memory, as the host writes and reads it; `perdure.instrument.abi` places it."""

from __future__ import annotations

import struct

from perdure.canister import Env
from perdure.instrument import abi

__all__ = ["LEFT", "LOG_ROOM", "OUT", "OUT_OFFSET", "RESPONDED", "ROOM", "WRITTEN_END", "fill"]

_FIELDS = list(abi.HEADER.values())
OUT_OFFSET = abi.HEADER["reply_bytes"].offset
_IN = struct.Struct("<" + "".join(field.format for field in _FIELDS if field.offset < OUT_OFFSET))
OUT = struct.Struct("<" + "".join(field.format for field in _FIELDS if field.offset >= OUT_OFFSET))
RESPONDED = abi.HEADER["responded"].offset
LOG_ROOM = abi.HEADER["log_room_bytes"].offset
ROOM = struct.Struct("<" + abi.HEADER["log_room_bytes"].format)
_MAX_CALLER_BYTES = abi.HEADER["caller"].size_bytes
LEFT = [field.offset for field in _FIELDS if field.offset >= OUT_OFFSET].index(abi.HEADER["instructions_left"].offset)
"""Which of the out-fields says how many instructions are left; those of pages follow it."""
WRITTEN_END = [field.offset for field in _FIELDS if field.offset >= OUT_OFFSET].index(abi.HEADER["written_end"].offset)
"""Which of them says where the list of written pages ends; the one before it, of touched ones."""


def fill(
    view: memoryview,
    env: Env,
    page_charges: tuple[int, int] | None,
    callback_index: int,
    callback_environment: int,
) -> None:
    """Write the in-fields and the argument.

    Args:
        view: of the message memory.
        env: what the entry may see.
        page_charges: for a page that is first accessed and for one first written, where the schedule has them.
        callback_index: of the function in the table, for a callback.
        callback_environment: its argument.

    Raises:
        ValueError: the argument or the caller is longer than can be.
    """
    limits, argument = env.limits, env.arg
    access_price, write_price = page_charges or (0, limits.dirty_page_instructions)
    if len(argument) > abi.MAX_ARGUMENT_BYTES or len(env.caller) > _MAX_CALLER_BYTES:
        raise ValueError(f"an argument of {len(argument)} bytes, a caller of {len(env.caller)}")
    _IN.pack_into(
        view,
        0,
        env.context.bit,
        0 if env.needs_to_respond else 1,
        limits.instructions,
        limits.stable_accessed_pages,
        limits.stable_dirty_pages,
        limits.stable_wasm_pages,
        limits.stable_trap_wasm_pages,
        limits.heap_wasm_pages,
        limits.stable_trap_code,
        limits.heap_trap_code,
        access_price,
        env.time_ns,
        env.call_context_instructions,
        len(argument),
        len(env.caller),
        limits.reply_bytes,
        write_price,
        env.caller,
        callback_index,
        callback_environment,
        limits.log_bytes,
        limits.log_bytes,
        limits.print_instructions,
    )
    if argument:
        view[abi.ARGUMENT : abi.ARGUMENT + len(argument)] = argument
