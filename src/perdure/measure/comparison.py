"""What canbench prints of results beside earlier ones, to the byte: benchmarks, summary, table, CSV.

Source: canbench 0.6.0 (`canbench-bin`: `print_benchmark`, `data`, `summary`, `table`, `fmt`, `csv_file`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, final

from perdure.measure.canbench_files import FIELDS, Bench, Measurement

__all__ = ["RULE", "Entry", "Style", "benchmark_lines", "csv_lines", "entries", "report_lines"]

RULE: Final = "---------------------------------------------------"
MAX_ROWS: Final = 50
_METRICS: Final = FIELDS[1:]
_UNITS: Final = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))

Style = Callable[[str, str], str]
"""Puts a text into a style of the terminal: ``bold``, ``new``, ``regressed`` or ``improved``."""


@final
class Entry(NamedTuple):
    """One benchmark, or one scope of one, and what it was."""

    name: str
    scope: str | None
    now: Measurement
    before: Measurement | None

    @property
    def full_name(self) -> str:
        """With its scope."""
        return self.name if self.scope is None else f"{self.name}::{self.scope}"

    def delta(self, field: str) -> int | None:
        """By how much a field has changed; `None`: it is new."""
        return None if self.before is None else int(getattr(self.now, field)) - int(getattr(self.before, field))

    def percent(self, field: str) -> float | None:
        """The same in percent of what it was, infinite where that was 0."""
        delta = self.delta(field)
        if delta is None:
            return None
        before = getattr(self.before, field)
        if before == 0:
            return math.copysign(math.inf, delta) if delta else 0.0
        return float(delta) / float(before) * 100.0

    def status(self, field: str, noise_threshold: float) -> str:
        """``new``, ``unchanged``, ``improved`` or ``regressed``."""
        percent = self.percent(field)
        if percent is None:
            return "new"
        if abs(percent) < noise_threshold:
            return "unchanged"
        return "improved" if percent < 0 else "regressed"


def entries(now: Mapping[str, Bench], before: Mapping[str, Bench]) -> list[Entry]:
    """All benchmarks with their scopes, in the order of the bytes of their names."""
    found = []
    for name in sorted(now, key=str.encode):
        bench, old = now[name], before.get(name)
        found.append(Entry(name, None, bench.total, old.total if old is not None else None))
        scopes = old.scopes if old is not None else {}
        ordered = sorted(bench.scopes, key=str.encode)
        found.extend(Entry(name, scope, bench.scopes[scope], scopes.get(scope)) for scope in ordered)
    return found


# --- one benchmark


def benchmark_lines(name: str, now: Bench, before: Bench | None, noise_threshold: float, style: Style) -> Iterator[str]:
    """What is printed of one benchmark."""
    yield f"Benchmark: {style(name, 'bold')}" + ("" if before is not None else f" {style('(new)', 'new')}")
    yield "  total:"
    yield from _metrics(now.total, before.total if before is not None else None, _METRICS, noise_threshold, style)
    for scope in sorted(now.scopes, key=str.encode):
        yield ""
        yield f"  {scope} (scope):"
        old = before.scopes.get(scope) if before is not None else None
        yield from _metrics(now.scopes[scope], old, FIELDS, noise_threshold, style)


def _metrics(
    now: Measurement, before: Measurement | None, fields: Sequence[str], noise_threshold: float, style: Style
) -> Iterator[str]:
    for field in fields:
        text, kind = _metric(
            field, getattr(now, field), None if before is None else getattr(before, field), noise_threshold
        )
        yield "    " + (style(text, kind) if kind else text)


def _metric(field: str, value: int, before: int | None, noise_threshold: float) -> tuple[str, str]:
    text = f"{field}: {_readable(value)}" + (" pages" if field.endswith("_increase") else "")
    if before is None:
        return f"{text} (new)", ""
    if before == 0:
        return (f"{text} (no change)", "") if value == 0 else (f"{text} (regressed from 0)", "regressed")
    change = (float(value) - float(before)) / float(before) * 100.0
    if change == 0:
        return f"{text} (no change)", ""
    if abs(change) < noise_threshold:
        return f"{text} ({change:.2f}%) (change within noise threshold)", ""
    if change > 0:
        return f"{text} (regressed by {change:.2f}%)", "regressed"
    return f"{text} (improved by {abs(change):.2f}%)", "improved"


def _readable(value: int) -> str:
    if value < 10_000:
        return str(value)
    divisor, unit = next((one for one in reversed(_UNITS) if value < one[0] * 1_000), _UNITS[0])
    return f"{value / divisor:.2f} {unit}"


# --- all of them

_STATUS: Final = {
    (False, False, False): "No significant changes 👍",
    (True, False, False): "Regressions detected 🔴",
    (False, True, False): "Improvements detected 🟢",
    (False, False, True): "New benchmarks added ➕",
    (True, True, False): "Regressions and improvements 🔴🟢",
    (True, False, True): "Regressions and new benchmarks 🔴➕",
    (False, True, True): "Improvements and new benchmarks 🟢➕",
    (True, True, True): "Regressions, improvements, and new benchmarks 🔴🟢➕",
}
"""By whether any has regressed, improved, is new."""


def report_lines(found: Sequence[Entry], noise_threshold: float) -> Iterator[str]:
    """The summary, and the table of what has changed, each with the rule under it."""
    yield from ("", "Summary:")
    for number, field in enumerate(_METRICS):
        if number:
            yield ""
        yield from _summary(field, [one for one in found if one.scope is None], noise_threshold)
    yield from ("", RULE)
    rows = _significant(found, noise_threshold)
    if rows:
        yield from ("", "Only significant changes:")
        yield from _table(rows)
        yield from ("", RULE)


def _summary(field: str, totals: Sequence[Entry], noise_threshold: float) -> Iterator[str]:
    counts = dict.fromkeys(("regressed", "improved", "new", "unchanged"), 0)
    for one in totals:
        counts[one.status(field, noise_threshold)] += 1
    shown = " | ".join(f"{name} {count}" for name, count in {"total": len(totals), **counts}.items())
    yield f"  {field}:"
    yield f"    status:   {_STATUS[counts['regressed'] > 0, counts['improved'] > 0, counts['new'] > 0]}"
    yield f"    counts:   [{shown}]"
    deltas = sorted(delta for one in totals if (delta := one.delta(field)) is not None)
    percents = sorted(percent for one in totals if (percent := one.percent(field)) is not None)
    yield f"    change:   {_range(deltas, _signed, _rounded)}"
    yield f"    change %: {_range(percents, _percent, float)}"


def _range(ordered: Sequence[float], shown: Callable[[float], str], kind: Callable[[float], float]) -> str:
    if not ordered:
        return "n/a"
    points = {
        "max": ordered[-1],
        **{name: _percentile(ordered, q, kind) for name, q in (("p75", 75), ("median", 50), ("p25", 25))},
        "min": ordered[0],
    }
    return "[" + " | ".join(f"{name} {shown(value)}" for name, value in points.items()) + "]"


def _percentile(ordered: Sequence[float], percent: int, kind: Callable[[float], float]) -> float:
    rank = percent / 100 * (len(ordered) - 1)
    lower, upper = math.floor(rank), math.ceil(rank)
    if lower == upper:
        return ordered[lower]
    weight = rank - lower
    return kind(float(ordered[lower]) * (1.0 - weight) + float(ordered[upper]) * weight)


def _rounded(value: float) -> int:
    """To the nearest integer, halves away from zero."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def _scaled(value: float) -> tuple[float, str]:
    return next(((value / divisor, unit) for divisor, unit in _UNITS if abs(value) >= divisor), (value, ""))


