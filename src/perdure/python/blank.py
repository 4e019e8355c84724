"""The bytes that a canister in Python is uploaded as: a real, empty module that says whose code is meant.

```
 custom section "icp:public candid:service"   the interface
 custom section "perdure:python"              the name, a space, SHA-256 of the source in hexadecimal
 custom section "perdure:schema"              what the class declares, see `variables`; directories of the first
                                              revisions of version 1 have none
```

Its SHA-256 is the module's hash, over name, declarations and source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from perdure.errors import MalformedError

__all__ = ["Blank", "empty_module", "read", "sections"]

_PREAMBLE: Final = b"\0asm\1\0\0\0"
_CANDID: Final = "icp:public candid:service"
_PYTHON: Final = "perdure:python"
_SCHEMA: Final = "perdure:schema"


class Blank(NamedTuple):
    """What such a module says."""

    name: str
    schema: bytes
    sections: Mapping[str, bytes]


def sections(name: str, source_digest: bytes, schema: bytes, candid: str) -> dict[str, bytes]:
    """The custom sections, in their order."""
    return {
        _CANDID: candid.encode(),
        _PYTHON: f"{name} {source_digest.hex()}".encode(),
        _SCHEMA: schema,
    }


def empty_module(content: Mapping[str, bytes]) -> bytes:
    """A module of custom sections."""
    from perdure.wasm.leb import encode_unsigned

    wasm = bytearray(_PREAMBLE)
    for name, data in content.items():
        label = name.encode()
        body = encode_unsigned(len(label)) + label + data
        wasm += b"\0" + encode_unsigned(len(body)) + body
    return bytes(wasm)


def read(wasm: bytes) -> Blank | None:
    """What a module says; `None`: it is no canister in Python. Cheap for what plainly is none."""
    if not wasm.startswith(_PREAMBLE + b"\0"):
        return None
    try:
        found = _custom_sections(wasm)
        if found is None or _PYTHON not in found:
            return None
        name = found[_PYTHON].decode().rpartition(" ")[0]
    except (MalformedError, UnicodeDecodeError):
        return None
    return Blank(name, found.get(_SCHEMA, b""), found)


def _custom_sections(wasm: bytes) -> dict[str, bytes] | None:
    """By name; `None` where there is any other section: a module with code is Wasm, whatever it calls itself."""
    from perdure.wasm.reader import Reader

    found: dict[str, bytes] = {}
    reader = Reader(wasm, len(_PREAMBLE))
    while not reader.at_end:
        if reader.byte("a section's id"):
            return None
        section = Reader(reader.take(reader.u32("a section's size"), "a section"))
        name = section.name("a section's name")
        found[name] = section.data[section.position :]
    return found
