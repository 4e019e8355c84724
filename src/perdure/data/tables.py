"""`Table`: rows of a dataclass by a key, with indexes; each a tree of its own, all in step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from reprlib import repr as brief
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, final

from perdure.data.catalogue import Model, Tree
from perdure.data.declare import TableOptions, declared_table
from perdure.data.evolution import DeclaredModel
from perdure.data.parts import ConstraintError, Part, TableFault, check_parts
from perdure.data.rows import RowType, columns_of
from perdure.data.store import Store
from perdure.errors import MalformedError, UnsupportedError
from perdure.values.annotations import Annotations
from perdure.values.format import Format, Value
from perdure.values.packed import pack, prefix_end, skip, unpack

if TYPE_CHECKING:
    import apsw

__all__ = ["ConstraintError", "Index", "Table", "open_tables"]

R = TypeVar("R")
D = TypeVar("D")

MAX_KEY_BYTES: Final = 65_535
"""A key is read whole wherever a search passes it."""


@final
class Table(Generic[R]):
    """Rows by key, in its order.

    ``table[7]`` is the row of a key (``table[a, b]`` of one of two columns), ``table.put(row)`` sets it, ``del
    table[7]`` removes it, iterating gives the rows. ``table.by.city("Zug")`` looks rows up by an index; ``table.sql``
    reads and writes in SQL. In a canister a message's writes are one: all of them stay, or none.

    >>> from dataclasses import dataclass
    >>> from perdure.data import Store, Table, table
    >>> from perdure.memory import BytesMemory
    >>> from perdure.stable import MemoryManager
    >>> @dataclass
    ... class User:
    ...     id: int
    ...     name: str
    ...     city: str
    >>> store = Store(MemoryManager.create(BytesMemory()).get)
    >>> users = Table.declare(store, "users", User, table(key="id", index=["city"]))
    >>> users.put(User(7, "Ada", "Zug"))
    >>> users.put(User(8, "Bob", "Zug"))
    >>> [user.name for user in users.by.city("Zug")]
    ['Ada', 'Bob']
    """

    def __init__(
        self,
        store: Store,
        model: Model,
        owner: type[R] | None = None,
        formats: Mapping[str, Format] | None = None,
        derive: Callable[[list[Value]], None] = lambda row: None,
    ) -> None:
        """Use `declare`, or `open_tables` for those of a catalogue."""
        self.store = store
        self.model = model
        self.rows = RowType(model, owner, formats)
        self.cells = self._cells = self.rows.cells
        active = [one for one in model.trees if one.state != "unused"]
        first = model.trees[0]
        self._key = first.key
        self._first = Part(first, store.tree(first))
        # Trees of single columns have the key of the first, and values.
        self._columns = [Part(one, store.tree(one)) for one in active[1:] if one.value]
        self._indexes = [Part(one, store.tree(one)) for one in active[1:] if not one.value]
        self._count = len(model.columns)
        self._defaults = [one.default for one in model.columns]
        self._derive = derive

    @classmethod
    def declare(
        cls, store: Store, name: str, owner: type[R], options: TableOptions, annotations: Annotations | None = None
    ) -> Table[R]:
        """The table of a name, made where there is none, grown where it was declared otherwise.

        Args:
            store: where its trees are.
            name: in the catalogue, in SQL and in commands.
            owner: a dataclass.
            options: what `perdure.data.table` gives.
            annotations: knows names that the class uses and its module has not.

        Raises:
            MalformedError: what is there does not read as it is declared.
            TypeError: the declaration contradicts itself.
        """
        return cls.declaration(name, (owner,), options, annotations or Annotations({})).open(store)

    @classmethod
    def declaration(
        cls, name: str, arguments: tuple[Any, ...], detail: object, annotations: Annotations
    ) -> TableDeclaration:
        """What a class says with ``name: Table[arguments] = detail``.

        Raises:
            TypeError: it contradicts itself.
        """
        if not isinstance(detail, TableOptions):
            raise TypeError(f'{name}: a table has a key, `{name}: Table[...] = table(key="id")`, found {brief(detail)}')
        (owner,) = arguments
        columns, formats = columns_of(owner, annotations)
        definitions = "\n".join(f"type {one} = {rec.type};" for one, rec in annotations.named.items())
        return TableDeclaration(declared_table(name, columns, detail, definitions), owner, formats)

    # -- rows

    @property
    def name(self) -> str:
        """In the catalogue."""
        return self.model.name

    def __repr__(self) -> str:
        return f"<Table {self.name}: {len(self)} rows of {', '.join(self.rows.names)}>"

    def __len__(self) -> int:
        return len(self._first.tree)

    def __iter__(self) -> Iterator[R]:
        return self.range()

    def __contains__(self, key: object) -> bool:
        try:
            return self._first.tree.get(self._packed_key(key)) is not None
        except ValueError:
            return False

    def __getitem__(self, key: Any) -> R:
        found = self.plain_row(self._packed_key(key))
        if found is None:
            raise KeyError(key)
        return self.rows.row(found)

    def get(self, key: Any, default: Any = None) -> Any:
        """The row of a key, or `default`."""
        found = self.plain_row(self._packed_key(key))
        return default if found is None else self.rows.row(found)

    def put(self, row: R | Mapping[str, Any]) -> None:
        """Set the row of its key, whether there was one or not.

        Raises:
            ValueError: a value is none of its column.
            ConstraintError: unique values that another row has, or a key too long.
        """
        self.put_plain(self.rows.plain(row))  # type: ignore[arg-type]

    def insert(self, row: R | Mapping[str, Any]) -> None:
        """Set the row of a key that there is none of.

        Raises:
            ValueError: as `put`.
            ConstraintError: as `put`, and where there is one.
        """
        self.put_plain(self.rows.plain(row), is_new=True)  # type: ignore[arg-type]

    def __delitem__(self, key: Any) -> None:
        if not self.delete_packed(self._packed_key(key)):
            raise KeyError(key)

    def remove(self, key: Any) -> bool:
        """Remove the row of a key; whether there was one."""
        return self.delete_packed(self._packed_key(key))

    def clear(self) -> None:
        """Remove all rows."""
        if self.store.journal.has_savepoint:  # which may want them back
            for key in [key for key, _ in self._first.tree.range()]:
                self.delete_packed(key)
            return
        for part in self.all_parts:
            part.tree.clear()

    def range(self, low: Any = None, high: Any = None, *, reverse: bool = False) -> Iterator[R]:
        """The rows with ``low <= key < high``; of a key of several columns the first ones will do."""
        first = None if low is None else self._packed_prefix(self._key, low)
        end = None if high is None else self._packed_prefix(self._key, high)
        return (self.rows.row(one) for one in self.plain_range(first, end, reverse=reverse))

    @property
    def by(self) -> Indexes[R]:
        """The indexes: ``table.by.city("Zug")``, ``table.by["age", "name"](30)``."""
        return Indexes(self)

    def update(self, rows: Iterable[R | Mapping[str, Any]]) -> None:
        """`put` many: all of them, or none."""
        with self.store.journal.transaction():
            for one in rows:
                self.put(one)

    # -- plain rows: the columns of the model as tuples and CBOR have them

    def plain_row(self, key: bytes) -> list[Value] | None:
        """The columns of the row of a packed key."""
        found = self._first.tree.get(key)
        return None if found is None else self._assembled(key, found)

    def plain_range(
        self,
        low: bytes | None = None,
        high: bytes | None = None,
        *,
        reverse: bool = False,
        used: Collection[int] | None = None,
    ) -> Iterator[list[Value]]:
        """The columns of the rows between packed keys; of those that lie apart only the ones that are `used`."""
        if self._columns:
            yield from self._side_by_side(low, high, reverse, used)
            return
        for key, value in self._first.tree.range(low, high, reverse=reverse):
            yield self._assembled(key, value)

    def _side_by_side(
        self, low: bytes | None, high: bytes | None, reverse: bool, used: Collection[int] | None
    ) -> Iterator[list[Value]]:
        """Rows whose columns lie apart: the trees have the same keys, so each is walked through once."""
        wanted = [one for one in self._columns if used is None or any(index in used for index in one.value)]
        walks = [one.tree.range(low, high, reverse=reverse) for one in wanted or (self._first,)]
        for entries in zip_longest(*walks, fillvalue=(None, b"")):
            key = entries[0][0]
            if key is None or any(other != key for other, _ in entries):
                raise MalformedError(f"the columns of {self.name} are not in step: `perdure stable fsck` says where")
            out = list(self._defaults)
            for index, part in zip(self._key, self._unpacked(self._first, key), strict=True):
                out[index] = part
            for one, (_, value) in zip(wanted, entries, strict=False):
                one.read_into(out, value)
            self._derive(out)
            yield out

    def _assembled(self, key: bytes, value: bytes) -> list[Value]:
        out = list(self._defaults)
        for index, part in zip(self._key, self._unpacked(self._first, key), strict=True):
            out[index] = part
        self._first.read_into(out, value)
        for one in self._columns:
            found = one.tree.get(key)
            if found is not None:
                one.read_into(out, found)
        self._derive(out)
        return out

    @staticmethod
    def _unpacked(part: Part, key: bytes) -> tuple[Value, ...]:
        found = unpack(key)
        if len(found) != len(part.key):
            raise MalformedError(f"tree {part.name}: a key of {len(found)} parts, expected {len(part.key)}")
        return found

    def put_plain(self, row: list[Value], *, is_new: bool = False) -> None:
        """`put` of columns that are in order."""
        self._derive(row)
        key = pack([row[index] for index in self._key])
        if len(key) > MAX_KEY_BYTES:
            raise ConstraintError(f"{self.name}: a key of {len(key)} bytes, at most {MAX_KEY_BYTES} are taken")
        stored = self._first.tree.get(key)
        if is_new and stored is not None:
            raise ConstraintError(f"{self.name}: there is a row of key {self._shown(row, self._key)} already")
        before = None if stored is None or not self._indexes else self._assembled(key, stored)
        moves = [(one, *self._moved(one, before, row)) for one in self._indexes]
        with self.store.journal.transaction():
            self._first.tree.put(key, self._first.value_of(row), had=stored is not None)
            for one in self._columns:
                one.tree.put(key, one.value_of(row), had=stored is not None)
            for one, old, new in moves:
                if old != new:
                    if old is not None:
                        one.tree.put(old, None, had=True)
                    one.tree.put(new, b"", had=False)

    def _moved(self, index: Part, before: list[Value] | None, row: list[Value]) -> tuple[bytes | None, bytes]:
        """The keys of a row in an index, as it was and as it is to be."""
        new = pack([row[one] for one in index.key])
        if len(new) > MAX_KEY_BYTES:
            raise ConstraintError(f"{index.name}: a key of {len(new)} bytes, at most {MAX_KEY_BYTES} are taken")
        old = None if before is None else pack([before[one] for one in index.key])
        if index.is_unique and old != new:
            self._require_unique(index, row, old)
        return old, new

    def _require_unique(self, index: Part, row: list[Value], old: bytes | None) -> None:
        if any(found != old for found in self._same(index, row)):
            raise ConstraintError(f"{self.name}: another row has {self._shown(row, index.own)} already")

    def _same(self, index: Part, row: list[Value]) -> Iterator[bytes]:
        """The entries of an index that have the values of a row; null is equal to nothing, as in SQL."""
        values = [row[one] for one in index.own]
        if None not in values:
            prefix = pack(values)
            for found, _ in index.tree.range(prefix, prefix_end(prefix)):
                yield found

    def conflicts(self, row: list[Value]) -> list[bytes]:
        """Packed keys of other rows that have the unique values of a row."""
        own = pack([row[one] for one in self._key])
        found = (
            key for index in self._indexes if index.is_unique for key in self._row_keys(index, self._same(index, row))
        )
        return [one for one in dict.fromkeys(found) if one != own]

    def _shown(self, row: Sequence[Value], columns: Sequence[int]) -> str:
        return ", ".join(f"{self.model.columns[one].name}={brief(row[one])}" for one in columns)

    def delete_packed(self, key: bytes) -> bool:
        """Remove the row of a packed key; whether there was one."""
        stored = self._first.tree.get(key)
        if stored is None:
            return False
        before = self._assembled(key, stored)
        with self.store.journal.transaction():
            self._first.tree.put(key, None, had=True)
            for one in self._columns:
                one.tree.put(key, None, had=True)
            for one in self._indexes:
                one.tree.put(pack([before[at] for at in one.key]), None, had=True)
        return True

    def _packed_key(self, key: Any) -> bytes:
        parts = key if isinstance(key, tuple) else (key,)
        if len(parts) != len(self._key):
            names = ", ".join(self.model.columns[one].name for one in self._key)
            raise ValueError(f"{self.name}: a key has the columns {names}, found {brief(key)}")
        return self._packed_prefix(self._key, parts)

    def _packed_prefix(self, columns: Sequence[int], values: Any) -> bytes:
        """The bytes that all keys with these first values begin with.

        Raises:
            ValueError: more values than columns, or one that is none of its column.
        """
        parts = values if isinstance(values, tuple) else (values,)
        if len(parts) > len(columns):
            raise ValueError(f"{self.name}: at most {len(columns)} values, found {len(parts)}")
        return pack([self._cells[one].to_plain(part) for one, part in zip(columns, parts, strict=False)])

    # -- indexes

    def index(self, *columns: str) -> Index[R]:
        """The index of these columns.

        Raises:
            KeyError: there is none.
        """
        for part in self._indexes:
            if tuple(self.model.columns[one].name for one in part.own) == columns:
                return Index(self, part)
        raise KeyError(f"{self.name} has no index of {', '.join(columns)}, there are: {', '.join(self.index_names())}")

    def index_names(self) -> list[str]:
        """The columns of each index, as attributes of `by` are called."""
        return ["_".join(self.model.columns[one].name for one in part.own) for part in self._indexes]

    @property
    def all_parts(self) -> Sequence[Part]:
        """All trees, the first one first."""
        return (self._first, *self._columns, *self._indexes)

    def constraint(self, message: str) -> ConstraintError:
        """The error of rows that the table does not take."""
        return ConstraintError(f"{self.name}: {message}")

    @property
    def parts(self) -> Sequence[Part]:
        """The first tree and the indexes: all ways to walk through the rows."""
        return (self._first, *self._indexes)

    def fill(self, tree: Tree) -> None:
        """Fill a new tree, or one whose values are to be unique from now on, from the first.

        Raises:
            ConstraintError: values that are to be unique are not.
        """
        part = next(one for one in (*self._columns, *self._indexes) if one.memory_id == tree.memory_id)
        part.tree.clear()
        with self.store.journal.transaction():
            for row in self.plain_range():
                if part.value:
                    part.tree.put(pack([row[one] for one in self._key]), part.value_of(row), had=False)
                    continue
                _, key = self._moved(part, None, row)
                part.tree.put(key, b"", had=False)

    def reindex(self) -> None:
        """Build every index anew from the rows."""
        for part in self._indexes:
            self.fill(part.source)

    def check(self) -> list[TableFault]:
        """Where rows and indexes are not in step; empty where they are."""
        return list(check_parts(self.plain_rows, self._first, self._columns, self._indexes, self.rows.fault))

    def plain_rows(self) -> Iterator[tuple[bytes, list[Value]]]:
        """Packed keys and columns of all rows."""
        for key, value in self._first.tree.range():
            yield key, self._assembled(key, value)

    def rows_after(self, key: bytes, most: int) -> tuple[list[R], bytes]:
        """The first rows behind a packed key, and the key of the last of them."""
        low, rows, last = key + b"\0" if key else None, [], key
        if key:
            self._unpacked(self._first, key)
        for last, value in islice(self._first.tree.range(low), most):
            rows.append(self.rows.row(self._assembled(last, value)))
        return rows, last

    def keys_by(self, index: Part, low: bytes | None, high: bytes | None, *, reverse: bool = False) -> Iterator[bytes]:
        """Packed keys of the rows that an index has between two of its own keys."""
        return self._row_keys(index, (found for found, _ in index.tree.range(low, high, reverse=reverse)))

    def _row_keys(self, index: Part, entries: Iterable[bytes]) -> Iterator[bytes]:
        if index.key[index.width :] == self._key:  # they stand at the end, as they are
            for found in entries:
                yield found[skip(found, index.width) :]
            return
        places = [index.key.index(one) for one in self._key]
        for found in entries:
            parts = self._unpacked(index, found)
            yield pack([parts[one] for one in places])

    # -- others

    def sql(self, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement over the tables of the store, which it reads or writes; needs the extra ``sql``.

        Raises:
            apsw.Error: SQL that is none, a constraint that is broken.
        """
        return list(self.connection().execute(statement, parameters))

    def connection(self) -> apsw.Connection:
        """SQL over all tables of the store."""
        return self.store.kept("sql", lambda: _connected(self.store))

    def load(self, source: Any, **options: Any) -> int:
        """Add the rows of a CSV, Parquet or SQLite file, or of an Arrow table; how many.

        See `perdure.data.loading.load_rows`.
        """
        from perdure.data.loading import load_rows  # pyarrow is an extra

        return load_rows(self, source, **options)


