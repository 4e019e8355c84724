"""Principals: the names of canisters, users and subnets.

Spec: "Principals" and "Textual representation of principals" in the interface specification.
"""

from __future__ import annotations

import base64
import hashlib
import zlib
from functools import total_ordering
from typing import final

from perdure.errors import MalformedError

__all__ = ["ANONYMOUS", "MANAGEMENT_CANISTER", "MAX_PRINCIPAL_BYTES", "Principal"]

MAX_PRINCIPAL_BYTES = 29


@final
@total_ordering
class Principal:
    r"""A principal of 0 to 29 bytes. Equal, ordered and hashed by its bytes.

    >>> Principal.from_text("rrkah-fqaaa-aaaaa-aaaaq-cai").raw_bytes.hex()
    '00000000000000010101'
    >>> str(Principal(b"\x04"))
    '2vxsx-fae'
    """

    __slots__ = ("raw_bytes",)

    def __init__(self, raw_bytes: bytes) -> None:
        try:
            size_bytes = len(raw_bytes)
            self.raw_bytes = bytes(raw_bytes)
        except TypeError as error:
            raise TypeError(
                f"a principal is made of its bytes, found {raw_bytes!r:.80}: Principal.from_text reads a text"
            ) from error
        if size_bytes > MAX_PRINCIPAL_BYTES:
            raise ValueError(f"a principal has at most {MAX_PRINCIPAL_BYTES} bytes, found {size_bytes}")

    @classmethod
    def from_text(cls, text: str) -> Principal:
        """The principal written as `text`, groups of five base-32 characters with a CRC-32 in front.

        Raises:
            MalformedError: not base 32, too short or long, wrong checksum, or not in canonical form.
        """
        letters = text.replace("-", "").upper()
        try:
            decoded = base64.b32decode(letters + "=" * (-len(letters) % 8))
        except ValueError as error:
            raise MalformedError(f"principal {text!r} is not base 32") from error
        checksum, raw_bytes = decoded[:4], decoded[4:]
        if len(checksum) < 4:
            raise MalformedError(f"principal {text!r} is too short for a checksum, expected one such as 'aaaaa-aa'")
        if len(raw_bytes) > MAX_PRINCIPAL_BYTES:
            raise MalformedError(f"principal {text!r} has {len(raw_bytes)} bytes, expected 0 to {MAX_PRINCIPAL_BYTES}")
        expected = zlib.crc32(raw_bytes).to_bytes(4, "big")
        if checksum != expected:
            raise MalformedError(f"principal {text!r} has checksum {checksum.hex()}, expected {expected.hex()}")
        principal = cls(raw_bytes)
        if str(principal) != text:
            raise MalformedError(f"principal {text!r} is not in canonical form, expected {str(principal)!r}")
        return principal

    @classmethod
    def from_index(cls, index: int) -> Principal:
        """The canister id of a local subnet's canister number `index` (opaque id class: 8 bytes, then 0101)."""
        return cls(index.to_bytes(8, "big") + b"\x01\x01")

    @classmethod
    def self_authenticating(cls, der_public_key: bytes) -> Principal:
        """The principal of the holder of a DER-encoded public key."""
        return cls(hashlib.sha224(der_public_key).digest() + b"\x02")

    def __str__(self) -> str:
        checksum = zlib.crc32(self.raw_bytes).to_bytes(4, "big")
        letters = base64.b32encode(checksum + self.raw_bytes).decode().rstrip("=").lower()
        return "-".join(letters[start : start + 5] for start in range(0, len(letters), 5))

    def __repr__(self) -> str:
        return f"Principal.from_text({str(self)!r})"

    def __bytes__(self) -> bytes:
        return self.raw_bytes

    def __hash__(self) -> int:
        return hash(self.raw_bytes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Principal) and self.raw_bytes == other.raw_bytes

    def __lt__(self, other: Principal) -> bool:
        return self.raw_bytes < other.raw_bytes


ANONYMOUS = Principal(b"\x04")
MANAGEMENT_CANISTER = Principal(b"")
