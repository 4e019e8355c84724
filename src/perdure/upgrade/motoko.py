"""Motoko's stable variables of a canister as it stands: its runtime gathers them on a fork, then they are read."""

from __future__ import annotations

from typing import Any

from perdure.canister import Context, Env, Method, Trap
from perdure.errors import RejectError, UnsupportedError
from perdure.execution.execute import growth_limits
from perdure.subnet import Canister
from perdure.upgrade.version import Version
from perdure.values.motoko_enhanced import read_enhanced
from perdure.values.motoko_state import MotokoState, read_classical
from perdure.values.motoko_types import parse_stable_types

__all__ = ["stable_variables"]

_PRE_UPGRADE = "canister_pre_upgrade"


def stable_variables(canister: Canister) -> MotokoState:
    """All stable variables, by name and type; the canister is not touched.

    Raises:
        UnsupportedError: it is no canister of Motoko that says its stable types.
        RejectError: its pre-upgrade hook traps.
        MalformedError: what the hook has left cannot be read.
    """
    module = canister.module
    text = None if module is None else Version(module).stable_types
    if module is None or text is None:
        raise UnsupportedError(
            f"canister {canister.id} has no stable variables of Motoko: no section motoko:stable-types"
        )
    types = parse_stable_types(text)
    twin = canister._subnet.fork().canister(canister.id)
    instance = _gathered(twin)
    if Version(module).keeps_heap:
        return read_enhanced(instance.memories["heap"], types)
    return read_classical(instance.memories["stable"], types)


def _gathered(canister: Canister) -> Any:
    """The canister's instance after its pre-upgrade hook, uncommitted."""
    state, world = canister._state, canister._subnet._world
    instance = canister._instance
    if _PRE_UPGRADE not in instance.module.exported_methods:
        return instance
    limits = growth_limits(world, state, "install", state.liquid_cycles)
    limits.instructions = world.config.max_instructions_per_install_code
    env = Env(
        Context.PRE_UPGRADE,
        state.facts,
        limits,
        time_ns=world.state.time_ns,
        caller=next(iter(state.settings.controllers), b"\x04"),
        needs_to_respond=False,
        cycle_balance=state.cycles,
        liquid_cycle_balance=state.liquid_cycles,
        global_timer_ns=state.global_timer_ns,
    )
    result = instance.run(Method(_PRE_UPGRADE), env)
    if isinstance(result, Trap):
        raise RejectError(5, "IC0503", f"pre_upgrade traps: {result.message or result.code.name}", result.backtrace)
    return instance
