"""What makes canisters and ends them: create, install, start, stop, uninstall-code, delete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import click

from perdure.cli.argument import MODULE, InputFile, argument_options, asked, extension_option, given, grouped
from perdure.cli.canister.settings import amounts
from perdure.cli.canister.state import State, canister_arguments, common, principal_of, say
from perdure.cli.progress import waiting
from perdure.cli.terminal import LAYOUT, printable
from perdure.cli.units import CYCLES
from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.project import ProjectCanister
    from perdure.subnet import Canister, Subnet

__all__ = [
    "How",
    "create",
    "delete",
    "install",
    "install_one",
    "module_of",
    "start",
    "stop",
    "uninstall_code",
]

_DEFAULT_CYCLES: Final = 100 * 10**12


@click.command()
@click.argument("name", required=False)
@click.option("--all", "every", is_flag=True, help="Every canister of the project that is not there yet.")
@click.option("--controller", "controllers", multiple=True, metavar="NAME|PRINCIPAL", help="Who controls it.")
@click.option("--cycles", "--with-cycles", type=CYCLES, default="100t", help="Its balance, such as 2t.")
@click.option("--specified-id", metavar="ID", help="Its id, by default the next free one.")
@click.option("--detached", is_flag=True, help="As in icp; one without a name is.")
@click.option("--subnet", "--next-to", hidden=True, help="As in icp and dfx; there is one subnet here.")
@click.option("--no-wallet", is_flag=True, hidden=True, help="As in dfx; there is no wallet here.")
@amounts
@common
def create(
    state: State,
    name: str | None,
    every: bool,
    controllers: tuple[str, ...],
    cycles: int,
    specified_id: str | None,
    detached: bool,
    subnet: str | None,
    no_wallet: bool,
    as_json: bool,
    quiet: bool,
    **settings: int | None,
) -> None:
    """Create a canister without code, with the settings that the project gives it.

    \b
    Example:
        perdure canister create ledger --cycles 2t --controller alice
        perdure canister create --all
    """  # noqa: D301
    if every and (name is not None or specified_id is not None):
        raise click.UsageError("--all goes with neither a name nor an id")
    if detached and (every or name is not None):
        raise click.UsageError("--detached is one without a name")
    with state.open(create=True) as opened:
        if every:
            made, failed = _create_missing(state, opened, controllers, cycles)
        else:
            made, failed = {name: _create(state, opened, name, controllers, cycles, specified_id)}, False
            state.configure(opened, [name] if name is not None else [])
        said = {setting: value for setting, value in settings.items() if value is not None}
        for one in made.values() if said else ():
            one.update_settings(**said)
    rows = [{"canister_id": str(one.id), "name": title} for title, one in made.items()]
    text = "\n".join(f"created {row['name'] or ''} {row['canister_id']}" for row in rows)
    say(as_json, quiet, rows if every else rows[0], text)
    if failed:
        raise click.exceptions.Exit(1)


def _of_project(state: State) -> list[str]:
    if state.project is None:
        raise click.UsageError("--all means the canisters of a project, and there is no icp.yaml or dfx.json here")
    return list(state.project.canisters)


def _create_missing(
    state: State, subnet: Subnet, controllers: tuple[str, ...] = (), cycles: int = _DEFAULT_CYCLES
) -> tuple[dict[str | None, Canister], bool]:
    """Make the project's canisters that are not there, with their settings; whether the project is wrong about one."""
    made: dict[str | None, Canister] = {}
    failed = False
    for name in _of_project(state):
        if name in state.names.ids:
            continue
        try:
            state.described(name)
            made[name] = _create(state, subnet, name, controllers, cycles)
            state.configure(subnet, [name])
        except PerdureError as error:
            failed = True
            click.echo(f"perdure: {name}: {printable(str(error), keep=LAYOUT)}", err=True)
    return made, failed


