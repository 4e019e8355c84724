"""Reports for browsers and CI: one HTML page without requests to anywhere, and JUnit. Everything in them is escaped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Final, Protocol

from perdure.errors import located
from perdure.upgrade.check_hooks import Usage
from perdure.upgrade.finding import Finding, MemoryRow, Verdict

__all__ = ["junit", "page"]

_COLOURS: Final = {
    "safe": "#2e7d32",
    "breaking": "#b3261e",
    "not certain": "#a15c00",
    "warning": "#a15c00",
    "note": "#5f6368",
}
_STYLE: Final = """
body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#202124}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}code,td{overflow-wrap:anywhere}
.mark{color:#fff;border-radius:.3rem;padding:.1rem .5rem;font-weight:600}
.finding{border-left:.3rem solid;padding:.2rem 0 .2rem .8rem;margin:1rem 0}
dl{display:grid;grid-template-columns:5rem 1fr;margin:.3rem 0}dt{color:#5f6368}dd{margin:0;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .5rem;border-bottom:1px solid #dadce0}
svg{width:100%;height:auto}
"""


class _Told(Protocol):
    """What is told here of a report."""

    @property
    def source(self) -> str: ...
    @property
    def verdict(self) -> Verdict: ...
    @property
    def findings(self) -> Sequence[Finding]: ...
    @property
    def old_hash(self) -> str: ...
    @property
    def new_hash(self) -> str: ...
    @property
    def limits(self) -> Sequence[Usage]: ...
    @property
    def memories(self) -> Sequence[MemoryRow]: ...
    @property
    def calls(self) -> Mapping[str, int]: ...
    @property
    def untried(self) -> Mapping[str, str]: ...
    @property
    def way_back(self) -> bool | None: ...
    def of(self, *severities: str) -> list[Finding]: ...


def page(report: _Told) -> str:
    """A whole page."""
    return "".join(_page(report))


def _page(report: _Told) -> Iterator[str]:
    title = f"{report.source}: {report.verdict}"
    yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    yield "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    yield f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>"
    colour = _COLOURS[report.verdict]
    yield f'<h1>Upgrade check <span class="mark" style="background:{colour}">{_text(report.verdict)}</span></h1>'
    old, new = report.old_hash[:16], report.new_hash[:16]
    yield f"<p>{_text(report.source)}<br>module <code>{old}</code> to <code>{new}</code></p>"
    if not report.findings:
        yield "<p>Nothing was found.</p>"
    for one in report.findings:
        yield from _finding(one)
    yield "<h2>Stable memory before and after</h2>"
    yield _bars(report.memories)
    yield "<table><tr><th>memory<th>before<th>after<th>exercised by</tr>"
    for row in report.memories:
        cells = (
            row.name or f"memory {row.memory}",
            _side(row.old_kind, row.old_entries),
            _side(row.new_kind, row.new_entries),
            row.exercised or "nothing",
        )
        yield "<tr>" + "".join(f"<td>{_text(cell)}" for cell in cells) + "</tr>"
    yield "</table><h2>Limits</h2><table><tr><th>what<th>used<th>limit<th>left</tr>"
    for usage in report.limits:
        left = f"{usage.left_percent:.1f} %"
        yield f"<tr><td>{_text(usage.what)}<td>{usage.used:,}<td>{usage.limit:,} {usage.unit}<td>{left}</tr>"
    yield "</table><h2>What was tried</h2><ul>"
    for origin, count in report.calls.items():
        yield f"<li>{count} calls: {_text(origin)}"
    for name, why in report.untried.items():
        yield f"<li>not tried: <code>{_text(name)}</code>: {_text(why)}"
    if report.way_back is not None:
        yield f"<li>way back to the old module: {'yes' if report.way_back else 'no'}"
    yield "</ul></body></html>\n"


def _finding(one: Finding) -> Iterator[str]:
    colour = _COLOURS[one.severity]
    yield f'<div class="finding" style="border-color:{colour}"><b style="color:{colour}">{_text(one.severity)}</b> '
    yield f"<code>{_text(one.code)}</code> {_text(one.what)}<dl>"
    for title, text in one.parts:
        yield f"<dt>{title}<dd>{_text(text)}"
    if one.backtrace:
        yield "<dt>at<dd>" + "<br>".join(f"<code>{_text(frame)}</code>" for frame in located(one.backtrace)[:12])
    yield "</dl></div>"


def _side(kind: str | None, entries: int | None) -> str:
    return "-" if kind is None else kind if entries is None else f"{kind}, {entries:,} entries"


def _bars(rows: Sequence[MemoryRow]) -> str:
    """A bar for each structure, before above after, by bytes."""
    most = max((size for row in rows for size in (row.old_bytes, row.new_bytes)), default=0)
    if not most:
        return "<p>It is empty.</p>"
    height = 40 * len(rows)
    parts = [f'<svg viewBox="0 0 800 {height}" role="img" aria-label="bytes of each structure before and after">']
    for index, row in enumerate(rows):
        top = 40 * index
        parts.append(
            f'<text x="0" y="{top + 20}" font-size="13">{_text((row.name or "memory " + row.memory)[:24])}</text>'
        )
        for size, colour, shift in ((row.old_bytes, "#9aa0a6", 4), (row.new_bytes, "#1a73e8", 18)):
            width = 500 * size / most
            parts.append(f'<rect x="180" y="{top + shift}" width="{width:.1f}" height="11" fill="{colour}"/>')
            parts.append(f'<text x="{190 + width:.1f}" y="{top + shift + 10}" font-size="10">{size:,} bytes</text>')
    return "".join((*parts, "</svg>"))


def _text(text: str) -> str:
    return escape("".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text))


def junit(report: _Told) -> str:
    """One suite, a case for each finding that moves the verdict, and one for the upgrade as a whole."""
    failures, open_ones = report.of("breaking"), report.of("not certain")
    cases = [f'<testcase classname="perdure.upgrade" name="{_text(report.source)}"/>'] if not failures else []
    cases.extend(_case(one, "failure") for one in failures)
    cases.extend(_case(one, "skipped") for one in open_ones)
    head = (
        f'<testsuite name="perdure upgrade-check" tests="{len(cases)}" failures="{len(failures)}" '
        f'skipped="{len(open_ones)}" errors="0">'
    )
    return f'<?xml version="1.0" encoding="utf-8"?>\n<testsuites>{head}{"".join(cases)}</testsuite></testsuites>\n'


def _case(one: Finding, element: str) -> str:
    body = "\n".join(
        filter(None, (one.old and f"before: {one.old}", one.new and f"after: {one.new}", one.why, one.remedy))
    )
    kind = f' type="{_text(one.code)}"' if element == "failure" else ""
    return (
        f'<testcase classname="perdure.upgrade.{_text(one.code)}" name="{_text(one.where or one.code)}">'
        f'<{element}{kind} message="{_text(one.what)}">{_text(body)}</{element}></testcase>'
    )
