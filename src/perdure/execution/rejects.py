"""Every refusal in today's words of the replica: reject code, ``IC0xxx`` code, message.

A trap of a canister becomes a `Reject` here and nowhere else. Sources: `HypervisorError` and `UserError` of the replica
(2025-10), "Execution errors" of the developer documentation (2026-08).
"""

from __future__ import annotations

from typing import Final

from perdure.canister import Reject, Trap, TrapCode
from perdure.execution.state import RANGE_BITS
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode

__all__ = [
    "as_seen_by_canister",
    "canister_error",
    "cleanup_reject",
    "memory_limit_exceeded",
    "no_code_to_accept",
    "no_such_callback",
    "no_such_canister",
    "rejected",
    "trap_log",
    "trap_reject",
]


def no_such_canister(canister_id: bytes, first_canister_index: int) -> Reject:
    """There is no such canister; an id that is not out of the subnet's range reaches none.

    A subnet has 2^20 ids, which are 8 bytes of a number and two that say whose they are.
    """
    name = Principal(canister_id)
    number, kind = int.from_bytes(canister_id[:8]), canister_id[8:]
    if kind == b"\x01\x01" and 0 <= number - first_canister_index < 1 << RANGE_BITS:
        return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {name} not found.")
    return Reject(RejectCode.DESTINATION_INVALID, f"No route to canister {name}")


_DOCS: Final = "https://internetcomputer.org/docs/current/references/execution-errors#"
_TOOLCHAIN_HELP: Final = (
    "This is likely an error with the compiler/CDK toolchain being used to build the canister. "
    "Please report the error to IC devs on the forum: https://forum.dfinity.org "
    "and include which language/CDK was used to create the canister."
)


def _help(suggestion: str, anchor: str) -> str:
    return f"{suggestion} See documentation: {_DOCS}{anchor}"


_GRACEFULLY: Final = (
    "Consider gracefully handling failures from this canister or altering the canister to handle exceptions."
)
_TOP_UP: Final = "Try topping up the canister."

_WASM_TRAP: Final = {
    TrapCode.HEAP_OUT_OF_BOUNDS: "heap out of bounds",
    TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS: "stable memory out of bounds",
    TrapCode.STABLE_MEMORY_TOO_BIG_FOR_32_BIT: "32 bit stable memory api used on a memory larger than 4GB",
    TrapCode.STABLE_GROW_FAILED: "unknown",
    TrapCode.UNREACHABLE: "unreachable",
    TrapCode.STACK_OVERFLOW: "stack overflow",
    TrapCode.TABLE_OUT_OF_BOUNDS: "table out of bounds",
    TrapCode.INTEGER_DIVISION_BY_ZERO: "integer division by 0",
    TrapCode.CYCLES_AMOUNT_TOO_BIG_FOR_64_BIT: "cycles amount exceeds 64-bit representation",
}
"""Traps of WebAssembly itself, by the replica's names; every other one is ``unknown`` there."""

