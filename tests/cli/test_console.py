"""What is printed for people: tables that fit, letters that a terminal has, colours where somebody wants them."""

from __future__ import annotations

import io
import sys

import pytest

from perdure.cli import console
from perdure.cli.console import Node, cells_of, say, styled, table, tree


class Terminal(io.TextIOWrapper):
    """A terminal, and what was written to it."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def written(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


def terminal_for(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard output as one; from within the test, as pytest puts its own in place before."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", found := Terminal())
    return found


@pytest.mark.parametrize("name", ["NO_COLOR", "TERM"])
def test_colours_are_for_terminals_of_those_who_want_them(monkeypatch, capsys, name):
    terminal = terminal_for(monkeypatch)
    say(styled("much", "red") + styled(" more", "bold") + styled("", "dim") + styled(" less", ""))
    assert terminal.written.startswith("\x1b[31mmuch\x1b[0m\x1b[1m more\x1b[0m")
    monkeypatch.setenv(name, "dumb")
    say(styled("plain", "red"))
    assert terminal.written.endswith("less\nplain\n")
    monkeypatch.undo()
    say(styled("piped", "red"))
    assert capsys.readouterr().out == "piped\n"


@pytest.mark.parametrize("width", [30, 50, 80])
def test_a_table_is_no_wider_than_the_terminal(monkeypatch, width):
    terminal = terminal_for(monkeypatch)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    table(("name", "size", "note"), [("users", "128.0 KiB", "many words " * 9), ("x" * 99, "1", "")], right=("size",))
    lines = terminal.written.splitlines()
    assert all(cells_of(line) <= width and line == line.rstrip() for line in lines)
    words = " ".join(lines).split()
    assert words.count("many") == words.count("words") == 9
    assert "".join(words).count("x") == 99
    assert sum("128.0 KiB" in line for line in lines) == 1  # a number is whole


def test_numbers_stand_at_the_right_and_nothing_is_narrower_than_can_be_read(capsys, monkeypatch):
    table(("name", "n"), [("one", "1"), ("日本", "1,000"), ("", "")], right=("n",))
    assert capsys.readouterr().out == "name      n\none       1\n日本  1,000\n\n"
    table(("a", "b"), [("1", "2")], with_heading=False)
    assert capsys.readouterr().out == "1  2\n"
    table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"
    monkeypatch.setattr(console, "_WIDE", 1)
    table(("long heading", "other"), [("wordswords", "2")])
    assert capsys.readouterr().out == "long      other\nheading\nwordswor  2\nds\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_tree_is_drawn_in_letters_that_there_are(monkeypatch, encoding):
    monkeypatch.setattr(sys, "stdout", terminal := Terminal(encoding))
    tree(Node("root", [Node("a", [Node("b", [])]), Node("c", [Node("d", [])])]))
    drawn = "root\n├── a\n│   └── b\n└── c\n    └── d\n"
    plain = drawn.replace("├", "+").replace("└", "`").replace("─", "-").replace("│", "|")
    assert terminal.written == (drawn if encoding == "utf-8" else plain)


@pytest.mark.parametrize(("text", "cells"), [("abc", 3), ("日本", 4), ("e\u0301", 1), ("é", 1), ("", 0)])
def test_places_of_a_text(text, cells):
    assert cells_of(text) == cells
