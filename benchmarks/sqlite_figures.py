"""SQLite in stable memory: the guest beside Python's own SQLite, and opening from outside beside a plain file."""

from __future__ import annotations

import gc
import sqlite3
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

from engine import ROOT, module
from figures import Table, main
from perdure import Subnet
from perdure.inspection import open_source, open_sqlite
from perdure.subnet import Canister

sys.path.insert(0, str(ROOT / "tests" / "inspection"))
from guest import text, value
from sqlite_files import OWNERS, SCHEMA, items

ROWS = 100_000
JOIN = "select o.name, count(*), sum(price) from owner o join item i on i.owner = o.id where o.id = 77"
SCAN = "select sum(price) from item"
INSERT = "insert into item values (?, ?, ?, ?)"


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call."""
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def least_ms(run: Callable[[], object], repeat: int) -> float:
    """Least processor time of one call of many, in ms: collecting garbage before each would empty the caches."""
    gc.collect()
    times = []
    for _ in range(repeat):
        start = time.process_time_ns()
        run()
        times.append(time.process_time_ns() - start)
    return min(times) / 1e6


def ratio(runs: tuple[Callable[[], object], Callable[[], object]], repeat: int) -> float:
    """Median of pairs taken in turns."""
    return median(seconds(runs[0]) / seconds(runs[1]) for _ in range(repeat))


def filled_natively(connection: sqlite3.Connection) -> None:
    """The rows by one prepared statement."""
    connection.executescript(SCHEMA)
    with connection:
        connection.executemany(INSERT, items(ROWS))


def arguments() -> list[bytes]:
    """The same rows as messages of the guest."""
    rows = [b"".join(map(value, row)) for row in items(ROWS)]
    batches = [rows[start : start + 25_000] for start in range(0, ROWS, 25_000)]
    return [text(INSERT) + struct.pack("<I", len(batch)) + b"".join(batch) for batch in batches]


def inserts(table: Table, repeat: int) -> Canister:
    """100,000 rows with an index, by prepared statements: the guest, and Python's SQLite in memory."""
    subnet = Subnet()
    messages = arguments()
    rows = list(items(ROWS))
    ratios = []
    for _ in range(repeat):
        canister = subnet.install(module("sqlite"))
        canister.update("exec", SCHEMA.encode())
        inside = seconds(lambda canister=canister: [canister.update("run_many", message) for message in messages])
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.executescript(SCHEMA)
            native = seconds(lambda connection=connection: connection.executemany(INSERT, rows).connection.commit())
        ratios.append(inside / native)
    table.add("100,000 inserts with an index: guest / Python's sqlite3 in memory", median(ratios), "ratio", 2)
    canister.update(
        "exec",
        b"with recursive n(i) as (select 0 union all select i + 1 from n where i < 999) "
        b"insert into owner select i, 'owner ' || i from n",
    )
    return canister


def joined(connection: object, sql: str = JOIN) -> None:
    connection.execute(sql).fetchall()  # type: ignore[attr-defined]


def plain(path: Path, sql: str = JOIN) -> None:
    with closing(sqlite3.connect(path)) as connection:
        joined(connection, sql)


def measure(quick: bool) -> Table:
    """Guest, live canister, state directory and sparse snapshot, each beside what it is compared with."""
    table = Table("sqlite_figures")
    repeat = 5 if quick else 21
    canister = inserts(table, 3 if quick else 9)
    join = least_ms(lambda: canister.query("query", JOIN.encode()), 50 * repeat)
    table.add("a join of 110 rows in the guest, prepare included", join, "ms", 0.5)
    nothing = least_ms(lambda: canister.query("query", f"{JOIN} and 0".encode()), 50 * repeat)
    table.add("its message and prepare alone", nothing, "ms")
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "plain.db"
        with closing(sqlite3.connect(file)) as connection:
            filled_natively(connection)
            with connection:
                connection.executemany("insert into owner values (?, ?)", ((i, f"owner {i}") for i in range(OWNERS)))
        live(table, canister, file, repeat)
        stored(table, Path(directory), file, repeat)
        sparse(table, Path(directory), file, repeat)
    return table


def live(table: Table, canister: Canister, file: Path, repeat: int) -> None:
    """A running canister from outside."""
    pair = (lambda: joined(canister.sqlite()), lambda: plain(file))
    table.add("open and join: live canister / plain file", ratio(pair, 3 * repeat), "ratio", 2)
    outside, native = canister.sqlite(), sqlite3.connect(file)
    for name, sql in (("a join", JOIN), ("a scan of 100,000 rows", SCAN)):
        pair = (lambda sql=sql: joined(outside, sql), lambda sql=sql: joined(native, sql))
        pair[0](), pair[1]()
        target = 1.2 if sql is SCAN else None
        table.add(f"{name}, connection open: live canister / plain file", ratio(pair, repeat), "ratio", target)
    pair = (lambda: joined(canister.sqlite(), SCAN), lambda: plain(file, SCAN))
    table.add("open and scan: live canister / plain file", ratio(pair, repeat), "ratio", 1.2)
    native.close()


def stored(table: Table, directory: Path, file: Path, repeat: int) -> None:
    """A state directory that nobody else has open: opened, joined, closed."""
    with Subnet(directory / "state") as subnet:
        canister = subnet.install(b"\0asm\1\0\0\0")
        data = file.read_bytes()
        canister.stable.grow(-(-len(data) // 65_536))
        canister.stable.write(0, data)
    with open_source(f"{directory / 'state'}:{canister.id}") as source:
        pair = (lambda: joined(open_sqlite(source.memory)), lambda: plain(file))
        table.add("open and join: state directory / plain file", ratio(pair, 3 * repeat), "ratio", 1.3)


def sparse(table: Table, directory: Path, file: Path, repeat: int) -> None:
    """The same database in a dump of its own size, and in one of 100 GiB that is nearly all hole."""
    for name, size_bytes in (("small.bin", 4 << 20), ("large.bin", 100 << 30)):
        with (directory / name).open("wb") as dump:
            dump.write(file.read_bytes())
            dump.truncate(size_bytes)

    def run(name: str) -> None:
        with open_source(str(directory / name)) as source:
            joined(open_sqlite(source.memory))

    pair = (lambda: run("large.bin"), lambda: run("small.bin"))
    table.add("open and join: sparse dump of 100 GiB / of 4 MiB", ratio(pair, 3 * repeat), "ratio", 1.2)


if __name__ == "__main__":
    main(measure)
