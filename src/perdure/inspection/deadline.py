"""How long somebody waits for an answer about a memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar, final

from perdure.errors import HostError

__all__ = ["NO_HURRY", "Deadline"]

T = TypeVar("T")

_STEPS: Final = 64


@final
class Deadline:
    """A moment after which nobody waits any more, from now on.

    Args:
        seconds: how long; `None`: for ever.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._until = None if seconds is None else time.monotonic() + seconds

    @property
    def left_seconds(self) -> float | None:
        """Until then, not below 0; `None`: for ever."""
        return None if self._until is None else max(0.0, self._until - time.monotonic())

    def look(self) -> None:
        """To be called now and then.

        Raises:
            HostError: the time is over.
        """
        if self._until is not None and time.monotonic() > self._until:
            raise HostError(f"it took longer than {self.seconds:g} s")

    def watched(self, found: Iterable[T]) -> Iterator[T]:
        """The same, with a look now and then: each is a small step.

        Raises:
            HostError: as `look`.
        """
        if self._until is None:
            yield from found
            return
        for place, one in enumerate(found):
            if not place % _STEPS:
                self.look()
            yield one


NO_HURRY: Final = Deadline(None)
