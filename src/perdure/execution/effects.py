"""What an entry leaves behind: memories, logs, cycles, calls, a response, and whether anybody still owes one.

Spec: "Message execution", "Call context starvation", "Call context removal", "Scheduling on low wasm memory hook".
"""

from __future__ import annotations

from typing import Final

from perdure.canister import MethodCall, Reject, Return, Trap
from perdure.errors import InternalError
from perdure.execution.cycles import CostSchedule
from perdure.execution.events import Answered, Sent
from perdure.execution.handing import hand_over
from perdure.execution.messages import (
    CallContext,
    CallMessage,
    CallOrigin,
    FromCanister,
    FromUser,
    OpenCall,
    Response,
    ResponseMessage,
)
from perdure.execution.rejects import rejected, trap_log
from perdure.execution.state import CanisterState, Change, HookStatus, Use
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode, RejectCode
from perdure.memory import WASM_PAGE_BYTES

__all__ = [
    "accept",
    "check_hook",
    "commit",
    "compile_instructions",
    "give_back",
    "log_entry",
    "pay",
    "pay_for_compiling",
    "record_change",
    "respond",
    "settle",
    "take_effects",
]


_NOT_SATISFIED: Final = HookStatus.CONDITION_NOT_SATISFIED


def pay(world: World, canister: CanisterState, cycles: int, use: Use, induction: int = 0) -> None:
    """Take from a canister what it has used, arguments as of `SubnetState.consume`."""
    canister.cycles -= cycles + induction
    world.state.consume(canister, cycles, use, induction)


def compile_instructions(world: World, operators: int) -> int:
    """What compiling is charged, within the limit of ``install_code``.

    The replica charges a hundredth for a module that it has compiled since its last checkpoint; here each costs the
    same whatever was compiled before, so that a figure does not depend on the past.
    """
    config = world.config
    return min(config.cost_to_compile_wasm_instruction * operators, config.max_instructions_per_install_code)


def pay_for_compiling(world: World, canister: CanisterState, operators: int, costs: CostSchedule) -> int:
    """Take from a canister, as far as it has them, the cycles for compiling; what was taken."""
    cycles = min(costs.execution(compile_instructions(world, operators)), max(0, canister.cycles))
    world.touch(canister)
    pay(world, canister, cycles, Use.INSTRUCTIONS)
    return cycles


def log_entry(world: World, canister: CanisterState, result: Trap | Return) -> None:
    """Keep what an entry printed, and why it trapped."""
    if not result.logs and isinstance(result, Return):
        return
    max_bytes = min(canister.settings.log_memory_limit, world.config.max_log_memory_limit_bytes)
    canister.log = canister.log.copy()  # a journal may have the one before
    canister.log.next_index += result.log_lines_dropped
    for line in result.logs:
        canister.log.append(world.state.time_ns, line, max_bytes)
    if isinstance(result, Trap):
        line_of_trap = trap_log(result)
        if line_of_trap is not None:
            canister.log.append(world.state.time_ns, line_of_trap, max_bytes)


def accept(world: World, canister: CanisterState, context: CallContext, result: Return) -> None:
    """An update, a task or a callback returned: keep what it did and do what it asked for."""
    commit(world, canister, result)
    canister.facts.version += 1
    take_effects(world, canister, context, result)
    check_hook(world, canister)


def commit(world: World, canister: CanisterState, result: Return) -> None:
    """Make what an entry did to memories, globals, certified data and timer part of the state."""
    instance = canister.instance
    if instance is None:
        raise InternalError("a canister without an instance cannot commit")
    if world.journal is None:
        raise InternalError("a commit outside of a transaction")
    world.journal.commits[canister.canister_id] = instance
    heap, stable = result.heap_wasm_pages, result.stable_wasm_pages
    if heap != canister.heap_wasm_pages or stable != canister.stable_wasm_pages:
        canister.heap_wasm_pages, canister.stable_wasm_pages = heap, stable
        canister.refresh(world.costs)
    if result.own_wasm_pages:
        _note_own_memories(world, canister, result)
    if result.certified_data is not None:
        canister.certified_data = result.certified_data
    if result.global_timer_ns is not None:
        canister.global_timer_ns = result.global_timer_ns
        if result.global_timer_ns:
            world.state.task_canisters.add(canister.canister_id)


def _note_own_memories(world: World, canister: CanisterState, result: Return) -> None:
    """Take note of how large the memories of the canister's own are now."""
    known = canister.own_memories
    changed = {
        name: known[name]._replace(wasm_pages=wasm_pages)
        for name, wasm_pages in result.own_wasm_pages.items()
        if name in known and known[name].lifetime != "message" and known[name].wasm_pages != wasm_pages
    }
    if changed:
        canister.own_memories = {**known, **changed}
        canister.refresh(world.costs)


def check_hook(world: World, canister: CanisterState) -> None:
    """See whether the heap has come near its limit; once it has, the low-memory hook is due."""
    settings = canister.settings
    threshold = settings.wasm_memory_threshold
    if threshold and settings.wasm_memory_limit < canister.heap_wasm_pages * WASM_PAGE_BYTES + threshold:
        if canister.hook_status is HookStatus.CONDITION_NOT_SATISFIED:
            canister.hook_status = HookStatus.READY
            world.state.task_canisters.add(canister.canister_id)
    else:
        canister.hook_status = _NOT_SATISFIED


