"""Interfaces of canisters that came with their modules rather than in them, remembered for as long as the canisters.

Given at an installation (``candid=``), or found: the ``.did`` beside the module or in its project. In a state directory
they are in ``interfaces.json``, by canister id; whoever copies or forks a subnet has them too.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, final

from perdure.errors import MalformedError, StorageError
from perdure.project import interface_beside
from perdure.storage.beside import read_json
from perdure.storage.checkpoint import replace_file
from perdure.storage.disk import Disk

__all__ = ["Interfaces", "Known", "found_interface", "given_interface", "load_file"]

MAX_DID_BYTES: Final = 8 << 20
_MAX_BYTES: Final = 64 << 20
_FILE: Final = "interfaces.json"


@final
@dataclass(frozen=True, slots=True)
class Known:
    """An interface that is not in the module.

    Args:
        text: of the ``.did``.
        file: its path, or nothing.
        imports: the texts of the files that it imports, by their paths.
        source: where it is from, in words.
        module_hash: in hexadecimal, of the module that somebody gave it for, before what that says itself; else, and of
            one that was found, it is for modules that say nothing.
    """

    text: str
    file: str = ""
    imports: Mapping[str, str] | None = None
    source: str = ""
    module_hash: str = ""

    def load(self, wanted: str, importing: str) -> tuple[str, str]:
        """A file that another one imports."""
        path = os.path.normpath(Path(importing).parent / wanted)
        imports = self.imports or {}
        if path not in imports:
            raise MalformedError(f"{path} was not there when the interface was given")
        return path, imports[path]


def load_file(wanted: str, importing: str) -> tuple[str, str]:
    """The path and text of a file that another one imports, relative to that one."""
    path = Path(importing).parent / wanted
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_DID_BYTES:
        raise OSError(f"{path} is not a file of at most {MAX_DID_BYTES} bytes")
    try:
        return os.path.normpath(path), path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MalformedError(f"{path} is not UTF-8", error.start) from error


def given_interface(candid: str | os.PathLike[str], module_hash: bytes = b"") -> Known:
    """What somebody gives: a path, or the text itself, which has a colon in it.

    Raises:
        MalformedError: it is no Candid, or has no service.
        OSError: a file cannot be read.
    """
    from perdure.candid.service import load

    if isinstance(candid, str) and ":" in candid:
        load(candid)
        return Known(candid, source="the text that was given", module_hash=module_hash.hex())
    return _read(Path(candid), f"{os.fspath(candid)}, which was given", module_hash.hex())


def found_interface(wasm: object) -> Known | None:
    """The ``.did`` beside a module that is given by its path, or where the tools leave it in its project."""
    if not isinstance(wasm, str | os.PathLike):
        return None
    path = interface_beside(Path(wasm))
    if path is None:
        return None
    where = "beside the module" if path.parent == Path(wasm).parent else "of the project"
    try:
        return _read(path, f"{os.path.relpath(path)}, {where}")
    except (MalformedError, OSError, ValueError):
        return None  # nobody said that it is one


def _read(path: Path, source: str, module_hash: str = "") -> Known:
    from perdure.candid.service import load

    imports: dict[str, str] = {}

    def keep(wanted: str, importing: str) -> tuple[str, str]:
        name, text = load_file(wanted, importing)
        imports[name] = text
        return name, text

    file, text = load_file(os.fspath(path), "")
    try:
        load(text, loader=keep, file=file)
    except MalformedError as error:
        raise MalformedError(f"{path}: {error.message}", error.offset) from error
    return Known(text, file, imports or None, source, module_hash)


@final
class Interfaces:
    """What is remembered, by canister.

    Args:
        directory: the state directory, and
        disk: where it is; `None`: in memory.
    """

    def __init__(self, directory: str = "", disk: Disk | None = None) -> None:
        self._directory = directory
        self._disk = disk
        self._known: dict[bytes, Known] | None = {} if disk is None else None

    def fork(self) -> Interfaces:
        """The same for another subnet, in memory."""
        twin = Interfaces()
        twin._known = dict(self._all())
        return twin

    def of(self, canister_id: bytes) -> Known | None:
        """What is remembered of a canister."""
        return self._all().get(canister_id)

    def remember(self, canister_id: bytes, known: Known | None) -> None:
        """Remember an interface; `None` changes nothing.

        Raises:
            StorageError: it cannot be written.
        """
        everything = self._all()
        if known is None or everything.get(canister_id) == known:
            return
        everything[canister_id] = known
        if self._disk is None:
            return
        content = {key.hex(): asdict(one) for key, one in everything.items()}
        data = (json.dumps(content, indent=1) + "\n").encode()
        if len(data) > _MAX_BYTES:
            del everything[canister_id]
            raise StorageError(f"interfaces of more than {_MAX_BYTES} bytes", f"{self._directory}/{_FILE}")
        try:
            replace_file(self._disk, self._directory, _FILE, data)
        except OSError as error:
            raise StorageError.because("could not be written", error, f"{self._directory}/{_FILE}") from error

    def _all(self) -> dict[bytes, Known]:
        if self._known is None:
            assert self._disk is not None
            self._known = self._load(self._disk)
        return self._known

    def _load(self, disk: Disk) -> dict[bytes, Known]:
        path = f"{self._directory}/{_FILE}"
        content = read_json(disk, path, _MAX_BYTES)
        try:
            return {} if content is None else {bytes.fromhex(key): _known(one) for key, one in content.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"cannot be read, and can be removed: {error}", path) from error


def _known(said: Mapping[str, object]) -> Known:
    imports = said["imports"]
    if imports is not None and not isinstance(imports, dict):
        raise ValueError("imports are no mapping")
    texts = [*(said[name] for name in ("text", "file", "source", "module_hash")), *(imports or {}).values()]
    if not all(isinstance(one, str) for one in texts):
        raise ValueError("an interface is made of texts")
    text, file, source, module_hash = map(str, texts[:4])
    return Known(text, file, imports, source, module_hash)
