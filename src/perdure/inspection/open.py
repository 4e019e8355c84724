"""Where the bytes come from: a state directory, a snapshot, a raw dump or standard input, opened for reading.

| SOURCE | what is opened |
|---|---|
| ``STATE_DIR:CANISTER`` | the stable memory of a canister in a state directory, as of its last commit |
| ``SNAPSHOT_DIR`` | ``stable_memory.bin`` of a downloaded snapshot |
| ``FILE`` | a raw dump of stable memory, gzip or not |
| ``-`` | the same from standard input |
| ``STATE_DIR:CANISTER#MEMORY``, ``SNAPSHOT_DIR#MEMORY`` | another memory of it: ``heap``, ``users`` |
| ``s3://BUCKET/KEY``, ``gs://``, ``az://``, ``file://`` | the same in object storage; ``ARCHIVE:CANISTER`` |

Files are mapped, never read whole: what is not looked at costs nothing, and holes of a sparse file are known to be
zeros without touching them. A compressed input goes through an unlinked temporary file, itself sparse.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, BinaryIO, Final

from perdure.errors import StorageError
from perdure.inspection.labels import ModuleLabels
from perdure.inspection.source import Source
from perdure.inspection.streams import GZIP_MAGIC, HEAD_BYTES, MAX_STABLE_BYTES, check_kind, map_file, open_stream
from perdure.inspection.variables import Variables
from perdure.memory import WASM_PAGE_BYTES, BytesMemory, Memory
from perdure.units import meant
from perdure.urls import is_url, meant_url

if TYPE_CHECKING:
    from perdure.values.motoko_state import MotokoState
    from perdure.values.motoko_types import StableTypes

__all__ = ["MAX_STABLE_BYTES", "nothing_there", "open_source", "with_module"]

STABLE_MEMORY_FILE: Final = "stable_memory.bin"
MODULE_FILE: Final = "wasm_module.bin"
_MOST_TOLD: Final = 20
_PROJECT_STATE: Final = ".perdure"


def open_source(text: str, stdin: BinaryIO | None = None) -> Source:
    """Open what SOURCE names.

    Raises:
        StorageError: there is no such thing, or it cannot be read.
        MalformedError: a broken gzip stream, or one past the size of any stable memory.
    """
    try:
        return _open(text, stdin)
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower(), text) from error


def with_module(source: Source, path: Path) -> None:
    """Read a dump with what a file says of it: names of Candid fields, Motoko's variables.

    The file is a module, with a ``.did`` beside it or not, the ``.did``, or a ``.most``.

    A dump of stable memory has the variables of classical persistence, one of the heap those of enhanced orthogonal
    persistence, if pre_upgrade has run.

    Raises:
        StorageError: the file cannot be read.
        MalformedError: a ``.did`` that is no Candid.
    """
    from perdure.subnet.interfaces import found_interface, given_interface  # few dumps have a file

    try:
        if path.suffix == ".did":
            given = given_interface(path)
            source.labels = ModuleLabels(lambda: None, lambda: given)
            return
        data = path.read_bytes()
    except OSError as error:
        raise StorageError((error.strerror or str(error)).lower(), path) from error
    labels = ModuleLabels(lambda: data, lambda: found_interface(path))
    is_text = not data.startswith((b"\0asm", GZIP_MAGIC))
    source.labels = {} if is_text else labels
    text = (lambda: data.decode("utf-8", "replace")) if is_text else labels.stable_types
    source.variables = Variables(text, lambda types: _read_variables(source.memory, types))


def _read_variables(memory: Memory, types: StableTypes) -> MotokoState:
    from perdure.values.motoko_enhanced import METADATA_ADDRESS, TITLE, read_enhanced  # dumps of Motoko's are few
    from perdure.values.motoko_state import read_classical

    is_heap = memory.size() * WASM_PAGE_BYTES > METADATA_ADDRESS + len(TITLE)
    if is_heap and memory.read(METADATA_ADDRESS, len(TITLE)) == TITLE:
        return read_enhanced(memory, types)
    return read_classical(memory, types)


def _open(text: str, stdin: BinaryIO | None) -> Source:
    if text == "-":
        return open_stream(stdin if stdin is not None else sys.stdin.buffer, "standard input")
    if is_url(text):
        from perdure.inspection.remote import local_source, open_url  # most sources are on this machine

        local = local_source(text)
        return _open(local, None) if local is not None else open_url(text, _gathered)
    path = Path(text)
    if path.is_dir():
        return _open_directory(path)
    if path.exists():
        return _open_file(path)
    directory, colon, canister = text.rpartition(":")
    if colon and Path(directory).is_dir():
        return _open_state(Path(directory), canister)
    place, hash_, memory = text.rpartition("#")
    if hash_ and Path(place).is_dir():
        return _open_directory(Path(place)) if memory == "stable" else _open_own(Path(place), memory)
    if hash_ and Path(place).exists():
        raise StorageError(f"a dump is one memory, of no name: {memory!r:.80} cannot be told from others in it", place)
    raise StorageError(nothing_there(text), text)


def nothing_there(text: str, besides: str = "") -> str:
    """What to say of a source that there is not, and what else it is not: a canister's name alone is none."""
    told = f"no such file, snapshot or state directory{besides}"
    if not Path(_PROJECT_STATE).is_dir() or not text or set(text) & set("./:#"):
        return f"{told}{meant_url(text)}"
    return f"{told}; a canister of the state here is {_PROJECT_STATE}:{text}"


