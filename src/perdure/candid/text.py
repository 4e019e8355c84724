"""Values from text.

>>> types, values = parse_values('(record { name = "Ada"; tags = vec { "x" } }, opt (5 : nat8))')
>>> values
({'name': 'Ada', 'tags': ['x']}, 5)
>>> from perdure.candid.printing import values_to_text
>>> print(values_to_text(types, values))
(record { name = "Ada"; tags = vec { "x" } }, opt (5 : nat8))

Spec: "Values". Beyond it, ``inf`` and ``nan`` are floats, so that every float has a text.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, final

from perdure.candid.codec import decode, encode
from perdure.candid.deep import Meter, guarded
from perdure.candid.did import TypeParser
from perdure.candid.errors import CoercionError
from perdure.candid.lexer import Token, Tokens
from perdure.candid.types import (
    RESERVED_WORDS,
    Bool,
    Empty,
    Field,
    Float32,
    Float64,
    Func,
    Int,
    MethodRef,
    Null,
    Opt,
    Prim,
    PrincipalType,
    Rec,
    Record,
    Reserved,
    Service,
    Some,
    Text,
    Type,
    Value,
    Variant,
    Vec,
    blob,
    field_hash,
    is_blob,
    is_nullable,
    resolve,
)
from perdure.errors import MalformedError
from perdure.ic.principal import Principal
from perdure.units import counted

__all__ = ["parse_values"]

_RANGES: Final[Mapping[str, tuple[int | None, int | None]]] = {
    "nat": (0, None),
    "int": (None, None),
    **{f"nat{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{f"int{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
}
#: Floats that the specification has no text for; as names of fields these words are no different from others.
_FLOATS: Final[Mapping[str, tuple[str, Value]]] = {
    "inf": ("float", math.inf),
    "nan": ("float", math.nan),
    "NaN": ("float", math.nan),
}
_CONSTANTS: Final[Mapping[str, tuple[str, Value]]] = {
    "true": ("bool", True),
    "false": ("bool", False),
    "null": ("null", None),
    **_FLOATS,
}
#: Types nest this deep without a definition, as in ``.did`` files.
_MAX_TYPE_NESTING: Final = 100
#: Python refuses longer decimal numbers, whose conversion takes quadratic time; hexadecimal ones are taken.
_MAX_DIGITS: Final = 4_000
#: Frames from one value to those within.
_LEVELS: Final = 8


class _Node(NamedTuple):
    """A value as written.

    Args:
        kind: ``num float bool null text blob opt vec record variant principal service func typed``.
        value: depends on the kind.
        token: its first.
    """

    kind: str
    value: Value
    token: Token


class _Entry(NamedTuple):
    """A field as written; `name` is None where only the number is."""

    id: int
    name: str | None
    node: _Node


@final
class _Parser:
    """Parses values, then reads them at a type."""

    def __init__(self, text: str, names: Mapping[str, Rec]) -> None:
        self.tokens = Tokens(text)
        self.type_parser = TypeParser(self.tokens, dict(names))
        self.meter = Meter()
        self._inferring = 0

    # Grammar

    def arguments(self) -> list[_Node]:
        self.tokens.expect("(")
        nodes = []
        while not self.tokens.accept(")"):
            nodes.append(self.annotated())
            if not self.tokens.sees(")"):
                self.tokens.expect(",")
        return nodes

    def annotated(self) -> _Node:
        node = self.value()
        if not self.tokens.sees(":"):
            return node
        self.tokens.advance()
        return _Node("typed", (node, self.type_parser.type()), node.token)

    def value(self) -> _Node:
        found: _Node = self.meter.enter(_LEVELS, self._value)
        return found

    def _value(self) -> _Node:
        tokens = self.tokens
        if tokens.sees("<number>", "<hex>", "<float>", "<sign>"):
            return self._number()
        if tokens.sees("<text>"):
            token = tokens.token
            return _Node("text", self.type_parser.text(), token)
        if tokens.accept("("):
            node = self.annotated()
            tokens.expect(")")
            return node
        if not tokens.sees("<identifier>"):
            raise tokens.error("a value")
        token = tokens.advance()
        word = str(token.value)
        if word in _CONSTANTS:
            kind, value = _CONSTANTS[word]
            return _Node(kind, value, token)
        return self._composite(word, token)

    def _composite(self, word: str, token: Token) -> _Node:  # noqa: PLR0911 - one return per kind of value
        tokens = self.tokens
        match word:
            case "opt":
                return _Node("opt", self.value(), token)
            case "blob":
                return _Node("blob", tokens.expect("<text>").value, token)
            case "vec":
                return _Node("vec", self._elements(), token)
            case "record":
                return _Node("record", self._fields(token), token)
            case "variant":
                return self._variant(token)
            case "principal" | "service":
                return _Node(word, self._principal(), token)
            case "func":
                principal = self._principal()
                tokens.expect(".")
                return _Node("func", MethodRef(principal, self.type_parser.name()), token)
            case _:
                raise tokens.error("a value", token)

    def _number(self) -> _Node:
        token = self.tokens.advance()
        text = str(token.value)
        if token.kind == "<sign>":
            word = self.tokens.expect("inf", "nan", "NaN")
            return _Node("float", float(text + str(word.value)), token)
        if token.kind == "<float>":
            is_hex = "x" in text or "X" in text
            return _Node("float", self._float(text, token) if is_hex else float(text), token)
        if token.kind == "<number>" and len(text) > _MAX_DIGITS:
            raise self.tokens.malformed(f"a number of {len(text)} digits, write it in hexadecimal", token)
        return _Node("num", int(text, 16 if token.kind == "<hex>" else 10), token)

    def _float(self, text: str, token: Token) -> float:
        try:
            return float.fromhex(text)
        except (ValueError, OverflowError) as error:
            raise self.tokens.malformed(f"float {text!r}: {error}", token) from error

    def _principal(self) -> Principal:
        token = self.tokens.token
        try:
            return Principal.from_text(self.type_parser.text())
        except MalformedError as error:
            raise self.tokens.malformed(error.message, token) from error

    def _elements(self) -> list[_Node]:
        self.tokens.expect("{")
        nodes = []
        while not self.tokens.accept("}"):
            nodes.append(self.annotated())
            if not self.tokens.sees("}"):
                self.tokens.expect(";")
        return nodes

    def _fields(self, start: Token) -> dict[int, _Entry]:
        self.tokens.expect("{")
        fields: dict[int, _Entry] = {}
        next_id = 0
        while not self.tokens.accept("}"):
            entry = self._field(next_id)
            next_id = entry.id + 1
            if entry.id in fields:
                raise self.tokens.malformed(f"two fields with the id {entry.id}", start)
            fields[entry.id] = entry
            if not self.tokens.sees("}"):
                self.tokens.expect(";")
        return fields

    def _field(self, next_id: int) -> _Entry:
        tokens = self.tokens
        if tokens.sees("<number>", "<hex>"):
            token = tokens.token
            node = self.annotated_number()
            if not tokens.sees("="):
                return _Entry(next_id, None, node)
            id_ = self._id(node, token)
            tokens.advance()
            return _Entry(id_, None, self.annotated())
        if tokens.sees("<text>") or self._sees_name():
            token = tokens.token
            name = self.type_parser.name()
            if tokens.accept("="):
                return _Entry(field_hash(name), name, self.annotated())
            if token.kind == "<identifier>" and name not in _FLOATS:
                raise tokens.error("`=`")
            kind, value = ("text", name) if token.kind == "<text>" else _FLOATS[name]
            return _Entry(next_id, None, self._annotation(_Node(kind, value, token)))
        return _Entry(next_id, None, self.annotated())

    def _sees_name(self) -> bool:
        token = self.tokens.token
        return token.kind == "<identifier>" and token.value not in RESERVED_WORDS

    def annotated_number(self) -> _Node:
        return self._annotation(self._number())

    def _annotation(self, node: _Node) -> _Node:
        if not self.tokens.accept(":"):
            return node
        return _Node("typed", (node, self.type_parser.type()), node.token)

    def _id(self, node: _Node, token: Token) -> int:
        if node.kind != "num" or not 0 <= node.value < 2**32 or str(token.value)[0] in "+-":
            raise self.tokens.error("a field id from 0 to 2**32 - 1", token)
        return int(node.value)

    def _variant(self, start: Token) -> _Node:
        tokens = self.tokens
        tokens.expect("{")
        token = tokens.token
        name = None
        if tokens.sees("<number>", "<hex>"):
            id_ = self._id(self._number(), token)
        else:
            name = self.type_parser.name()
            id_ = field_hash(name)
        content = self.annotated() if tokens.accept("=") else _Node("null", None, token)
        tokens.expect("}")
        return _Node("variant", _Entry(id_, name, content), start)

    # Reading at a type

    def at(self, node: _Node, type_: Type) -> Value:
        """The Python value of `node` at a type."""
        return self.meter.enter(_LEVELS, self._at, node, resolve(type_))

    def _at(self, node: _Node, want: Type) -> Value:  # noqa: PLR0911 - one return per kind of type
        if node.kind == "typed":
            return self._typed(node, want)
        if want is Reserved:
            return None
        match want:
            case Prim():
                return self._primitive(node, want)
            case Opt(content):
                return self._opt(node, content)
            case Vec(element) if node.kind == "vec" or (node.kind == "blob" and is_blob(want)):
                return self._vec(node, element, want)
            case Record() if node.kind == "record":
                return self._record(node, want)
            case Variant(fields) if node.kind == "variant":
                for one in fields:
                    if one.id == node.value.id:
                        return {one.label: self.at(node.value.node, one.type)}
            case Func() if node.kind == "func":
                return node.value
            case Service() if node.kind == "service":
                return node.value
        raise self._wrong(node, want)

    def _wrong(self, node: _Node, want: Type) -> MalformedError:
        text = str(want)
        return self.tokens.error(text if len(text) <= 200 else text[:197] + "...", node.token)

    def _typed(self, node: _Node, want: Type) -> Value:
        inner, type_ = node.value
        self.type_parser.finish()
        value = self.at(inner, type_)
        if resolve(type_) == want:
            return value
        try:
            [found] = decode(encode([type_], [value]), [want])
        except CoercionError as error:
            raise self.tokens.malformed(error.message, node.token) from error
        if found is None and value is not None and isinstance(want, Opt):
            # By the rules of coercion; but somebody wrote a value here, and nothing would be left of it.
            raise self._wrong(node, want)
        return found

    def _primitive(self, node: _Node, want: Prim) -> Value:
        if want.name in _RANGES:
            return self._integer(node, want)
        if want in (Float32, Float64) and node.kind in ("num", "float"):
            return self._float_at(node, want)
        kinds = {Bool: ("bool",), Text: ("text",), Null: ("null",), PrincipalType: ("principal", "service")}
        if node.kind in kinds.get(want, ()):
            return node.value
        raise self._wrong(node, want)

    def _integer(self, node: _Node, want: Prim) -> int:
        low, high = _RANGES[want.name]
        if node.kind != "num":
            raise self._wrong(node, want)
        value = int(node.value)
        if (low is not None and value < low) or (high is not None and value > high):
            raise self._wrong(node, want)
        return value

    def _float_at(self, node: _Node, want: Prim) -> float:
        try:
            value = float(node.value)
            return value if want is Float64 else float(struct.unpack("<f", struct.pack("<f", value))[0])
        except OverflowError as error:
            raise self._wrong(node, want) from error

    def _opt(self, node: _Node, content: Type) -> Value:
        if node.kind == "null":
            return None
        value = self.at(node.value if node.kind == "opt" else node, content)
        return Some(value) if is_nullable(content) else value

    def _vec(self, node: _Node, element: Type, want: Vec) -> Value:
        if node.kind == "blob":
            return node.value
        values = [self.at(one, element) for one in node.value]
        return bytes(values) if is_blob(want) else values

    def _record(self, node: _Node, want: Record) -> Value:
        value: dict[Value, Value] = {}
        for one in want.fields:
            entry = node.value.get(one.id)
            if entry is not None:
                value[one.label] = self.at(entry.node, one.type)
            elif is_nullable(one.type):
                value[one.label] = None
            else:
                raise self.tokens.error(f"field {one.label!r} : {one.type} in this record", node.token)
        return tuple(value.values()) if want.is_tuple else value

    # Types of values

    def infer(self, node: _Node) -> Type:
        """The type of a value as written: integers without an annotation are int, floats float64."""
        if self._inferring == _MAX_TYPE_NESTING:
            raise self.tokens.error(f"values without a type nested at most {_MAX_TYPE_NESTING} deep", node.token)
        self._inferring += 1
        found = self._infer(node)
        self._inferring -= 1
        return found

    def _infer(self, node: _Node) -> Type:  # noqa: PLR0911 - one return per kind of type
        match node.kind:
            case "typed":
                self.type_parser.finish()
                inner: Type = node.value[1]
                return inner
            case "opt":
                return Opt(self.infer(node.value))
            case "blob":
                return blob()
            case "vec":
                element: Type = Empty
                for one in node.value:
                    element = self._join(element, self.infer(one), one)
                return Vec(element)
            case "record":
                entries = sorted(node.value.values(), key=lambda one: one.id)
                return Record(tuple(Field(one.id, self.infer(one.node), one.name) for one in entries))
            case "variant":
                entry = node.value
                return Variant((Field(entry.id, self.infer(entry.node), entry.name),))
            case "func":
                return Func()
            case "service":
                return Service()
            case _:
                pass
        kinds = {"num": Int, "float": Float64, "bool": Bool, "null": Null, "text": Text, "principal": PrincipalType}
        return kinds[node.kind]

    def _join(self, a: Type, b: Type, node: _Node) -> Type:  # noqa: PLR0911 - one return per kind of type
        """A type for both the elements before and the one at `node`."""
        if a == b or b is Empty:
            return a
        match a, b:
            case (one, _) if one is Empty:
                return b
            case (one, Opt()) if one is Null:
                return b
            case (Opt(), one) if one is Null:
                return a
            case (Opt(x), Opt(y)):
                return Opt(self._join(x, y, node))
            case (Vec(x), Vec(y)):
                return Vec(self._join(x, y, node))
            case (Variant(x), Variant(y)):
                return Variant(self._join_fields(x, y, node))
            case (Record(x), Record(y)) if [one.id for one in x] == [one.id for one in y]:
                return Record(self._join_fields(x, y, node))
        raise self.tokens.error(f"an element of type {a}, as before it", node.token)

    def _join_fields(self, x: tuple[Field, ...], y: tuple[Field, ...], node: _Node) -> tuple[Field, ...]:
        merged = {one.id: one for one in x}
        for one in y:
            before = merged.get(one.id)
            merged[one.id] = one if before is None else Field(one.id, self._join(before.type, one.type, node), one.name)
        return tuple(merged[id_] for id_ in sorted(merged))


def parse_values(
    text: str, types: Iterable[Type] | None = None, names: Mapping[str, Rec] | None = None
) -> tuple[tuple[Type, ...], tuple[Value, ...]]:
    """The types and values of ``(value, ...)`` as written.

    Args:
        text: the values, in parentheses.
        types: to read them at; values left out at the end are null if their type takes it. ``None``: the types that
            the text suggests, with ``42`` an int and ``4.2`` a float64.
        names: of types that annotations may use.

    Raises:
        MalformedError: not that, with line and column.
    """
    return guarded(_parse_values, text, None if types is None else tuple(types), names or {})


def _parse_values(
    text: str, types: tuple[Type, ...] | None, names: Mapping[str, Rec]
) -> tuple[tuple[Type, ...], tuple[Value, ...]]:
    parser = _Parser(text, names)
    nodes = parser.arguments()
    end = parser.tokens.expect("<end>")
    if types is None:
        types = tuple([parser.infer(node) for node in nodes])
    if len(nodes) > len(types):
        raise parser.tokens.error(counted(len(types), "value"), nodes[len(types)].token)
    values = [parser.at(node, type_) for node, type_ in zip(nodes, types, strict=False)]
    for type_ in types[len(nodes) :]:
        if not is_nullable(type_):
            raise parser.tokens.error(f"a value of type {type_}", end)
        values.append(None)
    return types, tuple(values)
