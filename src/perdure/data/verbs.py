"""`Verb`: a relation of subjects to objects, navigable both ways; a graph whose edges lie in stable memory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import GenericAlias
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from perdure.data.catalogue import Column, Model, Tree
from perdure.data.declare import TableOptions, declared_table
from perdure.data.evolution import DeclaredModel
from perdure.data.parts import TableFault
from perdure.data.rows import Cells, format_of
from perdure.data.store import Store
from perdure.data.tables import Table
from perdure.data.tree import PendingTree
from perdure.errors import UnsupportedError
from perdure.values.annotations import Annotations
from perdure.values.format import Format, Value
from perdure.values.packed import Uri, pack, prefix_end, unpack

if TYPE_CHECKING:
    import networkx

__all__ = ["Verb", "VerbOptions", "neighbourhood", "verb"]

S = TypeVar("S")
O = TypeVar("O")  # noqa: E741 -- a subject, and an object

_KEY: Final = ("subject", "object")
_MOST_PLAIN: Final = 65_536


@final
@dataclass(frozen=True, slots=True)
class VerbOptions:
    """What `verb` has said."""

    both: bool = True


def verb(*, both: bool = True) -> Any:
    """More about a `Verb` than its type says.

        likes: Verb[Uri, Uri] = verb()

    Args:
        both: navigable from objects to subjects as well, by a second tree.
    """
    return VerbOptions(both)


@final
class Verb(Generic[S, O]):
    """Pairs of a subject and an object, each once; with a third type in ``Verb[S, O, D]``, each with a value.

    >>> from perdure.data import Store, Verb
    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import MemoryManager
    >>> likes = Verb.declare(Store(MemoryManager.create(BytesMemory()).get), "likes", str, str)
    >>> likes.add("Ada", "Bob"), likes.add("Ada", "Eve"), likes.add("Eve", "Ada")
    (True, True, True)
    >>> list(likes.objects("Ada")), list(likes.subjects("Ada")), ("Bob", "Ada") in likes
    (['Bob', 'Eve'], ['Eve'], False)
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, arguments: Any) -> GenericAlias:
            """Of two types or three, which `Generic` has no word for."""
            return GenericAlias(cls, arguments)

    def __init__(self, store: Store, model: Model, formats: Mapping[str, Format] | None = None) -> None:
        """Use `declare`."""
        self.table: Table[dict[str, Any]] = Table(store, model, None, formats)
        self._subject, self._object, *data = self.table.cells
        self._data = data[0] if data else None
        first, *indexes = self.table.parts
        self._out = first.tree
        self._into = indexes[0].tree if indexes else None
        self._plain: dict[bytes, Value] = {}
        """What parts of keys are, by their bytes."""

    @classmethod
    def declare(
        cls, store: Store, name: str, subject: Any, object_: Any, data: Any = None, *, both: bool = True
    ) -> Verb[Any, Any]:
        """The verb of a name, made where there is none."""
        arguments = (subject, object_) if data is None else (subject, object_, data)
        return cls.declaration(name, arguments, VerbOptions(both), Annotations({})).open(store)

    @classmethod
    def declaration(
        cls, name: str, arguments: tuple[Any, ...], detail: object, annotations: Annotations
    ) -> VerbDeclaration:
        """What a class says with ``name: Verb[arguments] = detail``.

        Raises:
            TypeError: other than two types or three, or one that has no form in a key.
        """
        options = detail if isinstance(detail, VerbOptions) else VerbOptions()
        if len(arguments) not in (2, 3):
            raise TypeError(
                f"{name}: a verb is Verb[SUBJECT, OBJECT] or Verb[SUBJECT, OBJECT, DATA], found {arguments}"
            )
        names = (*_KEY, "data")[: len(arguments)]
        formats = {one: format_of(hint, annotations) for one, hint in zip(names, arguments, strict=True)}
        columns = [Column(one, found.name, one == "data") for one, found in formats.items()]
        indexes = (("object",),) if options.both else ()
        definitions = "\n".join(f"type {one} = {rec.type};" for one, rec in annotations.named.items())
        declared = declared_table(name, columns, TableOptions(_KEY, indexes), definitions, "verb")
        return VerbDeclaration(declared, formats)

    def __repr__(self) -> str:
        return f"<Verb {self.table.name}: {len(self)} pairs>"

    def __len__(self) -> int:
        return len(self.table)

    def __iter__(self) -> Iterator[tuple[S, O]]:
        for key, _ in self._out.range():
            yield self._pair(key)

    def __contains__(self, pair: object) -> bool:
        try:
            return isinstance(pair, tuple) and len(pair) == 2 and self._out.get(self._packed(*pair)) is not None
        except ValueError:
            return False

    @property
    def changes(self) -> int:
        """Another number after each write."""
        return self._out.changes + (self._into.changes if self._into is not None else 0)

    def _packed(self, subject: Value, object_: Value) -> bytes:
        return pack((self._subject.to_plain(subject), self._object.to_plain(object_)))

    def _pair(self, key: bytes) -> tuple[S, O]:
        subject, object_ = unpack(key)
        return self._subject.from_plain(subject), self._object.from_plain(object_)

    def add(self, subject: S, object_: O, data: Any = None) -> bool:
        """Add a pair, or give one another value; whether it was not there.

        Raises:
            ValueError: one of them is of another type, or there is no place for `data`.
        """
        if data is not None and self._data is None:
            raise ValueError(f"{self.table.name} keeps pairs without a value: declare Verb[..., ..., TYPE]")
        row = [self._subject.to_plain(subject), self._object.to_plain(object_)]
        if self._data is not None:
            row.append(self._data.to_plain(data))
        is_new = self._out.get(pack(row[:2])) is None
        self.table.put_plain(row)
        return is_new

    def remove(self, subject: S, object_: O) -> bool:
        """Remove a pair; whether it was there."""
        return self.table.delete_packed(self._packed(subject, object_))

    def data(self, subject: S, object_: O) -> Any:
        """The value of a pair; `None` where it has none.

        Raises:
            KeyError: there is no such pair.
        """
        row = self.table.plain_row(self._packed(subject, object_))
        if row is None:
            raise KeyError((subject, object_))
        return None if self._data is None else self._data.from_plain(row[2])

    def objects(self, subject: S) -> Iterator[O]:
        """The objects of a subject, in their order."""
        return self._behind(self._out, pack((self._subject.to_plain(subject),)), self._object)

    def subjects(self, object_: O) -> Iterator[S]:
        """The subjects of an object, in their order.

        Raises:
            UnsupportedError: it is navigable one way only.
        """
        return self._behind(self._reversed(), pack((self._object.to_plain(object_),)), self._subject)

    def _behind(self, tree: PendingTree, prefix: bytes, cells: Cells) -> Iterator[Any]:
        """The other part of each pair whose key begins so. A node comes again and again: it is unpacked once."""
        known, start, from_plain = self._plain, len(prefix), cells.from_plain
        for key, _ in tree.range(prefix, prefix_end(prefix)):
            part = key[start:]
            plain = known.get(part, known)
            if plain is known:
                if len(known) >= _MOST_PLAIN:
                    known.clear()
                plain = known[part] = unpack(part)[0]
            yield from_plain(plain)

    def _reversed(self) -> PendingTree:
        if self._into is None:
            raise UnsupportedError(f"{self.table.name} is navigable one way only: declare it with verb(both=True)")
        return self._into

    def clear(self) -> None:
        """Remove all pairs."""
        self.table.clear()

    def check(self) -> list[TableFault]:
        """Where the two trees are not in step."""
        return self.table.check()

    def reindex(self) -> None:
        """Build the second tree anew from the first."""
        self.table.reindex()

    def view(self) -> networkx.DiGraph:
        """A directed graph that reads the trees as it is asked; nothing can be changed by it. Extra ``data``."""
        try:
            from perdure.data.graph import graph_of
        except ImportError as error:
            raise UnsupportedError("a view needs `pip install 'perdure[data]'`").coded("extra-missing") from error
        return graph_of(self)

    def nodes(self) -> Iterator[Any]:
        """Everything that is a subject or an object, each once: subjects in their order, then the others."""
        last: Any = None
        for subject, _ in self:
            if subject != last:
                yield subject
                last = subject
        others: dict[Any, None] = dict.fromkeys(object_ for _, object_ in self)
        for node in others:
            if next(self.objects(node), None) is None:
                yield node


