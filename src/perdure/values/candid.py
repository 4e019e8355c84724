"""Candid messages as values: by the types that they carry, or by types that are known.

The types stand in the head of every message, and all messages of one structure have the same head, or a few. So a head
is parsed once, and a message is recognised by the bytes of its head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Final, TypeAlias, final

from perdure.candid import Codec, parse_type
from perdure.candid import types as candid
from perdure.candid.header import Header, read_header
from perdure.candid.service import load
from perdure.candid.types import Field, Opt, Prim, Rec, Record, Service, Type, Variant, Vec, resolve
from perdure.errors import MalformedError
from perdure.stable.kind import BOOL, BYTES, DOCUMENT, PRINCIPAL, TEXT, UNIT, Kind, integer, option
from perdure.values.format import Format, Value, decode_as
from perdure.values.show import to_sql

if TYPE_CHECKING:
    from perdure.stable.columns import Column
    from perdure.stable.gather import Offsets

__all__ = ["CandidNames", "CandidValue", "SelfDescribing", "candid_named", "kind_of_type", "merged"]

Convert: TypeAlias = Callable[[Value], Value]

_HEADS: Final = 8
"""Heads that are remembered; a structure has one for each version of its program."""

_COMPOSED: Final = ("record", "tuple", "variant", "list")
_MAX_HEADS: Final = 64
_MAX_KINDS: Final = 1_000
_MAX_DEPTH: Final = 16


def _same(value: object) -> Value:
    return value


@final
class SelfDescribing(Format):
    """A message with one value, or several, read by the types in it.

    Args:
        labels: names of fields by their numbers, which is all that a message has of them.
        kind: of the values, where that is known.
    """

    name = "candid"

    def __init__(self, labels: Mapping[int, str] | None = None, kind: Kind = DOCUMENT) -> None:
        self.kind = kind
        self._labels = labels or {}
        self._heads: list[_Head] = []

    @classmethod
    def parse(cls, name: str, arguments: list[str] | None, inner: Callable[[str], Format]) -> Format:
        """``candid``, or ``candid(TYPE)`` with a type as in a ``.did`` file."""
        if arguments is None:
            return cls()
        try:
            return CandidValue(parse_type(name.partition("(")[2][:-1]))
        except MalformedError as error:
            raise ValueError(f"{name!r}: {error}") from error

    def decode(self, data: bytes) -> Value:
        """The value; a list of several."""
        values = self._head(data).codec.decode(data)
        return values[0] if len(values) == 1 else list(values)

    def encode(self, value: object) -> bytes:
        """Refuse: a value does not say its type."""
        raise ValueError("candid values are read here, not written: declare candid(TYPE)")

    def named(self, labels: Mapping[int, str]) -> Format:
        """With names for the fields."""
        return SelfDescribing(labels, self.kind)

    def fitted(self, values: Iterable[bytes]) -> Format:
        """With the kind of all `values`; of those that no one kind describes, a document."""
        heads: list[_Head] = []
        head = None
        for data in values:
            if head is not None and data.startswith(head.data):
                continue
            head = next((one for one in heads if data.startswith(one.data)), None)
            if head is None:
                try:
                    head = _Head.read(data, self._labels)
                except MalformedError:
                    continue
                heads.append(head)
                if len(heads) > _MAX_HEADS:
                    return self
        return self._of_heads(heads)

    def _of_heads(self, heads: list[_Head]) -> Format:
        return SelfDescribing(self._labels, reduce(merged, (one.kind for one in heads)) if heads else DOCUMENT)

    def fitted_to(self, column: Column) -> Format:
        """The same, looking at each head once."""
        heads: list[_Head] = []
        for head, _ in self._by_head(column, _MAX_HEADS):
            if head is None:  # more heads, or what is no message: one by one
                return self.fitted(column.raws())
            heads.append(head)
        return self._of_heads(heads)

    def to_arrow(self, column: Column) -> Value:
        """All messages with a head whose values have the kind of the column in step, others one by one."""
        if self.kind == DOCUMENT:
            return None
        import pyarrow as pa

        from perdure.values.arrow import to_array

        arrays, places = [], []
        for head, rows in self._by_head(column):
            array = head.read_in_step(column, rows) if head is not None and head.kind == self.kind else None
            if array is None:
                array = to_array(self.kind, [decode_as(self, column.raw(row)) for row in rows.tolist()])
            arrays.append(array)
            places.append(rows)
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays).take(_inverse(places))

    def to_sql_column(self, column: Column) -> list[Value] | None:
        """JSON of all messages with a head whose values are composed in step, others one by one."""
        try:
            from perdure.values.arrow import json_texts
        except ImportError:
            return None
        found: list[Value] = [None] * len(column)
        for head, rows in self._by_head(column):
            array = head.read_in_step(column, rows) if head is not None and head.kind.name in _COMPOSED else None
            texts: Iterable[Value] = ()
            if head is not None and array is not None:
                texts = json_texts(head.kind, array)
            else:
                texts = (to_sql(decode_as(self, column.raw(row))) for row in rows.tolist())
            for row, text in zip(rows.tolist(), texts, strict=True):
                found[row] = text
        return found

    def _by_head(self, column: Column, limit: int = _HEADS) -> Iterator[tuple[_Head | None, Offsets]]:
        """The rows with each head; those with none, or with one of too many, together."""
        import numpy as np

        rest = np.arange(len(column))
        for _ in range(limit):
            if not len(rest):
                return
            try:
                head = self._head(column.raw(int(rest[0])))
            except MalformedError:
                break
            has = column.starts_with(head.data)[rest]
            yield head, rest[has]
            rest = rest[~has]
        if len(rest):
            yield None, rest

    def _head(self, data: bytes) -> _Head:
        for head in self._heads:
            if data.startswith(head.data):
                return head
        head = _Head.read(data, self._labels)
        self._heads = [head, *self._heads[: _HEADS - 1]]
        return head


@final
class _Head:
    """The head of messages: its bytes, the types in it with their names, how messages with it are decoded."""

    def __init__(self, data: bytes, types: tuple[Type, ...], codec: Codec) -> None:
        self.data = data
        self.types = types
        self.codec = codec

    @classmethod
    def read(cls, data: bytes, labels: Mapping[int, str]) -> _Head:
        header = read_header(data)
        types = _labelled(header, labels)
        return cls(data[: header.size], types, Codec(types if labels else None))

    @cached_property
    def kind(self) -> Kind:
        return kind_of_type(self.types[0]) if len(self.types) == 1 else DOCUMENT

    def read_in_step(self, column: Column, rows: Offsets) -> Value:
        """The values of some messages as an Arrow array; ``None`` where they have to be decoded one by one."""
        if self.kind == DOCUMENT:
            return None
        from perdure.values.candid_columns import NotColumnarError, read_messages

        starts, ends = column.spans()
        try:
            return read_messages(self.types[0], self.kind, column.data, starts[rows] + len(self.data), ends[rows])
        except NotColumnarError:
            return None


@final
class CandidValue(Format):
    """One value of a known type, what ``Encode!`` in a hand-written ``Storable`` gives; coerced where it is of another.

    Args:
        type: in Candid.
        to_candid: from the value that a program handles to the one that Candid takes.
        from_candid: the other way.
    """

    def __init__(self, type: Type, to_candid: Convert = _same, from_candid: Convert = _same) -> None:  # noqa: A002
        self.name = f"candid({type})"
        self.kind = kind_of_type(type)
        self.type = type
        self._codec = Codec((type,))
        self._to_candid = to_candid
        self._from_candid = from_candid

    def encode(self, value: object) -> bytes:
        """The message that says the value."""
        return self._codec.encode((self._to_candid(value),))

    def decode(self, data: bytes) -> Value:
        """The value."""
        return self._from_candid(self._codec.decode(data)[0])


def candid_named(name: str, definitions: str) -> CandidValue | None:
    """The format ``candid(TYPE)``, whose type may name what `definitions` say as a ``.did`` file does; `None`: no such.

    Raises:
        MalformedError: type or definitions do not read.
    """
    if not name.startswith("candid("):
        return None
    return CandidValue(parse_type(name.removeprefix("candid(")[:-1], load(f"{definitions}\nservice : {{}}").names))


@final
class CandidNames(Mapping[str, Format]):
    """The formats ``candid(TYPE)`` that `definitions` give names for, wherever they stand in another one's name."""

    def __init__(self, definitions: str) -> None:
        self._definitions = definitions

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.startswith("candid(")

    def __getitem__(self, name: str) -> Format:
        found = candid_named(name, self._definitions)
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True


