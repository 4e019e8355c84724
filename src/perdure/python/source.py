"""The source that a class depends on: its own, its bases', and whatever of its own program they name.

A canister's code is what runs, not what stands in one class. So names are followed as a reader would follow them: from
the class to functions, classes and constants of its module and its neighbours (`identity.is_own`), by the statements
that bind them. What is installed beside the program (libraries, Python itself) is not looked at.

It is read, never run, so it is the same in every process. What has no source (a class made at a prompt) has its
bytecode instead, which is another one in another version of Python.
"""

from __future__ import annotations

import ast
import hashlib
import sys
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Final, TypeAlias, final

from perdure.python.identity import file_of, is_own, module_name, module_of, name_of

__all__ = ["digest", "sources", "text_of"]

_Definition: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_PLAIN: Final = (int, float, complex, str, bytes, type(None), type(Ellipsis))
_DEFINITIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def digest(owner: type, others: Iterable[type] = (), text: str | None = None) -> bytes:
    """SHA-256 over `sources`."""
    found = sorted(sources(owner, others, text).items())
    return hashlib.sha256(repr(found).encode("utf-8", "surrogatepass")).digest()


def sources(owner: type, others: Iterable[type] = (), text: str | None = None) -> dict[str, str]:
    """What `owner` depends on: texts by ``module:name``.

    Args:
        owner: a class.
        others: classes that it uses without naming them in its code, in annotations.
        text: the source of its module, as it was when the class was made; by default as it is now.
    """
    reader = _Reader(owner.__module__)
    if text is not None:
        reader.take_text(owner.__module__, text)
    bases = [one for one in owner.__mro__ if _is_looked_at(one.__module__)]
    for one in dict.fromkeys([owner, *bases, *(one for one in others if is_own(owner.__module__, one.__module__))]):
        reader.read_class(one)
    return reader.found


def _is_looked_at(module: str) -> bool:
    top = module.partition(".")[0]
    return top not in sys.stdlib_module_names or top == "__main__"


@final
@dataclass(slots=True)
class _Scope:
    """A module's statements, or a function's, by the names that they bind."""

    module: str
    label: str
    lines: list[str]
    outer: _Scope | None = None
    bound: dict[str, list[ast.stmt]] = field(default_factory=dict)
    starred: list[ast.ImportFrom] = field(default_factory=list)

    def add(self, body: Iterable[ast.stmt]) -> _Scope:
        for statement in body:
            for name in _bound_by(statement):
                self.bound.setdefault(name, []).append(statement)
            if isinstance(statement, ast.ImportFrom) and statement.names[0].name == "*":
                self.starred.append(statement)
            for inner in _blocks(statement):
                self.add(inner)
        return self

    def text(self, statement: ast.stmt) -> str:
        """A statement with its decorators, and the comments that end its block."""
        decorators = getattr(statement, "decorator_list", [])
        start = min([statement.lineno, *(one.lineno for one in decorators)])
        end = statement.end_lineno or statement.lineno
        for number, line in enumerate(self.lines[end:], end + 1):
            indent = len(line) - len(line.lstrip())
            if line.strip() and not (line.lstrip().startswith("#") and indent > statement.col_offset):
                break
            if line.strip():
                end = number
        return "\n".join(self.lines[start - 1 : end])


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            for alias in names:
                yield alias.asname or alias.name.partition(".")[0]
        case ast.Assign() | ast.AnnAssign() | ast.AugAssign():
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id
        case _:
            pass


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """What is within a statement and not a scope of its own: the branches of an ``if``, the body of a ``with``."""
    if isinstance(statement, _DEFINITIONS):
        return
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for handler in getattr(statement, "handlers", []):
        yield handler.body


@final
class _Reader:
    """Follows names, each once."""

    def __init__(self, owner: str) -> None:
        self.found: dict[str, str] = {}
        self._owner = owner
        self._scopes: dict[str, _Scope | None] = {}
        self._seen: set[tuple[int, tuple[str, ...]]] = set()
        self._waiting: list[tuple[_Scope, tuple[str, ...]]] = []

    def read_class(self, owner: type) -> None:
        scope = self._scope(owner.__module__)
        found = None if scope is None else _find(scope, owner)
        if found is None:
            self.found[name_of(owner)] = _bytecode(owner)
        else:
            self._take(*found, name_of(owner).partition(":")[2])
        while self._waiting:
            self._follow(*self._waiting.pop())

    def take_text(self, module: str, text: str | None) -> None:
        """Read a module's statements; of one without source, or with what is none, nothing."""
        self._scopes[module] = None if text is None else _read(module, module_name(module), text)

    def _scope(self, module: str) -> _Scope | None:
        if module not in self._scopes:
            self.take_text(module, text_of(module))
        return self._scopes[module]

    def _take(self, scope: _Scope, statement: ast.stmt, name: str) -> None:
        """Take a statement that binds `name`, and follow the names in it."""
        key = f"{scope.label}:{name}"
        text = scope.text(statement)
        if text in self.found.get(key, "").split("\0"):
            return
        self.found[key] = "\0".join(filter(None, (self.found.get(key), text)))
        self._waiting += [(scope, path) for path in _paths(statement)]

    def _follow(self, scope: _Scope | None, path: tuple[str, ...]) -> None:
        while scope is not None:
            if path[0] in scope.bound:
                if (id(scope), path) not in self._seen:
                    self._seen.add((id(scope), path))
                    for statement in scope.bound[path[0]]:
                        self._follow_into(scope, statement, path)
                return
            for statement in scope.starred:
                self._follow_module(_target(scope.module, statement), path)
            scope = scope.outer

    def _follow_into(self, scope: _Scope, statement: ast.stmt, path: tuple[str, ...]) -> None:
        if isinstance(statement, ast.Import):
            for alias in statement.names:
                if alias.asname == path[0]:
                    self._follow_module(alias.name, path[1:])
                elif alias.asname is None and alias.name.partition(".")[0] == path[0]:
                    self._follow_module(path[0], path[1:])
        elif isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == path[0]:
                    self._follow_module(_target(scope.module, statement), (alias.name, *path[1:]))
        else:
            self._take(scope, statement, path[0])

    def _follow_module(self, module: str, path: tuple[str, ...]) -> None:
        """Follow a name, or an attribute of a submodule, in a module of the same program."""
        if not path or not is_own(self._owner, module):
            return
        scope = self._scope(module_of(module))
        if scope is not None and (path[0] in scope.bound or scope.starred):
            self._follow(scope, path)
        elif file_of(f"{module}.{path[0]}") is not None:
            self._follow_module(f"{module}.{path[0]}", path[1:])


