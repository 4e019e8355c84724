"""The store that rdflib reads and writes: triples in stable memory, terms as N-Triples writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from reprlib import repr as brief
from typing import Any, Final, Protocol, final

from rdflib import BNode, Graph, Literal, URIRef
from rdflib.plugins.sparql.algebra import translateQuery, translateUpdate, traverse
from rdflib.plugins.sparql.parser import parseQuery, parseUpdate
from rdflib.query import Result
from rdflib.store import Store
from rdflib.util import from_n3

from perdure.errors import UnsupportedError

__all__ = ["StableGraph", "StableStore"]

# What would open a file, or a connection: a message has its canister's memory and nothing else.
_ELSEWHERE: Final = {"ServiceGraphPattern": "SERVICE", "Load": "LOAD"}


class TermTriples(Protocol):
    """What the store has to know of triples."""

    def add(self, triple: tuple[str, str, str]) -> None:
        """Add one."""
        ...

    def remove(self, pattern: tuple[str | None, str | None, str | None]) -> int:
        """Remove what matches."""
        ...

    def match(self, pattern: tuple[str | None, str | None, str | None]) -> Iterator[tuple[str, str, str]]:
        """What matches."""
        ...

    def __len__(self) -> int: ...


@lru_cache(65_536)
def _text(term: Any) -> str:
    if isinstance(term, URIRef):
        return f"<{term}>"
    if isinstance(term, BNode):
        return f"_:{term}"
    if isinstance(term, Literal):
        # One line, whatever is in it: the long form of N3 has others.
        quoted = term.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
        suffix = f"@{term.language}" if term.language else f"^^<{term.datatype}>" if term.datatype else ""
        return f'"{quoted}"{suffix}'
    raise ValueError(f"{brief(term)} is no term that triples have: an IRI, a blank node or a literal")


@lru_cache(65_536)
def _term(text: str) -> Any:
    if text.startswith("<"):
        return URIRef(text[1:-1])
    if text.startswith("_:"):
        return BNode(text[2:])
    return from_n3(text)


@final
class StableStore(Store):
    """One graph, without contexts; what is added stays with the message."""

    context_aware = False
    formula_aware = False
    graph_aware = False
    transaction_aware = False

    def __init__(self, triples: TermTriples) -> None:
        super().__init__()
        self._triples = triples
        self._namespaces: dict[str, Any] = {}

    def add(self, triple: Any, context: Any = None, quoted: bool = False) -> None:
        """Add a triple."""
        subject, predicate, object_ = map(_text, triple)
        self._triples.add((subject, predicate, object_))
        super().add(triple, context, quoted)

    def remove(self, triple: Any, context: Any = None) -> None:
        """Remove what matches."""
        self._triples.remove(_pattern(triple))
        super().remove(triple, context)

    def triples(self, triple_pattern: Any, context: Any = None) -> Iterator[Any]:
        """What matches."""
        for found in self._triples.match(_pattern(triple_pattern)):
            yield tuple(map(_term, found)), iter(())

    def __len__(self, context: Any = None) -> int:
        return len(self._triples)

    def bind(self, prefix: str, namespace: Any, override: bool = True) -> None:
        """Name a namespace, for this object only."""
        if override or prefix not in self._namespaces:
            self._namespaces[prefix] = namespace

    def namespace(self, prefix: str) -> Any:
        """What a prefix stands for."""
        return self._namespaces.get(prefix)

    def prefix(self, namespace: Any) -> Any:
        """What stands for a namespace."""
        return next((one for one, found in self._namespaces.items() if found == namespace), None)

    def namespaces(self) -> Iterator[Any]:
        """All of them."""
        return iter(self._namespaces.items())


def _pattern(terms: Any) -> tuple[str | None, str | None, str | None]:
    subject, predicate, object_ = (None if one is None else _text(one) for one in terms)
    return subject, predicate, object_


@final
class StableGraph(Graph):
    """A graph whose SPARQL reads and writes its own triples alone."""

    def query(self, query_object: Any, *arguments: Any, **options: Any) -> Result:
        """What a query finds.

        Raises:
            UnsupportedError: it asks another endpoint.
        """
        if isinstance(query_object, str):
            names = self._names(arguments[2:3], options)
            query_object = translateQuery(parseQuery(query_object), options.get("base"), names)
        _only_here(query_object.algebra)
        return super().query(query_object, *arguments, **options)

    def update(self, update_object: Any, *arguments: Any, **options: Any) -> None:
        """Change what an update says.

        Raises:
            UnsupportedError: it takes triples from a file or another endpoint.
        """
        if isinstance(update_object, str):
            names = self._names(arguments[1:2], options)
            update_object = translateUpdate(parseUpdate(update_object), options.get("base"), names)
        _only_here(update_object.algebra)
        super().update(update_object, *arguments, **options)

    def _names(self, by_place: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
        """The namespaces that a caller gives, by place or by name; else those of the graph."""
        given = by_place[0] if by_place else options.get("initNs")
        return given or dict(self.namespaces())


def _only_here(algebra: Any) -> None:
    def look(node: Any) -> None:
        found = _ELSEWHERE.get(getattr(node, "name", ""))
        if found is not None:
            raise UnsupportedError(
                f"SPARQL reads and writes these triples alone, found {found}: "
                "take what is elsewhere in by an outcall, and `graph.parse(data=...)`"
            )

    traverse(algebra, look)
