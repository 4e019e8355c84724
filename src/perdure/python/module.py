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
import inspect
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Final, TypeVar, final, overload

from perdure.candid import Codec
from perdure.candid.types import quote
from perdure.canister import WasmState, memory_kinds
from perdure.errors import MalformedError
from perdure.memory import Memory
from perdure.python.blank import empty_module, sections
from perdure.python.identity import is_own, module_of, name_of
from perdure.python.instance import PythonInstance
from perdure.python.overlay import OverlayMemory
from perdure.python.source import digest, text_of
from perdure.python.variables import Declared, Schema, Variable, declared, is_readable, objections, stable, structure_of
from perdure.system_api import SystemApi
from perdure.values.annotations import Annotations, Shape

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
_HOOKS: Final = {
    "init": "canister_init",
    "pre_upgrade": "canister_pre_upgrade",
    "post_upgrade": "canister_post_upgrade",
    "heartbeat": "canister_heartbeat",
    "timer": "canister_global_timer",
    "inspect_message": "canister_inspect_message",
}
_MAX_NAME_CHARACTERS: Final = 200
_MODES: Final = {"query": " query", "composite_query": " composite_query", "update": ""}


# -- what stands above methods


@final
@dataclass(frozen=True, slots=True)
class _Mark:
    kind: str
    name: str | None = None
    is_raw: bool = False


class _Marking:
    """A decorator with or without parentheses."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self.__doc__ = f"Makes a method the canister's `{kind}`."

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, /, *, name: str | None = None, raw: bool = False) -> Callable[[F], F]: ...
    def __call__(self, function: F | None = None, /, *, name: str | None = None, raw: bool = False) -> Any:
        """Mark a method.

        Args:
            function: the method.
            name: in Candid, where it cannot be Python's.
            raw: takes the argument in bytes and returns the reply in bytes.
        """
        mark = _Mark(self._kind, name, raw)

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


def migration(function: F) -> F:
    """Makes a method take over stable variables of the code before, at the upgrade that changes or drops them.

        balances: StableBTreeMap[Principal, nat64] = stable(1)      # was StableBTreeMap[str, nat64], in memory 0

        @migration
        def by_principal(self, balances: StableBTreeMap[str, nat64]) -> None:
            for name, amount in balances.items():
                self.balances[Principal.self_authenticating(name.encode())] = amount

    Its parameters are named as the variables of the code before, with the types that they had there. It runs once, at
    an upgrade from code that declares all of them so, after ``__init__`` and before ``post_upgrade``; where it raises,
    nothing of the upgrade stays. It may be left in the class afterwards.
    """
    setattr(function, _MARK, _Mark("migration"))
    return function


# -- the parts of a module


@final
class PythonMethod:
    """A method, ready to be entered."""

    def __init__(self, function: Callable[..., Any], mark: _Mark, annotations: Annotations) -> None:
        self.function = function
        self.kind = mark.kind
        self.name = mark.name or function.__name__
        self.is_raw = mark.is_raw
        self.is_hook = mark.kind in _HOOKS
        self.docs = inspect.getdoc(function) or ""
        parameters = list(inspect.signature(function).parameters.values())[1:]
        if self.is_raw:
            return
        hints = annotations.hints(function)
        for one in parameters:
            if one.name not in hints:
                raise TypeError(f"{function.__qualname__}: parameter {one.name!r} has no annotation, so no Candid type")
        self.names = [one.name.removesuffix("_") for one in parameters]
        self.args: list[Shape] = [annotations.shape(hints[one.name]) for one in parameters]
        self.results: list[Shape] = _results(hints.get("return"), annotations)
        self._takes = Codec(tuple(shape.type for shape in self.args))
        self._gives = Codec(tuple(shape.type for shape in self.results))

    @property
    def export_name(self) -> str:
        """As a module exports it."""
        return _HOOKS.get(self.kind) or f"canister_{self.kind} {self.name}"

    @property
    def signature(self) -> str:
        """As in a ``.did`` file."""
        args = ", ".join(f"{quote(name)} : {shape.type}" for name, shape in zip(self.names, self.args, strict=True))
        return f"{quote(self.name)} : ({args}) -> ({_types(self.results)}){_MODES[self.kind]}"

    def decode(self, arg: bytes) -> list[Any]:
        """The arguments in a message.

        Raises:
            MalformedError: it is not of their types.
        """
        if self.is_raw:
            return [arg]
        if not self.args and (self.is_hook or not arg):
            return []
        return [shape.from_candid(value) for shape, value in zip(self.args, self._takes.decode(arg), strict=True)]

    def respond(self, api: SystemApi, result: Any) -> None:
        """Reply with what the method returned."""
        if self.kind == "inspect_message":
            if result:
                api.accept_message()
        elif not self.is_hook:
            api.msg_reply_data_append(self._encoded(result))
            api.msg_reply()

    def _encoded(self, result: Any) -> bytes:
        if self.is_raw:
            return bytes(result or b"")
        values = [result] if len(self.results) == 1 else list(result or ())
        return self._gives.encode([shape.to_candid(one) for shape, one in zip(self.results, values, strict=True)])


def _results(annotation: Any, annotations: Annotations) -> list[Shape]:
    """A tuple is several results, as in Motoko; as an argument or within something it is a record."""
    if annotation in (None, type(None)):
        return []
    arguments = typing.get_args(annotation)
    several = typing.get_origin(annotation) is tuple and Ellipsis not in arguments
    return [annotations.shape(one) for one in (arguments if several else (annotation,))]


def _types(shapes: Sequence[Shape]) -> str:
    return ", ".join(str(shape.type) for shape in shapes)


@final
class _Slot:
    """What stands in the class for a stable variable."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance._perdure_instance.structure(self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"stable variable {self._name!r} cannot be replaced: change what it holds")


