"""Coverage as others read it: a table, lcov's tracefiles, a page of HTML.

Source: "geninfo(1)", FILES, of lcov 1.16 and 2.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Final, NamedTuple, final

from perdure.measure.coverage import Coverage, CoveredModule
from perdure.measure.paths import one_line

__all__ = ["Totals", "html", "lcov", "own_files", "percentage", "table", "totals"]

_FOREIGN: Final = re.compile(
    r"(^|/)(rustc/[0-9a-f]{40}|\.cargo/(registry|git)|\.rustup|rustlib|index\.crates\.io-[0-9a-f]+|crates\.io-[0-9a-f]+"
    r"|ziglang|zig/lib|emsdk|emscripten|node_modules|\.mops)(/|$)|^/(usr|nix/store|opt)/"
)
"""Paths of compilers' libraries and of packages, which nobody means who asks for the coverage of their code."""
_MAX_NAMED: Final = 40
_MAX_SOURCE_BYTES: Final = 4 << 20
Lines = Mapping[int, int]


@final
class Totals(NamedTuple):
    """Counts over everything."""

    lines: int
    lines_run: int
    functions: int
    functions_run: int
    blocks: int
    blocks_run: int


def own_files(coverage: Coverage, sources: Sequence[Path] = (), root: Path | None = None) -> dict[str, Lines]:
    """Files and how often their lines have run, without those of compilers and packages.

    Args:
        coverage: what has run.
        sources: directories or files; if there are any, only what is in them.
        root: which relative paths are relative to; by default where the process is.
    """
    base = (root or Path()).resolve()
    within = [(base / one).resolve() for one in sources]

    def is_own(file: str) -> bool:
        if not within:
            return not _FOREIGN.search(file)
        path = (base / file).resolve()
        return any(path == one or one in path.parents for one in within)

    return {file: lines for file, lines in coverage.files().items() if is_own(file)}


def totals(coverage: Coverage, files: Mapping[str, Lines]) -> Totals:
    """Counts: lines of these files, functions and blocks of all modules."""
    counts = [list(map(bool, lines.values())) for lines in files.values()]
    functions = [function.counts for module in coverage.modules for function in module.functions()]
    return Totals(
        sum(map(len, counts)),
        sum(map(sum, counts)),
        len(functions),
        sum(bool(one[0]) for one in functions),
        sum(map(len, functions)),
        sum(sum(map(bool, one)) for one in functions),
    )


def percentage(found: Totals) -> float:
    """Of lines, or of blocks where no lines are known; 100 of nothing."""
    all_, run = (found.lines, found.lines_run) if found.lines else (found.blocks, found.blocks_run)
    return 100 * run / all_ if all_ else 100.0


# --- text


def table(coverage: Coverage, files: Mapping[str, Lines]) -> str:
    """Lines by file with those that have not run, and functions and blocks by module."""
    rows = [
        (one_line(file), len(lines), sum(map(bool, lines.values())), _not_run(lines)) for file, lines in files.items()
    ]
    width = max([len("module"), *(len(row[0]) for row in rows), *(len(_title(one)) for one in coverage.modules)])
    out = []
    if rows:
        out.append(f"{'file':{width}} {'lines':>8} {'run':>8} {'%':>6}  not run")
        out += [
            f"{file:{width}} {count:>8,} {run:>8,} {_percent(run, count)}  {gaps}" for file, count, run, gaps in rows
        ]
        lines, run = sum(row[1] for row in rows), sum(row[2] for row in rows)
        out += [f"{'all':{width}} {lines:>8,} {run:>8,} {_percent(run, lines)}", ""]
    out.append(f"{'module':{width}} {'functions':>9} {'run':>8} {'blocks':>9} {'run':>9} {'%':>6}")
    for module in coverage.modules:
        functions, called, blocks, run = _counts(module)
        out.append(
            f"{_title(module):{width}} {functions:>9,} {called:>8,} {blocks:>9,} {run:>9,} {_percent(run, blocks)}"
        )
    if not rows and coverage.modules:
        out += ["", "no lines: the modules have no debug sections (.debug_line), or none of these sources"]
    return "\n".join([*out, *map(one_line, coverage.warnings)]) + "\n"


def _title(module: CoveredModule) -> str:
    return f"{one_line(module.name)} ({module.module_hash[:8]})"


def _counts(module: CoveredModule) -> tuple[int, int, int, int]:
    functions = list(module.functions())
    return (
        len(functions),
        sum(bool(one.counts[0]) for one in functions),
        len(module.counts),
        sum(map(bool, module.counts)),
    )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole if whole else 100.0:>6.1f}"


def _not_run(lines: Lines) -> str:
    """Lines that have not run, those between which no other has code as one range."""
    ranges = []
    for has_run, group in groupby(lines, key=lambda line: lines[line] > 0):
        if not has_run:
            first, *rest = group
            ranges.append(f"{first}-{rest[-1]}" if rest else f"{first}")
    shown = ", ".join(ranges[:_MAX_NAMED])
    return f"{shown}, ... ({len(ranges) - _MAX_NAMED} more)" if len(ranges) > _MAX_NAMED else shown


