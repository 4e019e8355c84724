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
from perdure.execution.state import CanisterState, ExecutedMessage, HookStatus, SubnetState
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
    subnet: SubnetState,
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
        subnet: the subnet.
        canister_id: callee; empty: the management canister.
        method_name: what to call.
        arg: the argument.
        sender: the user.
        cycles: made for the call; users have none on the real network.
        effective_canister_id: for calls of the management canister, whom they concern.
        caller_info: what the canister that signed for the sender attests, and its id.
    """
    request_id = subnet.next_request_id
    message = CallMessage(FromUser(request_id), sender, canister_id, method_name, arg, cycles, *caller_info)
    payer = subnet.canisters.get(effective_canister_id or b"" if canister_id == _MANAGEMENT else canister_id)
    fee = _induct(subnet, payer, message)
    if isinstance(fee, Reject):
        return fee
    if payer is not None:
        pay(subnet, payer, fee)
    subnet.next_request_id += 1
    subnet.minted_cycles += cycles
    subnet.outbox.append(message)
    return request_id


def _induct(subnet: SubnetState, payer: CanisterState | None, message: CallMessage) -> int | Reject:
    """What `payer` owes for letting an ingress message in, or why it may not come in."""
    size_bytes = len(message.arg) + len(message.method_name)
    if size_bytes > subnet.config.max_ingress_payload_bytes:
        return rejected(
            ErrorCode.INVALID_MANAGEMENT_PAYLOAD,
            f"ingress message of {size_bytes} bytes is larger than {subnet.config.max_ingress_payload_bytes} bytes",
        )
    if message.callee == _MANAGEMENT:
        refusal = is_allowed_by_ingress(subnet, message)
    elif payer is None:
        refusal = not_found(message.callee)
    else:
        refusal = refuse_call(payer) or inspect_message(subnet, payer, message)
    if refusal is not None:
        return refusal
    fee = subnet.costs.ingress(size_bytes)
    missing = fee - payer.liquid_cycles if payer is not None else 0
    return out_of_cycles(payer, missing) if payer is not None and missing > 0 else fee


def not_found(canister_id: bytes) -> Reject:
    """There is no such canister."""
    return rejected(ErrorCode.CANISTER_NOT_FOUND, f"Canister {Principal(canister_id)} not found.")


def execute_ingress(
    subnet: SubnetState,
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
    begun = execute_at_once(subnet, canister_id, method_name, arg, sender, cycles)
    if begun is None:
        begun = submit_ingress(subnet, canister_id, method_name, arg, sender, cycles)
    return run_until_answered(subnet, begun, max_rounds) if isinstance(begun, int) else begun


def execute_at_once(
    subnet: SubnetState, canister_id: bytes, method_name: str, arg: bytes, sender: bytes = b"\x04", cycles: int = 0
) -> Response | int | None:
    """Execute an ingress message in a round of its own if it is all that there is to do, as most updates of tests are.

    It does what `round_` would, without queues. While the canister runs, only its own state has to stay as it is:
    messages for others may be executed in this way meanwhile.

    Returns:
        The response; or its number, for `run_until_answered`, if the canister has made calls; `None`: there is more to
        do, and nothing was done.
    """
    canister = subnet.canisters.get(canister_id)
    if canister is None or _has_more(subnet):
        return None
    request_id = subnet.next_request_id
    subnet.next_request_id += 1
    message = CallMessage(FromUser(request_id), sender, canister_id, method_name, arg, cycles)
    fee = _induct(subnet, canister, message)
    if isinstance(fee, Reject):
        return fee
    subnet.round_number += 1
    subnet.time_ns += subnet.config.round_ns
    used = execute_call(subnet, canister, message, fee)
    subnet.minted_cycles += cycles
    subnet.changed.add(canister_id)
    # What is handed out is not kept: no commit has a response that somebody has seen.
    response = subnet.responses.pop(request_id, None)
    subnet.host.executed(subnet, _executed_call(message, used))
    if canister.hook_status is HookStatus.READY:
        _run_tasks(subnet, canister)
    return response or subnet.responses.pop(request_id, request_id)


def _has_more(subnet: SubnetState) -> bool:
    """Whether a round would have anything to do beside a message that comes in."""
    if subnet.outbox or subnet.ready or subnet.management_calls or subnet.deadlines or subnet.stopping:
        return True
    then_ns = subnet.time_ns + subnet.config.round_ns
    return bool(subnet.task_canisters) and any(
        _is_due(canister, then_ns) or _has_heartbeat(canister)
        for canister in map(subnet.canisters.__getitem__, subnet.task_canisters)
    )


def _is_due(canister: CanisterState, time_ns: int) -> bool:
    """Whether a timer or the low-memory hook is to run at that time."""
    return canister.hook_status is HookStatus.READY or 0 < canister.global_timer_ns <= time_ns


def _has_heartbeat(canister: CanisterState) -> bool:
    return canister.module is not None and "canister_heartbeat" in canister.module.exported_methods


def run_until_answered(subnet: SubnetState, request_id: int, max_rounds: int = 1_000) -> Response | None:
    """Run rounds until an ingress message is answered; `None` as for `execute_ingress`."""
    for _ in range(max_rounds):
        response = subnet.responses.pop(request_id, None)
        if response is not None or not has_work(subnet):
            return response
        round_(subnet)
    return subnet.responses.pop(request_id, None)


def _executed_call(message: CallMessage, instructions: int) -> ExecutedMessage:
    return ExecutedMessage("call", message.callee, message.method_name, message.caller, message.arg, instructions)


# -- rounds


def has_work(subnet: SubnetState) -> bool:
    """Whether a round would execute anything but heartbeats."""
    if subnet.ready or subnet.outbox or subnet.management_calls:
        return True
    return any(
        _is_due(canister, subnet.time_ns) and _can_run(subnet, canister)
        for canister in map(subnet.canisters.__getitem__, subnet.task_canisters)
    )


def run_until_idle(subnet: SubnetState, max_rounds: int = 10_000) -> int:
    """Run rounds until there is nothing left to do but heartbeats; how many were run."""
    for rounds in range(max_rounds):
        if not has_work(subnet):
            return rounds
        round_(subnet)
    return max_rounds


def round_(subnet: SubnetState) -> None:
    """One round: deliver, run the management canister's calls, then every canister that has something to do."""
    subnet.round_number += 1
    subnet.time_ns += subnet.config.round_ns
    if subnet.deadlines:
        _expire_calls(subnet)
    if subnet.outbox:
        deliver(subnet)
    while subnet.management_calls:
        call = subnet.management_calls.popleft()
        execute_management_call(subnet, call)
        subnet.host.executed(subnet, ExecutedMessage("management", b"", call.method_name, call.caller, call.arg))
    for canister_id in _schedule(subnet):
        canister = subnet.canisters.get(canister_id)
        if canister is not None:
            _run_canister(subnet, canister)
    if subnet.stopping:
        finish_stopping(subnet)
    if subnet.outbox:
        deliver(subnet)


