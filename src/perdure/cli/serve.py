"""`perdure serve`: the canisters of a state directory over HTTP, until somebody ends it."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, final

import click

from perdure.cli.argument import KEPT_EXTENSION, extension_option, hosts_with_ports, production_key_names
from perdure.cli.canister.state import State, common, say
from perdure.units import counted

if TYPE_CHECKING:
    from perdure.explorer import Explorer
    from perdure.gateway.http import Request, Response
    from perdure.network import Network
    from perdure.network.live import Clock
    from perdure.subnet import Subnet

__all__ = ["LaterPages", "names_in", "serve", "until_ended", "wait"]

_TRIM_EVERY_SECONDS: Final = 30.0
_M_ARENA_MAX: Final = -8  # malloc.h of glibc
_ARENAS: Final = 2


@click.command()
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="0, the default, is a free one.")
@click.option("--bind", default="127.0.0.1", metavar="ADDRESS", help="One that others reach needs --allow-host.")
@click.option("--domain", "domains", multiple=True, metavar="NAME", help="Serve NAME and all names below it, too.")
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Another name or address of this server."
)
@click.option(
    "--clock",
    type=click.Choice(["real", "virtual"]),
    default="real",
    help="real: the subnet's time is the machine's. virtual: it stands still.",
)
@click.option(
    "--allow-outcalls",
    "outcall_hosts",
    multiple=True,
    metavar="HOST:PORT",
    callback=hosts_with_ports,
    help="Let HTTPS outcalls reach this host; may be given again. Without it they reach none.",
)
@extension_option(KEPT_EXTENSION)
@click.option(
    "--subnet",
    "kinds",
    multiple=True,
    metavar="KIND",
    help="Begin a network with a subnet of this kind, such as nns or application; may be given again.",
)
@production_key_names
@common
def serve(
    state: State,
    port: int,
    bind: str,
    domains: tuple[str, ...],
    allow_hosts: tuple[str, ...],
    clock: str,
    outcall_hosts: tuple[str, ...],
    extensions: tuple[str, ...],
    kinds: tuple[str, ...],
    production_key_names: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Serve the canisters of the project's state to agents, browsers and icp.

    What was answered with a certificate is on the disk. The command ends with Ctrl-C or SIGTERM.

    Threshold keys are public here, whatever they are called: what is sent to an address of theirs belongs to anybody.
    The directory of a network is served with all its subnets; --subnet begins one where there is nothing.

    \b
    Example:
        perdure serve --port 4943
        perdure serve --state net --subnet nns --subnet application
        perdure serve --state /var/lib/app --bind 0.0.0.0 --allow-host box.example.org
    """  # noqa: D301 - click wants the backspace itself
    from perdure.gateway.server import Server, listen

    real_or_not: Clock = "virtual" if clock == "virtual" else "real"
    opened = _opened(state, kinds, extensions, production_key_names)
    try:  # before there is a state that nobody would need
        listening = listen(bind, port, domains, allow_hosts)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with until_ended() as ended, listening, opened as served, ExitStack() as stack:
        pages = LaterPages(partial(_explorer, served, state.directory))
        stack.callback(pages.close)
        for subnet in _subnets(served):
            subnet.outcalls.allow_hosts(*outcall_hosts)
        server = Server(
            served, port=listening, bind=bind, clock=real_or_not, domains=domains, allow_hosts=allow_hosts, pages=pages
        )
        stack.enter_context(server)
        explorer = f"http://localhost:{server.port}/_/?token={pages.token}"
        facts = {
            "url": server.url,
            "explorer": explorer,
            "port": server.port,
            "state": str(state.directory),
            **_described(served),
            "canisters": [str(canister.id) for canister in served.canisters],
        }
        many = counted(len(served.canisters), "canister")
        told = f"{server.url} serves {many} of {state.directory}; end it with Ctrl-C\nexplorer: {explorer}"
        say(as_json, quiet, facts, told)
        pages.load()
        wait(ended)


