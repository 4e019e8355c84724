"""A fork of a subnet on which one canister is tried out: entered, looked at, and put back.

Every try is a real entry by the rules, in a transaction that is undone once it has been looked at. So thousands of them
leave nothing, cost what the canister's own code costs, and see each the same state.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, Literal, final

from perdure.canister import CanisterInstance, Context, EntryPoint, Env, Reject, Reply, Return, Trap, TrapCode
from perdure.errors import RejectError
from perdure.execution.events import Taken
from perdure.execution.execute import can_execute_task, execute_call, execute_task
from perdure.execution.messages import CallMessage, FromUser, Response
from perdure.execution.outcalls import ask_outside
from perdure.execution.query import execute_query
from perdure.execution.scheduler import has_work, round_
from perdure.execution.state import CanisterState
from perdure.execution.world import World
from perdure.ic.principal import Principal
from perdure.memory import Memory
from perdure.subnet.canister import Canister, Home
from perdure.subnet.residency import ResidentInstance

__all__ = ["Answerer", "Call", "Entry", "OutcallAnswerer", "Outcome", "Stage", "one_line"]

MAX_ROUNDS: Final = 100
_REQUEST_ID: Final = b"a rehearsed request"

Answerer = Callable[[CallMessage], Response | bool]
"""Who answers the calls that a canister makes, see `World.intercept`."""
OutcallAnswerer = Callable[[World, bool], bool]

Look = Callable[[Memory, set[int]], None]
"""Looks at stable memory after a call, see `Stage.run`."""


@final
@dataclass(frozen=True)
class Call:
    """Something that a version is asked to do.

    Attributes:
        kind: ``query``, ``update`` or ``task``.
        method: the method, or the task's export.
        arg: the argument.
        sender: who asks.
        origin: where it comes from: ``plain`` (it takes no argument), ``data`` (its argument was found in the
            canister), ``seeded`` (made from its Candid type), ``replay`` (it was recorded), ``task``.
    """

    kind: Literal["query", "update", "task"]
    method: str
    arg: bytes = b""
    sender: bytes = b"\x04"
    origin: Literal["plain", "data", "seeded", "replay", "task"] = "plain"


@final
@dataclass
class Entry:
    """One entry into the canister.

    Attributes:
        name: the export, or a callback's index.
        context: what it was.
        result: how it ended.
        accessed: 4 KiB pages of stable memory that it touched.
        written: those that it wrote.
    """

    name: str
    context: Context
    result: Trap | Return
    accessed: array[int] = field(repr=False)
    written: array[int] = field(repr=False)


@final
@dataclass
class Outcome:
    """What a call came to.

    Attributes:
        reply: of a call that was replied to.
        reject: of one that was not.
        entries: into the canister, in order.
        held: calls that it made and nobody answered.
        is_open: whether it has no answer, because it waits for those.
    """

    reply: bytes | None = None
    reject: RejectError | None = None
    entries: list[Entry] = field(default_factory=list)
    held: list[CallMessage] = field(default_factory=list)
    is_open: bool = False

    @property
    def is_fine(self) -> bool:
        """Whether it was replied to, or a task that returned."""
        return self.reject is None and not self.is_open

    @property
    def has_trapped(self) -> bool:
        """Whether the canister's code ended it, rather than an answer or a rule before it was entered."""
        return self.reject is not None and any(isinstance(entry.result, Trap) for entry in self.entries)

    @property
    def is_out_of_instructions(self) -> bool:
        """Whether the last entry reached the limit that it was given."""
        last = self.entries[-1].result if self.entries else None
        return isinstance(last, Trap) and last.code is TrapCode.INSTRUCTION_LIMIT_EXCEEDED

    @property
    def words(self) -> str:
        """Why it was not replied to, on one line: what the canister's code said, where it trapped."""
        trap = next((one.result for one in reversed(self.entries) if isinstance(one.result, Trap)), None)
        text = trap.message or trap.code.name.lower().replace("_", " ") if trap is not None else ""
        return one_line(text or (self.reject.message if self.reject is not None else ""))

    @property
    def instructions(self) -> int:
        """Of all entries."""
        return sum(entry.result.instructions for entry in self.entries)

    def pages(self, *, written: bool = False) -> set[int]:
        """Wasm pages of stable memory that were touched, or written."""
        found: set[int] = set()
        for entry in self.entries:
            found.update(page >> 4 for page in (entry.written if written else entry.accessed))
        return found


