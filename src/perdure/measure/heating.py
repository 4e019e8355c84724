"""Heat of what runs on a subnet, and of the messages that a state directory has kept."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

from perdure.canister import CanisterInstance, EntryPoint, Env, Return, Trap
from perdure.embedder import shared_engine
from perdure.inspection.find import KINDS
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.inspection.state import canister_id_of, open_canister
from perdure.measure.heat import STABLE, Heat, Tally, principal_text
from perdure.measure.structures import Layout, inventory_of
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES
from perdure.storage import StateDirectory, Version
from perdure.storage.history import written_pages
from perdure.subnet import Subnet
from perdure.subnet.residency import ResidentInstance
from perdure.values.schema import Schema

__all__ = ["heat_of_kept", "heat_of_subnet"]

# --- of messages that run


@contextmanager
def heat_of_subnet(
    subnet: Subnet,
    *,
    changed_bytes: bool = False,
    heap_reads: bool = False,
    newest: int = 0,
    schema: Schema | None = None,
) -> Iterator[Heat]:
    """Count the pages that messages touch on a subnet within the block; see `Subnet.heat`."""
    heat = Heat(is_compared=changed_bytes, newest=newest)
    watcher = _Watcher(heat, heap_reads=heap_reads, is_kept=newest > 0)
    if heap_reads:
        shared_engine().private_pages.present(0, 0)  # raises where nobody can tell
        subnet._look_at_reads(1)
    with subnet._gate.lock:
        subnet._world.watchers = (*subnet._world.watchers, watcher)
    try:
        yield heat
    finally:
        if heap_reads:
            subnet._look_at_reads(-1)
        with subnet._gate.lock:
            subnet._world.watchers = tuple(one for one in subnet._world.watchers if one is not watcher)
            watcher.settle()
            heat.settle(lambda canister_id, memory: _layout(subnet, canister_id, memory, schema))


def _layout(subnet: Subnet, canister_id: bytes, name: str, schema: Schema | None) -> Layout:
    """Of a memory as it is now; of a canister that is gone there is none."""
    state = subnet._state.canisters.get(canister_id)
    instance = None if state is None else state.instance
    memory = None if instance is None else instance.memories.get(name)
    if memory is None or instance is None:
        return Layout.plain(0)
    if name == _HEAP:
        return Layout.plain(memory.size() * WASM_PAGE_BYTES)
    wasm = instance.module.wasm
    labels = ModuleLabels(lambda: wasm) if name == STABLE else None
    source = Source(principal_text(canister_id), memory, labels=labels)
    found = inventory_of(source, schema if name == STABLE else None)
    if name != STABLE and found is not None and not any(one.kind in KINDS for one in found.structures):
        found = None  # a memory of one's own, with data of one's own making
    return Layout.of(memory, found)


_HEAP: Final = "heap"
"""In which structures do not lie as they do in stable memory."""


@final
class _Method:
    """A method whose messages are counted: where the pages of each memory go."""

    __slots__ = ("key", "messages", "others", "stable")

    def __init__(self, key: tuple[bytes, str], stable: Tally) -> None:
        self.key = key
        self.messages = 0
        self.stable = stable
        self.others: dict[str, Tally] = {}


@final
class _Watcher:
    """Told of each entry, before what it wrote is committed or dropped."""

    def __init__(self, heat: Heat, *, heap_reads: bool = False, is_kept: bool = False) -> None:
        self._heat = heat
        self._is_kept = is_kept
        self._number = 0
        self._heap_reads = heap_reads
        self._methods: dict[tuple[bytes, str | int], _Method] = {}

    def __call__(self, instance: CanisterInstance, entry: EntryPoint, env: Env, result: Trap | Return) -> None:
        if instance.__class__ is not ResidentInstance:
            return
        heat, place = self._heat, (env.facts.canister_id, entry[0])
        method = self._methods.get(place) or self._begin(place[0], entry)
        method.messages += 1
        touched = instance.touched()
        if touched is None:
            if not self._is_kept:
                return
            touched = _NOTHING
        (read, written), others = touched
        if result.__class__ is Trap:
            written = _NONE
        if read:
            heat.add(method.stable, read, written)
        if others:
            self._add_others(method, others)
        if self._is_kept:
            self._number += 1
            seen = {name: (one[0] if self._heap_reads else _NONE, one[1]) for name, one in others.items()}
            heat.keep((self._number, method.key, {STABLE: (read, written)} | seen))
        if heat.is_compared:
            self._compare(instance, method.key, {STABLE: written, **{name: pages[1] for name, pages in others.items()}})

    def _add_others(self, method: _Method, others: Mapping[str, tuple[array[int], array[int]]]) -> None:
        for name, (read, written) in others.items():
            tally = method.others.get(name)
            if tally is None:
                tally = method.others[name] = self._heat.tally(*method.key, name)
            self._heat.add(tally, read if self._heap_reads else _NONE, written)

    def settle(self) -> None:
        """Have the messages counted."""
        for method in self._methods.values():
            self._heat.messages[method.key] += method.messages
            method.messages = 0

    def _begin(self, canister_id: bytes, entry: EntryPoint) -> _Method:
        name = entry.entered.removeprefix("canister_")
        found = self._methods[canister_id, entry[0]] = _Method(
            (canister_id, name), self._heat.tally(canister_id, name, STABLE)
        )
        return found

    def _compare(
        self, instance: ResidentInstance, method: tuple[bytes, str], written: Mapping[str, array[int]]
    ) -> None:
        """Count the bytes that differ from the committed ones."""
        images = instance.state.memories
        for name, pages in written.items():
            if not pages:
                continue
            image, memory, tally = images[name], instance.memories[name], self._heat.tally(*method, name)
            size_bytes = image.wasm_pages * WASM_PAGE_BYTES
            for page in pages:
                address = page * PAGE_BYTES
                before = image.read(address, PAGE_BYTES) if address < size_bytes else _ZEROS
                self._heat.add_changed(tally, page, _different(before, memory.read(address, PAGE_BYTES)))


_NONE: Final = array("I")
_NO_OTHERS: Final[dict[str, tuple[array[int], array[int]]]] = {}
_NOTHING: Final = ((_NONE, _NONE), _NO_OTHERS)
_ZEROS: Final = bytes(PAGE_BYTES)


def _different(one: bytes, other: bytes) -> int:
    """How many bytes differ."""
    if one == other:
        return 0
    bits = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return len(one) - bits.to_bytes(len(one), "little").count(0)


# --- of a history


def heat_of_kept(
    path: Path, canister: str, *, last: int | None = None, newest: int = 0, schema: Schema | None = None
) -> Heat:
    """Pages that the kept messages of a state directory wrote; a history does not have which they read.

    Args:
        path: the directory, which is only read.
        canister: its id or name.
        last: the newest so many messages; by default all that are kept.
        newest: tell of so many what each of them did.
        schema: names of structures.

    Raises:
        StorageError: it is no state directory, has no such canister, or cannot be read.
    """
    heat, canister_id = (
        Heat(is_compared=True, sees_reads=False, newest=newest),
        canister_id_of(path, canister).raw_bytes,
    )
    with StateDirectory.open(path, read_only=True) as directory, open_canister(path, canister) as source:
        for version in reversed(directory.history(last)):
            _add_version(heat, directory, version, canister_id, newest)

        def layout(_: bytes, name: str) -> Layout:
            if name != STABLE:
                return Layout.plain(directory.canisters[canister_id].sizes.get(name, 0) * WASM_PAGE_BYTES)
            return Layout.of(source.memory, inventory_of(source, schema))

        heat.settle(layout)
    heat.name({canister_id: canister})
    return heat


def _add_version(heat: Heat, directory: StateDirectory, version: Version, canister_id: bytes, newest: int) -> None:
    method = f"{version.message.kind} {version.message.method}".rstrip()
    written: dict[str, array[int]] = {}
    for name, page, before, after in written_pages(directory.disk, version, canister_id):
        tally = heat.tally(canister_id, method, name)
        heat.add(tally, _NONE, array("I", (page,)))
        heat.is_compared &= before is not None
        heat.add_changed(tally, page, _different(before, after) if before is not None else 0)
        written.setdefault(name, array("I")).append(page)
    if written:
        heat.messages[canister_id, method] += 1
        if newest:
            pages = {name: (_NONE, some) for name, some in written.items()}
            heat.keep((version.version, (canister_id, method), pages))