@final
@dataclass(frozen=True, slots=True)
class Migration:
    """A method that takes over stable variables of the code before.

    Args:
        function: the method.
        variables: what it takes over, as it was declared; their memories are where the code before had them.
    """

    function: Callable[..., None]
    variables: tuple[Variable, ...]

    @classmethod
    def of(cls, function: Callable[..., Any], annotations: Annotations) -> Migration:
        """Read off a method.

        Raises:
            TypeError: its parameters are no stable variables.
        """
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{function.__qualname__}: a migration calls nobody, so it is no async def")
        hints = annotations.hints(function)
        found = []
        for name in list(inspect.signature(function).parameters)[1:]:
            shape = structure_of(name, hints.get(name), annotations)
            if shape is None:
                raise TypeError(
                    f"{function.__qualname__}: parameter {name!r} is named and annotated as a stable variable of the "
                    "code before: StableBTreeMap[str, nat64] ..."
                )
            found.append(Variable(name, shape[0], (), shape[1]))
        if not found:
            raise TypeError(
                f"{function.__qualname__}: a migration has a parameter for each variable that it takes over"
            )
        return cls(function, tuple(found))


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

    def __init__(self, owner: type, names: Mapping[str, Any], bucket_wasm_pages: int, name: str | None = None) -> None:
        self._annotations = annotations = Annotations({**names, owner.__name__: owner})
        self.owner = owner
        self._text = text_of(owner.__module__)  # now: its file may be edited while this process lives
        self.place = name_of(owner)
        self.name = _checked(name) or self.place
        self.bucket_wasm_pages = bucket_wasm_pages
        self.classes: dict[str, type] = {}
        self.variables = declared(annotations.hints(owner), owner, annotations)
        marked = [(function, getattr(function, _MARK)) for function in _functions(owner) if hasattr(function, _MARK)]
        methods = [PythonMethod(function, mark, annotations) for function, mark in marked if mark.kind != "migration"]
        self.migrations = [Migration.of(function, annotations) for function, mark in marked if mark.kind == "migration"]
        self.methods = {method.export_name: method for method in methods}
        if len(self.methods) < len(methods):
            raise TypeError(f"{owner.__name__} has two methods for one of {', '.join(self.methods)}")
        # Always there: it makes the object and its stable structures before init.
        self.exported_methods = frozenset(["canister_start", *self.methods])
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
        own = {"__slots__": ("_perdure_instance",), "__qualname__": owner.__qualname__, "__module__": owner.__module__}
        self._class: type = type(owner.__name__, (owner,), own | {name: _Slot(name) for name in self.variables})

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

    def new_object(self, instance: PythonInstance) -> Any:
        """An object of the class, not initialised, whose stable variables are `instance`'s."""
        made: Any = object.__new__(self._class)
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
        value: Any = None
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
        arguments = "" if starting is None or starting.is_raw else f"({_types(starting.args)}) -> "
        lines = [*filter(None, [self.definitions]), f"service : {arguments}{{"]
        for method in typed:
            if not method.is_hook:
                lines += [f"  // {line}" for line in method.docs.splitlines()]
                lines.append(f"  {method.signature};")
        return "\n".join([*lines, "}\n"])

    def __repr__(self) -> str:
        return f"<canister {self.owner.__name__}>"


def _functions(owner: type) -> list[Any]:
    found: dict[str, Any] = {}
    for one in reversed(owner.__mro__):
        found.update(vars(one))
    return list(found.values())


def _checked(name: str | None) -> str | None:
    if name is not None and not (0 < len(name) <= _MAX_NAME_CHARACTERS and name.isprintable() and name == name.strip()):
        raise TypeError(f"a canister cannot be called {name!r:.80}: expected 1 to {_MAX_NAME_CHARACTERS} characters")
    return name


@overload
def canister(owner: C, /) -> C: ...
@overload
def canister(*, name: str | None = None, bucket_wasm_pages: int = 128) -> Callable[[C], C]: ...
def canister(owner: Any = None, /, *, name: str | None = None, bucket_wasm_pages: int = 128) -> Any:
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
