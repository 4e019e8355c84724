"""`perdure run`: a fresh subnet, one canister, some calls; nothing is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, final

import click

from perdure.cli.argument import (
    MODULE,
    InputFile,
    asked,
    encoded,
    extension_option,
    grouped,
    methods_of,
    named_file,
    production_key_names,
)
from perdure.cli.completing import complete_calls
from perdure.cli.console import say, styled
from perdure.cli.terminal import LAYOUT, printable
from perdure.units import meant

if TYPE_CHECKING:
    from perdure.candid.service import ServiceType
    from perdure.execution.state import LogRecord
    from perdure.subnet import Canister, Subnet

__all__ = ["argument_of", "call_method", "encoded_call", "install_module", "known_service", "run"]


class _Result(NamedTuple):
    method: str
    kind: str
    reply: bytes
    text: str | None
    milliseconds: float
    instructions: int
    """Of everything that was entered for it."""
    cycles: int
    """What those cost; queries are free."""


@click.command()
@click.argument("module", type=MODULE)
@click.argument("calls", nargs=-1, metavar="METHOD[=HEX|=@FILE|=(CANDID)]...", shell_complete=complete_calls)
@click.option("--init", default="", metavar="HEX|@FILE|(CANDID)", help="Argument of canister_init.")
@click.option("-c", "--candid", type=InputFile(), help="The .did file, of a module that does not have it.")
@click.option("--wasi", is_flag=True, help="The module is for WASI: replace what it imports.")
@click.option("--stub", multiple=True, metavar="PATTERN", help="With --wasi: imports that shall trap when called.")
@extension_option()
@production_key_names
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def run(
    module: Path,
    calls: tuple[str, ...],
    init: str,
    candid: Path | None,
    wasi: bool,
    stub: tuple[str, ...],
    extensions: tuple[str, ...],
    production_key_names: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Install MODULE on a fresh subnet and call its methods, each as the export says: update or query.

    What the canister prints while it is installed or updated is shown before the reply, as `log`; a query keeps none.

    An argument is hexadecimal, `@FILE`, or Candid text in parentheses. Without one it is `()`, unless the module says
    that the method takes something.

    Threshold keys here are public, whatever they are called: what is sent to an address derived from one belongs to
    anybody.

    \b
    Example:
        perdure run counter.wasm increment increment get
        perdure run ledger.wasm 'transfer=("alice", 10)'
        perdure run --wasi program.wasm inc
    """  # noqa: D301 - click wants the backspace itself
    code: bytes | Path = module if module.is_file() else module.read_bytes()  # a pipe is read once
    if wasi:
        from perdure.cli.instrument import decoded, without_wasi
        from perdure.wasm import encode

        code = encode(without_wasi(decoded(module), stub).module)
    elif stub:
        raise click.UsageError("--stub goes with --wasi")
    canister = _subnet(extensions, production_key_names).create_canister()
    results: list[_Result] = []
    show = _Shown(canister, silent=as_json or quiet)
    try:
        install_module(canister, code, init, candid)
        show.installed()
        service = known_service(canister)
        for call in calls:
            results.append(call_method(canister, service, call))
            show.result(results[-1])
    finally:
        show.log()
        if as_json:
            rows = [{**result._asdict(), "reply": result.reply.hex()} for result in results]
            done = {"canister_id": str(canister.id), "calls": rows, "log": _lines(canister)}
            click.echo(json.dumps(done, indent=2))


def _subnet(extensions: tuple[str, ...], production_key_names: bool) -> Subnet:
    from perdure.execution.config import SubnetConfig
    from perdure.subnet import Subnet

    return Subnet(extensions=extensions, config=SubnetConfig(production_key_names=production_key_names))


def install_module(canister: Canister, code: bytes | Path, init: str, candid: Path | None = None) -> None:
    """Install a module, with its argument as it is given on a command line, or by who is asked for it."""
    from perdure.errors import RejectError
    from perdure.subnet.interface import ArgumentMissingError

    def install(argument: str | bytes | None) -> bool:
        canister.install(code, argument, candid=candid)
        return True

    try:
        install(argument_of(init))
    except ArgumentMissingError as error:
        if asked(f"init takes {error.wanted}", lambda text: install(grouped(text))) is None:
            raise click.UsageError(f"{error}: pass --init") from error
    except ValueError as error:
        raise click.UsageError(f"{error}: pass --init") from error
    except RejectError as error:
        if "'wasi_" in error.message:
            click.echo("perdure: the module is for WASI: try perdure run --wasi", err=True)
        raise


