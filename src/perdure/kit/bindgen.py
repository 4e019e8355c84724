"""A Python module out of a canister's interface, which type checkers read: `perdure bindgen`.

| Candid | the module has |
|---|---|
| ``type T = record { ... }`` | a ``TypedDict`` |
| ``type T = variant { ... }`` | a union of ``TypedDict`` with one key each |
| any other ``type T`` | an alias |
| a record or variant without a name | the same, named after where it stands |
| the service | a class with a typed method for each of its |

What the module does is done by an actor; it only says types. So it goes with every perdure that has these actors.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, final
from unicodedata import is_normalized

from perdure.candid.service import ServiceMethod, ServiceType
from perdure.candid.types import (
    Field,
    Func,
    Future,
    Opt,
    Prim,
    Rec,
    Record,
    Service,
    Type,
    Variant,
    Vec,
    children,
    is_blob,
    is_nullable,
)
from perdure.errors import UnsupportedError

__all__ = ["bindings", "interface_text"]

_HEAD: Final = '''"""{title}. Made by `perdure bindgen`: make it again instead of changing it."""

# ruff: noqa
from __future__ import annotations

import builtins as _b
import os as _os
import typing as _t

import perdure as _perdure
from perdure.candid import MethodRef as _MethodRef
from perdure.candid import Some as _Some

DID: _t.Final = {did}
'''
_PRIMITIVES: Final = {
    **dict.fromkeys(("null", "empty"), "None"),
    "reserved": "_t.Any",
    "bool": "bool",
    "text": "str",
    "principal": "_perdure.Principal",
    **dict.fromkeys(("float32", "float64"), "float"),
}
_BUILTINS: Final = {"bool", "bytes", "float", "int", "list", "str", "tuple"}
_OWN: Final = frozenset({"_actor", "_b", "_os", "_perdure", "_t", "_MethodRef", "_Some"})
"""What the module's own code reads within its classes."""
_NOT_METHODS: Final = {"canister", "sender", "as_", "install", *_OWN}
_NOT_PARAMETERS: Final = {"result_", *_OWN}


def interface_text(service: ServiceType) -> str:
    """The interface in one ``.did`` text, without comments and imports."""
    lines = [f"type {name} = {rec.type};" for name, rec in service.names.items()]
    init = "" if service.init is None else f"({', '.join(map(str, service.init))}) -> "
    methods = str(service.type).removeprefix("service ")
    return "\n".join([*lines, f"service : {init}{methods}", ""])


def bindings(service: ServiceType, title: str, class_name: str) -> str:
    """The text of the module.

    Args:
        service: the interface.
        title: what it is of, for the docstring.
        class_name: of the canister's class.

    Raises:
        UnsupportedError: types of a later version of Candid.
    """
    return _Module(service, title, class_name).text()


