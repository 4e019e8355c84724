"""`perdure canister`: the verbs and flags of `icp canister`, over the project's own state directory.

Importing this costs click and nothing else: what a command needs is imported when it runs. Flags that dfx had under
other names are taken too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import click

from perdure.cli.canister_state import State, canister_argument, common, identity, principal_of
from perdure.cli.units import CYCLES, DURATION, SIZE, show_bytes, show_cycles

if TYPE_CHECKING:
    from perdure.candid.service import ServiceMethod, ServiceType
    from perdure.ic.principal import Principal
    from perdure.subnet import Canister, Subnet

__all__ = ["canister"]

P = ParamSpec("P")
R = TypeVar("R")

_PERSISTENCE_SECTION: Final = "icp:private enhanced-orthogonal-persistence"
_NO_VALUES: Final = b"DIDL\0\0"


@click.group()
def canister() -> None:
    """Create, install, call, inspect and control canisters that outlive the process.

    They live in the project's .perdure directory, or in the one that --state names. CANISTER is a name or an id.

    \b
    Example:
        perdure canister install ledger --wasm ledger.wasm --args '(record { symbol = "TST" })'
        perdure canister call ledger balance '(principal "2vxsx-fae")'
    """  # noqa: D301 - click wants the backspace itself


def _say(as_json: bool, quiet: bool, value: Any, text: str) -> None:
    if as_json:
        click.echo(json.dumps(value, indent=2))
    elif not quiet:
        click.echo(text)


def _argument_options(command: Callable[P, R]) -> Callable[P, R]:
    """`--args` and what goes with it."""
    options = [
        click.option("--args", "--argument", "args", metavar="TEXT", help="The argument."),
        click.option(
            "--args-file",
            "--argument-file",
            "args_file",
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            help="A file with the argument.",
        ),
        click.option(
            "--args-format",
            "--type",
            "args_format",
            type=click.Choice(["candid", "hex", "bin", "idl", "raw"]),
            default="candid",
            help="How the argument is written; idl and raw are dfx's words for candid and hex.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def _given(args: str | None, args_file: Path | None, args_format: str) -> str | bytes | None:
    """The argument as Candid text or bytes; `None`: none was given."""
    if args is not None and args_file is not None:
        raise click.UsageError("an argument was given twice: as text and as a file")
    if args_format == "bin":
        if args_file is None:
            raise click.UsageError("--args-format bin wants --args-file")
        return args_file.read_bytes()
    text = args_file.read_text(encoding="utf-8") if args_file is not None else args
    if text is None or args_format in ("candid", "idl"):
        return text
    try:
        return bytes.fromhex(text.strip().removeprefix("0x"))
    except ValueError as error:
        raise click.UsageError(f"argument {text[:40]!r} is not hexadecimal") from error


# -- create and install


@canister.command()
@click.argument("name", required=False)
@click.option("--controller", "controllers", multiple=True, metavar="NAME|PRINCIPAL", help="Who controls it.")
@click.option("--cycles", type=CYCLES, default="100t", help="Its balance, such as 2t.")
@click.option("--specified-id", metavar="ID", help="Its id, by default the next free one.")
@common
def create(
    state: State,
    name: str | None,
    controllers: tuple[str, ...],
    cycles: int,
    specified_id: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Create a canister without code.

    \b
    Example:
        perdure canister create ledger --cycles 2t --controller alice
    """  # noqa: D301
    with state.open(create=True) as subnet:
        created = _create(state, subnet, name, controllers, cycles, specified_id)
        _say(as_json, quiet, {"canister_id": str(created.id), "name": name}, f"created {name or ''} {created.id}")


