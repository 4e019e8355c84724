"""Rounds: who runs when, how messages get from one canister to another.

Deterministic: canisters run in the order of their ids, messages in the order in which they were sent; what a round
sends is delivered after it. The same messages at the same times give the same state.

Spec: "The IC can execute any message that is at the head of its queue".
"""

from __future__ import annotations

from perdure.canister import CanisterStatus, Reject, Reply
from perdure.errors import HostError
from perdure.execution.clock import expire_calls
from perdure.execution.delivery import deliver
from perdure.execution.effects import pay, respond
from perdure.execution.events import Taken
from perdure.execution.execute import (
    HEARTBEAT_TASK,
    HOOK_TASK,
    TASKS,
    TIMER_TASK,
    can_execute_task,
    execute_call,
    execute_response,
    execute_task,
    inspect_message,
    out_of_cycles,
    refuse_call,
    task_is_done,
)
from perdure.execution.ingress import check_request_id, drawn_id, is_drawn
from perdure.execution.inputs import message_fields
from perdure.execution.journal import Ticket
from perdure.execution.lifecycle import can_finish_stopping, finish_stopping
from perdure.execution.management import execute_management_call, is_allowed_by_ingress
from perdure.execution.messages import CallMessage, FromUser, Response, request_of
from perdure.execution.outcalls import ask_outside, expire_outcalls
from perdure.execution.rejects import rejected
from perdure.execution.state import CanisterState, HookStatus, Use
from perdure.execution.world import World
from perdure.ic.principal import MANAGEMENT_CANISTER, Principal
from perdure.ic.reject import ErrorCode

