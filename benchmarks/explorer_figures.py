"""How long the explorer takes to make each page, of many canisters and of a memory with many entries.

    python benchmarks/explorer_figures.py [--quick] [--json]

What a browser does with a page is the same whatever there is, as pages show a part at a time; what grows is what the
server reads for them. Medians, of pages that are asked for in turn.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from statistics import median

import wasmtime

from figures import Table, main
from perdure import Subnet
from perdure.explorer import Explorer
from perdure.gateway.http import Request
from perdure.memory import BytesMemory
from perdure.stable import StableBTreeMap, types
from perdure.subnet import Canister

MODULE = bytes(
    wasmtime.wat2wasm("""(module (import "ic0" "msg_reply" (func $reply)) (memory 1)
      (func (export "canister_query get") (call $reply))
      (func (export "canister_update set") (i32.store (i32.const 0) (i32.const 1)) (call $reply)))""")
)
TARGET_MS = 200
PAGES = {
    "all canisters": "",
    "a part of an id": "?q=aaaaa",
    "a canister": "c/{id}",
    "its map": "c/{id}/map.svg",
    "its data": "c/{id}/data",
    "its methods": "c/{id}/methods",
    "its snapshots": "c/{id}/snapshots",
    "what if": "c/{id}/what-if",
    "calls": "calls",
}
PAST = {"history": "history", "history of a canister": "history?c={id}", "a commit": "history/5"}


def filled(canister: Canister, entries: int) -> None:
    """A map of numbers in stable memory."""
    memory = BytesMemory()
    StableBTreeMap.create(memory, types.u64, types.u64).bulk_load((key, key) for key in range(entries))
    data = memoryview(memory.data)
    canister.stable.grow(len(data) >> 16)
    for at in range(0, len(data), 64 << 20):
        canister.stable.write(at, data[at : at + (64 << 20)])


def measure(quick: bool) -> Table:
    """Measure."""
    table = Table("explorer")
    canisters, entries, messages, rounds = (300, 100_000, 500, 3) if quick else (10_000, 10_000_000, 10_000, 7)
    with Subnet() as subnet:
        made = [subnet.install(MODULE) for _ in range(canisters)]
        filled(made[0], entries)
        made[0].update("set")
        visit(table, subnet, PAGES, f"of {canisters:,} canisters and {entries:,} entries", rounds)
    with tempfile.TemporaryDirectory() as directory, Subnet(directory, durability="never", history=None) as subnet:
        one, other = subnet.install(MODULE), subnet.install(MODULE)
        one.update("set")
        for _ in range(messages):
            other.update("set")
        visit(table, subnet, PAST, f"of {messages:,} messages", rounds)
    return table


def visit(table: Table, subnet: Subnet, pages: Mapping[str, str], of_what: str, rounds: int) -> None:
    """Ask for pages in turn; the first time is not counted, when templates are read."""
    explorer = Explorer(subnet, title="many")
    took: dict[str, list[float]] = {what: [] for what in pages}
    for _ in range(rounds + 1):
        for what, path in pages.items():
            request = Request("GET", f"/_/{path.format(id=subnet.canisters[0].id)}", {"host": "localhost:4943"}, b"")
            start = time.perf_counter()
            response = explorer.begin(request, "127.0.0.1")
            took[what].append((time.perf_counter() - start) * 1_000)
            assert response.status == 200, response.body
    explorer.close()
    for what, found in took.items():
        table.add(f"{what}, {of_what}", median(found[1:]), "ms", TARGET_MS)


if __name__ == "__main__":
    main(measure)
