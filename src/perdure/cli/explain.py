"""`perdure explain-cost`: what the network charges, line by line."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.argument import MODULE, extension_option
from perdure.cli.completing import complete_calls
from perdure.cli.units import SIZE

if TYPE_CHECKING:
    from perdure.measure.costs import Line, Load

__all__ = ["explain_cost"]

_COUNT = click.IntRange(0, 1 << 63)


@click.command("explain-cost")
@click.argument("module", required=False, type=MODULE)
@click.argument("call", required=False, metavar="[METHOD[=ARG]]", shell_complete=complete_calls)
@click.option("--init", default="", metavar="HEX|@FILE|(CANDID)", help="Argument of canister_init.")
@extension_option()
@click.option("--instructions", type=_COUNT, default=0, help="Of one call, where no METHOD is run for it.")
@click.option("--argument-bytes", type=_COUNT, default=0, help="Of the call's argument.")
@click.option("--reply-bytes", type=_COUNT, default=0, help="Of the reply, which a calling canister pays for.")
@click.option("--from-canister", is_flag=True, help="Another canister makes the call, and pays for it.")
@click.option("--calls-per-day", type=_COUNT, default=0, help="How many calls there are.")
@click.option("--storage", type=SIZE, default=0, help="What the canister keeps, as in 2GiB: all its memories.")
@click.option("--compute-allocation", type=click.IntRange(0, 100), default=0, help="Percent of a core.")
@click.option("--wasm64", is_flag=True, help="The heap has 64-bit addresses; a MODULE says it itself.")
@click.option(
    "--usd-per-trillion-cycles", "rate", type=click.FloatRange(0), default=1.36, show_default=True, help="Of cycles."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, and nothing else, on standard output.")
@click.option("-q", "--quiet", is_flag=True, help="Print the sum of a day alone, in cycles.")
def explain_cost(
    module: Path | None,
    call: str | None,
    init: str,
    extensions: tuple[str, ...],
    instructions: int,
    argument_bytes: int,
    reply_bytes: int,
    from_canister: bool,
    calls_per_day: int,
    storage: int,
    compute_allocation: int,
    wasm64: bool,
    rate: float,
    as_json: bool,
    quiet: bool,
) -> None:
    """What a call, an install, a day and a year cost, each line with its rule, from the tables that execution uses.

    With MODULE and METHOD the module is installed on a fresh subnet and the method is called once, to know its
    instructions and sizes; its memories are what it keeps, unless --storage says more.

    \b
    Example:
        perdure explain-cost ledger.wasm 'transfer=("alice", 10)' --calls-per-day 50000 --storage 4GiB
        perdure explain-cost --instructions 20000000 --argument-bytes 300 --calls-per-day 1000
    """  # noqa: D301
    from perdure.measure.costs import Load, explain

    load = Load(
        instructions=instructions,
        argument_bytes=argument_bytes,
        reply_bytes=reply_bytes,
        calls_per_day=calls_per_day,
        from_canister=from_canister,
        storage_bytes=storage,
        compute_allocation=compute_allocation,
        is_64=wasm64,
    )
    if module is not None:
        load = _measured(load, module, call, init, extensions)
    lines = explain(load)
    if not lines:
        raise click.UsageError("nothing to explain: name a module, --instructions, --storage or --compute-allocation")
    _tell(lines, rate, as_json=as_json, quiet=quiet)


def _measured(load: Load, module: Path, call: str | None, init: str, extensions: tuple[str, ...]) -> Load:
    """A load with what a module and a call of it take."""
    from perdure.cli.run import call_method, encoded_call, install_module, known_service
    from perdure.execution.events import Ended, Trapped
    from perdure.subnet import Subnet

    with Subnet(extensions=extensions) as subnet:
        canister = subnet.create_canister()
        with subnet.events() as stream:
            install_module(canister, module.read_bytes(), init)
        code = canister.module
        assert code is not None
        load = load._replace(
            operators=code.operators,
            install_instructions=sum(one.instructions for one in stream if isinstance(one, Ended)),
            is_64=code.is_64,
        )
        if call is not None:
            service = known_service(canister)
            name, argument = encoded_call(service, call)
            with subnet.events() as stream:
                result = call_method(canister, service, call)
            load = load._replace(
                instructions=sum(one.instructions for one in stream if isinstance(one, Ended | Trapped)),
                method_name_bytes=len(name.encode()),
                argument_bytes=len(argument),
                reply_bytes=len(result.reply),
            )
        kept = sum(memory.size() << 16 for memory in canister.memories.values()) + len(code.wasm)
        return load._replace(storage_bytes=max(load.storage_bytes, kept))


def _tell(lines: list[Line], rate: float, *, as_json: bool, quiet: bool) -> None:
    today = date.today().isoformat()
    if as_json:
        rows = [{**line._asdict(), "usd": line.cycles / 1e12 * rate} for line in lines]
        click.echo(json.dumps({"lines": rows, "usd_per_trillion_cycles": rate, "date": today}, indent=2))
        return
    if quiet:
        click.echo(sum(line.cycles for line in lines if line.what == "day: all"))
        return
    for line in lines:
        click.echo(f"{line.what:28} {line.cycles:>24,}  {line.cycles / 1e12 * rate:>14.6f} USD")
        click.echo(f"    = {line.rule}  [{line.section}]")
    click.echo(f"1 T cycles at {rate} USD ({today}); fees of a subnet of 13 nodes")
