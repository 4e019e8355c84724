"""Two catalogues, of before an upgrade and of after it: what becomes of the rows that are there.

`perdure.data.evolution` decides what a program in Python may declare; here stands what any program has made of a
catalogue, one in Rust that has changed it itself among them.

| verdict | means |
|---|---|
| ``breaking`` | rows that are there cannot be read, or not be found |
| ``silently wrong`` | they are read as something else, and nothing fails |
| ``one way`` | they are read; what the new version writes the old one does not read, or does not keep in step |
| ``compatible`` | both read what either writes |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Final, final

import cbor2

from perdure.data.catalogue import Catalogue, Column, Model, Tree
from perdure.data.evolution import is_read_as
from perdure.values.compatibility import Verdict

__all__ = ["ModelDifference", "compare_catalogues"]


@final
@dataclass(frozen=True)
class ModelDifference:
    """One thing that differs.

    Attributes:
        place: the model, and the column or tree in it.
        verdict: see the module.
        what: in a sentence.
        old: what the catalogue said.
        new: what it says.
        why: why it matters.
        remedy: what to do.
    """

    place: str
    verdict: Verdict
    what: str
    old: str
    new: str
    why: str
    remedy: str


_KEEP: Final = "leave it as it was, and add one of another name"
_OTHER_NAME: Final = "give the new one another name, and take the rows over in a migration"


def compare_catalogues(old: Catalogue, new: Catalogue) -> Iterator[ModelDifference]:
    """What differs, model by model; nothing of what is new and has no rows yet.

    Raises:
        MalformedError: a type of a column does not read.
    """
    for before in old.models:
        if before.state == "unused":
            continue
        after = new.model(before.name)
        if after is None or after.state == "unused":
            yield _gone(before, after, [one.migration for one in new.moves if one.table == before.name])
        elif before.kind != after.kind:
            yield ModelDifference(
                before.name,
                "breaking",
                f"{before.name!r} is a {before.kind} and becomes a {after.kind}",
                before.kind,
                after.kind,
                "its trees have another meaning",
                _OTHER_NAME,
            )
        else:
            yield from _columns(before, after)
            yield from _first_tree(before, after)
            yield from _indexes(before, after)


def _gone(before: Model, after: Model | None, migrations: Sequence[str]) -> ModelDifference:
    name = f"{before.kind} {before.name!r}"
    if after is None:
        return ModelDifference(
            before.name,
            "breaking",
            f"{name} is not in the catalogue any more",
            _shape(before),
            "nothing",
            "nobody can say what its bytes are",
            "leave it there, with the state `unused`",
        )
    if migrations:
        return ModelDifference(
            before.name,
            "one way",
            f"{name} is taken over in steps, by {' and '.join(migrations)}",
            _shape(before),
            "unused",
            "the steps come after the upgrade, and none of them is tried here",
            "let them run to their end on a fork, before",
        )
    return ModelDifference(
        before.name,
        "one way",
        f"{name} is named by no version any more",
        _shape(before),
        "unused",
        "its rows stay, and nobody reads them",
        "take over in a migration what is still needed",
    )


# -- columns


def _columns(before: Model, after: Model) -> Iterator[ModelDifference]:
    names = {one.name: one for one in after.columns if one.state != "unused"}
    added = [one for one in after.columns[len(before.columns) :] if one.state != "unused"]
    for index, (column, now) in enumerate(zip_longest(before.columns, after.columns[: len(before.columns)])):
        if column.state == "unused":
            continue
        place = f"{before.name}.{column.name}"
        if now is None:
            yield ModelDifference(
                place,
                "breaking",
                f"column {column.name!r} is not in the catalogue any more",
                _text(column),
                "nothing",
                "trees name columns by their number, so values stand under the names of others",
                "leave it there, with the state `unused`",
            )
        elif now.state == "unused":
            yield _left_out(place, column, added)
        elif now.name != column.name:
            yield _renamed(place, column, now, is_swapped=column.name in names)
        else:
            yield from _changed(place, index, before, after)
    yield from _added(before, after, added)


def _left_out(place: str, column: Column, added: list[Column]) -> ModelDifference:
    alike = [one.name for one in added if (one.type, one.is_optional) == (column.type, column.is_optional)]
    is_renamed = len(alike) == 1
    return ModelDifference(
        place,
        "one way",
        f"column {column.name!r} is named no more"
        + (f", and {alike[0]!r} of the same type is new: a new name has none of the values" if is_renamed else ""),
        _text(column),
        "unused",
        "its values stay in rows from before, are read by nobody, and are written no more",
        f"keep {column.name!r}, or copy its values to {alike[0]!r} in a migration"
        if is_renamed
        else "make sure that this is meant",
    )


def _renamed(place: str, column: Column, now: Column, *, is_swapped: bool) -> ModelDifference:
    return ModelDifference(
        place,
        "silently wrong" if is_swapped or column.type != now.type else "one way",
        f"values of {column.name!r} are those of {now.name!r} now",
        _text(column),
        _text(now),
        "whoever asks for the old name finds other values" if is_swapped else "the old version does not find the name",
        "leave columns in their places; new ones come last",
    )


def _changed(place: str, index: int, before: Model, after: Model) -> Iterator[ModelDifference]:
    column, now = before.columns[index], after.columns[index]
    old, new = before.format(index), after.format(index)
    if not is_read_as(old, new):
        yield ModelDifference(
            place,
            "breaking",
            f"column {column.name!r} held {column.type} and holds {now.type}",
            _text(column),
            _text(now),
            "values that are there are none of the new type",
            f"{_KEEP}, or take the old values over in a migration",
        )
    elif not is_read_as(new, old):
        yield ModelDifference(
            place,
            "one way",
            f"column {column.name!r} held {column.type} and holds {now.type}",
            _text(column),
            _text(now),
            "the old version does not read all that the new one may write",
            "there is no way back once it has been written",
        )
    if column.is_optional and not now.is_optional:
        yield ModelDifference(
            place,
            "breaking",
            f"column {column.name!r} may be null in what is there, and is declared as never null",
            _text(column),
            _text(now),
            "rows that have null there are not what the new version expects",
            f"leave it optional, `{column.name}: ... | None`, or fill it in a migration under another name",
        )
    elif now.is_optional and not column.is_optional:
        yield ModelDifference(
            place,
            "one way",
            f"column {column.name!r} may be null now",
            _text(column),
            _text(now),
            "the old version does not expect it",
            "there is no way back once null has been written",
        )
    if cbor2.dumps(column.default) != cbor2.dumps(now.default) and _is_added_later(index, before):
        yield ModelDifference(
            place,
            "silently wrong",
            f"the default of {column.name!r} was {column.default!r:.40} and is {now.default!r:.40}",
            _text(column),
            _text(now),
            "rows from before the column was there are read as having the new one",
            "leave the default in the catalogue as it was; new rows have their own values",
        )


def _is_added_later(index: int, before: Model) -> bool:
    """Whether there may be rows without the column; those of a key are in all."""
    return any(index in tree.value for tree in before.trees)


def _added(before: Model, after: Model, added: list[Column]) -> Iterator[ModelDifference]:
    for column in added:
        place = f"{before.name}.{column.name}"
        if not column.is_optional and column.default is None:
            yield ModelDifference(
                place,
                "breaking",
                f"column {column.name!r} is new, is never null and has no default",
                "nothing",
                _text(column),
                "rows from before have nothing there",
                f"give it a default, or let it be null, `{column.name}: ... | None = None`",
            )
        elif any(after.columns.index(column) in tree.value for tree in after.trees[:1]):
            yield ModelDifference(
                place,
                "one way",
                f"column {column.name!r} is new",
                "nothing",
                _text(column),
                "the old version does not read rows that have it",
                "there is no way back once one has been written",
            )


# -- trees


def _first_tree(before: Model, after: Model) -> Iterator[ModelDifference]:
    old, new = before.trees[0], after.trees[0]
    if _names(before, old.key) != _names(after, new.key):
        what, why = f"the key of {before.name!r} is another", "rows lie by the key that they had"
    elif old.memory_id != new.memory_id:
        what = f"the rows of {before.name!r} are looked for in another memory"
        why = "what is there is not found, and something else may be"
    elif new.value[: len(old.value)] != old.value:
        what = f"values of {before.name!r} are in another order"
        why = "each column is read as what another one was"
    else:
        return
    yield ModelDifference(
        before.name, "breaking", what, _tree_text(before, old), _tree_text(after, new), why, _OTHER_NAME
    )


def _indexes(before: Model, after: Model) -> Iterator[ModelDifference]:
    found = {_identity(one): one for one in after.trees[1:] if one.state != "unused"}
    for old in before.trees[1:]:
        if old.state == "unused":
            continue
        new = found.pop(_identity(old), None)
        place = f"{before.name}.{old.name}"
        if new is None:
            yield ModelDifference(
                place,
                "one way",
                f"{_kind(old)} {old.name!r} is gone",
                _tree_text(before, old),
                "nothing",
                "the old version looks rows up by it, and finds none"
                if not old.value
                else "its column is read no more",
                "make sure that nothing needs it",
            )
        elif new.memory_id != old.memory_id:
            yield ModelDifference(
                place,
                "breaking" if old.value else "one way",
                f"{_kind(old)} {old.name!r} is in another memory",
                _tree_text(before, old),
                _tree_text(after, new),
                "its values are not found" if old.value else "it has to be filled there; the old version finds nothing",
                "leave it where it is",
            )
        elif new.is_unique != old.is_unique:
            yield _uniqueness(place, before, after, (old, new))
    for new in found.values():
        yield ModelDifference(
            f"{after.name}.{new.name}",
            "one way",
            f"{_kind(new)} {new.name!r} is new",
            "nothing",
            _tree_text(after, new),
            "the old version does not keep it in step: rows that it writes are not in it",
            "after a way back build it anew, `reindex()`",
        )


def _uniqueness(place: str, before: Model, after: Model, pair: tuple[Tree, Tree]) -> ModelDifference:
    old, new = pair
    columns = ", ".join(_names(after, new.own))
    return ModelDifference(
        place,
        "one way",
        f"no two rows of {after.name!r} may have the same {columns} from now on"
        if new.is_unique
        else f"rows of {after.name!r} may have the same {columns} from now on",
        _tree_text(before, old),
        _tree_text(after, new),
        "the old version does not see to it" if new.is_unique else "the old version relies on there being one",
        "rows that are there are looked at when the index is declared"
        if new.is_unique
        else "there is no way back once two have been written",
    )


def _identity(tree: Tree) -> tuple[object, ...]:
    """By the numbers of columns, which stay whatever they are called."""
    return tree.key, tree.width, tree.value


def _names(model: Model, indexes: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(model.columns[one].name for one in indexes)


def _kind(tree: Tree) -> str:
    return "the tree of a column" if tree.value else "unique index" if tree.is_unique else "index"


# -- in words


def _text(column: Column) -> str:
    optional = " | null" if column.is_optional else ""
    default = "" if column.default is None else f" = {column.default!r:.40}"
    return f"{column.name}: {column.type}{optional}{default}"


def _tree_text(model: Model, tree: Tree) -> str:
    value = f" to ({', '.join(_names(model, tree.value))})" if tree.value else ""
    return f"{_kind(tree)} by ({', '.join(_names(model, tree.own))}){value} in memory {tree.memory_id}"


def _shape(model: Model) -> str:
    columns = ", ".join(_text(one) for one in model.columns if one.state != "unused")
    return f"{model.kind} of {columns}"
