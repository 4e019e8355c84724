"""The seam between an instrumented module and its host.

Export names, the header of the message memory, the lists of the accounting memory. `kernel.wat` is written against this
page; the embedder reads and writes by it.

An instrumented module has four memories, in this order; where the canister has some of its own, the kernel's come
behind them (`perdure.instrument.memories`)::

    0  memory             the canister's heap (empty if it declared none), 32- or 64-bit
    1  stable_memory      64-bit, native stable memory
    2  accounting_memory  32-bit: which 4 KiB pages of stable memory this message has touched
    3  message_memory     64-bit: header, globals, argument, reply

Accounting memory::

    0x0000_0000  one byte a stable page, 2^27 of them: bit 0 written, bit 1 accessed       ACCESSED | WRITTEN
    0x0800_0000  u32 page indices in the order of first access                             TOUCHED_LIST
    0x2800_0000  u32 page indices in the order of first write                              WRITTEN_LIST

Message memory::

    0x0000_0000  header, see `HEADER`
    0x0001_0000  the saved globals as they are now, 16 bytes each, little-endian           GLOBALS_CURRENT
    0x0004_0000  the saved globals as last committed (the host copies)                     GLOBALS_COMMITTED
    0x0010_0000  argument                                                                  ARGUMENT
    0x0410_0000  reply                                                                     REPLY

A global has one place there, however often it is exported, and at most `MAX_SAVED_GLOBALS` have one.

Protocol. The host fills the in-fields and the argument, then calls one exported entry of type ``() -> ()``:
``canister_update f``, ``canister_start``... or `CALLBACK`. An entry first calls the kernel's ``begin`` (which clears
the accounting of the message before and the out-fields), then the canister, then `FINISH`, which writes the out-fields
and saves the globals to GLOBALS_CURRENT. After a trap the host calls `FINISH` itself; ``trap_code`` was written by the
kernel right before its ``unreachable``, and stays 0 when Wasm trapped by itself. `LOAD_GLOBALS` sets all mutable
globals from GLOBALS_COMMITTED.

Host functions charge nothing and account for nothing: `link` wraps every import in a function that charges its cost
before the call and, for stable memory behind host calls, marks the pages after it.
"""

from __future__ import annotations

from struct import calcsize
from typing import NamedTuple

__all__ = [
    "ACCESSED",
    "ACCOUNTING_WASM_PAGES",
    "ARGUMENT",
    "CALLBACK",
    "FINISH",
    "GLOBALS_COMMITTED",
    "GLOBALS_CURRENT",
    "GLOBAL_BYTES",
    "HEADER",
    "LOAD_GLOBALS",
    "MAX_ARGUMENT_BYTES",
    "MAX_REPLY_BYTES",
    "MAX_SAVED_GLOBALS",
    "MEMORY_NAMES",
    "MESSAGE_WASM_PAGES",
    "NATIVE_MESSAGE_FUNCTIONS",
    "NATIVE_STABLE_FUNCTIONS",
    "REPLY",
    "TOUCHED_LIST",
    "WRITTEN",
    "WRITTEN_LIST",
    "Field",
]

MEMORY_NAMES = ("memory", "stable_memory", "accounting_memory", "message_memory")

CALLBACK = "perdure callback"
FINISH = "perdure finish"
LOAD_GLOBALS = "perdure load_globals"

WRITTEN = 1
ACCESSED = 2
TOUCHED_LIST = 0x0800_0000
WRITTEN_LIST = 0x2800_0000
ACCOUNTING_WASM_PAGES = 0x4800_0000 >> 16

GLOBAL_BYTES = 16
GLOBALS_CURRENT = 0x0001_0000
GLOBALS_COMMITTED = 0x0004_0000
MAX_SAVED_GLOBALS = (GLOBALS_COMMITTED - GLOBALS_CURRENT) // GLOBAL_BYTES
ARGUMENT = 0x0010_0000
REPLY = 0x0410_0000
MAX_ARGUMENT_BYTES = REPLY - ARGUMENT
MAX_REPLY_BYTES = 0x0400_0000
MESSAGE_WASM_PAGES = (REPLY + MAX_REPLY_BYTES) >> 16

