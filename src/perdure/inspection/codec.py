"""What the bytes of a key or value mean: codecs, by the names that `stable.yaml` gives them.

| name | bytes |
|---|---|
| ``raw`` | as they are, shown in hexadecimal |
| ``text`` | UTF-8 |
| ``u8`` .. ``u128``, ``i8`` .. ``i128``, ``f32``, ``f64``, ``bool`` | as the crate has them: big-endian |
| ``u16le`` .. ``u128le``, ``i16le`` .. ``i128le``, ``f32le``, ``f64le`` | little-endian |
| ``principal`` | 0 to 29 bytes, ordered by length first, as in Rust |
| ``cbor``, ``json`` | one item, or one text |
| ``candid`` | a message of its own (``DIDL``...) with one value, or several |
| ``protobuf(FILE, MESSAGE)`` | a message described by a descriptor set (``protoc --descriptor_set_out``) |
| ``struct(NAME: TYPE, ...)`` | fixed-size fields one after the other; the last may be of any size |
| ``length(TYPE)`` | a little-endian u32 length, then that many bytes of TYPE; the rest is not looked at |
| ``Option<T>``, ``(A, B)``, ``Blob<N>``, ``[u8; N]``, ``Vec<u8>``, ``Reverse<T>`` ... | any type of the crate |

A codec knows the order of its keys where Rust's is known; for ``cbor``, ``json``, ``candid`` and ``protobuf`` it is the
program's own and keys are searched without relying on it.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from perdure.errors import MalformedError, PerdureError, UnsupportedError
from perdure.ic.principal import Principal
from perdure.stable import types

__all__ = ["RAW", "Codec", "codec", "to_json", "to_sql"]

MAX_NESTING: Final = 16
_SQL_INTEGERS: Final = range(-(1 << 63), 1 << 63)
_BYTES: Final = ("Blob<", "[u8", "Vec<u8>", "BoundedVecN<", "UnboundedVecN<")
_SQL_ORDERED: Final = ("text", "String", "bool", "bytes", "Vec<u8>")
_RUST_NAMES: Final = {"text": "String", "principal": "Principal", "bytes": "Vec<u8>"}
_ALIASES: Final = re.compile(r"\b(text|principal|bytes)\b")


@final
@dataclass(frozen=True)
class Codec:
    """A way to read bytes.

    Attributes:
        name: as written in the schema; `codec(name)` gives an equal one.
        decode: bytes to a value; raises `MalformedError`.
        encode: a value to bytes; raises `ValueError`.
        fixed_bytes: width, where every value has the same.
        max_bytes: bound, where there is one.
        order: order of encoded keys; ``None`` where bytes compare right.
        is_ordered: whether `order` is known to be the program's.
        fields: names of the parts, where the value is a record of them.
        parts: their codecs, where the bytes are those of the parts one after the other.
        sql_ordered: whether SQLite orders the values of `to_sql` as `order` does.
    """

    name: str
    decode: Callable[[bytes], Any] = field(repr=False, compare=False)
    encode: Callable[[Any], bytes] = field(repr=False, compare=False)
    fixed_bytes: int | None = None
    max_bytes: int | None = None
    order: Callable[[bytes], Any] | None = field(default=None, repr=False, compare=False)
    is_ordered: bool = True
    fields: tuple[str, ...] = ()
    parts: tuple[Codec, ...] = field(default=(), repr=False, compare=False)
    sql_ordered: bool = False

    def from_text(self, text: str) -> bytes:
        """The bytes of what a person wrote: a number, a text, a principal, hexadecimal, else JSON.

        Raises:
            ValueError: that is none.
        """
        if self.name == "raw":
            return bytes.fromhex(text.removeprefix("0x"))
        if self.name in ("text", "String"):
            return text.encode()
        if self.name.lower() == "principal":
            return self._principal(text)
        if self.name.rstrip("le")[1:].isdecimal() and self.name[0] in "ui":
            return self.encode(int(text, 0))
        try:
            value = json.loads(text)
        except ValueError:
            value = bytes.fromhex(text.removeprefix("0x"))
        return self.encode(value)

    def _principal(self, text: str) -> bytes:
        try:
            return Principal.from_text(text).raw_bytes
        except MalformedError as error:
            raise ValueError(str(error)) from error

    def from_sql(self, value: Any) -> bytes:
        """The bytes of a value as `to_sql` shows it.

        Raises:
            ValueError: no bytes decode to it.
        """
        if isinstance(value, str):
            return self.from_text(value.lstrip("0") or "0" if value.isdecimal() and self.name[0] == "u" else value)
        if isinstance(value, bytes) != self.is_blob:
            raise ValueError(f"a {self.name} is {'' if self.is_blob else 'not '}shown as a blob")
        return self.encode(value)

    @property
    def is_blob(self) -> bool:
        """Whether values are bytes."""
        return self.name.startswith(("raw", "bytes", *_BYTES))

    def is_valid(self, data: bytes) -> bool:
        """Whether `data` decodes."""
        try:
            self.decode(data)
        except PerdureError:
            return False
        return True


RAW: Final = Codec("raw", bytes, bytes, sql_ordered=True, is_ordered=False)
"""Bytes of unknown meaning. Their order is taken to be that of the bytes, without being sure of it."""


def codec(name: str) -> Codec:
    """The codec called `name`.

    Raises:
        ValueError: there is none.
    """
    return _parse(name.strip(), MAX_NESTING)


def _parse(name: str, nesting: int) -> Codec:
    if nesting == 0:
        raise ValueError(f"more than {MAX_NESTING} codecs nested in {name[:60]!r}")
    plain: dict[str, Callable[[], Codec]] = {
        "raw": lambda: RAW,
        "hex": lambda: RAW,
        "cbor": _cbor,
        "json": _json,
        "candid": _candid,
    }
    if name in plain:
        return plain[name]()
    head, parenthesis, rest = name.partition("(")
    if parenthesis and head and rest.endswith(")"):
        arguments = _split(rest[:-1])
        if head == "struct":
            return _struct(name, arguments, nesting)
        if head == "length" and len(arguments) == 1:
            return _length(_parse(arguments[0], nesting - 1))
        if head == "protobuf" and len(arguments) == 2:
            return _protobuf(*arguments)
    if name.endswith("le") and name[:1] in "uif":
        return _little_endian(name)
    return _storable(name)


def _split(text: str) -> list[str]:
    """The parts of `text` between commas that no bracket holds."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text):
        depth += (letter in "(<[{") - (letter in ")>]}")
        if letter == "," and depth == 0:
            parts.append(text[start:index].strip())
            start = index + 1
    return [*parts, text[start:].strip()] if text[start:].strip() else parts


