"""Direct loads and stores: `ic0_ext.stable64_load_i64` and its kind become code in place of their calls.

The hot path is an access within one page that is marked already, as in the kernel's own `stable64_read`: a marked page
lies in stable memory, so no bounds are left to check there. Everything else goes to a function that holds the access
against the bounds, has the kernel mark its pages, and only then carries it out::

    if address is within 4,096 - size of a page below 2^39, and the page's mark says accessed (for a store: written)
        i64.load $stable                        done
    bounds, or trap; account_read; i64.load $stable

Without accounting the instruction itself is all there is, and the engine checks its bounds.

An access costs what its call costs, and the pages that it is the first to touch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from perdure.canister import TrapCode
from perdure.ic.ic0_ext import DIRECT, DirectAccess
from perdure.instrument import abi
from perdure.instrument.appendix import Appendix, op
from perdure.instrument.inline import Inlined
from perdure.memory import PAGE_BYTES
from perdure.wasm import FuncType, MemArg, ValType

__all__ = ["ReplacedCalls", "direct_calls"]

_NO_RESULT = -0x40  # block type
_WITHIN_PAGE = 0xFFFFFF8000000FFF - (1 << 64)
"""Takes the page number away: what remains is the offset in the page, or far too much beyond what is accounted for."""
_WRITTEN = abi.ACCESSED | abi.WRITTEN


class ReplacedCalls(NamedTuple):
    """What becomes of imported functions, by index: see `perdure.instrument.metering.Rewrite`."""

    redirects: dict[int, int]
    inlines: dict[int, Inlined]
    instead: dict[int, bytes]


def direct_calls(
    appendix: Appendix,
    imports: Mapping[int, str],
    functions: Mapping[str, int],
    memories: tuple[int, int, int],
    *,
    accounting: bool,
) -> ReplacedCalls:
    """Append a function for each direct access that a module imports, and say what its calls become.

    Args:
        appendix: of the module.
        imports: the functions that it imports from ``ic0_ext``, by index.
        functions: of the kernel.
        memories: indices of stable, accounting and message memory.
        accounting: whether pages are marked.
    """
    stable = memories[0]
    replaced = ReplacedCalls({}, {}, {})
    for index, name in imports.items():
        access = DIRECT[name]
        kind = _type(access)
        bare = op(access.instruction, MemArg(0, 0, stable))
        if not accounting:
            replaced.redirects[index] = appendix.append(kind, _arguments(kind) + bare)
            replaced.instead[index] = bare
            continue
        cold = appendix.append(kind, _cold(access, kind, bare, functions, memories))
        replaced.redirects[index] = appendix.append(kind, _hot(access, kind, bare, cold, memories))
        replaced.inlines[index] = Inlined(kind, appendix.codes[-1].body)
    return replaced


def _type(access: DirectAccess) -> FuncType:
    value = (ValType[access.value_type.upper()],)
    return FuncType((ValType.I64, *value)) if access.is_store else FuncType((ValType.I64,), value)


def _arguments(kind: FuncType) -> bytes:
    return b"".join(op("local.get", place) for place in range(len(kind.params)))


def _hot(access: DirectAccess, kind: FuncType, bare: bytes, cold: int, memories: tuple[int, int, int]) -> bytes:
    _, accounting, _ = memories
    is_marked = op("i32.load8_u", MemArg(0, 0, accounting))
    if access.is_store:
        is_marked += op("i32.const", _WRITTEN) + op("i32.eq")
    return (
        op("local.get", 0)
        + op("i64.const", _WITHIN_PAGE)
        + op("i64.and")
        + op("i64.const", PAGE_BYTES - access.size_bytes)
        + op("i64.le_u")
        + op("if", _NO_RESULT)
        + op("local.get", 0)
        + op("i64.const", 12)
        + op("i64.shr_u")
        + op("i32.wrap_i64")
        + is_marked
        + op("if", _NO_RESULT)
        + _arguments(kind)
        + bare
        + op("return")
        + op("end")
        + op("end")
        + _arguments(kind)
        + op("call", cold)
    )


def _cold(
    access: DirectAccess, kind: FuncType, bare: bytes, functions: Mapping[str, int], memories: tuple[int, int, int]
) -> bytes:
    stable, _, message = memories
    size = op("i64.const", access.size_bytes)
    end = op("local.get", 0) + size + op("i64.add")
    trap_code = MemArg(0, abi.HEADER["trap_code"].offset, message)
    account = functions["account_write" if access.is_store else "account_read"]
    return (
        # The end wraps to at most the address, or lies past the end of the memory.
        end
        + op("local.get", 0)
        + op("i64.le_u")
        + end
        + op("memory.size", stable)
        + op("i64.const", 16)
        + op("i64.shl")
        + op("i64.gt_u")
        + op("i32.or")
        + op("if", _NO_RESULT)
        + op("i64.const", 0)
        + op("i32.const", TrapCode.STABLE_MEMORY_OUT_OF_BOUNDS)
        + op("i32.store", trap_code)
        + op("unreachable")
        + op("end")
        + op("local.get", 0)
        + size
        + op("call", account)
        + _arguments(kind)
        + bare
    )
