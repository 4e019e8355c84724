"""Motoko's stable types: the text that a module has of its stable variables, and whether another one can take over.

```
// Version: 1.0.0                          // Version: 3.0.0
type T = {a : Nat; var b : [var Int]};     actor ({ in var x : Nat; stable var z : Text },
actor { stable var x : T; stable k : Nat };       { stable var y : Int; stable var z : Text });
```

The second form has a migration: what it takes (``in``: it must be there), and what it leaves.

The rules are the compiler's (``moc --stable-compatible``): a variable may come and none may go; whether it is ``var``
does not count; its type must be a subtype of the new one (M0170) in which nothing is lost (M0216): no field that goes,
no promotion to ``Any``.

Source: "Compatibility" in the language manual; `tests/values/test_motoko_types.py` asks the compiler itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias, final

from perdure.errors import MalformedError

__all__ = [
    "Applied",
    "Array",
    "Difference",
    "Func",
    "Member",
    "Object",
    "Option",
    "Primitive",
    "StableTypes",
    "Tuple",
    "Type",
    "Variable",
    "VariantType",
    "Weak",
    "compare_stable_types",
    "parse_stable_types",
]

MAX_NESTING: Final = 200
_TOKEN: Final = re.compile(r"\s*(?://[^\n]*\n\s*)*(->|<:|[A-Za-z_][A-Za-z0-9_']*|async\*|[{}\[\]()<>;:,=?#*.&|]|\d+)")


@final
@dataclass(frozen=True, slots=True)
class Primitive:
    """``Nat``, ``Text``, ``Any``, ``Region``..."""

    name: str

    def __str__(self) -> str:
        return self.name


@final
@dataclass(frozen=True, slots=True)
class Option:
    """``?T``."""

    content: Type

    def __str__(self) -> str:
        return f"?{self.content}"


@final
@dataclass(frozen=True, slots=True)
class Weak:
    """``weak T``."""

    content: Type

    def __str__(self) -> str:
        return f"weak {self.content}"


@final
@dataclass(frozen=True, slots=True)
class Array:
    """``[T]`` and ``[var T]``."""

    element: Type
    is_mutable: bool

    def __str__(self) -> str:
        return f"[{'var ' if self.is_mutable else ''}{self.element}]"


@final
@dataclass(frozen=True, slots=True)
class Tuple:
    """``(A, B)``; ``()`` without any."""

    parts: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.parts))})"


class Member(NamedTuple):
    """A field of an object, or a case of a variant."""

    name: str
    type: Type
    is_mutable: bool = False


@final
@dataclass(frozen=True, slots=True)
class Object:
    """``{a : Nat; var b : Int}``, or an ``actor`` or ``module`` of such fields, which are in order of their names."""

    members: tuple[Member, ...]
    sort: str = ""

    def __str__(self) -> str:
        fields = "; ".join(f"{'var ' if one.is_mutable else ''}{one.name} : {one.type}" for one in self.members)
        return f"{self.sort} {{{fields}}}".lstrip()


@final
@dataclass(frozen=True, slots=True)
class VariantType:
    """``{#a; #b : Nat}``, cases in order of their names."""

    members: tuple[Member, ...]

    def __str__(self) -> str:
        cases = "; ".join(f"#{one.name}" + ("" if one.type == UNIT else f" : {one.type}") for one in self.members)
        return f"{{{cases or '#'}}}"


@final
@dataclass(frozen=True, slots=True)
class Func:
    """A function: ``shared query Nat -> async Text``."""

    sort: str
    args: Type
    results: Type

    def __str__(self) -> str:
        return f"{self.sort} {self.args} -> {self.results}".lstrip()


@final
@dataclass(frozen=True, slots=True)
class Applied:
    """A name from a definition, with its arguments; or a parameter of one."""

    name: str
    args: tuple[Type, ...] = ()

    def __str__(self) -> str:
        return self.name + (f"<{', '.join(map(str, self.args))}>" if self.args else "")


Type: TypeAlias = Primitive | Option | Weak | Array | Tuple | Object | VariantType | Func | Applied

UNIT: Final = Tuple(())
_PRIMITIVES: Final = frozenset(
    [
        "Any",
        "Blob",
        "Bool",
        "Char",
        "Error",
        "Float",
        "Int",
        "Int8",
        "Int16",
        "Int32",
        "Int64",
        "Nat",
        "Nat8",
        "Nat16",
        "Nat32",
        "Nat64",
        "None",
        "Null",
        "Principal",
        "Region",
        "Text",
    ]
)


class Variable(NamedTuple):
    """A stable variable; `is_required`: one that a migration takes."""

    name: str
    type: Type
    is_mutable: bool
    is_required: bool = False


@final
@dataclass(frozen=True)
class StableTypes:
    """What a module says of its stable variables.

    Attributes:
        variables: that it has, by name.
        taken: that it takes from the version before: the same ones, unless there is a migration.
        definitions: parameters and body of each named type.
    """

    variables: Mapping[str, Variable]
    taken: Mapping[str, Variable]
    definitions: Mapping[str, tuple[tuple[str, ...], Type]]

    def resolve(self, type_: Type) -> Type:
        """A type that is no name."""
        for _ in range(MAX_NESTING):
            if not isinstance(type_, Applied) or type_.name in ("async", "async*"):
                return type_
            found = self.definitions.get(type_.name)
            if found is None or len(found[0]) != len(type_.args):
                raise MalformedError(f"stable types: no type {type_} is defined")
            type_ = _substituted(found[1], dict(zip(found[0], type_.args, strict=True)))
        raise MalformedError("stable types: a type that is defined by itself alone")


def _substituted(type_: Type, by: Mapping[str, Type]) -> Type:  # noqa: PLR0911 -- one for each kind
    """A type with its parameters replaced."""
    if not by:
        return type_
    match type_:
        case Applied(name, ()) if name in by:
            return by[name]
        case Applied(name, args):
            return Applied(name, tuple(_substituted(one, by) for one in args))
        case Option(content):
            return Option(_substituted(content, by))
        case Weak(content):
            return Weak(_substituted(content, by))
        case Array(element, is_mutable):
            return Array(_substituted(element, by), is_mutable)
        case Tuple(parts):
            return Tuple(tuple(_substituted(one, by) for one in parts))
        case Object(members, sort):
            return Object(tuple(one._replace(type=_substituted(one.type, by)) for one in members), sort)
        case VariantType(members):
            return VariantType(tuple(one._replace(type=_substituted(one.type, by)) for one in members))
        case Func(sort, args, results):
            return Func(sort, _substituted(args, by), _substituted(results, by))
        case Primitive():
            return type_


# -- reading


def parse_stable_types(text: str) -> StableTypes:
    """The stable types in the text of a module's section, or of a ``.most`` file.

    Raises:
        MalformedError: it is none.
    """
    return _Parser(text).whole()


@final
class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, int]] = []
        at = 0
        stripped = text.rstrip()
        while at < len(stripped):
            found = _TOKEN.match(text, at)
            if found is None:
                raise MalformedError(f"stable types: unexpected {text[at : at + 20].strip()!r}", at)
            self.tokens.append((found[1], found.start(1)))
            at = found.end()
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        place = self.at + ahead
        return self.tokens[place][0] if place < len(self.tokens) else ""

    def next(self) -> str:
        token = self.peek()
        if not token:
            raise MalformedError("stable types: the text ends early")
        self.at += 1
        return token

    def take(self, token: str) -> bool:
        """Whether the next token is this one, which is then passed."""
        if self.peek() != token:
            return False
        self.at += 1
        return True

    def expect(self, token: str) -> None:
        place = self.tokens[self.at][1] if self.at < len(self.tokens) else None
        if not self.take(token):
            raise MalformedError(f"stable types: expected {token!r}, found {self.peek()!r}", place)

    def whole(self) -> StableTypes:
        definitions: dict[str, tuple[tuple[str, ...], Type]] = {}
        while self.take("type"):
            name = self.next()
            definitions[name] = self.parameters(), self.definition()
            self.take(";")
        self.expect("actor")
        if self.take("("):
            taken = self.variables()
            self.expect(",")
            variables = self.variables()
            self.expect(")")
        else:
            variables = taken = self.variables()
        self.take(";")
        if self.peek():
            raise MalformedError(f"stable types: expected the end, found {self.peek()!r}", self.tokens[self.at][1])
        return StableTypes(variables, taken, definitions)

    def parameters(self) -> tuple[str, ...]:
        found = []
        if self.take("<"):
            while not self.take(">"):
                found.append(self.next())
                if self.take("<:"):
                    self.type()
                self.take(",")
        return tuple(found)

    def definition(self) -> Type:
        self.expect("=")
        return self.type()

    def variables(self) -> dict[str, Variable]:
        self.expect("{")
        found: dict[str, Variable] = {}
        while not self.take("}"):
            keyword = self.next()
            if keyword not in ("stable", "in"):
                raise MalformedError(f"stable types: expected 'stable' or 'in', found {keyword!r}")
            is_mutable = self.take("var")
            name = self.next()
            self.expect(":")
            found[name] = Variable(name, self.type(), is_mutable, keyword == "in")
            self.take(";")
        return found

    def type(self) -> Type:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise MalformedError(f"stable types: nested deeper than {MAX_NESTING} levels")
        left = self.prefix()
        while self.peek() == "->":
            self.next()
            left = Func("", left, self.type())
        self.depth -= 1
        return left

    def prefix(self) -> Type:
        token = self.next()
        if token == "?":
            return Option(self.unary())
        if token == "weak":
            return Weak(self.unary())
        if token in ("async", "async*"):
            self.take("*")
            return Applied(token, (self.unary(),))
        if token in ("shared", "composite", "query"):
            return self.function(token)
        return self.atom(token)

    def unary(self) -> Type:
        self.depth += 1
        if self.depth > MAX_NESTING:
            raise MalformedError(f"stable types: nested deeper than {MAX_NESTING} levels")
        found = self.prefix()
        self.depth -= 1
        return found

    def function(self, token: str) -> Type:
        words = [token]
        while self.peek() in ("query", "composite"):
            words.append(self.next())
        self.parameters()
        args = self.atom(self.next()) if self.peek() != "?" else self.prefix()
        self.expect("->")
        return Func(" ".join(words), args, self.type())

    def atom(self, token: str) -> Type:
        if token == "[":
            is_mutable = self.take("var")
            element = self.type()
            self.expect("]")
            return Array(element, is_mutable)
        if token == "(":
            return self.tuple()
        if token == "{":
            return self.members("")
        if token in ("actor", "module", "object") and self.peek() == "{":
            self.next()
            return self.members("" if token == "object" else token)
        if token in _PRIMITIVES:
            return Primitive(token)
        if not (token[0].isalpha() or token[0] == "_"):
            raise MalformedError(f"stable types: expected a type, found {token!r}", self.tokens[self.at - 1][1])
        args: list[Type] = []
        if self.take("<"):
            while not self.take(">"):
                args.append(self.type())
                self.take(",")
        return Applied(token, tuple(args))

    def tuple(self) -> Type:
        parts = []
        while not self.take(")"):
            if self.peek(1) == ":":
                self.at += 2
            parts.append(self.type())
            self.take(",")
        return parts[0] if len(parts) == 1 else Tuple(tuple(parts))

    def members(self, sort: str) -> Type:
        found: list[Member] = []
        is_variant = self.peek() == "#"
        while not self.take("}"):
            if is_variant and self.take("#"):
                if self.peek() == "}":
                    continue
                name = self.next()
                found.append(Member(name, self.type() if self.take(":") else UNIT))
            elif self.take("type"):
                self.next()
                self.parameters()
                self.definition()
            else:
                is_mutable = self.take("var")
                name = self.next()
                self.expect(":")
                found.append(Member(name, self.type(), is_mutable))
            self.take(";")
        members = tuple(sorted(found))
        return VariantType(members) if is_variant else Object(members, sort)


