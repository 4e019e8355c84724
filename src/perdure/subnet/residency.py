"""Instances that come and go: a canister's engine instance exists only while somebody uses it.

The rules hold a `ResidentInstance` for as long as the canister lives. Behind it, the real instance is made when first
needed and may be closed between messages; its images and globals are all that it takes to make it again.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter_ns
from typing import ClassVar, NamedTuple, final

from perdure.canister import (
    NO_CHANGE,
    CanisterInstance,
    CanisterModule,
    Context,
    EntryPoint,
    Env,
    GlobalValue,
    Image,
    Return,
    StateDelta,
    Trap,
    WasmState,
)
from perdure.embedder import WasmInstance
from perdure.embedder.guard import threads
from perdure.embedder.mapping import AddressRange
from perdure.errors import InternalError
from perdure.memory import PAGE_BYTES, Memory
from perdure.subnet.gate import Gate, Outside

__all__ = ["CAPACITY", "CodeForm", "ResidentInstance", "ResidentModule", "Residents"]


CAPACITY = 1_024
"""How many instances may stay."""

_MAX_ADDRESS_BYTES = 64 << 40
"""Half of what a process can address: 255 stable memories of 500 GiB use up all of it."""
_LOOK_BYTES = 8 << 40  # looking takes 15 to 40 us, so it is done after so much more has been reserved

_FEW_INSTRUCTIONS = 200_000
"""What the engine executes in about 100 us. To let others go on for less than that costs more than it gives: threads
that hand lock and interpreter to and fro take 20 to 50 us for it."""

OpenMemories = Callable[[tuple[GlobalValue, ...] | None], WasmState]
"""Opens a canister's memories anew, with these globals."""


@final
class CodeForm(NamedTuple):
    """Another form of code, which does the same: one that also counts, for a profile.

    Args:
        of: the code to run in place of code.
        begun: told of each instance when it has been made.
        ended: told of each instance when it has been closed.
    """

    of: Callable[[CanisterModule], CanisterModule]
    begun: Callable[[WasmInstance], None] = lambda instance: None
    ended: Callable[[WasmInstance], None] = lambda instance: None


