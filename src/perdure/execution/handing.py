"""Memories that a call takes along: a copy-on-write snapshot, which the callee gets in the commit of its message.

The caller keeps its own, and is charged for what is under way. A callee that refuses the call, traps, is stopped or
gone gets nothing; what was under way goes with the call. Nobody's bytes are ever replaced: a name is taken where
nothing, or an empty memory, has it.
"""

from __future__ import annotations

from perdure.canister import MAX_OWN_MEMORIES, UNLIMITED, Handing, Limits, MethodCall, Reject, Return, Trap, TrapCode
from perdure.errors import InternalError
from perdure.execution.messages import CallOrigin, FromCanister
from perdure.execution.rejects import rejected
from perdure.execution.state import CanisterState, Handed, OwnMemory, handed_key
from perdure.execution.world import World
from perdure.ic.ic0_ext import has_memories
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode

__all__ = ["hand_over", "handing_of", "refuse_handed", "take_in", "with_handed"]


def handing_of(world: World, canister: CanisterState, limits: Limits) -> Handing | None:
    """What an entry may hand over; nothing where no extension asked for memories."""
    if not has_memories(world.host.extensions):
        return None
    sizes = {name: one.wasm_pages for name, one in canister.own_memories.items() if one.lifetime != "message"}
    room = limits.stable_trap_wasm_pages
    return Handing(
        {"stable": canister.stable_wasm_pages, **sizes},
        room if room == UNLIMITED else max(0, room - canister.stable_wasm_pages),
    )


def hand_over(world: World, canister: CanisterState, call_id: int, call: MethodCall) -> None:
    """Put the memories of a call on their way, as they are with what the entry has done."""
    if canister.instance is None:
        raise InternalError("a canister without an instance hands over nothing")
    content = world.host.hand_over(canister.canister_id, canister.instance, call.memories)
    memories = {}
    for there, name in call.memories.items():
        known = canister.own_memories.get(name)
        bits = 64 if known is None else known.address_bits
        memories[there] = OwnMemory("stable", bits, content.memories[there].size())
    handed = Handed(call.callee, content, memories)
    world.state.handed = {**world.state.handed, handed_key(canister.canister_id, call_id): handed}
    canister.handed_wasm_pages += handed.wasm_pages
    canister.refresh(world.costs)


def _handed_by(world: World, origin: CallOrigin | None) -> Handed | None:
    """What came along with a call."""
    if not world.state.handed or not isinstance(origin, FromCanister):
        return None
    return world.state.handed.get(handed_key(origin.canister_id, origin.call_id))


def refuse_handed(
    world: World, canister: CanisterState, origin: CallOrigin, limits: Limits, *, commits: bool
) -> Reject | None:
    """Why a callee cannot have what came along with a call; `None`: it can, or nothing did.

    Args:
        world: the subnet.
        canister: the callee.
        origin: of the call.
        limits: how far its memories may grow.
        commits: whether the method does.
    """
    handed = _handed_by(world, origin)
    if handed is None:
        return None
    reason = _conflict(canister, handed)
    if not commits:
        reason = "a query method commits nothing, so it gets no memory"
    elif not has_memories(world.host.extensions):
        reason = "the extension 'memories' is off"
    if reason:
        text = f"Canister {Principal(canister.canister_id)} cannot be given a memory: {reason}."
        return rejected(ErrorCode.CANISTER_CONTRACT_VIOLATION, text)
    if handed.wasm_pages > limits.stable_trap_wasm_pages - canister.stable_wasm_pages:
        return rejected(
            ErrorCode.CANISTER_OUT_OF_CYCLES,
            f"Canister {Principal(canister.canister_id)} cannot pay for the {handed.wasm_pages} Wasm pages of memory "
            "that came with the call: please top it up with cycles",
        )
    return None


def _conflict(canister: CanisterState, handed: Handed) -> str:
    own = canister.own_memories
    named = canister.module.memories if canister.module is not None else {}
    for name, memory in handed.memories.items():
        if name in own and own[name].wasm_pages:
            return f"its memory '{name}' has {own[name].wasm_pages} Wasm pages already"
        kind = named.get(name)
        if kind is not None and kind.lifetime not in {"stable", "upgrade"}:
            return f"its memory '{name}' has lifetime '{kind.lifetime}'"
        bits = kind.address_bits if kind is not None else memory.address_bits
        if bits != memory.address_bits:
            return f"its memory '{name}' has {bits}-bit addresses, the one that came has {memory.address_bits}-bit ones"
        if kind is not None and memory.wasm_pages > kind.most_wasm_pages:
            most = kind.most_wasm_pages
            return f"its memory '{name}' has at most {most} Wasm pages, the one that came has {memory.wasm_pages}"
    if len({*own, *handed.memories}) > MAX_OWN_MEMORIES:
        return f"it would have {len({*own, *handed.memories})} of its own, at most {MAX_OWN_MEMORIES}"
    return ""


def with_handed(
    world: World, canister: CanisterState, origin: CallOrigin | None, result: Trap | Return
) -> tuple[Handed | None, Trap | Return]:
    """What came along with a call, and what that came to: a trap where the callee cannot take it in."""
    handed = _handed_by(world, origin)
    reason = "" if handed is None or isinstance(result, Trap) else _misfit(canister, handed, result)
    if not reason:
        return handed, result
    return handed, Trap(
        TrapCode.CONTRACT_VIOLATION,
        reason,
        instructions=result.instructions,
        logs=result.logs,
        log_lines_dropped=result.log_lines_dropped,
    )


def _misfit(canister: CanisterState, handed: Handed, result: Return) -> str:
    for name in handed.memories:
        if result.own_wasm_pages.get(name):
            return f"memory {name} was grown by the message with which another one comes in its place"
    if canister.instance is not None and canister.instance.is_waiting:  # it would have to begin anew
        return f"memory {next(iter(handed.memories))} comes while a method of the canister is in an await"
    return ""


def take_in(world: World, canister: CanisterState, handed: Handed | None) -> None:
    """Have a callee, whose message is about to be committed, get what came along with it."""
    if handed is None:
        return
    if world.journal is None:
        raise InternalError("a memory is given in a transaction")
    named = canister.module.memories if canister.module is not None else {}
    given = {
        name: one._replace(lifetime=named[name].lifetime if name in named else one.lifetime)
        for name, one in handed.memories.items()
    }
    world.journal.given[canister.canister_id] = handed.content
    canister.own_memories = {**canister.own_memories, **given}
    canister.refresh(world.costs)
