"""Programs for the universal canister: a stack machine with every function of ic0 among its instructions.

    from universal import Program

    Program().msg_reply_data_append(Program().msg_caller()).msg_reply()   # or .reply(Program().msg_caller())
    Program().call(other, "update", Program().reply(b"pong"), on_reply=Program().reply(Program().msg_arg_data()))

Each method appends one instruction and returns the program. An operand is a value or a program that leaves the value
on the stack; `STACK`, the empty program, takes what is there already. A function of ic0 keeps its name and the order
of its parameters; one with a result pushes it. Two kinds of value lie on the stack, both made of 64-bit numbers:

- a *number*: `int`, or a program that pushes one number;
- a *span*, which is where bytes lie: `bytes` or `str`, or a program that pushes an address and then a size. Where ic0
  takes an address and a size in a row, the method takes a span; `Program().span(address, size)` names any place, also
  one that does not exist.

The methods at the end of the class are put together from instructions: they fetch what ic0 gives in two calls, read
its 128-bit results, reply, and make whole calls. They use the registers 253 to 255.

Entry points: `update`, `query` and `composite_query` run their argument, as do init and post_upgrade. The other entry
points run the hook that `hook` set; without one they do nothing, and inspection accepts. A callback is the program
that `callback` saved. Registers, slots and hooks are state like any other: a trap and a query undo what is done to
them, an upgrade loses them. The query `functions` names the functions of ic0 in the order of their opcodes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, TypeAlias

FIRST_FUNCTION: Final = 64
"""The opcode of the first function of `FUNCTIONS`."""


class Instruction(IntEnum):
    """The machine's own instructions, as in ``universal.c``."""

    NUMBER = 0
    BYTES = 1
    DROP = 2
    DUP = 3
    SWAP = 4
    GET = 5
    SET = 6
    ADD = 7
    SUB = 8
    MUL = 9
    DIV = 10
    REM = 11
    AND = 12
    OR = 13
    XOR = 14
    SHL = 15
    SHR = 16
    EQ = 17
    LT = 18
    F64DIV = 19
    ALLOC = 20
    FILL = 21
    CONCAT = 22
    EQUAL = 23
    LOAD8 = 24
    LOAD64 = 25
    STORE8 = 26
    STORE64 = 27
    MEMORY_SIZE = 28
    MEMORY_GROW = 29
    SAVE = 30
    LOAD = 31
    HOOK = 32
    CALLBACK = 33
    RUN = 34
    INVOKE = 35
    MISTYPED = 36
    IF = 37
    REPEAT = 38
    UNREACHABLE = 39


class Hook(IntEnum):
    """Entry points that run a program set beforehand."""

    PRE_UPGRADE = 0
    HEARTBEAT = 1
    GLOBAL_TIMER = 2
    INSPECT_MESSAGE = 3
    ON_LOW_WASM_MEMORY = 4


FUNCTIONS: Final[tuple[str, ...]] = (
    "msg_arg_data_size",
    "msg_arg_data_copy",
    "msg_caller_size",
    "msg_caller_copy",
    "msg_caller_info_data_size",
    "msg_caller_info_data_copy",
    "msg_caller_info_signer_size",
    "msg_caller_info_signer_copy",
    "msg_reject_code",
    "msg_reject_msg_size",
    "msg_reject_msg_copy",
    "msg_deadline",
    "msg_reply_data_append",
    "msg_reply",
    "msg_reject",
    "msg_cycles_available128",
    "msg_cycles_refunded128",
    "msg_cycles_accept128",
    "cycles_burn128",
    "canister_self_size",
    "canister_self_copy",
    "canister_cycle_balance128",
    "canister_liquid_cycle_balance128",
    "canister_status",
    "canister_version",
    "subnet_self_size",
    "subnet_self_copy",
    "msg_method_name_size",
    "msg_method_name_copy",
    "accept_message",
    "call_new",
    "call_on_cleanup",
    "call_data_append",
    "call_with_best_effort_response",
    "call_cycles_add128",
    "call_perform",
    "stable64_size",
    "stable64_grow",
    "stable64_write",
    "stable64_read",
    "root_key_size",
    "root_key_copy",
    "certified_data_set",
    "data_certificate_present",
    "data_certificate_size",
    "data_certificate_copy",
    "time",
    "global_timer_set",
    "performance_counter",
    "is_controller",
    "in_replicated_execution",
    "cost_call",
    "cost_create_canister",
    "cost_http_request",
    "cost_sign_with_ecdsa",
    "cost_sign_with_schnorr",
    "cost_vetkd_derive_key",
    "env_var_count",
    "env_var_name_size",
    "env_var_name_copy",
    "env_var_name_exists",
    "env_var_value_size",
    "env_var_value_copy",
    "debug_print",
    "trap",
    "msg_cycles_available",
    "msg_cycles_refunded",
    "msg_cycles_accept",
    "canister_cycle_balance",
    "call_cycles_add",
    "stable_size",
    "stable_grow",
    "stable_write",
    "stable_read",
)
"""All functions of ic0 in the order of their opcodes; the last nine exist with a 32-bit heap alone."""

