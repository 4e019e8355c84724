"""What is shown while something takes a while: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from pathlib import Path

import pytest

from perdure.cli import progress as shown
from perdure.cli.console import cells_of
from perdure.cli.progress import progress, waiting
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize("stream", [io.StringIO(), None])
def test_a_pipe_gets_nothing(stream, monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("exporting", 10, "rows") as tell:
        tell(10)
    assert stream is None or stream.getvalue() == ""


def test_a_terminal_that_takes_no_line_away_gets_none(monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "dumb")
    with progress("exporting", 10, "rows") as tell:
        tell(10)
    assert terminal.getvalue() == ""


def test_nothing_is_written_while_the_terminal_is_the_shells(monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setattr(terminal, "fileno", lambda: 2)
    monkeypatch.setattr(shown.os, "tcgetpgrp", lambda _: -1)
    with progress("exporting", 10, "rows") as tell:
        tell(10)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("what", ["exporting", "日本" * 20, "e\u0301" * 40])
def test_the_line_is_no_longer_than_the_terminal(monkeypatch, what):
    """One that is would be left behind: only its last part is taken away."""
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "20")
    with progress(what, 10, "rows") as tell:
        tell(10)
    lines = terminal.getvalue().split("\r\x1b[2K")
    assert max(map(cells_of, lines)) == 19 - ("日" in what)
    assert "\n" not in terminal.getvalue()


@pytest.mark.parametrize(("columns", "bar"), [(80, 30), (44, 8), (36, 0)])
def test_on_a_narrow_terminal_the_bar_gives_way_to_the_figures(monkeypatch, columns, bar):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", str(columns))
    with progress("exporting", 1000, "rows") as tell:
        tell(1000)
    assert terminal.getvalue().count("#") == bar
    assert "1,000/1,000 rows 0:00:00" in terminal.getvalue()


def test_a_terminal_gets_a_line_that_goes_away(monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("exporting", 10, "rows") as tell:
        tell(3)
        tell(4)
    written = terminal.getvalue()
    assert "exporting" in written
    assert "7/10" in written
    assert written.endswith("\x1b[2K")


def test_neither_what_is_quick_nor_what_is_quiet_says_anything(monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 3600)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with progress("exporting", None, "rows") as tell:
        tell(3)
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    with progress("exporting", None, "rows", quiet=True) as tell:
        tell(3)
    assert terminal.getvalue() == ""


@pytest.fixture
def dump(tmp_path):
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.text).update({1: "ada", 2: "bob"})
    (tmp_path / "dump.bin").write_bytes(memory.data)
    (tmp_path / "stable.yaml").write_text('memories: {"page:0": {name: users, kind: btreemap, key: u64, value: text}}')
    return "dump.bin"


def test_an_export_to_standard_output_is_nothing_else(perdure, dump):
    out, err = perdure("stable", "export", dump, "users", "-o", "-", "--format", "ndjson")
    assert [json.loads(line) for line in out.splitlines()] == [{"key": 1, "value": "ada"}, {"key": 2, "value": "bob"}]
    assert "users: 2 rows" in err
    out, _ = perdure("stable", "export", dump, "-o", "-", "--format", "csv", "--quiet")
    assert out == "key,value\n1,ada\n2,bob\n"
    _, err = perdure("stable", "export", dump, "-o", "-", "--format", "duckdb", code=2)
    assert "duckdb is a file that is written here and there, and no stream" in err
    _, err = perdure("stable", "export", dump, "-o", "-", code=2)
    assert "which --format? one of parquet, arrow, csv, ndjson, sqlite, duckdb" in err


@pytest.mark.parametrize(
    "name", ["users.arrow", "users.csv", "users.db", "users.duckdb", "users.jsonl", "users.parquet"]
)
def test_what_is_there_is_replaced_when_somebody_says_so(perdure, dump, name):
    Path(name).write_text("mine")
    _, err = perdure("stable", "export", dump, "-o", name, code=2)
    assert f"{name}: exists already: --overwrite replaces it" in err
    assert Path(name).read_text() == "mine"
    perdure("stable", "export", dump, "-o", name, "--overwrite")
    assert Path(name).read_bytes() != b"mine"


def test_what_is_waited_for_is_said_after_a_while(monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with waiting("checking"):
        until = time.monotonic() + 120
        while "checking" not in terminal.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    assert "checking" in terminal.getvalue()
    assert [one.name for one in threading.enumerate() if isinstance(one, threading.Timer)] == []


def test_waiting_says_nothing_of_what_is_quick_or_quiet_or_piped(monkeypatch):
    monkeypatch.setattr(shown, "_PATIENCE_SECONDS", 3600)
    for stream, quiet in ((Terminal(), False), (Terminal(), True), (io.StringIO(), False)):
        monkeypatch.setattr(sys, "stderr", stream)
        with waiting("checking", quiet):
            pass
        assert stream.getvalue() == ""