# -- comparing


class Difference(NamedTuple):
    """Why a version cannot take over a variable.

    `code` is the compiler's: ``M0169`` it is gone, ``M0170`` its type is no subtype, ``M0216`` data is dropped,
    ``M0255`` a migration takes what is not there.
    """

    code: str
    variable: str
    path: tuple[str, ...]
    message: str
    old: str
    new: str

    @property
    def drops_data(self) -> bool:
        """Whether something is lost: an actor is kept whole, whatever methods its type has."""
        return self.code != "M0216" or self.path[-1:] != (METHODS,)


METHODS: Final = "methods"  # in a path: within the type of an actor


def compare_stable_types(old: StableTypes, new: StableTypes) -> Iterator[Difference]:
    """Everything that keeps the new version from taking over the variables of the old one; nothing if it can."""
    for name, before in old.variables.items():
        after = new.taken.get(name)
        if after is None:
            message = f"the stable variable {name} is gone"
            yield Difference("M0169", name, (), message, str(before.type), "")
            continue
        found = _Comparison(old, new)
        found.compare(before.type, after.type, ())
        for code, path, message in found.reasons:
            yield Difference(code, name, path, message, str(before.type), str(after.type))
    for name, wanted in new.taken.items():
        if wanted.is_required and name not in old.variables:
            message = f"the migration takes the stable variable {name}, which the old version does not have"
            yield Difference("M0255", name, (), message, "", str(wanted.type))


