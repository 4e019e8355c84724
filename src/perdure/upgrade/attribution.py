"""Which structures an answer comes from: each is spoiled in turn on a fork, and the call is tried again.

What a call touches says less: whoever opens a structure touches its header, and a small map is in the same page.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final, NamedTuple, final

from perdure.errors import PerdureError
from perdure.inspection.find import Structure
from perdure.upgrade.rehearsal import Rehearsal, State, Try
from perdure.upgrade.stage import Call, Outcome, Stage

__all__ = ["Attribution", "Readers"]

_BODY: Final = {"btreemap": 100, "btreeset": 100, "vec": 64, "minheap": 64, "cell": 8}
"""Where what is kept begins, behind headers. `stable.layout` draws them; here it only has to be behind."""

MAX_BYTES: Final = 8 << 20
"""Of a structure that is spoiled; of a larger one that much."""
MAX_STRUCTURES: Final = 64


class Readers(NamedTuple):
    """The structures that decide what each version answers, by label."""

    old: frozenset[str]
    new: frozenset[str]

    @property
    def has_moved(self) -> bool:
        """Whether the versions look in different places."""
        return bool(self.old) and self.old != self.new and not self.old <= self.new


@final
class Attribution:
    """Finds out, and remembers, for one rehearsal."""

    def __init__(self, found: Rehearsal) -> None:
        self.found = found
        self._known: dict[tuple[str, bytes], Readers] = {}

    def readers(self, one: Try) -> Readers:
        """Of the calls of a method, as this one is answered."""
        key = one.call.method, one.call.arg
        if key not in self._known:
            old = _deciding(self._old, one.call, one.old)
            new = _deciding(self._new, one.call, one.new)
            self._known[key] = Readers(old - self._old_opened or old, new - self._new_opened)
        return self._known[key]

    @cached_property
    def _old_opened(self) -> frozenset[str]:
        return self._opened(self._old, [(one.call, one.old) for one in self._samples])

    @cached_property
    def _new_opened(self) -> frozenset[str]:
        return self._opened(self._new, [(one.call, one.new) for one in self._samples])

    @cached_property
    def _samples(self) -> list[Try]:
        """One call of each of a few methods."""
        by_method = {one.call.method: one for one in reversed(self.found.tries) if one.call.kind != "task"}
        return list(by_method.values())[:12]

    def _opened(self, stages: dict[str, Stage], calls: list[tuple[Call, Outcome]]) -> frozenset[str]:
        """Structures that decide all calls alike: they are read whenever the canister opens what it has."""
        deciding = list(filter(None, (_deciding(stages, call, outcome) for call, outcome in calls)))
        return frozenset.intersection(*deciding) if len(deciding) > 1 else frozenset()

    @cached_property
    def _old(self) -> dict[str, Stage]:
        return _spoiled(self.found.old_stage, self.found.before)

    @cached_property
    def _new(self) -> dict[str, Stage]:
        return {} if self.found.after is None else _spoiled(self.found.new_stage, self.found.after)


def _deciding(stages: dict[str, Stage], call: Call, mine: Outcome) -> frozenset[str]:
    return frozenset(label for label, stage in stages.items() if _text(stage.run(call)) != _text(mine))


def _text(outcome: Outcome) -> object:
    return outcome.reply if outcome.reject is None else outcome.reject.message


def _spoiled(stage: Stage, state: State) -> dict[str, Stage]:
    """A stage for each structure in which that one is spoiled."""
    found = {}
    for label, structure in list(state.structures.items())[:MAX_STRUCTURES]:
        if structure.entries and structure.kind in _BODY:
            fork = stage.fork()
            try:
                _spoil(fork, structure)
            except (PerdureError, IndexError):
                continue
            found[label] = fork
    return found


def _spoil(stage: Stage, structure: Structure) -> None:
    start = _BODY[structure.kind]
    end = min(structure.region.size_bytes, start + MAX_BYTES, structure.used_bytes or MAX_BYTES)
    for piece in structure.region.pieces(start, max(0, end - start)):
        stage.canister.stable.write(piece.address, b"\xff" * piece.size_bytes)
