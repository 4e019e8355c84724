"""What occupies a stable memory: a list of spans, drawn as SVG or as blocks for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, final

from perdure.inspection.find import Inventory, Structure
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.picture import PALETTE, Picture, clipped
from perdure.stable.layout import end_address
from perdure.units import show_size

__all__ = ["PALETTE", "Span", "cells", "drawing", "occupancy", "to_svg"]

LEFT: Final = 16
TOP: Final = 56
SIDE: Final = 12
_MOST_LINES: Final = 256
"""Of a legend: a memory manager has 255 memories; what has very many was made so, and their picture would not fit."""
"""Of a square, with the gap to the next one."""

_USES: Final = {
    "manager": "memory manager",
    "used": "in use",
    "slack": "set aside, not in use",
    "free": "nobody's",
}


@final
@dataclass(frozen=True)
class Span:
    """A run of bytes put to one use.

    Attributes:
        start: first address in the stable memory.
        end: past the last.
        label: of the structure; ``manager`` for the manager's page, empty for nobody's bytes.
        use: ``manager``, ``used``, ``slack`` (set aside for a structure, not taken into use) or ``free``.
    """

    start: int
    end: int
    label: str
    use: str


def occupancy(inventory: Inventory) -> list[Span]:
    """The whole memory as spans, ascending, without gaps."""
    spans = sorted(_taken(inventory), key=lambda span: span.start)
    whole: list[Span] = []
    at = 0
    for span in spans:
        if span.start > at:
            whole.append(Span(at, span.start, "", "free"))
        if span.end > at:
            whole.append(Span(max(at, span.start), span.end, span.label, span.use))
            at = span.end
    size_bytes = inventory.memory.size() * WASM_PAGE_BYTES
    if at < size_bytes:
        whole.append(Span(at, size_bytes, "", "free"))
    return whole


def _taken(inventory: Inventory) -> Iterator[Span]:
    for manager in inventory.managers:
        yield Span(manager.address, manager.address + WASM_PAGE_BYTES, "manager", "manager")
    for structure in inventory.structures:
        yield from _spans_of(structure, inventory)


def _spans_of(structure: Structure, inventory: Inventory) -> Iterator[Span]:
    """The buckets of a structure, whole: as far as it uses them, then the slack."""
    used = structure.used_bytes if structure.used_bytes is not None else structure.region.size_bytes
    regions = [(structure.region, structure.memory_id, used)]
    if structure.data is not None:
        index_used = end_address(structure.entries or 0)
        regions = [
            (structure.region, structure.memory_id, index_used),
            (structure.data, structure.data_memory_id, max(0, used - index_used)),
        ]
    for region, memory_id, left in regions:
        runs = region.runs
        if memory_id is not None and inventory.managers:
            runs = inventory.managers[0].runs(memory_id)
        for run in runs:
            taken = min(left, run.size_bytes)
            left -= taken
            if taken:
                yield Span(run.address, run.address + taken, structure.label, "used")
            if taken < run.size_bytes:
                yield Span(run.address + taken, run.address + run.size_bytes, structure.label, "slack")


def cells(spans: Sequence[Span], count: int) -> list[Span]:
    """The span that takes most of each of `count` equal parts of the memory."""
    size_bytes = spans[-1].end if spans else 0
    found: list[Span] = []
    index = 0
    for cell in range(count if size_bytes else 0):
        start, end = size_bytes * cell // count, max(size_bytes * cell // count + 1, size_bytes * (cell + 1) // count)
        while spans[index].end <= start:
            index += 1
        best, most, at = spans[index], 0, index
        while at < len(spans) and spans[at].start < end:
            share = min(end, spans[at].end) - max(start, spans[at].start)
            best, most = (spans[at], share) if share > most else (best, most)
            at += 1
        found.append(best)
    return found


def cell_count(size_bytes: int, most: int) -> int:
    """Into how many parts a memory is cut to be drawn: no smaller ones than its pages."""
    return min(most, size_bytes // PAGE_BYTES)


def to_svg(inventory: Inventory, *, columns: int = 64, rows: int = 24) -> str:
    """A `drawing` of the memory as an SVG document."""
    return drawing(inventory, columns=columns, rows=rows).svg()


def drawing(inventory: Inventory, *, columns: int = 64, rows: int = 24) -> Picture:
    """The memory: one square for each part, a legend below.

    Args:
        inventory: of the memory.
        columns: squares in a row.
        rows: at most so many.
    """
    spans = occupancy(inventory)
    size_bytes = inventory.memory.size() * WASM_PAGE_BYTES
    drawn = cells(spans, cell_count(size_bytes, columns * rows))
    colours, lines = colours_of(inventory), [legend(structure) for structure in inventory.structures]
    per_cell = show_size(-(-size_bytes // len(drawn))) if drawn else "nothing"
    sizes = f"{show_size(size_bytes)}, a square is {per_cell}; pale: set aside, not in use"
    picture = Picture(inventory.label, 2 * LEFT + SIDE * columns, "; ".join((sizes, *lines)))
    draw_heading(picture, sizes)
    for number, span in enumerate(drawn):
        draw_cell(picture, number, span, colours, title_of(span), columns)
    draw_legend(picture, list(zip(colours.values(), lines, strict=True)), inventory.managers)
    return picture


def title_of(span: Span) -> str:
    """What is told of a span where somebody points at it."""
    whose = f"{span.label}: {_USES[span.use]}" if span.use in {"used", "slack"} else _USES[span.use]
    return f"{whose}, {show_size(span.end - span.start)} from {span.start:#x}"


def draw_cell(
    picture: Picture, number: int, span: Span, colours: Mapping[str, str], title: str, columns: int = 64
) -> tuple[float, float]:
    """Draw one square of a map, in the colour of what it belongs to; its left upper corner.

    The fewer are in a row, the larger they are.
    """
    side = (picture.width - 2 * LEFT) / columns
    x, y = LEFT + side * (number % columns), TOP + side * (number // columns)
    colour = "manager" if span.use == "manager" else colours.get(span.label, "blank")
    picture.box(x, y, side - 1, side - 1, colour, opacity=0.3 if span.use == "slack" else 1, title=title)
    return x, y


def draw_heading(picture: Picture, sizes: str) -> None:
    """What the map shows, and how large that is."""
    room = picture.width - 2 * LEFT
    picture.text(LEFT, 24, clipped(picture.title, room, 14), size=13, bold=True)
    picture.text(LEFT, 42, clipped(sizes, room), colour="dim")
    picture.reach(TOP)


def draw_legend(picture: Picture, lines: Sequence[tuple[str, str]], managers: Sequence[object] = ()) -> None:
    """What the colours mean, a line each, below what is there; of very many the first ones."""
    y = picture.height + 24
    for colour, text in ([("manager", "memory manager")] if managers else []) + list(lines[:_MOST_LINES]):
        picture.box(LEFT, y - 10, SIDE - 1, SIDE - 1, colour)
        picture.text(LEFT + 18, y, clipped(text, picture.width - 2 * LEFT - 18))
        y += 18
    if len(lines) > _MOST_LINES:
        picture.text(LEFT + 18, y, f"and {len(lines) - _MOST_LINES:,} more", colour="dim")


def colours_of(inventory: Inventory) -> dict[str, str]:
    """A colour for each structure."""
    labels = [structure.label for structure in inventory.structures]
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(labels)}


def legend(structure: Structure) -> str:
    """A structure in one line."""
    name = f" {structure.name}" if structure.name else ""
    used = "" if structure.used_bytes is None else f", {show_size(structure.used_bytes)} used"
    return f"{structure.label}{name}: {structure.kind}, {show_size(structure.allocated_bytes)} set aside{used}"
