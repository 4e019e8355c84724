"""Whole rows of tables whose columns are trees of their own (``storage="columns"``), as views: ``NAME_rows``."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from perdure.data.catalogue import Model, Tree
from perdure.data.store import read_catalogue
from perdure.errors import PerdureError
from perdure.inspection.find import Inventory
from perdure.inspection.rows import Rows
from perdure.reading_sql import quoted

__all__ = ["row_views"]


def row_views(inventory: Inventory, tables: Iterable[Rows]) -> dict[str, str]:
    """What each view selects, by its name; none of a name that a table has.

    Args:
        inventory: with a catalogue, or without.
        tables: of its structures, as SQL has them.
    """
    try:
        catalogue = read_catalogue(inventory.memory)
    except PerdureError:  # `fsck` says so
        return {}
    known = {table.structure.label: table for table in tables}
    names = {table.name for table in known.values()}
    return dict(_views(() if catalogue is None else catalogue.models, known, names))


def _views(models: Iterable[Model], known: dict[str, Rows], names: Collection[str]) -> Iterator[tuple[str, str]]:
    for model in models:
        trees = [one for one in model.trees if one.state != "unused"]
        apart = [one for one in trees[1:] if one.value]
        name = f"{model.name}_rows"
        if model.state != "unused" and apart and name not in names and _are_there(model, [trees[0], *apart], known):
            yield name, _selection(model, trees[0], apart, known)


def _are_there(model: Model, trees: Iterable[Tree], known: dict[str, Rows]) -> bool:
    """Whether SQL has each tree with the columns that the catalogue says; a ``stable.yaml`` may say others."""
    for tree in trees:
        table = known.get(str(tree.memory_id))
        if table is None or not {model.columns[one].name for one in (*tree.key, *tree.value)} <= set(table.columns):
            return False
    return True


def _selection(model: Model, first: Tree, apart: Iterable[Tree], known: dict[str, Rows]) -> str:
    places = dict.fromkeys((*first.key, *first.value), "k")
    joins = []
    for number, tree in enumerate(apart):
        places |= dict.fromkeys(tree.value, f"c{number}")
        same = " and ".join(f"c{number}.{_column(model, one)} = k.{_column(model, one)}" for one in first.key)
        joins.append(f"left join {quoted(known[str(tree.memory_id)].name)} c{number} on {same}")
    columns = [
        f"{places[at]}.{_column(model, at)} as {_column(model, at)}"
        for at, one in enumerate(model.columns)
        if at in places and one.state != "unused"
    ]
    return f"select {', '.join(columns)} from {quoted(known[str(first.memory_id)].name)} k {' '.join(joins)}"


def _column(model: Model, at: int) -> str:
    return quoted(model.columns[at].name)
