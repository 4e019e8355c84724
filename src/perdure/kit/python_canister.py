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
from importlib import import_module
from typing import Any, Final, TypeVar, final, overload

from perdure.candid import Codec
from perdure.candid.types import quote
from perdure.canister import WasmState, memory_kinds
from perdure.errors import MalformedError
from perdure.kit.instance import PythonInstance
from perdure.kit.overlay import OverlayMemory
from perdure.memory import Memory
from perdure.stable import (
    StableBTreeMap,
    StableBTreeSet,
    StableCell,
    StableLog,
    StableMinHeap,
    StableVec,
)
from perdure.system_api import SystemApi
from perdure.values.annotations import Annotations, Shape
from perdure.wasm.leb import encode_unsigned

__all__ = [
    "PythonMethod",
    "PythonModule",
    "canister",
    "composite_query",
    "heartbeat",
    "init",
    "inspect_message",
    "post_upgrade",
    "pre_upgrade",
    "query",
    "stable",
    "timer",
    "update",
]

C = TypeVar("C", bound=type)
F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_MARK: Final = "__perdure_entry__"
_HOOKS: Final = {
    "init": "canister_init",
    "pre_upgrade": "canister_pre_upgrade",
    "post_upgrade": "canister_post_upgrade",
    "heartbeat": "canister_heartbeat",
    "timer": "canister_global_timer",
    "inspect_message": "canister_inspect_message",
}
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


@final
@dataclass(frozen=True, slots=True)
class _Stable:
    memory_id: int | Sequence[int] | None
    default: Any


def stable(memory_id: int | tuple[int, int] | None = None, *, default: Any = None) -> Any:
    """More about a stable variable than its type says.

        users: StableBTreeMap[Principal, User] = stable(3)

    Args:
        memory_id: which memory of the `MemoryManager` it lives in, a log in two; by default the next free ones in the
            order of the declarations. Say it for what has to survive a change of that order.
        default: what a `StableCell` holds at first.
    """
    return _Stable(memory_id, default)


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


_STRUCTURES: Final = {
    StableBTreeMap: 1,
    StableBTreeSet: 1,
    StableCell: 1,
    StableLog: 2,
    StableMinHeap: 1,
    StableVec: 1,
}
"""Stable structures, and how many memories each needs."""


@final
@dataclass(frozen=True, slots=True)
class _Variable:
    """A declared stable variable."""

    structure: Any
    memory_ids: tuple[int, ...]
    storables: tuple[Any, ...]
    default: Any

    def open(self, memories: Sequence[Memory]) -> Any:
        """What is there, or a new one on blank memories."""
        extra = (self.default,) if self.structure is StableCell else ()
        return self.structure.init(*memories, *self.storables, *extra)


