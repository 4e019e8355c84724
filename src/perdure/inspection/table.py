"""The name that `perdure.inspection.rows` had."""

from perdure.inspection.rows import Bound, Entry, Rows, open_table
from perdure.inspection.rows import Rows as Table

__all__ = ["Bound", "Entry", "Rows", "Table", "open_table"]
