"""Rounds: who runs when, how messages get from one canister to another, what the passing of time brings.

Deterministic: canisters run in the order of their ids, messages in the order in which they were sent; what a round
sends is delivered after it. The same messages at the same times give the same state.

Spec: "The IC can execute any message that is at the head of its queue", "Call expiry", "Canister out of cycles".
"""

from __future__ import annotations

from perdure.canister import CanisterStatus, Reject
from perdure.execution.effects import pay, respond
from perdure.execution.execute import (
    TASKS,
    execute_call,
    execute_response,
    execute_task,
    inspect_message,
    out_of_cycles,
    refuse_call,
)
from perdure.execution.lifecycle import finish_stopping, uninstall_code
from perdure.execution.management import execute_management_call, is_allowed_by_ingress
from perdure.execution.messages import CallMessage, FromCanister, FromUser, Response, ResponseMessage
from perdure.execution.rejects import rejected
from perdure.execution.state import CanisterState, HookStatus
from perdure.execution.world import ExecutedMessage, World
from perdure.ic.principal import MANAGEMENT_CANISTER, Principal
from perdure.ic.reject import ErrorCode

__all__ = [
    "advance_time",
    "deliver",
    "execute_at_once",
    "execute_ingress",
    "has_work",
    "round_",
    "run_until_answered",
    "run_until_idle",
    "submit_ingress",
]

_MANAGEMENT = MANAGEMENT_CANISTER.raw_bytes


# -- ingress


def submit_ingress(
    world: World,
    canister_id: bytes,
    method_name: str,
    arg: bytes,
    sender: bytes = b"\x04",
    cycles: int = 0,
    effective_canister_id: bytes | None = None,
    caller_info: tuple[bytes, bytes] = (b"", b""),
) -> int | Reject:
    """Let an ingress message in, if it may come in.

    Returns:
        Its number, under which `SubnetState.responses` will have the answer; or why it may not come in.

    Args:
        world: the subnet, and what it is wired to.
        canister_id: callee; empty: the management canister.
        method_name: what to call.
        arg: the argument.
        sender: the user.
        cycles: made for the call; users have none on the real network.
        effective_canister_id: for calls of the management canister, whom they concern.
        caller_info: what the canister that signed for the sender attests, and its id.
    """
    request_id = world.state.next_request_id
    message = CallMessage(FromUser(request_id), sender, canister_id, method_name, arg, cycles, *caller_info)
    payer = world.state.canisters.get(effective_canister_id or b"" if canister_id == _MANAGEMENT else canister_id)
    fee = _induct(world, payer, message)
    if isinstance(fee, Reject):
        return fee
    if payer is not None:
        pay(world, payer, fee)
    world.state.next_request_id += 1
    world.state.minted_cycles += cycles
    world.state.outbox.append(message)
    return request_id


def _induct(world: World, payer: CanisterState | None, message: CallMessage) -> int | Reject:
    """What `payer` owes for letting an ingress message in, or why it may not come in."""
    size_bytes = len(message.arg) + len(message.method_name)
    if size_bytes > world.config.max_ingress_payload_bytes:
        return rejected(
            ErrorCode.INVALID_MANAGEMENT_PAYLOAD,
            f"ingress message of {size_bytes} bytes is larger than {world.config.max_ingress_payload_bytes} bytes",
        )
    if message.callee == _MANAGEMENT:
        refusal = is_allowed_by_ingress(world, message)
    elif payer is None:
        refusal = not_found(message.callee)
    else:
        refusal = refuse_call(payer) or inspect_message(world, payer, message)
    if refusal is not None:
        return refusal
    fee = world.costs.ingress(size_bytes)
    missing = fee - payer.liquid_cycles if payer is not None else 0
    return out_of_cycles(payer, missing) if payer is not None and missing > 0 else fee


def not_found(canister_id: bytes) -> Reject:
    """There is no such canister."""
    return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {Principal(canister_id)} not found.")


def execute_ingress(
    world: World,
    canister_id: bytes,
    method_name: str,
    arg: bytes,
    sender: bytes = b"\x04",
    cycles: int = 0,
    max_rounds: int = 1_000,
) -> Response | None:
    """Submit an ingress message and run rounds until it is answered.

    Returns:
        The response; `None` when `max_rounds` have passed or nothing is left to run: the answer depends on time going
        on (a bounded wait, a timer), or on somebody else.
    """
    begun = execute_at_once(world, canister_id, method_name, arg, sender, cycles)
    if begun is None:
        begun = submit_ingress(world, canister_id, method_name, arg, sender, cycles)
    return run_until_answered(world, begun, max_rounds) if isinstance(begun, int) else begun


