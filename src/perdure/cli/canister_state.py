"""What the `perdure canister` commands share: the state directory, canisters by name, who calls."""

from __future__ import annotations

import functools
import gc
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

import click
from click.shell_completion import CompletionItem

from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import ANONYMOUS, Principal

if TYPE_CHECKING:
    from perdure.subnet import Canister, Subnet
    from perdure.subnet.project import Project, ProjectCanister

__all__ = ["Names", "State", "canister_argument", "common", "identity", "principal_of"]

P = ParamSpec("P")
R = TypeVar("R")


@final
class Names:
    """Canister ids by name, in a file of the state directory.

    Args:
        directory: of the state.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "names.json"
        self.ids: dict[str, str] = self._load()

    def _load(self) -> dict[str, str]:
        try:
            content = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError, OSError) as error:
            raise StorageError(f"cannot be read: {error}", self._file) from error
        if not isinstance(content, dict) or not all(isinstance(one, str) for one in content.values()):
            raise StorageError("expected a mapping from names to canister ids", self._file)
        return content

    def save(self) -> None:
        """Write the file, whole or not at all."""
        draft = self._file.with_name("names.json.partial")
        draft.write_text(json.dumps(self.ids, indent=1) + "\n", encoding="utf-8")
        draft.replace(self._file)

    def name_of(self, canister_id: Principal) -> str | None:
        """The name of a canister, if it has one."""
        text = str(canister_id)
        return next((name for name, one in self.ids.items() if one == text), None)


@final
class State:
    """A state directory as a command sees it.

    Args:
        directory: where it is.
        project: the project around it, if there is one.
    """

    def __init__(self, directory: Path, project: Project | None) -> None:
        self.directory = directory
        self.project = project

    @contextmanager
    def open(self, *, create: bool = False) -> Iterator[Subnet]:
        """The subnet, for as long as the block.

        Raises:
            click.UsageError: there is none, and none was to be created.
            StorageError: it is in use, or cannot be read.
        """
        if not create and not self.directory.exists():
            raise click.UsageError(f"no state in {self.directory}: `perdure canister install` begins one")
        from perdure.subnet import Subnet

        with Subnet(self.directory) as subnet:
            yield subnet

    @functools.cached_property
    def names(self) -> Names:
        """Canisters by name."""
        return Names(self.directory)

    def find(self, subnet: Subnet, canister: str) -> Canister:
        """The canister of this name or id.

        Raises:
            click.UsageError: there is none.
        """
        canister_id = self.id_of(canister)
        if canister_id is None:
            known = ", ".join(self.names.ids) or "none"
            raise click.UsageError(f"no canister {canister!r} in {self.directory}, there is {known}")
        try:
            return subnet.canister(canister_id)
        except KeyError as error:
            raise click.UsageError(f"no canister {canister} in {self.directory}") from error

    def id_of(self, canister: str) -> Principal | None:
        """The id that a name stands for, or that is written out."""
        text = os.environ.get(f"ICP_CLI_CID_{canister.upper().replace('-', '_')}") or self.names.ids.get(canister)
        try:
            return Principal.from_text(text or canister)
        except MalformedError:
            return None

    def described(self, canister: str) -> ProjectCanister | None:
        """What the project says of a canister."""
        return self.project.canisters.get(canister) if self.project is not None else None


def common(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--state`, `--json` and `--quiet`; it gets a `State` as its first argument."""

    @click.option(
        "--state",
        "state_path",
        type=click.Path(path_type=Path),
        help="The state directory; the project's .perdure by default.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
    @click.option("-q", "--quiet", is_flag=True, help="Print only what was asked for.")
    @functools.wraps(command)
    def wrapped(state_path: Path | None, *args: Any, **options: Any) -> R:
        return command(_state(state_path), *args, **options)  # type: ignore[arg-type]

    return wrapped  # type: ignore[return-value]


@contextmanager
def _collector_paused() -> Iterator[None]:
    """For imports: what they make stays, and looking for garbage among it is a tenth of a short command's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _state(path: Path | None) -> State:
    with _collector_paused():
        from perdure.subnet.project import Project

    project = Project.find(Path.cwd())
    if path is None:
        path = (project.directory if project is not None else Path.cwd()) / ".perdure"
    return State(path, project)


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    try:
        state = _state(ctx.params.get("state_path"))
        known = {*state.names.ids, *(state.project.canisters if state.project else ())}
    except (MalformedError, StorageError):
        return []
    return [CompletionItem(name) for name in sorted(known) if name.startswith(incomplete)]


def canister_argument(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command its argument CANISTER, a name or an id, which shells complete."""
    return click.argument("canister", shell_complete=_complete)(command)


def principal_of(text: str) -> Principal:
    """Somebody: ``anonymous``, a principal, or any other name, which stands for a principal of its own."""
    if text == "anonymous":
        return ANONYMOUS
    try:
        return Principal.from_text(text)
    except MalformedError:
        return Principal.self_authenticating(text.encode())


def identity(command: Callable[P, R]) -> Callable[P, R]:
    """Give a command `--identity`."""
    return click.option(
        "--identity",
        "--impersonate",
        default="anonymous",
        metavar="NAME|PRINCIPAL",
        help="Who calls: anonymous, a principal, or a name, which stands for a principal of its own.",
    )(command)
