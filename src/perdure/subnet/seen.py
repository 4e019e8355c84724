"""What there is to see of a canister, and its memories to change from outside; `canister.py` has what it does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from perdure.candid.types import Value
from perdure.canister import CanisterModule, GlobalValue, PageDelta, StateDelta
from perdure.errors import NoMemoryError
from perdure.execution.effects import commit
from perdure.execution.execute import clean_instance
from perdure.execution.lifecycle import drop_memory
from perdure.execution.state import CanisterState, LogRecord
from perdure.ic.principal import Principal
from perdure.subnet.core import Core
from perdure.subnet.doors import door
from perdure.subnet.gate import Gate, alone, at_rest
from perdure.subnet.last import LastEntry, last_entry
from perdure.subnet.management import Status, status_of, status_record
from perdure.subnet.memories import LiveMemory, MemoriesByName, as_they_stand
from perdure.subnet.residency import ResidentInstance

if TYPE_CHECKING:
    import apsw

__all__ = ["Seen"]


class Seen:
    """A canister as far as it is looked at.

    Args:
        subnet: where it is.
        canister_id: its id.
    """

    __slots__ = ("_raw_id", "_subnet", "id")

    _subnet: Core
    id: Principal
    _raw_id: bytes

    @property
    def _state(self) -> CanisterState:
        return self._subnet._state.canisters[self._raw_id]

    @property
    def _gate(self) -> Gate:
        return self._subnet._gate

    @property
    def _instance(self) -> ResidentInstance:
        instance = self._state.instance
        if not isinstance(instance, ResidentInstance):
            raise NoMemoryError(f"canister {self.id} has no code and so no memories").coded("no-memory")
        return instance

    def _recover(self) -> None:
        self._subnet._recover()

    @alone
    def commit_pages(self, name: str, delta: PageDelta, *, kind: str, check: Callable[[], object]) -> None:
        """Make a change of many pages of a memory one commit.

        Args:
            name: of the memory.
            delta: the pages, and how large the memory is then.
            kind: of the commit, as the history has it.
            check: called with the subnet to itself; raises where the change must not be made.
        """
        check()
        self._write(name, delta, kind)

    def _write(self, name: str, delta: PageDelta, kind: str = "") -> None:
        """Make a change of a memory a commit of its own."""
        state, instance, world = self._state, clean_instance(self._state), self._subnet._world
        with self._subnet._transaction(kind or f"write_{name}", self._raw_id):
            world.touch(state)
            world.made(instance.roll_back)
            instance.restore(StateDelta({name: delta}))
            world.state.note("record")
            commit(world, state, as_they_stand(instance.memories))

    @property
    def stable(self) -> LiveMemory:
        """Stable memory. Reads show it as it stands; a write is committed at once."""
        return self._memory("stable")

    @property
    def heap(self) -> LiveMemory:
        """The heap. Reads show it as it stands; a write is committed at once."""
        return self._memory("heap")

    @property
    @at_rest
    def memories(self) -> Mapping[str, LiveMemory]:
        """All memories by name, ``heap`` and ``stable`` among them."""
        return MemoriesByName((name, self._memory(name)) for name in self._instance.memories)

    @alone
    def _drop_memory(self, name: str) -> None:
        with self._subnet._transaction(f"drop_{name}", self._raw_id):
            drop_memory(self._subnet._world, self._state, name)
            self._subnet._world.state.note("record")

    def _memory(self, name: str) -> LiveMemory:
        return LiveMemory(self._instance, self, name)

    @property
    @at_rest
    def last(self) -> LastEntry | None:
        """What the last entry took: instructions, cycles, pages, lines printed, time; `None`: there was none."""
        return last_entry(self._subnet._world, self._state)

    @property
    def open_call_contexts(self) -> int:
        """How many calls the canister has begun to answer, and has not answered."""
        return len(self._state.contexts)

    def sqlite(
        self,
        *,
        write: bool | Literal["unsafe"] = False,
        at: int | None = None,
        name: str | None = None,
        limits: object = None,
    ) -> apsw.Connection:
        """A connection of apsw to the SQLite database in stable memory, where it lies (extra ``sql``).

        It shows the state that this handle shows: a fork's handle has connections of its own, and within an anchor what
        is written is undone at its end. A transaction sees one state; where a message changes the database meanwhile,
        it ends with `apsw.BusyError`.

        Args:
            write: each transaction of SQLite becomes one commit of the canister's state, of the kind ``sqlite``. For
                modules that say that they look again at what others have written; ``"unsafe"``: for others too, within
                ``subnet.anchor()``.
            at: a version of the state directory, to read what was.
            name: the label that ``perdure stable ls`` shows, where there are several databases.
            limits: `perdure.inspection.Limits`, of time, length and memory.

        Raises:
            UnsupportedError: there is no database, apsw is missing, or nobody may write now: the module does not say
                that it looks again, or the canister is within a call.
        """
        connection: apsw.Connection = door("Canister.sqlite")(self, write=write, at=at, name=name, limits=limits)
        return connection

    def stable_variables(self) -> Value:
        """Motoko's stable variables, by name and type: its runtime gathers them on a fork, then they are read.

        Returns:
            A `perdure.values.motoko_state.MotokoState`: its `values` are by name.

        Raises:
            UnsupportedError: it is no canister of Motoko that says its stable types.
            RejectError: its pre-upgrade hook traps.
        """
        return door("Canister.stable_variables")(self)

    @property
    @at_rest
    def globals(self) -> tuple[GlobalValue, ...]:
        """Globals that are mutable or exported, in the network's order."""
        return self._instance.global_values

    @property
    def module(self) -> CanisterModule | None:
        """The code: hash, exported methods, custom sections."""
        return self._state.module

    def status(self) -> Status:
        """Facts as ``canister_status`` gives them."""
        return status_of(self._state)

    def settings(self) -> dict[str, Value]:
        """The settings, by their names in the interface specification."""
        settings: dict[str, Value] = status_record(self._subnet._world, self._state)["settings"]
        return settings

    def logs(self) -> tuple[LogRecord, ...]:
        """Lines that the canister printed and traps that it ended in, oldest first."""
        return tuple(self._state.log.records)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and other._subnet is self._subnet and other._raw_id == self._raw_id

    def __hash__(self) -> int:
        return hash((id(self._subnet), self._raw_id))

    def __repr__(self) -> str:
        state = self._subnet._state.canisters.get(self._raw_id)
        if state is None:
            return f"<Canister {self.id}>"
        module = state.module
        code = (
            "no code"
            if module is None
            else (module.name.rpartition(":")[2] or f"module {module.module_hash.hex()[:8]}")
        )
        return f"<Canister {self.id}: {code}, {status_of(state).status}, {state.cycles:,} cycles>"
