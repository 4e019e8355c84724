"""What the bytes of a key or value mean: formats, by the names that `stable.yaml` gives them.

| name | bytes |
|---|---|
| ``raw`` | as they are, shown in hexadecimal |
| ``text`` | UTF-8 |
| ``u8`` .. ``u128``, ``i8`` .. ``i128``, ``f32``, ``f64``, ``bool`` | as the crate has them: big-endian |
| ``u16le`` .. ``u128le``, ``i16le`` .. ``i128le``, ``f32le``, ``f64le`` | little-endian |
| ``principal`` | 0 to 29 bytes, ordered by length first, as in Rust |
| ``cbor``, ``json`` | one item, or one text |
| ``cbor(NAME: TYPE, ...)`` | one array of these parts |
| ``json(NAME: TYPE, ...)`` | one object of these parts; bytes in hexadecimal |
| ``protobuf(NAME: TYPE, ...)`` | a message of these fields, numbered from 1 |
| ``flatbuffers(NAME: TYPE, ...)`` | a table of these fields, numbered from 0: one is read without the others |
| ``flatbuffers(FILE.bfbs, TABLE)`` | a table by a binary schema (``flatc --binary --schema``), for reading |
| ``any`` | a part of these two, of whatever type |
| ``uri`` | a part of these two: a canister, and an id of its own |
| ``packed``, ``packed(NAME: TYPE, ...)`` | FoundationDB's tuple layer: parts whose bytes compare as they do |
| ``candid`` | a message of its own (``DIDL``...) with one value, or several |
| ``protobuf(FILE, MESSAGE)`` | a message described by a descriptor set (``protoc --descriptor_set_out``) |
| ``struct(NAME: TYPE, ...)`` | fixed-size fields one after the other; the last may be of any size |
| ``length(TYPE)`` | a little-endian u32 length, then that many bytes of TYPE; the rest is not looked at |
| ``Option<T>``, ``(A, B)``, ``Blob<N>``, ``[u8; N]``, ``Vec<u8>``, ``Reverse<T>`` ... | any type of the crate |

Parts written ``Option<TYPE>`` may be missing. A format knows the order of its keys where Rust's is known; for ``cbor``,
``json``, ``candid``, ``protobuf`` and ``flatbuffers`` it is the program's own and keys are searched without relying on
it.

To add a format: a class in a file of its own (`cbor` is a short one), and a line in `_FORMATS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final, TypeAlias

from perdure.stable import types
from perdure.units import meant
from perdure.values.format import Format, StorableFormat, as_format
from perdure.values.plain import RAW, LittleEndian

__all__ = ["RAW", "codec"]

MAX_NESTING: Final = 16
_RUST_NAMES: Final = {"text": "String", "principal": "Principal", "bytes": "Vec<u8>"}
_ALIASES: Final = re.compile(r"\b(text|principal|bytes)\b")
_LITTLE: Final = re.compile(r"[ui](8|16|32|64|128)le|f(32|64)le")

Parse: TypeAlias = Callable[[str], Format]
"""Makes a format of its name, one level deeper."""

_FORMATS: Final = {
    "raw": "plain:Raw",
    "hex": "plain:Raw",
    "json": "plain:Json",
    "length": "composed:Length",
    "struct": "composed:Struct",
    "cbor": "cbor:Cbor",
    "packed": "packed:Packed",
    "any": "packed:Anything",
    "uri": "packed:UriFormat",
    "candid": "candid:SelfDescribing",
    "protobuf": "protobuf:Protobuf",
    "flatbuffers": "flatbuffers:Flatbuffers",
}
"""Module and class by the name before the parentheses. Modules are imported when one of their formats is asked for."""


def codec(name: str, formats: Mapping[str, Format] | None = None) -> Format:
    """The format called `name`.

    Args:
        name: as in the table above.
        formats: others, by name; they come first.

    Raises:
        ValueError: there is none.
    """
    return _parse(name.strip(), MAX_NESTING, formats or {})


def _parse(name: str, nesting: int, formats: Mapping[str, Format]) -> Format:
    if nesting == 0:
        raise ValueError(f"more than {MAX_NESTING} codecs nested in {name[:60]!r}")
    if name in formats:
        return as_format(formats[name])
    head, parenthesis, rest = name.partition("(")
    place = _FORMATS.get(head)
    if place is not None and (not parenthesis or rest.endswith(")")):
        module, _, class_name = place.partition(":")
        arguments = _split(rest[:-1]) if parenthesis else None
        found = getattr(import_module(f"perdure.values.{module}"), class_name)
        made = found.parse(name, arguments, lambda inner: _parse(inner, nesting - 1, formats))
        assert isinstance(made, Format)
        return made
    if _LITTLE.fullmatch(name):
        return LittleEndian(name)
    known = {*formats, *_FORMATS, *_RUST_NAMES, *types.NAMES}
    if head.isidentifier() and head not in known and not rest:
        raise ValueError(f"there is no format {name!r:.60}, {meant(head, known)}")
    return StorableFormat(types.parse(_ALIASES.sub(lambda found: _RUST_NAMES[found[0]], name)), name)


def _split(text: str) -> list[str]:
    """The parts of `text` between commas that no bracket holds."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "(<[{") - (letter in ")>]}")
        if letter == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()] if text[start:].strip() else parts
