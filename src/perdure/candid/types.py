"""Candid types as frozen values.

A type is a :class:`Prim`, one of the composites below, or a :class:`Rec`, the name that recursion goes through. Values
in Python:

| Candid | Python |
|---|---|
| nat, int and their sized forms | ``int`` |
| float32, float64 | ``float`` |
| bool, text, null, reserved | ``bool``, ``str``, ``None``, ``None`` |
| principal, service | ``Principal`` |
| func | ``MethodRef(principal, method)``, a named tuple |
| opt t | ``None`` or the value; ``Some(value)`` where t itself takes None (opt, null, reserved) |
| vec t, vec nat8 | ``list``, ``bytes`` |
| record | ``dict`` by field name; a tuple where the ids are 0, 1, 2, ... (a dataclass is taken too) |
| variant | ``{"tag": value}`` with one key (``"tag"`` alone is taken for a null payload) |

A field known only by its number goes by ``"_123_"``.

Spec: "Types" in the Candid specification, https://github.com/dfinity/candid/blob/master/spec/Candid.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeAlias, final

from perdure.ic.principal import Principal

__all__ = [
    "BY_NAME",
    "BY_OPCODE",
    "KEYWORDS",
    "RESERVED_WORDS",
    "Bool",
    "Empty",
    "Field",
    "Float32",
    "Float64",
    "Func",
    "Future",
    "Int",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "Method",
    "MethodRef",
    "Nat",
    "Nat8",
    "Nat16",
    "Nat32",
    "Nat64",
    "Null",
    "Opt",
    "Prim",
    "PrincipalType",
    "Rec",
    "Record",
    "Reserved",
    "Service",
    "Some",
    "Text",
    "Type",
    "Value",
    "Variant",
    "Vec",
    "blob",
    "brief",
    "children",
    "field_hash",
    "is_blob",
    "is_nullable",
    "quote",
    "quote_text",
    "resolve",
    "spelled_out",
]

Value: TypeAlias = Any
"""A value of a Candid type, as the table above has it."""


@lru_cache(maxsize=4096)
def field_hash(name: str) -> int:
    """The 32-bit id of a field called `name`.

    Spec: "Shorthand: Symbolic Field Ids".
    """
    value = 0
    for byte in name.encode():
        value = (value * 223 + byte) & 0xFFFF_FFFF
    return value


@final
@dataclass(frozen=True, slots=True)
class Prim:
    """A primitive type: its name and its opcode in the binary format."""

    name: str
    opcode: int

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"<candid {self.name}>"


@final
@dataclass(frozen=True, slots=True)
class Opt:
    """``opt content``."""

    content: Type

    def __str__(self) -> str:
        return f"opt {self.content}"


@final
@dataclass(frozen=True, slots=True)
class Vec:
    """``vec element``."""

    element: Type

    def __str__(self) -> str:
        return "blob" if is_blob(self) else f"vec {self.element}"


@final
@dataclass(frozen=True, slots=True)
class Field:
    """A field of a record, or a case of a variant.

    Args:
        id: the number in the binary format.
        type: of the value.
        name: as written; ``None`` where only the number is known.
        docs: the comment above it, not part of its identity.
    """

    id: int
    type: Type
    name: str | None = None
    docs: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        """The key in a Python dict."""
        return f"_{self.id}_" if self.name is None else self.name

    def __str__(self) -> str:
        return f"{self.id if self.name is None else quote(self.name)} : {self.type}"


Fields: TypeAlias = "Mapping[str | int, Type] | Iterable[Field]"


def _sorted_fields(fields: Fields) -> tuple[Field, ...]:
    if isinstance(fields, Mapping):
        fields = [
            Field(field_hash(key), t, key) if isinstance(key, str) else Field(key, t) for key, t in fields.items()
        ]
    ordered = tuple(sorted(fields, key=lambda one: one.id))
    for one, other in pairwise(ordered):
        if one.id == other.id:
            raise ValueError(f"fields {one.label!r} and {other.label!r} have the same id {one.id}")
    if ordered and (ordered[0].id < 0 or ordered[-1].id >= 2**32):
        raise ValueError(f"field ids go from 0 to 2**32 - 1, found {ordered[0].id} and {ordered[-1].id}")
    return ordered


@final
@dataclass(frozen=True, slots=True)
class Record:
    """``record { ... }``, its fields in order of their ids."""

    fields: tuple[Field, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> Record:
        """A record of `fields`, ``{"name": type}`` or ``{0: type}``; raises ValueError for an id given twice."""
        return cls(_sorted_fields(fields))

    @classmethod
    def tuple_of(cls, *types: Type) -> Record:
        """A record of fields 0, 1, 2, ..., which Python sees as a tuple."""
        return cls(tuple(Field(index, t) for index, t in enumerate(types)))

    @property
    def is_tuple(self) -> bool:
        """Whether the fields are 0, 1, 2, ... and there is at least one."""
        return bool(self.fields) and all(one.id == index for index, one in enumerate(self.fields))

    def __str__(self) -> str:
        if self.is_tuple:
            return "record { " + "; ".join(str(one.type) for one in self.fields) + " }"
        return _braces("record", map(str, self.fields))


@final
@dataclass(frozen=True, slots=True)
class Variant:
    """``variant { ... }``, its cases in order of their ids."""

    fields: tuple[Field, ...] = ()

    @classmethod
    def of(cls, fields: Fields) -> Variant:
        """A variant of `fields`, ``{"tag": type}``; raises ValueError for an id given twice."""
        return cls(_sorted_fields(fields))

    def __str__(self) -> str:
        return _braces("variant", (str(one).removesuffix(" : null") for one in self.fields))


@final
@dataclass(frozen=True, slots=True)
class Func:
    """``func (args) -> (results) modes``. Names of arguments and results serve documentation only."""

    args: tuple[Type, ...] = ()
    results: tuple[Type, ...] = ()
    modes: frozenset[str] = frozenset()
    arg_names: tuple[str | None, ...] = field(default=(), compare=False)
    result_names: tuple[str | None, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"func {self.signature}"

    @property
    def signature(self) -> str:
        """The type without the keyword: ``(to : principal, nat) -> (nat) query``."""
        modes = "".join(f" {mode}" for mode in sorted(self.modes))
        return f"{_parentheses(self.args, self.arg_names)} -> {_parentheses(self.results, self.result_names)}{modes}"


@final
@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service: its name, its function type (or a name for one), the comment above it."""

    name: str
    type: Type
    docs: str = field(default="", compare=False)


