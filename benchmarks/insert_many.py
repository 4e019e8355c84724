"""The demo's canister: what native stable memory, its accounting and its hot paths are worth to a real map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import wasmtime

import perdure.embedder.module as embedder_module
from engine import Bench, interleaved
from figures import Table, main
from perdure.demo.c_host import c_host_compiler
from perdure.demo.experiment import insert_messages, wasm
from perdure.embedder import Compiler, Engine
from perdure.instrument import Options, link
from perdure.wasm import Module, decode

HERE = Path(__file__).parent
KERNEL = HERE.parent / "src" / "perdure" / "instrument" / "kernel.wat"
ENTRY = "canister_update insert_many"


def replica_kernel() -> Module:
    """The kernel with its stable accesses replaced by bodies in the replica's style."""
    text = KERNEL.read_text(encoding="utf-8")
    for name in ("stable64_write", "stable64_read"):
        start = text.index(f'  (func ${name} (export "{name}")')
        text = text[:start] + text[text.index("\n\n", start) + 2 :]
    bodies = (HERE / "replica_bodies.wat").read_text(encoding="utf-8")
    return decode(bytes(wasmtime.wat2wasm(text.rstrip()[:-1] + bodies + ")")))


def replica_style(code: bytes) -> Callable[[bytes], float]:
    """Times one message over that kernel, each on a fresh canister: what it writes can be neither kept nor undone."""
    kernel = replica_kernel()
    compiler = Compiler(Engine(), None)
    shipped = embedder_module.instrument
    embedder_module.instrument = lambda module, options=None: link(module, kernel, options or Options())
    try:
        compiler.compile(code)
    finally:
        embedder_module.instrument = shipped
    return lambda message: Bench(code, compiler=compiler, commit=False).time_run(ENTRY, message)


def measure(quick: bool) -> Table:
    """50,000 random inserts into an empty map in one message; each time is the least of several."""
    table = Table("insert_many")
    entries = 50_000
    code = wasm()
    (message,) = insert_messages(1, entries=entries)
    (short,) = insert_messages(1, entries=500)
    through_host = Options(native_stable=False)
    compiler = Compiler(Engine(), None)
    benches = {
        "native": Bench(code, compiler=compiler),
        "unaccounted": Bench(code, Options(accounting=False), compiler),
    }
    with_c = c_host_compiler()
    if with_c is not None:
        benches["c"] = Bench(code, through_host, with_c)
    replica = replica_style(code)
    runs = {name: lambda bench=bench: bench.time_run(ENTRY, message) for name, bench in benches.items()}
    best = interleaved({**runs, "replica": lambda: replica(message)}, 5 if quick else 25)
    python = Bench(code, through_host, compiler)
    few = interleaved(
        {
            "python": lambda: python.time_run(ENTRY, short),
            "native": lambda: benches["native"].time_run(ENTRY, short),
        },
        3 if quick else 7,
    )
    table.add("native, an insert", best["native"] / entries, "ns")
    if "c" in best:
        table.add(
            "host functions in C with the same accounting / native", best["c"] / best["native"], "ratio", 1.1, "higher"
        )
    table.add("Python host functions / native (500 inserts)", few["python"] / few["native"], "ratio", None, "higher")
    table.add("accounted / unaccounted", best["native"] / best["unaccounted"], "ratio", 1.10, "lower")
    table.add("the replica's style of bodies / ours", best["replica"] / best["native"], "ratio", 1.15, "higher")
    return table


if __name__ == "__main__":
    main(measure)
