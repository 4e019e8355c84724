"""What the passing of time brings: calls whose deadline is over, storage that is paid for, code that nobody pays.

Spec: "Call expiry", "Canister out of cycles".
"""

from __future__ import annotations

from collections.abc import MutableSequence
from dataclasses import replace
from typing import Any

from perdure.canister import Reject
from perdure.execution.effects import give_back
from perdure.execution.lifecycle import uninstall_code
from perdure.execution.messages import CallMessage, FromCanister, Message, ResponseMessage, cycles_of
from perdure.execution.state import LAST_TIME_NS, CanisterState, Use
from perdure.execution.world import World
from perdure.ic.reject import ErrorCode

__all__ = ["advance_time", "expire_calls", "move_clock", "next_charge_ns"]


def expire_calls(world: World) -> None:
    """Answer bounded-wait calls whose time is up; the real answer, if it comes, finds nobody."""
    expired = [key for key, deadline_ns in world.state.deadlines.items() if deadline_ns <= world.state.time_ns]
    world.begin()
    for canister_id, call_id in sorted(expired):
        world.touch(world.state.canisters[canister_id])
        del world.state.deadlines[canister_id, call_id]
        _forget_messages(world, canister_id, call_id)
        # Without its IC0601 in front, as canisters on the network get it (seen in the output of Motoko's suite).
        refusal = Reject(ErrorCode.DEADLINE_EXPIRED.reject_code, "Call deadline has expired.")
        world.state.outbox.append(ResponseMessage(canister_id, call_id, refusal, 0))
    world.finish()


def _forget_messages(world: World, canister_id: bytes, call_id: int) -> None:
    """Drop the request, if nobody has begun it, and an answer that would be second. Their cycles come back."""

    def belongs(message: Message) -> bool:
        if isinstance(message, ResponseMessage):
            return message.receiver == canister_id and message.call_id == call_id
        origin = message.origin if isinstance(message, CallMessage) else None
        return isinstance(origin, FromCanister) and (origin.canister_id, origin.call_id) == (canister_id, call_id)

    caller = world.state.canisters[canister_id]
    callee = world.state.canisters.get(caller.open_calls[call_id].callee)
    if callee is not None:
        world.touch(callee)
    world.state.outbox = list(world.state.outbox)  # the journal has the one before
    queues: list[MutableSequence[Any]] = [caller.inputs, world.state.outbox]
    if callee is not None and callee is not caller:
        queues.append(callee.inputs)
    for messages in queues:
        for message in [message for message in messages if belongs(message)]:
            messages.remove(message)
            give_back(world, caller, cycles_of(message))


def advance_time(world: World, duration_ns: int) -> None:
    """Let time pass: canisters pay for their existence, and lose their code when they cannot."""
    if duration_ns < 0:
        raise ValueError(f"time does not go back, asked for {duration_ns} ns")
    if world.state.time_ns + duration_ns >= LAST_TIME_NS:
        raise ValueError(f"{duration_ns} ns from now is later than 2116, where clocks end")
    world.state.note("advance", duration_ns)
    world.state.time_ns += duration_ns
    for canister_id in sorted(world.state.canisters):
        canister = world.state.canisters[canister_id]
        elapsed_ns = world.state.time_ns - canister.charged_until_ns
        if elapsed_ns >= world.config.allocation_charge_period_ns:
            _charge_storage(world, canister, elapsed_ns)


def next_charge_ns(world: World) -> int:
    """Before when time may pass without anybody having to pay, see `move_clock`; who comes later pays later."""
    state = world.state
    paid_until_ns = min((one.charged_until_ns for one in state.canisters.values()), default=state.time_ns)
    return paid_until_ns + world.config.allocation_charge_period_ns


def move_clock(world: World, time_ns: int) -> None:
    """Let the clock follow one outside, to a time before `next_charge_ns`: what `advance_time` does then, at no cost.

    Nothing else changes, so that canisters may run meanwhile. History has one input for what nothing came between.
    """
    state = world.state
    duration_ns = time_ns - state.time_ns
    if duration_ns <= 0:
        return
    state.time_ns = time_ns
    inputs = state.inputs
    if inputs is None:
        return
    if inputs and inputs[-1].kind == "advance":
        before = inputs.pop()
        inputs.append(before._replace(fields=(before.fields[0] + duration_ns,)))
    else:
        state.time_ns -= duration_ns  # an input says where it began
        state.note("advance", duration_ns)
        state.time_ns = time_ns


def _charge_storage(world: World, canister: CanisterState, elapsed_ns: int) -> None:
    memory_bytes = max(canister.memory_bytes(), canister.settings.memory_allocation)
    due = world.costs.storage(memory_bytes, canister.settings.compute_allocation, elapsed_ns)
    world.touch(canister)
    canister.charged_until_ns = world.state.time_ns
    from_reserved = min(due, canister.reserved_cycles)
    from_balance = min(due - from_reserved, canister.cycles)
    canister.reserved_cycles -= from_reserved
    canister.cycles -= from_balance
    of_compute = world.costs.storage(0, canister.settings.compute_allocation, elapsed_ns)
    of_memory = min(due - of_compute, from_reserved + from_balance)
    world.state.consume(canister, of_memory, Use.MEMORY)
    world.state.consume(canister, from_reserved + from_balance - of_memory, Use.COMPUTE_ALLOCATION)
    if from_reserved + from_balance < due:
        _run_dry(world, canister)


def _run_dry(world: World, canister: CanisterState) -> None:
    uninstall_code(world, canister)
    canister.snapshots.clear()
    canister.history = []
    canister.settings = replace(canister.settings, compute_allocation=0, memory_allocation=0)
    canister.refresh(world.costs)
