"""A verb as a graph of networkx, which reads the trees, and remembers what it has read until they change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol, final

import networkx as nx

__all__ = ["graph_of"]


class Relation(Protocol):
    """What a graph has to know of a verb."""

    @property
    def changes(self) -> int:
        """Another number after each write."""
        ...

    def __contains__(self, pair: object) -> bool: ...

    def objects(self, subject: Any) -> Iterator[Any]:
        """The objects of a subject."""
        ...

    def subjects(self, object_: Any) -> Iterator[Any]:
        """The subjects of an object."""
        ...

    def nodes(self) -> Iterator[Any]:
        """All of both."""
        ...

    def data(self, subject: Any, object_: Any) -> Any:
        """The value of a pair."""
        ...


_MOST_KEPT: Final = 100_000
"""Neighbours that a view remembers each way."""


@final
class _Neighbours:
    """Those of each node one way: algorithms ask again and again for the same."""

    def __init__(self, relation: Relation, read: Callable[[Any], Iterator[Any]]) -> None:
        self._relation = relation
        self._read = read
        self._kept: dict[Any, list[Any]] = {}
        self._count = 0
        self._changes = relation.changes

    def of(self, node: Any) -> list[Any]:
        """In their order.

        Raises:
            ValueError: it is of another type than the verb's.
        """
        if self._changes != self._relation.changes or self._count > _MOST_KEPT:
            self._kept, self._count, self._changes = {}, 0, self._relation.changes
        found = self._kept.get(node)
        if found is None:
            found = self._kept[node] = list(self._read(node))
            self._count += 1 + len(found)
        return found


@final
class _Edges(Mapping[Any, dict[str, Any]]):
    """The neighbours of a node one way, each with the attributes of the edge."""

    def __init__(self, neighbours: _Neighbours, node: Any, data: Callable[[Any], Any]) -> None:
        self._neighbours = neighbours
        self._node = node
        self._data = data

    def __getitem__(self, other: Any) -> dict[str, Any]:
        found = self._data(other)  # raises KeyError where there is none
        return {} if found is None else {"data": found}

    def __iter__(self) -> Iterator[Any]:
        return iter(self._neighbours.of(self._node))

    def __len__(self) -> int:
        return len(self._neighbours.of(self._node))


@final
class _Nodes(Mapping[Any, dict[str, Any]]):
    """All nodes; they have no attributes."""

    def __init__(self, relation: Relation, out: _Neighbours, into: _Neighbours) -> None:
        self._relation = relation
        self._out, self._into = out, into

    def __getitem__(self, node: Any) -> dict[str, Any]:
        if node not in self:
            raise KeyError(node)
        return {}

    def __contains__(self, node: object) -> bool:
        try:
            return bool(self._out.of(node) or self._into.of(node))
        except ValueError:
            return False

    def __iter__(self) -> Iterator[Any]:
        return self._relation.nodes()

    def __len__(self) -> int:
        return sum(1 for _ in self)


@final
class _Adjacency(Mapping[Any, _Edges]):
    def __init__(self, nodes: _Nodes, neighbours: _Neighbours, data: Callable[[Any, Any], Any]) -> None:
        self._nodes = nodes
        self._neighbours = neighbours
        self._data = data

    def __getitem__(self, node: Any) -> _Edges:
        try:
            is_there = bool(self._neighbours.of(node)) or node in self._nodes
        except ValueError as error:
            raise KeyError(node) from error
        if not is_there:
            raise KeyError(node)
        return _Edges(self._neighbours, node, lambda other: self._data(node, other))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


_FROZEN: Final = {**nx.freeze(nx.DiGraph()).__dict__}
"""What a frozen graph has, which takes as long to make as a node's neighbours to read."""


def graph_of(relation: Relation) -> Any:
    """A frozen graph over a verb that is navigable both ways."""
    graph: Any = object.__new__(nx.DiGraph)
    graph.__dict__.update(_FROZEN, graph={}, __networkx_cache__={})
    objects, subjects = _Neighbours(relation, relation.objects), _Neighbours(relation, relation.subjects)
    nodes = _Nodes(relation, objects, subjects)
    out = _Adjacency(nodes, objects, relation.data)
    into = _Adjacency(nodes, subjects, lambda one, other: relation.data(other, one))
    graph._node = nodes
    graph._adj = graph._succ = out
    graph._pred = into
    return graph
