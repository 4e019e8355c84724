"""What the rules work with: a subnet's state, what it is wired to, and the transaction that is under way.

```
 begin ─▶ rules change records in place; `touch` notes what each was ─▶ keep ─▶ is_kept ─▶ apply ─▶ over
                                                                       (host)  (one store)  (host)
```

An exception may come out of any line between: a full disk, no memory left, a bug, another thread's doing. Nothing
catches it where it happens. What was begun stays in `World.journal`, and whoever comes next calls `recover`: before
`is_kept` was stored, every record gets back what it was; after it, the rest is done. Both set absolute values, so a
recovery that is itself cut off is done again from its start.

A canister's code runs before `begin` wherever others may run beside it (`subnet.gate`): until it has returned, nothing
is taken from anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, final

from perdure.canister import (
    CanisterInstance,
    CanisterModule,
    EntryPoint,
    Env,
    GlobalValue,
    Image,
    Return,
    Trap,
    WasmState,
)
from perdure.errors import InternalError
from perdure.execution.config import SubnetConfig
from perdure.execution.cycles import CYCLES_2026_08, CostSchedule
from perdure.execution.events import Begun, Committed, Event, Stream, Taken, ended
from perdure.execution.journal import Journal
from perdure.execution.messages import CallMessage, FromCanister, Response
from perdure.execution.state import CanisterState, SnapshotContent, SubnetState, handed_key

__all__ = ["Host", "Watcher", "World"]

Watcher = Callable[[CanisterInstance, EntryPoint, Env, Trap | Return], None]
"""Sees an entry while what it did to memories is still there to be seen; what it raises cuts the message off."""


class Host(Protocol):
    """What the rules need from outside: code, memories, and somebody to tell of commits."""

    @property
    def extensions(self) -> tuple[str, ...]:
        """Names of what goes beyond the network's rules, see `perdure.ic.ic0_ext`."""
        ...

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

    def keep(
        self, state: SubnetState, journal: Journal, taken: Taken, arg: bytes, instructions: int, time_ns: int
    ) -> None:
        """Make sure that what a message did can be committed, and where there is a disk, log it: `Journal.version`.

        `SubnetState.changed` says which records it touched, `Journal.commits` whose memories. Whatever is raised, the
        message can be undone, unless `was_kept` says otherwise.
        """
        ...

    def was_kept(self, journal: Journal) -> bool:
        """Whether `keep` had done its work, although it did not return."""
        ...

    def apply(self, state: SubnetState, journal: Journal) -> None:
        """Do the rest of a commit that was kept. It may be done again, from whatever it was cut off at."""
        ...

    def undone(self, journal: Journal) -> None:
        """Forget what was noted for a message that was undone. It may be done again."""
        ...

    def check(self) -> None:
        """Raise where nothing can be executed or kept any more: it is closed, or memory and disk may differ."""
        ...

    def pause(self) -> None:
        """Between two messages: let in whoever was put off. Whatever that raises, the message before is kept."""
        ...

    def say_once(self, words: str) -> None:
        """Tell whoever runs this process, the first time that it is said in it."""
        ...

    def forget_memory(self, instance: CanisterInstance, name: str) -> None:
        """Let go of a memory of a canister that its code does not have."""
        ...

    def discard(self, canister_id: bytes, instance: CanisterInstance) -> None:
        """Let go of an instance and its memories for good (uninstalled, replaced, undone). It may be done again."""
        ...

    def hand_over(self, canister_id: bytes, instance: CanisterInstance, names: Mapping[str, str]) -> SnapshotContent:
        """Keep a copy of memories as they stand, uncommitted changes included: by new names, under which they were."""
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
    journal: Journal | None = None
    """Of the transaction that is under way, or was when an exception cut it off."""
    streams: tuple[Stream, ...] = ()
    """Of those who listen. Where there is nobody, no event is made."""
    watchers: tuple[Watcher, ...] = ()
    """Told of each entry before anybody has committed it or rolled it back."""
    touched: set[bytes] | None = None
    """Canisters that were touched, for somebody who keeps something about them, and empties it."""
    intercept: Callable[[CallMessage], Response | bool] | None = None
    """Asked of each call that a canister makes, before it is delivered: a response answers it, `True` leaves it without
    an answer for ever, `False` lets it go where it goes."""

    outcalls: Callable[[World, bool], bool] | None = None
    """Answers outcalls when nothing else is left to run, and says whether it did; told whether somebody waits for what
    is left. `None`: what somebody waits for is rejected."""

    route: Callable[[bytes], bytes | None] | None = None
    """The id of the subnet that has a canister, or would have it, by the canister's id or its own; `None`: none has. A
    subnet that is a network of its own asks nobody."""
    network: Callable[[bool], bool] | None = None
    """Runs a round of all subnets of the network, if there is work or it is told to anyway; whether it did."""

    # --- what happens

    def tell(self, event: Event) -> None:
        """Add to the streams. Ask first whether there are any: to make an event costs more than that."""
        for stream in self.streams:
            stream.add(event)

    def take(self, taken: Taken) -> Taken:
        """Say what is about to be executed; `finish` has history say the same."""
        if self.streams:
            self.tell(taken)
        return taken

    def enter(self, instance: CanisterInstance, entry: EntryPoint, env: Env) -> Trap | Return:
        """Run an entry of a canister. Others may run meanwhile: see `subnet.gate`."""
        if not self.streams and not self.watchers:
            return instance.run(entry, env)
        canister_id, context = env.facts.canister_id, env.context
        if self.streams:
            self.tell(Begun(canister_id, entry[0], context))
        result = instance.run(entry, env)
        if self.streams:
            self.tell(ended(canister_id, context, result, self.costs_of(instance.module)))
        for watcher in self.watchers:
            watcher(instance, entry, env, result)
        return result

    def costs_of(self, module: CanisterModule | None) -> CostSchedule:
        """What entries into a module cost, and the calls that it makes."""
        return self.costs.wasm64 if module is not None and module.is_64 else self.costs

    # --- the transaction

    def begin(self) -> None:
        """Begin one; nothing was changed yet."""
        self.journal = Journal(self.state, self.journal)

    def touch(self, canister: CanisterState) -> None:
        """Say that a canister's record is about to change."""
        state, canister_id = self.state, canister.facts.canister_id
        if state.loans is not None:
            state.loans.settle(canister_id)
        if self.journal is not None:
            self.journal.note(state, canister_id, canister)
        state.changed.add(canister_id)
        if self.touched is not None:
            self.touched.add(canister_id)

    def afterwards(self, act: Callable[[], object]) -> None:
        """Do something that cannot be undone once the transaction is kept, at once where there is none."""
        if self.journal is None:
            act()
        else:
            self.journal.after.append(act)

    def made(self, give_back: Callable[[], object]) -> None:
        """Say how something that was made is given back if the transaction is undone."""
        if self.journal is not None:
            self.journal.made.append(give_back)

    def finish(
        self, taken: Taken | None = None, arg: bytes = b"", instructions: int = 0, time_ns: int | None = None
    ) -> None:
        """End the transaction: all of it is kept from here on.

        Args:
            taken: what was executed, for history; `None`: no commit of its own, it goes with the next one.
            arg: what came with it; history has its hash.
            instructions: what it used.
            time_ns: what it saw of the clock, by default what the state says.
        """
        journal = self.journal
        if journal is None:
            raise InternalError("a transaction ended that had not begun")
        if self.state.handed:
            self._drop_handed()
        if taken is not None:
            time_ns = self.state.time_ns if time_ns is None else time_ns
            self.host.keep(self.state, journal, taken, arg, instructions, time_ns)
        journal.is_kept = True
        self._apply(journal)
        self.host.pause()

    def _drop_handed(self) -> None:
        """Let go of memories whose call is not on its way any more, whatever became of it."""
        state = self.state
        left = {}
        for key, handed in state.handed.items():
            callee = state.canisters.get(handed.callee)
            waiting = (*state.outbox, *state.management_calls, *(() if callee is None else callee.inputs))
            if any(isinstance(one, CallMessage) and _key_of(one) == key for one in waiting):
                left[key] = handed
                continue
            caller = state.canisters.get(key[:-8])
            if caller is not None:
                self.touch(caller)
                caller.handed_wasm_pages -= handed.wasm_pages
                caller.refresh(self.costs)
        if len(left) != len(state.handed):
            state.handed = left

    def _apply(self, journal: Journal) -> None:
        self.host.apply(self.state, journal)
        for act in journal.after:
            act()
        self.journal = journal.outer
        if self.streams:
            self.tell(Committed(journal.version, journal.canister_ids))

    def undo(self) -> None:
        """Have the transaction never have been."""
        journal = self.journal
        if journal is not None:
            journal.put_back(self.state)
            self.host.undone(journal)
            self.journal = journal.outer

    def recover(self) -> None:
        """Finish, or undo, what an exception has cut off. Call it before anything else where `journal` is left over."""
        while (journal := self.journal) is not None:
            if journal.is_kept or self.host.was_kept(journal):
                journal.is_kept = True
                self._apply(journal)
            else:
                self.undo()


def _key_of(message: CallMessage) -> bytes:
    origin = message.origin
    return handed_key(origin.canister_id, origin.call_id) if isinstance(origin, FromCanister) else b""
