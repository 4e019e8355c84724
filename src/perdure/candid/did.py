"""``.did`` files: type definitions, imports, and the main service.

>>> program = parse("type Pair = record { nat; text }; service : { get : (nat) -> (opt Pair) query }")
>>> str(program.service), str(program.types["Pair"].type)
('service { get : (nat) -> (opt Pair) query }', 'record { nat; text }')

Spec: "Core Grammar", "Type Definitions", "Imports", "Interfaces".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias, final

from perdure.candid.deep import guarded
from perdure.candid.lexer import Token, Tokens
from perdure.candid.types import (
    BY_NAME,
    KEYWORDS,
    RESERVED_WORDS,
    Field,
    Func,
    Method,
    Null,
    Opt,
    Rec,
    Record,
    Service,
    Type,
    Variant,
    Vec,
    blob,
    field_hash,
    resolve,
)
from perdure.errors import MalformedError

__all__ = ["Loader", "Program", "TypeParser", "parse", "parse_type", "parse_types"]

#: From the text of an import and the name of the importing file to the name and the text of the imported one.
Loader: TypeAlias = Callable[[str, str], tuple[str, str]]

_MAX_NESTING: Final = 100
_MAX_FIELD_ID: Final = 2**32 - 1


@final
@dataclass(frozen=True, slots=True)
class Program:
    """A ``.did`` file, checked.

    Args:
        types: the definitions by name, imported ones included.
        service: the type of the main service, if there is one.
        init: the types of the initialisation arguments; ``None`` unless it is a service constructor.
        init_names: their names, where given.
        name: of the service, which documents only.
        docs: the comment above the service.
    """

    types: Mapping[str, Rec]
    service: Service | None = None
    init: tuple[Type, ...] | None = None
    init_names: tuple[str | None, ...] = ()
    name: str = ""
    docs: str = ""


@final
class TypeParser:
    """Parses types out of `tokens`.

    Args:
        tokens: the text.
        names: of types, known so far. New ones are added as they are met and have to be defined by the end.
    """

    def __init__(self, tokens: Tokens, names: dict[str, Rec]) -> None:
        self.tokens = tokens
        self.names = names
        self.met: dict[str, Token] = {}
        self._depth = 0
        self._methods: list[tuple[Type, Token]] = []

    def definition(self) -> None:
        """``type <id> = <datatype>``, after the keyword."""
        docs = self.tokens.token.docs
        self.tokens.expect("type")
        token = self.tokens.token
        name = self.identifier()
        rec = self.names.setdefault(name, Rec(name))
        self.tokens.expect("=")
        found = self.type()
        rec.docs = docs
        try:
            rec.define(found)
        except ValueError as error:
            raise self.tokens.malformed(str(error), token) from error

    def identifier(self) -> str:
        """An identifier that is no keyword."""
        token = self.tokens.token
        if token.kind != "<identifier>" or token.value in KEYWORDS:
            raise self.tokens.error("an identifier")
        return str(self.tokens.advance().value)

    def name(self) -> str:
        """An identifier or a text."""
        if self.tokens.sees("<text>"):
            return self.text()
        token = self.tokens.token
        if token.kind != "<identifier>" or token.value in RESERVED_WORDS:
            raise self.tokens.error("a name")
        return str(self.tokens.advance().value)

    def text(self) -> str:
        """A text token, which must be UTF-8."""
        token = self.tokens.expect("<text>")
        try:
            return bytes(token.value).decode() if isinstance(token.value, bytes) else token.value
        except UnicodeDecodeError as error:
            raise self.tokens.malformed("text is not UTF-8", token) from error

    def type(self) -> Type:
        """A data type."""
        self._depth += 1
        if self._depth > _MAX_NESTING:
            raise self.tokens.error(f"types nested at most {_MAX_NESTING} deep")
        try:
            return self._type()
        finally:
            self._depth -= 1

    def _type(self) -> Type:  # noqa: PLR0911 - one return per kind of type
        tokens = self.tokens
        if tokens.token.kind != "<identifier>":
            raise tokens.error("a type")
        start = tokens.advance()
        match start.value:
            case "opt":
                return Opt(self.type())
            case "vec":
                return Vec(self.type())
            case "blob":
                return blob()
            case "record":
                return Record(self._fields(in_record=True))
            case "variant":
                return Variant(self._fields(in_record=False))
            case "func":
                return self.func()
            case "service":
                return self.actor()
            case _:
                return self._called(start)

    def reference(self) -> Type:
        """A name of a type."""
        return self._called(self.tokens.expect("<identifier>"))

    def _called(self, token: Token) -> Type:
        """The type that an identifier stands for."""
        name = str(token.value)
        if name in BY_NAME:
            return BY_NAME[name]
        if name in KEYWORDS:
            raise self.tokens.error("a type", token)
        self.met.setdefault(name, token)
        return self.names.setdefault(name, Rec(name))

    def _fields(self, *, in_record: bool) -> tuple[Field, ...]:
        start = self.tokens.expect("{")
        fields: list[Field] = []
        while not self.tokens.accept("}"):
            fields.append(self._field(fields[-1].id + 1 if fields else 0, in_record=in_record))
            if not self.tokens.sees("}"):
                self.tokens.expect(";")
        fields.sort(key=lambda one: one.id)
        for one, other in pairwise(fields):
            if one.id == other.id:
                raise self.tokens.malformed(f"fields {one.label!r} and {other.label!r} have the same id", start)
        return tuple(fields)

    def _field(self, next_id: int, *, in_record: bool) -> Field:
        tokens = self.tokens
        docs = tokens.token.docs
        if tokens.sees("<number>", "<hex>"):
            id_ = self.field_id()
            return Field(id_, self._field_type(in_record=in_record), None, docs)
        token = tokens.token
        if in_record and token.kind == "<identifier>" and token.value in RESERVED_WORDS:
            return self._positional(next_id, self.type(), docs)
        name = self.name()
        if tokens.sees(":") or not in_record:
            return Field(field_hash(name), self._field_type(in_record=in_record), name, docs)
        if token.kind == "<text>":
            raise tokens.error("`:`")
        return self._positional(next_id, self._called(token), docs)

    def _positional(self, id_: int, type_: Type, docs: str) -> Field:
        if id_ > _MAX_FIELD_ID:
            raise self.tokens.error("fewer fields: the next id is 2**32")
        return Field(id_, type_, None, docs)

    def field_id(self) -> int:
        """A field id in decimal or hexadecimal."""
        token = self.tokens.advance()
        digits = str(token.value)
        value = int(digits, 16 if token.kind == "<hex>" else 10) if len(digits) < 1000 else _MAX_FIELD_ID + 1
        if not 0 <= value <= _MAX_FIELD_ID or digits[0] in "+-":
            raise self.tokens.error("a field id from 0 to 2**32 - 1", token)
        return value

    def _field_type(self, *, in_record: bool) -> Type:
        if in_record or self.tokens.sees(":"):
            self.tokens.expect(":")
            return self.type()
        return Null

    def func(self) -> Func:
        """A function type, after the keyword."""
        args, arg_names = self.types()
        self.tokens.expect("->")
        start = self.tokens.token
        results, result_names = self.types()
        modes: list[str] = []
        while token := self.tokens.accept("oneway", "query", "composite_query"):
            modes.append(str(token.value))
        if len(modes) > 1:
            raise self.tokens.malformed(f"modes {' and '.join(modes)} on one function", start)
        if modes == ["oneway"] and results:
            raise self.tokens.malformed("a oneway function with results", start)
        return Func(args, results, frozenset(modes), arg_names, result_names)

    def types(self) -> tuple[tuple[Type, ...], tuple[str | None, ...]]:
        """Types in parentheses, and their names."""
        start = self.tokens.expect("(")
        types: list[Type] = []
        names: list[str | None] = []
        while not self.tokens.accept(")"):
            type_, name = self._argument()
            if name is not None and name in names:
                raise self.tokens.malformed(f"two arguments called {name!r}", start)
            types.append(type_)
            names.append(name)
            if not self.tokens.sees(")"):
                self.tokens.expect(",")
        return tuple(types), tuple(names)

    def _argument(self) -> tuple[Type, str | None]:
        token = self.tokens.token
        if token.kind == "<identifier>" and token.value in RESERVED_WORDS:
            return self.type(), None
        name = self.name()
        if token.kind == "<text>" or self.tokens.sees(":"):
            self.tokens.expect(":")
            return self.type(), name
        return self._called(token), None

    def actor(self) -> Service:
        """The methods of a service, in braces."""
        start = self.tokens.expect("{")
        methods: dict[str, Method] = {}
        while not self.tokens.accept("}"):
            docs = self.tokens.token.docs
            name = self.name()
            self.tokens.expect(":")
            token = self.tokens.token
            type_: Type = self.func() if self.tokens.sees("(") else self.reference()
            self._methods.append((type_, token))
            if name in methods:
                raise self.tokens.malformed(f"two methods called {name!r}", start)
            methods[name] = Method(name, type_, docs)
            if not self.tokens.sees("}"):
                self.tokens.expect(";")
        return Service(tuple(methods[name] for name in sorted(methods)))

    def finish(self) -> None:
        """Check that all names are defined, none by itself alone, and that methods are functions."""
        for name, token in self.met.items():
            try:
                resolve(self.names[name])
            except ValueError as error:
                raise self.tokens.malformed(str(error), token) from error
        for rec in self.names.values():
            try:
                resolve(rec)
            except ValueError as error:
                raise MalformedError(str(error)) from error
        for type_, token in self._methods:
            if not isinstance(resolve(type_), Func):
                raise self.tokens.malformed(f"a method of type {type_}, expected a function", token)


@final
@dataclass(slots=True)
class _Main:
    """The main service of one file, before names are resolved."""

    type: Type
    token: Token
    init: tuple[Type, ...] | None = None
    init_names: tuple[str | None, ...] = ()
    name: str = ""
    docs: str = ""


@contextmanager
def _naming(file: str) -> Iterator[None]:
    """Say in which imported file something is wrong; once, for the innermost."""
    try:
        yield
    except _ImportedFileError:
        raise
    except MalformedError as error:
        raise _ImportedFileError(f"in {file}: {error.message}", error.offset) from error


@final
class _ImportedFileError(MalformedError):
    """Wrong in an imported file, which the message names."""


@final
class _Files:
    """A file and what it imports, read into one space of names."""

    def __init__(self, load: Loader | None) -> None:
        self.load = load
        self.types: dict[str, Rec] = {}
        self.parsers: dict[str, TypeParser] = {}
        self.mains: dict[str, _Main | None] = {}
        self.included: dict[str, Token] = {}

    def read(self, text: str, file: str) -> TypeParser:
        """Parse a file and, depth first, its imports; each once."""
        tokens = Tokens(text)
        parser = TypeParser(tokens, self.types)
        self.mains[file] = None
        while not tokens.sees("<end>", "service"):
            if tokens.accept("import"):
                self._import(parser, file)
            else:
                parser.definition()
            if not tokens.sees("<end>", "service"):
                tokens.expect(";")
        if tokens.sees("service"):
            self.mains[file] = _main(parser)
        if not tokens.sees("<end>"):
            raise tokens.error("the end")
        self.parsers[file] = parser
        return parser

    def _import(self, parser: TypeParser, file: str) -> None:
        service = parser.tokens.accept("service")
        token = parser.tokens.token
        wanted = parser.text()
        if self.load is None:
            raise parser.tokens.malformed(
                f"import of {wanted!r}, which only a file can: give the interface by its path", token
            )
        if len(self.mains) > _MAX_NESTING:
            raise parser.tokens.malformed(f"more than {_MAX_NESTING} files", token)
        try:
            name, text = self.load(wanted, file)
        except (OSError, UnicodeDecodeError) as error:
            raise parser.tokens.malformed(f"cannot import {wanted!r}: {error}", token) from error
        if name not in self.mains:
            with _naming(name):
                self.read(text, name)
        if service is not None:
            self.included.setdefault(name, token)


def _main(parser: TypeParser) -> _Main:
    tokens = parser.tokens
    token = tokens.expect("service")
    main = _Main(Service(), token, docs=token.docs)
    if not tokens.sees(":"):
        main.name = parser.identifier()
    tokens.expect(":")
    if tokens.sees("("):
        main.init, main.init_names = parser.types()
        tokens.expect("->")
    main.type = parser.actor() if tokens.sees("{") else parser.reference()
    tokens.accept(";")
    return main


def parse(text: str, load: Loader | None = None, file: str = "") -> Program:
    """The program that `text` is.

    Args:
        text: of the file.
        load: from what an import says and the importing file to the name and text of the imported one.
        file: the name of the file itself, for `load`.

    Raises:
        MalformedError: not Candid, with line and column; or `load` is missing where there are imports.
    """
    return guarded(_parse, text, load, file)


def _parse(text: str, load: Loader | None, file: str) -> Program:
    files = _Files(load)
    parser = files.read(text, file)
    for name, one in files.parsers.items():
        with nullcontext() if one is parser else _naming(name):
            one.finish()
    main = files.mains[file]
    methods: dict[str, Method] = {}
    for name, token in files.included.items():
        imported = files.mains[name]
        if imported is None:
            raise parser.tokens.malformed(f"{name!r} has no service to import", token)
        if imported.init is not None:
            raise parser.tokens.malformed(f"the service of {name!r} is a constructor, which cannot be imported", token)
        _merge(methods, imported, parser, token)
    if main is not None:
        _merge(methods, main, parser, main.token)
    if main is None and not files.included:
        return Program(files.types)
    service = Service(tuple(methods[name] for name in sorted(methods)))
    if main is None:
        return Program(files.types, service)
    return Program(files.types, service, main.init, main.init_names, main.name, main.docs)


def _merge(methods: dict[str, Method], main: _Main, parser: TypeParser, token: Token) -> None:
    found = resolve(main.type)
    if not isinstance(found, Service):
        raise parser.tokens.malformed(f"{main.type} is not a service", token)
    for one in found.methods:
        if one.name in methods:
            raise parser.tokens.malformed(f"two methods called {one.name!r}", token)
        methods[one.name] = one


def parse_types(text: str, types: Mapping[str, Rec] | None = None) -> tuple[Type, ...]:
    """The types in parentheses that `text` is, such as ``(nat, opt text)``, with definitions before them if any.

    Args:
        text: for instance the ``candid:args`` section of a module.
        types: names that it may use.

    Raises:
        MalformedError: not that.
    """
    parser = TypeParser(Tokens(text), dict(types or {}))
    while parser.tokens.sees("type"):
        parser.definition()
        if not parser.tokens.sees("("):
            parser.tokens.expect(";")
    found, _ = parser.types()
    parser.tokens.expect("<end>")
    parser.finish()
    return found


def parse_type(text: str, types: Mapping[str, Rec] | None = None) -> Type:
    """The one type that `text` is.

    Raises:
        MalformedError: not a type.
    """
    parser = TypeParser(Tokens(text), dict(types or {}))
    found = parser.type()
    parser.tokens.expect("<end>")
    parser.finish()
    return found