def _create(
    state: State,
    subnet: Subnet,
    name: str | None,
    controllers: tuple[str, ...] = (),
    cycles: int = 100 * 10**12,
    specified_id: str | None = None,
) -> Canister:
    from perdure.ic.principal import Principal

    if name is not None and name in state.names.ids:
        raise click.UsageError(f"canister {name!r} exists already: {state.names.ids[name]}")
    wanted = Principal.from_text(specified_id) if specified_id is not None else None
    try:
        made = subnet.create_canister(
            canister_id=wanted, controllers=[principal_of(one) for one in controllers], cycles=cycles
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if name is not None:
        state.names.ids[name] = str(made.id)
        state.names.save()
    return made


@canister.command()
@canister_argument
@click.option(
    "-m",
    "--mode",
    type=click.Choice(["auto", "install", "reinstall", "upgrade"]),
    default="auto",
    help="auto: upgrade where there is code, install where there is none.",
)
@click.option("--wasm", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The module, gzip or not.")
@_argument_options
@click.option("--wasm-memory-persistence", type=click.Choice(["keep", "replace"]), help="What becomes of the heap.")
@click.option("--skip-pre-upgrade", is_flag=True, help="Do not run the old code's pre-upgrade hook.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before a reinstallation.")
@common
def install(
    state: State,
    canister: str,
    mode: str,
    wasm: Path | None,
    args: str | None,
    args_file: Path | None,
    args_format: str,
    wasm_memory_persistence: str | None,
    skip_pre_upgrade: bool,
    yes: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Install a module on CANISTER, which is created if need be, or upgrade it.

    Without --wasm the module is the one that icp.yaml or dfx.json names.

    \b
    Example:
        perdure canister install ledger --wasm ledger.wasm --args '(record { symbol = "TST" })'
    """  # noqa: D301
    described = state.described(canister)
    if wasm is None:
        if described is None:
            raise click.UsageError(f"no project here says what {canister!r} is: pass --wasm")
        wasm = described.wasm()
    given = _given(args, args_file, args_format)
    with state.open(create=True) as subnet:
        target = state.find(subnet, canister) if state.id_of(canister) is not None else _create(state, subnet, canister)
        if mode == "auto":
            mode = "install" if target.module is None else "upgrade"
        if mode == "reinstall" and not yes:
            click.confirm(f"Reinstalling {canister} loses all of its memory. Go on?", abort=True, err=True)
        if given is None and mode != "upgrade" and described is not None:
            given = described.init_args
        argument = _NO_VALUES if given is None else given
        if mode == "upgrade":
            persistence = wasm_memory_persistence or _default_persistence(target)
            target.upgrade(wasm, argument, wasm_memory_persistence=persistence, skip_pre_upgrade=skip_pre_upgrade)
        elif mode == "reinstall":
            target.reinstall(wasm, argument)
        else:
            target.install(wasm, argument)
        module_hash = (target.status().module_hash or b"").hex()
        record = {"canister_id": str(target.id), "mode": mode, "module_hash": module_hash}
        _say(as_json, quiet, record, f"{mode} {canister} {target.id}, module {module_hash[:16]}")


def _default_persistence(target: Canister) -> str | None:
    """Motoko with enhanced orthogonal persistence keeps its heap, as icp and dfx do it."""
    return "keep" if target.module is not None and _PERSISTENCE_SECTION in target.module.custom_sections else None


# -- calls


@canister.command()
@canister_argument
@click.argument("method")
@click.argument("text", required=False, metavar="[ARGS]")
@click.option("--query", "kind", flag_value="query", help="Call as a query, whose effects are dropped.")
@click.option("--update", "kind", flag_value="update", help="Call as an update, also a query method.")
@_argument_options
@click.option("--candid", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The .did file.")
@click.option("--cycles", "--with-cycles", type=CYCLES, default=0, help="Cycles to send along.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["auto", "candid", "text", "hex", "idl", "json", "pp", "raw"]),
    default="auto",
    help="How the reply is written; idl, pp and raw are dfx's words.",
)
@identity
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
    identity: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Call METHOD of CANISTER with ARGS in Candid's text form. A query method is called as a query.

    \b
    Example:
        perdure canister call ledger transfer '(record { to = principal "2vxsx-fae"; amount = 5 })' --identity alice
    """  # noqa: D301
    if text is not None and args is not None:
        raise click.UsageError("arguments were given twice: in place and with --args")
    given = _given(text if args is None else args, args_file, args_format)
    with state.open() as subnet:
        target = state.find(subnet, canister)
        service = _service(state, target, canister, candid)
        known = service.methods.get(method) if service is not None else None
        argument = _encoded(known, given)
        sender = principal_of(identity)
        if (kind or _kind(target, method)) == "query":
            reply = target.query(method, argument, sender=sender)
        else:
            reply = target.update(method, argument, sender=sender, cycles=cycles)
        click.echo(_shown(known, reply, "json" if as_json else output))


def _service(state: State, target: Canister, name: str, candid: Path | None) -> ServiceType | None:
    from perdure.errors import UnsupportedError

    described = state.described(name)
    if candid is None and described is not None and described.candid is not None and described.candid.exists():
        candid = described.candid
    try:
        return target.service(candid)
    except UnsupportedError:
        return None


def _kind(target: Canister, method: str) -> str:
    exported = target.module.exported_methods if target.module is not None else frozenset()
    is_query = f"canister_query {method}" in exported or f"canister_composite_query {method}" in exported
    return "query" if is_query else "update"


def _encoded(method: ServiceMethod | None, given: str | bytes | None) -> bytes:
    if isinstance(given, bytes):
        return given
    from perdure.candid import encode, parse_values

    if given is not None and not given.lstrip().startswith("("):
        given = f"({given})"
    if method is None:
        return _NO_VALUES if given is None else encode(*parse_values(given))
    if given is None:
        return method.encode(())
    return method.encode(parse_values(given, method.func.args)[1])


def _shown(method: ServiceMethod | None, reply: bytes, output: str) -> str:
    if output in ("hex", "raw"):
        return reply.hex()
    from perdure.candid import decode_with_types, values_to_text
    from perdure.errors import MalformedError

    try:
        if method is not None:
            types, values = method.func.results, method.decode(reply)
        else:
            types, values = decode_with_types(reply)
    except MalformedError:
        if output not in ("auto", "text", "json"):
            raise
        text = _printable(reply)
        return json.dumps({"reply": reply.hex(), "text": text}) if output == "json" else text or reply.hex()
    if output == "json":
        return json.dumps([_as_json(value) for value in values], indent=2)
    if output == "text" and len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return values_to_text(types, values)


def _printable(reply: bytes) -> str | None:
    try:
        text = reply.decode()
    except UnicodeDecodeError:
        return None
    return text if text and text.isprintable() else None


def _as_json(value: Any) -> Any:
    """A Candid value in JSON: principals as text, blobs in hexadecimal, large integers as they are."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    return str(value)


# -- what there is to see


@canister.command("list")
@common
def list_(state: State, as_json: bool, quiet: bool) -> None:
    """List the canisters.

    \b
    Example:
        perdure canister list --json
    """  # noqa: D301
    with state.open() as subnet:
        rows = [{"name": state.names.name_of(one.id), "canister_id": str(one.id)} for one in subnet.canisters]
    lines = [f"{row['canister_id']}  {row['name'] or ''}".rstrip() for row in rows]
    _say(as_json, False, rows, "\n".join(lines))


@canister.command()
@click.argument("canisters", nargs=-1, metavar="[CANISTER]...")
@click.option("-i", "--id-only", is_flag=True, help="Print the id alone.")
@common
def status(state: State, canisters: tuple[str, ...], id_only: bool, as_json: bool, quiet: bool) -> None:
    """Show state, module, memory and cycles of canisters, of all if none is named.

    \b
    Example:
        perdure canister status ledger
    """  # noqa: D301
    with state.open() as subnet:
        chosen = [state.find(subnet, one) for one in canisters] or list(subnet.canisters)
        if id_only:
            click.echo("\n".join(str(one.id) for one in chosen))
            return
        records = [_status_record(state, one) for one in chosen]
    text = "\n\n".join(_status_text(record) for record in records)
    _say(as_json, False, records if len(records) != 1 else records[0], text)


def _status_record(state: State, target: Canister) -> dict[str, Any]:
    facts = target.status()
    return {
        "canister_id": str(target.id),
        "name": state.names.name_of(target.id),
        "status": facts.status,
        "controllers": [str(one) for one in facts.controllers],
        "module_hash": facts.module_hash.hex() if facts.module_hash is not None else None,
        "version": facts.version,
        "cycles": facts.cycles,
        "heap_bytes": facts.heap_bytes,
        "stable_bytes": facts.stable_bytes,
        "memory_bytes": facts.memory_bytes,
    }


def _status_text(record: dict[str, Any]) -> str:
    shown = {
        "Canister": f"{record['canister_id']}  {record['name'] or ''}".rstrip(),
        "Status": record["status"],
        "Controllers": " ".join(record["controllers"]),
        "Module hash": record["module_hash"] or "none",
        "Version": str(record["version"]),
        "Cycles": f"{show_cycles(record['cycles'])}",
        "Heap": show_bytes(record["heap_bytes"]),
        "Stable memory": show_bytes(record["stable_bytes"]),
        "Memory in all": show_bytes(record["memory_bytes"]),
    }
    return "\n".join(f"{name + ':':15}{value}" for name, value in shown.items())


@canister.command()
@canister_argument
@click.option("--since", metavar="NS|TIME", help="From this time on: ns since 1970, or 2026-01-31T12:00:00Z.")
@click.option("--until", metavar="NS|TIME", help="Before this time.")
@common
def logs(state: State, canister: str, since: str | None, until: str | None, as_json: bool, quiet: bool) -> None:
    """Print what CANISTER wrote and the traps it ended in, oldest first.

    \b
    Example:
        perdure canister logs ledger --since 2026-01-31T12:00:00Z
    """  # noqa: D301
    start_ns, end_ns = _time_ns(since, 0), _time_ns(until, 1 << 64)
    with state.open() as subnet:
        records = [one for one in state.find(subnet, canister).logs() if start_ns <= one.time_ns < end_ns]
    rows: list[dict[str, Any]] = [
        {"index": one.sequence, "timestamp": one.time_ns, "content": _log_text(one.content)} for one in records
    ]
    lines = [f"[{one['index']}. {_show_time(one['timestamp'])}]: {one['content']}" for one in rows]
    if as_json or lines:
        _say(as_json, False, rows, "\n".join(lines))


def _log_text(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"(bytes) 0x{content.hex()}"


def _time_ns(text: str | None, default: int) -> int:
    if text is None:
        return default
    if text.isdecimal():
        return int(text)
    from datetime import datetime

    try:
        return int(datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() * 1_000_000_000)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is no time: ns since 1970, or 2026-01-31T12:00:00Z") from error


def _show_time(time_ns: int) -> str:
    from datetime import UTC, datetime

    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns:09}Z"


# -- settings


@canister.group()
def settings() -> None:
    """Show or change settings."""


@settings.command("show")
@canister_argument
@common
def show_settings(state: State, canister: str, as_json: bool, quiet: bool) -> None:
    """Show the settings of CANISTER.

    \b
    Example:
        perdure canister settings show ledger
    """  # noqa: D301
    with state.open() as subnet:
        found = _as_json(state.find(subnet, canister).settings())
    _say(
        as_json,
        False,
        found,
        "\n".join(f"{name}: {_SETTING_TEXT.get(name, str)(found[name])}" for name in sorted(found)),
    )


def _variables_text(variables: list[dict[str, str]]) -> str:
    return ", ".join(f"{one['name']}={one['value']}" for one in variables) or "none"


_SETTING_TEXT: Final[dict[str, Callable[[Any], str]]] = {
    "compute_allocation": lambda value: f"{value} %",
    "controllers": " ".join,
    "environment_variables": _variables_text,
    "freezing_threshold": lambda value: f"{value} seconds",
    "log_visibility": ", ".join,
    "memory_allocation": show_bytes,
    "minimum_incoming_canister_call_cycles": show_cycles,
    "reserved_cycles_limit": show_cycles,
    "snapshot_visibility": ", ".join,
    "status_visibility": ", ".join,
    "wasm_memory_limit": show_bytes,
    "wasm_memory_threshold": show_bytes,
}


@settings.command("update")
@canister_argument
@click.option("--add-controller", "added", multiple=True, metavar="NAME|PRINCIPAL")
@click.option("--remove-controller", "removed", multiple=True, metavar="NAME|PRINCIPAL")
@click.option("--set-controller", "controllers", multiple=True, metavar="NAME|PRINCIPAL")
@click.option("--compute-allocation", type=click.IntRange(0, 100), metavar="PERCENT")
@click.option("--memory-allocation", type=SIZE)
@click.option("--freezing-threshold", type=DURATION)
@click.option("--reserved-cycles-limit", type=CYCLES)
@click.option("--wasm-memory-limit", type=SIZE)
@click.option("--wasm-memory-threshold", type=SIZE)
@click.option("--log-visibility", type=click.Choice(["controllers", "public"]))
@click.option("--add-environment-variable", "variables", multiple=True, metavar="NAME=VALUE")
@common
def update_settings(
    state: State,
    canister: str,
    added: tuple[str, ...],
    removed: tuple[str, ...],
    controllers: tuple[str, ...],
    log_visibility: str | None,
    variables: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **amounts: int | None,
) -> None:
    """Change settings of CANISTER; sizes, cycles and durations take units: 2gib, 5t, 30d.

    \b
    Example:
        perdure canister settings update ledger --add-controller alice --freezing-threshold 90d
    """  # noqa: D301
    with state.open() as subnet:
        target = state.find(subnet, canister)
        changes: dict[str, Any] = {name: value for name, value in amounts.items() if value is not None}
        if added or removed or controllers:
            changes["controllers"] = _controllers(target, added, removed, controllers)
        if log_visibility is not None:
            changes["log_visibility"] = {log_visibility: None}
        if variables:
            before = {one["name"]: one["value"] for one in target.settings()["environment_variables"]}
            after = before | dict(_variable(one) for one in variables)
            changes["environment_variables"] = [{"name": name, "value": value} for name, value in after.items()]
        if not changes:
            raise click.UsageError("nothing to change: name a setting")
        target.update_settings(**changes)
        _say(as_json, quiet, _as_json(changes), f"changed {', '.join(changes)} of {canister}")


def _controllers(
    target: Canister, added: tuple[str, ...], removed: tuple[str, ...], controllers: tuple[str, ...]
) -> list[Principal]:
    kept = [principal_of(one) for one in controllers] or list(target.status().controllers)
    gone = {principal_of(one) for one in removed}
    return [one for one in (*kept, *(principal_of(one) for one in added)) if one not in gone]


def _variable(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise click.UsageError(f"{text!r} is no NAME=VALUE")
    return name, value


# -- life


def _verb(name: str, done: str, act: Callable[[Canister], None], description: str) -> None:
    """A command that does one thing to one canister."""

    def command(state: State, canister: str, as_json: bool, quiet: bool) -> None:
        with state.open() as subnet:
            target = state.find(subnet, canister)
            act(target)
            if name == "delete":
                state.names.ids.pop(state.names.name_of(target.id) or "", None)
                state.names.save()
        _say(as_json, quiet, {"canister_id": str(target.id), "done": done}, f"{done} {canister}")

    command.__doc__ = f"{description}\n\n\b\nExample:\n    perdure canister {name} ledger\n"
    canister.command(name)(canister_argument(common(command)))


_verb("start", "started", lambda target: target.start(), "Let CANISTER take calls again.")
_verb("stop", "stopped", lambda target: target.stop(), "Let CANISTER take no more calls.")
_verb("delete", "deleted", lambda target: target.delete(), "Remove the stopped CANISTER for ever.")


@canister.command("top-up")
@canister_argument
@click.option("--amount", type=CYCLES, required=True, help="Cycles to add, such as 2t.")
@common
def top_up(state: State, canister: str, amount: int, as_json: bool, quiet: bool) -> None:
    """Add cycles to CANISTER.

    \b
    Example:
        perdure canister top-up ledger --amount 2t
    """  # noqa: D301
    with state.open() as subnet:
        balance = state.find(subnet, canister).add_cycles(amount)
    _say(as_json, quiet, {"cycles": balance}, f"{canister} has {show_cycles(balance)} cycles")


# -- snapshots


@canister.group()
def snapshot() -> None:
    """Take, list, restore, delete and exchange snapshots."""


@snapshot.command("create")
@canister_argument
@click.option("--replace", metavar="ID", help="The snapshot whose place it takes.")
@common
def create_snapshot(state: State, canister: str, replace: str | None, as_json: bool, quiet: bool) -> None:
    """Keep a copy of CANISTER's code and memory.

    \b
    Example:
        perdure canister snapshot create ledger
    """  # noqa: D301
    with state.open() as subnet:
        taken = state.find(subnet, canister).take_snapshot(replace=_snapshot_id(replace))
    _say(as_json, False, {"snapshot_id": taken.hex()}, taken.hex())


def _snapshot_id(text: str | None) -> bytes | None:
    try:
        return None if text is None else bytes.fromhex(text)
    except ValueError as error:
        raise click.UsageError(f"snapshot id {text!r} is not hexadecimal") from error


@snapshot.command("list")
@canister_argument
@common
def list_snapshots(state: State, canister: str, as_json: bool, quiet: bool) -> None:
    """List the snapshots of CANISTER.

    \b
    Example:
        perdure canister snapshot list ledger
    """  # noqa: D301
    with state.open() as subnet:
        found = _as_json(state.find(subnet, canister).snapshots())
    lines = [f"{one['id']}  {show_bytes(one['total_size'])}  {_show_time(one['taken_at_timestamp'])}" for one in found]
    if as_json or lines:
        _say(as_json, False, found, "\n".join(lines))


def _snapshot_verb(name: str, done: str, act: Callable[[Canister, bytes], None], description: str) -> None:
    def command(state: State, canister: str, snapshot_id: str, as_json: bool, quiet: bool) -> None:
        with state.open() as subnet:
            act(state.find(subnet, canister), _snapshot_id(snapshot_id) or b"")
        _say(as_json, quiet, {"snapshot_id": snapshot_id, "done": done}, f"{done} {snapshot_id}")

    command.__doc__ = f"{description}\n\n\b\nExample:\n    perdure canister snapshot {name} ledger 0000...01\n"
    made = canister_argument(click.argument("snapshot_id", metavar="SNAPSHOT_ID")(common(command)))
    snapshot.command(name)(made)


_snapshot_verb("restore", "restored", lambda target, one: target.load_snapshot(one), "Go back to a snapshot.")
_snapshot_verb("delete", "deleted", lambda target, one: target.delete_snapshot(one), "Forget a snapshot.")


@snapshot.command("download")
@canister_argument
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="A directory, to be made.")
@common
def download_snapshot(state: State, canister: str, output: Path, as_json: bool, quiet: bool) -> None:
    """Write CANISTER as it stands to a directory that `icp canister snapshot upload` takes.

    \b
    Example:
        perdure canister snapshot download ledger -o ./ledger-snapshot
    """  # noqa: D301
    with state.open() as subnet:
        state.find(subnet, canister).write_snapshot(output)
    _say(as_json, quiet, {"path": str(output)}, f"wrote {output}")


@snapshot.command("upload")
@canister_argument
@click.option(
    "-i", "--input", "directory", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--replace", metavar="ID", help="The snapshot whose place it takes.")
@common
def upload_snapshot(
    state: State, canister: str, directory: Path, replace: str | None, as_json: bool, quiet: bool
) -> None:
    """Make a downloaded directory a snapshot of CANISTER, for restore.

    \b
    Example:
        perdure canister snapshot upload ledger -i ./ledger-snapshot
    """  # noqa: D301
    with state.open() as subnet:
        taken = state.find(subnet, canister).upload_snapshot(directory, replace=_snapshot_id(replace))
    _say(as_json, False, {"snapshot_id": taken.hex()}, taken.hex())