def _inverse(places: list[Offsets]) -> Offsets:
    """Where each row is found in the rows of `places`, one after the other."""
    import numpy as np

    joined = np.concatenate(places)
    found = np.empty(len(joined), dtype=np.int64)
    found[joined] = np.arange(len(joined))
    return found


def _labelled(header: Header, labels: Mapping[int, str]) -> tuple[Type, ...]:
    """The types of a message with names for their fields; functions and services keep theirs."""
    if not labels:
        return header.types
    renamed = {
        id(entry): Rec(entry.name) for entry in header.table if not isinstance(entry.type, candid.Func | Service)
    }

    def place(found: Type) -> Type:
        return renamed.get(id(found), found)

    def fields(found: tuple[Field, ...]) -> tuple[Field, ...]:
        return tuple(Field(one.id, place(one.type), labels.get(one.id)) for one in found)

    for entry in header.table:
        if id(entry) not in renamed:
            continue
        match entry.type:
            case Opt(content):
                made: Type = Opt(place(content))
            case Vec(element):
                made = Vec(place(element))
            case Record(own):
                made = Record(fields(own))
            case Variant(own):
                made = Variant(fields(own))
            case other:
                made = other
        renamed[id(entry)].define(made)
    return tuple(map(place, header.types))


# -- kinds

