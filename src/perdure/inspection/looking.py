"""Tables as people look at them in Python: row by row, as Arrow, pandas and polars have them, drawn in a notebook."""

from __future__ import annotations

import html
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from itertools import islice
from typing import Any, Final, final

from perdure.errors import UnsupportedError
from perdure.units import counted
from perdure.values.format import Value
from perdure.values.show import to_text

__all__ = ["Looked", "Tables", "html_table"]

_SHOWN_ROWS: Final = 20
_SHOWN_CHARACTERS: Final = 80
_ARROW: Final = "perdure.inspection.arrow"
"""Looked up by its name when it is asked for: it knows all tables, and so stands above this."""


class Looked(ABC):
    """What every table offers: the entries of a structure, a table of an SQLite database, a stable variable of Motoko.

    Attributes:
        name: of the table.
        columns: names of the columns, in order.
    """

    name: Any
    columns: Any

    @abstractmethod
    def _tuples(self) -> Iterator[tuple[Value, ...]]:
        """All rows, decoded."""

    def __iter__(self) -> Iterator[dict[str, Value]]:
        """The rows, in the order of the table, each by the names of its columns.

        Raises:
            MalformedError: while reading, where the bytes are damaged.
        """
        columns = self.columns
        return (dict(zip(columns, row, strict=True)) for row in self._tuples())

    def to_arrow(self) -> Any:
        """A `pyarrow.Table`, records and lists as nested columns; what does not decode is null (extra ``columns``).

        Raises:
            UnsupportedError: pyarrow is not installed.
            MalformedError: the bytes are damaged.
        """
        try:
            arrow = import_module(_ARROW)
        except ImportError as error:
            raise UnsupportedError("Arrow needs `pip install 'perdure[columns]'`").coded("extra-missing") from error
        return arrow.to_table(self)

    def to_pandas(self) -> Any:
        """A `pandas.DataFrame`; raises as `to_arrow`, and where pandas is not installed."""
        table = self.to_arrow()
        _needed("pandas")
        return table.to_pandas()

    def to_polars(self) -> Any:
        """A `polars.DataFrame`; raises as `to_arrow`, and where polars is not installed."""
        table = self.to_arrow()
        return _needed("polars").from_arrow(table)

    def _repr_html_(self) -> str:
        rows = list(islice(self._tuples(), _SHOWN_ROWS + 1))
        more = f" (the first {_SHOWN_ROWS} rows)" if len(rows) > _SHOWN_ROWS else ""
        return html_table(f"{self.name}{more}", self.columns, rows[:_SHOWN_ROWS])


def _needed(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise UnsupportedError(f"this needs `pip install {module}`").coded("extra-missing") from error


def html_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """A table for a notebook; nothing of what it shows is taken for HTML."""
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(_brief(value))}</td>' for value in row)}</tr>" for row in rows)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def _brief(value: object) -> str:
    text = "" if value is None else str(to_text(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


@final
class Tables(Mapping[str, Looked]):
    """The tables in a memory, by name.

    Args:
        label: whose they are.
        tables: what can be read.
        reasons: why other structures cannot.
    """

    def __init__(self, label: str, tables: Iterable[Looked], reasons: Iterable[str] = ()) -> None:
        self.label = label
        self.reasons = tuple(reasons)
        self._tables = {str(table.name): table for table in tables}

    def __getitem__(self, name: str) -> Looked:
        if name not in self._tables:
            known = ", ".join(self._tables) or "none"
            raise KeyError(
                f"no table {name!r} in {self.label}, found {known}{''.join(f'; {one}' for one in self.reasons)}"
            )
        return self._tables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)

    def __repr__(self) -> str:
        lines = [
            f"<{counted(len(self), 'table')} in {self.label}",
            *(f"{name}: {', '.join(map(str, one.columns))}" for name, one in self.items()),
        ]
        return "\n  ".join([*lines, *(f"(not read: {one})" for one in self.reasons)]) + ">"

    def _repr_html_(self) -> str:
        rows = ((name, ", ".join(map(str, one.columns))) for name, one in self.items())
        return html_table(f"tables in {self.label}", ("table", "columns"), rows)
