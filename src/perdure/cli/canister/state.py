"""What the `perdure canister` commands share: the state directory, canisters by name, who calls, what is printed."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

import click

from perdure.cli.completing import methods_in, starting
from perdure.cli.lazy import collector_paused
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import LAYOUT, printable
from perdure.errors import MalformedError, PerdureError
from perdure.ic.principal import ANONYMOUS, Principal
from perdure.units import meant

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from perdure.project import Project, ProjectCanister
    from perdure.storage.names import Names
    from perdure.subnet import Canister, Subnet
    from perdure.subnet.changed_code import ChangedCode

__all__ = [
    "State",
    "as_json",
    "canister_argument",
    "canister_arguments",
    "common",
    "complete_method",
    "principal_of",
    "say",
    "selection",
]

P = ParamSpec("P")
R = TypeVar("R")


def say(as_json: bool, quiet: bool, value: object, text: str) -> None:
    """Print a value as JSON, or what people read of it, which `quiet` leaves out; canisters made up much of it."""
    if as_json:
        click.echo(json.dumps(value, indent=2))
    elif not quiet:
        click.echo(printable(text, keep=LAYOUT))


def as_json(value: object) -> Any:
    """A value in Python as JSON takes it: principals as text, bytes in hexadecimal."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@final
class State:
    """A state directory as a command sees it.

    Args:
        directory: where it is.
        project: the project around it, if there is one.
        identity: who calls and creates; whatever else is done, anybody may do here.
        trust_owner: write into it although it belongs to another user.
    """

    def __init__(
        self, directory: Path, project: Project | None, *, identity: str = "anonymous", trust_owner: bool = False
    ) -> None:
        self.directory = directory
        self.project = project
        self.identity = identity
        self.trust_owner = trust_owner

    @contextmanager
    def open(
        self,
        *,
        create: bool = False,
        changed_code: ChangedCode = "keep",
        extensions: Sequence[str] = (),
        production_key_names: bool = False,
    ) -> Iterator[Subnet]:
        """The subnet, for as long as the block.

        Args:
            create: make a state where there is none.
            changed_code: as for `Subnet`; who only looks changes nothing.
            extensions: as for `Subnet`.
            production_key_names: as for `SubnetConfig`.

        Raises:
            click.UsageError: there is none, and none was to be created.
            StorageError: it is in use, or cannot be read.
        """
        if not create:
            self._refuse_none()
        with collector_paused():
            from perdure.execution.config import SubnetConfig
            from perdure.subnet import Subnet

        with Subnet(
            self.directory,
            config=SubnetConfig(production_key_names=production_key_names),
            changed_code=changed_code,
            extensions=extensions,
            trust_owner=self.trust_owner,
        ) as subnet:
            yield subnet

    @contextmanager
    def look(self) -> Iterator[Subnet]:
        """The subnet as of the last commit, for as long as the block, for who only looks; it may be served meanwhile.

        Raises:
            click.UsageError: there is none.
            StorageError: it cannot be read.
        """
        self._refuse_none()
        with collector_paused():
            from perdure.subnet import Subnet

        with Subnet.read(self.directory) as subnet:
            yield subnet

    def _refuse_none(self) -> None:
        if not self.directory.exists():
            raise click.UsageError(f"no state in {self.directory}: `perdure canister install` begins one")

    @functools.cached_property
    def names(self) -> Names:
        """Canisters by name."""
        from perdure.storage.names import Names

        return Names(self.directory)

    def find(self, subnet: Subnet, canister: str) -> Canister:
        """The canister of this name or id.

        Raises:
            click.UsageError: there is none.
        """
        canister_id = self.id_of(canister)
        if canister_id is None:
            known = [*self.names.ids] or [str(one.id) for one in subnet.canisters[:10]]
            there = meant(canister, known) if known else "`perdure canister install` installs one"
            raise click.UsageError(f"no canister {canister!r:.100} in {self.directory}: {there}")
        try:
            return subnet.canister(canister_id)
        except KeyError as error:
            raise click.UsageError(f"no canister {canister} in {self.directory}") from error

    def chosen(self, subnet: Subnet, canisters: tuple[str, ...], every: bool) -> list[Canister]:
        """The canisters that were named, or all.

        Raises:
            click.UsageError: none was named, both were said, or there is no such canister.
        """
        if every == bool(canisters):
            raise click.UsageError("name canisters, or say --all")
        return [self.find(subnet, one) for one in canisters] if canisters else list(subnet.canisters)

    def id_of(self, canister: str) -> Principal | None:
        """The id that a name stands for, or that is written out."""
        text = os.environ.get(f"ICP_CLI_CID_{canister.upper().replace('-', '_')}") or self.names.ids.get(canister)
        try:
            return Principal.from_text(text or canister)
        except MalformedError:
            return None

    def ids(self, subnet: Subnet) -> dict[str, Principal]:
        """The canisters that have names and are there."""
        there = {one.id for one in subnet.canisters}
        found = {name: self.id_of(name) for name in self.names.ids}
        return {name: one for name, one in found.items() if one is not None and one in there}

    def title(self, canister: Canister) -> str:
        """The name of a canister, or its id."""
        return self.names.name_of(canister.id) or str(canister.id)

    def described(self, canister: str) -> ProjectCanister | None:
        """What the project says of a canister.

        Raises:
            MalformedError: what it says cannot be read.
        """
        if self.project is None or canister not in self.project.canisters:
            return None
        return self.project.canister(canister)

    def configure(self, subnet: Subnet, names: list[str]) -> None:
        """Give canisters what the project says of them, see `deployment.configure`."""
        if self.project is None:
            return
        from perdure.subnet.deployment import configure

        for one in configure(subnet, self.project, self.ids(subnet), names):
            click.echo(f"no canister yet: controller {one}, set when it is created", err=True)


