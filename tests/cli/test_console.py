"""What is printed for people: tables that fit, letters that a terminal has, colours where somebody wants them."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import sys
import termios

import pytest

from perdure.cli import console
from perdure.cli.console import Node, cells_of, clipped, columns_of, say, styled, table, tree


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
    table(("a", "b"), [], with_heading=False)
    assert capsys.readouterr().out == ""
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


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        *(("abc", 3), ("日本", 4), ("e\u0301", 1), ("é", 1), ("", 0)),
        *(
            ("नमस्ते", 4),
            ("สวัสดี", 4),
            ("a\u200db\ufe0f", 2),
            ("\u1112\u1161\u11ab", 2),
        ),  # marks, joiners, parts of Hangul
    ],
)
def test_places_of_a_text(text, cells):
    assert cells_of(text) == cells
    assert clipped(text + "x", cells or 1) == (text or "x")


def test_columns_too_many_for_a_terminal_are_lines(monkeypatch):
    """As psql's expanded display: neither numbers nor names are broken where the terminal would break them."""
    terminal = terminal_for(monkeypatch)
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("NO_COLOR", "1")
    rows = [("users", "1,000", "some words and more"), ("empty", "0", "")]
    table(("name", "entries", "note"), rows, right=("entries",), whole=("name",))
    lines = [
        "name     users",
        "entries  1,000",
        "note     some words",
        "         and more",
        "",
        "name     empty",
        "entries  0",
    ]
    assert terminal.written.splitlines() == lines


EVIL = "\x1b]0;title\x07\x9b31m\u202e\r\x08\x7f"


@pytest.mark.parametrize("show", ["table", "heading", "tree", "say", "styled"])
def test_no_text_is_obeyed_by_a_terminal(monkeypatch, show):
    terminal = terminal_for(monkeypatch)
    {
        "table": lambda: table(("a", "b"), [(EVIL, "\x1b[2Jx\ny")], right=("b",)),
        "heading": lambda: table((EVIL,), []),
        "tree": lambda: tree(Node(EVIL, [Node(EVIL, [])])),
        "say": lambda: say(styled("fine", "red") + EVIL),
        "styled": lambda: say(styled("\x1b[2J" + EVIL, "red")),
    }[show]()
    written = terminal.written
    for style in ("\x1b[31m", "\x1b[1m", "\x1b[0m"):
        written = written.replace(style, "")
    assert written.replace("\n", "").isprintable()
    assert "\\u{1b}" in written


def test_a_long_text_is_folded_in_one_walk(monkeypatch, capsys):
    """Half a million letters that are not ASCII: looking at what is left of them for each line would take hours."""
    monkeypatch.setattr(console, "_WIDE", 40)
    table(("text",), [("é" * 500_000,)])
    assert capsys.readouterr().out == "text\n" + ("é" * 40 + "\n") * 12_500


def test_columns_are_those_of_the_terminal_that_is_asked(monkeypatch):
    """Of standard error also where standard output is a pipe."""
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb"), os.fdopen(theirs, "w") as terminal:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 37, 0, 0))
        assert columns_of(terminal) == 37
        monkeypatch.setenv("COLUMNS", "21")
        assert columns_of(terminal) == 21
        monkeypatch.setenv("COLUMNS", "wide")
        assert columns_of(terminal) == 80
    assert columns_of(None) is columns_of(io.StringIO()) is None