@final
@dataclass
class Budget:
    """What trying may still cost, in instructions of the canister's code."""

    instructions: int = 120_000_000_000


@final
class Stage:
    """One canister on a subnet of its own, to be tried out.

    Args:
        subnet: a fork, which is the stage's.
        canister_id: which canister.
        answer: who answers the calls that it makes; by default they go where they go.
        budget: what may be tried, shared by all forks.
        outcalls: who answers HTTPS outcalls that `answer` lets go, see `World.outcalls`.
    """

    def __init__(
        self,
        subnet: Home,
        canister_id: Principal,
        answer: Answerer | None = None,
        budget: Budget | None = None,
        outcalls: OutcallAnswerer | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self.subnet = subnet
        self.canister: Canister = subnet.canister(canister_id)
        self._answer = answer
        self._entries: list[Entry] = []
        self._held: list[CallMessage] = []
        world = self.world
        world.watchers = (self._note,)
        world.outcalls = outcalls
        world.intercept = self._intercept if answer is not None else None

    @property
    def world(self) -> World:
        """The rules' side of the subnet."""
        return self.subnet._world

    @property
    def state(self) -> CanisterState:
        """The canister's record."""
        return self.canister._state

    def fork(self) -> Stage:
        """Another stage in the same state."""
        return Stage(self.subnet.fork(), self.canister.id, self._answer, self.budget, self.world.outcalls)

    def _note(self, instance: CanisterInstance, entry: EntryPoint, env: Env, result: Trap | Return) -> None:
        if env.facts.canister_id != self.canister.id.raw_bytes or not isinstance(instance, ResidentInstance):
            return
        accessed, written = instance.stable_pages()
        self._entries.append(Entry(str(entry[0]), env.context, result, accessed, written))

    def _intercept(self, message: CallMessage) -> Response | bool:
        assert self._answer is not None
        answer = self._answer(message)
        if answer is True:
            self._held.append(message)
        return answer

    def _outcome(self, response: Response | None) -> Outcome:
        entries, self._entries = self._entries, []
        held, self._held = self._held, []
        found = Outcome(entries=entries, held=held)
        if isinstance(response, Reply):
            found.reply = response.data
        elif isinstance(response, Reject):
            found.reject = RejectError(response.code, response.error_code, response.message, response.backtrace)
        else:
            found.is_open = True
        return found

    # --- what lasts

    def upgrade(
        self, wasm: bytes | type[object], arg: object, *, persistence: str | None, skip: bool = False
    ) -> Outcome:
        """Upgrade the canister for good; the entries are those of the hooks."""
        self._entries = []
        try:
            self.canister.upgrade(wasm, arg, wasm_memory_persistence=persistence, skip_pre_upgrade=skip)  # type: ignore[arg-type]
        except RejectError as error:
            outcome = self._outcome(None)
            outcome.reject, outcome.is_open = error, False
            return outcome
        return self._outcome(Reply(b""))

    @property
    def install_limit(self) -> int:
        """What an installation may use, in instructions, compiling included."""
        return self.world.config.max_instructions_per_install_code

    @contextmanager
    def installing_within(self, instructions: int) -> Iterator[None]:
        """Have installations use no more than so many instructions within the block."""
        world, config = self.world, self.world.config
        world.config = replace(config, max_instructions_per_install_code=min(instructions, self.install_limit))
        self.state.limits.clear()
        try:
            yield
        finally:
            world.config = config
            self.state.limits.clear()

    # --- what is undone

    def run(self, call: Call, look: Look | None = None) -> Outcome:
        """Try a call; nothing of it stays.

        Args:
            call: what to do.
            look: shown stable memory as the call leaves it, where it is an update or a task that returned, and the
                Wasm pages of it that were written.
        """
        if self.budget.instructions <= 0:
            return Outcome(reject=RejectError(2, "", "not tried: what was set aside for trying is used up"))
        outcome = self._run(call, look)
        self.budget.instructions -= outcome.instructions
        return outcome

    def _run(self, call: Call, look: Look | None) -> Outcome:
        self._entries, self._held = [], []
        self.state.limits.clear()
        if call.kind == "query":
            raw_id = self.canister.id.raw_bytes
            return self._outcome(execute_query(self.world, raw_id, call.method, call.arg, call.sender))
        if call.kind == "task":
            return self._task(call.method, look)
        return self._update(call, look)

    def _task(self, task: str, look: Look | None) -> Outcome:
        world = self.world
        if not can_execute_task(world, self.state, task):
            return self._outcome(None)
        execute_task(world, self.state, task)
        ended = self._entries[-1].result if self._entries else None
        if isinstance(ended, Return) and ended.calls:
            world.undo()
            return self._followed(lambda stage: execute_task(stage.world, stage.state, task), task, b"", look)
        try:
            self._look(look)
        finally:
            world.undo()
        if isinstance(ended, Trap):
            return self._outcome(Reject(5, ended.message or ended.code.name, "IC0503", ended.backtrace))
        return self._outcome(Reply(b""))

    def _update(self, call: Call, look: Look | None) -> Outcome:
        world = self.world
        execute_call(world, self.state, self._message(call))
        if any(isinstance(entry.result, Return) and entry.result.calls for entry in self._entries):
            world.undo()
            self._entries = []
            return self._followed(
                lambda stage: execute_call(stage.world, stage.state, self._message(call)), "", _REQUEST_ID, look
            )
        try:
            self._look(look)
            response = world.state.ingress.find(_REQUEST_ID, world.state.time_ns)
        finally:
            world.undo()
        return self._outcome(response)

    def _message(self, call: Call) -> CallMessage:
        return CallMessage(FromUser(_REQUEST_ID), call.sender, self.canister.id.raw_bytes, call.method, call.arg)

    def _look(self, look: Look | None) -> None:
        instance = self.state.instance
        if look is not None and instance is not None:
            look(instance.memories["stable"], Outcome(entries=self._entries).pages(written=True))

    def _followed(
        self,
        begin: Callable[[Stage], object],
        task: str,
        request_id: bytes,
        look: Look | None,
    ) -> Outcome:
        """A call that makes calls: on a fork, until it is answered or waits for what nobody answers."""
        self._entries, self._held = [], []
        stage = self.fork()
        world = stage.world
        begin(stage)
        world.finish(Taken("call" if not task else "task", stage.canister.id.raw_bytes, task))
        response: Response | None = None
        for _ in range(MAX_ROUNDS):
            response = world.state.ingress.find(request_id, world.state.time_ns) if request_id else None
            if response is not None or not (has_work(world) or ask_outside(world)):
                break
            round_(world)
        stage._look(look)
        if task and response is None and not stage._held:
            trap = next((entry.result for entry in stage._entries if isinstance(entry.result, Trap)), None)
            response = Reply(b"") if trap is None else Reject(5, trap.message, "IC0503", trap.backtrace)
        return stage._outcome(response)

    @contextmanager
    def limited(self, instructions: int) -> Iterator[None]:
        """Have messages use no more than so many instructions within the block."""
        world, config = self.world, self.world.config
        most = min(instructions, config.max_instructions_per_message)
        world.config = replace(
            config,
            max_instructions_per_message=most,
            max_instructions_per_query_message=min(instructions, config.max_instructions_per_query_message),
        )
        self.state.limits.clear()
        try:
            yield
        finally:
            world.config = config
            self.state.limits.clear()


def one_line(text: str, most: int = 300) -> str:
    """A text on one line, no longer than that."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 3] + "..."
