"""Canisters come, change their settings, run, stop and go; cycles and randomness."""

from __future__ import annotations

from perdure.canister import MAX_CYCLES, Reject
from perdure.execution import lifecycle
from perdure.execution.effects import record_change
from perdure.execution.lifecycle import (
    add_canister,
    apply_settings,
)
from perdure.execution.management.call import Call, Values
from perdure.execution.management.settings import changed_settings, refuse_lists, validate_settings
from perdure.execution.rejects import rejected
from perdure.execution.state import Settings, Use
from perdure.ic.principal import Principal
from perdure.ic.reject import ErrorCode

__all__ = [
    "create_canister",
    "delete_canister",
    "deposit_cycles",
    "provisional_create_canister_with_cycles",
    "provisional_top_up_canister",
    "raw_rand",
    "start_canister",
    "stop_canister",
    "update_settings",
]


def _new_settings(call: Call) -> Settings | Reject:
    config = call.world.config
    settings = Settings(
        controllers=(call.message.caller,),
        freezing_threshold=config.default_freezing_threshold_seconds,
        reserved_cycles_limit=config.default_reserved_cycles_limit,
        wasm_memory_limit=config.default_wasm_memory_limit_bytes,
        log_memory_limit=config.default_log_memory_limit_bytes,
    )
    if len(call.world.state.canisters) >= config.max_canisters:
        return rejected(
            ErrorCode.MAX_NUMBER_OF_CANISTERS_REACHED,
            f"Subnet has reached the allowed canister limit of {config.max_canisters} canisters. "
            "Retry creating the canister.",
        )
    wanted = call.arg["settings"]
    settings = changed_settings(settings, wanted)
    return refuse_lists(call.world, wanted) or validate_settings(call.world, settings) or settings


def create_canister(call: Call) -> Values | Reject:
    """A canister, paid for with the cycles that came along."""
    settings = _new_settings(call)
    if isinstance(settings, Reject):
        return settings
    fee, cycles = call.world.costs.create_canister(), call.message.cycles
    if cycles < fee:
        return rejected(
            ErrorCode.INSUFFICIENT_CYCLES_FOR_CREATE_CANISTER,
            f"Creating a canister requires a fee of {fee} that is deducted from the canister's initial balance but "
            f"only {cycles} cycles were received with the create_canister request.",
        )
    call.message.cycles = 0
    canister = add_canister(call.world, settings, cycles - fee, origin=call.origin)
    call.world.state.consume(canister, fee, Use.CANISTER_CREATION)
    return [{"canister_id": Principal(canister.canister_id)}]


def provisional_create_canister_with_cycles(call: Call) -> Values | Reject:
    """A canister with cycles out of nothing."""
    settings = _new_settings(call)
    if isinstance(settings, Reject):
        return settings
    world, wanted = call.world, call.arg["specified_id"]
    if wanted is not None and wanted.raw_bytes in world.state.canisters:
        return rejected(ErrorCode.CANISTER_ID_ALREADY_EXISTS, f"Canister {wanted} is already installed")
    amount = call.arg["amount"]
    cycles = world.config.default_provisional_cycles if amount is None else amount
    if cycles > MAX_CYCLES:
        return _too_many(cycles)
    world.state.minted_cycles += cycles
    canister = add_canister(world, settings, cycles, None if wanted is None else wanted.raw_bytes, call.origin)
    return [{"canister_id": Principal(canister.canister_id)}]


def provisional_top_up_canister(call: Call) -> Values | Reject:
    """Cycles out of nothing, up to the most that a balance can be: the replica's sums saturate."""
    amount = call.arg["amount"]
    if amount > MAX_CYCLES:
        return _too_many(amount)
    added = max(0, min(amount, MAX_CYCLES - call.canister.cycles))
    call.canister.cycles += added
    call.world.state.minted_cycles += added
    return []


def _too_many(cycles: int) -> Reject:
    words = f"{cycles.bit_length()} bits of cycles, an amount of cycles has 128"
    return rejected(ErrorCode.INVALID_MANAGEMENT_PAYLOAD, f"Error decoding candid: {words}")


def update_settings(call: Call) -> Values | Reject:
    """Change what the argument names."""
    wanted = call.arg["settings"]
    settings = changed_settings(call.canister.settings, wanted)
    refusal = refuse_lists(call.world, wanted) or validate_settings(call.world, settings)
    if refusal is not None:
        return refusal
    before = call.canister.settings.controllers
    apply_settings(call.world, call.canister, settings)
    call.canister.facts.version += 1
    if settings.controllers != before or call.arg["settings"]["controllers"] is not None:
        record_change(
            call.world, call.canister, call.origin, "controllers_change", controllers=list(settings.controllers)
        )
    return []


def start_canister(call: Call) -> Values:
    """Take calls again."""
    lifecycle.start_canister(call.world, call.canister)
    return []


def stop_canister(call: Call) -> None:
    """Take no more calls; answered when none is open."""
    message = call.message
    lifecycle.stop_canister(call.world, call.canister, message.origin, message.cycles)


def delete_canister(call: Call) -> Values | Reject:
    """Remove a stopped canister."""
    if call.message.caller == call.canister.canister_id:
        return rejected(
            ErrorCode.CANISTER_INVALID_CONTROLLER, f"Canister {Principal(call.message.caller)} cannot delete itself."
        )
    return lifecycle.delete_canister(call.world, call.canister) or []


def deposit_cycles(call: Call) -> Values:
    """Give the cycles that came along to the canister."""
    call.canister.cycles += call.message.cycles
    call.message.cycles = 0
    return []


def raw_rand(call: Call) -> Values:
    """32 bytes of the subnet's randomness."""
    return [call.world.state.random_bytes(32)]
