"""Candid: 10,000 records both ways, against icp-py-core in the same run, and the worst hostile message.

icp-py-core is measured where it can be imported, here or by the interpreter that ICP_PY_CORE_PYTHON names (so that it
needs no place in this environment); elsewhere the ratios are left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from figures import Table, best_ns, main
from perdure.candid import Codec, parse_types
from perdure.candid.types import Type
from perdure.errors import MalformedError

RECORDS = 10_000
CORPUS = Path(__file__).parent.parent / "tests" / "candid" / "hostile.txt"
TYPE = """
(vec record {
  id : nat; name : text; balance : nat64; active : bool; note : opt text; kind : variant { basic; paid : nat };
})
"""

#: Encodes and decodes the same records with icp-py-core; prints the seconds and the message for each round.
PEER = """
import json, sys, time
from icp_candid.candid import Types, decode, encode
record = Types.Record({"id": Types.Nat, "name": Types.Text, "balance": Types.Nat64, "active": Types.Bool,
                       "note": Types.Opt(Types.Text),
                       "kind": Types.Variant({"basic": Types.Null, "paid": Types.Nat})})
rows = json.loads(sys.stdin.readline())
for row in rows:
    row["note"] = [] if row["note"] is None else [row["note"]]
types = Types.Vec(record)
for _ in sys.stdin:
    start = time.perf_counter()
    message = encode([{"type": types, "value": rows}])
    middle = time.perf_counter()
    decode(message, [types])
    print(json.dumps([middle - start, time.perf_counter() - middle, message.hex()]), flush=True)
"""


def records() -> list[dict[str, Any]]:
    """The records."""
    return [
        {
            "id": 977 * index,
            "name": f"user {index}",
            "balance": index * 10**9,
            "active": index % 2 == 0,
            "note": None if index % 3 else "a note",
            "kind": {"basic": None} if index % 2 else {"paid": index},
        }
        for index in range(RECORDS)
    ]


def peer() -> subprocess.Popen[str] | None:
    """A process that measures icp-py-core on request, a line each; None where it is not installed."""
    python = os.environ.get("ICP_PY_CORE_PYTHON", sys.executable)
    probe = subprocess.run([python, "-c", "import icp_candid.candid"], capture_output=True, check=False)
    if probe.returncode:
        print("icp-py-core is not installed: no comparison with it (set ICP_PY_CORE_PYTHON)", file=sys.stderr)
        return None
    return subprocess.Popen([python, "-c", PEER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def ask(process: subprocess.Popen[str], line: str) -> None:
    """Send a line to the peer."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()


def compare(rounds: int, table: Table) -> None:
    """Measure both in turns and take the best of each."""
    rows = records()
    codec = Codec(parse_types(TYPE))
    message = codec.encode([rows])
    assert codec.decode(message) == (rows,)
    process = peer()
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    if process is not None:
        ask(process, json.dumps(rows))
    for _ in range(rounds):
        ours.append((best_ns(lambda: codec.encode([rows]), 2), best_ns(lambda: codec.decode(message), 2)))
        if process is not None:
            assert process.stdout is not None
            for _ in range(2):
                ask(process, "again")
                encode_s, decode_s, found = json.loads(process.stdout.readline())
                theirs.append((encode_s * 1e9, decode_s * 1e9))
            assert codec.decode(bytes.fromhex(found)) == (rows,)
    encode_ns, decode_ns = (min(column) for column in zip(*ours, strict=True))
    table.add("encode 10,000 records", encode_ns / 1e6, "ms")
    table.add("decode 10,000 records", decode_ns / 1e6, "ms")
    if process is not None:
        process.communicate()
        peer_encode_ns, peer_decode_ns = (min(column) for column in zip(*theirs, strict=True))
        table.add("icp-py-core's encode / ours", peer_encode_ns / encode_ns, "ratio", 2, "higher")
        table.add("icp-py-core's decode / ours", peer_decode_ns / decode_ns, "ratio", 2, "higher")
    blob = Codec(parse_types("(blob)"))
    big = blob.encode([bytes(1 << 20)])
    table.add("decode a blob of 1 MiB", best_ns(lambda: blob.decode(big), 5) / 1e3, "us")
    numbers = Codec(parse_types("(vec nat64)"))
    many = numbers.encode([range(100_000)])
    table.add("decode 100,000 nat64", best_ns(lambda: numbers.decode(many), 5) / 1e6, "ms")


def corpus() -> tuple[dict[str, tuple[Type, ...]], dict[str, bytes]]:
    """The hostile messages, and the types to decode them at."""
    types: dict[str, tuple[Type, ...]] = {}
    messages: dict[str, bytes] = {}
    for line in CORPUS.read_text().splitlines():
        kind, _, rest = line.partition(": ")
        name, _, text = rest.partition(": ")
        if kind == "type":
            types[name] = parse_types(text)
        elif kind == "message":
            messages[name] = bytes.fromhex(text)
    return types, messages


def cost_ms(types: tuple[Type, ...] | None, message: bytes, repeat: int) -> float:
    """CPU time to decode a message with a codec that never saw it, best of `repeat`.

    CPU time of all threads, as deep messages use several; wall time would measure the neighbours.
    """
    best = 1e9
    for _ in range(repeat):
        codec = Codec(types)
        start = time.process_time_ns()
        with contextlib.suppress(MalformedError):
            codec.decode(message)
        best = min(best, time.process_time_ns() - start)
    return best / 1e6


def measure(quick: bool) -> Table:
    """Candid speed, and what the worst message under 1 KB costs."""
    table = Table("candid_speed")
    compare(2 if quick else 5, table)
    types, messages = corpus()
    worst = max(
        (cost_ms(at, message, 3 if quick else 7), f"{name} at {kind}")
        for name, message in messages.items()
        for kind, at in [("its own type", None), *types.items()]
    )
    table.add(f"worst hostile message under 1 KB: {worst[1]}", worst[0], "ms", 10)
    return table


if __name__ == "__main__":
    main(measure)
