"""What `fsck` has to say of SQLite databases, in SQLite's own words (extra ``sql``: apsw)."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from perdure.inspection.find import Structure
from perdure.inspection.findings import Findings
from perdure.inspection.sqlite import failures, open_database, told
from perdure.inspection.sqlite_file import size_bytes_of
from perdure.memory import WASM_PAGE_BYTES
from perdure.reading_sql import Limits
from perdure.stable.sqlite import SqliteHeader

if TYPE_CHECKING:
    from apsw import Connection

__all__ = ["check_database"]

_MOST_MESSAGES: Final = 100


def check_database(structure: Structure, findings: Findings) -> None:
    """Let SQLite check a database: pages, cells, orders, indexes, constraints, references."""
    region = structure.region
    header = SqliteHeader.read(region)
    if header.is_wal:
        findings.add_in(region, "sqlite-wal", "the database is in WAL mode", 0)
    if header.pages * header.page_bytes > size_bytes_of(region):
        message = (
            f"{header.pages} pages of {header.page_bytes} bytes in {region.size_bytes // WASM_PAGE_BYTES} Wasm pages"
        )
        findings.add_in(region, "sqlite-truncated", message, 0)
        return  # whatever else is wrong is that
    try:
        connection = open_database(structure, Limits(seconds=None)).connection
        damages = _damages(connection)
        for damage in damages:
            findings.add_in(region, "sqlite-damaged", damage, 0)
        if damages:
            return
        for table, rowid, parent, _ in islice(connection.execute("pragma foreign_key_check"), _MOST_MESSAGES):
            message = f"row {rowid} of {table} refers to a row of {parent} that is not there"
            findings.add_in(region, "sqlite-foreign-key", message, 0)
    except failures() as error:
        findings.add_in(region, "sqlite-damaged", told(error), 0)


def _damages(connection: Connection) -> list[str]:
    """What the check of the whole database says, each damage once.

    Pages and cells come first, in one row that begins with the name of the database, and then what does not fit
    together. Where a page is damaged its rows are missing in every index, and the other way round.
    """
    listed: list[str] = []
    try:
        for (message,) in connection.execute(f"pragma integrity_check({_MOST_MESSAGES})"):
            listed.append(str(message))
    except failures():
        if not listed:
            raise
    if listed[0].startswith("*** in database"):
        return [line for line in listed[0].splitlines()[1:] if line]
    return [told(message) for message in listed if message != "ok"]
