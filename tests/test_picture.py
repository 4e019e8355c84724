"""Pictures: documents that read as XML, in the right places, for light paper and for dark."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest

from perdure.inspection.occupancy import draw_legend
from perdure.picture import PALETTE, Picture, Scale, Series, bars, clipped, document, lines

NAMES = {"svg": "http://www.w3.org/2000/svg"}


def texts(root: ElementTree.Element) -> list[str]:
    return ["".join(one.itertext()) for one in root.iterfind(".//svg:text", NAMES)]


def test_bars_are_as_long_as_what_they_stand_for_says():
    root = ElementTree.fromstring(bars({"a<b": {"x": 10, "y": 1_000}, "c": {"x": 0, "z": 100}}, "A & B", unit="us"))
    drawn = {
        one.find("svg:title", NAMES).text: float(one.get("width"))  # type: ignore[union-attr]
        for one in root.iterfind(".//svg:rect", NAMES)
        if one.find("svg:title", NAMES) is not None
    }
    whole = drawn["a<b, y: 1,000 us"]
    assert drawn["c, z: 100 us"] == pytest.approx(whole / 2, abs=0.2)
    assert (drawn["a<b, x: 10 us"], drawn["c, x: 0 us"]) == (2, 0)
    assert {"A & B", "a<b", "c", "x", "y", "z", "us"} <= set(texts(root))


def test_lines_go_through_their_points():
    series = [Series("one", [(10, 1.0), (1_000, 100.0)]), Series("two", [(10, 10.0), (100, 10.0)])]
    root = ElementTree.fromstring(lines(series, "Time", x="entries", unit="ms"))
    first, second = (
        [tuple(map(float, point.split(","))) for point in one.get("points", "").split()]
        for one in root.iterfind(".//svg:polyline", NAMES)
    )
    assert second[0][1] == second[1][1] == pytest.approx((first[0][1] + first[1][1]) / 2)
    assert second[1][0] == pytest.approx((first[0][0] + first[1][0]) / 2)
    assert {"Time", "entries", "ms", "one", "two", "10", "1,000"} <= set(texts(root))


def test_one_point_alone_is_drawn():
    assert "<circle" in lines([Series("one", [(1, 5.0)])], "t", x="x", unit="u", is_x_even=True)


def test_both_kinds_of_paper():
    made = document(10, 20, "<t>", [])
    assert "prefers-color-scheme:dark" in made
    assert "&lt;t&gt;" in made
    ElementTree.fromstring(made)


def test_scales_are_decades():
    assert Scale.of([3, 4]) == (0, 1)
    assert Scale.of([0.05, 1_000]) == (-2, 3)
    assert [*Scale(-1, 1).ticks()] == [0.1, 1, 10]
    assert Scale(0, 2).share(10) == 0.5


HOSTILE = [
    "</svg><script>alert(1)</script>",
    '" onload="x',
    "a\x00b\x1b[31m",
    "\ud800\ufffe",
    "]]>&amp;",
    "x" * 100_000,
    "\u202e",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_text(name: str) -> None:
    picture = Picture(name, 100, name)
    picture.text(1, 2, name)
    picture.box(1, 2, 3, 4, "read", title=name)
    drawn = picture.svg()
    root = ElementTree.fromstring(drawn)
    assert {one.tag.rpartition("}")[2] for one in root.iter()} == {"svg", "title", "style", "rect", "text"}
    assert not [key for one in root.iter() for key in one.attrib if key.startswith("on")]
    assert len(drawn) < 6_000
    ElementTree.fromstring(document(10, 20, name, []))
    ElementTree.fromstring(lines([Series(name, [(1, 5.0)])], name, x=name, unit=name))


def test_a_picture_is_whole_without_its_style() -> None:
    picture = Picture("what it is", 200, "three of four")
    picture.text(10, 20, "words")
    root = ElementTree.fromstring(picture.svg())
    assert (root.get("role"), root.get("aria-label")) == ("img", "what it is. three of four")
    assert [one.get("fill") for one in root.iterfind(".//svg:text", NAMES)] == ["#202124"]
    assert ".pd-ink{fill:" in root.findtext(".//svg:style", "", NAMES)


def test_what_does_not_fit_is_cut() -> None:
    assert clipped("short", 100) == "short"
    assert clipped("rather long a text", 60).endswith("…")
    assert clipped("none of it", 3) == ""


def pixels(png: bytes) -> list[bytes]:
    """The rows of a PNG as this project writes them: true colour, no filters."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(png):
        size, name = struct.unpack_from(">I4s", png, at)
        data = png[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", png, at + 8 + size)[0] == zlib.crc32(name + data)
        chunks[name] = data
        at += 12 + size
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *kind = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert kind == [8, 2, 0, 0, 0]
    whole, line = zlib.decompress(chunks[b"IDAT"]), 1 + 3 * width
    assert len(whole) == height * line
    assert not any(whole[::line])
    return [whole[at + 1 : at + line] for at in range(0, len(whole), line)]


def colour(rows: list[bytes], x: int, y: int) -> str:
    return f"#{rows[y][3 * x : 3 * x + 3].hex()}"


def test_a_png_has_boxes_where_the_drawing_has_them():
    picture = Picture("map", 40)
    picture.box(4, 2, 10, 6, PALETTE[0])
    picture.box(20, 2, 10, 6, "#000000", opacity=0.5)
    picture.box(30, -5, 90, 6, "#ff0000")  # past the edge
    rows = pixels(picture.png())
    assert (len(rows), len(rows[0])) == (2 * (8 + 12), 3 * 80)
    inside, outside = [(8, 4), (27, 15)], [(7, 4), (28, 15), (8, 3), (8, 16)]
    assert {colour(rows, *at) for at in inside} == {PALETTE[0]}
    assert {colour(rows, *at) for at in outside} == {"#ffffff"}
    assert colour(rows, 50, 8) == "#808080"
    assert [colour(rows, x, 0) for x in (59, 60, 79)] == ["#ffffff", "#ff0000", "#ff0000"]


def shown(words: str, anchor: str = "") -> Iterator[str]:
    picture = Picture("words", 40)
    picture.text(20 if anchor else 2, 10, words, colour="#000000", anchor=anchor)
    for row in pixels(picture.png())[::2]:
        yield "".join("#" if row[at : at + 3] == b"\0\0\0" else "." for at in range(0, len(row), 3 * 2))


def test_words_of_a_png_are_letters():
    drawn = [line[2:14] for line in shown("T!")][3:11]
    assert drawn == [
        "#####...#...",
        "#.#.#...#...",
        "..#.....#...",
        "..#.....#...",
        "..#.....#...",
        "..#.........",
        "..#.....#...",
        "............",
    ]


@pytest.mark.parametrize(("words", "like"), [("…", "..."), ("é", "e"), ("\x1b", "\x7f"), ("漢", "\x7f")])
def test_what_has_no_letter_is_decomposed_or_a_box(words: str, like: str):
    assert [*shown(words)] == [*shown(like)]


def test_no_more_words_are_drawn_than_the_document_has():
    def drawn(words: str) -> bytes:
        picture = Picture("words", 4_000)
        picture.text(2, 10, words)
        return picture.png()

    assert drawn("a" * 1_000_000) == drawn("a" * 199 + "…") != drawn("a" * 199)


def test_a_legend_of_very_many_is_a_picture_still():
    picture = Picture("map", 800)
    draw_legend(picture, [("ink", f"memory {number}") for number in range(100_000)])
    assert picture.png().startswith(b"\x89PNG")
    assert texts(ElementTree.fromstring(picture.svg()))[-2:] == ["memory 255", "and 99,744 more"]


def test_words_end_where_they_are_anchored():
    places = {
        anchor: [line.index("#") for line in shown("HH", anchor) if "#" in line] for anchor in ("", "middle", "end")
    }
    assert {min(found) for found in places.values()} == {2, 20 - 6, 20 - 12}


def test_a_file_is_what_its_name_says():
    picture = Picture("map", 20)
    picture.box(0, 0, 5, 5, "ink")
    assert picture.file(".svg").startswith(b"<svg")
    assert picture.file(".png").startswith(b"\x89PNG")
    with pytest.raises(ValueError, match=r"'.gif' is none of .svg, .png"):
        picture.file(".gif")


def test_a_picture_that_is_too_large_is_not_drawn():
    picture = Picture("map", 20_000)
    picture.reach(20_000)
    with pytest.raises(ValueError, match="40000 x 40024 pixels"):
        picture.png()