def execute_at_once(
    world: World, canister_id: bytes, method_name: str, arg: bytes, sender: bytes = b"\x04", cycles: int = 0
) -> Response | int | None:
    """Execute an ingress message in a round of its own if it is all that there is to do, as most updates of tests are.

    It does what `round_` would, without queues. While the canister runs, only its own state has to stay as it is:
    messages for others may be executed in this way meanwhile.

    Returns:
        The response; or its number, for `run_until_answered`, if the canister has made calls; `None`: there is more to
        do, and nothing was done.
    """
    canister = world.state.canisters.get(canister_id)
    if canister is None or _has_more(world):
        return None
    request_id = world.state.next_request_id
    world.state.next_request_id += 1
    message = CallMessage(FromUser(request_id), sender, canister_id, method_name, arg, cycles)
    fee = _induct(world, canister, message)
    if isinstance(fee, Reject):
        return fee
    world.state.round_number += 1
    world.state.time_ns += world.config.round_ns
    used = execute_call(world, canister, message, fee)
    world.state.minted_cycles += cycles
    world.state.changed.add(canister_id)
    # What is handed out is not kept: no commit has a response that somebody has seen.
    response = world.state.responses.pop(request_id, None)
    world.host.executed(world.state, _executed_call(message, used))
    if canister.hook_status is HookStatus.READY:
        _run_tasks(world, canister)
    return response or world.state.responses.pop(request_id, request_id)


def _has_more(world: World) -> bool:
    """Whether a round would have anything to do beside a message that comes in."""
    state = world.state
    if state.outbox or state.ready or state.management_calls or state.deadlines or state.stopping:
        return True
    then_ns = world.state.time_ns + world.config.round_ns
    return bool(world.state.task_canisters) and any(
        _is_due(canister, then_ns) or _has_heartbeat(canister)
        for canister in map(world.state.canisters.__getitem__, world.state.task_canisters)
    )


def _is_due(canister: CanisterState, time_ns: int) -> bool:
    """Whether a timer or the low-memory hook is to run at that time."""
    return canister.hook_status is HookStatus.READY or 0 < canister.global_timer_ns <= time_ns


def _has_heartbeat(canister: CanisterState) -> bool:
    return canister.module is not None and "canister_heartbeat" in canister.module.exported_methods


def run_until_answered(world: World, request_id: int, max_rounds: int = 1_000) -> Response | None:
    """Run rounds until an ingress message is answered; `None` as for `execute_ingress`."""
    for _ in range(max_rounds):
        response = world.state.responses.pop(request_id, None)
        if response is not None or not has_work(world):
            return response
        round_(world)
    return world.state.responses.pop(request_id, None)


def _executed_call(message: CallMessage, instructions: int) -> ExecutedMessage:
    return ExecutedMessage("call", message.callee, message.method_name, message.caller, message.arg, instructions)


# -- rounds


def has_work(world: World) -> bool:
    """Whether a round would execute anything but heartbeats."""
    if world.state.ready or world.state.outbox or world.state.management_calls:
        return True
    return any(
        _is_due(canister, world.state.time_ns) and _can_run(world, canister)
        for canister in map(world.state.canisters.__getitem__, world.state.task_canisters)
    )


def run_until_idle(world: World, max_rounds: int = 10_000) -> int:
    """Run rounds until there is nothing left to do but heartbeats; how many were run."""
    for rounds in range(max_rounds):
        if not has_work(world):
            return rounds
        round_(world)
    return max_rounds


def round_(world: World) -> None:
    """One round: deliver, run the management canister's calls, then every canister that has something to do."""
    world.state.round_number += 1
    world.state.time_ns += world.config.round_ns
    if world.state.deadlines:
        _expire_calls(world)
    if world.state.outbox:
        deliver(world)
    while world.state.management_calls:
        call = world.state.management_calls.popleft()
        execute_management_call(world, call)
        world.host.executed(world.state, ExecutedMessage("management", b"", call.method_name, call.caller, call.arg))
    for canister_id in _schedule(world):
        canister = world.state.canisters.get(canister_id)
        if canister is not None:
            _run_canister(world, canister)
    if world.state.stopping:
        finish_stopping(world)
    if world.state.outbox:
        deliver(world)


def _schedule(world: World) -> list[bytes]:
    if not world.state.task_canisters:
        return list(world.state.ready) if len(world.state.ready) < 2 else sorted(world.state.ready)
    return sorted(world.state.ready.keys() | world.state.task_canisters)


def _run_canister(world: World, canister: CanisterState) -> None:
    budget = world.config.max_instructions_per_round
    if canister.canister_id in world.state.task_canisters:
        budget -= _run_tasks(world, canister)
    inputs = canister.inputs
    while inputs and budget > 0:
        message = inputs.popleft()
        canister_id = canister.canister_id
        world.state.changed.add(canister_id)
        if isinstance(message, CallMessage):
            used = execute_call(world, canister, message)
            done = _executed_call(message, used)
        else:
            used = execute_response(world, canister, message)
            done = ExecutedMessage("response", canister_id, instructions=used)
        world.host.executed(world.state, done)
        budget -= used
        if canister.hook_status is HookStatus.READY:
            budget -= _run_tasks(world, canister)
    if not inputs:
        world.state.ready.pop(canister.canister_id, None)


