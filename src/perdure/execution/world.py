"""What the rules work with: a subnet's state, and what it is wired to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, final

from perdure.canister import CanisterInstance, CanisterModule, GlobalValue, Image, StateDelta, WasmState
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CYCLES_2026_08, CostSchedule
from perdure.execution.state import SnapshotContent, SubnetState

__all__ = ["ExecutedMessage", "Host", "World"]


class ExecutedMessage(NamedTuple):
    """A message that is complete: what history says about it."""

    kind: str
    canister_id: bytes
    method_name: str = ""
    caller: bytes = b""
    arg: bytes = b""
    instructions: int = 0
    request_id: bytes = b""
    """Of a user's message; empty: nobody's."""
    time_ns: int = 0
    """What the message saw of the clock; 0: what the state says."""


class Host(Protocol):
    """What the rules need from outside: code, memories, and somebody to tell of commits."""

    def compile(self, wasm: bytes) -> CanisterModule:
        """Validate and compile a module as uploaded, maybe gzipped.

        Raises:
            MalformedError: no valid module.
            UnsupportedError: a module that the Internet Computer refuses.
        """
        ...

    def new_memories(self, canister_id: bytes, names: Iterable[str]) -> WasmState:
        """Empty memories for a canister's first module."""
        ...

    def add_memories(self, canister_id: bytes, names: Collection[str]) -> Mapping[str, Image]:
        """More of them, for a module that has more than the one before."""
        ...

    def committed(self, canister_id: bytes, delta: StateDelta) -> None:
        """Memories of a canister changed for good. The delta's views are valid during this call only."""
        ...

    def executed(self, state: SubnetState, message: ExecutedMessage) -> None:
        """A message is complete: the state is one that may be kept. `SubnetState.changed` says what it touched."""
        ...

    def discarded(self, canister_id: bytes) -> None:
        """A canister's memories are gone for good (uninstalled, deleted); its instance was closed."""
        ...

    def take_snapshot(self, canister_id: bytes, instance: CanisterInstance) -> SnapshotContent:
        """Keep a copy of the committed memories of `instance`."""
        ...

    def new_snapshot(self, canister_id: bytes, sizes_bytes: Mapping[str, int]) -> SnapshotContent:
        """Zeroed memories of these sizes by name, to be filled by an upload."""
        ...

    def load_snapshot(
        self,
        canister_id: bytes,
        content: SnapshotContent,
        global_values: tuple[GlobalValue, ...],
        names: Iterable[str],
    ) -> WasmState:
        """Memories for a canister with the content of a snapshot, which stays as it is; empty ones of other names."""
        ...


@final
@dataclass(slots=True)
class World:
    """The rules' one argument: state, which they change, and everything else that they need, which they do not.

    A fork is another world over a copy of the state; an anchor puts one world in the place of another.
    """

    state: SubnetState
    host: Host
    config: SubnetConfig = field(default_factory=SubnetConfig)
    costs: CostSchedule = CYCLES_2026_08
    certify: Callable[[bytes, bytes, int], bytes] | None = None
    """A certificate for a canister's id, certified data and the time in ns; asked for only when a query wants it."""

    def costs_of(self, module: CanisterModule | None) -> CostSchedule:
        """What entries into a module cost, and the calls that it makes."""
        return self.costs.wasm64 if module is not None and module.is_64 else self.costs
