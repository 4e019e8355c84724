"""One access of stable memory: natively, beside a bare load and store, and through a host function in C."""

from __future__ import annotations

import struct

import wasmtime

from engine import Bench, interleaved, module
from figures import Table, best_ns, main
from perdure.demo.c_host import c_host_compiler
from perdure.embedder import Compiler, Engine
from perdure.instrument import Options

RANDOM_LOADS = """
(module
  (memory $heap {heap_pages}) (memory $stable i64 {heap_pages} 8192000)
  (func (export "heap") (param $turns i64) (param $mask i64) (result i64)
    (local $random i64) (local $sum i64)
    (local.set $random (i64.const 0x9e3779b97f4a7c15))
    (loop $next
      {step}
      (local.set $sum (i64.add (local.get $sum)
        (i64.load $heap (i32.wrap_i64 (i64.and (local.get $random) (local.get $mask))))))
      (br_if $next (i64.ne (local.tee $turns (i64.sub (local.get $turns) (i64.const 1))) (i64.const 0))))
    (local.get $sum))
  (func (export "stable") (param $turns i64) (param $mask i64) (result i64)
    (local $random i64) (local $sum i64)
    (local.set $random (i64.const 0x9e3779b97f4a7c15))
    (loop $next
      {step}
      (local.set $sum (i64.add (local.get $sum) (i64.load $stable (i64.and (local.get $random) (local.get $mask)))))
      (br_if $next (i64.ne (local.tee $turns (i64.sub (local.get $turns) (i64.const 1))) (i64.const 0))))
    (local.get $sum)))
"""
STEP = """
      (local.set $random (i64.xor (local.get $random) (i64.shl (local.get $random) (i64.const 13))))
      (local.set $random (i64.xor (local.get $random) (i64.shr_u (local.get $random) (i64.const 7))))
      (local.set $random (i64.xor (local.get $random) (i64.shl (local.get $random) (i64.const 17))))"""


def words(*values: int) -> bytes:
    """An argument of the benchmark canister."""
    return struct.pack(f"<{len(values)}Q", *values)


def accesses(table: Table, quick: bool) -> None:
    """Loops over one hot page, metered as always."""
    turns = 1_000_000 if quick else 5_000_000
    code = module("stable_access")
    native = Bench(code, compiler=Compiler(Engine(), None))
    benches = {"native": native}
    with_c = c_host_compiler()
    if with_c is not None:
        benches["c"] = Bench(code, Options(native_stable=False), with_c)
    for bench in benches.values():
        bench.run("canister_update reserve", words(4))
        bench.run("canister_update write8", words(1, 64))
        bench.instance.commit()
    runs = {
        "bare": lambda: native.time_run("canister_update bare", words(turns)),
        "empty": lambda: native.time_run("canister_update bare", words(1)),
    }
    for name, bench in benches.items():
        for method in ("read8", "write8"):
            runs[f"{name} {method}"] = lambda bench=bench, method=method: bench.time_run(
                f"canister_update {method}", words(turns, 64)
            )
    best = interleaved(runs, 5 if quick else 15)
    ns = {name: (elapsed - best["empty"]) / turns for name, elapsed in best.items()}
    table.add("a bare load and store, loop included", ns["bare"], "ns")
    table.add("an 8-byte read, hot page", ns["native read8"], "ns")
    table.add("an 8-byte write, hot page", ns["native write8"], "ns")
    table.add("an 8-byte read / a bare load and store", ns["native read8"] / ns["bare"], "ratio", 1.6)
    table.add("an 8-byte write / a bare load and store", ns["native write8"] / ns["bare"], "ratio", 1.7)
    if "c read8" in ns:
        table.add(
            "host function in C with the same accounting / native, read",
            ns["c read8"] / ns["native read8"],
            "ratio",
            3,
            "higher",
        )
        table.add(
            "host function in C with the same accounting / native, write",
            ns["c write8"] / ns["native write8"],
            "ratio",
            None,
            "higher",
        )


def random_loads(table: Table, quick: bool) -> None:
    """A 64-bit memory read by the code's own loads, beside a 32-bit one: what the seeds' second footnote is about."""
    turns, size_bytes = (1_000_000 if quick else 5_000_000), 1 << 30
    config = wasmtime.Config()
    config.wasm_multi_memory = config.wasm_memory64 = True
    engine = wasmtime.Engine(config)
    text = RANDOM_LOADS.format(heap_pages=size_bytes >> 16, step=STEP)
    store = wasmtime.Store(engine)
    exports = wasmtime.Instance(store, wasmtime.Module(engine, wasmtime.wat2wasm(text)), []).exports(store)
    mask = size_bytes - 8
    best = {}
    for _ in range(2 if quick else 4):  # the first turn maps the pages
        for name in ("heap", "stable"):
            elapsed = best_ns(lambda name=name: exports[name](store, turns, mask), 1)  # type: ignore[operator]
            best[name] = min(best.get(name, elapsed), elapsed)
    table.add("random u64 loads over 1 GiB: 32-bit heap", best["heap"] / turns, "ns")
    table.add("random u64 loads over 1 GiB: 64-bit stable memory / 32-bit heap", best["stable"] / best["heap"], "ratio")


def measure(quick: bool) -> Table:
    """Nanoseconds of one access and ratios, each the least of several runs taken in turns."""
    table = Table("stable_access")
    accesses(table, quick)
    random_loads(table, quick)
    return table


if __name__ == "__main__":
    main(measure)