@final
@dataclass(frozen=True)
class TableDeclaration:
    """A table as a class declares it, ready to be opened.

    Attributes:
        declared: as the catalogue is to have it.
        owner: the dataclass of its rows.
        formats: of its columns, which know the program's own classes.
    """

    declared: DeclaredModel
    owner: type[Any]
    formats: Mapping[str, Format]

    def open(self, store: Store) -> Table[Any]:
        """The table in a store, made or grown where it has to be.

        Raises:
            MalformedError: what is there does not read as it is declared.
        """

        def fill(grown: Model, tree: Tree) -> None:
            Table(store, grown, self.owner, self.formats).fill(tree)

        return Table(store, store.declare(self.declared, fill), self.owner, self.formats)


def _connected(store: Store) -> apsw.Connection:
    try:
        from perdure.data.sql import connect
    except ImportError as error:
        raise UnsupportedError("SQL needs `pip install 'perdure[sql]'`").coded("extra-missing") from error
    return connect(store.journal, {one.name: one for one in open_tables(store)})


def open_tables(store: Store) -> list[Table[Any]]:
    """The tables of a store, as its catalogue has them; rows are dictionaries."""
    return [Table(store, one) for one in store.catalogue.models if one.kind == "table" and one.state != "unused"]


@final
class Index(Generic[R]):
    """One index: called with values of its columns, or of the first of them, it gives rows in its order."""

    def __init__(self, owner: Table[R], part: Part) -> None:
        self._table = owner
        self._part = part
        self._columns = part.own

    def __call__(self, *values: Any, reverse: bool = False) -> Iterator[R]:
        """The rows that have these values."""
        prefix = self._table._packed_prefix(self._columns, values)
        return self._rows(prefix, prefix_end(prefix), reverse)

    def range(self, low: Any = None, high: Any = None, *, reverse: bool = False) -> Iterator[R]:
        """The rows with ``low <= values < high``; of several columns tuples."""
        first = None if low is None else self._table._packed_prefix(self._columns, low)
        end = None if high is None else self._table._packed_prefix(self._columns, high)
        return self._rows(first, end, reverse)

    def keys_between(self, low: Any, high: Any) -> Iterator[bytes]:
        """Packed keys of the rows whose values of the index's first column lie between two, both within."""
        first, last = pack((low,)), pack((high,))
        return self._table.keys_by(self._part, first, prefix_end(last))

    def one(self, *values: Any) -> R | None:
        """The first row that has these values, or ``None``."""
        return next(self(*values), None)

    def _rows(self, low: bytes | None, high: bytes | None, reverse: bool) -> Iterator[R]:
        table = self._table
        for key in table.keys_by(self._part, low, high, reverse=reverse):
            row = table.plain_row(key)
            if row is None:
                raise MalformedError(f"index {self._part.name} has a row that the table has not: `reindex()` mends it")
            yield table.rows.row(row)


@final
class Indexes(Generic[R]):
    """The indexes of a table, as attributes by their columns joined with ``_``, or by the columns."""

    def __init__(self, owner: Table[R]) -> None:
        self._table = owner

    def __getattr__(self, name: str) -> Index[R]:
        for part, own in zip(self._table._indexes, self._table.index_names(), strict=True):
            if own == name:
                return Index(self._table, part)
        raise AttributeError(
            f"{self._table.name} has no index {name!r}, there are: {', '.join(self._table.index_names()) or 'none'}"
        )

    def __getitem__(self, columns: str | tuple[str, ...]) -> Index[R]:
        return self._table.index(*((columns,) if isinstance(columns, str) else columns))

    def __dir__(self) -> list[str]:
        return self._table.index_names()
