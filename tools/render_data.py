"""Render what the benchmarks of data say into docs/data-figures.md and its pictures; `render_performance.py` runs it.

Tables and pictures come from the figures alone. The sentences below say why numbers are as they are, and name no number
that a run could change.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from perdure.picture import Series, bars, lines

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "data-figures.md"
PICTURES = ROOT / "docs" / "pictures"
RESULTS = ROOT / "docs" / "performance.json"
OWN = ("ways_figures", "cell_figures", "model_figures")
"""Benchmarks whose figures are here, and not in docs/performance.md."""

Figures: TypeAlias = Mapping[str, float]
Result: TypeAlias = Mapping[str, Any]

BY_HAND = {"Candid": 0, "Protobuf": 6, "JSON": 0, "CBOR": 0, "flatbuffers": 31, "fixed struct": 29}
"""Lines for a user of six fields in tests/canisters/rust/ways/src/formats.rs, beside `derive`."""
CELLS = {
    "size": "bytes",
    "encode": "encode",
    "decode": "decode",
    "one number": "one number",
    "from stable memory, all": "copied, all",
    "one number, the value copied": "copied, one number",
    "one number, small copies": "one number, small copies",
    "one number, direct loads": "one number, direct",
}
WAYS = {
    "insert": "insert",
    "read a field": "read a field",
    "add to a field": "add to a field",
    "scan a field, an entry": "scan, an entry",
    "read a field, time": "read, ns",
    "add to a field, time": "add, ns",
    "upgrade": "upgrade, M",
    "upgrade, time": "upgrade, ms",
    "stable memory": "stable, MiB",
    "kept": "kept",
}
TIMES = {
    "put, each of 100": "put, us",
    "read one": "read, us",
    "change one": "change, us",
    "add up all, each": "scan, us an entry",
}
PAGES = {
    "put, pages accessed": "put 100: accessed",
    "put, pages written": "written",
    "read one, pages accessed": "read: accessed",
    "change one, pages accessed": "change: accessed",
    "change one, pages written": "written ",
    "add up all, pages accessed": "scan: accessed",
    "stable memory, an entry": "bytes an entry",
}

FORMATS = """
One user: two numbers of 64 bits, one of 32, two texts, a list of two texts. In the words of the forum post
"Improving the utility of stable memory": option 1 copies a value and decodes it; 2A reads a field where it lies,
through tables that know older versions; 2B reads it at a fixed place.

Candid carries its types in each value and checks them against the reader's whenever one is read, so one field costs
what all do; Protobuf numbers its fields and skips the others by their lengths. Flatbuffers and structs have places:
one number costs a few loads, and where stable memory has loads of its own ([memories.md](memories.md), `direct`)
not even a copy.
"""
PYTHON = """
The same in Python, another user ([data.md](data.md) has the declarations). Here a call costs more than the bytes
do, so formats that one call of a library in C decodes are near each other; a field by its place still needs no more
than the place.
"""
EVOLUTION = """
Each cell is tried, not looked up: a value of the old type read as the new one, then one of the new type read as the
old. **reads**: what both have is there. **lost**: it is null or zero. **wrong**: it is something else, and nothing
fails. **error**: nothing is read. Formats are perdure's own readers of declared parts, whose numbers in Protobuf
and places in flatbuffers are those of the declaration.

By name or by number, a reader skips what it does not know, so fields come and go; by place, only at the end. Bytes
that do not say their type are read as another without complaint, which is why perdure refuses such a change at the
upgrade ([upgrades.md](upgrades.md)), and `perdure stable diff` says so before.
"""
FOUR = """
The four of that post: on the heap alone, which an upgrade empties; on the heap, saved and restored by hooks; copied
to cells of a `StableBTreeMap`; in place. Entries of four numbers of 64 bits by a key of 64 bits, in Rust; each is
an **ordered tree** or a **hash table**, which keeps no order and is a fraction of the work whatever memory it lies
in: compare trees with trees. The ordered tree in place is a B+ tree of 12 entries a leaf and 31 keys a node, the
one on the heap Rust's `BTreeMap`. Instructions are the replica's; reads and changes are of keys at random, times
those of this machine, the message divided by its entries.
"""
FOUR_WHY = """
What costs in cells is the copying, not the memory: nodes are read to the heap, their entries made objects and
written back, so the same tree over `stable64_read` of single words takes a small part of it, and over direct loads
less than on the heap. Hooks pay for the whole state at every upgrade and are bound by one message's limits; the
others do not notice one.
"""
FOUR_TIMES = """
Processor time grows faster than instructions do: a tree of more entries is deeper, and its nodes are in no cache
any more. Hooks grow with the state, and so do their failures: an upgrade has 300 G instructions in all on the
network.
"""
LAYOUTS = """
A table of six fields with a tree of whole rows, or a tree of each column ([data.md](data.md)). The post takes
columns as the answer to schemas that change; here both change alike, since the catalogue knows columns of rows too.

