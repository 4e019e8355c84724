"""`Documents`: mappings of whatever shape by an id, found by filters as Mongo has them, with indexes on paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as brief
from typing import Any, Final, Generic, TypeAlias, TypeVar, final

from perdure.data.catalogue import Column, Model, Tree
from perdure.data.declare import TableOptions, declared_table
from perdure.data.evolution import DeclaredModel
from perdure.data.filters import MISSING, Condition, at_path, changed, check_names, compiled
from perdure.data.finding import Projection, Sort, in_order, projected
from perdure.data.parts import TableFault
from perdure.data.rows import format_of
from perdure.data.store import Store
from perdure.data.tables import Index, Table
from perdure.errors import MalformedError
from perdure.values.annotations import Annotations
from perdure.values.format import Format, Value

__all__ = ["DocumentOptions", "Documents", "documents"]

K = TypeVar("K")

Document: TypeAlias = dict[str, Any]
Filter: TypeAlias = Mapping[str, Any]

_ID: Final = "id"
_DOCUMENT: Final = "document"


@final
@dataclass(frozen=True, slots=True)
class DocumentOptions:
    """What `documents` has said."""

    indexes: tuple[str, ...] = ()


def documents(*, index: Sequence[str] = ()) -> Any:
    """More about `Documents` than the type says.

        people: Documents[str] = documents(index=["address.city", "age"])

    Args:
        index: paths, with dots between names; each is a tree of its own, built when it is added.
    """
    return DocumentOptions((index,) if isinstance(index, str) else tuple(index))


@final
class Documents(Generic[K]):
    """Documents by id, in its order.

    >>> from perdure.data import Documents, Store, documents
    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import MemoryManager
    >>> store = Store(MemoryManager.create(BytesMemory()).get)
    >>> people = Documents.declare(store, "people", str, documents(index=["address.city"]))
    >>> people["ada"] = {"age": 36, "address": {"city": "Zug"}}
    >>> people["bob"] = {"age": 41, "tags": ["a", "b"]}
    >>> [key for key, _ in people.find({"address.city": "Zug", "age": {"$lt": 40}})]
    ['ada']
    >>> people.update("bob", {"$inc": {"age": 1}, "$push": {"tags": "c"}})
    >>> people["bob"]
    {'age': 42, 'tags': ['a', 'b', 'c']}
    """

    def __init__(
        self, store: Store, model: Model, paths: Sequence[str] = (), formats: Mapping[str, Format] | None = None
    ) -> None:
        """Use `declare`."""
        places = {one.name: at for at, one in enumerate(model.columns) if one.state != "unused"}
        self._document = places[_DOCUMENT]
        self._paths = {path: places[_column(path)] for path in paths}

        def derive(row: list[Value]) -> None:
            for path, at in self._paths.items():
                row[at] = _indexed(at_path(row[self._document], path))

        self.table: Table[dict[str, Any]] = Table(store, model, None, formats, derive)
        self._id = self.table.cells[places[_ID]]
        self._cell = self.table.cells[self._document]
        self._count = len(model.columns)
        self._indexes = {path: self.table.by[_column(path)] for path in paths}

    @classmethod
    def declare(cls, store: Store, name: str, id_type: Any, options: Any = None) -> Documents[Any]:
        """The documents of a name, made where there are none, indexed as declared."""
        return cls.declaration(name, (id_type,), options, Annotations({})).open(store)

    @classmethod
    def declaration(
        cls, name: str, arguments: tuple[Any, ...], detail: object, annotations: Annotations
    ) -> DocumentsDeclaration:
        """What a class says with ``name: Documents[ID] = detail``.

        Raises:
            TypeError: it contradicts itself.
        """
        options = detail if isinstance(detail, DocumentOptions) else DocumentOptions()
        own = format_of(arguments[0] if arguments else str, annotations)
        derived = tuple(map(_column, options.indexes))
        columns = [Column(_ID, own.name), Column(_DOCUMENT, "any"), *(Column(one, "any", True) for one in derived)]
        table_options = TableOptions((_ID,), tuple((one,) for one in derived), derived=derived)
        declared = declared_table(name, columns, table_options, kind="documents")
        return DocumentsDeclaration(declared, options.indexes, {_ID: own})

    def __repr__(self) -> str:
        return f"<Documents {self.table.name}: {len(self)}, indexed by {', '.join(self._paths) or 'nothing'}>"

    def __len__(self) -> int:
        return len(self.table)

    def __contains__(self, key: object) -> bool:
        return key in self.table

    def __iter__(self) -> Iterator[K]:
        return (key for key, _ in self.items())

    def items(self) -> Iterator[tuple[K, Document]]:
        """Ids and documents."""
        for row in self.table.plain_range():
            yield self._pair(row)

    def _pair(self, row: Sequence[Value]) -> tuple[K, Document]:
        return self._id.from_plain(row[0]), row[self._document]

    def __getitem__(self, key: K) -> Document:
        found: Document = self.table[key][_DOCUMENT]
        return found

    def get(self, key: K, default: Any = None) -> Any:
        """The document of an id, or `default`."""
        found = self.table.get(key)
        return default if found is None else found[_DOCUMENT]

    def __setitem__(self, key: K, document: Mapping[str, Any]) -> None:
        if not isinstance(document, Mapping):
            raise ValueError(f"a document is a mapping, found {brief(document)}")
        row: list[Value] = [None] * self._count
        row[0], row[self._document] = self._id.to_plain(key), self._cell.to_plain(dict(document))
        check_names(row[self._document])
        self.table.put_plain(row)

    def __delitem__(self, key: K) -> None:
        del self.table[key]

    def remove(self, key: K) -> bool:
        """Remove the document of an id; whether there was one."""
        return self.table.remove(key)

    def clear(self) -> None:
        """Remove all."""
        self.table.clear()

    def find(
        self,
        condition: Filter | None = None,
        projection: Projection | None = None,
        *,
        sort: Sort | None = None,
        skip: int = 0,
        limit: int | None = None,
    ) -> Iterator[tuple[K, Document]]:
        """Ids and documents that match, by an index where the filter has one's path.

        ``{"age": 36}``, ``{"address.city": {"$in": ["Zug", "Bern"]}}``, ``{"age": {"$gte": 18, "$lt": 65}}``,
        ``{"$or": [..., ...]}``, ``{"name": {"$exists": False}}``; `perdure.data.filters` has all of them.

        Args:
            condition: the filter; without one all.
            projection: what of each, ``["name", "address.city"]`` or ``{"password": 0}``; without one the whole.
            sort: their order, ``"age"``, ``"-age"``, ``[("city", 1), ("age", -1)]``; without one any.
            skip: how many of the first ones are left out.
            limit: how many at most.

        Raises:
            ValueError: an operator that there is none of, an order or a projection that is none.
        """
        wanted, of = compiled({} if condition is None else condition), projected(projection)
        found = (pair for pair in self._candidates(wanted) if wanted.matches(pair[1]))
        return ((key, of(document)) for key, document in in_order(found, sort, skip, limit))

    def find_one(
        self, condition: Filter | None = None, projection: Projection | None = None, *, sort: Sort | None = None
    ) -> tuple[K, Document] | None:
        """The first that matches, in an order where there is one."""
        return next(self.find(condition, projection, sort=sort, limit=1), None)

    def count(self, condition: Filter | None = None) -> int:
        """How many match."""
        return sum(1 for _ in self.find(condition))

    def _candidates(self, wanted: Condition) -> Iterator[tuple[K, Document]]:
        """Documents among which are all that match."""
        for path, index in self._indexes.items():
            narrowed = wanted.narrowed(path)
            if narrowed is not None:
                for low, high in narrowed:
                    yield from self._between(index, low, high)
                return
        yield from self.items()

    def _between(self, index: Index[Any], low: Value, high: Value) -> Iterator[tuple[K, Document]]:
        """Those whose value at a path lies between two, both within."""
        for key in index.keys_between(_indexed(low), _indexed(high)):
            row = self.table.plain_row(key)
            if row is None:
                raise MalformedError("an index has a document that is not there: `reindex()` mends it")
            yield self._pair(row)

    def update(self, key: K, change: Mapping[str, Any]) -> None:
        """Change a document, all of it or nothing: ``$set``, ``$unset``, ``$inc``, ``$push``, ``$pull`` by path.

        Raises:
            KeyError: there is none.
            ValueError: no such operator, or one that does not fit what is there.
        """
        self[key] = changed(self[key], change)

    def check(self) -> list[TableFault]:
        """Where documents and indexes are not in step."""
        return self.table.check()

    def reindex(self) -> None:
        """Build every index anew."""
        self.table.reindex()


def _column(path: str) -> str:
    """The column in which an index has the values at a path."""
    name = path.replace(".", "_")
    if not all(part.isidentifier() for part in path.split(".")) or name in (_ID, _DOCUMENT):
        raise TypeError(f"a path is names with dots between them, neither id nor document alone, found {path!r}")
    return name


def _indexed(value: Value) -> Value:
    """A value as an index has it: numbers of all kinds in one order, nothing of lists and mappings."""
    if value is MISSING or isinstance(value, list | tuple | dict):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value + 0.0 if isinstance(value, float) else value  # the two zeros are equal


@final
@dataclass(frozen=True)
class DocumentsDeclaration:
    """Documents as a class declares them, ready to be opened."""

    declared: DeclaredModel
    paths: tuple[str, ...]
    formats: Mapping[str, Format]

    def open(self, store: Store) -> Documents[Any]:
        """The documents in a store, made or grown where they have to be."""

        def fill(grown: Model, tree: Tree) -> None:
            Documents(store, grown, self.paths, self.formats).table.fill(tree)

        return Documents(store, store.declare(self.declared, fill), self.paths, self.formats)