# code -> error code, words before the trap's own message, help
_OTHER: Final[dict[TrapCode, tuple[ErrorCode, str, str]]] = {
    TrapCode.MEMORY_WRITE_LIMIT_EXCEEDED: (
        ErrorCode.CANISTER_MEMORY_ACCESS_LIMIT_EXCEEDED,
        "Canister exceeded memory access limits: Exceeded the limit for the number of modified pages in the stable "
        "memory in a single execution: limit 2097152 KB for regular messages, 8388608 KB for upgrade messages and "
        "1048576 KB for queries.",
        _help(
            "Try optimizing the use of stable memory so that individual messages don't need to access as much stable "
            "memory.",
            "memory-access-limit-exceeded",
        ),
    ),
    TrapCode.MEMORY_ACCESS_LIMIT_EXCEEDED: (
        ErrorCode.CANISTER_MEMORY_ACCESS_LIMIT_EXCEEDED,
        "Canister exceeded memory access limits: Exceeded the limit for the number of accessed pages in the stable "
        "memory in a single message execution: limit 2097152 KB for regular messages, 8388608 KB for upgrade messages "
        "and 1048576 KB for queries.",
        _help(
            "Try optimizing the use of stable memory so that individual messages don't need to access as much stable "
            "memory.",
            "memory-access-limit-exceeded",
        ),
    ),
    TrapCode.OUT_OF_MEMORY: (
        ErrorCode.CANISTER_OUT_OF_MEMORY,
        "Canister cannot grow its memory usage.",
        _help(
            "Check the canister's memory usage against its allocation and the system wide limits to determine why more "
            "memory cannot be allocated.",
            "out-of-memory",
        ),
    ),
    TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW: (
        ErrorCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW,
        "Canister cannot grow memory due to insufficient cycles.",
        _help(_TOP_UP, "insufficient-cycles-in-memory-grow"),
    ),
    TrapCode.RESERVED_CYCLES_LIMIT_EXCEEDED_IN_MEMORY_GROW: (
        ErrorCode.RESERVED_CYCLES_LIMIT_EXCEEDED_IN_MEMORY_GROW,
        "Canister cannot grow memory due to its reserved cycles limit.",
        _help("Try increasing the canister's reserved cycles limit.", "reserved-cycles-limit-exceeded-in-memory-grow"),
    ),
    TrapCode.WASM_MEMORY_LIMIT_EXCEEDED: (
        ErrorCode.CANISTER_WASM_MEMORY_LIMIT_EXCEEDED,
        "Canister exceeded its current Wasm memory limit.",
        _help(
            "Try checking the canister for a possible memory leak or modifying it to use more stable memory instead of "
            "Wasm memory.",
            "wasm-memory-limit-exceeded",
        ),
    ),
    TrapCode.METHOD_NOT_FOUND: (
        ErrorCode.CANISTER_METHOD_NOT_FOUND,
        "Canister has no such method.",
        _help("Check that the method being called is exported by the target canister.", "method-not-found"),
    ),
    TrapCode.WASM_MODULE_NOT_FOUND: (
        ErrorCode.CANISTER_WASM_MODULE_NOT_FOUND,
        "Attempted to execute a message, but the canister contains no Wasm module.",
        _help("Please install code to this canister before calling it.", "wasm-module-not-found"),
    ),
}

_VIOLATION_HELP: Final = (
    (
        "cannot be executed in ",
        _help(
            "Check the ICP documentation to make sure APIs are being called in the correct message types.",
            "calling-a-system-api-from-the-wrong-mode",
        ),
    ),
    (
        "ic0.msg_reply_data_append: application payload",
        _help(
            "Consider checking the response size and returning an error if it is too long.",
            "msg_reply_data_append-payload-too-large",
        ),
    ),
    (
        "ic0.msg_reject: application payload",
        _help("Try truncating the error messages that are too long.", "msg_reject-payload-too-large"),
    ),
    (
        "ic0_certified_data_set failed because the passed",
        _help(
            "Try certifying just the hash of your data instead of the full contents.",
            "certified_data_set-payload-too-large",
        ),
    ),
)
_NO_HELP: Final = (
    "is out of cycles",
    "Environment variable ",
    "Variable name is too large",
    "exceeds the allowed limit",
)
_WHOLE_SENTENCE: Final = ("Canister ", "Environment variable ")


def rejected(code: ErrorCode, message: str, backtrace: tuple[str, ...] = ()) -> Reject:
    """A refusal by the system."""
    return Reject(code.reject_code, message, code.text, backtrace)


def memory_limit_exceeded(limit_bytes: int, peak_bytes: int) -> str:
    """A heap of `peak_bytes` where the canister's settings allow `limit_bytes`."""
    return (
        f"Canister exceeded its current Wasm memory limit of {limit_bytes} bytes. "
        f"The peak Wasm memory usage was {peak_bytes} bytes. "
        "If the canister reaches 4GiB, then it may stop functioning and may become unrecoverable. "
        "Please reach out to the canister owner to investigate the reason for the increased memory usage. "
        "It might be necessary to move data from the Wasm memory to the stable memory. "
        "If such high Wasm memory usage is expected and safe, then the developer can increase the Wasm memory limit in "
        "the canister settings."
    )


def as_seen_by_canister(reject: Reject) -> str:
    """What ``ic0.msg_reject_msg_copy`` gives: the canister's own text, or the system's with its code in front."""
    if not reject.error_code or reject.error_code == ErrorCode.CANISTER_REJECTED_MESSAGE.text:
        return reject.message
    return f"{reject.error_code}: {reject.message}"


def canister_error(canister_id: bytes, code: ErrorCode, what: str, advice: str = "") -> Reject:
    """``Error from Canister <id>: <what>``, with a line of advice under it."""
    text = f"Error from Canister {Principal(canister_id)}: {what}"
    return rejected(code, f"{text}.\n{advice}" if advice else text)


def _violation(trap: Trap) -> tuple[str, str]:
    message = trap.message or f"broken rule {trap.code.value}"
    words = message if message.startswith(_WHOLE_SENTENCE) else f"Canister violated contract: {message}"
    for start, advice in _VIOLATION_HELP:
        if start in message:
            return words, advice
    if any(part in message for part in _NO_HELP):
        return words, ""
    return words, _TOOLCHAIN_HELP