@final
@dataclass(frozen=True, slots=True)
class Service:
    """``service { ... }``, its methods in order of their names."""

    methods: tuple[Method, ...] = ()

    @classmethod
    def of(cls, methods: Mapping[str, Type]) -> Service:
        """A service of `methods`."""
        return cls(tuple(Method(name, methods[name]) for name in sorted(methods)))

    def __str__(self) -> str:
        return _braces("service", (_method(one) for one in self.methods))


@final
@dataclass(frozen=True, slots=True)
class Future:
    """A type of a later version of the binary format; its values can be skipped, nothing else."""

    opcode: int

    def __str__(self) -> str:
        return f"future{self.opcode}"


@final
class Rec:
    """A named type, tied to its definition once: what recursion goes through.

    Two of them are equal only if they are the same object; :func:`perdure.candid.subtyping.equal_types` compares what
    they stand for.

    >>> chain = Rec("Chain")
    >>> chain.define(Opt(Record.of({"head": Nat, "tail": chain})))
    >>> str(chain), str(chain.type)
    ('Chain', 'opt record { head : nat; tail : Chain }')
    """

    __slots__ = ("_type", "docs", "name")

    def __init__(self, name: str, docs: str = "") -> None:
        self.name = name
        self.docs = docs
        self._type: Type | None = None

    def define(self, type_: Type) -> None:
        """Tie the knot.

        Raises:
            ValueError: it is tied already.
        """
        if self._type is not None:
            raise ValueError(f"type {self.name} is defined already")
        self._type = type_

    @property
    def type(self) -> Type:
        """The definition, which may be a name again.

        Raises:
            ValueError: there is none yet.
        """
        if self._type is None:
            raise ValueError(f"type {self.name} is not defined")
        return self._type

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return f"Rec({self.name!r})"


Type: TypeAlias = Prim | Opt | Vec | Record | Variant | Func | Service | Future | Rec


class MethodRef(NamedTuple):
    """The Python value of a func: a public method of a canister."""

    principal: Principal
    method: str


@final
@dataclass(frozen=True, slots=True)
class Some:
    """A value that is there, where the bare value could be None: ``opt opt nat`` is None, Some(None) or Some(5)."""

    value: object


Null: Final = Prim("null", -1)
Bool: Final = Prim("bool", -2)
Nat: Final = Prim("nat", -3)
Int: Final = Prim("int", -4)
Nat8: Final = Prim("nat8", -5)
Nat16: Final = Prim("nat16", -6)
Nat32: Final = Prim("nat32", -7)
Nat64: Final = Prim("nat64", -8)
Int8: Final = Prim("int8", -9)
Int16: Final = Prim("int16", -10)
Int32: Final = Prim("int32", -11)
Int64: Final = Prim("int64", -12)
Float32: Final = Prim("float32", -13)
Float64: Final = Prim("float64", -14)
Text: Final = Prim("text", -15)
Reserved: Final = Prim("reserved", -16)
Empty: Final = Prim("empty", -17)
PrincipalType: Final = Prim("principal", -24)

_PRIMITIVES = (
    *(Null, Bool, Nat, Int, Nat8, Nat16, Nat32, Nat64, Int8, Int16, Int32, Int64),
    *(Float32, Float64, Text, Reserved, Empty, PrincipalType),
)
BY_OPCODE: Final[Mapping[int, Prim]] = {one.opcode: one for one in _PRIMITIVES}
BY_NAME: Final[Mapping[str, Prim]] = {one.name: one for one in _PRIMITIVES}

