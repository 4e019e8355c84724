"""Figures of value formats: one user of six fields, its size, written, read, one field read; rows against columns.

Usage: format_figures.py [--quick] [--json]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from counted_pages import CountingMemory
from figures import Table as Figures
from figures import main
from perdure.data import Store, Table, table
from perdure.kit import nat64
from perdure.stable import MemoryManager
from perdure.values import Format, codec

USER = {
    "id": 123_456_789,
    "age": 36,
    "score": 0.75,
    "owner": bytes(range(29)),
    "is_new": True,
    "email": "ada.lovelace@example.org",
}
ONE = "select d from rows where id = ?"
PARTS = "id: u64, age: u8, score: f64, owner: bytes, is_new: bool, email: text"
CANDID = "record { id : nat64; age : nat8; score : float64; owner : blob; is_new : bool; email : text }"
FORMATS = {
    "Candid": f"candid({CANDID})",
    "Protobuf": f"protobuf({PARTS})",
    "JSON": f"json({PARTS})",
    "CBOR": f"cbor({PARTS})",
    "flatbuffers": f"flatbuffers({PARTS})",
    "fixed struct": "struct(id: u64le, age: u8, score: f64le, owner: [u8; 29], is_new: bool, email: text)",
}
TARGETS = {"flatbuffers": 0.2, "fixed struct": 0.2}


def best_us(run: Callable[[], object], count: int) -> float:
    """Processor time of one, the least of five rounds."""
    rounds = []
    for _ in range(5):
        start = time.process_time_ns()
        for _ in range(count):
            run()
        rounds.append(time.process_time_ns() - start)
    return min(rounds) / count / 1_000


def formats(figures: Figures, quick: bool) -> None:
    count = 200 if quick else 2_000
    for name, text in FORMATS.items():
        one: Format = codec(text)
        data = one.encode(USER)
        assert one.decode(data) == USER
        figures.add(f"{name}: bytes of one user of six fields", len(data), "bytes")
        figures.add(f"{name}: encode", best_us(lambda one=one: one.encode(USER), count), "us")
        whole = best_us(lambda one=one, data=data: one.decode(data), count)
        figures.add(f"{name}: decode", whole, "us")
        for label, what in (("score", "a number"), ("email", "a text")):
            field = best_us(lambda one=one, data=data, label=label: one.field(data, label), count)
            figures.add(f"{name}: one field, {what} / all of them", field / whole, "ratio", TARGETS.get(name))


@dataclass
class Row:
    """Six fields."""

    id: nat64
    a: str
    b: str
    c: int
    d: float
    e: bool


def layouts(figures: Figures, quick: bool) -> None:
    """The same rows in one tree, and in one of each column."""
    count = 2_000 if quick else 20_000
    keys = range(0, count, max(1, count // 1_000))
    for storage in ("rows", "columns"):
        memory = CountingMemory()
        options = table(key="id", storage=storage)
        rows = Table.declare(Store(MemoryManager.create(memory, bucket_wasm_pages=1).get), "rows", Row, options)
        rows.update(Row(one, f"a{one}", f"b{one}" * 4, one, one / 8, one % 2 == 0) for one in range(count))
        figures.add(f"{storage}: Wasm pages of {count:,} rows of six fields", memory.size(), "pages")
        whole = sum(one / 8 for one in range(count))
        for what, each, run in (
            ("a whole row", len(keys), lambda one: [one[key] for key in keys]),
            ("one column of it by SQL", len(keys), lambda one: [one.sql(ONE, (key,)) for key in keys]),
            ("a scan of one column by SQL, a row", count, lambda one: one.sql("select sum(d) from rows")),
        ):
            opened = Table.declare(Store(MemoryManager.load(memory).get), "rows", Row, options)
            memory.taken()
            start = time.process_time_ns()
            found = run(opened)
            figures.add(f"{storage}: {what}", (time.process_time_ns() - start) / each / 1_000, "us")
            figures.add(f"{storage}: {what}, pages of 4 KiB for {each:,}", memory.taken()[0], "pages")
            assert len(found) == len(keys) or found == [(whole,)]


def measure(quick: bool) -> Figures:
    """Formats and layouts; processor time."""
    figures = Figures("format_figures")
    for part in (formats, layouts):
        part(figures, quick)
    return figures


if __name__ == "__main__":
    main(measure)
