"""Executing one message: the checks before it, the entry into the canister, callbacks, inspection.

A canister is entered through its instance; `Return` is committed, `Trap` is rolled back, and a query always is. What a
message sends goes to `SubnetState.outbox` and is delivered between rounds.

Spec: "Call context creation", "Message execution", "Call context starvation", "Callback invocation".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from perdure.canister import (
    UNLIMITED,
    CanisterInstance,
    CanisterStatus,
    Context,
    EntryPoint,
    Env,
    Limits,
    Method,
    Reject,
    Reply,
    Return,
    Trap,
    TrapCode,
)
from perdure.errors import InternalError
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CostSchedule
from perdure.execution.effects import accept, give_back, log_entry, pay, respond, settle, take_effects
from perdure.execution.handing import handing_of, refuse_handed, take_in, with_handed
from perdure.execution.messages import (
    CallContext,
    CallMessage,
    FromCanister,
    OpenCall,
    ResponseMessage,
)
from perdure.execution.rejects import (
    as_seen_by_canister,
    cleanup_reject,
    memory_limit_exceeded,
    no_code_to_accept,
    no_such_callback,
    rejected,
    trap_reject,
)
from perdure.execution.state import CanisterState, HookStatus, Settings, Use
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode
from perdure.memory import WASM_PAGE_BYTES

__all__ = [
    "HEARTBEAT_TASK",
    "HOOK_TASK",
    "TASKS",
    "TIMER_TASK",
    "can_execute_task",
    "clean_instance",
    "execute_call",
    "execute_response",
    "execute_task",
    "growth_limits",
    "inspect_message",
    "out_of_cycles",
    "refuse_call",
    "task_is_done",
]

HOOK_TASK: Final = "canister_on_low_wasm_memory"
TIMER_TASK: Final = "canister_global_timer"
HEARTBEAT_TASK: Final = "canister_heartbeat"
TASKS: Final = (HOOK_TASK, TIMER_TASK, HEARTBEAT_TASK)
"""System tasks, in the order in which a round runs them."""

_MANAGEMENT: Final = b""

# Looked up in each message, and a member of an enum is found in 47 ns, a constant in 5.
_RUNNING: Final = CanisterStatus.RUNNING
_INSTRUCTIONS: Final = Use.INSTRUCTIONS
_OWN_LIMIT: Final = TrapCode.WASM_MEMORY_LIMIT_EXCEEDED


class _Mode(NamedTuple):
    """What differs between kinds of replicated messages."""

    context: Context
    limits: str
    commits: bool


_Entry = tuple[Method, _Mode]
"""What is entered, and how."""


_UPDATE: Final = _Mode(Context.UPDATE, "update", commits=True)
_REPLICATED_QUERY: Final = _Mode(Context.REPLICATED_QUERY, "replicated_query", commits=False)
_TASK: Final = _Mode(Context.SYSTEM_TASK, "message", commits=True)


# -- limits


_MAX_WASM_PAGES: Final = 1 << 48
"""As many as an address can reach: more can be paid for by whoever has 2^90 cycles, and by nobody used."""


_NEVER_GROW: Final = ("query", "inspect", "replicated_query")
_HEAP_HAS_LIMIT: Final = ("update", "install")
"""Entries in which a canister's own limit of its heap holds."""


def _base_limits(config: SubnetConfig, settings: Settings, kind: str) -> Limits:
    pages, instructions = "message", config.max_instructions_per_message
    if kind == "install":
        pages, instructions = "upgrade", config.max_instructions_per_install_code
    elif kind == "query":
        pages, instructions = "query", config.max_instructions_per_query_message
    elif kind == "replicated_query":
        pages = "query"
    elif kind == "inspect":
        pages, instructions = "query", config.max_instructions_for_message_acceptance_calls
    return Limits(
        instructions=instructions,
        stable_accessed_pages=getattr(config, f"stable_accessed_pages_{pages}"),
        stable_dirty_pages=getattr(config, f"stable_dirty_pages_{pages}"),
        stable_wasm_pages=config.max_stable_memory_bytes // WASM_PAGE_BYTES,
        reply_bytes=config.max_query_reply_bytes if kind == "query" else config.max_replicated_reply_bytes,
        dirty_page_instructions=config.dirty_page_overhead,
        call_payload_bytes=config.max_local_request_payload_bytes,
        call_timeout_seconds=config.max_call_timeout_seconds,
        queue_capacity=config.queue_capacity,
        stable_trap_code=TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW,
        log_bytes=min(settings.log_memory_limit, config.max_log_memory_limit_bytes),
        print_instructions=int(config.debug_prints),
    )


