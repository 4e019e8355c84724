"""Instances that come and go: a canister's engine instance exists only while somebody uses it.

The rules hold a `ResidentInstance` for as long as the canister lives. Behind it, the real instance is made when first
needed and may be closed between messages; its images and globals are all that it takes to make it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from perdure.canister import (
    CanisterInstance,
    CanisterModule,
    EntryPoint,
    Env,
    GlobalValue,
    Return,
    StateDelta,
    Trap,
    WasmState,
)
from perdure.errors import InternalError
from perdure.memory import Memory

__all__ = ["ResidentInstance", "ResidentModule", "Residents"]


@final
class Residents:
    """The instances that exist now, least recently used first when asked for.

    Args:
        capacity: how many may stay when `evict` is called.
    """

    def __init__(self, capacity: int = 512) -> None:
        self.capacity = capacity
        self._used: dict[ResidentInstance, None] = {}

    def __len__(self) -> int:
        return len(self._used)

    def opened(self, instance: ResidentInstance) -> None:
        """An instance was made."""
        self._used[instance] = None

    def closed(self, instance: ResidentInstance) -> None:
        """An instance is gone."""
        self._used.pop(instance, None)

    def evict(self) -> None:
        """Close the least recently used instances beyond the capacity. Call it between messages."""
        excess = len(self._used) - self.capacity
        if excess > 0:
            for instance in sorted(self._used, key=lambda item: item.last_used)[:excess]:
                instance.evict()


@final
class ResidentModule:
    """Code whose instances are resident only while in use; implements `CanisterModule`."""

    def __init__(self, code: CanisterModule, residents: Residents) -> None:
        self.code = code
        self.residents = residents
        # Looked up for every message; the module never changes.
        self.exported_methods = code.exported_methods
        self.module_hash = code.module_hash

    @property
    def wasm(self) -> bytes:
        """The module as uploaded."""
        return self.code.wasm

    @property
    def custom_sections(self) -> Mapping[str, bytes]:
        """Custom sections by full name."""
        return self.code.custom_sections

    def instantiate(self, state: WasmState) -> ResidentInstance:
        """An instance over `state`, made when first used."""
        return ResidentInstance(self, state)


@final
class ResidentInstance:
    """A canister's instance, there or not; implements `CanisterInstance`."""

    __slots__ = ("_committed", "_live", "_module", "_residents", "_state", "last_used")

    def __init__(self, module: ResidentModule, state: WasmState, live: CanisterInstance | None = None) -> None:
        self._module = module
        self._residents = module.residents
        self._state = state
        self._live = live
        self._committed = state.global_values is not None
        self.last_used = 0
        if live is not None:
            self._residents.opened(self)

    @property
    def module(self) -> ResidentModule:
        """The code."""
        return self._module

    @property
    def state(self) -> WasmState:
        """Images and globals as committed; what a fork starts from."""
        if self._live is not None:
            self._state.global_values = self._live.global_values
        return self._state

    @property
    def stable(self) -> Memory:
        """Stable memory as it stands."""
        return self._use().stable

    @property
    def heap(self) -> Memory:
        """The heap as it stands."""
        return self._use().heap

    @property
    def global_values(self) -> tuple[GlobalValue, ...]:
        """Globals as committed."""
        known = self._state.global_values
        return known if self._live is None and known is not None else self._use().global_values

    def run(self, entry_point: EntryPoint, env: Env) -> Trap | Return:
        """Enter the canister."""
        live = self._live
        if live is None:
            live = self._use()
        self.last_used = env.time_ns
        return live.run(entry_point, env)

    def changes(self) -> StateDelta:
        """What is uncommitted."""
        return self._use().changes()

    def commit(self) -> StateDelta:
        """Make the uncommitted state the committed one."""
        self._committed = True
        return self._use().commit()

    def roll_back(self) -> None:
        """Drop everything uncommitted."""
        if self._live is not None:
            self._live.roll_back()

    def save(self) -> StateDelta:
        """Copy what is uncommitted."""
        return self._use().save()

    def restore(self, saved: StateDelta) -> None:
        """Roll back, then apply `saved`, uncommitted."""
        self._use().restore(saved)

    def successor(self, module: CanisterModule, *, keep_heap: bool, keep_stable: bool) -> ResidentInstance:
        """An instance of `module` that takes over the memories."""
        if not isinstance(module, ResidentModule):
            raise InternalError(f"a resident's successor must be resident, found {type(module).__name__}")
        live = self._use().successor(module.code, keep_heap=keep_heap, keep_stable=keep_stable)
        return ResidentInstance(module, WasmState(self._state.heap, self._state.stable), live)

    def evict(self) -> None:
        """Close the real instance; the next use makes it again. Nothing may be uncommitted."""
        if self._live is not None and self._committed:
            self._state.global_values = self._live.global_values
            self.close()

    def close(self) -> None:
        """Let go of memories and engine."""
        if self._live is not None:
            self._live.close()
            self._live = None
            self._residents.closed(self)

    def _use(self) -> CanisterInstance:
        if self._live is None:
            self._live = self._module.code.instantiate(self._state)
            self._residents.opened(self)
        return self._live
