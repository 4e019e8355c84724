"""The exception tree, on one screen.

A message says what was wrong, where, what was found and what was expected: ``bad magic b'BTX' at address 0x0,
expected b'BTR'``. Bad arguments by the programmer are ``ValueError`` or ``TypeError``, not in this tree.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from typing import Self, final

__all__ = [
    "Backtrace",
    "ExtensionError",
    "HostError",
    "InternalError",
    "InvalidModuleError",
    "MalformedError",
    "NoMemoryError",
    "PerdureError",
    "RejectError",
    "StorageError",
    "UnsupportedError",
    "located",
]


class PerdureError(Exception):
    """Every error that perdure raises on purpose.

    Attributes:
        error_code: what kind of error it is, in a word that stays the same; `perdure explain` and docs/errors.md say
            what each means and what to do. Of a `RejectError` it is the replica's.
    """

    error_code = "failed"

    def coded(self, error_code: str) -> Self:
        """Itself, of a kind that has a remedy of its own; a traceback names it."""
        self.error_code = error_code
        self.add_note(f"`perdure explain {error_code}` says more")
        return self


class MalformedError(PerdureError):
    """Bytes that are not what their format says.

    Args:
        message: what was found and what was expected, lower case, without the place.
        offset: where, in bytes from the start of the input; ``None`` where no single place is to blame.
    """

    error_code = "malformed"

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message if offset is None else f"{message} (at offset {offset:#x})")
        self.message = message
        self.offset = offset


class UnsupportedError(PerdureError):
    """Valid input that perdure does not take."""

    error_code = "unsupported"


@final
class InvalidModuleError(UnsupportedError):
    """A well-formed module that breaks a rule of the Internet Computer, in the replica's words."""

    error_code = "invalid-module"


@final
class ExtensionError(UnsupportedError, ValueError):
    """There is no such extension, or two are answers to one question."""

    error_code = "extension"


@final
class NoMemoryError(PerdureError, KeyError, ValueError):
    """A canister has no memory of this name, or none any more."""

    error_code = "no-memory"
    __str__ = Exception.__str__  # not as a key


@final
class Backtrace(tuple[str, ...]):
    """The canister's own frames, innermost first, as ``name`` or ``wasm-function[index]``: what is kept of a trap.

    It is the tuple of these. What else is known of them, the lines that they come from, is looked up when somebody
    wants to see it, and is kept nowhere.
    """

    def __new__(cls, frames: Iterable[str] = (), locate: Callable[[], tuple[str, ...]] | None = None) -> Self:
        """With what says of all frames where they are."""
        found = super().__new__(cls, frames)
        found._locate = locate
        return found

    _locate: Callable[[], tuple[str, ...]] | None

    def __reduce__(self) -> tuple[type[tuple[str, ...]], tuple[tuple[str, ...]]]:
        return tuple, (tuple(self),)

    def located(self) -> tuple[str, ...]:
        """The frames as people read them, with ``(file:line)`` where that is known."""
        return tuple(self) if self._locate is None else self._locate()


def located(frames: tuple[str, ...]) -> tuple[str, ...]:
    """Frames of a backtrace as people read them: with lines, where it is one that knows them."""
    return frames.located() if isinstance(frames, Backtrace) else frames


@final
class RejectError(PerdureError):
    """The Internet Computer's answer to a caller whose call failed.

    Args:
        code: the reject code, 1 to 6 (``perdure.ic.RejectCode``).
        error_code: the replica's ``IC0xxx`` code.
        message: today's wording of the replica.
        backtrace: the canister's own frames, innermost first, as ``name`` or ``wasm-function[index]``; in the text
            of the error with the lines that the module's debug sections have for them.
    """

    def __init__(self, code: int, error_code: str, message: str, backtrace: tuple[str, ...] = ()) -> None:
        super().__init__(_rejection(error_code, message, backtrace))
        self.code = code
        self.error_code = error_code
        self.message = message
        self.backtrace = backtrace

    def __str__(self) -> str:
        if not isinstance(self.backtrace, Backtrace):
            return super().__str__()
        return _rejection(self.error_code, self.message, self.backtrace.located())


def _rejection(error_code: str, message: str, backtrace: tuple[str, ...]) -> str:
    text = message if message.startswith(error_code) or not error_code else f"{error_code}: {message}"
    return text + "\nCanister Backtrace:\n" + "\n".join(backtrace) if backtrace else text


class StorageError(PerdureError):
    """A state directory, snapshot or image that cannot be read, written or trusted.

    Args:
        message: what happened, lower case, without the path.
        path: the file or directory concerned.

    Attributes:
        committed: of a message, where this is about one: whether it is kept; `None`: not known.
    """

    error_code = "storage"
    committed: bool | None = None

    def __init__(self, message: str, path: object) -> None:
        super().__init__(f"{path}: {message}")
        self.message = message
        self.path = str(path)

    @classmethod
    def because(cls, message: str, error: OSError, path: object) -> StorageError:
        """One with the system's own words behind it; where the disk is full, of a kind of its own."""
        made = cls(f"{message}: {error.strerror or error}", path)
        return made.coded("disk-full") if error.errno in {errno.ENOSPC, errno.EDQUOT} else made


@final
class HostError(PerdureError):
    """This machine could not do it: time or memory ran out. Nothing has changed, and elsewhere it may succeed."""

    error_code = "machine"


@final
class InternalError(PerdureError):
    """A bug in perdure. Please report it with the input that led here."""

    error_code = "bug"
