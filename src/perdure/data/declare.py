"""What stands in a class for a data model: ``users: Table[User] = table(key="id", index=["city"])``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias, final

from perdure.data.catalogue import Column
from perdure.data.evolution import DeclaredModel, DeclaredTree

__all__ = ["TableOptions", "declared_table", "table"]

Names: TypeAlias = str | Sequence[str]
_MAX_NAME: Final = 64


@final
@dataclass(frozen=True, slots=True)
class TableOptions:
    """What `table` has said."""

    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    unique: tuple[tuple[str, ...], ...] = ()
    storage: str = "rows"
    derived: tuple[str, ...] = ()
    """Columns that are kept in indexes only, as others say what they are."""


def table(
    key: Names,
    *,
    index: Sequence[Names] = (),
    unique: Sequence[Names] = (),
    storage: Literal["rows", "columns"] = "rows",
) -> Any:
    """More about a `Table` than its type says.

        users: Table[User] = table(key="id", index=["city", ("age", "name")], unique=["email"])

    Args:
        key: the column, or columns, that identify a row. They cannot change.
        index: columns to look rows up by; each is a tree of its own, built when it is added.
        unique: the same, of which no two rows have the same values; null is equal to nothing.
        storage: a tree of whole rows, or one of each column: a scan of one column reads only that, a whole row costs a
            lookup for each.
    """
    return TableOptions(_names(key), tuple(map(_names, index)), tuple(map(_names, unique)), storage)


def _names(names: Names) -> tuple[str, ...]:
    found = (names,) if isinstance(names, str) else tuple(names)
    if not found or not all(isinstance(one, str) for one in found):
        raise TypeError(f"a key or index is the name of a column or several, found {names!r}")
    return found


def declared_table(
    name: str, columns: Sequence[Column], options: TableOptions, definitions: str = "", kind: str = "table"
) -> DeclaredModel:
    """A table, or what is one inside, as the catalogue is going to have it.

    Raises:
        TypeError: a key or index of columns that are not there; a key that may be null; two indexes alike.
    """
    _check_options(name, {one.name: one for one in columns}, options)
    key = options.key
    rest = tuple(one.name for one in columns if one.name not in (*key, *options.derived))
    trees = [DeclaredTree(name, key, rest if options.storage == "rows" else ())]
    if options.storage == "columns":
        trees += [DeclaredTree(f"{name}_{one}", key, (one,)) for one in rest]
    indexes = dict.fromkeys(options.indexes, False) | dict.fromkeys(options.unique, True)
    if len(indexes) < len(options.indexes) + len(options.unique):
        raise TypeError(f"{name}: two indexes of the same columns")
    for wanted, is_unique in indexes.items():
        if wanted == key:
            raise TypeError(f"{name}: an index of its key, {', '.join(key)}, has nothing that the rows have not")
        whole = (*wanted, *(one for one in key if one not in wanted))
        trees.append(DeclaredTree(f"{name}_by_{'_'.join(wanted)}", whole, (), len(wanted), is_unique))
    _check_names(name, [tree.name for tree in trees])
    return DeclaredModel(name, kind, tuple(columns), tuple(trees), definitions)


def _check_options(name: str, known: Mapping[str, Column], options: TableOptions) -> None:
    for wanted in (options.key, *options.indexes, *options.unique):
        for one in wanted:
            if one not in known:
                raise TypeError(f"{name}: no column {one!r}, there are {', '.join(known)}")
        if len(set(wanted)) < len(wanted):
            raise TypeError(f"{name}: a column twice in {wanted!r}")
    nullable = [one for one in options.key if known[one].is_optional]
    if nullable:
        raise TypeError(f"{name}: the key is never null, and {nullable[0]!r} may be")
    if options.storage not in ("rows", "columns"):
        raise TypeError(f"{name}: storage is 'rows' or 'columns', found {options.storage!r}")


def _check_names(name: str, trees: Sequence[str]) -> None:
    for one in trees:
        if not one.isidentifier() or len(one) > _MAX_NAME:
            raise TypeError(f"{one!r} is no name for a tree: letters, digits and _, at most {_MAX_NAME}")
    if len(set(trees)) < len(trees):
        raise TypeError(f"{name}: two trees of one name among {', '.join(trees)}")
