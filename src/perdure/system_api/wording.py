"""What the replica says when an `ic0` function is misused, in its words, and the exception that carries it.

The kernel finds some of these violations itself and reports numbers; the embedder turns them into these sentences.
Source of the wording: `system_api` of the replica, 2025-10.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from perdure.canister import MAX_OWN_MEMORIES, MEMORY_KINDS, MEMORY_NAME, Context, Handing, MethodCall, TrapCode

__all__ = [
    "CanisterTrap",
    "already_responded",
    "can_keep",
    "cannot_hand_over",
    "out_of_range",
    "reply_too_large",
    "wrong_context",
]


@final
class CanisterTrap(Exception):  # noqa: N818 -- a trap is not an error of ours; engines turn it into `Trap`
    """The canister did what it must not, or called ``ic0.trap``. Internal control flow; engines make a `Trap` of it.

    Args:
        code: why.
        message: the canister's own text, or which rule was broken; may be empty where `code` says it all.
    """

    def __init__(self, code: TrapCode, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


_MODE: Final = {
    Context.START: "start",
    Context.INIT: "init",
    Context.PRE_UPGRADE: "pre upgrade",
    Context.UPDATE: "update",
    Context.REPLICATED_QUERY: "replicated query",
    Context.NON_REPLICATED_QUERY: "non replicated query",
    Context.TRANSFORM: "non replicated query",  # the replica runs a transform as a plain query
    Context.COMPOSITE_QUERY: "composite query",
    Context.REPLY: "reply callback",
    Context.REJECT: "reject callback",
    Context.COMPOSITE_REPLY: "composite reply callback",
    Context.COMPOSITE_REJECT: "composite reject callback",
    Context.CLEANUP: "cleanup",
    Context.COMPOSITE_CLEANUP: "composite cleanup",
    Context.INSPECT_MESSAGE: "inspect message",
    Context.SYSTEM_TASK: "heartbeat",
}
_TASK_MODE: Final = {
    "canister_global_timer": "global timer",
    "canister_on_low_wasm_memory": "on low Wasm memory",
}
_SPELT_WITH_DOT: Final = frozenset(["root_key_copy", "subnet_self_copy"])


def wrong_context(function: str, context: Context, method_name: str = "") -> str:
    """`function` was called where the table forbids it.

    Args:
        function: name without ``ic0``.
        context: where it was called.
        method_name: the export that runs, which tells the system tasks apart.
    """
    mode = _TASK_MODE.get(method_name, _MODE[context]) if context is Context.SYSTEM_TASK else _MODE[context]
    separator = "." if function in _SPELT_WITH_DOT else "_"
    return f'"ic0{separator}{function}" cannot be executed in {mode} mode'


def already_responded(function: str) -> str:
    """A second response, or a response that nobody waits for."""
    full_stop = "." if function == "msg_reply_data_append" else ""
    return f"ic0.{function}: the call is already replied{full_stop}"


def reply_too_large(function: str, size_bytes: int, limit_bytes: int) -> str:
    """A reply or reject text of `size_bytes` in all, where `limit_bytes` are allowed."""
    return f"ic0.{function}: application payload size ({size_bytes}) cannot be larger than {limit_bytes}."


def out_of_range(what: str, offset: int, size_bytes: int, length_bytes: int) -> str:
    """`size_bytes` from `offset` leave a buffer of `length_bytes`; `what` is such as ``ic0.msg_arg_data_copy heap``."""
    return f"{what}: src={offset} + length={size_bytes} exceeds the slice size={length_bytes}"


def cannot_hand_over(name: str, there: str, others: Mapping[str, str], handing: Handing | None) -> str:
    """Why a call cannot take the memory `name` along as `there`, beside others; empty: it can."""
    known = handing.wasm_pages if handing is not None else {}
    reason = ""
    if name not in known:
        reason = f"the canister has no memory {name!r:.80}, it has {', '.join(known) or 'none'}"
    elif not MEMORY_NAME.fullmatch(there) or there in MEMORY_KINDS:
        reason = f"{there!r:.80} is no name for a callee's own memory"
    elif there in others:
        reason = f"two memories of one call are to be called {there!r}"
    elif len(others) >= MAX_OWN_MEMORIES:
        reason = f"a call takes at most {MAX_OWN_MEMORIES} memories along"
    return reason and f"ic0_ext.call_memory_add: {reason}"


def can_keep(handing: Handing | None, call: MethodCall, others: Sequence[MethodCall] | None) -> bool:
    """Whether the canister can keep what calls take along, beside what it has, until their callees have it."""
    if handing is None or not call.memories:
        return True
    wasm_pages = sum(handing.wasm_pages[name] for one in (call, *(others or ())) for name in one.memories.values())
    return wasm_pages <= handing.room_wasm_pages