def _wasm_trap(trap: Trap) -> str:
    """What a trap of WebAssembly is called; one that names a memory of the canister's own says so itself."""
    if trap.code in (TrapCode.HEAP_OUT_OF_BOUNDS, TrapCode.READ_ONLY_MEMORY) and trap.message:
        return trap.message
    return _WASM_TRAP.get(trap.code, "unknown")


_NO_FUNCTION: Final = (TrapCode.TABLE_OUT_OF_BOUNDS, TrapCode.INDIRECT_CALL_TO_NULL)


def _parts(trap: Trap, limit_instructions: int) -> tuple[ErrorCode, str, str]:
    code = trap.code
    if code is TrapCode.CALLED_TRAP:
        words = f"Canister called `ic0.trap` with message: '{trap.message}'"
        return ErrorCode.CANISTER_CALLED_TRAP, words, _help(_GRACEFULLY, "trapped-explicitly")
    if code is TrapCode.INSTRUCTION_LIMIT_EXCEEDED:
        words = f"Canister exceeded the limit of {limit_instructions} instructions for single message execution."
        advice = "Try optimizing this method to consume fewer instructions or split the work across multiple messages."
        return ErrorCode.CANISTER_INSTRUCTION_LIMIT_EXCEEDED, words, _help(advice, "instruction-limit-exceeded")
    if code in _NO_FUNCTION and trap.message:
        return ErrorCode.CANISTER_FUNCTION_NOT_FOUND, trap.message, _TOOLCHAIN_HELP
    if code in (
        TrapCode.CONTRACT_VIOLATION,
        TrapCode.ALREADY_RESPONDED,
        TrapCode.REPLY_TOO_LARGE,
        TrapCode.ARGUMENT_OUT_OF_BOUNDS,
    ):
        words, advice = _violation(trap)
        return ErrorCode.CANISTER_CONTRACT_VIOLATION, words, advice
    if code in _OTHER:
        error_code, words, advice = _OTHER[code]
        return error_code, trap.message or words, advice
    words = f"Canister trapped: {_wasm_trap(trap)}"
    return ErrorCode.CANISTER_TRAPPED, words, _help(_GRACEFULLY, "trapped")


def no_such_callback(trap: Trap, table_index: int) -> Trap:
    """The trap of an entry by table index, told as such where there was no function to enter."""
    if trap.code in _NO_FUNCTION and trap.instructions == 0 and not trap.backtrace:
        trap.message = f"Canister requested to invoke a non-existent Wasm function {table_index} from table 0"
    return trap


def trap_reject(canister_id: bytes, trap: Trap, limit_instructions: int = 0) -> Reject:
    """The refusal that a trap leads to when nobody else answers.

    Args:
        canister_id: of the canister that trapped.
        trap: what it did.
        limit_instructions: the limit that was in force, for the message that names it.
    """
    code, words, advice = _parts(trap, limit_instructions)
    return canister_error(canister_id, code, words, advice)._replace(backtrace=trap.backtrace)


def cleanup_reject(canister_id: bytes, callback: Trap, cleanup: Trap, limit_instructions: int = 0) -> Reject:
    """As `trap_reject`, where a callback and then its cleanup trapped; the replica gives no advice for the two."""
    code, first, _ = _parts(callback, limit_instructions)
    _, second, _ = _parts(cleanup, limit_instructions)
    words = f"{first}\n\ncall_on_cleanup also failed:\n\n{second}"
    return canister_error(canister_id, code, words)._replace(backtrace=callback.backtrace)


def no_code_to_accept() -> Reject:
    """An ingress message to a canister without code; it is refused before it becomes a message of the canister."""
    return rejected(ErrorCode.CANISTER_WASM_MODULE_NOT_FOUND, "Requested canister has no wasm module")


def trap_log(trap: Trap) -> bytes | None:
    """The line that a trap leaves in the canister's log; `None` for what the replica does not log."""
    if trap.code is TrapCode.CALLED_TRAP:
        text = trap.message or "(no message)"
    elif trap.code in _WASM_TRAP or trap.code.value == 0 or 32 <= trap.code.value < 64:
        text = _wasm_trap(trap)
    else:
        return None
    lines = "".join(f"\n{frame}" for frame in trap.backtrace)
    backtrace = f"\nCanister Backtrace:{lines}" if lines else ""
    return f"[TRAP]: {text}{backtrace}".encode()