@final
@dataclass
class _Module:
    service: ServiceType
    title: str
    class_name: str
    taken: set[str] = field(init=False)
    members: dict[str, str] = field(default_factory=dict)
    """What methods are called in Python, by their names."""
    names: dict[Rec, str] = field(default_factory=dict)
    definitions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Within a class, names of fields and methods hide those of types: no type has one of them.
        members = set(_NOT_METHODS)
        self.members = {name: _member(name, "method", members) for name in self.service.methods}
        within = {*members, *_labels([self.service.type, *(self.service.init or ())])}
        self.taken = {"DID", *_BUILTINS, *within}
        self._b = "_b." if within & _BUILTINS else ""

    def text(self) -> str:
        title = re.sub(r"[^ -~]|[\"\\]", "", self.title)
        own = self._name(self.class_name)
        for name, rec in self.service.names.items():
            self.names[rec] = self._name(name)
        for rec, name in list(self.names.items()):
            self._define(rec.type, name)
        methods = self._class(own)
        head = _HEAD.format(title=title, did=_literal(interface_text(self.service)))
        return "\n\n".join([head.rstrip(), *self.definitions, "\n".join(methods)]) + "\n"

    def _name(self, wanted: str) -> str:
        """An identifier that nothing else in the module has."""
        name = re.sub(r"\W", "_", wanted, flags=re.ASCII).lstrip("_") or "T"
        name = f"T{name}" if name[0].isdigit() else name
        while name in self.taken or keyword.iskeyword(name) or keyword.issoftkeyword(name):
            name += "_"
        self.taken.add(name)
        return name

    # -- types

    def _define(self, type_: Type, name: str) -> None:
        """Have `name` stand for a type."""
        if isinstance(type_, Record) and not type_.is_tuple:
            self._dictionary(name, type_.fields)
        elif isinstance(type_, Variant):
            cases = [self._dictionary(self._name(f"{name}_{one.label}"), (one,)) for one in type_.fields]
            self.definitions.append(f"{name}: _t.TypeAlias = {_quoted(' | '.join(cases) or '_t.NoReturn')}")
        else:
            self.definitions.append(f"{name}: _t.TypeAlias = {_quoted(self._of(type_, name))}")

    def _dictionary(self, name: str, fields: Sequence[Field]) -> str:
        typed = {one.label: self._of(one.type, f"{name}_{one.label}") for one in fields}
        if all(map(_is_plain, typed)):
            lines = [f"    {label}: {shown}" for label, shown in typed.items()] or ["    pass"]
            self.definitions.append("\n".join([f"class {name}(_t.TypedDict):", *lines]))
            return name
        items = ", ".join(f"{label!r}: {_quoted(shown)}" for label, shown in typed.items())
        self.definitions.append(f"{name} = _t.TypedDict({name!r}, {{{items}}})")
        return name

    def _of(self, type_: Type, place: str) -> str:  # noqa: PLR0911 - one for each kind of type
        """The type of values in Python; what has no name gets one after its place."""
        match type_:
            case Rec():
                return self.names[type_]
            case Prim():
                name = _PRIMITIVES.get(type_.name, "int")
                return f"{self._b}{name}" if name in _BUILTINS else name
            case Opt(content):
                inner = self._of(content, place)
                return "_Some | None" if is_nullable(content) else f"{inner} | None"
            case Vec(element):
                return f"{self._b}bytes" if is_blob(type_) else f"{self._b}list[{self._of(element, place)}]"
            case Record(fields) if type_.is_tuple:
                return self._tuple([self._of(one.type, f"{place}_{one.id}") for one in fields])
            case Record() | Variant():
                name = self._name(place)
                self._define(type_, name)
                return name
            case Func():
                return "_MethodRef"
            case Service():
                return "_perdure.Principal"
            case Future():
                raise UnsupportedError(f"no values of {type_}: a type of a later version of Candid")

    def _tuple(self, types: Sequence[str]) -> str:
        return f"{self._b}tuple[{', '.join(types)}]"

    # -- the service

    def _class(self, own: str) -> list[str]:
        lines = [
            f"class {own}:",
            f'    """{_docstring(self.service.docs) or "The canister as one sender sees it."}"""',
            "",
            "    def __init__(",
            "        self, canister: _perdure.Canister, sender: _perdure.Principal = _perdure.ANONYMOUS",
            "    ) -> None:",
            "        self.canister = canister",
            "        self.sender = sender",
            "        self._actor = canister.actor(sender, candid=DID)",
            "",
            f"    def as_(self, sender: _perdure.Principal) -> {own}:",
            '        """The same as another sender."""',
            f"        return {own}(self.canister, sender)",
            *self._install(own),
        ]
        for method in self.service.methods.values():
            lines += self._method(method)
        return lines

    def _install(self, own: str) -> list[str]:
        parameters = self._parameters(
            self.service.init or (), (), f"{own}_init", taken={"cls", "subnet", "wasm", *_OWN}
        )
        given = "".join(f"{name}, " for name, _ in parameters)
        first = ["cls", "subnet: _perdure.Subnet", f"wasm: {self._b}bytes | {self._b}str | _os.PathLike[{self._b}str]"]
        signature = ", ".join([*first, *(f"{name}: {typed}" for name, typed in parameters)])
        return [
            "",
            "    @classmethod",
            f"    def install({signature}) -> {own}:",
            '        """Install a module with this interface on a subnet."""',
            f"        return cls(subnet.install(wasm, ({given})))",
        ]

    def _method(self, method: ServiceMethod) -> list[str]:
        name = self.members[method.name]
        func = method.func
        place = f"{self.class_name}_{name}"
        parameters = self._parameters(func.args, func.arg_names, place, taken={"self", *_NOT_PARAMETERS})
        results = [self._of(one, f"{place}_result") for one in func.results]
        returned = "None" if not results else results[0] if len(results) == 1 else self._tuple(results)
        signature = ", ".join(["self", *(f"{one}: {typed}" for one, typed in parameters)])
        call = f"self._actor[{method.name!r}]({', '.join(one for one, _ in parameters)})"
        body = [call] if returned == "None" else [f"result_: {returned} = {call}", "return result_"]
        told = _docstring(f"{method.docs}\n\n{method.signature}" if method.docs else method.signature)
        lines = [f"def {name}({signature}) -> {returned}:", f'    """{told}"""', *(f"    {line}" for line in body)]
        return ["", *(f"    {line}" for line in lines)]

    def _parameters(
        self, types: Sequence[Type], names: Sequence[str | None], place: str, *, taken: set[str]
    ) -> list[tuple[str, str]]:
        found = []
        for index, type_ in enumerate(types):
            given = names[index] if index < len(names) else None
            name = _member(given or "", f"arg{index}", taken)
            found.append((name, self._of(type_, f"{place}_{name}")))
        return found


def _is_plain(label: str) -> bool:
    """Whether a class has the label as it is: one that begins with ``__`` is mangled there, and any is normalised."""
    is_name = label.isidentifier() and not keyword.iskeyword(label) and is_normalized("NFKC", label)
    return is_name and not label.startswith("__") and label not in _OWN


def _member(wanted: str, fallback: str, taken: set[str]) -> str:
    """An identifier that a class does not mangle, and that is not taken; it is then."""
    name = re.sub(r"\W", "_", wanted, flags=re.ASCII)
    if name.startswith("__") or not name or name[0].isdigit():
        rest = name.lstrip("_")
        name = rest if rest and not rest[0].isdigit() else f"{fallback}{rest}"
    while name in taken or keyword.iskeyword(name):
        name += "_"
    taken.add(name)
    return name


def _quoted(text: str) -> str:
    """A type that may name what comes later."""
    return f'"{text}"'


def _docstring(text: str) -> str:
    """Words of an interface, harmless between quotes."""
    lines = [line.rstrip() for line in text.replace("\\", "\\\\").replace('"', '\\"').splitlines()]
    return "\n        ".join(line for line in lines).strip()


def _literal(text: str) -> str:
    """A text over several lines as Python."""
    lines = text.splitlines(keepends=True)
    return "(\n" + "".join(f"    {line!r}\n" for line in lines) + ")"


def _labels(types: Iterable[Type]) -> set[str]:
    """Names of fields, cases and methods that are reached from types."""
    found: set[str] = set()
    seen: set[Rec] = set()
    waiting = list(types)
    while waiting:
        one = waiting.pop()
        if isinstance(one, Rec):
            if one in seen:
                continue
            seen.add(one)
        if isinstance(one, Record | Variant):
            found.update(each.label for each in one.fields)
        waiting.extend(children(one))
    return found
