"""The table of commands: no door onto nothing, help with an example for each, and all of it in the docs."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import click
import pytest

from perdure.cli import COMMANDS, perdure

ROOT = Path(__file__).parents[2]


def _tool():
    spec = importlib.util.spec_from_file_location("render_commands", ROOT / "tools/render_commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = _tool()
ALL = dict(TOOL.commands(perdure, "perdure"))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_entry_leads_to_a_command(name):
    assert isinstance(perdure.get_command(click.Context(perdure), name), click.Command)


@pytest.mark.parametrize("path", ALL)
def test_every_command_has_an_example_of_itself(path):
    lines = TOOL.example(ALL[path]).splitlines()
    assert lines, path
    assert all("perdure " in line for line in lines), lines  # a shell may have to evaluate what is printed
    assert any(line == path or f"{path} " in line for line in lines), lines


def test_the_docs_show_what_the_help_says():
    assert TOOL.PAGE.read_text(encoding="utf-8") == TOOL.render(), "run tools/render_commands.py"


def test_help_lists_what_is_there_and_nothing_else():
    out = subprocess.run([sys.executable, "-m", "perdure", "--help"], capture_output=True, text=True, check=True).stdout
    listed = [line.split()[0] for line in out.partition("Commands:")[2].splitlines() if line.startswith("  ")]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
    assert "upgrade-check" not in listed or "upgrade-check" in COMMANDS


def test_a_command_that_is_not_there_is_said_so():
    command = [sys.executable, "-m", "perdure", "no-such-command"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "No such command" in done.stderr, "Traceback" in done.stderr) == (2, True, False)


@pytest.mark.parametrize("name", ["canister", "stable", "state", "memory", "cache", "snapshot", "fleet"])
def test_every_group_says_which_command_may_be_meant(name):
    group = perdure.get_command(click.Context(perdure), name)
    assert isinstance(group, click.Group)
    context = click.Context(group)
    for known in group.list_commands(context):
        with pytest.raises(click.UsageError, match=r"No such command .*: did you mean '"):
            group.resolve_command(context, [known + "x"])
        nested = group.get_command(context, known)
        if isinstance(nested, click.Group):
            with pytest.raises(click.UsageError, match=r"expected one of: [a-z]"):
                nested.resolve_command(click.Context(nested), ["zzzzzz"])
    with pytest.raises(click.UsageError, match=r"expected one of: [a-z]"):
        group.resolve_command(context, ["zzzzzz"])


def test_the_command_itself_says_which_may_be_meant():
    with pytest.raises(click.UsageError, match="No such command 'stabel': did you mean 'stable'"):
        perdure.resolve_command(click.Context(perdure), ["stabel"])