def _storable(name: str) -> Codec:
    """A type of the crate. Those whose SQL form orders as they do: unsigned and signed integers, text, bytes, bool."""
    storable = types.parse(_ALIASES.sub(lambda found: _RUST_NAMES[found[0]], name))

    def decode(data: bytes) -> Any:
        return storable.decode(data)

    def encode(value: Any) -> bytes:
        try:
            return types.encode_checked(storable, _revive(storable.name, value))
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{value!r} is no {name}") from error

    is_number = name[0] in "uif" and name[1:].isdecimal()
    return Codec(
        name,
        decode,
        encode,
        storable.max_size if storable.is_fixed else None,
        storable.max_size,
        storable.order,
        sql_ordered=name != "i128" and (is_number or name in _SQL_ORDERED or name.startswith(("Blob<", "[u8"))),
    )


def _revive(name: str, value: Any) -> Any:
    """A value from JSON or SQL as the crate's type wants it."""
    if name == "Principal" and isinstance(value, str):
        return Principal.from_text(value)
    if name == "bool" and value in (0, 1):
        return bool(value)
    if name.startswith(_BYTES):
        if isinstance(value, int):
            raise ValueError(f"{value!r} is no {name}")
        return bytes.fromhex(value) if isinstance(value, str) else value
    if name.startswith("(") and isinstance(value, list):
        return tuple(_revive(part, item) for part, item in zip(_split(name[1:-1]), value, strict=True))
    if name.startswith(("Option<", "Reverse<")) and value is not None:
        return _revive(name[name.index("<") + 1 : -1], value)
    if name.startswith("u") and name[1:].isdecimal() and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{value!r} is no {name}")
    return value


