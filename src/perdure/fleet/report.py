"""What a campaign came to: counts, groups, and of whatever is not fine the command that shows it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, Final, final

from perdure.fleet.jobs import Row
from perdure.units import counted, printable

__all__ = ["Summary", "write_parquet"]

_ORDER: Final = ("found", "failed", "not certain", "fine")
_EXIT_CODES: Final = {"found": 1, "failed": 2, "not certain": 3, "fine": 0}
_LISTED: Final = 40
_ENTRY_LETTERS: Final = 300
_BATCH: Final = 10_000
"""Entries that are in memory at a time, and those of the source that reaches it."""
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
        whole: gives a row with its document, where rows are gists, see `Row.gist`.
    """

    command: str
    rows: tuple[Row, ...]
    total: int
    whole: Callable[[Row], Row] | None = None

    @classmethod
    def of(cls, command: str, rows: Sequence[Row], total: int, whole: Callable[[Row], Row] | None = None) -> Summary:
        """With the rows in order."""
        ordered = sorted(rows, key=lambda row: (_ORDER.index(row.outcome), row.source))
        return cls(command, tuple(ordered), total, whole)

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
            "rows": [asdict(row) for row in self.with_documents()],
        }

    def with_documents(self) -> Iterator[Row]:
        """The rows, with what their commands printed."""
        return iter(self.rows) if self.whole is None else map(self.whole, self.rows)

    def to_json(self) -> str:
        """One JSON object."""
        return "".join(self.pieces_of_json())

    def pieces_of_json(self) -> Iterator[str]:
        """One JSON object, row by row: documents are in memory one at a time."""
        head = json.dumps(replace(self, rows=()).to_dict() | self._counted(), indent=1, ensure_ascii=False)
        yield head.removesuffix("[]\n}") + "["
        for number, row in enumerate(self.with_documents()):
            text = json.dumps(asdict(row), indent=1, ensure_ascii=False)
            yield ("," if number else "") + "".join(f"\n  {line}" for line in text.splitlines())
        yield "\n ]\n}" if self.rows else "]\n}"

    def _counted(self) -> dict[str, Any]:
        """What is counted over the rows, in the place of what none of them give."""
        return {
            "done": len(self.rows),
            "outcomes": self.counts,
            "modules": self.groups,
            "processor_seconds": round(sum(row.processor_seconds for row in self.rows), 3),
            "exit_code": self.exit_code,
            "rows": [],
        }

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
            yield f"{outcome}: {printable(words)} ({counted(len(rows), 'source')})"
        for row in graver[:_LISTED]:
            yield f"  {printable(row.source)}: {printable(row.told)}"  # a name may have the end of a line in it
            yield f"    {row.repro}"
        if len(graver) > _LISTED:
            yield f"  and {len(graver) - _LISTED:,} more"
        if self.command == "query":
            yield from self._first_entries()

    def _first_entries(self) -> Iterator[str]:
        """The first rows that a query has found."""
        found = (
            (row.source, one) for row in self.with_documents() if isinstance(row.document, list) for one in row.document
        )
        for source, one in islice(found, _LISTED):
            yield f"{source}  {json.dumps(one, ensure_ascii=False)[:_ENTRY_LETTERS]}"
        if next(found, None) is not None:
            yield "and more, which -o DIRECTORY keeps in entries.parquet"

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

    columns: list[tuple[str, Any]] = [
        (name, kind)
        for kind, names in (
            (pyarrow.string(), ("source", "group", "mark", "outcome", "error", "repro", "document")),
            (pyarrow.int64(), ("exit_code",)),
            (pyarrow.float64(), ("seconds", "processor_seconds")),
        )
        for name in names
    ]
    schema = pyarrow.schema(columns)
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in _batches(summary):
            plain = [
                {name: _whole(value) for name, value in asdict(row).items()} | {"document": json.dumps(row.document)}
                for row in rows
            ]
            writer.write_table(pyarrow.Table.from_pylist(plain, schema))
    if entries is not None:
        _write_entries(summary, entries)


def _batches(summary: Summary) -> Iterator[list[Row]]:
    """The rows with their documents, some at a time."""
    rows: list[Row] = []
    size = 0
    for row in summary.with_documents():
        rows.append(row)
        size += 1 + (len(row.document) if isinstance(row.document, list | dict | str) else 0)
        if size >= _BATCH:
            yield rows
            rows, size = [], 0
    if rows:
        yield rows


def _write_entries(summary: Summary, path: Path) -> None:
    """The entries of all documents that are lists: read once to know their columns, and once to write them."""
    import pyarrow

    kinds: dict[str, Any] = {}  # a name's Arrow type; `None`: it is to be text
    for rows in _batches(summary):
        listed = _entries(rows)
        for name in dict.fromkeys(name for one in listed for name in one):
            kinds[name] = _joined(kinds.get(name, pyarrow.null()), [one.get(name) for one in listed])
    for name, kind in kinds.items():
        if kind is not None and "struct<>" in str(kind):  # Parquet has no column of nothing
            kinds[name] = None
    if not kinds:
        kinds["source"] = pyarrow.null()
    while (wrong := _written(summary, path, kinds)) is not None:
        kinds[wrong] = None


def _written(summary: Summary, path: Path, kinds: Mapping[str, Any]) -> str | None:
    """Write entries by the types of their columns; the name of one whose type does not have all of its values."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([(name, pyarrow.string() if kind is None else kind) for name, kind in kinds.items()])
    with parquet.ParquetWriter(path, schema) as writer:
        writer.write_table(schema.empty_table())
        for rows in _batches(summary):
            listed, arrays = _entries(rows), []
            for name, kind in kinds.items():
                try:
                    arrays.append(_column([one.get(name) for one in listed], kind))
                except pyarrow.ArrowException:  # a whole number that a column of others cannot have
                    return name
            writer.write_table(pyarrow.table(arrays, schema=schema))
    return None


def _entries(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [
        {"source": _whole(row.source)} | {_column_name(name): value for name, value in one.items()}
        for row in rows
        if isinstance(row.document, list)
        for one in row.document
        if isinstance(one, dict)
    ]


def _whole(value: Any) -> Any:
    """Text that Parquet takes: names of files may be no text."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def _column_name(name: str) -> str:
    """Another one than that of the sources, and of each other name."""
    return f"{_whole(name)}_" if name.rstrip("_") == "source" else _whole(name)


def _joined(kind: Any, values: list[Any]) -> Any:
    """An Arrow type that has what another one has, and these values; `None`: there is none but text."""
    import pyarrow

    if kind is None:
        return None
    try:
        found = pyarrow.array(values).type
        joined = pyarrow.unify_schemas(
            [pyarrow.schema([("", kind)]), pyarrow.schema([("", found)])], promote_options="permissive"
        )
        pyarrow.array(values, joined[0].type)
    except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError):
        return None
    return joined[0].type


def _column(values: list[Any], kind: Any) -> Any:
    """As a column of a type has it; of none, as text."""
    import pyarrow

    if kind is not None:
        return pyarrow.array(values, kind)
    texts = [_whole(one) if isinstance(one, str | None) else json.dumps(one) for one in values]
    return pyarrow.array(texts, pyarrow.string())
