"""What occupies a stable memory: a list of spans, drawn as SVG or as blocks for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final, final

from perdure.inspection.find import Inventory, Structure
from perdure.memory import WASM_PAGE_BYTES
from perdure.picture import document
from perdure.stable.layout import end_address

__all__ = ["PALETTE", "Span", "cells", "occupancy", "to_svg"]

PALETTE: Final = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0",
)  # fmt: skip
"""Colours of structures, taken in turn."""

_USES: Final = ("manager", "used", "slack", "free")


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


def to_svg(inventory: Inventory, *, columns: int = 64, rows: int = 24) -> str:
    """A drawing of the memory: one square for each part, a legend below."""
    spans = occupancy(inventory)
    drawn = cells(spans, columns * rows)
    colours = colours_of(inventory)
    side, left, top = 12, 16, 40
    parts = []
    per_cell = -(-(spans[-1].end if spans else 0) // (columns * rows))
    for number, span in enumerate(drawn):
        x, y = left + side * (number % columns), top + side * (number // columns)
        fill = f'fill="{colours[span.label]}"' if span.label in colours else 'class="free"'
        fill = 'class="set"' if span.use == "manager" else fill
        opacity = 0.3 if span.use == "slack" else 1.0
        title = f"{span.label or 'nobody'}: {span.use}, {span.start:#x} to {span.end:#x}"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" {fill} fill-opacity="{opacity}">'
            f"<title>{escape(title)}</title></rect>"
        )
    height = top + side * rows + 24
    for number, structure in enumerate(inventory.structures):
        y = height + 18 * number
        text = legend(structure)
        parts.append(f'<rect x="{left}" y="{y - 10}" width="11" height="11" fill="{colours[structure.label]}"/>')
        parts.append(f'<text x="{left + 18}" y="{y}">{escape(text)}</text>')
    total = height + 18 * len(inventory.structures) + 8
    width = 2 * left + side * columns
    head = f"{inventory.label}: {inventory.memory.size()} Wasm pages, {per_cell} bytes a square"
    return document(width, total, head, parts)


def colours_of(inventory: Inventory) -> dict[str, str]:
    """A colour for each structure."""
    labels = [structure.label for structure in inventory.structures]
    return {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(labels)}


def legend(structure: Structure) -> str:
    """A structure in one line."""
    name = f" {structure.name}" if structure.name else ""
    used = "" if structure.used_bytes is None else f", {structure.used_bytes} used"
    return f"{structure.label}{name}: {structure.kind}, {structure.allocated_bytes} bytes set aside{used}"
