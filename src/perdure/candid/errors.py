"""The one error that Candid adds to the tree."""

from __future__ import annotations

from typing import final

from perdure.errors import MalformedError

__all__ = ["CoercionError"]


@final
class CoercionError(MalformedError):
    """Well-formed Candid of a type that does not coerce to the expected one. Inside an option it becomes null."""
