"""Canisters written in Python: a class, its methods by kind, its stable variables declared by annotation.

    from perdure.kit import canister, ic, nat, update, query
    from perdure.stable import StableBTreeMap

    @canister
    class Ledger:
        balances: StableBTreeMap[Principal, nat64]

        @update
        def mint(self, to: Principal, amount: nat64) -> nat64:
            self.balances[to] = self.balances.get(to, 0) + amount
            return self.balances[to]

        @query
        def balance(self, of: Principal) -> nat64:
            return self.balances.get(of, 0)

    ledger = subnet.install(Ledger)

The rules are those of every canister. An exception is a trap: what the method did is undone. An upgrade keeps stable
variables only; plain attributes begin anew with ``__init__``. A query leaves no trace. After an ``await`` look
attributes up again: other messages ran meanwhile. Python is not metered: no instruction limit ends a loop.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, Final, TypeVar, final, overload

from perdure.candid.types import Value
from perdure.canister import WasmState, memory_kinds
from perdure.data.catalogue import CATALOGUE_ID
from perdure.errors import MalformedError
from perdure.memory import Memory
from perdure.python.blank import empty_module, sections
from perdure.python.identity import is_own, module_of, name_of
from perdure.python.instance import PythonInstance
from perdure.python.method import MOVING, TIMER, Mark, Migration, PythonMethod, types_of
from perdure.python.overlay import OverlayMemory
from perdure.python.source import digest, text_of
from perdure.python.variables import Declared, Schema, Variable, declared, is_readable, models, objections, stable
from perdure.values.annotations import Annotations

__all__ = [
    "Migration",
    "PythonMethod",
    "PythonModule",
    "canister",
    "composite_query",
    "heartbeat",
    "init",
    "inspect_message",
    "migration",
    "post_upgrade",
    "pre_upgrade",
    "query",
    "stable",
    "timer",
    "update",
]

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])

_MARK: Final = "__perdure_entry__"
_MAX_NAME_CHARACTERS: Final = 200


# -- what stands above methods


class _Marking:
    """A decorator with or without parentheses."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.__doc__ = f"Makes a method the canister's `{kind}`."

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, /, *, name: str | None = None, raw: bool = False) -> Callable[[F], F]: ...
    def __call__(self, function: F | None = None, /, *, name: str | None = None, raw: bool = False) -> Value:
        """Mark a method.

        Args:
            function: the method.
            name: in Candid, where it cannot be Python's.
            raw: takes the argument in bytes and returns the reply in bytes.
        """
        mark = Mark(self._kind, name, raw)

        def apply(marked: F) -> F:
            setattr(marked, _MARK, mark)
            return marked

        return apply if function is None else apply(function)


update: Final = _Marking("update")
query: Final = _Marking("query")
composite_query: Final = _Marking("composite_query")
init: Final = _Marking("init")
pre_upgrade: Final = _Marking("pre_upgrade")
post_upgrade: Final = _Marking("post_upgrade")
heartbeat: Final = _Marking("heartbeat")
timer: Final = _Marking("timer")
inspect_message: Final = _Marking("inspect_message")


@overload
def migration(function: F, /) -> F: ...
@overload
def migration(*, rows: int | None = None) -> Callable[[F], F]: ...
def migration(function: F | None = None, /, *, rows: int | None = None) -> F | Callable[[F], F]:
    """Makes a method take over stable variables of the code before, at the upgrade that changes or drops them.

        balances: StableBTreeMap[Principal, nat64] = stable(1)      # was StableBTreeMap[str, nat64], in memory 0

        @migration
        def by_principal(self, balances: StableBTreeMap[str, nat64]) -> None:
            for name, amount in balances.items():
                self.balances[Principal.self_authenticating(name.encode())] = amount

    Its parameters are named as the variables of the code before, with the types that they had there. It runs once, at
    an upgrade from code that declares all of them so, after ``__init__`` and before ``post_upgrade``; where it raises,
    nothing of the upgrade stays. It may be left in the class afterwards.

    With a parameter ``users: Rows[User]`` it is called again and again, with the next rows of the table each time, in a
    message of its own; see `perdure.data.Rows`.

    Args:
        function: the method.
        rows: how many at most it is called with; 1,000.
    """

    def apply(marked: F) -> F:
        setattr(marked, _MARK, Mark("migration", rows=rows))
        return marked

    return apply if function is None else apply(function)


# -- the parts of a module


