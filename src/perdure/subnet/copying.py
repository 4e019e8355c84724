"""Plumbing: a second copy of a subnet's state, for forks.

A canister's record is copied when somebody touches it: see `perdure.execution.lending`. For what is not just fields,
`copy.deepcopy` takes 0.3 ms for a canister and leaves the garbage collector as much to do; the pickle module makes the
same copy in C. Nothing is ever stored in this form.
"""

from __future__ import annotations

import io
import pickle
from collections import deque
from dataclasses import replace
from operator import attrgetter
from types import BuiltinFunctionType, FunctionType, MethodType, NoneType
from typing import TypeVar, final

from perdure.execution.lending import Loans
from perdure.execution.state import CHANGED_IN_PLACE, CanisterState
from perdure.execution.world import World
from perdure.garbage import uncollected
from perdure.subnet.host import MemoryHost, forked
from perdure.subnet.memories import StoredContent
from perdure.subnet.residency import ResidentInstance

__all__ = ["copy_world", "deep_copy", "pass_on"]

_Value = TypeVar("_Value")

_FUNCTIONS = frozenset({FunctionType, BuiltinFunctionType, MethodType})
_COPIED = frozenset({int, str, bool, NoneType, tuple, list, dict, set, frozenset, deque})
"""Kinds of which none is ever shared or replaced."""
_LONG_BYTES = 256


@final
class _Writer(pickle.Pickler):
    """Leaves out what both copies share, and notes it."""

    def __init__(self, file: io.BytesIO, replaced: dict[int, object]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._replaced = replaced
        self.shared: list[object] = []

    def persistent_id(self, value: object) -> int | None:
        kind = type(value)  # asked of everything there is, most of it small
        if kind in _COPIED or (kind is bytes and len(value) < _LONG_BYTES):  # type: ignore[arg-type]
            return None
        if id(value) in self._replaced:
            value = self._replaced[id(value)]
        elif kind is not bytes and kind not in _FUNCTIONS:
            return None
        self.shared.append(value)
        return len(self.shared) - 1


@final
class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, shared: list[object]) -> None:
        super().__init__(file)
        self._shared = shared

    def persistent_load(self, pid: int) -> object:
        return self._shared[pid]


def deep_copy(value: _Value, replaced: dict[int, object]) -> _Value:
    """A copy of `value` that shares long bytes and functions with it.

    Args:
        value: made of dataclasses, containers, enumerations and atoms.
        replaced: by the `id` of an object within `value`: what stands for it in the copy.
    """
    file = io.BytesIO()
    writer = _Writer(file, replaced)
    writer.dump(value)
    file.seek(0)
    copied: _Value = _Reader(file, writer.shared).load()
    return copied


def pass_on(old: World, new: World) -> None:
    """Have those who look on, or answer, do so for a world in the place of another."""
    new.streams, new.watchers, new.outcalls = old.streams, old.watchers, old.outcalls


@uncollected()
def copy_world(world: World, host: MemoryHost) -> World:
    """A world over a copy of the state; code is shared, memories are forked."""
    state = world.state
    if state.loans is None:
        state.loans = Loans()
    # A copy is in memory, and has no past.
    rest = replace(state, canisters={}, loans=None, inputs=None, changed=set())
    shared: dict[int, object] = {id(state.ingress): state.ingress.fork()}
    shared |= {id(handed.content): handed.content for handed in state.handed.values()}
    copied = deep_copy(rest, shared)
    copied.loans = Loans(state.loans.lock)
    copied.canisters = canisters = state.loans.lend(state.canisters, lambda canister: _twin(canister, host))
    if not isinstance(world.host, MemoryHost):
        canisters.values()  # at once: what is in a directory is not there for two threads
    journal = world.journal
    while journal is not None:  # what is on its way may be undone
        for canister_id in journal.canister_ids:
            canisters.get(canister_id)
        journal = journal.outer
    return World(copied, host, world.config, world.costs, world.certify)


_changed_in_place_of = attrgetter(*CHANGED_IN_PLACE)


def _twin(canister: CanisterState, host: MemoryHost) -> CanisterState:
    """A canister of another subnet as one of `host`'s."""
    instance, module = canister.instance, canister.module
    if isinstance(instance, ResidentInstance):
        instance = host.adopt(instance)
        module = instance.module
    if not any(_changed_in_place_of(canister)):
        empty = {name: getattr(canister, name).copy() for name in CHANGED_IN_PLACE}
        return replace(canister, facts=replace(canister.facts), instance=instance, module=module, limits={}, **empty)
    shared: dict[int, object] = {id(canister.instance): instance, id(canister.module): module}
    for snapshot in canister.snapshots.values():
        is_filled = not snapshot.uploaded or snapshot.module is not None  # else uploads write into it, on either side
        shared[id(snapshot.content)] = snapshot.content if is_filled else StoredContent(forked(snapshot.content))
        shared[id(snapshot.module)] = snapshot.module
    return deep_copy(canister, shared)
