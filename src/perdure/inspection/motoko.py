"""Motoko's stable variables of a canister as it stands: its runtime gathers them on a fork, then they are read.

`perdure.values.motoko_state` says how they lie there, classically and with enhanced orthogonal persistence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from perdure.canister import CanisterModule, Context, Env, Method, Trap
from perdure.errors import RejectError, UnsupportedError
from perdure.execution.execute import growth_limits
from perdure.subnet import Canister
from perdure.values.motoko_enhanced import read_enhanced
from perdure.values.motoko_state import MotokoState, read_classical
from perdure.values.motoko_types import StableTypes, parse_stable_types

__all__ = [
    "PERSISTENCE_SECTION",
    "STABLE_TYPES_SECTION",
    "default_persistence",
    "reader",
    "section",
    "stable_variables",
]

STABLE_TYPES_SECTION: Final = "motoko:stable-types"
PERSISTENCE_SECTION: Final = "icp:private enhanced-orthogonal-persistence"
_PRE_UPGRADE: Final = "canister_pre_upgrade"


def default_persistence(canister: Canister) -> str | None:
    """What an upgrade of a canister does with its heap, where nobody says it: as icp and dfx do it.

    Motoko with enhanced orthogonal persistence keeps its heap.
    """
    module = canister.module
    return "keep" if module is not None and PERSISTENCE_SECTION in module.custom_sections else None


def section(module: CanisterModule, name: str) -> bytes | None:
    """A custom section by its short name, public, private, or as it stands."""
    sections = module.custom_sections
    return next(
        (sections[full] for full in (f"icp:public {name}", f"icp:private {name}", name) if full in sections), None
    )


def stable_variables(canister: Canister) -> MotokoState:
    """All stable variables, by name and type; the canister is not touched.

    Raises:
        UnsupportedError: it is no canister of Motoko that says its stable types.
        RejectError: its pre-upgrade hook traps.
        MalformedError: what the hook has left cannot be read.
    """
    return reader(canister)()


def reader(canister: Canister, max_instructions: int | None = None) -> Callable[[], MotokoState]:
    """What reads them, once they are gathered on a fork; raises as `stable_variables` does.

    The pre-upgrade hook has `max_instructions`, where these are less than an upgrade has.
    """
    module = canister.module
    types = None if module is None else _types(module)
    if module is None or types is None:
        raise UnsupportedError(
            f"canister {canister.id} has no stable variables of Motoko: no section {STABLE_TYPES_SECTION}"
        )
    instance = gathered(canister._subnet.fork().canister(canister.id), max_instructions)
    if PERSISTENCE_SECTION in module.custom_sections:
        return lambda: read_enhanced(instance.memories["heap"], types)
    return lambda: read_classical(instance.memories["stable"], types)


def _types(module: CanisterModule) -> StableTypes | None:
    data = section(module, STABLE_TYPES_SECTION)
    return None if data is None else parse_stable_types(data.decode("utf-8", "replace"))


def gathered(canister: Canister, max_instructions: int | None = None) -> Any:
    """The canister's instance after its pre-upgrade hook, uncommitted.

    Raises:
        RejectError: the hook traps.
    """
    state, world = canister._state, canister._subnet._world
    instance = canister._instance
    if _PRE_UPGRADE not in instance.module.exported_methods:
        return instance
    limits = growth_limits(world, state, "install", state.liquid_cycles)
    most = world.config.max_instructions_per_install_code
    limits.instructions = most if max_instructions is None else min(most, max_instructions)
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
