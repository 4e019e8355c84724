"""Render docs/commands.md: every command, its first sentence and its example, as its help has them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from perdure.cli import perdure

PAGE = Path(__file__).parent.parent / "docs/commands.md"
HEAD = """# Commands

Rendered by `tools/render_commands.py` from what `--help` says; each command has more options there. Exit codes: 0 fine,
1 found something wrong or failed, 2 could not do it. `docs/canister.md` and `docs/stable.md` tell more;
`docs/json.md` has what they print with `--json`.
"""


def commands(group: click.Group, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}", command


def example(command: click.Command) -> str:
    """The command lines under Example: in its help."""
    text = (command.help or "").partition("Example:")[2]
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def render() -> str:
    """The page."""
    parts = [HEAD]
    for path, command in commands(perdure, "perdure"):
        first = " ".join((command.help or "").split("\n\n")[0].split())
        indented = "\n".join(f"    $ {line}" for line in example(command).splitlines())
        parts.append(f"## `{path}`\n\n{first}\n\n{indented}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE} written\n")