def growth_limits(world: World, canister: CanisterState, kind: str, spare_cycles: int) -> Limits:
    """The limits of one entry; memory may grow as far as `spare_cycles` can keep it for the freezing threshold.

    The same object is handed out for every entry of a kind, so it is valid for one entry only.
    """
    settings = canister.settings
    limits = canister.limits.get(kind)
    if limits is None:
        limits = canister.limits[kind] = _base_limits(world.config, settings, kind)
    if kind in _NEVER_GROW:
        return limits
    heap_wasm_pages, heap_code = UNLIMITED, 0
    if settings.wasm_memory_limit and kind in _HEAP_HAS_LIMIT:
        heap_wasm_pages = settings.wasm_memory_limit // WASM_PAGE_BYTES
        heap_code = _OWN_LIMIT
    allocated_bytes = settings.memory_allocation and max(0, settings.memory_allocation - canister.memory_bytes())
    more_wasm_pages = world.costs.affordable_wasm_pages(spare_cycles, settings.freezing_threshold, allocated_bytes)
    if more_wasm_pages is not None:
        more_wasm_pages = min(more_wasm_pages, _MAX_WASM_PAGES)
        limits.stable_trap_wasm_pages = canister.stable_wasm_pages + more_wasm_pages
        if canister.heap_wasm_pages + more_wasm_pages < heap_wasm_pages:
            heap_wasm_pages = canister.heap_wasm_pages + more_wasm_pages
            heap_code = TrapCode.INSUFFICIENT_CYCLES_IN_MEMORY_GROW
    limits.heap_wasm_pages, limits.heap_trap_code = heap_wasm_pages, heap_code
    return limits


# -- before an entry


def out_of_cycles(canister: CanisterState, missing: int) -> Reject:
    """The canister cannot pay."""
    name = Principal(canister.canister_id)
    return rejected(
        ErrorCode.CANISTER_OUT_OF_CYCLES,
        f"Canister {name} is out of cycles: please top up the canister with at least {missing} additional cycles",
    )


def refuse_call(canister: CanisterState) -> Reject | None:
    """Why a canister takes no calls or queries now; `None`: it takes them."""
    if canister.facts.status is _RUNNING:
        return None
    name = Principal(canister.canister_id)
    if canister.facts.status is CanisterStatus.STOPPING:
        return rejected(ErrorCode.CANISTER_STOPPING, f"Canister {name} is stopping")
    return rejected(ErrorCode.CANISTER_STOPPED, f"Canister {name} is stopped")


def _refuse(canister: CanisterState, message: CallMessage, prepaid: int) -> Reject | None:
    minimum = canister.settings.minimum_incoming_canister_call_cycles
    if message.cycles < minimum and isinstance(message.origin, FromCanister) and message.caller != message.callee:
        return rejected(
            ErrorCode.CANISTER_REJECTED_MESSAGE,
            f"Canister {Principal(canister.canister_id)} requires at least {minimum} cycles with a call, "
            f"found {message.cycles}",
        )._replace(code=RejectCode.CANISTER_ERROR)
    refusal = refuse_call(canister)
    if refusal is not None:
        return refusal
    if canister.module is None:
        return trap_reject(canister.canister_id, Trap(TrapCode.WASM_MODULE_NOT_FOUND))
    missing = prepaid - canister.liquid_cycles
    return out_of_cycles(canister, missing) if missing > 0 else None


def _entry_of(canister: CanisterState, method_name: str) -> _Entry | Reject:
    if canister.module is None:
        raise InternalError("a message reached a canister without code")
    exported = canister.module.exported_methods
    entry = _entries(exported).get(method_name)
    if entry is not None:
        return entry
    if f"canister_composite_query {method_name}" in exported:
        return rejected(
            ErrorCode.COMPOSITE_QUERY_CALLED_IN_REPLICATED_MODE,
            "Composite query cannot be called in replicated mode",
        )
    return trap_reject(
        canister.canister_id,
        Trap(TrapCode.METHOD_NOT_FOUND, f"Canister has no update method '{method_name}'."),
    )


_MODULES: Final = 4_096
"""Whose entries are remembered: a subnet with more modules at work looks the others' up in each message."""


