"""`perdure canister settings`, and what else changes a canister without its code: top-up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from perdure.cli.canister.state import State, canister_argument, canister_arguments, common, principal_of, say
from perdure.cli.canister.state import as_json as json_of
from perdure.cli.lazy import Group
from perdure.cli.units import CYCLES, DURATION, SIZE
from perdure.ic.principal import Principal
from perdure.units import show_bytes, show_cycles

if TYPE_CHECKING:
    from perdure.subnet import Canister

__all__ = ["amounts", "deposit_cycles", "settings", "top_up", "update", "update_alias"]


P = ParamSpec("P")
R = TypeVar("R")


@click.group(cls=Group)
def settings() -> None:
    """Show or change settings."""


@settings.command()
@canister_argument
@click.option("-i", "--id-only", is_flag=True, help="Print the id alone.")
@common
def show(state: State, canister: str, id_only: bool, as_json: bool, quiet: bool) -> None:
    """Show the settings of CANISTER.

    \b
    Example:
        perdure canister settings show ledger
    """  # noqa: D301
    with state.look() as subnet:
        target = state.find(subnet, canister)
        if id_only:
            click.echo(str(target.id))
            return
        found = json_of(target.settings())
    say(as_json, False, found, "\n".join(f"{name}: {_SHOWN.get(name, str)(found[name])}" for name in sorted(found)))


def _variables_text(variables: list[dict[str, str]]) -> str:
    return ", ".join(f"{one['name']}={one['value']}" for one in variables) or "none"


def _visibility_text(visibility: dict[str, Any]) -> str:
    ((kind, viewers),) = visibility.items()
    return f"{kind} {' '.join(viewers)}" if viewers else str(kind)


_SHOWN: Final[dict[str, Callable[[Any], str]]] = {
    "compute_allocation": lambda value: f"{value} %",
    "controllers": " ".join,
    "environment_variables": _variables_text,
    "freezing_threshold": lambda value: f"{value} seconds",
    "log_memory_limit": show_bytes,
    "log_visibility": _visibility_text,
    "memory_allocation": show_bytes,
    "minimum_incoming_canister_call_cycles": show_cycles,
    "reserved_cycles_limit": show_cycles,
    "snapshot_visibility": _visibility_text,
    "status_visibility": _visibility_text,
    "wasm_memory_limit": show_bytes,
    "wasm_memory_threshold": show_bytes,
}


@settings.command()
@click.argument("canisters", nargs=-1, metavar="[CANISTER]...")
@common
def sync(state: State, canisters: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Set what the project's manifest says of canisters, of all of the project that are there if none is named.

    \b
    Example:
        perdure canister settings sync ledger
    """  # noqa: D301
    if state.project is None:
        raise click.UsageError("no icp.yaml or dfx.json here says any settings")
    with state.open() as subnet:
        names = list(canisters) or [one for one in state.ids(subnet) if one in state.project.canisters]
        for name in names:
            state.find(subnet, name)
            state.project.canister(name)
        state.configure(subnet, names)
    say(as_json, quiet, {"synced": names}, f"set what {state.project.manifest.name} says of {', '.join(names)}")


_AMOUNTS: Final[dict[str, dict[str, Any]]] = {
    "--compute-allocation": {
        "type": click.IntRange(0, 100),
        "metavar": "PERCENT",
        "help": "Of a core, set aside for it and paid for.",
    },
    "--memory-allocation": {"type": SIZE, "help": "Memory set aside for it and paid for; 0: what it uses."},
    "--freezing-threshold": {"type": DURATION, "help": "For how long its cycles have to last, else it is frozen."},
    "--reserved-cycles-limit": {"type": CYCLES, "help": "How many may be reserved for memory on a full subnet."},
    "--wasm-memory-limit": {"type": SIZE, "help": "How large its heap may become by updates."},
    "--wasm-memory-threshold": {"type": SIZE, "help": "How little room below that limit calls its hook."},
    "--log-memory-limit": {"type": SIZE, "help": "How much of its log is kept."},
}


def amounts(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command an option for each setting that is a number, by the setting's name."""
    for name, option in reversed(_AMOUNTS.items()):
        command = click.option(name, **option)(command)
    return command


def _update_options(name: str, example: str) -> Callable[[Callable[..., None]], click.Command]:
    several: dict[str, Any] = {"multiple": True, "metavar": "NAME|PRINCIPAL"}
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option("--add-controller", "added", help="One more.", **several),
        click.option("--remove-controller", "removed", help="One less.", **several),
        click.option("--set-controller", "controllers", help="These, and no others.", **several),
        amounts,
        click.option("--log-visibility", type=click.Choice(["controllers", "public"]), help="Who may read its log."),
        click.option("--add-log-viewer", "added_viewers", help="One more who may read its log.", **several),
        click.option("--remove-log-viewer", "removed_viewers", help="One less.", **several),
        click.option("--set-log-viewer", "viewers", help="These, and no others, beside controllers.", **several),
        click.option("--add-environment-variable", "variables", multiple=True, metavar="NAME=VALUE", help="Set it."),
        click.option(
            "--remove-environment-variable", "removed_variables", multiple=True, metavar="NAME", help="Forget it."
        ),
        click.option("-y", "--yes", "-f", "--force", "yes", is_flag=True, help="As in icp; nothing is asked."),
        *(
            click.option(f"--confirm-very-{length}-freezing-threshold", is_flag=True, expose_value=False, hidden=True)
            for length in ("long", "short")  # dfx's
        ),
    ]

    def made(command: Callable[..., None]) -> click.Command:
        command = common(command)
        for option in reversed(options):
            command = option(command)
        help_ = (
            "Change settings of CANISTER; sizes, cycles and durations take units: 2gib, 5t, 30d.\n\n"
            f"\b\nExample:\n    perdure canister {example} ledger --add-controller alice --freezing-threshold 90d"
        )
        return click.command(name, help=help_)(canister_arguments(command))

    return made


