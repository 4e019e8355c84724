"""The name section, as far as backtraces and profiles need it.

Spec: "Name Section", https://webassembly.github.io/spec/core/appendix/custom.html#name-section
"""

from __future__ import annotations

from contextlib import suppress

from perdure.errors import MalformedError
from perdure.wasm.reader import Reader

__all__ = ["function_names"]

_FUNCTION_NAMES = 1


def function_names(section: bytes) -> dict[int, str]:
    """Function names by function index.

    A damaged section gives the names before the damage: names only decorate, so a bad one must not stop a canister
    ("malformed custom sections are ignored", the specification).
    """
    names: dict[int, str] = {}
    reader = Reader(section)
    with suppress(MalformedError):
        while not reader.at_end:
            subsection = reader.byte("a subsection id")
            size = reader.u32("a subsection size")
            if subsection == _FUNCTION_NAMES:
                _read_name_map(Reader(section, reader.position, min(len(section), reader.position + size)), names)
                break
            reader.take(size, "a subsection")
    return names


def _read_name_map(reader: Reader, names: dict[int, str]) -> None:
    for _ in range(reader.count("names", smallest=2)):
        index = reader.u32("a function index")
        names[index] = reader.name("a function name")
