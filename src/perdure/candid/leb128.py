"""LEB128 numbers of any length, in time linear in their length."""

from __future__ import annotations

from perdure.errors import MalformedError

__all__ = ["read_leb", "read_sleb", "read_small_leb", "write_leb", "write_sleb"]

#: Longer numbers go through chunks of eight bytes (56 bits); shifting one byte at a time is quadratic.
_SHORT_BYTES = 24
_PAYLOAD = 0x7F7F_7F7F_7F7F_7F7F


def _end(data: bytes, offset: int) -> int:
    """Where the number at `offset` ends."""
    end = offset
    while data[end] > 127:
        end += 1
    return end + 1


def _squeeze(chunk: bytes) -> bytes:
    """Eight groups of seven bits as seven bytes."""
    bits = int.from_bytes(chunk, "little") & _PAYLOAD
    value = 0
    for index in range(8):
        value |= (bits >> (8 * index) & 127) << (7 * index)
    return value.to_bytes(7, "little")


def read_leb(data: bytes, offset: int) -> tuple[int, int]:
    """The unsigned number at `offset`, and the offset after it.

    Raises:
        IndexError: the bytes end within the number.
    """
    byte = data[offset]
    if byte < 128:
        return byte, offset + 1
    end = _end(data, offset)
    if end - offset > _SHORT_BYTES:
        digits = data[offset:end]
        squeezed = b"".join(_squeeze(digits[start : start + 8]) for start in range(0, len(digits), 8))
        return int.from_bytes(squeezed, "little"), end
    value = shift = 0
    for byte in data[offset:end]:
        value |= (byte & 127) << shift
        shift += 7
    return value, end


def read_sleb(data: bytes, offset: int) -> tuple[int, int]:
    """The signed number at `offset`, and the offset after it.

    Raises:
        IndexError: the bytes end within the number.
    """
    byte = data[offset]
    if byte < 128:
        return (byte if byte < 64 else byte - 128), offset + 1
    value, end = read_leb(data, offset)
    if data[end - 1] & 64:
        value -= 1 << (7 * (end - offset))
    return value, end


def read_small_leb(data: bytes, offset: int, what: str, limit: int) -> tuple[int, int]:
    """An unsigned number that counts or indexes something, and the offset after it.

    Raises:
        MalformedError: above `limit`, or longer than ten bytes.
        IndexError: the bytes end within the number.
    """
    byte = data[offset]
    if byte < 128 and byte <= limit:
        return byte, offset + 1
    end = _end(data, offset)
    value = read_leb(data, offset)[0] if end - offset <= 10 else limit + 1
    if value > limit:
        raise MalformedError(f"{what} {value if end - offset <= 10 else 'too long'}, expected at most {limit}", offset)
    return value, end


def write_leb(value: int, out: bytearray) -> None:
    """Append `value`, not negative, to `out`."""
    if value.bit_length() > 7 * _SHORT_BYTES:
        value = _write_chunks(value, out)
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def write_sleb(value: int, out: bytearray) -> None:
    """Append `value` to `out`."""
    if value.bit_length() > 7 * _SHORT_BYTES:
        value = _write_chunks(value, out)
    while not -64 <= value < 64:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value & 127)


def _write_chunks(value: int, out: bytearray) -> int:
    """Append the low bits of a long number, 56 at a time; what is left of it is short."""
    chunks = value.bit_length() // 56 - 1
    low = (value & ((1 << 56 * chunks) - 1)).to_bytes(7 * chunks, "little")
    for start in range(0, len(low), 7):
        bits = int.from_bytes(low[start : start + 7], "little")
        out += bytes(bits >> (7 * index) & 127 | 128 for index in range(8))
    return value >> (56 * chunks)
