"""Canisters by name, in a file of the state directory: what `perdure canister` calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, final

from perdure.errors import MalformedError, StorageError
from perdure.ic.principal import Principal
from perdure.project import check_name
from perdure.storage.beside import read_json
from perdure.storage.checkpoint import replace_file
from perdure.storage.disk import Disk, RealDisk

__all__ = ["Names", "by_id"]

_MAX_BYTES: Final = 16 << 20


@final
class Names:
    """Canister ids by name.

    Args:
        directory: of the state.
        disk: where it is.

    Raises:
        StorageError: the file is there and cannot be read.
    """

    def __init__(self, directory: Path, disk: Disk | None = None) -> None:
        self._directory = str(directory)
        self._file = f"{directory}/names.json"
        self._disk = (disk or RealDisk()).within(self._directory)
        self.ids: dict[str, str] = self._load()

    def _load(self) -> dict[str, str]:
        content = read_json(self._disk, self._file, _MAX_BYTES)
        if content is None:
            return {}
        if not isinstance(content, dict) or not all(isinstance(one, str) for one in content.values()):
            raise StorageError("expected a mapping from names to canister ids", self._file)
        try:
            for name, one in content.items():
                check_name(name)
                Principal.from_text(one)
        except MalformedError as error:
            raise StorageError(str(error), self._file) from error
        return content

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            replace_file(self._disk, self._directory, "names.json", (json.dumps(self.ids, indent=1) + "\n").encode())
        except OSError as error:
            raise StorageError.because("could not be written", error, self._file) from error

    def name_of(self, canister_id: Principal) -> str | None:
        """The name of a canister, if it has one."""
        text = str(canister_id)
        return next((name for name, one in self.ids.items() if one == text), None)


def by_id(directory: Path) -> dict[str, str]:
    """Names of canisters by their ids, as the file has them now; raises as `Names`."""
    return {one: name for name, one in Names(directory).ids.items()}