def _schedule(subnet: SubnetState) -> list[bytes]:
    if not subnet.task_canisters:
        return list(subnet.ready) if len(subnet.ready) < 2 else sorted(subnet.ready)
    return sorted(subnet.ready.keys() | subnet.task_canisters)


def _run_canister(subnet: SubnetState, canister: CanisterState) -> None:
    budget = subnet.config.max_instructions_per_round
    if canister.canister_id in subnet.task_canisters:
        budget -= _run_tasks(subnet, canister)
    inputs = canister.inputs
    while inputs and budget > 0:
        message = inputs.popleft()
        canister_id = canister.canister_id
        subnet.changed.add(canister_id)
        if isinstance(message, CallMessage):
            used = execute_call(subnet, canister, message)
            done = _executed_call(message, used)
        else:
            used = execute_response(subnet, canister, message)
            done = ExecutedMessage("response", canister_id, instructions=used)
        subnet.host.executed(subnet, done)
        budget -= used
        if canister.hook_status is HookStatus.READY:
            budget -= _run_tasks(subnet, canister)
    if not inputs:
        subnet.ready.pop(canister.canister_id, None)


def _run_tasks(subnet: SubnetState, canister: CanisterState) -> int:
    instructions = 0
    for task in TASKS:
        if task == "canister_on_low_wasm_memory":
            if canister.hook_status is not HookStatus.READY:
                continue
            canister.hook_status = HookStatus.EXECUTED
        elif task == "canister_global_timer":
            if not 0 < canister.global_timer_ns <= subnet.time_ns or not _can_run(subnet, canister):
                continue
            canister.global_timer_ns = 0
        used = execute_task(subnet, canister, task)
        if used:
            subnet.host.executed(subnet, ExecutedMessage("task", canister.canister_id, task, instructions=used))
        instructions += used
    if not canister.global_timer_ns and not _has_heartbeat(canister) and canister.hook_status is not HookStatus.READY:
        subnet.task_canisters.discard(canister.canister_id)
    return instructions