def _run_tasks(world: World, canister: CanisterState) -> int:
    instructions = 0
    for task in TASKS:
        if task == "canister_on_low_wasm_memory":
            if canister.hook_status is not HookStatus.READY:
                continue
            canister.hook_status = HookStatus.EXECUTED
        elif task == "canister_global_timer":
            if not 0 < canister.global_timer_ns <= world.state.time_ns or not _can_run(world, canister):
                continue
            canister.global_timer_ns = 0
        used = execute_task(world, canister, task)
        if used:
            world.host.executed(world.state, ExecutedMessage("task", canister.canister_id, task, instructions=used))
        instructions += used
    if not canister.global_timer_ns and not _has_heartbeat(canister) and canister.hook_status is not HookStatus.READY:
        world.state.task_canisters.discard(canister.canister_id)
    return instructions


def _can_run(world: World, canister: CanisterState) -> bool:
    needed = world.costs_of(canister.module).execution(world.config.max_instructions_per_message)
    return canister.facts.status is CanisterStatus.RUNNING and canister.liquid_cycles >= needed


# -- delivery


def deliver(world: World) -> None:
    """Hand what was sent to its receivers, in the order in which it was sent."""
    outbox, world.state.outbox = world.state.outbox, []
    for message in outbox:
        if isinstance(message, CallMessage):
            _deliver_call(world, message)
        else:
            _deliver_response(world, message)


def _deliver_call(world: World, message: CallMessage) -> None:
    if message.callee in (_MANAGEMENT, world.state.subnet_id):
        world.state.management_calls.append(message)
        return
    canister = world.state.canisters.get(message.callee)
    if canister is None:
        respond(world, message.origin, not_found(message.callee), message.cycles)
        return
    canister.inputs.append(message)
    world.state.ready[message.callee] = None
    world.state.changed.add(message.callee)


def _deliver_response(world: World, message: ResponseMessage) -> None:
    canister = world.state.canisters.get(message.receiver)
    if canister is None:
        world.state.lost_cycles += message.refund
        return
    canister.inputs.append(message)
    world.state.ready[message.receiver] = None
    world.state.changed.add(message.receiver)


# -- time


def _expire_calls(world: World) -> None:
    """Answer bounded-wait calls whose time is up; the real answer, if it comes, finds nobody."""
    expired = [key for key, deadline_ns in world.state.deadlines.items() if deadline_ns <= world.state.time_ns]
    for canister_id, call_id in sorted(expired):
        del world.state.deadlines[canister_id, call_id]
        _forget_messages(world, canister_id, call_id)
        # Without its IC0601 in front, as canisters on the network get it (seen in the output of Motoko's suite).
        refusal = Reject(ErrorCode.DEADLINE_EXPIRED.reject_code, "Call deadline has expired.")
        world.state.outbox.append(ResponseMessage(canister_id, call_id, refusal, 0))


def _forget_messages(world: World, canister_id: bytes, call_id: int) -> None:
    """Drop the request, if nobody has begun it, and an answer that would be second. Their cycles are lost."""

    def belongs(message: CallMessage | ResponseMessage) -> bool:
        if isinstance(message, ResponseMessage):
            return message.receiver == canister_id and message.call_id == call_id
        origin = message.origin
        return isinstance(origin, FromCanister) and (origin.canister_id, origin.call_id) == (canister_id, call_id)

    caller = world.state.canisters[canister_id]
    callee = world.state.canisters.get(caller.open_calls[call_id].callee)
    queues = [caller.inputs, world.state.outbox]
    if callee is not None and callee is not caller:
        queues.append(callee.inputs)
    for messages in queues:
        for message in [message for message in messages if belongs(message)]:
            messages.remove(message)
            world.state.lost_cycles += message.refund if isinstance(message, ResponseMessage) else message.cycles


def advance_time(world: World, duration_ns: int) -> None:
    """Let time pass: canisters pay for their existence, and lose their code when they cannot."""
    if duration_ns < 0:
        raise ValueError(f"time does not go back, asked for {duration_ns} ns")
    world.state.time_ns += duration_ns
    for canister_id in sorted(world.state.canisters):
        canister = world.state.canisters[canister_id]
        elapsed_ns = world.state.time_ns - canister.charged_until_ns
        if elapsed_ns >= world.config.allocation_charge_period_ns:
            _charge_storage(world, canister, elapsed_ns)


def _charge_storage(world: World, canister: CanisterState, elapsed_ns: int) -> None:
    memory_bytes = max(canister.memory_bytes(), canister.settings.memory_allocation)
    due = world.costs.storage(memory_bytes, canister.settings.compute_allocation, elapsed_ns)
    canister.charged_until_ns = world.state.time_ns
    from_reserved = min(due, canister.reserved_cycles)
    from_balance = min(due - from_reserved, canister.cycles)
    canister.reserved_cycles -= from_reserved
    canister.cycles -= from_balance
    world.state.consumed_cycles += from_reserved + from_balance
    if due:
        world.state.changed.add(canister.canister_id)
    if from_reserved + from_balance < due:
        _run_dry(world, canister)


def _run_dry(world: World, canister: CanisterState) -> None:
    uninstall_code(world, canister)
    canister.snapshots.clear()
    canister.history.clear()
    canister.settings.compute_allocation = canister.settings.memory_allocation = 0
    canister.refresh(world.costs)
