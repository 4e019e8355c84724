"""Frames of a failing test that are no business of its author's: perdure's own, below the last that is theirs."""

from __future__ import annotations

import linecache
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

__all__ = ["without_own_frames"]

_OWN: Final = Path(__file__).parents[1]
_NOT_THEIRS: Final = {_OWN, *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))}
"""Where code is that users did not write: perdure, and what it calls and is called by."""


def without_own_frames(excinfo: pytest.ExceptionInfo[BaseException]) -> None:
    """Cut what is below the last frame that is not perdure's, where the error is one that perdure tells of.

    Not what is wrong in perdure itself: `InternalError` and what nobody meant to raise. ``--full-trace`` shows all.
    """
    steps = list(_steps(excinfo.tb))
    if not _is_told(excinfo.value, steps[-1]):
        return
    files = [Path(step.tb_frame.f_code.co_filename) for step in steps]
    theirs = [index for index, file in enumerate(files) if not _NOT_THEIRS & {*file.parents}]
    last = theirs[-1] if theirs else -1
    own = next((index for index in range(last + 1, len(steps)) if _OWN in files[index].parents), None)
    if own is not None:  # what a marker asks for is done by a fixture here: of that, only where it begins
        steps[last if theirs else own].tb_next = None


def _is_told(error: BaseException, innermost: TracebackType) -> bool:
    """Whether perdure says what is wrong: an error of its own, one of the system, or what a line of its code raises."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "perdure.errors"]
    if kinds:
        return "InternalError" not in kinds
    file = innermost.tb_frame.f_code.co_filename
    raised = _OWN in Path(file).parents and linecache.getline(file, innermost.tb_lineno).lstrip().startswith("raise ")
    return isinstance(error, OSError) or raised


def _steps(step: TracebackType | None) -> Iterator[TracebackType]:
    while step is not None:
        yield step
        step = step.tb_next
