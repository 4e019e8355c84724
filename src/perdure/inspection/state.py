"""A memory of a canister in a state directory, as of its last commit, as a read-only memory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from perdure.canister import Extent
from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import MAX_PRINCIPAL_BYTES, Principal
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Layer, Source
from perdure.memory import WASM_PAGE_BYTES
from perdure.storage import DurableImage, StateDirectory, TemporaryImage
from perdure.storage.mapped import map_extents
from perdure.storage.names import Names
from perdure.storage.topology import refuse_network
from perdure.units import meant

if TYPE_CHECKING:
    from perdure.subnet.interfaces import Known

__all__ = ["canister_id_of", "memory_of", "open_canister", "source_of_image"]


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
        if name not in names and name != "stable":
            raise StorageError(f"{found} has no memory {name!r:.80}: {meant(name, names)}", path).coded("no-memory")
        source = source_of_image(f"{path}:{canister}", directory.image(canister_id, name))
    except BaseException:
        directory.close()
        raise
    # Open until the source is closed: as long as a reader is there, the owner leaves the files as they are.
    module_hash = directory.canisters[canister_id].module_hash
    labels: Mapping[int, str] = ModuleLabels(
        lambda: directory.blob(module_hash) if module_hash else None, lambda: _given(directory, canister_id)
    )
    if name != "stable":
        labels = MappingProxyType(labels)  # names of fields; what else a module declares is about stable memory
    return Source(source.label, source.memory, source.extents, source.layers, directory.close, labels)


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
        titled = ((one, names.name_of(one)) for one in sorted(known))
        listed = ", ".join(f"{one} ({name})" if name else str(one) for one, name in titled) or "none"
        raise StorageError(f"no canister {place!r} in it, found {listed}", directory.path).coded("no-such-canister")
    return wanted, memory


def _layer(extent: Extent) -> Layer:
    status = os.fstat(extent.file_descriptor)
    return Layer(extent.address, extent.size_bytes, (status.st_dev, status.st_ino), extent.file_offset)
