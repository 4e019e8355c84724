"""`perdure memory`: the memories of a canister, those that the network does not know among them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from perdure.cli.argument import InputFile
from perdure.cli.canister.state import State, canister_argument, common, say
from perdure.cli.lazy import Group
from perdure.cli.paths import LocalPath
from perdure.errors import NoMemoryError
from perdure.units import show_bytes
from perdure.urls import is_url

if TYPE_CHECKING:
    from perdure.memory import Memory
    from perdure.subnet import Canister
    from perdure.subnet.memories import LiveMemory

__all__ = ["memory"]

_ROW_BYTES = 16
_COPY_BYTES = 1 << 20
_COMMIT_BYTES = 64 << 20
_MAX_ID = 254


@click.group(cls=Group)
def memory() -> None:
    """List, show, export, import and drop a canister's memories: heap, stable memory, and those of its own.

    CANISTER is a name or an id of the project's .perdure directory, or of the one that --state names; what only reads
    takes the directory of a snapshot, too, or a dump of stable memory. NAME#ID is the memory ID of the memory manager
    in the memory NAME: stable#5.

    \b
    Example:
        perdure memory ls ledger
    """  # noqa: D301 - click wants the backspace itself


def _source(state: State, canister: str) -> str:
    """What is read, in a word: a canister as it was last committed, whose directory may be in use, or a path."""
    if Path(canister).exists() or is_url(canister):
        return canister
    if not state.directory.exists():
        raise click.UsageError(f"no state in {state.directory}: `perdure canister install` begins one")
    return f"{state.directory}:{canister}"


def _find(canister: Canister, name: str) -> LiveMemory:
    try:
        return canister.memories[name]
    except NoMemoryError as error:
        raise click.UsageError(str(error)) from error


def _within(memory: Memory, name: str, *, create: bool = False) -> Memory:
    """The memory NAME says: `memory` itself, or with #ID one of those in it."""
    from perdure.errors import MalformedError
    from perdure.stable import MemoryManager

    whole, hash_, number = name.partition("#")
    if not hash_:
        return memory
    if not number.isdecimal() or int(number) > _MAX_ID:
        raise click.UsageError(f"memory {name!r:.80}: an id is 0 to {_MAX_ID}, found {number!r:.80}")
    try:
        manager = (MemoryManager.init if create else MemoryManager.load)(memory)
    except MalformedError as error:
        raise click.ClickException(f"no memory manager is in {whole}: {error}") from error
    if not create and int(number) not in manager.memory_ids():
        raise click.UsageError(
            f"no memory {name!r:.80}, the memory manager in {whole} has {', '.join(map(str, manager.memory_ids()))}"
        )
    return manager.get(int(number))


@contextmanager
def _opened(state: State, source: str, name: str) -> Iterator[Memory]:
    """The memory NAME of a canister, of a snapshot, or of a dump, which has stable memory alone."""
    from perdure.inspection.open import open_source

    found, whole = _source(state, source), name.partition("#")[0]
    if whole != "stable" and Path(found).is_file():
        raise click.UsageError(f"no memory {name!r:.80}, a dump has stable and stable#ID")
    with open_source(found if whole == "stable" else f"{found}#{whole}") as opened:
        yield _within(opened.memory, name)


@memory.command()
@canister_argument
@common
def ls(state: State, canister: str, as_json: bool, quiet: bool) -> None:
    """List the memories of CANISTER: how long they stay, how wide, how large, and whether its code uses them.

    CANISTER may also be the directory of a snapshot, or a file with a stable memory.

    \b
    Example:
        perdure memory ls ledger
        perdure memory ls snapshots/ledger
    """  # noqa: D301
    from perdure.inspection.memories import memories_of

    rows = memories_of(_source(state, canister))
    lines = [
        f"{row.memory:<20} {row.lifetime:<8} {row.address_bits or ' ?'}-bit  {row.state:<10} "
        f"{show_bytes(row.size_bytes)}"
        for row in rows
    ]
    say(as_json, quiet, {"memories": [row._asdict() for row in rows]}, "\n".join(lines))


