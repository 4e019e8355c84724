"""Figures of `perdure stable`: listing a sparse 100 GiB, one key through SQL, diff by pages first, fsck.

Usage: inspection_figures.py [--quick] [--json]
"""

from __future__ import annotations

import random
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

from figures import Table, best_ns, main, median_ns
from perdure.canister import Extent
from perdure.inspection.diff import diff
from perdure.inspection.find import find, name_structures
from perdure.inspection.fsck import fsck
from perdure.inspection.open import open_source
from perdure.inspection.pages import changed_pages
from perdure.inspection.source import Layer, Source
from perdure.inspection.sql import connect
from perdure.memory import PAGE_BYTES, WASM_PAGE_BYTES, BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.stable.region import Region
from perdure.storage.mapped import map_extents
from perdure.values.schema import parse_schema

SCHEMA = 'memories: {"page:0": {name: numbers, kind: btreemap, key: u64, value: u64}}'

_LS = "import sys, resource; from perdure.cli import perdure; perdure(sys.argv[1:], standalone_mode=False); "
_LS += "used = resource.getrusage(resource.RUSAGE_SELF); "
_LS += "print(used.ru_maxrss, used.ru_utime + used.ru_stime, file=sys.stderr)"


def write_sparse(path: Path, structures: int = 10) -> None:
    """100 GiB: a manager with 400 buckets of 4,096 Wasm pages, shared by `structures` maps of 1,000 entries."""
    bucket_wasm_pages, buckets = 4096, 400
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.u64).bulk_load((number, number) for number in range(1000))
    header = bytearray(34_848)
    header[:8] = b"MGR\x01" + struct.pack("<HH", buckets, bucket_wasm_pages)
    each = buckets // structures
    owners = bytes(index // each for index in range(buckets))
    header[2080:] = owners.ljust(32_768, b"\xff")
    for memory_id in range(structures):
        struct.pack_into("<Q", header, 40 + 8 * memory_id, each * bucket_wasm_pages)
    with path.open("wb") as file:
        file.truncate((1 + buckets * bucket_wasm_pages) * WASM_PAGE_BYTES)
        file.write(header)
        for memory_id in range(structures):
            file.seek((1 + memory_id * each * bucket_wasm_pages) * WASM_PAGE_BYTES)
            file.write(memory.data)


def write_maps(directory: Path, entries: int) -> tuple[Path, Path]:
    """A map of u64 to u64, and the same after 100 changes."""
    memory = BytesMemory()
    numbers = StableBTreeMap.create(memory, types.u64, types.u64)
    numbers.bulk_load((3 * number, number) for number in range(entries))
    before, after = directory / "before.bin", directory / "after.bin"
    before.write_bytes(memory.data)
    randomly = random.Random(1)
    for change in range(100):
        key = 3 * randomly.randrange(entries)
        if change % 3 == 0:
            numbers[key + 1] = 1
        elif change % 3 == 1:
            numbers[key] = randomly.getrandbits(60)
        else:
            numbers.pop(key, None)
    after.write_bytes(memory.data)
    return before, after


def seconds(action: Callable[[], Any], rounds: int) -> float:
    """The median time of some rounds."""
    return median_ns(action, rounds) / 1e9


def measure_ls(table: Table, directory: Path, rounds: int) -> None:
    path = directory / "sparse.bin"
    write_sparse(path)
    command = [sys.executable, "-c", _LS, "stable", "ls", str(path)]
    used: list[tuple[float, float]] = []

    def run() -> None:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        assert found.stdout.count("btreemap") == 10
        peak, cpu = found.stderr.split()[-2:]
        used.append((float(peak), float(cpu)))

    run()
    taken = best_ns(run, rounds) / 1e9
    with open_source(str(path)) as source:
        inside = seconds(lambda: find(source), rounds)
    table.add("ls on a sparse 100 GiB memory with 10 structures, the whole command", taken, "s", 0.5)
    table.add("the same, processor time", min(cpu for _, cpu in used), "s", 0.5)
    table.add("the same, peak memory of the process", max(peak for peak, _ in used) / 1024, "MiB", 100)
    table.add("the same, finding alone", inside * 1000, "ms", 500)


def measure_sql(table: Table, path: Path, entries: int) -> None:
    schema = parse_schema(SCHEMA)
    with open_source(str(path)) as source:
        connection = connect(name_structures(find(source), schema), schema)
        randomly = random.Random(2)
        keys = [3 * randomly.randrange(entries) for _ in range(2000)]
        sql = "select value from numbers where key = ?"
        taken = []
        for key in keys:
            start = time.perf_counter()
            rows = list(connection.execute(sql, (key,)))
            taken.append(time.perf_counter() - start)
            assert rows == [(key // 3,)]
        ordered = sorted(taken[100:])
    middle = statistics.median(ordered) * 1000
    table.add(f"point get through SQL on {entries:,} entries, warm, median", middle, "ms", 1)
    table.add("the same, 99th percentile", ordered[len(ordered) * 99 // 100] * 1000, "ms", 1)


def layer(one: Source, other: Source, before: Path, after: Path, stack: ExitStack) -> Source:
    """The state after the changes as a fork has it: the pages that changed over the file before them."""
    whole = [(0, one.memory.size() * WASM_PAGE_BYTES)]
    pages = changed_pages(Region.whole(one.memory), Region.whole(other.memory), whole, whole)
    files = [stack.enter_context(path.open("rb")).fileno() for path in (before, after)]
    edges = [0, *(pages.is_changed[1:] != pages.is_changed[:-1]).nonzero()[0] + 1, len(pages.is_changed)]
    extents = [
        Extent(
            PAGE_BYTES * int(start),
            PAGE_BYTES * int(end - start),
            files[int(pages.is_changed[start])],
            PAGE_BYTES * int(start),
        )
        for start, end in pairwise(edges)
    ]
    names = {files[0]: one.layers[0].file, files[1]: other.layers[0].file}
    layers = [
        Layer(found.address, found.size_bytes, names[found.file_descriptor], found.file_offset) for found in extents
    ]
    return Source("layers", map_extents(extents, one.memory.size()), whole, layers)


def measure_diff(table: Table, before: Path, after: Path, rounds: int) -> None:
    schema = parse_schema(SCHEMA)
    with open_source(str(before)) as one, open_source(str(after)) as other:

        def compare(full_scan: bool) -> Any:
            (found,) = diff(find(one), find(other), schema, full_scan=full_scan)
            return found.changes

        assert compare(False) == compare(True) != []
        by_pages, by_scan = seconds(lambda: compare(False), rounds), seconds(lambda: compare(True), rounds)
        with ExitStack() as stack:
            top = layer(one, other, before, after, stack)

            def compare_layers() -> Any:
                (found,) = diff(find(one), find(top), schema)
                return found.changes

            assert compare_layers() == compare(False)
            layered = seconds(compare_layers, rounds)
    what = "diff of two maps, 100 changes: full scan / pages first, two plain files"
    table.add(what, by_scan / by_pages, "ratio", 10, "higher")
    table.add("the same: full scan / pages first, layers over one base", by_scan / layered, "ratio", 10, "higher")
    table.add("the same, pages first, two plain files", by_pages * 1000, "ms")
    table.add("the same, pages first, layers", layered * 1000, "ms")
    table.add("the same, full scan", by_scan * 1000, "ms")


def measure_fsck(table: Table, path: Path, entries: int, rounds: int) -> None:
    schema = parse_schema(SCHEMA)
    with open_source(str(path)) as source:

        def check() -> None:
            report = fsck(name_structures(find(source), schema), schema)
            assert report.errors == []
            assert report.facts["page:0"].entries == entries

        taken = seconds(check, rounds)
    table.add(f"fsck of {entries:,} entries", taken, "s", 5)


def measure(quick: bool) -> Table:
    """Measure `perdure stable` on a sparse memory of 100 GiB and on two maps of a million entries."""
    rounds, entries = (3, 1_000_000) if quick else (9, 1_000_000)
    table = Table("inspection_figures")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        measure_ls(table, directory, rounds)
        before, after = write_maps(directory, entries)
        measure_sql(table, before, entries)
        measure_diff(table, before, after, rounds)
        measure_fsck(table, before, entries, rounds)
    return table


if __name__ == "__main__":
    main(measure)