__all__ = [
    "execute_alone",
    "execute_at_once",
    "execute_ingress",
    "go_on",
    "has_work",
    "is_hook_due",
    "reject_management_call",
    "request_status",
    "round_",
    "run_hook",
    "run_until_answered",
    "run_until_idle",
    "submit_ingress",
    "submit_request",
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
) -> bytes | Reject:
    """Let an ingress message in, if it may come in; see `submit_request`.

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
    message = CallMessage(FromUser(b""), sender, canister_id, method_name, arg, cycles, *caller_info)
    return submit_request(world, message, effective_canister_id)


def submit_request(
    world: World,
    message: CallMessage,
    effective_canister_id: bytes | None = None,
    expiry_ns: int | None = None,
    ticket: Ticket | None = None,
) -> bytes | Reject:
    """Let a user's request in, if it may come in.

    Args:
        world: the subnet, and what it is wired to.
        message: the request. Where its id is empty, it gets one that no other request has.
        effective_canister_id: for calls of the management canister, whom they concern.
        expiry_ns: when the request expires; `None`: not before it is answered.
        ticket: follows it in.

    Returns:
        Its id, under which `SubnetState.ingress` will have the answer; or why it may not come in. An id that is known
        already brings nothing in: it is the other message's.

    Raises:
        ValueError: nobody can name a request so.
    """
    state = world.state
    request_id: bytes = message.origin[0]
    if request_id:
        check_request_id(request_id)
        if state.ingress.knows(request_id, state.time_ns):
            return request_id
    else:
        request_id = drawn_id(state.next_request_number)
        message.origin = FromUser(request_id)
    is_management = message.callee == _MANAGEMENT
    payer = state.canisters.get(effective_canister_id or b"" if is_management else message.callee)
    fee = _refuse_request(world, expiry_ns) or _induct(world, payer, message)
    if isinstance(fee, Reject):
        return fee
    world.begin()
    state.note("submit", message_fields(message), effective_canister_id, expiry_ns)
    state.next_request_number += 1
    if ticket is not None:
        ticket.journal = world.journal
    if payer is not None:
        world.touch(payer)
        pay(world, payer, fee, Use.INGRESS_INDUCTION)
    state.minted_cycles += message.cycles
    state.ingress.callees[request_id] = message.callee
    if state.keeps_origins and not is_drawn(request_id):
        asked = effective_canister_id or b"" if is_management else message.callee
        state.ingress.owners[request_id] = message.caller, asked
    state.outbox.append(message)
    world.finish()
    return request_id


def _refuse_request(world: World, expiry_ns: int | None) -> Reject | None:
    """Why a request may not come in, whatever it asks for."""
    now_ns = world.state.time_ns
    if expiry_ns is not None and not now_ns <= expiry_ns <= now_ns + world.config.ingress_history_ns:
        # These words of its beginning are what clients look for, to set their clocks right.
        return rejected(
            ErrorCode.INGRESS_MESSAGE_TIMEOUT,
            f"Invalid request expiry: {expiry_ns} ns found, from {now_ns} to "
            f"{now_ns + world.config.ingress_history_ns} ns expected",
        )
    if not world.state.ingress.has_room(world.config):
        limit = world.config.ingress_history_max_requests
        return rejected(ErrorCode.INGRESS_HISTORY_FULL, f"{limit} requests are remembered, no more can be")
    return None


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


def execute_ingress(  # noqa: PLR0913, PLR0917 -- the parts of an ingress message
    world: World,
    canister_id: bytes,
    method_name: str,
    arg: bytes,
    sender: bytes = b"\x04",
    cycles: int = 0,
    max_rounds: int = 1_000,
    request_id: bytes | None = None,
    ticket: Ticket | None = None,
) -> Response | None:
    """Submit an ingress message and run rounds until it is answered.

    Returns:
        The response; `None` when `max_rounds` have passed or nothing is left to run: the answer depends on time going
        on (a bounded wait, a timer), or on somebody else.
    """
    begun = execute_at_once(world, canister_id, method_name, arg, sender, cycles, request_id, ticket)
    if begun is None:
        request = CallMessage(FromUser(request_id or b""), sender, canister_id, method_name, arg, cycles)
        begun = submit_request(world, request, ticket=ticket)
    elif is_hook_due(world, canister_id):
        run_hook(world, canister_id)
    return run_until_answered(world, begun, max_rounds) if isinstance(begun, bytes) else begun


def execute_at_once(  # noqa: PLR0913, PLR0917 -- the parts of an ingress message
    world: World,
    canister_id: bytes,
    method_name: str,
    arg: bytes,
    sender: bytes = b"\x04",
    cycles: int = 0,
    request_id: bytes | None = None,
    ticket: Ticket | None = None,
    caller_info: tuple[bytes, bytes] = (b"", b""),
) -> Response | bytes | None:
    """Execute an ingress message in a round of its own if it is all that there is to do, as most updates of tests are.

    It does what `round_` would, without queues, up to the low-memory hook: see `is_hook_due`. While the canister runs,
    only its own state has to stay as it is: messages for others may be executed in this way meanwhile.

    Returns:
        The response, which may be an old one if the id is known; or the id, for `run_until_answered`, if the canister
        has made calls; `None`: there is more to do, and nothing was done.

    Raises:
        ValueError: nobody can name a request so.
    """
    state = world.state
    if request_id is not None:
        check_request_id(request_id)
        if state.ingress.knows(request_id, state.time_ns):
            return _answer_again(world, request_id)
    canister = state.canisters.get(canister_id)
    if canister is None or _has_more(world):
        return None
    number = state.next_request_number
    state.next_request_number = number + 1
    origin = FromUser(request_id or drawn_id(number))
    message = CallMessage(origin, sender, canister_id, method_name, arg, cycles, caller_info[0], caller_info[1])
    fee = (_refuse_request(world, None) if request_id is not None else None) or _induct(world, canister, message)
    if isinstance(fee, Reject):
        return fee
    state.round_number += 1
    state.time_ns += world.config.round_ns
    execute = _execute_alone if request_id is None else execute_alone
    return execute(world, canister, message, fee, state.time_ns, ticket)


def _answer_again(world: World, request_id: bytes) -> Response | bytes:
    """The answer to a request that is known, or its id while it is in progress."""
    ingress = world.state.ingress
    response = ingress.find(request_id, world.state.time_ns)
    if response is not None or request_id in ingress.callees or request_id in ingress.begun:
        return response or request_id
    words = f"request {request_id.hex()} was answered before, and the answer is not kept any more"
    return rejected(ErrorCode.INGRESS_HISTORY_FULL, words)


def execute_alone(
    world: World, canister: CanisterState, message: CallMessage, fee: int, time_ns: int, ticket: Ticket | None = None
) -> Response | bytes:
    """Execute a user's message that has come in at `time_ns`; its answer, or its id."""
    request_id: bytes = message.origin[0]
    if is_drawn(request_id):
        return _execute_alone(world, canister, message, fee, time_ns, ticket)
    begun = world.state.ingress.begun
    try:
        begun[request_id] = message.caller, message.callee  # so that it is known to whoever brings it meanwhile
        return _execute_alone(world, canister, message, fee, time_ns, ticket)
    finally:
        begun.pop(request_id, None)