_PRIMITIVE: Final[Mapping[str, Kind]] = {
    "null": UNIT,
    "reserved": UNIT,
    "empty": UNIT,
    "bool": BOOL,
    "text": TEXT,
    "principal": PRINCIPAL,
    "nat": integer(0),
    "int": integer(0, is_signed=True),
    **{f"nat{bits}": integer(bits) for bits in (8, 16, 32, 64)},
    **{f"int{bits}": integer(bits, is_signed=True) for bits in (8, 16, 32, 64)},
    **{f"float{bits}": Kind("float", bits) for bits in (32, 64)},
}


def kind_of_type(type: Type) -> Kind:  # noqa: A002 -- what it is
    """The kind of the values of a type. What is recursive, empty, nested very deep or very large is a document."""
    return _Kinds().of(type, _MAX_DEPTH)


class _Kinds:
    """One conversion: a type of a few bytes may stand for a tree of millions."""

    def __init__(self) -> None:
        self._left = _MAX_KINDS
        self._open: set[int] = set()

    def of(self, found: Type, depth: int) -> Kind:
        found = resolve(found)
        if isinstance(found, Prim):
            return _PRIMITIVE[found.name]
        self._left -= 1
        if depth == 0 or self._left < 0 or id(found) in self._open:
            return DOCUMENT
        self._open.add(id(found))
        try:
            return self._composed(found, depth - 1)
        finally:
            self._open.discard(id(found))

    def _composed(self, found: Type, depth: int) -> Kind:
        match found:
            case Opt(content):
                return DOCUMENT if candid.is_nullable(content) else option(self.of(content, depth))
            case Vec(element):
                return BYTES if candid.is_blob(found) else Kind("list", parts=(self.of(element, depth),))
            case Record(fields) if found.is_tuple:
                return Kind("tuple", parts=tuple(self.of(one.type, depth) for one in fields))
            case Record(fields) | Variant(fields) if fields:
                name = "record" if isinstance(found, Record) else "variant"
                parts = tuple(self.of(one.type, depth) for one in fields)
                return Kind(name, labels=tuple(one.label for one in fields), parts=parts)
            case Service():
                return PRINCIPAL
            case _:
                return DOCUMENT


def merged(one: Kind, other: Kind) -> Kind:
    """The kind that the values of both are of: fields of either, options where one has none; else a document."""
    if one == other:
        return one
    if UNIT in (one, other) or "option" in (one.name, other.name):
        inner = [kind.parts[0] if kind.name == "option" else kind for kind in (one, other) if kind != UNIT]
        whole = inner[0] if len(inner) == 1 else merged(inner[0], inner[1])
        return whole if whole.name in ("option", "document") else option(whole)
    if one.name != other.name or one.name not in ("record", "variant", "list"):
        return DOCUMENT
    if one.name == "list":
        return Kind("list", parts=(merged(one.parts[0], other.parts[0]),))
    parts = dict(zip(one.labels, one.parts, strict=True))
    for label, part in zip(other.labels, other.parts, strict=True):
        parts[label] = merged(parts[label], part) if label in parts else part
    return Kind(one.name, labels=tuple(parts), parts=tuple(parts.values()))
