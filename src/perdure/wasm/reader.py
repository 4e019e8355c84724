"""A cursor over Wasm bytes: LEB128 integers, names, vectors; every failure says what, where, found and expected."""

from __future__ import annotations

from typing import NoReturn, final

from perdure.errors import MalformedError

__all__ = ["Reader"]


@final
class Reader:
    """Reads `data` from `position` up to `end`.

    Offsets in errors are `base` plus the position in `data`. Every method raises `MalformedError` for bytes that end
    too early or are not what was asked for.
    """

    __slots__ = ("base", "data", "end", "position")

    def __init__(self, data: bytes, position: int = 0, end: int | None = None, base: int = 0) -> None:
        self.data = data
        self.position = position
        self.end = len(data) if end is None else end
        self.base = base

    @property
    def at_end(self) -> bool:
        """Whether everything has been read."""
        return self.position >= self.end

    def fail(self, message: str, position: int | None = None) -> NoReturn:
        """Raise `MalformedError` at `position`, by default here."""
        raise MalformedError(message, self.base + (self.position if position is None else position))

    def byte(self, what: str) -> int:
        """One byte."""
        if self.position >= self.end:
            self.fail(f"found the end of the input, expected {what}")
        value = self.data[self.position]
        self.position += 1
        return value

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes."""
        start = self.position
        if size > self.end - start:
            self.fail(f"found {self.end - start} bytes, expected {size} bytes of {what}")
        self.position = start + size
        return self.data[start : start + size]

    def u32(self, what: str) -> int:
        """An unsigned 32-bit integer in any LEB128 form, padded ones included."""
        position = self.position
        if position < self.end and (value := self.data[position]) < 0x80:
            self.position = position + 1
            return value
        return self.unsigned(32, what)

    def unsigned(self, bits: int, what: str) -> int:
        """An unsigned integer of `bits` bits in any LEB128 form."""
        start = self.position
        value, width = self._leb(bits, what)
        if value >> bits:
            self.fail(f"found {value:#x}, expected {what} of {bits} bits", start)
        assert width >= 7
        return value

    def signed(self, bits: int, what: str) -> int:
        """A signed integer of `bits` bits in any LEB128 form."""
        start = self.position
        value, width = self._leb(bits, what)
        if value >> (width - 1):
            value -= 1 << width
        if not -(1 << (bits - 1)) <= value < 1 << (bits - 1):
            self.fail(f"found {value:#x}, expected {what} of {bits} signed bits", start)
        return value

    def _leb(self, bits: int, what: str) -> tuple[int, int]:
        start = self.position
        value = width = 0
        while True:
            byte = self.byte(f"{what} (LEB128)")
            value |= (byte & 0x7F) << width
            width += 7
            if byte < 0x80:
                return value, width
            if width >= bits:
                self.fail(f"found a LEB128 of more than {-(-bits // 7)} bytes, expected {what} of {bits} bits", start)

    def name(self, what: str) -> str:
        """A name: size and UTF-8."""
        size = self.u32(f"the size of {what}")
        start = self.position
        raw = self.take(size, what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            found = raw[error.start : error.end].hex()
            message = f"found bytes {found} in {what}, expected UTF-8"
            raise MalformedError(message, self.base + start + error.start) from error

    def count(self, what: str, smallest: int = 1) -> int:
        """The count of a vector whose items take at least `smallest` bytes each, so that it cannot lie wildly."""
        start = self.position
        count = self.u32(f"the number of {what}")
        if count * smallest > self.end - self.position:
            room = self.end - self.position
            self.fail(f"found a count of {count} {what} before {room} bytes, expected no more than fit", start)
        return count

    def index(self, bound: int, what: str) -> int:
        """An index below `bound`."""
        start = self.position
        index = self.u32(f"a {what} index")
        if index >= bound:
            self.fail(f"found {what} index {index}, expected one below {bound}", start)
        return index
