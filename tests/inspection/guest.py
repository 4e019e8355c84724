"""What the guest in C takes and gives: values, rows; a canister with the rows of `sqlite_files.items`."""

from __future__ import annotations

import struct

from sqlite_files import SCHEMA, items

from perdure.subnet import Canister

BATCH_ROWS = 25_000


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<I", len(data)) + data


def value(one: object) -> bytes:
    match one:
        case None:
            return b"\0"
        case int():
            return b"\1" + struct.pack("<q", one)
        case float():
            return b"\2" + struct.pack("<d", one)
        case str():
            return b"\3" + text(one)
        case _:
            return b"\4" + text(one)


def values(reply: bytes) -> tuple[bool, list[tuple[object, ...]]]:
    """Whether there are no more rows, and those there are."""
    is_done, columns, count = struct.unpack_from("<BII", reply)
    at, found = 9, []
    for _ in range(count * columns):
        kind, at = reply[at], at + 1
        if kind in (1, 2):
            found.append(*struct.unpack_from("<q" if kind == 1 else "<d", reply, at))
            at += 8
        elif kind:
            (size,) = struct.unpack_from("<I", reply, at)
            data, at = reply[at + 4 : at + 4 + size], at + 4 + size
            found.append(data.decode() if kind == 3 else data)
        else:
            found.append(None)
    assert at == len(reply)
    return bool(is_done), [tuple(found[row * columns : (row + 1) * columns]) for row in range(count)]


def fill(canister: Canister, rows: int) -> None:
    """Make the tables, and put in the rows."""
    canister.update("exec", SCHEMA.encode())
    insert = text("insert into item values (?, ?, ?, ?)")
    encoded = [b"".join(map(value, row)) for row in items(rows)]
    for start in range(0, rows, BATCH_ROWS):
        batch = encoded[start : start + BATCH_ROWS]
        canister.update("run_many", insert + struct.pack("<I", len(batch)) + b"".join(batch))
    canister.update(
        "exec",
        b"with recursive n(i) as (select 0 union all select i + 1 from n where i < 999) "
        b"insert into owner select i, 'owner ' || i from n",
    )
