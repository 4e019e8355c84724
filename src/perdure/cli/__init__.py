"""The `perdure` command.

Commands are named in one table and imported when they are run, so that `perdure --help` costs an interpreter, click and
nothing else. Exit codes: 0 fine, 1 found something wrong or failed, 2 could not do it (bad usage included).
"""

from __future__ import annotations

import sys
from importlib import import_module
from io import StringIO
from typing import NamedTuple, NoReturn, final

import click

from perdure.cli.terminal import LAYOUT, printable

__all__ = ["main"]

FAILED = 1
COULD_NOT = 2


class _Command(NamedTuple):
    place: str
    help: str


COMMANDS = {
    "demo": _Command("perdure.cli.demo:demo", "Retell the experiment: native stable memory beside host calls."),
    "run": _Command("perdure.cli.run:run", "Install a module on a fresh subnet and call its methods."),
    "instrument": _Command("perdure.cli.instrument:instrument", "Rewrite a module and say what was added."),
    "canister": _Command("perdure.cli.canister:canister", "Create, install, call, inspect and control canisters."),
    "upgrade-check": _Command("perdure.cli.upgrade:upgrade_check", "Rehearse an upgrade on real data: is it safe?"),
    "stable": _Command("perdure.cli.stable:stable", "Show, query, compare and check any stable memory."),
    "state": _Command("perdure.cli.state:state", "Verify a state directory and read its history."),
}


@final
class _LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].place.partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.help) for name, command in COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perdure")
def perdure() -> None:
    """Run Internet Computer canisters with Wasm-native stable memory, and open the bytes they keep.

    \b
    Example:
        perdure run counter.wasm increment get
    """  # noqa: D301 - click wants the backspace itself


def main() -> NoReturn:
    """Entry point of the `perdure` command: errors become one clear line and an exit code."""
    try:
        code = perdure(prog_name="perdure", standalone_mode=False)
    except click.ClickException as error:
        text = StringIO()
        error.show(text)
        click.echo(printable(text.getvalue(), keep=LAYOUT), err=True, nl=False)
        sys.exit(COULD_NOT)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except Exception as error:
        sys.exit(_explain(error))
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> int:
    """Say what went wrong on standard error; the exit code. Our own bugs keep their traceback."""
    from perdure.errors import InternalError, PerdureError, RejectError

    if isinstance(error, InternalError) or not isinstance(error, PerdureError | OSError):
        raise error
    click.echo(f"perdure: {printable(str(error), keep=LAYOUT)}", err=True)
    return FAILED if isinstance(error, RejectError) else COULD_NOT