def _create(
    state: State,
    subnet: Subnet,
    name: str | None,
    controllers: tuple[str, ...] = (),
    cycles: int = _DEFAULT_CYCLES,
    specified_id: str | None = None,
) -> Canister:
    from perdure.ic.principal import Principal
    from perdure.project import check_name

    if name is not None and check_name(name) in state.names.ids:
        raise click.UsageError(f"canister {name!r} exists already: {state.names.ids[name]}")
    wanted = Principal.from_text(specified_id) if specified_id is not None else None
    try:
        made = subnet.create_canister(
            canister_id=wanted,
            controllers=[principal_of(one) for one in controllers or (state.identity,)],
            cycles=cycles,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if name is not None:
        state.names.ids[name] = str(made.id)
        state.names.save()
    return made


# -- install


@click.command()
@canister_arguments
@click.option(
    "-m",
    "--mode",
    type=click.Choice(["auto", "install", "reinstall", "upgrade"]),
    default="auto",
    help="auto: upgrade where there is code, install where there is none.",
)
@click.option("--wasm", type=MODULE, help="The module, gzip or not.")
@click.option("-c", "--candid", type=InputFile(), help="The .did file, of a module that does not have it.")
@argument_options
@click.option("--wasm-memory-persistence", type=click.Choice(["keep", "replace"]), help="What becomes of the heap.")
@click.option("--skip-pre-upgrade", is_flag=True, help="Do not run the old code's pre-upgrade hook.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a reinstallation.")
@click.option("--check/--no-check", default=True, help="Rehearse an upgrade first, and say what is found.")
@click.option("--upgrade-unchanged", is_flag=True, expose_value=False, hidden=True)  # dfx's; here it always does
@extension_option(
    "Rules beyond the network's, for this state directory from now on: schema refuses what stable.yaml rules out."
)
@common
def install(
    state: State,
    canisters: tuple[str, ...],
    every: bool,
    mode: str,
    wasm: Path | None,
    candid: Path | None,
    args: str | None,
    args_file: Path | None,
    args_format: str,
    wasm_memory_persistence: str | None,
    skip_pre_upgrade: bool,
    yes: bool,
    check: bool,
    extensions: tuple[str, ...],
    as_json: bool,
    quiet: bool,
) -> None:
    """Install a module on CANISTER, which is created if need be, or upgrade it.

    Without --wasm the module is the one that icp.yaml or dfx.json names; without these files, the one that was built
    under this name. The project's settings are set, and the ids of its canisters put into their environment variables
    as PUBLIC_CANISTER_ID:name.

    A module that does not say its methods may have a .did beside it or in its project. That, or the one of --candid, is
    remembered with the canister. What arguments are wanted is asked for, where somebody is there.

    \b
    Example:
        perdure canister install ledger --wasm ledger.wasm --args '(record { symbol = "TST" })'
        perdure canister install --all
    """  # noqa: D301
    if every == bool(canisters):
        raise click.UsageError("name canisters, or say --all")
    if (wasm is not None or candid is not None) and (every or len(canisters) != 1):
        raise click.UsageError(f"{'--candid' if wasm is None else '--wasm'} is of one canister")
    names = _of_project(state) if every else list(canisters)
    argument = given(args, args_file, args_format)
    rows, failed = [], False
    with state.open(create=True, extensions=extensions) as subnet:
        if every:
            # All of them are there before the first is installed, which may ask for the ids of the others.
            _, failed = _create_missing(state, subnet)
            names = [name for name in names if name in state.names.ids]
        for name in names:
            try:
                how = How(mode, wasm_memory_persistence, skip_pre_upgrade, yes, check, quiet or as_json)
                rows.append(install_one(state, subnet, name, how, wasm, candid, argument))
            except (PerdureError, OSError) as error:
                if not every:
                    raise
                failed = True
                click.echo(f"perdure: {name}: {printable(str(error), keep=LAYOUT)}", err=True)
    lines = [f"{row['mode']} {row['name']} {row['canister_id']}, module {row['module_hash'][:16]}" for row in rows]
    say(as_json, quiet, rows if every or len(rows) > 1 else rows[0], "\n".join(lines))
    if failed:
        raise click.exceptions.Exit(1)


class How(NamedTuple):
    """Options of an installation, whatever is installed."""

    mode: str
    wasm_memory_persistence: str | None
    skip_pre_upgrade: bool
    yes: bool
    check: bool
    quiet: bool


def install_one(
    state: State,
    subnet: Subnet,
    name: str,
    how: How,
    wasm: Path | None,
    candid: Path | None,
    argument: str | bytes | None,
) -> dict[str, str]:
    """Install or upgrade one canister, which is created if need be; what is said of it."""
    described, mode = state.described(name), how.mode
    wasm = wasm or module_of(state, name, described)
    candid = candid or (described.interface() if described is not None else None)
    target = state.find(subnet, name) if state.id_of(name) is not None else _create(state, subnet, name)
    state.configure(subnet, [name] if described is not None else [])
    if mode == "auto":
        mode = "install" if target.module is None else "upgrade"
    if mode == "reinstall" and not how.yes:
        click.confirm(f"Reinstalling {name} loses all of its memory. Go on?", abort=True, err=True)
    if argument is None and mode != "upgrade" and described is not None:
        argument = described.init_args()
    if isinstance(argument, str):
        argument = grouped(argument)
    try:
        if mode == "upgrade":
            from perdure.inspection.motoko import default_persistence  # an upgrade has it loaded

            persistence = how.wasm_memory_persistence or default_persistence(target)
            if how.check:
                with waiting(f"checking the upgrade of {printable(name)}", how.quiet):
                    _check(target, name, wasm, argument, persistence, how.skip_pre_upgrade)
            with waiting(f"upgrading {printable(name)}", how.quiet):
                target.upgrade(
                    wasm,
                    argument,
                    wasm_memory_persistence=persistence,
                    skip_pre_upgrade=how.skip_pre_upgrade,
                    candid=candid,
                )
        else:
            _put_on(target, name, how._replace(mode=mode), wasm, candid, argument)
    except ValueError as error:
        raise click.UsageError(f"{error}: pass --args") from error
    if not how.quiet:
        _say_source(target, name)
    module_hash = (target.status().module_hash or b"").hex()
    return {"canister_id": str(target.id), "name": name, "mode": mode, "module_hash": module_hash}


def module_of(state: State, name: str, described: ProjectCanister | None) -> Path:
    """The module that is meant where none is given."""
    from perdure.project import undescribed

    if described is not None:
        return described.wasm()
    if state.project is not None:
        listed = ", ".join(state.project.canisters) or "none"
        raise click.UsageError(
            f"{state.project.manifest.name} has no canister {name!r:.100}, it has {listed}: pass --wasm"
        )
    try:
        return undescribed(Path.cwd(), name).wasm()
    except PerdureError as error:
        raise click.UsageError(f"no project here says what {name!r:.100} is: pass --wasm; {error}") from error


def _put_on(
    target: Canister, name: str, how: How, wasm: Path, candid: Path | None, argument: str | bytes | None
) -> None:
    """Install or reinstall; what arguments it takes is asked for, where somebody is there."""
    from perdure.subnet.interface import ArgumentMissingError

    def put(argument: str | bytes | None) -> bool:
        with waiting(f"installing {printable(name)}", how.quiet):
            (target.reinstall if how.mode == "reinstall" else target.install)(wasm, argument, candid=candid)
        return True

    try:
        put(argument)
    except ArgumentMissingError as error:
        if asked(f"init takes {error.wanted}", lambda text: put(grouped(text))) is None:
            raise


def _say_source(target: Canister, name: str) -> None:
    """Say on standard error whose the canister's methods and types are, where they are not its module's."""
    from perdure.candid.service import OWN

    try:
        source = target.service().source
    except PerdureError:
        return
    if source and not source.startswith(OWN):
        click.echo(printable(f"methods and types of {name} are those of {source}"), err=True)


def _check(
    target: Canister,
    name: str,
    wasm: Path,
    argument: str | bytes | None,
    persistence: str | None,
    skip_pre_upgrade: bool,
) -> None:
    """Rehearse an upgrade on a fork, and say on standard error what was found; that never ends the upgrade."""
    from perdure.cli.terminal import printable

    try:
        options = {"wasm_memory_persistence": persistence, "skip_pre_upgrade": skip_pre_upgrade}
        report = target.check_upgrade(
            wasm, argument, title=name, tell=lambda text: click.echo(f"perdure: {text}", err=True), **options
        )
    except (PerdureError, ValueError, OSError) as error:
        click.echo(f"perdure: the upgrade of {name} could not be checked: {printable(str(error))}", err=True)
        return
    found = report.of("breaking", "not certain", "warning")
    if found:
        click.echo(printable(f"perdure: upgrade of {name}: {report.verdict}"), err=True)
    for one in found:
        where = f" ({one.where})" if one.where else ""
        click.echo(printable(f"  {one.severity}: {one.what}{where}{'; ' + one.remedy if one.remedy else ''}"), err=True)


# -- life


def _verb(name: str, done: str, act: Callable[[Canister], None], description: str) -> click.Command:
    """A command that does one thing to canisters."""

    def command(state: State, canisters: tuple[str, ...], every: bool, as_json: bool, quiet: bool) -> None:
        _each(state, canisters, every, done, act, as_json, quiet)

    command.__doc__ = f"{description}\n\n\b\nExample:\n    perdure canister {name} ledger\n"
    return click.command(name)(canister_arguments(common(command)))


def _each(
    state: State,
    canisters: tuple[str, ...],
    every: bool,
    done: str,
    act: Callable[[Canister], None],
    as_json: bool,
    quiet: bool,
) -> None:
    rows, lines = [], []
    if state.identity != "anonymous" and not quiet:
        click.echo(f"everybody may do this here: --identity {printable(state.identity)} makes no difference", err=True)
    with state.open() as subnet:
        for target in state.chosen(subnet, canisters, every):
            title = state.title(target)
            act(target)
            rows.append({"canister_id": str(target.id), "done": done})
            lines.append(f"{done} {title}")
    say(as_json, quiet, rows[0] if len(rows) == 1 else rows, "\n".join(lines))


start = _verb("start", "started", lambda target: target.start(), "Let CANISTER take calls again.")
stop = _verb("stop", "stopped", lambda target: target.stop(), "Let CANISTER take no more calls.")


@click.command("uninstall-code")
@canister_arguments
@click.option("-y", "--yes", is_flag=True, help="As in icp; nothing is asked.")
@common
def uninstall_code(
    state: State, canisters: tuple[str, ...], every: bool, yes: bool, as_json: bool, quiet: bool
) -> None:
    """Take code and memories of CANISTER away.

    \b
    Example:
        perdure canister uninstall-code ledger
    """  # noqa: D301
    _each(state, canisters, every, "uninstalled", lambda target: target.uninstall(), as_json, quiet)


@click.command()
@canister_arguments
@click.option("-y", "--yes", is_flag=True, help="As in dfx; nothing is asked.")
@click.option("--no-recover-cycles", "--no-withdrawal", is_flag=True, help="As in icp; cycles are burned.")
@common
def delete(
    state: State,
    canisters: tuple[str, ...],
    every: bool,
    yes: bool,
    no_recover_cycles: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Remove the stopped CANISTER for ever, its cycles too.

    \b
    Example:
        perdure canister delete ledger
    """  # noqa: D301

    def act(target: Canister) -> None:
        target.delete()
        if state.names.ids.pop(state.names.name_of(target.id) or "", None) is not None:
            state.names.save()

    _each(state, canisters, every, "deleted", act, as_json, quiet)
