"""Series of measured messages as a picture: an SVG file, and digits in a terminal.

Logarithmic, because a host call through Python is a hundred times slower than a native one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Series", "svg", "terminal"]

WIDTH, HEIGHT, MARGIN = 760, 380, 64
COLOURS = ("#2563eb", "#dc2626", "#059669")


class Series(NamedTuple):
    """One line of the picture: milliseconds of each message, in order."""

    name: str
    milliseconds: Sequence[float]


class _Scale(NamedTuple):
    messages: int
    low: int
    high: int

    def across(self, message: int) -> float:
        return message / max(self.messages - 1, 1)

    def up(self, milliseconds: float) -> float:
        return (math.log10(milliseconds) - self.low) / (self.high - self.low)


def _scale(series: Sequence[Series]) -> _Scale:
    values = [value for line in series for value in line.milliseconds]
    low = math.floor(math.log10(min(values)))
    return _Scale(max(len(line.milliseconds) for line in series), low, max(math.ceil(math.log10(max(values))), low + 1))


def svg(series: Sequence[Series], title: str) -> str:
    """The picture as an SVG document: milliseconds a message, logarithmic, against the number of the message."""
    scale = _scale(series)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{MARGIN}" y="28" font-size="16" font-weight="600">{escape(title)}</text>',
        *_grid(scale),
        *(part for number, line in enumerate(series) for part in _line(line, scale, number)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(scale: _Scale, message: int) -> float:
    return MARGIN + scale.across(message) * (WIDTH - 2 * MARGIN)


def _y(scale: _Scale, milliseconds: float) -> float:
    return HEIGHT - MARGIN - scale.up(milliseconds) * (HEIGHT - 2 * MARGIN)


def _grid(scale: _Scale) -> Iterator[str]:
    for exponent in range(scale.low, scale.high + 1):
        y = _y(scale, 10.0**exponent)
        yield f'<path d="M{MARGIN} {y:.1f}H{WIDTH - MARGIN}" stroke="#e5e7eb"/>'
        yield f'<text x="{MARGIN - 8}" y="{y + 4:.1f}" font-size="12" text-anchor="end">{_label(exponent)}</text>'
    yield f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" font-size="12" text-anchor="middle">message</text>'


def _label(exponent: int) -> str:
    return f"{10**exponent} ms" if exponent >= 0 else f"{10.0**exponent:.{-exponent}f} ms"


def _line(line: Series, scale: _Scale, number: int) -> Iterator[str]:
    colour = COLOURS[number % len(COLOURS)]
    points = [(_x(scale, message), _y(scale, value)) for message, value in enumerate(line.milliseconds)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    for x, y in points:
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
    x, y = points[-1]
    place = f'x="{min(x + 8, WIDTH - 200):.1f}" y="{y - 8:.1f}"'
    yield f'<text {place} font-size="13" fill="{colour}">{escape(line.name)}</text>'


def terminal(series: Sequence[Series], *, columns: int = 64, rows: int = 12) -> list[str]:
    """The same picture in lines of text: a digit for each series, `1` for the first, on a logarithmic scale."""
    scale = _scale(series)
    grid = [[" "] * columns for _ in range(rows)]
    for number, line in enumerate(series, 1):
        for message, value in enumerate(line.milliseconds):
            row = rows - 1 - round(scale.up(value) * (rows - 1))
            grid[row][round(scale.across(message) * (columns - 1))] = str(number)
    labels = {
        round((scale.high - exponent) / (scale.high - scale.low) * (rows - 1)): _label(exponent)
        for exponent in range(scale.low, scale.high + 1)
    }
    return [f"{labels.get(row, ''):>10} │{''.join(cells)}" for row, cells in enumerate(grid)]