@final
class _Slot:
    """What stands in the class for a stable variable."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Value, owner: type) -> Value:
        return self if instance is None else instance._perdure_instance.structure(self._name)

    def __set__(self, instance: object, value: object) -> None:
        raise AttributeError(f"stable variable {self._name!r} cannot be replaced: change what it holds")


# -- the module


@final
class PythonModule:
    """A class as a canister's code; implements `CanisterModule`.

    `wasm` is a real, empty module that names the class and has its interface, so that whatever reads modules can read
    this one too.

    Args:
        owner: the class.
        names: what annotations written as text may name.
        bucket_wasm_pages: of the memory manager; 128, as in the crate.
    """

    def __init__(
        self, owner: type, names: Mapping[str, object], bucket_wasm_pages: int, name: str | None = None
    ) -> None:
        self._annotations = annotations = Annotations({**names, owner.__name__: owner})
        self.owner = owner
        self._text = text_of(owner.__module__)  # now: its file may be edited while this process lives
        self.place = name_of(owner)
        self.name = _checked(name) or self.place
        self.bucket_wasm_pages = bucket_wasm_pages
        self.classes: dict[str, type] = {}
        hints = annotations.hints(owner)
        self.variables = declared(hints, owner, annotations)
        self.models = models(hints, owner, annotations)
        if self.models and (one := _in_catalogue(self.variables)):
            raise TypeError(
                f"{one} takes memory {CATALOGUE_ID}, which is the catalogue's where a class has data models"
            )
        marked = [(function, getattr(function, _MARK)) for function in _functions(owner) if hasattr(function, _MARK)]
        methods = [PythonMethod(function, mark, annotations) for function, mark in marked if mark.kind != "migration"]
        self.migrations = [Migration.of(*one, annotations) for one in marked if one[1].kind == "migration"]
        self.moves = {one.name: one for one in self.migrations if one.step_rows}
        _check_migrations(owner, self.migrations, self.models)
        self.methods = {method.export_name: method for method in methods}
        if len(self.methods) < len(methods):
            raise TypeError(f"{owner.__name__} has two methods for one of {', '.join(self.methods)}")
        # Always there: it makes the object and its stable structures before init.
        self.exported_methods = frozenset(["canister_start", *self.methods, *(MOVING if self.moves else ())])
        if self.moves and TIMER in self.methods:
            raise TypeError(
                f"{owner.__name__} has a @timer and a migration in steps, {', '.join(self.moves)}, which runs by the "
                "canister's timer: let the timer's method take over some rows at a time"
            )
        self.definitions = "\n".join(f"type {name} = {one.type};" for name, one in annotations.named.items())
        self.candid = self._interface()
        self.declares = Schema(
            self.definitions,
            tuple(one.declared for one in self.variables.values()),
            self.place,
            tuple(sorted(self.exported_methods)),
        )
        self.schema = self.declares.encode()
        self.absent = ""
        self.is_64 = False
        self.operators = 0
        self.global_types: tuple[str, ...] = ()
        self.memories = memory_kinds()
        slots = (*self.variables, *self.models)
        own = {"__slots__": ("_perdure_instance",), "__qualname__": owner.__qualname__, "__module__": owner.__module__}
        self._class: type = type(owner.__name__, (owner,), own | {name: _Slot(name) for name in slots})

    @cached_property
    def custom_sections(self) -> Mapping[str, bytes]:
        """Interface, name and digest of the source, declarations.

        Made when first asked for: what the class names in its module is there then.
        """
        source = digest(self.owner, self._annotations.classes, self._text)
        return sections(self.name, source, self.schema, self.candid)

    @cached_property
    def wasm(self) -> bytes:
        """A module of nothing but these sections."""
        return empty_module(self.custom_sections)

    @cached_property
    def module_hash(self) -> bytes:
        """SHA-256 of `wasm`, so of name, declarations and source."""
        return hashlib.sha256(self.wasm).digest()

    def pending(self, old: Schema) -> list[tuple[Migration, list[Declared]]]:
        """The migrations that are due at an upgrade from code that declared `old`, with what they take over."""
        before = {one.name: one for one in old.variables}
        due = []
        for one in self.migrations:
            sources = [before[variable.name] for variable in one.variables if self._takes_over(variable, before, old)]
            if len(sources) == len(one.variables):
                due.append((one, sources))
        return due

    def _takes_over(self, variable: Variable, before: Mapping[str, Declared], old: Schema) -> bool:
        source, now = before.get(variable.name), self.variables.get(variable.name)
        if source is None or not is_readable(source, variable.declared, old, self.declares):
            return False
        return now is None or now.declared != source

    def objections(self, old: Schema, memory_of: Callable[[int], Memory] | None = None) -> list[str]:
        """Why it cannot go on with the stable memory of code that declared `old`; see `variables.objections`."""
        taken_over = [source.name for _, sources in self.pending(old) for source in sources]
        return objections(old, self.variables, self.declares, taken_over, memory_of)

    def instantiate(self, state: WasmState) -> PythonInstance:
        """An instance over `state`."""
        has_run = state.global_values is not None
        memories = {name: OverlayMemory(image) for name, image in state.memories.items()}
        # What is in the stable memory of a fresh one is what Wasm has left.
        before = Schema.decode(b"") if not has_run and memories["stable"].size() else None
        return PythonInstance(self, memories, has_run=has_run, before=before)

    def new_object(self, instance: PythonInstance) -> Value:
        """An object of the class, not initialised, whose stable variables are `instance`'s."""
        made: Value = object.__new__(self._class)
        made._perdure_instance = instance
        return made

    def class_named(self, name: str) -> type:
        """A class that an attribute is of.

        Raises:
            MalformedError: it is not of the canister's own package.
        """
        found = self.classes.get(name)
        if found is not None:
            return found
        module, _, path = name.partition(":")
        value: Value = None
        if is_own(self.owner.__module__, module):
            value = import_module(module_of(module))
            for part in path.split("."):
                value = getattr(value, part, None)
        if not isinstance(value, type):
            raise MalformedError(f"the heap has an object of {name}, which is not the canister's")
        return value

    def _interface(self) -> str:
        typed = [one for one in self.methods.values() if not one.is_raw]
        starting = self.methods.get("canister_init")
        arguments = "" if starting is None or starting.is_raw else f"({types_of(starting.args)}) -> "
        lines = [*filter(None, [self.definitions]), f"service : {arguments}{{"]
        for method in typed:
            if not method.is_hook:
                lines += [f"  // {line}" for line in method.docs.splitlines()]
                lines.append(f"  {method.signature};")
        return "\n".join([*lines, "}\n"])

    def __repr__(self) -> str:
        return f"<canister {self.owner.__name__}>"


