"""Call paths and what they cost: the value that a profile is.

A tree of frames: each node is a function as its parent called it, with how often, the instructions of its own code, and
the bytes that it moved. Whatever is shown or written of it (`formats`, `flame`) is made from these columns.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple, final

__all__ = ["Cost", "Paths", "one_line"]

_MAX_SHOWN: Final = 20_000
_MAX_DEPTH: Final = 400
"""What outputs show at most, which grow with both: what is left out counts for the frame above it."""

_CENTRES: Final = (
    ("stable reads", ("ic0.stable_read", "ic0.stable64_read")),
    ("stable writes", ("ic0.stable_write", "ic0.stable64_write")),
    ("stable growth", ("ic0.stable_grow", "ic0.stable64_grow")),
    ("heap page charges", ("heap page charges",)),
    ("calls", ("ic0.call_", "ic0.cycles_burn")),
    ("arguments and replies", ("ic0.msg_",)),
    ("logging", ("ic0.debug_print",)),
    ("other System API", ("ic0.",)),
    (
        "Candid",
        ("candid::", "<candid::", "serde", "<serde", "@deserialize", "@serialize", "idl_", "skip_any", "leb128"),
    ),
)
"""Kinds of cost, and how the names of the functions begin that are of them; the first that fits counts."""


def one_line(name: str) -> str:
    """A name as it stands on a line: modules say what they like, also what ends lines or what terminals obey."""
    return name if name.isprintable() else "".join(map(_visible, name))


def _visible(char: str) -> str:
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"


@final
class Cost(NamedTuple):
    """What one function cost in all that was profiled."""

    name: str
    calls: int
    self_instructions: int
    """Of its own code."""
    instructions: int
    """Its callees' included; a recursive call counts once."""
    size_bytes: int
    """That it moved, where it is a function of the System API that moves bytes."""