@final
class _Slot:
    """What stands in the class for a stable variable."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else instance._perdure_instance.structure(self._name)

    def __set__(self, instance: Any, value: Any) -> None:
        raise AttributeError(f"stable variable {self._name!r} cannot be replaced: change what it holds")


def _variables(hints: Mapping[str, Any], owner: type, annotations: Annotations) -> dict[str, _Variable]:
    declared = {name: hint for name, hint in hints.items() if typing.get_origin(hint) in _STRUCTURES}
    said = {name: getattr(owner, name, None) for name in declared}
    details = {name: one if isinstance(one, _Stable) else _Stable(None, None) for name, one in said.items()}
    taken = {memory_id for one in details.values() for memory_id in _ids(one.memory_id)}
    found: dict[str, _Variable] = {}
    for name, hint in declared.items():
        structure, detail = typing.get_origin(hint), details[name]
        ids = _ids(detail.memory_id) or _free_ids(taken, _STRUCTURES[structure])
        taken.update(ids)
        if len(ids) != _STRUCTURES[structure]:
            raise TypeError(f"{name}: a {structure.__name__} lives in {_STRUCTURES[structure]} memories, found {ids}")
        found[name] = _Variable(structure, ids, _storables(name, hint, annotations), detail.default)
    used = [memory_id for one in found.values() for memory_id in one.memory_ids]
    if len(set(used)) < len(used):
        raise TypeError(f"two stable variables share a memory: {sorted(used)}")
    return found


def _ids(memory_id: int | Sequence[int] | None) -> tuple[int, ...]:
    if memory_id is None:
        return ()
    return (memory_id,) if isinstance(memory_id, int) else tuple(memory_id)


def _free_ids(taken: set[int], count: int) -> tuple[int, ...]:
    return tuple([memory_id for memory_id in range(255) if memory_id not in taken][:count])


def _storables(name: str, hint: Any, annotations: Annotations) -> tuple[Any, ...]:
    structure = typing.get_origin(hint)
    ordered = structure in (StableBTreeMap, StableBTreeSet, StableMinHeap)
    try:
        return tuple(
            annotations.storable(one, is_key=ordered and index == 0) for index, one in enumerate(typing.get_args(hint))
        )
    except TypeError as error:
        raise TypeError(f"stable variable {name!r}: {error}") from error


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

    def __init__(self, owner: type, names: Mapping[str, Any], bucket_wasm_pages: int) -> None:
        annotations = Annotations({**names, owner.__name__: owner})
        self.owner = owner
        self.bucket_wasm_pages = bucket_wasm_pages
        self.classes: dict[str, type] = {}
        self.variables = _variables(annotations.hints(owner), owner, annotations)
        marked = [(function, getattr(function, _MARK)) for function in _functions(owner) if hasattr(function, _MARK)]
        methods = [PythonMethod(function, mark, annotations) for function, mark in marked]
        self.methods = {method.export_name: method for method in methods}
        if len(self.methods) < len(methods):
            raise TypeError(f"{owner.__name__} has two methods for one of {', '.join(self.methods)}")
        # Always there: it makes the object and its stable structures before init.
        self.exported_methods = frozenset(["canister_start", *self.methods])
        self.candid = self._interface(annotations)
        self.custom_sections = self._sections()
        self.wasm = _empty_module(self.custom_sections)
        self.module_hash = hashlib.sha256(self.wasm).digest()
        self.is_64 = False
        self.operators = 0
        self.memories = memory_kinds()
        own = {"__slots__": ("_perdure_instance",), "__qualname__": owner.__qualname__, "__module__": owner.__module__}
        self._class: type = type(owner.__name__, (owner,), own | {name: _Slot(name) for name in self.variables})

    def instantiate(self, state: WasmState) -> PythonInstance:
        """An instance over `state`."""
        has_run = state.global_values is not None
        memories = {name: OverlayMemory(image) for name, image in state.memories.items()}
        return PythonInstance(self, memories, has_run=has_run)

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
        module_name, _, path = name.partition(":")
        value: Any = None
        if module_name.partition(".")[0] == self.owner.__module__.partition(".")[0]:
            value = import_module(module_name)
            for part in path.split("."):
                value = getattr(value, part, None)
        if not isinstance(value, type):
            raise MalformedError(f"the heap has an object of {name}, which is not the canister's")
        return value

    def _interface(self, annotations: Annotations) -> str:
        typed = [one for one in self.methods.values() if not one.is_raw]
        starting = self.methods.get("canister_init")
        arguments = "" if starting is None or starting.is_raw else f"({_types(starting.args)}) -> "
        lines = [f"type {name} = {one.type};" for name, one in annotations.named.items()]
        lines.append(f"service : {arguments}{{")
        for method in typed:
            if not method.is_hook:
                lines += [f"  // {line}" for line in method.docs.splitlines()]
                lines.append(f"  {method.signature};")
        return "\n".join([*lines, "}\n"])

    def _sections(self) -> dict[str, bytes]:
        try:
            source = inspect.getsource(self.owner)
        except (OSError, TypeError):
            source = ""
        digest = hashlib.sha256(source.encode()).hexdigest()
        return {
            "icp:public candid:service": self.candid.encode(),
            "perdure:python": f"{self.owner.__module__}:{self.owner.__qualname__} {digest}".encode(),
        }

    def __repr__(self) -> str:
        return f"<canister {self.owner.__name__}>"


def _functions(owner: type) -> list[Any]:
    found: dict[str, Any] = {}
    for one in reversed(owner.__mro__):
        found.update(vars(one))
    return list(found.values())


def _empty_module(sections: Mapping[str, bytes]) -> bytes:
    wasm = bytearray(b"\0asm\1\0\0\0")
    for name, content in sections.items():
        label = name.encode()
        body = encode_unsigned(len(label)) + label + content
        wasm += b"\0" + encode_unsigned(len(body)) + body
    return bytes(wasm)


@overload
def canister(owner: C, /) -> C: ...
@overload
def canister(*, bucket_wasm_pages: int = 128) -> Callable[[C], C]: ...
def canister(owner: Any = None, /, *, bucket_wasm_pages: int = 128) -> Any:
    """Make a class a canister, to be installed like a Wasm module: ``subnet.install(Ledger)``.

    Args:
        owner: the class; see the module for what it may have.
        bucket_wasm_pages: what the memory manager takes at a time; 128 as the crate's default.

    Raises:
        TypeError: an annotation has no Candid type, or no form in stable memory.
    """
    names = dict(sys._getframe(1).f_locals)

    def make(one: C) -> C:
        one.__perdure_module__ = PythonModule(one, names, bucket_wasm_pages)  # type: ignore[attr-defined]
        return one

    return make if owner is None else make(owner)
