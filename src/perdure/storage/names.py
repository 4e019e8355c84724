"""Canisters by name, in a file of the state directory: what `perdure canister` calls them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final, final

from perdure.errors import StorageError
from perdure.ic.principal import Principal

__all__ = ["Names"]

_MAX_BYTES: Final = 16 << 20


@final
class Names:
    """Canister ids by name.

    Args:
        directory: of the state.

    Raises:
        StorageError: the file is there and cannot be read.
    """

    def __init__(self, directory: Path) -> None:
        self._file = directory / "names.json"
        self.ids: dict[str, str] = self._load()

    def _load(self) -> dict[str, str]:
        try:
            if self._file.stat().st_size > _MAX_BYTES:
                raise StorageError(f"more than {_MAX_BYTES} bytes", self._file)
            content = json.loads(self._file.read_bytes())
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError, OSError) as error:
            raise StorageError(f"cannot be read: {error}", self._file) from error
        if not isinstance(content, dict) or not all(isinstance(one, str) for one in content.values()):
            raise StorageError("expected a mapping from names to canister ids", self._file)
        return content

    def save(self) -> None:
        """Write the file, whole or not at all.

        Raises:
            StorageError: it cannot be written.
        """
        draft = self._file.with_name("names.json.partial")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(json.dumps(self.ids, indent=1) + "\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._file)
        except OSError as error:
            raise StorageError((error.strerror or str(error)).lower(), self._file) from error

    def name_of(self, canister_id: Principal) -> str | None:
        """The name of a canister, if it has one."""
        text = str(canister_id)
        return next((name for name, one in self.ids.items() if one == text), None)