NATIVE_STABLE_FUNCTIONS = (
    "stable_size",
    "stable_grow",
    "stable_read",
    "stable_write",
    "stable64_size",
    "stable64_grow",
    "stable64_read",
    "stable64_write",
)

NATIVE_MESSAGE_FUNCTIONS = (
    "msg_arg_data_size",
    "msg_arg_data_copy",
    "msg_caller_size",
    "msg_caller_copy",
    "msg_reply_data_append",
    "msg_reply",
    "time",
    "performance_counter",
)
"""Their places are the numbers that the kernel writes to ``trap_function``."""


class Field(NamedTuple):
    """One field of the header: where it lies and its `struct` format, little-endian."""

    offset: int
    format: str

    @property
    def size_bytes(self) -> int:
        """Bytes that the field takes."""
        return calcsize("<" + self.format)


HEADER = {
    # in: filled by the host before an entry
    "context": Field(0x00, "I"),  # one bit, `Context.bit`
    "responded": Field(0x04, "I"),  # in and out: 0 may respond, 1 replied or need not, 2 rejected
    "instruction_limit": Field(0x08, "q"),
    "accessed_page_limit": Field(0x10, "q"),
    "dirty_page_limit": Field(0x18, "q"),
    "stable_limit_wasm_pages": Field(0x20, "q"),  # a grow past it returns -1
    "stable_trap_wasm_pages": Field(0x28, "q"),  # a grow past it traps with stable_trap_code
    "heap_limit_wasm_pages": Field(0x30, "q"),  # a grow past it traps with heap_trap_code
    "stable_trap_code": Field(0x38, "H"),
    "heap_trap_code": Field(0x3A, "H"),
    "accessed_page_instructions": Field(0x3C, "I"),
    "time_ns": Field(0x40, "Q"),
    "call_context_instructions": Field(0x48, "Q"),
    "argument_bytes": Field(0x50, "I"),
    "caller_bytes": Field(0x54, "I"),
    "reply_limit_bytes": Field(0x58, "I"),
    "dirty_page_instructions": Field(0x5C, "I"),
    "caller": Field(0x60, "32s"),
    "callback_index": Field(0x80, "Q"),
    "callback_environment": Field(0x88, "Q"),
    "log_capacity_bytes": Field(0x90, "I"),  # bytes of lines that the log can hold
    "log_room_bytes": Field(0x94, "I"),  # in and out: bytes that are left in it, of this message's own lines
    "print_instructions": Field(0x98, "Q"),  # for each byte of debug_print on top: 1 where printing is on, else 0
    # out: cleared by `begin`, written while the canister runs
    "reply_bytes": Field(0xA0, "I"),
    "trap_code": Field(0xA4, "I"),
    "trap_function": Field(0xA8, "I"),  # index in NATIVE_MESSAGE_FUNCTIONS; only with CONTRACT_VIOLATION and 12 to 14
    "trap_kind": Field(0xAC, "I"),  # 0 wrong context, 1 bad argument, n + 2 bytes outside a heap of n Wasm pages
    "trap_offset": Field(0xB0, "Q"),  # ARGUMENT_OUT_OF_BOUNDS: offset or address; REPLY_TOO_LARGE: bytes in all
    "trap_size": Field(0xB8, "Q"),  # ARGUMENT_OUT_OF_BOUNDS: bytes asked for
    # out: written by FINISH
    "instructions_left": Field(0xC0, "q"),  # may be negative after a success: charge the limit
    "accessed_pages_left": Field(0xC8, "q"),
    "dirty_pages_left": Field(0xD0, "q"),
    "heap_wasm_pages": Field(0xD8, "Q"),
    "stable_wasm_pages": Field(0xE0, "Q"),
    "touched_end": Field(0xE8, "I"),  # address after the last entry of TOUCHED_LIST
    "written_end": Field(0xEC, "I"),  # address after the last entry of WRITTEN_LIST
    "dropped": Field(0xF0, "I"),  # 1: data.drop or elem.drop ran, instantiate anew
    "written_memories": Field(0xF4, "I"),  # a bit for each memory of the canister's own that may have been written
}
