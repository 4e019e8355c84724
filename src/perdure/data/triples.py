"""`Triples`: RDF in three stable B-trees, an rdflib store; SPARQL reads and writes it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from perdure.data.catalogue import Column, Model, Tree
from perdure.data.declare import TableOptions, declared_table
from perdure.data.evolution import DeclaredModel
from perdure.data.parts import TableFault
from perdure.data.store import Store
from perdure.data.tables import Table
from perdure.errors import UnsupportedError
from perdure.values.annotations import Annotations
from perdure.values.packed import pack, prefix_end, unpack

if TYPE_CHECKING:
    import rdflib

__all__ = ["Triples"]

_COLUMNS: Final = ("subject", "predicate", "object")
_OPTIONS: Final = TableOptions(_COLUMNS, (("predicate", "object"), ("object", "subject")))

Pattern = tuple[str | None, str | None, str | None]
"""Terms as N-Triples writes them; `None` for any."""


@final
class Triples:
    """Triples of terms, each written as in N-Triples: ``<https://...>``, ``"text"@en``, ``_:blank``.

    `graph` is an `rdflib.Graph` over them (extra ``data``), with SPARQL and all formats that rdflib has; SPARQL's
    ``SERVICE`` and ``LOAD`` are refused, and a statement works within the limits that SQL has (`graph.limits`).
    `match`, `add` and `remove` work without it.
    """

    def __init__(self, store: Store, model: Model) -> None:
        """Use `declare`."""
        self.table: Table[dict[str, Any]] = Table(store, model)
        self._trees = {part.key: part.tree for part in self.table.parts}

    @classmethod
    def declare(cls, store: Store, name: str) -> Triples:
        """The triples of a name, made where there are none."""
        return cls.declaration(name, (), None, Annotations({})).open(store)

    @classmethod
    def declaration(
        cls, name: str, arguments: tuple[Any, ...], detail: object, annotations: Annotations
    ) -> TriplesDeclaration:
        """What a class says with ``name: Triples``."""
        columns = [Column(one, "String") for one in _COLUMNS]
        return TriplesDeclaration(declared_table(name, columns, _OPTIONS, kind="triples"))

    def __repr__(self) -> str:
        return f"<Triples {self.table.name}: {len(self)}>"

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, triple: object) -> bool:
        return isinstance(triple, tuple) and triple in self.table

    def __iter__(self) -> Iterator[tuple[str, str, str]]:
        return self.match((None, None, None))

    def add(self, triple: tuple[str, str, str]) -> None:
        """Add a triple, if it is not there."""
        self.table.put_plain(list(triple))

    def remove(self, pattern: Pattern) -> int:
        """Remove what matches; how many."""
        found = list(self.match(pattern))
        for one in found:
            self.table.delete_packed(pack(one))
        return len(found)

    def match(self, pattern: Pattern) -> Iterator[tuple[str, str, str]]:
        """The triples that match, by the tree whose keys begin with what is known."""
        known = {at for at, term in enumerate(pattern) if term is not None}
        order = next(one for one in self._trees if set(one[: len(known)]) == known)
        prefix = pack([pattern[at] for at in order[: len(known)]])
        # SPARQL deletes while it reads.
        for key, _ in self._trees[order].steady_range(prefix or None, prefix_end(prefix)):
            found = dict(zip(order, unpack(key), strict=True))
            yield found[0], found[1], found[2]

    def clear(self) -> None:
        """Remove all."""
        self.table.clear()

    def transaction(self) -> AbstractContextManager[None]:
        """Writes within are one: on an exception none of them stays."""
        return self.table.store.journal.transaction()

    def check(self) -> list[TableFault]:
        """Where the three trees are not in step."""
        return self.table.check()

    @property
    def graph(self) -> rdflib.Graph:
        """An rdflib graph over these triples; what it is told is written here. Each has `limits` of its own."""
        try:
            from perdure.data.rdf import StableGraph, StableStore
        except ImportError as error:
            raise UnsupportedError("a graph needs `pip install 'perdure[data]'`").coded("extra-missing") from error
        return StableGraph(StableStore(self))


@final
@dataclass(frozen=True)
class TriplesDeclaration:
    """Triples as a class declares them, ready to be opened."""

    declared: DeclaredModel

    def open(self, store: Store) -> Triples:
        """The triples in a store, made where there are none."""

        def fill(grown: Model, tree: Tree) -> None:
            Table(store, grown).fill(tree)

        return Triples(store, store.declare(self.declared, fill))