def _execute_alone(
    world: World, canister: CanisterState, message: CallMessage, fee: int, time_ns: int, ticket: Ticket | None
) -> Response | bytes:
    state, ingress = world.state, world.state.ingress
    request_id: bytes = message.origin[0]
    taken = Taken("call", message.callee, message.method_name, message.caller, request_id)
    if world.streams:
        world.tell(taken)
    used = execute_call(world, canister, message, fee, time_ns)
    if ticket is not None:
        ticket.journal = world.journal
    state.minted_cycles += message.cycles
    if state.inputs is not None:
        state.note("call", message_fields(message), time_ns)
    answer = ingress.find_new(request_id)
    if answer is None:
        ingress.callees[request_id] = message.callee
        if state.keeps_origins and request_id in ingress.begun:
            ingress.owners[request_id] = ingress.begun[request_id]
    world.finish(taken, message.arg, used, time_ns)
    return request_id if answer is None else answer


def is_hook_due(world: World, canister_id: bytes) -> bool:
    """Whether a message has left a canister with its low-memory hook to be run."""
    canister = world.state.canisters.get(canister_id)
    return canister is not None and canister.hook_status is HookStatus.READY


def run_hook(world: World, canister_id: bytes) -> None:
    """Run the low-memory hook of a canister, and what else is due for it."""
    world.state.note("hook", canister_id)
    _run_tasks(world, world.state.canisters[canister_id])


def _has_more(world: World) -> bool:
    """Whether a round would have anything to do beside a message that comes in."""
    state = world.state
    if state.outbox or state.ready or state.management_calls or state.deadlines or state.stopping or state.outcalls:
        return True
    then_ns = world.state.time_ns + world.config.round_ns
    return bool(world.state.task_canisters) and any(
        _is_due(canister, then_ns) or _has_heartbeat(canister)
        for canister in map(world.state.canisters.__getitem__, world.state.task_canisters)
    )


def _is_here(canister: CanisterState) -> bool:
    """Whether its code can be run. Else its messages and tasks wait, for as long as it takes."""
    return canister.module is None or not canister.module.absent


def _is_due(canister: CanisterState, time_ns: int) -> bool:
    """Whether a timer or the low-memory hook is to run at that time."""
    is_set = canister.hook_status is HookStatus.READY or 0 < canister.global_timer_ns <= time_ns
    return is_set and _is_here(canister)


def _has_heartbeat(canister: CanisterState) -> bool:
    module = canister.module
    return module is not None and "canister_heartbeat" in module.exported_methods and not module.absent


def run_until_answered(world: World, request_id: bytes, max_rounds: int = 1_000) -> Response | None:
    """Run rounds until an ingress message is answered; `None` as for `execute_ingress`."""
    for _ in range(max_rounds):
        response = world.state.ingress.find(request_id, world.state.time_ns)
        if response is not None or not go_on(world):
            return response
    return world.state.ingress.find(request_id, world.state.time_ns)


def request_status(world: World, request_id: bytes) -> str:
    """What became of a request: ``unknown``, ``received``, ``processing``, ``replied``, ``rejected`` or ``done``.

    Spec: "Request status".
    """
    state = world.state
    response = state.ingress.find(request_id, state.time_ns)
    if response is not None:
        return "replied" if isinstance(response, Reply) else "rejected"
    if state.ingress.knows(request_id, state.time_ns):
        return _status_in_progress(world, request_id)
    return "unknown"


def _status_in_progress(world: World, request_id: bytes) -> str:
    state = world.state
    callee = state.ingress.callees.get(request_id)
    if callee is None:
        return "processing" if request_id in state.ingress.begun else "done"
    canister = state.canisters.get(callee)
    waiting = (state.outbox, state.management_calls, () if canister is None else canister.inputs)
    origin = FromUser(request_id)
    is_waiting = any(
        isinstance(message, CallMessage) and message.origin == origin for messages in waiting for message in messages
    )
    return "received" if is_waiting else "processing"


# -- rounds


def has_work(world: World) -> bool:
    """Whether a round would execute anything but heartbeats."""
    if world.state.outbox or world.state.management_calls:
        return True
    if any(_is_here(world.state.canisters[canister_id]) for canister_id in world.state.ready):
        return True
    return any(
        _is_due(canister, world.state.time_ns) and _can_run(world, canister)
        for canister in map(world.state.canisters.__getitem__, world.state.task_canisters)
    )


def run_until_idle(world: World, max_rounds: int = 10_000) -> int:
    """Run rounds until there is nothing left to do but heartbeats; how many were run."""
    for rounds in range(max_rounds):
        if not go_on(world):
            return rounds
    return max_rounds


def go_on(world: World, *, always: bool = False) -> bool:
    """Run a round, of the network if the subnet has one, if there is something to do or `always`; whether it did."""
    if world.network is not None:
        return world.network(always)
    if not always and not (has_work(world) or ask_outside(world)):
        return False
    round_(world)
    return True