def _address_space_bytes() -> int:
    """What the process has reserved; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[0]) * PAGE_BYTES
    except OSError:
        return 0


@final
class Residents:
    """The instances that exist now, least recently used first when asked for.

    Args:
        gate: of their subnet.
        capacity: how many may stay when `evict` is called.
    """

    everywhere: ClassVar[tuple[CodeForm, ...]] = ()
    """Forms in which the code of all subnets of the process runs, of instances that are made from now on."""

    @classmethod
    @contextmanager
    def run_everywhere_as(cls, form: CodeForm) -> Iterator[None]:
        """Have the code of all subnets of the process run in one more form within the block."""
        cls.everywhere = (*cls.everywhere, form)
        try:
            yield
        finally:
            cls.everywhere = tuple(other for other in cls.everywhere if other is not form)

    def __init__(self, gate: Gate, capacity: int = CAPACITY) -> None:
        self.gate = gate
        self.capacity = capacity
        self.forms: tuple[CodeForm, ...] = ()
        self.see_reads = 0
        """How many have instances tell what they read of their heaps: see `perdure.embedder.reads`."""
        self._used: dict[ResidentInstance, None] = {}
        self._reserved_bytes = AddressRange.reserved_bytes  # when somebody last looked

    def __len__(self) -> int:
        return len(self._used)

    def opened(self, instance: ResidentInstance) -> None:
        """An instance was made."""
        self._used[instance] = None
        if self.see_reads:
            instance.see_reads()

    def code(self, code: CanisterModule) -> CanisterModule:
        """What runs for a canister's code."""
        for form in (*self.forms, *self.everywhere):
            code = form.of(code)
        return code

    def run_as(self, forms: tuple[CodeForm, ...]) -> None:
        """Run code in these forms from now on. Call it between messages."""
        for instance in [*self._used]:
            instance.evict()
        self.forms = forms

    def begun(self, live: CanisterInstance) -> None:
        """A real instance was made."""
        for form in (*self.forms, *self.everywhere):
            if isinstance(live, WasmInstance):
                form.begun(live)

    def ended(self, live: CanisterInstance) -> None:
        """A real instance was closed."""
        for form in (*self.forms, *self.everywhere):
            if isinstance(live, WasmInstance):
                form.ended(live)

    def take_after(self, others: Residents) -> None:
        """Run code in the same forms, and look at as much, as others do."""
        self.forms, self.see_reads = others.forms, others.see_reads

    def look_at_reads(self, more: int) -> None:
        """Have one more, or one less, see what is read of heaps. Call it between messages."""
        self.see_reads += more
        for instance in [*self._used]:
            instance.evict()

    def closed(self, instance: ResidentInstance) -> None:
        """An instance is gone."""
        self._used.pop(instance, None)

    def evict(self) -> None:
        """Close the least recently used instances if there are too many, and some more. Call it between messages."""
        excess = 0
        if len(self._used) > self.capacity:
            excess = len(self._used) - self.capacity + self.capacity // 16  # so that not every message has to sort
        elif AddressRange.reserved_bytes - self._reserved_bytes > _LOOK_BYTES:
            self._reserved_bytes = AddressRange.reserved_bytes
            if _address_space_bytes() > _MAX_ADDRESS_BYTES:
                excess = (len(self._used) + 1) // 2
        if excess:
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
        self.is_64 = code.is_64
        self.operators = code.operators
        self.memories = code.memories
        self.name = code.name
        self.schema = code.schema
        self.is_wasm = not code.name
        start = "canister_composite_query "
        self.composite_queries = frozenset(
            name.removeprefix(start) for name in code.exported_methods if name.startswith(start)
        )

    @property
    def wasm(self) -> bytes:
        """The module as uploaded."""
        return self.code.wasm

    @property
    def custom_sections(self) -> Mapping[str, bytes]:
        """Custom sections by full name."""
        return self.code.custom_sections

    @property
    def global_types(self) -> tuple[str, ...]:
        """Types of the globals that are state, in the network's order."""
        return self.code.global_types

    @property
    def absent(self) -> str:
        """Why it cannot be run; empty: it can."""
        return self.code.absent

    def instantiate(self, state: WasmState) -> ResidentInstance:
        """An instance over `state`, made when first used."""
        return ResidentInstance(self, state)

    def reopen(self, open_memories: OpenMemories, global_values: tuple[GlobalValue, ...] | None) -> ResidentInstance:
        """An instance of a canister that has run before; its memories are opened when first used."""
        instance = ResidentInstance(self, None)
        instance.move(open_memories, global_values)
        return instance


