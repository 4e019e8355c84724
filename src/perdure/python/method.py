"""The methods of a class that is a canister: as they were marked, and ready to be entered."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from perdure.candid import Codec
from perdure.candid.types import Value, quote
from perdure.data.moving import ROWS_OF_A_STEP, FormerTable, former_table
from perdure.python.variables import Variable, structure_of
from perdure.system_api import SystemApi
from perdure.values.annotations import Annotations, Shape

__all__ = ["MOVING", "TIMER", "Mark", "Migration", "PythonMethod", "types_of"]

_HOOKS: Final = {
    "init": "canister_init",
    "pre_upgrade": "canister_pre_upgrade",
    "post_upgrade": "canister_post_upgrade",
    "heartbeat": "canister_heartbeat",
    "timer": "canister_global_timer",
    "inspect_message": "canister_inspect_message",
}
TIMER: Final = _HOOKS["timer"]
MOVING: Final = (TIMER, _HOOKS["post_upgrade"])
"""What a class exports that takes rows over in steps."""
_MODES: Final = {"query": " query", "composite_query": " composite_query", "update": ""}


@final
@dataclass(frozen=True, slots=True)
class Mark:
    """What stands above a method."""

    kind: str
    name: str | None = None
    is_raw: bool = False
    rows: int | None = None


@final
class PythonMethod:
    """A method, ready to be entered."""

    def __init__(self, function: Callable[..., Any], mark: Mark, annotations: Annotations) -> None:
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
        return f"{quote(self.name)} : ({args}) -> ({types_of(self.results)}){_MODES[self.kind]}"

    def decode(self, arg: bytes) -> list[Value]:
        """The arguments in a message.

        Raises:
            MalformedError: it is not of their types.
        """
        if self.is_raw:
            return [arg]
        if not self.args and (self.is_hook or not arg):
            return []
        return [shape.from_candid(value) for shape, value in zip(self.args, self._takes.decode(arg), strict=True)]

    def respond(self, api: SystemApi, result: object) -> None:
        """Reply with what the method returned."""
        if self.kind == "inspect_message":
            if result:
                api.accept_message()
        elif not self.is_hook:
            api.msg_reply_data_append(self._encoded(result))
            api.msg_reply()

    def _encoded(self, result: Value) -> bytes:
        if self.is_raw:
            return bytes(result or b"")
        values = [result] if len(self.results) == 1 else list(result or ())
        return self._gives.encode([shape.to_candid(one) for shape, one in zip(self.results, values, strict=True)])


def _results(annotation: object, annotations: Annotations) -> list[Shape]:
    """A tuple is several results, as in Motoko; as an argument or within something it is a record."""
    if annotation in (None, type(None)):
        return []
    arguments = typing.get_args(annotation)
    several = typing.get_origin(annotation) is tuple and Ellipsis not in arguments
    return [annotations.shape(one) for one in (arguments if several else (annotation,))]


def types_of(shapes: Sequence[Shape]) -> str:
    """As in a ``.did`` file."""
    return ", ".join(str(shape.type) for shape in shapes)


@final
@dataclass(frozen=True, slots=True)
class Migration:
    """A method that takes over stable variables and tables of the code before.

    Attributes:
        function: the method.
        variables: what it takes over, as it was declared; their memories are where the code before had them.
        tables: those that it takes over; the catalogue says where they are.
        step_rows: rows that it is called with at once, in a message of their own; 0: it runs in the upgrade.
    """

    function: Callable[..., None]
    variables: tuple[Variable, ...]
    tables: tuple[FormerTable, ...] = ()
    step_rows: int = 0

    @classmethod
    def of(cls, function: Callable[..., Any], mark: Mark, annotations: Annotations) -> Migration:
        """Read off a method.

        Raises:
            TypeError: its parameters are no stable variables; it takes rows in steps, and something else.
        """
        name = function.__qualname__
        if inspect.iscoroutinefunction(function):
            raise TypeError(f"{name}: a migration calls nobody, so it is no async def")
        hints = annotations.hints(function)
        found: list[Variable] = []
        tables: list[FormerTable] = []
        for parameter in list(inspect.signature(function).parameters)[1:]:
            former = former_table(parameter, hints.get(parameter), annotations)
            if former is not None:
                tables.append(former)
                continue
            shape = structure_of(parameter, hints.get(parameter), annotations)
            if shape is None:
                raise TypeError(
                    f"{name}: parameter {parameter!r} is named and annotated as a stable variable of the "
                    "code before: StableBTreeMap[str, nat64], Table[User], Rows[User] ..."
                )
            found.append(Variable(parameter, shape[0], (), shape[1]))
        if not found and not tables:
            raise TypeError(f"{name}: a migration has a parameter for each variable that it takes over")
        in_steps = any(one.in_steps for one in tables)
        if in_steps and len(found) + len(tables) > 1:
            raise TypeError(f"{name}: a migration in steps takes the rows of one table, found {len(found + tables)}")
        if mark.rows is not None and not (in_steps and type(mark.rows) is int and mark.rows > 0):
            raise TypeError(f"{name}: rows={mark.rows!r} is how many a step takes of `Rows[...]`, 1 at least")
        return cls(function, tuple(found), tuple(tables), (mark.rows or ROWS_OF_A_STEP) if in_steps else 0)

    @property
    def name(self) -> str:
        """Of the method, which the catalogue knows it by."""
        return self.function.__name__
