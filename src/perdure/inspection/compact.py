"""Stable memory with a manager, written anew without its holes, and without memories that nobody wants any more.

`perdure.stable.compaction` says what goes where. The crate's manager is on the heap too: code that went on with its old
heap would write where its memories were. So the heap is made anew as an upgrade makes it: the code's own pre_upgrade
runs on the memory as it is, then the buckets slide, then start and post_upgrade run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, final

from perdure.errors import RejectError, StorageError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.inspection.canister import open_canister
from perdure.inspection.find import Inventory, Structure, find_in_memory, name_structures
from perdure.inspection.motoko import gathered
from perdure.inspection.open import open_source
from perdure.inspection.remote import localized
from perdure.memory import WASM_PAGE_BYTES
from perdure.stable.compaction import Compacted, Compaction
from perdure.storage.snapshot import write_dump
from perdure.subnet.canister import Canister
from perdure.subnet.memories import ImageMemory
from perdure.subnet.snapshots import write
from perdure.subnet.subnet import Subnet
from perdure.values.schema import Schema

__all__ = ["Outcome", "compact"]


class Dropped(NamedTuple):
    """A structure that was left out: its label, name and kind, and how many entries it had."""

    label: str
    name: str | None
    kind: str
    entries: int | None


@final
@dataclass(frozen=True)
class Outcome:
    """What was written.

    Attributes:
        dropped: structures that were left out.
        freed_buckets: how many buckets went.
        bucket_wasm_pages: Wasm pages of one.
        wasm_pages: of stable memory, before and after.
        heap: what became of the heap: ``renewed``, ``kept``, or ``none`` where there is none.
    """

    dropped: tuple[Dropped, ...]
    freed_buckets: int
    bucket_wasm_pages: int
    wasm_pages: tuple[int, int]
    heap: str


def compact(
    source: str,
    output: Path,
    *,
    drop: Collection[str] = (),
    schema: Schema | None = None,
    arg: Any = None,
    keep_heap: bool = False,
    canister_id: Principal | None = None,
    extensions: Sequence[str] = (),
) -> Outcome:
    """Write what `source` has without its holes and without some memories; the source is only read.

    Args:
        source: a snapshot's directory or ``STATE_DIR:CANISTER``, of which a snapshot is made; a raw dump, of which a
            dump is made.
        output: must not exist.
        drop: memories to leave out: ids, or names from the schema.
        schema: gives memories their names.
        arg: of post_upgrade.
        keep_heap: leave the heap as it is: the code is to be upgraded before it is run, without its pre_upgrade.
        canister_id: of a snapshot's canister, which does not say it.
        extensions: what that may use beyond the network's rules.

    Raises:
        StorageError: there is no such source, the output exists or cannot be written.
        MalformedError: the manager is damaged.
        UnsupportedError: there is no manager, no such memory, or bytes would be lost.
        RejectError: a hook trapped.
    """
    if output.exists():
        raise StorageError("exists already; it is never changed", output)
    if not output.absolute().parent.is_dir():
        raise StorageError("no such directory", output.parent)
    with localized(source) as local:
        if _is_dump(local):
            return _compact_dump(local, output, drop, schema)
        with open_canister(local, canister_id, extensions=extensions) as canister:
            return _compact_canister(canister, output, drop, schema, arg, keep_heap)


def _is_dump(source: str) -> bool:
    return source == "-" or (Path(source).exists() and not Path(source).is_dir())


def _compact_dump(source: str, output: Path, drop: Collection[str], schema: Schema | None) -> Outcome:
    with open_source(source) as opened:
        inventory = name_structures(find_in_memory(opened.memory, opened.extents), schema)
        plan, dropped = _plan(inventory, drop)
        write_dump(output, Compacted(plan, opened.extents))
        return _outcome(plan, dropped, "none")


def _compact_canister(
    canister: Canister, output: Path, drop: Collection[str], schema: Schema | None, arg: Any, keep_heap: bool
) -> Outcome:
    """Through a snapshot beside the output, if the heap is made anew."""
    _plan(_inventory(canister, schema), drop)  # before anything is run: what cannot be done is told first
    module = canister.module
    if keep_heap or module is None:
        return _write(canister, output, drop, schema, "kept")
    gathered(canister).commit()
    with _beside(output) as place:
        outcome = _write(canister, place, drop, schema, "renewed")
        with _opened(place, canister) as subnet:
            (renewed,) = subnet.canisters
            try:
                renewed.upgrade(module.wasm, arg, skip_pre_upgrade=True)
            except RejectError as error:
                advice = "the heap could not be made anew (an argument for post_upgrade? or keep the heap): "
                raise RejectError(error.code, error.error_code, advice + error.message, error.backtrace) from error
            renewed.write_snapshot(output)
    return outcome


def _opened(place: Path, canister: Canister) -> Subnet:
    """A snapshot of a canister, on a subnet whose rules are those of its own."""
    controllers, extensions = _controllers(canister), canister._subnet.extensions
    return Subnet.open(place, canister_id=canister.id, controllers=controllers, extensions=extensions)


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A place for a snapshot that is not the one that was asked for, on the same file system."""
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.absolute().parent) as directory:
        yield Path(directory) / "snapshot"