def take_effects(world: World, canister: CanisterState, context: CallContext, result: Return) -> None:
    """Cycles, calls and the response of an entry, whether or not its memories are kept."""
    if result.cycles_accepted:
        if result.cycles_accepted > context.available_cycles:
            raise InternalError("an entry accepted more cycles than there were")
        context.available_cycles -= result.cycles_accepted
        canister.cycles += result.cycles_accepted
    if result.cycles_burned:
        pay(world, canister, result.cycles_burned, Use.BURNED_CYCLES)
    for call in result.calls:
        _send(world, canister, context, call)
    if result.response is not None:
        _answer(world, context, result.response)


def _send(world: World, canister: CanisterState, context: CallContext, call: MethodCall) -> None:
    costs = world.costs_of(canister.module)
    prepaid_execution, prepaid_transmission = costs.prepaid_response_execution, costs.prepaid_response_transmission
    fee = costs.request(len(call.method_name.encode()), len(call.arg))
    canister.cycles -= call.cycles + fee + prepaid_execution + prepaid_transmission
    if canister.cycles < 0:
        raise InternalError("a canister sent cycles that it does not have")
    world.state.consume(canister, fee, Use.TRANSMISSION)
    deadline_ns = 0 if call.timeout_seconds is None else world.state.time_ns + call.timeout_seconds * 1_000_000_000
    call_id = canister.next_call_id
    canister.next_call_id += 1
    canister.open_calls[call_id] = OpenCall(
        context.context_id,
        call.callee,
        call.cycles,
        prepaid_execution,
        prepaid_transmission,
        deadline_ns,
        call.on_reply,
        call.on_reject,
        call.on_cleanup,
    )
    if call.memories:
        hand_over(world, canister, call_id, call)
    canister.open_calls_to[call.callee] = canister.open_calls_to.get(call.callee, 0) + 1
    context.open_calls += 1
    if deadline_ns:
        world.state.deadlines[canister.canister_id, call_id] = deadline_ns
    origin = FromCanister(canister.canister_id, call_id, deadline_ns)
    world.state.outbox.append(
        CallMessage(origin, canister.canister_id, call.callee, call.method_name, call.arg, call.cycles)
    )
    if world.streams:
        world.tell(Sent("call", canister.canister_id, call.callee, call.method_name, call.cycles, len(call.arg)))


def _answer(world: World, context: CallContext, response: Response) -> None:
    if context.origin is None or not context.needs_to_respond:
        raise InternalError("a response that nobody waits for")
    context.needs_to_respond = False
    refund, context.available_cycles = context.available_cycles, 0
    respond(world, context.origin, response, refund)


def respond(world: World, origin: CallOrigin, response: Response, refund: int = 0) -> None:
    """Answer whoever waits; `refund` are the cycles that go back with it."""
    if world.streams:
        _tell_response(world, origin, response, refund)
    if isinstance(origin, FromUser):
        world.state.ingress.answer(origin.request_id, response, world.state.time_ns, world.config)
        # Ingress messages carry cycles only where a local subnet gives them away; what is not taken is gone again.
        world.state.minted_cycles -= refund
    else:
        world.state.outbox.append(ResponseMessage(origin.canister_id, origin.call_id, response, refund))


def give_back(world: World, caller: CanisterState, cycles: int) -> None:
    """Have a canister have cycles of a call that it has heard the end of; in a transaction that has touched it.

    Source: refunds of best-effort calls in the replica (dfinity/ic, rs/replicated_state). In older states they are
    lost, so that their history is what it was.
    """
    if world.state.keeps_refunds:
        caller.cycles += cycles
    else:
        world.state.lost_cycles += cycles


def _tell_response(world: World, origin: CallOrigin, response: Response, refund: int) -> None:
    code, payload_bytes = 0, 0
    if isinstance(response, Reject):
        code, payload_bytes = int(response.code), len(response.message.encode())
    else:
        payload_bytes = len(response.data)
    if isinstance(origin, FromUser):
        world.tell(Answered(origin.request_id, payload_bytes, code))
        return
    caller = world.state.canisters.get(origin.canister_id)
    call = caller.open_calls.get(origin.call_id) if caller is not None else None
    callee = call.callee if call is not None else b""  # nobody waits any more: its time is up, or it was uninstalled
    world.tell(Sent("response", callee, origin.canister_id, "", refund, payload_bytes, code))


def settle(world: World, canister: CanisterState, context: CallContext) -> None:
    """After each message of a context: refuse the call if nothing can answer it any more, keep what must be kept."""
    if context.open_calls:
        canister.contexts[context.context_id] = context
        return
    canister.contexts.pop(context.context_id, None)
    if context.needs_to_respond:
        _answer(world, context, context.trap or _silence(canister, context.origin))


def _silence(canister: CanisterState, origin: CallOrigin | None) -> Reject:
    """What of a canister that did not answer is told: users and canisters hear other words, as from the replica."""
    if isinstance(origin, FromUser):
        name = Principal(canister.canister_id)
        return rejected(ErrorCode.CANISTER_DID_NOT_REPLY, f"Canister {name} did not reply to the call")
    return Reject(RejectCode.CANISTER_ERROR, "No response")


def record_change(
    world: World, canister: CanisterState, origin: tuple[bytes, int | None], kind: str, **details: object
) -> None:
    """Add to a canister's history under its current version, and forget the oldest entries."""
    change = Change(world.state.time_ns, canister.facts.version, *origin, (kind, details))
    canister.history = [*canister.history, change][-world.config.max_canister_history_changes :]
    canister.total_changes += 1