class Paths:
    """Instructions by call path, exactly; see `perdure.measure.profile`.

    Two add up by ``first.add(second)``; what has changed between two is `differences`.
    """

    def __init__(self) -> None:
        self.frames: list[str] = [""]
        """The names of functions; nodes have their places in here."""
        self.frame_of = array("I", [0])
        self.parent_of = array("I", [0])
        self.calls = array("Q", [0])
        self.self_instructions = array("q", [0])
        self.bytes = array("Q", [0])
        self.lost_calls = 0
        """Calls that had no room in a tree of their own; what they used counts for their callers."""
        self.places: dict[str, tuple[str, int]] = {}
        """File and line at which functions begin, by name, where that is known; of several of one name the first."""
        self.warnings: list[str] = []
        self._frame_places: dict[str, int] = {"": 0}
        self._node_places: dict[int, int] = {}

    # --- made

    def child(self, parent: int, name: str) -> int:
        """The node of a function below another one; 0 is the root."""
        frame = self._frame_places.get(name)
        if frame is None:
            frame = self._frame_places[name] = len(self.frames)
            self.frames.append(name)
        key = parent << 32 | frame
        place = self._node_places.get(key)
        if place is None:
            place = self._node_places[key] = len(self.frame_of)
            self.frame_of.append(frame)
            self.parent_of.append(parent)
            self.calls.append(0)
            self.self_instructions.append(0)
            self.bytes.append(0)
        return place

    def count(self, place: int, calls: int, self_instructions: int, size_bytes: int = 0) -> None:
        """Count something for a node."""
        self.calls[place] += calls
        self.self_instructions[place] += self_instructions
        self.bytes[place] += size_bytes

    def add(self, other: Paths, *, under: str = "") -> None:
        """Add what another profile has counted, below a frame of this name if there is one."""
        places = array("I", [self.child(0, under) if under else 0])
        for node in range(1, len(other.frame_of)):
            place = self.child(places[other.parent_of[node]], other.frames[other.frame_of[node]])
            places.append(place)
            self.count(place, other.calls[node], other.self_instructions[node], other.bytes[node])
        self.places = other.places | self.places
        self.lost_calls += other.lost_calls
        self.warnings += [one for one in other.warnings if one not in self.warnings]

    def dumps(self) -> str:
        """All of it as JSON, for `loads`."""
        columns = [self.frame_of, self.parent_of, self.calls, self.self_instructions, self.bytes]
        plain = {"frames": self.frames, "nodes": [column.tolist() for column in columns], "lost": self.lost_calls}
        return json.dumps(plain | {"warnings": self.warnings, "places": self.places})

    def loads(self, text: str) -> None:
        """Add what `dumps` has written, in another process."""
        plain, other = json.loads(text), Paths()
        for frame, parent, *counts in list(zip(*plain["nodes"], strict=True))[1:]:
            other.count(other.child(parent, plain["frames"][frame]), *counts)
        other.lost_calls, other.warnings = plain["lost"], plain["warnings"]
        other.places = {name: (file, line) for name, (file, line) in plain["places"].items()}
        self.add(other)

    # --- looked at

    def __len__(self) -> int:
        return len(self.frame_of) - 1

    @property
    def total_instructions(self) -> int:
        """Of everything: what the messages were charged for, to the instruction."""
        return sum(self.self_instructions)

    def described(self, name: str) -> str:
        """A function's name, and where it begins."""
        place = self.places.get(name)
        return name if place is None else f"{name} ({place[0]}:{place[1]})"

    def inclusive(self) -> array[int]:
        """Instructions of each node with all that it called."""
        found = array("q", self.self_instructions)
        for node in range(len(found) - 1, 0, -1):
            found[self.parent_of[node]] += found[node]
        return found

    def children(self) -> list[list[int]]:
        """The nodes below each node."""
        found: list[list[int]] = [[] for _ in self.frame_of]
        for node in range(1, len(self.frame_of)):
            found[self.parent_of[node]].append(node)
        return found

    def functions(self) -> list[Cost]:
        """What each function cost, the dearest code first."""
        frames = len(self.frames)
        calls, own, whole, moved = ([0] * frames for _ in range(4))
        inclusive, children = self.inclusive(), self.children()
        for node in range(1, len(self.frame_of)):
            frame = self.frame_of[node]
            calls[frame] += self.calls[node]
            own[frame] += self.self_instructions[node]
            moved[frame] += self.bytes[node]
        open_frames = [0] * frames
        stack = [~node for node in children[0]]
        while stack:
            node = stack.pop()
            if node >= 0:
                open_frames[self.frame_of[node]] -= 1
                continue
            node = ~node
            frame = self.frame_of[node]
            if not open_frames[frame]:
                whole[frame] += inclusive[node]
            open_frames[frame] += 1
            stack.append(node)
            stack.extend(~child for child in children[node])
        rows = zip(self.frames, calls, own, whole, moved, strict=True)
        return sorted((Cost(*row) for row in rows if row[0]), key=lambda cost: (-cost.self_instructions, cost.name))

    def centres(self) -> list[Cost]:
        """The same by kind of cost, the dearest first; ``code`` is what is of no other kind."""
        found: dict[str, list[int]] = {}
        for cost in self.functions():
            sums = found.setdefault(_centre(cost.name), [0, 0, 0])
            for place, value in enumerate((cost.calls, cost.self_instructions, cost.size_bytes)):
                sums[place] += value
        rows = [Cost(name, calls, own, own, moved) for name, (calls, own, moved) in found.items()]
        return sorted(rows, key=lambda cost: (-cost.self_instructions, cost.name))

    def shown(self) -> Paths:
        """What outputs show: not too deep, and of very many nodes those that cost most."""
        depths = array("I", [0])
        for node in range(1, len(self.frame_of)):
            depths.append(depths[self.parent_of[node]] + 1)
        inclusive = self.inclusive()
        least = sorted(inclusive, reverse=True)[_MAX_SHOWN] + 1 if len(inclusive) > _MAX_SHOWN else None
        if least is None and max(depths) <= _MAX_DEPTH:
            return self
        found, places = Paths(), array("I", [0])
        for node in range(1, len(self.frame_of)):
            place = places[self.parent_of[node]]
            if depths[node] <= _MAX_DEPTH and (least is None or inclusive[node] >= least):
                place = found.child(place, self.frames[self.frame_of[node]])
                found.calls[place] += self.calls[node]
            places.append(place)
            found.count(place, 0, self.self_instructions[node], self.bytes[node])
        found.lost_calls, found.warnings, found.places = self.lost_calls, self.warnings, self.places
        return found

    def stacks(self) -> Iterator[tuple[list[int], int]]:
        """The nodes from the outermost one on, and the last one's own instructions, where it has some."""
        for node in range(1, len(self.frame_of)):
            if self.self_instructions[node]:
                path, place = [], node
                while place:
                    path.append(place)
                    place = self.parent_of[place]
                yield path[::-1], self.self_instructions[node]


def _centre(name: str) -> str:
    return next((centre for centre, starts in _CENTRES if name.startswith(starts)), "code")
