"""What `fsck` has to say of SQLite databases, in SQLite's own words (extra ``sql``: apsw)."""

from __future__ import annotations

from itertools import islice
from typing import Final

from perdure.inspection.find import Structure
from perdure.inspection.findings import Findings
from perdure.inspection.reading_sql import Limits
from perdure.inspection.sqlite import failures, open_database, told
from perdure.inspection.sqlite_file import size_bytes_of
from perdure.memory import WASM_PAGE_BYTES
from perdure.stable.sqlite import SqliteHeader

__all__ = ["check_database"]

_MOST_MESSAGES: Final = 100


def check_database(structure: Structure, findings: Findings) -> None:
    """Let SQLite check a database: pages, cells, orders, indexes, constraints, references."""
    region = structure.region
    header = SqliteHeader.read(region)
    if header.pages * header.page_bytes > size_bytes_of(region):
        message = (
            f"{header.pages} pages of {header.page_bytes} bytes in {region.size_bytes // WASM_PAGE_BYTES} Wasm pages"
        )
        findings.add_in(region, "sqlite-truncated", message, 0)
    if header.is_wal:
        findings.add_in(region, "sqlite-wal", "the database was in WAL mode", 0)
    try:
        connection = open_database(structure, Limits(seconds=None)).connection
        for (message,) in connection.execute(f"pragma integrity_check({_MOST_MESSAGES})"):
            if message != "ok":
                findings.add_in(region, "sqlite-damaged", told(message), 0)
        for table, rowid, parent, _ in islice(connection.execute("pragma foreign_key_check"), _MOST_MESSAGES):
            message = f"row {rowid} of {table} refers to a row of {parent} that is not there"
            findings.add_in(region, "sqlite-foreign-key", message, 0)
    except failures() as error:
        findings.add_in(region, "sqlite-damaged", told(error), 0)
