"""What both readers of Motoko's stable variables share: values on their way, types by name and hash, loops in them.

A type is compiled once into a function that reads a value of it; what is read for each value is the value alone. Only
types that contain themselves can be deeper than they are long, so only their functions begin a value and hand it out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import GeneratorType
from typing import Any, Final, TypeAlias, TypeVar, final

from perdure.candid import field_hash
from perdure.candid.types import Some
from perdure.values.motoko_types import Applied, Member, Object, Option, Primitive, StableTypes, Type, VariantType

__all__ = ["Reference", "RegionValue", "Resolver", "Steps", "finished", "loops", "optional"]


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """Something mutable that was met before: the number of it, from 0, in the order in which they are read."""

    number: int

    def to_json(self) -> dict[str, int]:
        """As it is shown."""
        return {"reference": self.number}


@final
@dataclass(frozen=True, slots=True)
class RegionValue:
    """A region of stable memory: its number, and its size in Wasm pages."""

    number: int
    wasm_pages: int

    def to_json(self) -> dict[str, int]:
        """As it is shown."""
        return {"region": self.number, "wasm_pages": self.wasm_pages}


Steps: TypeAlias = Generator[Any, Any, Any]
"""A value with parts on its way: it yields those that have parts themselves, and is given what they are.

Lists are as deep as they are long, so nothing here may recurse.
"""


def finished(begun: Any) -> Any:
    """A value, all of its parts included."""
    if begun.__class__ is not GeneratorType:
        return begun
    stack, value = [begun], None
    while stack:
        try:
            part = stack[-1].send(value)
        except StopIteration as ended:
            stack.pop()
            value = ended.value
            continue
        if part.__class__ is GeneratorType:
            stack.append(part)
            value = None
        else:
            value = part
    return value


def optional(inner: Type | None, begin: Callable[..., Any]) -> Callable[..., Any]:
    """What begins the content of an option: marked (`Some`) where null would say two things, as in options of options.

    Args:
        inner: the type of the content, which is no name; `None` if nobody knows.
        begin: begins the content.
    """
    is_nested = isinstance(inner, Option)
    if not (is_nested or inner is None or inner in _NULLS):
        return begin

    def marked(*place: Any) -> Any:
        value = begin(*place)
        if value.__class__ is GeneratorType:
            return _marked(value, is_nested)
        return Some(value) if is_nested or value is None else value

    return marked


def _marked(begun: Steps, is_nested: bool) -> Steps:
    value = yield begun
    return Some(value) if is_nested or value is None else value


_NULLS: Final = (Primitive("Null"), Primitive("Any"))
_Node = TypeVar("_Node", bound=Hashable)


def loops(graph: Mapping[_Node, Sequence[_Node]]) -> dict[_Node, int]:  # noqa: C901 -- Tarjan's algorithm, as it is
    """The nodes that lead back to themselves, each with the number of the loops that it shares with others."""
    order: dict[_Node, int] = {}
    lowest: dict[_Node, int] = {}
    path: list[_Node] = []
    on_path: set[_Node] = set()
    found: dict[_Node, int] = {}

    def close(node: _Node) -> None:
        component: list[_Node] = []
        while not component or component[-1] != node:
            component.append(path.pop())
            on_path.discard(component[-1])
        if len(component) > 1 or node in graph[node]:
            found.update(dict.fromkeys(component, order[node]))

    for root in graph:
        if root in order:
            continue
        pending: list[tuple[_Node, int]] = [(root, 0)]
        while pending:
            node, at = pending.pop()
            if at == 0:
                order[node] = lowest[node] = len(order)
                path.append(node)
                on_path.add(node)
            elif graph[node][at - 1] in on_path:
                lowest[node] = min(lowest[node], lowest[graph[node][at - 1]])
            while at < len(graph[node]) and graph[node][at] in order:
                if graph[node][at] in on_path:
                    lowest[node] = min(lowest[node], order[graph[node][at]])
                at += 1
            if at < len(graph[node]):
                pending += [(node, at + 1), (graph[node][at], 0)]
            elif lowest[node] == order[node]:
                close(node)
    return found


@final
class Resolver:
    """What types stand for, and their members by hash."""

    def __init__(self, types: StableTypes, hash_bits: int = (1 << 32) - 1) -> None:
        self.types = types
        self.hash_bits: Final = hash_bits
        self._resolved: dict[Type, Type] = {}
        self._members: dict[Type, dict[int, Member]] = {}

    def resolve(self, type_: Type) -> Type:
        """A type that is no name."""
        if not isinstance(type_, Applied):
            return type_
        found = self._resolved.get(type_)
        if found is None:
            found = self._resolved[type_] = self.types.resolve(type_)
        return found

    def members(self, type_: Type | None) -> dict[int, Member]:
        """Fields or cases of a type by their hashes."""
        if not isinstance(type_, Object | VariantType):
            return {}
        found = self._members.get(type_)
        if found is None:
            found = {field_hash(one.name) & self.hash_bits: one for one in type_.members}
            self._members[type_] = found
        return found
