"""`perdure fuzz`: any module's methods under generated calls, until one breaks it."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import click

from perdure.cli.argument import MODULE, InputFile, extension_option
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import LAYOUT, printable
from perdure.errors import MalformedError, RejectError, UnsupportedError
from perdure.ic.reject import ErrorCode

if TYPE_CHECKING:
    from perdure.kit.machine import CanisterMachine
    from perdure.subnet import Canister, Subnet

__all__ = ["fuzz"]

_STORY = Path("test_found.py")


@click.command()
@click.argument("module", type=MODULE)
@click.option("--init", default=None, metavar="(CANDID)", help="Argument of canister_init.")
@click.option("-c", "--candid", type=InputFile(), help="The .did file, of a module that does not have it.")
@extension_option()
@click.option("--method", "pattern", default=".*", metavar="REGEX", help="Whole names of the methods that are called.")
@click.option("--examples", type=click.IntRange(1), default=200, show_default=True, help="How many stories are tried.")
@click.option("--steps", type=click.IntRange(1), default=30, show_default=True, help="How long the longest is.")
@click.option("--seed", type=int, default=0, show_default=True, help="Another seed tries others.")
@click.option("--no-guide", is_flag=True, help="Do not try again, in part and in order, calls that ran new code.")
@click.option("--no-upgrade", is_flag=True, help="Do not upgrade the canister to MODULE between calls.")
@click.option("--trap-is-fault", is_flag=True, help="Count `ic0.trap` and panics too, by which many canisters refuse.")
@click.option(
    "-o",
    "--output",
    type=LocalPath(dir_okay=False, path_type=Path),
    default=_STORY,
    show_default=True,
    help="The test that is written of what breaks it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def fuzz(
    module: Path,
    init: str | None,
    candid: Path | None,
    extensions: tuple[str, ...],
    pattern: str,
    examples: int,
    steps: int,
    seed: int,
    no_guide: bool,
    no_upgrade: bool,
    trap_is_fault: bool,
    output: Path,
    as_json: bool,
    quiet: bool,
) -> int:
    """Call the methods of MODULE with arguments of their Candid types, in many short stories, until one breaks it.

    A canister breaks that traps (but for `ic0.trap`), runs out of instructions or memory, does not reply, replies what
    is not of its type, or cannot be upgraded to itself. Coverage guides what is tried: calls that ran new code come
    again, in part and in order. The shortest story that breaks it is written as a test, and the exit code is 1. Needs
    the extra "fuzz".

    \b
    Example:
        perdure fuzz ledger.wasm --init '(record { supply = 1_000 })' --examples 1000
    """  # noqa: D301 - click wants the backspace itself
    found = _fuzzed(module, init, pattern, upgrades=not no_upgrade, trap_is_fault=trap_is_fault)
    found.machine.candid, found.machine.guided, found.machine.extensions = candid, not no_guide, extensions
    _check(found.machine)
    error = _run(found.machine, examples, steps, seed)
    if error is not None:
        output.write_text(found.story, encoding="utf-8", errors="backslashreplace")
    _report(found, error, output, as_json=as_json, quiet=quiet)
    return 0 if error is None else 1


@dataclass
class _Found:
    """A machine for the module, and what its examples came to."""

    machine: type[CanisterMachine]
    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often an action ended in which way: ``replied``, or an error code."""
    story: str = ""
    """The last that failed: the shortest one, when all is over."""


def _fuzzed(module: Path, init: str | None, pattern: str, *, upgrades: bool, trap_is_fault: bool) -> _Found:
    try:
        from perdure.kit.machine import CanisterMachine
    except ModuleNotFoundError as error:
        raise UnsupportedError('generated calls need the extra "fuzz": pip install "perdure[fuzz]"').coded(
            "extra-missing"
        ) from error

    class Fuzz(CanisterMachine):
        methods = pattern
        upgrade_to = module if upgrades else None
        upgrade_arg = init
        allowed = CanisterMachine.allowed - ({ErrorCode.CANISTER_CALLED_TRAP.text} if trap_is_fault else set())
        found_in: ClassVar[Path | None] = None

        @classmethod
        def install(cls, subnet: Subnet) -> Canister:
            return subnet.install(module, init)

        @classmethod
        def head(cls) -> list[str]:
            given = "" if init is None else f", {init!r}"
            return [f"canister = subnet.install({str(module)!r}{given})"]

        def teardown(self) -> None:
            found.outcomes.update((step.action, step.outcome) for step in self.steps)
            super().teardown()

        def keep(self, story: str) -> None:
            found.story = story

    found = _Found(Fuzz)
    return found


def _check(machine: type[CanisterMachine]) -> None:
    """End here for what is wrong with the module, its argument or the pattern, and not within examples."""
    try:
        re.compile(machine.methods)
        machine().teardown()
    except re.error as error:
        raise click.UsageError(f"--method {machine.methods!r} is no regular expression: {error}") from error
    except ValueError as error:
        raise click.UsageError(f"{error}: see --init and --method") from error
    except UnsupportedError as error:
        raise click.UsageError(str(error).replace("candid='service.did'", "--candid service.did")) from error


def _run(machine: type[CanisterMachine], examples: int, steps: int, seed: int) -> Exception | None:
    """What the shortest failing example ended in; `None`: none failed."""
    from hypothesis import HealthCheck, Phase, Verbosity, settings
    from hypothesis import seed as seeded
    from hypothesis.stateful import run_state_machine_as_test

    options = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=False,
        verbosity=Verbosity.quiet,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    try:
        run_state_machine_as_test(seeded(seed)(machine), settings=options)
    except (RejectError, MalformedError) as error:
        return error
    return None


def _report(found: _Found, error: Exception | None, output: Path, *, as_json: bool, quiet: bool) -> None:
    rows = sorted((action, outcome, count) for (action, outcome), count in found.outcomes.items())
    if as_json:
        calls = [{"action": action, "outcome": outcome, "count": count} for action, outcome, count in rows]
        failure = None if error is None else {"error": str(error), "file": str(output)}
        click.echo(json.dumps({"calls": calls, "found": failure}, indent=2))
        return
    if not quiet:
        width = max((len(action) for action, _, _ in rows), default=0)
        for action, outcome, count in rows:
            click.echo(printable(f"{action:<{width}}  {outcome:<8}  {count:>8,}"))
    if error is not None:
        click.echo(printable(f"{error}\nthe shortest story that ends so is a test: {output}", keep=LAYOUT), err=True)