def _in_catalogue(variables: Mapping[str, Variable]) -> str | None:
    return next((one.name for one in variables.values() if CATALOGUE_ID in one.memory_ids), None)


def _functions(owner: type) -> list[Value]:
    found: dict[str, Value] = {}
    for one in reversed(owner.__mro__):
        found.update(vars(one))
    return list(found.values())


def _check_migrations(owner: type, migrations: Iterable[Migration], models: Mapping[str, object]) -> None:
    """Raise `TypeError` where a migration takes over a table that its class has, or has no catalogue for."""
    for name in (table.name for one in migrations for table in one.tables):
        if name in models:
            raise TypeError(
                f"{owner.__name__} declares {name!r}, and a migration takes it over: what is declared grows by itself, "
                "so give the new table another name"
            )
        if not models:
            raise TypeError(f"{owner.__name__} takes over the table {name!r} and declares no data model to put it in")


def _checked(name: str | None) -> str | None:
    if name is not None and not (0 < len(name) <= _MAX_NAME_CHARACTERS and name.isprintable() and name == name.strip()):
        raise TypeError(f"a canister cannot be called {name!r:.80}: expected 1 to {_MAX_NAME_CHARACTERS} characters")
    return name


@overload
def canister(owner: C, /) -> C: ...
@overload
def canister(*, name: str | None = None, bucket_wasm_pages: int = 128) -> Callable[[C], C]: ...
def canister(owner: Value = None, /, *, name: str | None = None, bucket_wasm_pages: int = 128) -> Value:
    """Make a class a canister, to be installed like a Wasm module: ``subnet.install(Ledger)``.

    Args:
        owner: the class; see the module for what it may have.
        name: what state directories know it by; by default ``module:Class``. A class that is renamed or moved keeps
            its canisters if it keeps its name: ``@canister(name="shop:Ledger")``.
        bucket_wasm_pages: what the memory manager takes at a time; 128 as the crate's default.

    Raises:
        TypeError: an annotation has no Candid type, or no form in stable memory.
    """
    names = dict(sys._getframe(1).f_locals)

    def make(one: C) -> C:
        module = PythonModule(one, names, bucket_wasm_pages, name)

        def canister_module(asked: type) -> PythonModule:
            if asked is not one:
                raise TypeError(f"{asked!r} inherits from a canister and is none itself: it has to say @canister, too")
            return module

        one.__canister_module__ = classmethod(canister_module)  # type: ignore[attr-defined]
        return one

    return make if owner is None else make(owner)
