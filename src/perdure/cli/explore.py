"""`perdure explore`: pages over a state directory, a snapshot or a dump, which is only read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import extension_option
from perdure.cli.canister.state import say
from perdure.cli.completing import complete_source
from perdure.cli.serve import names_in, until_ended, wait
from perdure.units import counted

if TYPE_CHECKING:
    from perdure.explorer import Explorer

__all__ = ["explore"]


@click.command()
@click.argument("source", shell_complete=complete_source)
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="0, the default, is a free one.")
@extension_option()
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def explore(source: str, port: int, extensions: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """Look at SOURCE in a browser: what its canisters keep, what calls would do.

    SOURCE is a state directory, that of a network, one of a downloaded snapshot, or a dump of stable memory. It is only
    read: calls run on a copy, which is gone when the command ends, with Ctrl-C or SIGTERM.

    \b
    Example:
        perdure explore .perdure
        perdure explore ./my-snapshot --port 8080
    """  # noqa: D301 - click wants the backspace itself
    from perdure.gateway.server import Server
    from perdure.subnet import Subnet

    with ExitStack() as stack:
        explorer = stack.enter_context(_opened(source, extensions))  # which a signal ends, however large it is
        ended = stack.enter_context(until_ended())
        shown = explorer.what
        served = shown if shown is not None else stack.enter_context(Subnet())
        stack.enter_context(server := Server(served, port=port, clock="virtual", pages=explorer))
        url = f"http://localhost:{server.port}/_/?token={explorer.token}"
        many = 0 if shown is None else len(shown.canisters)
        what = f"{counted(many, 'canister')} of {source}" if shown is not None else f"the memory of {source}"
        say(
            as_json, quiet, {"url": url, "source": source, "canisters": many}, f"{url} shows {what}; end it with Ctrl-C"
        )
        wait(ended)


@contextmanager
def _opened(source: str, extensions: tuple[str, ...]) -> Iterator[Explorer]:
    """The pages over a source."""
    from perdure.explorer import Explorer
    from perdure.inspection.open import open_source
    from perdure.network import Network
    from perdure.storage.names import by_id
    from perdure.storage.topology import TOPOLOGY
    from perdure.subnet import Subnet

    path = Path(source)
    with ExitStack() as stack:
        if (path / TOPOLOGY).is_file():
            network = stack.enter_context(Network.read(path, extensions=extensions))
            explorer = Explorer(network, title=source, names=lambda: names_in(path))
        elif (path / "checkpoint").is_file():
            subnet = stack.enter_context(Subnet.read(path, extensions=extensions))
            explorer = Explorer(subnet, title=source, names=lambda: by_id(path))
        elif (path / "metadata.json").is_file():
            explorer = Explorer(stack.enter_context(Subnet.open(path, extensions=extensions)), title=source)
        else:
            explorer = Explorer(None, memory=stack.enter_context(open_source(source)), title=source)
        stack.callback(explorer.close)
        yield explorer
