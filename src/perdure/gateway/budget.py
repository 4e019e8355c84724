"""What requests and answers that are on their way may take together, whoever sends or does not read them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

__all__ = ["Budget", "Held", "Spent"]


@final
class Budget:
    """Bytes that are had by somebody. From any thread.

    Args:
        most_bytes: which all may have together; who is alone may have more, once.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Have some more; whether there are as many."""
        with self._lock:
            if self.held_bytes and self.held_bytes + size_bytes > self._most_bytes:
                return False
            self.held_bytes += size_bytes
            return True

    def give(self, size_bytes: int) -> None:
        """Have them no more."""
        with self._lock:
            self.held_bytes -= size_bytes

    @contextmanager
    def spending(self) -> Iterator[Spent]:
        """What is had for as long as the block goes on."""
        spent = Spent(self)
        try:
            yield spent
        finally:
            self.give(spent.size_bytes)


@final
class Held:
    """Bytes of a budget that several need: they are had until the last one lets go. From any thread.

    Args:
        budget: of which they have been taken.
        size_bytes: how many.
    """

    def __init__(self, budget: Budget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes
        self._lock = threading.Lock()
        self._holders = 1

    def keep(self) -> Held:
        """One more needs them; itself."""
        with self._lock:
            self._holders += 1
        return self

    def let_go(self) -> None:
        """One does not need them any more."""
        with self._lock:
            self._holders -= 1
            is_last = not self._holders
        if is_last:
            self._budget.give(self._size_bytes)


@final
class Spent:
    """What one has of a budget, part by part."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.size_bytes = 0

    def add(self, size_bytes: int) -> bool:
        """Have some more; whether there are as many."""
        if not self._budget.take(size_bytes):
            return False
        self.size_bytes += size_bytes
        return True
