"""A canister that runs: code and state, kept hot between messages; implements `CanisterInstance`.

    run ▶ uncommitted ─commit▶ committed        run ▶ uncommitted ─roll_back▶ as before

Memories hold the transaction themselves (`ImageMemory`); here are the globals, the header of the message memory, and
when the engine's instance has to be made anew: after a trap, after ``data.drop``, and when a memory shrinks back.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import final

from perdure.canister import (
    NO_CHANGE,
    CanisterModule,
    EntryPoint,
    Env,
    GlobalValue,
    Image,
    Method,
    PageDelta,
    Reply,
    Return,
    StateDelta,
    Trap,
    TrapCode,
    WasmState,
)
from perdure.embedder.call_tree import call_counter
from perdure.embedder.code import Code, page_scans
from perdure.embedder.global_values import pack_globals, unpack_globals
from perdure.embedder.guard import ThreadState, check_recursion, threads
from perdure.embedder.header import LEFT, LOG_ROOM, OUT, OUT_OFFSET, RESPONDED, ROOM, WRITTEN_END, fill
from perdure.embedder.heap_charges import FREE_OF_HEAP, UNKNOWN, charge_for_heap
from perdure.embedder.machine import HostMachine
from perdure.embedder.memory import AnonymousMemory, ImageMemory
from perdure.embedder.own import InstanceMemories, Pages, handed_over
from perdure.embedder.reads import Reads
from perdure.embedder.states import (
    CLEAN,
    COMMIT,
    ENTER,
    HAND_OVER,
    PREPARE,
    READY,
    RETURN,
    ROLL_BACK,
    RUNNING,
    TRAP,
    TRAPPED,
    WRITE,
)
from perdure.embedder.store import EngineTrap, Store
from perdure.embedder.touched import Touched, changed_pages, listed_pages, lists_nothing
from perdure.embedder.traps import frames_of, trap_of, trap_of_memory
from perdure.errors import InternalError
from perdure.instrument import abi
from perdure.system_api import SystemApi

__all__ = ["WasmInstance"]

_REPLIED, _REJECTED = 1, 2
_LARGE_BYTES = 4 << 20


@final
class WasmInstance:
    """See `perdure.canister.CanisterInstance`.

    An exception out of `run` (Ctrl-C, a bug) leaves everything rolled back.

    Args:
        module: the code.
        memories: by name; those that the module has are the engine's, the others lie beside them for the host.
        committed_globals: 16 bytes each, or `None` for a module that has never run.
        apply_data: the memories that get their data segments when the module first gets its memories.
    """

    def __init__(
        self,
        module: Code,
        memories: dict[str, ImageMemory],
        committed_globals: bytes | None,
        *,
        apply_data: Collection[str],
    ) -> None:
        self._module = module
        self._engine = module.engine
        self._memories = InstanceMemories(module, memories)
        self._heap, self._stable = memories["heap"], memories["stable"]
        self._has_more = self._memories.has_more
        self._accounting, self._message = AnonymousMemory(), AnonymousMemory()
        self.calls = call_counter(self._accounting, module.facts)
        self._owned = list(memories.values())
        self._view = memoryview(b"")
        self._read_globals = True
        self._committed_globals = committed_globals
        self._current_globals = committed_globals
        self._globals_end = abi.GLOBALS_CURRENT + abi.GLOBAL_BYTES * len(set(module.facts.global_places))
        self._apply_data = apply_data
        self._predecessor: WasmInstance | None = None
        self._process = module.engine.process
        self._store: Store | None = None
        self._state = CLEAN
        self._ready: StateDelta | None = None  # while a commit is prepared, or was cut off
        self._heap_changes: PageDelta | None = UNKNOWN
        self._reads: Reads | None = None
        self._metered = module.facts.metered
        self._page_charges = module.facts.page_charges
        self._api: SystemApi | None = None
        self._env: Env | None = None
        self._stop_at = 0.0
        self._stops = 0
        self.max_seconds = module.max_seconds
        """A message that runs longer traps; what stops a message whose instructions are not counted."""
        self.machine = HostMachine(
            self.instructions_used, self.grow_stable, self._heap, self._stable, is_64=module.facts.is_64
        )
        self.failure: BaseException | None = None
        """What a host function raised."""
        self._interruption: BaseException | None = None
        check_recursion()
        state = threads.here.state
        state.enter()
        try:
            self._renew()
        finally:
            state.leave()

    @classmethod
    def create(cls, module: Code, state: WasmState) -> WasmInstance:
        """An instance over `state`."""
        scans = page_scans(module)
        memories = {name: ImageMemory(image, scans.get(name)) for name, image in state.memories.items()}
        packed = None if state.global_values is None else pack_globals(module.facts, state.global_values)
        try:
            return cls(module, memories, packed, apply_data=() if packed is not None else memories.keys())
        except BaseException:
            for memory in memories.values():
                memory.close()
            raise

    # --- what the rules see

    @property
    def module(self) -> Code:
        """The code."""
        return self._module

    @property
    def memories(self) -> Mapping[str, ImageMemory]:
        """All memories as they stand, by name."""
        return self._memories.opened()

    @property
    def stable(self) -> ImageMemory:
        """Stable memory as it stands."""
        return self._stable

    @property
    def heap(self) -> ImageMemory:
        """The heap as it stands."""
        return self._heap

    @property
    def global_values(self) -> tuple[GlobalValue, ...]:
        """Globals as committed; those of a module that has never been committed are its initial ones."""
        found = self._committed_globals if self._committed_globals is not None else self._current_globals
        assert found is not None
        return unpack_globals(self._module.facts, found)

    @property
    def is_dirty(self) -> bool:
        """Whether anything is uncommitted."""
        return self._state is not CLEAN or self._predecessor is not None

    def run(
        self, entry_point: EntryPoint, env: Env, outside: AbstractContextManager[None] | None = None
    ) -> Trap | Return:
        """Enter the canister.

        Args:
            entry_point: where.
            env: what it may see.
            outside: entered for as long as the canister's code runs, and nothing else: others may go on meanwhile.

        Raises:
            KeyboardInterrupt: or whatever else a signal handler, another thread, or a bug in a host function raised.
        """
        check_recursion()
        state = threads.here.state
        state.enter()
        try:
            outcome = self._run(state, entry_point, env, outside)
        except BaseException:
            self._roll_back(state)
            state.leave()
            raise
        try:
            state.leave()
        except BaseException:
            self.roll_back()
            raise
        return outcome

    def stable_pages(self) -> Touched:
        """Pages (4 KiB) of stable memory that the last entry accessed, and wrote; none without accounting."""
        return listed_pages(self._view, self._accounting if self._module.facts.accounting else None)

    def touched(self) -> tuple[Touched, dict[str, Touched]] | None:
        """`stable_pages`, and those of other memories as far as they are seen; `None`: none of either."""
        if not (self._has_more or self._heap_changes or self._reads) and lists_nothing(self._view):
            return None
        written = self._memories.written_by_code if self._state is not TRAPPED else ()
        return self.stable_pages(), changed_pages(written, self._heap_changes, self._reads)

    def see_reads(self) -> None:
        """Have `touched` tell what entries read, too; see `perdure.embedder.reads`."""
        self._reads = Reads(self._memories.written_by_code, self._page_charges if self._metered else None)

    is_waiting = False  # all that a callback needs is in the images

    def changes(self) -> StateDelta:
        """What is uncommitted; the runs are views."""
        self._take_stock()
        if self._state is CLEAN:
            return NO_CHANGE
        known = self._heap_changes
        found = {}
        for name, memory in self._memories.kept:
            delta = memory.changes() if memory is not self._heap or known is UNKNOWN else known
            if delta is not None:
                found[name] = delta
        globals_now = self._globals_now()
        changed = globals_now != self._committed_globals
        return StateDelta(found, unpack_globals(self._module.facts, globals_now) if changed else None)

    def prepare(self) -> StateDelta:
        """What `commit` will commit; the images have room for it."""
        if self._engine.process != self._process:
            # Parent and child would write the same files, and the page map that was opened shows the parent's pages.
            raise InternalError("a forked child process must not commit; open the state anew there")
        delta = self.changes()
        for name, changed in delta.memories.items():
            self._memories.by_name[name].image.prepare(changed)
        if self._state is not CLEAN:
            self._ready = delta
        self._state = PREPARE[self._state]
        return delta

    def commit(self) -> StateDelta:
        """Hand what is uncommitted to the images."""
        state = threads.here.state
        state.enter()
        try:
            delta = self._ready or self.prepare()
            if self._state is CLEAN:
                return delta
            for name, changed in delta.memories.items():
                self._memories.by_name[name].commit(changed)
            self._committed_globals = self._current_globals
            self._heap_changes = UNKNOWN
            if self._has_more:
                self._memories.nothing_uncommitted()
            if self._predecessor is not None:
                self._owned = list(self._memories.by_name.values())
                self._predecessor._give_up(self._owned)
                self._predecessor = None
            self._ready = None
            self._state = COMMIT[self._state]
        finally:
            state.leave()
        return delta

    def finish_commit(self) -> None:
        """Do the rest of a commit that was cut off, for the images only; then this instance has to be closed."""
        delta = self._ready
        if delta is None or self._state is not READY:
            return  # nothing, or all of it, was done
        for name, changed in delta.memories.items():
            self._memories.by_name[name].image.commit(changed)
        self._committed_globals = self._globals_now()

    def roll_back(self) -> None:
        """Drop everything uncommitted, globals included."""
        state = threads.here.state
        state.enter()
        try:
            self._roll_back(state)
        finally:
            state.leave()

    def save(self) -> StateDelta:
        """Copy what is uncommitted."""
        return self._memories.copied(self.changes())

    def restore(self, saved: StateDelta) -> None:
        """Roll back, then apply `saved`, uncommitted."""
        state = threads.here.state
        state.enter()
        try:
            self._roll_back(state)
            self._memories.apply(saved)
            if saved.global_values is not None:
                self._current_globals = pack_globals(self._module.facts, saved.global_values)
                self._drop_store()
            self._state = WRITE[self._state]
            self._heap_changes = UNKNOWN
        finally:
            state.leave()

    def successor(self, module: CanisterModule, *, keep: Collection[str], added: Mapping[str, Image]) -> WasmInstance:
        """An instance of `module` that takes over the memories, uncommitted changes included."""
        code: Code = module  # type: ignore[assignment]  # of the same engine
        self._take_stock()
        self._state = HAND_OVER[self._state]
        memories = handed_over(self._memories.by_name, code, keep, added)
        self._drop_store()
        heir = WasmInstance(code, memories, None, apply_data=memories.keys() - set(keep))
        heir._state = WRITE[heir._state]
        heir._predecessor = self
        heir._owned = [memory for memory in memories.values() if memory not in self._owned]
        return heir

    def close(self) -> None:
        """Let go of memories and engine."""
        state = threads.here.state
        state.enter()
        try:
            self._drop_store()
            self.calls.take()
            self._view = memoryview(b"")
            for memory in (*self._owned, self._accounting, self._message):
                memory.close()
            self._owned = []
        finally:
            state.leave()

    # --- what the engine's callbacks see

    def host_api(self) -> SystemApi:
        """The System API of this entry, made when a host function first needs it."""
        api = self._api
        if api is None:
            assert self._env is not None
            api = self._api = SystemApi(self._env)
        if self._view[RESPONDED] and api.response is None:
            api.note_responded()
        return api

    def host_done(self) -> None:
        """Tell the code in the module what a host function has changed: a response given, room taken in the log."""
        api = self._api
        if api is None:
            return
        if api.response is not None and not self._view[RESPONDED]:
            self._view[RESPONDED] = _REPLIED if api.response.__class__ is Reply else _REJECTED
        if api.log is not None:
            ROOM.pack_into(self._view, LOG_ROOM, api.log.room_bytes)

    def must_stop(self) -> bool:
        """Whether the running message has to end; runs signal handlers that were put off."""
        state = threads.here.state
        try:
            state.run_pending()
        except BaseException as error:
            self._interruption = error
            return True
        if self._engine.stops != self._stops:
            self._interruption = KeyboardInterrupt()
            return True
        return time.monotonic() > self._stop_at

    def instructions_used(self) -> int:
        """Instructions of the entry that runs, so far."""
        assert self._env is not None
        self._finish(self._store)
        return self._env.limits.instructions - int(OUT.unpack_from(self._view, OUT_OFFSET)[LEFT])

    def grow_stable(self, wasm_pages: int) -> int:
        """Grow stable memory while the canister runs; the old size in Wasm pages, or -1."""
        assert self._store is not None
        return self._store.grow_memory(abi.MEMORY_NAMES[1], wasm_pages)

    # --- one entry

    def _run(
        self, state: ThreadState, entry_point: EntryPoint, env: Env, outside: AbstractContextManager[None] | None
    ) -> Trap | Return:
        if self._state is TRAPPED or self._state is RUNNING:
            self._roll_back(state)
        store, engine, reads = self._store, self._engine, self._reads
        is_resized = self._heap.resized or self._stable.resized or (self._has_more and self._memories.is_resized)
        if store is None or is_resized:
            store = self._renew()
        index = environment = 0
        if entry_point.__class__ is Method:
            entry = store.function(entry_point[0])
            if not entry or entry_point[0] not in self._module.facts.methods:  # not the kernel's own exports
                return Trap(TrapCode.METHOD_NOT_FOUND)
        else:
            entry = store.function(abi.CALLBACK)
            index, environment = entry_point  # type: ignore[misc]
        is_clean = self._state is CLEAN
        before = None if is_clean or env.context.bit & FREE_OF_HEAP else self._pages_before()
        if reads is not None:
            reads.begin(is_clean=is_clean)
        fill(self._view, env, self._page_charges, index, environment)
        self._heap_changes = UNKNOWN
        self._env, self._api, self.failure = env, None, None
        self._ready, self._read_globals = None, False
        self._state = ENTER[self._state]
        self._stop_at = time.monotonic() + self.max_seconds
        self._stops = engine.stops
        engine.clock.start()
        state.instance = self
        if outside is None:
            ended = store.call(entry, state)
        else:
            with outside:
                ended = store.call(entry, state)
        state.instance = None
        if reads is not None:
            reads.end()
        if (spares := engine.spares).taken != spares.next and (cause := spares.take_cause()) is not None:
            raise cause  # it came where a callback began, and the engine was told that the callback had failed
        outcome = self._returned(env, before) if ended is None else self._failed(env, ended)
        if reads is not None:
            reads.charge(outcome, env)
        self.calls.ended(entry_point, env, outcome, self._view)
        if len(env.arg) > _LARGE_BYTES:  # would stay for as long as the instance does
            self._message.range.drop(abi.ARGUMENT, abi.MAX_ARGUMENT_BYTES)  # type: ignore[union-attr]
        return outcome

    def _pages_before(self) -> Pages:
        """What is uncommitted already, of which the heap is not looked at again where the last entry has been seen."""
        is_known = self._heap_changes is not UNKNOWN and not self._heap.written
        return self._memories.pages_before(self._heap_changes if is_known else self._heap.changes())

    def _returned(self, env: Env, before: Pages | None) -> Return:
        view, api, limits = self._view, self._api, env.limits
        out = OUT.unpack_from(view, OUT_OFFSET)
        left, accessed_left, dirty_left, heap_wasm_pages, stable_wasm_pages, _, written_end, has_dropped, noted = out[
            LEFT:
        ]
        self._take_written(written_end)
        self._state = RETURN[self._state]
        result = Return() if api is None else api.finish()
        if view[RESPONDED] == _REPLIED and env.needs_to_respond and result.response is None:
            result.response = Reply(view[abi.REPLY : abi.REPLY + out[0]].tobytes())
            if out[0] > _LARGE_BYTES:
                self._message.range.drop(abi.REPLY, abi.MAX_REPLY_BYTES)  # type: ignore[union-attr]
        if self._metered:
            result.instructions = limits.instructions - max(left, 0)
        result.stable_accessed_pages = limits.stable_accessed_pages - accessed_left
        result.stable_dirty_pages = limits.stable_dirty_pages - dirty_left
        result.heap_wasm_pages, result.stable_wasm_pages = heap_wasm_pages, stable_wasm_pages
        if self._metered and not env.context.bit & FREE_OF_HEAP:
            self._heap_changes = delta = self._heap.changes()
            if delta is not None:
                pages = before.get("heap") if before is not None else None
                prices = self._page_charges if self._reads is None else self._reads.prices_of_changes
                charge_for_heap(result, env, delta, pages, prices, is_64=self._module.facts.is_64)
        must_renew = self._has_more and self._memories.returned(result, env, before, noted, self._page_charges)
        # After data.drop or elem.drop segments come back with a new instance, as on the network.
        if has_dropped or must_renew:
            self._globals_now()
            self._drop_store()
        return result

    def _failed(self, env: Env, ended: EngineTrap) -> Trap:
        self._finish(self._store)
        self.calls.cut_off(self._view)
        out = OUT.unpack_from(self._view, OUT_OFFSET)
        self._take_written(out[WRITTEN_END])
        self._memories.all_touched()
        self._state = TRAP[self._state]
        self._drop_store()
        interruption, self._interruption = self._interruption, None
        if interruption is not None:
            raise interruption
        failure, self.failure = self.failure, None
        api = self._api or SystemApi(env)
        trap = None if failure else trap_of_memory(self._module, ended, out[1:3])
        trap = trap or trap_of(env, ended.code, out[1:6], failure, self.max_seconds)
        trap.backtrace = frames_of(self._module, ended, self.calls.running)
        if self._metered:
            trap.instructions = env.limits.instructions - max(out[LEFT], 0)
        return api.keep_log(trap)

    # --- the engine's instance

    def _renew(self) -> Store:
        """Make the engine's instance anew over the same memories; nothing of its predecessor's accounting stays."""
        self._drop_store()
        self.calls.take()
        if self._accounting.range is not None:
            self._accounting.range.drop(0, self._accounting.size_bytes)
        self._memories.clear()
        memories = (*self._memories.in_engine, self._accounting, self._message)
        store = Store(self._engine, self._module.instance_pre, memories)
        if self._engine.c_host is not None:
            self._engine.c_host.bind(store)
        self._memories.attached()
        self._memories.clear()
        self._view = self._message.bytes
        if self._current_globals is not None:
            self._load_globals(store, self._current_globals)
            self._store = store  # last: one that was not made whole is none
            return store
        self._memories.put_data(self._apply_data)
        self._finish(store)
        self._read_globals = False
        self._current_globals = self._globals_now()
        self._state = WRITE[self._state]  # a module that has never run: its initial memory and globals
        self._store = store
        return store

    def _drop_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            store.close()

    def _finish(self, store: Store | None) -> None:
        """Have the kernel write the out-fields and the globals."""
        assert store is not None
        if store.call(store.function(abi.FINISH), threads.here.state) is not None:
            raise InternalError("the kernel trapped")

    def _load_globals(self, store: Store, values: bytes) -> None:
        self._view[abi.GLOBALS_COMMITTED : abi.GLOBALS_COMMITTED + len(values)] = values
        self._view[abi.GLOBALS_CURRENT : self._globals_end] = values
        if values and store.call(store.function(abi.LOAD_GLOBALS), threads.here.state) is not None:
            raise InternalError("the kernel trapped")

    # --- the transaction

    def _globals_now(self) -> bytes:
        if not self._read_globals:
            self._read_globals = True
            self._current_globals = self._view[abi.GLOBALS_CURRENT : self._globals_end].tobytes()
        assert self._current_globals is not None
        return self._current_globals

    def _take_written(self, end: int) -> None:
        """Take over the kernel's list of written pages, which ends there, before the next entry clears it."""
        if end > abi.WRITTEN_LIST:
            pages: Iterable[int] = self._accounting.bytes[abi.WRITTEN_LIST : end].cast("I")
            self._stable.written.update(pages)

    def _take_stock(self) -> None:
        """Let what is uncommitted be what may be committed, and all of it.

        An entry that trapped, or whose end nobody has seen, is rolled back; what the host itself has written to the
        memories, or grown, counts.
        """
        if self._state is TRAPPED or self._state is RUNNING:
            self.roll_back()
        heap, stable = self._heap, self._stable
        if heap.written or stable.written or heap.resized or stable.resized:
            self._state = WRITE[self._state]
            if heap.written or heap.resized:
                self._heap_changes = UNKNOWN
        if self._has_more and self._memories.is_written:
            self._state = WRITE[self._state]

    def _roll_back(self, state: ThreadState) -> None:
        state.instance = None
        before, self._heap_changes, self._ready = self._state, UNKNOWN, None
        if before is RUNNING and self.calls.is_counting and self._store is not None:
            self._finish(self._store)  # an exception has cut it off
            self.calls.cut_off(self._view)
        if before is CLEAN:
            self._take_stock()
            before = self._state
        if before is not CLEAN:
            self._state = RUNNING  # a rollback that is cut off is done again, and more thoroughly
            sizes = self._memories.sizes()
            for _, memory in self._memories.kept:
                memory.roll_back(everything=before is RUNNING)
            if before is RUNNING or self._committed_globals is None or sizes != self._memories.sizes():
                self._drop_store()
                self._memories.attached()
            elif self._store is not None and self._globals_now() != self._committed_globals:
                self._load_globals(self._store, self._committed_globals)
            if self._has_more:
                self._memories.nothing_uncommitted()
            self._current_globals = self._committed_globals
            self._read_globals = True
            self._state = ROLL_BACK[self._state]
        if self._predecessor is not None:
            self._predecessor._roll_back(state)

    def _give_up(self, kept: list[ImageMemory]) -> None:
        """Close, but for the memories that a successor has taken over."""
        self._owned = [memory for memory in self._owned if memory not in kept]
        self.close()
