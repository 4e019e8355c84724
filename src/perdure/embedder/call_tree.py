"""What a profile has counted, by call path: taken from an instance's accounting memory, and added up over many.

See `perdure.instrument.profile`, which draws the memory.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final, final

from perdure.canister import EntryPoint, Env, Method, Return, Trap
from perdure.embedder.facts import ModuleFacts
from perdure.embedder.header import LEFT, OUT, OUT_OFFSET
from perdure.embedder.hits import HitCounter, hit_counter
from perdure.embedder.memory import AnonymousMemory
from perdure.instrument import abi
from perdure.instrument.counted import FIRST_ENTRY, HEADER, LOST, NODE, ROOT, TREE

__all__ = ["AFTERWARDS", "MAX_RUNNING", "CallCounter", "CallTree", "call_counter"]

AFTERWARDS: Final = FIRST_ENTRY - 1
"""Stands for a function: what an entry is charged for once it has run, which is pages of the heap, less what it has
used beyond its limit."""

MAX_RUNNING: Final = 32
"""More than a backtrace has."""


@final
class CallTree:
    """Functions as they were called, each node behind its parent; node 0 is the root.

    `functions` are numbers as `perdure.instrument.profile` has them; `instructions` of a node include those of its
    children.
    """

    def __init__(self) -> None:
        self.functions = array("I", [0])
        self.parents = array("I", [0])
        self.calls = array("Q", [0])
        self.instructions = array("q", [0])
        self.bytes = array("Q", [0])
        self.lost_calls = 0
        """How many calls had no room in the tree; what they used counts for their callers."""
        self._places: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.functions)

    def child(self, parent: int, function: int) -> int:
        """The node of a function below another one, made where there is none."""
        key = parent << 32 | function
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self.functions)
            self.functions.append(function)
            self.parents.append(parent)
            self.calls.append(0)
            self.instructions.append(0)
            self.bytes.append(0)
        return place

    def add(self, place: int, calls: int, instructions: int, size_bytes: int = 0) -> None:
        """Count something for a node."""
        self.calls[place] += calls
        self.instructions[place] += instructions
        self.bytes[place] += size_bytes

    def charge(self, entry: int, instructions: int) -> None:
        """Count what an entry is charged for afterwards."""
        if instructions:
            place = self.child(0, entry)
            self.add(place, 0, instructions)
            self.add(self.child(place, AFTERWARDS), 0, instructions)


class CallCounter:
    """Of an instance whose code counts nothing by call path."""

    is_counting = False
    tree: CallTree | None = None
    """What has been counted and is not in the accounting memory any more."""
    canister_id = b""
    running: Sequence[int] = ()
    """Functions that ran when an entry was last cut off, innermost first: as many as a backtrace may have."""

    def __init__(self, hits: HitCounter) -> None:
        self.hits = hits
        """How often each block has run."""

    def ended(self, entry: EntryPoint, env: Env, outcome: Trap | Return, message: memoryview) -> None:
        """An entry has ended."""

    def cut_off(self, message: memoryview) -> None:
        """An entry has ended without returning: what has begun on the way to the function that ran ends here."""

    def take(self) -> None:
        """Move what has been counted out of the accounting memory, before that is cleared."""
        self.hits.take()


@final
class _CallCounter(CallCounter):
    """Of one whose code does."""

    is_counting = True

    def __init__(self, memory: AnonymousMemory, profiled: Iterable[tuple[int, str]], hits: HitCounter) -> None:
        super().__init__(hits)
        self._memory = memory
        self._tree = self.tree = CallTree()
        self._numbers = {name: number for number, name in profiled if number >= FIRST_ENTRY}

    def ended(self, entry: EntryPoint, env: Env, outcome: Trap | Return, message: memoryview) -> None:
        self.canister_id = env.facts.canister_id
        name = entry[0] if isinstance(entry, Method) else abi.CALLBACK
        if name in self._numbers:
            counted = env.limits.instructions - _left(message)
            self._tree.charge(self._numbers[name], outcome.instructions - counted)

    def cut_off(self, message: memoryview) -> None:
        view, left = self._memory.bytes, _left(message)
        node, free, lost = HEADER.unpack_from(view, TREE)
        running: list[int] = []
        self.running = running
        while node > ROOT:
            function, parent, child, sibling, calls, instructions, size_bytes = NODE.unpack_from(view, node)
            if node < LOST:
                NODE.pack_into(view, node, function, parent, child, sibling, calls, instructions - left, size_bytes)
            if len(running) < MAX_RUNNING:
                running.append(function)
            node = parent
        HEADER.pack_into(view, TREE, ROOT, free, lost)

    def take(self) -> None:
        super().take()
        if self._memory.range is None:
            return
        view, tree = self._memory.bytes, self._tree
        _, free, lost = HEADER.unpack_from(view, TREE)
        tree.lost_calls += lost
        places = {ROOT: 0}
        first = ROOT + NODE.size
        for number, node in enumerate(NODE.iter_unpack(view[first : max(first, free)])):
            function, parent, _, _, calls, instructions, size_bytes = node
            place = places[first + number * NODE.size] = tree.child(places[parent], function)
            tree.add(place, calls, instructions, size_bytes)
        for start in range(TREE, free, _PIECE_BYTES):
            end = min(free, start + _PIECE_BYTES)
            view[start:end] = bytes(end - start)


_PIECE_BYTES: Final = 1 << 20
_NOTHING: Final = CallCounter(hit_counter(AnonymousMemory(), 0))


def _left(message: memoryview) -> int:
    """Instructions that an entry has left, negative where it has used more than its limit."""
    return int(OUT.unpack_from(message, OUT_OFFSET)[LEFT])


def call_counter(memory: AnonymousMemory, facts: ModuleFacts) -> CallCounter:
    """What counts, from an accounting memory, what code counts of which these are the facts."""
    if not facts.profiled and not facts.points:
        return _NOTHING
    hits = hit_counter(memory, facts.points)
    return _CallCounter(memory, facts.profiled, hits) if facts.profiled else CallCounter(hits)
