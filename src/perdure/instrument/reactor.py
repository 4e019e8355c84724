"""The exports of a program for WASI become those of a canister: names, and what runs before and after a method.

A reactor's ``_initialize``, or what a linker wrapped around every export in its place, is to run in init and in
post_upgrade, before what the module has of them; what is held of a line is printed at the end of every method.

Source: ``createCommandExportWrapper`` in LLVM's ``wasm/Writer.cpp``; "Entry points" in the interface specification.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, final

from perdure.errors import UnsupportedError
from perdure.instrument.appendix import Appendix, op
from perdure.wasm import (
    OPCODE_BY_NAME,
    Export,
    ExternKind,
    FuncType,
    Instruction,
    Module,
    instructions,
    locals_end,
)

__all__ = ["WASI", "Hooks", "Initializer", "initializer_of", "own_function", "renamed_exports"]

WASI = frozenset({"wasi_snapshot_preview1", "wasi_unstable"})
"""Where WASI's functions are imported from: preview 1 and preview 0."""

INITIALIZERS = ("_initialize", "__wasm_call_ctors")
_ENTRY = FuncType()
_CALL, _LOCAL_GET = OPCODE_BY_NAME["call"].number, OPCODE_BY_NAME["local.get"].number


def own_function(module: Module, name: str) -> int | None:
    """The function that a module defines and exports under this name.

    Raises:
        UnsupportedError: it exports an import under it.
    """
    index = module.exported_functions.get(name)
    if index is not None and index < module.imported_function_count:
        raise UnsupportedError(f"export {name} is an import, expected a function that the module defines")
    return index


# ---------------------------------------------------------------------------------------------------------- initializer


class Initializer(NamedTuple):
    """The function that has to run before any other."""

    name: str
    function: int


def initializer_of(module: Module) -> tuple[Module, Initializer | None]:
    """The module without the export, or the wrappers, that run its constructors; and what runs them."""
    for name in INITIALIZERS:
        index = own_function(module, name)
        if index is not None:
            if module.function_type(index) != _ENTRY:
                raise UnsupportedError(f"export {name} has type {module.function_type(index)}, expected {_ENTRY}")
            exports = tuple(item for item in module.exports if item.name != name)
            return replace(module, exports=exports), Initializer(name, index)
    constructors = module.imported_function_count
    is_wasi = any(item.module in WASI for item in module.imports)
    if not is_wasi or not _only_calls(module, constructors):
        return module, None
    # Anything else that every export calls first, a guard say, stays there: its name tells, where it has one.
    if module.function_names.get(constructors, INITIALIZERS[-1]) != INITIALIZERS[-1]:
        return module, None
    unwrapped = [
        replace(item, index=_wrapped(module, item.index, constructors)) if item.kind is ExternKind.FUNCTION else item
        for item in module.exports
    ]
    if any(item.index < 0 for item in unwrapped):
        return module, None
    return replace(module, exports=tuple(unwrapped)), Initializer(INITIALIZERS[-1], constructors)


_MAX_WRAPPER_BYTES = 256


def _only_calls(module: Module, function: int) -> bool:
    """Whether a function is as a linker makes the one that runs all constructors, which it puts first."""
    if not module.codes or module.function_type(function) != _ENTRY:
        return False
    steps = _steps(module, function)
    return bool(steps) and all(step.opcode == _CALL for step in steps)


def _wrapped(module: Module, function: int, constructors: int) -> int:
    """What a linker wrapped, where nobody initializes: between constructors and destructors; -1 for other functions."""
    func_type = module.function_type(function)
    before = [(_CALL, (constructors,))] + [(_LOCAL_GET, (place,)) for place in range(len(func_type.params))]
    steps = [(step.opcode, step.immediates) for step in _steps(module, function)]
    called = [values[0] for opcode, values in steps[len(before) :] if opcode == _CALL]
    if steps[: len(before)] != before or not 1 <= len(called) == len(steps) - len(before) <= 2:
        return -1
    inner, *destructors = (index for index in called if isinstance(index, int))
    same = module.function_type(inner) == func_type and all(module.function_type(one) == _ENTRY for one in destructors)
    return inner if same else -1


