"""Why an entry trapped: the kernel's reason, a host function's, or the engine's; in that order of truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

from perdure.canister import Env, Trap, TrapCode
from perdure.embedder.code import NOWHERE, Code, Site
from perdure.embedder.rust_names import demangled
from perdure.embedder.store import EngineTrap
from perdure.errors import Backtrace
from perdure.instrument import abi
from perdure.memory import WASM_PAGE_BYTES
from perdure.system_api import CanisterTrap, already_responded, out_of_range, reply_too_large, wrong_context

__all__ = ["frames_of", "trap_of", "trap_of_memory"]

_WRONG_CONTEXT = 0
_OUTSIDE_HEAP = 2
_MAX_FRAMES = 20
"""Of a backtrace of the engine, its own and appended functions included."""


def frames_of(code: Code, ended: EngineTrap, running: Sequence[int] = ()) -> Backtrace:
    """The canister's own functions on the way to where it trapped, innermost first.

    Args:
        code: what ran.
        ended: the engine's word.
        running: of code that counts calls, the functions that ran, innermost first.
    """
    own = code.facts.own_function_count
    if code.facts.profiled:
        sites = _unwrapped(code, ended.frames, [index for index in running if index < own])
    else:
        sites = [Site(*frame) for frame in ended.frames if frame[0] < own]
    return Backtrace(
        (demangled(site.symbol) or f"wasm-function[{site.function}]" for site in sites), code.locator(sites)
    )


def _unwrapped(code: Code, frames: Sequence[tuple[int, str, int]], running: Sequence[int]) -> list[Site]:
    """The frames that there would be if no wrapper counted calls: a backtrace is part of a canister's log.

    Of a function that is counted the engine has both, what runs and then its wrapper, and so only half as many of the
    canister's as it has at most; the others are in the calling-context tree. Of these nobody knows the lines.
    """
    own = code.facts.own_function_count
    wrappers = {index for index, _ in code.facts.profiled}
    places = [place for place, (index, _, _) in enumerate(frames) if index < own]
    sites = [
        Site(frames[place][0], frames[place][1], frames[place - 1][2] if place else frames[place][2])
        for place in places
    ]
    if len(running) > len(sites):
        names = _function_names(code.wasm)
        sites += [Site(index, names.get(index, ""), NOWHERE) for index in running[len(sites) :]]
    before = frames[: places[0] - 1] if places and places[0] else ()
    return sites[: _MAX_FRAMES - sum(index not in wrappers for index, _, _ in before)]


@lru_cache(maxsize=2)
def _function_names(wasm: bytes) -> Mapping[int, str]:
    from perdure.wasm import decode

    return decode(wasm).function_names


def trap_of(env: Env, code: TrapCode, reason: Sequence[int], failure: BaseException | None, max_seconds: float) -> Trap:
    """The trap of an entry.

    Args:
        env: what the entry was given.
        code: the engine's word.
        reason: ``trap_code`` to ``trap_size`` of the header. It counts where the code is `UNREACHABLE`: only appended
            code writes it, right before its ``unreachable``.
        failure: what a host function raised.
        max_seconds: for the message of an interrupted entry.

    Raises:
        BaseException: `failure`, where that is no trap: a bug, no memory, or what came from another thread. Nobody can
            tell these apart, so it comes out as what it is.
    """
    if isinstance(failure, CanisterTrap):
        return Trap(failure.code, failure.message)
    if failure is not None:
        failure.add_note("It came out of a host function that a canister had called; the message is undone.")
        raise failure
    if code is TrapCode.UNREACHABLE and reason[0]:
        return _native(env, *reason)
    if code is TrapCode.INTERRUPTED:
        return Trap(code, f"the message ran for more than {max_seconds:g} seconds")
    return Trap(code)


def trap_of_memory(code: Code, ended: EngineTrap, reason: Sequence[int]) -> Trap | None:
    """A trap that has to do with one of several memories, which the engine does not tell apart; `None`: another one.

    Args:
        code: what ran.
        ended: the engine's word.
        reason: ``trap_code`` and ``trap_function`` of the header.
    """
    if code.facts.is_heap_alone:
        return None
    if ended.code is TrapCode.UNREACHABLE and reason[0] == TrapCode.READ_ONLY_MEMORY:
        name = code.facts.engine_memories[reason[1]]
        return Trap(TrapCode.READ_ONLY_MEMORY, f"memory {name} is deprecated: it is only read")
    if ended.code is not TrapCode.HEAP_OUT_OF_BOUNDS:
        return None
    names = list(dict.fromkeys(code.memories_at(ended.offset)))
    known = {"heap": TrapCode.HEAP_OUT_OF_BOUNDS, "stable": TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS}
    if len(names) == 1 and names[0] in known:
        return Trap(known[names[0]])
    return Trap(TrapCode.HEAP_OUT_OF_BOUNDS, f"memory {' or '.join(names)} out of bounds")


def _native(env: Env, number: int, function: int, kind: int, offset: int, size: int) -> Trap:
    """A trap that the kernel has decided on, in the words of the function that it stands for."""
    code = TrapCode(number)
    name = abi.NATIVE_MESSAGE_FUNCTIONS[function]
    if code is TrapCode.CONTRACT_VIOLATION:
        wrong = kind == _WRONG_CONTEXT
        bad_type = f"Error getting performance counter type {offset}"
        return Trap(code, wrong_context(name, env.context, env.method_name) if wrong else bad_type)
    if code is TrapCode.ALREADY_RESPONDED:
        return Trap(code, already_responded(name))
    if code is TrapCode.REPLY_TOO_LARGE:
        return Trap(code, reply_too_large(name, offset, env.limits.reply_bytes))
    if code is TrapCode.ARGUMENT_OUT_OF_BOUNDS and kind >= _OUTSIDE_HEAP:
        what = "msg.reply" if name == "msg_reply_data_append" else f"ic0.{name} heap"
        heap_bytes = (kind - _OUTSIDE_HEAP) * WASM_PAGE_BYTES
        return Trap(TrapCode.CONTRACT_VIOLATION, out_of_range(what, offset, size, heap_bytes))
    if code is TrapCode.ARGUMENT_OUT_OF_BOUNDS:
        part, length = ("id", len(env.caller)) if name == "msg_caller_copy" else ("payload", len(env.arg))
        return Trap(TrapCode.CONTRACT_VIOLATION, out_of_range(f"ic0.{name} {part}", offset, size, length))
    return Trap(code)
