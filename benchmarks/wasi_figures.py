"""Replacing WASI: how fast the pass is, and what installing a Go program costs beside Wasmtime's compilation of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import wasmtime

from figures import Table, main
from instrument_speed import MODULES, megabytes_a_second
from perdure import Subnet
from perdure.embedder import Compiler
from perdure.embedder.engine import Engine
from perdure.instrument import replace_wasi, wasm_without_wasi
from perdure.wasm import decode, inflate

PROGRAMS = ("wasi_go", "wasi_sqlite")


def program(name: str) -> bytes:
    """A committed module that imports WASI."""
    return inflate((MODULES.parent / "modules_wasi" / f"{name}.wasm.gz").read_bytes())


def seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def processor_seconds() -> float:
    """Of this process and of those that it waited for: large modules are compiled in one of their own."""
    return sum(os.times()[:4])


def measure(quick: bool) -> Table:
    """The pass alone and with reading and writing; a cold installation against compiling the module as it is."""
    table = Table("wasi_figures")
    repeat = 3 if quick else 9
    for name in PROGRAMS:
        wasm = program(name)
        module = decode(wasm)
        for what, run, target in (
            ("the pass", lambda module=module: replace_wasi(module), 4),
            ("the pass, reading and writing included", lambda wasm=wasm: wasm_without_wasi(wasm), None),
        ):
            speed = megabytes_a_second(run, len(wasm), repeat)
            table.add(f"{name}: {what}", speed, "MB/s", target, better="higher")
    wasm = program("wasi_go")
    engine = Engine()
    # As it comes: with perdure's settings it takes 40,000 data segments of a module four times as long.
    bare = wasmtime.Engine()

    def install() -> None:
        with Subnet(compiler=Compiler(engine, None)) as subnet:
            subnet.install(wasm, wasi=True)

    for what, clock, target in (("", time.perf_counter, 1.6), (", processor time", processor_seconds, None)):
        pairs = [
            (seconds(install, clock), seconds(lambda: wasmtime.Module(bare, wasm), clock))
            for _ in range(1 if quick else 5)
        ]
        ratio = median(installing / compiling for installing, compiling in pairs)
        table.add(f"wasi_go: cold installation / Wasmtime's compilation{what}", ratio, "ratio", target)
        table.add(f"wasi_go: cold installation{what}", median(pair[0] for pair in pairs) * 1e3, "ms")
    return table


if __name__ == "__main__":
    main(measure)
