"""The `perdure` command.

Commands are named in one table and imported when they are run, so that `perdure --help` costs an interpreter, click and
nothing else. Exit codes: 0 fine, 1 found something wrong or failed, 2 could not do it (bad usage included).
"""

from __future__ import annotations

import atexit
import codecs
import gc
import os
import sys
from contextlib import suppress
from io import StringIO, TextIOWrapper
from typing import NamedTuple, NoReturn, final

import click

from perdure.cli.interrupts import none_is_lost
from perdure.cli.lazy import Group, imported
from perdure.cli.terminal import LAYOUT, printable

__all__ = ["launch", "main"]

FAILED = 1
COULD_NOT = 2
INTERRUPTED = 130
_ESCAPED = "perdure-escaped"
NOBODY_READS = 141
"""As a shell reports what SIGPIPE ended: `perdure ... | head` is neither a finding nor a failure."""


class _Command(NamedTuple):
    place: str
    help: str


COMMANDS = {
    "demo": _Command("perdure.cli.demo:demo", "Retell the experiment: native stable memory beside host calls."),
    "run": _Command("perdure.cli.run:run", "Install a module on a fresh subnet and call its methods."),
    "fuzz": _Command("perdure.cli.fuzz:fuzz", "Call a module's methods with generated arguments until one breaks."),
    "bindgen": _Command("perdure.cli.bindgen:bindgen", "Write a Python module with a canister's methods and types."),
    "instrument": _Command("perdure.cli.instrument:instrument", "Rewrite a module and say what was added."),
    "bench": _Command("perdure.cli.bench:bench", "Run canbench's benchmarks, and compare them with earlier results."),
    "explain": _Command("perdure.cli.explanations:explain", "What an error's code means, and what to do."),
    "explain-cost": _Command("perdure.cli.explain:explain_cost", "What a call, an install, a day cost, line by line."),
    "coverage": _Command("perdure.cli.coverage:coverage", "See which functions and lines calls run."),
    "profile": _Command("perdure.cli.profile:profile", "Count instructions by function and call path, exactly."),
    "heatmap": _Command("perdure.cli.heatmap:heatmap", "Show which pages of memories messages read and write."),
    "canister": _Command("perdure.cli.canister:canister", "Create, install, call, inspect and control canisters."),
    "watch": _Command("perdure.cli.watch:watch", "Upgrade a canister whenever its module is built anew."),
    "serve": _Command("perdure.cli.serve:serve", "Serve canisters over HTTP to agents, browsers and icp."),
    "explore": _Command("perdure.cli.explore:explore", "Look at canisters, snapshots and dumps in a browser."),
    "network-launcher": _Command(
        "perdure.cli.launcher:network_launcher", "Run a local network for icp, whose state lasts."
    ),
    "upgrade-check": _Command("perdure.cli.upgrade:upgrade_check", "Rehearse an upgrade on real data: is it safe?"),
    "stable": _Command("perdure.cli.stable:stable", "Show, query, compare and check any stable memory."),
    "fleet": _Command("perdure.cli.fleet:fleet", "Check, query, bench or fuzz many canisters at once."),
    "memory": _Command("perdure.cli.memory:memory", "List, show, export and drop a canister's memories."),
    "cache": _Command("perdure.cli.cache:cache", "See, empty and bound the cache of compiled code."),
    "completion": _Command("perdure.cli.completion:completion", "Print what a shell reads to complete command lines."),
    "doctor": _Command("perdure.cli.doctor:doctor", "Look at what perdure stands on: kernel, disk, cache, extras."),
    "snapshot": _Command("perdure.cli.snapshot:snapshot", "Put snapshots into object storage, get them from there."),
    "state": _Command("perdure.cli.state:state", "Verify a state directory and read its history."),
}


@final
class _LazyGroup(Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return imported(COMMANDS[cmd_name].place) if cmd_name in COMMANDS else None

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
    # Ending, the interpreter looks for garbage, which is a sixth of a short command's time: nothing of it matters then.
    atexit.register(gc.freeze)
    codecs.register_error(_ESCAPED, _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_ESCAPED)  # what the terminal's character set has not ends no command
    try:
        with none_is_lost():
            code = _run()
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        text = StringIO()
        error.show(text)
        _say(text.getvalue())
        sys.exit(COULD_NOT)
    except (click.Abort, KeyboardInterrupt, EOFError) as error:
        if isinstance(error, click.Abort) and isinstance(error.__context__, EOFError):  # a question
            _say("\nperdure: nobody answers, standard input is at its end: --help names the options that answer\n")
            sys.exit(COULD_NOT)
        _say("interrupted\n")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.exit(_nobody_reads())
    except Exception as error:
        sys.exit(_explain(error))
    sys.exit(code if isinstance(code, int) else 0)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    r"""Letters that a stream has not, as JSON writes them, so that JSON stays JSON: ``\u00e9``, ``\ud83d\ude00``."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2)), error.end


def launch() -> NoReturn:
    """Entry point of `perdure-network-launcher`, which icp calls with nothing but options."""
    sys.argv.insert(1, "network-launcher")
    main()


def _run() -> object:
    """What the command line asks for. Not by click's own main, which tells nobody that nobody reads."""
    if "_PERDURE_COMPLETE" in os.environ:  # a shell wants to complete a line
        from perdure.cli.completing import use_own_scripts

        use_own_scripts()
        return perdure(prog_name="perdure", standalone_mode=False)
    with perdure.make_context("perdure", sys.argv[1:]) as context:
        found = perdure.invoke(context)
    if sys.stdout is not None:  # closed by whoever started us
        sys.stdout.flush()  # here, where what is wrong with it can be said
    return found


def _nobody_reads() -> int:
    """What is left in the buffers goes nowhere, and the interpreter says nothing of it; the exit code."""
    _drop_output()
    return NOBODY_READS


def _drop_output() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.close()


def _say(text: str) -> None:
    """Write to standard error what a terminal may show; where that is closed or full, the exit code has to do."""
    with suppress(OSError):
        click.echo(printable(text, keep=LAYOUT), err=True, nl=False)


def _is_utf8(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _more(error: Exception) -> str:
    """Where to read of an error that has a page of its own."""
    notes = getattr(error, "__notes__", ())
    return f"  {notes[0]}\n" if notes else ""


def _explain(error: Exception) -> int:
    """Say what went wrong on standard error; the exit code. Our own bugs keep their traceback."""
    from perdure.errors import InternalError, PerdureError, RejectError

    # Paths may be any bytes; what is meant as text may not, and whoever looked at it says so as of a bug in code.
    odd = next((one for one in sys.argv[1:] if not _is_utf8(one)), None) if isinstance(error, ValueError) else None
    if odd is None and (isinstance(error, InternalError) or not isinstance(error, PerdureError | OSError)):
        raise error
    # A number of the system's is nothing to act on, where its words are there and no file has to be named.
    words = error.strerror if isinstance(error, OSError) and error.strerror and error.filename is None else error
    _say(
        f"perdure: {words}\n{_more(error)}"
        if odd is None
        else f"perdure: argument {odd!r:.80} is no text in UTF-8: {error}\n"
    )
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # a full disk, say: what is left for it would fail again when Python ends
            with suppress(OSError, ValueError):
                stream.close()
    return FAILED if isinstance(error, RejectError) else COULD_NOT