@lru_cache(maxsize=32)
def _read(module: str, label: str, text: str) -> _Scope | None:
    """The statements of a module, in which a file of tests may have many classes; `None`: it is no Python."""
    try:
        return _Scope(module, label, text.split("\n")).add(ast.parse(text).body)
    except (SyntaxError, ValueError, RecursionError):
        return None


def text_of(module: str) -> str | None:
    """The source of a module that is or could be imported, as it is now."""
    file = file_of(module)
    if file is not None:
        with suppress(OSError, SyntaxError, UnicodeDecodeError), tokenize.open(file) as opened:
            return opened.read()
    loader = getattr(sys.modules.get(module), "__loader__", None)
    try:
        text: str | None = getattr(loader, "get_source", lambda _: None)(module)
    except (ImportError, OSError, SyntaxError, UnicodeDecodeError):
        return None
    return text


def _target(module: str, statement: ast.ImportFrom) -> str:
    """The module that an import names."""
    if not statement.level:
        return statement.module or ""
    found = sys.modules.get(module)
    package: str = getattr(found, "__package__", None) or module.rpartition(".")[0]
    for _ in range(statement.level - 1):
        package = package.rpartition(".")[0]
    return f"{package}.{statement.module}" if statement.module else package


def _paths(statement: ast.stmt) -> Iterator[tuple[str, ...]]:
    """The names that a statement uses, each with the attributes that are asked of it."""
    for node in ast.walk(statement):
        path: list[str] = []
        value: ast.AST = node
        while isinstance(value, ast.Attribute):
            path.append(value.attr)
            value = value.value
        if isinstance(value, ast.Name):
            yield (value.id, *reversed(path))


def _find(scope: _Scope, owner: type) -> tuple[_Scope, ast.stmt] | None:
    """The statement that makes a class, and where its names are looked up."""
    *outer, name = [part for part in owner.__qualname__.split(".") if part != "<locals>"]
    lines = [code.co_firstlineno for code in _codes(owner)]
    place = scope
    for part in outer:
        around = [one for one in place.bound.get(part, ()) if isinstance(one, _DEFINITIONS)]
        if not around:
            return None
        chosen = _at_lines(around, lines)
        place = _Scope(scope.module, scope.label, scope.lines, scope).add(chosen.body)
        if not isinstance(chosen, ast.ClassDef):  # whose names are not seen from within
            scope = place
    made = [one for one in place.bound.get(name, ()) if isinstance(one, ast.ClassDef)]
    return (scope, _at_lines(made, lines)) if made else None


def _at_lines(definitions: list[_Definition] | list[ast.ClassDef], lines: list[int]) -> _Definition:
    """The definition that has most of the lines, of several the last one."""

    def has(one: _Definition) -> int:
        return sum(one.lineno <= line <= (one.end_lineno or one.lineno) for line in lines)

    return max(reversed(definitions), key=has)


def _codes(owner: type) -> Iterator[CodeType]:
    for value in vars(owner).values():
        for function in _functions(value):
            yield function.__code__


def _functions(value: object) -> Iterator[FunctionType]:
    """The functions behind an attribute: a method, a static one, a property's."""
    while hasattr(value, "__wrapped__"):
        value = value.__wrapped__
    for one in (value, *(getattr(value, name, None) for name in ("__func__", "fget", "fset", "fdel", "func"))):
        if isinstance(one, FunctionType):
            yield one


# -- without source


def _bytecode(owner: type) -> str:
    parts: list[str] = []
    seen: set[str] = set()
    for name, value in sorted(vars(owner).items(), key=lambda item: item[0]):
        if isinstance(value, _PLAIN) and not name.startswith("__"):
            parts.append(f"{name}={value!r}")
        parts += [f"{name}:{_of_function(function, seen)}" for function in _functions(value)]
    return "\n".join(parts)


def _of_function(function: FunctionType, seen: set[str]) -> str:
    """A function's code, and that of functions beside it that it names."""
    parts = [_of_code(function.__code__), repr(function.__defaults__), repr(function.__kwdefaults__)]
    names: Mapping[str, object] = function.__globals__
    for name in _names(function.__code__):
        other = names.get(name)
        if isinstance(other, FunctionType) and other.__module__ == function.__module__ and name not in seen:
            seen.add(name)
            parts.append(f"{name}:{_of_function(other, seen)}")
    return " ".join(parts)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _of_code(code: CodeType) -> str:
    constants = [_of_code(one) if isinstance(one, CodeType) else _of_constant(one) for one in code.co_consts]
    return f"[{code.co_code.hex()} {code.co_names} {code.co_varnames} {constants}]"


def _of_constant(value: object) -> str:
    return repr(sorted(map(repr, value))) if isinstance(value, frozenset) else repr(value)
