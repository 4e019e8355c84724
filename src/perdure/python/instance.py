"""A canister written in Python at work: implements `CanisterInstance` over the same images that Wasm lives in.

The object's attributes are the heap: pickled into the heap's image after each message that may change them, so that a
fork, a snapshot or another process has them. Stable structures read and write stable memory itself. A method that
awaits is a coroutine, kept by number while its call is open; a coroutine cannot be copied, so on a fork made meanwhile
the answer traps.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, final

from perdure.candid.types import Value
from perdure.canister import (
    Callback,
    CanisterInstance,
    CanisterModule,
    Context,
    EntryPoint,
    Env,
    GlobalValue,
    Image,
    Method,
    Return,
    StateDelta,
    Trap,
    TrapCode,
)
from perdure.data.catalogue import Move
from perdure.data.store import Store
from perdure.errors import InternalError, MalformedError, RejectError, UnsupportedError
from perdure.ic.reject import RejectCode
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.python.calls import ON_CLEANUP, ON_REPLY, Batch, Entry, RejectedError, entered, perform
from perdure.python.heap import Classes, pickled, unpickled
from perdure.python.method import MOVING, TIMER, Migration, PythonMethod
from perdure.python.overlay import OverlayMemory
from perdure.python.variables import Declared, ModelDeclaration, Schema, Variable
from perdure.raised import is_interruption, note_raised
from perdure.stable import MemoryManager, VirtualMemory
from perdure.system_api import CanisterTrap, SystemApi

__all__ = ["PythonInstance"]

# Nothing of these stays, or not before the whole query has ended: they run on a copy of the attributes.
_QUERIES: Final = frozenset(
    {
        Context.REPLICATED_QUERY,
        Context.NON_REPLICATED_QUERY,
        Context.TRANSFORM,
        Context.COMPOSITE_QUERY,
        Context.COMPOSITE_REPLY,
        Context.COMPOSITE_REJECT,
        Context.COMPOSITE_CLEANUP,
        Context.INSPECT_MESSAGE,
    }
)
# Where the timer of a migration in steps is set, whatever has stopped it.
_ARMING: Final = frozenset({Context.INIT, Context.UPDATE, Context.SYSTEM_TASK})
_CALL_BITS: Final = 12  # bits of a callback's environment that say which call of an ``await`` was answered
_PACKAGE: Final = Path(__file__).parents[1]


@final
@dataclass(slots=True)
class _Frame:
    """A method that waits for answers."""

    coroutine: Coroutine[Batch, list[Value] | None, Value]
    method: PythonMethod
    answers: list[Value] = field(default_factory=list)
    missing: int = 0


class Code(CanisterModule, Classes, Protocol):
    """What an instance has to know of its class."""

    @property
    def methods(self) -> Mapping[str, PythonMethod]:
        """By export name."""
        ...

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The stable variables, by name."""
        ...

    @property
    def models(self) -> Mapping[str, ModelDeclaration]:
        """The data models, by name."""
        ...

    @property
    def bucket_wasm_pages(self) -> int:
        """Of the memory manager."""
        ...

    @property
    def moves(self) -> Mapping[str, Migration]:
        """The migrations in steps, by name."""
        ...

    def new_object(self, instance: PythonInstance) -> Value:
        """An object of the class, not initialised, whose stable variables are `instance`'s."""
        ...

    def pending(self, old: Schema) -> list[tuple[Migration, list[Declared]]]:
        """The migrations that are due at an upgrade from code that declared `old`, with what they take over."""
        ...

    def objections(self, old: Schema, memory_of: Callable[[int], Memory] | None = None) -> list[str]:
        """Why it cannot go on with the stable memory of code that declared `old`."""
        ...