def _little_endian(name: str) -> Codec:
    bits = name[1:-2]
    if not bits.isdecimal() or int(bits) not in (8, 16, 32, 64, 128) or (name[0] == "f" and int(bits) not in (32, 64)):
        raise ValueError(f"no codec {name!r}")
    size, signed = int(bits) // 8, name[0] == "i"
    floating = struct.Struct("<f" if size == 4 else "<d") if name[0] == "f" else None

    def decode(data: bytes) -> Any:
        _expect(name, size, data)
        return floating.unpack(data)[0] if floating else int.from_bytes(data, "little", signed=signed)

    def encode(value: Any) -> bytes:
        try:
            return floating.pack(value) if floating else value.to_bytes(size, "little", signed=signed)
        except (AttributeError, OverflowError, struct.error) as error:
            raise ValueError(f"{value!r} is no {name}") from error

    return Codec(name, decode, encode, size, size, decode, sql_ordered=name != "i128le")


def _expect(name: str, size: int, data: bytes) -> None:
    if len(data) != size:
        raise MalformedError(f"a {name} has {size} bytes, found {len(data)}")


def _cbor() -> Codec:
    import cbor2

    def decode(data: bytes) -> Any:
        try:
            return _whole_cbor(cbor2, data)
        except (cbor2.CBORError, ValueError, TypeError, OverflowError, RecursionError, MemoryError) as error:
            raise MalformedError(f"no CBOR: {error}") from error

    def encode(value: Any) -> bytes:
        return bytes(cbor2.dumps(value))

    return Codec("cbor", decode, encode, is_ordered=False)


def _whole_cbor(cbor2: Any, data: bytes) -> Any:
    import io

    stream = io.BytesIO(data)
    value = cbor2.load(stream)
    if stream.tell() != len(data):
        raise ValueError(f"{len(data) - stream.tell()} bytes after the item")
    return value