@final
@dataclass(frozen=True)
class VerbDeclaration:
    """A verb as a class declares it, ready to be opened."""

    declared: DeclaredModel
    formats: Mapping[str, Format]

    def open(self, store: Store) -> Verb[Any, Any]:
        """The verb in a store, made or grown where it has to be."""

        def fill(grown: Model, tree: Tree) -> None:
            Table(store, grown, None, self.formats).fill(tree)

        return Verb(store, store.declare(self.declared, fill), self.formats)


async def neighbourhood(
    relation: Verb[Uri, Uri],
    start: Uri,
    hops: int,
    own: object,
    ask: Callable[[Any, list[Uri]], Awaitable[Iterable[tuple[Uri, Uri]]]],
) -> set[tuple[Uri, Uri]]:
    """The pairs that lead from `start`, over so many hops, across canisters: for a composite query.

    Args:
        relation: of this canister.
        start: where to begin.
        hops: how far.
        own: this canister's principal.
        ask: calls a method of another canister that gives the pairs of subjects of its own.
    """
    found: set[tuple[Uri, Uri]] = set()
    seen, front = {start}, [start]
    for _ in range(hops):
        by_canister: dict[Any, list[Uri]] = {}
        for one in front:
            by_canister.setdefault(one.canister, []).append(one)
        pairs: list[tuple[Uri, Uri]] = []
        for canister, subjects in by_canister.items():
            if canister == own:
                pairs += [(one, other) for one in subjects for other in relation.objects(one)]
            else:
                pairs += await ask(canister, subjects)
        found.update(pairs)
        front = [one for one in dict.fromkeys(other for _, other in pairs) if one not in seen]
        seen.update(front)
    return found