def _count(value: int) -> str:
    scaled, unit = _scaled(float(value))
    return f"{scaled:.2f}{unit}" if unit else str(value)


def _signed(value: float) -> str:
    scaled, unit = _scaled(float(value))
    return "0" if value == 0 else f"{scaled:+.2f}{unit}" if unit else f"{scaled:+.0f}"


def _percent(value: float) -> str:
    return f"{value:.2f}%" if abs(value) < 0.01 else f"{value:+.2f}%"


# --- the table

_COLUMNS: Final = ("status", "name", "calls", "ins", "ins Δ%", "HI", "HI Δ%", "SMI", "SMI Δ%")


def _significant(found: Sequence[Entry], noise_threshold: float) -> list[tuple[str, Entry]]:
    rows = []
    for one in found:
        seen = {one.status(field, noise_threshold) for field in _METRICS}
        if seen == {"unchanged"}:
            continue
        signs = [sign for status, sign in (("regressed", "+"), ("improved", "-")) if status in seen]
        rows.append(("new" if one.before is None else "/".join(signs), one))
    return sorted(rows, key=lambda row: (-_growth(row[1]), row[0].encode(), row[1].full_name.encode()))


def _growth(one: Entry) -> float:
    percent = one.percent("instructions")
    return -math.inf if percent is None else percent


