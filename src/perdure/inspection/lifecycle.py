"""The life of a variable: what is declared of it, and what several states, or a history, show.

| seen | means |
|---|---|
| ``absent`` | in none of the states |
| ``new`` | the last state is the first one that has it |
| ``active`` | written |
| ``unwritten`` | there, and the same in all states that have it: in use for reading, or unused |
| ``removed`` | an earlier state has it, the last one does not |

A variable is a structure in a memory, or one of Motoko's stable variables. Bytes tell of writing alone; whether the
code still reads is asked by `perdure upgrade-check`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple, final

from perdure.inspection.diff import diff
from perdure.inspection.find import Inventory, Structure
from perdure.inspection.state import memory_of
from perdure.memory import PAGE_BYTES
from perdure.stable.region import Run
from perdure.storage import StateDirectory, Version
from perdure.values.schema import Schema

__all__ = ["Life", "Write", "lives_in_history", "lives_in_states"]


class Write(NamedTuple):
    """A commit that has written to a variable: version of the state, kind and method of the message."""

    version: int
    kind: str
    method: str


@final
@dataclass(frozen=True)
class Life:
    """What is known of one variable.

    Attributes:
        label: memory id, ``page:N``, or the name of a stable variable of Motoko.
        name: from the schema.
        kind: of the structure, or the type of the variable, in the last state that has it.
        declared: its state in the schema; ``None``: nobody says.
        steps: what each state shows: ``absent``, ``new``, ``same``, ``written`` or ``removed``; none of a history.
        seen: what all of them show together.
        writes: commits of a history that have written to it, oldest first.
        note: what does not fit.
        is_wrong: whether that contradicts the schema.
    """

    label: str
    name: str | None
    kind: str | None
    declared: str | None
    steps: tuple[str, ...]
    seen: str
    writes: tuple[Write, ...] = ()
    note: str = ""
    is_wrong: bool = False


def lives_in_states(states: Sequence[Inventory], schema: Schema | None) -> list[Life]:
    """The variables of some states, oldest first.

    Raises:
        MalformedError: a structure is damaged.
    """
    last = [_held(state) for state in states]
    labels = sorted({label for held in last for label in held} | _declared(schema), key=lambda one: (len(one), one))
    changes = [{found.label: found.status for found in _merged(old, new, schema)} for old, new in pairwise(states)]
    lives = []
    for label in labels:
        steps = ["new" if label in last[0] else "absent"]
        for index, change in enumerate(changes, 1):
            steps.append(_step(label in last[index - 1], label in last[index], change.get(label, "same")))
        if len(states) > 1 and steps[0] == "new":
            steps[0] = "same"  # nobody knows what was before
        kind = next((held[label] for held in reversed(last) if label in held), None)
        life = _life(label, kind, schema, tuple(steps), _seen(steps))
        lives.append(_judged(life, [state.label for state in states]))
    return lives


def lives_in_history(
    directory: Path, canister: str, inventory: Inventory, schema: Schema | None, since: int = 0
) -> list[Life]:
    """The memories of a canister, by what commits after version `since` have written to them.

    Raises:
        StorageError: there is no such canister.
    """
    found, memory = memory_of(directory, canister)
    canister_id = found.raw_bytes
    places = _Places(inventory.structures)
    writes: dict[str, list[Write]] = {}
    with StateDirectory.open(directory, read_only=True) as opened:
        for version in reversed(opened.history()):
            if version.version <= since:
                continue
            for label in places.touched(_runs(version, canister_id, memory)):
                message = version.message
                writes.setdefault(label, []).append(Write(version.version, message.kind, message.method))
    held = _structures(inventory)
    lives = []
    for label in sorted(held.keys() | (_declared(schema, memories_only=True)), key=lambda one: (len(one), one)):
        written = tuple(writes.get(label, ()))
        seen = "absent" if label not in held else "active" if written else "unwritten"
        life = replace(_life(label, held.get(label), schema, (), seen), writes=written)
        lives.append(_judged(life, []))
    return lives


def _held(state: Inventory) -> dict[str, str]:
    """What a state has: kind or type, by label."""
    return _structures(state) | {one.name: str(one.type) for one in state.variables.tables()}


def _structures(state: Inventory) -> dict[str, str]:
    known = (one for one in state.structures if one.memory_id is not None or one.kind not in ("empty", "unknown"))
    return {one.label: one.kind for one in known}


def _declared(schema: Schema | None, *, memories_only: bool = False) -> set[str]:
    if schema is None:
        return set()
    return set(schema.memories) | (set() if memories_only else set(schema.variables))


class _Step(NamedTuple):
    label: str
    status: str


def _merged(old: Inventory, new: Inventory, schema: Schema | None) -> Iterator[_Step]:
    """One status for each label; a database has one for each table that differs."""
    found: dict[str, str] = {}
    for one in diff(old, new, schema):
        if found.get(one.label, "same") == "same":
            found[one.label] = one.status
    return (_Step(label, status) for label, status in found.items())


def _step(was: bool, is_: bool, status: str) -> str:
    if not is_:
        return "removed" if was else "absent"
    if not was:
        return "new"
    return "same" if status == "same" else "written"


def _seen(steps: Sequence[str]) -> str:
    if steps[-1] == "removed" or (steps[-1] == "absent" and any(step not in ("absent", "removed") for step in steps)):
        return "removed"
    if steps[-1] == "absent":
        return "absent"
    if steps[-1] == "new":
        return "new" if len(steps) > 1 else "unwritten"
    return "active" if "written" in steps else "unwritten"


def _life(label: str, kind: str | None, schema: Schema | None, steps: tuple[str, ...], seen: str) -> Life:
    name = declared = None
    if schema is not None and label in schema.memories:
        memory = schema.memories[label]
        name, declared = memory.name, memory.life
    elif schema is not None:
        declared = schema.variables.get(label)
    return Life(label, name, kind, declared, steps, seen)


_READ_ONLY: Final = ("deprecated", "unused", "removed")
_THERE: Final = ("new", "active", "unwritten")


def _judged(life: Life, states: Sequence[str]) -> Life:
    """The life with what does not fit what is declared."""
    if life.declared in _READ_ONLY and (life.writes or "written" in life.steps):
        return replace(life, note=f"{life.declared}, and {_writer(life, states)}", is_wrong=True)
    if life.declared == "removed" and life.seen in _THERE:
        return replace(life, note="removed, and still there: `perdure stable drop` takes it out")
    if life.declared in ("active", "deprecated") and life.seen == "removed":
        return replace(life, note=f"{life.declared}, and gone", is_wrong=True)
    if life.declared == "new" and life.seen == "active":
        return replace(life, note="in use: declare it as active")
    if life.declared is None and life.seen in _THERE:
        return replace(life, note="nobody declares it")
    return life


def _writer(life: Life, states: Sequence[str]) -> str:
    if life.writes:
        last = life.writes[-1]
        times = "" if len(life.writes) == 1 else f", the last of {len(life.writes)}"
        return f"written by {last.kind} {last.method} in version {last.version}{times}"
    at = len(life.steps) - 1 - life.steps[::-1].index("written")
    return f"written between {states[at - 1]} and {states[at]}"


@final
class _Places:
    """Which structure each page of a memory belongs to."""

    def __init__(self, structures: Iterable[Structure]) -> None:
        spans = sorted(
            (run.address, run.address + run.size_bytes, one.label)
            for one in structures
            for region in (one.region, one.data)
            if region is not None
            for run in region.runs
        )
        self._starts = [start for start, _, _ in spans]
        self._spans = spans

    def touched(self, runs: Iterable[Run]) -> set[str]:
        """The labels of the structures in which bytes of `runs` lie."""
        found = set()
        for run in runs:
            index = max(0, bisect_right(self._starts, run.address) - 1)
            while index < len(self._spans) and self._spans[index][0] < run.address + run.size_bytes:
                if self._spans[index][1] > run.address:
                    found.add(self._spans[index][2])
                index += 1
        return found


def _runs(version: Version, canister_id: bytes, memory: str) -> Iterator[Run]:
    """What a commit has written of a canister's memory."""
    entry = version.facts.canisters.get(canister_id)
    change = None if entry is None else entry.memories.get(memory)
    for first, pages, _ in () if change is None else change.runs:
        yield Run(first * PAGE_BYTES, pages * PAGE_BYTES)