@lru_cache(_MODULES)
def _entries(exported: frozenset[str]) -> dict[str, _Entry]:
    """What is entered for a call to each public method; of two with one name the update method."""
    return {
        name.removeprefix(prefix): (Method(name), mode)
        for prefix, mode in (("canister_query ", _REPLICATED_QUERY), ("canister_update ", _UPDATE))
        for name in exported
        if name.startswith(prefix)
    }


def _queue_room(world: World, canister: CanisterState) -> dict[bytes, int] | None:
    if not canister.open_calls_to:
        return None
    capacity = world.config.queue_capacity
    return {callee: capacity - open_calls for callee, open_calls in canister.open_calls_to.items()}


# -- entries


def clean_instance(canister: CanisterState) -> CanisterInstance:
    """A canister's instance, without what an entry that an exception cut off has left in it."""
    instance = canister.instance
    if instance is None:
        raise InternalError("a canister with code has no instance")
    if instance.is_dirty:
        instance.roll_back()
    return instance


def execute_call(
    world: World, canister: CanisterState, message: CallMessage, fee: int = 0, time_ns: int | None = None
) -> int:
    """Execute a request to a public method; instructions used. Begins a transaction, which the caller finishes.

    Args:
        world: the subnet, and what it is wired to.
        canister: the callee.
        message: the request.
        fee: what the canister owes for it already, charged with the execution.
        time_ns: what the message sees of the clock, by default what it says now.
    """
    costs = world.costs_of(canister.module)
    prepaid = costs.execution(world.config.max_instructions_per_message)
    refusal = _refuse(canister, message, prepaid + fee)
    entry = refusal or _entry_of(canister, message.method_name)
    if world.state.handed and not isinstance(entry, Reject):
        limits = growth_limits(world, canister, entry[1].limits, canister.liquid_cycles - prepaid - fee)
        entry = refuse_handed(world, canister, message.origin, limits, commits=entry[1].commits) or entry
    if isinstance(entry, Reject):
        world.begin()
        world.touch(canister)
        pay(world, canister, fee, Use.INGRESS_INDUCTION)
        respond(world, message.origin, entry, message.cycles)
        return 0
    origin = message.origin
    context = CallContext(
        canister.next_context_id,
        origin,
        message.caller,
        True,
        message.cycles,
        message.caller_info_data,
        message.caller_info_signer,
        origin.deadline_ns if isinstance(origin, FromCanister) else 0,
    )
    return _execute_new(world, canister, context, entry, message.arg, costs, prepaid, fee, time_ns)


def can_execute_task(world: World, canister: CanisterState, task: str) -> bool:
    """Whether a canister exports a system task, runs, and can pay for it."""
    if canister.module is None or task not in canister.module.exported_methods:
        return False
    if canister.facts.status is not CanisterStatus.RUNNING:
        return False
    return canister.liquid_cycles >= _prepaid(world, canister)


def _prepaid(world: World, canister: CanisterState) -> int:
    return world.costs_of(canister.module).execution(world.config.max_instructions_per_message)


def execute_task(world: World, canister: CanisterState, task: str) -> int:
    """Execute a system task, if it `can_execute_task`.

    Returns:
        Instructions used, in a transaction that the caller finishes.
    """
    context = CallContext(canister.next_context_id, None, _MANAGEMENT, False)
    costs, prepaid = world.costs_of(canister.module), _prepaid(world, canister)
    return _execute_new(world, canister, context, (Method(task), _TASK), b"", costs, prepaid, 0)


