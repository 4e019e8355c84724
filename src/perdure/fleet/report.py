"""What a campaign came to: counts, groups, and of whatever is not fine the command that shows it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any, Final, final

from perdure.fleet.jobs import Row
from perdure.units import counted

__all__ = ["Summary", "write_parquet"]

_ORDER: Final = ("found", "failed", "not certain", "fine")
_EXIT_CODES: Final = {"found": 1, "failed": 2, "not certain": 3, "fine": 0}
_LISTED: Final = 40
_COLOURS: Final = {"found": "#b3261e", "failed": "#5f6368", "not certain": "#a15c00", "fine": "#2e7d32"}
_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:80rem;margin:2rem auto;padding:0 1rem;color:#202124}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.25rem .5rem;border-bottom:1px solid "
    "#dadce0;overflow-wrap:anywhere;vertical-align:top}"
)


@final
@dataclass(frozen=True)
class Summary:
    """The rows of a campaign.

    Attributes:
        command: which.
        rows: gravest first, then by source.
        total: sources that there are; more than rows where the campaign was ended.
    """

    command: str
    rows: tuple[Row, ...]
    total: int

    @classmethod
    def of(cls, command: str, rows: Sequence[Row], total: int) -> Summary:
        """With the rows in order."""
        ordered = sorted(rows, key=lambda row: (_ORDER.index(row.outcome), row.source))
        return cls(command, tuple(ordered), total)

    @property
    def counts(self) -> dict[str, int]:
        """How many rows there are of each outcome, gravest first."""
        found = Counter(row.outcome for row in self.rows)
        return {outcome: found[outcome] for outcome in _ORDER if found[outcome]}

    @property
    def exit_code(self) -> int:
        """1 something was found, 2 something could not be done, 3 not certain, 0 fine: the first of these."""
        return next((_EXIT_CODES[one] for one in self.counts), 0)

    @property
    def groups(self) -> dict[str, dict[str, int]]:
        """How many rows there are of each outcome, by the hash of the module; those without one do not count."""
        found: dict[str, Counter[str]] = {}
        for row in self.rows:
            if row.group:
                found.setdefault(row.group, Counter())[row.outcome] += 1
        return {group: dict(counts) for group, counts in sorted(found.items(), key=lambda one: -one[1].total())}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "command": self.command,
            "sources": self.total,
            "done": len(self.rows),
            "outcomes": self.counts,
            "modules": self.groups,
            "processor_seconds": round(sum(row.processor_seconds for row in self.rows), 3),
            "exit_code": self.exit_code,
            "rows": [asdict(row) for row in self.rows],
        }

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """For people: counts, then the first of what is not fine."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        told = ", ".join(f"{count:,} {outcome}" for outcome, count in self.counts.items()) or "none done"
        modules = f" of {counted(len(self.groups), 'module')}" if self.groups else ""
        yield f"{counted(self.total, 'source')}{modules}: {told}"
        if len(self.rows) < self.total:
            yield f"{self.total - len(self.rows):,} not done"
        graver = [row for row in self.rows if row.outcome != "fine"]
        for (outcome, words), rows in _alike(graver).items():
            yield f"{outcome}: {words} ({counted(len(rows), 'source')})"
        for row in graver[:_LISTED]:
            yield f"  {row.source}: {row.told}"
            yield f"    {row.repro}"
        if len(graver) > _LISTED:
            yield f"  and {len(graver) - _LISTED:,} more"

    def to_html(self) -> str:
        """One page that asks for nothing from outside; everything in it is escaped."""
        return "".join(self._page())

    def _page(self) -> Iterator[str]:
        yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        yield f"<title>fleet {_text(self.command)}</title><style>{_STYLE}</style></head><body>"
        yield f"<h1>fleet {_text(self.command)}</h1><p>{self.total:,} sources, {len(self.rows):,} done</p><table>"
        yield "<tr><th>module<th>found<th>failed<th>not certain<th>fine</tr>"
        for group, counts in self.groups.items():
            cells = "".join(f"<td>{counts.get(outcome, 0):,}" for outcome in _ORDER)
            yield f"<tr><td><code>{_text(group[:16])}</code>{cells}</tr>"
        yield "</table><h2>Sources</h2><table><tr><th>source<th>outcome<th>what<th>seconds<th>to see it</tr>"
        for row in self.rows:
            mark = f'<b style="color:{_COLOURS[row.outcome]}">{row.outcome}</b>'
            yield f"<tr><td>{_text(row.source)}<td>{mark}<td>{_text(row.told)}<td>{row.seconds:.1f}"
            yield f"<td><code>{_text(row.repro)}</code></tr>"
        yield "</table></body></html>\n"


def _alike(rows: Sequence[Row]) -> Mapping[tuple[str, str], list[Row]]:
    """Rows that came to the same, the most first."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.outcome, row.told), []).append(row)
    return dict(sorted(found.items(), key=lambda one: -len(one[1])))


def _text(text: str) -> str:
    return escape("".join(letter if letter.isprintable() else "\ufffd" for letter in text))


def write_parquet(summary: Summary, path: Path, entries: Path | None = None) -> None:
    """Write the rows as Parquet.

    Args:
        summary: of the campaign.
        path: a row for each source; what the command printed is JSON in the column ``document``.
        entries: where documents are lists of objects, as a query's are: a row for each of these, with its source, and
            a column for each of their names; a name with values of several kinds has text.
    """
    import pyarrow
    from pyarrow import parquet

    plain = [
        {name: _whole(value) for name, value in asdict(row).items()} | {"document": json.dumps(row.document)}
        for row in summary.rows
    ]
    columns: list[tuple[str, Any]] = [
        (name, kind)
        for kind, names in (
            (pyarrow.string(), ("source", "group", "mark", "outcome", "error", "repro", "document")),
            (pyarrow.int64(), ("exit_code",)),
            (pyarrow.float64(), ("seconds", "processor_seconds")),
        )
        for name in names
    ]
    parquet.write_table(pyarrow.Table.from_pylist(plain, pyarrow.schema(columns)), path)
    if entries is None:
        return
    listed = [
        {"source": _whole(row.source)} | {_column_name(name): value for name, value in one.items()}
        for row in summary.rows
        if isinstance(row.document, list)
        for one in row.document
        if isinstance(one, dict)
    ]
    names = dict.fromkeys(name for one in listed for name in one)
    arrays = {name: _column([one.get(name) for one in listed]) for name in names or {"source": None}}
    parquet.write_table(pyarrow.table(arrays), entries)


def _whole(value: Any) -> Any:
    """Text that Parquet takes: names of files may be no text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _column_name(name: str) -> str:
    """Another one than that of the sources, and of each other name."""
    return f"{_whole(name)}_" if name.rstrip("_") == "source" else _whole(name)


def _column(values: list[Any]) -> Any:
    """As Arrow has it; text where values are of several kinds, or of none that it or Parquet has."""
    import pyarrow

    try:
        found = pyarrow.array(values)
        if "struct<>" not in str(found.type):  # Parquet has no column of nothing
            return found
        texts: list[Any] = [one if one is None else json.dumps(one) for one in values]
        return pyarrow.array(texts, pyarrow.string())
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        texts = [_whole(one) if isinstance(one, str | None) else json.dumps(one) for one in values]
        return pyarrow.array(texts, pyarrow.string())
