"""`perdure memory`: the memories of a canister, those that the network does not know among them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from perdure.cli.canister.state import State, canister_argument, common, say
from perdure.units import show_bytes

if TYPE_CHECKING:
    from perdure.subnet import Canister, Subnet
    from perdure.subnet.memories import LiveMemory

__all__ = ["memory"]

_ROW_BYTES = 16
_COPY_BYTES = 1 << 20


@click.group()
def memory() -> None:
    """List, show, export and drop a canister's memories: heap, stable memory, and those of its own.

    CANISTER is a name or an id of the project's .perdure directory, or of the one that --state names.

    \b
    Example:
        perdure memory ls ledger
    """  # noqa: D301 - click wants the backspace itself


def _read(state: State, canister: str) -> tuple[Subnet, Canister]:
    """A canister as it was last committed; the directory may be in use."""
    from perdure.subnet import Subnet

    if not state.directory.exists():
        raise click.UsageError(f"no state in {state.directory}: `perdure canister install` begins one")
    subnet = Subnet.read(state.directory)
    return subnet, state.find(subnet, canister)


def _find(canister: Canister, name: str) -> LiveMemory:
    memories = canister.memories
    if name not in memories:
        raise click.UsageError(f"no memory {name!r:.80}, there is {', '.join(memories)}")
    return memories[name]


@memory.command()
@canister_argument
@common
def ls(state: State, canister: str, as_json: bool, quiet: bool) -> None:
    """List the memories of CANISTER: how long they stay, how wide, how large, and whether its code uses them.

    \b
    Example:
        perdure memory ls ledger
    """  # noqa: D301
    subnet, found = _read(state, canister)
    with subnet:
        rows = [
            {
                "memory": name,
                "lifetime": one.lifetime,
                "address_bits": one.kind.address_bits,
                "state": one.state,
                "size_bytes": one.size() << 16,
            }
            for name, one in found.memories.items()
        ]
    lines = [
        f"{row['memory']:<20} {row['lifetime']:<8} {row['address_bits']}-bit  {row['state']:<10} "
        f"{show_bytes(int(str(row['size_bytes'])))}"
        for row in rows
    ]
    say(as_json, quiet, {"memories": rows}, "\n".join(lines))


@memory.command()
@canister_argument
@click.argument("name")
@click.option("--address", type=click.IntRange(0), default=0, help="Where to begin.")
@click.option("--bytes", "size_bytes", type=click.IntRange(0), default=256, help="How many, as far as there are any.")
@common
def show(state: State, canister: str, name: str, address: int, size_bytes: int, as_json: bool, quiet: bool) -> None:
    """Show bytes of the memory NAME of CANISTER.

    \b
    Example:
        perdure memory show ledger users --address 4096 --bytes 64
    """  # noqa: D301
    subnet, found = _read(state, canister)
    with subnet:
        one = _find(found, name)
        data = one.read(address, max(0, min(size_bytes, (one.size() << 16) - address)))
    lines = []
    for at in range(0, len(data), _ROW_BYTES):
        row = data[at : at + _ROW_BYTES]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + at:012x}  {row.hex(' '):<{3 * _ROW_BYTES}} {text}")
    say(as_json, False, {"memory": name, "address": address, "data": data.hex()}, "\n".join(lines))


@memory.command()
@canister_argument
@click.argument("name")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file.")
@common
def export(state: State, canister: str, name: str, output: Path, as_json: bool, quiet: bool) -> None:
    """Write the memory NAME of CANISTER to a file, byte for byte.

    \b
    Example:
        perdure memory export ledger users -o users.bin
    """  # noqa: D301
    from perdure.inspection.whole import whole_file

    subnet, found = _read(state, canister)
    with subnet:
        one = _find(found, name)
        size_bytes = one.size() << 16
        with whole_file(output) as draft, draft.open("wb") as file:
            for at in range(0, size_bytes, _COPY_BYTES):
                file.write(one.read(at, min(_COPY_BYTES, size_bytes - at)))
    say(as_json, quiet, {"memory": name, "size_bytes": size_bytes, "file": str(output)}, f"{size_bytes} bytes")


@memory.command()
@canister_argument
@click.argument("name")
@click.option("--snapshot/--no-snapshot", "wanted", default=None, help="Whether to keep a snapshot of it all first.")
@common
def drop(state: State, canister: str, name: str, wanted: bool | None, as_json: bool, quiet: bool) -> None:
    """Take the memory NAME of CANISTER away, which its code does not use any more, and all that is in it.

    Asks first whether to take a snapshot of the canister; without a terminal --snapshot or --no-snapshot says it.

    \b
    Example:
        perdure memory drop ledger users --snapshot
    """  # noqa: D301
    with state.open() as subnet:
        found = state.find(subnet, canister)
        one = _find(found, name)
        if one.state != "unused":
            raise click.UsageError(f"memory {name!r} is {one.state}: upgrade to a module that does not name it first")
        if wanted is None:
            wanted = click.confirm(f"Keep a snapshot of {canister} first?", default=True, err=True)
        taken = found.take_snapshot().hex() if wanted else None
        one.drop()
    text = f"dropped {name}" + (f"; snapshot {taken}" if taken else "")
    say(as_json, quiet, {"dropped": name, "snapshot_id": taken}, text)