@final
class _Comparison:
    """Whether a type is a subtype of another and keeps all data; by pairs not seen yet: recursion ends."""

    def __init__(self, old: StableTypes, new: StableTypes) -> None:
        self.old = old
        self.new = new
        self.seen: set[tuple[Type, Type, bool, bool]] = set()
        self.reasons: list[tuple[str, tuple[str, ...], str]] = []

    def compare(self, sub: Type, sup: Type, path: tuple[str, ...]) -> None:
        pending = [(sub, sup, path, False, True)]
        while pending:
            a, b, where, is_equal, keeps = pending.pop()
            if (a, b, is_equal, keeps) in self.seen or len(self.seen) > 100_000:
                continue
            self.seen.add((a, b, is_equal, keeps))
            pending.extend(self.step(self.old.resolve(a), self.new.resolve(b), where, is_equal, keeps))

    def step(  # noqa: C901, PLR0912 -- a line for each pair of kinds
        self, a: Type, b: Type, path: tuple[str, ...], is_equal: bool, keeps: bool
    ) -> Iterator[tuple[Type, Type, tuple[str, ...], bool, bool]]:
        """What remains to be asked; `is_equal`: within something mutable, where subtypes do not do."""
        match a, b:
            case Primitive(x), Primitive(y) if x == y:
                return
            case _, Primitive("Any") if not is_equal:
                if keeps and a != Primitive("None"):
                    self.reasons.append(("M0216", path, f"promoting {a} to Any drops the data"))
            case (Primitive("None"), _) | (Primitive("Null"), Option()) | (Primitive("Nat"), Primitive("Int")) if (
                not is_equal
            ):
                return
            case (Option(x), Option(y)) | (Weak(x), Weak(y)):
                yield x, y, path, is_equal, keeps
            case Array(x, mutable), Array(y, is_mutable) if mutable == is_mutable:
                yield x, y, (*path, "element"), is_equal or mutable, keeps
            case Tuple(xs), Tuple(ys) if len(xs) == len(ys):
                for index, (x, y) in enumerate(zip(xs, ys, strict=True)):
                    yield x, y, (*path, f"part {index}"), is_equal, keeps
            case Object(xs, sort), Object(ys, other) if sort == other:
                yield from self.fields(xs, ys, path if sort != "actor" else (*path, METHODS), is_equal, keeps)
            case VariantType(xs), VariantType(ys):
                yield from self.cases(xs, ys, path, is_equal, keeps)
            case Func(sort, x, u), Func(other, y, v) if sort == other:
                # Arguments go the other way; a function keeps no data.
                yield from self.other_way(x, y, path, is_equal)
                yield u, v, (*path, "result"), is_equal, False
            case Applied(x, us), Applied(y, vs) if x == y and len(us) == len(vs):  # async
                for u, v in zip(us, vs, strict=True):
                    yield u, v, path, is_equal, keeps
            case _:
                self.reasons.append(("M0170", path, f"{_brief(a)} became {_brief(b)}"))

    def other_way(
        self, x: Type, y: Type, path: tuple[str, ...], is_equal: bool
    ) -> Iterator[tuple[Type, Type, tuple[str, ...], bool, bool]]:
        back = _Comparison(self.new, self.old)
        back.compare(y, x, (*path, "argument"))
        self.reasons.extend(one for one in back.reasons if one[0] == "M0170")
        if is_equal:
            yield x, y, (*path, "argument"), True, False

    def fields(
        self, xs: tuple[Member, ...], ys: tuple[Member, ...], path: tuple[str, ...], is_equal: bool, keeps: bool
    ) -> Iterator[tuple[Type, Type, tuple[str, ...], bool, bool]]:
        have, wanted = {one.name: one for one in xs}, {one.name: one for one in ys}
        for name, one in wanted.items():
            found = have.get(name)
            if found is None:
                what = f"field {name} : {_brief(one.type)} is new, and the old data has none"
                self.reasons.append(("M0170", path, what))
            elif found.is_mutable != one.is_mutable:
                words = ("is not var any more", "is var now")[one.is_mutable]
                self.reasons.append(("M0170", path, f"field {name} {words}"))
            else:
                yield found.type, one.type, (*path, f"field {name}"), is_equal or one.is_mutable, keeps
        for name in have.keys() - wanted.keys():
            if is_equal:
                self.reasons.append(("M0170", path, f"field {name} is gone"))
            elif keeps:
                lost = "" if path[-1:] == (METHODS,) else ", and its data with it"
                self.reasons.append(("M0216", path, f"field {name} is gone{lost}"))

    def cases(
        self, xs: tuple[Member, ...], ys: tuple[Member, ...], path: tuple[str, ...], is_equal: bool, keeps: bool
    ) -> Iterator[tuple[Type, Type, tuple[str, ...], bool, bool]]:
        have, wanted = {one.name: one for one in xs}, {one.name: one for one in ys}
        for name, one in have.items():
            if name not in wanted:
                self.reasons.append(("M0170", path, f"case #{name} is gone, and the old data may have it"))
            else:
                yield one.type, wanted[name].type, (*path, f"case #{name}"), is_equal, keeps
        if is_equal and wanted.keys() - have.keys():
            self.reasons.append(
                ("M0170", path, f"case #{min(wanted.keys() - have.keys())} is new within something mutable")
            )


def _brief(type_: Type) -> str:
    text = str(type_)
    return text if len(text) <= 80 else text[:77] + "..."
