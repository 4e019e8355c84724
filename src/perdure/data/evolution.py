"""What a program declares of a model against what the catalogue has of it: the model to come, or why there is none.

| change | what becomes of it |
|---|---|
| a column added | rows from before have its default, or null; one of the two it must have |
| a column left out | it is `unused`: its values stay in rows from before, and are written no more |
| a column's type | where each old value is a new one; else refused |
| a column made optional | as it is |
| an index added, left out | built, cleared |
| another key, another kind of model | refused |
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, final

from perdure.data.catalogue import Column, Model, Tree
from perdure.errors import MalformedError
from perdure.values.compatibility import compare_formats
from perdure.values.format import Format
from perdure.values.packed import Anything

__all__ = ["DeclaredModel", "DeclaredTree", "Evolution", "evolve", "is_read_as"]

_READABLE: Final = ("compatible", "one way")


@final
@dataclass(frozen=True, slots=True)
class DeclaredTree:
    """A tree by the names of its columns."""

    name: str
    key: tuple[str, ...]
    value: tuple[str, ...] = ()
    width: int = 0
    is_unique: bool = False


@final
@dataclass(frozen=True, slots=True)
class DeclaredModel:
    """What a program says of a model; the first tree has everything, or every key at least."""

    name: str
    kind: str
    columns: tuple[Column, ...]
    trees: tuple[DeclaredTree, ...]
    definitions: str = ""


@final
@dataclass(frozen=True, slots=True)
class Evolution:
    """The model to come.

    Attributes:
        model: with memory ids.
        built: trees that are new and to be filled from the first.
        cleared: trees that are not used any more.
    """

    model: Model
    built: tuple[Tree, ...] = ()
    cleared: tuple[Tree, ...] = ()


def evolve(old: Model | None, new: DeclaredModel, free_id: Callable[[], int]) -> Evolution:
    """The model that `new` makes of `old`, or a new one.

    Args:
        old: in the catalogue.
        new: declared.
        free_id: gives a memory that nothing is in, another one each time.

    Raises:
        MalformedError: what is there does not read as it is declared; says what, and the way out.
    """
    columns: tuple[Column, ...] = new.columns
    trees: tuple[Tree, ...] = ()
    if old is not None:
        if old.kind != new.kind:
            raise MalformedError(
                f"{new.name!r} is a {old.kind} in the catalogue and declared as a {new.kind}: give the new one another "
                "name"
            )
        columns, trees = tuple(_columns(old, new)), old.trees
    places = {one.name: index for index, one in enumerate(columns) if one.state != "unused"}
    made = _Trees(trees, places, free_id)
    for wanted in new.trees:
        made.want(wanted, is_first=wanted is new.trees[0])
    made.end()
    model = Model(new.name, new.kind, columns, tuple(made.trees), new.definitions)
    if old is None:
        return Evolution(model)
    return Evolution(model, tuple(made.built), tuple(made.cleared))


def _columns(old: Model, new: DeclaredModel) -> Iterator[Column]:
    wanted = {one.name: one for one in new.columns}
    before = Model(old.name, old.kind, old.columns, (), old.definitions)
    after = Model(new.name, new.kind, new.columns, (), new.definitions)
    key = {old.columns[one].name for one in old.trees[0].key}
    for index, column in enumerate(old.columns):
        now = wanted.pop(column.name, None) if column.state != "unused" else None
        if now is None:
            yield replace(column, state="unused")
            continue
        if not is_read_as(before.format(index), after.format(new.columns.index(now))):
            raise MalformedError(
                f"column {column.name!r} of {new.name!r} held {column.type} and is declared as {now.type}: "
                "leave it as it was and add a column of another name, or "
                "take the old values over in a migration"
            )
        if column.is_optional and not now.is_optional:
            raise MalformedError(
                f"column {column.name!r} of {new.name!r} may be null in what is there, and is declared as never null: "
                f"leave it optional, `{column.name}: ... | None`"
            )
        # The default of rows from before is what it was when the column was added.
        yield replace(now, default=column.default)
    for column in wanted.values():
        if not column.is_optional and column.default is None and column.name not in key:
            raise MalformedError(
                f"column {column.name!r} of {new.name!r} is new: rows from before need a default, or null "
                f"(`{column.name}: ... | None = None`)"
            )
        yield column


def is_read_as(old: Format, new: Format) -> bool:
    """Whether what was written as `old`, in a tuple or an array, is read as `new`."""
    before, now = old.kind, new.kind
    if isinstance(new, Anything):
        return old.is_part
    if old.is_part and new.is_part and before.name == now.name:
        if before.name != "integer" or not now.bits:
            return before.bits <= now.bits or not now.bits
        if before.is_signed == now.is_signed:
            return bool(before.bits) and before.bits <= now.bits
        return bool(before.bits) and now.is_signed and before.bits < now.bits
    return compare_formats(old, new).verdict in _READABLE


@final
class _Trees:
    """The trees to come, in the places of those that were there."""

    def __init__(self, old: tuple[Tree, ...], places: dict[str, int], free_id: Callable[[], int]) -> None:
        self.trees = list(old)
        self._places = places
        self._free_id = free_id
        self._kept: set[int] = set()
        self.built: list[Tree] = []
        self.cleared: list[Tree] = []

    def want(self, wanted: DeclaredTree, *, is_first: bool) -> None:
        key = tuple(self._places[name] for name in wanted.key)
        value = tuple(self._places[name] for name in wanted.value)
        at = self._found(key, value, wanted.width or len(key), is_first)
        if at is not None:
            before = self.trees[at]
            if wanted.is_unique and not before.is_unique:
                self.built.append(before)  # so that what is there is looked at
            # Columns that came later stand behind those from before, unused ones among them.
            value = (*before.value, *(one for one in value if one not in before.value))
            self.trees[at] = replace(before, name=wanted.name, value=value, is_unique=wanted.is_unique, state="active")
        else:
            if is_first and self.trees:
                raise MalformedError(
                    f"the key of {wanted.name!r} is declared as ({', '.join(wanted.key)}) and was another: what is "
                    "there lies by its key, so give the new one another name and take the old one over in a migration"
                )
            unused = next((at for at, one in enumerate(self.trees) if self._is_spare(at, one)), None)
            memory_id = self._free_id() if unused is None else self.trees[unused].memory_id
            made = Tree(wanted.name, memory_id, key, value, wanted.width, wanted.is_unique)
            at = len(self.trees) if unused is None else unused
            self.trees[at : at + 1] = [made]
            self.built.append(made)
        self._kept.add(at)

    def _is_spare(self, at: int, tree: Tree) -> bool:
        return at not in self._kept and tree.state == "unused"

    def _found(self, key: tuple[int, ...], value: tuple[int, ...], width: int, is_first: bool) -> int | None:
        for at, one in enumerate(self.trees):
            if at in self._kept or one.state == "unused" or (one.key, one.width) != (key, width):
                continue
            if is_first == (at == 0) and (is_first or one.value == value):
                return at
        return None

    def end(self) -> None:
        for at, one in enumerate(self.trees):
            if at not in self._kept and one.state != "unused":
                self.cleared.append(one)
                self.trees[at] = replace(one, state="unused")
