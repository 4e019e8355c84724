"""Keys in ranges, each of which has something: which shard a row is in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar, final

__all__ = ["Ranges"]

T = TypeVar("T")


@final
class Ranges(Generic[T]):
    """All keys, from the empty one on, as ranges that meet.

    Args:
        value: that all of them have at first.
    """

    def __init__(self, value: T) -> None:
        self._lows = [b""]
        self._values = [value]

    def at(self, key: bytes) -> T:
        """What the range of a key has."""
        return self._values[bisect_right(self._lows, key) - 1]

    def bounds(self, key: bytes) -> tuple[bytes, bytes | None]:
        """The range of a key: its first one, and the one behind it, `None` where there is none."""
        index = bisect_right(self._lows, key)
        return self._lows[index - 1], self._lows[index] if index < len(self._lows) else None

    def between(self, low: bytes, high: bytes | None) -> Iterator[tuple[bytes, bytes | None, T]]:
        """The ranges from a key up to another one, cut there."""
        while high is None or low < high:
            _, end = self.bounds(low)
            cut = high if end is None or (high is not None and high < end) else end
            yield low, cut, self.at(low)
            if cut is None:
                return
            low = cut

    def set(self, low: bytes, high: bytes | None, value: T) -> None:
        """Give a range something; neighbours that have the same become one."""
        if high is not None and low >= high:
            return
        last = self._values[-1] if high is None else self.at(high)
        first = bisect_right(self._lows, low)
        if self._lows[first - 1] == low:
            first -= 1
        end = len(self._lows) if high is None else bisect_right(self._lows, high)
        lows, values = [low], [value]
        if high is not None:
            lows.append(high)
            values.append(last)
        self._lows[first:end], self._values[first:end] = lows, values
        for index in range(min(first + 2, len(self._lows) - 1), max(first - 1, 0), -1):
            if self._values[index] == self._values[index - 1]:
                del self._lows[index], self._values[index]

    def __iter__(self) -> Iterator[tuple[bytes, bytes | None, T]]:
        return self.between(b"", None)

    @classmethod
    def of(cls, pieces: Iterable[tuple[bytes, bytes | None, T]], rest: T) -> Ranges[T]:
        """Those of pieces, and `rest` wherever none of them is."""
        found = cls(rest)
        for low, high, value in pieces:
            found.set(low, high, value)
        return found