def _update(
    state: State,
    canisters: tuple[str, ...],
    every: bool,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    controllers: tuple[str, ...],
    log_visibility: str | None,
    added_viewers: tuple[str, ...],
    removed_viewers: tuple[str, ...],
    viewers: tuple[str, ...],
    variables: tuple[str, ...],
    removed_variables: tuple[str, ...],
    yes: bool,
    as_json: bool,
    quiet: bool,
    **amounts: int | None,
) -> None:
    if log_visibility is not None and (added_viewers or removed_viewers or viewers):
        raise click.UsageError("--log-visibility goes with no log viewers, which are a visibility of their own")
    said = {name: value for name, value in amounts.items() if value is not None}
    with state.open() as subnet:
        done: dict[str, Any] = {}
        for target in state.chosen(subnet, canisters, every):
            changes: dict[str, Any] = dict(said)
            if added or removed or controllers:
                changes["controllers"] = _principals(target.status().controllers, controllers, added, removed)
            if log_visibility is not None:
                changes["log_visibility"] = {log_visibility: None}
            if added_viewers or removed_viewers or viewers:
                before = target.settings()["log_visibility"].get("allowed_viewers") or ()
                changes["log_visibility"] = {
                    "allowed_viewers": _principals(before, viewers, added_viewers, removed_viewers)
                }
            if variables or removed_variables:
                changes["environment_variables"] = _variables(target, variables, removed_variables)
            if not changes:
                raise click.UsageError("nothing to change: name a setting")
            target.update_settings(**changes)
            done[state.title(target)] = json_of(changes)
    lines = [f"changed {', '.join(changes)} of {title}" for title, changes in done.items()]
    say(as_json, quiet, done if every or len(done) != 1 else next(iter(done.values())), "\n".join(lines))


update = _update_options("update", "settings update")(_update)
settings.add_command(update)
update_alias = _update_options("update-settings", "update-settings")(_update)


def _principals(
    before: tuple[Principal, ...] | list[Principal],
    instead: tuple[str, ...],
    added: tuple[str, ...],
    removed: tuple[str, ...],
) -> list[Principal]:
    kept = [principal_of(one) for one in instead] or list(before)
    gone = {principal_of(one) for one in removed}
    wanted = dict.fromkeys((*kept, *(principal_of(one) for one in added)))
    return [one for one in wanted if one not in gone]


def _variables(target: Canister, added: tuple[str, ...], removed: tuple[str, ...]) -> list[dict[str, str]]:
    known = {one["name"]: one["value"] for one in target.settings()["environment_variables"]}
    missing = [name for name in removed if name not in known]
    if missing:
        raise click.UsageError(f"no environment variable {missing[0]!r:.100}, there is {', '.join(known) or 'none'}")
    known.update(_variable(one) for one in added)
    return [{"name": name, "value": value} for name, value in known.items() if name not in removed]


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"{text!r} is no NAME=VALUE")
    return name, value


# -- cycles


@click.command("top-up")
@canister_argument
@click.option("--amount", type=CYCLES, required=True, help="Cycles to add, such as 2t.")
@common
def top_up(state: State, canister: str, amount: int, as_json: bool, quiet: bool) -> None:
    """Add cycles to CANISTER.

    \b
    Example:
        perdure canister top-up ledger --amount 2t
    """  # noqa: D301
    _add_cycles(state, (canister,), False, amount, as_json, quiet)


@click.command("deposit-cycles")
@click.argument("amount", type=CYCLES)
@click.argument("canisters", nargs=-1, metavar="[CANISTER]...")
@click.option("--all", "every", is_flag=True, help="All canisters.")
@common
def deposit_cycles(
    state: State, amount: int, canisters: tuple[str, ...], every: bool, as_json: bool, quiet: bool
) -> None:
    """Add cycles to CANISTER, as dfx says it; `top-up` is icp's way.

    \b
    Example:
        perdure canister deposit-cycles 2t ledger
    """  # noqa: D301
    _add_cycles(state, canisters, every, amount, as_json, quiet)


def _add_cycles(state: State, canisters: tuple[str, ...], every: bool, amount: int, as_json: bool, quiet: bool) -> None:
    with state.open() as subnet:
        balances = {state.title(one): one.add_cycles(amount) for one in state.chosen(subnet, canisters, every)}
    lines = [f"{name} has {show_cycles(balance)} cycles" for name, balance in balances.items()]
    value: Any = balances if every or len(balances) > 1 else {"cycles": next(iter(balances.values()))}
    say(as_json, quiet, value, "\n".join(lines))
