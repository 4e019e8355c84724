"""The one error that Candid adds to the tree."""

from __future__ import annotations

from typing import final

from perdure.errors import MalformedError

__all__ = ["CoercionError"]


@final
class CoercionError(MalformedError):
    """Well-formed Candid of a type that does not coerce to the expected one. Inside an option it becomes null.

    Args:
        message: what was found and expected.
        offset: of the value.
    """

    error_code = "candid-type"

    def __init__(self, message: str, offset: int | None = None) -> None:
        super().__init__(message, offset)
        self._steps: list[str] = []

    @property
    def path(self) -> str:
        """The place in the values, such as ``value 0.users[3].id``; empty if there is none."""
        return "".join(reversed(self._steps))

    def within(self, step: str) -> CoercionError:
        """Itself, one step further out."""
        self._steps.append(step)
        return self

    def __str__(self) -> str:
        return f"{self.path}: {super().__str__()}" if self._steps else super().__str__()
