"""Pictures as SVG documents: lines, bars, maps; readable on light and on dark paper, by eye and by screen reader.

```
lines, bars ─▶ document(width, height, title, parts)      colours by class: c0, c1 ...; ink, grid
Picture ─▶ box, text, ... ─▶ svg(), png()                  colours by name: ink, blank, read ...
```

Scales are logarithmic: what is measured here differs by factors. Without a style sheet's media query a reader sees the
light colours. Any text may be somebody else's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final, NamedTuple, final

from perdure.raster import Raster

__all__ = [
    "COLOURS",
    "PALETTE",
    "PICTURES",
    "Picture",
    "Scale",
    "Series",
    "bars",
    "clipped",
    "document",
    "lines",
    "one_line",
    "xml_text",
]

COLOURS: Final = ("#2f7ed8", "#d9480f", "#0f9d6b", "#a855c7", "#b7860b", "#d6336c", "#0c8599", "#7a7f87")
"""Of series, in their order: middle tones, that stand out from white and from black."""

_WIDTH: Final = 760
_LEFT: Final = 64
_TOP: Final = 44
_STYLE: Final = (
    "text{fill:#1f2328}.paper{fill:#fff}.grid{stroke:#d8dce1}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.paper{fill:#0d1117}.grid{stroke:#30363d}"
    "}" + "".join(f".c{number}{{fill:{one}}}.l{number}{{stroke:{one};fill:none}}" for number, one in enumerate(COLOURS))
)


class Series(NamedTuple):
    """One line: its name, and where it goes."""

    name: str
    points: Sequence[tuple[float, float]]


class Scale(NamedTuple):
    """Decades from 10 to the power of `low` to `high`."""

    low: int
    high: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Scale:
        """Around values greater than zero."""
        low = math.floor(math.log10(min(values)))
        return cls(low, max(math.ceil(math.log10(max(values))), low + 1))

    def share(self, value: float) -> float:
        """Where a value is, from 0 to 1."""
        return (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self) -> Iterator[float]:
        """Its decades."""
        return (10.0**exponent for exponent in range(self.low, self.high + 1))


def document(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole document: paper, a title, and what is drawn."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="system-ui, sans-serif" font-size="12" role="img">\n'
        f"<title>{xml_text(title)}</title><style>{_STYLE}</style>\n"
        f'<rect class="paper" width="100%" height="100%"/>\n'
        f'<text x="16" y="26" font-size="16" font-weight="600">{xml_text(title)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def lines(series: Sequence[Series], title: str, *, x: str, unit: str, is_x_even: bool = False) -> str:
    """Lines of values in a unit against what `x` says.

    Args:
        series: at least one, values greater than zero.
        title: over all.
        x: what goes to the right.
        unit: of the values.
        is_x_even: equal steps to the right, instead of equal factors.
    """
    legend = 24 * -(-len(series) // 2)
    height, right = 300 + _TOP + legend, _WIDTH - 32
    points = [point for one in series for point in one.points]
    up, last = Scale.of([one[1] for one in points]), max(one[0] for one in points)
    first = min(one[0] for one in points)
    along = Scale.of([one[0] for one in points]) if not is_x_even else None

    def across(value: float) -> float:
        if along is not None:
            share = (math.log10(value) - math.log10(first)) / (math.log10(last / first) or 1)
        else:
            share = (value - first) / ((last - first) or 1)
        return _LEFT + 16 + share * (right - _LEFT - 32)

    def above(value: float) -> float:
        return _TOP + 12 + (1 - up.share(value)) * 224

    parts = []
    for tick in up.ticks():
        y = above(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    marked = dict.fromkeys(one[0] for one in points) if along is not None else (first, last)
    parts += [
        f'<text x="{across(one):.1f}" y="{_TOP + 256}" text-anchor="middle">{_number(one)}</text>' for one in marked
    ]
    parts.append(f'<text x="16" y="{_TOP + 2}">{xml_text(unit)}</text>')
    parts.append(f'<text x="{_WIDTH / 2}" y="{_TOP + 276}" text-anchor="middle">{xml_text(x)}</text>')
    for number, one in enumerate(series):
        drawn = [(across(at), above(value)) for at, value in one.points]
        path = " ".join(f"{at:.1f},{value:.1f}" for at, value in drawn)
        dash = ' stroke-dasharray="7 4"' if number >= len(COLOURS) // 2 else ""  # also told apart without colours
        parts.append(f'<polyline class="l{number % len(COLOURS)}" points="{path}" stroke-width="2"{dash}/>')
        parts += [f'<circle class="c{number % len(COLOURS)}" cx="{at:.1f}" cy="{y:.1f}" r="3"/>' for at, y in drawn]
    parts += _legend([one.name for one in series], _TOP + 300, 2)
    return document(_WIDTH, height, title, parts)


def bars(rows: Mapping[str, Mapping[str, float]], title: str, *, unit: str) -> str:
    """Bars from left to right, on one scale: for each row one of each series that it has, with its value.

    Args:
        rows: by name, values by the name of their series; a value of zero has no bar.
        title: over all.
        unit: of the values.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    scale = Scale.of([value for row in rows.values() for value in row.values() if value > 0])
    left, right, thick = 16 + 7 * max(map(len, rows)), _WIDTH - 72, 13
    legend = 20 * -(-len(names) // 4)
    y: float = _TOP + legend
    parts, bottom = [], y + sum(thick * len(row) + 10 for row in rows.values())
    for tick in scale.ticks():
        at = left + scale.share(tick) * (right - left)
        parts.append(f'<path class="grid" d="M{at:.1f} {y - 4:.1f}V{bottom:.1f}"/>')
        parts.append(f'<text x="{at:.1f}" y="{bottom + 16:.1f}" text-anchor="middle">{_number(tick)}</text>')
    parts.append(f'<text x="{(left + right) / 2}" y="{bottom + 34:.1f}" text-anchor="middle">{xml_text(unit)}</text>')
    for name, row in rows.items():
        middle = y + thick * len(row) / 2 + 3
        parts.append(f'<text x="{left - 8}" y="{middle:.1f}" text-anchor="end">{xml_text(name)}</text>')
        for series, value in row.items():
            # A bar of the smallest decade's start would not be seen.
            width = max(scale.share(value) * (right - left), 2) if value > 0 else 0
            number = names.index(series) % len(COLOURS)
            parts.append(
                f'<rect class="c{number}" x="{left}" y="{y:.1f}" width="{width:.1f}" height="{thick - 2}">'
                f"<title>{xml_text(f'{name}, {series}: {value:,.6g} {unit}')}</title></rect>"
                f'<text x="{left + width + 4:.1f}" y="{y + 9.5:.1f}" font-size="10">{_number(value)}</text>'
            )
            y += thick
        y += 10
    parts += _legend(names, _TOP, 4)
    return document(_WIDTH, bottom + 46, title, parts)


def _legend(names: Sequence[str], top: float, columns: int) -> Iterator[str]:
    for number, name in enumerate(names):
        x, y = 16 + (_WIDTH - 32) / columns * (number % columns), top + 20 * (number // columns)
        yield f'<rect class="c{number % len(COLOURS)}" x="{x:.1f}" y="{y - 4:.1f}" width="11" height="11"/>'
        yield f'<text x="{x + 16:.1f}" y="{y + 6:.1f}">{xml_text(name)}</text>'


def _number(value: float) -> str:
    """As short as it can be read."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# --- maps, and what else is drawn piece by piece

PALETTE: Final = (
    "#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0",
)  # fmt: skip
"""Colours of what is told apart, taken in turn: of middle brightness, to be seen on both grounds."""

_LIGHT: Final = {
    "ground": "#ffffff",
    "ink": "#202124",
    "dim": "#5f6368",
    "blank": "#eceef0",
    "manager": "#44474a",
    "read": "#1a5fb4",
    "written": "#c01c28",
}
_DARK: Final = {
    "ground": "#1b1c1e",
    "ink": "#e8eaed",
    "dim": "#a8adb3",
    "blank": "#2b2d30",
    "manager": "#c4c7cb",
    "read": "#8ab8ff",
    "written": "#ff8f85",
}
_DARK_STYLE: Final = (
    "@media(prefers-color-scheme:dark){"
    + "".join(f".pd-{name}{{fill:{colour}}}" for name, colour in _DARK.items())
    + "}"
)
"""The style sheet of the dark scheme."""

_MOST_CHARACTERS: Final = 200
_CHARACTER: Final = 0.56
"""Width of a character, in sizes of the font: what sans-serif fonts have on average, and a little more."""


def xml_text(text: str) -> str:
    """Text for XML, which has no control characters, cut where nobody would read on."""
    return escape(one_line(_cut(text)))


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"


def one_line(text: str) -> str:
    """Text without line ends, and without what a terminal would obey: a name that somebody else has given."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def clipped(text: str, width: float, size: float = 12) -> str:
    """As much of a text as fits, in pixels."""
    room = int(width / (size * _CHARACTER))
    return text if len(text) <= room else f"{text[: max(0, room - 1)]}…" if room > 1 else ""


PICTURES: Final = (".svg", ".png")
"""What files of a `Picture` end in."""
_PNG_SCALE: Final = 2
"""Pixels of a PNG to one of the picture's: letters of a 12th of their size to a dot."""
_SHARES: Final = {"": 0.0, "middle": 0.5, "end": 1.0}


class _Words(NamedTuple):
    x: float
    y: float
    words: str
    size: float
    colour: str
    anchor: str
    is_bold: bool

    def svg(self) -> str:
        more = f' text-anchor="{self.anchor}"' if self.anchor else ""
        more += ' font-weight="600"' if self.is_bold else ""
        more += f' font-size="{self.size:g}"' if self.size != 12 else ""
        return f'<text x="{self.x:.4g}" y="{self.y:.4g}"{_fill(self.colour)}{more}>{xml_text(self.words)}</text>'

    def draw(self, raster: Raster) -> None:
        dot = max(1, round(self.size * _PNG_SCALE / 12))
        x, y, share = self.x * _PNG_SCALE, self.y * _PNG_SCALE, _SHARES[self.anchor]
        raster.text(x, y, one_line(_cut(self.words)), dot, _hexadecimal(self.colour), share=share, bold=self.is_bold)


class _Box(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    colour: str
    opacity: float
    title: str

    def svg(self) -> str:
        more = f' fill-opacity="{self.opacity:.2g}"' if self.opacity != 1 else ""
        inside = f"<title>{xml_text(self.title)}</title></rect>" if self.title else ""
        end = f">{inside}" if inside else "/>"
        place = f'x="{self.x:.5g}" y="{self.y:.5g}" width="{self.width:.5g}" height="{self.height:.5g}"'
        return f"<rect {place}{_fill(self.colour)}{more}{end}"

    def draw(self, raster: Raster) -> None:
        left, top = self.x * _PNG_SCALE, self.y * _PNG_SCALE
        right, bottom = left + self.width * _PNG_SCALE, top + self.height * _PNG_SCALE
        raster.box(left, top, right, bottom, _hexadecimal(self.colour), self.opacity)


@final
class Picture:
    """A picture that is being drawn. Colours are names of `_LIGHT`, or what SVG takes.

    Args:
        title: what it shows.
        width: in pixels; the height is that of what is drawn.
        summary: what somebody should know who does not see it.
    """

    def __init__(self, title: str, width: float, summary: str = "") -> None:
        self.title = title
        self.width = width
        self.height = 0.0
        self.summary = summary
        self._parts: list[_Words | _Box] = []

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 12,
        colour: str = "ink",
        anchor: str = "",
        bold: bool = False,
    ) -> None:
        """Write words; `y` is their base line. ``anchor``: ``middle`` or ``end``."""
        self._parts.append(_Words(x, y, words, size, colour, anchor, bold))
        self.reach(y + size / 2)

    def box(
        self, x: float, y: float, width: float, height: float, colour: str, *, opacity: float = 1, title: str = ""
    ) -> None:
        """A rectangle, and what is told of it where somebody points at it."""
        self._parts.append(_Box(x, y, width, height, colour, opacity, title))
        self.reach(y + height)

    def reach(self, y: float) -> None:
        """Be at least so high."""
        self.height = max(self.height, y)

    def svg(self) -> str:
        """The document: whole without its style, which is for dark screens."""
        width, height = f"{self.width:g}", f"{self.height + 12:g}"
        told = f"{self.title}. {self.summary}" if self.summary else self.title
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'role="img" aria-label="{xml_text(told)}" font-family="system-ui, sans-serif" font-size="12">'
            f"<title>{xml_text(self.title)}</title><style>{_DARK_STYLE}</style>"
            f'<rect width="100%" height="100%"{_fill("ground")}/>{"".join(part.svg() for part in self._parts)}</svg>\n'
        )

    def png(self) -> bytes:
        """The same as a PNG on light paper, of twice as many pixels; what is told where somebody points is not in it.

        Raises:
            ValueError: it would be too large.
        """
        width, height = round(self.width * _PNG_SCALE), round((self.height + 12) * _PNG_SCALE)
        raster = Raster(width, height, _LIGHT["ground"])
        for part in self._parts:
            part.draw(raster)
        return raster.png()

    def file(self, suffix: str) -> bytes:
        """What is in a file of a name that ends so, which is one of `PICTURES`.

        Raises:
            ValueError: it is none of them.
        """
        if suffix not in PICTURES:
            raise ValueError(f"{suffix!r:.20} is none of {', '.join(PICTURES)}")
        return self.png() if suffix == ".png" else self.svg().encode()


def _hexadecimal(colour: str) -> str:
    return _LIGHT.get(colour, colour)


def _fill(colour: str) -> str:
    known = _LIGHT.get(colour)
    return f' fill="{colour}"' if known is None else f' class="pd-{colour}" fill="{known}"'
