"""What a stable memory keeps: its structures, databases and variables as tables, with search, paging and SQL."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final, NamedTuple, final

from perdure.errors import PerdureError, UnsupportedError
from perdure.explorer.asked import Asked, Page
from perdure.explorer.guard import HEADERS
from perdure.explorer.site import NotFoundError
from perdure.explorer.subject import Contents, contents_of
from perdure.explorer.words import cell
from perdure.gateway.http import Response
from perdure.inspection.find import KINDS, Structure
from perdure.inspection.rows import Bound, Rows, open_table

__all__ = ["data", "picture", "sql"]

_ROWS: Final = 25
_SQL_ROWS: Final = 500
_SQL_SECONDS: Final = 5.0
_SEARCH_SECONDS: Final = 1.0
_TABLE_SECONDS: Final = 2.0
"""For the rows of a page, of a view that its canister wrote for one."""
_MAX_CELL_BYTES: Final = 8 << 20
_SQLITE: Final = "sqlite"


@final
class Choice(NamedTuple):
    """Something that can be shown as a table."""

    key: str
    """In the address of its page."""
    name: str
    kind: str
    entries: int | None


@final
class Shown(NamedTuple):
    """Some rows of a table."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    after: str
    """Where the next page begins; empty: there is none."""
    note: str = ""


def data(asked: Asked) -> Page:
    """The tables of a memory, and some rows of one."""
    with contents_of(asked.subject) as contents:
        choices = list(_choices(contents))
        wanted = asked.values.get("s") or (choices[0].key if choices else "")
        chosen = next((one for one in choices if one.key == wanted), None)
        if chosen is None and wanted:
            raise NotFoundError(f"no table {wanted[:80]!r} in this memory")
        shown, words = None, ""
        if chosen is not None:
            try:
                shown = _shown(contents, chosen, asked)
            except (PerdureError, ValueError, KeyError) as error:
                words = str(error)
        facts = {"choices": choices, "chosen": chosen, "shown": shown, "words": words}
        template = "_rows.html" if asked.request.headers.get("hx-target", "").endswith("rows") else "data.html"
        return Page(template, {**facts, "values": asked.values, "tables": ", ".join(one.name for one in choices)})


def _choices(contents: Contents) -> Iterator[Choice]:
    for structure in contents.inventory.structures:
        if structure.kind in KINDS:
            yield Choice(structure.label, structure.name or structure.table_name, structure.kind, structure.entries)
        elif structure.kind == _SQLITE:
            yield from _database_choices(structure)
    for variable in contents.inventory.variables.tables():
        yield Choice(f"variable {variable.name}", variable.name, "variable", None)


def _database_choices(structure: Structure) -> Iterator[Choice]:
    from perdure.inspection.sqlite import failures, table_kinds

    unread: tuple[type[Exception], ...] = (*failures(), PerdureError)
    try:
        kinds = table_kinds(structure)
    except unread:
        return
    for name, kind in kinds.items():
        if kind != "shadow":
            yield Choice(f"sqlite {structure.label} {name}", name, f"SQLite {kind}", None)


def _shown(contents: Contents, chosen: Choice, asked: Asked) -> Shown:
    if chosen.key.startswith("variable "):
        return _shown_plain(_plain_table(contents, chosen), asked)
    if chosen.key.startswith(f"{_SQLITE} "):
        with _sql_told():
            return _shown_plain(_plain_table(contents, chosen), asked)
    table = open_table(contents.inventory.structure(chosen.key), contents.schema)
    low = _low(table, asked)
    entries = table.entries(low)
    cells = (([cell(value) for value in table.decode(entry)], entry[0]) for entry in entries)
    found, note = _searched(cells, asked.values.get("find", ""))
    return _page(table.columns, found, note, lambda key: key.hex() if isinstance(key, bytes) else str(key))


def _low(table: Rows, asked: Asked) -> Bound | None:
    after, start = asked.values.get("after", ""), asked.values.get("from", "")
    if after:
        return Bound(int(after) if table.key is None else bytes.fromhex(after), is_inclusive=False)
    if start:
        try:
            return Bound(int(start, 0) if table.key is None else table.key.from_text(start))
        except ValueError as error:
            what = "position" if table.key is None else f"key ({table.key.name})"
            raise ValueError(f"{start[:80]!r} is no {what}: {error}") from error
    return None


