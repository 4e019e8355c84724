"""What a campaign has found so far, in a directory: as it goes, so that what is done is kept, whatever ends it.

```
DIR/campaign.json    what it is about: {"version": 1, "command": ..., "options": [...]}
DIR/rows.jsonl       a row a line, as sources are done, see `perdure.fleet.jobs.Row`
```

Memory has of each row what is told of it, not what its command printed. A line that was cut off is not read, and
written over. A row counts for its source as long as that has the same mark.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

from perdure.errors import MalformedError, StorageError
from perdure.fleet.jobs import Job, Row
from perdure.urls import refuse_url

__all__ = ["Journal"]

_VERSION: Final = 1
_ABOUT: Final = "campaign.json"
_ROWS: Final = "rows.jsonl"
_MAX_ABOUT_BYTES: Final = 16 << 20


@final
class Journal:
    """The directory of a campaign, which one process has at a time. Close it, or use it in a ``with``.

    Args:
        directory: made where there is none.
        command: which.
        options: that it has for every source: another campaign has others.
        resume: go on with one that is there already.

    Raises:
        StorageError: it is another campaign's, it cannot be written, another process has it, or it is there and nobody
            said that it shall be gone on with.
        MalformedError: it is none.
    """

    def __init__(self, directory: Path, command: str, options: Sequence[str], *, resume: bool) -> None:
        refuse_url(str(directory))
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / _ROWS).open("a+b")
        except OSError as error:
            raise StorageError((error.strerror or str(error)).lower(), directory) from error
        try:
            self._lock()
            self._require({"version": _VERSION, "command": command, "options": list(options)}, resume)
            self.rows = self._read()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError("another process writes to it: a campaign at a time", self.directory) from error

    def _require(self, about: dict[str, object], resume: bool) -> None:
        path = self.directory / _ABOUT
        if not path.exists():
            if self._file.seek(0, os.SEEK_END):
                raise StorageError(f"has {_ROWS} and no {_ABOUT}: it is no campaign's", self.directory)
            draft = path.with_name(f"{_ABOUT}.partial")
            try:
                draft.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
                draft.replace(path)
            except OSError as error:
                raise StorageError.because("a campaign could not be begun", error, self.directory) from error
            return
        if not resume:
            raise StorageError("has a campaign already: --resume goes on with it", self.directory)
        try:
            with path.open("rb") as file:
                found = json.loads(file.read(_MAX_ABOUT_BYTES))
        except OSError as error:
            raise StorageError((error.strerror or str(error)).lower(), path) from error
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"{path}: {error}") from error
        if found != about:
            raise StorageError(
                f"has another campaign, {_shown(found)}; this one is {_shown(about)}: name another -o", self.directory
            )

    def _read(self) -> dict[str, Row]:
        """Rows by source; the last counts. What is behind the last whole line goes."""
        self._file.seek(0)
        found: dict[str, Row] = {}
        self._places: dict[str, tuple[int, int]] = {}
        end = 0
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            try:
                row = Row.parse(line.decode())
            except (MalformedError, UnicodeDecodeError) as error:
                raise MalformedError(f"{self.directory / _ROWS}: {error}", end) from error
            found[row.source], self._places[row.source] = row.gist(), (end, len(line))
            end += len(line)
        self._file.truncate(end)
        return found

    def left(self, jobs: Sequence[Job], *, failed_too: bool) -> list[Job]:
        """The jobs that are still to be done.

        Args:
            jobs: of the campaign.
            failed_too: do again what could not be done.
        """
        rows = ((job, self.rows.get(job.source)) for job in jobs)
        return [
            job for job, row in rows if row is None or row.mark != job.mark or (failed_too and row.outcome == "failed")
        ]

    def add(self, row: Row) -> None:
        """Keep a row.

        Raises:
            StorageError: it cannot be written.
        """
        line = row.to_json().encode() + b"\n"
        try:
            end = self._file.seek(0, os.SEEK_END)
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise StorageError.because("a row could not be kept", error, self.directory / _ROWS) from error
        self.rows[row.source], self._places[row.source] = row.gist(), (end, len(line))

    def whole(self, row: Row) -> Row:
        """A row with its document, of which memory has no more than is told of it.

        Raises:
            StorageError: it cannot be read.
            MalformedError: somebody has changed it meanwhile.
        """
        start, size_bytes = self._places[row.source]
        try:
            data = os.pread(self._file.fileno(), size_bytes, start)
        except OSError as error:
            raise StorageError((error.strerror or str(error)).lower(), self.directory / _ROWS) from error
        return Row.parse(data.decode(errors="replace"))

    def close(self) -> None:
        """Let go of the directory."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _shown(about: object) -> str:
    if not isinstance(about, dict):
        return "which says nothing of itself"
    command, words = str(about.get("command")), about.get("options")
    options = [str(one) for one in words if one != "--json"] if isinstance(words, list) else []
    for name in ("stable", command):  # of the command for one source
        options = options[options[:1] == [name] :]
    return " ".join([command, *options])
