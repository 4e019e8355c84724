"""The rehearsal: the upgrade done for real on a fork, and everything that is asked of both versions.

It judges nothing: `perdure.upgrade.checks` reads what is collected here.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import Any, Final, final

from perdure.canister import Context, Return
from perdure.errors import MalformedError, PerdureError, RejectError, UnsupportedError
from perdure.execution.effects import compile_instructions
from perdure.inspection.find import Inventory, Structure, find_in_memory, name_structures
from perdure.memory import WASM_PAGE_BYTES, Memory
from perdure.subnet.interface import NO_VALUES
from perdure.subnet.subnet import Canister
from perdure.upgrade.arguments import Pool, arguments, find_values, flat, made
from perdure.upgrade.patience import Patience, Waited
from perdure.upgrade.replies import Reply
from perdure.upgrade.stage import Answerer, Budget, Call, OutcallAnswerer, Outcome, Stage
from perdure.upgrade.version import Version, field_names, is_private
from perdure.values.schema import Schema

__all__ = ["Options", "Rehearsal", "State", "Try", "rehearse"]

CALL_INSTRUCTIONS: Final = 5_000_000_000
"""What a call may use that nobody recorded. The network gives updates eight times as much."""


@final
@dataclass(frozen=True)
class Options:
    """How to rehearse.

    Attributes:
        arg: of the upgrade, as `Canister.upgrade` takes it.
        init_arg: for installing either version anew, which tells what does not depend on data; by default `arg`.
        persistence: ``keep`` or ``replace`` the heap; by default as the old module wants it.
        skip_pre_upgrade: as for `Canister.upgrade`.
        old_schema: what stable memory holds before; by default what the old module says.
        new_schema: the same after.
        old_candid: the interface before, where the module does not say it.
        new_candid: the same after.
        volatile: methods, and ``.fields`` of replies, that are not compared.
        calls: that somebody recorded, to be tried too.
        answer: who answers calls that leave the canister.
        outcalls: who answers HTTPS outcalls that `answer` lets go.
        require_way_back: whether having none is breaking.
        decode_all: decode every value, not a sample.
        seed: of everything that is drawn.
        patience: how long hooks are waited for.
        max_calls: tried at most.
        max_instructions: of all calls together, after which no more are tried; controls may use as many again.
    """

    arg: Any = None
    init_arg: Any = None
    persistence: str | None = None
    skip_pre_upgrade: bool = False
    old_schema: Schema | None = None
    new_schema: Schema | None = None
    old_candid: str | None = None
    new_candid: str | None = None
    volatile: frozenset[str] = frozenset()
    calls: Sequence[Call] = ()
    answer: Answerer | None = None
    outcalls: OutcallAnswerer | None = None
    require_way_back: bool = False
    decode_all: bool = False
    seed: int = 0
    patience: Patience = field(default_factory=Patience)
    max_calls: int = 400
    max_instructions: int = 60_000_000_000

    @property
    def volatile_fields(self) -> frozenset[str]:
        """Names of record fields that are not compared."""
        return frozenset(name[1:] for name in self.volatile if name.startswith("."))


@final
@dataclass(frozen=True)
class State:
    """The canister's state as one version has it.

    Attributes:
        inventory: of stable memory.
        heap_wasm_pages: size of the heap.
        stable_wasm_pages: size of stable memory.
        timer_ns: when the global timer is due, 0: never.
        certified_data: as last set.
        liquid_cycles: above the freezing limit.
        cycles: the balance.
    """

    inventory: Inventory
    heap_wasm_pages: int
    stable_wasm_pages: int
    timer_ns: int
    certified_data: bytes
    liquid_cycles: int
    cycles: int

    @classmethod
    def of(cls, stage: Stage, schema: Schema | None) -> State:
        """The state of the canister on a stage."""
        state = stage.state
        return cls(
            _inventory(stage.canister.stable, schema),
            state.heap_wasm_pages,
            state.stable_wasm_pages,
            state.global_timer_ns,
            state.certified_data,
            state.liquid_cycles,
            state.cycles,
        )

    @cached_property
    def places(self) -> list[tuple[int, int, str]]:
        """Wasm pages of structures: first, end, label."""
        found = []
        for structure in self.inventory.structures:
            for region in (structure.region, structure.data):
                for run in () if region is None else region.runs:
                    first = run.address // WASM_PAGE_BYTES
                    found.append((first, -(-(run.address + run.size_bytes) // WASM_PAGE_BYTES), structure.label))
        return sorted(found)

    def labels(self, wasm_pages: Iterable[int]) -> frozenset[str]:
        """The structures that have some of these Wasm pages."""
        found = set()
        for page in wasm_pages:
            index = bisect_right(self.places, (page, 1 << 62, "")) - 1
            if index >= 0 and page < self.places[index][1]:
                found.add(self.places[index][2])
        return frozenset(found)

    @cached_property
    def heads(self) -> dict[int, str]:
        """The 4 KiB page with which each structure begins: whoever opens it reads that."""
        return {one.address // 4096: one.label for one in self.inventory.structures if one.address >= 0}

    def read_labels(self, outcome: Outcome) -> frozenset[str]:
        """The structures of which a call touched more than the page with the header."""
        pages = {page >> 4 for entry in outcome.entries for page in entry.accessed if page not in self.heads}
        return self.labels(pages)

    @cached_property
    def entries(self) -> dict[str, int]:
        """How many entries each structure has, by label, where that is known."""
        return {one.label: one.entries for one in self.inventory.structures if one.entries is not None}

    @cached_property
    def structures(self) -> dict[str, Structure]:
        """By label, those that hold something or may."""
        return {one.label: one for one in self.inventory.structures if one.kind != "empty"}


def _inventory(memory: Memory, schema: Schema | None) -> Inventory:
    data = {} if schema is None else {one.label: one.data for one in schema.memories.values() if one.data is not None}
    return name_structures(find_in_memory(memory, log_data=data), schema)


@final
@dataclass(frozen=True)
class Try:
    """A call, and what both versions made of it.

    `old_entries` and `new_entries` are how many entries each structure has after an update, by label.
    """

    call: Call
    old: Outcome
    new: Outcome
    old_entries: Mapping[str, int] = field(default_factory=dict)
    new_entries: Mapping[str, int] = field(default_factory=dict)


@final
class Rehearsal:
    """What was collected.

    Attributes:
        old: the version that runs.
        new: the one that is to come; `None`: it is no module that can be installed.
        options: how it was rehearsed.
        before: the state before.
        after: the state after; `None`: the upgrade failed.
        upgrade: the upgrade itself, its entries are the hooks.
        limit: what it might use, in instructions; below the network's where `is_cut_short`.
        operators: of the new module, which compiling is charged by.
        tries: calls to both versions.
        untried: methods that were not tried, with the reason.
        stages: before and after, for controls.
    """

    def __init__(self, old: Version, new: Version | None, options: Options, before: State, waited: Waited) -> None:
        self.old = old
        self.new = new
        self.options = options
        self.before = before
        self.after: State | None = None
        self.upgrade = waited.outcome
        self.limit = waited.limit
        self.is_cut_short = waited.is_cut_short
        self.tries: list[Try] = []
        self.untried: dict[str, str] = {}
        self.old_stage: Stage
        self.new_stage: Stage = waited.stage
        self.pool = Pool()
        self.back: Outcome | None = None
        self.certified_again = False
        """Whether the old version's own hooks set certified data; known once `again` was asked for."""
        self.back_tries: list[tuple[Try, Outcome]] = []

    @property
    def config(self) -> Any:
        """The network's limits."""
        return self.old_stage.world.config

    @property
    def operators(self) -> int:
        """Operators of the new module."""
        return 0 if self.new is None else self.new.module.operators

    @property
    def control_limit(self) -> int:
        """What an installation may use that is compared with: twice what the upgrade used, or what is given first."""
        operators = max(self.operators, self.old.module.operators)
        first = self.options.patience.first_limit(self.old_stage, operators)
        return max(first, 2 * self.upgrade.instructions + compile_instructions(self.old_stage.world, operators))

    # --- what the hooks did

    @cached_property
    def hook_pages(self) -> set[int]:
        """Wasm pages that the new version's hooks touched."""
        entries = [one for one in self.upgrade.entries if one.context is not Context.PRE_UPGRADE]
        return Outcome(entries=entries).pages()

    @cached_property
    def written(self) -> set[int]:
        """Wasm pages that any hook wrote."""
        return self.upgrade.pages(written=True)

    def is_unchanged(self, label: str) -> bool:
        """Whether no hook wrote to a structure."""
        return label not in self.before.labels(self.written)

    # --- controls, made when first asked for

    @cached_property
    def fresh_old(self) -> Stage | None:
        """The old version, installed anew: what it says without any data."""
        return self._fresh(self.old_stage, self.old)

    @cached_property
    def fresh_new(self) -> Stage | None:
        """The new version, installed anew."""
        return None if self.new is None else self._fresh(self.new_stage, self.new)

    def _fresh(self, stage: Stage, version: Version) -> Stage | None:
        options = self.options
        wanted = options.init_arg if options.init_arg is not None else options.arg
        try:
            types = () if version.service is None else version.service.init or ()
            given = wanted if wanted is not None or not types else tuple(made(one, Random(0)) for one in types)
            fresh = stage.fork()
            with fresh.installing_within(self.control_limit):
                fresh.canister.reinstall(version.module.wasm, given)
        except (PerdureError, ValueError):
            return None
        return fresh

    @cached_property
    def again(self) -> Stage | None:
        """The old version, upgraded to itself: what any upgrade changes."""
        stage = self.old_stage.fork()
        persistence = "keep" if self.old.keeps_heap else None
        with stage.installing_within(self.control_limit):
            outcome = stage.upgrade(self.old.module.wasm, self._old_arg, persistence=persistence)
        self.certified_again = any(
            isinstance(entry.result, Return) and entry.result.certified_data is not None for entry in outcome.entries
        )
        return stage if outcome.is_fine else None

    @property
    def _old_arg(self) -> Any:
        return self.options.arg if isinstance(self.options.arg, bytes | str) else NO_VALUES

    @cached_property
    def later(self) -> Stage:
        """The old version a day later, with other cycles: what changes by itself."""
        stage = self.old_stage.fork()
        stage.world.state.time_ns += 86_400 * 10**9 + 1
        stage.state.cycles -= 1 + stage.state.cycles // 1000
        return stage

    @property
    def persistence(self) -> str | None:
        """What becomes of the heap."""
        return self.options.persistence or ("keep" if self.old.keeps_heap else None)

    def reply(self, call: Call, data: bytes) -> Reply:
        """A reply as the old version's callers read it."""
        method = None if call.kind == "task" else self.old.signature(call.method)
        return Reply(data, method, self.options.volatile_fields)

    def is_volatile(self, call: Call) -> bool:
        """Whether the old version answers otherwise from one time to another."""
        return self._answers(self.later, call) != self._answers(self.old_stage, call)

    def is_lost_anyway(self, call: Call) -> bool:
        """Whether the old version answers otherwise after an upgrade to itself."""
        again = self.again
        return again is not None and self._answers(again, call) != self._answers(self.old_stage, call)

    def _answers(self, stage: Stage, call: Call) -> Reply | str:
        outcome = stage.run(call)
        return self.reply(call, outcome.reply) if outcome.reply is not None else str(outcome.reject)