def _execute_new(  # noqa: PLR0913, PLR0917 -- of what its two callers have found out
    world: World,
    canister: CanisterState,
    context: CallContext,
    entry: _Entry,
    arg: bytes,
    costs: CostSchedule,
    prepaid: int,
    fee: int,
    time_ns: int | None = None,
) -> int:
    # While the canister runs, others may, and commit. So until it has returned, nothing is taken from anybody.
    instance = clean_instance(canister)
    method, mode = entry
    liquid = canister.liquid_cycles - prepaid - fee
    limits = growth_limits(world, canister, mode.limits, liquid)
    env = Env(
        mode.context,
        canister.facts,
        limits,
        world.state.time_ns if time_ns is None else time_ns,
        context.caller,
        arg,
        method.export_name if mode is _TASK else "",
        context.caller_info_data,
        context.caller_info_signer,
    )
    # One by one, as by keyword they take half of all that an `Env` takes.
    env.deadline_ns, env.needs_to_respond = context.deadline_ns, context.needs_to_respond
    env.cycle_balance, env.liquid_cycle_balance = canister.cycles - prepaid - fee, liquid
    env.cycles_available = context.available_cycles
    env.global_timer_ns = 0 if method.export_name == TIMER_TASK else canister.global_timer_ns
    env.costs = costs
    if mode.commits and world.host.extensions:
        env.handing = handing_of(world, canister, limits)
    if canister.open_calls_to:
        env.queue_room = _queue_room(world, canister)
    result = _check_heap(canister, mode, limits) or world.enter(instance, method, env)
    handed, result = with_handed(world, canister, context.origin, result) if world.state.handed else (None, result)
    world.begin()
    world.touch(canister)
    canister.next_context_id += 1
    if mode is _TASK:
        task_is_done(canister, method.export_name)
    pay(world, canister, min(costs.execution(result.instructions), prepaid), _INSTRUCTIONS, fee)
    log_entry(world, canister, result)
    context.instructions += result.instructions
    if isinstance(result, Trap):
        instance.roll_back()
        context.trap = trap_reject(canister.canister_id, result, limits.instructions)
    elif mode.commits:
        accept(world, canister, context, result)
        if handed is not None:
            take_in(world, canister, handed)
    else:
        instance.roll_back()
        canister.facts.version += 1
        take_effects(world, canister, context, result)
    settle(world, canister, context)
    return result.instructions


def task_is_done(canister: CanisterState, task: str) -> None:
    """Note that a task ran, or that it cannot: a timer is off then, and a hook waits for its condition to end."""
    if task == HOOK_TASK:
        canister.hook_status = HookStatus.EXECUTED
    elif task == TIMER_TASK:
        canister.global_timer_ns = 0


def _check_heap(canister: CanisterState, mode: _Mode, limits: Limits) -> Trap | None:
    # "(Wasm_memory_limit = 0) or |res.new_state.wasm_memory| <= Wasm_memory_limit", and memory never shrinks.
    if mode is _UPDATE and limits.heap_trap_code == _OWN_LIMIT:
        limit_bytes, heap_bytes = canister.settings.wasm_memory_limit, canister.heap_wasm_pages * WASM_PAGE_BYTES
        if heap_bytes > limit_bytes:
            return Trap(TrapCode.WASM_MEMORY_LIMIT_EXCEEDED, memory_limit_exceeded(limit_bytes, heap_bytes))
    return None


# -- callbacks


def execute_response(world: World, canister: CanisterState, message: ResponseMessage) -> int:
    """Run the callback that waits for a response; instructions used. In a transaction that the caller finishes."""
    world.begin()
    world.touch(canister)
    call = _close_call(world, canister, message)
    if call is None:
        give_back(world, canister, message.refund)  # too late: it has been told that its time is up
        return 0
    context = canister.contexts[call.context_id]
    context.open_calls -= 1
    if context.deleted or canister.instance is None:
        canister.cycles += call.prepaid_execution
        if context.open_calls == 0:
            del canister.contexts[context.context_id]
        return 0
    result, instructions = _run_callback(world, canister, context, call, message)
    canister.cycles += call.prepaid_execution
    used = world.costs_of(canister.module).execution(instructions)
    pay(world, canister, min(used, call.prepaid_execution), Use.INSTRUCTIONS)
    context.instructions += instructions
    if isinstance(result, Return):
        context.trap = None
        accept(world, canister, context, result)
    settle(world, canister, context)
    return instructions


def _close_call(world: World, canister: CanisterState, message: ResponseMessage) -> OpenCall | None:
    call = canister.open_calls.pop(message.call_id, None)
    if call is None:
        return None
    still_open = canister.open_calls_to[call.callee] - 1
    if still_open:
        canister.open_calls_to[call.callee] = still_open
    else:
        del canister.open_calls_to[call.callee]
    if call.deadline_ns:
        world.state.deadlines.pop((canister.canister_id, message.call_id), None)
    response = message.response
    payload_bytes = len(response.data) if isinstance(response, Reply) else len(response.message.encode())
    used = min(world.costs.response_transmission(payload_bytes), call.prepaid_transmission)
    world.state.consume(canister, used, Use.TRANSMISSION)
    canister.cycles += call.prepaid_transmission - used + message.refund
    return call


