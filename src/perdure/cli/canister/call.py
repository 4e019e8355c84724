"""`perdure canister call`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import (
    InputFile,
    argument_options,
    encoded,
    given,
    hosts_with_ports,
    methods_of,
    production_key_names,
    shown,
    shown_json,
)
from perdure.cli.canister.state import State, canister_argument, common, complete_method, principal_of, say
from perdure.cli.paths import LocalPath
from perdure.cli.terminal import printable
from perdure.cli.units import CYCLES
from perdure.ic.principal import MANAGEMENT_CANISTER
from perdure.units import meant

if TYPE_CHECKING:
    from perdure.candid.service import ServiceType
    from perdure.subnet import Canister, Subnet

__all__ = ["call", "reject_management_call"]


@click.command()
@canister_argument
@click.argument("method", shell_complete=complete_method)
@click.argument("text", required=False, metavar="[ARGS]")
@click.option("--query", "kind", flag_value="query", help="Call as a query, whose effects are dropped.")
@click.option("--update", "kind", flag_value="update", help="Call as an update, also a query method.")
@argument_options
@click.option(
    "-c",
    "--candid",
    "--candid-file",
    "candid",
    type=InputFile(),
    help="The .did file.",
)
@click.option("--cycles", "--with-cycles", type=CYCLES, default=0, help="Cycles to send along.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["auto", "candid", "text", "hex", "idl", "json", "pp", "raw"]),
    default="auto",
    help="How the reply is written; idl, pp and raw are dfx's words, json is the same as --json.",
)
@click.option(
    "--profile",
    "profiled",
    type=LocalPath(dir_okay=False, path_type=Path),
    help="Write where its instructions go: .svg, .json for speedscope, .pb.gz, .folded or .txt.",
)
@click.option(
    "--allow-host",
    "allowed",
    multiple=True,
    metavar="HOST:PORT",
    callback=hosts_with_ports,
    help="Let HTTPS outcalls reach this host; may be given again. Without it they reach none.",
)
@production_key_names
@click.option("-v", "--verbose", is_flag=True, help="Tell instructions and cycles, on standard error.")
@common
def call(
    state: State,
    canister: str,
    method: str,
    text: str | None,
    kind: str | None,
    args: str | None,
    args_file: Path | None,
    args_format: str,
    candid: Path | None,
    cycles: int,
    output: str,
    profiled: Path | None,
    allowed: tuple[str, ...],
    production_key_names: bool,
    verbose: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Call METHOD of CANISTER with ARGS in Candid's text form. A query method is called as a query.

    CANISTER may be aaaaa-aa, the management canister. Threshold keys here are public, whatever they are called: what is
    sent to an address derived from one belongs to anybody.

    With --json the reply is an object as icp prints it, of response_bytes (hexadecimal), response_text and
    response_candid; response_json has the values as dfx's JSON: an option is an array of none or one, nat, int, nat64
    and int64 are strings, a blob is an array of numbers.

    \b
    Example:
        perdure canister call ledger transfer '(record { to = principal "2vxsx-fae"; amount = 5 })' --identity alice
    """  # noqa: D301
    if text is not None and args is not None:
        raise click.UsageError("arguments were given twice: in place and with --args")
    argument = given(text if args is None else args, args_file, args_format)
    with state.open(changed_code="upgrade", production_key_names=production_key_names) as subnet:
        if allowed:
            subnet.outcalls.allow_hosts(*allowed)
        if state.id_of(canister) == MANAGEMENT_CANISTER:
            target, kind = subnet.management, kind or "update"
            service: ServiceType | None = target.service(candid)
        else:
            target = state.find(subnet, canister)
            service = _service(state, target, canister, candid)
            _check_name(target, method)
        known = service.methods.get(method) if service is not None else None
        message = encoded(known, argument)
        sender = principal_of(state.identity)
        with _profiled(subnet, profiled), subnet.counted() as total:
            if (kind or _kind(target, method)) == "query":
                reply = target.query(method, message, sender=sender)
            else:
                reply = target.update(method, message, sender=sender, cycles=cycles)
        if verbose:
            if service is not None:
                click.echo(f"types are those of {printable(service.source)}", err=True)
            click.echo(f"{total[0]:,} instructions, {total[1]:,} cycles", err=True)
        click.echo(shown_json(known, reply) if as_json or output == "json" else shown(known, reply, output))


@contextmanager
def _profiled(subnet: Subnet, path: Path | None) -> Iterator[None]:
    if path is None:
        yield
        return
    from perdure.cli.profile import check_end, write_profile
    from perdure.errors import RejectError

    check_end(path)
    rejection: RejectError | None = None
    with subnet.profile() as found:
        try:
            yield
        except RejectError as error:
            rejection = error
    write_profile(found, path)
    if rejection is not None:
        raise rejection


def _service(state: State, target: Canister, name: str, candid: Path | None) -> ServiceType | None:
    from perdure.errors import UnsupportedError

    described = state.described(name)
    if candid is None and described is not None:
        candid = described.interface()
    try:
        return target.service(candid)
    except UnsupportedError:
        return None


def _check_name(target: Canister, method: str) -> None:
    """Refuse a method that the canister does not have, before it does: it cannot say which one was meant."""
    known = methods_of(target.module.exported_methods) if target.module is not None else frozenset()
    if known and method not in known:
        raise click.UsageError(f"no method {method!r}, {meant(method, known)}")


def _kind(target: Canister, method: str) -> str:
    exported = target.module.exported_methods if target.module is not None else frozenset()
    is_query = f"canister_query {method}" in exported or f"canister_composite_query {method}" in exported
    return "query" if is_query else "update"


@click.command("reject-management-call")
@click.option("--message", default="The call was rejected by hand.", show_default=True, help="What the caller hears.")
@common
def reject_management_call(state: State, message: str, as_json: bool, quiet: bool) -> None:
    """Reject the call that the management canister would execute next.

    For one that this machine cannot execute, such as installing a module that takes more memory to compile than there
    is: every round ends with an error before it, and nothing else goes on.

    \b
    Example:
        perdure canister reject-management-call --message 'too large for this machine'
    """  # noqa: D301
    with state.open() as subnet:
        method = subnet.reject_management_call(message)
    text = "no call of the management canister waits" if method is None else f"rejected {method}"
    say(as_json, quiet, {"rejected": method}, text)
