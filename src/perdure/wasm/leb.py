"""LEB128 integers: the writing half; `Reader` reads them."""

from __future__ import annotations

__all__ = ["encode_signed", "encode_unsigned"]


def encode_unsigned(value: int) -> bytes:
    """The shortest unsigned LEB128 of `value`, which is not negative."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_signed(value: int) -> bytes:
    """The shortest signed LEB128 of `value`."""
    encoded = bytearray()
    while not -0x40 <= value < 0x40:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value & 0x7F)
    return bytes(encoded)