def _json() -> Codec:
    def decode(data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise MalformedError(f"no JSON: {error}") from error

    def encode(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()

    return Codec("json", decode, encode, is_ordered=False)


def _candid() -> Codec:
    """A message that carries its own types; record fields without a known name keep their hash."""

    def decode(data: bytes) -> Any:
        from perdure.candid.codec import decode_with_types

        _, values = decode_with_types(data)
        return values[0] if len(values) == 1 else list(values)

    def encode(value: Any) -> bytes:
        raise ValueError("candid values are read here, not written")

    return Codec("candid", decode, encode, is_ordered=False)


def _protobuf(descriptor_path: str, message_name: str) -> Codec:
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
    except ImportError as error:
        raise UnsupportedError("protobuf values need `pip install 'perdure[protobuf]'`") from error
    from google.protobuf.message import DecodeError

    try:
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(descriptor_path).read_bytes())
        pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            pool.Add(file)
        message_class = message_factory.GetMessageClass(pool.FindMessageTypeByName(message_name))
    except (OSError, DecodeError, KeyError, TypeError) as error:
        raise ValueError(f"no message {message_name} in {descriptor_path}: {error}") from error

    def decode(data: bytes) -> Any:
        try:
            return json_format.MessageToDict(message_class.FromString(data), preserving_proto_field_name=True)
        except (DecodeError, ValueError) as error:
            raise MalformedError(f"no {message_name}: {error}") from error

    def encode(value: Any) -> bytes:
        try:
            return bytes(json_format.ParseDict(value, message_class()).SerializeToString())
        except json_format.ParseError as error:
            raise ValueError(str(error)) from error

    fields = tuple(entry.name for entry in message_class.DESCRIPTOR.fields)
    return Codec(f"protobuf({descriptor_path}, {message_name})", decode, encode, is_ordered=False, fields=fields)


def _struct(name: str, arguments: list[str], nesting: int) -> Codec:
    parts: list[tuple[str, Codec]] = []
    for argument in arguments:
        label, colon, spec = argument.partition(":")
        if not colon or not label.strip().isidentifier():
            raise ValueError(f"a struct field is written NAME: TYPE, found {argument!r}")
        parts.append((label.strip(), _parse(spec.strip(), nesting - 1)))
    if not parts or len({label for label, _ in parts}) != len(parts):
        raise ValueError(f"a struct has at least one field, each of its own name: {name!r}")
    for label, part in parts[:-1]:
        if part.fixed_bytes is None:
            raise ValueError(f"field {label} of {name!r} must have a fixed size: only the last need not")
    return _struct_of(name, parts)


def _struct_of(name: str, parts: list[tuple[str, Codec]]) -> Codec:
    sizes = [part.fixed_bytes or 0 for _, part in parts]
    last = parts[-1][1]
    total = sum(sizes) if last.fixed_bytes is not None else None

    def pieces(data: bytes) -> list[bytes]:
        if len(data) < sum(sizes) or (total is not None and len(data) != total):
            least = "" if total is not None else "at least "
            raise MalformedError(f"a {name} has {least}{sum(sizes)} bytes, found {len(data)}")
        offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        ends = [*offsets[1:], len(data)]
        return [data[start:end] for start, end in zip(offsets, ends, strict=True)]

    def decode(data: bytes) -> dict[str, Any]:
        return {label: part.decode(piece) for (label, part), piece in zip(parts, pieces(data), strict=True)}

    def encode(value: Any) -> bytes:
        if not isinstance(value, dict) or set(value) != {label for label, _ in parts}:
            raise ValueError(f"a {name} is an object of exactly its fields, found {value!r}")
        return b"".join(part.encode(value[label]) for label, part in parts)

    def order(data: bytes) -> Any:
        return tuple((part.order or bytes)(piece) for (_, part), piece in zip(parts, pieces(data), strict=True))

    compares_as_bytes = all(part.order is None for _, part in parts)
    return Codec(
        name,
        decode,
        encode,
        total,
        None if last.max_bytes is None else sum(sizes[:-1]) + last.max_bytes,
        None if compares_as_bytes else order,
        all(part.is_ordered for _, part in parts),
        tuple(label for label, _ in parts),
        tuple(part for _, part in parts),
    )


def _length(inner: Codec) -> Codec:
    """A u32 length in front: the convention of the crate's quick start for a memory that holds one serialised state."""

    def decode(data: bytes) -> Any:
        size = int.from_bytes(data[:4], "little")
        if len(data) < 4 or 4 + size > len(data):
            raise MalformedError(f"a length of {size} before {max(0, len(data) - 4)} bytes")
        return inner.decode(data[4 : 4 + size])

    def encode(value: Any) -> bytes:
        data = inner.encode(value)
        return len(data).to_bytes(4, "little") + data

    return Codec(f"length({inner.name})", decode, encode, is_ordered=False, fields=inner.fields)


# Showing values


def to_json(value: Any) -> Any:
    """A value made of what JSON has: principals as text, bytes in hexadecimal, records as objects."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return _composed_to_json(value)


def _composed_to_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(to_json(name)): to_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_json(item) for item in value]
    tag = getattr(value, "tag", None)
    if isinstance(tag, int) and hasattr(value, "value"):
        return {"tag": tag, "value": to_json(value.value)}
    return str(value)


def to_sql(value: Any) -> Any:
    """A value as SQLite has it.

    Integers past 63 bits become decimal text of 39 digits, which sorts after every integer and among itself by value;
    principals become text, bytes stay blobs, everything composed becomes JSON.
    """
    if value is None or isinstance(value, float | str | bytes):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value if value in _SQL_INTEGERS else f"{value:039d}"
    if isinstance(value, Principal):
        return str(value)
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    return json.dumps(to_json(value), ensure_ascii=False)
