"""Databases to look into, made by Python's own SQLite."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

SCHEMA = """
create table item(id integer primary key, owner integer, name text, price integer);
create table owner(id integer primary key, name text);
create index item_owner on item(owner);
"""
OWNERS = 1000


def items(count: int) -> Iterator[tuple[int, int, str, int]]:
    """Rows of `item`: owners and prices by xorshift."""
    x = 88_172_645_463_325_252
    for number in range(count):
        x ^= x << 13 & (1 << 64) - 1
        x ^= x >> 7
        x ^= x << 17 & (1 << 64) - 1
        yield number, x % OWNERS, f"item {number}", x % 10_007


def made(*scripts: str, page_bytes: int = 4096, rows: int = 0) -> bytes:
    """The bytes of a database."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"pragma page_size = {page_bytes}")
        for script in scripts or (SCHEMA,):
            connection.executescript(script)
        if rows:
            connection.executemany("insert into item values (?, ?, ?, ?)", items(rows))
            owners = ((number, f"owner {number}") for number in range(OWNERS))
            connection.executemany("insert into owner values (?, ?)", owners)
        connection.commit()
        return connection.serialize()


def in_wal_mode(path: Path) -> bytes:
    """The bytes of a database whose log was written back, and which is still in WAL mode."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("pragma journal_mode = wal")
        connection.executescript("create table t(a); insert into t values (1), (2);")
        connection.execute("pragma wal_checkpoint(truncate)")
    return path.read_bytes()