def _share(ctx: click.Context, param: click.Parameter, value: object) -> None:
    if value and param.name is not None:
        ctx.meta[param.name] = value  # which the commands of a group share with it


def selection(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command or group the options that say which canisters are meant: icp's and dfx's, and `--state`."""
    options = [
        click.option(
            "--state",
            "state_path",
            type=LocalPath(path_type=Path),
            help="The state directory; the project's .perdure by default.",
        ),
        click.option(
            "-e",
            "--environment",
            envvar="ICP_ENVIRONMENT",
            metavar="NAME",
            help="The project's environment: its settings and arguments, and a state of its own, .perdure-NAME.",
        ),
        click.option(
            "-n",
            "--network",
            envvar=["ICP_NETWORK", "DFX_NETWORK"],
            metavar="NAME",
            help="Where canisters run: nothing but local, which is here.",
        ),
        click.option("--ic", is_flag=True, hidden=True),
        click.option(
            "--trust-owner",
            is_flag=True,
            expose_value=False,
            callback=_share,
            help="Write into a state directory that belongs to another user.",
        ),
        click.option(
            "--identity",
            "--impersonate",
            expose_value=False,
            callback=_share,
            metavar="NAME|PRINCIPAL",
            help="Who calls or creates: anonymous, a principal, or a name, which stands for a principal of its own. "
            "Other verbs are open to everybody here.",
        ),
        # icp's, for other networks than the one that is here.
        click.option("-k", "--root-key", expose_value=False, hidden=True),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def common(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `selection`, `--json` and `--quiet`; it gets a `State` as its first argument."""

    @selection
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="Print only what was asked for.")
    @functools.wraps(command)
    def wrapped(
        state_path: Path | None,
        environment: str | None,
        network: str | None,
        ic: bool,
        *args: object,
        **options: object,
    ) -> R:
        state = _state({"state_path": state_path, "environment": environment, "network": network, "ic": ic})
        return command(state, *args, **options)  # type: ignore[arg-type]

    return wrapped  # type: ignore[return-value]


def _state(selected: dict[str, Any]) -> State:
    """The state that options mean; what a command does not say its groups may, as in dfx."""
    context = click.get_current_context(silent=True)
    while context is not None:
        selected = {name: value or context.params.get(name) for name, value in selected.items()}
        context = context.parent
    network = "ic" if selected["ic"] else selected["network"]
    with collector_paused():
        from perdure.project import LOCAL, Project, check_name
    if network not in (None, LOCAL):
        raise click.UsageError(f"network {network!r:.60}: perdure runs canisters here and reaches no network; icp does")
    environment = selected["environment"] or LOCAL
    project = Project.find(Path.cwd(), check_name(environment, "environment"))
    path = selected["state_path"]
    if path is None:
        name = ".perdure" if environment == LOCAL else f".perdure-{environment}"
        path = (project.directory if project is not None else Path.cwd()) / name
    current = click.get_current_context(silent=True)
    shared = {} if current is None else current.meta
    identity, trust_owner = shared.get("identity", "anonymous"), "trust_owner" in shared
    return State(path, project, identity=identity, trust_owner=trust_owner)


def _completing(ctx: click.Context) -> State:
    return _state({name: ctx.params.get(name) for name in ("state_path", "environment", "network", "ic")})


def _complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        state = _completing(ctx)
        return starting({*state.names.ids, *(state.project.canisters if state.project else ())}, incomplete)
    except (PerdureError, click.UsageError):
        return []


def complete_method(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Methods of the command's CANISTER, as of the last commit, or of the module that the project has for it."""
    from perdure.inspection.state import open_canister

    canister = str(ctx.params.get("canister", ""))
    try:
        state = _completing(ctx)
        canister_id = state.id_of(canister)
        if canister_id is not None and state.directory.exists():
            with open_canister(state.directory, str(canister_id)) as source:
                return starting(source.methods(), incomplete)
        described = state.described(canister)
        return [] if described is None else starting(methods_in(described.wasm().read_bytes()), incomplete)
    except (PerdureError, OSError, click.UsageError):
        return []


def canister_argument(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command its argument CANISTER, a name or an id, which shells complete."""
    return click.argument("canister", shell_complete=_complete)(command)


def canister_arguments(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command arguments CANISTER, names or ids, and `--all`."""
    command = click.option("--all", "every", is_flag=True, help="All canisters.")(command)
    return click.argument("canisters", nargs=-1, metavar="[CANISTER]...", shell_complete=_complete)(command)


def principal_of(text: str) -> Principal:
    """Somebody: ``anonymous``, a principal, or any other name, which stands for a principal of its own."""
    if text == "anonymous":
        return ANONYMOUS
    try:
        return Principal.from_text(text)
    except MalformedError:
        return Principal.self_authenticating(text.encode())
