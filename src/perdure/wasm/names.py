"""The name section, as far as backtraces and profiles need it.

Spec: "Name Section", https://webassembly.github.io/spec/core/appendix/custom.html#name-section
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from perdure.errors import MalformedError
from perdure.wasm.leb import encode_unsigned
from perdure.wasm.reader import Reader

__all__ = ["function_names", "module_name", "with_functions_moved"]

_MODULE_NAME = 0
_FUNCTION_NAMES, _LOCAL_NAMES, _LABEL_NAMES = 1, 2, 3


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


def module_name(section: bytes) -> str:
    """The module's own name; empty where there is none, or what says it is damaged."""
    reader = Reader(section)
    with suppress(MalformedError):
        while not reader.at_end:
            subsection = reader.byte("a subsection id")
            size = reader.u32("a subsection size")
            if subsection == _MODULE_NAME:
                return reader.name("a module's name")
            reader.take(size, "a subsection")
    return ""


def _read_name_map(reader: Reader, names: dict[int, str]) -> None:
    for _ in range(reader.count("names", smallest=2)):
        index = reader.u32("a function index")
        names[index] = reader.name("a function name")


def with_functions_moved(section: bytes, move: Callable[[int], int]) -> bytes:
    """The section with function indices as `move` says, which keeps their order; what is damaged is left out."""
    reader, pieces = Reader(section), []
    with suppress(MalformedError):
        while not reader.at_end:
            subsection = reader.byte("a subsection id")
            data = reader.take(reader.u32("a subsection size"), "a subsection")
            if subsection in {_FUNCTION_NAMES, _LOCAL_NAMES, _LABEL_NAMES}:
                data = _with_keys_moved(data, move, is_indirect=subsection != _FUNCTION_NAMES)
            pieces += [bytes((subsection,)), encode_unsigned(len(data)), data]
    return b"".join(pieces)


def _with_keys_moved(data: bytes, move: Callable[[int], int], *, is_indirect: bool) -> bytes:
    reader = Reader(data)
    count = reader.count("names", smallest=2)
    pieces = [encode_unsigned(count)]
    for _ in range(count):
        pieces.append(encode_unsigned(move(reader.u32("a function index"))))
        start = reader.position
        for _ in range(reader.count("names", smallest=2) if is_indirect else 0):
            reader.u32("an index")
            reader.name("a name")
        if not is_indirect:
            reader.name("a function name")
        pieces.append(data[start : reader.position])
    return b"".join(pieces)