# --- lcov


def lcov(coverage: Coverage, files: Mapping[str, Lines], root: Path | None = None) -> str:
    """A tracefile, which genhtml and code hosts read: absolute paths where the files are there."""
    functions = _functions_by_file(coverage)
    out = []
    for file, lines in files.items():
        named = functions.get(file, {})
        out += ["TN:", f"SF:{_printed(_existing(file, root))}"]
        out += [f"FN:{line},{name}" for name, (line, _) in named.items()]
        out += [f"FNDA:{count},{name}" for name, (_, count) in named.items()]
        out += [f"FNF:{len(named)}", f"FNH:{sum(count > 0 for _, count in named.values())}"]
        out += [f"DA:{line},{count}" for line, count in lines.items()]
        out += [f"LF:{len(lines)}", f"LH:{sum(map(bool, lines.values()))}", "end_of_record"]
    return "".join(f"{line}\n" for line in out)


def _functions_by_file(coverage: Coverage) -> dict[str, dict[str, tuple[int, int]]]:
    """By file and name the line and how often it was called; copies that a compiler makes of one are one."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for module in coverage.modules:
        for function in module.functions():
            if function.file:
                named = found.setdefault(function.file, {})
                line, count = named.get(_printed(function.name), (function.line, 0))
                named[_printed(function.name)] = min(line, function.line), count + function.counts[0]
    return found


def _printed(text: str) -> str:
    """On one line: names are whatever a module says."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def _existing(file: str, root: Path | None) -> str:
    path = (root or Path()).resolve() / file
    return str(path) if path.is_file() else file


# --- HTML


def html(coverage: Coverage, files: Mapping[str, Lines], root: Path | None = None, sources: Sequence[Path] = ()) -> str:
    """One page that needs nothing else: a summary, and each file with what has run of it.

    A module may name any file of this machine. Only those below `root` and in `sources` are read.
    """
    places = [(root or Path()).resolve(), *((root or Path()).resolve() / one for one in sources)]
    found = totals(coverage, files)
    rows = "".join(
        f'<tr><td><a href="#f{number}">{_text(file)}</a><td>{len(lines)}<td>{sum(map(bool, lines.values()))}'
        f"<td>{_percent(sum(map(bool, lines.values())), len(lines))}"
        for number, (file, lines) in enumerate(files.items())
    )
    modules = "".join(
        f"<tr><td>{_text(_title(one))}" + "".join(f"<td>{count}" for count in _counts(one)) for one in coverage.modules
    )
    shown = "".join(
        f'<details id="f{number}" open><summary>{_text(file)}</summary>'
        f'<table class="s">{_source(file, lines, places)}</table></details>'
        for number, (file, lines) in enumerate(files.items())
    )
    uncalled = "".join(_uncalled(one) for one in coverage.modules)
    warnings = "".join(f"<p>{_text(one)}" for one in coverage.warnings)
    return (
        f"<!doctype html><meta charset=utf-8><title>Coverage</title><style>{_STYLE}</style><h1>Coverage</h1>{warnings}"
        f"<p>{percentage(found):.1f} % of {'lines' if found.lines else 'blocks'}, "
        f"{found.functions_run:,} of {found.functions:,} functions"
        f"<table><tr><th>file<th>lines<th>run<th>%{rows}</table>"
        f"<table><tr><th>module<th>functions<th>called<th>blocks<th>run{modules}</table>{shown}{uncalled}\n"
    )


_STYLE: Final = (
    "body{font-family:sans-serif;margin:1em}table{border-collapse:collapse;margin:1em 0}td,th{padding:1px 8px;"
    "text-align:right}td:first-child,th:first-child{text-align:left}.s td{font-family:monospace;white-space:pre}"
    ".s td:last-child{text-align:left}.y{background:#dfd}.n{background:#fdd}summary{font-weight:bold;margin-top:1em}"
)


def _source(file: str, lines: Lines, within: Sequence[Path]) -> str:
    path = (within[0] / file).resolve()
    written: Mapping[int, str] = dict.fromkeys(lines, "")
    is_own = any(path == one or one in path.parents for one in (place.resolve() for place in within))
    if is_own and path.is_file() and path.stat().st_size <= _MAX_SOURCE_BYTES:
        written = dict(enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1))
    return "".join(
        f"<tr{_RUN[lines[line] > 0] if line in lines else ''}><td>{line}<td>{lines.get(line, '')}<td>{_text(text)}"
        for line, text in written.items()
    )


_RUN: Final = {True: ' class="y"', False: ' class="n"'}


def _uncalled(module: CoveredModule) -> str:
    names = sorted(one.name for one in module.functions() if not one.counts[0])
    items = "".join(f"<li>{_text(name)}" for name in names)
    summary = f"{_text(_title(module))}: {len(names)} functions not called"
    return f"<details><summary>{summary}</summary><ul>{items}</ul></details>"


def _text(text: str) -> str:
    return escape("".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text))