def _run_callback(
    world: World, canister: CanisterState, context: CallContext, call: OpenCall, message: ResponseMessage
) -> tuple[Trap | Return, int]:
    """Enter the callback, then the cleanup callback if it trapped. A trap of the callback is rolled back."""
    instance, response = clean_instance(canister), message.response
    limits = growth_limits(world, canister, "callback", canister.liquid_cycles)
    all_instructions = world.config.max_instructions_per_message
    kept_back = all_instructions * world.config.reserved_cleanup_execution_in_percent // 100 if call.on_cleanup else 0
    limits.instructions = all_instructions - kept_back
    is_reply = isinstance(response, Reply)
    env = Env(
        Context.REPLY if is_reply else Context.REJECT,
        canister.facts,
        limits,
        time_ns=world.state.time_ns,
        caller=context.caller,
        arg=response.data if isinstance(response, Reply) else b"",
        caller_info_data=context.caller_info_data,
        caller_info_signer=context.caller_info_signer,
        reject_code=response.code if isinstance(response, Reject) else 0,
        reject_message=as_seen_by_canister(response) if isinstance(response, Reject) else "",
        deadline_ns=context.deadline_ns,
        needs_to_respond=context.needs_to_respond,
        cycle_balance=canister.cycles,
        liquid_cycle_balance=canister.liquid_cycles,
        cycles_available=context.available_cycles,
        cycles_refunded=message.refund,
        global_timer_ns=canister.global_timer_ns,
        call_context_instructions=context.instructions,
        costs=world.costs_of(canister.module),
        handing=handing_of(world, canister, limits),
        queue_room=_queue_room(world, canister),
    )
    callback = call.on_reply if is_reply else call.on_reject
    result = world.enter(instance, callback, env)
    log_entry(world, canister, result)
    if isinstance(result, Return):
        return result, result.instructions
    instance.roll_back()
    result = no_such_callback(result, callback.table_index)
    context.trap = trap_reject(canister.canister_id, result, limits.instructions)
    instructions = result.instructions
    if call.on_cleanup is not None:
        limits.instructions = max(kept_back, all_instructions - instructions)
        env.context, env.arg, env.call_context_instructions = Context.CLEANUP, b"", context.instructions + instructions
        instructions += _run_cleanup(world, canister, context, call.on_cleanup, env, result)
    return result, instructions


def _run_cleanup(
    world: World,
    canister: CanisterState,
    context: CallContext,
    on_cleanup: EntryPoint,
    env: Env,
    callback_trap: Trap,
) -> int:
    instance = canister.instance
    if instance is None:
        raise InternalError("a cleanup without an instance")
    result = world.enter(instance, on_cleanup, env)
    log_entry(world, canister, result)
    if isinstance(result, Return):
        accept(world, canister, context, result)
        return result.instructions
    instance.roll_back()
    limit = world.config.max_instructions_per_message
    context.trap = cleanup_reject(canister.canister_id, callback_trap, result, limit)
    return result.instructions


# -- ingress inspection


def inspect_message(world: World, canister: CanisterState, message: CallMessage) -> Reject | None:
    """Ask the canister whether it lets an ingress message in; `None`: it does."""
    if canister.module is None or canister.instance is None:
        return no_code_to_accept()
    if "canister_inspect_message" not in canister.module.exported_methods:
        return None
    limits = growth_limits(world, canister, "inspect", canister.liquid_cycles)
    env = Env(
        Context.INSPECT_MESSAGE,
        canister.facts,
        limits,
        time_ns=world.state.time_ns,
        caller=message.caller,
        arg=message.arg,
        method_name=message.method_name,
        caller_info_data=message.caller_info_data,
        caller_info_signer=message.caller_info_signer,
        needs_to_respond=False,
        cycle_balance=canister.cycles,
        liquid_cycle_balance=canister.liquid_cycles,
        global_timer_ns=canister.global_timer_ns,
        costs=world.costs_of(canister.module),
    )
    instance = clean_instance(canister)
    result = world.enter(instance, Method("canister_inspect_message"), env)
    instance.roll_back()
    if isinstance(result, Trap):
        return trap_reject(canister.canister_id, result, limits.instructions)
    if result.message_accepted:
        return None
    name = Principal(canister.canister_id)
    return rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, f"Error from Canister {name}: Canister rejected the message")