def _controllers(canister: Canister) -> tuple[Principal, ...]:
    return tuple(Principal(one) for one in sorted(canister._state.settings.controllers))


def _inventory(canister: Canister, schema: Schema | None) -> Inventory:
    image = canister._instance.state.memories["stable"]
    inventory = find_in_memory(ImageMemory(image), list(image.data_ranges()))
    return name_structures(inventory, schema)


def _write(canister: Canister, output: Path, drop: Collection[str], schema: Schema | None, heap: str) -> Outcome:
    inventory = _inventory(canister, schema)
    plan, dropped = _plan(inventory, drop)
    write(output, canister._subnet._world, canister._state, instead=Compacted(plan, inventory.extents))
    return _outcome(plan, dropped, heap)


def _outcome(plan: Compaction, dropped: list[Structure], heap: str) -> Outcome:
    before = plan.memory.size()
    after = sum(run.size_bytes for run in plan.runs()) // WASM_PAGE_BYTES
    return Outcome(
        tuple(Dropped(one.label, one.name, one.kind, one.entries) for one in dropped),
        plan.freed_buckets,
        plan.before.bucket_wasm_pages,
        (before, after),
        heap,
    )


def _plan(inventory: Inventory, drop: Collection[str]) -> tuple[Compaction, list[Structure]]:
    if not inventory.managers:
        raise UnsupportedError(
            "no memory manager is in it: there are no buckets to slide, and no memories to leave out"
        )
    manager = inventory.managers[0]
    if manager.is_motoko:
        raise UnsupportedError("the manager of MotokoStableBTree, which is read and not written")
    dropped = [_named(inventory, name) for name in dict.fromkeys(drop)]
    ids = {number for one in dropped for number in (one.memory_id, one.data_memory_id) if number is not None}
    plan = Compaction.of(inventory.memory, inventory.extents, base_wasm_page=manager.wasm_page, drop=ids)
    return plan, dropped


def _named(inventory: Inventory, name: str) -> Structure:
    """A structure in a virtual memory."""
    for structure in inventory.structures:
        if name in (structure.name, structure.label, structure.table_name):
            if structure.memory_id is None:
                raise UnsupportedError(f"{structure.label} is not in a memory of the manager: it cannot be left out")
            return structure
        if name == str(structure.data_memory_id):
            what = structure.name or structure.label
            raise UnsupportedError(f"memory {name} is the data of the log {what}: name that, both go together")
    known = [structure.name or structure.label for structure in inventory.structures]
    close = get_close_matches(name, known, 1)
    meant = f", did you mean {close[0]!r}?" if close else f", found {', '.join(known) or 'none'}"
    raise UnsupportedError(f"no memory {name!r} here{meant}")