def _searched(cells: Iterator[tuple[list[str], Any]], wanted: str) -> tuple[Iterator[tuple[list[str], Any]], list[str]]:
    """Those that have a text in one of their cells, as far as one gets in a while."""
    note: list[str] = []
    if not wanted:
        return cells, note

    def search() -> Iterator[tuple[list[str], Any]]:
        until, lower = time.monotonic() + _SEARCH_SECONDS, wanted.lower()
        for looked, (row, key) in enumerate(cells, 1):
            if any(lower in one.lower() for one in row):
                yield row, key
            if time.monotonic() > until:
                note.append(f"searched {looked:,} entries, and stopped there: SQL looks further")
                return

    return search(), note


def _page(columns: Sequence[str], found: Iterator[tuple[list[str], Any]], note: list[str], write: Any) -> Shown:
    rows = list(islice(found, _ROWS + 1))
    more = len(rows) > _ROWS
    return Shown(columns, [row for row, _ in rows[:_ROWS]], write(rows[_ROWS - 1][1]) if more else "", "".join(note))


def _plain_table(contents: Contents, chosen: Choice) -> Any:
    kind, _, rest = chosen.key.partition(" ")
    if kind == "variable":
        return next(one for one in contents.inventory.variables.tables() if one.name == rest)
    from perdure.inspection.sqlite import KINDS as TABLES
    from perdure.inspection.sqlite import open_database
    from perdure.reading_sql import Limits

    label, _, name = rest.partition(" ")
    limits = Limits(seconds=_TABLE_SECONDS, length_bytes=_MAX_CELL_BYTES)
    return open_database(contents.inventory.structure(label), limits).tables(TABLES, {name})[0]


@contextmanager
def _sql_told() -> Iterator[None]:
    """Say what SQLite says."""
    from perdure.inspection.sqlite import failures, told

    try:
        yield
    except failures() as error:
        raise UnsupportedError(f"SQL: {told(error)}") from error
    except MemoryError as error:
        raise UnsupportedError("SQL: a row is larger than the memory that it may take") from error


def _shown_plain(table: Any, asked: Asked) -> Shown:
    """Rows of a table of SQLite, or of a variable, which are counted to be found again."""
    skip = asked.number("after")
    numbered = (([cell(value) for value in row], number) for number, row in _past(table.rows(), skip))
    found, note = _searched(numbered, asked.values.get("find", ""))
    return _page(table.columns, found, note, str)


def _past(rows: Iterator[Sequence[object]], skip: int) -> Iterator[tuple[int, Sequence[object]]]:
    """Those behind the first ones, numbered, if it does not take long to pass these."""
    until = time.monotonic() + _TABLE_SECONDS
    for number, row in enumerate(rows, 1):
        if number > skip:
            yield number, row
        elif time.monotonic() > until:
            raise UnsupportedError(f"row {skip:,} is too far away to be counted to: SQL looks further")


def sql(asked: Asked) -> Page:
    """Rows of a query, which reads and is cut off where it takes long."""
    from perdure.inspection.sql import connect
    from perdure.inspection.sqlite import failures
    from perdure.reading_sql import Limits

    text = asked.values.get("sql", "").strip()
    if not text:
        raise ValueError("write a query, such as: select * from ...")
    begun = time.monotonic()
    with contents_of(asked.subject) as (inventory, schema):
        limits = Limits(seconds=_SQL_SECONDS, length_bytes=_MAX_CELL_BYTES)
        with _sql_told():
            connection = connect(inventory, schema, limits=limits)
            try:
                cursor = connection.execute(text)
                columns = [one[0] for one in cursor.get_description()] if cursor.is_readonly else []
                rows = [[cell(value) for value in row] for row in islice(cursor, _SQL_ROWS + 1)]
            except failures() as error:
                if type(error).__name__ != "ExecutionCompleteError":
                    raise
                columns, rows = [], []
    note = f"{min(len(rows), _SQL_ROWS):,} rows in {time.monotonic() - begun:.2f} s"
    if len(rows) > _SQL_ROWS:
        note = f"the first {note}: there are more"
    return Page("_sql.html", {"columns": columns, "rows": rows[:_SQL_ROWS], "note": note})


def picture(asked: Asked) -> Response:
    """The map of a memory."""
    from perdure.inspection.occupancy import to_svg

    with contents_of(asked.subject) as (inventory, _):
        text = to_svg(inventory, columns=48, rows=9)  # as heavy as a page may be
    headers = (("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox"), *HEADERS[1:])
    return Response(200, text.encode("utf-8", "replace"), "image/svg+xml", headers)