def _steps(module: Module, function: int) -> list[Instruction]:
    """The instructions, without the last `end`, of a small function without locals; none of any other."""
    place = function - module.imported_function_count
    body = module.codes[place].body if place >= 0 else b""
    if not body or body[0] or len(body) > _MAX_WRAPPER_BYTES:
        return []
    return list(instructions(body, 1))[:-1]


# -------------------------------------------------------------------------------------------------------------- exports


_UNDERSCORED = re.compile(r"(canister_(?:update|query|composite_query))_(.+)", re.DOTALL)
_MAX_NAME = 200
"""Characters of a name in a message."""
_HOOKS = ("canister_init", "canister_post_upgrade")


def renamed_exports(originals: Iterable[Export]) -> tuple[tuple[Export, ...], dict[str, str]]:
    """Exports by the names of canister methods, and which were changed."""
    exports = tuple(originals)
    renamed = {
        item.name: f"{match[1]} {match[2]}"
        for item in exports
        if item.kind is ExternKind.FUNCTION and (match := _UNDERSCORED.fullmatch(item.name))
    }
    names = {item.name for item in exports}
    for old, new in renamed.items():
        if new in names:
            raise UnsupportedError(
                f"the module exports both {old[:_MAX_NAME]!r} and {new[:_MAX_NAME]!r}, which are one method"
            )
    return tuple(replace(item, name=renamed.get(item.name, item.name)) for item in exports), renamed


@final
@dataclass(frozen=True)
class Hooks:
    """What entry points do besides: initialise first, where that is their place, and print what is held at their end.

    Args:
        module: whose exports they are.
        appendix: what is appended to it.
        flush: the function that prints what is held of a line, where anything prints.
        redirects: the stand-in of each replaced import, which its exports show from now on.
        initialize: the function that has to run before any other.
    """

    module: Module
    appendix: Appendix
    flush: int | None
    redirects: Mapping[int, int]
    initialize: int | None

    def added_to(self, exports: tuple[Export, ...]) -> tuple[Export, ...]:
        """The exports, and hooks of the kinds that are missing."""
        changed = tuple(map(self._changed, exports))
        if self.initialize is None:
            return changed
        for item in exports:
            if item.name in _HOOKS and item.kind is not ExternKind.FUNCTION:
                raise UnsupportedError(f"export {item.name} is a {item.kind.name.lower()}, expected a function")
        missing = [name for name in _HOOKS if all(item.name != name for item in exports)]
        body = op("call", self.initialize) + self._last
        alone = self.appendix.append(_ENTRY, body) if missing else 0
        return changed + tuple(Export(name, ExternKind.FUNCTION, alone) for name in missing)

    def _changed(self, item: Export) -> Export:
        if item.kind is not ExternKind.FUNCTION:
            return item
        index = self.redirects.get(item.index, item.index)
        first = self._first(item)
        is_entry = item.name.startswith("canister_") and self.module.function_type(item.index) == _ENTRY
        if is_entry and (first or self._last):
            index = self.appendix.append(_ENTRY, first + op("call", index) + self._last)
        return item if index == item.index else replace(item, index=index)

    def _first(self, item: Export) -> bytes:
        if self.initialize is None or item.name not in _HOOKS or _runs(self.module, item.index, self.initialize):
            return b""
        return op("call", self.initialize)

    @property
    def _last(self) -> bytes:
        return b"" if self.flush is None else op("call", self.flush)


def _runs(module: Module, function: int, callee: int) -> bool:
    """Whether a function is, or calls directly, another one: who initialises by hand must not do it twice."""
    place = function - module.imported_function_count
    if function == callee or place < 0:
        return function == callee
    body = module.codes[place].body
    return any(step.opcode == _CALL and step.immediates == (callee,) for step in instructions(body, locals_end(body)))
