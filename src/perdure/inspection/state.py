"""A memory of a canister in a state directory, as of its last commit, as a read-only memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, final

from perdure.canister import Extent
from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Layer, Source
from perdure.memory import WASM_PAGE_BYTES, BytesMemory
from perdure.storage import DurableImage, StateDirectory, TemporaryImage
from perdure.storage.mapped import map_extents
from perdure.storage.names import Names, by_id
from perdure.storage.topology import refuse_network
from perdure.units import meant

if TYPE_CHECKING:
    from perdure.subnet.interfaces import Known

__all__ = [
    "Listed",
    "canister_id_of",
    "canisters_of",
    "labels_of",
    "memory_of",
    "no_canister",
    "open_canister",
    "source_of_image",
]

_MOST_TOLD: Final = 20


def open_canister(path: Path, canister: str) -> Source:
    """Open a canister's stable memory, or another one of its.

    Args:
        path: the state directory.
        canister: its id, as text, or the name that `perdure canister` knows it by; with ``#MEMORY`` behind it for
            another memory than the stable one.

    Raises:
        StorageError: no state directory, no such canister, no such memory, or one that cannot be read.
    """
    if not (path / "checkpoint").exists():
        refuse_network(str(path))
        raise StorageError("not a state directory", path).coded("no-state")
    directory = StateDirectory.open(path, read_only=True)
    try:
        found, name = _find(directory, canister)
        canister_id = found.raw_bytes
        names = directory.canisters[canister_id].memories
        if name not in names:
            directory.close()
            if name != "stable":
                known = [*names] or ["stable"]
                raise StorageError(f"{found} has no memory {name!r:.80}: {meant(name, known)}", path).coded("no-memory")
            return Source(f"{path}:{canister}", BytesMemory())  # it has no code yet
        source = source_of_image(f"{path}:{canister}", directory.image(canister_id, name))
    except BaseException:
        directory.close()
        raise
    # Open until the source is closed: as long as a reader is there, the owner leaves the files as they are.
    labels: Mapping[int, str] = labels_of(directory, canister_id, directory.canisters[canister_id].module_hash)
    if name != "stable":
        labels = MappingProxyType(labels)  # names of fields; what else a module declares is about stable memory
    return Source(source.label, source.memory, source.extents, source.layers, directory.close, labels)


def labels_of(directory: StateDirectory, canister_id: bytes, module_hash: bytes) -> ModuleLabels:
    """What a canister's module says of its memory, as long as the directory is open."""
    return ModuleLabels(
        lambda: directory.blob(module_hash) if module_hash else None, lambda: _given(directory, canister_id)
    )


def _given(directory: StateDirectory, canister_id: bytes) -> Known | None:
    from perdure.subnet.interfaces import Interfaces  # only when a name is asked for

    return Interfaces(directory.path, directory.disk).of(canister_id)


def source_of_image(
    label: str, image: DurableImage | TemporaryImage, labels: Mapping[int, str] | None = None
) -> Source:
    """An image as it stands, whose files are mapped; it is to stay open, and nothing is to be committed to it."""
    image.write_held()
    extents = list(image.extents())
    ranges = [(extent.address, extent.address + extent.size_bytes) for extent in extents]
    memory = map_extents(extents, image.wasm_pages * WASM_PAGE_BYTES)
    return Source(label, memory, ranges, [_layer(extent) for extent in extents], labels=labels)


def canister_id_of(path: Path, canister: str) -> Principal:
    """The id of a canister of a state directory, by id or name; raises as `open_canister`."""
    return memory_of(path, canister)[0]


def memory_of(path: Path, canister: str) -> tuple[Principal, str]:
    """The id of a canister of a state directory, and the name of a memory, as `open_canister` takes and raises."""
    directory = StateDirectory.open(path, read_only=True)
    try:
        return _find(directory, canister)
    finally:
        directory.close()


def _find(directory: StateDirectory, canister: str) -> tuple[Principal, str]:
    known = [Principal(found) for found in directory.canisters if len(found) <= MAX_PRINCIPAL_BYTES]
    names = Names(Path(directory.path))
    place, hash_, memory = canister.rpartition("#")
    if not hash_ or canister in names.ids:
        place, memory = canister, "stable"
    try:
        wanted = Principal.from_text(names.ids.get(place, place))
    except MalformedError:
        wanted = None
    if wanted is None or wanted not in known:
        raise no_canister(place, known, names.ids, directory.path)
    return wanted, memory


def no_canister(wanted: str, known: Iterable[Principal], ids: Mapping[str, str], path: str | Path) -> StorageError:
    """What to raise where a state directory has no canister that somebody names: it says which it has."""
    close = "".join(f"; did you mean {one!r}?" for one in get_close_matches(wanted, ids, 1))
    names = {one: name for name, one in ids.items()}
    titled = [f"{one} ({names[str(one)]})" if str(one) in names else str(one) for one in sorted(known)]
    more = f" and {len(titled) - _MOST_TOLD:,} more" if len(titled) > _MOST_TOLD else ""
    found = ", ".join(titled[:_MOST_TOLD]) or "none"
    return StorageError(f"no canister {wanted!r:.100} in it, found {found}{more}{close}", path).coded(
        "no-such-canister"
    )


@final
@dataclass(frozen=True, slots=True)
class Listed:
    """A canister of a state directory.

    Args:
        source: what to name it by where a memory is to be looked at: ``STATE_DIR:CANISTER``.
        canister_id: its id.
        name: its name; `None`: it has none.
        wasm_pages: of its stable memory.
        memories: all of them by name.
    """

    source: str
    canister_id: Principal
    name: str | None
    wasm_pages: int
    memories: tuple[str, ...]


def canisters_of(path: Path) -> list[Listed]:
    """The canisters of a state directory, those with names first.

    Raises:
        StorageError: it is none, or cannot be read.
    """
    with StateDirectory.open(path, read_only=True) as directory:
        names = by_id(path)
        found = []
        for raw_id, canister in directory.canisters.items():
            if len(raw_id) > MAX_PRINCIPAL_BYTES:
                continue
            one = Principal(raw_id)
            name = names.get(str(one))
            sizes = canister.sizes
            found.append(Listed(f"{path}:{name or one}", one, name, sizes.get("stable", 0), tuple(sizes)))
        return sorted(found, key=lambda one: (one.name is None, one.name or "", one.canister_id))


def _layer(extent: Extent) -> Layer:
    status = os.fstat(extent.file_descriptor)
    return Layer(extent.address, extent.size_bytes, (status.st_dev, status.st_ino), extent.file_offset)