_MAGICS: Final = (b"\0asm", b"\x1f\x8b")


def rehearse(canister: Canister, wasm: Any, options: Options) -> Rehearsal:
    """Upgrade a canister to a module on forks, and try everything on both; the canister itself is not touched.

    Raises:
        UnsupportedError: it has no code, or it is in Python.
        MalformedError: a module, a schema or an interface that is none.
        HostError: this machine could not compile the module.
    """
    if canister.module is None:
        raise UnsupportedError(f"canister {canister.id} has no code that could be upgraded")
    code = canister._subnet._code(wasm)
    if not code.startswith(_MAGICS):
        raise MalformedError(f"no Wasm module: found magic {code[:4]!r}, expected {_MAGICS[0]!r}, or gzip's")
    if canister.module.name or isinstance(wasm, type):
        raise UnsupportedError(
            "a canister in Python is not rehearsed against a module: `perdure.upgrade.check` takes its next class, and "
            "what it declares is compared when it is upgraded, or opened with changed code, before anything is written"
        )
    budget = Budget(2 * options.max_instructions)
    old_stage = Stage(canister._subnet.fork(), canister.id, options.answer, budget, options.outcalls)
    old = Version(canister.module, options.old_schema, options.old_candid)
    old.check_given()
    before = State.of(old_stage, old.schema)
    compiled = old_stage.subnet._compiled(code)
    new = None if compiled is None else Version(compiled, options.new_schema, options.new_candid)
    if new is not None:
        new.check_given()
    _check_volatile(options.volatile, old, new)
    persistence = options.persistence or ("keep" if old.keeps_heap else None)

    def upgrade(stage: Stage) -> Outcome:
        return stage.upgrade(code, options.arg, persistence=persistence, skip=options.skip_pre_upgrade)

    try:
        waited = options.patience.upgrade(old_stage, 0 if compiled is None else compiled.operators, upgrade)
    except MalformedError as error:
        raise MalformedError(f"the argument of the upgrade: {error}") from error
    found = Rehearsal(old, new, options, before, waited)
    found.old_stage = old_stage
    if found.upgrade.is_fine and new is not None:
        found.after = State.of(found.new_stage, new.schema)
        _Exercise(found).run()
        _go_back(found)
    return found