def _open_own(path: Path, memory: str) -> Source:
    """Another memory of a snapshot than the stable one."""
    from perdure.storage.snapshot import Snapshot  # most sources need no storage

    if not (path / "metadata.json").is_file():
        raise StorageError(f"no snapshot: name a memory of a state directory as {path}:CANISTER#{memory}", path)
    snapshot = Snapshot.open(path)
    names = snapshot.own_memories.keys()
    snapshot.close()
    if memory != "heap" and memory not in names:
        known = ["heap", "stable", *names]
        raise StorageError(f"no memory {memory!r:.80}: {meant(memory, known)}", path).coded("no-memory")
    name = path / ("wasm_memory.bin" if memory == "heap" else f"memories/{memory}.bin")
    label = f"{path}#{memory}"
    labels = MappingProxyType(ModuleLabels(lambda: _module(path / MODULE_FILE)))
    if not name.exists():
        return Source(label, BytesMemory(), labels=labels)
    with open(name, "rb", opener=lambda file, mode: os.open(file, mode | os.O_NOFOLLOW)) as file:
        source = map_file(file, label)
    source.labels = labels
    return source


def _open_directory(path: Path) -> Source:
    _check_download(path)
    stable = path / STABLE_MEMORY_FILE
    labels = ModuleLabels(lambda: _module(path / MODULE_FILE))
    variables = Variables(labels.stable_types, lambda _: _gathered(str(path)))
    if stable.is_file():
        source = _open_file(stable, label=str(path), flags=os.O_NOFOLLOW)
        source.labels = labels
        source.variables = variables
        return source
    if (path / "metadata.json").is_file():
        return Source(str(path), BytesMemory(), labels=labels, variables=variables)
    from perdure.storage.topology import refuse_network

    refuse_network(str(path))
    raise StorageError(f"no {STABLE_MEMORY_FILE} in it: {_sources_in(path)}", path)


def _sources_in(path: Path) -> str:
    """What to name instead of a directory that may be a state's."""
    from perdure.inspection.state import canisters_of

    wanted = f"name a canister of a state directory as {path}:CANISTER"
    try:
        found = [one.source for one in canisters_of(path)]
    except StorageError:
        return wanted
    more = f" and {len(found) - _MOST_TOLD:,} more" if len(found) > _MOST_TOLD else ""
    return f"{wanted}, found {', '.join(found[:_MOST_TOLD])}{more}" if found else f"{wanted}, it has none yet"


def _gathered(source: str) -> MotokoState:
    """Motoko's stable variables of a source that can be run."""
    from perdure.inspection.canister import open_canister  # what runs canisters is asked for by few
    from perdure.inspection.motoko import stable_variables

    with open_canister(source) as canister:
        return stable_variables(canister)


def _module(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() and not path.is_symlink() else None


def _check_download(directory: Path) -> None:
    """Refuse what an interrupted download left, which has its full size and is in part zeros."""
    from perdure.storage.snapshot import check_download  # most sources need no storage

    check_download(directory)


def _open_state(path: Path, canister: str) -> Source:
    """A canister of a state directory, by id or name.

    The storage package knows that layout and is asked for it; nothing here does.
    """
    from perdure.inspection.state import open_canister  # most sources need no storage

    source = open_canister(path, canister)
    if isinstance(source.labels, ModuleLabels):
        source.variables = Variables(source.labels.stable_types, lambda _: _gathered(f"{path}:{canister}"))
    return source


def _open_file(path: Path, label: str | None = None, flags: int = 0) -> Source:
    """A file; one of a snapshot, which somebody else may have made, is not to be a link."""
    if path.name == STABLE_MEMORY_FILE:
        _check_download(path.parent)
    with open(path, "rb", opener=lambda name, mode: os.open(name, mode | flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # nobody may ever write into a pipe
            raise StorageError("no file but a pipe or a device: its bytes can be given as standard input, to `-`", path)
        head = file.read(HEAD_BYTES)
        if head[:2] == GZIP_MAGIC:
            file.seek(0)
            return open_stream(file, label or str(path))
        check_kind(head, os.fstat(file.fileno()).st_size, path)
        return map_file(file, label or str(path))