@final
class PythonInstance:
    """Implements `CanisterInstance`; see the module.

    Args:
        module: the code.
        memories: by name; the attributes are kept in the heap.
        has_run: whether the heap holds attributes already.
        before: declared by the code whose stable memory it takes over.
    """

    def __init__(
        self, module: Code, memories: dict[str, OverlayMemory], *, has_run: bool, before: Schema | None = None
    ) -> None:
        self._module = module
        self.memories: Mapping[str, OverlayMemory] = memories
        self.heap, self.stable = memories["heap"], memories["stable"]
        self._object = module.new_object(self)
        self._set_attributes(self._stored_attributes(is_own=False) if has_run else {})
        self._live: dict[str, Value] | None = None
        self._is_touched = False
        self._manager: MemoryManager | None = None
        self._virtual: dict[int, VirtualMemory] = {}
        self._structures: dict[str, Value] = {}
        self._models: dict[str, Value] = {}
        self._frames: dict[int, _Frame] = {}
        self._started = 0
        self._predecessor: PythonInstance | None = None
        self._before = before

    @property
    def module(self) -> Code:
        """The code."""
        return self._module

    @property
    def global_values(self) -> tuple[GlobalValue, ...]:
        """None: Python has no such globals."""
        return ()

    # -- attributes in the heap

    def _set_attributes(self, attributes: Mapping[str, object]) -> None:
        own = self._object.__dict__
        own.clear()
        own.update(attributes)

    def _stored(self) -> bytes:
        room_bytes = self.heap.size() * WASM_PAGE_BYTES - 8
        if room_bytes < 0:
            return b""
        size_bytes = int.from_bytes(self.heap.read(0, 8), "little")
        if size_bytes > room_bytes:
            raise MalformedError(f"the heap has room for {room_bytes} bytes of attributes, it says {size_bytes}")
        return self.heap.read(8, size_bytes)

    def _stored_attributes(self, *, is_own: bool) -> dict[str, Value]:
        data = self._stored() if not self._module.absent else b""
        return unpickled(data, self._module, is_own=is_own) if data else {}

    def _store_attributes(self) -> None:
        attributes = self._object.__dict__
        if not attributes and not self.heap.size():
            return
        data = pickled(attributes, self._module)
        if data == self._stored():
            return
        missing = -(-(8 + len(data)) // WASM_PAGE_BYTES) - self.heap.size()
        if missing > 0 and self.heap.grow(missing) < 0:
            raise CanisterTrap(TrapCode.OUT_OF_MEMORY)
        self.heap.write(0, len(data).to_bytes(8, "little") + data)

    # -- stable structures

    def virtual_memory(self, memory_id: int) -> VirtualMemory:
        """A memory of the manager in stable memory."""
        if self._manager is None:
            self._manager = MemoryManager.init(self.stable, bucket_wasm_pages=self._module.bucket_wasm_pages)
        found = self._virtual.get(memory_id)
        if found is None:
            found = self._virtual[memory_id] = self._manager.get(memory_id)
        return found

    def structure(self, name: str) -> Value:
        """The stable structure that the class declares by this name."""
        found = self._structures.get(name) or self._models.get(name)
        if found is None and name in self._module.models:
            found = self._models[name] = self._module.models[name].open(self.store)
        if found is None:
            variable = self._module.variables[name]
            memories = [_DeclaredMemory(self, memory_id) for memory_id in variable.memory_ids]
            try:
                found = self._structures[name] = variable.open(memories)
            except MalformedError as error:
                raise MalformedError(f"stable variable {name!r}: {error.message}", error.offset) from error
        return found

    @cached_property
    def store(self) -> Store:
        """The data models' trees; those that a class declares itself have the other memories."""
        taken = {one for variable in self._module.variables.values() for one in variable.memory_ids}
        return Store(partial(_DeclaredMemory, self), is_taken=taken.__contains__)

    # -- entries

    def run(self, entry_point: EntryPoint, env: Env) -> Trap | Return:
        """Enter the canister."""
        if self._module.absent:
            raise UnsupportedError(self._module.absent)
        api = SystemApi(env)
        limits = env.limits
        self.stable.max_wasm_pages = min(limits.stable_wasm_pages, limits.stable_trap_wasm_pages)
        self.heap.max_wasm_pages = limits.heap_wasm_pages
        is_query = env.context in _QUERIES
        if is_query and self._live is None:
            self._live = dict(self._object.__dict__)
            self._set_attributes(self._stored_attributes(is_own=True))
        self._is_touched = True
        note_raised()
        try:
            if self._module.models:
                self.store.begin()
            with entered(Entry(api)):
                self._enter(entry_point, api)
            if self._module.models:
                self.store.flush()
            if not is_query or env.context is not Context.NON_REPLICATED_QUERY:
                self._store_attributes()
        except CanisterTrap as trap:
            return api.fail(trap, backtrace=_frames_of(trap.__traceback__))
        except BaseException as error:
            if isinstance(error, InternalError) or is_interruption(error) or _is_hosts(error):
                self.roll_back()
                raise
            text = _words_of(error)
            backtrace = _frames_of(error.__traceback__)
            note_raised(backtrace, error.with_traceback(_from_theirs(error.__traceback__)))
            return api.fail(CanisterTrap(TrapCode.CALLED_TRAP, text), backtrace=backtrace)
        return self._finish(api)

    def _finish(self, api: SystemApi) -> Return:
        result = api.finish()
        result.heap_wasm_pages, result.stable_wasm_pages = self.heap.size(), self.stable.size()
        return result

    def _enter(self, entry_point: EntryPoint, api: SystemApi) -> None:
        if isinstance(entry_point, Method):
            if entry_point.export_name == "canister_start":
                self._start()
                return
            name, moves = entry_point.export_name, self._module.moves
            method = self._module.methods.get(name)
            if method is not None:
                self._call(method, api)
            elif not (moves and name in MOVING):
                raise CanisterTrap(TrapCode.METHOD_NOT_FOUND)
            if moves and name == TIMER:
                self._move()
            if moves and api.env.context in _ARMING and self.store.moves:
                api.global_timer_set(1)  # long ago: with the next round
        else:
            self._answered(entry_point, api)

    def _start(self) -> None:
        """What comes before init and post-upgrade: the object begins, its stable structures are there.

        Where it takes over another code's stable memory, that is compared with the declarations before.
        """
        module, old = self._module, self._before
        if old is not None:
            self._check(old)
            self._check_moves()
        self._object.__init__()
        for name in (*module.variables, *module.models):
            self.structure(name)
        due = [] if old is None else [(*one, self._former(one[0])) for one in module.pending(old)]
        if module.models:
            self.store.retire(module.models.__contains__)
        for migration, sources, tables in due:
            if len(tables) < len(migration.tables):
                continue  # the code before did not declare them, or they were taken over already
            if migration.step_rows:
                self.store.note_move(Move(migration.name, migration.tables[0].name))
                continue
            taken_over = {
                variable.name: variable.load([_DeclaredMemory(self, memory_id) for memory_id in source.memory_ids])
                for variable, source in zip(migration.variables, sources, strict=True)
            }
            migration.function(self._object, **taken_over, **tables)

    def _former(self, migration: Migration) -> dict[str, Value]:
        """The tables that a migration takes over, of those that the code before declared."""
        found = {one.name: one.open(self.store) for one in migration.tables}
        return {name: one for name, one in found.items() if one is not None}

    def _check_moves(self) -> None:
        """Trap unless the migrations go on that have begun to take rows over.

        Raises:
            MalformedError: one of them says of the table what it is not.
        """
        for move in self.store.moves if self._module.models else ():
            self._migration_of(move).tables[0].moving(self.store)

    def _migration_of(self, move: Move) -> Migration:
        module = self._module
        found = module.moves.get(move.migration)
        if found is None or found.tables[0].name != move.table or move.table in module.models:
            raise CanisterTrap(
                TrapCode.CALLED_TRAP,
                f"rows of {move.table!r} are still on their way by the migration {move.migration!r}: leave it in "
                "the class, as it was, until `store.moves` of its data models is empty",
            )
        return found

    def _move(self) -> None:
        """Take over the next rows of a table of the code before."""
        move = next(iter(self.store.moves), None)
        if move is None:
            return
        migration = self._migration_of(move)
        rows, onward = migration.tables[0].step(self.store, move, migration.step_rows)
        if rows:
            migration.function(self._object, rows)
        self.store.flush()  # which refuses a transaction of SQL that was left open
        self.store.note_move(onward or move, has_ended=onward is None)

    def _check(self, old: Schema) -> None:
        """Trap unless the stable memory of code that declared `old` is what the variables need."""
        try:
            found = self._module.objections(old, partial(_DeclaredMemory, self))
        except (MalformedError, UnsupportedError) as error:
            found = [f"stable memory is no memory manager's, so it has no variables: {error}"]
        if found:
            raise CanisterTrap(TrapCode.CALLED_TRAP, "\n".join(found))

    def _call(self, method: PythonMethod, api: SystemApi) -> None:
        arguments = method.decode(api.env.arg)
        try:
            result = method.function(self._object, *arguments)
            if not isinstance(result, Coroutine):
                method.respond(api, result)
                return
        except RejectedError as error:
            api.msg_reject(str(error).encode())
            return
        self._started = (self._started + 1) & 0xFFFF
        # The version tells messages apart across forks and upgrades, the counter within one message.
        self._advance(api.env.facts.version << 16 | self._started, _Frame(result, method), None, api)

    def _advance(self, number: int, frame: _Frame, answers: list[Value] | None, api: SystemApi) -> None:
        """Run a coroutine until it waits for an answer, or ends. When it traps, it is gone."""
        try:
            while True:
                batch = frame.coroutine.send(answers)  # `None` begins it
                if not isinstance(batch, Batch):
                    raise TypeError("a canister awaits calls to canisters, and nothing else")
                answers = self._perform(number, frame, batch, api)
                if frame.missing:
                    self._frames[number] = frame
                    return
        except StopIteration as end:
            frame.method.respond(api, end.value)
        except RejectedError as error:
            api.msg_reject(str(error).encode())

    def _perform(self, number: int, frame: _Frame, batch: Batch, api: SystemApi) -> list[Value]:
        answers: list[Value] = [None] * len(batch.calls)
        frame.answers, frame.missing = answers, 0
        for index, call in enumerate(batch.calls):
            if perform(api, call, number << _CALL_BITS | index):
                message = f"the call of {call.method} was not made: too many are open, or too few cycles are left"
                answers[index] = RejectError(RejectCode.SYS_TRANSIENT, "", message)
            else:
                frame.missing += 1
        return answers

    def _answered(self, callback: Callback, api: SystemApi) -> None:
        number, index = callback.environment >> _CALL_BITS, callback.environment & (1 << _CALL_BITS) - 1
        if callback.table_index == ON_CLEANUP:
            frame = self._frames.pop(number, None)
            if frame is not None:
                frame.coroutine.close()
            return
        if number == 0:  # `notify`
            return
        frame = self._frames.get(number)
        if frame is None:
            text = "the method that made this call is gone: upgraded, forked or interrupted while the call was open"
            raise CanisterTrap(TrapCode.CALLED_TRAP, text)
        if callback.table_index == ON_REPLY:
            frame.answers[index] = api.msg_arg_data()
        else:
            frame.answers[index] = RejectError(api.msg_reject_code(), "", api.msg_reject_msg().decode())
        frame.missing -= 1
        if not frame.missing:
            del self._frames[number]
            self._advance(number, frame, frame.answers, api)

    # -- commit and rollback

    @property
    def is_dirty(self) -> bool:
        """Whether anything is uncommitted."""
        return self._is_touched or self.heap.is_changed or self.stable.is_changed

    @property
    def is_waiting(self) -> bool:
        """Whether a method waits for an answer."""
        return bool(self._frames)

    def changes(self) -> StateDelta:
        """What is uncommitted."""
        found = {name: memory.changes() for name, memory in self.memories.items()}
        return StateDelta({name: delta for name, delta in found.items() if delta is not None})

    def prepare(self) -> StateDelta:
        """What `commit` is going to commit; the images have room for it."""
        memories = {name: memory.prepare() for name, memory in self.memories.items()}
        return StateDelta({name: delta for name, delta in memories.items() if delta is not None})

    def commit(self) -> StateDelta:
        """Make the uncommitted state the committed one."""
        self._is_touched = False
        self._live = None
        delta = self.changes()
        for name in delta.memories:
            self.memories[name].commit()
        if self._predecessor is not None:
            self._predecessor.close()
            self._predecessor = None
        return delta

    def roll_back(self) -> None:
        """Drop everything uncommitted."""
        if self.stable.is_changed:
            self._forget_stable()
        elif self._module.models:
            self.store.discard()
        for memory in self.memories.values():
            memory.discard()
        if self._live is not None:
            self._set_attributes(self._live)
            self._live = None
        elif self._is_touched:
            self._set_attributes(self._stored_attributes(is_own=True))
        self._is_touched = False
        if self._predecessor is not None:
            self._predecessor.roll_back()

    def save(self) -> StateDelta:
        """Copy what is uncommitted."""
        return self.changes()

    def restore(self, saved: StateDelta) -> None:
        """Roll back, then apply `saved`, uncommitted."""
        self.roll_back()
        self._live = dict(self._object.__dict__)
        for name, delta in saved.memories.items():
            self.memories[name].apply(delta)
        self._forget_stable()
        self._set_attributes(self._stored_attributes(is_own=False))
        self._is_touched = True

    def _forget_stable(self) -> None:
        """Stable memory is going to be another than was read: forget what remembers sizes, catalogue, connections.

        What declared structures hold asks for its memory anew.
        """
        self._manager = None
        self._virtual.clear()
        if self._module.models:
            self.store.forget()
            self._models.clear()

    def successor(
        self, module: CanisterModule, *, keep: Collection[str], added: Mapping[str, Image]
    ) -> CanisterInstance:
        """An instance of `module` that takes over the memories, uncommitted changes included."""
        code: Code = module  # type: ignore[assignment]  # of the same engine
        # "keep" is refused before this for modules without the section of enhanced orthogonal persistence.
        memories = {
            name: memory if name in keep else OverlayMemory(memory.image, fresh=True)
            for name, memory in self.memories.items()
        }
        memories.update({name: OverlayMemory(image, fresh=True) for name, image in added.items()})
        before = Schema.decode(self._module.schema) if "stable" in keep else None
        heir = PythonInstance(code, memories, has_run=False, before=before)
        heir._predecessor = self
        return heir

    def close(self) -> None:
        """Let go; coroutines end where they are."""
        for frame in self._frames.values():
            frame.coroutine.close()
        self._frames.clear()
        note_raised()


@final
class _DeclaredMemory:
    """A virtual memory by number, looked up anew after every rollback; what declared structures are built on."""

    def __init__(self, instance: PythonInstance, memory_id: int) -> None:
        self._instance = instance
        self._memory_id = memory_id

    def size(self) -> int:
        """Size in Wasm pages."""
        return self._instance.virtual_memory(self._memory_id).size()

    def grow(self, wasm_pages: int) -> int:
        """Grow by zero pages; the old size, or -1."""
        return self._instance.virtual_memory(self._memory_id).grow(wasm_pages)

    def read(self, address: int, size_bytes: int) -> bytes:
        """A copy of `size_bytes` bytes from `address`."""
        return self._instance.virtual_memory(self._memory_id).read(address, size_bytes)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Write `data` at `address`."""
        self._instance.virtual_memory(self._memory_id).write(address, data)


def _from_theirs(trace: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames that lead to the canister's own; all of it where there are none."""
    step = trace
    while step is not None and Path(step.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE):
        step = step.tb_next
    return step or trace


def _is_hosts(error: BaseException) -> bool:
    """Whether this machine has no memory for the canister's; code that asks for too much has failed itself."""
    step = error.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    is_ours = step is not None and Path(step.tb_frame.f_code.co_filename).is_relative_to(_PACKAGE)
    return isinstance(error, MemoryError) and is_ours


def _words_of(error: BaseException) -> str:
    """Class and text, as a trap has them: in UTF-8, whatever the canister's own class of exceptions says."""
    name = type(error).__name__
    try:
        text = str(error)
    except BaseException as another:
        if is_interruption(another):
            raise
        text = "its text raises an exception, too"
    return (f"{name}: {text}" if text else name).encode(errors="backslashreplace").decode()


def _frames_of(trace: TracebackType | None) -> tuple[str, ...]:
    """The canister's own frames, innermost first."""
    frames = [
        f"{frame.name} at {Path(frame.filename).name}:{frame.lineno}"
        for frame in traceback.extract_tb(trace)
        if not Path(frame.filename).is_relative_to(_PACKAGE)
    ]
    return tuple(reversed(frames))