def round_(world: World) -> None:
    """One round: deliver, run the management canister's calls, then every canister that has something to do."""
    if world.state.inputs is not None:
        world.state.note_round()
    world.state.round_number += 1
    world.state.time_ns += world.config.round_ns
    if world.state.deadlines:
        expire_calls(world)
    if world.state.outcalls:
        expire_outcalls(world)
    if world.state.outbox:
        deliver(world)
    while world.state.management_calls:
        world.begin()
        call = world.state.management_calls.popleft()
        taken = world.take(Taken("management", b"", call.method_name, call.caller, request_of(call)))
        try:
            execute_management_call(world, call)
        except HostError as error:
            caller = Principal(call.caller)
            raise HostError(
                f"{error}; {call.method_name}, which {caller} has called, waits as before, and so does what comes "
                "after it: try again where there is more time and memory, or reject that call by "
                "Subnet.reject_management_call() or `perdure canister reject-management-call`"
            ) from error
        world.finish(taken, call.arg)
    for canister_id in _schedule(world):
        canister = world.state.canisters.get(canister_id)
        if canister is not None:
            _run_canister(world, canister)
    if world.state.stopping:
        world.begin()
        stops = world.take(Taken("stopping", b"")) if can_finish_stopping(world) else None
        finish_stopping(world)
        world.finish(stops)
    if world.state.outbox:
        deliver(world)


def reject_management_call(world: World, words: str) -> CallMessage | None:
    """Reject the call that the management canister would execute next, in a transaction; the call, if there is one.

    For what this machine can never execute, such as compiling a module beyond its limits: calls wait until it can, so
    that no state depends on a machine's speed, and rounds stop before it.
    """
    if not world.state.management_calls:
        if world.state.outbox:
            deliver(world)
        if not world.state.management_calls:
            return None
    world.begin()
    world.state.note("reject", words)
    call = world.state.management_calls.popleft()
    taken = world.take(Taken("management", b"", call.method_name, call.caller, request_of(call)))
    respond(world, call.origin, rejected(ErrorCode.CANISTER_REJECTED_MESSAGE, words), call.cycles)
    world.finish(taken, call.arg)
    return call


def _schedule(world: World) -> list[bytes]:
    if not world.state.task_canisters:
        return list(world.state.ready) if len(world.state.ready) < 2 else sorted(world.state.ready)
    return sorted(world.state.ready.keys() | world.state.task_canisters)


def _run_canister(world: World, canister: CanisterState) -> None:
    if not _is_here(canister):
        return
    budget = world.config.max_instructions_per_round
    if canister.canister_id in world.state.task_canisters:
        budget -= _run_tasks(world, canister)
    while canister.inputs and budget > 0:
        message = canister.inputs[0]
        if isinstance(message, CallMessage):
            who = message.callee, message.method_name, message.caller
            taken, arg = world.take(Taken("call", *who, request_of(message))), message.arg
            used = execute_call(world, canister, message)
        else:
            taken, arg = world.take(Taken("response", canister.canister_id)), b""
            used = execute_response(world, canister, message)
        canister.inputs.popleft()
        world.finish(taken, arg, used)
        budget -= used
        if canister.hook_status is HookStatus.READY:
            budget -= _run_tasks(world, canister)
    if not canister.inputs:
        world.state.ready.pop(canister.canister_id, None)


def _run_tasks(world: World, canister: CanisterState) -> int:
    instructions = 0
    for task in TASKS:
        if not _is_task_due(world, canister, task):
            continue
        if can_execute_task(world, canister, task):
            taken = world.take(Taken("task", canister.canister_id, task))
            used = execute_task(world, canister, task)
            world.finish(taken, b"", used)
            instructions += used
        elif task != HEARTBEAT_TASK:
            world.begin()
            world.touch(canister)
            task_is_done(canister, task)
            world.finish()
    if not canister.global_timer_ns and not _has_heartbeat(canister) and canister.hook_status is not HookStatus.READY:
        world.state.task_canisters.discard(canister.canister_id)
    return instructions


def _is_task_due(world: World, canister: CanisterState, task: str) -> bool:
    if task == HOOK_TASK:
        return canister.hook_status is HookStatus.READY
    if task == TIMER_TASK:
        return 0 < canister.global_timer_ns <= world.state.time_ns and _can_run(world, canister)
    return True


def _can_run(world: World, canister: CanisterState) -> bool:
    needed = world.costs_of(canister.module).execution(world.config.max_instructions_per_message)
    return canister.facts.status is CanisterStatus.RUNNING and canister.liquid_cycles >= needed