#: Words that are never a name without quotes.
RESERVED_WORDS: Final = frozenset(
    [
        *("import", "service", "func", "type", "opt", "vec", "record", "variant", "blob", "null", "principal"),
        *("oneway", "query", "composite_query", "true", "false"),
    ]
)
#: Words that are quoted in output. As names of fields and methods, files do use the other names of types bare.
KEYWORDS: Final = frozenset(BY_NAME) | RESERVED_WORDS
_MAX_ALIASES: Final = 100


def blob() -> Vec:
    """``blob``, which is ``vec nat8``."""
    return Vec(Nat8)


def resolve(type_: Type) -> Type:
    """What a name stands for; any other type is itself.

    Raises:
        ValueError: undefined, or defined by itself.
    """
    start = type_
    for _ in range(_MAX_ALIASES):
        if not isinstance(type_, Rec):
            return type_
        type_ = type_.type
    raise ValueError(f"type {start} is defined by itself")


def is_nullable(type_: Type) -> bool:
    """Whether ``null <: type_``: null, reserved or an option."""
    found = resolve(type_)
    return isinstance(found, Opt) or found is Null or found is Reserved


def is_blob(type_: Type) -> bool:
    """Whether it is a vector of nat8, whose values are ``bytes``."""
    return isinstance(type_, Vec) and resolve(type_.element) is Nat8


def children(type_: Type) -> Iterator[Type]:
    """The types that `type_` is directly made of."""
    match type_:
        case Opt(content):
            yield content
        case Vec(element):
            yield element
        case Record(fields) | Variant(fields):
            yield from (one.type for one in fields)
        case Func():
            yield from type_.args
            yield from type_.results
        case Service(methods):
            yield from (one.type for one in methods)
        case Rec():
            yield type_.type
        case Prim() | Future():
            pass


def quote(name: str) -> str:
    """A name as Candid text: bare where that is allowed, else in quotes."""
    if name.isascii() and name.isidentifier() and name not in KEYWORDS:
        return name
    return quote_text(name)


def quote_text(text: str) -> str:
    """A text in quotes, with what does not print escaped."""
    return '"' + "".join(map(_escape, text)) + '"'


def brief(type_: Type, depth: int = 2) -> str:
    """A type for a message, in bounded work: types within types are cut, but for those that have nothing within."""

    def within(inner: Type) -> str:
        return brief(inner, depth - 1) if depth or isinstance(inner, Prim) else "..."

    match type_:
        case Opt(inner) | Vec(inner):
            keyword = "opt" if isinstance(type_, Opt) else "vec"
            return str(type_) if isinstance(inner, Prim) else f"{keyword} {within(inner)}"
        case Record(fields) | Variant(fields):
            if isinstance(type_, Record) and type_.is_tuple:
                shown = [within(one.type) for one in fields[:3]]
            else:
                names = [str(one.id) if one.name is None else quote(one.name) for one in fields[:3]]
                shown = [f"{name} : {within(one.type)}" for name, one in zip(names, fields, strict=False)]
            parts = [*shown, "..."] if len(fields) > 3 else shown
            is_record = isinstance(type_, Record)
            return _braces(
                "record" if is_record else "variant",
                parts if is_record else (part.removesuffix(" : null") for part in parts),
            )
        case Func():
            return "func"
        case Service():
            return "service"
        case _:
            return str(type_)


def spelled_out(type_: Type) -> str | None:
    """A type in the text format without names of others; `None`: it is within itself, which takes a name.

    >>> city = Rec("City")
    >>> city.define(Record.of({"zip": Nat}))
    >>> spelled_out(Vec(city))
    'vec record { zip : nat }'
    """
    try:
        return str(_without_names(type_, frozenset()))
    except RecursionError:
        return None


def _without_names(type_: Type, within: frozenset[Rec]) -> Type:
    if isinstance(type_, Rec):
        if type_ in within:
            raise RecursionError(type_.name)
        return _without_names(type_.type, within | {type_})
    if isinstance(type_, Opt):
        return Opt(_without_names(type_.content, within))
    if isinstance(type_, Vec):
        return Vec(_without_names(type_.element, within))
    if isinstance(type_, Record | Variant):
        fields = (replace(one, type=_without_names(one.type, within)) for one in type_.fields)
        return type(type_)(tuple(fields))
    return type_


def _escape(char: str) -> str:
    named = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(char)
    if named is not None:
        return named
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"


def _braces(keyword: str, parts: Iterable[str]) -> str:
    inner = "; ".join(parts)
    return f"{keyword} {{ {inner} }}" if inner else f"{keyword} {{}}"


def _parentheses(types: tuple[Type, ...], names: tuple[str | None, ...]) -> str:
    padded = (*names, *(None for _ in types))
    return "(" + ", ".join(f"{quote(n)} : {t}" if n else str(t) for n, t in zip(padded, types, strict=False)) + ")"


def _method(one: Method) -> str:
    of = one.type.signature if isinstance(one.type, Func) else str(one.type)
    return f"{quote(one.name)} : {of}"
