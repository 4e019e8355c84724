"""Records: values as bytes by an explicit schema, which is a format of its own and not the classes of today.

```
 record    CBOR  [version, kind, fields]
 fields    { number: value }, ascending; a field that has its default is left out
 union     [number of the alternative, value]
 set, mapping whose order is no state: sorted by encoded key
```

A schema is a table of numbered fields, each with a type and, where it may be missing, a default, both as they are
*written*. Renaming an attribute changes the table's left side and no byte; a new version has a new number and a
migration from the one before. Decoding is strict: what is missing, unknown, of another type or out of range, what does
not belong together by a table's rules, and what is not written as it would be written again, is an error that names the
field. So what was decoded is encoded as the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import compress, pairwise
from operator import attrgetter, is_not, ne
from typing import Any, NamedTuple, TypeAlias, final

import cbor2

from perdure import cbor
from perdure.errors import MalformedError, UnsupportedError

__all__ = [
    "BOOL",
    "NOT_WRITTEN",
    "PLAIN",
    "TEXT",
    "Coder",
    "Field",
    "Format",
    "Plain",
    "Table",
    "Written",
    "blob",
    "integer",
    "load",
    "mapping",
    "nat",
    "one_of",
    "optional",
    "row",
    "sequence",
    "sorted_mapping",
    "sorted_set",
    "structure",
    "union",
]

Plain: TypeAlias = Any
"""What CBOR has: numbers, texts, bytes, lists and dictionaries of them; or what a record is made of."""


Rule = Callable[[Plain], str | None]
"""What is wrong with a value whose parts are right each for itself; `None`: nothing."""


def load(data: bytes, where: str) -> Plain:
    """A value of CBOR, written as `cbor2.dumps` writes it and in no other way.

    Raises:
        MalformedError: it is not.
    """
    try:
        found = cbor.load(data)
        again = cbor2.dumps(found)
    except MalformedError as error:
        raise MalformedError(f"{where}: {error.message}") from error
    except Exception as error:
        raise MalformedError(f"{where}: no CBOR: {error}") from error
    if again != data:
        raise MalformedError(f"{where}: not in the one form that CBOR is written in here: {data[:20].hex()}...")
    return found


class Coder(NamedTuple):
    """How values of one type are written and read. `encode` is `None` where they are written as they are."""

    encode: Callable[[Plain], Plain] | None
    decode: Callable[[Plain, str], Plain]
    """From what was read and the name of the field, for errors."""


def _wrong(where: str, expected: str, found: object) -> MalformedError:
    return MalformedError(f"{where} is {type(found).__name__} {str(found)[:40]!r}, expected {expected}")


def _plain(kind: type) -> Coder:
    def decode(value: Plain, where: str) -> Plain:
        if type(value) is not kind:
            raise _wrong(where, kind.__name__, value)
        return value

    return Coder(None, decode)


BOOL = _plain(bool)
TEXT = _plain(str)


def one_of(*texts: str) -> Coder:
    """One of some texts."""

    def decode(value: Plain, where: str) -> Plain:
        if value not in texts:
            raise _wrong(where, f"one of {', '.join(texts)}", value)
        return value

    return Coder(None, decode)


def integer(low: int, high: int, make: Callable[[int], Plain] | None = None) -> Coder:
    """An integer within bounds, both included; `make` gives it its Python type."""

    def decode(value: Plain, where: str) -> Plain:
        if type(value) is not int or not low <= value <= high:
            raise _wrong(where, f"an integer of {low} to {high}", value)
        return value if make is None else make(value)

    return Coder(None if make is None else int, decode)


def nat(bits: int) -> Coder:
    """An integer that is not negative, of so many bits."""
    return integer(0, (1 << bits) - 1)


def blob(low: int = 0, high: int | None = None, make: type[bytes] | type[bytearray] = bytes) -> Coder:
    """Bytes, so many of them."""
    end = 1 << 62 if high is None else high

    def decode(value: Plain, where: str) -> Plain:
        if type(value) is not bytes or not low <= len(value) <= end:
            bounds = "bytes" if high is None else f"{low} to {high} bytes"
            raise _wrong(where, bounds, value)
        return make(value)

    return Coder(None if make is bytes else bytes, decode)


def optional(of: Coder) -> Coder:
    """A value or nothing."""
    encode = of.encode
    return Coder(
        None if encode is None else lambda value: None if value is None else encode(value),
        lambda value, where: None if value is None else of.decode(value, where),
    )


def _items(value: object, where: str, expected: str = "a list") -> list[Plain]:
    if type(value) is not list:
        raise _wrong(where, expected, value)
    return value


def sequence(of: Coder, make: Callable[[Iterable[Plain]], Plain] = list) -> Coder:
    """Values in their order."""
    each = of.encode

    def decode(value: Plain, where: str) -> Plain:
        return make([of.decode(one, f"{where}[{index}]") for index, one in enumerate(_items(value, where))])

    return Coder(list if each is None else lambda value: [each(one) for one in value], decode)


def _ascending(keys: list[Plain], where: str) -> None:
    for before, key in pairwise(keys):
        if not before < key:
            raise MalformedError(f"{where} is not ascending: {before!r}, then {key!r}")


def sorted_set(of: Coder) -> Coder:
    """A set, whose order in memory is another one in every process."""

    def decode(value: Plain, where: str) -> Plain:
        found = {of.decode(one, where) for one in _items(value, where)}
        _ascending(value, where)
        return found

    each = of.encode
    return Coder(sorted if each is None else lambda value: sorted(map(each, value)), decode)


def _pairs(key: Coder, of: Coder, *, in_order: bool) -> Coder:
    encode_key, encode_value = key.encode, of.encode

    def encode(content: Mapping[Plain, object]) -> list[Plain]:
        pairs = [
            [one if encode_key is None else encode_key(one), value if encode_value is None else encode_value(value)]
            for one, value in content.items()
        ]
        if not in_order:
            pairs.sort(key=lambda pair: pair[0])
        return pairs

    def decode(value: Plain, where: str) -> Plain:
        found: dict[Plain, Plain] = {}
        pairs = _items(value, where, "a list of pairs")
        for pair in pairs:
            if type(pair) is not list or len(pair) != 2:
                raise _wrong(where, "a list of pairs", pair)
            one = key.decode(pair[0], f"a key of {where}")
            if one in found:
                raise MalformedError(f"{where} has {pair[0]!r} twice")
            found[one] = of.decode(pair[1], f"{where}[{str(pair[0])[:40]}]")
        if not in_order:
            _ascending([pair[0] for pair in pairs], where)
        return found

    return Coder(encode, decode)


def mapping(key: Coder, of: Coder) -> Coder:
    """A mapping whose order is part of the state: that in which keys were added."""
    return _pairs(key, of, in_order=True)


def sorted_mapping(key: Coder, of: Coder) -> Coder:
    """A mapping whose order says nothing."""
    return _pairs(key, of, in_order=False)


def _obey(rules: Iterable[Rule], value: object, where: str) -> None:
    for rule in rules:
        wrong = rule(value)
        if wrong is not None:
            raise MalformedError(f"{where}: {wrong}")


def row(make: Callable[..., Any], *parts: tuple[str, Coder], rules: tuple[Rule, ...] = ()) -> Coder:
    """A fixed number of values, for tuples of few parts that are written often. Rules are asked of what is made."""
    encoders = [part.encode for _, part in parts]
    plain = all(encode is None for encode in encoders)

    def encode_parts(value: Plain) -> list[Plain]:
        return [one if each is None else each(one) for each, one in zip(encoders, value, strict=True)]

    def decode(value: Plain, where: str) -> Plain:
        found = _items(value, where, f"a list of {len(parts)}")
        if len(found) != len(parts):
            raise _wrong(where, f"a list of {len(parts)}", value)
        made = make(*(part.decode(one, f"{where}.{name}") for (name, part), one in zip(parts, found, strict=True)))
        _obey(rules, made, where)
        return made

    return Coder(list if plain else encode_parts, decode)


def union(alternatives: Mapping[int, tuple[type, Coder]]) -> Coder:
    """One of several classes, by number."""
    numbers = {kind: (number, of.encode) for number, (kind, of) in alternatives.items()}

    def encode(value: object) -> list[Plain]:
        number, each = numbers[type(value)]
        return [number, value if each is None else each(value)]

    def decode(value: Plain, where: str) -> Plain:
        found = _items(value, where, "a tagged value")
        if len(found) != 2 or type(found[0]) is not int or found[0] not in alternatives:
            raise _wrong(where, f"a value tagged with one of {sorted(alternatives)}", value)
        return alternatives[found[0]][1].decode(found[1], where)

    return Coder(encode, decode)


def _check_plain(value: object, where: str) -> Plain:
    if type(value) in (int, str, bytes, bool, float, type(None)):
        return value
    if type(value) is list:
        return [_check_plain(one, where) for one in value]
    if type(value) is dict and all(type(key) is str for key in value):
        return {key: _check_plain(one, where) for key, one in value.items()}
    raise _wrong(where, "a plain value", value)


PLAIN = Coder(None, _check_plain)
"""A value of CBOR that may be anything: numbers, text, bytes, lists, mappings by text."""

_REQUIRED = object()
_MAPS = [cbor2.dumps(dict.fromkeys(range(count)))[: 1 + (count > 23)] for count in range(64)]
"""How a map of so many fields begins."""


class Field(NamedTuple):
    """A field of a table.

    Attributes:
        number: its name in the format, never used again for another one.
        name: of the attribute.
        of: its type.
        default: as it is written; belongs to the format. Without one the field is always written.
        attribute: of the object that has the value, with dots where it is one of an attribute's; empty: `name`.
        in_place: the value is a container, empty by default, which may be changed in place; any other is replaced.
    """

    number: int
    name: str
    of: Coder
    default: Plain = _REQUIRED
    attribute: str = ""
    in_place: bool = False


class Written(NamedTuple):
    """What was written of an object: the values of its fields, and their parts of the record."""

    values: tuple[Plain, ...]
    parts: list[bytes]


NOT_WRITTEN = Written((), [])


@final
class Table:
    """The fields of one kind of record.

    Args:
        name: for errors.
        fields: in ascending order of their numbers.
        rules: asked of the values by name.
        is_loose: fields that have their defaults may be written all the same, and in any order: some are.
    """

    def __init__(self, name: str, *fields: Field, rules: tuple[Rule, ...] = (), is_loose: bool = False) -> None:
        self.name = name
        self.fields = fields
        self._rules = rules
        self._is_loose = is_loose
        if [field.number for field in fields] != sorted({field.number for field in fields}):
            raise ValueError(f"the fields of {name} are not numbered in ascending order")
        self._by_number = {field.number: field for field in fields}
        self._encoders = [(field.number, field.of.encode) for field in fields]
        self._defaults = [self._default(field) for field in fields]
        self._default_of = {field.number: default for field, default in zip(fields, self._defaults, strict=True)}
        # Defaults that may be handed out again and again; of the others, which can be changed, a copy is.
        self._constants: dict[str, Plain] = {}
        self._others: list[tuple[int, str, Plain]] = []
        for field, default in zip(fields, self._defaults, strict=True):
            if default is _REQUIRED or hasattr(default, "copy"):
                self._others.append((field.number, field.name, default))
            else:
                self._constants[field.name] = default
        self._keys = [cbor2.dumps(field.number) for field in fields]
        self._in_place = [index for index, field in enumerate(fields) if field.in_place]
        # Two names at least, as with one there is no tuple.
        self._values = attrgetter(*(field.attribute or field.name for field in fields), "__class__")

    def _default(self, field: Field) -> Plain:
        return _REQUIRED if field.default is _REQUIRED else field.of.decode(field.default, field.name)

    def encode(self, value: object) -> dict[int, Plain]:
        """The fields of an object, by number."""
        values = self._values(value)
        written = compress(zip(self._encoders, values, strict=False), map(ne, values, self._defaults))
        return {number: one if encode is None else encode(one) for (number, encode), one in written}

    def encode_each(self, value: object, before: Written) -> Written:
        """The fields of an object, each for itself; those whose values are the same objects as before are not encoded.

        Args:
            value: the object.
            before: what this has given of it the last time; `NOT_WRITTEN`: nothing.
        """
        values = self._values(value)
        parts = before.parts.copy() or [b""] * len(self.fields)
        changed = map(is_not, values, before.values or [_REQUIRED] * len(values))
        for index in compress(range(len(parts)), changed):
            parts[index] = self._part(index, values[index])
        for index in self._in_place:
            if values[index] or parts[index]:
                parts[index] = self._part(index, values[index])
        return Written(values, parts)

    def _part(self, index: int, value: Plain) -> bytes:
        """A field as it is in the map; none where it has its default."""
        if value == self._defaults[index]:
            return b""
        encode = self._encoders[index][1]
        return self._keys[index] + cbor2.dumps(value if encode is None else encode(value))

    def decode(self, content: Plain, where: str = "") -> dict[str, Plain]:
        """The values by name.

        Raises:
            MalformedError: a field is missing, unknown, or not what its type says.
        """
        where = where or self.name
        if type(content) is not dict:
            raise _wrong(where, "fields by number", content)
        found = self._constants.copy()
        for number, value in content.items():
            field = self._by_number.get(number) if type(number) is int else None
            if field is None:
                raise MalformedError(f"{where} has a field {number!r} that this version of the format does not")
            one = found[field.name] = field.of.decode(value, f"{where}.{field.name}")
            if not self._is_loose and one == self._default_of[number]:
                raise MalformedError(f"{where}.{field.name} has its default and is there, which it is not to be then")
        for number, name, default in self._others:
            if number not in content:
                if default is _REQUIRED:
                    raise MalformedError(f"{where} lacks {name} (field {number})")
                found[name] = default.copy()
        if not self._is_loose and list(content) != sorted(content):
            raise MalformedError(f"{where} has its fields in the order {list(content)}, expected ascending numbers")
        _obey(self._rules, found, where)
        return found


def structure(make: Callable[..., Any], table: Table) -> Coder:
    """An object with a table of its own."""
    return Coder(table.encode, lambda value, where: make(**table.decode(value, where)))


Migration = Callable[[int, dict[int, Plain]], dict[int, Plain]]
"""Fields, as written, of a kind in one version to those of the next."""


@final
@dataclass(frozen=True, slots=True)
class Format:
    """A version of a schema.

    Attributes:
        name: for errors.
        version: the one that is written.
        tables: by kind.
        migrations: from each older version that can be read to the next.
    """

    name: str
    version: int
    tables: Mapping[int, Table]
    migrations: Mapping[int, Migration]

    def dump(self, kind: int, content: dict[int, Plain]) -> bytes:
        """A record of today's version."""
        return cbor2.dumps([self.version, kind, content])

    def encode(self, kind: int, value: object) -> bytes:
        """An object as a record."""
        return self.dump(kind, self.tables[kind].encode(value))

    def encode_again(self, kind: int, value: object, before: Written) -> tuple[bytes, Written]:
        """An object as a record, the same bytes as `encode` gives; and what makes the next time cheaper.

        Most of an object is mostly what it was: see `Table.encode_each`.
        """
        written = self.tables[kind].encode_each(value, before)
        parts = written.parts
        count = len(parts) - parts.count(b"")
        head = b"\x83" + cbor2.dumps(self.version) + cbor2.dumps(kind)
        return b"".join((head, _MAPS[count], *parts)), written

    def _load(self, data: bytes) -> tuple[int, int, dict[int, Plain]]:
        found = load(data, self.name)
        if type(found) is not list or len(found) != 3 or type(found[2]) is not dict:
            raise _wrong(self.name, "a version, a kind and fields", found)
        version, kind, content = found
        if type(version) is not int or not (version in self.migrations or version == self.version):
            known = ", ".join(map(str, sorted({*self.migrations, self.version})))
            raise UnsupportedError(f"{self.name}: version {version!r} found; this version of perdure reads {known}")
        if type(kind) is not int or kind not in self.tables:
            raise _wrong(f"{self.name}: kind", f"one of {sorted(self.tables)}", kind)
        return version, kind, content

    def decode(self, kind: int, data: bytes) -> dict[str, Plain]:
        """The values of a record by name, from any version that can be read.

        Raises:
            MalformedError: no such record.
            UnsupportedError: it has a version that cannot be read, perhaps a newer one.
        """
        version, found, content = self._load(data)
        if found != kind:
            raise _wrong(f"{self.name}: kind", str(kind), found)
        return self.tables[kind].decode(self._migrated(version, kind, content))

    def _migrated(self, version: int, kind: int, content: dict[int, Plain]) -> dict[int, Plain]:
        while version < self.version:
            content = self.migrations[version](kind, content)
            version += 1
        return content

    def rewrite(self, data: bytes) -> bytes:
        """A record of any version that can be read in today's, checked.

        Raises:
            MalformedError: no such record.
            UnsupportedError: it has a version that cannot be read.
        """
        version, kind, content = self._load(data)
        if version == self.version:
            return data
        content = self._migrated(version, kind, content)
        self.tables[kind].decode(content)
        return self.dump(kind, content)