@final
class ResidentInstance:
    """A canister's instance, there or not; implements `CanisterInstance`."""

    __slots__ = (
        "_committed",
        "_global_values",
        "_instructions",
        "_is_committing",
        "_is_crossed",
        "_is_outside",
        "_live",
        "_module",
        "_open_memories",
        "_predecessor",
        "_residents",
        "_state",
        "change_counts",
        "is_dirty",
        "last",
        "last_used",
    )

    def __init__(self, module: ResidentModule, state: WasmState | None, live: CanisterInstance | None = None) -> None:
        self._module = module
        self._residents = module.residents
        self._state = state
        self._live = live
        self._open_memories: OpenMemories | None = None
        self._global_values = state.global_values if state is not None else None
        self._committed = self._global_values is not None
        self._is_committing = self._is_crossed = False
        self.is_dirty = False
        """Whether it was entered and nobody has committed that or rolled it back."""
        self._predecessor: ResidentInstance | None = None
        self._is_outside = False
        self._instructions: dict[str | int, int] = {}
        self.change_counts: dict[str, int] = defaultdict(int)
        """How many commits have changed each memory since this was made; missing: none."""
        self.last_used = 0
        self.last: tuple[EntryPoint, Context, Trap | Return, int] | None = None
        """The last entry, its context, what came of it, and how many ns it took."""
        if live is not None:
            self._residents.opened(self)

    @property
    def module(self) -> ResidentModule:
        """The code."""
        return self._module

    def make_room(self) -> None:
        """Keep instances few before one is made. Call it between messages."""
        if self._live is None:
            self._residents.evict()

    @property
    def state(self) -> WasmState:
        """Images and globals as committed; what a fork starts from, which another thread may ask for."""
        live, known, images = self._live, self._global_values, self._memories().memories
        if live is not None:
            known = live.global_values
        return WasmState(images, known if self._committed else None)

    @property
    def memories(self) -> Mapping[str, Memory]:
        """All memories as they stand, by name."""
        return self._use().memories

    @property
    def global_values(self) -> tuple[GlobalValue, ...]:
        """Globals as committed."""
        known = self._global_values
        return known if self._live is None and known is not None else self._use().global_values

    def run(self, entry_point: EntryPoint, env: Env) -> Trap | Return:
        """Enter the canister."""
        live = self._live or self._use()
        self.is_dirty = True  # until somebody commits it or rolls it back, whatever comes out of here
        self.last_used = env.time_ns
        begun = perf_counter_ns()
        if live.__class__ is not WasmInstance:
            outcome = self._run_in_python(live, entry_point, env)
        elif self._residents.gate.is_shared:
            outcome = self._run_beside(live, entry_point, env)
        else:
            outcome = live.run(entry_point, env)
        self.last = entry_point, env.context, outcome, perf_counter_ns() - begun
        return outcome

    def _run_in_python(self, live: CanisterInstance, entry_point: EntryPoint, env: Env) -> Trap | Return:
        """Let signals in meanwhile: no limit of instructions ends it, and it does not look for them as Wasm does."""
        signals = threads.here.state
        try:
            signals.let_in()
            return live.run(entry_point, env)
        finally:
            signals.hold()

    def _run_beside(self, live: WasmInstance, entry_point: EntryPoint, env: Env) -> Trap | Return:
        """Let others go on meanwhile, unless this entry has been a short one (where nothing is counted, none is)."""
        name = entry_point[0]
        expected = self._instructions.get(name, 0)
        if 0 < expected < _FEW_INSTRUCTIONS:
            outcome = live.run(entry_point, env)
        else:
            self._is_outside = True
            try:
                outcome = live.run(entry_point, env, Outside(self._residents.gate, env.facts.canister_id))
            finally:
                self._is_outside = False
        if outcome.instructions != expected:
            # A few short ones after a long one do not yet say that the next one is.
            self._instructions[name] = max(outcome.instructions, expected // 2)
        return outcome

    @property
    def is_temporary(self) -> bool:
        """Whether its memories are its own, and go with it; others can be opened anew."""
        return self._open_memories is None

    def stable_pages(self) -> tuple[array[int], array[int]]:
        """The 4 KiB pages of stable memory that the last entry accessed, and those that it wrote; none in Python."""
        live = self._live
        return live.stable_pages() if isinstance(live, WasmInstance) else (array("I"), array("I"))

    def see_reads(self) -> None:
        """Have the real instance tell what it reads of its heap, until it is made anew; one in Python cannot."""
        if isinstance(self._live, WasmInstance):
            self._live.see_reads()

    def touched(
        self,
    ) -> tuple[tuple[array[int], array[int]], dict[str, tuple[array[int], array[int]]]] | None:
        """Pages that the last entry accessed, and wrote; `None`: none.

        Of stable memory, and of other memories by name as far as they are seen; in Python, all that it has changed.
        """
        live = self._live
        if isinstance(live, WasmInstance):
            return live.touched()
        found = {}
        for name, delta in live.changes().memories.items() if live is not None else ():
            pages = array("I")
            for address, data in delta.runs:
                pages.extend(range(address // PAGE_BYTES, (address + len(data)) // PAGE_BYTES))
            found[name] = array("I"), pages
        return (array("I"), array("I")), found

    @property
    def is_waiting(self) -> bool:
        """Whether the real instance cannot be made anew."""
        return self._live is not None and self._live.is_waiting

    def changes(self) -> StateDelta:
        """What is uncommitted."""
        return self._use().changes()

    def prepare(self) -> StateDelta:
        """What `commit` is going to commit, having room for it."""
        return (self._live or self._use()).prepare()

    def commit(self) -> StateDelta:
        """Make the uncommitted state the committed one."""
        live = self._live or self._use()
        if self._is_committing:  # and was cut off: its mappings may show anything
            if isinstance(live, WasmInstance):
                live.finish_commit()
            else:
                live.commit()
            self._global_values = live.global_values
            self._committed = True
            for name in live.memories:
                self.change_counts[name] += 1
            self.close()
            delta = NO_CHANGE
        else:
            self._is_committing = True
            delta = live.commit()
            counts = self.change_counts
            for name, changed in delta.memories.items():
                if changed.runs:
                    counts[name] += 1
        self._committed = True
        self._is_committing = self.is_dirty = False
        if self._predecessor is not None:
            if self._is_crossed:
                self._predecessor.discard()
            else:
                self._predecessor.close()
            self._predecessor = None
        return delta

    def roll_back(self) -> None:
        """Drop everything uncommitted."""
        if self._live is not None:
            self._live.roll_back()
        if self._predecessor is not None:  # which has its memories back, and whose heir this was to be
            self.close()
            if self._is_crossed:
                self._predecessor.roll_back()
            self._predecessor.is_dirty = False
            self._predecessor = None
        self.is_dirty = False

    def save(self) -> StateDelta:
        """Copy what is uncommitted."""
        return self._use().save()

    def restore(self, saved: StateDelta) -> None:
        """Roll back, then apply `saved`, uncommitted."""
        self.is_dirty = True
        self._use().restore(saved)

    def successor(
        self, module: CanisterModule, *, keep: Collection[str], added: Mapping[str, Image]
    ) -> ResidentInstance:
        """An instance of `module` that takes over the memories."""
        if not isinstance(module, ResidentModule):
            raise InternalError(f"a resident's successor must be resident, found {type(module).__name__}")
        self.is_dirty = True  # its memories have a second owner until the heir commits or rolls back
        if module.is_wasm is not self._module.is_wasm:
            return self._crossed(module, keep, added)
        live = self._use().successor(self._residents.code(module.code), keep=keep, added=added)
        self._residents.begun(live)
        heir = ResidentInstance(module, WasmState({**self._memories().memories, **added}), live)
        heir._open_memories = self._open_memories
        heir._predecessor = self
        heir.is_dirty = True
        return heir

    def _crossed(self, module: ResidentModule, keep: Collection[str], added: Mapping[str, Image]) -> ResidentInstance:
        """A successor on the other engine, which knows nothing of this one's mappings: it gets copies of what stays."""
        changes = self._use().changes().memories
        images = {name: image.fork() for name, image in self._memories().memories.items() if name in keep}
        for name in images.keys() & changes.keys():
            images[name].commit(changes[name])
        heir = ResidentInstance(module, WasmState({**images, **added}))
        heir._predecessor = self
        heir.is_dirty = heir._is_crossed = True
        return heir

    def move(self, open_memories: OpenMemories, global_values: tuple[GlobalValue, ...] | None) -> None:
        """Live on other memories of the same content from now on; they are opened when next used."""
        self._global_values = global_values
        self._committed = True
        self._open_memories = open_memories  # before it has none: cut off in between, it is moved again
        self.discard()

    def evict(self) -> None:
        """Close the real instance, and memories that can be opened again; the next use makes them anew."""
        if self._live is None or not self._committed or self.is_dirty or self._is_outside or self.is_waiting:
            return
        self.rest()
        if not self.is_temporary:
            self._close_memories()

    def rest(self) -> None:
        """Let go of the engine. What it was committed with is still there, for forks."""
        if self._live is not None and self._committed:
            self._global_values = self._live.global_values
        self.close()

    def _close_memories(self) -> None:
        state, self._state = self._state, None
        if state is not None:
            for image in state.memories.values():
                image.close()

    def discard(self) -> None:
        """Let go of everything for good, of memories that are its own too. Again is fine."""
        self.close()
        self._close_memories()

    def forget(self, name: str) -> None:
        """Be without a memory that the code does not have; nothing may be uncommitted."""
        self._global_values = self.global_values
        self.close()
        if self.is_temporary:
            image = self._memories().memories.pop(name, None)
            if image is not None:
                image.close()
        else:
            self._close_memories()

    def receive(self, images: Mapping[str, Image]) -> None:
        """Have these memories of its own from now on; nothing may be uncommitted. It may be done again."""
        self._global_values = self.global_values
        self.close()
        memories = self._memories().memories
        for name in images.keys() & memories.keys():
            memories[name].close()
        memories.update(images)

    def close(self) -> None:
        """Let go of memories and engine."""
        live = self._live
        if live is not None:
            live.close()
            self._live = None
            self._residents.closed(self)
            self._residents.ended(live)

    def _memories(self) -> WasmState:
        if self._state is None:
            if self._open_memories is None:
                raise InternalError("an instance without memories")
            self._state = self._open_memories(self._global_values)
        return self._state

    def _use(self) -> CanisterInstance:
        if self._live is None:
            state = self._memories()
            state.global_values = self._global_values if self._committed else None
            self._live = self._residents.code(self._module.code).instantiate(state)
            self._residents.begun(self._live)
            self._residents.opened(self)
        return self._live
