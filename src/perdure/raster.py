"""Pictures as PNG files: rectangles and words in dots, with nothing but zlib.

Letters are those of character displays, five columns of seven dots: no font is needed, and none is looked for. What
they have no letter for is decomposed (``…`` is three points), and else a box.

Facts: PNG (Portable Network Graphics) Specification, third edition, section 5, "Datastream structure".
"""

from __future__ import annotations

import struct
import zlib
from functools import lru_cache
from typing import Final, final
from unicodedata import combining, normalize

__all__ = ["Raster"]

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_HEADER: Final = struct.Struct(">IIBBBBB")
_BITS, _TRUE_COLOUR = 8, 2
_MOST_PIXELS: Final = 64 << 20
"""Of a picture: 192 MiB while it is drawn."""

_COLUMNS: Final = 5
_ADVANCE: Final = 6
"""Columns from one letter to the next."""
_BASE_LINE: Final = 7
"""Dots of a letter above its base line; the eighth is below it."""
_FIRST: Final = 0x20
_LETTERS: Final = bytes.fromhex(
    "0000000000 00005f0000 0007000700 147f147f14 242a7f2a12 2313086462 3649562050 0008070300 001c224100 0041221c00"
    "2a1c7f1c2a 08083e0808 0080703000 0808080808 0000606000 2010080402 3e5149453e 00427f4000 7249494946 2141494d33"
    "1814127f10 2745454539 3c4a494931 4121110907 3649494936 464949291e 0000140000 0040340000 0008142241 1414141414"
    "0041221408 0201590906 3e415d594e 7c1211127c 7f49494936 3e41414122 7f4141413e 7f49494941 7f09090901 3e41415173"
    "7f0808087f 00417f4100 2040413f01 7f08142241 7f40404040 7f021c027f 7f0408107f 3e4141413e 7f09090906 3e4151215e"
    "7f09192946 2649494932 03017f0103 3f4040403f 1f2040201f 3f4038403f 6314081463 0304780403 6159494d43 007f414141"
    "0204081020 004141417f 0402010204 4040404040 0003070800 2054547840 7f28444438 3844444428 384444287f 3854545418"
    "00087e0902 18a4a49c78 7f08040478 00447d4000 2040403d00 7f10284400 00417f4000 7c04780478 7c08040478 3844444438"
    "fc18242418 18242418fc 7c08040408 4854545424 04043f4424 3c4040207c 1c2040201c 3c4030403c 4428102844 4c9090907c"
    "4464544c44 0008364100 0000770000 0041360800 0201020402"
)
"""Of ASCII from the space on: a byte for each column, its lowest bit at the top."""
_BOX: Final = bytes.fromhex("7f4141417f")


@final
class Raster:
    """Dots in rows from the top. Places and sizes in pixels; what is outside is not drawn.

    Args:
        width: of the picture.
        height: of the picture.
        ground: its colour, as ``#rrggbb``.

    Raises:
        ValueError: it would be too large.
    """

    def __init__(self, width: int, height: int, ground: str) -> None:
        if width < 1 or height < 1 or width * height > _MOST_PIXELS:
            raise ValueError(f"a picture of {width} x {height} pixels: at most {_MOST_PIXELS} are drawn")
        self.width = width
        self.height = height
        self._rows = [bytearray(_bytes(ground) * width) for _ in range(height)]

    def box(self, left: float, top: float, right: float, bottom: float, colour: str, opacity: float = 1) -> None:
        """Fill a rectangle."""
        start, end = max(0, round(left)), min(self.width, round(right))
        if start >= end:
            return
        paint, pixels = _bytes(colour), end - start
        for row in self._rows[max(0, round(top)) : max(0, round(bottom))]:
            under = bytes(row[3 * start : 3 * end]) if opacity != 1 else b""
            row[3 * start : 3 * end] = _mixed(under, paint, opacity) if under else paint * pixels

    def text(
        self, x: float, base: float, words: str, dot: int, colour: str, *, share: float = 0, bold: bool = False
    ) -> None:
        """Write words.

        Args:
            x: where they are.
            base: their base line.
            words: on one line.
            dot: how large one of a letter's dots is.
            colour: as of `box`.
            share: how much of them is left of `x`: 0.5 in the middle, 1 if they end there.
            bold: with strokes half as wide again.
        """
        shown = [letter for letter in normalize("NFKD", words) if not combining(letter)]
        x -= share * len(shown) * _ADVANCE * dot
        thick = dot + (dot + 1) // 2 * bold
        for letter in shown:
            place = _COLUMNS * (ord(letter) - _FIRST)
            columns = _LETTERS[place : place + _COLUMNS] if 0 <= place < len(_LETTERS) else _BOX
            for number, bits in enumerate(columns):
                for line in range(8):
                    if bits >> line & 1:
                        left, top = x + number * dot, base + (line - _BASE_LINE) * dot
                        self.box(left, top, left + thick, top + dot, colour)
            x += _ADVANCE * dot

    def png(self) -> bytes:
        """The file."""
        header = _HEADER.pack(self.width, self.height, _BITS, _TRUE_COLOUR, 0, 0, 0)
        lines = b"".join(b"\0" + row for row in self._rows)  # each begins with its filter, which is none
        return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")


@lru_cache(maxsize=64)
def _mixed(under: bytes, paint: bytes, opacity: float) -> bytes:
    """What is seen of pixels through a colour; most rows of what is drawn are like the one before."""
    above = paint * (len(under) // len(paint))
    return bytes(round(below + (over - below) * opacity) for below, over in zip(under, above, strict=True))


def _bytes(colour: str) -> bytes:
    return bytes.fromhex(colour.removeprefix("#"))


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
