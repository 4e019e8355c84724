"""A flame graph as one SVG file, which needs nothing else: widths are instructions, callees stand on their callers."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from typing import Final
from zlib import crc32

from perdure.measure.paths import Paths

__all__ = ["svg"]

_WIDTH: Final = 1200
_ROW: Final = 17
_TOP: Final = 64
_LEAST: Final = 0.15
"""Narrower frames would not be seen."""


def svg(paths: Paths, title: str) -> str:
    """The flame graph of a profile."""
    shown = paths.shown()
    inclusive, children = shown.inclusive(), shown.children()
    total = max(1, inclusive[0])
    boxes, deepest = [], 0
    stack = [(0, 0.0, 0)]
    while stack:
        node, left, depth = stack.pop()
        width = _WIDTH * inclusive[node] / total
        if width < _LEAST and node:
            continue
        deepest = max(deepest, depth)
        name = shown.frames[shown.frame_of[node]] if node else "all"
        boxes.append(_box(name, inclusive[node], shown.self_instructions[node], total, (left, width, depth)))
        for child in sorted(children[node], key=lambda one: shown.frames[shown.frame_of[one]]):
            stack.append((child, left, depth + 1))
            left += _WIDTH * inclusive[child] / total
    height = _TOP + _ROW * (deepest + 1) + 8
    script = files(__package__).joinpath("flame.js").read_text(encoding="utf-8")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'font-family="monospace" font-size="12"><title>{_text(title)}</title>'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="20" font-size="15">{_text(title)}</text>'
        f'<text x="8" y="42" id="told">{inclusive[0]:,} instructions. Click a frame to come closer; '
        "press / to search.</text>"
        f'<g id="frames">{"".join(boxes)}</g><script><![CDATA[\n{script}]]></script></svg>\n'
    )


def _box(name: str, whole: int, own: int, total: int, place: tuple[float, float, int]) -> str:
    left, width, depth = place
    hue = crc32(name.encode(errors="replace")) % 60
    top = _TOP + _ROW * depth
    told = f"{name}: {whole:,} instructions ({100 * whole / total:.2f} %), {own:,} of its own"
    room = int(width // 7.3) - 1
    label = name if len(name) <= room else name[: room - 1] + "…" if room > 3 else ""
    return (
        f'<g class="f" data-n="{_text(name)}" data-x="{left:.3f}" data-w="{width:.3f}" data-d="{depth}">'
        f"<title>{_text(told)}</title>"
        f'<rect x="{left:.2f}" y="{top}" width="{max(0.1, width - 0.3):.2f}" height="{_ROW - 1}" '
        f'fill="hsl({hue},75%,68%)"/>'
        f'<text x="{left + 3:.2f}" y="{top + 12}">{_text(label)}</text></g>'
    )


def _text(text: str) -> str:
    """For XML, which has no control characters."""
    return escape("".join(char if char.isprintable() else "\ufffd" for char in text))