FUNCTIONS_32: Final[frozenset[str]] = frozenset(FUNCTIONS[-9:])
"""Functions that trap in the build with a 64-bit heap, which does not import them."""


class Program:
    """A program for the universal canister; `bytes(program)` is what to send.

    Numbers are cut down to 64 bits, so ``-1`` is all ones. A program can be an operand of several others, which take a
    copy of it.
    """

    def __init__(self, code: bytes = b"") -> None:
        self._code = bytearray(code)

    def __bytes__(self) -> bytes:
        return bytes(self._code)

    def __len__(self) -> int:
        return len(self._code)

    def __repr__(self) -> str:
        return f"Program({bytes(self._code)!r})"

    # --- how programs are put together --------------------------------------------------------------------------------

    def _put(self, instruction: Instruction, immediate: bytes = b"") -> Program:
        self._code += bytes((instruction,)) + immediate
        return self

    def _operands(self, *operands: Operand) -> Program:
        for operand in operands:
            if isinstance(operand, int):
                self.number(operand)
            elif isinstance(operand, Program):
                self._code += operand._code
            else:
                self.data(operand)
        return self

    def _instruction(self, instruction: Instruction, *operands: Operand) -> Program:
        return self._operands(*operands)._put(instruction)

    def _function(self, name: str, *operands: Operand) -> Program:
        self._operands(*operands)
        self._code.append(FIRST_FUNCTION + FUNCTIONS.index(name))
        return self

    def then(self, program: Program) -> Program:
        """Everything that `program` does, behind this one."""
        return self._operands(program)

    # --- the machine --------------------------------------------------------------------------------------------------

    def number(self, value: int) -> Program:
        """Push a number."""
        return self._put(Instruction.NUMBER, (value & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little"))

    def data(self, value: bytes | str) -> Program:
        """Push the span of these bytes; they lie in the program itself."""
        data = value.encode() if isinstance(value, str) else value
        return self._put(Instruction.BYTES, len(data).to_bytes(4, "little") + data)

    def span(self, address: Number, size: Number) -> Program:
        """Push a span at any address and of any size."""
        return self._operands(address, size)

    def drop(self) -> Program:
        """Forget the number on top; a span is two of them."""
        return self._put(Instruction.DROP)

    def dup(self) -> Program:
        """Push the number on top once more."""
        return self._put(Instruction.DUP)

    def swap(self) -> Program:
        """Exchange the two numbers on top."""
        return self._put(Instruction.SWAP)

    def get(self, register: int) -> Program:
        """Push the register, 0 to 255; zero at first. Registers are mutable state on the heap."""
        return self._put(Instruction.GET, bytes((register,)))

    def set(self, register: int, value: Number) -> Program:
        """Put a number into a register."""
        return self._operands(value)._put(Instruction.SET, bytes((register,)))

    def add(self, a: Number, b: Number) -> Program:
        """Push ``a + b``; this and what follows is unsigned and wraps at 64 bits."""
        return self._instruction(Instruction.ADD, a, b)

    def sub(self, a: Number, b: Number) -> Program:
        """Push ``a - b``."""
        return self._instruction(Instruction.SUB, a, b)

    def mul(self, a: Number, b: Number) -> Program:
        """Push ``a * b``."""
        return self._instruction(Instruction.MUL, a, b)

    def div(self, a: Number, b: Number) -> Program:
        """Push ``a // b``; by zero it traps as Wasm does."""
        return self._instruction(Instruction.DIV, a, b)

    def rem(self, a: Number, b: Number) -> Program:
        """Push ``a % b``; by zero it traps as Wasm does."""
        return self._instruction(Instruction.REM, a, b)

    def bit_and(self, a: Number, b: Number) -> Program:
        """Push ``a & b``."""
        return self._instruction(Instruction.AND, a, b)

    def bit_or(self, a: Number, b: Number) -> Program:
        """Push ``a | b``."""
        return self._instruction(Instruction.OR, a, b)

    def bit_xor(self, a: Number, b: Number) -> Program:
        """Push ``a ^ b``."""
        return self._instruction(Instruction.XOR, a, b)

    def shl(self, a: Number, b: Number) -> Program:
        """Push ``a << (b % 64)``."""
        return self._instruction(Instruction.SHL, a, b)

    def shr(self, a: Number, b: Number) -> Program:
        """Push ``a >> (b % 64)``."""
        return self._instruction(Instruction.SHR, a, b)

    def eq(self, a: Number, b: Number) -> Program:
        """Push 1 where the numbers are equal, else 0."""
        return self._instruction(Instruction.EQ, a, b)

    def lt(self, a: Number, b: Number) -> Program:
        """Push 1 where ``a < b``, else 0."""
        return self._instruction(Instruction.LT, a, b)

    def f64_div(self, a: Number, b: Number) -> Program:
        """Push the bits of ``a / b`` for two numbers that are the bits of floats; 0 / 0 shows how NaNs look."""
        return self._instruction(Instruction.F64DIV, a, b)

    # --- memory and state ---------------------------------------------------------------------------------------------

    def alloc(self, size: Number) -> Program:
        """Push the address of memory that lasts until the message ends; what is in it is undefined."""
        return self._instruction(Instruction.ALLOC, size)

    def fill(self, byte: Number, size: Number) -> Program:
        """Push a span of that many equal bytes."""
        return self._instruction(Instruction.FILL, byte, size)

    def concat(self, first: Span, second: Span) -> Program:
        """Push a span with the bytes of both."""
        return self._instruction(Instruction.CONCAT, first, second)

    def equal(self, first: Span, second: Span) -> Program:
        """Push 1 where both spans hold the same bytes, else 0."""
        return self._instruction(Instruction.EQUAL, first, second)

    def load8(self, address: Number) -> Program:
        """Push the byte of the heap at an address."""
        return self._instruction(Instruction.LOAD8, address)

    def load64(self, address: Number) -> Program:
        """Push the little-endian number of eight bytes of the heap at an address."""
        return self._instruction(Instruction.LOAD64, address)

    def store8(self, address: Number, value: Number) -> Program:
        """Write a byte to the heap."""
        return self._instruction(Instruction.STORE8, address, value)

    def store64(self, address: Number, value: Number) -> Program:
        """Write eight bytes to the heap, little-endian."""
        return self._instruction(Instruction.STORE64, address, value)

    def memory_size(self) -> Program:
        """Push the size of the heap in Wasm pages."""
        return self._put(Instruction.MEMORY_SIZE)

    def memory_grow(self, wasm_pages: Number) -> Program:
        """Grow the heap; push its old size in Wasm pages, or all ones of 64 bits where that fails."""
        return self._instruction(Instruction.MEMORY_GROW, wasm_pages)

    def save(self, slot: int, span: Span) -> Program:
        """Keep a copy of the bytes in a slot, 0 to 255, for later messages."""
        return self._operands(span)._put(Instruction.SAVE, bytes((slot,)))

    def load(self, slot: int) -> Program:
        """Push the span of a slot, empty at first."""
        return self._put(Instruction.LOAD, bytes((slot,)))

    def hook(self, hook: Hook, program: Program | Span) -> Program:
        """Run this program at an entry point from now on.

        A `Program` given here is sent along as it is, not run to find a span; for one that lies in a slot say
        ``hook(Hook.HEARTBEAT, STACK)`` behind ``load(slot)``.
        """
        return self._operands(_literal(program))._put(Instruction.HOOK, bytes((hook,)))

    # --- control ------------------------------------------------------------------------------------------------------

    def callback(self, program: Program) -> Program:
        """Push a callback that runs a program: the table index of a function, and its environment."""
        return self._operands(_literal(program))._put(Instruction.CALLBACK)

    def run(self, program: Program | Span) -> Program:
        """Run a program in place; ``Program().save(0, Program().load(0).run(STACK))`` saves one that never ends."""
        return self._operands(_literal(program))._put(Instruction.RUN)

    def invoke(self, function: Number, environment: Number) -> Program:
        """Call a function of the table as a callback is called; traps where its type is another or there is none."""
        return self._instruction(Instruction.INVOKE, function, environment)

    def mistyped(self) -> Program:
        """Push the table index of a function whose type is not that of a callback."""
        return self._put(Instruction.MISTYPED)

    def if_(self, condition: Number, then: Program, otherwise: Program | None = None) -> Program:
        """Run one program or the other; any number but zero is true."""
        first, second = bytes(then), bytes(otherwise or Program())
        sizes = len(first).to_bytes(4, "little") + len(second).to_bytes(4, "little")
        return self._operands(condition)._put(Instruction.IF, sizes + first + second)

    def repeat(self, times: Number, body: Program) -> Program:
        """Run a program that many times; ``repeat(-1, Program())`` ends when instructions do."""
        code = bytes(body)
        return self._operands(times)._put(Instruction.REPEAT, len(code).to_bytes(4, "little") + code)

    def unreachable(self) -> Program:
        """Trap with Wasm's ``unreachable``."""
        return self._put(Instruction.UNREACHABLE)

    # --- ic0: names, parameters and results of the interface specification --------------------------------------------

    def msg_arg_data_size(self) -> Program:
        """Push the size of the argument."""
        return self._function("msg_arg_data_size")

    def msg_arg_data_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the argument to the heap."""
        return self._function("msg_arg_data_copy", dst, offset, size)

    def msg_caller_size(self) -> Program:
        """Push the size of the caller."""
        return self._function("msg_caller_size")

    def msg_caller_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the caller."""
        return self._function("msg_caller_copy", dst, offset, size)

    def msg_caller_info_data_size(self) -> Program:
        """Push the size of what is said about the caller."""
        return self._function("msg_caller_info_data_size")

    def msg_caller_info_data_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from what is said about the caller."""
        return self._function("msg_caller_info_data_copy", dst, offset, size)

    def msg_caller_info_signer_size(self) -> Program:
        """Push the size of the canister that signed for the caller."""
        return self._function("msg_caller_info_signer_size")

    def msg_caller_info_signer_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the canister that signed for the caller."""
        return self._function("msg_caller_info_signer_copy", dst, offset, size)

    def msg_reject_code(self) -> Program:
        """Push the reject code."""
        return self._function("msg_reject_code")

    def msg_reject_msg_size(self) -> Program:
        """Push the size of the reject message."""
        return self._function("msg_reject_msg_size")

    def msg_reject_msg_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the reject message."""
        return self._function("msg_reject_msg_copy", dst, offset, size)

    def msg_deadline(self) -> Program:
        """Push the deadline of a bounded-wait call in nanoseconds, or 0."""
        return self._function("msg_deadline")

    def msg_reply_data_append(self, src: Span) -> Program:
        """Append bytes to the reply."""
        return self._function("msg_reply_data_append", src)

    def msg_reply(self) -> Program:
        """Reply with what was appended."""
        return self._function("msg_reply")

    def msg_reject(self, src: Span) -> Program:
        """Reject with a text."""
        return self._function("msg_reject", src)

    def msg_cycles_available128(self, dst: Number) -> Program:
        """Write the cycles still on the call."""
        return self._function("msg_cycles_available128", dst)

    def msg_cycles_refunded128(self, dst: Number) -> Program:
        """Write the cycles that came back."""
        return self._function("msg_cycles_refunded128", dst)

    def msg_cycles_accept128(self, high: Number, low: Number, dst: Number) -> Program:
        """Accept cycles; write how many."""
        return self._function("msg_cycles_accept128", high, low, dst)

    def cycles_burn128(self, high: Number, low: Number, dst: Number) -> Program:
        """Burn cycles; write how many."""
        return self._function("cycles_burn128", high, low, dst)

    def canister_self_size(self) -> Program:
        """Push the size of this canister's principal."""
        return self._function("canister_self_size")

    def canister_self_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from this canister's principal."""
        return self._function("canister_self_copy", dst, offset, size)

    def canister_cycle_balance128(self, dst: Number) -> Program:
        """Write the balance."""
        return self._function("canister_cycle_balance128", dst)

    def canister_liquid_cycle_balance128(self, dst: Number) -> Program:
        """Write the cycles that may be spent."""
        return self._function("canister_liquid_cycle_balance128", dst)

    def canister_status(self) -> Program:
        """Push the status: 1 running, 2 stopping, 3 stopped."""
        return self._function("canister_status")

    def canister_version(self) -> Program:
        """Push the canister's version."""
        return self._function("canister_version")

    def subnet_self_size(self) -> Program:
        """Push the size of the subnet's principal."""
        return self._function("subnet_self_size")

    def subnet_self_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the subnet's principal."""
        return self._function("subnet_self_copy", dst, offset, size)

    def msg_method_name_size(self) -> Program:
        """Push the size of the name of the inspected method."""
        return self._function("msg_method_name_size")

    def msg_method_name_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the name of the inspected method."""
        return self._function("msg_method_name_copy", dst, offset, size)

    def accept_message(self) -> Program:
        """Accept the inspected message."""
        return self._function("accept_message")

    def call_new(self, callee: Span, name: Span, reply: Program, reject: Program) -> Program:
        """Begin a call; `reply` and `reject` are what `callback` pushes, or any two numbers."""
        return self._function("call_new", callee, name, reply, reject)

    def call_on_cleanup(self, cleanup: Program) -> Program:
        """Set the cleanup callback of the call that was begun."""
        return self._function("call_on_cleanup", cleanup)

    def call_data_append(self, src: Span) -> Program:
        """Append bytes to the call's argument."""
        return self._function("call_data_append", src)

    def call_with_best_effort_response(self, timeout_seconds: Number) -> Program:
        """Make it a bounded-wait call."""
        return self._function("call_with_best_effort_response", timeout_seconds)

    def call_cycles_add128(self, high: Number, low: Number) -> Program:
        """Attach cycles."""
        return self._function("call_cycles_add128", high, low)

    def call_perform(self) -> Program:
        """Send the call; push 0 where it was queued."""
        return self._function("call_perform")

    def stable64_size(self) -> Program:
        """Push the size of stable memory in Wasm pages."""
        return self._function("stable64_size")

    def stable64_grow(self, new_pages: Number) -> Program:
        """Grow stable memory; push its old size or all ones."""
        return self._function("stable64_grow", new_pages)

    def stable64_write(self, offset: Number, src: Span) -> Program:
        """Write bytes to stable memory."""
        return self._function("stable64_write", offset, src)

    def stable64_read(self, dst: Number, offset: Number, size: Number) -> Program:
        """Read from stable memory to the heap."""
        return self._function("stable64_read", dst, offset, size)

    def root_key_size(self) -> Program:
        """Push the size of the root key."""
        return self._function("root_key_size")

    def root_key_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the root key."""
        return self._function("root_key_copy", dst, offset, size)

    def certified_data_set(self, src: Span) -> Program:
        """Set the certified data."""
        return self._function("certified_data_set", src)

    def data_certificate_present(self) -> Program:
        """Push 1 where there is a data certificate, else 0."""
        return self._function("data_certificate_present")

    def data_certificate_size(self) -> Program:
        """Push the size of the data certificate."""
        return self._function("data_certificate_size")

    def data_certificate_copy(self, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the data certificate."""
        return self._function("data_certificate_copy", dst, offset, size)

    def time(self) -> Program:
        """Push the time in nanoseconds."""
        return self._function("time")

    def global_timer_set(self, timestamp: Number) -> Program:
        """Set the global timer; push what it was."""
        return self._function("global_timer_set", timestamp)

    def performance_counter(self, counter: Number) -> Program:
        """Push the instructions of this execution (0) or of the call context (1)."""
        return self._function("performance_counter", counter)

    def is_controller(self, src: Span) -> Program:
        """Push 1 where the principal is a controller, else 0."""
        return self._function("is_controller", src)

    def in_replicated_execution(self) -> Program:
        """Push 1 in replicated execution, else 0."""
        return self._function("in_replicated_execution")

    def cost_call(self, method_name_size: Number, payload_size: Number, dst: Number) -> Program:
        """Write the cost of a call."""
        return self._function("cost_call", method_name_size, payload_size, dst)

    def cost_create_canister(self, dst: Number) -> Program:
        """Write the cost of creating a canister."""
        return self._function("cost_create_canister", dst)

    def cost_http_request(self, request_size: Number, max_response_bytes: Number, dst: Number) -> Program:
        """Write the cost of an HTTP request."""
        return self._function("cost_http_request", request_size, max_response_bytes, dst)

    def cost_sign_with_ecdsa(self, key_name: Span, curve: Number, dst: Number) -> Program:
        """Write the cost of a signature; push the status."""
        return self._function("cost_sign_with_ecdsa", key_name, curve, dst)

    def cost_sign_with_schnorr(self, key_name: Span, algorithm: Number, dst: Number) -> Program:
        """Write the cost of a signature; push the status."""
        return self._function("cost_sign_with_schnorr", key_name, algorithm, dst)

    def cost_vetkd_derive_key(self, key_name: Span, curve: Number, dst: Number) -> Program:
        """Write the cost of a derived key; push the status."""
        return self._function("cost_vetkd_derive_key", key_name, curve, dst)

    def env_var_count(self) -> Program:
        """Push the number of environment variables."""
        return self._function("env_var_count")

    def env_var_name_size(self, index: Number) -> Program:
        """Push the size of the name of an environment variable."""
        return self._function("env_var_name_size", index)

    def env_var_name_copy(self, index: Number, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the name of an environment variable."""
        return self._function("env_var_name_copy", index, dst, offset, size)

    def env_var_name_exists(self, name: Span) -> Program:
        """Push 1 where an environment variable has this name, else 0."""
        return self._function("env_var_name_exists", name)

    def env_var_value_size(self, name: Span) -> Program:
        """Push the size of the value of an environment variable."""
        return self._function("env_var_value_size", name)

    def env_var_value_copy(self, name: Span, dst: Number, offset: Number, size: Number) -> Program:
        """Copy from the value of an environment variable."""
        return self._function("env_var_value_copy", name, dst, offset, size)

    def debug_print(self, src: Span) -> Program:
        """Write a line to the log."""
        return self._function("debug_print", src)

    def trap(self, src: Span) -> Program:
        """Trap with a text."""
        return self._function("trap", src)

    def msg_cycles_available(self) -> Program:
        """Push the cycles still on the call; traps where 64 bits do not hold them."""
        return self._function("msg_cycles_available")

    def msg_cycles_refunded(self) -> Program:
        """Push the cycles that came back."""
        return self._function("msg_cycles_refunded")

    def msg_cycles_accept(self, max_amount: Number) -> Program:
        """Accept cycles; push how many."""
        return self._function("msg_cycles_accept", max_amount)

    def canister_cycle_balance(self) -> Program:
        """Push the balance."""
        return self._function("canister_cycle_balance")

    def call_cycles_add(self, amount: Number) -> Program:
        """Attach cycles."""
        return self._function("call_cycles_add", amount)

    def stable_size(self) -> Program:
        """Push the size of stable memory in Wasm pages, in 32 bits."""
        return self._function("stable_size")

    def stable_grow(self, new_pages: Number) -> Program:
        """Grow stable memory; push its old size or all ones of 32 bits."""
        return self._function("stable_grow", new_pages)

    def stable_write(self, offset: Number, src: Span) -> Program:
        """Write bytes to stable memory with 32-bit addresses."""
        return self._function("stable_write", offset, src)

    def stable_read(self, dst: Number, offset: Number, size: Number) -> Program:
        """Read from stable memory with 32-bit addresses."""
        return self._function("stable_read", dst, offset, size)

    # --- put together from instructions -------------------------------------------------------------------------------

    def _fetch(self, prefix: str, *operands: Operand) -> Program:
        """Push the span that a pair of functions ``_size`` and ``_copy`` gives."""
        self._function(f"{prefix}_size", *operands).set(254, STACK)
        self.set(255, Program().alloc(Program().get(254)))
        copy = (Program().get(255), 0, Program().get(254))
        return self._function(f"{prefix}_copy", *operands, *copy).get(255).get(254)

    def _number128(self, name: str, *operands: Operand) -> Program:
        """Push the span of the 16 bytes that a function writes to its last parameter."""
        self.set(255, Program().alloc(16))
        return self._function(name, *operands, Program().get(255)).get(255).number(16)

    def _cost(self, name: str, *operands: Operand) -> Program:
        """Push the 16 bytes that a function writes, followed by 4 bytes of its status."""
        self.set(255, Program().alloc(24))
        self._function(name, *operands, Program().get(255)).set(254, STACK)
        return self.store64(Program().add(Program().get(255), 16), Program().get(254)).get(255).number(20)

    def msg_arg_data(self) -> Program:
        """Push the argument, or in a reply callback the reply."""
        return self._fetch("msg_arg_data")

    def msg_caller(self) -> Program:
        """Push the caller's principal."""
        return self._fetch("msg_caller")

    def msg_caller_info_data(self) -> Program:
        """Push what the caller's identity says about it."""
        return self._fetch("msg_caller_info_data")

    def msg_caller_info_signer(self) -> Program:
        """Push the canister that signed for the caller's identity."""
        return self._fetch("msg_caller_info_signer")

    def msg_reject_msg(self) -> Program:
        """Push the reject message."""
        return self._fetch("msg_reject_msg")

    def canister_self(self) -> Program:
        """Push this canister's principal."""
        return self._fetch("canister_self")

    def subnet_self(self) -> Program:
        """Push the subnet's principal."""
        return self._fetch("subnet_self")

    def msg_method_name(self) -> Program:
        """Push the name of the method whose message is inspected."""
        return self._fetch("msg_method_name")

    def root_key(self) -> Program:
        """Push the root key."""
        return self._fetch("root_key")

    def data_certificate(self) -> Program:
        """Push the data certificate; traps where there is none."""
        return self._fetch("data_certificate")

    def env_var_name(self, index: Number) -> Program:
        """Push the name of an environment variable."""
        self.set(253, index)._function("env_var_name_size", Program().get(253)).set(254, STACK)
        self.set(255, Program().alloc(Program().get(254)))
        self.env_var_name_copy(Program().get(253), Program().get(255), 0, Program().get(254))
        return self.get(255).get(254)

    def env_var_value(self, name: bytes | str) -> Program:
        """Push the value of an environment variable."""
        return self._fetch("env_var_value", name)

    def cycles_available(self) -> Program:
        """Push the cycles still on the call, in 16 bytes."""
        return self._number128("msg_cycles_available128")

    def cycles_refunded(self) -> Program:
        """Push the cycles that came back, in 16 bytes."""
        return self._number128("msg_cycles_refunded128")

    def cycles_accept(self, most: int) -> Program:
        """Accept cycles; push how many, in 16 bytes."""
        return self._number128("msg_cycles_accept128", most >> 64, most)

    def cycles_burn(self, most: int) -> Program:
        """Burn cycles; push how many, in 16 bytes."""
        return self._number128("cycles_burn128", most >> 64, most)

    def balance(self) -> Program:
        """Push the canister's cycles, in 16 bytes."""
        return self._number128("canister_cycle_balance128")

    def liquid_balance(self) -> Program:
        """Push the cycles that may be spent, in 16 bytes."""
        return self._number128("canister_liquid_cycle_balance128")

    def call_cost(self, method_name_size: Number, payload_size: Number) -> Program:
        """Push the cost of a call, in 16 bytes."""
        return self._number128("cost_call", method_name_size, payload_size)

    def create_canister_cost(self) -> Program:
        """Push the cost of creating a canister, in 16 bytes."""
        return self._number128("cost_create_canister")

    def http_request_cost(self, request_size: Number, max_response_bytes: Number) -> Program:
        """Push the cost of an HTTP request, in 16 bytes."""
        return self._number128("cost_http_request", request_size, max_response_bytes)

    def sign_with_ecdsa_cost(self, key_name: Span, curve: Number) -> Program:
        """Push the cost of a signature in 16 bytes, then the status in 4."""
        return self._cost("cost_sign_with_ecdsa", key_name, curve)

    def sign_with_schnorr_cost(self, key_name: Span, algorithm: Number) -> Program:
        """Push the cost of a signature in 16 bytes, then the status in 4."""
        return self._cost("cost_sign_with_schnorr", key_name, algorithm)

    def vetkd_derive_key_cost(self, key_name: Span, curve: Number) -> Program:
        """Push the cost of a derived key in 16 bytes, then the status in 4."""
        return self._cost("cost_vetkd_derive_key", key_name, curve)

    def u64(self, value: Number) -> Program:
        """Push the span of a number's eight bytes, little-endian."""
        self._operands(value).set(254, STACK).set(255, Program().alloc(8))
        return self.store64(Program().get(255), Program().get(254)).get(255).number(8)

    def stable_read_span(self, offset: Number, size: Number) -> Program:
        """Push the span of bytes read from stable memory."""
        self.set(253, offset).set(254, size).set(255, Program().alloc(Program().get(254)))
        self.stable64_read(Program().get(255), Program().get(253), Program().get(254))
        return self.get(255).get(254)

    def stable_fill(self, offset: Number, byte: Number, size: Number) -> Program:
        """Write that many equal bytes to stable memory."""
        return self.stable64_write(offset, Program().fill(byte, size))

    def append(self, span: Span) -> Program:
        """Append bytes to the reply; short for `msg_reply_data_append`."""
        return self.msg_reply_data_append(span)

    def append_number(self, value: Number) -> Program:
        """Append the eight bytes of a number to the reply."""
        return self.append(Program().u64(value))

    def reply(self, span: Span = b"") -> Program:
        """Append bytes and reply."""
        return self.append(span).msg_reply()

    def reply_number(self, value: Number) -> Program:
        """Reply with the eight bytes of a number."""
        return self.append_number(value).msg_reply()

    def reject(self, text: Span) -> Program:
        """Reject; short for `msg_reject`."""
        return self.msg_reject(text)

    def call(
        self,
        callee: Span,
        method: Span,
        argument: Program | Span = b"",
        *,
        on_reply: Program | None = None,
        on_reject: Program | None = None,
        on_cleanup: Program | None = None,
        cycles: int = 0,
        timeout_seconds: int | None = None,
    ) -> Program:
        """Make a whole call; trap where it is not performed.

        Args:
            callee: The principal's bytes.
            method: The method's name.
            argument: Bytes; a `Program` is sent as the argument, not run here. For one that has to be worked out here
                use the single functions of ic0.
            on_reply: Runs in the reply callback; by default replies with the reply.
            on_reject: Runs in the reject callback; by default rejects with the reject message.
            on_cleanup: Runs where a callback trapped; by default nothing is registered.
            cycles: Attached to the call.
            timeout_seconds: Makes it a bounded-wait call.
        """
        reply = Program().callback(on_reply or Program().reply(Program().msg_arg_data()))
        reject = Program().callback(on_reject or Program().reject(Program().msg_reject_msg()))
        self.call_new(callee, method, reply, reject)
        if on_cleanup is not None:
            self.call_on_cleanup(Program().callback(on_cleanup))
        if timeout_seconds is not None:
            self.call_with_best_effort_response(timeout_seconds)
        if cycles:
            self.call_cycles_add128(cycles >> 64, cycles)
        self.call_data_append(_literal(argument))
        return self.if_(Program().call_perform(), Program().trap("the call was not performed"))


Number: TypeAlias = int | Program
"""A number, or a program that pushes one."""

Span: TypeAlias = bytes | str | Program
"""Bytes, or a program that pushes an address and a size."""

Operand: TypeAlias = int | bytes | str | Program

STACK: Final = Program()
"""The operand that lies on the stack already. Append nothing to it."""


def _literal(program: Program | Span) -> Span:
    """A program as the bytes of its code; `STACK` and bytes stay what they are."""
    return bytes(program) if isinstance(program, Program) and program is not STACK else program