A node of a tree has eleven entries at most and takes its kilobyte however short they are, so a tree of one column
has about as many pages as one of short rows, and a whole row is a lookup in each. Columns are worth it where rows
are wide, spilling over their nodes, and one column is read of all of them.
"""
MODELS = """
The same entries and messages: 100 put, one read, one changed, one number of all added up. The heap was emptied
before the reads and before the sum, so no cache helps the first of them.
"""
MODELS_WHY = """
SQLite packs rows into pages of 4 KiB and keeps what it has read on the heap, so it touches fewest pages, and pays
with its parser and interpreter for a statement that reads one row; a B-tree of ic-stable-structures has up to
eleven entries a node, so a search touches a page for each level. A `Table` is such a tree in Python with types,
keys in order and SQL, and its time is Python's; prototypes are what it is for, and [a crate](../rust/README.md)
goes on with its bytes in Rust.
"""


def figures_of(results: Iterable[Result], name: str) -> dict[str, float]:
    """A benchmark's figures by what they are."""
    return {one["what"]: one["value"] for result in results if result["name"] == name for one in result["figures"]}


def pivot(figures: Figures, columns: Mapping[str, str], keep: str = "") -> dict[str, dict[str, float]]:
    """Rows by the part before the colon (that ends with `keep`, which is left out), columns by the part behind."""
    rows: dict[str, dict[str, float]] = {}
    for what, value in figures.items():
        row, _, column = what.partition(": ")
        if row.endswith(keep) and column in columns:
            rows.setdefault(row.removesuffix(keep), {})[columns[column]] = value
    return rows


def shown(value: float | None) -> str:
    """A number as short as it can be compared."""
    if value is None:
        return ""
    if value and abs(value) < 10:
        return f"{value:.2g}"
    return f"{value:,.0f}"


def table(rows: Mapping[str, Mapping[str, float]], columns: Sequence[str], head: str = "") -> list[str]:
    """In Markdown."""
    lines_ = [f"| {' | '.join((head, *columns))} |", "|" + "---|" * (len(columns) + 1)]
    lines_ += [f"| {name} | {' | '.join(shown(row.get(one)) for one in columns)} |" for name, row in rows.items()]
    return [*lines_, ""]


def picture(name: str, text: str, drawn: str) -> list[str]:
    """Keep a picture, and show it."""
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(drawn, encoding="utf-8")
    return [f"![{text}](pictures/{name}.svg)", ""]


def formats(cells: Figures, python: Figures) -> list[str]:
    """What to keep in cells."""
    rows = pivot({what: one for what, one in cells.items() if ";" not in what}, CELLS)
    made = ["## What to keep in cells", *FORMATS.splitlines(), ""]
    withs = {name: {"lines by hand": BY_HAND[name], **row} for name, row in rows.items()}
    for row in withs.values():
        row["lines by hand"] = float(row["lines by hand"])
    made += table(withs, ["lines by hand", *CELLS.values()], "Rust, instructions")
    drawn = {
        name: {one: row[one] for one in (*list(CELLS.values())[1:4], "one number, direct") if one in row}
        for name, row in rows.items()
    }
    title = "One user of six fields in each format"
    made += picture("formats", "instructions of each format", bars(drawn, title, unit="instructions, Rust"))
    columns = {
        "bytes of one user of six fields": "bytes",
        "encode": "encode, us",
        "decode": "decode, us",
        "one field, a number / all of them": "one number / all",
        "one field, a text / all of them": "one text / all",
    }
    made += [*PYTHON.strip().splitlines(), "", *table(pivot(python, columns), [*columns.values()], "Python")]
    return [*made, "### When the type changes", *EVOLUTION.splitlines(), "", *evolution(cells)]


def evolution(cells: Figures) -> list[str]:
    """What was tried."""
    found: dict[str, dict[str, str]] = {}
    for what in cells:
        family, separator, rest = what.partition("; ")
        if separator:
            change, _, outcome = rest.partition(": ")
            forward, back, judged = outcome.split(", ")
            word = judged.removeprefix("judged ")
            found.setdefault(change, {})[family] = f"{forward}, {back}; *{word}*"
    families = list(dict.fromkeys(family for row in found.values() for family in row))
    made = [
        f"| old to new, new to old; *as it is judged* | {' | '.join(families)} |",
        "|" + "---|" * (len(families) + 1),
    ]
    made += [f"| {change} | {' | '.join(row[one] for one in families)} |" for change, row in found.items()]
    return [*made, ""]


