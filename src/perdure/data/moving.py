"""Tables of the code before, as migrations name them: taken over at once, or in steps.

```
upgrade ─▶ Move(migration, table) in the catalogue      message ─▶ next rows ─▶ migration ─▶ Move(..., after)
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeVar, final, get_args, get_origin

from perdure.data.catalogue import Column, Model, Move
from perdure.data.rows import columns_of
from perdure.data.store import Store
from perdure.data.tables import Table
from perdure.errors import MalformedError
from perdure.values.annotations import Annotations
from perdure.values.format import Format

__all__ = ["ROWS_OF_A_STEP", "FormerTable", "Rows", "former_table"]

R = TypeVar("R")
ROWS_OF_A_STEP: Final = 1_000


@final
class Rows(list[R]):
    """Some rows of a table of the code before, the next ones by key: what a migration in steps is called with.

        @migration
        def by_email(self, users: Rows[User]) -> None:
            self.people.update(Person(user.email, user.id) for user in users)

    Each call is a message of its own, by the canister's timer, from the upgrade on until all rows were there.
    """


def former_table(name: str, hint: object, annotations: Annotations) -> FormerTable | None:
    """What a migration says with a parameter ``name: Table[...]`` or ``name: Rows[...]``; `None`: it is no table.

    Raises:
        TypeError: a class of no rows.
    """
    origin = get_origin(hint)
    if origin not in (Table, Rows):
        return None
    (owner,) = get_args(hint)
    columns, formats = columns_of(owner, annotations)
    return FormerTable(name, tuple(columns), owner, formats, in_steps=origin is Rows)


@final
@dataclass(frozen=True)
class FormerTable:
    """A table of the code before, as a migration names it.

    Attributes:
        name: of the table.
        columns: that it had.
        owner: the dataclass of its rows.
        formats: of its columns.
        in_steps: whether its rows are taken over in messages of their own.
    """

    name: str
    columns: tuple[Column, ...]
    owner: type[Any]
    formats: Mapping[str, Format]
    in_steps: bool = False

    def open(self, store: Store) -> Table[Any] | None:
        """The table; `None`: the code before declared none of the name.

        Raises:
            MalformedError: it had other columns.
        """
        model = store.catalogue.model(self.name)
        if model is None or model.kind != "table" or model.state == "unused":
            return None
        return self._table(store, model)

    def _table(self, store: Store, model: Model) -> Table[Any]:
        there = {one.name: one.type for one in model.columns if one.state != "unused"}
        wanted = {one.name: one.type for one in self.columns}
        if there != wanted:
            raise MalformedError(
                f"a migration takes over the table {self.name!r} with the columns {_columns(wanted)}, and it has "
                f"{_columns(there)}: name them as they are"
            )
        return Table(store, model, self.owner, self.formats)

    def moving(self, store: Store) -> Table[Any]:
        """The table, whose rows are on their way.

        Raises:
            MalformedError: it is not there, or has other columns.
        """
        model = store.catalogue.model(self.name)
        if model is None:
            raise MalformedError(f"rows of {self.name!r} are on their way, and the catalogue has no such table")
        return self._table(store, model)

    def step(self, store: Store, move: Move, most: int) -> tuple[Rows[Any], Move | None]:
        """The next rows of a move, and how far it is with them; `None`: at the end.

        Raises:
            MalformedError: the table is not there, or has other columns.
        """
        rows, last = self.moving(store).rows_after(move.after, most)
        return Rows(rows), Move(move.migration, move.table, last) if len(rows) == most else None


def _columns(types: Mapping[str, str]) -> str:
    return ", ".join(f"{name}: {one}" for name, one in types.items())
