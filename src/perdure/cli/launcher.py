"""`perdure network-launcher`: a local network for `icp`, whose contract for launchers it fulfils.

Contract: dfinity/icp-cli, ``crates/icp/src/network/managed/launcher.rs``, interface version 1.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from perdure.cli.argument import KEPT_EXTENSION, extension_option, production_key_names
from perdure.cli.canister.state import say
from perdure.cli.paths import LocalPath
from perdure.cli.serve import until_ended, wait
from perdure.errors import PerdureError, StorageError

if TYPE_CHECKING:
    from socket import socket

    from perdure.subnet.subnet import Subnet

__all__ = ["network_launcher"]

_STATUS: Final = "status.json"
_HOME: Final = Path(".perdure-networks")


@click.command("network-launcher", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.option("--name", default="local", show_default=True, help="Of the network; each has a state and a port.")
@click.option(
    "--state-dir", type=LocalPath(path_type=Path), help="Where it is kept; else .perdure-networks/NAME/state."
)
@click.option("--status-dir", type=LocalPath(path_type=Path), help="Where status.json tells that it is ready.")
@click.option(
    "--gateway-port", type=click.IntRange(0, 65535), help="0: a free one. By default that of last time, if it is free."
)
@click.option("--bind", default="127.0.0.1", metavar="ADDRESS", help="One that others reach needs --allow-host.")
@click.option("--domain", "domains", multiple=True, metavar="NAME", help="Serve NAME and all names below it, too.")
@click.option("--allow-host", "allow_hosts", multiple=True, metavar="NAME", help="Another name of this server.")
@click.option("--interface-version", default="1.1.0", help="Of the contract with icp.")
@extension_option(KEPT_EXTENSION)
@production_key_names
@click.option("--reset", is_flag=True, help="Begin anew: what the network has kept so far goes.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@click.pass_context
def network_launcher(
    context: click.Context,
    name: str,
    state_dir: Path | None,
    status_dir: Path | None,
    gateway_port: int | None,
    bind: str,
    domains: tuple[str, ...],
    allow_hosts: tuple[str, ...],
    interface_version: str,
    extensions: tuple[str, ...],
    production_key_names: bool,
    reset: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run a local network with ledgers and a cycles minting canister, for icp, agents and browsers.

    What was answered is kept, also by a process that is killed. The command ends with Ctrl-C or SIGTERM. icp starts it
    where ICP_CLI_NETWORK_LAUNCHER_PATH is the path of perdure-network-launcher; other options of icp's are ignored.
    The explorer is at /_/ of its address, for this machine alone.
    Threshold keys are public here, whatever they are called: what is sent to an address of theirs belongs to anybody.

    \b
    Example:
        perdure network-launcher --gateway-port 8000
        perdure network-launcher --name staging --reset
    """  # noqa: D301 - click wants the backspace itself
    from perdure.explorer import Explorer
    from perdure.gateway.server import Server, listen
    from perdure.gateway.standins import provide
    from perdure.storage.names import by_id

    _check(name, interface_version)
    if context.args:
        click.echo(f"ignored: {' '.join(context.args)}", err=True)
    home = _HOME / name
    state_dir = home / "state" if state_dir is None else state_dir
    status_dir = home if status_dir is None else status_dir
    ports = [_port_of_last_time(status_dir), 0] if gateway_port is None else [gateway_port]
    named = _named(domains)
    listening = _listening(ports, partial(listen, bind, domains=named, allow_hosts=allow_hosts))
    with until_ended() as ended, listening, ExitStack() as stack:
        if reset:
            _remove(state_dir)
        state_dir.parent.mkdir(parents=True, exist_ok=True)
        subnet = stack.enter_context(_opened(state_dir, extensions, production_key_names))
        provide(subnet)
        pages = Explorer(subnet, title=f"network {name}", names=lambda: by_id(state_dir))
        stack.callback(pages.close)
        server = Server(subnet, port=listening, bind=bind, domains=named, allow_hosts=allow_hosts, pages=pages)
        stack.enter_context(server)
        status = _status(server.port, subnet.root_key)
        _write(status_dir, status)
        explorer = f"http://localhost:{server.port}/_/?token={pages.token}"
        facts = {"url": server.url, "name": name, "state": str(state_dir), "status": str(status_dir / _STATUS)}
        words = f"{server.url} is the network {name}, kept in {state_dir}; end it with Ctrl-C\nexplorer: {explorer}\n"
        say(as_json, quiet, {**status, **facts, "explorer": explorer}, f"{words}root key {status['root_key']}")
        sys.stdout.flush()
        wait(ended)


def _listening(ports: list[int], listen: Callable[..., socket]) -> socket:
    """A socket at the first of some ports that is free."""
    try:
        for port in ports[:-1]:
            with suppress(OSError):
                return listen(port=port)
        return listen(port=ports[-1])
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _opened(state_dir: Path, extensions: tuple[str, ...], production_key_names: bool) -> Subnet:
    from perdure.execution.config import SubnetConfig
    from perdure.subnet.subnet import Subnet

    config = SubnetConfig(production_key_names=production_key_names)
    return Subnet(state_dir, config=config, changed_code="upgrade", extensions=extensions)


def _check(name: str, interface_version: str) -> None:
    if not name or Path(name).name != name or name.startswith("."):
        raise click.UsageError(f"{name!r} is no name of a network: expected one such as 'staging'")
    if interface_version.partition(".")[0] != "1":
        raise click.UsageError(f"interface version {interface_version!r}: this launcher knows version 1")


def _named(domains: tuple[str, ...]) -> list[str]:
    """Domains that icp names; it may leave one empty."""
    return [domain for domain in domains if domain]


def _status(port: int, root_key: bytes) -> dict[str, object]:
    return {
        "v": "1",
        "instance_id": None,
        "config_port": None,
        "gateway_port": port,
        "root_key": root_key.hex(),
        "default_effective_canister_id": None,
        "supported_features": ["custom-domains"],
    }


def _write(status_dir: Path, status: dict[str, object]) -> None:
    """Say that the network is ready: icp takes the first whole line that it sees."""
    status_dir.mkdir(parents=True, exist_ok=True)
    temporary = status_dir / f".{_STATUS}.{os.getpid()}"
    temporary.write_text(json.dumps(status) + "\n", encoding="utf-8")
    temporary.replace(status_dir / _STATUS)


def _port_of_last_time(status_dir: Path) -> int:
    with suppress(OSError, ValueError, KeyError, TypeError):
        port = json.loads((status_dir / _STATUS).read_text(encoding="utf-8"))["gateway_port"]
        if isinstance(port, int) and 0 < port < 1 << 16:
            return port
    return 0


def _remove(state_dir: Path) -> None:
    """Delete a state, if it is one, and nobody has it open."""
    from perdure.storage import StateDirectory

    if not state_dir.exists() or not any(state_dir.iterdir()):
        return
    try:
        StateDirectory.open(state_dir).close()
    except PerdureError as error:
        raise StorageError(f"--reset deletes what it can open only: {error}", state_dir) from error
    shutil.rmtree(state_dir)
