"""What a worker does of a campaign: a command, in this process, as a person would call it; see `Job.request`."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from perdure.fleet.worker import named

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = ["run"]

MAX_PRINTED_BYTES: Final = 64 << 20
_MAX_WORDS: Final = 20_000


def run(request: bytes) -> bytes:
    """Do what is asked for; exit code, what was printed on both streams, processor time: as a JSON object.

    A request may have `files`: where this machine has what a word of the command names, which is said of it as well.
    """
    asked = json.loads(request)
    printed, words = _Printed(_Bounded()), _Printed(_Tail())
    home = Path.cwd()
    begun = time.process_time()
    code: object = 2
    try:
        if asked["directory"]:
            os.chdir(asked["directory"])
        files: dict[str, str] = asked.get("files", {})
        sys.argv = ["perdure", *(files.get(word, word) for word in asked["arguments"])]
        with redirect_stdout(printed.stream), redirect_stderr(words.stream):
            named(asked["main"])()
    except SystemExit as ended:
        code = ended.code
    except Exception:  # a bug: its traceback is what is to be told
        words.stream.write(traceback.format_exc())
    finally:
        os.chdir(home)
    return json.dumps(
        {
            "exit_code": code if isinstance(code, int) else 2,
            "printed": printed.text(),
            "error": words.text(),
            "processor_seconds": time.process_time() - begun,
        }
    ).encode()


@final
class _Printed:
    """A stream for what is printed."""

    def __init__(self, kept: io.BytesIO) -> None:
        self._bytes = kept
        self.stream = io.TextIOWrapper(self._bytes, encoding="utf-8", errors="backslashreplace", write_through=True)

    def text(self) -> str:
        """What was printed."""
        return self._bytes.getvalue().decode(errors="replace")


@final
class _Tail(io.BytesIO):
    """The last of it."""

    def write(self, data: ReadableBuffer, /) -> int:
        last = (self.getvalue() + bytes(memoryview(data)[-_MAX_WORDS:]))[-_MAX_WORDS:]
        self.seek(0)
        self.truncate()
        super().write(last)
        return len(memoryview(data))

    def close(self) -> None:
        """Stay: what was printed is asked for later."""


@final
class _Bounded(io.BytesIO):
    """All of it up to a size; more is an error of whoever prints it."""

    def write(self, data: ReadableBuffer, /) -> int:
        if self.tell() + len(memoryview(data)) > MAX_PRINTED_BYTES:
            raise OSError(f"it prints more than {MAX_PRINTED_BYTES >> 20} MiB, which a campaign does not keep")
        return super().write(data)

    def close(self) -> None:
        """Stay: what was printed is asked for later."""