def _table(rows: Sequence[tuple[str, Entry]]) -> Iterator[str]:
    cells = [_row(*row) for row in rows]
    if len(cells) > MAX_ROWS:
        omitted, head = len(cells) - MAX_ROWS, MAX_ROWS // 2
        gap = ["...", f"... {omitted} row{'' if omitted == 1 else 's'} omitted ...", *[""] * (len(_COLUMNS) - 2)]
        cells = [*cells[:head], gap, *cells[head - MAX_ROWS :]]
    widths = [max(len(cell.encode()) for cell in column) for column in zip(_COLUMNS, *cells, strict=True)]  # in bytes
    yield _line(_COLUMNS, widths)
    yield "|" + "".join("-" * (width + 2) + "|" for width in widths)
    yield from (_line(row, widths) for row in cells)
    yield ""
    yield "ins = instructions, HI = heap_increase, SMI = stable_memory_increase, Δ% = percent change"


def _row(status: str, one: Entry) -> list[str]:
    cells = [status, one.full_name, _count(one.now.calls) if one.scope is not None else ""]
    for field in _METRICS:
        percent = one.percent(field)
        cells += [_count(getattr(one.now, field)), "" if percent is None else _percent(percent)]
    return cells


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    status, name, *others = cells
    room = max(0, widths[0] - len(status))
    padded = [
        " " * (room // 2) + status + " " * (room - room // 2),  # an odd blank goes to the right
        name.ljust(widths[1]),
        *(cell.rjust(width) for cell, width in zip(others, widths[2:], strict=True)),
    ]
    return "|" + "".join(f" {cell} |" for cell in padded)


# --- CSV

_CSV_FIELDS: Final = ("scope_calls", *_METRICS)


def csv_lines(found: Sequence[Entry]) -> Iterator[str]:
    """The rows of a CSV file, its head first. Commas in names are not escaped, as canbench does not."""
    yield ",".join(["status", "name", *(field + end for field in _CSV_FIELDS for end in ("", " Δ", " Δ%"))])
    for one in found:
        calls = _csv_cells(one, "calls") if one.scope is not None else ["", "", ""]
        cells = [cell for field in _METRICS for cell in _csv_cells(one, field)]
        yield ",".join(["new" if one.before is None else "", one.full_name, *calls, *cells])


def _csv_cells(one: Entry, field: str) -> list[str]:
    delta, percent = one.delta(field), one.percent(field)
    return [
        str(getattr(one.now, field)),
        "" if delta is None else str(delta),
        "" if percent is None else _csv_percent(percent),
    ]


def _csv_percent(percent: float) -> str:
    if math.isinf(percent):
        return "1.0E99" if percent > 0 else "-1.0E99"
    return f"{percent:.2f}%"
