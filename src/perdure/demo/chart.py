"""Series of measured messages as a picture: an SVG file, and digits in a terminal.

Logarithmic, because a host call through Python is a hundred times slower than a native one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from perdure import picture
from perdure.picture import Scale

__all__ = ["Series", "svg", "terminal"]


class Series(NamedTuple):
    """One line of the picture: milliseconds of each message, in order."""

    name: str
    milliseconds: Sequence[float]


def svg(series: Sequence[Series], title: str) -> str:
    """The picture as an SVG document: milliseconds a message, logarithmic, against the number of the message."""
    drawn = [picture.Series(one.name, [*enumerate(one.milliseconds, 1)]) for one in series]
    return picture.lines(drawn, title, x="message", unit="ms", is_x_even=True)


def _label(exponent: int) -> str:
    return f"{10**exponent} ms" if exponent >= 0 else f"{10.0**exponent:.{-exponent}f} ms"


def terminal(series: Sequence[Series], *, columns: int = 64, rows: int = 12) -> list[str]:
    """The same picture in lines of text: a digit for each series, `1` for the first, on a logarithmic scale."""
    scale = Scale.of([value for line in series for value in line.milliseconds])
    last = max(len(line.milliseconds) for line in series) - 1
    grid = [[" "] * columns for _ in range(rows)]
    for number, line in enumerate(series, 1):
        for message, value in enumerate(line.milliseconds):
            row = rows - 1 - round(scale.share(value) * (rows - 1))
            grid[row][round(message / max(last, 1) * (columns - 1))] = str(number)
    labels = {
        round((scale.high - exponent) / (scale.high - scale.low) * (rows - 1)): _label(exponent)
        for exponent in range(scale.low, scale.high + 1)
    }
    return [f"{labels.get(row, ''):>10} │{''.join(cells)}" for row, cells in enumerate(grid)]
