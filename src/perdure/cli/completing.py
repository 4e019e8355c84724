"""What shells complete of a command line: sources, structures, methods; and how bash is told.

Nothing here says what is wrong: where something cannot be read, there is nothing to complete. Nothing is written, and
no canister's code is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from perdure.errors import PerdureError

if TYPE_CHECKING:
    from perdure.inspection.find import Inventory

__all__ = [
    "VARIABLE",
    "complete_calls",
    "complete_source",
    "complete_structure",
    "methods_in",
    "script",
    "starting",
    "use_own_scripts",
]

Items: TypeAlias = list[CompletionItem[Any]]

VARIABLE: Final = "_PERDURE_COMPLETE"
"""The environment variable by which a shell asks."""
_STATES: Final = ".perdure"
_FILE: Final = "file"
_PLAIN: Final = "plain"
_PARTING: Final = ":="
"""Of what bash takes words apart at, what stands in ours."""
_OBEYED: Final = re.compile(r"[^\w%+,./:=@-]")
"""What a shell may take for more than a letter."""
_KIND_OF_DATABASE: Final = "sqlite"


def starting(names: Iterable[str], incomplete: str) -> Items:
    """Those of the names that begin with what is there already.

    Names are a canister's, so anybody's: none that a terminal would obey, or that would be taken for an option.
    """
    fit = (name for name in set(names) if name.isprintable() and not name.startswith("-"))
    return [CompletionItem(name) for name in sorted(fit) if name.startswith(incomplete)]


def _quietly(complete: Callable[[click.Context, str], Items]) -> Callable[[click.Context, click.Parameter, str], Items]:
    def completed(ctx: click.Context, _: click.Parameter, incomplete: str) -> Items:
        ctx.params["quiet"] = True
        with ctx.scope(cleanup=False):
            try:
                return complete(ctx, incomplete)
            except (PerdureError, OSError, UnicodeDecodeError, ImportError, click.ClickException):
                return []

    return completed


@_quietly
def complete_source(_: click.Context, incomplete: str) -> Items:
    """Canisters of state directories by their names, ``.perdure:ledger``, and files."""
    directory, colon, _canister = incomplete.rpartition(":")
    states = [Path(directory)] if colon else sorted(Path().glob(f"{_STATES}*"))
    found = starting((f"{state}:{name}" for state in states for name in _names(state)), incomplete)
    return found if colon else [*found, CompletionItem(incomplete, type=_FILE)]


def _names(state: Path) -> Iterable[str]:
    """Canisters of a state directory; that of `Names` and its ids where those have no name."""
    from perdure.storage.names import Names

    return Names(state).ids if (state / "checkpoint").exists() else ()


@_quietly
def complete_structure(ctx: click.Context, incomplete: str) -> Items:
    """Structures of the command's SOURCE, tables of its databases, stable variables of Motoko."""
    from perdure.cli.stable.source import opened

    source = ctx.params.get("source")
    if not source or source == "-":
        return []
    with opened(source, ctx.params.get("schema_path")) as (inventory, _):
        return starting(_structures(inventory), incomplete)


def _structures(inventory: Inventory) -> Iterator[str]:
    for structure in inventory.structures:
        if structure.kind != _KIND_OF_DATABASE:
            yield structure.name or structure.label
            continue
        from perdure.inspection.sqlite import table_kinds

        yield from (name for name, kind in table_kinds(structure).items() if kind != "shadow")
    yield from (variable.name for variable in inventory.variables.tables())


@_quietly
def complete_calls(ctx: click.Context, incomplete: str) -> Items:
    """Methods of the command's MODULE, or of the canister that its SOURCE is."""
    from perdure.inspection.open import open_source

    source = str(ctx.params.get("module") or ctx.params.get("source") or "")
    if not source:
        return []
    path = Path(source)
    if path.is_file():
        return starting(methods_in(path.read_bytes()), incomplete)
    if path.is_dir():
        return starting(methods_in((path / "wasm_module.bin").read_bytes()), incomplete)
    with open_source(source) as opened:
        return starting(opened.methods(), incomplete)


def methods_in(module: bytes) -> frozenset[str]:
    """The methods of a module, gzipped or not."""
    from perdure.inspection.labels import ModuleLabels

    return ModuleLabels(lambda: module).methods()


@final
class _Bash(BashComplete):
    """Completion for bash, which takes words apart where they have colons, as ``.perdure:ledger`` has one.

    The line is taken as it is, and of what is found the part is left out that bash has behind it already. Files go
    with what else is found, and nothing is put behind a directory.

    bash puts answers into the line as they are, to be run: so each letter that it would obey has a backslash, in quotes
    too, and files whose names it can only write as ``$'...'`` are left out.
    """

    source_template = """\
%(complete_func)s() {
    local response type value word
    response=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete $1 2>/dev/null)
    COMPREPLY=()
    while IFS=',' read -r type value; do
        if [[ $type == 'plain' ]]; then
            COMPREPLY+=("$value")
            continue
        fi
        [[ $type == 'dir' ]] && type=-d || type=-f
        while IFS= read -r word; do
            [[ -d $word ]] && { word+=/; compopt -o nospace; }
            printf -v word %%q "$word"
            [[ $value == '~'* ]] && word=${word#\\\\}
            [[ -z $word || $word == "''" || $word == \\$* ]] || COMPREPLY+=("$word")
        done < <(compgen $type -- "$value")
    done <<< "$response"
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    _behind = 0
    """How much of a word bash has behind it."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that one."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        incomplete = "" if len(words) < 2 or line[-1:].isspace() else words.pop()
        _, is_value, value = incomplete.partition("=") if incomplete.startswith("-") else ("", "", incomplete)
        parted = value if is_value else incomplete
        breaks = set(_PARTING) & set(os.environ.get("COMP_BREAKS", ""))
        self._behind = max((parted.rfind(one) + 1 for one in breaks), default=0)
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """A line of the answer."""
        if item.type != _PLAIN:
            return f"{item.type},{item.value}"
        return f"{item.type},{_OBEYED.sub(_escaped, item.value[self._behind :])}"


def _escaped(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


@final
class _Fish(FishComplete):
    """Completion for fish, which takes answers apart at the first comma alone: names may have more."""

    source_template = FishComplete.source_template.replace("string split ", "string split --max 1 ")


def use_own_scripts() -> None:
    """Have click take these classes for bash and fish."""
    add_completion_class(_Bash)
    add_completion_class(_Fish)


def script(shell: str, command: click.Command) -> str:
    """What a shell is to read, so that it completes a command.

    Args:
        shell: ``bash``, ``zsh`` or ``fish``.
        command: what `perdure` stands for.
    """
    made = get_completion_class(shell)
    assert made is not None
    return made(command, {}, "perdure", VARIABLE).source()