@memory.command()
@canister_argument
@click.argument("name")
@click.option("--address", type=click.IntRange(0), default=0, help="Where to begin.")
@click.option("--bytes", "size_bytes", type=click.IntRange(0), default=256, help="How many, as far as there are any.")
@common
def show(state: State, canister: str, name: str, address: int, size_bytes: int, as_json: bool, quiet: bool) -> None:
    """Show bytes of the memory NAME of CANISTER, or of a snapshot or a dump as `export` takes them.

    \b
    Example:
        perdure memory show ledger users --address 4096 --bytes 64
        perdure memory show ledger stable#5
    """  # noqa: D301
    with _opened(state, canister, name) as one:
        end = one.size() << 16
        if address > end:
            raise click.UsageError(f"--address {address:#x} lies behind the end of {name}, which has {end:#x} bytes")
        data = one.read(address, min(size_bytes, end - address))
    lines = []
    for at in range(0, len(data), _ROW_BYTES):
        row = data[at : at + _ROW_BYTES]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        lines.append(f"{address + at:012x}  {row.hex(' '):<{3 * _ROW_BYTES}} {text}")
    say(as_json, False, {"memory": name, "address": address, "data": data.hex()}, "\n".join(lines))


@memory.command()
@canister_argument
@click.argument("name")
@click.option("-o", "--output", required=True, type=LocalPath(dir_okay=False, path_type=Path), help="The file.")
@common
def export(state: State, canister: str, name: str, output: Path, as_json: bool, quiet: bool) -> None:
    """Write the memory NAME of CANISTER to a file, byte for byte.

    CANISTER may also be the directory of a snapshot, or a file with a stable memory.

    \b
    Example:
        perdure memory export ledger users -o users.bin
        perdure memory export snapshots/ledger stable#5 -o users.bin
    """  # noqa: D301
    from perdure.inspection.whole import whole_file

    with _opened(state, canister, name) as one:
        size_bytes = one.size() << 16
        with whole_file(output) as draft, draft.open("wb") as file:
            for at in range(0, size_bytes, _COPY_BYTES):
                file.write(one.read(at, min(_COPY_BYTES, size_bytes - at)))
    say(as_json, quiet, {"memory": name, "size_bytes": size_bytes, "file": str(output)}, f"{size_bytes} bytes")


@memory.command(name="import")
@canister_argument
@click.argument("name")
@click.argument("file", type=InputFile())
@click.option("--snapshot/--no-snapshot", "wanted", default=None, help="Whether to keep a snapshot of it all first.")
@common
def import_(
    state: State, canister: str, name: str, file: Path, wanted: bool | None, as_json: bool, quiet: bool
) -> None:
    """Make what is in FILE the content of the memory NAME of CANISTER, which grows to hold it.

    Beyond the end of the file the memory is zeros. CANISTER has to have the memory NAME; NAME#ID comes to be. Where
    something would be overwritten, asks first whether to take a snapshot of the canister; without a terminal
    --snapshot or --no-snapshot says it. What is larger than 64 MiB is several commits.

    \b
    Example:
        perdure memory import ledger users users.bin
        perdure memory import ledger stable#5 users.bin --no-snapshot
    """  # noqa: D301
    with state.open() as subnet:
        found = state.find(subnet, canister)
        one = _within(_find(found, name.partition("#")[0]), name, create=True)
        if wanted is None and one.size():
            wanted = click.confirm(f"Keep a snapshot of {canister} first?", default=True, err=True)
        taken = found.take_snapshot().hex() if wanted else None
        with file.open("rb") as data:
            size_bytes = _overwrite(one, data, file.stat().st_size)
    text = f"{size_bytes} bytes" + (f"; snapshot {taken}" if taken else "")
    say(as_json, quiet, {"memory": name, "size_bytes": size_bytes, "snapshot_id": taken}, text)


def _overwrite(memory: Memory, data: BinaryIO, size_bytes: int) -> int:
    """Write all of a file, zeros behind it, and leave out what is there already; the file's size."""
    old_bytes = memory.size() << 16
    missing = -(-size_bytes // (1 << 16)) - memory.size()
    if missing > 0 and memory.grow(missing) == -1:
        raise click.ClickException(f"the memory cannot grow by {missing} Wasm pages to hold {size_bytes} bytes")
    for at in range(0, max(size_bytes, old_bytes), _COMMIT_BYTES):
        end = min(at + _COMMIT_BYTES, memory.size() << 16)
        piece = data.read(_COMMIT_BYTES).ljust(end - at, b"\0")
        if piece != memory.read(at, end - at):
            memory.write(at, piece)
    return size_bytes


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
