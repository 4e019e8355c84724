"""Object storage, counted by a server of ours: what is asked for, what goes over the wire."""

from __future__ import annotations

import os
import random
import sys
import tempfile
from pathlib import Path

from engine import ROOT
from figures import Table, main
from perdure.canister import PageDelta
from perdure.fleet.scan import Scan, processes
from perdure.inspection import find, open_source, open_table, parse_schema
from perdure.memory import BytesMemory
from perdure.stable import MemoryManager, StableBTreeMap, types
from perdure.storage import CanisterChange, Message, StateDirectory, archive_state

sys.path.insert(0, str(ROOT / "tests"))
from large_memory import large_memory
from object_servers import OurServer

PAGE = 4096
SCHEMA = parse_schema("memories: {0: {name: balances, key: u64, value: u64}}")


def measure(quick: bool) -> Table:
    figures = Table("object_figures")
    server = OurServer()
    os.environ |= server.environment() | {"PERDURE_OBJECT_CACHE": "0"}
    try:
        with tempfile.TemporaryDirectory() as directory:
            look(figures, server, Path(directory))
            scan(figures, server, Path(directory), 60_000 if quick else 2_000_000)
            archive(figures, server, Path(directory), 64 << 20 if quick else 256 << 20)
    finally:
        server.close()
    return figures


def look(figures: Table, server: OurServer, directory: Path) -> None:
    """What `stable ls` and a point query do."""
    large_memory(directory / "large.bin", 100 << 10)
    server.put("large.bin", directory / "large.bin")
    with open_source("s3://bucket/large.bin") as source:
        inventory = find(source)
        source.declared()
        open_table(inventory.structure("0"), SCHEMA).get((12_345).to_bytes(8, "big"))
    figures.add("ls and a point query on 100 GiB: requests", server.requests, "", 60)
    figures.add("the same: bytes", server.sent / (1 << 20), "MiB", 4)


def scan(figures: Table, server: OurServer, directory: Path, rows: int) -> None:
    """One map by four workers, their opening of the source included."""
    memory = BytesMemory()
    made = StableBTreeMap.create(MemoryManager.create(memory).get(0), types.u64, types.u64)
    made.apply((key, key) for key in range(rows))
    server.put("map.bin", bytes(memory.data))
    table = open_table(find(open_source("s3://bucket/map.bin")).structure("0"), SCHEMA)
    assert table.tree is not None
    server.reset()
    found = sum(len(keys) for keys, _ in Scan("s3://bucket/map.bin", table, processes(4)).columns())
    assert found == rows
    ratio = server.sent / table.tree.header.allocator.used_bytes
    figures.add("scan of one map by 4 workers: bytes read / the map's", ratio, "ratio", 1.05)


def archive(figures: Table, server: OurServer, directory: Path, size: int) -> None:
    """All of a memory, then a scattered hundredth of its pages."""
    draw = random.Random(25)
    block = draw.randbytes(PAGE - 4)
    pages = [number.to_bytes(4, "little") + block for number in range(size // PAGE)]
    with StateDirectory.open(directory / "state", durability="never") as state:
        for what, chosen in (
            ("everything", range(len(pages))),
            ("a scattered 1 %", sorted(draw.sample(range(len(pages)), len(pages) // 100))),
        ):
            runs = [
                (number * PAGE, pages[number][::-1] if what != "everything" else pages[number]) for number in chosen
            ]
            delta = PageDelta(size >> 16, runs)
            state.commit(Message(), {b"canister": CanisterChange({"stable": delta})}, apply=True)
            server.reset()
            archive_state(directory / "state", "s3://bucket/archive")
            is_all = what == "everything"
            figures.add(
                f"archive of {what}: bytes / the memory's", server.received / size, "ratio", None if is_all else 0.03
            )
            figures.add(
                f"archive of {what}: PUTs / one for each 4 MiB", server.counts["PUT"] * (4 << 20) / size, "ratio", 1
            )
        state.abandon()


if __name__ == "__main__":
    main(measure)
