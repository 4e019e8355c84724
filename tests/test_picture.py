"""Pictures: documents that read as XML, in the right places, for light paper and for dark."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from perdure.picture import Picture, Scale, Series, bars, clipped, document, lines

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
