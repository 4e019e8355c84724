"""A verb as a graph of networkx, which reads the trees whenever it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, final

import networkx as nx

__all__ = ["graph_of"]


class Relation(Protocol):
    """What a graph has to know of a verb."""

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


@final
class _Edges(Mapping[Any, dict[str, Any]]):
    """The neighbours of a node one way, each with the attributes of the edge."""

    def __init__(self, neighbours: Callable[[], Iterator[Any]], data: Callable[[Any], Any]) -> None:
        self._neighbours = neighbours
        self._data = data

    def __getitem__(self, node: Any) -> dict[str, Any]:
        found = self._data(node)  # raises KeyError where there is none
        return {} if found is None else {"data": found}

    def __iter__(self) -> Iterator[Any]:
        return self._neighbours()

    def __len__(self) -> int:
        return sum(1 for _ in self._neighbours())


@final
class _Nodes(Mapping[Any, dict[str, Any]]):
    """All nodes; they have no attributes."""

    def __init__(self, relation: Relation) -> None:
        self._relation = relation

    def __getitem__(self, node: Any) -> dict[str, Any]:
        if node not in self:
            raise KeyError(node)
        return {}

    def __contains__(self, node: object) -> bool:
        try:
            found = next(self._relation.objects(node), None)
            return found is not None or next(self._relation.subjects(node), None) is not None
        except ValueError:
            return False

    def __iter__(self) -> Iterator[Any]:
        return self._relation.nodes()

    def __len__(self) -> int:
        return sum(1 for _ in self)


@final
class _Adjacency(Mapping[Any, _Edges]):
    def __init__(self, nodes: _Nodes, edges: Callable[[Any], _Edges]) -> None:
        self._nodes = nodes
        self._edges = edges

    def __getitem__(self, node: Any) -> _Edges:
        if node not in self._nodes:
            raise KeyError(node)
        return self._edges(node)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


def graph_of(relation: Relation) -> Any:
    """A frozen graph over a verb that is navigable both ways."""
    graph: Any = nx.DiGraph()
    nodes = _Nodes(relation)
    out = _Adjacency(nodes, lambda one: _Edges(lambda: relation.objects(one), lambda other: relation.data(one, other)))
    into = _Adjacency(
        nodes, lambda one: _Edges(lambda: relation.subjects(one), lambda other: relation.data(other, one))
    )
    graph._node = nodes
    graph._adj = graph._succ = out
    graph._pred = into
    return nx.freeze(graph)