def _can_run(subnet: SubnetState, canister: CanisterState) -> bool:
    needed = subnet.costs_of(canister.module).execution(subnet.config.max_instructions_per_message)
    return canister.facts.status is CanisterStatus.RUNNING and canister.liquid_cycles >= needed


# -- delivery


def deliver(subnet: SubnetState) -> None:
    """Hand what was sent to its receivers, in the order in which it was sent."""
    outbox, subnet.outbox = subnet.outbox, []
    for message in outbox:
        if isinstance(message, CallMessage):
            _deliver_call(subnet, message)
        else:
            _deliver_response(subnet, message)


def _deliver_call(subnet: SubnetState, message: CallMessage) -> None:
    if message.callee in (_MANAGEMENT, subnet.subnet_id):
        subnet.management_calls.append(message)
        return
    canister = subnet.canisters.get(message.callee)
    if canister is None:
        respond(subnet, message.origin, not_found(message.callee), message.cycles)
        return
    canister.inputs.append(message)
    subnet.ready[message.callee] = None
    subnet.changed.add(message.callee)


def _deliver_response(subnet: SubnetState, message: ResponseMessage) -> None:
    canister = subnet.canisters.get(message.receiver)
    if canister is None:
        subnet.lost_cycles += message.refund
        return
    canister.inputs.append(message)
    subnet.ready[message.receiver] = None
    subnet.changed.add(message.receiver)


# -- time


def _expire_calls(subnet: SubnetState) -> None:
    """Answer bounded-wait calls whose time is up; the real answer, if it comes, finds nobody."""
    expired = [key for key, deadline_ns in subnet.deadlines.items() if deadline_ns <= subnet.time_ns]
    for canister_id, call_id in sorted(expired):
        del subnet.deadlines[canister_id, call_id]
        _forget_messages(subnet, canister_id, call_id)
        # Without its IC0601 in front, as canisters on the network get it (seen in the output of Motoko's suite).
        refusal = Reject(ErrorCode.DEADLINE_EXPIRED.reject_code, "Call deadline has expired.")
        subnet.outbox.append(ResponseMessage(canister_id, call_id, refusal, 0))


def _forget_messages(subnet: SubnetState, canister_id: bytes, call_id: int) -> None:
    """Drop the request, if nobody has begun it, and an answer that would be second. Their cycles are lost."""

    def belongs(message: CallMessage | ResponseMessage) -> bool:
        if isinstance(message, ResponseMessage):
            return message.receiver == canister_id and message.call_id == call_id
        origin = message.origin
        return isinstance(origin, FromCanister) and (origin.canister_id, origin.call_id) == (canister_id, call_id)

    caller = subnet.canisters[canister_id]
    callee = subnet.canisters.get(caller.open_calls[call_id].callee)
    queues = [caller.inputs, subnet.outbox, *([callee.inputs] if callee is not None and callee is not caller else [])]
    for messages in queues:
        for message in [message for message in messages if belongs(message)]:
            messages.remove(message)
            subnet.lost_cycles += message.refund if isinstance(message, ResponseMessage) else message.cycles


def advance_time(subnet: SubnetState, duration_ns: int) -> None:
    """Let time pass: canisters pay for their existence, and lose their code when they cannot."""
    if duration_ns < 0:
        raise ValueError(f"time does not go back, asked for {duration_ns} ns")
    subnet.time_ns += duration_ns
    for canister_id in sorted(subnet.canisters):
        canister = subnet.canisters[canister_id]
        elapsed_ns = subnet.time_ns - canister.charged_until_ns
        if elapsed_ns >= subnet.config.allocation_charge_period_ns:
            _charge_storage(subnet, canister, elapsed_ns)


def _charge_storage(subnet: SubnetState, canister: CanisterState, elapsed_ns: int) -> None:
    memory_bytes = max(canister.memory_bytes(), canister.settings.memory_allocation)
    due = subnet.costs.storage(memory_bytes, canister.settings.compute_allocation, elapsed_ns)
    canister.charged_until_ns = subnet.time_ns
    from_reserved = min(due, canister.reserved_cycles)
    from_balance = min(due - from_reserved, canister.cycles)
    canister.reserved_cycles -= from_reserved
    canister.cycles -= from_balance
    subnet.consumed_cycles += from_reserved + from_balance
    if due:
        subnet.changed.add(canister.canister_id)
    if from_reserved + from_balance < due:
        _run_dry(subnet, canister)


def _run_dry(subnet: SubnetState, canister: CanisterState) -> None:
    uninstall_code(subnet, canister)
    canister.snapshots.clear()
    canister.history.clear()
    canister.settings.compute_allocation = canister.settings.memory_allocation = 0
    canister.refresh(subnet.costs)