def _check_volatile(names: frozenset[str], old: Version, new: Version | None) -> None:
    """Refuse names that nothing has: whoever misspells one would have a reply compared that is not to be.

    Raises:
        MalformedError: one is of no method, or of no field.
    """
    services = [one.service for one in (old, new) if one is not None]
    methods = {name for one in (old, new) if one is not None for name in one.methods}
    fields = {name for service in services if service is not None for name in field_names(service)}
    for name in sorted(names):
        is_field = name.startswith(".")
        known = fields if is_field else methods
        if name.removeprefix(".") in known or (is_field and None in services):
            continue
        kind = "field of replies" if is_field else "method"
        listed = ", ".join(("." if is_field else "") + one for one in sorted(known) if not is_private(one)) or "none"
        raise MalformedError(f"no {kind} {name!r} that could be volatile, expected some of {listed:.400}")


# -- exercise


@final
class _Entries:
    """How many entries each structure has once a call has returned: only those are looked at that it wrote to."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.counts: Mapping[str, int] = {}

    def __call__(self, memory: Memory, written: set[int]) -> None:
        labels = self.state.labels(written)
        kept = {label: count for label, count in self.state.entries.items() if label not in labels}
        now = find_in_memory(memory, only=labels).structures if labels else ()
        self.counts = kept | {one.label: one.entries for one in now if one.entries is not None}


@final
class _Exercise:
    """Tries calls on both versions until there are no more, or the budget is used up."""

    def __init__(self, found: Rehearsal) -> None:
        self.found = found
        self.random = Random(found.options.seed)
        self.left = found.options.max_instructions
        self.sender = (
            found.old_stage.state.settings.controllers[0] if found.old_stage.state.settings.controllers else b"\x04"
        )

    def run(self) -> None:
        found = self.found
        with found.old_stage.limited(CALL_INSTRUCTIONS), found.new_stage.limited(CALL_INSTRUCTIONS):
            queries = [name for name, kind in found.old.methods.items() if kind != "update"]
            for name in queries:
                self._try_all(name, "query", plain=True)
            find_values(found.before.inventory, found.old.schema, found.pool)
            for name in queries:
                self._try_all(name, "query", plain=False)
            for call in found.options.calls:
                self._try(call)
            for task in ("canister_heartbeat", "canister_global_timer"):
                if found.old.exports(task) and found.new is not None and found.new.exports(task):
                    self._try(Call("task", task, origin="task"))
            for name in (name for name, kind in found.old.methods.items() if kind == "update"):
                self._try_all(name, "update", plain=True)
                self._try_all(name, "update", plain=False)

    def _try_all(self, name: str, kind: Any, *, plain: bool) -> None:
        """Every argument that there is for a method."""
        new = self.found.new
        if new is None or name not in new.methods or name in self.found.options.volatile or is_private(name):
            return
        tried = False
        for origin, arg in self._arguments(name, plain=plain, count=6 if kind == "query" else 3):
            tried = self._try(Call(kind, name, arg, self.sender, origin)) or tried
        if not tried and not plain and name not in {one.call.method for one in self.found.tries}:
            self.found.untried.setdefault(name, "the old version refuses every argument that was tried")

    def _arguments(self, name: str, *, plain: bool, count: int) -> Iterable[tuple[Any, bytes]]:
        method = self.found.old.signature(name)
        if method is None:
            yield from (("plain", NO_VALUES), ("plain", b"")) if plain else ()
            return
        if plain != (not method.func.args):
            return
        for origin, values in arguments(method.func.args, self.found.pool, self.random, count=count):
            try:
                yield origin, method.encode(values)
            except ValueError:
                continue

    def _try(self, call: Call) -> bool:
        """Try a call on both versions, if the old one takes it; whether it did."""
        found = self.found
        if len(found.tries) >= found.options.max_calls or self.left <= 0:
            found.untried[call.method] = "the calls before it used up what was set aside for trying"
            return False
        looks = [_Entries(state) for state in (found.before, found.after) if state is not None]
        old_look, new_look = (look if call.kind != "query" else None for look in looks)
        old = found.old_stage.run(call, old_look)
        self.left -= old.instructions
        if not old.is_fine and not old.is_open:
            return False
        new = found.new_stage.run(call, new_look)
        self.left -= new.instructions
        found.tries.append(Try(call, old, new, *(look.counts for look in looks)))
        if old.reply is not None and call.kind == "query":
            values = found.reply(call, old.reply).values
            flat(values or (), found.pool)
        return True


# -- the way back


def _go_back(found: Rehearsal) -> None:
    """Upgrade to the old module again, and ask it what it was asked before."""
    stage = found.new_stage.fork()
    persistence = found.persistence
    if found.new is not None and found.new.keeps_heap and not found.old.keeps_heap:
        persistence = "replace"
    try:
        with stage.installing_within(found.control_limit):
            found.back = stage.upgrade(found.old.module.wasm, found._old_arg, persistence=persistence)
    except (PerdureError, ValueError) as error:
        found.back = Outcome(reject=error if isinstance(error, RejectError) else RejectError(5, "", str(error)))
    if found.back.is_out_of_instructions and found.control_limit < stage.install_limit:
        found.back = None  # nobody waits for what is only looked at in passing
    if found.back is None or not found.back.is_fine:
        return
    with stage.limited(CALL_INSTRUCTIONS):
        for one in found.tries:
            if one.old.is_fine and one.call.kind == "query":
                found.back_tries.append((one, stage.run(one.call)))
