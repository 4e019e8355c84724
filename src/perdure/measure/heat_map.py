"""A heatmap over the map of a memory: the squares of the map, and in each how many messages touched it."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, NamedTuple

from perdure.inspection.occupancy import LEFT, SIDE, Span, draw_cell, draw_heading, draw_legend, title_of
from perdure.measure.structures import OTHER, Layout
from perdure.memory import PAGE_BYTES
from perdure.picture import Picture
from perdure.units import show_size

__all__ = ["PageHeat", "draw", "draw_terminal"]

PageHeat = tuple[int, int]
"""By how many messages a page was accessed, and written."""

_COLUMNS: Final = 64
_ROWS: Final = 24
_FEW: Final = 384
"""So many squares, or fewer, are drawn larger."""
_ROWS_OF_TEXT: Final = 12
_LEVELS: Final = 4
_TOLD_OWNERS: Final = 4
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


class _Cell(NamedTuple):
    """A square: what it shows, and what happened there."""

    span: Span
    read: int
    """Accesses of its pages by messages."""
    written: int
    owners: Counter[str]
    """Whose pages were touched, by how many accesses."""


class _Drawn(NamedTuple):
    """What there is to draw: of the memory what is in use or was touched, in squares of the same size."""

    cells: list[_Cell]
    cell_bytes: int
    size_bytes: int
    """Of all of them."""


def _drawn(layout: Layout, heat: Mapping[int, PageHeat], shift: int, most: int) -> _Drawn:
    ranges = list(_shown(layout, heat, shift))
    starts, before = [start for start, _ in ranges], [0]
    for start, end in ranges:
        before.append(before[-1] + end - start)
    total = before[-1]
    count = min(most, total)
    span_starts = [span.start for span in layout.spans]

    def at(number: int) -> Span:
        """What a square shows: the span in its middle."""
        middle = (total * number // count + max(total * number // count, total * (number + 1) // count - 1)) // 2
        place = bisect_right(before, middle) - 1
        address = (starts[place] + middle - before[place]) * PAGE_BYTES
        found = bisect_right(span_starts, address) - 1
        return layout.spans[found] if found >= 0 else Span(address, address + PAGE_BYTES, "", "free")

    found = [_Cell(at(number), 0, 0, Counter()) for number in range(count)]
    for page, (read, written) in heat.items():
        owner = layout.owner(page << shift)
        name = " ".join(filter(None, (owner.structure, owner.name or owner.kind)))
        place = bisect_right(starts, page << shift) - 1
        number = ((before[place] + (page << shift) - starts[place]) * count + count - 1) // total
        cell = found[min(number, count - 1)]
        cell.owners[name if owner is not OTHER else "nobody's"] += max(read, written)
        found[min(number, count - 1)] = cell._replace(read=cell.read + read, written=cell.written + written)
    return _Drawn(found, total * PAGE_BYTES // max(1, count), total * PAGE_BYTES)


def _shown(layout: Layout, heat: Mapping[int, PageHeat], shift: int) -> Iterator[tuple[int, int]]:
    """Runs of pages that are in use or were touched."""
    runs = [
        (span.start // PAGE_BYTES, -(-span.end // PAGE_BYTES))
        for span in layout.spans
        if span.use in {"used", "manager"} and span.end > span.start
    ]
    runs += [(page << shift, (page + 1) << shift) for page in heat]
    current = (0, 0)
    for start, end in sorted(runs):
        if start > current[1]:
            if current[1] > current[0]:
                yield current
            current = start, end
        else:
            current = current[0], max(current[1], end)
    if current[1] > current[0]:
        yield current


def _level(count: int, most: int) -> int:
    """From 1 to `_LEVELS`, by orders of magnitude below the most touched."""
    return max(1, _LEVELS - (max(1, most // max(1, count)).bit_length() - 1) // 2)


def draw(title: str, layout: Layout, heat: Mapping[int, PageHeat], shift: int) -> Picture:
    """The map as `perdure stable map` draws it, pale, with a mark in each square that messages touched.

    Args:
        title: whose memory, and of what messages.
        layout: of the memory.
        heat: by page.
        shift: so many pages have one number, as a power of two.
    """
    drawn = _drawn(layout, heat, shift, _COLUMNS * _ROWS)
    sizes = f"{_sizes(layout, drawn)}, a square is {show_size(drawn.cell_bytes)}" if drawn.cells else "nothing to draw"
    picture = Picture(title, 2 * LEFT + SIDE * _COLUMNS, f"{sizes}; {_summary(layout, drawn.cells)}")
    draw_heading(picture, sizes)
    columns = _COLUMNS if len(drawn.cells) > _FEW else _COLUMNS // 2
    most = max([1, *(max(cell.read, cell.written) for cell in drawn.cells)])
    for number, cell in enumerate(drawn.cells):
        pale = replace(cell.span, use="slack") if cell.span.use == "used" else cell.span
        x, y = draw_cell(picture, number, pale, layout.colours, _told(cell), columns)
        if cell.read or cell.written:
            _mark(picture, x, y, SIDE * _COLUMNS / columns, cell, most)
    _draw_scale(picture, most)
    managers = [span for span in layout.spans if span.use == "manager"]
    draw_legend(picture, [(layout.colours[label], text) for label, text in layout.legend.items()], managers)
    return picture


def _sizes(layout: Layout, drawn: _Drawn) -> str:
    """How large the memory is, and how much of it is drawn."""
    whole, shown = show_size(layout.size_bytes), show_size(drawn.size_bytes)
    return whole if drawn.size_bytes >= layout.size_bytes else f"{shown} in use of {whole}"


def _mark(picture: Picture, x: float, y: float, square: float, cell: _Cell, most: int) -> None:
    """A smaller square: the larger, the more messages; red where they wrote."""
    count = max(cell.read, cell.written)
    side = (1 + 2 * _level(count, most)) * square / SIDE
    inset = (square - 1 - side) / 2
    picture.box(x + inset, y + inset, side, side, "written" if cell.written else "read", title=_told(cell))


def _draw_scale(picture: Picture, most: int) -> None:
    y = picture.height + 24
    x: float = LEFT
    for colour, words in (("read", "only read"), ("written", "written")):
        for level in range(1, _LEVELS + 1):
            side = 1 + 2 * level
            picture.box(x, y - 5 - side / 2, side, side, colour)
            x += side + 4
        picture.text(x + 4, y, words)
        x += 90
    picture.text(x, y, f"the larger, the more often; at most {most:,} times a square", colour="dim")


def _told(cell: _Cell) -> str:
    if not cell.read and not cell.written:
        return title_of(cell.span)
    whose = ", ".join(name for name, _ in cell.owners.most_common(_TOLD_OWNERS))
    more = len(cell.owners) - _TOLD_OWNERS
    rest = f" and {more} more" if more > 0 else ""
    return f"{whose}{rest}: accessed {cell.read:,} times, written {cell.written:,} times; {title_of(cell.span)}"


def _summary(layout: Layout, cells: list[_Cell]) -> str:
    touched = [cell for cell in cells if cell.read or cell.written]
    written = sum(1 for cell in touched if cell.written)
    told = f"{len(touched)} of {len(cells)} squares were touched, {written} of them written"
    return "; ".join([told, *layout.legend.values()])


def draw_terminal(
    title: str, layout: Layout, heat: Mapping[int, PageHeat], shift: int, columns: int = _COLUMNS
) -> list[str]:
    """The same in letters: that of the structure, a capital where messages wrote.

    Args:
        title: whose memory, and of what messages.
        layout: of the memory.
        heat: by page.
        shift: so many pages have one number, as a power of two.
        columns: letters in a line.
    """
    drawn = _drawn(layout, heat, shift, columns * _ROWS_OF_TEXT)
    letters = {label: _LETTERS[number % len(_LETTERS)] for number, label in enumerate(layout.legend)}
    marks = "".join(_letter(cell, letters) for cell in drawn.cells)
    if not drawn.cells:
        return [title]
    lines = [f"{title}: {_sizes(layout, drawn)}, a letter is {show_size(drawn.cell_bytes)}"]
    lines += [marks[at : at + columns] for at in range(0, len(marks), columns)]
    lines += [f"{letters[label]} {text}" for label, text in layout.legend.items()]
    return [*lines, "capitals: written   small letters: only read   #: of no structure   -: in use, not touched"]


def _letter(cell: _Cell, letters: Mapping[str, str]) -> str:
    if not cell.read and not cell.written:
        return "-"
    label = cell.owners.most_common(1)[0][0].partition(" ")[0]
    letter = letters.get(label, "#")
    return letter.upper() if cell.written else letter
