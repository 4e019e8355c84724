"""Which pages a statement reads of a database, wherever that lies; see `perdure.inspection.sqlite_explain`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from perdure.inspection.find import Inventory, Structure
from perdure.inspection.sqlite import choose_database, guarded, locate_database, may_change, needs_apsw
from perdure.inspection.sqlite_explain import Explained, PagesOf, explain
from perdure.memory import Memory

if TYPE_CHECKING:
    from perdure.inspection.sqlite_file import Connection, DatabaseFile

__all__ = ["Explained", "PagesOf", "explain_pages"]


def explain_pages(
    where: Memory | Inventory | Structure | Connection,
    sql: str,
    bindings: Mapping[str, Any] | Sequence[Any] | None = None,
    *,
    name: str | None = None,
) -> Explained:
    """Run a statement that reads, and count its pages.

    Args:
        where: a memory with a database in it, live perhaps; what `find` has found; or an open connection.
        sql: one statement.
        bindings: for its parameters.
        name: of the database, where there are several.

    Raises:
        UnsupportedError: no database, several, or SQL that does not read.
        apsw.Error: SQLite refuses the statement.
    """
    make = _files(where, name)
    return explain(guarded, make, sql, bindings)


def _files(where: Memory | Inventory | Structure | Connection, name: str | None) -> Callable[[], DatabaseFile]:
    """What opens the file, as often as one likes."""
    needs_apsw()
    from perdure.inspection.sqlite_file import Connection, DatabaseFile, Fixed

    if isinstance(where, Connection):
        return where.file.again
    if isinstance(where, Inventory):
        where = choose_database(where, name)
    region = where.region if isinstance(where, Structure) else locate_database(where, name).region
    return lambda: DatabaseFile(Fixed(region), changes=may_change(region))