def call_method(canister: Canister, service: ServiceType | None, call: str) -> _Result:
    """Call a method as it is given on a command line: ``METHOD``, or with ``=`` and its argument."""
    import time

    method, argument = encoded_call(service, call)
    kind = _kind(canister, method)
    with canister._subnet.counted() as total:
        start = time.perf_counter_ns()
        reply = canister.update(method, argument) if kind == "update" else canister.query(method, argument)
        milliseconds = (time.perf_counter_ns() - start) / 1e6
    return _Result(method, kind, reply, _text(service, method, reply), milliseconds, *total)


def encoded_call(service: ServiceType | None, call: str) -> tuple[str, bytes]:
    """The method and the message of a call as it is given on a command line."""
    method, _, text = call.partition("=")
    return method, encoded(service.methods.get(method) if service is not None else None, argument_of(text))


def _kind(canister: Canister, method: str) -> str:
    if canister.module is None:
        raise click.UsageError(f"canister {canister.id} has no code: `perdure canister install` installs some")
    exported = canister.module.exported_methods
    for kind in ("update", "query", "composite_query"):
        if f"canister_{kind} {method}" in exported:
            return kind
    raise click.UsageError(f"no method {method!r}, {meant(method, methods_of(exported))}")


def argument_of(text: str) -> str | bytes | None:
    """An argument as Candid text or bytes; `None`: none was given."""
    if not text:
        return None
    if text.startswith("@"):
        return named_file(text[1:])
    if text.startswith("("):
        return text
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise click.UsageError(
            f"argument {text!r} is neither hexadecimal nor @FILE nor Candid in parentheses"
        ) from error


def known_service(canister: Canister) -> ServiceType | None:
    """The interface, where the module says it."""
    from perdure.errors import MalformedError, RejectError, UnsupportedError

    try:
        return canister.service()
    except (MalformedError, UnsupportedError, RejectError):
        return None  # without a description, or with a damaged one, the code runs all the same


def _text(service: ServiceType | None, method: str, reply: bytes) -> str | None:
    from perdure.candid import values_to_text
    from perdure.errors import MalformedError

    if service is None or method not in service.methods:
        return None
    try:
        return values_to_text(service.methods[method].func.results, service.methods[method].decode(reply))
    except MalformedError:
        return None


@final
class _Shown:
    """What happens, line by line as it happens: a call that fails takes nothing away of those before it."""

    def __init__(self, canister: Canister, *, silent: bool) -> None:
        self._canister = canister
        self._silent = silent
        self._next = 0

    def installed(self) -> None:
        self.log()
        self._say(f"{styled('installed as', 'dim')} {self._canister.id}")

    def _say(self, line: str) -> None:
        if not self._silent:
            say(line)

    def result(self, result: _Result) -> None:
        self.log()
        shown = result.text if result.text is not None else _readable(result.reply)
        cost = f"{result.milliseconds:.2f} ms, {result.instructions:,} instructions, {result.cycles:,} cycles"
        self._say(f"{result.kind} {styled(result.method, 'bold')}  {shown}  {styled(cost, 'dim')}")

    def log(self) -> None:
        """What the canister has printed since the last time."""
        for record in self._canister.logs():
            if record.sequence < self._next:
                continue  # shown; the log forgets its oldest lines, so that counting them would not do
            self._next = record.sequence + 1
            text = _text_of(record)
            is_trap = text.startswith("[TRAP]")  # its backtrace comes with the error
            for line in text.removesuffix("\n").split("\n")[: 1 if is_trap else None]:
                self._say(f"{styled('log', 'dim')}  {printable(line, keep=LAYOUT)}")


def _lines(canister: Canister) -> list[str]:
    return [_text_of(record) for record in canister.logs()]


def _text_of(record: LogRecord) -> str:
    return record.content.decode(errors="backslashreplace")


def _readable(reply: bytes) -> str:
    try:
        text = reply.decode()
    except UnicodeDecodeError:
        return reply.hex()
    return repr(text) if text and text.isprintable() else reply.hex()