def ways(figures: Figures) -> list[str]:
    """Where to keep it."""
    sizes = list(dict.fromkeys(what.partition("; ")[2].partition(" entries")[0] for what in figures))
    made = ["## The four ways", *FOUR.splitlines(), ""]
    drawn: dict[str, dict[str, float]] = {}
    upgrades: dict[str, list[tuple[float, float]]] = {}
    times: dict[str, list[tuple[float, float]]] = {}
    for size in sizes:
        rows = pivot(figures, WAYS, f"; {size} entries")
        made += [f"### {size} entries", "", *table(rows, [*WAYS.values()], "instructions an operation")]
        entries = float(size.replace(",", ""))
        for name, row in rows.items():
            upgrades.setdefault(name, []).append((entries, row["upgrade, ms"]))
            times.setdefault(name, []).append((entries, row["read, ns"]))
        if size == sizes[len(sizes) // 2]:
            drawn = {
                name: {one: row[one] for one in ("insert", "read a field", "add to a field", "scan, an entry")}
                for name, row in rows.items()
            }
            where = f"An operation on {size} entries"
    made += picture("ways", "instructions of each way", bars(drawn, where, unit="instructions, Rust"))
    made += [*FOUR_WHY.strip().splitlines(), ""]
    some = [
        "heap, hooks in Candid, ordered tree",
        "heap, hooks in Protobuf, ordered tree",
        "cells copied, fixed struct, ordered tree",
        "in place by direct loads, ordered tree",
    ]
    read = [
        "heap alone, ordered tree",
        "heap alone, hash table",
        "cells copied, Candid, ordered tree",
        "cells copied, fixed struct, ordered tree",
        "in place by stable64_read, ordered tree",
        "in place by direct loads, ordered tree",
        "in place by direct loads, hash table",
    ]
    if len(sizes) > 1:
        drawing = lines([Series(one, upgrades[one]) for one in some], "An upgrade", x="entries", unit="ms")
        made += picture("upgrades", "time of an upgrade by entries", drawing)
        drawing = lines([Series(one, times[one]) for one in read], "A field read at random", x="entries", unit="ns")
        made += picture("reads", "time of a read by entries", drawing)
    return [*made, *FOUR_TIMES.strip().splitlines(), ""]


def layouts(figures: Figures) -> list[str]:
    """Rows or columns."""
    rows: dict[str, dict[str, float]] = {}
    columns: dict[str, None] = {}
    for what, value in figures.items():
        row, _, column = what.partition(": ")
        if row in ("rows", "columns"):
            rows.setdefault(row, {})[column] = value
            columns[column] = None
    return ["## Rows against columns", *LAYOUTS.splitlines(), "", *table(rows, [*columns])]


def models(figures: Figures) -> list[str]:
    """Stable structures, `Table`, SQLite."""
    times, pages = pivot(figures, TIMES), pivot(figures, PAGES)
    made = ["## One workload over structures, a table, SQLite", *MODELS.splitlines(), ""]
    made += [*table(times, [*TIMES.values()], "time"), *table(pages, [*PAGES.values()], "pages of 4 KiB a message")]
    drawn = {
        name: {label: row[label] for label in ("put 100: accessed", "read: accessed", "scan: accessed") if label in row}
        for name, row in pages.items()
    }
    made += picture("pages", "pages by operation", bars(drawn, "Pages that a message touches", unit="pages of 4 KiB"))
    return [*made, *MODELS_WHY.strip().splitlines(), ""]


def render(results: Sequence[Result]) -> str:
    """The page; its pictures are written."""
    dates = [f"{result['date']}" for result in results if result["name"] in OWN and "date" in result]
    when = f" {max(dates)}." if dates else ""
    made = [
        "# What data is kept in, and as: numbers",
        "",
        f"Made by `make bench`, on a machine with others at work: instructions are exact, trust ratios of times.{when}",
        "[data.md](data.md) says how each is declared.",
        "",
        *formats(figures_of(results, "cell_figures"), figures_of(results, "format_figures")),
        *ways(figures_of(results, "ways_figures")),
        *layouts(figures_of(results, "format_figures")),
        *models(figures_of(results, "model_figures")),
    ]
    text = "\n".join(line.rstrip() for line in made)
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.rstrip() + "\n"


def write(results: Sequence[Result]) -> None:
    """The page and its pictures, where all of their benchmarks have run."""
    if {*OWN, "format_figures"} <= {result["name"] for result in results}:
        PAGE.write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    write(json.loads(RESULTS.read_text(encoding="utf-8")))