@contextmanager
def _opened(
    state: State, kinds: tuple[str, ...], extensions: tuple[str, ...], production_key_names: bool
) -> Iterator[Subnet | Network]:
    """The network of a directory that has one or is to have one, else the subnet."""
    from perdure.storage.topology import TOPOLOGY

    if not kinds and not (state.directory / TOPOLOGY).is_file():
        with state.open(
            create=True, changed_code="upgrade", extensions=extensions, production_key_names=production_key_names
        ) as subnet:
            yield subnet
        return
    from perdure.execution.config import SubnetConfig
    from perdure.network import Network

    config = SubnetConfig(production_key_names=production_key_names)
    try:
        network = Network(
            kinds or None,
            path=state.directory,
            config=config,
            extensions=extensions,
            trust_owner=state.trust_owner,
        )
    except ValueError as error:  # no such kind, or others than there are
        raise click.UsageError(str(error)) from error
    with network:
        yield network


def _subnets(served: Subnet | Network) -> tuple[Subnet, ...]:
    from perdure.network import Network

    return served.subnets if isinstance(served, Network) else (served,)


def _explorer(served: Subnet | Network, directory: Path) -> Explorer:
    from perdure.explorer import Explorer

    return Explorer(served, title=str(directory), names=lambda: names_in(directory))


def names_in(directory: Path) -> Mapping[str, str]:
    """What people call the canisters of a state directory, or of all those of a network, by id."""
    from perdure.storage.names import by_id
    from perdure.storage.topology import Topology

    members = [directory / one.name for one in Topology(directory).members] or [directory]
    return {key: name for member in members for key, name in by_id(member).items()}


def _described(served: Subnet | Network) -> dict[str, object]:
    """Who is served: the root, and what subnets there are beside it."""
    from perdure.network import Network

    if not isinstance(served, Network):
        return {"subnet_id": str(served.id), "root_key": served.root_key.hex()}
    kinds = {str(one): kind for one, kind in served.kinds.items()}
    return {"subnet_id": str(served.root.id), "root_key": served.root.root_key.hex(), "subnets": kinds}


@final
class LaterPages:
    """Pages that are made once the server answers, in a thread of their own: half of what it starts with is for them.

    Args:
        make: makes them.

    Attributes:
        token: of the pages, known before they are there.
    """

    def __init__(self, make: Callable[[], Explorer]) -> None:
        from perdure.gateway.http import MAX_UPLOAD_BYTES

        self.max_upload_bytes = MAX_UPLOAD_BYTES
        self.token = secrets.token_urlsafe(16)
        self._make = make
        self._made: Explorer | None = None
        self._lock = threading.Lock()

    def load(self) -> None:
        """Begin to make them."""
        threading.Thread(target=self._pages, name="perdure pages", daemon=True).start()

    def _pages(self) -> Explorer:
        with self._lock:
            if self._made is None:
                made = self._make()
                made.token = self.token
                self._made = made
            return self._made

    def wants(self, request: Request) -> bool:
        """See `perdure.gateway.server.Pages`; whoever asks for a page waits for them, agents do not."""
        if self._made is None and request.path.startswith("/api/"):
            return False
        return self._pages().wants(request)

    def begin(self, request: Request, client: str) -> Response:
        """See `perdure.gateway.server.Pages`."""
        return self._pages().begin(request, client)

    def may_upload(self, request: Request) -> bool:
        """See `perdure.gateway.server.Pages`."""
        if self._made is None and (request.method != "POST" or request.path.startswith("/api/")):
            return False
        return self._pages().may_upload(request)

    def close(self) -> None:
        """Let go of them."""
        with self._lock:
            if self._made is not None:
                self._made.close()


def wait(ended: threading.Event) -> None:
    """Wait, and meanwhile give back to the machine what is free."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    while not ended.wait(_TRIM_EVERY_SECONDS):
        if trim is not None:
            trim(0)


def _have_few_arenas() -> None:
    """Have threads share what the C library keeps for them, before there are any.

    It has eight arenas a core, and what was freed in one is of use to its threads alone: 25 requests a second had it
    keep 13 MiB within half an hour, 1.8 more with each checkpoint, while what was in use stayed at 16.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, _ARENAS)


@contextmanager
def until_ended() -> Iterator[threading.Event]:
    """Set when a signal asks this command to end, which it then does in its own time; at a second one it is gone.

    What a request is at may take minutes yet, and a state directory bears that its process is killed.
    """
    _have_few_arenas()
    ended = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        if ended.is_set():
            os._exit(128 + number)
        ended.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield ended
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
