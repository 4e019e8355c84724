"""What commands run to measure it: a source, calls of its methods, an upgrade, rounds. One way to say it for all."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, final

import click

from perdure.cli.argument import MODULE, built, extension_option
from perdure.cli.completing import complete_calls, complete_source
from perdure.cli.run import argument_of, call_method, install_module, known_service

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from perdure.errors import RejectError
    from perdure.subnet import Canister, Subnet

__all__ = ["Measured", "measured"]

R = TypeVar("R")

_ARGUMENT: Final = "HEX|@FILE|(CANDID)"


@final
@dataclass(frozen=True)
class Measured:
    """What a command line says is run; attributes are its arguments and options."""

    source: str | None
    calls: tuple[str, ...]
    init: str
    upgrade: Path | None
    upgrade_arg: str
    ticks: int
    extensions: tuple[str, ...]

    @property
    def named(self) -> list[str]:
        """What there is to run, as the command line calls it; nothing where a source alone was named."""
        found = (("METHOD", self.calls), ("--upgrade", self.upgrade), ("--ticks", self.ticks))
        return [name for name, given in found if given]

    @contextmanager
    def opened(
        self, while_installing: Callable[[Subnet], AbstractContextManager[object]] | None = None
    ) -> Iterator[tuple[Subnet, Canister]]:
        """The canister that is run: of a state or a snapshot, which are only read, or a module's, installed.

        Args:
            while_installing: entered around what installing a module runs.
        """
        from perdure.inspection.canister import open_canister
        from perdure.inspection.open import nothing_there
        from perdure.subnet import Subnet

        source = os.fspath(built(self.source or ""))
        is_there = Path(source).exists()
        if Path(source).is_dir() or not (is_there or source.endswith((".wasm", ".wasm.gz"))):
            if self.init or while_installing is not None:
                raise click.UsageError("--init is for a module" if self.init else "--with-install is for a module")
            if not is_there and not set(source) & set("./:#"):
                there = nothing_there(source, ", and no module of this name was built here")
                raise click.UsageError(f"{source!r:.100}: {there}")
            with open_canister(source, extensions=self.extensions) as canister:
                subnet = canister._subnet
                assert isinstance(subnet, Subnet)
                yield subnet, canister
            return
        code = MODULE.convert(source, None, None).read_bytes()
        with Subnet(extensions=self.extensions) as subnet:
            canister = subnet.create_canister()
            if while_installing is None:
                install_module(canister, code, self.init)
            else:
                with while_installing(subnet):
                    install_module(canister, code, self.init)
            yield subnet, canister

    def run(self, subnet: Subnet, canister: Canister) -> list[RejectError]:
        """Do all of it, until something is rejected; that rejection."""
        from perdure.errors import RejectError

        service = known_service(canister)
        try:
            for call in self.calls:
                call_method(canister, service, call)
            if self.upgrade is not None:
                from perdure.inspection.motoko import default_persistence

                keep, arg = default_persistence(canister), argument_of(self.upgrade_arg)
                canister.upgrade(self.upgrade.read_bytes(), arg, wasm_memory_persistence=keep)
            for _ in range(self.ticks):
                subnet.tick()
        except RejectError as error:
            return [error]
        return []


def measured(*, is_optional: bool = False) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command the arguments and options of `Measured`, which come as `ran`.

    Args:
        is_optional: the source need not be named.
    """
    source = "[SOURCE|MODULE]" if is_optional else "SOURCE|MODULE"
    options = (
        click.argument("source", metavar=source, required=not is_optional, shell_complete=complete_source),
        click.argument("calls", nargs=-1, metavar="METHOD[=HEX|=@FILE|=(CANDID)]...", shell_complete=complete_calls),
        click.option("--init", default="", metavar=_ARGUMENT, help="Argument of canister_init, of a MODULE."),
        click.option("--upgrade", type=MODULE, metavar="NEW.wasm", help="Then upgrade to this module."),
        click.option("--upgrade-arg", default="", metavar=_ARGUMENT, help="Argument of the upgrade."),
        click.option(
            "--ticks", type=click.IntRange(0), default=0, help="Then run rounds: heartbeats, timers that are due."
        ),
        extension_option(),
    )
    names = tuple(Measured.__annotations__)

    def give(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def called(**given: object) -> R:
            ran = Measured(**{name: given.pop(name) for name in names})  # type: ignore[arg-type]
            return command(ran=ran, **given)

        made: Callable[..., R] = called
        for option in reversed(options):
            made = option(made)
        return made

    return give
